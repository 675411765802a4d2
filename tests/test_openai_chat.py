"""Chat Completions: requests in, bodies out; frames in, events out."""

import itertools
import json
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nbllm.core import errors
from nbllm.core.calls import Frame, ProviderSpec, Quirks, Secret
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
)
from nbllm.core.messages import Document, Image, Message, Reasoning, Request, Text, Tool, ToolCall, ToolResult
from nbllm.dialects.openai_chat import DIALECT

PLAIN = ProviderSpec("acme", "openai_chat", "https://acme.test/v1/")
HELLO = (Message("user", "Hello"),)
CLOSED = {
    "type": "object",
    "properties": {"a": {"type": "string"}},
    "required": ["a"],
    "additionalProperties": False,
}


def body(request, **quirks):
    return DIALECT.encode(
        request, ProviderSpec("acme", "openai_chat", "https://acme.test/v1", quirks=Quirks(**quirks)), None
    ).body


def messages(*turns, **quirks):
    return body(Request("m", turns), **quirks)["messages"]


def read(*chunks, end="[DONE]"):
    """The events of a stream whose frames hold `chunks`; `end` is the last frame's text, None for a bare
    end."""
    decoder = DIALECT.decoder(PLAIN)
    events = []
    for chunk in (*chunks, *([end] if end is not None else ())):
        frame = (
            chunk
            if isinstance(chunk, Frame)
            else Frame(chunk if isinstance(chunk, str) else json.dumps(chunk))
        )
        events += decoder.feed(frame)
    return [*events, *decoder.close()]


def folded(*chunks, end="[DONE]"):
    fold = Fold()
    for event in read(*chunks, end=end):
        fold.add(event)
    return fold.response()


def say(finish=None, **delta):
    return {"choices": [{"index": 0, "delta": delta, "finish_reason": finish}]}


def call(finish=None, **entry):
    return say(finish, tool_calls=[entry])


def fn(name=None, arguments=None):
    return {k: v for k, v in {"name": name, "arguments": arguments}.items() if v is not None}


STOP = say("stop")


