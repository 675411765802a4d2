"""Keeps calls within their budgets: reserves an estimate of the highest cost before a call is sent, and
settles it with the real cost.

The estimate is the prompt by its length, plus max_tokens or 1,000 tokens where that is not set (0 for
embeddings). A longer answer is counted in full. A call that was not sent, or was refused, costs nothing; of
an answer that was stopped or cut off, the reported usage counts, or the tokens of the text that arrived. The
simulator's models, and local models without a price, cost nothing; their tokens count.
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
ANSWER = 1_000  # tokens of an answer, assumed where max_tokens is not set


def budgeted(handler: Handler, budgets: Sequence[Budget]) -> Handler:
    """Sends a call only if it fits all of `budgets`; otherwise raises BudgetExceeded, and ConfigError for a
    model without a price under a budget in dollars."""

    async def send_within(attempt: Attempt, sink: Sink) -> None:
        answer = 0 if attempt.dialect.name in EMBEDDERS else attempt.request.max_tokens or ANSWER
        most = Usage(_prompt_tokens(attempt), answer)
        work = asyncio.ensure_future(_in_thread(lambda: _reserve(budgets, _amount(attempt, most))))
        try:
            numbers = await asyncio.shield(work)
        except asyncio.CancelledError:
            work.add_done_callback(lambda done: _release(budgets, done))
            raise
        sent_before, start = len(sink.traces), len(sink.log)
        try:
            await handler(attempt, sink)
        finally:
            used = _used_tokens(attempt, sink, sent_before, start)
            await asyncio.shield(_in_thread(lambda: _settle(budgets, numbers, _amount(attempt, used))))

    return send_within


async def _in_thread(work: Callable[[], T]) -> T:
    """Runs `work`, which waits for a disk, on another thread."""
    try:
        future = asyncio.get_running_loop().run_in_executor(None, work)
    except RuntimeError:  # the interpreter is ending, and starts no more threads
        return work()
    return await future


def _reserve(budgets: Sequence[Budget], amount: Amount) -> list[int]:
    numbers: list[int] = []
    try:
        for budget in budgets:
            numbers.append(budget.reserve(amount))
    except BaseException:
        _settle(budgets, numbers, Amount())
        raise
    return numbers


def _settle(budgets: Sequence[Budget], numbers: Sequence[int], used: Amount) -> None:
    for budget, number in zip(budgets, numbers, strict=False):
        budget.settle(number, used)


def _release(budgets: Sequence[Budget], done: asyncio.Future[list[int]]) -> None:
    if not done.cancelled() and done.exception() is None:
        _settle(budgets, done.result(), Amount())


def _prompt_tokens(attempt: Attempt) -> int:
    """The estimated tokens of a request."""
    request = attempt.request
    return estimate_size(request.messages) + len(f"{request.tools or ''}{request.schema or ''}") // 4


def _used_tokens(attempt: Attempt, sink: Sink, sent_before: int, start: int) -> Usage | None:
    """What a call used, as far as that is known; None where it used nothing."""
    events = [
        event for _, event in sink.log[start:] if isinstance(event, UsageReport | Finished) or is_token(event)
    ]
    if len(sink.traces) == sent_before or not events:
        return None
    answer = sink.partial()
    usage = answer.usage or Usage()
    read = _prompt_tokens(attempt) if usage.input_tokens is None else usage.input_tokens
    written = estimate_size([answer.message]) if usage.output_tokens is None else usage.output_tokens
    return replace(usage, input_tokens=read, output_tokens=written)


def _amount(attempt: Attempt, usage: Usage | None) -> Amount:
    if usage is None:
        return Amount()
    route = attempt.route
    usd = 0.0 if route.simulated else prices.cost(usage, route.model, route.provider)
    tokens = (usage.input_tokens or 0) + (usage.output_tokens or 0)
    return Amount(0.0 if usd is None and route.provider.local else usd, tokens)
