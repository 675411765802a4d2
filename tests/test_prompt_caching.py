"""Prompt caching by providers: what is marked, which provider gets which option, and no step invalidates the
cache of the step before it."""

import itertools
import json
from dataclasses import replace
from urllib.parse import quote

import pytest
from hypothesis import given
from hypothesis import strategies as st

import nbllm
from nbllm.client.client import Client
from nbllm.core.calls import ProviderSpec, Quirks
from nbllm.core.errors import ConfigError
from nbllm.core.messages import Document, Image, Message, Reasoning, Request, Text, Tool, ToolCall, ToolResult
from nbllm.routing import registry
from nbllm.routing.dialects import DIALECTS

from .listeners import Listener
from .test_tool_loop import FORMATS, model

BRIEF, HOUR = {"type": "ephemeral"}, {"type": "ephemeral", "ttl": "1h"}
TOOLS = (Tool("price", "What it costs."), Tool("stock"))
PICTURE = Image(b"\x89PNG\r\n\x1a\n")
ADDRESSES = {"openai_chat": "https://api.openai.com/v1", "openai_responses": "https://api.openai.com/v1"}
STAY = ("system", "instructions", "systemInstruction", "tools", "prompt_cache_key")
TURNS = {"openai_responses": "input", "gemini": "contents"}


def row(dialect, url=None, **quirks):
    url = url or ADDRESSES.get(dialect, "https://acme.test/v1")
    return ProviderSpec("acme", dialect, url, label="Acme", quirks=Quirks(**quirks), local=True)


def body(request, dialect="anthropic", url=None, **quirks):
    """What is sent, as it is written."""
    sent = DIALECTS[dialect].encode(request, row(dialect, url, **quirks), None).body
    return json.loads(json.dumps(sent))


def marks(value, path=()):
    """Where marks stand, and which: {path: mark}."""
    if isinstance(value, dict):
        own = {path: value["cache_control"]} if "cache_control" in value else {}
        return own | {p: m for k, v in value.items() for p, m in marks(v, (*path, k)).items()}
    if isinstance(value, list):
        return {p: m for i, v in enumerate(value) for p, m in marks(v, (*path, i)).items()}
    return {}


def unmarked(value):
    if isinstance(value, dict):
        return {k: unmarked(v) for k, v in value.items() if k != "cache_control"}
    return [unmarked(v) for v in value] if isinstance(value, list) else value


# --- Anthropic ----------------------------------------------------------------------------------------------

ASKED = (
    Message("system", "Be brief."),
    Message("user", "What does A-17 cost?"),
    Message("assistant", [Text("I look."), ToolCall("c1", "price", {}, "{}")]),
    Message("tool", [ToolResult("c1", "4.5"), ToolResult("c1", "")]),
    Message("assistant", "4.5"),
    Message("user", [Text("And this?"), PICTURE]),
)


@pytest.mark.parametrize(("cache", "first"), [("auto", BRIEF), ("1h", HOUR)])
def test_four_places_are_marked(cache, first):
    """What stands longer stands first; the text of the rest is the same."""
    sent = body(Request("m", ASKED, TOOLS, cache=cache))
    assert {
        ("tools", 1): first,
        ("system", 0): first,
        ("messages", 2, "content", 1): BRIEF,
        ("messages", 4, "content", 1): BRIEF,
    } == marks(sent)
    plain = body(Request("m", ASKED, TOOLS))
    assert {} == marks(plain)
    assert {**plain, "system": [{"type": "text", "text": "Be brief."}]} == unmarked(sent)


@pytest.mark.parametrize(
    ("turns", "tools", "where"),
    [
        (ASKED[1:2], (), [("messages", 0, "content", 0)]),
        (ASKED[:2], (), [("system", 0), ("messages", 0, "content", 0)]),
        (ASKED[1:2], TOOLS, [("tools", 1), ("messages", 0, "content", 0)]),
        ((Message("system", " \n"), *ASKED[1:2]), (), [("messages", 0, "content", 0)]),
    ],
)
def test_what_is_not_there_is_not_marked(turns, tools, where):
    """No tools, no system text, or one that is blank, which cannot be marked."""
    assert set(where) == set(marks(body(Request("m", turns, tools, cache="auto"))))