class TestEncode:
    def test_call(self):
        """A call goes to the path below the base address, with the key as a bearer token and the row's own
        headers."""
        row = ProviderSpec("acme", "openai_chat", "https://acme.test/v1/", headers={"X-Title": "nbllm"})

        made = DIALECT.encode(Request("m", HELLO), row, Secret("sk-1"))

        assert "https://acme.test/v1/chat/completions" == made.url
        assert {"Authorization": "Bearer sk-1", "X-Title": "nbllm"} == made.headers
        assert {} == DIALECT.encode(Request("m", HELLO), PLAIN, None).headers

    def test_nothing_unasked(self):
        """Nothing is sent that was not asked for."""
        bare = {"model": "m", "messages": [{"role": "user", "content": "Hello"}], "stream": True}

        assert bare == body(Request("m", HELLO), stream_usage=False)
        assert {**bare, "stream_options": {"include_usage": True}} == body(Request("m", HELLO))

    @pytest.mark.parametrize(
        ("sent", "option"),
        [
            ({"max_tokens": 9}, {"max_tokens": 9}),
            ({"temperature": 0.0}, {"temperature": 0.0}),
            ({"top_p": 0.5}, {"top_p": 0.5}),
            ({"stop": ["a", "b"]}, {"stop": ("a", "b")}),
            ({"seed": 0}, {"seed": 0}),
            ({"reasoning_effort": "low"}, {"reasoning": "low"}),
            ({"reasoning_effort": "none"}, {"reasoning": 0}),
            ({"reasoning_effort": "low"}, {"reasoning": 1024}),
            ({"reasoning_effort": "medium"}, {"reasoning": 8192}),
            ({"reasoning_effort": "high"}, {"reasoning": 32_000}),
            ({"tool_choice": "required"}, {"tool_choice": "required"}),
            ({"tool_choice": {"type": "function", "function": {"name": "f"}}}, {"tool_choice": "f"}),
            (
                {"logit_bias": {"1": {"x": []}}, "stream": False},
                {"extra": {"logit_bias": {"1": {"x": []}}, "stream": False}},
            ),
        ],
    )
    def test_option(self, sent, option):
        """Each option has its place in the body; `extra` has the last word."""
        assert {**body(Request("m", HELLO)), **sent} == body(Request("m", HELLO, **option))

    def test_max_tokens_field(self):
        """The row says what the limit is called."""
        assert (
            9
            == body(Request("m", HELLO, max_tokens=9), max_tokens_field="max_completion_tokens")[
                "max_completion_tokens"
            ]
        )

    def test_negative_budget(self):
        """A negative budget is refused before anything is sent."""
        with pytest.raises(errors.ConfigError):
            body(Request("m", HELLO, reasoning=-1))

    @pytest.mark.parametrize(
        ("strict", "schema"),
        [
            (True, CLOSED),
            (
                True,
                {
                    "type": "object",
                    "properties": {"list": {"type": "array", "items": CLOSED}},
                    "required": ["list"],
                    "additionalProperties": False,
                },
            ),
            (False, {"type": "object", "properties": {"a": {"type": "string"}}}),
            (False, {**CLOSED, "required": []}),
            (False, {**CLOSED, "properties": {"a": {"type": "object", "properties": {}}}}),
        ],
    )
    def test_schema(self, strict, schema):
        """A schema is asked for in strict mode where strict mode would accept it."""
        expected = {
            "type": "json_schema",
            "json_schema": {"name": "answer", "schema": schema, "strict": strict},
        }
        assert expected == body(Request("m", HELLO, schema=schema))["response_format"]

    def test_schema_name(self):
        """A schema's title names it, with the letters that the protocol allows."""
        sent = body(Request("m", HELLO, schema={**CLOSED, "title": "Größe (cm)"}))
        assert "Gr__e__cm_" == sent["response_format"]["json_schema"]["name"]

    def test_tools(self):
        """A tool's description and strictness are sent where they are set."""
        tools = (Tool("f"), Tool("g", "Gives.", CLOSED, strict=True))
        assert [
            {
                "type": "function",
                "function": {"name": "f", "parameters": {"type": "object", "properties": {}}},
            },
            {
                "type": "function",
                "function": {"name": "g", "description": "Gives.", "parameters": CLOSED, "strict": True},
            },
        ] == body(Request("m", HELLO, tools=tools))["tools"]

    def test_turns(self):
        """System, user and assistant turns keep their places and words."""
        turns = (
            Message("system", "Be brief."),
            *HELLO,
            Message("assistant", "Hi."),
            Message("user", ("a", "b")),
        )
        assert [
            {"role": "developer", "content": "Be brief."},
            {"role": "user", "content": "Hello"},
            {"role": "assistant", "content": "Hi."},
            {"role": "user", "content": "ab"},
        ] == messages(*turns, system_role="developer")

    def test_media(self):
        """Pictures and documents stand between the words, bytes as data: URLs."""
        parts = (
            "See",
            Image(b"\x89", media_type="image/png"),
            Image(url="https://x.test/a.png"),
            Document(b"%PDF", name="a.pdf"),
        )
        assert [
            {"type": "text", "text": "See"},
            {"type": "image_url", "image_url": {"url": "data:image/png;base64,iQ=="}},
            {"type": "image_url", "image_url": {"url": "https://x.test/a.png"}},
            {
                "type": "file",
                "file": {"filename": "a.pdf", "file_data": "data:application/pdf;base64,JVBERg=="},
            },
        ] == messages(Message("user", parts))[0]["content"]

    @pytest.mark.parametrize(
        "turn",
        [
            Message("user", Document(url="https://x.test/a.pdf")),
            Message("user", Image()),
            Message("user", Reasoning("hm")),
            Message("assistant", ("See", Image(b"x"))),
        ],
    )
    def test_unsayable(self, turn):
        """What the protocol cannot say is an error of ours that says what to do."""
        with pytest.raises(errors.ConfigError) as caught:
            messages(turn)
        assert caught.value.hint

    def test_tool_round(self):
        """Parallel calls and their results go back, arguments to the letter; a failed result says so."""
        turns = (
            Message(
                "assistant",
                (
                    Text("So:"),
                    ToolCall("1", "f", {"x": 1}, '{ "x":1}'),
                    ToolCall("2", "g", {"é": 2}),
                    ToolCall("3", "h", None, "{"),
                ),
            ),
            Message("tool", ToolResult("1", "one")),
            Message("tool", (ToolResult("2", (Text("a"), Text("b"))), ToolResult("3", "no", is_error=True))),
        )
        assert [
            {
                "role": "assistant",
                "content": "So:",
                "tool_calls": [
                    {"id": "1", "type": "function", "function": {"name": "f", "arguments": '{ "x":1}'}},
                    {"id": "2", "type": "function", "function": {"name": "g", "arguments": '{"é": 2}'}},
                    {"id": "3", "type": "function", "function": {"name": "h", "arguments": "{}"}},
                ],
            },
            {"role": "tool", "tool_call_id": "1", "content": "one"},
            {"role": "tool", "tool_call_id": "2", "content": "ab"},
            {"role": "tool", "tool_call_id": "3", "content": "Error: no"},
        ] == messages(*turns)

    def test_tool_pictures(self):
        """Pictures of parallel results wait until all results are told, then stand before the user's
        words."""
        turns = (
            Message("assistant", (ToolCall("1", "f", {}), ToolCall("2", "f", {}))),
            Message("tool", ToolResult("1", (Text("shot"), Image(url="u:1")))),
            Message("tool", ToolResult("2", "none")),
            *HELLO,
        )

        assert [
            ("assistant", None),
            ("tool", "shot"),
            ("tool", "none"),
            ("user", [{"type": "image_url", "image_url": {"url": "u:1"}}]),
            ("user", "Hello"),
        ] == [(m["role"], m["content"]) for m in messages(*turns)]

    @pytest.mark.parametrize(
        ("sent", "field"),
        [
            ({}, ""),
            ({"reasoning_content": "hmso"}, "reasoning_content"),
            (
                {
                    "reasoning_details": [
                        {"type": "reasoning.text", "text": "hm", "signature": "S", "id": "r"},
                        {"type": "reasoning.encrypted", "data": "D", "format": "x"},
                        {"type": "reasoning.encrypted", "data": "raw"},
                        {"type": "reasoning.text", "text": "so"},
                    ]
                },
                "reasoning_details",
            ),
        ],
    )
    def test_reasoning(self, sent, field):
        """Thinking goes back under the row's field, as text or as OpenRouter's details."""
        thoughts = (
            Reasoning("hm", "S", id="r"),
            Reasoning(redacted='{"type": "reasoning.encrypted", "data": "D", "format": "x"}'),
            Reasoning(redacted="raw"),
            Reasoning("so"),
        )
        expected = {"role": "assistant", "content": "Hi.", **sent}
        assert [expected] == messages(Message("assistant", (*thoughts, Text("Hi."))), reasoning_field=field)

    def test_google_signature(self):
        """Google's signature goes back with its call, and only to rows that want it."""
        turn = Message("assistant", ToolCall("1", "f", {}, signature="S"))

        assert {"google": {"thought_signature": "S"}} == messages(turn, reasoning_field="extra_content")[0][
            "tool_calls"
        ][0]["extra_content"]
        assert "extra_content" not in messages(turn)[0]["tool_calls"][0]


