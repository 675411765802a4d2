"""An MCP server in use: connected at the first use and again after it ended; its tools are checked against
the user's consent and made usable for a model."""

from __future__ import annotations

import asyncio
import fnmatch
import functools
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import TypeVar

from ..agents.process import ProcessTransport
from ..core.errors import ConfigError
from ..core.messages import Message, Tool
from .consent import Consent, Definition, DefinitionChange
from .mcp import Connection, Limits
from .mcp_content import Part
from .mcp_entry import Entry
from .mcp_errors import ToolFailed
from .mcp_login import Login
from .mcp_mend import clean, line, nearest_hint, schema_for_model, schema_problem
from .mcp_notebook import change_finder, is_notebook
from .mcp_offers import ADDRESS, Prompt, Resource, find_uri, to_definitions
from .names import valid_name
from .usable import Arguments, Usable

T = TypeVar("T")


class Server:
    """A server and its connection. notes: messages for the user about what was left out of the last list. For
    use on one event loop."""

    def __init__(
        self,
        entry: Entry,
        consent: Consent,
        processes: ProcessTransport,
        limits: Limits | None = None,
        login: Login | None = None,
    ) -> None:
        self.entry, self.notes = entry, list[str]()
        self._consent, self._processes, self._limits = consent, processes, limits or Limits()
        self._connection: Connection | None = None
        self._login = login
        self._listing = asyncio.Lock()
        self._usables: dict[str, Usable] = {}  # by fingerprint, so that a tool is always the same object

    @property
    def state(self) -> str:
        """Its state, as text for the user."""
        if self._connection is None:
            return "not started"
        return f"over: {self._connection.ended}" if self._connection.is_over else "running"

    @property
    def log(self) -> str:
        """The end of its standard error, of this or the last connection."""
        return self._connection.log if self._connection is not None else ""

    async def connection(self) -> Connection:
        """The open connection, or a new one. Raises ConfigError for a server that is not allowed, and the
        error that keeps it from starting."""
        if not await asyncio.to_thread(self._consent.is_allowed, self.entry):
            raise ConfigError(
                f"mcp/{self.entry.name} is not allowed yet: {self.entry.file} describes it.",
                hint=f"`%llm mcp allow {self.entry.name}` shows what it would run and asks you.",
            )
        if self._connection is None or self._connection.is_over:
            self._connection = Connection(self.entry, self._processes, self._limits, self._login)
        await self._connection.get_client()
        return self._connection

    async def list_tools(self) -> list[Definition]:
        """Its current tools."""
        return await self._list_offers(lambda connection: connection.tools())

    async def check_tools(self) -> tuple[list[Definition], list[DefinitionChange]]:
        """(its tools, the changes since they were allowed). The first list is recorded as allowed."""
        tools = await self.list_tools()
        return tools, await self._find_changes(tools, "tools")

    async def check_other_offers(self) -> dict[str, tuple[list[Definition], list[DefinitionChange]]]:
        """`check_tools` for prompts and resources, where they were listed before."""
        checked = {}
        for kind, list_offers in (("prompts", self.prompts), ("resources", self.resources)):
            if await asyncio.to_thread(self._consent.is_recorded, self.entry, kind):
                offered = to_definitions(await list_offers())
                checked[kind] = offered, await self._find_changes(offered, kind)
        return checked

    async def _find_changes(self, offered: list[Definition], kind: str) -> list[DefinitionChange]:
        """The changes since the offers were allowed; the first list is recorded as allowed."""
        return await asyncio.to_thread(self._consent.check, self.entry, offered, kind)

    async def _check_offer(self, offers: Sequence[Resource | Prompt], kind: str, uri_or_name: str) -> None:
        """Raises ConfigError where the resource or prompt has changed since it was allowed."""
        offered = to_definitions(offers)
        changed = {c.tool for c in await self._find_changes(offered, kind)}
        for offer, known in zip(offers, offered, strict=True):
            if uri_or_name in (offer.key, known.name) and known.name in changed:
                what = f"its {kind.removesuffix('s')} {line(known.name, 60)!r}"
                raise ConfigError(
                    f"mcp/{self.entry.name}: {what} has changed since you allowed it.",
                    hint=f"`%llm mcp allow {self.entry.name}` shows the changes and asks you.",
                )

    async def usables(self, pattern: str = "*") -> list[Usable]:
        """The tools whose names match `pattern` and that are unchanged since they were allowed; `notes` say
        what was left out. Raises ConfigError where `pattern` matches nothing, or is a changed tool's name."""
        tools, changes = await self.check_tools()
        changed = {c.tool for c in changes}
        chosen = [t for t in tools if t.name == pattern or fnmatch.fnmatchcase(t.name, pattern)]
        unapproved = [line(t.name, 60) for t in chosen if t.name in changed]
        if not chosen and (tools or pattern != "*"):
            names = [line(t.name, 60) for t in tools]
            raise ConfigError(
                f"mcp/{self.entry.name} has no tool {line(pattern, 60)!r}.",
                hint=nearest_hint(pattern, names, f"It has {_join_names(names)}."),
            )
        if unapproved:
            text = (
                f"mcp/{self.entry.name}: new or changed since you allowed it, so left out: "
                f"{_join_names(unapproved)}."
            )
            hint = f"`%llm mcp allow {self.entry.name}` shows the changes and asks you."
            if pattern in changed:
                raise ConfigError(text, hint=hint)
            self.notes.append(f"{text} {hint}")
        return [u for t in chosen if t.name not in changed and (u := await self._usable(t)) is not None]

    async def _usable(self, tool: Definition) -> Usable | None:
        """A tool with its call; None and a note where providers would refuse its schema."""
        if (known := self._usables.get(tool.fingerprint)) is not None:
            return known
        await asyncio.sleep(0)  # a server may have hundreds
        schema = schema_for_model(tool.schema)
        if problem := schema_problem(schema):
            self.notes.append(f"mcp/{self.entry.name}: {line(tool.name, 60)} is left out: {problem}.")
            return None
        usable = Usable(
            Tool(valid_name(f"{self.entry.name}__{tool.name}"), clean(tool.description), schema),
            functools.partial(self.call, tool),
            where="engine",
            source=f"mcp/{self.entry.name}",
            change=change_finder(tool.name, self._call_allowed) if is_notebook(self.entry) else None,
        )
        return self._usables.setdefault(tool.fingerprint, usable)  # it may have been made meanwhile

    async def call(self, tool: Definition, arguments: Arguments) -> str | list[Part]:
        """Calls `tool`, on a server that is started again where it has ended. Raises ToolFailed and other
        NbllmErrors, whose message is one line for the model."""
        connection = await self.connection()
        if connection.fingerprints is None:
            await self.list_tools()
            connection = await self.connection()
        if (connection.fingerprints or {}).get(tool.name) != tool.fingerprint:
            raise ToolFailed(
                f"mcp/{self.entry.name} has changed {line(tool.name, 60)} since the user allowed it; it was "
                "not called"
            )
        return await connection.call(tool.name, arguments)

    async def _call_allowed(self, name: str, arguments: Arguments) -> str | list[Part]:
        """Calls a tool for our own use, if it is unchanged since the user allowed it."""
        tools, changes = await self.check_tools()
        allowed = next((t for t in tools if t.name == name), None)
        if allowed is None or name in {c.tool for c in changes}:
            raise ToolFailed(f"mcp/{self.entry.name} has no tool {name} that is allowed")
        return await self.call(allowed, arguments)

    async def resources(self) -> list[Resource]:
        """Its current resources."""
        return await self._list_offers(lambda connection: connection.resources())

    async def prompts(self) -> list[Prompt]:
        """Its current prompts."""
        return await self._list_offers(lambda connection: connection.prompts())

    async def read(self, reference: str, budget: int) -> list[Part]:
        """The resource for a reference (see find_uri), as parts of a prompt. Raises ConfigError where there
        is none, and other NbllmErrors."""
        name = f"mcp/{self.entry.name}"
        uri = reference
        if "://" not in reference:
            offered = await self.resources()
            uri = find_uri(reference, offered, name)
            await self._check_offer(offered, "resources", uri)
        connection = await self.connection()
        return await connection.read(uri, f"{ADDRESS}{self.entry.name}/{reference}", budget)

    async def prompt(self, name: str, arguments: Mapping[str, str]) -> list[Message]:
        """A prompt, filled in. Raises ConfigError for an unknown name or argument."""
        prompts = {p.name: p for p in await self.prompts()}
        if name not in prompts:
            names = [line(n, 60) for n in prompts]
            hint = nearest_hint(name, names, f"It has {_join_names(names) or 'none'}.")
            raise ConfigError(f"mcp/{self.entry.name} has no prompt {line(name, 60)!r}.", hint=hint)
        await self._check_offer(list(prompts.values()), "prompts", name)
        known = prompts[name].check_arguments(arguments, f"mcp/{self.entry.name}")
        return await (await self.connection()).prompt(name, known)

    async def _list_offers(self, list_offers: Callable[[Connection], Awaitable[T]]) -> T:
        """Requests a list from the server; `notes` then say what was left out of it."""
        async with self._listing:
            connection = await self.connection()
            offers = await list_offers(connection)
            self.notes = [f"mcp/{self.entry.name}: {note}" for note in connection.notes]
            return offers

    async def close(self) -> None:
        """Closes the connection, which ends the server's command."""
        if self._connection is not None:
            await self._connection.close()


def _join_names(names: list[str]) -> str:
    return ", ".join(names[:10]) + (f" and {len(names) - 10} more" if len(names) > 10 else "")
