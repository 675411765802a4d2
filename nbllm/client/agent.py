"""The loop over tools: a model asks for calls, they are run, it is told what they came to, until it answers.

Theory. Every turn of the model is a call of its own, with its own attempts, times and row: `send` makes it,
and its events go on into the one stream that is read, where StepEnded stands between two turns. What a turn
asks for is decided first (`plan`: which of the calls may run at all), then the user is asked, one call
after another, then what waits for others (MCP, HTTP) runs together and the notebook's functions run in their
order, on the thread that reads. Whatever happens, each call gets one ToolEnded, also where the loop is
stopped: so a conversation can always go on from it.

A model that is given no way to stop would go on for ever: there are steps, a budget, and a count of equal
calls. Where one of them is used up, the model is asked a last time, with the same tools (a provider's prompt
cache holds them) and tool_choice "none": so there is an answer. The words to the model follow what agents of
others tell theirs.
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
from ..store.budgets import Turns
from ..tools.changes import Change, Journal, Made, settled
from ..tools.mcp_mend import clean
from ..tools.names import chosen, unique
from ..tools.results import content, failure
from ..tools.sources import Connections, Given, Sets, tools
from ..tools.usable import Arguments, ToolArgumentsError, Usable
from .policy import Approve, Asker, Scale, checked_approve
from .reader_tasks import as_exception, is_cancelled
from .stream import Stream

MAX_STEPS = 10
TIMEOUT = 60.0  # seconds for a call that waits for others, where it says nothing else
_LOOK = 10.0  # seconds to see what a call changes
_SHOWN = 20_000  # characters of a difference in a terminal
_SUMMARY = 2_000  # tokens of a summary at most
_WORTH = 3_000  # tokens of a conversation from which what the model reads is looked up
_LONG = 20_000  # tokens of a conversation that is worth a word
_ROOM, _ROOM_SHARE = 16_000, 0.6  # tokens that a summary is made of: this share of what the model reads
_NOT_SUMMARISED = "Earlier turns were not summarised:"
_SAME = 3  # the call of this number that is equal to others is not run; the next one ends the loop
_MALFORMED = {
    "MALFORMED_FUNCTION_CALL",
    "UNEXPECTED_TOOL_CALL",
}  # Gemini's words for a call it could not write

Answer = Literal["once", "always", "no"]


@dataclass(frozen=True, slots=True)
class Question:
    """A call that the user is asked about: what would run, with which arguments, and which of how many it
    is. `tool.source` says where it comes from. change: what it would change, where that is known."""

    call: ToolCall
    tool: Usable
    number: int = 1
    of: int = 1
    change: Change | None = None


@dataclass(frozen=True, slots=True)
class Limits:
    """How long a loop may go on. max_steps: turns of the model. budget: of all turns, and of others that
    share it; None for no limit."""

    max_steps: int = MAX_STEPS
    budget: Turns | None = None

    def __post_init__(self) -> None:
        if isinstance(self.max_steps, bool) or not self.max_steps > 0:
            raise ConfigError(f"Not a limit: max_steps={self.max_steps!r}.", hint="Give a number above 0.")

    def spent(self, steps: Sequence[Step]) -> str:
        """What is used up after these steps, in words; "" where nothing is."""
        if self.budget is None:
            return ""
        most, used = self.budget.whole, sum_usage(s.usage for s in steps) or Usage()
        tokens = (used.input_tokens or 0) + (used.output_tokens or 0)
        own = (most.usd, sum(s.cost or 0.0 for s in steps)), (most.tokens, tokens)
        spent = self.budget.over or any(limit is not None and taken >= limit for limit, taken in own)
        return f"the budget of {most} is spent" if spent else ""


@dataclass(slots=True)
class _Planned:
    """A call, and what becomes of it: `arguments` to run it with, or `ended` where it is not run."""

    call: ToolCall
    tool: Usable | None = None
    arguments: Arguments = field(default_factory=dict)
    ended: ToolEnded | None = None
    began: float | None = None
    took: float | None = None  # seconds

    @property
    def seconds(self) -> float | None:
        """How long it ran, up to now where it still does; None where it has not begun."""
        return time.perf_counter() - self.began if self.took is None and self.began is not None else self.took

    def end(self, outcome: ToolOutcome, reason: str | BaseException) -> ToolEnded:
        """It came to nothing."""
        self.ended = ToolEnded(failure(self.call, reason), outcome, self.seconds)
        return self.ended

    def late(self, limit: float | None) -> ToolEnded:
        """It took longer than `limit` seconds."""
        return self.end("timeout", f"timed out after {limit:g} s: whether it took effect is not known")

    def give(self, told: Any) -> ToolEnded:
        """It came to what the model is told: a result, or the content of one."""
        made = told if isinstance(told, ToolResult) else ToolResult("", told)
        result = replace(made, id=self.call.id, name=self.call.name)
        self.ended = ToolEnded(result, "failed" if made.is_error else "ran", self.seconds)
        return self.ended


def at_terminal(question: Question) -> str | None:
    """Asks at the terminal of a script; None where there is none."""
    if sys.stdin is None or not sys.stdin.isatty():
        return None
    call = f"{question.call.name}({json.dumps(question.call.arguments)})"  # escaped: a terminal obeys nothing
    if question.change is not None:
        sys.stdout.write(clean(question.change.diff, _SHOWN) + "\n")
    return meant(input(f"Run {call} of {question.tool.source}?{TYPED}"))


TYPED = " [once/always/no] "  # what a question at a keyboard ends with


def meant(said: str) -> Answer:
    """The answer that was typed to a question."""
    word = said.strip().lower()
    return "once" if word in ("y", "yes", "o", "once") else "always" if word in ("a", "always") else "no"


def plan(call: ToolCall, tools: Mapping[str, Usable], seen: Counter[str], *, cut: bool = False) -> _Planned:
    """Whether a call can run, with which arguments; counts it in `seen`. cut: the answer ended in its
    middle."""
    found = _Planned(call, tools.get(call.name))
    if found.tool is None:
        found.end("unknown", f"no tool {call.name!r}; there are {', '.join(tools)}")
    elif cut or call.arguments is None:
        why = "the answer was cut off in its middle" if cut else "they are no valid JSON object"
        found.end("invalid", f"arguments: {why}; call it again with whole ones")
    else:
        try:
            found.arguments = found.tool.validate(deepcopy(call.arguments))
        except ToolArgumentsError as error:
            found.end("invalid", error.message)
        else:
            same = f"{call.name}\0{json.dumps(call.arguments, sort_keys=True)}"
            seen[same] += 1
            if seen[same] >= _SAME:
                found.end("repeated", "not run: identical to earlier calls; answer from what they came to")
    return found


@dataclass(slots=True)
class Agent:
    """A model with tools that run. known: these, by the names that the model is told. send: asks the model
    once. ask: the user, on the thread that reads."""

    known: Mapping[str, Usable]
    send: Callable[[Request], Stream]
    approve: Approve = "ask"
    ask: Asker | None = None
    limits: Limits = field(default_factory=Limits)
    plain: frozenset[str] = frozenset()  # names of tools without code, whose calls end the loop
    compact: CompactionPolicy = field(default_factory=CompactionPolicy)
    scale: Scale = field(default_factory=Scale)
    secrets: Callable[[], Iterable[str]] = tuple  # what no result may hold
    steps: list[Step] = field(default_factory=list)
    messages: tuple[Message, ...] = ()
    _said: int = 0  # messages of the whole conversation, without the system's
    _shortened: bool = False  # for an answer that did not fit
    journal: Journal = field(default_factory=Journal)
    _changed: list[str] = field(default_factory=list)  # what tools changed
    _number: int = 0  # its number in the journal
    _mask: Callable[[str], str] | None = None
    _allowed: set[str] = field(default_factory=set)
    _seen: Counter[str] = field(default_factory=Counter)

    async def run(self, stream: Stream, request: Request) -> None:
        """Answers `request` into `stream`."""
        self.messages = complete_tool_results(request.messages)
        self._said = sum(m.role != "system" for m in request.messages)
        if calls := _open(self.messages, request.messages):  # a conversation is taken up again
            self._take_up(stream, await self._run_calls(stream, calls, cut=False))
        await self._look_up()
        if self.compact.enabled and self.compact.limit is None:
            self._warn_of_length(stream, request)
        last = ""
        while True:
            number = len(self.steps) + 1
            last = last or ("no step is left" if number >= self.limits.max_steps else "")
            last = last or self.limits.spent(self.steps)
            response, end = await self._fitting(stream, request, first=not self.steps, last=bool(last))
            self._weigh(response)
            if response.finish_raw == "pause_turn" and number < self.limits.max_steps:
                self._keep(stream, response, number, ())
                continue
            # a call of a tool without code ends the loop: its caller answers all of them
            plain = any(c.name in self.plain for c in response.tool_calls)
            calls = [] if plain else list(response.tool_calls)
            if last or not calls:
                for call in calls:
                    stream.publish(ToolEnded(failure(call, f"not run: {last}"), "limit"))
                self._list_changes(stream)
                if calls:
                    stream.publish(Notice("tools", f"The tools were stopped: {last}."))
                stream.publish(end)
                return
            done = await self._run_calls(stream, calls, cut=response.finish_reason == "length")
            if max(self._seen.values(), default=0) > _SAME:
                last = "the same call came again and again"
            self._keep(stream, response, number, self._warned(done, number, last))

    async def _fitting(
        self, stream: Stream, request: Request, *, first: bool, last: bool
    ) -> tuple[Response, Finished]:
        """The model's turn, of a conversation that is shortened where it is too long."""
        await self._fit(stream, request)
        while True:
            try:
                return await self._turn(stream, self._request(request, first=first, last=last))
            except ContextLengthExceeded:
                shorter = self.compact.enabled and not self._shortened
                if not shorter or not await self._fit(stream, request, must=True):
                    raise
                self._shortened = True

    def _request(self, request: Request, *, first: bool, last: bool) -> Request:
        """The next turn's. What must be called is called once: forced again, it would never end."""
        forced = request.tool_choice not in (None, "auto", "none")
        choice = "none" if last and self.known else None if forced and not first else request.tool_choice
        return replace(request, messages=self.messages, tool_choice=choice)

    async def _turn(self, stream: Stream, request: Request) -> tuple[Response, Finished]:
        """(the model's turn, its end, which is not told yet); asks once more for a call that it could not
        write."""
        for again in (True, False):
            response, end = await self._answer(stream, request)
            if not (again and end.reason == "error" and end.raw in _MALFORMED):
                break
            stream.publish(Restarted("The model wrote a call that cannot be read; it is asked once more."))
        return response, end

    async def _answer(self, stream: Stream, request: Request) -> tuple[Response, Finished]:
        turn, end = self.send(request), Finished("other")
        stream.extra_calls += stream.turns[len(self.steps) :]  # one that came to nothing, and is asked again
        stream.turns[len(self.steps) :] = [turn]
        try:
            place = 0
            while not turn.done or place < len(turn.log):
                if place == len(turn.log):
                    await turn.wait_async(place)
                place, end = _forward(turn, stream, place, end)
            if turn.error is not None:
                turn.error.partial = None  # the whole answer's is put there
                raise turn.error
        except asyncio.CancelledError:
            turn.cancel()
            _forward(turn, stream, place, end)
            for call in turn.partial().tool_calls:
                stream.publish(ToolEnded(failure(call, "not run: the user stopped"), "stopped"))
            raise
        return turn.partial(), end

    def _keep(self, stream: Stream, response: Response, number: int, done: Sequence[ToolEnded]) -> None:
        """Puts a turn and the results of its calls behind the conversation."""
        step = Step(
            number, response.parts, tuple(done), response.finish_reason, response.usage, response.cost
        )
        self.steps.append(step)
        self.messages = (*self.messages, *step.messages)
        self._said += len(step.messages)
        stream.publish(StepEnded(number, response.finish_reason or "other", response.finish_raw))

    def _warned(self, done: list[ToolEnded], number: int, last: str) -> list[ToolEnded]:
        """The results, the last one with a line where few steps are left. Only the model reads it."""
        left = self.limits.max_steps - number
        if last:
            words = f"{last}: answer now from what you know"
        elif left == 1:
            words = "this was the last call: answer now from what you know"
        elif left == 2:
            words = "2 steps are left: come to an end"
        else:
            return done
        end = done[-1]
        return [*done[:-1], replace(end, result=_with(end.result, f"\n[{words}]"))]

    # --- a conversation that is too long ---

    def _weigh(self, response: Response) -> None:
        """Takes the provider's own count of what was sent as the measure."""
        sent = estimate_size(self.messages)
        if response.usage is not None and response.usage.input_tokens and sent:
            self.scale.factor = response.usage.input_tokens / sent

    @property
    def size(self) -> int:
        """About how many tokens are sent with the next turn."""
        return int(estimate_size(self.messages) * self.scale.factor)

    def _warn_of_length(self, stream: Stream, request: Request) -> None:
        """Says, when a conversation grows long, that it is not shortened before it does not fit."""
        if estimate_size(split_conversation(self.messages, 1).old) <= _LONG < self.size:
            words = f"How much {request.model} reads is not known: the conversation is shortened when it"
            stream.publish(Notice("warning", f"{words} does not fit (compact=N tokens does it before)."))

    async def _look_up(self) -> None:
        """Finds what the model reads, once the conversation is long enough to ask."""
        if self.compact.find_window is not None and self.size > _WORTH:
            self.compact = CompactionPolicy.of("auto", await asyncio.to_thread(self.compact.find_window))

    async def _fit(self, stream: Stream, request: Request, *, must: bool = False) -> bool:
        """Shortens what is sent, where it is too long, or where it `must`; whether it is shorter now."""
        await self._look_up()
        limit, before = self.compact.limit, self.size
        if not must and (limit is None or before <= limit):
            return False
        cleared = drop_old_results(self.messages)
        if cleared != self.messages:
            self.messages = cleared
            self._tell(stream, "Results of earlier tools are left out", before)
            if must or (limit is not None and self.size <= limit):
                return True
        parts = split_conversation(self.messages)
        summary = await self._summary(stream, request, parts.old) if parts.old else ""
        shorter = with_summary(parts, summary)
        if summary and estimate_size(shorter) >= estimate_size(self.messages):
            stream.publish(Notice("warning", f"{_NOT_SUMMARISED} the summary was no shorter."))
        elif summary:
            self.messages = shorter
            about = {"summary": summary, "from": self._said - len(parts.recent)}
            self._tell(
                stream,
                f"{plural(sum(map(starts_turn, parts.old)), 'earlier turn')} summarised",
                before,
                about,
            )
        return self.size < before

    def _tell(self, stream: Stream, what: str, before: int, about: Mapping[str, Any] | None = None) -> None:
        words = f"{what}: about {before:,} tokens became {self.size:,}."
        stream.publish(Notice(COMPACTED, words, about or {}))

    async def _summary(self, stream: Stream, request: Request, old: Sequence[Message]) -> str:
        """What the model makes of earlier turns; "" where it makes nothing, twice."""
        room = int((self.compact.window or self.compact.limit or _ROOM) * _ROOM_SHARE / self.scale.factor)
        asked = Request(request.model, (summary_request(old, room),), max_tokens=_SUMMARY)
        for _ in range(2):
            turn = self.send(asked)
            stream.extra_calls.append(turn)
            try:
                await turn.wait_end_async()
            except asyncio.CancelledError:
                turn.cancel()
                raise
            said = turn.partial()
            if turn.error is None and said.text.strip() and not said.tool_calls:
                return said.text
        why = turn.error.message.rstrip(".") if turn.error else "the model wrote none"
        stream.publish(Notice("warning", f"{_NOT_SUMMARISED} {why}."))
        return ""

    # --- a turn's calls ---

    async def _run_calls(self, stream: Stream, calls: Sequence[ToolCall], *, cut: bool) -> list[ToolEnded]:
        """One ToolEnded for each, in their order; told to the stream as they end. Stopped, it tells of
        all."""
        planned = [plan(c, self.known, self._seen, cut=cut and c is calls[-1]) for c in calls]
        try:
            await self._ask_all(stream, planned)
            for p in planned:
                if p.ended is not None:
                    self._publish(stream, p, p.ended)
            await self._run_all(stream, [p for p in planned if p.ended is None])
        except BaseException:
            for p in planned:
                self._stop(stream, p)
            raise
        return [p.ended for p in planned if p.ended is not None]

    def _stop(self, stream: Stream, p: _Planned) -> None:
        if p.ended is None:
            ran = "stopped by the user while it ran: whether it took effect is not known"
            stream.publish(p.end("stopped", "not run: the user stopped" if p.began is None else ran))

    async def _ask_all(self, stream: Stream, planned: Sequence[_Planned]) -> None:
        asked = [p for p in planned if p.ended is None and self._must_ask(p)]
        for i, p in enumerate(asked):
            if p.call.name in self._allowed:
                continue
            answer = await self._asked(stream, p, i + 1, len(asked))
            if answer == "always":
                self._allowed.add(p.call.name)
            elif answer != "once":
                p.end("refused", answer)

    def _must_ask(self, p: _Planned) -> bool:
        return self.approve != "auto" and not (p.tool is not None and p.tool.reads)

    async def _asked(self, stream: Stream, p: _Planned, number: int, of: int) -> str:
        """ "once", "always", or why not."""
        asker = self.approve if callable(self.approve) else self.ask or at_terminal
        if self.approve == "never" or p.tool is None:
            return self._nobody(stream, p, "approve=never")
        call, change = replace(p.call, arguments=deepcopy(p.call.arguments)), await self._change(p)
        question = Question(call, p.tool, number, of, change)
        answer, error = await stream.run_on_reader(lambda: asker(question), prompts_user=True)
        if error is not None:
            why = self._masked(str(error))
            stream.publish(Notice("tools", f"{p.call.name} was not run: asking failed ({why})."))
            return "not run: the user could not be asked"
        if answer is None:
            return self._nobody(stream, p, "nobody could answer")
        word = ("no", "once")[answer] if isinstance(answer, bool) else answer
        if isinstance(word, str) and word in ("once", "always"):
            return str(word)
        if not isinstance(word, str) or word != "no":
            words = "approve gave neither once, always, no, True nor False"
            stream.publish(Notice("tools", f"{p.call.name} was not run: {words}."))
        return "refused: the user said no to this call"

    def _nobody(self, stream: Stream, p: _Planned, why: str) -> str:
        words = f"{p.call.name} was not run: {why} (approve=auto runs without asking)."
        stream.publish(Notice("tools", words))
        return f"not run: the user allows no such call here ({why})"

    async def _run_all(self, stream: Stream, planned: Sequence[_Planned]) -> None:
        """What waits for others together; functions and what changes something in their order, beside
        that."""
        away = [
            asyncio.create_task(self._away(stream, p))
            for p in planned
            if p.tool and p.tool.where == "engine" and p.tool.change is None
        ]
        try:
            for p in planned:
                if p.tool and p.tool.where == "here":
                    await self._here(stream, p)
                elif p.tool and p.tool.change is not None:
                    await self._away(stream, p)
            await asyncio.gather(*away)
        finally:
            for task in away:
                task.cancel()

    def _begin(self, stream: Stream, p: _Planned) -> None:
        p.began = time.perf_counter()
        stream.publish(ToolStarted(p.call.id, p.call.name))

    async def _here(self, stream: Stream, p: _Planned) -> None:
        tool = p.tool
        assert tool is not None

        def work() -> Any:
            p.began = time.perf_counter()  # before that it waited for its reader
            value = tool.call(p.arguments)
            return later(value) if hasattr(value, "__await__") else done(value)

        def done(value: Any) -> Any:
            p.took = time.perf_counter() - (p.began or 0.0)
            return _content(value, tool.budget)

        async def later(value: Any) -> Any:
            try:
                async with asyncio.timeout(tool.timeout) as clock:
                    return done(await value)
            except TimeoutError:
                if not clock.expired():
                    raise
                return p.late(tool.timeout)

        change = await self._change(p)
        self._begin(stream, p)
        told, error = await stream.run_on_reader(work)
        ended = p.ended or (p.give(told) if error is None else p.end("failed", error))
        await self._end(stream, p, ended, change)

    async def _away(self, stream: Stream, p: _Planned) -> None:
        tool = p.tool
        assert tool is not None
        change = await self._change(p)
        self._begin(stream, p)
        limit = TIMEOUT if tool.timeout is None else tool.timeout
        try:
            async with asyncio.timeout(limit) as clock:
                ended = p.give(_content(await tool.call(p.arguments), tool.budget))
        except BaseException as exc:
            if is_cancelled():
                raise
            own = isinstance(exc, TimeoutError) and clock.expired()
            ended = p.late(limit) if own else p.end("failed", as_exception(exc))
        await self._end(stream, p, ended, change)

    async def _end(self, stream: Stream, p: _Planned, ended: ToolEnded, change: Change | None) -> None:
        await self._note(ended, change)
        self._publish(stream, p, ended)

    def _publish(self, stream: Stream, p: _Planned, ended: ToolEnded) -> None:
        """Tells what a call came to, without secrets: code reads the environment, files hold keys."""
        p.ended = replace(ended, result=_masked(ended.result, self._masked))
        stream.publish(p.ended)

    def _masked(self, text: str) -> str:
        self._mask = self._mask or scrubber(self.secrets())
        return self._mask(text)

    # --- what tools change ---

    async def _change(self, p: _Planned) -> Change | None:
        """What a call would change now; None where that cannot be known."""
        find = p.tool.change if p.tool is not None else None
        if find is None:
            return None
        try:
            async with asyncio.timeout(_LOOK):
                found: Change | None = await settled(await asyncio.to_thread(find, p.arguments))
                return found
        except Exception:  # noqa: BLE001 - the call itself will say what is wrong with it
            return None

    async def _note(self, ended: ToolEnded, change: Change | None) -> None:
        """Keeps a change that was made, so that it can be taken back."""
        if change is None or ended.outcome != "ran":
            return
        told = ended.result.content
        with suppress(Exception):
            async with asyncio.timeout(_LOOK):
                if not await settled(change.holds(told)):
                    return
        self._number = self._number or self.journal.begin()
        self.journal.add(Made(change, told, self._number))
        self._changed.append(change.what)

    def _list_changes(self, stream: Stream) -> None:
        if self._changed:
            words = f"Changed: {', '.join(self._changed)} (`%llm undo` takes it back)."
            stream.publish(Notice("tools", words))

    def _take_up(self, stream: Stream, done: list[ToolEnded]) -> None:
        """Gives the last turn's open calls what they came to."""
        turn, told = self.messages[-2:]
        calls = [p for p in turn.parts if isinstance(p, ToolCall)]
        results = match_results(calls, [*(e.result for e in done), *told.parts])
        self.messages = (*self.messages[:-1], Message("tool", results))
        stream.publish(StepEnded(0))


