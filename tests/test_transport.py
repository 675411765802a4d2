"""Our transport against real sockets: HTTP/1.1 in all its framings, the pool, TLS, and what a stamp is
worth."""

import asyncio
import socket
import ssl
import struct
import subprocess
import sys
import threading
import time
import tracemalloc
import zlib
from contextlib import contextmanager, suppress

import pytest
import trustme

from nbllm.core import errors
from nbllm.core.calls import HttpCall, Trace
from nbllm.http.codings import decode_body
from nbllm.http.pool import ConnectionPool
from nbllm.http.prepared_request import PreparedRequest
from nbllm.http.stamps import ClockedLoop
from nbllm.http.transport import HttpTransport

ANSWER = (
    b'data: {"choices":[{"index":0,"delta":{"content":"Hello"},"finish_reason":"stop"}]}\n\ndata: [DONE]\n\n'
)
EVENT = b'data: {"a": 1}\n\n'
OTHER = b'data: {"b": 2}\n\n'
LINUX = pytest.mark.skipif(not hasattr(socket, "SO_PEERCRED"), reason="kernel stamps are Linux's")


def chunk(data):
    return b"%x\r\n%s\r\n" % (len(data), data)


def head(*lines, status=b"200 OK", version=b"HTTP/1.1"):
    return b"\r\n".join([version + b" " + status, *lines, b"", b""])


CHUNKED = head(b"transfer-encoding: chunked")


@contextmanager
def server(*conversations, context=None):
    """A server on a thread: each connection plays one list of steps: bytes to send, None to read a request,
    "head" for one without a body, an Event to wait for, "close" or "reset". Gives (address, number of
    connections so far).

    Each thread closes its own socket: closed by another one, its number may be a new socket's by the time the
    thread gets to read from it."""
    listener = socket.create_server(("127.0.0.1", 0))
    count, talking = [], []

    def play(steps, sock):
        with suppress(OSError):  # the client may leave first
            talk(steps, sock)

    def talk(steps, sock):
        if context is not None:
            sock = context.wrap_socket(sock, server_side=True)
        talking.append(sock)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        with sock:
            for step in steps:
                if step is None:
                    data = b""
                    while not data.endswith(b"}"):
                        more = sock.recv(65536)
                        if not more:
                            return
                        data += more
                elif step == "head":
                    sock.recv(65536)
                elif isinstance(step, bytes):
                    sock.sendall(step)
                elif step == "close":
                    return
                elif step == "reset":
                    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                    return
                else:
                    step.wait(30)
            sock.recv(1)

    def accept():
        for steps in conversations:
            try:
                sock, _ = listener.accept()
            except OSError:
                return
            count.append(sock)
            threading.Thread(target=play, args=(steps, sock), daemon=True).start()

    accepting = threading.Thread(target=accept, daemon=True)
    accepting.start()
    try:
        yield f"http{'s' if context else ''}://127.0.0.1:{listener.getsockname()[1]}/v1", count
    finally:
        hung_up(listener)
        accepting.join(30)
        listener.close()
        for sock in talking:
            hung_up(sock)


def hung_up(sock):
    """Whoever waits for it on another thread comes back."""
    with suppress(OSError):
        sock.shutdown(socket.SHUT_RDWR)


def ask(url, times=1, *, transport=None, on_frame=lambda frame: None, fresh=False):
    """(status, frames, trace) of each of several requests, one after another, on a clocked loop."""

    async def work():
        http = transport or HttpTransport()
        out = []
        try:
            for _ in range(times):
                trace = Trace()
                async with http.open(
                    PreparedRequest(HttpCall(url, {}, {"q": 1}), fresh=fresh), trace, 5.0
                ) as reply:
                    frames = []
                    async for batch in reply.frames():
                        frames += batch
                        for frame in batch:
                            on_frame(frame)
                out.append((reply.status, [f.data for f in frames], trace))
        finally:
            await http.close()
        return out

    loop = ClockedLoop()
    try:
        return loop.run_until_complete(asyncio.wait_for(work(), 60))
    finally:
        loop.close()