class TestText:
    def test_stream(self):
        """Each piece is an event, and the end comes last."""
        first = {"id": "c1", "model": "m-1", **say(role="assistant", content="")}
        counted = {"choices": [], "usage": {"prompt_tokens": 3, "completion_tokens": 2}}
        assert [
            Started("c1", "m-1"),
            TextDelta("Hel"),
            TextDelta("lo"),
            UsageReport(Usage(3, 2, raw=counted["usage"])),
            Finished("stop", "stop"),
        ] == read(first, say(content="Hel"), say(content="lo"), STOP, counted)

    @pytest.mark.parametrize(
        "chunks",
        [
            [
                {
                    "choices": [
                        {
                            "index": 0,
                            "message": {"role": "assistant", "content": "Hello"},
                            "finish_reason": "stop",
                        }
                    ]
                }
            ],
            [{"choices": [{"message": {"content": "Hello"}, "delta": {"role": "assistant", "content": ""}}]}],
            [
                {"choices": [{"message": {"content": "Hel"}, "delta": {"content": "Hel"}}]},
                {"choices": [{"message": {"content": "Hello"}, "delta": {"content": "lo"}}]},
                {"choices": [{"message": {"content": "Hello"}}]},
            ],
            [
                {"choices": [{"message": {"content": "Hel"}}]},
                {"choices": [{"message": {"content": "Hello"}}]},
            ],
            [say(content="Hello"), {"choices": [{"message": {"content": "Something else"}}]}],
            [say(content=[{"type": "text", "text": "Hel"}, {"type": "text", "text": "lo"}])],
            [say(content=["Hel", {"type": "output_text", "text": "lo"}])],
            [{"choices": [{"text": "Hello"}]}],
            [{"choices": [{"index": 0, "text": "Hello", "delta": {"content": "Hello"}}]}],
            [
                {"choices": None},
                {"choices": [{"index": 0, "delta": None}]},
                say(content=None),
                say(content="Hello"),
            ],
            [
                {
                    "choices": [
                        {"index": 1, "delta": {"content": "x"}},
                        {"index": 0, "delta": {"content": "Hello"}},
                    ]
                }
            ],
            [{"choices": [{"delta": {"content": "Hello"}}, {"delta": {"content": "x"}}]}],
            [[say(content="Hello")]],
            ["data: " + json.dumps(say(content="Hello"))],
        ],
    )
    def test_shapes(self, chunks):
        """The text of the first choice counts once, in whichever shape it comes."""
        assert "Hello" == folded(*chunks).text

    @pytest.mark.parametrize(
        "pieces",
        [["\ud83d", "\ude42"], ["a\ud83d", "\ude42b"], ["\ud83d"], ["x\ude42"], ["é", "\ud83d", "x"]],
    )
    def test_halves(self, pieces):
        """Characters cut in two are joined, and what stays half becomes a replacement character."""
        whole = "".join(pieces).encode("utf-16", "surrogatepass").decode("utf-16", "replace")

        response = folded(
            *(say(content=p) for p in pieces),
            *(say(reasoning=p) for p in pieces),
            *(call(index=0, id="1", function=fn("f", p)) for p in pieces),
            STOP,
        )

        assert [whole] * 2 == [response.text, response.reasoning]
        response.tool_calls[0].arguments_raw.encode()

    @pytest.mark.parametrize(
        "noise",
        [
            "",
            " ",
            "null",
            "1",
            '"x"',
            "[]",
            "ping",
            ": keep-alive",
            Frame("x", "ping"),
            '{"type":"ping"}',
            "{}",
        ],
    )
    def test_noise(self, noise):
        """Heartbeats and empty values are nothing."""
        assert "Hello" == folded(say(content="Hel"), noise, say(content="lo"), STOP).text

    def test_after_done(self):
        """What follows [DONE] is not read."""
        assert "a" == folded(say(content="a"), " [DONE] ", say(content="b")).text

    def test_notices(self):
        """Refusals, sources, tools of the provider and other oddities are kept beside the text."""
        source = {"type": "url_citation", "url_citation": {"url": "https://x.test", "title": "X"}}
        response = folded(
            say(refusal="I "),
            say(refusal="won't."),
            say(annotations=[source]),
            say(annotations=[source]),
            say(executed_tools=[{"type": "search"}]),
            say(content={"title": "T"}),
            say(audio={"transcript": "Hi"}),
            {"citations": ["https://y.test"], **say("stop")},
            {"choices": [], "timings": {"prompt_ms": 1}},
        )

        assert "I won't." == response.refusal
        assert [
            Notice("citation", "https://x.test", source),
            Notice("server_tool", "search", {"type": "search"}),
            Notice("unknown", "", {"content": {"title": "T"}}),
            Notice("unknown", "Hi", {"audio": {"transcript": "Hi"}}),
            Notice("citation", "https://y.test"),
            Notice("timing", "", {"timings": {"prompt_ms": 1}}),
        ] == [n for n in response.notices if n.kind != "refusal"]


