"""Small tables of our own words and figures: tags that need no style, and Markdown as their text."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from html import escape

from .hidden import clean
from .static import Rendered

Row = Sequence[str]


def table(
    heads: Row, rows: Sequence[Row], *, figures: Collection[str] = (), best: Collection[str] = ()
) -> Rendered:
    """A table in both forms. figures: the heads of the columns that stand to the right. best: the cells that
    are marked, as "row,column"."""
    right = [head in figures for head in heads]
    marked = [[f"{i},{j}" in best for j in range(len(heads))] for i in range(len(rows))]
    texts = [[" ".join(clean(cell).split()) for cell in row] for row in (heads, *rows)]
    body = [
        [
            f"<b>{escape(c, quote=False)}</b>" if b else escape(c, quote=False)
            for c, b in zip(*pair, strict=True)
        ]
        for pair in zip(texts[1:], marked, strict=True)
    ]
    lines = [[escape(c, quote=False) for c in texts[0]], *body]
    html = [_row("td" if i else "th", line, right) for i, line in enumerate(lines)]
    return Rendered(
        f"<table>\n<thead>{html[0]}</thead>\n<tbody>{''.join(html[1:])}</tbody>\n</table>\n",
        _markdown(texts, right),
    )


def _row(tag: str, cells: Row, right: Sequence[bool]) -> str:
    sides = (f"<{tag}{' align=right' if r else ''}>{c}</{tag}>" for c, r in zip(cells, right, strict=True))
    return f"<tr>{''.join(sides)}</tr>\n"


def _markdown(texts: Sequence[Row], right: Sequence[bool]) -> str:
    """The same in Markdown, its columns in line."""
    cells = [[c.replace("|", "\\|") for c in row] for row in texts]
    wide = [max(3, *(len(row[j]) for row in cells)) for j in range(len(right))]
    rule = [f"{'-' * (w - 1)}:" if r else "-" * w for w, r in zip(wide, right, strict=True)]
    sides = (
        [c.rjust(w) if r else c.ljust(w) for c, w, r in zip(row, wide, right, strict=True)]
        for row in (cells[0], rule, *cells[1:])
    )
    return "\n".join(f"| {' | '.join(row)} |" for row in sides)
