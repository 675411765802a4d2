"""What an agent loop costs beside the requests it makes.

    python benchmarks/tools.py [LOOPS]

Loops of two and of nine steps (the model calls a function of this process, and answers at last) beside
conversations of as many plain requests with the same messages and as many chunks, in turn, against a
simulator in a process of its own; CPU of this process, the least of five rounds. A step is what the seven
steps between cost; what an answer with tools costs once (the function's schema, the set-up) is told too.
Then eight calls of an MCP tool that takes a second each, which one answer asks for together: seconds for the
whole answer.
"""

from __future__ import annotations

import contextlib
import functools
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nbllm
from nbllm import simulator
from nbllm.tools.mcp_entry import Source, entry_of

ROUNDS = 5
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


def spent(work: Callable[[], object], times: int) -> float:
    """Seconds of CPU that `work` takes, of so many."""
    began = time.process_time()
    for _ in range(times):
        work()
    return (time.process_time() - began) / times


def main(loops: int) -> None:
    command = [sys.executable, "-m", "nbllm.simulator", "--attached", "--defaults", "ttft=0,gap=0,tokens=8"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        url = process.stdout.readline().strip() + "/v1"
        where = {"base_url": url, "dialect": "openai_chat", "api_key": "k"}

        def loop(steps: int) -> None:
            turns = [
                {"calls": [{"name": "price", "arguments": {"article": f"A-{n}"}}]} for n in range(steps - 1)
            ]
            model = f"m@{simulator.script([*turns, {'text': 'It is 4.5.'}])}"
            answer = nbllm.complete("What do they cost?", model=model, tools=[price], approve="auto", **where)
            assert len(answer.steps) == steps, answer.steps
            told[steps] = answer.messages

        def plain(steps: int) -> None:
            ask = nbllm.Message("user", "What do they cost?")
            for n in range(steps):
                nbllm.complete([ask, *told[steps][: 2 * n]], model="m@tools=0,tokens=20", **where)

        told: dict[int, Any] = {}
        columns = [(work, steps) for steps in (2, 9) for work in (loop, plain)]
        for work, steps in columns:
            work(steps)
        rounds = [
            [spent(functools.partial(work, steps), loops) for work, steps in columns] for _ in range(ROUNDS)
        ]
        loop2, plain2, loop9, plain9 = (1e3 * min(column) for column in zip(*rounds, strict=True))
        step, bare = (loop9 - loop2) / 7, (plain9 - plain2) / 7
        print(f"CPU a plain request {bare:.2f} ms, a step {step:.2f} ms: {step - bare:.2f} ms more")
        print(f"once for each answer with tools: {loop2 - plain2 - 2 * (step - bare):.2f} ms")
        process.kill()
    eight()


def eight() -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "slow.py")
        path.write_text(SERVER, "utf-8")
        table = {"command": sys.executable, "args": [str(path)]}
        with contextlib.closing(nbllm.Client()) as client:
            client.mcp.add(entry_of("slow", table, Source("this session", Path(folder), trusted=True), {}))
            ask = {"model": "sim/openai/m@ttft=0,gap=0,tools=8", "tools": ["mcp/slow"], "approve": "auto"}
            client.complete("Warm up.", **{**ask, "model": "sim/openai/m@ttft=0,gap=0,tools=1"})
            began = time.perf_counter()
            answer = client.complete("Wait eight times.", **ask)
            took, calls = time.perf_counter() - began, sum(len(s.results) for s in answer.steps)
    print(f"{calls} MCP calls of 1 s in one answer: {took:.2f} s")


if __name__ == "__main__":
    main(int(sys.argv[1]) if sys.argv[1:] else 50)
