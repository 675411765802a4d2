"""An agent as a tool, on another machine or a command of this one: a model says what it is to be asked, and
reads what it answers."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from ..core import errors
from ..core.messages import Document, Image, Text, Tool
from ..routing.registry import Route
from ..tools.consent import Change, Consent, Described, described
from ..tools.mcp_entry import Entry
from ..tools.mcp_mend import clean, line
from ..tools.names import fit
from ..tools.usable import Arguments, Usable
from .stream import Stream

_MESSAGE = {"type": "string", "description": "What to ask, with all that is needed: it knows nothing else."}
_PATIENCE = 600.0  # seconds; a command that hangs has no limit of its own
_SCHEMA = {
    "type": "object",
    "properties": {"message": _MESSAGE},
    "required": ["message"],
    "additionalProperties": False,
}


@dataclass(slots=True)
class RemoteTool:
    """The agent as a tool. asked: sends it a message; said: what its card says of it, which the model is told
    behind the user's own word for it (label).

    A card may say anything to a model, so consent to it is bound to its words: the first are noted, and
    others asked about. `notes`: why the agent was left out, for the user."""

    route: Route
    asked: Callable[[str], Stream]
    said: Callable[[], Awaitable[str]]
    consent: Consent
    notes: list[str] = field(default_factory=list)

    @property
    def name(self) -> str:
        """As it is named in tools=."""
        return self.route.provider.name

    @property
    def entry(self) -> Entry:
        """What consent is bound to beside the card's words: its name and address."""
        return Entry(self.name, trusted=True, url=self.route.provider.base_url)

    async def changes(self) -> tuple[Described, list[Change]]:
        """(what the card says now, what of it is not as it was allowed)."""
        told = described("card", await self.said(), {})
        return told, await asyncio.to_thread(self.consent.compared, self.entry, [told])

    async def usables(self) -> list[Usable]:
        """See Toolset. Raises ConfigError where the card is not as it was allowed."""
        self.notes = []
        try:
            card, changed = await self.changes()
        except (errors.TransportError, errors.ProviderError, errors.ProtocolError) as error:
            self.notes.append(f"{self.name} is left out: {line(error.message)}")
            return []
        if changed:
            raise errors.ConfigError(
                f"{self.name}: its card is not as you allowed it.",
                hint=f"`%llm mcp allow {self.name}` shows what changed, and asks.",
            )
        label = self.route.provider.label or self.name.partition("/")[2]
        told = f"Asks the agent {label}. It says of itself:\n{clean(card.description)}"
        return [_usable(self.name, told, self.asked)]


def command_tool(route: Route, name: str, asked: Callable[[str], Stream]) -> Usable:
    """A command-line agent as a tool: it may do what it may where it is asked without mode=execute."""
    label = route.provider.label or name.partition("/")[2]
    return _usable(name, f"Asks the agent {label} on this machine.", asked, _PATIENCE)


def _usable(name: str, told: str, asked: Callable[[str], Stream], timeout: float | None = None) -> Usable:
    tool = Tool(fit(name.replace("/", "__")), told, _SCHEMA)
    return Usable(tool, partial(_ask, asked), where="engine", source=name, timeout=timeout)


async def _ask(asked: Callable[[str], Stream], arguments: Arguments) -> Any:
    """What it answers."""
    stream = asked(arguments["message"])
    try:
        response = await stream
    except BaseException:
        stream.cancel()
        raise
    parts = [p for p in response.parts if isinstance(p, (Text, Image, Document))]
    return [Text(response.text), *parts] if response.images or response.files else response.text
