"""What a warm request costs where many servers were asked before, beside one where a single one was.

    python benchmarks/origins.py [servers]       1,000 servers by default, some 20 seconds

Real requests to local servers, each with a port of its own. Both connection pools take turns in one process;
the best of the rounds counts. 1.0 is what it should be: a pool that looked through all it keeps would show
here.
"""

from __future__ import annotations

import asyncio
import subprocess
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from nbllm.core.calls import HttpCall, Trace
from nbllm.http.pool import ConnectionPool
from nbllm.http.prepared_request import PreparedRequest

ROUNDS, EACH = 15, 200
_ANSWER = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok"


async def serve(servers: int) -> None:
    """Answers every request in one way, until it is ended; prints its ports."""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while await reader.readuntil(b"\r\n\r\n"):
            writer.write(_ANSWER)

    made = [await asyncio.start_server(answer, "127.0.0.1", 0) for _ in range(servers)]
    print(*(server.sockets[0].getsockname()[1] for server in made), flush=True)
    await asyncio.Event().wait()


async def ask(pool: ConnectionPool, prepared: PreparedRequest) -> bool | None:
    """One request; whether its connection was used before."""
    trace = Trace()
    answer = await pool.send(prepared, trace, 10.0)
    async for _ in answer:
        pass
    await answer.aclose()
    return trace.reused


async def measured(ports: list[str]) -> dict[int, float]:
    """Processor time of a warm request, µs, by how many servers were asked before."""
    letters = [PreparedRequest(HttpCall(f"http://127.0.0.1:{port}/", {}, {}, method="GET")) for port in ports]
    pools = {1: ConnectionPool(), len(ports): ConnectionPool()}
    for asked, pool in pools.items():
        for prepared in letters[-asked:]:
            await ask(pool, prepared)
    best = dict.fromkeys(pools, float("inf"))
    for _ in range(ROUNDS):
        for asked, pool in pools.items():
            began = time.process_time()
            reused = [await ask(pool, letters[-1]) for _ in range(EACH)]
            best[asked] = min(best[asked], (time.process_time() - began) / EACH * 1e6)
            assert all(reused), "a connection was not kept"
    for pool in pools.values():
        await pool.aclose()
    return best


def main(servers: int) -> None:
    """Prints the two and their ratio."""
    command = [sys.executable, __file__, "serve", str(servers)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as process:
        try:
            assert process.stdout is not None
            one, many = asyncio.run(measured(process.stdout.readline().split())).values()
        finally:
            process.terminate()
    print(f"1 server {one:.0f} µs, {servers:,} servers {many:.0f} µs: {many / one:.2f} times")


if __name__ == "__main__":
    if sys.argv[1:2] == ["serve"]:
        asyncio.run(serve(int(sys.argv[2])))
    else:
        main(int(sys.argv[1]) if sys.argv[1:] else 1000)
