"""From chunks to tokens: one row per token, each with its time or its share of a gap."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    import pandas as pd

_KEY = ["run_id", "request_id", "attempt"]
_TOKEN_KINDS = ("content", "reasoning", "tool")


def token_rows(requests: pd.DataFrame, chunks: pd.DataFrame) -> pd.DataFrame:
    """One row per streamed token: the key, token (from 0), chunk (its `i`), kind, t_ms, gap_ms, interpolated,
    certified.

    The first token of a chunk came when the chunk began to be sent, which nobody saw: tokens that share a
    chunk are spread evenly over the time since the chunk before (`interpolated`), the last of them at the
    chunk's arrival. The tokens of the first chunk all stand at its arrival.
    """
    import pandas as pd

    bearing = chunks[chunks["kind"].isin(_TOKEN_KINDS)]
    totals = requests.drop_duplicates(_KEY, keep="last").set_index(_KEY)["streamed_tokens"]
    parts = []
    for key, part in bearing.groupby(_KEY, sort=False, observed=True):
        n = chunk_token_counts(part, totals.get(key))
        t = part["t_ms"].to_numpy(float)
        before = np.concatenate([t[:1], t[:-1]])
        within = np.concatenate([np.arange(1, k + 1) / k for k in n]) if len(n) else np.array([])
        begin, end = np.repeat(before, n), np.repeat(t, n)
        times = begin + within * (end - begin)
        parts.append(
            pd.DataFrame(
                {
                    **dict(zip(_KEY, key, strict=True)),
                    "token": np.arange(len(times)),
                    "chunk": np.repeat(part["i"].to_numpy(), n),
                    "kind": np.repeat(part["kind"].astype(str).to_numpy(), n),
                    "t_ms": times,
                    "gap_ms": np.diff(times, prepend=np.nan),
                    "interpolated": np.repeat(n > 1, n),
                    "certified": np.repeat(part["certified"].fillna(False).to_numpy(bool), n)
                    & (within == 1.0),
                }
            )
        )
    columns = [*_KEY, "token", "chunk", "kind", "t_ms", "gap_ms", "interpolated", "certified"]
    return pd.concat(parts, ignore_index=True) if parts else pd.DataFrame(columns=columns)


def chunk_token_counts(part: pd.DataFrame, total: Any) -> np.ndarray:
    """Tokens of each chunk: as counted, else the streamed total shared by characters, one at least."""
    import pandas as pd

    if part["n_tokens"].notna().all():
        return np.asarray(part["n_tokens"], dtype=int)
    ones = np.ones(len(part), int)
    streamed = 0 if total is None or pd.isna(total) else int(total)
    if streamed <= len(part):
        return ones
    chars = part["chars"].fillna(0).to_numpy(float)
    weights = chars / chars.sum() if chars.sum() else ones / len(part)
    shared = np.maximum(1, np.diff(np.rint(np.cumsum(weights) * streamed), prepend=0.0)).astype(int)
    shared[int(np.argmax(shared))] -= (
        shared.sum() - streamed
    )  # chunks that were raised to one token take it from the largest
    return np.asarray(shared, dtype=int)
