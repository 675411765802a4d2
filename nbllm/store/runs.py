"""The file of one run over a table: what is asked of each row and what came of it, in SQLite.

A question is known by a hash of what is sent (and by its place, where equal rows are asked apart), so that a
run that is started again asks what is new or changed, and nothing that was answered. `places` says which
question each row of the table has now. States: pending -> sent -> ok | failed | stopped. One process has a
file at a time, so what is `sent` when it is opened was cut off, and is pending again.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import sqlite3
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from ..core.errors import ConfigError
from .database import open_readonly, private_folder, state_folder
from .run_base import RunBase, taken

_NAME = re.compile(r"[A-Za-z0-9_][\w.\-]{0,79}", re.ASCII)
_TABLES = (
    "create table if not exists rows (id text primary key, input text not null, state text not null, "
    "attempts integer not null, data text, error text, usd real, tokens integer)",
    "create table if not exists places (place integer primary key, id text not null)",
    "create index if not exists rows_by_state on rows (state)",
    "create table if not exists batches (part integer primary key, state text not null, batch text not null, "
    "ids text not null, created real not null)",
)
_FETCH = 200  # prompts that are read at once
_COUNTS = "select r.state, count(*) from places p join rows r on r.id = p.id group by r.state"


class Row(NamedTuple):
    """What came of a question. data: the answer as JSON; error: its type and message; usd and tokens: what it
    took, None where that is not known."""

    id: str
    state: str
    data: str | None = None
    error: str | None = None
    usd: float | None = None
    tokens: int | None = None


class Part(NamedTuple):
    """Questions that are, or are about to be, in one batch. state: creating (its provider may have it, its id
    is not known), running, or done; batch: its provider's id; created: seconds since 1970."""

    part: int
    state: str
    batch: str
    ids: list[str]
    created: float


@dataclass(frozen=True, slots=True)
class RunInfo:
    """A run as it lies on disk. left: rows without an answer or a failure; usd: what is known of its cost."""

    run: str
    model: str
    rows: int
    ok: int
    failed: int
    left: int
    usd: float
    template: str
    ended: str


def folder() -> Path:
    """Where runs over tables are kept."""
    return state_folder() / "rows"


def path_of(name: str) -> Path:
    """The file of a run. Raises ConfigError for what is no name."""
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        raise ConfigError(
            f"A run cannot be called {name!r}.", hint="Use letters, digits, _, - and dots, at most 80."
        )
    return folder() / f"{name}.sqlite"


