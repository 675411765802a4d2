"""The agent loop: a model requests tool calls, they are run, and it gets their results, until it answers.

Theory. Every turn of the model is a call of its own, with its own attempts, times and row: `send` starts it,
and its events are forwarded to the one stream that the user reads, with StepEnded between two turns. For the
calls of a turn it is first decided which may run at all (`plan_call`). Then the user is asked, one call after
another. Then calls that wait for others (MCP, HTTP) run concurrently, and notebook functions run one after
another, on the reader's thread. In any case each call gets one ToolEnded, even where the loop is stopped, so
a conversation can always be continued.

Three limits end the loop: the number of steps, the budget, and a count of equal calls. When one is reached,
the model is asked a last time with the same tools (so that the provider's prompt cache stays valid) and
tool_choice "none", so that there is an answer. The texts to the model follow those of other agents.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from copy import deepcopy
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from ..core.compaction import (
    COMPACTED,
    CompactionPolicy,
    drop_old_results,
    estimate_size,
    split_conversation,
    starts_turn,
    summary_request,
    with_summary,
)
from ..core.errors import ConfigError, ContextLengthExceeded, scrubber
from ..core.events import (
    Finished,
    Notice,
    Response,
    Restarted,
    Step,
    StepEnded,
    ToolEnded,
    ToolOutcome,
    ToolStarted,
    Usage,
    sum_usage,
)
from ..core.history import complete_tool_results, match_results
from ..core.messages import Message, Request, Text, Tool, ToolCall, ToolResult
from ..core.options import CallSpec
from ..core.values import plural
from ..store.budgets import LoopBudget
from ..tools.changes import AppliedChange, Change, Journal, maybe_await
from ..tools.mcp_mend import clean
from ..tools.names import resolve_choice, with_unique_names
from ..tools.results import error_result, to_content
from ..tools.sources import Connections, FindToolset, ToolLike, parse_tools
from ..tools.usable import Arguments, ToolArgumentsError, Usable
from .policy import Approve, Asker, TokenScale, parse_approve
from .reader_tasks import as_exception, is_cancelled
from .stream import Stream

MAX_STEPS = 10
TIMEOUT = 60.0  # seconds for a call of a tool on the engine without a limit of its own
_CHANGE_TIMEOUT = 10.0  # seconds to find out what a call changes
_DIFF_LIMIT = 20_000  # characters of a diff in a terminal
_SUMMARY_TOKENS = 2_000  # at most
_WINDOW_LOOKUP_FROM = 3_000  # tokens of a conversation from which the context window is looked up
_LONG_CONVERSATION = 20_000  # tokens of a conversation from which the user is warned
# Tokens of old turns that are summarised: this share of the context window, which is assumed where unknown.
_SUMMARY_INPUT, _SUMMARY_INPUT_SHARE = 16_000, 0.6
_NOT_SUMMARISED = "Earlier turns were not summarised:"
_MAX_EQUAL_CALLS = 3  # the third equal call is not run, a fourth ends the loop
_MALFORMED = {"MALFORMED_FUNCTION_CALL", "UNEXPECTED_TOOL_CALL"}  # Gemini's reasons for a malformed call

Answer = Literal["once", "always", "no"]


@dataclass(frozen=True, slots=True)
class Question:
    """A call that the user is asked to approve: the tool, the arguments, and its number `of` how many.
    `tool.source` describes where the tool comes from. change: what it would change, where that is known."""

    call: ToolCall
    tool: Usable
    number: int = 1
    of: int = 1
    change: Change | None = None


@dataclass(frozen=True, slots=True)
class Limits:
    """The limits of a loop. max_steps: turns of the model. budget: for all turns, and others that share it;
    None for no limit."""

    max_steps: int = MAX_STEPS
    budget: LoopBudget | None = None

    def __post_init__(self) -> None:
        if isinstance(self.max_steps, bool) or not self.max_steps > 0:
            raise ConfigError(f"Not a limit: max_steps={self.max_steps!r}.", hint="Give a number above 0.")

    def spent(self, steps: Sequence[Step]) -> str:
        """The reason to stop where the budget is spent after these steps; else ""."""
        if self.budget is None:
            return ""
        budget, used = self.budget.parent, sum_usage(s.usage for s in steps) or Usage()
        tokens = (used.input_tokens or 0) + (used.output_tokens or 0)
        amounts = (budget.usd, sum(s.cost or 0.0 for s in steps)), (budget.tokens, tokens)
        spent = self.budget.is_used_up or any(
            limit is not None and amount >= limit for limit, amount in amounts
        )
        return f"the budget of {budget} is spent" if spent else ""


@dataclass(slots=True)
class _PlannedCall:
    """A call with its checked `arguments`; `ended` is its outcome, from the start where it is not run."""

    call: ToolCall
    tool: Usable | None = None
    arguments: Arguments = field(default_factory=dict)
    ended: ToolEnded | None = None
    began: float | None = None
    took: float | None = None  # seconds

    @property
    def seconds(self) -> float | None:
        """How long it ran, or has run so far; None where it has not started."""
        return time.perf_counter() - self.began if self.took is None and self.began is not None else self.took

    def fail(self, outcome: ToolOutcome, reason: str | BaseException) -> ToolEnded:
        """Ends the call without a result."""
        self.ended = ToolEnded(error_result(self.call, reason), outcome, self.seconds)
        return self.ended

    def end_by_timeout(self, limit: float | None) -> ToolEnded:
        """Ends the call because it took longer than `limit` seconds."""
        return self.fail("timeout", f"timed out after {limit:g} s: whether it took effect is not known")

    def set_result(self, value: Any) -> ToolEnded:
        """Ends the call with a ToolResult, or with the content of one."""
        result = value if isinstance(value, ToolResult) else ToolResult("", value)
        result = replace(result, id=self.call.id, name=self.call.name)
        self.ended = ToolEnded(result, "failed" if result.is_error else "ran", self.seconds)
        return self.ended


def ask_at_terminal(question: Question) -> str | None:
    """Asks the user at the terminal of a script; None where there is none."""
    if sys.stdin is None or not sys.stdin.isatty():
        return None
    call = f"{question.call.name}({json.dumps(question.call.arguments)})"  # no terminal control sequences
    if question.change is not None:
        sys.stdout.write(clean(question.change.diff, _DIFF_LIMIT) + "\n")
    return parse_answer(input(f"Run {call} of {question.tool.source}?{ANSWER_PROMPT}"))


ANSWER_PROMPT = " [once/always/no] "  # the end of a question at the keyboard


def parse_answer(typed: str) -> Answer:
    """The answer that the user typed."""
    word = typed.strip().lower()
    return "once" if word in ("y", "yes", "o", "once") else "always" if word in ("a", "always") else "no"


def plan_call(
    call: ToolCall, tools: Mapping[str, Usable], counts: Counter[str], *, cut: bool = False
) -> _PlannedCall:
    """Decides whether a call can run, checks its arguments, and counts it in `counts`. cut: the answer was
    cut off, maybe inside this call."""
    planned = _PlannedCall(call, tools.get(call.name))
    if planned.tool is None:
        planned.fail("unknown", f"no tool {call.name!r}; there are {', '.join(tools)}")
    elif cut or call.arguments is None:
        why = "the answer was cut off" if cut else "not a valid JSON object"
        planned.fail("invalid", f"arguments: {why}; call it again with complete ones")
    else:
        try:
            planned.arguments = planned.tool.validate(deepcopy(call.arguments))
        except ToolArgumentsError as error:
            planned.fail("invalid", error.message)
        else:
            key = f"{call.name}\0{json.dumps(call.arguments, sort_keys=True)}"
            counts[key] += 1
            if counts[key] >= _MAX_EQUAL_CALLS:
                planned.fail("repeated", "not run: identical to earlier calls; answer from their results")
    return planned


@dataclass(slots=True)
class Agent:
    """A model with tools that run. tools: by the names that the model uses. send: sends a request to the
    model once. asker: asks the user, on the reader's thread. without_code: names of tools without code, whose
    calls end the loop. secrets: texts that no result may hold."""

    tools: Mapping[str, Usable]
    send: Callable[[Request], Stream]
    approve: Approve = "ask"
    asker: Asker | None = None
    limits: Limits = field(default_factory=Limits)
    without_code: frozenset[str] = frozenset()
    compact: CompactionPolicy = field(default_factory=CompactionPolicy)
    scale: TokenScale = field(default_factory=TokenScale)
    secrets: Callable[[], Iterable[str]] = tuple
    steps: list[Step] = field(default_factory=list)
    messages: tuple[Message, ...] = ()
    _message_count: int = 0  # of the complete conversation, without system messages
    _retried_shorter: bool = False  # the conversation was shortened because it did not fit
    journal: Journal = field(default_factory=Journal)
    _changed_names: list[str] = field(default_factory=list)  # of the things that tools changed
    _journal_number: int = 0  # the answer's number in the journal
    _mask: Callable[[str], str] | None = None
    _allowed: set[str] = field(default_factory=set)
    _call_counts: Counter[str] = field(default_factory=Counter)

    async def run(self, stream: Stream, request: Request) -> None:
        """Runs the loop for `request` and writes the answer into `stream`."""
        self.messages = complete_tool_results(request.messages)
        self._message_count = sum(m.role != "system" for m in request.messages)
        if calls := _open_calls(self.messages, request.messages):  # it continues an interrupted conversation
            self._complete_open_calls(stream, await self._run_calls(stream, calls, cut=False))
        await self._find_window()
        if self.compact.enabled and self.compact.limit is None:
            self._warn_of_length(stream, request)
        last = ""
        while True:
            number = len(self.steps) + 1
            last = last or ("no step is left" if number >= self.limits.max_steps else "")
            last = last or self.limits.spent(self.steps)
            response, end = await self._run_fitting_turn(
                stream, request, first=not self.steps, last=bool(last)
            )
            self._update_scale(response)
            if response.finish_raw == "pause_turn" and number < self.limits.max_steps:
                self._append_step(stream, response, number, ())
                continue
            # A call of a tool without code ends the loop: nbllm's caller answers all calls of the turn.
            is_for_caller = any(c.name in self.without_code for c in response.tool_calls)
            calls = [] if is_for_caller else list(response.tool_calls)
            if last or not calls:
                for call in calls:
                    stream.publish(ToolEnded(error_result(call, f"not run: {last}"), "limit"))
                if self._changed_names:
                    changes = ", ".join(self._changed_names)
                    stream.publish(Notice("tools", f"Changed: {changes} (`%llm undo` takes it back)."))
                if calls:
                    stream.publish(Notice("tools", f"The tools were stopped: {last}."))
                stream.publish(end)
                return
            done = await self._run_calls(stream, calls, cut=response.finish_reason == "length")
            if max(self._call_counts.values(), default=0) > _MAX_EQUAL_CALLS:
                last = "the same call was repeated"
            self._append_step(stream, response, number, self._with_step_warning(done, number, last))

    async def _run_fitting_turn(
        self, stream: Stream, request: Request, *, first: bool, last: bool
    ) -> tuple[Response, Finished]:
        """Runs a turn of the model; shortens the conversation where it is too long."""
        await self._shorten(stream, request)
        while True:
            try:
                return await self._run_turn(stream, self._next_request(request, first=first, last=last))
            except ContextLengthExceeded:
                shorter = self.compact.enabled and not self._retried_shorter
                if not shorter or not await self._shorten(stream, request, must=True):
                    raise
                self._retried_shorter = True

    def _next_request(self, request: Request, *, first: bool, last: bool) -> Request:
        """The next turn's request. A tool is forced in the first turn only, otherwise the loop never ends."""
        forced = request.tool_choice not in (None, "auto", "none")
        choice = "none" if last and self.tools else None if forced and not first else request.tool_choice
        return replace(request, messages=self.messages, tool_choice=choice)

    async def _run_turn(self, stream: Stream, request: Request) -> tuple[Response, Finished]:
        """(the model's turn, its end, not published yet); runs it a second time for a malformed tool call."""
        for again in (True, False):
            response, end = await self._stream_turn(stream, request)
            if not (again and end.reason == "error" and end.raw in _MALFORMED):
                break
            stream.publish(Restarted("The model wrote a malformed tool call; its turn is repeated."))
        return response, end

    async def _stream_turn(self, stream: Stream, request: Request) -> tuple[Response, Finished]:
        turn, end = self.send(request), Finished("other")
        stream.extra_calls += stream.turns[len(self.steps) :]  # a failed turn that is repeated now
        stream.turns[len(self.steps) :] = [turn]
        try:
            position = 0
            while not turn.done or position < len(turn.log):
                if position == len(turn.log):
                    await turn.wait_async(position)
                position, end = _forward_events(turn, stream, position, end)
            if turn.error is not None:
                turn.error.partial = None  # `stream` sets its own
                raise turn.error
        except asyncio.CancelledError:
            turn.cancel()
            _forward_events(turn, stream, position, end)
            for call in turn.partial().tool_calls:
                stream.publish(ToolEnded(error_result(call, "not run: the user stopped"), "stopped"))
            raise
        return turn.partial(), end

    def _append_step(
        self, stream: Stream, response: Response, number: int, done: Sequence[ToolEnded]
    ) -> None:
        """Appends a turn and the results of its calls to the conversation."""
        step = Step(
            number, response.parts, tuple(done), response.finish_reason, response.usage, response.cost
        )
        self.steps.append(step)
        self.messages = (*self.messages, *step.messages)
        self._message_count += len(step.messages)
        stream.publish(StepEnded(number, response.finish_reason or "other", response.finish_raw))

    def _with_step_warning(self, done: list[ToolEnded], number: int, last: str) -> list[ToolEnded]:
        """The results; where few steps are left, the last one tells the model so."""
        left = self.limits.max_steps - number
        if last:
            text = f"{last}: answer now from what you know"
        elif left == 1:
            text = "this was the last call: answer now from what you know"
        elif left == 2:
            text = "2 steps are left: come to an end"
        else:
            return done
        end = done[-1]
        return [*done[:-1], replace(end, result=_append_text(end.result, f"\n[{text}]"))]

    # --- a conversation that is too long ---

    def _update_scale(self, response: Response) -> None:
        """Scales our estimates by the provider's count of the tokens that were sent."""
        sent = estimate_size(self.messages)
        if response.usage is not None and response.usage.input_tokens and sent:
            self.scale.factor = response.usage.input_tokens / sent

    @property
    def size(self) -> int:
        """The estimated tokens of the next request."""
        return int(estimate_size(self.messages) * self.scale.factor)

    def _warn_of_length(self, stream: Stream, request: Request) -> None:
        """Warns once, when a conversation grows long, that it is shortened only when it no longer fits."""
        if estimate_size(split_conversation(self.messages, 1).old) <= _LONG_CONVERSATION < self.size:
            text = (
                f"The context window of {request.model} is not known: the conversation is shortened when it"
            )
            stream.publish(Notice("warning", f"{text} no longer fits (compact=N shortens it at N tokens)."))

    async def _find_window(self) -> None:
        """Looks up the model's context window, once the conversation is long enough."""
        if self.compact.find_window is not None and self.size > _WINDOW_LOOKUP_FROM:
            self.compact = CompactionPolicy.of("auto", await asyncio.to_thread(self.compact.find_window))

    async def _shorten(self, stream: Stream, request: Request, *, must: bool = False) -> bool:
        """Shortens the conversation where it is too long, or in any case with `must`; True where it is
        shorter now."""
        await self._find_window()
        limit, before = self.compact.limit, self.size
        if not must and (limit is None or before <= limit):
            return False
        cleared = drop_old_results(self.messages)
        if cleared != self.messages:
            self.messages = cleared
            self._notify_shortened(stream, "Results of earlier tools left out", before)
            if must or (limit is not None and self.size <= limit):
                return True
        parts = split_conversation(self.messages)
        summary = await self._summarise(stream, request, parts.old) if parts.old else ""
        shorter = with_summary(parts, summary)
        if summary and estimate_size(shorter) >= estimate_size(self.messages):
            stream.publish(Notice("warning", f"{_NOT_SUMMARISED} the summary was not shorter."))
        elif summary:
            self.messages = shorter
            data = {"summary": summary, "from": self._message_count - len(parts.recent)}
            turns = plural(sum(map(starts_turn, parts.old)), "earlier turn")
            self._notify_shortened(stream, f"{turns} summarised", before, data)
        return self.size < before

    def _notify_shortened(
        self, stream: Stream, what: str, before: int, data: Mapping[str, Any] | None = None
    ) -> None:
        text = f"{what}: about {before:,} tokens became {self.size:,}."
        stream.publish(Notice(COMPACTED, text, data or {}))

    async def _summarise(self, stream: Stream, request: Request, old: Sequence[Message]) -> str:
        """The model's summary of earlier turns; "" where it fails twice."""
        room = int(
            (self.compact.window or self.compact.limit or _SUMMARY_INPUT)
            * _SUMMARY_INPUT_SHARE
            / self.scale.factor
        )
        summary = Request(request.model, (summary_request(old, room),), max_tokens=_SUMMARY_TOKENS)
        for _ in range(2):
            turn = self.send(summary)
            stream.extra_calls.append(turn)
            try:
                await turn.wait_end_async()
            except asyncio.CancelledError:
                turn.cancel()
                raise
            response = turn.partial()
            if turn.error is None and response.text.strip() and not response.tool_calls:
                return response.text
        why = turn.error.message.rstrip(".") if turn.error else "the model wrote none"
        stream.publish(Notice("warning", f"{_NOT_SUMMARISED} {why}."))
        return ""

    # --- a turn's calls ---

    async def _run_calls(self, stream: Stream, calls: Sequence[ToolCall], *, cut: bool) -> list[ToolEnded]:
        """One ToolEnded for each call, in their order; each is published when it ends, or when the loop is
        stopped."""
        planned = [plan_call(c, self.tools, self._call_counts, cut=cut and c is calls[-1]) for c in calls]
        try:
            await self._ask_about_calls(stream, planned)
            for p in planned:
                if p.ended is not None:
                    self._publish(stream, p, p.ended)
            await self._run_all(stream, [p for p in planned if p.ended is None])
        except BaseException:
            ran = "stopped by the user while it ran: whether it took effect is not known"
            for p in planned:
                if p.ended is None:
                    reason = "not run: the user stopped" if p.began is None else ran
                    stream.publish(p.fail("stopped", reason))
            raise
        return [p.ended for p in planned if p.ended is not None]

    async def _ask_about_calls(self, stream: Stream, planned: Sequence[_PlannedCall]) -> None:
        runnable = [p for p in planned if p.ended is None and p.tool is not None and not p.tool.reads]
        unapproved = [] if self.approve == "auto" else runnable
        for number, p in enumerate(unapproved, 1):
            if p.call.name in self._allowed:
                continue
            answer = await self._ask_user(stream, p, number, len(unapproved))
            if answer == "always":
                self._allowed.add(p.call.name)
            elif answer != "once":
                p.fail("refused", answer)

    async def _ask_user(self, stream: Stream, p: _PlannedCall, number: int, of: int) -> str:
        """The user's answer: "once", "always", or the reason why the call is not run."""
        asker = self.approve if callable(self.approve) else self.asker or ask_at_terminal
        if self.approve == "never" or p.tool is None:
            return self._refuse(stream, p, "approve=never")
        call, change = replace(p.call, arguments=deepcopy(p.call.arguments)), await self._change(p)
        question = Question(call, p.tool, number, of, change)
        answer, error = await stream.run_on_reader(lambda: asker(question), prompts_user=True)
        if error is not None:
            why = self._mask_text(str(error))
            stream.publish(Notice("tools", f"{p.call.name} was not run: asking failed ({why})."))
            return "not run: the user could not be asked"
        if answer is None:
            return self._refuse(stream, p, "nobody could answer")
        word = ("no", "once")[answer] if isinstance(answer, bool) else answer
        if isinstance(word, str) and word in ("once", "always"):
            return str(word)
        if not isinstance(word, str) or word != "no":
            why = "the function in approve= returned neither once, always, no, True nor False"
            stream.publish(Notice("tools", f"{p.call.name} was not run: {why}."))
        return "refused: the user said no to this call"

    def _refuse(self, stream: Stream, p: _PlannedCall, why: str) -> str:
        text = f"{p.call.name} was not run: {why} (approve=auto runs without asking)."
        stream.publish(Notice("tools", text))
        return f"not run: the user allows no such call here ({why})"

    async def _run_all(self, stream: Stream, planned: Sequence[_PlannedCall]) -> None:
        """Runs tools that wait for others concurrently, and meanwhile functions, and tools that change
        something, one after another."""
        tasks = [
            asyncio.create_task(self._run_on_engine(stream, p, p.tool))
            for p in planned
            if p.tool and p.tool.where == "engine" and p.tool.change is None
        ]
        try:
            for p in planned:
                if p.tool and p.tool.where == "here":
                    await self._run_on_reader(stream, p, p.tool)
                elif p.tool and p.tool.change is not None:
                    await self._run_on_engine(stream, p, p.tool)
            await asyncio.gather(*tasks)
        finally:
            for task in tasks:
                task.cancel()

    def _start(self, stream: Stream, p: _PlannedCall) -> None:
        p.began = time.perf_counter()
        stream.publish(ToolStarted(p.call.id, p.call.name))

    async def _run_on_reader(self, stream: Stream, p: _PlannedCall, tool: Usable) -> None:
        def work() -> Any:
            p.began = time.perf_counter()  # before that it waited for the reader
            value = tool.call(p.arguments)
            return wait_for(value) if hasattr(value, "__await__") else convert(value)

        def convert(value: Any) -> Any:
            p.took = time.perf_counter() - (p.began or 0.0)
            return _to_content(value, tool.budget)

        async def wait_for(value: Any) -> Any:
            try:
                async with asyncio.timeout(tool.timeout) as clock:
                    return convert(await value)
            except TimeoutError:
                if not clock.expired():
                    raise
                return p.end_by_timeout(tool.timeout)

        change = await self._change(p)
        self._start(stream, p)
        value, error = await stream.run_on_reader(work)
        ended = p.ended or (p.set_result(value) if error is None else p.fail("failed", error))
        await self._finish(stream, p, ended, change)

    async def _run_on_engine(self, stream: Stream, p: _PlannedCall, tool: Usable) -> None:
        change = await self._change(p)
        self._start(stream, p)
        limit = TIMEOUT if tool.timeout is None else tool.timeout
        try:
            async with asyncio.timeout(limit) as clock:
                ended = p.set_result(_to_content(await tool.call(p.arguments), tool.budget))
        except BaseException as exc:
            if is_cancelled():
                raise
            own = isinstance(exc, TimeoutError) and clock.expired()
            ended = p.end_by_timeout(limit) if own else p.fail("failed", as_exception(exc))
        await self._finish(stream, p, ended, change)

    async def _finish(self, stream: Stream, p: _PlannedCall, ended: ToolEnded, change: Change | None) -> None:
        await self._record_change(ended, change)
        self._publish(stream, p, ended)

    def _publish(self, stream: Stream, p: _PlannedCall, ended: ToolEnded) -> None:
        """Publishes a call's outcome with secrets masked: code can read the environment, files can hold
        keys."""
        p.ended = replace(ended, result=_mask_result(ended.result, self._mask_text))
        stream.publish(p.ended)

    def _mask_text(self, text: str) -> str:
        self._mask = self._mask or scrubber(self.secrets())
        return self._mask(text)

    # --- what tools change ---

    async def _change(self, p: _PlannedCall) -> Change | None:
        """What a call would change now; None where that cannot be known."""
        find_change = p.tool.change if p.tool is not None else None
        if find_change is None:
            return None
        try:
            async with asyncio.timeout(_CHANGE_TIMEOUT):
                change: Change | None = await maybe_await(await asyncio.to_thread(find_change, p.arguments))
                return change
        except Exception:  # noqa: BLE001 - the call itself will report the error
            return None

    async def _record_change(self, ended: ToolEnded, change: Change | None) -> None:
        """Adds a change that was made to the journal, so that it can be undone."""
        if change is None or ended.outcome != "ran":
            return
        content = ended.result.content
        with suppress(Exception):
            async with asyncio.timeout(_CHANGE_TIMEOUT):
                if not await maybe_await(change.holds(content)):
                    return
        self._journal_number = self._journal_number or self.journal.next_answer()
        self.journal.add(AppliedChange(change, content, self._journal_number))
        self._changed_names.append(change.what)

    def _complete_open_calls(self, stream: Stream, done: list[ToolEnded]) -> None:
        """Adds the results of the last turn's open calls to the conversation."""
        turn, answers = self.messages[-2:]
        calls = [p for p in turn.parts if isinstance(p, ToolCall)]
        results = match_results(calls, [*(e.result for e in done), *answers.parts])
        self.messages = (*self.messages[:-1], Message("tool", results))
        stream.publish(StepEnded(0))


