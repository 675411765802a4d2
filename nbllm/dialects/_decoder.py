"""The base of all decoders: reading objects from frames, finding errors in them, and ending the answer."""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from typing import Any, ClassVar

from ..core.calls import Endpoint, Frame
from ..core.errors import NbllmError, ProtocolError, ServerError, StreamCut
from ..core.events import (
    Event,
    Finished,
    FinishReason,
    Item,
    Notice,
    ReasoningDelta,
    Started,
    TextDelta,
)
from ._errors import provider_error
from ._fast_path import FastReader
from ._json import SurrogateJoiner, items, label, load_json, obj, string
from ._media import Media
from ._request import dumps

_ANSWER_FIELDS = frozenset({"choices", "usage", "output", "response", "type", "object"})
_EXCERPT = 300  # characters of a text in an unknown format that are shown
_DONE_MARKS = ("[DONE]", "[done]", "DONE")  # variants of the end mark
_WRAPPED = re.compile(r"(?:data:\s*)+")
_HEARTBEAT = re.compile(r"(?i)(:|ping|pong|keep-?alive|heartbeat)")


def frame_text(frame: Frame) -> str:
    """A frame's text; "" for a heartbeat."""
    text = frame.data.strip()
    if text.startswith("data:"):  # from proxies that wrap an event stream in another one
        text = _WRAPPED.sub("", text, count=1)
    is_heartbeat = text[:1] not in ("{", "[") and (_HEARTBEAT.match(text) or _HEARTBEAT.match(frame.name))
    return "" if is_heartbeat else text


def frame_objects(frame: Frame, provider: Endpoint) -> Iterator[dict[str, Any] | None]:
    """The objects in a frame, None for the end mark. Heartbeats, empty data, numbers and the like are
    skipped. So is a fragment at the very end: whether the answer is complete is decided by its end mark.

    Raises ProtocolError for text that is not JSON, ProviderError for an error in plain text.
    """
    text = frame_text(frame)
    if text.startswith(_DONE_MARKS):
        yield None
        return
    if not text:
        return
    try:
        value = load_json(text)
    except ProtocolError:
        lines = text.split("\n") if "\n" in text else ()
        if frame.name == "error":
            raise provider_error(provider, text) from None
        if len(lines) > 1 and all(
            map(_is_complete_line, lines[:-1])
        ):  # events without a blank line between them
            for n, line in enumerate(lines, 1):
                yield from frame_objects(
                    frame._replace(data=line, tail=frame.tail and n == len(lines)), provider
                )
            return
        if frame.tail:
            return
        raise
    if isinstance(value, dict):
        yield value
    elif isinstance(value, str) and frame.name == "error":
        raise provider_error(provider, value)
    else:
        yield from items(value)


def _is_complete_line(line: str) -> bool:
    """Whether a line may be complete JSON: an object, a list (as is an end mark), or empty."""
    return line[:1] + line[-1:] in ("", "{}", "[]")


_MESSAGE_FIELDS = ("message", "msg", "error_msg", "error_message", "errorMessage")


def find_error(value: dict[str, Any], name: str) -> dict[str, Any] | None:
    """`value` (or what of it describes the error) if it is an error, else None. It is one if it has an
    `error` or is named one, or if it has a message but no part of an answer (FastAPI's `detail`, a gateway's
    `message`)."""
    base = value.get("base_resp")  # MiniMax, whose status 0 means success
    if base and obj(base).get("status_code"):
        return {"message": base.get("status_msg"), "code": base["status_code"]}
    kind = string(value.get("type"))
    is_named = name == "error" or value.get("object") == "error" or kind.endswith("error")
    if value.get("error") or is_named or value.get("success") is False:
        return {k: v for k, v in value.items() if k != "type"} if kind == "error" else value
    if not _ANSWER_FIELDS.isdisjoint(value):  # nearly always
        return None
    message = (
        value.get("detail") or value.get("errors") or any(string(value.get(name)) for name in _MESSAGE_FIELDS)
    )
    return value if message else None


