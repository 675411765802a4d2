"""Parsing untrusted text takes time proportional to its length: every parser of the wire formats with growing
hostile inputs."""

import json
import re
from dataclasses import replace

import pytest

from nbllm.core import errors
from nbllm.core import schema as structured
from nbllm.core.calls import Frame
from nbllm.core.events import fold, parse_arguments
from nbllm.dialects import _errors as common
from nbllm.dialects import _limits
from nbllm.http.frames import FrameReader
from nbllm.routing.dialects import DIALECTS
from nbllm.routing.registry import load

from .growth import growth, limit

pytestmark = pytest.mark.slow

HTTP = ("openai_chat", "openai_responses", "anthropic", "gemini", "ollama", "cohere")
ROW = replace(load({}).rows["openai"], name="x", label="X")
TOKENS = (
    "input token count ",
    "too many ",
    "model ",
    "not found ",
    "<",
    "<script",
    "<script>",
    "</script ",
    "<style ",
    "<a ",
    ">",
    "&#9",
    "&",
    "{",
    "[",
    "}",
    "]",
    '{"a":',
    '[{"a":',
    '{"error":',
    '{"detail":',
    '{"detail":[',
    '{"errors":[{"message":',
    '"',
    "\\",
    "\\u",
    "'",
    "data:",
    "data: {\n",
    "event:",
    ":",
    "\n",
    "\r",
    "\r\n",
    " ",
    "\t",
    "1",
    "1h",
    "1.",
    "-",
    "e",
    "```\n",
    "```json\n",
    "```",
    "\ud83d",
    "\u0301",
    "\x00",
    "a",
    ",",
)


