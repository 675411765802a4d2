"""The progress of a run over a table, and its displays: a line in a terminal, nothing, or the notebook's."""

from __future__ import annotations

import sys
import time
from collections import Counter
from dataclasses import dataclass, field
from typing import Protocol

from ..client.progress import FrontEnd, ProgressStats, clock
from ..core.values import plural
from .estimate import Estimate


@dataclass(slots=True)
class Totals(ProgressStats):
    """The counts of a run. total: questions to send; kept: rows that were answered before; usd: None where no
    price is known."""

    run: str
    total: int
    kept: int = 0
    ok: int = 0
    failed: Counter[str] = field(default_factory=Counter)  # by the error's type
    usd: float | None = None
    began: float = field(default_factory=time.monotonic)

    @property
    def done(self) -> int:
        """The number of rows that have ended."""
        return self.ok + self.failed.total()

    def line(self, ended: str | None = None) -> str:
        """The state in one line. ended: None while it runs, why it ended early, "" where it is complete."""
        parts = [f"{self.done:,} of {plural(self.total, 'row')}"]
        if self.kept:
            parts.append(f"{self.kept:,} answered before")
        if self.rate:
            parts.append(f"{self.rate:.3g} a second")
        if self.usd is not None:
            parts.append(f"${self.usd:.4f}")
        parts += [f"{count:,} {kind}" for kind, count in self.failed.most_common(4)]
        if ended is None and self.left is not None:
            parts.append(f"{clock(self.left)} left")
        if ended is not None:
            parts.append(clock(self.elapsed))
        return " · ".join(parts)

    def ending(self, ended: str) -> str:
        """The message of a run that ended early."""
        return f"Ended early: {ended.rstrip('.')}. nbllm.rows.resume({self.run!r}) goes on." if ended else ""


class Progress(Protocol):
    """A display of a run. All calls come from the thread that called `map`."""

    def confirm(self, question: str) -> bool | None:
        """Whether the user agrees; None where nobody can answer."""
        ...

    def draw(self, totals: Totals) -> None:
        """Called regularly while the run goes on."""
        ...

    def end(self, totals: Totals, ended: str) -> None:
        """Called at the end; `ended` is the reason of an early end, "" where it is complete."""
        ...


class TerminalLine:
    """A line on standard error: updated in a terminal; elsewhere only the reason of an early end."""

    def __init__(self) -> None:
        self._live, self._drawn = sys.stderr.isatty(), 0.0

    def confirm(self, question: str) -> bool | None:
        """Prompts the user in an interactive terminal."""
        if not (hasattr(sys, "ps1") and sys.stdin is not None and sys.stdin.isatty()):
            return None
        return input(f"{question} [y/N] ").strip().lower() in ("y", "yes")

    def draw(self, totals: Totals) -> None:
        """Draws at most four times a second."""
        if self._live and time.monotonic() - self._drawn > 0.25:
            self._drawn = time.monotonic()
            sys.stderr.write(f"\r\x1b[K{totals.line()}")
            sys.stderr.flush()

    def end(self, totals: Totals, ended: str) -> None:
        """Prints how it ended."""
        if self._live:
            sys.stderr.write(f"\r\x1b[K{totals.line(ended)}\n")
        if ended:
            sys.stderr.write(f"{totals.ending(ended)}\n")


class TableFrontEnd(FrontEnd):
    """The base class of a front end's display of runs."""


def select_progress() -> Progress:
    """The display for a run: the front end's, else a line in the terminal."""
    return TableFrontEnd.choose() or TerminalLine()


def confirm_question(estimate: Estimate, budget: str) -> str:
    """The question to the user before a run."""
    return f"{estimate}{f', budget {budget}' if budget else ''}. Start?"
