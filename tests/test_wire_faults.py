"""Whatever goes wrong on the wire ends in a clear error of ours, with the partial answer kept, and the next call is answered."""

from contextlib import suppress

import pytest

import nbllm
from nbllm import errors
from nbllm.dialects import DIALECTS
from nbllm.events import Finished, TextDelta
from nbllm.wire import HttpCall

from .test_transport import server

HOSTILE = {
    "digits without end": '{"choices":[{"index":0,"delta":{"content":"x"}}],"usage":{"prompt_tokens":%s}}' % ("9" * 5000),
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
    start = b'data: {"choices":[{"index":0,"delta":{"content":"Hello"}}]}\n\ndata: ' if status.startswith("200") else b""
    body = start + said.encode() + b"\n\n"
    head = f"HTTP/1.1 {status}\r\ncontent-length: {len(body)}\r\n\r\n".encode()
    with server([None, head + body], [None, head + body]) as (url, _):
        for _ in range(2):
            stream = nbllm.stream("hi", "m", base_url=url, retries=0, timeout=20)
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
def test_a_decoders_fault_is_a_protocol_error_and_the_partial_answer_stays(status, monkeypatch):
    """Whatever it raises; its text, which may hold anything, is not shown."""
    monkeypatch.setitem(DIALECTS, "stumbling", Stumbling())
    body = b"data: 1\n\n"
    with server([None, f"HTTP/1.1 {status}\r\ncontent-length: {len(body)}\r\n\r\n".encode() + body]) as (url, _):
        stream = nbllm.stream("hi", "m", base_url=url, dialect="stumbling", retries=0, timeout=20)
        with pytest.raises(errors.ProtocolError, match="cannot be read") as caught:
            stream.response()
    assert "secret" not in str(caught.value)
    assert ("Hello" if status.startswith("200") else "") == caught.value.partial.text
