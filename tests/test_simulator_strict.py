"""What the simulator rejects like real providers, and the loop over tools step by step, with a script."""

import asyncio

import pytest

import nbllm
from nbllm.client.client import Client
from nbllm.client.policy import Retries
from nbllm.core.errors import BadRequest, ContextLengthExceeded, NbllmError
from nbllm.core.history import complete_tool_results
from nbllm.core.messages import Message, Request, Tool, ToolCall, ToolResult
from nbllm.simulator import script, strict
from nbllm.simulator.normalized_request import HistoryEntry, call_entry, result_entry
from nbllm.simulator.options import BadOption

FORMATS = ["openai", "responses", "claude", "gemini", "ollama"]
CALL = ToolCall("c1", "price", {"article": "A-17"}, '{"article": "A-17"}')
OTHER = ToolCall("c2", "price", {"article": "B-3"}, '{"article": "B-3"}')
ASKED, RESULT = Message("user", "What does A-17 cost?"), ToolResult("c1", "4.5", name="price")
PRICE = Tool("price", "The price.", {"type": "object", "properties": {"article": {"type": "string"}}})


@pytest.fixture(scope="module")
def client():
    made = Client()
    yield made
    made.close()


def model(name="openai", steps=None, **options):
    words = [f"{k}={v}" for k, v in {"ttft": 0, "gap": 0, **options}.items()]
    return f"sim/{name}/m@" + ",".join([*words, *([script(steps)] if steps is not None else [])])


def outcomes(response):
    return [[e.outcome for e in step.results] for step in response.steps]


# --- refusals ---

BROKEN = {
    "a call without its result": [ASKED, Message("assistant", CALL), Message("user", "Go on.")],
    "one of two": [ASKED, Message("assistant", [CALL, OTHER]), Message("tool", RESULT)],
    "a result without its call": [ASKED, Message("assistant", "Well."), Message("tool", RESULT)],
    "a call at the end": [ASKED, Message("assistant", CALL)],
}


@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.parametrize("history", BROKEN.values(), ids=BROKEN)
def test_a_broken_history_is_refused(client, name, history):
    """By all but Ollama, which takes any; and taken once the rule is kept."""
    if name == "ollama":
        assert client.complete(history, model(name), tools=[PRICE]).finish_reason
        return
    with pytest.raises(BadRequest):
        client.complete(history, model(name), tools=[PRICE], tool_choice="none", retries=0)
    mended = complete_tool_results(history)
    assert (
        "stop" == client.complete(list(mended), model(name), tools=[PRICE], tool_choice="none").finish_reason
    )
    assert client.complete(history, model(name, strict="false"), tools=[PRICE], tool_choice="none").text


@pytest.mark.parametrize("name", FORMATS[:4])
@pytest.mark.parametrize(
    "tools",
    [[Tool("no spaces please")], [Tool("x" * 65)], [Tool("same"), Tool("same")]],
    ids=["characters", "length", "twice"],
)
def test_names_of_tools_are_refused(client, name, tools):
    route = client.resolve(model(name))
    request = Request(route.model, (Message("user", "Hi"),), tools=tuple(tools))  # nbllm makes names fit
    with pytest.raises(BadRequest):
        client.send(request, route, key=None, retries=Retries(0)).response()


@pytest.mark.parametrize("name", FORMATS)
def test_a_full_window_is_known_as_that(client, name):
    """In each format's words, which nbllm understands."""
    with pytest.raises(ContextLengthExceeded):
        client.complete("word " * 200, model(name, window=100), retries=0)
    assert client.complete("word", model(name, window=100)).text


def test_a_script_that_is_none_is_told():
    fields = [{"text": 1}, {"reasoning": 10**9}, {"status": "x"}, {"status": 7}, {"when": 1}, {"repeat": 1}]
    for wrong in ([{"txt": "x"}], [{"calls": [{"arguments": {}}]}], "x", [1], *([f] for f in fields)):
        with pytest.raises((BadOption, ValueError)):
            script(wrong)


@pytest.mark.parametrize(
    "steps", [5, [{1, 2}], [{"text": b"x"}], [{"text": "\ud83d"}], [{"calls": [{"name": "\udc00"}]}]]
)
def test_what_json_cannot_hold_is_no_script(steps):
    with pytest.raises(BadOption, match="script= "):
        script(steps)


@pytest.mark.parametrize("name", FORMATS)
def test_half_a_character_in_arguments_is_sent_as_it_is_written(client, name):
    steps = [{"calls": [{"name": "price", "arguments": '{"article": "\\ud83d!"}'}]}]
    asked = model(name, steps)
    call = client.complete("?", model=asked, tools=[PRICE]).tool_calls[0]
    assert call.arguments == {"article": "\ufffd!"}


