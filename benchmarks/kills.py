"""Whether a run over a table survives `kill -9`: ten times at random moments, then it runs to its end.

    python benchmarks/kills.py [ROWS] [SEED]

Each process sends the same rows under the same run name, 32 at a time, and is killed after a random number of
further requests; the last one runs to its end. The simulator counts requests. sent: requests of this process;
stored: answers on disk afterwards; again: rows that were sent twice because of this kill (at most the 32 in
flight); lost: rows whose answer was on disk and that were sent again. Exit code 1 if any row is lost, or has
no answer at the end, or if more rows were sent again than were in flight.

      kill     sent   stored    again     lost   (2000 rows, seed 7)
         1       87       75        0        0
         2       28       91       12        0
         3      172      241       12        0
         4      125      353       22        0
         5      145      481       13        0
         6      157      621       17        0
         7       15      631       15        0
         8      197      801        7        0
         9       17      812       17        0
        10      100      890       16        0
       end     1110     2000       22        0
    2000 of 2000 rows are ok at the end
"""

from __future__ import annotations

import os
import random
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from tempfile import TemporaryDirectory

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from nbllm import simulator
from nbllm.store import runs

WIDTH, KILLS = 32, 10


def child(url: str, rows: int) -> None:
    """Sends the rows until it is killed."""
    import pandas as pd

    import nbllm

    df = pd.DataFrame({"text": [f"row {i}" for i in range(rows)]})
    out = nbllm.map(df, "{text}", model="m", base_url=url, run="kills", width=WIDTH, confirm="yes")
    print((out["llm_status"] == "ok").sum())


def answered_prompts() -> set[str]:
    """The prompts whose answers are on disk."""
    if not runs.run_path("kills").exists():
        return set()
    with runs.RunFile("kills") as file:
        return set(file.prompts([row.id for _, row in file.results() if row.state == "ok"]).values())


def main(rows: int, seed: int) -> int:
    """Prints a row for each kill."""
    rng, lost, max_repeated = random.Random(seed), 0, 0
    with simulator.serve(ttft=0.02, gap=0.0, tokens=2) as server, TemporaryDirectory() as home:
        os.environ["NBLLM_HOME"] = home

        def request_counts() -> Counter[str]:
            return Counter(record.prompt for record in list(server.records))

        command = [sys.executable, __file__, "--child", server.base_url("openai_chat"), str(rows)]
        print(f"{'kill':>6} {'sent':>8} {'stored':>8} {'again':>8} {'lost':>8}   ({rows} rows, seed {seed})")
        for number in range(1, KILLS + 2):
            before, stored = request_counts(), answered_prompts()
            running = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
            if number <= KILLS:
                target = len(server.records) + rng.randrange(1, rows // (KILLS + 1))
                while len(server.records) < target and running.poll() is None:
                    time.sleep(rng.uniform(0.0, 0.01))
                running.kill()
            output, _ = running.communicate()
            new = request_counts() - before
            repeated = sum(new[prompt] for prompt in before)
            lost_now = sum(new[prompt] for prompt in stored)
            lost, max_repeated = lost + lost_now, max(max_repeated, repeated)
            name = number if number <= KILLS else "end"
            print(
                f"{name:>6} {new.total():8} {len(answered_prompts()):8} {repeated:8} {lost_now:8}", flush=True
            )
        ok = int(output.split()[0])
    print(f"{ok} of {rows} rows are ok at the end")
    return int(bool(lost) or max_repeated > WIDTH or ok != rows)


if __name__ == "__main__":
    if sys.argv[1:2] == ["--child"]:
        child(sys.argv[2], int(sys.argv[3]))
    else:
        numbers = [int(word) for word in sys.argv[1:]]
        raise SystemExit(main(*(numbers + [2_000, random.randrange(1_000_000)][len(numbers) :])))