async def _open_tools(items: Sequence[ToolLike]) -> list[Usable | Tool]:
    """The tools in the given order, with toolsets replaced by their tools."""

    async def tools_of(tool: ToolLike) -> Sequence[Usable | Tool]:
        return [tool] if isinstance(tool, (Usable, Tool)) else await tool.usables()

    return [tool for tools in await asyncio.gather(*map(tools_of, items)) for tool in tools]


def _to_content(value: Any, budget: int) -> Any:
    """A tool's value as the content of its result; a ToolResult stays as it is."""
    return value if isinstance(value, ToolResult) else to_content(value, budget)


def _mask_result(result: ToolResult, mask: Callable[[str], str]) -> ToolResult:
    if isinstance(result.content, str):
        return replace(result, content=mask(result.content))
    parts = (replace(p, text=mask(p.text)) if isinstance(p, Text) else p for p in result.content)
    return replace(result, content=tuple(parts))


def _append_text(result: ToolResult, text: str) -> ToolResult:
    old = result.content
    return replace(result, content=old + text if isinstance(old, str) else (*old, Text(text)))


def _open_calls(history: tuple[Message, ...], messages: Sequence[Message]) -> list[ToolCall]:
    """The calls of the last turn that had no result in the conversation as the user passed it."""
    if len(history) < 2 or history[-1].role != "tool":
        return []
    answered = {p.id for m in messages for p in m.parts if isinstance(p, ToolResult)}
    return [p for p in history[-2].parts if isinstance(p, ToolCall) and p.id not in answered]


