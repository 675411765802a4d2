"""Turns in sessions of OpenCode's server: it is found or started, has a session for each conversation, and
aborts the turn on Stop.

An address is probed first, without a password and without a prompt: prompts are sent only to an OpenCode
server, and the password only to the address that it belongs to.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import re
import secrets
import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

import msgspec

from ..core import errors
from ..core.calls import Frame, Guard, History, HttpCall, SessionCall, Trace, Transport
from ..dialects._json import load_json, obj
from ..http.transport import HttpTransport, Reply
from .base import as_text
from .json_lines import parse_object
from .opencode_protocol import DEFAULT_ADDRESS, OTHER_ADDRESS
from .process import Command, ProcessTransport
from .refusal import RefusableReply, Refusal

MAX_SESSIONS = 16  # stored sessions; the least recently used one is closed first
_PROBE_TIMEOUT, _SEND_TIMEOUT, _START_TIMEOUT = 1.0, 20.0, 60.0  # seconds
_ABORT_TIMEOUT = 0.8
_LISTENS = re.compile(rb"listening on (http://(?:127\.0\.0\.1|localhost|\[::1\]):\d+)")
_REALM = 'basic realm="secure area"'  # challenge of a server with a password, also at /global/health
_HEALTH_LIMIT = 2**16


class _Server(msgspec.Struct, frozen=True):
    """A server: its URL, the headers for it, the folder to work in."""

    url: str
    headers: Mapping[str, str]
    folder: str
    guard: Guard = msgspec.field(default=Guard())

    def call(self, path: str, body: Mapping[str, Any] | None = None, method: str = "POST") -> HttpCall:
        folder = f"?directory={quote(self.folder, safe='')}" if self.folder else ""
        return HttpCall(self.url + path + folder, self.headers, body or {}, method, self.guard)


@dataclass(slots=True)
class SessionReply(RefusableReply):
    """The events of one turn, or the HTTP error of a step. is_over: the turn has ended."""

    transport: OpenCodeTransport
    server: _Server
    session: str
    call: SessionCall
    trace: Trace
    events: AsyncIterator[Frame] | None = None
    refusal: Refusal | None = None
    is_over: bool = False

    async def frames(self) -> AsyncGenerator[list[Frame], None]:
        """The session's events, until it is idle. Permissions that it requests are refused."""
        assert self.events is not None
        marks = self.trace.marks
        async for frame in self.events:
            if self.session not in frame.data:
                continue
            marks.setdefault("headers", frame.at)
            marks.setdefault("first_byte", frame.at)
            kind, id = _type_and_id(frame.data)
            self.is_over = self.is_over or kind == "session.idle"
            if kind in ("permission.asked", "question.asked"):
                await self.transport.reject(self.server, kind, id)
            yield [frame]

    def finish(self, answer: Callable[[], str]) -> None:
        """Stores the session under its history with the answer, so that the next turn finds it."""
        if not self.call.fresh:
            self.transport.sessions[
                _session_key(self.server, self.call), self.call.turn.history_after(answer())
            ] = (
                self.server,
                self.session,
            )


def _session_key(server: _Server, call: SessionCall) -> str:
    """What a session must have in common with a turn, besides the history: the server, its folder, the
    permissions."""
    return f"{server.url} {server.folder} {call.session}"


def _type_and_id(data: str) -> tuple[str, str]:
    """(an event's type, the id of its request); "" for what is missing."""
    event = parse_object(data)
    return as_text(event.get("type")), as_text(obj(event.get("properties")).get("id"))


