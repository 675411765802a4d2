"""The loop over tools: functions that a model calls, in every format, against the simulator."""

import asyncio
import pickle
import subprocess
import sys
import threading
import tomllib
from typing import Annotated, Literal

import pytest
from pydantic import AfterValidator

from nbllm.client.client import Client
from nbllm.core.errors import ConfigError
from nbllm.core.events import StepEnded, TextDelta, ToolEnded, ToolStarted
from nbllm.core.history import complete_tool_results
from nbllm.core.messages import Image, Message, Tool, ToolCall, ToolResult
from nbllm.routing import config, registry
from nbllm.simulator import script, serve
from nbllm.tools import files, of, python
from nbllm.tools.usable import Usable

from .listeners import Listener

FORMATS = ["openai", "responses", "claude", "gemini", "ollama"]
FAST = "ttft=0,gap=0"


class Prices:
    """A tool that remembers who called it."""

    def __init__(self, answer=4.5):
        self.calls, self.threads, self.answer = [], [], answer

    def price(self, article: str, currency: Literal["EUR", "USD"] = "EUR") -> float:
        """The list price of an article.

        Args:
            article: its number, such as "A-17"
        """
        self.calls.append((article, currency))
        self.threads.append(threading.current_thread())
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer


@pytest.fixture(scope="module")
def client():
    made = Client()
    yield made
    made.close()


@pytest.fixture
def prices():
    return Prices()


def model(name="openai", **options):
    return f"sim/{name}/m@{FAST}" + "".join(f",{k}={v}" for k, v in options.items())


def outcomes(response):
    return [e.outcome for step in response.steps for e in step.results]


@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.parametrize("many", [1, 2, 3])
def test_a_function_runs_and_the_model_is_told(client, prices, name, many):
    """On the thread that reads; every turn is a call of its own, with its own row; counts are sums."""
    before = len(client.ledger.rows())
    stream = client.stream(
        "What does A-17 cost?", model(name, tools=many), tools=[prices.price], approve="auto"
    )
    r = stream.response()
    assert [("A-17", "EUR")] * min(many, 2) == prices.calls  # the third equal one is not run
    assert {threading.current_thread()} == set(prices.threads)
    assert ["ran", "ran", "repeated"][:many] == outcomes(r)
    assert (2, "stop", ()) == (len(r.steps), r.finish_reason, r.tool_calls)
    assert {"4.5"} == {e.result.content for e in r.steps[0].results if e.outcome == "ran"}
    first, last = (t.partial() for t in stream.turns)
    assert first.usage.input_tokens + last.usage.input_tokens == r.usage.input_tokens
    assert (2, 1) == (len(client.ledger.rows()) - before, r.timing.attempts)
    assert r.messages == complete_tool_results(r.messages)
    assert ["assistant", "tool", "assistant"] == [m.role for m in r.messages]


def test_the_events_of_a_step(client, prices):
    """In the log, for whoever draws: a start and an end for each call, then the step's end."""
    stream = client.stream("What does A-17 cost?", model(), tools=prices.price, approve="auto")
    kinds = [type(e) for e in stream if isinstance(e, (ToolStarted, ToolEnded, StepEnded))]
    assert [ToolStarted, ToolEnded, StepEnded] == kinds
    assert "".join(e.text for e in stream if isinstance(e, TextDelta)) == stream.response().text


def test_read_asynchronously(client, prices):
    """Functions run in the reader's loop; coroutine functions are awaited there."""
    loops = []

    async def rate(currency: str) -> float:
        """The rate of a currency."""
        loops.append(asyncio.get_running_loop())
        await asyncio.sleep(0)
        return 1.1

    async def read():
        r = await client.stream("Rate?", model(), tools=[rate], approve="auto")
        assert [asyncio.get_running_loop()] == loops
        return r

    assert ["ran"] == outcomes(asyncio.run(read()))
    assert ["ran"] == outcomes(client.complete("Rate?", model(), tools=[rate], approve="auto"))


def test_an_async_function_has_its_limit(client):
    """Where nobody waits for it any more the model is told; a TimeoutError of its own is its failure."""

    async def never(article: str) -> float:
        await asyncio.sleep(600)

    async def raises(article: str) -> float:
        raise TimeoutError("of its own")

    for function, outcome, words in [(never, "timeout", "after 0.05 s"), (raises, "failed", "of its own")]:
        tool = of(function, timeout=0.05 if function is never else 60)
        r = client.complete("Rate?", model(), tools=[tool], approve="auto")
        assert [outcome] == outcomes(r)
        assert words in r.steps[0].results[0].result.content