class TestReasoning:
    @pytest.mark.parametrize(
        "deltas",
        [
            [{"reasoning_content": "hm"}],
            [{"reasoning": "h"}, {"reasoning": "m", "content": ""}],
            [
                {
                    "reasoning_content": "hm",
                    "reasoning": "hm",
                    "reasoning_details": [{"type": "reasoning.text", "text": "hm"}],
                }
            ],
            [
                {
                    "content": [
                        {"type": "thinking", "thinking": [{"type": "text", "text": "hm"}], "closed": True}
                    ]
                }
            ],
            [{"content": [{"type": "thinking", "thinking": "hm"}]}],
        ],
    )
    def test_shapes(self, deltas):
        """Thinking comes under several names, and under two of them at once it counts once."""
        response = folded(*(say(**d) for d in deltas), say(content="Hi"), STOP)
        assert ("hm", "Hi") == (response.reasoning, response.text)

    def test_signatures(self):
        """Signatures and withheld blocks are kept with the thinking, ready to go back."""
        hidden = {"type": "reasoning.encrypted", "data": "D", "id": "r2"}
        assert [
            ReasoningDelta("hm"),
            ReasoningDelta(signature="S", id="r1"),
            ReasoningDelta(redacted=json.dumps(hidden), id="r2"),
            Finished("stop", None),
        ] == read(
            say(
                reasoning="hm",
                reasoning_details=[{"type": "reasoning.text", "signature": "S", "id": "r1"}, hidden],
            )
        )


