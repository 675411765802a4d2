"""An answer while it arrives, as traits of a widget: finished blocks, and the open end of each frame."""

from __future__ import annotations

import time
from collections.abc import Callable

from .incremental import GrowingAnswer
from .outcome import Painter
from .state import AnswerState
from .static import join_rendered
from .throttle import ENVELOPE, Pace


class WidgetPainter(Painter):
    """Passes frames (done, tail and status) to `draw`, no more often than a page can handle."""

    def __init__(self, state: AnswerState, draw: Callable[[dict[str, str]], None]) -> None:
        self._state, self._draw, self._growing = state, draw, GrowingAnswer(state)
        self._pace, self._done = Pace(None, state.began), ""

    def flush(self, now: float) -> None:
        """Draws a frame now."""
        self._draw(self.build_frame(now))

    def tick(self, now: float) -> None:
        """Draws a frame if one is due."""
        size = 2 * (ENVELOPE + self._growing.size) + len(self._done) // 4
        if self._pace.is_due(now, **self._growing.pending, size=size) or self._pace.is_idle(
            now, every=1.0, size=size
        ):
            self._draw(self.build_frame(now))

    def build_frame(self, now: float) -> dict[str, str]:
        """The trait values: the finished part, the open end, and the status line."""
        began, growing = time.perf_counter(), self._growing
        self._done = "" if growing.is_outdated else self._done
        growing.update()
        self._done += join_rendered(growing.finished).html
        growing.finished = []
        tail = join_rendered(growing.open_lines()).html
        self._pace.record_frame(now, ENVELOPE + len(tail) + len(self._done) // 4, time.perf_counter() - began)
        return {"done": self._done, "tail": tail, "status": self._state.status(now)}
