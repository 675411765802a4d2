"""An httpx client for somebody else's SDK, over our own connections: their pool, proxies, certificates and
errors.

What is secret goes to the origin that it belongs to, and nowhere else, wherever the SDK is told to go. From
an address of the internet no answer leads into a private network. Redirects are not followed.
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

_SDK_HEADERS = (
    "accept",
    "content-type",
    "cache-control",
    "a2a-version",
    "a2a-extensions",
)  # what an SDK may say


@dataclass(slots=True)
class SdkClient:
    """Whose client it is. url: the address that `headers` (with the key) and `guard` belong to. trace: for
    the next request, which is the one that is measured. at: when the last bytes came. refused: (status,
    headers, page) of the last answer that was none. limit: bytes of all answers together."""

    http: HttpTransport
    url: str
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)
    guard: Guard = field(default=Guard(), repr=False)
    connect: float | None = None
    trace: Trace | None = None
    at: float = 0.0
    refused: tuple[int, dict[str, str], bytes] | None = None
    limit: int = 2**28

    def client(self) -> Any:
        """The httpx client. To be closed."""
        return httpx.AsyncClient(transport=_Transport(self), timeout=None, trust_env=False)  # noqa: S113


class _Transport(httpx.AsyncBaseTransport):
    def __init__(self, bound: SdkClient) -> None:
        self._bound = bound

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        bound, url = self._bound, str(request.url)
        own = origin(url) == origin(bound.url)
        headers = {k: v for k, v in request.headers.items() if k in _SDK_HEADERS} | (
            dict(bound.headers) if own else {}
        )
        guard = bound.guard if own else Guard()
        call = HttpCall(url, headers, {}, request.method, guard, await request.aread())
        public = not own and not addresses.parse(bound.url).is_local
        trace, bound.trace = bound.trace or Trace(), None
        stack = AsyncExitStack()
        try:
            opened = bound.http.open(PreparedRequest(call, public=public), trace, bound.connect)
            reply = await stack.enter_async_context(opened)
            if reply.status >= 400:
                bound.refused = reply.status, reply.headers, await reply.body()
                return httpx.Response(reply.status, content=bound.refused[2], request=request)
        except BaseException:
            await stack.aclose()
            raise
        finally:
            if bound.refused is not None:
                await stack.aclose()
        kept = {k: v for k, v in reply.headers.items() if k == "content-type"}
        return httpx.Response(reply.status, headers=kept, stream=_Body(bound, reply, trace, stack))


class _Body(httpx.AsyncByteStream):
    """The bytes of an answer, which are stamped and counted."""

    def __init__(self, bound: SdkClient, reply: Any, trace: Trace, stack: AsyncExitStack) -> None:
        self._bound, self._reply, self._trace, self._stack = bound, reply, trace, stack

    async def __aiter__(self) -> AsyncIterator[bytes]:
        bound, trace = self._bound, self._trace
        async for chunk in self._reply.chunks():
            bound.at = time.perf_counter()
            trace.marks.setdefault("first_byte", bound.at)
            trace.bytes_in += len(chunk)
            bound.limit -= len(chunk)
            if bound.limit < 0:
                raise errors.ProtocolError(
                    "The answer is too large, and was stopped.", hint="What came is kept."
                )
            yield chunk
        trace.marks["end"] = time.perf_counter()

    async def aclose(self) -> None:
        await self._stack.aclose()
