"""Values on the line of a cell magic: quoted text, balanced brackets, or everything up to the next space.

Typographic quotes, as word processors and web pages insert them, are accepted.
"""

from __future__ import annotations

import re

from ...core.errors import ConfigError

_WORD = re.compile(r"\S*")
_QUOTED = {quote: re.compile(f"{quote}((?:[^{quote}]|{quote}{quote})*+){quote}") for quote in "\"'"}
_BRACKETS = re.compile(
    r'"(?:[^"\\]|\\.)*+(?:"|(?P<unclosed>))|[{}\[\]]'
)  # brackets inside JSON strings do not count
_TYPOGRAPHIC = {
    "“": "”",
    "„": "“”",
    "”": "”",
    "«": "»",
    "»": "«",
    "‘": "’",
    "‚": "‘’",
    "’": "’",
}  # opening quote: closing quotes
_BARE = re.compile(r"[{}\[\]]")


def column_error(column: int, problem: str, hint: str = "") -> ConfigError:
    """A ConfigError whose message begins with the column; `column` counts from 0, the message from 1."""
    return ConfigError(f"Column {column + 1}: {problem}{'' if problem.endswith('?') else '.'}", hint=hint)


def match_end(pattern: re.Pattern[str], line: str, position: int) -> int:
    """The position where `pattern`, matched at `position`, ends; `position` itself if it does not match."""
    match = pattern.match(line, position)
    return match.end() if match else position


def read_value(line: str, start: int) -> tuple[str, int, bool]:
    """(value, end, whether it was quoted) of the value that starts at `start`."""
    first = line[start : start + 1]
    if first in _QUOTED:
        return _read_quoted(line, start, first)
    if first in ("{", "["):
        close = _bracket_end(line, start)
        if line[close : close + 1].strip():
            raise column_error(
                close, "text right after a closing bracket", "Put a space there, or quote the value."
            )
        return line[start:close], close, False
    if first in _TYPOGRAPHIC:
        match = re.compile(rf"(.*?)[{_TYPOGRAPHIC[first]}](?!\S)").match(line, start + 1)
        if match is None:
            raise column_error(
                start, f"the quote {first} is not closed", 'Close it, or write straight quotes: "text".'
            )
        return match[1], match.end(), True
    close = match_end(_WORD, line, start)
    return line[start:close], close, False


def _read_quoted(line: str, start: int, quote: str) -> tuple[str, int, bool]:
    match = _QUOTED[quote].match(line, start)
    if not match:
        raise column_error(
            start, f"the quote {quote} is not closed", "Close it, or start the value with the other quote."
        )
    if line[match.end() : match.end() + 1].strip():
        raise column_error(
            match.end(),
            "text right after a closing quote",
            "Put a space there; a quote inside quotes is doubled.",
        )
    return match[1].replace(quote * 2, quote), match.end(), True


def _bracket_end(line: str, start: int) -> int:
    """The position after the bracket that closes the one at `start`."""
    depth, position, pattern = 0, start, _BRACKETS
    while match := pattern.search(line, position):
        if match.lastgroup:  # an unclosed quote: from here on only brackets count
            position, pattern = match.start() + 1, _BARE
            continue
        position = match.end()
        depth += (match[0] in "{[") - (match[0] in "}]")
        if depth == 0:
            return position
    raise column_error(start, f"the bracket {line[start]} is not closed", "Close it, or quote the value.")
