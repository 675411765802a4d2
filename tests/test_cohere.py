"""Cohere's chat, both directions: what is sent, and what its events mean."""

import pytest

from nbllm import Document, Image, Message, Reasoning, Request, Text, Tool, ToolCall, ToolResult
from nbllm.core import errors
from nbllm.core.calls import ProviderSpec, Secret
from nbllm.core.events import Notice, fold
from nbllm.routing.dialects import DIALECTS

from .decoding import read

COHERE = DIALECTS["cohere"]
ROW = ProviderSpec("cohere", "cohere", "https://api.cohere.com")
HELLO = (Message("user", "Hello"),)
TOOL = Tool("look", "Looks.", {"type": "object", "properties": {"at": {"type": "string"}}})


def body(*messages, **options):
    return COHERE.encode(Request("m", messages or HELLO, **options), ROW, None).body


def event(kind, index=None, **message):
    return {"type": kind, **({} if index is None else {"index": index}), "delta": {"message": message}}


def end(reason="COMPLETE", **more):
    return {"type": "message-end", "delta": {"finish_reason": reason, **more}}


def answer(*chunks):
    return fold(read(COHERE, ROW, *chunks))


@pytest.mark.parametrize(
    "base", ["https://api.cohere.com", "https://api.cohere.com/v2", "https://api.cohere.com/v2/"]
)
def test_a_plain_request(base):
    """Nothing is sent that was not asked for; the key goes in one header."""
    call = COHERE.encode(Request("m", HELLO), ProviderSpec("cohere", "cohere", base), Secret("k"))
    assert "https://api.cohere.com/v2/chat" == call.url
    assert {"Authorization": "Bearer k"} == call.headers
    assert {"model": "m", "messages": [{"role": "user", "content": "Hello"}], "stream": True} == call.body


@pytest.mark.parametrize(
    ("options", "sent"),
    [
        ({"top_p": 0.5, "stop": ("a",), "seed": 0}, {"p": 0.5, "stop_sequences": ["a"], "seed": 0}),
        ({"max_tokens": 5, "temperature": 0.0}, {"max_tokens": 5, "temperature": 0.0}),
        ({"reasoning": "none"}, {"thinking": {"type": "disabled"}}),
        ({"reasoning": "low"}, {"thinking": {"type": "enabled", "token_budget": 1024}}),
        ({"reasoning": 99}, {"thinking": {"type": "enabled", "token_budget": 99}}),
        (
            {"schema": {"type": "object"}},
            {"response_format": {"type": "json_object", "json_schema": {"type": "object"}}},
        ),
        ({"tools": (TOOL,), "tool_choice": "required"}, {"tool_choice": "REQUIRED"}),
        ({"tools": (TOOL,), "tool_choice": "none"}, {"tool_choice": "NONE"}),
        ({"tools": (Tool("a", strict=True),)}, {"strict_tools": True}),
        ({"extra": {"p": 1, "documents": ["d"]}}, {"p": 1, "documents": ["d"]}),
    ],
)
def test_options_under_cohere_s_names(options, sent):
    """What is asked for, and what goes out."""
    assert sent.items() <= body(**options).items()


def test_a_whole_conversation():
    """System, picture, text document, thinking, a call with its words, a failed result."""
    turns = body(
        Message("system", "Be brief."),
        Message(
            "user", [Text("See "), Image(b"x"), Document(b"words", media_type="text/plain", name="n.txt")]
        ),
        Message(
            "assistant",
            [
                Reasoning("hm"),
                Reasoning("foreign", signature="s"),
                Text("I look."),
                ToolCall("c1", "look", {"at": "é"}),
            ],
        ),
        Message("tool", [ToolResult("c1", "nothing", is_error=True)]),
    )["messages"]
    assert {"role": "system", "content": "Be brief."} == turns[0]
    assert [
        {"type": "text", "text": "See "},
        {"type": "image_url", "image_url": {"url": "data:image/png;base64,eA=="}},
        {"type": "text", "text": "\n\nn.txt:\nwords\n\n"},
    ] == turns[1]["content"]
    assert {
        "role": "assistant",
        "content": [{"type": "thinking", "thinking": "hm"}, {"type": "text", "text": "I look."}],
        "tool_calls": [
            {"id": "c1", "type": "function", "function": {"name": "look", "arguments": '{"at": "é"}'}}
        ],
    } == turns[2]
    assert {"role": "tool", "tool_call_id": "c1", "content": "Error: nothing"} == turns[3]


@pytest.mark.parametrize(
    ("messages", "options", "words"),
    [
        (HELLO, {"tools": (TOOL,), "schema": {"type": "object"}}, "schema or tools"),
        (HELLO, {"tools": (TOOL,), "tool_choice": "look"}, "forced to call a certain tool"),
        ((Message("user", [Document(b"%PDF")]),), {}, "no documents but text"),
        ((Message("assistant", [Image(b"x")]),), {}, "no Image in a assistant"),
        ((Message("user", [ToolCall("c", "look", {})]),), {}, "no ToolCall"),
        ((Message("tool", [ToolResult("c", (Image(b"x"),))]),), {}, "no pictures"),
        (HELLO, {"reasoning": "huge"}, "not a known effort"),
    ],
)
def test_what_cohere_cannot_say_is_an_error_here(messages, options, words):
    """ConfigError, before anything is sent."""
    with pytest.raises(errors.ConfigError, match=words):
        body(*messages, **options)


