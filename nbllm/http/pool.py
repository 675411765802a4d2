"""Our own connections, kept in a pool: HTTP/1.1, every read stamped. What more is needed (proxies, loops
without readers) goes through httpx's transport, in through_httpx.py."""

from __future__ import annotations

import asyncio
import contextlib
import os
import ssl
import sys
import time
from collections import OrderedDict, defaultdict
from collections.abc import AsyncIterator, Callable
from typing import Protocol

from ..core.addresses import Address
from ..core.calls import Read, Trace
from ..core.errors import ConfigError
from . import stamps
from .connection import Connection, Head
from .faults import ConnectionBroken, ConnectTimeout, InvalidResponse, NotConnected
from .prepared_request import PreparedRequest


class Answer(Protocol):
    """An answer whose head has come. read: the read that brought the piece given last, None where nobody
    knows."""

    status: int
    version: str
    headers: list[tuple[bytes, bytes]]
    read: Read | None

    def __aiter__(self) -> AsyncIterator[bytes]:
        """The pieces of the body, as they come."""

    async def aclose(self) -> None:
        """Gives the connection back where the body was read to its end, else closes it."""


class PooledAnswer:
    """An answer on a connection of ours."""

    def __init__(
        self, connection: Connection, head: Head, pool: ConnectionPool, origin: Address | None
    ) -> None:
        self._connection, self._pool, self._origin = connection, pool, origin
        self.status, self.version, self.headers = head.status, f"HTTP/{head.version}", head.headers
        self.read: Read | None = None

    def __aiter__(self) -> PooledAnswer:
        return self

    async def __anext__(self) -> bytes:
        piece = await self._connection.piece()
        if piece is None:
            raise StopAsyncIteration
        data, self.read = piece
        return data

    @property
    def ended(self) -> bool:
        """Whether it was read to its end."""
        return self._connection.head.ended

    async def each(self, take: Callable[[bytes, Read], object]) -> None:
        """See Connection."""
        await self._connection.each(take)

    async def aclose(self) -> None:
        """See Answer."""
        connection, self._connection = self._connection, _CLOSED
        if connection is not _CLOSED:
            self._pool.release(connection, self._origin)


class _ClosedConnection:
    closed = True

    async def piece(self) -> None:
        raise ConnectionBroken("it was closed")


_CLOSED: Connection = _ClosedConnection()  # type: ignore[assignment]


