"""What happens to loops over tools, in every format, against the strict simulator: whatever models and tools
do, each call has one result, there is an answer, and the conversation can go on."""

import asyncio
import json

import pytest

from nbllm.client.client import Client
from nbllm.core.errors import ConfigError
from nbllm.core.history import complete_tool_results
from nbllm.core.messages import Document, Image, Message, Text, Tool, ToolCall, ToolResult
from nbllm.simulator import script
from nbllm.tools.usable import Usable

from .test_tool_loop import FAST, FORMATS, outcomes

PNG = b"\x89PNG\r\n\x1a\n" + bytes(64)
PDF = Document(b"%PDF-1.4", media_type="application/pdf")


@pytest.fixture(scope="module")
def client():
    made = Client()
    yield made
    made.close()


@pytest.fixture(params=FORMATS)
def name(request):
    return request.param


def model(name, steps=None, **options):
    words = "".join(f",{k}={v}" for k, v in options.items())
    return f"sim/{name}/m@{FAST}{words}" + (f",{script(steps)}" if steps else "")


def calls(*names, **arguments):
    return {"calls": [{"name": n, "arguments": arguments} for n in names]}


def f(a: int = 1) -> int:
    """A tool."""
    return a


def goes_on(client, name, response, tools=()):
    """The answer keeps the rule, and a question behind it is taken by the strict server."""
    assert response.messages == complete_tool_results(response.messages)
    history = [Message("user", "x"), *response.messages, Message("user", "Go on.")]
    assert client.complete(history, model(name), tools=list(tools), approve="never" if tools else None).text
    return response


def giving(value):
    def tool():
        """A tool."""
        if isinstance(value, BaseException):
            raise value
        return value

    return tool


# --- names and choices --------------------------------------------------------------------------------------


def test_tools_without_a_latin_letter(client, name):
    """Names that become alike stay different, and each call reaches its own."""

    def größe(a: int) -> int:  # noqa: PLC2401
        return a

    def 価格(a: int) -> int:  # noqa: PLC2401
        return a + 1

    def 価値(a: int) -> int:  # noqa: PLC2401
        return a + 2

    tools = [größe, 価格, 価値]
    told = [t.name for t in client.tool_descriptions(tools)]
    steps = [calls(*told, a=1), {"text": "{results}"}]
    found = client.complete("x", model(name, steps), tools=tools, approve="auto")
    assert (3, ["1", "2", "3"]) == (len({*told}), [e.result.content for e in found.steps[0].results])
    goes_on(client, name, found, tools)


def test_two_tools_of_one_name(client, name):
    async def other(arguments):
        return "2"

    tools = [f, Usable(Tool("f", "Another."), other, where="engine", source="mcp/x")]
    told = [t.name for t in client.tool_descriptions(tools)]
    found = client.complete("x", model(name, [calls(*told), {"text": "ok"}]), tools=tools, approve="auto")
    assert ["1", "2"] == [e.result.content for e in found.steps[0].results]


@pytest.mark.parametrize("plain", [False, True])
def test_a_choice_is_of_the_tools_that_there_are(client, plain):
    """By the name that the user wrote; another one is told before anything is sent."""
    for name in FORMATS[:4]:

        def größe(a: int = 1) -> int:  # noqa: PLC2401
            """A tool."""
            return a

        tool = Tool("größe", "A tool.") if plain else größe
        how = {"tools": [tool], **({} if plain else {"approve": "auto"})}
        stream = client.stream("x", model(name, tools=1), tool_choice="größe", **how)
        found = stream.response()
        sent = (stream.turns or [stream])[0].attempts[0].request
        assert sent.tools[0].name == sent.tool_choice != "größe"
        assert ([c.name for c in found.tool_calls] if plain else outcomes(found)) == (
            [sent.tool_choice] if plain else ["ran"]
        )
        with pytest.raises(ConfigError, match=r"'nope' is not a tool(?s:.*)There are: "):
            client.complete("x", model(name), tool_choice="nope", **how)


# --- what tools give and raise ------------------------------------------------------------------------------


class Unspeakable(Exception):
    def __str__(self):
        raise ValueError

    __repr__ = __str__


RAISED = [
    Unspeakable(),
    SystemExit(3),
    asyncio.CancelledError(),
    GeneratorExit(),
    StopIteration(),
    StopAsyncIteration(),
    RecursionError(),
    ExceptionGroup("g", [ValueError("a")]),
    Exception("\ud83d" * 3),
    Exception("x" * 10**6),
]


@pytest.mark.parametrize("error", RAISED, ids=lambda e: type(e).__name__)
def test_whatever_a_tool_raises_is_a_result(client, error):
    """On the reader's thread, in its loop, and on the engine's, which goes on."""

    async def away(arguments):
        raise error

    async def here():
        """A tool."""
        raise error

    for tool in (giving(error), here, Usable(Tool("away", "A tool."), away, where="engine")):
        found = client.complete("x", model("openai", tools=1), tools=[tool], approve="auto")
        assert ["failed"] == outcomes(found)
        assert len(found.steps[0].results[0].result.content) < 5_000

        async def read(tool=tool):
            return await client.stream("x", model("openai", tools=1), tools=[tool], approve="auto")

        assert ["failed"] == outcomes(asyncio.run(read()))
    assert client.complete("x", model("openai")).text


