"""The transports for all kinds of calls: HTTP, commands, agents, and models in files."""

from __future__ import annotations

import asyncio

from ..core.calls import AgentCall, HttpCall, LocalCall, ProcessCall, RemoteCall, SessionCall, Transport
from ..http.transport import HttpTransport
from .local_server import LocalTransport
from .opencode_server import OpenCodeTransport
from .process import ProcessTransport
from .remote import RemoteTransport
from .sessions import AgentTransport


class Transports:
    """All transports, over the connections of `http`. by_kind: the transport for each class of calls."""

    def __init__(self, http: HttpTransport) -> None:
        self.processes = ProcessTransport()
        self.agents = AgentTransport(self.processes)
        self.sessions = OpenCodeTransport(http, self.processes)
        self.remote = RemoteTransport(http)
        self.local = LocalTransport(http, self.processes)
        self.by_kind: dict[type, Transport] = {
            HttpCall: http,
            ProcessCall: self.processes,
            AgentCall: self.agents,
            SessionCall: self.sessions,
            RemoteCall: self.remote,
            LocalCall: self.local,
        }

    async def close(self) -> None:
        """Closes all sessions and ends all processes."""
        await asyncio.gather(self.sessions.close(), self.agents.close(), self.local.close())
        await self.processes.close()
