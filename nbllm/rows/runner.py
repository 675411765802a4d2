"""Asks the questions of a run on the engine's loop, a window of them at a time, and has a thread of its own
write down what comes. Nothing of an answer is kept in memory once it is on disk."""

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
from .estimate import taken
from .job import Job, whole
from .progress import Progress, Totals

N = TypeVar("N", int, float)
STOPPED = "stopped by the user"
_PACE = 0.005  # seconds between two transactions
_TICK = 0.1  # seconds between two looks at how it goes
_LONGEST_ERROR = 500  # characters of a message that are kept
# After these every other row would fail as well: the run ends, and its rows stay to be asked.
_ENDING = (
    *(errors.QuotaExceeded, errors.AuthenticationError, errors.PermissionDenied, errors.NotFound),
    errors.BudgetExceeded,  # the notebook's
)


def ends_run(error: errors.NbllmError) -> bool:
    """Whether an error is one of every row: of the key, the account, the model, or a limit of a day."""
    return isinstance(error, _ENDING) or bool(getattr(error, "is_lasting", False))


def told_of(error: errors.NbllmError) -> str:
    """An error in one line, as it is kept."""
    return whole(f"{type(error).__name__}: {' '.join(error.message.split())}"[:_LONGEST_ERROR])


def answer_of(job: Job, response: Response) -> str:
    """The answer of a row, as it is kept: JSON. Raises ContentFiltered, and what a schema does not allow."""
    if response.finish_reason == "content_filter":
        raise errors.ContentFiltered("The provider's filter stopped the answer.")
    if response.refusal and not response.text:
        raise errors.ContentFiltered(f"The model refused: {response.refusal[:500]}")
    value = response.text if job.shape is None else parse_answer(response, job.shape)
    with errors.processing_answer(response, "keeping it"):  # it may be nested deeper than can be written
        return json.dumps(value if job.shape is None else to_builtin(value), default=str)


def _tokens(response: Response) -> int | None:
    usage = response.usage
    if usage is None or usage.input_tokens is None or usage.output_tokens is None:
        return None
    return usage.input_tokens + usage.output_tokens


def _sum(a: N | None, b: N | None) -> N | None:
    """None where one of them is not known."""
    return None if a is None or b is None else a + b


class Recorder:
    """Writes what is put into it, in transactions of many rows. told: is called after each;
    done: how many items it is done with. failure: why the disk took no more."""

    def __init__(self, file: RunFile, told: Callable[[], Any]) -> None:
        self._file, self._told, self.failure = file, told, ""
        self.given = self.done = 0  # items
        self.unsaved: dict[str, Row] = {}
        self._queue: queue.SimpleQueue[Row | str | None] = queue.SimpleQueue()
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._work, name="nbllm-rows", daemon=True)
        self._thread.start()

    def put(self, item: Row | str) -> None:
        """What came of a question, or the id of one that is being sent. One thread."""
        self.given += 1
        self._queue.put(item)

    def close(self) -> None:
        """Writes what is left."""
        self._closing.set()
        self._queue.put(None)
        self._thread.join()

    def _work(self) -> None:
        while (item := self._queue.get()) is not None:
            self._closing.wait(_PACE)
            items = [item]
            while not self._queue.empty() and (item := self._queue.get()) is not None:
                items.append(item)
            self._record(items)
            self.done += len(items)
            self._told()
            if item is None:
                return

    def _record(self, items: list[Row | str]) -> None:
        ended = [i for i in items if not isinstance(i, str)]
        try:
            self._file.record(ended, [i for i in items if isinstance(i, str)])
        except Exception as exc:  # noqa: BLE001 - the answers stay in memory, and the run ends
            self.failure = self.failure or errors.as_nbllm_error(exc).message
            self.unsaved.update((row.id, row) for row in ended)


