"""Our transport against real sockets: HTTP/1.1 in all its framings, the pool, TLS, and what a stamp is worth."""

import asyncio
import socket
import ssl
import sys
import threading
import time
from contextlib import contextmanager, suppress

import pytest
import trustme

from nbllm import errors
from nbllm.transports.http import HttpTransport, Letter
from nbllm.transports.stamps import ClockedLoop
from nbllm.wire import HttpCall, Trace

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
    """A server on a thread: each connection plays one list of steps: bytes to send, None to read a request, an Event to wait
    for, or "close". Gives (address, number of connections so far)."""
    listener = socket.create_server(("127.0.0.1", 0))
    count = []

    def play(steps, sock):
        with suppress(OSError):  # the client may leave first
            talk(steps, sock)

    def talk(steps, sock):
        if context is not None:
            sock = context.wrap_socket(sock, server_side=True)
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
                elif isinstance(step, bytes):
                    sock.sendall(step)
                elif step == "close":
                    return
                else:
                    step.wait(10)
            sock.recv(1)

    def accept():
        for steps in conversations:
            try:
                sock, _ = listener.accept()
            except OSError:
                return
            count.append(sock)
            threading.Thread(target=play, args=(steps, sock), daemon=True).start()

    threading.Thread(target=accept, daemon=True).start()
    try:
        yield f"http{'s' if context else ''}://127.0.0.1:{listener.getsockname()[1]}/v1", count
    finally:
        listener.close()
        for sock in count:
            sock.close()


def ask(url, times=1, *, transport=None, on_frame=lambda frame: None, fresh=False):
    """(status, frames, trace) of each of several requests, one after another, on a clocked loop."""

    async def work():
        http = transport or HttpTransport()
        out = []
        try:
            for _ in range(times):
                trace = Trace()
                async with http.send(Letter(HttpCall(url, {}, {"q": 1}), fresh=fresh), trace, 5.0) as reply:
                    frames = []
                    async for frame in reply.frames():
                        frames.append(frame)
                        on_frame(frame)
                out.append((reply.status, [f.data for f in frames], trace))
        finally:
            await http.close()
        return out

    loop = ClockedLoop()
    try:
        return loop.run_until_complete(asyncio.wait_for(work(), 20))
    finally:
        loop.close()


FRAMINGS = {
    "chunked": CHUNKED + chunk(EVENT) + chunk(OTHER) + b"0\r\n\r\n",
    "chunks cut through events": CHUNKED + chunk((EVENT + OTHER)[:5]) + chunk((EVENT + OTHER)[5:]) + b"0\r\n\r\n",
    "chunk extensions and trailers": CHUNKED + b"10;x=y\r\n" + EVENT + b"\r\n" + chunk(OTHER) + b"0\r\nx-later: 1\r\n\r\n",
    "by length": head(b"content-length: %d" % len(EVENT + OTHER)) + EVENT + OTHER,
    "after interim answers": head(b"x: y", status=b"103 Early Hints") + head(status=b"100 Continue") + CHUNKED + chunk(EVENT + OTHER) + b"0\r\n\r\n",
    "header names in capitals": head(b"TRANSFER-ENCODING: Chunked") + chunk(EVENT + OTHER) + b"0\r\n\r\n",
}


@pytest.mark.parametrize("answer", FRAMINGS.values(), ids=FRAMINGS)
@pytest.mark.parametrize("cut", [1, 7, 10_000])
def test_every_framing_gives_the_same_frames_and_the_connection_is_used_again(answer, cut):
    """However the bytes are cut; the second request goes over the same connection."""
    pieces = [answer[i:i + cut] for i in range(0, len(answer), cut)]
    with server([None, *pieces, None, *pieces]) as (url, count):
        first, second = ask(url, 2)
    assert (200, ['{"a": 1}', '{"b": 2}']) == first[:2] == second[:2]
    assert (1, False, True) == (len(count), first[2].reused, second[2].reused)


@pytest.mark.parametrize("start", [head(), head(version=b"HTTP/1.0"), head(b"connection: close")])
def test_a_body_that_the_end_of_the_connection_ends(start):
    """It is whole, and the next request makes a new connection."""
    with server([None, start + EVENT, OTHER, "close"], [None, start + EVENT + OTHER, "close"]) as (url, count):
        first, second = ask(url, 2)
    assert ['{"a": 1}', '{"b": 2}'] == first[1] == second[1]
    assert (2, False) == (len(count), second[2].reused)


@pytest.mark.parametrize(("steps", "error", "words"), [
    ([None, CHUNKED + chunk(EVENT), "close"], errors.StreamCut, "in the middle"),
    ([None, head(b"content-length: 99") + EVENT, "close"], errors.StreamCut, "in the middle"),
    ([None, "close"], errors.StreamCut, "before it answered"),
    ([None, b"220 smtp.example ESMTP\r\n"], errors.StreamCut, "before it answered"),
    ([None, head(b"x: " + b"y" * 300_000)], errors.StreamCut, "before it answered"),
    ([None, head(status=b"101 Switching Protocols") + b"x"], errors.StreamCut, "before it answered"),
    ([None, CHUNKED + b"zz\r\n"], errors.StreamCut, "closed the connection"),
])
def test_what_is_not_a_whole_answer_is_a_cut_stream(steps, error, words):
    """Whatever the server did instead of answering; nothing waits for ever."""
    with server(steps) as (url, _), pytest.raises(error, match=words):
        ask(url)