@pytest.mark.parametrize(
    "extra",
    [
        {"cache_control": BRIEF},
        {"system": [{"type": "text", "text": "x", "cache_control": HOUR}]},
        {"tools": [{"type": "web_search_20250305", "name": "web_search", "cache_control": BRIEF}]},
    ],
)
def test_marks_of_ones_own_are_the_only_ones(extra):
    """A fifth is refused, and only the user knows how many there are."""
    sent = body(Request("m", ASKED, TOOLS, cache="auto", extra=extra))
    assert marks(sent) == marks(extra)
    assert extra == {k: sent[k] for k in extra}


def test_a_mark_is_no_word_of_a_prompt():
    """Other fields of ones own leave ours; what has no end is left to who writes it."""
    assert 4 == len(
        marks(body(Request("m", ASKED, TOOLS, cache="auto", extra={"metadata": {"a": ["cache_control"]}})))
    )
    endless = {}
    endless["a"] = endless
    sent = (
        DIALECTS["anthropic"]
        .encode(Request("m", ASKED, cache="auto", extra=endless), row("anthropic"), None)
        .body
    )
    assert sent["system"][0]["cache_control"] == BRIEF


# --- who is sent which words --------------------------------------------------------------------------------


@pytest.mark.parametrize("dialect", ["openai_chat", "openai_responses"])
@pytest.mark.parametrize(
    ("url", "quirk", "taken"),
    [
        ("https://api.openai.com/v1", False, True),
        ("https://eu.api.openai.com/v1/", False, True),
        ("https://API.OpenAI.com:443/v1", False, True),
        ("http://api.openai.com/v1", False, False),
        ("https://api.openai.com.evil.test/v1", False, False),
        ("https://evil.test/api.openai.com", False, False),
        ("https://api.openai.com@evil.test/v1", False, False),
        ("https://api.groq.com/openai/v1", False, False),
        ("http://127.0.0.1:8000/v1", False, False),
        ("http://[::1/v1", False, False),
        ("${SOMEWHERE}/v1", False, False),
        ("http://127.0.0.1:8000/v1", True, True),
    ],
)
def test_only_openai_is_sent_its_key(dialect, url, quirk, taken):
    """Others may refuse a field that they do not know; one that takes it says so in its row."""
    there = row(dialect, url, cache_key=quirk)
    assert taken == there.takes_cache_key
    sent = DIALECTS[dialect].encode(Request("m", ASKED[:2], TOOLS, cache="auto"), there, None).body
    assert taken == ("prompt_cache_key" in sent)
    assert "prompt_cache_retention" not in sent


@pytest.mark.parametrize("dialect", ["openai_chat", "openai_responses"])
def test_the_key_is_of_what_stays(dialect):
    """The same through a conversation and in every process, another for other tools or another system
    text; a field of the user's own wins."""

    def sent(turns=ASKED[:2], tools=TOOLS, **more):
        return body(Request("m", turns, tools, **{"cache": "auto", **more}), dialect)

    key = sent()["prompt_cache_key"]
    assert "nbllm-276e621d8654d3b4" == key
    assert (
        key == sent((*ASKED[:2], *ASKED[1:3], Message("tool", ToolResult("c1", "4.5"))))["prompt_cache_key"]
    )
    others = [sent(ASKED[1:2]), sent(tools=TOOLS[:1]), sent(tools=TOOLS[::-1])]
    assert 4 == len({key, *(o["prompt_cache_key"] for o in others)})
    assert {"prompt_cache_key": key, "prompt_cache_retention": "24h"}.items() <= sent(cache="1h").items()
    own = {"prompt_cache_key": "mine", "prompt_cache_retention": "in_memory"}
    assert own.items() <= sent(cache="1h", extra=own).items()
    assert not {"prompt_cache_key", "prompt_cache_retention"} & set(sent(cache=None))
    assert sent((Message("system", "\ud800"), *ASKED[1:2]))["prompt_cache_key"]


