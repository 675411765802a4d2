"""Two models in one setting compared by one metric: which requests form pairs, and the tests on them.

Requests of one block of one run form a pair: the same prompts, minutes apart, in random order. Blocks of two
runs do not, even with the same number: drift between two days would look like a difference. A failed request
has no time, and a model must not win by failing: in a rank test it is infinitely slow.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import pandas as pd

from . import statistics as st
from .correlation import EffectiveSize, adjusted_p, effective_size, interval_widening, pooled_test
from .frames import contaminated_mask, success_mask
from .summaries import HIGHER_IS_BETTER, OK_SHARE, UNITS, split_values

BLOCK_KEY = ["run_id", "block"]


class Side:
    """One model's requests (their last attempts) in one setting."""

    def __init__(self, part: pd.DataFrame, contaminated: bool) -> None:
        self._part, self._contaminated = part, contaminated
        self.failed = 1.0 - float(success_mask(part).mean()) if len(part) else math.nan
        self.retries = float(part["attempt"].astype(float).mean()) - 1.0 if len(part) else math.nan
        self._medians_by_key: dict[tuple[str, bool], pd.Series] = {}

    @property
    def n(self) -> tuple[int, int]:
        """(requests that succeeded, all)."""
        return int(success_mask(self._part).sum()), len(self._part)

    @cached_property
    def tokens(self) -> float:
        """The median length of an answer in tokens; NaN where unknown."""
        counts = self._part.loc[success_mask(self._part), "out_tokens"].dropna()
        return float(counts.median()) if len(counts) else math.nan

    @cached_property
    def blocks(self) -> pd.MultiIndex | None:
        """The blocks of its runs; None where requests have no block."""
        if self._part["block"].isna().any():
            return None
        return pd.MultiIndex.from_frame(
            self._part[BLOCK_KEY].astype({"run_id": str, "block": int}).drop_duplicates()
        )

    @property
    def runs(self) -> set[str]:
        """The runs that it was measured in."""
        return set(self._part["run_id"].astype(str))

    def values(self, metric: str) -> np.ndarray[Any, Any]:
        """The values of its requests."""
        if metric == OK_SHARE:
            return success_mask(self._part).to_numpy(float)
        values: np.ndarray[Any, Any] = split_values(self._part, metric, self._contaminated)[0]
        return values

    def medians(self, metric: str, *, failures: bool = False) -> pd.Series:
        """The median of each block (for ok_share the mean). failures: whether failed requests count, as the
        worst possible value."""
        key = (metric, failures)
        if key not in self._medians_by_key:
            self._medians_by_key[key] = self._medians(metric, failures)
        return self._medians_by_key[key]

    def _medians(self, metric: str, failures: bool) -> pd.Series:
        part, ok = self._part, success_mask(self._part)
        if metric == OK_SHARE:
            shares: pd.Series = _by_block(part, ok.to_numpy(float)).mean()
            return shares
        values = part[metric].astype("Float64").to_numpy(float, na_value=math.nan)
        counted = ok.to_numpy() & np.isfinite(values)
        if not self._contaminated:
            counted &= ~contaminated_mask(part).to_numpy()
        if failures and is_timed(metric):
            values = np.where(ok.to_numpy(), values, 0.0 if metric in HIGHER_IS_BETTER else math.inf)
            counted |= ~ok.to_numpy()
        medians: pd.Series = _by_block(part[counted], values[counted]).median()
        return medians


def _by_block(part: pd.DataFrame, values: np.ndarray[Any, Any]) -> Any:
    return pd.Series(values, part.index).groupby([part["run_id"].astype(str), part["block"].astype(int)])


def is_timed(metric: str) -> bool:
    """Whether a failure has a worst possible value of this metric: times and rates."""
    return metric in HIGHER_IS_BETTER or UNITS.get(metric, "ms") == "ms"


@dataclass(frozen=True, slots=True)
class Samples:
    """The two samples that are compared."""

    a: np.ndarray[Any, Any]
    b: np.ndarray[Any, Any]
    paired: bool
    dropped: int
    unpaired_reason: str  # "" if paired