class ConnectionPool:
    """A pool of connections, newest first. At most `keep` idle ones stay, each at most `expiry` seconds."""

    def __init__(self, keep: int = 200, expiry: float = 120.0) -> None:
        self._keep, self._expiry = keep, expiry
        self._idle: defaultdict[Address, list[Connection]] = defaultdict(list)
        self._resting: OrderedDict[Connection, Address] = OrderedDict()  # of all origins, the oldest first
        self._busy: set[Connection] = set()
        self._context: ssl.SSLContext | None = None
        self._authorities: tuple[str | None, ...] = ()
        self._keeper = stamps.open_stamp_keeper()

    def context(self) -> ssl.SSLContext:
        """The TLS context, made once (some 20 ms). Raises ConfigError for certificates that cannot be
        read."""
        if (
            self._context is None or self._authorities != certificate_settings()
        ):  # a cell may have named others
            self._authorities = certificate_settings()
            self._context = tls_context()
            self._context.set_alpn_protocols(["http/1.1"])
        return self._context

    @property
    def has_context(self) -> bool:
        """Whether the TLS context is made."""
        return self._context is not None and self._authorities == certificate_settings()

    async def send(self, prepared: PreparedRequest, trace: Trace, connect: float | None) -> PooledAnswer:
        """Sends a request. connect: seconds that a connection may take. Raises Faults, and ConnectFailed for
        an address that must be public and is not."""
        origin, wire = prepared.address, prepared.wire
        connection = None if prepared.fresh else self._take(origin)
        trace.reused = connection is not None
        head = None
        if connection is not None:
            try:
                head = await self._exchange(connection, wire, trace)
            except (ConnectionBroken, InvalidResponse):
                # What is no HTTP followed the answer before: it is no part of this one.
                if trace.marks.pop("first_byte", None) and connection.head.raw[:1] in (b"", b"H", b"h"):
                    raise
                trace.reused = False  # the server let go of it while we took it: not the answer's fault
        if connection is None or head is None:
            connection = await self._open(prepared, trace, connect)
            head = await self._exchange(connection, wire, trace)
        return PooledAnswer(connection, head, self, None if prepared.fresh else origin)

    async def _exchange(self, connection: Connection, wire: bytes, trace: Trace) -> Head:
        trace.connected_at = connection.created
        self._busy.add(connection)
        try:
            return await connection.exchange(wire, trace)
        except BaseException as exc:
            self._busy.discard(connection)
            connection.close()
            if isinstance(exc, OSError):
                raise ConnectionBroken(str(exc)) from None
            raise

    async def _open(self, prepared: PreparedRequest, trace: Trace, within: float | None) -> Connection:
        origin = prepared.address
        context = self.context() if origin.scheme == "https" else None
        try:
            async with asyncio.timeout(within):
                return await Connection.open(origin, trace, context, public=prepared.public)
        except TimeoutError:
            raise ConnectTimeout("no connection in time") from None
        except ssl.SSLError as exc:
            raise NotConnected(f"TLS: {getattr(exc, 'verify_message', '') or exc.reason or exc}") from None
        except (OSError, ValueError, OverflowError) as exc:
            # the latter two: what only the system knows to be no address
            raise NotConnected(getattr(exc, "strerror", None) or str(exc)) from None

    def _take(self, origin: Address) -> Connection | None:
        while idle := self._idle[origin]:
            self._resting.pop(connection := idle.pop())
            if time.perf_counter() - connection.released < self._expiry and connection.alive():
                return connection
            connection.close()
        return None

    def release(self, connection: Connection, origin: Address | None) -> None:
        """Takes a connection back (under its origin), or closes it."""
        self._busy.discard(connection)
        if origin is None or not connection.reusable():
            connection.close()
        else:
            connection.rest()
            self._idle[origin].append(connection)
            self._resting[connection] = origin
            if len(self._resting) > self._keep:
                # What waits longest goes: its server may have let go of it, and this one was just asked.
                self._idle[self._resting.popitem(last=False)[1]].pop(0).close()

    def idle(self, origin: Address) -> int:
        """How many connections to `origin` are open and free."""
        return sum(connection.alive() for connection in self._idle[origin])

    async def aclose(self) -> None:
        """Closes every connection."""
        for connection in (*self._busy, *self._resting):
            connection.close()
        if self._keeper is not None:
            self._keeper.close()


_CERTIFICATE_VARIABLES = ("SSL_CERT_FILE", "SSL_CERT_DIR", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE")


def certificate_settings() -> tuple[str | None, ...]:
    """What of the environment says whose certificates are taken."""
    return tuple(map(os.environ.get, _CERTIFICATE_VARIABLES))


def tls_context() -> ssl.SSLContext:
    """A TLS context. Certificates: those that SSL_CERT_FILE, SSL_CERT_DIR, REQUESTS_CA_BUNDLE or
    CURL_CA_BUNDLE name, the first that is set; else the system's own and certifi's. Raises ConfigError."""
    named = next((n for n in _CERTIFICATE_VARIABLES if os.environ.get(n)), "")
    try:
        if not named:
            return _default_tls_context()
        path = os.environ[named].strip()
        at = {"capath" if os.path.isdir(path) else "cafile": path}
        return ssl.create_default_context(**at)  # type: ignore[arg-type]
    except OSError as exc:  # ssl.SSLError is one
        named = named or "certifi"
        raise ConfigError(
            f"The certificates that {named} names cannot be read ({exc.strerror or type(exc).__name__}).",
            hint=f"Correct {named}, or unset it to use the usual certificates.",
        ) from None


def _default_tls_context() -> ssl.SSLContext:
    """Where a system keeps its certificates outside of OpenSSL's reach, truststore asks it."""
    if sys.platform in ("darwin", "win32"):
        with contextlib.suppress(ImportError):
            import truststore

            return truststore.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    import certifi

    context = ssl.create_default_context(cafile=certifi.where())
    context.load_default_certs()
    return context
