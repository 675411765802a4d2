"""Content codings of responses: at most one, decompressed in steps of bounded size, so that the event loop
can do other work between them."""

from __future__ import annotations

import asyncio
import zlib
from collections.abc import AsyncIterator
from typing import Any

from ..core.errors import ProtocolError

MAX_STEP = 2**18  # bytes of output per step: a read of 64 KiB can decompress to 64 MiB
_GZIP, _ZLIB, _RAW = 16 + zlib.MAX_WBITS, zlib.MAX_WBITS, -zlib.MAX_WBITS
_MEMBER = b"\x1f\x8b"
_WINDOWS = {"gzip": _GZIP, "x-gzip": _GZIP, "deflate": _ZLIB}
_HINT = "Check the proxies between: nbllm requests gzip or deflate, and accepts one of them."


def decode_body(body: AsyncIterator[bytes], coding: str) -> AsyncIterator[bytes]:
    """Decompresses a body. coding: the content-encoding header. Raises ProtocolError for several codings, for
    one that was not requested, and for invalid data."""
    names = [name for part in coding.split(",") if (name := part.strip().lower()) not in ("", "identity")]
    if not names:
        return body
    if len(names) > 1 or names[0] not in _WINDOWS:
        raise ProtocolError(
            f"The answer is compressed as {coding.strip()[:60]!r}, which was not requested.", hint=_HINT
        )
    return _decompress(body, _WINDOWS[names[0]])


async def _decompress(body: AsyncIterator[bytes], window: int) -> AsyncIterator[bytes]:
    decompressor: Any = zlib.decompressobj(window)
    data = b""  # not decompressed yet
    async for chunk in body:
        data += chunk
        if window == _ZLIB:
            if len(data) < 2:
                continue
            decompressor = decompressor if _has_zlib_header(data) else zlib.decompressobj(_RAW)
            window = _RAW
        more = True
        while more:
            if decompressor.eof:  # another gzip member may follow; anything else is ignored
                if window != _GZIP or not data.startswith(_MEMBER):
                    data = data if data == _MEMBER[:1] else b""
                    break
                decompressor = zlib.decompressobj(window)
            try:
                piece = decompressor.decompress(data, MAX_STEP)
            except zlib.error:
                raise ProtocolError("The compressed answer is invalid.", hint=_HINT) from None
            data = decompressor.unused_data if decompressor.eof else decompressor.unconsumed_tail
            more = bool(data) or len(piece) == MAX_STEP
            if piece:
                yield piece
            if more:
                await asyncio.sleep(0)


def _has_zlib_header(data: bytes) -> bool:
    """Whether the data begins with a zlib header, which some servers omit."""
    return data[0] & 15 == zlib.DEFLATED and int.from_bytes(data[:2], "big") % 31 == 0