class OpenCodeTransport(Transport):
    """The sessions of OpenCode servers. Used on one event loop, over the connections of `http`."""

    def __init__(self, http: HttpTransport, processes: ProcessTransport) -> None:
        self._http, self._processes = http, processes
        self.sessions: dict[tuple[str, History], tuple[_Server, str]] = {}
        # by requested address: the command, its address, its headers
        self._own_servers: dict[str, tuple[Command, str, Mapping[str, str]]] = {}
        self._starting = asyncio.Lock()

    @asynccontextmanager
    async def open(
        self, call: SessionCall, trace: Trace, connect: float | None
    ) -> AsyncIterator[SessionReply]:
        """Starts a turn and yields its reply; leaving early aborts the turn.

        Raises ConnectFailed if no server answers and none may be started; an HTTP error of the server is the
        reply's status.
        """
        began = time.perf_counter()
        server, session = await self._find_server(call, connect), ""
        trace.address = server.url
        try:
            known = (
                None
                if call.fresh
                else self.sessions.pop((_session_key(server, call), call.turn.history), None)
            )
            session = (
                known[1] if known else _session_id(await self._send(server.call("/session", call.session)))
            )
            async with self._http.open(server.call("/event", method="GET"), trace, connect) as reply:
                frames = await self._event_frames(reply)
                await self._send(
                    server.call(
                        _session_path(session, "/prompt_async"),
                        {
                            **call.message,
                            "parts": [
                                {"type": "text", "text": call.turn.prompt if known else call.turn.full_prompt}
                            ],
                        },
                    )
                )
                for name in ("headers", "first_byte"):  # of the event stream, which was opened before
                    trace.marks.pop(name, None)
                trace.marks.update(start=began, sent=time.perf_counter())
                trace.reused = known is not None
                turn_reply = SessionReply(self, server, session, call, trace, frames)
                try:
                    yield turn_reply
                finally:
                    if not turn_reply.is_over:
                        await asyncio.shield(
                            self._send_quietly(server.call(_session_path(session, "/abort")), _ABORT_TIMEOUT)
                        )
        except Refusal as no:
            trace.status = no.status
            yield SessionReply(self, server, session, call, trace, refusal=no, is_over=True)
        finally:
            await asyncio.shield(self._close_sessions(server, session))

    @staticmethod
    async def _event_frames(reply: Reply) -> AsyncGenerator[Frame, None]:
        if reply.status >= 300:
            raise Refusal(reply.status, reply.headers, await reply.body())
        frames = (frame async for batch in reply.frames() for frame in batch)
        await anext(frames, None)  # server.connected: from here on no event is missed
        return frames

    async def _send(self, call: HttpCall, seconds: float = _SEND_TIMEOUT) -> dict[str, Any]:
        async with asyncio.timeout(seconds), self._http.open(call, Trace(), seconds) as reply:
            page = await reply.body()
            if reply.status >= 300:
                raise Refusal(reply.status, reply.headers, page)
        return obj(load_json(page or b"{}"))

    async def _send_quietly(self, call: HttpCall, seconds: float) -> None:
        with contextlib.suppress(errors.NbllmError, Refusal, TimeoutError):
            await self._send(call, seconds)

    async def reject(self, server: _Server, kind: str, id: str) -> None:
        """Refuses a permission or a question of a session."""
        id = quote(id, safe="")
        path, body = (
            (f"/permission/{id}/reply", {"reply": "reject"})
            if kind == "permission.asked"
            else (f"/question/{id}/reject", {})
        )
        await self._send_quietly(server.call(path, body), _SEND_TIMEOUT)

    async def _close_sessions(self, server: _Server, session: str) -> None:
        """Closes the session if it was not stored, and the least recently used ones beyond MAX_SESSIONS."""
        if session and session not in {s for _, s in self.sessions.values()}:
            await self._send_quietly(server.call(_session_path(session), method="DELETE"), _ABORT_TIMEOUT)
        while len(self.sessions) > MAX_SESSIONS:
            old, ident = self.sessions.pop(next(iter(self.sessions)))
            await self._send_quietly(old.call(_session_path(ident), method="DELETE"), _ABORT_TIMEOUT)

    # --- finding a server ---

    async def _find_server(self, call: SessionCall, connect: float | None) -> _Server:
        ours = self._own_servers.get(call.addresses[0])
        if ours is not None and ours[0].process.returncode is None:
            return _Server(ours[1], ours[2], call.folder)
        self._own_servers.pop(call.addresses[0], None)  # one that has ended by itself
        seconds, found = min(_PROBE_TIMEOUT, connect or _PROBE_TIMEOUT), {}
        for url in call.addresses:
            found[url] = await self._probe(url, seconds)
            if found[url] == "open" or (found[url] == "locked" and url == call.addresses[0]):
                return (
                    _Server(url, call.headers, call.folder, call.guard)
                    if url == call.addresses[0]
                    else _Server(url, {}, call.folder)
                )
        if call.start is None:
            raise _not_found_error(found)
        async with self._starting:
            return await self._start(call)

    async def check(self, url: str) -> None:
        """Raises ConnectFailed if nothing answers at `url`, or something other than an OpenCode server."""
        found = await self._probe(url, _PROBE_TIMEOUT)
        if found not in ("open", "locked"):
            raise _not_found_error({url: found})

    async def _probe(self, url: str, seconds: float) -> str:
        """What answers a health check at an address: "open" for an OpenCode server, "locked" for one with a
        password, "other" for something else, "" for nothing. At the default addresses, a server with a
        password must send OpenCode's challenge."""
        try:
            async with (
                asyncio.timeout(seconds),
                self._http.open(HttpCall(f"{url}/global/health", {}, {}, "GET"), Trace(), seconds) as reply,
            ):
                challenge = reply.headers.get("www-authenticate", "").lower()
                if reply.status == 401:
                    return (
                        "locked"
                        if url not in (DEFAULT_ADDRESS, OTHER_ADDRESS) or challenge.startswith(_REALM)
                        else "other"
                    )
                return (
                    "open"
                    if reply.status == 200
                    and parse_object(await reply.body(_HEALTH_LIMIT)).get("healthy") is True
                    else "other"
                )
        except (errors.NbllmError, TimeoutError):
            return ""

    async def _start(self, call: SessionCall) -> _Server:
        assert call.start is not None
        if call.addresses[0] in self._own_servers:  # another call started it meanwhile
            return await self._find_server(msgspec.structs.replace(call, start=None), None)
        password = secrets.token_urlsafe(24)
        headers = {"authorization": "Basic " + base64.b64encode(f"opencode:{password}".encode()).decode()}
        own = {"OPENCODE_SERVER_PASSWORD": password, "OPENCODE_SERVER_USERNAME": "opencode"}
        command = await self._processes.start(
            msgspec.structs.replace(call.start, env={**call.start.env, **own})
        )
        command.close_stdin()
        try:
            async with asyncio.timeout(_START_TIMEOUT):
                url = await _read_address(command)
        except TimeoutError:
            url = ""
        if not url:
            output = " ".join(command.stderr.split())[-400:]
            await command.stop()
            raise errors.ConnectFailed(
                f"The OpenCode server did not start{': ' + output if output else ''}.",
                hint="Run `opencode serve` by hand to see more.",
            )
        self._own_servers[call.addresses[0]] = (command, url, headers)
        return _Server(url, headers, call.folder)

    async def close(self) -> None:
        """Closes all sessions, and ends the servers that were started here."""
        sessions, self.sessions = self.sessions, {}
        await asyncio.gather(
            *(
                self._send_quietly(server.call(_session_path(ident), method="DELETE"), _ABORT_TIMEOUT)
                for server, ident in sessions.values()
            )
        )
        servers, self._own_servers = self._own_servers, {}
        await asyncio.gather(*(command.stop() for command, _, _ in servers.values()))


