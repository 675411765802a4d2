"""The Responses API: requests in, bodies out; frames in, events out."""

import json

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
from nbllm.dialects.openai_responses import DIALECT

PLAIN = ProviderSpec("acme", "openai_responses", "https://acme.test/v1/")
HELLO = (Message("user", "Hello"),)
CLOSED = {
    "type": "object",
    "properties": {"a": {"type": "string"}},
    "required": ["a"],
    "additionalProperties": False,
}
ENCRYPTED = {"include": ["reasoning.encrypted_content"]}


def body(request, **quirks):
    row = ProviderSpec("acme", "openai_responses", "https://acme.test/v1", quirks=Quirks(**quirks))
    return DIALECT.encode(request, row, None).body


def turns(*messages, **quirks):
    return body(Request("m", messages), **quirks)["input"]


def read(*values):
    """The events of a stream whose frames hold `values`."""
    decoder = DIALECT.decoder(PLAIN)
    events = []
    for value in values:
        frame = (
            value
            if isinstance(value, Frame)
            else Frame(value if isinstance(value, str) else json.dumps(value))
        )
        events += decoder.feed(frame)
    return [*events, *decoder.close()]


def folded(*values):
    fold = Fold()
    for event in read(*values):
        fold.add(event)
    return fold.response()


def on(type, **fields):
    return {"type": f"response.{type}", **fields}


def message(text, id="msg", **fields):
    return {"type": "message", "id": id, "content": [{"type": "output_text", "text": text, **fields}]}


def function(arguments, name="f", call_id="1", **fields):
    return {
        "type": "function_call",
        "id": f"fc_{call_id}",
        "call_id": call_id,
        "name": name,
        "arguments": arguments,
        **fields,
    }


def final(*output, status="completed", kind="completed", **fields):
    return on(
        kind,
        response={
            "id": "r1",
            "model": "m-1",
            "object": "response",
            "status": status,
            "output": list(output),
            **fields,
        },
    )


CREATED = on("created", response={"id": "r1", "model": "m-1", "status": "in_progress", "output": []})
DONE = final()


