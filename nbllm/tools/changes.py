"""What a tool changes in a file or in a notebook's cells: seen before it is allowed, kept, and taken back."""

from __future__ import annotations

import difflib
import inspect
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

from ..core.errors import ConfigError

_COMPARED = 500  # lines that are compared one by one
_KEPT, _SIZE = 200, 2**26  # changes that are kept, and characters of all their texts


@dataclass(frozen=True, slots=True)
class Change:
    """A change of one thing. what: "data/a.txt", "cell 2". before, after: its text; None where it is not
    there. holds: whether it is now as after the change, given what the call of the tool gave. undo: takes it
    back, given the same. Both may be awaited, on the engine's loop."""

    what: str
    before: str | None
    after: str | None
    holds: Callable[[Any], bool | Awaitable[bool]] = field(repr=False)
    undo: Callable[[Any], object] = field(repr=False)

    @property
    def diff(self) -> str:
        """What changes, line by line; "" where nothing does."""
        before, after = (text or "" for text in (self.before, self.after))
        return "\n".join(lines(before.splitlines(), after.splitlines(), self.what, self.what))


def lines(before: list[str], after: list[str], old: str, new: str) -> Iterable[str]:
    """The lines of a diff. Comparing costs the square of what is compared: of very long texts all between the
    first and the last change is shown."""
    if max(len(before), len(after)) <= _COMPARED:
        return difflib.unified_diff(before, after, old, new, lineterm="", n=2)
    most = min(len(before), len(after))
    start = next((i for i in range(most) if before[i] != after[i]), most)
    end = next((i for i in range(most - start) if before[-1 - i] != after[-1 - i]), most - start)
    changes = [
        *(f"-{line}" for line in before[start : len(before) - end]),
        *(f"+{line}" for line in after[start : len(after) - end]),
    ]
    return [f"@@ from line {start + 1} @@", *changes] if changes else []


@dataclass(frozen=True, slots=True)
class Made:
    """A change that was made. result: what the call gave; answer: a number that all changes of one answer
    share."""

    change: Change
    result: Any
    answer: int

    @property
    def size(self) -> int:
        """Characters that are kept of it."""
        return len(self.change.before or "") + len(self.change.after or "")


@dataclass(slots=True)
class Journal:
    """The changes that tools have made, oldest first. Of very many the oldest are forgotten."""

    made: list[Made] = field(default_factory=list)
    answers: int = 0

    def begin(self) -> int:
        """The number of a new answer."""
        self.answers += 1
        return self.answers

    def add(self, made: Made) -> None:
        """Keeps a change."""
        self.made.append(made)
        while len(self.made) > _KEPT or (len(self.made) > 1 and sum(m.size for m in self.made) > _SIZE):
            del self.made[0]

    async def undo(self, number: int | None = None) -> list[str]:
        """Takes back all that the last answer changed, its last change first, or the change of that number,
        from 1; gives what that was. Awaited on the engine's loop. What is not as the tool left it stays, and
        so does what was changed before it in the same place; raises ConfigError that names it, and what was
        taken back beside it."""
        if not self.made or not 1 <= (1 if number is None else number) <= len(self.made):
            raise ConfigError(
                "There is no such change to take back.", hint="`%llm undo list` has those that tools made."
            )
        last = self.made[-1].answer
        chosen = [self.made[number - 1]] if number else [m for m in self.made if m.answer == last]
        done: list[str] = []
        stayed: list[str] = []
        for one in reversed(chosen):
            if await settled(one.change.holds(one.result)):
                await settled(one.change.undo(one.result))
                self.made.remove(one)
                done.append(one.change.what)
            else:
                stayed.append(one.change.what)
        if stayed:
            names = ", ".join(dict.fromkeys(stayed))
            now = (
                "is not as the tool left it, and stays as it is now"
                if names == stayed[0]
                else "are not as the tool left them, and stay as they are now"
            )
            beside = f" Taken back: {', '.join(done)}." if done else ""
            raise ConfigError(
                f"{names} {now}.{beside}",
                hint="`%llm undo list` shows what it was: take it back by hand, or %llm undo N for another.",
            )
        return done


async def settled(value: Any) -> Any:
    """A value, or what comes of awaiting it."""
    return await value if inspect.isawaitable(value) else value
