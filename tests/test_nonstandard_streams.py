"""Non-standard streams of servers are decoded without loss: unusual fields of an event stream, events without
names, objects of unknown types, other formats, and answers that start again."""

import contextlib
import json

import pytest

import nbllm
from nbllm.core import errors
from nbllm.core.calls import Endpoint, Frame
from nbllm.core.events import Notice, Restarted, fold
from nbllm.routing.dialects import DIALECTS

from .decoding import read
from .test_frames import frames
from .test_transport import head, server
from .test_wire_faults import SAID

ROW = Endpoint("x", "openai_chat", "http://127.0.0.1/v1", label="X")


def sse(*values):
    return b"".join(b"data: " + json.dumps(value).encode() + b"\n\n" for value in values)


def answered(body, dialect="openai_chat", *, again=b"", kind=b"text/event-stream"):
    """What a call comes to whose answer has this body, over a socket; and how often it was asked."""
    answer = head(b"content-type: " + kind, b"content-length: %d" % len(body)) + body
    with server(*[[None, answer, "close"]] * 3) as (url, count):
        base = url if dialect.startswith("openai") else url.removesuffix("/v1")
        stream = nbllm.stream("hi", "m", base_url=base, dialect=dialect, retries=2, timeout=60)
        with contextlib.suppress(errors.NbllmError):
            stream.response()
    return stream.error, stream.partial(), len(count)


# A line of the stream beside those that an event stream has, and what of it must be told.
ODD_FIELDS = {
    b'error: {"code":400,"message":"it exceeds the available context size"}': errors.ContextLengthExceeded,
    b'error:{"message":"out of memory"}': errors.ProviderError,
    b"error: out of memory": errors.ProviderError,
    b'exception: {"detail": "CUDA out of memory"}': errors.ProviderError,
    b'Error: {"error": {"message": "quota", "code": "insufficient_quota"}}': errors.QuotaExceeded,
    b"fatal_error:   worker died": errors.ProviderError,
    b'result: {"error": {"message": "tenant is suspended"}}': errors.ProviderError,
    b'message: {"detail": "tenant is suspended"}': errors.ProviderError,
    b'retries: {"error": "gave up"}': errors.ProviderError,
}


@pytest.mark.parametrize("line", ODD_FIELDS)
@pytest.mark.parametrize("before", [b"", sse(SAID["openai_chat"][0])], ids=["alone", "after text"])
@pytest.mark.parametrize("end", [b"\n\n", b"\r\n\r\n", b"\n\ndata: [DONE]\n\n", b""])
def test_a_field_that_no_event_stream_has_is_an_event(line, before, end):
    """With the server's own words, asked once, and with what came before it kept."""
    error, partial, asked = answered(before + line + end)
    assert isinstance(error, ODD_FIELDS[line])
    assert json.loads(line.partition(b":")[2]) if b"{" in line else line.split()[-1].decode() in str(error)
    assert ("Hello" if before else "", 1) == (partial.text, asked)


@pytest.mark.parametrize("size", [1, 2, 3, 7, 4096])
def test_an_odd_field_is_known_however_it_is_cut(size):
    """And words inside data that look like one are none."""
    body = b'data: {"t": "x\\nerror: y"}\n\nerror: {"a": 1}\n\ndata: error: 5\n\n'
    body += b'warning: {"b": 2}\r\n\r\nnote: c\n\n'
    found = [(f.name, f.data) for f in frames(body, [size])]
    assert [
        ("message", '{"t": "x\\nerror: y"}'),
        ("error", '{"a": 1}'),
        ("message", "error: 5"),
        ("warning", '{"b": 2}'),
    ] == found


# What stands where an answer should, in no shape that a format has.
SHAPELESS = [
    {"errorCode": "AUTH_17", "reason": "tenant is suspended"},
    {"reason": "tenant is suspended"},
    {"status": "tenant is suspended"},
    {"ok": False, "info": {"why": "tenant is suspended"}},
    {"result": None, "fault": "tenant is suspended"},
    {"type": "surprise", "why": "tenant is suspended"},
    [{"why": "tenant is suspended"}],
]


