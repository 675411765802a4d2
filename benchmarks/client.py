"""What the path of a call costs beside the plain way (httpx, its line iterator, json): first token and
processor time a chunk.

    python benchmarks/client.py

Both run in this process against the same simulator in another one, in turn; what counts are the ratios.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import httpx

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from nbllm import Client
from nbllm.routing import registry


def plain(client: httpx.Client, url: str, model: str) -> tuple[float, int]:
    """(seconds to the first token, chunks) by the plain way."""
    began, first, chunks = time.perf_counter(), 0.0, 0
    body = {"model": model, "stream": True, "messages": [{"role": "user", "content": "x"}]}
    with client.stream("POST", f"{url}/v1/chat/completions", json=body) as response:
        for line in response.iter_lines():
            if line.startswith("data: {"):
                choices = json.loads(line[6:])["choices"]
                if choices and choices[0]["delta"].get("content"):
                    first = first or time.perf_counter() - began
                    chunks += 1
    return first, chunks


def ours(client: Client, model: str) -> tuple[float, int]:
    """(seconds to the first token, events) by nbllm."""
    stream = client.stream("x", f"openai/{model}")
    response = stream.response()
    return response.timing.ttft or 0.0, len(stream.log)


def measured(ask: Callable[[str], tuple[float, int]], model: str) -> tuple[float, float]:
    cpu = time.process_time()
    first, chunks = ask(model)
    return first * 1000, (time.process_time() - cpu) / chunks * 1e6


def main() -> None:
    server = subprocess.Popen(
        [sys.executable, "-m", "nbllm.simulator", "--port", "0"], stdout=subprocess.PIPE, text=True
    )
    try:
        assert server.stdout is not None
        url = next(word for word in server.stdout.readline().split() if word.startswith("http")).rstrip("/.")
        client = Client(registry.load({"OPENAI_BASE_URL": f"{url}/v1", "OPENAI_API_KEY": "k"}))
        with httpx.Client() as http:
            ways: dict[str, Callable[[str], tuple[float, int]]] = {
                "plain httpx": lambda m: plain(http, url, m),
                "nbllm": lambda m: ours(client, m),
            }
            for name, model, rounds in (
                ("apart, 2 ms", "m@ttft=0.02,gap=0.002,tokens=300", 9),
                ("in a burst", "m@ttft=0.02,gap=0,tokens=3000", 9),
            ):
                rows: dict[str, list[tuple[float, float]]] = {w: [] for w in ways}
                for _ in range(rounds + 1):
                    for way, ask in ways.items():
                        rows[way].append(measured(ask, model))
                medians = {
                    w: [statistics.median(v[i] for v in found[1:]) for i in (0, 1)]
                    for w, found in rows.items()
                }
                a, b = medians["plain httpx"], medians["nbllm"]
                print(
                    f"chunks {name:12} first token {a[0]:.2f} ms plain, {b[0]:.2f} ms nbllm (ratio "
                    f"{b[0] / a[0]:.2f}); "
                    f"CPU a chunk {a[1]:.0f} us plain, {b[1]:.0f} us nbllm (ratio {b[1] / a[1]:.2f})"
                )
    finally:
        server.terminate()


if __name__ == "__main__":
    main()
