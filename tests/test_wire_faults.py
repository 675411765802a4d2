"""Whatever goes wrong on the wire ends in a clear error of ours, with the partial answer kept, and the next
call is answered."""

import json
import re
import ssl
import threading
import zlib
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, suppress

import pytest
import trustme

import nbllm
from nbllm import Client
from nbllm.core import errors
from nbllm.core.calls import HttpCall
from nbllm.core.events import Finished, TextDelta
from nbllm.routing import registry

from .test_transport import chunk, head, server

# By dialect, the event that brings "Hello", and those that end the answer.
SAID = {
    "openai_chat": (
        {"choices": [{"index": 0, "delta": {"content": "Hello"}}]},
        {"choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]},
    ),
    "openai_responses": (
        {"type": "response.output_text.delta", "output_index": 0, "content_index": 0, "delta": "Hello"},
        {"type": "response.completed", "response": {"status": "completed", "output": []}},
    ),
    "anthropic": (
        {"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": "Hello"}},
        {"type": "message_delta", "delta": {"stop_reason": "end_turn"}},
        {"type": "message_stop"},
    ),
    "gemini": (
        {"candidates": [{"content": {"parts": [{"text": "Hello"}]}}]},
        {"candidates": [{"finishReason": "STOP"}]},
    ),
    "ollama": (
        {"message": {"content": "Hello"}, "done": False},
        {"message": {}, "done": True, "done_reason": "stop"},
    ),
    "cohere": (
        {"type": "content-delta", "delta": {"message": {"content": {"text": "Hello"}}}},
        {"type": "message-end", "delta": {"finish_reason": "COMPLETE"}},
    ),
}
CHUNKED = head(b"content-type: text/event-stream", b"transfer-encoding: chunked")
NEVER = threading.Event()


def events(dialect):
    """The bytes of each event."""
    form = b"%s\n" if dialect == "ollama" else b"data: %s\n\n"
    return [form % json.dumps(value).encode() for value in SAID[dialect]]


# What the server does once it has read the request (H is the event that says Hello), and whether Hello has
# come by then.
FAULTS = {
    "closes at once": (["close"], False),
    "resets at once": (["reset"], False),
    "says nothing": ([NEVER], False),
    "garbage for a status": ([b"\x00\xff\x16\x03 garbage\r\n\r\n"], False),
    "another protocol": ([b"220 smtp.example ESMTP\r\n"], False),
    "text without a head": ([b"just text, no headers", "close"], False),
    "half a status line": ([b"HTTP/1.1 20", "close"], False),
    "half a status line, then nothing": ([b"HTTP/1.1 20", NEVER], False),
    "a status of letters": ([b"HTTP/1.1 abc OK\r\n\r\n"], False),
    "half a header": ([b"HTTP/1.1 200 OK\r\ncontent-ty", "close"], False),
    "half a header, then a reset": ([b"HTTP/1.1 200 OK\r\ncontent-ty", "reset"], False),
    "half a header, then nothing": ([b"HTTP/1.1 200 OK\r\ncontent-ty", NEVER], False),
    "garbage in a header": ([b"HTTP/1.1 200 OK\r\n\x00\x01: \xff\r\n\r\n"], False),
    "a length of letters": ([head(b"content-length: abc")], False),
    "no body": ([CHUNKED, "close"], False),
    "a body that does not begin": ([CHUNKED, NEVER], False),
    "garbage for a chunk's size": ([CHUNKED, b"zz\r\n"], False),
    "an empty body": ([CHUNKED, b"0\r\n\r\n"], False),
    "a page": ([CHUNKED, chunk(b"<html><body>log in</body></html>"), b"0\r\n\r\n"], False),
    "garbage for a body": ([CHUNKED, chunk(b"\x00\xff\xfe\x00" * 20), b"0\r\n\r\n"], False),
    "closes after an event": ([CHUNKED, "H", "close"], True),
    "resets after an event": ([CHUNKED, "H", "reset"], True),
    "stalls after an event": ([CHUNKED, "H", NEVER], True),
    "ends after an event": ([CHUNKED, "H", b"0\r\n\r\n"], True),
    "garbage for the next chunk's size": ([CHUNKED, "H", b"garbage\r\n"], True),
    "half a chunk's size": ([CHUNKED, "H", b"1", "close"], True),
    "half a chunk": ([CHUNKED, "H", b"ff\r\ndata: {", "close"], True),
    "half a chunk, then nothing": ([CHUNKED, "H", b"ff\r\ndata: {", NEVER], True),
    "a chunk that is longer than it says": ([CHUNKED, "H", b"1\r\ntoo long\r\n"], True),
    "half an event": ([CHUNKED, "H", chunk(b'data: {"choi'), b"0\r\n\r\n"], True),
    "garbage for an event": (
        [CHUNKED, "H", chunk(b"data: {garbage\n\n{garbage\n"), chunk(b"data: x\n\n"), b"0\r\n\r\n"],
        True,
    ),
    "words of a gateway": ([CHUNKED, "H", chunk(b"<html>502 Bad Gateway</html>\n"), b"0\r\n\r\n"], True),
    "a body shorter than its length": ([head(b"content-length: 9999"), "h", "close"], True),
    "a body that breaks its coding": (
        [head(b"content-encoding: gzip", b"transfer-encoding: chunked"), "H", b"0\r\n\r\n"],
        False,
    ),
}
OURS = (errors.TransportError, errors.ProtocolError, errors.ServerError)


