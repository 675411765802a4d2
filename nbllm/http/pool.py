"""A pool of HTTP/1.1 connections whose reads are time-stamped. Proxies, and event loops without readers, use
httpx's transport instead, in through_httpx.py."""

from __future__ import annotations

import asyncio
import contextlib
import os
import ssl
import sys
import time
from collections import OrderedDict, defaultdict
from collections.abc import Callable

from ..core.addresses import Address
from ..core.calls import Read, Trace
from ..core.errors import ConfigError
from . import stamps
from .connection import Connection, Head
from .faults import ConnectionBroken, ConnectTimeout, InvalidResponse, NotConnected
from .prepared_request import PreparedRequest


class PooledResponse:
    """A response on a pooled connection, whose headers have arrived; iterates over the chunks of its body.
    read: the read that contained the most recent chunk."""

    def __init__(
        self, connection: Connection, head: Head, pool: ConnectionPool, origin: Address | None
    ) -> None:
        self._connection, self._pool, self._origin = connection, pool, origin
        self.status, self.version, self.headers = head.status, f"HTTP/{head.version}", head.headers
        self.read: Read | None = None

    def __aiter__(self) -> PooledResponse:
        return self

    async def __anext__(self) -> bytes:
        chunk = await self._connection.next_chunk()
        if chunk is None:
            raise StopAsyncIteration
        data, self.read = chunk
        return data

    @property
    def ended(self) -> bool:
        """Whether the body was read to its end."""
        return self._connection.head.ended

    async def for_each_chunk(self, handle: Callable[[bytes, Read], object]) -> None:
        """See Connection."""
        await self._connection.for_each_chunk(handle)

    async def aclose(self) -> None:
        """Returns the connection to the pool if the body was read to its end, else closes it."""
        connection, self._connection = self._connection, _CLOSED
        if connection is not _CLOSED:
            self._pool.release(connection, self._origin)


class _ClosedConnection:
    closed = True

    async def next_chunk(self) -> None:
        raise ConnectionBroken("it was closed")


_CLOSED: Connection = _ClosedConnection()  # type: ignore[assignment]


