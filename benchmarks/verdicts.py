"""How often verdicts are right: false ones, power and coverage of every mode, beside a t test and no test.

    python benchmarks/verdicts.py [runs [words]]     200 simulated runs of each kind, some two minutes
    python benchmarks/verdicts.py 2000 "own noise"   of the kinds that have these words, and nothing else

`false`: equal models that are called different (at most 6 %), with the 95 % interval of the share: the bar
is kept only where all of it is below 6 %, and exceeded where all of it is above; between, more runs would
tell. `power`: a true difference that is found. `coverage`: intervals that hold the truth (95 %). Beside ours
stand a t test of the same requests, as one would make it by hand, and two medians laid side by side, which is
what guidellm and aiperf give: they report and do not test, so that whoever reads them calls the smaller
one faster, every time.
"""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Callable
from typing import Any

import numpy as np
import scipy.stats

from nbllm.bench import statistics as st
from nbllm.bench.comparison import compare
from nbllm.bench.early_stop import EarlyStop

Rng = np.random.Generator
Series = dict[str, np.ndarray]
NOISE = 0.2
BAR = 0.06


def ar(n: int, r: float, rng: Rng) -> np.ndarray:
    """A stationary autoregression of variance 1."""
    x = [rng.normal()]
    for e in rng.normal(size=n - 1) * np.sqrt(1 - r * r):
        x.append(r * x[-1] + e)
    return np.array(x)


def frame(sides: dict[str, Series]) -> Any:
    """{run: {model: its values, one a block; NaN a failure}} as a frame of requests."""
    import pandas as pd

    parts = [
        pd.DataFrame(
            {
                "run_id": run,
                "request_id": [f"{name}{i}" for i in range(len(values))],
                "attempt": 1,
                "name": name,
                "block": range(len(values)),
                "phase": "measure",
                "start_kind": "warm",
                "load_kind": "closed",
                "concurrency": 1,
                "ok": ~np.isnan(values),
                "quality": "certified",
                "ns_call": range(len(values)),
                "ttft_ms": values,
            }
        )
        for run, models in sides.items()
        for name, values in models.items()
    ]
    return pd.concat(parts, ignore_index=True)


def models(m: int, n: int, factor: float, noise: Callable[[Rng], np.ndarray], rng: Rng) -> Series:
    common = np.cumsum(rng.normal(0, 0.03, n))  # slow minutes that hit all models alike
    return {f"m{i:02}": 100 * factor**i * np.exp(common + noise(rng)) for i in range(m)}


def normal(n: int) -> Callable[[Rng], np.ndarray]:
    return lambda rng: rng.normal(0, NOISE, n)


def correlated(n: int, r: float) -> Callable[[Rng], np.ndarray]:
    return lambda rng: NOISE * ar(n, r, rng)


def heavy(n: int) -> Callable[[Rng], np.ndarray]:
    return lambda rng: NOISE * rng.standard_t(1.5, n)


def tied(n: int) -> Callable[[Rng], np.ndarray]:
    return lambda rng: np.round(rng.normal(0, 1, n)) * NOISE


def within(m: int, n: int, noise: Callable[[Rng], np.ndarray], factor: float = 1.0) -> Callable[[Rng], Any]:
    return lambda rng: (frame({"r": models(m, n, factor, noise, rng)}), {})


def levels(m: int, n: int, factor: float = 1.0) -> Callable[[Rng], Any]:
    """So many models at three levels of load, each level with blocks of its own."""

    def made(rng: Rng) -> Any:
        import pandas as pd

        parts = []
        for level, wide in enumerate((1, 4, 16)):
            df = frame({"r": models(m, n, factor, normal(n), rng)})
            ids, blocks = df["request_id"] + f"-{wide}", df["block"] + level * n
            parts.append(df.assign(concurrency=wide, request_id=ids, block=blocks))
        return pd.concat(parts, ignore_index=True), {}

    return made


def across(n: int, n2: int, r: float, factor: float = 1.0) -> Callable[[Rng], Any]:
    def made(rng: Rng) -> Any:
        sides = {
            "r1": {"m": 100 * np.exp(NOISE * ar(n, r, rng))},
            "r2": {"m": 100 / factor * np.exp(NOISE * ar(n2, r, rng))},
        }
        return frame(sides), {"by": "run_id"}

    return made


