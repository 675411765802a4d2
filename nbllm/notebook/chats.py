"""Named conversations of a notebook: `chat=eda` goes on where it was; running a cell again replaces its own
turns."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace

from ..core.compaction import sent, with_pin
from ..core.errors import ConfigError
from ..core.events import Response, cost_of
from ..core.messages import Document, Image, Message, Part, caption


@dataclass(frozen=True, slots=True)
class Place:
    """Where a question is asked. cell: the front end's id of the cell, "" where it tells none; execution:
    which run of it."""

    cell: str = ""
    execution: str = ""


@dataclass(frozen=True, slots=True)
class Turn:
    """What was asked and what came, and where it was asked."""

    place: Place
    asked: Message
    response: Response

    @property
    def messages(self) -> tuple[Message, ...]:
        """What was asked and all that the answer adds, as the next turn sends them."""
        return self.asked, *self.response.messages


@dataclass(slots=True)
class Chat:
    """A conversation: turns in the order of their cells' first runs. Running a cell again replaces the turns
    of its last run, once the first new one is there; within one run, and where cells have no ids, every
    question is a new turn."""

    name: str
    turns: list[Turn] = field(default_factory=list)

    def before(self, place: Place) -> tuple[Message, ...]:
        """What a question asked at `place` goes on from."""
        old, same = self._of(place)
        end = same[-1] + 1 if same else old[0] if old else len(self.turns)
        return self.until(end)

    def until(self, end: int) -> tuple[Message, ...]:
        """The first `end` turns, as the next question sends them."""
        return sent((turn.response, turn.messages) for turn in self.turns[:end])

    def append(self, turn: Turn) -> None:
        """Adds a turn, in the place of those that an earlier run of its cell left. An answer that says
        nothing is no turn."""
        if turn.response.empty:
            return
        old, same = self._of(turn.place)
        at = same[-1] + 1 if same else old[0] if old else len(self.turns)
        self.turns[at:at] = [turn]
        stale = {id(self.turns[i + (i >= at)]) for i in old}
        self.turns[:] = [t for t in self.turns if id(t) not in stale]

    def replace(self, old: Turn, new: Turn) -> None:
        """Puts `new` where `old` stands; at the end where it stands no more. An answer that says nothing
        changes nothing."""
        if not new.response.empty:
            at = self.place_of(old)
            self.turns[at : at + 1] = [new]

    def place_of(self, turn: Turn | None) -> int:
        """Where a turn stands, pinned or not since; the end where it stands no more."""
        same = (i for i, t in enumerate(self.turns) if turn is not None and t.response is turn.response)
        return next(same, len(self.turns))

    def _of(self, place: Place) -> tuple[list[int], list[int]]:
        """Where the turns of this cell stand: (of earlier runs, of this run)."""
        mine = [i for i, t in enumerate(self.turns) if place.cell and t.place.cell == place.cell]
        return (
            [i for i in mine if self.turns[i].place.execution != place.execution],
            [i for i in mine if self.turns[i].place.execution == place.execution],
        )

    @property
    def tokens(self) -> int | None:
        """Input tokens of the last turn and its answer (estimated, where it was stopped): about what the next
        turn sends. None where nobody counted."""
        last = self.turns[-1].response if self.turns else Response()
        usage = last.turn_usage or last.usage
        if usage is None or usage.input_tokens is None:
            return None
        made = usage.output_tokens
        return usage.input_tokens + (len(last.text) // 4 if made is None else made)

    @property
    def cost(self) -> float | None:
        """US dollars of all turns that have a price; None where none has."""
        return cost_of(t.response for t in self.turns)


class Chats:
    """The notebook's conversations by name."""

    def __init__(self) -> None:
        self._chats: dict[str, Chat] = {}

    def __iter__(self) -> Iterator[Chat]:
        return iter(self._chats.values())

    def open(self, name: str) -> Chat:
        """The conversation `name`, a new one where there is none."""
        return self._chats.setdefault(name, Chat(name))

    def get(self, name: str) -> Chat:
        """The conversation `name`. Raises ConfigError with those there are."""
        if name not in self._chats:
            there = ", ".join(self._chats) or "none yet"
            raise ConfigError(
                f"No conversation is called {name!r}." if name else "Which conversation?",
                hint=f"There are: {there}. A cell with chat=NAME begins one.",
            )
        return self._chats[name]

    def undo(self, name: str) -> Turn:
        """Takes the last turn back."""
        chat = self.get(name)
        if not chat.turns:
            raise ConfigError(f"The conversation {name!r} has no turns.", hint="Nothing was undone.")
        return chat.turns.pop()

    def pin(self, name: str, number: str = "", *, pinned: bool = True) -> int:
        """Pins a turn, or lets go of it; gives its number, from 1 on ("" for the last)."""
        turns = self.get(name).turns
        n = int(number) if number.isdecimal() else 0 if number else len(turns)
        if not 1 <= n <= len(turns):
            raise ConfigError(
                f"The conversation {name!r} has no turn {number or 1!s}.",
                hint=f"It has {len(turns)}, counted from 1: %llm chat pin {name} N.",
            )
        turns[n - 1] = replace(turns[n - 1], asked=with_pin(turns[n - 1].asked, pinned))
        return n

    def fork(self, name: str, other: str) -> Chat:
        """A copy under another name, which goes its own way."""
        chat = self.get(name)
        if other in self._chats or not other.isidentifier():
            raise ConfigError(
                f"{other!r} cannot be the copy's name.",
                hint="%llm chat fork NAME OTHER, where OTHER is a new name of letters, digits and _.",
            )
        self._chats[other] = Chat(other, [replace(t, place=Place()) for t in chat.turns])
        return self._chats[other]

    def clear(self, name: str) -> int:
        """Forgets a conversation; gives how many turns it had."""
        chat = self.get(name)
        del self._chats[name]
        return len(chat.turns)


def markdown(chat: Chat) -> str:
    """A conversation as Markdown: what a person reads, and what is exported."""
    if not chat.turns:
        return f"*The conversation {chat.name} has no turns.*"
    return "\n\n".join(
        f"**You**{' (pinned)' * t.asked.pinned}\n\n{words(t.asked)}\n\n"
        f"**{t.response.model or 'Model'}**\n\n{_answer(t.response)}"
        for t in chat.turns
    )


def _answer(response: Response) -> str:
    texts = (step.text for step in response.steps)
    return "\n\n".join(filter(None, (*texts, *map(_part, response.images), *map(_part, response.files))))


def words(message: Message) -> str:
    """What a message says, with a word for what is not text."""
    return "\n\n".join(_part(p) for p in message.parts)


def _part(part: Part) -> str:
    if isinstance(part, (Image, Document)) and not getattr(part, "name", None):
        return f"*{caption(part)}*"
    return getattr(part, "text", None) or f"*({type(part).__name__.lower()})*"


def messages(chat: Chat) -> tuple[Message, ...]:
    """All that was said, in order, with pictures, calls and results."""
    return tuple(m for turn in chat.turns for m in turn.messages)
