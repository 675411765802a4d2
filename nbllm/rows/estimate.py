"""Estimates the tokens, US dollars and minutes of a run and of its rows. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from ..core.calls import ModelFacts
from ..core.events import Usage
from ..core.values import plural, token_estimate
from ..routing import prices
from ..store.budgets import Amount

_FEW_ROWS, _FEW_CENTS = 20, 0.05  # rows, and US dollars, that need no confirmation
_TYPICAL_OUTPUT = 200  # tokens of an answer
_TYPICAL_TTFT, _TYPICAL_SPEED = 1.0, 60.0  # seconds to the first token, and tokens a second


def amount_of(input_tokens: float, output_tokens: float, facts: ModelFacts) -> Amount:
    """The tokens of input and output, and their cost; usd is None where the model has no price."""
    return Amount(
        prices.cost_by_facts(Usage(round(input_tokens), round(output_tokens)), facts),
        round(input_tokens + output_tokens),
    )


@dataclass(frozen=True, slots=True)
class Estimate:
    """The estimate of a run. rows: of the table; questions: to be sent."""

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
        """The estimate from a sample of the prompts."""
        sizes = [token_estimate(prompt) for prompt in sample]
        n_input = sum(sizes) / len(sizes) if sizes else 0.0
        n_output = min(max_tokens or _TYPICAL_OUTPUT, _TYPICAL_OUTPUT)
        seconds = questions * (_TYPICAL_TTFT + n_output / _TYPICAL_SPEED) / max(1, min(width, questions))
        return cls(rows, questions, amount_of(questions * n_input, questions * n_output, facts), seconds / 60)

    @property
    def usd(self) -> float | None:
        """US dollars; None where the price is unknown."""
        return self.amount.usd

    @property
    def tokens(self) -> int:
        """Tokens of input and output."""
        return self.amount.tokens

    @property
    def small(self) -> bool:
        """Whether it needs no confirmation: a few rows, or a few cents within a minute."""
        return self.questions <= _FEW_ROWS or (
            self.usd is not None and self.usd < _FEW_CENTS and self.minutes < 1
        )

    def __str__(self) -> str:
        asked = "" if self.questions == self.rows else f" ({self.questions:,} to send)"
        money = "price not known" if self.usd is None else f"about ${self.usd:,.2g}"
        time = "less than a minute" if self.minutes < 1 else f"about {self.minutes:,.0f} min"
        tokens = plural(round(self.tokens), "token")
        return f"{plural(self.rows, 'row')}{asked}, about {tokens}, {money}, {time}"
