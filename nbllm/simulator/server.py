"""The simulator's thread, event loop and listening socket, and the object that controls them."""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import os
import socket
import threading
import weakref
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

from .connection import Connection
from .guard import Guard
from .options import Options, options_from
from .records import Record, RequestLog
from .routes import FORMATS
from .service import Service

T = TypeVar("T")
_PREFIX = {"openai_chat": "/v1", "openai_responses": "/v1", "gemini": "/v1beta"}
_POLL_S = 0.5  # between checks that the server still runs
_CLOSE_TIMEOUT_S = 5.0  # that closing waits for the server's thread
_running: weakref.WeakSet[Simulator] = weakref.WeakSet()


class Simulator:
    """A running simulator. Use `serve(...)` to start one; close it, or use it in a `with` block."""

    def __init__(self, host: str, port: int, defaults: dict[str, Any], records: int | None) -> None:
        self.host, self._pid = host, os.getpid()
        self._service = Service(options_from(defaults), RequestLog(records))
        self._connections: set[Connection] = set()
        self._listener = socket.create_server(
            (host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET, backlog=4096
        )
        self.port = int(self._listener.getsockname()[1])
        self._loop = asyncio.new_event_loop()
        self._started = threading.Event()
        self._thread = threading.Thread(target=self._run, name=f"nbllm-simulator-{self.port}", daemon=True)
        self._thread.start()
        self._started.wait()
        _running.add(self)

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        guard = Guard(self.host, self.port)
        server = self._loop.run_until_complete(
            self._loop.create_server(
                lambda: Connection(self._service, self._loop, self._track, guard),
                sock=self._listener,
                backlog=4096,
            )
        )
        self._loop.call_soon(self._started.set)
        try:
            self._loop.run_forever()
        finally:
            server.close()
            for connection in list(self._connections):
                connection.transport.abort()
            self._loop.run_until_complete(asyncio.sleep(0))  # lets the transports close their sockets
            self._loop.close()

    def _track(self, connection: Connection, is_open: bool) -> None:
        (self._connections.add if is_open else self._connections.discard)(connection)

    @property
    def serving(self) -> bool:
        """Whether the server is running."""
        return self._thread.is_alive()

    @property
    def url(self) -> str:
        """The server's address, such as http://127.0.0.1:40123."""
        return f"http://{f'[{self.host}]' if ':' in self.host else self.host}:{self.port}"

    def base_url(self, dialect: str) -> str:
        """The base URL for a client of `dialect` (openai_chat, openai_responses, anthropic, gemini,
        ollama)."""
        if dialect not in FORMATS:
            raise ValueError(f"The simulator does not speak {dialect!r}. It speaks {', '.join(FORMATS)}.")
        return self.url + _PREFIX.get(dialect, "")

    @property
    def defaults(self) -> Options:
        """The options of requests that set none."""
        return self._service.defaults

    @property
    def records(self) -> list[Record]:
        """A snapshot of the requests and answers, in order of arrival. Taken on the server's own loop, so
        that it contains everything that a client has read."""
        return self._run_on_loop(self._service.log.snapshot)

    def record(self, id: str) -> Record | None:
        """The record with this id (the answer's id, and its x-request-id header)."""
        return next((r for r in self.records if r.id == id), None)

    def settled(self, timeout: float = 10.0) -> list[Record]:
        """The records, once no request is being answered. Raises TimeoutError after `timeout` seconds."""
        return self._await(self._settled(timeout))

    async def _settled(self, seconds: float) -> list[Record]:
        async with asyncio.timeout(seconds):
            # for tests; an event would cost time at every chunk
            while any(c.writer for c in self._connections):  # noqa: ASYNC110
                await asyncio.sleep(0.002)
        return self._service.log.snapshot()

    def reset(self) -> None:
        """Deletes records and counted failures, and unloads all models."""
        self._run_on_loop(self._service.reset)

    def _run_on_loop(self, function: Callable[[], T]) -> T:
        async def is_open() -> T:
            return function()

        return self._await(is_open()) if self._loop.is_running() else function()

    def _await(self, coroutine: Coroutine[Any, Any, T]) -> T:
        future = asyncio.run_coroutine_threadsafe(coroutine, self._loop)
        while not concurrent.futures.wait([future], _POLL_S).done:
            if not self._thread.is_alive():  # closed meanwhile
                raise RuntimeError("The simulator is closed.")
        return future.result()

    def close(self) -> None:
        """Stops serving. Open connections are dropped; records stay readable."""
        if os.getpid() != self._pid or not self._thread.is_alive():
            return
        with contextlib.suppress(RuntimeError):  # closed by another thread meanwhile
            self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(_CLOSE_TIMEOUT_S)

    def __enter__(self) -> Simulator:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"Simulator({self.url})"

    def release_sockets(self) -> None:
        """In a forked child: releases the parent's sockets, because their clients would otherwise not notice
        when the parent closes them. The descriptors are replaced, not closed: their objects may close them
        again."""
        null = os.open(os.devnull, os.O_RDWR)
        for sock in [self._listener, *(c.sock for c in self._connections)]:
            if sock.fileno() >= 0:
                os.dup2(null, sock.fileno())
        os.close(null)


def _release_all_sockets() -> None:
    for simulator in list(_running):
        simulator.release_sockets()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_release_all_sockets)
