"""The outcome of an answer, and the interfaces of observers and painters of a run."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from ...core.errors import NbllmError
from ...core.events import Event, Response
from .static import Rendered, error_lines, join_rendered, render_answer, render_footer, render_note


@dataclass(frozen=True, slots=True)
class Outcome:
    """A finished answer. value: the result of as=. table: that value rendered, if it is a DataFrame. error:
    what went wrong, in the call or with the schema; the response then holds the partial answer. notes: the
    footer without figures. show_reasoning: expanded (True), not at all (False), or collapsed (None)."""

    label: str
    response: Response
    value: Any = None
    error: NbllmError | None = None
    footer: Rendered | None = None
    table: Rendered | None = None
    show_reasoning: bool | None = None
    notes: Rendered | None = None

    @property
    def is_only_error(self) -> bool:
        """Whether there is an error and no answer to show."""
        return self.error is not None and self.response.empty and not self.response.refusal

    @property
    def result_value(self) -> Any:
        """The value for the variable: the value of as= if there is one, else the response."""
        return self.response if self.value is None else self.value

    def render(self, format: str, *, beside: bool = False) -> Rendered:
        """The content of a column: the answer or its table, its ending and figures; only the error if there
        is no answer. beside: the figures are in a common table with those of other answers."""
        if self.is_only_error and self.error is not None:
            return render_note(error_lines(self.error), is_warning=True)
        lines = (
            [self.table]
            if self.table is not None
            else render_answer(self.response, format=format, error=self.error, thoughts=self.show_reasoning)
        )
        foot = self.notes if beside and self.notes is not None else self.footer
        if foot is not None:
            lines.append(render_footer(foot, simulated=self.response.simulated))
        return join_rendered(lines)


class RunObserver:
    """Observes a run while it goes on. The base class does nothing."""

    def feed(self, column: int, event: Event) -> None:
        """Called for each event, after the state of `column` has processed it."""

    def tick(self, now: float) -> None:
        """Called regularly; draws if a frame is due. `now` is in perf_counter seconds."""

    def flush(self, now: float) -> None:
        """Draws everything that has arrived, before the user is prompted."""

    def column_ended(self, column: int) -> None:
        """Called when a column has ended."""


class Painter(RunObserver):
    """Displays the states of a run. The base class displays nothing: for quiet=true and functions."""

    def start(self) -> None:
        """Shows that the question was sent."""

    def finish(self, outcomes: Sequence[Outcome]) -> None:
        """Displays the final form."""

    def give_up(self, text: str) -> None:
        """Displays plain text after the final form failed."""
