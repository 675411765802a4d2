"""The MCP servers that the user has: found in files and typed, allowed, opened at their first use, and what
each offers as tools that a model may use."""

from __future__ import annotations

import asyncio
import difflib
import fnmatch
import functools
from collections.abc import Callable, Iterable, Mapping

from ..agents.process import ProcessTransport
from ..core.errors import ConfigError, TransportError
from ..core.messages import Tool
from ..core.schema import checked_schema
from .consent import Change, Consent, Described
from .mcp import Connection, Limits
from .mcp_config import Places, load
from .mcp_content import Part
from .mcp_entry import Entry
from .mcp_errors import ToolFailed
from .mcp_mend import clean, line, told
from .names import fit
from .usable import Arguments, Usable

_GLOB = frozenset("*?[")


class Server:
    """A server, and its connection while there is one. `notes`: what was left out when its tools were asked
    for last, for the user. To be used on one event loop."""

    def __init__(
        self, entry: Entry, consent: Consent, processes: ProcessTransport, limits: Limits | None = None
    ) -> None:
        self.entry, self.notes = entry, list[str]()
        self._consent, self._processes, self._limits = consent, processes, limits or Limits()
        self._connection: Connection | None = None
        self._listing = asyncio.Lock()

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
            self._connection = Connection(self.entry, self._processes, self._limits)
        await self._connection.opened()
        return self._connection

    async def described(self) -> list[Described]:
        """Its tools as it tells them now."""
        async with self._listing:
            connection = await self.connection()
            found = await connection.tools()
            self.notes = [f"mcp/{self.entry.name}: {note}" for note in connection.notes]
            return found

    async def changes(self) -> tuple[list[Described], list[Change]]:
        """(its tools, those that are not as they were allowed). The first look notes them all."""
        tools = await self.described()
        if not await asyncio.to_thread(self._consent.known, self.entry):
            await asyncio.to_thread(self._consent.pin, self.entry, tools)
        return tools, await asyncio.to_thread(self._consent.changes, self.entry, tools)

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
        near = difflib.get_close_matches(pattern, names, 3)
        return ConfigError(
            f"mcp/{self.entry.name} has no tool {line(pattern, 60)!r}.",
            hint=f"Did you mean {_listed(near)}?" if near else f"It has {_listed(names)}.",
        )

    async def _usable(self, tool: Described) -> Usable | None:
        """A tool with its call; None, and a note, where no provider would take its schema."""
        await asyncio.sleep(0)  # a schema takes a millisecond or two, and a server may have hundreds
        try:
            schema = checked_schema(told(tool.schema))
        except ConfigError as error:
            name = line(tool.name, 60)
            self.notes.append(f"mcp/{self.entry.name}: {name} is left out: {line(error.message, 200)}")
            return None
        return Usable(
            Tool(fit(f"{self.entry.name}__{tool.name}"), clean(tool.description), schema),
            functools.partial(self.call, tool),
            where="engine",
            source=f"mcp/{self.entry.name}",
        )

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

    async def close(self) -> None:
        """Ends its connection, and with it the command."""
        if self._connection is not None:
            await self._connection.close()


def _listed(names: list[str]) -> str:
    return ", ".join(names[:10]) + (f" and {len(names) - 10} more" if len(names) > 10 else "")


