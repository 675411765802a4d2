"""Simulated rate limits: a number of requests per period for each key and model, reported in the provider's
own headers. Pure; the caller passes the time."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime

from .options import Options

_UNUSED_TOKEN_LIMIT = 150_000_000  # no test uses this many tokens
_REQUESTS_PER_DAY = 14_400


@dataclass(slots=True)
class Quota:
    """What remains of one limit. fixed: the whole quota is restored at `refill_at`; otherwise it refills
    continuously."""

    limit: int
    period: float
    fixed: bool
    remaining: float
    updated: float
    refill_at: float

    def take(self, now: float) -> bool:
        """Takes one request from the quota; returns whether it is allowed."""
        if self.fixed and now >= self.refill_at:
            self.remaining, self.refill_at = float(self.limit), now + self.period
        if not self.fixed:
            self.remaining = min(self.limit, self.remaining + (now - self.updated) * self.limit / self.period)
        self.updated = now
        ok = self.remaining >= 1 - 1e-9
        self.remaining -= ok
        return ok

    @property
    def seconds_until_full(self) -> float:
        """Seconds until the quota is full."""
        return max(
            0.0,
            self.refill_at - self.updated
            if self.fixed
            else (self.limit - self.remaining) * self.period / self.limit,
        )

    @property
    def seconds_until_next(self) -> float:
        """Seconds until one more request is allowed."""
        return (
            self.seconds_until_full
            if self.fixed
            else max(0.0, (1 - self.remaining) * self.period / self.limit)
        )


@dataclass(slots=True)
class QuotaState:
    """A quota as reported with one answer. is_rejected: the request was rejected; clock: epoch seconds."""

    quota: Quota
    is_rejected: bool
    clock: float

    def openai_headers(
        self, name: str, *fields: str, remaining: int | None = None, limit: int | None = None
    ) -> dict[str, str]:
        """OpenAI's headers for a limit; fields: only these of limit, remaining and reset."""
        values = {
            "limit": str(self.quota.limit if limit is None else limit),
            "remaining": str(int(self.quota.remaining + 1e-9) if remaining is None else remaining),
            "reset": f"{round(self.quota.seconds_until_full * 1000)}ms",
        }
        tail = f"-{name}" if name else ""
        return {f"x-ratelimit-{field}{tail}": values[field] for field in fields or values}

    def retry_headers(self, *names: str) -> dict[str, str]:
        """The headers `names` with the time to wait, if the request was rejected."""
        wait = self.quota.seconds_until_next
        values = {"retry-after": str(math.ceil(wait)), "retry-after-ms": str(math.ceil(wait * 1000))}
        return {name: values[name] for name in names} if self.is_rejected else {}


def _anthropic(state: QuotaState) -> dict[str, str]:
    full_at = datetime.fromtimestamp(state.clock + state.quota.seconds_until_full, UTC)
    reset = full_at.isoformat(timespec="milliseconds").replace("+00:00", "Z")
    headers: dict[str, str] = {}
    for kind, limit, remaining in (
        ("requests", state.quota.limit, int(state.quota.remaining + 1e-9)),
        ("input-tokens", _UNUSED_TOKEN_LIMIT, _UNUSED_TOKEN_LIMIT),
        ("output-tokens", _UNUSED_TOKEN_LIMIT, _UNUSED_TOKEN_LIMIT),
    ):
        values = {"limit": str(limit), "remaining": str(remaining), "reset": reset}
        headers |= {f"anthropic-ratelimit-{kind}-{field}": value for field, value in values.items()}
    return headers | state.retry_headers("retry-after")


# The headers of each provider. Gemini reports limits in the error's body; "none" reports nothing.
STYLES: Mapping[str, Callable[[QuotaState], dict[str, str]]] = {
    "openai": lambda state: {
        **state.openai_headers("requests"),
        **state.openai_headers(
            "tokens", "limit", "remaining", limit=_UNUSED_TOKEN_LIMIT, remaining=_UNUSED_TOKEN_LIMIT
        ),
        "x-ratelimit-reset-tokens": "0s",
        **state.retry_headers("retry-after", "retry-after-ms"),
    },
    "anthropic": _anthropic,
    "azure": lambda state: {
        **state.openai_headers("requests", "limit", "remaining"),
        "x-ratelimit-reset-requests": str(round(state.quota.seconds_until_full * 1000)),
        "x-ratelimit-renewalperiod-requests": f"{state.quota.period:g}",
        **state.retry_headers("retry-after-ms"),
    },
    # Groq reports requests per day and tokens per minute, but not requests per minute.
    "groq": lambda state: {
        **state.openai_headers(
            "requests", "limit", "remaining", limit=_REQUESTS_PER_DAY, remaining=_REQUESTS_PER_DAY - 1
        ),
        "x-ratelimit-reset-requests": "6s",
        **state.openai_headers(
            "tokens", "limit", "remaining", limit=_UNUSED_TOKEN_LIMIT, remaining=_UNUSED_TOKEN_LIMIT
        ),
        "x-ratelimit-reset-tokens": "0s",
        **state.retry_headers("retry-after"),
    },
    "cerebras": lambda state: {
        **state.openai_headers("requests-minute", "limit", "remaining"),
        "x-ratelimit-reset-requests-minute": f"{state.quota.seconds_until_full:.9f}",
    },
    "mistral": lambda state: state.openai_headers("req-minute", "limit", "remaining"),
    "together": lambda state: {
        **state.openai_headers("", "limit", "remaining"),
        "x-ratelimit-reset": f"{math.ceil(state.quota.seconds_until_full)}",
        "x-ratelimit-limit-tokens": str(_UNUSED_TOKEN_LIMIT),
        "x-ratelimit-remaining-tokens": str(_UNUSED_TOKEN_LIMIT),
    },
    "xai": lambda state: state.openai_headers("requests", "limit", "remaining"),
    "gemini": lambda state: {},
    "none": lambda state: {},
}


@dataclass(slots=True)
class Limits:
    """The quotas of a simulator, by API key and model."""

    quotas: dict[tuple[str, str], Quota] = field(default_factory=dict)

    def take(
        self, o: Options, quota_key: tuple[str, str], now: float, clock: float
    ) -> tuple[dict[str, str], Quota | None]:
        """Returns the headers, and the quota if it rejects the request. now: seconds; clock: the same moment
        in epoch seconds."""
        if o.limits is None:
            return {}, None
        initial = Quota(o.rpm, o.per, o.fixed, float(o.rpm), now, now + o.per)
        quota = self.quotas.setdefault(quota_key, initial)
        ok = quota.take(now)
        return STYLES[o.limits](QuotaState(quota, not ok, clock)), None if ok else quota