class Pair:
    """The comparison of two sides. by: the sides of a reference model in the runs of a and b; None if there
    is no reference."""

    def __init__(
        self,
        a: Side,
        b: Side,
        metric: str,
        by: tuple[Side | None, Side | None] | None = None,
        *,
        level: float = 0.95,
        seed: int = 0,
    ) -> None:
        self._a, self._b, self._metric, self._level, self._seed = a, b, metric, level, seed
        self._in_blocks = a.blocks is not None and b.blocks is not None
        self._references = [side for side in by or () if side is not None and self._in_blocks]
        self._reference_missing = by is not None and len(self._references) < 2
        self.samples = self._build_samples()
        self._positive = all(len(side) and (side > 0).all() for side in (self.samples.a, self.samples.b))

    def _build_samples(self) -> Samples:
        a, b = self._a, self._b
        if a.blocks is None or b.blocks is None:
            return Samples(
                a.values(self._metric), b.values(self._metric), False, 0, "no blocks: drift is not controlled"
            )
        if len(self._references) == 2:
            sides = [self._ratios_to(side, by) for side, by in zip((a, b), self._references, strict=True)]
            return Samples(
                sides[0],
                sides[1],
                False,
                0,
                "each run's ratio to the reference: common drift cancels out",
            )
        if not len(a.blocks.intersection(b.blocks)):
            why = "different blocks" if a.runs & b.runs else "different runs"
            sides = [np.asarray(side.medians(self._metric), float) for side in (a, b)]
            return Samples(sides[0], sides[1], False, 0, f"{why}: drift between them is not controlled")
        medians = [side.medians(self._metric) for side in (a, b)]
        both = medians[0].index.intersection(medians[1].index)
        values = [side.loc[both].to_numpy(float) for side in medians]
        return Samples(values[0], values[1], True, len(a.blocks.union(b.blocks)) - len(both), "")

    def _ratios_to(self, side: Side, reference: Side) -> np.ndarray[Any, Any]:
        own, others = side.medians(self._metric), reference.medians(self._metric)
        both = own.index.intersection(others.index)
        ratios: np.ndarray[Any, Any] = np.asarray(own.loc[both] / others.loc[both], float)
        return ratios

    def series(self) -> list[np.ndarray[Any, Any]]:
        """The values that the test assumes independent: the differences, or the two samples."""
        a, b = self._logs() if self._positive else (self.samples.a, self.samples.b)
        return [a - b] if self.samples.paired else [a, b]

    def _logs(self) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
        return np.log(self.samples.a), np.log(self.samples.b)

    def row(self, r: float, variance: float = 0.0, models: int = 2) -> dict[str, Any]:
        """The result as columns, adjusted for an autocorrelation of r. variance: the mean variance of all
        pairs of the `models` models."""
        a, b = self.samples.a, self.samples.b
        prob_smaller = st.superiority(*self._rank_samples(), paired=self.samples.paired)
        n = len(a) if self.samples.paired else len(a) + len(b) - 1
        size = effective_size(r, n if self.samples.paired else (n + 1) // 2)
        if not self.samples.paired:
            size = size._replace(dof=max(1.5, 2 * size.dof) if size.inflation > 1 else n - 1.0)
        return {
            "stat": "mean" if self._metric == OK_SHARE else "p50",
            "value_a": float(np.median(a)) if len(a) else math.nan,
            "value_b": float(np.median(b)) if len(b) else math.nan,
            "n_blocks": len(a) if self.samples.paired else 0,
            "n_dropped": self.samples.dropped,
            "prob_a_faster": 1.0 - prob_smaller if self._metric in HIGHER_IS_BETTER else prob_smaller,
            "failed_a": self._a.failed,
            "failed_b": self._b.failed,
            "retries_a": self._a.retries,
            "retries_b": self._b.retries,
            "method": "paired by block" if self.samples.paired else "unpaired",
            **(
                self._share_test(size, n)
                if self._metric == OK_SHARE
                else self._time_test(size, n, variance, models)
            ),
            "note": self._note(size),
        }

    def _time_test(self, size: EffectiveSize, n: int, variance: float, models: int) -> dict[str, Any]:
        a, b = self.samples.a, self.samples.b
        logs = self._logs() if self._positive else (a * math.nan, b * math.nan)
        if self.samples.paired:
            diff, diff_interval = st.hodges_lehmann(a - b, self._level)
            ratio, ratio_interval = st.hodges_lehmann(logs[0] - logs[1], self._level)
        else:
            diff, diff_interval, _ = st.shift(a, b, self._level)
            ratio, ratio_interval, _ = st.shift(logs[0], logs[1], self._level)
        dof = max(1.5, n - 1.0)
        factor = interval_widening(self._level, dof, size)
        p = adjusted_p(self._p(), dof, size)
        if self.samples.paired and models > 3 and n >= st.MIN_PAIRS and not self._has_failures():
            pooled = pooled_test(self.series()[0], variance, models, size, self._level)
            p, factor = min(p, pooled[0]), min(factor, pooled[1])
        diff_interval, ratio_interval = (
            _widen(diff, diff_interval, factor),
            _widen(ratio, ratio_interval, factor),
        )
        return {
            "diff": diff,
            "diff_lo": diff_interval.lo,
            "diff_hi": diff_interval.hi,
            "ratio": _finite_exp(ratio),
            "ci_lo": _finite_exp(ratio_interval.lo),
            "ci_hi": _finite_exp(ratio_interval.hi),
            "p": p,
        }

    def _has_failures(self) -> bool:
        return is_timed(self._metric) and (self._a.failed > 0 or self._b.failed > 0)

    def _rank_samples(self) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
        """The samples with failures as the worst possible value."""
        if not self._has_failures() or len(self._references) == 2 or not self._in_blocks:
            return self.samples.a, self.samples.b
        a, b = (side.medians(self._metric, failures=True) for side in (self._a, self._b))
        if not self.samples.paired:
            return np.asarray(a, float), np.asarray(b, float)
        both = a.index.intersection(b.index)
        return a.loc[both].to_numpy(float), b.loc[both].to_numpy(float)

    def _p(self) -> float:
        a, b = self._rank_samples()
        if not self.samples.paired:
            return st.shift(a, b, self._level)[2]
        if self._has_failures():
            with np.errstate(invalid="ignore"):
                differences = a - b
            return st.rank_p(np.where(a == b, 0.0, differences), self._seed)
        return st.paired_p(self.series()[0], self._seed)

    def _share_test(self, size: EffectiveSize, n: int) -> dict[str, Any]:
        """For ok_share: the difference with Newcombe's interval (method 10), and p by sign flips of the
        blocks' shares, or Fisher's exact test."""
        from scipy.stats import fisher_exact

        (good_a, n_a), (good_b, n_b) = self._a.n, self._b.n
        a, b = good_a / max(1, n_a), good_b / max(1, n_b)
        intervals = [st.wilson(good_a, n_a, self._level), st.wilson(good_b, n_b, self._level)]
        low = a - b - math.hypot(a - intervals[0].lo, intervals[1].hi - b)
        high = a - b + math.hypot(intervals[0].hi - a, b - intervals[1].lo)
        if self.samples.paired:
            p = adjusted_p(st.sign_flip(self.samples.a - self.samples.b, self._seed), max(1.5, n - 1.0), size)
        else:
            p = float(fisher_exact([[good_a, n_a - good_a], [good_b, n_b - good_b]]).pvalue)
        ratio = a / b if b else math.nan
        return {
            "value_a": a,
            "value_b": b,
            "diff": a - b,
            "diff_lo": low,
            "diff_hi": high,
            "ratio": ratio,
            "ci_lo": math.nan,
            "ci_hi": math.nan,
            "p": p,
        }

    def _note(self, size: EffectiveSize) -> str:
        a, b, metric = self._a, self._b, self._metric
        lengths = [t for t in (a.tokens, b.tokens) if t > 0]
        lengths_differ = len(lengths) == 2 and max(lengths) > 1.05 * min(lengths)
        return "; ".join(
            text
            for text, applies in (
                (self.samples.unpaired_reason, not self.samples.paired),
                ("not compared by the reference: it is not in both runs", self._reference_missing),
                (
                    f"failures differ ({a.failed:.0%} and {b.failed:.0%}): the ratio leaves them out, "
                    f"in p they are infinitely slow",
                    abs(a.failed - b.failed) > 0.02 and metric != OK_SHARE,
                ),
                (
                    f"retries ({a.retries:.2g} and {b.retries:.2g} per request): ttft_sched_ms and "
                    f"e2e_sched_ms include the waiting",
                    max(a.retries, b.retries) > 0,
                ),
                (
                    f"answers differ in length ({a.tokens:g} and {b.tokens:g} tokens): "
                    f'"ttft + 100 tokens" compares equal lengths',
                    lengths_differ and metric in ("e2e_ms", "e2e_sched_ms", "cost_usd"),
                ),
                (
                    f"adjusted for autocorrelation between neighbouring blocks ({size.r:.2f})",
                    size.inflation > 2,
                ),
            )
            if applies
        )


def _widen(middle: float, interval: st.Interval, factor: float) -> st.Interval:
    return st.Interval(
        middle - (middle - interval.lo) * factor, middle + (interval.hi - middle) * factor, interval.method
    )


def _finite_exp(log: float) -> float:
    return math.exp(min(log, 700.0)) if math.isfinite(log) else math.nan
