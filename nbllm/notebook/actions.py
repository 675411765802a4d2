"""What can be done with an answer, below it: copy, edit and ask again, ask again, see the one before, keep.

Theory. The answer's output ends in an empty place with an id. One widget without a view, whose page side puts
the buttons into the places that it is told of, serves all answers of a kernel; so a saved notebook holds no
button, and a front end that runs no widgets shows none. It is made after the first answer's cell has ended,
so that no cell waits for it. An answer that is asked for again grows in the display of the old one, on a
thread of its own; the old one stays beside it, a press away.

A cell's code cannot be put into a new cell from here: a front end takes that with the end of a cell only
(`%llm insert`).
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
from .comms import mended, page_widget
from .question import Question
from .run import Guarded, Run, aside, carry, settle
from .session import Session
from .view.frontend import KernelPort
from .view.hidden import clean
from .view.live import LivePainter
from .view.outcome import Outcome
from .view.static import note_line

_MOST = 50  # answers that have buttons
_LONGEST = 200_000  # characters of a question that is edited


@dataclass(slots=True)
class _Place:
    """An answer's place: what was asked, the answers to that so far, and which of them is shown, from 0.
    held: the variables that had the last one. kept: ids of those that are kept."""

    run: Run
    out: str | None
    answers: list[tuple[Question, Outcome]]
    shown: int = 0
    held: dict[str, Any] = field(default_factory=dict)
    kept: dict[int, str] = field(default_factory=dict)
    busy: bool = False


@dataclass(slots=True)
class Actions:
    """The buttons of one notebook's answers. Any thread."""

    session: Session
    places: dict[str, _Place] = field(default_factory=dict)
    _widget: Any = None
    _lock: Any = field(default_factory=threading.RLock)

    def offer(self, run: Run, out: str | None) -> None:
        """Gives an answer that has just been shown its buttons."""
        [found] = run.settled()
        if not run.place or found.bare:
            return
        with self._lock:
            self.places[run.place] = place = _Place(run, out, [(run.question, found)])
            self._hold(place)
            while len(self.places) > _MOST:
                del self.places[next(iter(self.places))]
        if self._widget is not None:
            self._tell(run.place)
        else:
            self.session.shell.kernel.io_loop.call_later(0, self._make)

    def _make(self) -> None:
        """Once the cell has ended: the widget says hello when the page has it, and is told of all places."""
        if self._widget is None:
            with suppress(Exception):  # a page without widgets shows no buttons
                self._widget = mended(page_widget("actions.js")())
                self._widget.on_msg(self._heard)

    def close(self) -> None:
        """Takes all buttons away."""
        if self._widget is not None:
            self._widget.close()

    def _hold(self, place: _Place) -> None:
        names = [name for name in (place.out, "_llm") if name]
        place.held = {name: self.session.namespace.get(name) for name in names}

    # --- to the page ---

    def _tell(self, *names: str) -> None:
        offers = [self._offer(name, self.places[name]) for name in names if name in self.places]
        with suppress(Exception):  # a page that is gone
            self._widget.send({"most": _MOST, "offers": offers})

    def _offer(self, name: str, place: _Place) -> dict[str, Any]:
        question, found = place.answers[place.shown]
        return {
            "place": name,
            "key": f"{place.shown}/{len(place.answers)}/{place.shown in place.kept}",
            "source": clean(found.response.text),
            "prompt": clean(question.text),
            "again": _can_be_asked_again(question),
            "kept": place.shown in place.kept,
            "number": place.shown + 1,
            "count": len(place.answers),
        }

    # --- from the page ---

    def _heard(self, _widget: Any, message: Any, _buffers: Any) -> None:
        """What was pressed. Whatever is wrong with it is told below the answer, and never raised."""
        with suppress(Exception):
            if message.get("type") == "hello":
                self._tell(*self.places)
            elif (place := self.places.get(str(message.get("place")))) is not None:
                _DO[str(message["type"])](self, place, message)

    def show(self, place: _Place, message: dict[str, Any]) -> None:
        """Shows another answer to the same question."""
        with self._lock:
            number = int(message["number"]) - 1
            if place.busy or not 0 <= number < len(place.answers):
                return
            place.shown = number
        question, found = place.answers[number]
        self._draw(place, question, found)

    def keep(self, place: _Place, message: dict[str, Any]) -> None:
        """Keeps the answer that is shown as a good one, or no longer."""
        with self._lock:
            number = place.shown
            question, found = place.answers[number]
            try:
                if message.get("keep"):
                    ident = uuid4().hex
                    preferences.keep(ident, {**_about(question, found), "over": self._others(question)})
                    place.kept[number] = ident
                elif number in place.kept:
                    preferences.forget(place.kept.pop(number))
            except NbllmError as error:
                self._draw(place, question, found, error.message)
                return
        self._tell(place.run.place)

    def _others(self, question: Question) -> list[str]:
        """Whose answers to the same words stand in this notebook and are not kept: below cells, and in the
        last comparison."""
        seen: list[tuple[Question | None, Outcome]] = [
            (asked, found)
            for place in self.places.values()
            for number, (asked, found) in enumerate(place.answers)
            if number not in place.kept
        ]
        seen += [(self.session.asked, found) for found in self.session.outcomes if self.session.comparison]
        alike = (found for asked, found in seen if asked and asked.text == question.text and not found.bare)
        return sorted({preferences.name(_about(question, found)) for found in alike})

    def ask(self, place: _Place, message: dict[str, Any]) -> None:
        """Asks again, with other words where the message has some; the answer grows in the old one's
        place."""
        question = place.answers[place.shown][0]
        text = message.get("text")
        with self._lock:
            if place.busy or not _can_be_asked_again(question):
                return
            if isinstance(text, str) and text.strip() and text != question.text:
                others = [p for p in question.parts if not isinstance(p, Text)]
                question = replace(question, parts=(Text(text[:_LONGEST]), *others), filled=())
            place.busy = True
        aside("again", self._again, place, question)

    def _again(self, place: _Place, question: Question) -> None:
        run = Run.of(question, self.session.send)
        run.place = place.run.place
        problem, found = "", None
        try:
            run.begin()
            self.session.running.append(run)
            screen = Guarded(self._painter(place, run))
            screen.start()
            carry(run, screen)
            self.session.running.remove(run)
            found = run.settled()[0]
        except NbllmError as error:
            problem = error.message
        with self._lock:
            place.busy = False
            if found is not None and not found.bare:
                place.answers.append((question, found))
                place.shown = len(place.answers) - 1
                settle(self.session, run, place.out, held=place.held)
                self._hold(place)
            elif found is not None and found.error is not None:
                problem = found.error.message
        self._draw(place, *place.answers[place.shown], problem)

    def _painter(self, place: _Place, run: Run) -> LivePainter:
        """Draws in the display that the place's answer has."""
        first, port = place.run.states[0], KernelPort(self.session.shell)
        return LivePainter(port, run.states[0], place=place.run.place, grown=first.display)

    def _draw(self, place: _Place, question: Question, found: Outcome, problem: str = "") -> None:
        """The final form of an answer in its place, and what went wrong with the one that was asked for."""
        told = [note_line(f"⚠ {clean(problem)} The answer before stays.")] if problem else []
        with suppress(Exception):  # a page that is gone
            self._painter(place, place.run).finish([found], told)
        self._tell(place.run.place)


