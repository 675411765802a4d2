"""Models that run on this machine from a file: a server process for each, started at its first use, reused,
and ended after ten idle minutes, with the client or with the kernel."""

from __future__ import annotations

import asyncio
import json
import re
import secrets
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec

from ..core import errors
from ..core.calls import HttpCall, LocalCall, ProcessCall, Trace, Transport
from ..core.extras import require_packages
from ..http.transport import HttpTransport, Reply
from .base import as_text
from .json_lines import parse_object
from .model_files import check_model_file
from .process import Command, ProcessTransport

_LOAD_TIMEOUT = 600.0  # seconds for a model to load
_IDLE_TIME = 600.0  # seconds without a request after which a server is ended
CONTEXT = 8_192  # default context of a model in tokens
_PROGRAM = Path(__file__).with_name("local_program.py")
_PASSES = ("CUDA_VISIBLE_DEVICES", "HIP_VISIBLE_DEVICES", "LD_LIBRARY_PATH", "OMP_NUM_THREADS", "PYTHONPATH")
_ERROR = re.compile(r"^[\d.]+ E +(?:\w+ +)?(.*)$")  # an error line in llama.cpp's log
_EXCERPT = 400  # characters of such a line in a message


def local_call(path: Path, call: Any) -> LocalCall:
    """The call for the model in a file. Raises ConfigError for a file that is not a model, an invalid n_ctx,
    and if the package is missing."""
    require_packages("A model in a file", "local", "xllamacpp")
    check_model_file(path)
    body = dict(call.body)
    context = body.pop("n_ctx", CONTEXT)
    if isinstance(context, bool) or not isinstance(context, int) or not 0 < context <= 2**24:
        raise errors.ConfigError(
            f"n_ctx={context!r} is not a number of tokens.", hint="Use a number, for example x.n_ctx=16384."
        )
    return LocalCall(replace(call, body={**body, "model": path.stem}), str(path), context)


class _Server(msgspec.Struct):
    """A running server. busy: number of requests under way; idle: the timer that ends it."""

    command: Command
    address: str
    key: str
    busy: int = 0
    idle: asyncio.TimerHandle | None = None

    def __repr__(self) -> str:
        return f"_Server({self.address})"  # without its key

    def cancel_idle_timer(self) -> None:
        """Cancels the timer that ends an idle server."""
        if self.idle is not None:
            self.idle.cancel()


