"""Calls over a real loopback socket: every way to read a stream, time limits, retries, cancelling, forking,
ending."""

import asyncio
import os
import socket
import subprocess
import sys
import textwrap
import threading
from contextlib import closing

import pytest

import nbllm
from nbllm import Client, Message, Timeouts, simulator
from nbllm.client.policy import Retries
from nbllm.core import errors
from nbllm.core.events import Finished, Notice, TextDelta, fold
from nbllm.routing import registry

from .simulated import simulator_environment

FORMATS = ("openai/m", "responses/m", "claude/m", "gemini/m", "ollama/m")
KEY = "sk-canary-0123456789abcdef"


@pytest.fixture(scope="module")
def sim():
    with simulator.serve(ttft=0.01, gap=0.001) as server:
        yield server


@pytest.fixture(scope="module")
def client(sim):
    made = Client(registry.load(simulator_environment(sim, KEY)), retries=Retries(attempts=0))
    yield made
    made.close()


def sent(record):
    return "".join(c.text for c in record.chunks if c.kind == "content")


@pytest.mark.parametrize("model", FORMATS)
def test_every_way_to_read_gives_the_same_text(client, sim, model):
    """for, async for, await, response(), text_stream and the log, in plain Python and inside a running
    loop."""
    stream = client.stream("hello", model)
    events = list(stream)
    text = stream.response().text
    assert text == sent(sim.records[-1])
    assert text == "".join(e.text for e in events if isinstance(e, TextDelta)) == "".join(stream.text_stream)
    assert text == fold(e for _, e in stream.log).text

    async def inside():
        other = client.stream("hello", model)
        pieces = [t async for t in other.text_stream]
        return (
            "".join(pieces),
            (await other).text,
            (await client.stream("hello", model)).text,
            client.complete("hello", model).text,
        )

    assert (text,) * 4 == asyncio.run(inside())


@pytest.mark.slow
def test_readers_on_several_threads_see_the_same_log(client):
    """The log may be read from anywhere, by many, early or late."""
    stream = client.stream("hello", "openai/m@tokens=200")
    found = [[], [], []]
    threads = [threading.Thread(target=lambda out=out: out.extend(stream)) for out in found]
    for t in threads:
        t.start()
    for t in threads:
        t.join(30)
    assert found[0] == found[1] == found[2] == [e for _, e in stream.log]


@pytest.mark.slow
@pytest.mark.parametrize("model", FORMATS)
def test_times_are_in_order_and_true(client, sim, model):
    """connect, first token and total stand in order, and the first token is not before the server sent it."""
    response = client.stream("hello", f"{model}@ttft=0.05,tokens=20,gap=0.005").response()
    t, record = response.timing, sim.records[-1]
    assert 0 < t.ttfb <= t.ttft <= t.ttfo <= t.total
    assert t.ttft >= record.ttft_ns / 1e9
    assert 0 <= t.decode < t.total  # how long, the machine says: what is sent late may come in one read
    assert response.usage.output_tokens == record.output_tokens


@pytest.mark.slow
def test_connections_are_used_again(client, sim):
    """A second call finds the connection of the first, in every format."""
    for model in FORMATS:
        client.complete("hello", model)
        response = client.complete("hello", model)
        assert response.timing.reused is True, model
        assert response.timing.connect is None
        assert sim.records[-1].first is False


@pytest.mark.slow
@pytest.mark.parametrize(
    ("model", "timeouts", "which"),
    [
        ("openai/m@ttft=30", {"first": 0.1}, "first"),
        ("openai/m@headers=30", {"first": 0.1}, "first"),
        ("claude/m@stall=3", {"idle": 0.1}, "idle"),
        ("ollama/m@tokens=5000,gap=0.01", {"total": 0.2}, "total"),
        ("gemini/m@ttft=30", 0.1, "total"),
    ],
)
def test_each_time_limit_is_named(client, model, timeouts, which):
    """The error says which limit ran out, how long it was, and keeps what had come."""
    with pytest.raises(errors.Timeout, match=which) as caught:
        client.stream("hello", model, timeout=timeouts).response()
    assert which == caught.value.which
    assert isinstance(caught.value, TimeoutError)
    if which in ("idle",):
        assert caught.value.partial.text


