"""Tables about assertions: pass counts by prompt and model, and prompts made from templates and cases."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

import pandas as pd

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

_PLACEHOLDER = re.compile(r"\{([^{}\n]+)\}")  # a column's name may contain spaces


def grid(
    df: pd.DataFrame, rows: str | Sequence[str] = "prompt_id", columns: str | Sequence[str] = "name"
) -> pd.DataFrame:
    """A table of passes, cases by models: "3/4" means 3 of 4 requests passed, "" that there were none. rows,
    columns: the columns of the frame to group by; with `bench.cases`, rows="case", columns=["name",
    "template"].

    Raises ConfigError for a frame without assertions or scores.
    """
    if "passed" not in df and "score" not in df:
        raise ConfigError("The frame has no assertions.", hint='bench.run(..., asserts=["contains: Paris"])')
    used = last_attempts(measured_requests(normalize_requests(df)))
    positions = {str(name): i for i, name in enumerate(ordered_values(used, "name"))}
    used = used.sort_values("name", key=lambda names: names.astype(str).map(positions), kind="stable")
    passed = (
        used["passed"] if "passed" in used else (used["score"] >= PASS_THRESHOLD).where(used["score"].notna())
    )
    keys = [string_list(name, k) or [] for name, k in (("rows", rows), ("columns", columns))]
    if not (keys[0] and keys[1]) or len({*keys[0], *keys[1]}) < len(keys[0]) + len(keys[1]):
        raise ConfigError("rows and columns must name different columns.", hint="bench.grid(df)")
    missing = next((k for k in (*keys[0], *keys[1]) if k not in used), None)
    if missing is not None:
        raise ConfigError(f"The frame has no column {missing!r}.", hint=did_you_mean(missing, used.columns))
    counts = pd.DataFrame({k: used[k].astype(str) for k in (*keys[0], *keys[1])})
    counts["good"], counts["n"] = passed.fillna(False).astype(int), 1
    totals = counts.groupby([*keys[0], *keys[1]], sort=False)[["good", "n"]].sum()
    cells = totals["good"].astype(str) + "/" + totals["n"].astype(str)
    return cells.unstack(keys[1], fill_value="")


def cases(templates: Mapping[str, str] | Sequence[str], table: pd.DataFrame) -> pd.DataFrame:
    """A table of prompts for `bench.run`: every template filled with every row. templates: a list of texts
    with {column} placeholders, or a mapping from names to such texts. Columns: prompt, template (its name or
    number), case (the index of the row), and the columns of the table. Raises ConfigError for a placeholder
    without a column."""
    if isinstance(templates, str) or not all(
        isinstance(t, str) for t in (templates.values() if isinstance(templates, Mapping) else templates)
    ):
        raise ConfigError("templates must be a list of texts, or a mapping of them.", hint='["Please: {q}"]')
    if not isinstance(table, pd.DataFrame):
        raise ConfigError(
            f"table must be a DataFrame, not {type(table).__name__}.", hint="pd.DataFrame(table)"
        )
    check_unique_names(table.columns)
    table = table.rename(columns=str)
    by_name = (
        dict(templates) if isinstance(templates, Mapping) else {str(i): t for i, t in enumerate(templates)}
    )
    rows = []
    for case, row in zip(table.index, table.to_dict("records"), strict=True):
        for name, template in by_name.items():
            missing = next((f for f in re.findall(r"\{(\w+)\}", template) if f not in row), None)
            if missing is not None:
                raise ConfigError(
                    f"The table has no column {missing!r}.", hint=did_you_mean(missing, map(str, row))
                )
            prompt = _PLACEHOLDER.sub(lambda match, row=row: str(row.get(match[1], match[0])), template)  # type: ignore[misc]
            rows.append({**row, "prompt": prompt, "template": name, "case": str(case)})
    return pd.DataFrame(rows)
