"""Delays of other answers' chunks while MCP servers misbehave.

    python benchmarks/bad_servers.py [ROUNDS] [MODE ...]

In each mode of `tests/bad_mcp_server.py` (http/MODE: over HTTP) one answer uses such a server while another
one streams, a chunk every 20 ms, and a second process without MCP servers reads an equal stream: its delays
are those of the machine. For both, the table has the 99th percentile and the maximum over all rounds, in
milliseconds, and the longest CPU time of one callback on the engine's event loop, during which no chunk can
be read. The first line is the first use in this process, which loads the SDK.
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
from nbllm.tools.mcp_entry import Source, parse_entry

GAP, CHUNKS = 0.02, 75
BAD = Path(__file__).resolve().parents[1] / "tests" / "bad_mcp_server.py"


def delays(stream: nbllm.Stream) -> list[float]:
    """By how many milliseconds each chunk came later after the previous one than it should."""
    stream.response()
    at = [t for t, event in stream.log if type(event).__name__ == "TextDelta"]
    return [1e3 * (after - before - GAP) for before, after in pairwise(at)]


def start_stream(client: nbllm.Client, url: str) -> nbllm.Stream:
    options = {"base_url": url, "dialect": "openai_chat", "api_key": "k"}
    return client.stream("Tell.", model=f"m@ttft=0,gap={GAP},tokens={CHUNKS}", **options)


def read_streams(url: str) -> None:
    """The reader process: for each line of its input it reads a stream and prints the delays of its
    chunks."""
    client = nbllm.Client()
    delays(start_stream(client, url))
    print("ready", flush=True)
    for _ in sys.stdin:
        print(json.dumps(delays(start_stream(client, url))), flush=True)


def main(rounds: int, modes: list[str]) -> None:
    longest = [0.0]
    run = asyncio.events.Handle._run

    def timed_run(handle: asyncio.events.Handle) -> None:
        start = time.thread_time()
        run(handle)
        longest[0] = max(longest[0], time.thread_time() - start)

    asyncio.events.Handle._run = timed_run  # type: ignore[method-assign]
    pipes: Any = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    with subprocess.Popen([sys.executable, "-m", "nbllm.simulator", "--attached"], **pipes) as simulator:
        url = simulator.stdout.readline().strip() + "/v1"  # type: ignore[union-attr]
        with subprocess.Popen([sys.executable, __file__, "--reader", url], **pipes) as reader:
            reader.stdout.readline()  # type: ignore[union-attr]
            client = nbllm.Client()
            delays(start_stream(client, url))
            print(f"{'':22}{'with servers':>16}{'without':>16}{'one callback':>16}{'answers':>12}")
            for mode in ["ok", *modes]:
                with_servers, without_servers, longest[0], answered = list[float](), list[float](), 0.0, 0
                for n in range(1 if mode == "ok" else rounds):
                    print("read", file=reader.stdin, flush=True)
                    stream = start_stream(client, url)
                    answered += use(client, url, mode, n, stream)
                    with_servers += delays(stream)
                    without_servers += json.loads(reader.stdout.readline())  # type: ignore[union-attr]
                columns = "".join(
                    f"{format_delays(values):>16}" for values in (with_servers, without_servers)
                )
                print(f"{mode:22}{columns}{1e3 * longest[0]:>13.1f} ms{answered:>12}", flush=True)
            reader.stdin.close()  # type: ignore[union-attr]
        simulator.kill()


def bridge(mode: str) -> None:
    """The process of a server over HTTP: passes each message to a server over pipes, and returns its
    answer."""
    pipes: Any = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL}
    with subprocess.Popen([sys.executable, str(BAD), mode], **pipes) as mcp_server:

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                text = self.rfile.read(int(self.headers["content-length"]))
                mcp_server.stdin.write(text + b"\n")  # type: ignore[union-attr]
                mcp_server.stdin.flush()  # type: ignore[union-attr]
                request_id = json.loads(text).get("id")
                answer = mcp_server.stdout.readline() if request_id is not None else b""  # type: ignore[union-attr]
                self.send_response(202 if request_id is None else 200)
                self.send_header("content-type", "text/event-stream")
                self.end_headers()
                self.wfile.write(b"data: " + answer + b"\n" if answer else b"")

            def log_message(self, *_args: Any) -> None:
                pass

        server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        print(f"http://127.0.0.1:{server.server_port}/mcp", flush=True)
        server.serve_forever()


def use(client: nbllm.Client, url: str, mode: str, n: int, stream: nbllm.Stream) -> bool:
    """Lets a model use a server in this mode, at most as long as `stream` lasts; returns whether it
    answered."""
    name = f"{mode.replace('_', '').replace('/', '')}{n}"
    entry: dict[str, Any] = {"command": sys.executable, "args": [str(BAD), mode]}
    bridge_process = None
    if mode.startswith("http/"):
        command = [sys.executable, __file__, "--bridge", mode[5:]]
        bridge_process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, start_new_session=True)
        entry = {"url": bridge_process.stdout.readline().strip()}  # type: ignore[union-attr]
    client.mcp.add(parse_entry(name, entry, Source("this session", Path.cwd(), trusted=True), {}))
    options: Any = {"base_url": url, "dialect": "openai_chat", "api_key": "k", "approve": "auto"}
    answer = client.stream("Use it.", model="m@ttft=0,gap=0,tools=1", tools=[f"mcp/{name}"], **options)
    while not (answer.done or stream.done):
        time.sleep(0.02)
    answered = answer.done
    answer.cancel()
    engine().run(client.mcp.stop(name))
    if bridge_process is not None:
        os.killpg(bridge_process.pid, signal.SIGKILL)
        bridge_process.wait()
    return answered


def format_delays(values: list[float]) -> str:
    ranked = sorted(values)
    return f"{ranked[int(len(ranked) * 0.99)]:.1f} {ranked[-1]:.1f}"


if __name__ == "__main__":
    if sys.argv[1:2] == ["--reader"]:
        read_streams(sys.argv[2])
    elif sys.argv[1:2] == ["--bridge"]:
        bridge(sys.argv[2])
    else:
        os.environ["XDG_CONFIG_HOME"] = tempfile.mkdtemp()  # what is allowed here is no user's
        every = dict.fromkeys(re.findall(r'^    "(\w+)": (?:lambda|\[|\w+,)', BAD.read_text("utf-8"), re.M))
        main(int(sys.argv[1]) if sys.argv[1:] else 3, sys.argv[2:] or list(every))
