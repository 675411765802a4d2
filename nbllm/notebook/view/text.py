"""Answers in a terminal: a single one as its text arrives, several one below the other when all have
ended."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

from ...core.events import Event, ReasoningDelta, Restarted, TextDelta
from ...core.messages import Reasoning, Text, ToolCall
from .grid import outcomes_bundle
from .hidden import plain_text
from .outcome import Outcome, Painter
from .state import AnswerState
from .static import answer_bundle, render_tool_call

_CONTEXT_LENGTH = 4  # characters: an emoji, its variation and tone, a joiner


class TextPainter(Painter):
    """One answer in a terminal: its text as it arrives, then its ending and figures; several when all have
    ended."""

    def __init__(
        self,
        columns: int = 1,
        write: Callable[[str], Any] | None = None,
        *,
        before: Sequence[Outcome] = (),
        thoughts: bool | None = None,
    ) -> None:
        self._write = write or _to_stdout
        self._before, self._is_single = before, columns == 1 and not before
        self._shown_events = (TextDelta,) if thoughts is False else (TextDelta, ReasoningDelta)
        self._half_pair = ""  # half of a surrogate pair or line end, until the other half arrives
        self._context = ""  # the last characters written
        self._thinking = self._wrote = False
        self._calls = AnswerState("", 0.0, "text")

    def feed(self, column: int, event: Event) -> None:
        """Writes text and reasoning."""
        if not self._is_single:
            return
        if isinstance(event, Restarted):
            self._write(f"\n[starting again: {plain_text(event.why)}]\n")
        elif isinstance(event, self._shown_events) and event.text:
            self._switch_reasoning(isinstance(event, ReasoningDelta))
            text = self._half_pair + event.text
            self._half_pair = text[-1] if text[-1] == "\r" or "\ud800" <= text[-1] <= "\udbff" else ""
            self._write(self._clean_next(text.removesuffix(self._half_pair)))
            self._wrote = True
        else:
            self._write_calls(event)

    def _write_calls(self, event: Event) -> None:
        """Writes the tool calls that have ended."""
        self._calls.feed(event, 0.0)
        for piece in self._calls.pieces:
            if piece.call is not None and piece.end is not None:
                self._switch_reasoning(False)
                self._write(f"\n\n{plain_text(render_tool_call(piece.call, piece.end).text)}\n\n")
                self._wrote = True
        self._calls.pieces.clear()
        self._calls.settled_pieces = 0

    def _clean_next(self, text: str) -> str:
        """`text` cleaned in the context of the characters written before it."""
        before, combined = plain_text(self._context), plain_text(self._context + text)
        self._context = (self._context + text)[-_CONTEXT_LENGTH:]
        return combined.removeprefix(before) if combined.startswith(before) else plain_text(text)

    def _switch_reasoning(self, thinking: bool) -> None:
        if thinking != self._thinking:
            self._write("[reasoning]\n" if thinking else "\n[/reasoning]\n\n")
            self._thinking = thinking

    def finish(self, outcomes: Sequence[Outcome]) -> None:
        """Writes what was not in the text: tool calls, the ending, the figures. An error without answer is
        left to the cell."""
        if not self._is_single:
            self._write(outcomes_bundle([*self._before, *outcomes], "text", html=False)["text/plain"] + "\n")
        elif not outcomes[0].is_only_error:
            self._write_ending(outcomes[0])

    def give_up(self, text: str) -> None:
        """Writes plain text after the final form failed."""
        self._write(f"{plain_text(text)}\n")

    def _write_ending(self, last: Outcome) -> None:
        self._switch_reasoning(False)
        if last.table is not None:
            self._write("\n\n" + plain_text(last.render("text").text) + "\n")
            return
        response = last.response
        if self._wrote:  # only parts that were not written yet
            ended_calls = {e.result.id for e in response.results}
            rest = (p for p in response.parts if not isinstance(p, (Text, Reasoning)))
            unwritten = (p for p in rest if not (isinstance(p, ToolCall) and p.id in ended_calls))
            response = replace(response, parts=tuple(unwritten), before=())
        bundle = answer_bundle(
            response,
            footer=last.footer,
            error=last.error,
            html=False,
            note_if_empty=not self._wrote,
            thoughts=last.show_reasoning,
        )
        text = bundle["text/plain"]
        self._write(("\n\n" if self._wrote else "") + text + "\n" if text else "\n")


def _to_stdout(text: str) -> None:
    sys.stdout.write(text)
    sys.stdout.flush()
