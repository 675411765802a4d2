"""Arrival times of an open loop: seconds since the start of the turn. Pure."""

from __future__ import annotations

import itertools
import math
import random
from collections.abc import Iterable
from typing import Any

from ..core.errors import ConfigError


def constant(rate: float, n: int) -> tuple[float, ...]:
    """`n` arrivals at `rate` a second, evenly spaced, the first at 0."""
    return tuple(i / rate for i in range(n))


def poisson(rate: float, n: int, rng: random.Random) -> tuple[float, ...]:
    """`n` arrivals of a Poisson process of `rate` a second: independent exponential gaps, not rescaled to a
    fixed duration."""
    return tuple(itertools.accumulate(rng.expovariate(rate) for _ in range(n)))


def ramp(first: float, last: float, n: int) -> tuple[float, ...]:
    """`n` arrivals whose rate changes linearly from `first` to `last` a second.

    At time t the rate is first + a t, so first t + a t^2 / 2 requests have arrived; a is chosen so that the
    rate is `last` at the n-th arrival.
    """
    if math.isclose(first, last):
        return constant(first, n)
    span = 2 * n / (first + last)
    a = (last - first) / span
    return tuple((math.sqrt(first * first + 2 * a * i) - first) / a for i in range(n))


def replay(times: Iterable[Any]) -> tuple[float, ...]:
    """Recorded arrivals (seconds or datetimes), sorted and shifted so that the first is at 0. Raises
    ConfigError if there are none."""
    try:
        sorted_times = sorted(t.timestamp() if hasattr(t, "timestamp") else float(t) for t in times)
    except (TypeError, ValueError):
        raise ConfigError(
            "Recorded arrivals are numbers of seconds or datetimes.",
            hint='arrivals=df["time"], or arrivals=[0, 0.4, 1.7].',
        ) from None
    if not sorted_times or not all(map(math.isfinite, sorted_times)):
        raise ConfigError(
            "Recorded arrivals must be finite times, at least one.",
            hint="arrivals=[0, 0.4, 1.7]",
        )
    return tuple(t - sorted_times[0] for t in sorted_times)
