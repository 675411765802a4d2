"""OpenAI Chat Completions, as OpenAI streams it; thinking as DeepSeek and others send it, in
`reasoning_content`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from ..faults import MESSAGE
from ..normalized_request import Ask, Entry, Tool, call, result, turns
from ..plan import Block, Out, Piece, Reply
from ..records import Kind
from . import Refused, Request, listed, pictures, said, sse, whole_number

NAME = "openai_chat"
ID = "chatcmpl-"
PING = b": ping\n\n"
DONE = b"data: [DONE]\n\n"

# status or `why`: (type, code, message)
ERRORS: dict[int | str, tuple[str, str | None, str]] = {
    400: ("invalid_request_error", None, "The request is not valid."),
    401: (
        "invalid_request_error",
        "invalid_api_key",
        "Incorrect API key provided. You can find your API key at "
        "https://platform.openai.com/account/api-keys.",
    ),
    403: (
        "invalid_request_error",
        "permission_denied",
        "You have insufficient permissions for this operation.",
    ),
    404: (
        "invalid_request_error",
        "model_not_found",
        "The model does not exist or you do not have access to it.",
    ),
    429: (
        "requests",
        "rate_limit_exceeded",
        "Rate limit reached on requests per min (RPM): Limit 3, Used 3, Requested 1.",
    ),
    500: ("server_error", None, "The server had an error while processing your request. Sorry about that!"),
    503: ("server_error", None, "The engine is currently overloaded, please try again later."),
    "quota": (
        "insufficient_quota",
        "insufficient_quota",
        "You exceeded your current quota, please check your plan and billing details.",
    ),
    "context": (
        "invalid_request_error",
        "context_length_exceeded",
        "This model's maximum context length is 8192 tokens. "
        "However, your messages resulted in 9000 tokens. Please reduce the length of the messages.",
    ),
}


def ask(request: Request) -> Ask:
    """What the request asks."""
    body = request.json()
    messages = body.get("messages")
    if not isinstance(messages, list) or not messages:
        raise Refused(400, "Missing required parameter: 'messages'.")
    limit, told = body.get("max_completion_tokens") or body.get("max_tokens"), history(messages)
    return Ask(
        model=_model(body),
        turns=turns(told),
        history=told,
        stream=bool(body.get("stream")),
        tools=functions(body.get("tools")),
        choice=choice(body.get("tool_choice")),
        schema=wanted(body.get("response_format")),
        thinking=_thinking(body.get("reasoning_effort")),
        max_tokens=whole_number(limit),
        stop=listed(body.get("stop")),
        report=bool((body.get("stream_options") or {}).get("include_usage")),
        images=pictures(messages),
    )


def history(messages: list[Any]) -> tuple[Entry, ...]:
    """The calls and results among the messages, in OpenAI's shape and in Ollama's."""
    out: list[Entry] = []
    for at, m in enumerate(m for m in messages if isinstance(m, Mapping)):
        if (who := role(m)) == "tool":
            name = m.get("tool_name") or m.get("name")
            out.append(result(at, m.get("tool_call_id"), name, said(m.get("content"))))
            continue
        out.append(Entry("other", at, who, text=said(m.get("content"))))
        for made in listed(m.get("tool_calls")):
            inner = made.get("function") or {}
            out.append(call(at, made.get("id"), inner.get("name"), inner.get("arguments")))
    return tuple(out)


def _model(body: Mapping[str, Any]) -> str:
    model = body.get("model")
    if not isinstance(model, str) or not model:
        raise Refused(400, "you must provide a model parameter")
    return model


def role(message: Mapping[str, Any]) -> str:
    """Who speaks, in today's words."""
    named = str(message.get("role"))
    return {"developer": "system", "function": "tool"}.get(named, named)


def _thinking(effort: Any) -> bool | None:
    return None if effort is None else effort != "none"


def functions(tools: Any) -> tuple[Tool, ...]:
    """The functions among the tools, in either of OpenAI's two shapes."""
    inner = [
        t.get("function", t)
        for t in listed(tools)
        if isinstance(t, Mapping) and t.get("type", "function") == "function"
    ]
    return tuple(Tool(str(f["name"]), f.get("parameters") or {}) for f in inner if "name" in f)


def choice(value: Any) -> str:
    """auto, none, required or a function's name."""
    if isinstance(value, Mapping):
        return str(value.get("function", value).get("name", "required"))
    return str(value or "auto")


def wanted(form: Any) -> Mapping[str, Any] | None:
    """The JSON schema asked for; {} for any object, None for text."""
    if not isinstance(form, Mapping) or form.get("type") not in ("json_object", "json_schema"):
        return None
    inner = form.get("json_schema", form)
    found: Mapping[str, Any] = inner.get("schema") or {}
    return found


def media(ask: Ask) -> str:
    """Server-sent events."""
    return "text/event-stream; charset=utf-8"


def headers(id: str, seconds: float) -> Mapping[str, str]:
    """What OpenAI says of its own time: until the first token, ms."""
    return {"openai-processing-ms": str(round(seconds * 1000)), "openai-version": "2020-10-01"}


