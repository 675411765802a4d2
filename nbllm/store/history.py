"""Calls on disk, of all kernels: each kernel writes a file of its own, whoever reads takes them together.

`ledger/HOST-PID-START.sqlite` is written by its kernel alone, which holds a lock on the `.lock` beside it for
as long as it lives; so the lock says, after a kill too, that nobody will write there again. The files of
kernels that are gone are folded into `calls.sqlite` by whoever holds `fold.lock`: first the rows, through to
the disk, each under its key, so that a second try doubles nothing; then the files go. A reader lists the
files, reads them, and `calls.sqlite` last: a row that moves meanwhile is met twice, and counted once.

A call that is on its way for longer than a group has a row with the status INTERRUPTED, over which its end is
written. Readers leave it out while its kernel lives; after a kill it is what is left of the call.

Rows are written by one daemon thread, in groups: no answer waits for the disk, and whatever the disk does
costs no answer.
"""

from __future__ import annotations

import atexit
import contextlib
import itertools
import json
import math
import os
import re
import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from ..core.errors import NbllmError
from .chunks import Row
from .database import Database, hold_lock, home, on_network, own_folder, reading, take

Key = tuple[float, str, str, int]  # seconds since 1970, the kernel, the request, its attempt
Record = tuple[float, str, str, int, str]  # a key, and the row as JSON

_FORMAT = 1
_TABLES = (
    "create table if not exists calls (at real not null, run_id text not null, request_id text not null, "
    "attempt integer not null, data text not null, primary key (at, run_id, request_id, attempt)) "
    "without rowid",
)
_INSERT = "insert or ignore into calls values (?, ?, ?, ?, ?)"
_REPLACE = _INSERT.replace("ignore", "replace")
INTERRUPTED = "interrupted"
_FOLDED = "calls"  # the file of kernels that are gone
_GROUP = 0.25  # seconds: what ends within them is written together
_PATIENCE = 5.0  # seconds that a fork waits for the disk
_MANY = 200  # files that are folded at once, so that nobody's end takes long
_PARTS = (".sqlite", ".sqlite-wal", ".sqlite-shm", ".sqlite-journal", ".lock")  # in the order of their going


class Book:
    """This process's file, and the thread that writes it. Any thread. It never raises: what the disk refuses
    is `problem`, and from then on nothing is written."""

    def __init__(self) -> None:
        host = re.sub(r"[^A-Za-z0-9]+", "-", socket.gethostname())[:40]
        self.kernel = f"{host}-{os.getpid()}-{time.time_ns()}"
        self.problem = ""
        self.ledgers = itertools.count(1)
        self._untold = True
        self.over = False  # closed, or its process was forked
        self._sources: list[Callable[[], None]] = []
        self._rows: list[Record] = []
        self._lock, self._writing = threading.Lock(), threading.Lock()
        self._due = threading.Event()
        self._thread: threading.Thread | None = None
        self._file: Database | None = None
        self._alive: int | None = None  # the lock that says so

    def wake(self, source: Callable[[], None]) -> None:
        """Has `source` called soon on the book's thread, to measure what has begun or ended and `add` its
        rows."""
        with self._lock:
            self._sources.append(source)
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="nbllm-ledger", daemon=True)
                with contextlib.suppress(RuntimeError):  # the interpreter is ending
                    self._thread.start()
        self._due.set()

    def add(self, rows: list[Record]) -> None:
        """Rows to be written."""
        with self._lock:
            self._rows += rows if not (self.problem or self.over) else ()

    def flush(self) -> None:
        """Writes what has ended by now."""
        with self._writing:
            self._due.clear()
            with self._lock:
                woken = len(self._sources)
            for measure in set(self._sources[:woken]):
                measure()
            with self._lock:
                rows = self._rows[:]
            if rows:
                self._write(rows)
            with self._lock:  # only now, as an interrupt may come at any moment; who woke meanwhile stays
                del self._sources[:woken]
                del self._rows[: len(rows)]

    def close(self) -> None:
        """Writes what is left, closes the file, and folds it."""
        self.flush()
        with self._writing:
            self.over, folder = True, self._file.path.parent if self._file else None
            self._close()
        self._due.set()
        if folder is not None:
            fold(folder)

    def tell(self) -> str:
        """Why calls are kept in memory only; "" where they are not, and from the second time on."""
        if not self.problem or not self._untold:
            return ""
        self._untold = False
        return self.problem

    def hold(self) -> bool:
        """Waits until nothing is being written, and keeps it so until `release`; False where it lasts."""
        return self._writing.acquire(timeout=_PATIENCE)

    def release(self) -> None:
        """Ends `hold`."""
        self._writing.release()

    def leave(self) -> None:
        """Forgets what belongs to the process that this one was forked from."""
        self.over, self._lock = True, threading.Lock()
        if self._file is not None:
            self._file.leave()
        if self._alive is not None:
            os.close(self._alive)

    def _run(self) -> None:
        new = True
        while self._due.wait() and not self.over:
            time.sleep(_GROUP)
            self.flush()
            if new and self._file is not None:
                new = False
                fold(self._file.path.parent)

    def _write(self, rows: list[Record]) -> None:
        try:
            if self._file is None:
                self._open()
            if self._file is not None:
                self._file.write((_REPLACE, rows))
        except Exception as error:  # noqa: BLE001 - no disk and no file on it may cost an answer
            self.problem = f"The calls of this session are noted in memory only: {_why(error)}."
            with contextlib.suppress(Exception):
                self._close()

    def _open(self) -> None:
        folder = own_folder(home() / "ledger")
        self._alive = hold_lock(folder / f"{self.kernel}.lock")
        self._file = Database(folder / f"{self.kernel}.sqlite", _TABLES, _FORMAT)

    def _close(self) -> None:
        file, self._file = self._file, None
        alive, self._alive = self._alive, None
        try:
            if file is not None:
                file.close()
        finally:
            if alive is not None:
                os.close(alive)


