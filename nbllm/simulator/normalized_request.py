"""What a request asks, whatever its protocol. Pure values."""

from __future__ import annotations

import json
import zlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from itertools import groupby
from typing import Any, Literal, NamedTuple

from . import text


@dataclass(frozen=True, slots=True)
class Tool:
    """A tool of the request: its name and the JSON schema of its arguments."""

    name: str
    schema: Mapping[str, Any]


class Entry(NamedTuple):
    """A part of the history. at: the place of its message; text: its words; arguments: a call's object, None
    where they are none."""

    kind: Literal["call", "result", "other"]
    at: int
    role: str
    id: str = ""
    name: str = ""
    arguments: Mapping[str, Any] | None = None
    text: str = ""


def call(at: int, id: Any, name: Any, arguments: Any, text: str = "") -> Entry:
    """A call, with its arguments as an object or as the JSON of one."""
    if isinstance(arguments, str):
        try:
            arguments = json.loads(arguments or "{}")
        except (ValueError, RecursionError):
            arguments = None
    found = arguments if isinstance(arguments, Mapping) else None
    return Entry("call", at, "assistant", str(id or ""), str(name or ""), found, text)


def result(at: int, id: Any, name: Any = "", text: str = "") -> Entry:
    """A result."""
    return Entry("result", at, "tool", str(id or ""), str(name or ""), text=text)


def turns(history: Iterable[Entry], system: str = "") -> tuple[tuple[str, str], ...]:
    """(role, text) of each message. Results of tools are turns of their own, behind the words beside them."""
    out = [("system", system)] if system else []
    for _, group in groupby(history, key=lambda entry: entry.at):
        entries = list(group)
        said = [e for e in entries if e.kind != "result"]
        words = "\n".join(e.text for e in said if e.text)
        out += [(said[0].role, words)] if words or len(said) == len(entries) else []
        out += [("tool", e.text) for e in entries if e.kind == "result"]
    return tuple(out)


@dataclass(frozen=True, slots=True)
class Ask:
    """What a request asks, whatever its protocol.

    turns: (role, text) of all messages, roles system, user, assistant, tool. history: the same as calls,
    results and the rest. choice: auto, none, required or
    a tool's name. schema: JSON to follow; {} for any JSON object. thinking: None where the request says
    nothing. report: whether the stream should carry usage.
    """

    model: str
    turns: tuple[tuple[str, str], ...] = ()
    history: tuple[Entry, ...] = ()
    stream: bool = False
    tools: tuple[Tool, ...] = ()
    choice: str = "auto"
    schema: Mapping[str, Any] | None = None
    thinking: bool | None = None
    max_tokens: int | None = None
    stop: tuple[str, ...] = ()
    report: bool = True
    images: int = 0
    extra: Mapping[str, Any] = field(default_factory=dict)

    @property
    def prompt(self) -> str:
        """The last user turn."""
        return next((said for role, said in reversed(self.turns) if role == "user"), "")

    @property
    def results(self) -> tuple[str, ...]:
        """What tools answered since the last user turn that said something: pictures in results stand in one
        of their own."""
        found: list[str] = []
        for role, said in reversed(self.turns):
            if role == "user" and said:
                break
            found += [said] if role == "tool" else []
        return tuple(reversed(found))

    @property
    def steps(self) -> int:
        """How many turns of the model the history has."""
        roles = [e.role for e in self.history]
        return sum(r == "assistant" and (not i or roles[i - 1] != r) for i, r in enumerate(roles))

    @property
    def input_tokens(self) -> int:
        """Tokens of the prompt: each turn's words and 4 more, each tool's schema, 85 for a picture, 3 to
        begin with."""
        tools = sum(text.count(f"{t.name} {t.schema}") for t in self.tools)
        return 3 + sum(4 + text.count(said) for _, said in self.turns) + tools + 85 * self.images

    def seed(self, salt: int) -> int:
        """A number that is the same for the same question."""
        return zlib.crc32(f"{self.model.partition('@')[0]}|{self.turns}|{salt}".encode(errors="replace"))
