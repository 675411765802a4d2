"""The HTTP transport: time-stamped connections; network errors become NbllmErrors.

Proxies, and event loops that cannot watch sockets (Windows), need httpx's transport (through_httpx.py).
Redirects are followed within a server only (a key must not be sent to another host).
"""

from __future__ import annotations

import asyncio
import re
import sys
import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Coroutine, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Any, NamedTuple
from urllib.parse import urljoin

from ..core import addresses, errors
from ..core.addresses import Address
from ..core.calls import Frame, HttpCall, Read, Trace, Transport
from ..core.calls import Reply as AnyReply
from ..core.errors import scrub
from . import proxies
from .codings import decode_body
from .connection import check_public
from .faults import ConnectTimeout, Fault, InvalidRequest, InvalidResponse, NotConnected, ProxyFault
from .frames import FrameReader, drain_body
from .pool import ConnectionPool, PooledResponse, certificate_settings
from .prepared_request import PreparedRequest, invalid_request_error
from .proxies import Proxy

if TYPE_CHECKING:
    from .through_httpx import HttpxResponse, ThroughHttpx

    HttpResponse = PooledResponse | HttpxResponse

ERROR_BODY_LIMIT = 256 * 2**10  # bytes of an error page that are read
_MAX_REDIRECTS = 3
_ROUTE_CACHE_SIZE = 1000  # addresses
_KEEPALIVE = 120.0  # seconds that an idle connection stays open, while the user reads between two cells

# Response headers that are stored: ids, limits and the provider's own measurements. None of them is secret.
_STORED_HEADERS = (
    "x-request-id",
    "request-id",
    "content-type",
    "date",
    "retry-after",
    "server-timing",
    "openai-processing-ms",
    "openai-version",
    "cf-ray",
    "x-nbllm-simulated",
)
_STORED_PREFIXES = ("x-ratelimit-", "ratelimit-", "anthropic-ratelimit-", "x-litellm-", "x-groq-", "x-goog-")


class Reply(AnyReply):
    """A response whose headers have arrived."""

    status = 0
    headers: dict[str, str] = {}  # noqa: RUF012 - replaced in each instance

    def __init__(
        self, response: HttpResponse, headers: dict[str, str], address: Address, trace: Trace
    ) -> None:
        self._response, self._address, self._trace = response, address, trace
        self.status, self.headers = response.status, headers

    def _decoded(self) -> AsyncIterator[bytes]:
        return decode_body(aiter(self._response), self.headers.get("content-encoding", ""))

    async def frames(self) -> AsyncGenerator[list[Frame], None]:
        """The frames of the body, those of one read together. Raises StreamCut if the connection breaks,
        ProtocolError for an invalid content coding."""
        with self._frame_reader() as frames:
            async for chunk in self._decoded():
                if batch := frames.feed(chunk, self._last_read()):
                    yield batch
            if batch := frames.close():
                yield batch

    async def for_each_batch(self, handle: Callable[[list[Frame]], bool]) -> None:
        """See core.calls.Reply. Data of a pooled connection is handled in the callback that read it: one loop
        iteration per read would cost more than everything else."""
        response = self._response
        if not isinstance(response, PooledResponse) or "content-encoding" in self.headers:
            await super().for_each_batch(handle)
            return
        with self._frame_reader() as frames:
            ended = False

            def feed(data: bytes, read: Read) -> bool:
                nonlocal ended
                ended = bool(batch := frames.feed(data, read)) and handle(batch)
                return ended

            await response.for_each_chunk(feed)
            if not ended and (batch := frames.close()):
                handle(batch)
            if ended and not response.ended:
                await drain_body(aiter(response))

    @contextmanager
    def _frame_reader(self) -> Iterator[FrameReader]:
        """A FrameReader for the body. Records in the trace when the body ended, and its size."""
        frames = FrameReader(self._trace.reads)
        try:
            yield frames
        except Fault as exc:
            raise _translate_fault(exc, self._address, started=True) from None
        finally:
            self._trace.marks["end"] = frames.at if frames.bytes else time.perf_counter()
            self._trace.bytes_in = frames.bytes

    def _last_read(self) -> Read | None:
        """The read that contained the most recent chunk. In a compressed body, no event has an exact
        stamp."""
        read = self._response.read
        if read is not None and "content-encoding" in self.headers:
            return read._replace(segments=0, clean=False)
        return read

    async def body(self, limit: int = ERROR_BODY_LIMIT) -> bytes:
        """The body, at most `limit` bytes of it; less if the connection breaks. Raises ProtocolError for an
        invalid content coding, but for an error response returns that message as the body."""
        body = bytearray()
        try:
            async for chunk in self._decoded():
                body += chunk
                if len(body) >= limit:
                    break
        except Fault:
            pass  # the status is known already; the rest of the page would only add text
        except errors.ProtocolError as exc:
            if self.status < 300:
                raise
            body = body or bytearray(exc.message.encode())
        return bytes(body[:limit])

    async def chunks(self) -> AsyncGenerator[bytes, None]:
        """The chunks of the body, as they arrive. Raises StreamCut if the connection breaks, ProtocolError
        for an invalid content coding."""
        try:
            async for chunk in self._decoded():
                yield chunk
        except Fault as exc:
            raise _translate_fault(exc, self._address, started=True) from None

    async def lines(self, limit: int) -> AsyncGenerator[bytes, None]:
        """The lines of the body, as they arrive. Raises StreamCut if the connection breaks, ProtocolError for
        an invalid content coding and for a line of more than `limit` bytes."""
        line = bytearray()
        async for chunk in self.chunks():
            first, *more = chunk.split(b"\n")
            line += first
            for piece in more:
                yield bytes(line)
                line = bytearray(piece)
            if len(line) > limit:
                raise errors.ProtocolError(f"A line is larger than {limit:,} bytes.", hint="Try again.")
        yield bytes(line)

    async def drain(self, frames: AsyncIterator[list[Frame]]) -> None:
        """See core.calls.Reply."""
        await drain_body(frames)


