"""The main thread's loop over one reply: wait, show, stop when told, and leave nothing behind.

While a cell streams, SIGINT (the Stop button, Ctrl-C) does not raise in the middle of whatever runs: it asks the
engine to cancel the call, which closes the socket, and the loop ends by itself a few milliseconds later with the whole
partial answer. A second SIGINT raises as usual, should something ever hang.
"""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Protocol

from ..events import Event
from ..streams import Stream

FRAME = 0.05  # seconds between two looks at the log while it grows: 20 frames a second
_TICK = 0.1  # seconds between two looks while nothing comes, for the clock in the status line


class View(Protocol):
    """What shows a reply while it comes."""

    def feed(self, event: Event) -> None:
        """Takes an event into account."""

    def tick(self, now: float | None = None) -> None:
        """Draws, where something is due; `now` in perf_counter seconds."""


class Interrupt:
    """Whether the person asked to stop."""

    def __init__(self) -> None:
        self.asked = False


@contextmanager
def stoppable(*streams: Stream) -> Iterator[Interrupt]:
    """Within, SIGINT cancels the streams instead of raising; the second one raises. Only the main thread gets signals:
    elsewhere KeyboardInterrupt, if it ever comes, passes through."""
    interrupt = Interrupt()
    if threading.current_thread() is not threading.main_thread():
        yield interrupt
        return

    def on_signal(number: int, frame: FrameType | None) -> None:
        if interrupt.asked:
            raise KeyboardInterrupt
        interrupt.asked = True
        for stream in streams:
            stream.cancel()

    before = signal.signal(signal.SIGINT, on_signal)
    try:
        yield interrupt
    finally:
        signal.signal(signal.SIGINT, before if before is not None else signal.SIG_DFL)  # None: it was not set from Python


def follow(stream: Stream, view: View) -> None:
    """Shows the stream's events in `view` until it has ended."""
    place = 0
    while True:
        ended = stream.done
        for _, event in stream.log[place:]:
            view.feed(event)
            place += 1
        if ended and place == len(stream.log):
            return
        view.tick(time.perf_counter())
        if not stream.wait(place, _TICK):
            continue
        if not stream.done:
            stream.wait_end(FRAME)
