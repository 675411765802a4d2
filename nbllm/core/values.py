"""Values as what a model reads: pictures for what draws itself, else text within a budget of tokens: tables
with their columns, what is in them and first rows; arrays, and long lists and mappings, cut; all else as
str(). One table of forms.

Tokens are estimated as characters / 3: numbers and rules of tables take more of them than prose. What is left
out is always said.
"""

from __future__ import annotations

from base64 import b64decode
from collections.abc import Callable, Iterable
from io import BytesIO
from typing import Any

from .errors import ConfigError
from .messages import Image

BUDGET = 1_000  # tokens that a value may take, where the cell does not say (budget=)
SIZE_LIMIT = 20 * 2**20  # bytes; providers refuse larger requests
CHARACTERS = 3  # of a token, about
# How much of a table is shown, from much to little: rows, columns, characters of a cell. The first that fits
# is taken.
_VIEWS = (
    (10, 40, 80),
    (10, 20, 60),
    (5, 20, 40),
    (5, 12, 40),
    (3, 12, 24),
    (2, 8, 24),
    (1, 5, 24),
    (0, 5, 24),
)
_DISTINCT = 40  # characters of the commonest value

_CONVERSIONS: dict[str, Callable[[Any], str]] = {"r": repr, "s": str, "a": ascii}


def text_of(value: Any, conv: str | None = None, budget: int = BUDGET) -> str:
    """`value` as text: converted (!r, !s, !a) where that is asked for, else in the form of its type, of which
    at most `budget` tokens. Text of the user's own is never cut."""
    if conv:
        return _CONVERSIONS[conv](value)
    form = form_of(value)
    return form(value, budget * CHARACTERS) if form else str(value)


def form_of(value: Any) -> Callable[[Any, int], str] | None:
    """What makes text of a value of this type, None where str() does."""
    forms = (FORMS.get((kind.__module__.partition(".")[0], kind.__name__)) for kind in type(value).__mro__)
    return next((form for form in forms if form), None)


