"""Repairs MCP messages over HTTP before the SDK reads them, as leniently as those over pipes.

The SDK parses a message at once, on the engine's loop, and refuses it for a lone surrogate; a long list or
text would block all other answers. So a message is repaired here first, a long one on another thread, and
notifications are dropped. Whatever is not a message is passed on unchanged.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from typing import Any

import msgspec

from ..core.collector import gc_paused
from .mcp_stdio import LARGE, parse_object

MAX_MESSAGE = 2**24  # bytes; a screenshot in base64 has a megabyte and more
_TOO_LONG = f"A message is larger than the limit of {MAX_MESSAGE >> 20} MiB."
_END = re.compile(rb"(?:\r\n|\n|\r(?!\n))(?:\r\n|\n|\r)\Z")  # the empty line at the end of an event


def mend_response(response: Any, mend: Callable[[Any], None]) -> None:
    """Replaces the body of an httpx2 response by the repaired one. mend: repairs a result in place."""
    import httpx2

    kind, original = response.headers.get("content-type", "").lower(), response.stream
    events = kind.startswith("text/event-stream")
    if not events and not kind.startswith("application/json"):
        return

    class Body(httpx2.AsyncByteStream):
        async def __aiter__(self) -> AsyncIterator[bytes]:
            async for text in _messages(original, events=events):
                if len(text) > MAX_MESSAGE:
                    raise (httpx2.SSEError if events else httpx2.StreamError)(_TOO_LONG)
                read = _mend_event if events else _mend_message
                made = await asyncio.to_thread(read, text, mend) if len(text) > LARGE else read(text, mend)
                for at in range(0, len(made), LARGE):
                    yield made[at : at + LARGE]
                    await asyncio.sleep(0)  # other tasks run between the pieces

        async def aclose(self) -> None:
            await original.aclose()

    response.stream = Body()


async def _messages(body: AsyncIterator[bytes], *, events: bool) -> AsyncGenerator[bytes, None]:
    """The events of a body, or all of it; yields early what is longer than a message may be."""
    buffer = bytearray()
    async for chunk in body:
        for line in chunk.splitlines(keepends=True) if events else (chunk,):
            buffer += line
            if (events and _END.search(buffer[-4:])) or len(buffer) > MAX_MESSAGE:
                yield bytes(buffer)
                buffer.clear()
    yield bytes(buffer)


def _mend_event(event: bytes, mend: Callable[[Any], None]) -> bytes:
    """An event with its message repaired."""
    lines = [line for line in event.splitlines() if line]
    text = b"\n".join(line[5:] for line in lines if line.startswith(b"data:"))
    mended = _mend_message(text, mend)
    if mended is text:
        return event
    others = [line for line in lines if not line.startswith(b"data:")]
    return b"\n".join([*others, *([b"data: " + mended] if mended else []), b"", b""])


@gc_paused()
def _mend_message(text: bytes, mend: Callable[[Any], None]) -> bytes:
    """A repaired message; empty for a notification; unchanged for anything else."""
    value = parse_object(text)
    if value is None or "jsonrpc" not in value:
        return text
    if "method" in value and "id" not in value:
        return b""
    mend(value.get("result"))
    return msgspec.json.encode(value)
