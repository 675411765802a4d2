"""The values of tools=: functions, HTTP endpoints, descriptions without code, and toolsets, whose tools are
known once they are opened."""

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
    """Several tools of one source, such as an MCP server."""

    async def usables(self) -> Sequence[Usable]:
        """The tools, ready for use. Awaited on the engine's loop, before the first step. Its `notes`, where
        it has any, are then shown to the user."""


ToolLike = Usable | Tool | Toolset
Connections = Callable[[], HttpTransport]
FindToolset = Callable[[str], ToolLike]  # by a name such as mcp/files, http/weather or cli/claude
PREFIXES = ("mcp/", "http/", "remote/", "cli/")


def parse_tools(
    value: Any, connections: Connections, find_toolset: FindToolset | None = None
) -> tuple[ToolLike, ...]:
    """The tools in the value of tools=: one tool or a list, whose lists may be nested. connections: for HTTP
    tools. find_toolset: for names with one of PREFIXES. Raises ConfigError for what is not a tool."""
    if not isinstance(value, Iterable) or isinstance(value, (Mapping, str, Toolset)) or callable(value):
        return (_tool(value, connections, find_toolset),)
    return tuple(tool for one in value for tool in parse_tools(one, connections, find_toolset))


def _tool(value: Any, connections: Connections, find_toolset: FindToolset | None) -> ToolLike:
    if isinstance(value, (Usable, Tool, Toolset)):
        return value
    if isinstance(value, HttpTool):
        return value.usable(connections)
    if isinstance(value, Mapping):
        return prompt.parse_tools([value])[0]
    if isinstance(value, str) and value.startswith(PREFIXES) and find_toolset is not None:
        return find_toolset(value)
    if isinstance(value, str) or not callable(value):
        raise ConfigError(
            f"Not a tool: {reprlib.repr(value)}.",
            hint="Pass a function, a nbllm.Tool, OpenAI's dictionary of one, mcp/NAME, http/NAME, "
            "remote/NAME or cli/NAME.",
        )
    return functions.of(value)