def bodied(token):
    """Makers of a token repeated: alone, in the message of an error, and closed again where it opens
    something."""
    yield lambda n: token * (n // len(token) + 1)
    yield lambda n: json.dumps({"error": {"message": token * (n // len(token) + 1)}})
    if "{" in token or "[" in token:
        yield lambda n: token * (n // len(token) + 1) + '"x"' + "}" * (n // len(token) + 1)


def frames_of(cut):
    def parse(text):
        data = text.encode("utf-8", "replace")
        cutter = FrameReader()
        for at in range(0, len(data), cut):
            cutter.feed(data[at : at + cut])
        cutter.close()

    return parse


def answer_of(dialect):
    """Feeds the chunks of an answer and folds it, as a client does."""

    def parse(chunks):
        decoder, events = DIALECTS[dialect].decoder(ROW), []
        try:
            for chunk in chunks:
                events += decoder.feed(Frame(chunk))
            events += decoder.close()
        finally:
            fold(events)

    return parse


TEXTS = {
    "an error's page": lambda text: common.http_error(
        400, {}, text.encode("utf-8", "replace"), ROW
    ).scrub_secrets(["secret"]),
    "an error in a stream": lambda text: common.provider_error(ROW, text),
    "a page": common.page_text,
    "frames": frames_of(2**16),
    "frames in small pieces": frames_of(300),
    "a wait": lambda text: _limits.parse_retry_after(
        {"retry-after": text, "date": text, "retry-after-ms": text}, {}, 0.0
    ),
    "a reset": lambda text: _limits.parse_limits(
        {
            f"x-ratelimit-reset-{text}": text,
            "x-ratelimit-reset-requests": text,
            "x-ratelimit-remaining-requests": "0",
            "date": text,
        },
        0.0,
    ),
    "why it was refused": lambda text: _limits.parse_refusal(
        {"x-ratelimit-type": text}, {}, text, 0.0, quirks=ROW.quirks, wait=None
    ),
    "a structured answer": structured.Shape({"type": "object"}).check,
    "arguments": parse_arguments,
    "a chunk": lambda text: answer_of("openai_chat")([text]),
}


@pytest.mark.parametrize("parse", TEXTS.values(), ids=TEXTS)
def test_no_text_costs_more_than_its_length(parse):
    """Every token, repeated, as a body, in the message of an error, and closed again."""
    for token in TOKENS:
        for make in bodied(token):
            growth(parse, make, 2000)


def test_the_bodies_that_hung_a_kernel():
    """Small, and as they were found; each ends at once."""
    for body in (
        '{"error":' + '{"detail":' * 40 + '{"message":"x"}' + "}" * 41,
        '{"detail":[' * 60 + '"x"' + "]}" * 60,
        '[{"errors":[' * 40 + "{}" + "]}]" * 40,
        '{"error":' * 400 + "1" + "}" * 400,
    ):
        with limit(20):
            assert isinstance(common.http_error(400, {}, body.encode(), ROW), errors.BadRequest)
    assert "x" in str(common.http_error(400, {}, b'{"error": {"detail": {"message": "x"}}}', ROW))


DELTA = {"choices": [{"index": 0, "delta": {"content": "x"}}]}
USAGE = {"input_tokens": 1, "output_tokens": 1}


def call(**about):
    return {"choices": [{"index": 0, "delta": {"tool_calls": [about]}}]}


# By dialect, hostile streams: a name, and the chunk number i of n.
STREAMS = [
    (
        "openai_chat",
        "deltas, then whole messages",
        lambda i, n: DELTA if i < n / 2 else {"choices": [{"index": 0, "message": {"content": "x"}}]},
    ),
    (
        "openai_chat",
        "a new id for every fragment",
        lambda i, n: call(index=0, id=f"i{i}", function={"arguments": '{"a":1}'}),
    ),
    (
        "openai_chat",
        "fragments that may be the end",
        lambda i, n: call(index=0, id=f"i{i}", function={"arguments": '{"a":"}' if i == 0 else "}"}),
    ),
    (
        "openai_chat",
        "fragments that open and close",
        lambda i, n: call(index=0, id=f"i{i}", function={"arguments": '{"a":{}' if i == 0 else ',"b":{}'}),
    ),
    (
        "openai_chat",
        "a call that is told again",
        lambda i, n: call(
            index=0, id="i", function={"name": "f", "arguments": '{"a":1}' if i else '{"a": 1}'}
        ),
    ),
    (
        "openai_chat",
        "a name in pieces",
        lambda i, n: call(index=0, function={"name": "ab" if i % 2 else "ba"}),
    ),
    (
        "openai_chat",
        "a call each",
        lambda i, n: call(index=i, id=f"i{i}", function={"name": "f", "arguments": "{}"}),
    ),
    (
        "openai_chat",
        "a call each, under one index",
        lambda i, n: call(index=0, id=f"i{i}", function={"name": "f", "arguments": "{}"}),
    ),
    (
        "openai_chat",
        "thoughts with signatures",
        lambda i, n: {
            "choices": [{"index": 0, "delta": {"reasoning_details": [{"signature": "s", "id": f"{i}"}]}}]
        },
    ),
    ("openai_chat", "citations", lambda i, n: {**DELTA, "citations": [f"http://a/{i}"]}),
    (
        "openai_chat",
        "halves of characters",
        lambda i, n: {"choices": [{"index": 0, "delta": {"content": "\ud83d"}}]},
    ),
    ("openai_chat", "another id each", lambda i, n: {**DELTA, "id": f"{i}"}),
    (
        "anthropic",
        "blocks that never stop",
        lambda i, n: {
            "type": "content_block_start",
            "index": i,
            "content_block": {"type": "text", "text": "x"},
        },
    ),
    (
        "anthropic",
        "deltas without a block",
        lambda i, n: {"type": "content_block_delta", "delta": {"type": "text_delta", "text": "x"}},
    ),
    (
        "anthropic",
        "arguments in pieces",
        lambda i, n: (
            {"type": "content_block_delta", "delta": {"type": "input_json_delta", "partial_json": "x"}}
            if i
            else {
                "type": "content_block_start",
                "index": 0,
                "content_block": {"type": "tool_use", "id": "a", "name": "f"},
            }
        ),
    ),
    (
        "anthropic",
        "counts of other names",
        lambda i, n: {"type": "message_delta", "delta": {}, "usage": {f"tokens_{i}": 1}},
    ),
    (
        "anthropic",
        "starts",
        lambda i, n: {"type": "message_start", "message": {"id": f"{i}", "usage": USAGE}},
    ),
    (
        "gemini",
        "a string that goes on",
        lambda i, n: {
            "candidates": [
                {
                    "content": {
                        "parts": [
                            {
                                "functionCall": {
                                    **({} if i else {"name": "f"}),
                                    "partialArgs": [
                                        {"jsonPath": "$.a", "stringValue": "x", "willContinue": True}
                                    ],
                                    "willContinue": True,
                                }
                            }
                        ]
                    }
                }
            ]
        },
    ),
    (
        "gemini",
        "far places",
        lambda i, n: {
            "candidates": [
                {
                    "content": {
                        "parts": [
                            {
                                "functionCall": {
                                    **({} if i else {"name": "f"}),
                                    "partialArgs": [{"jsonPath": f"$.a{i}[99999]", "numberValue": 1}],
                                    "willContinue": True,
                                }
                            }
                        ]
                    }
                }
            ]
        },
    ),
    (
        "gemini",
        "a deep place",
        lambda i, n: (
            {
                "candidates": [
                    {
                        "content": {
                            "parts": [
                                {
                                    "functionCall": {
                                        **({} if i else {"name": "f"}),
                                        "partialArgs": [{"jsonPath": "$" + ".a" * i, "numberValue": 1}],
                                        "willContinue": True,
                                    }
                                }
                            ]
                        }
                    }
                ]
            }
            if i % (n // 4) == 0
            else {}
        ),
    ),
    (
        "gemini",
        "calls with ids",
        lambda i, n: {
            "candidates": [
                {"content": {"parts": [{"functionCall": {"name": "f", "id": f"{i}", "args": {"a": i}}}]}}
            ]
        },
    ),
    (
        "gemini",
        "sources",
        lambda i, n: {
            "candidates": [{"groundingMetadata": {"groundingChunks": [{"web": {"uri": f"http://a/{i}"}}]}}]
        },
    ),
    (
        "ollama",
        "calls",
        lambda i, n: {"message": {"tool_calls": [{"function": {"name": "f", "arguments": {"a": i}}}]}},
    ),
    (
        "cohere",
        "calls under one index",
        lambda i, n: {
            "type": "tool-call-start",
            "index": 0,
            "delta": {"message": {"tool_calls": {"id": f"{i}"}}},
        },
    ),
    (
        "cohere",
        "calls, each told twice",
        lambda i, n: {
            "type": "tool-call-start",
            "index": i % (n // 2 + 1),
            "delta": {"message": {"tool_calls": {"id": f"{i}"}}},
        },
    ),
    (
        "cohere",
        "a name with every fragment",
        lambda i, n: {
            "type": "tool-call-delta",
            "index": 0,
            "delta": {"message": {"tool_calls": {"function": {"name": "name", "arguments": "x"}}}},
        },
    ),
    ("cohere", "a plan", lambda i, n: {"type": "tool-plan-delta", "delta": {"message": {"tool_plan": "x"}}}),
    (
        "openai_responses",
        "items",
        lambda i, n: {
            "type": "response.output_item.added",
            "output_index": i,
            "item": {"id": f"{i}", "type": "message"},
        },
    ),
    (
        "openai_responses",
        "items without an index",
        lambda i, n: {"type": "response.output_item.added", "item": {"id": f"{i}", "type": "message"}},
    ),
    (
        "openai_responses",
        "deltas of unknown items",
        lambda i, n: {
            "type": "response.output_text.delta",
            "item_id": f"{i}",
            "output_index": i,
            "delta": "x",
        },
    ),
    (
        "openai_responses",
        "parts",
        lambda i, n: {
            "type": "response.output_text.delta",
            "output_index": 0,
            "content_index": i,
            "delta": "x",
        },
    ),
    (
        "openai_responses",
        "deltas, then ends",
        lambda i, n: {
            "type": "response.output_text.delta" if i < n / 2 else "response.output_text.done",
            "output_index": 0,
            "content_index": 0,
            "delta": "x",
            "text": "x",
        },
    ),
    (
        "openai_responses",
        "deltas, then whole items",
        lambda i, n: (
            {"type": "response.output_text.delta", "output_index": 0, "delta": "x"}
            if i < n / 2
            else {
                "type": "response.output_item.done",
                "output_index": 0,
                "item": {"type": "message", "content": [{"type": "output_text", "text": "x"}]},
            }
        ),
    ),
    (
        "openai_responses",
        "items of other kinds, then all",
        lambda i, n: (
            {"type": "response.output_item.done", "output_index": i, "item": {"type": f"k{i % 7}"}}
            if i < n - 1
            else {
                "type": "response.completed",
                "response": {"output": [{"type": f"k{j % 5}"} for j in range(n)]},
            }
        ),
    ),
]


@pytest.mark.parametrize(
    ("dialect", "chunk"), [(d, c) for d, _, c in STREAMS], ids=[f"{d}: {name}" for d, name, _ in STREAMS]
)
def test_no_stream_costs_more_than_its_length(dialect, chunk):
    """However many chunks of a kind come: each is read once."""
    growth(answer_of(dialect), lambda n: [json.dumps(chunk(i, n)) for i in range(n)], 200)


@pytest.mark.parametrize("dialect", HTTP)
def test_a_decoder_stands_everything_that_is_repeated(dialect):
    """The same tokens where a dialect looks for its objects; nothing but our own errors comes out."""
    for token in (
        '{"type":',
        '{"message":',
        '{"delta":',
        '{"choices":[',
        '{"content":[',
        '{"error":',
        '{"response":',
        '{"usage":',
        '{"candidates":[',
    ):
        growth(
            lambda text: answer_of(dialect)([text]), lambda n, token=token: token * n + '"x"' + "}" * n, 100
        )
        growth(
            lambda text: answer_of(dialect)([text]),
            lambda n, token=token: token + "[" * n + "]" * n + "}" * token.count("{"),
            100,
        )


def test_growth_tells_linear_from_quadratic_and_endless():
    """The measure itself."""
    growth(lambda text: re.sub("a", "b", text), lambda n: "a" * n, 1000)
    for pattern, text in ((r"(?s)a.*b", "a"), (r"(a|a)*b", "a")):
        with pytest.raises(AssertionError, match=r"times as long|not ended"):
            growth(
                lambda given, pattern=pattern: re.findall(pattern, given),
                lambda n, text=text: text * n,
                20,
                patience=1,
            )
