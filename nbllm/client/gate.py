"""The gate in front of a provider: all calls of the process with one provider, key and model pass it, and
start no faster than its limits allow. The limiter decides; the queue, the clock and the messages are here.

Calls that a user waits for go before those of tables (Attempt.background). A refusal for a rate limit holds
all calls back for its time and does not count as one of the call's attempts: the call returns to the head of
the queue. Used on the engine's loop only."""

from __future__ import annotations

import asyncio
import random
import time
from collections import deque
from collections.abc import Sequence
from typing import Any

import msgspec

from ..core import errors
from ..core.calls import Trace
from ..core.compaction import estimate_size
from ..core.events import Event, Item, Notice, UsageReport, is_token
from ..dialects._limits import Limit, parse_limits
from ..routing.spec import is_loopback
from .attempt import Attempt, ForwardingSink, Handler, Sink
from .limiter import Limiter, Need, Ticket
from .policy import LONGEST_WAIT

_MAX_GATES = 1_000  # idle ones beyond are dropped
_FREE_REFUSALS = (8, 30)  # of one call that do not count as attempts: one that a user waits for, a table's
_NOTICE_MIN = 1.0  # seconds, the shortest wait that the user is told of


class _Waiter(msgspec.Struct):
    need: Need
    background: bool
    ticket: asyncio.Future[Ticket]


class Gate(msgspec.Struct):
    """One gate. queues: calls that a user waits for, and those of tables. outputs: tokens of recent
    answers."""

    provider_label: str
    limiter: Limiter
    queues: tuple[deque[_Waiter], deque[_Waiter]] = msgspec.field(default_factory=lambda: (deque(), deque()))
    outputs: deque[float] = msgspec.field(default_factory=lambda: deque(maxlen=50))
    timer: asyncio.TimerHandle | None = None

    @property
    def is_idle(self) -> bool:
        """Whether no call waits and none is in flight."""
        return not (self.limiter.in_flight or any(self.queues))

    def estimate_need(self, attempt: Attempt) -> Need:
        """The tokens that a call may use: its prompt, and max_tokens or the 95th percentile of recent
        answers."""
        if not self.limiter.counts_tokens:
            return Need()
        usual = sorted(self.outputs)[int(0.95 * len(self.outputs))] if self.outputs else 0.0
        return Need(estimate_size(attempt.request.messages), attempt.request.max_tokens or usual)

    async def enter(self, call: _QueuedCall) -> Ticket:
        """Waits until the call may start. Raises RateLimited where that takes too long for a user who
        waits."""
        attempt, loop, now = call.attempt, asyncio.get_running_loop(), time.monotonic
        need, background = self.estimate_need(attempt), attempt.background
        ahead = self.queues[0] or (background and self.queues[1])
        wait = None if ahead else self.limiter.wait_time(now(), need, background)
        if wait == 0.0:
            return self.limiter.start(now(), need)
        waiter = _Waiter(need, background, loop.create_future())
        queue = self.queues[background]
        (queue.appendleft if call.refusals else queue.append)(waiter)
        self._admit()
        wait, began = self.limiter.wait_time(now(), need, background), now()
        call.notify_waiting(wait, self.provider_label)
        try:
            if wait is not None and call.max_wait is not None and wait > call.max_wait:
                raise TimeoutError
            async with asyncio.timeout(call.max_wait):
                return await waiter.ticket
        except TimeoutError:
            self._withdraw(waiter)
            raise _wait_error(self.provider_label) from None
        except asyncio.CancelledError:
            self._withdraw(waiter)
            raise
        finally:
            call.waited += now() - began

    def _withdraw(self, waiter: _Waiter) -> None:
        queue = self.queues[waiter.background]
        if waiter in queue:
            queue.remove(waiter)
        elif waiter.ticket.done() and not waiter.ticket.cancelled():  # admitted while it was being stopped
            self.leave(waiter.ticket.result(), ok=False)
        self._admit()

    def leave(self, ticket: Ticket, *, ok: bool, used: Need | None = None) -> None:
        """A call has ended."""
        if used is not None:
            self.outputs.append(used.output)
        self.limiter.end(time.monotonic(), ticket, ok=ok, used=used if self.limiter.counts_tokens else None)
        self._admit()

    def _admit(self) -> None:
        """Starts the calls that may start, and sets the timer for the next one."""
        if self.timer is not None:
            self.timer.cancel()
            self.timer = None
        loop = asyncio.get_running_loop()
        for queue in self.queues:
            while queue:
                if queue[0].ticket.done():  # it was stopped, but has not withdrawn yet
                    queue.popleft()
                    continue
                now, first = time.monotonic(), queue[0]
                wait = self.limiter.wait_time(now, first.need, first.background)
                if wait is None or wait > 0:
                    if wait is not None:
                        self.timer = loop.call_later(wait, self._admit)
                    return
                queue.popleft()
                first.ticket.set_result(self.limiter.start(now, first.need))

    def on_answer(self, ticket: Ticket, reported: tuple[Limit, ...]) -> None:
        """A good answer began, whose headers reported these limits."""
        self.limiter.on_answer(time.monotonic(), ticket, reported)
        if any(self.queues):
            self._admit()

    def on_refusal(self, ticket: Ticket, error: errors.ProviderError) -> float:
        """A call was refused; returns the seconds until another may start."""
        now, jitter = time.monotonic(), random.SystemRandom().random()
        return self.limiter.on_refusal(now, ticket, error.retry_after, error.limits, jitter)


