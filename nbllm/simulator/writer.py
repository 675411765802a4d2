"""Plays an answer: its head, then its events at their moments, stamped at the socket write.

Pacing is by callbacks at absolute times, with the next write made ready before its moment, so that what a
stamp brackets is the socket write and nothing else. The server's loop lags when the machine does; a chunk is
never early, and its record says how late it was (`send_ns - due_ns`).
"""

from __future__ import annotations

import asyncio
import socket
import struct
import time
from typing import Protocol

import h11

from .plan import Out
from .service import Answer, Service

_AT_ONCE = 32  # writes that are due together before other connections get their turn
_RESET = struct.pack("ii", 1, 0)  # SO_LINGER: on, zero seconds; closing then sends RST


class Stage(Protocol):
    """What a player needs of its connection."""

    service: Service
    loop: asyncio.AbstractEventLoop
    transport: asyncio.Transport
    sock: socket.socket
    paused: bool
    player: Player | None

    def finished(self, closing: bool) -> None:
        """The answer was written."""


class Player:
    """Writes one answer: the head, then batches of events, each batch in one socket write."""

    def __init__(self, connection: Stage, http: h11.Connection, answer: Answer, received_ns: int) -> None:
        self._connection, self._h11, self._answer, self._received_ns = connection, http, answer, received_ns
        self._t0 = received_ns / 1e9
        self._head: bytes | None = self._begin()
        self._outs, self._batch, self._data, self._writes = answer.outs, [], b"", 0  # type: ignore[var-annotated]
        self._ahead: Out | None = next(self._outs, None)
        self._handle: asyncio.TimerHandle | asyncio.Handle | None = None
        self._over = False
        self._load()

    def _begin(self) -> bytes:
        """The head. h11 knows no body that only the connection ends where the client speaks HTTP/1.1: that
        head is made by hand, and h11 left out of it."""
        answer = self._answer
        if answer.framing != "close":
            return self._h11.send(h11.Response(status_code=answer.status, headers=answer.headers, reason=b""))
        lines = "".join(f"{name}: {value}\r\n" for name, value in answer.headers)
        return f"HTTP/1.1 {answer.status} \r\n{lines}\r\n".encode("latin-1")

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
            self._data = b"".join(map(self._framed, batch)) + (self._end() if out is None else b"")

    def _framed(self, out: Out) -> bytes:
        if self._answer.framing == "chunked":  # by hand: h11's own way costs as much as the write
            return b"%x\r\n%b\r\n" % (len(out.data), out.data)
        return out.data if self._answer.framing == "close" else self._h11.send(h11.Data(data=out.data)) or b""

    def _end(self) -> bytes:
        return b"" if self._answer.framing == "close" else self._h11.send(h11.EndOfMessage()) or b""

    def run(self) -> None:
        """Writes what is due and asks to be called for the rest. An answer that cannot go on is broken
        off."""
        try:
            self._run()
        # of a request that nobody thought of; its client must not wait for ever
        except Exception:  # noqa: BLE001
            self._fault("rst")

    def _run(self) -> None:
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
            if connection.paused or connection.transport.is_closing() or not self._write():  # it may be gone
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
            entry.chunks += [
                (o.kind, o.text, o.n_tokens, due_ns, send, written, n, len(o.data)) for o in self._batch
            ]
        self._writes += 1
        self._load()
        return True

    def _fault(self, act: str) -> None:
        transport = self._connection.transport
        if act == "end" and self._answer.framing == "chunked":
            transport.write(self._end())
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
