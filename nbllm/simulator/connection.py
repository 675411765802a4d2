"""HTTP/1.1 on asyncio: h11 parses the requests, an AnswerWriter writes each answer. A connection serves one
request after another."""

from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import Callable
from typing import Any, cast
from urllib.parse import parse_qsl, unquote

import h11

from .guard import Guard
from .plan import WireEvent
from .protocols import HttpRequest
from .service import Answer, Arrival, Service
from .writer import AnswerWriter

MAX_BODY = 64 << 20
MAX_TARGET = 8_000  # characters of a path and its query


class Connection(asyncio.Protocol):
    """One client's connection."""

    def __init__(
        self,
        service: Service,
        loop: asyncio.AbstractEventLoop,
        on_change: Callable[[Connection, bool], None],
        guard: Guard,
    ) -> None:
        self.service, self.loop, self._on_change, self._guard = service, loop, on_change, guard
        self._h11 = h11.Connection(h11.SERVER, max_incomplete_event_size=1 << 20)
        self._request: h11.Request | None = None
        self._body: list[bytes] = []
        self._size = self._count = 0
        self.writer: AnswerWriter | None = None
        self.paused = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """A client connected."""
        self.transport = cast(asyncio.Transport, transport)
        self.connected_ns = self._received_ns = time.monotonic_ns()
        self.sock: socket.socket = transport.get_extra_info("socket")
        self.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.port = int(transport.get_extra_info("peername")[1])
        self._on_change(self, True)

    def data_received(self, data: bytes) -> None:
        """Bytes of a request arrived. Their time is taken before parsing, so that the time of parsing counts
        as the server's."""
        self._received_ns = time.monotonic_ns()
        self._h11.receive_data(data)
        self.advance()

    def eof_received(self) -> bool:
        """The client closed its side; nobody reads the answer any more."""
        if self.writer:
            self.writer.abort()
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        """The connection was closed or lost."""
        if self.writer:
            self.writer.abort()
        self._on_change(self, False)

    def pause_writing(self) -> None:
        """The client reads too slowly: the write buffers are full."""
        self.paused = True

    def resume_writing(self) -> None:
        """The write buffers have space again."""
        self.paused = False
        if self.writer:
            self.writer.resume()

    def advance(self) -> None:
        """Parses until a request is complete or more bytes are needed."""
        try:
            while not self.writer and not self.transport.is_closing():
                event = self._h11.next_event()
                if event is h11.NEED_DATA:
                    if self._h11.they_are_waiting_for_100_continue:
                        response = h11.InformationalResponse(status_code=100, headers=[])
                        self.transport.write(self._h11.send(response))
                    return
                if event is h11.PAUSED or not self._handle(event):
                    return
        except h11.RemoteProtocolError as error:
            self._refuse(error.error_status_hint, str(error))

    def _handle(self, event: Any) -> bool:
        if isinstance(event, h11.Request):
            self._request, self._body, self._size = event, [], 0
            refusal = self._guard.refusal(event.headers) or (
                (414, "the path is too long") if len(event.target) > MAX_TARGET else None
            )
            if refusal:
                self._refuse(*refusal)
                return False
        elif isinstance(event, h11.Data):
            self._body.append(bytes(event.data))
            self._size += len(event.data)
            if self._size > MAX_BODY:
                self._refuse(413, "the body is too large")
                return False
        elif isinstance(event, h11.EndOfMessage):
            self._respond()
        else:
            self.transport.close()
            return False
        return True

    def _refuse(self, status: int, message: str) -> None:
        body = message.encode()
        head = (
            b"HTTP/1.1 %d Refused\r\nconnection: close\r\nx-nbllm-simulated: 1\r\ncontent-length: %d\r\n\r\n"
            % (status, len(body))
        )
        self.transport.write(head + body)
        self.transport.close()

    def _respond(self) -> None:
        received = self._received_ns
        assert self._request is not None
        self._count += 1
        arrival = Arrival(self.port, self._count == 1, self.connected_ns, received, time.time())
        try:
            answer = self.service.answer(_request(self._request, b"".join(self._body)), arrival)
            writer = self._make_writer(answer, received)
        # an unforeseen request must get an answer too
        except Exception as error:  # noqa: BLE001
            self._refuse(400, f"The request cannot be answered: {type(error).__name__}")
            return
        self.writer = writer
        writer.run()

    def _make_writer(self, answer: Answer, received: int) -> AnswerWriter:
        assert self._request is not None
        if self._request.method == b"HEAD":
            answer.framing, answer.events = "length", iter((WireEvent("error", b"", 0.0),))
        if self._request.http_version == b"1.0" and answer.framing == "chunked":
            answer.framing, answer.headers = (
                "close",
                [h for h in answer.headers if h[0] != "transfer-encoding"],
            )
        return AnswerWriter(self, self._h11, answer, received)

    def finished(self, closing: bool) -> None:
        """The answer was written; the next request may be read."""
        self.writer = None
        if closing or self._h11.our_state is not h11.DONE or self._h11.their_state is not h11.DONE:
            self.transport.close()
            return
        self._h11.start_next_cycle()
        self._received_ns = time.monotonic_ns()  # of a pipelined request
        self.loop.call_soon(self.advance)


def _request(head: h11.Request, body: bytes) -> HttpRequest:
    target, _, query = head.target.decode("ascii").partition("?")
    headers = {name.decode("ascii"): value.decode("latin-1") for name, value in head.headers}
    path = (
        "/" + target.partition("://")[2].partition("/")[2]
        if "://" in target.partition("?")[0][:8]
        else target
    )
    return HttpRequest(head.method.decode("ascii"), unquote(path), dict(parse_qsl(query)), headers, body)
