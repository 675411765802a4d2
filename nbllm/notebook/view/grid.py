"""Answers in columns that grow together in one display, and their static final form. One column is a grid of
one.

Theory. Columns can stand side by side only within one display, so each frame contains all of them, and `Pace`
decides when one is due. An answer grows downwards, so it can be read while it arrives and nothing moves at
its end. Text beyond its share of _MAX_CHARACTERS is left out up to its open end, so that the size of a frame
is bounded. The final form contains everything.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from html import escape
from typing import Any, NamedTuple
from uuid import uuid4

from ...core.events import Usage
from .frontend import KernelPort
from .hidden import clean, plain_text
from .incremental import GrowingAnswer, concatenate, without_typesetting
from .outcome import Outcome, Painter
from .state import AnswerState
from .static import (
    Rendered,
    answer_length,
    estimate_tokens,
    format_count,
    format_money,
    format_seconds,
    join_rendered,
    provenance,
    to_bundle,
)
from .tables import render_table
from .throttle import ENVELOPE, Budget, Pace

_COLUMNS_PER_ROW = 4  # columns per row in front ends without styles
_MAX_CHARACTERS = 40_000  # characters of growing answers in one frame
_LEFT_OUT = Rendered("<p>…</p>\n", "…\n\n")


class Column(NamedTuple):
    """A column: its label, its content, and the id of the element for its ■."""

    label: str
    content: Rendered
    stop_id: str = ""


class Grid(Painter):
    """Columns in a kernel's front end. mode: "live", "plain" (text only), or "final" (nothing before the
    end). before: finished columns that stand first. is_alone: as in LivePainter; otherwise, or if other
    cells run meanwhile, only the grid's own display changes. stop_ids: the ids of the elements for a ■ in
    each head, if any; close: removes the buttons."""

    def __init__(
        self,
        port: KernelPort,
        states: Sequence[AnswerState],
        *,
        mode: str = "live",
        format: str = "md",
        before: Sequence[Outcome] = (),
        is_alone: Callable[[], bool] = lambda: True,
        stop_ids: Sequence[str] = (),
        close: Callable[[], None] = lambda: None,
        budget: Budget | None = None,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        self._port, self._mode, self._format, self._clock = port, mode, format, clock
        self._growing = [GrowingAnswer(state) for state in states]
        self._before = [Column(e.label, e.render(format)) for e in before]
        self._earlier = list(before)
        self._id, self._is_alone, self._stop_ids, self._close = uuid4().hex, is_alone, stop_ids, close
        self._pace = Pace(budget, clock())
        self._size, self._shown = 0, False

    def start(self) -> None:
        """Shows the empty columns."""
        if self._mode != "final":
            self._draw(self._clock())

    def flush(self, now: float) -> None:
        """Draws all pending chunks."""
        if self._mode != "final" and self._new_chunks:
            self._draw(now)

    def tick(self, now: float) -> None:
        """Draws a frame if one is due."""
        if self._mode == "final":
            return
        size, new = ENVELOPE + max(self._size, 2_000), self._new_chunks
        if self._pace.is_due(now, chunks=new, characters=40 * new, size=size) or self._pace.is_idle(
            now, every=1.0, size=size
        ):
            self._draw(now)

    @property
    def _new_chunks(self) -> int:
        """Chunks since the last frame."""
        return sum(column.pending["chunks"] for column in self._growing)

    def _draw(self, now: float) -> None:
        began = self._clock()
        data = columns_bundle(
            [*self._before, *(self._column(i, now) for i in range(len(self._growing)))],
            html=self._mode != "plain",
        )
        self._port.publish(data, display_id=self._id, update=self._shown)
        self._shown, self._size = True, sum(map(len, data.values()))
        self._pace.record_frame(now, ENVELOPE + self._size, self._clock() - began)

    def _column(self, number: int, now: float) -> Column:
        """A column as it is now, with the element of its ■."""
        growing, budget = self._growing[number], _MAX_CHARACTERS // len(self._growing)
        growing.update()
        lines = list[Rendered]()
        for line in growing.finished:
            if (budget := budget - len(line.text)) < 0:
                lines.append(_LEFT_OUT)
                break
            lines.append(line)
        shown = [*without_typesetting(lines), *growing.open_lines(), growing.status_line(now)]
        stop = self._stop_ids[number] if self._stop_ids and growing.state.ended is None else ""
        return Column(growing.state.label, concatenate(shown), stop)

    def finish(self, outcomes: Sequence[Outcome]) -> None:
        """Replaces the grid by the final form, clearing the cell's outputs if it is alone."""
        all_outcomes = [*self._earlier, *outcomes]
        update = self._shown and not self._is_alone()
        if self._shown and not update:
            self._port.clear(wait=True)
        self._port.publish(
            outcomes_bundle(all_outcomes, self._format, html=self._mode != "plain"),
            metadata={"nbllm": [provenance(e.response) for e in all_outcomes]},
            display_id=self._id if update else None,
            update=update,
        )
        self._close()

    def give_up(self, text: str) -> None:
        """Displays plain text after the final form failed."""
        self._port.publish(
            {"text/plain": plain_text(text)}, display_id=self._id if self._shown else None, update=self._shown
        )
        self._close()


