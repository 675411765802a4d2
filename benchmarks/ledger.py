"""The cost of recording calls: CPU time per call without a ledger, in memory, and on disk.

    python benchmarks/ledger.py

Short answers of a simulator in another process, one call after another; the ledgers take turns.
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
os.environ["NBLLM_HOME"] = tempfile.mkdtemp(prefix="nbllm-bench-")

from nbllm import Client
from nbllm.routing import registry
from nbllm.store.ledger import Ledger

CALLS, ROUNDS = 200, 7


def measure_round(client: Client, model: str) -> tuple[float, float]:
    """(milliseconds per call, microseconds of CPU time per call), with all calls stored."""
    start, cpu = time.perf_counter(), time.process_time()
    for _ in range(CALLS):
        client.complete("x", model)
    seconds = time.perf_counter() - start
    if client.ledger is not None:
        client.ledger.flush()
    return seconds / CALLS * 1e3, (time.process_time() - cpu) / CALLS * 1e6


def main() -> None:
    """Measures in turns, and prints medians."""
    server = subprocess.Popen(
        [sys.executable, "-m", "nbllm.simulator", "--port", "0"], stdout=subprocess.PIPE, text=True
    )
    try:
        assert server.stdout is not None
        url = next(word for word in server.stdout.readline().split() if word.startswith("http")).rstrip("/.")
        r = registry.load({"OPENAI_BASE_URL": f"{url}/v1", "OPENAI_API_KEY": "k"})
        ledgers: dict[str, Ledger | None] = {
            "none": None,
            **{mode: Ledger(mode) for mode in ("memory", "disk", "texts")},
        }
        clients = {name: Client(r, ledger=ledger) for name, ledger in ledgers.items()}
        rows: dict[str, list[tuple[float, float]]] = {name: [] for name in ledgers}
        for _ in range(ROUNDS + 1):
            for name, client in clients.items():
                rows[name].append(measure_round(client, "openai/m@ttft=0,gap=0,tokens=10"))
        for name, figures in rows.items():
            ms, cpu = (statistics.median(v[i] for v in figures[1:]) for i in (0, 1))
            print(f"ledger {name:7} {ms:6.2f} ms a call, CPU {cpu:6.0f} us")
    finally:
        server.terminate()


if __name__ == "__main__":
    main()
