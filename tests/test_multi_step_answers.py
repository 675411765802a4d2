"""Answers of several turns: the effect of tools on the fold, on the sums, and on what is sent back."""

import pytest

from nbllm.core.events import (
    Finished,
    RawBlock,
    Restarted,
    StepEnded,
    TextDelta,
    ToolCallDelta,
    ToolEnded,
    Usage,
    UsageReport,
    fold,
    sum_usage,
)
from nbllm.core.messages import Message, Raw, Text, ToolCall, ToolResult

CALL = [ToolCallDelta(0, "c1", "price", '{"a":'), ToolCallDelta(0, arguments="1}")]
RESULT = ToolEnded(ToolResult("c1", "3", name="price"), seconds=0.1)
FIRST = [
    TextDelta("Let me see."),
    *CALL,
    UsageReport(Usage(10, 5, cache_read_tokens=4)),
    RESULT,
    StepEnded(1, "tool_calls", "tool_use"),
]
LAST = [TextDelta("It costs 3."), UsageReport(Usage(20, 6)), Finished("stop")]


def test_an_answer_of_two_turns():
    """The last turn is the answer, the first stands before it, and counts are summed."""
    r = fold([*FIRST, *LAST])
    assert ("It costs 3.", "stop", (), 2) == (r.text, r.finish_reason, r.tool_calls, len(r.steps))
    step = r.steps[0]
    assert ("Let me see.", [{"a": 1}], "tool_calls") == (
        step.text,
        [c.arguments for c in step.tool_calls],
        step.finish_reason,
    )
    assert Usage(30, 11, cache_read_tokens=4) == r.usage
    assert (
        Message("assistant", [Text("Let me see."), ToolCall("c1", "price", {"a": 1}, '{"a":1}')]),
        Message("tool", ToolResult("c1", "3", name="price")),
        Message("assistant", "It costs 3."),
    ) == r.messages


def test_a_plain_answer_has_one_step():
    r = fold(LAST)
    assert 1 == len(r.steps)
    assert (r.parts, r.usage, (r.message,)) == (r.steps[0].parts, r.steps[0].usage, r.messages)


def test_an_answer_that_was_stopped_among_its_tools_is_closed():
    """Its calls and what they came to stay its last turn, ready to be sent back."""
    r = fold([*FIRST[:-1], Finished("cancelled")])
    assert ("Let me see.", 1, "cancelled") == (r.text, len(r.steps), r.finish_reason)
    assert ["assistant", "tool"] == [m.role for m in r.messages]
    assert (RESULT,) == r.steps[0].results


def test_stopped_before_the_next_turn_began():
    r = fold([*FIRST, Finished("cancelled")])
    assert ((), 1, ["assistant", "tool"]) == (r.parts, len(r.steps), [m.role for m in r.messages])


def test_what_is_void_is_the_turn_that_goes_on():
    r = fold([*FIRST, TextDelta("It co"), Restarted("again"), *LAST])
    assert ("It costs 3.", 2) == (r.text, len(r.steps))


def test_blocks_that_go_back_as_they_came_keep_their_place():
    block = Raw("anthropic", {"type": "server_tool_use", "id": "s"})
    r = fold([TextDelta("a"), RawBlock(block), TextDelta("b"), Finished("stop")])
    assert (Text("a"), block, Text("b")) == r.parts


@pytest.mark.parametrize(
    ("counts", "sum"),
    [
        ([], None),
        ([None], None),
        ([None, None], None),
        ([Usage(1, 2)], Usage(1, 2)),
        ([Usage(1, 2), None], Usage()),
        ([Usage(1, 2), Usage(3, None)], Usage(4, None)),
        ([Usage(1, 2, reasoning_tokens=1), Usage(3, 4)], Usage(4, 6, reasoning_tokens=1)),
    ],
)
def test_sums_of_counts(counts, sum):
    """What one turn does not say is not known of all."""
    assert sum == sum_usage(counts)
