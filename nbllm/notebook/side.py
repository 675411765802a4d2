"""Several answers side by side, all growing at once in one display, and the static form in which they stay.

Theory. Columns can only stand beside each other within one display, so a frame is all of them, and `Pace` says when one is
due. While an answer grows, its column shows the end of it (the last blocks, _SHOWN characters at most), so that a frame
has a bounded size however long the answers are. The final form replaces it once and holds everything.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from html import escape
from typing import Any
from uuid import uuid4

from ..errors import NbllmError
from ..events import Event, MediaDelta, Notice, ReasoningDelta, Response, Restarted, TextDelta, ToolCallDelta, UsageReport
from ..messages import caption
from .bundle import Line, answer_lines, error_lines, foot_line, made, note_line, provenance, seconds
from .display import Port
from .hidden import clean, plain
from .look import container
from .markdown import plain_html, to_html
from .pace import ENVELOPE, Budget, Pace

_SHOWN = 1_600  # characters of a growing answer that its column shows
_THOUGHT = 400


@dataclass(slots=True)
class Column:
    """One answer while it grows. `label` stands above it; `fixed` is what it shows when it is over already."""

    label: str
    began: float
    text: str = ""
    thought: str = ""
    calls: dict[int, list[str]] = field(default_factory=dict)
    notice: str = ""
    report: UsageReport | None = None
    total: int = 0
    first: float | None = None
    ended: float | None = None
    fixed: Line | None = None

    def feed(self, event: Event, at: float) -> None:
        """Takes an event into account."""
        match event:
            case TextDelta(text):
                self.text += text
                self._grew(text, at)
            case ReasoningDelta(text):
                self.thought += text
                self._grew(text, at)
            case ToolCallDelta(index, _, name, arguments):
                call = self.calls.setdefault(index, ["", ""])
                call[0] += name or ""
                call[1] += arguments
                self._grew(arguments or name or "", at)
            case MediaDelta(part):
                self.notice = caption(part)
                self._grew(" ", at)
            case UsageReport():
                self.report = event
            case Notice(kind, text) if kind in ("retry", "warning", "refusal"):
                self.notice = text
            case Restarted(why):
                self.text, self.thought, self.calls, self.total, self.first, self.notice, self.report = "", "", {}, 0, None, why, None

    def _grew(self, text: str, at: float) -> None:
        self.total += len(text)
        if self.first is None and text:
            self.first = at

    def line(self, now: float, format: str) -> Line:
        """The column as it is now."""
        if self.fixed is not None:
            return self.fixed
        lines = []
        if self.thought and not self.text:
            last = self.thought[-_THOUGHT:].strip()
            lines.append(Line(f"<div class=nbllm-think>{plain_html(last)}</div>", f"[reasoning]\n{clean(last)}\n"))
        if self.text:
            shown = _end(self.text)
            lines.append(Line(to_html(shown, typeset=False) if format == "md" else plain_html(shown), clean(shown)))
        lines += [Line(f"<pre data-lang='tool call'><code>{escape(t, quote=False)}</code></pre>", t)
                  for t in (clean(f"{name}({arguments[-300:]})") for name, arguments in self.calls.values())]
        lines.append(self._status(now))
        return Line("".join(x.html for x in lines), "\n".join(x.text for x in lines))

    def _status(self, now: float) -> Line:
        if self.first is None:
            words = "waiting for the first token…"
        else:
            words = f"{seconds(self.first - self.began)} to first token · {made(self.report, self.total)} tokens"
        text = clean(" · ".join(filter(None, (f"{seconds((self.ended or now) - self.began)}", words, self.notice))))
        return foot_line(Line(escape(text, quote=False), text))


def _end(text: str) -> str:
    """The last blocks of an answer, within _SHOWN characters; a cut fence is opened again."""
    if len(text) <= _SHOWN:
        return text
    cut = text.find("\n\n", len(text) - _SHOWN)
    start = cut + 2 if 0 <= cut < len(text) - 200 else len(text) - _SHOWN
    fence = "```\n" if text[:start].count("\n```") % 2 else ""
    return "…\n\n" + fence + text[start:]


@dataclass(frozen=True, slots=True)
class Entry:
    """A column that is over."""

    label: str
    response: Response
    error: NbllmError | None = None
    footer: Line | None = None

    def line(self, format: str) -> Line:
        """Its content: the answer, how it ended, its figures; an error with what to do where nothing came."""
        bare = self.error is not None and not (self.response.parts or self.response.refusal)
        lines = [note_line(error_lines(self.error))] if bare and self.error is not None else answer_lines(self.response, format=format, error=self.error)
        if self.footer is not None and not bare:
            lines.append(foot_line(self.footer, simulated=self.response.simulated))
        return Line("".join(x.html for x in lines), "\n\n".join(x.text.strip("\n") for x in lines))


def grid(columns: Sequence[tuple[str, Line]]) -> str:
    """The columns' HTML. Without styles (GitHub) they stand one below the other, each under its name."""
    cells = "".join(f"<div class=nbllm-col><div class=nbllm-head><b>{escape(label)}</b></div>{line.html}</div>" for label, line in columns)
    return f'<div class=nbllm-side style="grid-template-columns:repeat({len(columns)},minmax(15em,1fr))">{cells}</div>'


