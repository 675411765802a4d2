"""Buttons that react while a cell runs: a ■ in the head of each column, and yes or no before something is
done.

They are shown only once the page has proved that its messages come in time (see comms); where they do not,
Stop is the kernel's own, and a question is asked through the keyboard. Nothing of them is left when the cell
has ended.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from html import escape
from typing import Any
from uuid import uuid4

from .comms import mended, page_widget
from .session import Session, current_session
from .view.frontend import KernelPort, where
from .view.hidden import clean
from .view.styles import container

_PROOF = 1.5  # seconds that the page has to prove itself before a question is asked in another way
_TICK = 0.05


class _Bar:
    """Buttons in a row, hidden until the page has said that it shows them."""

    def __init__(
        self, words: Sequence[tuple[str, str]], pressed: Callable[[int], None], above: str = ""
    ) -> None:
        import ipywidgets as widgets

        self.proved = threading.Event()
        self.buttons = [
            mended(
                widgets.Button(
                    description=clean(word), tooltip=clean(told), layout=mended(widgets.Layout(width="auto"))
                )
            )
            for word, told in words
        ]
        for i, button in enumerate(self.buttons):
            button.on_click(lambda _button, i=i: pressed(i))
        self._layout = mended(widgets.Layout(display="none", flex_flow="row wrap", align_items="center"))
        label = (
            [mended(widgets.HTML(f"<span style='padding-right:1em'>{escape(clean(above))}</span>"))]
            if above
            else []
        )
        self._box = mended(widgets.HBox([*label, *self.buttons], layout=self._layout, _view_count=0))
        self._box.observe(self._seen, "_view_count")
        self._all = [*label, *self.buttons, self._box]

    def _seen(self, _change: Any) -> None:
        self._layout.display = "flex"
        self.proved.set()

    @property
    def bundle(self) -> dict[str, Any]:
        """What shows the bar."""
        return {
            "application/vnd.jupyter.widget-view+json": {
                "version_major": 2,
                "version_minor": 0,
                "model_id": self._box.model_id,
            },
            "text/plain": "",
        }

    def close(self) -> None:
        """Takes the widgets away."""
        for widget in self._all:
            widget.close()


class Stops:
    """A ■ for each of several answers, in `places` that the page finds by their ids: the heads of their
    columns. `stop` is given the number of the one that was pressed."""

    def __init__(self, labels: Sequence[str], stop: Callable[[int], None]) -> None:
        self.places = [f"nbllm-{uuid4().hex}" for _ in labels]
        self._stop = stop
        words = [clean(f"Stop {label}") for label in labels]
        self._widget = mended(page_widget("stops.js")(places=self.places, words=words))
        self._widget.on_msg(self._heard)

    def _heard(self, _widget: Any, message: Any, _buffers: Any) -> None:
        if message.get("type") == "stop":
            self._stop(self.places.index(message["place"]))
        else:  # messages come while the cell runs: a press will too
            self._widget.proved = True

    def close(self) -> None:
        """Takes them away."""
        self._widget.close()


def approve(question: str, *, yes: str = "Approve", no: str = "Reject") -> bool:
    """Asks the user before something is done, also while a cell runs: with two buttons where the front end
    can deliver a click, else through the keyboard, and where nobody can answer (nbclient, papermill) it is
    no. An interrupt raises KeyboardInterrupt, which is no too. What was answered stays in the cell as text.
    """
    session = current_session()
    chosen = ask_with_buttons(session, question, ((yes, yes), (no, no)), stays=True)
    if chosen is not None:
        return chosen == 0
    if not session.can_ask:
        session.say(f"{question} Nobody can answer here: taken as no.")
        return False
    return by_keyboard(f"{question} [y/N] ") in ("y", "yes", yes.lower())


def by_keyboard(question: str) -> str:
    """What is typed, in small letters; "" where nothing is."""
    try:
        return input(clean(question)).strip().lower()
    except EOFError:
        return ""


def ask_with_buttons(
    session: Session, question: str, choices: Sequence[tuple[str, str]], *, stays: bool = False
) -> int | None:
    """The number of the button that was pressed; None where the page does not deliver presses. choices: what
    stands on a button, and what it does. stays: the answer stays in the cell as text."""
    if where(session.shell) != "live" or not session.can_ask:  # pages that show buttons let one type too
        return None
    answered, chosen = threading.Event(), []

    def pressed(which: int) -> None:
        chosen.append(which)
        answered.set()

    port, ident = KernelPort(session.shell), uuid4().hex
    bar = _Bar(choices, pressed, above=question)
    port.publish(bar.bundle, display_id=ident)
    told = "no answer"
    try:
        until = time.monotonic() + _PROOF
        while not (answered.is_set() or bar.proved.is_set()) and time.monotonic() < until:
            bar.proved.wait(_TICK)
        if not bar.proved.is_set():
            told = ""
            return None
        while not answered.wait(_TICK):
            pass
        told = choices[chosen[0]][0]
        return chosen[0]
    finally:
        text = f"{clean(question)} — {clean(told)}" if told and stays else ""
        html = container(f"<div class=nbllm-note>{escape(text)}</div>", style=True) if text else ""
        port.publish({"text/html": html, "text/plain": text}, display_id=ident, update=True)
        bar.close()
