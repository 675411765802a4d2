"""The clients that benchmarks/client.py measures, each imported only when it is used. client.py runs this
file in a separate process and environment. Jobs are read as lines of JSON from standard input, and figures
are written in the same way.

    python benchmarks/clients.py NAME URL              measures
    python benchmarks/clients.py NAME URL first        sends one request and reports when the first delta came
"""

from __future__ import annotations

import asyncio
import gc
import json
import os
import re
import statistics
import sys
import time
import tracemalloc
from collections.abc import Callable
from typing import Any

PROMPT: Any = [{"role": "user", "content": "x"}]
OnChunk = Callable[[], None]  # called for each chunk of text that the user receives
clock = time.perf_counter


class Bare:
    """Sockets on asyncio's loop and json.loads: the minimum cost of any client."""

    def __init__(self, url: str) -> None:
        host, port = url.removeprefix("http://").split(":")
        self.address, self.idle = (host, int(port)), []
        self.loop = asyncio.new_event_loop()

    def one(self, model: str, came: OnChunk) -> Any:
        return self.loop.run_until_complete(self.stream(model, came))

    async def stream(self, model: str, came: OnChunk) -> Any:
        loop = asyncio.get_running_loop()
        ours = [p for p in self.idle if p.loop is loop]
        if ours:
            self.idle.remove(protocol := ours[-1])
        else:
            _, protocol = await loop.create_connection(lambda: _Protocol(loop), *self.address)
        body = json.dumps({"model": model, "stream": True, "messages": PROMPT}).encode()
        head = f"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\ncontent-length: {len(body)}\r\n\r\n"
        text = await protocol.send(head.encode() + body, came)
        self.idle.append(protocol)
        return text


class _Protocol(asyncio.Protocol):
    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.loop = loop

    def connection_made(self, transport: Any) -> None:
        self.transport = transport

    def send(self, request: bytes, came: OnChunk) -> asyncio.Future[str]:
        self.done, self.came, self.buffer, self.text = self.loop.create_future(), came, b"", []
        self.transport.write(request)
        return self.done

    def data_received(self, data: bytes) -> None:
        lines = (self.buffer + data).split(b"\n")
        self.buffer = lines.pop()
        for line in lines:
            if line.startswith(b"data: {"):
                choices = json.loads(line[6:])["choices"]
                if choices and (piece := choices[0]["delta"].get("content")):
                    self.text.append(piece)
                    self.came()
        if data.endswith(b"0\r\n\r\n"):
            self.done.set_result("".join(self.text))
            self.text = []


class Nbllm:
    """As in a script (one) and in a coroutine (stream); `short` as tables do, on the engine's own loop."""

    def __init__(self, url: str) -> None:
        import nbllm

        self.client, self.delta = nbllm.Client(), nbllm.core.events.TextDelta

    def one(self, model: str, came: OnChunk) -> Any:
        stream, delta = self.client.stream("x", f"openai/{model}"), self.delta
        for event in stream:
            if isinstance(event, delta):
                came()
        return stream, stream.response()

    async def stream(self, model: str, came: OnChunk) -> Any:
        stream = self.client.stream("x", f"openai/{model}")
        async for _ in stream.text_stream:
            came()
        return stream

    async def short(self, model: str) -> Any:
        return await self.client.stream("x", f"openai/{model}")

    def on_its_loop(self, work: Any) -> Any:
        return self.client.run(work)

    def rows(self, model: str, times: int, width: int) -> Any:
        import pandas as pd

        import nbllm

        df = pd.DataFrame({"text": [f"row {i}" for i in range(times)]})
        given = {"model": f"openai/{model}", "width": width, "confirm": "yes", "client": self.client}
        return nbllm.map(df, "{text}", **given)["answer"].dropna()


class Httpx:
    """The plain combination: httpx, httpx-sse and json."""

    def __init__(self, url: str) -> None:
        import httpx
        import httpx_sse

        self.url, self.sse, limits = (
            f"{url}/v1/chat/completions",
            httpx_sse,
            httpx.Limits(max_connections=None),
        )
        self.sync, self.client = httpx.Client(timeout=None), httpx.AsyncClient(timeout=None, limits=limits)

    def _request_options(self, model: str) -> dict[str, Any]:
        return {"json": {"model": model, "stream": True, "messages": PROMPT}}

    def _piece(self, event: Any) -> str:
        choices = json.loads(event.data)["choices"] if event.data != "[DONE]" else ()
        return choices[0]["delta"].get("content") or "" if choices else ""

    def one(self, model: str, came: OnChunk) -> Any:
        text = []
        with self.sse.connect_sse(self.sync, "POST", self.url, **self._request_options(model)) as source:
            for event in source.iter_sse():
                if piece := self._piece(event):
                    text.append(piece)
                    came()
        return "".join(text)

    async def stream(self, model: str, came: OnChunk) -> Any:
        text = []
        async with self.sse.aconnect_sse(
            self.client, "POST", self.url, **self._request_options(model)
        ) as source:
            async for event in source.aiter_sse():
                if piece := self._piece(event):
                    text.append(piece)
                    came()
        return "".join(text)


