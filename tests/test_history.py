"""Every call has exactly one result before anything is sent, whatever a conversation holds."""

from hypothesis import given
from hypothesis import strategies as st

from nbllm.core.history import complete_tool_results
from nbllm.core.messages import Message, Text, ToolCall, ToolResult

ids = st.sampled_from(["a", "b", "c", "d"])
calls = st.builds(ToolCall, ids, st.just("f"), st.just({}))
results = st.builds(ToolResult, ids, st.sampled_from(["1", "2"]))
texts = st.builds(Text, st.sampled_from(["x", "y"]))
turns = st.one_of(
    st.builds(Message, st.just("user"), st.lists(st.one_of(texts, results), max_size=3)),
    st.builds(Message, st.just("assistant"), st.lists(st.one_of(texts, calls), max_size=4)),
    st.builds(Message, st.just("tool"), st.lists(results, max_size=4)),
)
histories = st.lists(turns, max_size=8)


def parts(messages, kind):
    return [p for m in messages for p in m.parts if isinstance(p, kind)]


@given(histories)
def test_every_call_has_its_result_right_behind_it(history):
    sent = complete_tool_results(history)
    for i, message in enumerate(sent):
        asked = [p.id for p in message.parts if isinstance(p, ToolCall)]
        if asked:
            behind = sent[i + 1]
            assert ("tool", asked) == (behind.role, [p.id for p in behind.parts])
    assert len(parts(sent, ToolCall)) == len(parts(sent, ToolResult))


@given(histories)
def test_nothing_else_is_lost(history):
    sent = complete_tool_results(history)
    assert parts(history, Text) == parts(sent, Text)
    assert parts(history, ToolCall) == parts(sent, ToolCall)


@given(histories)
def test_what_keeps_the_rule_stays_as_it_is(history):
    once = complete_tool_results(history)
    assert once == complete_tool_results(once)


def test_each_kind_of_wrong():
    """A missing result, one too many, one without a call, one that comes late, one id for two calls."""
    a, b = ToolCall("a", "f", {}), ToolCall("b", "g", {})
    one = ToolResult("a", "1", name="f")
    missing = ToolResult("b", "not run", is_error=True, name="g")
    asked = Message("assistant", [Text("see"), a, b])
    for found in (
        [Message("tool", [one])],
        [Message("tool", [one, ToolResult("a", "2")])],
        [Message("tool", [ToolResult("z", "?"), one])],
        [Message("user", [one])],
    ):
        assert (asked, Message("tool", [one, missing])) == complete_tool_results([asked, *found])
    late = complete_tool_results([asked, Message("user", "go on"), Message("tool", [one])])
    assert (asked, Message("tool", [one, missing]), Message("user", "go on")) == late
    twice = [Message("assistant", [a, a]), Message("tool", [one, ToolResult("a", "2")])]
    assert tuple(twice) == complete_tool_results(twice)
