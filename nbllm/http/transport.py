"""HTTP to a provider: our own stamped connections, errors in our words.

A proxy of the environment, and a loop that cannot watch sockets (Windows) need httpx's own transport
(through_httpx.py). Redirects are followed within a server only (a key must not travel to another host).
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
from .pool import Answer, ConnectionPool, PooledAnswer, certificate_settings
from .prepared_request import PreparedRequest, invalid_request_error
from .proxies import Proxy

if TYPE_CHECKING:
    from .through_httpx import ThroughHttpx

ERROR_BODY_LIMIT = 256 * 2**10  # bytes of an error page that are read
_REDIRECT_LIMIT = 3  # redirections that are followed
_ROUTE_CACHE_SIZE = 1000  # URLs whose way is remembered
_KEEPALIVE = 120.0  # seconds that an idle connection stays open: a person reads between two cells

# Answer headers that are kept: ids, limits and what the provider measured itself. None of them is secret.
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
    """An answer whose headers have come."""

    status = 0
    headers: dict[str, str] = {}  # noqa: RUF012 - each has its own

    def __init__(self, answer: Answer, headers: dict[str, str], address: Address, trace: Trace) -> None:
        self._body, self._address, self._trace = answer, address, trace
        self.status, self.headers = answer.status, headers

    def _bytes(self) -> AsyncIterator[bytes]:
        return decode_body(aiter(self._body), self.headers.get("content-encoding", ""))

    async def frames(self) -> AsyncGenerator[list[Frame], None]:
        """The body as frames, those of one read together; ends where the body ends. Raises StreamCut where
        the connection broke, ProtocolError for a coding."""
        with self._cut() as frames:
            async for chunk in self._bytes():
                if batch := frames.feed(chunk, self._exact()):
                    yield batch
            if batch := frames.close():
                yield batch

    async def for_each_batch(self, handle: Callable[[list[Frame]], bool]) -> None:
        """See core.calls.Reply. What comes over a connection of ours is handed on in the callback that read
        it: a turn of the loop for each read would cost more than all the rest."""
        body = self._body
        if not isinstance(body, PooledAnswer) or "content-encoding" in self.headers:
            await super().for_each_batch(handle)
            return
        with self._cut() as frames:
            over = False

            def feed(data: bytes, read: Read) -> bool:
                nonlocal over
                over = bool(batch := frames.feed(data, read)) and handle(batch)
                return over

            await body.each(feed)
            if not over and (batch := frames.close()):
                handle(batch)
            if over and not body.ended:
                await drain_body(aiter(body))

    @contextmanager
    def _cut(self) -> Iterator[FrameReader]:
        """What cuts the body into frames. Notes when it ended, and how large it was."""
        frames = FrameReader(self._trace.reads)
        try:
            yield frames
        except Fault as exc:
            raise _translate_fault(exc, self._address, started=True) from None
        finally:
            self._trace.marks["end"] = frames.at if frames.bytes else time.perf_counter()
            self._trace.bytes_in = frames.bytes

    def _exact(self) -> Read | None:
        """The read behind the latest piece; where the body is compressed, none of its events has a stamp of
        its own."""
        read = self._body.read
        if read is not None and "content-encoding" in self.headers:
            return read._replace(segments=0, clean=False)
        return read

    async def body(self, limit: int = ERROR_BODY_LIMIT) -> bytes:
        """The body, at most `limit` bytes of it; what came of it where the connection broke. Raises
        ProtocolError for a coding, except in an error's page: then the words for that are the page."""
        body = bytearray()
        try:
            async for chunk in self._bytes():
                body += chunk
                if len(body) >= limit:
                    break
        except Fault:
            pass  # the status is known already; the rest of its page adds words only
        except errors.ProtocolError as exc:
            if self.status < 300:
                raise
            body = body or bytearray(exc.message.encode())
        return bytes(body[:limit])

    async def chunks(self) -> AsyncGenerator[bytes, None]:
        """The body as it comes. Raises StreamCut where the connection broke, ProtocolError for a coding."""
        try:
            async for chunk in self._bytes():
                yield chunk
        except Fault as exc:
            raise _translate_fault(exc, self._address, started=True) from None

    async def lines(self, limit: int) -> AsyncGenerator[bytes, None]:
        """The body line by line, as it comes. Raises StreamCut where the connection broke, ProtocolError for
        a coding and for a line of more than `limit` bytes."""
        line = bytearray()
        async for chunk in self.chunks():
            first, *more = chunk.split(b"\n")
            line += first
            for piece in more:
                yield bytes(line)
                line = bytearray(piece)
            if len(line) > limit:
                raise errors.ProtocolError(f"A line is larger than {limit:,} bytes.", hint="Ask again.")
        yield bytes(line)

    async def drain(self, frames: AsyncIterator[list[Frame]]) -> None:
        """See core.calls.Reply."""
        await drain_body(frames)


