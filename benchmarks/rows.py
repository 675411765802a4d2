"""The cost of a row of nbllm.map: CPU time, rows a second and memory, compared with other tools.

    python benchmarks/rows.py [ROWS] [METHOD ...]

All run against the same simulator in another process (one token, no delays), each in its own process, in
turn; openai and chatlas if this Python has them. nbllm does more per row: the template, the run's file, the
ledger, the rate gate, the frame. "twice" is two processes of nbllm with half of the rows each.

On two cores that others used as well (rows a second suffer, processor time hardly), 4,000 rows:

             rows/s   CPU us a row    MB more
    nbllm       410            996         17
    httpx        86          2,975          9
    openai      124          2,773          9
    chatlas     102          3,432         44
    twice       462          1,146         20

With seven other programs running, 10,000 rows: 388 rows a second, 1,137 us, 59 MB more; twice 367, 1,424 us.
Alone, 10,000 rows: 1,324 to 1,556 rows a second, 642 to 749 us; twice 1,739 and 806. 100,000 rows: 1,139 rows
a second, 879 us. Memory, 60,000 rows with other programs running: 64 MB more.
"""

from __future__ import annotations

import asyncio
import importlib.util
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


def run_nbllm(url: str, rows: int) -> None:
    """With nbllm.map."""
    out = nbllm.map(_table(rows), "Classify {text}", model="m", base_url=url, width=WIDTH, confirm="yes")
    assert (out["llm_status"] == "ok").all()


def run_httpx(url: str, rows: int) -> None:
    """With httpx and a semaphore, non-streaming."""

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


def run_openai(url: str, rows: int) -> None:
    """With AsyncOpenAI and a semaphore, non-streaming."""
    from openai import AsyncOpenAI

    async def work() -> list[str]:
        gate, client = asyncio.Semaphore(WIDTH), AsyncOpenAI(base_url=url, api_key="k")

        async def one(text: str) -> str:
            messages = [{"role": "user", "content": f"Classify {text}"}]
            async with gate:
                answer = await client.chat.completions.create(model="m", messages=messages)
                return str(answer.choices[0].message.content)

        return await asyncio.gather(*(one(text) for text in _table(rows)["text"]))

    df = _table(rows)
    df["answer"] = asyncio.run(work())
    assert df["answer"].notna().all()


def run_chatlas(url: str, rows: int) -> None:
    """With chatlas' parallel chat."""
    from chatlas import ChatOpenAICompletions, parallel_chat_text

    chat = ChatOpenAICompletions(model="m", base_url=url, api_key="k")
    prompts = [f"Classify {text}" for text in _table(rows)["text"]]
    df = _table(rows)
    df["answer"] = asyncio.run(parallel_chat_text(chat, prompts, max_active=WIDTH, rpm=10_000_000))
    assert df["answer"].notna().all()


METHODS = {"nbllm": run_nbllm, "httpx": run_httpx, "openai": run_openai, "chatlas": run_chatlas}
_PACKAGES = {"openai": "openai", "chatlas": "chatlas"}


def child(method: str, url: str, rows: int) -> None:
    """Prints seconds, CPU seconds, and additional kilobytes of memory."""
    METHODS[method](url, 200)  # imports, connections
    before, cpu, start = resource.getrusage(resource.RUSAGE_SELF), time.process_time(), time.perf_counter()
    METHODS[method](url, rows)
    seconds, cpu_s = time.perf_counter() - start, time.process_time() - cpu
    extra_kb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before.ru_maxrss
    print(seconds, cpu_s, extra_kb, flush=True)


def measure(method: str, url: str, rows: int, processes: int = 1) -> None:
    """Prints a row of the table."""
    rows_each = rows // processes
    command = [sys.executable, __file__, "--child", method, f"{url}/v1", str(rows_each)]
    figures = []
    with TemporaryDirectory() as home:
        running = [
            subprocess.Popen(
                command,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
                env={**os.environ, "NBLLM_HOME": home},
            )
            for _ in range(processes)
        ]
        for process in running:
            out, err = process.communicate()
            if process.returncode:
                raise SystemExit(f"{method} failed: {err}")
            figures.append([float(word) for word in out.splitlines()[-1].split()])
    speed = sum(rows_each / seconds for seconds, _, _ in figures)
    cpu_s, extra_kb = sum(f[1] for f in figures), sum(f[2] for f in figures)
    name = "twice" if processes > 1 else method
    print(f"{name:8} {speed:10,.0f} {cpu_s / rows * 1e6:14,.0f} {extra_kb / 1024:10,.0f}", flush=True)


def main(rows: int, methods: list[str]) -> None:
    """Prints the table."""
    print(f"{'':8} {'rows/s':>10} {'CPU us a row':>14} {'MB more':>10}   ({rows:,} rows, {WIDTH} at a time)")
    command = [sys.executable, "-m", "nbllm.simulator", "--defaults", "ttft=0,gap=0,tokens=1"]
    root = str(Path(__file__).resolve().parent.parent)
    env = {**os.environ, "PYTHONPATH": root}
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=env) as server:
        try:
            assert server.stdout is not None
            line = server.stdout.readline()
            url = next(w for w in line.split() if w.startswith("http")).rstrip("/.")
            for method in methods:
                if method == "twice":
                    measure("nbllm", url, rows, processes=2)
                elif importlib.util.find_spec(_PACKAGES.get(method, "nbllm")) is None:
                    print(f"{method:8} is not installed")
                else:
                    measure(method, url, rows)
        finally:
            server.terminate()


if __name__ == "__main__":
    if sys.argv[1:2] == ["--child"]:
        child(sys.argv[2], sys.argv[3], int(sys.argv[4]))
    else:
        numbers = [int(word) for word in sys.argv[1:] if word.isdigit()]
        main(
            numbers[0] if numbers else 5_000,
            [word for word in sys.argv[1:] if not word.isdigit()] or [*METHODS, "twice"],
        )
