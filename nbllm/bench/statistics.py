"""The statistics of benchmarks, each with its source: distribution-free where possible, aware of drift where
not.

Consecutive requests are not independent: a provider has slow minutes. So the interval of a mean is widened
for autocorrelation (see correlation.py), that of a percentile comes from order statistics with the effective
sample size (n_eff), and differences between models come from pairs within a block. All functions take float
arrays without NaN unless they say otherwise.

scipy is used for what it has. It lacks order statistics widened by n_eff (`quantile_test` gives the plain
interval, not its ranks), Hodges and Lehmann's estimates with their intervals, and Holm's correction.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from .correlation import effective_size, lag1, plausible_autocorrelation, unbiased_lag1

if TYPE_CHECKING:
    Array = np.ndarray[Any, np.dtype[np.float64]]

_MAX_EXACT_PAIRS = 14  # up to here all 2^n sign patterns are evaluated
_RANDOM_PATTERNS = 10_000
MIN_PAIRS = 6  # fewer cannot be significant at the usual level: 2 / 2^6 < 0.05 <= 2 / 2^5


class Interval(NamedTuple):
    """Lower and upper end (NaN where the data support none), and the method."""

    lo: float
    hi: float
    method: str


def min_n(p: float) -> int:
    """The smallest n that supports the quantile `p`: a sample whose maximum is above it (and minimum below)
    with probability 0.95 needs n >= ln(0.05) / ln(max(p, 1 - p)). 5 for the median, 29 for p90, 59 for
    p95, 299 for p99."""
    return math.ceil(math.log(0.05) / math.log(max(p, 1.0 - p)) - 1e-9)


def quantile(values: Array, p: float) -> float:
    """The p-quantile, linear between order statistics (Hyndman and Fan's type 7, numpy's default); inf values
    are allowed."""
    ordered = np.sort(values)
    position = p * (len(ordered) - 1)
    low, high = ordered[math.floor(position)], ordered[math.ceil(position)]
    share = position - math.floor(position)
    return float(low if share == 0 or low == high else low + share * (high - low))


def order_interval(values: Array, p: float, level: float = 0.95, n_eff: float | None = None) -> Interval:
    """A distribution-free interval of the p-quantile from order statistics (Conover, Practical Nonparametric
    Statistics, 3.2): X(r) and X(s) with P(Binomial(n, p) < r) and P(Binomial(n, p) >= s) at most (1 - level)
    / 2 each.

    n_eff: effective sample size; below n, the ranks spread by sqrt(n / n_eff), up to the sample's range. An
    end that the sample does not support even if its values are independent is NaN.
    """
    from scipy.stats import binom

    n, tail = len(values), (1.0 - level) / 2.0
    if n == 0:
        return Interval(math.nan, math.nan, "order statistics")
    low = int(binom.ppf(tail, n, p))  # the smallest k with P(X <= k) >= tail, so P(X < k) < tail
    high = int(binom.ppf(1.0 - tail, n, p)) + 1
    method = "order statistics"
    if n_eff is not None and n_eff < 0.95 * n:
        factor = math.sqrt(n / max(1.0, n_eff))
        wide_ranks = math.floor(n * p - (n * p - low) * factor), math.ceil(n * p + (high - n * p) * factor)
        method = "order statistics, widened for autocorrelation"
        if (wide_ranks[0] < 1 <= low) or (high <= n < wide_ranks[1]):
            method += " to the sample's range: it may cover less"
        low, high = max(wide_ranks[0], min(1, low)), min(wide_ranks[1], max(n, high))
    ordered = np.sort(values)
    lo = float(ordered[low - 1]) if 1 <= low <= n else math.nan
    hi = float(ordered[high - 1]) if 1 <= high <= n else math.nan
    return Interval(lo, hi, method)


def effective_n(values: Array) -> float:
    """The effective sample size of a series: n (1 - r) / (1 + r) with r its lag-1 autocorrelation, where that
    is significant (an AR(1) process; Wilks, Statistical Methods in the Atmospheric Sciences, 5.2.4), between
    1 and n."""
    n = float(len(values))
    r = lag1(values)
    if math.isnan(r) or r <= 1.3 / math.sqrt(n):
        return n
    r = unbiased_lag1(r, n)
    return max(1.0, n * (1.0 - r) / (1.0 + r))


def mean_interval(values: Array, level: float = 0.95) -> Interval:
    """An interval of the mean: Johnson's t (1978), which allows for skewness, widened for the plausible
    autocorrelation of the series. NaN below 6 values. `method` says where it may cover less: one value that
    makes up a quarter of the variation (half of it, for few values) indicates a tail that such a sample
    cannot measure."""
    from scipy.stats import t

    n = len(values)
    if n < 6:
        return Interval(math.nan, math.nan, "t")
    middle, spread = float(values.mean()), float(values.std(ddof=1))
    size = effective_size(plausible_autocorrelation([values], caution=0.5), n)
    squares = (values - middle) ** 2
    is_heavy = bool(squares.sum() > 0 and squares.max() > max(0.25, 5.0 / n) * squares.sum())
    half = float(t.ppf((1.0 + level) / 2.0, size.dof)) * spread * math.sqrt(size.inflation / n)
    skew_shift = float(np.mean((values - middle) ** 3)) / (6.0 * spread**2 * n) if spread > 0 else 0.0
    method = "t" + (f", widened for autocorrelation of {size.r:.2f}" if size.inflation > 1.2 else "")
    method += "; a heavy tail: it may cover less" if is_heavy else ""
    return Interval(middle + skew_shift - half, middle + skew_shift + half, method)


def wilson(successes: int, n: int, level: float = 0.95) -> Interval:
    """Wilson's score interval of a share."""
    from scipy.stats import binomtest

    if n == 0:
        return Interval(math.nan, math.nan, "Wilson")
    interval = binomtest(successes, n).proportion_ci(level, method="wilson")
    return Interval(float(interval.low), float(interval.high), "Wilson")


