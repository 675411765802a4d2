"""A conversation in a panel below a cell: ChatWidget.

Theory. The cell has two plain outputs: an empty element, and the transcript. The panel is a widget without a
view: its code in the page puts it into that element and hides the transcript as long as the panel exists. So
a saved notebook contains static HTML only, and a front end without widgets shows the transcript. Answers are
followed on a thread of their own, since no cell runs while one arrives: it changes the widget's traits,
updates the transcript by its display id, and displays nothing new.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import replace
from html import escape
from queue import Empty, SimpleQueue
from typing import Any, Unpack
from uuid import uuid4

from ..client import agent
from ..client.client import CallOptions
from ..client.stream import Stream
from ..core.errors import AnswerProcessingError, ConfigError, NbllmError, error_line
from ..core.events import Response
from ..core.messages import Message, Part, Text
from ..core.values import plural
from ..routing.registry import DEFAULT_MODEL
from . import tool_use
from .chats import Chat, Origin, Turn, chat_markdown, message_text
from .comms import fix_reply_channel, read_asset, widget_class
from .prompt.attachments import part_from_bytes
from .question import Contestant, Question
from .run import GuardedPainter, Run, follow_safely, start_thread
from .session import current_session
from .view.frontend import KernelPort, output_mode
from .view.hidden import clean, plain_text
from .view.markdown import plain_html
from .view.outcome import Outcome
from .view.static import (
    Rendered,
    answer_footer,
    format_money,
    join_rendered,
    provenance,
    render_answer,
    render_footer,
    render_note,
)
from .view.styles import STYLE, container
from .view.widget import WidgetPainter

_TICK = 0.1


class ChatWidget:
    """A panel that continues a conversation; displayed as the last expression of a cell.

    model: as in `%%llm`; chat: the conversation's name, shared with `%%llm chat=NAME` and `%llm chat`; other
    options as in nbllm.stream (system, temperature, max_tokens ...). `ask(text)` sends a message from code
    and waits for the answer, `send(text)` does not wait; `transcript` is the conversation as Markdown.
    show_reasoning: True shows reasoning expanded, False not at all, as in a cell. view=True displays the
    panel as an ordinary widget view, for front ends that create widgets only with a view (VS Code, Colab); a
    saved notebook then contains that view beside the transcript. Raises ConfigError outside IPython.
    """

    def __init__(
        self,
        model: str = DEFAULT_MODEL,
        chat: str = "chat",
        *,
        view: bool = False,
        show_reasoning: bool | None = None,
        **options: Unpack[CallOptions],
    ) -> None:
        if show_reasoning not in (None, True, False):
            raise ConfigError(
                f"Not true or false: show_reasoning={show_reasoning!r}.", hint="Use True or False."
            )
        self._view, self._show_reasoning = view, show_reasoning
        self._session = current_session()
        self._chat = self._session.chats.open(chat)
        self._options: dict[str, Any] = {"compact": "auto", "cache": "auto", **options}
        self._model = model
        self._session.client.resolve(
            model, options.get("base_url"), options.get("dialect")
        )  # raises for an unknown model
        # The last question, where no turn came of it, and the turn it was to replace
        self._failed: tuple[Message, Outcome, Turn | None] | None = None
        self._run: Run | None = None
        self._thread: threading.Thread | None = None
        self._is_busy = False  # whether an answer is in progress
        self._panel: Any = None
        self._placeholder_id = self._display = ""
        self._error: NbllmError | None = None
        self._answers: SimpleQueue[tuple[str, str]] = SimpleQueue()  # (id of a question, what was pressed)
        if self._options.get("tools") and self._options.get("approve") in (None, "ask"):
            self._options["approve"] = self._ask_before_tool

    def __repr__(self) -> str:
        turns = plural(len(self._chat.turns), "turn")
        return f"ChatWidget(chat={self._chat.name!r}, model={self._model!r}, {turns})"

    # --- from code ---

    @property
    def chat(self) -> Chat:
        """The conversation."""
        return self._chat

    @property
    def transcript(self) -> str:
        """The conversation as Markdown."""
        return chat_markdown(self._chat)

    def send(self, text: str, *attachments: Part) -> Stream:
        """Sends a message; the answer arrives while other cells run. Raises ConfigError while another answer
        is in progress."""
        message = Message("user", [*([Text(text)] if text.strip() else []), *attachments])
        if not message.parts:
            raise ConfigError("The message is empty.", hint="Write something, or attach a file.")
        return self._send_message(message, None)

    def ask(self, text: str, *attachments: Part) -> Response:
        """Sends a message, waits for the answer and returns it. Raises the call's error."""
        stream = self.send(text, *attachments)
        self.wait()
        if self._error is not None:
            raise self._error
        return stream.partial()

    def wait(self) -> None:
        """Waits for the answer in progress. An interrupt stops it."""
        try:
            while self._thread is not None and self._thread.is_alive():
                self._thread.join(_TICK)
        except KeyboardInterrupt:
            self.stop()
            raise

    def stop(self) -> None:
        """Stops the answer in progress; what had arrived is kept."""
        if self._run is not None:
            self._run.cancel()

    def retry(self) -> Stream:
        """Sends the last message again; a complete new answer replaces the old one."""
        if self._failed is not None:
            return self._send_message(self._failed[0], self._failed[2])
        if not self._chat.turns:
            raise ConfigError("There is nothing to ask again.", hint="Ask something first.")
        last = self._chat.turns[-1]
        return self._send_message(last.question, last)

    def close(self) -> None:
        """Removes the panel; the transcript stays."""
        if self._panel is not None:
            self._panel.close()
            self._panel = None

    # --- an answer in progress ---

    def _send_message(self, message: Message, replaced: Turn | None) -> Stream:
        """Sends a message; its answer becomes a turn, in place of `replaced` once it is complete."""
        if self._is_busy:
            raise ConfigError("The panel is still answering.", hint="Stop it, or wait for it: panel.wait().")
        history = self._chat.history(self._chat.position_of(replaced))
        run = Run.of(
            Question(
                message.parts, (self._model,), {"show_reasoning": self._show_reasoning}, {}, history=history
            ),
            self._send,
        )
        try:
            run.begin()
        except NbllmError as error:
            self._failed = (message, Outcome("", Response(), error=error), replaced)
            raise
        self._run, self._is_busy, self._failed, self._error = run, True, None, None
        with suppress(Exception):  # a page that is gone
            self._set_traits(
                busy=True,
                asked=_question_html(message),
                done="",
                tail="",
                status=run.states[0].status(run.states[0].began),
                turns=self._turns_for_page(),
            )
        self._thread = start_thread("chat", self._follow, run, message, replaced)
        stream = run.streams[0]
        assert isinstance(stream, Stream)  # begin raises where it is none
        return stream

    def _send(self, question: Question, contestant: Contestant) -> Stream:
        return self._session.client.stream(
            [*question.history, question.message], contestant.model, **self._options
        )

    def _follow(self, run: Run, message: Message, replaced: Turn | None) -> None:
        """Shows the answer while it arrives and stores it. However it ends, the panel is ready for the next
        message."""
        follow_safely(
            run, GuardedPainter(WidgetPainter(run.states[0], lambda frame: self._set_traits(**frame)))
        )
        outcome = run.settled_outcomes()[0]
        try:
            self._store_answer(message, outcome, replaced)
        # otherwise the error would be lost, and the panel busy forever
        except BaseException as error:  # noqa: BLE001
            self._error = AnswerProcessingError(
                f"The panel could not keep the answer: {error_line(error)}",
                partial=outcome.response,
                hint="Ask again.",
            )
            self._failed = (message, replace(outcome, error=self._error), replaced)
        self._is_busy = False
        with suppress(Exception):  # a page that is gone
            self._set_traits(
                turns=self._turns_for_page(),
                busy=False,
                asked="",
                done="",
                tail="",
                status="",
                meter=self._usage_text(),
            )
            if self._display:
                self._publish_transcript(update=True)

    def _store_answer(self, message: Message, outcome: Outcome, replaced: Turn | None) -> None:
        """Adds an answer to the conversation. An answer that ended early does not replace an existing one."""
        self._error = outcome.error
        turn = Turn(Origin(f"panel:{uuid4().hex}"), message, outcome.response)
        ended_early = outcome.error is not None or outcome.response.finish_reason == "cancelled"
        if not outcome.response.empty:
            self._session.outcomes = (outcome,)
        if outcome.response.empty or (replaced is not None and ended_early):
            self._failed = (message, outcome, replaced)
        elif replaced is None:
            self._chat.append(turn)
        else:
            self._chat.replace(replaced, turn)

    def _ask_before_tool(self, question: agent.Question) -> str | None:
        """Asks the user in the panel before a tool runs; "no" if the answer is stopped, None without a
        panel."""
        if self._panel is None:
            return None
        ident = uuid4().hex
        about = {"id": ident, "words": clean(tool_use.question_text(question)), "choices": tool_use.CHOICES}
        self._set_traits(question={**about, "html": tool_use.call_bundle(question)["text/html"]})
        try:
            while self._run is not None and not self._run.stopped:
                with suppress(Empty):
                    asked, answer = self._answers.get(timeout=_TICK)
                    if asked == ident:
                        return answer
            return "no"
        finally:
            self._set_traits(question={})

    # --- display ---

    def _ipython_display_(self) -> None:
        """Displays the panel, or the transcript in a front end without widgets."""
        # voila shows the page, which runs widgets, after all cells have run
        mode = "live" if "VOILA_PREHEAT" in os.environ else output_mode(self._session.shell)
        if mode == "terminal":
            self._session.print_text(
                f"{plain_text(self.transcript)}\n\nA panel needs a notebook. "
                f"Here, %%llm chat={self._chat.name} continues the conversation."
            )
            return
        self.close()
        self._display = uuid4().hex
        self._placeholder_id = (
            f"nbllm-{self._display}" if mode == "live" else "nbllm-chat"
        )  # a constant id if the notebook is only executed and saved
        if mode == "live":
            self._panel = fix_reply_channel(
                widget_class("chat_widget.js")(
                    place=self._placeholder_id,
                    placed=not self._view,
                    style=f"{STYLE}<style>{read_asset('chat_widget.css')}</style>",
                    model=self._model,
                    models=sorted({self._model, *self._session.client.registry.names()}),
                    turns=self._turns_for_page(),
                    meter=self._usage_text(),
                    busy=self._is_busy,
                )
            )
            self._panel.on_msg(self._on_message)
            self._panel.observe(
                lambda change: setattr(self, "_model", change["new"] or DEFAULT_MODEL), "model"
            )
            place = (
                {
                    "application/vnd.jupyter.widget-view+json": {
                        "version_major": 2,
                        "version_minor": 1,
                        "model_id": self._panel.model_id,
                    }
                }
                if self._view
                else {"text/html": f"<div id='{self._placeholder_id}'></div>"}
            )
            # the view's value is a dict
            KernelPort(self._session.shell).publish({**place, "text/plain": f"Chat panel: {self._chat.name}"})  # type: ignore[dict-item]
        self._publish_transcript(update=False)

    def _on_message(self, _panel: Any, message: dict[str, Any], buffers: Sequence[Any]) -> None:
        """Handles a message of the page. Errors are shown there, never raised; if nothing was sent, the page
        gives the text back to the user and shows the reason."""
        try:
            if (work := _HANDLERS.get(str(message.get("type")))) is not None:
                work(self, message, buffers)
        except NbllmError as error:
            if (self._failed is None or self._failed[1].error is not error) and self._panel is not None:
                reason = "\n".join(filter(None, (error.message, error.hint)))
                self._panel.send({"type": "refused", "why": reason})
            self._set_traits(turns=self._turns_for_page(), busy=self._is_busy)

    def _on_send(self, message: dict[str, Any], buffers: Sequence[Any]) -> None:
        files = zip(message.get("files") or (), buffers, strict=False)
        parts = (
            part_from_bytes(bytes(d), str(f.get("kind") or ""), str(f.get("name") or "file"))
            for f, d in files
        )
        self.send(str(message.get("text") or ""), *parts)

    def _set_traits(self, **values: Any) -> None:
        if self._panel is not None:
            with self._panel.hold_sync():
                for name, value in values.items():
                    setattr(self._panel, name, value)

    def _usage_text(self) -> str:
        tokens, cost = self._chat.tokens, self._chat.cost
        return " · ".join(
            filter(
                None,
                (
                    plural(len(self._chat.turns), "turn"),
                    f"{plural(tokens, 'token')} of context" if tokens is not None else "",
                    format_money(cost) if cost is not None else "",
                ),
            )
        )

    def _exchanges(self) -> list[tuple[str, Message, Response, NbllmError | None]]:
        """The turns, and the last question if it failed: (key, question, answer, error)."""
        failed = [] if self._failed is None else [self._failed]
        return [
            *((f"{i}:{id(t)}", t.question, t.response, None) for i, t in enumerate(self._chat.turns)),
            *((uuid4().hex, asked, found.response, found.error) for asked, found, _ in failed),
        ]

    def _turns_for_page(self) -> list[dict[str, str]]:
        """The exchanges for the page: safe HTML, and the source of each answer for copying."""
        return [
            {
                "key": key,
                "asked": _question_html(asked),
                "answer": self._render_exchange(response, error).html,
                "source": response.text,
            }
            for key, asked, response, error in self._exchanges()
        ]

    def _render_exchange(self, response: Response, error: NbllmError | None) -> Rendered:
        if error is not None and response.empty:
            return render_note("⚠ " + "\n".join(filter(None, (error.message, error.hint))))
        lines = render_answer(response, error=error, thoughts=self._show_reasoning)
        return join_rendered([*lines, render_footer(answer_footer(response), simulated=response.simulated)])

    def _publish_transcript(self, *, update: bool) -> None:
        """Displays or updates the transcript."""
        rows = [
            (asked, self._render_exchange(response, error)) for _, asked, response, error in self._exchanges()
        ]
        html = "".join(
            f"<p><b>You</b></p><div "
            f"class=nbllm-text>{_question_html(asked)}</div><p><b>Answer</b></p>{line.html}<hr>"
            for asked, line in rows
        )
        text = "\n\n".join(
            f"You: {clean(message_text(asked))}\n\n{line.text.strip()}" for asked, line in rows
        )
        head = f"Conversation {self._chat.name}" + ("" if rows else ": no messages yet")
        body = (
            f"<div class='{self._placeholder_id}-static'><p class=nbllm-foot>{escape(head)}</p>{html}</div>"
        )
        KernelPort(self._session.shell).publish(
            {"text/html": container(body, style=True), "text/plain": plain_text(f"{head}\n\n{text}".strip())},
            display_id=self._display,
            update=update,
            metadata={"nbllm": [provenance(t.response) for t in self._chat.turns]},
        )


# Messages that the page may send.
_HANDLERS: dict[str, Callable[[ChatWidget, dict[str, Any], Sequence[Any]], Any]] = {
    "send": ChatWidget._on_send,
    "stop": lambda panel, _message, _buffers: panel.stop(),
    "retry": lambda panel, _message, _buffers: panel.retry(),
    "answer": lambda panel, m, _buffers: panel._answers.put((str(m.get("id")), str(m.get("answer")))),
}


def _question_html(message: Message) -> str:
    return "<br>".join(
        plain_html(p.text.strip()).strip()
        if isinstance(p, Text)
        else f"<i>({escape(getattr(p, 'name', '') or type(p).__name__.lower())})</i>"
        for p in message.parts
    )
