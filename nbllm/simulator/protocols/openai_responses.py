"""OpenAI Responses: items that open and close, every event with its sequence number."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from ..faults import MESSAGE
from ..normalized_request import Ask, Entry, call, result, turns
from ..plan import Block, Out, Piece, Reply
from . import Refused, Request, joined, listed, pictures, said, sse, whole_number
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
    thinking = body.get("reasoning")
    told = tuple(_entry(i, item) for i, item in enumerate(items))
    return Ask(
        model=body["model"],
        turns=turns(told, str(body.get("instructions") or "")),
        history=told,
        stream=bool(body.get("stream")),
        tools=chat.functions(body.get("tools")),
        choice=chat.choice(body.get("tool_choice")),
        schema=chat.wanted((body.get("text") or {}).get("format")),
        thinking=thinking.get("effort") != "none" if thinking else None,
        max_tokens=whole_number(body.get("max_output_tokens")),
        images=pictures(items),
        extra={"body": body},
    )


def _entry(at: int, item: Mapping[str, Any]) -> Entry:
    match item.get("type", "message"):
        case "function_call":
            name, given = item.get("name"), item.get("arguments")
            return call(at, item.get("call_id"), name, given, f"{name} {given}")
        case "function_call_output":
            return result(at, item.get("call_id"), "", said(item.get("output")))
        case "message":
            return Entry("other", at, chat.role(item), text=said(item.get("content")))
        case _:
            return Entry("other", at, "assistant")


@dataclass(frozen=True, slots=True)
class _Part:
    """The names of the events of a part, its place in its item and its shape."""

    added: str
    delta: str
    done: str
    closed: str
    index: Mapping[str, int]
    extra: Mapping[str, Any]
    of: Callable[[str], dict[str, Any]]


_PARTS = {
    "content": _Part(
        "response.content_part.added",
        "response.output_text.delta",
        "response.output_text.done",
        "response.content_part.done",
        {"content_index": 0},
        {"logprobs": []},
        lambda text: {"type": "output_text", "annotations": [], "logprobs": [], "text": text},
    ),
    "reasoning": _Part(
        "response.reasoning_summary_part.added",
        "response.reasoning_summary_text.delta",
        "response.reasoning_summary_text.done",
        "response.reasoning_summary_part.done",
        {"summary_index": 0},
        {},
        lambda text: {"type": "summary_text", "text": text},
    ),
}


@dataclass(slots=True)
class _Writer:
    """Numbers the events."""

    reply: Reply
    items: list[Any] = field(default_factory=list)
    number: int = 0

    def event(self, type: str, at: float, /, **fields: Any) -> Out:
        data = sse({"type": type, **fields, "sequence_number": self.number}, type)
        self.number += 1
        return Out("block", data, at)

    def opened(self, index: int, at: float) -> list[Out]:
        """The events that open a block's item; a call's item is opened by its name, which is a token."""
        block = self.reply.blocks[index]
        item, part = _item(self.reply, index, "in_progress"), _PARTS.get(block.kind)
        if part is None:
            return []
        return [
            self.event("response.output_item.added", at, output_index=index, item=item),
            self.event(
                part.added, at, item_id=item["id"], output_index=index, part=part.of(""), **part.index
            ),
        ]

    def delta(self, piece: Piece, block: Block) -> list[Out]:
        """A piece's events; the first of them bears its tokens."""
        where: dict[str, Any] = {"item_id": _item_id(self.reply, piece.block), "output_index": piece.block}
        part, type, rest, at = (
            _PARTS.get(block.kind),
            "response.function_call_arguments.delta",
            piece.text,
            piece.at,
        )
        outs = []
        if part:
            outs = [self.event(part.delta, at, **where, delta=rest, **part.index, **part.extra)]
        else:
            if piece.first:
                item, rest = _item(self.reply, piece.block, "in_progress"), rest[len(block.name) :]
                outs = [self.event("response.output_item.added", at, output_index=piece.block, item=item)]
            outs += [self.event(type, at, **where, delta=rest)] if rest else []
        return [outs[0]._replace(kind=block.kind, text=piece.text, n_tokens=piece.n_tokens), *outs[1:]]

    def done(self, index: int, at: float) -> list[Out]:
        """The events that close a block's item."""
        block, item = self.reply.blocks[index], _item(self.reply, index, "completed")
        where: dict[str, Any] = {"item_id": item["id"], "output_index": index}
        part = _PARTS.get(block.kind)
        self.items.append(item)
        if part is None:
            outs = [
                self.event(
                    "response.function_call_arguments.done",
                    at,
                    **where,
                    name=block.name,
                    arguments=block.text,
                )
            ]
        else:
            outs = [
                self.event(part.done, at, **where, text=block.text, **part.index, **part.extra),
                self.event(part.closed, at, **where, part=part.of(block.text), **part.index),
            ]
        return [*outs, self.event("response.output_item.done", at, output_index=index, item=item)]


