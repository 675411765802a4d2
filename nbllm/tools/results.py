"""What a call came to, as a model reads it: a function's value within a budget of tokens, or why there is
none, in one line."""

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
    CHARACTERS,
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
NOTHING = "done (nothing returned)"
_ITEMS = 1_000  # of an iterator, which may have no end
_PICTURES = 100  # items of a list that are looked at for pictures
_LINE = 2_000  # characters of an error that a model is told
_OURS = str(Path(__file__).parent.parent)
_OTHERS = tuple({*(sysconfig.get_path(p) for p in ("stdlib", "purelib", "platlib")), _OURS, "<frozen"})


def failure(call: ToolCall, reason: str | BaseException) -> ToolResult:
    """The result of a call that came to nothing: `reason` in words, or what the code raised."""
    text = reason if isinstance(reason, str) else failed(reason)
    return ToolResult(call.id, truncate(_writable(text), _LINE), is_error=True, name=call.name)


def failed(error: BaseException) -> str:
    """An exception in one line: failed: KeyError: 'x' (line 3 of price). Of a group its first."""
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    if isinstance(error, NbllmError):
        return error.message if isinstance(error, ToolArgumentsError) else f"failed: {error.message}"
    place = _place(error)
    return f"failed: {error_line(error)}{f' ({place})' if place else ''}"


def _place(error: BaseException) -> str:
    """The line of the user's own code in which it was raised, counted from the start of its function; "" for
    none."""
    frames = [(f.f_code, line) for f, line in traceback.walk_tb(error.__traceback__)]
    own = [(code, line) for code, line in frames if not code.co_filename.startswith(_OTHERS)]
    if not own:
        return ""
    code, line = own[-1]
    name = "" if code.co_name == "<module>" else f" of {code.co_name}"
    return f"line {line - max(code.co_firstlineno, 1) + 1}{name}"


def content(value: Any, budget: int = DEFAULT_BUDGET) -> Content:
    """A value as a model reads it: text as it is, numbers, lists, mappings, dataclasses and pydantic's models
    as JSON, tables and arrays as prompts show them, pictures for what draws itself. A list that holds
    pictures becomes one part for each of its items. What does not fit the budget is cut, and that is said.
    Of what cannot be shown that is said, and why: the call itself has had its effect. Raises what an iterator
    raises, whose code runs only here."""
    value = _collected(value)
    try:
        return _shown(value, budget)
    except Exception as exc:  # noqa: BLE001 - the value's own methods may raise anything
        why = exc.message.removesuffix(".") if isinstance(exc, NbllmError) else error_line(exc)
        return _writable(truncate(f"done, but what it returned cannot be shown: {why}", _LINE))


def _shown(value: Any, budget: int) -> Content:
    if isinstance(value, (list, tuple)) and len(value) <= _PICTURES and any(map(_is_part, value)):
        share = max(1, budget // len(value))
        return tuple(part for item in value for part in _parts(item, share))
    parts = tuple(_parts(value, budget))
    return parts[0].text if isinstance(parts[0], Text) else parts


def _collected(value: Any) -> Any:
    """What an iterator gives (rows of a cursor, a generator's values), the first of it, as a list."""
    if not isinstance(value, Iterator) or to_bytes(value) is not None:
        return value
    found = list(islice(value, _ITEMS + 1))
    return found if len(found) <= _ITEMS else [*found[:_ITEMS], f"(more than {_ITEMS:,} items)"]


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
        yield Text(_writable(_text(value, budget)))


def _binary(data: bytes, budget: int) -> Text | Image | Document:
    if picture_type(data) is not None:
        return Image(data)
    if data.startswith(b"%PDF"):
        return Document(data)
    try:
        return Text(truncate(data.decode(), budget * CHARACTERS))
    except UnicodeDecodeError:
        return Text(f"({plural(len(data), 'byte')}, no text)")


def _text(value: Any, budget: int) -> str:
    limit = budget * CHARACTERS
    if value is None:
        return NOTHING
    if isinstance(value, BaseException):
        return truncate(error_line(value), limit)
    value = _bare(value)
    if not _is_json(value):
        return format_value(value, budget=budget) if find_formatter(value) else truncate(str(value), limit)
    try:
        return truncate(json.dumps(value, ensure_ascii=False, default=_plain), limit)
    except (TypeError, ValueError, RecursionError):  # keys that JSON has not, a value that holds itself
        return truncate(repr(value), limit)


def _bare(value: Any) -> Any:
    """The value in an Enum, a Text, or a number of numpy; its times, of which it makes counts, and what is
    masked, of which it makes 0, as it writes them."""
    if isinstance(value, Enum):
        return value.value
    if isinstance(value, Text):
        return value.text
    if not hasattr(value, "item") or getattr(value, "shape", None) != ():
        return value
    written = getattr(value.dtype, "kind", "") in "mM" or hasattr(value, "mask")
    return str(value) if written else value.item()


def _is_json(value: Any) -> bool:
    return isinstance(value, (bool, int, float, list, tuple, Mapping, Set)) or _has_fields(value)


def _has_fields(value: Any) -> bool:
    return not isinstance(value, type) and (hasattr(value, "model_dump") or dataclasses.is_dataclass(value))


def _plain(value: Any) -> Any:
    """What JSON writes for a value that it does not know."""
    if (bare := _bare(value)) is not value:
        return bare
    if hasattr(value, "model_dump"):
        return value.model_dump(mode="json")
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {f.name: getattr(value, f.name) for f in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return dict(value)
    return sorted(value, key=repr) if isinstance(value, Set) else format_value(value)


def _writable(text: str) -> str:
    """Without halves of characters, which no provider takes."""
    return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")