def _forward_events(turn: Stream, stream: Stream, position: int, end: Finished) -> tuple[int, Finished]:
    """Publishes a turn's new events except its end: (the new position in its log, the end so far)."""
    for at, event in turn.log[position:]:
        position += 1
        if isinstance(event, Finished):
            end = event
        else:
            stream.publish(event, at)
    return position, end


@dataclass(frozen=True, slots=True)
class ToolUse:
    """The tools of a call and how they may be used."""

    tools: tuple[ToolLike, ...]
    limits: Limits
    approve: Approve
    compact: CompactionPolicy = field(default_factory=CompactionPolicy)
    strict: bool | None = None

    @classmethod
    def of(
        cls,
        spec: CallSpec,
        connections: Connections,
        find_toolset: FindToolset | None = None,
        window: Callable[[], int | None] = lambda: None,
    ) -> ToolUse:
        """From a call's options, whose budget is a LoopBudget. connections: for HTTP tools. find_toolset:
        finds toolsets by name. window: finds the model's context window. Raises ConfigError for what is not a
        tool, and for options of tools without a tool that runs."""
        found = parse_tools(() if spec.tools is None else spec.tools, connections, find_toolset)
        approve = parse_approve(spec.approve)
        limits = Limits(MAX_STEPS if spec.max_steps is None else spec.max_steps, spec.budget)
        runs = any(not isinstance(t, Tool) for t in found)
        wanted = "auto" if spec.compact is None and runs else spec.compact
        if wanted == "auto":
            compact = CompactionPolicy(enabled=True, find_window=window)
        else:
            compact = CompactionPolicy.of(wanted, None if wanted in (None, "off") else window())
        name = next((n for n in ("max_steps", "approve") if getattr(spec, n) is not None), None)
        if name is not None and not runs:
            raise ConfigError(
                f"{name}= is for tools that run, and there is none.", hint="Pass tools=[function]."
            )
        if spec.strict is not None and not found and spec.schema is None:
            raise ConfigError(
                "strict= is for tools and schemas, and there is neither.",
                hint="Pass tools=[function], or schema=.",
            )
        return cls(found, limits, approve, compact, spec.strict)

    def prepare_request(self, request: Request) -> Request:
        """The request for tools without code. Raises ConfigError for a tool_choice that is none of them."""
        choice = resolve_choice(request.tool_choice, [t.name for t in request.tools])
        return replace(request, tool_choice=choice)

    @property
    def has_runnable_tools(self) -> bool:
        """Whether nbllm runs any of the tools."""
        return any(not isinstance(t, Tool) for t in self.tools)

    @property
    def needs_loop(self) -> bool:
        """Whether nbllm runs any of the tools, or may shorten the conversation, so that a loop is needed."""
        return self.compact.enabled or self.has_runnable_tools

    @property
    def descriptions(self) -> tuple[Tool, ...]:
        """The descriptions of the tools that are known before toolsets are opened."""
        return _descriptions(self._unique(t for t in self.tools if isinstance(t, (Usable, Tool))))

    def _unique(self, tools: Iterable[Usable | Tool]) -> Mapping[str, Usable | Tool]:
        """The tools by the names that the model uses, with the call's `strict`."""
        return with_unique_names(
            tools if self.strict is None else (_with_strict(t, self.strict) for t in tools)
        )

    async def run(
        self,
        stream: Stream,
        request: Request,
        send: Callable[[Request], Stream],
        asker: Asker | None,
        scale: TokenScale,
        *,
        journal: Journal,
        secrets: Callable[[], Iterable[str]],
    ) -> None:
        """Runs the loop for `request` with all tools, and writes the answer into `stream`. journal: stores
        their changes. secrets: texts that no result may hold."""
        known = self._unique(await _open_tools(self.tools))
        for note in [n for t in self.tools for n in getattr(t, "notes", ())]:
            stream.publish(Notice("tools", note))
        code = {n: t for n, t in known.items() if isinstance(t, Usable)}
        without_code = frozenset(known) - frozenset(code)
        agent = Agent(
            code,
            send,
            self.approve,
            asker,
            self.limits,
            without_code,
            self.compact,
            scale,
            secrets=secrets,
            journal=journal,
        )
        choice = resolve_choice(request.tool_choice, known)
        await agent.run(stream, replace(request, tools=_descriptions(known), tool_choice=choice))


def _with_strict(tool: Usable | Tool, strict: bool) -> Usable | Tool:
    if isinstance(tool, Usable):
        return replace(tool, tool=replace(tool.tool, strict=strict))
    return replace(tool, strict=strict)


def _descriptions(known: Mapping[str, Usable | Tool]) -> tuple[Tool, ...]:
    return tuple(t.tool if isinstance(t, Usable) else t for t in known.values())
