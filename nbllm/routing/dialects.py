"""The registry of dialects: nbllm's own, for HTTP servers, commands, OpenCode's server and remote agents,
each imported at the first call that needs it; and those of installed packages."""

from __future__ import annotations

import functools
from collections.abc import Iterator, Mapping
from importlib import import_module
from itertools import chain

from ..core.calls import Dialect
from ..dialects import NAMES as HTTP_DIALECTS

_COMMANDS = ("cli_claude", "cli_gemini", "cli_codex", "cli_copilot", "cli_opencode", "cli_text")
_OWN = (*HTTP_DIALECTS, *_COMMANDS, "opencode_server", "a2a")


@functools.cache
def _load(name: str) -> Dialect:
    if name in HTTP_DIALECTS:
        dialect: Dialect = import_module(f"nbllm.dialects.{name}").DIALECT
        return dialect
    from ..agents import one_shot, opencode_protocol, remote_protocol

    others = (*one_shot.CLIS, opencode_protocol.DIALECT, remote_protocol.DIALECT)
    return {d.name: d for d in others}[name]


class Dialects(Mapping[str, Dialect]):
    """Dialects by name. A package's dialect cannot replace another."""

    def __init__(self) -> None:
        self._plugins: dict[str, Dialect] = {}

    def add(self, name: str, dialect: Dialect) -> bool:
        """Adds a package's dialect; False where there is another of that name."""
        return name not in _OWN and self._plugins.setdefault(name, dialect) is dialect

    def __getitem__(self, name: str) -> Dialect:
        return self._plugins[name] if name in self._plugins else _load(name)

    def __iter__(self) -> Iterator[str]:
        return chain(_OWN, self._plugins)

    def __len__(self) -> int:
        return len(_OWN) + len(self._plugins)

    def __contains__(self, name: object) -> bool:
        return name in _OWN or name in self._plugins


DIALECTS: Mapping[str, Dialect] = Dialects()
