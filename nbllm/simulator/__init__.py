"""A loopback provider that speaks the OpenAI, Anthropic, Gemini and Ollama wire formats, with chosen times
and faults.

    with nbllm.simulator.serve(ttft=0.2) as server:
        nbllm.complete("Why is the sky blue?", model="fast@tokens=40",
        base_url=server.base_url("openai_chat")) server.records[-1].tokens      # each chunk, with the moment
        of its socket write

What can be chosen, and how, is in `nbllm.simulator.options`. The server runs in a thread with a loop of its
own and keeps no keys. This module imports nothing heavy until a server is asked for.
"""

from __future__ import annotations

import atexit
import os
import threading
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from .records import Chunk, Record

if TYPE_CHECKING:
    from .server import Simulator

__all__ = ["Chunk", "Record", "script", "serve", "shared"]

_lock = threading.Lock()
_shared: tuple[int, Simulator] | None = None


def script(steps: Iterable[Mapping[str, Any]]) -> str:
    """The model's turns of a conversation as an option of its name, f"sim/openai/m@{script([...])}"; steps as
    `nbllm.simulator.scripts` tells. Raises BadOption."""
    from .scripts import script as made

    return made(steps)


def serve(
    port: int = 0, *, host: str = "127.0.0.1", records: int | None = 10_000, **defaults: Any
) -> Simulator:
    """Starts a simulator and returns it. port 0 takes a free one; records: how many requests are remembered;
    defaults: options of requests that choose none, such as ttft=0.4 (seconds). Raises BadOption, a
    ValueError, for an unknown option."""
    from .server import Simulator  # asyncio and h11 come with the first server

    return Simulator(host, port, defaults, records)


def shared() -> Simulator:
    """The one simulator of this process, started on first use, and again in a forked child. Closed at
    exit."""
    global _shared  # noqa: PLW0603 - one per process is the point
    with _lock:
        if _shared is None or _shared[0] != os.getpid() or not _shared[1].serving:
            _shared = (os.getpid(), serve())
            atexit.register(_shared[1].close)
        return _shared[1]


def _after_fork() -> None:
    """A child must not wait for a lock that a thread of its parent held."""
    global _lock  # noqa: PLW0603
    _lock = threading.Lock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
