"""Gemini generateContent: candidates with parts, usage in every chunk, as events (alt=sse) or as one JSON
array."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from typing import Any

from ..faults import MESSAGE
from ..normalized_request import Ask, Entry, Tool, call, result, turns
from ..plan import Block, Out, Piece, Reply
from . import Refused, Request, arguments, encode, listed, pictures, said, whole_number

NAME = "gemini"
ID = "sim-"
PING = b": ping\n\n"
_SIGNATURE = "c2ltdWxhdGVkLXNpZ25hdHVyZQ=="
_FINISH = {"length": "MAX_TOKENS", "stop": "STOP", "tool_calls": "STOP"}

# status or `why`: (status word, message)
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
    """A field under its camelCase or its snake_case name: the real server reads both."""
    if not isinstance(body, Mapping):
        return None
    return body[name] if name in body else body.get(re.sub("[A-Z]", lambda m: "_" + m[0].lower(), name))


def ask(request: Request) -> Ask:
    """What the request asks; the model is in the path."""
    body, model = request.json(), request.path.rpartition(":")[0].partition("models/")[2]
    body = _get(body, "generateContentRequest") or body
    contents = _get(body, "contents")
    if not isinstance(contents, list) or not contents or not model:
        raise Refused(400, "* GenerateContentRequest.contents: contents is not specified")
    config = _get(body, "generationConfig") or {}
    streamed = request.path.endswith(":streamGenerateContent")
    told = tuple(e for at, content in enumerate(contents) for e in _entries(at, content))
    return Ask(
        model=model,
        turns=turns(told, said(_get(body, "systemInstruction"))),
        history=told,
        stream=streamed,
        tools=_tools(body),
        choice=_choice(body),
        schema=_schema(config),
        thinking=_thinking(_get(config, "thinkingConfig")),
        max_tokens=whole_number(_get(config, "maxOutputTokens")),
        stop=listed(_get(config, "stopSequences")),
        images=pictures(contents),
        extra={"array": streamed and request.query.get("alt") != "sse"},
    )


def _entries(at: int, content: Mapping[str, Any]) -> Iterator[Entry]:
    role = "assistant" if content.get("role") == "model" else "user"
    for part in content.get("parts") or []:
        made, told = _get(part, "functionCall"), _get(part, "functionResponse")
        if made:
            yield call(at, made.get("id"), made.get("name"), made.get("args") or {}, json.dumps(made))
        elif told:
            words = json.dumps(told.get("response"), ensure_ascii=False)
            yield result(at, told.get("id"), told.get("name"), words)
        else:
            yield Entry("other", at, role, text=said(part))


def _tools(body: Mapping[str, Any]) -> tuple[Tool, ...]:
    found = [f for t in listed(_get(body, "tools")) for f in _get(t, "functionDeclarations") or ()]
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
    """Thoughts are only sent where they are asked to be included."""
    return (
        None
        if config is None
        else bool(_get(config, "includeThoughts")) and _get(config, "thinkingBudget") != 0
    )


def media(ask: Ask) -> str:
    """Events, or JSON."""
    return "application/json; charset=UTF-8" if ask.extra.get("array") else "text/event-stream"


def headers(id: str, seconds: float) -> Mapping[str, str]:
    """What Google's front end says of its own time, ms."""
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
        "modelVersion": reply.ask.model,
        "responseId": reply.id,
        "createTime": datetime.fromtimestamp(reply.created, UTC).isoformat().replace("+00:00", "Z"),
    }


def _usage(reply: Reply, thoughts: int, visible: int) -> dict[str, Any]:
    """What was counted so far; thoughts apart from candidates."""
    counts = {
        "candidatesTokenCount": visible,
        "thoughtsTokenCount": thoughts,
        "cachedContentTokenCount": reply.cached,
    }
    return {
        "promptTokenCount": reply.input,
        **{k: v for k, v in counts.items() if v},
        "totalTokenCount": reply.input + thoughts + visible,
        "promptTokensDetails": [{"modality": "TEXT", "tokenCount": reply.input}],
    }


def _part(reply: Reply, block: Block, piece: Piece) -> dict[str, Any]:
    if block.kind == "tool":
        return _call(reply, block)
    signed = piece.last and block.kind == "content" and reply.reasoning > 0
    return {
        "text": piece.text,
        **({"thought": True} if block.kind == "reasoning" else {}),
        **({"thoughtSignature": _SIGNATURE} if signed else {}),
    }


