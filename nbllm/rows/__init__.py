"""Runs a prompt over the rows of a table. `nbllm.map(df, "Classify {text}", model="gemini/flash")` sends
every row to a model, many at a time, and returns the table with the answers; a stopped or killed run can be
resumed.

    df = nbllm.map(reviews, "Classify: {text}", model="openai/mini", schema={...}, run="reviews", budget=2)
    nbllm.rows.runs()                    # the runs of this machine
    df = nbllm.rows.resume("reviews")    # continues it, also in another process
    nbllm.rows.errors(df)                # the rows that failed, with the reason
    df = nbllm.rows.retry(df)            # sends those again

With mode="batch" the rows are submitted together and answered within a day, by most providers at half the
price; wait=False returns a BatchJob at once, and nbllm.rows.collect("reviews") the table later.
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
from .batch import WAITING, BatchJob, BatchRun, reject_options
from .estimate import Estimate, amount_of
from .frame import result_frame
from .job import Job
from .progress import Progress, Totals, confirm_question, select_progress
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
WIDTH = 64  # rows that are sent at the same time
_MAX_WIDTH = 1_024
_NO_COST = ModelFacts(input=0.0, output=0.0)  # prices of the simulator
_SAMPLE_SIZE = 50  # prompts that an estimate uses

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
    """Sends every row to `model` and returns a new frame: df's index, order and columns, the answers, and
    llm_status (ok, failed, stopped, pending), llm_error, llm_cost (US dollars).

    template: a prompt with columns in braces, `{text}`, as in a cell; `{{` stays as it is. A row with a
    missing value fails and is not sent. schema: as in a cell; its fields become columns of its types. into:
    the column of the answer ("answer"); with a schema of several fields, the prefix of their columns. run: a
    name under which the run is stored: a second call sends only rows that are new or changed, or that were
    not reached. width: rows that are sent at the same time (64). budget: US dollars, or a mapping of usd and
    tokens, for the complete run: no row starts that could exceed it. dedupe: equal rows are sent once; each
    of them shows the cost. confirm: "ask" shows an estimate and asks the user where that is possible, unless
    it is for a few rows or cents; otherwise the run starts, unless the estimate is above the budget; "yes"
    never asks; a function gets the Estimate. errors: "raise" ends the run at the first failed row. mode:
    "batch" submits the rows together, to be answered within a day and for less; a run of the same name finds
    its batches again, whatever happened to this process. wait: False returns a BatchJob instead of the frame,
    with poll(), collect() and cancel(). executor: sends from other threads, processes or machines: a
    concurrent.futures.Executor, or a client of dask.distributed; each worker uses its own configuration and
    keys, limits and budgets are enforced here, and width defaults to what keeps all workers busy. More
    options as in Client.stream. An interrupt ends the run: the frame has the finished rows, and `resume` goes
    on. Raises ConfigError for errors on this side, before anything is sent."""
    job = Job.of(template, model, schema, into, options, dedupe=dedupe).for_table(df)
    name = f"{datetime.now():%Y%m%d-%H%M%S}-{uuid4().hex[:6]}" if run is None else run
    if _is_batch_mode(mode, wait):
        reject_options(
            options, budget=budget, width=width, errors=_raises_errors(errors) or None, executor=executor
        )
        with RunFile(name) as file:
            batch_job = _TableRun(file, job, client=client, confirm=confirm).submit_batches(df)
        return batch_job.wait() if wait else batch_job
    with RunFile(name) as file:
        table_run = _TableRun(
            file,
            job,
            client=client,
            width=width,
            budget=budget,
            confirm=confirm,
            raises=_raises_errors(errors),
            executor=executor,
        )
        return table_run.run_rows(df)


def batches() -> pd.DataFrame:
    """One row per batch of all runs of this machine: run, part, state (creating, running, done), batch (the
    provider's id), rows, created."""
    import pandas as pd

    names = ["run", "part", "state", "batch", "rows", "created"]
    found = pd.DataFrame(files.list_parts(), columns=names)
    return found.assign(created=pd.to_datetime(found["created"].astype("float64"), unit="s", utc=True))


def collect(
    name: str, df: pd.DataFrame | None = None, *, client: Client | None = None, **options: Any
) -> pd.DataFrame:
    """The frame of a run in batches, with the results so far; it does not wait. df: the table; without one,
    the frame has the prompts. options: those that are not stored on disk, such as api_key. Raises ConfigError
    where there is no such run."""
    return _open_batch_job(name, df, client, options).collect()


def cancel(name: str, *, client: Client | None = None, **options: Any) -> dict[str, int]:
    """Cancels the batches of a run, and returns the numbers of rows that are ok, failed and waiting. Finished
    rows are stored. Raises ConfigError where there is no such run."""
    return _open_batch_job(name, None, client, options).cancel()


def _open_batch_job(
    name: str, df: pd.DataFrame | None, client: Client | None, options: dict[str, Any]
) -> BatchJob:
    with RunFile(name, create=False) as file:
        job = Job.from_record(_stored_job(file), options)
    return BatchJob(name, job, df, client or default_client())


def runs() -> pd.DataFrame:
    """One row per run on this machine, oldest first: run, model, rows, ok, failed, left, usd, template, and
    why it ended early."""
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
    """Continues a run that was stopped or killed, with its stored settings. df: the table; without one, the
    frame has the prompts. Raises ConfigError where there is no such run."""
    return _continue_run(
        name,
        df,
        options,
        client=client,
        width=width,
        budget=budget,
        confirm=confirm,
        executor=executor,
        failed=False,
    )


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
    """Sends the failed rows of a frame of `map` again, and those that were not reached. Raises ConfigError
    for another frame."""
    name = df.attrs.get("nbllm_run")
    if not isinstance(name, str):
        raise ConfigError(
            "This frame does not know its run.",
            hint="nbllm.rows.resume(name, df) continues a run by name.",
        )
    return _continue_run(
        name,
        df,
        options,
        client=client,
        width=width,
        budget=budget,
        confirm=confirm,
        executor=executor,
        failed=True,
    )


def errors(df: pd.DataFrame) -> pd.DataFrame:
    """The rows of a frame that failed or were stopped. Raises ConfigError for a frame without answers."""
    if "llm_status" not in df:
        raise ConfigError("This frame has no answers of a run.", hint="nbllm.map(df, ...) returns one.")
    return df[df["llm_status"].isin(["failed", "stopped"])]


def _continue_run(
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
        stored = _stored_job(file)
        job = Job.from_record(stored, options)
        if df is not None:
            job = job.for_table(df)
        if stored.get("mode") != "batch":
            run = _TableRun(
                file,
                job,
                client=client,
                width=width,
                budget=(stored.get("budget") or None) if budget is None else budget,
                confirm=confirm,
                executor=executor,
            )
            return run.run_rows(df, failed=failed)
        reject_options(options, budget=budget, width=width, executor=executor)
        batch_job = _TableRun(file, job, client=client, confirm=confirm).submit_batches(df, failed=failed)
    return batch_job.wait()


def _stored_job(file: RunFile) -> dict[str, Any]:
    stored = file.get("about")
    if not isinstance(stored, dict):
        raise ConfigError(f"The run {file.name} has not started yet.", hint="nbllm.map(df, ..., run=...)")
    return stored


def _is_batch_mode(mode: str, wait: bool) -> bool:
    if mode not in ("now", "batch"):
        raise ConfigError(f"mode cannot be {mode!r}.", hint="It is now or batch.")
    if mode == "now" and wait is not True:
        raise ConfigError("wait=False is for batches.", hint='Add mode="batch".')
    return mode == "batch"


def _raises_errors(errors: str) -> bool:
    if errors not in ("keep", "raise"):
        raise ConfigError(f"errors cannot be {errors!r}.", hint="It is keep or raise.")
    return errors == "raise"


def _remaining_budget(limits: Any, file: RunFile) -> Budget:
    """The budget of a run, less what it has spent."""
    if isinstance(limits, Budget):
        raise ConfigError(
            "budget= of a run is US dollars, or a mapping of usd and tokens.",
            hint="A Budget that several runs and calls share is their client's: client.budget = ...",
        )
    budget = Budget.of(limits)
    budget.add_spent(Amount(*file.spent()))
    return budget


class _TableRun:
    """A run over a table, from its estimate to its frame."""

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
        if width is not None and not (type(width) is int and 1 <= width <= _MAX_WIDTH):
            raise ConfigError(f"width cannot be {width!r}.", hint=f"It is a number from 1 to {_MAX_WIDTH}.")
        if not (confirm in ("ask", "yes") or callable(confirm)):
            raise ConfigError(f"confirm cannot be {confirm!r}.", hint="It is ask, yes, or a function.")
        self.file, self.job, self.budget = file, job, _remaining_budget(budget, file)
        self.client, self.width = client or default_client(), width or WIDTH
        self.confirm, self.raises = confirm, raises
        options = job.options
        if executor is not None:
            workers = executors.resolve_executor(executor)
            self.client = executors.client_for(self.client, workers, options.get("base_url"))
            self.width = width or executors.width_of(workers) or WIDTH
        self.route = self.client.resolve(job.model, options.get("base_url"), options.get("dialect"))
        self.route.check()

    def run_rows(self, df: pd.DataFrame | None, *, failed: bool = False) -> pd.DataFrame:
        """Sends the unfinished rows, and returns the frame."""
        if self.file.parts():
            raise ConfigError(
                f"Rows of the run {self.file.name} are in a batch.",
                hint=f"nbllm.rows.collect({self.file.name!r}) has its results; nbllm.rows.cancel ends it.",
            )
        facts = self._facts()
        if df is not None:
            self.file.plan(self.job.questions(df))
        if failed:
            self.file.reset_failed()
        self.file.put(about={**self.job.to_record(), "budget": self.budget.limits}, ended="")
        ids, progress = self.file.unfinished_ids(), select_progress()
        counts = self.file.counts()
        totals = Totals(self.file.name, len(ids), counts.get("ok", 0))
        runner = Runner(self.client, self.job, self.file, self.budget, facts, totals, self.width, self.raises)
        if ids:
            runner.prepare(self.route, ids)
            if self._is_confirmed(ids, facts, progress):
                with self.client.span(f"rows {self.file.name}", run=self.file.name, rows=len(ids)):
                    runner.run(progress)
            else:
                runner.ended = DECLINED
            with contextlib.suppress(ConfigError):  # a full disk was reported already; answers come first
                self.file.put(ended=runner.ended)
        progress.end(totals, runner.ended)
        if runner.error is not None:
            raise runner.error
        return self._frame(df, runner)

    def submit_batches(self, df: pd.DataFrame | None, *, failed: bool = False) -> BatchJob:
        """Submits the unfinished rows, and returns the job."""
        batch_job = BatchJob(self.file.name, self.job, df, self.client)
        run, record = BatchRun(self.file, batch_job), {**self.job.to_record(), "mode": "batch"}
        stored = _stored_job(self.file) if self.file.parts() else record
        if changed := [n for n in ("model", "schema", "options") if stored[n] != record[n]]:
            raise ConfigError(
                f"The run {self.file.name} has batches under way with another {changed[0]}.",
                hint="Give this one another name with run=, or end those with nbllm.rows.cancel.",
            )
        if df is not None:
            self.file.plan(self.job.questions(df))
        if failed:
            self.file.reset_failed()
        self.file.put(about=record, ended="")
        run.poll()  # existing batches, including an interrupted creation
        if ids := run.unfinished_ids():
            run.check(ids)
            if self._is_confirmed(ids, self._facts(), select_progress()):
                run.submit(ids)
        return batch_job

    def _facts(self) -> ModelFacts:
        """The prices of the model. Raises ConfigError for a budget in dollars where they are unknown."""
        route = self.route
        facts = _NO_COST if route.simulated else prices.facts(route.model, route.provider)
        with contextlib.suppress(BudgetExceeded):  # reported at the first row
            self.budget.state().check(amount_of(1, 1, facts), self.budget.label)
        return facts

    def _is_confirmed(self, ids: list[str], facts: ModelFacts, progress: Progress) -> bool:
        sample = self.file.prompts(ids[:: max(1, len(ids) // _SAMPLE_SIZE)][:_SAMPLE_SIZE])
        estimate = Estimate.of(
            sum(self.file.counts().values()),
            len(ids),
            sample.values(),
            facts=facts,
            max_tokens=self.job.options.get("max_tokens"),
            width=self.width,
        )
        if callable(self.confirm):
            return bool(self.confirm(estimate))
        if self.confirm == "yes":
            return True
        answer = None if estimate.small else progress.confirm(confirm_question(estimate, str(self.budget)))
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
        results = [unsaved.get(result.id, result) for _, result in self.file.results()]
        frame = result_frame(df, self.job, results, self.file)
        frame.attrs["nbllm_ended"] = runner.ended
        return frame