def _why(error: Exception) -> str:
    if isinstance(error, NbllmError):
        return f"{error.message.rstrip('.')}. {error.hint}".strip().rstrip(".")
    return str(getattr(error, "strerror", None) or error or type(error).__name__)


# --- reading and folding ---


def read(since: float = 0.0, until: float = math.inf) -> tuple[dict[Key, Row], list[str]]:
    """The rows of calls that began at `since` or later and before `until` (seconds since 1970), by their
    keys, and what could not be read."""
    found: dict[Key, Row] = {}
    problems: list[str] = []
    try:
        folder = home() / "ledger"
        paths = sorted(folder.glob("*.sqlite"), key=lambda path: (path.stem == _FOLDED, path.name))
    except OSError as error:
        return {}, [f"The calls on disk cannot be read: {_why(error)}."]
    for path in paths:
        try:
            made = {tuple(key): json.loads(data) for *key, data in _records(path, since, until)}
            begun = [key for key, row in made.items() if row.get("status") == INTERRUPTED]
            for key in begun if begun and _lives(path) else ():
                del made[key]
            found |= made
        except Exception as error:  # noqa: BLE001 - whatever is the matter with one file, the others count
            if path.exists():
                problems.append(f"{path} is left out: {_why(error)}.")
    return found, problems


def _lives(path: Path) -> bool:
    """Whether the kernel of a file goes on; or another process is folding it, and its rows stand elsewhere
    soon."""
    fd = None if path.stem == _FOLDED else take(path.with_suffix(".lock"))
    if fd is not None:
        os.close(fd)
    return fd is None and path.stem != _FOLDED


def _records(path: Path, since: float = 0.0, until: float = math.inf) -> Iterator[Any]:
    with reading(path, _FORMAT) as db:
        if not db.execute("select 1 from sqlite_master where name = 'calls'").fetchone():
            return  # its kernel was killed before it wrote anything
        yield from db.execute("select * from calls where at >= ? and at < ?", (since, min(until, 1e300)))


def fold(folder: Path) -> None:
    """Puts the rows of kernels that are gone into one file. Does nothing where another process is at it, or
    where locks do not hold; what cannot be read stays as it is."""
    with contextlib.suppress(Exception):  # the next kernel tries again
        fd = None if on_network(folder) else take(folder / "fold.lock")
        if fd is not None:
            try:
                _fold(folder)
            finally:
                os.close(fd)


def _fold(folder: Path) -> None:
    names = {path.name.partition(".")[0] for path in folder.iterdir()} - {_FOLDED, "fold"}
    gone = [(name, fd) for name in sorted(names)[:_MANY] if (fd := take(folder / f"{name}.lock")) is not None]
    try:
        if gone:
            whole = Database(folder / f"{_FOLDED}.sqlite", _TABLES, _FORMAT, durable=True)
            with contextlib.closing(whole):
                for name, _ in gone:
                    with contextlib.suppress(Exception):  # a file that cannot be read stays
                        if (folder / f"{name}.sqlite").exists():
                            whole.write((_INSERT, _records(folder / f"{name}.sqlite")))
                        _remove(folder, name)
    finally:
        for _, fd in gone:
            os.close(fd)


def _remove(folder: Path, name: str) -> None:
    for part in _PARTS:
        (folder / f"{name}{part}").unlink(missing_ok=True)


# --- the process's own ---

_lock = threading.Lock()
_book: Book | None = None
_held: list[Book] = []  # by a thread that forks


def book() -> Book:
    """The process's own, made where there is none that is open."""
    global _book  # noqa: PLW0603 - one file a process, guarded by the lock
    with _lock:
        if _book is None or _book.over:
            _book = Book()
        return _book


def _hold() -> None:
    """A fork waits for what is being measured and written: a child must not find half of an import, or of a
    transaction, which nobody there would ever end."""
    if _book is not None and _book.hold():
        _held.append(_book)


def _release() -> None:
    if _held:
        _held.pop().release()


def _forget() -> None:
    global _book, _lock
    _held.clear()
    old, _book, _lock = _book, None, threading.Lock()
    if old is not None:
        old.leave()


def _end() -> None:
    if _book is not None:
        _book.close()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=_hold, after_in_parent=_release, after_in_child=_forget)
atexit.register(_end)
