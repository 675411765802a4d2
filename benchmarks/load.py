"""The overhead of `bench.run` itself: the time until its worker sends the first request, and the request rate
up to which it does not disturb its own measurements.

    python benchmarks/load.py               both, some two minutes
    python benchmarks/load.py --rates 1000,2000 --starts 0

256 concurrent requests against a server that is never the bottleneck (fast_server.py): an answer takes just
as long as the requested rate implies if the worker keeps up; at rate 0 answers take no time, which shows the
worker's maximum. Contaminated is the share of requests for which the worker reports a delay of at least 1.5
ms of its own. CPU time is the worker's total, without its start.
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


class StartTime(Silent):
    """Records when a run's worker was started."""

    at = 0.0

    def start(self, total: int, names: Any, run_id: str) -> None:
        """Records the time."""
        self.at = time.perf_counter()


def run(server: Server, directory: Path, plan: str, **load: Any) -> tuple[Any, float, float]:
    """(the frame of a run, seconds from the start of its worker to its first call, its CPU time)."""
    model = {"model": f"openai/{plan}", "base_url": f"{server.url}/v1", "api_key": "k"}
    display, before = StartTime(), os.times()
    df = nbllm.bench.run(model, "Go.", blocks=1, warmup=0, directory=directory, progress=display, **load)
    after = os.times()
    used = after.children_user + after.children_system - before.children_user - before.children_system
    assert df["ok"].all(), df.loc[~df["ok"], "error_msg"].iloc[0]
    return df, df.attrs["nbllm"]["epoch"] + df["ns_call"].min() / 1e9 - display.at, used


def main() -> None:
    """Prints the results."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--starts", type=int, default=7, help="workers that are started, one after another")
    parser.add_argument("--rates", default="500,1000,1500,2000,0", help="requests a second")
    parser.add_argument("--requests", type=int, default=6000)
    arguments = parser.parse_args()
    server, starting = Server(), 0.4
    try:
        with tempfile.TemporaryDirectory() as home:
            if arguments.starts:
                runs = [run(server, Path(home) / f"s{i}", "c3-g0-f0") for i in range(arguments.starts)]
                starts, starting = [r[1] for r in runs], min(r[2] for r in runs)
                print(
                    f"worker's start to its first request: {min(starts):.2f} s at best, "
                    f"{statistics.median(starts):.2f} in the median of {len(starts)}; {starting:.2f} s of CPU"
                )
            print(f"\n| wanted | requests a second, {WIDTH} at a time | contaminated | CPU ms a request |")
            print("|---|---|---|---|")
            warnings.simplefilter("ignore")  # the table shows loads that are not reached
            for rate in map(int, arguments.rates.split(",")):
                plan = f"c3-g0-f{round(WIDTH / rate * 1e6) if rate else 0}"
                df, _, used = run(
                    server, Path(home) / f"r{rate}", plan, concurrency=WIDTH, per_turn=arguments.requests
                )
                df = df.sort_values("ns_call").iloc[2 * WIDTH : -WIDTH]  # while all 256 are in flight
                seconds = (df["ns_call"].max() - df["ns_call"].min()) / 1e9
                contaminated = (df["quality"] == "contaminated").mean()
                each = (used - starting) / arguments.requests * 1e3
                print(
                    f"| {rate or 'all'} | {len(df) / seconds:,.0f} | {contaminated:.0%} | {each:.2f} |",
                    flush=True,
                )
    finally:
        server.close()


if __name__ == "__main__":
    main()
