"""`bench.summary`: every metric of every model (and start, and load) with its interval and effective sample
size."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from ..core.errors import ConfigError
from ..store import columns
from . import statistics as st
from .achieved_load import achieved_load
from .frames import (
    SCORE,
    check_share,
    contaminated_mask,
    has_retries,
    last_attempts,
    measured_requests,
    normalize_requests,
    ordered_groups,
    string_list,
    success_mask,
)

if TYPE_CHECKING:
    import pandas as pd

GROUP_COLUMNS = (
    "name",
    "provider",
    "model",
    "start_kind",
    "load_kind",
    "concurrency",
    "target_rate",
    "idle_s",
)
METRICS = (
    "ttft_ms",
    "ttfo_ms",
    "ttft_sched_ms",
    "e2e_ms",
    "e2e_sched_ms",
    "itl_ms",
    "stall_max_ms",
    "out_tok_s",
    "out_tok_s_e2e",
    "in_tok_s",
    "texts_s",
    "decode_ms",
    "tail_ms",
    "import_ms",
    "client_ms",
    "dns_ms",
    "connect_ms",
    "tls_ms",
    "ttft_wire_ms",
    "srv_load_ms",
    "srv_queue_ms",
    "srv_prefill_ms",
    "srv_decode_ms",
    "in_tokens",
    "in_cached",
    "out_tokens",
    "reasoning_tokens",
    "cost_usd",
)
STATS = ("mean", "p50", "p90", "p95", "p99")
CACHED_SHARE = "cached_share"
OK_SHARE = "ok_share"  # a metric: the share of requests that succeeded
_SCHEDULED_METRICS = (
    "ttft_sched_ms",
    "e2e_sched_ms",
)  # redundant in a closed loop without retries
_FIXED_LENGTH = re.compile(r"ttft\s*\+\s*(\d+)\s*tokens?")
_BOUNDED_METRICS = frozenset(
    ("ttft_ms", "ttfo_ms", "ttft_sched_ms", "ttft_wire_ms", "ttfe_ms")
)  # whose error is bounded by err_bound_ms
UNITS = {c.name: c.unit for c in columns.COLUMNS} | {OK_SHARE: "", SCORE: "", CACHED_SHARE: ""}
LABELS = {
    "ttft_ms": "time to first token",
    "e2e_ms": "time to last token",
    "itl_ms": "time per token",
    "out_tok_s": "tokens a second",
    "in_tok_s": "input tokens a second",
    "texts_s": "texts a second",
    "ttfo_ms": "time to first visible text",
    "ttft_sched_ms": "time to first token from when it was due",
    "e2e_sched_ms": "time to last token from when it was due",
    "cost_usd": "cost of an answer",
    OK_SHARE: "succeeded",
    SCORE: "quality",
}
HIGHER_IS_BETTER = frozenset(
    ("out_tok_s", "out_tok_s_e2e", "in_tok_s", "texts_s", OK_SHARE, SCORE, CACHED_SHARE)
)  # where more is better


def summary(
    df: pd.DataFrame,
    *,
    metrics: Sequence[str] | str | None = None,
    by: Sequence[str] | str | None = None,
    stats: Sequence[str] = STATS,
    level: float = 0.95,
    phase: str | None = "measure",
    contaminated: bool = False,
) -> pd.DataFrame:
    """A tidy frame: one row per group, metric and statistic.

    metrics: columns to summarise; None for the usual ones that were measured, and ok_share; "ttft + 200
    tokens" is the time that 200 tokens take, whatever the length of the answers. by: the columns to group by;
    None for name, provider, model, start, load, concurrency, rate and pause. stats: mean, or p and a number
    between 0 and 100. level: of the intervals. contaminated: whether requests that this client disturbed
    count.

    Columns beside those of the group: metric, stat, unit, n (values used), n_failed, n_contaminated (left
    out), value, ci_lo, ci_hi, ci_level, ci_method, n_eff (effective sample size), supported (whether there
    are enough values for that percentile), failures_as_inf (the value with each failure as an infinite time,
    or a rate of 0), err_floor_ms (the median measurement error), retries (mean retries of a request: the
    *_sched_ms metrics include their waiting), concurrency_achieved and rate_achieved (the achieved load:
    requests in flight, and started per second). Unknown values are NaN. Raises ConfigError for an unknown
    metric or statistic.
    """
    import pandas as pd

    keys = list(GROUP_COLUMNS) if (by_columns := string_list("by", by)) is None else by_columns
    metric_names = string_list("metrics", metrics)
    check_share("level", level)
    df = add_derived_metrics(normalize_requests(df), metric_names)
    wanted = choose_metrics(df, metric_names)
    quantiles = {stat: _quantile_of(stat) for stat in string_list("stats", stats) or STATS}
    check_columns(df, keys)
    used = measured_requests(df, phase)
    rows: list[dict[str, Any]] = []
    for key, part in ordered_groups(used, keys):
        last = last_attempts(part)
        group = dict(zip(keys, key, strict=True))
        in_flight, started = achieved_load(df, last)
        common = {
            "ci_level": level,
            "retries": _mean_retries(last),
            "concurrency_achieved": in_flight,
            "rate_achieved": started,
        }
        for metric in wanted:
            rows += [
                {**group, **row, **common}
                for row in _metric_rows(last, metric, quantiles, level, contaminated)
            ]
    names = [
        *keys,
        "metric",
        "stat",
        "unit",
        "n",
        "n_failed",
        "n_contaminated",
        "value",
        "ci_lo",
        "ci_hi",
        "ci_level",
        "ci_method",
        "n_eff",
        "supported",
        "failures_as_inf",
        "err_floor_ms",
        "retries",
        "concurrency_achieved",
        "rate_achieved",
    ]
    out = pd.DataFrame(rows, columns=names)
    out.attrs.update(df.attrs)
    return (
        out.astype({"n": int, "n_failed": int, "n_contaminated": int, "supported": bool}) if len(out) else out
    )


def check_columns(df: pd.DataFrame, keys: Sequence[str]) -> None:
    """Raises ConfigError for a column that the frame does not have."""
    missing = next((k for k in keys if k not in df), None)
    if missing is not None:
        raise ConfigError(
            f"The frame has no column {missing!r}.",
            hint="bench.schema() lists the columns; by= takes names of them.",
        )


def choose_metrics(df: pd.DataFrame, metrics: Sequence[str] | None) -> list[str]:
    """The metrics given, or the default ones that were measured. Raises ConfigError for a column that is no
    metric."""
    if metrics is None:
        no_waiting = has_no_waiting(df)
        return [
            OK_SHARE,
            *([SCORE] if SCORE in df and df[SCORE].notna().any() else []),
            *(
                m
                for m in METRICS
                if m in df and df[m].notna().any() and not (no_waiting and m in _SCHEDULED_METRICS)
            ),
        ]
    invalid = next((m for m in metrics if m != OK_SHARE and (m not in df or not _is_numeric(df[m]))), None)
    if invalid is not None:
        raise ConfigError(
            f"{invalid!r} is not a metric of this frame.",
            hint=f"Usual ones are {', '.join(METRICS[:8])}, {OK_SHARE}.",
        )
    return list(metrics)


def has_no_waiting(df: pd.DataFrame) -> bool:
    """Whether every request was called when it was due."""
    return set(df["load_kind"].dropna().astype(str)) <= {"closed", "single"} and not has_retries(df)


def add_derived_metrics(df: pd.DataFrame, metrics: Sequence[str] | None) -> pd.DataFrame:
    """The frame with a column for each metric of the form "ttft + 200 tokens" (time to first token, plus so
    many tokens at the answer's own rate), and with cached_share, the share of a prompt that was read from the
    provider's cache."""
    lengths = {m: float(match[1]) for m in metrics or () if (match := _FIXED_LENGTH.fullmatch(m.strip()))}
    missing = next((c for c in ("ttft_ms", "itl_ms") if lengths and c not in df), None)
    if missing:
        raise ConfigError(f"The frame has no column {missing!r}.", hint=f"{next(iter(lengths))!r} needs it.")
    if CACHED_SHARE in (metrics or ()):
        df = df.assign(**{CACHED_SHARE: df["in_cached"] / df["in_tokens"].where(df["in_tokens"] > 0)})
    return df.assign(**{m: df["ttft_ms"] + n * df["itl_ms"] for m, n in lengths.items()}) if lengths else df


def _mean_retries(last: pd.DataFrame) -> float:
    return float(last["attempt"].astype(float).mean()) - 1.0 if len(last) else math.nan


def _is_numeric(column: pd.Series) -> bool:
    import pandas as pd

    return bool(pd.api.types.is_numeric_dtype(column.dtype)) and not pd.api.types.is_bool_dtype(column.dtype)


def _quantile_of(stat: str) -> float | None:
    """The quantile that a statistic's name denotes; None for the mean."""
    if stat == "mean":
        return None
    match = re.fullmatch(r"p(\d{1,2}(?:\.\d+)?)", stat)
    if not match or not 0 < float(match[1]) < 100:
        raise ConfigError(f"{stat!r} is not a statistic.", hint="Use mean, p50, p90, p99, p99.9 ...")
    return float(match[1]) / 100.0


def split_values(part: pd.DataFrame, metric: str, contaminated: bool = False) -> tuple[Any, int, int]:
    """(values that count, as floats in order; number of failures; number of requests left out because this
    client disturbed them)."""
    ok, contaminated_rows = (
        success_mask(part).to_numpy(),
        contaminated_mask(part).to_numpy() & (not contaminated),
    )
    values = part[metric].astype("Float64").to_numpy(float, na_value=math.nan)
    return (
        values[ok & ~contaminated_rows & np.isfinite(values)],
        int((~ok).sum()),
        int((ok & contaminated_rows).sum()),
    )


def _metric_rows(
    part: pd.DataFrame, metric: str, quantiles: dict[str, float | None], level: float, contaminated: bool
) -> list[dict[str, Any]]:
    if metric == OK_SHARE:
        return [_ok_share(part, level)]
    values, failed, n_contaminated = split_values(part, metric, contaminated)
    n_eff = st.effective_n(values)
    bounds = part["err_bound_ms"].dropna().to_numpy(float) if metric in _BOUNDED_METRICS else np.empty(0)
    worst_value = 0.0 if metric in HIGHER_IS_BETTER else math.inf
    with_failures = np.concatenate([values, np.full(failed, worst_value)])
    common = {
        "metric": metric,
        "unit": UNITS.get(metric, ""),
        "n": len(values),
        "n_failed": failed,
        "n_contaminated": n_contaminated,
        "n_eff": n_eff,
        "err_floor_ms": float(np.median(bounds)) if len(bounds) else math.nan,
    }
    out = []
    for stat, p in quantiles.items():
        value = math.nan if not len(values) else float(values.mean()) if p is None else st.quantile(values, p)
        interval = (
            st.mean_interval(values, level) if p is None else st.order_interval(values, p, level, n_eff)
        )
        with_failures_value = (
            math.nan
            if not len(with_failures)
            else float(with_failures.mean())
            if p is None
            else st.quantile(with_failures, p)
        )
        out.append(
            {
                **common,
                "stat": stat,
                "value": value,
                "ci_lo": interval.lo,
                "ci_hi": interval.hi,
                "ci_method": interval.method,
                "supported": len(values) >= (6 if p is None else max(6, st.min_n(p))),
                "failures_as_inf": with_failures_value,
            }
        )
    return out


def _ok_share(part: pd.DataFrame, level: float) -> dict[str, Any]:
    good, n = int(success_mask(part).sum()), len(part)
    interval = st.wilson(good, n, level)
    share = good / n if n else math.nan
    return {
        "metric": OK_SHARE,
        "stat": "mean",
        "unit": "",
        "n": n,
        "n_failed": n - good,
        "n_contaminated": 0,
        "value": share,
        "ci_lo": interval.lo,
        "ci_hi": interval.hi,
        "ci_method": interval.method,
        "n_eff": float(n),
        "supported": n >= 6,
        "failures_as_inf": share,
        "err_floor_ms": math.nan,
    }