@pytest.mark.parametrize(
    ("name", "word", "reason"),
    [
        ("gemini", "MALFORMED_FUNCTION_CALL", "error"),
        ("gemini", "SAFETY", "content_filter"),
        ("gemini", "stop", "stop"),
        ("gemini", "length", "length"),
        ("ollama", "length", "length"),
        ("ollama", "unheard", "other"),
        ("openai", "content_filter", "content_filter"),
        ("claude", "refusal", "content_filter"),
    ],
)
def test_a_script_says_how_an_answer_ends(client, name, word, reason):
    asked = model(name, [{"text": "So far.", "finish": word, "repeat": True}])
    response = client.complete("?", model=asked)
    assert (response.text, response.finish_reason) == ("So far.", reason)


def entries(*kinds):
    """A history in short: c a call, r its result, a words of the model, u of the user, each in a message."""
    made, numbers = [], {"c": 0, "r": 0}
    for at, kind in enumerate(kinds):
        if kind in numbers:
            make = call_entry if kind == "c" else result_entry
            made.append(make(at, f"c{numbers[kind]}", "f", *([{}] if kind == "c" else [])))
            numbers[kind] += 1
        else:
            made.append(HistoryEntry("other", at, {"a": "assistant", "u": "user"}[kind]))
    return tuple(made)


@pytest.mark.parametrize(
    ("history", "format", "fault"),
    [
        ("ucru", "openai_chat", None),
        ("ucra", "anthropic", None),
        ("ucar", "openai_chat", "missing"),
        ("ucar", "anthropic", "missing"),
        ("ucar", "openai_responses", None),
        ("uccrr", "openai_responses", None),
        ("uccrr", "openai_chat", "missing"),
        ("ur", "gemini", "orphan"),
        ("ucrr", "gemini", "orphan"),
        ("uc", "gemini", "missing"),
    ],
)
def test_what_stands_where(history, format, fault):
    """In each format's own order."""
    found = strict._history_fault(entries(*history), format)
    assert fault == (found and found[0])


def test_arguments_that_are_no_object():
    """nbllm itself sends {} in their place."""
    for wrong in ("{", "[1]", "null", '"x"', 3):
        assert "arguments" == strict._history_fault((call_entry(1, "c", "f", wrong),), "openai_chat")[0]


@pytest.mark.slow
def test_checking_a_history_costs_its_length():
    """Results in reverse, of a turn with many calls."""
    many = 20_000
    calls = [call_entry(1, f"c{i}", "f", {}) for i in range(many)]
    results = [result_entry(2, f"c{i}", "f") for i in reversed(range(many))]
    assert strict._history_fault((*calls, *results), "openai_chat") is None


# --- the loop, step by step ---


def results(message):
    return [p for p in message.parts if isinstance(p, ToolResult)]


class Shop:
    """Tools that remember."""

    def __init__(self):
        self.calls = []

    def price(self, article: str) -> float:
        """The list price of an article."""
        self.calls.append(article)
        return 4.5

    def stock(self, article: str, place: str = "here") -> int:
        """How many there are."""
        self.calls.append((article, place))
        return 7

    @property
    def tools(self):
        return [self.price, self.stock]


def call(name="price", **arguments):
    return {"name": name, "arguments": arguments or {"article": "A-17"}}


@pytest.mark.parametrize("name", FORMATS)
def test_several_steps_with_words_and_calls_beside_each_other(client, name):
    steps = [
        {"text": "First the price.", "calls": [call()], "reasoning": 5},
        {"calls": [call(article="B-3"), call("stock", article="A-17", place="there")]},
        {"text": "In all: {results}"},
    ]
    shop = Shop()
    r = client.complete("What is there?", model(name, steps), tools=shop.tools, approve="auto")
    assert ["A-17", "B-3", ("A-17", "there")] == shop.calls
    assert [["ran"], ["ran", "ran"], []] == outcomes(r)
    assert "First the price." == r.steps[0].text.strip()
    assert (2, True) == (r.text.count("4.5"), "7" in r.text)
    assert r.messages == complete_tool_results(r.messages)
    assert r.usage.input_tokens > r.turn_usage.input_tokens


@pytest.mark.parametrize(
    ("wrong", "outcome", "words"),
    [
        (call("prise"), "unknown", "no tool 'prise'; there are price, stock"),
        ({"name": "price", "arguments": '{"article": '}, "invalid", "not a valid JSON"),
        (call(), "ran", "4.5"),
        (call(artikel="A-17"), "invalid", "article"),
        ({"name": "price", "arguments": {"article": ["A"]}}, "invalid", "article"),
    ],
    ids=["unknown", "broken", "right", "missing", "type"],
)
def test_what_a_model_does_wrong_is_told_and_it_goes_on(client, wrong, outcome, words):
    shop = Shop()
    steps = [{"calls": [wrong, call("stock")]}, {"text": "Done."}]
    r = client.complete("What is there?", model("openai", steps), tools=shop.tools, approve="auto")
    assert ([[outcome, "ran"], []], "Done.") == (outcomes(r), r.text)
    assert words in r.steps[0].results[0].result.content
    assert shop.calls[-1] == ("A-17", "here")