async def _opened(given: Sequence[Given]) -> list[Usable | Tool]:
    """The tools themselves, those of sets among them, in the order given."""

    async def open_(tool: Given) -> Sequence[Usable | Tool]:
        return [tool] if isinstance(tool, (Usable, Tool)) else await tool.usables()

    return [u for found in await asyncio.gather(*map(open_, given)) for u in found]


def _content(value: Any, budget: int) -> Any:
    """What a tool gave, as its result holds it; one that is a result already stays."""
    return value if isinstance(value, ToolResult) else content(value, budget)


def _masked(result: ToolResult, mask: Callable[[str], str]) -> ToolResult:
    told = result.content
    if isinstance(told, str):
        return replace(result, content=mask(told))
    return replace(
        result, content=tuple(replace(p, text=mask(p.text)) if isinstance(p, Text) else p for p in told)
    )


def _with(result: ToolResult, words: str) -> ToolResult:
    said = result.content
    return replace(result, content=said + words if isinstance(said, str) else (*said, Text(words)))


def _open(history: tuple[Message, ...], given: Sequence[Message]) -> list[ToolCall]:
    """The calls of the last turn that had no result when the conversation was given."""
    if len(history) < 2 or history[-1].role != "tool":
        return []
    had = {p.id for m in given for p in m.parts if isinstance(p, ToolResult)}
    return [p for p in history[-2].parts if isinstance(p, ToolCall) and p.id not in had]


