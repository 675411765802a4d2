"""Statistical power: what a run of a given number of blocks can detect, computed before it costs anything."""

from __future__ import annotations

import math

from ..core.extras import require_packages
from ..core.values import plural
from .frames import check_positive
from .statistics import MIN_PAIRS

_NOISE = 0.2  # standard deviation between blocks; public providers have 0.1 to 0.4
_TARGET_POWER = 0.8
_MAX_BLOCKS = 100_000  # blocks


def power(
    models: int, blocks: int, detect: float = 0.1, *, noise: float = _NOISE, level: float = 0.95
) -> float:
    """The probability that `compare` finds a true difference of `detect` (0.1 is 10 %) between two of
    `models` models in `blocks` blocks. noise: the relative standard deviation of a model's times between
    blocks.

    It is the power of the paired t test on the logarithms, corrected for all pairs of models; autocorrelation
    between blocks lowers it. Raises ConfigError for invalid arguments.
    """
    require_packages("detect=", "bench", "scipy")
    from scipy.stats import nct, t

    check_positive("detect", detect, "detect=0.1 is 10 %.")
    check_positive("noise", noise, "noise=0.2 is 20 %.")
    if blocks < MIN_PAIRS or models < 2:
        return 0.0
    pairs = models * (models - 1) / 2
    critical = float(t.isf((1.0 - level) / pairs / 2.0, blocks - 1))
    noncentrality = math.log1p(detect) / (noise * math.sqrt(2.0)) * math.sqrt(blocks)
    probability = float(nct.sf(critical, blocks - 1, noncentrality))
    return 1.0 if math.isnan(probability) else probability  # scipy returns NaN for a very large effect


def blocks_for(models: int, detect: float, *, noise: float = _NOISE) -> int:
    """The smallest number of blocks with a power of 80 %."""
    low, high = MIN_PAIRS - 1, MIN_PAIRS
    while high < _MAX_BLOCKS and power(models, high, detect, noise=noise) < _TARGET_POWER:
        low, high = high, 2 * high
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (
            (low, middle) if power(models, middle, detect, noise=noise) >= _TARGET_POWER else (middle, high)
        )
    return high


def power_warning(models: int, blocks: int, detect: float | None) -> str:
    """A warning where a run has too few blocks, "" otherwise."""
    pairs = models * (models - 1) // 2
    comparisons = plural(pairs, "comparison")
    if detect is None:
        too_few = blocks < MIN_PAIRS and pairs > 0
        return (
            f"At least {MIN_PAIRS} blocks are needed to decide among {comparisons}, not {blocks}."
            if too_few
            else ""
        )
    check_positive("detect", detect, "detect=0.1 is 10 %.")
    chance = power(models, blocks, detect) if pairs else 1.0
    if chance >= _TARGET_POWER:
        return ""
    return (
        f"With {plural(blocks, 'block')}, a difference of {detect:.0%} among "
        f"{comparisons} is found with a probability of {chance:.0%}, "
        f"if times vary by {_NOISE:.0%} from block to block; "
        f"blocks={blocks_for(models, detect)} raises it to {_TARGET_POWER:.0%}."
    )
