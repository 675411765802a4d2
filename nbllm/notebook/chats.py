"""Named conversations of a notebook: `chat=eda` goes on where it was; running a cell again replaces its own
turns."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from uuid import uuid4

from ..core.codec import VERSION, check_version, from_plain, to_plain
from ..core.compaction import continuation, messages_to_send, set_pinned
from ..core.errors import ConfigError, NbllmError, scrub
from ..core.events import Response, total_cost
from ..core.messages import Document, Image, Message, Part, caption
from ..core.values import plural
from ..store.chats import KeptChats


@dataclass(frozen=True, slots=True)
class Place:
    """Where a question is asked. cell: the front end's id of the cell, "" where it tells none; execution:
    which run of it."""

    cell: str = ""
    execution: str = ""


@dataclass(frozen=True, slots=True)
class Turn:
    """What was asked and what came, and where it was asked. id: what it is known by on disk."""

    place: Place
    asked: Message
    response: Response
    id: str = field(default_factory=lambda: uuid4().hex, compare=False)

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
    changed: Callable[[Chat], None] = field(default=lambda _: None, repr=False, compare=False)

    def before(self, place: Place) -> tuple[Message, ...]:
        """What a question asked at `place` goes on from."""
        return self.until(self._of(place)[1])

    def until(self, end: int) -> tuple[Message, ...]:
        """The first `end` turns, as the next question sends them."""
        return messages_to_send((turn.response, turn.messages) for turn in self.turns[:end])

    def append(self, turn: Turn) -> None:
        """Adds a turn, in the place of those that an earlier run of its cell left. An answer that says
        nothing is no turn."""
        if turn.response.empty:
            return
        old, at = self._of(turn.place)
        self.turns[at:at] = [turn]
        stale = {id(self.turns[i + (i >= at)]) for i in old}
        self.turns[:] = [t for t in self.turns if id(t) not in stale]
        self.changed(self)

    def replace(self, old: Turn, new: Turn) -> None:
        """Puts `new` where `old` stands; at the end where it stands no more. An answer that says nothing
        changes nothing."""
        if not new.response.empty:
            at = self.place_of(old)
            self.turns[at : at + 1] = [new]
            self.changed(self)

    def place_of(self, turn: Turn | None) -> int:
        """Where a turn stands, pinned or not since; the end where it stands no more."""
        same = (i for i, t in enumerate(self.turns) if turn is not None and t.response is turn.response)
        return next(same, len(self.turns))

    def _of(self, place: Place) -> tuple[list[int], int]:
        """(where the turns of earlier runs of this cell stand, where its next one belongs)."""
        mine = [i for i, t in enumerate(self.turns) if place.cell and t.place.cell == place.cell]
        old = [i for i in mine if self.turns[i].place.execution != place.execution]
        same = [i + 1 for i in mine if i not in old]
        return old, [*same[-1:], *old, len(self.turns)][0]

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
        return total_cost(t.response for t in self.turns)


@dataclass(frozen=True, slots=True)
class Shelf:
    """Where conversations are kept, and how. place: the notebook that they belong to; secrets: what no file
    may hold; tell: what is to be told to the user."""

    file: KeptChats
    place: str
    secrets: tuple[str, ...] = ()
    tell: Callable[[str], None] = lambda _: None

    def load(self, name: str) -> list[Turn]:
        """A conversation's turns. What cannot be read is told, and stays where it is."""
        try:
            found = self.file.load(self.place, name)
        except ConfigError as error:
            self.tell(str(error))
            return []
        turns, broken = list[Turn](), 0
        for ident, text in found:
            try:
                turns.append(_read(ident, text))
            except (NbllmError, ValueError, TypeError, KeyError, RecursionError):
                broken += 1
        if broken:
            self.tell(f"{broken} of the {plural(len(found), 'turn')} of {name} cannot be read: left out.")
        return turns

    def save(self, chat: Chat, kept: dict[str, Turn]) -> None:
        """Writes what has changed since `kept` was written."""
        now = {t.id: t for t in chat.turns}
        texts = {i: scrub(_text(t), self.secrets) for i, t in now.items() if kept.get(i) is not t}
        self.file.write(self.place, chat.name, list(now), texts, kept.keys() - now.keys())
        kept.clear()
        kept.update(now)


