"""TOML files as people wrote them: at which line something stands, and one entry set without touching the
rest."""

from __future__ import annotations

import contextlib
import json
import re
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ..core.errors import ConfigError
from .files import locked, read_small, write_whole


def at_line(error: tomllib.TOMLDecodeError, text: str) -> tuple[int, str]:
    """(line, what is wrong there) of a file that is no TOML."""
    found = re.search(r"\s*\(at line (\d+), column \d+\)", str(error))
    words = (
        str(error).replace(found[0], "")
        if found
        else str(error).replace(" (at end of document)", " before the end of the file")
    )
    return (
        int(found[1]) if found else text.count("\n") + 1
    ), f'{words}; expected TOML, such as name = "value"'


def _header(line: str) -> tuple[str, ...]:
    """The names in a table's header, () for another line."""
    match = re.fullmatch(r"\s*\[([^\[\]]+)\]\s*(?:#.*)?", line)
    return (
        tuple(n.strip().strip("\"'") for n in re.findall(r"\"[^\"]*\"|'[^']*'|[^.\"']+", match[1]))
        if match
        else ()
    )


def _entry(line: str) -> str:
    """The first name of an entry's line, "" for another line."""
    match = re.match(r"\s*(\"[^\"]*\"|'[^']*'|[\w-]+)\s*[.=]", line)
    return match[1].strip("\"'") if match else ""


def row_line(text: str, name: str, entry: str = "") -> int | None:
    """The line of an entry in the table that is called `name` at last, else that of the table itself: its
    header, the first header it stands in, or the line where it is written inline. None where there is none of
    them."""
    lines = text.split("\n")
    headers = [(number, names) for number, line in enumerate(lines, 1) if (names := _header(line))]
    own = next((n for n, names in headers if names[-1] == name), None)
    sub = next((n for n, names in headers if entry and names[-1] == entry and name in names), None)
    within = next((n for n, names in headers if name in names), None)
    inline = next((n for n, line in enumerate(lines, 1) if _entry(line) == name), None)
    end = next((n for n, _ in headers if own is not None and n > own), len(lines) + 1)
    mine = (
        next((n for n in range(own + 1, end) if entry and _entry(lines[n - 1]) == entry), None)
        if own is not None
        else None
    )
    return next((n for n in (mine, sub, own, within, inline) if n is not None), None)


def set_entry(path: Path, table: str, key: str, value: Any) -> None:
    """Sets `key` in `[table]` of the file to a text or a list of texts. Raises as change_entry."""
    change_entry(path, table, key, lambda _before: value)


def change_entry(path: Path, table: str, key: str, change: Callable[[Any], Any]) -> None:
    """Sets `key` in `[table]` of the file to what `change` makes of its value (None for none), and leaves
    every other line as it is; one writer at a time. Raises ConfigError where the file is broken, is written
    so that only a person can edit it, or cannot be written."""
    with contextlib.suppress(OSError):
        path = path.resolve(strict=True)
    try:
        with locked(path):
            write_whole(path, _edited(path, table, key, change))
    except (OSError, UnicodeError) as error:
        raise ConfigError(
            f"{path} cannot be written ({getattr(error, 'strerror', None) or error}).",
            hint="Check the folder and its permissions, and try again.",
        ) from None


def _edited(path: Path, table: str, key: str, change: Callable[[Any], Any]) -> str:
    text = read_small(path) if path.exists() else ""
    try:
        found = tomllib.loads(text)
        before = dict(found.get(table, {}))
    except (ValueError, TypeError, RecursionError):
        found, before = None, {}
    value = change(before.get(key))
    new = _with_entry(text, table, key, value) if found is not None else ""
    if found is None or tomllib.loads(new) != {**found, table: {**before, key: value}}:
        line = f"{json.dumps(key, ensure_ascii=False)} = {json.dumps(value, ensure_ascii=False)}"
        raise ConfigError(
            f"{path} cannot be edited by nbllm as it stands.",
            hint=f"Write it there yourself, under [{table}]: {line}",
        )
    return new


def _with_entry(text: str, table: str, key: str, value: Any) -> str:
    """The text with the entry, "" where tomlkit cannot say it."""
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
