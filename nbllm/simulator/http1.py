"""HTTP/1.1 on asyncio: h11 reads requests, a Player writes the answer's events at their moments.

Each connection answers one request after another. Pacing is by callbacks at absolute times, with the next write made
ready before its moment, so that what a stamp brackets is the socket write and nothing else. The server's loop lags when
the machine does; a chunk is never early, and its record says how late it was (`send_ns - due_ns`).
"""

from __future__ import annotations

import asyncio
import socket
import struct
import time
from collections.abc import Callable
from typing import Any, cast
from urllib.parse import parse_qsl, unquote

import h11

from .formats import Request
from .plan import Out
from .service import Answer, Arrival, Service

MAX_BODY = 64 << 20
_AT_ONCE = 32  # writes that are due together before other connections get their turn
_RESET = struct.pack("ii", 1, 0)  # SO_LINGER: on, zero seconds; closing then sends RST


class Connection(asyncio.Protocol):
    """One client's connection."""

    def __init__(self, service: Service, loop: asyncio.AbstractEventLoop, opened: Callable[[Connection, bool], None]) -> None:
        self.service, self.loop, self._opened = service, loop, opened
        self._h11 = h11.Connection(h11.SERVER, max_incomplete_event_size=1 << 20)
        self._request: h11.Request | None = None
        self._body: list[bytes] = []
        self._size = self._count = 0
        self.player: Player | None = None
        self.paused = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """A client came."""
        self.transport = cast(asyncio.Transport, transport)
        self.connected_ns = time.monotonic_ns()
        self.sock: socket.socket = transport.get_extra_info("socket")
        self.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.port = int(transport.get_extra_info("peername")[1])
        self._opened(self, True)

    def data_received(self, data: bytes) -> None:
        """Bytes of a request came."""
        self._h11.receive_data(data)
        self.advance()

    def eof_received(self) -> bool:
        """The client closed; what it asked for is of no use any more."""
        if self.player:
            self.player.abort()
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        """The connection is gone."""
        if self.player:
            self.player.abort()
        self._opened(self, False)

    def pause_writing(self) -> None:
        """The client reads too slowly: the socket's buffer and ours are full."""
        self.paused = True

    def resume_writing(self) -> None:
        """There is room again."""
        self.paused = False
        if self.player:
            self.player.resume()

    def advance(self) -> None:
        """Reads on until a request is whole or more bytes are needed."""
        try:
            while not self.player and not self.transport.is_closing():
                event = self._h11.next_event()
                if event is h11.NEED_DATA:
                    self._continue()
                    return
                if event is h11.PAUSED or not self._take(event):
                    return
        except h11.RemoteProtocolError as error:
            self._refuse(error.error_status_hint, str(error))

    def _continue(self) -> None:
        if self._h11.they_are_waiting_for_100_continue:
            self.transport.write(self._h11.send(h11.InformationalResponse(status_code=100, headers=[])))

    def _take(self, event: Any) -> bool:
        if isinstance(event, h11.Request):
            self._request, self._body, self._size = event, [], 0
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

    def _refuse(self, status: int, why: str) -> None:
        body = why.encode()
        self.transport.write(b"HTTP/1.1 %d Refused\r\nconnection: close\r\nx-nbllm-simulated: 1\r\ncontent-length: %d\r\n\r\n%b" % (status, len(body), body))
        self.transport.close()

    def _respond(self) -> None:
        received = time.monotonic_ns()
        assert self._request is not None
        self._count += 1
        came = Arrival(self.port, self._count == 1, self.connected_ns, received, time.time())
        answer = self.service.answer(_request(self._request, b"".join(self._body)), came)
        self.player = Player(self, self._h11, answer, received)
        self.player.run()

    def finished(self, closing: bool) -> None:
        """The answer was written: the next request may be read."""
        self.player = None
        if closing or self._h11.our_state is not h11.DONE or self._h11.their_state is not h11.DONE:
            self.transport.close()
            return
        self._h11.start_next_cycle()
        self.loop.call_soon(self.advance)


