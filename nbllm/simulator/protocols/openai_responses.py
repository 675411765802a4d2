"""OpenAI Responses: items that open and close, every event with its sequence number."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from ..faults import MESSAGE
from ..normalized_request import HistoryEntry, NormalizedRequest, call_entry, result_entry, turns_of
from ..plan import Block, Reply, ScheduledChunk, WireEvent
from . import (
    ApiError,
    HttpRequest,
    as_tuple,
    content_text,
    count_images,
    in_one_write,
    positive_int,
    sse_event,
)
from . import openai_chat as chat

NAME = "openai_responses"
ID = "resp_"
PING = b": ping\n\n"
headers, content_type, error_body = chat.headers, chat.content_type, chat.error_body


def parse_request(request: HttpRequest) -> NormalizedRequest:
    """Parses a request."""
    body = request.json()
    input = body.get("input")
    if not isinstance(body.get("model"), str):
        raise ApiError(400, "Missing required parameter: 'model'.")
    if not input or not isinstance(input, (str, list)):
        raise ApiError(400, "Missing required parameter: 'input'.")
    items = [{"role": "user", "content": input}] if isinstance(input, str) else input
    thinking = body.get("reasoning")
    history = tuple(_entry(i, item) for i, item in enumerate(items))
    return NormalizedRequest(
        model=body["model"],
        turns=turns_of(history, str(body.get("instructions") or "")),
        history=history,
        stream=bool(body.get("stream")),
        tools=chat.functions(body.get("tools")),
        tool_choice=chat.choice(body.get("tool_choice")),
        schema=chat.schema_of((body.get("text") or {}).get("format")),
        thinking=thinking.get("effort") != "none" if thinking else None,
        max_tokens=positive_int(body.get("max_output_tokens")),
        image_count=count_images(items),
        extra={"body": body},
    )


def _entry(at: int, item: Mapping[str, Any]) -> HistoryEntry:
    match item.get("type", "message"):
        case "function_call":
            name, input = item.get("name"), item.get("arguments")
            return call_entry(at, item.get("call_id"), name, input, f"{name} {input}")
        case "function_call_output":
            return result_entry(at, item.get("call_id"), "", content_text(item.get("output")))
        case "message":
            return HistoryEntry("other", at, chat.role(item), text=content_text(item.get("content")))
        case _:
            return HistoryEntry("other", at, "assistant")


@dataclass(frozen=True, slots=True)
class _Part:
    """A kind of content part: the names of its events, its index in the item and its JSON."""

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
    """Makes the events with their sequence numbers."""

    reply: Reply
    items: list[Any] = field(default_factory=list)
    number: int = 0

    def event(self, type: str, at: float, /, **fields: Any) -> WireEvent:
        data = sse_event({"type": type, **fields, "sequence_number": self.number}, type)
        self.number += 1
        return WireEvent("block", data, at)

    def start_item(self, index: int, at: float) -> list[WireEvent]:
        """The events that start a block's item. The item of a tool call starts with its name, which is a
        token."""
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

    def delta(self, chunk: ScheduledChunk, block: Block) -> list[WireEvent]:
        """The events of a chunk; the first one has its tokens."""
        where: dict[str, Any] = {"item_id": _item_id(self.reply, chunk.block), "output_index": chunk.block}
        part, type, rest, at = (
            _PARTS.get(block.kind),
            "response.function_call_arguments.delta",
            chunk.text,
            chunk.at,
        )
        events = []
        if part:
            events = [self.event(part.delta, at, **where, delta=rest, **part.index, **part.extra)]
        else:
            if chunk.first:
                item, rest = _item(self.reply, chunk.block, "in_progress"), rest[len(block.name) :]
                events = [self.event("response.output_item.added", at, output_index=chunk.block, item=item)]
            events += [self.event(type, at, **where, delta=rest)] if rest else []
        return [events[0]._replace(kind=block.kind, text=chunk.text, n_tokens=chunk.n_tokens), *events[1:]]

    def end_item(self, index: int, at: float) -> list[WireEvent]:
        """The events that end a block's item."""
        block, item = self.reply.blocks[index], _item(self.reply, index, "completed")
        where: dict[str, Any] = {"item_id": item["id"], "output_index": index}
        part = _PARTS.get(block.kind)
        self.items.append(item)
        if part is None:
            events = [
                self.event(
                    "response.function_call_arguments.done",
                    at,
                    **where,
                    name=block.name,
                    arguments=block.text,
                )
            ]
        else:
            events = [
                self.event(part.done, at, **where, text=block.text, **part.index, **part.extra),
                self.event(part.closed, at, **where, part=part.of(block.text), **part.index),
            ]
        return [*events, self.event("response.output_item.done", at, output_index=index, item=item)]


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
    wanted = "reasoning.encrypted_content" in as_tuple((reply.request.extra.get("body") or {}).get("include"))
    return {
        "id": id,
        "type": "reasoning",
        "summary": parts,
        **({"encrypted_content": "c2ltdWxhdGVk"} if wanted else {}),
    }