@pytest.mark.parametrize("dialect", sorted(set(DIALECTS) - {"anthropic", "openai_chat", "openai_responses"}))
def test_others_are_sent_nothing(dialect):
    """They keep prompts by themselves, or not at all."""
    plain = Request("agent" if dialect == "a2a" else "a/m", (Message("user", "Hello"),))
    call = DIALECTS[dialect].encode
    assert repr(call(plain, row(dialect), None)) == repr(
        call(replace(plain, cache="auto"), row(dialect), None)
    )
    if getattr(call(plain, row(dialect), None), "body", None):
        assert body(plain, dialect) == body(replace(plain, cache="auto"), dialect)


@pytest.fixture(scope="module")
def client():
    made = Client()
    yield made
    made.close()


def test_longer_is_refused_where_nobody_can(client):
    """In words that say who can, before anything is sent, with tools too."""
    for more in ({}, {"tools": [price]}):
        with pytest.raises(ConfigError, match=r"has no cache=1h(?s:.*)Anthropic, Gemini and OpenAI"):
            client.stream("Hello", model("ollama"), cache="1h", **more)
    assert client.complete("Hello", model("ollama"), cache="auto").text


def test_longer_is_refused_by_a_server_that_is_not_openai(tmp_path):
    """And taken where its row says so."""
    with pytest.raises(ConfigError, match="cache_key = true"):
        Client().stream("Hi", "openai/m", base_url="http://127.0.0.1:9/v1", api_key="k", cache="1h")
    own = tmp_path / "own.toml"
    with Listener((200, b'{"choices": [{"message": {"content": "Hi"}, "finish_reason": "stop"}]}')) as server:
        own.write_text(
            f'[provider.mine]\nbase_url = "{server.url}/v1"\nlocal = true\nquirks = {{ cache_key = true }}\n',
            "utf-8",
        )
        mine = Client(registry.load({"NBLLM_CONFIG": str(own)}))
        assert "Hi" == mine.complete("Hi", "mine/m", cache="1h").text
        assert '"prompt_cache_retention":"24h"' in server.text.replace(" ", "")
        mine.close()


def price(article: str) -> float:
    """What it costs."""
    return 4.5


# --- who asks for it ----------------------------------------------------------------------------------------


def sent(stream):
    """The bodies of all turns."""
    stream.response()
    return [turn.attempts[0].call.body for turn in stream.turns or [stream]]


@pytest.mark.parametrize(
    ("options", "asked"),
    [
        ({}, None),
        ({"cache": "off"}, None),
        ({"cache": "auto"}, "auto"),
        ({"tools": [price], "approve": "auto"}, "auto"),
        ({"tools": [price], "approve": "auto", "cache": "off"}, None),
        ({"tools": [price], "approve": "auto", "cache": "1h"}, "1h"),
        ({"tools": [TOOLS[0]]}, None),
        ({"compact": 5_000}, "auto"),
    ],
)
def test_what_goes_on_asks_by_itself(client, options, asked):
    """Loops over tools and conversations do; a single call where it is said."""
    bodies = sent(client.stream("Hello", model("openai"), **options))
    assert {asked is not None} == {"prompt_cache_key" in b for b in bodies}
    assert {asked == "1h"} == {"prompt_cache_retention" in b for b in bodies}


@pytest.mark.parametrize(
    ("options", "asked"), [({}, True), ({"compact": "off"}, True), ({"cache": "off"}, False)]
)
def test_a_chat_asks_by_itself(client, options, asked):
    """Whether it is shortened or not."""
    chat = nbllm.Chat(model("claude"), client=client, system="S.", **options)
    for question in ("Hello", "And?"):
        assert {asked} == {bool(marks(b)) for b in sent(chat.stream(question))}


