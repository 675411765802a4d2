"""Conversations in Python."""

import pytest

import nbllm
from nbllm.client.client import Client
from nbllm.core.errors import ConfigError, NbllmError
from nbllm.core.messages import Message
from nbllm.routing import registry
from nbllm.simulator import script

MODEL = "sim/openai/m@ttft=0,gap=0"


@pytest.fixture(scope="module")
def client():
    made = Client()
    yield made
    made.close()


def price(article: str) -> float:
    """The list price of an article."""
    return 4.5


def boom(article: str) -> float:
    """Ends the process."""
    raise KeyboardInterrupt


def roles(messages):
    return [m.role for m in messages]


def test_a_conversation_goes_on(client):
    chat = nbllm.Chat(MODEL, client=client, system="Be brief.")
    first = chat("Hello")
    second = chat.ask("And again")
    assert ["system", "user", "assistant", "user"] == roles(second.request.messages)
    assert first.message in second.request.messages
    assert ["user", "assistant"] * 2 == roles(chat.messages)
    assert 2 == len(chat.turns)
    chat.undo()
    other = chat.fork()
    other("Elsewhere")
    assert (1, 2) == (len(chat.turns), len(other.turns))
    chat.clear()
    assert () == chat.messages
    with pytest.raises(ConfigError):
        chat.undo()


def test_tools_stay_in_the_conversation(client):
    chat = nbllm.Chat(MODEL, client=client, tools=[price], approve="auto")
    chat("What does A-17 cost?")
    assert ["user", "assistant", "tool", "assistant"] == roles(chat.messages)
    assert "stop" == chat("Thanks.").finish_reason


@pytest.mark.parametrize("other", ["responses", "anthropic", "gemini", "ollama"])
def test_a_question_may_go_to_another_model(client, other):
    """For that one question, with the tools' calls of the others in the conversation."""
    chat = nbllm.Chat(MODEL, client=client, tools=[price], approve="auto")
    chat("What does A-17 cost?")
    asked = chat("And why?", model=f"sim/{other}/m@ttft=0,gap=0")
    assert ("stop", f"sim/{other}") == (asked.finish_reason, asked.provider)
    assert "sim/openai" == chat("Thanks.").provider


@pytest.mark.slow
def test_one_answer_at_a_time(client):
    chat = nbllm.Chat("sim/openai/m@ttft=30", client=client)
    stream = chat.stream("Hello")
    with pytest.raises(ConfigError, match="still running"):
        chat.stream("Hello?")
    stream.cancel()
    assert stream.wait_end(30)
    assert () == chat.messages  # nothing came


def test_what_was_stopped_among_its_tools_stays_and_can_be_gone_on_with(client):
    """The model learns what had been done."""
    chat = nbllm.Chat(MODEL, client=client, tools=[boom], approve="auto")
    with pytest.raises(KeyboardInterrupt):
        chat("What does A-17 cost?")
    chat._running[1].wait_end(30)
    assert ["user", "assistant", "tool"] == roles(chat.messages)
    assert "stop" == chat("Go on.", tools=[price]).finish_reason


@pytest.mark.parametrize("stop", ["at the question", "in the function", "cancelled"])
def test_after_a_stop_the_next_question_needs_no_patience(client, stop):
    """It waits for the end of what was stopped, a moment later on another thread."""

    def no(question):
        raise KeyboardInterrupt

    how = {"approve": no, "tools": [price]} if stop == "at the question" else {"approve": "auto"}
    chat = nbllm.Chat("sim/openai/m@ttft=0,gap=0", client=client)
    for _ in range(10):
        if stop == "cancelled":
            chat.stream("Hello", model="sim/openai/m@ttft=30").cancel()
        else:
            with pytest.raises(KeyboardInterrupt):
                chat("What does A-17 cost?", **{"tools": [boom], **how})
        assert "stop" == chat("Go on.").finish_reason


