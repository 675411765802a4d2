"""The load that was made: how many requests were in flight, and how many began a second.

Of a turn (a block of a run, one model) the window counts in which its measured requests were called and
answered; whatever of the turn was in flight in it counts, ramp and drain too.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    import pandas as pd

_MIN_ACHIEVED_SHARE = 0.8  # of the requests at a time that were asked for
_MAX_DELAY_MS = 100.0  # by which a request of an open loop may begin late
_TURN_KEY = ["run_id", "name", "start_kind", "block"]


def achieved_load(df: pd.DataFrame, part: pd.DataFrame) -> tuple[float, float]:
    """(requests in flight on average, requests begun a second) in the turns of `part`, which are rows of
    `df`; where a turn is one request, so many a second come one after another. NaN where nothing tells."""
    busy, wide, begun, spans = 0.0, 0.0, 0, 0.0
    turns = _intervals(df, _TURN_KEY)
    for key, mine in _intervals(part, _TURN_KEY).items():
        low = mine[:, 0].min()
        # to the last call where that is a window: what drains after it is no load any more
        high = mine[:, 0].max() if len(mine) > 2 else mine[:, 1].max()
        whole = turns[key]
        busy += float(np.clip(np.minimum(whole[:, 1], high) - np.maximum(whole[:, 0], low), 0, None).sum())
        wide += float(high - low)
        begun += len(mine) - 1
        spans += float(mine[:, 0].max() - low)
    if not wide > 0:
        return math.nan, math.nan
    return busy / wide, begun / spans if spans > 0 else len(part) / wide


def missed_load_warning(df: pd.DataFrame) -> str:
    """Which loads were named and not made, in words; "" where there is none."""
    used = df[(df["phase"].astype("string") == "measure") & (df["start_kind"].astype("string") == "warm")]
    words = []
    thinking = bool(used["think_s"].notna().any())  # its users are not always in flight
    closed = used[(used["concurrency"].fillna(1) > 1) & (not thinking)]
    for (name, wanted), part in closed.groupby(["name", "concurrency"], sort=False, observed=True):
        made = achieved_load(df, part)[0]
        if made < _MIN_ACHIEVED_SHARE * float(str(wanted)):
            words.append(f"{name}: {made:.3g} of {wanted:g} requests at a time")
    timed = used[used["target_rate"].notna()]
    for (name, wanted), part in timed.groupby(["name", "target_rate"], sort=False, observed=True):
        late = part["sched_delay_ms"].quantile(0.9)
        if late > _MAX_DELAY_MS:
            words.append(f"{name}: requests of a rate of {wanted:g} a second began {late:.0f} ms late")
    return f"The load was not reached: {'; '.join(words)}." if words else ""


def _intervals(df: pd.DataFrame, keys: list[str]) -> dict[Any, np.ndarray[Any, Any]]:
    """(call, end) of each request in seconds, by turn."""
    df = df[df["phase"].astype("string") != "warmup"]
    end = df["ns_call"].astype("Float64")
    for column in ("ns_tokN", "ns_done", "ns_eof"):
        end = df[column].astype("Float64").fillna(end)
    times = np.column_stack(
        [column.astype("Float64").to_numpy(float, na_value=math.nan) / 1e9 for column in (df["ns_call"], end)]
    )
    known = ~np.isnan(times[:, 0]) & df["block"].notna().to_numpy()
    places = df[known].reset_index(drop=True).groupby(keys, sort=False, observed=True, dropna=False).indices
    times = times[known]
    return {key if isinstance(key, tuple) else (key,): times[at] for key, at in places.items()}
