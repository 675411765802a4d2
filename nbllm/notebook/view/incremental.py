"""Incremental rendering of a growing answer: finished pieces are rendered once, the open end again at each
frame. All painters use it, so that a cell, its columns and the chat panel look alike.

Formulas stay source in the open end, and in lines of `without_typesetting`, since finished pieces are sent
again and again: typesetting them at each frame would flicker. They are marked, so that the page can typeset
them once (`stops.js`).
"""

from __future__ import annotations

from typing import Any

from .hidden import clean
from .markdown import plain_html, to_html
from .math import CLOSED, TYPESET
from .state import AnswerState
from .static import Rendered

_MAX_HIGHLIGHTED = 8_000  # characters of a code block that are highlighted while it grows
_LONG_TAIL = 1_000  # characters of an open code block or list that are drawn at each frame


class GrowingAnswer:
    """The rendered part of one answer. finished: rendered pieces, until a painter takes them. chunks,
    characters: those of the state at the last update."""

    def __init__(self, state: AnswerState) -> None:
        self.state = state
        self.reset()

    def reset(self) -> None:
        """Forgets everything rendered."""
        self.finished: list[Rendered] = []
        self._references: dict[str, Any] = {}
        self._drawn = self.chunks = self.total = 0
        self._restarts = self.state.restarts

    @property
    def is_outdated(self) -> bool:
        """Whether the answer was restarted since the last update."""
        return self._restarts != self.state.restarts

    @property
    def pending(self) -> dict[str, int]:
        """Chunks and characters since the last update."""
        return {"chunks": self.state.chunks - self.chunks, "characters": self.state.characters - self.total}

    def update(self) -> None:
        """Renders the pieces that are finished by now; all of them after a restart."""
        state = self.state
        if self.is_outdated:
            self.reset()
        state.split_tail(_LONG_TAIL)
        self.finished += [piece.render(self._html) for piece in state.pieces[self._drawn :]]
        self._drawn = len(state.pieces)
        self.chunks, self.total = state.chunks, state.characters

    @property
    def size(self) -> int:
        """Characters that a painter has not taken yet."""
        ahead = sum(len(piece.source) for piece in self.state.pieces[self._drawn :])
        return len(self.state.splitter.tail()) + ahead + sum(len(line.text) for line in self.finished)

    def open_lines(self) -> list[Rendered]:
        """The open end: reasoning or text, and calls in progress."""
        source = self.state.splitter.tail()
        text = [Rendered(self._html(source, growing=True), clean(source))] if source else []
        calls = [Rendered(line.html, f"\n{line.text}\n") for line in self.state.call_lines()]
        return [*self.state.reasoning_lines(), *text, *calls]

    def status_line(self, now: float) -> Rendered:
        """The status line, separated from the text above it."""
        line = self.state.status_line(now)
        return Rendered(line.html, f"\n\n{line.text}" if self.state.characters else line.text)

    def _html(self, source: str, *, growing: bool = False) -> str:
        if self.state.format != "md":
            return plain_html(source.removesuffix("\n" * (not growing)))
        known = dict(self._references) if growing else self._references
        return to_html(source, references=known, typeset=not growing, highlight_limit=_MAX_HIGHLIGHTED)


def concatenate(lines: list[Rendered]) -> Rendered:
    """The pieces joined without separators."""
    return Rendered("".join(line.html for line in lines), "".join(line.text for line in lines))


def without_typesetting(lines: list[Rendered]) -> list[Rendered]:
    """The pieces with formulas marked as source."""
    return [Rendered(line.html.replace(TYPESET, CLOSED), line.text) for line in lines]
