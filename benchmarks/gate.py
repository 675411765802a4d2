"""Whether the rows of a table keep to a provider's rate limit: 300 rows against 60 requests a minute,
announced in each provider's own headers.

    python benchmarks/gate.py                                 in a moment, with a simulated clock
    python benchmarks/gate.py --sockets [ROWS] [STYLE ...]    over sockets, in minutes

With a simulated clock: the limiter against the simulator's limits, with varying network and answer times, ten
times each (tests/gate_clock.py); the median and the worst are shown. Over sockets: all styles at the same
time, each in its own process against its own simulator (limits=STYLE). "+" means two processes with half of
the rows each and a common key, which know nothing of each other. refused: answers with status 429. rate:
answers per minute after the first minute, of 60 that are possible; share: of the possible ones, until the end
of the last answer. pause: the longest time without a request in seconds (over sockets after the first
minute); the limit itself implies 1. In a fixed window (mistral over sockets) the whole quota returns at once,
and the pause is the minute.

                      refused          share    pause   (300 rows; middle and worst of ten)
    openai              0   3      0.997 0.990    4.0
    anthropic           0   3      0.997 0.990    4.0
    azure               0   3      0.997 0.990    4.0
    groq                3   4      0.989 0.988    1.1
    cerebras            0   2      0.997 0.990    4.0
    mistral             0   2      0.997 0.996    1.5
    together            0   0      0.969 0.969    1.2
    xai                 0   2      0.997 0.996    1.5
    gemini              3   4      0.989 0.988    1.1
    none                3   4      0.989 0.988    1.1
    openai+             0   0      0.990 0.987    2.0
    anthropic+          0   0      0.990 0.987    2.0
    azure+              0   0      0.990 0.987    2.0
    groq+               7   9      0.916 0.855    2.3
    cerebras+           0   0      0.990 0.987    2.0
    mistral+            0   0      0.990 0.987    2.0
    together+          19  42      0.964 0.924    9.6
    xai+                0   0      0.990 0.987    2.0
    gemini+             8  10      0.914 0.855    2.6
    none+               7   9      0.917 0.756    2.7

Over sockets, on two cores that eight other programs used; none+ and groq+ are 300 rows of two processes where
no header shows the limit, and each finds its half from its own refusals:

                  refused     rate    pause  seconds   (300 rows)
    openai              0     60.2      1.0      241
    anthropic           0     60.2      1.1      241
    azure               0     60.2      1.1      241
    cerebras            0     60.1      1.0      241
    xai                 0     60.2      1.1      241
    gemini              3     60.8      1.1      242
    mistral             3     79.7     59.7      241
    none                5     60.2      1.1      243
    groq                5     60.2      1.1      243
    together            0     58.3      1.1      309
    openai+             0     59.8      2.0      243
    anthropic+          0     59.8      2.0      243
    azure+              5     59.7      2.0      243
    none+              13     55.3      2.2      256
    groq+              10     44.1      2.5      309
    together+          20     58.0      1.1      310
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from pathlib import Path
from tempfile import TemporaryDirectory

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from nbllm import simulator
from nbllm.simulator.limits import STYLES
from tests.gate_clock import Sitting, played

SECOND = {"together"}  # with limits per second
DIALECTS = {"gemini": "gemini", "anthropic": "anthropic"}
SHARED = ("openai+", "anthropic+", "azure+", "none+")
_PRINT = threading.Lock()


def child(style: str, url: str, dialect: str, first: int, rows: int) -> None:
    """Sends the rows."""
    import pandas as pd

    import nbllm

    df = pd.DataFrame({"text": [f"row {i}" for i in range(first, first + rows)]})
    out = nbllm.map(
        df, "{text}", model=f"m@limits={style}", base_url=url, dialect=dialect, confirm="yes", width=64
    )
    assert (out["llm_status"] == "ok").all(), set(out["llm_error"])


def measure_style(style: str, rows: int) -> None:
    """Prints a row of the table."""
    name, processes = style.rstrip("+"), 2 if style.endswith("+") else 1
    dialect = DIALECTS.get(name, "openai_chat")
    limit = {"rpm": 1, "per": 1.0} if name in SECOND else {"rpm": 60, "per": 60.0}
    limit |= {"fixed": name == "mistral"}
    with simulator.serve(ttft=0.1, gap=0.0, tokens=2, **limit) as server, TemporaryDirectory() as home:
        each = rows // processes
        command = [sys.executable, __file__, "--child", name, server.base_url(dialect), dialect]
        running = [
            subprocess.Popen(
                [*command, str(number * each), str(each)],
                env={**os.environ, "NBLLM_HOME": home},
            )
            for number in range(processes)
        ]
        if any([process.wait() for process in running]):  # noqa: C419 - all of them are waited for
            raise SystemExit(f"{style} failed")
        records = list(server.records)
    start = records[0].received_ns
    times = [(record.received_ns - start) / 1e9 for record in records]
    answered = [at for at, record in zip(times, records, strict=True) if record.status == 200]
    steady = [at for at in answered if at > 60.0]
    rate = f"{len(steady) / (steady[-1] - 60.0) * 60:8.1f}" if steady else "       -"
    pause = max((b - a for a, b in pairwise(at for at in times if at > 60.0)), default=0.0)
    with _PRINT:
        print(f"{style:12} {len(times) - len(answered):8} {rate} {pause:8.1f} {times[-1]:8.0f}", flush=True)


def print_simulated() -> None:
    """Prints the table of all styles, with a simulated clock."""
    print(f"{'':12} {'refused':>12} {'share':>14} {'pause':>8}   (300 rows; middle and worst of ten)")
    for name in [style + plus for plus in ("", "+") for style in STYLES]:
        style, gates = name.rstrip("+"), 1 + name.endswith("+")
        limit = {"limit": 1, "per": 1.0} if style in SECOND else {}
        results = [played(Sitting(style, gates=gates, seed=seed, **limit)) for seed in range(10)]
        refused, shares = [p.refused for p in results], [p.share for p in results]
        middle = f"{statistics.median(refused):8.0f} {max(refused):3} {statistics.median(shares):10.3f}"
        print(f"{name:12} {middle} {min(shares):.3f} {max(p.pause for p in results):6.1f}", flush=True)


def main(rows: int, styles: list[str]) -> None:
    """Prints the table."""
    print(f"{'':12} {'refused':>8} {'rate':>8} {'pause':>8} {'seconds':>8}   ({rows} rows)", flush=True)
    with ThreadPoolExecutor(len(styles)) as pool:
        list(pool.map(lambda style: measure_style(style, rows), styles))


if __name__ == "__main__":
    if sys.argv[1:2] == ["--child"]:
        child(sys.argv[2], sys.argv[3], sys.argv[4], int(sys.argv[5]), int(sys.argv[6]))
    elif "--sockets" not in sys.argv:
        print_simulated()
    else:
        numbers = [int(word) for word in sys.argv[1:] if word.isdigit()]
        chosen = [word for word in sys.argv[2:] if not word.isdigit()]
        main(numbers[0] if numbers else 300, chosen or [*STYLES, *SHARED])
