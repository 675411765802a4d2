"""Cohere's Chat API, version 2.

A stream consists of typed events about one message: message-start, content (thinking or text) that starts,
grows and ends, the plan before tool calls, calls, citations, message-end with finish reason and usage, and
[DONE]. Each event has its new content under delta.message. A non-streaming answer is one object with the
message in it.

The answer is complete when message-end has come, or all of it in one object. Otherwise it was cut off.
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
    """The streaming call for `request`: POST /v2/chat.

    An effort word becomes a thinking budget in tokens. If one tool is strict, all are (strict_tools). A
    schema becomes response_format. Documents are sent as text; for grounded answers put Cohere's own
    `documents` into `extra`. Only Cohere's own thinking is sent back, which has neither a signature nor an
    id. Raises ConfigError for tool_choice with a tool's name, and for a schema together with tools.
    """
    if request.schema is not None and request.tools:
        raise ConfigError(
            "Cohere takes a schema or tools, but not both.",
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


def _thinking(reasoning: str | int | None) -> dict[str, Any] | None:
    if reasoning is None:
        return None
    tokens = reasoning_budget(reasoning)
    return {"type": "enabled", "token_budget": tokens} if tokens else {"type": "disabled"}


def _choice(choice: str | None) -> str | None:
    if choice not in _CHOICES:
        raise ConfigError(
            f"Cohere cannot be forced to call a certain tool (tool_choice={choice!r}).",
            hint='Pass only that tool, with tool_choice="required".',
        )
    return _CHOICES[choice]


def _turns(message: Message) -> Iterator[dict[str, Any]]:
    """The protocol's messages for one of ours: each tool result is a message of its own."""
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
            "Cohere takes no pictures in the result of a tool.", hint="Put them into a user message after it."
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
        kind = string(value.get("type")) or ("" if name == "message" else name)  # of an unnamed event
        if not kind and isinstance(value.get("message"), dict):
            yield from self._full_message(value)
            return
        delta = obj(value.get("delta"))
        self._recognized = self._recognized or kind in _EVENTS
        if kind in _EVENTS:
            yield from _EVENTS[kind](self, value, obj(delta.get("message")))

    def _full_message(self, value: dict[str, Any]) -> Iterator[Event]:
        """The events of a non-streaming answer."""
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
        """The notice with the complete plan, which is neither answer nor thinking."""
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
        if id is not None or key not in self._indexes:  # an id begins a new call, under any index
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


# What reads an event of each type; called with the decoder, the event, and its message.
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
    """The notice for a citation; its text names the first source."""
    source = next(items(cited.get("sources")), {})
    named = citation({**obj(source.get("document")), **source})
    return Notice("citation", named.text, cited)


def _usage(raw: dict[str, Any]) -> Usage | None:
    """Usage from the model's token counts, else from the billed ones; None for neither. Thinking tokens,
    which newer models report and Cohere's own SDK does not know, are only in `raw`."""
    tokens = obj(raw.get("tokens")) or obj(raw.get("billed_units"))
    input_tokens, output_tokens = count(tokens.get("input_tokens")), count(tokens.get("output_tokens"))
    if input_tokens is None and output_tokens is None:
        return None
    return Usage(input_tokens, output_tokens, cache_read_tokens=count(raw.get("cached_tokens")), raw=raw)


DIALECT = Dialect("cohere", encode, ChatDecoder, http_error)