@pytest.mark.parametrize("name", FORMATS)
def test_a_model_that_never_ends_is_asked_for_its_answer(client, name):
    """The last step has the same tools and may not call them; two steps before, the model is warned."""
    shop = Shop()
    steps = [{"calls": [call(article=f"A-{i}")]} for i in range(20)]
    stream = client.stream("Count.", model(name, steps), tools=[shop.price], approve="auto", max_steps=5)
    r = stream.response()
    assert (5, ["A-0", "A-1", "A-2", "A-3"]) == (len(r.steps), shop.calls)
    assert (True, "stop") == (bool(r.text), r.finish_reason)
    sent = [p.content for m in stream.turns[-1].partial().request.messages for p in results(m)]
    assert [False, False, True, False] == ["2 steps are left" in t for t in sent]
    assert "last call" in sent[3]
    tools = {str(t.partial().request.tools) for t in stream.turns}
    assert 1 == len(tools), "a provider's cache holds them"


def test_the_same_call_again_and_again(client):
    """The third is not run, the fourth is the last."""
    shop = Shop()
    steps = [{"calls": [call()], "repeat": True}]
    r = client.complete("Count.", model("openai", steps), tools=[shop.price], approve="auto", max_steps=20)
    assert 2 == len(shop.calls)
    assert [["ran"], ["ran"], ["repeated"], ["repeated"], []] == outcomes(r)
    assert r.text


def test_a_choice_that_is_forced_holds_once(client):
    shop = Shop()
    for name in ("openai", "responses", "claude", "gemini"):
        r = client.complete("Buy.", model(name), tools=[shop.price], tool_choice="price", approve="auto")
        assert (2, "stop") == (len(r.steps), r.finish_reason)


def test_a_turn_that_pauses_is_gone_on_with(client):
    """Anthropic's pause_turn: the turn is sent back as it came."""
    steps = [{"text": "Searching", "finish": "pause_turn"}, {"text": "Found."}]
    r = client.complete("Search.", model("claude", steps), tools=[Shop().price], approve="auto")
    assert (["Searching", "Found."], "stop") == ([s.text for s in r.steps], r.finish_reason)


def test_a_step_that_fails_keeps_what_was_done(client):
    """And can be gone on with."""
    shop = Shop()
    steps = [{"calls": [call()]}, {"status": 400}, {"text": "Done: {results}"}]
    with pytest.raises(NbllmError) as caught:
        client.complete("Price?", model("openai", steps), tools=[shop.price], approve="auto", retries=0)
    partial = caught.value.partial
    assert ([["ran"]], ["assistant", "tool"]) == (outcomes(partial), [m.role for m in partial.messages])
    history = [*partial.conversation]
    again = client.complete(history, model("openai", []), tools=[shop.price], approve="auto")
    assert ("stop", ["A-17"]) == (again.finish_reason, shop.calls)


def test_an_answer_cut_in_a_call_runs_nothing_of_it(client):
    shop = Shop()
    steps = [{"calls": [call(article="A " * 50)]}]
    r = client.complete(
        "Price?", model("openai", steps), tools=[shop.price], approve="auto", max_tokens=6, max_steps=2
    )
    assert ([], "invalid") == (shop.calls, r.steps[0].results[0].outcome)
    assert "cut off" in r.steps[0].results[0].result.content


def test_a_budget_of_tokens_ends_with_an_answer(client):
    """They are counted before each turn; the one that follows uses no tool."""
    shop = Shop()
    steps = [{"calls": [call(article=f"A-{i}")]} for i in range(9)]
    r = client.complete(
        "Count.", model("openai", steps), tools=[shop.price], approve="auto", budget={"tokens": 150}
    )
    assert 1 <= len(shop.calls) < 9
    assert r.text
    assert ("stop", []) == (r.finish_reason, outcomes(r)[-1])


def test_a_conversation_that_does_not_fit_is_shortened_once(client):
    """The provider says so; what it cannot take even then is its error."""
    steps = [{"when": "<conversation>", "text": "The summary."}]
    chat = nbllm.Chat(model("openai", steps, window=900), client=client)
    for i in range(6):
        chat(f"{i} " + "word " * 100)
    assert any(n.kind == "compacted" for t in chat.turns for n in t.response.notices)
    assert 12 == len(chat.messages)
    with pytest.raises(ContextLengthExceeded):
        chat("word " * 2_000)
    assert 12 == len(chat.messages)


def test_read_in_a_loop_of_ones_own(client):
    """The whole loop, awaited."""

    async def read():
        steps = [{"calls": [call(), call("stock")]}, {"text": "{results}"}]
        return await client.stream("?", model("claude", steps), tools=Shop().tools, approve="auto")

    assert "4.5, 7" == asyncio.run(read()).text
