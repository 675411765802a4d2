"""What a client keeps on its engine: connections, commands that stay, sessions with servers."""

from __future__ import annotations

import asyncio
import threading
from typing import TYPE_CHECKING

from ..core.calls import AnyCall, HttpCall, Transport
from ..http.transport import HttpTransport
from .contexts import Contexts
from .engine import Engine

if TYPE_CHECKING:
    from ..agents.transports import Transports


class Pool:
    """The engine in use, and the connections and commands that live on it; all are replaced together, after a
    fork or a close."""

    def __init__(self, engine: Engine | None = None) -> None:
        self.engine, self.http = engine, HttpTransport()
        self.contexts = Contexts(self.http)
        self._ways: Transports | None = None
        self._making = threading.Lock()
        self._known: dict[type, Transport] = {HttpCall: self.http}

    @property
    def ways(self) -> Transports:
        """All ways; those to commands, agents and models in files load with the first of them."""
        with self._making:
            if self._ways is None:
                from ..agents.transports import Transports

                self._ways = Transports(self.http)
            return self._ways

    def transport(self, call: AnyCall) -> Transport:
        """The way that a call takes, by its kind."""
        return self._known.get(type(call)) or self.ways.by_kind[type(call)]

    async def close(self) -> None:
        """Closes sessions and connections, ends commands that stay, and deletes what servers keep."""
        mine = [self.contexts.close()]
        if self._ways is not None:
            mine.append(self._ways.close())
        await asyncio.gather(*mine)
        await self.http.close()
