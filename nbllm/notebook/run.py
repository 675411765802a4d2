"""One question on its way: sent to everyone who is asked, followed until the last has answered, settled in
the notebook.

Theory. A Run is a question with its streams, one or several; a cell, a background cell, the chat panel and a
function made by def= are the same Run with another painter and on another thread. `follow` is the loop over
it, `outcome` says what came of a stream, `settle` puts that into variables and the conversation. What has
come is kept first and looked at after: nothing that fails once an answer is there can lose it.

While a cell streams, SIGINT (the Stop button, Ctrl-C) does not raise in the middle of whatever runs: it asks
the engine to cancel the calls, which closes their sockets, and the loop ends by itself a few milliseconds
later with all that had come. A second SIGINT raises as usual, should something ever hang.
"""

from __future__ import annotations

import json
import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from contextvars import copy_context
from dataclasses import dataclass, field, replace
from types import FrameType
from typing import Any

from ..client.stream import Stream
from ..core.errors import AnswerProcessingError, Mismatch, NbllmError, error_line, processing_answer
from ..core.events import Event, Response
from ..core.messages import Text
from ..core.schema import Shape, parse_answer, repair_prompt
from ..store.budgets import Budget
from .assertions import check_response
from .chats import Turn
from .comparison import Comparison
from .question import Contestant, Question, spending_limits
from .session import Session
from .view.outcome import Outcome, Painter, RunObserver
from .view.state import AnswerState, merge_events
from .view.static import answer_footer, error_lines, render_data_frame

FRAME_SECONDS = 0.05  # seconds between two looks at the logs while they grow: 20 frames a second
_TICK_SECONDS = 0.1  # seconds between two looks while nothing comes, for the clock in the status line


class GuardedPainter(RunObserver):
    """A painter whose failures end the drawing, never an answer on its way: `painter` draws until that fails,
    and the final form is tried again, its text alone where that fails too."""

    def __init__(self, painter: Painter) -> None:
        self._painter, self._works = painter, True

    def _draw_safely(self, draw: Callable[..., Any], *args: Any) -> None:
        if self._works:
            try:
                draw(*args)
            except Exception:  # noqa: BLE001 - whatever a renderer or a front end's channel raises
                self._works = False

    def start(self) -> None:
        """As Painter.start."""
        self._draw_safely(self._painter.start)

    def feed(self, column: int, event: Event) -> None:
        """As Painter.feed."""
        self._draw_safely(self._painter.feed, column, event)

    def tick(self, now: float) -> None:
        """As Painter.tick."""
        self._draw_safely(self._painter.tick, now)

    def flush(self, now: float) -> None:
        """As Painter.settle."""
        self._draw_safely(self._painter.flush, now)

    def column_ended(self, column: int) -> None:
        """As Painter.ended."""
        self._draw_safely(self._painter.column_ended, column)

    def finish(self, outcomes: Sequence[Outcome]) -> NbllmError | None:
        """As Painter.finish; gives what went wrong."""
        try:
            with processing_answer(outcomes[-1].response, "showing it"):
                self._painter.finish(outcomes)
        except NbllmError as problem:
            self._works = True
            texts = [
                f"## {o.label}\n\n{o.response.text}" if len(outcomes) > 1 else o.response.text
                for o in outcomes
            ]
            self._draw_safely(self._painter.give_up, "\n\n".join([*texts, error_lines(problem)]))
            return problem
        return None


