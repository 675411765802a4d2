"""A run's directory: its job and every finished request, in one SQLite file that survives a killed process.

A request is stored with its chunks in one transaction, under its id, so a resumed run neither loses nor
duplicates it. Keys are never stored.
"""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from ..core.errors import ConfigError
from ..store import columns, run_base
from .frames import CHECK_PREFIX, add_check_columns, normalize_requests

if TYPE_CHECKING:
    import pandas as pd

FILE = "run.sqlite"
POINTER_SUFFIX = ".at"  # of files in runs_directory() that hold the path of a run elsewhere
_TABLES = (
    "create table if not exists rows (request_id text, attempt integer, seq integer, data text not null, "
    "primary key (request_id, attempt))",
    "create table if not exists chunks (request_id text primary key, data text not null)",
    "create table if not exists done (slot text primary key)",
)
# Created with the first answer: reading a file of an older version must not change it.
_CREATE_ANSWERS = (
    "create table if not exists answers (request_id text primary key, answer text not null, score real)"
)
_CREATE_CHECKS = (
    "create table if not exists checks (request_id text, name text, value real, "
    "primary key (request_id, name))"
)
_CHUNK_NAMES = [c.name for c in columns.CHUNKS if c.name not in ("run_id", "request_id", "attempt")]


_INSERT_ANSWER = "insert or replace into answers values (?, ?, null)"


@dataclass(frozen=True, slots=True)
class StoredRequest:
    """A request to store: its attempts, the chunks of the last one, its text, and the slot that it completes
    (if any)."""

    rows: list[dict[str, Any]]
    chunks: list[dict[str, Any]]
    slot: str | None = None
    answer: str | None = None


def _encode_json(value: Any) -> str:
    try:
        return msgspec.json.encode(value).decode()
    except (UnicodeError, OverflowError):  # a lone surrogate or a huge number, sent by a server
        return json.dumps(value)


def runs_directory() -> Path:
    """Where runs without a directory of their own are stored: NBLLM_RUNS, else `nbllm/runs` in the user's
    data folder."""
    if os.environ.get("NBLLM_RUNS"):
        return Path(os.environ["NBLLM_RUNS"])
    from platformdirs import user_data_path

    return user_data_path("nbllm") / "runs"


def translate_disk_errors(directory: Path) -> contextlib.AbstractContextManager[None]:
    """Raises ConfigError instead of errors of the disk."""
    return run_base.translate_run_errors(f"in {directory}", "bench.resume")


@contextlib.contextmanager
def lock_run(directory: Path) -> Iterator[None]:
    """Prevents other sessions from resuming the run meanwhile, which would send everything twice. Raises
    ConfigError where one is."""
    lock = None
    with contextlib.suppress(OSError):  # a file system without locks
        lock = run_base.lock_run_file(
            directory / "run.lock", f"in {directory}", "begin another with bench.run(...)"
        )
    try:
        yield
    finally:
        if lock is not None:
            os.close(lock)


