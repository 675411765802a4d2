"""When a run may end early: confidence sequences, whose coverage holds even if they are checked after every
block.

After Waudby-Smith, Arbour, Sinha, Kennedy and Ramdas, "Time-uniform central limit theory and asymptotic
confidence sequences" (2021), theorem 2.2: with t values of mean m and standard deviation s, the intervals

    m ± s sqrt( 2 (t r^2 + 1) / (t^2 r^2) * log( sqrt(t r^2 + 1) / alpha ) )

contain the true mean at all t together with a probability of 1 - alpha (asymptotically). r chooses the t near
which they are narrowest. Consecutive blocks are not independent: s is widened for their plausible
autocorrelation (see correlation.py).
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping

from .correlation import effective_size, plausible_autocorrelation

_NARROWEST_AT = 50  # values


class EarlyStop:
    """Takes one value (the logarithm of a time) per block and name; done when the interval of every name is
    narrow enough.

    width: the half width, as a share: 0.05 is ±5 %. min_blocks: values that each name needs first, since the
    theorem is asymptotic.
    """

    def __init__(self, width: float, level: float = 0.95, min_blocks: int = 10) -> None:
        self._width, self._alpha, self._least = width, 1.0 - level, max(2, min_blocks)
        self._values: dict[str, list[float]] = {}

    def add(self, name: str, value: float) -> None:
        """Adds one block's value of `name`."""
        self._values.setdefault(name, []).append(value)

    def intervals(self) -> Mapping[str, tuple[float, float]]:
        """The interval of each name's mean value; infinite below two values."""
        return {name: self._interval(values) for name, values in self._values.items()}

    def _interval(self, values: list[float]) -> tuple[float, float]:
        t = len(values)
        if t < 2:
            return -math.inf, math.inf
        base = -2.0 * math.log(self._alpha)
        r2 = (base + math.log(base) + 1.0) / _NARROWEST_AT
        neighbours = effective_size(plausible_autocorrelation([values]), t).inflation
        narrowing = 2.0 * (t * r2 + 1.0) / (t * t * r2) * math.log(math.sqrt(t * r2 + 1.0) / self._alpha)
        half = statistics.stdev(values) * math.sqrt(neighbours * narrowing)
        mean = statistics.fmean(values)
        return mean - half, mean + half

    @property
    def done(self) -> bool:
        """Whether every name has enough values and an interval that is narrow enough."""
        return bool(self._values) and all(
            len(values) >= self._least and high - low <= 2.0 * math.log1p(self._width)
            for values, (low, high) in zip(self._values.values(), self.intervals().values(), strict=True)
        )
