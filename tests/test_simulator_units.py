"""Pure parts of the simulator: its grammar of options, its texts and tokenizer, its values for JSON
schemas."""

import dataclasses
import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nbllm.simulator import schema, text
from nbllm.simulator.normalized_request import NormalizedRequest, Tool
from nbllm.simulator.options import (
    BadOption,
    Options,
    mask_key,
    options_for,
    options_from,
    parse,
    split_model,
)
from nbllm.simulator.plan import plan_reply

ASKED = (("user", "Why is the sky blue?"),)

GRAMMAR = [
    # model's name, header, what differs from the defaults
    ("sim", "", {}),
    ("sim@ttft=0.4,gap=0.02,tokens=50", "", {"ttft": 0.4, "gap": 0.02, "tokens": 50}),
    ("sim@ttft=0.4;gap=0.02", "", {"ttft": 0.4, "gap": 0.02}),
    ("org/fast", "", {"ttft": 0.03, "gap": 0.002}),
    ("sim-fast@gap=1", "", {"ttft": 0.03, "gap": 1.0}),
    ("fast", "gap=2", {"ttft": 0.03, "gap": 2.0}),
    ("sim@text=a%20b%2Cc%40d", "", {"text": "a b,c@d"}),
    ("sim@usage=off,echo=on,close=1", "", {"usage": False, "echo": True, "close": True}),
    ("claude-3-5-sonnet@20240620", "", {}),
    ("a@b@ttft=1", "", {"ttft": 1.0}),
    (
        "sim@tools=3,ping=2,headers=0.5,empty=1,close=1",
        "",
        {"tools": 3, "ping": 2, "headers": 0.5, "empty": True, "close": True},
    ),
    ("sim@role=late,cut=2,how=close,auth=1", "", {"role": "late", "cut": 2, "how": "close", "auth": "1"}),
    ("sim", "status=429,retry_after=2.5,why=quota", {"status": 429, "retry_after": 2.5, "why": "quota"}),
]


@pytest.mark.parametrize(("model", "header", "expected"), GRAMMAR)
def test_options_are_read(model, header, expected):
    """Name, preset, header: the later wins."""
    assert dataclasses.replace(Options(), **expected) == options_for(Options(), model, header)


@pytest.mark.parametrize(
    ("words", "part"),
    [
        ("tttf=1", "Did you mean 'ttft'"),
        ("ttft=fast", "cannot be 'fast'"),
        ("ttft=-1", "zero or more"),
        ("gaps=wild", "constant, jitter, burst"),
        ("header=1", "'headers'"),
        ("how=gone", "rst, close, end"),
        ("usage=maybe", "on or off"),
        ("tokens=1.5", "tokens"),
        ("tokens_per_chunk=0", "one or more"),
        ("ttft=nan", "zero or more"),
        ("zzz=1", "options are ttft"),
    ],
)
def test_bad_options_say_what_would_do(words, part):
    with pytest.raises(BadOption) as caught:
        parse(words)
    assert part in str(caught.value)


def test_keywords_of_serve_are_checked_too():
    assert Options(ttft=1.0, tokens=None) == options_from({"ttft": 1, "tokens": None})
    assert Options(tools=0, role="late", auth="1") == options_from({"tools": 0, "role": "late", "auth": 1})
    for bad in ({"speed": 3}, {"ttft": None}, {"gaps": []}):
        with pytest.raises(BadOption):
            options_from(bad)


def test_names_lose_their_key():
    assert "sim@auth=***,ttft=1" == mask_key("sim@auth=sk-1234,ttft=1")
    assert ("a@b", "ttft=1") == split_model("a@b@ttft=1")


@given(st.text(max_size=200))
def test_tokens_joined_are_the_text(said):
    assert said == "".join(text.tokenize(said))
    assert len(text.tokenize(said)) == text.count_tokens(said)


@given(st.text(max_size=200), st.integers(0, 40))
def test_a_prefix_of_tokens_has_those_tokens(said, n):
    """A cut answer counts the same when it is counted again."""
    kept = text.tokenize(said)[:n]
    assert kept == text.tokenize("".join(kept))