class TestCalls:
    ONE = (("1", "f", {"x": 1}),)
    TWO = (("1", "f", {"x": 1}), ("2", "g", {"y": 2}))
    UNNAMED = (("call_0", "f", {"x": 1}), ("call_1", "g", {"y": 2}))
    F, G = fn("f", '{"x":1}'), fn("g", '{"y":2}')

    @pytest.mark.parametrize(
        ("calls", "chunks"),
        [
            pytest.param(ONE, [call(index=0, id="1", function=F)], id="whole"),
            pytest.param(
                ONE,
                [
                    call(index=0, id="1", function=fn("f", "")),
                    *(call(index=0, function=fn(None, c)) for c in '{"x":1}'),
                ],
                id="letters",
            ),
            pytest.param(
                ONE,
                [
                    call(index=0, id="1", function=fn("f", '{"x"')),
                    call(index=0, id="1", function=fn("f", ":1}")),
                ],
                id="repeated",
            ),
            pytest.param(
                ONE, [call(index=0, id="1", function=F), call(index=0, id="1", function=F)], id="said twice"
            ),
            pytest.param(
                (("1", "f", {"x": 1}), ("1", "g", {"y": 2})),
                [call(index=0, id="1", function=F), call(index=0, id="1", function=G)],
                id="one id for all",
            ),
            pytest.param(
                ONE,
                [call(index=0, id="1", function=fn("f", "{}")), call(index=0, function=fn(None, '{"x":1}'))],
                id="empty first",
            ),
            pytest.param(
                ONE,
                [call(index=0, id="1", function=fn("f")), call(index=0, id="", function=fn("", '{"x":1}'))],
                id="empty id",
            ),
            pytest.param(
                ONE,
                [call(index=0, function=fn("f", '{"x"')), call(index=0, id="1", function=fn(None, ":1}"))],
                id="late id",
            ),
            pytest.param(
                ONE,
                [
                    call(index=0, id="1", function=fn("f", '{"x"')),
                    call(index=0, id="9", function=fn(None, ":1}")),
                ],
                id="rotating id",
            ),
            pytest.param(
                ONE, [call(id="1", function=fn("f", '{"x"')), call(function=fn(None, ":1}"))], id="no index"
            ),
            pytest.param(
                ONE,
                [call(index=3, id="1", function=fn("f", '{"x"')), call(function=fn(None, ":1}"))],
                id="index once",
            ),
            pytest.param(
                ONE, [call(index=0, id=1, function={"name": "f", "arguments": {"x": 1}})], id="object"
            ),
            pytest.param(ONE, [call(index=0, id="1", name="f", arguments='{"x":1}')], id="flat"),
            pytest.param(ONE, [call(index=0, id="1", function=fn("f", '"{\\"x\\":1}"'))], id="double"),
            pytest.param(
                ONE,
                [call("tool_calls", index=0, id="1", function=F), call(index=0, function=fn(None, ""))],
                id="trailing",
            ),
            pytest.param(
                (("1", "get_it", {}),),
                [call(index=0, id="1", function=fn("get_")), call(index=0, function=fn("it"))],
                id="split name",
            ),
            pytest.param(
                (("1", "get_it", {}),),
                [call(index=0, id="1", function=fn("get_")), call(index=0, function=fn("get_it"))],
                id="grown name",
            ),
            pytest.param(
                (("call_0", "f", {"x": 1}),),
                [say(function_call=fn("f", "")), say("function_call", function_call=fn(None, '{"x":1}'))],
                id="legacy",
            ),
            pytest.param(
                TWO, [call(index=0, id="1", function=F), call(index=1, id="2", function=G)], id="two"
            ),
            pytest.param(
                TWO, [call(index=1, id="1", function=F), call(index=2, id="2", function=G)], id="from 1"
            ),
            pytest.param(
                TWO, [call(index=0, id="1", function=F), call(index=0, id="2", function=G)], id="always 0"
            ),
            pytest.param(
                TWO, [say(tool_calls=[{"id": "1", "function": F}, {"id": "2", "function": G}])], id="list"
            ),
            pytest.param(
                TWO,
                [
                    call(index=0, id="1", function=fn("f", "")),
                    call(index=1, id="2", function=fn("g", "")),
                    call(index=0, function=fn(None, '{"x":')),
                    call(index=1, function=fn(None, '{"y":')),
                    call(index=0, function=fn(None, "1}")),
                    call(index=1, function=fn(None, "2}")),
                ],
                id="interleaved",
            ),
            pytest.param(UNNAMED, [call(function=F), call(function=G)], id="nothing to tell them by"),
            pytest.param(
                UNNAMED,
                [say(tool_calls=[{"index": 0, "function": F}, {"index": 0, "function": G}])],
                id="always 0, no ids",
            ),
            pytest.param(
                (("1", "f", {"x": 1}), ("1", "g", {"y": 2})),
                [call(index=0, id="1", function=F), call(index=1, id="1", function=G)],
                id="same id",
            ),
            pytest.param(
                (("1", "f", None),), [call(index=0, id="1", function=fn("f", '{"x": Oslo}'))], id="invalid"
            ),
            pytest.param((("1", "f", {}),), [call(index=0, id="1", function=fn("f", "null"))], id="null"),
            pytest.param(
                (("1", "f", {}),),
                [call(index=0, id="1", function={"name": "f", "arguments": None})],
                id="none",
            ),
            pytest.param(
                (("1", "sql", None),),
                [call(index=0, id="1", type="custom", custom={"name": "sql", "input": "SELECT 1"})],
                id="custom",
            ),
            pytest.param(
                TWO,
                [
                    {
                        "choices": [
                            {
                                "message": {
                                    "tool_calls": [{"id": "1", "function": F}, {"id": "2", "function": G}]
                                },
                                "finish_reason": "tool_calls",
                            }
                        ]
                    }
                ],
                id="whole answer",
            ),
        ],
    )
    def test_fragments(self, calls, chunks):
        """Fragments find their call, however little the provider says about where they belong."""
        response = folded(*chunks, STOP)

        assert calls == tuple(
            (re.sub(r"^nbllm-", "call_", c.id), c.name, c.arguments) for c in response.tool_calls
        )
        assert "tool_calls" == response.finish_reason

    def test_events(self):
        """A call is told as it comes: id and name once, then its arguments piece by piece."""
        assert [
            ToolCallDelta(0, "1", "f", ""),
            ToolCallDelta(0, arguments="{"),
            ToolCallDelta(0, arguments="}", signature="S"),
            Finished("tool_calls", "tool_calls"),
        ] == read(
            call(index=4, id="1", function=fn("f", "")),
            call(index=4, id="1", function=fn("f", "{")),
            call(
                "tool_calls",
                index=4,
                function=fn(None, "}"),
                extra_content={"google": {"thought_signature": "S"}},
            ),
        )


