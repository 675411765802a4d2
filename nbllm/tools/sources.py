"""What a person gives as tools: functions, HTTP endpoints, descriptions without code, and sets whose tools
are known when they are opened."""

from __future__ import annotations

import reprlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Protocol, runtime_checkable

from ..core import prompt
from ..core.errors import ConfigError
from ..core.messages import Tool
from ..http.transport import HttpTransport
from . import functions
from .http import HttpTool
from .usable import Usable


@runtime_checkable
class Toolset(Protocol):
    """Several tools of one owner, such as an MCP server."""

    async def usables(self) -> Sequence[Usable]:
        """The tools, once they can be used. Awaited on the engine's loop, before the first step. What it says
        in `notes` then, where it has them, is for the user."""


Given = Usable | Tool | Toolset
Connections = Callable[[], HttpTransport]
Sets = Callable[[str], Given]  # what a name such as mcp/files, http/weather or cli/claude means
NAMED = ("mcp/", "http/", "remote/", "cli/")


def tools(given: Any, connections: Connections, sets: Sets | None = None) -> tuple[Given, ...]:
    """Each of what was given as a tool; a single one needs no list, and lists may hold others. `connections`
    are those for HTTP, `sets` gives the tools of a name with one of NAMED before it. Raises ConfigError,
    which names what is no tool."""
    if not isinstance(given, Iterable) or isinstance(given, (Mapping, str, Toolset)) or callable(given):
        return (_tool(given, connections, sets),)
    return tuple(tool for one in given for tool in tools(one, connections, sets))


def _tool(given: Any, connections: Connections, sets: Sets | None) -> Given:
    if isinstance(given, (Usable, Tool, Toolset)):
        return given
    if isinstance(given, HttpTool):
        return given.usable(connections)
    if isinstance(given, Mapping):
        return prompt.parse_tools([given])[0]
    if isinstance(given, str) and given.startswith(NAMED) and sets is not None:
        return sets(given)
    if isinstance(given, str) or not callable(given):
        raise ConfigError(
            f"Not a tool: {reprlib.repr(given)}.",
            hint="Pass a function, a nbllm.Tool, OpenAI's dictionary of one, mcp/NAME, http/NAME, "
            "remote/NAME or cli/NAME.",
        )
    return functions.of(given)
