"""A tiny real model from a file, in a process that nbllm starts: asked, stopped, killed, broken, ended."""

from __future__ import annotations

import asyncio
import os
import signal
from pathlib import Path

import pytest

import nbllm
from nbllm.agents.local_server import LocalTransport, local_call
from nbllm.agents.process import ProcessTransport
from nbllm.client.unloading import unload_models
from nbllm.core.calls import HttpCall, Trace
from nbllm.core.errors import ConfigError
from nbllm.http.transport import HttpTransport
from nbllm.routing.registry import load

from ..processes import comes_to
from .conftest import REAL, need

OPTIONS = {"temperature": 0, "max_tokens": 100}
BODY = {
    "messages": [{"role": "user", "content": "hello"}],
    "stream": True,
    "max_tokens": 20,
    "temperature": 0,
}


def gone(pid: int) -> bool:
    """Whether a process ends."""
    return comes_to(0, lambda: [pid] if Path(f"/proc/{pid}").exists() else [])


@pytest.fixture(scope="module")
def tiny() -> Path:
    return need(REAL / "tiny.gguf", "the tiny model")


@pytest.fixture
def client() -> object:
    made = nbllm.Client()
    yield made
    made.close()


def server_of(client: nbllm.Client) -> int:
    """The number of the process in which the one model runs."""
    (task,) = client._pool.transports.local._servers.values()
    return task.result().command.process.pid


def test_it_answers_from_a_process_of_its_own_that_is_kept(client: nbllm.Client, tiny: Path) -> None:
    """The first answer says what it waited for; the second finds it there. With the client it ends."""
    first = client.complete("hello", f"llamacpp/{tiny}", **OPTIONS)
    assert "Hello from a tiny model" in first.text
    assert first.usage.output_tokens > 10
    assert ["Loading tiny.gguf on this machine."] == [n.text for n in first.notices if n.kind == "wait"]
    pid = server_of(client)
    second = client.complete("hello", f"llamacpp/{tiny}", **OPTIONS)
    assert (first.text, []) == (second.text, [n for n in second.notices if n.kind == "wait"])
    assert pid == server_of(client) != os.getpid()
    client.close()
    assert gone(pid)


def test_stop_and_a_crash_cost_nothing(client: nbllm.Client, tiny: Path) -> None:
    """A stopped answer leaves it running; killed, it is started again at the next question."""
    endless = {"temperature": 0, "max_tokens": 2000, "extra": {"ignore_eos": True}}
    stream = client.stream("hello", f"llamacpp/{tiny}", **endless)
    next(iter(stream.text_stream))
    stream.cancel()
    assert "cancelled" == stream.response().finish_reason
    pid = server_of(client)
    assert "Hello" in client.complete("hello", f"llamacpp/{tiny}", **OPTIONS).text
    assert pid == server_of(client)
    os.kill(pid, signal.SIGKILL)
    assert gone(pid)
    assert "Hello" in client.complete("hello", f"llamacpp/{tiny}", **OPTIONS).text
    assert pid != server_of(client)


def test_a_broken_file_is_said_once_in_the_words_of_llama_cpp(
    client: nbllm.Client, tiny: Path, tmp_path: Path
) -> None:
    """Cut off in the middle; and the program that tried is gone."""
    path = tmp_path / "cut.gguf"
    path.write_bytes(tiny.read_bytes()[:200_000])
    with pytest.raises(ConfigError, match=r"cut\.gguf could not be loaded \(.*corrupted or incomplete"):
        client.complete("hello", f"llamacpp/{path}", **OPTIONS)


def test_an_idle_server_ends_and_two_rooms_are_two_servers(tiny: Path) -> None:
    """The last answer over, it ends by itself; another number of tokens is another server."""

    async def work() -> None:
        http, processes = HttpTransport(), ProcessTransport()
        transport = LocalTransport(http, processes, idle=0.0)

        async def ask(context: int) -> int:
            call = local_call(tiny, HttpCall("", {}, {**BODY, "n_ctx": context}))
            async with transport.open(call, Trace(), 10.0) as reply:
                frames = [f async for batch in reply.frames() for f in batch]
                assert any("Hello" in f.data for f in frames)
                return (await transport._servers[call.key]).command.process.pid

        one, two = await asyncio.gather(ask(512), ask(1024))
        assert one != two
        for pid in (one, two):
            assert await asyncio.to_thread(gone, pid)
        assert {} == transport._servers
        await transport.close()
        await http.close()
        await processes.close()

    asyncio.run(work())


def test_names_of_a_folder_auto_and_unload(tiny: Path, tmp_path: Path) -> None:
    """local/NAME, and `auto` where there is nothing else, which says so; unloaded it is loaded again."""
    (tmp_path / "tiny.gguf").symlink_to(tiny)
    client = nbllm.Client(load({"NBLLM_MODELS": str(tmp_path)}))
    assert "Hello from a tiny model" in client.complete("hello", "local/tiny", **OPTIONS).text
    pid = server_of(client)
    assert (["tiny.gguf"], []) == (unload_models(client), unload_models(client))
    assert gone(pid)
    stream = client.stream("hello", **OPTIONS)
    told = [n.text for n in stream.response().notices]
    assert "auto chose local/tiny" in told[0]
    assert "Loading tiny.gguf on this machine." in told
    assert ["local/tiny"] == unload_models(client, "local/tiny")
    client.close()


def test_what_answers_is_not_unloaded_and_what_loads_is(tiny: Path) -> None:
    """An answer is worth more than memory; who waited for a load that was given up is told so."""

    async def work() -> None:
        http, processes = HttpTransport(), ProcessTransport()
        transport = LocalTransport(http, processes)
        call = local_call(tiny, HttpCall("", {}, BODY))
        loading = asyncio.create_task(transport.open(call, Trace(), 10.0).__aenter__())
        while not transport._servers:  # noqa: ASYNC110 - it begins at its first turn
            await asyncio.sleep(0)
        assert ["tiny.gguf"] == await transport.unload(str(tiny))
        with pytest.raises(ConfigError, match="was unloaded while it was loading"):
            await loading
        async with transport.open(call, Trace(), 10.0) as reply:
            with pytest.raises(ConfigError, match="is answering"):
                await transport.unload()
            assert [f async for batch in reply.frames() for f in batch]
        assert ["tiny.gguf"] == await transport.unload()
        await transport.close()
        await http.close()
        await processes.close()

    asyncio.run(work())


def test_a_benchmark_loads_a_file_anew(tiny: Path) -> None:
    """cold_model, as of Ollama."""
    df = nbllm.bench.run(
        f"llamacpp/{tiny}", "hello", cold=["cold_model", "warm"], blocks=2, warmup=1, progress=False
    )
    measured = df[df["status"] == "ok"]
    by_kind = measured.groupby("start_kind")["ttft_ms"].min()
    assert {"cold_model", "warm"} <= set(by_kind.index)
    assert by_kind["cold_model"] > by_kind["warm"]
