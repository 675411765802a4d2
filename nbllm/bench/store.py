"""A run's directory: what was asked for and every finished request, in one SQLite file that survives a kill.

A request is recorded with its chunks in one transaction, under its id, so that a resumed run neither loses
nor doubles what was finished. Keys are never written here.
"""

from __future__ import annotations

import contextlib
import json
import os
import sqlite3
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..core.errors import ConfigError
from ..store import columns
from ..store.database import private

if TYPE_CHECKING:
    import pandas as pd

FILE = "run.sqlite"
_TABLES = """
create table if not exists meta (name text primary key, value text not null);
create table if not exists rows (request_id text, attempt integer, seq integer, data text not null, primary key (request_id, attempt));
create table if not exists chunks (request_id text primary key, data text not null);
create table if not exists done (slot text primary key);
"""  # noqa: E501
_CHUNK_NAMES = [c.name for c in columns.CHUNKS if c.name not in ("run_id", "request_id", "attempt")]


def home() -> Path:
    """Where runs are kept that name no directory: NBLLM_RUNS, else `nbllm/runs` in the user's data folder."""
    if os.environ.get("NBLLM_RUNS"):
        return Path(os.environ["NBLLM_RUNS"])
    from platformdirs import user_data_path

    return user_data_path("nbllm") / "runs"


@contextlib.contextmanager
def told(directory: Path) -> Iterator[None]:
    """Says in our words what the disk, or the file on it, refuses. Raises ConfigError."""
    try:
        yield
    except (sqlite3.Error, OSError, ValueError, RecursionError) as exc:
        why = (
            str(getattr(exc, "strerror", None) or exc)
            if isinstance(exc, (sqlite3.Error, OSError))
            else "it holds something else"
        )
        raise ConfigError(
            f"The run in {directory} cannot be kept or read: {why}.",
            hint="Make room there, or use a directory that you may write to; bench.resume goes on with "
            "what is there.",
        ) from None


class Store:
    """The file of one run, readable for its user alone: it holds prompts. Used by one thread at a time.
    Raises ConfigError for what cannot be written or read."""

    def __init__(self, directory: Path, *, create: bool = False) -> None:
        path = directory / FILE
        if not create and (path.is_symlink() or not path.exists()):
            raise ConfigError(
                f"There is no benchmark run in {directory}.",
                hint="bench.runs() lists the runs of this machine.",
            )
        self.directory = directory
        with told(directory):
            if create:
                directory.mkdir(parents=True, exist_ok=True)
                os.close(
                    private(path, os.O_RDWR)
                )  # the files that SQLite puts beside it are as private as it is
            self._db = sqlite3.connect(path, timeout=30.0, isolation_level=None, check_same_thread=False)
            self._db.execute("pragma trusted_schema=off")  # it may be somebody else's
            self._db.execute("pragma journal_mode=wal")
            self._db.execute(
                "pragma synchronous=normal"
            )  # a killed process loses nothing; a power cut may lose the last rows
            self._db.executescript(_TABLES)

    def close(self) -> None:
        """Closes the file."""
        self._db.close()

    def __enter__(self) -> Store:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def _asked(self, words: str, *values: Any) -> list[Any]:
        with told(self.directory):
            return self._db.execute(words, values).fetchall()

    def put(self, name: str, value: Any) -> None:
        """Keeps a JSON value under a name."""
        self._asked("insert or replace into meta values (?, ?)", name, json.dumps(value))

    def get(self, name: str, default: Any = None) -> Any:
        """The JSON value under a name."""
        found = self._asked("select value from meta where name = ?", name)
        with told(self.directory):
            return json.loads(found[0][0]) if found else default

    def record(
        self, rows: Iterable[Mapping[str, Any]], chunks: Iterable[Mapping[str, Any]], slot: str | None = None
    ) -> None:
        """Adds the attempts of one request with the chunks of its last; `slot`, where given, is finished with
        it."""
        rows = list(rows)
        packed = json.dumps([[c.get(name) for name in _CHUNK_NAMES] for c in chunks])
        written = [(r["request_id"], r["attempt"], r["seq"], json.dumps(r)) for r in rows]
        with told(self.directory):
            self._db.execute("begin immediate")
            try:
                self._db.executemany("insert or replace into rows values (?, ?, ?, ?)", written)
                self._db.execute(
                    "insert or replace into chunks values (?, ?)", (rows[-1]["request_id"], packed)
                )
                if slot is not None:
                    self._db.execute("insert or replace into done values (?)", (slot,))
                self._db.execute("commit")
            except BaseException:
                if self._db.in_transaction:  # SQLite rolls back by itself where the disk is full
                    self._db.execute("rollback")
                raise

    def finished(self) -> set[str]:
        """The slots that are finished."""
        return {slot for (slot,) in self._asked("select slot from done")}

    def rows(self) -> list[dict[str, Any]]:
        """Every row, in the order in which requests were planned."""
        found = self._asked("select data from rows order by seq, request_id, attempt")
        with told(self.directory):
            return [json.loads(data) for (data,) in found]

    def frame(self, more: Iterable[Mapping[str, Any]] = ()) -> pd.DataFrame:
        """The requests frame, with `more` rows that are not kept here; its attrs say which run it is and how
        it was made."""
        run_id = self.get("run_id", self.directory.name)
        df = columns.frame({"run_id": run_id, **row} for row in (*self.rows(), *more))
        df.attrs["nbllm"] = {
            "run_id": run_id,
            "directory": str(self.directory),
            "schema": columns.VERSION,
            "epoch": self.get("epoch"),
            "ended": self.get("ended"),
            **self.get("about", {}),
        }
        return df

    def chunks(self, request_ids: Iterable[str] | None = None) -> pd.DataFrame:
        """The chunks frame, of the requests named or of all."""
        run_id = self.get("run_id", self.directory.name)
        attempts = dict(self._asked("select request_id, max(attempt) from rows group by request_id"))
        wanted = None if request_ids is None else set(request_ids)
        found = []
        for request_id, data in self._asked("select request_id, data from chunks order by rowid"):
            if wanted is None or request_id in wanted:
                key = {"run_id": run_id, "request_id": request_id, "attempt": attempts.get(request_id, 1)}
                found += [
                    {**key, **dict(zip(_CHUNK_NAMES, values, strict=True))} for values in json.loads(data)
                ]
        return columns.frame(found, columns.CHUNKS)


def find(run_id: str, directory: str | os.PathLike[str] | None = None) -> Path | None:
    """The directory of a run, looked for where it was made and in the home; None where it is not on this
    machine."""
    places = [Path(directory)] if directory is not None else []
    return next((place for place in (*places, home() / run_id) if (place / FILE).exists()), None)