def _text(turn: Turn) -> str:
    """A turn for the file: without what was sent, which is the turns before it, unless it was shortened."""
    said, request = turn.response, turn.response.request
    if request is not None and continuation(request.messages, said) is None:
        said = replace(said, request=None)
    told = {"nbllm": VERSION, "cell": turn.place.cell, "execution": turn.place.execution}
    return json.dumps({**told, "asked": to_plain(turn.asked), "response": to_plain(replace(said, raw={}))})


def _read(ident: str, text: str) -> Turn:
    told = json.loads(text)
    check_version(told["nbllm"])
    place = Place(str(told["cell"]), str(told["execution"]))
    return Turn(place, from_plain(told["asked"], Message), from_plain(told["response"], Response), ident)


class Chats:
    """The notebook's conversations by name. shelf: where they are kept, None where they are not."""

    def __init__(self, shelf: Callable[[], Shelf | None] = lambda: None) -> None:
        self._chats: dict[str, Chat] = {}
        self._kept: dict[str, dict[str, Turn]] = {}  # by name: the turns as they were written or read last
        self._shelf = shelf
        self._problem, self._lock = "", threading.Lock()

    def __iter__(self) -> Iterator[Chat]:
        """Those of this session, and those that are kept."""
        if (shelf := self._shelf()) is not None:
            for found in shelf.file.listed(shelf.place):
                self.open(found.chat)
        return iter(list(self._chats.values()))

    def open(self, name: str) -> Chat:
        """The conversation `name`, as it is kept, a new one where there is none."""
        if name not in self._chats:
            shelf = self._shelf()
            turns = shelf.load(name) if shelf is not None else []
            self._kept[name] = {t.id: t for t in turns}
            self._chats[name] = Chat(name, turns, self._changed)
        return self._chats[name]

    def _changed(self, chat: Chat) -> None:
        """Keeps a conversation, where they are kept. What keeps a file from being written is told, once, and
        no turn is lost by it."""
        shelf = self._shelf()
        if shelf is None or self._chats.get(chat.name) is not chat:
            return
        try:
            with self._lock:
                shelf.save(chat, self._kept.setdefault(chat.name, {}))
        except ConfigError as error:
            if self._problem != str(error):
                self._problem = str(error)
                shelf.tell(self._problem)

    def get(self, name: str) -> Chat:
        """The conversation `name`. Raises ConfigError with those there are."""
        if name not in self._chats and name not in (known := [chat.name for chat in self]):
            there = ", ".join(known) or "none yet"
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
        undone = chat.turns.pop()
        self._changed(chat)
        return undone

    def pin(self, name: str, number: str = "", *, pinned: bool = True) -> int:
        """Pins a turn, or lets go of it; gives its number, from 1 on ("" for the last)."""
        chat = self.get(name)
        turns = chat.turns
        n = int(number) if number.isdecimal() else 0 if number else len(turns)
        if not 1 <= n <= len(turns):
            raise ConfigError(
                f"The conversation {name!r} has no turn {number or 1!s}.",
                hint=f"It has {len(turns)}, counted from 1: %llm chat pin {name} N.",
            )
        turns[n - 1] = replace(turns[n - 1], asked=set_pinned(turns[n - 1].asked, pinned))
        self._changed(chat)
        return n

    def fork(self, name: str, other: str) -> Chat:
        """A copy under another name, which goes its own way."""
        chat = self.get(name)
        if other in (c.name for c in self) or not other.isidentifier():
            raise ConfigError(
                f"{other!r} cannot be the copy's name.",
                hint="%llm chat fork NAME OTHER, where OTHER is a new name of letters, digits and _.",
            )
        self._chats[other] = Chat(other, [replace(t, place=Place()) for t in chat.turns], self._changed)
        self._changed(self._chats[other])
        return self._chats[other]

    def clear(self, name: str) -> int:
        """Forgets a conversation, also where it is kept; gives how many turns it had."""
        chat, shelf = self.get(name), self._shelf()
        if shelf is not None:
            shelf.file.forget(shelf.place, name)
        del self._chats[name]
        self._kept.pop(name, None)
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
