"""Rewrites non-conforming HTTP/1.1 responses, which curl and h11 accept, into a form that a strict parser
accepts.

Lines that end in a line feed alone, folded headers, a length in addition to chunks or repeated, spaces and
other text around chunk sizes, a status line without spaces. Used only for responses that the parser refuses
before their body. Bytes in, bytes out.
"""

from __future__ import annotations

import re
from collections.abc import Callable

_HEAD_END = re.compile(rb"\n\r?\n")
_STATUS = re.compile(rb"(?i)HTTP/([0-9](?:\.[0-9])?)[ \t]+([1-5][0-9]{2})(?![0-9])")
_NAME = re.compile(rb"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_CONTROL = re.compile(rb"[\x00-\x08\x0a-\x1f\x7f]")
_SIZE = re.compile(rb"[ \t]*([0-9A-Fa-f]{1,15})(?=[ \t;\r]|\Z)")
_MAX_LINE = 2**16  # bytes of a line between two chunks


class LenientRewriter:
    """Rewrites one response, piece by piece. Raises ValueError, with a readable message, for an invalid
    one."""

    def __init__(self) -> None:
        self._buffer = b""
        self._state: Callable[[], bytes | None] = self._read_head
        self._remaining = 0  # bytes of the current chunk
        self._searched = 0  # bytes of the head without its end

    def feed(self, data: bytes) -> bytes:
        """The rewritten form of all data that is complete so far."""
        self._buffer += data
        out = []
        while self._buffer and (piece := self._state()) is not None:
            out.append(piece)
        return b"".join(out)

    def _read_head(self) -> bytes | None:
        if (end := _HEAD_END.search(self._buffer, self._searched)) is None:
            self._searched = max(0, len(self._buffer) - 2)
            return None
        first, *lines = re.sub(rb"\r?\n[ \t]+", b" ", self._buffer[: end.start()]).split(b"\n")
        self._buffer, self._searched = self._buffer[end.end() :], 0
        status = _STATUS.match(first)
        if status is None:
            raise ValueError(f"its status line is invalid: {_quote(first)}")
        headers, chunked = _parse_headers(lines)
        if status[2] >= b"200":
            self._state = self._read_size if chunked else self._copy_rest
        version = b"1.0" if status[1] == b"1.0" else b"1.1"
        return b"\r\n".join([b"HTTP/%s %s -" % (version, status[2]), *headers, b"", b""])

    def _copy_rest(self) -> bytes:
        data, self._buffer = self._buffer, b""
        return data

    def _next_line(self) -> bytes | None:
        line, end, rest = self._buffer.partition(b"\n")
        if not end and len(line) > _MAX_LINE:
            raise ValueError("a line between two chunks has no end")
        if end:
            self._buffer = rest
        return line.rstrip(b"\r") if end else None

    def _read_size(self) -> bytes | None:
        if (line := self._next_line()) is None:
            return None
        size = _SIZE.match(line)
        if size is None:
            raise ValueError(f"the size of a chunk is invalid: {_quote(line)}")
        self._remaining = int(size[1], 16)
        self._state = self._copy_data if self._remaining else self._skip_trailers
        return b"%x\r\n" % self._remaining

    def _copy_data(self) -> bytes:
        data, self._buffer = self._buffer[: self._remaining], self._buffer[self._remaining :]
        self._remaining -= len(data)
        self._state = self._copy_data if self._remaining else self._end_chunk
        return data

    def _end_chunk(self) -> bytes | None:
        if (line := self._next_line()) is None:
            return None
        if line:
            raise ValueError("a chunk is longer than its size")
        self._state = self._read_size
        return b"\r\n"

    def _skip_trailers(self) -> bytes | None:
        if (line := self._next_line()) is None:
            return None
        self._state = self._skip_trailers if line else self._copy_rest
        return b"" if line else b"\r\n"


def _parse_headers(lines: list[bytes]) -> tuple[list[bytes], bool]:
    """(the valid header lines, whether the body is chunked). A chunked body has no length."""
    pairs = [
        (name.strip(), _CONTROL.sub(b" ", value).strip())
        for name, _, value in (x.partition(b":") for x in lines)
    ]
    if invalid := [line for line in lines if b":" not in line or _CONTROL.search(line.partition(b":")[0])]:
        raise ValueError(f"one of its headers is invalid: {_quote(invalid[0])}")
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
        raise ValueError(f"its Content-Length is not a number: {_quote(b', '.join(lengths))}")
    if len(found := set(map(int, lengths))) > 1:
        raise ValueError(f"it has several lengths: {_quote(b', '.join(lengths))}")
    return [*out, *(b"content-length: %d" % length for length in found)], False


_FRAMING = (b"transfer-encoding", b"content-length")


def _quote(line: bytes) -> str:
    return repr(line[:60].strip().decode("latin-1"))
