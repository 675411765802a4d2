"""Non-conforming HTTP/1.1 that httpx and curl accept is accepted; what cannot be parsed is an error that says
so, and the request is sent only once."""

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

import nbllm
from nbllm.core import errors
from nbllm.http.lenient import LenientRewriter

from .test_transport import ANSWER, ask, server

SIZE = b"%d" % len(ANSWER)
HEX = b"%x" % len(ANSWER)
LAST = b"\r\n0\r\n\r\n"


def ok(*lines, first=b"HTTP/1.1 200 OK", end=b"\r\n"):
    return end.join([first, *lines, b"", b""])


IN_CHUNKS = ok(b"Transfer-Encoding: chunked")
READ = {
    "a length beside chunks": ok(b"Content-Length: 10", b"Transfer-Encoding: chunked")
    + HEX
    + b"\r\n"
    + ANSWER
    + LAST,
    "chunks beside a length": ok(b"Transfer-Encoding: chunked", b"Content-Length: 99999")
    + HEX
    + b"\r\n"
    + ANSWER
    + LAST,
    "chunks beside two lengths": ok(b"Content-Length: 1", b"Transfer-Encoding: chunked", b"Content-Length: 2")
    + HEX
    + b"\r\n"
    + ANSWER
    + LAST,
    "a length that is told twice": ok(b"Content-Length: " + SIZE, b"content-length: " + SIZE) + ANSWER,
    "a length that is a list": ok(b"Content-Length: " + SIZE + b", " + SIZE) + ANSWER,
    "a length with zeros and a sign": ok(b"Content-Length: +00" + SIZE) + ANSWER,
    "an identity for a coding": ok(b"Transfer-Encoding: identity", b"Content-Length: " + SIZE) + ANSWER,
    "line feeds alone": ok(b"Content-Length: " + SIZE, end=b"\n") + ANSWER,
    "line feeds here and there": b"HTTP/1.1 200 OK\r\nA: b\nContent-Length: " + SIZE + b"\r\n\n" + ANSWER,
    "line feeds alone, also around chunks": ok(b"Transfer-Encoding: chunked", end=b"\n")
    + HEX
    + b"\n"
    + ANSWER
    + b"\n0\n\n",
    "line feeds around chunks": IN_CHUNKS + HEX + b"\n" + ANSWER + b"\n0\n\n",
    "blanks after a size": IN_CHUNKS + HEX + b"   \r\n" + ANSWER + b"\r\n0  \r\n\r\n",
    "a tab after a size": IN_CHUNKS + HEX + b"\t\r\n" + ANSWER + LAST,
    "blanks before a size": IN_CHUNKS + b"  " + HEX + b"\r\n" + ANSWER + LAST,
    "zeros before a size": IN_CHUNKS + b"0000" + HEX + b"\r\n" + ANSWER + b"\r\n0000\r\n\r\n",
    "a blank before an extension": IN_CHUNKS + HEX + b" ; x=y\r\n" + ANSWER + LAST,
    "half a quoted extension": IN_CHUNKS + HEX + b';x="y\r\n' + ANSWER + LAST,
    "blanks after the second size only": IN_CHUNKS
    + b"3\r\n"
    + ANSWER[:3]
    + b"\r\n%x  \r\n" % (len(ANSWER) - 3)
    + ANSWER[3:]
    + LAST,
    "a folded header": ok(b"X-A: b", b"  c", b"Content-Length: " + SIZE) + ANSWER,
    "a header folded at its value": ok(b"Content-Length:", b" " + SIZE) + ANSWER,
    "a blank before a colon": ok(b"Content-Length : " + SIZE) + ANSWER,
    "a blank in a name": ok(b"X A: b", b"Content-Length: " + SIZE) + ANSWER,
    "a header without a name": ok(b": b", b"Content-Length: " + SIZE) + ANSWER,
    "a control character in a value": ok(b"X: a\x01\x1b[1mb", b"Content-Length: " + SIZE) + ANSWER,
    "letters of another age": ok("X: é".encode("latin-1"), b"Content-Length: " + SIZE) + ANSWER,
    "no reason": ok(b"Content-Length: " + SIZE, first=b"HTTP/1.1 200") + ANSWER,
    "a reason without a blank": ok(b"Content-Length: " + SIZE, first=b"HTTP/1.1 200OK") + ANSWER,
    "two blanks": ok(b"Content-Length: " + SIZE, first=b"HTTP/1.1  200  OK") + ANSWER,
    "small letters": ok(b"Content-Length: " + SIZE, first=b"http/1.1 200 ok") + ANSWER,
    "a version 2": ok(b"Content-Length: " + SIZE, first=b"HTTP/2 200 ") + ANSWER,
    "a version 1.2": ok(b"Content-Length: " + SIZE, first=b"HTTP/1.2 200 OK") + ANSWER,
    "a careless interim answer": b"HTTP/1.1 100 Continue\n\nHTTP/1.1 200 OK\nContent-Length: "
    + SIZE
    + b"\n\n"
    + ANSWER,
    "junk after the end": ok(b"Content-Length: " + SIZE, end=b"\n") + ANSWER + b"junk",
    "junk after the last chunk": IN_CHUNKS + HEX + b" \r\n" + ANSWER + LAST + b"junk",
    "careless trailers": IN_CHUNKS + HEX + b"\n" + ANSWER + b"\n0\nx: y\n\n",
    "chunks under version 1.0": ok(b"Transfer-Encoding: chunked", first=b"HTTP/1.0 200 OK")
    + HEX
    + b" \r\n"
    + ANSWER
    + LAST,
    "no length, and a close": ok(b"A: b", end=b"\n") + ANSWER,
}
FRAMES = ['{"choices":[{"index":0,"delta":{"content":"Hello"},"finish_reason":"stop"}]}', "[DONE]"]


