"""The fast paths for usual input and the complete paths for any input give the same results."""

import contextlib
import copy
import json

import httpx
import pytest
from httpx_sse import EventSource
from hypothesis import given
from hypothesis import strategies as st

from nbllm.core.calls import Frame, ProviderSpec
from nbllm.core.errors import NbllmError
from nbllm.core.events import to_event
from nbllm.routing.dialects import DIALECTS

from .examples import examples
from .test_bytes_to_events import BODIES
from .test_frames import batches, frames
from .test_synthetic_streams import CASES, NAMES, SPEAKS, body


def by_httpx_sse(body):
    """The events that httpx-sse reads out of the whole body, ended by a blank line."""
    response = httpx.Response(200, headers={"content-type": "text/event-stream"}, content=body + b"\n\n")
    response.encoding = "utf-8"
    return [(e.event, e.data) for e in EventSource(response).iter_sse() if e.data]


LINES = st.sampled_from(
    [
        'data: {"a": 1}',
        'data:{"b": "\u00e9\u2028\U0001f600"}',
        "data:  two spaces",
        "data",
        "data:",
        "event: message_start",
        "event:x",
        "event:",
        "event",
        "id: 7",
        "retry: 10",
        ": a comment",
        ":",
        "",
        "",
        "",
    ]
)


@given(
    st.lists(LINES, min_size=1, max_size=14),
    st.lists(st.sampled_from(["\n", "\n", "\r\n", "\r"]), min_size=1, max_size=4),
    st.lists(st.integers(1, 40), min_size=1, max_size=4),
)
def test_an_event_stream_reads_as_httpx_sse_reads_it(lines, ends, cuts):
    """Whatever its lines, line ends and cuts are. httpx-sse is asked for the whole body at once. What is no
    line of an event stream, and is read all the same, has its own tests (test_frames)."""
    text = "data: first\n\n" + "".join(line + ends[i % len(ends)] for i, line in enumerate(lines))
    body = text.encode()
    assert by_httpx_sse(body) == [(f.name, f.data) for f in frames(body, cuts)]


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_events_of_one_read_come_together(end):
    """And none of them waits for the next read."""
    body = "".join(f"event: e{end}data: {i}{end}{end}" for i in range(3)).encode()
    found = [[f.data for f in batch] for batch in batches(body * 2, [len(body)])]
    assert [["0", "1", "2"]] * 2 == found[:2]


# --- decoders -----------------------------------------------------------------------------------------------


def told(dialect, batches, *, short):
    """(the events of frames, what reading them raised, how many went the short way), by the long way alone or
    as an attempt reads them."""
    decoder = DIALECTS[dialect].decoder(ProviderSpec("p", dialect, "http://h"))
    usual = getattr(decoder, "read_fast", None) if short else None
    events, went = [], 0
    try:
        for batch in batches:
            place = 0
            while place < len(batch) and not decoder.done:
                found = usual(batch, place) if usual else []
                events += map(to_event, found) if found else decoder.feed(batch[place])
                place += len(found) or 1
                went += len(found)
        events += decoder.close()
    except NbllmError as error:
        return events, (type(error), str(error)), went
    return events, None, went


def assert_same(dialect, batches):
    """Both ways give the same events and end alike; gives how many frames went the short one."""
    *long, _ = told(dialect, batches, short=False)
    *short, went = told(dialect, batches, short=True)
    assert long == short
    return went


def until_refused(data, cuts):
    """The batches of a body, to the first error."""
    found = []
    with contextlib.suppress(NbllmError):
        for batch in batches(data, cuts):
            found.append(batch)
    return found


@pytest.mark.parametrize("case", [n for n in NAMES if CASES[n]["protocol"] in SPEAKS])
def test_a_synthetic_stream_reads_alike(case):
    """Whole and in pieces."""
    about = CASES[case]
    for cut in (2**16, 50):
        assert_same(SPEAKS[about["protocol"]][1], until_refused(body(about), [cut]))


