"""Prompts of a given length, made of common English words."""

from __future__ import annotations

import random
from collections.abc import Callable, Sized

from ..core.errors import ConfigError
from ..core.messages import Message
from .counting import to_count
from .prompts import Prompt
from .words import COMMON_WORDS

_TASK = "In one sentence, say what these words have in common."
_OVERHEAD = 14  # approximate tokens of the task


def synthetic(
    tokens: int,
    n: int = 1,
    *,
    seed: int = 0,
    tokenizer: Callable[[str], int | Sized] | None = None,
    ask: str = _TASK,
) -> list[Prompt]:
    """`n` different prompts of `tokens` tokens each: random words, and a short task after them.

    tokenizer: a function from a text to a count or a list of tokens; with it the length is exact or one word
    short, without it within some 5 % for the usual vocabularies. Raises ConfigError for fewer tokens than the
    task needs.
    """

    def length(text: str) -> int:
        return to_count(tokenizer(text)) if tokenizer else 0

    least = length(f"\n\n{ask}") if tokenizer else _OVERHEAD
    if tokens <= least:
        raise ConfigError(
            f"A prompt of {tokens} tokens is too short for its task, which takes {least}.",
            hint=f"synthetic(tokens={least + 50})",
        )
    out = []
    for number in range(n):
        rng = random.Random(f"synthetic {seed} {number}")
        words = [rng.choice(COMMON_WORDS) for _ in range(tokens - least)]  # each is about one token
        if tokenizer:
            words = _fit_length(words, rng, tokens, lambda ws: length(f"{' '.join(ws)}\n\n{ask}"))
        out.append(
            Prompt(f"synthetic-{tokens}-{number}", ((Message("user", f"{' '.join(words)}\n\n{ask}"),),))
        )
    return out


def _fit_length(
    words: list[str], rng: random.Random, tokens: int, length: Callable[[list[str]], int]
) -> list[str]:
    """As many words as fit: extended by the missing number, then cut by binary search."""
    while (missing := tokens - length(words)) > 0:
        words += [rng.choice(COMMON_WORDS) for _ in range(missing)]
    low, high = 0, len(words)
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if length(words[:middle]) <= tokens else (low, middle - 1)
    return words[:low]
