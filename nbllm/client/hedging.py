"""A second request where the first keeps its reader waiting: hedge=SECONDS ("The Tail at Scale", J. Dean and
L. A. Barroso). Whoever begins to answer first is read, and the other is stopped. Each is a call of its own,
with its row in the log, its place at the gate and its share of the budget. Nothing was shown before, so that
words of two answers are never joined."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from typing import Any

from ..core.errors import ConfigError
from ..core.events import Notice, is_token
from .policy import is_time
from .stream import Stream


def after(given: Any) -> float | None:
    """The seconds in hedge=. Raises ConfigError for what is none."""
    if given is None:
        return None
    if not is_time(given):
        raise ConfigError(
            f"hedge={str(given)[:40]!r} is no time.",
            hint="Seconds without a token: hedge=2, or 2s in a cell.",
        )
    return float(given)


async def hedged(stream: Stream, send: Callable[[], Stream], seconds: float) -> None:
    """Writes the answer to a call into `stream`, asked a second time where `seconds` go by without a token.
    Raises the error of the last one where none answers."""
    calls = [send()]
    try:
        watches = {asyncio.create_task(_began(calls[0])): calls[0]}
        begun, _ = await asyncio.wait(watches, timeout=seconds)
        if not begun:
            stream.publish(Notice("hedge", f"No token came within {seconds:g} s, so it was asked again."))
            calls.append(send())
            watches[asyncio.create_task(_began(calls[1]))] = calls[1]
        first = await _first(watches)
        for other in calls:
            if other is not first:
                other.cancel()
        if len(calls) > 1 and not (first.done and first.error):
            stream.publish(Notice("hedge", f"The {'first' if first is calls[0] else 'second'} was faster."))
        stream.attempts, stream.traces = first.attempts, first.traces
        await _retold(first, stream)
        if first.error is not None:
            first.error.partial = None  # the whole answer's is put there
            raise first.error
        for other in calls:
            await other.wait_end_async()  # so that both are in the log and settled when the answer is there
    except asyncio.CancelledError:
        for call in calls:
            call.cancel()
        raise


async def _retold(call: Stream, stream: Stream) -> None:
    """Writes all that a call gives into `stream`."""
    async for entries in call.batches():
        for at, item in entries:
            stream.extend((item,), at)


async def _first(watches: Mapping[asyncio.Task[bool], Stream]) -> Stream:
    """The call that answers first; the one that failed last where none does."""
    waiting = set(watches)
    while True:
        done, waiting = await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
        good = next((w for w in watches if w in done and w.result()), None)
        if good is not None or not waiting:
            return watches[good or done.pop()]


async def _began(call: Stream) -> bool:
    """Waits for the first token: whether there is one, or a whole answer without any."""
    async for entries in call.batches():
        if any(is_token(item) for _, item in entries):
            return True
    return call.error is None
