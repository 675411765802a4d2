"""What a row of nbllm.map costs: processor time, rows a second and memory, beside httpx with a semaphore.

    python benchmarks/rows.py [ROWS]

All run against the same simulator in another process (one token, no waits), each in a process of its own, in
turn. nbllm does more in it: the template, the file of the run, the ledger, the gate, the frame. On two cores
that others used as well, 3,000 rows, 64 at a time (rows a second suffer from that, processor time hardly):

             rows/s   CPU us a row    MB more
    nbllm       473          1,112         15
    httpx       178          3,822          9

and 20,000 rows of nbllm alone: 810 rows a second, 964 us, 54 MB more.
"""

from __future__ import annotations

import asyncio
import os
import resource
import subprocess
import sys
import time
from pathlib import Path
from tempfile import TemporaryDirectory

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import httpx
import pandas as pd

import nbllm

WIDTH = 64


def _table(rows: int) -> pd.DataFrame:
    return pd.DataFrame({"text": [f"row {i}" for i in range(rows)]})


def mapped(url: str, rows: int) -> None:
    """By nbllm.map."""
    out = nbllm.map(_table(rows), "Classify {text}", model="m", base_url=url, width=WIDTH, confirm="yes")
    assert (out["llm_status"] == "ok").all()


def plain(url: str, rows: int) -> None:
    """By httpx and a semaphore, whole answers."""

    async def work() -> list[str]:
        gate = asyncio.Semaphore(WIDTH)

        async def one(text: str) -> str:
            body = {"model": "m", "messages": [{"role": "user", "content": f"Classify {text}"}]}
            async with gate:
                answer = await client.post(f"{url}/chat/completions", json=body)
                return str(answer.json()["choices"][0]["message"]["content"])

        async with httpx.AsyncClient(timeout=60, limits=httpx.Limits(max_connections=WIDTH)) as client:
            return await asyncio.gather(*(one(text) for text in _table(rows)["text"]))

    df = _table(rows)
    df["answer"] = asyncio.run(work())
    assert df["answer"].notna().all()


WAYS = {"nbllm": mapped, "httpx": plain}


def child(way: str, url: str, rows: int) -> None:
    """Prints rows a second, processor microseconds a row, and MB more than before."""
    WAYS[way](url, 200)  # imports, connections
    before, cpu, began = resource.getrusage(resource.RUSAGE_SELF), time.process_time(), time.perf_counter()
    WAYS[way](url, rows)
    seconds, used = time.perf_counter() - began, time.process_time() - cpu
    more = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before.ru_maxrss
    print(f"{way:8} {rows / seconds:10,.0f} {used / rows * 1e6:14,.0f} {more / 1024:10,.0f}", flush=True)


def main() -> None:
    """Prints the table."""
    rows = int(sys.argv[1]) if len(sys.argv) > 1 else 5_000
    print(f"{'':8} {'rows/s':>10} {'CPU us a row':>14} {'MB more':>10}   ({rows:,} rows, {WIDTH} at a time)")
    command = [sys.executable, "-m", "nbllm.simulator", "--defaults", "ttft=0,gap=0,tokens=1"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server, TemporaryDirectory() as home:
        try:
            assert server.stdout is not None
            line = server.stdout.readline()
            url = next(w for w in line.split() if w.startswith("http")).rstrip("/.")
            for way in WAYS:
                asked = [sys.executable, __file__, way, f"{url}/v1", str(rows)]
                subprocess.run(asked, check=True, env={**os.environ, "NBLLM_HOME": home})
        finally:
            server.terminate()


if __name__ == "__main__":
    if sys.argv[1:2] and sys.argv[1] in WAYS:
        child(sys.argv[1], sys.argv[2], int(sys.argv[3]))
    else:
        main()