@dataclass(slots=True)
class Run:
    """A question and its answers, in the order of its contestants. A stream that could not begin is the error
    that says why. send: sends a question to a contestant."""

    question: Question
    contestants: tuple[Contestant, ...]
    send: Callable[[Question, Contestant], Stream]
    states: list[AnswerState]
    streams: list[Stream | NbllmError] = field(default_factory=list)
    outcomes: list[Outcome | None] = field(default_factory=list)
    first_outcomes: dict[int, Outcome] = field(
        default_factory=dict
    )  # by column, the first answer where it was asked for once more
    stopped: bool = False
    actions_id: str = ""  # the id of where what can be done with the answer stands
    is_interruptible: bool = False  # a function of the user's runs: an interrupt must reach it

    @classmethod
    def of(cls, question: Question, send: Callable[[Question, Contestant], Stream]) -> Run:
        """A run that has not begun."""
        limits = spending_limits(question.options)
        question = replace(question, budget=Budget.of(limits) if limits else None)
        contestants, now = question.contestants, time.perf_counter()
        return cls(
            question,
            contestants,
            send,
            [
                AnswerState(c.label, now, question.format, show_reasoning=question.show_reasoning)
                for c in contestants
            ],
        )

    def begin(self) -> Run:
        """Sends the question to all. What is wrong with one of several on this side must not keep the others
        from answering; raises ConfigError where it is wrong with the only one, or with all."""
        for state, contestant in zip(self.states, self.contestants, strict=True):
            state.began = time.perf_counter()
            self.streams.append(stream := self._send_to(contestant))
            state.began = stream.called_at if isinstance(stream, Stream) else state.began
        self.outcomes = [None] * len(self.streams)
        if (failed := [s for s in self.streams if isinstance(s, NbllmError)]) and len(failed) == len(
            self.streams
        ):
            raise failed[0]
        return self

    def _send_to(self, contestant: Contestant) -> Stream | NbllmError:
        try:
            return self.send(self.question, contestant)
        except NbllmError as error:
            return error

    @property
    def done(self) -> bool:
        """Whether every answer is over."""
        return all(self.outcomes) and bool(self.outcomes)

    def cancel(self, wait: float = 0.0) -> None:
        """Stops what still comes, and waits at most `wait` seconds for its end; what came stays. Any
        thread."""
        self.stopped = True
        running = [s for s in self.streams if isinstance(s, Stream)]
        for stream in running:
            stream.cancel()
        for stream in running if wait else ():
            stream.wait_end(wait)

    def stop(self, column: int) -> None:
        """Stops one answer."""
        stream = self.streams[column]
        if isinstance(stream, Stream):
            stream.cancel()

    def close_column(self, column: int) -> bool:
        """Notes what came of a column whose stream has ended. False where it goes on: a structured answer
        that does not fit is asked for once more, with what is wrong about it, in the same place. A second one
        that does not come leaves the first."""
        stream = self.streams[column]
        outcome = build_outcome(self.question, self.contestants[column].label, stream)
        first = self.first_outcomes.get(column)
        if first is not None and not (
            (not outcome.response.empty and outcome.error is None) or isinstance(outcome.error, Mismatch)
        ):
            error = outcome.error or first.error
            assert error is not None  # the first one had one
            error.partial = first.response
            outcome = replace(first, error=error)
        elif (
            first is None
            and isinstance(outcome.error, Mismatch)
            and not self.stopped
            and self._request_repair(column, outcome, outcome.error)
        ):
            return False
        self.outcomes[column] = outcome
        self.states[column].ended = stream.ended_at if isinstance(stream, Stream) else time.perf_counter()
        return True

    def _request_repair(self, column: int, first: Outcome, mismatch: Mismatch) -> bool:
        """Sends the question once more with what was wrong; False where it cannot be sent."""
        self.first_outcomes[column] = first
        q = self.question
        repair_question = replace(
            q,
            parts=(Text(repair_prompt(mismatch.problems)),),
            history=(*q.history, q.message, first.response.message),
        )
        try:
            self.streams[column] = self.send(repair_question, self.contestants[column])
        except NbllmError:
            return False
        self.states[column].restart("The answer does not fit the schema; it is asked for once more.")
        return True

    def fail(self, cause: BaseException) -> None:
        """Ends the columns that are still open because of something that nobody expected; what came stays."""
        for i, outcome in enumerate(self.outcomes):
            if outcome is None:
                raw = _raw_outcome(self.contestants[i].label, self.streams[i])
                problem = AnswerProcessingError(
                    f"The answer could not be finished: {error_line(cause)}",
                    partial=raw.response,
                    hint="What came is in _llm and in the error's .partial.",
                )
                self.outcomes[i] = replace(raw, error=raw.error or problem)

    def result(self, before: Sequence[Outcome] = ()) -> Response | Comparison:
        """The response of the one who was asked, or the comparison of several and of those that stand before
        them."""
        outcomes = (*before, *self.settled_outcomes())
        if len(outcomes) == 1:
            return outcomes[0].response
        return Comparison(outcomes, self.question.text, self.question.format)

    @property
    def error(self) -> NbllmError | None:
        """What makes the whole run a failure: the first error, where nobody has answered well."""
        failed = [o.error for o in self.settled_outcomes() if o.error is not None]
        return failed[0] if len(failed) == len(self.streams) else None

    def settled_outcomes(self) -> list[Outcome]:
        """What came of every column, also of those that nobody has looked at yet."""
        for i, stream in enumerate(self.streams):
            self.outcomes[i] = self.outcomes[i] or _raw_outcome(self.contestants[i].label, stream)
        return [o for o in self.outcomes if o is not None]