def _request(head: h11.Request, body: bytes) -> Request:
    target, _, query = head.target.decode("ascii").partition("?")
    headers = {name.decode("ascii"): value.decode("latin-1") for name, value in head.headers}
    path = "/" + target.partition("://")[2].partition("/")[2] if "://" in target.partition("?")[0][:8] else target
    return Request(head.method.decode("ascii"), unquote(path), dict(parse_qsl(query)), headers, body)


class Player:
    """Writes one answer: the head, then batches of events, each batch in one socket write."""

    def __init__(self, connection: Connection, http: h11.Connection, answer: Answer, received_ns: int) -> None:
        self._connection, self._h11, self._answer, self._received_ns = connection, http, answer, received_ns
        self._t0 = received_ns / 1e9
        self._head: bytes | None = http.send(h11.Response(status_code=answer.status, headers=answer.headers, reason=b""))
        self._outs, self._batch, self._data, self._writes = answer.outs, [], b"", 0  # type: ignore[var-annotated]
        self._ahead: Out | None = next(self._outs, None)
        self._handle: asyncio.TimerHandle | asyncio.Handle | None = None
        self._over = False
        self._load()

    def _load(self) -> None:
        """Makes the next write ready. The framing's end goes with the last event."""
        batch: list[Out] = []
        out = self._ahead
        while out is not None:
            batch.append(out)
            out = next(self._outs, None)
            if not batch[-1].more:
                break
        self._batch, self._ahead = batch, out
        if batch and not batch[-1].act:
            self._data = b"".join(map(self._framed, batch)) + (self._h11.send(h11.EndOfMessage()) or b"" if out is None else b"")

    def _framed(self, out: Out) -> bytes:
        if self._answer.framing == "chunked":  # by hand: h11's own way costs ten times the write
            return b"%x\r\n%b\r\n" % (len(out.data), out.data)
        return self._h11.send(h11.Data(data=out.data)) or b""

    def run(self) -> None:
        """Writes what is due and asks to be called for the rest."""
        connection = self._connection
        if self._over or connection.paused:
            return
        loop = connection.loop
        for _ in range(_AT_ONCE):
            if self._head is None and not self._batch:
                self._finish()
                return
            due = self._t0 + (self._answer.head_at if self._head is not None else self._batch[0].at)
            if due > loop.time():
                self._handle = loop.call_at(due, self.run)
                return
            if connection.paused or not self._write():
                return
        self._handle = loop.call_soon(self.run)

    def resume(self) -> None:
        """Goes on after a pause that the client's slow reading made."""
        if self._handle:
            self._handle.cancel()
        self.run()

    def _write(self) -> bool:
        """One socket write. False where it was the answer's end by a fault."""
        write, now, entry = self._connection.transport.write, time.monotonic_ns, self._answer.entry
        if self._head is not None:
            if entry:
                entry.set(headers_ns=now())
            write(self._head)
            self._head = None
            return True
        if self._batch[-1].act:
            self._fault(self._batch[-1].act)
            return False
        send = now()
        write(self._data)
        written = now()
        if entry:
            due_ns, n = self._received_ns + round(self._batch[0].at * 1e9), self._writes
            entry.chunks += [(o.kind, o.text, o.n_tokens, due_ns, send, written, n, len(o.data)) for o in self._batch]
        self._writes += 1
        self._load()
        return True

    def _fault(self, act: str) -> None:
        transport = self._connection.transport
        if act == "end" and self._answer.framing == "chunked":
            transport.write(self._h11.send(h11.EndOfMessage()) or b"")
            self._finish()
            return
        self._finish(closing=act != "rst")
        if act == "rst":
            self._connection.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
            transport.abort()

    def _finish(self, closing: bool = False) -> None:
        self._settle(end_ns=time.monotonic_ns())
        self._connection.finished(closing or self._answer.framing == "close")

    def abort(self) -> None:
        """The client is gone."""
        if not self._over:
            self._settle(aborted_ns=time.monotonic_ns())
        if self._handle:
            self._handle.cancel()

    def _settle(self, **when: int) -> None:
        self._over = True
        service, entry = self._connection.service, self._answer.entry
        if entry:
            entry.set(**when)
            service.log.finished(entry)
            service.loads.answered(self._answer.model, time.monotonic())
        self._connection.player = None
