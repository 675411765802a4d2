"""Ollama's own protocol: requests in, bodies out; lines in, events out."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nbllm.core import errors
from nbllm.core.calls import Frame, ProviderSpec, Secret
from nbllm.core.events import (
    Finished,
    Fold,
    Notice,
    ReasoningDelta,
    Started,
    TextDelta,
    ToolCallDelta,
    Usage,
    UsageReport,
    fold,
)
from nbllm.core.messages import Document, Image, Message, Reasoning, Request, Text, Tool, ToolCall, ToolResult
from nbllm.dialects.ollama import DIALECT

from . import decoding

ROW = ProviderSpec("ollama", "ollama", "http://127.0.0.1:11434", label="Ollama")
HELLO = (Message("user", "Hello"),)


def body(*turns, model="m", **options):
    return DIALECT.encode(Request(model, turns or HELLO, **options), ROW, None).body


def read(*chunks):
    return decoding.read(DIALECT, ROW, *chunks)


def folded(*chunks):
    return fold(read(*chunks))


def say(text="", **more):
    return {"model": "m", "message": {"role": "assistant", "content": text, **more}, "done": False}


def call(name, arguments, **more):
    return say(tool_calls=[{"function": {"name": name, "arguments": arguments}, **more}])


def end(**more):
    return {
        "model": "m",
        "message": {"role": "assistant", "content": ""},
        "done": True,
        "done_reason": "stop",
        **more,
    }


class TestEncode:
    @pytest.mark.parametrize("base", ["http://h:1", "http://h:1/", "http://h:1/api"])
    def test_call(self, base):
        """The path follows the base address without doubling /api; a key is optional."""
        row = ProviderSpec("ollama", "ollama", base, headers={"X-A": "b"})
        assert ("http://h:1/api/chat", {"X-A": "b"}) == (
            (made := DIALECT.encode(Request("m", HELLO), row, None)).url,
            made.headers,
        )
        assert {"Authorization": "Bearer k", "X-A": "b"} == DIALECT.encode(
            Request("m", HELLO), row, Secret("k")
        ).headers

    def test_nothing_is_sent_that_was_not_asked_for(self):
        """A plain request holds the model, the turn and stream."""
        assert {"model": "m", "messages": [{"role": "user", "content": "Hello"}], "stream": True} == body()

    def test_options(self):
        """Options have Ollama's names, tools OpenAI's shape; `options` in extra joins ours, all else
        replaces."""
        made = body(
            max_tokens=9,
            temperature=0.5,
            top_p=0.9,
            stop=("a",),
            seed=1,
            schema={"type": "object"},
            tools=(Tool("f", "Does it."),),
            tool_choice="auto",
            extra={"options": {"num_ctx": 64, "seed": 2}, "keep_alive": "1m"},
        )

        function = {
            "name": "f",
            "description": "Does it.",
            "parameters": {"type": "object", "properties": {}},
        }
        expected = {
            "options": {
                "num_predict": 9,
                "temperature": 0.5,
                "top_p": 0.9,
                "stop": ["a"],
                "seed": 2,
                "num_ctx": 64,
            },
            "keep_alive": "1m",
            "format": {"type": "object"},
            "tools": [{"type": "function", "function": function}],
        }
        assert expected == {k: made[k] for k in expected}

    @pytest.mark.parametrize(
        ("model", "asked", "think"),
        [
            ("qwen3", None, None),
            ("qwen3", "none", False),
            ("qwen3", 0, False),
            ("qwen3", "low", True),
            ("qwen3", 5000, True),
            ("gpt-oss:20b", "high", "high"),
            ("gpt-oss", "minimal", "low"),
            ("gpt-oss", 5000, "medium"),
        ],
    )
    def test_reasoning(self, model, asked, think):
        """Thinking is on or off, and a word for gpt-oss alone."""
        assert think == body(model=model, reasoning=asked).get("think")

    def test_no_tools(self):
        """With the choice "none" no tools are sent, which is how Ollama says it."""
        assert "tools" not in body(tools=(Tool("f"),), tool_choice="none")

    def test_turns(self):
        """Pictures are bytes beside the text, thinking and calls go back, results name their tools."""
        made = body(
            Message("system", "Be brief."),
            Message("user", ["Hi", Image(b"x"), Document(b"y", media_type="text/plain", name="Y")]),
            Message(
                "assistant",
                [Reasoning("hm"), Text("So"), ToolCall("a", "f", {"x": 1}), ToolCall("b", "g", None, "{bad")],
            ),
            Message(
                "tool", [ToolResult("a", "one"), ToolResult("b", (Text("two"), Image(b"x")), is_error=True)]
            ),
            Message("user", "and"),
        )["messages"]

        assert [
            {"role": "system", "content": "Be brief."},
            {"role": "user", "content": "Hi\n\nY:\ny\n\n", "images": ["eA=="]},
            {
                "role": "assistant",
                "content": "So",
                "thinking": "hm",
                "tool_calls": [
                    {"id": "a", "function": {"name": "f", "arguments": {"x": 1}}},
                    {"id": "b", "function": {"name": "g", "arguments": {"INVALID_JSON": "{bad"}}},
                ],
            },
            {"role": "tool", "content": "one", "tool_name": "f", "tool_call_id": "a"},
            {
                "role": "tool",
                "content": "Error: two",
                "tool_name": "g",
                "tool_call_id": "b",
                "images": ["eA=="],
            },
            {"role": "user", "content": "and"},
        ] == made

    @pytest.mark.parametrize(
        ("turn", "options"),
        [
            (HELLO[0], {"tool_choice": "required"}),
            (HELLO[0], {"tool_choice": "f"}),
            (HELLO[0], {"tools": (Tool("f", strict=True),)}),
            (Message("user", Image(url="https://e.test/a.png")), {}),
            (Message("user", Document(b"x")), {}),
            (Message("assistant", Image(b"x")), {}),
            (Message("user", Reasoning("hm")), {}),
            (Message("system", Image(b"x")), {}),
        ],
    )
    def test_what_cannot_be_said(self, turn, options):
        """What Ollama has no words for is an error on this side."""
        with pytest.raises(errors.ConfigError):
            body(turn, **options)


class TestDecode:
    def test_text(self):
        """Events come line by line; the last line holds counts and what the server measured, in
        nanoseconds."""
        counts, times = (
            {"prompt_eval_count": 3, "eval_count": 2},
            {"total_duration": 5_000_000, "eval_duration": 1_500_000},
        )
        assert [
            Started(model="m"),
            TextDelta("Hel"),
            TextDelta("lo"),
            UsageReport(Usage(3, 2, raw=counts)),
            Notice("timing", "total_duration 5.0 ms, eval_duration 1.5 ms", times | counts),
            Finished("stop", "stop"),
        ] == read(say("Hel"), say("lo"), end(**counts, **times))

    @pytest.mark.parametrize("field", ["thinking", "reasoning_content", "reasoning"])
    def test_reasoning(self, field):
        """Thinking comes under Ollama's name, or under one of a server that imitates it."""
        assert [ReasoningDelta("hm"), TextDelta("Hi")] == read(say(**{field: "hm"}), say("Hi"), end())[1:3]

    @pytest.mark.parametrize(
        ("given", "arguments"),
        [
            ({"a": 1}, {"a": 1}),
            ('{"a": 1}', {"a": 1}),
            (None, {}),
            ("", {}),
            ({}, {}),
            ("{bad", None),
            ("[1]", None),
        ],
    )
    def test_arguments(self, given, arguments):
        """Arguments come as an object, as text, or not at all."""
        assert [arguments] == [c.arguments for c in folded(call("f", given), end()).tool_calls]

    def test_calls(self):
        """Calls in several lines, one of them the last, are several calls, and a plain stop is one for
        calls."""
        events = read(
            call("f", {"a": 1}), call("g", {}, id="x"), {**end(), "message": call("h", None)["message"]}
        )
        assert [
            ToolCallDelta(0, None, "f", '{"a": 1}'),
            ToolCallDelta(1, "x", "g", "{}"),
            ToolCallDelta(2, None, "h"),
        ] == events[1:4]
        assert Finished("tool_calls", "stop") == events[-1]

    @pytest.mark.parametrize(
        "chunks",
        [
            ({"response": "Hel"}, {"response": "lo", "done": True}),
            ({**end(), "message": {"content": "Hello"}},),
            (say(None, thinking=None, tool_calls=None), say("Hello"), {"done": True}),
            (say("Hello"), end(), say("late")),
        ],
    )
    def test_shapes(self, chunks):
        """Lines of /api/generate, a whole answer, nulls, a last line without a message, and lines after the
        last."""
        assert ("Hello", "stop") == ((answer := folded(*chunks)).text, answer.finish_reason)

    @pytest.mark.parametrize(
        ("raw", "reason"),
        [("stop", "stop"), ("length", "length"), ("load", "stop"), ("new", "other"), (None, "stop")],
    )
    def test_reasons(self, raw, reason):
        """Reasons have our words."""
        assert Finished(reason, raw) == read(say("Hi"), end(done_reason=raw))[-1]

    @pytest.mark.parametrize(
        ("counts", "usage"), [({"eval_count": 2}, (None, 2)), ({"prompt_eval_count": 0}, (0, None))]
    )
    def test_what_was_not_counted_is_unknown(self, counts, usage):
        """A missing count is None, not 0."""
        assert usage == ((found := folded(end(**counts)).usage).input_tokens, found.output_tokens)
        assert folded(end()).usage is None

    @pytest.mark.parametrize("error", ["Out of memory", {"message": "Out of memory", "type": "server_error"}])
    def test_errors_in_the_stream(self, error):
        """An error is a text, or an object of servers that imitate Ollama; what came before has been told."""
        decoder, events = DIALECT.decoder(ROW), []
        events += decoder.feed(Frame(json.dumps(say("Hi"))))
        with pytest.raises(errors.ProviderError, match="Out of memory"):
            events += decoder.feed(Frame(json.dumps({"error": error})))
        assert [Started(model="m"), TextDelta("Hi")] == events

    @pytest.mark.parametrize(
        ("chunks", "error"),
        [
            ((say("Hi"),), errors.StreamCut),
            ((say("Hi"), Frame('{"model": "m", "mes', tail=True)), errors.StreamCut),
            ((), errors.ServerError),
            (({"choices": []},), errors.ProtocolError),
            (("{bad",), errors.ProtocolError),
        ],
    )
    def test_no_end(self, chunks, error):
        """An answer without its last line is an error: cut, empty, or in another format."""
        with pytest.raises(error):
            read(*chunks)

    def test_done(self):
        """The last line says that no more is to be waited for."""
        decoder = DIALECT.decoder(ROW)
        list(decoder.feed(Frame(json.dumps(end()))))
        assert decoder.done

    def test_halves_of_a_character(self):
        """A character cut in two comes whole; a half that stays alone is replaced."""
        assert "\N{GRINNING FACE}" == folded(say("\ud83d"), say("\ude00"), end()).text
        assert [ReasoningDelta("\ufffd"), TextDelta("\ufffd"), Finished("stop", "stop")] == read(
            say(thinking="\ud83d"), say("\ud83d"), end()
        )[1:]


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda v: (
        st.lists(v, max_size=3)
        | st.dictionaries(
            st.sampled_from(
                [
                    "message",
                    "content",
                    "thinking",
                    "tool_calls",
                    "function",
                    "name",
                    "arguments",
                    "id",
                    "done",
                    "done_reason",
                    "model",
                    "response",
                    "eval_count",
                    "total_duration",
                ]
            ),
            v,
            max_size=5,
        )
    ),
    max_leaves=15,
)


@given(st.lists(VALUES, max_size=5))
def test_any_json_is_events_or_an_error(chunks):
    """Whatever JSON comes, there are events or an error of ours."""
    fold = Fold()
    try:
        for event in read(*map(json.dumps, chunks)):
            fold.add(event)
    except errors.NbllmError:
        pass
    fold.response().text.encode()