FRAMINGS = {
    "chunked": CHUNKED + chunk(EVENT) + chunk(OTHER) + b"0\r\n\r\n",
    "chunks cut through events": CHUNKED
    + chunk((EVENT + OTHER)[:5])
    + chunk((EVENT + OTHER)[5:])
    + b"0\r\n\r\n",
    "chunk extensions and trailers": CHUNKED
    + b"10;x=y\r\n"
    + EVENT
    + b"\r\n"
    + chunk(OTHER)
    + b"0\r\nx-later: 1\r\n\r\n",
    "by length": head(b"content-length: %d" % len(EVENT + OTHER)) + EVENT + OTHER,
    "after interim answers": head(b"x: y", status=b"103 Early Hints")
    + head(status=b"100 Continue")
    + CHUNKED
    + chunk(EVENT + OTHER)
    + b"0\r\n\r\n",
    "header names in capitals": head(b"TRANSFER-ENCODING: Chunked") + chunk(EVENT + OTHER) + b"0\r\n\r\n",
}


@pytest.mark.parametrize("answer", FRAMINGS.values(), ids=FRAMINGS)
@pytest.mark.parametrize("cut", [1, 7, 10_000])
def test_every_framing_gives_the_same_frames_and_the_connection_is_used_again(answer, cut):
    """However the bytes are cut; the second request goes over the same connection."""
    pieces = [answer[i : i + cut] for i in range(0, len(answer), cut)]
    with server([None, *pieces, None, *pieces]) as (url, count):
        first, second = ask(url, 2)
    assert (200, ['{"a": 1}', '{"b": 2}']) == first[:2] == second[:2]
    assert (1, False, True) == (len(count), first[2].reused, second[2].reused)


@pytest.mark.parametrize("start", [head(), head(version=b"HTTP/1.0"), head(b"connection: close")])
def test_a_body_that_the_end_of_the_connection_ends(start):
    """It is whole, and the next request makes a new connection."""
    with server([None, start + EVENT, OTHER, "close"], [None, start + EVENT + OTHER, "close"]) as (
        url,
        count,
    ):
        first, second = ask(url, 2)
    assert ['{"a": 1}', '{"b": 2}'] == first[1] == second[1]
    assert (2, False) == (len(count), second[2].reused)


@pytest.mark.parametrize(
    ("steps", "error", "words"),
    [
        ([None, CHUNKED + chunk(EVENT), "close"], errors.StreamCut, "in the middle"),
        ([None, head(b"content-length: 99") + EVENT, "close"], errors.StreamCut, "in the middle"),
        ([None, "close"], errors.StreamCut, "before it answered"),
        ([None, b"220 smtp.example ESMTP\r\n"], errors.ProtocolError, "does not speak HTTP.*220 smtp"),
        ([None, head(b"x: " + b"y" * 300_000)], errors.ProtocolError, "its headers are too large"),
        ([None, head(status=b"101 Switching Protocols") + b"x"], errors.ProtocolError, "another protocol"),
        ([None, CHUNKED + b"zz\r\n"], errors.ProtocolError, "the size of a chunk is invalid: 'zz'"),
    ],
)
def test_what_is_not_a_whole_answer_is_said_as_what_it_is(steps, error, words):
    """Whatever the server did instead of answering; nothing waits for ever."""
    with server(steps) as (url, _), pytest.raises(error, match=words):
        ask(url)


@pytest.mark.parametrize("more", [OTHER, b"x", head(), b"HTTP/1.1 200 OK\r\ncontent-length: 1\r\n\r\nx"])
def test_what_follows_an_answer_is_not_of_it(more):
    """A length that was counted in characters, a second answer: what is within the length is the answer, and
    its connection is done."""
    answer = head(b"content-length: %d" % len(EVENT)) + EVENT + more
    with server([None, answer], [None, answer]) as (url, count):
        first, second = ask(url, 2)
    assert ['{"a": 1}'] == first[1] == second[1]
    assert 2 == len(count)


