"""Named conversations of a notebook: `chat=eda` continues a conversation; running a cell again replaces its
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
from ..store.chats import ChatStore


@dataclass(frozen=True, slots=True)
class Origin:
    """Where a question was asked. cell: the front end's id of the cell, "" if it reports none; execution: the
    message id of that run of the cell."""

    cell: str = ""
    execution: str = ""


@dataclass(frozen=True, slots=True)
class Turn:
    """A question, its response, and where it was asked. id: the key of the stored turn."""

    origin: Origin
    question: Message
    response: Response
    id: str = field(default_factory=lambda: uuid4().hex, compare=False)

    @property
    def messages(self) -> tuple[Message, ...]:
        """The messages of the turn, as the next turn sends them."""
        return self.question, *self.response.messages


@dataclass(slots=True)
class Chat:
    """A conversation: turns in the order of their cells' first runs. Running a cell again replaces the turns
    of its last run, once the first new turn is there; within one run, and in front ends without cell ids,
    every question is a new turn."""

    name: str
    turns: list[Turn] = field(default_factory=list)
    on_change: Callable[[Chat], None] = field(default=lambda _: None, repr=False, compare=False)

    def history_before(self, origin: Origin) -> tuple[Message, ...]:
        """The messages before a question that is asked at `origin`."""
        return self.history(self._turn_positions(origin)[1])

    def history(self, end: int) -> tuple[Message, ...]:
        """The messages of the first `end` turns, as the next question sends them."""
        return messages_to_send((turn.response, turn.messages) for turn in self.turns[:end])

    def append(self, turn: Turn) -> None:
        """Adds a turn, replacing the turns of an earlier run of its cell. An empty answer is ignored."""
        if turn.response.empty:
            return
        old, at = self._turn_positions(turn.origin)
        self.turns[at:at] = [turn]
        stale = {id(self.turns[i + (i >= at)]) for i in old}
        self.turns[:] = [t for t in self.turns if id(t) not in stale]
        self.on_change(self)

    def replace(self, old: Turn, new: Turn) -> None:
        """Replaces the turn `old` by `new`, or appends `new` if `old` is gone. An empty answer is ignored."""
        if not new.response.empty:
            at = self.position_of(old)
            self.turns[at : at + 1] = [new]
            self.on_change(self)

    def position_of(self, turn: Turn | None) -> int:
        """The index of a turn, also after it was pinned or unpinned; the number of turns if it is gone."""
        same = (i for i, t in enumerate(self.turns) if turn is not None and t.response is turn.response)
        return next(same, len(self.turns))

    def _turn_positions(self, origin: Origin) -> tuple[list[int], int]:
        """(indices of the turns of earlier runs of this cell, index for its next turn)."""
        mine = [i for i, t in enumerate(self.turns) if origin.cell and t.origin.cell == origin.cell]
        old = [i for i in mine if self.turns[i].origin.execution != origin.execution]
        same = [i + 1 for i in mine if i not in old]
        return old, [*same[-1:], *old, len(self.turns)][0]

    @property
    def tokens(self) -> int | None:
        """Tokens of the last request and its answer (estimated if it was stopped): roughly the size of the
        next request. None if they were not counted."""
        last = self.turns[-1].response if self.turns else Response()
        usage = last.turn_usage or last.usage
        if usage is None or usage.input_tokens is None:
            return None
        made = usage.output_tokens
        return usage.input_tokens + (len(last.text) // 4 if made is None else made)

    @property
    def cost(self) -> float | None:
        """US dollars of all turns with a known price; None if there is none."""
        return total_cost(t.response for t in self.turns)


@dataclass(frozen=True, slots=True)
class ChatStorage:
    """Stores conversations on disk. notebook: the notebook that they belong to; secrets: values that must not
    reach the file; report: shows a message to the user."""

    file: ChatStore
    notebook: str
    secrets: tuple[str, ...] = ()
    report: Callable[[str], None] = lambda _: None

    def load(self, name: str) -> list[Turn]:
        """The turns of a conversation. Unreadable turns are reported and stay in the file."""
        try:
            records = self.file.load(self.notebook, name)
        except ConfigError as error:
            self.report(str(error))
            return []
        turns, unreadable = list[Turn](), 0
        for ident, text in records:
            try:
                turns.append(_decode_turn(ident, text))
            except (NbllmError, ValueError, TypeError, KeyError, RecursionError):
                unreadable += 1
        if unreadable:
            self.report(
                f"{unreadable} of the {plural(len(records), 'turn')} of {name} cannot be read and will be "
                "skipped."
            )
        return turns

    def save(self, chat: Chat, stored: dict[str, Turn]) -> None:
        """Writes the changes since `stored`, which is updated."""
        current = {t.id: t for t in chat.turns}
        texts = {
            i: scrub(_encode_turn(t), self.secrets) for i, t in current.items() if stored.get(i) is not t
        }
        self.file.write(self.notebook, chat.name, list(current), texts, stored.keys() - current.keys())
        stored.clear()
        stored.update(current)


def _encode_turn(turn: Turn) -> str:
    """A turn as JSON: without the request, which repeats the turns before it, unless the conversation was
    shortened."""
    response, request = turn.response, turn.response.request
    if request is not None and continuation(request.messages, response) is None:
        response = replace(response, request=None)
    record = {"nbllm": VERSION, "cell": turn.origin.cell, "execution": turn.origin.execution}
    return json.dumps(
        {**record, "asked": to_plain(turn.question), "response": to_plain(replace(response, raw={}))}
    )


def _decode_turn(ident: str, text: str) -> Turn:
    record = json.loads(text)
    check_version(record["nbllm"])
    origin = Origin(str(record["cell"]), str(record["execution"]))
    return Turn(origin, from_plain(record["asked"], Message), from_plain(record["response"], Response), ident)


class Chats:
    """The notebook's conversations by name. get_storage: returns where they are stored, None if they are not
    stored."""

    def __init__(self, get_storage: Callable[[], ChatStorage | None] = lambda: None) -> None:
        self._chats: dict[str, Chat] = {}
        self._stored: dict[str, dict[str, Turn]] = {}  # by name: the turns as last written or read
        self._get_storage = get_storage
        self._problem, self._lock = "", threading.Lock()

    def __iter__(self) -> Iterator[Chat]:
        """All conversations: those of this session and the stored ones."""
        if (storage := self._get_storage()) is not None:
            for found in storage.file.list_chats(storage.notebook):
                self.open(found.chat)
        return iter(list(self._chats.values()))

    def open(self, name: str) -> Chat:
        """The conversation `name`: loaded if it is stored, otherwise new."""
        if name not in self._chats:
            storage = self._get_storage()
            turns = storage.load(name) if storage is not None else []
            self._stored[name] = {t.id: t for t in turns}
            self._chats[name] = Chat(name, turns, self._store)
        return self._chats[name]

    def _store(self, chat: Chat) -> None:
        """Stores a conversation if storage is on. A problem with the file is reported once; no turn is
        lost."""
        storage = self._get_storage()
        if storage is None or self._chats.get(chat.name) is not chat:
            return
        try:
            with self._lock:
                storage.save(chat, self._stored.setdefault(chat.name, {}))
        except ConfigError as error:
            if self._problem != str(error):
                self._problem = str(error)
                storage.report(self._problem)

    def get(self, name: str) -> Chat:
        """The conversation `name`. Raises ConfigError with the existing names."""
        if name not in self._chats and name not in (known := [chat.name for chat in self]):
            names = ", ".join(known) or "none yet"
            raise ConfigError(
                f"No conversation is called {name!r}." if name else "No conversation was named.",
                hint=f"There are: {names}. A cell with chat=NAME starts one.",
            )
        return self._chats[name]

    def undo(self, name: str) -> Turn:
        """Removes the last turn and returns it."""
        chat = self.get(name)
        if not chat.turns:
            raise ConfigError(f"The conversation {name!r} has no turns.", hint="Nothing was undone.")
        undone = chat.turns.pop()
        self._store(chat)
        return undone

    def pin(self, name: str, number: str = "", *, pinned: bool = True) -> int:
        """Pins or unpins a turn; returns its number, from 1 ("" for the last turn)."""
        chat = self.get(name)
        turns = chat.turns
        n = int(number) if number.isdecimal() else 0 if number else len(turns)
        if not 1 <= n <= len(turns):
            raise ConfigError(
                f"The conversation {name!r} has no turn {number or 1!s}.",
                hint=f"It has {len(turns)}, counted from 1: %llm chat pin {name} N.",
            )
        turns[n - 1] = replace(turns[n - 1], question=set_pinned(turns[n - 1].question, pinned))
        self._store(chat)
        return n

    def fork(self, name: str, other: str) -> Chat:
        """A copy under another name, independent of the original."""
        chat = self.get(name)
        if other in (c.name for c in self) or not other.isidentifier():
            raise ConfigError(
                f"{other!r} cannot be the copy's name.",
                hint="%llm chat fork NAME OTHER, where OTHER is a new name of letters, digits and _.",
            )
        self._chats[other] = Chat(other, [replace(t, origin=Origin()) for t in chat.turns], self._store)
        self._store(self._chats[other])
        return self._chats[other]

    def clear(self, name: str) -> int:
        """Deletes a conversation, also the stored one; returns its number of turns."""
        chat, storage = self.get(name), self._get_storage()
        if storage is not None:
            storage.file.delete(storage.notebook, name)
        del self._chats[name]
        self._stored.pop(name, None)
        return len(chat.turns)


def chat_markdown(chat: Chat) -> str:
    """A conversation as Markdown, for display and export."""
    if not chat.turns:
        return f"*The conversation {chat.name} has no turns.*"
    return "\n\n".join(
        f"**You**{' (pinned)' * t.question.pinned}\n\n{message_text(t.question)}\n\n"
        f"**{t.response.model or 'Model'}**\n\n{_answer_text(t.response)}"
        for t in chat.turns
    )


def _answer_text(response: Response) -> str:
    texts = (step.text for step in response.steps)
    return "\n\n".join(
        filter(None, (*texts, *map(_part_text, response.images), *map(_part_text, response.files)))
    )


def message_text(message: Message) -> str:
    """The text of a message, with a placeholder for each other part."""
    return "\n\n".join(_part_text(p) for p in message.parts)


def _part_text(part: Part) -> str:
    if isinstance(part, (Image, Document)) and not getattr(part, "name", None):
        return f"*{caption(part)}*"
    return getattr(part, "text", None) or f"*({type(part).__name__.lower()})*"


def chat_messages(chat: Chat) -> tuple[Message, ...]:
    """All messages in order, with images, tool calls and results."""
    return tuple(m for turn in chat.turns for m in turn.messages)
