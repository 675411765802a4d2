"""What a run of so many blocks can find, said before it is paid for."""

from __future__ import annotations

import math

from ..core.errors import ConfigError
from ..core.extras import require_packages
from ..core.values import plural
from .statistics import MIN_PAIRS

_NOISE = 0.2  # from block to block; providers on the open network vary by 10 to 40 %
_TARGET_POWER = 0.8
_MAX_BLOCKS = 100_000  # blocks


def power(
    models: int, blocks: int, detect: float = 0.1, *, noise: float = _NOISE, level: float = 0.95
) -> float:
    """The chance that `compare` finds a true difference of `detect` (0.1 is 10 %) between two of so many
    models in so many blocks. noise: the standard deviation of a model's times from block to block, as a
    share.

    It is that of the paired t test on the logarithms, corrected for all pairs of models; neighbours that
    resemble each other make it smaller. Raises ConfigError for what cannot be."""
    require_packages("detect=", "bench", "scipy")
    from scipy.stats import nct, t

    check_positive(detect, "detect")
    check_positive(noise, "noise")
    if blocks < MIN_PAIRS or models < 2:
        return 0.0
    pairs = models * (models - 1) / 2
    critical = float(t.isf((1.0 - level) / pairs / 2.0, blocks - 1))
    noncentrality = math.log1p(detect) / (noise * math.sqrt(2.0)) * math.sqrt(blocks)
    probability = float(nct.sf(critical, blocks - 1, noncentrality))
    return 1.0 if math.isnan(probability) else probability  # so far from 0 that scipy gives up


def check_positive(value: float, name: str) -> None:
    """Raises ConfigError for what is no share above 0."""
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 < value < math.inf:
        raise ConfigError(f"{name} is a share above 0, not {value!r}.", hint=f"{name}=0.1 is 10 %.")


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
    """What is to be said before a run, "" where nothing is."""
    pairs = models * (models - 1) // 2
    comparisons = plural(pairs, "comparison")
    if detect is None:
        few = blocks < MIN_PAIRS and pairs > 0
        return (
            f"At least {MIN_PAIRS} blocks are needed to decide among {comparisons}, not {blocks}."
            if few
            else ""
        )
    check_positive(detect, "detect")
    chance = power(models, blocks, detect) if pairs else 1.0
    if chance >= _TARGET_POWER:
        return ""
    return (
        f"With {plural(blocks, 'block')}, a difference of {detect:.0%} among "
        f"{comparisons} is found with a chance of {chance:.0%}, "
        f"where times vary by {_NOISE:.0%} from block to block; "
        f"blocks={blocks_for(models, detect)} with one of {_TARGET_POWER:.0%}."
    )