def _not_found_error(found: Mapping[str, str]) -> errors.ConnectFailed:
    """The error for addresses without an OpenCode server. found: what `_probe` returned for each."""
    others = [url for url, answer in found.items() if answer in ("other", "locked")]
    note = (
        f" Something else answers at {' and '.join(others)}; neither a password nor a prompt was sent there."
        if others
        else ""
    )
    return errors.ConnectFailed(
        f"No OpenCode server answers at {' or '.join(found)}.{note}",
        hint="Run `opencode serve`, or let nbllm start one with x.start=true, or set OPENCODE_SERVER_URL to "
        "another address.",
    )


def _session_path(name: str, step: str = "") -> str:
    """The URL path of a session, or of a `step` below it."""
    return f"/session/{quote(name, safe='')}{step}"


def _session_id(session: Mapping[str, Any]) -> str:
    """The id of a new session. Raises ProtocolError for a session without one."""
    found = as_text(session.get("id"))
    if not found:
        raise errors.ProtocolError(
            "The server opened a session without an id.",
            hint="Check that an OpenCode server listens there.",
        )
    return found


async def _read_address(command: Command) -> str:
    """The address at which a server reports to listen, "" if it ended before."""
    async for lines, _, _ in command.lines():
        for line in lines:
            found = _LISTENS.search(line)
            if found:
                return found[1].decode("ascii", "replace").rstrip("/")
    return ""
