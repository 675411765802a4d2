"""Progress displays of a run: a bar in a terminal, none, or the notebook's."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from ..client.progress import FrontEnd, ProgressStats


class Progress(Protocol):
    """A progress display. All calls come from the thread that called `run`."""

    def start(self, total: int, names: Sequence[str], run_id: str) -> None:
        """A run of `total` planned requests starts."""

    def row(self, row: Mapping[str, Any]) -> None:
        """A request was recorded: its status, ttft_ms, e2e_ms, cost_usd and so on."""

    def draw(self) -> None:
        """Called at intervals when the display may redraw."""

    def end(self, reason: str, rows: int) -> None:
        """The run has ended; reason is "" if it is complete. kept: the number of rows in its frame."""


class RunFrontEnd(FrontEnd):
    """Base class of a front end's display of runs."""


def choose_display(choice: Progress | bool | None) -> Progress:
    """The display for a run: the one passed, none for False, else the front end's or a bar."""
    if choice is False:
        return Silent()
    return RunFrontEnd.choose() or Bar() if choice is None or choice is True else choice


class RunTotals(ProgressStats):
    """What a display shows: progress, failures, cost, remaining time, times by model."""

    done: int = 0
    rows: int = 0  # rows of the frame after the end of the run

    def __init__(self, total: int, names: Sequence[str]) -> None:
        self.total, self.names = total, list(names)
        self.began = time.monotonic()
        self.done = self.failed = self.extra = self.contaminated = 0
        self.usd: float | None = None
        self.values: dict[str, list[float]] = {name: [] for name in names}
        self.failures: dict[str, int] = dict.fromkeys(names, 0)
        self.costs: dict[str, float] = {}  # of models with a known price
        self.last_error, self.awaited = "", "first token"  # what the times are measured to

    def add(self, row: Mapping[str, Any]) -> None:
        """Counts a recorded request; warm-ups count as extra."""
        if row.get("cost_usd") is not None:
            name, cost = str(row.get("name")), float(row["cost_usd"])
            self.usd = (self.usd or 0.0) + cost
            self.costs[name] = self.costs.get(name, 0.0) + cost
        if row.get("phase") == "warmup":
            self.extra += 1
            return
        self.done += 1
        self.contaminated += row.get("quality") == "contaminated"
        name = str(row.get("name"))
        if not row.get("ok"):
            self.failed += 1
            self.failures[name] = self.failures.get(name, 0) + 1
            self.last_error = f"{name}: {row.get('status')}" + (
                f" ({row['error_msg']})" if row.get("error_msg") else ""
            )
        elif row.get("quality") != "contaminated" and (took := row.get("ttft_ms") or row.get("e2e_ms")):
            self.values.setdefault(name, []).append(float(took))
            self.awaited = self.awaited if row.get("ttft_ms") else "all vectors"


def ended_early_text(reason: str, rows: int, run_id: str) -> str:
    """The message about a run that ended early."""
    text = f"{rows:,} {'row is' if rows == 1 else 'rows are'} stored"
    return f"Ended early: {reason}. {text}; nbllm.bench.resume({run_id!r}) continues the run."


class Silent:
    """Shows nothing."""

    def start(self, total: int, names: Sequence[str], run_id: str) -> None:
        """Does nothing."""

    def row(self, row: Mapping[str, Any]) -> None:
        """Does nothing."""

    def draw(self) -> None:
        """Does nothing."""

    def end(self, reason: str, rows: int) -> None:
        """Does nothing."""


class Bar(Silent):
    """A tqdm bar on standard error."""

    run_id = ""

    def start(self, total: int, names: Sequence[str], run_id: str) -> None:
        """Opens the bar."""
        from tqdm import tqdm

        self._sums, self.run_id = RunTotals(total, names), run_id
        self._bar = tqdm(total=total, unit="req", dynamic_ncols=True)

    def row(self, row: Mapping[str, Any]) -> None:
        """Counts."""
        before = self._sums.done
        self._sums.add(row)
        self._bar.update(self._sums.done - before)
        postfix = {
            "failed": self._sums.failed or None,
            "cost": f"${self._sums.usd:.4f}" if self._sums.usd is not None else None,
        }
        self._bar.set_postfix({k: v for k, v in postfix.items() if v is not None}, refresh=False)

    def end(self, reason: str, rows: int) -> None:
        """Closes the bar; says how to resume an incomplete run."""
        self._bar.close()
        if reason:
            self._bar.write(ended_early_text(reason, rows, self.run_id))
