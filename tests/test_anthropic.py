"""Anthropic's Messages: requests in, bodies out; frames in, events out."""

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
    RawBlock,
    ReasoningDelta,
    Started,
    TextDelta,
    ToolCallDelta,
    Usage,
    UsageReport,
    fold,
)
from nbllm.core.messages import Document, Image, Message, Reasoning, Request, Text, Tool, ToolCall, ToolResult
from nbllm.dialects.anthropic import DIALECT, MAX_TOKENS, MAX_TOKENS_LATER

from . import decoding

ROW = ProviderSpec("acme", "anthropic", "https://acme.test", label="Acme")
HELLO = (Message("user", "Hello"),)
OLD, NEW = "claude-sonnet-4-5-20250929", "claude-sonnet-5-5"


def body(*turns, model="m", **options):
    return DIALECT.encode(Request(model, turns or HELLO, **options), ROW, None).body


def read(*chunks):
    return decoding.read(DIALECT, ROW, *chunks)


def folded(*chunks):
    return fold(read(*chunks))


def begin(**usage):
    return {
        "type": "message_start",
        "message": {"id": "msg_1", "model": "claude", "content": [], "usage": usage},
    }


def start(index, kind, **about):
    return {"type": "content_block_start", "index": index, "content_block": {"type": kind, **about}}


def delta(index, kind, **about):
    return {"type": "content_block_delta", "index": index, "delta": {"type": f"{kind}_delta", **about}}


def text(words, index=0):
    return delta(index, "text", text=words)


def fragment(words, index=0):
    return delta(index, "input_json", partial_json=words)


def stop(index=0):
    return {"type": "content_block_stop", "index": index}


def end(reason="end_turn", **more):
    return {"type": "message_delta", "delta": {"stop_reason": reason}, **more}


DONE = {"type": "message_stop"}


