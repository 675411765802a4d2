"""The base of the files of runs over a table and of benchmarks: JSON values by name, and errors of the disk
as ConfigError."""

from __future__ import annotations

import contextlib
import json
import sqlite3
import threading
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, Self

from ..core.errors import ConfigError
from .database import Database, try_lock

_NO_ROOM_HINT = "Free disk space, or use a directory that you can write to; then continue with {}."
_DAMAGED_HINT = "Its file is damaged: move it away, or give this run another name."
_META = "create table if not exists meta (name text primary key, value text not null)"


@contextlib.contextmanager
def translate_run_errors(run: str, resume: str) -> Iterator[None]:
    """Translates errors of the disk and of SQLite within its block. run: its name in the message; resume: the
    function that continues it. Raises ConfigError."""
    try:
        yield
    except (sqlite3.Error, OSError, ValueError, RecursionError) as exc:
        if isinstance(exc, ConfigError):
            raise
        is_known = isinstance(exc, (sqlite3.Error, OSError))
        reason = getattr(exc, "strerror", None) or (exc if is_known else "its content is invalid")
        if path := getattr(exc, "filename", None):
            reason = f"{reason}: {path}"
        raise ConfigError(
            f"The run {run} cannot be written or read: {reason}.",
            hint=_NO_ROOM_HINT.format(resume)
            if isinstance(exc, (sqlite3.OperationalError, OSError))
            else _DAMAGED_HINT,
        ) from None


def lock_run_file(path: Path, run: str, hint: str) -> int:
    """Locks a run and returns the descriptor, which `os.close` or the process's end releases. Raises
    ConfigError where it is locked already, OSError where the file system has no locks."""
    lock = try_lock(path)
    if lock is None:
        raise ConfigError(
            f"The run {run} is open in another process, or in another thread of this one.",
            hint=f"Wait for its end or stop it there, or {hint}.",
        )
    return lock


class RunBase:
    """A run's file. Any thread may use it. Raises ConfigError where it cannot be written or read."""

    def __init__(self, run: str, resume: str) -> None:
        self._run, self._resume, self._lock = run, resume, threading.Lock()

    def _open(self, path: Path, tables: Iterable[str], version: int = 1) -> None:
        self._db = Database(path, (_META, *tables), version)

    def close(self) -> None:
        """Closes the file."""
        self._db.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def _errors(self) -> contextlib.AbstractContextManager[None]:
        return translate_run_errors(self._run, self._resume)

    def _query(self, sql: str, *values: Any) -> list[tuple[Any, ...]]:
        with self._errors(), self._lock:
            return self._db.read(sql, *values)

    def _write(self, *statements: tuple[str, Iterable[tuple[Any, ...]] | None]) -> None:
        with self._errors(), self._lock:
            self._db.write(*statements)

    def put(self, **values: Any) -> None:
        """Stores JSON values by name."""
        rows = [(name, json.dumps(value)) for name, value in values.items()]
        self._write(("insert or replace into meta values (?, ?)", rows))

    def get(self, name: str, default: Any = None) -> Any:
        """The JSON value of a name."""
        found = self._query("select value from meta where name = ?", name)
        with self._errors():
            return json.loads(found[0][0]) if found else default
