"""HTTP/1.1 answers that are written carelessly, made strict: what curl and h11 read, and a strict parser does
not.

Lines that end in a line feed alone, folded headers, a length beside chunks or told twice, blanks and odd
words around the sizes of chunks, a status line without its blanks. Only an answer that the parser refuses
before its body comes here. Bytes in, bytes out.
"""

from __future__ import annotations

import re
from collections.abc import Callable

_END = re.compile(rb"\n\r?\n")
_STATUS = re.compile(rb"(?i)HTTP/([0-9](?:\.[0-9])?)[ \t]+([1-5][0-9]{2})(?![0-9])")
_NAME = re.compile(rb"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_CONTROL = re.compile(rb"[\x00-\x08\x0a-\x1f\x7f]")
_SIZE = re.compile(rb"[ \t]*([0-9A-Fa-f]{1,15})(?=[ \t;\r]|\Z)")
_LONGEST = 2**16  # bytes of a line between two chunks


class LenientRewriter:
    """Makes one answer strict, piece by piece. Raises ValueError, in words, for what cannot be mended."""

    def __init__(self) -> None:
        self._held = b""
        self._next: Callable[[], bytes | None] = self._head
        self._left = 0  # bytes of the chunk
        self._seen = 0  # bytes of the head that hold no end

    def feed(self, data: bytes) -> bytes:
        """What can be told by now of all that came."""
        self._held += data
        out = []
        while self._held and (piece := self._next()) is not None:
            out.append(piece)
        return b"".join(out)

    def _head(self) -> bytes | None:
        if (end := _END.search(self._held, self._seen)) is None:
            self._seen = max(0, len(self._held) - 2)
            return None
        first, *lines = re.sub(rb"\r?\n[ \t]+", b" ", self._held[: end.start()]).split(b"\n")
        self._held, self._seen = self._held[end.end() :], 0
        status = _STATUS.match(first)
        if status is None:
            raise ValueError(f"its status line is broken: {_quote(first)}")
        headers, chunked = _headers(lines)
        if status[2] >= b"200":
            self._next = self._size if chunked else self._rest
        version = b"1.0" if status[1] == b"1.0" else b"1.1"
        return b"\r\n".join([b"HTTP/%s %s -" % (version, status[2]), *headers, b"", b""])

    def _rest(self) -> bytes:
        data, self._held = self._held, b""
        return data

    def _line(self) -> bytes | None:
        line, end, rest = self._held.partition(b"\n")
        if not end and len(line) > _LONGEST:
            raise ValueError("a line between two chunks has no end")
        if end:
            self._held = rest
        return line.rstrip(b"\r") if end else None

    def _size(self) -> bytes | None:
        if (line := self._line()) is None:
            return None
        size = _SIZE.match(line)
        if size is None:
            raise ValueError(f"the size of a chunk is broken: {_quote(line)}")
        self._left = int(size[1], 16)
        self._next = self._data if self._left else self._trailers
        return b"%x\r\n" % self._left

    def _data(self) -> bytes:
        data, self._held = self._held[: self._left], self._held[self._left :]
        self._left -= len(data)
        self._next = self._data if self._left else self._over
        return data

    def _over(self) -> bytes | None:
        if (line := self._line()) is None:
            return None
        if line:
            raise ValueError("a chunk is longer than its size")
        self._next = self._size
        return b"\r\n"

    def _trailers(self) -> bytes | None:
        if (line := self._line()) is None:
            return None
        self._next = self._trailers if line else self._rest
        return b"" if line else b"\r\n"


def _headers(lines: list[bytes]) -> tuple[list[bytes], bool]:
    """The header lines that mean something, and whether the body comes in chunks: then it has no length."""
    pairs = [
        (name.strip(), _CONTROL.sub(b" ", value).strip())
        for name, _, value in (x.partition(b":") for x in lines)
    ]
    if odd := [line for line in lines if b":" not in line or _CONTROL.search(line.partition(b":")[0])]:
        raise ValueError(f"one of its headers is broken: {_quote(odd[0])}")
    codings = b",".join(value.lower() for name, value in pairs if name.lower() == b"transfer-encoding")
    lengths = [
        part.strip()
        for name, value in pairs
        if name.lower() == b"content-length"
        for part in value.split(b",")
    ]
    chunked = b"chunked" in codings
    out = [b"%s: %s" % pair for pair in pairs if _NAME.fullmatch(pair[0]) and pair[0].lower() not in _FRAMING]
    if chunked:
        return [*out, b"transfer-encoding: " + codings], True
    if any(not re.fullmatch(rb"\+?[0-9]{1,18}", length) for length in lengths):
        raise ValueError(f"its Content-Length is no number: {_quote(b', '.join(lengths))}")
    if len(found := set(map(int, lengths))) > 1:
        raise ValueError(f"it tells several lengths: {_quote(b', '.join(lengths))}")
    return [*out, *(b"content-length: %d" % length for length in found)], False


_FRAMING = (b"transfer-encoding", b"content-length")


def _quote(line: bytes) -> str:
    return repr(line[:60].strip().decode("latin-1"))
