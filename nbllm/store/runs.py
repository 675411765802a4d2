"""The SQLite file of one run over a table: the prompt of each row and its result.

A question is identified by a hash of what is sent (and by the row's position, where equal rows are sent
separately), so a run that is started again sends only what is new, changed or unanswered. The table `places`
maps positions in the DataFrame to questions. States: pending -> sent -> ok | failed | stopped. Only one
process has the file open at a time, so a question that is `sent` when the file is opened was interrupted, and
becomes pending again.
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
from .run_base import RunBase, lock_run_file

_NAME = re.compile(r"[A-Za-z0-9_][\w.\-]{0,79}", re.ASCII)
_TABLES = (
    "create table if not exists rows (id text primary key, input text not null, state text not null, "
    "attempts integer not null, data text, error text, usd real, tokens integer)",
    "create table if not exists places (place integer primary key, id text not null)",
    "create index if not exists rows_by_state on rows (state)",
    "create table if not exists batches (part integer primary key, state text not null, batch text not null, "
    "ids text not null, created real not null)",
)
_CHUNK = 200  # prompts that are read together
_COUNTS = "select r.state, count(*) from places p join rows r on r.id = p.id group by r.state"


class Row(NamedTuple):
    """The result of a question. data: the answer as JSON; error: its type and message; usd and tokens: its
    cost, None where that is unknown."""

    id: str
    state: str
    data: str | None = None
    error: str | None = None
    usd: float | None = None
    tokens: int | None = None


class Part(NamedTuple):
    """The questions of one batch. state: creating (the provider may have it, but its id is not known yet),
    running, or done; batch: the provider's id; created: seconds since 1970."""

    part: int
    state: str
    batch: str
    ids: list[str]
    created: float


@dataclass(frozen=True, slots=True)
class RunInfo:
    """A run on disk. left: rows with neither answer nor failure; usd: its cost, as far as it is known."""

    run: str
    model: str
    rows: int
    ok: int
    failed: int
    left: int
    usd: float
    template: str
    ended: str


def runs_folder() -> Path:
    """The folder of runs over tables."""
    return state_folder() / "rows"


def run_path(name: str) -> Path:
    """The path of a run's file. Raises ConfigError for an invalid name."""
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        raise ConfigError(
            f"A run cannot be called {name!r}.", hint="Use letters, digits, _, - and dots, at most 80."
        )
    return runs_folder() / f"{name}.sqlite"


