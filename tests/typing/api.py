"""The public types, pinned: this file is type-checked and never run."""

from pathlib import Path
from typing import assert_type

import pandas as pd
from matplotlib.figure import Figure

import nbllm
from nbllm import Client, Message, Response, Retries, Stream, Text, Timeouts, Timing, Tool, ToolCall, Usage
from nbllm.core.errors import NbllmError, ProviderError
from nbllm.core.events import Event

stream = nbllm.stream("hi", model="gemini/pro", temperature=0.0, timeout={"first": 5.0}, retries=1)
assert_type(stream, Stream)
for event in stream:
    assert_type(event, Event)
for text in stream.text_stream:
    assert_type(text, str)
response = stream.response()
assert_type(response, Response)
assert_type(response.text, str)
assert_type(response.reasoning, str)
assert_type(response.tool_calls, tuple[ToolCall, ...])
assert_type(response.usage, Usage | None)
assert_type(response.cost, float | None)
assert_type(response.timing, Timing)
assert_type(response.timing.ttft, float | None)
assert_type(response.message, Message)
assert_type(stream.partial(), Response)
assert_type(stream.done, bool)
assert_type(stream.error, NbllmError | None)
assert_type(nbllm.complete([Message("user", "hi")], "openai/mini"), Response)
assert_type(nbllm.providers(), pd.DataFrame)
assert_type(nbllm.models("gemini/"), pd.DataFrame)


async def awaited() -> None:
    assert_type(await nbllm.stream("hi"), Response)
    async for event in nbllm.stream([Text("hi")]):
        assert_type(event, Event)
    async for text in nbllm.stream("hi").text_stream:
        assert_type(text, str)


client = Client(timeouts=Timeouts(total=60.0), retries=Retries(attempts=0))
assert_type(client.stream("hi", "claude/sonnet", tools=[Tool("now")], reasoning="low"), Stream)
assert_type(client.complete("hi", "claude/sonnet"), Response)


def handled(error: NbllmError) -> None:
    assert_type(error.partial, Response | None)
    if isinstance(error, ProviderError):
        assert_type(error.retry_after, float | None)


df = nbllm.bench.run(
    ["openai/mini", {"model": "gemini/flash", "temperature": 0}],
    ["Why?"],
    blocks=3,
    cold=True,
    budget={"usd": 1},
)
assert_type(df, pd.DataFrame)
assert_type(nbllm.bench.summary(df), pd.DataFrame)
assert_type(nbllm.bench.compare(df, margin=0.1), pd.DataFrame)
assert_type(nbllm.bench.chunks(df), pd.DataFrame)
assert_type(nbllm.bench.plot(df, "coldstart"), Figure)
assert_type(nbllm.bench.report(df, "report.html", selftest=nbllm.bench.selftest()), Path | str)
assert_type(nbllm.bench.load(nbllm.bench.save(df, "x.parquet")), pd.DataFrame)

vectors = nbllm.embed(["a text"], model="openai/small", dimensions=256)
assert_type(vectors, pd.DataFrame)
assert_type(nbllm.nearest("a question", vectors, k=3), pd.DataFrame)