@pytest.mark.slow
def test_a_connection_that_never_comes_about_is_named_and_asked_for_again(client):
    """The connect timeout keeps its name and its limit, and is one of the failures that are tried again."""
    with socket.socket() as full:
        full.bind(("127.0.0.1", 0))
        full.listen(0)
        waiting = [
            socket.socket() for _ in range(4)
        ]  # they fill the queue, after which Linux answers no more
        for s in waiting:
            s.setblocking(False)
            s.connect_ex(full.getsockname())
        stream = client.stream(
            "hello",
            "openai/m",
            base_url=f"http://127.0.0.1:{full.getsockname()[1]}/v1",
            timeout={"connect": 0.2},
            retries=1,
        )
        with pytest.raises(errors.Timeout, match=r"within 0\.2 s") as caught:
            stream.response()
        for s in waiting:
            s.close()
    assert ("connect", 0.2) == (caught.value.which, caught.value.seconds)
    assert 2 == len(stream.traces)


def test_an_address_where_nobody_listens(client):
    """ConnectFailed, with the address."""
    with pytest.raises(errors.ConnectFailed, match=r"127\.0\.0\.1:9"):
        client.complete("hello", "openai/m", base_url="http://127.0.0.1:9/v1")


@pytest.mark.parametrize("number", [0, 1])
def test_a_client_takes_a_number_of_retries(number):
    """As a call does: 0 is none, and not the usual two."""
    with closing(Client(registry.load({}), ledger=None, retries=number)) as client:
        stream = client.stream("hi", "sim/openai/m@status=503,retry_after=0.01")
        with pytest.raises(errors.NbllmError):
            stream.response()
        assert number + 1 == len(stream.attempts)


@pytest.mark.slow
def test_retries_are_told_and_counted(client):
    """Two failures and an answer: two notices, three attempts; the provider's wait is honoured."""
    stream = client.stream("again please", "openai/m@status=503,fail_times=2,retry_after=0.05", retries=3)
    response = stream.response()
    assert 3 == response.timing.attempts
    assert ["retry", "retry"] == [n.kind for n in response.notices]
    assert response.timing.total >= 0.1


def test_nothing_is_asked_twice_once_a_token_was_shown(client, sim):
    """A cut in mid-answer is an error with the text so far, not a second request."""
    before = len(sim.records)
    with pytest.raises(errors.StreamCut) as caught:
        client.stream("hello", "claude/m@cut=3", retries=5).response()
    assert before + 1 == len(sim.records)
    assert "error" == caught.value.partial.finish_reason
    assert sent(sim.records[-1]).startswith(caught.value.partial.text)
    assert caught.value.partial.text


@pytest.mark.parametrize("model", FORMATS)
def test_cancel_keeps_what_came_and_closes_the_socket(client, sim, model):
    """From another thread, in mid-answer; response() then gives the partial answer without raising."""
    stream = client.stream("hello", f"{model}@tokens=3000,gap=0.005")
    for _ in stream.text_stream:
        break
    threading.Thread(target=stream.cancel).start()
    response = stream.response(30)
    assert ("cancelled", True) == (response.finish_reason, bool(response.text))
    assert isinstance(stream.log[-1][1], Finished)
    stream.cancel()
    assert sim.settled(30)[-1].aborted_ns is not None


def test_cancel_before_anything_was_sent(client):
    """Even at once."""
    stream = client.stream("hello", "openai/m@ttft=30")
    stream.cancel()
    assert "cancelled" == stream.response(30).finish_reason


def test_a_cancelled_reader_cancels_the_call(client):
    """`await` in a task that is cancelled stops the call."""
    stream = client.stream("hello", "openai/m@ttft=30")

    async def read():
        task = asyncio.ensure_future(stream._wait_for_result())
        await asyncio.sleep(0)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)

    asyncio.run(read())
    assert "cancelled" == stream.response(30).finish_reason


