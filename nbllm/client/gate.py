"""The gate before a provider: all calls of the process with one row, key and model pass it, and start no
faster than its limits allow. What it decides is the limiter's; here are the queue, the clock and the words.

Calls that somebody waits for stand before those of tables (Attempt.background). A refusal for a rate limit
holds everybody back until its time and costs the call none of its attempts: it stands at the head of the
queue again. Used on the engine's loop only."""

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

_GATES = 1_000  # that are remembered; idle ones are forgotten first
_REFUSALS = (8, 30)  # of one call that cost nothing: of one that somebody waits for, and of a table's
_TOLD = 1.0  # seconds, the shortest wait that is told


class _Waiter(msgspec.Struct):
    need: Need
    background: bool
    ticket: asyncio.Future[Ticket]


class Gate(msgspec.Struct):
    """One gate. queues: of calls that somebody waits for, and of tables' calls."""

    who: str
    limiter: Limiter
    queues: tuple[deque[_Waiter], deque[_Waiter]] = msgspec.field(default_factory=lambda: (deque(), deque()))
    outputs: deque[float] = msgspec.field(default_factory=lambda: deque(maxlen=50))
    timer: asyncio.TimerHandle | None = None

    @property
    def idle(self) -> bool:
        """Whether nobody waits and nothing is in flight."""
        return not (self.limiter.flying or any(self.queues))

    def need(self, attempt: Attempt) -> Need:
        """What a call may take: its prompt, and its limit or what nearly all answers took."""
        if not self.limiter.counts_tokens:
            return Need()
        usual = sorted(self.outputs)[int(0.95 * len(self.outputs))] if self.outputs else 0.0
        return Need(estimate_size(attempt.request.messages), attempt.request.max_tokens or usual)

    async def enter(self, turn: _Turn) -> Ticket:
        """Waits for its turn. Raises RateLimited where that is too long for one who waits."""
        attempt, loop, now = turn.attempt, asyncio.get_running_loop(), time.monotonic
        need, background = self.need(attempt), attempt.background
        ahead = self.queues[0] or (background and self.queues[1])
        wait = None if ahead else self.limiter.wait(now(), need, background)
        if wait == 0.0:
            return self.limiter.start(now(), need)
        waiter = _Waiter(need, background, loop.create_future())
        queue = self.queues[background]
        (queue.appendleft if turn.refusals else queue.append)(waiter)
        self._pump()
        wait, began = self.limiter.wait(now(), need, background), now()
        turn.tell(wait, self.who)
        try:
            if wait is not None and turn.patience is not None and wait > turn.patience:
                raise TimeoutError
            async with asyncio.timeout(turn.patience):
                return await waiter.ticket
        except TimeoutError:
            self._withdraw(waiter)
            raise turn.too_long(self.who) from None
        except asyncio.CancelledError:
            self._withdraw(waiter)
            raise
        finally:
            turn.waited += now() - began

    def _withdraw(self, waiter: _Waiter) -> None:
        queue = self.queues[waiter.background]
        if waiter in queue:
            queue.remove(waiter)
        elif waiter.ticket.done() and not waiter.ticket.cancelled():  # let in while it was being stopped
            self.leave(waiter.ticket.result(), ok=False)
        self._pump()

    def leave(self, ticket: Ticket, *, ok: bool, used: Need | None = None) -> None:
        """A call has ended."""
        if used is not None:
            self.outputs.append(used.output)
        self.limiter.end(time.monotonic(), ticket, ok=ok, used=used if self.limiter.counts_tokens else None)
        self._pump()

    def _pump(self) -> None:
        """Lets in whoever may go, and comes back when the next one may."""
        if self.timer is not None:
            self.timer.cancel()
            self.timer = None
        loop = asyncio.get_running_loop()
        for queue in self.queues:
            while queue:
                if queue[0].ticket.done():  # it was stopped, and has not seen it yet
                    queue.popleft()
                    continue
                now, first = time.monotonic(), queue[0]
                wait = self.limiter.wait(now, first.need, first.background)
                if wait is None or wait > 0:
                    if wait is not None:
                        self.timer = loop.call_later(wait, self._pump)
                    return
                queue.popleft()
                first.ticket.set_result(self.limiter.start(now, first.need))

    def head(self, ticket: Ticket, told: tuple[Limit, ...]) -> None:
        """A good answer began."""
        self.limiter.head(time.monotonic(), ticket, told)
        if any(self.queues):
            self._pump()

    def refused(self, ticket: Ticket, error: errors.ProviderError) -> float:
        """Seconds until another may start."""
        now, told = time.monotonic(), error.retry_after
        return self.limiter.refused(now, ticket, told, error.limits, random.SystemRandom().random())


