"""What a call costs with nbllm, beside what people use today and a bare asyncio loop.

    python benchmarks/client.py                                    the table of README, some ten minutes
    python benchmarks/client.py --only nbllm,httpx --rows request,burst --rounds 2

A server of its own (fast_server.py) sends bytes that were made beforehand; each client runs in a process and
a virtual environment of its own (environments.py), and all take turns, round after round. The best of the
rounds counts: what disturbs a machine only ever adds. Absolute figures are this machine's, ratios carry over.
Single calls are made as a script makes them, many at once as coroutines on the user's own loop. What a client
cannot do is n/a with the reason below the table, never 0.
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

from benchmarks.environments import python_of, without_keys

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
SLOW = ("litellm", "chatlas")  # a fifth of the work is enough to tell
KEY = "sk-proj-" + "aB3dE5fG7h" * 15  # as long as they are


@dataclass(frozen=True)
class Row:
    """A line of the table: what is asked (a job of clients.py, a plan, how often), and which figure it is."""

    label: str
    name: str
    job: str
    model: str
    times: int
    figure: str
    shape: str = "{:.2f}"
    most: bool = False  # the best is the largest


ROWS = (
    Row("CPU per warm request, ms", "request", "alone", "c3-g0-f0", 300, "cpu_ms"),
    Row("warm request: time to first delta, ms", "request", "alone", "c3-g0-f0", 300, "first_ms"),
    Row("CPU per chunk in a burst, µs", "burst", "alone", "c3000-g0-f0", 10, "chunk_us", "{:.1f}"),
    Row(
        "CPU per chunk that arrives alone, µs", "apart", "alone", "c500-g2000-f20000", 1, "chunk_us", "{:.0f}"
    ),
    Row(
        "256 streams, chunks 20 ms apart: wall time / ideal",
        "256",
        "together",
        "c100-g20000-f200000",
        256,
        "ratio",
    ),
    Row("the same, lateness p99, ms", "256", "together", "c100-g20000-f200000", 256, "late_ms", "{:,.0f}"),
    Row("the same, CPU s", "256", "together", "c100-g20000-f200000", 256, "cpu_s"),
    Row("1,000 streams: wall time / ideal", "1000", "together", "c100-g20000-f200000", 1000, "ratio"),
    Row("the same, lateness p99, ms", "1000", "together", "c100-g20000-f200000", 1000, "late_ms", "{:,.0f}"),
    Row("bytes stored per chunk", "kept", "kept", "c200000-g0-f0", 1, "bytes", "{:,.0f}"),
    Row("process start to first delta, ms", "start", "first", "", 0, "start_ms", "{:,.0f}"),
    Row("of which import, ms", "start", "first", "", 0, "import_ms", "{:,.0f}"),
    Row("short calls per second, user's loop", "short", "short", "c3-g0-f0", 2000, "rate", "{:,.0f}", True),
    Row("the same, client's own loop", "own", "own", "c3-g0-f0", 2000, "rate", "{:,.0f}", True),
)
MANY = ("1000", "kept")  # not asked of those that are slow


class Server:
    """fast_server.py, in a process of its own."""

    def __init__(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, str(HERE / "fast_server.py")], stdout=subprocess.PIPE, text=True
        )
        assert self._process.stdout is not None
        self.url = self._process.stdout.readline().strip()

    def told(self) -> dict[str, float]:
        """How busy it was, and how late, since it was asked before."""
        with urllib.request.urlopen(self.url) as answer:
            found: dict[str, float] = json.load(answer)
        return found

    def close(self) -> None:
        """Ends it."""
        self._process.terminate()
        self._process.wait()


class Worker:
    """One client in its process. Raises CalledProcessError or OSError where it cannot be had."""

    def __init__(self, name: str, url: str, home: str) -> None:
        self.name = name
        python = python_of(name, CLIENTS[name][1])
        self._command = [python, str(HERE / "clients.py"), name, url]
        self._env = without_keys() | {
            "OPENAI_API_KEY": KEY,
            "OPENAI_BASE_URL": f"{url}/v1",
            "OPENAI_API_BASE": f"{url}/v1",
            "ANTHROPIC_API_KEY": KEY,
            "ANTHROPIC_BASE_URL": url,
            "NBLLM_HOME": home,
            **({"PYTHONPATH": str(HERE.parent)} if name == "nbllm" else {}),
        }
        self._process: subprocess.Popen[str] | None = None

    def ask(self, job: str, model: str, times: int) -> dict[str, Any]:
        """The figures of a job; {"failed": why}."""
        if job == "first":
            return self._first()
        if self._process is None:
            self._process = self._begun()
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps([job, model, times]) + "\n")
        self._process.stdin.flush()
        answer: dict[str, Any] = json.loads(self._process.stdout.readline() or '{"failed": "it ended"}')
        return answer

    def _begun(self, *how: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [*self._command, *how],
            env=self._env,
            text=True,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
        )

    def _first(self) -> dict[str, Any]:
        began = time.time()
        process = self._begun("first")
        line = process.communicate()[0]
        if not line:
            return {"failed": "it ended"}
        told = json.loads(line)
        return {"start_ms": (told["at"] - began) * 1e3, "import_ms": told["import_ms"]}

    def close(self) -> None:
        """Ends it."""
        if self._process is not None:
            self._process.communicate()


def measured(
    workers: list[Worker], rows: Iterable[Row], rounds: int, server: Server, found: dict[Any, Any]
) -> None:
    """Figures by (client, job, plan, times), a list of the rounds'; by "server" what it said of itself."""
    jobs = list(dict.fromkeys((r.name, r.job, r.model, r.times) for r in rows))
    for number in range(rounds):
        for name, *job in jobs:
            for worker in workers:
                left_out = name in MANY and worker.name in SLOW
                skipped = left_out or (job[0] == "own" and worker.name != "nbllm")
                failed = any("failed" in f for f in found.get((worker.name, *job), ()))
                if skipped or failed:
                    continue
                few = worker.name in SLOW and job[0] in ("short", "alone")
                server.told()
                answer = worker.ask(job[0], job[1], max(1, job[2] // 5) if few else job[2])
                found["server"].append(server.told() | {"job": job, "client": worker.name})
                found.setdefault((worker.name, *job), []).append(answer)
                print(f"round {number + 1} {name} {worker.name}: {answer}", file=sys.stderr, flush=True)


def told(row: Row, figures: list[dict[str, Any]]) -> str:
    """The best of the rounds."""
    values = [f[row.figure] for f in figures if row.figure in f]
    if not values:
        return "n/a"
    return row.shape.format((max if row.most else min)(values))


def table(workers: list[Worker], rows: Iterable[Row], found: dict[Any, Any]) -> str:
    """The figures as Markdown."""
    lines = [
        "| | " + " | ".join(CLIENTS[w.name][0] for w in workers) + " |",
        "|---" * (len(workers) + 1) + "|",
    ]
    for row in rows:
        cells = [told(row, found.get((w.name, row.job, row.model, row.times), [])) for w in workers]
        lines.append(f"| {row.label} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def remarks(found: dict[Any, Any]) -> list[str]:
    """What failed, and where the server was what was waited for."""
    out = []
    for key, figures in found.items():
        if key != "server" and (failed := next((f["failed"] for f in figures if "failed" in f), None)):
            out.append(f"{CLIENTS[key[0]][0]}: n/a, {failed}")
    slow = [s for s in found["server"] if s["client"] == "bare" and (s["busy"] > 0.8 or s["late_ms"] > 20)]
    out += [f"The server was {s['busy']:.0%} busy, {s['late_ms']:.0f} ms late at {s['job']}" for s in slow]
    return out


def begun(names: Iterable[str], url: str, home: str) -> list[Worker]:
    """The clients, their calls noted in `home`; one that cannot be installed is said to be missing."""
    out = []
    for name in names:
        try:
            out.append(Worker(name, url, home))
        except (subprocess.CalledProcessError, OSError) as error:
            print(f"{name} IS MISSING: {error}", file=sys.stderr)
    return out


@contextlib.contextmanager
def at_work(names: list[str]) -> Iterator[tuple[Server, list[Worker]]]:
    """The server, and the clients that there are, each in its process; the calls are not the user's."""
    with tempfile.TemporaryDirectory() as home:
        server = Server()
        workers = begun(names, server.url, home)
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
    given = parser.parse_args()
    rows = [r for r in ROWS if r.name in given.rows.split(",")]
    with at_work(given.only.split(",")) as (server, workers):
        found: dict[Any, Any] = {"server": []}
        with contextlib.suppress(KeyboardInterrupt):  # what was measured is shown
            measured(workers, rows, given.rounds, server, found)
        print(table(workers, rows, found))
        print(*remarks(found), sep="\n")


if __name__ == "__main__":
    main()
