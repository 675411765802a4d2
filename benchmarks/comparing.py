"""True and false differences found by compare() under drift that is common to all models, next to the usual
method.

    python benchmarks/comparing.py [runs]        400 simulated runs of each kind by default, some two minutes

Simulated times to first token: log-normal noise of 30 % and a common random walk (slow minutes and hours).
The usual method measures one model after the other and compares means with a t test; compare() uses blocks.
`oracle` is the paired t test on the logarithms of the same blocks, which knows the distribution: no test
without that knowledge can do much better.
"""

from __future__ import annotations

import sys
from collections import Counter

import numpy as np
import scipy.stats

from nbllm.bench import compare
from nbllm.store import columns

BLOCKS = 200
NOISE, WALK = 0.30, 0.02


def drift(n: int, rng: np.random.Generator) -> np.ndarray:
    return np.cumsum(rng.normal(0, WALK, n))


def paired(ratio: float, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    common = drift(BLOCKS, rng)
    a, b = (200 * np.exp(common + rng.normal(0, NOISE, BLOCKS)) for _ in range(2))
    return a * ratio, b


def one_after_the_other(ratio: float, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    times = 200 * np.exp(drift(2 * BLOCKS, rng) + rng.normal(0, NOISE, 2 * BLOCKS))
    return times[:BLOCKS] * ratio, times[BLOCKS:]


def frame(a: np.ndarray, b: np.ndarray) -> object:
    return columns.frame(
        {
            "run_id": "r",
            "request_id": f"{name}{i}",
            "attempt": 1,
            "name": name,
            "block": i,
            "phase": "measure",
            "start_kind": "warm",
            "load_kind": "closed",
            "concurrency": 1,
            "ok": True,
            "quality": "certified",
            "ns_call": i,
            "ttft_ms": float(v),
        }
        for name, side in (("a", a), ("b", b))
        for i, v in enumerate(side)
    )


def main(runs: int) -> int:
    is_within = True
    for ratio in (1.0, 1.08):
        rng = np.random.default_rng(2026)
        counts: Counter[str] = Counter()
        for _ in range(runs):
            a, b = paired(ratio, rng)
            row = compare(frame(a, b), metrics="ttft_ms", margin=0.0).iloc[0]
            counts["compare"] += row["verdict"] in ("faster", "slower")
            counts["covered"] += row["ci_lo"] <= ratio <= row["ci_hi"]
            counts["oracle"] += scipy.stats.ttest_rel(np.log(a), np.log(b)).pvalue < 0.05
            counts["unpaired t"] += scipy.stats.ttest_ind(a, b).pvalue < 0.05
            counts["one after the other, t"] += (
                scipy.stats.ttest_ind(*one_after_the_other(ratio, rng)).pvalue < 0.05
            )
        shares = {name: n / runs for name, n in counts.items()}
        print(
            f"true ratio {ratio}: called different by "
            + ", ".join(
                f"{n} {shares[n]:.1%}" for n in ("compare", "oracle", "unpaired t", "one after the other, t")
            )
            + f"; compare's interval holds the truth in {shares['covered']:.1%}"
        )
        is_within &= (
            shares["compare"] <= 0.06
            if ratio == 1.0
            else shares["compare"] >= min(shares["oracle"] - 0.05, 0.66)
        )
    print(
        "bars kept"
        if is_within
        else "OVER: at most 6 % of identical models, and of an 8 % difference as much as pairs allow"
    )
    return not is_within


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1]) if len(sys.argv) > 1 else 400))
