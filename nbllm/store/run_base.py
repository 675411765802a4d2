"""What the files of runs over a table and of benchmarks share: JSON values by their names, beside what each
keeps; and what the disk, or a file on it, refuses is said in our words."""

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

_ROOM = "Make room there, or use a directory that you may write to; {} goes on with what is there."
_DAMAGED = "Its file is damaged: move it away, or give this run another name."
_META = "create table if not exists meta (name text primary key, value text not null)"


@contextlib.contextmanager
def told(run: str, resume: str) -> Iterator[None]:
    """run: its name, in words; resume: what goes on with it. Raises ConfigError."""
    try:
        yield
    except (sqlite3.Error, OSError, ValueError, RecursionError) as exc:
        if isinstance(exc, ConfigError):
            raise
        room = isinstance(exc, (sqlite3.OperationalError, OSError))
        known = isinstance(exc, (sqlite3.Error, OSError))
        why = getattr(exc, "strerror", None) or (exc if known else "it holds something else")
        why = f"{why}: {place}" if (place := getattr(exc, "filename", None)) else why
        raise ConfigError(
            f"The run {run} cannot be kept or read: {why}.", hint=_ROOM.format(resume) if room else _DAMAGED
        ) from None


def taken(path: Path, run: str, hint: str) -> int:
    """The lock of a run, until `os.close` of it or this process's end. Raises ConfigError where another has
    it, OSError where the file system knows no locks."""
    lock = try_lock(path)
    if lock is None:
        raise ConfigError(
            f"The run {run} is going on in another process, or in another thread of this one.",
            hint=f"Wait for its end or stop it there, or {hint}.",
        )
    return lock


class RunBase:
    """A run's file. Any thread may use it. Raises ConfigError for what cannot be written or read."""

    def __init__(self, run: str, resume: str) -> None:
        self._run, self._resume, self._turn = run, resume, threading.Lock()

    def _open(self, path: Path, tables: Iterable[str], version: int = 1) -> None:
        self._db = Database(path, (_META, *tables), version)

    def close(self) -> None:
        """Closes the file."""
        self._db.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def _told(self) -> contextlib.AbstractContextManager[None]:
        return told(self._run, self._resume)

    def _asked(self, words: str, *values: Any) -> list[tuple[Any, ...]]:
        with self._told(), self._turn:
            return self._db.read(words, *values)

    def _write(self, *work: tuple[str, Iterable[tuple[Any, ...]] | None]) -> None:
        with self._told(), self._turn:
            self._db.write(*work)

    def put(self, **values: Any) -> None:
        """Keeps JSON values under names."""
        rows = [(name, json.dumps(value)) for name, value in values.items()]
        self._write(("insert or replace into meta values (?, ?)", rows))

    def get(self, name: str, default: Any = None) -> Any:
        """The JSON value under a name."""
        found = self._asked("select value from meta where name = ?", name)
        with self._told():
            return json.loads(found[0][0]) if found else default
