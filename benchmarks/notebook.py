"""The overhead of `%%llm`: loading, messages and bytes to the front end, kernel CPU, CSS in the final output,
the time from the cell to the request, from the first token to the screen, and from Stop to the closed socket.
A figure with a target shows it.

    python benchmarks/notebook.py

Runs against the simulator, which records when it sent each chunk and when its client disconnected. Loading
time is compared with plain IPython in the same run; absolute times depend on the machine.
"""

from __future__ import annotations

import random
import re
import statistics
import subprocess
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from nbllm import simulator
from tests.kernels import Kernel, Ran, Wire

KEYS = {"OPENAI_API_KEY": "sk-benchmark"}


def loading(rounds: int = 7) -> None:
    """Process time of IPython alone and of IPython with %load_ext nbllm, in turn."""
    plain, loaded = [], []
    for _ in range(rounds):
        for code, out in (("pass", plain), ("%load_ext nbllm", loaded)):
            began = time.perf_counter()
            subprocess.run(
                [sys.executable, "-m", "IPython", "--quick", "--no-banner", "-c", code],
                check=True,
                capture_output=True,
            )
            out.append(time.perf_counter() - began)
    a, b = statistics.median(plain), statistics.median(loaded)
    print(
        f"load_ext          IPython {a:.2f} s, with nbllm {b:.2f} s: {b - a:.2f} s more (wanted: 0.15), "
        f"ratio {b / a:.2f} (median of {rounds})"
    )


def run_answer(kernel: Kernel, chunks: int, gap: float) -> tuple[Ran, float]:
    """The cell of an answer, and its CPU seconds in the kernel."""
    before = kernel.value("time.process_time()")
    ran = kernel.run(f"%%llm openai/m@tokens={chunks},gap={gap} -o answer\nx", timeout=120)
    assert ran.ok, ran.error
    return ran, kernel.value("time.process_time()") - before


def traffic(sim: simulator.Simulator) -> None:
    """Messages and bytes on the kernel's output channel, and repetitions in the final output."""
    with Kernel(OPENAI_BASE_URL=sim.base_url("openai_chat"), **KEYS) as kernel:
        wire = Wire(kernel)
        kernel.run("import time")
        kernel.run("%%llm openai/m@tokens=50\nwarm")
        for chunks, gap in ((500, 0.01), (1000, 0.003), (5000, 0.004)):
            wire.taken()
            ran, cpu = run_answer(kernel, chunks, gap)
            text = kernel.value("len(answer.text.encode())")
            messages = [
                (t, n)
                for t, n in wire.taken()
                if t in ("display_data", "update_display_data", "clear_output")
            ]
            size = sum(n for _, n in messages)
            print(
                f"{chunks:5} chunks      {len(messages):4} messages, {size / 1000:6.0f} kB = "
                f"{size / text:4.0f} x text, {cpu / chunks * 1000:.2f} ms CPU a chunk"
            )
            sheets = re.findall("<style>(.*?)</style>", ran.html, re.DOTALL)
            rules = [rule for sheet in sheets for rule in sheet.split("}") if rule]
            print(
                f"  what stays      {len(ran.html) / 1000:.1f} kB of HTML, {len(sheets)} style of "
                f"{sum(map(len, sheets)) / 1000:.1f} kB, {len(rules) - len(set(rules))} rules twice (wanted: "
                f"0), {ran.html.count(' style=')} styles of single tags"
            )
        wire.close()


def working(sim: simulator.Simulator, rounds: int = 5) -> None:
    """Kernel CPU of 1,000 chunks without another reader of the output channel; the best, as in client.py."""
    with Kernel(OPENAI_BASE_URL=sim.base_url("openai_chat"), **KEYS) as kernel:
        kernel.run("import time")
        kernel.run("%%llm openai/m@tokens=50\nwarm")
        for gap in (0.002, 0.003):
            cpu_s = sorted(run_answer(kernel, 1000, gap)[1] for _ in range(rounds))
            print(
                f"kernel CPU        1,000 chunks {gap * 1000:g} ms apart: {cpu_s[0]:.2f} s (wanted: 0.15), "
                f"median {statistics.median(cpu_s):.2f} of {rounds}"
            )


def reaching(sim: simulator.Simulator, rounds: int = 20) -> None:
    """The time from the cell to the request at the server, minus that of a cell that only reads the clock;
    and from the write of the first token to the message that shows it. In turn."""
    code, socket, paint = [], [], []
    with Kernel(OPENAI_BASE_URL=sim.base_url("openai_chat"), **KEYS) as kernel:
        kernel.run("import time")
        kernel.run("%%llm openai/m@tokens=50\nwarm")
        for i in range(rounds):
            began = time.monotonic_ns()
            kernel.run("now = time.monotonic_ns()")
            code.append((kernel.value("now") - began) / 1e6)
            began = time.monotonic_ns()
            parent = kernel.start(f"%%llm openai/m@tokens=40,gap=0.02,ttft=0.2\nreach {i}")
            kernel.collect(parent, lambda m: "to first token" in str(m["content"]))
            shown = time.monotonic_ns()
            kernel.collect(parent)
            [record] = [r for r in sim.settled(30) if r.prompt == f"reach {i}"]
            socket.append((record.received_ns - began) / 1e6)
            paint.append((shown - record.tokens[0].written_ns) / 1e6)
    base = min(code)
    print(
        f"cell to request   {min(socket) - base:.1f} ms more than the {base:.1f} ms of any cell (wanted: 5; "
        f"median {statistics.median(socket) - statistics.median(code):.1f}); first token to screen: "
        f"median {statistics.median(paint):.0f} ms (wanted: 30), longest {max(paint):.0f}"
    )


def stopping(sim: simulator.Simulator, rounds: int = 30) -> None:
    """From the interrupt to the closed socket, as the server saw it."""
    rng, delays = random.Random(1), []
    with Kernel(OPENAI_BASE_URL=sim.base_url("openai_chat"), **KEYS) as kernel:
        for i in range(rounds):
            parent = kernel.start(f"%%llm openai/m@tokens=5000,gap=0.01,ttft=0.05\nround {i}")
            kernel.collect(parent, lambda m: m["msg_type"] == "display_data")
            deadline = time.monotonic() + rng.uniform(0.0, 0.3)
            while time.monotonic() < deadline:
                time.sleep(0.005)
            stopped_at = time.monotonic_ns()
            kernel.interrupt()
            kernel.collect(parent)
            # A Stop before the request was sent leaves neither a record nor a socket.
            delays += [
                (r.aborted_ns - stopped_at) / 1e6
                for r in sim.settled(5)
                if r.prompt == f"round {i}" and r.aborted_ns is not None
            ]
    delays.sort()
    print(
        f"Stop to closed    median {statistics.median(delays):.1f} ms, "
        f"p95 {delays[int(0.95 * len(delays))]:.1f} ms, max {delays[-1]:.1f} ms of {len(delays)}"
    )


if __name__ == "__main__":
    loading()
    with simulator.serve(ttft=0.05, gap=0.005) as server:
        traffic(server)
        working(server)
        reaching(server)
        stopping(server)
