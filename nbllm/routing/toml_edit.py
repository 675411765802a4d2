"""Finds lines in hand-written TOML files, and sets one entry without changing the rest."""

from __future__ import annotations

import contextlib
import json
import re
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ..core.errors import ConfigError
from .files import file_lock, read_small_file, write_atomic


def locate_toml_error(error: tomllib.TOMLDecodeError, text: str) -> tuple[int, str]:
    """(line, message) of a syntax error in TOML."""
    match = re.search(r"\s*\(at line (\d+), column \d+\)", str(error))
    if match:
        line, message = int(match[1]), str(error).replace(match[0], "")
    else:
        line = text.count("\n") + 1
        message = str(error).replace(" (at end of document)", " before the end of the file")
    return line, f'{message}; expected TOML, such as name = "value"'


def _parse_header(line: str) -> tuple[str, ...]:
    """The names in a table's header; () for any other line."""
    match = re.fullmatch(r"\s*\[([^\[\]]+)\]\s*(?:#.*)?", line)
    return (
        tuple(n.strip().strip("\"'") for n in re.findall(r"\"[^\"]*\"|'[^']*'|[^.\"']+", match[1]))
        if match
        else ()
    )


def _entry_name(line: str) -> str:
    """The first name in the line of an entry; "" for any other line."""
    match = re.match(r"\s*(\"[^\"]*\"|'[^']*'|[\w-]+)\s*[.=]", line)
    return match[1].strip("\"'") if match else ""


def row_line(text: str, name: str, entry: str = "") -> int | None:
    """The line of an entry in the table whose last name is `name`, else that of the table itself: its header,
    the first header that contains its name, or its line where it is an inline table. None for none."""
    lines = text.split("\n")
    headers = [(number, names) for number, line in enumerate(lines, 1) if (names := _parse_header(line))]
    own = next((n for n, names in headers if names[-1] == name), None)
    subtable = next((n for n, names in headers if entry and names[-1] == entry and name in names), None)
    containing = next((n for n, names in headers if name in names), None)
    inline = next((n for n, line in enumerate(lines, 1) if _entry_name(line) == name), None)
    in_own = None
    if own is not None and entry:
        end = next((n for n, _ in headers if n > own), len(lines) + 1)
        in_own = next((n for n in range(own + 1, end) if _entry_name(lines[n - 1]) == entry), None)
    return next((n for n in (in_own, subtable, own, containing, inline) if n is not None), None)


def set_entry(path: Path, table: str, key: str, value: Any) -> None:
    """Sets `key` in `[table]` of the file to a text or a list of texts. Raises what change_entry raises."""
    change_entry(path, table, key, lambda _before: value)


def change_entry(path: Path, table: str, key: str, change: Callable[[Any], Any]) -> None:
    """Sets `key` in `[table]` of the file to `change(value)`, where value is the current one (None for none),
    and leaves every other line as it is; one writer at a time. Raises ConfigError where the file is invalid,
    can only be edited by hand, or cannot be written."""
    with contextlib.suppress(OSError):
        path = path.resolve(strict=True)
    try:
        with file_lock(path):
            write_atomic(path, _edit(path, table, key, change))
    except (OSError, UnicodeError) as error:
        raise ConfigError(
            f"{path} cannot be written ({getattr(error, 'strerror', None) or error}).",
            hint="Check the folder and its permissions, and try again.",
        ) from None


def _edit(path: Path, table: str, key: str, change: Callable[[Any], Any]) -> str:
    text = read_small_file(path) if path.exists() else ""
    try:
        data = tomllib.loads(text)
        before = dict(data.get(table, {}))
    except (ValueError, TypeError, RecursionError):
        data, before = None, {}
    value = change(before.get(key))
    new = _with_entry(text, table, key, value) if data is not None else ""
    if data is None or tomllib.loads(new) != {**data, table: {**before, key: value}}:
        line = f"{json.dumps(key, ensure_ascii=False)} = {json.dumps(value, ensure_ascii=False)}"
        raise ConfigError(
            f"nbllm cannot edit {path} in its present form.",
            hint=f"Edit it by hand: under [{table}], write {line}",
        )
    return new


def _with_entry(text: str, table: str, key: str, value: Any) -> str:
    """The text with the entry, "" where tomlkit cannot set it."""
    import tomlkit
    from tomlkit.exceptions import TOMLKitError

    try:
        document = tomlkit.parse(text)
        if table not in document:
            document[table] = tomlkit.table()
        document[table][key] = value
        return tomlkit.dumps(document)
    except (TOMLKitError, ValueError, TypeError, LookupError, AttributeError, RecursionError):
        return ""