class Store(run_base.RunBase):
    """The file of one run. Only its user can read it, since it holds prompts. Raises ConfigError where it
    cannot be written or read."""

    def __init__(self, directory: Path, *, create: bool = False) -> None:
        super().__init__(f"in {directory}", "bench.resume")
        path = directory / FILE
        if not create and (path.is_symlink() or not path.exists()):
            raise ConfigError(
                f"There is no benchmark run in {directory}.",
                hint="bench.runs() lists the runs of this machine.",
            )
        self.directory = directory
        with self._errors():
            if create:
                directory.mkdir(parents=True, exist_ok=True)
            self._open(path, _TABLES, version=0)  # as it has always been: what only reads writes nothing

    def record(self, finished: Iterable[StoredRequest]) -> None:
        """Stores requests, all of them or none."""
        many = [
            (one, one.rows[-1]["request_id"], [list(map(c.get, _CHUNK_NAMES)) for c in one.chunks])
            for one in finished
        ]
        rows = [
            (r["request_id"], r["attempt"], r["seq"], _encode_json(r)) for one, *_ in many for r in one.rows
        ]
        texts = [
            (name, one.answer.encode("utf-8", "replace").decode())
            for one, name, _ in many
            if one.answer is not None
        ]
        self._write(
            ("insert or replace into rows values (?, ?, ?, ?)", rows),
            ("insert or replace into chunks values (?, ?)", [(name, _encode_json(c)) for _, name, c in many]),
            *([(_CREATE_ANSWERS, None), (_INSERT_ANSWER, texts)] if texts else []),
            (
                "insert or replace into done values (?)",
                [(one.slot,) for one, *_ in many if one.slot is not None],
            ),
        )

    def finished_slots(self) -> set[str]:
        """The slots that are finished."""
        return {slot for (slot,) in self._query("select slot from done")}

    def rows(self) -> list[dict[str, Any]]:
        """Every row, in the order in which requests were planned."""
        rows = self._query("select data from rows order by seq, request_id, attempt")
        with self._errors():
            return [json.loads(data) for (data,) in rows]

    def _has_table(self, table: str) -> bool:
        return bool(self._query("select 1 from sqlite_master where name = ?", table))

    def answers(self) -> dict[str, tuple[str, float | None]]:
        """(text, score) of each request."""
        if not self._has_table("answers"):
            return {}
        rows = self._query("select request_id, answer, score from answers")
        return {request_id: (text, score) for request_id, text, score in rows}

    def put_scores(self, scores: Mapping[str, float]) -> None:
        """Stores the scores of answers."""
        values = [(value, request_id) for request_id, value in scores.items()]
        self._write((_CREATE_ANSWERS, None), ("update answers set score = ? where request_id = ?", values))

    def put_checks(self, checks: Mapping[str, Mapping[str, float | None]]) -> None:
        """Stores the results of checks; None where unknown."""
        rows = [(i, name, value) for i, values in checks.items() for name, value in values.items()]
        self._write((_CREATE_CHECKS, None), ("insert or replace into checks values (?, ?, ?)", rows))

    def checks(self) -> dict[str, dict[str, float | None]]:
        """The results of checks, by request id and name."""
        checks: dict[str, dict[str, float | None]] = {}
        rows = self._query("select request_id, name, value from checks") if self._has_table("checks") else []
        for request_id, name, value in rows:
            checks.setdefault(request_id, {})[name] = value
        return checks

    def _add_columns(self, df: pd.DataFrame) -> pd.DataFrame:
        """Adds the scores, the checks and the additional columns of the prompts."""
        import pandas as pd

        prompts = (self.get("job") or {}).get("prompts", [])
        prompt_columns = {str(p["id"]): p["more"] for p in prompts if p.get("more")}
        row_columns = (
            df["prompt_id"].astype(object).map(lambda i: prompt_columns.get(str(i).partition("#")[0], {}))
        )
        for name in dict.fromkeys(name for columns_ in prompt_columns.values() for name in columns_):
            column = pd.Series([columns_.get(name) for columns_ in row_columns], df.index)
            is_taken = name in (*columns.NAMES, "score", "passed") or name.startswith(CHECK_PREFIX)
            df[f"prompt_{name}" if is_taken else name] = column.infer_objects()
        scores = {request_id: score for request_id, (_, score) in self.answers().items() if score is not None}
        if scores:
            df["score"] = df["request_id"].map(scores).astype("float64")
        add_check_columns(df, self.checks())
        return df

    def frame(self, more: Iterable[Mapping[str, Any]] = ()) -> pd.DataFrame:
        """The requests frame, with `more` rows that are not stored here; its attrs hold the run's
        metadata."""
        run_id = self.get("run_id", self.directory.name)
        df = self._add_columns(columns.frame({"run_id": run_id, **row} for row in (*self.rows(), *more)))
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
        """The chunks frame of the given requests, or of all."""
        run_id = self.get("run_id", self.directory.name)
        attempts = dict(self._query("select request_id, max(attempt) from rows group by request_id"))
        wanted = None if request_ids is None else set(request_ids)
        rows = []
        for request_id, data in self._query("select request_id, data from chunks order by rowid"):
            if wanted is None or request_id in wanted:
                key = {"run_id": run_id, "request_id": request_id, "attempt": attempts.get(request_id, 1)}
                rows += [
                    {**key, **dict(zip(_CHUNK_NAMES, values, strict=True))} for values in json.loads(data)
                ]
        return columns.frame(rows, columns.CHUNKS)


def open_runs(df: pd.DataFrame, content: str) -> Iterator[tuple[pd.DataFrame, Store]]:
    """The rows of each run in `df`, with its file. Raises ConfigError where the `content` is not on this
    machine."""
    df = normalize_requests(df)
    metadata = df.attrs.get("nbllm", {})
    for run_id, part in df.groupby("run_id", sort=False, observed=True):
        path = find_run(str(run_id), metadata.get("directory") if metadata.get("run_id") == run_id else None)
        if path is None:
            raise ConfigError(
                f"The {content} of run {run_id} are not on this machine.",
                hint="They are stored in the run's directory (bench.runs()).",
            )
        with Store(path) as store:
            yield part, store


def find_run(run_id: str, directory: str | os.PathLike[str] | None = None) -> Path | None:
    """The directory of a run: where it was created or in runs_directory(); None where it is not on this
    machine."""
    paths = [Path(directory)] if directory is not None else []
    pointer = runs_directory() / f"{run_id}{POINTER_SUFFIX}"
    with contextlib.suppress(OSError, ValueError):  # a run with a directory of its own
        paths.append(Path(pointer.read_text("utf-8")))
    return next((path for path in (*paths, runs_directory() / run_id) if (path / FILE).exists()), None)
