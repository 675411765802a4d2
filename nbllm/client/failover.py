"""Failover to another model where one fails: model="openai/mini|claude/haiku".

Which errors fail over is a pure decision (`may_fail_over`), and so is the circuit breaker that skips a model
which keeps failing ("Release It!", M. Nygard, chapter 5). The texts of two models are never joined: after a
token was shown the error is raised, unless the user chose failover="restart", which discards the first
text."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
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
_MIN_OPEN, _MAX_OPEN = 5.0, 300.0  # seconds until an open one lets one call through; doubled each time
_MAX_BREAKERS = 1_000  # closed ones are dropped beyond

_FAILING_OVER = (
    *(errors.ConnectFailed, errors.StreamCut, errors.AuthenticationError, errors.PermissionDenied),
    *(errors.NotFound, errors.RateLimited, errors.QuotaExceeded, errors.Overloaded, errors.ServerError),
)
_ALSO = {"content": (errors.ContentFiltered,)}
_FAILING_OVER_STATUS = frozenset({408, 409, 425, 429})


def may_fail_over(error: errors.NbllmError, mode: str = "start") -> bool:
    """Whether another model may answer where this one failed: for errors of the connection, the key, the
    quota, a rate limit, an unknown model or the provider's server. Not for an invalid request, and for one
    that a content filter refused only with mode="content"."""
    if isinstance(error, errors.Timeout):
        return error.which in ("connect", "first", "silent")
    status = getattr(error, "status", None) or 0
    return (
        isinstance(error, (*_FAILING_OVER, *_ALSO.get(mode, ())))
        or status in _FAILING_OVER_STATUS
        or status >= 500
    )


class Breaker(msgspec.Struct):
    """The circuit breaker for one model of one provider with one key; `now` is in seconds of any clock.
    failures: times of the last failures. open_until: from then on one call is let through."""

    failures: deque[float] = msgspec.field(default_factory=lambda: deque(maxlen=_FAILURES))
    open_until: float = 0.0
    open_time: float = 0.0

    def wait_time(self, now: float) -> float:
        """Seconds for which the model is still skipped; 0.0 where a call may be sent. The first call after
        that time holds the others back until its outcome is known."""
        if now < self.open_until:
            return self.open_until - now
        self.open_until = now + self.open_time if self.open_time else 0.0
        return 0.0

    def record(self, error: errors.NbllmError | None, now: float) -> None:
        """Records the outcome of a call: its error, or None for an answer."""
        if error is None:
            self.failures.clear()
            self.open_time = self.open_until = 0.0
            return
        lasting = isinstance(error, (errors.AuthenticationError, errors.QuotaExceeded))
        if not lasting and (isinstance(error, errors.RateLimited) or not may_fail_over(error)):
            return
        self.failures.append(now)
        frequent = len(self.failures) == _FAILURES and now - self.failures[0] <= _WITHIN
        if lasting or frequent or self.open_time:
            self.open_time = min(2 * self.open_time or _MIN_OPEN, _MAX_OPEN)
            self.open_until = now + self.open_time


class Breakers:
    """The breakers of a process, by provider, key and model; used on the engine's loop only."""

    def __init__(self) -> None:
        self._known: dict[Any, Breaker] = {}

    def of(self, attempt: Attempt) -> Breaker:
        """The breaker of an attempt."""
        if len(self._known) >= _MAX_BREAKERS:
            self._known = {name: b for name, b in self._known.items() if b.open_time}
        return self._known.setdefault(attempt.quota_key, Breaker())


def failing_over(
    handler: Handler,
    others: Sequence[Attempt],
    breakers: Breakers,
    *,
    mode: str = "start",
    clock: Callable[[], float] = time.monotonic,
) -> Handler:
    """Sends the next of `others` where an attempt fails. mode: "restart" does so after tokens were shown,
    too, which are then void; "content" also where a content filter refused."""

    async def send(attempt: Attempt, sink: Sink) -> None:
        for current, following in zip([attempt, *others], [*others, None], strict=True):
            breaker, start = breakers.of(current), len(sink.log)
            if following is not None and (wait := breaker.wait_time(clock())):
                reason = f"failed before, and is skipped for {wait:.0f} s"
                sink.publish(_failover_notice(current, following, reason))
                continue
            try:
                await handler(current, sink)
            except errors.NbllmError as error:
                breaker.record(error, clock())
                shown = any(is_token(event) for _, event in sink.log[start:])
                acted = current.call.has_side_effects and may_have_acted(error, sink.log[start:])
                if following is None or acted or (shown and mode != "restart"):
                    raise
                if not (may_fail_over(error, mode) or _has_wider_context(error, current, following)):
                    raise
                if shown:
                    sink.publish(Restarted(f"{_name(current)} failed; {_name(following)} starts again."))
                reason = f"did not answer: {error.message.rstrip('.!')}"
                sink.publish(_failover_notice(current, following, reason))
            else:
                breaker.record(None, clock())
                return

    return send


def _has_wider_context(error: errors.NbllmError, failed: Attempt, other: Attempt) -> bool:
    """Whether a request that was too long for the failed model may fit the other's larger context window."""
    if not isinstance(error, errors.ContextLengthExceeded):
        return False
    window, wider = (prices.facts(a.route.model, a.route.provider).context or 0 for a in (failed, other))
    return wider > window > 0


def _name(attempt: Attempt) -> str:
    return f"{attempt.route.provider.name}/{attempt.route.model}"


def _failover_notice(failed: Attempt, following: Attempt, reason: str) -> Notice:
    return Notice("failover", f"{_name(failed)} {reason}. Asked {_name(following)} instead.")


def request_for(request: Request, first: Route, other: Route) -> Request:
    """The request for another model, without the parts of earlier turns that only the first one's provider
    can read: reasoning, signatures, its own blocks."""
    if other.provider.name == first.provider.name:
        return replace(request, model=other.model)
    return replace(request, model=other.model, messages=tuple(map(_portable, request.messages)))


def _portable(message: Message) -> Message:
    portable: Iterator[Any] = (part for part in message.parts if not isinstance(part, (Reasoning, Raw)))
    unsigned = (replace(p, signature=None) if getattr(p, "signature", None) else p for p in portable)
    return replace(message, parts=tuple(unsigned))
