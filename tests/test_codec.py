"""Events, and what they fold into, as values: the same in, the same out; ids that were made up."""

import json
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nbllm.core.calls import Provider
from nbllm.core.events import ToolCallDelta, fold
from nbllm.core.messages import Message, Request, Text, ToolCall, ToolResult
from nbllm.routing.dialects import DIALECTS

FORMATS = ("openai_chat", "openai_responses", "anthropic", "gemini", "ollama", "cohere")
DELTAS = st.lists(
    st.builds(
        ToolCallDelta, st.integers(0, 3), st.sampled_from([None, "", "a", "nbllm-0", "nbllm-1"]), st.just("f")
    )
)


@given(DELTAS)
def test_fold_is_pure(events):
    """The same events give equal answers; a made-up id is marked, and is no provider's own."""
    answer = fold(events)
    assert answer == fold(events)
    assert {c.id for c in answer.tool_calls if c.made_up}.isdisjoint(
        c.id for c in answer.tool_calls if not c.made_up
    )
    assert len({c.id for c in answer.tool_calls if c.made_up}) == sum(c.made_up for c in answer.tool_calls)


def sent(name, *messages):
    row = Provider("acme", name, "https://acme.test")
    return DIALECTS[name].encode(Request("m", messages), row, None).body


def conversation(real):
    """Two answers without ids, one with an id of the provider's that looks like ours."""
    first = fold([ToolCallDelta(0, None, "f"), ToolCallDelta(1, None, "g")])
    second = fold([ToolCallDelta(0, None, "h"), ToolCallDelta(1, real, "k")])
    out = [Message("user", "Hi")]
    for answer in (first, second):
        out += [
            answer.message,
            Message("tool", [ToolResult(c.id, f"of {c.name}", name=c.name) for c in answer.tool_calls]),
        ]
    return out


@pytest.mark.parametrize("real", ["call_12_3", "nbllm-1-0", "nbllm-0"])
@pytest.mark.parametrize("name", [f for f in FORMATS if f != "gemini"])
def test_made_up_ids_are_unique_in_a_conversation(name, real):
    """Each result goes to its own call; a growing conversation keeps the ids of its beginning."""
    messages = conversation(real)
    body = json.dumps(sent(name, *messages))
    ids = re.findall(r'"(?:call_id|tool_call_id|tool_use_id)": "([^"]*)"', body)
    results = ids if name != "openai_responses" else [i for i in ids if ids.count(i) == 2][::2]
    assert 4 == len(set(ids))
    assert real in ids
    assert all(2 == body.count(f'"{i}"') for i in ids)
    assert results
    start = re.findall(
        r'"(?:call_id|tool_call_id|tool_use_id)": "([^"]*)"', json.dumps(sent(name, *messages[:3]))
    )
    if real != "nbllm-1-0":
        assert ids[: len(start)] == start


def test_gemini_sends_no_made_up_id_and_each_id_of_its_own():
    """Also one that looks like ours."""
    said = [p for turn in sent("gemini", *conversation("nbllm-0"))["contents"] for p in turn["parts"]]
    found = [part for p in said for part in p.values() if isinstance(part, dict)]
    assert [("k", "nbllm-0"), ("k", "nbllm-0")] == [(p["name"], p["id"]) for p in found if "id" in p]
    assert 8 == len(found)


def test_a_call_of_before_goes_as_it_is():
    """Without a mark, an id is the provider's."""
    messages = [
        Message("assistant", [Text("x"), ToolCall("call_3_0", "f", {})]),
        Message("tool", ToolResult("call_3_0", "y")),
    ]
    assert 2 == json.dumps(sent("gemini", *messages)).count('"call_3_0"')