@pytest.mark.parametrize("tokens", [0, 1, 2, 50, 1000])
@pytest.mark.parametrize("prompt", ["Why is the sky blue?", "Explain it at length", "", "hello"])
def test_an_answer_has_exactly_so_many_tokens(prompt, tokens):
    said = text.answer_tokens(prompt, tokens)
    assert tokens == len(said) == text.count_tokens("".join(said))
    assert tokens == len(text.reasoning_tokens(tokens))
    assert tokens == len(text.tokens_to_length("  a b \n", tokens))


def test_the_default_answer_says_that_it_is_simulated():
    assert "simulator" in "".join(text.answer_tokens("Who are you?"))
    long = "".join(text.answer_tokens("Who are you? Answer at length."))
    assert all(part in long for part in ("## ", "\n- ", "```python", "$(n-1)"))
    assert text.answer_tokens("x", 90, 0) == text.answer_tokens("x", 90, 0) != text.answer_tokens("x", 90, 1)


QUOTES = [
    ("Who are you?", "answer to `Who are you?`. "),
    ("\n  one \ntwo", "answer to `one`. "),
    ("", "answer. "),
    ("\u202e\x00", "answer. "),
    ("`<b>$x$`", "answer to `'<b>$x$'`. "),
    ("a\ud83d b", "answer to `a  b`. "),
    ("é" * 60, f"to `{'é' * 60}`. "),
    ("é" * 61, f"to `{'é' * 59}…`. "),
]


@pytest.mark.parametrize(("prompt", "part"), QUOTES, ids=lambda v: ascii(v)[:20])
def test_the_default_answer_names_its_prompt_safely(prompt, part):
    """At most 60 characters of the first line, in a code span that nothing in them closes."""
    said = "".join(text.answer_tokens(prompt))
    assert part in said
    assert said.count("`") in (0, 2)


@pytest.mark.parametrize(
    ("prompt", "part"),
    [
        ("Write a haiku about the sea.", "tide"),
        ("Which is larger, 9.11 or 9.9?", "**9.9** is larger"),
        ("From 9 to 11?", "simulated answer"),
        ("Oslo's country and population, as JSON", '{"city": "Oslo"'),
    ],
)
def test_some_questions_have_their_own_answer(prompt, part):
    assert part in "".join(text.answer_tokens(prompt))


def test_halves_of_surrogates_are_mended():
    assert "🙂 �" == text.replace_lone_surrogates("\ud83d\ude42 \ud83d")


SCHEMAS = [
    (
        {"type": "object", "properties": {"city": {"type": "string"}, "days": {"type": "integer"}}},
        {"city": "Oslo", "days": 3},
    ),
    (
        {"type": "OBJECT", "properties": {"unit": {"type": "STRING", "enum": ["K", "celsius"]}}},
        {"unit": "celsius"},
    ),
    ({"type": "array", "items": {"type": "boolean"}, "minItems": 3}, [True, True, True]),
    (
        {
            "$defs": {"P": {"type": "object", "properties": {"n": {"type": "integer", "maximum": 2}}}},
            "$ref": "#/$defs/P",
        },
        {"n": 1},
    ),
    ({"anyOf": [{"type": "null"}, {"type": "number", "minimum": 7}]}, 7),
    ({"type": ["null", "string"], "format": "date"}, "2026-01-31"),
    ({"allOf": [{"properties": {"a": {"const": 1}}}, {"properties": {"b": {"const": 2}}}]}, {"a": 1, "b": 2}),
    ({"type": "string", "minLength": 12}, "Oslo........"),
    ({"type": "integer", "multipleOf": 5, "minimum": 11}, 15),
    ({"type": "integer", "exclusiveMinimum": 3}, 4),
    ({"type": "null"}, None),
    ({"const": "x"}, "x"),
    ({}, "Oslo"),
    (True, "Oslo"),
]


