"""One connection: TCP or TLS on a non-blocking socket, HTTP/1.1 responses parsed by httptools as bytes
arrive.

Reads happen in the loop's reader callback, immediately, whether or not a consumer waits: a slow consumer does
not delay the stamps. Data waits in `_chunks`, one chunk per read; above _HIGH bytes the socket is not read
until the consumer has caught up.
"""

from __future__ import annotations

import asyncio
import socket
import ssl
import time
from collections import deque
from collections.abc import Callable
from typing import Any

import aiohappyeyeballs
import httptools
import msgspec

from ..core.addresses import Address, are_all_public, parse_ip
from ..core.calls import Read, Trace
from ..core.errors import ConnectFailed
from .faults import ConnectionBroken, InvalidResponse
from .lenient import LenientRewriter
from .stamps import StampedSocket

_HIGH, _LOW = 2**22, 2**20  # bytes waiting for the consumer, at which reading stops and resumes
_HEAD_LIMIT = 2**18  # bytes of status line and headers, and of other data without any of the body
_MAX_HEADERS = 256
_TLS_ALERT, _HTTP = b"\x15\x03", b"HTTP/"
_HAPPY_EYEBALLS_DELAY = 0.25  # seconds until a second address is tried in parallel (RFC 8305)


class Head(msgspec.Struct):
    """The response being read: its status line and headers, and the state of reading."""

    status: int = 0
    version: str = "1.1"
    headers: list[tuple[bytes, bytes]] = msgspec.field(default_factory=list)
    size: int = 0
    complete: bool = False  # the headers
    ended: bool = False  # the body
    boundary: bool = False  # the last parsed item was the end of an HTTP chunk or of the body
    chunked: bool = False
    framed: bool = False  # chunked or with a length: then the end of the connection does not end the body
    begun: bool = False  # the first byte of the body or the first chunk's size has arrived
    raw: bytes = b""  # all data before that
    rewriter: LenientRewriter | None = None  # for a response that the strict parser refused