class TestEnd:
    @pytest.mark.parametrize(
        ("reason", "raw"),
        [
            ("stop", "stop"),
            ("stop", "eos_token"),
            ("length", "length"),
            ("length", "MAX_TOKENS"),
            ("content_filter", "content_filter"),
            ("content_filter", "SAFETY"),
            ("stop", "tool_calls"),
            ("error", "error"),
            ("other", "repetition"),
            ("length", "model_context_window_exceeded"),
            ("content_filter", "content_filter: RECITATION"),
            ("error", "function_call_filter: MALFORMED_FUNCTION_CALL"),
            ("error", "timeout"),
            ("content_filter", "IMAGE_SAFETY"),
        ],
    )
    def test_reasons(self, reason, raw):
        """The provider's word is kept beside ours; an agent never waits for calls that did not come."""
        assert Finished(reason, raw) == read(say(content="a"), say(raw))[-1]

    @pytest.mark.parametrize(
        "chunks",
        [
            [say(content="a"), STOP],
            [say("", content="a"), STOP, STOP],
            [say("stop", content="a")],
            [say(content="a"), {"choices": [], "usage": {"prompt_tokens": 1, "completion_tokens": 1}}],
            [say(content="a"), "[DONE]"],
            [{"choices": [{"message": {"content": "a"}, "finish_reason": ""}]}],
            [say(content="a"), {"choices": [{"index": 0, "delta": {}, "finishReason": "stop"}]}],
            [{"choices": [{"index": 0, "delta": {"content": "a"}, "finishReason": "stop"}]}],
        ],
    )
    def test_whole(self, chunks):
        """Any one end sign will do."""
        response = folded(*chunks, end=None)
        assert ("a", "stop") == (response.text, response.finish_reason)

    @pytest.mark.parametrize("mark", ["[done]", "DONE", " [DONE] "])
    def test_marks(self, mark):
        """The end mark as careless servers write it."""
        assert "a" == folded(say(content="a"), mark, end=None).text

    @pytest.mark.parametrize(
        "chunks",
        [
            [say(content="a")],
            [say("", content="a")],
            [say(content="a"), Frame('{"choices": [{"in', tail=True)],
            [{"usage": {"prompt_tokens": 1, "completion_tokens": 1}, **say(content="a")}],
            [{"choices": [], "usage": {"prompt_tokens": 1, "completion_tokens": 0}}],
            [{"choices": [{"index": 1, "delta": {}, "finish_reason": "stop"}]}],
        ],
    )
    def test_cut(self, chunks):
        """Without an end sign the answer was cut."""
        with pytest.raises(errors.StreamCut):
            read(*chunks, end=None)

    @pytest.mark.parametrize(
        ("kind", "chunks"),
        [(errors.ServerError, []), (errors.ServerError, ["[DONE]"]), (errors.ProtocolError, ['{"a": 1}'])],
    )
    def test_nothing(self, kind, chunks):
        """No answer at all, or something that is none, is never an empty success."""
        with pytest.raises(kind):
            read(*chunks, end=None)

    @pytest.mark.parametrize(
        ("words", "chunk"),
        [
            ("boom", {"error": {"message": "boom", "type": "server_error"}}),
            ("boom", {"error": "boom"}),
            ("boom", [{"error": {"message": "boom"}}]),
            ("boom", {"error": {"message": "boom"}, **say("error", content="lo")}),
            ("boom", {"choices": [{"index": 0, "delta": {"content": "lo"}, "error": {"message": "boom"}}]}),
            ("boom", {"object": "error", "message": "boom", "code": 500}),
            ("boom", {"type": "error", "error": {"message": "boom"}}),
            ("boom", {"detail": "boom"}),
            ("boom", {"success": False, "errors": [{"message": "boom"}]}),
            ("boom", Frame('{"message": "boom"}', "error")),
            ("boom", Frame('"boom"', "error")),
            ("boom now", Frame("boom now", "error")),
        ],
    )
    def test_error(self, words, chunk):
        """An error inside a stream is raised in the provider's words, after what came before and beside
        it."""
        decoder, seen = DIALECT.decoder(PLAIN), []
        frame = chunk if isinstance(chunk, Frame) else Frame(json.dumps(chunk))
        seen += decoder.feed(Frame(json.dumps(say(content="Hel"))))

        with pytest.raises(errors.ProviderError, match=words):
            seen.extend(decoder.feed(frame))

        assert ["Hel", "lo"] == [e.text for e in seen] if "choices" in frame.data else len(seen) == 1

    def test_gibberish(self):
        """A broken chunk in mid-stream is not skipped: its text would be missing."""
        with pytest.raises(errors.ProtocolError):
            read(say(content="a"), '{"choices": [{"delta', STOP)

    def test_http_error(self):
        """An HTTP error is told in the provider's words."""
        error = DIALECT.error(401, {}, b'{"error": {"message": "bad key"}}', PLAIN)
        assert (401, True) == (error.status, "bad key" in str(error))