def test_an_answer_that_comes_before_the_request_was_read_is_kept():
    """A server that refuses a large body at once and hangs up: its words are worth more than the broken pipe."""
    with server([head(b"content-length: 16", status=b"413 Too Large") + EVENT, "close"]) as (url, _):

        async def work():
            http, trace = HttpTransport(), Trace()
            async with http.send(HttpCall(url, {}, {"q": "x" * 30_000_000}), trace, 5.0) as reply:
                return reply.status, await reply.body()

        assert (413, EVENT) == asyncio.run(asyncio.wait_for(work(), 20))


def test_an_idle_connection_that_the_server_closed_is_not_used():
    """The next request opens another; none fails for it."""
    closed = threading.Event()
    answer = CHUNKED + chunk(EVENT) + b"0\r\n\r\n"
    with server([None, answer, closed, "close"], [None, answer]) as (url, count):

        async def work():
            http, traces = HttpTransport(), []
            for _ in range(2):
                trace = Trace()
                async with http.send(HttpCall(url, {}, {}), trace, 5.0) as reply:
                    assert [f.data async for f in reply.frames()] == ['{"a": 1}']
                traces.append(trace)
                closed.set()
                while len(traces) == 1 and http.idle(url):  # noqa: ASYNC110 - the system tells in its own time
                    await asyncio.sleep(0.001)
            await http.close()
            return [t.reused for t in traces]

        assert [False, False] == asyncio.run(asyncio.wait_for(work(), 20))
    assert 2 == len(count)


def test_a_connection_that_the_server_lets_go_while_it_is_taken_is_replaced():
    """It closes as the second request arrives, before a byte of an answer: the request goes out again on a new connection. A
    new connection that is closed so is an error."""
    answer = CHUNKED + chunk(EVENT) + b"0\r\n\r\n"
    with server([None, answer, None, "close"], [None, answer]) as (url, count):
        first, second = ask(url, 2)
    assert ['{"a": 1}'] == first[1] == second[1]
    assert (2, False) == (len(count), second[2].reused)
    with server([None, "close"], [None, answer]) as (url, count), pytest.raises(errors.StreamCut, match="before it answered"):
        ask(url)
    assert 1 == len(count)


def test_a_fresh_request_has_a_connection_of_its_own():
    """It neither takes an idle one nor leaves one."""
    answer = CHUNKED + chunk(EVENT) + b"0\r\n\r\n"
    with server(*[[None, answer]] * 3) as (url, count):
        assert [False] * 3 == [t.reused for _, _, t in ask(url, 3, fresh=True)]
    assert 3 == len(count)


def test_a_header_that_could_smuggle_another_is_refused():
    """Before anything is sent, and without showing the value."""
    with pytest.raises(errors.ConfigError) as caught:
        Letter(HttpCall("http://127.0.0.1:1/", {"x-api-key": "secret\r\nx-other: 1"}, {}))
    assert "secret" not in str(caught.value)


def test_tls_is_measured_apart_and_checked(monkeypatch):
    """connect and TLS have their own marks; a certificate that nobody vouches for is refused in words."""
    authority = trustme.CA()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.0.1").configure_cert(context)
    answer = CHUNKED + chunk(EVENT) + b"0\r\n\r\n"
    with server([None, answer, None, answer], context=context) as (url, _), authority.cert_pem.tempfile() as path:
        monkeypatch.setenv("SSL_CERT_FILE", path)
        first, second = ask(url, 2)
    marks = first[2].marks
    order = [marks[name] for name in ("connect_start", "connected", "tls_start", "secured", "send_start", "sent")]
    assert sorted(order) == order
    assert ['{"a": 1}'] == first[1] == second[1]
    assert (False, True) == (first[2].reused, second[2].reused)
    assert {"kernel" if sys.platform.startswith("linux") else "recv"} == {r.stamp for r in second[2].reads}
    monkeypatch.delenv("SSL_CERT_FILE")
    with server([None, answer], context=context) as (url, _), pytest.raises(errors.ConnectFailed, match="certificate"):
        ask(url)


def stamped(*pieces):
    """(frames, trace) where the server sends each piece after the client has seen an event of the one before."""
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
    loop_blocked = threading.Event()

    def block(frame):
        if not loop_blocked.is_set():
            loop_blocked.set()
            time.sleep(0.05)  # the loop sleeps on the job: what comes meanwhile is found in one read

    with server([None, CHUNKED + chunk(EVENT), loop_blocked, chunk(OTHER), chunk(EVENT), b"0\r\n\r\n"]) as (url, _):
        ((_, data, trace),) = ask(url, on_frame=block)
    late = trace.reads[-1]
    assert 3 == len(data)
    assert (True, False) == (late.segments >= 2, late.clean)
    assert late.user - late.at > 0.02, "the kernel's stamp does not know that the client slept"


@LINUX
@pytest.mark.parametrize("tail", [b": ping\n\n", b"", b'data: {"b"'])
def test_what_follows_an_event_in_its_read_makes_its_stamp_an_upper_bound(tail):
    """A comment, or the beginning of another event, may have come later; nothing at all has not."""
    frames, trace = stamped(CHUNKED + chunk(EVENT + tail), *([chunk(b": 2}\n\n")] if tail[:4] == b"data" else []), b"0\r\n\r\n")
    assert (tail == b"") == trace.reads[frames[0].read].clean


def test_the_mark_of_the_end_of_the_answer():
    """eof is the arrival of the last chunk's end, after the last event."""
    frames, trace = stamped(CHUNKED + chunk(EVENT), b"0\r\n\r\n")
    assert trace.marks["eof"] > frames[-1].at