class TestEncode:
    def test_call(self):
        """A call goes to the path below the base address, with the key as a bearer token."""
        made = DIALECT.encode(Request("m", HELLO), PLAIN, Secret("sk-1"))

        assert "https://acme.test/v1/responses" == made.url
        assert {"Authorization": "Bearer sk-1"} == made.headers
        assert {
            "model": "m",
            "input": [{"type": "message", "role": "user", "content": "Hello"}],
            "stream": True,
        } == made.body

    @pytest.mark.parametrize(
        ("sent", "option"),
        [
            ({"max_output_tokens": 9}, {"max_tokens": 9}),
            ({"temperature": 0.0}, {"temperature": 0.0}),
            ({"top_p": 0.5}, {"top_p": 0.5}),
            ({"reasoning": {"effort": "none"}}, {"reasoning": "none"}),
            ({"reasoning": {"effort": "low"}, **ENCRYPTED}, {"reasoning": "low"}),
            ({"reasoning": {"effort": "medium"}, **ENCRYPTED}, {"reasoning": 10_000}),
            ({"tool_choice": "none"}, {"tool_choice": "none"}),
            ({"tool_choice": {"type": "function", "name": "f"}}, {"tool_choice": "f"}),
            (
                {
                    "text": {
                        "format": {"type": "json_schema", "name": "answer", "schema": CLOSED, "strict": True}
                    }
                },
                {"schema": CLOSED},
            ),
            (
                {
                    "tools": [
                        {
                            "type": "function",
                            "name": "f",
                            "description": "Does.",
                            "parameters": CLOSED,
                            "strict": False,
                        }
                    ]
                },
                {"tools": (Tool("f", "Does.", CLOSED),)},
            ),
            ({"store": False, "include": []}, {"extra": {"store": False, "include": []}}),
        ],
    )
    def test_option(self, sent, option):
        """Each option has its place in the body; `extra` has the last word."""
        assert {**body(Request("m", HELLO)), **sent} == body(Request("m", HELLO, **option))

    @pytest.mark.parametrize("option", [{"stop": ("a",)}, {"seed": 0}])
    def test_unsayable_option(self, option):
        """What the protocol has no word for is refused by name, with a way out."""
        with pytest.raises(errors.ConfigError, match=next(iter(option))) as caught:
            body(Request("m", HELLO, **option))
        assert "openai_chat" in caught.value.hint

    def test_turns(self):
        """System turns become the instructions, the others keep their order."""
        sent = body(
            Request(
                "m",
                (
                    Message("system", "Be brief."),
                    *HELLO,
                    Message("assistant", "Hi."),
                    Message("user", "Why?"),
                ),
            )
        )

        assert "Be brief." == sent["instructions"]
        assert [("user", "Hello"), ("assistant", "Hi."), ("user", "Why?")] == [
            (i["role"], i["content"]) for i in sent["input"]
        ]

    def test_media(self):
        """Pictures and documents stand between the words, bytes as data: URLs, addresses as they are."""
        parts = ("See", Image(b"\x89"), Image(url="u:1"), Document(b"%PDF"), Document(url="u:2"))
        assert [
            {"type": "input_text", "text": "See"},
            {"type": "input_image", "image_url": "data:image/png;base64,iQ=="},
            {"type": "input_image", "image_url": "u:1"},
            {
                "type": "input_file",
                "filename": "document.pdf",
                "file_data": "data:application/pdf;base64,JVBERg==",
            },
            {"type": "input_file", "file_url": "u:2"},
        ] == turns(Message("user", parts))[0]["content"]

    def test_assistant_media(self):
        """An assistant message holds words only."""
        with pytest.raises(errors.ConfigError):
            turns(Message("assistant", ("See", Image(b"x"))))

    def test_tool_round(self):
        """Thinking, words, parallel calls and their results go back as items, in order and to the letter."""
        conversation = (
            Message(
                "assistant",
                (
                    Reasoning("hm", "E", id="rs_1"),
                    Text("So:"),
                    ToolCall("1", "f", {"x": 1}, '{ "x":1}'),
                    ToolCall("2", "g", {}),
                ),
            ),
            Message("tool", (ToolResult("1", "one"), ToolResult("2", (Text("two"), Image(url="u:2"))))),
            Message("tool", ToolResult("3", "no", is_error=True)),
        )
        assert [
            {
                "type": "reasoning",
                "id": "rs_1",
                "summary": [{"type": "summary_text", "text": "hm"}],
                "encrypted_content": "E",
            },
            {"type": "message", "role": "assistant", "content": "So:"},
            {"type": "function_call", "call_id": "1", "name": "f", "arguments": '{ "x":1}'},
            {"type": "function_call", "call_id": "2", "name": "g", "arguments": "{}"},
            {"type": "function_call_output", "call_id": "1", "output": "one"},
            {
                "type": "function_call_output",
                "call_id": "2",
                "output": [
                    {"type": "input_text", "text": "two"},
                    {"type": "input_image", "image_url": "u:2"},
                ],
            },
            {"type": "function_call_output", "call_id": "3", "output": "Error: no"},
        ] == turns(*conversation)
        assert ENCRYPTED.items() <= body(Request("m", conversation)).items()

    @pytest.mark.parametrize(
        ("sent", "thought", "field"),
        [
            ([], Reasoning("hm"), ""),
            ([], Reasoning("hm", signature="from elsewhere"), ""),
            ([], Reasoning("hm", id="rs_1"), ""),
            (
                [{"type": "reasoning", "summary": [], "content": [{"type": "reasoning_text", "text": "hm"}]}],
                Reasoning("hm"),
                "reasoning",
            ),
        ],
    )
    def test_foreign_thought(self, sent, thought, field):
        """Thinking without both id and encrypted content stays here, unless the row wants the plain text."""
        assert [*sent, {"type": "message", "role": "assistant", "content": "Hi."}] == turns(
            Message("assistant", (thought, Text("Hi."))), reasoning_field=field
        )


