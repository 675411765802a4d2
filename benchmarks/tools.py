"""The overhead of an agent loop above the requests it makes, and how soon Stop ends it.

    python benchmarks/tools.py [LOOPS | stops]

Loops of two and of nine steps (the model calls a function of this process, and finally answers) next to
conversations of as many plain requests with the same messages and as many chunks, in turn, against a
simulator in a separate process; CPU time of this process, the best of five rounds. The cost of a step is that
of the seven additional steps; the fixed cost of an answer with tools (the function's schema, the set-up) is
shown too. Then eight calls of an MCP tool that takes a second each, requested together by one answer: seconds
for the complete answer. Last, in a kernel, the time from Stop to the end of the cell, by what was running:
the median and the longest of ten.
"""

from __future__ import annotations

import contextlib
import functools
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import nbllm
from nbllm import simulator
from nbllm.tools.mcp_entry import Source, parse_entry
from tests.kernels import Kernel

ROUNDS = 5
STOPS = 10
SERVER = '''
import time
from mcp.server.mcpserver import MCPServer
server = MCPServer("slow")
@server.tool()
def wait(article: str = "") -> str:
    """Takes a second."""
    time.sleep(1)
    return "done"
server.run("stdio")
'''


def price(article: str = "") -> float:
    """The list price of an article."""
    return 4.5


def cpu_seconds(work: Callable[[], object], times: int) -> float:
    """Mean CPU seconds of a call of `work`."""
    start = time.process_time()
    for _ in range(times):
        work()
    return (time.process_time() - start) / times


def main(loops: int) -> None:
    command = [sys.executable, "-m", "nbllm.simulator", "--attached", "--defaults", "ttft=0,gap=0,tokens=8"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        url = process.stdout.readline().strip() + "/v1"
        options = {"base_url": url, "dialect": "openai_chat", "api_key": "k"}

        def loop(steps: int) -> None:
            turns = [
                {"calls": [{"name": "price", "arguments": {"article": f"A-{n}"}}]} for n in range(steps - 1)
            ]
            model = f"m@{simulator.script([*turns, {'text': 'It is 4.5.'}])}"
            answer = nbllm.complete(
                "What do they cost?", model=model, tools=[price], approve="auto", **options
            )
            assert len(answer.steps) == steps, answer.steps
            messages_of[steps] = answer.messages

        def plain(steps: int) -> None:
            ask = nbllm.Message("user", "What do they cost?")
            for n in range(steps):
                nbllm.complete([ask, *messages_of[steps][: 2 * n]], model="m@tools=0,tokens=20", **options)

        messages_of: dict[int, Any] = {}
        columns = [(work, steps) for steps in (2, 9) for work in (loop, plain)]
        for work, steps in columns:
            work(steps)
        rounds = [
            [cpu_seconds(functools.partial(work, steps), loops) for work, steps in columns]
            for _ in range(ROUNDS)
        ]
        loop2, plain2, loop9, plain9 = (1e3 * min(column) for column in zip(*rounds, strict=True))
        step, bare = (loop9 - loop2) / 7, (plain9 - plain2) / 7
        print(f"CPU a plain request {bare:.2f} ms, a step {step:.2f} ms: {step - bare:.2f} ms more")
        print(f"once for each answer with tools: {loop2 - plain2 - 2 * (step - bare):.2f} ms")
        process.kill()
    time_mcp_calls()


def time_mcp_calls() -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "slow.py")
        path.write_text(SERVER, "utf-8")
        table = {"command": sys.executable, "args": [str(path)]}
        with contextlib.closing(nbllm.Client()) as client:
            client.mcp.add(parse_entry("slow", table, Source("this session", Path(folder), trusted=True), {}))
            options = {"model": "sim/openai/m@ttft=0,gap=0,tools=8", "tools": ["mcp/slow"], "approve": "auto"}
            client.complete("Warm up.", **{**options, "model": "sim/openai/m@ttft=0,gap=0,tools=1"})
            start = time.perf_counter()
            answer = client.complete("Wait eight times.", **options)
            seconds, calls = time.perf_counter() - start, sum(len(s.results) for s in answer.steps)
    print(f"{calls} MCP calls of 1 s in one answer: {seconds:.2f} s")