def differences(n: int, r: float, factor: float = 1.0) -> Callable[[Rng], Any]:
    """Two days, one slower by a fifth, each with a reference."""

    def made(rng: Rng) -> Any:
        sides = {}
        for run, day, mine in (("r1", 1.2, factor), ("r2", 1.0, 1.0)):
            world = 0.3 * ar(n, r, rng)
            noise = rng.normal(0, NOISE / 2, (2, n))
            sides[run] = {
                "m": 100 * day * mine * np.exp(world + noise[0]),
                "ref": 80 * day * np.exp(world + noise[1]),
            }
        return frame(sides), {"by": "run_id", "reference": "ref"}

    return made


def failing(n: int) -> Callable[[Rng], Any]:
    """Two equal models that fail alike, every tenth time."""

    def made(rng: Rng) -> Any:
        sides = models(2, n, 1.0, normal(n), rng)
        return frame({"r": {k: np.where(rng.random(n) < 0.1, np.nan, v) for k, v in sides.items()}}), {}

    return made


FALSE = {
    "two models, 10 blocks": within(2, 10, normal(10)),
    "two models, 30 blocks": within(2, 30, normal(30)),
    "five models, 10 blocks": within(5, 10, normal(10)),
    "twelve models, 30 blocks": within(12, 30, normal(30)),
    "twelve models, three levels, 30 blocks": levels(12, 30),
    "heavy tails, 30 blocks": within(2, 30, heavy(30)),
    "ties, 10 blocks": within(2, 10, tied(10)),
    "ties, five models, 8 blocks": within(5, 8, tied(8)),
    "failures of both, 30 blocks": failing(30),
    **{
        f"own noise {r}, {m} models, {n} blocks": within(m, n, correlated(n, r))
        for r in (0.5, 0.8, 0.95)
        for m, n in ((2, 10), (2, 30), (5, 30))
    },
    **{
        f"two runs, {r}, {n} and {n2} blocks": across(n, n2, r)
        for r in (0.0, 0.5, 0.8, 0.95)
        for n, n2 in ((30, 30), (60, 20))
    },
    "two runs and a reference, 0.95": differences(30, 0.95),
}
POWER = {
    "five models, 10 blocks, x 2, noise 5 %": within(5, 10, lambda rng: rng.normal(0, 0.05, 10), 2.0),
    "five models, 10 blocks, x 2, noise 20 %": within(5, 10, normal(10), 2.0),
    "two models, 10 blocks, x 2, noise 20 %": within(2, 10, normal(10), 2.0),
    "twelve models, 30 blocks, 30 %": within(12, 30, normal(30), 1.3),
    "twelve models, three levels, 30 blocks, 30 %": levels(12, 30, 1.3),
    "two models, 100 blocks, 10 %": within(2, 100, normal(100), 1.1),
    "two runs, 60 blocks, 30 %": across(60, 60, 0.0, 1.3),
    "two runs and a reference, 30 blocks, 20 %": differences(30, 0.8, 1.2),
}


def measure(made: Callable[[Rng], Any], runs: int, seed: int) -> tuple[float, float, float]:
    """Shares: runs with a verdict by ours, comparisons decided by ours, runs with a difference by t."""
    rng = np.random.default_rng(seed)
    ours = naive = decided = 0.0
    for _ in range(runs):
        df, how = made(rng)
        rows = compare(df, metrics="ttft_ms", **how)
        found = rows["verdict"].isin(["faster", "slower"])
        ours += bool(found.any())
        decided += float(found.mean())
        naive += _t(df, how)
    return ours / runs, decided / runs, naive / runs


def _t(df: Any, how: dict[str, Any]) -> bool:
    """Whether any pair differs by Welch's test at 5 %, as one would make it by hand."""
    used = df[df["name"] != how.get("reference")].dropna(subset="ttft_ms")
    sides = [part["ttft_ms"].to_numpy() for _, part in used.groupby(how.get("by", "name"))]
    return any(
        scipy.stats.ttest_ind(a, b, equal_var=False).pvalue < 0.05
        for i, a in enumerate(sides)
        for b in sides[i + 1 :]
    )


