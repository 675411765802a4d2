"""The columns of what was asserted of a run's answers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pandas as pd

PASSES = 0.5  # a check or a score from here on is a pass
PREFIX = "check_"


def joined(df: pd.DataFrame, found: Mapping[str, Mapping[str, float | None]]) -> None:
    """The columns of checks by request, and whether all are passed."""
    import pandas as pd

    names = list(dict.fromkeys(name for values in found.values() for name in values))
    rows = [found.get(str(i), {}) for i in df["request_id"]]
    for name in names:
        df[f"{PREFIX}{name}"] = pd.Series([r.get(name) for r in rows], df.index, dtype="float64")
    if names:
        df["passed"] = pd.Series([_all(r, names) for r in rows], df.index, dtype="boolean")


def _all(values: Mapping[str, float | None], names: list[str]) -> bool | None:
    told = [values.get(name) for name in names]
    if any(v is not None and v < PASSES for v in told):
        return False
    return None if None in told else True
