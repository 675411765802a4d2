"""Runs of a question: sends it to every contestant, follows the answers to their end, stores the results.

Theory. A Run is a question with one or several streams. A cell, a background cell, the chat panel and a
function made by def= use the same Run with different painters and on different threads. `follow` is the loop
over it, `build_outcome` turns a finished stream into an outcome, `store_results` puts outcomes into variables
and the conversation. Answers are stored first and processed afterwards: no later failure can lose an answer.

While a cell streams, SIGINT (the Stop button, Ctrl-C) does not raise an exception in the running code: it
asks the engine to cancel the calls, which closes their sockets, and the loop ends a few milliseconds later
with everything that had arrived. A second SIGINT raises as usual, in case something hangs.
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

FRAME_SECONDS = 0.05  # seconds between two polls of the logs while they grow: 20 frames a second
_TICK_SECONDS = 0.1  # seconds between two polls while nothing arrives; updates the clock in the status line


class GuardedPainter(RunObserver):
    """Protects answers from failures of a painter: after an exception nothing more is drawn, except that the
    final form is tried once, and its plain text if that fails too."""

    def __init__(self, painter: Painter) -> None:
        self._painter, self._works = painter, True

    def _draw_safely(self, draw: Callable[..., Any], *args: Any) -> None:
        if self._works:
            try:
                draw(*args)
            except Exception:  # noqa: BLE001 - whatever a renderer or a front end's channel raises
                self._works = False

    def start(self) -> None:
        """See Painter.start."""
        self._draw_safely(self._painter.start)

    def feed(self, column: int, event: Event) -> None:
        """See RunObserver.feed."""
        self._draw_safely(self._painter.feed, column, event)

    def tick(self, now: float) -> None:
        """See RunObserver.tick."""
        self._draw_safely(self._painter.tick, now)

    def flush(self, now: float) -> None:
        """See RunObserver.flush."""
        self._draw_safely(self._painter.flush, now)

    def column_ended(self, column: int) -> None:
        """See RunObserver.column_ended."""
        self._draw_safely(self._painter.column_ended, column)

    def finish(self, outcomes: Sequence[Outcome]) -> NbllmError | None:
        """See Painter.finish; returns the error if that failed."""
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
    """A question and its answers, in the order of its contestants. `streams` holds the error in place of a
    stream that could not start. send: sends a question to a contestant."""

    question: Question
    contestants: tuple[Contestant, ...]
    send: Callable[[Question, Contestant], Stream]
    states: list[AnswerState]
    streams: list[Stream | NbllmError] = field(default_factory=list)
    outcomes: list[Outcome | None] = field(default_factory=list)
    first_outcomes: dict[int, Outcome] = field(
        default_factory=dict
    )  # by column: the first answer, if a repair was requested
    stopped: bool = False
    actions_id: str = ""  # the id of the element for the buttons below the answer
    is_interruptible: bool = False  # a user's function runs: an interrupt must reach it

    @classmethod
    def of(cls, question: Question, send: Callable[[Question, Contestant], Stream]) -> Run:
        """A run that is not started."""
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
        """Sends the question to all contestants. An error with one of several contestants does not stop the
        others; raises ConfigError if all of them fail."""
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
        """Whether every answer has ended."""
        return all(self.outcomes) and bool(self.outcomes)

    def cancel(self, wait: float = 0.0) -> None:
        """Cancels the answers that are still arriving and waits at most `wait` seconds for their end; what
        had arrived is kept. Callable from any thread."""
        self.stopped = True
        running = [s for s in self.streams if isinstance(s, Stream)]
        for stream in running:
            stream.cancel()
        for stream in running if wait else ():
            stream.wait_end(wait)

    def stop(self, column: int) -> None:
        """Cancels the answer of one column."""
        stream = self.streams[column]
        if isinstance(stream, Stream):
            stream.cancel()

    def close_column(self, column: int) -> bool:
        """Stores the outcome of a column whose stream has ended. Returns False if the column continues: an
        answer that does not fit the schema is requested once more, with the problems named. If the second
        request fails, the first answer stays."""
        stream = self.streams[column]
        outcome = build_outcome(self.question, self.contestants[column].label, stream)
        first = self.first_outcomes.get(column)
        if first is not None and not (
            (not outcome.response.empty and outcome.error is None) or isinstance(outcome.error, Mismatch)
        ):
            error = outcome.error or first.error
            assert error is not None  # it was stored because of its error
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
        """Sends the question again with the problems of the first answer; False if it cannot be sent."""
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
        self.states[column].restart("The answer does not fit the schema; asking again.")
        return True

    def fail(self, cause: BaseException) -> None:
        """Ends all open columns after an unexpected exception; what had arrived is kept."""
        for i, outcome in enumerate(self.outcomes):
            if outcome is None:
                raw = _raw_outcome(self.contestants[i].label, self.streams[i])
                problem = AnswerProcessingError(
                    f"The answer could not be finished: {error_line(cause)}",
                    partial=raw.response,
                    hint="The partial answer is in _llm and in the error's .partial.",
                )
                self.outcomes[i] = replace(raw, error=raw.error or problem)

    def result(self, before: Sequence[Outcome] = ()) -> Response | Comparison:
        """The response of a single contestant, otherwise the comparison of all answers, after those of
        `before`."""
        outcomes = (*before, *self.settled_outcomes())
        if len(outcomes) == 1:
            return outcomes[0].response
        return Comparison(outcomes, self.question.text, self.question.format)

    @property
    def error(self) -> NbllmError | None:
        """The error of the run: the first one, if no contestant has answered successfully."""
        failed = [o.error for o in self.settled_outcomes() if o.error is not None]
        return failed[0] if len(failed) == len(self.streams) else None

    def settled_outcomes(self) -> list[Outcome]:
        """The outcomes of all columns, also of those that were not closed."""
        for i, stream in enumerate(self.streams):
            self.outcomes[i] = self.outcomes[i] or _raw_outcome(self.contestants[i].label, stream)
        return [o for o in self.outcomes if o is not None]


# --- following ---


@contextmanager
def stop_on_interrupt(run: Run) -> Iterator[None]:
    """Inside the block, SIGINT cancels the run instead of raising. It raises the second time, and while a
    user's function runs. Signals reach only the main thread; on other threads this does nothing."""
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
        )  # None: the handler was not set from Python


