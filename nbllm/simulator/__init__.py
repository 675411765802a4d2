"""A loopback provider that speaks the OpenAI, Anthropic, Gemini and Ollama wire formats, with configurable
times and faults.

    with nbllm.simulator.serve(ttft=0.2) as server:
        url = server.base_url("openai_chat")
        nbllm.complete("Why is the sky blue?", model="fast@tokens=40", base_url=url)
        server.records[-1].tokens  # each chunk, with the time of its socket write

`nbllm.simulator.options` describes the options. The server runs in a thread with its own event loop and
stores no API keys. This module imports nothing heavy until a server is started."""

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
    """A scripted conversation as an option of the model's name: f"sim/openai/m@{script([...])}". The module
    `nbllm.simulator.scripts` describes the steps. Raises BadOption."""
    from .scripts import script as encode_script

    return encode_script(steps)


def serve(
    port: int = 0, *, host: str = "127.0.0.1", records: int | None = 10_000, **defaults: Any
) -> Simulator:
    """Starts a simulator and returns it. port: 0 for a free port; records: number of recorded requests, None
    for no limit; defaults: options of requests that set none, such as ttft=0.4 (seconds). Raises BadOption, a
    ValueError, for an unknown option."""
    from .server import Simulator  # imports asyncio and h11 with the first server

    return Simulator(host, port, defaults, records)


def shared() -> Simulator:
    """The shared simulator of this process: started on first use, also in a forked child, and closed at
    exit."""
    global _shared  # noqa: PLW0603 - one per process
    with _lock:
        if _shared is None or _shared[0] != os.getpid() or not _shared[1].serving:
            _shared = (os.getpid(), serve())
            atexit.register(_shared[1].close)
        return _shared[1]


def _after_fork() -> None:
    """Replaces the lock in a forked child: a thread of the parent may have held it."""
    global _lock  # noqa: PLW0603
    _lock = threading.Lock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