def test_what_a_function_raises_is_told_in_one_line(client):
    prices = Prices(KeyError("A-17"))
    r = client.complete("What does A-17 cost?", model(), tools=[prices.price], approve="auto")
    [end] = r.steps[0].results
    assert ("failed", True) == (end.outcome, end.result.is_error)
    assert "failed: KeyError: 'A-17' (line" in end.result.content
    assert "\n" not in end.result.content


# --- consent ---


@pytest.mark.parametrize(
    ("answer", "calls", "told"),
    [
        (True, 2, ["ran", "ran"]),
        ("once", 2, ["ran", "ran"]),
        ("always", 1, ["ran", "ran"]),
        (False, 2, ["refused", "refused"]),
        ("no", 2, ["refused", "refused"]),
        (None, 2, ["refused", "refused"]),
        ("yes please", 2, ["refused", "refused"]),
    ],
)
def test_the_person_is_asked(client, prices, answer, calls, told):
    """Once for each call, with exactly the arguments that would run; "always" holds for this answer."""
    asked = []

    def approve(question):
        asked.append(question)
        question.call.arguments["article"] = "changed afterwards"
        return answer

    r = client.complete("What does A-17 cost?", model(tools=2), tools=[prices.price], approve=approve)
    assert calls == len(asked)
    assert [(1, 2), (2, 2)][:calls] == [(q.number, q.of) for q in asked]
    assert "function price" == asked[0].tool.source
    assert told == outcomes(r)
    assert set(prices.calls) <= {("A-17", "EUR")}
    assert (2, "stop") == (len(r.steps), r.finish_reason)


def test_where_nobody_can_be_asked_it_is_no(client, prices):
    """The model is told, and the person too."""
    for approve in (None, "ask", "never"):
        r = client.complete("What does A-17 cost?", model(), tools=[prices.price], approve=approve)
        assert ([], ["refused"]) == (prices.calls, outcomes(r))
        assert any("price was not run" in n.text for n in r.notices)
        assert "not run" in r.steps[0].results[0].result.content


def test_what_only_reads_is_not_asked_about(client, prices):
    """By the person's own word."""
    from nbllm.tools.functions import of

    r = client.complete(
        "What does A-17 cost?", model(), tools=[of(prices.price, reads=True)], approve="never"
    )
    assert (["ran"], 1) == (outcomes(r), len(prices.calls))


def test_an_asker_that_fails_is_a_no(client, prices):
    def approve(question):
        raise RuntimeError("no page")

    r = client.complete("What does A-17 cost?", model(), tools=[prices.price], approve=approve)
    assert ([], ["refused"]) == (prices.calls, outcomes(r))


# --- stopping ---


class _Contrary:
    def __eq__(self, other):
        raise RuntimeError("no comparing")

    def __bool__(self):
        raise RuntimeError("neither")

    __hash__ = None


@pytest.mark.parametrize("odd", [1, 0, "yes", "ONCE", [], {"a": True}, _Contrary(), object, 1.0, b"once"])
def test_what_is_no_answer_is_no_and_told(client, prices, odd):
    """Whatever a function of the user's gives; what compares or counts by itself costs no answer."""
    r = client.complete("What does A-17 cost?", model(), tools=[prices.price], approve=lambda _: odd)
    assert ["refused"] == outcomes(r)
    assert any("neither once, always, no" in n.text for n in r.notices)


def test_stopped_in_the_middle_of_a_function(client):
    """The call is closed, and the conversation can go on."""

    def slow(seconds: int) -> str:
        """Waits."""
        raise KeyboardInterrupt

    stream = client.stream("Wait.", model(tools=2), tools=[slow], approve="auto")
    with pytest.raises(KeyboardInterrupt):
        stream.response()
    assert stream.wait_end(30)
    r = stream.partial()
    assert (["stopped", "stopped"], "cancelled") == (outcomes(r), r.finish_reason)
    first, second = (e.result.content for e in r.steps[0].results)
    assert "while it ran" in first
    assert "not run" in second
    assert r.messages == complete_tool_results(r.messages)
    after = client.complete([Message("user", "Wait."), *r.messages, Message("user", "Go on.")], model())
    assert "stop" == after.finish_reason


def test_stopped_while_something_is_away(client):
    """A call that waits for a server is cancelled."""
    began, ended = threading.Event(), threading.Event()

    async def away(arguments):
        began.set()
        try:
            await asyncio.Event().wait()
        finally:
            ended.set()

    tool = Usable(Tool("away", "Waits."), away, where="engine")
    stream = client.stream("Wait.", model(), tools=[tool], approve="auto")
    assert began.wait(30)
    stream.cancel()
    assert stream.wait_end(30)
    assert ended.wait(30)
    assert ["stopped"] == outcomes(stream.partial())