class BaseDecoder(ABC):
    """Base class of decoders: reads objects from frames, raises the errors in them, passes each object to
    `_object`, and ends the answer.

    `format`: the dialect; `reasons`: finish reasons by its words for them; `has_done_mark`: it ends with
    [DONE]. `done`: the end mark has come. `_recognized`: something in the format of this dialect has come;
    until then, `_first_text` is an excerpt of the first text. `_reason`: the dialect's finish reason;
    `_call_count`: number of tool calls so far; `_fast_reader`: reads simple chunks.
    """

    format: ClassVar[str]
    reasons: ClassVar[Mapping[str, FinishReason]] = {}
    has_done_mark: ClassVar[bool] = False

    def __init__(self, provider: Endpoint) -> None:
        self.done = False
        self._provider = provider
        self._first_text = ""
        self._recognized = False
        self._reason: str | None = None
        self._call_count = 0
        self._started = Started()
        self._joiner = SurrogateJoiner()
        self._media = Media()
        self._seen_sources: set[str] = set()
        self._fast_reader: FastReader | None = None

    def read_fast(self, frames: list[Frame], start: int) -> list[Item]:
        """See core.calls.FastRead."""
        if (
            self._fast_reader is None
            or not self._recognized
            or self.ended
            or self.done
            or self._joiner.pending
        ):
            return []  # after the finish reason only usage and marks come
        return self._fast_reader.read(frames, start)

    def feed(self, frame: Frame) -> Iterator[Event]:
        """The events in `frame`. Raises ProviderError for an error, ProtocolError for another format."""
        if self.done:
            return
        if not self._recognized:
            self._first_text = self._first_text or excerpt(frame)
        for value in frame_objects(frame, self._provider):
            if value is None:
                self.done = self.done or self.has_done_mark
            elif not self.done:
                yield from self._read(value, frame.name)

    def _read(self, value: dict[str, Any], name: str) -> Iterator[Event]:
        self._raise_error(find_error(value, name))
        self._check_format(value)
        yield from self._object(value, name)

    @abstractmethod
    def _object(self, value: dict[str, Any], name: str) -> Iterator[Event]:
        """The events in one object of a frame called `name`."""

    def _raise_error(self, error: dict[str, Any] | None) -> None:
        """Raises the ProviderError for an error object; does nothing for None."""
        if error is not None:
            raise provider_error(self._provider, error)

    def _check_format(self, value: Mapping[str, Any]) -> None:
        """Raises ProtocolError for an object in the format of another dialect."""
        if self._recognized or _FORMATS[self.format][1](value):
            return
        found = next((name for name, (_, matches) in _FORMATS.items() if matches(value)), None)
        if found is not None:
            raise ProtocolError(
                f"{self._provider.label or self._provider.name} answered in the format of "
                f"{_FORMATS[found][0]}, but the request was in that of {_FORMATS[self.format][0]}.",
                hint=f"Use dialect={found}, or check base_url.",
            )

    def _emit_started(self, id: Any, model: Any) -> Iterator[Event]:
        """The answer's id and model, if they are new."""
        now = Started(label(id) or self._started.id, label(model) or self._started.model)
        if now != self._started:
            self._started = now
            yield now

    def _emit_text(self, channel: Any, text: str) -> Iterator[Event]:
        """The event for a piece of text; half a character at its end waits for the next piece. channel:
        "text", or another key of the subclass for thinking, arguments and the like."""
        if text := self._joiner.join(channel, text):
            yield from self._emit_joined(channel, text)

    def _emit_joined(self, channel: Any, text: str) -> Iterator[Event]:
        """The event for a text of complete characters."""
        yield TextDelta(text) if channel == "text" else ReasoningDelta(text)

    def _flush_halves(self, *channels: Any) -> Iterator[Event]:
        """U+FFFD for half characters in these channels, whose other half will not come."""
        for channel in channels:
            if self._joiner.pending.pop(channel, None):
                yield from self._emit_joined(channel, "\ufffd")

    def _is_new_source(self, source: Any) -> bool:
        """Whether a source was not cited before; remembers it."""
        key, size = dumps(source), len(self._seen_sources)
        self._seen_sources.add(key)
        return len(self._seen_sources) > size

    @property
    def ended(self) -> bool:
        """See core.calls.Decoder."""
        return self._reason is not None

    @property
    def _is_complete(self) -> bool:
        """Whether the answer has come to its proper end."""
        return self.done

    def close(self) -> Iterator[Event]:
        """The last events, Finished among them. Raises StreamCut for an answer that was cut off."""
        if self._is_complete:
            yield from self._final_events()
        yield from self._flush_halves(*self._joiner.pending)
        if not (self._recognized and self._is_complete):
            raise unfinished_error(self._provider, self._first_text, self._recognized)
        yield self._finished_event()

    def _final_events(self) -> Iterator[Event]:
        """Events that come only at the end."""
        yield from ()

    def _finished_event(self) -> Finished:
        return finished_event(self._reason, self._call_count > 0, self.reasons)


def excerpt(frame: Frame) -> str:
    """The beginning of a frame's text; "" for an end mark, and for a fragment at the very end."""
    text = frame_text(frame)
    text = "" if frame.tail and not _is_complete_line(text) else text
    return "" if text.startswith(_DONE_MARKS) else text if len(text) <= _EXCERPT else text[:_EXCERPT] + "…"


def _typed(value: Mapping[str, Any], *beginnings: str) -> bool:
    return string(value.get("type")).startswith(beginnings)