class TestUsage:
    @pytest.mark.parametrize(
        ("counts", "raw"),
        [
            ((5, 2, None, None, None), {"prompt_tokens": 5, "completion_tokens": 2}),
            (
                (5, 2, 1, 3, 4),
                {
                    "prompt_tokens": 5,
                    "completion_tokens": 2,
                    "completion_tokens_details": {"reasoning_tokens": 1},
                    "prompt_tokens_details": {"cached_tokens": 3, "cache_write_tokens": 4},
                },
            ),
            (
                (5, 2, None, 0, 4),
                {
                    "prompt_tokens": 5,
                    "completion_tokens": 2,
                    "prompt_tokens_details": {"cached_tokens": 0, "cache_creation_input_tokens": 4},
                },
            ),
            (
                (5, 9, 7, None, None),
                {
                    "prompt_tokens": 5,
                    "completion_tokens": 2,
                    "total_tokens": 14,
                    "completion_tokens_details": {"reasoning_tokens": 7},
                },
            ),
            (
                (5, 9, 7, None, None),
                {
                    "prompt_tokens": 5,
                    "completion_tokens": 9,
                    "total_tokens": 14,
                    "completion_tokens_details": {"reasoning_tokens": 7},
                },
            ),
            (
                (5, 2, None, 3, None),
                {
                    "prompt_tokens": 5,
                    "completion_tokens": 2,
                    "prompt_cache_hit_tokens": 3,
                    "prompt_cache_miss_tokens": 2,
                },
            ),
            (
                (5, 2, 0, 3, None),
                {
                    "prompt_tokens": 5,
                    "completion_tokens": 2,
                    "cached_tokens": 3,
                    "reasoning_tokens": 0,
                    "prompt_tokens_details": None,
                },
            ),
            ((5, None, None, None, None), {"prompt_tokens": 5, "completion_tokens": None}),
        ],
    )
    def test_counts(self, counts, raw):
        """Counts are read under every name they go by; what is not reported stays None."""
        assert Usage(*counts, raw=raw) == folded(say(content="a"), STOP, {"choices": [], "usage": raw}).usage

    @pytest.mark.parametrize(
        "chunks",
        [
            [
                {"usage": {"prompt_tokens": 5, "completion_tokens": 1}, **say(content="a")},
                {"usage": {"prompt_tokens": 5, "completion_tokens": 2}, **STOP},
            ],
            [
                say(content="a"),
                STOP,
                {"choices": [], "usage": {"prompt_tokens": 5, "completion_tokens": 2}},
                {"choices": [], "usage": None},
            ],
            [say(content="a"), {"x_groq": {"usage": {"prompt_tokens": 5, "completion_tokens": 2}}, **STOP}],
            [
                say(content="a"),
                {
                    "choices": [
                        {
                            "delta": {},
                            "finish_reason": "stop",
                            "usage": {"prompt_tokens": 5, "completion_tokens": 2},
                        }
                    ]
                },
            ],
        ],
    )
    def test_last_report(self, chunks):
        """The last report that counts anything is the one, wherever it stands."""
        usage = folded(*chunks).usage
        assert (5, 2) == (usage.input_tokens, usage.output_tokens)

    def test_none(self):
        """No report is no usage, not zeros."""
        assert folded(say(content="a"), STOP).usage is None


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)
KEYS = (
    "choices",
    "delta",
    "message",
    "content",
    "tool_calls",
    "function",
    "index",
    "id",
    "name",
    "arguments",
    "reasoning",
    "usage",
    "error",
    "finish_reason",
    "reasoning_details",
    "annotations",
    "type",
    "text",
    "thinking",
    "prompt_tokens",
    "function_call",
    "refusal",
    "x_groq",
)
SHAPED = st.recursive(
    JSON,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(KEYS), inner, max_size=5),
    max_leaves=20,
)


