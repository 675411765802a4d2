"""Models as they are shown: names that fit beside a figure, and a place in the palette for each."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable
from hashlib import sha256
from itertools import takewhile

COLOURS = 6  # that any kind of colour vision tells apart; beyond them markers and dashes do


def short_names(names: Iterable[str], width: int = 26) -> dict[str, str]:
    """A short name for each, no two alike: without the words that all begin with, shortened in the middle.

    Where some would look alike, the words that all end with go, too; what is alike then begins where it
    begins to differ, and what still is has a number.
    """
    given = list(dict.fromkeys(names))
    plain = ["".join(c if c.isprintable() else "\ufffd" for c in name) for name in given]
    if len(plain) > 1:  # parts of a path, and where they are too long, any words
        begin = _common_prefix_length(
            [n[:-1] for n in plain], r".*[-/:@ ]" if max(map(len, plain)) > width else ".*/"
        )
        plain = [name[begin:] for name in plain]
    if len({_shorten(name, width) for name in plain}) < len(plain):
        end = _common_prefix_length([n[:0:-1] for n in plain], r".*[-/:@, ]")
        plain = [name[:-end] + "…" if end else name for name in plain]
    fitted = [_shorten(name, width) for name in plain]
    double = {words for words, n in Counter(fitted).items() if n > 1}
    found: dict[str, str] = {}
    for name, usual, whole in zip(given, fitted, plain, strict=True):
        alike = [other for other, its in zip(plain, fitted, strict=True) if its == usual]
        stem = (
            _shorten("…" + whole[_common_prefix_length(alike, ".*") :], width) if usual in double else usual
        )
        words, number = stem, 2
        while words in found.values() or (usual in double and words in fitted):
            mark = f" ({number})"
            words, number = _shorten(stem, width - len(mark)) + mark, number + 1
        found[name] = words
    return found


def _common_prefix_length(names: list[str], whole: str) -> int:
    """How many characters, up to the end of `whole`, all names begin with."""
    pairs = zip(min(names), max(names), strict=False)
    found = re.match(whole, "".join(a for a, _ in takewhile(lambda pair: pair[0] == pair[1], pairs)))
    return len(found[0]) if found else 0


def _shorten(name: str, width: int) -> str:
    """The end says more than the beginning: sizes, dates and versions stand there."""
    if len(name) <= width:
        return name
    tail = (width - 1) * 3 // 5
    return f"{name[: width - 1 - tail]}…{name[-tail:]}"


def palette_positions(names: Iterable[str]) -> dict[str, int]:
    """A place in the palette for each, by its name alone, whatever the order; seldom another where other
    models are in the run. No two share one; those from COLOURS on share a colour, not a marker and a dash.
    """
    found: dict[str, int] = {}
    for name in sorted(dict.fromkeys(names), key=_digest):
        begin = len(found) // COLOURS * COLOURS
        free = set(range(begin, begin + COLOURS)) - set(found.values())
        found[name] = min(free, key=lambda place: _digest(f"{place % COLOURS} {name}"))
    return found


def _digest(words: str) -> bytes:
    return sha256(words.encode("utf-8", "surrogatepass")).digest()
