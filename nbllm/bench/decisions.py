"""Tables for decisions: a regression check, a leaderboard, and the load that keeps within limits."""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from typing import Any

import pandas as pd

from ..core.errors import ConfigError
from . import statistics as st
from .achieved_load import achieved_load
from .comparison import BETTER, WORSE, compare
from .comparison import SETTING_COLUMNS as _SETTING
from .files import load
from .frames import (
    SCORE,
    check_positive,
    check_share,
    last_attempts,
    leading_metric,
    measured_requests,
    normalize_requests,
    ordered_groups,
    ordered_values,
    success_mask,
)
from .naming import short_names
from .summaries import HIGHER_IS_BETTER, OK_SHARE, choose_metrics, summary

BOARD_METRICS = ("ttft_ms", "e2e_ms", "out_tok_s", "in_tok_s", "texts_s", SCORE)
_MARKS = {"equivalent": "=", "undecided": "?"}


def check(
    df: pd.DataFrame | str | os.PathLike[str],
    baseline: pd.DataFrame | str | os.PathLike[str],
    *,
    margin: float = 0.05,
    metrics: Sequence[str] | str | None = None,
    reference: str | None = None,
    level: float = 0.95,
) -> pd.DataFrame:
    """Whether a run became worse than an earlier one: one row per model and metric, with `passed`.

    df, baseline: frames, files that `save` wrote, or runs. A row is not passed where its verdict is slower,
    dearer or worse by more than `margin`, or where a model of the baseline is missing now; a model that only
    the newer run has is new, and passed. The runs are compared unpaired: drift between two days looks like a
    difference, unless reference= names a model that both runs have (see compare). Undecided is passed: `note`
    says what a decision needs.
    """
    now, earlier = (
        normalize_requests(load(x) if isinstance(x, (str, os.PathLike)) else x) for x in (df, baseline)
    )
    names, before = ([str(n) for n in ordered_values(x, "name")] for x in (now, earlier))
    now_frame = now
    now = now[now["name"].astype(str).isin(before)]
    both = pd.concat([earlier.assign(side="baseline"), now.assign(side="now")], ignore_index=True)
    both.attrs.update(now_frame.attrs)
    compared = compare(
        both, by="side", baseline="baseline", margin=margin, metrics=metrics, reference=reference, level=level
    )
    if "name" not in compared:  # there is one model only
        compared.insert(0, "name", str(ordered_values(both, "name")[0]) if len(both) else "")
    rows = [
        {"name": n, "metric": "", "verdict": verdict, "note": f"it is not in the {run}"}
        for verdict, run, own, others in (
            ("missing", "newer run", before, names),
            ("new", "baseline", names, before),
        )
        for n in own
        if n not in others
    ]
    compared["name"] = compared["name"].astype(object)
    out = pd.concat([compared, pd.DataFrame(rows)], ignore_index=True) if rows else compared
    sizes = out["ratio"].where(out["metric"] != OK_SHARE, 1.0 + out["diff"]).astype(float)
    is_within = (sizes - 1.0).abs() <= margin  # false for NaN, a ratio to 0
    out["passed"] = ~(out["verdict"].isin(WORSE) & ~is_within) & (out["verdict"] != "missing")
    leading = [
        "name",
        "metric",
        "passed",
        "verdict",
        "value_a",
        "value_b",
        "ratio",
        "ci_lo",
        "ci_hi",
        "p_holm",
    ]
    return out[[*leading, *(c for c in out.columns if c not in (*leading, "a", "b"))]].rename(
        columns={"value_a": "now", "value_b": "baseline"}
    )


def leaderboard(
    df: pd.DataFrame, *, metric: str | None = None, level: float = 0.95, margin: float = 0.05
) -> pd.DataFrame:
    """One row per model (and setting), in the order in which the run was given the models: medians with their
    intervals, tokens per second, cost per answer and in total, success, quality, retries; then a column for
    each other model (by its number) with the verdict by `metric`: < faster or better, > slower or worse, =
    equivalent, ? undecided. metric: None for the time to the first token, or to the last where there is no
    first one."""
    df = normalize_requests(df)
    metric = metric or leading_metric(df)
    if not isinstance(metric, str):
        raise ConfigError(f"metric must be one name, not {metric!r}.", hint='metric="e2e_ms"')
    rows = compare(df, metrics=metric, level=level, margin=margin) if df["name"].nunique() > 1 else None
    return build_leaderboard(df, rows, metric=metric, level=level)


