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
from .process import Command, CommandReply, ProcessTransport, build_frame, record_read

MAX_IDLE = 4  # commands that stay idle; the one that was idle longest goes first
_MAX_SESSIONS = 64  # conversations of a command that are remembered
_HEARTBEAT = 1.0  # seconds between the signs of life of somebody who is asked
_GRACE = 0.8  # seconds that an interrupted turn gets to end, before the command is ended

History = tuple[tuple[str, str], ...]


class _Line(NamedTuple):
    """A line of output, b"" for its end; `read` is the same number for lines of one read."""

    text: bytes
    at: float
    size: int
    read: int


class _AgentProcess:
    """One running command."""

    def __init__(self, call: AgentCall, command: Command) -> None:
        self.process, self.command, self.protocol = call.process, command, call.make_protocol(command.work)
        self.setup = call.turn.history[
            :2
        ]  # the model and the system prompt for which its conversations are begun
        self.sessions: dict[History, str] = {}  # what was said in which of its conversations
        self.is_idle, self.idle_since = asyncio.Event(), 0.0  # no turn is under way, and since when
        self.in_use = True
        self.inbox: asyncio.Queue[_Line] | None = None
        self.permit: Permit | None = None
        self._permission_tasks: set[asyncio.Task[None]] = set()
        self.error: errors.NbllmError | None = None
        self.reader = asyncio.create_task(self._read())

    @property
    def has_ended(self) -> bool:
        return self.reader.done() or self.command.process.returncode is not None

    async def write_lines(self, words: list[str]) -> None:
        for line in words:
            await self.command.write(line + "\n")

    async def _read(self) -> None:
        number = 0
        try:
            async for lines, at, size in self.command.lines():
                number += 1
                for line in filter(bytes.strip, lines):
                    answer = self.protocol.handle_line(line.decode("utf-8", "replace"))
                    if self.inbox is not None:
                        self.inbox.put_nowait(_Line(line, at, size, number))
                    if not self.protocol.busy:
                        self.is_idle.set()
                    await self.write_lines(answer)
                    self._ask_user()
        except errors.NbllmError as error:
            self.error = error
        # a command may say anything; a reader that dies in silence would leave its turn waiting
        except Exception as error:  # noqa: BLE001
            self.error = errors.ProtocolError(
                f"{self.command.name} said what cannot be understood ({type(error).__name__}).",
                hint="Leave keep out, and report this.",
            )
        finally:
            self.is_idle.set()
            if self.inbox is not None:
                self.inbox.put_nowait(_Line(b"", time.perf_counter(), 0, number))

    def _ask_user(self) -> None:
        """Has the user asked what the command asks; nobody there is a no, told in its own words."""
        asked, self.protocol.pending_permissions = self.protocol.pending_permissions, []
        for one in asked:
            task = asyncio.create_task(self._decide(one))
            self._permission_tasks.add(task)
            task.add_done_callback(self._permission_tasks.discard)

    async def _decide(self, asked: Permission) -> None:
        yes, alive = False, asyncio.create_task(self._send_heartbeats())
        try:
            yes = self.permit is not None and await self.permit(asked)
        finally:
            alive.cancel()
            await self.write_lines(self.protocol.answer_permission(asked, yes))

    async def _send_heartbeats(self) -> None:
        """A person who thinks is no command that is silent."""
        while self.inbox is not None:
            self.inbox.put_nowait(_Line(b" ", time.perf_counter(), 0, -1))
            await asyncio.sleep(_HEARTBEAT)

    async def cancel_permissions(self) -> None:
        """Ends all questions, with a no."""
        for task in (asking := list(self._permission_tasks)):
            task.cancel()
        await asyncio.gather(*asking, return_exceptions=True)

    async def close(self) -> None:
        await self.cancel_permissions()
        await self.command.close()
        self.reader.cancel()


