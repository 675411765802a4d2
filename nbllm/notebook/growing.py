"""An answer while it comes, as HTML in two pieces: finished blocks, and the open end that is drawn again and again."""

from __future__ import annotations

import time
from collections.abc import Callable

from ..events import Event, MediaDelta, ReasoningDelta, Restarted, TextDelta, ToolCallDelta
from ..messages import caption
from .blocks import Blocks
from .bundle import count, note_line, seconds
from .hidden import clean
from .markdown import code_html, plain_html, reasoning_html, to_html
from .pace import ENVELOPE, Pace

_INK = 8_000  # characters of a code block that are highlighted


class Growing:
    """Takes events, and gives frames to `draw`: no oftener than a page keeps up with."""

    def __init__(self, model: str, draw: Callable[[dict[str, str]], None]) -> None:
        self._began, self._model, self._draw = time.perf_counter(), model, draw
        self._pace = Pace(None, self._began)
        self._clear()

    def _clear(self) -> None:
        self._blocks, self._done, self._thought, self._call = Blocks(), "", "", ""
        self._chunks = self._characters = self._total = 0

    def feed(self, event: Event) -> None:
        """Takes an event into account."""
        if isinstance(event, Restarted):
            self._clear()
        elif isinstance(event, TextDelta):
            if self._thought and event.text:
                self._done, self._thought = self._done + reasoning_html(self._thought.strip()), ""
            self._done += "".join(to_html(source, typeset=False, ink=_INK) for source in self._blocks.feed(event.text))
            self._grew(event.text)
        elif isinstance(event, ReasoningDelta):
            self._thought += event.text
            self._grew(event.text)
        elif isinstance(event, MediaDelta) and not event.append:
            self._done += to_html(self._blocks.tail(), typeset=False, ink=_INK) + note_line(caption(event.part)).html
            self._blocks = Blocks()
            self._grew(" ")
        elif isinstance(event, ToolCallDelta):
            self._call += (event.name or "") + event.arguments
            self._grew(event.arguments)

    def _grew(self, text: str) -> None:
        self._chunks += 1
        self._characters += len(text)
        self._total += len(text)

    def tick(self, now: float | None = None) -> None:
        """Draws, where a frame is due."""
        if self._due(time.perf_counter() if now is None else now):
            self._draw(self.frame())

    def _due(self, now: float) -> bool:
        size = 2 * ENVELOPE + 2 * (len(self._blocks.tail()) + self._characters) + len(self._done) // 4
        return self._pace.due(now, chunks=self._chunks, characters=self._characters, size=size) or self._pace.idle(now, every=1.0, size=size)

    def frame(self) -> dict[str, str]:
        """The values that show it: what is done, the open end, and a line about it."""
        began, source = time.perf_counter(), self._blocks.tail()
        tail = to_html(source, typeset=False, ink=_INK) if source else ""
        if self._thought:
            tail = f"<div class=nbllm-think>{plain_html(clean(self._thought[-600:].strip()))}</div>"
        if self._call:
            tail += code_html(clean(self._call[-300:]))
        elapsed = began - self._began
        made = f"{seconds(elapsed)} · ≈ {count(self._total // 4)} tokens" if self._total else f"waiting for the first token… {elapsed:.0f} s"
        self._chunks = self._characters = 0
        self._pace.sent(began, ENVELOPE + len(tail) + len(self._done) // 4, time.perf_counter() - began)
        return {"done": self._done, "tail": tail, "status": f"{self._model} · {made}"}
