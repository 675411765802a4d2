"""Reads MCP servers from configuration files: those of Claude, VS Code and Cursor, and nbllm's own.

A project's file is untrusted. It is read, but nothing that it names is started before the user has allowed it
(see consent.py).
"""

from __future__ import annotations

import json
import os
import re
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..core.errors import ConfigError
from ..routing.files import file_lock, read_small_file, write_atomic
from .mcp_entry import Entry, Source, parse_entry

_LIMIT = 2**24  # bytes; Claude's own file also holds the history of its projects
_MOST = 200  # servers of a file
_ROOTS = ("mcpServers", "servers")
# For files with comments (VS Code's): strings are kept, comments removed, then commas before a closing
# bracket.
_COMMENT = re.compile(r'("(?:\\.|[^"\\\n])*")|//[^\n]*|/\*(?:.*?\*/|.*)', re.DOTALL)
_COMMA = re.compile(r'("(?:\\.|[^"\\\n])*")|,(?=\s*[}\]])')


@dataclass(frozen=True, slots=True)
class ConfigLocations:
    """The locations of configuration files. own: the user's file for nbllm. home: the user's home folder;
    with None, other programs' files are ignored. folders: those of the project, with the notebook's first."""

    own: Path | None = None
    home: Path | None = None
    folders: tuple[Path, ...] = ()

    def files(self) -> Iterator[Source]:
        """The files, the user's first, so that a project's server cannot replace one of the same name."""
        here = self.folders[0] if self.folders else Path.cwd()
        if self.own is not None:
            yield Source(str(self.own.absolute()), here, True)
        if self.home is not None:
            for path in (self.home / ".claude.json", self.home / ".cursor" / "mcp.json", _desktop(self.home)):
                yield Source(str(path.absolute()), here)
        for folder in self.folders:
            for name in (".mcp.json", ".vscode/mcp.json", ".cursor/mcp.json"):
                yield Source(str((folder / name).absolute()), folder)


def _desktop(home: Path) -> Path:
    """Claude Desktop's file."""
    base = {
        "darwin": home / "Library" / "Application Support",
        "win32": Path(os.environ.get("APPDATA", home)),
    }.get(sys.platform, home / ".config")
    return base / "Claude" / "claude_desktop_config.json"


def load_entries(locations: ConfigLocations, env: Mapping[str, str]) -> tuple[list[Entry], list[str]]:
    """(all servers in the files, messages about files that cannot be read). Of several servers with one name
    the first counts."""
    entries, problems = list[Entry](), list[str]()
    for source in locations.files():
        try:
            tables = list(_tables(read_small_file(Path(source.file), _LIMIT), source.folder))
        except FileNotFoundError:
            continue
        except (OSError, ValueError, RecursionError) as error:
            problems.append(f"{source.file} cannot be read: {str(error) or type(error).__name__}"[:300])
            continue
        named_tables = [(name, table) for t in tables for name, table in t.items()]
        entries += [parse_entry(n, t, source, env) for n, t in named_tables[:_MOST]]
        problems += [f"{source.file}: only {_MOST} servers are read"] if len(named_tables) > _MOST else []
    return entries, problems


def _tables(text: str, folder: Path) -> Iterator[Mapping[str, Any]]:
    """The tables of servers in a file, among them Claude's for this folder."""
    data = json.loads(_without_comments(text)) if text.strip() else {}
    if not isinstance(data, dict):
        raise ValueError("it holds no object")  # noqa: TRY004 - about a file, as the other errors of reading one
    projects = data.get("projects")
    own = projects.get(str(folder)) if isinstance(projects, dict) else None
    tables = [part.get(root) for part in (own, data) if isinstance(part, dict) for root in _ROOTS]
    if not isinstance(data.get("mcpServers", {}), dict):
        raise ValueError("its mcpServers are no object")  # noqa: TRY004 - as above
    return (table for table in tables if isinstance(table, dict))


def _without_comments(text: str) -> str:
    bare = _COMMENT.sub(lambda m: m[1] or " ", text)
    return _COMMA.sub(lambda m: m[1] or "", bare)


def save_entry(path: Path, name: str, table: Mapping[str, Any] | None) -> None:
    """Writes a server into the user's own file, or removes it (None). Raises ConfigError where the file is
    broken or cannot be written."""
    try:
        with file_lock(path):
            data = json.loads(read_small_file(path, _LIMIT)) if path.exists() else {}
            servers = data.setdefault("mcpServers", {})
            servers.pop(name, None)
            servers.update({name: table} if table is not None else {})
            write_atomic(path, json.dumps(data, indent=2) + "\n")
    except (OSError, ValueError, RecursionError, AttributeError) as error:
        raise ConfigError(
            f"{path} cannot be changed ({getattr(error, 'strerror', None) or error}).",
            hint="Correct it, or check its folder's permissions, and try again.",
        ) from None
