"""Conversations on disk, where the user said so: `chats/chats.sqlite` in the user's state folder, one row a
turn.

Kernels may write at once: a turn that another one has added is left as it is, so that none is lost. A turn is
text that its reader understands; nothing of it is looked at here.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from .database import open_shared, state_folder, translate_errors

if TYPE_CHECKING:
    import sqlite3

_FORMAT = 1
_TABLES = (
    "create table if not exists turns (place text not null, chat text not null, id text not null, "
    "number integer not null, at real not null, turn text not null, primary key (place, chat, id))",
)
_LISTED = (
    "select place, chat, count(*), sum(length(turn)), max(at) from turns "
    "where :place is null or place = :place group by place, chat order by max(at)"
)


@dataclass(frozen=True, slots=True)
class Kept:
    """A conversation as a list shows it. place: the notebook that it belongs to; at: its last turn (seconds
    since 1970)."""

    place: str
    chat: str
    turns: int
    bytes: int
    at: float


class KeptChats:
    """The file. folder: where it lies, the user's state folder for None. Any thread. Raises ConfigError where
    the file cannot be read or written."""

    def __init__(self, folder: Path | None = None) -> None:
        self._folder = folder

    @property
    def path(self) -> Path:
        """The file."""
        return (self._folder or state_folder()) / "chats" / "chats.sqlite"

    def load(self, place: str, chat: str) -> list[tuple[str, str]]:
        """(id, text) of a conversation's turns, in their order."""
        query = "select id, turn from turns where place = ? and chat = ? order by number, at, id"
        with self._open() as db:
            return db.execute(query, (place, chat)).fetchall() if db else []

    def write(
        self, place: str, chat: str, order: Sequence[str], texts: Mapping[str, str], gone: Iterable[str]
    ) -> None:
        """Adds or changes turns (texts by id), takes others out, and puts them in the order of their ids.
        Turns that are named nowhere stay."""
        key, now = (place, chat), time.time()
        number = {ident: n for n, ident in enumerate(order)}
        with self._open(make=True) as db:
            if db is None:
                return
            db.execute("begin immediate")
            db.executemany(
                "delete from turns where place = ? and chat = ? and id = ?", ((*key, i) for i in gone)
            )
            db.executemany(
                "insert or replace into turns values (?, ?, ?, ?, ?, ?)",
                ((*key, i, number[i], now, text) for i, text in texts.items()),
            )
            old = db.execute("select id, number from turns where place = ? and chat = ?", key).fetchall()
            moved = [(number[i], *key, i) for i, n in old if number.get(i, n) != n]
            db.executemany("update turns set number = ? where place = ? and chat = ? and id = ?", moved)
            db.execute("commit")

    def listed(self, place: str | None = None) -> list[Kept]:
        """The conversations of a place, of all for None."""
        with self._open() as db:
            return [Kept(*row) for row in db.execute(_LISTED, {"place": place})] if db else []

    def forget(self, place: str | None = None, chat: str | None = None) -> int:
        """Forgets a conversation, or all of them; gives how many turns they had."""
        with self._open() as db:
            if db is None:
                return 0
            db.execute("pragma secure_delete=on")  # its words do not stay in the file either
            return db.execute(
                "delete from turns where coalesce(:place, place) = place and coalesce(:chat, chat) = chat",
                {"place": place, "chat": chat},
            ).rowcount

    @contextmanager
    def _open(self, *, make: bool = False) -> Iterator[sqlite3.Connection | None]:
        """The file, None where there is none and none is to be made."""
        if not make and not self.path.exists():
            yield None
            return
        hint = "Check the folder and its permissions, or take keep_chats out of the configuration."
        with (
            translate_errors(f"Conversations cannot be kept in {self.path}", hint),
            open_shared(self.path, _TABLES, _FORMAT, synchronous="full") as db,
        ):
            yield db
