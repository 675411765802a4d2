"""httpx's transport, for what ConnectionPool does not support: proxies, and loops that cannot watch sockets.
Imported only when needed. Marks come from its trace; the time of an arrival is when this process has the
data."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from typing import Any

import anyio.lowlevel
import httpx

from ..core.calls import Read, Trace
from ..core.errors import ConfigError
from .faults import (
    ConnectionBroken,
    ConnectTimeout,
    Fault,
    InvalidRequest,
    InvalidResponse,
    NotConnected,
    ProxyFault,
)
from .pool import tls_context
from .prepared_request import PreparedRequest
from .proxies import Proxy

# httpx's trace events, and the mark that each sets.
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
_FAULTS: tuple[tuple[type[Exception], type[Fault]], ...] = (
    (httpx.ConnectTimeout, ConnectTimeout),
    (httpx.ProxyError, ProxyFault),
    (httpx.ConnectError, NotConnected),
    (httpx.LocalProtocolError, InvalidRequest),
    (httpx.InvalidURL, InvalidRequest),
    (httpx.RemoteProtocolError, InvalidResponse),
)


def _fault(exc: Exception) -> Fault:
    kind = next((fault for known, fault in _FAULTS if isinstance(exc, known)), ConnectionBroken)
    return kind(str(exc))


class HttpxResponse:
    """A response of httpx, as PooledResponse; without records of reads."""

    read: Read | None = None

    def __init__(self, response: httpx.Response) -> None:
        self._response, self.headers = response, response.headers.raw
        self.status, self.version = response.status_code, response.http_version

    async def __aiter__(self) -> AsyncIterator[bytes]:
        try:
            async for chunk in self._response.aiter_raw():
                yield chunk
        except httpx.HTTPError as exc:
            raise _fault(exc) from None

    async def aclose(self) -> None:
        """Closes or returns the connection."""
        await self._response.aclose()


class ThroughHttpx:
    """An httpx client, possibly with a proxy. Raises ConfigError for an invalid proxy."""

    def __init__(self, proxy: Proxy | None, keepalive: float) -> None:
        limits = httpx.Limits(max_connections=None, max_keepalive_connections=200, keepalive_expiry=keepalive)
        try:
            self._client = httpx.AsyncClient(
                proxy=(proxy.url if proxy else "") or None,
                trust_env=False,
                verify=tls_context(),
                follow_redirects=False,
                timeout=httpx.Timeout(None),
                limits=limits,
            )
        except (ImportError, ValueError, httpx.InvalidURL) as exc:
            raise ConfigError(
                f"{proxy.variable if proxy else 'The environment'} has an invalid proxy "
                f"({type(exc).__name__}).",
                hint="Correct it or unset it, or name the hosts that need no proxy in NO_PROXY.",
            ) from None

    async def prepare(self) -> None:
        """Makes httpx load anyio's asyncio backend, which it otherwise does at the first request."""
        await anyio.lowlevel.checkpoint()

    async def send(self, prepared: PreparedRequest, trace: Trace, connect: float | None) -> HttpxResponse:
        """Sends a request. Raises Faults."""

        async def mark(event: str, _info: dict[str, Any]) -> None:
            if event in _MARKS:
                trace.marks[_MARKS[event]] = time.perf_counter()

        request = prepared.request
        request.extensions = {"trace": mark, "timeout": {"connect": connect}}
        try:
            return HttpxResponse(await self._client.send(request, stream=True))
        except (httpx.HTTPError, httpx.InvalidURL) as exc:
            raise _fault(exc) from None

    async def aclose(self) -> None:
        """Closes every connection."""
        await self._client.aclose()