def coverage(runs: int) -> None:
    rng = np.random.default_rng(3)
    shapes = {
        "normal": (lambda n: rng.normal(100, 20, n), 100.0, 100.0),
        "lognormal": (lambda n: 100 * np.exp(rng.normal(0, 0.5, n)), 100.0, 100 * np.exp(0.125)),
        "own noise 0.7": (lambda n: 100 + 20 * ar(n, 0.7, rng), 100.0, 100.0),
        "Pareto 1.5": (lambda n: rng.pareto(1.5, n) + 1, 2 ** (1 / 1.5), 3.0),
    }
    print("\ncoverage of 95 % intervals: median (how often there is one), mean (where it says nothing)")
    for name, (draw, median, mean) in shapes.items():
        for n in (10, 30, 100):
            got = [0, 0, 0, 0, 0]
            for _ in range(runs * 3):
                values = draw(n)
                lo, hi, _ = st.order_interval(values, 0.5, 0.95, st.effective_n(values))
                got[0] += lo <= median <= hi
                got[1] += not np.isnan(lo + hi)
                lo, hi, how = st.mean_interval(values)
                got[2] += lo <= mean <= hi
                if "less" not in how:
                    got[3] += lo <= mean <= hi
                    got[4] += 1
            k = runs * 3
            said = f"{got[3] / got[4]:.1%} of {got[4] / k:.0%}" if got[4] else "never"
            print(
                f"  {name:14} n={n:<4} median {got[0] / k:6.1%} ({got[1] / k:.0%})   mean {got[2] / k:6.1%} "
                f"({said})"
            )


def stopping(runs: int) -> None:
    print("\nstop_when=0.05: runs whose interval at the stop misses the truth, and blocks until then")
    for r in (0.0, 0.5, 0.8, 0.95):
        rng, missed, blocks = np.random.default_rng(4), 0, []
        for _ in range(runs):
            stopper = EarlyStop(0.05)
            for i, value in enumerate(NOISE * ar(1500, r, rng)):
                stopper.add("m", float(value))
                if i % 5 == 4 and stopper.done:
                    break
            lo, hi = stopper.intervals()["m"]
            missed += not lo <= 0 <= hi
            blocks.append(i + 1)
        print(f"  own noise {r}: {missed / runs:.1%}, median of {np.median(blocks):.0f} blocks")


def false_verdicts(runs: int, words: str) -> bool:
    """Whether no kind is shown to exceed the bar."""
    print(
        f"false verdicts of {runs} runs: equal models called different (ours, interval, bar of {BAR:.0%} | "
        "t test by hand | medians side by side)"
    )
    found = Counter[str]()
    for i, (name, made) in enumerate(FALSE.items()):
        if words not in name:
            continue
        ours, _, naive = measure(made, runs, i)
        lo, hi, _ = st.wilson(round(ours * runs), runs)
        said = "EXCEEDED" if lo > BAR else "kept" if hi <= BAR else "not shown"
        found[said] += 1
        print(f"  {name:34} {ours:6.1%} [{lo:5.1%}, {hi:5.1%}] {said:9} | {naive:6.1%} | 100 %", flush=True)
    more = ": more runs would tell" if found["not shown"] else ""
    print(
        f"kept in {found['kept']}, exceeded in {found['EXCEEDED']}, not shown in {found['not shown']}{more}"
    )
    return not found["EXCEEDED"]


def main(runs: int, words: str = "") -> int:
    kept = false_verdicts(runs, words)
    if words:
        return not kept
    print("\npower: comparisons decided, of models that differ")
    for i, (name, made) in enumerate(POWER.items()):
        few = max(10, runs // 5)
        print(f"  {name:42} {measure(made, few, 100 + i)[1]:6.1%}")
    coverage(runs)
    stopping(max(20, runs // 4))
    return not kept


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1]) if len(sys.argv) > 1 else 200, *sys.argv[2:3]))