@dataclass(slots=True)
class Runner:
    """A run under way. facts: of its model, for prices; longest: tokens of the longest answer so far; ended:
    why it ends early, "" where it does not."""

    client: Client
    job: Job
    file: RunFile
    budget: Budget
    facts: ModelFacts
    totals: Totals
    width: int
    raises: bool = False  # the first failure ends the run
    longest: int = 0
    ended: str = ""
    error: errors.NbllmError | None = None
    _questions: Iterator[tuple[str, str]] = field(default_factory=lambda: iter(()))
    _streams: set[Stream] = field(default_factory=set)
    _settled: asyncio.Event = field(default_factory=asyncio.Event)
    _written: asyncio.Event = field(default_factory=asyncio.Event)
    _route: Any = None
    _sending: dict[str, Any] = field(default_factory=dict, repr=False)
    _words: str = ""  # that ask for JSON, where the provider has no mode for schemas
    _options: dict[str, Any] = field(default_factory=dict)
    recorder: Recorder = field(init=False)

    def prepare(self, route: Any, ids: Sequence[str]) -> None:
        """Makes ready what must not be made on the engine's thread. Raises ConfigError for what is wrong with
        the call: no key, an option that the provider does not take."""
        self._questions, self._route = self.file.questions(ids), route
        self.width = min(self.width, len(ids))
        spec = CallSpec.of(self.job.options)
        self._sending = {**self.client.send_options(spec, route), "background": True}
        shape, in_words = self.job.shape, "schema" in route.provider.quirks.cannot
        self._words = f"\n\n{shape.instructions()}" if shape is not None and in_words else ""
        schema = None if in_words or shape is None else shape.provider_schema
        check_strict(spec.strict, shape, route.provider)
        self._options = {**self.client.request_parameters(spec), "schema": schema, "strict": spec.strict}
        for r in (route, *route.fallbacks):
            found = self._sending["key"] if r is route else self.client.registry.key_for(r, None)
            first = self.client.attempt(self._request("Hello", r.model), r, key=found)
            answers.check_cacheable(first.call, self._sending["cache_mode"])
            executors.check(self.client, first, self.job.options.get("base_url"))

    def _request(self, prompt: str, model: str) -> Request:
        return self.client.request(prompt + self._words, model, **self._options)

    def run(self, progress: Progress) -> None:
        """Asks all, from the caller's thread. An interrupt ends it; what is on its way is broken off."""
        self.recorder = Recorder(self.file, lambda: engine().loop.call_soon_threadsafe(self._wake))
        future = engine().submit(self._run())
        try:
            while not future.done():
                try:
                    wait([future], _TICK)
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
        """Starts no more and stops what runs. Any thread."""
        self.ended = self.ended or why
        engine().loop.call_soon_threadsafe(self._stop)

    def _wake(self) -> None:
        self._written.set()
        self._written = asyncio.Event()

    def _stop(self) -> None:
        self._settled.set()
        for stream in self._streams:
            stream.cancel()

    async def _run(self) -> None:
        await asyncio.gather(*(self._work() for _ in range(self.width)))

    async def _work(self) -> None:
        while (question := self._next()) is not None:
            id, prompt = question
            if not prompt:
                self._note(
                    Row(id, "failed", error="MissingValue: a value of the prompt is missing in this row.")
                )
                continue
            need = self._need(prompt)
            number = await self._reserved(need)
            if number is None:
                return
            await self._one(id, prompt, need, number)
            await self._on_disk(self.recorder.given)

    def _need(self, prompt: str) -> Amount:
        """What a prompt and its answer may take."""
        made = self.job.options.get("max_tokens") or self.longest * 1.2 or ANSWER  # where none has ended yet
        return taken(token_estimate(prompt), made, self.facts)

    async def _reserved(self, need: Amount) -> int | None:
        """The number of a reservation, once there is room for it; None where the run ends before."""
        while not self.ended:
            try:
                return self.budget.reserve(need)
            except errors.BudgetExceeded:
                await self._room()
        return None

    async def _on_disk(self, place: int) -> None:
        """Until what was noted is written: a row that a crash would lose still counts as on its way."""
        while self.recorder.done < place:
            await self._written.wait()

    async def _room(self) -> None:
        """Until a row under way has ended, whose reservation may leave room."""
        if not self._streams:
            self.ended = f"the budget of {self.budget} is used up"
            return
        if self._settled.is_set():
            self._settled = asyncio.Event()
        await self._settled.wait()

    def _next(self) -> tuple[str, str] | None:
        self.ended = self.ended or self.recorder.failure
        return None if self.ended else next(self._questions, None)

    async def _one(self, id: str, prompt: str, need: Amount, number: int) -> None:
        """Asks a question, once more where the answer does not fit the schema, as a cell does."""
        self.recorder.put(id)
        try:
            request = self._request(prompt, self._route.model)
            stream = await self._asked(request, need, number)
        except errors.NbllmError as error:
            self._note(self._failed(id, error, None))
            return
        first = stream.partial()
        if (misfit := self._misfit(stream, first)) is None:
            self._note(self._row(id, stream, first))
            return
        if not self.ended:
            told = (*request.messages, first.message, Message("user", repair_prompt(misfit.problems)))
            with contextlib.suppress(errors.NbllmError):  # there may be no room for it
                more = self._need(prompt + first.text)
                number = self.budget.reserve(more)
                again = await self._asked(replace(request, messages=told), more, number)
                if again.error is None and again.partial().finish_reason != "cancelled":
                    stream = again
        self._note(self._row(id, stream, stream.partial(), first if stream.partial() is not first else None))

    async def _asked(self, request: Request, need: Amount, number: int) -> Stream:
        """The ended answer to a request, for which `need` is reserved. Raises the error where it cannot be
        sent."""
        used = Amount()
        try:
            stream = self.client.send(request, self._route, **self._sending)
            used = await self._taken(stream, need)
        finally:
            self.budget.settle(number, used)
        return stream

    async def _taken(self, stream: Stream, need: Amount) -> Amount:
        """What an answer took, at its end; what it does not tell counts as was reserved."""
        self._streams.add(stream)
        if self.ended:
            stream.cancel()
        try:
            await stream.wait_end_async()
        finally:
            self._streams.discard(stream)
            self._settled.set()
        response = stream.partial()
        usd, tokens = response.cost, _tokens(response)
        self.longest = max(self.longest, (response.usage and response.usage.output_tokens) or 0)
        rest = Amount() if stream.error is not None and response.empty else need
        return Amount(rest.usd if usd is None else usd, rest.tokens if tokens is None else tokens)

    def _misfit(self, stream: Stream, response: Response) -> Mismatch | None:
        """What an answer lacks of the schema."""
        if self.job.shape is None or stream.error is not None or response.finish_reason == "cancelled":
            return None
        try:
            answer_of(self.job, response)
        except Mismatch as misfit:
            return misfit
        except errors.NbllmError:
            return None
        return None

    def _row(self, id: str, stream: Stream, response: Response, before: Response | None = None) -> Row:
        """before: the answer that did not fit, which was paid for, too."""
        cost, tokens = response.cost, _tokens(response)
        if before is not None:
            cost, tokens = _sum(cost, before.cost), _sum(tokens, _tokens(before))
        if stream.error is not None:
            return self._failed(id, stream.error, cost)
        if response.finish_reason == "cancelled":
            return Row(id, "stopped", None, "Stopped: it was broken off.", cost, tokens)
        try:
            return Row(id, "ok", answer_of(self.job, response), None, cost, tokens)
        except errors.NbllmError as error:
            return self._failed(id, error, cost)

    def _failed(self, id: str, error: errors.NbllmError, cost: float | None) -> Row:
        told = told_of(error)
        state = "failed"
        if ends_run(error):
            state = "pending"
            self._end_here(f"{told.rstrip('.')}. {error.hint}".rstrip())  # which names the hour, or the key
        elif self.raises:
            self.error = self.error or error
            self._end_here(told)
        return Row(id, state, None, told, cost)

    def _end_here(self, why: str) -> None:
        self.ended = self.ended or why
        self._stop()

    def _note(self, row: Row) -> None:
        self.recorder.put(row)
        if row.state == "ok":
            self.totals.ok += 1
        elif row.state == "failed":
            self.totals.failed[(row.error or "").partition(":")[0]] += 1
        if row.usd is not None:
            self.totals.usd = (self.totals.usd or 0.0) + row.usd
