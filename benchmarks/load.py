"""What `bench.run` itself costs: how soon its worker asks, and how many requests a second it sends before it
holds up what it measures.

    python benchmarks/load.py               both, some two minutes
    python benchmarks/load.py --rates 1000,2000 --starts 0

256 requests at a time against a server that is never what is waited for (fast_server.py): an answer takes so
long that just the wanted rate comes of it, where the worker keeps up; rate 0 are answers that take no time,
which asks for all that the worker has. Contaminated is what the worker says of itself: it was late by 1.5 ms
or more. Processor time is the worker's whole one, its start apart.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import tempfile
import time
import warnings
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import nbllm
from benchmarks.client import Server
from nbllm.bench.progress import Silent

WIDTH = 256


class Noted(Silent):
    """When a run's worker had been started."""

    at = 0.0

    def start(self, total: int, names: Any, run_id: str) -> None:
        """Notes it."""
        self.at = time.perf_counter()


def run(server: Server, place: Path, plan: str, **load: Any) -> tuple[Any, float, float]:
    """The frame of a run, seconds from the start of its worker to its first call, its processor time."""
    model = {"model": f"openai/{plan}", "base_url": f"{server.url}/v1", "api_key": "k"}
    noted, before = Noted(), os.times()
    df = nbllm.bench.run(model, "Go.", blocks=1, warmup=0, directory=place, progress=noted, **load)
    after = os.times()
    used = after.children_user + after.children_system - before.children_user - before.children_system
    assert df["ok"].all(), df.loc[~df["ok"], "error_msg"].iloc[0]
    return df, df.attrs["nbllm"]["epoch"] + df["ns_call"].min() / 1e9 - noted.at, used


def main() -> None:
    """Prints what was measured."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--starts", type=int, default=7, help="workers that are started, one after another")
    parser.add_argument("--rates", default="500,1000,1500,2000,0", help="requests a second")
    parser.add_argument("--requests", type=int, default=6000)
    given = parser.parse_args()
    server, starting = Server(), 0.4
    try:
        with tempfile.TemporaryDirectory() as home:
            if given.starts:
                runs = [run(server, Path(home) / f"s{i}", "c3-g0-f0") for i in range(given.starts)]
                starts, starting = [r[1] for r in runs], min(r[2] for r in runs)
                print(
                    f"worker's start to its first request: {min(starts):.2f} s at best, "
                    f"{statistics.median(starts):.2f} in the median of {len(starts)}; {starting:.2f} s of CPU"
                )
            print(f"\n| wanted | requests a second, {WIDTH} at a time | contaminated | CPU ms a request |")
            print("|---|---|---|---|")
            warnings.simplefilter("ignore")  # a load that is not reached is what is told here
            for rate in map(int, given.rates.split(",")):
                plan = f"c3-g0-f{round(WIDTH / rate * 1e6) if rate else 0}"
                df, _, used = run(
                    server, Path(home) / f"r{rate}", plan, concurrency=WIDTH, per_turn=given.requests
                )
                df = df.sort_values("ns_call").iloc[2 * WIDTH : -WIDTH]  # all of them are on their way
                seconds = (df["ns_call"].max() - df["ns_call"].min()) / 1e9
                held = (df["quality"] == "contaminated").mean()
                each = (used - starting) / given.requests * 1e3
                print(f"| {rate or 'all'} | {len(df) / seconds:,.0f} | {held:.0%} | {each:.2f} |", flush=True)
    finally:
        server.close()


if __name__ == "__main__":
    main()
