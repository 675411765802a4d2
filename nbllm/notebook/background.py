"""bg=true: the prompt comes back at once, the answer grows in its own cell, and the variable is a Stream until it is done.

Where nobody watches (nbclient, papermill, nbval) a notebook is saved when its last cell has ended, so there such a cell waits.
What is drawn later is an update of the display that the cell has made, so it stays in that cell whatever runs meanwhile.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from contextvars import copy_context
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from ..errors import AnswerProcessingError, ConfigError, in_a_line
from ..events import Response, Restarted
from ..streams import Stream
from .bundle import footer
from .comparing import finish_columns, follow_all
from .port import KernelPort, where
from .run import Drawing, Outcome, settle
from .side import Column, Entry, Side

if TYPE_CHECKING:
    from .session import Asked, Session


def wanted(session: Session, asked: Asked) -> bool:
    """Whether a cell goes to the background: it says so, and somebody watches."""
    return bool(asked.options.get("bg")) and where(session.shell, str(asked.options.get("render", "auto"))) != "final"


def begin(session: Session, asked: Asked, out: str | None, kept: Callable[[Response], None]) -> Stream:
    """Asks, shows the beginning, and lets a thread do the rest. Raises ConfigError for what is wrong on this side."""
    terminal, format = where(session.shell) == "terminal", str(asked.options.get("format", "md"))
    column = Column(asked.model, time.perf_counter())
    shown = not (terminal or asked.options.get("quiet"))
    side = Side(KernelPort(session.shell), [column], mode="plain" if asked.options.get("render") == "plain" else "live" if shown else "hidden", format=format, in_place=True)
    stream = session.stream(asked)
    Drawing().do(side.start)
    session.touch()
    run = _Run(session, asked, side, column, [name for name in (out, "_llm") if name])
    run.put(stream)
    session.running.append(stream)
    if terminal:
        session.say(f"Asked in the background: {run.names[0]} is a Stream until the answer is there.")
    threading.Thread(target=copy_context().run, args=(run.rest, stream, kept), name="nbllm-background", daemon=True).start()
    return stream


@dataclass(slots=True)
class _Run:
    """A cell in the background. `mine` is what it has put into its variables: a name that holds something else by now was used
    otherwise meanwhile, and is left alone."""

    session: Session
    asked: Asked
    side: Side
    column: Column
    names: list[str]
    mine: list[object] = field(default_factory=list)
    streams: list[Stream] = field(default_factory=list)

    def put(self, value: object) -> None:
        """Sets the variables: the one named in out= to `value`, `_llm` to no value that was made of an answer."""
        space = self.session.namespace
        for name in self.names:
            ours = not self.mine or any(space.get(name) is known for known in self.mine)
            if ours and (name != "_llm" or isinstance(value, (Stream, Response))):
                space[name] = value
        self.mine.append(value)

    def store(self, response: Response, value: Any) -> None:
        """Keeps the answer, then what was made of it."""
        self.session.asked, self.session.last, self.session.comparison = self.asked, response, None
        self.put(response if value is None else value)

    def watch(self, stream: Stream, why: str) -> bool:
        """Shows a stream while it comes; whether it may be followed by another one."""
        if why:
            self.session.running.append(stream)
            self.column.feed(Restarted(why), time.perf_counter())
        try:
            self.column.ended = None
            follow_all([stream], self.side, [self.column], 0)
        finally:
            self.session.running.remove(stream)
        return stream.partial().finish_reason != "cancelled"

    def rest(self, stream: Stream, kept: Callable[[Response], None]) -> None:
        """All that comes after the prompt is back. However it ends, the cell's display, its variables and `%llm stop` end too."""
        done = Outcome(Response())
        try:
            done = settle(self.session, self.asked, stream, self.watch, self.store)
            if done.counts and done.failure is None:
                kept(done.response)
        except BaseException as error:  # noqa: BLE001 - even SystemExit: nobody else would tell, and the cell would wait for ever
            stream.cancel()
            answer = stream.partial()
            done = Outcome(answer, problem=AnswerProcessingError(f"The background answer could not be finished: {in_a_line(error)}",
                                                                 partial=answer, hint="What came is in the cell's variable."))
            if self.mine == [stream]:
                self.store(answer, None)
        finish_columns(self.side, [Entry(self.asked.model, done.response, done.failure, footer(done.response, filled=self.asked.filled, attached=self.asked.attached))])


def stop(session: Session, _rest: str) -> str:
    """Stops what is answered in the background."""
    running = session.running[:]
    if not running:
        raise ConfigError("Nothing runs in the background.", hint="A cell with bg=true does; ■ stops the cell that runs.")
    for stream in running:
        stream.cancel()
    return f"Stopped {len(running)} answer{'s' * (len(running) > 1)}."
