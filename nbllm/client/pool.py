"""A client's resources on the engine: connections, running commands, sessions with servers."""

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
    """An engine with the connections and commands that live on it; all are replaced together after a fork or
    a close."""

    def __init__(self, engine: Engine | None = None) -> None:
        self.engine, self.http = engine, HttpTransport()
        self.contexts = Contexts(self.http)
        self._transports: Transports | None = None
        self._lock = threading.Lock()
        self._known: dict[type, Transport] = {HttpCall: self.http}

    @property
    def transports(self) -> Transports:
        """All transports; those for commands, agents and model files load at their first use."""
        with self._lock:
            if self._transports is None:
                from ..agents.transports import Transports

                self._transports = Transports(self.http)
            return self._transports

    def transport(self, call: AnyCall) -> Transport:
        """The transport for a call, by the call's type."""
        return self._known.get(type(call)) or self.transports.by_kind[type(call)]

    async def close(self) -> None:
        """Closes sessions and connections, ends running commands, and deletes prompts cached on servers."""
        closing = [self.contexts.close()]
        if self._transports is not None:
            closing.append(self._transports.close())
        await asyncio.gather(*closing)
        await self.http.close()
