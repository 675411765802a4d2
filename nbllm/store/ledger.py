"""Records the calls of a client as rows of numbers, in memory and, together with those of all other kernels,
on disk.

The disk holds numbers and names. Prompts, answers and error messages, which may quote them, are stored only
where the configuration has `ledger = "texts"`.
"""

from __future__ import annotations

import itertools
import json
import math
import os
import threading
import time
from collections import deque
from contextlib import suppress
from datetime import UTC, datetime
from functools import partial
from weakref import WeakSet

from ..core.errors import ConfigError
from ..core.options import LEDGERS
from ..dialects.embeddings import EMBEDDERS
from .chunks import RecordedStream, Row
from .history import Key, LedgerFile, Record, ledger_file, read_calls
from .measure import CallContext, attempt_rows, failure_row, running_row

_MAX_NAME = 200  # characters on disk of a name that a provider sent
_DAY = 86_400.0  # seconds
_FRESH = 10.0  # seconds for which the rows that were read of the last day are reused
_BACKLOG = 300  # ended calls in memory from which on measuring no longer yields to other threads
_TEXTS = ("prompt", "answer", "error_msg")
_as_json = json.JSONEncoder(default=str).encode


class Ledger:
    """The rows of the last `max_rows` calls, in the columns of benchmarks. `mode`: "memory" for these only,
    "disk" to write a file as well, "texts" to include prompts and answers in both. Any thread may use it."""

    def __init__(self, mode: str = "memory", max_rows: int = 10_000) -> None:
        self.epoch = time.perf_counter()
        self.mode = mode
        self.notebook: str | None = None  # the notebook that makes the calls
        self._numbers = itertools.count(1)
        self._number = next(ledger_file().ledgers)
        self._pending: dict[int, tuple[RecordedStream, CallContext, Row, LedgerFile]] = {}  # by number
        self._rows: deque[Row] = deque(maxlen=max_rows)
        self._last_begun = 0  # the last call whose beginning was recorded
        self._recent: tuple[float, dict[Key, Row]] = (0.0, {})  # (time of reading, rows)
        self.reset_locks()
        _ALL.add(self)

    def reset_locks(self) -> None:
        """Replaces the locks: after a fork, they may be held by a thread that does not exist here."""
        self._lock, self._measuring = threading.Lock(), threading.Lock()

    @property
    def mode(self) -> str:
        """Where calls are recorded: one of LEDGERS. Raises ConfigError for another value."""
        return self._mode

    @mode.setter
    def mode(self, mode: str) -> None:
        if mode not in LEDGERS:
            raise ConfigError(
                f"The ledger has no mode {str(mode)[:40]!r}.", hint=f"The modes are {', '.join(LEDGERS)}."
            )
        self._mode = mode

    def record_call(self, stream: RecordedStream, call: CallContext) -> str:
        """Records a call that has just begun. Returns a warning for the user, once: that earlier calls could
        not be written to disk."""
        number, file = next(self._numbers), ledger_file()
        columns = {
            "run_id": file.kernel,
            "request_id": f"{self._number}.{number:06d}",
            "seq": number,
            "name": call.model,
            "t_wall": datetime.now(UTC).isoformat(),
            "notebook": self.notebook,
        }
        with self._lock:
            self._pending[number] = stream, call, columns, file
        stream.on_end, stream.add_to_row = self._on_end, partial(self._add_to_row, columns, file)
        if self._mode == "memory":
            return ""
        file.schedule(self._measure_ended)
        return file.take_problem()

    def rows(self) -> list[Row]:
        """One row per attempt of every call that has ended, in the order of their calls."""
        self._measure_ended()
        with self._lock:
            return sorted(self._rows, key=lambda row: (row["seq"], row["attempt"]))

    def flush(self) -> None:
        """Returns when the calls that have ended by now are on disk, if they are to be and the disk accepts
        them."""
        self._measure_ended()
        ledger_file().flush()

    def history(self, since: float = 0.0, until: float = math.inf) -> tuple[list[Row], list[str]]:
        """(the rows of all kernels' calls that began within this period, in seconds since 1970, in their
        order; the problems with files that could not be read). run_id is the kernel that made the call; only
        this client's own rows are complete."""
        self.flush()
        found, problems = read_calls(since, until)
        found |= {key: row for row in self.rows() if since <= (key := _key(row))[0] < until}
        problems += [ledger_file().problem] if ledger_file().problem and self._mode != "memory" else []
        return [found[key] for key in sorted(found)], problems

    def last_day(self) -> list[Row]:
        """The calls of the last 24 hours, as `history` returns them; rows that other kernels wrote within the
        last seconds may be missing."""
        since, read_at = time.time() - _DAY, self._recent[0]
        if time.time() - read_at >= _FRESH:
            self.flush()
            self._recent = time.time(), read_calls(since)[0]
        found = self._recent[1] | {key: row for row in self.rows() if (key := _key(row))[0] >= since}
        return [found[key] for key in sorted(found)]

    def _on_end(self, stream: RecordedStream) -> None:
        """Called on the engine's thread; schedules the measuring on the writing thread."""
        ledger_file().schedule(self._measure_ended)

    def _add_to_row(self, columns: Row, file: LedgerFile, more: Row) -> None:
        """Adds columns to the row of a call that has ended, for its caller."""
        self._measure_ended()
        with self._lock:
            row = next((r for r in reversed(self._rows) if r["request_id"] == columns["request_id"]), None)
            if row is not None:
                row |= more
        if row is not None and self._mode != "memory":
            file.append([self._record(row)])
            file.schedule(self._measure_ended)

    def _measure_ended(self) -> None:
        """Measures the calls that have ended by now, and records those that have begun. Calls that end
        meanwhile are left to the next run, so that under a steady load rows reach the disk and leave the
        memory. An entry is removed when it is finished, since an interrupt may come."""
        with self._measuring:
            with self._lock:
                ended = [entry for entry in self._pending.items() if entry[1][0].done]
            for number, (stream, call, columns, file) in ended:
                rows = self._measure(stream, call, columns)
                if self._mode != "memory":
                    file.append([self._record(row) for row in rows])
                with self._lock:
                    self._rows.extend(rows)
                    del self._pending[number]
                if len(ended) < _BACKLOG:
                    time.sleep(0)  # yields to other threads
            with self._lock:
                begun = [
                    e for n, e in self._pending.items() if n > self._last_begun and self._mode != "memory"
                ]
            for _, call, columns, file in begun:
                with suppress(Exception):  # a row that cannot be recorded must not disturb the call
                    file.append([self._record(running_row(call, columns))])
                self._last_begun = columns["seq"]

    def _measure(self, stream: RecordedStream, call: CallContext, columns: Row) -> list[Row]:
        try:
            rows = attempt_rows(stream, call, columns)
        except Exception as error:  # noqa: BLE001 - a call that cannot be measured is recorded all the same
            rows = [failure_row(error, call.provider, call.model, columns)]
        if self._mode == "texts":
            prompt = [{"role": m.role, "text": m.text} for m in call.request.messages]
            rows[-1] |= {
                "prompt": json.dumps(prompt, ensure_ascii=False),
                "answer": "" if call.provider.dialect in EMBEDDERS else stream.partial().text,  # no vectors
            }
        return rows

    def _record(self, row: Row) -> Record:
        stored = row
        if self._mode != "texts":
            stored = {
                name: v[:_MAX_NAME] if isinstance(v, str) else v
                for name, v in row.items()
                if v is not None and name not in _TEXTS
            }
            stored["params"] = _numeric_params(row.get("params"))
            stored |= {"checks": row["checks"]} if "checks" in row else {}
        return *_key(row), _as_json(stored)


def _key(row: Row) -> Key:
    at = datetime.fromisoformat(row["t_wall"]).timestamp()
    return at, row["run_id"], row["request_id"], row["attempt"]


_SAFE_TEXTS = ("reasoning", "cache")  # parameters with values of ours, never the user's text


def _numeric_params(params: str | None) -> str:
    """The parameters without texts: a stop sequence or a provider's own parameter may quote the prompt."""
    items = json.loads(params or "{}").items()
    return json.dumps({k: v for k, v in items if isinstance(v, (int, float)) or k in _SAFE_TEXTS})


_ALL: WeakSet[Ledger] = WeakSet()


def _after_fork() -> None:
    for ledger in list(_ALL):
        ledger.reset_locks()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
