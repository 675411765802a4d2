"""OpenAI Chat Completions. Reasoning is sent in `reasoning_content`, as DeepSeek and others do."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from ..faults import MESSAGE
from ..normalized_request import HistoryEntry, NormalizedRequest, Tool, call_entry, result_entry, turns_of
from ..plan import Block, Reply, ScheduledChunk, WireEvent
from ..records import Kind
from . import ApiError, HttpRequest, as_tuple, content_text, count_images, positive_int, sse_event

NAME = "openai_chat"
ID = "chatcmpl-"
PING = b": ping\n\n"
DONE = b"data: [DONE]\n\n"

# By status or `reason`: (type, code, message)
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


def parse_request(request: HttpRequest) -> NormalizedRequest:
    """Parses a request."""
    body = request.json()
    messages = body.get("messages")
    if not isinstance(messages, list) or not messages:
        raise ApiError(400, "Missing required parameter: 'messages'.")
    entries = history(messages)
    return NormalizedRequest(
        model=_model(body),
        turns=turns_of(entries),
        history=entries,
        stream=bool(body.get("stream")),
        tools=functions(body.get("tools")),
        tool_choice=choice(body.get("tool_choice")),
        schema=schema_of(body.get("response_format")),
        thinking=body["reasoning_effort"] != "none" if body.get("reasoning_effort") is not None else None,
        max_tokens=positive_int(body.get("max_completion_tokens") or body.get("max_tokens")),
        stop=as_tuple(body.get("stop")),
        include_usage=bool((body.get("stream_options") or {}).get("include_usage")),
        image_count=count_images(messages),
    )


def history(messages: list[Any]) -> tuple[HistoryEntry, ...]:
    """The history's entries, from messages in OpenAI's or Ollama's form."""
    out: list[HistoryEntry] = []
    for at, m in enumerate(m for m in messages if isinstance(m, Mapping)):
        if (sender := role(m)) == "tool":
            name = m.get("tool_name") or m.get("name")
            out.append(result_entry(at, m.get("tool_call_id"), name, content_text(m.get("content"))))
            continue
        out.append(HistoryEntry("other", at, sender, text=content_text(m.get("content"))))
        for tool_call in as_tuple(m.get("tool_calls")):
            inner = tool_call.get("function") or {}
            out.append(call_entry(at, tool_call.get("id"), inner.get("name"), inner.get("arguments")))
    return tuple(out)


def _model(body: Mapping[str, Any]) -> str:
    model = body.get("model")
    if not isinstance(model, str) or not model:
        raise ApiError(400, "you must provide a model parameter")
    return model


def role(message: Mapping[str, Any]) -> str:
    """The role, with older and newer names unified."""
    named = str(message.get("role"))
    return {"developer": "system", "function": "tool"}.get(named, named)


def functions(tools: Any) -> tuple[Tool, ...]:
    """The functions among the tools, in either of OpenAI's two forms."""
    inner = [
        t.get("function", t)
        for t in as_tuple(tools)
        if isinstance(t, Mapping) and t.get("type", "function") == "function"
    ]
    return tuple(Tool(str(f["name"]), f.get("parameters") or {}) for f in inner if "name" in f)


def choice(value: Any) -> str:
    """auto, none, required or a function's name."""
    if isinstance(value, Mapping):
        return str(value.get("function", value).get("name", "required"))
    return str(value or "auto")


def schema_of(form: Any) -> Mapping[str, Any] | None:
    """The requested JSON schema; {} for any object, None for text."""
    if not isinstance(form, Mapping) or form.get("type") not in ("json_object", "json_schema"):
        return None
    inner = form.get("json_schema", form)
    found: Mapping[str, Any] = inner.get("schema") or {}
    return found


def content_type(request: NormalizedRequest) -> str:
    """Server-sent events."""
    return "text/event-stream; charset=utf-8"


def headers(id: str, seconds: float) -> Mapping[str, str]:
    """The time until the first token in ms, as OpenAI reports it."""
    return {"openai-processing-ms": str(round(seconds * 1000)), "openai-version": "2020-10-01"}