def test_calls_that_wait_for_others_wait_together(client):
    """And one that takes too long is given up, by itself."""
    both = threading.Barrier(2)

    async def meet(arguments):
        await asyncio.to_thread(both.wait, 30)
        return "met"

    async def never(arguments):
        await asyncio.Event().wait()

    meeting = [Usable(Tool(n, "Meets."), meet, where="engine") for n in ("a", "b")]
    calls = [ToolCall("1", "a", {}), ToolCall("2", "b", {}), ToolCall("3", "never", {})]
    late = Usable(Tool("never", ""), never, where="engine", timeout=0.05)
    history = [Message("user", "Meet."), Message("assistant", calls)]
    r = client.complete(history, model(), tools=[*meeting, late], approve="auto")
    assert {"1": "ran", "2": "ran", "3": "timeout"} == {e.result.id: e.outcome for e in r.before[0].results}


# --- limits ---


def test_tokens_that_are_spent(client, prices):
    """No call is made after that, and there is an answer."""
    r = client.complete(
        "What does A-17 cost?",
        model(),
        tools=[prices.price],
        approve="auto",
        budget={"tokens": 1},
        max_steps=5,
    )
    assert (1, 2, "stop") == (len(prices.calls), len(r.steps), r.finish_reason)


@pytest.mark.parametrize(
    "options",
    [
        {"max_steps": 0},
        {"budget": -1},
        {"budget": {"euros": 1}},
        {"budget": {"tokens": 0}},
        {"approve": "perhaps"},
        {"tools": ["price"]},
        {"tools": 3},
        {"tools": [lambda x: x]},
    ],
)
def test_what_is_wrong_is_said_before_anything_is_sent(client, prices, options):
    before = len(client.ledger.rows())
    with pytest.raises(ConfigError):
        client.stream("What does A-17 cost?", model(), **{"tools": [prices.price], **options})
    assert before == len(client.ledger.rows())


@pytest.mark.parametrize("name", ["max_steps", "approve"])
def test_options_of_tools_need_a_tool(client, name):
    with pytest.raises(ConfigError, match=name):
        client.stream("Hi", model(), **{name: {"approve": "auto"}.get(name, 3)})


# --- other tools ---


def test_tools_without_code_are_handed_over(client, prices):
    """As before: one answer with its calls."""
    plain = Tool("search", "Searches.", {"type": "object", "properties": {"q": {"type": "string"}}})
    r = client.complete("Find.", model(), tools=[plain])
    assert ("tool_calls", ["search"]) == (r.finish_reason, [c.name for c in r.tool_calls])
    r = client.complete("Find.", model(call="search"), tools=[plain, prices.price], approve="auto")
    assert ("tool_calls", ["search"], []) == (
        r.finish_reason,
        [c.name for c in r.tool_calls],
        prices.calls,
    )


def test_a_conversation_is_taken_up_with_its_open_calls(client, prices):
    """After a crash: the calls that have no result are run first."""
    calls = [ToolCall("1", "price", {"article": "B-3"}), ToolCall("2", "price", {"article": "C-4"})]
    history = [
        Message("user", "What do they cost?"),
        Message("assistant", calls),
        Message("tool", ToolResult("1", "9.0", name="price")),
    ]
    r = client.complete(history, model(), tools=[prices.price], approve="auto")
    assert [("C-4", "EUR")] == prices.calls
    assert "stop" == r.finish_reason
    assert r.messages[0] == Message("tool", ToolResult("2", "4.5", name="price"))


CRASHES = """
import os, pathlib, pickle, sys
import nbllm
from nbllm.core.events import StepEnded, ToolStarted
from nbllm.simulator import script

def price(article: str) -> float:
    if article == "B-3":
        os._exit(9)
    return 4.5

calls = [[{"name": "price", "arguments": {"article": a}}] for a in ("A-17", "B-3")]
model = "sim/claude/m@ttft=0,gap=0," + script([{"text": "Let me see.", "calls": c} for c in calls])
stream = nbllm.stream("What do they cost?", model, tools=[price], approve="auto")
for event in stream:
    if isinstance(event, ToolStarted | StepEnded):
        pathlib.Path(sys.argv[1]).write_bytes(pickle.dumps(stream.partial().conversation))
"""