class _Route(NamedTuple):
    """How an address is reached: by our own connections, or through httpx's (with or without a proxy)."""

    address: Address
    own: bool
    proxy: Proxy | None


class HttpTransport(Transport):
    """A connection pool. Used on one event loop."""

    def __init__(self) -> None:
        # for what needs httpx's own transport, by the proxy's address and whose certificates are taken
        self._clients: dict[tuple[str, tuple[str | None, ...]], ThroughHttpx] = {}
        self._stamped: ConnectionPool | None = None
        self._settings: tuple[str | None, ...] = ()
        self._ways: dict[Address, _Route] = {}
        self._here: dict[Address, _Route] = {}

    async def prepare(self, url: str) -> None:
        """Makes what the first request to `url` needs (some 20 ms for a TLS context, more through a proxy),
        so that the times of a first call are the network's and not ours. Raises ConfigError for an address or
        a proxy that cannot be used."""
        way = self._way(addresses.parse(url))
        if not way.own:
            await self._through_httpx(way.proxy).prepare()
        elif way.address.scheme == "https":
            self._own().context()
        else:
            self._own()

    def _way(self, address: Address) -> _Route:
        """By the environment as it is now: a cell may set a proxy, or take one away. What is here needs
        none."""
        if (here := self._here.get(address)) is not None:
            return here
        if (now := proxies.proxy_settings()) != self._settings or len(self._ways) > _ROUTE_CACHE_SIZE:
            self._settings, self._ways = now, {}
        if (way := self._ways.get(address)) is None:
            proxy = proxies.proxy_for(address)
            way = self._ways[address] = _Route(address, proxy is None and sys.platform != "win32", proxy)
            if address.is_local and len(self._here) < _ROUTE_CACHE_SIZE:
                self._here[address] = way
        return way

    def _own(self) -> ConnectionPool:
        self._stamped = self._stamped or ConnectionPool(expiry=_KEEPALIVE)
        return self._stamped

    def _through_httpx(self, proxy: Proxy | None) -> ThroughHttpx:
        from .through_httpx import ThroughHttpx

        key = (proxy.url if proxy else "", certificate_settings())
        if key not in self._clients:
            self._clients[key] = ThroughHttpx(proxy, _KEEPALIVE)
        return self._clients[key]

    def warm_up(self, call: HttpCall) -> Coroutine[Any, Any, None] | None:
        """What `prepare` makes for a call, where it is not there already."""
        way, own = self._way(addresses.parse(call.url)), self._stamped
        if way.own:
            there = own is not None and (own.has_context or way.address.scheme != "https")
        else:
            there = (way.proxy.url if way.proxy else "", certificate_settings()) in self._clients
        return None if there else self.prepare(call.url)

    def prepare_call(self, call: HttpCall, *, fresh: bool) -> PreparedRequest:
        """See PreparedRequest."""
        return PreparedRequest(call, fresh=fresh)

    async def close(self) -> None:
        """Closes every connection."""
        clients, stamped = self._clients, self._stamped
        self._clients, self._stamped, self._ways = {}, None, {}
        for client in clients.values():
            await client.aclose()
        if stamped is not None:
            await stamped.aclose()

    def idle(self, url: str) -> int | None:
        """How many open connections to the place of `url` are free; None where httpx's own transport keeps
        them."""
        way = self._way(addresses.parse(url))
        return self._own().idle(way.address) if way.own else None

    def open(self, call: HttpCall | PreparedRequest, trace: Trace, connect: float | None) -> _OpenReply:
        """Sends a call and gives the answer once its headers are there; leaving closes or returns the
        connection.

        connect: seconds allowed for name look-up, TCP and TLS. Raises ConnectFailed, Timeout("connect"),
        StreamCut.
        """
        return _OpenReply(
            self, call if isinstance(call, PreparedRequest) else PreparedRequest(call), trace, connect
        )

    async def answered(
        self, prepared: PreparedRequest, trace: Trace, connect: float | None
    ) -> tuple[Answer, _Route]:
        """The answer to one request, and how it went. Raises as `open` does."""
        way = self._way(prepared.address)
        trace.bytes_out = prepared.size
        trace.marks.setdefault("start", time.perf_counter())
        try:
            if way.own:
                return await self._own().send(prepared, trace, connect), way
            if prepared.public:
                await _check_public(way)
            return await self._through_httpx(way.proxy).send(prepared, trace, connect), way
        except ConnectTimeout:
            raise errors.Timeout(
                f"No connection to {prepared.address.host_port}{_describe_proxy(way.proxy)} "
                f"within {connect:g} s.",
                which="connect",
                seconds=connect or 0.0,
                hint="Check the address and the network, or allow more with timeout.connect=30.",
            ) from None
        except Fault as exc:
            raise _translate_fault(exc, prepared.address, started=False, proxy=way.proxy) from None


