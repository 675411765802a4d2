"""Cached answers on disk: `answers/answers.sqlite` in the user's state folder, shared by all kernels.

The key is a digest of the request as it is sent, without API key and time limits. The value is the events of
a complete answer, so that signatures, tool calls and usage are restored exactly. Several processes write the
file, so it has a rollback journal and each operation opens it anew (see database.open_shared). An error of
the file never fails a call. The least recently used answers are deleted first.
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

_FORMAT = 1  # of the file and of the keys
_DEFAULT_LIMIT = 1_000_000_000  # bytes of answers
_MAX_ANSWER = 256 * 2**20  # bytes of one answer's events
_BUSY_TIMEOUT = 2.0  # seconds to wait for another kernel
_COMPLETE = ("stop", "tool_calls", "length")  # finish reasons of answers that are stored
_TRANSIENT = ("retry", "wait", "cached")  # kinds of notices that concern one request only
_STREAMING = ("stream", "stream_options")
_RELEVANT_HEADERS = ("anthropic-beta", "anthropic-version", "openai-beta")  # headers that change an answer
_TABLES = (
    "create table if not exists answers (key text primary key, used real not null, size integer not null, "
    "data blob not null)",
    "create index if not exists least_used on answers (used, size)",
)


class CachedAnswer(msgspec.Struct, frozen=True):
    """A stored answer. at: when it was received (seconds since 1970); simulated: by the simulator."""

    events: tuple[Event, ...]
    at: float
    simulated: bool = False


def cache_key(call: Any, dialect: str, sample: int = 0) -> str:
    """The cache key of a call: the same for equal calls, whoever sends them. sample: distinguishes several
    answers to one prompt. Raises ConfigError for a body that has no JSON form."""
    body = _normalize_numbers({name: value for name, value in call.body.items() if name not in _STREAMING})
    headers = {k.lower(): v for k, v in call.headers.items() if k.lower() in _RELEVANT_HEADERS}
    return digest([_FORMAT, dialect, display_url(call.url, call.guard.secrets), headers, body, sample])


def _normalize_numbers(value: Any) -> Any:
    """Parameters with whole numbers as int: 0.0 becomes 0. Lists (the messages) are unchanged."""
    if isinstance(value, Mapping):
        return {name: _normalize_numbers(each) for name, each in value.items()}
    return int(value) if isinstance(value, float) and value.is_integer() else value


def cacheable_events(
    events: Sequence[Event], secrets: Sequence[str], *, any_reason: bool = False
) -> tuple[Event, ...]:
    """The events of an answer to store, without those that concern one request only; none where the answer is
    incomplete or holds a secret. any_reason: also answers that ended by a content filter or otherwise."""
    start = max((i + 1 for i, e in enumerate(events) if isinstance(e, Restarted)), default=0)
    stored = tuple(e for e in events[start:] if not (isinstance(e, Notice) and e.kind in _TRANSIENT))
    reasons = (*_COMPLETE, "content_filter", "other") if any_reason else _COMPLETE
    is_complete = bool(stored) and isinstance(stored[-1], Finished) and stored[-1].reason in reasons
    return stored if is_complete and not contains_secret(stored, secrets) else ()


def contains_secret(events: Sequence[Event], secrets: Sequence[str]) -> bool:
    """Whether the events contain a secret, even split over several events."""
    pieces: dict[tuple[str, str], list[str]] = {}
    for event in to_plain(events):
        for name, value in event.items():
            text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
            pieces.setdefault((event["type"], name), []).append(text)
    texts = ["".join(of) for of in pieces.values()]
    return any(secret in text for secret in secrets if len(secret) >= 4 for text in texts)


class AnswerStore:
    """The file of answers. folder: its parent folder, None for the user's state folder; limit: bytes of all
    answers. Any thread may use it; operations take milliseconds. `get` and `put` never raise: a problem with
    the file is returned by `take_problem`, once."""

    def __init__(self, folder: Path | None = None, limit: int | None = None) -> None:
        self.limit = _limit_from_env() if limit is None else limit
        self.hits = self.misses = 0
        self._folder, self._problem, self._is_reported = folder, "", False
        self._lock = threading.Lock()
        self._unchecked = self.limit  # bytes written since the size was last checked

    @property
    def path(self) -> Path:
        """The path of the file."""
        return (self._folder or state_folder()) / "answers" / "answers.sqlite"

    def get(self, key: str) -> CachedAnswer | None:
        """The stored answer; None where there is none or it cannot be read."""
        found: CachedAnswer | None = self._try(lambda: self._read(key))
        with self._lock:
            self.hits, self.misses = self.hits + (found is not None), self.misses + (found is None)
        return found

    def put(self, key: str, answer: CachedAnswer) -> None:
        """Stores an answer, and deletes the least recently used ones where the limit is exceeded."""
        value = {
            "nbllm": VERSION,
            "at": answer.at,
            "simulated": answer.simulated,
            "events": to_plain(answer.events),
        }
        text = json.dumps(value, separators=(",", ":")).encode("ascii")
        data = zlib.compress(text, 1)
        if len(text) <= _MAX_ANSWER and len(data) <= self.limit:
            self._try(lambda: self._write(key, data))

    def take_problem(self) -> str:
        """Why answers are not stored; "" where they are, and from the second time on."""
        with self._lock:
            problem = "" if self._is_reported else self._problem
            self._is_reported = self._is_reported or bool(problem)
        return problem

    def statistics(self) -> dict[str, Any]:
        """The path, the number and bytes of the stored answers, the limit in bytes; hits and misses of this
        kernel. Raises ConfigError for a file that cannot be read."""
        with self._open_or_raise() as db:
            count, size = db.execute("select count(*), coalesce(sum(size), 0) from answers").fetchone()
        return {
            "path": str(self.path),
            "answers": count,
            "bytes": size,
            "limit": self.limit,
            "hits": self.hits,
            "misses": self.misses,
        }

    def clear(self) -> int:
        """Deletes all answers and returns their number; a file that cannot be read is deleted."""
        try:
            with self._open_or_raise() as db:
                count = db.execute("select count(*) from answers").fetchone()[0]
                db.execute("delete from answers")
                db.execute("vacuum")
        except ConfigError:
            count = 0
            for end in ("", "-journal"):
                self.path.with_name(self.path.name + end).unlink(missing_ok=True)
        self._problem, self._is_reported = "", False
        return int(count)

    def _try(self, operation: Any) -> Any:
        try:
            return operation()
        except Exception as error:  # noqa: BLE001 - no error of the file may fail a call
            message = error.message if isinstance(error, NbllmError) else str(error)
            self._problem = (
                f"Answers are not stored in {self.path}: {message.rstrip('.')}. "
                f"`%llm cache clear` replaces the file."
            )
            return None

    def _read(self, key: str) -> CachedAnswer | None:
        with self._open() as db:
            row = db.execute("select data, used from answers where key = ?", (key,)).fetchone()
            if row is None:
                return None
            if (now := time.time()) - row[1] > 1.0:
                db.execute("update answers set used = ? where key = ?", (now, key))
        return _parse_answer(row[0])

    def _write(self, key: str, data: bytes) -> None:
        with self._open() as db:
            db.execute(
                "insert or replace into answers values (?, ?, ?, ?)", (key, time.time(), len(data), data)
            )
            self._unchecked += len(data)
            if self._unchecked > self.limit // 64:  # other kernels may write as much
                self._unchecked = 0
                self._shrink(db)

    def _shrink(self, db: sqlite3.Connection) -> None:
        excess = db.execute("select coalesce(sum(size), 0) from answers").fetchone()[0] - self.limit
        deleted: list[tuple[int]] = []
        for row, size in db.execute("select rowid, size from answers order by used, rowid"):
            if excess <= 0:
                break
            excess -= size
            deleted.append((row,))
        db.executemany("delete from answers where rowid = ?", deleted)

    @contextlib.contextmanager
    def _open_or_raise(self) -> Iterator[sqlite3.Connection]:
        what = f"The answers in {self.path} cannot be read"
        with translate_errors(what, "`%llm cache clear` replaces the file."), self._open() as db:
            yield db

    def _open(self) -> AbstractContextManager[sqlite3.Connection]:
        return open_shared(self.path, _TABLES, _FORMAT, wait=_BUSY_TIMEOUT)  # a power cut may lose answers


def _parse_answer(data: bytes) -> CachedAnswer:
    """The answer of stored data. Raises ProtocolError, ConfigError, zlib.error, ValueError for data that
    nbllm did not write."""
    value = json.loads(zlib.decompressobj().decompress(data, _MAX_ANSWER))
    if not isinstance(value, dict) or not isinstance(value.get("at"), (int, float)):
        raise ProtocolError("it holds data that nbllm did not write")
    check_version(value.get("nbllm"))
    events = from_plain(value.get("events"), tuple[Event, ...])
    if not cacheable_events(events, ()):
        raise ProtocolError("it holds an incomplete answer")
    return CachedAnswer(events, float(value["at"]), value.get("simulated") is True)


def _limit_from_env() -> int:
    """NBLLM_CACHE_BYTES, or 1 GB. Raises ConfigError for a value that is not a number."""
    value = os.environ.get("NBLLM_CACHE_BYTES", "")
    if value and not value.isdecimal():
        raise ConfigError(
            f"NBLLM_CACHE_BYTES={value[:20]!r} is not a number of bytes.", hint="For example 2000000000."
        )
    return int(value) if value else _DEFAULT_LIMIT
