"""A prompt over the rows of a table. `nbllm.map(df, "Classify {text}", model="gemini/flash")` asks a model of
every row, many at a time, and gives the table with the answers; a run that was stopped or killed goes on.

    df = nbllm.map(reviews, "Classify: {text}", model="openai/mini", schema={...}, run="reviews", budget=2)
    nbllm.rows.runs()                    # what lies on this machine
    df = nbllm.rows.resume("reviews")    # goes on, also in another process
    nbllm.rows.errors(df)                # the rows that failed, with the reason
    df = nbllm.rows.retry(df)            # asks those again

With mode="batch" the rows are handed in at once and answered within a day, most providers' at half the price;
wait=False gives a BatchJob at once, and nbllm.rows.collect("reviews") the table later.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from dataclasses import asdict
from datetime import datetime
from typing import TYPE_CHECKING, Any, Literal
from uuid import uuid4

from ..client.api import default_client
from ..client.client import Client
from ..core.calls import ModelFacts
from ..core.errors import BudgetExceeded, ConfigError
from ..routing import prices
from ..store import runs as files
from ..store.budgets import Amount, Budget
from ..store.runs import RunFile, RunInfo
from . import executors
from .batch import WAITING, Batches, BatchJob, refuse
from .estimate import Estimate, taken
from .frame import joined
from .job import Job
from .progress import Progress, Totals, chosen, question
from .runner import STOPPED, Runner

if TYPE_CHECKING:
    import pandas as pd

__all__ = [
    "DECLINED",
    "STOPPED",
    "WAITING",
    "BatchJob",
    "Estimate",
    "batches",
    "cancel",
    "collect",
    "errors",
    "map",
    "resume",
    "retry",
    "runs",
]  # fmt: skip

DECLINED = "it was not started"
WIDTH = 64  # rows on their way at once
_WIDEST = 1_024
_FREE = ModelFacts(input=0.0, output=0.0)  # a simulated model
_SAMPLE = 50  # prompts that an estimate looks at

Confirm = Literal["ask", "yes"] | Callable[[Estimate], Any]


def map(
    df: pd.DataFrame,
    template: str,
    *,
    model: str = "auto",
    schema: Any = None,
    into: str | None = None,
    run: str | None = None,
    width: int | None = None,
    budget: Any = None,
    dedupe: bool = True,
    confirm: Confirm = "ask",
    errors: Literal["keep", "raise"] = "keep",
    client: Client | None = None,
    executor: Any = None,
    mode: Literal["now", "batch"] = "now",
    wait: bool = True,
    **options: Any,
) -> Any:
    """Asks `model` of every row and returns a new frame: df's index, order and columns, the answers, and
    llm_status (ok, failed, stopped, pending), llm_error, llm_cost (US dollars).

    template: a prompt with columns in braces, `{text}`, as in a cell; `{{` stays as it is. A row with a
    missing value fails and is not sent. schema: as in a cell; its fields become columns of its types.
    into: the column of the answer ("answer"); with a schema of several fields, what their columns begin with.
    run: a name under which the run is kept: asked again, it sends only rows that are new or changed, or that
    were not reached. width: rows on their way at once (64). budget: US dollars, or a mapping of usd and
    tokens, for the whole run: no row begins that would pass it. dedupe: equal rows are asked once; their cost
    stands in each of them. confirm: "ask" shows an estimate and asks where somebody can answer, unless it is
    of a few rows or cents; else it goes on, unless the estimate is above the budget; "yes" never asks; a
    function is given the Estimate. errors: "raise" ends at the first failed row. mode: "batch" hands the rows
    in at once, to be answered within a day and for less; a run of the same name finds its batches again,
    whatever happened to this process. wait: False gives a BatchJob in place of the frame, with poll(),
    collect() and cancel(). executor: sends from other threads, processes or machines: a
    concurrent.futures.Executor, or a client of dask.distributed; each worker uses its own configuration and
    keys, limits and budgets are kept here, and width is what keeps all workers busy. More options as in
    Client.stream. An interrupt ends the run: the frame has what was finished, and `resume` goes on. Raises
    ConfigError for what is wrong on this side, before anything is sent.
    """
    job, name = Job.of(template, model, schema, into, options, dedupe=dedupe).fitting(df), _name(run)
    if _batch(mode, wait):
        refuse(options, budget=budget, width=width, errors=_raises(errors) or None, executor=executor)
        return _handed_in(name, job, df, client=client, confirm=confirm, wait=wait)
    with RunFile(name) as file:
        asked = _Run(
            file,
            job,
            client=client,
            width=width,
            budget=budget,
            confirm=confirm,
            raises=_raises(errors),
            executor=executor,
        )
        return asked.over(df)


def batches() -> pd.DataFrame:
    """One row a batch of all runs of this machine: run, part, state (creating, running, done), batch (the
    provider's id), rows, created."""
    import pandas as pd

    names = ["run", "part", "state", "batch", "rows", "created"]
    found = pd.DataFrame(files.list_parts(), columns=names)
    return found.assign(created=pd.to_datetime(found["created"].astype("float64"), unit="s", utc=True))


def collect(
    name: str, df: pd.DataFrame | None = None, *, client: Client | None = None, **options: Any
) -> pd.DataFrame:
    """The frame of a run in batches, with what has come by now; it waits for nothing. df: the table; without
    one, the prompts stand in its place. options: what is not kept on disk, as api_key. Raises ConfigError
    where there is no such run."""
    return _handle(name, df, client, options).collect()


def cancel(name: str, *, client: Client | None = None, **options: Any) -> dict[str, int]:
    """Ends the batches of a run, and gives how many rows are ok, failed and waiting. What was done is kept.
    Raises ConfigError where there is no such run."""
    return _handle(name, None, client, options).cancel()


def _handle(name: str, df: pd.DataFrame | None, client: Client | None, options: dict[str, Any]) -> BatchJob:
    with RunFile(name, create=False) as file:
        job = Job.kept(_about(file), options)
    return BatchJob(name, job, df, client or default_client())


def runs() -> pd.DataFrame:
    """One row a run on this machine, oldest first: run, model, rows, ok, failed, left, usd, template, and why
    it ended early."""
    import pandas as pd

    return pd.DataFrame([asdict(info) for info in files.list_runs()], columns=list(RunInfo.__slots__))


def resume(
    name: str,
    df: pd.DataFrame | None = None,
    *,
    width: int | None = None,
    budget: Any = None,
    confirm: Confirm = "ask",
    client: Client | None = None,
    executor: Any = None,
    **options: Any,
) -> pd.DataFrame:
    """Goes on with a run that was stopped or killed, with what it was started with. df: the table; without
    one, the prompts stand in its place. Raises ConfigError where there is no such run."""
    told: dict[str, Any] = {"width": width, "budget": budget, "confirm": confirm, "executor": executor}
    return _again(name, df, options, client=client, failed=False, **told)


def retry(
    df: pd.DataFrame,
    *,
    width: int | None = None,
    budget: Any = None,
    confirm: Confirm = "ask",
    client: Client | None = None,
    executor: Any = None,
    **options: Any,
) -> pd.DataFrame:
    """Asks the failed rows of a frame that `map` gave again, and those that were not reached. Raises
    ConfigError for another frame."""
    name = df.attrs.get("nbllm_run")
    if not isinstance(name, str):
        raise ConfigError(
            "This frame does not know its run.",
            hint="nbllm.rows.resume(name, df) goes on with a run by name.",
        )
    told: dict[str, Any] = {"width": width, "budget": budget, "confirm": confirm, "executor": executor}
    return _again(name, df, options, client=client, failed=True, **told)


def errors(df: pd.DataFrame) -> pd.DataFrame:
    """The rows of a frame that failed or were stopped. Raises ConfigError for a frame without answers."""
    if "llm_status" not in df:
        raise ConfigError("This frame has no answers of a run.", hint="nbllm.map(df, ...) gives one.")
    return df[df["llm_status"].isin(["failed", "stopped"])]


def _again(
    name: str,
    df: pd.DataFrame | None,
    options: dict[str, Any],
    *,
    client: Client | None,
    width: int | None,
    budget: Any,
    confirm: Confirm,
    executor: Any,
    failed: bool,
) -> pd.DataFrame:
    with RunFile(name, create=False) as file:
        about = _about(file)
        job = Job.kept(about, options)
        if df is not None:
            job = job.fitting(df)
        if about.get("mode") != "batch":
            limit = (about.get("budget") or None) if budget is None else budget
            more: dict[str, Any] = {"width": width, "budget": limit, "executor": executor}
            return _Run(file, job, client=client, confirm=confirm, **more).over(df, failed=failed)
        refuse(options, budget=budget, width=width, executor=executor)
        handle = _Run(file, job, client=client, confirm=confirm).handed_in(df, failed=failed)
    return handle.wait()


def _about(file: RunFile) -> dict[str, Any]:
    about = file.get("about")
    if not isinstance(about, dict):
        raise ConfigError(f"The run {file.name} was not started yet.", hint="nbllm.map(df, ..., run=...)")
    return about


def _batch(mode: str, wait: bool) -> bool:
    if mode not in ("now", "batch"):
        raise ConfigError(f"mode cannot be {mode!r}.", hint="It is now or batch.")
    if mode == "now" and wait is not True:
        raise ConfigError("wait=False is for batches.", hint='Add mode="batch".')
    return mode == "batch"


def _handed_in(
    name: str, job: Job, df: pd.DataFrame, *, client: Client | None, confirm: Confirm, wait: bool
) -> Any:
    with RunFile(name) as file:
        handle = _Run(file, job, client=client, confirm=confirm).handed_in(df)
    return handle.wait() if wait else handle


def _raises(errors: str) -> bool:
    if errors not in ("keep", "raise"):
        raise ConfigError(f"errors cannot be {errors!r}.", hint="It is keep or raise.")
    return errors == "raise"


def _budget(given: Any, file: RunFile) -> Budget:
    """What a run may still spend."""
    if isinstance(given, Budget):
        raise ConfigError(
            "budget= of a run is US dollars, or a mapping of usd and tokens.",
            hint="A Budget that several runs and calls share is their client's: client.budget = ...",
        )
    budget = Budget.of(given)
    budget.add_spent(Amount(*file.spent()))
    return budget


def _name(given: str | None) -> str:
    """The name of a run, one of its own where none is given."""
    return f"{datetime.now():%Y%m%d-%H%M%S}-{uuid4().hex[:6]}" if given is None else given


class _Run:
    """A run from its estimate to its frame."""

    def __init__(
        self,
        file: RunFile,
        job: Job,
        *,
        client: Client | None,
        width: int | None = None,
        budget: Any = None,
        confirm: Confirm,
        raises: bool = False,
        executor: Any = None,
    ) -> None:
        if width is not None and not (type(width) is int and 1 <= width <= _WIDEST):
            raise ConfigError(f"width cannot be {width!r}.", hint=f"It is a number from 1 to {_WIDEST}.")
        if not (confirm in ("ask", "yes") or callable(confirm)):
            raise ConfigError(f"confirm cannot be {confirm!r}.", hint="It is ask, yes, or a function.")
        self.file, self.job, self.budget = file, job, _budget(budget, file)
        self.client, self.width = client or default_client(), width or WIDTH
        self.confirm, self.raises = confirm, raises
        options = job.options
        if executor is not None:
            workers = executors.of(executor)
            self.client = executors.client_for(self.client, workers, options.get("base_url"))
            self.width = width or executors.width_of(workers) or WIDTH
        self.route = self.client.resolve(job.model, options.get("base_url"), options.get("dialect"))
        self.route.check()

    def over(self, df: pd.DataFrame | None, *, failed: bool = False) -> pd.DataFrame:
        """Asks what is open, and gives the frame."""
        if self.file.parts():
            raise ConfigError(
                f"Rows of the run {self.file.name} are in a batch.",
                hint=f"nbllm.rows.collect({self.file.name!r}) has what came; nbllm.rows.cancel ends it.",
            )
        facts = self._facts()
        if df is not None:
            self.file.plan(self.job.questions(df))
        if failed:
            self.file.reset_failed()
        self.file.put(about={**self.job.about(), "budget": self.budget.limits}, ended="")
        ids, progress = self.file.unfinished_ids(), chosen()
        counts = self.file.counts()
        totals = Totals(self.file.name, len(ids), counts.get("ok", 0))
        runner = Runner(self.client, self.job, self.file, self.budget, facts, totals, self.width, self.raises)
        if ids:
            runner.prepare(self.route, ids)
            if self._wanted(ids, facts, progress):
                with self.client.span(f"rows {self.file.name}", run=self.file.name, rows=len(ids)):
                    runner.run(progress)
            else:
                runner.ended = DECLINED
            with contextlib.suppress(
                ConfigError
            ):  # of a full disk, which the run has told: answers come first
                self.file.put(ended=runner.ended)
        progress.end(totals, runner.ended)
        if runner.error is not None:
            raise runner.error
        return self._frame(df, runner)

    def handed_in(self, df: pd.DataFrame | None, *, failed: bool = False) -> BatchJob:
        """Hands in what is open, and gives the job."""
        handle = BatchJob(self.file.name, self.job, df, self.client)
        there, about = Batches(self.file, handle), {**self.job.about(), "mode": "batch"}
        was = _about(self.file) if self.file.parts() else about
        if changed := [n for n in ("model", "schema", "options") if was[n] != about[n]]:
            raise ConfigError(
                f"The run {self.file.name} has batches under way with another {changed[0]}.",
                hint="Give this one another name with run=, or end those with nbllm.rows.cancel.",
            )
        if df is not None:
            self.file.plan(self.job.questions(df))
        if failed:
            self.file.reset_failed()
        self.file.put(about=about, ended="")
        there.look()  # what is there already, an interrupted creation among it
        if ids := there.unfinished_ids():
            there.check(ids)
            if self._wanted(ids, self._facts(), chosen()):
                there.submit(ids)
        return handle

    def _facts(self) -> ModelFacts:
        """The model's prices. Raises ConfigError for a budget in dollars where it has none."""
        route = self.route
        facts = _FREE if route.simulated else prices.facts(route.model, route.provider)
        with contextlib.suppress(BudgetExceeded):  # it is told at the first row
            self.budget.state().check(taken(1, 1, facts), self.budget.label)
        return facts

    def _wanted(self, ids: list[str], facts: ModelFacts, progress: Progress) -> bool:
        sample = self.file.prompts(ids[:: max(1, len(ids) // _SAMPLE)][:_SAMPLE])
        made = self.job.options.get("max_tokens")
        estimate = Estimate.of(
            sum(self.file.counts().values()),
            len(ids),
            sample.values(),
            facts=facts,
            max_tokens=made,
            width=self.width,
        )
        if callable(self.confirm):
            return bool(self.confirm(estimate))
        if self.confirm == "yes":
            return True
        answer = None if estimate.small else progress.ask(question(estimate, str(self.budget)))
        if answer is None:
            try:
                self.budget.state().check(estimate.amount, self.budget.label)
            except BudgetExceeded:
                raise ConfigError(
                    f"The run would take {estimate}, more than its budget of {self.budget}.",
                    hint="Allow more, take fewer rows, or let the budget end the run: confirm='yes'.",
                ) from None
        return answer is not False

    def _frame(self, df: pd.DataFrame | None, runner: Runner) -> pd.DataFrame:
        unsaved = runner.recorder.unsaved if hasattr(runner, "recorder") else {}
        made = joined(df, self.job, [unsaved.get(r.id, r) for _, r in self.file.results()], self.file)
        made.attrs["nbllm_ended"] = runner.ended
        return made
