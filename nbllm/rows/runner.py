"""Sends the questions of a run on the engine's loop, a limited number at a time, and writes the results on a
thread of its own. No answer stays in memory once it is on disk."""

from __future__ import annotations

import asyncio
import contextlib
import json
import queue
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import wait
from dataclasses import dataclass, field, replace
from typing import Any, TypeVar

from ..client import answers
from ..client.client import Client
from ..client.engine import engine
from ..client.spending import ANSWER
from ..client.stream import Stream
from ..core import errors
from ..core.calls import ModelFacts
from ..core.errors import Mismatch
from ..core.events import Response
from ..core.messages import Message, Request
from ..core.options import CallSpec
from ..core.schema import parse_answer, repair_prompt, to_builtin
from ..core.strict import check_strict
from ..core.values import token_estimate
from ..store.budgets import Amount, Budget
from ..store.runs import Row, RunFile
from . import executors
from .estimate import amount_of
from .job import Job, replace_surrogates
from .progress import Progress, Totals

N = TypeVar("N", int, float)
STOPPED = "stopped by the user"
_WRITE_INTERVAL = 0.005  # seconds between two transactions
_DRAW_INTERVAL = 0.1  # seconds between two updates of the display
_MAX_ERROR = 500  # characters of a stored error
# After these errors every other row would fail as well: the run ends, and its rows stay pending.
_ENDING_ERRORS = (
    *(errors.QuotaExceeded, errors.AuthenticationError, errors.PermissionDenied, errors.NotFound),
    errors.BudgetExceeded,  # of the notebook's budget
)


def ends_run(error: errors.NbllmError) -> bool:
    """Whether an error concerns every row: that of a key, an account, a model, or a daily limit."""
    return isinstance(error, _ENDING_ERRORS) or bool(getattr(error, "is_lasting", False))


def row_error(error: errors.NbllmError) -> str:
    """An error in one line, as it is stored."""
    return replace_surrogates(f"{type(error).__name__}: {' '.join(error.message.split())}"[:_MAX_ERROR])


def answer_json(job: Job, response: Response) -> str:
    """The answer of a row as JSON, as it is stored. Raises ContentFiltered, and errors of the schema."""
    if response.finish_reason == "content_filter":
        raise errors.ContentFiltered("The provider's filter stopped the answer.")
    if response.refusal and not response.text:
        raise errors.ContentFiltered(f"The model refused: {response.refusal[:500]}")
    value = response.text if job.shape is None else parse_answer(response, job.shape)
    with errors.processing_answer(response, "storing it"):  # its nesting may be too deep for JSON
        return json.dumps(value if job.shape is None else to_builtin(value), default=str)


def _tokens(response: Response) -> int | None:
    usage = response.usage
    if usage is None or usage.input_tokens is None or usage.output_tokens is None:
        return None
    return usage.input_tokens + usage.output_tokens


def _add_known(a: N | None, b: N | None) -> N | None:
    """The sum, None where one of them is unknown."""
    return None if a is None or b is None else a + b


class Recorder:
    """Writes results in transactions of many rows. on_write: called after each transaction; n_put, n_written:
    numbers of items; failure: the error of the disk, if any."""

    def __init__(self, file: RunFile, on_write: Callable[[], Any]) -> None:
        self._file, self._on_write, self.failure = file, on_write, ""
        self.n_put = self.n_written = 0
        self.unsaved: dict[str, Row] = {}
        self._queue: queue.SimpleQueue[Row | str | None] = queue.SimpleQueue()
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._work, name="nbllm-rows", daemon=True)
        self._thread.start()

    def put(self, item: Row | str) -> None:
        """Adds the result of a question, or the id of one that is being sent. Called by one thread only."""
        self.n_put += 1
        self._queue.put(item)

    def close(self) -> None:
        """Writes the remaining items and ends the thread."""
        self._closing.set()
        self._queue.put(None)
        self._thread.join()

    def _work(self) -> None:
        while (item := self._queue.get()) is not None:
            self._closing.wait(_WRITE_INTERVAL)
            items = [item]
            while not self._queue.empty() and (item := self._queue.get()) is not None:
                items.append(item)
            self._record(items)
            self.n_written += len(items)
            self._on_write()
            if item is None:
                return

    def _record(self, items: list[Row | str]) -> None:
        results = [i for i in items if not isinstance(i, str)]
        try:
            self._file.record(results, [i for i in items if isinstance(i, str)])
        except Exception as exc:  # noqa: BLE001 - the results stay in memory, and the run ends
            self.failure = self.failure or errors.as_nbllm_error(exc).message
            self.unsaved.update((row.id, row) for row in results)


