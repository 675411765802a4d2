"""Work of a call that runs on its reader's thread: a notebook function that a model calls must run on the
thread that owns the notebook's objects (a figure, an sqlite3 connection), and the user is prompted where the
prompt can be seen."""

from __future__ import annotations

import asyncio
import contextlib
import inspect
import threading
from collections.abc import Awaitable, Callable
from typing import Any

import msgspec

_TICK = 0.1  # seconds between the checks of a wait, so that an interrupt is noticed on every platform


class ReaderTask(msgspec.Struct, eq=False):
    """Work for a reader. `done` is set to (its value, None) or (None, its exception). prompts_user: it asks
    the user something, so the events before it should be shown first."""

    work: Callable[[], Any]
    loop: asyncio.AbstractEventLoop
    done: asyncio.Future[tuple[Any, Exception | None]]
    prompts_user: bool = False

    def report(self, value: Any, error: BaseException | None) -> None:
        """Sends the outcome to the writer. Raises an interrupt instead: the reader then stops the call."""
        if isinstance(error, KeyboardInterrupt):
            raise error
        error = error if error is None else as_exception(error)
        with contextlib.suppress(RuntimeError):  # the engine has ended
            self.loop.call_soon_threadsafe(set_result, self.done, (value, error))

    def run(self) -> None:
        """Runs it on this thread. Raises KeyboardInterrupt."""
        value, error = None, None
        try:
            value = self.work()
            if inspect.isawaitable(value):
                value = _run_in_thread(value, self._cancel_with_call)
        except BaseException as exc:  # noqa: BLE001 - whatever a function of the user's raises
            error = exc
        self.report(value, error)

    async def run_async(self) -> None:
        """Runs it in the reader's loop. Raises KeyboardInterrupt, and CancelledError where the reader
        itself is cancelled."""
        value, error = None, None
        try:
            value = self.work()
            if inspect.isawaitable(value):
                task = asyncio.ensure_future(_catch(value))
                self._cancel_with_call(asyncio.get_running_loop(), task)
                value, error = await task
        except BaseException as exc:
            if is_cancelled():
                raise
            error = exc
        self.report(value, error)

    def _cancel_with_call(self, loop: asyncio.AbstractEventLoop, task: asyncio.Future[Any]) -> None:
        """Has `task`, on a reader's `loop`, cancelled when the call is stopped."""

        def cancel_task(_done: object) -> None:
            if self.done.cancelled():
                with contextlib.suppress(RuntimeError):  # that loop has ended
                    loop.call_soon_threadsafe(task.cancel)

        with contextlib.suppress(RuntimeError):  # the engine has ended
            self.loop.call_soon_threadsafe(self.done.add_done_callback, cancel_task)


async def _catch(work: Awaitable[Any]) -> tuple[Any, BaseException | None]:
    """(value, None) or (None, exception). Caught here, because a SystemExit that leaves a task ends its
    loop."""
    try:
        return await work, None
    except asyncio.CancelledError:
        raise
    except BaseException as exc:  # noqa: BLE001 - whatever a function of the user's raises
        return None, exc


def as_exception(error: BaseException) -> Exception:
    """A tool's exception; as a RuntimeError where it is no Exception (a SystemExit), which would end a
    loop."""
    return error if isinstance(error, Exception) else RuntimeError(f"{type(error).__name__}: {error}")


def is_cancelled() -> bool:
    """Whether the running task is being cancelled; otherwise a CancelledError was raised by a tool."""
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0


def _run_in_thread(
    work: Any, on_start: Callable[[asyncio.AbstractEventLoop, asyncio.Future[Any]], None]
) -> Any:
    """Runs an awaitable in a loop on another thread, because the reader's thread may already run a loop, and
    returns its value. on_start: called with that loop and the task."""

    async def run() -> Any:
        return await work

    box: list[Any] = []
    loop = asyncio.new_event_loop()
    task = loop.create_task(run())
    on_start(loop, task)

    def target() -> None:
        try:
            box.append(loop.run_until_complete(task))
        except BaseException as exc:  # noqa: BLE001 - raised again on the waiting thread
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


def set_result(future: asyncio.Future[Any], value: Any = None) -> None:
    """Sets a future's value, unless it was cancelled."""
    if not future.done():
        future.set_result(value)