def bundle(columns: Sequence[tuple[str, Line]], *, html: bool = True) -> dict[str, str]:
    """The MIME bundle of columns: HTML, and text that reads as Markdown."""
    text = plain("\n\n".join(f"## {clean(label)}\n\n{line.text.strip()}" for label, line in columns))
    return {**({"text/html": container(grid(columns), style=True)} if html else {}), "text/plain": text}


class Side:
    """Columns in a kernel's front end. Modes as in display.Live; "hidden" shows nothing at all. in_place: the final form is an
    update of what was shown, since the cell has other outputs, or other cells run meanwhile."""

    def __init__(self, port: Port, columns: Sequence[Column], *, mode: str = "live", format: str = "md", in_place: bool = False, budget: Budget | None = None,
                 clock: Callable[[], float] = time.perf_counter) -> None:
        self._port, self._columns, self._mode, self._format, self._clock = port, columns, mode, format, clock
        self._id, self._in_place = uuid4().hex, in_place
        self._pace = Pace(budget, clock())
        self._chunks = self._size = 0
        self._shown = False

    @property
    def live(self) -> bool:
        """Whether it is drawn while it grows, in a cell that holds nothing else."""
        return self._mode == "live" and not self._in_place

    def start(self) -> None:
        """Shows the empty columns."""
        if self._mode in ("live", "plain"):
            self._draw(self._clock())

    def feed(self, column: int, event: Event, at: float) -> None:
        """An event of a column."""
        self._columns[column].feed(event, at)
        self._chunks += 1

    def tick(self, now: float) -> None:
        """Draws, where a frame is due."""
        if self._mode not in ("live", "plain"):
            return
        size = ENVELOPE + max(self._size, 2_000)
        characters = 40 * self._chunks
        if self._pace.due(now, chunks=self._chunks, characters=characters, size=size) or self._pace.idle(now, every=1.0, size=size):
            self._draw(now)

    def _draw(self, now: float) -> None:
        began = self._clock()
        data = bundle([(c.label, c.line(now, self._format)) for c in self._columns], html=self._mode != "plain")
        self._port.publish(data, display_id=self._id, update=self._shown)
        self._shown, self._chunks = True, 0
        self._size = sum(map(len, data.values()))
        self._pace.sent(now, ENVELOPE + self._size, self._clock() - began)

    def finish(self, entries: Sequence[Entry]) -> None:
        """Replaces all by the final form: what the cell holds, or in place only the columns."""
        if self._mode == "hidden":
            return
        update = self._shown and self._in_place
        if self._shown and not update:
            self._port.clear(wait=True)
        self._port.publish(bundle([(e.label, e.line(self._format)) for e in entries], html=self._mode != "plain"),
                           metadata={"nbllm": [provenance(e.response) for e in entries]}, display_id=self._id if update else None, update=update)

    def give_up(self, text: str) -> None:
        """Leaves a line of plain text, where the final form could not be drawn."""
        if self._mode != "hidden":
            self._port.publish({"text/plain": plain(text)}, display_id=self._id if self._shown else None, update=self._shown)


class Printed:
    """Columns in a terminal: each answer as a whole, when all have come."""

    def __init__(self, write: Callable[[str], Any]) -> None:
        self._write = write

    def start(self) -> None:
        """Nothing to show yet."""

    def feed(self, column: int, event: Event, at: float) -> None:
        """Nothing to show yet."""

    def tick(self, now: float) -> None:
        """Nothing to show yet."""

    def finish(self, entries: Sequence[Entry]) -> None:
        """Writes all answers, one below the other."""
        self._write(bundle([(e.label, e.line("text")) for e in entries], html=False)["text/plain"] + "\n")

    def give_up(self, text: str) -> None:
        """Writes a line, where the answers could not be written."""
        self._write(f"{plain(text)}\n")