@pytest.mark.parametrize("asynchronous", [False, True])
def test_what_came_before_a_call_is_read_before_it_runs(client, asynchronous):
    """Who prints the words sees them before the question is asked, and before the function runs."""
    seen = []

    def look(a: int = 1) -> int:
        """Looks."""
        seen.append("runs")
        return a

    def asked(question):
        seen.append("asked")
        return True

    steps = script([{"text": "Let me see.", "calls": [{"name": "look"}] * 2}, {"text": "Seen."}])
    stream = client.stream("x", f"{model()},{steps}", tools=[look], approve=asked)

    def note(event):
        if isinstance(event, TextDelta):
            seen.append(event.text)
        elif isinstance(event, ToolStarted | ToolEnded):
            seen.append(type(event).__name__)

    async def read():
        async for event in stream:
            note(event)

    if asynchronous:
        asyncio.run(read())
    else:
        for event in stream:
            note(event)
    call = ["ToolStarted", "runs", "ToolEnded"]
    at = seen.index("asked")
    assert "Let me see." == "".join(seen[:at])
    assert ["asked", "asked", *call, *call] == seen[at : at + 8]
    assert "Seen." == "".join(seen[at + 8 :])


@pytest.mark.slow
def test_a_loop_goes_on_in_another_process(client, prices, tmp_path):
    """From what was kept as it went: the process died in the middle of a call, which is run again, as it has
    no result."""
    kept = tmp_path / "conversation"
    died = subprocess.run([sys.executable, "-c", CRASHES, str(kept)], check=False, timeout=120)
    assert 9 == died.returncode
    conversation = pickle.loads(kept.read_bytes())
    assert ["user", "assistant", "tool", "assistant"] == [m.role for m in conversation]
    steps = script([{"text": ""}, {"text": ""}, {"text": "They cost {results}."}])
    r = client.complete(conversation, f"{model('claude')},{steps}", tools=[prices.price], approve="auto")
    assert [("B-3", "EUR")] == prices.calls
    assert "They cost 4.5, 4.5." == r.text


def test_sets_are_opened_first(client, prices):
    """And one that cannot be opened is the call's error."""
    from nbllm.tools.functions import of

    class Set:
        async def usables(self):
            return [of(prices.price)]

    class Broken:
        async def usables(self):
            raise ConfigError("The server files does not start.")

    assert ["ran"] == outcomes(client.complete("What does A-17 cost?", model(), tools=Set(), approve="auto"))
    with pytest.raises(ConfigError, match="files"):
        client.complete("What does A-17 cost?", model(), tools=[Broken()], approve="auto")


# --- endpoints of the configuration ---


def test_an_endpoint_of_ones_own_file(tmp_path):
    """By name, with its variables filled; one that is not there is told with those that are; a project's file
    describes none."""
    with Listener((200, b'{"sky": "blue"}')) as server:
        table = f'[tool.weather]\nurl = "{server.url}/v1/{{city}}"\ndescription = "The weather."\n'
        own = tmp_path / "own.toml"
        own.write_text(f'{table}headers = {{ X-Key = "${{WEATHER_KEY}}" }}\n', "utf-8")
        env = {"NBLLM_CONFIG": str(own), "WEATHER_KEY": "canary-4711"}
        client = Client(registry.load(env))
        r = client.complete("In Rome?", model(), tools=["http/weather"], approve="auto")
        assert ['{"sky": "blue"}'] == [e.result.content for e in r.steps[0].results]
        assert "canary-4711" in server.text
        with pytest.raises(ConfigError, match="http/sun") as caught:
            client.stream("Hi", model(), tools="http/sun")
        assert "http/weather" in caught.value.hint
        client.close()
    project = config.Config()
    config._apply(project, config.Layer("pyproject.toml", tomllib.loads(table), project=True))
    assert ({}, True) == (project.tools, "a project cannot define tools" in str(project.problems[0]))


SECRETS = {
    "OPENAI_API_KEY": "sk-canary-0123456789abcdef",
    "DB_PASSWORD": "canary-of-a-database",
    "SOME_TOKEN": "tok/canary+4711==",
}
# A password within an address, as it stands there and as a program reads it.
WITHIN = {"DATABASE_URL": "postgresql://ada:canary%2Fof-an-address@db.example/orders"}
PLAIN = {"GEMINI_API_KEY": "dummy", "SSH_KEY": "/usr", "GIT_AUTHOR_NAME": "Ada Lovelace", "MONKEY": "tree"}
PLAIN |= {"DEV_URL": "postgres://postgres:postgres@localhost/orders"}


