"""The cache of answers: looked up before a call is sent, filled when its answer is complete.

Equal calls in flight share one *flight*: a task that writes to the sinks of all of them, so that a caller who
stops leaves the others their answer. It is stopped when the last caller has left. The first of the remaining
callers pays; the others' answers are marked as cached.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Coroutine
from dataclasses import replace
from typing import Any

from ..core.errors import ConfigError
from ..core.eventlog import EventLog
from ..core.events import Event, Finished, Notice
from ..store.answers import AnswerStore, CachedAnswer, cache_key, cacheable_events
from .attempt import Attempt, ForwardingSink, Handler, Sink

OWN_MODES = ("true", "refresh")  # the values of cache= for this cache; others are for a provider's
_AGES = ((86_400, "d"), (3_600, "h"), (60, "min"), (1, "s"))


def cache_mode(cache: str | bool | None) -> str:
    """The mode of this cache by the option cache=: "true", "refresh" or "" for off."""
    return "true" if cache is True else cache if cache in OWN_MODES else ""


def check_cacheable(call: Any, mode: str) -> None:
    """Raises ConfigError where answers to such a call are not cached."""
    if mode and not call.rate_limited:
        raise ConfigError(
            f"cache={mode} stores no answers of commands: they work with files and sessions, which change.",
            hint="Leave it out, or use the provider's API: openai/..., claude/..., gemini/...",
        )


class AnswerCache:
    """The process's cached answers, and the calls in flight, by their keys. Created by Engine.singleton, and
    so anew in a forked process."""

    def __init__(self) -> None:
        self.answers = AnswerStore()
        self.flights: dict[tuple[str, str], Flight] = {}


def cached(handler: Handler, cache: AnswerCache, mode: str, sample: int = 0) -> Handler:
    """Answers from the cache; otherwise sends the call, once for all equal calls in flight, and stores the
    answer. mode: "refresh" always sends."""

    async def answer(attempt: Attempt, sink: Sink) -> None:
        if not attempt.call.rate_limited:  # a failover may lead to a command
            await handler(attempt, sink)
            return
        key = cache_key(attempt.call, attempt.dialect.name, sample)
        flight_key = key, f"{mode} {replace(attempt.timeouts, total=None)}"  # equal time limits, too
        flight = cache.flights.get(flight_key)
        if flight is None:
            flight = cache.flights[flight_key] = Flight(sink)
            flight.start(
                _look_up_or_send(handler, attempt, flight, cache.answers, (key, mode)),
                cache.flights,
                flight_key,
            )
        await flight.join(sink)

    return answer


async def _look_up_or_send(
    handler: Handler, attempt: Attempt, flight: Flight, answers: AnswerStore, about: tuple[str, str]
) -> None:
    key, mode = about
    known = await asyncio.to_thread(answers.get, key) if mode != "refresh" else None
    if known is not None:
        flight.hit = True
        for event in (_cached_notice(known), *known.events):
            flight.publish(event)
        return
    if warning := answers.take_problem():
        flight.publish(Notice("warning", warning))
    start = len(flight.log)
    await handler(attempt, flight)
    events = cacheable_events([event for _, event in flight.log[start:]], attempt.guard.secrets)
    if events:
        simulated = attempt.route.simulated or any(trace.simulated for trace in flight.traces[-1:])
        await asyncio.to_thread(answers.put, key, CachedAnswer(events, time.time(), simulated))


def _cached_notice(known: CachedAnswer) -> Notice:
    age = max(0, time.time() - known.at)
    many, unit = next(((int(age // size), unit) for size, unit in _AGES if age >= size), (0, "s"))
    return Notice("cached", f"cached {many} {unit} ago", {"at": known.at, "simulated": known.simulated})


class Flight(ForwardingSink):
    """A call that several callers wait for: the sink that its handler writes to. hit: its answer was in the
    cache."""

    def __init__(self, first: Sink) -> None:
        super().__init__(first)
        self.log = EventLog(first.log)  # a copy, since chunks are found by their index in the first's log
        self.hit, self._start = False, len(self.log)
        self._sinks: list[Sink] = []
        self._task: asyncio.Task[None] | None = None
        self._registration: tuple[dict[tuple[str, str], Flight], tuple[str, str]] = ({}, ("", ""))

    def publish(self, event: Event, at: float | None = None) -> None:
        """Forwards an event to all callers."""
        self.log.append(time.perf_counter() if at is None else at, event)
        for sink in self._sinks:
            self._forward(sink, event, at)

    def _forward(self, sink: Sink, event: Event, at: float | None = None) -> None:
        if isinstance(event, Finished) and sink is not self.sink and not self.hit:
            sink.publish(_SHARED)
        sink.publish(event, at if sink is self.sink else None)

    def start(
        self,
        work: Coroutine[Any, Any, None],
        flights: dict[tuple[str, str], Flight],
        key: tuple[str, str],
    ) -> None:
        """Starts the task, and removes it from `flights` when it ends."""
        self._registration = (flights, key)
        self._task = asyncio.get_running_loop().create_task(work)
        self._task.add_done_callback(lambda _: self._unregister())

    def _unregister(self) -> None:
        flights, key = self._registration
        if flights.get(key) is self:
            del flights[key]

    async def join(self, sink: Sink) -> None:
        """Adds a caller: returns when the answer is complete, or raises its error."""
        task = self._task
        assert task is not None
        for _, event in self.log[self._start :]:
            self._forward(sink, event)
        self._sinks.append(sink)
        try:
            await asyncio.wait({task})
        finally:
            self._sinks = [other for other in self._sinks if other is not sink]
            if not task.done():
                await self._on_leave(sink, task)
        if task.cancelled():
            raise asyncio.CancelledError
        if (error := task.exception()) is not None:
            raise error if sink is self.sink else _copy_error(error)

    async def _on_leave(self, sink: Sink, task: asyncio.Task[None]) -> None:
        """A caller has stopped: another becomes the first, or the call is stopped with the last."""
        if self._sinks:
            self.sink = self._sinks[0] if sink is self.sink else self.sink
            self.traces = self.sink.traces or self.traces
            return
        self._unregister()
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.wait({task})


_SHARED = Notice("cached", "shared with an equal call", {"shared": True})


def _copy_error(error: BaseException) -> BaseException:
    """A copy of an error for another caller, whose partial answer differs."""
    copied = type(error).__new__(type(error), *error.args)
    copied.__dict__.update(error.__dict__)
    return copied
