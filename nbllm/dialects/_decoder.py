"""What every decoder needs: the objects in a frame, the error in an object, and how an answer ends."""

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
_EXCERPT = 300  # characters of what came in no known format
_DONE_MARKS = ("[DONE]", "[done]", "DONE")  # of the end, as servers write it
_WRAPPED = re.compile(r"(?:data:\s*)+")
_HEARTBEAT = re.compile(r"(?i)(:|ping|pong|keep-?alive|heartbeat)")


def frame_text(frame: Frame) -> str:
    """What a frame says; "" for a heartbeat."""
    text = frame.data.strip()
    if text.startswith("data:"):  # proxies that wrap an event stream in another one
        text = _WRAPPED.sub("", text, count=1)
    is_heartbeat = text[:1] not in ("{", "[") and (_HEARTBEAT.match(text) or _HEARTBEAT.match(frame.name))
    return "" if is_heartbeat else text


def frame_objects(frame: Frame, provider: Endpoint) -> Iterator[dict[str, Any] | None]:
    """The objects in a frame, None for the end mark. Heartbeats, empty data, numbers and the like are none; a
    fragment at the very end is dropped, because whether the answer was whole is decided by its end sign."""
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
        if len(lines) > 1 and all(map(_is_complete_line, lines[:-1])):  # events that no blank line parts
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
    """Whether a line may be all of an event: an object, a list, an end mark, or nothing."""
    return line[:1] + line[-1:] in ("", "{}", "[]")


_MESSAGE_FIELDS = ("message", "msg", "error_msg", "error_message", "errorMessage")


def find_error(value: dict[str, Any], name: str) -> dict[str, Any] | None:
    """The error object that `value` is or holds, None where it is none: an `error` in it, something that is
    called one, or words without any part of an answer (FastAPI's `detail`, a gateway's `message`)."""
    base = value.get("base_resp")  # MiniMax, whose status 0 means that all is well
    if base and obj(base).get("status_code"):
        return {"message": base.get("status_msg"), "code": base["status_code"]}
    kind = string(value.get("type"))
    called = name == "error" or value.get("object") == "error" or kind.endswith("error")
    if value.get("error") or called or value.get("success") is False:
        return {k: v for k, v in value.items() if k != "type"} if kind == "error" else value
    if not _ANSWER_FIELDS.isdisjoint(value):  # nearly all there is
        return None
    words = (
        value.get("detail") or value.get("errors") or any(string(value.get(name)) for name in _MESSAGE_FIELDS)
    )
    return value if words else None


class BaseDecoder(ABC):
    """A decoder's common part: it takes frames apart, raises the errors in them, hands each object to
    `_object`, and ends the answer.

    `format`: the dialect; `reasons`: its words for why an answer ends; `marked`: [DONE] is its end mark.
    `done`: the end mark has come. `_known`: something came in the format of this dialect; before that,
    `_said` is what came. `_reason`: the word for the end; `_calls`: how many calls of tools came; `_short`:
    what reads usual chunks.
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

    def read_fast(self, frames: list[Frame], place: int) -> list[Item]:
        """See core.calls.FastRead."""
        if (
            self._fast_reader is None
            or not self._recognized
            or self.ended
            or self.done
            or self._joiner.pending
        ):
            return []  # behind the word for the end come counts and marks
        return self._fast_reader.read(frames, place)

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

    def _raise_error(self, problem: dict[str, Any] | None) -> None:
        """Raises the error that an object was found to be."""
        if problem is not None:
            raise provider_error(self._provider, problem)

    def _check_format(self, value: Mapping[str, Any]) -> None:
        """Raises ProtocolError where the address speaks another dialect."""
        if self._recognized or _FORMATS[self.format][1](value):
            return
        found = next((name for name, (_, speaks) in _FORMATS.items() if speaks(value)), None)
        if found is not None:
            raise ProtocolError(
                f"{self._provider.label or self._provider.name} answered in the format of "
                f"{_FORMATS[found][0]}, but it was asked in that of {_FORMATS[self.format][0]}.",
                hint=f"Ask with dialect={found}, or check base_url.",
            )

    def _emit_started(self, id: Any, model: Any) -> Iterator[Event]:
        """The answer's id and its model, where they are news."""
        now = Started(label(id) or self._started.id, label(model) or self._started.model)
        if now != self._started:
            self._started = now
            yield now

    def _emit_text(self, place: Any, text: str) -> Iterator[Event]:
        """A piece of text for a place, as far as its last character is whole."""
        if text := self._joiner.join(place, text):
            yield from self._emit_joined(place, text)

    def _emit_joined(self, place: Any, text: str) -> Iterator[Event]:
        yield TextDelta(text) if place == "text" else ReasoningDelta(text)

    def _flush_halves(self, *places: Any) -> Iterator[Event]:
        """The half characters of these places whose other half will not come."""
        for place in places:
            if self._joiner.pending.pop(place, None):
                yield from self._emit_joined(place, "\ufffd")

    def _is_new_source(self, source: Any) -> bool:
        """Whether a source was not cited before."""
        key, size = dumps(source), len(self._seen_sources)
        self._seen_sources.add(key)
        return len(self._seen_sources) > size

    @property
    def ended(self) -> bool:
        """See core.calls.Decoder."""
        return self._reason is not None

    @property
    def _is_complete(self) -> bool:
        """Whether the answer has its end."""
        return self.done

    def close(self) -> Iterator[Event]:
        """The end. Raises StreamCut where the answer has none."""
        if self._is_complete:
            yield from self._final_events()
        yield from self._flush_halves(*self._joiner.pending)
        if not (self._recognized and self._is_complete):
            raise unfinished_error(self._provider, self._first_text, self._recognized)
        yield self._finished_event()

    def _final_events(self) -> Iterator[Event]:
        """What is told at the end alone."""
        yield from ()

    def _finished_event(self) -> Finished:
        return finished_event(self._reason, self._call_count > 0, self.reasons)


