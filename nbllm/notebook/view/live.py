"""Shows an answer while it grows, in few and small messages, and leaves exactly one output of its own. Main
thread only.

Theory. The open end of the answer is the *tail*: one display that is updated. When enough blocks before it
are finished, the tail is updated a last time to just those (they are *frozen*: never sent again, and a user's
selection in them survives), and a new display below becomes the tail. The status line always stands at the
tail's end. `Pace` says when a frame is due. JupyterLab folds a cell's outputs away above 50, so the longer
the answer, the more one display freezes.

At the end `clear_output(wait=True)` and one display of the final bundle replace all this in one step, without
an empty moment between. Whoever saves the notebook before that has frozen blocks and a tail: plain static
text.

Clearing takes everything that the cell has shown, so all this is for an answer that is *alone* in its cell.
Elsewhere (in a loop, after a print, the second of two answers) nothing is frozen and nothing cleared: the
whole answer is the tail, drawn as often as `Pace` allows, and its last update is the final form. Where
something else is shown while blocks are frozen already (a thread prints, a library logs), the first of them
becomes the final form, and the others become empty.
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
    """One answer in one cell: `start()` and `tick(now)` while it comes, `finish([outcome])` once.

    Modes: "live" draws as told above; "plain" the same in text/plain alone; "final" draws nothing before
    `finish`. alone: says whether the cell holds nothing else (by now), so that its outputs may be cleared.
    clears: how often they were cleared, by whomever. place: the id of an empty place at the end of the final
    form, for what can be done with the answer. grown:
    the id of a display that is there already, and all that is drawn in.
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
        self._frozen_ids: list[str] = []  # the displays that are frozen
        self._clear_count, self._clears_seen = clear_count, clear_count()
        self._pace = Pace(budget, state.began)
        self._bytes_per_character = 2.2  # bytes that a frame takes for a character of the tail
        self._has_text = False
        self._frozen_characters = 0  # characters

    def start(self) -> None:
        """Shows the status line."""
        if self._mode != "final":
            self._draw(self._clock())

    # -- when and what to draw --

    def flush(self, now: float) -> None:
        """Draws, whatever is due."""
        if self._mode != "final" and self._growing.pending["chunks"]:
            self._draw(now)

    def tick(self, now: float) -> None:
        """Draws, where a frame is due."""
        if self._mode == "final":
            return
        waited = now - self._state.began
        first = bool(self._state.characters) and not self._has_text  # the first words are shown at once
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
        """Ends the tail's display with the finished blocks, where they are many enough; gives the bytes that
        took."""
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
        """Takes back what was shown: all outputs of the cell are cleared when the next one comes; where they
        are not only ours, one display is left, and its id is given."""
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
        """Knows of no display that a tool of the notebook's has cleared."""
        if self._clear_count() != self._clears_seen:
            self._frozen_ids, self._display_id, self._styled_id = [], "", ""
            self._clears_seen = self._clear_count()

    def _publish(self, lines: list[Rendered]) -> int:
        """Sends the tail's display, a new one where there is none; gives about the bytes that took."""
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
        """Replaces all by the final form. Where an error came before anything else did, the error is all
        there is to see: the cell's own where the answer is alone in it, which would come below other outputs
        elsewhere. told: more lines below it."""
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
        """Leaves plain text, where the final form could not be drawn."""
        display_id = self._withdraw()
        self._port.publish(
            {"text/plain": plain_text(text)}, display_id=display_id or None, update=bool(display_id)
        )
