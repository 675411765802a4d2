"""How a run over a table goes, and who shows it: a line in a terminal, nothing, or what the notebook
brings."""

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
    """Counts of a run. total: questions to ask; kept: rows that had their answers before; usd: None where no
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
        """How many have ended."""
        return self.ok + self.failed.total()

    def line(self, ended: str | None = None) -> str:
        """All of it in one line. ended: None while it runs, why it ended early, "" where it is complete."""
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
        """What is said of a run that ended early."""
        return f"Ended early: {ended.rstrip('.')}. nbllm.rows.resume({self.run!r}) goes on." if ended else ""


class Progress(Protocol):
    """Who shows how a run goes. All calls come from the thread that called `map`."""

    def ask(self, question: str) -> bool | None:
        """Whether the user wants that; None where nobody can answer."""
        ...

    def draw(self, totals: Totals) -> None:
        """A good moment to draw."""
        ...

    def end(self, totals: Totals, ended: str) -> None:
        """The run is over; `ended` is "" where it was complete."""
        ...


class Line:
    """A line on standard error: growing in a terminal, elsewhere only the reason of an early end."""

    def __init__(self) -> None:
        self._live, self._drawn = sys.stderr.isatty(), 0.0

    def ask(self, question: str) -> bool | None:
        """Asks where somebody types."""
        if not (hasattr(sys, "ps1") and sys.stdin is not None and sys.stdin.isatty()):
            return None
        return input(f"{question} [y/N] ").strip().lower() in ("y", "yes")

    def draw(self, totals: Totals) -> None:
        """Draws four times a second."""
        if self._live and time.monotonic() - self._drawn > 0.25:
            self._drawn = time.monotonic()
            sys.stderr.write(f"\r\x1b[K{totals.line()}")
            sys.stderr.flush()

    def end(self, totals: Totals, ended: str) -> None:
        """Says how it ended."""
        if self._live:
            sys.stderr.write(f"\r\x1b[K{totals.line(ended)}\n")
        if ended:
            sys.stderr.write(f"{totals.ending(ended)}\n")


class TableFrontEnd(FrontEnd):
    """The parent of what a front end shows a run with."""


def chosen() -> Progress:
    """The display for a run: the first that fits."""
    return TableFrontEnd.choose() or Line()


def question(estimate: Estimate, budget: str) -> str:
    """What the user is asked before a run."""
    return f"{estimate}{f', budget {budget}' if budget else ''}. Start?"