def test_an_answer_that_comes_before_the_request_was_read_is_kept():
    """A server that refuses a large body at once and hangs up: its words are worth more than the broken
    pipe."""
    with server([head(b"content-length: 16", status=b"413 Too Large") + EVENT, "close"]) as (url, _):

        async def work():
            http, trace = HttpTransport(), Trace()
            async with http.open(HttpCall(url, {}, {"q": "x" * 30_000_000}), trace, 5.0) as reply:
                return reply.status, await reply.body()

        assert (413, EVENT) == asyncio.run(asyncio.wait_for(work(), 60))


def test_an_idle_connection_that_the_server_closed_is_not_used():
    """The next request opens another; none fails for it."""
    closed = threading.Event()
    answer = CHUNKED + chunk(EVENT) + b"0\r\n\r\n"
    with server([None, answer, closed, "close"], [None, answer]) as (url, count):

        async def work():
            http, traces = HttpTransport(), []
            for _ in range(2):
                trace = Trace()
                async with http.open(HttpCall(url, {}, {}), trace, 5.0) as reply:
                    assert [f.data async for batch in reply.frames() for f in batch] == ['{"a": 1}']
                traces.append(trace)
                closed.set()
                # the system tells in its own time
                while len(traces) == 1 and http.count_idle(url):  # noqa: ASYNC110
                    await asyncio.sleep(0.001)
            await http.close()
            return [t.reused for t in traces]

        assert [False, False] == asyncio.run(asyncio.wait_for(work(), 60))
    assert 2 == len(count)


def test_a_connection_that_the_server_lets_go_while_it_is_taken_is_replaced():
    """It closes as the second request arrives, before a byte of an answer: the request goes out again on a
    new connection. A new connection that is closed so is an error."""
    answer = CHUNKED + chunk(EVENT) + b"0\r\n\r\n"
    with server([None, answer, None, "close"], [None, answer]) as (url, count):
        first, second = ask(url, 2)
    assert ['{"a": 1}'] == first[1] == second[1]
    assert (2, False) == (len(count), second[2].reused)
    with (
        server([None, "close"], [None, answer]) as (url, count),
        pytest.raises(errors.StreamCut, match="before it answered"),
    ):
        ask(url)
    assert 1 == len(count)


def test_a_full_pool_keeps_the_newest():
    """Idle connections to servers that nobody asks any more do not keep others from being used again."""
    answer = CHUNKED + chunk(EVENT) + b"0\r\n\r\n"

    async def reused(pool, url):
        trace = Trace()
        got = await pool.send(PreparedRequest(HttpCall(url, {}, {"q": 1})), trace, 5.0)
        assert EVENT == b"".join([piece async for piece in got])
        await got.aclose()
        return trace.reused

    async def work(urls):
        pool = ConnectionPool(max_idle=2)
        try:
            return [await reused(pool, url) for url in urls]
        finally:
            await pool.aclose()

    twice = [None, answer] * 2
    with server(twice) as (a, _), server(twice, twice) as (b, second), server(twice) as (c, _):
        asked = asyncio.run(asyncio.wait_for(work([b, a, c, c, a, b]), 60))
    assert [False, False, False, True, True, False] == asked
    assert 2 == len(second), "the one that waited longest was closed"


def test_a_fresh_request_has_a_connection_of_its_own():
    """It neither takes an idle one nor leaves one."""
    answer = CHUNKED + chunk(EVENT) + b"0\r\n\r\n"
    with server(*[[None, answer]] * 3) as (url, count):
        assert [False] * 3 == [t.reused for _, _, t in ask(url, 3, fresh=True)]
    assert 3 == len(count)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *(("x-api-key", f"secret{end}") for end in ("\r\nx-other: 1", "\n", "\r", "\r\n", "\0", "\nx")),
        *((name, "secret") for name in ("", "x-a: b", "x-a:", "x a", "x\r\nb", "x\n", "x\0", "x-ä")),
    ],
)
def test_a_header_that_could_smuggle_another_is_refused(name, value):
    """Before anything is sent, and without showing the value."""
    for _ in range(2):
        with pytest.raises(errors.ConfigError) as caught:
            PreparedRequest(HttpCall("http://127.0.0.1:1/", {name: value}, {}))
        assert "secret" not in str(caught.value)


