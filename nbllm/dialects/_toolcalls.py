"""Assigns the fragments of tool calls in a Chat Completions answer to their calls.

A call is identified by its index on the wire and its id. A new id under a known index is a new call (some
servers always send index 0), unless it has no name and the previous call is incomplete (some servers make up
an id for each fragment). Without an id, a name begins a new call if the previous one is complete or is in the
same list. A fragment with neither continues the last call. Repeated names and ids count once; a name may come
in pieces.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

from ..core.events import NAME_LIMIT, ToolCallDelta, parse_arguments
from ._json import SurrogateJoiner, items, label, obj
from ._request import arguments_json

_MARKS_PATTERN = re.compile(r'\\.?|["{}]', re.DOTALL)


class _Slot:
    """One call so far. pieces: of its arguments; size: their characters; is_announced: an event was emitted
    for it."""

    __slots__ = (
        "_depth",
        "_escape",
        "_is_object",
        "_quoted",
        "_scanned",
        "empty",
        "id",
        "index",
        "is_announced",
        "name",
        "pieces",
        "size",
    )

    def __init__(self, index: int) -> None:
        self.index, self.name, self.size = index, "", 0
        self.id: str | None = None
        self.pieces: list[str] = []
        self.empty = False  # its arguments came as {}
        self.is_announced = False
        self._scanned, self._depth, self._quoted, self._escape = 0, 0, False, ""
        # whether the arguments are exactly one object; None until it ends
        self._is_object: bool | None = None

    def add(self, piece: str) -> None:
        """Appends a piece of its arguments."""
        self.pieces.append(piece)
        self.size += len(piece)

    @property
    def is_complete(self) -> bool:
        """Whether its arguments are a complete object. Called at every fragment; scans each piece once."""
        if not self.pieces:
            return self.empty
        while self._scanned < len(self.pieces):
            self._scan(self.pieces[self._scanned])
            self._scanned += 1
        if self._is_object is None and self._depth < 0:
            self._is_object = parse_arguments("".join(self.pieces)) is not None
        return bool(self._is_object)

    def _scan(self, piece: str) -> None:
        if self._is_object is not None:
            self._is_object = self._is_object and not piece.strip()
            return
        for mark in _MARKS_PATTERN.findall(self._escape + piece):
            self._escape = mark if mark == "\\" else ""
            if mark == '"':
                self._quoted = not self._quoted
            elif not self._quoted and mark in "{}":
                self._depth += 1 if mark == "{" else -1
                self._depth = self._depth or -1  # the outer brace is closed


class ToolCallReader:
    """Reads the fragments of tool calls in one answer. slots: the calls, in the order in which they began."""

    def __init__(self, halves: SurrogateJoiner) -> None:
        self.slots: list[_Slot] = []
        self._joiner = halves
        self._latest: dict[str | None, _Slot] = {}
        self._by_id: dict[tuple[str | None, str], _Slot] = {}

    def read(self, entries: list[Any]) -> Iterator[ToolCallDelta]:
        """The events for one list of tool call fragments."""
        touched: set[int] = set()
        for entry in items(entries):
            call = obj(entry.get("function")) or obj(entry.get("custom")) or entry
            id, name = label(entry.get("id")), label(call.get("name")) or ""
            args = call.get("arguments", call.get("input"))
            args = args if isinstance(args, str) else arguments_json(args)
            key = label(entry.get("index"))
            slot = self._find(key, id, name, args, touched)
            nothing = args.strip() in ("", "{}") and (slot is None or slot.is_complete)
            if nothing and not (id or name):
                continue
            slot = slot or self.begin(key)
            touched.add(slot.index)
            self._latest[key] = slot
            if id:
                self._by_id[key, id] = slot
            event = self._fill(slot, id, name, args, label(google_extension(entry).get("thought_signature")))
            if not slot.is_announced and not (slot.name or slot.size or event.signature):
                continue  # only an id: some servers end an answer with an empty call
            if not slot.is_announced:
                slot.is_announced, event = True, replace(event, id=slot.id)
                yield event
            elif event.id or event.name or event.arguments or event.signature:
                yield event

    @property
    def has_calls(self) -> bool:
        """Whether an event was emitted for a call."""
        return any(slot.is_announced for slot in self.slots)

    def begin(self, key: str | None) -> _Slot:
        """A new call under an index of the wire. No event is emitted until it has a name or arguments."""
        slot = self._latest[key] = _Slot(len(self.slots))
        self.slots.append(slot)
        return slot

    def _find(self, key: str | None, id: str | None, name: str, args: str, touched: set[int]) -> _Slot | None:
        known = self._by_id.get((key, id)) if id else None
        slot = known or self._latest.get(key)
        if slot is None and self.slots and not name and (not id or key is None):
            slot = self.slots[-1]
        if slot is None or (known and not (args and name and name != slot.name and slot.is_complete)):
            return slot
        if id and slot.id:
            return None if name or slot.is_complete else slot
        if name and slot.name and (slot.index in touched or (slot.is_complete and args)):
            return None
        return slot

    def _fill(
        self, slot: _Slot, id: str | None, name: str, args: str, signature: str | None
    ) -> ToolCallDelta:
        new_id = id if slot.id is None else None
        slot.id = slot.id or id
        new_name = "" if slot.name and (slot.pieces or name == slot.name) else name.removeprefix(slot.name)
        slot.name = (slot.name + new_name)[:NAME_LIMIT]
        if args.strip() == "{}" and not slot.pieces:
            slot.empty, args = True, ""  # Anthropic's relays begin with {} and then send the arguments
        elif (
            name
            and id
            and args[:1] == "{"
            and args[-1:] == "}"
            and len(args) == slot.size
            and args == "".join(slot.pieces)
        ):
            args = ""  # the complete call is repeated at the end
        if args:
            args = self._joiner.join(slot.index, args)
            slot.add(args)
        return ToolCallDelta(slot.index, new_id, new_name or None, args, signature)


def google_extension(part: Mapping[str, Any]) -> dict[str, Any]:
    """The fields that Gemini's OpenAI-compatible endpoint adds to a message or a call."""
    extra = obj(part.get("extra_content"))
    return obj(extra.get("google")) or obj(extra.get("vertex"))
