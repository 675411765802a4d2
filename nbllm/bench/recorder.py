"""The worker's recorder thread: turns finished streams into rows and stores them, while the event loop goes
on."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import os
import queue
import re
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from msgspec import structs

from ..client import stream as streams
from ..core import errors
from ..dialects.embeddings import EMBEDDERS
from ..store import measure
from ..store.chunks import chunk_rows, chunks_of
from .counting import TokenCounter
from .plan import Budget
from .store import Store, StoredRequest

Row = dict[str, Any]
_MAX_PAUSES = 20_000
_PSI_TOTAL = re.compile(rb"some .*total=(\d+)")
_MAX_BATCH = 64  # requests of one transaction


@dataclass(frozen=True, slots=True)
class MeasuredRequest:
    """A finished request: its stream, or the rows that another process measured. `slot`: the slot that it
    completes."""

    extra: Row
    turn: int
    slot: str | None
    stream: streams.Stream | None = None
    call: measure.CallContext | None = None
    rows: tuple[Row, ...] = ()
    chunks: tuple[Row, ...] = ()
    counter: TokenCounter | None = None


class Recorder:
    """Stores finished requests, maintains the totals, and passes new rows to `on_recorded`. `unsaved`: rows
    that could not be stored, after which no more requests are sent."""

    def __init__(
        self, store: Store, budget: Budget, on_recorded: Callable[[list[Row]], None], answers: bool = True
    ) -> None:
        self._store, self._budget, self._on_recorded = store, budget, on_recorded
        self._answers = answers
        self._queue: queue.SimpleQueue[MeasuredRequest | asyncio.Event | None] = queue.SimpleQueue()
        self._loop = asyncio.get_running_loop()
        self._start = time.monotonic() - store.get("seconds", 0.0)
        self.totals = {"usd": 0.0, "tokens": 0.0, "requests": 0.0}
        for row in store.rows():  # a resumed run has already spent these
            self._add_cost(row)
        self.recent: dict[int, list[Row]] = {}  # rows by turn, until they are popped
        self.unsaved: list[Row] = []
        self.consecutive_failures: dict[str, int] = {}  # by name
        self.failure = ""
        self._added = self._counted = 0
        self._thread = threading.Thread(target=self._write_loop, name="nbllm-recorder", daemon=True)
        self._thread.start()

    def add(self, finished: MeasuredRequest) -> None:
        """Queues a finished request."""
        self._added += 1
        self._queue.put(finished)

    async def flush(self) -> None:
        """Returns when everything added so far is on disk, or has failed to be stored."""
        event = asyncio.Event()
        self._queue.put(event)
        await event.wait()

    def exhausted_limit(self, inflight: int = 0) -> str | None:
        """A text that names the limit of the budget with no room for one more request beside those in flight
        (each as expensive as the mean so far), or the failure to store rows; None while there is room."""
        sums, inflight = self.totals, inflight + self._added - self._counted
        mean = {name: value / (sums["requests"] or 1.0) for name, value in sums.items()}
        usd, tokens = (sums[name] + mean[name] * (inflight + 1) for name in ("usd", "tokens"))
        # sums of floats may slightly exceed a limit that they should equal
        usd, tokens = usd * (1 - 1e-9) - 1e-12, tokens - 1e-6
        return self.failure or self._budget.exhausted_limit(
            usd, tokens, time.monotonic() - self._start, sums["requests"] + inflight
        )

    def store_elapsed(self) -> None:
        """Stores the elapsed time of the run, for a resumed one."""
        if self._budget.seconds is not None:
            with contextlib.suppress(errors.ConfigError):  # a full disk is reported with the rows
                self._store.put(seconds=time.monotonic() - self._start)

    def _add_cost(self, row: Row) -> None:
        dollars, tokens = cost_and_tokens(row)
        self.totals["usd"] += dollars
        self.totals["tokens"] += tokens
        self.totals["requests"] += 1

    def close(self) -> None:
        """Stores what is queued and ends the thread."""
        self._queue.put(None)
        self._thread.join()

    def _write_loop(self) -> None:
        """Stores queued requests in batches: under load, disk and pipe are most of the cost of a request
        here."""
        going_on = True
        while going_on:
            items = self._next_batch()
            finished = [item for item in items if isinstance(item, MeasuredRequest)]
            try:
                if finished:
                    self._record(finished)
                self._counted += len(finished)
            except Exception as exc:  # noqa: BLE001 - this thread must keep running
                self.failure = self.failure or errors.as_nbllm_error(exc).message
            for event in items:
                if isinstance(event, asyncio.Event):
                    self._loop.call_soon_threadsafe(event.set)
            going_on = None not in items

    def _next_batch(self) -> list[MeasuredRequest | asyncio.Event | None]:
        items = [self._queue.get()]
        with contextlib.suppress(queue.Empty):
            while len(items) < _MAX_BATCH:
                items.append(self._queue.get_nowait())
        return items

    def _record(self, items: list[MeasuredRequest]) -> None:
        measured = [(item, *_measure(item)) for item in items]
        stored = [
            StoredRequest(rows, chunks, item.slot, self._answer_text(item)) for item, rows, chunks in measured
        ]
        try:
            self._store.record(stored)
        except errors.ConfigError as exc:
            self.unsaved += [row for one in stored for row in one.rows]
            self.failure = self.failure or exc.message.rstrip(".")
        for item, rows, _ in measured:
            for row in rows:
                self._add_cost(row)
            last = rows[-1]
            name = str(last.get("name"))
            self.consecutive_failures[name] = (
                0 if last.get("ok") else self.consecutive_failures.get(name, 0) + 1
            )
            self.recent.setdefault(item.turn, []).append(last)
        self._on_recorded([rows[-1] for _, rows, _ in measured])

    def _answer_text(self, item: MeasuredRequest) -> str | None:
        vectors = item.call is not None and item.call.provider.dialect in EMBEDDERS  # not text
        return None if vectors or not self._answers or not item.stream else item.stream.partial().message.text


def _measure(item: MeasuredRequest) -> tuple[list[Row], list[Row]]:
    """The rows and chunks of a request. If an answer cannot be measured, a failed row instead of an
    exception, since it is one of many."""
    if item.stream is None or item.call is None:
        return list(item.rows), list(item.chunks)
    try:
        call = _with_token_counts(item.stream, item.call, item.counter)
        chunks = chunks_of(item.stream, call.tokenizer)
        rows = measure.attempt_rows(item.stream, call, item.extra, chunks)
        key = {"request_id": rows[-1]["request_id"], "attempt": rows[-1]["attempt"]}
        return rows, list(chunk_rows(item.stream, call.epoch, key, chunks))
    except Exception as exc:  # noqa: BLE001 - whatever an answer contains
        return [measure.failure_row(exc, item.call.provider, item.call.model, item.extra)], []


def _with_token_counts(
    stream: streams.Stream, call: measure.CallContext, counter: TokenCounter | None
) -> measure.CallContext:
    """The call with a tokenizer that knows the counts of this answer's texts; they are counted in one
    batch."""
    if counter is None:
        return call
    texts = [c.text for c in chunks_of(stream) if c.has_tokens]
    texts = list(dict.fromkeys((*texts, "".join(texts))))
    counts = counter(texts) if texts else None
    if counts is None:
        return call
    count_of = dict(zip(texts, counts, strict=True))
    return structs.replace(call, tokenizer=lambda text: count_of.get(text, 0))


def cost_and_tokens(row: Row) -> tuple[float, int]:
    """(US dollars, tokens) of a request, for the budget. An answer that was cut off before usage was reported
    is estimated, since it costs money all the same."""
    in_tokens, out_tokens = row.get("in_tokens"), row.get("out_tokens") or 0
    if in_tokens is None:
        in_tokens = (row.get("bytes_out") or 0) // 4 if out_tokens else 0
    dollars = row.get("cost_usd")
    if dollars is None:
        dollars = (
            in_tokens * (row.get("price_in") or 0.0) + out_tokens * (row.get("price_out") or 0.0)
        ) / 1e6
    return dollars, in_tokens + out_tokens


class GcPauses:
    """The pauses of the garbage collector, newest last. A pause may be added at any allocation, also while
    they are read, so they are read by index."""

    def __init__(self) -> None:
        self._pauses: list[tuple[float, float]] = []
        self._start = 0.0
        gc.callbacks.append(self._note)

    def _note(self, phase: str, _info: dict[str, Any]) -> None:
        if phase == "start":
            self._start = time.perf_counter()
        else:
            self._pauses.append((self._start, time.perf_counter()))
            if len(self._pauses) > _MAX_PAUSES:
                del self._pauses[: _MAX_PAUSES // 2]

    def total_ms(self, start: float, end: float) -> float:
        """Total pauses in ms between two moments (perf_counter seconds)."""
        total = 0.0
        for index in range(1, len(self._pauses) + 1):
            a, b = self._pauses[-index] if index <= len(self._pauses) else (start, start - 1.0)
            if b < start:
                break
            total += max(0.0, min(b, end) - max(a, start))
        return total * 1e3


class CpuPressure:
    """Total seconds in which some task of this machine waited for a CPU (Linux PSI)."""

    def __init__(self) -> None:
        self._cached: tuple[float, float | None] = (-1.0, None)  # (time of the wake-up, value)
        self._file: int | None = None
        with contextlib.suppress(OSError):
            self._file = os.open("/proc/pressure/cpu", os.O_RDONLY | os.O_CLOEXEC)

    def since_wakeup(self, turn: float) -> float | None:
        """The value when it was first read in this iteration of the event loop: reading the file releases the
        GIL."""
        if self._cached[0] != turn:
            self._cached = (turn, self.now())
        return self._cached[1]

    def now(self) -> float | None:
        """The current value; None where the system does not provide it."""
        try:
            return (
                None if self._file is None else int(_PSI_TOTAL.findall(os.pread(self._file, 200, 0))[0]) / 1e6
            )
        except (OSError, ValueError, IndexError):
            return None