def columns_html(columns: Sequence[Column]) -> str:
    """The HTML of the columns: a table, so that they stand side by side in front ends without styles (GitHub,
    an untrusted notebook); with styles, as many in a row as fit. JupyterLab removes `start` from an
    untrusted notebook and aligns table cells to the right, hence the inline alignment."""
    share = 100 // min(len(columns), _COLUMNS_PER_ROW)
    cells = [
        f"<td class=nbllm-col valign=top width={share}% "
        f"style=text-align:left;text-align:start;vertical-align:top>"
        f"<div class=nbllm-head><b>{escape(c.label)}</b>"
        f"{c.stop_id and f' <span id={c.stop_id}></span>'}</div>\n"
        f"{c.content.html}</td>"
        for c in columns
    ]
    rows = ("".join(cells[i : i + _COLUMNS_PER_ROW]) for i in range(0, len(cells), _COLUMNS_PER_ROW))
    return f"<table class=nbllm-side><tbody><tr>{'</tr><tr>'.join(rows)}</tr></tbody></table>\n"


def columns_bundle(
    columns: Sequence[Column], *, html: bool = True, below: Rendered | None = None
) -> dict[str, str]:
    """The MIME bundle of columns and the content below them: HTML, and text that is valid Markdown."""
    text = "\n\n".join(f"## {clean(c.label)}\n\n{c.content.text.strip()}" for c in columns)
    rendered = Rendered(columns_html(columns), text)
    return to_bundle(join_rendered([rendered, below]) if below else rendered, html=html)


def outcomes_bundle(outcomes: Sequence[Outcome], format: str, *, html: bool = True) -> dict[str, str]:
    """The MIME bundle of finished answers: their columns, and one table of their figures."""
    side_by_side = len(outcomes) > 1
    columns = [Column(o.label, o.render(format, beside=side_by_side)) for o in outcomes]
    return columns_bundle(columns, html=html, below=figures_table(outcomes) if side_by_side else None)


_HEADINGS = ("", "to first token", "total", "tokens/s", "tokens in", "out", "cost")
_LOWER_IS_BETTER = {1: True, 2: True, 3: False, 6: True}  # by the index of the heading


def figures_table(outcomes: Sequence[Outcome]) -> Rendered:
    """The figures of answers, one row each; the best value of the complete answers is marked."""
    rows = [_figures(o) for o in outcomes]
    complete = [
        i for i, o in enumerate(outcomes) if o.error is None and o.response.finish_reason in _COMPLETE
    ]
    shown = [[d(v) for d, v in zip(_FORMATTERS, row, strict=True)] for row in rows]
    best = set()
    for j, less in _LOWER_IS_BETTER.items():
        known = {i: rows[i][j] for i in complete if rows[i][j] is not None}
        first = shown[(min if less else max)(known, key=lambda i: known[i])][j] if known else ""
        ties = {(i, j) for i in known if shown[i][j] == first}
        best |= ties if len(ties) < len(known) else set()
    empty = [j for j, column in enumerate(zip(*shown, strict=True)) if not any(column)]
    for row in (heads := list(_HEADINGS), *shown):
        for j in reversed(empty):
            del row[j]
    best = {(i, j - sum(e < j for e in empty)) for i, j in best}
    rendered = render_table(heads, shown, numeric=heads[1:], best=best)
    return Rendered(f"<div class=nbllm-foot><small>{rendered.html}</small></div>\n", rendered.text)


_COMPLETE = ("stop", "tool_calls")
_FORMATTERS: tuple[Callable[[Any], str], ...] = (
    str,
    *(lambda v: "" if v is None else format_seconds(v),) * 2,
    lambda v: "" if v is None else f"{v:,.{0 if v >= 10 else 1}f}",
    lambda v: "" if v is None else format_count(v),
    lambda v: v if isinstance(v, str) else format_count(v),
    lambda v: "" if v is None else format_money(v),
)


def _figures(o: Outcome) -> list[Any]:
    r = o.response
    t, usage = r.timing, r.usage or Usage()
    out_tokens = (
        estimate_tokens(answer_length(r)).strip("?") if usage.output_tokens is None else usage.output_tokens
    )
    cost = None if r.simulated else r.cost
    return [o.label, t.ttft, t.total, t.tokens_per_second, usage.input_tokens, out_tokens, cost]
