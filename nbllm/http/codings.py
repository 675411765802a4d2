"""Content codings of answers: one at most, undone in steps of bounded size, with the loop's other work
between them."""

from __future__ import annotations

import asyncio
import zlib
from collections.abc import AsyncIterator
from typing import Any

from ..core.errors import ProtocolError

MAX_STEP = 2**18  # bytes that one step gives at most: a read of 64 KiB can hold 64 MiB
_GZIP, _ZLIB, _RAW = 16 + zlib.MAX_WBITS, zlib.MAX_WBITS, -zlib.MAX_WBITS
_MEMBER = b"\x1f\x8b"
_WINDOWS = {"gzip": _GZIP, "x-gzip": _GZIP, "deflate": _ZLIB}
_HINT = "Check what is on the way: nbllm asks for gzip or deflate, and takes one of them."


def decode_body(body: AsyncIterator[bytes], coding: str) -> AsyncIterator[bytes]:
    """The body without its coding, as the content-encoding header names it. Raises ProtocolError for several
    codings, for one that was not asked for, and for one that is broken."""
    names = [name for part in coding.split(",") if (name := part.strip().lower()) not in ("", "identity")]
    if not names:
        return body
    if len(names) > 1 or names[0] not in _WINDOWS:
        raise ProtocolError(
            f"The answer is compressed as {coding.strip()[:60]!r}, which was not asked for.", hint=_HINT
        )
    return _decompress(body, _WINDOWS[names[0]])


async def _decompress(body: AsyncIterator[bytes], window: int) -> AsyncIterator[bytes]:
    tool: Any = zlib.decompressobj(window)
    data = b""  # not undone yet: fewer bytes than say what they are
    async for chunk in body:
        data += chunk
        if window == _ZLIB:
            if len(data) < 2:
                continue
            tool, window = (tool if _has_zlib_header(data) else zlib.decompressobj(_RAW)), _RAW
        more = True
        while more:
            if tool.eof:  # another member of gzip may follow; what else does is dropped
                if window != _GZIP or not data.startswith(_MEMBER):
                    data = data if data == _MEMBER[:1] else b""
                    break
                tool = zlib.decompressobj(window)
            try:
                piece = tool.decompress(data, MAX_STEP)
            except zlib.error:
                raise ProtocolError("The answer is compressed in a broken way.", hint=_HINT) from None
            data = tool.unused_data if tool.eof else tool.unconsumed_tail
            more = bool(data) or len(piece) == MAX_STEP
            if piece:
                yield piece
            if more:
                await asyncio.sleep(0)


def _has_zlib_header(data: bytes) -> bool:
    """Whether zlib's two bytes are there: some servers leave them away."""
    return data[0] & 15 == zlib.DEFLATED and int.from_bytes(data[:2], "big") % 31 == 0
