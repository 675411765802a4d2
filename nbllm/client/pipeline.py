"""What is wrapped round an attempt: time limit, retry, record, and whatever comes later.

A handler is an async callable (attempt, sink): it writes the answer to `attempt` into `sink`, and raises an
NbllmError where there is none. The one at the bottom sends (attempt.sender). A wrapper takes a handler and
gives another:

    def known(handler, answers):
        async def look_up(attempt, sink):
            events = answers.get(attempt.request.messages)
            if events is None:
                await handler(attempt, sink)
            for event in events or ():
                sink.publish(event)

        return look_up

A handler may call the one below never (an answer that is known already), again (retry), or for another
attempt (failover: `Client.attempt` makes one for another route). To see or change what comes, it hands down a
sink of its own (attempt.Passing) in place of the one it was given.

These hold for all of them:

- The sink is written on the engine's loop, by nobody but the handlers of its call. What is published stays.
- Stop is a CancelledError, which no handler keeps; what was published by then is the partial answer.
- Finished comes once, last. A handler that asks anew after tokens have been shown publishes Restarted first.
- The bottom handler calls `sink.begin`, once for each attempt that is sent: so the traces, the times, the
  number of attempts, and the provider and price of the answer are right whatever stands between.
- Where it decides, the decision is a pure function (policy), and the wrapper does what it says.

`composed` puts a client's own in their order: recorded(limited(wrap...(retried(gated(sender))))).
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
    """Asks until there is an answer, or no sense in asking again."""

    async def retry(attempt: Attempt, sink: Sink) -> None:
        place, number = len(sink.log), 1
        while True:
            try:
                return await handler(attempt, sink)
            except errors.NbllmError as error:
                shown = any(is_token(event) for _, event in sink.log[place:])
                wait = wait_before_retry(error, number, shown, retries, random.SystemRandom().random())
                if wait is None or (attempt.call.acts and may_have_acted(error, sink.log[place:])):
                    raise
                sink.publish(_retry_notice(error, wait, number, retries.attempts))
            await asyncio.sleep(wait)
            number += 1

    return retry


def _retry_notice(error: errors.NbllmError, wait: float, attempt: int, attempts: int) -> Notice:
    """What a reader is told when a request is sent again."""
    return Notice(
        "retry",
        f"{error.message} Asking again in {wait:.1f} s ({attempt} of {attempts}).",
        {"wait": wait, "attempt": attempt, "status": getattr(error, "status", None)},
    )


def limited(handler: Handler) -> Handler:
    """Ends after the attempt's total time, whatever goes on below."""

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
    """Remembers the call in numbers."""

    async def record(attempt: Attempt, sink: Any) -> None:  # the stream itself: it is measured at its end
        route = attempt.route
        call = CallContext(
            attempt.request, route.provider, route.asked, route.simulated, epoch, label=attempt.label
        )
        if told := ledger.note(sink, call):
            sink.publish(Notice("warning", told))
        await handler(attempt, sink)

    return record


def composed(
    bottom: Handler,
    retries: Retries,
    wrap: Iterable[Wrapper],
    ledger: Ledger | None,
    gates: Gates | None,
    *,
    budgets: Sequence[Budget] = (),
    known: Wrapper | None = None,
    traced: Wrapper | None = None,
    naming: Wrapper | None = None,
) -> Handler:
    """The way of a client's calls. wrap: more wrappers, from the inside outwards. gates: None for calls that
    are measured, and keep to no limits. known: gives answers that are known already.
    traced: tells others of each call. naming: names what servers keep of prompts in place of it."""
    bottom = bottom if gates is None else gated(bottom, gates, again=retries.attempts > 0)
    handler = retried(bottom if naming is None else naming(bottom), retries)
    handler = budgeted(handler, budgets) if budgets else handler
    for own in (known, traced):
        handler = handler if own is None else own(handler)
    for wrapper in wrap:
        handler = wrapper(handler)
    handler = limited(handler)
    return handler if ledger is None else recorded(handler, ledger, ledger.epoch)
