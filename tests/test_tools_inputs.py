"""Tools and their calls in the forms that users pass, and how results are sent to each provider."""

import json

import pytest

import nbllm
from nbllm import Document, Image, Message, Request, Text, Tool, ToolCall, ToolResult
from nbllm.core import prompt
from nbllm.core.calls import ProviderSpec
from nbllm.core.errors import ConfigError
from nbllm.core.events import parse_arguments
from nbllm.routing.dialects import DIALECTS

SCHEMA = {"type": "object", "properties": {"a": {"type": "integer"}}}
PNG = Image(b"\x89PNG\r\n\x1a\n")
HTTP = ("openai_chat", "openai_responses", "anthropic", "gemini", "ollama", "cohere")


class Mute:
    """Says nothing of itself."""

    def __repr__(self):
        raise RuntimeError("no words")


def body(dialect, messages):
    row = ProviderSpec("p", dialect, "https://p.test/v1")
    return DIALECTS[dialect].encode(Request("m", tuple(messages)), row, None).body


@pytest.mark.parametrize(
    "given",
    [
        Tool("f", "d", SCHEMA),
        {"type": "function", "function": {"name": "f", "description": "d", "parameters": SCHEMA}},
        {"name": "f", "description": "d", "parameters": SCHEMA},
        {"name": "f", "description": "d", "input_schema": SCHEMA},
    ],
)
def test_tools_without_code(given):
    """In a list, or one alone."""
    assert (Tool("f", "d", SCHEMA),) == prompt.parse_tools([given]) == prompt.parse_tools(given)


@pytest.mark.parametrize(
    "given",
    [
        ["f"],
        "f",
        3,
        None,
        [None],
        [len],
        len,
        {},
        [{"name": ""}],
        [{"name": 3}],
        [{"function": "f"}],
        [{"name": "f", "parameters": "x"}],
        [[Tool("f")]],
    ],
    ids=repr,
)
def test_what_is_no_tool(given):
    """Is an error that says what one is."""
    with pytest.raises(ConfigError) as caught:
        prompt.parse_tools(given)
    assert caught.value.hint


CALLED = {
    "role": "assistant",
    "content": None,
    "tool_calls": [
        {"id": "c1", "type": "function", "function": {"name": "f", "arguments": '{"a": 1}'}},
        {"id": "c2", "type": "function", "function": {"name": "f", "arguments": '{"a": '}},
    ],
}
CALLS = (ToolCall("c1", "f", {"a": 1}, '{"a": 1}'), ToolCall("c2", "f", None, '{"a": '))


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (CALLED, Message("assistant", CALLS)),
        (CALLED | {"content": "Let me see."}, Message("assistant", ["Let me see.", *CALLS])),
        (CALLED | {"refusal": None, "audio": None, "function_call": None}, Message("assistant", CALLS)),
        (
            {
                "role": "assistant",
                "tool_calls": [{"id": "c", "function": {"name": "f", "arguments": {"a": 1}}}],
            },
            Message("assistant", ToolCall("c", "f", {"a": 1}, '{"a": 1}')),
        ),
        ({"role": "assistant", "content": None, "refusal": "No."}, Message("assistant", "No.")),
        ({"role": "tool", "tool_call_id": "c1", "content": "3"}, Message("tool", ToolResult("c1", "3"))),
        ({"role": "tool", "tool_call_id": "c1", "content": None}, Message("tool", ToolResult("c1", ""))),
        (
            {"role": "tool", "tool_call_id": "c1", "name": "f", "content": [{"type": "text", "text": "3"}]},
            Message("tool", ToolResult("c1", "3", name="f")),
        ),
        (
            {"role": "tool", "tool_call_id": "c1", "content": [Text("3"), PNG]},
            Message("tool", ToolResult("c1", (Text("3"), PNG))),
        ),
        ({"role": "tool", "content": ToolResult("c1", "3")}, Message("tool", ToolResult("c1", "3"))),
        ({"role": "user", "content": "hi"}, Message("user", "hi")),
    ],
)
def test_messages_as_openai_writes_them(given, message):
    """Are read whole."""
    assert (message,) == prompt.parse_messages([given, Message("user", "x")])[:1]


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"role": "tool", "content": "3"}, "which call it belongs to"),
        ({"role": "assistant", "tool_calls": [{"function": {"name": "f"}}]}, "Not a tool call"),
        ({"role": "assistant", "tool_calls": ["f"]}, "Not a tool call"),
        (
            {"role": "user", "content": "hi", "tool_calls": CALLED["tool_calls"]},
            "role user cannot have 'tool_calls'",
        ),
        (
            {"role": "user", "content": "hi", "function_call": {"name": "f"}},
            "role user cannot have 'function_call'",
        ),
        ({"role": "user", "content": 3}, "Not a part of a message: '3'"),
    ],
)
def test_what_cannot_be_read_is_an_error(given, words):
    """Nothing of a message is lost in silence."""
    with pytest.raises(ConfigError, match=words):
        prompt.parse_messages([given])


