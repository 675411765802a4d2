"""Answers in a terminal with rich: Markdown drawn block by block as it arrives, with the open end redrawn in
place.

A model's output is only text here too: no HTML, links show their address, no control characters.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from ...core.events import Event
from .grid import outcomes_bundle
from .hidden import plain_text
from .inline_rules import emphasis_parser
from .outcome import Outcome
from .state import AnswerState, Piece
from .text import TextPainter

if TYPE_CHECKING:
    from rich.console import Console
    from rich.live import Live
    from rich.markdown import Markdown

_INTERVAL = 0.1  # seconds between two frames of the open end
_LONG_TAIL = 1_000  # characters of an open block; the rest is printed


class RichPainter(TextPainter):
    """Like TextPainter: a single answer while it arrives, several when all have ended."""

    def __init__(self, states: Sequence[AnswerState], console: Console | None = None, **options: Any) -> None:
        from rich.console import Console

        self._console = console or Console()
        super().__init__(len(states), lambda text: self._console.print(_text(text.strip("\n"))), **options)
        self._state, self._drawn, self._restarts, self._last = states[0], 0, 0, 0.0
        self._live: Live | None = None

    def feed(self, column: int, event: Event) -> None:
        """Does nothing: the state is drawn at each tick."""

    def tick(self, now: float) -> None:
        """Draws a frame if one is due."""
        if self._is_single and now - self._last >= _INTERVAL:
            from rich.console import Group
            from rich.live import Live

            self._last = now
            self._print_finished()
            source, thought = self._state.splitter.tail(), self._state.thought
            tail = [Piece(source)] if source else [Piece(thought, "thought")] if thought else []
            status = _text(plain_text(self._state.status(now)), style="dim")
            if self._live is None:
                self._live = Live(console=self._console, auto_refresh=False, transient=True)
                self._live.start()
            self._live.update(Group(*map(render_piece, tail), status), refresh=True)

    def _print_finished(self) -> None:
        """Prints the pieces that are finished by now."""
        state = self._state
        if state.restarts != self._restarts:
            self._restarts, self._drawn = state.restarts, state.settled_pieces
            self._console.print(_text(f"[starting again: {plain_text(state.notice)}]"))
        state.split_tail(_LONG_TAIL)
        for piece in state.pieces[self._drawn :]:
            self._console.print(render_piece(piece), end="\n")
            self._wrote = True
        self._drawn = len(state.pieces)

    def flush(self, now: float) -> None:
        """Prints everything so far and ends the live display, for a prompt to the user."""
        if self._live is not None:  # stopped first: otherwise it draws the open end again below
            self._live.stop()
            self._live = None
        self._print_finished()

    def finish(self, outcomes: Sequence[Outcome]) -> None:
        """Prints the rest: the open end, the ending, the figures."""
        if self._is_single:
            self._state.end_step()
        self.flush(0.0)
        if self._is_single:
            super().finish(outcomes)
        else:
            text = outcomes_bundle([*self._before, *outcomes], "text", html=False)["text/plain"]
            self._console.print(render_markdown(text))


def render_piece(piece: Piece) -> Any:
    """A finished part of an answer as a rich renderable."""
    if piece.kind == "text":
        return render_markdown(piece.source)
    return _text(plain_text(piece.render(lambda _: "").text).strip("\n"), style="dim")


def _text(words: str, style: str = "") -> Any:
    from rich.text import Text

    return Text(words, style)


def render_markdown(source: str) -> Markdown:
    """Markdown in which every word shows: HTML and link definitions are text."""
    from markdown_it import MarkdownIt
    from rich.markdown import Markdown

    rules = MarkdownIt("commonmark", {"html": False}).enable(["strikethrough", "table"])
    rules.inline.parse = emphasis_parser(rules)  # type: ignore[method-assign]
    made = Markdown("", hyperlinks=False)
    made.parsed = rules.disable(["reference", "html_block", "html_inline"]).parse(plain_text(source))
    return made
