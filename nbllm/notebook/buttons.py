"""Buttons that work while a cell runs: a ■ in the head of each column, and yes or no before an action.

They are shown only after the page has proved that its messages arrive in time (see comms). Otherwise the
kernel's own Stop remains, and questions are asked through the keyboard. The buttons are removed when the cell
has ended.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from html import escape
from typing import Any
from uuid import uuid4

from .comms import fix_reply_channel, widget_class
from .session import Session, current_session
from .view.frontend import KernelPort, output_mode
from .view.hidden import clean
from .view.styles import container

_READY_SECONDS = 1.5  # seconds until the page must have reported, before the keyboard is used instead
_TICK_SECONDS = 0.05


class _ButtonBar:
    """A row of buttons, hidden until the page reports that it displays them."""

    def __init__(
        self, labels: Sequence[tuple[str, str]], on_press: Callable[[int], None], question: str = ""
    ) -> None:
        import ipywidgets as widgets

        self.page_ready = threading.Event()
        self.buttons = [
            fix_reply_channel(
                widgets.Button(
                    description=clean(word),
                    tooltip=clean(told),
                    layout=fix_reply_channel(widgets.Layout(width="auto")),
                )
            )
            for word, told in labels
        ]
        for i, button in enumerate(self.buttons):
            button.on_click(lambda _button, i=i: on_press(i))
        self._layout = fix_reply_channel(
            widgets.Layout(display="none", flex_flow="row wrap", align_items="center")
        )
        label = (
            [
                fix_reply_channel(
                    widgets.HTML(f"<span style='padding-right:1em'>{escape(clean(question))}</span>")
                )
            ]
            if question
            else []
        )
        self._box = fix_reply_channel(
            widgets.HBox([*label, *self.buttons], layout=self._layout, _view_count=0)
        )
        self._box.observe(self._on_displayed, "_view_count")
        self._widgets = [*label, *self.buttons, self._box]

    def _on_displayed(self, _change: Any) -> None:
        self._layout.display = "flex"
        self.page_ready.set()

    @property
    def bundle(self) -> dict[str, Any]:
        """The MIME bundle that displays the bar."""
        return {
            "application/vnd.jupyter.widget-view+json": {
                "version_major": 2,
                "version_minor": 0,
                "model_id": self._box.model_id,
            },
            "text/plain": "",
        }

    def close(self) -> None:
        """Removes the widgets."""
        for widget in self._widgets:
            widget.close()


class StopButtons:
    """A ■ for each of several answers, in elements of the page with the ids `placeholder_ids`: the heads of
    the columns. `stop` is called with the number of the pressed button."""

    def __init__(self, labels: Sequence[str], stop: Callable[[int], None]) -> None:
        self.placeholder_ids = [f"nbllm-{uuid4().hex}" for _ in labels]
        self._stop = stop
        titles = [clean(f"Stop {label}") for label in labels]
        self._widget = fix_reply_channel(widget_class("stops.js")(places=self.placeholder_ids, words=titles))
        self._widget.on_msg(self._on_message)

    def _on_message(self, _widget: Any, message: Any, _buffers: Any) -> None:
        if message.get("type") == "stop":
            self._stop(self.placeholder_ids.index(message["place"]))
        else:  # messages arrive while the cell runs, so presses will too
            self._widget.proved = True

    def close(self) -> None:
        """Removes the buttons."""
        self._widget.close()


def approve(question: str, *, yes: str = "Approve", no: str = "Reject") -> bool:
    """Asks the user before an action, also while a cell runs: with two buttons if the front end can deliver
    clicks, otherwise through the keyboard. Returns False if nobody can answer (nbclient, papermill). An
    interrupt raises KeyboardInterrupt, so the action does not run. The answer stays in the cell as text."""
    session = current_session()
    chosen = prompt_with_buttons(session, question, ((yes, yes), (no, no)), keep_answer=True)
    if chosen is not None:
        return chosen == 0
    if not session.can_prompt_user:
        session.print_text(f"{question} No user can answer here: taken as no.")
        return False
    return prompt_keyboard(f"{question} [y/N] ") in ("y", "yes", yes.lower())


def prompt_keyboard(question: str) -> str:
    """The typed answer in lower case; "" if there is none."""
    try:
        return input(clean(question)).strip().lower()
    except EOFError:
        return ""


def prompt_with_buttons(
    session: Session, question: str, choices: Sequence[tuple[str, str]], *, keep_answer: bool = False
) -> int | None:
    """The number of the pressed button; None if the page does not deliver clicks. choices: (label, tooltip)
    of each button. keep_answer: whether the answer stays in the cell as text."""
    if (
        output_mode(session.shell) != "live" or not session.can_prompt_user
    ):  # front ends with buttons also have a keyboard prompt
        return None
    pressed_event, chosen = threading.Event(), []

    def on_press(which: int) -> None:
        chosen.append(which)
        pressed_event.set()

    port, ident = KernelPort(session.shell), uuid4().hex
    bar = _ButtonBar(choices, on_press, question=question)
    port.publish(bar.bundle, display_id=ident)
    answer = "no answer"
    try:
        deadline = time.monotonic() + _READY_SECONDS
        while not (pressed_event.is_set() or bar.page_ready.is_set()) and time.monotonic() < deadline:
            bar.page_ready.wait(_TICK_SECONDS)
        if not bar.page_ready.is_set():
            answer = ""
            return None
        while not pressed_event.wait(_TICK_SECONDS):
            pass
        answer = choices[chosen[0]][0]
        return chosen[0]
    finally:
        text = f"{clean(question)} — {clean(answer)}" if answer and keep_answer else ""
        html = container(f"<div class=nbllm-note>{escape(text)}</div>", style=True) if text else ""
        port.publish({"text/html": html, "text/plain": text}, display_id=ident, update=True)
        bar.close()
