"""Values as what a model reads: pictures for what draws itself, else text within a budget of tokens: tables
with their columns, what is in them and first rows; arrays, and long lists and mappings, cut; all else as
str(). One table of forms.

Tokens are estimated as characters / 3: numbers and rules of tables take more of them than prose. What is left
out is always said.
"""

from __future__ import annotations

import re
import warnings
from base64 import b64decode
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping
from contextlib import suppress
from io import BytesIO
from typing import Any

from .errors import ConfigError, error_line
from .messages import Image, picture_type

DEFAULT_BUDGET = 1_000  # tokens that a value may take, where the cell does not say (budget=)
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
_COUNTED = 100_000  # values of a column that are counted

_CONVERSIONS: dict[str, Callable[[Any], str]] = {"r": repr, "s": str, "a": ascii}


def format_value(value: Any, conv: str | None = None, budget: int = DEFAULT_BUDGET) -> str:
    """`value` as text: converted (!r, !s, !a) where that is asked for, else in the form of its type, of which
    at most `budget` tokens. Text of the user's own is never cut."""
    if conv:
        return _CONVERSIONS[conv](value)
    form = find_formatter(value)
    return form(value, budget * CHARACTERS) if form else str(value)


def find_formatter(value: Any) -> Callable[[Any, int], str] | None:
    """What makes text of a value of this type, None where str() does."""
    forms = (
        FORMATTERS.get((kind.__module__.partition(".")[0], kind.__name__)) for kind in type(value).__mro__
    )
    return next((form for form in forms if form), None)


