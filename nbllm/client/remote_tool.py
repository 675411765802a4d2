"""An agent, remote or a command on this machine, as a tool: the model sends it a message and gets its
answer."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from ..core import errors
from ..core.messages import Document, Image, Text, Tool
from ..routing.registry import Route
from ..tools.consent import Consent, Definition, DefinitionChange, define
from ..tools.mcp_entry import Entry
from ..tools.mcp_mend import clean, line
from ..tools.names import valid_name
from ..tools.usable import Arguments, Usable
from .stream import Stream

_MESSAGE = {"type": "string", "description": "What to ask, with all that is needed: it knows nothing else."}
_TIMEOUT = 600.0  # seconds, since a command that hangs has no limit of its own
_SCHEMA = {
    "type": "object",
    "properties": {"message": _MESSAGE},
    "required": ["message"],
    "additionalProperties": False,
}


@dataclass(slots=True)
class RemoteTool:
    """A remote agent as a tool. send: sends it a message. read_card: returns its card's description of
    itself, which the model reads after the user's own label.

    A card may say anything to a model, so consent is bound to its text: the first text is recorded, and a
    changed one needs the user's approval. notes: why the agent was left out, for the user."""

    route: Route
    send: Callable[[str], Stream]
    read_card: Callable[[], Awaitable[str]]
    consent: Consent
    notes: list[str] = field(default_factory=list)

    @property
    def name(self) -> str:
        """Its name in tools=."""
        return self.route.provider.name

    @property
    def entry(self) -> Entry:
        """The agent's name and address, to which consent is bound besides the card's text."""
        return Entry(self.name, trusted=True, url=self.route.provider.base_url)

    async def check_card(self) -> tuple[Definition, list[DefinitionChange]]:
        """(the card as it is now, its changes since the user allowed it)."""
        description = define("card", await self.read_card(), {})
        return description, await asyncio.to_thread(self.consent.check, self.entry, [description])

    async def usables(self) -> list[Usable]:
        """See Toolset. Raises ConfigError where the card has changed since the user allowed it."""
        self.notes = []
        try:
            card, changed = await self.check_card()
        except (errors.TransportError, errors.ProviderError, errors.ProtocolError) as error:
            self.notes.append(f"{self.name} is left out: {line(error.message)}")
            return []
        if changed:
            raise errors.ConfigError(
                f"{self.name}: its card has changed since you allowed it.",
                hint=f"`%llm mcp allow {self.name}` shows the changes and asks you.",
            )
        label = self.route.provider.label or self.name.partition("/")[2]
        description = f"Asks the agent {label}. It says of itself:\n{clean(card.description)}"
        return [_agent_tool(self.name, description, self.send)]


def command_tool(route: Route, name: str, send: Callable[[str], Stream]) -> Usable:
    """A command-line agent as a tool, with the rights that it has without mode=execute."""
    label = route.provider.label or name.partition("/")[2]
    return _agent_tool(name, f"Asks the agent {label} on this machine.", send, _TIMEOUT)


def _agent_tool(
    name: str, description: str, send: Callable[[str], Stream], timeout: float | None = None
) -> Usable:
    tool = Tool(valid_name(name.replace("/", "__")), description, _SCHEMA)
    return Usable(tool, partial(_call_agent, send), where="engine", source=name, timeout=timeout)


async def _call_agent(send: Callable[[str], Stream], arguments: Arguments) -> Any:
    """The agent's answer to a message."""
    stream = send(arguments["message"])
    try:
        response = await stream
    except BaseException:
        stream.cancel()
        raise
    parts = [p for p in response.parts if isinstance(p, (Text, Image, Document))]
    return [Text(response.text), *parts] if response.images or response.files else response.text