# --- following ---


@contextmanager
def stop_on_interrupt(run: Run) -> Iterator[None]:
    """Within, SIGINT stops the run instead of raising; the second one raises, and one that comes while a
    function of the user's runs, which is broken off by it. Only the main thread gets
    signals: elsewhere KeyboardInterrupt, if it ever comes, passes through."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def on_signal(number: int, frame: FrameType | None) -> None:
        again = run.stopped or run.is_interruptible
        run.cancel()
        if again:
            raise KeyboardInterrupt

    before = signal.signal(signal.SIGINT, on_signal)
    try:
        yield
    finally:
        signal.signal(
            signal.SIGINT, before if before is not None else signal.SIG_DFL
        )  # None: it was not set from Python


def follow(run: Run, painter: RunObserver) -> None:
    """Shows the run's events in `painter` until the last answer is over. Any thread."""
    positions = [0] * len(run.streams)
    while True:
        waiting = [  # looked at before the logs: what came before a question is read then
            i for i, s in enumerate(run.streams) if isinstance(s, Stream) and s.has_reader_tasks
        ]
        live = [
            i
            for i in range(len(run.streams))
            if run.outcomes[i] is None and not _read_column(run, i, positions, painter)
        ]
        if not live:
            return
        painter.tick(time.perf_counter())
        for column in waiting:
            _run_reader_tasks(run, column, painter)
        if not waiting:
            _wait(run, live, positions)


def follow_safely(run: Run, painter: RunObserver) -> None:
    """As follow; what breaks that off ends the run, and what came stays. Even SystemExit: nobody else would
    tell, and who waits for the run would wait for ever."""
    try:
        follow(run, painter)
    except BaseException as error:  # noqa: BLE001
        run.cancel()
        run.fail(error)


def start_thread(name: str, work: Callable[..., None], *arguments: Any) -> threading.Thread:
    """Does `work` on a thread of its own, whose outputs belong to the cell that runs now."""
    thread = threading.Thread(
        target=copy_context().run, args=(work, *arguments), name=f"nbllm-{name}", daemon=True
    )
    thread.start()
    return thread


def _read_column(run: Run, column: int, positions: list[int], painter: RunObserver) -> bool:
    """Takes over what is new in a column; whether it is over."""
    stream = run.streams[column]
    if isinstance(stream, Stream):
        ended = stream.done  # before the log is read: what comes after is seen at the next look
        for at, event, count in merge_events(stream.log[positions[column] :]):
            positions[column] += count
            with suppress(Exception):  # what cannot be drawn while it comes is in the answer all the same
                run.states[column].feed(event, at, count)
                painter.feed(column, event)
        if not ended or positions[column] < len(stream.log):
            return False
    if not run.close_column(column):
        positions[column] = 0
        return False
    painter.column_ended(column)
    return True


def _wait(run: Run, live: list[int], positions: list[int]) -> None:
    """Until something is worth a look: the first words at once, an end, a frame's time, work for this
    thread."""
    stream = run.streams[live[0]]
    if not isinstance(stream, Stream):
        return
    begun = all(run.states[i].characters for i in live)
    if len(live) > 1:
        stream.wait_end(FRAME_SECONDS if begun else FRAME_SECONDS / 2, or_task=True)
    elif stream.wait(positions[live[0]], _TICK_SECONDS, run_tasks=False) and begun and not stream.done:
        stream.wait_end(FRAME_SECONDS, or_task=True)


def _run_reader_tasks(run: Run, column: int, painter: RunObserver) -> None:
    """Does what a call asks of its reader: questions to the user, functions of the notebook. An interrupt
    breaks off what runs, and stops the run."""
    stream = run.streams[column]
    assert isinstance(stream, Stream)  # it has errands
    if stream.prompts_user:
        painter.flush(time.perf_counter())
    run.is_interruptible = True
    try:
        stream.run_reader_tasks()
    except KeyboardInterrupt:
        run.cancel()
    finally:
        run.is_interruptible = False


