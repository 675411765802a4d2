"""A remote agent as a tool: a model says what it is to be asked, and reads what it answers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ..core.messages import Document, Image, Text, Tool
from ..routing.registry import Route
from ..tools.names import fit
from ..tools.usable import Arguments, Usable
from .stream import Stream

_MESSAGE = {"type": "string", "description": "What to ask, with all that is needed: it knows nothing else."}
_SCHEMA = {
    "type": "object",
    "properties": {"message": _MESSAGE},
    "required": ["message"],
    "additionalProperties": False,
}


def remote_tool(route: Route, asked: Callable[[str], Stream]) -> Usable:
    """The agent as a tool; `asked` sends it a message. What it is for is the user's own word for it (label),
    and not its card's, which may say anything to a model. Raises ConfigError for one that cannot be asked."""
    route.check()
    label = route.provider.label or route.provider.name.partition("/")[2]

    async def ask(arguments: Arguments) -> Any:
        stream = asked(arguments["message"])
        try:
            response = await stream
        except BaseException:
            stream.cancel()
            raise
        parts = [p for p in response.parts if isinstance(p, (Text, Image, Document))]
        return [Text(response.text), *parts] if response.images or response.files else response.text

    tool = Tool(fit(route.provider.name.replace("/", "__")), f"Asks the agent {label}.", _SCHEMA)
    return Usable(tool, ask, where="engine", source=route.provider.name)
