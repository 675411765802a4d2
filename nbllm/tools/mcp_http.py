"""What MCP servers send over HTTP, read on its way to the SDK, as leniently as what comes over pipes.

The SDK parses a message whole, on the engine's loop, and refuses it for half a surrogate pair; a long list or
text would hold up all other answers. So a message is mended here first, a long one beside the loop, and what
nobody waits for is left out. What is no message goes on as it came.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from typing import Any

import msgspec

from ..core.collector import gc_paused
from .mcp_stdio import LARGE, parsed

LARGEST = 2**24  # bytes of a message: a screenshot in base64 has a megabyte and more
_TOO_LONG = f"A message is larger than the limit of {LARGEST >> 20} MiB."
_END = re.compile(rb"(?:\r\n|\n|\r(?!\n))(?:\r\n|\n|\r)\Z")  # of an event: an empty line


def lenient(response: Any, mend: Callable[[Any], None]) -> None:
    """Reads the body of a response of httpx2 so. mend: changes a result in place."""
    import httpx2

    kind, given = response.headers.get("content-type", "").lower(), response.stream
    events = kind.startswith("text/event-stream")
    if not events and not kind.startswith("application/json"):
        return

    class Body(httpx2.AsyncByteStream):
        async def __aiter__(self) -> AsyncIterator[bytes]:
            async for text in _messages(given, events=events):
                if len(text) > LARGEST:
                    raise (httpx2.SSEError if events else httpx2.StreamError)(_TOO_LONG)
                read = _in_events if events else _whole
                made = await asyncio.to_thread(read, text, mend) if len(text) > LARGE else read(text, mend)
                for at in range(0, len(made), LARGE):
                    yield made[at : at + LARGE]
                    await asyncio.sleep(0)  # whoever reads it does so piece by piece, between others

        async def aclose(self) -> None:
            await given.aclose()

    response.stream = Body()


async def _messages(body: AsyncIterator[bytes], *, events: bool) -> AsyncGenerator[bytes, None]:
    """A body in its events, else as a whole; what is longer than a message may be is not waited for."""
    found = bytearray()
    async for chunk in body:
        for line in chunk.splitlines(keepends=True) if events else (chunk,):
            found += line
            if (events and _END.search(found[-4:])) or len(found) > LARGEST:
                yield bytes(found)
                found.clear()
    yield bytes(found)


def _in_events(event: bytes, mend: Callable[[Any], None]) -> bytes:
    """An event with its message mended."""
    lines = [line for line in event.splitlines() if line]
    text = b"\n".join(line[5:] for line in lines if line.startswith(b"data:"))
    made = _whole(text, mend)
    if made is text:
        return event
    others = [line for line in lines if not line.startswith(b"data:")]
    return b"\n".join([*others, *([b"data: " + made] if made else []), b"", b""])


@gc_paused()
def _whole(text: bytes, mend: Callable[[Any], None]) -> bytes:
    """A message mended, nothing of a notification; what is no message as it came."""
    value = parsed(text)
    if value is None or "jsonrpc" not in value:
        return text
    if "method" in value and "id" not in value:
        return b""
    mend(value.get("result"))
    return msgspec.json.encode(value)
