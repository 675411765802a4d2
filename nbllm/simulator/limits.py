"""Rate limits as a provider has them: so many requests in so many seconds for each key and model, told in its
own headers. Pure; told the time."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime

from .options import Options

_MANY = 150_000_000  # tokens that no test uses up
_DAY = 14_400  # requests of a day


@dataclass(slots=True)
class Count:
    """What is left of one limit. fixed: all of it comes back at once, at `full`; else steadily."""

    most: int
    span: float
    fixed: bool
    left: float
    at: float
    full: float

    def take(self, now: float) -> bool:
        """Whether one more is let in."""
        if self.fixed and now >= self.full:
            self.left, self.full = float(self.most), now + self.span
        if not self.fixed:
            self.left = min(self.most, self.left + (now - self.at) * self.most / self.span)
        self.at = now
        ok = self.left >= 1 - 1e-9
        self.left -= ok
        return ok

    @property
    def reset(self) -> float:
        """Seconds until all of it is there."""
        return max(
            0.0, self.full - self.at if self.fixed else (self.most - self.left) * self.span / self.most
        )

    @property
    def wait(self) -> float:
        """Seconds until one more is let in."""
        return self.reset if self.fixed else max(0.0, (1 - self.left) * self.span / self.most)


@dataclass(slots=True)
class Told:
    """What a limit says of itself. refused: in a refusal; clock: epoch seconds."""

    count: Count
    refused: bool
    clock: float

    def bare(
        self, name: str, *fields: str, left: int | None = None, most: int | None = None
    ) -> dict[str, str]:
        """OpenAI's headers of a limit, without what it does not say."""
        values = {
            "limit": str(self.count.most if most is None else most),
            "remaining": str(int(self.count.left + 1e-9) if left is None else left),
            "reset": f"{round(self.count.reset * 1000)}ms",
        }
        tail = f"-{name}" if name else ""
        return {f"x-ratelimit-{field}{tail}": values[field] for field in fields or values}

    def after(self, *names: str) -> dict[str, str]:
        """How long to wait, in a refusal."""
        wait = self.count.wait
        texts = {"retry-after": str(math.ceil(wait)), "retry-after-ms": str(math.ceil(wait * 1000))}
        return {name: texts[name] for name in names} if self.refused else {}


def _anthropic(told: Told) -> dict[str, str]:
    reset = datetime.fromtimestamp(told.clock + told.count.reset, UTC).isoformat(timespec="milliseconds")
    made: dict[str, str] = {}
    for kind, most, left in (
        ("requests", told.count.most, int(told.count.left + 1e-9)),
        ("input-tokens", _MANY, _MANY),
        ("output-tokens", _MANY, _MANY),
    ):
        values = {"limit": str(most), "remaining": str(left), "reset": reset.replace("+00:00", "Z")}
        made |= {f"anthropic-ratelimit-{kind}-{field}": value for field, value in values.items()}
    return made | told.after("retry-after")


# What each provider says; Gemini says it in a refusal's body, and "none" says nothing.
STYLES: Mapping[str, Callable[[Told], dict[str, str]]] = {
    "openai": lambda told: {
        **told.bare("requests"),
        **told.bare("tokens", "limit", "remaining", most=_MANY, left=_MANY),
        "x-ratelimit-reset-tokens": "0s",
        **told.after("retry-after", "retry-after-ms"),
    },
    "anthropic": _anthropic,
    "azure": lambda told: {
        **told.bare("requests", "limit", "remaining"),
        "x-ratelimit-reset-requests": str(round(told.count.reset * 1000)),
        "x-ratelimit-renewalperiod-requests": f"{told.count.span:g}",
        **told.after("retry-after-ms"),
    },
    # Its requests are a day's, and its tokens a minute's: that of a minute's requests is not told.
    "groq": lambda told: {
        **told.bare("requests", "limit", "remaining", most=_DAY, left=_DAY - 1),
        "x-ratelimit-reset-requests": "6s",
        **told.bare("tokens", "limit", "remaining", most=_MANY, left=_MANY),
        "x-ratelimit-reset-tokens": "0s",
        **told.after("retry-after"),
    },
    "cerebras": lambda told: {
        **told.bare("requests-minute", "limit", "remaining"),
        "x-ratelimit-reset-requests-minute": f"{told.count.reset:.9f}",
    },
    "mistral": lambda told: told.bare("req-minute", "limit", "remaining"),
    "together": lambda told: {
        **told.bare("", "limit", "remaining"),
        "x-ratelimit-reset": f"{math.ceil(told.count.reset)}",
        "x-ratelimit-limit-tokens": str(_MANY),
        "x-ratelimit-remaining-tokens": str(_MANY),
    },
    "xai": lambda told: told.bare("requests", "limit", "remaining"),
    "gemini": lambda told: {},
    "none": lambda told: {},
}


@dataclass(slots=True)
class Limits:
    """The counts of a simulator, by key and model."""

    counts: dict[tuple[str, str], Count] = field(default_factory=dict)

    def take(
        self, o: Options, who: tuple[str, str], now: float, clock: float
    ) -> tuple[dict[str, str], Count | None]:
        """(headers, the count where it refuses). now: seconds; clock: the same moment since 1970."""
        if o.limits is None:
            return {}, None
        fresh = Count(o.rpm, o.per, o.fixed, float(o.rpm), now, now + o.per)
        count = self.counts.setdefault(who, fresh)
        ok = count.take(now)
        return STYLES[o.limits](Told(count, not ok, clock)), None if ok else count
