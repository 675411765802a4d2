"""How late other answers' chunks are while MCP servers misbehave.

    python benchmarks/bad_servers.py [ROUNDS] [MODE ...]

For each mode of `tests/bad_mcp_server.py` (http/MODE: behind an address) an answer uses such a server while
another one streams, a chunk each 20 ms, and at the same time a process without any server reads a stream
alike: its chunks are as late as this machine makes them. Told for both are the 99th of a hundred chunks and
the latest of all rounds, in milliseconds, and the most CPU that one callback on the engine's loop took: no
chunk is read meanwhile. The first line is the first use in this process, which loads the SDK.
"""

from __future__ import annotations

import asyncio
import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import pairwise
from pathlib import Path
from typing import Any

import nbllm
from nbllm.client.engine import engine
from nbllm.tools.mcp_entry import Source, entry_of

GAP, CHUNKS = 0.02, 75
BAD = Path(__file__).resolve().parents[1] / "tests" / "bad_mcp_server.py"


def late(stream: nbllm.Stream) -> list[float]:
    """How much later than it should each chunk came after the one before, in milliseconds."""
    stream.response()
    at = [t for t, event in stream.log if type(event).__name__ == "TextDelta"]
    return [1e3 * (after - before - GAP) for before, after in pairwise(at)]


def beginning(client: nbllm.Client, url: str) -> nbllm.Stream:
    where = {"base_url": url, "dialect": "openai_chat", "api_key": "k"}
    return client.stream("Tell.", model=f"m@ttft=0,gap={GAP},tokens={CHUNKS}", **where)


def read(url: str) -> None:
    """The process beside: for each line of its input it reads a stream and tells how late its chunks were."""
    client = nbllm.Client()
    late(beginning(client, url))
    print("ready", flush=True)
    for _ in sys.stdin:
        print(json.dumps(late(beginning(client, url))), flush=True)


def main(rounds: int, modes: list[str]) -> None:
    longest = [0.0]
    run = asyncio.events.Handle._run

    def timed(handle: asyncio.events.Handle) -> None:
        began = time.thread_time()
        run(handle)
        longest[0] = max(longest[0], time.thread_time() - began)

    asyncio.events.Handle._run = timed  # type: ignore[method-assign]
    pipes: Any = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    with subprocess.Popen([sys.executable, "-m", "nbllm.simulator", "--attached"], **pipes) as simulator:
        url = simulator.stdout.readline().strip() + "/v1"  # type: ignore[union-attr]
        with subprocess.Popen([sys.executable, __file__, "--reader", url], **pipes) as reader:
            reader.stdout.readline()  # type: ignore[union-attr]
            client = nbllm.Client()
            late(beginning(client, url))
            print(f"{'':22}{'with servers':>16}{'without':>16}{'one callback':>16}{'answers':>12}")
            for mode in ["ok", *modes]:
                here, beside, longest[0], answered = list[float](), list[float](), 0.0, 0
                for n in range(1 if mode == "ok" else rounds):
                    print("read", file=reader.stdin, flush=True)
                    stream = beginning(client, url)
                    answered += use(client, url, mode, n, stream)
                    here += late(stream)
                    beside += json.loads(reader.stdout.readline())  # type: ignore[union-attr]
                columns = "".join(f"{told(values):>16}" for values in (here, beside))
                print(f"{mode:22}{columns}{1e3 * longest[0]:>13.1f} ms{answered:>12}", flush=True)
            reader.stdin.close()  # type: ignore[union-attr]
        simulator.kill()


def bridge(mode: str) -> None:
    """The process of a server behind an address: each message goes to one over pipes, and its answer back."""
    pipes: Any = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL}
    with subprocess.Popen([sys.executable, str(BAD), mode], **pipes) as command:

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                text = self.rfile.read(int(self.headers["content-length"]))
                command.stdin.write(text + b"\n")  # type: ignore[union-attr]
                command.stdin.flush()  # type: ignore[union-attr]
                wanted = json.loads(text).get("id")
                answer = command.stdout.readline() if wanted is not None else b""  # type: ignore[union-attr]
                self.send_response(202 if wanted is None else 200)
                self.send_header("content-type", "text/event-stream")
                self.end_headers()
                self.wfile.write(b"data: " + answer + b"\n" if answer else b"")

            def log_message(self, *_args: Any) -> None:
                pass

        server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        print(f"http://127.0.0.1:{server.server_port}/mcp", flush=True)
        server.serve_forever()


def use(client: nbllm.Client, url: str, mode: str, n: int, stream: nbllm.Stream) -> bool:
    """A model uses a server of that mode, at most as long as `stream` lasts; whether it answered."""
    name = f"{mode.replace('_', '').replace('/', '')}{n}"
    table: dict[str, Any] = {"command": sys.executable, "args": [str(BAD), mode]}
    behind = None
    if mode.startswith("http/"):
        words = [sys.executable, __file__, "--bridge", mode[5:]]
        behind = subprocess.Popen(words, stdout=subprocess.PIPE, text=True, start_new_session=True)
        table = {"url": behind.stdout.readline().strip()}  # type: ignore[union-attr]
    client.mcp.add(entry_of(name, table, Source("this session", Path.cwd(), trusted=True), {}))
    where: Any = {"base_url": url, "dialect": "openai_chat", "api_key": "k", "approve": "auto"}
    answer = client.stream("Use it.", model="m@ttft=0,gap=0,tools=1", tools=[f"mcp/{name}"], **where)
    while not (answer.done or stream.done):
        time.sleep(0.02)
    answered = answer.done
    answer.cancel()
    engine().run(client.mcp.stop(name))
    if behind is not None:
        os.killpg(behind.pid, signal.SIGKILL)
        behind.wait()
    return answered


def told(values: list[float]) -> str:
    ranked = sorted(values)
    return f"{ranked[int(len(ranked) * 0.99)]:.1f} {ranked[-1]:.1f}"


if __name__ == "__main__":
    if sys.argv[1:2] == ["--reader"]:
        read(sys.argv[2])
    elif sys.argv[1:2] == ["--bridge"]:
        bridge(sys.argv[2])
    else:
        os.environ["XDG_CONFIG_HOME"] = tempfile.mkdtemp()  # what is allowed here is no user's
        every = dict.fromkeys(re.findall(r'^    "(\w+)": (?:lambda|\[|\w+,)', BAD.read_text("utf-8"), re.M))
        main(int(sys.argv[1]) if sys.argv[1:] else 3, sys.argv[2:] or list(every))
