"""The thread on whose event loop all input and output runs, so that connections outlive cells.

There is one engine per process. It starts with the first call, survives any number of the caller's own loops,
is dropped in a forked child (threads do not cross a fork; the child starts its own) and ends with the
interpreter.
"""

from __future__ import annotations

import asyncio
import atexit
import contextlib
import os
import threading
from collections.abc import Awaitable, Callable, Coroutine, Iterable
from concurrent.futures import Future
from typing import Any, TypeAlias, TypeVar

from ..http.stamps import LoopClock, new_event_loop
from .reader_tasks import set_result

T = TypeVar("T")
Closer = Callable[[], Awaitable[None]]
# A lock that a thread waits to acquire, or the future of a coroutine.
Waiter: TypeAlias = "threading.Lock | asyncio.Future[None]"


class Engine:
    """An event loop on a daemon thread."""

    def __init__(self) -> None:
        self._closers: list[Closer] = []
        self._singletons: dict[Any, Any] = {}
        self.pid = os.getpid()
        self._pending_wakes: list[Waiter] = []
        self.loop = new_event_loop()
        self._clock: LoopClock | None = getattr(self.loop, "clock", None)
        self._thread = threading.Thread(target=self._run, name="nbllm-engine", daemon=True)
        self._thread.start()

    def _run(self) -> None:
        asyncio.set_event_loop(self.loop)
        self.loop.run_forever()

    def is_here(self) -> bool:
        """Whether the caller runs on the engine's thread."""
        return threading.current_thread() is self._thread

    def submit(self, work: Coroutine[Any, Any, T]) -> Future[T]:
        """Runs `work` on the engine's loop; the future may be waited for on any other thread."""
        return asyncio.run_coroutine_threadsafe(work, self.loop)

    def run(self, work: Coroutine[Any, Any, T], timeout: float | None = None) -> T:
        """Runs `work` and waits for its value; an interrupt (Stop, Ctrl-C) and a timeout cancel it. Must not
        be called on the engine's own thread."""
        future = self.submit(work)
        try:
            return future.result(timeout)
        except (KeyboardInterrupt, TimeoutError):
            future.cancel()
            raise

    def singleton(self, kind: Callable[[], T]) -> T:
        """The process's only value of this kind, made at its first use; it lives as long as the engine."""
        value: T = self._singletons.get(kind) or self._singletons.setdefault(kind, kind())
        return value

    def wake(self, waiters: list[Waiter]) -> None:
        """Wakes waiters at the end of this turn of the loop: a wake-up is slow while this thread is still
        busy, and those of one turn go together. On the engine's thread."""
        for one in waiters:
            if isinstance(one, asyncio.Future) and one.get_loop() is self.loop:
                set_result(one)
            else:
                self._pending_wakes.append(one)
        if self._clock is not None:
            self._clock.before = self._wake_pending
        else:
            self.loop.call_soon(self._wake_pending)

    def _wake_pending(self) -> None:
        woken, self._pending_wakes = self._pending_wakes, []
        wake(woken)

    def at_close(self, closer: Closer) -> None:
        """Registers a function that is awaited before the loop ends."""
        self._closers.append(closer)

    async def _shut_down(self) -> None:
        tasks = [t for t in asyncio.all_tasks() if t is not asyncio.current_task()]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        for closer in reversed(self._closers):
            await closer()
        await self.loop.shutdown_asyncgens()

    def close(self, timeout: float = 2.0) -> None:
        """Cancels all tasks, closes connections and ends the thread; waits at most `timeout` seconds."""
        if self.loop.is_closed():
            return
        # A connection that does not close must not keep the interpreter from ending.
        with contextlib.suppress(TimeoutError):
            self.submit(self._shut_down()).result(timeout)
        self.loop.call_soon_threadsafe(self.loop.stop)
        self._thread.join(timeout)
        if not self._thread.is_alive():
            self.loop.close()


def wake(waiters: Iterable[Waiter]) -> None:
    """Wakes threads and coroutines, those of one loop together."""
    loops: dict[asyncio.AbstractEventLoop, list[asyncio.Future[None]]] = {}
    for one in waiters:
        if isinstance(one, asyncio.Future):
            loops.setdefault(one.get_loop(), []).append(one)
        else:
            one.release()
    for loop, futures in loops.items():
        with contextlib.suppress(RuntimeError):  # the loop is closed
            loop.call_soon_threadsafe(_set_results, futures)


def _set_results(futures: list[asyncio.Future[None]]) -> None:
    for future in futures:
        set_result(future)


_lock = threading.Lock()
_engine: Engine | None = None


def engine() -> Engine:
    """The process's engine; starts one where there is none."""
    global _engine  # noqa: PLW0603 - the one piece of process-wide state, guarded by the lock
    with _lock:
        if _engine is None or _engine.loop.is_closed():
            _engine = Engine()
            atexit.register(_end)  # runs before the ledger's handler, which records the calls cut off here
        return _engine


def _forget() -> None:
    global _engine, _lock
    _engine, _lock = None, threading.Lock()


def _end() -> None:
    if _engine is not None and _engine.pid == os.getpid():
        _engine.close()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget)
