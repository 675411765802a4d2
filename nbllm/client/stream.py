"""A reply as an append-only log that any thread or event loop may read while it grows.

The engine's task is the only writer. Readers keep their own place in the log: iterating twice gives the same
events twice, and nothing is lost to a reader that comes late. Sync readers wait on a condition, async readers
on a future of their own loop that the writer wakes from outside.

Some of a call's work belongs to whoever reads it (see errands): the writer hands it out with `by_reader` and
waits; a reader does it in the middle of its own wait. Where nobody reads, nothing runs.
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
from .reader_work import Errand

# A blocking wait on Windows cannot be interrupted; elsewhere the wake-up only checks that we were not forked.
_TICK = 0.1 if sys.platform == "win32" else 1.0
# seconds: an idle kernel loop notices an interrupt only when something wakes it (ipykernel issue 881)
_HEARTBEAT = 0.05

# What wakes a waiter: whatever comes; errands and the end; the end alone.
_ALL, _ERRANDS, _END = range(3)


class Stream:
    """One call's reply. Returned at once; everything that can go wrong shows when it is read.

    Iterate it (`for` or `async for`) for events, `text_stream` for strings; `await` it or call `response()`
    for the whole answer; `cancel()` stops it. Reading raises the call's NbllmError, whose `.partial` is the
    Response so far.
    """

    def __init__(self, about: Callable[[Fold, Stream], Response]) -> None:
        self.log = EventLog()
        self.called = time.perf_counter()
        self._about = about
        self.traces: list[Trace] = []
        self.attempts: list[Any] = []  # what was sent (attempt.Attempt), one for each of the traces
        self.turns: list[Stream] = []  # of an answer that used tools: a call for each of the model's turns
        self.beside: list[Stream] = []  # calls that were made for it and are no turn of it: summaries
        self.ended_at: float | None = None
        self.cancelling = False  # it was told to end
        self.at_end: Callable[[Stream], None] | None = None  # called once, on the engine's thread
        self.remark: Callable[[dict[str, Any]], None] | None = None  # adds to its row in the ledger
        self._error: errors.NbllmError | None = None
        self._pid = os.getpid()
        self._lock = threading.RLock()
        self._waiters: list[tuple[int, Waiter]] = []
        self._errands: deque[Errand] = deque()
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
            self._begin(work)
        else:
            engine.loop.call_soon_threadsafe(self._begin, work)
        return self

    def _begin(self, work: Coroutine[Any, Any, None]) -> None:
        unbegun = partial(self._never, work)
        self._task = asyncio.get_running_loop().create_task(self._run(work, unbegun))
        self._task.add_done_callback(unbegun)

    async def _run(self, work: Coroutine[Any, Any, None], unbegun: Callable[..., object]) -> None:
        """Does it, and tells its end at once: a callback of the task would be one more turn of the loop."""
        if self._task is not None:
            self._task.remove_done_callback(unbegun)
        try:
            await work
        except BaseException as exc:
            cancelled = isinstance(exc, asyncio.CancelledError)
            self._finish(None if cancelled else errors.as_nbllm_error(exc), cancelled=cancelled)
            if not isinstance(exc, Exception):
                raise
        else:
            self._finish(None)

    def _never(self, work: Coroutine[Any, Any, None], task: asyncio.Task[None]) -> None:
        """Tells the end of what was cancelled before it began."""
        work.close()
        self._finish(None, cancelled=True)

    def begin(self, attempt: Any) -> Trace:
        """Says that an attempt is being sent, and gives the trace for it."""
        if self.traces and self.traces[-1].error is not None:
            self.traces[-1].error.__traceback__ = None  # whose frames would stay as long as this stream
        self.attempts.append(attempt)
        self.traces.append(Trace())
        return self.traces[-1]

    def publish(self, event: Event, at: float | None = None) -> None:
        """Appends an event that came at `at` (perf_counter seconds; now, where None)."""
        self.extend((to_item(event),), time.perf_counter() if at is None else at)

    def extend(self, items: Sequence[Item], at: float) -> None:
        """As publish, of several that came at one moment."""
        with self._lock:
            self.log.extend(items, at)
            self._wake(_ALL)

    async def by_reader(self, work: Callable[[], Any], *, asks: bool = False) -> tuple[Any, Exception | None]:
        """Has a reader do `work` on its thread, and waits: (what it gave, None) or (None, what it raised).
        An awaitable that it gives is awaited there. An interrupt of it stops the call. asks: it asks the
        person."""
        loop = asyncio.get_running_loop()
        errand = Errand(work, loop, loop.create_future(), asks)
        with self._lock:
            self._errands.append(errand)
            self._wake(_ERRANDS)
        try:
            return await errand.done
        finally:
            with self._lock, contextlib.suppress(ValueError):
                self._errands.remove(errand)  # where nobody has begun it

    def _finish(self, error: errors.NbllmError | None, *, cancelled: bool = False) -> None:
        with self._lock:
            over = bool(self.log) and isinstance(self.log[-1][1], Finished)  # cancelled after its last event
            if (cancelled and not over) or error is not None:
                self.log.append(time.perf_counter(), Finished("error" if error else "cancelled"))
            self.ended_at = time.perf_counter()
            self._error = error
            self._wake(_END)
        if self.at_end is not None:
            self.at_end(self)
            self.at_end = None

    def _wake(self, what: int) -> None:
        woken = [one for least, one in self._waiters if least <= what]
        if woken:
            self._waiters = [waiter for waiter in self._waiters if waiter[0] > what]
            if self._engine is not None and self._engine.is_here():
                self._engine.wake(woken)
            else:
                wake(woken)

    # --- the readers' side, on any thread or loop ---

    @property
    def done(self) -> bool:
        """Whether the reply has ended, well or not."""
        return self.ended_at is not None

    @property
    def error(self) -> errors.NbllmError | None:
        """What went wrong, None where nothing did (so far)."""
        return self._error

    @property
    def trace(self) -> Trace:
        """What the transport saw of the last attempt."""
        if self.turns:
            return self.turns[-1].trace
        return self.traces[-1] if self.traces else Trace()

    def wait(self, seen: int | None = 0, timeout: float | None = None, *, errands: bool = True) -> bool:
        """Waits until the log is longer than `seen` (None: only for the end) or the reply has ended, and runs
        errands meanwhile, each when what came before it was seen; False where `timeout` seconds ran out
        first. errands=False leaves them, and returns when one comes."""
        least, until = (
            _ALL if seen is not None else _ERRANDS,
            None if timeout is None else time.monotonic() + timeout,
        )
        while self._waited(least, lambda: self._news(seen) or self._errands, until):
            if self._news(seen) or not errands:
                return True
            self._run_errand()
        return False

    def wait_end(self, timeout: float, *, errands: bool = False) -> bool:
        """Waits at most `timeout` seconds for the reply's end, whatever comes meanwhile; False where it has
        not ended. errands: one that comes ends the wait too."""
        least = _ERRANDS if errands else _END
        self._waited(least, lambda: self.done or (errands and self._errands), time.monotonic() + timeout)
        return self.done

    def _news(self, seen: int | None) -> bool:
        return self.ended_at is not None or (seen is not None and len(self.log) > seen)

    def _waited(self, least: int, ready: Callable[[], Any], until: float | None) -> bool:
        """Waits on this thread until `ready`, and looks when something wakes it; False where it is `until`
        (time.monotonic) before."""
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
    def has_errands(self) -> bool:
        """Whether something waits for a reader to do it."""
        return bool(self._errands)

    @property
    def asks(self) -> bool:
        """Whether the next errand asks the user."""
        return any(errand.asks for errand in (*self._errands,)[:1])

    def run_errands(self) -> None:
        """Does what the call asks of its reader, on this thread. Raises KeyboardInterrupt where the user
        breaks it off, which stops the call."""
        while self._run_errand():
            pass

    def _run_errand(self) -> bool:
        errand = self._errand()
        try:
            if errand is not None:
                errand.do()
        except KeyboardInterrupt:
            self.cancel()
            raise
        return errand is not None

    def _errand(self) -> Errand | None:
        with self._lock:
            return self._errands.popleft() if self._errands else None

    def _check_process(self) -> None:
        if os.getpid() != self._pid:
            raise errors.TransportError(
                "This stream belongs to the process that was forked from.", hint="Start a new one here."
            )

    def __iter__(self) -> Iterator[Event]:
        return map(to_event, self.items())

    def items(self) -> Iterator[Item]:
        """As iterating gives them, in the short form."""
        place = 0
        while True:
            try:
                self.wait(place)
            except KeyboardInterrupt:
                self.cancel()
                raise
            for _, item in self.log.items(place):
                place += 1
                yield item
            if self.done and place == len(self.log):
                break
        self.check()

    async def __aiter__(self) -> AsyncIterator[Event]:
        async for entries in self.batches():
            for _, item in entries:
                yield to_event(item)
        self.check()

    async def batches(self) -> AsyncIterator[list[tuple[float, Item]]]:
        """The log as it grows, to its end, in the short form, what came at a time together; raises nothing of
        what went wrong."""
        place = 0
        while not self.done or place < len(self.log):
            await self.changed(place)
            entries = list(self.log.items(place))
            place += len(entries)
            yield entries

    async def changed(self, seen: int | None) -> None:
        """As wait, for a coroutine; a cancelled reader cancels the call."""
        loop = asyncio.get_running_loop()
        least = _ERRANDS if seen is None else _ALL
        beat = _HEARTBEAT if "ipykernel" in sys.modules else None
        try:
            while True:
                future: asyncio.Future[None] = loop.create_future()
                with self._lock:
                    if self._news(seen):
                        return
                    self._check_process()
                    errand = self._errand()
                    if errand is None:
                        self._waiters.append((least, future))
                if errand is not None:
                    await errand.do_async()
                    continue
                if beat is None:
                    await future
                while not future.done():
                    await asyncio.wait({future}, timeout=beat)
        except (asyncio.CancelledError, KeyboardInterrupt):
            self.cancel()
            raise

    async def ended(self) -> None:
        """Returns at the reply's end, well or not, and is not woken before. A cancelled waiter leaves the
        call running."""
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        with self._lock:
            if self.done:
                return
            self._check_process()
            self._waiters.append((_END, future))
        await future

    def __await__(self) -> Generator[Any, None, Response]:
        return self._awaited().__await__()

    async def _awaited(self) -> Response:
        while not self.done:
            await self.changed(None)
        return self._result()

    def response(self, timeout: float | None = None) -> Response:
        """Waits for the end and gives the answer. An interrupt stops the call; TimeoutError leaves it
        running."""
        until = None if timeout is None else time.monotonic() + timeout
        try:
            while not self.done:
                left = None if until is None else until - time.monotonic()
                if not self.wait(None, left):
                    raise TimeoutError(
                        f"The answer has not ended within {timeout:g} s; it goes on (cancel() stops it)."
                    )
        except KeyboardInterrupt:
            self.cancel()
            raise
        return self._result()

    def partial(self) -> Response:
        """The answer so far; never raises for what went wrong."""
        if self._response is not None:
            return self._response
        done = self.done
        response = self._about(self.log.fold(), self)
        if done:
            self._response = response
        return response

    def _result(self) -> Response:
        self.check()
        return self.partial()

    def check(self) -> None:
        """Raises what went wrong."""
        if self._error is not None:
            self._error.partial = self.partial() if self._error.partial is None else self._error.partial
            raise self._error.with_traceback(None)

    @property
    def text_stream(self) -> TextStream:
        """The visible answer's pieces as strings: iterate it with `for` or `async for`."""
        return TextStream(self)

    def cancel(self) -> None:
        """Stops the call and closes its connection; what came stays. Does nothing once it has ended. Any
        thread."""
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
        """What was measured, see Timing."""
        return timing(self, self.turns, self.partial().usage)


class TextStream:
    """The strings of a stream's visible answer."""

    def __init__(self, stream: Stream) -> None:
        self._stream = stream

    def __iter__(self) -> Iterator[str]:
        return filter(None, map(_said, self._stream.items()))

    async def __aiter__(self) -> AsyncIterator[str]:
        async for entries in self._stream.batches():
            for _, item in entries:
                if text := _said(item):
                    yield text
        self._stream.check()


def _said(item: Item) -> str:
    """The text of the visible answer in an item."""
    if isinstance(item, str):
        return "" if isinstance(item, ReasoningText) else item
    return item.text if isinstance(item, TextDelta) else ""