class TestText:
    def test_stream(self):
        """Each piece is an event, and what the later events repeat is not told again."""
        counted = {"input_tokens": 3, "output_tokens": 2}
        assert [
            Started("r1", "m-1"),
            TextDelta("Hel"),
            TextDelta("lo"),
            UsageReport(Usage(3, 2, raw=counted)),
            Finished("stop", "completed"),
        ] == read(
            CREATED,
            on("output_item.added", output_index=0, item={"type": "message", "id": "msg", "content": []}),
            on("output_text.delta", output_index=0, content_index=0, item_id="msg", delta="Hel"),
            on("output_text.delta", output_index=0, content_index=0, item_id="msg", delta="lo"),
            on("output_text.done", output_index=0, content_index=0, item_id="msg", text="Hello"),
            on(
                "content_part.done",
                output_index=0,
                content_index=0,
                item_id="msg",
                part={"type": "output_text", "text": "Hello"},
            ),
            on("output_item.done", output_index=0, item=message("Hello")),
            final(message("Hello"), usage=counted),
        )

    @pytest.mark.parametrize(
        "values",
        [
            pytest.param([final(message("Hello"))["response"]], id="whole"),
            pytest.param([final(message("Hello"))], id="final only"),
            pytest.param(
                [on("output_item.done", output_index=0, item=message("Hello")), final(message("Hello"))],
                id="item only",
            ),
            pytest.param(
                [on("output_text.done", output_index=0, text="Hello"), final(message("Hello"))],
                id="text only",
            ),
            pytest.param(
                [on("output_text.delta", delta="Hello"), on("output_text.done", text="Hello"), DONE],
                id="no indexes",
            ),
            pytest.param(
                [
                    on("output_text.delta", output_index=0, content_index=1, delta="Hello"),
                    on("output_item.done", output_index=0, item=message("Hello")),
                    final(message("Hello")),
                ],
                id="part 1",
            ),
            pytest.param(
                [
                    on("output_text.delta", output_index=3, item_id="a", delta="Hel"),
                    on("output_text.delta", output_index=3, item_id="b", delta="lo"),
                    on("output_item.done", output_index=3, item=message("Hello", id="c")),
                    final(message("Hello", id="d")),
                ],
                id="rotating ids",
            ),
            pytest.param(
                [on("output_text.delta", output_index=0, delta="Hel"), final(message("Hello"))],
                id="deltas lost",
            ),
            pytest.param(
                [Frame('{"delta": "Hello", "output_index": 0}', "response.output_text.delta"), DONE],
                id="type in the event line",
            ),
            pytest.param(
                [
                    on("output_text.delta", output_index=0, delta="Hello"),
                    '{"type":"keepalive"}',
                    on("rate_limits.updated"),
                    "[DONE]",
                ],
                id="done",
            ),
            pytest.param([final({"type": "message", "content": "Hello"})["response"]], id="plain content"),
        ],
    )
    def test_shapes(self, values):
        """Whatever the server leaves out, the text is told once and whole."""
        assert "Hello" == folded(*values).text

    def test_two_messages(self):
        """Two messages are two paragraphs; the parts of one message are one text."""
        two_parts = {
            "type": "message",
            "id": "b",
            "content": [{"type": "output_text", "text": "b"}, {"type": "output_text", "text": "c"}],
        }
        search = {"type": "web_search_call", "id": "w", "status": "completed"}

        response = folded(final(message("a", id="a"), search, two_parts))

        assert "a\n\nbc" == response.text
        assert (Notice("server_tool", "web_search_call", search),) == response.notices

    def test_server_tool_once(self):
        """A tool that the provider ran is told when it is done, or at the end if that never comes."""
        search, tools = {"type": "web_search_call", "id": "w"}, {"type": "mcp_list_tools", "id": "l"}

        response = folded(
            on("output_item.added", output_index=0, item=search),
            on("output_item.added", output_index=1, item=tools),
            on("output_item.done", output_index=0, item=search),
            final(search),
        )

        assert ["web_search_call", "mcp_list_tools"] == [n.text for n in response.notices]

    def test_notices(self):
        """Sources count once; a refusal is kept apart from the text."""
        source = {"type": "url_citation", "url": "https://x.test", "title": "X"}
        refusal = {"type": "message", "content": [{"type": "refusal", "refusal": "I won't."}]}

        response = folded(
            on("output_text.delta", output_index=0, delta="a"),
            on("output_text.annotation.added", output_index=0, annotation=source),
            on("output_item.done", output_index=0, item=message("a", annotations=[source])),
            on("refusal.delta", output_index=1, delta="I "),
            on("output_item.done", output_index=1, item=refusal),
            DONE,
        )

        assert ("a", "I won't.") == (response.text, response.refusal)
        assert Notice("citation", "https://x.test", source) == response.notices[0]

    def test_halves(self):
        """Characters cut in two are joined, and what stays half becomes a replacement character."""
        deltas = [on("output_text.delta", output_index=0, delta=d) for d in ("a\ud83d", "\ude42b", "\ud83d")]

        assert "a🙂b\ufffd" == folded(*deltas, DONE).text
        assert (
            "a🙂" == folded(deltas[0], on("output_item.done", output_index=0, item=message("a🙂")), DONE).text
        )


