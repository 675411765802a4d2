"""Work of a call that belongs to whoever reads it: a function of the notebook that a model calls must run
where the notebook's things live (a figure, a connection of sqlite3), and a person is asked where they can be
seen."""

from __future__ import annotations

import asyncio
import contextlib
import inspect
import threading
from collections.abc import Awaitable, Callable
from typing import Any

import msgspec

_TICK = 0.1  # seconds after which a wait looks up, so that an interrupt is heard everywhere


class Errand(msgspec.Struct, eq=False):
    """Work for a reader. `done` gets (what it gave, None) or (None, what it raised). asks: the user, who
    should see what has come until then."""

    work: Callable[[], Any]
    loop: asyncio.AbstractEventLoop
    done: asyncio.Future[tuple[Any, Exception | None]]
    asks: bool = False

    def end(self, value: Any, error: BaseException | None) -> None:
        """Tells the writer; an interrupt is the reader's, who stops the call."""
        if isinstance(error, KeyboardInterrupt):
            raise error
        error = error if error is None else as_exception(error)
        with contextlib.suppress(RuntimeError):  # the engine has ended
            self.loop.call_soon_threadsafe(settle, self.done, (value, error))

    def do(self) -> None:
        """Does it here. Raises KeyboardInterrupt."""
        value, error = None, None
        try:
            value = self.work()
            if inspect.isawaitable(value):
                value = _in_a_thread(value, self._stops)
        except BaseException as exc:  # noqa: BLE001 - whatever a function of the user's raises
            error = exc
        self.end(value, error)

    async def do_async(self) -> None:
        """Does it in the reader's loop. Raises KeyboardInterrupt, and CancelledError where that is meant."""
        value, error = None, None
        try:
            value = self.work()
            if inspect.isawaitable(value):
                task = asyncio.ensure_future(_caught(value))
                self._stops(asyncio.get_running_loop(), task)
                value, error = await task
        except BaseException as exc:
            if is_cancelled():
                raise
            error = exc
        self.end(value, error)

    def _stops(self, loop: asyncio.AbstractEventLoop, task: asyncio.Future[Any]) -> None:
        """Has `task` of a reader's `loop` cancelled where the call is stopped, by whomever."""

        def over(_done: object) -> None:
            if self.done.cancelled():
                with contextlib.suppress(RuntimeError):  # that loop has ended
                    loop.call_soon_threadsafe(task.cancel)

        with contextlib.suppress(RuntimeError):  # the engine has ended
            self.loop.call_soon_threadsafe(self.done.add_done_callback, over)


async def _caught(work: Awaitable[Any]) -> tuple[Any, BaseException | None]:
    """(what it gave, None) or (None, what it raised): a SystemExit would end the loop of the task that it
    leaves."""
    try:
        return await work, None
    except asyncio.CancelledError:
        raise
    except BaseException as exc:  # noqa: BLE001 - whatever a function of the user's raises
        return None, exc


def as_exception(error: BaseException) -> Exception:
    """What a tool raised, as its caller is told. What is no Exception (a SystemExit) would end a loop."""
    return error if isinstance(error, Exception) else RuntimeError(f"{type(error).__name__}: {error}")


def is_cancelled() -> bool:
    """Whether somebody wants the running task to end: else a CancelledError is one that a tool has raised."""
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0


def _in_a_thread(work: Any, stops: Callable[[asyncio.AbstractEventLoop, asyncio.Future[Any]], None]) -> Any:
    """What a coroutine gives, run in a loop of its own: the reader's thread may be inside one that runs.
    `stops` is told of both."""

    async def run() -> Any:
        return await work

    box: list[Any] = []
    loop = asyncio.new_event_loop()
    task = loop.create_task(run())
    stops(loop, task)

    def target() -> None:
        try:
            box.append(loop.run_until_complete(task))
        except BaseException as exc:  # noqa: BLE001 - handed on to the thread that waits
            box.append(exc)
        finally:
            loop.close()

    thread = threading.Thread(target=target, daemon=True)
    thread.start()
    try:
        while thread.is_alive():
            thread.join(_TICK)
    except KeyboardInterrupt:
        loop.call_soon_threadsafe(task.cancel)
        raise
    if isinstance(box[0], BaseException):
        raise box[0]
    return box[0]


def settle(future: asyncio.Future[Any], value: Any = None) -> None:
    """Gives a future its value, where nobody has cancelled it."""
    if not future.done():
        future.set_result(value)