@pytest.mark.slow
def test_response_may_time_out_without_stopping_the_call(client):
    """response(timeout) raises TimeoutError and the answer still comes."""
    stream = client.stream("hello", "openai/m@ttft=1.5")
    with pytest.raises(TimeoutError):
        stream.response(0.01)
    assert stream.response(30).text


def test_stream_never_raises_for_what_a_provider_does(client):
    """The error shows when the stream is read, however often."""
    stream = client.stream("x", "gemini/m@status=500")
    for read in (lambda: list(stream), stream.response, lambda: asyncio.run(stream._wait_for_result())):
        with pytest.raises(errors.ServerError):
            read()
    assert isinstance(stream.error, errors.ServerError)
    assert "" == stream.partial().text


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda c: c.stream("", "openai/m"), "empty"),
        (lambda c: c.stream("x", "nope/m"), "No provider"),
        (lambda c: c.stream("x", "openai/m", dialect="soap"), "openai_chat"),
        (lambda c: c.stream("x", "openai/m", timeout={"firts": 1}), "connect, first"),
        (lambda c: c.stream("x", "openai/m", timeout=-1), "above 0"),
        (lambda c: c.stream([{"role": "robot", "content": "x"}], "openai/m"), "Not a message"),
        (lambda c: c.stream(3, "openai/m"), "not int"),
        (lambda c: c.stream("x", "openai/m", schema=3), "schema"),
        (lambda c: c.stream("x", "openai/m", tools=[{"x": 1}]), "tool"),
        (lambda c: c.complete("x", "openai/m", extra={"x": object()}), "JSON"),
        (lambda c: c.stream("x", "openai/m", base_url="not a url"), "address"),
    ],
)
def test_what_is_wrong_on_this_side_says_what_to_do(client, call, words):
    """ConfigError, with a hint."""
    with pytest.raises(errors.ConfigError, match=words):
        call(client).response()


def test_no_key_says_how_to_give_one():
    """The variable, where a key comes from, and the way without."""
    with pytest.raises(errors.ConfigError, match=r"(?s)OPENAI_API_KEY.*simulate"):
        Client(registry.load({})).stream("x", "openai/m")


@pytest.mark.slow
def test_auto_says_what_it_chose(sim):
    """A key, else Ollama, else the simulator; the notice says why."""
    keyed = Client(registry.load({"GEMINI_API_KEY": KEY, "GEMINI_BASE_URL": sim.base_url("gemini")}))
    response = keyed.complete("hello", "auto")
    assert "gemini" == response.provider
    assert "GEMINI_API_KEY" in next(n.text for n in response.notices if n.kind == "auto")
    local = Client(registry.load({"OLLAMA_HOST": sim.base_url("ollama")}))
    assert "ollama" == local.complete("hello").provider
    nothing = Client(registry.load({"OLLAMA_HOST": "127.0.0.1:9"}))
    response = nothing.complete("hello")
    assert response.simulated
    assert "simulator" in next(n.text for n in response.notices if n.kind == "auto")


@pytest.mark.slow
def test_simulate_sends_every_name_to_the_simulator_in_its_own_format():
    """NBLLM_SIMULATE=1: no key, the same names, labelled answers."""
    client = Client(registry.load({"NBLLM_SIMULATE": "1"}))
    for model in ("openai/mini", "responses/mini", "claude/sonnet", "gemini/pro", "ollama/llama3.2", "auto"):
        response = client.complete("hello", model)
        assert response.simulated
        assert response.text


@pytest.mark.slow
def test_a_whole_conversation_goes_both_ways(client, sim):
    """Tools called in parallel, results fed back, reasoning kept, in all five formats."""
    tools = [
        nbllm.Tool(
            "get_time",
            "The time.",
            {"type": "object", "properties": {"tz": {"type": "string"}}, "required": ["tz"]},
        )
    ]
    for model in FORMATS:
        asked = [Message("system", "Be brief."), Message("user", "What time is it?")]
        first = client.complete(asked, f"{model}@tools=2", tools=tools, reasoning="low")
        assert 2 == len(first.tool_calls), model
        assert all(isinstance(c.arguments["tz"], str) for c in first.tool_calls)
        assert "tool_calls" == first.finish_reason
        assert len({c.id for c in first.tool_calls}) == 2
        results = Message("tool", [nbllm.ToolResult(c.id, "12:00", name=c.name) for c in first.tool_calls])
        second = client.complete([*asked, first.message, results], model, tools=tools, reasoning="low")
        assert "stop" == second.finish_reason, model
        assert second.text