class _Route(NamedTuple):
    """How an address is reached: over the pool, or through httpx (with or without a proxy)."""

    address: Address
    pooled: bool
    proxy: Proxy | None


class HttpTransport(Transport):
    """A connection pool. Used on one event loop."""

    def __init__(self) -> None:
        # by the proxy's address and the settings for certificates
        self._clients: dict[tuple[str, tuple[str | None, ...]], ThroughHttpx] = {}
        self._pool: ConnectionPool | None = None
        self._settings: tuple[str | None, ...] = ()
        self._routes: dict[Address, _Route] = {}
        self._local_routes: dict[Address, _Route] = {}

    async def prepare(self, url: str) -> None:
        """Creates what the first request to `url` needs (some 20 ms for a TLS context, more through a proxy),
        so that the measured times of a first call contain only the network. Raises ConfigError for an invalid
        address or proxy."""
        route = self._route(addresses.parse(url))
        if not route.pooled:
            await self._through_httpx(route.proxy).prepare()
        elif route.address.scheme == "https":
            self._get_pool().context()
        else:
            self._get_pool()

    def _route(self, address: Address) -> _Route:
        """The route to an address, by the current environment: a cell may set or unset a proxy. Local
        addresses never use one."""
        if (local := self._local_routes.get(address)) is not None:
            return local
        if (now := proxies.proxy_settings()) != self._settings or len(self._routes) > _ROUTE_CACHE_SIZE:
            self._settings, self._routes = now, {}
        if (route := self._routes.get(address)) is None:
            proxy = proxies.proxy_for(address)
            route = self._routes[address] = _Route(address, proxy is None and sys.platform != "win32", proxy)
            if address.is_local and len(self._local_routes) < _ROUTE_CACHE_SIZE:
                self._local_routes[address] = route
        return route

    def _get_pool(self) -> ConnectionPool:
        self._pool = self._pool or ConnectionPool(expiry=_KEEPALIVE)
        return self._pool

    def _through_httpx(self, proxy: Proxy | None) -> ThroughHttpx:
        from .through_httpx import ThroughHttpx

        key = (proxy.url if proxy else "", certificate_settings())
        if key not in self._clients:
            self._clients[key] = ThroughHttpx(proxy, _KEEPALIVE)
        return self._clients[key]

    def warm_up(self, call: HttpCall) -> Coroutine[Any, Any, None] | None:
        """The work of `prepare` for a call; None where it is done already."""
        route, pool = self._route(addresses.parse(call.url)), self._pool
        if route.pooled:
            is_ready = pool is not None and (pool.has_context or route.address.scheme != "https")
        else:
            is_ready = (route.proxy.url if route.proxy else "", certificate_settings()) in self._clients
        return None if is_ready else self.prepare(call.url)

    def prepare_call(self, call: HttpCall, *, fresh: bool) -> PreparedRequest:
        """See PreparedRequest."""
        return PreparedRequest(call, fresh=fresh)

    async def close(self) -> None:
        """Closes every connection."""
        clients, pool = self._clients, self._pool
        self._clients, self._pool, self._routes = {}, None, {}
        for client in clients.values():
            await client.aclose()
        if pool is not None:
            await pool.aclose()

    def count_idle(self, url: str) -> int | None:
        """The number of open idle connections to the server of `url`; None where httpx manages them."""
        route = self._route(addresses.parse(url))
        return self._get_pool().count_idle(route.address) if route.pooled else None

    def open(self, call: HttpCall | PreparedRequest, trace: Trace, connect: float | None) -> _OpenReply:
        """Sends a call; gives the reply once its headers are there; leaving the context closes the connection
        or returns it to the pool.

        connect: seconds allowed for name look-up, TCP and TLS. Raises ConnectFailed, Timeout("connect"),
        StreamCut.
        """
        return _OpenReply(
            self, call if isinstance(call, PreparedRequest) else PreparedRequest(call), trace, connect
        )

    async def send(
        self, prepared: PreparedRequest, trace: Trace, connect: float | None
    ) -> tuple[HttpResponse, _Route]:
        """(the response to one request, the route that it took). Raises as `open` does."""
        route = self._route(prepared.address)
        trace.bytes_out = prepared.size
        trace.marks.setdefault("start", time.perf_counter())
        try:
            if route.pooled:
                return await self._get_pool().send(prepared, trace, connect), route
            if prepared.public:
                await _check_public(route)
            return await self._through_httpx(route.proxy).send(prepared, trace, connect), route
        except ConnectTimeout:
            raise errors.Timeout(
                f"No connection to {prepared.address.host_port}{_describe_proxy(route.proxy)} "
                f"within {connect:g} s.",
                which="connect",
                seconds=connect or 0.0,
                hint="Check the address and the network, or allow more with timeout.connect=30.",
            ) from None
        except Fault as exc:
            raise _translate_fault(exc, prepared.address, started=False, proxy=route.proxy) from None


