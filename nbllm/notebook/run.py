"""The loop over one reply: wait, show, stop when told, and leave nothing behind; and what is made of an answer.

While a cell streams, SIGINT (the Stop button, Ctrl-C) does not raise in the middle of whatever runs: it asks the
engine to cancel the call, which closes the socket, and the loop ends by itself a few milliseconds later with the whole
partial answer. A second SIGINT raises as usual, should something ever hang.

Once an answer is there, nothing may lose it: it is stored first, then checked, converted, and shown; what goes wrong by then
is one of our errors with the answer in it. A drawing that fails ends the drawing, never the answer.
"""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from types import FrameType
from typing import Any, Protocol

from ..errors import NbllmError, after_answer
from ..events import Event, Response
from ..messages import Message, Text
from ..streams import Stream
from ..structured import Mismatch, repair, value_of
from .bundle import Line, error_lines, table
from .session import Asked, Screen, Session

FRAME = 0.05  # seconds between two looks at the log while it grows: 20 frames a second
_TICK = 0.1  # seconds between two looks while nothing comes, for the clock in the status line


class View(Protocol):
    """What shows a reply while it comes."""

    def feed(self, event: Event) -> None:
        """Takes an event into account."""

    def tick(self, now: float | None = None) -> None:
        """Draws, where something is due; `now` in perf_counter seconds."""


class Interrupt:
    """Whether the user asked to stop, and what is stopped then."""

    def __init__(self, streams: tuple[Stream, ...]) -> None:
        self.asked = False
        self.streams = [*streams]

    def stop(self) -> None:
        """Stops all."""
        self.asked = True
        for stream in self.streams:
            stream.cancel()


@contextmanager
def stoppable(*streams: Stream) -> Iterator[Interrupt]:
    """Within, SIGINT cancels the streams instead of raising; the second one raises. Only the main thread gets signals:
    elsewhere KeyboardInterrupt, if it ever comes, passes through."""
    interrupt = Interrupt(streams)
    if threading.current_thread() is not threading.main_thread():
        yield interrupt
        return

    def on_signal(number: int, frame: FrameType | None) -> None:
        if interrupt.asked:
            raise KeyboardInterrupt
        interrupt.stop()

    before = signal.signal(signal.SIGINT, on_signal)
    try:
        yield interrupt
    finally:
        signal.signal(signal.SIGINT, before if before is not None else signal.SIG_DFL)  # None: it was not set from Python


def follow(stream: Stream, view: View) -> None:
    """Shows the stream's events in `view` until it has ended. Where the view fails, the rest is only waited for."""
    place, shown = 0, Drawing()
    while True:
        ended = stream.done
        for _, event in stream.log[place:]:
            shown.do(view.feed, event)
            place += 1
        if ended and place == len(stream.log):
            return
        shown.do(view.tick, time.perf_counter())
        if not stream.wait(place, _TICK):
            continue
        if not stream.done:
            stream.wait_end(FRAME)


class Drawing:
    """Draws until that fails: an answer on its way is not lost by it. The final form is tried again."""

    def __init__(self) -> None:
        self._works = True

    def do(self, draw: Callable[..., Any], *args: Any) -> None:
        """Calls `draw`, unless an earlier call failed."""
        if self._works:
            try:
                draw(*args)
            except Exception:  # noqa: BLE001 - whatever a renderer or a front end's channel raises
                self._works = False


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a question came to: the answer, what as= makes of it, what went wrong in the call, and after it."""

    response: Response
    value: Any = None
    error: NbllmError | None = None
    problem: NbllmError | None = None

    @property
    def failure(self) -> NbllmError | None:
        """What the user is told, with the answer as its `.partial`."""
        found = self.error or self.problem
        if found is not None:
            found.partial = found.partial or self.response
        return found

    @property
    def counts(self) -> bool:
        """Whether the answer is one that a conversation goes on from: not where it has another shape than was asked for."""
        return bool(self.response.parts) and not isinstance(self.problem, Mismatch)


def settle(session: Session, asked: Asked, stream: Stream, watch: Callable[[Stream, str], bool], store: Callable[[Response, Any], None]) -> Outcome:
    """Follows a call to its end with `watch`, stores the answer, and then makes of it what was asked for. An answer that does not
    fit its schema is asked for once more, where `watch` does not say that the user stopped; one that does not come then leaves
    the first in place. `watch` is told why where it starts again; `store` takes the answer, then with it the value made of it.
    """
    going_on = watch(stream, "")
    first = _made(asked, stream, store)
    if not isinstance(first.problem, Mismatch) or not going_on or asked.shape is None:
        return first
    again = _again(asked, first.response, first.problem)
    try:
        stream = session.stream(again)
        watch(stream, "The answer does not fit the schema; it is asked for once more.")
    except NbllmError as error:
        return replace(first, error=error)
    if stream.error is not None or stream.partial().finish_reason == "cancelled" or not stream.partial().parts:
        return replace(first, error=stream.error)
    return _made(again, stream, store)


def _made(asked: Asked, stream: Stream, store: Callable[[Response, Any], None]) -> Outcome:
    response = stream.partial()
    store(response, None)
    if stream.error is not None or response.finish_reason == "cancelled" or asked.shape is None:
        return Outcome(response, error=stream.error)
    wanted = asked.options.get("as")
    try:
        value = value_of(response, asked.shape, wanted)
    except NbllmError as problem:
        return Outcome(response, problem=problem)
    if wanted is None or value is None:
        return Outcome(response)
    store(response, value)
    return Outcome(response, value)


def _again(asked: Asked, response: Response, misfit: Mismatch) -> Asked:
    return replace(asked, parts=(Text(repair(misfit.problems)),), history=(*asked.history, Message("user", asked.parts), response.message))


def drawn(response: Response, draw: Callable[[], None], otherwise: Callable[[str], None]) -> NbllmError | None:
    """Draws the final form, or hands `otherwise` the words of what went wrong; gives that too."""
    try:
        with after_answer(response, "showing it"):
            draw()
    except NbllmError as problem:
        Drawing().do(otherwise, error_lines(problem))
        return problem
    return None


def finish(screen: Screen, asked: Asked, done: Outcome, figures: Line) -> NbllmError | None:
    """Leaves the final form on the screen, the text alone where it cannot be drawn; gives what went wrong."""

    def draw() -> None:
        is_frame = asked.options.get("as") == "df" and done.value is not None
        screen.finish(done.response, figures, done.error, table(done.value, figures, done.response) if is_frame else None)

    return drawn(done.response, draw, lambda words: screen.finish(done.response, figures, done.error, {"text/plain": f"{done.response.text}\n\n{words}"}))
