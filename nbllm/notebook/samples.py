"""Values as text that a model reads: tables with shape, types and first rows, all else as str(). One table of forms."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

ROWS, COLUMNS, CELL, CHARS = 10, 12, 80, 4_000  # what is shown of a table, of one of its cells, of an array

_CONVERSIONS: dict[str, Callable[[Any], str]] = {"r": repr, "s": str, "a": ascii}


def text_of(value: Any, fmt: str | None = None, conv: str | None = None) -> str:
    """`value` as text: converted (!r, !s, !a) and formatted where that is asked for, else in the form of its type."""
    if conv:
        value = _CONVERSIONS[conv](value)
    if fmt:
        return format(value, fmt)
    forms = (FORMS.get((kind.__module__.partition(".")[0], kind.__name__)) for kind in type(value).__mro__)
    return next((form for form in forms if form), str)(value)


def _frame(df: Any) -> str:
    types = ", ".join(f"{name} ({kind})" for name, kind in zip(df.columns[:COLUMNS], df.dtypes.iloc[:COLUMNS], strict=True))
    more = f", and {df.shape[1] - COLUMNS} more columns that are not shown" if df.shape[1] > COLUMNS else ""
    return f"A table of {df.shape[0]} rows and {df.shape[1]} columns: {types}{more}.\n\n{_table(df)}"


def _series(series: Any) -> str:
    name = "" if series.name is None else f" {series.name!r}"
    return f"A series{name} of {len(series)} values ({series.dtype}).\n\n{_table(series.to_frame())}"


def _table(df: Any) -> str:
    """The first rows and columns as Markdown, and what was cut."""
    shown = df.iloc[:ROWS, :COLUMNS]
    rows = [[str(shown.index.name or ""), *shown.columns], ["---"] * (shown.shape[1] + 1)]
    rows += [[index, *row] for index, row in zip(shown.index, shown.itertuples(index=False), strict=True)]
    cut = f"\n(the first {ROWS} of {len(df)} rows)" if len(df) > ROWS else ""
    return "\n".join(map(_row, rows)) + cut + "\n"


def _row(cells: Iterable[Any]) -> str:
    return f"| {' | '.join(map(_cell, cells))} |"


def _cell(value: Any) -> str:
    text = " ".join(str(value).replace("|", "\\|").splitlines())
    return text if len(text) <= CELL else text[:CELL - 3] + "..."


def _array(array: Any) -> str:
    text = str(array)
    cut = f"...\n(the first {CHARS} of {len(text)} characters)" if len(text) > CHARS else ""
    return f"An array of shape {array.shape} and type {array.dtype}:\n{text[:CHARS]}{cut}\n"


# (package, class): its form. Named, not imported, so that nothing heavy is loaded for a prompt; subclasses follow.
FORMS: dict[tuple[str, str], Callable[[Any], str]] = {
    ("pandas", "DataFrame"): _frame, ("pandas", "Series"): _series, ("numpy", "ndarray"): _array,
}
