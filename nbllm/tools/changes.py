"""Changes that tools make to files or notebook cells: shown before approval, recorded, and undone on
request."""

from __future__ import annotations

import difflib
import inspect
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

from ..core.errors import ConfigError

_MAX_DIFF_LINES = 500  # compared line by line
_MAX_CHANGES, _MAX_CHARACTERS = 200, 2**26  # in the journal, and of all its texts


@dataclass(frozen=True, slots=True)
class Change:
    """A change of one thing. what: its name, as "data/a.txt" or "cell 2". before, after: its text; None where
    it does not exist. holds: whether it still is as after the change; undo: reverts it. Both get the result
    of the tool's call, and may return an awaitable, for the engine's loop."""

    what: str
    before: str | None
    after: str | None
    holds: Callable[[Any], bool | Awaitable[bool]] = field(repr=False)
    undo: Callable[[Any], object] = field(repr=False)

    @property
    def diff(self) -> str:
        """The unified diff; "" where nothing changes."""
        before, after = (text or "" for text in (self.before, self.after))
        return "\n".join(diff_lines(before.splitlines(), after.splitlines(), self.what, self.what))


def diff_lines(before: list[str], after: list[str], old: str, new: str) -> Iterable[str]:
    """The lines of a diff. A comparison takes quadratic time, so for very long texts all lines between the
    first and the last change are shown as changed."""
    if max(len(before), len(after)) <= _MAX_DIFF_LINES:
        return difflib.unified_diff(before, after, old, new, lineterm="", n=2)
    shorter = min(len(before), len(after))
    start = next((i for i in range(shorter) if before[i] != after[i]), shorter)
    end = next((i for i in range(shorter - start) if before[-1 - i] != after[-1 - i]), shorter - start)
    changes = [
        *(f"-{line}" for line in before[start : len(before) - end]),
        *(f"+{line}" for line in after[start : len(after) - end]),
    ]
    return [f"@@ from line {start + 1} @@", *changes] if changes else []


@dataclass(frozen=True, slots=True)
class AppliedChange:
    """A change that was made. result: the call's result. answer: a number shared by all changes of one
    answer."""

    change: Change
    result: Any
    answer: int

    @property
    def size(self) -> int:
        """The characters of its texts."""
        return len(self.change.before or "") + len(self.change.after or "")


@dataclass(slots=True)
class Journal:
    """The changes that tools made, oldest first. The oldest are dropped when there are too many."""

    entries: list[AppliedChange] = field(default_factory=list)
    answers: int = 0

    def next_answer(self) -> int:
        """The number for a new answer."""
        self.answers += 1
        return self.answers

    def add(self, made: AppliedChange) -> None:
        """Adds a change."""
        self.entries.append(made)
        while len(self.entries) > _MAX_CHANGES or (
            len(self.entries) > 1 and sum(m.size for m in self.entries) > _MAX_CHARACTERS
        ):
            del self.entries[0]

    async def undo(self, number: int | None = None) -> list[str]:
        """Undoes all changes of the last answer, the last one first, or the change with a number, from 1;
        returns their names. On the engine's loop. A thing that is no longer as the tool left it stays, and so
        do earlier changes of it; raises ConfigError with their names, and those of the changes undone."""
        if not self.entries or not 1 <= (1 if number is None else number) <= len(self.entries):
            raise ConfigError(
                "There is no such change to take back.", hint="`%llm undo list` shows the changes of tools."
            )
        last = self.entries[-1].answer
        chosen = [self.entries[number - 1]] if number else [m for m in self.entries if m.answer == last]
        undone: list[str] = []
        kept_as_is: list[str] = []
        for applied in reversed(chosen):
            if await maybe_await(applied.change.holds(applied.result)):
                await maybe_await(applied.change.undo(applied.result))
                self.entries.remove(applied)
                undone.append(applied.change.what)
            else:
                kept_as_is.append(applied.change.what)
        if kept_as_is:
            names = ", ".join(dict.fromkeys(kept_as_is))
            now = (
                "is not as the tool left it, and stays as it is now"
                if names == kept_as_is[0]
                else "are not as the tool left them, and stay as they are now"
            )
            also = f" Taken back: {', '.join(undone)}." if undone else ""
            raise ConfigError(
                f"{names} {now}.{also}",
                hint="`%llm undo list` shows the change: revert it by hand, or undo another: %llm undo N.",
            )
        return undone


async def maybe_await(value: Any) -> Any:
    """A value, awaited where it is awaitable."""
    return await value if inspect.isawaitable(value) else value
