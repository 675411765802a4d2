"""Another model where one fails: model="openai/mini|claude/haiku".

Which errors move on is a pure decision (`moves_on`), and so is the circuit breaker that leaves out for a
while what keeps failing ("Release It!", M. Nygard, chapter 5). Words of two models are never joined: after a
token has been shown the error stands, unless the user chose to begin anew, which voids what came."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import msgspec

from ..core import errors
from ..core.events import Notice, Restarted, is_token
from ..core.messages import Message, Raw, Reasoning, Request
from ..routing import prices
from ..routing.registry import Route
from .attempt import Attempt, Handler, Sink
from .policy import may_have_acted

_FAILURES, _WITHIN = 5, 30.0  # so many failures in so many seconds open a breaker
_FIRST, _LONGEST = 5.0, 300.0  # seconds until an open one lets one call through; doubled each time
_KNOWN = 1_000  # breakers that are remembered

_MOVING = (
    *(errors.ConnectFailed, errors.StreamCut, errors.AuthenticationError, errors.PermissionDenied),
    *(errors.NotFound, errors.RateLimited, errors.QuotaExceeded, errors.Overloaded, errors.ServerError),
)
_MORE = {"content": (errors.ContentFiltered,)}
_MOVING_STATUS = frozenset({408, 409, 425, 429})


def moves_on(error: errors.NbllmError, how: str = "start") -> bool:
    """Whether another model may well answer what this one did not: the wire, the key, the quota, the limit,
    an unknown model, a fault of the provider's. Not a request that is wrong everywhere, nor one that a filter
    refused, unless how is "content"."""
    if isinstance(error, errors.Timeout):
        return error.which in ("connect", "first", "silent")
    status = getattr(error, "status", None) or 0
    return isinstance(error, (*_MOVING, *_MORE.get(how, ()))) or status in _MOVING_STATUS or status >= 500


class Breaker(msgspec.Struct):
    """Whether one model of one provider, with one key, is worth asking; told what happened, and `now` in
    seconds of any clock. failed: the last failures; until: closed again for one call from then on."""

    failed: deque[float] = msgspec.field(default_factory=lambda: deque(maxlen=_FAILURES))
    until: float = 0.0
    wait: float = 0.0

    def left(self, now: float) -> float:
        """Seconds for which it is left out, 0.0 where it may be asked. The one that asks first after that
        holds the others back until its answer is there."""
        if now < self.until:
            return self.until - now
        self.until = now + self.wait if self.wait else 0.0
        return 0.0

    def note(self, error: errors.NbllmError | None, now: float) -> None:
        """What came of a call; None for an answer."""
        if error is None:
            self.failed.clear()
            self.wait = self.until = 0.0
            return
        lasting = isinstance(error, (errors.AuthenticationError, errors.QuotaExceeded))
        if not lasting and (isinstance(error, errors.RateLimited) or not moves_on(error)):
            return
        self.failed.append(now)
        often = len(self.failed) == _FAILURES and now - self.failed[0] <= _WITHIN
        if lasting or often or self.wait:
            self.wait = min(2 * self.wait or _FIRST, _LONGEST)
            self.until = now + self.wait


class Breakers:
    """Those of a process, by row, key and model; on the engine's loop only."""

    def __init__(self) -> None:
        self._known: dict[Any, Breaker] = {}

    def of(self, attempt: Attempt) -> Breaker:
        """The breaker for what is asked."""
        if len(self._known) >= _KNOWN:
            self._known = {name: b for name, b in self._known.items() if b.wait}
        return self._known.setdefault(attempt.quota_key, Breaker())


def failing_over(
    handler: Handler,
    others: Sequence[Attempt],
    breakers: Breakers,
    *,
    how: str = "start",
    clock: Callable[[], float] = time.monotonic,
) -> Handler:
    """Asks the next of `others` where one fails. how: "restart" also after tokens have been shown, which then
    are void; "content" also where a provider's filter refused."""

    async def ask(attempt: Attempt, sink: Sink) -> None:
        there = [attempt, *others]
        for one, following in zip(there, [*others, None], strict=True):
            breaker, place = breakers.of(one), len(sink.log)
            if following is not None and (left := breaker.left(clock())):
                sink.publish(_told(one, following, f"failed before, and is left out for {left:.0f} s"))
                continue
            try:
                await handler(one, sink)
            except errors.NbllmError as error:
                breaker.note(error, clock())
                shown = any(is_token(event) for _, event in sink.log[place:])
                acted = one.call.has_side_effects and may_have_acted(error, sink.log[place:])
                stands = acted or (shown and how != "restart")
                if following is None or stands or not (moves_on(error, how) or _fits(error, one, following)):
                    raise
                if shown:
                    sink.publish(Restarted(f"{_name(one)} failed in the middle; {_name(following)} begins."))
                sink.publish(_told(one, following, f"did not answer: {error.message.rstrip('.!')}"))
            else:
                breaker.note(None, clock())
                return

    return ask


def _fits(error: errors.NbllmError, one: Attempt, other: Attempt) -> bool:
    """Whether what was too long for one model may not be for the other, which is known to read more."""
    if not isinstance(error, errors.ContextLengthExceeded):
        return False
    window, wider = (prices.facts(a.route.model, a.route.provider).context or 0 for a in (one, other))
    return wider > window > 0


def _name(attempt: Attempt) -> str:
    return f"{attempt.route.provider.name}/{attempt.route.model}"


def _told(one: Attempt, following: Attempt, what: str) -> Notice:
    return Notice("failover", f"{_name(one)} {what}. Asked {_name(following)} instead.")


def request_for(request: Request, first: Route, other: Route) -> Request:
    """The request as another model gets it: what only the first one's provider can read of its own earlier
    turns (thoughts, signatures, blocks of its own) stays out."""
    if other.provider.name == first.provider.name:
        return replace(request, model=other.model)
    return replace(request, model=other.model, messages=tuple(map(_plain, request.messages)))


def _plain(message: Message) -> Message:
    kept = (part for part in message.parts if not isinstance(part, (Reasoning, Raw)))
    return replace(message, parts=tuple(_unsigned(part) for part in kept))


def _unsigned(part: Any) -> Any:
    return replace(part, signature=None) if getattr(part, "signature", None) else part