class _Turn(msgspec.Struct):
    """A call at a gate: how often it was refused, how long it has waited, whether its reader was told."""

    attempt: Attempt
    sink: Sink
    refusals: int = 0
    waited: float = 0.0
    told: bool = False

    @property
    def patience(self) -> float | None:
        """Seconds that it may still wait."""
        return None if self.attempt.background else max(0.0, LONGEST_WAIT - self.waited)

    def tell(self, wait: float | None, who: str) -> None:
        """Says once that it waits."""
        if wait is not None and wait >= _TOLD and not self.told:
            self.told = True
            words = f"Waiting {wait:.0f} s for {who}'s rate limit."
            self.sink.publish(Notice("wait", words, {"wait": wait}))

    def too_long(self, who: str) -> errors.RateLimited:
        """The error of one who has waited long enough."""
        error = errors.RateLimited(
            f"{who}'s rate limit let nothing through for {LONGEST_WAIT:.0f} s.",
            hint="Ask again later, send fewer calls at once, or choose another model.",
        )
        error.retryable = False
        return error

    def goes_on(self, error: errors.RateLimited, hold: float, shown: bool) -> bool:
        """Whether it is sent again after a refusal, at no cost."""
        self.refusals += 1
        if shown or error.is_lasting:
            return False
        patience = self.patience
        if self.refusals > _REFUSALS[self.attempt.background] or (patience is not None and hold > patience):
            error.retryable = False
            return False
        return self.attempt.background or error.retry_after is not None or bool(error.limits)


class _Watched(ForwardingSink):
    """A sink that tells the gate when an answer begins; what comes after goes straight to the sink."""

    def __init__(self, sink: Sink, gate: Gate, ticket: Ticket, attempt: Attempt) -> None:
        super().__init__(sink)
        self._gate, self._ticket, self._attempt = gate, ticket, attempt

    def publish(self, event: Event, at: float | None = None) -> None:
        """The first event."""
        self._begun()
        self.sink.publish(event, at)

    def extend(self, items: Sequence[Item], at: float) -> None:
        """The first events."""
        self._begun()
        self.sink.extend(items, at)

    def _begun(self) -> None:
        self.publish, self.extend = self.sink.publish, self.sink.extend  # type: ignore[method-assign]
        row = self._attempt.route.provider
        trace = self.traces[-1] if self.traces else Trace()
        self._gate.head(self._ticket, parse_limits(trace.headers, time.time(), row.quirks))


class Gates:
    """The gates of a process, by row, key and model."""

    def __init__(self) -> None:
        self._gates: dict[Any, Gate] = {}

    def of(self, attempt: Attempt) -> Gate | None:
        """The gate of an attempt; None where there is none: commands have no rate limits."""
        if not attempt.call.rate_limited:
            return None
        gate = self._gates.get(name := attempt.quota_key)
        if gate is None:
            row = attempt.route.provider
            free = row.local or is_loopback(row.base_url)
            gate = self._gates[name] = Gate(attempt.provider_label, Limiter(free))
            if len(self._gates) > _GATES:
                self._gates = {n: g for n, g in self._gates.items() if not g.idle or g is gate}
        return gate


def gated(handler: Handler, gates: Gates, *, again: bool) -> Handler:
    """Waits for its turn at the provider's gate. again: whether a refused call may be sent again."""

    async def wait_and_send(attempt: Attempt, sink: Sink) -> None:
        gate = gates.of(attempt)
        if gate is None:
            return await handler(attempt, sink)
        turn, place = _Turn(attempt, sink), len(sink.log)
        while True:
            ticket, ok = await gate.enter(turn), False
            try:
                await handler(attempt, _Watched(sink, gate, ticket, attempt))
            except errors.RateLimited as error:
                hold = gate.refused(ticket, error)
                shown = any(is_token(event) for _, event in sink.log[place:])
                if not (again and turn.goes_on(error, hold, shown)):
                    raise
                turn.tell(hold, gate.who)
            except errors.Overloaded:
                gate.limiter.strained(time.monotonic())
                raise
            else:
                ok = True
                return None
            finally:
                gate.leave(ticket, ok=ok, used=_used(sink, place) if ok else None)

    return wait_and_send


def _used(sink: Sink, place: int) -> Need | None:
    """What an answer took, None where it does not say."""
    log = sink.log
    for i in range(len(log) - 1, place - 1, -1):
        if isinstance(event := log[i][1], UsageReport):
            return Need(event.usage.input_tokens or 0.0, event.usage.output_tokens or 0.0)
    return None
