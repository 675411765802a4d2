"""What every decoder needs: the objects in a frame, the error in an object, and how an answer ends."""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from typing import Any

from ..errors import NbllmError, ProtocolError, ServerError, StreamCut
from ..events import Event, Finished, FinishReason, Notice
from ..wire import Frame, Provider
from .common import Halves, items, load_json, obj, provider_error, string

_ANSWERS = frozenset({"choices", "usage", "output", "response", "type", "object"})
_BEATS = re.compile(r"(?i)(:|ping|pong|keep-?alive|heartbeat)")


def values(frame: Frame, provider: Provider) -> Iterator[dict[str, Any] | None]:
    """The objects in a frame, None for the end mark. Heartbeats, empty data, numbers and the like are none; a fragment
    at the very end is dropped, because whether the answer was whole is decided by its end sign."""
    text = frame.data.strip()
    while text.startswith("data:"):  # proxies that wrap an event stream in another one
        text = text[5:].lstrip()
    if text.startswith("[DONE]"):
        yield None
        return
    if not text or (text[0] not in "{[" and (_BEATS.match(text) or _BEATS.match(frame.name))):
        return
    try:
        value = load_json(text)
    except ProtocolError:
        if frame.name == "error":
            raise provider_error(provider, text) from None
        if frame.tail:
            return
        raise
    if isinstance(value, dict):
        yield value
    elif isinstance(value, str) and frame.name == "error":
        raise provider_error(provider, value)
    else:
        yield from items(value)


def failure(value: dict[str, Any], name: str) -> dict[str, Any] | None:
    """The error object that `value` is or holds, None where it is none: an `error` in it, something that is called one,
    or words without any part of an answer (FastAPI's `detail`, a gateway's `message`)."""
    kind = string(value.get("type"))
    called = name == "error" or value.get("object") == "error" or kind.endswith("error")
    if value.get("error") or called or value.get("success") is False:
        return {k: v for k, v in value.items() if k != "type"} if kind == "error" else value
    words = value.get("detail") or value.get("errors") or string(value.get("message")) or string(value.get("msg"))
    return value if words and _ANSWERS.isdisjoint(value) else None


class Reading(ABC):
    """A decoder's common part: it takes frames apart, raises the errors in them, and hands each object to `_object`.

    `done`: the end mark has come. `_chunks`: objects so far. `_known`: one of them was in the format of this dialect.
    """

    def __init__(self, provider: Provider) -> None:
        self.done = False
        self._provider = provider
        self._chunks = 0
        self._known = False
        self._halves = Halves()

    def feed(self, frame: Frame) -> Iterator[Event]:
        """The events in `frame`. Raises ProviderError for an error."""
        for value in values(frame, self._provider):
            if value is None or self.done:
                continue
            if (problem := failure(value, frame.name)) is not None:
                raise provider_error(self._provider, problem)
            self._chunks += 1
            yield from self._object(value, frame.name)

    @abstractmethod
    def _object(self, value: dict[str, Any], name: str) -> Iterator[Event]:
        """The events in one object of a frame called `name`."""


def unfinished(provider: Provider, chunks: int, known: bool) -> NbllmError:
    """The error for an answer without an end: `chunks` objects came, `known` in the format of this dialect."""
    name = provider.label or provider.name
    if not chunks:  # what an overloaded server does: its trouble, and passing
        return ServerError(f"{name} sent an empty answer.", hint="Ask again in a moment.")
    if not known:
        return ProtocolError(f"{name} sent JSON of another format.", hint="Check that base_url and dialect belong together.")
    return StreamCut(f"{name} stopped before the end of its answer.", hint="Ask again; `.partial` holds what came.")


def citation(data: Any) -> Notice:
    """A source that the answer names: an address, or an object that holds one."""
    about = obj(data)
    about = obj(about.get(string(about.get("type")))) or about
    text = next((string(about.get(k)) for k in ("url", "title", "filename", "name") if about.get(k)), "")
    return Notice("citation", text or string(data), obj(data))


def finish(raw: str | None, calls: bool, reasons: Mapping[str, FinishReason]) -> Finished:
    """The end. Calls make a plain stop a stop for calls, and nobody must wait for calls that never came."""
    reason = reasons.get(raw.lower(), "other") if raw else "stop"
    if reason in ("stop", "tool_calls"):
        reason = "tool_calls" if calls else "stop"
    return Finished(reason, raw)