def hodges_lehmann(differences: Array, level: float = 0.95) -> tuple[float, Interval]:
    """The median of all pairwise means (Walsh averages), and its interval by inverting Wilcoxon's signed-rank
    test (Hollander, Wolfe and Chicken, 3.3): the k-th smallest and largest Walsh average. NaN ends below 6
    differences."""
    from scipy.stats import norm

    n = len(differences)
    if n == 0:
        return math.nan, Interval(math.nan, math.nan, "signed ranks")
    rows, columns = np.triu_indices(n)
    walsh = np.sort((differences[rows] + differences[columns]) / 2.0)
    middle = float(np.median(walsh))
    if n < 6:
        return middle, Interval(math.nan, math.nan, "signed ranks")
    tail = (1.0 - level) / 2.0
    if n <= 30:
        k = _signed_rank_k(n, tail)
    else:
        k = math.floor(n * (n + 1) / 4 - norm.ppf(1.0 - tail) * math.sqrt(n * (n + 1) * (2 * n + 1) / 24))
    if k < 1:
        return middle, Interval(math.nan, math.nan, "signed ranks")
    return middle, Interval(float(walsh[k - 1]), float(walsh[-k]), "signed ranks")


def _signed_rank_k(n: int, tail: float) -> int:
    """The largest k with P(T < k) <= tail, where T is Wilcoxon's statistic of n pairs under the null
    hypothesis (exact distribution)."""
    counts = np.zeros(n * (n + 1) // 2 + 1)
    counts[0] = 1.0
    for rank in range(1, n + 1):
        counts[rank:] += counts[:-rank].copy()
    below = np.cumsum(counts) / 2.0**n
    return int(np.searchsorted(below, tail, side="right"))


def sign_flip(differences: Array, seed: int = 0) -> float:
    """The two-sided p of a paired permutation test: how often the mean difference is at least as far from 0
    if the sign of each pair is random (Fisher). Exact up to 14 pairs, else from 10,000 random patterns and
    the observed one. NaN without pairs."""
    n = len(differences)
    if not n:
        return math.nan
    if n <= _MAX_EXACT_PAIRS:
        signs = 1.0 - 2.0 * ((np.arange(2**n)[:, None] >> np.arange(n)) & 1)
    else:
        signs = np.random.default_rng(seed).choice([-1.0, 1.0], (_RANDOM_PATTERNS, n))
    n_extreme = int((np.abs(signs @ differences) >= abs(differences.sum()) * (1.0 - 1e-12)).sum())
    return n_extreme / 2**n if n <= _MAX_EXACT_PAIRS else (n_extreme + 1) / (_RANDOM_PATTERNS + 1)


def smallest_p(n: int) -> float:
    """The smallest p that sign_flip can return for n pairs."""
    return 2.0 / 2**n if n <= _MAX_EXACT_PAIRS else 1.0 / (_RANDOM_PATTERNS + 1)


def min_blocks(comparisons: int, level: float) -> int:
    """The number of pairs that sign flips need to decide any of `comparisons` comparisons."""
    return next(
        (n for n in range(MIN_PAIRS, _MAX_EXACT_PAIRS + 1) if smallest_p(n) * comparisons < 1.0 - level),
        _MAX_EXACT_PAIRS + 1,
    )


def paired_p(differences: Array, seed: int = 0) -> float:
    """The sign-flip p. Where that is the smallest possible one, so that many comparisons could never be
    decided, the tail of Student's t beyond it: an approximation, used only for six differences or more that
    are mostly distinct."""
    from scipy.stats import t

    p, n = sign_flip(differences, seed), len(differences)
    if n < MIN_PAIRS or p > 1.01 * smallest_p(n) or len(np.unique(differences)) < n / 2:
        return p
    spread = float(differences.std(ddof=1))
    size = abs(float(differences.mean())) / spread * math.sqrt(n) if spread > 0 else math.inf
    return min(p, float(2.0 * t.sf(size, n - 1)))


def rank_p(differences: Array, seed: int = 0) -> float:
    """Wilcoxon's signed-rank p by sign flips; infinite differences have the highest ranks."""
    from scipy.stats import rankdata

    return sign_flip(np.sign(differences) * rankdata(np.abs(differences)), seed)


def holm(ps: Sequence[float]) -> list[float]:
    """Holm's corrected p values, in the same order; NaN stays NaN and does not count."""
    known = sorted((p, i) for i, p in enumerate(ps) if not math.isnan(p))
    out, worst = [math.nan] * len(ps), 0.0
    for rank, (p, i) in enumerate(known):
        worst = max(worst, min(1.0, (len(known) - rank) * p))
        out[i] = worst
    return out


def superiority(a: Array, b: Array, *, paired: bool) -> float:
    """P(a < b) + P(a = b) / 2: over pairs, or over all combinations (Vargha and Delaney's A). NaN for empty
    samples."""
    from scipy.stats import mannwhitneyu

    if not len(a) or not len(b):
        return math.nan
    return (
        float(((a < b) + 0.5 * (a == b)).mean())
        if paired
        else float(mannwhitneyu(b, a, method="asymptotic").statistic) / (len(a) * len(b))
    )


def shift(a: Array, b: Array, level: float = 0.95) -> tuple[float, Interval, float]:
    """For two unpaired samples: the median of all differences a - b, its interval and p by Mann and Whitney's
    test (Hollander, Wolfe and Chicken, 4.2 to 4.3)."""
    from scipy.stats import mannwhitneyu, norm

    if not len(a) or not len(b):
        return math.nan, Interval(math.nan, math.nan, "Mann-Whitney"), math.nan
    with np.errstate(invalid="ignore"):  # two failures: inf - inf
        differences = np.sort((a[:, None] - b[None, :]).ravel())
    m, n = len(a), len(b)
    k = math.floor(m * n / 2 - norm.ppf(0.5 + level / 2) * math.sqrt(m * n * (m + n + 1) / 12))
    interval = (float(differences[k - 1]), float(differences[-k])) if k >= 1 else (math.nan, math.nan)
    return (
        float(np.median(differences)),
        Interval(*interval, "Mann-Whitney"),
        float(mannwhitneyu(a, b).pvalue),
    )