class OpenAI:
    """OpenAI's SDK."""

    def __init__(self, url: str) -> None:
        import openai

        self.sync, self.client = openai.OpenAI(max_retries=0), openai.AsyncOpenAI(max_retries=0)

    def one(self, model: str, came: OnChunk) -> Any:
        text = []
        for chunk in self.sync.chat.completions.create(model=model, messages=PROMPT, stream=True):
            if chunk.choices and (piece := chunk.choices[0].delta.content):
                text.append(piece)
                came()
        return "".join(text)

    async def stream(self, model: str, came: OnChunk) -> Any:
        text = []
        async for chunk in await self.client.chat.completions.create(
            model=model, messages=PROMPT, stream=True
        ):
            if chunk.choices and (piece := chunk.choices[0].delta.content):
                text.append(piece)
                came()
        return "".join(text)


class Anthropic:
    """Anthropic's SDK, in its own format."""

    def __init__(self, url: str) -> None:
        import anthropic

        self.sync, self.client = anthropic.Anthropic(max_retries=0), anthropic.AsyncAnthropic(max_retries=0)

    def one(self, model: str, came: OnChunk) -> Any:
        text = []
        with self.sync.messages.stream(model=model, messages=PROMPT, max_tokens=10) as stream:
            for piece in stream.text_stream:
                text.append(piece)
                came()
        return "".join(text)

    async def stream(self, model: str, came: OnChunk) -> Any:
        text = []
        async with self.client.messages.stream(model=model, messages=PROMPT, max_tokens=10) as stream:
            async for piece in stream.text_stream:
                text.append(piece)
                came()
        return "".join(text)


class Litellm:
    """The library, not its proxy."""

    def __init__(self, url: str) -> None:
        os.environ["LITELLM_LOCAL_MODEL_COST_MAP"] = "True"
        import litellm

        self.litellm = litellm

    def one(self, model: str, came: OnChunk) -> Any:
        text = []
        for chunk in self.litellm.completion(f"openai/{model}", messages=PROMPT, stream=True):
            if chunk.choices and (piece := chunk.choices[0].delta.content):
                text.append(piece)
                came()
        return "".join(text)

    async def stream(self, model: str, came: OnChunk) -> Any:
        text = []
        async for chunk in await self.litellm.acompletion(f"openai/{model}", messages=PROMPT, stream=True):
            if chunk.choices and (piece := chunk.choices[0].delta.content):
                text.append(piece)
                came()
        return "".join(text)


class Chatlas:
    """Its stream() and stream_async(), with a new chat for each call, since a chat stores its history."""

    def __init__(self, url: str) -> None:
        import chatlas

        self.make, self.url, self.chats = chatlas.ChatOpenAICompletions, f"{url}/v1", {}

    def _chat(self, model: str) -> Any:
        chat = self.chats.get(model) or self.chats.setdefault(
            model, self.make(model=model, base_url=self.url)
        )
        import copy

        return copy.deepcopy(chat)

    def one(self, model: str, came: OnChunk) -> Any:
        text = []
        for piece in self._chat(model).stream("x"):
            text.append(piece)
            came()
        return "".join(text)

    async def stream(self, model: str, came: OnChunk) -> Any:
        text = []
        async for piece in await self._chat(model).stream_async("x"):
            text.append(piece)
            came()
        return "".join(text)


CLIENTS: dict[str, Any] = {
    "nbllm": Nbllm,
    "httpx": Httpx,
    "openai": OpenAI,
    "anthropic": Anthropic,
    "litellm": Litellm,
    "chatlas": Chatlas,
    "bare": Bare,
}


def _plan(model: str) -> tuple[int, float, float]:
    found = re.fullmatch(r"(?:lean-)?c(\d+)-g(\d+)-f(\d+)", model)
    assert found is not None
    chunks, gap, first = map(int, found.groups())
    return chunks, gap / 1e6, first / 1e6


