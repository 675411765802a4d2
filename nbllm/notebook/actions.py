"""The buttons below an answer: copy, edit and ask again, ask again, show the previous answer, keep.

Theory. The answer's output ends in an empty element with an id. One widget without a view serves all answers
of a kernel: its code in the page puts the buttons into the elements that it is told about. So a saved
notebook contains no buttons, and a front end without widgets shows none. The widget is created after the
first answer's cell has ended, so that no cell waits for it. A repeated answer grows in the display of the old
one, on a thread of its own; the old answer stays available by button.

Code cannot be put into a new cell from here: front ends accept that only at the end of a cell (`%llm
insert`).
"""

from __future__ import annotations

import threading
from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import Any
from uuid import uuid4

from ..core.errors import ConfigError, NbllmError
from ..core.messages import Text
from ..store import preferences
from .comms import fix_reply_channel, widget_class
from .question import Question
from .run import GuardedPainter, Run, follow_safely, start_thread, store_results
from .session import Session
from .view.frontend import KernelPort
from .view.hidden import clean
from .view.live import LivePainter
from .view.outcome import Outcome
from .view.static import render_note

_MAX_SLOTS = 50  # answers with buttons
_MAX_QUESTION = 200_000  # characters of an edited question


@dataclass(slots=True)
class _AnswerSlot:
    """An answer below a cell: its run, all answers to that question so far, and the index of the one that is
    shown. variables: the variables that hold the last answer. preference_ids: by index, the ids of kept
    answers."""

    run: Run
    out: str | None
    answers: list[tuple[Question, Outcome]]
    current: int = 0
    variables: dict[str, Any] = field(default_factory=dict)
    preference_ids: dict[int, str] = field(default_factory=dict)
    is_busy: bool = False


@dataclass(slots=True)
class Actions:
    """The buttons of one notebook's answers. Thread-safe."""

    session: Session
    slots: dict[str, _AnswerSlot] = field(default_factory=dict)
    _widget: Any = None
    _lock: Any = field(default_factory=threading.RLock)

    def offer(self, run: Run, out: str | None) -> None:
        """Adds the buttons to an answer that has just been displayed."""
        [outcome] = run.settled_outcomes()
        if not run.actions_id or outcome.is_only_error:
            return
        with self._lock:
            self.slots[run.actions_id] = slot = _AnswerSlot(run, out, [(run.question, outcome)])
            self._record_variables(slot)
            while len(self.slots) > _MAX_SLOTS:
                del self.slots[next(iter(self.slots))]
        if self._widget is not None:
            self._send_offers(run.actions_id)
        else:
            self.session.shell.kernel.io_loop.call_later(0, self._make_widget)

    def _make_widget(self) -> None:
        """Creates the widget, after the cell has ended; it sends "hello" when the page has loaded it, and
        gets all slots."""
        if self._widget is None:
            with suppress(Exception):  # a page without widgets shows no buttons
                self._widget = fix_reply_channel(widget_class("actions.js")())
                self._widget.on_msg(self._on_message)

    def close(self) -> None:
        """Removes all buttons."""
        if self._widget is not None:
            self._widget.close()

    def _record_variables(self, slot: _AnswerSlot) -> None:
        names = [name for name in (slot.out, "_llm") if name]
        slot.variables = {name: self.session.namespace.get(name) for name in names}

    # --- messages to the page ---

    def _send_offers(self, *names: str) -> None:
        offers = [self._build_offer(name, self.slots[name]) for name in names if name in self.slots]
        with suppress(Exception):  # a page that is gone
            self._widget.send({"most": _MAX_SLOTS, "offers": offers})

    def _build_offer(self, name: str, slot: _AnswerSlot) -> dict[str, Any]:
        question, outcome = slot.answers[slot.current]
        return {
            "place": name,
            "key": f"{slot.current}/{len(slot.answers)}/{slot.current in slot.preference_ids}",
            "source": clean(outcome.response.text),
            "prompt": clean(question.text),
            "again": _can_retry(question),
            "kept": slot.current in slot.preference_ids,
            "number": slot.current + 1,
            "count": len(slot.answers),
        }

    # --- messages from the page ---

    def _on_message(self, _widget: Any, message: Any, _buffers: Any) -> None:
        """Handles a message of the page. Errors are shown below the answer, never raised."""
        with suppress(Exception):
            if message.get("type") == "hello":
                self._send_offers(*self.slots)
            elif (slot := self.slots.get(str(message.get("place")))) is not None:
                _HANDLERS[str(message["type"])](self, slot, message)

    def show_answer(self, slot: _AnswerSlot, message: dict[str, Any]) -> None:
        """Shows another answer to the same question."""
        with self._lock:
            number = int(message["number"]) - 1
            if slot.is_busy or not 0 <= number < len(slot.answers):
                return
            slot.current = number
        question, outcome = slot.answers[number]
        self._draw(slot, question, outcome)

    def set_kept(self, slot: _AnswerSlot, message: dict[str, Any]) -> None:
        """Marks the displayed answer as a good one, or removes the mark."""
        with self._lock:
            number = slot.current
            question, outcome = slot.answers[number]
            try:
                if message.get("keep"):
                    ident = uuid4().hex
                    preferences.mark(
                        ident,
                        {**_preference_record(question, outcome), "over": self._rejected_labels(question)},
                    )
                    slot.preference_ids[number] = ident
                elif number in slot.preference_ids:
                    preferences.unmark(slot.preference_ids.pop(number))
            except NbllmError as error:
                self._draw(slot, question, outcome, error.message)
                return
        self._send_offers(slot.run.actions_id)

    def _rejected_labels(self, question: Question) -> list[str]:
        """The labels of the answers to the same prompt in this notebook that are not kept: those below cells,
        and those of the last comparison."""
        session = self.session
        answers: list[tuple[Question | None, Outcome]] = [
            answer
            for slot in self.slots.values()
            for number, answer in enumerate(slot.answers)
            if number not in slot.preference_ids
        ]
        answers += [(session.last_question, o) for o in session.outcomes if session.comparison]
        same_prompt = (o for q, o in answers if q and q.text == question.text and not o.is_only_error)
        return sorted({preferences.model_name(_preference_record(question, o)) for o in same_prompt})

    def retry(self, slot: _AnswerSlot, message: dict[str, Any]) -> None:
        """Asks again, with an edited prompt if the message has one; the new answer replaces the old one in
        its display."""
        question = slot.answers[slot.current][0]
        text = message.get("text")
        with self._lock:
            if slot.is_busy or not _can_retry(question):
                return
            if isinstance(text, str) and text.strip() and text != question.text:
                others = [p for p in question.parts if not isinstance(p, Text)]
                question = replace(question, parts=(Text(text[:_MAX_QUESTION]), *others), filled=())
            slot.is_busy = True
        start_thread("again", self._run_again, slot, question)

    def _run_again(self, slot: _AnswerSlot, question: Question) -> None:
        run = Run.of(question, self.session.send)
        run.actions_id = slot.run.actions_id
        problem, outcome = "", None
        try:
            run.begin()
            self.session.background_runs.append(run)
            guarded = GuardedPainter(self._painter(slot, run))
            guarded.start()
            follow_safely(run, guarded)
            self.session.background_runs.remove(run)
            outcome = run.settled_outcomes()[0]
        except NbllmError as error:
            problem = error.message
        with self._lock:
            slot.is_busy = False
            if outcome is not None and not outcome.is_only_error:
                slot.answers.append((question, outcome))
                slot.current = len(slot.answers) - 1
                store_results(self.session, run, slot.out, expected=slot.variables)
                self._record_variables(slot)
            elif outcome is not None and outcome.error is not None:
                problem = outcome.error.message
        self._draw(slot, *slot.answers[slot.current], problem)

    def _painter(self, slot: _AnswerSlot, run: Run) -> LivePainter:
        """A painter that draws in the display of the slot's answer."""
        first, port = slot.run.states[0], KernelPort(self.session.shell)
        return LivePainter(port, run.states[0], actions_id=slot.run.actions_id, display_id=first.display_id)

    def _draw(self, slot: _AnswerSlot, question: Question, outcome: Outcome, problem: str = "") -> None:
        """Draws the final form of an answer in its display, and the problem with the repeated one."""
        notes = [render_note(f"⚠ {clean(problem)} The previous answer is still shown.")] if problem else []
        with suppress(Exception):  # a page that is gone
            self._painter(slot, slot.run).finish([outcome], notes)
        self._send_offers(slot.run.actions_id)