@dataclass(slots=True)
class Runner:
    """A running run. facts: the prices of its model; longest: tokens of the longest answer so far; ended: why
    it ends early, "" where it does not."""

    client: Client
    job: Job
    file: RunFile
    budget: Budget
    facts: ModelFacts
    totals: Totals
    width: int
    raises: bool = False  # whether the first failure ends the run
    longest: int = 0
    ended: str = ""
    error: errors.NbllmError | None = None
    _questions: Iterator[tuple[str, str]] = field(default_factory=lambda: iter(()))
    _streams: set[Stream] = field(default_factory=set)
    _row_ended: asyncio.Event = field(default_factory=asyncio.Event)
    _written: asyncio.Event = field(default_factory=asyncio.Event)
    _route: Any = None
    _sending: dict[str, Any] = field(default_factory=dict, repr=False)
    _json_instructions: str = ""  # added to prompts where the provider has no schema mode
    _options: dict[str, Any] = field(default_factory=dict)
    recorder: Recorder = field(init=False)

    def prepare(self, route: Any, ids: Sequence[str]) -> None:
        """Prepares what must not be prepared on the engine's thread. Raises ConfigError for a call that
        cannot be made: no key, an unsupported option."""
        self._questions, self._route = self.file.questions(ids), route
        self.width = min(self.width, len(ids))
        spec = CallSpec.of(self.job.options)
        self._sending = {**self.client.send_options(spec, route), "background": True}
        shape, in_words = self.job.shape, "schema" in route.provider.quirks.cannot
        self._json_instructions = f"\n\n{shape.instructions()}" if shape is not None and in_words else ""
        schema = None if in_words or shape is None else shape.provider_schema
        check_strict(spec.strict, shape, route.provider)
        self._options = {**self.client.request_parameters(spec), "schema": schema, "strict": spec.strict}
        for r in (route, *route.fallbacks):
            found = self._sending["key"] if r is route else self.client.registry.key_for(r, None)
            first = self.client.attempt(self._request("Hello", r.model), r, key=found)
            answers.check_cacheable(first.call, self._sending["cache_mode"])
            executors.check(self.client, first, self.job.options.get("base_url"))

    def _request(self, prompt: str, model: str) -> Request:
        return self.client.request(prompt + self._json_instructions, model, **self._options)

    def run(self, progress: Progress) -> None:
        """Sends all questions; called on the caller's thread. An interrupt ends it and cancels running
        calls."""
        self.recorder = Recorder(self.file, lambda: engine().loop.call_soon_threadsafe(self._wake))
        future = engine().submit(self._run())
        try:
            while not future.done():
                try:
                    wait([future], _DRAW_INTERVAL)
                    progress.draw(self.totals)
                except KeyboardInterrupt:
                    if self.ended:
                        raise
                    self.end(STOPPED)
            future.result()
        finally:
            future.cancel()
            self.recorder.close()
        self.ended = self.ended or self.recorder.failure

    def end(self, why: str) -> None:
        """Starts no more rows and cancels the running ones. Any thread may call it."""
        self.ended = self.ended or why
        engine().loop.call_soon_threadsafe(self._stop)

    def _wake(self) -> None:
        self._written.set()
        self._written = asyncio.Event()

    def _stop(self) -> None:
        self._row_ended.set()
        for stream in self._streams:
            stream.cancel()

    async def _run(self) -> None:
        await asyncio.gather(*(self._work() for _ in range(self.width)))

    async def _work(self) -> None:
        while (question := self._next_question()) is not None:
            id, prompt = question
            if not prompt:
                self._finish_row(
                    Row(id, "failed", error="MissingValue: a value of the prompt is missing in this row.")
                )
                continue
            need = self._needed_amount(prompt)
            number = await self._reserve(need)
            if number is None:
                return
            await self._run_question(id, prompt, need, number)
            await self._wait_written(self.recorder.n_put)

    def _needed_amount(self, prompt: str) -> Amount:
        """The amount that a prompt and its answer may take."""
        n_output = self.job.options.get("max_tokens") or self.longest * 1.2 or ANSWER
        return amount_of(token_estimate(prompt), n_output, self.facts)

    async def _reserve(self, need: Amount) -> int | None:
        """Waits for room in the budget and reserves `need`; returns the number, None where the run ends
        before."""
        while not self.ended:
            try:
                return self.budget.reserve(need)
            except errors.BudgetExceeded:
                await self._wait_for_room()
        return None

    async def _wait_written(self, n: int) -> None:
        """Waits until the first `n` items are written: a row that a crash would lose still counts as
        running."""
        while self.recorder.n_written < n:
            await self._written.wait()

    async def _wait_for_room(self) -> None:
        """Waits until a running row has ended, which may free a part of its reservation."""
        if not self._streams:
            self.ended = f"the budget of {self.budget} is used up"
            return
        if self._row_ended.is_set():
            self._row_ended = asyncio.Event()
        await self._row_ended.wait()

    def _next_question(self) -> tuple[str, str] | None:
        self.ended = self.ended or self.recorder.failure
        return None if self.ended else next(self._questions, None)

    async def _run_question(self, id: str, prompt: str, need: Amount, number: int) -> None:
        """Sends a question, and once more where the answer does not match the schema, as a cell does."""
        self.recorder.put(id)
        try:
            request = self._request(prompt, self._route.model)
            stream = await self._send_reserved(request, need, number)
        except errors.NbllmError as error:
            self._finish_row(self._failed_row(id, error, None))
            return
        first = stream.partial()
        if (mismatch := self._mismatch(stream, first)) is None:
            self._finish_row(self._result_row(id, stream, first))
            return
        if not self.ended:
            messages = (*request.messages, first.message, Message("user", repair_prompt(mismatch.problems)))
            with contextlib.suppress(errors.NbllmError):  # the budget may have no room for it
                more = self._needed_amount(prompt + first.text)
                number = self.budget.reserve(more)
                again = await self._send_reserved(replace(request, messages=messages), more, number)
                if again.error is None and again.partial().finish_reason != "cancelled":
                    stream = again
        last = stream.partial()
        self._finish_row(self._result_row(id, stream, last, None if last is first else first))

    async def _send_reserved(self, request: Request, need: Amount, number: int) -> Stream:
        """Sends a request for which `need` is reserved, and waits for its end. Raises the error where it
        cannot be sent."""
        used = Amount()
        try:
            stream = self.client.send(request, self._route, **self._sending)
            used = await self._used_amount(stream, need)
        finally:
            self.budget.settle(number, used)
        return stream

    async def _used_amount(self, stream: Stream, need: Amount) -> Amount:
        """Waits for the end of an answer and returns its amount; the reserved one where it is unknown."""
        self._streams.add(stream)
        if self.ended:
            stream.cancel()
        try:
            await stream.wait_end_async()
        finally:
            self._streams.discard(stream)
            self._row_ended.set()
        response = stream.partial()
        usd, tokens = response.cost, _tokens(response)
        self.longest = max(self.longest, (response.usage and response.usage.output_tokens) or 0)
        rest = Amount() if stream.error is not None and response.empty else need
        return Amount(rest.usd if usd is None else usd, rest.tokens if tokens is None else tokens)

    def _mismatch(self, stream: Stream, response: Response) -> Mismatch | None:
        """The mismatch of an answer with the schema, None for none."""
        if self.job.shape is None or stream.error is not None or response.finish_reason == "cancelled":
            return None
        try:
            answer_json(self.job, response)
        except Mismatch as mismatch:
            return mismatch
        except errors.NbllmError:
            return None
        return None

    def _result_row(self, id: str, stream: Stream, response: Response, before: Response | None = None) -> Row:
        """The result of a question. before: an earlier answer that did not match, which was paid for too."""
        cost, tokens = response.cost, _tokens(response)
        if before is not None:
            cost, tokens = _add_known(cost, before.cost), _add_known(tokens, _tokens(before))
        if stream.error is not None:
            return self._failed_row(id, stream.error, cost)
        if response.finish_reason == "cancelled":
            return Row(id, "stopped", None, "Stopped: it was cancelled.", cost, tokens)
        try:
            return Row(id, "ok", answer_json(self.job, response), None, cost, tokens)
        except errors.NbllmError as error:
            return self._failed_row(id, error, cost)

    def _failed_row(self, id: str, error: errors.NbllmError, cost: float | None) -> Row:
        text = row_error(error)
        state = "failed"
        if ends_run(error):
            state = "pending"
            self._end_run(f"{text.rstrip('.')}. {error.hint}".rstrip())
        elif self.raises:
            self.error = self.error or error
            self._end_run(text)
        return Row(id, state, None, text, cost)

    def _end_run(self, why: str) -> None:
        self.ended = self.ended or why
        self._stop()

    def _finish_row(self, row: Row) -> None:
        self.recorder.put(row)
        if row.state == "ok":
            self.totals.ok += 1
        elif row.state == "failed":
            self.totals.failed[(row.error or "").partition(":")[0]] += 1
        if row.usd is not None:
            self.totals.usd = (self.totals.usd or 0.0) + row.usd