class Servers:
    """All servers that can be named: those that the user typed, and those of the files in `places`. env: what
    fills their variables. What is awaited is awaited on the engine's loop."""

    def __init__(
        self,
        places: Callable[[], Places],
        env: Callable[[], Mapping[str, str]],
        consent: Consent,
        limits: Limits | None = None,
    ) -> None:
        self.consent = consent
        self._places, self._env, self._limits = places, env, limits or Limits()
        self._typed: dict[str, Entry] = {}
        self._open: dict[str, Server] = {}
        self._processes = ProcessTransport()
        self._loop: asyncio.AbstractEventLoop | None = None

    def entries(self) -> tuple[list[Entry], list[str]]:
        """(all servers, which files cannot be read). Of those of one name the first counts."""
        found, problems = load(self._places(), self._env())
        return [*self._typed.values(), *found], problems

    def entry(self, name: str) -> Entry:
        """The server called `name`, with or without mcp/ before it. Raises ConfigError with the nearest
        one."""
        entries, problems = self.entries()
        name = name.removeprefix("mcp/")
        found = next((e for e in entries if e.name == name), None)
        if found is None:
            names = [e.name for e in entries]
            near = difflib.get_close_matches(name, names, 1)
            hint = f"Did you mean {near[0]}?" if near else "`%llm mcp add NAME -- COMMAND ARGS` adds one."
            raise ConfigError(" ".join([f"No MCP server is called {name!r}.", *problems]), hint=hint)
        return found

    def usable_entry(self, name: str) -> Entry:
        """The same, where nothing is wrong with it. Raises ConfigError with what is."""
        entry = self.entry(name)
        if entry.problem:
            raise ConfigError(f"mcp/{entry.name} in {entry.file}: {entry.problem}.", hint="Correct it there.")
        return entry

    def add(self, entry: Entry) -> None:
        """A server that the user typed, for this session."""
        self._typed[entry.name] = entry

    def remove(self, name: str) -> bool:
        """Forgets one that was typed; False where there was none."""
        return self._typed.pop(name, None) is not None

    def opened(self, name: str) -> Server | None:
        """The server where it has been used in this session."""
        return self._open.get(name)

    async def server(self, name: str) -> Server:
        """The server called `name`; one that is described otherwise than it was is ended first."""
        await self._settle()
        entry = await asyncio.to_thread(self.usable_entry, name)
        known = self._open.get(entry.name)
        if known is None or not known.entry.same(entry):
            self._open[entry.name] = Server(entry, self.consent, self._processes, self._limits)
            if known is not None:
                await known.close()
        return self._open[entry.name]

    async def usables(self, names: Iterable[str]) -> tuple[list[Usable], list[str]]:
        """(the tools that names such as mcp/files, mcp/files/read_* and mcp/* mean, what was left out, for
        the user). A server that fails is left out, and the others are not. Raises ConfigError for a name that
        means nothing, or that waits for consent."""
        wanted = [pair for name in dict.fromkeys(names) for pair in await self._meant(name)]
        found = await asyncio.gather(*(self._from(*pair) for pair in wanted))
        usables = {u.tool.name: u for some, _ in found for u in some}
        return list(usables.values()), list(dict.fromkeys(n for _, notes in found for n in notes))

    async def _meant(self, name: str) -> list[tuple[str, str]]:
        """[(server, pattern of its tools)] for a name."""
        server, _, pattern = name.removeprefix("mcp/").partition("/")
        if not _GLOB & set(server):
            return [(server, pattern or "*")]
        entries, _ = await asyncio.to_thread(self.entries)
        ready = [e for e in entries if not e.problem and await asyncio.to_thread(self.consent.allowed, e)]
        fits = dict.fromkeys(e.name for e in ready if fnmatch.fnmatchcase(e.name, server))
        if not fits:
            raise ConfigError(f"No MCP server that is allowed fits {name!r}.", hint="`%llm mcp list`.")
        return [(n, pattern or "*") for n in fits]

    async def _from(self, name: str, pattern: str) -> tuple[list[Usable], list[str]]:
        server = await self.server(name)
        try:
            return await server.usables(pattern), server.notes
        except (TransportError, ToolFailed) as error:
            return [], [f"mcp/{name} is left out: {str(error).replace(chr(10), ' ')}"]

    async def _settle(self) -> None:
        """Forgets what belongs to a loop that has ended, or to the process that this one was forked from."""
        if self._loop is not asyncio.get_running_loop():
            self._loop, self._open, self._processes = asyncio.get_running_loop(), {}, ProcessTransport()

    async def stop(self, name: str) -> None:
        """Ends a server; its next use starts it again."""
        server = self._open.pop(name, None)
        if server is not None:
            await server.close()

    async def close(self) -> None:
        """Ends all servers."""
        if self._loop is asyncio.get_running_loop():
            known, self._open = self._open, {}
            await asyncio.gather(*(s.close() for s in known.values()))
            await self._processes.close()