@pytest.mark.parametrize("word", ["2h", "on", "", 1])
def test_no_other_word_is_taken(client, word):
    with pytest.raises(ConfigError, match=r"(Not a valid value|cache= takes)(?s:.*)auto, off or 1h"):
        client.stream("Hello", model("openai"), cache=word)


def test_a_call_is_recorded_with_it(client):
    """Among its parameters, in the ledger too."""
    client.complete("Hello", model("openai"), cache="1h")
    assert "1h" == json.loads(client.ledger.rows()[-1]["params"])["cache"]


# --- no step breaks what was kept ---------------------------------------------------------------------------

words = st.text(min_size=1, max_size=20).filter(str.strip)
results = st.one_of(words, st.just(""), st.just((Text("seen"), PICTURE)))
steps = st.tuples(
    st.lists(results, min_size=1, max_size=3),
    st.lists(st.just(Reasoning("Hm.", signature="s")), max_size=1),
    words,
)
said = st.lists(
    st.tuples(
        st.one_of(words, st.just((Text("See"), PICTURE, Document(b"a", media_type="text/plain")))),
        st.lists(steps, max_size=3),
        words,
    ),
    min_size=1,
    max_size=4,
)


def conversation(turns, *, made_up=False):
    """All that is sent one after the other: every request's messages begin with those of the one before."""
    history, number = [Message("system", "Be brief.")], 0
    for asked, between, answer in turns:
        history.append(Message("user", asked))
        yield tuple(history)
        for given_back, thought, text in between:
            calls = [
                ToolCall(f"c{number}-{i}", "price", {"a": 1}, '{"a":  1}', made_up=made_up)
                for i in range(len(given_back))
            ]
            number += 1
            back = [ToolResult(c.id, r, name="price") for c, r in zip(calls, given_back, strict=True)]
            history += [Message("assistant", [*thought, Text(text), *calls]), Message("tool", back)]
            yield tuple(history)
        history.append(Message("assistant", answer))


@pytest.mark.parametrize("dialect", ["anthropic", "openai_chat", "openai_responses", "gemini", "ollama"])
@given(said, st.sampled_from(["auto", "1h"]), st.booleans())
def test_every_step_begins_as_the_one_before(dialect, turns, cache, made_up):
    """Tools, system and all turns, to the letter; only marks move. Anthropic's next step has a mark where
    this one had its last, and never more than four."""
    name, before = TURNS.get(dialect, "messages"), None
    for history in conversation(turns, made_up=made_up):
        now = body(Request("m", history, TOOLS, cache=cache), dialect)
        if before is not None:
            told, then = unmarked(now), unmarked(before)
            assert then.pop(name) == told.pop(name)[: len(before[name])]
            assert list(then.items()) == list(told.items())
        if dialect == "anthropic":
            here = marks(now)
            assert 3 <= len(here) <= 4
            assert before is None or max(p for p in marks(before) if p[0] == "messages") in here
        before = now


@pytest.mark.parametrize("name", FORMATS)
def test_the_steps_of_a_real_loop_begin_as_the_ones_before(client, name):
    """Warnings about steps that are left, and the last step, change nothing that was sent before; but Ollama
    has no word for a turn without calls, so that its last one has no tools."""
    turns = TURNS.get({"responses": "openai_responses"}.get(name, name), "messages")
    calls = [{"calls": [{"name": "price", "arguments": {"article": f"A-{i}"}}]} for i in range(4)]
    stream = client.stream(
        "What do they cost?",
        model(name, script=quote(json.dumps(calls), safe="")),
        tools=[price],
        approve="auto",
        system="Be brief.",
        max_steps=4,
    )
    bodies = [unmarked(json.loads(json.dumps(b))) for b in sent(stream)]
    assert 4 == len(bodies)
    for one, two in itertools.pairwise(bodies[: 3 if name == "ollama" else 4]):
        assert one[turns] == two[turns][: len(one[turns])]
        assert {k: one.get(k) for k in STAY} == {k: two.get(k) for k in STAY}
