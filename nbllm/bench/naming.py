"""Names of models as they fit beside a figure: without what all have in common, shortened in the middle, each
still its own."""

from __future__ import annotations

from collections.abc import Iterable


def short_names(names: Iterable[str], width: int = 26) -> dict[str, str]:
    """A short name for each, no two alike. The parts before the last slash that all share are left out."""
    given = list(dict.fromkeys(names))
    parts = [name.split("/") for name in given]
    common = 0
    while len(given) > 1 and all(len(p) > common + 1 and p[common] == parts[0][common] for p in parts):
        common += 1
    found: dict[str, str] = {}
    for name, part in zip(given, parts, strict=True):
        plain = "".join(c if c.isprintable() else "\ufffd" for c in "/".join(part[common:]))
        words, number = _fitted(plain, width), 2
        while words in found.values():
            mark = f" ({number})"
            words, number = _fitted(plain, width - len(mark)) + mark, number + 1
        found[name] = words
    return found


def _fitted(name: str, width: int) -> str:
    """The end says more than the beginning: sizes, dates and versions stand there."""
    if len(name) <= width:
        return name
    tail = (width - 1) * 3 // 5
    return f"{name[: width - 1 - tail]}…{name[-tail:]}"
