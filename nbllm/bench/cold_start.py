"""Deliberately cold requests: a fresh process, client or connection.

For a fresh process this file is run as a module: it reads one request from standard input, sends it and
prints the rows that it measured. Parent and child use the same monotonic clock of the machine (such as
CLOCK_MONOTONIC), so the time when the parent spawned the child and the child's arrival times can be
subtracted directly.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import sys
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ..client.client import Client
    from ..core.messages import Message
    from .run_spec import Contestant

_TIMEOUT = 600.0  # seconds for a fresh process including its request

Row = dict[str, Any]


@asynccontextmanager
async def client_for(
    start_kind: str, client: Client, contestant: Contestant, extra: Row, epoch: float
) -> AsyncIterator[Client]:
    """The client for a request of this start kind. For cold_client it is a new one, and the time to construct
    it counts as part of the request."""
    if start_kind != "cold_client":
        yield client
        return
    from ..client.client import Client as Fresh

    start = time.perf_counter()
    fresh = Fresh(client.registry, ledger=None, paced=False)
    await fresh.http.prepare(contestant.route.provider.base_url)
    ready = time.perf_counter()
    extra.update(
        ns_call=round((start - epoch) * 1e9),
        ns_client=round((ready - epoch) * 1e9),
        client_ms=(ready - start) * 1e3,
    )
    try:
        yield fresh
    finally:
        await fresh.http.close()


async def run_in_fresh_process(
    contestant: Contestant,
    messages: tuple[Message, ...],
    options: Mapping[str, Any],
    epoch: float,
    extra: Row,
) -> tuple[tuple[Row, ...], tuple[Row, ...]]:
    """Sends one request from a fresh interpreter; returns its rows and chunks. Raises NbllmError if the child
    fails or does not end in time."""
    from ..core import errors
    from . import children, prompts
    from .run_spec import public_part, secret_part

    job = {
        "contestant": public_part(contestant),
        "secret": secret_part(contestant),
        "prompt": prompts.dump((prompts.Prompt("cold", (messages,), options),)),
        "epoch": epoch,
        "extra": extra,
    }
    spawned = time.perf_counter()
    child = await asyncio.create_subprocess_exec(
        *children.command("nbllm.bench.cold_start"),
        env=children.environment(),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    job["extra"] = {**extra, "ns_spawn": round((spawned - epoch) * 1e9)}
    try:
        async with asyncio.timeout(_TIMEOUT):
            out, err = await _communicate(child, json.dumps(job).encode() + b"\n")
    except TimeoutError:
        raise errors.Timeout(
            "The fresh process did not end.",
            which="total",
            seconds=_TIMEOUT,
            hint="Set timeout.total below that.",
        ) from None
    finally:
        if child.returncode is None:
            child.kill()
            await child.wait()
    if child.returncode != 0:
        message = err.decode("utf-8", "replace").strip().rpartition("\n")[2]
        raise errors.NbllmError(
            f"The fresh process failed: {message[:300] or 'no error output'}",
            hint="Check that Python starts here: python -m nbllm.simulator --help.",
        )
    measured = json.loads(out)
    return tuple(measured["rows"]), tuple(measured["chunks"])


async def _communicate(child: asyncio.subprocess.Process, line: bytes) -> tuple[bytes, bytes]:
    """Writes a line to the child and returns all its output. Standard input stays open meanwhile, since the
    child ends when it is closed."""
    assert child.stdin is not None
    assert child.stdout is not None
    assert child.stderr is not None
    with contextlib.suppress(
        BrokenPipeError, ConnectionResetError
    ):  # it has ended already; its standard error says why
        child.stdin.write(line)
        await child.stdin.drain()
    out, err, _ = await asyncio.gather(child.stdout.read(), child.stderr.read(), child.wait())
    return out, err


def _child_main() -> None:
    """Runs in the fresh process."""
    from ..client import client as clients
    from ..core import errors
    from ..store import measure
    from ..store.chunks import chunk_rows
    from . import children, prompts
    from .run_spec import to_contestant

    imported = time.perf_counter()
    job = json.loads(sys.stdin.buffer.readline())
    children.end_with_parent()
    epoch, extra = job["epoch"], job["extra"]
    contestant = to_contestant(job["contestant"], job["secret"])
    (prompt,) = prompts.load(job["prompt"])
    start = time.perf_counter()
    client = clients.Client(ledger=None, paced=False)
    if not contestant.route.provider.command:
        client.run(client.http.prepare(contestant.route.provider.base_url))
    ready = time.perf_counter()
    extra.update(
        ns_import=round((imported - epoch) * 1e9),
        ns_client=round((ready - epoch) * 1e9),
        client_ms=(ready - start) * 1e3,
    )
    rows, chunks = [], []
    try:
        request = client.request(
            prompt.turns[0], contestant.route.model, **{**contestant.options, **prompt.options}
        )
        stream = client.send(
            request,
            contestant.route,
            key=contestant.key,
            timeouts=contestant.timeouts,
            retries=contestant.retry_policy,
            keep=contestant.keep,
        )
        stream.wait_end(_TIMEOUT)
        rows = measure.attempt_rows(
            stream,
            measure.CallContext(
                request, contestant.route.provider, contestant.route.name, contestant.route.simulated, epoch
            ),
            extra,
        )
        chunks = list(
            chunk_rows(stream, epoch, {"request_id": rows[-1]["request_id"], "attempt": rows[-1]["attempt"]})
        )
    except errors.NbllmError as error:
        rows = [
            measure.failure_row(
                error.scrub_secrets(contestant.secrets),
                contestant.route.provider,
                contestant.route.name,
                extra,
            )
        ]
    print(json.dumps({"rows": rows, "chunks": chunks}))  # noqa: T201 - its answer


if __name__ == "__main__":
    _child_main()
