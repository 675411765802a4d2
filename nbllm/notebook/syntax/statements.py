"""Finds the lines of a cell that begin a statement: not those inside strings or brackets or after a
backslash.

Python's tokenizer cannot be used: the text after a magic (an apostrophe in a question) is not Python. This
scanner knows strings, comments and brackets, and skips lines that are magics.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

# Assignment targets that may precede a magic: names, items, several of them, with an annotation.
TARGETS = r"""(?:[\w.,(\[*](?:"[^"\n]*"|'[^'\n]*'|[^=%#"'\n])*+=\s*+)?+"""
_MAGIC = re.compile(rf"\s*{TARGETS}[%!?]")
_OPEN, _CLOSE = frozenset("([{"), frozenset(")]}")
_LEXEME = re.compile(r"""\#.*|\\\n|[([{]|[)\]}]|(?P<q>\"{3}|'{3}|["'])""")
_CLOSING = {q: re.compile(rf"(?:[^\\]|\\[\s\S])*?(?P<end>{q})") for q in ('"""', "'''", '"', "'")}


def statement_lines(lines: list[str]) -> set[int]:
    """The numbers of the lines that begin a statement, from 0."""
    found, state = set(), _State()
    for number, line in enumerate(lines):
        if state == _State():
            found.add(number)
            if _MAGIC.match(line):
                continue
        state = _state_after(line, state)
    return found


@dataclass(frozen=True, slots=True)
class _State:
    """What is open at the end of a line: a string, brackets, a backslash continuation."""

    quote: str = ""
    depth: int = 0
    is_continued: bool = False


def _state_after(line: str, state: _State) -> _State:
    at, quote, depth, is_continued = 0, state.quote, state.depth, False
    while match := (_CLOSING[quote].match if quote else _LEXEME.search)(line, at):
        at, text = match.end(), match[0]
        depth = max(0, depth + (not quote) * ((text in _OPEN) - (text in _CLOSE)))
        is_continued = not quote and text == "\\\n"
        quote = "" if quote else match["q"] or ""
    if len(quote) == 1 and not line.endswith("\\\n"):  # an unclosed single-line string
        quote = ""
    return _State(quote, depth, is_continued)