@pytest.mark.parametrize("dialect", SAID)
@pytest.mark.parametrize("value", SHAPELESS, ids=map(str, SHAPELESS))
@pytest.mark.parametrize(
    "form", [b"%s", b"data: %s\n\n", b"data: %s", b"event: note\ndata: %s\n\ndata: [DONE]\n\n"]
)
def test_an_object_of_no_known_shape_is_shown(dialect, value, form):
    """As one JSON text, and as an event with and without its end; it is no empty answer that stopped well."""
    error, _, asked = answered(form % json.dumps(value).encode(), dialect)
    assert isinstance(error, (errors.ProtocolError, errors.ProviderError))
    assert "tenant is suspended" in str(error)
    assert 1 == asked


@pytest.mark.parametrize("spoken", SAID)
@pytest.mark.parametrize("asked", SAID)
@pytest.mark.parametrize("form", [b"data: %s\n\n", b"%s\n"], ids=["SSE", "lines"])
def test_another_format_is_named(spoken, asked, form):
    """With the dialect to ask in; a server that answers in the format that it was asked in is understood."""
    body = b"".join(form % json.dumps(value).encode() for value in SAID[spoken])
    error, answer, _ = answered(body, asked)
    if spoken == asked:
        assert (None, "Hello") == (error, answer.text)
    else:
        assert isinstance(error, errors.ProtocolError)
        assert f"dialect={spoken}" in str(error)


LINES = {
    "no blank lines": "data: %s\n",
    "carriage returns": "data: %s\r\n",
    "without a blank": "data:%s\n",
    "with names": "event: message\ndata: %s\n",
}


@pytest.mark.parametrize("form", LINES.values(), ids=LINES)
@pytest.mark.parametrize("dialect", [d for d in SAID if d != "ollama"])
@pytest.mark.parametrize("cut", [False, True], ids=["whole", "cut"])
def test_events_that_no_blank_line_parts_are_read_line_by_line(form, dialect, cut):
    """One newline between events, as some servers send them; a last line that is cut is no line."""
    body = "".join(form % json.dumps(value) for value in SAID[dialect]) + (form % "[DONE]") * (not cut)
    error, answer, _ = answered((body + 'data: {"cho' * cut).encode(), dialect)
    assert (None, "Hello", "stop") == (error, answer.text, answer.finish_reason)


# Calls of tools without anything in them, as some servers end an answer.
ONE = {"index": 0, "id": "a", "function": {"name": "f", "arguments": '{"x":1}'}}
EMPTY = [
    {"index": 1, "id": "b", "function": {"name": "", "arguments": ""}},
    {"index": 1, "id": "b", "function": {"name": "", "arguments": "{}"}},
    {"index": 1, "function": {"name": None, "arguments": "{}"}},
    {"index": 1, "id": "b", "type": "function", "function": {}},
    {"index": 1, "id": "b"},
    {},
]


@pytest.mark.parametrize("empty", EMPTY, ids=map(str, EMPTY))
def test_a_call_of_nothing_is_none(empty):
    """Neither beside another, nor alone: then nobody must wait for calls."""
    end = {"choices": [{"index": 0, "delta": {}, "finish_reason": "tool_calls"}]}

    def said(*calls):
        return [{"choices": [{"index": 0, "delta": {"tool_calls": [call]}}]} for call in calls]

    both = fold(read(DIALECTS["openai_chat"], ROW, *said(ONE, empty), end))
    assert [("a", "f", {"x": 1})] == [(c.id, c.name, c.arguments) for c in both.tool_calls]
    alone = fold(
        read(
            DIALECTS["openai_chat"],
            ROW,
            {"choices": [{"index": 0, "delta": {"content": "Hi"}}]},
            *said(empty),
            end,
        )
    )
    assert ("Hi", (), "stop") == (alone.text, alone.tool_calls, alone.finish_reason)


def test_a_name_that_comes_after_its_id_makes_a_call():
    """In three pieces: id, name, arguments."""
    pieces = [
        {"index": 0, "id": "a"},
        {"index": 0, "function": {"name": "f"}},
        {"index": 0, "function": {"arguments": "{}"}},
    ]
    chunks = [{"choices": [{"index": 0, "delta": {"tool_calls": [piece]}}]} for piece in pieces]
    found = fold(read(DIALECTS["openai_chat"], ROW, *chunks, "[DONE]"))
    assert [("a", "f", {})] == [(c.id, c.name, c.arguments) for c in found.tool_calls]


