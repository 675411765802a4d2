"""Content codings of answers: one at most, undone in steps of bounded size, with the loop's other work
between them."""

from __future__ import annotations

import asyncio
import zlib
from collections.abc import AsyncIterator
from typing import Any

from ..core.errors import ProtocolError

STEP = 2**18  # bytes that one step gives at most: a read of 64 KiB can hold 64 MiB
_GZIP, _ZLIB, _RAW = 16 + zlib.MAX_WBITS, zlib.MAX_WBITS, -zlib.MAX_WBITS
_WINDOWS = {"gzip": _GZIP, "x-gzip": _GZIP, "deflate": _ZLIB}
_HINT = "Check what is on the way: nbllm asks for gzip or deflate, and takes one of them."


def decoded(body: AsyncIterator[bytes], coding: str) -> AsyncIterator[bytes]:
    """The body without its coding, as the content-encoding header names it. Raises ProtocolError for several
    codings, for one that was not asked for, and for one that is broken."""
    names = [name for part in coding.split(",") if (name := part.strip().lower()) not in ("", "identity")]
    if not names:
        return body
    if len(names) > 1 or names[0] not in _WINDOWS:
        raise ProtocolError(
            f"The answer is compressed as {coding.strip()[:60]!r}, which was not asked for.", hint=_HINT
        )
    return _inflated(body, _WINDOWS[names[0]])


async def _inflated(body: AsyncIterator[bytes], window: int) -> AsyncIterator[bytes]:
    tool: Any = zlib.decompressobj(window)
    async for chunk in body:
        data, more = chunk, True
        while more and not tool.eof:
            try:
                piece = tool.decompress(data, STEP)
            except zlib.error:
                if window != _ZLIB:
                    raise ProtocolError("The answer is compressed in a broken way.", hint=_HINT) from None
                window, tool = _RAW, zlib.decompressobj(_RAW)  # servers that leave zlib's two bytes away
                continue
            data, window = tool.unconsumed_tail, window if window != _ZLIB else _GZIP
            more = bool(data) or len(piece) == STEP
            if piece:
                yield piece
                if more:
                    await asyncio.sleep(0)
