"""Calls whose answer is known already: looked up before anything is sent, kept when it has come.

Equal calls in flight are one *flight*: a task of its own that writes to all who joined, so that one who stops
leaves the others their answer. Only when the last has left is it stopped. The first of those who are still
there pays; what the others get is marked as cached.
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
from ..store.answers import Answers, Known, key_of, worth
from .attempt import Attempt, ForwardingSink, Handler, Sink

OWN = ("true", "refresh")  # of the words of cache= those that mean this cache, and not a provider's
_AGES = ((86_400, "d"), (3_600, "h"), (60, "min"), (1, "s"))


def own(cache: str | bool | None) -> str:
    """What cache= says of this cache: "true", "refresh", or "" for nothing."""
    return "true" if cache is True else cache if cache in OWN else ""


def check(call: Any, own: str) -> None:
    """Raises ConfigError where answers to such a call are not kept."""
    if own and not call.rate_limited:
        raise ConfigError(
            f"cache={own} keeps no answers of commands: they work with files and sessions, which change.",
            hint="Leave it out, or ask the provider's own address: openai/..., claude/..., gemini/...",
        )


class Kept:
    """The process's answers, and the calls that are on their way to one, by their keys."""

    def __init__(self) -> None:  # made by Engine.kept: a fork begins anew
        self.answers = Answers()
        self.flights: dict[tuple[str, str], Flight] = {}


def answered(handler: Handler, kept: Kept, own: str, sample: int = 0) -> Handler:
    """Gives an answer that is kept; else asks, together with who asks the same, and keeps what comes. own:
    "refresh" asks in any case."""

    async def answer(attempt: Attempt, sink: Sink) -> None:
        if not attempt.call.rate_limited:  # a failover may lead to a command
            await handler(attempt, sink)
            return
        key = key_of(attempt.call, attempt.dialect.name, sample)
        joined = key, f"{own} {replace(attempt.timeouts, total=None)}"  # nobody waits less long than he may
        flight = kept.flights.get(joined)
        if flight is None:
            flight = kept.flights[joined] = Flight(sink)
            flight.start(_found(handler, attempt, flight, kept.answers, (key, own)), kept.flights, joined)
        await flight.join(sink)

    return answer


async def _found(
    handler: Handler, attempt: Attempt, flight: Flight, answers: Answers, about: tuple[str, str]
) -> None:
    key, own = about
    known = await asyncio.to_thread(answers.get, key) if own != "refresh" else None
    if known is not None:
        flight.hit = True
        for event in (_notice(known), *known.events):
            flight.publish(event)
        return
    if told := answers.tell():
        flight.publish(Notice("warning", told))
    place = len(flight.log)
    await handler(attempt, flight)
    events = worth([event for _, event in flight.log[place:]], attempt.guard.secrets)
    if events:
        simulated = attempt.route.simulated or any(trace.simulated for trace in flight.traces[-1:])
        await asyncio.to_thread(answers.put, key, Known(events, time.time(), simulated))


def _notice(known: Known) -> Notice:
    age = max(0, time.time() - known.at)
    many, unit = next(((int(age // size), unit) for size, unit in _AGES if age >= size), (0, "s"))
    return Notice("cached", f"cached {many} {unit} ago", {"at": known.at, "simulated": known.simulated})


class Flight(ForwardingSink):
    """A call that several wait for: the sink that its handler writes to. hit: its answer was kept."""

    def __init__(self, first: Sink) -> None:
        super().__init__(first)
        self.log = EventLog(first.log)  # chunks are found by their place in the first's
        self.hit, self._place = False, len(self.log)
        self._sinks: list[Sink] = []
        self._task: asyncio.Task[None] | None = None
        self._leave: tuple[dict[tuple[str, str], Flight], tuple[str, str]] = ({}, ("", ""))

    def publish(self, event: Event, at: float | None = None) -> None:
        """Hands an event on to all who joined."""
        self.log.append(time.perf_counter() if at is None else at, event)
        for sink in self._sinks:
            self._hand(sink, event, at)

    def _hand(self, sink: Sink, event: Event, at: float | None = None) -> None:
        if isinstance(event, Finished) and sink is not self.sink and not self.hit:
            sink.publish(_SHARED)
        sink.publish(event, at if sink is self.sink else None)

    def start(
        self,
        work: Coroutine[Any, Any, None],
        flights: dict[tuple[str, str], Flight],
        key: tuple[str, str],
    ) -> None:
        """Begins; at its end it is among the flights no more."""
        self._leave = (flights, key)
        self._task = asyncio.get_running_loop().create_task(work)
        self._task.add_done_callback(lambda _: self._end())

    def _end(self) -> None:
        flights, key = self._leave
        if flights.get(key) is self:
            del flights[key]

    async def join(self, sink: Sink) -> None:
        """Returns when the answer has come, and raises what it ended with."""
        task = self._task
        assert task is not None
        for _, event in self.log[self._place :]:
            self._hand(sink, event)
        self._sinks.append(sink)
        try:
            await asyncio.wait({task})
        finally:
            self._sinks = [other for other in self._sinks if other is not sink]
            if not task.done():
                await self._left(sink, task)
        if task.cancelled():
            raise asyncio.CancelledError
        if (error := task.exception()) is not None:
            raise error if sink is self.sink else _same(error)

    async def _left(self, sink: Sink, task: asyncio.Task[None]) -> None:
        """One has stopped: another takes its place, or the call is stopped with it."""
        if self._sinks:
            self.sink = self._sinks[0] if sink is self.sink else self.sink
            self.traces = self.sink.traces or self.traces
            return
        self._end()
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.wait({task})


_SHARED = Notice("cached", "shared with an equal call", {"shared": True})


def _same(error: BaseException) -> BaseException:
    """An error for another reader, who puts another partial answer into it."""
    again = type(error).__new__(type(error), *error.args)
    again.__dict__.update(error.__dict__)
    return again
