"""What is sent when a conversation no longer fits: properties over any history."""

from hypothesis import given
from hypothesis import strategies as st

from nbllm.core.codec import to_json
from nbllm.core.compaction import (
    COMPACTED,
    drop_old_results,
    estimate_size,
    messages_to_send,
    pinned_turns,
    set_pinned,
    split_conversation,
    starts_turn,
    summary_message,
    summary_request,
    with_summary,
)
from nbllm.core.events import Notice, Response
from nbllm.core.history import complete_tool_results
from nbllm.core.messages import Message, Request, Text, ToolCall, ToolResult

from .decoding import from_json

words = st.text(alphabet="ab ", min_size=1, max_size=400)
users = st.builds(lambda t, pinned: [Message("user", t, pinned)], words, st.booleans())
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
    parts = split_conversation(history, keep)
    said = [m for m in history if m.role != "system"]
    before = said[: len(said) - len(parts.recent)]
    assert parts.recent == tuple(said[len(before) :])
    assert parts.pinned == pinned_turns(before)
    assert sorted(map(to_json, (*parts.old, *parts.pinned))) == sorted(map(to_json, before))
    assert not any(m.pinned for m in parts.old)
    assert parts.pinned == complete_tool_results(parts.pinned)
    assert not before or (starts_turn(parts.recent[0]) and keep == sum(map(starts_turn, parts.recent)))
    assert parts.recent == complete_tool_results(parts.recent)
    assert parts.old == complete_tool_results(parts.old)


@given(histories)
def test_results_are_left_out_from_the_oldest(history):
    """Calls keep their results, the last three steps whole; doing it twice changes nothing; it pays or is not
    done."""
    made = drop_old_results(history)
    assert made == complete_tool_results(made)
    assert made == drop_old_results(made)
    assert made == tuple(history) or estimate_size(made) <= 0.9 * estimate_size(history)
    results = [m for m in history if m.role == "tool"]
    assert results[-3:] == [m for m in made if m.role == "tool"][-3:]
    assert pinned_turns(made) == pinned_turns(history)
    assert [m.text for m in history] == [m.text for m in made]


@given(histories, words)
def test_a_summary_stands_first(history, summary):
    parts = split_conversation(history)
    made = with_summary(parts, summary)
    assert made[len(parts.system) + 1 :] == (*parts.pinned, *parts.recent)
    assert summary.strip() in made[len(parts.system)].text
    assert parts.system == made[: len(parts.system)]


@given(st.lists(st.tuples(words, words, st.booleans(), st.booleans()), min_size=1, max_size=8))
def test_the_next_question_sends_the_turns_that_are_pinned_now(said):
    """Whatever was pinned when the summary was made; the last turns and their order stay."""
    before = [m for q, a, was, _ in said for m in (Message("user", q, was), Message("assistant", a))]
    now = [m for q, a, _, is_now in said for m in (Message("user", q, is_now), Message("assistant", a))]
    kept = split_conversation(before).recent
    notice = Notice(COMPACTED, "", {"summary": "Short.", "from": len(before) - len(kept)})
    last = Response(request=Request("m", tuple(before[:-1])), parts=before[-1].parts, notices=(notice,))
    turns = [(Response(), now[i : i + 2]) for i in range(0, len(now) - 2, 2)]
    made = messages_to_send([*turns, (last, now[-2:])])
    assert made == (
        summary_message("Short."),
        *pinned_turns(now[: len(now) - len(kept)]),
        *now[len(now) - len(kept) :],
    )


def test_a_pin_is_written_and_read():
    """And one that is not there changes no text."""
    message = Message("user", "Hello")
    assert "pinned" not in to_json(message)
    pinned = set_pinned(message, True)
    assert pinned != message
    assert from_json(to_json(pinned), Message) == pinned
    assert set_pinned(pinned, False) == message


def test_what_is_summarised_is_text_of_bounded_size():
    """Tools as words; the middle goes where it is too long, and how much."""
    old = [
        Message("user", "What does A-17 cost?"),
        Message("assistant", [Text("I look."), ToolCall("1", "price", {}, '{"article": "A-17"}')]),
        Message("tool", ToolResult("1", "4.5")),
    ]
    asked = summary_request(old, 10_000)
    assert "USER: What does A-17 cost?" in asked.text
    assert '[called price({"article": "A-17"})]' in asked.text
    assert "[it gave: 4.5]" in asked.text
    long = summary_request([Message("user", "x" * 100_000)], 5_000)
    assert len(long.text) < 21_500
    assert "80,006 characters are left out" in long.text
