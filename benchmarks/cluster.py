"""Rows on a dask.distributed cluster on this machine, one worker of which is killed in the middle.

    python benchmarks/cluster.py [ROWS] [WORKERS] [THREADS]

lost: rows without an answer. twice: repeated requests that the server saw. A LocalCluster of four workers
with 16 threads each, answers after 20 ms, one worker killed at 40 %, on two cores that others used as well:

    10,000 rows, 4 x 16: lost 0, twice 27, 45 rows/s, 8.1 ms CPU a row in the notebook, scheduler and server
"""

from __future__ import annotations

import logging
import os
import signal
import sys
import tempfile
import threading
import time
from collections import Counter
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
os.environ["NBLLM_HOME"] = tempfile.mkdtemp(prefix="nbllm-bench-")

import pandas as pd
from distributed import Client, LocalCluster

import nbllm
from nbllm import simulator


def main(rows: int, workers: int, threads: int) -> None:
    """Runs the rows, kills a worker, and counts."""
    options = {"processes": True, "dashboard_address": None, "silence_logs": logging.CRITICAL}
    root = str(Path(__file__).resolve().parent.parent)
    with (
        simulator.serve(ttft=0.02, gap=0.0, tokens=2, records=10 * rows) as server,
        LocalCluster(
            n_workers=workers, threads_per_worker=threads, env={"PYTHONPATH": root}, **options
        ) as cluster,
        Client(cluster) as client,
    ):
        pids = list(client.run(os.getpid).values())

        def kill() -> None:
            while len(server.records) < rows * 0.4:
                time.sleep(0.05)
            os.kill(pids[0], signal.SIGKILL)

        threading.Thread(target=kill, daemon=True).start()
        df = pd.DataFrame({"text": [f"row {i}" for i in range(rows)]})
        url = server.base_url("openai_chat")
        start, cpu = time.perf_counter(), time.process_time()
        out = nbllm.map(df, "{text}", model="m", base_url=url, executor=client, confirm="yes")
        seconds, used = time.perf_counter() - start, time.process_time() - cpu
        counts = Counter(record.prompt for record in server.records)
    lost = (out["llm_status"] != "ok").sum()
    twice = sum(counts.values()) - rows
    print(
        f"{rows:,} rows, {workers} x {threads}: lost {lost}, twice {twice}, {rows / seconds:,.0f} rows/s, "
        f"{used / rows * 1e3:.1f} ms CPU a row in the notebook, scheduler and server"
    )


if __name__ == "__main__":
    numbers = [int(word) for word in sys.argv[1:]]
    main(*[*numbers, *(10_000, 4, 16)[len(numbers) :]])
