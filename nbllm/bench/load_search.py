"""The highest load that keeps within limits, found by search, and the knee of the throughput curve.

The load is doubled until it does not hold, then the gap is halved. Each load is measured block by block and
judged after each block: it fails as soon as the interval of its share of good requests lies below the
required share, holds as soon as it lies above, and after the last block the share itself decides. Judging
several times would make a 95 % interval too confident, so the 5 % is divided among the blocks.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from numbers import Real
from typing import Any

import pandas as pd

from ..core.errors import ConfigError
from ..store import columns
from . import statistics as st
from .decisions import goodput
from .frames import check_share, measured_requests, plain_row, success_mask
from .plan import Budget
from .recorder import cost_and_tokens
from .runner import Model, run

_BUDGET_NAMES = ("usd", "tokens", "seconds", "requests")
_MAX_BLOCKS = 4  # of one load
_COLUMNS = ("load", "n", "good", "share", "ci_lo", "ci_hi", "holds", "sure", "achieved_s", "good_s", "e2e_ms")


def find_load(
    model: Model,
    prompts: Any = None,
    *,
    by: str = "rate",
    low: float = 1.0,
    high: float = 256.0,
    within: float = 0.1,
    at_least: float = 0.95,
    level: float = 0.95,
    budget: float | Mapping[str, float] | None = None,
    options: Mapping[str, Any] | None = None,
    **limits: float,
) -> pd.DataFrame:
    """The highest load of one model at which `at_least` of the requests keep within all limits (ttft_ms=500,
    itl_ms=50 ..., as in `bench.goodput`): one row for each measured load, in order of load.

    by: "rate", requests per second, or "concurrency", requests in flight. low, high: the first and the
    highest load of the search. within: the relative precision of the result, 0.1 for 10 %. budget: of the
    whole search, as in `bench.run`. options: options of `bench.run` and of calls.

    Columns: load, n, good, share with its interval, holds, sure (whether the interval decided), achieved_s
    (requests answered per second), good_s, e2e_ms (median), highest (the highest load that holds), knee (the
    highest ratio of throughput to time: Kleinrock's power). attrs["runs"] lists the runs; attrs["ended"] says
    why the search ended early. Stop (Ctrl-C) returns the rows so far. Raises ConfigError for an invalid
    search.
    """
    numbers = all(isinstance(n, Real) and not isinstance(n, bool) for n in (low, high, within, at_least))
    if (
        not numbers
        or by not in ("rate", "concurrency")
        or not 0 < low < high
        or not within > 0
        or not 0 < at_least < 1
    ):
        raise ConfigError(
            'A load is by "rate" or "concurrency", from low up to high.',
            hint='bench.find_load(model, by="rate", low=1, high=64, ttft_ms=500)',
        )
    if not isinstance(options or {}, Mapping) or {"blocks", "seed", "budget"}.intersection(options or {}):
        raise ConfigError(
            "options is a mapping of a run's options; blocks, seed and budget are the search's own.",
            hint='options={"per_turn": 50, "max_tokens": 100}',
        )
    check_share("level", level)
    goodput(columns.frame([]), **limits)  # raises for no limits, and for wrong ones
    search = _Search(model, prompts, by, limits, at_least, level, Budget.of(budget), dict(options or {}))
    _search_load(search.holds, _whole_load if by == "concurrency" else float, (low, high), within)
    out = pd.DataFrame(search.rows, columns=list(_COLUMNS)).sort_values("load", ignore_index=True)
    holding = out["load"][out["holds"].astype(bool)]
    power = out["achieved_s"] / out["e2e_ms"]
    out["highest"] = out["load"] == (holding.max() if len(holding) else math.nan)
    out["knee"] = power == power.max()
    out.attrs.update(runs=search.runs, ended=search.ended)
    return out


def _whole_load(load: float) -> float:
    return float(max(1, round(load)))


def _search_load(
    holds: Callable[[float], bool | None],
    rounded: Callable[[float], float],
    limits: tuple[float, float],
    within: float,
) -> None:
    """Doubles the load from the lower end until it fails, then halves the gap. `holds` returns None to end
    the search."""
    best, load, failing = 0.0, rounded(limits[0]), math.inf
    while best < load < failing:
        held = holds(load)
        if held is None:
            return
        best, failing = (load, failing) if held else (best, load)
        if math.isinf(failing):
            load = rounded(min(limits[1], 2.0 * load))
        elif not best or failing <= best * (1.0 + within):
            return
        else:
            load = rounded(math.sqrt(best * failing))


@dataclass(slots=True)
class _Search:
    """The measured loads, and what they have used of the budget."""

    model: Model
    prompts: Any
    by: str
    limits: Mapping[str, float]
    at_least: float
    level: float
    budget: Budget
    options: dict[str, Any]
    spent: dict[str, float] = field(default_factory=lambda: dict.fromkeys(_BUDGET_NAMES, 0.0))
    rows: list[dict[str, Any]] = field(default_factory=list)
    runs: list[str] = field(default_factory=list)
    ended: str = ""

    def holds(self, load: float) -> bool | None:
        """Measures a load until it is decided; None where the budget is used up or the user stops."""
        frames: list[pd.DataFrame] = []
        for number in range(_MAX_BLOCKS):
            try:
                frames.append(self._measure_block(load, number))
            except KeyboardInterrupt:
                self.ended = "stopped"
            if not frames:
                return None
            row, decided = self._judge(load, frames)
            if decided is not None or self.ended or number == _MAX_BLOCKS - 1:
                break
        self.rows.append(row)
        return None if self.ended else bool(row["holds"])

    def _measure_block(self, load: float, seed: int) -> pd.DataFrame:
        remaining = {k: v - self.spent[k] for k in self.spent if (v := getattr(self.budget, k)) is not None}
        if any(v <= 0 for v in remaining.values()):
            self.ended = "the budget is used up"
            raise KeyboardInterrupt
        load_option = {self.by: int(load) if self.by == "concurrency" else load}
        run_options: dict[str, Any] = {"warmup": 1, "progress": False, **self.options, **load_option}
        df = run(self.model, self.prompts, blocks=1, seed=seed, budget=remaining or None, **run_options)
        metadata = df.attrs["nbllm"]
        self.runs.append(str(metadata["run_id"]))
        self.ended = "" if metadata.get("ended") in (None, "complete") else str(metadata["ended"])
        for row in df.to_dict("records"):
            dollars, tokens = cost_and_tokens(plain_row(row))
            self.spent["usd"] += dollars
            self.spent["tokens"] += tokens
        self.spent["requests"] += len(df)
        self.spent["seconds"] += _duration_s(df)
        return df

    def _judge(self, load: float, frames: list[pd.DataFrame]) -> tuple[dict[str, Any], bool | None]:
        """(the row of a load, whether it holds; None while undecided)."""
        blocks = [f.assign(block=i) for i, f in enumerate(frames)]
        df = pd.concat(blocks, ignore_index=True) if len(blocks) > 1 else blocks[0]
        goodput_rows = goodput(df, at_least=self.at_least, **self.limits)
        n, good = int(goodput_rows["n"].sum()), int(goodput_rows["good"].sum())
        lo, hi, _ = st.wilson(good, n, 1.0 - (1.0 - self.level) / _MAX_BLOCKS)
        share = good / n if n else 0.0
        decided = False if hi < self.at_least or not n else True if lo >= self.at_least else None
        used = measured_requests(df)
        answered = used[success_mask(used)]
        seconds = sum(_duration_s(measured_requests(f)) for f in frames)
        row = {
            "load": load,
            "n": n,
            "good": good,
            "share": share,
            "ci_lo": lo,
            "ci_hi": hi,
            "holds": share >= self.at_least if decided is None else decided,
            "sure": decided is not None,
            "achieved_s": len(answered) / seconds if seconds else math.nan,
            "good_s": good / seconds if seconds else math.nan,
            "e2e_ms": float(answered["e2e_ms"].median()) if len(answered) else math.nan,
        }
        return row, decided


def _duration_s(df: pd.DataFrame) -> float:
    """Seconds from the first call to the last answer."""
    calls, ends = df["ns_call"].dropna(), df["ns_tokN"].fillna(df["ns_call"]).dropna()
    return float(ends.max() - calls.min()) / 1e9 if len(calls) else 0.0
