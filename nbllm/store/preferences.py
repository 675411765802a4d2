"""Answers that the user has marked as good: `preferences/preferences.sqlite` in the user's state folder,
shared by all kernels. Marking stores the question and the answer."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from .database import open_shared, state_folder, translate_errors

if TYPE_CHECKING:
    import sqlite3

_TABLES = ("create table if not exists kept (id text primary key, at real not null, about text not null)",)
COLUMNS = ("at", "provider", "model", "label", "prompt", "answer", "simulated", "id")


def model_name(record: Mapping[str, Any]) -> str:
    """provider/model of an answer's record."""
    return f"{record.get('provider')}/{record.get('model')}"


def mark(ident: str, record: Mapping[str, Any]) -> None:
    """Stores the record of an answer under its id. Raises ConfigError where the disk refuses."""
    text = json.dumps(record, ensure_ascii=True)
    with _open() as db:
        db.execute("insert or replace into kept values (?, ?, ?)", (ident, time.time(), text))


def unmark(ident: str) -> None:
    """Removes a mark. Raises what `mark` raises."""
    with _open() as db:
        db.execute("delete from kept where id = ?", (ident,))


def marked_answers() -> list[dict[str, Any]]:
    """The records of all marked answers, oldest first; `at` in seconds since 1970. Raises what `mark`
    raises."""
    with _open() as db:
        rows = db.execute("select id, at, about from kept order by at").fetchall()
    return [{**json.loads(record), "at": at, "id": ident} for ident, at, record in rows]


@contextmanager
def _open() -> Iterator[sqlite3.Connection]:
    path = state_folder() / "preferences" / "preferences.sqlite"
    with (
        translate_errors("The marked answers cannot be read or written", f"Check {path}, or move it away."),
        open_shared(path, _TABLES, 1, synchronous="full") as db,
    ):
        yield db
