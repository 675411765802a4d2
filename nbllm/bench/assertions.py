"""What was asserted, as tables: the grid of passes, and templates by cases."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from ..core.errors import ConfigError, did_you_mean
from ..core.events import PASS_THRESHOLD
from .frames import (
    check_unique_names,
    last_attempts,
    measured_requests,
    normalize_requests,
    ordered_values,
    string_list,
)

if TYPE_CHECKING:
    import pandas as pd

_PLACEHOLDER = re.compile(r"\{([^{}\n]+)\}")  # a column's name may have blanks


def grid(
    df: pd.DataFrame, rows: str | Sequence[str] = "prompt_id", columns: str | Sequence[str] = "name"
) -> pd.DataFrame:
    """Passes of requests, cases by models: "3/4" is three of four, "" none asked. rows, columns: by which
    columns of the frame; with `bench.cases`, rows="case", columns=["name", "template"].

    Raises ConfigError for a frame without assertions or scores."""
    import pandas as pd

    if "passed" not in df and "score" not in df:
        raise ConfigError("Nothing was asserted.", hint='bench.run(..., asserts=["contains: Paris"])')
    used = last_attempts(measured_requests(normalize_requests(df)))
    places = {str(name): i for i, name in enumerate(ordered_values(used, "name"))}
    used = used.sort_values("name", key=lambda names: names.astype(str).map(places), kind="stable")
    good = (
        used["passed"] if "passed" in used else (used["score"] >= PASS_THRESHOLD).where(used["score"].notna())
    )
    keys = [string_list(name, k) or [] for name, k in (("rows", rows), ("columns", columns))]
    if not (keys[0] and keys[1]) or len({*keys[0], *keys[1]}) < len(keys[0]) + len(keys[1]):
        raise ConfigError("A grid has rows by one thing and columns by another.", hint="bench.grid(df)")
    missing = next((k for k in (*keys[0], *keys[1]) if k not in used), None)
    if missing is not None:
        raise ConfigError(f"The frame has no column {missing!r}.", hint=did_you_mean(missing, used.columns))
    marks = pd.DataFrame({k: used[k].astype(str) for k in (*keys[0], *keys[1])})
    marks["good"], marks["n"] = good.fillna(False).astype(int), 1
    sums = marks.groupby([*keys[0], *keys[1]], sort=False)[["good", "n"]].sum()
    told = sums["good"].astype(str) + "/" + sums["n"].astype(str)
    return told.unstack(keys[1], fill_value="")


def cases(templates: Mapping[str, str] | Sequence[str], table: pd.DataFrame) -> pd.DataFrame:
    """A table of prompts: every template filled with every row, for `bench.run`. templates: texts with
    {column} in them, or a mapping of names. Columns: prompt, template (its name or number), case (the row's
    index), and the table's own. Raises ConfigError for a column that the table has not."""
    import pandas as pd

    if isinstance(templates, str) or not all(
        isinstance(t, str) for t in (templates.values() if isinstance(templates, Mapping) else templates)
    ):
        raise ConfigError("Templates are a list of texts, or a mapping of names.", hint='["Please: {q}"]')
    if not isinstance(table, pd.DataFrame):
        raise ConfigError(f"That is no DataFrame but {type(table).__name__}.", hint="pd.DataFrame(table)")
    check_unique_names(table.columns)
    table = table.rename(columns=str)
    named = (
        dict(templates) if isinstance(templates, Mapping) else {str(i): t for i, t in enumerate(templates)}
    )
    rows = []
    for case, row in zip(table.index, table.to_dict("records"), strict=True):
        for name, text in named.items():
            odd = next((f for f in re.findall(r"\{(\w+)\}", text) if f not in row), None)
            if odd is not None:
                raise ConfigError(f"The table has no column {odd!r}.", hint=did_you_mean(odd, map(str, row)))
            told = _PLACEHOLDER.sub(lambda found, row=row: str(row.get(found[1], found[0])), text)  # type: ignore[misc]
            rows.append({**row, "prompt": told, "template": name, "case": str(case)})
    return pd.DataFrame(rows)
