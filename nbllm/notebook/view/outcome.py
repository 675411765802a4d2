"""What came of an answer, and what shows an answer while it comes and when it is over."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from ...core.errors import NbllmError
from ...core.events import Event, Response
from .static import Rendered, error_lines, join_rendered, render_answer, render_footer, render_note


@dataclass(frozen=True, slots=True)
class Outcome:
    """An answer that is over. value: what as= made of it. table: that value as it is shown, where it is a
    DataFrame. error: what went wrong, on the way or with its shape; the response then holds what came.
    notes: the footer without its figures. thoughts: whether reasoning stands unfolded (True) or not at all
    (False)."""

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
        """Whether there is an error and nothing else to show."""
        return self.error is not None and self.response.empty and not self.response.refusal

    @property
    def result_value(self) -> Any:
        """What a variable takes: the value where one was made, else the response."""
        return self.response if self.value is None else self.value

    def render(self, format: str, *, beside: bool = False) -> Rendered:
        """Its content in a column: the answer or its table, how it ended, its figures; an error with what to
        do where nothing came. beside: its figures stand in a table with those of others."""
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
    """What looks at a run while it goes on. This one sees nothing."""

    def feed(self, column: int, event: Event) -> None:
        """Hears of an event that `column`'s state has taken into account."""

    def tick(self, now: float) -> None:
        """Draws, where something is due; `now` in perf_counter seconds."""

    def flush(self, now: float) -> None:
        """Draws all that has come: the user is asked something, and should have seen it."""

    def column_ended(self, column: int) -> None:
        """Hears that a column is over."""


class Painter(RunObserver):
    """What shows the states of a run. This one shows nothing: quiet=true, and functions."""

    def start(self) -> None:
        """Shows that something was asked."""

    def finish(self, outcomes: Sequence[Outcome]) -> None:
        """Leaves the final form."""

    def give_up(self, text: str) -> None:
        """Leaves plain text, where the final form could not be drawn."""
