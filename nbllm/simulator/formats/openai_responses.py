"""OpenAI Responses: items that open and close, every event with its sequence number."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from ..faults import MESSAGE
from ..plan import Ask, Block, Out, Piece, Reply
from ..records import Kind
from . import Refused, Request, encode, pictures, said, whole_number
from . import openai_chat as chat

NAME = "openai_responses"
ID = "resp_"
PING = b": ping\n\n"
headers, media, error = chat.headers, chat.media, chat.error


def ask(request: Request) -> Ask:
    """What the request asks."""
    body = request.json()
    given = body.get("input")
    if not isinstance(body.get("model"), str):
        raise Refused(400, "Missing required parameter: 'model'.")
    if not given or not isinstance(given, (str, list)):
        raise Refused(400, "Missing required parameter: 'input'.")
    items = [{"role": "user", "content": given}] if isinstance(given, str) else given
    system = (("system", str(body["instructions"])),) if body.get("instructions") else ()
    thinking = body.get("reasoning")
    return Ask(
        model=body["model"], turns=system + tuple(map(_turn, items)), stream=bool(body.get("stream")), tools=chat.functions(body.get("tools")),
        choice=chat.choice(body.get("tool_choice")), schema=chat.wanted((body.get("text") or {}).get("format")),
        thinking=thinking.get("effort") != "none" if thinking else None, max_tokens=whole_number(body.get("max_output_tokens")),
        images=pictures(items), extra={"body": body})


def _turn(item: Mapping[str, Any]) -> tuple[str, str]:
    match item.get("type", "message"):
        case "message":
            return {"developer": "system"}.get(str(item.get("role")), str(item.get("role"))), said(item.get("content"))
        case "function_call":
            return "assistant", f"{item.get('name')} {item.get('arguments')}"
        case "function_call_output":
            return "tool", said(item.get("output"))
        case _:
            return "assistant", ""


@dataclass(slots=True)
class _Writer:
    """Numbers the events and knows each block's item."""

    reply: Reply
    number: int = 0
    closed: list[Any] = field(default_factory=list)

    def event(self, name: str, at: float, kind: Kind = "block", *, more: bool = False, text: str = "", n: int = 0, **fields: Any) -> Out:
        data = b"event: " + name.encode() + b"\ndata: " + encode({"type": name, **fields, "sequence_number": self.number}) + b"\n\n"
        self.number += 1
        return Out(kind, data, at, more, text, n)

    def item(self, index: int, status: str) -> dict[str, Any]:
        """The item of a block, empty while it is in progress."""
        return _item(self.reply, self.reply.blocks[index], index, status)

    def opened(self, index: int, at: float, more: bool) -> Iterator[Out]:
        """The events that open a block's item; the last of them may stand alone in its write."""
        item, part = self.item(index, "in_progress"), _PARTS.get(self.reply.blocks[index].kind)
        yield self.event("response.output_item.added", at, more=bool(part) or more, output_index=index, item=item)
        if part:
            yield self.event(part.added, at, more=more, item_id=item["id"], output_index=index, part=part.of(""), **part.index)

    def delta(self, piece: Piece, block: Block) -> Out:
        item_id, said = _item_id(self.reply, block, piece.block), piece.text
        if block.kind == "tool":
            said = said[len(block.name):] if piece.first else said
            return self.event("response.function_call_arguments.delta", piece.at, "tool", more=piece.more, text=piece.text, n=piece.n_tokens,
                              item_id=item_id, output_index=piece.block, delta=said)
        part = _PARTS[block.kind]
        return self.event(part.delta, piece.at, block.kind, more=piece.more, text=said, n=piece.n_tokens, item_id=item_id,
                          output_index=piece.block, delta=said, **part.index, **part.extra)

    def done(self, index: int, at: float, more: bool) -> Iterator[Out]:
        """The events that close a block's item."""
        block, item = self.reply.blocks[index], self.item(index, "completed")
        part, where = _PARTS.get(block.kind), {"item_id": item["id"], "output_index": index}
        if part:
            yield self.event(part.done, at, more=True, **where, text=block.text, **part.index, **part.extra)  # type: ignore[arg-type]
            yield self.event(part.closed, at, more=True, **where, part=part.of(block.text), **part.index)  # type: ignore[arg-type]
        else:
            yield self.event("response.function_call_arguments.done", at, more=True, **where, name=block.name, arguments=block.text)
        self.closed.append(item)
        yield self.event("response.output_item.done", at, more=more, output_index=index, item=item)