class _OpenReply:
    """What `open` gives, as an asynchronous context manager."""

    def __init__(
        self, transport: HttpTransport, prepared: PreparedRequest, trace: Trace, connect: float | None
    ) -> None:
        self._transport, self._prepared, self._trace, self._connect = transport, prepared, trace, connect
        self._answer: Answer | None = None

    async def __aenter__(self) -> Reply:
        prepared, trace, asked = self._prepared, self._trace, self._transport.answered
        answer, way = await asked(prepared, trace, self._connect)
        headers = _merge_headers(answer)
        for _ in range(_REDIRECT_LIMIT):
            if answer.status not in _REDIRECTS or (further := _redirect(prepared, headers)) is None:
                break
            await answer.aclose()
            prepared = further
            answer, way = await asked(prepared, trace, self._connect)
            headers = _merge_headers(answer)
        if way.proxy and answer.status == _PROXY_AUTH_REQUIRED:
            await answer.aclose()
            raise _proxy_login_error(way.proxy)
        self._answer = answer
        trace.status, trace.http_version = answer.status, answer.version
        if trace.reused is None:
            trace.reused = "connect_start" not in trace.marks
        kept = {k: v for k, v in headers.items() if k in _STORED_HEADERS or k.startswith(_STORED_PREFIXES)}
        trace.headers = _scrub_headers(kept, prepared.call.guard.secrets)
        return Reply(answer, headers, prepared.address, trace)

    async def __aexit__(self, *_exc: object) -> None:
        if self._answer is not None:
            await self._answer.aclose()


def _scrub_headers(headers: dict[str, str], secrets: tuple[str, ...]) -> dict[str, str]:
    """What is remembered of headers: without a key that a server sends back."""
    if not any(secret in said for secret in secrets for pair in headers.items() for said in pair):
        return headers
    return {scrub(k, secrets): scrub(v, secrets) for k, v in headers.items()}


_REDIRECTS = (307, 308)  # with their method


