"""Stored conversations, if the user has turned that on: `chats/chats.sqlite` in the user's state folder, one
row per turn.

Several kernels may write: a turn that another kernel has added stays, so that none is lost. A turn is a text
whose format only its caller knows.
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
_LIST = (
    "select place, chat, count(*), sum(length(turn)), max(at) from turns "
    "where :place is null or place = :place group by place, chat order by max(at)"
)


@dataclass(frozen=True, slots=True)
class ChatInfo:
    """A conversation in a list. place: the notebook that it belongs to; at: the time of its last turn
    (seconds since 1970)."""

    place: str
    chat: str
    turns: int
    bytes: int
    at: float


class ChatStore:
    """The file of conversations. folder: its parent folder, None for the user's state folder. Any thread may
    use it. Raises ConfigError where the file cannot be read or written."""

    def __init__(self, folder: Path | None = None) -> None:
        self._folder = folder

    @property
    def path(self) -> Path:
        """The path of the file."""
        return (self._folder or state_folder()) / "chats" / "chats.sqlite"

    def load(self, place: str, chat: str) -> list[tuple[str, str]]:
        """(id, text) of each turn of a conversation, in order."""
        query = "select id, turn from turns where place = ? and chat = ? order by number, at, id"
        with self._open() as db:
            return db.execute(query, (place, chat)).fetchall() if db else []

    def write(
        self, place: str, chat: str, order: Sequence[str], texts: Mapping[str, str], deleted: Iterable[str]
    ) -> None:
        """Adds or changes turns (`texts` by id), deletes others, and stores the order of the ids. Turns that
        are in none of these stay."""
        key, now = (place, chat), time.time()
        number = {ident: n for n, ident in enumerate(order)}
        with self._open(create=True) as db:
            if db is None:
                return
            db.execute("begin immediate")
            db.executemany(
                "delete from turns where place = ? and chat = ? and id = ?", ((*key, i) for i in deleted)
            )
            db.executemany(
                "insert or replace into turns values (?, ?, ?, ?, ?, ?)",
                ((*key, i, number[i], now, text) for i, text in texts.items()),
            )
            old = db.execute("select id, number from turns where place = ? and chat = ?", key).fetchall()
            moved = [(number[i], *key, i) for i, n in old if number.get(i, n) != n]
            db.executemany("update turns set number = ? where place = ? and chat = ? and id = ?", moved)
            db.execute("commit")

    def list_chats(self, place: str | None = None) -> list[ChatInfo]:
        """The conversations of a notebook, None for all."""
        with self._open() as db:
            return [ChatInfo(*row) for row in db.execute(_LIST, {"place": place})] if db else []

    def delete(self, place: str | None = None, chat: str | None = None) -> int:
        """Deletes a conversation, those of a notebook, or all; returns the number of their turns."""
        with self._open() as db:
            if db is None:
                return 0
            db.execute("pragma secure_delete=on")  # overwrites the text in the file
            return db.execute(
                "delete from turns where coalesce(:place, place) = place and coalesce(:chat, chat) = chat",
                {"place": place, "chat": chat},
            ).rowcount

    @contextmanager
    def _open(self, *, create: bool = False) -> Iterator[sqlite3.Connection | None]:
        """A connection to the file; None where there is no file and `create` is false."""
        if not create and not self.path.exists():
            yield None
            return
        hint = "Check the folder and its permissions, or take keep_chats out of the configuration."
        with (
            translate_errors(f"Conversations cannot be stored in {self.path}", hint),
            open_shared(self.path, _TABLES, _FORMAT, synchronous="full") as db,
        ):
            yield db
