"""What a client keeps on its engine: connections, commands that stay, sessions with servers."""

from __future__ import annotations

import asyncio

from ..agents.local_server import LocalTransport
from ..agents.opencode_server import OpenCodeTransport
from ..agents.process import ProcessTransport
from ..agents.remote import RemoteTransport
from ..agents.sessions import KeptTransport
from ..core.calls import (
    AnyCall,
    HttpCall,
    LocalCall,
    ProcessCall,
    RemoteCall,
    SessionCall,
    TalkCall,
    Transport,
)
from ..http.transport import HttpTransport
from .contexts import Contexts
from .engine import Engine


class Pool:
    """The engine in use, and the connections and commands that live on it; all are replaced together, after a
    fork or a close."""

    def __init__(self, engine: Engine | None = None) -> None:
        self.engine, self.http, self.processes = engine, HttpTransport(), ProcessTransport()
        self.kept = KeptTransport(self.processes)
        self.opencode = OpenCodeTransport(self.http, self.processes)
        self.remote = RemoteTransport(self.http)
        self.local = LocalTransport(self.http, self.processes)
        self.contexts = Contexts(self.http)
        self._by_kind: dict[type, Transport] = {
            HttpCall: self.http,
            ProcessCall: self.processes,
            TalkCall: self.kept,
            SessionCall: self.opencode,
            RemoteCall: self.remote,
            LocalCall: self.local,
        }

    def transport(self, call: AnyCall) -> Transport:
        """The way that a call takes, by its kind."""
        return self._by_kind[type(call)]

    async def close(self) -> None:
        """Closes sessions and connections, ends commands that stay, and deletes what servers keep."""
        await asyncio.gather(
            self.opencode.close(), self.kept.close(), self.local.close(), self.contexts.close()
        )
        await asyncio.gather(self.http.close(), self.processes.close())
