"""Anthropic Messages: blocks that start and stop, named events, pings."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from ..faults import MESSAGE
from ..normalized_request import HistoryEntry, NormalizedRequest, Tool, call_entry, result_entry, turns_of
from ..plan import Block, Reply, ScheduledChunk, WireEvent
from . import (
    ApiError,
    HttpRequest,
    as_tuple,
    content_text,
    count_images,
    in_one_write,
    parse_arguments,
    positive_int,
    sse_event,
)

NAME = "anthropic"
ID = "msg_"
PING = b'event: ping\ndata: {"type": "ping"}\n\n'
_STOP = {"stop": "end_turn", "length": "max_tokens", "tool_calls": "tool_use"}
_SIGNATURE = "c2ltdWxhdGVkLXNpZ25hdHVyZQ=="

# By status or `reason`: (type, message)
ERRORS: dict[int | str, tuple[str, str]] = {
    400: ("invalid_request_error", "The request is not valid."),
    401: ("authentication_error", "invalid x-api-key"),
    403: ("permission_error", "Your API key does not have permission to use the specified resource."),
    404: ("not_found_error", "The requested resource could not be found."),
    413: ("request_too_large", "Request exceeds the maximum allowed number of bytes."),
    429: (
        "rate_limit_error",
        "This request would exceed your organization's rate limit of 50 requests per minute.",
    ),
    500: ("api_error", "Internal server error"),
    529: ("overloaded_error", "Overloaded"),
    "quota": (
        "invalid_request_error",
        "Your credit balance is too low to access the Anthropic API. Please go to Plans & Billing to "
        "upgrade or purchase credits.",
    ),
    "context": ("invalid_request_error", "prompt is too long: 200021 tokens > 200000 maximum"),
}


def parse_request(request: HttpRequest) -> NormalizedRequest:
    """Parses a request. For count_tokens, max_tokens is optional."""
    body = request.json()
    if "anthropic-version" not in request.headers:
        raise ApiError(400, "anthropic-version: header is required")
    for name in (
        ("model", "messages")
        if request.path.endswith("/count_tokens")
        else ("model", "max_tokens", "messages")
    ):
        if not body.get(name):
            raise ApiError(400, f"{name}: Field required")
    thinking = body.get("thinking")
    history = tuple(e for at, m in enumerate(body["messages"]) for e in _entries(at, m))
    return NormalizedRequest(
        model=str(body["model"]),
        turns=turns_of(history, content_text(body.get("system"))),
        history=history,
        stream=bool(body.get("stream")),
        tools=tuple(
            Tool(str(t["name"]), t["input_schema"])
            for t in as_tuple(body.get("tools"))
            if "input_schema" in t
        ),
        tool_choice=_choice(body.get("tool_choice") or {}),
        schema=_schema(body),
        thinking=thinking.get("type") != "disabled" if thinking else None,
        max_tokens=positive_int(body.get("max_tokens")),
        stop=as_tuple(body.get("stop_sequences")),
        image_count=count_images(body["messages"]),
    )


def _entries(at: int, message: Mapping[str, Any]) -> Iterator[HistoryEntry]:
    content, role = message.get("content"), str(message.get("role"))
    parts: list[Any] = content if isinstance(content, list) else [content]
    for part in parts:
        kind = part.get("type") if isinstance(part, Mapping) else ""
        if kind == "tool_use":
            name, input = part.get("name"), part.get("input")
            yield call_entry(at, part.get("id"), name, input, f"{name} {input}")
        elif kind == "tool_result":
            yield result_entry(at, part.get("tool_use_id"), "", content_text(part.get("content")))
        else:
            yield HistoryEntry("other", at, role, text=content_text(part))


def _choice(value: Mapping[str, Any]) -> str:
    kind = str(value.get("type", "auto"))
    return str(value.get("name")) if kind == "tool" else {"any": "required"}.get(kind, kind)


def _schema(body: Mapping[str, Any]) -> Mapping[str, Any] | None:
    form = (body.get("output_config") or {}).get("format") or body.get("output_format")
    found: Mapping[str, Any] | None = form.get("schema") if form else None
    return found


def content_type(request: NormalizedRequest) -> str:
    """Server-sent events."""
    return "text/event-stream; charset=utf-8"


def headers(id: str, seconds: float) -> Mapping[str, str]:
    """The request's id, under Anthropic's header name."""
    return {"request-id": f"req_{id.removeprefix(ID)}"}


def _message(reply: Reply, content: list[Any], stop: str | None, usage: Any) -> dict[str, Any]:
    message = {
        "model": reply.request.model,
        "id": reply.id,
        "type": "message",
        "role": "assistant",
        "content": content,
        "stop_reason": stop,
        "stop_sequence": None,
    }
    return {**message, "usage": usage} if reply.options.usage else message


def _usage(reply: Reply, output: int) -> dict[str, Any]:
    """Cached input is not part of Anthropic's input_tokens."""
    thinking = (
        {"output_tokens_details": {"thinking_tokens": reply.reasoning_tokens}}
        if reply.reasoning_tokens and output == reply.output_tokens
        else {}
    )
    return {
        "input_tokens": reply.input_tokens - reply.cached_tokens,
        "cache_creation_input_tokens": 0,
        "cache_read_input_tokens": reply.cached_tokens,
        "output_tokens": output,
        **thinking,
        "service_tier": "standard",
    }


