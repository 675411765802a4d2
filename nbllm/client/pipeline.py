"""Wrappers around an attempt: time limit, retries, logging, and those of others.

A handler is an async callable (attempt, sink): it writes the answer to `attempt` into `sink`, and raises an
NbllmError where there is none. The innermost one sends (attempt.sender). A wrapper takes a handler and
returns another:

    def known(handler, answers):
        async def look_up(attempt, sink):
            events = answers.get(attempt.request.messages)
            if events is None:
                await handler(attempt, sink)
            for event in events or ():
                sink.publish(event)

        return look_up

A handler may call the inner one never (a cached answer), several times (retry), or with another attempt
(failover: `Client.attempt` makes one for another route). To see or change the events, it passes a sink of its
own (attempt.ForwardingSink) to the inner handler.

Rules for all of them:

- The sink is written on the engine's loop, only by the handlers of its call. Published events are final.
- Stop is a CancelledError, which no handler swallows; the events published until then are the partial answer.
- Finished comes once, last. A handler that sends again after tokens were shown publishes Restarted first.
- The innermost handler calls `sink.begin` once for each attempt that is sent: so the traces, the times, the
  number of attempts, and the provider and price of the answer are right whatever the wrappers do.
- Decisions are pure functions (policy); the wrapper carries them out.

`compose_handler` applies a client's wrappers in this order:
recorded(time_limited(wrap...(retried(gated(sender))))).
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Coroutine, Iterable, Sequence
from typing import Any

from ..core import errors
from ..core.events import Notice, is_token
from ..store.budgets import Budget
from ..store.ledger import Ledger
from ..store.measure import CallContext
from .attempt import Attempt, Handler, Sink
from .gate import Gates, gated
from .policy import Retries, may_have_acted, wait_before_retry
from .spending import budgeted

Wrapper = Callable[[Handler], Handler]


def retried(handler: Handler, retries: Retries) -> Handler:
    """Repeats a failed call while its error is one that may pass and `retries` allows it."""

    async def retry(attempt: Attempt, sink: Sink) -> None:
        start, number = len(sink.log), 1
        while True:
            try:
                return await handler(attempt, sink)
            except errors.NbllmError as error:
                shown = any(is_token(event) for _, event in sink.log[start:])
                wait = wait_before_retry(error, number, shown, retries, random.SystemRandom().random())
                if wait is None or (
                    attempt.call.has_side_effects and may_have_acted(error, sink.log[start:])
                ):
                    raise
                text = f"{error.message} Trying again in {wait:.1f} s ({number} of {retries.attempts})."
                data = {"wait": wait, "attempt": number, "status": getattr(error, "status", None)}
                sink.publish(Notice("retry", text, data))
            await asyncio.sleep(wait)
            number += 1

    return retry


def time_limited(handler: Handler) -> Handler:
    """Ends the call after the attempt's total time limit."""

    async def limit(attempt: Attempt, sink: Sink) -> None:
        try:
            async with asyncio.timeout(attempt.timeouts.total) as clock:
                await handler(attempt, sink)
        except TimeoutError as error:
            if isinstance(error, errors.Timeout) or not clock.expired():
                raise
            raise attempt.timed_out("total", sink.traces[-1].stderr if sink.traces else "") from None

    def if_limited(attempt: Attempt, sink: Sink) -> Coroutine[Any, Any, None]:
        return (handler if attempt.timeouts.total is None else limit)(attempt, sink)

    return if_limited


def recorded(handler: Handler, ledger: Ledger, epoch: float) -> Handler:
    """Records the call and its measurements in the ledger."""

    async def record(attempt: Attempt, sink: Any) -> None:  # the Stream itself, which is measured at its end
        route = attempt.route
        call = CallContext(
            attempt.request, route.provider, route.name, route.simulated, epoch, label=attempt.label
        )
        if warning := ledger.record_call(sink, call):
            sink.publish(Notice("warning", warning))
        await handler(attempt, sink)

    return record


def compose_handler(
    bottom: Handler,
    retries: Retries,
    wrap: Iterable[Wrapper],
    ledger: Ledger | None,
    gates: Gates | None,
    *,
    budgets: Sequence[Budget] = (),
    stored: Wrapper | None = None,
    traced: Wrapper | None = None,
    contexts: Wrapper | None = None,
) -> Handler:
    """The handler of a client's calls. wrap: further wrappers, innermost first. gates: None for benchmark
    calls, which ignore rate limits. stored: answers from the cache or a recording. traced: makes spans.
    contexts: replaces prompts that servers have cached by references."""
    bottom = bottom if gates is None else gated(bottom, gates, may_repeat=retries.attempts > 0)
    handler = retried(bottom if contexts is None else contexts(bottom), retries)
    handler = budgeted(handler, budgets) if budgets else handler
    for own in (stored, traced):
        handler = handler if own is None else own(handler)
    for wrapper in wrap:
        handler = wrapper(handler)
    handler = time_limited(handler)
    return handler if ledger is None else recorded(handler, ledger, ledger.epoch)
