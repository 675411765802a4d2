"""Time limits, retries and the approval of tools: pure decisions and their messages."""

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
# Called with an agent.Question; may return an awaitable. Any answer but a yes is a no.
Asker = Callable[[Any], Any]
Approve = Literal["ask", "auto", "never"] | Asker


def parse_approve(value: Approve | None) -> Approve:
    """How calls are approved; "ask" for None. Raises ConfigError for an unknown value."""
    if value is not None and value not in ("ask", "auto", "never") and not callable(value):
        raise errors.ConfigError(
            f"Not a value of approve: {value!r}.", hint="Use ask, auto, never or a function."
        )
    return value or "ask"


LONGEST = 1e9  # seconds; an event loop's clock has a limit
LONGEST_WAIT = 60.0  # seconds that a provider may ask us to wait
_TRANSIENT = (
    errors.RateLimited,
    errors.Overloaded,
    errors.ServerError,
    errors.ConnectFailed,
    errors.StreamCut,
)
_TRANSIENT_STATUS = frozenset({408, 409, 425, 429, 500, 502, 503, 504, 520, 521, 522, 523, 524, 529})


_SILENT = 900.0


def is_time(value: Any) -> bool:
    """Whether a value is a number of seconds above 0 that a clock can take."""
    number: Any = value if isinstance(value, Real) and not isinstance(value, bool) else 0
    return bool(0 < number < LONGEST)


@dataclass(frozen=True, slots=True)
class Timeouts:
    """Limits in seconds, None for none. connect: name look-up, TCP and TLS. first: from call to first token,
    and idle: between two tokens, where the provider sends no keep-alives (comments, pings); silent: the same
    where it does. total: from call to end, retries included."""

    connect: float | None = 10.0
    first: float | None = 120.0
    idle: float | None = 60.0
    silent: float | None = _SILENT
    total: float | None = None

    def at_least(self, seconds: float | None) -> Timeouts:
        """These limits, with `seconds` (of the environment) for `first` and `idle` where they are
        defaults."""
        default = Timeouts()
        changed = {
            n: seconds for n in ("first", "idle") if seconds and getattr(self, n) == getattr(default, n)
        }
        return replace(self, **changed) if changed else self

    def silent_limit(self, limit: float) -> float:
        """Seconds without a token while keep-alives arrive. limit: the limit without keep-alives, which this
        is at least, unless the user set `silent`."""
        silent = math.inf if self.silent is None else self.silent
        return max(silent, limit) if silent == _SILENT else silent

    @classmethod
    def of(cls, given: float | Mapping[str, float | None] | Timeouts | None) -> Timeouts:
        """From total seconds, or a mapping of the names above. Raises ConfigError for other names and for
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
    """How often to send again (`attempts` after the first), with waits between 0 and min(cap, base * 2**n)
    seconds (exponential backoff with full jitter, as in AWS's "Exponential Backoff and Jitter")."""

    attempts: int = 2
    base: float = 0.5
    cap: float = 8.0

    @classmethod
    def of(cls, given: Retries | int | None) -> Retries | None:
        """From a number of attempts. Raises ConfigError for anything else."""
        if not isinstance(given, Retries | Real | None):
            raise errors.ConfigError(
                f"retries= takes a number, not {type(given).__name__}.", hint="For example retries=2."
            )
        return given if isinstance(given, Retries | None) else cls(attempts=given)


def is_transient(error: errors.NbllmError) -> bool:
    """Whether the same request may succeed a little later."""
    if isinstance(error, (errors.QuotaExceeded, errors.AuthenticationError)):
        return False
    if isinstance(error, errors.ProviderError) and (error.is_lasting or not error.retryable):
        return False
    if isinstance(error, errors.Timeout):
        return error.which == "connect"
    return isinstance(error, _TRANSIENT) or getattr(error, "status", None) in _TRANSIENT_STATUS


def _requested_wait(error: errors.NbllmError) -> float | None:
    """Seconds that the provider asks us to wait; None where it does not say."""
    if not isinstance(error, errors.ProviderError):
        return None
    return error.retry_after if error.retry_after is not None else error.reset_after


def may_have_acted(error: errors.NbllmError, log: Sequence[tuple[float, Any]]) -> bool:
    """Whether an agent may have acted before it failed, so that the request must not be sent again."""
    tools = (event.kind == "server_tool" for _, event in log if isinstance(event, Notice))
    return isinstance(error, errors.StreamCut) or any(tools)


def wait_before_retry(
    error: errors.NbllmError, attempt: int, shown: bool, retries: Retries, random: float
) -> float | None:
    """Seconds to wait before sending again; None to give up.

    attempt: how many requests were sent already, 1 or more. shown: a token of the answer has been shown,
    after which nothing is sent again. random: a number in [0, 1) that spreads the callers. The wait that the
    provider asks for is a minimum; more than LONGEST_WAIT means giving up at once.
    """
    if shown or attempt > retries.attempts or not is_transient(error):
        return None
    backoff = random * min(retries.cap, retries.base * 2.0 ** (attempt - 1))
    requested = _requested_wait(error) or 0.0
    return requested + backoff if requested <= LONGEST_WAIT else None


class TokenScale(msgspec.Struct):
    """Tokens that a provider counted for a conversation, divided by our estimate; updated with each
    answer."""

    factor: float = 1.0
