"""Ollama's own API: lines of JSON; the last one has the durations."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from typing import Any

from ..faults import MESSAGE
from ..normalized_request import NormalizedRequest, turns_of
from ..plan import Block, Reply, ScheduledChunk, WireEvent
from . import ApiError, HttpRequest, content_text, count_images, encode, parse_arguments, positive_int
from . import openai_chat as chat

NAME = "ollama"
ID = "ollama-"
PING = b""  # NDJSON has no comments
LOADED = 0.002  # seconds: load_duration is not zero for a loaded model either

ERRORS: dict[int | str, str] = {
    400: "invalid request",
    401: "unauthorized",
    403: "forbidden",
    404: "model not found, try pulling it first",
    429: "too many requests",
    500: "llama runner process has terminated",
    503: "server busy, please try again. maximum pending requests exceeded",
    "quota": "you've reached your usage limit, upgrade for higher limits",
    "context": "input length exceeds maximum context length",
}


def parse_request(request: HttpRequest) -> NormalizedRequest:
    """Parses a chat or a generate request. The default of `stream` is true."""
    body = request.json()
    if not isinstance(body.get("model"), str) or not body["model"]:
        raise ApiError(400, "model is required")
    options, form = body.get("options") or {}, body.get("format")
    generate = request.path.endswith("/generate")
    messages = (
        [{"role": "user", "content": body.get("prompt", "")}] if generate else body.get("messages") or []
    )
    stop, history = options.get("stop") or (), chat.history(messages)
    return NormalizedRequest(
        model=body["model"],
        turns=turns_of(history, str(body.get("system") or "")),
        history=history,
        stream=body.get("stream", True) is not False,
        tools=chat.functions(body.get("tools")),
        schema={} if form == "json" else form or None,
        thinking=bool(body["think"]) if body.get("think") is not None else None,
        max_tokens=positive_int(options.get("num_predict")),
        stop=(stop,) if isinstance(stop, str) else tuple(stop),
        image_count=count_images(messages),
        extra={
            "generate": generate,
            "idle": not any(content_text(m.get("content")) or m.get("images") for m in messages),
            "keep_alive": body.get("keep_alive"),
        },
    )


def content_type(request: NormalizedRequest) -> str:
    """Lines of JSON."""
    return "application/x-ndjson"


def headers(id: str, seconds: float) -> Mapping[str, str]:
    """Ollama has no headers of its own."""
    return {}


def _line(reply: Reply, at: float, *, done: bool = False, **fields: Any) -> dict[str, Any]:
    """One line; the content is in `message` for chat, in `response` for generate."""
    moment = datetime.fromtimestamp(reply.created + at, UTC).isoformat().replace("+00:00", "Z")
    head = {"model": reply.request.model, "created_at": moment}
    if reply.request.extra.get("generate"):
        return {**head, "response": fields.pop("content", ""), **fields, "done": done}
    return {**head, "message": {"role": "assistant", "content": "", **fields}, "done": done}


def final_fields(reply: Reply, start: float, end: float) -> dict[str, Any]:
    """The counts and durations (nanoseconds) of the last line. Loading, prompt evaluation and generation add
    up to the total."""
    reason = "stop" if reply.finish == "tool_calls" else reply.finish
    if not reply.options.usage:
        return {"done_reason": reason}
    ns = {
        "total_duration": end,
        "load_duration": reply.load_s + LOADED,
        "prompt_eval_duration": max(0.0, reply.options.ttft - LOADED),
        "eval_duration": end - start,
    }
    spans = {k: round(v * 1e9) for k, v in ns.items()}
    return {
        "done_reason": reason,
        "total_duration": spans["total_duration"],
        "load_duration": spans["load_duration"],
        "prompt_eval_count": reply.input_tokens,
        "prompt_eval_duration": spans["prompt_eval_duration"],
        "eval_count": reply.output_tokens,
        "eval_duration": spans["eval_duration"],
    }


_FIELDS = {"content": "content", "reasoning": "thinking"}


def _call(block: Block) -> dict[str, Any]:
    return {
        "id": block.call_id,
        "function": {"index": block.index, "name": block.name, "arguments": parse_arguments(block.text)},
    }


def stream(reply: Reply) -> Iterator[WireEvent]:
    """The lines. A tool call is sent complete when its last token is due; its line counts all its tokens."""
    at, pending_tokens = reply.start_at, 0
    for chunk in reply.schedule():
        block, at = reply.blocks[chunk.block], chunk.at
        if block.kind == "tool" and chunk.n_tokens and not chunk.last:
            pending_tokens += chunk.n_tokens
            continue
        yield _delta(reply, block, chunk, pending_tokens)
        pending_tokens = 0
    last = reply.end_at(at)
    yield WireEvent(
        "done",
        encode({**_line(reply, last, done=True), **final_fields(reply, reply.start_at, at)}) + b"\n",
        last,
    )


def _delta(reply: Reply, block: Block, chunk: ScheduledChunk, pending_tokens: int) -> WireEvent:
    if not chunk.n_tokens:
        return WireEvent("content", encode(_line(reply, chunk.at)) + b"\n", chunk.at)
    fields = {"tool_calls": [_call(block)]} if block.kind == "tool" else {_FIELDS[block.kind]: chunk.text}
    text = block.text if block.kind == "tool" else chunk.text
    return WireEvent(
        block.kind,
        encode(_line(reply, chunk.at, **fields)) + b"\n",
        chunk.at,
        chunk.more,
        text,
        chunk.n_tokens + pending_tokens,
    )


def full_body(reply: Reply) -> Mapping[str, Any]:
    """The complete answer as one object."""
    calls = [_call(b) for b in reply.blocks if b.kind == "tool"]
    fields = {
        "content": reply.text_of("content"),
        **({"thinking": reply.text_of("reasoning")} if reply.reasoning_tokens else {}),
        **({"tool_calls": calls} if calls else {}),
    }
    at = reply.complete_at()
    return {
        **_line(reply, at, done=True, **fields),
        **final_fields(reply, reply.start_at, at - reply.options.tail),
    }


def load_body(request: NormalizedRequest, created: float, load: float) -> Mapping[str, Any]:
    """The answer to a request without a prompt, which only loads the model, or unloads it if keep_alive is
    0."""
    action = "unload" if keep_alive_seconds(request.extra.get("keep_alive")) == 0 else "load"
    body = (
        {"response": ""}
        if request.extra.get("generate")
        else {"message": {"role": "assistant", "content": ""}}
    )
    spans = (
        {"total_duration": round((load + LOADED) * 1e9), "load_duration": round((load + LOADED) * 1e9)}
        if action == "load"
        else {}
    )
    moment = datetime.fromtimestamp(created + load, UTC).isoformat().replace("+00:00", "Z")
    return {
        "model": request.model,
        "created_at": moment,
        **body,
        "done": True,
        "done_reason": action,
        **spans,
    }


def keep_alive_seconds(keep_alive: Any) -> float | None:
    """`keep_alive` (5, "5m", "-1") in seconds; infinity if negative, None if invalid."""
    found = re.fullmatch(r"(-?[\d.]+)(ms|s|m|h|)", str(keep_alive).strip())
    if not found:
        return None
    try:
        value = float(found[1]) * {"ms": 0.001, "m": 60.0, "h": 3600.0}.get(found[2], 1.0)
    except ValueError:
        return None
    return value if value >= 0 else float("inf")


def error_events(reply: Reply, at: float, sent: int) -> Iterator[WireEvent]:
    """A line with an error."""
    yield WireEvent("error", encode({"error": MESSAGE}) + b"\n", at)


def error_body(error: ApiError, request_id: str) -> Any:
    """{"error": "..."}: a string."""
    known = ERRORS.get(error.reason) or ERRORS.get(error.status) or ERRORS[400 if error.status < 500 else 500]
    return {"error": error.message or known}
