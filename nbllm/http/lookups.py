"""Name look-ups that may hang without holding anything else up: each on a daemon thread of its own.

asyncio's own run on a shared pool of a few threads: those that hang keep all others waiting, and the
interpreter from ending. Calls that want the same name share one look-up, unless it has been under way for
long.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import socket
import threading
from typing import Any

_MAX_THREADS = 256  # threads; each look-up that hangs is one
# seconds after which a look-up is not waited for by those who come later: the network may be another by then
_SHARE_SECONDS = 5.0


class Lookups:
    """The look-ups of one event loop."""

    def __init__(self) -> None:
        self._running: dict[Any, tuple[float, asyncio.Future[Any]]] = {}
        self._threads = 0

    async def find(self, host: Any, port: Any, **how: int) -> Any:
        """As socket.getaddrinfo. Raises OSError, also where too many look-ups hang already."""
        loop, key = asyncio.get_running_loop(), (host, port, *how.items())
        began, result = self._running.get(key, (0.0, None))
        if result is None or loop.time() - began > _SHARE_SECONDS:
            result = self._begin(loop, key, host, port, how)
        return await asyncio.shield(result)

    def _begin(
        self, loop: asyncio.AbstractEventLoop, key: Any, host: Any, port: Any, how: dict[str, int]
    ) -> asyncio.Future[Any]:
        if self._threads >= _MAX_THREADS:
            raise OSError(errno.EAGAIN, f"{_MAX_THREADS} name look-ups are under way, and none of them ends")
        result: asyncio.Future[Any] = loop.create_future()

        def look() -> None:
            try:
                found: Any = socket.getaddrinfo(host, port, **how)
            except Exception as exc:  # noqa: BLE001 - whatever it is, it belongs to those who wait
                found = exc
            with contextlib.suppress(RuntimeError):  # the loop has ended meanwhile
                loop.call_soon_threadsafe(self._ended, key, result, found)

        threading.Thread(target=look, name="nbllm-lookup", daemon=True).start()
        self._threads, self._running[key] = self._threads + 1, (loop.time(), result)
        return result

    def _ended(self, key: Any, result: asyncio.Future[Any], found: Any) -> None:
        self._threads -= 1
        if self._running.get(key, (0.0, None))[1] is result:
            del self._running[key]
        if isinstance(found, Exception):
            result.set_exception(found)
            result.exception()  # nobody may be waiting any more
        else:
            result.set_result(found)
