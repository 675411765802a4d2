"""Short names of models for figures and tables, and their positions in the palette."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable
from hashlib import sha256
from itertools import takewhile

COLOURS = 6  # distinguishable with any kind of colour vision; beyond them, markers and dashes differ


def short_names(names: Iterable[str], width: int = 26) -> dict[str, str]:
    """A short, unique name for each: without the words that all names begin with, shortened in the middle.

    Where some would be equal, the words that all names end with are removed too; then equal names begin where
    they start to differ, and what is still equal gets a number.
    """
    unique = list(dict.fromkeys(names))
    parts = ["".join(c if c.isprintable() else "\ufffd" for c in name) for name in unique]
    if len(parts) > 1:  # the shared part ends at a "/", and if names are too long at any word boundary
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
    """The length of the prefix that all names share, up to the end of a match of `pattern`."""
    pairs = zip(min(names), max(names), strict=False)
    match = re.match(pattern, "".join(a for a, _ in takewhile(lambda pair: pair[0] == pair[1], pairs)))
    return len(match[0]) if match else 0


def _shorten(name: str, width: int) -> str:
    """A name shortened in the middle; more of the end stays, where sizes, dates and versions are."""
    if len(name) <= width:
        return name
    tail = (width - 1) * 3 // 5
    return f"{name[: width - 1 - tail]}…{name[-tail:]}"


def palette_positions(names: Iterable[str]) -> dict[str, int]:
    """A position in the palette for each model, from its name alone, whatever the order; it seldom changes
    with the other models of a run. No two models share a position; those from COLOURS on share a colour, but
    not marker and dash."""
    positions: dict[str, int] = {}
    for name in sorted(dict.fromkeys(names), key=_digest):
        first = len(positions) // COLOURS * COLOURS
        free = set(range(first, first + COLOURS)) - set(positions.values())
        positions[name] = min(free, key=lambda position: _digest(f"{position % COLOURS} {name}"))
    return positions


def _digest(text: str) -> bytes:
    return sha256(text.encode("utf-8", "surrogatepass")).digest()