@pytest.mark.parametrize(("wanted", "value"), SCHEMAS, ids=lambda v: str(v)[:40])
def test_values_fit_their_schema(wanted, value):
    """Names and numbers of the prompt are used where they fit."""
    assert value == schema.example(
        wanted if isinstance(wanted, dict) else {}, "What is it like in Oslo over 3 days, in celsius?"
    )


def test_a_schema_that_holds_itself_ends():
    node = {
        "type": "object",
        "properties": {
            "name": {"type": "string"},
            "children": {"type": "array", "items": {"$ref": "#/$defs/node"}},
        },
        "required": ["name", "children"],
    }
    assert "children" in schema.example({"$defs": {"node": node}, "$ref": "#/$defs/node"})


def plan(model="sim", **ask):
    return plan_reply(NormalizedRequest(model, ASKED, **ask), options_for(Options(), model), "id-1", 0.0, 0.0)


def times(model):
    return [(round(p.at, 6), p.n_tokens, p.more) for p in plan(model).schedule()]


def test_the_schedule():
    """Constant, several tokens a chunk, several chunks a write, bursts: the mean pause stays the gap."""
    assert [(1.0, 1, False), (1.5, 1, False), (2.0, 1, False)] == times("s@ttft=1,gap=0.5,tokens=3")
    assert [(1.0, 2, False), (1.5, 1, False)] == times("s@ttft=1,gap=0.5,tokens=3,tokens_per_chunk=2")
    assert [(1.0, 1, True), (1.0, 1, False), (2.0, 1, False)] == times(
        "s@ttft=1,gap=0.5,tokens=3,chunks_per_write=2"
    )
    assert [(1.0, 1, False), (1.0, 1, False), (2.0, 1, False)] == times(
        "s@ttft=1,gap=0.5,tokens=3,gaps=burst,burst=2"
    )
    assert [(0.0, 0, False), (1.0, 1, False)] == times("s@ttft=1,tokens=1,empty=1")
    jittered = [at for at, _, _ in times("s@ttft=1,gap=0.5,tokens=400,gaps=jitter")]
    gaps = [b - a for a, b in itertools.pairwise(jittered)]
    assert 0.25 <= min(gaps) < 0.35
    assert 0.65 < max(gaps) <= 0.75
    assert 0.5 == pytest.approx(sum(gaps) / len(gaps), rel=0.1)
    assert jittered == [at for at, _, _ in times("s@ttft=1,gap=0.5,tokens=400,gaps=jitter")]
    assert jittered != [at for at, _, _ in times("s@ttft=1,gap=0.5,tokens=400,gaps=jitter,seed=1")]


def test_limits_stops_and_thinking():
    assert ("length", 4) == (plan(max_tokens=4).finish, plan(max_tokens=4).output_tokens)
    assert "Sunlight holds" == plan(stop=(" all",)).text_of("content")
    assert (24, 0, 6) == (
        plan(thinking=True).reasoning_tokens,
        plan(thinking=False).reasoning_tokens,
        plan("s@reasoning=6").reasoning_tokens,
    )
    assert "Why is the sky blue?" == plan("s@echo=1").text_of("content")


def test_tools_are_called_until_they_have_answered():
    tools = (Tool("a", {}), Tool("b", {}))
    called = plan("s@tools=3", tools=tools)
    assert (["a", "b", "a"], "tool_calls") == ([b.name for b in called.blocks], called.finish)
    assert 3 == len({b.call_id for b in called.blocks})
    assert ["b"] == [b.name for b in plan(tools=tools, tool_choice="b").blocks]
    for quiet in (plan(tools=tools, tool_choice="none"), plan("s@tools=0", tools=tools)):
        assert "stop" == quiet.finish
    answered = plan_reply(
        NormalizedRequest("s", (*ASKED, ("assistant", ""), ("tool", "12 degrees")), tools=tools),
        Options(),
        "id",
        0.0,
        0.0,
    )
    assert "12 degrees" in answered.text_of("content")
