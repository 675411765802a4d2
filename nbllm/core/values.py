"""Python values in the form that a model reads: images for what can be drawn, otherwise text within a token
budget. Tables become a summary of their columns and the first rows; arrays and long collections are
truncated; everything else is str(). FORMATTERS has one function per type.

Tokens are estimated as characters / 3: numbers and table borders take more tokens than prose. The text always
says what was left out.
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

DEFAULT_BUDGET = 1_000  # tokens that a value may take, unless the cell sets budget=
FILE_SIZE_LIMIT = 20 * 2**20  # bytes; providers refuse larger requests
CHARACTERS_PER_TOKEN = 3  # per token, roughly
# How much of a table is shown, from most to least: rows, columns, characters of a cell. The first that fits
# is used.
_TABLE_SIZES = (
    (10, 40, 80),
    (10, 20, 60),
    (5, 20, 40),
    (5, 12, 40),
    (3, 12, 24),
    (2, 8, 24),
    (1, 5, 24),
    (0, 5, 24),
)
_MAX_COMMON = 40  # characters of a column's most common value
_MAX_COUNTED = 100_000  # values of a column that are counted

_CONVERSIONS: dict[str, Callable[[Any], str]] = {"r": repr, "s": str, "a": ascii}


def format_value(value: Any, conv: str | None = None, budget: int = DEFAULT_BUDGET) -> str:
    """`value` as text: by the conversion `conv` (!r, !s, !a) if there is one, else by the formatter of its
    type in at most `budget` tokens. Plain strings are never truncated."""
    if conv:
        return _CONVERSIONS[conv](value)
    formatter = find_formatter(value)
    return formatter(value, budget * CHARACTERS_PER_TOKEN) if formatter else str(value)


def find_formatter(value: Any) -> Callable[[Any, int], str] | None:
    """The formatter for the type of a value, None where str() is used."""
    found = (
        FORMATTERS.get((kind.__module__.partition(".")[0], kind.__name__)) for kind in type(value).__mro__
    )
    return next(filter(None, found), None)


def token_estimate(text: str) -> int:
    """Roughly how many tokens a text has. Counts bytes: one Chinese character is nearly one token."""
    size = len(text) if text.isascii() else len(text.encode("utf-8", "replace"))
    return -(-size // CHARACTERS_PER_TOKEN)


# --- tables -------------------------------------------------------------------------------------------------


def format_table(df: Any, limit: int, title: str = "A table") -> str:
    """A DataFrame as text: its size, a line for each column, the first rows, and what was left out."""
    with warnings.catch_warnings(action="ignore"):  # a mean of infinities is NaN
        columns = [
            _column_summary(df.iloc[:, i], df.columns[i]) for i in range(min(df.shape[1], _TABLE_SIZES[0][1]))
        ]
    for row_count, column_count, width in _TABLE_SIZES:
        text = _format_table(df, title, columns[:column_count], row_count, width)
        if len(text) <= limit:
            return text
    return truncate(text, limit)


def _format_table(df: Any, title: str, columns: list[tuple[Any, ...]], rows: int, width: int) -> str:
    hidden = list(map(str, df.columns[len(columns) :]))
    text = [
        f"{title} of {plural(len(df), 'row')} and {plural(df.shape[1], 'column')}.",
        "",
        *_markdown_table(["column", "type", "missing", "values"], columns, width),
    ]
    if hidden:
        text.append(
            f"(and {plural(len(hidden), 'more column')}: "
            f"{', '.join(hidden[:20])}{', ...' if len(hidden) > 20 else ''})"
        )
    head = df.iloc[:rows, : len(columns)]
    if rows and len(df):
        text += [
            "",
            f"The first {len(head)} of {len(df):,} rows:" if len(df) > len(head) else "All rows:",
            "",
            *_markdown_table(
                [", ".join(str(n) for n in df.index.names if n is not None), *head.columns],
                zip(head.index, *(head.iloc[:, i] for i in range(head.shape[1])), strict=True),
                width,
            ),
        ]
    return "\n".join(text) + "\n"


def _column_summary(series: Any, name: Any) -> tuple[Any, ...]:
    """A column in a line: name, type, number of missing values, and its range or most common value."""
    dtype = f"{series.dtype.name}, ordered" if getattr(series.dtype, "ordered", False) else series.dtype
    return name, dtype, int(series.isna().sum()), _value_summary(series)


def _value_summary(series: Any) -> str:
    known = series.dropna()
    if not len(known):
        return "none"
    kind = getattr(series.dtype, "kind", "O")
    try:
        if not isinstance(known.iloc[0], Hashable):
            raise TypeError  # arrays would be counted element by element
        if kind in "iuf" or str(series.dtype) in ("Int64", "Float64"):
            return f"{_number(known.min())} to {_number(known.max())}, mean {_number(known.mean())}"
        if kind in "mM":
            return f"{known.min()} to {known.max()}"
        return _most_common(known.iloc[:_MAX_COUNTED].value_counts(), len(known))
    except Exception:  # noqa: BLE001 - not sortable or hashable: Arrow's lists, mappings
        return _most_common(known.iloc[:_MAX_COUNTED].map(_cell_text).value_counts(), len(known))


def _most_common(counts: Any, known: int) -> str:
    """How many distinct values there are, and the most common; of a category, those that occur."""
    counts = counts[counts > 0]
    common = _cell_text(counts.index[0])
    where = f" in the first {_MAX_COUNTED:,}" if known > _MAX_COUNTED else ""
    return (
        f"{len(counts):,} distinct{where}, most often "
        f"{common[:_MAX_COMMON]}{'...' if len(common) > _MAX_COMMON else ''} ({int(counts.iloc[0]):,})"
    )


def _cell_text(value: Any) -> str:
    """A cell as text; an array (Arrow's lists are arrays here) as a list."""
    return str(value.tolist() if hasattr(value, "dtype") and hasattr(value, "tolist") else value)


def _number(value: Any) -> str:
    return f"{int(value):,}" if float(value).is_integer() and abs(value) < 1e15 else f"{float(value):.4g}"


def _markdown_table(head: Iterable[Any], rows: Iterable[Iterable[Any]], width: int) -> list[str]:
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


# --- other types --------------------------------------------------------------------------------------------


def _array(array: Any, limit: int) -> str:
    return truncate(f"An array of shape {tuple(array.shape)} and type {array.dtype}:\n{array}", limit) + "\n"


def _arrow(table: Any, limit: int) -> str:
    """A table in Arrow's format, which pandas reads without copying."""
    import pandas as pd

    return format_table(table.to_pandas(types_mapper=pd.ArrowDtype), limit)


def _polars(df: Any, limit: int) -> str:
    """A table or a column of polars; as it prints itself where it cannot be converted to Arrow."""
    try:
        return _arrow((df.to_frame() if df.ndim == 1 else df).to_arrow(), limit)
    except Exception:  # noqa: BLE001 - without pyarrow, and for columns of Python objects
        return truncate(f"A table of shape {df.shape}:\n{df}", limit) + "\n"


def _source(display: Any, limit: int) -> str:
    """The source of an IPython display object: SVG, Markdown, HTML or LaTeX."""
    return truncate(str(display.data), limit)


def _collection(value: Any, limit: int) -> str:
    """A collection; complete if its class defines its own __str__."""
    has_own_str = any("__str__" in vars(kind) for kind in type(value).__mro__ if kind is not object)
    return str(value) if has_own_str else truncate(str(value), limit)


def plural(value: int | None, noun: str, *, estimated: bool = False) -> str:
    """A count with its noun in the right form: 1 turn, 2 turns, ≈ 1,000 turns, ? turns."""
    return f"{'≈ ' * estimated}{'?' if value is None else f'{value:,}'} {noun}{'s' * (value != 1)}"


def truncate(text: str, limit: int) -> str:
    """At most `limit` characters of a text, followed by a note on its full length; if it was truncated
    before, the length of the original."""
    if len(text) <= limit:
        return text
    earlier = _TRUNCATED.search(text[-100:])
    size = earlier[1] if earlier else f"{len(text):,}"
    return f"{text[:limit]}...\n(the first {limit:,} of {size} characters)"


_TRUNCATED = re.compile(r"\.\.\.\n\(the first [\d,]+ of ([\d,]+) characters\)\Z")


# By (package, class) name, so that no heavy package is imported for a prompt; subclasses are included.
FORMATTERS: dict[tuple[str, str], Callable[[Any, int], str]] = {
    ("pandas", "DataFrame"): format_table,
    ("pandas", "Series"): _series,
    ("polars", "DataFrame"): _polars,
    ("polars", "Series"): _polars,
    ("polars", "LazyFrame"): lambda df, limit: (  # is not computed for a prompt
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
    ("builtins", "list"): _collection,
    ("builtins", "dict"): _collection,
    ("builtins", "tuple"): _collection,
    ("builtins", "set"): _collection,
    ("builtins", "frozenset"): _collection,
    ("builtins", "bytes"): lambda value, limit: truncate(str(value), limit),
    ("builtins", "bytearray"): lambda value, limit: truncate(str(value), limit),
    ("collections", "deque"): _collection,
    ("nbllm", "NotebookTranscript"): lambda cells, limit: str(cells.text(limit)),
}


# --- images -------------------------------------------------------------------------------------------------


def render_image(name: str, value: Any) -> Image:
    """The image of a value. Raises ConfigError where it has none, cannot be drawn or is too large."""
    try:
        found = _image(value)
    except Exception as error:  # noqa: BLE001 - such as a figure's text that is not a valid formula
        raise ConfigError(
            f"The picture {name} cannot be drawn: {error_line(error)}.",
            hint="Show it in a cell of its own first.",
        ) from None
    if found is None:
        raise ConfigError(
            f"{name} is not an image.",
            hint="Pass a figure, or an object that is shown as an image in a cell.",
        )
    if len(found.data or b"") > FILE_SIZE_LIMIT:
        raise ConfigError(
            f"The picture {name} has {len(found.data or b'') / 2**20:.0f} MiB; "
            f"at most {FILE_SIZE_LIMIT >> 20} can be sent.",
            hint="Make it smaller, for example with image.thumbnail((1024, 1024)).",
        )
    return found


def is_drawable(value: Any) -> bool:
    """Whether a value is an image: nbllm's or IPython's Image, a figure, axes, the bytes of an image, or an
    object that is shown as an image in a cell."""
    return _figure(value) is not None or _image(value) is not None


def _image(value: Any) -> Image | None:
    if isinstance(value, Image):
        return value
    figure = _figure(value)
    if figure is not None:
        buffer = BytesIO()
        figure.savefig(buffer, format="png", dpi=min(150.0, figure.dpi), bbox_inches="tight")
        return Image(buffer.getvalue())
    found = to_bytes(value)
    if found is None and ("IPython", "Image") in _class_names(value):
        if value.data is None and value.url:
            return Image(url=value.url)
        found = to_bytes(value.data)
    found = next(filter(None, map(_image_bytes, [found, *_repr_images(value)])), None)
    return Image(found) if found else None


def _repr_images(value: Any) -> Iterator[Any]:
    """What a value's IPython display methods give as PNG or JPEG; nothing where they fail."""
    for name in ("_repr_png_", "_repr_jpeg_", "_repr_mimebundle_"):
        method = _method(value, name)
        if method is None:
            continue
        result = None
        with suppress(Exception):  # the user's own objects may raise anything
            result = method()
        result = result[0] if isinstance(result, tuple) and result else result
        if name != "_repr_mimebundle_":
            yield result
        elif isinstance(result, Mapping):
            yield from (result.get("image/png"), result.get("image/jpeg"))


def _method(value: Any, name: str) -> Callable[[], Any] | None:
    """A method that a value really has: None for objects that have every attribute (mocks), and for classes,
    whose methods are for their instances."""
    try:
        if isinstance(value, type) or getattr(value, "_nbllm_asks_for_no_such_name_", None) is not None:
            return None
        method = getattr(value, name, None)
    except Exception:  # noqa: BLE001 - the user's own objects may raise anything
        return None
    return method if callable(method) else None


def _image_bytes(found: Any) -> bytes | None:
    """The bytes of an image, given as bytes or base64; None for anything else."""
    if isinstance(found, str):  # IPython's own images give text
        with suppress(ValueError):
            found = b64decode(found)
    data = to_bytes(found)
    return data if data and picture_type(data) else None


def to_bytes(value: Any) -> bytes | None:
    """The bytes of a bytes-like value, None for any other."""
    if isinstance(value, BytesIO):
        return value.getvalue()
    return bytes(value) if isinstance(value, bytes | bytearray | memoryview) else None


def _class_names(value: Any) -> set[tuple[str, str]]:
    return {(k.__module__.partition(".")[0], k.__name__) for k in type(value).__mro__}


def _figure(value: Any) -> Any:
    """The matplotlib figure that a value is or belongs to; None for others. Does not import matplotlib."""
    names = _class_names(value)
    if ("matplotlib", "Figure") in names:
        return value
    return value.figure if ("matplotlib", "Axes") in names else None