def excerpt(frame: Frame) -> str:
    """The beginning of what a frame says; "" for an end mark, and for a fragment at the very end."""
    text = frame_text(frame)
    text = "" if frame.tail and not _is_complete_line(text) else text
    return "" if text.startswith(_DONE_MARKS) else text if len(text) <= _EXCERPT else text[:_EXCERPT] + "…"


def _typed(value: Mapping[str, Any], *beginnings: str) -> bool:
    return string(value.get("type")).startswith(beginnings)


# How the formats are told apart: a name for people, and what only they send.
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
    """Which of several answers side by side (n > 1) is ours: the first, or where a relay that numbers them
    oddly sends another alone, that one."""

    __slots__ = ("index",)

    def __init__(self) -> None:
        self.index: Any = None

    def select(self, choices: list[Any]) -> list[dict[str, Any]]:
        """Our pieces in a list. One without an index is known by its place."""
        if len(choices) == 1 and self.index == 0 and obj(choices[0]).get("index") == 0:
            return choices  # nearly always
        found = [
            (place if choice.get("index") is None else choice["index"], choice)
            for place, choice in enumerate(choices)
            if isinstance(choice, dict)
        ]
        if self.index is None:
            speaking = [index for index, choice in found if any(map(choice.get, _TEXT_FIELDS))]
            self.index = 0 if any(index == 0 for index, _ in found) else next(iter(speaking), None)
        return [choice for index, choice in found if index == self.index]


def unfinished_error(provider: Endpoint, said: str, known: bool) -> NbllmError:
    """The error for an answer without an end. said: what came first; known: something was in the format of
    this dialect."""
    name = provider.label or provider.name
    if known:
        return StreamCut(
            f"{name} stopped before the end of its answer.", hint="Ask again; `.partial` holds what came."
        )
    if said:
        return ProtocolError(
            f"{name} answered in a format that is not known: {said}",
            hint="Check that base_url and dialect belong together.",
        )
    # what an overloaded server does: its trouble, and passing
    return ServerError(f"{name} sent an empty answer.", hint="Ask again in a moment.")


_THOUGHT_TYPES = ("reasoning", "thinking", "thought", "redacted_thinking")
_THOUGHT_FIELDS = ("thinking", "reasoning", "reasoning_content", "text", "summary", "content")


def is_thought(part: Any) -> bool:
    """Whether a part of an answer's content is thinking: Mistral, Databricks and others send it there."""
    return string(obj(part).get("type")).startswith(_THOUGHT_TYPES)


def thought_text(value: Any, depth: int = 4) -> str:
    """The words of a thought: a text, an object that holds one under some name, or a list of them. Summaries
    are paragraphs."""
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
    """The signature of a thought: its own, or that of the last summary in it."""
    signed = [part, *(p for name in _THOUGHT_FIELDS for p in items(part.get(name)))]
    return next((s for p in reversed(signed) if (s := string(p.get("signature")))), None)


def citation(data: Any) -> Notice:
    """A source that the answer names: an address, or an object that holds one."""
    about = obj(data)
    about = obj(about.get(string(about.get("type")))) or about
    text = next((string(about.get(k)) for k in ("url", "title", "filename", "name") if about.get(k)), "")
    return Notice("citation", text or string(data), obj(data))


def finished_event(raw: str | None, calls: bool, reasons: Mapping[str, FinishReason]) -> Finished:
    """The end. Calls make a plain stop a stop for calls, and nobody must wait for calls that never came."""
    # Google's compatible endpoint adds its own word behind a colon: "content_filter: RECITATION"
    reason = (
        reasons.get(raw.lower()) or reasons.get(raw.lower().partition(":")[0], "other") if raw else "stop"
    )
    if reason in ("stop", "tool_calls"):
        reason = "tool_calls" if calls else "stop"
    return Finished(reason, raw)
