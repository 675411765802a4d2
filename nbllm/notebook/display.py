"""Shows an answer while it grows, in few and small messages, and leaves exactly one output of its own. Main thread only.

Theory. The open end of the answer is the *tail*: one display that is updated. When enough blocks before it are
finished, the tail is updated a last time to just those (they are *frozen*: never sent again, and a person's selection
in them survives), and a new display below becomes the tail. The status line always stands at the tail's end. `Pace`
says when a frame is due. Formulas stay source in the tail, because typesetting them anew at each frame would flicker.
JupyterLab folds a cell's outputs away above 50, so the longer the answer, the more one display freezes.

At the end `clear_output(wait=True)` and one display of the final bundle replace all this in one step, without an
empty moment between. Whoever saves the notebook before that has frozen blocks and a tail: plain static text.

Clearing takes everything that the cell has shown, so all this is for an answer that is *alone* in its cell. Elsewhere (in a
loop, after a print, the second of two answers) nothing is frozen and nothing cleared: the whole answer is the tail, drawn
as often as `Pace` allows, and its last update is the final form.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from html import escape
from typing import Any, Literal, Protocol
from uuid import uuid4

from ..events import (
    Event,
    MediaDelta,
    Notice,
    ReasoningDelta,
    Response,
    Restarted,
    Started,
    TextDelta,
    ToolCallDelta,
    UsageReport,
)
from ..messages import caption
from .blocks import Blocks, Lines, Splitter
from .bundle import Line, final, foot_line, made, note_line, provenance, seconds
from .hidden import clean
from .look import container
from .markdown import code_html, plain_html, reasoning_html, to_html
from .pace import ENVELOPE, Budget, Pace

Mode = Literal["live", "final", "plain"]

_FREEZE = 400  # characters of finished blocks that are worth a display of their own,
_FREEZE_SHARE = 0.12  # and their share of what is frozen already
_MOST_DISPLAYS = 45
_INK = 8_000  # characters of a code block that are highlighted before the end
_LONG_TAIL = 1_000  # characters of an open code block or list that are drawn again and again
_THOUGHT = 600  # last characters of thinking that are shown while it goes on
_ARGUMENTS = 300
_TYPESET = " mathjax_process tex2jax_process"


class Port(Protocol):
    """Where displays go."""

    def publish(self, data: Mapping[str, str], *, display_id: str | None = None, update: bool = False, metadata: Mapping[str, Any] | None = None) -> None:
        """Shows a MIME bundle, or replaces the one that was shown under `display_id`; `metadata` is saved with it."""

    def clear(self, *, wait: bool) -> None:
        """Removes the cell's outputs; with `wait` when the next one comes."""


@dataclass(slots=True)
class _Growing:
    """What there is of the answer and has not been frozen."""

    splitter: Splitter
    done: list[Line] = field(default_factory=list)  # finished, in the tail until it is frozen
    thought: str = ""
    calls: dict[int, list[str]] = field(default_factory=dict)
    references: dict[str, Any] = field(default_factory=dict)


