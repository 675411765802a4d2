"""Commands as providers: run without a shell in a process group of their own, their output as frames, stopped
within a second.

A line of standard output is a frame. After the last one comes a frame named "exit", whose data is a JSON
object: rc, stderr (its end, without colours) and files (those that the call requests). Success is decided by
the dialect's terminal event, not by the exit code.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import re
import shutil
import signal
import sys
import tempfile
import time
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from ..core import errors
from ..core.calls import Frame, ProcessCall, Read, Reply, Trace, Transport
from ..http.frames import drain_body
from .base import enabled_passthrough
from .json_lines import ANSI
from .reaper import Reaper

LINE_LIMIT = 16 * 2**20  # bytes of one line
_STDERR_LIMIT = 64 * 2**10
_CHUNK = 2**16
_GRACE = 0.35  # seconds after a signal before the next, harder one
_LAST_OUTPUT = 0.05  # seconds to read the last output of a command that has ended
# Variables of our environment that a child may see; all others must be listed in its row.
_ALLOWED_ENV = re.compile(
    r"PATH|HOME|USER|LOGNAME|SHELL|LANG|LC_\w+|TZ|XDG_\w+|SYSTEMROOT|SYSTEMDRIVE|COMSPEC|PATHEXT|APPDATA|LOCALAPPDATA|USERPROFILE|"
    r"PROGRAMDATA|(?:HTTPS?|NO|ALL)_PROXY|SSL_CERT_(?:FILE|DIR)|NODE_EXTRA_CA_CERTS",
    re.IGNORECASE,
)
# Those for a command that does not know nbllm, such as an MCP server: the same as in the MCP SDK.
_FOREIGN_ENV = re.compile(
    r"HOME|LOGNAME|PATH|SHELL|USER|APPDATA|HOMEDRIVE|HOMEPATH|LOCALAPPDATA|PATHEXT|PROCESSOR_ARCHITECTURE|"
    r"SYSTEMDRIVE|SYSTEMROOT|TEMP|USERNAME|USERPROFILE",
    re.IGNORECASE,
)


class Command:
    """A running command in a process group of its own, with a temporary folder that only this user may read.
    Created by `start`."""

    def __init__(
        self, process: asyncio.subprocess.Process, call: ProcessCall, home: Path, reaper: Reaper, path: str
    ) -> None:
        self.process, self.call, self.folder, self._reaper, self.path = process, call, home, reaper, path
        self.unfinished_line = bytearray()
        self._stderr: deque[bytes] = deque()
        self._stderr_reader = asyncio.create_task(self._drain_stderr())
        self._pipe_closer = asyncio.create_task(self._close_orphaned_pipes())

    @classmethod
    async def start(cls, call: ProcessCall, reaper: Reaper) -> Command:
        """Starts the command of `call`; its standard input stays open. `reaper` ends it if this process is
        killed. Raises ConfigError for a command that is not installed or cannot be started."""
        path, home = find_command(call.argv[0]), Path(tempfile.mkdtemp(prefix="nbllm-"))
        work = home / "work"
        reaper.watch(home)
        try:
            work.mkdir(0o700)
            for name, text in call.inputs.items():
                _write_private(work / name, text)
            process = await asyncio.create_subprocess_exec(
                path,
                *(fill_tmp(argument, call, work) for argument in call.argv[1:]),
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.PIPE,
                cwd=call.cwd or work,
                env={k: fill_tmp(v, call, work) for k, v in child_environment(call, home).items()},
                start_new_session=True,
            )
        except (OSError, ValueError) as exc:
            shutil.rmtree(home, ignore_errors=True)
            reaper.unwatch(home)
            raise errors.ConfigError(
                f"{path} cannot be started: {getattr(exc, 'strerror', None) or exc}.",
                hint="Check the command and the working directory.",
            ) from None
        reaper.watch(home, process.pid)
        return cls(process, call, home, reaper, path)

    @property
    def name(self) -> str:
        """The name of the command."""
        return Path(self.call.argv[0]).name

    @property
    def work(self) -> str:
        """Its working folder."""
        return self.call.cwd or str(self.folder / "work")

    async def write(self, text: str) -> None:
        """Writes to its standard input; does nothing if that is closed."""
        assert self.process.stdin is not None
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            self.process.stdin.write(text.encode("utf-8", "replace"))
            await self.process.stdin.drain()

    def close_stdin(self) -> None:
        """Closes its standard input, for whose end several CLIs wait."""
        assert self.process.stdin is not None
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            self.process.stdin.close()

    async def lines(self) -> AsyncGenerator[tuple[list[bytes], float, int], None]:
        """For each read of standard output: (the lines it completed, its time, its size in bytes). Text after
        the last line break stays in `unfinished_line`. Raises ProtocolError for a line over LINE_LIMIT."""
        assert self.process.stdout is not None
        while chunk := await self.process.stdout.read(_CHUNK):
            at = time.perf_counter()
            first, *others = chunk.split(b"\n")
            self.unfinished_line += first
            complete = [bytes(self.unfinished_line), *others[:-1]] if others else []
            self.unfinished_line = bytearray(others[-1]) if others else self.unfinished_line
            yield complete, at, len(chunk)
            if len(self.unfinished_line) > LINE_LIMIT:
                raise errors.ProtocolError(
                    f"One line of {self.name}'s output is larger than {LINE_LIMIT >> 20} MiB.",
                    hint="Ask for a shorter answer.",
                )

    async def exit_report(self) -> str:
        """Waits for its end; returns JSON with the exit code, the end of standard error, and the files that
        the call requests."""
        await self._stderr_reader
        return json.dumps({"rc": await self.process.wait(), "stderr": self.stderr, "files": self._files()})

    def _files(self) -> dict[str, str]:
        found = {}
        for name in self.call.files:
            with contextlib.suppress(OSError):
                found[name] = (self.folder / "work" / name).read_text("utf-8", "replace")
        return found

    @property
    def stderr(self) -> str:
        """The end of standard error, without colours."""
        return ANSI.sub("", b"".join(self._stderr).decode("utf-8", "replace"))

    async def _drain_stderr(self) -> None:
        assert self.process.stderr is not None
        size = 0
        while chunk := await self.process.stderr.read(_CHUNK):
            self._stderr.append(chunk)
            size += len(chunk)
            while size - len(self._stderr[0]) > _STDERR_LIMIT:
                size -= len(self._stderr.popleft())

    async def _close_orphaned_pipes(self) -> None:
        """Closes the pipes of a command that has ended, if a process that it started (such as an updater)
        holds them open: otherwise its answer would end only with that process."""
        pipes = self.process._transport  # type: ignore[attr-defined]
        outputs = [pipe for fd in (1, 2) if (pipe := pipes.get_pipe_transport(fd)) is not None]
        # asyncio reports the end of a process only after its pipes were closed
        while self.process.returncode is None or not all(p.is_reading() or p.is_closing() for p in outputs):  # noqa: ASYNC110
            await asyncio.sleep(_GRACE)
        await asyncio.sleep(_GRACE)  # for its last output
        for pipe in outputs:
            pipe.close()

    async def stop(self, signals: tuple[int, ...] = (signal.SIGINT, signal.SIGTERM)) -> None:
        """Ends the process group with SIGINT, SIGTERM and SIGKILL, a third of a second apart, and deletes its
        folder."""
        for number in signals:
            if self.process.returncode is not None:
                break
            _signal(self.process, number)
            await self.wait_for_exit()
        # the child may have left others of its group behind
        _signal(self.process, getattr(signal, "SIGKILL", signal.SIGTERM))
        await self.wait_for_exit()
        self._stderr_reader.cancel()
        self._pipe_closer.cancel()
        # A pipe that was not read to its end would cause a traceback when the loop is closed.
        self.process._transport.close()  # type: ignore[attr-defined]
        shutil.rmtree(self.folder, ignore_errors=True)
        self._reaper.unwatch(self.folder)

    async def close(self) -> None:
        """Closes standard input, at which most commands end by themselves; then as `stop`."""
        self.close_stdin()
        await self.wait_for_exit()
        await self.stop()

    async def wait_for_exit(self) -> int | None:
        """Its exit code, waiting at most a third of a second; None if it still runs."""
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self.process.wait(), _GRACE)
        if self.process.returncode is not None and not self._stderr_reader.done():
            # a child of it may hold standard error open
            await asyncio.wait([self._stderr_reader], timeout=_LAST_OUTPUT)
        return self.process.returncode


class CommandReply(Reply):
    """Base class for the output of commands, which has no headers and no error page."""

    status = 200
    headers: dict[str, str] = {}  # noqa: RUF012 - never written

    async def body(self, limit: int = 0) -> bytes:
        """Always empty."""
        return b""


class ProcessReply(CommandReply):
    """The output of a command that runs once."""

    def __init__(self, command: Command, trace: Trace) -> None:
        self._command, self._trace = command, trace

    async def drain(self, frames: AsyncIterator[list[Frame]]) -> None:
        """See core.calls.Reply."""
        await drain_body(frames)

    async def frames(self) -> AsyncGenerator[list[Frame], None]:
        """The lines of standard output, then the exit. Raises ProtocolError for a line over LINE_LIMIT."""
        marks = self._trace.marks
        async for lines, at, size in self._command.lines():
            record_read(self._trace, at, size)
            if lines:
                yield [build_frame(self._trace, line, at) for line in lines]
        if self._command.unfinished_line.strip():
            yield [
                build_frame(self._trace, bytes(self._command.unfinished_line), time.perf_counter(), tail=True)
            ]
        report = await self._command.exit_report()
        marks["exit"] = marks["end"] = time.perf_counter()
        yield [Frame(report, "exit", marks["exit"])]


def record_read(trace: Trace, at: float, size: int) -> None:
    """Records a read from a pipe in the trace."""
    marks = trace.marks
    marks.setdefault("stdout", at)
    marks.setdefault("first_byte", at)
    trace.bytes_in += size
    trace.reads.append(
        Read(
            at, trace.reads[-1].user if trace.reads else marks.get("spawned", marks["sent"]), at, size, "pipe"
        )
    )


def build_frame(trace: Trace, line: bytes, at: float, *, tail: bool = False) -> Frame:
    """The frame for a line that the trace's last read completed."""
    if line.strip():
        trace.marks.setdefault("init", at)
    return Frame(line.decode("utf-8", "replace").rstrip("\r"), "", at, tail, len(trace.reads) - 1)


