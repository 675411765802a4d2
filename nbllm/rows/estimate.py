"""What a run, and a row of it, will take: tokens, US dollars, minutes. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from ..core.calls import ModelFacts
from ..core.events import Usage
from ..core.values import plural, token_estimate
from ..routing import prices
from ..store.budgets import Amount

_FEW, _CENTS = 20, 0.05  # rows, and US dollars, that need no question
_USUAL_OUTPUT = 200  # tokens that an estimate expects of one
_START, _SPEED = 1.0, 60.0  # seconds to the first token, and tokens a second, that an estimate expects


def taken(read: float, made: float, facts: ModelFacts) -> Amount:
    """Tokens read and made, and what they cost; None where the model has no price."""
    return Amount(prices.cost_by_facts(Usage(round(read), round(made)), facts), round(read + made))


@dataclass(frozen=True, slots=True)
class Estimate:
    """What a run will about take. rows: of the table; questions: that will be asked."""

    rows: int
    questions: int
    amount: Amount
    minutes: float

    @classmethod
    def of(
        cls,
        rows: int,
        questions: int,
        sample: Iterable[str],
        *,
        facts: ModelFacts,
        max_tokens: int | None,
        width: int,
    ) -> Estimate:
        """From some of the prompts."""
        sizes = [token_estimate(prompt) for prompt in sample]
        read = sum(sizes) / len(sizes) if sizes else 0.0
        made = min(max_tokens or _USUAL_OUTPUT, _USUAL_OUTPUT)
        seconds = questions * (_START + made / _SPEED) / max(1, min(width, questions))
        return cls(rows, questions, taken(questions * read, questions * made, facts), seconds / 60)

    @property
    def usd(self) -> float | None:
        """US dollars, None where the price is not known."""
        return self.amount.usd

    @property
    def tokens(self) -> int:
        """Tokens, read and made."""
        return self.amount.tokens

    @property
    def small(self) -> bool:
        """Whether nobody need be asked: a handful of rows, or cents within a minute."""
        return self.questions <= _FEW or (self.usd is not None and self.usd < _CENTS and self.minutes < 1)

    def __str__(self) -> str:
        asked = "" if self.questions == self.rows else f" ({self.questions:,} to ask)"
        money = "price not known" if self.usd is None else f"about ${self.usd:,.2g}"
        time = "less than a minute" if self.minutes < 1 else f"about {self.minutes:,.0f} min"
        tokens = plural(round(self.tokens), "token")
        return f"{plural(self.rows, 'row')}{asked}, about {tokens}, {money}, {time}"