def failing(url, dialect, limits=None):
    """The error of a call, after which the next one is answered."""
    client = Client(registry.load({}))
    try:
        stream = client.stream(
            "hi", "m", base_url=url, dialect=dialect, retries=0, timeout=limits or {"first": 30, "idle": 30}
        )
        with pytest.raises(OURS) as caught:
            stream.response(60)
        error = caught.value
        assert "inside" not in error.message
        assert error.hint.endswith(".")
        assert re.search(r"127\.0\.0\.1|localhost", str(error))
        assert (
            "Hello"
            == client.stream("hi", "m", base_url=url, dialect=dialect, retries=0, timeout=30)
            .response(60)
            .text
        )
        return error
    finally:
        client.close()


@pytest.fixture(scope="module")
def tls(tmp_path_factory):
    """A server's context for 127.0.0.1, and the file of its authority."""
    authority = trustme.CA()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.0.1").configure_cert(context)
    path = tmp_path_factory.mktemp("tls") / "ca.pem"
    authority.cert_pem.write_to_path(path)
    return context, str(path)


def faulty(fault, dialect, context=None):
    """A server for two connections: the fault, then a whole answer."""
    first, *rest = events(dialect)
    steps = [{"H": chunk(first), "h": first}.get(s, s) if isinstance(s, str) else s for s in FAULTS[fault][0]]
    whole = [None, CHUNKED, *map(chunk, [first, *rest]), b"0\r\n\r\n"]
    return server([None, *steps], whole, context=context)


STALLS = [fault for fault, (steps, _) in FAULTS.items() if NEVER in steps]


@pytest.mark.parametrize("scheme", ["http", "https"])
@pytest.mark.parametrize("dialect", SAID)
@pytest.mark.parametrize("fault", [fault for fault in FAULTS if fault not in STALLS])
def test_every_fault_of_a_server_is_an_error_of_the_wire_and_the_answer_so_far_stays(
    fault, dialect, scheme, tls, monkeypatch
):
    """At each stage: refused words, garbage, cuts and resets."""
    monkeypatch.setenv("SSL_CERT_FILE", tls[1])
    with faulty(fault, dialect, tls[0] if scheme == "https" else None) as (url, _):
        error = failing(url, dialect)
    assert not isinstance(error, errors.Timeout)
    assert ("Hello" if FAULTS[fault][1] else "") == error.partial.text


@pytest.mark.parametrize("dialect", SAID)
@pytest.mark.parametrize(
    "ending",
    [
        ["reset"],
        ["close"],
        [b"zz\r\n"],
        [chunk(b"upstream went away"), "close"],
        [chunk(b"data: {x\n\n"), b"0\r\n\r\n"],
        [chunk(b'{"a": {]}\n'), b"0\r\n\r\n"],
    ],
    ids=["reset", "close", "garbage", "words", "a broken event", "a broken line"],
)
def test_an_answer_that_told_its_end_is_whole_however_the_connection_ends(ending, dialect):
    """A reset where the last chunk is due takes nothing of it."""
    said = [event for event in events(dialect) if b"[DONE]" not in event]
    with server([None, CHUNKED, *map(chunk, said), *ending]) as (url, _):
        client = Client(registry.load({}))
        try:
            stream = client.stream("hi", "m", base_url=url, dialect=dialect, retries=0, timeout=30)
            assert "Hello" == stream.response(60).text
        finally:
            client.close()


