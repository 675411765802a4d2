"""What a person gives as tools: functions, descriptions without code, and sets whose tools are known when
they are opened."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Protocol, runtime_checkable

from ..core import prompt
from ..core.errors import ConfigError
from ..core.messages import Tool
from . import functions
from .usable import Usable


@runtime_checkable
class Toolset(Protocol):
    """Several tools of one owner, such as an MCP server."""

    async def usables(self) -> Sequence[Usable]:
        """The tools, once they can be used. Awaited on the engine's loop, before the first step."""


Given = Usable | Tool | Toolset


def tools(given: Any) -> tuple[Given, ...]:
    """Each of what was given as a tool. A single one needs no list. Raises ConfigError, which names what is
    no tool."""
    alone = callable(given) or isinstance(given, (Usable, Tool, Toolset, Mapping, str))
    if not alone and not isinstance(given, Iterable):
        raise _no_tool(given)
    return tuple(_tool(t) for t in ([given] if alone else given))


def _tool(given: Any) -> Given:
    if isinstance(given, (Usable, Tool, Toolset)):
        return given
    if isinstance(given, Mapping):
        return prompt.tools([given])[0]
    if isinstance(given, str) or not callable(given):
        raise _no_tool(given)
    return functions.of(given)


def _no_tool(given: Any) -> ConfigError:
    return ConfigError(
        f"Not a tool: {str(given)[:80]!r}.",
        hint="Pass a function, a nbllm.Tool, or OpenAI's description of one as a dictionary.",
    )
