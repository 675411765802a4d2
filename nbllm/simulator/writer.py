"""Writes an answer: its head, then each event at its scheduled time, with timestamps around the socket write.

Events are written by callbacks at absolute times. The next write is prepared in advance, so that the
timestamps enclose only the socket write. On a busy machine the server's loop may be late; a chunk is never
early, and its record shows how late it was (`send_ns - due_ns`).
"""

from __future__ import annotations

import asyncio
import socket
import struct
import time
from typing import Protocol

import h11

from .plan import WireEvent
from .service import Answer, Service

_MAX_WRITES_PER_TURN = 32  # of writes due at the same time; then other connections get their turn
_RESET = struct.pack("ii", 1, 0)  # SO_LINGER: on, zero seconds; closing then sends RST


class WriterConnection(Protocol):
    """What a writer needs of its connection."""

    service: Service
    loop: asyncio.AbstractEventLoop
    transport: asyncio.Transport
    sock: socket.socket
    paused: bool
    writer: AnswerWriter | None

    def finished(self, closing: bool) -> None:
        """The answer was written."""


class AnswerWriter:
    """Writes one answer: the head, then batches of events, each batch in one socket write."""

    def __init__(
        self, connection: WriterConnection, http: h11.Connection, answer: Answer, received_ns: int
    ) -> None:
        self._connection, self._h11, self._answer, self._received_ns = connection, http, answer, received_ns
        self._t0 = received_ns / 1e9
        self._head: bytes | None = self._build_head()
        self._events, self._batch, self._data, self._writes = answer.events, [], b"", 0  # type: ignore[var-annotated]
        self._next_event: WireEvent | None = next(self._events, None)
        self._handle: asyncio.TimerHandle | asyncio.Handle | None = None
        self._is_finished = False
        self._prepare_next_write()

    def _build_head(self) -> bytes:
        """The head's bytes. h11 does not support a body that is ended by closing the connection for HTTP/1.1
        clients, so that head is built without h11."""
        answer = self._answer
        if answer.framing != "close":
            return self._h11.send(h11.Response(status_code=answer.status, headers=answer.headers, reason=b""))
        lines = "".join(f"{name}: {value}\r\n" for name, value in answer.headers)
        return f"HTTP/1.1 {answer.status} \r\n{lines}\r\n".encode("latin-1")

    def _prepare_next_write(self) -> None:
        """Prepares the next write. The end of the framing is sent with the last event."""
        batch: list[WireEvent] = []
        event = self._next_event
        while event is not None:
            batch.append(event)
            event = next(self._events, None)
            if not batch[-1].more:
                break
        self._batch, self._next_event = batch, event
        if batch and not batch[-1].fault:
            self._data = b"".join(map(self._frame, batch)) + (self._frame_end() if event is None else b"")

    def _frame(self, event: WireEvent) -> bytes:
        if self._answer.framing == "chunked":  # without h11, which takes as long as the write
            return b"%x\r\n%b\r\n" % (len(event.data), event.data)
        return (
            event.data
            if self._answer.framing == "close"
            else self._h11.send(h11.Data(data=event.data)) or b""
        )

    def _frame_end(self) -> bytes:
        return b"" if self._answer.framing == "close" else self._h11.send(h11.EndOfMessage()) or b""

    def run(self) -> None:
        """Writes what is due and schedules a call for the rest. If that fails, the connection is reset."""
        try:
            self._run()
        # an unforeseen request; its client must not wait for ever
        except Exception:  # noqa: BLE001
            self._break_off("rst")

    def _run(self) -> None:
        connection = self._connection
        if self._is_finished or connection.paused:
            return
        loop = connection.loop
        for _ in range(_MAX_WRITES_PER_TURN):
            if self._head is None and not self._batch:
                self._finish()
                return
            due = self._t0 + (self._answer.head_at if self._head is not None else self._batch[0].at)
            if due > loop.time():
                self._handle = loop.call_at(due, self.run)
                return
            if connection.paused or connection.transport.is_closing() or not self._write():
                return
        self._handle = loop.call_soon(self.run)

    def resume(self) -> None:
        """Continues after a pause caused by a client that reads slowly."""
        if self._handle:
            self._handle.cancel()
        self.run()

    def _write(self) -> bool:
        """Does one socket write. Returns False if a fault ended the answer instead."""
        write, now, record = self._connection.transport.write, time.monotonic_ns, self._answer.record
        if self._head is not None:
            if record:
                record.update(headers_ns=now())
            write(self._head)
            self._head = None
            return True
        if self._batch[-1].fault:
            self._break_off(self._batch[-1].fault)
            return False
        send = now()
        write(self._data)
        written = now()
        if record:
            due_ns, n = self._received_ns + round(self._batch[0].at * 1e9), self._writes
            record.chunks += [
                (o.kind, o.text, o.n_tokens, due_ns, send, written, n, len(o.data)) for o in self._batch
            ]
        self._writes += 1
        self._prepare_next_write()
        return True

    def _break_off(self, fault: str) -> None:
        transport = self._connection.transport
        if fault == "end" and self._answer.framing == "chunked":
            transport.write(self._frame_end())
            self._finish()
            return
        self._finish(closing=fault != "rst")
        if fault == "rst":
            self._connection.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
            transport.abort()

    def _finish(self, closing: bool = False) -> None:
        self._close_record(end_ns=time.monotonic_ns())
        self._connection.finished(closing or self._answer.framing == "close")

    def abort(self) -> None:
        """Stops writing because the client closed the connection."""
        if not self._is_finished:
            self._close_record(aborted_ns=time.monotonic_ns())
        if self._handle:
            self._handle.cancel()

    def _close_record(self, **when: int) -> None:
        self._is_finished = True
        service, record = self._connection.service, self._answer.record
        if record:
            record.update(**when)
            service.log.finished(record)
            service.loads.mark_answered(self._answer.model, time.monotonic())
        self._connection.writer = None
