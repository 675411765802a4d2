"""What a run may spend, what it will take, and whether one more row may begin: pure decisions."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from ..client.spending import ANSWER
from ..core.calls import ModelFacts
from ..core.errors import ConfigError

BYTES_PER_TOKEN = 4.0  # of English prose
_FEW, _CENTS = 20, 0.05  # rows, and US dollars, that need no question
_USUAL_OUTPUT = 200  # tokens that an estimate expects of one
_START, _SPEED = 1.0, 60.0  # seconds to the first token, and tokens a second, that an estimate expects


@dataclass(frozen=True, slots=True)
class Budget:
    """US dollars and tokens that may be spent; None for no limit."""

    usd: float | None = None
    tokens: float | None = None

    @classmethod
    def of(cls, given: Any) -> Budget:
        """From dollars, or a mapping of usd and tokens. Raises ConfigError for anything else."""
        values = dict(given) if isinstance(given, Mapping) else {} if given is None else {"usd": given}
        for name, value in values.items():
            number = isinstance(value, (int, float)) and not isinstance(value, bool)
            if name not in ("usd", "tokens") or not (number and 0 < value < float("inf")):
                raise ConfigError(
                    f"Not a budget: {name}={value!r}.",
                    hint="Give US dollars, as in budget=2, or budget={'usd': 2, 'tokens': 100_000}.",
                )
        return cls(**values)

    def allows(self, usd: float, tokens: float) -> bool:
        """Whether that much may be spent in all."""
        return (self.usd is None or usd <= self.usd) and (self.tokens is None or tokens <= self.tokens)

    def __str__(self) -> str:
        parts = [f"${self.usd:g}" if self.usd is not None else ""]
        parts += [f"{self.tokens:,.0f} tokens" if self.tokens is not None else ""]
        return " and ".join(filter(None, parts))


@dataclass(frozen=True, slots=True)
class Price:
    """US dollars for a million tokens read and made."""

    read: float
    made: float

    def of(self, read: float, made: float) -> float:
        """US dollars for so many tokens."""
        return (read * self.read + made * self.made) / 1e6


def price(facts: ModelFacts, *, simulated: bool) -> Price | None:
    """The price of a model; None where it is not known. A simulated one costs nothing."""
    if simulated:
        return Price(0.0, 0.0)
    return None if facts.input is None or facts.output is None else Price(facts.input, facts.output)


@dataclass(slots=True)
class Purse:
    """What a run has spent and what is reserved for rows under way. A row may begin where its reservation
    still fits, so that rows that run at once cannot overspend together."""

    budget: Budget
    price: Price | None
    max_tokens: int | None = None
    usd: float = 0.0
    tokens: float = 0.0
    reserved_usd: float = 0.0
    reserved_tokens: float = 0.0
    longest: float = 0.0  # tokens of the longest answer so far

    def need(self, prompt: str) -> tuple[float, float]:
        """(US dollars, tokens) to reserve for a prompt and its answer."""
        made = self.max_tokens or self.longest * 1.2 or ANSWER  # where none has ended yet
        read = tokens_in(prompt)
        return (self.price.of(read, made) if self.price else 0.0), read + made

    def fits(self, need: tuple[float, float]) -> bool:
        """Whether a row of that need may begin."""
        return self.budget.allows(
            self.usd + self.reserved_usd + need[0], self.tokens + self.reserved_tokens + need[1]
        )

    def reserve(self, need: tuple[float, float]) -> None:
        """Puts a row's need aside."""
        self.reserved_usd += need[0]
        self.reserved_tokens += need[1]

    def settle(self, need: tuple[float, float], usd: float | None, tokens: float | None, made: float) -> None:
        """Takes what a row really took; what is not known counts as was reserved."""
        self.reserved_usd -= need[0]
        self.reserved_tokens -= need[1]
        self.usd += need[0] if usd is None else usd
        self.tokens += need[1] if tokens is None else tokens
        self.longest = max(self.longest, made)


def tokens_in(text: str) -> float:
    """About how many tokens a text is."""
    return (
        len(text) / BYTES_PER_TOKEN
        if text.isascii()
        else len(text.encode("utf-8", "replace")) / BYTES_PER_TOKEN
    )


@dataclass(frozen=True, slots=True)
class Estimate:
    """What a run will about take. rows: of the table; questions: that will be asked; usd: None where the
    price is not known."""

    rows: int
    questions: int
    tokens: float
    usd: float | None
    minutes: float

    @classmethod
    def of(
        cls,
        rows: int,
        questions: int,
        sample: Iterable[str],
        *,
        price: Price | None,
        max_tokens: int | None,
        width: int,
    ) -> Estimate:
        """From some of the prompts."""
        sizes = [tokens_in(prompt) for prompt in sample]
        read = sum(sizes) / len(sizes) if sizes else 0.0
        made = min(max_tokens or _USUAL_OUTPUT, _USUAL_OUTPUT)
        seconds = questions * (_START + made / _SPEED) / max(1, min(width, questions))
        usd = None if price is None else questions * price.of(read, made)
        return cls(rows, questions, questions * (read + made), usd, seconds / 60)

    @property
    def small(self) -> bool:
        """Whether nobody need be asked: a handful of rows, or cents within a minute."""
        return self.questions <= _FEW or (self.usd is not None and self.usd < _CENTS and self.minutes < 1)

    def __str__(self) -> str:
        asked = "" if self.questions == self.rows else f" ({self.questions:,} to ask)"
        money = "price not known" if self.usd is None else f"about ${self.usd:,.2g}"
        time = "less than a minute" if self.minutes < 1 else f"about {self.minutes:,.0f} min"
        return f"{self.rows:,} rows{asked}, about {self.tokens:,.0f} tokens, {money}, {time}"