def test_a_stream_with_thinking_text_citations_and_counts():
    """Each kind of event, folded."""
    r = answer(
        {"type": "message-start", "id": "a1", "delta": {"message": {"role": "assistant"}}},
        event("content-start", 0, content={"type": "thinking", "thinking": ""}),
        event("content-delta", 0, content={"thinking": "hm"}),
        event("content-end", 0),
        event("content-delta", 1, content={"text": "Ru"}),
        event("content-delta", 1, content={"text": "by"}),
        event(
            "citation-start",
            0,
            citations={"text": "Ruby", "sources": [{"type": "document", "document": {"title": "facts.txt"}}]},
        ),
        end(
            usage={
                "billed_units": {"input_tokens": 1},
                "tokens": {"input_tokens": 5, "output_tokens": 7},
                "cached_tokens": 2,
            }
        ),
        "[DONE]",
    )
    assert ("a1", "Ruby", "hm", "stop", "COMPLETE") == (
        r.id,
        r.text,
        r.reasoning,
        r.finish_reason,
        r.finish_raw,
    )
    assert (5, 7, 2, None) == (
        r.usage.input_tokens,
        r.usage.output_tokens,
        r.usage.cache_read_tokens,
        r.usage.reasoning_tokens,
    )
    assert ["facts.txt"] == [n.text for n in r.notices if n.kind == "citation"]


def test_calls_in_pieces_and_the_plan_before_them():
    """Two calls; an index that is said twice with new ids is two calls as well; the plan is a notice."""
    calls = [
        event("tool-call-start", 0, tool_calls={"id": i, "function": {"name": n, "arguments": ""}})
        for i, n in (("a", "f"), ("b", "g"))
    ]
    more = event("tool-call-delta", 0, tool_calls={"function": {"arguments": '{"x":1}'}})
    events = read(
        COHERE,
        ROW,
        event("tool-plan-delta", tool_plan="I "),
        event("tool-plan-delta", tool_plan="look."),
        calls[0],
        more,
        event("tool-call-end", 0),
        calls[1],
        more,
        end("TOOL_CALL"),
    )
    r = fold(events)
    assert [("a", "f", {"x": 1}), ("b", "g", {"x": 1})] == [(c.id, c.name, c.arguments) for c in r.tool_calls]
    assert "tool_calls" == r.finish_reason
    assert [Notice("tool_plan", "I look.")] == [e for e in events if isinstance(e, Notice)]


def test_a_whole_answer_in_one_object():
    """Not streamed: the message, its calls, its plan, its counts."""
    r = answer(
        {
            "id": "a1",
            "message": {
                "role": "assistant",
                "tool_plan": "p",
                "content": [{"type": "text", "text": "hi"}],
                "tool_calls": [{"id": "c", "function": {"name": "f", "arguments": "{}"}}],
            },
            "finish_reason": "MAX_TOKENS",
            "usage": {"tokens": {"input_tokens": 1, "output_tokens": 2}},
        }
    )
    assert ("hi", "length", 1) == (r.text, r.finish_reason, len(r.tool_calls))
    assert 2 == r.usage.output_tokens


@pytest.mark.parametrize(
    ("raw", "reason"),
    [
        ("COMPLETE", "stop"),
        ("STOP_SEQUENCE", "stop"),
        ("MAX_TOKENS", "length"),
        ("TIMEOUT", "error"),
        ("ERROR_TOXIC", "content_filter"),
        ("NEW", "other"),
    ],
)
def test_reasons(raw, reason):
    """Cohere's words and ours."""
    assert reason == answer(event("content-delta", 0, content={"text": "x"}), end(raw)).finish_reason


@pytest.mark.parametrize(
    ("chunks", "error"),
    [
        ([event("content-delta", 0, content={"text": "x"})], errors.StreamCut),
        (
            [event("content-delta", 0, content={"text": "x"}), end("ERROR", error="internal")],
            errors.ProviderError,
        ),
        ([{"id": "x", "message": "invalid api key"}], errors.AuthenticationError),
        ([], errors.ServerError),
        ([{"type": "surprise", "x": 1}], errors.ProtocolError),
    ],
)
def test_answers_that_are_none(chunks, error):
    """Cut, failed, refused, empty, foreign."""
    with pytest.raises(error):
        read(COHERE, ROW, *chunks)


def test_a_character_in_two_halves():
    """Surrogates over two deltas are one character; a lone one is a replacement."""
    halves = [event("content-delta", 0, content={"text": t}) for t in ("\\ud83d", "\\ude42", "\\ud83d")]
    import json

    r = answer(*(json.dumps(h).replace("\\\\", "\\") for h in halves), end())
    assert "🙂\ufffd" == r.text
