"""The calls of this session, to be looked at later: kept as streams until a few have ended, then as rows of
numbers."""

from __future__ import annotations

import contextlib
import itertools
import threading
import time
from collections import deque
from datetime import UTC, datetime

from .chunks import Recorded, Row
from .measure import Call, rows

SESSION = "session"  # the run_id of ordinary calls
_PENDING = 64  # streams that are kept whole, since measuring one takes a moment
_WEIGHT = 12 * 2**20  # bytes that they may have carried: their logs take several times as much memory


class Ledger:
    """Rows of the last `most` calls, in the columns of benchmarks. Any thread."""

    def __init__(self, most: int = 10_000) -> None:
        self.epoch = time.perf_counter()
        self._numbers = itertools.count(1)
        self._pending: list[tuple[Recorded, Call, Row]] = []
        self._rows: deque[Row] = deque(maxlen=most)
        self._lock, self._measuring = threading.Lock(), threading.Lock()
        self._weight = 0

    def note(self, stream: Recorded, call: Call) -> None:
        """Remembers a call that has just been made."""
        number = next(self._numbers)
        about = {
            "run_id": SESSION,
            "request_id": f"{number:06d}",
            "seq": number,
            "name": call.model,
            "t_wall": datetime.now(UTC).isoformat(),
        }
        with self._lock:
            self._pending.append((stream, call, about))
        stream.at_end = self._ended

    def rows(self) -> list[Row]:
        """One row per attempt of every call that has ended, in the order of their calls."""
        self._settle()
        with self._lock:
            return sorted(self._rows, key=lambda row: (row["seq"], row["attempt"]))

    def _ended(self, stream: Recorded) -> None:
        """Measures, on a thread that nobody waits for, where what has ended weighs too much to be kept as it
        is."""
        with self._lock:
            self._weight += sum(t.bytes_in + t.bytes_out for t in stream.traces)
            light = self._weight < _WEIGHT and len(self._pending) <= _PENDING
        if not light:
            with contextlib.suppress(RuntimeError):  # the interpreter is ending: nobody will ask
                threading.Thread(target=self._settle, name="nbllm-ledger", daemon=True).start()

    def _settle(self) -> None:
        with self._measuring:
            with self._lock:
                ended = [entry for entry in self._pending if entry[0].done]
                self._pending = [entry for entry in self._pending if not entry[0].done]
                self._weight = 0
            while ended:
                made = rows(*ended.pop(0))
                with self._lock:
                    self._rows.extend(made)
