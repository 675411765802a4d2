"""HTTP to a provider: httpx over our own stamped connections, errors in our words.

A proxy of the environment, HTTP/2, and a loop that cannot watch sockets (Windows) need httpx's own transport: then
marks come from its trace, and arrivals are stamped when they are in hand. Only this package imports httpx. Redirects are
not followed (a key must not travel to another host); loopback addresses never go through a proxy.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager
from typing import Any
from urllib.parse import urlsplit
from urllib.request import getproxies, proxy_bypass

import httpx
import msgspec

from .. import errors
from ..wire import Frame, HttpCall, Read, Trace
from . import http_frames
from .pool import BODY, FRESH, TRACE, WIRE, StampedTransport, head

ERROR_BODY_LIMIT = 256 * 2**10  # bytes of an error page that are read
_LOOPBACK = frozenset({"127.0.0.1", "localhost", "::1"})
_HEADERS = {"user-agent": "nbllm", "accept": "text/event-stream, application/json", "accept-encoding": "gzip, deflate", "connection": "keep-alive"}
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
_KEPT = ("x-request-id", "request-id", "content-type", "retry-after", "server-timing", "openai-processing-ms", "openai-version",
         "cf-ray", "x-nbllm-simulated")
_KEPT_PREFIXES = ("x-ratelimit-", "anthropic-ratelimit-", "x-litellm-", "x-groq-", "x-goog-")


class Reply:
    """An answer whose headers have come."""

    def __init__(self, response: httpx.Response, trace: Trace) -> None:
        self._response, self._trace = response, trace
        self.status: int = response.status_code
        self.headers: dict[str, str] = {k.lower(): v for k, v in response.headers.items()}

    async def frames(self) -> AsyncGenerator[Frame, None]:
        """The body as frames; ends where the body ends. Raises StreamCut where the connection broke."""
        body = self._response.extensions.get(BODY)
        reads = http_frames.Reads(self._response.aiter_bytes(), self._trace.reads, self._exact if body is not None else lambda: None)
        marks = self._trace.marks
        try:
            async for frame in http_frames.frames(reads):
                marks.setdefault("first_frame", frame.at)
                yield frame
        except httpx.HTTPError as exc:
            raise _translated(exc, str(self._response.request.url), started=True) from None
        finally:
            marks["end"] = reads.at or time.perf_counter()
            self._trace.bytes_in = reads.bytes

    def _exact(self) -> Read | None:
        """The read behind the latest piece; where the body is compressed, none of its events has a stamp of its own."""
        read: Read | None = self._response.extensions[BODY].read
        if read is not None and "content-encoding" in self.headers:
            return read._replace(segments=0, clean=False)
        return read

    async def body(self, limit: int = ERROR_BODY_LIMIT) -> bytes:
        """The body, at most `limit` bytes of it; what came of it where the connection broke."""
        body = b""
        try:
            async for chunk in self._response.aiter_bytes():
                body += chunk
                if len(body) >= limit:
                    break
        except httpx.HTTPError:
            pass  # the status is known already; the rest of its page adds words only
        return body[:limit]


class Letter:
    """A call as the bytes that will be sent; made before the clock of a call starts. May be sent several times.

    fresh: over a connection of its own. Raises ConfigError for an address, a header or a body that HTTP cannot carry.
    """

    def __init__(self, call: HttpCall, *, fresh: bool = False) -> None:
        content = _encoded(call)
        headers = {**_HEADERS, **({"content-type": "application/json"} if content else {}), **call.headers}
        try:
            self.request = httpx.Request(call.method, call.url, content=content or None, headers=headers)
            self.request.extensions = {WIRE: head(self.request) + content, FRESH: fresh}
        except httpx.LocalProtocolError as exc:
            raise _translated(exc, call.url, started=False) from None
        except (httpx.InvalidURL, ValueError, TypeError) as exc:
            raise errors.ConfigError(f"Not a usable address: {call.url!r} ({type(exc).__name__}).",
                                     hint="base_url should look like http://127.0.0.1:8000/v1, and keys hold no line breaks.") from None
        call.guard.check(str(self.request.url))
        self.call, self.size = call, len(content)


class HttpTransport:
    """A connection pool. Used on one event loop."""

    def __init__(self) -> None:
        self._client: httpx.AsyncClient | None = None  # for what needs httpx's own transport
        self._stamped: StampedTransport | None = None
        self._ways: dict[str, bool] = {}  # by origin: whether httpx's own transport is needed

    async def prepare(self, url: str) -> None:
        """Makes what the first request to `url` needs (some 20 ms for a TLS context, more through a proxy), so that the times
        of a first call are the network's and not ours."""
        if self._plain(url):
            self._through_httpx()
            import anyio.lowlevel

            await anyio.lowlevel.checkpoint()  # httpx loads anyio's asyncio side at its first request
        elif url.startswith("https:"):
            self._own().context()
        else:
            self._own()

    def prepared(self, url: str) -> bool:
        """Whether prepare has nothing to do for `url`."""
        if self._plain(url):
            return self._client is not None
        return self._stamped is not None and (self._stamped.has_context or not url.startswith("https:"))

    def _plain(self, url: str) -> bool:
        """Whether httpx's own transport is needed."""
        parts = urlsplit(url)
        origin = f"{parts.scheme}://{parts.netloc}"
        if origin not in self._ways:
            self._ways[origin] = sys.platform == "win32" or _proxied(parts.scheme, parts.hostname or "")
        return self._ways[origin]

    def _own(self) -> StampedTransport:
        self._stamped = self._stamped or StampedTransport(expiry=_KEEPALIVE)
        return self._stamped

    def _through_httpx(self) -> httpx.AsyncClient:
        if self._client is None:
            self._client = httpx.AsyncClient(
                follow_redirects=False,
                limits=httpx.Limits(max_connections=None, max_keepalive_connections=200, keepalive_expiry=_KEEPALIVE),
                timeout=httpx.Timeout(None),
            )
        return self._client

    async def close(self) -> None:
        """Closes every connection."""
        client, stamped = self._client, self._stamped
        self._client, self._stamped, self._ways = None, None, {}
        if client is not None:
            await client.aclose()
        if stamped is not None:
            await stamped.aclose()

    def idle(self, url: str) -> int | None:
        """How many open connections to the place of `url` are free; None where httpx's own transport keeps them."""
        if self._plain(url):
            return None
        parts = urlsplit(url)
        return self._own().idle((parts.scheme, parts.hostname or "", parts.port or (443 if parts.scheme == "https" else 80)))

    def close_idle(self) -> None:
        """Closes idle connections, so that the next request makes a fresh one (not those through httpx's own transport)."""
        if self._stamped is not None:
            self._stamped.close_idle()

    @asynccontextmanager
    async def send(self, call: HttpCall | Letter, trace: Trace, connect: float | None) -> AsyncIterator[Reply]:
        """Sends a call and gives the answer once its headers are there; leaving closes or returns the connection.

        connect: seconds allowed for name look-up, TCP and TLS. Raises ConnectFailed, Timeout("connect"), StreamCut.
        """
        letter = call if isinstance(call, Letter) else Letter(call)
        call = letter.call
        trace.bytes_out, trace.marks["start"] = letter.size, time.perf_counter()
        try:
            response = await self._ask(letter, trace, connect)
        except httpx.ConnectTimeout:
            raise errors.Timeout(f"No connection to {_place(call.url)} within {connect:g} s.", which="connect", seconds=connect or 0.0,
                                 hint="Check the address and the network, or allow more with timeout.connect=30.") from None
        except (httpx.HTTPError, httpx.InvalidURL) as exc:
            raise _translated(exc, call.url, started=False) from None
        try:
            self._note(response, trace)
            yield Reply(response, trace)
        finally:
            await response.aclose()

    async def _ask(self, letter: Letter, trace: Trace, connect: float | None) -> httpx.Response:
        """Through our own transport without a client around it (no cookies, redirects or auth flows are wanted), or through httpx's."""
        async def mark(event: str, _info: dict[str, Any]) -> None:
            if event in _MARKS:
                trace.marks[_MARKS[event]] = time.perf_counter()

        request = letter.request
        request.extensions = {**request.extensions, "trace": mark, TRACE: trace, "timeout": {"connect": connect}}
        if self._plain(letter.call.url):
            return await self._through_httpx().send(request, stream=True)
        response = await self._own().handle_async_request(request)
        response.request = request
        return response

    @staticmethod
    def _note(response: httpx.Response, trace: Trace) -> None:
        trace.status, trace.http_version = response.status_code, response.http_version
        if trace.reused is None:
            trace.reused = "connect_start" not in trace.marks
        trace.headers = {k: v for k, v in ((k.lower(), v) for k, v in response.headers.items())
                         if k in _KEPT or k.startswith(_KEPT_PREFIXES)}


