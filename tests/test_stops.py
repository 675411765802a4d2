"""Stop at every stage of an answer with tools, in every format: the socket is closed, the text received is
kept, each call has one result, and the same conversation continues."""

import asyncio
import threading

import pytest

from nbllm import Client, simulator
from nbllm.core.events import ReasoningDelta, StepEnded, TextDelta, ToolCallDelta
from nbllm.core.history import complete_tool_results
from nbllm.core.messages import Message, Tool, ToolCall
from nbllm.routing import registry
from nbllm.simulator import script
from nbllm.tools import of
from nbllm.tools.usable import Usable

from .processes import comes_to
from .simulated import simulator_environment
from .test_tool_loop import outcomes

FORMATS = ("openai", "responses", "claude", "gemini", "ollama")
WORDS = "one two three four five six seven eight nine ten "
LOOK = [{"name": "look", "arguments": {"a": n}} for n in (1, 2)]
TURN = {"reasoning": 9, "text": WORDS, "calls": LOOK}
LAST = [{"calls": LOOK[:1]}, {"reasoning": 9, "text": WORDS * 9}]


@pytest.fixture(scope="module")
def sim():
    with simulator.serve(ttft=0, gap=0) as server:
        yield server


@pytest.fixture(scope="module")
def client(sim):
    made = Client(registry.load(simulator_environment(sim, "k")), retries=0)
    yield made
    made.close()


def look(a: int) -> int:
    """Looks."""
    return a


def calls(response):
    return [p for m in response.messages for p in m.parts if isinstance(p, ToolCall)]


def ends_well(client, name, stream):
    """What came of a stopped answer, once all the rest has been seen to."""
    assert stream.wait_end(30)
    response = stream.partial()
    assert "cancelled" == response.finish_reason
    assert response.messages == complete_tool_results(response.messages)
    history = [Message("user", "x"), *response.messages, Message("user", "Go on.")]
    for tools in ({"tools": [look], "approve": "auto"}, {}):
        assert client.complete(history, f"{name}/m", **tools).text
    return response


# Where it is stopped: (options of the model, its turns, the event that is waited for, how often).
STREAMED = {
    "before the headers": ("headers=3600", [TURN], None),
    "before the first token": ("ttft=3600", [TURN], None),
    "in a thought": ("stall=3", [TURN], ReasoningDelta),
    "in the text": ("stall=14", [TURN], TextDelta),
    "in a call": ("stall=21,tail=3600", [TURN], ToolCallDelta),
    "behind the calls": ("tail=3600", [TURN], ToolCallDelta),
    "in the text of the last turn": ("stall=40", LAST, (StepEnded, TextDelta)),
}


@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.parametrize("stage", STREAMED)
def test_stopped_while_the_model_speaks(client, sim, name, stage):
    """The server sees the connection close, hours before the answer's end; no call is run after that."""
    options, turns, wanted = STREAMED[stage]
    kinds = list(wanted) if isinstance(wanted, tuple) else [wanted] if wanted else []
    before = len(sim.records)
    ran = []

    def look(a: int) -> int:
        """Looks."""
        ran.append(a)
        return a

    stream = client.stream("x", f"{name}/m@{options},{script(turns)}", tools=[look], approve="auto")
    events = iter(stream)
    for kind in kinds:
        assert any(isinstance(event, kind) for event in events), kind
    assert comes_to(before + 1, lambda: sim.records) if not kinds else sim.records[before:]
    stream.cancel()
    response = ends_well(client, name, stream)
    assert sim.settled(60)[before + len(response.before)].aborted_ns is not None
    assert len(response.before) == len(ran)
    if stage == "in the text":
        assert response.text
        assert WORDS.startswith(response.text)
    if stage == "in the text of the last turn":
        assert (1, True) == (len(response.before), response.text.startswith("one two"))


HERE = ("at the question", "in a function", "in a coroutine", "in a coroutine of a reader's loop", "away")


@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.parametrize("stage", HERE)
def test_stopped_while_a_call_is_asked_about_or_runs(client, name, stage):
    """By somebody else than who reads: what runs on that thread is not waited for, and a coroutine is
    cancelled."""
    began, end = threading.Event(), threading.Event()

    def wait(*_given):
        began.set()
        assert end.wait(30)
        return "no"

    async def wait_too(*_given):
        began.set()
        try:
            await asyncio.sleep(3600)
        finally:
            end.set()

    def look(a: int) -> str:
        """Looks."""
        return wait()

    async def looking(a: int) -> str:
        """Looks."""
        return await wait_too()

    tool = {
        "at the question": of(look),
        "in a function": of(look),
        "away": Usable(Tool("looking", "Looks."), wait_too, where="engine"),
    }.get(stage, of(looking))
    turns = [{"calls": [{"name": tool.tool.name, "arguments": {"a": n}} for n in (1, 2)]}]
    approve = wait if stage == "at the question" else "auto"
    stream = client.stream("x", f"{name}/m@{script(turns)}", tools=[tool], approve=approve)

    async def reading():
        await stream

    reads = (lambda: asyncio.run(reading())) if "loop" in stage else stream.response
    reader = threading.Thread(target=reads, daemon=True)
    reader.start()
    assert began.wait(30)
    stream.cancel()
    response = ends_well(client, name, stream)
    assert [2, "stopped", "stopped"] == [len(calls(response)), *outcomes(response)]
    if tool.tool.name == "look":
        end.set()
    assert end.wait(60)
    reader.join(60)
    assert not reader.is_alive()


@pytest.mark.parametrize("name", FORMATS)
def test_stopped_while_a_summary_is_written(client, sim, name):
    """Nothing was said then; the conversation is as it was."""
    turns = [{"text": "fine", "repeat": True}, {"when": "Summarise the conversation", "text": WORDS * 9}]
    history = [Message(role, "word " * 200) for _ in range(4) for role in ("user", "assistant")]
    before = len(sim.records)
    stream = client.stream(
        [*history, Message("user", "x")], f"{name}/m@stall=20,{script(turns)}", tools=[look], compact=900
    )
    assert comes_to(before + 1, lambda: sim.records)
    stream.cancel()
    assert not ends_well(client, name, stream).text
    assert sim.settled(60)[before].aborted_ns is not None