def test_an_answer_that_ends_with_nothing_is_counted(client):
    """All that was read and written stands in its usage, also where the last turn says nothing."""
    steps = script([{"calls": [{"name": "price", "arguments": {"article": "A"}}]}, {"text": ""}])
    before = len(client.ledger.rows())
    answer = client.complete("x", f"{MODEL},{steps}", tools=[price], approve="auto")
    rows = client.ledger.rows()[before:]
    assert 2 == len(rows)
    assert sum(r["in_tokens"] for r in rows) == answer.usage.input_tokens


def test_a_call_that_failed_changes_nothing(client):
    chat = nbllm.Chat("sim/openai/m@status=400", client=client)
    with pytest.raises(NbllmError):
        chat("Hello")
    assert () == chat.turns
    with pytest.raises(NbllmError):
        nbllm.Chat("gtp-4x/none", client=client)


def test_resume(client, monkeypatch):
    """From a checkpoint: open calls are run first."""
    from nbllm.client import api

    monkeypatch.setattr(api, "_client", client)
    calls = [nbllm.ToolCall("1", "price", {"article": "A-17"})]
    history = [Message("user", "What does A-17 cost?"), Message("assistant", calls)]
    r = nbllm.resume(history, MODEL, tools=[price], approve="auto")
    assert ("stop", "4.5") == (r.finish_reason, r.steps[0].results[0].result.content)
    assert ["user", "assistant", "tool", "assistant"] == roles(r.conversation)
    with pytest.raises(ConfigError, match="tools"):
        nbllm.resume(history, MODEL)


def test_an_answer_that_was_stopped_is_there_at_once(client):
    """Who looks right behind the Stop sees its turn, and takes that one back."""

    def stops(a: int = 1) -> int:
        """Stops."""
        raise KeyboardInterrupt

    for _ in range(20):
        chat = nbllm.Chat("sim/openai/m@ttft=0,gap=0,tools=1", client=client, tools=[stops], approve="auto")
        with pytest.raises(KeyboardInterrupt):
            chat("Wait.")
        assert 1 == len(chat.turns)
        assert ["stopped"] == [e.outcome for s in chat.turns[0].response.steps for e in s.results]
        assert "Wait." == chat.undo().asked[0].text
    chat = nbllm.Chat("sim/openai/m@ttft=0,gap=0.01,tokens=3000", client=client)
    stream = chat.stream("Hi")
    next(iter(stream.text_stream))
    stream.cancel()
    assert 1 == len(chat.turns)


# --- conversations that grow too long ---


def told(response):
    return [n for n in response.notices if n.kind == "compacted"]


def test_a_long_conversation_is_summarised_and_stays_whole(client):
    """All but the last two turns, by the same model; what was said stays, and what the next question sends is
    the summary and what came since."""
    chat = nbllm.Chat("sim/openai/m@ttft=0,gap=0,text=so%20it%20was", client=client, compact=900, system="S.")
    answers = [chat(f"question {i} " + "word " * 200) for i in range(6)]
    first = next(i for i, r in enumerate(answers) if told(r))
    [notice] = told(answers[first])
    assert "so it was" == notice.data["summary"]
    assert "summarised" in notice.text
    assert 12 == len(chat.messages)
    sent = answers[first + 1].request.messages
    assert "S." == sent[0].text
    assert "so it was" in sent[1].text
    assert f"question {first - 1} " in sent[2].text, "the turns that stayed"
    assert ["system", "user", *["user", "assistant"] * 2, "user"] == roles(sent)
    assert f"question {first + 1} " in sent[-1].text
    usage = answers[first].usage.input_tokens
    assert usage > 900 / 2, "with what the summary cost"


