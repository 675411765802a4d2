"""The calls of this session, to be looked at later: kept as streams until they have ended, then as rows."""

from __future__ import annotations

import itertools
import threading
import time
from collections import deque
from datetime import UTC, datetime

from .measure import Call, rows
from .pieces import Row
from .streams import Stream

SESSION = "session"  # the run_id of ordinary calls
_PENDING = 64  # streams that are kept whole: their logs take memory, and measuring them takes a moment


class Ledger:
    """Rows of the last `most` calls, in the columns of benchmarks. Any thread."""

    def __init__(self, most: int = 10_000) -> None:
        self.epoch = time.perf_counter()
        self._numbers = itertools.count(1)
        self._pending: list[tuple[Stream, Call, Row]] = []
        self._rows: deque[Row] = deque(maxlen=most)
        self._lock = threading.Lock()

    def note(self, stream: Stream, call: Call) -> None:
        """Remembers a call that has just been made."""
        number = next(self._numbers)
        about = {"run_id": SESSION, "request_id": f"{number:06d}", "seq": number, "name": call.model, "t_wall": datetime.now(UTC).isoformat()}
        with self._lock:
            self._pending.append((stream, call, about))
            if len(self._pending) > _PENDING:
                self._settle()

    def rows(self) -> list[Row]:
        """One row per attempt of every call that has ended, in the order of their calls."""
        with self._lock:
            self._settle()
            return sorted(self._rows, key=lambda row: (row["seq"], row["attempt"]))

    def _settle(self) -> None:
        ended = [entry for entry in self._pending if entry[0].done]
        self._pending = [entry for entry in self._pending if not entry[0].done]
        for stream, call, about in ended:
            self._rows.extend(rows(stream, call, about))
