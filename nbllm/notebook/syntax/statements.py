"""Which lines of a cell begin a statement: none within a string, brackets or after a backslash.

The tokenizer of Python will not do: what stands behind a magic (an apostrophe in a question) is no Python. So
this knows strings, comments and brackets, and leaves lines alone that are magics.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

# What may stand before a magic: a name, an item, several of them, with an annotation.
TARGETS = r"""(?:[\w.,(\[*](?:"[^"\n]*"|'[^'\n]*'|[^=%#"'\n])*+=\s*+)?+"""
_MAGIC = re.compile(rf"\s*{TARGETS}[%!?]")
_OPEN, _CLOSE = frozenset("([{"), frozenset(")]}")
_LEXEME = re.compile(r"""\#.*|\\\n|[([{]|[)\]}]|(?P<q>\"{3}|'{3}|["'])""")
_CLOSING = {q: re.compile(rf"(?:[^\\]|\\[\s\S])*?(?P<end>{q})") for q in ('"""', "'''", '"', "'")}


def statement_lines(lines: list[str]) -> set[int]:
    """The numbers of those lines, from 0."""
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
    """What is open at the end of a line: a string, brackets, the line itself (by a backslash)."""

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
    if len(quote) == 1 and not line.endswith("\\\n"):  # a string of one line that nobody closed
        quote = ""
    return _State(quote, depth, is_continued)
