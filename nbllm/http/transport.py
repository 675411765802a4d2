"""HTTP to a provider: httpx over our own stamped connections, errors in our words.

A proxy of the environment, and a loop that cannot watch sockets (Windows) need httpx's own transport: then
marks come from its trace, and arrivals are stamped when they are in hand. Only this package imports httpx.
Redirects are followed within a server only (a key must not travel to another host).
"""

from __future__ import annotations

import asyncio
import base64
import functools
import json
import re
import sys
import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any, NamedTuple
from urllib.parse import unquote, urljoin

import httpx
import msgspec

from ..core import addresses, errors
from ..core.addresses import Address
from ..core.calls import Frame, HttpCall, Read, Trace
from . import frames as http_frames
from . import proxies
from .codings import decoded
from .connection import refuse_private
from .pool import BODY, FRESH, ORIGIN, PUBLIC, TRACE, WIRE, StampedTransport, authorities, certificates, head
from .proxies import Proxy

ERROR_BODY_LIMIT = 256 * 2**10  # bytes of an error page that are read
_HOPS = 3  # redirections that are followed
_WAYS = 1000  # URLs whose way is remembered
_HEADERS = {
    "user-agent": "nbllm",
    "accept": "text/event-stream, application/json",
    "accept-encoding": "gzip, deflate",
    "connection": "keep-alive",
}
_KEEPALIVE = 120.0  # seconds that an idle connection stays open: a person reads between two cells

# httpx's trace events, and the mark each one sets.
_MARKS = {
    "connection.connect_tcp.started": "connect_start",
    "connection.connect_tcp.complete": "connected",
    "connection.start_tls.started": "tls_start",
    "connection.start_tls.complete": "secured",
    "http11.send_request_headers.started": "send_start",
    "http2.send_request_headers.started": "send_start",
    "http11.send_request_body.complete": "sent",
    "http2.send_request_body.complete": "sent",
    "http11.receive_response_headers.complete": "headers",
    "http2.receive_response_headers.complete": "headers",
}

