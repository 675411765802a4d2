"""Values on the line of a cell magic: quoted text, balanced brackets, or all up to the next white space.

Quotes may be typographic, as word processors and web pages have them.
"""

from __future__ import annotations

import re

from ...core.errors import ConfigError

_WORD = re.compile(r"\S*")
_QUOTED = {quote: re.compile(f"{quote}((?:[^{quote}]|{quote}{quote})*+){quote}") for quote in "\"'"}
_BRACKETS = re.compile(
    r'"(?:[^"\\]|\\.)*+(?:"|(?P<unclosed>))|[{}\[\]]'
)  # brackets inside JSON strings do not count
_CURLY = {"“": "”", "„": "“”", "”": "”", "«": "»", "»": "«", "‘": "’", "‚": "‘’", "’": "’"}  # and what closes
_BARE = re.compile(r"[{}\[\]]")


def fail(column: int, what: str, hint: str = "") -> ConfigError:
    """The error about what stands at `column`, counted from 0 here and from 1 in the message."""
    return ConfigError(f"Column {column + 1}: {what}{'' if what.endswith('?') else '.'}", hint=hint)


def end(pattern: re.Pattern[str], line: str, at: int) -> int:
    """Where `pattern` ends if it stands at `at`, else `at`."""
    match = pattern.match(line, at)
    return match.end() if match else at


def value(line: str, at: int) -> tuple[str, int, bool]:
    """(value, where it ends, whether it was quoted) of the value that starts at `at`."""
    first = line[at : at + 1]
    if first in _QUOTED:
        return _quoted(line, at, first)
    if first in ("{", "["):
        close = _balanced(line, at)
        if line[close : close + 1].strip():
            raise fail(close, "text right after a closing bracket", "Put a space there, or quote the value.")
        return line[at:close], close, False
    if first in _CURLY:
        match = re.compile(rf"(.*?)[{_CURLY[first]}](?!\S)").match(line, at + 1)
        if match is None:
            raise fail(at, f"the quote {first} is not closed", 'Close it, or write straight quotes: "text".')
        return match[1], match.end(), True
    close = end(_WORD, line, at)
    return line[at:close], close, False


def _quoted(line: str, at: int, quote: str) -> tuple[str, int, bool]:
    match = _QUOTED[quote].match(line, at)
    if not match:
        raise fail(
            at, f"the quote {quote} is not closed", "Close it, or start the value with the other quote."
        )
    if line[match.end() : match.end() + 1].strip():
        raise fail(
            match.end(),
            "text right after a closing quote",
            "Put a space there; a quote inside quotes is doubled.",
        )
    return match[1].replace(quote * 2, quote), match.end(), True


def _balanced(line: str, at: int) -> int:
    """Where the bracket at `at` closes."""
    depth, now, pattern = 0, at, _BRACKETS
    while match := pattern.search(line, now):
        if match.lastgroup:  # a quote that is never closed, and so none after it is
            now, pattern = match.start() + 1, _BARE
            continue
        now = match.end()
        depth += (match[0] in "{[") - (match[0] in "}]")
        if depth == 0:
            return now
    raise fail(at, f"the bracket {line[at]} is not closed", "Close it, or quote the value.")
