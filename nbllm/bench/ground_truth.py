"""Measurements compared with the simulator's record of what it sent and when: the error of every number.

The simulator and this process use the machine's monotonic clock, so times compare directly. The true time of
a token is an interval: its write began at `send_ns` and had returned at `written_ns`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pandas as pd

from ..store.chunks import TOKEN_KINDS

_SIMULATOR_TOKEN_KINDS = ("text", "content", "reasoning", "tool")
# a write takes some 0.03 ms; in a longer one the sender was descheduled, before or after the bytes were sent
_SLOW_WRITE_MS = 1.0
_CLOCK_SLACK_MS = 0.02  # both processes and the kernel read the clock at different moments
Records = Mapping[str, Mapping[str, Any]]


def fetch_records(url: str) -> dict[str, dict[str, Any]]:
    """The simulator's records by request id, from its address."""
    import json
    from urllib.request import urlopen

    # the loopback address of our own simulator
    with urlopen(f"{url}/__sim/records", timeout=60) as answer:  # noqa: S310
        return {r["id"]: r for r in json.load(answer)}


def request_errors(df: pd.DataFrame, records: Records) -> pd.DataFrame:
    """One row per measured request that the simulator has a record of: measured minus true times in ms.

    Columns: request_id, quality, err_bound_ms, ttft_error_ms, e2e_error_ms, itl_error_ms, out_tokens_error,
    conn_reused, first (whether it was the first on its connection). Even a perfect client has the request's
    travel time (0.1 to 0.4 ms on loopback) in the first two errors.
    """
    out = []
    for row in df.to_dict("records"):
        record = records.get(str(row["provider_request_id"]))
        sent = (
            [c for c in record["chunks"] if c["kind"] in _SIMULATOR_TOKEN_KINDS and c["n_tokens"]]
            if record
            else []
        )
        if record is None or not sent:
            continue
        first, last = sent[0], sent[-1]
        tokens = sum(c["n_tokens"] for c in sent)
        decode = (last["send_ns"] - first["send_ns"]) / 1e6
        later_tokens = tokens - first["n_tokens"]
        out.append(
            {
                "request_id": row["request_id"],
                "quality": row["quality"],
                "err_bound_ms": row["err_bound_ms"],
                "first": record["first"],
                "conn_reused": row["conn_reused"],
                "ttft_error_ms": row["ttft_ms"] - (first["send_ns"] - record["received_ns"]) / 1e6,
                "e2e_error_ms": row["e2e_ms"] - (last["send_ns"] - record["received_ns"]) / 1e6,
                "itl_error_ms": row["itl_ms"] - decode / later_tokens if later_tokens > 0 else None,
                "out_tokens_error": row["out_tokens"] - tokens,
            }
        )
    return pd.DataFrame(out)


def _arrival_error(arrived: float, write_start: float, write_end: float) -> float:
    return (
        arrived - write_start
        if write_end - write_start <= _SLOW_WRITE_MS
        else max(0.0, arrived - write_end) + min(0.0, arrived - write_start)
    )


def token_errors(df: pd.DataFrame, chunks: pd.DataFrame, records: Records, epoch: float) -> pd.DataFrame:
    """One row per chunk with tokens, in the order of the answer: certified, error_ms (arrival minus the start
    of its write; for a write of more than 1 ms, the distance from the interval of the write), width_ms of its
    bounds, contained (whether they contain the true time), gap_error_ms."""
    ids = df.set_index("request_id")["provider_request_id"].to_dict()
    out = []
    for request_id, part in chunks[chunks["kind"].isin(TOKEN_KINDS)].groupby("request_id", sort=False):
        record = records.get(str(ids.get(request_id)))
        sent = (
            [c for c in record["chunks"] if c["kind"] in _SIMULATOR_TOKEN_KINDS and c["n_tokens"]]
            if record
            else []
        )
        if len(sent) != len(part):
            continue
        before: tuple[float, float] | None = None
        for row, sent_chunk in zip(part.to_dict("records"), sent, strict=True):
            arrived, lo, hi = (row[name] / 1e6 + epoch * 1e3 for name in ("ns_arrive", "ns_lo", "ns_hi"))
            write_start, write_end = sent_chunk["send_ns"] / 1e6, sent_chunk["written_ns"] / 1e6
            out.append(
                {
                    "request_id": request_id,
                    "i": row["i"],
                    "certified": bool(row["certified"]),
                    "error_ms": _arrival_error(arrived, write_start, write_end),
                    "width_ms": hi - lo,
                    "contained": lo <= write_end + _CLOCK_SLACK_MS and write_start <= hi + _CLOCK_SLACK_MS,
                    "gap_error_ms": (arrived - before[0]) - (write_start - before[1]) if before else None,
                    "lag_ms": (row["ns_user"] - row["ns_arrive"]) / 1e6,
                }
            )
            before = (arrived, write_start)
    return pd.DataFrame(out)
