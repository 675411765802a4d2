"""Cohere's own chat, version 2.

A stream is a frame of typed events about one message: message-start, content (thinking or text) that opens,
grows and closes, the plan before calls, calls, citations, message-end with the reason and the counts, and
[DONE]. Each event holds its news under delta.message. A whole answer is one object with the message in it.

The answer is whole when message-end came, or all of it in one object. Anything else was cut.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

from ..core.calls import Dialect, Endpoint, HttpCall, Secret
from ..core.errors import ConfigError
from ..core.events import (
    Event,
    FinishReason,
    MediaDelta,
    Notice,
    ToolCallDelta,
    Usage,
    UsageReport,
)
from ..core.messages import (
    Document,
    Image,
    Message,
    Part,
    Reasoning,
    Request,
    Text,
    ToolCall,
    ToolResult,
)
from ._decoder import BaseDecoder, citation
from ._errors import http_error, provider_error
from ._json import count, items, label, obj, string
from ._media import is_media, media, move_media_to_user
from ._request import (
    arguments_json,
    bearer_header,
    build_post,
    data_url,
    describe_tool,
    document_as_text,
    misplaced_part,
    raw_arguments,
    reasoning_budget,
    result_parts,
    result_text,
    text_only,
    url_under,
    without_none,
)

_CHOICES = {None: None, "auto": None, "none": "NONE", "required": "REQUIRED"}


def encode(request: Request, provider: Endpoint, key: Secret | None) -> HttpCall:
    """The call that asks for `request` as a stream: POST /v2/chat.

    An effort word becomes a budget of thinking in tokens. Strict tools are strict all together
    (strict_tools). A schema is asked for as JSON in that form. Documents go as text; grounded answers want
    Cohere's own `documents`, which go in `extra`. Thinking goes back only where it is Cohere's own, which
    carries neither a signature nor an id.
    Raises ConfigError for a named tool that must be called, and for a schema beside tools: Cohere takes one
    or the other.
    """
    if request.schema is not None and request.tools:
        raise ConfigError(
            "Cohere takes a schema or tools, not both at once.",
            hint="Leave one of them out, or ask another provider.",
        )
    body = {
        "model": request.model,
        "messages": [turn for m in move_media_to_user(request.messages) for turn in _turns(m)],
        "stream": True,
        "tools": [
            {"type": "function", "function": describe_tool(t, parameters=t.parameters)} for t in request.tools
        ],
        "tool_choice": _choice(request.tool_choice),
        "strict_tools": True if any(t.strict for t in request.tools) else None,
        "max_tokens": request.max_tokens,
        "temperature": request.temperature,
        "p": request.top_p,
        "stop_sequences": list(request.stop),
        "seed": request.seed,
        "thinking": _thinking(request.reasoning),
        "response_format": None
        if request.schema is None
        else {"type": "json_object", "json_schema": request.schema},
    }
    return build_post(provider, url_under(provider, "/v2", "/chat"), bearer_header(key), body, request.extra)


# --- request ------------------------------------------------------------------------------------------------


def _thinking(asked: str | int | None) -> dict[str, Any] | None:
    if asked is None:
        return None
    tokens = reasoning_budget(asked)
    return {"type": "enabled", "token_budget": tokens} if tokens else {"type": "disabled"}


def _choice(choice: str | None) -> str | None:
    if choice not in _CHOICES:
        raise ConfigError(
            f"Cohere cannot be made to call one tool of several (tool_choice={choice!r}).",
            hint='Give that tool alone with tool_choice="required".',
        )
    return _CHOICES[choice]


def _turns(message: Message) -> Iterator[dict[str, Any]]:
    """One message of ours as theirs: each result of a tool is a message of its own."""
    if message.role == "system":
        yield {"role": "system", "content": text_only(message)}
        return
    yield from (_result(p) for p in message.parts if isinstance(p, ToolResult))
    rest = [p for p in message.parts if not isinstance(p, ToolResult)]
    if rest:
        yield _assistant(rest) if message.role == "assistant" else {"role": "user", "content": _content(rest)}


def _content(parts: Sequence[Part]) -> str | list[dict[str, Any]]:
    blocks = [_part(p) for p in parts]
    return "".join(b["text"] for b in blocks) if all(b["type"] == "text" for b in blocks) else blocks


def _part(part: Part) -> dict[str, Any]:
    match part:
        case Text(text):
            return {"type": "text", "text": text}
        case Image(url=url):
            return {"type": "image_url", "image_url": {"url": url or data_url(part)}}
        case Document():
            return {"type": "text", "text": document_as_text(part, "Cohere")}
    raise misplaced_part(part, "user", "Cohere")


def _assistant(parts: Sequence[Part]) -> dict[str, Any]:
    blocks: list[dict[str, Any]] = []
    for part in parts:
        match part:
            case Text(text):
                blocks.append({"type": "text", "text": text})
            case Reasoning(text, signature=None, redacted=None, id=None):
                blocks.append({"type": "thinking", "thinking": text})
            case Image() | Document():
                raise misplaced_part(part, "assistant", "Cohere")
    calls = [
        {"id": p.id, "type": "function", "function": {"name": p.name, "arguments": raw_arguments(p)}}
        for p in parts
        if isinstance(p, ToolCall)
    ]
    return without_none({"role": "assistant", "content": blocks, "tool_calls": calls})


def _result(result: ToolResult) -> dict[str, Any]:
    if any(isinstance(p, Image) for p in result_parts(result)):
        raise ConfigError(
            "Cohere takes no pictures in a tool's result.", hint="Put them into a user message after it."
        )
    text = result_text(result, "".join(_part(p)["text"] for p in result_parts(result)))
    return {"role": "tool", "tool_call_id": result.id, "content": text}


# --- answer -------------------------------------------------------------------------------------------------

_REASONS: dict[str, FinishReason] = {
    "complete": "stop",
    "stop_sequence": "stop",
    "max_tokens": "length",
    "error_limit": "length",
    "tool_call": "tool_calls",
    "error": "error",
    "error_toxic": "content_filter",
    "user_cancel": "cancelled",
    "timeout": "error",
}


class ChatDecoder(BaseDecoder):
    """Reads the events of one answer."""

    format = "cohere"
    reasons = _REASONS

    def __init__(self, provider: Endpoint) -> None:
        super().__init__(provider)
        self._plan: list[str] = []
        self._indexes: dict[object, int] = {}

    def _object(self, value: dict[str, Any], name: str) -> Iterator[Event]:
        kind = string(value.get("type")) or (
            "" if name == "message" else name
        )  # which an event without a name is called
        if not kind and isinstance(value.get("message"), dict):
            yield from self._full_message(value)
            return
        delta = obj(value.get("delta"))
        self._recognized = self._recognized or kind in _EVENTS
        if kind in _EVENTS:
            yield from _EVENTS[kind](self, value, obj(delta.get("message")))

    def _full_message(self, value: dict[str, Any]) -> Iterator[Event]:
        """All of an answer in one object."""
        message = value["message"]
        self._recognized = True
        yield from self._emit_started(value.get("id"), value.get("model"))
        self._plan.append(string(message.get("tool_plan")))
        for part in items(message.get("content")):
            yield from self._part(part)
        for index, call in enumerate(items(message.get("tool_calls"))):
            yield from self._call(index, call)
        for cited in items(message.get("citations")):
            yield _cited(cited)
        yield from self._message_end(value)

    def _part(self, part: dict[str, Any]) -> Iterator[Event]:
        if is_media(part) and (found := media(part)) is not None:
            yield MediaDelta(found)
        yield from self._emit_text("thinking", string(part.get("thinking")))
        yield from self._emit_text("text", string(part.get("text")))

    def _plan_delta(self, value: dict[str, Any], message: dict[str, Any]) -> Iterable[Event]:
        self._plan.append(string(message.get("tool_plan")))
        return ()

    def _final_events(self) -> Iterator[Event]:
        """The plan, once it is whole: it is neither answer nor thinking."""
        plan, self._plan = "".join(self._plan), []
        if plan:
            yield Notice("tool_plan", plan)

    def _call_delta(self, value: dict[str, Any], message: dict[str, Any]) -> Iterator[Event]:
        calls = message.get("tool_calls")
        for call in [calls] if isinstance(calls, dict) else items(calls):
            yield from self._call(value.get("index", 0), call)

    def _call(self, index: object, call: dict[str, Any]) -> Iterator[Event]:
        yield from self._final_events()
        id, function = label(call.get("id")), obj(call.get("function"))
        key = index if isinstance(index, (int, str)) else 0
        if id is not None or key not in self._indexes:  # an id begins a call, whatever its index says
            self._indexes[key], self._call_count = self._call_count, self._call_count + 1
        yield ToolCallDelta(
            self._indexes[key], id, label(function.get("name")), arguments_json(function.get("arguments"))
        )

    def _citation_start(self, value: dict[str, Any], message: dict[str, Any]) -> Iterator[Event]:
        cited = message.get("citations")
        yield from (_cited(c) for c in ([cited] if isinstance(cited, dict) else items(cited)))

    def _message_end(self, value: dict[str, Any]) -> Iterator[Event]:
        if report := _usage(obj(value.get("usage"))):
            yield UsageReport(report)
        self._reason = label(value.get("finish_reason"))
        if value.get("error"):
            raise provider_error(self._provider, {"error": value["error"]})
        self.done = True


# By its type, what an event says: of the event, and of its message.
_Read = Callable[[ChatDecoder, dict[str, Any], dict[str, Any]], Iterable[Event]]
_EVENTS: dict[str, _Read] = {
    "message-start": lambda d, value, _: d._emit_started(value.get("id"), value.get("model")),
    **dict.fromkeys(
        ("content-start", "content-delta"), lambda d, _, message: d._part(obj(message.get("content")))
    ),
    "tool-plan-delta": ChatDecoder._plan_delta,
    **dict.fromkeys(("tool-call-start", "tool-call-delta"), ChatDecoder._call_delta),
    "citation-start": ChatDecoder._citation_start,
    "message-end": lambda d, value, _: d._message_end(obj(value.get("delta"))),
    **dict.fromkeys(("content-end", "tool-call-end", "citation-end"), lambda *_: ()),
}


def _cited(cited: dict[str, Any]) -> Notice:
    """What a piece of the answer rests on; the text of the first source that has a name."""
    source = next(items(cited.get("sources")), {})
    named = citation({**obj(source.get("document")), **source})
    return Notice("citation", named.text, cited)


def _usage(raw: dict[str, Any]) -> Usage | None:
    """Tokens as the model counts them; those that are billed, where it does not say. The count of thinking
    that newer models add stays in `raw`: Cohere's own SDK does not know it."""
    tokens = obj(raw.get("tokens")) or obj(raw.get("billed_units"))
    into, out = count(tokens.get("input_tokens")), count(tokens.get("output_tokens"))
    if into is None and out is None:
        return None
    return Usage(into, out, cache_read_tokens=count(raw.get("cached_tokens")), raw=raw)


DIALECT = Dialect("cohere", encode, ChatDecoder, http_error)
