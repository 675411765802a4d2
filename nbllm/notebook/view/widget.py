"""An answer while it comes, as values of a widget: finished blocks, and the open end that is drawn again and
again."""

from __future__ import annotations

import time
from collections.abc import Callable

from .incremental import Growing
from .outcome import Painter
from .state import AnswerState
from .static import joined
from .throttle import ENVELOPE, Pace


class WidgetPainter(Painter):
    """Gives frames to `draw`, no oftener than a page keeps up with: done, tail and status."""

    def __init__(self, state: AnswerState, draw: Callable[[dict[str, str]], None]) -> None:
        self._state, self._draw, self._growing = state, draw, Growing(state)
        self._pace, self._done = Pace(None, state.began), ""

    def settle(self, now: float) -> None:
        """Draws, whatever is due."""
        self._draw(self.frame(now))

    def tick(self, now: float) -> None:
        """Draws, where a frame is due."""
        size = 2 * (ENVELOPE + self._growing.size) + len(self._done) // 4
        if self._pace.due(now, **self._growing.new, size=size) or self._pace.idle(now, every=1.0, size=size):
            self._draw(self.frame(now))

    def frame(self, now: float) -> dict[str, str]:
        """The values that show it: what is done, the open end, and the line of figures."""
        began, growing = time.perf_counter(), self._growing
        self._done = "" if growing.void else self._done
        growing.look()
        self._done += joined(growing.done).html
        growing.done = []
        tail = joined(growing.open()).html
        self._pace.sent(now, ENVELOPE + len(tail) + len(self._done) // 4, time.perf_counter() - began)
        return {"done": self._done, "tail": tail, "status": self._state.status(now)}