def run_sequentially(client: Any, model: str, times: int) -> dict[str, float]:
    """One call after another: CPU time per call and per chunk, of the best of some 15 groups; the median time
    to the first chunk."""
    firsts, arrivals = [], []
    for _ in range(3):
        client.one("c3-g0-f0", lambda: None)
    group, cpu_s = max(1, times // 15), float("inf")
    for _ in range(0, times, group):
        cpu = time.process_time()
        for _ in range(group):
            start, arrivals = clock(), []
            client.one(model, lambda arrivals=arrivals: arrivals.append(clock()))
            firsts.append(arrivals[0] - start)
        cpu_s = min(cpu_s, (time.process_time() - cpu) / group)
    assert len(arrivals) == _plan(model)[0], f"{len(arrivals)} chunks came of {model}"
    return {
        "cpu_ms": cpu_s * 1e3,
        "chunk_us": cpu_s / len(arrivals) * 1e6,
        "first_ms": statistics.median(firsts) * 1e3,
    }


def run_concurrently(client: Any, model: str, times: int) -> dict[str, float]:
    """Concurrent calls: the total time, and the delay of each chunk at the user."""
    chunks, gap, first = _plan(model)
    delays: list[float] = []

    async def run_stream(began: float) -> None:
        due = [began + first]

        def came() -> None:
            delays.append(clock() - due[0])
            due[0] += gap

        await client.stream(model, came)

    async def run_all() -> float:
        began = clock()
        await asyncio.gather(*(run_stream(began) for _ in range(times)))
        return clock() - began

    cpu = time.process_time()
    seconds = _run_in_loop(client, run_all())
    assert len(delays) == chunks * times, f"{len(delays)} chunks came of {times} times {model}"
    delays.sort()
    return {
        "ratio": seconds / (first + gap * (chunks - 1)),
        "late_ms": delays[int(0.99 * len(delays))] * 1e3,
        "cpu_s": time.process_time() - cpu,
    }


def run_short_calls(
    client: Any, model: str, times: int, *, own: bool = False, width: int = 64
) -> dict[str, float]:
    """Calls a second, 64 at a time; own: on the client's own event loop, if it has one."""
    calls = iter(range(times))

    async def worker() -> None:
        for _ in calls:
            if hasattr(client, "short"):
                await client.short(model)
            else:
                await client.stream(model, lambda: None)

    async def run_all() -> float:
        began = clock()
        await asyncio.gather(*(worker() for _ in range(width)))
        return times / (clock() - began)

    cpu = time.process_time()
    rate = client.on_its_loop(run_all()) if own else _run_in_loop(client, run_all())
    return {"rate": rate, "cpu_ms": (time.process_time() - cpu) / times * 1e3}


def run_rows(client: Any, model: str, times: int, width: int = 64) -> dict[str, float]:
    """CPU time per row of a table: nbllm.map, or coroutines that share the rows and store each answer. Few
    rows are sent several times."""

    async def answer_all() -> list[Any]:
        left, answers = iter(range(times)), [None] * times

        async def in_turn() -> None:
            for row in left:
                answers[row] = await client.stream(model, lambda: None)

        await asyncio.gather(*(in_turn() for _ in range(min(width, times))))
        return answers

    def run_once() -> int:
        if hasattr(client, "rows"):
            return len(client.rows(model, times, width))
        return sum(map(bool, _run_in_loop(client, answer_all())))

    repeats = max(1, 50 // times)
    if times < 1000:
        run_once()  # imports, connections
    cpu = time.process_time()
    answered = sum(run_once() for _ in range(repeats))
    cpu_s = time.process_time() - cpu
    assert answered == repeats * times, f"{answered} of {repeats * times} rows were answered"
    return {"us": cpu_s / answered * 1e6}


def _run_in_loop(client: Any, work: Any) -> Any:
    client.loop = getattr(client, "loop", None) or asyncio.new_event_loop()
    return client.loop.run_until_complete(work)


def measure_memory(client: Any, model: str, times: int) -> dict[str, float]:
    """Bytes of memory that an answer takes for each of its chunks."""
    client.one("c3-g0-f0", lambda: None)
    gc.collect()
    tracemalloc.start()
    answers = [client.one(model, lambda: None) for _ in range(times)]
    gc.collect()
    size = tracemalloc.get_traced_memory()[0]
    tracemalloc.stop()
    return {"bytes": size / len(answers) / _plan(model)[0]}


JOBS: dict[str, Callable[..., dict[str, float]]] = {
    "sequential": run_sequentially,
    "concurrent": run_concurrently,
    "short": run_short_calls,
    "own": lambda client, model, times: run_short_calls(client, model, times, own=True),
    "memory": measure_memory,
    "rows": run_rows,
}


def main(name: str, url: str, *mode: str) -> None:
    """Serves jobs: one [name, model, times] per line."""
    start = time.time()
    client = CLIENTS[name](url)
    imported = time.time() - start
    if mode:

        def came() -> None:
            print(json.dumps({"at": time.time(), "import_ms": imported * 1e3}), flush=True)
            os._exit(0)

        client.one("c3-g0-f0", came)
    for line in sys.stdin:
        job, model, times = json.loads(line)
        try:
            answer = JOBS[job](client, model, times)
        except Exception as error:  # noqa: BLE001 - shown below the table
            answer = {"failed": f"{type(error).__name__}: {error}"[:200]}
        print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    sys.path.pop(0)  # names of files in this folder hide those of packages
    main(*sys.argv[1:])
