"""The user's MCP servers, from files and typed in this session, and the tools that a name refers to."""

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
from .mcp_config import ConfigLocations, load_entries
from .mcp_content import Part
from .mcp_entry import Entry
from .mcp_errors import ToolFailed
from .mcp_login import Answer, Login
from .mcp_mend import line, nearest_hint
from .mcp_offers import ADDRESS
from .mcp_server import Server
from .usable import Usable

_GLOB = frozenset("*?[")
_LOGIN_TIMEOUT = 660.0  # seconds for the user to log in


class Servers:
    """All known servers: those that the user typed, and those of the configuration files. env: the values of
    their variables. Coroutines run on the engine's loop."""

    def __init__(
        self,
        locations: Callable[[], ConfigLocations],
        env: Callable[[], Mapping[str, str]],
        consent: Consent,
        limits: Limits | None = None,
        stores: Callable[[], KeyStores] | None = None,
    ) -> None:
        self.consent, self._stores = consent, stores or functools.partial(KeyStores, {})
        self._locations, self._env, self._limits = locations, env, limits or Limits()
        self._typed: dict[str, Entry] = {}
        self._open: dict[str, Server] = {}
        self._processes = ProcessTransport()
        self._loop: asyncio.AbstractEventLoop | None = None

    @classmethod
    def of(cls, registry: Callable[[], Registry]) -> Servers:
        """The servers of the project's and the user's files for nbllm, and of other programs' files where the
        registry's environment is the process's own."""

        def locations() -> ConfigLocations:
            home = Path.home() if registry().env is os.environ else None
            return ConfigLocations(_user_file("mcp.json"), home, registry().stores.folders())

        consent = Consent(functools.partial(_user_file, "allowed.json"))
        return cls(locations, lambda: registry().env, consent, stores=lambda: registry().stores)

    def toolset(self, name: str) -> NamedToolset:
        """The tools that a name refers to, for a call."""
        return NamedToolset(self, name)

    def entries(self) -> tuple[list[Entry], list[str]]:
        """(all servers, messages about unreadable files). Of several with one name the first counts."""
        entries, problems = load_entries(self._locations(), self._env())
        return [*self._typed.values(), *entries], problems

    def entry(self, name: str) -> Entry:
        """The server called `name`, with or without mcp/. Raises ConfigError with similar names."""
        entries, problems = self.entries()
        name = name.removeprefix("mcp/")
        entry = next((e for e in entries if e.name == name), None)
        if entry is None:
            hint = nearest_hint(
                name, (e.name for e in entries), "`%llm mcp add NAME -- COMMAND ARGS` adds one."
            )
            raise ConfigError(" ".join([f"No MCP server is called {name!r}.", *problems]), hint=hint)
        return entry

    def usable_entry(self, name: str) -> Entry:
        """`entry`, but raises ConfigError for a server with a mistake in its description."""
        entry = self.entry(name)
        if entry.problem:
            raise ConfigError(f"mcp/{entry.name} in {entry.file}: {entry.problem}.", hint="Correct it there.")
        return entry

    def add(self, entry: Entry) -> None:
        """Adds a server that the user typed, for this session."""
        self._typed[entry.name] = entry

    def remove(self, name: str) -> bool:
        """Removes a typed server; False where there was none."""
        return self._typed.pop(name, None) is not None

    def get_open(self, name: str) -> Server | None:
        """The server, where it was used in this session; else None."""
        return self._open.get(name)

    async def server(self, name: str) -> Server:
        """The server called `name`. Where its description has changed, the running one is ended first."""
        loop = asyncio.get_running_loop()
        if self._loop is not loop:  # the other loop's servers ended with it, or belong to the parent process
            self._loop, self._open, self._processes = loop, {}, ProcessTransport()
        entry = await asyncio.to_thread(self.usable_entry, name)
        known = self._open.get(entry.name)
        if known is None or not known.entry.runs_same(entry):
            self._open[entry.name] = Server(
                entry, self.consent, self._processes, self._limits, self.login(entry)
            )
            if known is not None:
                await known.close()
        return self._open[entry.name]

    async def usables(self, names: Iterable[str]) -> tuple[list[Usable], list[str]]:
        """(the tools for names such as mcp/files, mcp/files/read_* and mcp/*, notes for the user about what
        was left out). A server that fails is left out. Raises ConfigError for a name without a match, or one
        that waits for consent."""
        wanted = [pair for name in dict.fromkeys(names) for pair in await self._parse_name(name)]
        found = await asyncio.gather(*(self._usables_of(*pair) for pair in wanted))
        usables = {id(u): u for some, _ in found for u in some}  # a server's tool is one object
        return list(usables.values()), list(dict.fromkeys(n for _, notes in found for n in notes))

    def login(self, entry: Entry) -> Login | None:
        """The login of a server; None for a command."""
        return Login(entry.name, entry.url, self._stores(), registered=entry.login) if entry.url else None

    async def log_in(self, entry: Entry, redirect: str, ask: Callable[[str], Awaitable[Answer]]) -> bool:
        """Logs in to a server. ask: opens a URL in the browser and returns the parameters with which it comes
        back to `redirect`. True where the login is stored for later sessions. Raises ConfigError for a
        command, an unencrypted URL, and a server that needs no login; and the error of a failed login."""
        login = self.login(entry)
        if login is None:
            raise ConfigError(
                f"mcp/{entry.name} is a command, and has no login.", hint="Pass it a key with `--env`."
            )
        if not parse(entry.url).is_local and not entry.url.startswith("https://"):
            raise ConfigError(f"The login to mcp/{entry.name} would be unencrypted.", hint="Use https.")
        login.redirect, login.ask = redirect, ask
        await self.stop(entry.name)
        limits = replace(self._limits, connect=_LOGIN_TIMEOUT)
        server = Server(entry, self.consent, self._processes, limits, login)
        try:
            await server.connection()
        finally:
            await server.close()
        if not login.secrets:
            raise ConfigError(f"mcp/{entry.name} needs no login.", hint="It can be used as it is.")
        return login.is_persistent

    async def resource(self, address: str, budget: int = DEFAULT_BUDGET) -> list[Part]:
        """Reads mcp://SERVER/RESOURCE as parts of a prompt with at most `budget` tokens of text. RESOURCE:
        its name or its own URI. Raises ConfigError for one that does not exist or is not allowed, and the
        error of a failed read."""
        name, _, words = address.removeprefix(ADDRESS).partition("/")
        if not address.startswith(ADDRESS) or not name or not words:
            raise ConfigError(
                f"Not a resource: {line(address, 100)!r} (mcp://SERVER/NAME).",
                hint="`%llm mcp resources SERVER` lists them.",
            )
        return await (await self.server(name)).read(words, budget)

    async def prompt(self, server: str, name: str, arguments: Mapping[str, str]) -> list[Message]:
        """A server's prompt, filled in. Raises ConfigError for an unknown name or argument."""
        return await (await self.server(server)).prompt(name, arguments)

    async def _parse_name(self, name: str) -> list[tuple[str, str, bool]]:
        """[(server, pattern of its tools, whether the user wrote the server's name)] for a name."""
        server, _, pattern = name.removeprefix("mcp/").partition("/")
        if not _GLOB & set(server):
            return [(server, pattern or "*", True)]
        entries, _ = await asyncio.to_thread(self.entries)
        ready = [e for e in entries if not e.problem and await asyncio.to_thread(self.consent.is_allowed, e)]
        fits = dict.fromkeys(e.name for e in ready if fnmatch.fnmatchcase(e.name, server))
        if not fits:
            raise ConfigError(
                f"No MCP server that is allowed matches {name!r}.", hint="`%llm mcp list` lists them."
            )
        return [(n, pattern or "*", False) for n in fits]

    async def _usables_of(self, name: str, pattern: str, is_explicit: bool) -> tuple[list[Usable], list[str]]:
        """(tools, notes about what was left out). A ConfigError of a server that the user named is raised,
        since the user can correct it."""
        server = await self.server(name)
        try:
            return await server.usables(pattern), server.notes
        except (TransportError, ToolFailed, ConfigError) as error:
            if is_explicit and isinstance(error, ConfigError):
                raise
            return [], [f"mcp/{name} is left out: {str(error).replace(chr(10), ' ')}"]

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
class NamedToolset:
    """The tools for a name such as mcp/files/read_*. notes: what of them was left out, after `usables`."""

    servers: Servers
    name: str
    notes: list[str] = field(default_factory=list)

    async def usables(self) -> list[Usable]:
        """The tools. Awaited on the engine's loop."""
        found, self.notes = await self.servers.usables([self.name])
        return found


def _user_file(name: str) -> Path:
    """A file in the user's configuration folder for nbllm."""
    return user_file().with_name(name)
