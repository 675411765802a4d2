"""The transcript of the notebook for `{notebook}` in a prompt: the executed cells and their results."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from ..core.errors import MASK, looks_like_key
from ..core.values import format_value, plural, truncate

_CELL, _VALUE = 4_000, 200  # characters of a cell, and tokens of a value
_WORD = re.compile(r"[\w\-.]{16,}")


@dataclass(frozen=True, slots=True)
class NotebookTranscript:
    """The cells of this session in the order of execution, without the running one. Values are the results of
    cells; printed output is not available in the kernel. Words that look like keys are masked."""

    cells: tuple[str, ...] = field(repr=False)
    values: dict[int, Any] = field(repr=False)

    @classmethod
    def of(cls, shell: Any) -> NotebookTranscript:
        """Builds it from IPython's history, whose last input is the running cell."""
        ran = shell.history_manager.input_hist_raw[:-1] if shell.history_manager else ()
        return cls(tuple(ran), dict(shell.user_ns.get("_oh", {})))

    def text(self, limit: int) -> str:
        """The last cells in order, in about `limit` characters, and how many were left out."""
        texts: list[str] = []
        numbers = [n for n, source in enumerate(self.cells) if source.strip()]
        for number in reversed(numbers):
            text = "\n".join(self._cell(number))
            limit -= len(text) + 2
            if limit < 0 and texts:
                break
            texts.append(text)
        omitted = len(numbers) - len(texts)
        header = [f"(left out: {plural(omitted, 'earlier cell')})"] if omitted else []
        return "\n\n".join([*header, *reversed(texts)])

    def _cell(self, number: int) -> Iterator[str]:
        yield f"In [{number}]:"
        yield _mask_keys(truncate(self.cells[number].strip(), _CELL))
        if (value := self.values.get(number)) is not None:
            yield f"Out[{number}]:"
            yield _mask_keys(truncate(format_value(value, budget=_VALUE), _CELL))

    def __str__(self) -> str:
        return self.text(_CELL)


def _mask_keys(text: str) -> str:
    return _WORD.sub(lambda word: MASK if looks_like_key(word[0], known_prefix=True) else word[0], text)
