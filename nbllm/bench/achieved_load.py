"""The achieved load: mean requests in flight and requests started per second.

Of each turn (one model in one block of a run) the window from the first to the last call of its measured
requests counts. Every request of the turn that is in flight in that window counts, those of ramp and drain
included.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    import pandas as pd

_MIN_ACHIEVED_SHARE = 0.8  # of the requested concurrency
_MAX_DELAY_MS = 100.0  # between the scheduled and the actual start in an open loop
_TURN_KEY = ["run_id", "name", "start_kind", "block"]


def achieved_load(df: pd.DataFrame, part: pd.DataFrame) -> tuple[float, float]:
    """(mean requests in flight, requests started per second) in the turns of `part`, which are rows of `df`.
    Where each turn is one request, the rate is that of requests sent one after another. NaN where unknown."""
    busy_s, window_s, started, start_span_s = 0.0, 0.0, 0, 0.0
    turns = _intervals(df, _TURN_KEY)
    for key, own in _intervals(part, _TURN_KEY).items():
        low = own[:, 0].min()
        # the window ends with the last call: while requests drain, the load falls
        high = own[:, 0].max() if len(own) > 2 else own[:, 1].max()
        intervals = turns[key]
        busy_s += float(
            np.clip(np.minimum(intervals[:, 1], high) - np.maximum(intervals[:, 0], low), 0, None).sum()
        )
        window_s += float(high - low)
        started += len(own) - 1
        start_span_s += float(own[:, 0].max() - low)
    if not window_s > 0:
        return math.nan, math.nan
    return busy_s / window_s, started / start_span_s if start_span_s > 0 else len(part) / window_s


def missed_load_warning(df: pd.DataFrame) -> str:
    """A warning that names each requested load that was not achieved; "" if all were."""
    used = df[(df["phase"].astype("string") == "measure") & (df["start_kind"].astype("string") == "warm")]
    shortfalls = []
    has_think_time = bool(used["think_s"].notna().any())  # users who think are not always in flight
    closed = used[(used["concurrency"].fillna(1) > 1) & (not has_think_time)]
    for (name, requested), part in closed.groupby(["name", "concurrency"], sort=False, observed=True):
        achieved = achieved_load(df, part)[0]
        if achieved < _MIN_ACHIEVED_SHARE * float(str(requested)):
            shortfalls.append(f"{name}: {achieved:.3g} of {requested:g} requests at a time")
    timed = used[used["target_rate"].notna()]
    for (name, requested), part in timed.groupby(["name", "target_rate"], sort=False, observed=True):
        delay_ms = part["sched_delay_ms"].quantile(0.9)
        if delay_ms > _MAX_DELAY_MS:
            shortfalls.append(
                f"{name}: requests of a rate of {requested:g} a second began {delay_ms:.0f} ms late"
            )
    return f"The load was not reached: {'; '.join(shortfalls)}." if shortfalls else ""


def _intervals(df: pd.DataFrame, keys: list[str]) -> dict[Any, np.ndarray[Any, Any]]:
    """(call, end) of each request in seconds, grouped by turn."""
    df = df[df["phase"].astype("string") != "warmup"]
    end = df["ns_call"].astype("Float64")
    for column in ("ns_tokN", "ns_done", "ns_eof"):
        end = df[column].astype("Float64").fillna(end)
    times = np.column_stack(
        [column.astype("Float64").to_numpy(float, na_value=math.nan) / 1e9 for column in (df["ns_call"], end)]
    )
    is_known = ~np.isnan(times[:, 0]) & df["block"].notna().to_numpy()
    rows_by_turn = (
        df[is_known].reset_index(drop=True).groupby(keys, sort=False, observed=True, dropna=False).indices
    )
    times = times[is_known]
    return {key if isinstance(key, tuple) else (key,): times[at] for key, at in rows_by_turn.items()}
