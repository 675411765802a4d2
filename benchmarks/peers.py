"""`%%llm` compared with other tools: the cost of an answer of 1,000 chunks, the duration of Stop, the size of
errors.

    python benchmarks/peers.py

Each tool has its own virtual environment (created once, in the user's cache folder) and a real kernel; all
request the same answer at the same pace from the same simulator, in turn, several times. Measured are
messages and bytes on the kernel's output channel, the CPU time of the kernel's process above that of an idle
one, the time from the interrupt to the closed socket as the server saw it, and the bytes of the error shown
for an interrupt and for a rejected key. Medians; ratios are to nbllm in the same run. A tool that cannot be
installed is reported as missing; what a tool does not support is n/a with the reason, never 0.
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

from benchmarks.environments import clean_environment, python_for
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
    """How a tool is set up and called. `streams`: why it does not stream, "" if it does."""

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
    """A kernel of one environment, and its messages."""

    def __init__(self, python: str, env: dict[str, str]) -> None:
        self._manager = KernelManager()
        self._manager._kernel_spec = KernelSpec(
            argv=[python, "-m", "ipykernel_launcher", "-f", "{connection_file}"],
            language="python",
            display_name="peer",
        )
        self._manager.start_kernel(env={**clean_environment(), **env})
        self.client = self._manager.client()
        self.client.start_channels()
        self.client.wait_for_ready(timeout=120)
        self.pid = self._manager.provisioner.pid

    def start(self, code: str) -> str:
        """Sends a cell as a front end does."""
        return self.client.execute(code, allow_stdin=True)

    def read(self, parent: str, timeout: float = 180) -> list[dict]:
        """The messages of a cell, until it is done."""
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
        """Runs a cell and returns its messages."""
        return self.read(self.start(code))

    def cpu(self) -> float:
        """Seconds of CPU time so far."""
        fields = Path(f"/proc/{self.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def interrupt(self) -> None:
        """What the Stop button does."""
        self._manager.interrupt_kernel()

    def close(self) -> None:
        """Ends the kernel."""
        self.client.stop_channels()
        self._manager.shutdown_kernel(now=True)


COUNTED_MESSAGES = (
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
    """The measurements of one tool; each list has one value per round."""

    messages: list[float] = field(default_factory=list)
    kilobytes: list[float] = field(default_factory=list)
    cpu: list[float] = field(default_factory=list)
    stop_ms: list[float] = field(default_factory=list)
    interrupt_bytes: list[float] = field(default_factory=list)
    refused_bytes: list[float] = field(default_factory=list)
    why: str = ""


def bytes_of(messages: list[dict]) -> int:
    """The approximate size of messages on the wire: their content as JSON and an envelope."""
    import json

    return sum(620 + len(json.dumps(m["content"], default=str).encode()) for m in messages)


def errors_of(messages: list[dict]) -> int:
    """Bytes of the output of a failed cell: its error, or what it printed or displayed instead."""
    import json

    errors = [m for m in messages if m["msg_type"] == "error"]
    shown = errors or [m for m in messages if m["msg_type"] in ("stream", "execute_result", "display_data")]
    return sum(len(json.dumps(m["content"], default=str).encode()) for m in shown)


def measure(tool: Tool, kernel: Kernel, sim: simulator.Simulator, number: int, figures: Figures) -> None:
    """One round of all measurements."""

    def ask(options: str, prompt: str) -> str:
        return tool.cell.format(model=f"m@{options}", prompt=prompt)

    before = kernel.cpu()
    ran = kernel.run(ask(f"tokens={CHUNKS},gap={GAP}", f"answer {number}"))
    shown = [m for m in ran if m["msg_type"] in COUNTED_MESSAGES]
    failed = next((m for m in ran if m["msg_type"] == "error"), None)
    if failed is not None:
        figures.why = f"{failed['content']['ename']}: {failed['content']['evalue'][:80]}"
        return
    figures.messages.append(len(shown))
    figures.kilobytes.append(bytes_of(shown) / 1000)
    figures.cpu.append((kernel.cpu() - before) * 1000 / (CHUNKS / 1000))
    marker = f"stop {number} of {tool.name}"
    parent = kernel.start(ask("tokens=6000,gap=0.01,ttft=0.05", marker))
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline and not any(marker in (r.prompt or "") for r in sim.records):
        time.sleep(0.02)
    time.sleep(0.8)  # it streams
    stopped_at = time.monotonic_ns()
    kernel.interrupt()
    stopped = kernel.read(parent, timeout=120)
    closed = [
        (r.aborted_ns - stopped_at) / 1e6
        for r in sim.settled(90)
        if marker in (r.prompt or "") and r.aborted_ns is not None
    ]
    figures.stop_ms += closed[:1] or [float("inf")]
    figures.interrupt_bytes.append(errors_of([m for m in stopped if m["msg_type"] == "error"]))
    figures.refused_bytes.append(errors_of(kernel.run(ask("status=401", f"refused {number}"))))


def format_median(values: list[float], base: list[float], unit: str) -> str:
    """A median, and its ratio to nbllm's."""
    if not values:
        return "n/a"
    base_median, median = statistics.median(base) if base else 0.0, statistics.median(values)
    ratio = f" ({median / base_median:.1f}x)" if base_median and values is not base else ""
    return f"{median:,.0f}{unit}{ratio}"


def start_tool(tool: Tool, env: dict[str, str], kernels: dict[str, Kernel], figures: Figures) -> None:
    """Starts a kernel with the tool loaded and warmed up."""
    try:
        name = tool.name.split()[0].strip(",").lower()
        kernel = kernels[tool.name] = Kernel(python_for(name, tool.packages), env)
    except (subprocess.CalledProcessError, OSError, RuntimeError) as error:
        figures.why = f"MISSING: {error}"
        print(f"{tool.name} IS MISSING: {error}", file=sys.stderr)
        return
    failed = [m for m in kernel.run(tool.setup) if m["msg_type"] == "error"]
    if failed:
        figures.why = (
            f"set-up failed: {failed[0]['content']['ename']}: {failed[0]['content']['evalue'][:100]}"
        )
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
            start_tool(tool, env, kernels, figures[tool.name])
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
            + " | ".join(
                format_median(getattr(figures[t.name], name), getattr(base, name), unit) for t in TOOLS
            )
            + " |"
        )
    for tool in TOOLS:
        for note in (figures[tool.name].why, tool.streams):
            if note:
                print(f"{tool.name}: {note}")


if __name__ == "__main__":
    main()