def _write_private(path: Path, text: str) -> None:
    """Writes a file that only this user may read: it contains a prompt, or the permissions of a command."""
    with open(
        os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600),
        "w",
        encoding="utf-8",
        errors="replace",
        newline="",
    ) as file:
        file.write(text)


def _signal(process: asyncio.subprocess.Process, number: int) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        if sys.platform != "win32":
            os.killpg(process.pid, number)
        elif process.returncode is None:
            process.terminate()


def fill_tmp(text: str, call: ProcessCall, work: Path) -> str:
    """An argument or value of `call` with {tmp} replaced; those of foreign programs are not changed."""
    return text if call.foreign else text.replace("{tmp}", str(work))


def child_environment(call: ProcessCall, folder: Path) -> dict[str, str]:
    """The child's environment: allowed variables of ours, those that its row lists, those that the call
    sets, and no colours."""
    allowed = _FOREIGN_ENV if call.foreign else _ALLOWED_ENV
    passthrough = frozenset(enabled_passthrough(call.passthrough_env, os.environ))
    inherited = {k: v for k, v in os.environ.items() if allowed.fullmatch(k) or k in passthrough}
    return {**inherited, "TERM": "dumb", "NO_COLOR": "1", "TMPDIR": str(folder), **call.env}


def find_command(command: str) -> str:
    """The absolute path of a command. Raises ConfigError if it is not installed."""
    path = shutil.which(command)
    if path is None:
        raise errors.ConfigError(
            f"The command {command!r} is not installed, or not in PATH.",
            hint=_INSTALL_HINTS.get(command, "Install it, or put its path into the row's command."),
        )
    return os.path.abspath(path)


