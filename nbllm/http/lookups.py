"""Name look-ups that can hang without blocking anything else: each runs on its own daemon thread.

asyncio uses a shared pool of a few threads, where hanging look-ups block all others and the exit of the
interpreter. Calls for the same name share one look-up, unless it has been running for long.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import socket
import threading
from typing import Any

_MAX_THREADS = 256  # one per running look-up
# seconds for which a running look-up is shared with later calls; then the network may have changed
_SHARE_SECONDS = 5.0


class Lookups:
    """The look-ups of one event loop."""

    def __init__(self) -> None:
        self._running: dict[Any, tuple[float, asyncio.Future[Any]]] = {}
        self._threads = 0

    async def getaddrinfo(self, host: Any, port: Any, **options: int) -> Any:
        """Like socket.getaddrinfo. Raises OSError, also if too many look-ups are running."""
        loop, key = asyncio.get_running_loop(), (host, port, *options.items())
        started, result = self._running.get(key, (0.0, None))
        if result is None or loop.time() - started > _SHARE_SECONDS:
            result = self._start(loop, key, host, port, options)
        return await asyncio.shield(result)

    def _start(
        self, loop: asyncio.AbstractEventLoop, key: Any, host: Any, port: Any, options: dict[str, int]
    ) -> asyncio.Future[Any]:
        if self._threads >= _MAX_THREADS:
            raise OSError(errno.EAGAIN, f"{_MAX_THREADS} name look-ups are running and none of them ends")
        result: asyncio.Future[Any] = loop.create_future()

        def look_up() -> None:
            try:
                found: Any = socket.getaddrinfo(host, port, **options)
            except Exception as exc:  # noqa: BLE001 - raised in the waiting calls
                found = exc
            with contextlib.suppress(RuntimeError):  # the loop may have ended
                loop.call_soon_threadsafe(self._finish, key, result, found)

        threading.Thread(target=look_up, name="nbllm-lookup", daemon=True).start()
        self._threads, self._running[key] = self._threads + 1, (loop.time(), result)
        return result

    def _finish(self, key: Any, result: asyncio.Future[Any], found: Any) -> None:
        self._threads -= 1
        if self._running.get(key, (0.0, None))[1] is result:
            del self._running[key]
        if isinstance(found, Exception):
            result.set_exception(found)
            result.exception()  # marks it as retrieved, in case no call is waiting
        else:
            result.set_result(found)
