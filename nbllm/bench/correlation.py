"""Autocorrelation: how many independent values a series is worth, and how tests and intervals are adjusted.

A provider has slow minutes. Where they last longer than a block, ten blocks are not ten independent values: a
test that assumes independence calls equal models different in 20 to 70 of 100 runs. Here a series is modelled
as a first-order autoregression, x[t] = r x[t-1] + noise. Then

    Var(mean)   = s^2 / n * V,   V = (1 + r) / (1 - r) - 2 r (1 - r^n) / (n (1 - r)^2)
    E(sample variance) = s^2 * (1 - (V - 1) / (n - 1))

so a standard error from the sample must grow by sqrt(K), K = V / (1 - (V - 1) / (n - 1)), and has the degrees
of freedom of n (1 - r) / (1 + r) values. The sample's own r is biased downwards by about (1 + 4 r) / n
(Kendall 1954) and has a standard error of sqrt((1 - r^2) / n): both are added before it is used, so that it
covers every plausible r. For a single short series even that is too little (ten blocks seldom show an r of
0.95), so 7 / n more standard errors are added: benchmarks/verdicts.py shows the remaining rate of false
verdicts.

More models make up for few degrees of freedom: the noise of their pairs has about the same size, so a pair is
also tested with the mean variance of all pairs, or with its own where that is larger, and with a third of the
models' degrees of freedom. All of them would be right if r were known; where it is not, a third keeps the
false verdicts of strongly correlated blocks, and of one model that is noisier than the others, below the
limit.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    import numpy as np

    Array = np.ndarray[Any, np.dtype[np.float64]]

_MAX_R = 0.95  # beyond it, a run of ordinary length shows nothing
_MIN_DOF = 1.5


class EffectiveSize(NamedTuple):
    """inflation: the factor K above. dof: degrees of freedom. r: the autocorrelation that was assumed."""

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
    """The largest autocorrelation, between 0 and 0.95, that series of one kind (the pairs of a family)
    plausibly have. independent: how many of the series are independent. caution: standard errors to add; None
    for those of a test: 1 + 7 / n for a single series, down to 0.5 where several agree."""
    estimates = [(lag1(values), len(values)) for values in series]
    known = [(r, n) for r, n in estimates if n >= 6 and not math.isnan(r)]
    if not known:
        return 0.0
    n = sum(n for _, n in known) / len(known)
    r = unbiased_lag1(sum(r for r, _ in known) / len(known), n)
    n_independent = max(1, independent)
    default = max(0.5, 1.0 / math.sqrt(n_independent) + 7.0 / (n * n_independent**2))
    errors = default if caution is None else caution / math.sqrt(n_independent)
    return min(_MAX_R, max(0.0, r + errors * math.sqrt((1.0 - r * r) / n)))


def effective_size(r: float, n: int) -> EffectiveSize:
    """The effective size of n values with autocorrelation r."""
    if r <= 0 or n < 3:
        return EffectiveSize(1.0, max(_MIN_DOF, n - 1.0))
    v = (1 + r) / (1 - r) - 2 * r * (1 - r**n) / (n * (1 - r) ** 2)
    v = min(v, n - 0.5)
    return EffectiveSize(v / (1 - (v - 1) / (n - 1)), max(_MIN_DOF, n * (1 - r) / (1 + r) - 1.0), r)


def adjusted_p(p: float, own_dof: float, size: EffectiveSize) -> float:
    """A two-sided p of a test that assumed independent values, corrected to their effective size."""
    from scipy.stats import t

    if math.isnan(p) or p >= 1.0 or size.inflation <= 1.0:
        return p
    return float(2.0 * t.sf(t.isf(max(p, 1e-300) / 2.0, own_dof) / math.sqrt(size.inflation), size.dof))


def pooled_test(
    series: Array, variance: float, models: int, size: EffectiveSize, level: float
) -> tuple[float, float]:
    """(p, factor by which an interval of the series alone must grow), from the mean variance of all pairs of
    the `models` models."""
    import numpy as np
    from scipy.stats import t

    own_variance, tail, dof = float(series.var(ddof=1)), (1.0 + level) / 2.0, size.dof * models / 3.0
    larger = max(own_variance, variance)
    error = math.sqrt(larger * size.inflation / len(series))
    p = float(2.0 * t.sf(abs(float(np.mean(series))) / error, dof)) if error > 0 else math.nan
    grown = math.sqrt(size.inflation * larger / own_variance) if own_variance > 0 else math.inf
    return p, grown * float(t.ppf(tail, dof) / t.ppf(tail, len(series) - 1))


def interval_widening(level: float, own_dof: float, size: EffectiveSize) -> float:
    """The factor by which an interval that assumed independent values must grow."""
    from scipy.stats import t

    if size.inflation <= 1.0:
        return 1.0
    tail = (1.0 + level) / 2.0
    return float(math.sqrt(size.inflation) * t.ppf(tail, size.dof) / t.ppf(tail, own_dof))