class LocalTransport(Transport):
    """The servers of model files. Used on one event loop, over the connections of `http`."""

    def __init__(self, http: HttpTransport, processes: ProcessTransport, idle: float = _IDLE_TIME) -> None:
        self._http, self._processes, self._idle = http, processes, idle
        self._servers: dict[tuple[str, int], asyncio.Task[_Server]] = {}

    def prepare_call(self, call: LocalCall, *, fresh: bool) -> LocalCall:
        """The call as it is: its address is known once the model is loaded."""
        return call

    def describe_wait(self, call: LocalCall) -> str:
        """See core.calls.Transport."""
        return "" if self._running_server(call.key) else f"Loading {Path(call.file).name} on this machine."

    @asynccontextmanager
    async def open(self, call: LocalCall, trace: Trace, connect: float | None) -> AsyncIterator[Reply]:
        """Sends the call to the file's server, which is started if necessary: that time is part of the
        call's. Stop does not interrupt loading, so the next call finds the model loaded. Raises ConfigError
        with llama.cpp's message for a model that cannot be loaded."""
        began = time.perf_counter()
        server = await self._server(call)
        server.busy += 1
        server.cancel_idle_timer()
        trace.address = server.address
        headers = {**call.http.headers, "Authorization": f"Bearer {server.key}"}
        sent = HttpCall(f"{server.address}/v1/chat/completions", headers, call.http.body)
        try:
            async with self._http.open(sent, trace, connect) as reply:
                trace.marks["start"] = began
                yield reply
        finally:
            server.busy -= 1
            if not server.busy:
                loop = asyncio.get_running_loop()
                server.idle = loop.call_later(self._idle, self._end_idle, call.key)

    async def _server(self, call: LocalCall) -> _Server:
        task = self._servers.get(call.key)
        if task is None or (task.done() and self._running_server(call.key) is None):
            task = self._servers[call.key] = asyncio.create_task(self._start(call))
            task.add_done_callback(lambda t: t.cancelled() or t.exception())  # nobody may be waiting
        try:
            return await asyncio.shield(task)
        except asyncio.CancelledError:
            if not task.cancelled():
                raise
            raise errors.ConfigError(
                f"{Path(call.file).name} was unloaded while it was loading.", hint="Try again to load it."
            ) from None

    def _running_server(self, key: tuple[str, int]) -> _Server | None:
        """The running server of a model, None while it loads or if it has ended."""
        task = self._servers.get(key)
        if task is None or not task.done() or task.cancelled() or task.exception() is not None:
            return None
        return task.result() if task.result().command.process.returncode is None else None

    def _end_idle(self, key: tuple[str, int]) -> None:
        """Ends a server if it is idle."""
        if (server := self._running_server(key)) is not None and not server.busy:
            self._ending = asyncio.create_task(self._close_servers([key]))

    async def unload(self, file: str | None = None) -> list[str]:
        """Ends the servers of a file, or all servers, including those that are loading; returns the files'
        names. Raises ConfigError if one has requests under way."""
        keys = [key for key in self._servers if file in (None, key[0])]
        if any(server is not None and server.busy for server in map(self._running_server, keys)):
            raise errors.ConfigError(
                "The model is answering.", hint="Wait for the answer, or stop it with %llm stop."
            )
        await self._close_servers(keys)
        return [Path(name).name for name, _ in keys]

    async def _close_servers(self, keys: list[tuple[str, int]]) -> None:
        ending = [server for key in keys if (server := self._running_server(key)) is not None]
        tasks = [self._servers.pop(key) for key in keys]
        for task in tasks:
            task.cancel()
        for server in ending:
            server.cancel_idle_timer()
        await asyncio.gather(*tasks, *(s.command.close() for s in ending), return_exceptions=True)

    async def _start(self, call: LocalCall) -> _Server:
        key = secrets.token_urlsafe(24)
        command = await self._processes.start(
            ProcessCall((sys.executable, "-P", str(_PROGRAM)), passthrough_env=_PASSES)
        )
        settings = {"path": call.file, "name": Path(call.file).stem, "key": key, "context": call.context}
        problem = f"in {_LOAD_TIMEOUT:g} s"
        try:
            await command.write(json.dumps(settings) + "\n")
            with suppress(TimeoutError):
                async with asyncio.timeout(_LOAD_TIMEOUT):
                    address = await _read_address(command)
                    problem = "" if address else _exit_reason(await command.wait_for_exit(), command.stderr)
        except BaseException:
            await command.stop()
            raise
        if problem:
            await command.stop()
            raise errors.ConfigError(
                f"{Path(call.file).name} could not be loaded {problem}.",
                hint="Check the file, use a smaller one, or a smaller context: x.n_ctx=2048.",
            )
        return _Server(command, address, key)

    async def close(self) -> None:
        """Ends all servers."""
        await self._close_servers(list(self._servers))


def _exit_reason(code: int | None, stderr: str) -> str:
    """Why a program ended, in parentheses: llama.cpp's error message if there is one, else the exit code."""
    message = next((m[1].strip(": ") for m in map(_ERROR.search, stderr.splitlines()) if m), "")
    status = f"signal {-code} ended it" if code and code < 0 else f"exit {code}"
    return f"({message[:_EXCERPT] or status})"


async def _read_address(command: Command) -> str:
    """The address that the program reports, "" if it ended before. Other lines, from llama.cpp, are
    skipped."""
    async for lines, _, _ in command.lines():
        for line in lines:
            address = as_text(parse_object(line).get("address"))
            if address.startswith("http://127.0.0.1:"):
                return address
    return ""