class AgentReply(CommandReply):
    """The output of one turn."""

    def __init__(
        self, process: _AgentProcess, call: AgentCall, trace: Trace, inbox: asyncio.Queue[_Line]
    ) -> None:
        self._process, self._call, self._trace, self._inbox = process, call, trace, inbox

    def decoder(self) -> Decoder:
        """The reader of this turn."""
        return self._process.protocol.decoder()

    def finish(self, answer: Callable[[], str]) -> None:
        """Notes what was answered, so that the next turn finds who said it."""
        if self._process.protocol.session:
            self._process.sessions[self._call.turn.history_after(answer())] = self._process.protocol.session
        while len(self._process.sessions) > _MAX_SESSIONS:
            del self._process.sessions[next(iter(self._process.sessions))]

    async def frames(self) -> AsyncGenerator[list[Frame], None]:
        """The lines of the turn; where the command ends in it, its exit. Raises ProtocolError for a line that
        is too long."""
        last = -1
        while (line := await self._inbox.get()).text:
            if line.read not in (last, -1):
                record_read(self._trace, line.at, line.size)
                last = line.read
            yield [build_frame(self._trace, line.text, line.at)]
        if self._process.error is not None:
            raise self._process.error
        told = await self._process.command.exit_report()
        self._trace.marks["exit"] = self._trace.marks["end"] = time.perf_counter()
        yield [Frame(told, "exit", self._trace.marks["exit"])]


class AgentTransport(Transport):
    """The commands that stay. Used on one event loop."""

    def __init__(self, processes: ProcessTransport) -> None:
        self._processes, self._agents = processes, list[_AgentProcess]()

    @asynccontextmanager
    async def open(
        self, call: AgentCall, trace: Trace, connect: float | None = None
    ) -> AsyncIterator[AgentReply]:
        """Says a turn and gives what comes; leaving in the middle of it interrupts it, and keeps the command.

        Raises ConfigError where the command is not there or cannot be started.
        """
        marks = trace.marks
        marks["start"], trace.http_version = time.perf_counter(), None
        process, session = (None, "") if call.fresh else self._find(call)
        trace.reused = process is not None
        if process is None:
            process = _AgentProcess(call, await self._processes.start(call.process))
            self._agents.append(process)
            marks["spawned"] = time.perf_counter()
        process.in_use, trace.address = True, process.command.path
        try:
            process.is_idle.clear()
            inbox: asyncio.Queue[_Line] = asyncio.Queue()
            process.inbox, process.permit = inbox, call.permit
            await process.write_lines(process.protocol.start_turn(call.turn, session))
            marks["sent"], trace.bytes_out = time.perf_counter(), len(call.turn.prompt)
            yield AgentReply(process, call, trace, inbox)
        finally:
            trace.stderr = process.command.stderr
            await asyncio.shield(self._release(process, stays=not call.fresh))

    def _find(self, call: AgentCall) -> tuple[_AgentProcess | None, str]:
        """An idle command that heard what was said before, and where; else one that can begin anew; else
        none."""
        idle = [k for k in self._agents if not k.in_use and not k.has_ended and k.process == call.process]
        for process in idle:
            if call.turn.history in process.sessions:
                return process, process.sessions.pop(call.turn.history)
        return next(
            (k for k in idle if k.protocol.multi_session and k.setup == call.turn.history[:2]), None
        ), ""

    async def _release(self, process: _AgentProcess, *, stays: bool) -> None:
        await process.cancel_permissions()
        process.permit = None
        if process.protocol.busy and not process.has_ended:
            await process.write_lines(process.protocol.interrupt())
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(process.is_idle.wait(), _GRACE)
        process.inbox = None
        if (
            not stays
            or process.has_ended
            or process.protocol.busy
            or not (process.protocol.multi_session or process.sessions)
        ):
            await self._close_process(process)
            return
        process.in_use, process.idle_since = False, time.monotonic()
        idle = sorted((k for k in self._agents if not k.in_use), key=lambda k: k.idle_since)
        for old in idle[:-MAX_IDLE]:
            await self._close_process(old)

    async def _close_process(self, process: _AgentProcess) -> None:
        if process in self._agents:
            self._agents.remove(process)
        await process.close()

    async def close(self) -> None:
        """Ends every command."""
        everyone, self._agents = self._agents, []
        await asyncio.gather(*(k.close() for k in everyone))
