"""What a client keeps on its engine: connections, commands that stay, sessions with servers."""

from __future__ import annotations

import asyncio
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field

from ..agents.opencode_server import OpenCodeTransport, SessionReply
from ..agents.process import ProcessReply, ProcessTransport
from ..agents.sessions import KeptReply, KeptTransport
from ..core.calls import ProcessCall, SessionCall, TalkCall, Trace
from ..http.transport import HttpTransport, Letter, Reply
from .engine import Engine

AnyLetter = Letter | ProcessCall | TalkCall | SessionCall
AnyReply = Reply | ProcessReply | KeptReply | SessionReply


@dataclass(slots=True)
class Pool:
    """The engine in use, and the connections and commands that live on it; all are replaced together, after a
    fork or a close."""

    engine: Engine | None = None
    http: HttpTransport = field(default_factory=HttpTransport)
    processes: ProcessTransport = field(default_factory=ProcessTransport)
    kept: KeptTransport = field(init=False)
    opencode: OpenCodeTransport = field(init=False)

    def __post_init__(self) -> None:
        self.kept = KeptTransport(self.processes)
        self.opencode = OpenCodeTransport(self.http, self.processes)

    def send(
        self, letter: AnyLetter, trace: Trace, connect: float | None
    ) -> AbstractAsyncContextManager[AnyReply]:
        """What is sent, by the way that is its own."""
        if isinstance(letter, TalkCall):
            return self.kept.send(letter, trace)
        if isinstance(letter, ProcessCall):
            return self.processes.send(letter, trace)
        if isinstance(letter, SessionCall):
            return self.opencode.send(letter, trace, connect)
        return self.http.send(letter, trace, connect)

    async def close(self) -> None:
        """Closes sessions and connections, and ends commands that stay."""
        await asyncio.gather(self.opencode.close(), self.kept.close())
        await asyncio.gather(self.http.close(), self.processes.close())