def _merge_headers(answer: Answer) -> dict[str, str]:
    """By name in lower case; those of one name together."""
    out: dict[str, str] = {}
    for name, value in answer.headers:
        key, text = name.decode("latin-1").lower(), _decode_header(value)
        out[key] = f"{out[key]}, {text}" if key in out else text
    return out


def _decode_header(value: bytes) -> str:
    try:
        return value.decode()
    except UnicodeDecodeError:
        return value.decode("latin-1")


def _redirect(prepared: PreparedRequest, headers: dict[str, str]) -> PreparedRequest | None:
    """The same request at another path of the same server; None for any other: a key must not travel to
    another host."""
    if not (place := headers.get("location", "")):
        return None
    try:
        url = urljoin(prepared.call.url, place)
        if addresses.parse(url) != prepared.address:
            return None
        return PreparedRequest(replace(prepared.call, url=url), fresh=prepared.fresh, public=prepared.public)
    except (errors.ConfigError, ValueError):
        return None


async def _check_public(way: _Route) -> None:
    """As Connection.open does; where a proxy looks names up, one that is not known here is the proxy's."""
    host, port = way.address.host, way.address.port
    try:
        check_public(host, await asyncio.get_running_loop().getaddrinfo(host, port))
    except OSError:
        if way.proxy is None:
            raise errors.ConnectFailed(
                f"No connection to {way.address.host_port}: the name is not known.", hint="Check the address."
            ) from None


_PROXY_AUTH_REQUIRED = 407  # a proxy's own status


def _describe_proxy(proxy: Proxy | None) -> str:
    return f" through the proxy {proxy.place} ({proxy.variable})" if proxy else ""


def _proxy_login_error(proxy: Proxy) -> errors.ConfigError:
    return errors.ConfigError(
        f"The proxy {proxy.place} ({proxy.variable}) wants a name and a password (HTTP 407).",
        hint=f"Write them into {proxy.variable}, as http://name:password@{proxy.place}.",
    )


def _translate_fault(
    exc: Fault, address: Address, *, started: bool, proxy: Proxy | None = None
) -> errors.NbllmError:
    """Our error for a fault. Its own text is left out where it may hold request data."""
    if isinstance(exc, ProxyFault) and proxy and str(exc).startswith(str(_PROXY_AUTH_REQUIRED)):
        return _proxy_login_error(proxy)
    if isinstance(exc, NotConnected):
        check = (
            f"Check {proxy.variable}, or name {address.host} in NO_PROXY."
            if proxy
            else "Check that the server runs and the address is right (base_url, proxies)."
        )
        said = str(exc) or "refused"
        check = next((hint for pattern, hint in _TLS_HINTS if pattern.search(said)), check)
        return errors.ConnectFailed(
            f"No connection to {address.host_port}{_describe_proxy(proxy)}: {said}.", hint=check
        )
    if isinstance(exc, InvalidRequest):
        return invalid_request_error(exc)
    if isinstance(exc, InvalidResponse) and not _CONNECTION_CLOSED.search(str(exc)):
        return errors.ProtocolError(
            f"{address.host_port}{_describe_proxy(proxy)} sent what cannot be read"
            f"{' in mid-answer' * started}: {exc}.",
            hint="Check base_url: another kind of server, or something on the way, may have answered.",
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
            "Its certificate is of an authority that is not known here, as a company's proxy may be. Set "
            "SSL_CERT_FILE (or REQUESTS_CA_BUNDLE) to that authority's PEM file, or add it to the system's "
            "certificates; a cell may do that, with os.environ.",
        ),
        (r"hostname|ip address mismatch", "Its certificate is for another host: check the address."),
        (
            r"expired|not yet valid",
            "Its certificate is out of date: check the clock of this machine.",
        ),
        (
            r"wrong.version.number|record.layer|http.request|packet length too long",
            "It does not speak TLS there: the address may begin with http://.",
        ),
    )
)
_CONNECTION_CLOSED = re.compile("disconnected|closed")  # in the words of httpx's own transport
