"""Answers that were given before, on disk: `answers/answers.sqlite` in the user's state folder, shared by all
kernels.

Its key is made of what is really sent, never of a key or a time limit. Its value is the events of a whole
answer, so that signatures, calls and counts come back as they were. Writers are several, so the file keeps a
rollback journal (see database on the other kind), and each piece of work opens it anew: nothing is held over
a fork. It is a help and no more: whatever is the matter with the file, calls go on without it. What is used
least recently goes first.
"""

from __future__ import annotations

import contextlib
import json
import os
import threading
import time
import zlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from ..core.calls import display_url
from ..core.codec import VERSION, check_version, digest, from_plain, to_plain
from ..core.errors import ConfigError, NbllmError, ProtocolError
from ..core.events import Event, Finished, Notice, Restarted
from .database import open_shared, state_folder, translate_errors

if TYPE_CHECKING:
    import sqlite3

_FORMAT = 1  # of the file, and of what a key is made of
_LIMIT = 1_000_000_000  # bytes of answers
_LONGEST = 256 * 2**20  # bytes of one answer's events
_BUSY = 2.0  # seconds to wait for another kernel's moment with the file
_WHOLE = ("stop", "tool_calls", "length")  # how an answer ends that is worth keeping
_PASSING = ("retry", "wait", "cached")  # notices of one sending
_STREAMING = ("stream", "stream_options")
_MEANT = ("anthropic-beta", "anthropic-version", "openai-beta")  # headers that change an answer
_TABLES = (
    "create table if not exists answers (key text primary key, used real not null, size integer not null, "
    "data blob not null)",
    "create index if not exists least_used on answers (used, size)",
)


class Known(msgspec.Struct, frozen=True):
    """An answer that was kept. at: when it was given (seconds since 1970); simulated: by the simulator."""

    events: tuple[Event, ...]
    at: float
    simulated: bool = False


def key_of(call: Any, dialect: str, sample: int = 0) -> str:
    """The key of a call's answer: equal calls have the same one, whoever sends them. sample: tells answers to
    one question apart. Raises ConfigError for a body that has no JSON form."""
    body = _numbered({name: value for name, value in call.body.items() if name not in _STREAMING})
    headers = {k.lower(): v for k, v in call.headers.items() if k.lower() in _MEANT}
    return digest([_FORMAT, dialect, display_url(call.url, call.guard.secrets), headers, body, sample])


def _numbered(value: Any) -> Any:
    """Parameters with their numbers in one form: 0.0 is 0. What stands in lists (the messages) stays."""
    if isinstance(value, Mapping):
        return {name: _numbered(each) for name, each in value.items()}
    return int(value) if isinstance(value, float) and value.is_integer() else value


def worth(events: Sequence[Event], secrets: Sequence[str], *, every: bool = False) -> tuple[Event, ...]:
    """The events of an answer as they are kept, without what belongs to its sending; none where it is not
    whole, or holds a secret. every: however it ended by itself, filtered too."""
    start = max((i + 1 for i, e in enumerate(events) if isinstance(e, Restarted)), default=0)
    kept = tuple(e for e in events[start:] if not (isinstance(e, Notice) and e.kind in _PASSING))
    endings = (*_WHOLE, "content_filter", "other") if every else _WHOLE
    whole = bool(kept) and isinstance(kept[-1], Finished) and kept[-1].reason in endings
    return kept if whole and not leaks(kept, secrets) else ()


def leaks(events: Sequence[Event], secrets: Sequence[str]) -> bool:
    """Whether a secret stands in the events, be it in pieces."""
    pieces: dict[tuple[str, str], list[str]] = {}
    for event in to_plain(events):
        for name, value in event.items():
            text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
            pieces.setdefault((event["type"], name), []).append(text)
    texts = ["".join(of) for of in pieces.values()]
    return any(secret in text for secret in secrets if len(secret) >= 4 for text in texts)