class _OpenReply:
    """The result of `open`, an asynchronous context manager."""

    def __init__(
        self, transport: HttpTransport, prepared: PreparedRequest, trace: Trace, connect: float | None
    ) -> None:
        self._transport, self._prepared, self._trace, self._connect = transport, prepared, trace, connect
        self._response: HttpResponse | None = None

    async def __aenter__(self) -> Reply:
        prepared, trace, send = self._prepared, self._trace, self._transport.send
        response, route = await send(prepared, trace, self._connect)
        headers = _merge_headers(response)
        for _ in range(_MAX_REDIRECTS):
            if response.status not in _REDIRECTS or (redirected := _redirect(prepared, headers)) is None:
                break
            await response.aclose()
            prepared = redirected
            response, route = await send(prepared, trace, self._connect)
            headers = _merge_headers(response)
        if route.proxy and response.status == _PROXY_AUTH_REQUIRED:
            await response.aclose()
            raise _proxy_login_error(route.proxy)
        self._response = response
        trace.status, trace.http_version = response.status, response.version
        if trace.reused is None:
            trace.reused = "connect_start" not in trace.marks
        stored = {k: v for k, v in headers.items() if k in _STORED_HEADERS or k.startswith(_STORED_PREFIXES)}
        trace.headers = _scrub_headers(stored, prepared.call.guard.secrets)
        return Reply(response, headers, prepared.address, trace)

    async def __aexit__(self, *_exc: object) -> None:
        if self._response is not None:
            await self._response.aclose()


def _scrub_headers(headers: dict[str, str], secrets: tuple[str, ...]) -> dict[str, str]:
    """Headers with secrets masked, in case a server sends a key back."""
    if not any(secret in text for secret in secrets for pair in headers.items() for text in pair):
        return headers
    return {scrub(k, secrets): scrub(v, secrets) for k, v in headers.items()}


_REDIRECTS = (307, 308)  # those that keep the method