def _wait_error(provider_label: str) -> errors.RateLimited:
    """The error after the longest wait."""
    error = errors.RateLimited(
        f"{provider_label}'s rate limit let nothing through for {LONGEST_WAIT:.0f} s.",
        hint="Try again later, send fewer calls at once, or choose another model.",
    )
    error.retryable = False
    return error


class _QueuedCall(msgspec.Struct):
    """A call at a gate. refusals: how often it was refused. waited: seconds so far. notified: the user was
    told that it waits."""

    attempt: Attempt
    sink: Sink
    refusals: int = 0
    waited: float = 0.0
    notified: bool = False

    @property
    def max_wait(self) -> float | None:
        """Seconds that it may still wait; None for no limit."""
        return None if self.attempt.background else max(0.0, LONGEST_WAIT - self.waited)

    def notify_waiting(self, wait: float | None, provider_label: str) -> None:
        """Tells the user, once, that the call waits."""
        if wait is not None and wait >= _NOTICE_MIN and not self.notified:
            self.notified = True
            text = f"Waiting {wait:.0f} s for {provider_label}'s rate limit."
            self.sink.publish(Notice("wait", text, {"wait": wait}))

    def repeats_after(self, error: errors.RateLimited, wait: float, shown: bool) -> bool:
        """Counts a refusal, and decides whether the call is sent retryable without counting it as an
        attempt."""
        self.refusals += 1
        if shown or error.is_lasting:
            return False
        max_wait = self.max_wait
        if self.refusals > _FREE_REFUSALS[self.attempt.background] or (
            max_wait is not None and wait > max_wait
        ):
            error.retryable = False
            return False
        return self.attempt.background or error.retry_after is not None or bool(error.limits)


class _AnswerStartSink(ForwardingSink):
    """A sink that reports the start of an answer to the gate; later events go directly to the inner sink."""

    def __init__(self, sink: Sink, gate: Gate, ticket: Ticket, attempt: Attempt) -> None:
        super().__init__(sink)
        self._gate, self._ticket, self._attempt = gate, ticket, attempt

    def publish(self, event: Event, at: float | None = None) -> None:
        """The first event."""
        self._on_first_event()
        self.sink.publish(event, at)

    def extend(self, items: Sequence[Item], at: float) -> None:
        """The first events."""
        self._on_first_event()
        self.sink.extend(items, at)

    def _on_first_event(self) -> None:
        self.publish, self.extend = self.sink.publish, self.sink.extend  # type: ignore[method-assign]
        row = self._attempt.route.provider
        trace = self.traces[-1] if self.traces else Trace()
        self._gate.on_answer(self._ticket, parse_limits(trace.headers, time.time(), row.quirks))


class Gates:
    """The gates of a process, by provider, key and model."""

    def __init__(self) -> None:
        self._gates: dict[Any, Gate] = {}

    def of(self, attempt: Attempt) -> Gate | None:
        """The gate of an attempt; None for commands, which have no rate limits."""
        if not attempt.call.rate_limited:
            return None
        gate = self._gates.get(key := attempt.quota_key)
        if gate is None:
            row = attempt.route.provider
            is_local = row.local or is_loopback(row.base_url)
            gate = self._gates[key] = Gate(attempt.provider_label, Limiter(is_local))
            if len(self._gates) > _MAX_GATES:
                self._gates = {k: g for k, g in self._gates.items() if not g.is_idle or g is gate}
        return gate


def gated(handler: Handler, gates: Gates, *, may_repeat: bool) -> Handler:
    """Sends a call when the provider's gate admits it. may_repeat: a refused call may be sent again."""

    async def wait_and_send(attempt: Attempt, sink: Sink) -> None:
        gate = gates.of(attempt)
        if gate is None:
            return await handler(attempt, sink)
        call, start = _QueuedCall(attempt, sink), len(sink.log)
        while True:
            ticket, ok = await gate.enter(call), False
            try:
                await handler(attempt, _AnswerStartSink(sink, gate, ticket, attempt))
            except errors.RateLimited as error:
                wait = gate.on_refusal(ticket, error)
                shown = any(is_token(event) for _, event in sink.log[start:])
                if not (may_repeat and call.repeats_after(error, wait, shown)):
                    raise
                call.notify_waiting(wait, gate.provider_label)
            except errors.Overloaded:
                gate.limiter.on_overload(time.monotonic())
                raise
            else:
                ok = True
                return None
            finally:
                gate.leave(ticket, ok=ok, used=_used_tokens(sink, start) if ok else None)

    return wait_and_send


def _used_tokens(sink: Sink, start: int) -> Need | None:
    """The tokens that an answer used, by its last report; None where there is none."""
    log = sink.log
    for i in range(len(log) - 1, start - 1, -1):
        if isinstance(event := log[i][1], UsageReport):
            return Need(event.usage.input_tokens or 0.0, event.usage.output_tokens or 0.0)
    return None
