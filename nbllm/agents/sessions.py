"""Pool of long-lived agent processes; each serves one turn at a time.

A turn is routed to the process whose session has its history, else to a new session: in an idle process of
the same kind if that supports several sessions, else in a new process.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import NamedTuple

from ..core import errors
from ..core.calls import AgentCall, Decoder, Frame, History, Permission, Permit, Trace, Transport
from .process import Command, CommandReply, ProcessTransport, build_frame, record_read

MAX_IDLE = 4  # idle processes; the one that was idle longest is closed first
_MAX_SESSIONS = 64  # of one process that are stored
_HEARTBEAT = 1.0  # seconds between keep-alive lines while the user decides on a permission
_GRACE = 0.8  # seconds for an interrupted turn to end, before its process is ended


class _Line(NamedTuple):
    """A line of output, b"" for the end of output; `read` is equal for lines of one read, -1 for keep-alive
    lines."""

    text: bytes
    at: float
    size: int
    read: int


class _AgentProcess:
    """One running agent process. process_call: how it was started; setup: the model and system prompt of its
    sessions; sessions: ids by history; idle: set while no turn is under way; inbox: receives the lines of the
    turn under way; error: what ended the reader."""

    def __init__(self, call: AgentCall, command: Command) -> None:
        self.process_call, self.command = call.process, command
        self.protocol, self.setup = call.make_protocol(command.work), call.turn.history[:2]
        self.sessions: dict[History, str] = {}
        self.idle, self.idle_since = asyncio.Event(), 0.0
        self.in_use = True
        self.inbox: asyncio.Queue[_Line] | None = None
        self.permit: Permit | None = None
        self._permission_tasks: set[asyncio.Task[None]] = set()
        self.error: errors.NbllmError | None = None
        self.reader = asyncio.create_task(self._read())

    @property
    def has_ended(self) -> bool:
        return self.reader.done() or self.command.process.returncode is not None

    async def write_lines(self, lines: list[str]) -> None:
        for line in lines:
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
                        self.idle.set()
                    await self.write_lines(answer)
                    self._ask_user()
        except errors.NbllmError as error:
            self.error = error
        # a command may write anything; if the reader failed silently, the turn would wait forever
        except Exception as error:  # noqa: BLE001
            self.error = errors.ProtocolError(
                f"{self.command.name} sent a message that cannot be parsed ({type(error).__name__}).",
                hint="Leave keep out, and report this.",
            )
        finally:
            self.idle.set()
            if self.inbox is not None:
                self.inbox.put_nowait(_Line(b"", time.perf_counter(), 0, number))

    def _ask_user(self) -> None:
        """Starts a task for each pending permission, which asks the user and sends the answer."""
        pending, self.protocol.pending_permissions = self.protocol.pending_permissions, []
        for permission in pending:
            task = asyncio.create_task(self._decide(permission))
            self._permission_tasks.add(task)
            task.add_done_callback(self._permission_tasks.discard)

    async def _decide(self, permission: Permission) -> None:
        """Sends the user's decision; without anybody to ask, or if cancelled, a refusal."""
        allow, heartbeats = False, asyncio.create_task(self._send_heartbeats())
        try:
            allow = self.permit is not None and await self.permit(permission)
        finally:
            heartbeats.cancel()
            await self.write_lines(self.protocol.answer_permission(permission, allow))

    async def _send_heartbeats(self) -> None:
        """Sends keep-alive lines, so that the time of the user's decision does not count as silence."""
        while self.inbox is not None:
            self.inbox.put_nowait(_Line(b" ", time.perf_counter(), 0, -1))
            await asyncio.sleep(_HEARTBEAT)

    async def cancel_permissions(self) -> None:
        """Cancels all questions to the user, which refuses the permissions."""
        tasks = list(self._permission_tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

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
        """The decoder of this turn."""
        return self._process.protocol.decoder()

    def finish(self, answer: Callable[[], str]) -> None:
        """Stores the session under its history with the answer, so that the next turn finds it."""
        if self._process.protocol.session:
            self._process.sessions[self._call.turn.history_after(answer())] = self._process.protocol.session
        while len(self._process.sessions) > _MAX_SESSIONS:
            del self._process.sessions[next(iter(self._process.sessions))]

    async def frames(self) -> AsyncGenerator[list[Frame], None]:
        """The lines of the turn; if the process ends during the turn, its exit. Raises ProtocolError for a
        line that is too long."""
        last = -1
        while (line := await self._inbox.get()).text:
            if line.read not in (last, -1):
                record_read(self._trace, line.at, line.size)
                last = line.read
            yield [build_frame(self._trace, line.text, line.at)]
        if self._process.error is not None:
            raise self._process.error
        report = await self._process.command.exit_report()
        self._trace.marks["exit"] = self._trace.marks["end"] = time.perf_counter()
        yield [Frame(report, "exit", self._trace.marks["exit"])]


class AgentTransport(Transport):
    """The pool of agent processes. Used on one event loop."""

    def __init__(self, processes: ProcessTransport) -> None:
        self._processes, self._agents = processes, list[_AgentProcess]()

    @asynccontextmanager
    async def open(
        self, call: AgentCall, trace: Trace, connect: float | None = None
    ) -> AsyncIterator[AgentReply]:
        """Starts a turn and yields its reply; leaving early interrupts the turn, but keeps the process.

        Raises ConfigError if the command is not installed or cannot be started.
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
            process.idle.clear()
            inbox: asyncio.Queue[_Line] = asyncio.Queue()
            process.inbox, process.permit = inbox, call.permit
            await process.write_lines(process.protocol.start_turn(call.turn, session))
            marks["sent"], trace.bytes_out = time.perf_counter(), len(call.turn.prompt)
            yield AgentReply(process, call, trace, inbox)
        finally:
            trace.stderr = process.command.stderr
            await asyncio.shield(self._release(process, persistent=not call.fresh))

    def _find(self, call: AgentCall) -> tuple[_AgentProcess | None, str]:
        """(an idle process with the turn's history, its session), else (an idle process that can begin a new
        session, ""), else (None, "")."""
        idle = [
            p for p in self._agents if not p.in_use and not p.has_ended and p.process_call == call.process
        ]
        for process in idle:
            if call.turn.history in process.sessions:
                return process, process.sessions.pop(call.turn.history)
        return next(
            (p for p in idle if p.protocol.multi_session and p.setup == call.turn.history[:2]), None
        ), ""

    async def _release(self, process: _AgentProcess, *, persistent: bool) -> None:
        await process.cancel_permissions()
        process.permit = None
        if process.protocol.busy and not process.has_ended:
            await process.write_lines(process.protocol.interrupt())
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(process.idle.wait(), _GRACE)
        process.inbox = None
        if (
            not persistent
            or process.has_ended
            or process.protocol.busy
            or not (process.protocol.multi_session or process.sessions)
        ):
            await self._close_process(process)
            return
        process.in_use, process.idle_since = False, time.monotonic()
        idle = sorted((p for p in self._agents if not p.in_use), key=lambda p: p.idle_since)
        for old in idle[:-MAX_IDLE]:
            await self._close_process(old)

    async def _close_process(self, process: _AgentProcess) -> None:
        if process in self._agents:
            self._agents.remove(process)
        await process.close()

    async def close(self) -> None:
        """Ends all processes."""
        agents, self._agents = self._agents, []
        await asyncio.gather(*(process.close() for process in agents))