def _merge_headers(response: HttpResponse) -> dict[str, str]:
    """Headers by lower-case name; repeated ones are joined by commas."""
    out: dict[str, str] = {}
    for name, value in response.headers:
        key, text = name.decode("latin-1").lower(), _decode_header(value)
        out[key] = f"{out[key]}, {text}" if key in out else text
    return out


def _decode_header(value: bytes) -> str:
    try:
        return value.decode()
    except UnicodeDecodeError:
        return value.decode("latin-1")


def _redirect(prepared: PreparedRequest, headers: dict[str, str]) -> PreparedRequest | None:
    """The same request at another path of the same server; None for another server, because a key must not be
    sent there."""
    if not (location := headers.get("location", "")):
        return None
    try:
        url = urljoin(prepared.call.url, location)
        if addresses.parse(url) != prepared.address:
            return None
        return PreparedRequest(replace(prepared.call, url=url), fresh=prepared.fresh, public=prepared.public)
    except (errors.ConfigError, ValueError):
        return None


async def _check_public(route: _Route) -> None:
    """As in Connection.open. With a proxy, a name that is unknown here is left to the proxy."""
    host, port = route.address.host, route.address.port
    try:
        check_public(host, await asyncio.get_running_loop().getaddrinfo(host, port))
    except OSError:
        if route.proxy is None:
            raise errors.ConnectFailed(
                f"No connection to {route.address.host_port}: the host name is unknown.",
                hint="Check the address.",
            ) from None


_PROXY_AUTH_REQUIRED = 407


def _describe_proxy(proxy: Proxy | None) -> str:
    return f" through the proxy {proxy.host_port} ({proxy.variable})" if proxy else ""


def _proxy_login_error(proxy: Proxy) -> errors.ConfigError:
    return errors.ConfigError(
        f"The proxy {proxy.host_port} ({proxy.variable}) requires a user name and a password (HTTP 407).",
        hint=f"Write them into {proxy.variable}, as http://name:password@{proxy.host_port}.",
    )


def _translate_fault(
    exc: Fault, address: Address, *, started: bool, proxy: Proxy | None = None
) -> errors.NbllmError:
    """The NbllmError for a fault. The fault's text is left out where it may contain request data."""
    if isinstance(exc, ProxyFault) and proxy and str(exc).startswith(str(_PROXY_AUTH_REQUIRED)):
        return _proxy_login_error(proxy)
    if isinstance(exc, NotConnected):
        hint = (
            f"Check {proxy.variable}, or name {address.host} in NO_PROXY."
            if proxy
            else "Check that the server runs and the address is right (base_url, proxies)."
        )
        reason = str(exc) or "refused"
        hint = next((text for pattern, text in _TLS_HINTS if pattern.search(reason)), hint)
        return errors.ConnectFailed(
            f"No connection to {address.host_port}{_describe_proxy(proxy)}: {reason}.", hint=hint
        )
    if isinstance(exc, InvalidRequest):
        return invalid_request_error(exc)
    if isinstance(exc, InvalidResponse) and not _CONNECTION_CLOSED.search(str(exc)):
        return errors.ProtocolError(
            f"{address.host_port}{_describe_proxy(proxy)} sent an invalid response"
            f"{' in mid-answer' * started}: {exc}.",
            hint="Check base_url: another kind of server, or a proxy, may have answered.",
        )
    when = "in the middle of the answer" if started else "before it answered"
    return errors.StreamCut(
        f"{address.host_port}{_describe_proxy(proxy)} closed the connection {when}.",
        hint="Try again; the partial answer is kept.",
    )


_TLS_HINTS = tuple(
    (re.compile(pattern, re.I), hint)
    for pattern, hint in (
        (
            r"local issuer|self.signed|unknown ca|unable to get issuer|untrusted|not trusted",
            "Its certificate is issued by an unknown authority, such as that of a company's proxy. Set "
            "SSL_CERT_FILE (or REQUESTS_CA_BUNDLE) to that authority's PEM file, or add it to the system's "
            "certificates; a cell can do that, with os.environ.",
        ),
        (r"hostname|ip address mismatch", "Its certificate is for another host: check the address."),
        (
            r"expired|not yet valid",
            "Its certificate is out of date: check the clock of this machine.",
        ),
        (
            r"wrong.version.number|record.layer|http.request|packet length too long",
            "The server does not speak TLS there: try an address with http://.",
        ),
    )
)
_CONNECTION_CLOSED = re.compile("disconnected|closed")  # in messages of httpx's transport
