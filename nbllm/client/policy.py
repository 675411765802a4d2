"""Time limits, whether to ask again and when, and how tools may be used: pure decisions and their words."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from numbers import Real
from typing import Any, Literal

import msgspec

from ..core import errors
from ..core.events import Notice

Tools = Any  # a function, a Usable, a Tool, a Toolset, a mapping, a name, or several of them
# Is given an agent.Question; what it gives may be awaited for. Whatever is no yes is a no.
Asker = Callable[[Any], Any]
Approve = Literal["ask", "auto", "never"] | Asker


def checked_approve(given: Approve | None) -> Approve:
    """How calls are approved: "ask" where nothing is given. Raises ConfigError for no such way."""
    if given is not None and given not in ("ask", "auto", "never") and not callable(given):
        raise errors.ConfigError(
            f"Not a way to approve: {given!r}.", hint="Say ask, auto, never, or a function."
        )
    return given or "ask"


LONGEST = 1e9  # seconds; no clock of a loop takes any number
LONGEST_WAIT = 60.0  # seconds; a provider that asks for more is not waited for
_PASSING = (errors.RateLimited, errors.Overloaded, errors.ServerError, errors.ConnectFailed, errors.StreamCut)
_PASSING_STATUS = frozenset({408, 409, 425, 429, 500, 502, 503, 504, 520, 521, 522, 523, 524, 529})


_SILENT = 900.0


def is_time(value: Any) -> bool:
    """Whether a value is a number of seconds that can be waited for."""
    number: Any = value if isinstance(value, Real) and not isinstance(value, bool) else 0
    return bool(0 < number < LONGEST)


@dataclass(frozen=True, slots=True)
class Timeouts:
    """Limits in seconds, None for none. connect: name look-up, TCP and TLS. first: call to first token, and
    idle: between two of them, where the provider gives no sign of life meanwhile (a comment, a ping); silent:
    likewise, where it does. total: call to end, retries included."""

    connect: float | None = 10.0
    first: float | None = 120.0
    idle: float | None = 60.0
    silent: float | None = _SILENT
    total: float | None = None

    def at_least(self, seconds: float | None) -> Timeouts:
        """These, with the time to a token that the environment names where the call did not name one."""
        usual = Timeouts()
        changed = {n: seconds for n in ("first", "idle") if seconds and getattr(self, n) == getattr(usual, n)}
        return replace(self, **changed) if changed else self

    def patience(self, limit: float) -> float:
        """Seconds without a token while signs of life come, where without them it were `limit`: no less,
        unless a shorter time was asked for."""
        if self.silent is None:
            return float("inf")
        return max(self.silent, limit) if self.silent == _SILENT else self.silent

    @classmethod
    def of(cls, given: float | Mapping[str, float | None] | Timeouts | None) -> Timeouts:
        """From seconds in total, or a mapping of the names above. Raises ConfigError for other names and for
        non-positive values."""
        if isinstance(given, Timeouts):
            return given
        values = dict(given) if isinstance(given, Mapping) else {} if given is None else {"total": given}
        names = [f.name for f in fields(cls)]
        for name, value in values.items():
            if name not in names or not (value is None or is_time(value) or value == math.inf):
                raise errors.ConfigError(
                    f"Not a time limit: {name}={value!r}.",
                    hint=f"Limits are {', '.join(names)}, in seconds above 0.",
                )
        return replace(cls(), **values)


@dataclass(frozen=True, slots=True)
class Retries:
    """How often and how patiently to ask again: `attempts` after the first, waits between 0 and
    min(cap, base * 2**n) seconds (exponential backoff with full jitter, as in AWS's "Exponential Backoff and
    Jitter")."""

    attempts: int = 2
    base: float = 0.5
    cap: float = 8.0

    @classmethod
    def of(cls, given: Retries | int | None) -> Retries | None:
        """From how often, where that is all that is said. Raises ConfigError for what is no number."""
        if not isinstance(given, Retries | Real | None):
            raise errors.ConfigError(
                f"retries= takes a number, and no {type(given).__name__}.", hint="For example retries=2."
            )
        return given if isinstance(given, Retries | None) else cls(attempts=given)


def passing(error: errors.NbllmError) -> bool:
    """Whether the same request may well succeed a little later."""
    if isinstance(error, (errors.QuotaExceeded, errors.AuthenticationError)):
        return False
    if isinstance(error, errors.ProviderError) and (error.is_lasting or not error.retryable):
        return False
    if isinstance(error, errors.Timeout):
        return error.which == "connect"
    return isinstance(error, _PASSING) or getattr(error, "status", None) in _PASSING_STATUS


def _asked(error: errors.NbllmError) -> float | None:
    """Seconds the provider wants us to wait, None where it does not say."""
    if not isinstance(error, errors.ProviderError):
        return None
    return error.retry_after if error.retry_after is not None else error.reset_after


def may_have_acted(error: errors.NbllmError, log: Sequence[tuple[float, Any]]) -> bool:
    """Whether an agent may have done something before it failed: then nobody is asked to do it again."""
    tools = (event.kind == "server_tool" for _, event in log if isinstance(event, Notice))
    return isinstance(error, errors.StreamCut) or any(tools)


def wait_before_retry(
    error: errors.NbllmError, attempt: int, shown: bool, retries: Retries, random: float
) -> float | None:
    """Seconds to wait before asking again, None to give up.

    attempt: how many requests were sent already, 1 or more. shown: whether a token of the answer has been
    shown, after which nothing is asked twice. random: a number in [0, 1) that spreads the callers. What the
    provider asks for is honoured as a minimum; more than LONGEST_WAIT means giving up at once.
    """
    if shown or attempt > retries.attempts or not passing(error):
        return None
    backoff = random * min(retries.cap, retries.base * 2.0 ** (attempt - 1))
    asked = _asked(error)
    if asked is None:
        return backoff
    return asked + backoff if asked <= LONGEST_WAIT else None


class Scale(msgspec.Struct):
    """What a provider counted of a conversation with a model, by our own estimate of it; learnt from each
    answer."""

    factor: float = 1.0
