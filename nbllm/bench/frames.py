"""Which rows of a frame count, and in which order they are shown."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from ..store import columns

if TYPE_CHECKING:
    import pandas as pd

SCORE = "score"  # what an answer is worth, by the user's own measure


def retried(df: pd.DataFrame) -> bool:
    """Whether a request was sent more than once."""
    return "attempt" in df and bool((df["attempt"] > 1).any())


def leading(df: pd.DataFrame) -> str:
    """The metric by which models are first told apart: the time to the first token, or to the last where no
    first one was seen (embeddings, answers that come as a whole)."""
    seen = "ttft_ms" in df and df["ttft_ms"].notna().any()
    return "ttft_ms" if seen or "e2e_ms" not in df or df["e2e_ms"].isna().all() else "e2e_ms"


def ordered(df: pd.DataFrame, column: str) -> list[Any]:
    """The values of a column in the order in which they are shown: models as the run was given them (its rows
    stand in random order), starts coldest first, else sorted; unknown last."""
    values = list(df[column].drop_duplicates())
    told = df.attrs.get("nbllm", {}).get("models", []) if column == "name" else ()
    places = {name: i for i, name in enumerate((*told, *columns.START_KINDS))}
    known = [v for v in values if isinstance(v, (str, int, float)) and v == v]  # noqa: PLR0124
    known.sort(key=lambda v: (places.get(v, len(places)), (0.0, v) if isinstance(v, str) else (float(v), "")))
    return [*known, *(v for v in values if not any(v is k for k in known))]


def grouped(df: pd.DataFrame, keys: Sequence[str]) -> list[tuple[tuple[Any, ...], pd.DataFrame]]:
    """The groups of a frame, in the order of `ordered`."""
    if not keys:
        return [((), df)]
    found = list(df.groupby(list(keys), sort=False, observed=True, dropna=False))
    ranks = [{repr(v): i for i, v in enumerate(ordered(df, key))} for key in keys]

    def place(group: Any) -> list[int]:
        return [rank.get(repr(v), len(rank)) for rank, v in zip(ranks, group[0], strict=True)]

    return sorted(found, key=place)


def last_attempts(part: pd.DataFrame) -> pd.DataFrame:
    """The last attempt of each request, in the order of their calls: a retry's first attempt is not a failure
    of its own."""
    ordered = part.sort_values("attempt") if "attempt" in part else part
    kept = (
        ordered.drop_duplicates(["run_id", "request_id"], keep="last")
        if {"run_id", "request_id"} <= set(part)
        else ordered
    )
    return (
        kept.sort_values("ns_call")
        if "ns_call" in kept and kept["ns_call"].notna().all()
        else kept.sort_index()
    )


def measured(df: pd.DataFrame, phase: str | None = "measure") -> pd.DataFrame:
    """The requests of a phase; all for None."""
    return df if phase is None else df[df["phase"].astype("string") == phase]


def succeeded(part: pd.DataFrame) -> pd.Series:
    """Which requests got an answer."""
    return part["ok"].astype("boolean").fillna(False).astype(bool)


def known(row: Mapping[Any, Any]) -> dict[str, Any]:
    """A row as JSON has it; None for what is missing."""
    import pandas as pd

    plain: dict[str, Any] = {
        str(k): v if isinstance(v, (list, dict)) or not pd.isna(v) else None for k, v in row.items()
    }
    return {k: v.item() if hasattr(v, "item") else v for k, v in plain.items()}


def disturbed(part: pd.DataFrame) -> pd.Series:
    """Which requests this client itself held up."""
    return (part["quality"].astype("string") == "contaminated").fillna(False).astype(bool)