# For each dialect: its name in messages, and a test for objects that only this dialect sends.
_FORMATS: dict[str, tuple[str, Callable[[Mapping[str, Any]], bool]]] = {
    "openai_chat": (
        "OpenAI's Chat Completions",
        lambda v: (
            isinstance(v.get("choices"), list)
            or string(v.get("object")).startswith(("chat.completion", "text_completion"))
        ),
    ),
    "openai_responses": (
        "OpenAI's Responses API",
        lambda v: _typed(v, "response.") or v.get("object") == "response",
    ),
    "anthropic": (
        "Anthropic's Messages",
        lambda v: (
            _typed(v, "message_", "content_block_")
            or (v.get("type") == "message" and isinstance(v.get("content"), list))
        ),
    ),
    "gemini": (
        "Google's generateContent",
        lambda v: (
            isinstance(v.get("candidates"), list) or bool({"usageMetadata", "promptFeedback"} & v.keys())
        ),
    ),
    "ollama": ("Ollama's API", lambda v: isinstance(v.get("done"), bool)),
    "cohere": (
        "Cohere's Chat",
        lambda v: (
            _typed(v, "message-", "content-", "tool-plan", "tool-call-", "citation-")
            or isinstance(obj(v.get("message")).get("content"), list)
        ),
    ),
}


_TEXT_FIELDS = ("delta", "message", "text", "content")


class ChoiceSelector:
    """Selects one of several parallel answers (n > 1): the one with index 0, or the only one that a relay
    with other indexes sends."""

    __slots__ = ("index",)

    def __init__(self) -> None:
        self.index: Any = None

    def select(self, choices: list[Any]) -> list[dict[str, Any]]:
        """The choices in a list that belong to our answer. The index of a choice defaults to its position."""
        if len(choices) == 1 and self.index == 0 and obj(choices[0]).get("index") == 0:
            return choices  # nearly always
        found = [
            (position if choice.get("index") is None else choice["index"], choice)
            for position, choice in enumerate(choices)
            if isinstance(choice, dict)
        ]
        if self.index is None:
            with_text = [index for index, choice in found if any(map(choice.get, _TEXT_FIELDS))]
            self.index = 0 if any(index == 0 for index, _ in found) else next(iter(with_text), None)
        return [choice for index, choice in found if index == self.index]


def unfinished_error(provider: Endpoint, first_text: str, recognized: bool) -> NbllmError:
    """The error for an answer without an end. first_text: its beginning; recognized: something was in the
    format of this dialect."""
    name = provider.label or provider.name
    if recognized:
        return StreamCut(
            f"{name} stopped before the end of its answer.",
            hint="Try again; `.partial` has the answer so far.",
        )
    if first_text:
        return ProtocolError(
            f"{name} answered in an unknown format: {first_text}",
            hint="Check that base_url and dialect belong together.",
        )
    # overloaded servers do this, so it is a transient error
    return ServerError(f"{name} sent an empty answer.", hint="Try again in a moment.")


_THOUGHT_TYPES = ("reasoning", "thinking", "thought", "redacted_thinking")
_THOUGHT_FIELDS = ("thinking", "reasoning", "reasoning_content", "text", "summary", "content")


def is_thought(part: Any) -> bool:
    """Whether a part of an answer's content is thinking, which Mistral, Databricks and others send there."""
    return string(obj(part).get("type")).startswith(_THOUGHT_TYPES)


def thought_text(value: Any, depth: int = 4) -> str:
    """The text of a thought, which may be a string, an object with it under some name, or a list of these.
    Summaries become paragraphs."""
    if isinstance(value, str) or not depth:
        return value if isinstance(value, str) else ""
    if isinstance(value, list):
        return "".join(thought_text(v, depth - 1) for v in value)
    name = next((n for n in _THOUGHT_FIELDS if obj(value).get(n)), "")
    inner = obj(value).get(name)
    if name == "summary" and isinstance(inner, list):
        return "\n\n".join(filter(None, (thought_text(v, depth - 1) for v in inner)))
    return thought_text(inner, depth - 1)


def thought_signature(part: Mapping[str, Any]) -> str | None:
    """The signature of a thought: the last one in its summaries, else its own; None for none."""
    signed = [part, *(p for name in _THOUGHT_FIELDS for p in items(part.get(name)))]
    return next((s for p in reversed(signed) if (s := string(p.get("signature")))), None)


def citation(data: Any) -> Notice:
    """The notice for a cited source: a URL, or an object that contains one."""
    about = obj(data)
    about = obj(about.get(string(about.get("type")))) or about
    text = next((string(about.get(k)) for k in ("url", "title", "filename", "name") if about.get(k)), "")
    return Notice("citation", text or string(data), obj(data))


def finished_event(raw: str | None, calls: bool, reasons: Mapping[str, FinishReason]) -> Finished:
    """The Finished event for a dialect's reason. "stop" becomes "tool_calls" if there are calls, and the
    reverse if there are none, so that nobody waits for calls that did not come."""
    # Google's compatible endpoint adds its own word behind a colon: "content_filter: RECITATION"
    reason = (
        reasons.get(raw.lower()) or reasons.get(raw.lower().partition(":")[0], "other") if raw else "stop"
    )
    if reason in ("stop", "tool_calls"):
        reason = "tool_calls" if calls else "stop"
    return Finished(reason, raw)