# --- what came of it ---


def build_outcome(question: Question, label: str, stream: Stream | NbllmError) -> Outcome:
    """What came of a stream that has ended. What fails with an answer in hand is the outcome's error."""
    found = _raw_outcome(label, stream)
    if isinstance(stream, NbllmError):
        return found
    value, error, response = None, found.error, found.response
    if error is None and question.shape is not None and response.finish_reason != "cancelled":
        value, error = _convert(question, question.shape, response)
    if (asserts := question.options.get("asserts")) and not response.empty:
        response = check_response(response, asserts, question.text)
        last = stream.turns[-1] if stream.turns else stream
        if last.add_to_row is not None:
            last.add_to_row({"checks": json.dumps(dict(response.checks))})
    table = None
    if question.options.get("as") == "df" and value is not None:
        with (
            suppress(NbllmError),
            processing_answer(response, "showing it as a table"),
        ):  # the text is shown instead
            table = render_data_frame(value)
    figures, notes = (
        answer_footer(
            response,
            filled=question.filled,
            attached=question.attached,
            unfilled=question.unfilled,
            figures=f,
        )
        for f in (True, False)
    )
    return Outcome(label, response, value, error, figures, table, question.show_reasoning, notes)


def _raw_outcome(label: str, stream: Stream | NbllmError) -> Outcome:
    if isinstance(stream, NbllmError):
        return Outcome(label, Response(), error=stream)
    error, response = stream.error, stream.partial()
    if error is not None:
        error.partial = response if error.partial is None else error.partial
    return Outcome(label, response, error=error)


def _convert(question: Question, shape: Shape, response: Response) -> tuple[Any, NbllmError | None]:
    """(what as= makes of an answer, what is wrong with its shape)."""
    target = question.options.get("as")
    try:
        value = parse_answer(response, shape, target)
    except NbllmError as problem:
        return None, problem
    return (None if target is None else value), None


# --- settling ---


TurnAppender = Callable[[Outcome], None]  # adds an answer to a conversation


def store_results(
    session: Session,
    run: Run,
    out: str | None = None,
    *,
    before: Sequence[Outcome] = (),
    expected: Mapping[str, Any] | None = None,
) -> Response | Comparison:
    """Puts what came into the notebook: `_llm`, the variable `out`, the last question. before: columns that
    stand first. held: what those names hold where the answer came in the background; one that the user has
    given another value meanwhile is left alone. Gives the value of the cell."""
    outcomes = (*before, *run.settled_outcomes())
    result = run.result(before)
    session.last_question, session.outcomes = run.question, outcomes
    session.comparison = result if isinstance(result, Comparison) else None
    for name, value in {
        "_llm": result,
        **({out: outcomes[0].result_value if result is outcomes[0].response else result} if out else {}),
    }.items():
        if expected is None or session.namespace.get(name) is expected[name]:
            session.namespace[name] = value
    return result


def _continues_chat(outcome: Outcome) -> bool:
    response = outcome.response
    stopped = response.finish_reason == "cancelled" and not (response.before or response.results)
    return not (response.empty or stopped or isinstance(outcome.error, Mismatch))


def append_turn(run: Run, append: TurnAppender | None) -> NbllmError | None:
    """Hands the answer that a conversation goes on with to `keep`: the first that fits and was not stopped,
    or stopped when its tools had run: a model must know what they have done. Gives what goes wrong with
    that."""
    outcome = next((o for o in run.settled_outcomes() if _continues_chat(o)), None)
    if outcome is None or append is None:
        return None
    try:
        with processing_answer(outcome.response, "keeping it in the conversation"):
            append(outcome)
    except NbllmError as problem:
        return problem
    return None


def join_chat(session: Session, question: Question) -> tuple[Question, TurnAppender | None]:
    """(the question with what its conversation said before, what adds the answer to that)."""
    name = question.options.get("chat")
    if name is None:
        return question, None
    chat, place = session.chats.open(str(name)), session.origin
    return replace(question, history=chat.history_before(place)), lambda found: chat.append(
        Turn(place, question.message, found.response)
    )
