"""Messages of MCP servers over HTTP, as the SDK sees them: mended, cut and short, however they were sent."""

import asyncio
import json

import httpx2
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nbllm.tools.mcp_http import MAX_MESSAGE, mend_response
from nbllm.tools.mcp_mend import MAX_ITEMS, TEXT_LIMIT, mend

ENDS = ["\n", "\r\n", "\r"]


def message(result, ident=1):
    return {"jsonrpc": "2.0", "id": ident, "result": result}


class Body(httpx2.AsyncByteStream):
    def __init__(self, data, size):
        self.data, self.size = data, size

    async def __aiter__(self):
        for at in range(0, len(self.data), self.size):
            yield self.data[at : at + self.size]


def response(data, kind, size):
    asked = httpx2.Request("POST", "http://127.0.0.1/mcp")
    made = httpx2.Response(200, headers={"content-type": kind}, stream=Body(data, size), request=asked)
    mend_response(made, mend)
    return made


def events(data, size=7):
    """[(name, id, data)] as the SDK reads a stream that comes in pieces of `size` bytes."""

    async def read():
        found = [
            e async for e in httpx2.EventSource(response(data, "text/event-stream; charset=utf-8", size))
        ]
        return [(e.event, e.id, e.data) for e in found]

    return asyncio.run(read())


def whole(data, size=2**16):
    async def read():
        return json.loads(await response(data, "application/json", size).aread())

    return asyncio.run(read())


@given(
    st.lists(st.text(st.characters(codec="utf-8"), max_size=30), min_size=1, max_size=5),
    st.sampled_from(ENDS),
    st.integers(1, 40),
    st.booleans(),
)
def test_however_a_stream_is_sent(texts, end, size, pretty):
    """Line ends of three kinds, comments, ids, messages over several lines, and pieces of any size: each
    message is mended."""
    sent = [message({"content": [{"type": "text", "text": t}]}, i) for i, t in enumerate(texts)]
    lines = [": hello", ""]
    for one in sent:
        told = {**one, "result": {**one["result"], "structuredContent": {"said": "twice"}}}
        text = json.dumps(told, indent=1 if pretty else None)
        lines += ["event: message", f"id: {one['id']}", *(f"data: {x}" for x in text.split("\n")), ""]
    found = events(end.join([*lines, ""]).encode(), size)
    assert sent == [json.loads(data) for _, _, data in found]
    assert [("message", str(m["id"])) for m in sent] == [f[:2] for f in found]


def test_what_is_no_message_goes_on_as_it_came():
    assert [("message", "", "{not json"), ("note", "5", '{"a":  1}'), ("message", "5", "[]")] == events(
        b'data: {not json\n\nevent: note\nid: 5\ndata: {"a":  1}\n\ndata: []\n\n'
    )
    assert {"access_token": "x" * 10} == whole(b'{ "access_token" : "xxxxxxxxxx" }')


def test_halves_of_characters_and_bytes_that_are_none():
    text = rb'{"jsonrpc":"2.0","id":1,"result":{"content":[{"type":"text","text":"\ud83d and ' + b'\xff"}]}}'
    assert "\ufffd and \ufffd" == whole(text)["result"]["content"][0]["text"]
    assert (
        "\ufffd and \ufffd"
        in json.loads(events(b"data:" + text + b"\n\n")[0][2])["result"]["content"][0]["text"]
    )


def test_notifications_are_left_out():
    """Their ids stay: a stream that breaks is taken up behind them."""
    note = json.dumps({"jsonrpc": "2.0", "method": "notifications/progress", "params": {}})
    assert [("message", "7", "")] == events(f"id: 7\ndata: {note}\n\n".encode())
    assert [] == events(f"data: {note}\n\n".encode() * 20)


@pytest.mark.slow
def test_texts_are_cut_together():
    parts = [{"type": "text", "text": "z" * 300_000}] * 40
    made = whole(json.dumps(message({"content": parts})).encode())["result"]["content"]
    assert sum(len(p["text"]) for p in made) < TEXT_LIMIT + 40 * 100
    assert len(parts) == len(made)
    assert "(the first 0 of 300,000 characters)" in made[-1]["text"]


@pytest.mark.slow
def test_long_lists_and_texts_are_cut():
    tools = [
        {"name": f"t{i}", "description": "d" * 300, "inputSchema": {"type": "object"}} for i in range(20_000)
    ]
    assert MAX_ITEMS == len(whole(json.dumps(message({"tools": tools})).encode())["result"]["tools"])
    content = [{"type": "text", "text": "z" * 10_000_000}]
    for parts in (content, [{"type": "resource", "resource": {"uri": "a:", **content[0]}}]):
        made = whole(json.dumps(message({"content": parts})).encode())
        assert len(json.dumps(made)) < TEXT_LIMIT + 1_000
        assert "of 10,000,000 characters" in json.dumps(made)


@pytest.mark.parametrize("kind", ["application/json", "text/event-stream"])
def test_a_message_without_end_is_not_waited_for(kind):
    body = b"data: " + b"x" * (MAX_MESSAGE + 2**17)
    error = httpx2.SSEError if "event" in kind else httpx2.StreamError
    with pytest.raises(error, match="larger than the limit of 16 MiB"):
        asyncio.run(response(body, kind, 2**16).aread())
