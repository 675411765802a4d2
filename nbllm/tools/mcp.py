"""A connection to an MCP server. The only place that imports the `mcp` SDK, at the first use of a server,
since that takes most of a second.

A connection is owned by one task on the engine's loop, its keeper: it opens the connection, waits for its
end, and closes it. Calls come from any task. The keeper is ended by an event and by anyio's scopes, never
cancelled. A connection that has ended is not repaired: the next use makes a new one. A server's messages are
untrusted: they are repaired and limited in size, and its errors become one line without secrets.
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
from .consent import Definition, define
from .mcp_content import Part, result_parts, result_text
from .mcp_entry import Entry
from .mcp_errors import ToolFailed, error_text, innermost, is_disconnected
from .mcp_http import MAX_MESSAGE, mend_response
from .mcp_login import Login, check_url
from .mcp_mend import MAX_ITEMS, line, mask, mend
from .mcp_offers import Prompt, Resource, prompt_messages, resource_parts
from .mcp_stdio import Incoming, Outgoing, replace_surrogates

T = TypeVar("T")
_MAX_PAGES = 20
_ITEM_KEYS = ("uri", "uri_template", "name")  # the fields that identify an item of a list
_LAST_LINES = 3  # of standard error, in a message
_CLOSE_TIMEOUT = 1.0  # seconds for a connection to end by itself, and again for its command


@dataclass(frozen=True, slots=True)
class Limits:
    """Time limits in seconds. connect: to start and initialise (npx may have to download it). tools: to list
    all its tools. call: for one call. protocol_mode: the SDK's mode of finding the protocol's version."""

    connect: float = 30.0
    tools: float = 10.0
    call: float = 60.0
    protocol_mode: str = "auto"


def _load_sdk() -> Any:
    """Imports the SDK, with the modules of its first use. Raises ConfigError where it is not installed."""
    try:
        with gc_paused(long_lived="mcp" not in sys.modules):
            import anyio
            import mcp

            anyio.run(anyio.sleep, 0)  # loads its asyncio side
    except ImportError:
        raise ConfigError(
            "MCP servers need the package mcp.", hint="Run `%pip install 'nbllm[mcp]'`, then restart."
        ) from None
    logger = logging.getLogger("mcp")  # without a handler, its log of what servers write goes to the cell
    if not logger.handlers:
        logger.addHandler(logging.NullHandler())
        logger.propagate = False
    return mcp


class Connection:
    """A connection to a server. ended: the reason of its end, as text. notes: what was left out of its last
    list. log: the end of its standard error. fingerprints: of its tools by the last list; None before the
    first."""

    def __init__(
        self, entry: Entry, processes: ProcessTransport, limits: Limits, login: Login | None = None
    ) -> None:
        self.entry, self.limits, self._processes, self._login = entry, limits, processes, login
        self.ended, self._log, self._status = "", "", 0
        self.notes: list[str] = []
        self.fingerprints: dict[str, str] | None = None
        self._mcp: Any = None
        self._command: Any = None
        self._scope: Any = None
        self._end_event, self._stopped = asyncio.Event(), False
        self._ready: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self._ready.add_done_callback(lambda f: f.cancelled() or f.exception())  # there may be no waiter
        self._keeper = asyncio.create_task(self._run(), name=f"mcp {entry.name}")

    @property
    def name(self) -> str:
        """The server's name in tools=."""
        return f"mcp/{self.entry.name}"

    @property
    def is_over(self) -> bool:
        """Whether it has ended or is about to."""
        return self._end_event.is_set()

    @property
    def log(self) -> str:
        """The end of the server's standard error, without secrets."""
        return self._mask(self._command.stderr if self._command is not None else self._log)

    async def get_client(self) -> Any:
        """The SDK's client, once the server is initialised. Raises an NbllmError."""
        return await asyncio.shield(self._ready)

    async def close(self) -> None:
        """Closes the connection, and ends the server's command with all its child processes."""
        self._stopped = True
        self._end_event.set()
        if self._scope is not None and not self._ready.done():
            self._scope.cancel()
        await asyncio.wait([self._keeper], timeout=_CLOSE_TIMEOUT)
        if self._scope is not None:
            self._scope.cancel()
        await asyncio.wait([self._keeper], timeout=_CLOSE_TIMEOUT)

    # --- the keeper ---

    async def _run(self) -> None:
        error: Exception | None = None
        try:
            self._mcp = await asyncio.to_thread(_load_sdk)  # other answers stream meanwhile
            await (self._run_over_http() if self.entry.url else self._run_over_pipes())
        except Exception as exc:  # noqa: BLE001 - groups of errors of the SDK and its dependencies
            error = innermost(exc)
        finally:
            self._end_event.set()
            self.ended = self.ended or self._mask(line(error_text(error) if error else "it was closed"))
            if not self._ready.done():
                self._ready.set_exception(self._open_error(error))

    def _open_error(self, error: Exception | None) -> NbllmError:
        if isinstance(error, NbllmError):
            return error.scrub_secrets(self.entry.secrets)
        hint = f"`%llm mcp log {self.entry.name}` shows all that it wrote." if self._log else ""
        if self._status == 401:
            hint = f"`%llm mcp login {self.entry.name}` logs in, where the server has a login."
        return ConnectFailed(f"{self.name} did not start: {self.ended}.", hint=hint)

    async def _run_over_pipes(self) -> None:
        from mcp.shared.message import SessionMessage
        from mcp_types import jsonrpc_message_adapter as adapter

        def decode(value: dict[str, Any]) -> Any:
            self._mend(value.get("result"))
            return SessionMessage(adapter.validate_python(value, by_name=False))

        def encode(item: Any) -> str:
            return str(item.message.model_dump_json(by_alias=True, exclude_unset=True))

        call = ProcessCall(self.entry.argv, env=self.entry.env, cwd=self.entry.cwd, foreign=True)
        command = self._command = await self._processes.start(call)
        incoming = Incoming(command, decode, self._end_event.set)
        try:
            await self._run_client(nullcontext((incoming, Outgoing(command, encode))))
        finally:
            ended_by_itself = self.is_over and not self._stopped
            command.close_stdin()
            code = await command.wait_for_exit()
            await command.stop((signal.SIGTERM,))
            self._command, self._log = None, command.stderr
            if ended_by_itself and not self.ended:
                self.ended = self._mask(self._exit_reason(code, incoming.error))

    def _exit_reason(self, code: int | None, read_error: NbllmError | None) -> str:
        """Why a command's connection ended, with the last lines that it wrote."""
        if read_error is not None:
            return line(read_error.message.rstrip("."))
        reasons = {None: "it closed its output"} | (
            {code: f"signal {-code} ended it"} if code and code < 0 else {}
        )
        lines = [text for text in self._log.splitlines() if text.strip()][-_LAST_LINES:]
        last = f"; it wrote: {line(' | '.join(lines))}" if lines else ""
        return reasons.get(code, f"it ended with exit code {code}") + last

    async def _run_over_http(self) -> None:
        import httpx2
        from mcp.client.streamable_http import streamable_http_client

        async def sign_request(request: Any) -> None:
            await check_url(self.name, self.entry.url, str(request.url))
            # a header is sent to its own origin only
            for name, secret in self.entry.headers.items():
                if origin(str(request.url)) == secret.origin:
                    request.headers[name] = secret.reveal()
            request.headers["accept-encoding"] = "identity"

        async def check_response(response: Any) -> None:
            if response.headers.get("content-encoding", "identity").lower() != "identity":
                self.ended = "its answer is compressed, which was not requested"  # it may expand to any size
                raise ProtocolError(self.ended)
            if response.status_code >= 400 and response.request.method == "POST":  # few servers support GET
                self._status = response.status_code
            mend_response(response, self._mend)

        times = httpx2.Timeout(self.limits.connect, read=5 * self.limits.call)
        hooks: Any = {"request": [sign_request], "response": [check_response]}
        auth, context = await self._auth(), await asyncio.to_thread(tls_context)  # that takes 20 ms
        async with httpx2.AsyncClient(verify=context, timeout=times, event_hooks=hooks, auth=auth) as http:
            transport = streamable_http_client(
                self.entry.url, http_client=http, max_sse_event_size=MAX_MESSAGE
            )
            try:
                await self._run_client(transport)
            except Exception as exc:
                self.ended = self.ended or self._with_status(self._mask(line(error_text(innermost(exc)))))
                raise

    async def _auth(self) -> Any:
        """The authentication with a login, where there is one or one has been started."""
        login = self._login
        if login is None or any(name.lower() == "authorization" for name in self.entry.headers):
            return None
        return login.auth() if await asyncio.to_thread(login.load) or login.ask is not None else None

    async def _run_client(self, transport: Any) -> None:
        """Opens the SDK's client, and keeps it open until the connection's end."""
        import anyio

        protocol_mode: Any = self.limits.protocol_mode
        with anyio.CancelScope(deadline=anyio.current_time() + self.limits.connect) as scope:
            self._scope = scope
            async with self._mcp.Client(transport, mode=protocol_mode, cache=None) as client:
                scope.deadline = math.inf
                if not self._ready.done():
                    self._ready.set_result(client)
                await self._end_event.wait()
        if scope.cancelled_caught and not self._ready.done():
            self.ended = f"it did not initialise within {self.limits.connect:g} s"
            raise Timeout(
                f"{self.name} did not start: {self.ended}.",
                which="connect",
                seconds=self.limits.connect,
                hint=f"`%llm mcp log {self.entry.name}` shows what it wrote.",
            )

    def _mend(self, result: Any) -> None:
        if isinstance(result, dict):
            self.notes += mend(result)
            mask(result, self._mask)

    def _mask(self, text: str) -> str:
        return scrub(text, (*self.entry.secrets, *(self._login.secrets if self._login else ())))

    # --- requests ---

    async def tools(self) -> list[Definition]:
        """All its current tools. Raises an NbllmError."""
        client, self.notes = await self.get_client(), []
        definitions = await self._list(
            client.list_tools, "tools", lambda t: define(t.name, t.description or "", t.input_schema)
        )
        self.fingerprints = {t.name: t.fingerprint for t in definitions}
        return definitions

    async def resources(self) -> list[Resource]:
        """All its resources and resource templates; none where it declares none. Raises an NbllmError."""
        client, self.notes = await self.get_client(), []
        if getattr(client.server_capabilities, "resources", None) is None:
            return []
        resources = await self._list(client.list_resources, "resources", Resource.of)
        try:
            resources += await self._list(client.list_resource_templates, "resource_templates", Resource.of)
        except ToolFailed:  # not every server with resources supports templates
            if self.is_over:
                raise
        return resources

    async def prompts(self) -> list[Prompt]:
        """All its prompts. Raises an NbllmError."""
        client, self.notes = await self.get_client(), []
        if getattr(client.server_capabilities, "prompts", None) is None:
            return []
        return await self._list(client.list_prompts, "prompts", Prompt.of)

    async def _list(self, fetch_page: Callable[..., Any], field: str, convert: Callable[[Any], T]) -> list[T]:
        pages = self._pages(fetch_page, field, convert)
        return await self._request(pages, f"list its {field.replace('_', ' ')}", self.limits.tools)

    async def _pages(
        self, fetch_page: Callable[..., Any], field: str, convert: Callable[[Any], T]
    ) -> list[T]:
        """The items of all pages of a list, each name once."""
        items, cursor = dict[str, T](), None
        for _ in range(_MAX_PAGES):
            page = await fetch_page(cursor=cursor)
            for item in getattr(page, field):
                await asyncio.sleep(0)  # there may be hundreds
                items.setdefault(
                    next(filter(None, (getattr(item, k, "") for k in _ITEM_KEYS))), convert(item)
                )
            cursor = page.next_cursor
            if not cursor or len(items) >= MAX_ITEMS:
                break
        if cursor or len(items) > MAX_ITEMS:
            nouns = field.replace("_", " ")
            self.notes.append(f"It lists more {nouns} than the {min(len(items), MAX_ITEMS):,} that are read.")
        return list(items.values())[:MAX_ITEMS]

    async def read(self, uri: str, name: str, budget: int) -> list[Part]:
        """A resource, as parts of a prompt. Raises an NbllmError."""
        client = await self.get_client()
        result = await self._request(
            client.read_resource(replace_surrogates(uri)), f"read {line(name, 100)}", self.limits.call
        )
        return resource_parts(result, name, self._mask, budget)

    async def prompt(self, name: str, arguments: dict[str, str]) -> list[Message]:
        """A prompt, filled in. Raises an NbllmError."""
        client = await self.get_client()
        work = client.get_prompt(replace_surrogates(name), replace_surrogates(arguments))
        result = await self._request(work, f"fill the prompt {line(name, 60)}", self.limits.call)
        return prompt_messages(result, self._mask)

    async def call(self, tool: str, arguments: dict[str, Any]) -> str | list[Part]:
        """The result of a tool call. Raises ToolFailed and Timeout, whose message is one line for the
        model."""
        client = await self.get_client()
        call = client.call_tool(tool, replace_surrogates(arguments))
        result = await self._request(call, f"answer the call of {line(tool, 60)}", self.limits.call)
        if result.is_error:
            raise ToolFailed(self._mask(result_text(result)))
        return result_parts(result, self._mask)

    async def _request(self, work: Coroutine[Any, Any, T], task: str, limit: float) -> T:
        """The server's answer. task: what it should do, for messages. Raises an NbllmError of one line."""
        try:
            async with asyncio.timeout(limit):
                return await work
        except TimeoutError:
            message = f"{self.name} did not {task} within {limit:g} s"
            raise Timeout(message, which="total", seconds=limit) from None
        except Exception as exc:  # noqa: BLE001 - errors of the SDK and pydantic
            error = innermost(exc)
        message = self._mask(line(error_text(error)))
        if not is_disconnected(error):
            raise ToolFailed(f"{self.name} answered with an error: {message}")
        if self.entry.url:
            self.ended = self.ended or self._with_status(message)
        self._end_event.set()
        await asyncio.wait([self._keeper], timeout=2 * _CLOSE_TIMEOUT)
        why = f"{self.name} ended when it should {task}: {self.ended or message}"
        raise ToolFailed(f"{why}.{' Whether it took effect is not known.' * task.startswith('answer')}")

    def _with_status(self, message: str) -> str:
        return f"the address answered {self._status} ({message})" if self._status else message
