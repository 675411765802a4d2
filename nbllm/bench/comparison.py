"""`bench.compare`: which of two models is faster, by how much, and with what confidence."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import pandas as pd

from ..core.errors import ConfigError
from ..core.values import plural
from . import statistics as st
from .correlation import plausible_autocorrelation
from .frames import (
    SCORE,
    check_share,
    has_retries,
    last_attempts,
    measured_requests,
    normalize_requests,
    ordered_groups,
    ordered_values,
    string_list,
)
from .pairs import Pair, Side, is_timed
from .summaries import HIGHER_IS_BETTER, OK_SHARE, add_derived_metrics, check_columns, choose_metrics

DEFAULT_METRICS = ("ttft_ms", "e2e_ms", "itl_ms", "out_tok_s", "in_tok_s", "texts_s", OK_SHARE)
SETTING_COLUMNS = (
    "start_kind",
    "load_kind",
    "concurrency",
    "target_rate",
    "idle_s",
)  # equal within a pair
WAITING_METRIC = "ttft_sched_ms"  # compared too where requests were retried
_RECIPROCAL_OF = {"out_tok_s": "itl_ms"}  # one comparison, expressed twice
_VERDICT_WORDS = {
    OK_SHARE: ("better", "worse"),
    SCORE: ("better", "worse"),
    "cost_usd": ("cheaper", "dearer"),
}
BETTER = frozenset(("faster", "better", "cheaper"))
WORSE = frozenset(("slower", "worse", "dearer"))
_COLUMNS = [
    *("metric", "a", "b", "stat", "verdict", "ratio", "ci_lo", "ci_hi", "p", "p_holm", "n_family"),
    *("prob_a_faster", "value_a", "value_b", "diff", "diff_lo", "diff_hi", "n_blocks", "n_dropped"),
    *("failed_a", "failed_b", "retries_a", "retries_b", "method", "note"),
]


def compare(
    df: pd.DataFrame,
    *,
    metrics: Sequence[str] | str | None = None,
    by: str = "name",
    baseline: str | None = None,
    reference: str | None = None,
    family: str = "metric",
    margin: float = 0.05,
    level: float = 0.95,
    phase: str | None = "measure",
    contaminated: bool = False,
    seed: int = 0,
) -> pd.DataFrame:
    """One row for each pair of models and each metric, in each setting (start, load, concurrency).

    metrics: None for ttft_ms, e2e_ms, itl_ms, out_tok_s (for embeddings in_tok_s, texts_s) and ok_share;
    "ttft + 200 tokens" is the time that 200 tokens take, whatever the length of the answers. by: the column
    whose values are compared: name, or start_kind, concurrency, run_id and so on. baseline: compare all
    others with this one only. margin: relative differences below it are treated as equivalent. level:
    confidence level of the intervals, and 1 - the error rate of a family of verdicts. family: "metric"
    corrects p over the pairs of one metric in one setting, "all" over every row; reciprocal metrics count
    once.

    The unit of comparison is a pair: the medians of A and B within a block of a run, on the log scale, so
    that drift cancels out. ratio (A / B) and its interval are Hodges and Lehmann's estimates of the log
    ratios, diff (and diff_lo, diff_hi) of the differences in the metric's unit. p comes from the sign-flip
    permutation test (by ranks, with failures as infinitely slow, where there are any); below the smallest
    value of that test from Student's tail; with four models or more from the variance of all their pairs.
    Both are widened by the autocorrelation that the pairs plausibly have. p_holm is Holm's correction over
    the n_family comparisons; prob_a_faster is the share of blocks in which A was faster.

    verdict: faster or slower (cost: cheaper, dearer; ok_share: better, worse; else lower, higher) where
    p_holm < 1 - level and the interval lies on one side of 1; equivalent where the interval lies within the
    margin; undecided otherwise, and wherever the better one fails more often by more than the margin.
    n_blocks, n_dropped: blocks that have both models, and only one. failed_a, failed_b: shares of failed
    requests. retries_a, retries_b: mean retries of a request. `note`: caveats of the row.

    Two runs have no blocks in common: `by="run_id"`, and a frame of several runs with different models, are
    compared unpaired, and `note` says that drift is not controlled. reference: a model that every run
    measured; each run's ratio to it is compared (difference in differences), which removes what slows all
    models alike. A frame without blocks (%llm log) is compared unpaired too.
    """
    df, metric_names = normalize_requests(df), string_list("metrics", metrics)
    _check_options(df, by, family, margin, level)
    df = add_derived_metrics(df, metric_names)
    wanted = choose_metrics(df, _default_metrics(df) if metric_names is None else metric_names)
    measured = measured_requests(df, phase)
    setting = [k for k in ("name", *SETTING_COLUMNS) if k != by]
    rows: list[dict[str, Any]] = []
    reference_rows = _reference_rows(measured, by, reference)
    options = _Options(by, baseline, wanted, level, contaminated, seed)
    for key, part in ordered_groups(measured, setting):
        settings = dict(zip(setting, key, strict=True))
        if reference is None or str(settings["name"]) != reference:
            rows += [
                {**settings, **row}
                for row in _setting_rows(part, _same_setting(reference_rows, settings), options)
            ]
    for members in _families(rows, setting, family):
        _apply_correction(members, margin, level)
    out = pd.DataFrame(rows, columns=[*setting, *_COLUMNS])
    shown = [k for k in setting if out[k].nunique(dropna=False) > 1]
    out.attrs.update(df.attrs)
    return out.drop(columns=[k for k in setting if k not in shown])


class _Options(NamedTuple):
    """The arguments of `compare` that apply to every setting."""

    by: str
    baseline: str | None
    metrics: list[str]
    level: float
    contaminated: bool
    seed: int


def _check_options(df: pd.DataFrame, by: str, family: str, margin: float, level: float) -> None:
    if not isinstance(by, str):
        raise ConfigError("by= must be one column name.", hint='by="name", by="concurrency" ...')
    check_columns(df, [by])
    if family not in ("metric", "all"):
        raise ConfigError(f"{family!r} is not a family.", hint='Use family="metric" or family="all".')
    check_share("level", level)
    if isinstance(margin, bool) or not isinstance(margin, (int, float)) or not 0 <= margin < math.inf:
        raise ConfigError(f"margin must be at least 0, not {margin!r}.", hint="margin=0.05 is 5 %.")


def _default_metrics(df: pd.DataFrame) -> list[str]:
    usual = [m for m in DEFAULT_METRICS if m == OK_SHARE or df[m].notna().any()]
    usual += [SCORE] if SCORE in df and df[SCORE].notna().any() else []
    return [*usual, *([WAITING_METRIC] if has_retries(df) and df[WAITING_METRIC].notna().any() else [])]


def _setting_rows(
    part: pd.DataFrame, reference: pd.DataFrame | None, options: _Options
) -> list[dict[str, Any]]:
    """The rows of one setting."""
    sides, references = (
        {
            str(value): Side(last_attempts(side), options.contaminated)
            for (value,), side in ordered_groups(frame, [options.by])
        }
        for frame in (part, part[:0] if reference is None else reference)
    )
    rows: list[dict[str, Any]] = []
    for metric in options.metrics:
        pairs = [
            (
                a,
                b,
                Pair(
                    sides[a],
                    sides[b],
                    metric,
                    None if reference is None else (references.get(a), references.get(b)),
                    level=options.level,
                    seed=options.seed,
                ),
            )
            for a, b in _name_pairs(list(sides), options.baseline)
        ]
        autocorrelations = {
            paired: _family_autocorrelation(pairs, paired, len(sides)) for paired in (True, False)
        }
        variance = _mean_pair_variance([pair for *_, pair in pairs]), len(sides)
        rows += [
            {"metric": metric, "a": a, "b": b, **pair.row(autocorrelations[pair.samples.paired], *variance)}
            for a, b, pair in pairs
        ]
    return rows


def _reference_rows(df: pd.DataFrame, by: str, reference: str | None) -> pd.DataFrame | None:
    if reference is None:
        return None
    names = [str(name) for name in ordered_values(df, "name")]
    if by == "name" or reference not in names:
        raise ConfigError(
            f"No run has measured {reference!r}."
            if by != "name"
            else "reference= is for comparing runs, not models.",
            hint=f'Use by="run_id", and for reference= one of {", ".join(names)}.',
        )
    return df[df["name"].astype(str) == reference]


def _same_setting(rows: pd.DataFrame | None, settings: dict[str, Any]) -> pd.DataFrame | None:
    """The rows of the reference in a setting."""
    if rows is None:
        return None
    for column, value in settings.items():
        if column != "name":
            values = rows[column]
            rows = rows[values.isna() if value is None or value != value else values == value]  # noqa: PLR0124
    return rows


def _family_autocorrelation(pairs: list[tuple[str, str, Pair]], paired: bool, sides: int) -> float:
    pairs_of_kind = [pair for _, _, pair in pairs if pair.samples.paired == paired]
    independent = sides - 1 if paired else sides
    return plausible_autocorrelation(
        [series for pair in pairs_of_kind for series in pair.series()], independent
    )


def _mean_pair_variance(pairs: list[Pair]) -> float:
    """Mean variance of the differences within pairs."""
    variances = [d.var(ddof=1) for pair in pairs if pair.samples.paired and len(d := pair.series()[0]) > 1]
    return float(sum(variances)) / max(1, len(variances))


def _name_pairs(names: list[str], baseline: str | None) -> list[tuple[str, str]]:
    if baseline is None:
        return list(itertools.combinations(names, 2))
    if names and baseline not in names:
        raise ConfigError(f"There is no model {baseline!r} here.", hint=f"There are {', '.join(names)}.")
    return [(name, baseline) for name in names if name != baseline]


def _families(rows: list[dict[str, Any]], setting: list[str], family: str) -> list[list[dict[str, Any]]]:
    families: dict[Any, list[dict[str, Any]]] = {}
    for row in rows:
        key = () if family == "all" else (row["metric"], *(str(row[k]) for k in setting))
        families.setdefault(key, []).append(row)
    return list(families.values())


def _apply_correction(rows: list[dict[str, Any]], margin: float, level: float) -> None:
    """Sets p_holm, n_family, verdict and note in the rows of a family."""
    metrics = {row["metric"] for row in rows}
    reciprocal = [row for row in rows if _RECIPROCAL_OF.get(row["metric"]) in metrics]
    distinct = [row for row in rows if not any(row is other for other in reciprocal)]
    for row, p in zip(distinct, st.holm([row["p"] for row in distinct]), strict=True):
        row["p_holm"] = p
    size = sum(not math.isnan(row["p"]) for row in distinct)
    for row in reciprocal:  # it has the p of its reciprocal metric
        row["p_holm"] = min([1.0, row["p"] * size])
    for row in rows:
        row["n_family"] = size
        row["verdict"], why = _verdict(row, margin, level)
        row["note"] = "; ".join(filter(None, (row["note"], why, _too_few_note(row, size, level))))


def _verdict(row: dict[str, Any], margin: float, level: float) -> tuple[str, str]:
    """(verdict, note on it)."""
    metric = row["metric"]
    by_ratio = not math.isnan(row["ci_lo"])
    lo, hi, no_difference = (
        (row["ci_lo"], row["ci_hi"], 1.0) if by_ratio else (row["diff_lo"], row["diff_hi"], 0.0)
    )
    if math.isnan(lo) or math.isnan(hi):
        return "undecided", ""
    extra_failures = row["failed_a"] - row["failed_b"] if is_timed(metric) and metric != OK_SHARE else 0.0
    equivalence = (
        (1.0 / (1.0 + margin), 1.0 + margin)
        if by_ratio
        else (-margin, margin)
        if metric == OK_SHARE
        else (0, 0)
    )
    if equivalence[0] <= lo and hi <= equivalence[1]:
        return ("equivalent", "") if abs(extra_failures) <= margin else ("undecided", "")
    if not row["p_holm"] < 1.0 - level or not (hi < no_difference or lo > no_difference):
        return "undecided", ""
    # faster and slower for times and rates
    good, bad = _VERDICT_WORDS.get(metric) or (
        ("faster", "slower") if is_timed(metric) else ("lower", "higher")
    )
    better = (hi < no_difference) != (metric in HIGHER_IS_BETTER)
    if (extra_failures if better else -extra_failures) > margin:
        name = row["a"] if better else row["b"]
        return "undecided", f"{name} is {good} when it answers, but fails more often"
    return (good if better else bad), ""


def _too_few_note(row: dict[str, Any], size: int, level: float) -> str:
    """A note where the number of blocks alone makes a verdict impossible."""
    n, paired = row["n_blocks"], row["method"].startswith("paired")
    if row["verdict"] != "undecided" or row["metric"] == OK_SHARE:
        return ""
    if not paired:
        return "too few requests for an interval" if math.isnan(row["ci_lo"]) else ""
    smallest = st.smallest_p(n) if n else 1.0
    if n >= st.MIN_PAIRS and not (row["p"] <= 1.01 * smallest and smallest * size >= 1.0 - level):
        return ""
    needed = (
        st.MIN_PAIRS
        if n < st.MIN_PAIRS and not row["failed_a"] and not row["failed_b"]
        else st.min_blocks(size, level)
    )
    return f"at least {needed} blocks are needed to decide among {plural(size, 'comparison')}"
