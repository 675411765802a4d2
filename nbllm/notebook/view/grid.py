"""Answers in columns, all growing at once in one display, and the static form in which they stay. One column
is a grid of one.

Theory. Columns can only stand beside each other within one display, so a frame is all of them, and `Pace`
says when one is due. While an answer grows, its column shows the end of it (the last blocks, _SHOWN
characters at most), so that a frame has a bounded size however long the answers are. The final form replaces
it once and holds everything.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from html import escape
from typing import Any
from uuid import uuid4

from ...core.events import Usage
from .frontend import Port
from .hidden import clean, plain
from .markdown import plain_html, to_html
from .outcome import Outcome, Painter
from .state import AnswerState
from .static import Rendered, about, bundle_of, characters, count, joined, money, provenance, seconds
from .tables import table
from .throttle import ENVELOPE, Budget, Pace

_IN_A_ROW = 4  # columns, where no style is
_SHOWN = 1_600  # characters of a growing answer that its column shows
Column = tuple[str, Rendered]


class Grid(Painter):
    """Columns in a kernel's front end. mode: "live", "plain" (text alone), or "final" (nothing before the
    end). before: columns that are over already and stand first. alone: as in LivePainter; where it is not, or
    other cells run meanwhile, only the grid's own display changes. bar: buttons that stop a column, None for
    none."""

    def __init__(
        self,
        port: Port,
        states: Sequence[AnswerState],
        *,
        mode: str = "live",
        format: str = "md",
        before: Sequence[Outcome] = (),
        alone: Callable[[], bool] = lambda: True,
        bar: StopButtons | None = None,
        budget: Budget | None = None,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        self._port, self._states, self._mode, self._format, self._clock = port, states, mode, format, clock
        self._before: list[Column] = [(e.label, e.line(format)) for e in before]
        self._ended = list(before)
        self._id, self._alone, self._bar = uuid4().hex, alone, bar
        self._pace = Pace(budget, clock())
        self._chunks = self._size = 0
        self._shown = False

    def start(self) -> None:
        """Shows the empty columns."""
        if self._mode != "final":
            if self._bar is not None:
                self._bar.show()
            self._draw(self._clock())

    def settle(self, now: float) -> None:
        """Draws, whatever is due."""
        if self._mode != "final" and sum(s.chunks for s in self._states) != self._chunks:
            self._draw(now)

    def tick(self, now: float) -> None:
        """Draws, where a frame is due."""
        if self._mode == "final":
            return
        size = ENVELOPE + max(self._size, 2_000)
        new = sum(s.chunks for s in self._states) - self._chunks
        if self._pace.due(now, chunks=new, characters=40 * new, size=size) or self._pace.idle(
            now, every=1.0, size=size
        ):
            self._draw(now)

    def ended(self, column: int) -> None:
        """Its ■ goes."""
        if self._bar is not None:
            self._bar.ended(column)

    def _draw(self, now: float) -> None:
        began = self._clock()
        columns = [*self._before, *((s.label, growing(s, now)) for s in self._states)]
        data = bundle(columns, html=self._mode != "plain")
        self._port.publish(data, display_id=self._id, update=self._shown)
        self._shown, self._chunks = True, sum(s.chunks for s in self._states)
        self._size = sum(map(len, data.values()))
        self._pace.sent(now, ENVELOPE + self._size, self._clock() - began)

    def finish(self, outcomes: Sequence[Outcome]) -> None:
        """Replaces all by the final form: what the cell holds, or only the columns."""
        whole = [*self._ended, *outcomes]
        update = self._shown and not self._alone()
        if self._shown and not update:
            self._port.clear(wait=True)
        self._port.publish(
            ended(whole, self._format, html=self._mode != "plain"),
            metadata={"nbllm": [provenance(e.response) for e in whole]},
            display_id=self._id if update else None,
            update=update,
        )
        if self._bar is not None:
            self._bar.close(there=update)

    def give_up(self, text: str) -> None:
        """Leaves plain text, where the final form could not be drawn."""
        self._port.publish(
            {"text/plain": plain(text)}, display_id=self._id if self._shown else None, update=self._shown
        )
        if self._bar is not None:
            self._bar.close(there=True)


class StopButtons:
    """What a grid needs of buttons that stop its columns."""

    def show(self) -> None:
        """Puts them where the next output goes."""

    def ended(self, column: int) -> None:
        """A column is over."""

    def close(self, *, there: bool) -> None:
        """Takes them away; `there` says whether their output still is."""


def growing(state: AnswerState, now: float) -> Rendered:
    """A column as it is now."""
    shown = state.end_of_text(_SHOWN)
    html = to_html(shown, typeset=False) if state.format == "md" else plain_html(shown)
    lines = [Rendered(html, clean(shown))] if shown else state.thinking()
    return joined([*lines, *state.calling(), state.status_line(now)], between="\n")


def grid(columns: Sequence[Column]) -> str:
    """The columns' HTML: a table, so that they stand beside each other where styles are taken away (GitHub,
    an untrusted notebook); with them as many in a row as there is room for."""
    share = 100 // min(len(columns), _IN_A_ROW)
    cells = [
        f"<td class=nbllm-col valign=top width={share}% style=text-align:left;vertical-align:top>"
        f"<div class=nbllm-head><b>{escape(label)}</b></div>\n{line.html}</td>"
        for label, line in columns
    ]
    rows = ("".join(cells[i : i + _IN_A_ROW]) for i in range(0, len(cells), _IN_A_ROW))
    return f"<table class=nbllm-side><tbody><tr>{'</tr><tr>'.join(rows)}</tr></tbody></table>\n"


def bundle(columns: Sequence[Column], *, html: bool = True, below: Rendered | None = None) -> dict[str, str]:
    """The MIME bundle of columns, and of what stands below them: HTML, and text that reads as Markdown."""
    text = "\n\n".join(f"## {clean(label)}\n\n{line.text.strip()}" for label, line in columns)
    whole = Rendered(grid(columns), text)
    return bundle_of(joined([whole, below]) if below else whole, html=html)


def ended(outcomes: Sequence[Outcome], format: str, *, html: bool = True) -> dict[str, str]:
    """The MIME bundle of answers that are over: the columns, and one table of their figures."""
    several = len(outcomes) > 1
    columns = [(o.label, o.line(format, beside=several)) for o in outcomes]
    return bundle(columns, html=html, below=figures(outcomes) if several else None)


_HEADS = ("", "to first token", "total", "tokens/s", "tokens in", "out", "cost")
_LESS_IS_BEST = {1: True, 2: True, 3: False, 6: True}  # by the place among the heads


def figures(outcomes: Sequence[Outcome]) -> Rendered:
    """The figures of answers, one below the other, the best of those that ended by themselves marked."""
    rows = [_measured(o) for o in outcomes]
    good = [i for i, o in enumerate(outcomes) if o.error is None and o.response.finish_reason in _WHOLE]
    shown = [[d(v) for d, v in zip(_DRAWN, row, strict=True)] for row in rows]
    best = set()
    for j, less in _LESS_IS_BEST.items():
        known = {i: rows[i][j] for i in good if rows[i][j] is not None}
        first = shown[(min if less else max)(known, key=lambda i: known[i])][j] if known else ""
        alike = {(i, j) for i in known if shown[i][j] == first}
        best |= alike if len(alike) < len(known) else set()
    empty = [j for j, column in enumerate(zip(*shown, strict=True)) if not any(column)]
    for row in (heads := list(_HEADS), *shown):
        for j in reversed(empty):
            del row[j]
    best = {(i, j - sum(e < j for e in empty)) for i, j in best}
    made = table(heads, shown, figures=heads[1:], best=best)
    return Rendered(f"<div class=nbllm-foot><small>{made.html}</small></div>\n", made.text)


_WHOLE = ("stop", "tool_calls")
_DRAWN: tuple[Callable[[Any], str], ...] = (
    str,
    *(lambda v: "" if v is None else seconds(v),) * 2,
    lambda v: "" if v is None else f"{v:,.{0 if v >= 10 else 1}f}",
    lambda v: "" if v is None else count(v),
    lambda v: v if isinstance(v, str) else count(v),
    lambda v: "" if v is None else money(v),
)


def _measured(o: Outcome) -> list[Any]:
    r = o.response
    t, usage = r.timing, r.usage or Usage()
    made = about(characters(r)).strip("?") if usage.output_tokens is None else usage.output_tokens
    cost = None if r.simulated else r.cost
    return [o.label, t.ttft, t.total, t.tokens_per_second, usage.input_tokens, made, cost]
