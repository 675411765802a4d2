"""What is sent when a conversation no longer fits: properties over any history."""

from hypothesis import given
from hypothesis import strategies as st

from nbllm.core.compaction import begins, cut, question, size_of, summarised, without_results
from nbllm.core.history import closed
from nbllm.core.messages import Message, Text, ToolCall, ToolResult

words = st.text(alphabet="ab ", min_size=1, max_size=400)
users = st.builds(lambda t: [Message("user", t)], words)
answers = st.builds(lambda t: [Message("assistant", t)], words)
steps = st.builds(
    lambda n, said: [
        Message("assistant", [ToolCall(f"c{i}", "f", {}, "{}") for i in range(n)]),
        Message("tool", [ToolResult(f"c{i}", said * 20) for i in range(n)]),
    ],
    st.integers(1, 3),
    words,
)
turns = st.builds(
    lambda asked, between, said: [*asked, *(m for s in between for m in s), *said],
    users,
    st.lists(steps, max_size=3),
    answers,
)
histories = st.builds(
    lambda system, many: [
        *([Message("system", "Be brief.")] if system else []),
        *(m for t in many for m in t),
    ],
    st.booleans(),
    st.lists(turns, max_size=6),
)


@given(histories, st.integers(1, 3))
def test_a_cut_loses_nothing_and_falls_between_turns(history, keep):
    """System apart, old and kept are the conversation; the last turns are whole; order stays."""
    parts = cut(history, keep)
    assert [*parts.old, *parts.kept] == [m for m in history if m.role != "system"]
    assert not parts.old or (begins(parts.kept[0]) and keep == sum(map(begins, parts.kept)))
    assert parts.kept == closed(parts.kept)
    assert parts.old == closed(parts.old)


@given(histories)
def test_results_are_left_out_from_the_oldest(history):
    """Calls keep their results, the last three steps whole; doing it twice changes nothing; it pays or is not
    done."""
    made = without_results(history)
    assert made == closed(made)
    assert made == without_results(made)
    assert made == tuple(history) or size_of(made) <= 0.9 * size_of(history)
    told = [m for m in history if m.role == "tool"]
    assert told[-3:] == [m for m in made if m.role == "tool"][-3:]
    assert [m.text for m in history] == [m.text for m in made]


@given(histories, words)
def test_a_summary_stands_first(history, summary):
    parts = cut(history)
    sent = summarised(parts, summary)
    assert sent[len(parts.system) + 1 :] == parts.kept
    assert summary.strip() in sent[len(parts.system)].text
    assert parts.system == sent[: len(parts.system)]


def test_what_is_summarised_is_text_of_bounded_size():
    """Tools as words; the middle goes where it is too long, and how much."""
    old = [
        Message("user", "What does A-17 cost?"),
        Message("assistant", [Text("I look."), ToolCall("1", "price", {}, '{"article": "A-17"}')]),
        Message("tool", ToolResult("1", "4.5")),
    ]
    asked = question(old, 10_000)
    assert "USER: What does A-17 cost?" in asked.text
    assert '[called price({"article": "A-17"})]' in asked.text
    assert "[it gave: 4.5]" in asked.text
    long = question([Message("user", "x" * 100_000)], 5_000)
    assert len(long.text) < 21_500
    assert "80,006 characters are left out" in long.text