def script(text, sim):
    """Runs a Python program with an environment that leads to the simulator; gives what it printed."""
    env = {**os.environ, "OPENAI_BASE_URL": sim.base_url("openai_chat"), "OPENAI_API_KEY": KEY}
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", textwrap.dedent(text)],
        capture_output=True,
        text=True,
        env=env,
        timeout=300,  # far less than the stream would take
        check=False,
    )
    assert "" == done.stderr
    assert 0 == done.returncode
    return done.stdout.split()


@pytest.mark.slow
def test_a_long_stream_takes_memory_for_its_log_only(sim):
    """60,000 chunks: what the process grows by is the log and the answer, a few hundred bytes a chunk."""
    grown, events, tokens = map(
        int,
        script(
            """
        import resource, nbllm
        nbllm.complete("hello", model="openai/m")
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        s = nbllm.stream("hello", model="openai/m@tokens=60000,gap=0,ttft=0,chunks_per_write=100")
        tokens = s.response().usage.output_tokens
        print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024, len(s.log), tokens)
    """,
            sim,
        ),
    )
    assert 60_000 == tokens
    assert events >= 60_000
    assert grown < events * 400


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork on this system")
def test_it_works_after_a_fork(sim):
    """Parent and child both go on asking, with connections of their own; a stream of the parent's says so in
    the child."""
    assert ["child", "parent"] == script(
        """
        import os, sys, nbllm, warnings
        warnings.simplefilter("ignore", DeprecationWarning)
        nbllm.complete("hello", model="openai/m")
        going = nbllm.stream("hello", model="openai/m@ttft=1")
        pid = os.fork()
        if pid == 0:
            ok = bool(nbllm.complete("hello", model="openai/m").text)
            try:
                going.response()
                ok = False
            except nbllm.errors.TransportError:
                pass
            print("child" if ok else "child failed", flush=True)
            os._exit(0)
        os.waitpid(pid, 0)
        print("parent" if nbllm.complete("hello", model="openai/m").text and going.response().text else "failed")
    """,  # noqa: E501
        sim,
    )


@pytest.mark.slow
def test_the_interpreter_ends_cleanly_while_a_stream_runs(sim):
    """No hang, no warning, no traceback at exit."""
    assert ["bye"] == script(
        """
        import nbllm
        s = nbllm.stream("hello", model="openai/m@tokens=100000,gap=0.01")
        next(iter(s))
        print("bye")
    """,
        sim,
    )


@pytest.mark.slow
def test_ctrl_c_in_a_plain_program_stops_the_call(sim):
    """KeyboardInterrupt leaves response(), the call is cancelled, the partial answer is there."""
    assert ["stopped", "cancelled", "True"] == script(
        """
        import nbllm, os, signal, threading
        s = nbllm.stream("hello", model="openai/m@tokens=100000,gap=0.01")
        next(s.text_stream.__iter__())
        threading.Timer(0.2, lambda: os.kill(os.getpid(), signal.SIGINT)).start()
        try:
            s.response()
        except KeyboardInterrupt:
            print("stopped")
        r = s.response(30)
        print(r.finish_reason, bool(r.text))
    """,
        sim,
    )


def test_a_notice_of_a_retry_does_not_hold_the_key(client):
    """Not even where the provider echoes it."""
    stream = client.stream("x", "openai/m@status=401")
    with pytest.raises(errors.AuthenticationError) as caught:
        stream.response()
    assert "canary" not in f"{caught.value} {caught.value!r} {vars(caught.value)} {stream.log} {stream.trace}"
    assert Timeouts.of(3).total == 3
    assert Notice("retry")
