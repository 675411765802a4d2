"""Hedged requests, a second request where the first is slow: hedge=SECONDS ("The Tail at Scale", J. Dean and
L. A. Barroso). The answer that begins first is used, and the other call is stopped. Each is a call of its
own, with its row in the log, its turn at the gate and its share of the budget. Nothing was shown before, so
the texts of two answers are never joined."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from typing import Any

from ..core.errors import ConfigError
from ..core.events import Notice, is_token
from .policy import is_time
from .stream import Stream


def parse_hedge(value: Any) -> float | None:
    """The seconds in hedge=. Raises ConfigError for an invalid value."""
    if value is None:
        return None
    if not is_time(value):
        raise ConfigError(
            f"hedge={str(value)[:40]!r} is not a time.",
            hint="Give the seconds to wait for a token: hedge=2, or 2s in a cell.",
        )
    return float(value)


async def run_hedged(stream: Stream, send: Callable[[], Stream], seconds: float) -> None:
    """Writes the answer to a call into `stream`; the call is sent a second time where no token comes within
    `seconds`. Raises the error of the last call where none answers."""
    calls = [send()]
    try:
        watches = {asyncio.create_task(_has_started(calls[0])): calls[0]}
        started, _ = await asyncio.wait(watches, timeout=seconds)
        if not started:
            stream.publish(Notice("hedge", f"No token came within {seconds:g} s, so it was sent again."))
            calls.append(send())
            watches[asyncio.create_task(_has_started(calls[1]))] = calls[1]
        first = await _first_to_answer(watches)
        for other in calls:
            if other is not first:
                other.cancel()
        if len(calls) > 1 and not (first.done and first.error):
            stream.publish(Notice("hedge", f"The {'first' if first is calls[0] else 'second'} was faster."))
        stream.attempts, stream.traces = first.attempts, first.traces
        await _copy_events(first, stream)
        if first.error is not None:
            first.error.partial = None  # `stream` sets its own
            raise first.error
        for other in calls:
            await other.wait_end_async()  # so that both are logged and paid for when the answer is complete
    except asyncio.CancelledError:
        for call in calls:
            call.cancel()
        raise


async def _copy_events(call: Stream, stream: Stream) -> None:
    """Copies a call's events into `stream` as they arrive."""
    async for entries in call.batches():
        for at, item in entries:
            stream.extend((item,), at)


async def _first_to_answer(watches: Mapping[asyncio.Task[bool], Stream]) -> Stream:
    """The call that answers first; the one that failed last where none does."""
    pending = set(watches)
    while True:
        done, pending = await asyncio.wait(pending, return_when=asyncio.FIRST_COMPLETED)
        winner = next((w for w in watches if w in done and w.result()), None)
        if winner is not None or not pending:
            return watches[winner or done.pop()]


async def _has_started(call: Stream) -> bool:
    """Waits for the first token; True where one came, or a complete answer without any."""
    async for entries in call.batches():
        if any(is_token(item) for _, item in entries):
            return True
    return call.error is None
