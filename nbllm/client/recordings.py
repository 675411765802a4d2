"""Calls that are written down, and calls that are answered from what was written down."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from msgspec import structs

from ..core.calls import Secret
from ..core.codec import digest
from ..core.errors import NbllmError
from ..core.events import Notice
from ..routing.registry import Registry, Route
from ..store.recordings import Recording, Tape, Told, beside, told
from .attempt import Attempt, Handler, Sink


def _told(attempt: Attempt, others: Sequence[Attempt] = ()) -> Told:
    """A call as it is written down; the order of models that are asked in turn may be of the moment."""
    there = [told(o.request, o.route.provider.name, o.guard.secrets) for o in (attempt, *others)]
    if not others:
        return there[0]
    request = {**there[0].request, "others": [f"{t.provider}/{t.model}" for t in there[1:]]}
    return structs.replace(there[0], request=request, hash=digest(sorted(t.hash for t in there)))


def recording(to: Recording, others: Sequence[Attempt]) -> Callable[[Handler], Handler]:
    """A wrapper that writes down what came of every call: an answer, whoever gave it, or an error. One that
    the disk refuses costs no answer. others: who is asked where the first one fails."""

    def wrapper(handler: Handler) -> Handler:
        async def write(attempt: Attempt, sink: Sink) -> None:
            start, place, about = time.perf_counter(), len(sink.log), _told(attempt, others)
            failed: NbllmError | None = None
            try:
                await handler(attempt, sink)
            except NbllmError as error:
                failed = error
            came = [(at - start, event) for at, event in sink.log[place:]]
            moves = sum(isinstance(event, Notice) and event.kind == "failover" for _, event in came)
            asked = (attempt, *others)[moves]
            by = _told(asked) if moves else None
            simulated = asked.route.simulated or any(trace.simulated for trace in sink.traces[-1:])
            secrets = [text for one in (attempt, *others) for text in one.guard.secrets]
            to.problem = await asyncio.to_thread(
                to.add, about, came, secrets, simulated, by=by, failed=failed
            )
            if failed is not None:
                raise failed

        return write

    return wrapper


def replaying(tape: Tape, others: Sequence[Attempt]) -> Handler:
    """The handler at the bottom of a replay: it sends nothing. others: who was asked where the first one
    failed."""

    async def play(attempt: Attempt, sink: Sink) -> None:
        whole, each = _told(attempt, others), [(one, _told(one)) for one in (attempt, *others)]
        asked = next((about for about in (whole, *(about for _, about in each)) if tape.has(about)), whole)
        played = await asyncio.to_thread(tape.answer, asked)
        by = next((one for one, about in each if [about.provider, about.model] == played.by), attempt)
        if by is not attempt:  # the answer is that one's
            sink.begin(by)
        sink.publish(Notice("cached", f"replayed from {tape.path.name}", {"simulated": played.simulated}))
        start = time.perf_counter()
        for at, event in played.events:
            wait = start + at - time.perf_counter() if tape.pace == "recorded" else 0.0
            if wait > 0:
                await asyncio.sleep(wait)
            sink.publish(event)
        if played.error is not None:
            raise played.error

    return play


class Tapes:
    """What a client's calls are written to, and what they are answered from: None for neither. NBLLM_RECORD
    and NBLLM_REPLAY say so for a process: a file, or 1 for the notebook's."""

    def __init__(self, env: Mapping[str, str]) -> None:
        self._env, self._looked = env, False
        self.to: Recording | None = None
        self.source: Tape | None = None

    def look(self) -> Tape | None:
        """What calls are answered from. Raises ConfigError where the environment names what cannot be
        read."""
        if not self._looked:
            told, asked = (self._env.get(name, "") for name in ("NBLLM_REPLAY", "NBLLM_RECORD"))
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

    def wrap(self, others: Sequence[Attempt]) -> tuple[Callable[[Handler], Handler], ...]:
        """What writes a call down, where calls are recorded. others: who is asked where the first fails."""
        return () if self.to is None else (recording(self.to, others),)


_ON, _OFF = ("1", "true", "on"), ("", "0", "false", "off")
