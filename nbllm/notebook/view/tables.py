"""Small tables of our own text and figures: HTML without styles, and Markdown as the text form."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from html import escape

from .hidden import clean
from .static import Rendered

Row = Sequence[str]
Position = tuple[int, int]  # row and column, from 0


def render_table(
    headings: Row, rows: Sequence[Row], *, numeric: Collection[str] = (), best: Collection[Position] = ()
) -> Rendered:
    """A table as HTML and text. numeric: the headings of right-aligned columns. best: the cells to mark."""
    right = [head in numeric for head in headings]
    cells = [[" ".join(clean(cell).split()) for cell in row] for row in (headings, *rows)]
    lines = [
        "".join(_cell("td" if i else "th", cell, r, (i - 1, j) in best) for j, (cell, r) in enumerate(pairs))
        for i, pairs in enumerate(zip(row, right, strict=True) for row in cells)
    ]
    head, *body = (f"<tr>{line}</tr>\n" for line in lines)
    marked = [[f"**{c}**" if (i - 1, j) in best else c for j, c in enumerate(r)] for i, r in enumerate(cells)]
    return Rendered(
        f"<table>\n<thead>{head}</thead>\n<tbody>{''.join(body)}</tbody>\n</table>\n",
        _markdown(marked, right),
    )


def _cell(tag: str, text: str, right: bool, best: bool) -> str:
    words = escape(text, quote=False)
    return f"<{tag}{' align=right' * right}>{f'<b>{words}</b>' if best else words}</{tag}>"


def _markdown(texts: Sequence[Row], right: Sequence[bool]) -> str:
    """The table in Markdown with aligned columns."""
    cells = [[c.replace("|", "\\|") for c in row] for row in texts]
    wide = [max(3, *(len(row[j]) for row in cells)) for j in range(len(right))]
    rule = [f"{'-' * (w - 1)}:" if r else "-" * w for w, r in zip(wide, right, strict=True)]
    sides = (
        [c.rjust(w) if r else c.ljust(w) for c, w, r in zip(row, wide, right, strict=True)]
        for row in (cells[0], rule, *cells[1:])
    )
    return "\n".join(f"| {' | '.join(row)} |" for row in sides)