def tokens_in(text: str) -> int:
    """About how many tokens a text is."""
    return -(-len(text) // CHARACTERS)


# --- tables -------------------------------------------------------------------------------------------------


def table_form(df: Any, limit: int, what: str = "A table") -> str:
    """A DataFrame: its size, a line for each column, first rows, and what was left out."""
    text = ""
    lines = [_column(df.iloc[:, i], df.columns[i]) for i in range(min(df.shape[1], _VIEWS[0][1]))]
    for rows, columns, width in _VIEWS:
        text = _view(df, what, lines[:columns], rows, width)
        if len(text) <= limit:
            return text
    return cut(text, limit)


def _view(df: Any, what: str, lines: list[tuple[Any, ...]], rows: int, width: int) -> str:
    hidden = list(map(str, df.columns[len(lines) :]))
    about = [
        f"{what} of {len(df):,} rows and {df.shape[1]} columns.",
        "",
        *_lines(["column", "type", "missing", "values"], lines, width),
    ]
    if hidden:
        about.append(
            f"(and {len(hidden)} more columns: {', '.join(hidden[:20])}{', ...' if len(hidden) > 20 else ''})"
        )
    head = df.iloc[:rows, : len(lines)]
    if rows and len(df):
        told = f"The first {len(head)} of {len(df):,} rows:" if len(df) > len(head) else "All rows:"
        about += [
            "",
            told,
            "",
            *_lines(
                [df.index.name or "", *head.columns],
                zip(head.index, *(head.iloc[:, i] for i in range(head.shape[1])), strict=True),
                width,
            ),
        ]
    return "\n".join(about) + "\n"


def _column(series: Any, name: Any) -> tuple[Any, ...]:
    """A column in a line: what it is called, its type, how much is missing, and its range or commonest
    value."""
    return name, series.dtype, int(series.isna().sum()), _values(series)


def _values(series: Any) -> str:
    known = series.dropna()
    if not len(known):
        return "none"
    kind = getattr(series.dtype, "kind", "O")
    try:
        if kind in "iuf" or str(series.dtype) in ("Int64", "Float64"):
            return f"{_number(known.min())} to {_number(known.max())}, mean {_number(known.mean())}"
        if kind in "mM":
            return f"{known.min()} to {known.max()}"
        counts = known.value_counts()
        common = str(counts.index[0])
        return (
            f"{len(counts):,} distinct, most often "
            f"{common[:_DISTINCT]}{'...' if len(common) > _DISTINCT else ''} ({int(counts.iloc[0]):,})"
        )
    except (TypeError, ValueError):  # lists and mappings in cells can be neither sorted nor counted
        return f"{len(known):,} values"


def _number(value: Any) -> str:
    return f"{int(value):,}" if float(value).is_integer() and abs(value) < 1e15 else f"{float(value):.4g}"


def _lines(head: Iterable[Any], rows: Iterable[Iterable[Any]], width: int) -> list[str]:
    head = list(head)
    return [_row(head, width), _row(["---"] * len(head), width), *(_row(row, width) for row in rows)]


def _row(cells: Iterable[Any], width: int) -> str:
    return f"| {' | '.join(_cell(c, width) for c in cells)} |"


def _cell(value: Any, width: int) -> str:
    text = " ".join(str(value).replace("|", "\\|").splitlines())
    return text if len(text) <= width else text[: width - 3] + "..."


def _series(series: Any, limit: int) -> str:
    name = "" if series.name is None else f" {series.name!r}"
    return table_form(
        series.to_frame("values" if series.name is None else series.name),
        limit,
        f"A series{name} ({series.dtype}), as a table",
    )


def _frame(df: Any, limit: int) -> str:
    return table_form(df, limit)


# --- all else -----------------------------------------------------------------------------------------------


def _array(array: Any, limit: int) -> str:
    return cut(f"An array of shape {tuple(array.shape)} and type {array.dtype}:\n{array}", limit) + "\n"


def _polars(df: Any, limit: int) -> str:
    return cut(f"A table of {df.shape[0]:,} rows and {df.shape[1]} columns:\n{df}", limit) + "\n"


def _long(value: Any, limit: int) -> str:
    """A collection; one of a class of its own that writes itself is left alone."""
    writes_itself = any("__str__" in vars(kind) for kind in type(value).__mro__ if kind is not object)
    return str(value) if writes_itself else cut(str(value), limit)


def cut(text: str, limit: int) -> str:
    """At most `limit` characters of a text, and then how much was left out."""
    return (
        text
        if len(text) <= limit
        else f"{text[:limit]}...\n(the first {limit:,} of {len(text):,} characters)"
    )


# (package, class): its form. Named, not imported, so that nothing heavy is loaded for a prompt; subclasses
# follow.
FORMS: dict[tuple[str, str], Callable[[Any, int], str]] = {
    ("pandas", "DataFrame"): _frame,
    ("pandas", "Series"): _series,
    ("polars", "DataFrame"): _polars,
    ("numpy", "ndarray"): _array,
    ("torch", "Tensor"): _array,
    ("builtins", "list"): _long,
    ("builtins", "dict"): _long,
    ("builtins", "tuple"): _long,
    ("builtins", "set"): _long,
    ("nbllm", "NotebookSoFar"): lambda cells, limit: str(cells.text(limit)),
}


# --- pictures -----------------------------------------------------------------------------------------------


def picture(name: str, value: Any) -> Image:
    """The picture that a value draws of itself, as PNG. Raises ConfigError for one that is too large."""
    png = _png(value)
    if len(png) > SIZE_LIMIT:
        raise ConfigError(
            f"The picture {name} has {len(png) / 2**20:.0f} MiB as PNG; at most {SIZE_LIMIT >> 20} can "
            f"be sent.",
            hint="Make it smaller, for example with image.thumbnail((1024, 1024)).",
        )
    return Image(png)


def draws(value: Any) -> bool:
    """Whether a value is a picture: one of ours, a figure, axes, or what gives PNG of itself."""
    return (
        isinstance(value, Image)
        or _figure(value) is not None
        or (hasattr(value, "_repr_png_") and value._repr_png_() is not None)
    )


def _figure(value: Any) -> Any:
    """The matplotlib figure that a value is, or belongs to; None for others. It is not imported for that."""
    kinds = {(k.__module__.partition(".")[0], k.__name__) for k in type(value).__mro__}
    return (
        value
        if ("matplotlib", "Figure") in kinds
        else value.figure
        if ("matplotlib", "Axes") in kinds
        else None
    )


def _png(value: Any) -> bytes:
    figure = _figure(value)
    if figure is not None:
        buffer = BytesIO()
        figure.savefig(buffer, format="png", dpi=min(150.0, figure.dpi), bbox_inches="tight")
        return buffer.getvalue()
    made = value._repr_png_()
    png = made[0] if isinstance(made, tuple) else made
    return b64decode(png) if isinstance(png, str) else bytes(png)  # IPython's own pictures give text
