"""A command as a provider: run without a shell in a process group of its own, its output as frames, stopped
within a second.

A line of standard output is a frame. After the last one comes a frame named "exit", whose data is a JSON
object: rc, stderr (its end, without colours) and files (what the call wanted read). The exit code is no
verdict: the dialect's terminal event is.
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
_GRACE = 0.35  # seconds that a signal is given before the next, harder one
_LAST_OUTPUT = 0.05  # seconds for what a command that has ended wrote last
# What a child may see of our environment; all else must be named by its row.
_ALLOWED_ENV = re.compile(
    r"PATH|HOME|USER|LOGNAME|SHELL|LANG|LC_\w+|TZ|XDG_\w+|SYSTEMROOT|SYSTEMDRIVE|COMSPEC|PATHEXT|APPDATA|LOCALAPPDATA|USERPROFILE|"
    r"PROGRAMDATA|(?:HTTPS?|NO|ALL)_PROXY|SSL_CERT_(?:FILE|DIR)|NODE_EXTRA_CA_CERTS",
    re.IGNORECASE,
)
# And a command that knows nothing of us, such as an MCP server: what the MCP SDK gives.
_FOREIGN_ENV = re.compile(
    r"HOME|LOGNAME|PATH|SHELL|USER|APPDATA|HOMEDRIVE|HOMEPATH|LOCALAPPDATA|PATHEXT|PROCESSOR_ARCHITECTURE|"
    r"SYSTEMDRIVE|SYSTEMROOT|TEMP|USERNAME|USERPROFILE",
    re.IGNORECASE,
)


class Command:
    """A command that runs in a process group of its own, with a folder for it in the temporary place, which
    only this user may read. `start` makes one."""

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
        """Runs the words of `call`, its standard input left open. `reaper` ends it where we are killed.
        Raises ConfigError where the command is not there or cannot be started."""
        path, home = find_command(call.argv[0]), Path(tempfile.mkdtemp(prefix="nbllm-"))
        work = home / "work"
        reaper.watch(home)
        try:
            work.mkdir(0o700)
            for name, text in call.inputs.items():
                _write_private(work / name, text)
            process = await asyncio.create_subprocess_exec(
                path,
                *(fill_tmp(word, call, work) for word in call.argv[1:]),
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
        """The command's own name."""
        return Path(self.call.argv[0]).name

    @property
    def work(self) -> str:
        """The folder it works in."""
        return self.call.cwd or str(self.folder / "work")

    async def write(self, text: str) -> None:
        """Writes to its standard input; that it reads no more is told by its end."""
        assert self.process.stdin is not None
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            self.process.stdin.write(text.encode("utf-8", "replace"))
            await self.process.stdin.drain()

    def close_stdin(self) -> None:
        """Closes its standard input: an open one keeps several CLIs waiting."""
        assert self.process.stdin is not None
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            self.process.stdin.close()

    async def lines(self) -> AsyncGenerator[tuple[list[bytes], float, int], None]:
        """For each read of standard output: the lines it completed, when, and its bytes; what stands after
        the last line end is `rest`. Raises ProtocolError for a line over LINE_LIMIT."""
        assert self.process.stdout is not None
        while chunk := await self.process.stdout.read(_CHUNK):
            at = time.perf_counter()
            first, *others = chunk.split(b"\n")
            self.unfinished_line += first
            done = [bytes(self.unfinished_line), *others[:-1]] if others else []
            self.unfinished_line = bytearray(others[-1]) if others else self.unfinished_line
            yield done, at, len(chunk)
            if len(self.unfinished_line) > LINE_LIMIT:
                raise errors.ProtocolError(
                    f"One line of {self.name}'s output is larger than {LINE_LIMIT >> 20} MiB.",
                    hint="Ask for less.",
                )

    async def exit_report(self) -> str:
        """Waits for its end and tells it: the exit code, the end of standard error, the files that the call
        wanted read, as JSON."""
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
        """Closes the pipes of a command that has ended, where something that it left behind, such as an
        updater, holds them open: its answer would not end before that does."""
        pipes = self.process._transport  # type: ignore[attr-defined]
        outputs = [pipe for fd in (1, 2) if (pipe := pipes.get_pipe_transport(fd)) is not None]
        # no event tells of an end while pipes are open
        while self.process.returncode is None or not all(p.is_reading() or p.is_closing() for p in outputs):  # noqa: ASYNC110
            await asyncio.sleep(_GRACE)
        await asyncio.sleep(_GRACE)  # for what it wrote last
        for pipe in outputs:
            pipe.close()

    async def stop(self, signs: tuple[int, ...] = (signal.SIGINT, signal.SIGTERM)) -> None:
        """Ends the whole group: an interrupt, a request to end, a kill, a third of a second apart. Leaves
        nothing behind."""
        for sign in signs:
            if self.process.returncode is not None:
                break
            _signal(self.process, sign)
            await self.wait_for_exit()
        _signal(
            self.process, getattr(signal, "SIGKILL", signal.SIGTERM)
        )  # the group: the child may have left others behind
        await self.wait_for_exit()
        self._stderr_reader.cancel()
        self._pipe_closer.cancel()
        # What was not read to its end stays open with the loop, and is told of in a traceback at its end.
        self.process._transport.close()  # type: ignore[attr-defined]
        shutil.rmtree(self.folder, ignore_errors=True)
        self._reaper.unwatch(self.folder)

    async def close(self) -> None:
        """As stop, but first lets it end by itself, as one does whose input has ended."""
        self.close_stdin()
        await self.wait_for_exit()
        await self.stop()

    async def wait_for_exit(self) -> int | None:
        """Its exit code, for which it gets a third of a second; None where it runs on."""
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self.process.wait(), _GRACE)
        if self.process.returncode is not None and not self._stderr_reader.done():
            await asyncio.wait(
                [self._stderr_reader], timeout=_LAST_OUTPUT
            )  # its last words; a child of it may hold them open
        return self.process.returncode