def _item_id(reply: Reply, index: int) -> str:
    prefix = {"content": "msg", "reasoning": "rs", "tool": "fc"}[reply.blocks[index].kind]
    return f"{prefix}_{reply.id.removeprefix(ID)}{index}"


def _item(reply: Reply, index: int, status: str) -> dict[str, Any]:
    """A block as an output item, empty while it is in progress."""
    block, id, full = reply.blocks[index], _item_id(reply, index), status != "in_progress"
    if block.kind == "tool":
        return {
            "id": id,
            "type": "function_call",
            "status": status,
            "arguments": block.text if full else "",
            "call_id": block.call_id,
            "name": block.name,
        }
    parts = [_PARTS[block.kind].of(block.text)] if full else []
    if block.kind == "content":
        return {"id": id, "type": "message", "status": status, "content": parts, "role": "assistant"}
    wanted = "reasoning.encrypted_content" in listed((reply.ask.extra.get("body") or {}).get("include"))
    return {
        "id": id,
        "type": "reasoning",
        "summary": parts,
        **({"encrypted_content": "c2ltdWxhdGVk"} if wanted else {}),
    }


def _pictures(reply: Reply) -> list[dict[str, Any]]:
    return [
        {
            "id": f"ig_{reply.id.removeprefix(ID)}{i}",
            "type": "image_generation_call",
            "status": "completed",
            "output_format": "png",
            "result": data,
        }
        for i, data in enumerate(reply.pictures)
    ]


# What a response repeats of its request, and what it says where the request said nothing.
_ECHOED: dict[str, Any] = {
    "instructions": None,
    "max_output_tokens": None,
    "max_tool_calls": None,
    "metadata": {},
    "parallel_tool_calls": True,
    "previous_response_id": None,
    "reasoning": {"effort": None, "summary": None},
    "store": False,
    "temperature": 1.0,
    "text": {"format": {"type": "text"}, "verbosity": "medium"},
    "tool_choice": "auto",
    "tools": [],
    "top_logprobs": 0,
    "top_p": 1.0,
    "truncation": "disabled",
    "user": None,
}


def _response(reply: Reply, status: str, items: list[Any], error: Any = None) -> dict[str, Any]:
    asked = reply.ask.extra.get("body") or {}
    over = status in ("completed", "incomplete")
    why = {"reason": "max_output_tokens"} if status == "incomplete" else None
    return {
        "id": reply.id,
        "object": "response",
        "created_at": int(reply.created),
        "status": status,
        "background": False,
        "error": error,
        "incomplete_details": why,
        "model": reply.ask.model,
        "output": items,
        "service_tier": "default",
        **{k: v if asked.get(k) is None else asked[k] for k, v in _ECHOED.items()},
        "usage": _usage(reply) if over and reply.options.usage else None,
    }


def _usage(reply: Reply) -> dict[str, Any]:
    return {
        "input_tokens": reply.input,
        "input_tokens_details": {"cached_tokens": reply.cached},
        "output_tokens": reply.output,
        "output_tokens_details": {"reasoning_tokens": reply.reasoning},
        "total_tokens": reply.input + reply.output,
    }


def _status(reply: Reply) -> str:
    return "incomplete" if reply.finish == "length" else "completed"


def stream(reply: Reply) -> Iterator[Out]:
    """created, in_progress, each item from added to done, completed. What opens the next item follows the
    last token of the one before it, so that every delta stands alone in its write."""
    w, at = _Writer(reply), reply.start
    names = ("response.created", "response.in_progress")
    began = [
        w.event(name, reply.preamble, response=_response(reply, "in_progress", []))._replace(kind="role")
        for name in names
    ]
    yield from joined(began + (w.opened(0, reply.preamble) if reply.blocks else []))
    for piece in reply.pieces():
        at = piece.at
        yield from joined(w.delta(piece, reply.blocks[piece.block]), piece.more)
        if piece.last:
            after = piece.block + 1
            yield from joined(
                w.done(piece.block, at) + (w.opened(after, at) if after < len(reply.blocks) else []),
                piece.more,
            )
    for item in _pictures(reply):
        w.items.append(item)
        yield w.event("response.output_item.done", at, output_index=len(w.items) - 1, item=item)
    over = _response(reply, _status(reply), w.items)
    yield w.event(f"response.{_status(reply)}", reply.end(at), response=over)._replace(kind="done")


def whole(reply: Reply) -> Mapping[str, Any]:
    """A response object."""
    return _response(
        reply,
        _status(reply),
        [*(_item(reply, i, "completed") for i in range(len(reply.blocks))), *_pictures(reply)],
    )


def broken(reply: Reply, at: float, sent: int) -> Iterator[Out]:
    """An error event and a failed response."""
    w = _Writer(reply, number=sent)
    failed = {"code": "server_error", "message": MESSAGE}
    outs = [
        w.event("error", at, **failed, param=None),
        w.event("response.failed", at, response=_response(reply, "failed", [], failed)),
    ]
    yield from joined([out._replace(kind="error") for out in outs])
