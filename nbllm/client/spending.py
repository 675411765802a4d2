"""Keeps calls to their budgets: reserves the most that one may take before it is sent, settles by what it
took.

The most is an estimate: the prompt by its length, and max_tokens, 1,000 tokens where none is set (vectors
are none). An answer that grows longer than that is paid for and counted. What was never sent, or was refused,
takes nothing; of an answer that was stopped or cut, what is known counts, and the words that came.
The simulator's models, and those of this machine that have no price, cost nothing; their tokens count.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TypeVar

from ..core.compaction import estimate_size
from ..core.events import Finished, Usage, UsageReport, is_token
from ..dialects.embeddings import EMBEDDERS
from ..routing import prices
from ..store.budgets import Amount, Budget
from .attempt import Attempt, Handler, Sink

T = TypeVar("T")
ANSWER = 1_000  # tokens that an answer is taken to have where max_tokens is not set


def budgeted(handler: Handler, budgets: Sequence[Budget]) -> Handler:
    """Sends nothing that does not fit all of `budgets`: raises BudgetExceeded instead, and ConfigError for a
    model without a price under a budget in dollars."""

    async def within(attempt: Attempt, sink: Sink) -> None:
        answer = 0 if attempt.dialect.name in EMBEDDERS else attempt.request.max_tokens or ANSWER
        most = Usage(_prompt(attempt), answer)
        work = asyncio.ensure_future(_aside(lambda: _reserved(budgets, _amount(attempt, most))))
        try:
            numbers = await asyncio.shield(work)
        except asyncio.CancelledError:
            work.add_done_callback(lambda done: _given_back(budgets, done))
            raise
        sent, place = len(sink.traces), len(sink.log)
        try:
            await handler(attempt, sink)
        finally:
            used = _used(attempt, sink, sent, place)
            await asyncio.shield(_aside(lambda: _settled(budgets, numbers, _amount(attempt, used))))

    return within


async def _aside(work: Callable[[], T]) -> T:
    """Does `work`, which waits for a disk, on another thread."""
    try:
        doing = asyncio.get_running_loop().run_in_executor(None, work)
    except RuntimeError:  # the interpreter is ending: there are no more threads
        return work()
    return await doing


def _reserved(budgets: Sequence[Budget], want: Amount) -> list[int]:
    numbers: list[int] = []
    try:
        for budget in budgets:
            numbers.append(budget.reserve(want))
    except BaseException:
        _settled(budgets, numbers, Amount())
        raise
    return numbers


def _settled(budgets: Sequence[Budget], numbers: Sequence[int], used: Amount) -> None:
    for budget, number in zip(budgets, numbers, strict=False):
        budget.settle(number, used)


def _given_back(budgets: Sequence[Budget], done: asyncio.Future[list[int]]) -> None:
    if not done.cancelled() and done.exception() is None:
        _settled(budgets, done.result(), Amount())


def _prompt(attempt: Attempt) -> int:
    """About how many tokens a request has."""
    request = attempt.request
    return estimate_size(request.messages) + len(f"{request.tools or ''}{request.schema or ''}") // 4


def _used(attempt: Attempt, sink: Sink, sent: int, place: int) -> Usage | None:
    """What a call took, as far as that is known; None where it took nothing."""
    told = [
        event for _, event in sink.log[place:] if isinstance(event, UsageReport | Finished) or is_token(event)
    ]
    if len(sink.traces) == sent or not told:
        return None
    answer = sink.partial()
    usage = answer.usage or Usage()
    read = _prompt(attempt) if usage.input_tokens is None else usage.input_tokens
    words = estimate_size([answer.message]) if usage.output_tokens is None else usage.output_tokens
    return replace(usage, input_tokens=read, output_tokens=words)


def _amount(attempt: Attempt, usage: Usage | None) -> Amount:
    if usage is None:
        return Amount()
    route = attempt.route
    usd = 0.0 if route.simulated else prices.cost(usage, route.model, route.provider)
    tokens = (usage.input_tokens or 0) + (usage.output_tokens or 0)
    return Amount(0.0 if usd is None and route.provider.local else usd, tokens)
