"""One connection to an MCP server. The one place that imports the `mcp` SDK, at the first use of a server: it
takes most of a second.

A connection belongs to one task, its keeper, on the engine's loop: it opens it, waits until it is over, and
closes it. Calls come from any task. The keeper is ended by an event and by scopes of anyio, never cancelled,
and a connection that is over is never mended: the next use makes a new one. What a server says is untrusted:
it is mended and capped, and its errors become one line without secrets.
"""

from __future__ import annotations

import asyncio
import logging
import math
import signal
import sys
from collections.abc import Callable, Coroutine
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any, TypeVar

from ..agents.process import ProcessTransport
from ..core.calls import ProcessCall, origin
from ..core.collector import gc_paused
from ..core.errors import ConfigError, ConnectFailed, NbllmError, ProtocolError, Timeout, scrub
from ..core.messages import Message
from ..http.pool import tls_context
from .consent import Described, described
from .mcp_content import Part, parts_of, words_of
from .mcp_entry import Entry
from .mcp_errors import ToolFailed, is_gone, leaf, words
from .mcp_http import LARGEST, lenient
from .mcp_login import Login, check_place
from .mcp_mend import MOST, line, mask, mend
from .mcp_offers import Prompt, Resource, prompt_messages, resource_parts
from .mcp_stdio import Incoming, Outgoing, whole

T = TypeVar("T")
_PAGES = 20
_KEYS = ("uri", "uri_template", "name")  # what an item of a list is known by
_LAST_LINES = 3  # of standard error, in a message
_CLOSING = 1.0  # seconds for a connection to end by itself; a command's own end takes as long again


@dataclass(frozen=True, slots=True)
class Limits:
    """Seconds that a server gets. connect: to start and say hello (npx may have to download it); tools: to
    tell all its tools; call: for one call. era: how the protocol's version is found, as the SDK has it."""

    connect: float = 30.0
    tools: float = 10.0
    call: float = 60.0
    era: str = "auto"


def _sdk() -> Any:
    """The SDK, loaded, with what it loads at its first use. Raises ConfigError where it is not installed."""
    try:
        with gc_paused(long_lived="mcp" not in sys.modules):
            import anyio
            import mcp

            anyio.run(anyio.sleep, 0)  # loads its asyncio side
    except ImportError:
        raise ConfigError(
            "MCP servers need the package mcp.", hint="Run `%pip install 'nbllm[mcp]'`, then restart."
        ) from None
    logger = logging.getLogger("mcp")  # it logs what servers write; without a handler that goes to the cell
    if not logger.handlers:
        logger.addHandler(logging.NullHandler())
        logger.propagate = False
    return mcp