@pytest.mark.parametrize("index", [1, 7, "0", -1])
@pytest.mark.parametrize("dialect", ["openai_chat", "gemini"])
def test_the_only_choice_is_the_answer_whatever_its_number(index, dialect):
    """As relays number them that ask several servers."""
    name, piece, end = (
        ("choices", {"delta": {"content": "Hello"}}, {"delta": {}, "finish_reason": "stop"})
        if dialect == "openai_chat"
        else ("candidates", {"content": {"parts": [{"text": "Hello"}]}}, {"finishReason": "STOP"})
    )
    chunks = [{name: [{"index": index, **piece}]}, {name: [{"index": index, **end}]}]
    found = fold(read(DIALECTS[dialect], ROW, *chunks))
    assert ("Hello", "stop") == (found.text, found.finish_reason)


@pytest.mark.parametrize("dialect", ["openai_chat", "gemini"])
def test_of_several_choices_the_first_is_the_answer(dialect):
    """Whose pieces may come in one list, or each in its own."""
    name, said = (
        ("choices", lambda t: {"delta": {"content": t}})
        if dialect == "openai_chat"
        else ("candidates", lambda t: {"content": {"parts": [{"text": t}]}})
    )
    end = {"finish_reason": "stop", "finishReason": "STOP"}
    chunks = [
        {name: [{"index": 1, **said("no")}, {"index": 0, **said("Hel")}]},
        {name: [{"index": 1, **said("no")}]},
        {name: [{"index": 0, **said("lo")}]},
        {name: [{"index": 0, **end}]},
    ]
    assert "Hello" == fold(read(DIALECTS[dialect], ROW, *chunks)).text


def message(*pieces, id="m1", end=True):
    """The events of one Anthropic message."""
    begun = {"type": "message_start", "message": {"id": id, "model": "c", "usage": {"input_tokens": 3}}}
    block = {"type": "content_block_start", "index": 0, "content_block": {"type": "text", "text": ""}}
    said = [
        {"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": p}}
        for p in pieces
    ]
    over = {"type": "message_delta", "delta": {"stop_reason": "end_turn"}, "usage": {"output_tokens": 5}}
    return [begun, block, *said, *[over, {"type": "message_stop"}] * end]


@pytest.mark.parametrize("id", ["m1", "m2"])
@pytest.mark.parametrize("before", [[], ["Half an ans"], ["a", "b", "\ud83d"]], ids=len)
def test_a_message_that_begins_again_voids_what_came(id, before):
    """A relay that asked another server in mid-answer; calls and counts of the first are void as well."""
    call = {
        "type": "content_block_start",
        "index": 1,
        "content_block": {"type": "tool_use", "id": "t", "name": "f"},
    }
    events = read(DIALECTS["anthropic"], ROW, *message(*before, end=False), call, *message("Hello", id=id))
    found = fold(events)
    assert ("Hello", (), "stop", id) == (found.text, found.tool_calls, found.finish_reason, found.id)
    assert (3, 5) == (found.usage.input_tokens, found.usage.output_tokens)
    assert 1 == sum(isinstance(event, Restarted) for event in events)


@pytest.mark.parametrize("call", [{"function": {"name": "", "arguments": {}}}, {"function": {}}, {"id": "x"}])
def test_ollamas_calls_of_nothing_are_told_apart(call):
    """They are noted, and not run."""
    found = fold(
        read(DIALECTS["ollama"], ROW, {"message": {"content": "Hi", "tool_calls": [call]}, "done": True})
    )
    assert ("Hi", (), "stop") == (found.text, found.tool_calls, found.finish_reason)
    assert [Notice("unknown", "a call without a name", call)] == list(found.notices)


@pytest.mark.slow
def test_a_frame_of_lines_costs_its_size():
    """A million lines without a blank line between them are read one by one."""
    lines = "\n".join(['{"choices": [{"index": 0, "delta": {"content": "x"}}]}'] * 20_000)
    decoder = DIALECTS["openai_chat"].decoder(ROW)
    assert 20_000 == len([e for e in decoder.feed(Frame(lines)) if str(e) == "x"])