@given(
    st.lists(
        st.tuples(
            SHAPED
            | st.dictionaries(
                st.just("choices"),
                st.lists(st.dictionaries(st.sampled_from(KEYS), SHAPED, max_size=5), max_size=2),
            ),
            st.sampled_from(["", "error", "ping"]),
            st.booleans(),
        ),
        max_size=4,
    )
)
def test_any_json(frames):
    """Whatever JSON comes gives events or an error of ours, never another exception."""
    decoder, fold = DIALECT.decoder(PLAIN), Fold()
    try:
        for value, name, tail in frames:
            for event in decoder.feed(Frame(json.dumps(value), name, 0.0, tail)):
                fold.add(event)
        for event in decoder.close():
            fold.add(event)
    except errors.NbllmError:
        pass
    fold.response()


@given(st.text(max_size=40), st.booleans())
def test_any_text(text, tail):
    """The same holds for text that is no JSON."""
    decoder = DIALECT.decoder(PLAIN)
    try:
        list(decoder.feed(Frame(text, tail=tail)))
        list(decoder.close())
    except errors.NbllmError:
        pass


@given(st.text(max_size=30), st.lists(st.integers(0, 30)))
def test_any_cutting(text, cuts):
    """A text comes out as it went in, however it is cut into pieces."""
    edges = [0, *sorted(c for c in cuts if c <= len(text)), len(text)]
    pieces = [text[a:b] for a, b in itertools.pairwise(edges)]
    assert text == folded(*(say(content=p) for p in pieces), STOP).text