class ConnectionPool:
    """A pool of connections, used newest first. At most `max_idle` idle ones are kept, each for at most
    `expiry` seconds."""

    def __init__(self, max_idle: int = 200, expiry: float = 120.0) -> None:
        self._max_idle, self._expiry = max_idle, expiry
        self._idle: defaultdict[Address, list[Connection]] = defaultdict(list)
        self._all_idle: OrderedDict[Connection, Address] = OrderedDict()  # of all origins, oldest first
        self._busy: set[Connection] = set()
        self._context: ssl.SSLContext | None = None
        self._context_settings: tuple[str | None, ...] = ()
        self._stamp_keeper = stamps.open_stamp_keeper()

    def context(self) -> ssl.SSLContext:
        """The TLS context, created once (some 20 ms). Raises ConfigError for unreadable certificates."""
        if self._context is None or not self.has_context:  # a cell may have changed the settings
            self._context_settings = certificate_settings()
            self._context = tls_context()
            self._context.set_alpn_protocols(["http/1.1"])
        return self._context

    @property
    def has_context(self) -> bool:
        """Whether the TLS context exists already."""
        return self._context is not None and self._context_settings == certificate_settings()

    async def send(self, prepared: PreparedRequest, trace: Trace, connect: float | None) -> PooledResponse:
        """Sends a request. connect: seconds allowed for connecting. Raises Faults, and ConnectFailed for a
        non-public address where a public one is required."""
        origin, wire = prepared.address, prepared.wire
        connection = None if prepared.fresh else self._take(origin)
        trace.reused = connection is not None
        head = None
        if connection is not None:
            try:
                head = await self._exchange(connection, wire, trace)
            except (ConnectionBroken, InvalidResponse):
                # Data that is not HTTP belongs to the previous response, not to this one.
                if trace.marks.pop("first_byte", None) and connection.head.raw[:1] in (b"", b"H", b"h"):
                    raise
                # The server closed the idle connection at this moment: a new one is used.
                trace.reused = False
        if connection is None or head is None:
            connection = await self._open(prepared, trace, connect)
            head = await self._exchange(connection, wire, trace)
        return PooledResponse(connection, head, self, None if prepared.fresh else origin)

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

    async def _open(self, prepared: PreparedRequest, trace: Trace, seconds: float | None) -> Connection:
        origin = prepared.address
        context = self.context() if origin.scheme == "https" else None
        try:
            async with asyncio.timeout(seconds):
                return await Connection.open(origin, trace, context, public=prepared.public)
        except TimeoutError:
            raise ConnectTimeout("no connection in time") from None
        except ssl.SSLError as exc:
            raise NotConnected(f"TLS: {getattr(exc, 'verify_message', '') or exc.reason or exc}") from None
        except (OSError, ValueError, OverflowError) as exc:
            # ValueError and OverflowError: addresses that only the system recognises as invalid
            raise NotConnected(getattr(exc, "strerror", None) or str(exc)) from None

    def _take(self, origin: Address) -> Connection | None:
        while idle := self._idle[origin]:
            self._all_idle.pop(connection := idle.pop())
            if time.perf_counter() - connection.released < self._expiry and connection.is_alive():
                return connection
            connection.close()
        return None

    def release(self, connection: Connection, origin: Address | None) -> None:
        """Returns a connection to the pool (for its origin), or closes it."""
        self._busy.discard(connection)
        if origin is None or not connection.is_reusable():
            connection.close()
        else:
            connection.mark_idle()
            self._idle[origin].append(connection)
            self._all_idle[connection] = origin
            if len(self._all_idle) > self._max_idle:
                # The oldest is closed: its server may have closed it, while this one was just used.
                self._idle[self._all_idle.popitem(last=False)[1]].pop(0).close()

    def count_idle(self, origin: Address) -> int:
        """The number of open idle connections to `origin`."""
        return sum(connection.is_alive() for connection in self._idle[origin])

    async def aclose(self) -> None:
        """Closes every connection."""
        for connection in (*self._busy, *self._all_idle):
            connection.close()
        if self._stamp_keeper is not None:
            self._stamp_keeper.close()


_CERTIFICATE_VARIABLES = ("SSL_CERT_FILE", "SSL_CERT_DIR", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE")


def certificate_settings() -> tuple[str | None, ...]:
    """The environment variables that determine the accepted certificates."""
    return tuple(map(os.environ.get, _CERTIFICATE_VARIABLES))


def tls_context() -> ssl.SSLContext:
    """A TLS context with the certificates in SSL_CERT_FILE, SSL_CERT_DIR, REQUESTS_CA_BUNDLE or
    CURL_CA_BUNDLE, the first that is set; else those of the system and of certifi. Raises ConfigError."""
    named = next((n for n in _CERTIFICATE_VARIABLES if os.environ.get(n)), "")
    try:
        if not named:
            return _default_tls_context()
        path = os.environ[named].strip()
        location = {"capath" if os.path.isdir(path) else "cafile": path}
        return ssl.create_default_context(**location)  # type: ignore[arg-type]
    except OSError as exc:  # ssl.SSLError is one
        named = named or "certifi"
        raise ConfigError(
            f"The certificates in {named} cannot be read ({exc.strerror or type(exc).__name__}).",
            hint=f"Correct {named}, or unset it to use the default certificates.",
        ) from None


def _default_tls_context() -> ssl.SSLContext:
    """Uses truststore on systems whose certificates OpenSSL cannot read."""
    if sys.platform in ("darwin", "win32"):
        with contextlib.suppress(ImportError):
            import truststore

            return truststore.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    import certifi

    context = ssl.create_default_context(cafile=certifi.where())
    context.load_default_certs()
    return context