class RunFile(RunBase):
    """A run that only this process has open. Any thread may use it. Raises ConfigError where it cannot be
    written or read, and where another process has it open."""

    def __init__(self, name: str, *, create: bool = True) -> None:
        super().__init__(name, "nbllm.rows.resume")
        self.name, path = name, run_path(name)
        if not create and (path.is_symlink() or not path.exists()):
            raise ConfigError(
                f"There is no run called {name!r}.", hint="nbllm.rows.runs() lists the runs of this machine."
            )
        with self._errors():
            private_folder(state_folder())
            private_folder(path.parent)
            hint = "give this one another name with run="
            self._lock_fd: int | None = lock_run_file(path.with_suffix(".lock"), name, hint)
            try:
                self._open(path, _TABLES)
                self._db.write(("update rows set state = 'pending' where state = 'sent'", None))
            except BaseException:
                os.close(self._lock_fd)
                raise

    def close(self) -> None:
        """Closes the file and releases the lock."""
        if self._lock_fd is not None:
            super().close()
            os.close(self._lock_fd)
            self._lock_fd = None

    def plan(self, questions: Iterable[tuple[str, str]]) -> None:
        """Stores the question (id, prompt) of each position, in order. Known questions keep their results."""
        ids: list[tuple[int, str]] = []

        def new() -> Iterator[tuple[str, str]]:
            for position, (id, prompt) in enumerate(questions):
                ids.append((position, id))
                yield id, prompt

        self._write(
            ("insert or ignore into rows values (?, ?, 'pending', 0, null, null, null, null)", new()),
            ("delete from places", None),
            ("insert into places values (?, ?)", ids),
        )

    def reset_failed(self) -> None:
        """Makes the failed questions of the table pending again."""
        self._write(
            (
                "update rows set state = 'pending', error = null "
                "where state = 'failed' and id in (select id from places)",
                None,
            )
        )

    def unfinished_ids(self) -> list[str]:
        """The unfinished questions of the table, in the order of their first positions."""
        found = self._query(
            "select p.id from places p join rows r on r.id = p.id "
            "where r.state in ('pending', 'sent', 'stopped') group by p.id order by min(p.place)"
        )
        return [id for (id,) in found]

    def prompts(self, ids: Sequence[str]) -> dict[str, str]:
        """The prompts of some questions."""
        marks = ",".join("?" * len(ids))
        return dict(self._query(f"select id, input from rows where id in ({marks})", *ids))  # noqa: S608

    def questions(self, ids: Sequence[str]) -> Iterator[tuple[str, str]]:
        """(id, prompt) of some questions, in their order; read from disk in chunks."""
        for start in range(0, len(ids), _CHUNK):
            some = ids[start : start + _CHUNK]
            found = self.prompts(list(set(some)))
            yield from ((id, found[id]) for id in some)

    def parts(self) -> list[Part]:
        """The batches that are not done: they have not ended, or their results were not read."""
        query = "select part, state, batch, ids, created from batches where state != 'done' order by part"
        with self._errors():
            return [Part(p, s, b, json.loads(i), c) for p, s, b, i, c in self._query(query)]

    def add_part(self, ids: list[str], created: float) -> Part:
        """Adds a part whose batch is about to be created."""
        (number,) = self._query("select coalesce(max(part), -1) + 1 from batches")[0]
        part = Part(number, "creating", "", ids, created)
        self.save_part(part)
        return part

    def save_part(self, part: Part) -> None:
        """Stores the current state of a part."""
        values = (*part[:3], json.dumps(part.ids), part.created)
        self._write(("insert or replace into batches values (?, ?, ?, ?, ?)", [values]))

    def record(self, rows: Iterable[Row], sent: Iterable[str] = (), part: int | None = None) -> None:
        """Stores which questions were sent, the results, and that a part is done, in one transaction."""
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
        """The number of rows of the table in each state."""
        return dict(self._query(_COUNTS))

    def spent(self) -> tuple[float, int]:
        """(US dollars, tokens) of all questions so far."""
        usd, tokens = self._query("select total(usd), total(tokens) from rows")[0]
        return float(usd), int(tokens)

    def results(self) -> Iterator[tuple[int, Row]]:
        """(position, result of its question), in the order of the table."""
        for position, *row in self._query(
            "select p.place, r.id, r.state, r.data, r.error, r.usd, r.tokens "
            "from places p join rows r on r.id = p.id order by p.place"
        ):
            yield position, Row(*row)


def list_runs() -> list[RunInfo]:
    """The runs of this machine, newest last. A file that cannot be read is skipped."""
    paths = sorted(runs_folder().glob("*.sqlite"), key=lambda path: path.stat().st_mtime)
    return [info for path in paths if (info := _run_info(path)) is not None]


def list_parts() -> list[tuple[str, int, str, str, int, float]]:
    """(run, part, state, the provider's id, rows, created) of the batches of all runs of this machine. A file
    that cannot be read, or has none, is skipped."""
    found: list[tuple[str, int, str, str, int, float]] = []
    query = "select part, state, batch, json_array_length(ids), created from batches order by part"
    for path in sorted(runs_folder().glob("*.sqlite")):
        with contextlib.suppress(sqlite3.Error, OSError, ConfigError), open_readonly(path) as db:
            found += [(path.stem, *row) for row in db.execute(query)]
    return found


def _run_info(path: Path) -> RunInfo | None:
    try:
        with open_readonly(path) as db:
            meta = {name: json.loads(value) for name, value in db.execute("select name, value from meta")}
            states = dict(db.execute(_COUNTS))
            usd = db.execute("select total(usd) from rows").fetchone()[0]
    except (sqlite3.Error, OSError, ValueError, RecursionError):
        return None
    job, total = meta.get("about") or {}, sum(states.values())
    ok, failed = states.get("ok", 0), states.get("failed", 0)
    return RunInfo(
        path.stem,
        str(job.get("model")),
        total,
        ok,
        failed,
        total - ok - failed,
        float(usd),
        str(job.get("template")),
        str(meta.get("ended") or ""),
    )
