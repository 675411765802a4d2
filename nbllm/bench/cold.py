"""Making a request cold on purpose: a fresh process, a fresh client, a fresh connection, an unloaded model.

A fresh process is this file run as a module: it is given one request on standard input, sends it, and prints the rows that
it measured. Its clock is the parent's (CLOCK_MONOTONIC and its kin are the machine's), so the parent's moment of spawning
and the child's arrivals are subtracted from each other directly.
"""

from __future__ import annotations

import time  # the first import of a fresh process: what follows is measured

_BEGAN = time.perf_counter()

import asyncio  # noqa: E402
import contextlib  # noqa: E402
import json  # noqa: E402
import sys  # noqa: E402
from collections.abc import AsyncIterator, Mapping  # noqa: E402
from contextlib import asynccontextmanager  # noqa: E402
from typing import TYPE_CHECKING, Any  # noqa: E402

if TYPE_CHECKING:
    from ..client import Client
    from ..messages import Message
    from .job import Arm

_PATIENCE = 600.0  # seconds for a fresh process, its request included
_UNLOAD = 30.0  # seconds for a server to let a model go

Row = dict[str, Any]


@asynccontextmanager
async def client_for(start_kind: str, client: Client, arm: Arm, extra: Row, epoch: float) -> AsyncIterator[Client]:
    """The client for a request of this kind: a new one for cold_client, whose making then belongs to the request."""
    if start_kind != "cold_client":
        yield client
        return
    from ..client import Client as Fresh

    start = time.perf_counter()
    fresh = Fresh(client.registry, ledger=None)
    await fresh.http.prepare(arm.route.provider.base_url)
    made = time.perf_counter()
    extra.update(ns_call=round((start - epoch) * 1e9), ns_client=round((made - epoch) * 1e9), client_ms=(made - start) * 1e3)
    try:
        yield fresh
    finally:
        await fresh.http.close()


async def unload(client: Client, arm: Arm) -> None:
    """Makes an Ollama server let go of the model and waits until its own list says so.

    Raises NbllmError where it does not within _UNLOAD seconds. The operating system may keep the file in its page cache.
    """
    from .. import errors
    from ..wire import HttpCall, Trace

    base, model = arm.route.provider.base_url, arm.route.model
    until = time.monotonic() + _UNLOAD
    calls = (HttpCall(f"{base}/api/generate", {}, {"model": model, "keep_alive": 0}), HttpCall(f"{base}/api/ps", {}, {}, "GET"))
    async with client.http.send(calls[0], Trace(), 10.0) as reply:
        await reply.body()
    while time.monotonic() < until:
        async with client.http.send(calls[1], Trace(), 10.0) as reply:
            loaded = json.loads(await reply.body() or b"{}")
        if not any(model in (m.get("name"), m.get("model")) for m in loaded.get("models") or []):
            return
        await asyncio.sleep(0.1)
    raise errors.TransportError(f"{base} still has {model} loaded after {_UNLOAD:g} s.", hint="Check that nothing else uses the model.")


async def process(arm: Arm, messages: tuple[Message, ...], options: Mapping[str, Any], epoch: float, extra: Row) -> tuple[tuple[Row, ...], tuple[Row, ...]]:
    """Sends one request from a fresh interpreter; gives its rows and chunks. A child that dies is a failed row."""
    from . import children, prompts
    from .job import _arm, secret_of

    given = {"arm": _arm(arm), "secret": secret_of(arm),
             "prompt": prompts.dump((prompts.Prompt("cold", (messages,), options),)), "epoch": epoch, "extra": extra}
    spawned = time.perf_counter()
    child = await asyncio.create_subprocess_exec(
        *children.command("nbllm.bench.cold"), env=children.environment(), stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE)
    given["extra"] = {**extra, "ns_spawn": round((spawned - epoch) * 1e9)}
    try:
        async with asyncio.timeout(_PATIENCE):
            out, err = await _talked(child, json.dumps(given).encode() + b"\n")
    except (TimeoutError, asyncio.CancelledError) as exc:
        child.kill()
        await child.wait()
        if isinstance(exc, asyncio.CancelledError):
            raise
        return (_dead({**extra, "status": "timeout_total", "censored": True, "censor_ms": _PATIENCE * 1e3}, "the fresh process did not end"),), ()
    if child.returncode != 0:
        return (_dead({**extra, "status": "client_error"}, err.decode("utf-8", "replace").strip().rpartition("\n")[2]),), ()
    found = json.loads(out)
    return tuple(found["rows"]), tuple(found["chunks"])


async def _talked(child: asyncio.subprocess.Process, line: bytes) -> tuple[bytes, bytes]:
    """All that a child says to a line. Its standard input stays open meanwhile: at its end it ends too."""
    assert child.stdin is not None
    assert child.stdout is not None
    assert child.stderr is not None
    with contextlib.suppress(BrokenPipeError, ConnectionResetError):  # it has ended already, and says why itself
        child.stdin.write(line)
        await child.stdin.drain()
    out, err, _ = await asyncio.gather(child.stdout.read(), child.stderr.read(), child.wait())
    return out, err


def _dead(row: Row, why: str) -> Row:
    return {"attempt": 1, "ok": False, "error_type": "ChildFailed", "error_msg": why, **row}


def _child() -> None:
    """The fresh process."""
    from .. import client as clients
    from .. import measure, pieces
    from . import children, prompts
    from .job import to_arm

    imported = time.perf_counter()
    given = json.loads(sys.stdin.buffer.readline())
    children.end_with_parent()
    epoch, extra = given["epoch"], given["extra"]
    arm = to_arm(given["arm"], given["secret"])
    (prompt,) = prompts.load(given["prompt"])
    start = time.perf_counter()
    client = clients.Client(ledger=None)
    if not arm.route.provider.command:
        client.run(client.http.prepare(arm.route.provider.base_url))
    made = time.perf_counter()
    request = client.request(prompt.turns[0], arm.route.model, **{**arm.options, **prompt.options})
    stream = client.send(request, arm.route, key=arm.key, timeouts=arm.limits, retries=arm.patience, keep=arm.keep)
    stream.wait_end(_PATIENCE)
    call = measure.Call(request, arm.route.provider, arm.route.asked, arm.route.simulated, epoch)
    extra.update(ns_import=round((imported - epoch) * 1e9), ns_client=round((made - epoch) * 1e9), client_ms=(made - start) * 1e3)
    rows = measure.rows(stream, call, extra)
    key = {"request_id": rows[-1]["request_id"], "attempt": rows[-1]["attempt"]}
    print(json.dumps({"rows": rows, "chunks": list(pieces.rows(stream, epoch, key))}))  # noqa: T201 - its answer


if __name__ == "__main__":
    _child()