def test_the_words_of_a_gateway_below_half_an_answer_are_told():
    """What a proxy writes where its server went away is what went wrong."""
    first, *_ = events("openai_chat")
    with server([None, CHUNKED, chunk(first), chunk(b"upstream connect error\n"), b"0\r\n\r\n"], [None]) as (
        url,
        _,
    ):
        stream = nbllm.stream("hi", "m", base_url=url, retries=0, timeout=60)
        with pytest.raises(errors.ProtocolError, match="upstream connect error") as caught:
            stream.response(60)
    assert "Hello" == caught.value.partial.text


@pytest.mark.slow
@pytest.mark.parametrize("fault", STALLS)
def test_silence_at_any_stage_is_a_timeout_and_the_answer_so_far_stays(fault, tls, monkeypatch):
    """In every dialect, plain and under TLS, all at the same time: they wait together."""
    monkeypatch.setenv("SSL_CERT_FILE", tls[1])
    with ExitStack() as stack, ThreadPoolExecutor(2 * len(SAID)) as pool:
        places = [
            (stack.enter_context(faulty(fault, dialect, context))[0], dialect)
            for dialect in SAID
            for context in (None, tls[0])
        ]
        limits = {"first": 30 if FAULTS[fault][1] else 0.6, "idle": 0.6}
        found = list(pool.map(lambda place: failing(*place, limits), places))
    assert all(isinstance(error, errors.Timeout) for error in found)
    assert ["Hello" if FAULTS[fault][1] else ""] * len(places) == [error.partial.text for error in found]


@pytest.mark.slow
@pytest.mark.parametrize(
    "steps",
    [
        ["close"],
        ["reset"],
        [b"not TLS at all, and longer than a record's head\r\n"],
        [b"HTTP/1.1 400 Bad\r\n\r\n", "close"],
        [b"\x15\x03\x01\x00\x02\x02\x28", "close"],
        [b"\x16\x03\x03\xff\xff", "close"],
        [NEVER],
    ],
)
def test_faults_of_a_tls_handshake_are_failed_connections(steps):
    """Garbage, an alert, a cut, plain HTTP and silence."""
    with server(["head", *steps]) as (url, _):
        client = Client(registry.load({}))
        try:
            with pytest.raises((errors.ConnectFailed, errors.Timeout), match="No connection") as caught:
                client.stream(
                    "hi",
                    "m",
                    base_url=url.replace("http:", "https:"),
                    retries=0,
                    timeout={"connect": 0.5 if NEVER in steps else 20},
                ).response(60)
        finally:
            client.close()
    assert (NEVER in steps) == isinstance(caught.value, errors.Timeout)


def test_a_refused_connection_names_the_place():
    """Nobody listens there."""
    with server() as (url, _):
        pass
    with pytest.raises(errors.ConnectFailed, match=url.split("/")[2]):
        nbllm.stream("hi", "m", base_url=url, retries=0, timeout=60).response()


def test_tls_behind_a_plain_address_is_named():
    """As it answers plain HTTP: by an alert."""
    with (
        server([None, b"\x15\x03\x01\x00\x02\x02\x28", "close"]) as (url, _),
        pytest.raises(errors.ProtocolError, match="https"),
    ):
        nbllm.stream("hi", "m", base_url=url, retries=0, timeout=60).response()


@pytest.mark.parametrize(
    "place",
    [
        "a" * 64 + ".invalid",
        "a..invalid",
        "127.0.0.1:99999",
        "127.0.0.1:-1",
        "127.0.0.1:port",
        "a b",
        "a\nb",
        "\u2603.invalid",
        "[::1",
        "*",
    ],
)
def test_an_address_that_is_none_is_told_before_anything_is_sent(place):
    """Out of stream itself, as what the user can mend; and asking whether somebody listens there says no."""
    with pytest.raises(errors.ConfigError, match="Not a usable address"):
        nbllm.stream("hi", "m", base_url=f"http://{place}/v1")
    assert not nbllm.default_client().check(f"http://{place}/v1").result(30)


