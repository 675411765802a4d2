"""Recording of calls to a file, and replay of calls from one."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path

from msgspec import structs

from ..core.calls import Secret
from ..core.codec import digest
from ..core.errors import NbllmError
from ..core.events import Notice
from ..routing.registry import Registry, Route
from ..store.recordings import RecordedRequest, Recording, Tape, recording_path, to_recorded_request
from .attempt import Attempt, Handler, Sink


def _request_record(attempt: Attempt, others: Sequence[Attempt] = ()) -> RecordedRequest:
    """A request in its recorded form. With `others`, the models of a failover, it is found again in whatever
    order they are given."""
    records = [
        to_recorded_request(a.request, a.route.provider.name, a.guard.secrets) for a in (attempt, *others)
    ]
    if not others:
        return records[0]
    request = {**records[0].request, "others": [f"{r.provider}/{r.model}" for r in records[1:]]}
    return structs.replace(records[0], request=request, hash=digest(sorted(r.hash for r in records)))


def recording(handler: Handler, *, target: Recording, others: Sequence[Attempt]) -> Handler:
    """Records the outcome of every call: the answer, whichever model gave it, or the error. A failed write
    does not affect the answer. others: the models of a failover after the first."""

    async def send_and_record(attempt: Attempt, sink: Sink) -> None:
        start, position, record = time.perf_counter(), len(sink.log), _request_record(attempt, others)
        failed: NbllmError | None = None
        try:
            await handler(attempt, sink)
        except NbllmError as error:
            failed = error
        events = [(at - start, event) for at, event in sink.log[position:]]
        failovers = sum(isinstance(event, Notice) and event.kind == "failover" for _, event in events)
        last = (attempt, *others)[failovers]
        by = _request_record(last) if failovers else None
        simulated = last.route.simulated or any(trace.simulated for trace in sink.traces[-1:])
        secrets = [text for a in (attempt, *others) for text in a.guard.secrets]
        target.problem = await asyncio.to_thread(
            target.add, record, events, secrets, simulated, by=by, failed=failed
        )
        if failed is not None:
            raise failed

    return send_and_record


def replaying(tape: Tape, others: Sequence[Attempt]) -> Handler:
    """The innermost handler of a replay: it sends nothing. others: the models of a failover after the
    first."""

    async def play(attempt: Attempt, sink: Sink) -> None:
        attempts = (attempt, *others)
        combined, records = _request_record(attempt, others), [_request_record(a) for a in attempts]
        recorded = next((record for record in (combined, *records) if tape.has(record)), combined)
        played = await asyncio.to_thread(tape.answer, recorded)
        pairs = zip(attempts, records, strict=True)
        answered_by = next((a for a, r in pairs if [r.provider, r.model] == played.by), attempt)
        if answered_by is not attempt:
            sink.begin(answered_by)
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
    """The recording that a client's calls are written to (target) and the one that they are answered from
    (source); None for off. NBLLM_RECORD and NBLLM_REPLAY set them for a process: a file, or 1 for the
    notebook's."""

    def __init__(self, env: Mapping[str, str]) -> None:
        self._env, self._env_read = env, False
        self.target: Recording | None = None
        self.source: Tape | None = None

    def get_source(self) -> Tape | None:
        """The recording that calls are answered from. Raises ConfigError where the environment names one that
        cannot be read."""
        if not self._env_read:
            replay, record = (self._env.get(name, "") for name in ("NBLLM_REPLAY", "NBLLM_RECORD"))
            if replay not in _OFF and self.source is None:
                self.source = Tape(recording_path(must_exist=True) if replay in _ON else Path(replay))
            if record not in _OFF and self.target is None:
                self.target = Recording(recording_path() if record in _ON else Path(record))
            self._env_read = True
        return self.source

    @contextmanager
    def record(self, path: str | Path) -> Iterator[Recording]:
        """Within a `with`, calls are recorded in a file."""
        before, self.target = self.target, Recording(Path(path))
        try:
            yield self.target
        finally:
            self.target = before

    @contextmanager
    def replay(self, path: str | Path, pace: str = "now") -> Iterator[Tape]:
        """Within a `with`, calls are answered from a file, and nothing is sent."""
        before, self.source = self.source, Tape(Path(path), pace)
        try:
            yield self.source
        finally:
            self.source = before

    def find_key(self, registry: Registry, route: Route, key: str | Secret | None) -> Secret | None:
        """The key for a route; None in a replay, which needs no key."""
        return registry.key_for(route, key) if self.get_source() is None else None

    def wrap(self, others: Sequence[Attempt]) -> tuple[Callable[[Handler], Handler], ...]:
        """The wrapper that records a call, where calls are recorded. others: the models of a failover."""
        return () if self.target is None else (partial(recording, target=self.target, others=others),)


_ON, _OFF = ("1", "true", "on"), ("", "0", "false", "off")