def test_blanks_round_a_headers_value_are_left_out():
    """And nothing else: a blank of another script is part of what was given."""
    wire = PreparedRequest(HttpCall("http://127.0.0.1:1/", {"x-a": " \tb c\v\f ", "x-d": "\u00a0e"}, {})).wire
    assert b"\r\nx-a: b c\r\nx-d: \xc2\xa0e\r\n" in wire


def test_tls_is_measured_apart_and_checked(monkeypatch):
    """connect and TLS have their own marks; a certificate that nobody vouches for is refused in words."""
    authority = trustme.CA()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.0.1").configure_cert(context)
    answer = CHUNKED + chunk(EVENT) + b"0\r\n\r\n"
    with (
        server([None, answer, None, answer], context=context) as (url, _),
        authority.cert_pem.tempfile() as path,
    ):
        monkeypatch.setenv("SSL_CERT_FILE", path)
        first, second = ask(url, 2)
    marks = first[2].marks
    order = [
        marks[name] for name in ("connect_start", "connected", "tls_start", "secured", "send_start", "sent")
    ]
    assert sorted(order) == order
    assert ['{"a": 1}'] == first[1] == second[1]
    assert (False, True) == (first[2].reused, second[2].reused)
    assert {"kernel" if sys.platform.startswith("linux") else "recv"} == {r.stamp for r in second[2].reads}
    monkeypatch.delenv("SSL_CERT_FILE")
    with (
        server([None, answer], context=context) as (url, _),
        pytest.raises(errors.ConnectFailed, match="certificate"),
    ):
        ask(url)


class Passed:
    """A step of a server that tells when it was reached."""

    def __init__(self):
        self.passed = threading.Event()

    def wait(self, _longest):
        self.passed.set()


def stamped(*pieces):
    """(frames, trace) where the server sends each piece after the client has seen an event of the one
    before."""
    gates = [threading.Event() for _ in pieces]
    steps = [None]
    for gate, piece in zip(gates, pieces, strict=True):
        steps += [gate, piece]
    gates[0].set()
    seen = []

    def on_frame(frame):
        seen.append(frame)
        following = gates[min(len(seen), len(gates) - 1)]
        following.set()

    with server(steps) as (url, _):
        ((_, _, trace),) = ask(url, on_frame=on_frame)
    return seen, trace


@LINUX
def test_an_event_that_ends_its_read_has_the_kernels_stamp():
    """One event a read: stamped by the kernel, in one segment, exact."""
    frames, trace = stamped(CHUNKED + chunk(EVENT), chunk(OTHER), b"0\r\n\r\n")
    reads = [trace.reads[f.read] for f in frames]
    assert [("kernel", 1, True)] * 2 == [(r.stamp, r.segments, r.clean) for r in reads]
    assert all(r.lo <= r.at <= r.user for r in reads)


@LINUX
def test_a_read_of_several_segments_is_known_as_such():
    """Two writes that the client finds together are counted as two, and bound their events from below."""
    loop_blocked, sent = threading.Event(), Passed()

    def block(frame):
        if not loop_blocked.is_set():
            loop_blocked.set()
            assert sent.passed.wait(30)  # the loop sleeps on the job: what comes is found in one read
            time.sleep(0.03)

    rest = [chunk(OTHER), chunk(EVENT), b"0\r\n\r\n", sent]
    with server([None, CHUNKED + chunk(EVENT), loop_blocked, *rest]) as (url, _):
        ((_, data, trace),) = ask(url, on_frame=block)
    late = trace.reads[-1]
    assert 3 == len(data)
    assert (True, False) == (late.segments >= 2, late.clean)
    assert late.user - late.at > 0.02, "the kernel's stamp does not know that the client slept"