class TestEncode:
    @pytest.mark.parametrize(
        "base", ["https://acme.test", "https://acme.test/", "https://acme.test/v1", "https://acme.test/v1/"]
    )
    def test_call(self, base):
        """The path follows the base address without doubling /v1; the key and the row's own headers go
        along."""
        row = ProviderSpec("acme", "anthropic", base, headers={"anthropic-beta": "x"})

        made = DIALECT.encode(Request("m", HELLO), row, Secret("sk-1"))

        assert "https://acme.test/v1/messages" == made.url
        assert {"anthropic-version": "2023-06-01", "x-api-key": "sk-1", "anthropic-beta": "x"} == made.headers

    def test_nothing_is_sent_that_was_not_asked_for(self):
        """A plain request holds the model, the turn, the limit that the protocol wants, and stream."""
        turn = {"role": "user", "content": [{"type": "text", "text": "Hello"}]}
        assert {"model": "m", "max_tokens": MAX_TOKENS, "messages": [turn], "stream": True} == body()

    def test_options(self):
        """Every option has its place in the body, and `extra` has the last word."""
        tool = Tool("f", "Does it.", {"type": "object"}, strict=True)

        made = body(
            Message("system", "Be brief."),
            *HELLO,
            max_tokens=9,
            temperature=0.5,
            top_p=0.9,
            stop=("a",),
            tools=(tool,),
            tool_choice="f",
            extra={"top_k": 3, "temperature": 1},
        )

        closed = {"type": "object", "properties": {}, "required": [], "additionalProperties": False}
        expected = {
            "system": "Be brief.",
            "max_tokens": 9,
            "temperature": 1,
            "top_p": 0.9,
            "stop_sequences": ["a"],
            "top_k": 3,
            "tools": [{"name": "f", "description": "Does it.", "strict": True, "input_schema": closed}],
            "tool_choice": {"type": "tool", "name": "f"},
        }
        assert expected == {k: made[k] for k in expected}

    @pytest.mark.parametrize(("choice", "said"), [("auto", "auto"), ("none", "none"), ("required", "any")])
    def test_tool_choice(self, choice, said):
        """The words for a tool choice are Anthropic's own."""
        assert {"type": said} == body(tool_choice=choice)["tool_choice"]

    @pytest.mark.parametrize(
        ("model", "asked", "thinking", "effort", "limit"),
        [
            (NEW, None, None, None, MAX_TOKENS_LATER),
            (NEW, "high", {"type": "adaptive", "display": "summarized"}, "high", MAX_TOKENS_LATER),
            (NEW, "minimal", {"type": "adaptive", "display": "summarized"}, "low", MAX_TOKENS_LATER),
            (NEW, 9000, {"type": "adaptive", "display": "summarized"}, "medium", MAX_TOKENS_LATER),
            (NEW, "none", {"type": "disabled"}, None, MAX_TOKENS_LATER),
            (
                "claude-opus-4-6",
                "low",
                {"type": "adaptive", "display": "summarized"},
                "low",
                MAX_TOKENS_LATER,
            ),
            (OLD, "low", {"type": "enabled", "budget_tokens": 1024}, None, MAX_TOKENS + 1024),
            (OLD, "high", {"type": "enabled", "budget_tokens": 16_384}, None, MAX_TOKENS + 16_384),
            (OLD, 3000, {"type": "enabled", "budget_tokens": 3000}, None, MAX_TOKENS + 3000),
            (OLD, 500, {"type": "enabled", "budget_tokens": 1024}, None, MAX_TOKENS + 1024),
            (OLD, 0, {"type": "disabled"}, None, MAX_TOKENS),
            ("qwen", "medium", {"type": "enabled", "budget_tokens": 8192}, None, MAX_TOKENS + 8192),
        ],
    )
    def test_reasoning(self, model, asked, thinking, effort, limit):
        """Later Claude models take an effort, older ones and other makers' a budget that comes on top of the
        limit."""
        made = body(model=model, reasoning=asked)
        assert (thinking, effort, limit) == (
            made.get("thinking"),
            made.get("output_config", {}).get("effort"),
            made["max_tokens"],
        )

    def test_a_budget_fits_the_limit(self):
        """A word makes a budget that leaves room to speak."""
        assert 2000 == body(model=OLD, reasoning="high", max_tokens=4000)["thinking"]["budget_tokens"]

    @pytest.mark.parametrize(
        ("model", "options", "named"),
        [
            ("m", {"seed": 1}, "seed"),
            (OLD, {"reasoning": 2000, "max_tokens": 2000}, "max_tokens"),
            (OLD, {"reasoning": "much"}, "reasoning"),
            (OLD, {"reasoning": -5}, "reasoning"),
            (OLD, {"reasoning": "low", "max_tokens": 100}, "max_tokens"),
        ],
    )
    def test_what_cannot_be_said(self, model, options, named):
        """An option that Anthropic has not is an error that names it."""
        with pytest.raises(errors.ConfigError, match=named):
            body(model=model, **options)

    def test_schema(self):
        """A schema goes to output_config with its objects closed where it does not say; extra is merged."""
        inner = {"type": "object", "additionalProperties": True, "default": {"type": "object"}}
        schema = {
            "type": "object",
            "properties": {"type": {"type": "string"}, "list": {"type": "array", "items": [inner]}},
        }

        made = body(schema=schema, extra={"output_config": {"effort": "max"}})

        closed = {**schema, "additionalProperties": False}
        assert {"effort": "max", "format": {"type": "json_schema", "schema": closed}} == made["output_config"]

    def test_turns(self):
        """Neighbours of one role are one turn, results of tools stand first in theirs, empty texts are left
        out."""
        made = body(
            Message(
                "user",
                [
                    "Hi",
                    Image(b"x"),
                    Image(url="https://e.test/a.png"),
                    Document(b"y", name="Y"),
                    Document(b"z", media_type="text/csv"),
                ],
            ),
            Message(
                "assistant",
                [
                    Reasoning("hm", "sig"),
                    Reasoning("unsigned"),
                    Reasoning("foreign", "sig", id="rs_1"),
                    Reasoning(redacted="enc"),
                    Text(" "),
                    ToolCall("a.1", "f", {"x": 1}),
                    ToolCall("b", "g", None, "{bad"),
                ],
            ),
            Message("user", "and"),
            Message(
                "tool", [ToolResult("a.1", "one"), ToolResult("b", (Text("two"), Image(b"x")), is_error=True)]
            ),
        )["messages"]

        picture = {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": "eA=="}}
        assert [
            {
                "role": "user",
                "content": [
                    {"type": "text", "text": "Hi"},
                    picture,
                    {"type": "image", "source": {"type": "url", "url": "https://e.test/a.png"}},
                    {
                        "type": "document",
                        "source": {"type": "base64", "media_type": "application/pdf", "data": "eQ=="},
                        "title": "Y",
                    },
                    {"type": "document", "source": {"type": "text", "media_type": "text/plain", "data": "z"}},
                ],
            },
            {
                "role": "assistant",
                "content": [
                    {"type": "thinking", "thinking": "hm", "signature": "sig"},
                    {"type": "redacted_thinking", "data": "enc"},
                    {"type": "tool_use", "id": "a_1", "name": "f", "input": {"x": 1}},
                    {"type": "tool_use", "id": "b", "name": "g", "input": {"INVALID_JSON": "{bad"}},
                ],
            },
            {
                "role": "user",
                "content": [
                    {"type": "tool_result", "tool_use_id": "a_1", "content": "one"},
                    {
                        "type": "tool_result",
                        "tool_use_id": "b",
                        "is_error": True,
                        "content": [{"type": "text", "text": "two"}, picture],
                    },
                    {"type": "text", "text": "and"},
                ],
            },
        ] == made

    def test_turns_without_content(self):
        """A turn of which nothing can go back is left out, and its neighbours are one."""
        made = body(
            Message("user", "Hi"), Message("assistant", Reasoning("unsigned")), Message("user", "there")
        )["messages"]
        assert [
            {"role": "user", "content": [{"type": "text", "text": "Hi"}, {"type": "text", "text": "there"}]}
        ] == made

    @pytest.mark.parametrize(
        "turn",
        [
            Message("assistant", Image(b"x")),
            Message("user", ToolCall("a", "f", {})),
            Message("system", Image(b"x")),
            Message("user", Image()),
            Message("user", Document(b"x", media_type="application/zip")),
        ],
    )
    def test_what_a_turn_cannot_hold(self, turn):
        """A part in the wrong place is an error on this side."""
        with pytest.raises(errors.ConfigError):
            body(turn)


class TestDecode:
    def test_text(self):
        """Events come in the order of their frames; counts of the end replace those of the beginning, name by
        name."""
        first, last = {"input_tokens": 3, "output_tokens": 1}, {"output_tokens": 9}
        assert [
            Started("msg_1", "claude"),
            UsageReport(Usage(3, 1, raw=first), final=False),
            TextDelta("Hel"),
            TextDelta("lo"),
            UsageReport(Usage(3, 9, raw={**first, **last})),
            Finished("stop", "end_turn"),
        ] == read(
            begin(**first),
            {"type": "ping"},
            start(0, "text", text=""),
            text("Hel"),
            text("lo"),
            stop(),
            end(usage=last),
            DONE,
        )

    def test_input_counts_all_input(self):
        """Cached, cache-written and fresh input are added; thinking is reported as a part of the output."""
        raw = {
            "input_tokens": 3,
            "cache_read_input_tokens": 20,
            "cache_creation_input_tokens": 100,
            "output_tokens": 9,
            "output_tokens_details": {"thinking_tokens": 4},
        }
        assert Usage(123, 9, 4, 20, 100, raw) == folded(begin(**raw), end()).usage

    def test_reasoning(self):
        """Thinking ends with its signature; a withheld block is kept; a signature may come without words."""
        answer = folded(
            begin(),
            start(0, "thinking", thinking="", signature=""),
            delta(0, "thinking", thinking="hm "),
            delta(0, "thinking", thinking="yes"),
            delta(0, "signature", signature="s1"),
            stop(),
            start(1, "redacted_thinking", data="enc"),
            stop(1),
            start(2, "thinking", thinking=""),
            delta(2, "signature", signature="s2"),
            stop(2),
            text("Hi", 3),
            end(),
            DONE,
        )
        assert (
            Reasoning("hm yes", "s1"),
            Reasoning("", None, "enc"),
            Reasoning("", "s2"),
            Text("Hi"),
        ) == answer.parts

    @pytest.mark.parametrize(
        ("chunks", "arguments"),
        [
            (
                (
                    start(0, "tool_use", id="t", name="f", input={}),
                    fragment(""),
                    fragment('{"a"'),
                    fragment(": 1}"),
                    stop(),
                ),
                {"a": 1},
            ),
            ((start(0, "tool_use", id="t", name="f", input={}), fragment(""), stop()), {}),
            ((start(0, "tool_use", id="t", name="f"), stop()), {}),
            ((start(0, "tool_use", id="t", name="f", input={"a": 1}), stop()), {"a": 1}),
            ((start(0, "tool_use", id="t", name="f", input={"a": 1}),), {"a": 1}),
            (
                (start(0, "tool_use", id="t", name="f", input={"a": 0}), fragment('{"a": 1}'), stop()),
                {"a": 1},
            ),
            ((start(0, "tool_use", id="t", name="f"), fragment('{"a'), stop()), None),
        ],
    )
    def test_arguments(self, chunks, arguments):
        """Fragments beat what the block held at its start; nothing at all is an empty object; a cut text is
        None."""
        answer = folded(begin(), *chunks, end("tool_use"), DONE)
        assert [("t", "f", arguments)] == [(c.id, c.name, c.arguments) for c in answer.tool_calls]
        assert "tool_calls" == answer.finish_reason

    def test_blocks_may_overlap(self):
        """A block that starts before another stops, and fragments that alternate, are told apart by index."""
        answer = folded(
            begin(),
            start(0, "text"),
            text("Hi"),
            start(1, "tool_use", id="a", name="f"),
            stop(0),
            fragment('{"x"', 1),
            start(2, "tool_use", id="b", name="g"),
            fragment("{}", 2),
            fragment(":1}", 1),
            stop(2),
            stop(1),
            end("tool_use"),
            DONE,
        )
        assert [("a", {"x": 1}), ("b", {})] == [(c.id, c.arguments) for c in answer.tool_calls]

    def test_blocks_without_numbers(self):
        """Where blocks have no index, each means the one before to be over."""
        chunks = [
            start(0, "tool_use", id="a", name="f", input={"x": 1}),
            start(0, "tool_use", id="b", name="g"),
            fragment("{}"),
        ]
        answer = folded(
            begin(), *({k: v for k, v in c.items() if k != "index"} for c in chunks), end("tool_use"), DONE
        )
        assert [("a", {"x": 1}), ("b", {})] == [(c.id, c.arguments) for c in answer.tool_calls]

    def test_fragments_without_numbers(self):
        """A fragment or stop that names no block belongs to the one that started last."""
        chunks = [{k: v for k, v in c.items() if k != "index"} for c in (fragment('{"x": 1}'), stop())]
        answer = folded(
            begin(),
            start(0, "text"),
            start(1, "tool_use", id="a", name="f"),
            *chunks,
            text("Hi", 0),
            end(),
            DONE,
        )
        assert ("Hi", [{"x": 1}]) == (answer.text, [c.arguments for c in answer.tool_calls])

    def test_tools_of_the_provider_are_no_calls(self):
        """What the provider runs itself is told as notices, its input put together."""
        events = read(
            begin(),
            start(0, "server_tool_use", id="s", name="web_search", input={}),
            fragment('{"q"'),
            fragment(":1}"),
            stop(),
            start(1, "web_search_tool_result", tool_use_id="s", content=[]),
            stop(1),
            end(),
            DONE,
        )
        assert [
            Notice(
                "server_tool",
                "web_search",
                {"type": "server_tool_use", "id": "s", "name": "web_search", "input": '{"q":1}'},
            ),
            Notice(
                "server_tool",
                "web_search_tool_result",
                {"type": "web_search_tool_result", "tool_use_id": "s", "content": []},
            ),
            Finished("stop", "end_turn"),
        ] == [e for e in events[1:] if not isinstance(e, RawBlock)]

    @pytest.mark.parametrize(
        ("begun", "deltas"),
        [
            ({"content": None}, [{"content": "The user "}, {"content": "asked."}]),
            ({}, [{"content": "The user asked."}, {"content": None}]),
            ({"content": "The user asked."}, []),
            ({"content": "The user asked."}, [{"content": ""}]),
        ],
    )
    def test_what_sums_up_the_conversation_goes_back(self, begun, deltas):
        """It is no part of the answer, but without it the next question meets a model that has forgotten."""
        told = [
            {"type": "content_block_delta", "index": 0, "delta": {"type": "compaction_delta", **d}}
            for d in deltas
        ]
        answer = fold(read(begin(), start(0, "compaction", **begun), *told, stop(), end("compaction"), DONE))
        assert ("", "stop") == (answer.text, answer.finish_reason)
        assert [{"type": "compaction", "content": "The user asked."}] == body(*HELLO, *answer.messages)[
            "messages"
        ][1]["content"]

    def test_tools_of_the_provider_go_back_as_they_came(self):
        """A turn that paused in the middle of a search goes on only where its blocks return, in their place,
        to the same provider alone."""
        answer = fold(
            read(
                begin(),
                start(0, "server_tool_use", id="s", name="web_search", input={}),
                fragment('{"q":1}'),
                stop(),
                start(1, "web_search_tool_result", tool_use_id="s", content=[]),
                stop(1),
                end("pause_turn"),
                DONE,
            )
        )
        assert ("stop", "pause_turn") == (answer.finish_reason, answer.finish_raw)
        assert [
            {"type": "server_tool_use", "id": "s", "name": "web_search", "input": {"q": 1}},
            {"type": "web_search_tool_result", "tool_use_id": "s", "content": []},
        ] == body(*HELLO, *answer.messages)["messages"][1]["content"]

    def test_notices(self):
        """Citations, a model that stepped in, refusals, measurements and unknown blocks are kept beside the
        answer."""
        source = {"type": "x", "url": "https://e.test"}
        answer = folded(
            begin(),
            start(0, "fallback", to={"model": "other"}),
            start(1, "future", a=1),
            delta(1, "future", a=2),
            delta(2, "citations", citation=source),
            end("refusal", delta={"stop_reason": "refusal", "stop_details": {"explanation": "No."}}),
            {**DONE, "timings": {"ms": 1}},
        )
        assert ["warning", "unknown", "unknown", "citation", "refusal", "timing"] == [
            n.kind for n in answer.notices
        ]
        assert ("other", "content_filter", "No.") == (answer.model, answer.finish_reason, answer.refusal)

    @pytest.mark.parametrize(
        ("raw", "reason"),
        [
            ("end_turn", "stop"),
            ("stop_sequence", "stop"),
            ("pause_turn", "stop"),
            ("compaction", "stop"),
            ("max_tokens", "length"),
            ("refusal", "content_filter"),
            ("model_context_window_exceeded", "length"),
            ("brand_new", "other"),
            ("tool_use", "stop"),
        ],
    )
    def test_reasons(self, raw, reason):
        """Reasons have our words; nobody waits for calls that never came."""
        assert Finished(reason, raw) == read(begin(), end(raw), DONE)[-1]

    def test_whole_message(self):
        """A server that does not stream sends the message in one object."""
        answer = folded(
            {
                "type": "message",
                "id": "m",
                "model": "c",
                "role": "assistant",
                "stop_reason": "end_turn",
                "usage": {"input_tokens": 1},
                "content": [
                    {"type": "thinking", "thinking": "hm", "signature": "s"},
                    {"type": "text", "text": "Hi"},
                    {"type": "tool_use", "id": "t", "name": "f", "input": {"a": 1}},
                ],
            }
        )
        assert (Reasoning("hm", "s"), Text("Hi"), ToolCall("t", "f", {"a": 1}, '{"a": 1}')) == answer.parts
        assert ("tool_calls", 1) == (answer.finish_reason, answer.usage.input_tokens)

    @pytest.mark.parametrize(
        "frame",
        [
            Frame('{"type": "error", "error": {"type": "overloaded_error", "message": "Busy"}}', "error"),
            Frame('{"error": {"type": "overloaded_error", "message": "Busy"}}'),
        ],
    )
    def test_errors_in_the_stream(self, frame):
        """An error ends the answer with the provider's words; what came before has been told."""
        decoder, events = DIALECT.decoder(ROW), []
        events += decoder.feed(Frame(json.dumps(text("Hi"))))
        with pytest.raises(errors.Overloaded, match="Busy"):
            events += decoder.feed(frame)
        assert [TextDelta("Hi")] == events

    @pytest.mark.parametrize(
        ("chunks", "error"),
        [
            ((begin(), text("Hi")), errors.StreamCut),
            ((begin(), Frame('{"type": "mess', tail=True)), errors.StreamCut),
            ((), errors.ServerError),
            (({"type": "response.created", "response": {}},), errors.ProtocolError),
            (("{bad",), errors.ProtocolError),
        ],
    )
    def test_no_end(self, chunks, error):
        """An answer without an end is an error: cut, empty, or in another format."""
        with pytest.raises(error):
            read(*chunks)

    @pytest.mark.parametrize(
        "ends", [(end(),), (DONE,), (end(), Frame("", "heartbeat"), "[DONE]"), (end(), DONE, text("late"))]
    )
    def test_ends(self, ends):
        """A reason or the end mark is enough, and nothing counts after the mark."""
        assert ("Hi", "stop") == ((answer := folded(begin(), text("Hi"), *ends)).text, answer.finish_reason)

    def test_done(self):
        """The end mark alone says that no more is to be waited for."""
        decoder = DIALECT.decoder(ROW)
        list(decoder.feed(Frame(json.dumps(end()))))
        assert not decoder.done
        list(decoder.feed(Frame(json.dumps(DONE))))
        assert decoder.done

    def test_halves_of_a_character(self):
        """A character cut in two comes whole."""
        assert "\N{GRINNING FACE}" == folded(begin(), text("\ud83d"), text("\ude00"), end()).text

    def test_half_a_character(self):
        """A half whose other half never comes is shown as lost, even where no block started."""
        answer = folded(
            begin(),
            start(0, "thinking"),
            delta(0, "thinking", thinking="hm\ud83d"),
            stop(),
            text("Hi\ud83d", 1),
            start(2, "tool_use", id="a", name="f"),
            fragment('{"x": "\ud83d', 2),
            fragment('"}', 2),
            end(),
        )
        assert ("hm\ufffd", "Hi\ufffd", [{"x": "\ufffd"}]) == (
            answer.reasoning,
            answer.text,
            [c.arguments for c in answer.tool_calls],
        )

    def test_a_call_is_told_at_once(self):
        """The name comes with the block's start, not at its end."""
        assert [ToolCallDelta(0, "t", "f")] == list(
            DIALECT.decoder(ROW).feed(Frame(json.dumps(start(0, "tool_use", id="t", name="f"))))
        )

    def test_a_thought_without_words(self):
        """Nothing is told of empty pieces."""
        assert [] == list(DIALECT.decoder(ROW).feed(Frame(json.dumps(delta(0, "thinking", thinking="")))))
        assert [ReasoningDelta("a")] == list(
            DIALECT.decoder(ROW).feed(Frame(json.dumps(delta(0, "thinking", thinking="a"))))
        )


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda v: (
        st.lists(v, max_size=3)
        | st.dictionaries(
            st.sampled_from(
                [
                    "type",
                    "index",
                    "delta",
                    "content_block",
                    "text",
                    "thinking",
                    "signature",
                    "partial_json",
                    "message",
                    "content",
                    "input",
                    "usage",
                    "input_tokens",
                    "stop_reason",
                    "stop_details",
                    "explanation",
                    "citations",
                    "citation",
                    "to",
                    "id",
                    "name",
                ]
            ),
            v,
            max_size=5,
        )
    ),
    max_leaves=12,
)
KINDS = st.sampled_from(
    [
        "message_start",
        "content_block_start",
        "content_block_delta",
        "content_block_stop",
        "message_delta",
        "message_stop",
        "message",
    ]
)
BLOCKS = st.sampled_from(
    ["text", "tool_use", "thinking", "redacted_thinking", "server_tool_use", "fallback", "x_tool_result", "x"]
)
DELTAS = st.sampled_from(
    ["text_delta", "thinking_delta", "input_json_delta", "signature_delta", "citations_delta", "x"]
)


@pytest.mark.slow
@given(
    st.lists(
        VALUES
        | st.fixed_dictionaries(
            {"type": KINDS, "index": st.integers(0, 1) | VALUES},
            optional={
                "delta": st.fixed_dictionaries(
                    {"type": DELTAS},
                    optional=dict.fromkeys(
                        ("text", "thinking", "partial_json", "signature", "citation"), VALUES
                    ),
                ),
                "content_block": st.fixed_dictionaries(
                    {"type": BLOCKS},
                    optional=dict.fromkeys(
                        ("text", "input", "id", "name", "data", "to", "citations"), VALUES
                    ),
                ),
                "message": VALUES,
                "usage": VALUES,
                "content": VALUES,
            },
        ),
        max_size=6,
    )
)
def test_any_json_is_events_or_an_error(chunks):
    """Whatever JSON comes, there are events or an error of ours."""
    fold = Fold()
    try:
        for event in read(*map(json.dumps, chunks)):
            fold.add(event)
    except errors.NbllmError:
        pass
    fold.response().text.encode()