@pytest.mark.slow
def test_junk_that_comes_late_is_no_answer():
    """It follows an answer, and is seen when the next request has gone out already."""
    plain = ok(b"Content-Length: " + SIZE) + ANSWER
    with server([None, plain, None, b"junk", "close"], [None, plain, "close"]) as (url, count):
        assert [(200, FRAMES)] * 2 == [found[:2] for found in ask(url, 2)]
    assert 2 == len(count)


@pytest.mark.parametrize("cut", [1, 7, 100_000])
@pytest.mark.parametrize("answer", READ.values(), ids=READ)
def test_a_careless_answer_is_read(answer, cut):
    """However it is cut; and the connection after it does not confuse the next answer."""
    pieces = [answer[i : i + cut] for i in range(0, len(answer), cut)]
    with server(*[[None, *pieces, "close"]] * 2) as (url, _):
        assert [(200, FRAMES)] * 2 == [found[:2] for found in ask(url, 2)]


UNREADABLE = {
    b"\x15\x03\x01\x00\x02\x02\x28": "it speaks TLS, so the address must begin with https://",
    b"\x15\x03\x03\x00\x02\x02\x46": "https://",
    b"just text, no headers": "does not speak HTTP; its data begins with 'just text, no headers'",
    b"220 mail.example ESMTP\r\n": "does not speak HTTP; its data begins with '220 mail",
    b"SSH-2.0-OpenSSH_9.6\r\n": "does not speak HTTP; its data begins with 'SSH-2.0",
    b"ICY 200 OK\r\n\r\n": "does not speak HTTP; its data begins with 'ICY",
    b"-ERR wrong number of arguments\r\n": "does not speak HTTP; its data begins with '-ERR",
    b"\x00\x00\x12\x04\x00\x00\x00\x00\x00": "does not speak HTTP",
    b"<html>hi</html>": "does not speak HTTP; its data begins with '<html>",
    b'{"error": "x"}': "does not speak HTTP",
    ok(first=b"HTTP/1.1 abc OK"): "its status line is invalid: 'HTTP/1.1 abc OK'",
    ok(first=b"HTTP/1.1 2000 OK"): "its status line is invalid",
    ok(first=b"HTTP/1.1"): "its status line is invalid",
    ok(b"Content-Length: 1", b"Content-Length: 2"): "it has several lengths: '1, 2'",
    ok(b"Content-Length: 1, 2"): "it has several lengths",
    ok(b"Content-Length: abc"): "its Content-Length is not a number: 'abc'",
    ok(b"Content-Length: -1"): "its Content-Length is not a number: '-1'",
    ok(b"Content-Length: "): "its Content-Length is not a number",
    ok(b"nonsense"): "one of its headers is invalid: 'nonsense'",
    ok(b"\x00\x01: x"): "one of its headers is invalid",
    ok(b"Transfer-Encoding: gzip, chunked") + b"1\r\nx\r\n": "sent as 'gzip', which was not requested",
    ok(b"Transfer-Encoding: br, chunked", end=b"\n") + b"1\r\nx\r\n": "sent as 'br', which was not requested",
    IN_CHUNKS + b"zz\r\n": "the size of a chunk is invalid: 'zz'",
    IN_CHUNKS + b"0x10\r\n": "the size of a chunk is invalid: '0x10'",
    IN_CHUNKS + b"-5\r\n": "the size of a chunk is invalid: '-5'",
    IN_CHUNKS + b"1 \r\ntoo long\r\n": "it is not HTTP/1.1: Expected LF after chunk data",
    IN_CHUNKS + b" 1;\r\ntoo long\r\n": "a chunk is longer than its size",
    IN_CHUNKS + b" 1;" + b"x" * 70_000: "a line between two chunks has no end",
    IN_CHUNKS + b"5" + b" " * 900_000: "its headers are too large",
    ok(first=b"HTTP/1.1 101 Switching Protocols"): "another protocol",
}


@pytest.mark.parametrize("words", UNREADABLE)
def test_what_cannot_be_read_is_said_as_what_it_is_and_asked_once(words):
    """Nothing is waited for and nothing sent again: the next answer would be the same."""
    with server(*[[None, words]] * 3) as (url, count):
        stream = nbllm.stream("hi", "m", base_url=url, retries=2, timeout=60)
        with pytest.raises(errors.ProtocolError) as caught:
            stream.response()
    assert UNREADABLE[words] in str(caught.value)
    assert 1 == len(count)


def test_a_compression_that_was_not_asked_for_is_named_once():
    """A body as br or zstd, whatever the server was told."""
    for name in (b"br", b"zstd", b"compress"):
        answer = ok(b"Content-Encoding: " + name, b"Content-Length: 3") + b"\x0b\x01\x80"
        with server(*[[None, answer]] * 3) as (url, count):
            with pytest.raises(errors.ProtocolError, match=name.decode()):
                nbllm.stream("hi", "m", base_url=url, retries=2, timeout=60).response()
            assert 1 == len(count)


@given(
    st.binary(max_size=300), st.sampled_from([b"", b"HTTP/1.1 200 OK\n\n", IN_CHUNKS, IN_CHUNKS + b"3 \r\n"])
)
def test_any_bytes_are_made_strict_or_refused_in_words(data, before):
    """However they are cut, with the same outcome."""

    def tidied(pieces):
        tidy, out = LenientRewriter(), b""
        with contextlib.suppress(ValueError):
            for piece in pieces:
                out += tidy.feed(piece)
        return out

    whole = before + data
    assert tidied([whole[i : i + 1] for i in range(len(whole))]).startswith(tidied([whole]))
