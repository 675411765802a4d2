"""`%%llm` beside what people use today: what an answer of 1,000 chunks costs, how long Stop takes, how large
the errors are.

    python benchmarks/peers.py

Each tool has a virtual environment of its own (made once, under the user's cache folder) and a real kernel;
all ask the same simulator for the same answer at the same pace, in turn, several times. What is counted:
messages and bytes on the kernel's output channel, the kernel process's CPU time over an idle one, from the
interrupt to the closed socket as the server saw it, and the bytes of the error shown for an interrupt and for
a refused key. Medians; ratios are to nbllm in the same run. A tool that cannot be installed is said to be
missing; what one does not do is n/a with the reason, never 0.
"""

from __future__ import annotations

import os
import queue
import statistics
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path

from jupyter_client.kernelspec import KernelSpec
from jupyter_client.manager import KernelManager

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.environments import python_of, without_keys
from nbllm import simulator

ROUNDS, CHUNKS, GAP = 3, 1000, 0.003
SDK = """
from openai import OpenAI
from IPython.display import display, Markdown, update_display
client = OpenAI()
def ask(model, prompt):
    shown = display(Markdown(""), display_id=True)
    text = ""
    for chunk in client.chat.completions.create(model=model, messages=[{"role": "user", "content": prompt}], stream=True):
        text += chunk.choices[0].delta.content or "" if chunk.choices else ""
        shown.update(Markdown(text))
"""  # noqa: E501
CHATLAS = """
from chatlas import ChatOpenAICompletions
def ask(model, prompt):
    ChatOpenAICompletions(model=model, base_url=__import__("os").environ["OPENAI_BASE_URL"]).chat(prompt)
"""


@dataclass(frozen=True)
class Tool:
    """How a tool is set up and asked. `streams` is why it has no first chunk before the last, "" where it
    has."""

    name: str
    packages: tuple[str, ...]
    setup: str
    cell: str
    streams: str = ""


TOOLS = (
    Tool("nbllm", (), "%load_ext nbllm", "%%llm openai/{model}\n{prompt}"),
    Tool("openai SDK, a display per chunk", ("openai>=2", "ipykernel"), SDK, "ask({model!r}, {prompt!r})"),
    Tool(
        "chatlas 0.23",
        ("chatlas[openai]==0.23.0", "ipykernel", "ipywidgets"),
        CHATLAS,
        "ask({model!r}, {prompt!r})",
    ),
    Tool(
        "jupyter-ai-magics 2.31.7",
        ("jupyter-ai-magics==2.31.7", "langchain-openai", "ipykernel"),
        "%load_ext jupyter_ai_magics",
        "%%ai openai-chat-custom:{model}\n{prompt}",
        "it shows whole answers",
    ),
)