SAYS = ["Hello", " w\u00f6rld \U0001f30d", "", " ", "a" * 1100]
CHUNKS = {
    "openai_chat": [
        {
            "id": "c",
            "object": "chat.completion.chunk",
            "model": "m",
            "choices": [{"index": 0, "delta": {"content": "x"}, "finish_reason": None, "logprobs": None}],
        },
        {"id": "c", "model": "m", "choices": [{"index": 0, "delta": {"reasoning_content": "x"}}]},
        {"id": "c", "model": "m", "choices": [{"delta": {"reasoning": "x", "content": ""}}], "usage": None},
    ],
    "anthropic": [
        {
            "type": "content_block_delta",
            "index": 0,
            "delta": {"type": "text_delta", "text": "x"},
        },
        {
            "type": "content_block_delta",
            "index": 1,
            "delta": {"type": "thinking_delta", "thinking": "x"},
        },
    ],
    "openai_responses": [
        {
            "type": "response.output_text.delta",
            "item_id": "i",
            "output_index": 0,
            "content_index": 0,
            "delta": "x",
            "logprobs": [],
        },
        {
            "type": "response.output_text.delta",
            "item_id": "i",
            "output_index": 1,
            "content_index": 0,
            "delta": "y",
        },
        {"type": "response.reasoning_text.delta", "item_id": "t", "output_index": 2, "delta": "x"},
    ],
    "ollama": [
        {"model": "m", "created_at": "t", "message": {"role": "assistant", "content": "x"}, "done": False},
        {"model": "m", "message": {"role": "assistant", "content": "", "thinking": "x"}, "done": False},
    ],
}
# Every name that the long way looks at, wherever it may stand.
NAMED = [
    "id",
    "model",
    "object",
    "type",
    "choices",
    "usage",
    "x_groq",
    "citations",
    "search_results",
    "timings",
    "time_info",
    "error",
    "base_resp",
    "success",
    "message",
    "detail",
    "errors",
    "msg",
    "error_msg",
    "error_message",
    "errorMessage",
    "delta",
    "index",
    "finish_reason",
    "text",
    "content",
    "reasoning_content",
    "reasoning",
    "reasoning_text",
    "thinking",
    "reasoning_details",
    "thinking_blocks",
    "refusal",
    "annotations",
    "executed_tools",
    "audio",
    "images",
    "image",
    "function_call",
    "extra_content",
    "tool_calls",
    "reasoning_opaque",
    "signature",
    "citation",
    "item_id",
    "call_id",
    "output_index",
    "content_index",
    "summary_index",
    "done",
    "done_reason",
    "response",
    "role",
    "stop_reason",
    "name",
    "unheard_of",
]
ODD = [
    *(
        None,
        "",
        "x",
        0,
        1,
        1.5,
        -1,
        True,
        False,
        [],
        {},
        ["x"],
        [{}],
        "error",
        "stop",
        "text_delta",
        {"x": 1},
    ),
    *({"message": "no"}, {"status_code": 7}, {"type": "text", "text": "t"}, [{"type": "text", "text": "t"}]),
    *([{"index": 0, "function": {"name": "f", "arguments": "{}"}}], {"content": "y"}, {"prompt_tokens": 1}),
    *({"thought_signature": "s"}, {"google": {"thought_signature": "s"}}, "\ud83d", "chat.completion.chunk"),
]


def places(value):
    """The objects in a value, itself first."""
    if isinstance(value, dict):
        yield value
    for inner in value.values() if isinstance(value, dict) else value if isinstance(value, list) else ():
        yield from places(inner)


@pytest.mark.slow
@pytest.mark.parametrize("dialect", CHUNKS)
def test_a_field_that_means_something_is_never_passed_over(dialect):
    """Each name, at each place, with each odd value: both ways give the same of the chunk and of what comes
    after it."""
    usual = Frame(json.dumps(CHUNKS[dialect][0]))
    for base in CHUNKS[dialect]:
        for n in range(len(list(places(base)))):
            value = copy.deepcopy(base)
            where = list(places(value))[n]
            for name in {*NAMED, *where}:
                before = dict(where)
                for odd in ODD:
                    where[name] = odd
                    assert_same(dialect, [[usual, Frame(json.dumps(value)), usual]])
                where.clear()
                where.update(before)


@st.composite
def chunk(draw, dialect):
    """A usual chunk, or one in which up to three things are otherwise."""
    value = copy.deepcopy(draw(st.sampled_from(CHUNKS[dialect])))
    for _ in range(draw(st.sampled_from([0, 0, 0, 1, 1, 2, 3]))):
        where = draw(st.sampled_from(list(places(value))))
        name = draw(st.sampled_from(NAMED) | st.sampled_from(sorted(where) or ["x"]))
        where[name] = copy.deepcopy(draw(st.sampled_from(ODD) | st.sampled_from(SAYS)))
        if draw(st.sampled_from([False, False, True])):
            del where[name]
    return value


@pytest.mark.parametrize("dialect", CHUNKS)
@examples(40)
@given(data=st.data())
def test_whatever_a_chunk_holds_it_reads_alike(dialect, data):
    """Fields that mean something are never passed over: neither in the chunk itself nor after it."""
    values = [CHUNKS[dialect][0], *data.draw(st.lists(chunk(dialect), max_size=8))]
    names = st.sampled_from(["", "", "message", "error", "ping"])
    frames = [
        Frame(
            json.dumps(v, ensure_ascii=data.draw(st.sampled_from([True, "\\ud" in json.dumps(v)]))),
            data.draw(names) if dialect != "ollama" else "",
        )
        for v in values
    ]
    assert_same(dialect, [frames[:3], frames[3:]] if len(frames) > 3 else [frames])


@pytest.mark.parametrize("dialect", CHUNKS)
def test_usual_chunks_go_the_short_way(dialect):
    """Else nothing would be won. The first of an answer, and of a place in it, tell more than text."""
    frames = [Frame(json.dumps(CHUNKS[dialect][0])) for _ in range(50)]
    assert len(frames) - 2 <= assert_same(dialect, [frames])


@pytest.mark.parametrize("dialect", CHUNKS)
def test_a_provider_with_habits_of_its_own_is_not_tried_for_ever(dialect):
    """Chunks that never fit are read the long way alone, after some."""
    odd = {**CHUNKS[dialect][0], "done": None, "usage": {"x": 1}, "error": "", "id": None, "done_reason": ""}
    frames = [Frame(json.dumps(CHUNKS[dialect][0])), *(Frame(json.dumps(odd)) for _ in range(50))]
    assert assert_same(dialect, [frames]) <= 50


@pytest.mark.parametrize("dialect", BODIES)
def test_the_samples_read_alike(dialect):
    """One of each dialect, at several cuttings."""
    for cut in (2**16, 100, 7):
        assert_same(dialect, until_refused(BODIES[dialect], [cut]))