class CommandReply(Reply):
    """What all output of commands has in common: it has no head and no error page."""

    status = 200
    headers: dict[str, str] = {}  # noqa: RUF012 - never written

    async def body(self, limit: int = 0) -> bytes:
        """Nothing."""
        return b""


class ProcessReply(CommandReply):
    """The output of a command that runs once."""

    def __init__(self, command: Command, trace: Trace) -> None:
        self._command, self._trace = command, trace

    async def drain(self, frames: AsyncIterator[list[Frame]]) -> None:
        """See core.calls.Reply."""
        await drain_body(frames)

    async def frames(self) -> AsyncGenerator[list[Frame], None]:
        """The lines of standard output, and the exit. Raises ProtocolError for a line over LINE_LIMIT."""
        marks = self._trace.marks
        async for lines, at, size in self._command.lines():
            record_read(self._trace, at, size)
            if lines:
                yield [build_frame(self._trace, line, at) for line in lines]
        if self._command.unfinished_line.strip():
            yield [
                build_frame(self._trace, bytes(self._command.unfinished_line), time.perf_counter(), tail=True)
            ]
        told = await self._command.exit_report()
        marks["exit"] = marks["end"] = time.perf_counter()
        yield [Frame(told, "exit", marks["exit"])]


def record_read(trace: Trace, at: float, size: int) -> None:
    """Writes a read of a pipe into the trace."""
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
    """The frame of a line that the trace's last read completed."""
    if line.strip():
        trace.marks.setdefault("init", at)
    return Frame(line.decode("utf-8", "replace").rstrip("\r"), "", at, tail, len(trace.reads) - 1)


def _write_private(path: Path, text: str) -> None:
    """A file that only this user may read: it holds a prompt, or what a command may do."""
    with open(
        os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600),
        "w",
        encoding="utf-8",
        errors="replace",
        newline="",
    ) as file:
        file.write(text)


def _signal(process: asyncio.subprocess.Process, sign: int) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        if sys.platform != "win32":
            os.killpg(process.pid, sign)
        elif process.returncode is None:
            process.terminate()


def fill_tmp(text: str, call: ProcessCall, work: Path) -> str:
    """A word or value of `call`, with {tmp} filled; what a person wrote stands as it is."""
    return text if call.foreign else text.replace("{tmp}", str(work))


def child_environment(call: ProcessCall, place: Path) -> dict[str, str]:
    """What the child sees: the allow-list of ours, the variables its row names, what the call sets, no
    colours."""
    allowed = _FOREIGN_ENV if call.foreign else _ALLOWED_ENV
    passes = frozenset(enabled_passthrough(call.passthrough_env, os.environ))
    kept = {k: v for k, v in os.environ.items() if allowed.fullmatch(k) or k in passes}
    return {**kept, "TERM": "dumb", "NO_COLOR": "1", "TMPDIR": str(place), **call.env}


def find_command(command: str) -> str:
    """The absolute path of a command. Raises ConfigError where it is not installed."""
    path = shutil.which(command)
    if path is None:
        raise errors.ConfigError(
            f"The command {command!r} is not installed, or not in PATH.",
            hint=_INSTALL_HINTS.get(command, "Install it, or give its path in the row's command."),
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
    """Runs commands. Keeps nothing between calls but the process that ends them where this one is killed."""

    def __init__(self) -> None:
        self._reaper = Reaper()

    async def start(self, call: ProcessCall) -> Command:
        """A command that runs, its standard input left open. Raises ConfigError where it is not there or
        cannot be started."""
        return await Command.start(call, self._reaper)

    async def close(self) -> None:
        """Lets go of that process; call it when no command runs any more."""
        self._reaper.close()

    def prepare_call(self, call: ProcessCall, *, fresh: bool) -> ProcessCall:
        """The call: each has a command of its own."""
        return call

    @asynccontextmanager
    async def open(
        self, call: ProcessCall, trace: Trace, connect: float | None = None
    ) -> AsyncIterator[ProcessReply]:
        """Starts the command and gives its output; leaving ends it, and whatever it started.

        Raises ConfigError where the command is not there or cannot be started.
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