@pytest.mark.parametrize(
    ("step", "why"),
    [
        ({"status": 500}, "HTTP 500"),
        ({"text": ""}, "the model wrote none"),
        ({"text": " ", "calls": [{"name": "f"}]}, "the model wrote none"),
        ({"text": "so it was, " * 500}, "the summary was not shorter"),
    ],
)
def test_a_summary_that_fails_is_told_and_costs_no_turn(client, step, why):
    """Twice it is asked for; then the conversation is sent as it is."""
    steps = nbllm.simulator.script(
        [{"when": "Summarise the conversation", **step}, {"text": "so it was", "repeat": True}]
    )
    chat = nbllm.Chat(f"sim/openai/m@ttft=0,gap=0,{steps}", client=client, compact=900, retries=0)
    answers = [chat(f"question {i} " + "word " * 200) for i in range(5)]
    assert ["so it was"] * 5 == [r.text for r in answers]
    warned = [n.text for r in answers for n in r.notices if n.kind == "warning"]
    assert warned
    assert all(w.startswith("Earlier turns were not summarised: ") and why in w for w in warned)
    assert 10 == len(answers[-1].request.messages) + 1


def test_results_of_earlier_tools_go_first(client):
    """That costs nothing; the last three steps stay whole."""

    def look(article: str) -> str:
        """Looks it up."""
        return "found " * 300

    chat = nbllm.Chat(MODEL, client=client, tools=[look], approve="auto", compact=1_500)
    answers = [chat(f"What is A-{i}?") for i in range(6)]
    short = next(r for r in answers if told(r))
    assert "tools left out" in told(short)[0].text
    assert not told(short)[0].data
    results = [p for m in chat.messages if m.role == "tool" for p in m.parts]
    assert all(len(r.content) > 1_000 for r in results)


def test_off_and_unknown(client):
    for compact in ("off", "auto"):
        chat = nbllm.Chat(MODEL, client=client, compact=compact)
        assert not told(chat("word " * 3_000))
    long = nbllm.Chat(MODEL, client=client)
    assert any("is not known" in n.text for n in long("word " * 20_000).notices)
    assert not any("is not known" in n.text for n in long("again").notices)
    for wrong in ("perhaps", 0, -1, True, 0.5):
        with pytest.raises(ConfigError):
            nbllm.Chat(MODEL, client=client, compact=wrong)("Hello")


def test_auto_is_four_fifths_of_what_the_model_reads(tmp_path):
    """Where that is known: looked up when the conversation is long enough to ask."""
    with nbllm.simulator.serve(ttft=0, gap=0, text="so it was") as server:
        own = tmp_path / "own.toml"
        address = server.base_url("openai_chat")
        own.write_text(
            f'[provider.acme]\ndialect = "openai_chat"\nbase_url = "{address}"\nlocal = true\n'
            "[provider.acme.model.m]\ncontext = 6000\n",
            "utf-8",
        )
        client = Client(registry.load({"NBLLM_CONFIG": str(own)}))
        chat = nbllm.Chat("acme/m", client=client)
        answers = [chat("word " * 1_000) for _ in range(6)]
        first = next(i for i, r in enumerate(answers) if told(r))
        sizes = [r.turn_usage.input_tokens for r in answers]
        assert 3_000 < sizes[first - 1] < 4_800 < sizes[first - 1] + 1_000
        client.close()


def test_a_pinned_turn_stays_when_the_conversation_is_shortened(client):
    """As it was said, also where it had been summarised before; until it is let go."""
    chat = nbllm.Chat("sim/openai/m@ttft=0,gap=0,text=so%20it%20was", client=client, compact=900)
    chat("The number is 17. " + "word " * 100)
    chat.pin()
    asked = chat.turns[0].asked[0].text
    answers = [chat("word " * 250) for _ in range(8)]
    assert sum(map(bool, map(told, answers))) > 1
    assert [m.text for m in answers[-1].request.messages].count(asked) == 1
    chat.unpin(0)
    assert asked not in [m.text for m in chat("Hello").request.messages]
    chat.pin(0)
    assert asked in [m.text for m in chat("Hello").request.messages]
    for wrong in (99, -99):
        with pytest.raises(ConfigError, match="no turn"):
            chat.pin(wrong)