class TestReasoning:
    def test_summary(self):
        """Summary parts are paragraphs of one block, which the encrypted content ends."""
        thought = {
            "type": "reasoning",
            "id": "rs_1",
            "encrypted_content": "E",
            "summary": [
                {"type": "summary_text", "text": "First."},
                {"type": "summary_text", "text": "Second."},
            ],
        }

        for values in (
            [final(thought)["response"]],
            [
                on(
                    "output_item.added",
                    output_index=0,
                    item={"type": "reasoning", "id": "rs_1", "summary": []},
                ),
                on("reasoning_summary_text.delta", output_index=0, summary_index=0, delta="First."),
                on("reasoning_summary_text.delta", output_index=0, summary_index=1, delta="Second."),
                on("output_item.done", output_index=0, item=thought),
                final(thought),
            ],
        ):
            assert (Reasoning("First.\n\nSecond.", "E", id="rs_1"),) == folded(*values).parts

    @pytest.mark.parametrize(
        "values",
        [
            [on("reasoning_text.delta", output_index=0, delta="hm"), DONE],
            [on("reasoning_text.done", output_index=0, text="hm"), DONE],
            [
                final(
                    {
                        "type": "reasoning",
                        "content": [{"type": "reasoning_text", "text": "hm"}],
                        "summary": [{"type": "summary_text", "text": "hm"}],
                    }
                )
            ],
        ],
    )
    def test_shapes(self, values):
        """Thinking under two names counts once."""
        assert "hm" == folded(*values).reasoning

    def test_events(self):
        """A block whose text is withheld is kept for its encrypted content."""
        thought = {"type": "reasoning", "id": "rs_1", "summary": [], "encrypted_content": "E"}
        assert [ReasoningDelta(signature="E", id="rs_1")] == read(
            CREATED, on("output_item.done", output_index=0, item=thought), DONE
        )[1:-1]