def history(content, *, is_error=False, raw='{"a": '):
    call = ToolCall("c1", "f", parse_arguments(raw), raw)
    return [
        Message("user", "q"),
        Message("assistant", call),
        Message("tool", ToolResult("c1", content, is_error)),
    ]


@pytest.mark.parametrize("raw", ['{"a": ', "[1]", "nonsense", '"{\\"a\\": 1}"', ""])
@pytest.mark.parametrize("dialect", HTTP)
def test_arguments_that_are_no_object_go_back_as_one(dialect, raw):
    """Servers that write calls into a template fail at anything else."""
    found = []

    def look(value):
        if isinstance(value, dict):
            found.extend(v for k, v in value.items() if k in ("arguments", "args", "input") and v != "q")
            value = list(value.values())
        for part in value if isinstance(value, list) else ():
            look(part)

    look(body(dialect, history("3", raw=raw)))
    made = [v for v in found if not isinstance(v, list)]
    assert made
    assert all(isinstance(json.loads(v) if isinstance(v, str) else v, dict) for v in made)


@pytest.mark.parametrize("is_error", [False, True])
@pytest.mark.parametrize("dialect", HTTP)
def test_a_document_in_a_result_is_sent_or_refused(dialect, is_error):
    """Never dropped: text where the format has it as text, the file where it takes files, else an error."""
    words = Document(b"ZEBRA", media_type="text/plain", name="z.txt")
    sent = json.dumps(body(dialect, history((Text("See:"), words), is_error=is_error)))
    assert "ZEBRA" in sent or "WkVCUkE" in sent
    turns = history((Document(b"%PDF-1.7"),), is_error=is_error)
    if dialect in ("ollama", "cohere"):
        with pytest.raises(ConfigError, match="text"):
            body(dialect, turns)
    else:
        assert "JVBERi0xLjc" in json.dumps(body(dialect, turns))


def test_files_of_results_follow_all_of_them():
    """In Chat Completions a result is text; its files come in the user's name, after the last result."""
    first, second = ToolResult("c1", (Text("a"), PNG)), ToolResult("c2", (Document(b"%PDF"),))
    sent = body(
        "openai_chat", [Message("user", "q"), Message("assistant", CALLS), Message("tool", [first, second])]
    )
    roles = [m["role"] for m in sent["messages"]]
    assert roles == ["user", "assistant", "tool", "tool", "user"]
    assert ["image_url", "file"] == [p["type"] for p in sent["messages"][-1]["content"]]


@pytest.mark.parametrize(
    "given",
    [Mute(), [Mute()], [{"name": Mute()}], [{"a": "x" * 10_000}], [None]],
    ids=["mute", "list", "name", "long", "none"],
)
def test_what_is_no_tool_in_a_call_is_told_in_a_line(given):
    """Whatever it says of itself."""
    with pytest.raises(ConfigError, match="Not a tool") as caught:
        nbllm.complete("Hi", "sim/openai", tools=given)
    assert len(str(caught.value)) < 400
