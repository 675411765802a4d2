"""bg=true: the prompt comes back at once, the answer grows in its own cell, and the variable is a Stream until it is done.

Where nobody watches (nbclient, papermill, nbval) a notebook is saved when its last cell has ended, so there such a cell waits.
What is drawn later is an update of the display that the cell has made, so it stays in that cell whatever runs meanwhile.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from contextvars import copy_context
from typing import TYPE_CHECKING, Any

from ..errors import ConfigError, NbllmError
from ..events import Response
from .bundle import footer
from .port import KernelPort, where
from .side import Column, Entry, Side

if TYPE_CHECKING:
    from ..streams import Stream
    from .session import Asked, Session


def wanted(session: Session, asked: Asked) -> bool:
    """Whether a cell goes to the background: it says so, and somebody watches."""
    render = str(asked.options.get("render", "auto"))
    return bool(asked.options.get("bg")) and (where(session.shell) if render == "auto" else render) != "final"


def begin(session: Session, asked: Asked, out: str | None, kept: Callable[[Response], None]) -> Stream:
    """Asks, shows the beginning, and lets a thread do the rest. Raises ConfigError for what is wrong on this side."""
    from .comparing import follow_all

    terminal, format = where(session.shell) == "terminal", str(asked.options.get("format", "md"))
    column = Column(asked.model, time.perf_counter())
    shown = not (terminal or asked.options.get("quiet"))
    side = Side(KernelPort(session.shell), [column], mode="plain" if asked.options.get("render") == "plain" else "live" if shown else "hidden", format=format, in_place=True)
    stream = session.stream(asked)
    side.start()
    names = [name for name in (out, "_llm") if name]
    for name in names:
        session.namespace[name] = stream
    session.running.append(stream)
    if terminal:
        session.say(f"Asked in the background: {names[0]} is a Stream until the answer is there.")

    def rest() -> None:
        follow_all([stream], side, [column], 0)
        value, response, error = _outcome(asked, stream)
        session.running.remove(stream)
        session.asked, session.last, session.comparison = asked, response, None
        for name in names:
            if session.namespace.get(name) is stream:  # the person may have used the name for something else meanwhile
                session.namespace[name] = response if value is None or name == "_llm" else value
        if response.parts and error is None:
            kept(response)
        side.finish([Entry(asked.model, response, error, footer(response, filled=asked.filled, attached=asked.attached))])

    threading.Thread(target=copy_context().run, args=(rest,), name="nbllm-background", daemon=True).start()
    return stream


def _outcome(asked: Asked, stream: Stream) -> tuple[Any, Response, NbllmError | None]:
    from .cell import valued

    response, error = stream.partial(), stream.error
    value, misfit = (None, None) if error or response.finish_reason == "cancelled" else valued(asked, response)
    return value, response, error or misfit


def stop(session: Session, _rest: str) -> str:
    """Stops what is answered in the background."""
    running = session.running[:]
    if not running:
        raise ConfigError("Nothing runs in the background.", hint="A cell with bg=true does; ■ stops the cell that runs.")
    for stream in running:
        stream.cancel()
    return f"Stopped {len(running)} answer{'s' * (len(running) > 1)}."
