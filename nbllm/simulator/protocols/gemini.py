"""Gemini generateContent: candidates with parts, usage in every chunk, as events (alt=sse) or as one JSON
array."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
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
    encode,
    parse_arguments,
    positive_int,
)

NAME = "gemini"
ID = "sim-"
PING = b": ping\n\n"
_SIGNATURE = "c2ltdWxhdGVkLXNpZ25hdHVyZQ=="
_FINISH = {"length": "MAX_TOKENS", "stop": "STOP", "tool_calls": "STOP"}

# By status or `reason`: (status word, message)
ERRORS: dict[int | str, tuple[str, str]] = {
    400: ("INVALID_ARGUMENT", "Request contains an invalid argument."),
    401: (
        "UNAUTHENTICATED",
        "Request had invalid authentication credentials. Expected OAuth 2 access token, login cookie or "
        "other valid authentication credential.",
    ),
    403: (
        "PERMISSION_DENIED",
        "Method doesn't allow unregistered callers (callers without established identity).",
    ),
    404: (
        "NOT_FOUND",
        "The model is not found for API version v1beta, or is not supported for generateContent.",
    ),
    429: ("RESOURCE_EXHAUSTED", "Resource has been exhausted (e.g. check quota)."),
    500: ("INTERNAL", "An internal error has occurred. Please retry."),
    503: ("UNAVAILABLE", "The model is overloaded. Please try again later."),
    504: ("DEADLINE_EXCEEDED", "Deadline expired before operation could complete."),
    "quota": (
        "RESOURCE_EXHAUSTED",
        "You exceeded your current quota, please check your plan and billing details.",
    ),
    "context": (
        "INVALID_ARGUMENT",
        "The input token count (1048577) exceeds the maximum number of tokens allowed (1048576).",
    ),
    "key": ("INVALID_ARGUMENT", "API key not valid. Please pass a valid API key."),
}


def _get(body: Any, name: str) -> Any:
    """A field by its camelCase or snake_case name: the real server accepts both."""
    if not isinstance(body, Mapping):
        return None
    return body[name] if name in body else body.get(re.sub("[A-Z]", lambda m: "_" + m[0].lower(), name))


def parse_request(request: HttpRequest) -> NormalizedRequest:
    """Parses a request. The model is in the path."""
    body, model = request.json(), request.path.rpartition(":")[0].partition("models/")[2]
    body = _get(body, "generateContentRequest") or body
    contents = _get(body, "contents")
    if not isinstance(contents, list) or not contents or not model:
        raise ApiError(400, "* GenerateContentRequest.contents: contents is not specified")
    config = _get(body, "generationConfig") or {}
    streamed = request.path.endswith(":streamGenerateContent")
    history = tuple(e for at, content in enumerate(contents) for e in _entries(at, content))
    return NormalizedRequest(
        model=model,
        turns=turns_of(history, content_text(_get(body, "systemInstruction"))),
        history=history,
        stream=streamed,
        tools=_tools(body),
        tool_choice=_choice(body),
        schema=_schema(config),
        thinking=_thinking(_get(config, "thinkingConfig")),
        max_tokens=positive_int(_get(config, "maxOutputTokens")),
        stop=as_tuple(_get(config, "stopSequences")),
        image_count=count_images(contents),
        extra={"array": streamed and request.query.get("alt") != "sse"},
    )


def _entries(at: int, content: Mapping[str, Any]) -> Iterator[HistoryEntry]:
    role = "assistant" if content.get("role") == "model" else "user"
    for part in content.get("parts") or []:
        tool_call, tool_response = _get(part, "functionCall"), _get(part, "functionResponse")
        if tool_call:
            yield call_entry(
                at,
                tool_call.get("id"),
                tool_call.get("name"),
                tool_call.get("args") or {},
                json.dumps(tool_call),
            )
        elif tool_response:
            result_text = json.dumps(tool_response.get("response"), ensure_ascii=False)
            yield result_entry(at, tool_response.get("id"), tool_response.get("name"), result_text)
        else:
            yield HistoryEntry("other", at, role, text=content_text(part))


def _tools(body: Mapping[str, Any]) -> tuple[Tool, ...]:
    found = [f for t in as_tuple(_get(body, "tools")) for f in _get(t, "functionDeclarations") or ()]
    return tuple(
        Tool(str(f["name"]), _get(f, "parametersJsonSchema") or _get(f, "parameters") or {}) for f in found
    )


def _choice(body: Mapping[str, Any]) -> str:
    config = _get(_get(body, "toolConfig"), "functionCallingConfig") or {}
    names = _get(config, "allowedFunctionNames") or []
    mode = str(config.get("mode", "AUTO")).upper()
    return (
        names[0]
        if len(names) == 1 and mode == "ANY"
        else {"ANY": "required", "NONE": "none"}.get(mode, "auto")
    )


def _schema(config: Mapping[str, Any]) -> Mapping[str, Any] | None:
    if _get(config, "responseMimeType") != "application/json":
        return None
    found: Mapping[str, Any] = _get(config, "responseJsonSchema") or _get(config, "responseSchema") or {}
    return found


def _thinking(config: Any) -> bool | None:
    """Whether thoughts are sent: only if the request includes them."""
    return (
        None
        if config is None
        else bool(_get(config, "includeThoughts")) and _get(config, "thinkingBudget") != 0
    )


def content_type(request: NormalizedRequest) -> str:
    """Server-sent events, or JSON."""
    return "application/json; charset=UTF-8" if request.extra.get("array") else "text/event-stream"


def headers(id: str, seconds: float) -> Mapping[str, str]:
    """The server's time in ms, as Google's front end reports it."""
    return {"server-timing": f"gfet4t7; dur={round(seconds * 1000)}"}


def _chunk(
    reply: Reply, parts: list[Any], thoughts: int, visible: int, finish: str | None = None
) -> dict[str, Any]:
    candidate: dict[str, Any] = {
        "content": {"parts": parts, "role": "model"},
        **({"finishReason": finish} if finish else {}),
        "index": 0,
    }
    usage = {"usageMetadata": _usage(reply, thoughts, visible)} if reply.options.usage else {}
    return {
        "candidates": [candidate],
        **usage,
        "modelVersion": reply.request.model,
        "responseId": reply.id,
        "createTime": datetime.fromtimestamp(reply.created, UTC).isoformat().replace("+00:00", "Z"),
    }


def _usage(reply: Reply, thoughts: int, visible: int) -> dict[str, Any]:
    """The usage so far. Candidates do not include thoughts."""
    counts = {
        "candidatesTokenCount": visible,
        "thoughtsTokenCount": thoughts,
        "cachedContentTokenCount": reply.cached_tokens,
    }
    return {
        "promptTokenCount": reply.input_tokens,
        **{k: v for k, v in counts.items() if v},
        "totalTokenCount": reply.input_tokens + thoughts + visible,
        "promptTokensDetails": [{"modality": "TEXT", "tokenCount": reply.input_tokens}],
    }


def _part(reply: Reply, block: Block, chunk: ScheduledChunk) -> dict[str, Any]:
    if block.kind == "tool":
        return _call(reply, block)
    signed = chunk.last and block.kind == "content" and reply.reasoning_tokens > 0
    return {
        "text": chunk.text,
        **({"thought": True} if block.kind == "reasoning" else {}),
        **({"thoughtSignature": _SIGNATURE} if signed else {}),
    }


def _image_parts(reply: Reply) -> list[dict[str, Any]]:
    return [{"inlineData": {"mimeType": "image/png", "data": data}} for data in reply.images]


def _call(reply: Reply, block: Block) -> dict[str, Any]:
    call = {"functionCall": {"name": block.name, "args": parse_arguments(block.text), "id": block.call_id}}
    return {**call, "thoughtSignature": _SIGNATURE} if reply.reasoning_tokens and block.index == 0 else call


def _events(reply: Reply) -> Iterator[WireEvent]:
    """The chunks as JSON, without framing. A tool call is sent complete when its last token is due; its chunk
    counts all its tokens. The last chunk has an empty text and the finish reason, as in recorded streams."""
    at, done, pending_tokens = reply.start_at, {"reasoning": 0, "content": 0, "tool": 0}, 0
    for chunk in reply.schedule():
        block, at = reply.blocks[chunk.block], chunk.at
        done[block.kind] += chunk.n_tokens
        if block.kind == "tool" and chunk.n_tokens and not chunk.last:
            pending_tokens += chunk.n_tokens
            continue
        part = _part(reply, block, chunk) if chunk.n_tokens else {"text": ""}
        payload = _chunk(reply, [part], done["reasoning"], done["content"] + done["tool"])
        text = block.text if block.kind == "tool" else chunk.text
        yield WireEvent(
            block.kind if chunk.n_tokens else "content",
            encode(payload),
            at,
            chunk.more,
            text,
            chunk.n_tokens + pending_tokens,
        )
        pending_tokens = 0
    for image in _image_parts(reply):
        yield WireEvent(
            "block", encode(_chunk(reply, [image], done["reasoning"], done["content"] + done["tool"])), at
        )
    at, finish = reply.end_at(at), _FINISH.get(reply.finish, reply.finish)
    yield WireEvent(
        "finish",
        encode(
            _chunk(
                reply,
                [{"text": ""}],
                reply.reasoning_tokens,
                reply.output_tokens - reply.reasoning_tokens,
                finish,
            )
        ),
        at,
    )


def _frame(events: Iterator[WireEvent], array: bool, is_started: bool = False) -> Iterator[WireEvent]:
    """Frames the chunks as server-sent events, or as the members of one JSON array."""
    for event in events:
        data = (
            (b",\r\n" if is_started else b"[") + event.data if array else b"data: " + event.data + b"\r\n\r\n"
        )
        is_started = True
        yield event._replace(data=data + b"]" if array and event.kind == "finish" else data)


def stream(reply: Reply) -> Iterator[WireEvent]:
    """The chunks. Gemini sends no preamble."""
    return _frame(_events(reply), bool(reply.request.extra.get("array")))


def full_body(reply: Reply) -> Mapping[str, Any]:
    """A GenerateContentResponse."""
    parts = [
        _part(reply, b, ScheduledChunk(i, b.text, len(b.tokens), 0.0, True, True))
        for i, b in enumerate(reply.blocks)
    ]
    finish = _FINISH.get(reply.finish, reply.finish)
    return _chunk(
        reply,
        parts + _image_parts(reply),
        reply.reasoning_tokens,
        reply.output_tokens - reply.reasoning_tokens,
        finish,
    )


def error_events(reply: Reply, at: float, sent: int) -> Iterator[WireEvent]:
    """An error object instead of a chunk."""
    return _frame(
        iter([WireEvent("error", encode(error_body(ApiError(503, MESSAGE), "")), at)]),
        bool(reply.request.extra.get("array")),
        True,
    )


def error_body(error: ApiError, request_id: str) -> Any:
    """{"error": {...}} with Google's status names. The time to wait is in RetryInfo, not in a header."""
    status, message = (
        ERRORS.get(error.reason) or ERRORS.get(error.status) or ERRORS[400 if error.status < 500 else 500]
    )
    details: list[dict[str, Any]] = []
    if error.retry_after is not None:
        details.append(
            {"@type": "type.googleapis.com/google.rpc.RetryInfo", "retryDelay": f"{error.retry_after:g}s"}
        )
    if error.reason == "limit" and error.retry_after is not None:
        violation = {
            "quotaMetric": "generativelanguage.googleapis.com/generate_content_requests",
            "quotaId": "GenerateRequestsPerMinutePerProjectPerModel",
        }
        details.append({"@type": "type.googleapis.com/google.rpc.QuotaFailure", "violations": [violation]})
    if error.reason == "key":
        details.append(
            {
                "@type": "type.googleapis.com/google.rpc.ErrorInfo",
                "reason": "API_KEY_INVALID",
                "domain": "googleapis.com",
            }
        )
    return {
        "error": {
            "code": error.status,
            "message": error.message or message,
            "status": status,
            **({"details": details} if details else {}),
        }
    }
