"""What the simulator knows about its own sending, set beside what was measured: the error of every number.

The simulator's clock and ours are the machine's monotonic clock, so moments compare directly. A token's truth
is an interval: its write began at `send_ns` and had returned by `written_ns`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from ..store.chunks import BEARING

if TYPE_CHECKING:
    import pandas as pd

_SIMULATOR_TOKEN_KINDS = ("text", "content", "reasoning", "tool")
# a write takes some 0.03; in a longer one the sender lost the processor, before or after the bytes had gone
_SLOW_WRITE_MS = 1.0
_CLOCK_SLACK_MS = 0.02  # the clocks of the two processes and the kernel are read one after the other
Records = Mapping[str, Mapping[str, Any]]


def fetch_records(url: str) -> dict[str, dict[str, Any]]:
    """The simulator's records by request id, from its own address."""
    import json
    from urllib.request import urlopen

    # the loopback address of our own simulator
    with urlopen(f"{url}/__sim/records", timeout=60) as answer:  # noqa: S310
        return {r["id"]: r for r in json.load(answer)}


def request_errors(df: pd.DataFrame, records: Records) -> pd.DataFrame:
    """One row per measured request that the simulator remembers: measured and true times in ms, and their
    difference.

    Columns: request_id, quality, err_bound_ms, ttft_error_ms, e2e_error_ms, itl_error_ms, first (whether it
    was the first on its connection). A perfect client shows the travel of the request (0.1 to 0.4 ms on
    loopback) in the first two.
    """
    import pandas as pd

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
    """One row per token-bearing chunk: certified, error_ms (arrival minus the beginning of its write; where
    the sender was held up in its write for over 1 ms, the distance from the whole of it), width_ms of its
    bounds, contained (whether they hold the truth), gap_error_ms, in the order of the answer."""
    import pandas as pd

    ids = df.set_index("request_id")["provider_request_id"].to_dict()
    out = []
    for request_id, part in chunks[chunks["kind"].isin(BEARING)].groupby("request_id", sort=False):
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