HANGS = """
import pathlib, sys, time
if sys.argv[2:]:
    pathlib.Path(sys.argv[1]).write_text("begun")
    time.sleep(3600)
from mcp.server.mcpserver import MCPServer
server = MCPServer("slow")
@server.tool()
def wait() -> str:
    pathlib.Path(sys.argv[1]).write_text("begun")
    time.sleep(3600)
server.run("stdio")
"""
# What a cell can call: each says when it has begun.
DEFINE = """
import asyncio, pathlib, sys, time
begun = pathlib.Path({mark!r})
def blocking() -> str:
    begun.write_text("begun")
    time.sleep(3600)
async def sleeping() -> str:
    begun.write_text("begun")
    await asyncio.sleep(3600)
async def deaf() -> str:
    begun.write_text("begun")
    time.sleep(3600)
async def stubborn() -> str:
    begun.write_text("begun")
    while True:
        try:
            await asyncio.sleep(3600)
        except asyncio.CancelledError:
            pass
web = nbllm.tools.HttpTool("web", {url!r}, private=True)
%llm mcp add slow -- {python} {server} {mark}
%llm mcp add mute -- {python} {server} {mark} mute
command = [sys.executable, {server!r}, {mark!r}, "mute"]
nbllm.register_provider("cli/hangs", command=command, label="Hangs")
"""
CALLED = {
    "a function": "blocking",
    "a coroutine": "sleeping",
    "a coroutine that blocks": "deaf",
    "a coroutine that does not end": "stubborn",
    "a command-line agent": "cli/hangs",
    "a call of an MCP server": "mcp/slow",
    "a request of an HTTP tool": "web",
}


def time_stops(kernel: Kernel, mark: Path, line: str, wait: Callable[[str], object]) -> str:
    """Stops a cell several times, each time after `wait` returns, and returns the times as text."""
    times = []
    for _ in range(STOPS + 1):
        mark.unlink(missing_ok=True)
        message = kernel.start(f"%%llm {line}\nGo.")
        wait(message)
        start = time.perf_counter()
        kernel.interrupt()
        ran = kernel.collect(message)
        times.append(1e3 * (time.perf_counter() - start))
        assert ran.error is not None, ran.text
        assert ran.error["ename"] == "Stopped", ran.error
    own = times[1:]  # the first one loads things
    return f"{statistics.median(own):.0f} ms, longest {max(own):.0f} ms"


def measure_stops() -> None:
    with tempfile.TemporaryDirectory() as folder, contextlib.ExitStack() as stack:
        mark, script = Path(folder, "begun"), Path(folder, "server.py")
        script.write_text(HANGS, "utf-8")

        class Hanging(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                mark.write_text("begun", "utf-8")
                threading.Event().wait()

            def log_message(self, *_args: Any) -> None:
                pass

        web = ThreadingHTTPServer(("127.0.0.1", 0), Hanging)
        web.daemon_threads = True
        threading.Thread(target=web.serve_forever, daemon=True).start()
        kernel = stack.enter_context(Kernel(XDG_CONFIG_HOME=folder, NBLLM_HOME=folder))
        url = f"http://127.0.0.1:{web.server_port}/"
        ran = kernel.run(DEFINE.format(mark=str(mark), url=url, python=sys.executable, server=str(script)))
        assert ran.ok, ran.error

        def wait_for_mark(_message: str) -> None:
            until = time.monotonic() + 60
            while not mark.exists():
                assert time.monotonic() < until
                time.sleep(0.01)

        def wait_for_display(message: str) -> None:
            kernel.collect(message, until=lambda m: m["msg_type"] == "display_data")
            time.sleep(0.3)

        def wait_for_updates(message: str) -> None:
            count = iter(range(5))
            kernel.collect(
                message, until=lambda m: m["msg_type"] == "update_display_data" and not next(count, 0)
            )

        def report(stage: str, line: str, wait: Callable[[str], object]) -> None:
            print(f"Stop in {stage}: {time_stops(kernel, mark, line, wait)}", flush=True)

        model = "sim/openai/m@ttft=0,gap=0"
        report("a silence before the answer", "sim/openai/m@headers=3600", wait_for_display)
        report("a silence after the headers", "sim/openai/m@ttft=3600", wait_for_display)
        report("the model's answer", "sim/openai/m@ttft=0,gap=0.02,tokens=100000", wait_for_updates)
        report("the start of an MCP server", f"{model} tools=mcp/mute", wait_for_display)
        for stage, tool in CALLED.items():
            report(stage, f"{model},tools=1 tools={tool} approve=auto", wait_for_mark)
        report(
            "a question", f"{model},tools=1 tools=blocking", lambda _: kernel.client.get_stdin_msg(timeout=60)
        )


if __name__ == "__main__":
    if sys.argv[1:2] != ["stops"]:
        main(int(sys.argv[1]) if sys.argv[1:] else 50)
    measure_stops()