class Answers:
    """The file of answers. folder: where it lies, the user's state folder for None; limit: bytes that it may
    hold. Any thread; work takes milliseconds. `get` and `put` never raise: what is the matter with the file
    is `tell`, once."""

    def __init__(self, folder: Path | None = None, limit: int | None = None) -> None:
        self.limit = _limit() if limit is None else limit
        self.hits = self.misses = 0
        self._folder, self._problem, self._told = folder, "", False
        self._lock = threading.Lock()
        self._fresh = self.limit  # bytes written since it was last measured

    @property
    def path(self) -> Path:
        """The file."""
        return (self._folder or state_folder()) / "answers" / "answers.sqlite"

    def get(self, key: str) -> Known | None:
        """The answer, None where none is kept, or what is kept cannot be read."""
        found: Known | None = self._tried(lambda: self._read(key))
        with self._lock:
            self.hits, self.misses = self.hits + (found is not None), self.misses + (found is None)
        return found

    def put(self, key: str, known: Known) -> None:
        """Keeps an answer, and lets those go that were not used for longest where there are too many."""
        told = {
            "nbllm": VERSION,
            "at": known.at,
            "simulated": known.simulated,
            "events": to_plain(known.events),
        }
        text = json.dumps(told, separators=(",", ":")).encode("ascii")
        data = zlib.compress(text, 1)
        if len(text) <= _LONGEST and len(data) <= self.limit:
            self._tried(lambda: self._write(key, data))

    def tell(self) -> str:
        """Why answers are not kept; "" where they are, and from the second time on."""
        with self._lock:
            said, self._told = "" if self._told else self._problem, self._told or bool(self._problem)
        return said

    def figures(self) -> dict[str, Any]:
        """Where the file is, how many answers it has, of how many bytes, of how many at most; hits and misses
        of this kernel. Raises ConfigError for a file that cannot be read."""
        with self._readable() as db:
            many, size = db.execute("select count(*), coalesce(sum(size), 0) from answers").fetchone()
        return {
            "path": str(self.path),
            "answers": many,
            "bytes": size,
            "limit": self.limit,
            "hits": self.hits,
            "misses": self.misses,
        }

    def clear(self) -> int:
        """Forgets every answer, and gives how many they were; a file that cannot be read is removed."""
        try:
            with self._readable() as db:
                many = db.execute("select count(*) from answers").fetchone()[0]
                db.execute("delete from answers")
                db.execute("vacuum")
        except ConfigError:
            many = 0
            for end in ("", "-journal"):
                self.path.with_name(self.path.name + end).unlink(missing_ok=True)
        self._problem, self._told = "", False
        return int(many)

    def _tried(self, work: Any) -> Any:
        try:
            return work()
        except Exception as error:  # noqa: BLE001 - the file is a help: no call fails by it
            words = error.message if isinstance(error, NbllmError) else str(error)
            self._problem = (
                f"Answers are not kept in {self.path}: {words.rstrip('.')}. `%llm cache clear` begins anew."
            )
            return None

    def _read(self, key: str) -> Known | None:
        with self._open() as db:
            row = db.execute("select data, used from answers where key = ?", (key,)).fetchone()
            if row is None:
                return None
            if (now := time.time()) - row[1] > 1.0:
                db.execute("update answers set used = ? where key = ?", (now, key))
        return _known(row[0])

    def _write(self, key: str, data: bytes) -> None:
        with self._open() as db:
            db.execute(
                "insert or replace into answers values (?, ?, ?, ?)", (key, time.time(), len(data), data)
            )
            self._fresh += len(data)
            if self._fresh > self.limit // 64:  # another kernel may write as much
                self._fresh = 0
                self._shrink(db)

    def _shrink(self, db: sqlite3.Connection) -> None:
        over = db.execute("select coalesce(sum(size), 0) from answers").fetchone()[0] - self.limit
        gone: list[tuple[int]] = []
        for row, size in db.execute("select rowid, size from answers order by used, rowid"):
            if over <= 0:
                break
            over -= size
            gone.append((row,))
        db.executemany("delete from answers where rowid = ?", gone)

    @contextlib.contextmanager
    def _readable(self) -> Iterator[sqlite3.Connection]:
        what = f"The answers in {self.path} cannot be read"
        with translate_errors(what, "`%llm cache clear` begins anew."), self._open() as db:
            yield db

    def _open(self) -> AbstractContextManager[sqlite3.Connection]:
        return open_shared(self.path, _TABLES, _FORMAT, wait=_BUSY)  # a power cut may cost what is kept


def _known(data: bytes) -> Known:
    """What was kept. Raises ProtocolError, ConfigError, zlib.error, ValueError for what nbllm did not
    write."""
    found = json.loads(zlib.decompressobj().decompress(data, _LONGEST))
    if not isinstance(found, dict) or not isinstance(found.get("at"), (int, float)):
        raise ProtocolError("it holds what nbllm did not write")
    check_version(found.get("nbllm"))
    events = from_plain(found.get("events"), tuple[Event, ...])
    if not worth(events, ()):
        raise ProtocolError("it holds an answer that is not whole")
    return Known(events, float(found["at"]), found.get("simulated") is True)


def _limit() -> int:
    """NBLLM_CACHE_BYTES, or 1 GB. Raises ConfigError for what is no number."""
    said = os.environ.get("NBLLM_CACHE_BYTES", "")
    if said and not said.isdecimal():
        raise ConfigError(
            f"NBLLM_CACHE_BYTES={said[:20]!r} is no number of bytes.", hint="For example 2000000000."
        )
    return int(said) if said else _LIMIT
