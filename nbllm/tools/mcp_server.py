"""An MCP server while it is used: opened at the first use and again where it ended, allowed tool by tool, and
what it offers as tools that a model may use."""

from __future__ import annotations

import asyncio
import fnmatch
import functools
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import TypeVar

from ..agents.process import ProcessTransport
from ..core.errors import ConfigError
from ..core.messages import Message, Tool
from .consent import Change, Consent, Described
from .mcp import Connection, Limits
from .mcp_content import Part
from .mcp_entry import Entry
from .mcp_errors import ToolFailed
from .mcp_login import Login
from .mcp_mend import clean, line, nearest, schema_problem, told
from .mcp_notebook import is_notebook, watched
from .mcp_offers import ADDRESS, Prompt, Resource, found, noted
from .names import valid_name
from .usable import Arguments, Usable

T = TypeVar("T")


class Server:
    """A server, and its connection while there is one. `notes`: what was left out when its tools were asked
    for last, for the user. To be used on one event loop."""

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
        self._made: dict[str, Usable] = {}  # by fingerprint: a tool that is given twice is the same one

    @property
    def state(self) -> str:
        """In words, for the user."""
        if self._connection is None:
            return "not started"
        return f"over: {self._connection.ended}" if self._connection.over else "running"

    @property
    def log(self) -> str:
        """The end of what it wrote to standard error, in this life or its last one."""
        return self._connection.log if self._connection is not None else ""

    async def connection(self) -> Connection:
        """A connection that is open: the one there is, or a new one. Raises ConfigError for a server that is
        not allowed, and what keeps it from starting."""
        if not await asyncio.to_thread(self._consent.allowed, self.entry):
            raise ConfigError(
                f"mcp/{self.entry.name} is not allowed yet: {self.entry.file} describes it.",
                hint=f"`%llm mcp allow {self.entry.name}` shows what it would run, and asks.",
            )
        if self._connection is None or self._connection.over:
            self._connection = Connection(self.entry, self._processes, self._limits, self._login)
        await self._connection.opened()
        return self._connection

    async def described(self) -> list[Described]:
        """Its tools as it tells them now."""
        return await self._told(lambda connection: connection.tools())

    async def changes(self) -> tuple[list[Described], list[Change]]:
        """(its tools, those that are not as they were allowed). The first look notes them all."""
        tools = await self.described()
        return tools, await self._compared(tools, "tools")

    async def other_changes(self) -> dict[str, tuple[list[Described], list[Change]]]:
        """As changes, for prompts and resources, those that have been looked at before."""
        found = {}
        for kind, ask in (("prompts", self.prompts), ("resources", self.resources)):
            if await asyncio.to_thread(self._consent.known, self.entry, kind):
                offered = noted(await ask())
                found[kind] = offered, await self._compared(offered, kind)
        return found

    async def _compared(self, offered: list[Described], kind: str) -> list[Change]:
        """What is not as it was allowed; the first look notes all."""
        return await asyncio.to_thread(self._consent.compared, self.entry, offered, kind)

    async def _check(self, offers: Sequence[Resource | Prompt], kind: str, uri_or_name: str) -> None:
        """Raises ConfigError where the one that is meant is not as it was allowed."""
        offered = noted(offers)
        changed = {c.tool for c in await self._compared(offered, kind)}
        for offer, known in zip(offers, offered, strict=True):
            if uri_or_name in (offer.ident, known.name) and known.name in changed:
                what = f"its {kind.removesuffix('s')} {line(known.name, 60)!r}"
                raise ConfigError(
                    f"mcp/{self.entry.name}: {what} is not as you allowed it.",
                    hint=f"`%llm mcp allow {self.entry.name}` shows what changed, and asks.",
                )

    async def usables(self, pattern: str = "*") -> list[Usable]:
        """What a model may use of its tools: those whose names fit `pattern`, and that are as they were
        allowed. What is left out stands in `notes`. Raises ConfigError where `pattern` names nothing, or a
        tool that has changed."""
        tools, changes = await self.changes()
        changed = {c.tool for c in changes}
        chosen = [t for t in tools if t.name == pattern or fnmatch.fnmatchcase(t.name, pattern)]
        held = [line(t.name, 60) for t in chosen if t.name in changed]
        if not chosen and (tools or pattern != "*"):
            raise self._nothing(pattern, tools)
        if held:
            words = (
                f"mcp/{self.entry.name}: not as you allowed {'it' if len(held) == 1 else 'them'}, so left "
                f"out: {_listed(held)}."
            )
            hint = f"`%llm mcp allow {self.entry.name}` shows what changed, and asks."
            if pattern in changed:
                raise ConfigError(words, hint=hint)
            self.notes.append(f"{words} {hint}")
        return [u for t in chosen if t.name not in changed and (u := await self._usable(t)) is not None]

    def _nothing(self, pattern: str, tools: list[Described]) -> ConfigError:
        names = [line(t.name, 60) for t in tools]
        return ConfigError(
            f"mcp/{self.entry.name} has no tool {line(pattern, 60)!r}.",
            hint=nearest(pattern, names, f"It has {_listed(names)}."),
        )

    async def _usable(self, tool: Described) -> Usable | None:
        """A tool with its call; None, and a note, where no provider would take its schema."""
        if (known := self._made.get(tool.print)) is not None:
            return known
        await asyncio.sleep(0)  # a server may have hundreds
        schema = told(tool.schema)
        if problem := schema_problem(schema):
            self.notes.append(f"mcp/{self.entry.name}: {line(tool.name, 60)} is left out: {problem}.")
            return None
        made = Usable(
            Tool(valid_name(f"{self.entry.name}__{tool.name}"), clean(tool.description), schema),
            functools.partial(self.call, tool),
            where="engine",
            source=f"mcp/{self.entry.name}",
            change=watched(tool.name, self._own) if is_notebook(self.entry) else None,
        )
        return self._made.setdefault(tool.print, made)  # it may have been asked for meanwhile

    async def call(self, tool: Described, arguments: Arguments) -> str | list[Part]:
        """What a call of `tool` gives. A server that has ended is started again. Raises ToolFailed and other
        errors of ours, whose message is one line for the model."""
        connection = await self.connection()
        if connection.prints is None:
            await self.described()
            connection = await self.connection()
        if (connection.prints or {}).get(tool.name) != tool.print:
            raise ToolFailed(
                f"mcp/{self.entry.name} has changed {line(tool.name, 60)} since the user allowed it; it was "
                "not called"
            )
        return await connection.call(tool.name, arguments)

    async def _own(self, name: str, arguments: Arguments) -> str | list[Part]:
        """A call of ours, of a tool that is as the user allowed it."""
        tools, changes = await self.changes()
        found = next((t for t in tools if t.name == name), None)
        if found is None or name in {c.tool for c in changes}:
            raise ToolFailed(f"mcp/{self.entry.name} has no tool {name} that is allowed")
        return await self.call(found, arguments)

    async def resources(self) -> list[Resource]:
        """Its resources, as it tells of them now."""
        return await self._told(lambda connection: connection.resources())

    async def prompts(self) -> list[Prompt]:
        """Its prompts, as it tells of them now."""
        return await self._told(lambda connection: connection.prompts())

    async def read(self, words: str, budget: int) -> list[Part]:
        """The resource that `words` mean, as parts of a prompt. Raises ConfigError where there is none, and
        other errors of ours."""
        name = f"mcp/{self.entry.name}"
        uri = words
        if "://" not in words:
            offered = await self.resources()
            uri = found(words, offered, name)
            await self._check(offered, "resources", uri)
        connection = await self.connection()
        return await connection.read(uri, f"{ADDRESS}{self.entry.name}/{words}", budget)

    async def prompt(self, name: str, arguments: Mapping[str, str]) -> list[Message]:
        """A prompt, filled. Raises ConfigError for a name or an argument that it does not know."""
        there = {p.name: p for p in await self.prompts()}
        if name not in there:
            names = [line(n, 60) for n in there]
            hint = nearest(name, names, f"It has {_listed(names) or 'none'}.")
            raise ConfigError(f"mcp/{self.entry.name} has no prompt {line(name, 60)!r}.", hint=hint)
        await self._check(list(there.values()), "prompts", name)
        known = there[name].checked(arguments, f"mcp/{self.entry.name}")
        return await (await self.connection()).prompt(name, known)

    async def _told(self, ask: Callable[[Connection], Awaitable[T]]) -> T:
        """What it answers to a question for a list; `notes` say what was left out."""
        async with self._listing:
            connection = await self.connection()
            told = await ask(connection)
            self.notes = [f"mcp/{self.entry.name}: {note}" for note in connection.notes]
            return told

    async def close(self) -> None:
        """Ends its connection, and with it the command."""
        if self._connection is not None:
            await self._connection.close()


def _listed(names: list[str]) -> str:
    return ", ".join(names[:10]) + (f" and {len(names) - 10} more" if len(names) > 10 else "")