@LINUX
@pytest.mark.parametrize("tail", [b": ping\n\n", b"", b'data: {"b"'])
def test_what_follows_an_event_in_its_read_makes_its_stamp_an_upper_bound(tail):
    """A comment, or the beginning of another event, may have come later; nothing at all has not."""
    frames, trace = stamped(
        CHUNKED + chunk(EVENT + tail), *([chunk(b": 2}\n\n")] if tail[:4] == b"data" else []), b"0\r\n\r\n"
    )
    assert (tail == b"") == trace.reads[frames[0].read].clean


def test_the_mark_of_the_end_of_the_answer():
    """eof is the arrival of the last chunk's end, after the last event."""
    frames, trace = stamped(CHUNKED + chunk(EVENT), b"0\r\n\r\n")
    assert trace.marks["eof"] > frames[-1].at


# --- codings ------------------------------------------------------------------------------------------------


def deflated(data, window):
    tool = zlib.compressobj(9, zlib.DEFLATED, window)
    return tool.compress(data) + tool.flush()


CODINGS = {
    "gzip": (b"gzip", 31),
    "in capitals": (b"GZip", 31),
    "x-gzip": (b"x-gzip", 31),
    "deflate": (b"deflate", 15),
    "deflate without its head": (b"deflate", -15),
    "identity": (b"identity", None),
    "nothing": (b"", None),
    "gzip, then none": (b"gzip, identity", 31),
}


@pytest.mark.parametrize(("name", "window"), CODINGS.values(), ids=CODINGS)
@pytest.mark.parametrize("cut", [1, 7, 10_000])
def test_one_coding_is_undone(name, window, cut):
    """However the bytes are cut."""
    body = (EVENT + OTHER) * 3
    body = deflated(body, window) if window else body
    pieces = [body[i : i + cut] for i in range(0, len(body), cut)]
    with server([None, head(b"content-encoding: " + name, b"content-length: %d" % len(body)), *pieces]) as (
        url,
        _,
    ):
        ((_, frames, _),) = ask(url)
    assert ['{"a": 1}', '{"b": 2}'] * 3 == frames


@pytest.mark.parametrize(("name", "window"), CODINGS.values(), ids=CODINGS)
def test_a_coding_is_known_however_little_comes_at_first(name, window):
    """One byte a read: what a socket gives is chance, so the reads are made here."""
    body = deflated(EVENT * 3, window) if window else EVENT * 3

    async def reads():
        for i in range(len(body)):
            yield body[i : i + 1]

    async def whole():
        return b"".join([piece async for piece in decode_body(reads(), name.decode())])

    assert EVENT * 3 == asyncio.run(whole())


@pytest.mark.parametrize("cut", [1, 2, 3, 10_000])
@pytest.mark.parametrize("more", [b"", b"\0\0\0", b"\x1f", b"junk"])
def test_every_member_of_gzip_is_undone(more, cut):
    """Proxies that compress what they have end a member and begin another; what is none is dropped."""
    body = b"".join(deflated(part, 31) for part in (EVENT[:5], b"", EVENT[5:], OTHER)) + more

    async def reads():
        for i in range(0, len(body), cut):
            yield body[i : i + cut]

    async def whole():
        return b"".join([piece async for piece in decode_body(reads(), "gzip")])

    assert EVENT + OTHER == asyncio.run(whole())