def _pictures(reply: Reply) -> list[dict[str, Any]]:
    return [{"inlineData": {"mimeType": "image/png", "data": data}} for data in reply.pictures]


def _call(reply: Reply, block: Block) -> dict[str, Any]:
    call = {"functionCall": {"name": block.name, "args": arguments(block.text), "id": block.call_id}}
    return {**call, "thoughtSignature": _SIGNATURE} if reply.reasoning and block.index == 0 else call


def _events(reply: Reply) -> Iterator[Out]:
    """Bare JSON chunks. A call comes whole, when its last token is due; its chunk counts all its tokens. The
    last chunk has an empty text and the finish reason, as in recorded streams."""
    at, done, held = reply.start, {"reasoning": 0, "content": 0, "tool": 0}, 0
    for piece in reply.pieces():
        block, at = reply.blocks[piece.block], piece.at
        done[block.kind] += piece.n_tokens
        if block.kind == "tool" and piece.n_tokens and not piece.last:
            held += piece.n_tokens
            continue
        part = _part(reply, block, piece) if piece.n_tokens else {"text": ""}
        chunk = _chunk(reply, [part], done["reasoning"], done["content"] + done["tool"])
        text = block.text if block.kind == "tool" else piece.text
        yield Out(
            block.kind if piece.n_tokens else "content",
            encode(chunk),
            at,
            piece.more,
            text,
            piece.n_tokens + held,
        )
        held = 0
    for picture in _pictures(reply):
        yield Out(
            "block", encode(_chunk(reply, [picture], done["reasoning"], done["content"] + done["tool"])), at
        )
    at, finish = reply.end(at), _FINISH.get(reply.finish, reply.finish)
    yield Out(
        "finish",
        encode(_chunk(reply, [{"text": ""}], reply.reasoning, reply.output - reply.reasoning, finish)),
        at,
    )


def _framed(outs: Iterator[Out], array: bool, began: bool = False) -> Iterator[Out]:
    """The chunks as events, or as the members of one JSON array."""
    for out in outs:
        data = (b",\r\n" if began else b"[") + out.data if array else b"data: " + out.data + b"\r\n\r\n"
        began = True
        yield out._replace(data=data + b"]" if array and out.kind == "finish" else data)


def stream(reply: Reply) -> Iterator[Out]:
    """The chunks. Gemini sends nothing before the first of them."""
    return _framed(_events(reply), bool(reply.ask.extra.get("array")))


def whole(reply: Reply) -> Mapping[str, Any]:
    """A GenerateContentResponse."""
    parts = [
        _part(reply, b, Piece(i, b.text, len(b.tokens), 0.0, True, True)) for i, b in enumerate(reply.blocks)
    ]
    finish = _FINISH.get(reply.finish, reply.finish)
    return _chunk(reply, parts + _pictures(reply), reply.reasoning, reply.output - reply.reasoning, finish)


def broken(reply: Reply, at: float, sent: int) -> Iterator[Out]:
    """An error object where a chunk should be."""
    return _framed(
        iter([Out("error", encode(error(Refused(503, MESSAGE), "")), at)]),
        bool(reply.ask.extra.get("array")),
        True,
    )


def error(refused: Refused, request_id: str) -> Any:
    """{"error": {...}} with Google's status words; the time to wait is in RetryInfo, not in a header."""
    word, message = (
        ERRORS.get(refused.why) or ERRORS.get(refused.status) or ERRORS[400 if refused.status < 500 else 500]
    )
    details: list[dict[str, Any]] = []
    if refused.retry_after is not None:
        details.append(
            {"@type": "type.googleapis.com/google.rpc.RetryInfo", "retryDelay": f"{refused.retry_after:g}s"}
        )
    if refused.why == "limit" and refused.retry_after is not None:
        violation = {
            "quotaMetric": "generativelanguage.googleapis.com/generate_content_requests",
            "quotaId": "GenerateRequestsPerMinutePerProjectPerModel",
        }
        details.append({"@type": "type.googleapis.com/google.rpc.QuotaFailure", "violations": [violation]})
    if refused.why == "key":
        details.append(
            {
                "@type": "type.googleapis.com/google.rpc.ErrorInfo",
                "reason": "API_KEY_INVALID",
                "domain": "googleapis.com",
            }
        )
    return {
        "error": {
            "code": refused.status,
            "message": refused.message or message,
            "status": word,
            **({"details": details} if details else {}),
        }
    }
