"""A command as a provider: run without a shell in a process group of its own, its output as frames, stopped within a second.

A line of standard output is a frame. After the last one comes a frame named "exit", whose data is a JSON object: rc, stderr (its
end, without colours) and files (what the call wanted read). The exit code is no verdict: the dialect's terminal event is.
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

from .. import errors
from ..wire import Frame, ProcessCall, Read, Trace

LINE_LIMIT = 64 * 2**20  # bytes of one line
_STDERR_KEPT = 64 * 2**10
_CHUNK = 2**16
_GRACE = 0.35  # seconds that a signal is given before the next, harder one
_ANSI = re.compile(r"\x1b(?:\[[0-?]*[ -/]*[@-~]|\][^\x07\x1b]*(?:\x07|\x1b\\)|[@-Z\\-_])")
# What a child may see of our environment; all else must be named by its row.
_ALLOWED = re.compile(r"PATH|HOME|USER|LOGNAME|SHELL|LANG|LC_\w+|TZ|XDG_\w+|SYSTEMROOT|SYSTEMDRIVE|COMSPEC|PATHEXT|APPDATA|LOCALAPPDATA|USERPROFILE|"
                      r"PROGRAMDATA|(?:HTTPS?|NO|ALL)_PROXY|SSL_CERT_(?:FILE|DIR)|NODE_EXTRA_CA_CERTS", re.IGNORECASE)


class ProcessReply:
    """The output of a command that runs."""

    status = 200

    def __init__(self, process: asyncio.subprocess.Process, trace: Trace, call: ProcessCall, place: Path) -> None:
        self._process, self._trace, self._call, self._place = process, trace, call, place
        self.headers: dict[str, str] = {}
        self._stderr: deque[bytes] = deque()
        self._drain = asyncio.create_task(self._drain_stderr())

    async def body(self, limit: int = 0) -> bytes:
        """Nothing: a command has no error page."""
        return b""

    async def frames(self) -> AsyncGenerator[Frame, None]:
        """The lines of standard output, and the exit. Raises ProtocolError for a line over LINE_LIMIT."""
        assert self._process.stdout is not None
        marks, buffer = self._trace.marks, bytearray()
        while chunk := await self._process.stdout.read(_CHUNK):
            at = time.perf_counter()
            marks.setdefault("stdout", at)
            marks.setdefault("first_byte", at)
            self._trace.bytes_in += len(chunk)
            self._trace.reads.append(Read(at, self._trace.reads[-1].user if self._trace.reads else marks["spawned"], at, len(chunk), "pipe"))
            buffer += chunk
            *lines, rest = buffer.split(b"\n")
            buffer = bytearray(rest)
            for line in lines:
                if line.strip():
                    yield self._frame(bytes(line), at)
            if len(buffer) > LINE_LIMIT:
                raise errors.ProtocolError(f"One line of {Path(self._call.argv[0]).name}'s output is larger than {LINE_LIMIT >> 20} MiB.", hint="Ask for less.")
        if buffer.strip():
            yield self._frame(bytes(buffer), time.perf_counter(), tail=True)
        rc = await self._process.wait()
        marks["exit"] = marks["end"] = time.perf_counter()
        await self._drain
        yield Frame(json.dumps({"rc": rc, "stderr": self.stderr, "files": self._files()}), "exit", marks["exit"])

    def _frame(self, line: bytes, at: float, *, tail: bool = False) -> Frame:
        self._trace.marks.setdefault("first_frame", at)
        self._trace.marks.setdefault("init", at)
        return Frame(line.decode("utf-8", "replace").rstrip("\r"), "", at, tail, len(self._trace.reads) - 1)

    def _files(self) -> dict[str, str]:
        found = {}
        for name in self._call.files:
            with contextlib.suppress(OSError):
                found[name] = (self._place / name).read_text("utf-8", "replace")
        return found

    @property
    def stderr(self) -> str:
        """The end of standard error, without colours."""
        return _ANSI.sub("", b"".join(self._stderr).decode("utf-8", "replace"))

    async def _drain_stderr(self) -> None:
        assert self._process.stderr is not None
        size = 0
        while chunk := await self._process.stderr.read(_CHUNK):
            self._stderr.append(chunk)
            size += len(chunk)
            while size - len(self._stderr[0]) > _STDERR_KEPT:
                size -= len(self._stderr.popleft())

    async def stop(self) -> None:
        """Ends the whole group: an interrupt, a request to end, a kill, a third of a second apart. Leaves nothing running."""
        for sign in (signal.SIGINT, signal.SIGTERM):
            if self._process.returncode is not None:
                break
            _signal(self._process, sign)
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._process.wait(), _GRACE)
        _signal(self._process, getattr(signal, "SIGKILL", signal.SIGTERM))  # the group: the child may have left others behind
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._process.wait(), _GRACE)
        self._drain.cancel()


def _signal(process: asyncio.subprocess.Process, sign: int) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        if sys.platform != "win32":
            os.killpg(process.pid, sign)
        elif process.returncode is None:
            process.terminate()


def environment(call: ProcessCall, place: Path) -> dict[str, str]:
    """What the child sees: the allow-list of ours, the variables its row names, what the call sets, no colours."""
    kept = {k: v for k, v in os.environ.items() if _ALLOWED.fullmatch(k) or k in call.passes}
    return {**kept, "TERM": "dumb", "NO_COLOR": "1", "TMPDIR": str(place), **call.env}


def find(command: str) -> str:
    """The absolute path of a command. Raises ConfigError where it is not installed."""
    path = shutil.which(command)
    if path is None:
        raise errors.ConfigError(f"The command {command!r} is not installed, or not in PATH.", hint=_INSTALL.get(command, "Install it, or give its path in the row's command."))
    return os.path.abspath(path)


_INSTALL = {
    "claude": "npm install -g @anthropic-ai/claude-code, then run `claude` once to log in.",
    "codex": "npm install -g @openai/codex, then `codex login`.",
    "gemini": "npm install -g @google/gemini-cli, then run `gemini` once to log in.",
    "copilot": "npm install -g @github/copilot, then run `copilot` once to log in.",
    "opencode": "npm install -g opencode-ai, then `opencode auth login`.",
}


class ProcessTransport:
    """Runs commands. Keeps nothing between calls."""

    @asynccontextmanager
    async def send(self, call: ProcessCall, trace: Trace, _connect: float | None = None) -> AsyncIterator[ProcessReply]:
        """Starts the command and gives its output; leaving ends it, and whatever it started.

        Raises ConfigError where the command is not there or cannot be started.
        """
        trace.marks["start"], trace.http_version, trace.reused = time.perf_counter(), None, None
        path = find(call.argv[0])
        home = Path(tempfile.mkdtemp(prefix="nbllm-"))
        place = Path(call.cwd) if call.cwd else home / "work"
        try:
            (home / "work").mkdir()
            reply = await self._start(path, call, trace, home, place)
            try:
                yield reply
            finally:
                await asyncio.shield(reply.stop())
        finally:
            shutil.rmtree(home, ignore_errors=True)

    @staticmethod
    async def _start(path: str, call: ProcessCall, trace: Trace, home: Path, place: Path) -> ProcessReply:
        argv = [path, *(word.replace("{tmp}", str(home / "work")) for word in call.argv[1:])]
        for name, text in call.inputs.items():
            (home / "work" / name).parent.mkdir(parents=True, exist_ok=True)
            (home / "work" / name).write_text(text, "utf-8")
        try:
            process = await asyncio.create_subprocess_exec(
                *argv, stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
                cwd=place, env={k: v.replace("{tmp}", str(home / "work")) for k, v in environment(call, home).items()}, start_new_session=True)
        except (OSError, ValueError) as exc:
            raise errors.ConfigError(f"{path} cannot be started: {getattr(exc, 'strerror', None) or exc}.", hint="Check the command and the working directory.") from None
        trace.marks["spawned"] = time.perf_counter()
        reply = ProcessReply(process, trace, call, home / "work")
        assert process.stdin is not None
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            process.stdin.write(call.stdin.encode("utf-8", "replace"))
            await process.stdin.drain()
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            process.stdin.close()  # an open one keeps several CLIs waiting
        trace.marks["sent"], trace.bytes_out = time.perf_counter(), len(call.stdin)
        return reply
