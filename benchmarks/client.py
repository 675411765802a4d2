"""The overhead of a call with nbllm, compared with other clients and with a bare asyncio loop.

    python benchmarks/client.py                                    the table of README, some ten minutes
    python benchmarks/client.py --only nbllm,httpx --rows request,burst --rounds 2

A separate server (fast_server.py) sends prepared bytes. Each client runs in its own process and virtual
environment (environments.py), and all take turns, round after round. The best round counts, since
interference only ever adds time. Absolute figures depend on the machine, ratios carry over. Single calls are
made as in a script, many concurrent ones as coroutines on the user's own event loop. What a client cannot do
is n/a with the reason below the table, never 0.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.environments import clean_environment, python_for

HERE = Path(__file__).resolve().parent

# The clients, in the table's order: what they are called there, and the packages that they need.
CLIENTS = {
    "nbllm": ("nbllm", ()),
    "httpx": ("httpx + httpx-sse", ("httpx", "httpx-sse")),
    "openai": ("openai", ("openai>=2",)),
    "anthropic": ("anthropic", ("anthropic",)),
    "litellm": ("litellm", ("litellm",)),
    "chatlas": ("chatlas", ("chatlas[openai]==0.23.0",)),
    "bare": ("bare asyncio", ()),
}
SLOW = ("litellm", "chatlas")  # these get a fifth of the work
KEY = "sk-proj-" + "aB3dE5fG7h" * 15  # as long as a real one


@dataclass(frozen=True)
class Row:
    """A row of the table: a job of clients.py with its model (the plan) and repetitions, and the figure to
    show."""

    label: str
    name: str
    job: str
    model: str
    times: int
    figure: str
    number_format: str = "{:.2f}"
    largest_is_best: bool = False


ROWS = (
    Row("CPU per warm request, ms", "request", "sequential", "c3-g0-f0", 300, "cpu_ms"),
    Row("warm request: time to first delta, ms", "request", "sequential", "c3-g0-f0", 300, "first_ms"),
    Row("CPU per chunk in a burst, µs", "burst", "sequential", "c3000-g0-f0", 10, "chunk_us", "{:.1f}"),
    Row(
        "CPU per chunk that arrives alone, µs",
        "apart",
        "sequential",
        "c500-g2000-f20000",
        1,
        "chunk_us",
        "{:.0f}",
    ),
    Row(
        "256 streams, chunks 20 ms apart: wall time / ideal",
        "256",
        "concurrent",
        "c100-g20000-f200000",
        256,
        "ratio",
    ),
    Row("the same, lateness p99, ms", "256", "concurrent", "c100-g20000-f200000", 256, "late_ms", "{:,.0f}"),
    Row("the same, CPU s", "256", "concurrent", "c100-g20000-f200000", 256, "cpu_s"),
    Row("1,000 streams: wall time / ideal", "1000", "concurrent", "c100-g20000-f200000", 1000, "ratio"),
    Row(
        "the same, lateness p99, ms", "1000", "concurrent", "c100-g20000-f200000", 1000, "late_ms", "{:,.0f}"
    ),
    Row("bytes stored per chunk", "memory", "memory", "c200000-g0-f0", 1, "bytes", "{:,.0f}"),
    Row("process start to first delta, ms", "start", "first", "", 0, "start_ms", "{:,.0f}"),
    Row("of which import, ms", "start", "first", "", 0, "import_ms", "{:,.0f}"),
    Row("short calls per second, user's loop", "short", "short", "c3-g0-f0", 2000, "rate", "{:,.0f}", True),
    Row("the same, client's own loop", "own", "own", "c3-g0-f0", 2000, "rate", "{:,.0f}", True),
)
HEAVY_ROWS = ("1000", "memory")  # left out for slow clients


class Server:
    """fast_server.py in a separate process."""

    def __init__(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, str(HERE / "fast_server.py")], stdout=subprocess.PIPE, text=True
        )
        assert self._process.stdout is not None
        self.url = self._process.stdout.readline().strip()

    def read_stats(self) -> dict[str, float]:
        """How busy it was, and how late, since the previous call."""
        with urllib.request.urlopen(self.url) as answer:
            stats: dict[str, float] = json.load(answer)
        return stats

    def close(self) -> None:
        """Ends the process."""
        self._process.terminate()
        self._process.wait()


class Worker:
    """A client in its process. Raises CalledProcessError or OSError if it cannot be started."""

    def __init__(self, name: str, url: str, home: str) -> None:
        self.name = name
        python = python_for(name, CLIENTS[name][1])
        self._command = [python, str(HERE / "clients.py"), name, url]
        self._env = clean_environment() | {
            "OPENAI_API_KEY": KEY,
            "OPENAI_BASE_URL": f"{url}/v1",
            "OPENAI_API_BASE": f"{url}/v1",
            "ANTHROPIC_API_KEY": KEY,
            "ANTHROPIC_BASE_URL": url,
            "NBLLM_HOME": home,
            **({"PYTHONPATH": str(HERE.parent)} if name == "nbllm" else {}),
        }
        self._process: subprocess.Popen[str] | None = None

    def run_job(self, job: str, model: str, times: int) -> dict[str, Any]:
        """The figures of a job, or {"failed": reason}."""
        if job == "first":
            return self._run_first()
        if self._process is None:
            self._process = self._start_process()
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps([job, model, times]) + "\n")
        self._process.stdin.flush()
        answer: dict[str, Any] = json.loads(self._process.stdout.readline() or '{"failed": "it ended"}')
        return answer

    def _start_process(self, *mode: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [*self._command, *mode],
            env=self._env,
            text=True,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
        )

    def _run_first(self) -> dict[str, Any]:
        start = time.time()
        process = self._start_process("first")
        line = process.communicate()[0]
        if not line:
            return {"failed": "it ended"}
        report = json.loads(line)
        return {"start_ms": (report["at"] - start) * 1e3, "import_ms": report["import_ms"]}

    def close(self) -> None:
        """Ends the process."""
        if self._process is not None:
            self._process.communicate()


def measure(
    workers: list[Worker], rows: Iterable[Row], rounds: int, server: Server, results: dict[Any, Any]
) -> None:
    """Fills `results`: a list of figures, one per round, by (client, job, plan, times); under "server" its
    own statistics."""
    jobs = list(dict.fromkeys((r.name, r.job, r.model, r.times) for r in rows))
    for number in range(rounds):
        for name, *job in jobs:
            for worker in workers:
                is_too_heavy = name in HEAVY_ROWS and worker.name in SLOW
                is_skipped = is_too_heavy or (job[0] == "own" and worker.name != "nbllm")
                has_failed = any("failed" in f for f in results.get((worker.name, *job), ()))
                if is_skipped or has_failed:
                    continue
                fewer_times = worker.name in SLOW and job[0] in ("short", "sequential")
                server.read_stats()
                answer = worker.run_job(job[0], job[1], max(1, job[2] // 5) if fewer_times else job[2])
                results["server"].append(server.read_stats() | {"job": job, "client": worker.name})
                results.setdefault((worker.name, *job), []).append(answer)
                print(f"round {number + 1} {name} {worker.name}: {answer}", file=sys.stderr, flush=True)


def best_value(row: Row, figures: list[dict[str, Any]]) -> str:
    """The best round."""
    values = [f[row.figure] for f in figures if row.figure in f]
    if not values:
        return "n/a"
    return row.number_format.format((max if row.largest_is_best else min)(values))


def table(workers: list[Worker], rows: Iterable[Row], results: dict[Any, Any]) -> str:
    """The figures as a Markdown table."""
    lines = [
        "| | " + " | ".join(CLIENTS[w.name][0] for w in workers) + " |",
        "|---" * (len(workers) + 1) + "|",
    ]
    for row in rows:
        cells = [best_value(row, results.get((w.name, row.job, row.model, row.times), [])) for w in workers]
        lines.append(f"| {row.label} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def remarks(results: dict[Any, Any]) -> list[str]:
    """Failures, and jobs in which the server was the bottleneck."""
    out = []
    for key, figures in results.items():
        if key != "server" and (failed := next((f["failed"] for f in figures if "failed" in f), None)):
            out.append(f"{CLIENTS[key[0]][0]}: n/a, {failed}")
    slow = [s for s in results["server"] if s["client"] == "bare" and (s["busy"] > 0.8 or s["late_ms"] > 20)]
    out += [f"The server was {s['busy']:.0%} busy, {s['late_ms']:.0f} ms late at {s['job']}" for s in slow]
    return out


def start_workers(names: Iterable[str], url: str, home: str) -> list[Worker]:
    """The clients, with their ledgers in `home`; reports those that cannot be installed."""
    out = []
    for name in names:
        try:
            out.append(Worker(name, url, home))
        except (subprocess.CalledProcessError, OSError) as error:
            print(f"{name} IS MISSING: {error}", file=sys.stderr)
    return out


@contextlib.contextmanager
def running_clients(names: list[str]) -> Iterator[tuple[Server, list[Worker]]]:
    """The server and the available clients, each in its process; nothing is recorded in the user's ledger."""
    with tempfile.TemporaryDirectory() as home:
        server = Server()
        workers = start_workers(names, server.url, home)
        try:
            yield server, workers
        finally:
            for worker in workers:
                worker.close()
            server.close()


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--only", default=",".join(CLIENTS), help="clients: " + ", ".join(CLIENTS))
    names = ",".join(dict.fromkeys(r.name for r in ROWS))
    parser.add_argument("--rows", default=names, help=f"rows: {names}")
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    rows = [r for r in ROWS if r.name in arguments.rows.split(",")]
    with running_clients(arguments.only.split(",")) as (server, workers):
        results: dict[Any, Any] = {"server": []}
        with contextlib.suppress(KeyboardInterrupt):  # then the results so far are shown
            measure(workers, rows, arguments.rounds, server, results)
        print(table(workers, rows, results))
        print(*remarks(results), sep="\n")


if __name__ == "__main__":
    main()
