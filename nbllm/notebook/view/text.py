"""Answers in a terminal: one as its text comes, several one below the other when all have come."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

from ...core.events import Event, ReasoningDelta, Restarted, TextDelta
from ...core.messages import Reasoning, Text, ToolCall
from .grid import ended
from .hidden import plain
from .outcome import Outcome, Painter
from .state import AnswerState
from .static import final, tool_line

_NEAR = 4  # characters: an emoji, its form and tone, a joiner


class TextPainter(Painter):
    """An answer in a terminal: its text as it comes, then what there is to say about it; several when all
    have come."""

    def __init__(
        self,
        columns: int = 1,
        write: Callable[[str], Any] | None = None,
        *,
        before: Sequence[Outcome] = (),
        thoughts: bool | None = None,
    ) -> None:
        self._write = write or _to_stdout
        self._before, self._one = before, columns == 1 and not before
        self._shown = (TextDelta,) if thoughts is False else (TextDelta, ReasoningDelta)
        self._held = ""  # half of a surrogate pair or of a line end, until the other half comes
        self._near = ""  # the last characters that were written
        self._thinking = self._wrote = False
        self._calls = AnswerState("", 0.0, "text")

    def feed(self, column: int, event: Event) -> None:
        """Writes text and reasoning."""
        if not self._one:
            return
        if isinstance(event, Restarted):
            self._write(f"\n[starting again: {plain(event.why)}]\n")
        elif isinstance(event, self._shown) and event.text:
            self._mark(isinstance(event, ReasoningDelta))
            text = self._held + event.text
            self._held = text[-1] if text[-1] == "\r" or "\ud800" <= text[-1] <= "\udbff" else ""
            self._write(self._cleaned(text.removesuffix(self._held)))
            self._wrote = True
        else:
            self._tool(event)

    def _tool(self, event: Event) -> None:
        """Writes a call once it has come to something."""
        self._calls.feed(event, 0.0)
        for piece in self._calls.pieces:
            if piece.call is not None and piece.end is not None:
                self._mark(False)
                self._write(f"\n\n{plain(tool_line(piece.call, piece.end).text)}\n\n")
                self._wrote = True
        self._calls.pieces.clear()
        self._calls.kept = 0

    def _cleaned(self, text: str) -> str:
        """`text` as it may be seen: what hides alone may be honest behind what was written before."""
        before, whole = plain(self._near), plain(self._near + text)
        self._near = (self._near + text)[-_NEAR:]
        return whole.removeprefix(before) if whole.startswith(before) else plain(text)

    def _mark(self, thinking: bool) -> None:
        if thinking != self._thinking:
            self._write("[reasoning]\n" if thinking else "\n[/reasoning]\n\n")
            self._thinking = thinking

    def finish(self, outcomes: Sequence[Outcome]) -> None:
        """Writes what was not in the text: tool calls, how it ended, the figures. An error alone is told by
        the cell."""
        if not self._one:
            self._write(ended([*self._before, *outcomes], "text", html=False)["text/plain"] + "\n")
        elif not outcomes[0].bare:
            self._end(outcomes[0])

    def give_up(self, text: str) -> None:
        """Writes plain text, where the answers could not be written."""
        self._write(f"{plain(text)}\n")

    def _end(self, last: Outcome) -> None:
        self._mark(False)
        if last.table is not None:
            self._write("\n\n" + plain(last.line("text").text) + "\n")
            return
        response = last.response
        if self._wrote:  # only what was not written yet
            told = {e.result.id for e in response.results}
            rest = (p for p in response.parts if not isinstance(p, (Text, Reasoning)))
            left = (p for p in rest if not (isinstance(p, ToolCall) and p.id in told))
            response = replace(response, parts=tuple(left), before=())
        made = final(
            response,
            footer=last.footer,
            error=last.error,
            html=False,
            empty=not self._wrote,
            thoughts=last.thoughts,
        )
        words = made["text/plain"]
        self._write(("\n\n" if self._wrote else "") + words + "\n" if words else "\n")


def _to_stdout(text: str) -> None:
    sys.stdout.write(text)
    sys.stdout.flush()