class RunFile(RunBase):
    """A run that is open in this process alone. Any thread may use it. Raises ConfigError for what
    cannot be written or read, and where another process has it."""

    def __init__(self, name: str, *, create: bool = True) -> None:
        super().__init__(name, "nbllm.rows.resume")
        self.name, path = name, path_of(name)
        if not create and (path.is_symlink() or not path.exists()):
            raise ConfigError(
                f"There is no run called {name!r}.", hint="nbllm.rows.runs() lists those of this machine."
            )
        with self._told():
            private_folder(state_folder())
            private_folder(path.parent)
            own = "give this one another name with run="
            self._lock: int | None = taken(path.with_suffix(".lock"), name, own)
            try:
                self._open(path, _TABLES)
                self._db.write(("update rows set state = 'pending' where state = 'sent'", None))
            except BaseException:
                os.close(self._lock)
                raise

    def close(self) -> None:
        """Closes the file and lets others have it."""
        if self._lock is not None:
            super().close()
            os.close(self._lock)
            self._lock = None

    def plan(self, questions: Iterable[tuple[str, str]]) -> None:
        """Sets what is asked of each place, in their order: (id, prompt). Known questions keep what came of
        them."""
        ids: list[tuple[int, str]] = []

        def new() -> Iterator[tuple[str, str]]:
            for place, (id, prompt) in enumerate(questions):
                ids.append((place, id))
                yield id, prompt

        self._write(
            ("insert or ignore into rows values (?, ?, 'pending', 0, null, null, null, null)", new()),
            ("delete from places", None),
            ("insert into places values (?, ?)", ids),
        )

    def reopen(self) -> None:
        """Makes the questions of the table that have failed pending again."""
        self._write(
            (
                "update rows set state = 'pending', error = null "
                "where state = 'failed' and id in (select id from places)",
                None,
            )
        )

    def open_ids(self) -> list[str]:
        """The questions of the table that have no end yet, in the order of their first places."""
        found = self._asked(
            "select p.id from places p join rows r on r.id = p.id "
            "where r.state in ('pending', 'sent', 'stopped') group by p.id order by min(p.place)"
        )
        return [id for (id,) in found]

    def prompts(self, ids: Sequence[str]) -> dict[str, str]:
        """The prompts of some questions."""
        marks = ",".join("?" * len(ids))
        return dict(self._asked(f"select id, input from rows where id in ({marks})", *ids))  # noqa: S608

    def questions(self, ids: Sequence[str]) -> Iterator[tuple[str, str]]:
        """(id, prompt) of some questions, in their order; read from disk by and by."""
        for start in range(0, len(ids), _FETCH):
            some = ids[start : start + _FETCH]
            found = self.prompts(list(set(some)))
            yield from ((id, found[id]) for id in some)

    def parts(self) -> list[Part]:
        """Its batches that have not ended, or are not read."""
        words = "select part, state, batch, ids, created from batches where state != 'done' order by part"
        with self._told():
            return [Part(p, s, b, json.loads(i), c) for p, s, b, i, c in self._asked(words)]

    def taken(self) -> set[str]:
        """The providers' ids of all its batches."""
        return {id for (id,) in self._asked("select batch from batches")}

    def add_part(self, ids: list[str], created: float) -> Part:
        """A new part, about to be created."""
        (number,) = self._asked("select coalesce(max(part), -1) + 1 from batches")[0]
        part = Part(number, "creating", "", ids, created)
        self.put_part(part)
        return part

    def put_part(self, part: Part) -> None:
        """Keeps what is known of a part."""
        values = (*part[:3], json.dumps(part.ids), part.created)
        self._write(("insert or replace into batches values (?, ?, ?, ?, ?)", [values]))

    def record(self, rows: Iterable[Row], sent: Iterable[str] = (), part: int | None = None) -> None:
        """Notes what was sent and what came of it, and that a part is done with, in one transaction."""
        self._write(
            ("update rows set state = 'sent', attempts = attempts + 1 where id = ?", [(id,) for id in sent]),
            (
                "update rows set state = ?, data = ?, error = ?, "
                "usd = case when ? is null then usd else coalesce(usd, 0) + ? end, tokens = ? where id = ?",
                [(r.state, r.data, r.error, r.usd, r.usd, r.tokens, r.id) for r in rows],
            ),
            ("update batches set state = 'done' where part = ?", [] if part is None else [(part,)]),
        )

    def counts(self) -> dict[str, int]:
        """How many rows of the table are in each state."""
        return dict(self._asked(_COUNTS))

    def spent(self) -> tuple[float, int]:
        """(US dollars, tokens) of all that was asked so far."""
        usd, tokens = self._asked("select total(usd), total(tokens) from rows")[0]
        return float(usd), int(tokens)

    def results(self) -> Iterator[tuple[int, Row]]:
        """(place, what came of its question), in the order of the table."""
        for place, *row in self._asked(
            "select p.place, r.id, r.state, r.data, r.error, r.usd, r.tokens "
            "from places p join rows r on r.id = p.id order by p.place"
        ):
            yield place, Row(*row)


def runs() -> list[RunInfo]:
    """The runs of this machine, newest last. A file that cannot be read is left out."""
    found = sorted(folder().glob("*.sqlite"), key=lambda p: p.stat().st_mtime) if folder().is_dir() else []
    return [info for path in found if (info := _info(path)) is not None]


def parts() -> list[tuple[str, int, str, str, int, float]]:
    """(run, part, state, the provider's id, rows, created) of the batches of all runs of this machine. A file
    that cannot be read, or has none, is left out."""
    found: list[tuple[str, int, str, str, int, float]] = []
    words = "select part, state, batch, json_array_length(ids), created from batches order by part"
    for path in sorted(folder().glob("*.sqlite")) if folder().is_dir() else ():
        with contextlib.suppress(sqlite3.Error, OSError, ConfigError), open_readonly(path) as db:
            found += [(path.stem, *row) for row in db.execute(words)]
    return found


def _info(path: Path) -> RunInfo | None:
    try:
        with open_readonly(path) as db:
            meta = {name: json.loads(value) for name, value in db.execute("select name, value from meta")}
            states = dict(db.execute(_COUNTS))
            usd = db.execute("select total(usd) from rows").fetchone()[0]
    except (sqlite3.Error, OSError, ValueError, RecursionError):
        return None
    about, total = meta.get("about") or {}, sum(states.values())
    ok, failed = states.get("ok", 0), states.get("failed", 0)
    return RunInfo(
        path.stem,
        str(about.get("model")),
        total,
        ok,
        failed,
        total - ok - failed,
        float(usd),
        str(about.get("template")),
        str(meta.get("ended") or ""),
    )
