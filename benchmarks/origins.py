"""The cost of a warm request after requests to many servers, compared with requests to one server only.

    python benchmarks/origins.py [servers]       1,000 servers by default, some 20 seconds

Real requests to local servers, each on its own port. Two connection pools take turns in one process; the best
round counts. The ratio should be 1.0: a pool that searched through all its connections would show here.
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
    """Servers that give every request the same answer, until the process is ended; prints their ports."""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while await reader.readuntil(b"\r\n\r\n"):
            writer.write(_ANSWER)

    started = [await asyncio.start_server(answer, "127.0.0.1", 0) for _ in range(servers)]
    print(*(server.sockets[0].getsockname()[1] for server in started), flush=True)
    await asyncio.Event().wait()


async def send_request(pool: ConnectionPool, prepared: PreparedRequest) -> bool | None:
    """Sends one request; returns whether its connection was used before."""
    trace = Trace()
    answer = await pool.send(prepared, trace, 10.0)
    async for _ in answer:
        pass
    await answer.aclose()
    return trace.reused


async def measure(ports: list[str]) -> dict[int, float]:
    """CPU time of a warm request in µs, by the number of servers contacted before."""
    requests = [
        PreparedRequest(HttpCall(f"http://127.0.0.1:{port}/", {}, {}, method="GET")) for port in ports
    ]
    pools = {1: ConnectionPool(), len(ports): ConnectionPool()}
    for n_servers, pool in pools.items():
        for prepared in requests[-n_servers:]:
            await send_request(pool, prepared)
    best = dict.fromkeys(pools, float("inf"))
    for _ in range(ROUNDS):
        for n_servers, pool in pools.items():
            start = time.process_time()
            reused = [await send_request(pool, requests[-1]) for _ in range(EACH)]
            best[n_servers] = min(best[n_servers], (time.process_time() - start) / EACH * 1e6)
            assert all(reused), "a connection was not kept"
    for pool in pools.values():
        await pool.aclose()
    return best


def main(servers: int) -> None:
    """Prints both times and their ratio."""
    command = [sys.executable, __file__, "serve", str(servers)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as process:
        try:
            assert process.stdout is not None
            one, many = asyncio.run(measure(process.stdout.readline().split())).values()
        finally:
            process.terminate()
    print(f"1 server {one:.0f} µs, {servers:,} servers {many:.0f} µs: {many / one:.2f} times")


if __name__ == "__main__":
    if sys.argv[1:2] == ["serve"]:
        asyncio.run(serve(int(sys.argv[2])))
    else:
        main(int(sys.argv[1]) if sys.argv[1:] else 1000)