@pytest.mark.slow
def test_an_answer_without_end_is_stopped_and_what_came_is_kept():
    """Here as 1 KB of wire for each MB of text."""
    text = "x" * 2**20
    tool = zlib.compressobj(1, zlib.DEFLATED, 31)
    body = (
        b"".join(
            tool.compress(b'data: {"choices":[{"index":0,"delta":{"content":"%s"}}]}\n\n' % text.encode())
            for _ in range(160)
        )
        + tool.flush()
    )
    with server([None, head(b"content-encoding: gzip", b"content-length: %d" % len(body)) + body]) as (
        url,
        _,
    ):
        stream = nbllm.stream("hi", "m", base_url=url, retries=0, timeout=60)
        with pytest.raises(errors.ProtocolError, match="larger than 128 MiB") as caught:
            stream.response()
    assert 120 * 2**20 < len(caught.value.partial.text) < 130 * 2**20


HOSTILE = {
    "digits without end": '{"choices":[{"index":0,"delta":{"content":"x"}}],"usage":{"prompt_tokens":%s}}'
    % ("9" * 5000),
    "a code of digits": '{"error":{"code":"%s","message":"no"}}' % ("9" * 5000),
    "a code of other digits": '{"error":{"code":"\u00b2\u00b2","message":"no"}}',
    "a deep value": '{"choices":' + "[" * 5000 + "]" * 5000 + "}",
    "a deep error": '{"error":' + '{"detail":' * 900 + "1" + "}" * 900 + "}",
    "a page with an entity of digits": "<html>&#%s;" % ("9" * 5000),
}


@pytest.mark.parametrize("said", HOSTILE.values(), ids=HOSTILE)
@pytest.mark.parametrize("status", ["200 OK", "400 Bad Request"])
def test_whatever_a_server_says_is_an_error_of_ours_or_an_answer(said, status):
    """In an answer, with what came before it kept, or as an error's page; the next call is answered."""
    start = (
        b'data: {"choices":[{"index":0,"delta":{"content":"Hello"}}]}\n\ndata: '
        if status.startswith("200")
        else b""
    )
    body = start + said.encode() + b"\n\n"
    head = f"HTTP/1.1 {status}\r\ncontent-length: {len(body)}\r\n\r\n".encode()
    with server([None, head + body], [None, head + body]) as (url, _):
        for _ in range(2):
            stream = nbllm.stream("hi", "m", base_url=url, retries=0, timeout=60)
            with suppress(errors.NbllmError):
                stream.response()
            assert type(stream.error) is not errors.NbllmError, stream.error
            assert "Hello" * status.startswith("200") == stream.partial().text[:5]


class Stumbling:
    """A dialect whose decoder has a fault that nobody thought of."""

    name = "stumbling"
    done = False

    def decoder(self, provider):
        return self

    def encode(self, request, provider, key):
        return HttpCall(provider.base_url, {}, {"q": 1})

    def error(self, status, headers, body, provider):
        raise KeyError("secret")

    def feed(self, frame):
        yield TextDelta("Hello")
        raise TypeError("secret")

    def close(self):
        yield Finished("stop")


@pytest.mark.parametrize("status", ["200 OK", "500 No"])
def test_a_decoders_fault_is_a_protocol_error_and_the_partial_answer_stays(status):
    """Whatever it raises; its text, which may hold anything, is not shown."""
    client = Client(registry.Registry(dialects={"stumbling": Stumbling()}))
    body = b"data: 1\n\n"
    with server([None, f"HTTP/1.1 {status}\r\ncontent-length: {len(body)}\r\n\r\n".encode() + body]) as (
        url,
        _,
    ):
        stream = client.stream("hi", "m", base_url=url, dialect="stumbling", retries=0, timeout=60)
        with pytest.raises(errors.ProtocolError, match="cannot be read") as caught:
            stream.response()
    assert "secret" not in str(caught.value)
    assert ("Hello" if status.startswith("200") else "") == caught.value.partial.text