def _forward(turn: Stream, stream: Stream, place: int, end: Finished) -> tuple[int, Finished]:
    """Hands on what is new of a turn, but its end: (how much there is now, the end so far)."""
    for at, event in turn.log[place:]:
        place += 1
        if isinstance(event, Finished):
            end = event
        else:
            stream.publish(event, at)
    return place, end


@dataclass(frozen=True, slots=True)
class ToolUse:
    """The tools of a call and how they may be used."""

    given: tuple[Given, ...]
    limits: Limits
    approve: Approve
    compact: CompactionPolicy = field(default_factory=CompactionPolicy)
    strict: bool | None = None

    @classmethod
    def of(
        cls,
        spec: CallSpec,
        connections: Connections,
        sets: Sets | None = None,
        window: Callable[[], int | None] = lambda: None,
    ) -> ToolUse:
        """From the options of a call, whose budget is that of its turns; `connections` are those that HTTP
        tools use, `sets` knows MCP servers. Raises ConfigError for what is none of theirs, and for options of
        tools without a tool that runs."""
        found = tools(() if spec.tools is None else spec.tools, connections, sets)
        approve = checked_approve(spec.approve)
        limits = Limits(MAX_STEPS if spec.max_steps is None else spec.max_steps, spec.budget)
        runs = any(not isinstance(t, Tool) for t in found)  # and not only a description
        wanted = "auto" if spec.compact is None and runs else spec.compact
        if wanted == "auto":
            when = CompactionPolicy(enabled=True, find_window=window)
        else:
            when = CompactionPolicy.of(wanted, None if wanted in (None, "off") else window())
        name = next((n for n in ("max_steps", "approve") if getattr(spec, n) is not None), None)
        if name is not None and not runs:
            raise ConfigError(
                f"{name} is for tools that run, and there is none.", hint="Give tools=[function]."
            )
        if spec.strict is not None and not found and spec.schema is None:
            raise ConfigError(
                "strict is for tools and schemas, and there is neither.",
                hint="Give tools=[function], or schema=.",
            )
        return cls(found, limits, approve, when, spec.strict)

    def asked(self, request: Request) -> Request:
        """A request for tools without code. Raises ConfigError for a tool_choice that names none of them."""
        choice = chosen(request.tool_choice, [t.name for t in request.tools])
        return replace(request, tool_choice=choice)

    @property
    def works(self) -> bool:
        """Whether any of the tools runs here."""
        return any(not isinstance(t, Tool) for t in self.given)

    @property
    def runs(self) -> bool:
        """Whether any of the tools runs here, or the conversation may be shortened, so that there is a
        loop."""
        return self.compact.enabled or self.works

    @property
    def told(self) -> tuple[Tool, ...]:
        """What the model is told of the tools that are known before sets are opened."""
        return _told(self._unique(t for t in self.given if isinstance(t, (Usable, Tool))))

    def _unique(self, tools: Iterable[Usable | Tool]) -> Mapping[str, Usable | Tool]:
        """The tools by the names that the model is told, held to their schemas where the call says so."""
        return unique(tools if self.strict is None else (_held(t, self.strict) for t in tools))

    async def run(
        self,
        stream: Stream,
        request: Request,
        send: Callable[[Request], Stream],
        ask: Asker | None,
        scale: Scale,
        *,
        journal: Journal,
        secrets: Callable[[], Iterable[str]],
    ) -> None:
        """Answers `request` into `stream`, with all tools; `journal` keeps what they change, `secrets` are
        what no result may hold."""
        known = self._unique(await _opened(self.given))
        for note in [n for t in self.given for n in getattr(t, "notes", ())]:
            stream.publish(Notice("tools", note))
        code = {n: t for n, t in known.items() if isinstance(t, Usable)}
        plain = frozenset(known) - frozenset(code)
        agent = Agent(
            code,
            send,
            self.approve,
            ask,
            self.limits,
            plain,
            self.compact,
            scale,
            secrets=secrets,
            journal=journal,
        )
        choice = chosen(request.tool_choice, known)
        await agent.run(stream, replace(request, tools=_told(known), tool_choice=choice))


def _held(tool: Usable | Tool, strict: bool) -> Usable | Tool:
    if isinstance(tool, Usable):
        return replace(tool, tool=replace(tool.tool, strict=strict))
    return replace(tool, strict=strict)


def _told(known: Mapping[str, Usable | Tool]) -> tuple[Tool, ...]:
    return tuple(t.tool if isinstance(t, Usable) else t for t in known.values())
