"""Calls that are written down, and calls that are answered from what was written down."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from ..core.calls import Secret
from ..core.events import Notice
from ..routing.registry import Registry, Route
from ..store.recordings import Recording, Tape, Told, beside, told
from .attempt import Attempt, Handler, Sink


def _told(attempt: Attempt) -> Told:
    return told(attempt.request, attempt.route.provider.name, attempt.guard.texts)


def recording(to: Recording) -> Callable[[Handler], Handler]:
    """A wrapper that writes every answer down. One that the disk refuses costs no answer."""

    def wrapper(handler: Handler) -> Handler:
        async def write(attempt: Attempt, sink: Sink) -> None:
            start, place, about = time.perf_counter(), len(sink.log), _told(attempt)
            await handler(attempt, sink)
            came = [(at - start, event) for at, event in sink.log[place:]]
            headers = sink.traces[-1].headers if sink.traces else {}
            simulated = attempt.route.simulated or "x-nbllm-simulated" in headers
            to.problem = await asyncio.to_thread(to.add, about, came, attempt.guard.texts, simulated)

        return write

    return wrapper


def replaying(tape: Tape, others: Sequence[Attempt]) -> Handler:
    """The handler at the bottom of a replay: it sends nothing. others: who was asked where the first one
    failed."""

    async def play(attempt: Attempt, sink: Sink) -> None:
        asked = next((one for one in (attempt, *others) if tape.has(_told(one))), attempt)
        if asked is not attempt:  # the answer is that one's
            sink.begin(asked)
        played = await asyncio.to_thread(tape.answer, _told(asked))
        sink.publish(Notice("cached", f"replayed from {tape.path.name}", {"simulated": played.simulated}))
        start = time.perf_counter()
        for at, event in played.events:
            wait = start + at - time.perf_counter() if tape.pace == "recorded" else 0.0
            if wait > 0:
                await asyncio.sleep(wait)
            sink.publish(event)

    return play


@dataclass(slots=True)
class Tapes:
    """What a client's calls are written to, and what they are answered from: None for neither. NBLLM_RECORD
    and NBLLM_REPLAY say so for a process: a file, or 1 for the notebook's."""

    env: Mapping[str, str] = field(repr=False)  # it holds keys
    to: Recording | None = None
    source: Tape | None = None
    _looked: bool = False

    def look(self) -> Tape | None:
        """What calls are answered from. Raises ConfigError where the environment names what cannot be
        read."""
        if not self._looked:
            told, asked = (self.env.get(name, "") for name in ("NBLLM_REPLAY", "NBLLM_RECORD"))
            if told not in _OFF and self.source is None:
                self.source = Tape(beside(there=True) if told in _ON else Path(told))
            if asked not in _OFF and self.to is None:
                self.to = Recording(beside() if asked in _ON else Path(asked))
            self._looked = True
        return self.source

    @contextmanager
    def record(self, path: str | Path) -> Iterator[Recording]:
        """Within, calls are written to a file."""
        before, self.to = self.to, Recording(Path(path))
        try:
            yield self.to
        finally:
            self.to = before

    @contextmanager
    def replay(self, path: str | Path, pace: str = "now") -> Iterator[Tape]:
        """Within, calls are answered from a file, and nothing is sent."""
        before, self.source = self.source, Tape(Path(path), pace)
        try:
            yield self.source
        finally:
            self.source = before

    def keys(self, registry: Registry) -> Callable[[Route, str | Secret | None], Secret | None]:
        """What finds a route's key: a replay needs none, and looks for none."""
        return registry.key_for if self.look() is None else lambda route, given: None

    def around(self, handler: Handler) -> Handler:
        """The handler of a call, with its answer written down."""
        return handler if self.to is None else recording(self.to)(handler)


_ON, _OFF = ("1", "true", "on"), ("", "0", "false", "off")
