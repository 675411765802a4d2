"""The MCP servers that the user has: found in files and typed, and which of their tools a name means."""

from __future__ import annotations

import asyncio
import fnmatch
import functools
import os
from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from ..agents.process import ProcessTransport
from ..core.addresses import parse
from ..core.errors import ConfigError, TransportError
from ..core.messages import Message
from ..core.values import DEFAULT_BUDGET
from ..routing.config_files import user_file
from ..routing.key_stores import KeyStores
from ..routing.registry import Registry
from .consent import Consent
from .mcp import Limits
from .mcp_config import Places, load
from .mcp_content import Part
from .mcp_entry import Entry
from .mcp_errors import ToolFailed
from .mcp_login import Answer, Login
from .mcp_mend import line, nearest
from .mcp_offers import ADDRESS
from .mcp_server import Server
from .usable import Usable

_GLOB = frozenset("*?[")
_PATIENCE = 660.0  # seconds for somebody to log in


class Servers:
    """All servers that can be named: those that the user typed, and those of the files in `places`. env: what
    fills their variables. What is awaited is awaited on the engine's loop."""

    def __init__(
        self,
        places: Callable[[], Places],
        env: Callable[[], Mapping[str, str]],
        consent: Consent,
        limits: Limits | None = None,
        stores: Callable[[], KeyStores] | None = None,
    ) -> None:
        self.consent, self._stores = consent, stores or functools.partial(KeyStores, {})
        self._places, self._env, self._limits = places, env, limits or Limits()
        self._typed: dict[str, Entry] = {}
        self._open: dict[str, Server] = {}
        self._processes = ProcessTransport()
        self._loop: asyncio.AbstractEventLoop | None = None

    @classmethod
    def of(cls, registry: Callable[[], Registry]) -> Servers:
        """Those of the project's files and the user's for nbllm; of other programs' too where the registry's
        environment is the process's own."""

        def places() -> Places:
            home = Path.home() if registry().env is os.environ else None
            return Places(_beside("mcp.json"), home, registry().stores.folders())

        consent = Consent(functools.partial(_beside, "allowed.json"))
        return cls(places, lambda: registry().env, consent, stores=lambda: registry().stores)

    def toolset(self, name: str) -> Named:
        """The tools that a name means, for a call."""
        return Named(self, name)

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
            hint = nearest(name, (e.name for e in entries), "`%llm mcp add NAME -- COMMAND ARGS` adds one.")
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
            self._open[entry.name] = Server(
                entry, self.consent, self._processes, self._limits, self.login(entry)
            )
            if known is not None:
                await known.close()
        return self._open[entry.name]

    async def usables(self, names: Iterable[str]) -> tuple[list[Usable], list[str]]:
        """(the tools that names such as mcp/files, mcp/files/read_* and mcp/* mean, what was left out, for
        the user). A server that fails is left out, and the others are not. Raises ConfigError for a name that
        means nothing, or that waits for consent."""
        wanted = [pair for name in dict.fromkeys(names) for pair in await self._meant(name)]
        found = await asyncio.gather(*(self._from(*pair) for pair in wanted))
        usables = {id(u): u for some, _ in found for u in some}  # a server's tool is one object
        return list(usables.values()), list(dict.fromkeys(n for _, notes in found for n in notes))

    def login(self, entry: Entry) -> Login | None:
        """Where the login of a server is kept, None for a command."""
        return Login(entry.name, entry.url, self._stores(), registered=entry.login) if entry.url else None

    async def log_in(self, entry: Entry, redirect: str, ask: Callable[[str], Awaitable[Answer]]) -> bool:
        """Logs in to a server: `ask` gives what the browser brings back to `redirect`. True where the login
        is kept for good. Raises ConfigError for a command, for an address that others can listen to, and
        where the server wants no login; and what else keeps it from coming about."""
        login = self.login(entry)
        if login is None:
            raise ConfigError(
                f"mcp/{entry.name} is a command, and has no login.", hint="`--env` hands it a key."
            )
        if not parse(entry.url).is_local and not entry.url.startswith("https://"):
            raise ConfigError(f"mcp/{entry.name} would be logged in to unencrypted.", hint="Use https.")
        login.redirect, login.ask = redirect, ask
        await self.stop(entry.name)
        limits = replace(self._limits, connect=_PATIENCE)
        server = Server(entry, self.consent, self._processes, limits, login)
        try:
            await server.connection()
        finally:
            await server.close()
        if not login.secrets:
            raise ConfigError(f"mcp/{entry.name} asked for no login.", hint="It can be used as it is.")
        return login.kept

    async def resource(self, address: str, budget: int = DEFAULT_BUDGET) -> list[Part]:
        """What mcp://SERVER/RESOURCE is, as parts of a prompt of at most `budget` tokens of text. RESOURCE:
        its name or its own address. Raises ConfigError for what is not there or not allowed, and what else
        keeps it from being read."""
        name, _, words = address.removeprefix(ADDRESS).partition("/")
        if not address.startswith(ADDRESS) or not name or not words:
            raise ConfigError(
                f"Not a resource: {line(address, 100)!r} (mcp://SERVER/NAME).",
                hint="`%llm mcp resources SERVER` lists them.",
            )
        return await (await self.server(name)).read(words, budget)

    async def prompt(self, server: str, name: str, arguments: Mapping[str, str]) -> list[Message]:
        """A server's prompt, filled. Raises ConfigError for a name or an argument that it does not know."""
        return await (await self.server(server)).prompt(name, arguments)

    async def _meant(self, name: str) -> list[tuple[str, str, bool]]:
        """[(server, pattern of its tools, whether the user wrote its name)] for a name."""
        server, _, pattern = name.removeprefix("mcp/").partition("/")
        if not _GLOB & set(server):
            return [(server, pattern or "*", True)]
        entries, _ = await asyncio.to_thread(self.entries)
        ready = [e for e in entries if not e.problem and await asyncio.to_thread(self.consent.allowed, e)]
        fits = dict.fromkeys(e.name for e in ready if fnmatch.fnmatchcase(e.name, server))
        if not fits:
            raise ConfigError(f"No MCP server that is allowed fits {name!r}.", hint="`%llm mcp list`.")
        return [(n, pattern or "*", False) for n in fits]

    async def _from(self, name: str, pattern: str, named: bool) -> tuple[list[Usable], list[str]]:
        """(tools, what was left out). What is wrong on the user's side with a server that they named is
        theirs to mend, and is raised."""
        server = await self.server(name)
        try:
            return await server.usables(pattern), server.notes
        except (TransportError, ToolFailed, ConfigError) as error:
            if named and isinstance(error, ConfigError):
                raise
            return [], [f"mcp/{name} is left out: {str(error).replace(chr(10), ' ')}"]

    async def _settle(self) -> None:
        """Forgets what belongs to a loop that has ended, or to the process that this one was forked from."""
        if self._loop is not asyncio.get_running_loop():
            self._loop, self._open, self._processes = asyncio.get_running_loop(), {}, ProcessTransport()

    async def stop(self, name: str) -> None:
        """Ends a server; its next use starts it again."""
        if (server := self._open.pop(name, None)) is not None:
            await server.close()

    async def close(self) -> None:
        """Ends all servers."""
        if self._loop is asyncio.get_running_loop():
            known, self._open = self._open, {}
            await asyncio.gather(*(s.close() for s in known.values()))
            await self._processes.close()


@dataclass(slots=True)
class Named:
    """The tools that a name such as mcp/files/read_* means. `notes`: what of them was left out, once they
    have been asked for."""

    servers: Servers
    name: str
    notes: list[str] = field(default_factory=list)

    async def usables(self) -> list[Usable]:
        """The tools. Awaited on the engine's loop."""
        found, self.notes = await self.servers.usables([self.name])
        return found


def _beside(name: str) -> Path:
    """A file in the user's folder for nbllm."""
    return user_file().with_name(name)
