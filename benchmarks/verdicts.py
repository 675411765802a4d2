"""How often verdicts are right: false verdicts, power and coverage in every mode, next to a t test and no
test.

    python benchmarks/verdicts.py [runs [words]]     200 simulated runs of each kind, some two minutes
    python benchmarks/verdicts.py 2000 "own noise"   only the kinds whose names contain these words

`false`: equal models that are called different (at most 6 %), with the 95 % interval of the share: the limit
is kept only if the whole interval is below 6 %, and exceeded if all of it is above; in between, more runs are
needed. `power`: true differences that are found. `coverage`: intervals that contain the true value (95 %).
Next to ours are a t test of the same requests, as one would do it by hand, and two medians compared directly,
as guidellm and aiperf report them: they do not test, so a reader always calls the smaller one faster.
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
    """{run: {model: its values, one per block; NaN for a failure}} as a frame of requests."""
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
    """Models at three levels of load, each level with its own blocks."""

    def generate(rng: Rng) -> Any:
        import pandas as pd

        parts = []
        for level, wide in enumerate((1, 4, 16)):
            df = frame({"r": models(m, n, factor, normal(n), rng)})
            ids, blocks = df["request_id"] + f"-{wide}", df["block"] + level * n
            parts.append(df.assign(concurrency=wide, request_id=ids, block=blocks))
        return pd.concat(parts, ignore_index=True), {}

    return generate


def across(n: int, n2: int, r: float, factor: float = 1.0) -> Callable[[Rng], Any]:
    def generate(rng: Rng) -> Any:
        sides = {
            "r1": {"m": 100 * np.exp(NOISE * ar(n, r, rng))},
            "r2": {"m": 100 / factor * np.exp(NOISE * ar(n2, r, rng))},
        }
        return frame(sides), {"by": "run_id"}

    return generate


def differences(n: int, r: float, factor: float = 1.0) -> Callable[[Rng], Any]:
    """Two days, one of them 20 % slower, each with a reference model."""

    def generate(rng: Rng) -> Any:
        sides = {}
        for run, day, mine in (("r1", 1.2, factor), ("r2", 1.0, 1.0)):
            world = 0.3 * ar(n, r, rng)
            noise = rng.normal(0, NOISE / 2, (2, n))
            sides[run] = {
                "m": 100 * day * mine * np.exp(world + noise[0]),
                "ref": 80 * day * np.exp(world + noise[1]),
            }
        return frame(sides), {"by": "run_id", "reference": "ref"}

    return generate


def failing(n: int) -> Callable[[Rng], Any]:
    """Two equal models that both fail in one of ten blocks."""

    def generate(rng: Rng) -> Any:
        sides = models(2, n, 1.0, normal(n), rng)
        return frame({"r": {k: np.where(rng.random(n) < 0.1, np.nan, v) for k, v in sides.items()}}), {}

    return generate


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


def measure(generate: Callable[[Rng], Any], runs: int, seed: int) -> tuple[float, float, float]:
    """Shares: runs with a verdict by compare(), comparisons decided by compare(), runs with a difference by
    the t test."""
    rng = np.random.default_rng(seed)
    ours = naive = decided = 0.0
    for _ in range(runs):
        df, options = generate(rng)
        rows = compare(df, metrics="ttft_ms", **options)
        has_verdict = rows["verdict"].isin(["faster", "slower"])
        ours += bool(has_verdict.any())
        decided += float(has_verdict.mean())
        naive += _differs_by_t_test(df, options)
    return ours / runs, decided / runs, naive / runs


def _differs_by_t_test(df: Any, options: dict[str, Any]) -> bool:
    """Whether any pair differs by Welch's test at 5 %, as one would do it by hand."""
    used = df[df["name"] != options.get("reference")].dropna(subset="ttft_ms")
    sides = [part["ttft_ms"].to_numpy() for _, part in used.groupby(options.get("by", "name"))]
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
    print("\ncoverage of 95 % intervals: median (how often there is one), mean (without its own warning)")
    for name, (draw, median, mean) in shapes.items():
        for n in (10, 30, 100):
            counts = [0, 0, 0, 0, 0]
            for _ in range(runs * 3):
                values = draw(n)
                lo, hi, _ = st.order_interval(values, 0.5, 0.95, st.effective_n(values))
                counts[0] += lo <= median <= hi
                counts[1] += not np.isnan(lo + hi)
                lo, hi, method = st.mean_interval(values)
                counts[2] += lo <= mean <= hi
                if "less" not in method:
                    counts[3] += lo <= mean <= hi
                    counts[4] += 1
            k = runs * 3
            mean_text = f"{counts[3] / counts[4]:.1%} of {counts[4] / k:.0%}" if counts[4] else "never"
            print(
                f"  {name:14} n={n:<4} median {counts[0] / k:6.1%} ({counts[1] / k:.0%})   "
                f"mean {counts[2] / k:6.1%} ({mean_text})"
            )


def stopping(runs: int) -> None:
    print("\nstop_when=0.05: runs whose interval misses the true value, and blocks until the stop")
    for r in (0.0, 0.5, 0.8, 0.95):
        rng, missed, blocks = np.random.default_rng(4), 0, []
        for _ in range(runs):
            early_stop = EarlyStop(0.05)
            for i, value in enumerate(NOISE * ar(1500, r, rng)):
                early_stop.add("m", float(value))
                if i % 5 == 4 and early_stop.done:
                    break
            lo, hi = early_stop.intervals()["m"]
            missed += not lo <= 0 <= hi
            blocks.append(i + 1)
        print(f"  own noise {r}: {missed / runs:.1%}, median of {np.median(blocks):.0f} blocks")


def false_verdicts(runs: int, pattern: str) -> bool:
    """Whether no kind exceeds the limit."""
    print(
        f"false verdicts of {runs} runs: equal models called different (ours, interval, bar of {BAR:.0%} | "
        "t test by hand | medians side by side)"
    )
    outcomes = Counter[str]()
    for i, (name, generate) in enumerate(FALSE.items()):
        if pattern not in name:
            continue
        ours, _, naive = measure(generate, runs, i)
        lo, hi, _ = st.wilson(round(ours * runs), runs)
        outcome = "EXCEEDED" if lo > BAR else "kept" if hi <= BAR else "not shown"
        outcomes[outcome] += 1
        print(
            f"  {name:34} {ours:6.1%} [{lo:5.1%}, {hi:5.1%}] {outcome:9} | {naive:6.1%} | 100 %", flush=True
        )
    more = ": more runs are needed" if outcomes["not shown"] else ""
    print(
        f"kept in {outcomes['kept']}, exceeded in {outcomes['EXCEEDED']}, "
        f"not shown in {outcomes['not shown']}{more}"
    )
    return not outcomes["EXCEEDED"]


def main(runs: int, pattern: str = "") -> int:
    passed = false_verdicts(runs, pattern)
    if pattern:
        return not passed
    print("\npower: share of decided comparisons of models that differ")
    for i, (name, generate) in enumerate(POWER.items()):
        fewer_runs = max(10, runs // 5)
        print(f"  {name:42} {measure(generate, fewer_runs, 100 + i)[1]:6.1%}")
    coverage(runs)
    stopping(max(20, runs // 4))
    return not passed


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1]) if len(sys.argv) > 1 else 200, *sys.argv[2:3]))