def _proxied(scheme: str, host: str) -> bool:
    proxies = getproxies()
    return host not in _LOOPBACK and bool(proxies.get(scheme) or proxies.get("all")) and not proxy_bypass(host)


def _encoded(call: HttpCall) -> bytes:
    if call.method == "GET":
        return b""
    try:
        return msgspec.json.encode(call.body)
    except UnicodeEncodeError:
        return json.dumps(call.body).encode()  # lone surrogates travel as escapes
    except (TypeError, OverflowError) as exc:
        raise errors.ConfigError(f"The request cannot be written as JSON: {exc}.",
                                 hint="Options such as x.name and schema take JSON values only.") from None


def _place(url: str) -> str:
    parsed = httpx.URL(url)
    return f"{parsed.host}:{parsed.port or (443 if parsed.scheme == 'https' else 80)}"


def _translated(exc: Exception, url: str, *, started: bool) -> errors.NbllmError:
    """Our error for httpx's. Its own text is left out where it may hold request data."""
    if isinstance(exc, httpx.DecodingError):
        return errors.ProtocolError(f"The answer from {_place(url)} is compressed in a broken way.", hint="Check proxies on the way.")
    if isinstance(exc, (httpx.UnsupportedProtocol, httpx.InvalidURL)):
        return errors.ConfigError(f"Not a usable address: {url!r}.", hint="base_url should look like https://host/v1.")
    if isinstance(exc, (httpx.ConnectError, httpx.ProxyError)):
        return errors.ConnectFailed(f"No connection to {_place(url)}: {str(exc) or 'refused'}.",
                                    hint="Check that the server runs and the address is right (base_url, proxies).")
    if isinstance(exc, httpx.LocalProtocolError):
        return errors.ConfigError("The request holds a header that HTTP does not allow.", hint="Check the key for line breaks or spaces.")
    when = "in the middle of the answer" if started else "before it answered"
    return errors.StreamCut(f"{_place(url)} closed the connection {when}.", hint="Try again; the partial answer is kept.")
