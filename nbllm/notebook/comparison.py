"""The answers of several models to one question, as one value."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ..core.events import Response
from .view.grid import outcomes_bundle
from .view.outcome import Outcome

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True, slots=True)
class Comparison:
    """The answers of several models to one prompt, in the order in which they were named.

    `cmp["openai/mini"]` or `cmp[0]` is a Response; `cmp.df` has one row per column; `cmp.values` holds what
    the value of as= for each (None if it failed); as a cell's value it is displayed in columns.
    """

    entries: tuple[Outcome, ...]
    prompt: str = ""
    format: str = "md"

    @property
    def labels(self) -> list[str]:
        """The labels of the columns."""
        return [e.label for e in self.entries]

    @property
    def responses(self) -> list[Response]:
        """The answers, including partial ones."""
        return [e.response for e in self.entries]

    @property
    def values(self) -> list[Any]:
        """The value of as= for each answer: a DataFrame, an object, or None."""
        return [e.value for e in self.entries]

    @property
    def df(self) -> pd.DataFrame:
        """One row per column: model, text, finish_reason, ttft_s, total_s, tokens_per_s, input_tokens,
        output_tokens, cost_usd, error; unknown values are NA."""
        import pandas as pd

        frame = pd.DataFrame(
            [_outcome_row(e) for e in self.entries], index=pd.Index(self.labels, name="column")
        )
        return frame.astype(
            {
                "ttft_s": "float64",
                "total_s": "float64",
                "tokens_per_s": "float64",
                "cost_usd": "float64",
                "input_tokens": "Int64",
                "output_tokens": "Int64",
                "error": "string",
            }
        )

    def __getitem__(self, which: str | int) -> Response:
        """The answer of a column, by its label or index."""
        if isinstance(which, int):
            return self.entries[which].response
        return next((e.response for e in self.entries if e.label == which), None) or self._missing(which)

    def _missing(self, which: str) -> Response:
        raise KeyError(f"no column is called {which!r}; there are {', '.join(self.labels)}")

    def __len__(self) -> int:
        return len(self.entries)

    def __iter__(self) -> Iterator[Response]:
        return iter(self.responses)

    def __repr__(self) -> str:
        return f"Comparison({', '.join(self.labels)})"

    def _repr_mimebundle_(self, **_: Any) -> dict[str, str]:
        return outcomes_bundle(self.entries, self.format)


def _outcome_row(e: Outcome) -> dict[str, Any]:
    r, usage = e.response, e.response.usage
    return {
        "model": r.model,
        "text": r.text,
        "finish_reason": r.finish_reason,
        "ttft_s": r.timing.ttft,
        "total_s": r.timing.total,
        "tokens_per_s": r.timing.tokens_per_second,
        "input_tokens": usage.input_tokens if usage else None,
        "output_tokens": usage.output_tokens if usage else None,
        "cost_usd": r.cost,
        "error": f"{type(e.error).__name__}: {e.error.message}" if e.error else None,
    }