class TestCalls:
    ONE = (("1", "f", {"x": 1}),)
    TWO = (("1", "f", {"x": 1}), ("2", "g", {"y": 2}))
    F, G = function('{"x":1}'), function('{"y":2}', "g", "2")

    @staticmethod
    def added(*items, indexed=True):
        return [
            on(
                "output_item.added",
                item={**item, "arguments": ""},
                **({"output_index": n} if indexed else {}),
            )
            for n, item in enumerate(items)
        ]

    @pytest.mark.parametrize(
        ("calls", "values"),
        [
            pytest.param(ONE, [final(F)["response"]], id="whole"),
            pytest.param(
                ONE,
                [*added(F), on("function_call_arguments.delta", output_index=0, delta='{"x":1}'), DONE],
                id="deltas",
            ),
            pytest.param(
                ONE,
                [*added(F), on("function_call_arguments.done", output_index=0, arguments='{"x":1}'), DONE],
                id="done only",
            ),
            pytest.param(
                ONE, [*added(F), on("output_item.done", output_index=0, item=F), final(F)], id="item only"
            ),
            pytest.param(
                ONE, [on("output_item.added", output_index=0, item=F), DONE], id="all in the first event"
            ),
            pytest.param(
                ONE,
                [
                    on("function_call_arguments.delta", output_index=0, delta='{"x":1}'),
                    on("output_item.done", output_index=0, item=F),
                    DONE,
                ],
                id="late name",
            ),
            pytest.param(ONE, [final({**F, "arguments": {"x": 1}})], id="object"),
            pytest.param((("1", "f", {}),), [final({**F, "arguments": ""})], id="empty"),
            pytest.param(
                (("1", "f", None),), [final({**F, "arguments": '{"x":'}, status="completed")], id="invalid"
            ),
            pytest.param(
                TWO,
                [
                    *added(F, G),
                    on("function_call_arguments.delta", output_index=0, delta='{"x":'),
                    on("function_call_arguments.delta", output_index=1, delta='{"y":'),
                    on("function_call_arguments.delta", output_index=0, delta="1}"),
                    on("function_call_arguments.delta", output_index=1, delta="2}"),
                    DONE,
                ],
                id="interleaved",
            ),
            pytest.param(
                TWO,
                [
                    *added(F, G, indexed=False),
                    on("function_call_arguments.delta", item_id="fc_1", delta='{"x":1}'),
                    on("function_call_arguments.delta", item_id="fc_2", delta='{"y":2}'),
                    on("output_item.done", item=F),
                    on("output_item.done", item=G),
                    DONE,
                ],
                id="ids only",
            ),
            pytest.param(
                TWO,
                [
                    on("output_item.added", output_index=0, item={**F, "arguments": ""}),
                    on("output_item.done", output_index=0, item=F),
                    on("output_item.added", output_index=0, item={**G, "arguments": ""}),
                    on("output_item.done", output_index=0, item=G),
                    final(F, G),
                ],
                id="index always 0",
            ),
            pytest.param(
                TWO,
                [
                    on("output_item.done", output_index=1, item=F),
                    on("output_item.done", output_index=2, item=G),
                    final(F, G),
                ],
                id="index from 1",
            ),
            pytest.param(
                TWO,
                [on("output_item.done", output_index=0, item=F), final(F, G)],
                id="second in the end only",
            ),
            pytest.param(
                (("1", "sql", None),),
                [final({"type": "custom_tool_call", "call_id": "1", "name": "sql", "input": "SELECT 1"})],
                id="custom",
            ),
        ],
    )
    def test_fragments(self, calls, values):
        """Calls are told once and whole, whichever events name them."""
        response = folded(*values)

        assert calls == tuple((c.id, c.name, c.arguments) for c in response.tool_calls)
        assert "tool_calls" == response.finish_reason

    def test_events(self):
        """A call is told as it comes: id and name once, then its arguments piece by piece."""
        assert [ToolCallDelta(0, "1", "f"), ToolCallDelta(0, arguments='{"x":1}')] == read(
            CREATED,
            *TestCalls.added(self.F),
            on("function_call_arguments.delta", output_index=0, delta='{"x":1}'),
            on("function_call_arguments.done", output_index=0, arguments='{"x":1}'),
            final(self.F),
        )[1:-1]


