"""`bench.compare`: which of two models is faster, by how much, and how sure that is."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from ..core.errors import ConfigError
from . import statistics as st
from .summaries import METRICS, RATES, _known, _last, _wanted, disturbed, measured, split, succeeded

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd

USUAL = ("ttft_ms", "e2e_ms", "itl_ms", "out_tok_s")
SETTING = ("start_kind", "load_kind", "concurrency", "target_rate", "idle_s")  # what must be alike in a pair
_LEAST_BLOCKS = 6  # below, no interval can be given at the usual level


def compare(
    df: pd.DataFrame,
    *,
    metrics: Sequence[str] | str | None = None,
    by: str = "name",
    baseline: str | None = None,
    margin: float = 0.05,
    level: float = 0.95,
    phase: str | None = "measure",
    contaminated: bool = False,
    seed: int = 0,
) -> pd.DataFrame:
    """One row for each pair of models and each metric, setting by setting (start, load, concurrency).

    metrics: None for ttft_ms, e2e_ms, itl_ms and out_tok_s. by: the column whose values are compared: name,
    or start_kind, concurrency and so on. baseline: compare all with this one only. margin: differences below
    this share do not matter. level: of the intervals and of the family of verdicts.

    What is compared are pairs: the medians of A and B within a block, on the logarithm, so that what drifts
    cancels out. ratio (A / B) and its interval are Hodges and Lehmann's of the log ratios, diff (and diff_lo,
    diff_hi) of the differences in the metric's unit; p is of the sign-flip permutation test, p_holm Holm's
    over all rows; prob_a_faster is the share of blocks in which A was faster. verdict: faster or slower where
    p_holm < 1 - level and the interval lies on one side of 1; equivalent where the interval lies within the
    margin; undecided otherwise. n_blocks, n_dropped: blocks with both, and with one only. failed_a, failed_b:
    shares of requests that failed: they are in no time, so `note` says where they differ.

    A frame without blocks (%llm log) is compared unpaired, and `note` says that drift is not controlled.
    """
    import pandas as pd

    _known(df, [by])
    given = [metrics] if isinstance(metrics, str) else metrics
    wanted = _wanted(df, [m for m in USUAL if m in df and df[m].notna().any()] if given is None else given)
    used = measured(df, phase)
    setting = [k for k in ("name", *SETTING) if k != by and k in used]
    rows: list[dict[str, Any]] = []
    groups = used.groupby(setting, sort=False, observed=True, dropna=False) if setting else [((), used)]
    for key, part in groups:
        sides = {str(value): _last(side) for value, side in part.groupby(by, sort=False, observed=True)}
        for a, b in _pairs(list(sides), baseline):
            pair = _Pair(sides[a], sides[b], contaminated, level, seed)
            rows += [
                {**dict(zip(setting, key, strict=True)), "metric": m, "a": a, "b": b, **pair.row(m)}
                for m in wanted
            ]
    for row, p in zip(rows, st.holm([row["p"] for row in rows]), strict=True):
        row["p_holm"] = p
        row["verdict"] = _verdict(row, margin, level)
    names = [
        *setting,
        "metric",
        "a",
        "b",
        "stat",
        "verdict",
        "ratio",
        "ci_lo",
        "ci_hi",
        "p",
        "p_holm",
        "prob_a_faster",
        "value_a",
        "value_b",
        "diff",
        "diff_lo",
        "diff_hi",
        "n_blocks",
        "n_dropped",
        "failed_a",
        "failed_b",
        "method",
        "note",
    ]
    out = pd.DataFrame(rows, columns=names)
    shown = [k for k in setting if out[k].nunique(dropna=False) > 1]
    out.attrs.update(df.attrs)
    return out.drop(columns=[k for k in setting if k not in shown])


def _pairs(names: list[str], baseline: str | None) -> list[tuple[str, str]]:
    if baseline is None:
        return list(itertools.combinations(names, 2))
    if baseline not in names:
        if not names:
            return []
        raise ConfigError(f"No model is called {baseline!r} here.", hint=f"There are {', '.join(names)}.")
    return [(name, baseline) for name in names if name != baseline]


class _Sides(NamedTuple):
    a: np.ndarray
    b: np.ndarray
    paired: bool
    dropped: int


class _Pair:
    """Two models in one setting."""

    def __init__(self, a: pd.DataFrame, b: pd.DataFrame, contaminated: bool, level: float, seed: int) -> None:
        self._a, self._b, self._contaminated, self._level, self._seed = a, b, contaminated, level, seed
        self._failed = [1.0 - float(succeeded(side).mean()) for side in (a, b)]

    def row(self, metric: str) -> dict[str, Any]:
        """The comparison by one metric."""
        import numpy as np

        a, b, paired, dropped = self._sides(metric)
        out: dict[str, Any] = {
            "stat": "p50",
            "value_a": float(np.median(a)) if len(a) else math.nan,
            "value_b": float(np.median(b)) if len(b) else math.nan,
            "n_blocks": min(len(a), len(b)) if paired else 0,
            "n_dropped": dropped,
            "failed_a": self._failed[0],
            "failed_b": self._failed[1],
            "method": "paired by block" if paired else "unpaired",
            "note": self._note(paired, len(a), len(b)),
        }
        faster = st.superiority(a, b, paired=paired)
        out["prob_a_faster"] = 1.0 - faster if metric in RATES else faster
        positive = bool(len(a)) and bool(len(b)) and bool((a > 0).all() and (b > 0).all())
        logs = (np.log(a), np.log(b)) if positive else (a * math.nan, b * math.nan)
        if paired:
            diff, ends = st.hodges_lehmann(a - b, self._level)
            ratio, band = st.hodges_lehmann(logs[0] - logs[1], self._level)
            p = st.sign_flip(logs[0] - logs[1] if positive else a - b, self._seed)
        else:
            diff, ends, p = st.shift(a, b, self._level)
            ratio, band, _ = st.shift(logs[0], logs[1], self._level)
        return out | {
            "diff": diff,
            "diff_lo": ends.lo,
            "diff_hi": ends.hi,
            "ratio": _exp(ratio),
            "ci_lo": _exp(band.lo),
            "ci_hi": _exp(band.hi),
            "p": p,
        }

    def _sides(self, metric: str) -> _Sides:
        """The values to compare: a median for each block that both have, or all where there are no blocks."""
        if self._blockless():
            values = [split(side, metric, self._contaminated)[0] for side in (self._a, self._b)]
            return _Sides(values[0], values[1], False, 0)
        medians = [self._medians(side, metric) for side in (self._a, self._b)]
        both = medians[0].index.intersection(medians[1].index)
        every = set(self._a["block"].dropna()) | set(self._b["block"].dropna())
        return _Sides(
            medians[0].loc[both].to_numpy(float),
            medians[1].loc[both].to_numpy(float),
            True,
            len(every) - len(both),
        )

    def _blockless(self) -> bool:
        return any("block" not in side or side["block"].isna().any() for side in (self._a, self._b))

    def _medians(self, side: pd.DataFrame, metric: str) -> pd.Series:
        good = side[succeeded(side) & side[metric].notna()]
        if not self._contaminated:
            good = good[~disturbed(good)]
        return good[metric].astype(float).groupby(good["block"].astype(int)).median()

    def _note(self, paired: bool, n_a: int, n_b: int) -> str:
        notes = []
        if not paired:
            notes.append("no blocks: drift is not controlled")
        if abs(self._failed[0] - self._failed[1]) > 0.02:
            notes.append(
                f"failures differ ({self._failed[0]:.0%} and {self._failed[1]:.0%}), and are in no time"
            )
        if min(n_a, n_b) < _LEAST_BLOCKS:
            notes.append("too few blocks for an interval" if paired else "too few requests for an interval")
        return "; ".join(notes)


def _exp(log: float) -> float:
    return math.exp(log) if math.isfinite(log) else math.nan


def _verdict(row: dict[str, Any], margin: float, level: float) -> str:
    lo, hi = row["ci_lo"], row["ci_hi"]
    if math.isnan(lo) or math.isnan(hi):
        return "undecided"
    if 1.0 / (1.0 + margin) <= lo and hi <= 1.0 + margin:
        return "equivalent"
    if row["p_holm"] < 1.0 - level and (hi < 1.0 or lo > 1.0):
        return "faster" if (hi < 1.0) != (row["metric"] in RATES) else "slower"
    return "undecided"


__all__ = ["METRICS", "compare"]
