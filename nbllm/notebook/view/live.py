"""Displays one answer in a cell while it grows, in few and small messages, and leaves exactly one output.
Main thread only.

Theory. The open end of the answer is the *tail*: a display that is updated. When enough blocks before it are
finished, the tail is updated a last time to just these blocks (they are *frozen*: never sent again, and a
user's selection in them survives), and a new display below becomes the tail. The status line is always at the
end of the tail. `Pace` decides when a frame is due. JupyterLab collapses more than 50 outputs of a cell, so
the longer the answer, the more one display freezes.

At the end `clear_output(wait=True)` and one display of the final bundle replace all this in one step, without
an empty moment. A notebook saved before that contains frozen blocks and a tail: plain static text.

Clearing removes everything that the cell has displayed, so it is used only if the answer is *alone* in its
cell. Otherwise (in a loop, after a print, the second of two answers) nothing is frozen and nothing cleared:
the whole answer is the tail, drawn as often as `Pace` allows, and its last update is the final form. If
something else is displayed after blocks were frozen (a thread prints, a library logs), the first frozen
display becomes the final form, and the others become empty.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from typing import Literal
from uuid import uuid4

from .frontend import KernelPort
from .hidden import plain_text
from .incremental import GrowingAnswer, concatenate, without_typesetting
from .outcome import Outcome, Painter
from .state import AnswerState
from .static import Rendered, join_rendered, provenance, render_answer, to_bundle
from .styles import container
from .throttle import ENVELOPE, Budget, Pace

Mode = Literal["live", "final", "plain"]

_FREEZE = 400  # characters of finished blocks that are worth a display of their own,
_FREEZE_SHARE = 0.12  # and their share of what is frozen already
_MOST_DISPLAYS = 45


class LivePainter(Painter):
    """One answer in one cell: `start()` and `tick(now)` while it arrives, `finish([outcome])` once.

    Modes: "live" as described above; "plain" the same with text/plain only; "final" draws nothing before
    `finish`. is_alone: tells whether the cell has no other output (at that moment), so that its outputs may
    be cleared. clear_count: tells how often outputs were cleared, by anyone. actions_id: the id of an empty
    element at the end of the final form, for the buttons. display_id: an existing display in which everything
    is drawn.
    """

    def __init__(
        self,
        port: KernelPort,
        state: AnswerState,
        *,
        mode: Mode = "live",
        is_alone: Callable[[], bool] = lambda: True,
        clear_count: Callable[[], int] = lambda: 0,
        actions_id: str = "",
        display_id: str = "",
        budget: Budget | None = None,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        self._port, self._state, self._mode, self._clock, self._is_alone = port, state, mode, clock, is_alone
        self._actions_id, self._display_id, self._styled_id = actions_id, display_id, ""
        if display_id:
            self._is_alone = lambda: False
        self._growing = GrowingAnswer(state)
        self._frozen_ids: list[str] = []  # ids of the frozen displays
        self._clear_count, self._clears_seen = clear_count, clear_count()
        self._pace = Pace(budget, state.began)
        self._bytes_per_character = 2.2  # bytes of a frame per character of the tail
        self._has_text = False
        self._frozen_characters = 0  # characters

    def start(self) -> None:
        """Shows the status line."""
        if self._mode != "final":
            self._draw(self._clock())

    # -- when and what to draw --

    def flush(self, now: float) -> None:
        """Draws all pending chunks."""
        if self._mode != "final" and self._growing.pending["chunks"]:
            self._draw(now)

    def tick(self, now: float) -> None:
        """Draws a frame if one is due."""
        if self._mode == "final":
            return
        waited = now - self._state.began
        first = bool(self._state.characters) and not self._has_text  # the first text is shown at once
        size = 2 * ENVELOPE + self._growing.size * self._bytes_per_character
        if (
            first
            or self._pace.is_due(now, **self._growing.pending, size=size)
            or self._pace.is_idle(now, every=1.0 if waited < 10 else 5.0, size=size)
        ):
            self._draw(now)

    def _draw(self, now: float) -> None:
        began, size, growing = self._clock(), 0, self._growing
        self._drop_cleared_displays()
        if growing.is_outdated:
            self._withdraw()
            self._frozen_characters, size = 0, ENVELOPE
        growing.update()
        size += self._freeze()
        tail = self._publish(
            [*without_typesetting(growing.finished), *growing.open_lines(), growing.status_line(now)]
        )
        size += tail
        self._bytes_per_character = max(2.2, (tail - 2 * ENVELOPE) / max(growing.size, 1_000))
        self._has_text = self._state.characters > 0
        self._pace.record_frame(now, size, self._clock() - began)

    def _freeze(self) -> int:
        """Freezes the finished blocks in the tail's display if there are enough; returns the bytes sent."""
        length = sum(len(line.text) for line in self._growing.finished)
        if (
            length < max(_FREEZE, _FREEZE_SHARE * self._frozen_characters)
            or len(self._frozen_ids) >= _MOST_DISPLAYS
            or not self._is_alone()
        ):
            return 0
        size = self._publish(self._growing.finished)
        self._frozen_ids.append(self._display_id)
        self._growing.finished, self._display_id = [], ""
        self._frozen_characters += length
        return size

    def _withdraw(self) -> str:
        """Withdraws the displays: the cell's outputs are cleared when the next one arrives. If the cell has
        other outputs, one display is kept, and its id returned."""
        self._drop_cleared_displays()
        display_ids = [*self._frozen_ids, *filter(None, [self._display_id])]
        self._frozen_ids, self._display_id, self._styled_id = [], "", ""
        if display_ids and self._is_alone():
            self._port.clear(wait=True)
            self._clears_seen = self._clear_count()
        elif display_ids:
            self._display_id = display_ids[0]
            for other in display_ids[1:]:
                self._port.publish({"text/plain": ""}, display_id=other, update=True)
        return self._display_id

    def _drop_cleared_displays(self) -> None:
        """Forgets displays that were cleared by someone else."""
        if self._clear_count() != self._clears_seen:
            self._frozen_ids, self._display_id, self._styled_id = [], "", ""
            self._clears_seen = self._clear_count()

    def _publish(self, lines: list[Rendered]) -> int:
        """Sends the tail's display, a new one if there is none; returns the approximate size in bytes."""
        update = bool(self._display_id)
        self._display_id = self._display_id or uuid4().hex
        self._styled_id = self._styled_id or self._display_id
        content, has_style = concatenate(lines), self._display_id == self._styled_id
        data = {"text/plain": content.text}
        if self._mode == "live":
            data["text/html"] = container(content.html, style=has_style, grows=True)
        self._port.publish(data, display_id=self._display_id, update=update)
        return ENVELOPE + sum(
            len(json.dumps(text, ensure_ascii=False).encode("utf-8", "replace")) for text in data.values()
        )

    # -- the end --

    def finish(self, outcomes: Sequence[Outcome], notes: Sequence[Rendered] = ()) -> None:
        """Replaces everything by the final form. If there is only an error, the cell's own error is enough
        where the answer is alone; otherwise the error is displayed here. notes: more lines below it."""
        [ended] = outcomes
        display_id = self._withdraw()
        if ended.is_only_error and not display_id and self._is_alone():
            return
        line = (
            join_rendered(render_answer(ended.response, error=ended.error))
            if ended.is_only_error
            else ended.render(self._state.format)
        )
        line = join_rendered([line, *notes])
        if self._actions_id and not ended.is_only_error:
            line = Rendered(f"{line.html}<div class=nbllm-acts id={self._actions_id}></div>", line.text)
        self._state.display_id = display_id or self._actions_id
        self._port.publish(
            to_bundle(line, html=self._mode != "plain"),
            display_id=self._state.display_id or None,
            update=bool(display_id),
            metadata={"nbllm": provenance(ended.response)},
        )

    def give_up(self, text: str) -> None:
        """Displays plain text after the final form failed."""
        display_id = self._withdraw()
        self._port.publish(
            {"text/plain": plain_text(text)}, display_id=display_id or None, update=bool(display_id)
        )
