"""Commands that stay: each runs until it is closed, and is asked turn by turn.

Who heard what is remembered, so that a turn goes to the command that heard all before it, and otherwise to a
new conversation: in a running command of the same kind where it can hold several, else in a new one. A
command is asked one thing at a time.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import NamedTuple

from ..core import errors
from ..core.calls import AgentCall, Decoder, Frame, Permission, Permit, Trace, Transport
from .process import Command, CommandReply, ProcessTransport, framed, note

LIMIT = 4  # commands that stay idle; the one that was idle longest goes first
_HEARD = 64  # conversations of a command that are remembered
_ALIVE = 1.0  # seconds between the signs of life of somebody who is asked
_GRACE = 0.8  # seconds that an interrupted turn gets to end, before the command is ended

Heard = tuple[tuple[str, str], ...]


class _Line(NamedTuple):
    """A line of output, b"" for its end; `read` is the same number for lines of one read."""

    text: bytes
    at: float
    size: int
    read: int


class _Kept:
    """One running command."""

    def __init__(self, call: AgentCall, command: Command) -> None:
        self.process, self.command, self.talk = call.process, command, call.make_protocol(command.work)
        self.suits = call.turn.history[
            :2
        ]  # the model and the system prompt for which its conversations are begun
        self.heard: dict[Heard, str] = {}  # what was said in which of its conversations
        self.free, self.since = asyncio.Event(), 0.0  # no turn is under way, and since when
        self.taken = True
        self.inbox: asyncio.Queue[_Line] | None = None
        self.permit: Permit | None = None
        self._asking: set[asyncio.Task[None]] = set()
        self.broken: errors.NbllmError | None = None
        self.reader = asyncio.create_task(self._read())

    @property
    def gone(self) -> bool:
        return self.reader.done() or self.command.process.returncode is not None

    async def say(self, words: list[str]) -> None:
        for line in words:
            await self.command.write(line + "\n")

    async def _read(self) -> None:
        number = 0
        try:
            async for lines, at, size in self.command.lines():
                number += 1
                for line in filter(bytes.strip, lines):
                    answer = self.talk.handle_line(line.decode("utf-8", "replace"))
                    if self.inbox is not None:
                        self.inbox.put_nowait(_Line(line, at, size, number))
                    if not self.talk.busy:
                        self.free.set()
                    await self.say(answer)
                    self._ask()
        except errors.NbllmError as error:
            self.broken = error
        # a command may say anything; a reader that dies in silence would leave its turn waiting
        except Exception as error:  # noqa: BLE001
            self.broken = errors.ProtocolError(
                f"{self.command.name} said what cannot be understood ({type(error).__name__}).",
                hint="Leave keep out, and report this.",
            )
        finally:
            self.free.set()
            if self.inbox is not None:
                self.inbox.put_nowait(_Line(b"", time.perf_counter(), 0, number))

    def _ask(self) -> None:
        """Has the user asked what the command asks; nobody there is a no, told in its own words."""
        asked, self.talk.pending_permissions = self.talk.pending_permissions, []
        for one in asked:
            task = asyncio.create_task(self._decide(one))
            self._asking.add(task)
            task.add_done_callback(self._asking.discard)

    async def _decide(self, asked: Permission) -> None:
        yes, alive = False, asyncio.create_task(self._wait())
        try:
            yes = self.permit is not None and await self.permit(asked)
        finally:
            alive.cancel()
            await self.say(self.talk.answer_permission(asked, yes))

    async def _wait(self) -> None:
        """A person who thinks is no command that is silent."""
        while self.inbox is not None:
            self.inbox.put_nowait(_Line(b" ", time.perf_counter(), 0, -1))
            await asyncio.sleep(_ALIVE)

    async def unasked(self) -> None:
        """Ends all questions, with a no."""
        for task in (asking := list(self._asking)):
            task.cancel()
        await asyncio.gather(*asking, return_exceptions=True)

    async def end(self) -> None:
        await self.unasked()
        await self.command.close()
        self.reader.cancel()


class SessionTurn(CommandReply):
    """The output of one turn."""

    def __init__(self, kept: _Kept, call: AgentCall, trace: Trace, inbox: asyncio.Queue[_Line]) -> None:
        self._kept, self._call, self._trace, self._inbox = kept, call, trace, inbox

    def decoder(self) -> Decoder:
        """The reader of this turn."""
        return self._kept.talk.decoder()

    def finish(self, answer: Callable[[], str]) -> None:
        """Notes what was answered, so that the next turn finds who said it."""
        if self._kept.talk.session:
            self._kept.heard[self._call.turn.history_after(answer())] = self._kept.talk.session
        while len(self._kept.heard) > _HEARD:
            del self._kept.heard[next(iter(self._kept.heard))]

    async def frames(self) -> AsyncGenerator[list[Frame], None]:
        """The lines of the turn; where the command ends in it, its exit. Raises ProtocolError for a line that
        is too long."""
        last = -1
        while (line := await self._inbox.get()).text:
            if line.read not in (last, -1):
                note(self._trace, line.at, line.size)
                last = line.read
            yield [framed(self._trace, line.text, line.at)]
        if self._kept.broken is not None:
            raise self._kept.broken
        told = await self._kept.command.ended()
        self._trace.marks["exit"] = self._trace.marks["end"] = time.perf_counter()
        yield [Frame(told, "exit", self._trace.marks["exit"])]


class KeptTransport(Transport):
    """The commands that stay. Used on one event loop."""

    def __init__(self, processes: ProcessTransport) -> None:
        self._processes, self._all = processes, list[_Kept]()

    @asynccontextmanager
    async def open(
        self, call: AgentCall, trace: Trace, connect: float | None = None
    ) -> AsyncIterator[SessionTurn]:
        """Says a turn and gives what comes; leaving in the middle of it interrupts it, and keeps the command.

        Raises ConfigError where the command is not there or cannot be started.
        """
        marks = trace.marks
        marks["start"], trace.http_version = time.perf_counter(), None
        kept, session = (None, "") if call.fresh else self._find(call)
        trace.reused = kept is not None
        if kept is None:
            kept = _Kept(call, await self._processes.start(call.process))
            self._all.append(kept)
            marks["spawned"] = time.perf_counter()
        kept.taken, trace.address = True, kept.command.path
        try:
            kept.free.clear()
            inbox: asyncio.Queue[_Line] = asyncio.Queue()
            kept.inbox, kept.permit = inbox, call.permit
            await kept.say(kept.talk.start_turn(call.turn, session))
            marks["sent"], trace.bytes_out = time.perf_counter(), len(call.turn.prompt)
            yield SessionTurn(kept, call, trace, inbox)
        finally:
            trace.stderr = kept.command.stderr
            await asyncio.shield(self._leave(kept, stays=not call.fresh))

    def _find(self, call: AgentCall) -> tuple[_Kept | None, str]:
        """An idle command that heard what was said before, and where; else one that can begin anew; else
        none."""
        idle = [k for k in self._all if not k.taken and not k.gone and k.process == call.process]
        for kept in idle:
            if call.turn.history in kept.heard:
                return kept, kept.heard.pop(call.turn.history)
        return next((k for k in idle if k.talk.multi_session and k.suits == call.turn.history[:2]), None), ""

    async def _leave(self, kept: _Kept, *, stays: bool) -> None:
        await kept.unasked()
        kept.permit = None
        if kept.talk.busy and not kept.gone:
            await kept.say(kept.talk.interrupt())
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(kept.free.wait(), _GRACE)
        kept.inbox = None
        if not stays or kept.gone or kept.talk.busy or not (kept.talk.multi_session or kept.heard):
            await self._end(kept)
            return
        kept.taken, kept.since = False, time.monotonic()
        idle = sorted((k for k in self._all if not k.taken), key=lambda k: k.since)
        for old in idle[:-LIMIT]:
            await self._end(old)

    async def _end(self, kept: _Kept) -> None:
        if kept in self._all:
            self._all.remove(kept)
        await kept.end()

    async def close(self) -> None:
        """Ends every command."""
        everyone, self._all = self._all, []
        await asyncio.gather(*(k.end() for k in everyone))
