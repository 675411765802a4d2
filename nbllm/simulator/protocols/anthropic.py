"""Anthropic Messages: blocks that start and stop, named events, pings."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from ..faults import MESSAGE
from ..normalized_request import Ask, Entry, Tool, call, result, turns
from ..plan import Block, Out, Piece, Reply
from . import Refused, Request, arguments, joined, listed, pictures, said, sse, whole_number

NAME = "anthropic"
ID = "msg_"
PING = b'event: ping\ndata: {"type": "ping"}\n\n'
_STOP = {"stop": "end_turn", "length": "max_tokens", "tool_calls": "tool_use"}
_SIGNATURE = "c2ltdWxhdGVkLXNpZ25hdHVyZQ=="

# status or `why`: (type, message)
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


def ask(request: Request) -> Ask:
    """What the request asks. count_tokens needs no max_tokens."""
    body = request.json()
    if "anthropic-version" not in request.headers:
        raise Refused(400, "anthropic-version: header is required")
    for name in (
        ("model", "messages")
        if request.path.endswith("/count_tokens")
        else ("model", "max_tokens", "messages")
    ):
        if not body.get(name):
            raise Refused(400, f"{name}: Field required")
    thinking = body.get("thinking")
    told = tuple(e for at, m in enumerate(body["messages"]) for e in _entries(at, m))
    return Ask(
        model=str(body["model"]),
        turns=turns(told, said(body.get("system"))),
        history=told,
        stream=bool(body.get("stream")),
        tools=tuple(
            Tool(str(t["name"]), t["input_schema"]) for t in listed(body.get("tools")) if "input_schema" in t
        ),
        choice=_choice(body.get("tool_choice") or {}),
        schema=_schema(body),
        thinking=thinking.get("type") != "disabled" if thinking else None,
        max_tokens=whole_number(body.get("max_tokens")),
        stop=listed(body.get("stop_sequences")),
        images=pictures(body["messages"]),
    )


def _entries(at: int, message: Mapping[str, Any]) -> Iterator[Entry]:
    content, role = message.get("content"), str(message.get("role"))
    parts: list[Any] = content if isinstance(content, list) else [content]
    for part in parts:
        kind = part.get("type") if isinstance(part, Mapping) else ""
        if kind == "tool_use":
            name, given = part.get("name"), part.get("input")
            yield call(at, part.get("id"), name, given, f"{name} {given}")
        elif kind == "tool_result":
            yield result(at, part.get("tool_use_id"), "", said(part.get("content")))
        else:
            yield Entry("other", at, role, text=said(part))


def _choice(value: Mapping[str, Any]) -> str:
    kind = str(value.get("type", "auto"))
    return str(value.get("name")) if kind == "tool" else {"any": "required"}.get(kind, kind)


def _schema(body: Mapping[str, Any]) -> Mapping[str, Any] | None:
    form = (body.get("output_config") or {}).get("format") or body.get("output_format")
    found: Mapping[str, Any] | None = form.get("schema") if form else None
    return found


def media(ask: Ask) -> str:
    """Server-sent events."""
    return "text/event-stream; charset=utf-8"


def headers(id: str, seconds: float) -> Mapping[str, str]:
    """The id of the request under Anthropic's name."""
    return {"request-id": f"req_{id.removeprefix(ID)}"}


def _message(reply: Reply, content: list[Any], stop: str | None, usage: Any) -> dict[str, Any]:
    message = {
        "model": reply.ask.model,
        "id": reply.id,
        "type": "message",
        "role": "assistant",
        "content": content,
        "stop_reason": stop,
        "stop_sequence": None,
    }
    return {**message, "usage": usage} if reply.options.usage else message


def _usage(reply: Reply, output: int) -> dict[str, Any]:
    """Anthropic counts cached input apart."""
    thinking = (
        {"output_tokens_details": {"thinking_tokens": reply.reasoning}}
        if reply.reasoning and output == reply.output
        else {}
    )
    return {
        "input_tokens": reply.input - reply.cached,
        "cache_creation_input_tokens": 0,
        "cache_read_input_tokens": reply.cached,
        "output_tokens": output,
        **thinking,
        "service_tier": "standard",
    }


def _event(name: str, at: float, **fields: Any) -> Out:
    return Out("block", sse({"type": name, **fields}, name), at)


