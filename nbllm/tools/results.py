"""Results of tools for the model: a function's value within a budget of tokens, or one line that says why
there is none."""

from __future__ import annotations

import dataclasses
import json
import sysconfig
import traceback
from collections.abc import Iterator, Mapping, Set
from enum import Enum
from itertools import islice
from pathlib import Path
from typing import Any

from ..core.errors import NbllmError, error_line
from ..core.messages import Document, Image, Text, ToolCall, ToolResult, picture_type
from ..core.values import (
    CHARACTERS_PER_TOKEN,
    DEFAULT_BUDGET,
    find_formatter,
    format_value,
    is_drawable,
    plural,
    render_image,
    to_bytes,
    truncate,
)
from .usable import ToolArgumentsError

Content = str | tuple[Text | Image | Document, ...]
NO_VALUE = "done (nothing returned)"
_MAX_ITEMS = 1_000  # of an iterator, which may be endless
_MAX_PICTURES = 100  # items of a list that are searched for images
_MAX_ERROR = 2_000  # characters of an error that the model reads
_OWN_PATH = str(Path(__file__).parent.parent)
_LIBRARY_PATHS = tuple(
    {*(sysconfig.get_path(p) for p in ("stdlib", "purelib", "platlib")), _OWN_PATH, "<frozen"}
)


def error_result(call: ToolCall, reason: str | BaseException) -> ToolResult:
    """The result of a call without a value. reason: a text, or the exception that the code raised."""
    text = reason if isinstance(reason, str) else describe_error(reason)
    return ToolResult(call.id, truncate(_replace_surrogates(text), _MAX_ERROR), is_error=True, name=call.name)


def describe_error(error: BaseException) -> str:
    """An exception in one line: failed: KeyError: 'x' (line 3 of price). Of a group the first."""
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    if isinstance(error, NbllmError):
        return error.message if isinstance(error, ToolArgumentsError) else f"failed: {error.message}"
    location = _location(error)
    return f"failed: {error_line(error)}{f' ({location})' if location else ''}"


def _location(error: BaseException) -> str:
    """The line of the user's code that raised it, counted from the start of its function; "" where none
    did."""
    frames = [(f.f_code, line) for f, line in traceback.walk_tb(error.__traceback__)]
    own = [(code, line) for code, line in frames if not code.co_filename.startswith(_LIBRARY_PATHS)]
    if not own:
        return ""
    code, line = own[-1]
    name = "" if code.co_name == "<module>" else f" of {code.co_name}"
    return f"line {line - max(code.co_firstlineno, 1) + 1}{name}"


def to_content(value: Any, budget: int = DEFAULT_BUDGET) -> Content:
    """Converts a value for the model: text unchanged; numbers, lists, mappings, dataclasses and pydantic
    models as JSON; tables and arrays as in prompts; figures as images. A list with images becomes one part
    for each item. What exceeds the budget is cut, with a note. A value that cannot be converted is replaced
    by the reason, since the call itself took effect. Raises the exception of an iterator, whose code runs
    only here."""
    value = _take_items(value)
    try:
        return _convert(value, budget)
    except Exception as exc:  # noqa: BLE001 - the value's methods may raise anything
        why = exc.message.removesuffix(".") if isinstance(exc, NbllmError) else error_line(exc)
        return _replace_surrogates(truncate(f"done, but what it returned cannot be shown: {why}", _MAX_ERROR))


def _convert(value: Any, budget: int) -> Content:
    if isinstance(value, (list, tuple)) and len(value) <= _MAX_PICTURES and any(map(_is_part, value)):
        share = max(1, budget // len(value))
        return tuple(part for item in value for part in _parts(item, share))
    parts = tuple(_parts(value, budget))
    return parts[0].text if isinstance(parts[0], Text) else parts


def _take_items(value: Any) -> Any:
    """The first items of an iterator (rows of a cursor, a generator's values) as a list; others unchanged."""
    if not isinstance(value, Iterator) or to_bytes(value) is not None:
        return value
    items = list(islice(value, _MAX_ITEMS + 1))
    return items if len(items) <= _MAX_ITEMS else [*items[:_MAX_ITEMS], f"(more than {_MAX_ITEMS:,} items)"]


def _is_part(value: Any) -> bool:
    return isinstance(value, (Text, Image, Document)) or is_drawable(value)


def _parts(value: Any, budget: int) -> Iterator[Text | Image | Document]:
    if isinstance(value, (Image, Document)):
        yield value
    elif (data := to_bytes(value)) is not None:
        yield _binary(data, budget)
    elif find_formatter(value) is None and is_drawable(value):
        yield render_image("that was returned", value)
    else:
        yield Text(_replace_surrogates(_text(value, budget)))


def _binary(data: bytes, budget: int) -> Text | Image | Document:
    if picture_type(data) is not None:
        return Image(data)
    if data.startswith(b"%PDF"):
        return Document(data)
    try:
        return Text(truncate(data.decode(), budget * CHARACTERS_PER_TOKEN))
    except UnicodeDecodeError:
        return Text(f"({plural(len(data), 'byte')}, no text)")


def _text(value: Any, budget: int) -> str:
    limit = budget * CHARACTERS_PER_TOKEN
    if value is None:
        return NO_VALUE
    if isinstance(value, BaseException):
        return truncate(error_line(value), limit)
    value = _unwrap(value)
    if not _is_json(value):
        return format_value(value, budget=budget) if find_formatter(value) else truncate(str(value), limit)
    try:
        return truncate(json.dumps(value, ensure_ascii=False, default=_json_default), limit)
    except (TypeError, ValueError, RecursionError):  # keys that JSON does not allow, a recursive value
        return truncate(repr(value), limit)


def _unwrap(value: Any) -> Any:
    """The value of an Enum, a Text or a numpy scalar; numpy's times and masked values as text, since `item()`
    would make counts and 0 of them."""
    if isinstance(value, Enum):
        return value.value
    if isinstance(value, Text):
        return value.text
    if not hasattr(value, "item") or getattr(value, "shape", None) != ():
        return value
    written = getattr(value.dtype, "kind", "") in "mM" or hasattr(value, "mask")
    return str(value) if written else value.item()


def _is_json(value: Any) -> bool:
    return isinstance(value, (bool, int, float, list, tuple, Mapping, Set)) or (
        not isinstance(value, type) and (hasattr(value, "model_dump") or dataclasses.is_dataclass(value))
    )


def _json_default(value: Any) -> Any:
    """Converts a value that `json` does not know."""
    if (bare := _unwrap(value)) is not value:
        return bare
    if hasattr(value, "model_dump"):
        return value.model_dump(mode="json")
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {f.name: getattr(value, f.name) for f in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return dict(value)
    return sorted(value, key=repr) if isinstance(value, Set) else format_value(value)


def _replace_surrogates(text: str) -> str:
    """Replaces lone surrogates, which no provider accepts."""
    return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")
