"""From chunks to tokens: one row per token, with its time or its share of a gap."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd

from ..store.chunks import TOKEN_KINDS

_KEY = ["run_id", "request_id", "attempt"]


def token_rows(requests: pd.DataFrame, chunks: pd.DataFrame) -> pd.DataFrame:
    """One row per streamed token: run_id, request_id, attempt, token (from 0), chunk (its `i`), kind, t_ms,
    gap_ms, interpolated, certified.

    Only the arrival of a chunk is observed, which is the time of its last token: tokens that share a chunk
    are spread evenly over the time since the previous chunk (`interpolated`). The tokens of the first chunk
    all have its arrival time.
    """
    token_chunks = chunks[chunks["kind"].isin(TOKEN_KINDS)]
    totals = requests.drop_duplicates(_KEY, keep="last").set_index(_KEY)["streamed_tokens"]
    frames = []
    for key, part in token_chunks.groupby(_KEY, sort=False, observed=True):
        n_tokens = chunk_token_counts(part, totals.get(key))
        arrival_ms = part["t_ms"].to_numpy(float)
        previous_ms = np.concatenate([arrival_ms[:1], arrival_ms[:-1]])
        position = (
            np.concatenate([np.arange(1, k + 1) / k for k in n_tokens]) if len(n_tokens) else np.array([])
        )
        begin, end = np.repeat(previous_ms, n_tokens), np.repeat(arrival_ms, n_tokens)
        times = begin + position * (end - begin)
        frames.append(
            pd.DataFrame(
                {
                    **dict(zip(_KEY, key, strict=True)),
                    "token": np.arange(len(times)),
                    "chunk": np.repeat(part["i"].to_numpy(), n_tokens),
                    "kind": np.repeat(part["kind"].astype(str).to_numpy(), n_tokens),
                    "t_ms": times,
                    "gap_ms": np.diff(times, prepend=np.nan),
                    "interpolated": np.repeat(n_tokens > 1, n_tokens),
                    "certified": np.repeat(part["certified"].fillna(False).to_numpy(bool), n_tokens)
                    & (position == 1.0),
                }
            )
        )
    columns = [*_KEY, "token", "chunk", "kind", "t_ms", "gap_ms", "interpolated", "certified"]
    return pd.concat(frames, ignore_index=True) if frames else pd.DataFrame(columns=columns)


def chunk_token_counts(part: pd.DataFrame, total: Any) -> np.ndarray:
    """The tokens of each chunk: as counted, else the streamed total divided in proportion to characters, at
    least one each."""
    if part["n_tokens"].notna().all():
        return np.asarray(part["n_tokens"], dtype=int)
    one_each = np.ones(len(part), int)
    n_streamed = 0 if total is None or pd.isna(total) else int(total)
    if n_streamed <= len(part):
        return one_each
    chars = part["chars"].fillna(0).to_numpy(float)
    weights = chars / chars.sum() if chars.sum() else one_each / len(part)
    estimate = np.maximum(1, np.diff(np.rint(np.cumsum(weights) * n_streamed), prepend=0.0)).astype(int)
    # chunks that were raised to one token take it from the largest
    estimate[int(np.argmax(estimate))] -= estimate.sum() - n_streamed
    return np.asarray(estimate, dtype=int)