def actions_of(session: Session) -> Actions:
    """Those of a notebook."""
    if session.actions is None:
        session.actions = Actions(session)
    found: Actions = session.actions
    return found


_DO = {"show": Actions.show, "keep": Actions.keep, "ask": Actions.ask}


def _can_be_asked_again(question: Question) -> bool:
    """Not what goes on with a conversation, whose turn would have to change under later ones; nor with tools,
    whose questions belong to a cell that runs."""
    return not question.options.keys() & {"chat", "tools"}


def _about(question: Question, found: Outcome) -> dict[str, Any]:
    response = found.response
    return {
        "provider": response.provider,
        "model": response.model,
        "label": question.options.get("label"),
        "prompt": question.text,
        "answer": response.text,
        "simulated": response.simulated,
    }


def kept(session: Session, rest: str) -> Any:
    """`%llm kept`: the answers that were kept as good ones; `forget ID` takes one back, `add MODEL` keeps
    that one's of the last comparison."""
    import pandas as pd

    word, _, ident = rest.partition(" ")
    if word == "forget" and ident:
        preferences.forget(ident.strip())
        return "It is no longer kept."
    if word == "add" and ident:
        return _added(session, ident.strip())
    if rest:
        raise ConfigError(
            f"%llm kept has no {rest[:40]!r}.", hint="%llm kept, %llm kept add MODEL, %llm kept forget ID."
        )
    df = pd.DataFrame(preferences.kept(), columns=list(preferences.COLUMNS))
    df["at"] = pd.to_datetime(df["at"], unit="s", utc=True)
    return df


def _added(session: Session, label: str) -> str:
    """Keeps one answer of the last comparison: it is preferred to the others."""
    found = next((o for o in session.outcomes if o.label == label and not o.bare), None)
    if session.comparison is None or session.asked is None or found is None:
        there = ", ".join(o.label for o in session.outcomes) if session.comparison else "none yet"
        raise ConfigError(
            f"No answer of {label[:40]!r} is in the last comparison.", hint=f"There are: {there}."
        )
    about = _about(session.asked, found)
    others = {preferences.name(_about(session.asked, o)) for o in session.outcomes if not o.bare}
    preferences.keep(uuid4().hex, {**about, "over": sorted(others - {preferences.name(about)})})
    return f"{label}'s answer is kept: nbllm.bench.preferences() counts it."
