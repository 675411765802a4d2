"""The calls of a client, to be looked at later: rows of numbers, in memory and, with those of every other
kernel, on disk.

On disk are numbers and names. What was asked and answered, and what an error says, which may quote it, are
there only where the configuration says `ledger = "texts"`.
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
from .chunks import Recorded, Row
from .history import Book, Key, Record, book, read
from .measure import CallContext, failed, rows, started

_LONGEST = 200  # characters of a name that a provider sends; on disk it is cut
_DAY = 86_400.0  # seconds
_FRESH = 10.0  # seconds for which what was read of the last day serves
_BEHIND = 300  # ended calls, which are all in memory, from which on measuring waits for nobody
_TEXTS = ("prompt", "answer", "error_msg")
_as_json = json.JSONEncoder(default=str).encode


class Ledger:
    """Rows of the last `most` calls, in the columns of benchmarks. `kept`: "memory" for these alone, "disk"
    for a file as well, "texts" with prompts and answers in both. Any thread."""

    def __init__(self, kept: str = "memory", most: int = 10_000) -> None:
        self.epoch = time.perf_counter()
        self.kept = kept
        self.notebook: str | None = None  # whose calls these are
        self._numbers = itertools.count(1)
        self._number = next(book().ledgers)
        self._pending: dict[int, tuple[Recorded, CallContext, Row, Book]] = {}  # by their numbers
        self._rows: deque[Row] = deque(maxlen=most)
        self._begun = 0  # the last call whose beginning was looked at
        self._recent: tuple[float, dict[Key, Row]] = (0.0, {})  # when it was read, and what
        self.renew()
        _ALL.add(self)

    def renew(self) -> None:
        """Makes the locks anew: after a fork, a thread may have held them that is not here."""
        self._lock, self._measuring = threading.Lock(), threading.Lock()

    @property
    def kept(self) -> str:
        """Where calls are noted: one of LEDGERS. Raises ConfigError for another word."""
        return self._kept

    @kept.setter
    def kept(self, kept: str) -> None:
        if kept not in LEDGERS:
            raise ConfigError(
                f"A ledger is not kept as {str(kept)[:40]!r}.", hint=f"There are {', '.join(LEDGERS)}."
            )
        self._kept = kept

    def note(self, stream: Recorded, call: CallContext) -> str:
        """Remembers a call that has just been made. Gives what its user should be told, once: that earlier
        calls could not be put on disk."""
        number, own = next(self._numbers), book()
        about = {
            "run_id": own.kernel,
            "request_id": f"{self._number}.{number:06d}",
            "seq": number,
            "name": call.model,
            "t_wall": datetime.now(UTC).isoformat(),
            "notebook": self.notebook,
        }
        with self._lock:
            self._pending[number] = stream, call, about, own
        stream.on_end, stream.add_to_row = self._ended, partial(self._remark, about, own)
        if self._kept == "memory":
            return ""
        own.wake(self._settle)
        return own.tell()

    def rows(self) -> list[Row]:
        """One row per attempt of every call that has ended, in the order of their calls."""
        self._settle()
        with self._lock:
            return sorted(self._rows, key=lambda row: (row["seq"], row["attempt"]))

    def flush(self) -> None:
        """Returns when the calls that have ended by now are on disk, where they are to be, and it takes
        them."""
        self._settle()
        book().flush()

    def history(self, since: float = 0.0, until: float = math.inf) -> tuple[list[Row], list[str]]:
        """The rows of all kernels' calls that began within these seconds since 1970, in their order, and what
        could not be read. run_id is the kernel that made the call; this client's own are whole."""
        self.flush()
        found, problems = read(since, until)
        found |= {key: row for row in self.rows() if since <= (key := _key(row))[0] < until}
        problems += [book().problem] if book().problem and self._kept != "memory" else []
        return [found[key] for key in sorted(found)], problems

    def last_day(self) -> list[Row]:
        """The calls of the last 24 hours, as `history` gives them; what others wrote within the last seconds
        may be missing."""
        since, read_at = time.time() - _DAY, self._recent[0]
        if time.time() - read_at >= _FRESH:
            self.flush()
            self._recent = time.time(), read(since)[0]
        found = self._recent[1] | {key: row for row in self.rows() if (key := _key(row))[0] >= since}
        return [found[key] for key in sorted(found)]

    def _ended(self, stream: Recorded) -> None:
        """On the engine's thread: has it measured on a thread that nobody waits for."""
        book().wake(self._settle)

    def _remark(self, about: Row, own: Book, more: Row) -> None:
        """Adds to the row of a call that has ended what its caller says of it afterwards."""
        self._settle()
        with self._lock:
            row = next((r for r in reversed(self._rows) if r["request_id"] == about["request_id"]), None)
            if row is not None:
                row |= more
        if row is not None and self._kept != "memory":
            own.add([self._record(row)])
            own.wake(self._settle)

    def _settle(self) -> None:
        """Measures what has ended by now, and puts down what has begun. What ends meanwhile is of the next
        turn, so that under a steady load rows come to the disk and out of memory. An entry goes when it is
        done with: an interrupt may come."""
        with self._measuring:
            with self._lock:
                ended = [entry for entry in self._pending.items() if entry[1][0].done]
            for number, (stream, call, about, own) in ended:
                made = self._measured(stream, call, about)
                if self._kept != "memory":
                    own.add([self._record(row) for row in made])
                with self._lock:
                    self._rows.extend(made)
                    del self._pending[number]
                if len(ended) < _BEHIND:
                    time.sleep(0)  # whoever has something to do goes first
            with self._lock:
                begun = [e for n, e in self._pending.items() if n > self._begun and self._kept != "memory"]
            for _, call, about, own in begun:
                with suppress(Exception):  # a call that cannot be written down was made all the same
                    own.add([self._record(started(call, about))])
                self._begun = about["seq"]

    def _measured(self, stream: Recorded, call: CallContext, about: Row) -> list[Row]:
        try:
            made = rows(stream, call, about)
        except Exception as error:  # noqa: BLE001 - a call that cannot be measured was made all the same
            made = [failed(error, call.provider, call.model, about)]
        if self._kept == "texts":
            prompt = [{"role": m.role, "text": m.text} for m in call.request.messages]
            made[-1] |= {
                "prompt": json.dumps(prompt, ensure_ascii=False),
                "answer": "" if call.provider.dialect in EMBEDDERS else stream.partial().text,  # no vectors
            }
        return made

    def _record(self, row: Row) -> Record:
        told = row
        if self._kept != "texts":
            told = {
                name: v[:_LONGEST] if isinstance(v, str) else v
                for name, v in row.items()
                if v is not None and name not in _TEXTS
            }
            told["params"] = _numbers(row.get("params"))
            told |= {"checks": row["checks"]} if "checks" in row else {}
        return *_key(row), _as_json(told)


def _key(row: Row) -> Key:
    at = datetime.fromisoformat(row["t_wall"]).timestamp()
    return at, row["run_id"], row["request_id"], row["attempt"]


_WORDS = ("reasoning", "cache")  # one of ours, never a text of the user's


def _numbers(params: str | None) -> str:
    """Of the parameters those that are no text: what stops an answer, or goes to a provider as it is, may
    quote the prompt."""
    own = json.loads(params or "{}").items()
    return json.dumps({k: v for k, v in own if isinstance(v, (int, float)) or k in _WORDS})


_ALL: WeakSet[Ledger] = WeakSet()


def _forked() -> None:
    for ledger in list(_ALL):
        ledger.renew()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forked)