@pytest.mark.parametrize(
    "name",
    ["gzip, gzip", "gzip,gzip,gzip", "deflate, gzip", "br", "zstd", "compress", "gzip, br", "x" * 5000],
)
def test_several_codings_or_one_that_was_not_asked_for_are_named(name):
    """In a stream, in a list and in an error's page, whose status stays what it says."""
    body = EVENT
    for _ in name.split(","):
        body = deflated(body, 31)
    lines = (b"content-encoding: " + name.encode(), b"content-length: %d" % len(body))

    async def read(url, how):
        http = HttpTransport()
        try:
            async with http.open(HttpCall(url, {}, {"q": 1}), Trace(), 5.0) as reply:
                return (
                    [f async for batch in reply.frames() for f in batch]
                    if how == "frames"
                    else await reply.body()
                )
        finally:
            await http.close()

    for how in ("frames", "body"):
        with (
            server([None, head(*lines) + body]) as (url, _),
            pytest.raises(errors.ProtocolError, match=f"compressed as '{name[:60]}'"),
        ):
            asyncio.run(read(url, how))
    with server([None, head(*lines, status=b"400 Bad") + body]) as (url, _):
        assert f"compressed as '{name[:60]}'" in asyncio.run(read(url, "body")).decode()


def test_what_is_broken_is_said_to_be():
    """After what came before it."""
    good = deflated(EVENT * 3, 31)
    for body in (b"no gzip at all", good[:-8] + b"\0" * 8):
        answer = head(b"content-encoding: gzip", b"content-length: %d" % len(body)) + body
        with server([None, answer]) as (url, _), pytest.raises(errors.ProtocolError, match="invalid"):
            ask(url)


@pytest.mark.slow
def test_a_small_body_that_becomes_a_large_one_costs_no_memory_and_keeps_nobody_waiting():
    """256 MiB of blanks, as an error's page, as a list and as one endless event: in steps, with the loop's
    other work between. The server is on the same loop: counting the memory of several threads has come to a
    deadlock in some Pythons (cpython 96071, 130093, 139116)."""
    tool, blank = zlib.compressobj(1, zlib.DEFLATED, 31), b" " * 2**20
    body = b"".join(tool.compress(blank) for _ in range(256)) + tool.flush()
    lines = (b"content-encoding: gzip", b"content-length: %d" % len(body))
    answers, turns = [head(*lines, status=b"400 Bad") + body, head(*lines) + body], []

    async def answer(reader, writer):
        await reader.readuntil(b"}")
        writer.write(answers.pop(0))
        with suppress(OSError):  # the client leaves first
            await writer.drain()
        writer.close()

    async def work():
        async def tick():
            while True:
                turns.append(1)
                await asyncio.sleep(0)

        server = await asyncio.start_server(answer, "127.0.0.1", 0)
        url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/v1"
        other, http = asyncio.create_task(tick()), HttpTransport()
        try:
            async with http.open(HttpCall(url, {}, {"q": 1}), Trace(), 5.0) as reply:
                assert 256 * 2**10 == len(await reply.body())
            async with http.open(HttpCall(url, {}, {"q": 1}), Trace(), 5.0) as reply:
                with pytest.raises(errors.ProtocolError, match="larger"):
                    [f async for batch in reply.frames() for f in batch]
        finally:
            other.cancel()
            server.close()
            await http.close()

    tracemalloc.start()
    try:
        asyncio.run(asyncio.wait_for(work(), 300))
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert len(turns) > 200
    assert peak < 40 * 2**20


# --- bounds -------------------------------------------------------------------------------------------------

ENDLESS = {
    "a header's value": [b"HTTP/1.1 200 OK\r\nx: ", *[b"y" * 65536] * 64],
    "a header's name": [b"HTTP/1.1 200 OK\r\n", *[b"y" * 65536] * 64],
    "headers": [b"HTTP/1.1 200 OK\r\n", *[b"x-a: b\r\n" * 1000] * 64],
    "one header": [b"HTTP/1.1 200 OK\r\n" + b"x: %s\r\n" % (b"y" * 1000) * 300],
    "a reason": [b"HTTP/1.1 200 ", *[b"y" * 65536] * 64],
    "blank lines before": [b"\r\n" * 30000] * 64,
    "interim answers": [head(status=b"100 Continue") * 1000] * 64,
    "trailers": [CHUNKED + chunk(EVENT) + b"0\r\n", *[b"x-a: b\r\n" * 1000] * 64],
    "a trailer's value": [CHUNKED + chunk(EVENT) + b"0\r\nx: ", *[b"y" * 65536] * 64],
    "a chunk's extension": [CHUNKED + chunk(EVENT) + b"5;x=", *[b"y" * 65536] * 64],
    "a chunk's size": [CHUNKED + chunk(EVENT), *[b"0" * 65536] * 64],
}


