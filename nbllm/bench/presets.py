"""Common benchmarks, each one call and one table: cold start, warm requests, streaming, the overhead of a
gateway.

Each runs a benchmark (with the options of `bench.run`) and summarises it; its rows are
`bench.load(table.attrs["nbllm"]["run_id"])`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd

from ..core.errors import ConfigError
from ..store import columns
from . import statistics as st
from .comparison import compare
from .frames import contaminated_mask, last_attempts, measured_requests, success_mask
from .runner import Model, run
from .summaries import summary

# The parts of a cold start's time to first token: disjoint, in the order in which they happen.
PARTS = ("import_ms", "client_ms", "dns_ms", "connect_ms", "tls_ms", "srv_load_ms", "rest_ms")

# The warmer start that each one is compared with: the first of these that was measured. Loading a model or
# filling a prompt cache is independent of processes and connections, so these two are compared with warm.
_WARMER_STARTS = {
    "cold_process": ("cold_client", "cold_conn", "warm"),
    "cold_client": ("cold_conn", "warm"),
    "cold_conn": ("warm",),
    "cold_model": ("warm",),
    "cold_cache": ("warm",),
    "warm": (),
}


def coldstart(
    models: Model | Sequence[Model],
    prompts: Any = None,
    *,
    repeats: int = 10,
    rungs: Sequence[str] | None = None,
    **options: Any,
) -> pd.DataFrame:
    """The cost of a cold start, step by step from a fresh process down to a warm request, and its parts.

    repeats: requests per start kind (use at least 10). rungs: the start kinds; None for all that the models
    support. One row per model and start kind, coldest first; see `ladder` for the columns.
    """
    df = run(
        models,
        prompts,
        blocks=repeats,
        cold=True if rungs is None else [*rungs, "warm"] if "warm" not in rungs else list(rungs),
        **options,
    )
    return ladder(df)


def ladder(df: pd.DataFrame, *, level: float = 0.95) -> pd.DataFrame:
    """The cold-start ladder in a frame of `bench.run(..., cold=...)`: one row per model and start kind,
    coldest first.

    Columns: name, start_kind, n, n_failed, ttft_ms (median; for a fresh process since it was spawned), ci_lo,
    ci_hi, added_ms (median over blocks of what this start adds to the next warmer one; an unloaded model and
    a cold cache are compared with warm), added_lo, added_hi, and the medians of the parts: import_ms,
    client_ms, dns_ms, connect_ms, tls_ms, srv_load_ms, rest_ms (everything else: request, queue, prompt).
    """
    used = measured_requests(df)
    rows: list[dict[str, Any]] = []
    for name, part in used.groupby("name", sort=False, observed=True):
        starts = [k for k in columns.START_KINDS if (part["start_kind"].astype("string") == k).any()]
        by_start = {k: last_attempts(part[part["start_kind"].astype("string") == k]) for k in starts}
        for start in starts:
            warmer = next((k for k in _WARMER_STARTS[start] if k in by_start), None)
            rows.append(
                {
                    "name": name,
                    "start_kind": start,
                    **_rung_columns(by_start[start], level),
                    **_added_time(by_start[start], by_start[warmer] if warmer else None, level),
                }
            )
    out = pd.DataFrame(
        rows,
        columns=[
            "name",
            "start_kind",
            "n",
            "n_failed",
            "ttft_ms",
            "ci_lo",
            "ci_hi",
            "added_ms",
            "added_lo",
            "added_hi",
            *PARTS,
        ],
    )
    out.attrs.update(df.attrs)
    return out


def _usable(part: pd.DataFrame) -> pd.DataFrame:
    answered = part[success_mask(part) & part["ttft_ms"].notna()]
    good = answered[~contaminated_mask(answered)]
    return good if len(good) else answered


def time_parts(good: pd.DataFrame) -> pd.DataFrame:
    """The parts of each request's time to first token (ms); 0 for what did not happen, and the remainder as
    rest_ms."""
    named = good[[p for p in PARTS if p != "rest_ms"]].astype(float).fillna(0.0)
    return named.assign(rest_ms=(good["ttft_ms"].astype(float) - named.sum(axis=1)).clip(lower=0.0))


def _rung_columns(part: pd.DataFrame, level: float) -> dict[str, Any]:
    good = _usable(part)
    values = good["ttft_ms"].to_numpy(float)
    interval = st.order_interval(values, 0.5, level)
    medians = time_parts(good).median()
    return {
        "n": len(values),
        "n_failed": int((~success_mask(part)).sum()),
        "ttft_ms": st.quantile(values, 0.5) if len(values) else math.nan,
        "ci_lo": interval.lo,
        "ci_hi": interval.hi,
        **{name: float(medians[name]) for name in PARTS},
    }


def _added_time(part: pd.DataFrame, warmer: pd.DataFrame | None, level: float) -> dict[str, Any]:
    if warmer is None:
        return {}
    cold, warm = (
        _usable(side).groupby(["run_id", "block"], observed=True)["ttft_ms"].median().astype(float)
        for side in (part, warmer)
    )
    both = cold.index.intersection(warm.index)
    middle, interval = st.hodges_lehmann(np.asarray(cold.loc[both] - warm.loc[both], dtype=np.float64), level)
    return {"added_ms": middle, "added_lo": interval.lo, "added_hi": interval.hi}


def warm(models: Model | Sequence[Model], prompts: Any = None, **options: Any) -> pd.DataFrame:
    """Times of warm requests, on open connections: medians and tails of ttft_ms and e2e_ms, and the share
    that succeeded. A `summary` with few rows."""
    return summary(
        run(models, prompts, **options),
        metrics=("ttft_ms", "e2e_ms", "ok_share"),
        stats=("p50", "p90", "p99"),
    )


def streaming(models: Model | Sequence[Model], prompts: Any = None, **options: Any) -> pd.DataFrame:
    """How an answer streams after its first token: time per token, tokens per second, the longest stall."""
    return summary(
        run(models, prompts, **options),
        metrics=("itl_ms", "out_tok_s", "icl_p50_ms", "stall_max_ms"),
        stats=("p50", "p90", "p99"),
    )


def gateway(
    direct: Model, through: Model | Sequence[Model], prompts: Any = None, **options: Any
) -> pd.DataFrame:
    """The overhead of gateways: a `compare` of each one with the same model called directly, the difference
    in ms first."""
    gateways = [through] if isinstance(through, str) or not isinstance(through, Sequence) else list(through)
    first = {"model": direct} if isinstance(direct, str) else dict(direct)
    name = first.setdefault("name", "direct")
    if not gateways:
        raise ConfigError(
            "There is nothing to compare with.", hint='bench.gateway("openai/mini", "litellm/gpt-mini")'
        )
    out = compare(
        run([first, *gateways], prompts, **options),
        baseline=str(name),
        metrics=("ttft_ms", "e2e_ms", "itl_ms"),
    )
    leading = ["metric", "a", "b", "diff", "diff_lo", "diff_hi", "ratio", "verdict"]
    return out[[*leading, *(c for c in out.columns if c not in leading)]]
