"""The user's consent to MCP servers, stored in allowed.json next to the user's configuration.

Consent to start a server is bound to the file that describes it and to its description (Entry.key): a changed
command needs consent again. Consent to its tools is bound to a hash of all that a model reads of each: a tool
that is changed, new or renamed needs consent again, and the user sees the change. The same holds for its
prompts; of its resources, which come and go, only for changed ones. A server of the user's own needs no
consent to start, and its tools are recorded when they are first listed.
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
_MAX_TEXT = 1_000  # characters of a tool's description and schema that are recorded, to show changes
_MAX_DIFF_LINES = 40  # of a change


@dataclass(frozen=True, slots=True)
class Definition:
    """A server's description of a tool, prompt or resource, with its fingerprint."""

    name: str
    description: str
    schema: Mapping[str, Any]
    fingerprint: str

    def to_record(self) -> dict[str, str]:
        """Its form in the file."""
        schema = json.dumps(self.schema, indent=1, ensure_ascii=True)
        text = self.description.encode("utf-8", "replace").decode()
        return {"hash": self.fingerprint, "description": text[:_MAX_TEXT], "schema": schema[:_MAX_TEXT]}


def define(name: str, description: str, schema: Mapping[str, Any]) -> Definition:
    """A definition with its fingerprint."""
    return Definition(name, description, schema, fingerprint(name, description, schema))


@dataclass(frozen=True, slots=True)
class DefinitionChange:
    """A tool that is new, or has changed since it was allowed. lines: the changed lines, with "- " and "+ ";
    of a new one its description."""

    tool: str
    new: bool
    lines: tuple[str, ...]


class Consent:
    """The file of consents. path: a function that finds it, called when it is needed."""

    def __init__(self, path: Callable[[], Path]) -> None:
        self._path = path

    def is_allowed(self, entry: Entry) -> bool:
        """Whether a server may start."""
        return entry.trusted or entry.key in self._read()

    def allow(self, entry: Entry) -> None:
        """Allows a server to start."""
        self._store(entry, "tools", self._recorded(entry, "tools"))

    def pin(self, entry: Entry, offered: Iterable[Definition], kind: str = "tools") -> None:
        """Allows a server's tools (prompts, resources) as they are now."""
        self._store(entry, kind, {t.name: t.to_record() for t in offered})

    def forget(self, entry: Entry) -> None:
        """Removes all consent to a server."""
        self._update(lambda data: data.pop(entry.key, None))

    def is_recorded(self, entry: Entry, kind: str = "tools") -> bool:
        """Whether a server's tools (prompts, resources) have been recorded."""
        return self._recorded(entry, kind) is not None

    def find_changes(
        self, entry: Entry, offered: Iterable[Definition], kind: str = "tools"
    ) -> list[DefinitionChange]:
        """The differences from what was allowed; none where nothing has been recorded yet."""
        before = self._recorded(entry, kind)
        changes = [] if before is None else [c for t in offered if (c := _compare(before.get(t.name), t))]
        return [c for c in changes if not (c.new and kind == "resources")]

    def check(self, entry: Entry, offered: list[Definition], kind: str = "tools") -> list[DefinitionChange]:
        """`find_changes`; where nothing has been recorded yet, all is recorded first."""
        if not self.is_recorded(entry, kind):
            self.pin(entry, offered, kind)
        return self.find_changes(entry, offered, kind)

    def _recorded(self, entry: Entry, kind: str) -> dict[str, Any] | None:
        record = self._read().get(entry.key)
        offers = record.get(kind) if isinstance(record, dict) else None
        return offers if isinstance(offers, dict) else None

    def _store(self, entry: Entry, kind: str, offered: dict[str, Any] | None) -> None:
        def change(data: dict[str, Any]) -> None:
            before = data.get(entry.key)
            recorded = before if isinstance(before, dict) else {}
            data[entry.key] = {**recorded, "name": entry.name, "file": entry.file, kind: offered}

        self._update(change)

    def _read(self) -> dict[str, Any]:
        """The file's content; {} where it cannot be read, so that nothing is allowed."""
        try:
            data = json.loads(read_small_file(self._path(), _LIMIT))
        except (OSError, ValueError, RecursionError):
            return {}
        servers = data.get("mcp") if isinstance(data, dict) else None
        return servers if isinstance(servers, dict) else {}

    def _update(self, change: Callable[[dict[str, Any]], object]) -> None:
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


def _compare(before: Any, now: Definition) -> DefinitionChange | None:
    if isinstance(before, dict) and before.get("hash") == now.fingerprint:
        return None
    recorded = now.to_record()
    if not isinstance(before, dict):
        return DefinitionChange(
            now.name, True, tuple(f"+ {line}" for line in _lines(recorded)[:_MAX_DIFF_LINES])
        )
    diff = difflib.unified_diff(_lines(before)[:100], _lines(recorded)[:100], lineterm="", n=0)
    lines = [f"{line[0]} {line[1:]}" for line in list(diff)[2:] if line[:1] in "-+"]
    more = [f"(more lines: {len(lines) - _MAX_DIFF_LINES})"] if len(lines) > _MAX_DIFF_LINES else []
    return DefinitionChange(
        now.name, False, tuple([*lines[:_MAX_DIFF_LINES], *more] or [f"(behind {_MAX_TEXT:,} characters)"])
    )


def _lines(recorded: Mapping[str, Any]) -> list[str]:
    return f"{recorded.get('description', '')}\n{recorded.get('schema', '')}".split("\n")