@pytest.mark.parametrize("pieces", ENDLESS.values(), ids=ENDLESS)
def test_what_stands_beside_a_body_is_bounded(pieces):
    """A head, or a part of the framing, that does not end cannot be read."""
    with server([None, *pieces, b"never"]) as (url, _), pytest.raises(errors.ProtocolError):
        ask(url)


# --- names --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("written", ["xn--fa-hia.example", "fa\u00df.example", "FA\u00df.example"])
def test_a_name_is_looked_up_and_certified_as_it_stands_in_the_url(written, monkeypatch):
    """By IDNA 2008: Python's own codec would make fass.example of it, which is somebody else's."""
    authority, names = trustme.CA(), []
    context, ours = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER), []
    authority.issue_cert("xn--fa-hia.example").configure_cert(context)
    context.sni_callback = lambda _sock, name, _context: ours.append(name)

    def known(host, port, *how, **named):
        names.append(host)
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", ("127.0.0.1", port))]

    monkeypatch.setattr(socket, "getaddrinfo", known)
    with (
        server([None, CHUNKED + chunk(EVENT) + b"0\r\n\r\n"], context=context) as (url, _),
        authority.cert_pem.tempfile() as path,
    ):
        monkeypatch.setenv("SSL_CERT_FILE", path)
        ((_, frames, _),) = ask(url.replace("127.0.0.1", written))
    assert (['{"a": 1}'], ["xn--fa-hia.example"], ["xn--fa-hia.example"]) == (frames, names, ours)


def test_certificates_that_are_not_there_are_named(monkeypatch):
    """With the variable that names them."""
    monkeypatch.setenv("SSL_CERT_FILE", "/nowhere/certificates.pem")
    with pytest.raises(errors.ConfigError, match="SSL_CERT_FILE"):
        ask("https://127.0.0.1:1/v1")


LOOKUPS = """
import socket, threading, time
own, asked, never = socket.getaddrinfo, [], threading.Event()
def getaddrinfo(host, *rest, **named):
    asked.append(host)
    if "hangs" in str(host):
        never.wait()
    return own("127.0.0.1" if str(host).endswith(".invalid") else host, *rest, **named)
socket.getaddrinfo = getaddrinfo
import nbllm
from tests.test_transport import ANSWER, head, server
with server(*[[None, head(b"content-length: %d" % len(ANSWER)) + ANSWER]] * 2) as (base, _):
    port = base.split(":")[2].split("/")[0]
    hanging = [nbllm.stream("hi", "m", base_url=f"http://hangs{i % 80}.invalid:{port}/v1", timeout={"connect": 60}) for i in range(120)]
    asking = nbllm.Client().check(f"http://hangs.invalid:{port}/", 60)
    while len([h for h in asked if "hangs" in str(h)]) < 80:
        time.sleep(0.01)
    for name in ("good", "other"):
        print(bool(nbllm.stream("hi", "m", base_url=base.replace("127.0.0.1", f"{name}.invalid"), timeout={"connect": 60}).response().text))
    late = nbllm.stream("hi", "m", base_url=f"http://hangs1.invalid:{port}/v1", timeout={"connect": 0.2}, retries=0)
    try:
        late.response()
    except nbllm.NbllmError as error:
        print(error.which)
    print(len(asked) <= 84)
"""  # noqa: E501


@pytest.mark.slow
def test_look_ups_that_hang_hold_up_neither_others_nor_the_end():
    """80 names that are never answered, asked by 120 calls: another name is found at once, and the process
    ends."""
    ran = subprocess.run(
        [sys.executable, "-c", LOOKUPS], capture_output=True, text=True, timeout=300, check=False
    )
    assert ("True\nTrue\nconnect\nTrue\n", 0) == (ran.stdout, ran.returncode), ran.stderr
