"""What a series is worth whose neighbours resemble each other, and what that costs a test and an interval.

A provider has slow minutes of its own. Where they last longer than a block, ten blocks are not ten
independent values: a test that takes them for such calls equal models different in 20 to 70 of 100 runs. Here
a series is taken for a first-order autoregression, x[t] = r x[t-1] + noise. Then

    Var(mean)   = s^2 / n * V,   V = (1 + r) / (1 - r) - 2 r (1 - r^n) / (n (1 - r)^2)
    E(sample variance) = s^2 * (1 - (V - 1) / (n - 1))

so a standard error from the sample must grow by sqrt(K), K = V / (1 - (V - 1) / (n - 1)), and has the degrees
of freedom of n (1 - r) / (1 + r) values. The sample's own r is too small by about (1 + 4 r) / n (Kendall
1954) and uncertain by sqrt((1 - r^2) / n): both are added before it is used, so that what is plausible is
allowed for. Of a single short series even that is too little (ten blocks seldom show an r of 0.95), so it is
given 7 / n standard errors more: benchmarks/verdicts.py shows what false verdicts that leaves.

What few degrees of freedom cost, more models give back: their pairs have noise of one size, more or less, so
a pair is also tested by the mean variance of all pairs, or its own where that is larger, with a third of the
models' degrees of freedom. All of them would be right if r were known; where it is not, a third keeps false
verdicts of strongly correlated blocks, and of one model that is noisier than all others, below the bar.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    import numpy as np

    Array = np.ndarray[Any, np.dtype[np.float64]]

_MAX_R = 0.95  # beyond, a run of ordinary length says nothing at all
_MIN_DOF = 1.5


class EffectiveSize(NamedTuple):
    """inflation: K above. dof: degrees of freedom. r: the autocorrelation that was allowed for."""

    inflation: float
    dof: float
    r: float = 0.0


def lag1(values: Array | Sequence[float]) -> float:
    """The lag-1 autocorrelation of a series; NaN below 3 values or without variation."""
    import numpy as np

    if len(values) < 3:
        return math.nan
    series = np.asarray(values, float)
    centred = series - series.mean()
    total = float(np.dot(centred, centred))
    varied = total > 1e-24 * float(np.dot(series, series))  # what is left of equal values is rounding
    return float(np.dot(centred[1:], centred[:-1])) / total if varied else math.nan


def unbiased_lag1(r: float, n: float) -> float:
    """A sample's r of n values without its bias."""
    return max(-_MAX_R, min(_MAX_R, (n * r + 1.0) / max(1.0, n - 4.0)))


def plausible_autocorrelation(
    series: Sequence[Array | Sequence[float]], independent: int = 1, caution: float | None = None
) -> float:
    """The largest autocorrelation that series of one kind (the pairs of a family) plausibly have, between 0
    and 0.95. independent: how many of them are. caution: standard errors that are added; None for those of a
    test: 1 + 7 / n of a single series, down to half of one where several agree."""
    found = [(lag1(values), len(values)) for values in series]
    known = [(r, n) for r, n in found if n >= 6 and not math.isnan(r)]
    if not known:
        return 0.0
    n = sum(n for _, n in known) / len(known)
    r = unbiased_lag1(sum(r for r, _ in known) / len(known), n)
    several = max(1, independent)
    usual = max(0.5, 1.0 / math.sqrt(several) + 7.0 / (n * several**2))
    errors = usual if caution is None else caution / math.sqrt(several)
    return min(_MAX_R, max(0.0, r + errors * math.sqrt((1.0 - r * r) / n)))


def effective_size(r: float, n: int) -> EffectiveSize:
    """What n values are worth whose autocorrelation is r."""
    if r <= 0 or n < 3:
        return EffectiveSize(1.0, max(_MIN_DOF, n - 1.0))
    v = (1 + r) / (1 - r) - 2 * r * (1 - r**n) / (n * (1 - r) ** 2)
    v = min(v, n - 0.5)
    return EffectiveSize(v / (1 - (v - 1) / (n - 1)), max(_MIN_DOF, n * (1 - r) / (1 + r) - 1.0), r)


def adjusted_p(p: float, plain_dof: float, told: EffectiveSize) -> float:
    """A two-sided p of a test that took its values for independent, as what they are worth."""
    from scipy.stats import t

    if math.isnan(p) or p >= 1.0 or told.inflation <= 1.0:
        return p
    return float(2.0 * t.sf(t.isf(max(p, 1e-300) / 2.0, plain_dof) / math.sqrt(told.inflation), told.dof))


def pooled_test(
    series: Array, variance: float, models: int, told: EffectiveSize, level: float
) -> tuple[float, float]:
    """(p, by how much an interval of the series alone must grow) by the mean variance of all pairs of so many
    models."""
    import numpy as np
    from scipy.stats import t

    own, tail, dof = float(series.var(ddof=1)), (1.0 + level) / 2.0, told.dof * models / 3.0
    larger = max(own, variance)
    error = math.sqrt(larger * told.inflation / len(series))
    p = float(2.0 * t.sf(abs(float(np.mean(series))) / error, dof)) if error > 0 else math.nan
    grown = math.sqrt(told.inflation * larger / own) if own > 0 else math.inf
    return p, grown * float(t.ppf(tail, dof) / t.ppf(tail, len(series) - 1))


def interval_widening(level: float, plain_dof: float, told: EffectiveSize) -> float:
    """By how much an interval that took its values for independent must grow."""
    from scipy.stats import t

    if told.inflation <= 1.0:
        return 1.0
    tail = (1.0 + level) / 2.0
    return float(math.sqrt(told.inflation) * t.ppf(tail, told.dof) / t.ppf(tail, plain_dof))
