"""The live display of a benchmark: progress, speed, cost, each model's times, failures. ■ (or Ctrl-C) stops
the run; the rows measured so far are returned."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from ..bench.naming import short_names
from ..bench.pages import format_dollars
from ..bench.progress import RunFrontEnd, RunTotals, ended_early_text
from ..client.progress import clock
from ..core.values import plural
from .view.frontend import KernelPort
from .view.progress import Display, progress_bar
from .view.static import render_note

_MAX_NAME = 40  # characters of a model's name
_MIN_SPAN = 1.5  # of the scale, as a factor
_MAX_MARKS = 60  # requests that a model's strip shows, spread over its distribution
_BOX = "position:relative;display:inline-block;width:18em;height:1.1em;background:rgba(128,128,128,.1);border-radius:3px;vertical-align:middle"  # noqa: E501
_MARK = "position:absolute;top:15%;width:2px;height:70%;background:currentColor;opacity:.45"
_MEDIAN = "position:absolute;top:0;width:3px;height:100%;background:var(--jp-brand-color1,#3a82d6)"


class Dashboard(Display, RunFrontEnd):
    """Progress of a run in a kernel's front end; see bench.progress.Progress.

    brief: the last frame has no table, because the caller shows a fuller one.
    """

    run_id = ""

    def __init__(self, port: KernelPort, *, live: bool = True, brief: bool = False) -> None:
        super().__init__(port, live=live)
        self._brief = brief

    def start(self, total: int, names: Sequence[str], run_id: str) -> None:
        """Shows the empty dashboard."""
        self._sums, self.run_id = RunTotals(total, names), run_id
        self._frame(None)

    def row(self, row: Mapping[str, Any]) -> None:
        """Counts a request."""
        self._sums.add(row)

    def draw(self) -> None:
        """Draws a frame if one is due."""
        if self.is_due(self._sums.elapsed):
            self._frame(None)

    def end(self, reason: str, rows: int) -> None:
        """Draws the last frame."""
        self._sums.rows = rows
        self._frame(reason)

    def _frame(self, ended: str | None) -> None:
        last = ended is not None
        shown = (self._sums, self.run_id, ended, self._brief and last)
        self.publish(dashboard_html(*shown), dashboard_text(*shown), last=last)


def headline(sums: RunTotals, ended: str | None) -> str:
    """The progress in one line."""
    left = clock(sums.elapsed) if ended is not None else sums.left and f"{clock(sums.left)} left"
    parts = (
        f"{sums.done:,} of {plural(sums.total, 'request')}",
        sums.extra and f"{sums.extra} to warm up",
        sums.rate and f"{sums.rate:.3g} a second",
        "" if sums.usd is None else f"${sums.usd:.4f}",
        sums.failed and f"{sums.failed} failed",
        sums.contaminated and f"{sums.contaminated} contaminated",
        left,
    )
    return " · ".join(str(part) for part in parts if part)


def _ending_text(sums: RunTotals, run_id: str, ended: str | None) -> str:
    if ended is None:
        return "■ stops; measured rows are kept."
    return ended_early_text(ended, sums.rows, run_id) if ended else ""


def dashboard_text(sums: RunTotals, run_id: str, ended: str | None, brief: bool = False) -> str:
    """The dashboard as text."""
    lines = [headline(sums, ended)]
    for name, values in () if brief else sums.values.items():
        median = (
            f"median time to {sums.awaited} {statistics.median(values):,.0f} ms"
            if values
            else "no answer yet"
        )
        failed = f", {sums.failures[name]} failed" if sums.failures.get(name) else ""
        cost = f", {format_dollars(sums.costs[name])}" if name in sums.costs else ""
        lines.append(f"  {name}: {plural(len(values), 'answer')}, {median}{failed}{cost}")
    return "\n".join(
        filter(
            None,
            [
                *lines,
                f"  last failure: {sums.last_error}" if sums.last_error else "",
                _ending_text(sums, run_id, ended),
            ],
        )
    )


def dashboard_html(sums: RunTotals, run_id: str, ended: str | None, brief: bool = False) -> str:
    """The dashboard as HTML; texts of providers are escaped."""
    progress = "" if ended is not None else progress_bar(sums.done, sums.total)
    failure = render_note(f"Last failure: {sums.last_error}", is_warning=True).html if sums.last_error else ""
    foot = _ending_text(sums, run_id, ended)
    return (
        f"<div><b>Benchmark</b> {escape(headline(sums, ended))}</div>{progress}"
        + ("" if brief else _table(sums))
        + failure
        + (f'<div class="nbllm-foot">{escape(foot)}</div>' if foot else "")
    )


def _table(sums: RunTotals) -> str:
    times = [v for values in sums.values.values() for v in values if v > 0]
    short = short_names(sums.values, _MAX_NAME)
    rows = "".join(_model_row(name, short[name], sums, _scale_ends(times)) for name in sums.values)
    return (
        "<table><thead><tr><th>model</th><th>answers</th><th>failed</th><th>cost</th><th>median</th>"
        f"<th>time to {sums.awaited}, {_scale_text(times)}</th></tr></thead><tbody>{rows}</tbody></table>"
    )


def _scale_ends(times: Sequence[float]) -> tuple[float, float]:
    """The logarithms of both ends of the scale, at least a factor of 1.5 apart, so that similar times look
    similar."""
    low, high = (math.log(min(times)), math.log(max(times))) if times else (0.0, 0.0)
    more = max(0.0, math.log(_MIN_SPAN) - (high - low)) / 2
    return low - more, high + more


def _scale_text(times: Sequence[float]) -> str:
    low, high = map(math.exp, _scale_ends(times))
    return f"{low:,.0f} to {high:,.0f} ms (log)" if times else "ms"


def _model_row(name: str, short: str, sums: RunTotals, ends: tuple[float, float]) -> str:
    values, (low, high) = sums.values[name], ends
    ordered = sorted(v for v in values if v > 0)
    shown = (
        [ordered[round(i * (len(ordered) - 1) / (_MAX_MARKS - 1))] for i in range(_MAX_MARKS)]
        if len(ordered) > _MAX_MARKS
        else ordered
    )

    def at(value: float) -> str:
        return f"left:{(math.log(value) - low) / (high - low) * 98:.1f}%"

    marks = "".join(f'<span style="{_MARK};{at(v)}"></span>' for v in shown)
    marks += f'<span style="{_MEDIAN};{at(statistics.median(ordered))}"></span>' if ordered else ""
    median = f"{statistics.median(ordered):,.0f} ms" if ordered else "–"
    cost = format_dollars(sums.costs[name]) if name in sums.costs else "–"
    numbers = (str(len(values)), str(sums.failures.get(name) or ""), cost, median)
    return (
        f'<tr><td title="{escape(name)}">{escape(short)}</td>'
        + "".join(f'<td style="text-align:right">{words}</td>' for words in numbers)
        + f'<td><span style="{_BOX}">{marks}</span></td></tr>'
    )
