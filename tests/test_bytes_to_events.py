"""From bytes to events: any splitting gives the same events; arbitrary bytes give events or one of our
errors."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nbllm.core.calls import ProviderSpec
from nbllm.core.errors import NbllmError
from nbllm.core.events import fold
from nbllm.routing.dialects import DIALECTS

from .examples import examples
from .test_frames import batches

TEXT = "Grüße, 世界 🌍"


def sse(*values, named=False):
    return "".join(
        (f"event: {v['type']}\n" if named else "") + f"data: {json.dumps(v, ensure_ascii=False)}\n\n"
        for v in values
    ).encode()


def pieces():
    return [TEXT[i : i + 3] for i in range(0, len(TEXT), 3)]


BODIES = {
    "openai_chat": sse(
        *({"choices": [{"index": 0, "delta": {"content": t}}]} for t in pieces()),
        {
            "choices": [
                {
                    "index": 0,
                    "delta": {
                        "tool_calls": [
                            {"index": 0, "id": "c", "function": {"name": "f", "arguments": '{"x":1}'}}
                        ]
                    },
                    "finish_reason": "tool_calls",
                }
            ]
        },
        {"choices": [], "usage": {"prompt_tokens": 3, "completion_tokens": 4}},
    )
    + b"data: [DONE]\n\n",
    "openai_responses": sse(
        {"type": "response.created", "response": {"id": "r", "model": "m"}},
        *(
            {"type": "response.output_text.delta", "output_index": 0, "content_index": 0, "delta": t}
            for t in pieces()
        ),
        {
            "type": "response.completed",
            "response": {"status": "completed", "usage": {"input_tokens": 3, "output_tokens": 4}},
        },
        named=True,
    ),
    "anthropic": sse(
        {
            "type": "message_start",
            "message": {"id": "a", "model": "m", "usage": {"input_tokens": 3, "output_tokens": 1}},
        },
        {"type": "content_block_start", "index": 0, "content_block": {"type": "text", "text": ""}},
        *(
            {"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": t}}
            for t in pieces()
        ),
        {"type": "content_block_stop", "index": 0},
        {"type": "message_delta", "delta": {"stop_reason": "end_turn"}, "usage": {"output_tokens": 4}},
        {"type": "message_stop"},
        named=True,
    ),
    "gemini": sse(
        *({"candidates": [{"content": {"parts": [{"text": t}]}}]} for t in pieces()),
        {
            "candidates": [{"content": {"parts": []}, "finishReason": "STOP"}],
            "usageMetadata": {"promptTokenCount": 3, "candidatesTokenCount": 4},
        },
    ),
    "ollama": "".join(
        json.dumps({"message": {"content": t}, "done": False}, ensure_ascii=False) + "\n" for t in pieces()
    ).encode()
    + json.dumps(
        {
            "message": {"content": ""},
            "done": True,
            "done_reason": "stop",
            "prompt_eval_count": 3,
            "eval_count": 4,
        }
    ).encode()
    + b"\n",
}


def events(dialect, body, cuts):
    """The events of `body`, cut into pieces of the given sizes in turn; raises what reading it raises."""
    decoder, found = DIALECTS[dialect].decoder(ProviderSpec("p", dialect, "http://h")), []
    for batch in batches(body, cuts):
        for frame in batch:
            found += decoder.feed(frame)
    return found + list(decoder.close())


@pytest.mark.parametrize("dialect", BODIES)
def test_the_samples_are_read(dialect):
    """Text, usage and end of each format."""
    response = fold(events(dialect, BODIES[dialect], [4096]))
    assert (TEXT, 3, 4) == (response.text, response.usage.input_tokens, response.usage.output_tokens)


@pytest.mark.parametrize("dialect", BODIES)
@given(cuts=st.lists(st.integers(1, 60), min_size=1, max_size=5))
@examples(40)
def test_any_cutting_gives_the_same_events(dialect, cuts):
    """The network's packets mean nothing."""
    assert events(dialect, BODIES[dialect], [4096]) == events(dialect, BODIES[dialect], cuts)


@pytest.mark.parametrize("dialect", BODIES)
@given(data=st.data())
@examples(80)
def test_damaged_bytes_give_events_or_one_of_our_errors(dialect, data):
    """Cut, spliced, overwritten: never a foreign exception, and a text that is cut is a prefix."""
    body = bytearray(BODIES[dialect])
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, len(body)))
        to = data.draw(st.integers(at, min(len(body), at + 40)))
        body[at:to] = data.draw(st.binary(max_size=20))
    try:
        found = events(dialect, bytes(body), [data.draw(st.integers(1, 50))])
    except NbllmError:
        return
    fold(found).text.encode()


@pytest.mark.parametrize("dialect", BODIES)
@given(body=st.binary(max_size=300), cut=st.integers(1, 40))
@examples(80)
def test_any_bytes_at_all(dialect, body, cut):
    """Noise gives events or one of our errors."""
    try:
        events(dialect, body, [cut])
    except NbllmError:
        return


@pytest.mark.parametrize("dialect", BODIES)
def test_a_cut_anywhere_is_an_error_or_whole(dialect):
    """Every prefix of a stream is either told as cut or has all the text."""
    body = BODIES[dialect]
    for end in range(len(body)):
        try:
            response = fold(events(dialect, body[:end], [4096]))
        except NbllmError:
            continue
        assert TEXT == response.text, (end, body[:end][-80:])
