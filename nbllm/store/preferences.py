"""Answers that a person has marked as good: `preferences/preferences.sqlite` in the user's state folder,
shared by all kernels. A mark keeps the question and the answer: that is what it asks for."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from .database import home, refused, shared

if TYPE_CHECKING:
    import sqlite3

_TABLES = ("create table if not exists kept (id text primary key, at real not null, about text not null)",)
COLUMNS = ("at", "provider", "model", "label", "prompt", "answer", "simulated", "id")


def name(about: Mapping[str, Any]) -> str:
    """Whose answer it is: provider and model."""
    return f"{about.get('provider')}/{about.get('model')}"


def keep(ident: str, about: Mapping[str, Any]) -> None:
    """Keeps an answer under an id of its own. Raises ConfigError where the disk does not take it."""
    told = json.dumps(about, ensure_ascii=True)
    with _file() as db:
        db.execute("insert or replace into kept values (?, ?, ?)", (ident, time.time(), told))


def forget(ident: str) -> None:
    """Takes a mark back. Raises as keep."""
    with _file() as db:
        db.execute("delete from kept where id = ?", (ident,))


def kept() -> list[dict[str, Any]]:
    """All that is kept, in the order in which it was; `at` in seconds since 1970. Raises as keep."""
    with _file() as db:
        rows = db.execute("select id, at, about from kept order by at").fetchall()
    return [{**json.loads(about), "at": at, "id": ident} for ident, at, about in rows]


@contextmanager
def _file() -> Iterator[sqlite3.Connection]:
    path = home() / "preferences" / "preferences.sqlite"
    with (
        refused("The marked answers cannot be read or written", f"Check {path}, or move it away."),
        shared(path, _TABLES, 1, synchronous="full") as db,
    ):
        yield db