@pytest.mark.parametrize("name", FORMATS)
def test_a_secret_of_the_environment_reaches_no_model(tmp_path, name):
    """Whatever a tool gives or raises, and wherever it runs; words and paths stay, as they are nobody's
    secret."""
    env = {**SECRETS, **WITHIN, **PLAIN}
    (tmp_path / "notes.txt").write_text(f"the key is {SECRETS['OPENAI_API_KEY']}", "utf-8")
    said = " ".join((*env.values(), "canary/of-an-address"))

    def text() -> str:
        """Text."""
        return said

    def parts() -> list:
        """Text and a picture."""
        return [said, Image(b"\x89PNG\r\n\x1a\n" + bytes(64)), env]

    def fails() -> str:
        """Fails."""
        raise ValueError(said)

    async def away(arguments):
        return said

    tools = [text, parts, fails, Usable(Tool("away", "Away."), away, where="engine"), python({"said": said})]
    made = [{"name": t} for t in ("text", "parts", "fails", "away")]
    made += [{"name": "python", "arguments": {"code": c}} for c in ("print(said)", "said", "int(said)")]
    made += [{"name": "read_file", "arguments": {"path": "notes.txt"}}]
    client = Client(registry.load(env))
    steps = script([{"calls": made}, {"text": "{results}"}])
    stream = client.stream("x", f"{model(name)},{steps}", tools=[*tools, files(tmp_path)], approve="auto")
    told = f"{stream.response()} {stream.log} {[t.attempts[0].request for t in stream.turns]}"
    assert ["ran", "ran", "failed", "ran", "ran", "ran", "failed", "ran"] == outcomes(stream.response())
    assert [secret for secret in (*SECRETS.values(), "of-an-address") if secret in told] == []
    assert [word for word in PLAIN.values() if word not in told] == []
    client.close()


def test_a_check_and_a_question_that_fail_tell_no_secret():
    """A validator's own words are told to the model, those of approve= to the user."""
    env = {"OPENAI_API_KEY": SECRETS["OPENAI_API_KEY"]}

    def checked(value):
        raise ValueError(f"not like {env['OPENAI_API_KEY']}")

    def picky(a: Annotated[int, AfterValidator(checked)] = 1) -> int:
        """Picky."""
        return a

    def easy(a: int = 1) -> int:
        """Easy."""
        return a

    def fails(question):
        raise ValueError(env["OPENAI_API_KEY"])

    client = Client(registry.load(env))
    steps = script(
        [{"calls": [{"name": n, "arguments": {"a": 1}} for n in ("picky", "easy")]}, {"text": "ok"}]
    )
    stream = client.stream("x", f"{model()},{steps}", tools=[picky, easy], approve=fails)
    found = stream.response()
    assert ["invalid", "refused"] == outcomes(found)
    assert "•••" in found.steps[0].results[0].result.content
    assert any("asking failed (•••)" in n.text for n in found.notices)
    assert env["OPENAI_API_KEY"] not in f"{found} {stream.log}"
    client.close()


def test_a_key_of_the_call_reaches_no_model(client):
    """One that stands in no environment."""

    def text() -> str:
        """Text."""
        return "it is canary-of-the-call"

    steps = script([{"calls": [{"name": "text"}]}, {"text": "ok"}])
    with serve(ttft=0.0, gap=0.0) as server:
        r = client.complete(
            "x",
            f"m@{steps}",
            tools=[text],
            approve="auto",
            base_url=server.base_url("openai_chat"),
            api_key="canary-of-the-call",
        )
    assert ["it is •••"] == [e.result.content for e in r.steps[0].results]


@pytest.mark.slow
def test_a_script_asks_at_its_terminal(tmp_path):
    """With what would run, escaped; without a terminal it is no."""
    import os
    import pty
    import subprocess
    import sys

    program = tmp_path / "script.py"
    program.write_text(
        "import nbllm\n"
        "def price(article: str) -> float:\n"
        "    'The price.'\n"
        "    return 4.5\n"
        f"r = nbllm.complete('What does A-17 cost?', '{model()}', tools=[price])\n"
        "print(r.steps[0].results[0].outcome)\n",
        "utf-8",
    )
    ours, theirs = pty.openpty()
    os.write(ours, b"once\n")
    asked = subprocess.run(
        [sys.executable, program], stdin=theirs, stdout=subprocess.PIPE, check=True, timeout=60
    ).stdout
    assert b'Run price({"article": "A-17"}) of function price? [once/always/no] ' in asked
    assert asked.rstrip().endswith(b"ran")
    alone = subprocess.run(
        [sys.executable, program], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, check=True, timeout=60
    )
    assert b"refused" in alone.stdout
    os.close(ours)
    os.close(theirs)
