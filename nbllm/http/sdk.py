"""An httpx client for a third-party SDK that uses HttpTransport: its pool, proxies, certificates and errors.

Secrets are sent only to the origin that they belong to, whatever address the SDK uses. A public server cannot
direct requests into a private network. Redirects are not followed.
"""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from typing import Any

import httpx

from ..core import addresses, errors
from ..core.calls import Guard, HttpCall, Trace, origin
from .prepared_request import PreparedRequest
from .transport import HttpTransport

# headers that an SDK may set
_SDK_HEADERS = (
    "accept",
    "content-type",
    "cache-control",
    "a2a-version",
    "a2a-extensions",
)


@dataclass(slots=True)
class SdkClient:
    """Settings and state of the client. url: the address that `headers` (with the key) and `guard` belong to.
    trace: for the next request, the one that is measured. last_arrival: when the last bytes arrived.
    error_response: (status, headers, body) of the last error response. limit: bytes of all responses
    together."""

    http: HttpTransport
    url: str
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)
    guard: Guard = field(default=Guard(), repr=False)
    connect: float | None = None
    trace: Trace | None = None
    last_arrival: float = 0.0
    error_response: tuple[int, dict[str, str], bytes] | None = None
    limit: int = 2**28

    def client(self) -> Any:
        """The httpx client, which must be closed."""
        return httpx.AsyncClient(transport=_Transport(self), timeout=None, trust_env=False)  # noqa: S113


class _Transport(httpx.AsyncBaseTransport):
    def __init__(self, sdk: SdkClient) -> None:
        self._sdk = sdk

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        sdk, url = self._sdk, str(request.url)
        own = origin(url) == origin(sdk.url)
        headers = {k: v for k, v in request.headers.items() if k in _SDK_HEADERS} | (
            dict(sdk.headers) if own else {}
        )
        guard = sdk.guard if own else Guard()
        call = HttpCall(url, headers, {}, request.method, guard, await request.aread())
        public = not own and not addresses.parse(sdk.url).is_local
        trace, sdk.trace = sdk.trace or Trace(), None
        async with AsyncExitStack() as stack:
            opened = sdk.http.open(PreparedRequest(call, public=public), trace, sdk.connect)
            reply = await stack.enter_async_context(opened)
            if reply.status >= 400:
                sdk.error_response = reply.status, reply.headers, await reply.body()
                return httpx.Response(reply.status, content=sdk.error_response[2], request=request)
            content_type = {k: v for k, v in reply.headers.items() if k == "content-type"}
            body = _Body(sdk, reply, trace, stack.pop_all())
            return httpx.Response(reply.status, headers=content_type, stream=body)


class _Body(httpx.AsyncByteStream):
    """The body of a response; counts its bytes and records their arrival."""

    def __init__(self, sdk: SdkClient, reply: Any, trace: Trace, stack: AsyncExitStack) -> None:
        self._sdk, self._reply, self._trace, self._stack = sdk, reply, trace, stack

    async def __aiter__(self) -> AsyncIterator[bytes]:
        sdk, trace = self._sdk, self._trace
        async for chunk in self._reply.chunks():
            sdk.last_arrival = time.perf_counter()
            trace.marks.setdefault("first_byte", sdk.last_arrival)
            trace.bytes_in += len(chunk)
            sdk.limit -= len(chunk)
            if sdk.limit < 0:
                raise errors.ProtocolError(
                    "The answer is too large and was stopped.",
                    hint="The partial answer is in the error's .partial.",
                )
            yield chunk
        trace.marks["end"] = time.perf_counter()

    async def aclose(self) -> None:
        await self._stack.aclose()
