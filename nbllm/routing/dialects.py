"""Every dialect that nbllm knows: its own, of HTTP servers, of commands, of OpenCode's server and of remote
agents, whose files load with the first call that speaks them; and those that installed packages bring."""

from __future__ import annotations

import functools
from collections.abc import Iterator, Mapping
from importlib import import_module
from itertools import chain

from ..core.calls import Dialect
from ..dialects import NAMES as SERVERS

_COMMANDS = ("cli_claude", "cli_gemini", "cli_codex", "cli_copilot", "cli_opencode", "cli_text")
_OWN = (*SERVERS, *_COMMANDS, "opencode_server", "a2a")


@functools.cache
def _loaded(name: str) -> Dialect:
    if name in SERVERS:
        found: Dialect = import_module(f"nbllm.dialects.{name}").DIALECT
        return found
    from ..agents import one_shot, opencode_protocol, remote_protocol

    others = (*one_shot.CLIS, opencode_protocol.DIALECT, remote_protocol.DIALECT)
    return {d.name: d for d in others}[name]


class Dialects(Mapping[str, Dialect]):
    """Dialects by their names, of which there is always one: what is brought takes no name that is taken."""

    def __init__(self) -> None:
        self._brought: dict[str, Dialect] = {}

    def bring(self, name: str, dialect: Dialect) -> bool:
        """Adds one of an installed package; False where there is another of that name."""
        return name not in _OWN and self._brought.setdefault(name, dialect) is dialect

    def __getitem__(self, name: str) -> Dialect:
        return self._brought[name] if name in self._brought else _loaded(name)

    def __iter__(self) -> Iterator[str]:
        return chain(_OWN, self._brought)

    def __len__(self) -> int:
        return len(_OWN) + len(self._brought)

    def __contains__(self, name: object) -> bool:
        return name in _OWN or name in self._brought


DIALECTS: Mapping[str, Dialect] = Dialects()