def _event(name: str, at: float, **fields: Any) -> WireEvent:
    return WireEvent("block", sse_event({"type": name, **fields}, name), at)


def _started(reply: Reply, index: int, at: float) -> list[WireEvent]:
    """The event that starts a block. The block of a tool call starts with its name, which is a token."""
    empty = {
        "content": {"type": "text", "text": ""},
        "reasoning": {"type": "thinking", "thinking": "", "signature": ""},
    }
    block = empty.get(reply.blocks[index].kind) if index < len(reply.blocks) else None
    return [_event("content_block_start", at, index=index, content_block=block)] if block else []


def _stopped(block: Block, index: int, at: float) -> list[WireEvent]:
    sign = {"type": "signature_delta", "signature": _SIGNATURE}
    signed = [_event("content_block_delta", at, index=index, delta=sign)] if block.kind == "reasoning" else []
    return [*signed, _event("content_block_stop", at, index=index)]


_DELTAS = {
    "content": ("text_delta", "text"),
    "reasoning": ("thinking_delta", "thinking"),
    "tool": ("input_json_delta", "partial_json"),
}


def _delta(chunk: ScheduledChunk, block: Block) -> list[WireEvent]:
    text = chunk.text[len(block.name) :] if chunk.first and block.kind == "tool" else chunk.text
    kind, name = _DELTAS[block.kind]
    delta = sse_event(
        {"type": "content_block_delta", "index": chunk.block, "delta": {"type": kind, name: text}},
        "content_block_delta",
    )
    if block.kind != "tool" or not chunk.first:
        return [WireEvent(block.kind, delta, chunk.at, False, chunk.text, chunk.n_tokens)]
    use = {**_use(block), "input": {}}
    start = sse_event(
        {"type": "content_block_start", "index": chunk.block, "content_block": use}, "content_block_start"
    )
    return [
        WireEvent("tool", start, chunk.at, False, chunk.text, chunk.n_tokens),
        WireEvent("block", delta, chunk.at),
    ]


def stream(reply: Reply) -> Iterator[WireEvent]:
    """message_start, blocks, message_delta with the usage, message_stop. The start of the next block is sent
    with the last token of the block before it, so that every other delta has its own write."""
    at = reply.preamble_at
    start = WireEvent(
        "role",
        sse_event(
            {"type": "message_start", "message": _message(reply, [], None, _usage(reply, 1))}, "message_start"
        ),
        at,
    )
    yield from in_one_write([start, *_started(reply, 0, at), WireEvent("ping", PING, at)])
    at = reply.start_at
    for chunk in reply.schedule():
        block, at = reply.blocks[chunk.block], chunk.at
        yield from in_one_write(_delta(chunk, block), chunk.more)
        if chunk.last:
            yield from in_one_write(
                [*_stopped(block, chunk.block, at), *_started(reply, chunk.block + 1, at)], chunk.more
            )
    at = reply.end_at(at)
    delta: dict[str, Any] = {
        "type": "message_delta",
        "delta": {"stop_reason": _STOP.get(reply.finish, reply.finish), "stop_sequence": None},
    }
    delta |= {"usage": _usage(reply, reply.output_tokens)} if reply.options.usage else {}
    yield from in_one_write(
        [
            WireEvent("finish", sse_event(delta, "message_delta"), at),
            WireEvent("done", sse_event({"type": "message_stop"}, "message_stop"), at),
        ]
    )


def full_body(reply: Reply) -> Mapping[str, Any]:
    """A message. (routes.py answers count_tokens.)"""
    make = {
        "content": lambda b: {"type": "text", "text": b.text},
        "reasoning": lambda b: {"type": "thinking", "thinking": b.text, "signature": _SIGNATURE},
        "tool": _use,
    }
    content = [make[b.kind](b) for b in reply.blocks]
    return _message(reply, content, _STOP.get(reply.finish, reply.finish), _usage(reply, reply.output_tokens))


def _use(block: Block) -> dict[str, Any]:
    return {
        "type": "tool_use",
        "id": f"toolu_{block.call_id.removeprefix('call_')}",
        "name": block.name,
        "input": parse_arguments(block.text),
    }


def error_events(reply: Reply, at: float, sent: int) -> Iterator[WireEvent]:
    """An error event, after which Anthropic sends nothing more."""
    yield WireEvent("error", sse_event(error_body(ApiError(529, MESSAGE), ""), "error"), at)


def error_body(error: ApiError, request_id: str) -> Any:
    """{"type": "error", ...}"""
    kind, message = (
        ERRORS.get(error.reason) or ERRORS.get(error.status) or ERRORS[400 if error.status < 500 else 500]
    )
    body = {"type": "error", "error": {"type": kind, "message": error.message or message}}
    return {**body, "request_id": f"req_{request_id.removeprefix(ID)}"} if request_id else body
