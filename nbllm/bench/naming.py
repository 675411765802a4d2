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
    unique = list(dict.fromkeys(names))
    parts = ["".join(c if c.isprintable() else "\ufffd" for c in name) for name in unique]
    if len(parts) > 1:  # parts of a path, and where they are too long, any words
        prefix = _common_prefix_length(
            [n[:-1] for n in parts], r".*[-/:@ ]" if max(map(len, parts)) > width else ".*/"
        )
        parts = [name[prefix:] for name in parts]
    if len({_shorten(name, width) for name in parts}) < len(parts):
        suffix = _common_prefix_length([n[:0:-1] for n in parts], r".*[-/:@, ]")
        parts = [name[:-suffix] + "…" if suffix else name for name in parts]
    shortened = [_shorten(name, width) for name in parts]
    duplicates = {candidate for candidate, n in Counter(shortened).items() if n > 1}
    result: dict[str, str] = {}
    for name, short, full in zip(unique, shortened, parts, strict=True):
        similar = [other for other, other_short in zip(parts, shortened, strict=True) if other_short == short]
        stem = (
            _shorten("…" + full[_common_prefix_length(similar, ".*") :], width)
            if short in duplicates
            else short
        )
        candidate, number = stem, 2
        while candidate in result.values() or (short in duplicates and candidate in shortened):
            mark = f" ({number})"
            candidate, number = _shorten(stem, width - len(mark)) + mark, number + 1
        result[name] = candidate
    return result


def _common_prefix_length(names: list[str], pattern: str) -> int:
    """How many characters, up to the end of `whole`, all names begin with."""
    pairs = zip(min(names), max(names), strict=False)
    match = re.match(pattern, "".join(a for a, _ in takewhile(lambda pair: pair[0] == pair[1], pairs)))
    return len(match[0]) if match else 0


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
    positions: dict[str, int] = {}
    for name in sorted(dict.fromkeys(names), key=_digest):
        first = len(positions) // COLOURS * COLOURS
        free = set(range(first, first + COLOURS)) - set(positions.values())
        positions[name] = min(free, key=lambda position: _digest(f"{position % COLOURS} {name}"))
    return positions


def _digest(words: str) -> bytes:
    return sha256(words.encode("utf-8", "surrogatepass")).digest()
