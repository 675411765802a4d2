"""The calls of all kernels on disk: each kernel writes a file of its own, and readers combine them.

`ledger/HOST-PID-START.sqlite` is written by its kernel only, which holds a lock on the `.lock` file beside it
as long as it runs; so a free lock means, even after a kill, that nobody will write there again. The files of
kernels that have ended are merged into `calls.sqlite` by the process that holds `fold.lock`: first the rows
are written durably, each under its key, so that a second attempt duplicates nothing; then the files are
deleted. A reader lists the files and reads `calls.sqlite` last: a row that moves meanwhile is read twice, and
counted once.

A call that runs for longer than a write interval has a row with the status INTERRUPTED, which its end
replaces. Readers skip it while its kernel runs; after a kill it remains as the record of the call.

Rows are written by one daemon thread, in groups: no answer waits for the disk, and no disk error loses an
answer.
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
from .database import Database, hold_lock, on_network, open_readonly, private_folder, state_folder, try_lock

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
_MERGED = "calls"  # the file with the calls of kernels that have ended
_WRITE_INTERVAL = 0.25  # seconds
_FORK_TIMEOUT = 5.0  # seconds that a fork waits for the disk
_MAX_MERGED = 200  # files that are merged at once, so that no process ends slowly
# In this order the files of a kernel are deleted.
_SUFFIXES = (".sqlite", ".sqlite-wal", ".sqlite-shm", ".sqlite-journal", ".lock")


class LedgerFile:
    """This process's file, and the thread that writes it. Any thread may use it. It never raises: an error of
    the disk becomes `problem`, and from then on nothing is written."""

    def __init__(self) -> None:
        host = re.sub(r"[^A-Za-z0-9]+", "-", socket.gethostname())[:40]
        self.kernel = f"{host}-{os.getpid()}-{time.time_ns()}"
        self.problem = ""
        self.ledgers = itertools.count(1)
        self._is_new_problem = True
        self.closed = False  # closed, or its process was forked
        self._callbacks: list[Callable[[], None]] = []
        self._rows: list[Record] = []
        self._lock, self._write_lock = threading.Lock(), threading.Lock()
        self._wanted = threading.Event()
        self._thread: threading.Thread | None = None
        self._file: Database | None = None
        self._lock_fd: int | None = None  # held while the process runs

    def schedule(self, callback: Callable[[], None]) -> None:
        """Schedules `callback` on the writing thread. It measures the calls that have begun or ended, and
        appends their rows."""
        with self._lock:
            self._callbacks.append(callback)
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="nbllm-ledger", daemon=True)
                with contextlib.suppress(RuntimeError):  # the interpreter is ending
                    self._thread.start()
        self._wanted.set()

    def append(self, rows: list[Record]) -> None:
        """Adds rows to be written."""
        with self._lock:
            self._rows += rows if not (self.problem or self.closed) else ()

    def flush(self) -> None:
        """Writes the rows of all calls that have ended by now."""
        with self._write_lock:
            self._wanted.clear()
            with self._lock:
                n_scheduled = len(self._callbacks)
            for callback in set(self._callbacks[:n_scheduled]):
                callback()
            with self._lock:
                rows = self._rows[:]
            if rows:
                self._write(rows)
            with self._lock:  # only now, since an interrupt may come at any time; later callbacks remain
                del self._callbacks[:n_scheduled]
                del self._rows[: len(rows)]

    def close(self) -> None:
        """Writes the remaining rows, closes the file, and merges it."""
        self.flush()
        with self._write_lock:
            self.closed, folder = True, self._file.path.parent if self._file else None
            self._close()
        self._wanted.set()
        if folder is not None:
            merge_files(folder)

    def take_problem(self) -> str:
        """Why calls are stored in memory only; "" where they are on disk, and from the second time on."""
        if not self.problem or not self._is_new_problem:
            return ""
        self._is_new_problem = False
        return self.problem

    def pause(self) -> bool:
        """Waits until nothing is being written, and prevents writing until `resume`; False on timeout."""
        return self._write_lock.acquire(timeout=_FORK_TIMEOUT)

    def resume(self) -> None:
        """Ends `pause`."""
        self._write_lock.release()

    def abandon(self) -> None:
        """Drops, in a forked child, what belongs to the parent process."""
        self.closed, self._lock = True, threading.Lock()
        if self._file is not None:
            self._file.abandon()
        if self._lock_fd is not None:
            os.close(self._lock_fd)

    def _run(self) -> None:
        new = True
        while self._wanted.wait() and not self.closed:
            time.sleep(_WRITE_INTERVAL)
            self.flush()
            if new and self._file is not None:
                new = False
                merge_files(self._file.path.parent)

    def _write(self, rows: list[Record]) -> None:
        try:
            if self._file is None:
                self._open()
            if self._file is not None:
                self._file.write((_REPLACE, rows))
        except Exception as error:  # noqa: BLE001 - no disk and no file on it may cost an answer
            self.problem = f"The calls of this session are recorded in memory only: {_reason(error)}."
            with contextlib.suppress(Exception):
                self._close()

    def _open(self) -> None:
        folder = private_folder(state_folder() / "ledger")
        self._lock_fd = hold_lock(folder / f"{self.kernel}.lock")
        self._file = Database(folder / f"{self.kernel}.sqlite", _TABLES, _FORMAT)

    def _close(self) -> None:
        file, self._file = self._file, None
        lock_fd, self._lock_fd = self._lock_fd, None
        try:
            if file is not None:
                file.close()
        finally:
            if lock_fd is not None:
                os.close(lock_fd)


def _reason(error: Exception) -> str:
    if isinstance(error, NbllmError):
        return f"{error.message.rstrip('.')}. {error.hint}".strip().rstrip(".")
    return str(getattr(error, "strerror", None) or error or type(error).__name__)


# --- reading and merging ---


def read_calls(since: float = 0.0, until: float = math.inf) -> tuple[dict[Key, Row], list[str]]:
    """(the rows of calls that began at `since` or later and before `until`, in seconds since 1970, by their
    keys; the problems with files that could not be read)."""
    rows: dict[Key, Row] = {}
    problems: list[str] = []
    try:
        folder = state_folder() / "ledger"
        paths = sorted(folder.glob("*.sqlite"), key=lambda path: (path.stem == _MERGED, path.name))
    except OSError as error:
        return {}, [f"The calls on disk cannot be read: {_reason(error)}."]
    for path in paths:
        try:
            in_file = {tuple(key): json.loads(data) for *key, data in _records(path, since, until)}
            running = [key for key, row in in_file.items() if row.get("status") == INTERRUPTED]
            for key in running if running and _is_live(path) else ():
                del in_file[key]
            rows |= in_file
        except Exception as error:  # noqa: BLE001 - one bad file must not hide the others
            if path.exists():
                problems.append(f"{path} was skipped: {_reason(error)}.")
    return rows, problems


def _is_live(path: Path) -> bool:
    """Whether the kernel of a file still runs, or another process is merging it and its rows soon move."""
    fd = None if path.stem == _MERGED else try_lock(path.with_suffix(".lock"))
    if fd is not None:
        os.close(fd)
    return fd is None and path.stem != _MERGED


def _records(path: Path, since: float = 0.0, until: float = math.inf) -> Iterator[Any]:
    with open_readonly(path, _FORMAT) as db:
        if not db.execute("select 1 from sqlite_master where name = 'calls'").fetchone():
            return  # the kernel was killed before it wrote anything
        yield from db.execute("select * from calls where at >= ? and at < ?", (since, min(until, 1e300)))


def merge_files(folder: Path) -> None:
    """Merges the files of kernels that have ended into one. Does nothing where another process is merging, or
    where locks do not work; files that cannot be read stay as they are."""
    with contextlib.suppress(Exception):  # the next kernel will try again
        fd = None if on_network(folder) else try_lock(folder / "fold.lock")
        if fd is not None:
            try:
                _merge_files(folder)
            finally:
                os.close(fd)


def _merge_files(folder: Path) -> None:
    names = {path.name.partition(".")[0] for path in folder.iterdir()} - {_MERGED, "fold"}
    gone = [
        (name, fd)
        for name in sorted(names)[:_MAX_MERGED]
        if (fd := try_lock(folder / f"{name}.lock")) is not None
    ]
    try:
        if gone:
            merged = Database(folder / f"{_MERGED}.sqlite", _TABLES, _FORMAT, durable=True)
            with contextlib.closing(merged):
                for name, _ in gone:
                    with contextlib.suppress(Exception):  # a file that cannot be read stays
                        if (folder / f"{name}.sqlite").exists():
                            merged.write((_INSERT, _records(folder / f"{name}.sqlite")))
                        _delete(folder, name)
    finally:
        for _, fd in gone:
            os.close(fd)


def _delete(folder: Path, name: str) -> None:
    for suffix in _SUFFIXES:
        (folder / f"{name}{suffix}").unlink(missing_ok=True)


# --- the file of this process ---

_lock = threading.Lock()
_ledger_file: LedgerFile | None = None
_paused: list[LedgerFile] = []  # while a thread forks


def ledger_file() -> LedgerFile:
    """The file of this process, created where none is open."""
    global _ledger_file  # noqa: PLW0603 - one file a process, guarded by the lock
    with _lock:
        if _ledger_file is None or _ledger_file.closed:
            _ledger_file = LedgerFile()
        return _ledger_file


def _before_fork() -> None:
    """Waits for measuring and writing to finish: a child must not inherit an unfinished import or
    transaction, since nothing would ever finish it there."""
    if _ledger_file is not None and _ledger_file.pause():
        _paused.append(_ledger_file)


def _after_fork_in_parent() -> None:
    if _paused:
        _paused.pop().resume()


def _after_fork_in_child() -> None:
    global _ledger_file, _lock
    _paused.clear()
    old, _ledger_file, _lock = _ledger_file, None, threading.Lock()
    if old is not None:
        old.abandon()


def _at_exit() -> None:
    if _ledger_file is not None:
        _ledger_file.close()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(
        before=_before_fork, after_in_parent=_after_fork_in_parent, after_in_child=_after_fork_in_child
    )
atexit.register(_at_exit)
