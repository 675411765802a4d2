"""Whether a table's rows keep to a provider's limit: 300 rows against 60 requests a minute, told in each
provider's own headers.

    python benchmarks/gate.py [ROWS] [STYLE ...]

All at the same time, each in a process of its own against a simulator of its own (limits=STYLE); "+" is two
processes with half of the rows each and one key, which know nothing of each other. refused: answers 429.
rate: answers a minute after the first one, of 60 that are possible. pause: the longest time without a
request after the first minute, seconds; 1 is what the limit asks for.

On two cores that others used as well:

                  refused     rate    pause  seconds   (300 rows)
    openai              0     60.1      1.1      241
    cerebras            2     60.3      1.3      240
    none+             132     60.0      1.8      241
    groq               27     61.0      1.3      240
    azure               0     60.1      1.3      241
    anthropic           7     60.3      1.3      240
    gemini             32     60.0      1.3      241
    mistral             1     79.1     59.3      242
    xai                 3     78.3     59.6      242
    none               24     60.3      1.4      241
    openai+            43     58.2      1.8      247
    azure+             44     54.7      2.5      259
    anthropic+         40     51.2      3.4      273
    together           43     53.1      1.2      338
"""

from __future__ import annotations

import os
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

SECOND = {"together"}  # whose limits are a second's
DIALECTS = {"gemini": "gemini", "anthropic": "anthropic"}
SHARED = ("openai+", "anthropic+", "azure+", "none+")
_PRINT = threading.Lock()


def child(style: str, url: str, dialect: str, first: int, rows: int) -> None:
    """Asks."""
    import pandas as pd

    import nbllm

    df = pd.DataFrame({"text": [f"row {i}" for i in range(first, first + rows)]})
    out = nbllm.map(
        df, "{text}", model=f"m@limits={style}", base_url=url, dialect=dialect, confirm="yes", width=64
    )
    assert (out["llm_status"] == "ok").all(), set(out["llm_error"])


def measured(style: str, rows: int) -> None:
    """Prints a line of the table."""
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
    began = records[0].received_ns
    times = [(record.received_ns - began) / 1e9 for record in records]
    good = [at for at, record in zip(times, records, strict=True) if record.status == 200]
    late = [at for at in good if at > 60.0]
    rate = f"{len(late) / (late[-1] - 60.0) * 60:8.1f}" if late else "       -"
    pause = max((b - a for a, b in pairwise(at for at in times if at > 60.0)), default=0.0)
    with _PRINT:
        print(f"{style:12} {len(times) - len(good):8} {rate} {pause:8.1f} {times[-1]:8.0f}", flush=True)


def main(rows: int, styles: list[str]) -> None:
    """Prints the table."""
    print(f"{'':12} {'refused':>8} {'rate':>8} {'pause':>8} {'seconds':>8}   ({rows} rows)", flush=True)
    with ThreadPoolExecutor(len(styles)) as pool:
        list(pool.map(lambda style: measured(style, rows), styles))


if __name__ == "__main__":
    if sys.argv[1:2] == ["--child"]:
        child(sys.argv[2], sys.argv[3], sys.argv[4], int(sys.argv[5]), int(sys.argv[6]))
    else:
        numbers = [int(word) for word in sys.argv[1:] if word.isdigit()]
        chosen = [word for word in sys.argv[1:] if not word.isdigit()]
        main(numbers[0] if numbers else 300, chosen or [*STYLES, *SHARED])