def test_a_reader_that_is_cancelled_is_no_failure(client):
    """A CancelledError that somebody means is heard."""
    began = asyncio.Event

    async def read():
        started = began()

        async def waits():
            """Waits."""
            started.set()
            await asyncio.Event().wait()

        stream = client.stream("x", model("openai", tools=1), tools=[waits], approve="auto")
        task = asyncio.create_task(_result(stream))
        await asyncio.wait_for(started.wait(), 30)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        stream.cancel()
        assert stream.wait_end(30)
        return stream.partial()

    assert ["stopped"] == outcomes(asyncio.run(read()))


async def _result(stream):
    return await stream


ODD = ["\ud83d", "a\0b", "\u202e\x1b[31m", "", "   ", "\n", "\ufeff", "'\"\\</script>", "\U000e0041"]


@pytest.mark.parametrize("text", ODD, ids=ascii)
def test_odd_words_of_a_tool(client, name, text):
    found = client.complete("x", model(name, tools=1), tools=[giving(text)], approve="auto")
    assert ["ran"] == outcomes(goes_on(client, name, found))


def test_a_huge_result_is_cut(client, name):
    """What is sent stays small."""
    stream = client.stream("x", model(name, tools=1), tools=[giving("word " * 500_000)], approve="auto")
    assert ["ran"] == outcomes(stream.response())
    assert len(json.dumps(stream.turns[1].attempts[0].call.body)) < 100_000


@pytest.mark.parametrize(
    "content",
    [
        PDF,
        Image(PNG),
        [Text("See"), Image(PNG), PDF],
        Image(b"<svg/>", media_type="image/svg+xml"),
        Document(b"RIFF", media_type="audio/wav"),
        Image(url="https://pictures.example/a.png"),
    ],
    ids=["pdf", "png", "both", "svg", "sound", "address"],
)
def test_a_file_that_a_provider_does_not_take_is_told_in_words(client, name, content):
    """The answer is not lost for it, nor the conversation."""
    found = client.complete("x", model(name, tools=1), tools=[giving(content)], approve="auto")
    assert (["ran"], "stop") == (outcomes(found), found.finish_reason)
    goes_on(client, name, found)
    if name == "ollama" and content is PDF:
        assert any("replaced by descriptions" in n.text for n in found.notices)
        assert PDF in found.steps[0].results[0].result.content  # what came is kept


def test_a_users_file_that_is_not_taken_is_still_an_error(client):
    """Only what tools give is told in words."""
    for history in ([Message("user", [PDF])], [Message("user", [PDF, Text("x")]), *RESULT]):
        with pytest.raises(ConfigError, match="takes no documents"):
            client.complete(history, model("ollama"))


RESULT = [
    Message("assistant", [ToolCall("c", "f", {})]),
    Message("tool", [ToolResult("c", (Text("a"), Image(PNG)), name="f")]),
]


# --- ids ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "ids",
    [("", ""), ("a", "a"), ("x" * 300, "x" * 300), ("a b", "a_b"), ("é", "ü"), ("fc|1", "fc_1"), ("", "a")],
    ids=range(7),
)
def test_ids_are_sent_so_that_each_result_finds_its_call(client, name, ids):
    """Empty ones, equal ones, and those that become equal; in two turns of one conversation."""
    turn = [
        Message("assistant", [ToolCall(i, "f", {"a": n}) for n, i in enumerate(ids)]),
        Message("tool", [ToolResult(i, f"result {n}", name="f") for n, i in enumerate(ids)]),
    ]
    history = [Message("user", "x"), *turn, Message("assistant", "Well."), Message("user", "y"), *turn]
    stream = client.stream([*history, Message("user", "z")], model(name))
    assert stream.response().text
    sent = _pairs(name, stream.attempts[0].call.body)
    assert [(0, "result 0"), (1, "result 1")] * 2 == sent


def within(value):
    """All objects of a body, in their order."""
    if isinstance(value, dict):
        yield value
    for part in value.values() if isinstance(value, dict) else value if isinstance(value, list) else ():
        yield from within(part)