class Connection:
    """One life of a server. `ended`: why it is over, in words. `notes`: what was left out of its last list of
    tools. `log`: the end of its standard error, once it is over. `prints`: its tools' fingerprints, as it
    told them last; None before it did."""

    def __init__(
        self, entry: Entry, processes: ProcessTransport, limits: Limits, login: Login | None = None
    ) -> None:
        self.entry, self.limits, self._processes, self._login = entry, limits, processes, login
        self.ended, self._log, self._status = "", "", 0
        self.notes: list[str] = []
        self.prints: dict[str, str] | None = None
        self._mcp: Any = None
        self._command: Any = None
        self._scope: Any = None
        self._over, self._stopped = asyncio.Event(), False
        self._ready: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self._ready.add_done_callback(lambda f: f.cancelled() or f.exception())  # nobody may be waiting
        self._keeper = asyncio.create_task(self._keep(), name=f"mcp {entry.name}")

    @property
    def name(self) -> str:
        """The server's name, as it is asked for."""
        return f"mcp/{self.entry.name}"

    @property
    def over(self) -> bool:
        """Whether it has ended or is about to."""
        return self._over.is_set()

    @property
    def log(self) -> str:
        """The end of what the server wrote to standard error, without secrets."""
        return self._masked(self._command.stderr if self._command is not None else self._log)

    async def opened(self) -> Any:
        """The SDK's client, once the server has said hello. Raises one of our errors."""
        return await asyncio.shield(self._ready)

    async def close(self) -> None:
        """Ends it, and the server's command with all that it started."""
        self._stopped = True
        self._over.set()
        if self._scope is not None and not self._ready.done():
            self._scope.cancel()
        await asyncio.wait([self._keeper], timeout=_CLOSING)
        if self._scope is not None:
            self._scope.cancel()
        await asyncio.wait([self._keeper], timeout=_CLOSING)

    # --- the keeper ---

    async def _keep(self) -> None:
        error: Exception | None = None
        try:
            self._mcp = await asyncio.to_thread(_sdk)  # other answers stream meanwhile
            await (self._by_http() if self.entry.url else self._by_pipes())
        except Exception as exc:  # noqa: BLE001 - the SDK's own, in groups, and those of what it stands on
            error = leaf(exc)
        finally:
            self._over.set()
            self.ended = self.ended or self._masked(line(words(error) if error else "it was closed"))
            if not self._ready.done():
                self._ready.set_exception(self._not_opened(error))

    def _not_opened(self, error: Exception | None) -> NbllmError:
        if isinstance(error, NbllmError):
            return error.scrub_secrets(self.entry.secrets)
        hint = f"`%llm mcp log {self.entry.name}` shows all that it wrote." if self._log else ""
        if self._status == 401:
            hint = f"`%llm mcp login {self.entry.name}` logs in, where the server has a login."
        return ConnectFailed(f"{self.name} did not start: {self.ended}.", hint=hint)

    async def _by_pipes(self) -> None:
        from mcp.shared.message import SessionMessage
        from mcp_types import jsonrpc_message_adapter as adapter

        def decode(value: dict[str, Any]) -> Any:
            self._mend(value.get("result"))
            return SessionMessage(adapter.validate_python(value, by_name=False))

        def encode(item: Any) -> str:
            return str(item.message.model_dump_json(by_alias=True, exclude_unset=True))

        call = ProcessCall(self.entry.argv, env=self.entry.env, cwd=self.entry.cwd, foreign=True)
        command = self._command = await self._processes.start(call)
        incoming = Incoming(command, decode, self._over.set)
        try:
            await self._speak(nullcontext((incoming, Outgoing(command, encode))))
        finally:
            by_itself = self.over and not self._stopped
            command.close_stdin()
            code = await command.wait_for_exit()
            await command.stop((signal.SIGTERM,))
            self._command, self._log = None, command.stderr
            if by_itself and not self.ended:
                self.ended = self._masked(self._last_words(code, incoming.trouble))

    def _last_words(self, code: int | None, trouble: NbllmError | None) -> str:
        """Why a command's connection is over, with the last lines that it wrote."""
        if trouble is not None:
            return line(trouble.message.rstrip("."))
        exits = {None: "it closed its output"} | (
            {code: f"signal {-code} ended it"} if code and code < 0 else {}
        )
        said = [text for text in self._log.splitlines() if text.strip()][-_LAST_LINES:]
        last = f"; it wrote: {line(' | '.join(said))}" if said else ""
        return exits.get(code, f"it ended with exit code {code}") + last

    async def _by_http(self) -> None:
        import httpx2
        from mcp.client.streamable_http import streamable_http_client

        async def sign(request: Any) -> None:
            await check_place(self.name, self.entry.url, str(request.url))
            # a header goes to the origin that it belongs to, and nowhere else
            for name, secret in self.entry.headers.items():
                if origin(str(request.url)) == secret.origin:
                    request.headers[name] = secret.reveal()
            request.headers["accept-encoding"] = "identity"

        async def look(response: Any) -> None:
            if response.headers.get("content-encoding", "identity").lower() != "identity":
                self.ended = "its answer is compressed, though that was not asked for"  # of any size
                raise ProtocolError(self.ended)
            if response.status_code >= 400 and response.request.method == "POST":  # few have a stream to GET
                self._status = response.status_code
            lenient(response, self._mend)

        times = httpx2.Timeout(self.limits.connect, read=5 * self.limits.call)
        hooks: Any = {"request": [sign], "response": [look]}
        auth, context = await self._auth(), await asyncio.to_thread(tls_context)  # that takes 20 ms
        async with httpx2.AsyncClient(verify=context, timeout=times, event_hooks=hooks, auth=auth) as http:
            transport = streamable_http_client(self.entry.url, http_client=http, max_sse_event_size=LARGEST)
            try:
                await self._speak(transport)
            except Exception as exc:
                self.ended = self.ended or self._at_the_address(self._masked(line(words(leaf(exc)))))
                raise

    async def _auth(self) -> Any:
        """What signs requests with a login, where there is one or one is begun."""
        login = self._login
        if login is None or any(name.lower() == "authorization" for name in self.entry.headers):
            return None
        return login.auth() if await asyncio.to_thread(login.load) or login.ask is not None else None

    async def _speak(self, transport: Any) -> None:
        """Opens the SDK's client, and keeps it open until the connection is over."""
        import anyio

        era: Any = self.limits.era
        with anyio.CancelScope(deadline=anyio.current_time() + self.limits.connect) as scope:
            self._scope = scope
            async with self._mcp.Client(transport, mode=era, cache=None) as client:
                scope.deadline = math.inf
                if not self._ready.done():
                    self._ready.set_result(client)
                await self._over.wait()
        if scope.cancelled_caught and not self._ready.done():
            self.ended = f"it said no hello within {self.limits.connect:g} s"
            raise Timeout(
                f"{self.name} did not start: {self.ended}.",
                which="connect",
                seconds=self.limits.connect,
                hint=f"`%llm mcp log {self.entry.name}` shows what it wrote.",
            )

    def _mend(self, result: Any) -> None:
        if isinstance(result, dict):
            self.notes += mend(result)
            mask(result, self._masked)

    def _masked(self, text: str) -> str:
        return scrub(text, (*self.entry.secrets, *(self._login.secrets if self._login else ())))

    # --- what it is asked ---

    async def tools(self) -> list[Described]:
        """All its tools, as it tells them now. Raises one of our errors."""
        client, self.notes = await self.opened(), []
        pages = self._pages(
            client.list_tools, "tools", lambda t: described(t.name, t.description or "", t.input_schema)
        )
        found = await self._asked(pages, "tell its tools", self.limits.tools)
        self.prints = {t.name: t.print for t in found}
        return found

    async def resources(self) -> list[Resource]:
        """All its resources, and the patterns that make more; none where it says that it has none. Raises one
        of our errors."""
        client, self.notes = await self.opened(), []
        if getattr(client.server_capabilities, "resources", None) is None:
            return []
        pages, limit = self._pages(client.list_resources, "resources", Resource.of), self.limits.tools
        found = await self._asked(pages, "tell its resources", limit)
        pages = self._pages(client.list_resource_templates, "resource_templates", Resource.of)
        try:
            return found + await self._asked(pages, "tell the patterns of its resources", limit)
        except ToolFailed:  # not every server that has resources knows the question
            if self.over:
                raise
            return found

    async def prompts(self) -> list[Prompt]:
        """All its prompts. Raises one of our errors."""
        client, self.notes = await self.opened(), []
        if getattr(client.server_capabilities, "prompts", None) is None:
            return []
        pages = self._pages(client.list_prompts, "prompts", Prompt.of)
        return await self._asked(pages, "tell its prompts", self.limits.tools)

    async def _pages(
        self, ask: Callable[..., Any], field: str, made: Callable[[Any], T], most: int = MOST
    ) -> list[T]:
        """All pages of a list, each name once."""
        found, cursor = dict[str, T](), None
        for _ in range(_PAGES):
            page = await ask(cursor=cursor)
            for item in getattr(page, field):
                await asyncio.sleep(0)  # there may be hundreds
                found.setdefault(next(filter(None, (getattr(item, k, "") for k in _KEYS))), made(item))
            cursor = page.next_cursor
            if not cursor or len(found) >= most:
                break
        if cursor or len(found) > most:
            words = field.replace("_", " ")
            self.notes.append(f"It tells of more {words} than the {min(len(found), most):,} that are read.")
        return list(found.values())[:most]

    async def read(self, uri: str, name: str, budget: int) -> list[Part]:
        """A resource, as parts of a prompt. Raises one of our errors."""
        client = await self.opened()
        result = await self._asked(
            client.read_resource(whole(uri)), f"read {line(name, 100)}", self.limits.call
        )
        return resource_parts(result, name, self._masked, budget)

    async def prompt(self, name: str, arguments: dict[str, str]) -> list[Message]:
        """A prompt, filled. Raises one of our errors."""
        client = await self.opened()
        work = client.get_prompt(whole(name), whole(arguments))
        result = await self._asked(work, f"fill the prompt {line(name, 60)}", self.limits.call)
        return prompt_messages(result, self._masked)

    async def call(self, tool: str, arguments: dict[str, Any]) -> str | list[Part]:
        """What a call of a tool gave. Raises ToolFailed and Timeout, whose message is one line for the
        model."""
        client = await self.opened()
        asked, doing = client.call_tool(tool, whole(arguments)), f"answer the call of {line(tool, 60)}"
        result = await self._asked(asked, doing, self.limits.call)
        if result.is_error:
            raise ToolFailed(self._masked(words_of(result)))
        return parts_of(result, self._masked)

    async def _asked(self, work: Coroutine[Any, Any, T], doing: str, limit: float) -> T:
        """What the server answers. Raises one of our errors, in one line."""
        try:
            async with asyncio.timeout(limit):
                return await work
        except TimeoutError:
            told = f"{self.name} did not {doing} within {limit:g} s"
            raise Timeout(told, which="total", seconds=limit) from None
        except Exception as exc:  # noqa: BLE001 - the SDK's own, and pydantic's
            error = leaf(exc)
        told = self._masked(line(words(error)))
        if not is_gone(error):
            raise ToolFailed(f"{self.name} answered with an error: {told}")
        if self.entry.url:
            self.ended = self.ended or self._at_the_address(told)
        self._over.set()
        await asyncio.wait([self._keeper], timeout=2 * _CLOSING)
        why = f"{self.name} ended while it was to {doing}: {self.ended or told}"
        raise ToolFailed(f"{why}.{' Whether it took effect is not known.' * doing.startswith('answer')}")

    def _at_the_address(self, told: str) -> str:
        return f"the address answered {self._status} ({told})" if self._status else told