def follow(run: Run, painter: RunObserver) -> None:
    """Passes the run's events to `painter` until the last answer has ended. Callable from any thread."""
    positions = [0] * len(run.streams)
    while True:
        waiting = [  # checked before the logs, so that events before a prompt are read first
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
    """As follow, but an exception, also SystemExit, ends the run and is stored as its error: on a background
    thread nobody would see it, and waiting threads would wait forever."""
    try:
        follow(run, painter)
    except BaseException as error:  # noqa: BLE001
        run.cancel()
        run.fail(error)


def start_thread(name: str, work: Callable[..., None], *arguments: Any) -> threading.Thread:
    """Runs `work` on a new thread whose output belongs to the running cell."""
    thread = threading.Thread(
        target=copy_context().run, args=(work, *arguments), name=f"nbllm-{name}", daemon=True
    )
    thread.start()
    return thread


def _read_column(run: Run, column: int, positions: list[int], painter: RunObserver) -> bool:
    """Reads the new events of a column; returns whether it has ended."""
    stream = run.streams[column]
    if isinstance(stream, Stream):
        ended = stream.done  # read before the log: later events are read at the next poll
        for at, event, count in merge_events(stream.log[positions[column] :]):
            positions[column] += count
            with suppress(Exception):  # a failure to draw does not lose the event: the answer has it
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
    """Waits for something to draw: the first text at once, an end, the next frame, work for this thread."""
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


# --- outcomes ---


def build_outcome(question: Question, label: str, stream: Stream | NbllmError) -> Outcome:
    """The outcome of a stream that has ended. An error in processing the answer becomes the outcome's
    error."""
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
    """(the answer converted by as=, the error if it does not fit the schema)."""
    target = question.options.get("as")
    try:
        value = parse_answer(response, shape, target)
    except NbllmError as problem:
        return None, problem
    return (None if target is None else value), None


# --- storing ---


TurnAppender = Callable[[Outcome], None]  # appends an answer to a conversation


def store_results(
    session: Session,
    run: Run,
    out: str | None = None,
    *,
    before: Sequence[Outcome] = (),
    expected: Mapping[str, Any] | None = None,
) -> Response | Comparison:
    """Stores the results in the notebook: `_llm`, the variable `out`, the last question; returns the value of
    the cell. before: columns that stand first. expected: for a background answer, the values that the
    variables must still have; a variable that the user has reassigned is left alone."""
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
    """Passes the answer that continues the conversation to `append`: the first that fits the schema and was
    not stopped; a stopped one counts if its tools have run, since the model must know what they did.
    Returns the error if that fails."""
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
    """(the question with the history of its conversation, the function that appends the answer)."""
    name = question.options.get("chat")
    if name is None:
        return question, None
    chat, place = session.chats.open(str(name)), session.origin
    return replace(question, history=chat.history_before(place)), lambda found: chat.append(
        Turn(place, question.message, found.response)
    )