class Connection:
    """A connection to one origin, for one request at a time. Used on one loop."""

    def __init__(self, sock: socket.socket, loop: asyncio.AbstractEventLoop) -> None:
        self._sock, self._loop = sock, loop
        self._stamped = StampedSocket(sock, getattr(loop, "clock", None))
        self._tls: ssl.SSLObject | None = None
        self._chunks: deque[tuple[bytes, Read]] = deque()
        self._waiting_bytes = 0  # in _chunks
        self._is_watched = False
        self._wake: asyncio.Future[bool] | None = None
        self._handler: Callable[[bytes, Read], object] | None = None
        self._error: Exception | None = None
        self._parser: Any = None
        self._keep_alive = False  # both sides keep the connection open after this response
        self._body: list[bytes] = []
        self._marks: dict[str, float] = {}  # of the current request's trace
        self.head = Head(ended=True)
        self.closed = False
        self.created = self.released = time.perf_counter()
        self.uses = 0

    @classmethod
    async def open(
        cls, origin: Address, trace: Trace, context: ssl.SSLContext | None, *, public: bool = False
    ) -> Connection:
        """Connects and sets the marks. public: to a public address only. Raises OSError, ssl.SSLError, and
        ConnectFailed for a non-public address."""
        host, port = origin.host, origin.port
        loop, marks = asyncio.get_running_loop(), trace.marks
        addresses = _literal_address(host, port)
        if addresses is None:
            marks["dns_start"] = time.perf_counter()
            addresses = await loop.getaddrinfo(host, port, type=socket.SOCK_STREAM)
            marks["dns"] = time.perf_counter()
        if public:
            check_public(host, addresses)
        marks["connect_start"] = time.perf_counter()
        sock = await aiohappyeyeballs.start_connection(
            addresses, happy_eyeballs_delay=_HAPPY_EYEBALLS_DELAY, interleave=1, loop=loop
        )
        marks["connected"] = time.perf_counter()
        self = cls(sock, loop)
        try:
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            if context is not None:
                marks["tls_start"] = time.perf_counter()
                await self._handshake(context, host)
                marks["secured"] = time.perf_counter()
                trace.resumed = self._tls.session_reused if self._tls else None
        except BaseException:
            self.close()
            raise
        self._watch()
        return self

    async def _handshake(self, context: ssl.SSLContext, host: str) -> None:
        self._incoming, self._outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        tls = self._tls = context.wrap_bio(self._incoming, self._outgoing, server_hostname=host)
        while True:
            try:
                tls.do_handshake()
            except ssl.SSLWantReadError:
                await self._flush()
                data = await self._next_bytes()
                self._incoming.write(data) if data else self._incoming.write_eof()
            else:
                await self._flush()
                return

    async def _next_bytes(self) -> bytes:
        """Reads once, outside the reader callback."""
        while True:
            try:
                return self._stamped.read()[0]
            except (BlockingIOError, InterruptedError):
                await self._wait_until_ready(self._loop.add_reader, self._loop.remove_reader)

    async def _flush(self) -> float:
        return await self._send_all(self._outgoing.read())

    # --- one exchange ---

    async def exchange(self, request: bytes, trace: Trace) -> Head:
        """Sends a complete request and waits for the response's headers. Raises OSError and Faults."""
        self.head, self._marks, self._parser = Head(), trace.marks, self._new_parser()
        self.uses += 1
        self._marks["send_start"] = time.perf_counter()
        try:
            self._marks["sent"] = await self._send(request)
        except OSError:
            if not self.closed:
                self._on_readable()
            if not self.head.complete:
                raise  # otherwise the server answered early and closed the connection: its answer counts
        while not self.head.complete:
            await self._wait()
        return self.head

    async def _send(self, data: bytes) -> float:
        if self._tls is None:
            return await self._send_all(data)
        self._tls.write(data)  # a memory BIO accepts any amount
        return await self._flush()

    async def _send_all(self, data: bytes) -> float:
        """Sends everything; returns the moment at which the last piece was handed to the system. Not the
        moment at which that call returned: a server on this machine may get the processor in between, when it
        has the request already."""
        view, at = memoryview(data), time.perf_counter()
        while view:
            at = time.perf_counter()
            try:
                view = view[self._sock.send(view) :]
            except (BlockingIOError, InterruptedError):
                await self._wait_until_ready(self._loop.add_writer, self._loop.remove_writer)
        return at

    async def _wait_until_ready(
        self, watch: Callable[..., Any], unwatch: Callable[[socket.socket], Any]
    ) -> None:
        """Waits until the socket can be read or written."""
        ready = self._loop.create_future()
        watch(self._sock, _set_ready, ready)
        try:
            await ready
        finally:
            unwatch(self._sock)

    async def next_chunk(self) -> tuple[bytes, Read] | None:
        """The next chunk of the body, None at its end. Raises InvalidResponse or ConnectionBroken."""
        while not self._chunks:
            if self.head.ended:
                return None
            await self._wait()
        return self._pop()

    def _pop(self) -> tuple[bytes, Read]:
        data, read = self._chunks.popleft()
        self._waiting_bytes -= len(data)
        if not self._is_watched and not self.closed and self._waiting_bytes < _LOW:
            self._stamped.ignore_polls()
            self._watch()
        return data, read

    async def for_each_chunk(self, handle: Callable[[bytes, Read], object]) -> None:
        """Passes every chunk of the body to `handle`, in the callback that read it; ends with the body, or
        when `handle` returns a true value. Raises as `next_chunk` does, and what `handle` raises."""
        self._handler = handle
        try:
            while not (self._deliver(handle) or await self._wait()):
                pass
        finally:
            self._handler = None

    def _deliver(self, handle: Callable[[bytes, Read], object]) -> bool:
        """Passes the waiting chunks to `handle`; returns whether that was the end."""
        while self._chunks:
            if handle(*self._pop()):
                return True
        return self.head.ended

    async def _wait(self) -> bool:
        """Waits until data has arrived; returns whether all of the body was delivered."""
        if self._error is not None:
            raise self._error
        self._wake = self._loop.create_future()
        try:
            return await self._wake
        finally:
            self._wake = None

    # --- reading, in the loop's callback ---

    def _watch(self) -> None:
        self._loop.add_reader(self._sock, self._on_readable)
        self._is_watched = True

    def _unwatch(self) -> None:
        if self._is_watched:
            self._loop.remove_reader(self._sock)
            self._is_watched = False

    def _on_readable(self) -> None:
        try:
            self._receive(*self._stamped.read())
        except (BlockingIOError, InterruptedError):
            return
        except OSError as exc:
            self._fail(ConnectionBroken(str(exc)))
        except InvalidResponse as exc:
            self._fail(exc)
        if (wake := self._wake) is None or wake.done():
            return
        try:
            ended = self._handler is not None and self._deliver(self._handler)
        except Exception as exc:  # noqa: BLE001 - raised in the waiting coroutine
            wake.set_exception(exc)
        else:
            if ended or self._handler is None or self._error is not None:
                wake.set_result(ended)

    def _receive(self, data: bytes, read: Read) -> None:
        ended = not data
        if self._tls is not None:
            data, ended = self._decrypt(data)
        if data:
            self._parse(data, read)
        if ended:
            self._on_end()

    def _decrypt(self, data: bytes) -> tuple[bytes, bool]:
        """(the decrypted data, whether the connection has ended)."""
        assert self._tls is not None
        self._incoming.write(data) if data else self._incoming.write_eof()
        plain = []
        try:
            while part := self._tls.read(2**16):
                plain.append(part)
        except ssl.SSLWantReadError:
            return b"".join(plain), False
        except (ssl.SSLZeroReturnError, ssl.SSLEOFError):
            return b"".join(plain), True
        except ssl.SSLError as exc:
            self._error = self._error or ConnectionBroken(f"TLS: {exc.reason}")
        return b"".join(plain), True

    def _parse(self, data: bytes, read: Read) -> None:
        if self.head.ended:
            raise InvalidResponse("it sent data without a request")
        marks, before = self._marks, self.head.complete
        marks.setdefault("first_byte", read.at)
        if self.head.size > _HEAD_LIMIT:  # checked here too: the parser reports a header once it is complete
            raise InvalidResponse("its headers are too large")
        problem = self._feed_parser(data)
        if self.head.complete and not before:
            marks["headers"] = read.at
        if self.head.ended:
            marks["eof"] = read.at
        self.head.size = 0 if self._body else self.head.size + len(data)
        if self._body:
            body = b"".join(self._body)
            self._body.clear()
            self._chunks.append((body, read if self._at_boundary(data) else read._replace(clean=False)))
            self._waiting_bytes += len(body)
            if self._waiting_bytes > _HIGH:
                self._unwatch()
        if problem:  # the valid data before it in the same read is kept
            raise InvalidResponse(problem)

    def _feed_parser(self, data: bytes) -> str:
        """Parses the data; returns what is wrong with it, "" for nothing."""
        head = self.head
        if not head.begun:
            head.raw += data
        try:
            strict = data if head.rewriter is None else head.rewriter.feed(data)
            if strict:
                self._parser.feed_data(strict)
        except httptools.HttpParserCallbackError as exc:
            return str(exc.__context__ or exc)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade) as exc:
            if head.status == 101 or "Upgrade" in str(exc):
                return "it demands another protocol"
            if head.begun or head.ended or head.rewriter is not None:
                return f"it is not HTTP/1.1: {exc}"
        except ValueError as exc:  # from LenientRewriter
            return str(exc)
        else:
            return ""
        return self._parse_leniently()

    def _parse_leniently(self) -> str:
        """Parses a response again that the strict parser refused; returns the same as _feed_parser."""
        head, raw = self.head, self.head.raw
        if raw.startswith(_TLS_ALERT):
            return "it speaks TLS, so the address must begin with https://"
        if not _HTTP.startswith(raw[: len(_HTTP)].upper()):
            return f"it does not speak HTTP; its data begins with {raw[:40].decode('latin-1')!r}"
        head.headers.clear()
        head.raw, head.rewriter, head.complete = b"", LenientRewriter(), False
        self._parser = self._new_parser()
        return self._feed_parser(raw)

    def _new_parser(self) -> Any:
        parser = httptools.HttpResponseParser(self)
        parser.set_dangerous_leniencies(lenient_spaces_after_chunk_size=True)
        return parser

    def _at_boundary(self, data: bytes) -> bool:
        """Whether nothing follows the body in this data: neither the next HTTP chunk's size nor the last
        chunk."""
        return not self.head.chunked or (self.head.boundary and data.endswith(b"\r\n"))

    def _on_end(self) -> None:
        if self.head.complete and not self.head.framed and self._error is None:
            self.head.ended = True
            self._marks["eof"] = time.perf_counter()
        elif not self.head.ended:
            self._error = self._error or ConnectionBroken("closed before its end")
        self.close()

    def _fail(self, error: Exception) -> None:
        self._error = self._error or error
        self.close()

    # --- callbacks of httptools ---

    def on_header(self, name: bytes, value: bytes) -> None:
        """A header; trailers after the body are ignored."""
        head = self.head
        if len(name) + len(value) > _HEAD_LIMIT or len(head.headers) >= _MAX_HEADERS:
            raise ValueError("its headers are too large, or too many")
        if not head.complete:
            head.headers.append((name, value))

    def on_headers_complete(self) -> None:
        """The end of the headers."""
        head = self.head
        if head.ended:
            raise ValueError("it sent a second response")
        head.status, head.version = self._parser.get_status_code(), self._parser.get_http_version()
        if head.status >= 200:
            named = {name.lower(): value.lower() for name, value in head.headers}
            codings = named.get(b"transfer-encoding", b"")
            head.chunked = b"chunked" in codings
            other = [
                c for c in codings.replace(b" ", b"").split(b",") if c not in (b"", b"chunked", b"identity")
            ]
            if other:
                raise ValueError(
                    f"it is sent as {other[0][:40].decode('latin-1')!r}, which was not requested"
                )
            head.framed = head.chunked or b"content-length" in named or head.status in (204, 304)
            head.complete = True

    def on_body(self, data: bytes) -> None:
        """Data of the body."""
        self._body.append(data)
        self.head.begun, self.head.boundary = True, False

    def on_chunk_header(self) -> None:
        """A chunk's size line: data after it arrived later than data before it."""
        self.head.begun, self.head.boundary = True, False

    def on_chunk_complete(self) -> None:
        """The end of a chunk."""
        self.head.boundary = True

    def on_message_complete(self) -> None:
        """The end of the response; after an interim one (1xx) the real one follows."""
        if self.head.complete:
            self.head.ended, self.head.boundary, self._keep_alive = (
                True,
                False,
                self._parser.should_keep_alive(),
            )
        else:
            self.head.headers.clear()

    # --- state ---

    def is_reusable(self) -> bool:
        """Whether another request can be sent: the response was read to its end and both sides keep the
        connection open."""
        return not self.closed and self.head.ended and not self._chunks and self._keep_alive

    def mark_idle(self) -> None:
        """Called when no request is active; releases the trace of the last one."""
        self.released, self._marks = time.perf_counter(), {}

    def is_alive(self) -> bool:
        """Whether the idle connection is still open: nothing can be read from it, not even its end."""
        if self.closed:
            return False
        try:
            self._sock.recv(1, socket.MSG_PEEK)
        except (BlockingIOError, InterruptedError):
            return True
        except OSError:
            pass
        self.close()
        return False

    def close(self) -> None:
        """Closes the socket."""
        if not self.closed:
            self.closed = True
            self._unwatch()
            self._sock.close()


def check_public(host: str, resolved: list[Any]) -> None:
    """Raises ConnectFailed if one of the addresses of a name is not public: the owner of a name can make it
    resolve to an address in this machine's network."""
    if not are_all_public(resolved):
        raise ConnectFailed(
            f"{host} resolves to an address that is not on the public internet.",
            hint="If that is intended, set private=True.",
        )


def _literal_address(host: str, port: int) -> list[Any] | None:
    """The getaddrinfo result for a host that is an IP address; None for a name."""
    address = parse_ip(host)
    if address is None or "%" in host:  # an interface name is resolved by the system
        return None
    family = socket.AF_INET if address.version == 4 else socket.AF_INET6
    return [
        (
            family,
            socket.SOCK_STREAM,
            socket.IPPROTO_TCP,
            "",
            (host, port) if address.version == 4 else (host, port, 0, 0),
        )
    ]


def _set_ready(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)