def _image_items(reply: Reply) -> list[dict[str, Any]]:
    return [
        {
            "id": f"ig_{reply.id.removeprefix(ID)}{i}",
            "type": "image_generation_call",
            "status": "completed",
            "output_format": "png",
            "result": data,
        }
        for i, data in enumerate(reply.images)
    ]


# The fields that a response repeats from its request, with their defaults.
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
    request_body = reply.request.extra.get("body") or {}
    has_ended = status in ("completed", "incomplete")
    details = {"reason": "max_output_tokens"} if status == "incomplete" else None
    return {
        "id": reply.id,
        "object": "response",
        "created_at": int(reply.created),
        "status": status,
        "background": False,
        "error": error,
        "incomplete_details": details,
        "model": reply.request.model,
        "output": items,
        "service_tier": "default",
        **{k: v if request_body.get(k) is None else request_body[k] for k, v in _ECHOED.items()},
        "usage": _usage(reply) if has_ended and reply.options.usage else None,
    }


def _usage(reply: Reply) -> dict[str, Any]:
    return {
        "input_tokens": reply.input_tokens,
        "input_tokens_details": {"cached_tokens": reply.cached_tokens},
        "output_tokens": reply.output_tokens,
        "output_tokens_details": {"reasoning_tokens": reply.reasoning_tokens},
        "total_tokens": reply.input_tokens + reply.output_tokens,
    }


def _status(reply: Reply) -> str:
    return "incomplete" if reply.finish == "length" else "completed"


def stream(reply: Reply) -> Iterator[WireEvent]:
    """created, in_progress, each item from added to done, completed. The start of the next item is sent with
    the last token of the item before it, so that every other delta has its own write."""
    w, at = _Writer(reply), reply.start_at
    names = ("response.created", "response.in_progress")
    first_events = [
        w.event(name, reply.preamble_at, response=_response(reply, "in_progress", []))._replace(kind="role")
        for name in names
    ]
    yield from in_one_write(first_events + (w.start_item(0, reply.preamble_at) if reply.blocks else []))
    for chunk in reply.schedule():
        at = chunk.at
        yield from in_one_write(w.delta(chunk, reply.blocks[chunk.block]), chunk.more)
        if chunk.last:
            after = chunk.block + 1
            yield from in_one_write(
                w.end_item(chunk.block, at) + (w.start_item(after, at) if after < len(reply.blocks) else []),
                chunk.more,
            )
    for item in _image_items(reply):
        w.items.append(item)
        yield w.event("response.output_item.done", at, output_index=len(w.items) - 1, item=item)
    has_ended = _response(reply, _status(reply), w.items)
    yield w.event(f"response.{_status(reply)}", reply.end_at(at), response=has_ended)._replace(kind="done")


def full_body(reply: Reply) -> Mapping[str, Any]:
    """A response object."""
    return _response(
        reply,
        _status(reply),
        [*(_item(reply, i, "completed") for i in range(len(reply.blocks))), *_image_items(reply)],
    )


def error_events(reply: Reply, at: float, sent: int) -> Iterator[WireEvent]:
    """An error event and a failed response."""
    w = _Writer(reply, number=sent)
    failed = {"code": "server_error", "message": MESSAGE}
    events = [
        w.event("error", at, **failed, param=None),
        w.event("response.failed", at, response=_response(reply, "failed", [], failed)),
    ]
    yield from in_one_write([out._replace(kind="error") for out in events])
