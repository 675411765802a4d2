"""A request in one form, independent of its wire format. Pure values."""

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
    """A tool that the request offers. schema: JSON schema of its arguments."""

    name: str
    schema: Mapping[str, Any]


class HistoryEntry(NamedTuple):
    """A part of the history. message_index: index of its message; arguments: of a call, None if they are not
    a JSON object."""

    kind: Literal["call", "result", "other"]
    message_index: int
    role: str
    id: str = ""
    name: str = ""
    arguments: Mapping[str, Any] | None = None
    text: str = ""


def call_entry(message_index: int, id: Any, name: Any, arguments: Any, text: str = "") -> HistoryEntry:
    """The entry of a tool call. arguments: an object, or an object's JSON text."""
    if isinstance(arguments, str):
        try:
            arguments = json.loads(arguments or "{}")
        except (ValueError, RecursionError):
            arguments = None
    found = arguments if isinstance(arguments, Mapping) else None
    return HistoryEntry("call", message_index, "assistant", str(id or ""), str(name or ""), found, text)


def result_entry(message_index: int, id: Any, name: Any = "", text: str = "") -> HistoryEntry:
    """The entry of a tool's result."""
    return HistoryEntry("result", message_index, "tool", str(id or ""), str(name or ""), text=text)


def turns_of(history: Iterable[HistoryEntry], system: str = "") -> tuple[tuple[str, str], ...]:
    """Returns (role, text) of each message. Each tool result is a separate turn, after the text of its
    message."""
    out = [("system", system)] if system else []
    for _, group in groupby(history, key=lambda entry: entry.message_index):
        entries = list(group)
        parts = [e for e in entries if e.kind != "result"]
        content = "\n".join(e.text for e in parts if e.text)
        out += [(parts[0].role, content)] if content or len(parts) == len(entries) else []
        out += [("tool", e.text) for e in entries if e.kind == "result"]
    return tuple(out)


@dataclass(frozen=True, slots=True)
class NormalizedRequest:
    """A request in one form, independent of its wire format.

    turns: (role, text) of all messages; roles are system, user, assistant and tool. history: the same
    messages as calls, results and other parts. tool_choice: auto, none, required or a tool's name. schema:
    JSON schema of the answer; {} for any JSON object. thinking: None if the request does not set it.
    include_usage: whether the stream should report usage.
    """

    model: str
    turns: tuple[tuple[str, str], ...] = ()
    history: tuple[HistoryEntry, ...] = ()
    stream: bool = False
    tools: tuple[Tool, ...] = ()
    tool_choice: str = "auto"
    schema: Mapping[str, Any] | None = None
    thinking: bool | None = None
    max_tokens: int | None = None
    stop: tuple[str, ...] = ()
    include_usage: bool = True
    image_count: int = 0
    extra: Mapping[str, Any] = field(default_factory=dict)

    @property
    def prompt(self) -> str:
        """The last user turn."""
        return next((content for role, content in reversed(self.turns) if role == "user"), "")

    @property
    def tool_results(self) -> tuple[str, ...]:
        """Texts of the tool results since the last user turn with text. (Images in tool results are sent in a
        user turn without text.)"""
        found: list[str] = []
        for role, content in reversed(self.turns):
            if role == "user" and content:
                break
            found += [content] if role == "tool" else []
        return tuple(reversed(found))

    @property
    def model_turns(self) -> int:
        """Number of the model's turns in the history."""
        roles = [e.role for e in self.history]
        return sum(r == "assistant" and (not i or roles[i - 1] != r) for i, r in enumerate(roles))

    @property
    def input_tokens(self) -> int:
        """Tokens of the prompt: 3, each turn's text and 4 more, each tool's schema, 85 per image."""
        tools = sum(text.count_tokens(f"{t.name} {t.schema}") for t in self.tools)
        return (
            3
            + sum(4 + text.count_tokens(content) for _, content in self.turns)
            + tools
            + 85 * self.image_count
        )

    def seed(self, salt: int) -> int:
        """A number that is the same for the same request."""
        return zlib.crc32(f"{self.model.partition('@')[0]}|{self.turns}|{salt}".encode(errors="replace"))
