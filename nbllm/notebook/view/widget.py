"""An answer while it comes, as values of a widget: finished blocks, and the open end that is drawn again and
again."""

from __future__ import annotations

import time
from collections.abc import Callable

from .markdown import to_html
from .outcome import Painter
from .state import AnswerState
from .static import Rendered, joined
from .throttle import ENVELOPE, Pace

_INK = 8_000  # characters of a code block that are highlighted


class WidgetPainter(Painter):
    """Gives frames to `draw`, no oftener than a page keeps up with: done, tail and status."""

    def __init__(self, state: AnswerState, draw: Callable[[dict[str, str]], None]) -> None:
        self._state, self._draw = state, draw
        self._pace = Pace(None, state.began)
        self._done, self._drawn, self._restarts = "", 0, state.restarts
        self._chunks = self._total = 0

    def settle(self, now: float) -> None:
        """Draws, whatever is due."""
        self._draw(self.frame(now))

    def tick(self, now: float) -> None:
        """Draws, where a frame is due."""
        state = self._state
        size = (
            2 * ENVELOPE + 2 * (len(state.splitter.tail()) + state.total - self._total) + len(self._done) // 4
        )
        if self._pace.due(
            now, chunks=state.chunks - self._chunks, characters=state.total - self._total, size=size
        ) or self._pace.idle(now, every=1.0, size=size):
            self._draw(self.frame(now))

    def frame(self, now: float) -> dict[str, str]:
        """The values that show it: what is done, the open end, and the line of figures."""
        began, state = time.perf_counter(), self._state
        if state.restarts != self._restarts:
            self._done, self._drawn, self._restarts = "", 0, state.restarts
        for piece in state.pieces[self._drawn :]:
            self._done += piece.drawn(_html).html
        self._drawn = len(state.pieces)
        source = state.splitter.tail()
        thinking = state.thinking() or ([Rendered(_html(source), source)] if source else [])
        tail = joined([*thinking, *state.calling()]).html
        self._chunks, self._total = state.chunks, state.total
        self._pace.sent(now, ENVELOPE + len(tail) + len(self._done) // 4, time.perf_counter() - began)
        return {"done": self._done, "tail": tail, "status": state.status(now)}


def _html(source: str) -> str:
    return to_html(source, typeset=False, ink=_INK)
