"""Prompts of a given length, made of common English words."""

from __future__ import annotations

import random
from collections.abc import Callable, Sized
from typing import TYPE_CHECKING

from ..errors import ConfigError
from ..messages import Message

if TYPE_CHECKING:
    from .prompts import Prompt

# Words that the usual byte-pair vocabularies hold as one token, a space before them.
COMMON = tuple("""the of and to in is that for it as was with be by on not he his but at are this have from or had an they which one you were all her she there would
their we him been has when who will no more if out so up said what its about than into them can only other time new some could these two may first
then do any like my now over such our man me even most made after also well did many before must years back through much where your way down should
because long each just state those people how too little good world make very year still see own work men day get here old between both life being
under three never know same last another while us off might great go come since against right came take used states himself house few use place during
high without again home around small however found part school thought went say general once upon war left number course fact though water less public
put think almost hand enough far took head yet government system better set told nothing night end why called find going look asked later point knew
next program city business give group toward days young let room within side social present given several order second possible rather per face among
form important often things looked early white case large big need four children along church saw best ever least power light family seemed interest
want members mind country area others done turned although open god service certain kind problem began different door thus help sense means whole
matter itself law human above line name local company death free read past feet car child question body act tell effect action period""".split())  # noqa: SIM905 - four hundred quotes more say nothing

_ASK = "In one sentence, say what these words have in common."
_OVERHEAD = 14  # tokens of the sentence around the words, roughly
_TOKENS_A_WORD = 1.0  # of the words above


def synthetic(tokens: int, n: int = 1, *, seed: int = 0, tokenizer: Callable[[str], int | Sized] | None = None, ask: str = _ASK) -> list[Prompt]:
    """`n` different prompts of `tokens` tokens each, words without meaning and a short task after them.

    tokenizer: text to a count or a list of tokens; with it the length is exact or one word short, without it right within
    some 5 % for the usual vocabularies. Raises ConfigError for fewer tokens than the task alone takes.
    """
    from .prompts import Prompt

    def length(text: str) -> int:
        counted = tokenizer(text) if tokenizer else 0
        return counted if isinstance(counted, int) else len(counted)

    least = length(f"\n\n{ask}") if tokenizer else _OVERHEAD
    if tokens <= least:
        raise ConfigError(f"A prompt of {tokens} tokens has no room for its task, which takes {least}.", hint=f"synthetic(tokens={least + 50})")
    out = []
    for number in range(n):
        rng = random.Random(f"synthetic {seed} {number}")
        words = [rng.choice(COMMON) for _ in range(round((tokens - least) / _TOKENS_A_WORD))]
        if tokenizer:
            words = _fitted(words, rng, tokens, lambda ws: length(f"{' '.join(ws)}\n\n{ask}"))
        out.append(Prompt(f"synthetic-{tokens}-{number}", ((Message("user", f"{' '.join(words)}\n\n{ask}"),),)))
    return out


def _fitted(words: list[str], rng: random.Random, tokens: int, length: Callable[[list[str]], int]) -> list[str]:
    """As many words as fit: grown by what is missing, then cut by halves of what is too much."""
    while (missing := tokens - length(words)) > 0:
        words += [rng.choice(COMMON) for _ in range(missing)]
    low, high = 0, len(words)
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if length(words[:middle]) <= tokens else (low, middle - 1)
    return words[:low]