# By format: (the id and arguments of a call, the id and words of a result), None for other objects.
READ = {
    "openai": (
        lambda d: "function" in d and "id" in d and (d["id"], json.loads(d["function"]["arguments"])),
        lambda d: d.get("role") == "tool" and (d["tool_call_id"], d["content"]),
    ),
    "responses": (
        lambda d: d.get("type") == "function_call" and (d["call_id"], json.loads(d["arguments"])),
        lambda d: d.get("type") == "function_call_output" and (d["call_id"], d["output"]),
    ),
    "claude": (
        lambda d: d.get("type") == "tool_use" and (d["id"], d["input"]),
        lambda d: d.get("type") == "tool_result" and (d["tool_use_id"], d["content"]),
    ),
    "gemini": (
        lambda d: "functionCall" in d and (d["functionCall"].get("id"), d["functionCall"]["args"]),
        lambda d: (
            "functionResponse" in d
            and (d["functionResponse"].get("id"), d["functionResponse"]["response"]["output"])
        ),
    ),
    "ollama": (
        lambda d: "function" in d and "arguments" in d["function"] and (None, d["function"]["arguments"]),
        lambda d: d.get("role") == "tool" and (None, d["content"]),
    ),
}


def _pairs(name, body):
    """[(what a call was given, what it came to)] by the ids of the wire, each of them one call's; in their
    order where it has none."""
    made, told = ([found for d in within(body) if (found := read(d))] for read in READ[name])
    named = [ident for ident, _ in made if ident is not None]
    assert len(set(named)) == len(named)
    by_id = dict(made)
    return [
        (made[k][1]["a"] if ident is None else by_id[ident]["a"], words)
        for k, (ident, words) in enumerate(told)
    ]


# --- ends ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("most", [1, 2, 3])
def test_a_limit_amid_parallel_calls(client, name, most):
    steps = [{"text": "Look.", **calls("f", "f", "f"), "repeat": True}]
    steps[0]["calls"] = [{"name": "f", "arguments": {"a": i}} for i in range(3)]
    found = client.complete("x", model(name, steps), tools=[f], approve="auto", max_steps=most)
    goes_on(client, name, found, [f])


def test_an_answer_that_is_cut_in_a_call(client, name):
    """The last call of it is not run, the others are."""
    made = [{"name": "f", "arguments": {"a": i}} for i in range(3)]
    steps = [{"calls": made, "finish": "length"}, {"text": "ok"}]
    found = client.complete("x", model(name, steps), tools=[f], approve="auto")
    assert ["ran", "ran", "invalid"] == outcomes(goes_on(client, name, found, [f]))


def test_answers_of_many_kinds_to_one_turn(client, name):
    said = iter([True, False, None, "always"])
    steps = [{"calls": [{"name": "f", "arguments": {"a": i}} for i in range(6)]}, {"text": "ok"}]
    found = client.complete("x", model(name, steps), tools=[f], approve=lambda question: next(said))
    assert ["ran", "refused", "refused", "ran", "ran", "ran"] == outcomes(goes_on(client, name, found, [f]))


def test_stopped_amid_thought_text_and_calls(client, name):
    def stops(a: int) -> int:
        """Stops."""
        raise KeyboardInterrupt

    made = [{"name": "stops", "arguments": {"a": i}} for i in range(2)]
    stream = client.stream(
        "x", model(name, [{"text": "I", "reasoning": 4, "calls": made}]), tools=[stops], approve="auto"
    )
    with pytest.raises(KeyboardInterrupt):
        stream.response()
    assert stream.wait_end(30)
    assert ["stopped", "stopped"] == outcomes(goes_on(client, name, stream.partial()))


def test_a_conversation_moves_from_one_format_to_every_other(client, name):
    """Thoughts, signatures and ids of one are no trouble to another."""
    made = [{"name": "f", "arguments": {"a": i}} for i in range(2)]
    steps = [{"text": "I look.", "reasoning": 5, "calls": made}, {"text": "ok", "reasoning": 3}]
    found = client.complete("x", model(name, steps), tools=[f], approve="auto", reasoning="low")
    for other in FORMATS:
        goes_on(client, other, found, [f])
        goes_on(client, other, found)


def test_a_window_that_is_full_amid_parallel_calls(client, name):
    """It is shortened between two steps, calls and results together."""
    rounds = [[{"name": "long", "arguments": {"a": i + 3 * k}} for i in range(3)] for k in range(2)]

    def long(a: int) -> str:
        """A long one."""
        return "word " * 1_500

    steps = [*({"calls": r} for r in rounds), {"text": "end"}]
    found = client.complete(
        "x", model(name, steps, window=12_000), tools=[long], approve="auto", compact="auto"
    )
    assert "end" == found.text
    assert found.messages == complete_tool_results(found.messages)


@pytest.mark.parametrize("given", [(), (0,), (1,), (0, 1)])
def test_open_calls_are_taken_up_again(client, name, given):
    """Those that had no result are run, the others are not; whatever a crash left."""
    seen = []

    def g(a: int) -> int:
        """A tool."""
        seen.append(a)
        return a

    calls_ = [ToolCall(f"c{i}", "g", {"a": i}) for i in range(2)]
    results = [ToolResult(f"c{i}", "known") for i in given]
    history = [
        Message("user", "x"),
        Message("assistant", calls_),
        *([Message("tool", results)] * bool(given)),
    ]
    found = client.complete(history, model(name), tools=[g], approve="auto")
    assert [i for i in range(2) if i not in given] == seen
    assert found.text