class Live:
    """One answer in one cell: `start()`, `feed(event)` and `tick(now)` while it comes, `finish(response)` once.

    Modes: "live" draws as told above; "plain" the same in text/plain alone; "final" draws nothing before `finish`.
    alone: whether the cell holds nothing else, so that its outputs may be cleared.
    """

    def __init__(
        self,
        port: Port,
        *,
        model: str = "",
        mode: Mode = "live",
        format: str = "md",
        alone: bool = True,
        budget: Budget | None = None,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        self._port, self._model, self._mode, self._format, self._clock = port, model, mode, format, clock
        self._alone = alone
        self._began = clock()
        self._pace = Pace(budget, self._began)
        self._growing = self._nothing()
        self._display_id = ""
        self._styled = self._void = self._begun = False
        self._styled_id = ""
        self._chunks = self._characters = 0  # since the last frame
        self._frozen = self._displays = 0  # characters, and displays they are in
        self._total = 0  # characters of text and reasoning so far
        self._report: UsageReport | None = None
        self._ratio = 2.2  # bytes that a frame takes for a character of the tail
        self._notice = ""

    def _nothing(self) -> _Growing:
        return _Growing(Blocks() if self._format == "md" else Lines())

    # -- what comes ----------------------------------------------------------------------------------------------------

    def start(self) -> None:
        """Shows the status line."""
        if self._mode != "final":
            self._draw(self._clock())

    def feed(self, event: Event) -> None:
        """Takes an event into account; draws nothing."""
        if self._mode == "final":
            return
        take = _TAKES.get(type(event))
        if take:
            take(self, event)
            self._chunks += 1

    def _text(self, e: TextDelta) -> None:
        g = self._growing
        if g.thought and e.text:
            self._close_thought()
        self._grew(e.text)
        g.done += [self._finished(source) for source in g.splitter.feed(e.text)]

    def _reasoning(self, e: ReasoningDelta) -> None:
        g = self._growing
        if e.text and not g.thought:
            self._close_text()
        g.thought += e.text
        self._grew(e.text)

    def _media(self, e: MediaDelta) -> None:
        """A word for it until the end: its bytes are sent once. Sound, which comes in pieces beside its words, is told at the end."""
        if e.append:
            return
        if self._growing.thought:
            self._close_thought()
        self._close_text()
        line = note_line(caption(e.part))
        if line not in self._growing.done:
            self._growing.done.append(line)
        self._grew(line.text)

    def _close_text(self) -> None:
        g = self._growing
        if g.splitter.tail():
            g.done.append(self._finished(g.splitter.tail()))
            g.splitter = self._nothing().splitter

    def _call(self, e: ToolCallDelta) -> None:
        call = self._growing.calls.setdefault(e.index, ["", ""])
        call[0] += e.name or ""
        call[1] += e.arguments

    def _usage(self, e: UsageReport) -> None:
        self._report = e

    def _started(self, e: Started) -> None:
        self._model = e.model or self._model

    def _noticed(self, e: Notice) -> None:
        if e.kind in ("retry", "warning", "refusal"):
            self._notice = e.text

    def _restarted(self, e: Restarted) -> None:
        self._growing, self._void, self._notice, self._report = self._nothing(), True, e.why, None

    def _grew(self, text: str) -> None:
        self._characters += len(text)
        self._total += len(text)

    def _close_thought(self) -> None:
        g = self._growing
        text = g.thought.strip()
        g.done.append(Line(reasoning_html(text), f"[reasoning]\n{clean(text)}\n[/reasoning]\n\n"))
        g.thought = ""

    # -- when and what to draw -----------------------------------------------------------------------------------------

    def tick(self, now: float | None = None) -> None:
        """Draws, where a frame is due."""
        if self._mode == "final":
            return
        now = self._clock() if now is None else now
        waited = now - self._began
        first = bool(self._total) and not self._begun  # the first words are shown at once
        size = 2 * ENVELOPE + self._open_size() * self._ratio
        if (
            first
            or self._pace.due(now, chunks=self._chunks, characters=self._characters, size=size)
            or self._pace.idle(now, every=1.0 if waited < 10 else 5.0, size=size)
        ):
            self._draw(now)

    def _open_size(self) -> int:
        g = self._growing
        return len(g.splitter.tail()) + sum(len(line.text) for line in g.done)

    def _draw(self, now: float) -> None:
        began, size = self._clock(), 0
        if self._void and self._alone:
            self._port.clear(wait=True)
            self._display_id, self._styled, size = "", False, ENVELOPE
            self._frozen = self._displays = 0
        self._void = False
        shed = self._growing.splitter.shed(_LONG_TAIL)
        if shed:
            self._growing.done.append(self._finished(shed))
        size += self._freeze()
        quiet = [Line(line.html.replace(_TYPESET, ""), line.text) for line in self._growing.done]
        tail = self._publish([*quiet, *self._tail(), self._status(now)])
        size += tail
        self._ratio = max(2.2, (tail - 2 * ENVELOPE) / max(self._open_size(), 1_000))
        self._begun = self._total > 0
        self._chunks = self._characters = 0
        self._pace.sent(now, size, self._clock() - began)

    def _freeze(self) -> int:
        """Ends the tail's display with the finished blocks, where they are many enough; gives the bytes that took."""
        length = sum(len(line.text) for line in self._growing.done)
        if not self._alone or length < max(_FREEZE, _FREEZE_SHARE * self._frozen) or self._displays >= _MOST_DISPLAYS:
            return 0
        size = self._publish(self._growing.done)
        self._growing.done, self._display_id = [], ""
        self._frozen, self._displays = self._frozen + length, self._displays + 1
        return size

    def _publish(self, lines: list[Line]) -> int:
        """Sends the tail's display, a new one where there is none; gives about the bytes that took."""
        update = bool(self._display_id)
        self._display_id = self._display_id or uuid4().hex
        data = {"text/plain": "".join(line.text for line in lines)}
        if self._mode == "live":
            first = not self._styled or self._display_id == self._styled_id
            data["text/html"] = container("".join(line.html for line in lines), style=first)
            if not self._styled:
                self._styled, self._styled_id = True, self._display_id
        self._port.publish(data, display_id=self._display_id, update=update)
        return ENVELOPE + sum(map(_wire_size, data.values()))

    def _finished(self, source: str) -> Line:
        if self._format != "md":
            return Line(plain_html(source.removesuffix("\n")), clean(source))
        return Line(to_html(source, references=self._growing.references, ink=_INK), clean(source))

    def _tail(self) -> list[Line]:
        g = self._growing
        source, lines = g.splitter.tail(), []
        if g.thought:
            last = g.thought[-_THOUGHT:].strip()
            lines.append(Line(f"<div class=nbllm-think>{plain_html(last)}</div>", f"[reasoning]\n{clean(last)}\n"))
        if source:
            lines.append(Line(self._open_html(source), clean(source)))
        for name, arguments in g.calls.values():
            text = clean(f"{name}({arguments[-_ARGUMENTS:]})")
            lines.append(Line(code_html(text), f"\n[tool call] {text}\n"))
        return lines

    def _open_html(self, source: str) -> str:
        if self._format != "md":
            return plain_html(source)
        return to_html(source, references=dict(self._growing.references), typeset=False, ink=_INK)

    def _status(self, now: float) -> Line:
        elapsed = now - self._began
        if self._total or self._growing.calls:
            progress = f"{seconds(elapsed)} · {made(self._report, self._total)} tokens"
        else:
            progress = "waiting for the first token…" + (f" {elapsed:.0f} s" if elapsed >= 1 else "")
        text = clean(" · ".join(filter(None, (self._model, progress, self._notice))))
        line = foot_line(Line(escape(text, quote=False), text))
        return Line(line.html, f"\n\n{line.text}" if self._total else line.text)

    # -- the end -------------------------------------------------------------------------------------------------------

    def finish(self, response: Response, footer: Line | None = None, error: BaseException | None = None,
               instead: Mapping[str, str] | None = None) -> None:
        """Replaces all by the final form, or by `instead`. Where an error came before anything else did, the error is all there is
        to see: the cell's own where the answer is alone in it, which would come below other outputs elsewhere."""
        html, bare = self._mode != "plain", error is not None and not (response.parts or response.refusal)
        if bare and self._alone:
            if self._display_id:
                self._port.clear(wait=True)
            return
        if instead is not None:
            data = dict(instead) if html else {"text/plain": instead["text/plain"]}
        else:
            data = final(response, format=self._format, footer=None if bare else footer, error=error, html=html)
        update = bool(self._display_id) and not self._alone
        if self._display_id and self._alone:
            self._port.clear(wait=True)
        self._port.publish(data, display_id=self._display_id if update else None, update=update, metadata={"nbllm": provenance(response)})


_TAKES: dict[type, Callable[[Live, Any], None]] = {
    MediaDelta: Live._media, TextDelta: Live._text, ReasoningDelta: Live._reasoning, ToolCallDelta: Live._call, UsageReport: Live._usage,
    Started: Live._started, Notice: Live._noticed, Restarted: Live._restarted,
}  # fmt: skip


def _wire_size(text: str) -> int:
    return len(json.dumps(text, ensure_ascii=False).encode("utf-8", "replace"))