_INSTALL_HINTS = {
    "claude": "npm install -g @anthropic-ai/claude-code, then run `claude` once to log in.",
    "codex": "npm install -g @openai/codex, then `codex login`.",
    "gemini": "npm install -g @google/gemini-cli, then run `gemini` once to log in.",
    "copilot": "npm install -g @github/copilot, then run `copilot` once to log in.",
    "opencode": "npm install -g opencode-ai, then `opencode auth login`.",
}


class ProcessTransport(Transport):
    """Runs commands. Its only state is the reaper process that ends them if this process is killed."""

    def __init__(self) -> None:
        self._reaper = Reaper()

    async def start(self, call: ProcessCall) -> Command:
        """Starts a command; its standard input stays open. Raises ConfigError for a command that is not
        installed or cannot be started."""
        return await Command.start(call, self._reaper)

    async def close(self) -> None:
        """Ends the reaper process; call it when no command runs any more."""
        self._reaper.close()

    def prepare_call(self, call: ProcessCall, *, fresh: bool) -> ProcessCall:
        """The call as it is: each call starts a command of its own."""
        return call

    @asynccontextmanager
    async def open(
        self, call: ProcessCall, trace: Trace, connect: float | None = None
    ) -> AsyncIterator[ProcessReply]:
        """Starts the command and yields its output; leaving ends it and whatever it started.

        Raises ConfigError for a command that is not installed or cannot be started.
        """
        trace.marks["start"], trace.http_version, trace.reused = time.perf_counter(), None, None
        command = await self.start(call)
        trace.address, trace.marks["spawned"] = command.path, time.perf_counter()
        try:
            await command.write(call.stdin)
            command.close_stdin()
            trace.marks["sent"], trace.bytes_out = time.perf_counter(), len(call.stdin)
            yield ProcessReply(command, trace)
        finally:
            trace.stderr = command.stderr
            await asyncio.shield(command.stop())
            trace.stderr = command.stderr