# Answer headers that are kept: ids, limits and what the provider measured itself. None of them is secret.
_KEPT = (
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
_KEPT_PREFIXES = ("x-ratelimit-", "anthropic-ratelimit-", "x-litellm-", "x-groq-", "x-goog-")


class Reply:
    """An answer whose headers have come."""

    def __init__(self, response: httpx.Response, trace: Trace) -> None:
        self._response, self._trace = response, trace
        self.status: int = response.status_code
        self.headers: dict[str, str] = {k.lower(): v for k, v in response.headers.items()}

    def _bytes(self) -> AsyncIterator[bytes]:
        return decoded(self._response.aiter_raw(), self.headers.get("content-encoding", ""))

    async def frames(self) -> AsyncGenerator[Frame, None]:
        """The body as frames; ends where the body ends. Raises StreamCut where the connection broke,
        ProtocolError for a coding."""
        body = self._response.extensions.get(BODY)
        reads = http_frames.Reads(
            self._bytes(), self._trace.reads, self._exact if body is not None else lambda: None
        )
        marks = self._trace.marks
        try:
            async for frame in http_frames.frames(reads):
                marks.setdefault("first_frame", frame.at)
                yield frame
        except httpx.HTTPError as exc:
            raise _translated(exc, addresses.parse(str(self._response.request.url)), started=True) from None
        finally:
            marks["end"] = reads.at or time.perf_counter()
            self._trace.bytes_in = reads.bytes

    def _exact(self) -> Read | None:
        """The read behind the latest piece; where the body is compressed, none of its events has a stamp of
        its own."""
        read: Read | None = self._response.extensions[BODY].read
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
        except httpx.HTTPError:
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
        except httpx.HTTPError as exc:
            raise _translated(exc, addresses.parse(str(self._response.request.url)), started=True) from None

    async def lines(self, limit: int) -> AsyncGenerator[bytes, None]:
        """The body line by line, as it comes. Raises StreamCut where the connection broke, ProtocolError for
        a coding and for a line of more than `limit` bytes."""
        line = bytearray()
        try:
            async for chunk in self._bytes():
                first, *more = chunk.split(b"\n")
                line += first
                for piece in more:
                    yield bytes(line)
                    line = bytearray(piece)
                if len(line) > limit:
                    raise errors.ProtocolError(f"A line is larger than {limit:,} bytes.", hint="Ask again.")
        except httpx.HTTPError as exc:
            raise _translated(exc, addresses.parse(str(self._response.request.url)), started=True) from None
        yield bytes(line)

    def decoder(self) -> None:
        """The dialect's own."""

    def finish(self, answer: Callable[[], str]) -> None:
        """Nobody remembers."""

    async def drain(self, frames: AsyncIterator[Frame]) -> None:
        """See core.calls.Reply."""
        await http_frames.drained(frames)


class Letter:
    """A call as the bytes that will be sent; made before the clock of a call starts. May be sent several
    times.

    fresh: over a connection of its own. public: to an address of the internet only, and so fresh. Raises
    ConfigError for an address, a header or a body that HTTP cannot carry.
    """

    def __init__(self, call: HttpCall, *, fresh: bool = False, public: bool = False) -> None:
        self.address, content = addresses.parse(call.url), _encoded(call)
        headers = {**_HEADERS, **({"content-type": "application/json"} if content else {}), **call.headers}
        try:
            named = {**_login_of(call), **headers}.items()
            sent = [(name.encode("ascii"), value.encode("utf-8")) for name, value in named]
            self.request = httpx.Request(call.method, _url(call.url), content=content or None, headers=sent)
            self.request.extensions = {
                WIRE: head(self.request) + content,
                FRESH: fresh or public,
                PUBLIC: public,
                ORIGIN: self.address,
            }
        except httpx.LocalProtocolError as exc:
            raise _translated(exc, self.address, started=False) from None
        except (httpx.InvalidURL, ValueError, TypeError) as exc:
            raise errors.ConfigError(
                f"No request can be made to {self.address} ({type(exc).__name__}).",
                hint="base_url should look like http://127.0.0.1:8000/v1, and keys hold no line breaks.",
            ) from None
        for url in (
            str(self.address),
            str(self.request.url),
        ):  # where the connection goes, and what it is told
            call.guard.check(url)
        self.call, self.size, self.fresh, self.public = call, len(content), fresh, public


def _url(text: str) -> httpx.URL | str:
    """An address, read once: a run asks one address thousands of times. One that may hold a secret is not
    remembered."""
    return text if "?" in text or "@" in text else _read_url(text)


_read_url = functools.lru_cache(256)(httpx.URL)


def _login_of(call: HttpCall) -> dict[str, str]:
    """What stands before an @ in an address, as curl and browsers send it, where nothing else says who
    asks."""
    user = _USER.match(call.url)
    if user is None or "authorization" in map(str.lower, call.headers):
        return {}
    name, colon, password = user[1].partition(":")
    said = f"{unquote(name)}:{unquote(password) if colon else ''}"
    return {"authorization": f"Basic {base64.b64encode(said.encode()).decode()}"}


_USER = re.compile(r"https?://([^/?#]*)@", re.IGNORECASE)


class _Way(NamedTuple):
    """How an address is reached: by our own connections, or through httpx's (with or without a proxy)."""

    address: Address
    own: bool
    proxy: Proxy | None


class HttpTransport:
    """A connection pool. Used on one event loop."""

    def __init__(self) -> None:
        # for what needs httpx's own transport, by the proxy's address and whose certificates are taken
        self._clients: dict[tuple[str, tuple[str | None, ...]], httpx.AsyncClient] = {}
        self._stamped: StampedTransport | None = None
        self._settings: tuple[str | None, ...] = ()
        self._ways: dict[Address, _Way] = {}

    async def prepare(self, url: str) -> None:
        """Makes what the first request to `url` needs (some 20 ms for a TLS context, more through a proxy),
        so that the times of a first call are the network's and not ours. Raises ConfigError for an address or
        a proxy that cannot be used."""
        way = self._way(addresses.parse(url))
        if not way.own:
            self._through_httpx(way.proxy)
            import anyio.lowlevel

            await anyio.lowlevel.checkpoint()  # httpx loads anyio's asyncio side at its first request
        elif way.address.scheme == "https":
            self._own().context()
        else:
            self._own()

    def prepared(self, url: str) -> bool:
        """Whether prepare has nothing to do for `url`."""
        way = self._way(addresses.parse(url))
        if not way.own:
            return (way.proxy.url if way.proxy else "", authorities()) in self._clients
        return self._stamped is not None and (self._stamped.has_context or way.address.scheme != "https")

    def _way(self, address: Address) -> _Way:
        """By the environment as it is now: a cell may set a proxy, or take one away."""
        if (now := proxies.settings()) != self._settings or len(self._ways) > _WAYS:
            self._settings, self._ways = now, {}
        if (way := self._ways.get(address)) is None:
            proxy = proxies.proxy_for(address)
            way = self._ways[address] = _Way(address, proxy is None and sys.platform != "win32", proxy)
        return way

    def _own(self) -> StampedTransport:
        self._stamped = self._stamped or StampedTransport(expiry=_KEEPALIVE)
        return self._stamped

    def _through_httpx(self, proxy: Proxy | None) -> httpx.AsyncClient:
        url = proxy.url if proxy else ""
        key = (url, authorities())
        if key not in self._clients:
            try:
                self._clients[key] = httpx.AsyncClient(
                    proxy=url or None,
                    trust_env=False,
                    verify=certificates(),
                    follow_redirects=False,
                    timeout=httpx.Timeout(None),
                    limits=httpx.Limits(
                        max_connections=None, max_keepalive_connections=200, keepalive_expiry=_KEEPALIVE
                    ),
                )
            except (ImportError, ValueError, httpx.InvalidURL) as exc:
                raise errors.ConfigError(
                    f"{proxy.variable if proxy else 'The environment'} names no usable proxy "
                    f"({type(exc).__name__}).",
                    hint="Correct it or unset it, or name the hosts that need no proxy in NO_PROXY.",
                ) from None
        return self._clients[key]

    def warming(self, call: HttpCall) -> Coroutine[Any, Any, None] | None:
        """What `prepare` makes for a call, where it is not there already."""
        return None if self.prepared(call.url) else self.prepare(call.url)

    def ready(self, call: HttpCall, *, fresh: bool) -> Letter:
        """See Letter."""
        return Letter(call, fresh=fresh)

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

    def close_idle(self) -> None:
        """Closes idle connections, so that the next request makes a fresh one (not those through httpx's own
        transport)."""
        if self._stamped is not None:
            self._stamped.close_idle()

    @asynccontextmanager
    async def open(
        self, call: HttpCall | Letter, trace: Trace, connect: float | None
    ) -> AsyncIterator[Reply]:
        """Sends a call and gives the answer once its headers are there; leaving closes or returns the
        connection.

        connect: seconds allowed for name look-up, TCP and TLS. Raises ConnectFailed, Timeout("connect"),
        StreamCut.
        """
        letter = call if isinstance(call, Letter) else Letter(call)
        response, way = await self._opened(letter, trace, connect)
        for _ in range(_HOPS):
            if (further := _redirected(letter, response)) is None:
                break
            await response.aclose()
            letter = further
            response, way = await self._opened(letter, trace, connect)
        try:
            if way.proxy and response.status_code == _WANTS_LOGIN:
                raise _login(way.proxy)
            self._note(response, trace)
            yield Reply(response, trace)
        finally:
            await response.aclose()

    async def _opened(
        self, letter: Letter, trace: Trace, connect: float | None
    ) -> tuple[httpx.Response, _Way]:
        way = self._way(letter.address)
        trace.bytes_out = letter.size
        trace.marks.setdefault("start", time.perf_counter())
        try:
            return await self._ask(letter, way, trace, connect), way
        except httpx.ConnectTimeout:
            raise errors.Timeout(
                f"No connection to {letter.address.place}{_through(way.proxy)} within {connect:g} s.",
                which="connect",
                seconds=connect or 0.0,
                hint="Check the address and the network, or allow more with timeout.connect=30.",
            ) from None
        except (httpx.HTTPError, httpx.InvalidURL) as exc:
            raise _translated(exc, letter.address, started=False, proxy=way.proxy) from None

    async def _ask(self, letter: Letter, way: _Way, trace: Trace, connect: float | None) -> httpx.Response:
        """Through our own transport without a client around it (no cookies, redirects or auth flows are
        wanted), or through httpx's."""

        async def mark(event: str, _info: dict[str, Any]) -> None:
            if event in _MARKS:
                trace.marks[_MARKS[event]] = time.perf_counter()

        request = letter.request
        request.extensions = {
            **request.extensions,
            "trace": mark,
            TRACE: trace,
            "timeout": {"connect": connect},
        }
        if not way.own:
            if letter.public:
                await _refuse_private(way)
            return await self._through_httpx(way.proxy).send(request, stream=True)
        response = await self._own().handle_async_request(request)
        response.request = request
        return response

    @staticmethod
    def _note(response: httpx.Response, trace: Trace) -> None:
        trace.status, trace.http_version = response.status_code, response.http_version
        if trace.reused is None:
            trace.reused = "connect_start" not in trace.marks
        trace.headers = {
            k: v
            for k, v in ((k.lower(), v) for k, v in response.headers.items())
            if k in _KEPT or k.startswith(_KEPT_PREFIXES)
        }


def _redirected(letter: Letter, response: httpx.Response) -> Letter | None:
    """The same request at another path of the same server, where the answer sends it there with its method
    (307, 308); None for anything else: a key must not travel to another host."""
    if response.status_code not in (307, 308) or not (place := response.headers.get("location", "")):
        return None
    try:
        url = urljoin(letter.call.url, place)
        if addresses.parse(url) != letter.address:
            return None
        return Letter(replace(letter.call, url=url), fresh=letter.fresh, public=letter.public)
    except (errors.ConfigError, ValueError):
        return None


async def _refuse_private(way: _Way) -> None:
    """As Connection.open does; where a proxy looks names up, one that is not known here is the proxy's."""
    host, port = way.address.host, way.address.port
    try:
        refuse_private(host, await asyncio.get_running_loop().getaddrinfo(host, port))
    except OSError:
        if way.proxy is None:
            raise errors.ConnectFailed(
                f"No connection to {way.address.place}: the name is not known.", hint="Check the address."
            ) from None


def _encoded(call: HttpCall) -> bytes:
    if call.method == "GET" or (call.method == "DELETE" and not call.body):
        return b""
    if call.content:
        return call.content
    try:
        return msgspec.json.encode(call.body)
    except UnicodeEncodeError:
        return json.dumps(call.body).encode()  # lone surrogates travel as escapes
    except (TypeError, OverflowError) as exc:
        raise errors.ConfigError(
            f"The request cannot be written as JSON: {exc}.",
            hint="Options such as x.name and schema take JSON values only.",
        ) from None


_WANTS_LOGIN = 407  # a proxy's own status


def _through(proxy: Proxy | None) -> str:
    return f" through the proxy {proxy.place} ({proxy.variable})" if proxy else ""


def _login(proxy: Proxy) -> errors.ConfigError:
    return errors.ConfigError(
        f"The proxy {proxy.place} ({proxy.variable}) wants a name and a password (HTTP 407).",
        hint=f"Write them into {proxy.variable}, as http://name:password@{proxy.place}.",
    )


def _translated(
    exc: Exception, address: Address, *, started: bool, proxy: Proxy | None = None
) -> errors.NbllmError:
    """Our error for httpx's. Its own text is left out where it may hold request data."""
    if isinstance(exc, httpx.ProxyError) and proxy and str(exc).startswith(str(_WANTS_LOGIN)):
        return _login(proxy)
    if isinstance(exc, (httpx.ConnectError, httpx.ProxyError)):
        check = (
            f"Check {proxy.variable}, or name {address.host} in NO_PROXY."
            if proxy
            else "Check that the server runs and the address is right (base_url, proxies)."
        )
        said = str(exc) or "refused"
        check = next((hint for pattern, hint in _TLS if pattern.search(said)), check)
        return errors.ConnectFailed(f"No connection to {address.place}{_through(proxy)}: {said}.", hint=check)
    if isinstance(exc, httpx.LocalProtocolError):
        return errors.ConfigError(
            f"The request cannot be sent: {exc}.", hint="Check the key and the row's headers for line breaks."
        )
    if isinstance(exc, httpx.RemoteProtocolError) and not _CUT.search(str(exc)):
        return errors.ProtocolError(
            f"{address.place}{_through(proxy)} sent what cannot be read{' in mid-answer' * started}: {exc}.",
            hint="Check base_url: another kind of server, or something on the way, may have answered.",
        )
    when = "in the middle of the answer" if started else "before it answered"
    return errors.StreamCut(
        f"{address.place}{_through(proxy)} closed the connection {when}.",
        hint="Try again; the partial answer is kept.",
    )


_TLS = tuple(
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
_CUT = re.compile("disconnected|closed")  # in the words of httpx's own transport
