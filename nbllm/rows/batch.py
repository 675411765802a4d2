"""A run over a table in batches: rows that are handed in at once, and answered within a day.

A part's questions are on disk before its batch is created, and the provider's id after. A process that ends
between the two leaves a part that is `creating`: whoever opens the run next looks for its batch in the
provider's own list before another is made, so that nothing is paid twice.
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
from .frame import joined
from .job import Job
from .progress import Progress, Totals, chosen
from .runner import answer_of, told_of

if TYPE_CHECKING:
    import pandas as pd

_FIRST, _LONGER, _LONGEST = 5.0, 1.5, 60.0  # seconds between two looks, and how they grow
_PATIENCE = 20  # looks that fail, one after another, before waiting ends with their error
_KEPT = 86_400.0  # seconds for which every provider keeps a batch and its results
_LISTED = 120.0  # seconds after which a batch that was created is in its provider's list
_REFUSALS = (  # after which nothing was created
    *(errors.BadRequest, errors.AuthenticationError, errors.PermissionDenied, errors.NotFound),
    *(errors.RateLimited, errors.QuotaExceeded, errors.ConfigError),
)
_NEVER = ("timeout", "retries", "keep", "failover")  # what the sending of a single call knows


def refuse(options: Mapping[str, Any], **more: Any) -> None:
    """Raises ConfigError for what was chosen and a batch cannot keep to."""
    given = {**{n: options.get(n) for n in _NEVER}, **more}
    if options.get("cache") in ("true", "refresh", True):
        given["cache"] = options["cache"]
    for name, value in given.items():
        if value is not None:
            raise errors.ConfigError(
                f"{name}= cannot be used with mode=batch: the provider takes all rows at once.",
                hint=f'Leave {name}= out, or mode="batch".',
            )


WAITING = "its batches go on at the provider"


@dataclass(slots=True, repr=False)
class BatchJob:
    """A run whose rows are in batches. It holds nothing open: another process may read the same run."""

    name: str
    job: Job = field(repr=False)
    df: pd.DataFrame | None = field(repr=False)
    client: Client = field(repr=False)

    def __repr__(self) -> str:
        return f"The rows of {self.name!r} are in batches: nbllm.rows.collect({self.name!r}) gives the table."

    def poll(self) -> dict[str, int]:
        """Asks the provider once, keeps what has come, and gives how many rows are in each state: ok, failed,
        and waiting. Rows that wait for room at the provider are handed in."""
        with RunFile(self.name, create=False) as file:
            return Batches(file, self).look()

    def collect(self) -> pd.DataFrame:
        """The frame with what has come by now. It waits for nothing."""
        with RunFile(self.name, create=False) as file:
            there = Batches(file, self)
            there.look()
            return there.frame()

    def cancel(self) -> dict[str, int]:
        """Ends its batches, and gives the counts. What is done already is kept, and has been paid."""
        with RunFile(self.name, create=False) as file:
            there = Batches(file, self)
            there.cancel()
            return there.look()

    def wait(self, pause: Callable[[float], Any] = time.sleep) -> pd.DataFrame:
        """The frame, once all is there. An interrupt ends the waiting, and nothing else: the batches go on,
        and `collect` has what has come. pause: what waits for so many seconds."""
        progress, seconds = chosen(), _FIRST
        with RunFile(self.name, create=False) as file:
            there, totals = Batches(file, self), Totals(self.name, sum(file.counts().values()))
            why = ""
            try:
                while there.waits():
                    _draw(progress, totals, file)
                    pause(seconds)
                    seconds = min(seconds * _LONGER, _LONGEST)
            except KeyboardInterrupt:
                why = WAITING
            _draw(progress, totals, file)
            progress.end(totals, why or there.ended)
            made = there.frame()
            made.attrs["nbllm_ended"] = why or there.ended
            return made


def _draw(progress: Progress, totals: Totals, file: RunFile) -> None:
    counts = file.counts()
    totals.ok = counts.get("ok", 0)
    totals.failed["failed"] = counts.get("failed", 0)
    progress.draw(totals)


class Batches:
    """The parts of a run that is open. ended: why rows stay without an answer, "" where they do not. Raises
    ConfigError for what cannot run in batches."""

    def __init__(self, file: RunFile, handle: BatchJob) -> None:
        self.file, self.job, self.df, self.client = file, handle.job, handle.df, handle.client
        self.ended, self.failed = "", 0
        options = dict(self.job.options)
        refuse(options)
        if self.client.budget is not None:
            raise errors.ConfigError(
                "A budget of all calls cannot be kept by a batch.", hint='Leave mode="batch" out.'
            )
        if self.client.tapes.get_source() is not None:
            raise errors.ConfigError("A batch is in no recording.", hint='Leave mode="batch" or replay out.')
        route = self.client.resolve(self.job.model, options.get("base_url"), options.get("dialect"))
        route.check()
        keeps = self.client.registry.dialects[route.provider.dialect].keeps_prompts
        if options.get("cache") == "1h" and keeps:  # what is kept has no batch
            refuse({}, cache="1h")
        key = self.client.registry.key_for(route, options.get("api_key"))
        self.server = BatchServer.of(self.client, route, key)
        check_strict(options.get("strict"), self.job.shape, route.provider)
        self._request = {n: v for n, v in options.items() if n in (*REQUEST_OPTIONS, "strict")}
        self.run = file.get("batch_run") or uuid4().hex[:8]
        file.put(batch_run=self.run)

    def unfinished_ids(self) -> list[str]:
        """The questions that are in no batch and have no end."""
        waiting = {id for part in self.file.parts() for id in part.ids}
        return [id for id in self.file.unfinished_ids() if id not in waiting]

    def check(self, ids: list[str]) -> None:
        """Raises ConfigError for a row, or a call, that cannot be in a batch. Nothing is sent."""
        for _ in self._split(ids):
            pass

    def submit(self, ids: list[str]) -> None:
        """Hands in questions, in as many parts as the provider wants."""
        missing = [Row(id, "failed", error=_MISSING) for id, prompt in self.file.questions(ids) if not prompt]
        self.file.record(missing)
        most = self.file.get("batch_most")
        for part in self._split(ids[:most] if most else ids):
            if not self._hand_in(part):
                return

    def _hand_in(self, ids: list[str]) -> bool:
        """Creates one batch. False where the provider has no room beside those that are there: its rows are
        handed in when these have ended."""
        try:
            self._create(self.file.add_part(ids, time.time()))
        except (errors.RateLimited, errors.QuotaExceeded):
            if not self.file.parts():
                raise
            self.file.put(batch_most=self.file.get("batch_most") or len(ids))
            return False
        return True

    def look(self) -> dict[str, int]:
        """Asks of every part, and keeps what has come. Gives how many rows are ok, failed and waiting."""
        for part in self.file.parts():
            there = self._adopted(part) if part.state == "creating" else part
            if there is not None:
                self._look_at(there)
        most = self.file.get("batch_most")
        if most and not self.file.parts() and (ids := self.file.unfinished_ids()):
            self._hand_in(next(self._split(ids[:most])))
        counts = self.file.counts()
        ok, failed = counts.get("ok", 0), counts.get("failed", 0)
        return {"ok": ok, "failed": failed, "waiting": sum(counts.values()) - ok - failed}

    def waits(self) -> bool:
        """As `look`: whether there is something to wait for. A network or a provider that is away for a while
        costs nobody who waits for hours his waiting."""
        try:
            waiting = self.look()["waiting"]
        except (errors.TransportError, errors.ServerError, errors.Overloaded, errors.RateLimited):
            self.failed += 1
            if self.failed >= _PATIENCE:
                raise
            return True
        self.failed = 0
        return bool(waiting and self.file.parts())

    def _look_at(self, part: Part) -> None:
        """Keeps what has come of a part that has ended. The rows of one that the provider keeps no longer
        have failed, so that they can be asked again."""
        try:
            found = self.server.get_state(part.batch)
        except errors.NotFound:
            if _fresh(part):
                raise
            told = self._told(errors.ProviderError("The provider keeps this batch no longer."))
            self.file.record([Row(id, "failed", error=told) for id in part.ids], part=part.part)
        else:
            if not found.running:
                self._collect(part, found)

    def cancel(self) -> None:
        """Asks that no more is done."""
        for part in self.file.parts():
            there = self._adopted(part, create=False) if part.state == "creating" else part
            if there is None:
                continue
            try:
                self.server.cancel(there.batch)
            except errors.NotFound:
                self.file.record([], part=there.part)
            except errors.BadRequest:
                continue  # it has ended meanwhile, which the next look sees

    def frame(self) -> pd.DataFrame:
        """The table with what has come."""
        rows = [row for _, row in self.file.results()]
        if self.df is not None:  # it may have been sorted, filtered or changed since
            known = {row.id: row for row in rows}
            ids = [id for id, _ in self.job.fitting(self.df).questions(self.df)]
            rows = [known.get(id) or Row(id, "pending", error=_STRANGE) for id in ids]
        return joined(self.df, self.job, rows, self.file)

    # --- creation ---

    def _lines(self, ids: list[str], part: int = 0) -> Iterator[tuple[str, str]]:
        """(question, its line); none where a value is missing."""
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
        no more; where nobody knows what came of it, it stays to be looked for."""
        lines = [line for _, line in self._lines(part.ids, part.part)]
        names = {"nbllm_run": self.run, "part": str(part.part)}
        try:
            found = self.server.create(lines, names)
        except _REFUSALS:
            self.file.record([], part=part.part)
            raise
        made = part._replace(state="running", batch=batches.check_id(found.id))
        self.file.save_part(made)
        return made

    def _adopted(self, part: Part, *, create: bool = True) -> Part | None:
        """The part with its batch, which is looked for, and created where it is not there; None where that
        cannot be told yet."""
        first = self._prefix(part.part) + "_"
        batch, waits = self.server.find(self.run, part.part, len(part.ids), part.created, first)
        if batch:
            made = part._replace(state="running", batch=batch)
            self.file.save_part(made)
            return made
        if waits or not create or time.time() - part.created < _LISTED:
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
            self._failed(part, found)
            return
        collector, rows = Collector(ids, self.server.row), {}

        def take(line: bytes) -> None:
            if (outcome := collector.parse_line(line)) is not None:
                rows[ids[outcome.id]] = self._row(ids[outcome.id], outcome)

        try:
            self.server.results(found, take)
        except errors.NotFound:
            if _fresh(part):
                raise
        for outcome in collector.missing(found.state):
            rows[ids[outcome.id]] = self._row(ids[outcome.id], outcome)
        if collector.unmatched:
            self.ended = f"lines of the results that belong to no row: {collector.unmatched:,}"
        self.file.record(rows.values(), part=part.part)

    def _failed(self, part: Part, found: BatchState) -> None:
        """A batch that failed as a whole: its rows with it. Where only too much waits at the provider, they
        are handed in when the other batches have ended, or, where there is none, in halves."""
        words = [str(w)[:500] for n in ("code", "message") if (w := found.problems[0].get(n))]
        told = self._told(errors.ProviderError(": ".join(["The batch failed", *words])))
        state = "failed"
        if found.exceeds_token_limit:
            alone, most = len(self.file.parts()) < 2, self.file.get("batch_most") or len(part.ids)
            most = len(part.ids) // 2 if alone else most
            self.file.put(batch_most=most)
            state, self.ended = "pending", "" if most else told
        self.file.record([Row(id, state, None, told) for id in part.ids], part=part.part)

    def _told(self, error: errors.NbllmError) -> str:
        return told_of(error.scrub_secrets(Guard.for_provider(self.server.row, self.server.key).secrets))

    def _row(self, id: str, outcome: Outcome) -> Row:
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
            return Row(id, "ok", answer_of(self.job, fold.response()), None, cost, tokens)
        except errors.NbllmError as error:
            return Row(id, "failed", None, self._told(error), cost, tokens)
        except Exception as exc:  # noqa: BLE001 - the line is the provider's: a wrong type, a depth, a number
            return Row(id, "failed", None, told_of(unreadable_error(server.row, exc)), cost, tokens)


def _fresh(part: Part) -> bool:
    """Whether every provider still keeps its batch and its results."""
    return time.time() - part.created < _KEPT


_MISSING = "MissingValue: a value of the prompt is missing in this row."
_STRANGE = "NotInRun: this row is not in the run, or has been changed since."