class Kernel:
    """A kernel of one environment, and what it says."""

    def __init__(self, python: str, env: dict[str, str]) -> None:
        self._manager = KernelManager()
        self._manager._kernel_spec = KernelSpec(
            argv=[python, "-m", "ipykernel_launcher", "-f", "{connection_file}"],
            language="python",
            display_name="peer",
        )
        self._manager.start_kernel(env={**without_keys(), **env})
        self.client = self._manager.client()
        self.client.start_channels()
        self.client.wait_for_ready(timeout=120)
        self.pid = self._manager.provisioner.pid

    def start(self, code: str) -> str:
        """Sends a cell as a front end does."""
        return self.client.execute(code, allow_stdin=True)

    def read(self, parent: str, timeout: float = 180) -> list[dict]:
        """The messages of a cell, up to its end."""
        out, end = [], time.monotonic() + timeout
        while time.monotonic() < end:
            try:
                message = self.client.get_iopub_msg(timeout=5)
            except queue.Empty:
                continue
            if message["parent_header"].get("msg_id") != parent:
                continue
            out.append(message)
            if message["msg_type"] == "status" and message["content"]["execution_state"] == "idle":
                break
        return out

    def run(self, code: str) -> list[dict]:
        """Runs a cell to its end."""
        return self.read(self.start(code))

    def cpu(self) -> float:
        """Seconds of processor time so far."""
        fields = Path(f"/proc/{self.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def interrupt(self) -> None:
        """What the Stop button does."""
        self._manager.interrupt_kernel()

    def close(self) -> None:
        """Ends it."""
        self.client.stop_channels()
        self._manager.shutdown_kernel(now=True)


SHOWN = (
    "display_data",
    "update_display_data",
    "clear_output",
    "stream",
    "execute_result",
    "error",
    "comm_msg",
    "comm_open",
)


@dataclass
class Figures:
    """What was measured of one tool; each list has a value a round."""

    messages: list[float] = field(default_factory=list)
    kilobytes: list[float] = field(default_factory=list)
    cpu: list[float] = field(default_factory=list)
    stop_ms: list[float] = field(default_factory=list)
    interrupt_bytes: list[float] = field(default_factory=list)
    refused_bytes: list[float] = field(default_factory=list)
    why: str = ""


def bytes_of(messages: list[dict]) -> int:
    """The size of messages on the wire, about: their content as JSON and an envelope."""
    import json

    return sum(620 + len(json.dumps(m["content"], default=str).encode()) for m in messages)


def errors_of(messages: list[dict]) -> int:
    """Bytes of what a failed cell shows: its error, or what it printed or displayed instead of one."""
    import json

    errors = [m for m in messages if m["msg_type"] == "error"]
    said = errors or [m for m in messages if m["msg_type"] in ("stream", "execute_result", "display_data")]
    return sum(len(json.dumps(m["content"], default=str).encode()) for m in said)


def measure(tool: Tool, kernel: Kernel, sim: simulator.Simulator, number: int, into: Figures) -> None:
    """One round of everything."""

    def ask(options: str, prompt: str) -> str:
        return tool.cell.format(model=f"m@{options}", prompt=prompt)

    before = kernel.cpu()
    ran = kernel.run(ask(f"tokens={CHUNKS},gap={GAP}", f"answer {number}"))
    shown = [m for m in ran if m["msg_type"] in SHOWN]
    failed = next((m for m in ran if m["msg_type"] == "error"), None)
    if failed is not None:
        into.why = f"{failed['content']['ename']}: {failed['content']['evalue'][:80]}"
        return
    into.messages.append(len(shown))
    into.kilobytes.append(bytes_of(shown) / 1000)
    into.cpu.append((kernel.cpu() - before) * 1000 / (CHUNKS / 1000))
    sign = f"stop {number} of {tool.name}"
    parent = kernel.start(ask("tokens=6000,gap=0.01,ttft=0.05", sign))
    until = time.monotonic() + 20
    while time.monotonic() < until and not any(sign in (r.prompt or "") for r in sim.records):
        time.sleep(0.02)
    time.sleep(0.8)  # it streams
    pressed = time.monotonic_ns()
    kernel.interrupt()
    stopped = kernel.read(parent, timeout=120)
    closed = [
        (r.aborted_ns - pressed) / 1e6
        for r in sim.settled(90)
        if sign in (r.prompt or "") and r.aborted_ns is not None
    ]
    into.stop_ms += closed[:1] or [float("inf")]
    into.interrupt_bytes.append(errors_of([m for m in stopped if m["msg_type"] == "error"]))
    into.refused_bytes.append(errors_of(kernel.run(ask("status=401", f"refused {number}"))))


def told(values: list[float], base: list[float], unit: str) -> str:
    """A median, and how many times nbllm's it is."""
    if not values:
        return "n/a"
    mine, theirs = statistics.median(base) if base else 0.0, statistics.median(values)
    ratio = f" ({theirs / mine:.1f}x)" if mine and values is not base else ""
    return f"{theirs:,.0f}{unit}{ratio}"


def begin(tool: Tool, env: dict[str, str], kernels: dict[str, Kernel], into: Figures) -> None:
    """A kernel with the tool loaded and warm."""
    try:
        name = tool.name.split()[0].strip(",").lower()
        kernel = kernels[tool.name] = Kernel(python_of(name, tool.packages), env)
    except (subprocess.CalledProcessError, OSError, RuntimeError) as error:
        into.why = f"MISSING: {error}"
        print(f"{tool.name} IS MISSING: {error}", file=sys.stderr)
        return
    failed = [m for m in kernel.run(tool.setup) if m["msg_type"] == "error"]
    if failed:
        into.why = f"set-up failed: {failed[0]['content']['ename']}: {failed[0]['content']['evalue'][:100]}"
    kernel.run(tool.cell.format(model="m@tokens=20", prompt="warm"))


def main() -> None:
    """Prints the table."""
    figures = {tool.name: Figures() for tool in TOOLS}
    kernels: dict[str, Kernel] = {}
    with simulator.serve(ttft=0.05, gap=GAP) as sim:
        env = {
            "OPENAI_API_KEY": "sk-benchmark",
            "OPENAI_BASE_URL": sim.base_url("openai_chat"),
            "OPENAI_API_BASE": sim.base_url("openai_chat"),
        }
        for tool in TOOLS:
            begin(tool, env, kernels, figures[tool.name])
        for number in range(ROUNDS):
            for tool in TOOLS:
                if not figures[tool.name].why:
                    measure(tool, kernels[tool.name], sim, number, figures[tool.name])
    for kernel in kernels.values():
        kernel.close()
    base = figures["nbllm"]
    rows = (
        ("messages to the front end", "messages", ""),
        ("bytes to the front end", "kilobytes", " kB"),
        ("kernel CPU", "cpu", " ms"),
        ("Stop to closed socket", "stop_ms", " ms"),
        ("error after Stop", "interrupt_bytes", " B"),
        ("error of a refused key", "refused_bytes", " B"),
    )
    print(
        f"An answer of {CHUNKS:,} chunks, {GAP * 1000:g} ms apart; medians of {ROUNDS} rounds in turn; "
        f"(times nbllm's)\n"
    )
    print("| | " + " | ".join(t.name for t in TOOLS) + " |\n|---|" + "---|" * len(TOOLS))
    for label, name, unit in rows:
        print(
            f"| {label} | "
            + " | ".join(told(getattr(figures[t.name], name), getattr(base, name), unit) for t in TOOLS)
            + " |"
        )
    for tool in TOOLS:
        for note in (figures[tool.name].why, tool.streams):
            if note:
                print(f"{tool.name}: {note}")


if __name__ == "__main__":
    main()