def token_estimate(text: str) -> int:
    """About how many tokens a text is: by its bytes, as a character of Chinese is nearly one."""
    size = len(text) if text.isascii() else len(text.encode("utf-8", "replace"))
    return -(-size // CHARACTERS)


# --- tables -------------------------------------------------------------------------------------------------


def format_table(df: Any, limit: int, what: str = "A table") -> str:
    """A DataFrame: its size, a line for each column, first rows, and what was left out."""
    text = ""
    with warnings.catch_warnings(action="ignore"):  # a mean of infinities is none
        lines = [_column(df.iloc[:, i], df.columns[i]) for i in range(min(df.shape[1], _VIEWS[0][1]))]
    for rows, columns, width in _VIEWS:
        text = _view(df, what, lines[:columns], rows, width)
        if len(text) <= limit:
            return text
    return truncate(text, limit)


def _view(df: Any, what: str, lines: list[tuple[Any, ...]], rows: int, width: int) -> str:
    hidden = list(map(str, df.columns[len(lines) :]))
    about = [
        f"{what} of {plural(len(df), 'row')} and {plural(df.shape[1], 'column')}.",
        "",
        *_lines(["column", "type", "missing", "values"], lines, width),
    ]
    if hidden:
        about.append(
            f"(and {plural(len(hidden), 'more column')}: "
            f"{', '.join(hidden[:20])}{', ...' if len(hidden) > 20 else ''})"
        )
    head = df.iloc[:rows, : len(lines)]
    if rows and len(df):
        told = f"The first {len(head)} of {len(df):,} rows:" if len(df) > len(head) else "All rows:"
        about += [
            "",
            told,
            "",
            *_lines(
                [", ".join(str(n) for n in df.index.names if n is not None), *head.columns],
                zip(head.index, *(head.iloc[:, i] for i in range(head.shape[1])), strict=True),
                width,
            ),
        ]
    return "\n".join(about) + "\n"


def _column(series: Any, name: Any) -> tuple[Any, ...]:
    """A column in a line: what it is called, its type, how much is missing, and its range or commonest
    value."""
    dtype = f"{series.dtype.name}, ordered" if getattr(series.dtype, "ordered", False) else series.dtype
    return name, dtype, int(series.isna().sum()), _values(series)


def _values(series: Any) -> str:
    known = series.dropna()
    if not len(known):
        return "none"
    kind = getattr(series.dtype, "kind", "O")
    try:
        if not isinstance(known.iloc[0], Hashable):
            raise TypeError  # arrays would be counted one by one
        if kind in "iuf" or str(series.dtype) in ("Int64", "Float64"):
            return f"{_number(known.min())} to {_number(known.max())}, mean {_number(known.mean())}"
        if kind in "mM":
            return f"{known.min()} to {known.max()}"
        return _counted(known.iloc[:_COUNTED].value_counts(), len(known))
    except Exception:  # noqa: BLE001 - what can be neither sorted nor counted: Arrow's lists, mappings
        return _counted(known.iloc[:_COUNTED].map(_cell_text).value_counts(), len(known))


def _counted(counts: Any, known: int) -> str:
    """How many values there are, and the commonest; of a category, those that occur."""
    counts = counts[counts > 0]
    common = _cell_text(counts.index[0])
    where = f" in the first {_COUNTED:,}" if known > _COUNTED else ""
    return (
        f"{len(counts):,} distinct{where}, most often "
        f"{common[:_DISTINCT]}{'...' if len(common) > _DISTINCT else ''} ({int(counts.iloc[0]):,})"
    )


def _cell_text(value: Any) -> str:
    """A cell as text; an array, as Arrow's lists are here, as a list."""
    return str(value.tolist() if hasattr(value, "dtype") and hasattr(value, "tolist") else value)


def _number(value: Any) -> str:
    return f"{int(value):,}" if float(value).is_integer() and abs(value) < 1e15 else f"{float(value):.4g}"


def _lines(head: Iterable[Any], rows: Iterable[Iterable[Any]], width: int) -> list[str]:
    head = list(head)
    return [_row(head, width), _row(["---"] * len(head), width), *(_row(row, width) for row in rows)]


def _row(cells: Iterable[Any], width: int) -> str:
    return f"| {' | '.join(_cell(c, width) for c in cells)} |"


def _cell(value: Any, width: int) -> str:
    text = " ".join(_cell_text(value).replace("|", "\\|").splitlines())
    return text if len(text) <= width else text[: width - 3] + "..."


def _series(series: Any, limit: int) -> str:
    name = "" if series.name is None else f" {series.name!r}"
    return format_table(
        series.to_frame("values" if series.name is None else series.name),
        limit,
        f"A series{name} ({series.dtype}), as a table",
    )


# --- all else -----------------------------------------------------------------------------------------------


def _array(array: Any, limit: int) -> str:
    return truncate(f"An array of shape {tuple(array.shape)} and type {array.dtype}:\n{array}", limit) + "\n"


def _arrow(table: Any, limit: int, what: str = "A table") -> str:
    """A table in Arrow's format, which pandas reads as it lies there."""
    import pandas as pd

    return format_table(table.to_pandas(types_mapper=pd.ArrowDtype), limit, what)


def _polars(df: Any, limit: int) -> str:
    """A table or a column of polars; where its Arrow form cannot be had, as it prints itself."""
    try:
        return _arrow((df.to_frame() if df.ndim == 1 else df).to_arrow(), limit)
    except Exception:  # noqa: BLE001 - without pyarrow, and for polars' own objects
        return truncate(f"A table of shape {df.shape}:\n{df}", limit) + "\n"


def _source(shown: Any, limit: int) -> str:
    """What IPython shows as SVG, Markdown, HTML or LaTeX: its text."""
    return truncate(str(shown.data), limit)


def _long(value: Any, limit: int) -> str:
    """A collection; one of a class of its own that writes itself is left alone."""
    writes_itself = any("__str__" in vars(kind) for kind in type(value).__mro__ if kind is not object)
    return str(value) if writes_itself else truncate(str(value), limit)


def plural(value: int | None, noun: str, *, about: bool = False) -> str:
    """1 turn, 2 turns, ≈ 1,000 turns, ? turns: every count that is told with its noun."""
    return f"{'≈ ' * about}{'?' if value is None else f'{value:,}'} {noun}{'s' * (value != 1)}"


def truncate(text: str, limit: int) -> str:
    """At most `limit` characters of a text, and then how much was left out; of one that was cut before, of
    how much in all."""
    if len(text) <= limit:
        return text
    before = _CUT.search(text[-100:])
    size = before[1] if before else f"{len(text):,}"
    return f"{text[:limit]}...\n(the first {limit:,} of {size} characters)"


_CUT = re.compile(r"\.\.\.\n\(the first [\d,]+ of ([\d,]+) characters\)\Z")


# (package, class): its form. Named, not imported, so that nothing heavy is loaded for a prompt; subclasses
# follow.
FORMATTERS: dict[tuple[str, str], Callable[[Any, int], str]] = {
    ("pandas", "DataFrame"): format_table,
    ("pandas", "Series"): _series,
    ("polars", "DataFrame"): _polars,
    ("polars", "Series"): _polars,
    # not computed, and not for this
    ("polars", "LazyFrame"): lambda df, limit: (
        truncate(f"A table that is not computed yet, with the columns {dict(df.collect_schema())}", limit)
        + "\n"
    ),
    ("pyarrow", "Table"): _arrow,
    ("pyarrow", "RecordBatch"): _arrow,
    ("IPython", "TextDisplayObject"): _source,
    ("IPython", "SVG"): _source,
    ("IPython", "JSON"): _source,
    ("numpy", "ndarray"): _array,
    ("torch", "Tensor"): _array,
    ("builtins", "list"): _long,
    ("builtins", "dict"): _long,
    ("builtins", "tuple"): _long,
    ("builtins", "set"): _long,
    ("builtins", "frozenset"): _long,
    ("builtins", "bytes"): lambda value, limit: truncate(str(value), limit),
    ("builtins", "bytearray"): lambda value, limit: truncate(str(value), limit),
    ("collections", "deque"): _long,
    ("nbllm", "NotebookSoFar"): lambda cells, limit: str(cells.text(limit)),
}


# --- pictures -----------------------------------------------------------------------------------------------


def render_image(name: str, value: Any) -> Image:
    """The picture that a value draws of itself. Raises ConfigError for one that cannot be drawn or is too
    large."""
    try:
        found = _picture(value)
    except Exception as error:  # noqa: BLE001 - a figure's own text may be no formula
        raise ConfigError(
            f"The picture {name} cannot be drawn: {error_line(error)}.",
            hint="Show it in a cell of its own first.",
        ) from None
    if found is None:
        raise ConfigError(
            f"{name} is no picture.", hint="Give a figure, or what shows as a picture in a cell."
        )
    if len(found.data or b"") > SIZE_LIMIT:
        raise ConfigError(
            f"The picture {name} has {len(found.data or b'') / 2**20:.0f} MiB; at most {SIZE_LIMIT >> 20} "
            f"can be sent.",
            hint="Make it smaller, for example with image.thumbnail((1024, 1024)).",
        )
    return found


def is_drawable(value: Any) -> bool:
    """Whether a value is a picture: one of ours or of IPython, a figure, axes, bytes of a picture, or what
    shows as one in a cell."""
    return _figure(value) is not None or _picture(value) is not None


def _picture(value: Any) -> Image | None:
    if isinstance(value, Image):
        return value
    figure = _figure(value)
    if figure is not None:
        buffer = BytesIO()
        figure.savefig(buffer, format="png", dpi=min(150.0, figure.dpi), bbox_inches="tight")
        return Image(buffer.getvalue())
    found = to_bytes(value)
    if found is None and ("IPython", "Image") in _kinds(value):
        if value.data is None and value.url:
            return Image(url=value.url)
        found = to_bytes(value.data)
    found = next(filter(None, map(_real, [found, *_drawn(value)])), None)
    return Image(found) if found else None


def _drawn(value: Any) -> Iterator[Any]:
    """What a value gives as PNG or JPEG, asked as IPython asks: what fails, or is no method,
    gives nothing."""
    for name in ("_repr_png_", "_repr_jpeg_", "_repr_mimebundle_"):
        method = _method(value, name)
        if method is None:
            continue
        made = None
        with suppress(Exception):  # the user's own objects may raise anything
            made = method()
        made = made[0] if isinstance(made, tuple) and made else made
        if name != "_repr_mimebundle_":
            yield made
        elif isinstance(made, Mapping):
            yield from (made.get("image/png"), made.get("image/jpeg"))


def _method(value: Any, name: str) -> Callable[[], Any] | None:
    """A method of a value that is really there: none of an object that answers to every name, none of a class
    for its instances."""
    try:
        if isinstance(value, type) or getattr(value, "_nbllm_asks_for_no_such_name_", None) is not None:
            return None
        method = getattr(value, name, None)
    except Exception:  # noqa: BLE001 - the user's own objects may raise anything
        return None
    return method if callable(method) else None


def _real(found: Any) -> bytes | None:
    """The bytes of a picture, which may come as base64; None for what is none."""
    if isinstance(found, str):  # IPython's own pictures give text
        with suppress(ValueError):
            found = b64decode(found)
    data = to_bytes(found)
    return data if data and picture_type(data) else None


def to_bytes(value: Any) -> bytes | None:
    """The bytes that a value holds, None for what is no bytes."""
    if isinstance(value, BytesIO):
        return value.getvalue()
    return bytes(value) if isinstance(value, bytes | bytearray | memoryview) else None


def _kinds(value: Any) -> set[tuple[str, str]]:
    return {(k.__module__.partition(".")[0], k.__name__) for k in type(value).__mro__}


def _figure(value: Any) -> Any:
    """The matplotlib figure that a value is, or belongs to; None for others. It is not imported for that."""
    kinds = _kinds(value)
    return (
        value
        if ("matplotlib", "Figure") in kinds
        else value.figure
        if ("matplotlib", "Axes") in kinds
        else None
    )
