"""One connection: TCP or TLS on a non-blocking socket, HTTP/1.1 answers read by httptools as their bytes
arrive.

Reads happen in the loop's reader callback, at once, whether or not anybody waits for them: a consumer that is
late does not make the stamps late. What was read waits in `_pieces`, one piece a read; above _HIGH bytes the
socket is left alone until the consumer has caught up.
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

_HIGH, _LOW = 2**22, 2**20  # bytes that wait for the consumer
_HEAD_LIMIT = (
    2**18
)  # bytes of status line and headers, and of whatever else stands beside a body without a byte of it
_HEADERS = 256  # how many of them
_TLS_ALERT, _HTTP = b"\x15\x03", b"HTTP/"
_HAPPY_EYEBALLS_DELAY = 0.25  # seconds until a second address is tried beside the first (RFC 8305)


class Head(msgspec.Struct):
    """The answer being read: its status line and headers, and how far it has come."""

    status: int = 0
    version: str = "1.1"
    headers: list[tuple[bytes, bytes]] = msgspec.field(default_factory=list)
    size: int = 0
    complete: bool = False  # the headers
    ended: bool = False  # the body
    boundary: bool = False  # the last thing parsed was the end of a chunk, or of the body by its length
    chunked: bool = False
    framed: bool = False  # by chunks or by a length: then the end of the connection is not an end
    begun: bool = False  # the first byte of the body, or the first chunk's size
    raw: bytes = b""  # all that came until then
    tidy: LenientRewriter | None = None  # what makes strict an answer that the parser refused


class Connection:
    """A connection to one origin. Carries one request at a time; used on one loop."""

    def __init__(self, sock: socket.socket, loop: asyncio.AbstractEventLoop) -> None:
        self._sock, self._loop = sock, loop
        self._stamped = StampedSocket(sock, getattr(loop, "clock", None))
        self._tls: ssl.SSLObject | None = None
        self._pieces: deque[tuple[bytes, Read]] = deque()
        self._waiting = 0  # bytes in _pieces
        self._watched = False
        self._wake: asyncio.Future[bool] | None = None
        self._taker: Callable[[bytes, Read], object] | None = None
        self._error: Exception | None = None
        self._parser: Any = None
        self._keeps = False  # both sides keep the connection after this answer
        self._body: list[bytes] = []
        self._marks: dict[str, float] = {}  # of the trace of what is under way
        self.head = Head(ended=True)
        self.closed = False
        self.created = self.released = time.perf_counter()
        self.uses = 0

    @classmethod
    async def open(
        cls, origin: Address, trace: Trace, context: ssl.SSLContext | None, *, public: bool = False
    ) -> Connection:
        """Connects and writes the marks. public: to an address of the internet only. Raises OSError,
        ssl.SSLError, ConnectFailed for an address that is not public."""
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
        """One read, outside the reader callback."""
        while True:
            try:
                return self._stamped.read()[0]
            except (BlockingIOError, InterruptedError):
                await self._ready(self._loop.add_reader, self._loop.remove_reader)

    async def _flush(self) -> float:
        return await self._send_all(self._outgoing.read())

    # --- one exchange ---

    async def exchange(self, request: bytes, trace: Trace) -> Head:
        """Sends a whole request and gives the answer's head once it is there. Raises OSError and
        Faults."""
        self.head, self._marks, self._parser = Head(), trace.marks, self._new_parser()
        self.uses += 1
        self._marks["send_start"] = time.perf_counter()
        try:
            self._marks["sent"] = await self._send(request)
        except OSError:
            if not self.closed:
                self._on_readable()
            if not self.head.complete:
                raise  # else the server has answered early and hung up: the answer is worth more
        while not self.head.complete:
            await self._more()
        return self.head

    async def _send(self, data: bytes) -> float:
        if self._tls is None:
            return await self._send_all(data)
        self._tls.write(data)  # a memory BIO takes it all
        return await self._flush()

    async def _send_all(self, data: bytes) -> float:
        """Sends everything; gives the moment at which the last piece was handed to the system. Not the moment
        at which that call came back: a server on this machine may be given the processor meanwhile, and has
        the request already."""
        view, at = memoryview(data), time.perf_counter()
        while view:
            at = time.perf_counter()
            try:
                view = view[self._sock.send(view) :]
            except (BlockingIOError, InterruptedError):
                await self._ready(self._loop.add_writer, self._loop.remove_writer)
        return at

    async def _ready(self, watch: Callable[..., Any], forget: Callable[[socket.socket], Any]) -> None:
        """Returns when the socket can be read or written."""
        ready = self._loop.create_future()
        watch(self._sock, _set_ready, ready)
        try:
            await ready
        finally:
            forget(self._sock)

    async def piece(self) -> tuple[bytes, Read] | None:
        """The next piece of the body, None at its end. Raises Unreadable or ReadError where it
        is cut."""
        while not self._pieces:
            if self.head.ended:
                return None
            await self._more()
        return self._popped()

    def _popped(self) -> tuple[bytes, Read]:
        data, read = self._pieces.popleft()
        self._waiting -= len(data)
        if not self._watched and not self.closed and self._waiting < _LOW:
            self._stamped.unwatched()
            self._watch()
        return data, read

    async def each(self, take: Callable[[bytes, Read], object]) -> None:
        """Hands every piece of the body to `take`, in the very callback that read it; ends with the body, or
        where `take` gives something true. Raises as `piece` does, and what `take` raises."""
        self._taker = take
        try:
            while not (self._handed(take) or await self._more()):
                pass
        finally:
            self._taker = None

    def _handed(self, take: Callable[[bytes, Read], object]) -> bool:
        """Hands over what waits; whether that was all."""
        while self._pieces:
            if take(*self._popped()):
                return True
        return self.head.ended

    async def _more(self) -> bool:
        """Returns when something has come; whether what came was handed over to its end."""
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
        self._watched = True

    def _unwatch(self) -> None:
        if self._watched:
            self._loop.remove_reader(self._sock)
            self._watched = False

    def _on_readable(self) -> None:
        try:
            self._take(*self._stamped.read())
        except (BlockingIOError, InterruptedError):
            return
        except OSError as exc:
            self._fail(ConnectionBroken(str(exc)))
        except InvalidResponse as exc:
            self._fail(exc)
        if (wake := self._wake) is None or wake.done():
            return
        try:
            over = self._taker is not None and self._handed(self._taker)
        except Exception as exc:  # noqa: BLE001 - it belongs to who waits
            wake.set_exception(exc)
        else:
            if over or self._taker is None or self._error is not None:
                wake.set_result(over)

    def _take(self, data: bytes, read: Read) -> None:
        ended = not data
        if self._tls is not None:
            data, ended = self._decrypted(data)
        if data:
            self._parse(data, read)
        if ended:
            self._at_end()

    def _decrypted(self, data: bytes) -> tuple[bytes, bool]:
        """The plain bytes in `data`, and whether the connection has ended."""
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
            raise InvalidResponse("bytes came that nobody asked for")
        marks, before = self._marks, self.head.complete
        marks.setdefault("first_byte", read.at)
        if self.head.size > _HEAD_LIMIT:  # counted here too: the parser tells of a header once it is whole
            raise InvalidResponse("its headers are too large")
        wrong = self._fed(data)
        if self.head.complete and not before:
            marks["headers"] = read.at
        if self.head.ended:
            marks["eof"] = read.at
        self.head.size = 0 if self._body else self.head.size + len(data)
        if self._body:
            body = b"".join(self._body)
            self._body.clear()
            self._pieces.append((body, read if self._at_boundary(data) else read._replace(clean=False)))
            self._waiting += len(body)
            if self._waiting > _HIGH:
                self._unwatch()
        if wrong:  # what stood before it in the same read is kept
            raise InvalidResponse(wrong)

    def _fed(self, data: bytes) -> str:
        """What is wrong with the bytes, "" for nothing."""
        head = self.head
        if not head.begun:
            head.raw += data
        try:
            strict = data if head.tidy is None else head.tidy.feed(data)
            if strict:
                self._parser.feed_data(strict)
        except httptools.HttpParserCallbackError as exc:
            return str(exc.__context__ or exc)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade) as exc:
            if head.status == 101 or "Upgrade" in str(exc):
                return "it wants another protocol"
            if head.begun or head.ended or head.tidy is not None:
                return f"it is no HTTP/1.1: {exc}"
        except ValueError as exc:  # of Tidy
            return str(exc)
        else:
            return ""
        return self._tidied()

    def _tidied(self) -> str:
        """Begins again with an answer that the strict parser refused; as _fed."""
        head, raw = self.head, self.head.raw
        if raw.startswith(_TLS_ALERT):
            return "it speaks TLS, so the address begins with https://"
        if not _HTTP.startswith(raw[: len(_HTTP)].upper()):
            return f"it does not speak HTTP, and began with {raw[:40].decode('latin-1')!r}"
        head.headers.clear()
        head.raw, head.tidy, head.complete = b"", LenientRewriter(), False
        self._parser = self._new_parser()
        return self._fed(raw)

    def _new_parser(self) -> Any:
        parser = httptools.HttpResponseParser(self)
        parser.set_dangerous_leniencies(lenient_spaces_after_chunk_size=True)
        return parser

    def _at_boundary(self, data: bytes) -> bool:
        """Whether nothing follows the body in these bytes: neither the next chunk's size nor the last
        chunk."""
        return not self.head.chunked or (self.head.boundary and data.endswith(b"\r\n"))

    def _at_end(self) -> None:
        if self.head.complete and not self.head.framed and self._error is None:
            self.head.ended = True
            self._marks["eof"] = time.perf_counter()
        elif not self.head.ended:
            self._error = self._error or ConnectionBroken("closed before its end")
        self.close()

    def _fail(self, error: Exception) -> None:
        self._error = self._error or error
        self.close()

    # --- httptools calls these ---

    def on_header(self, name: bytes, value: bytes) -> None:
        """One header; a trailer after the body is dropped."""
        head = self.head
        if len(name) + len(value) > _HEAD_LIMIT or len(head.headers) >= _HEADERS:
            raise ValueError("its headers are too large, or too many")
        if not head.complete:
            head.headers.append((name, value))

    def on_headers_complete(self) -> None:
        """The blank line."""
        head = self.head
        if head.ended:
            raise ValueError("a second answer follows the first")
        head.status, head.version = self._parser.get_status_code(), self._parser.get_http_version()
        if head.status >= 200:
            named = {name.lower(): value.lower() for name, value in head.headers}
            codings = named.get(b"transfer-encoding", b"")
            head.chunked = b"chunked" in codings
            odd = [
                c for c in codings.replace(b" ", b"").split(b",") if c not in (b"", b"chunked", b"identity")
            ]
            if odd:
                raise ValueError(f"it is sent as {odd[0][:40].decode('latin-1')!r}, which was not asked for")
            head.framed = head.chunked or b"content-length" in named or head.status in (204, 304)
            head.complete = True

    def on_body(self, data: bytes) -> None:
        """A piece of the body."""
        self._body.append(data)
        self.head.begun, self.head.boundary = True, False

    def on_chunk_header(self) -> None:
        """A chunk's size line: what follows came later than what was before."""
        self.head.begun, self.head.boundary = True, False

    def on_chunk_complete(self) -> None:
        """A chunk's end."""
        self.head.boundary = True

    def on_message_complete(self) -> None:
        """The answer's end; that of an interim one (1xx) only makes room for the real one."""
        if self.head.complete:
            self.head.ended, self.head.boundary, self._keeps = True, False, self._parser.should_keep_alive()
        else:
            self.head.headers.clear()

    # --- life ---

    def reusable(self) -> bool:
        """Whether another request may go this way: the answer was read to its end and both sides keep the
        connection."""
        return not self.closed and self.head.ended and not self._pieces and self._keeps

    def rest(self) -> None:
        """Nothing is under way: what was seen of the last answer is let go."""
        self.released, self._marks = time.perf_counter(), {}

    def alive(self) -> bool:
        """Whether the idle connection is still open: nothing waits to be read, not even its end."""
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


def check_public(host: str, found: list[Any]) -> None:
    """Raises ConnectFailed where one of the addresses that a name leads to is not public: a name may be
    anybody's, and lead into this machine's own network."""
    if not are_all_public(found):
        raise ConnectFailed(
            f"{host} leads to an address that is not on the public internet.",
            hint="Where that is meant, say private=True.",
        )


def _literal_address(host: str, port: int) -> list[Any] | None:
    """The address of a host that is one already."""
    address = parse_ip(host)
    if address is None or "%" in host:  # what names an interface is looked up
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