def build_leaderboard(
    df: pd.DataFrame, compared: pd.DataFrame | None, *, metric: str, level: float = 0.95
) -> pd.DataFrame:
    """The leaderboard, with the verdicts of a `compare` table."""
    figures = [m for m in BOARD_METRICS if m in df and df[m].notna().any()]
    used = measured_requests(df)
    setting = [k for k in _SETTING if used[k].nunique(dropna=False) > 1]
    summaries = summary(
        df, by=["name", *setting], metrics=[*figures, OK_SHARE], stats=("p50", "mean"), level=level
    )
    names = [str(n) for n in ordered_values(used, "name")]
    marks = {} if compared is None else _marks(compared[compared["metric"] == metric], setting)
    rows = []
    for key, part in ordered_groups(used, ["name", *setting]):
        line: dict[str, Any] = {"no": names.index(str(key[0])) + 1, "name": str(key[0])}
        line |= dict(zip(setting, key[1:], strict=True))
        own = summaries.loc[
            [
                tuple(map(repr, k)) == tuple(map(repr, key))
                for k in summaries[["name", *setting]].itertuples(index=False)
            ]
        ]
        by_stat = {(r["metric"], r["stat"]): r for r in own.to_dict("records")}
        line["n"] = len(last_attempts(part))
        for m in figures:
            row = by_stat[m, "mean" if m == SCORE else "p50"]
            line |= {m: row["value"], f"{m}_lo": row["ci_lo"], f"{m}_hi": row["ci_hi"]}
        line |= {
            OK_SHARE: by_stat[OK_SHARE, "mean"]["value"],
            "retries": by_stat[OK_SHARE, "mean"]["retries"],
            **cost_columns(part),
        }
        setting_key = tuple(repr(v) for v in key[1:])
        line |= {
            str(i + 1): "" if other == line["name"] else marks.get((setting_key, line["name"], other), "?")
            for i, other in enumerate(names if len(names) > 1 else [])
        }
        rows.append(line)
    out = pd.DataFrame(rows)
    out.attrs.update(df.attrs)
    out.attrs["short"] = short_names(names)
    return out


def cost_columns(part: pd.DataFrame) -> dict[str, float]:
    """cost_usd (mean per answer) and total_usd (of all attempts, since each one costs money). NaN where
    unknown."""
    if not part["cost_usd"].notna().any():
        return dict.fromkeys(("cost_usd", "total_usd"), math.nan)
    costs = part["cost_usd"].dropna().astype(float)
    return {"cost_usd": float(costs.mean()), "total_usd": float(costs.sum())}


def _marks(rows: pd.DataFrame, setting: list[str]) -> dict[tuple[tuple[str, ...], str, str], str]:
    marks: dict[tuple[tuple[str, ...], str, str], str] = {}
    for row in rows.to_dict("records"):
        setting_key = tuple(repr(row[k]) for k in setting)
        a, b = row["a"], row["b"]
        better = row["verdict"] in BETTER or row["verdict"] == "lower"
        mark = _MARKS.get(row["verdict"], "<" if better else ">")
        marks[setting_key, a, b] = mark
        marks[setting_key, b, a] = {"<": ">", ">": "<"}.get(mark, mark)
    return marks


def goodput(
    df: pd.DataFrame, *, at_least: float = 0.95, level: float = 0.95, **limits: float
) -> pd.DataFrame:
    """How many requests were good: answered within all limits, such as ttft_ms=500, itl_ms=50, e2e_ms=5000,
    or faster than one (out_tok_s=30). A failed request is not good, nor one whose limited metric is unknown.

    One row per model and load: n, good, share with its interval (Wilson), good_s (good requests per second at
    the achieved load) with that interval, holds (whether at least `at_least` of them were good), and highest:
    the highest load that holds together with all below it. Raises ConfigError without a limit, or for an
    unknown metric.
    """
    if not limits or OK_SHARE in limits:
        raise ConfigError("goodput needs a limit.", hint="bench.goodput(df, ttft_ms=500, itl_ms=50)")
    for metric, limit in limits.items():
        check_positive(metric, limit, f"{metric}=500")
    check_share("at_least", at_least)
    check_share("level", level)
    df = normalize_requests(df)
    choose_metrics(df, list(limits))
    used = measured_requests(df)
    keys = ["name", *(k for k in _SETTING if used[k].nunique(dropna=False) > 1)]
    rows = []
    for key, part in ordered_groups(used, keys):
        last = last_attempts(part)
        good = success_mask(last)
        for metric, limit in limits.items():
            values = last[metric].astype("Float64")
            good &= (
                (values >= limit if metric in HIGHER_IS_BETTER else values <= limit)
                .fillna(False)
                .astype(bool)
            )
        interval = st.wilson(int(good.sum()), len(last), level)
        good_share, rate = float(good.mean()) if len(last) else math.nan, achieved_load(df, last)[1]
        rows.append(
            {
                **dict(zip(keys, key, strict=True)),
                "n": len(last),
                "good": int(good.sum()),
                "share": good_share,
                "ci_lo": interval.lo,
                "ci_hi": interval.hi,
                "good_s": good_share * rate,
                "good_s_lo": interval.lo * rate,
                "good_s_hi": interval.hi * rate,
                "holds": good_share >= at_least,
            }
        )
    out = pd.DataFrame(rows)
    if len(out):
        _mark_highest(out, keys)
    out.attrs.update(df.attrs)
    return out


def _mark_highest(out: pd.DataFrame, keys: list[str]) -> None:
    """Marks each model's highest load that holds together with all below it; rows are in order of load."""
    group_keys = [k for k in keys if k not in ("concurrency", "target_rate")]
    out["highest"] = False
    for _, part in ordered_groups(out, group_keys):
        holding = part.index[part["holds"].astype(bool).cummin()]
        if len(holding):
            out.loc[holding[-1], "highest"] = True
