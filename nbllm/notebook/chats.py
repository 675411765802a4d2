"""Named conversations of a notebook: `chat=eda` goes on where it was; running a cell again replaces its own turn."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from ..errors import ConfigError
from ..events import Response
from ..messages import Document, Image, Message, Part, caption


@dataclass(frozen=True, slots=True)
class Turn:
    """What was asked and what came. `cell` tells whose turn it is: the front end's id of the cell, or the prompt itself."""

    cell: str
    asked: Message
    response: Response

    @property
    def messages(self) -> tuple[Message, ...]:
        """The two messages, as the next turn sends them."""
        return self.asked, self.response.message


@dataclass(slots=True)
class Chat:
    """A conversation: turns in the order of their cells' first runs."""

    name: str
    turns: list[Turn] = field(default_factory=list)

    def before(self, cell: str) -> tuple[Message, ...]:
        """What was said before the turn of `cell`; all, where it has none yet."""
        place = next((i for i, t in enumerate(self.turns) if t.cell == cell), len(self.turns))
        return tuple(m for turn in self.turns[:place] for m in turn.messages)

    def keep(self, turn: Turn) -> None:
        """Adds a turn, in the place of the same cell's earlier one. An answer that says nothing is not kept."""
        if not turn.response.parts:
            return
        for i, old in enumerate(self.turns):
            if old.cell == turn.cell:
                self.turns[i] = turn
                return
        self.turns.append(turn)

    @property
    def tokens(self) -> int | None:
        """Input tokens of the last turn and its answer (estimated, where it was stopped): about what the next turn sends. None
        where nobody counted."""
        last = self.turns[-1].response if self.turns else Response()
        if last.usage is None or last.usage.input_tokens is None:
            return None
        made = last.usage.output_tokens
        return last.usage.input_tokens + (len(last.text) // 4 if made is None else made)

    @property
    def cost(self) -> float | None:
        """US dollars of all turns that have a price; None where none has."""
        known = [t.response.cost for t in self.turns if t.response.cost is not None]
        return sum(known) if known else None


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
            raise ConfigError(f"No conversation is called {name!r}." if name else "Which conversation?", hint=f"There are: {there}. A cell with chat=NAME begins one.")
        return self._chats[name]

    def undo(self, name: str) -> Turn:
        """Takes the last turn back."""
        chat = self.get(name)
        if not chat.turns:
            raise ConfigError(f"The conversation {name!r} has no turns.", hint="Nothing was undone.")
        return chat.turns.pop()

    def fork(self, name: str, other: str) -> Chat:
        """A copy under another name, which goes its own way."""
        chat = self.get(name)
        if other in self._chats or not other.isidentifier():
            raise ConfigError(f"{other!r} cannot be the copy's name.", hint="%llm chat fork NAME OTHER, where OTHER is a new name of letters, digits and _.")
        self._chats[other] = Chat(other, [replace(t, cell=f"{t.cell}:{other}") for t in chat.turns])
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
    return "\n\n".join(f"**You**\n\n{_text(t.asked)}\n\n**{t.response.model or 'Model'}**\n\n{_answer(t.response)}" for t in chat.turns)


def _answer(response: Response) -> str:
    return "\n\n".join(filter(None, (response.text, *map(_part, response.images), *map(_part, response.files))))


def _text(message: Message) -> str:
    return "\n\n".join(_part(p) for p in message.parts)


def _part(part: Part) -> str:
    if isinstance(part, (Image, Document)) and not getattr(part, "name", None):
        return f"*{caption(part)}*"
    return getattr(part, "text", None) or f"*({type(part).__name__.lower()})*"


def exported(chat: Chat) -> list[Mapping[str, Any]]:
    """A conversation as plain messages: role and text."""
    return [{"role": m.role, "content": _text(m)} for turn in chat.turns for m in turn.messages]


def as_json(chat: Chat) -> str:
    """`exported` as JSON."""
    return json.dumps(exported(chat), indent=2, ensure_ascii=False)
