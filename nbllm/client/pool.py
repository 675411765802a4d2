"""What a client keeps on its engine: connections, commands that stay, sessions with servers."""

from __future__ import annotations

import asyncio

from ..agents.transports import Transports
from ..core.calls import AnyCall, Transport
from ..http.transport import HttpTransport
from .contexts import Contexts
from .engine import Engine


class Pool:
    """The engine in use, and the connections and commands that live on it; all are replaced together, after a
    fork or a close."""

    def __init__(self, engine: Engine | None = None) -> None:
        self.engine, self.http = engine, HttpTransport()
        self.ways, self.contexts = Transports(self.http), Contexts(self.http)

    def transport(self, call: AnyCall) -> Transport:
        """The way that a call takes, by its kind."""
        return self.ways.by_kind[type(call)]

    async def close(self) -> None:
        """Closes sessions and connections, ends commands that stay, and deletes what servers keep."""
        await asyncio.gather(self.ways.close(), self.contexts.close())
        await self.http.close()
