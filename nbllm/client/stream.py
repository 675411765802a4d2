"""A reply as an append-only log that any thread or event loop may read while it grows.

The engine's task is the only writer. Each reader has its own position in the log: iterating twice gives the
same events twice, and a late reader misses nothing. Sync readers wait on a lock, async readers on a future of
their own loop; the writer wakes both from its thread.

Some of a call's work must run on its reader's thread (see reader_tasks): the writer submits it with
`run_on_reader` and waits; a reader runs it during its own wait. Without a reader it does not run.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import sys
import threading
import time
from collections import deque
from collections.abc import AsyncIterator, Callable, Coroutine, Generator, Iterator, Sequence
from functools import partial
from typing import Any

from ..core import errors
from ..core.calls import Trace
from ..core.eventlog import EventLog
from ..core.events import (
    Event,
    Finished,
    Fold,
    Item,
    ReasoningText,
    Response,
    TextDelta,
    Timing,
    to_event,
    to_item,
)
from ..store.timeline import timing
from .engine import Engine, Waiter, wake
from .reader_tasks import ReaderTask

# A blocking wait on Windows cannot be interrupted; elsewhere the wake-up only checks that we were not forked.
_TICK = 0.1 if sys.platform == "win32" else 1.0
# Seconds. An idle kernel loop notices an interrupt only when something wakes it (ipykernel issue 881).
_HEARTBEAT = 0.05

# What wakes a waiter: any event; reader tasks and the end; only the end.
_ALL, _TASK, _END = range(3)


class Stream:
    """One call's reply. Returned at once; errors are raised when it is read.

    Iterate it (`for` or `async for`) for events, `text_stream` for strings; `await` it or call `response()`
    for the complete answer; `cancel()` stops it. Reading raises the call's NbllmError, whose `.partial`
    is the Response so far.
    """

    def __init__(self, build_response: Callable[[Fold, Stream], Response]) -> None:
        self.log = EventLog()
        self.called_at = time.perf_counter()
        self._build_response = build_response
        self.traces: list[Trace] = []
        self.attempts: list[Any] = []  # the attempt.Attempt of each trace
        self.turns: list[Stream] = []  # of an answer that used tools: a call for each of the model's turns
        self.extra_calls: list[Stream] = []  # calls made for it that are not among its turns, as summaries
        self.ended_at: float | None = None
        self.cancelling = False  # cancel() was called
        self.on_end: Callable[[Stream], None] | None = None  # called once, on the engine's thread
        self.add_to_row: Callable[[dict[str, Any]], None] | None = None  # adds to its row in the ledger
        self._error: errors.NbllmError | None = None
        self._pid = os.getpid()
        self._lock = threading.RLock()
        self._waiters: list[tuple[int, Waiter]] = []
        self._reader_tasks: deque[ReaderTask] = deque()
        self._task: asyncio.Task[None] | None = None
        self._engine: Engine | None = None
        self._response: Response | None = None

    def __repr__(self) -> str:
        return f"<Stream {'done' if self.done else 'running'}, events: {len(self.log)}>"

    # --- the writer's side, on the engine's thread ---

    def start(self, engine: Engine, work: Coroutine[Any, Any, None]) -> Stream:
        """Runs `work`, which writes to this stream, on the engine."""
        self._engine = engine
        if engine.is_here():
            self._start_task(work)
        else:
            engine.loop.call_soon_threadsafe(self._start_task, work)
        return self

    def _start_task(self, work: Coroutine[Any, Any, None]) -> None:
        finish_unstarted = partial(self._finish_unstarted, work)
        self._task = asyncio.get_running_loop().create_task(self._run(work, finish_unstarted))
        self._task.add_done_callback(finish_unstarted)

    async def _run(self, work: Coroutine[Any, Any, None], finish_unstarted: Callable[..., object]) -> None:
        """Runs `work` and records its end here: a done callback would cost one more turn of the loop."""
        if self._task is not None:
            self._task.remove_done_callback(finish_unstarted)
        try:
            await work
        except BaseException as exc:
            cancelled = isinstance(exc, asyncio.CancelledError)
            self._finish(None if cancelled else errors.as_nbllm_error(exc), cancelled=cancelled)
            if not isinstance(exc, Exception):
                raise
        else:
            self._finish(None)

    def _finish_unstarted(self, work: Coroutine[Any, Any, None], task: asyncio.Task[None]) -> None:
        """Records the end of work that was cancelled before it started."""
        work.close()
        self._finish(None, cancelled=True)

    def begin(self, attempt: Any) -> Trace:
        """Registers an attempt that is about to be sent, and returns its trace."""
        if self.traces and self.traces[-1].error is not None:
            self.traces[-1].error.__traceback__ = None  # its frames would live as long as this stream
        self.attempts.append(attempt)
        self.traces.append(Trace())
        return self.traces[-1]

    def publish(self, event: Event, at: float | None = None) -> None:
        """Appends an event that arrived at `at` (perf_counter seconds; None for now)."""
        self.extend((to_item(event),), time.perf_counter() if at is None else at)

    def extend(self, items: Sequence[Item], at: float) -> None:
        """Appends events, in their compact form (Item), that arrived together."""
        with self._lock:
            self.log.extend(items, at)
            self._wake(_ALL)

    async def run_on_reader(
        self, work: Callable[[], Any], *, prompts_user: bool = False
    ) -> tuple[Any, Exception | None]:
        """Has a reader run `work` on its thread and waits for (its value, None) or (None, its exception). A
        returned awaitable is awaited there. An interrupt during it stops the call. prompts_user: the work
        asks the user something."""
        loop = asyncio.get_running_loop()
        task = ReaderTask(work, loop, loop.create_future(), prompts_user)
        with self._lock:
            self._reader_tasks.append(task)
            self._wake(_TASK)
        try:
            return await task.done
        finally:
            with self._lock, contextlib.suppress(ValueError):
                self._reader_tasks.remove(task)  # not yet started by a reader

    def _finish(self, error: errors.NbllmError | None, *, cancelled: bool = False) -> None:
        with self._lock:
            finished = bool(self.log) and isinstance(self.log[-1][1], Finished)
            if (cancelled and not finished) or error is not None:
                self.log.append(time.perf_counter(), Finished("error" if error else "cancelled"))
            self.ended_at = time.perf_counter()
            self._error = error
            self._wake(_END)
        if self.on_end is not None:
            self.on_end(self)
            self.on_end = None

    def _wake(self, level: int) -> None:
        woken = [waiter for least, waiter in self._waiters if least <= level]
        if woken:
            self._waiters = [entry for entry in self._waiters if entry[0] > level]
            if self._engine is not None and self._engine.is_here():
                self._engine.wake(woken)
            else:
                wake(woken)

    # --- the readers' side, on any thread or loop ---

    @property
    def done(self) -> bool:
        """Whether the reply has ended, with or without an error."""
        return self.ended_at is not None

    @property
    def error(self) -> errors.NbllmError | None:
        """The call's error, None where there is none (so far)."""
        return self._error

    @property
    def trace(self) -> Trace:
        """The transport's record of the last attempt."""
        if self.turns:
            return self.turns[-1].trace
        return self.traces[-1] if self.traces else Trace()

    def wait(self, seen: int | None = 0, timeout: float | None = None, *, run_tasks: bool = True) -> bool:
        """Waits until the log is longer than `seen` events (None: only for the end) or the reply has ended;
        False where `timeout` seconds passed first. Runs reader tasks meanwhile, each after the events before
        it were seen; with run_tasks=False it returns when there is one."""
        least = _ALL if seen is not None else _TASK
        until = None if timeout is None else time.monotonic() + timeout
        while self._wait_until(least, lambda: self._has_news(seen) or self._reader_tasks, until):
            if self._has_news(seen) or not run_tasks:
                return True
            self._run_reader_task()
        return False

    def wait_end(self, timeout: float, *, or_task: bool = False) -> bool:
        """Waits at most `timeout` seconds for the reply's end; False where it has not ended. or_task: a
        reader task ends the wait, too."""
        least = _TASK if or_task else _END
        self._wait_until(
            least, lambda: self.done or (or_task and self._reader_tasks), time.monotonic() + timeout
        )
        return self.done

    def _has_news(self, seen: int | None) -> bool:
        return self.ended_at is not None or (seen is not None and len(self.log) > seen)

    def _wait_until(self, least: int, ready: Callable[[], Any], until: float | None) -> bool:
        """Blocks this thread until `ready()` is true, which is checked at each wake-up; False where `until`
        (time.monotonic) comes first."""
        lock, waits = threading.Lock(), False
        lock.acquire()
        try:
            while True:
                with self._lock:
                    if ready():
                        return True
                    self._check_process()
                    if not waits:
                        self._waiters.append((least, lock))
                        waits = True
                left = _TICK if until is None else min(_TICK, until - time.monotonic())
                if left <= 0:
                    return False
                waits = not lock.acquire(timeout=left)
        finally:
            if waits:
                with self._lock, contextlib.suppress(ValueError):
                    self._waiters.remove((least, lock))

    @property
    def has_reader_tasks(self) -> bool:
        """Whether work waits for a reader to run it."""
        return bool(self._reader_tasks)

    @property
    def prompts_user(self) -> bool:
        """Whether the next reader task asks the user something."""
        return any(task.prompts_user for task in (*self._reader_tasks,)[:1])

    def run_reader_tasks(self) -> None:
        """Runs the waiting reader tasks on this thread. Raises KeyboardInterrupt where the user interrupts
        one, which stops the call."""
        while self._run_reader_task():
            pass

    def _run_reader_task(self) -> bool:
        task = self._next_reader_task()
        try:
            if task is not None:
                task.run()
        except KeyboardInterrupt:
            self.cancel()
            raise
        return task is not None

    def _next_reader_task(self) -> ReaderTask | None:
        with self._lock:
            return self._reader_tasks.popleft() if self._reader_tasks else None

    def _check_process(self) -> None:
        if os.getpid() != self._pid:
            raise errors.TransportError(
                "This stream belongs to the parent process of this fork.", hint="Start a new one here."
            )

    def __iter__(self) -> Iterator[Event]:
        return map(to_event, self.items())

    def items(self) -> Iterator[Item]:
        """Iterates over the events as they arrive, in their compact form."""
        position = 0
        while True:
            try:
                self.wait(position)
            except KeyboardInterrupt:
                self.cancel()
                raise
            for _, item in self.log.items(position):
                position += 1
                yield item
            if self.done and position == len(self.log):
                break
        self.check()

    async def __aiter__(self) -> AsyncIterator[Event]:
        async for entries in self.batches():
            for _, item in entries:
                yield to_event(item)
        self.check()

    async def batches(self) -> AsyncIterator[list[tuple[float, Item]]]:
        """The log's (time, item) entries as it grows, to its end, in groups; does not raise the call's
        error."""
        position = 0
        while not self.done or position < len(self.log):
            await self.wait_async(position)
            entries = list(self.log.items(position))
            position += len(entries)
            yield entries

    async def wait_async(self, seen: int | None) -> None:
        """`wait` for coroutines; a cancelled reader cancels the call."""
        loop = asyncio.get_running_loop()
        least = _TASK if seen is None else _ALL
        beat = _HEARTBEAT if "ipykernel" in sys.modules else None
        try:
            while True:
                future: asyncio.Future[None] = loop.create_future()
                with self._lock:
                    if self._has_news(seen):
                        return
                    self._check_process()
                    task = self._next_reader_task()
                    if task is None:
                        self._waiters.append((least, future))
                if task is not None:
                    await task.run_async()
                    continue
                if beat is None:
                    await future
                while not future.done():
                    await asyncio.wait({future}, timeout=beat)
        except (asyncio.CancelledError, KeyboardInterrupt):
            self.cancel()
            raise

    async def wait_end_async(self) -> None:
        """`wait_end` for coroutines, without a time limit. A cancelled waiter leaves the call running."""
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        with self._lock:
            if self.done:
                return
            self._check_process()
            self._waiters.append((_END, future))
        await future

    def __await__(self) -> Generator[Any, None, Response]:
        return self._wait_for_result().__await__()

    async def _wait_for_result(self) -> Response:
        while not self.done:
            await self.wait_async(None)
        return self._result()

    def response(self, timeout: float | None = None) -> Response:
        """Waits for the end and returns the answer. An interrupt stops the call; TimeoutError leaves it
        running."""
        until = None if timeout is None else time.monotonic() + timeout
        try:
            while not self.done:
                left = None if until is None else until - time.monotonic()
                if not self.wait(None, left):
                    raise TimeoutError(
                        f"The answer did not end within {timeout:g} s. It still runs; cancel() stops it."
                    )
        except KeyboardInterrupt:
            self.cancel()
            raise
        return self._result()

    def partial(self) -> Response:
        """The answer so far; does not raise the call's error."""
        if self._response is not None:
            return self._response
        done = self.done
        response = self._build_response(self.log.fold(), self)
        if done:
            self._response = response
        return response

    def _result(self) -> Response:
        self.check()
        return self.partial()

    def check(self) -> None:
        """Raises the call's error, if there is one."""
        if self._error is not None:
            self._error.partial = self.partial() if self._error.partial is None else self._error.partial
            raise self._error.with_traceback(None)

    @property
    def text_stream(self) -> TextStream:
        """The pieces of the visible answer as strings: iterate over it with `for` or `async for`."""
        return TextStream(self)

    def cancel(self) -> None:
        """Stops the call and closes its connection; the partial answer stays. Does nothing once it has ended.
        Callable from any thread."""
        if not self.done and self._engine is not None and os.getpid() == self._pid:
            self.cancelling = True
            with contextlib.suppress(RuntimeError):  # the engine has ended, and the call with it
                self._engine.loop.call_soon_threadsafe(self._cancel)

    def _cancel(self) -> None:
        if self._task is not None:
            self._task.cancel()

    def __enter__(self) -> Stream:
        return self

    def __exit__(self, *exc: object) -> None:
        self.cancel()

    @property
    def timing(self) -> Timing:
        """The measured times, see Timing."""
        return timing(self, self.turns, self.partial().usage)


class TextStream:
    """The strings of a stream's visible answer."""

    def __init__(self, stream: Stream) -> None:
        self._stream = stream

    def __iter__(self) -> Iterator[str]:
        return filter(None, map(_visible_text, self._stream.items()))

    async def __aiter__(self) -> AsyncIterator[str]:
        async for entries in self._stream.batches():
            for _, item in entries:
                if text := _visible_text(item):
                    yield text
        self._stream.check()


def _visible_text(item: Item) -> str:
    """The text of the visible answer in an item."""
    if isinstance(item, str):
        return "" if isinstance(item, ReasoningText) else item
    return item.text if isinstance(item, TextDelta) else ""