def stream(reply: Reply) -> Iterator[WireEvent]:
    """Role, deltas, finish, usage with empty choices if requested, [DONE]."""
    calls = any(b.kind == "tool" for b in reply.blocks)
    yield _event(
        reply,
        "role",
        {"role": "assistant", "content": None if calls else "", "refusal": None},
        reply.preamble_at,
    )
    at = reply.start_at
    for chunk in reply.schedule():
        block, at = reply.blocks[chunk.block], chunk.at
        yield _event(
            reply,
            block.kind,
            _delta(reply, block, chunk),
            at,
            more=chunk.more,
            text=chunk.text,
            n=chunk.n_tokens,
        )
    if reply.images:
        yield _event(reply, "block", {"images": _images(reply)}, at)
    at = reply.end_at(at)
    yield _event(reply, "finish", {}, at, finish=reply.finish, more=True)
    if reply.request.include_usage and reply.options.usage:
        yield WireEvent("usage", sse_event({**_head(reply), "choices": [], "usage": usage(reply)}), at, True)
    yield WireEvent("done", DONE, at)


def _images(reply: Reply) -> list[dict[str, Any]]:
    """The images as OpenRouter sends them."""
    return [
        {"type": "image_url", "index": i, "image_url": {"url": f"data:image/png;base64,{p}"}}
        for i, p in enumerate(reply.images)
    ]


def _delta(reply: Reply, block: Block, chunk: ScheduledChunk) -> dict[str, Any]:
    if not chunk.n_tokens:
        return {"content": ""}
    if block.kind == "reasoning" and reply.options.thoughts == "parts":
        return {"content": [_reasoning_part(chunk.text)]}
    if block.kind != "tool":
        return {"content" if block.kind == "content" else "reasoning_content": chunk.text}
    if not chunk.first:
        return {"tool_calls": [{"index": block.index, "function": {"arguments": chunk.text}}]}
    function = {"name": block.name, "arguments": chunk.text[len(block.name) :]}
    return {
        "tool_calls": [{"index": block.index, "id": block.call_id, "type": "function", "function": function}]
    }


def _reasoning_part(text: str) -> dict[str, Any]:
    """A reasoning part of the content, as Databricks sends it."""
    return {"type": "reasoning", "summary": [{"type": "summary_text", "text": text}]}


def _head(reply: Reply, object: str = "chat.completion.chunk") -> dict[str, Any]:
    return {
        "id": reply.id,
        "object": object,
        "created": int(reply.created),
        "model": reply.request.model,
        "service_tier": "default",
        "system_fingerprint": "fp_nbllm_simulator",
    }


def _event(
    reply: Reply,
    kind: Kind,
    delta: dict[str, Any],
    at: float,
    *,
    finish: str | None = None,
    more: bool = False,
    text: str = "",
    n: int = 0,
) -> WireEvent:
    chunk = {
        **_head(reply),
        "choices": [{"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish}],
    }
    if reply.request.include_usage and reply.options.usage:
        chunk["usage"] = None
    return WireEvent(kind, sse_event(chunk), at, more, text, n)


def usage(reply: Reply) -> dict[str, Any]:
    """The usage object."""
    return {
        "prompt_tokens": reply.input_tokens,
        "completion_tokens": reply.output_tokens,
        "total_tokens": reply.input_tokens + reply.output_tokens,
        "prompt_tokens_details": {"cached_tokens": reply.cached_tokens, "audio_tokens": 0},
        "completion_tokens_details": {
            "reasoning_tokens": reply.reasoning_tokens,
            "audio_tokens": 0,
            "accepted_prediction_tokens": 0,
            "rejected_prediction_tokens": 0,
        },
    }


def full_body(reply: Reply) -> Mapping[str, Any]:
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
    message |= {"images": _images(reply)} if reply.images else {}
    if reply.reasoning_tokens and reply.options.thoughts == "parts":
        message["content"] = [
            _reasoning_part(reply.text_of("reasoning")),
            {"type": "text", "text": reply.text_of("content")},
        ]
    elif reply.reasoning_tokens:
        message["reasoning_content"] = reply.text_of("reasoning")
    choices = [{"index": 0, "message": message, "logprobs": None, "finish_reason": reply.finish}]
    return {
        **_head(reply, "chat.completion"),
        "choices": choices,
        **({"usage": usage(reply)} if reply.options.usage else {}),
    }


def error_events(reply: Reply, at: float, sent: int) -> Iterator[WireEvent]:
    """An error object instead of a chunk, then [DONE], as OpenAI sends them."""
    yield WireEvent("error", sse_event(error_body(ApiError(500, MESSAGE), reply.id)), at, True)
    yield WireEvent("done", DONE, at)


def error_body(error: ApiError, request_id: str) -> Any:
    """{"error": {...}}, the same for all of OpenAI's endpoints."""
    kind, code, message = (
        ERRORS.get(error.reason) or ERRORS.get(error.status) or ERRORS[400 if error.status < 500 else 500]
    )
    return {"error": {"message": error.message or message, "type": kind, "param": None, "code": code}}
