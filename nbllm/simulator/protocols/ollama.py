"""Ollama's own API: lines of JSON, the last of which tells the durations."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from typing import Any

from ..faults import MESSAGE
from ..normalized_request import Ask, turns
from ..plan import Block, Out, Piece, Reply
from . import Refused, Request, arguments, encode, pictures, said, whole_number
from . import openai_chat as chat

NAME = "ollama"
ID = "ollama-"
PING = b""  # an NDJSON stream has no comments
LOADED = 0.002  # load_duration is not zero on a loaded model either, seconds

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


def ask(request: Request) -> Ask:
    """What a chat or a generate request asks. Without `stream` the answer streams."""
    body = request.json()
    if not isinstance(body.get("model"), str) or not body["model"]:
        raise Refused(400, "model is required")
    options, form = body.get("options") or {}, body.get("format")
    generate = request.path.endswith("/generate")
    messages = (
        [{"role": "user", "content": body.get("prompt", "")}] if generate else body.get("messages") or []
    )
    stop, told = options.get("stop") or (), chat.history(messages)
    return Ask(
        model=body["model"],
        turns=turns(told, str(body.get("system") or "")),
        history=told,
        stream=body.get("stream", True) is not False,
        tools=chat.functions(body.get("tools")),
        schema={} if form == "json" else form or None,
        thinking=bool(body["think"]) if body.get("think") is not None else None,
        max_tokens=whole_number(options.get("num_predict")),
        stop=(stop,) if isinstance(stop, str) else tuple(stop),
        images=pictures(messages),
        extra={
            "generate": generate,
            "idle": not any(said(m.get("content")) or m.get("images") for m in messages),
            "keep_alive": body.get("keep_alive"),
        },
    )


def media(ask: Ask) -> str:
    """Lines of JSON."""
    return "application/x-ndjson"


def headers(id: str, seconds: float) -> Mapping[str, str]:
    """None of its own."""
    return {}


def _line(reply: Reply, at: float, *, done: bool = False, **said: Any) -> dict[str, Any]:
    """A line: chat speaks in `message`, generate in `response`."""
    moment = datetime.fromtimestamp(reply.created + at, UTC).isoformat().replace("+00:00", "Z")
    head = {"model": reply.ask.model, "created_at": moment}
    if reply.ask.extra.get("generate"):
        return {**head, "response": said.pop("content", ""), **said, "done": done}
    return {**head, "message": {"role": "assistant", "content": "", **said}, "done": done}


def stated(reply: Reply, began: float, ended: float) -> dict[str, Any]:
    """The counts and durations of the last line, nanoseconds. Loading, reading the prompt and writing add up
    to the whole."""
    reason = "stop" if reply.finish == "tool_calls" else reply.finish
    if not reply.options.usage:
        return {"done_reason": reason}
    ns = {
        "total_duration": ended,
        "load_duration": reply.load + LOADED,
        "prompt_eval_duration": max(0.0, reply.options.ttft - LOADED),
        "eval_duration": ended - began,
    }
    spans = {k: round(v * 1e9) for k, v in ns.items()}
    return {
        "done_reason": reason,
        "total_duration": spans["total_duration"],
        "load_duration": spans["load_duration"],
        "prompt_eval_count": reply.input,
        "prompt_eval_duration": spans["prompt_eval_duration"],
        "eval_count": reply.output,
        "eval_duration": spans["eval_duration"],
    }


_FIELDS = {"content": "content", "reasoning": "thinking"}


def _call(block: Block) -> dict[str, Any]:
    return {
        "id": block.call_id,
        "function": {"index": block.index, "name": block.name, "arguments": arguments(block.text)},
    }


def stream(reply: Reply) -> Iterator[Out]:
    """The lines. A call comes whole, when its last token is due; its line counts all its tokens."""
    at, held = reply.start, 0
    for piece in reply.pieces():
        block, at = reply.blocks[piece.block], piece.at
        if block.kind == "tool" and piece.n_tokens and not piece.last:
            held += piece.n_tokens
            continue
        yield _delta(reply, block, piece, held)
        held = 0
    last = reply.end(at)
    yield Out(
        "done", encode({**_line(reply, last, done=True), **stated(reply, reply.start, at)}) + b"\n", last
    )


def _delta(reply: Reply, block: Block, piece: Piece, held: int) -> Out:
    if not piece.n_tokens:
        return Out("content", encode(_line(reply, piece.at)) + b"\n", piece.at)
    said = {"tool_calls": [_call(block)]} if block.kind == "tool" else {_FIELDS[block.kind]: piece.text}
    text = block.text if block.kind == "tool" else piece.text
    return Out(
        block.kind,
        encode(_line(reply, piece.at, **said)) + b"\n",
        piece.at,
        piece.more,
        text,
        piece.n_tokens + held,
    )


def whole(reply: Reply) -> Mapping[str, Any]:
    """The answer in one object."""
    calls = [_call(b) for b in reply.blocks if b.kind == "tool"]
    said = {
        "content": reply.text_of("content"),
        **({"thinking": reply.text_of("reasoning")} if reply.reasoning else {}),
        **({"tool_calls": calls} if calls else {}),
    }
    at = reply.whole_at()
    return {**_line(reply, at, done=True, **said), **stated(reply, reply.start, at - reply.options.tail)}


def silent(ask: Ask, created: float, load: float) -> Mapping[str, Any]:
    """The answer to a request without a prompt, which only loads the model, or unloads it with keep_alive
    0."""
    why = "unload" if seconds(ask.extra.get("keep_alive")) == 0 else "load"
    body = (
        {"response": ""} if ask.extra.get("generate") else {"message": {"role": "assistant", "content": ""}}
    )
    spans = (
        {"total_duration": round((load + LOADED) * 1e9), "load_duration": round((load + LOADED) * 1e9)}
        if why == "load"
        else {}
    )
    moment = datetime.fromtimestamp(created + load, UTC).isoformat().replace("+00:00", "Z")
    return {"model": ask.model, "created_at": moment, **body, "done": True, "done_reason": why, **spans}


def seconds(keep_alive: Any) -> float | None:
    """`keep_alive` (5, "5m", "-1") in seconds; None where nothing sensible is said, infinity for a negative
    one."""
    found = re.fullmatch(r"(-?[\d.]+)(ms|s|m|h|)", str(keep_alive).strip())
    if not found:
        return None
    try:
        value = float(found[1]) * {"ms": 0.001, "m": 60.0, "h": 3600.0}.get(found[2], 1.0)
    except ValueError:
        return None
    return value if value >= 0 else float("inf")


def broken(reply: Reply, at: float, sent: int) -> Iterator[Out]:
    """A line that holds an error."""
    yield Out("error", encode({"error": MESSAGE}) + b"\n", at)


def error(refused: Refused, request_id: str) -> Any:
    """{"error": "..."}: a string."""
    known = (
        ERRORS.get(refused.why) or ERRORS.get(refused.status) or ERRORS[400 if refused.status < 500 else 500]
    )
    return {"error": refused.message or known}
