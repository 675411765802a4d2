"""The columns of what was asserted of a run's answers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from ..core.events import all_checks_pass

if TYPE_CHECKING:
    import pandas as pd

CHECK_PREFIX = "check_"


def add_check_columns(df: pd.DataFrame, found: Mapping[str, Mapping[str, float | None]]) -> None:
    """The columns of checks by request, and whether all are passed."""
    import pandas as pd

    names = list(dict.fromkeys(name for values in found.values() for name in values))
    rows = [found.get(str(i), {}) for i in df["request_id"]]
    for name in names:
        df[f"{CHECK_PREFIX}{name}"] = pd.Series([r.get(name) for r in rows], df.index, dtype="float64")
    if names:
        passed = [all_checks_pass(r.get(name) for name in names) for r in rows]
        df["passed"] = pd.Series(passed, df.index, dtype="boolean")
