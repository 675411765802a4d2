"""Whether a run over a table survives `kill -9`: ten times at random moments, then to its end.

    python benchmarks/kills.py [ROWS] [SEED]

Each process asks the same rows under the same run's name, 32 at a time, and is killed when so many more
requests have come as the dice say; the last one ends. The simulator counts what it was asked. kept: answers
on disk at the kill; again: rows that were asked twice because of this kill (32 were on their way at most);
lost: rows whose answer was on disk and was asked again, or that have none at the end. Exit code 1 where any
is lost, or more was asked twice than was on its way.

      kill    asked     kept    again     lost   (2000 rows, seed 7)
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
    """Asks until it is killed."""
    import pandas as pd

    import nbllm

    df = pd.DataFrame({"text": [f"row {i}" for i in range(rows)]})
    out = nbllm.map(df, "{text}", model="m", base_url=url, run="kills", width=WIDTH, confirm="yes")
    print((out["llm_status"] == "ok").sum())


def answered() -> set[str]:
    """The prompts whose answers are on disk."""
    if not runs.path_of("kills").exists():
        return set()
    with runs.RunFile("kills") as file:
        return set(file.prompts([row.id for _, row in file.results() if row.state == "ok"]).values())


def main(rows: int, seed: int) -> int:
    """Prints a line a kill."""
    dice, lost, most = random.Random(seed), 0, 0
    with simulator.serve(ttft=0.02, gap=0.0, tokens=2) as server, TemporaryDirectory() as home:
        os.environ["NBLLM_HOME"] = home

        def asked() -> Counter[str]:
            return Counter(record.prompt for record in list(server.records))

        command = [sys.executable, __file__, "--child", server.base_url("openai_chat"), str(rows)]
        print(f"{'kill':>6} {'asked':>8} {'kept':>8} {'again':>8} {'lost':>8}   ({rows} rows, seed {seed})")
        for number in range(1, KILLS + 2):
            before, kept = asked(), answered()
            running = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
            if number <= KILLS:
                wanted = len(server.records) + dice.randrange(1, rows // (KILLS + 1))
                while len(server.records) < wanted and running.poll() is None:
                    time.sleep(dice.uniform(0.0, 0.01))
                running.kill()
            told, _ = running.communicate()
            new = asked() - before
            again = sum(new[prompt] for prompt in before)
            gone = sum(new[prompt] for prompt in kept)
            lost, most = lost + gone, max(most, again)
            name = number if number <= KILLS else "end"
            print(f"{name:>6} {new.total():8} {len(answered()):8} {again:8} {gone:8}", flush=True)
        ok = int(told.split()[0])
    print(f"{ok} of {rows} rows are ok at the end")
    return int(bool(lost) or most > WIDTH or ok != rows)


if __name__ == "__main__":
    if sys.argv[1:2] == ["--child"]:
        child(sys.argv[2], int(sys.argv[3]))
    else:
        numbers = [int(word) for word in sys.argv[1:]]
        raise SystemExit(main(*(numbers + [2_000, random.randrange(1_000_000)][len(numbers) :])))
