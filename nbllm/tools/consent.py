"""What the user lets MCP servers do, kept in allowed.json beside the user's own configuration.

Consent to start a server is bound to the file that describes it and to what it says (Entry.key): a command
that changes asks again. Consent to its tools is bound to a hash of all that a model is told of each: a tool
that changes, is new or has another name asks again, with what changed. So it is with its prompts; of its
resources, which come and go, those that change. A server of the user's own needs no consent to start, and
what it offers is noted at the first look.
"""

from __future__ import annotations

import difflib
import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..core.errors import ConfigError
from ..routing.files import file_lock, read_small_file, write_atomic
from .mcp_entry import Entry
from .mcp_mend import fingerprint

_LIMIT = 2**24  # bytes of the file
_SHOWN = 1_000  # characters of a tool's description and of its schema that are kept, to tell what changed
_LINES = 40  # of a difference


@dataclass(frozen=True, slots=True)
class Described:
    """A tool, a prompt or a resource as a server describes it, and its fingerprint."""

    name: str
    description: str
    schema: Mapping[str, Any]
    print: str

    def kept(self) -> dict[str, str]:
        """What is noted of it."""
        schema = json.dumps(self.schema, indent=1, ensure_ascii=True)
        text = self.description.encode("utf-8", "replace").decode()
        return {"hash": self.print, "description": text[:_SHOWN], "schema": schema[:_SHOWN]}


def described(name: str, description: str, schema: Mapping[str, Any]) -> Described:
    """Something with its fingerprint."""
    return Described(name, description, schema, fingerprint(name, description, schema))


@dataclass(frozen=True, slots=True)
class Change:
    """A tool that is not as it was allowed. lines: what changed, "- " and "+ " before each; of a new one its
    description."""

    tool: str
    new: bool
    lines: tuple[str, ...]


class Consent:
    """The file. path: a function, as it is looked for when it is needed."""

    def __init__(self, path: Callable[[], Path]) -> None:
        self._path = path

    def allowed(self, entry: Entry) -> bool:
        """Whether it may start."""
        return entry.trusted or entry.key in self._read()

    def allow(self, entry: Entry) -> None:
        """It may start."""
        self._set(entry, "tools", self._noted(entry, "tools"))

    def pin(self, entry: Entry, offered: Iterable[Described], kind: str = "tools") -> None:
        """Its tools (prompts, resources) are allowed as they are."""
        self._set(entry, kind, {t.name: t.kept() for t in offered})

    def forget(self, entry: Entry) -> None:
        """Nothing is allowed any more."""
        self._change(lambda data: data.pop(entry.key, None))

    def known(self, entry: Entry, kind: str = "tools") -> bool:
        """Whether its tools (prompts, resources) have been noted."""
        return self._noted(entry, kind) is not None

    def changes(self, entry: Entry, offered: Iterable[Described], kind: str = "tools") -> list[Change]:
        """What is not as it was allowed; nothing where nothing has been noted yet."""
        before = self._noted(entry, kind)
        found = [] if before is None else [c for t in offered if (c := _change(before.get(t.name), t))]
        return [c for c in found if not (c.new and kind == "resources")]

    def compared(self, entry: Entry, offered: list[Described], kind: str = "tools") -> list[Change]:
        """As changes, where the first look notes all."""
        if not self.known(entry, kind):
            self.pin(entry, offered, kind)
        return self.changes(entry, offered, kind)

    def _noted(self, entry: Entry, kind: str) -> dict[str, Any] | None:
        record = self._read().get(entry.key)
        found = record.get(kind) if isinstance(record, dict) else None
        return found if isinstance(found, dict) else None

    def _set(self, entry: Entry, kind: str, offered: dict[str, Any] | None) -> None:
        def change(data: dict[str, Any]) -> None:
            before = data.get(entry.key)
            kept = before if isinstance(before, dict) else {}
            data[entry.key] = {**kept, "name": entry.name, "file": entry.file, kind: offered}

        self._change(change)

    def _read(self) -> dict[str, Any]:
        """What the file says; {} where it is none of ours: nothing is allowed then."""
        try:
            data = json.loads(read_small_file(self._path(), _LIMIT))
        except (OSError, ValueError, RecursionError):
            return {}
        servers = data.get("mcp") if isinstance(data, dict) else None
        return servers if isinstance(servers, dict) else {}

    def _change(self, change: Callable[[dict[str, Any]], object]) -> None:
        path = self._path()
        try:
            with file_lock(path):
                data = self._read()
                change(data)
                write_atomic(path, json.dumps({"version": 1, "mcp": data}, indent=1) + "\n")
        except OSError as error:
            raise ConfigError(
                f"{path} cannot be written ({error.strerror or error}).",
                hint="Check the folder and its permissions, and try again.",
            ) from None


def _change(before: Any, now: Described) -> Change | None:
    if isinstance(before, dict) and before.get("hash") == now.print:
        return None
    kept = now.kept()
    if not isinstance(before, dict):
        return Change(now.name, True, tuple(f"+ {line}" for line in _lines(kept)[:_LINES]))
    found = difflib.unified_diff(_lines(before)[:100], _lines(kept)[:100], lineterm="", n=0)
    lines = [f"{line[0]} {line[1:]}" for line in list(found)[2:] if line[:1] in "-+"]
    more = [f"(more lines: {len(lines) - _LINES})"] if len(lines) > _LINES else []
    return Change(now.name, False, tuple([*lines[:_LINES], *more] or [f"(behind {_SHOWN:,} characters)"]))


def _lines(kept: Mapping[str, Any]) -> list[str]:
    return f"{kept.get('description', '')}\n{kept.get('schema', '')}".split("\n")