def stream(reply: Reply) -> Iterator[Out]:
    """Role, deltas, finish, usage with empty choices where asked for, [DONE]."""
    calls = any(b.kind == "tool" for b in reply.blocks)
    yield _out(
        reply,
        "role",
        {"role": "assistant", "content": None if calls else "", "refusal": None},
        reply.preamble,
    )
    at = reply.start
    for piece in reply.pieces():
        block, at = reply.blocks[piece.block], piece.at
        yield _out(
            reply,
            block.kind,
            _delta(reply, block, piece),
            at,
            more=piece.more,
            text=piece.text,
            n=piece.n_tokens,
        )
    if reply.pictures:
        yield _out(reply, "block", {"images": _images(reply)}, at)
    at = reply.end(at)
    yield _out(reply, "finish", {}, at, finish=reply.finish, more=True)
    if reply.ask.report and reply.options.usage:
        yield Out("usage", sse({**_head(reply), "choices": [], "usage": usage(reply)}), at, True)
    yield Out("done", DONE, at)


def _images(reply: Reply) -> list[dict[str, Any]]:
    """Pictures as OpenRouter sends them."""
    return [
        {"type": "image_url", "index": i, "image_url": {"url": f"data:image/png;base64,{p}"}}
        for i, p in enumerate(reply.pictures)
    ]


def _delta(reply: Reply, block: Block, piece: Piece) -> dict[str, Any]:
    if not piece.n_tokens:
        return {"content": ""}
    if block.kind == "reasoning" and reply.options.thoughts == "parts":
        return {"content": [_thought(piece.text)]}
    if block.kind != "tool":
        return {"content" if block.kind == "content" else "reasoning_content": piece.text}
    if not piece.first:
        return {"tool_calls": [{"index": block.index, "function": {"arguments": piece.text}}]}
    function = {"name": block.name, "arguments": piece.text[len(block.name) :]}
    return {
        "tool_calls": [{"index": block.index, "id": block.call_id, "type": "function", "function": function}]
    }


def _thought(text: str) -> dict[str, Any]:
    """A thought among the parts, as Databricks sends it."""
    return {"type": "reasoning", "summary": [{"type": "summary_text", "text": text}]}


def _head(reply: Reply, object: str = "chat.completion.chunk") -> dict[str, Any]:
    return {
        "id": reply.id,
        "object": object,
        "created": int(reply.created),
        "model": reply.ask.model,
        "service_tier": "default",
        "system_fingerprint": "fp_nbllm_simulator",
    }


def _out(
    reply: Reply,
    kind: Kind,
    delta: dict[str, Any],
    at: float,
    *,
    finish: str | None = None,
    more: bool = False,
    text: str = "",
    n: int = 0,
) -> Out:
    chunk = {
        **_head(reply),
        "choices": [{"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish}],
    }
    if reply.ask.report and reply.options.usage:
        chunk["usage"] = None
    return Out(kind, sse(chunk), at, more, text, n)


def usage(reply: Reply) -> dict[str, Any]:
    """The usage object."""
    return {
        "prompt_tokens": reply.input,
        "completion_tokens": reply.output,
        "total_tokens": reply.input + reply.output,
        "prompt_tokens_details": {"cached_tokens": reply.cached, "audio_tokens": 0},
        "completion_tokens_details": {
            "reasoning_tokens": reply.reasoning,
            "audio_tokens": 0,
            "accepted_prediction_tokens": 0,
            "rejected_prediction_tokens": 0,
        },
    }


def whole(reply: Reply) -> Mapping[str, Any]:
    """A chat.completion."""
    calls = [
        {"id": b.call_id, "type": "function", "function": {"name": b.name, "arguments": b.text}}
        for b in reply.blocks
        if b.kind == "tool"
    ]
    message: dict[str, Any] = {
        "role": "assistant",
        "content": None if calls else reply.text_of("content"),
        "refusal": None,
        "annotations": [],
    }
    message |= {"tool_calls": calls} if calls else {}
    message |= {"images": _images(reply)} if reply.pictures else {}
    if reply.reasoning and reply.options.thoughts == "parts":
        message["content"] = [
            _thought(reply.text_of("reasoning")),
            {"type": "text", "text": reply.text_of("content")},
        ]
    elif reply.reasoning:
        message["reasoning_content"] = reply.text_of("reasoning")
    choices = [{"index": 0, "message": message, "logprobs": None, "finish_reason": reply.finish}]
    return {
        **_head(reply, "chat.completion"),
        "choices": choices,
        **({"usage": usage(reply)} if reply.options.usage else {}),
    }


def broken(reply: Reply, at: float, sent: int) -> Iterator[Out]:
    """An error object where a chunk should be, then [DONE], as OpenAI sends them."""
    yield Out("error", sse(error(Refused(500, MESSAGE), reply.id)), at, True)
    yield Out("done", DONE, at)


def error(refused: Refused, request_id: str) -> Any:
    """{"error": {...}}, the same for all of OpenAI's endpoints."""
    kind, code, message = (
        ERRORS.get(refused.why) or ERRORS.get(refused.status) or ERRORS[400 if refused.status < 500 else 500]
    )
    return {"error": {"message": refused.message or message, "type": kind, "param": None, "code": code}}
