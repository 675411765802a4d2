"""The duration of a write to the ledger while several kernels write, and that killed kernels lose nothing.

    python benchmarks/kernels.py [KERNELS]

Half of the kernels are killed. Two cores that others used as well, eight kernels, 10 s:

    8 kernels, 4 killed: 5,090 writes, 0 missing; p50 0.10 ms, p99 3.0 ms, longest 65 ms
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

SECONDS = 10.0
WRITER = """
import time
from nbllm.store.history import ledger_file
own, n = ledger_file(), 0
while True:
    own.append([(1e9 + n, own.kernel, str(n), 1, '{"x": "' + "x" * 500 + '"}')])
    began = time.perf_counter()
    own.flush()
    print(own.kernel, n, time.perf_counter() - began, flush=True)
    n += 1
    time.sleep(0.01)
"""


def main() -> None:
    """Starts the kernels, kills half of them in the middle, and counts."""
    from nbllm.store.history import read_calls

    number = int(sys.argv[1]) if len(sys.argv) > 1 else 8
    command = [sys.executable, "-c", WRITER]
    env = {**os.environ, "PYTHONPATH": str(Path(__file__).resolve().parent.parent)}
    kernels = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=env) for _ in range(number)]
    time.sleep(SECONDS / 2)
    for kernel in kernels[::2]:
        kernel.kill()
    time.sleep(SECONDS / 2)
    reported: dict[str, int] = {}
    times: list[float] = []
    for kernel in kernels:
        kernel.kill()
        assert kernel.stdout is not None
        for line in kernel.stdout:
            if len(words := line.split()) == 3:
                reported[words[0]] = int(words[1])
                times.append(float(words[2]))
    stored, problems = read_calls()
    assert not problems, problems
    stored_keys = {(key[1], int(key[2])) for key in stored}
    missing = [(k, n) for k, last in reported.items() for n in range(last + 1) if (k, n) not in stored_keys]
    p99 = statistics.quantiles(times, n=100)[98]
    print(
        f"{number} kernels, {len(kernels[::2])} killed: {len(times):,} writes, {len(missing)} missing; "
        f"p50 {statistics.median(times) * 1e3:.2f} ms, p99 {p99 * 1e3:.1f} ms, "
        f"longest {max(times) * 1e3:.0f} ms"
    )


if __name__ == "__main__":
    main()
