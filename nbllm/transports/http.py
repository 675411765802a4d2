"""HTTP to a provider: one pooled client an event loop, marks from httpx's own trace, errors in our words.

Only this module and http_frames import httpx. Redirects are not followed (a key must not travel to another host);
loopback addresses never go through a proxy.
"""

from __future__ import annotations

import json
import time
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import anyio.lowlevel
import httpx
import msgspec

from .. import errors
from ..wire import Frame, HttpCall, Trace
from . import http_frames

ERROR_BODY_LIMIT = 256 * 2**10  # bytes of an error page that are read
_LOOPBACK: dict[str, None] = {"all://127.0.0.1": None, "all://localhost": None, "all://[::1]": None}
_KEEPALIVE = 120.0  # seconds that an idle connection stays open: a person reads between two cells

# httpx's trace events, and the mark each one sets.
_MARKS = {
    "connection.connect_tcp.started": "connect_start",
    "connection.connect_unix_socket.started": "connect_start",
    "connection.connect_tcp.complete": "connected",
    "connection.connect_unix_socket.complete": "connected",
    "connection.start_tls.complete": "secured",
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
        reads = http_frames.Reads(self._response.aiter_bytes())
        marks = self._trace.marks
        try:
            async for frame in http_frames.frames(reads):
                marks.setdefault("first_frame", frame.at)
                yield frame
        except httpx.HTTPError as exc:
            raise _translated(exc, str(self._response.request.url), started=True) from None
        finally:
            marks["end"] = reads.at or time.perf_counter()
            self._trace.bytes_in, self._trace.reads = reads.bytes, reads.count

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


class HttpTransport:
    """A connection pool. Used on one event loop; `prepare` takes some 50 ms, most of them for a TLS context."""

    def __init__(self) -> None:
        self._client: httpx.AsyncClient | None = None
        self.prepared = False

    async def prepare(self) -> None:
        """Makes the client and loads what httpx loads at its first request (anyio's asyncio side), so that the times of a
        first call are the network's and not ours."""
        self._ready()
        await anyio.lowlevel.checkpoint()
        self.prepared = True

    def _ready(self) -> httpx.AsyncClient:
        if self._client is None:
            self._client = httpx.AsyncClient(
                follow_redirects=False,
                mounts=_LOOPBACK,
                limits=httpx.Limits(max_connections=None, max_keepalive_connections=200, keepalive_expiry=_KEEPALIVE),
                timeout=httpx.Timeout(None),
            )
        return self._client

    async def close(self) -> None:
        """Closes every connection."""
        if self._client is not None:
            client, self._client = self._client, None
            await client.aclose()

    @asynccontextmanager
    async def send(self, call: HttpCall, trace: Trace, connect: float | None) -> AsyncIterator[Reply]:
        """Sends `call` and gives the answer once its headers are there; leaving closes or returns the connection.

        connect: seconds allowed for name look-up, TCP and TLS. Raises ConnectFailed, Timeout("connect"), StreamCut.
        """
        client = self._ready()
        content = _encoded(call)
        trace.bytes_out, trace.marks["start"] = len(content), time.perf_counter()
        request = self._request(client, call, content, trace, connect)
        try:
            response = await client.send(request, stream=True)
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

    @staticmethod
    def _request(client: httpx.AsyncClient, call: HttpCall, content: bytes, trace: Trace, connect: float | None) -> httpx.Request:
        async def mark(event: str, _info: dict[str, Any]) -> None:
            if event in _MARKS:
                trace.marks[_MARKS[event]] = time.perf_counter()

        try:
            return client.build_request(
                call.method, call.url, content=content or None,
                headers={"user-agent": "nbllm", "accept": "text/event-stream, application/json",
                         **({"content-type": "application/json"} if content else {}), **call.headers},
                timeout=httpx.Timeout(None, connect=connect), extensions={"trace": mark},
            )
        except (httpx.InvalidURL, ValueError, TypeError) as exc:
            raise errors.ConfigError(f"Not a usable address: {call.url!r} ({type(exc).__name__}).",
                                     hint="base_url should look like http://127.0.0.1:8000/v1, and keys hold no line breaks.") from None

    @staticmethod
    def _note(response: httpx.Response, trace: Trace) -> None:
        trace.status, trace.http_version = response.status_code, response.http_version
        trace.reused = "connect_start" not in trace.marks
        trace.headers = {k: v for k, v in ((k.lower(), v) for k, v in response.headers.items())
                         if k in _KEPT or k.startswith(_KEPT_PREFIXES)}


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