def _started(reply: Reply, index: int, at: float) -> list[Out]:
    """The event that starts a block; a call's block is started by its name, which is a token."""
    empty = {
        "content": {"type": "text", "text": ""},
        "reasoning": {"type": "thinking", "thinking": "", "signature": ""},
    }
    block = empty.get(reply.blocks[index].kind) if index < len(reply.blocks) else None
    return [_event("content_block_start", at, index=index, content_block=block)] if block else []


def _stopped(block: Block, index: int, at: float) -> list[Out]:
    sign = {"type": "signature_delta", "signature": _SIGNATURE}
    signed = [_event("content_block_delta", at, index=index, delta=sign)] if block.kind == "reasoning" else []
    return [*signed, _event("content_block_stop", at, index=index)]


_DELTAS = {
    "content": ("text_delta", "text"),
    "reasoning": ("thinking_delta", "thinking"),
    "tool": ("input_json_delta", "partial_json"),
}


def _delta(piece: Piece, block: Block) -> list[Out]:
    text = piece.text[len(block.name) :] if piece.first and block.kind == "tool" else piece.text
    kind, name = _DELTAS[block.kind]
    delta = sse(
        {"type": "content_block_delta", "index": piece.block, "delta": {"type": kind, name: text}},
        "content_block_delta",
    )
    if block.kind != "tool" or not piece.first:
        return [Out(block.kind, delta, piece.at, False, piece.text, piece.n_tokens)]
    use = {
        "type": "tool_use",
        "id": f"toolu_{block.call_id.removeprefix('call_')}",
        "name": block.name,
        "input": {},
    }
    start = sse(
        {"type": "content_block_start", "index": piece.block, "content_block": use}, "content_block_start"
    )
    return [Out("tool", start, piece.at, False, piece.text, piece.n_tokens), Out("block", delta, piece.at)]


def stream(reply: Reply) -> Iterator[Out]:
    """message_start, blocks, message_delta with the usage, message_stop. What starts the next block follows
    the last token of the one before it, so that every delta stands alone in its write."""
    at = reply.preamble
    start = Out(
        "role",
        sse(
            {"type": "message_start", "message": _message(reply, [], None, _usage(reply, 1))}, "message_start"
        ),
        at,
    )
    yield from joined([start, *_started(reply, 0, at), Out("ping", PING, at)])
    at = reply.start
    for piece in reply.pieces():
        block, at = reply.blocks[piece.block], piece.at
        yield from joined(_delta(piece, block), piece.more)
        if piece.last:
            yield from joined(
                [*_stopped(block, piece.block, at), *_started(reply, piece.block + 1, at)], piece.more
            )
    at = reply.end(at)
    delta: dict[str, Any] = {
        "type": "message_delta",
        "delta": {"stop_reason": _STOP.get(reply.finish, reply.finish), "stop_sequence": None},
    }
    delta |= {"usage": _usage(reply, reply.output)} if reply.options.usage else {}
    yield from joined(
        [
            Out("finish", sse(delta, "message_delta"), at),
            Out("done", sse({"type": "message_stop"}, "message_stop"), at),
        ]
    )


def whole(reply: Reply) -> Mapping[str, Any]:
    """A message; for count_tokens see the routes."""
    make = {
        "content": lambda b: {"type": "text", "text": b.text},
        "reasoning": lambda b: {"type": "thinking", "thinking": b.text, "signature": _SIGNATURE},
        "tool": _use,
    }
    content = [make[b.kind](b) for b in reply.blocks]
    return _message(reply, content, _STOP.get(reply.finish, reply.finish), _usage(reply, reply.output))


def _use(block: Block) -> dict[str, Any]:
    return {
        "type": "tool_use",
        "id": f"toolu_{block.call_id.removeprefix('call_')}",
        "name": block.name,
        "input": arguments(block.text),
    }


def broken(reply: Reply, at: float, sent: int) -> Iterator[Out]:
    """An error event, after which Anthropic sends nothing more."""
    yield Out("error", sse(error(Refused(529, MESSAGE), ""), "error"), at)


def error(refused: Refused, request_id: str) -> Any:
    """{"type": "error", ...}"""
    kind, message = (
        ERRORS.get(refused.why) or ERRORS.get(refused.status) or ERRORS[400 if refused.status < 500 else 500]
    )
    body = {"type": "error", "error": {"type": kind, "message": refused.message or message}}
    return {**body, "request_id": f"req_{request_id.removeprefix(ID)}"} if request_id else body
