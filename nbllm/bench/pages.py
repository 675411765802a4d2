"""The HTML page of a report: its style, its tables and the format of numbers.

Nothing is wider than the screen: cells are narrow (details of a number are below it), and on a phone each row
is a card. Long tables are folded.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from typing import Any, NamedTuple

from .summaries import HIGHER_IS_BETTER, LABELS, UNITS

STYLE = """
:root{color-scheme:light dark;--ink:#1c1c1e;--dim:#5f5f66;--line:#e2e2e6;--page:#fff;--veil:#f6f6f8;
--good:#146c3e;--bad:#a63423}
@media(prefers-color-scheme:dark){:root{--ink:#e8e8ea;--dim:#a4a4ac;--line:#333338;--page:#111;--veil:#1d1d20;
--good:#4cc38a;--bad:#ef8a76}}
*{box-sizing:border-box}body{margin:0;background:var(--page);color:var(--ink);overflow-wrap:anywhere;
font:16px/1.6 system-ui,-apple-system,"Segoe UI",Roboto,sans-serif}
main{max-width:72rem;margin:0 auto;padding:3rem 1.5rem 5rem}h1{font-size:1.9rem;line-height:1.2;
margin:0 0 .4rem}h2{font-size:1.25rem;margin:2.6rem 0 .6rem}
p,li{max-width:46rem}.dim,caption,figcaption,small{color:var(--dim)}.lead{font-size:1.1rem}
table{border-collapse:collapse;margin:.8rem 0 1.2rem;font-variant-numeric:tabular-nums;font-size:.9rem}
th,td{padding:.35rem .7rem;border-bottom:1px solid var(--line);text-align:right;vertical-align:top;
line-height:1.4;overflow-wrap:break-word}td.weak.t{overflow-wrap:anywhere;min-width:9em}
th{font-weight:600;border-bottom-width:2px;vertical-align:bottom}small{display:block;font-size:.85em}
th:first-child,td:first-child,td.t,th.t{text-align:left}
.weak{color:var(--dim)}.good{color:var(--good);font-weight:600}.bad{color:var(--bad);font-weight:600}
.matrix :is(th,td){padding:.2rem 0;width:1.7em;text-align:center}
.matrix td.name{width:auto;padding-right:1em;white-space:nowrap}
figure{margin:1rem 0 1.6rem}img{max-width:100%;height:auto;border-radius:6px}
code{background:var(--veil);padding:.1em .3em;border-radius:3px}summary{cursor:pointer;padding:.3rem 0}
.box{background:var(--veil);border-radius:8px;padding:.8rem 1.1rem;max-width:46rem}
@media(max-width:62rem){main{padding:1.5rem 1rem 3rem}h1{font-size:1.5rem}
table:not(.matrix),.cards :is(tbody,tr,td){display:block}.cards thead{display:none}
.cards tr{border-bottom:1px solid var(--line);padding:.6rem 0;max-width:30rem}
.cards td{border:0;display:flex;justify-content:space-between;gap:1rem;padding:.1rem 0}
.cards td::before{content:attr(data-h);color:var(--dim);text-align:left;flex:none;max-width:45%}
.cards td:empty{display:none}.cards td:first-child{font-weight:600}.cards td:first-child::before{content:none}
.matrix{font-size:.8rem}.matrix .name{display:none}}
"""
FOLDED_ROWS = 12  # longer tables are folded


class Cell(NamedTuple):
    """A table cell: a text, a smaller text below it, a CSS class (good, bad, weak) and a tooltip."""

    text: str
    subtext: str = ""
    style: str = ""
    hint: str = ""

    def html(self, header: str, *, left: bool) -> str:
        """The cell as HTML. On a phone the header of its column is shown beside it."""
        style = " ".join(filter(None, (self.style, "t" if left else "")))
        attributes = f' class="{style}"' if style else ""
        attributes += f' data-h="{escape(header)}"' if header else ""
        attributes += f' title="{escape(self.hint)}"' if self.hint else ""
        below = f"<small>{escape(self.subtext)}</small>" if self.subtext else ""
        text = escape(self.text)
        return (
            f"<td{attributes}><span>{text}{below}</span></td>" if text or below else f"<td{attributes}></td>"
        )


def table(
    headers: Sequence[str], rows: Iterable[Sequence[Any]], *, text: int = 1, style: str = "cards"
) -> str:
    """An HTML table of texts and Cells; the first `text` columns are left-aligned."""

    def line(row: Sequence[Any]) -> str:
        cells = (value if isinstance(value, Cell) else Cell(str(value)) for value in row)
        return "".join(cell.html(headers[i], left=i < text) for i, cell in enumerate(cells))

    heads = "".join(f"<th{' class=t' if i < text else ''}>{escape(h)}</th>" for i, h in enumerate(headers))
    lines = "".join(f"<tr>{line(row)}</tr>" for row in rows)
    return f'<table class="{style}"><thead><tr>{heads}</tr></thead><tbody>{lines}</tbody></table>'


def fold_long_table(html: str, rows: int, title: str, *, limit: int = FOLDED_ROWS) -> str:
    """A long table is put into a <details> element with a title; a short one is returned unchanged."""
    return (
        html
        if rows <= limit
        else f"<details><summary>{escape(title)} ({rows} rows)</summary>{html}</details>"
    )


def metric_heading(metric: str) -> str:
    """A metric's name and unit, as a column header."""
    unit = "" if metric in HIGHER_IS_BETTER else UNITS.get(metric, "")
    return LABELS.get(metric, metric) + (f", {unit}" if unit else "")


def format_number(value: float) -> str:
    """Three significant digits; a dash for NaN."""
    if math.isnan(value):
        return "–"
    if math.isinf(value):
        return "∞"
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"


def format_dollars(value: float) -> str:
    """For example $0.0012 or $3.40."""
    if math.isnan(value):
        return "–"
    if value == 0 or value >= 1:
        return f"${value:,.2f}" if value else "$0"
    return "$" + f"{float(f'{value:.3g}'):.12f}".rstrip("0")


def format_interval(lo: float, hi: float) -> str:
    """An interval; "" where an end is NaN."""
    return "" if math.isnan(lo) or math.isnan(hi) else f"{format_number(lo)} to {format_number(hi)}"


def format_percent(value: float | None) -> str:
    """For example 99.5% or 100%."""
    if value is None or math.isnan(value):
        return ""
    return f"{value:.1%}" if value not in (0.0, 1.0) else f"{value:.0%}"


def setting_value(value: Any) -> str:
    """A value of a setting as text; "" where it is missing."""
    if value is None or value != value:  # noqa: PLR0124
        return ""
    if isinstance(value, float):
        return f"{value:g}"
    return str(value).replace("_", " ") if str(value).startswith("cold") else str(value)


def setting_text(row: Mapping[Any, Any], setting: Mapping[str, str]) -> str:
    """A row's setting as text: "at a time 4, start cold conn"; "" where all rows have the same."""
    return ", ".join(
        f"{label} {setting_value(row[key])}" for key, label in setting.items() if setting_value(row.get(key))
    )
