"""Making a request cold on purpose: a fresh process, a fresh client, a fresh connection, an unloaded model.

A fresh process is this file run as a module: it is given one request on standard input, sends it, and prints
the rows that it measured. Its clock is the parent's (CLOCK_MONOTONIC and its kin are the machine's), so the
parent's moment of spawning and the child's arrivals are subtracted from each other directly.
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

_TIMEOUT = 600.0  # seconds for a fresh process, its request included

Row = dict[str, Any]


@asynccontextmanager
async def client_for(
    start_kind: str, client: Client, contestant: Contestant, extra: Row, epoch: float
) -> AsyncIterator[Client]:
    """The client for a request of this kind: a new one for cold_client, whose making then belongs to the
    request."""
    if start_kind != "cold_client":
        yield client
        return
    from ..client.client import Client as Fresh

    start = time.perf_counter()
    fresh = Fresh(client.registry, ledger=None, paced=False)
    await fresh.http.prepare(contestant.route.provider.base_url)
    made = time.perf_counter()
    extra.update(
        ns_call=round((start - epoch) * 1e9),
        ns_client=round((made - epoch) * 1e9),
        client_ms=(made - start) * 1e3,
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
    """Sends one request from a fresh interpreter; gives its rows and chunks. Raises NbllmError where the
    child dies, or does not end."""
    from ..core import errors
    from . import children, prompts
    from .run_spec import public_part, secret_part

    given = {
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
    given["extra"] = {**extra, "ns_spawn": round((spawned - epoch) * 1e9)}
    try:
        async with asyncio.timeout(_TIMEOUT):
            out, err = await _communicate(child, json.dumps(given).encode() + b"\n")
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
        said = err.decode("utf-8", "replace").strip().rpartition("\n")[2]
        raise errors.NbllmError(
            f"The fresh process failed: {said[:300] or 'it said nothing'}",
            hint="Check that Python starts here: python -m nbllm.simulator --help.",
        )
    found = json.loads(out)
    return tuple(found["rows"]), tuple(found["chunks"])


async def _communicate(child: asyncio.subprocess.Process, line: bytes) -> tuple[bytes, bytes]:
    """All that a child says to a line. Its standard input stays open meanwhile: at its end it ends too."""
    assert child.stdin is not None
    assert child.stdout is not None
    assert child.stderr is not None
    with contextlib.suppress(
        BrokenPipeError, ConnectionResetError
    ):  # it has ended already, and says why itself
        child.stdin.write(line)
        await child.stdin.drain()
    out, err, _ = await asyncio.gather(child.stdout.read(), child.stderr.read(), child.wait())
    return out, err


def _child_main() -> None:
    """The fresh process."""
    from ..client import client as clients
    from ..core import errors
    from ..store import chunks as pieces
    from ..store import measure
    from . import children, prompts
    from .run_spec import to_contestant

    imported = time.perf_counter()
    given = json.loads(sys.stdin.buffer.readline())
    children.end_with_parent()
    epoch, extra = given["epoch"], given["extra"]
    contestant = to_contestant(given["contestant"], given["secret"])
    (prompt,) = prompts.load(given["prompt"])
    start = time.perf_counter()
    client = clients.Client(ledger=None, paced=False)
    if not contestant.route.provider.command:
        client.run(client.http.prepare(contestant.route.provider.base_url))
    made = time.perf_counter()
    extra.update(
        ns_import=round((imported - epoch) * 1e9),
        ns_client=round((made - epoch) * 1e9),
        client_ms=(made - start) * 1e3,
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
            timeouts=contestant.limits,
            retries=contestant.patience,
            keep=contestant.keep,
        )
        stream.wait_end(_TIMEOUT)
        rows = measure.rows(
            stream,
            measure.CallContext(
                request, contestant.route.provider, contestant.route.asked, contestant.route.simulated, epoch
            ),
            extra,
        )
        chunks = list(
            pieces.rows(stream, epoch, {"request_id": rows[-1]["request_id"], "attempt": rows[-1]["attempt"]})
        )
    except errors.NbllmError as error:
        rows = [
            measure.failed(
                error.scrubbed(contestant.secrets), contestant.route.provider, contestant.route.asked, extra
            )
        ]
    print(json.dumps({"rows": rows, "chunks": chunks}))  # noqa: T201 - its answer


if __name__ == "__main__":
    _child_main()
