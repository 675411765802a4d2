"""A run over a table in batches: rows that are submitted together, and answered within a day.

The questions of a part are on disk before its batch is created, and the provider's id after. A process that
ends between the two leaves a part that is `creating`: the next process that opens the run looks for its batch
in the provider's list before it creates another, so that nothing is paid twice.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any
from uuid import uuid4

from ..client.attempt import unreadable_error
from ..client.batching import BatchServer
from ..client.client import Client
from ..core import errors
from ..core.calls import Guard
from ..core.events import Fold
from ..core.options import REQUEST_OPTIONS
from ..core.strict import check_strict
from ..dialects import batches
from ..dialects.batches import BatchState, Collector, Outcome
from ..routing import prices
from ..store.runs import Part, Row, RunFile
from .frame import result_frame
from .job import Job
from .progress import Progress, Totals, select_progress
from .runner import answer_json, row_error

if TYPE_CHECKING:
    import pandas as pd

_FIRST_PAUSE, _PAUSE_FACTOR, _MAX_PAUSE = 5.0, 1.5, 60.0  # seconds between two polls
_MAX_FAILURES = 20  # consecutive failed polls after which waiting ends with their error
_RETENTION = 86_400.0  # seconds for which every provider stores a batch and its results
_LISTED_AFTER = 120.0  # seconds after which a new batch is in its provider's list
_REFUSALS = (  # errors after which no batch was created
    *(errors.BadRequest, errors.AuthenticationError, errors.PermissionDenied, errors.NotFound),
    *(errors.RateLimited, errors.QuotaExceeded, errors.ConfigError),
)
_UNSUPPORTED = ("timeout", "retries", "keep", "failover")  # options of single calls


def reject_options(options: Mapping[str, Any], **more: Any) -> None:
    """Raises ConfigError for options that a batch does not support."""
    unsupported = {**{n: options.get(n) for n in _UNSUPPORTED}, **more}
    if options.get("cache") in ("true", "refresh", True):
        unsupported["cache"] = options["cache"]
    for name, value in unsupported.items():
        if value is not None:
            raise errors.ConfigError(
                f"{name}= cannot be used with mode=batch: the provider takes all rows at once.",
                hint=f'Leave {name}= out, or mode="batch".',
            )


WAITING = "its batches go on at the provider"


@dataclass(slots=True, repr=False)
class BatchJob:
    """A run whose rows are in batches. It holds no file open: another process may open the same run."""

    name: str
    job: Job = field(repr=False)
    df: pd.DataFrame | None = field(repr=False)
    client: Client = field(repr=False)

    def __repr__(self) -> str:
        return f"The rows of {self.name!r} are in batches: nbllm.rows.collect({self.name!r}) gives the table."

    def poll(self) -> dict[str, int]:
        """Polls the provider once, stores new results, and returns the numbers of rows in the states ok,
        failed and waiting. Rows that waited for room at the provider are submitted."""
        with RunFile(self.name, create=False) as file:
            return BatchRun(file, self).poll()

    def collect(self) -> pd.DataFrame:
        """The frame with the results so far. It does not wait."""
        with RunFile(self.name, create=False) as file:
            run = BatchRun(file, self)
            run.poll()
            return run.frame()

    def cancel(self) -> dict[str, int]:
        """Cancels its batches, and returns the counts. Finished rows are stored, and have been paid."""
        with RunFile(self.name, create=False) as file:
            run = BatchRun(file, self)
            run.cancel()
            return run.poll()

    def wait(self, pause: Callable[[float], Any] = time.sleep) -> pd.DataFrame:
        """Waits for all results and returns the frame. An interrupt ends the waiting only: the batches go on,
        and `collect` returns the results so far. pause: a function that waits for a number of seconds."""
        progress, seconds = select_progress(), _FIRST_PAUSE
        with RunFile(self.name, create=False) as file:
            run, totals = BatchRun(file, self), Totals(self.name, sum(file.counts().values()))
            try:
                while run.is_waiting():
                    _draw_progress(progress, totals, file)
                    pause(seconds)
                    seconds = min(seconds * _PAUSE_FACTOR, _MAX_PAUSE)
            except KeyboardInterrupt:
                run.ended = WAITING
            _draw_progress(progress, totals, file)
            progress.end(totals, run.ended)
            frame = run.frame()
            frame.attrs["nbllm_ended"] = run.ended
            return frame


def _draw_progress(progress: Progress, totals: Totals, file: RunFile) -> None:
    counts = file.counts()
    totals.ok = counts.get("ok", 0)
    totals.failed["failed"] = counts.get("failed", 0)
    progress.draw(totals)


class BatchRun:
    """The parts of a run whose file is open. ended: why rows stay without an answer, "" where they do not.
    Raises ConfigError for a run that cannot be sent in batches."""

    def __init__(self, file: RunFile, handle: BatchJob) -> None:
        self.file, self.job, self.df, self.client = file, handle.job, handle.df, handle.client
        self.ended, self.failed = "", 0
        options = dict(self.job.options)
        reject_options(options)
        if self.client.budget is not None:
            raise errors.ConfigError(
                "A budget of all calls cannot apply to a batch.", hint='Leave mode="batch" out.'
            )
        if self.client.tapes.get_source() is not None:
            raise errors.ConfigError("Batches cannot be replayed.", hint='Leave mode="batch" or replay out.')
        route = self.client.resolve(self.job.model, options.get("base_url"), options.get("dialect"))
        route.check()
        keeps = self.client.registry.dialects[route.provider.dialect].keeps_prompts
        if options.get("cache") == "1h" and keeps:  # cached contexts cannot be used in a batch
            reject_options({}, cache="1h")
        key = self.client.registry.key_for(route, options.get("api_key"))
        self.server = BatchServer.of(self.client, route, key)
        check_strict(options.get("strict"), self.job.shape, route.provider)
        self._request = {n: v for n, v in options.items() if n in (*REQUEST_OPTIONS, "strict")}
        self.run = file.get("batch_run") or uuid4().hex[:8]
        file.put(batch_run=self.run)

    def unfinished_ids(self) -> list[str]:
        """The unfinished questions that are in no batch."""
        waiting = {id for part in self.file.parts() for id in part.ids}
        return [id for id in self.file.unfinished_ids() if id not in waiting]

    def check(self, ids: list[str]) -> None:
        """Raises ConfigError for rows or options that a batch cannot have. Nothing is sent."""
        for _ in self._split(ids):
            pass

    def submit(self, ids: list[str]) -> None:
        """Submits questions, in as many parts as the provider requires."""
        missing = [Row(id, "failed", error=_MISSING) for id, prompt in self.file.questions(ids) if not prompt]
        self.file.record(missing)
        most = self.file.get("batch_most")
        for part in self._split(ids[:most] if most else ids):
            if not self._submit_part(part):
                return

    def _submit_part(self, ids: list[str]) -> bool:
        """Creates one batch. False where the provider has no room for it besides the others: its rows are
        submitted when these have ended."""
        try:
            self._create(self.file.add_part(ids, time.time()))
        except (errors.RateLimited, errors.QuotaExceeded):
            if not self.file.parts():
                raise
            self.file.put(batch_most=self.file.get("batch_most") or len(ids))
            return False
        return True

    def poll(self) -> dict[str, int]:
        """Polls every part and stores new results. Returns the numbers of rows that are ok, failed and
        waiting."""
        for part in self.file.parts():
            running = self._find_batch(part) if part.state == "creating" else part
            if running is not None:
                self._poll_part(running)
        most = self.file.get("batch_most")
        if most and not self.file.parts() and (ids := self.file.unfinished_ids()):
            self._submit_part(next(self._split(ids[:most])))
        counts = self.file.counts()
        ok, failed = counts.get("ok", 0), counts.get("failed", 0)
        return {"ok": ok, "failed": failed, "waiting": sum(counts.values()) - ok - failed}

    def is_waiting(self) -> bool:
        """Polls, and returns whether there is something to wait for. A temporary failure of the network or
        the provider does not end a wait of hours."""
        try:
            waiting = self.poll()["waiting"]
        except (errors.TransportError, errors.ServerError, errors.Overloaded, errors.RateLimited):
            self.failed += 1
            if self.failed >= _MAX_FAILURES:
                raise
            return True
        self.failed = 0
        return bool(waiting and self.file.parts())

    def _poll_part(self, part: Part) -> None:
        """Stores the results of a part that has ended. The rows of one that the provider has deleted become
        failed, so that they can be sent again."""
        try:
            found = self.server.get_state(part.batch)
        except errors.NotFound:
            if _is_recent(part):
                raise
            text = self._error_text(errors.ProviderError("The provider no longer has this batch."))
            self.file.record([Row(id, "failed", error=text) for id in part.ids], part=part.part)
        else:
            if not found.running:
                self._collect(part, found)

    def cancel(self) -> None:
        """Cancels all batches."""
        for part in self.file.parts():
            running = self._find_batch(part, create=False) if part.state == "creating" else part
            if running is None:
                continue
            try:
                self.server.cancel(running.batch)
            except errors.NotFound:
                self.file.record([], part=running.part)
            except errors.BadRequest:
                continue  # it has ended meanwhile; the next poll reads it

    def frame(self) -> pd.DataFrame:
        """The table with the results so far."""
        rows = [row for _, row in self.file.results()]
        if self.df is not None:  # it may have been sorted, filtered or changed
            known = {row.id: row for row in rows}
            ids = [id for id, _ in self.job.for_table(self.df).questions(self.df)]
            rows = [known.get(id) or Row(id, "pending", error=_NOT_IN_RUN) for id in ids]
        return result_frame(self.df, self.job, rows, self.file)

    # --- creation ---

    def _lines(self, ids: list[str], part: int = 0) -> Iterator[tuple[str, str]]:
        """(id, line of the batch file) of each question that has all values."""
        schema = None if self.job.shape is None else self.job.shape.provider_schema
        server, prefix = self.server, self._prefix(part)
        for id, prompt in self.file.questions(ids):
            if prompt:
                request = self.client.request(prompt, server.route.model, schema=schema, **self._request)
                call: Any = self.client.encode(request, server.route, server.key)
                yield id, batches.request_line(server.format, batches.custom_id(prefix, id), call)

    def _split(self, ids: list[str]) -> Iterator[list[str]]:
        known, sizes = [], []
        for id, line in self._lines(ids, 999_999):
            known.append(id)
            sizes.append(len(line.encode()))
        for part in list(batches.split_lines(self.server.format, sizes)):
            yield [known[at] for at in part]

    def _prefix(self, part: int) -> str:
        return f"{self.run}-{part}"

    def _create(self, part: Part) -> Part:
        """Creates the batch of a part whose questions are on disk. Where the provider refuses it, the part is
        done; where the outcome is unknown, it stays `creating`."""
        lines = [line for _, line in self._lines(part.ids, part.part)]
        names = {"nbllm_run": self.run, "part": str(part.part)}
        try:
            found = self.server.create(lines, names)
        except _REFUSALS:
            self.file.record([], part=part.part)
            raise
        running = part._replace(state="running", batch=batches.check_id(found.id))
        self.file.save_part(running)
        return running

    def _find_batch(self, part: Part, *, create: bool = True) -> Part | None:
        """The part with its batch, which is searched in the provider's list, and created if it is missing;
        None where that is not known yet."""
        first = self._prefix(part.part) + "_"
        batch, is_unclear = self.server.find(self.run, part.part, len(part.ids), part.created, first)
        if batch:
            running = part._replace(state="running", batch=batch)
            self.file.save_part(running)
            return running
        if is_unclear or not create or time.time() - part.created < _LISTED_AFTER:
            return None
        return self._create(part._replace(created=time.time()))

    # --- results ---

    def _collect(self, part: Part, found: BatchState) -> None:
        prefix = self._prefix(part.part)
        ids = {batches.custom_id(prefix, id): id for id in part.ids}
        if (
            found.problems
            and not found.has_results
            and (not self.server.has_result_pages or found.state == "failed")
        ):
            self._fail_part(part, found)
            return
        collector, rows = Collector(ids, self.server.row), {}

        def take(line: bytes) -> None:
            if (outcome := collector.parse_line(line)) is not None:
                rows[ids[outcome.id]] = self._result_row(ids[outcome.id], outcome)

        try:
            self.server.results(found, take)
        except errors.NotFound:
            if _is_recent(part):
                raise
        for outcome in collector.missing(found.state):
            rows[ids[outcome.id]] = self._result_row(ids[outcome.id], outcome)
        if collector.unmatched:
            self.ended = f"lines of the results that belong to no row: {collector.unmatched:,}"
        self.file.record(rows.values(), part=part.part)

    def _fail_part(self, part: Part, found: BatchState) -> None:
        """Records the failure of a complete batch for its rows. Where only the provider's queue was full,
        they are submitted again when the other batches have ended, or, without others, in halves."""
        details = [str(w)[:500] for n in ("code", "message") if (w := found.problems[0].get(n))]
        text = self._error_text(errors.ProviderError(": ".join(["The batch failed", *details])))
        state = "failed"
        if found.exceeds_token_limit:
            alone, most = len(self.file.parts()) < 2, self.file.get("batch_most") or len(part.ids)
            most = len(part.ids) // 2 if alone else most
            self.file.put(batch_most=most)
            state, self.ended = "pending", "" if most else text
        self.file.record([Row(id, state, None, text) for id in part.ids], part=part.part)

    def _error_text(self, error: errors.NbllmError) -> str:
        return row_error(error.scrub_secrets(Guard.for_provider(self.server.row, self.server.key).secrets))

    def _result_row(self, id: str, outcome: Outcome) -> Row:
        server, cost, tokens = self.server, None, None
        try:
            fold = Fold()
            for event in outcome.events(server.dialect, server.row):
                fold.add(event)
            usage = fold.usage
            if usage is not None and None not in (usage.input_tokens, usage.output_tokens):
                tokens = (usage.input_tokens or 0) + (usage.output_tokens or 0)
            if not server.route.simulated:
                cost = prices.cost(usage, fold.model or server.route.model, server.row, batch=True)
            return Row(id, "ok", answer_json(self.job, fold.response()), None, cost, tokens)
        except errors.NbllmError as error:
            return Row(id, "failed", None, self._error_text(error), cost, tokens)
        except Exception as exc:  # noqa: BLE001 - the provider's line may hold anything
            return Row(id, "failed", None, row_error(unreadable_error(server.row, exc)), cost, tokens)


def _is_recent(part: Part) -> bool:
    """Whether every provider still stores the batch and its results."""
    return time.time() - part.created < _RETENTION


_MISSING = "MissingValue: a value of the prompt is missing in this row."
_NOT_IN_RUN = "NotInRun: this row is not in the run, or has been changed since."