def get_actions(session: Session) -> Actions:
    """The Actions of a notebook, created on first use."""
    if session.actions is None:
        session.actions = Actions(session)
    found: Actions = session.actions
    return found


_HANDLERS = {"show": Actions.show_answer, "keep": Actions.set_kept, "ask": Actions.retry}


def _can_retry(question: Question) -> bool:
    """Whether a question can be asked again here: not within a conversation, where later turns depend on the
    answer, and not with tools, whose prompts need a running cell."""
    return not question.options.keys() & {"chat", "tools"}


def _preference_record(question: Question, outcome: Outcome) -> dict[str, Any]:
    response = outcome.response
    return {
        "provider": response.provider,
        "model": response.model,
        "label": question.options.get("label"),
        "prompt": question.text,
        "answer": response.text,
        "simulated": response.simulated,
    }


def kept_command(session: Session, rest: str) -> Any:
    """`%llm kept`: lists the kept answers; `forget ID` removes one, `add MODEL` keeps that model's answer of
    the last comparison."""
    import pandas as pd

    word, _, ident = rest.partition(" ")
    if word == "forget" and ident:
        preferences.unmark(ident.strip())
        return "The answer is no longer kept."
    if word == "add" and ident:
        return _keep_from_comparison(session, ident.strip())
    if rest:
        raise ConfigError(
            f"%llm kept has no {rest[:40]!r}.", hint="%llm kept, %llm kept add MODEL, %llm kept forget ID."
        )
    df = pd.DataFrame(preferences.marked_answers(), columns=list(preferences.COLUMNS))
    df["at"] = pd.to_datetime(df["at"], unit="s", utc=True)
    return df


def _keep_from_comparison(session: Session, label: str) -> str:
    """Keeps one answer of the last comparison as the preferred one."""
    outcome = next((o for o in session.outcomes if o.label == label and not o.is_only_error), None)
    if session.comparison is None or session.last_question is None or outcome is None:
        labels = ", ".join(o.label for o in session.outcomes) if session.comparison else "none yet"
        raise ConfigError(f"The last comparison has no answer of {label[:40]!r}.", hint=f"It has: {labels}.")
    record = _preference_record(session.last_question, outcome)
    others = {
        preferences.model_name(_preference_record(session.last_question, o))
        for o in session.outcomes
        if not o.is_only_error
    }
    preferences.mark(uuid4().hex, {**record, "over": sorted(others - {preferences.model_name(record)})})
    return f"{label}'s answer is kept: nbllm.bench.preferences() counts it."