class TestEnd:
    @pytest.mark.parametrize(
        ("finished", "value"),
        [
            (Finished("stop", "completed"), final(message("a"))),
            (
                Finished("length", "incomplete:max_output_tokens"),
                final(
                    status="incomplete", kind="incomplete", incomplete_details={"reason": "max_output_tokens"}
                ),
            ),
            (
                Finished("content_filter", "incomplete:content_filter"),
                final(
                    status="incomplete", kind="incomplete", incomplete_details={"reason": "content_filter"}
                ),
            ),
            (
                Finished("other", "incomplete"),
                final(status="incomplete", kind="incomplete", incomplete_details=None),
            ),
            (Finished("cancelled", "cancelled"), final(status="cancelled", kind="cancelled")),
            (Finished("other", "queued"), final(status="queued")["response"]),
        ],
    )
    def test_reasons(self, finished, value):
        """The status is the reason, and the details say why an answer is incomplete."""
        assert finished == read(value)[-1]

    @pytest.mark.parametrize(
        ("kind", "values"),
        [
            (errors.StreamCut, [CREATED, on("output_text.delta", output_index=0, delta="a")]),
            (errors.StreamCut, [CREATED, Frame('{"type": "response.comp', tail=True)]),
            (errors.StreamCut, [on("output_item.done", output_index=0, item=message("a"))]),
            (errors.ServerError, []),
            (errors.ServerError, ["[DONE]"]),
            (errors.ProtocolError, ['{"choices": []}']),
            (errors.ProtocolError, ["{"]),
        ],
    )
    def test_no_end(self, kind, values):
        """Without a final event the answer was cut; what is no answer is an error of its own kind."""
        with pytest.raises(kind):
            read(*values)

    @pytest.mark.parametrize(
        "value",
        [
            {"type": "error", "code": "server_error", "message": "boom", "param": None},
            {"type": "error", "error": {"message": "boom"}},
            {"error": {"message": "boom"}},
            {"error": "boom"},
            {"detail": "boom"},
            final(status="failed", kind="failed", error={"code": "x", "message": "boom"}),
            final(status="failed", error={"code": "x", "message": "boom"})["response"],
            Frame('{"message": "boom"}', "error"),
        ],
    )
    def test_error(self, value):
        """An error inside a stream is raised in the provider's words, after what came before it."""
        decoder, frame = (
            DIALECT.decoder(PLAIN),
            value if isinstance(value, Frame) else Frame(json.dumps(value)),
        )
        seen = list(decoder.feed(Frame(json.dumps(on("output_text.delta", output_index=0, delta="a")))))

        with pytest.raises(errors.ProviderError, match="boom"):
            list(decoder.feed(frame))

        assert [TextDelta("a")] == seen

    def test_failed_without_reason(self):
        """A failure that gives no reason is a failure still."""
        with pytest.raises(errors.ProviderError):
            read(final(status="failed", kind="failed", error=None))

    def test_http_error(self):
        """An HTTP error is told in the provider's words."""
        assert 429 == DIALECT.error(429, {}, b'{"error": {"message": "slow down"}}', PLAIN).status


@pytest.mark.parametrize(
    ("counts", "raw"),
    [
        ((5, 2, None, None, None), {"input_tokens": 5, "output_tokens": 2}),
        (
            (5, 2, 1, 3, 4),
            {
                "input_tokens": 5,
                "output_tokens": 2,
                "output_tokens_details": {"reasoning_tokens": 1},
                "input_tokens_details": {"cached_tokens": 3, "cache_write_tokens": 4},
            },
        ),
        ((5, 2, None, None, None), {"input_tokens": 5, "output_tokens": 2, "output_tokens_details": None}),
    ],
)
def test_usage(counts, raw):
    """What is not reported stays None."""
    assert Usage(*counts, raw=raw) == folded(final(message("a"), usage=raw)).usage


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)
KEYS = (
    "type",
    "response",
    "output",
    "item",
    "part",
    "content",
    "text",
    "delta",
    "arguments",
    "output_index",
    "item_id",
    "content_index",
    "id",
    "call_id",
    "name",
    "summary",
    "encrypted_content",
    "annotations",
    "annotation",
    "status",
    "error",
    "usage",
    "input_tokens",
    "object",
)
KINDS = (
    "message",
    "reasoning",
    "function_call",
    "output_text",
    "summary_text",
    "response",
    "error",
    "response.completed",
    "response.failed",
    "response.output_item.added",
    "response.output_item.done",
    "response.output_text.delta",
    "response.output_text.done",
    "response.function_call_arguments.delta",
    "response.function_call_arguments.done",
    "response.content_part.done",
    "response.output_text.annotation.added",
    "response.reasoning_summary_text.delta",
)
SHAPED = st.recursive(
    JSON | st.sampled_from(KINDS),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(KEYS), inner, max_size=5),
    max_leaves=20,
)
EVENTS = st.builds(
    lambda kind, rest: {**rest, "type": kind},
    st.sampled_from(KINDS),
    st.dictionaries(st.sampled_from(KEYS), SHAPED, max_size=5),
)


@given(
    st.lists(
        st.tuples(SHAPED | EVENTS, st.sampled_from(["", "error", "response.completed"]), st.booleans()),
        max_size=6,
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
