"""Bytes of an answer's body in, stamped frames out: SSE, NDJSON, JSON, JSON arrays, and mixtures of them.

What the body is, its first character says: `{` or `[` means JSON values one after another (NDJSON, one whole
object, the elements of an array); `<` means a page of HTML, which no provider means as an answer; anything
else is SSE. Headers are not asked: providers label bodies wrongly in every direction.

SSE is read by httpx-sse through its public EventSource, on a response whose stream is ours. That stream mends
what httpx-sse leaves open (a byte-order mark, a last event without its blank line, a charset that is not
UTF-8), bounds the memory one event may take, and notes when each read came, so a frame's stamp is that of the
read that completed it.
"""

from __future__ import annotations

import asyncio
import contextlib
import re
import time
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterator

import httpx
from httpx_sse import EventSource

from ..core.calls import Frame, Read
from ..core.errors import ProtocolError, TransportError
from ..dialects._errors import page_text

EVENT_LIMIT = 64 * 2**20  # bytes of one SSE event or JSON value; providers send at most some MB (images)
_TAIL_KEPT = 64 * 2**10
# seconds that the other side gets to end an answer after its own end mark, so that the connection can be used
# again
_DRAIN = 0.5
_BOM = b"\xef\xbb\xbf"
_ODD = re.compile(rb"\n(?!(?:data|event|id|retry):)[A-Za-z]")  # a line with no field of an event stream
_ODD_FIELD = re.compile(
    rb"(?:\A|(?<=[\r\n]))(?!(?:data|event|id|retry):)([A-Za-z][\w-]{0,30}):[ \t]{0,8}(?=(\S))"
)
_BEGUN = re.compile(rb"(?:\A|[\r\n])([A-Za-z][\w-]{0,30}(?::[ \t]{0,8})?)\Z")
_WORDS_OF_ERRORS = re.compile(rb"(?i)err|exception|fail|fault|abort")
_SSE_FIELD = re.compile(rb"(?m)^(?:data|event|id|retry)?:")


async def drained(frames: AsyncIterator[Frame]) -> None:
    """Reads on for at most _DRAIN seconds, and drops what comes."""
    with contextlib.suppress(TimeoutError, TransportError, ProtocolError):
        async with asyncio.timeout(_DRAIN):
            async for _ in frames:
                pass


class Reads:
    """The body's reads, one by one, kept in `log`; `pending` is the size of what is not yet a frame.

    last_read: gives the transport's own record of the read behind the piece just given; without one (None),
    the moment it was in hand stands for its arrival.
    """

    def __init__(
        self,
        body: AsyncIterator[bytes],
        log: list[Read] | None = None,
        last_read: Callable[[], Read | None] = lambda: None,
    ) -> None:
        self._body, self._last_read = body, last_read
        self.log = [] if log is None else log
        self.at = self._before = 0.0
        self.pending = 0
        self.bytes = 0

    @property
    def index(self) -> int:
        """The place of the latest read in the log."""
        return len(self.log) - 1

    async def __aiter__(self) -> AsyncIterator[bytes]:
        self._before = time.perf_counter()
        async for chunk in self._body:
            read = self._last_read() or self._plain(len(chunk))
            self.log.append(read._replace(clean=read.clean and _ends_event(chunk)))
            self.at = read.at
            self.bytes += len(chunk)
            self.pending += len(chunk)
            if self.pending > EVENT_LIMIT:
                raise ProtocolError(
                    f"One event of the answer is larger than {EVENT_LIMIT >> 20} MiB.",
                    hint="Check that base_url points to a language model server.",
                )
            yield chunk

    def _plain(self, size: int) -> Read:
        now, lo = time.perf_counter(), self._before
        self._before = now
        return Read(now, lo, now, size)


def _ends_event(chunk: bytes) -> bool:
    """Whether the bytes end where an event with data ends: at the blank line after one (SSE), or at a line's
    end (JSON)."""
    body = chunk.rstrip(b"\r\n")
    last = body[max(body.rfind(b"\n\n"), body.rfind(b"\r\n\r\n"), body.rfind(b"\r\r"), 0) :].strip()
    if last[:1] == b":":
        return False  # a comment came after the last event
    if last[-1:] == b"}" and last[:1] in (b"{", b",", b"["):
        return len(body) < len(chunk)
    return len(chunk) - len(body) >= 2 and chunk.endswith((b"\n\n", b"\r\n\r\n", b"\r\r"))


async def frames(reads: Reads) -> AsyncIterator[Frame]:
    """The frames of a body. Raises ProtocolError for a page of HTML, for text that is neither SSE nor JSON,
    and for an event over EVENT_LIMIT."""
    stream = aiter(reads)
    head = b""
    async for chunk in stream:
        head = (head + chunk).removeprefix(_BOM).lstrip()
        if not _BOM.startswith(head):
            break
    first = head[:1]
    rest = _chain(head, stream)
    if first in (b"{", b"["):
        source = _json_frames(rest, reads)
    elif first == b"<":
        source = _page(rest)
    else:
        source = _sse_frames(rest, reads)
    async for frame in source:
        yield frame


async def _chain(head: bytes, rest: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    if head:
        yield head
    async for chunk in rest:
        yield chunk


async def _page(body: AsyncIterator[bytes]) -> AsyncIterator[Frame]:
    text = b""
    async for chunk in body:
        text += chunk
        if len(text) > _TAIL_KEPT:
            break
    raise ProtocolError(
        f"A web page came instead of an answer: {page_text(text.decode('utf-8', 'replace'))[:200]!r}.",
        hint="Check base_url: it should point to the API, not to a site or a login page.",
    )
    yield  # makes this an async generator like its siblings


# --- SSE ----------------------------------------------------------------------------------------------------


class _SSEBody(httpx.AsyncByteStream):
    """The body as EventSource reads it: ended by blank lines, its last bytes kept for what is not SSE."""

    def __init__(self, body: AsyncIterator[bytes]) -> None:
        self._body = body
        self.ended = False
        self._at_line, self._begun = (
            True,
            b"",
        )  # whether a line begins here, and a field whose value is to come
        self._kept: deque[bytes] = deque()
        self._size = 0
        self._dropped = False

    async def __aiter__(self) -> AsyncIterator[bytes]:
        async for chunk in self._body:
            named = self._named(chunk)
            self._keep(named)
            yield named
        self.ended = True
        yield self._begun + b"\n\n"

    def _named(self, chunk: bytes) -> bytes:
        """A line of a field that no event stream has, such as llama.cpp's `error: {...}`, becomes an event of
        that name: the dialect sees all that a server says."""
        text = self._begun + chunk if self._begun else chunk
        known = not self._at_line or text.startswith((b"data: ", b"event: "))
        if not known or _ODD.search(text) or (b"\r" in text and b"\n" not in text):
            text = self._renamed(text)
        self._begun = b""
        if text.endswith(b"\n"):  # nearly always
            self._at_line = True
            return text
        start = max(text.rfind(b"\n"), text.rfind(b"\r")) + 1
        if (start or self._at_line) and (begun := _BEGUN.search(text, max(start - 1, 0))):
            self._begun, text = begun[1], text[: begun.start(1)]
        self._at_line = text.endswith((b"\n", b"\r")) if text else self._at_line
        return text

    def _renamed(self, text: bytes) -> bytes:
        lead = b"" if self._at_line else b"\0"  # the first line goes on with one that began before
        return _ODD_FIELD.sub(_as_event, lead + text)[len(lead) :]

    def _keep(self, chunk: bytes) -> None:
        self._kept.append(chunk)
        self._size += len(chunk)
        while self._size - len(self._kept[0]) > _TAIL_KEPT:
            self._size -= len(self._kept.popleft())
            self._dropped = True

    @property
    def tail(self) -> bytes:
        """The body's last lines, whole ones only."""
        kept = b"".join(self._kept)
        return kept.partition(b"\n")[2] if self._dropped else kept


def _as_event(field: re.Match[bytes]) -> bytes:
    if _WORDS_OF_ERRORS.search(field[1]):
        return b"event: error\ndata: "
    return b"event: " + field[1] + b"\ndata: " if field[2] in b"{[" else field[0]


async def _sse_frames(body: AsyncIterator[bytes], reads: Reads) -> AsyncIterator[Frame]:
    stream = _SSEBody(body)
    response = httpx.Response(200, headers={"content-type": "text/event-stream"}, stream=stream)
    response.encoding = "utf-8"  # said here, it need not be looked for in the headers
    seen = False
    async for event in EventSource(response).aiter_sse():
        reads.pending = 0
        seen = seen or bool(event.data or event.event)
        if event.data:
            yield Frame(event.data, event.event, reads.at, stream.ended, reads.index)
    for value in _bare_json(stream.tail):
        seen = True
        yield Frame(value, "", reads.at, False, reads.index)
    if not seen and stream.tail.strip() and not _SSE_FIELD.search(stream.tail):
        raise ProtocolError(
            f"Neither an event stream nor JSON came: {stream.tail[:200].decode('utf-8', 'replace')!r}.",
            hint="Check that base_url and dialect belong together.",
        )


def _bare_json(tail: bytes) -> Iterator[str]:
    """JSON values that stand after the last SSE field: Gemini and some gateways end a broken stream that
    way."""
    fields = list(_SSE_FIELD.finditer(tail))
    rest = tail[fields[-1].start() :].partition(b"\n")[2] if fields else tail
    match = re.search(rb"(?m)^[{\[]", rest)
    if match:
        values = JsonValues()
        yield from values.feed(rest[match.start() :])


# --- JSON ---------------------------------------------------------------------------------------------------


class JsonValues:
    """Cuts JSON objects out of bytes: values one after another, or the elements of one array."""

    _TOKEN = re.compile(rb'["{}\[\]]')
    _STRING_END = re.compile(rb'["\\]')

    def __init__(self) -> None:
        self._buffer = bytearray()
        self._at = 0  # scanned up to here
        self._start = -1  # where the current value began
        self._depth = 0
        self._in_string = False
        self._array = False  # inside one outer array, whose elements are the values

    @property
    def inside(self) -> bool:
        """Whether a value has begun and not ended."""
        return self._start >= 0

    def rest(self) -> bytes:
        """What has begun and not ended."""
        return bytes(self._buffer[self._start :]) if self.inside else b""

    def feed(self, data: bytes) -> Iterator[str]:
        """The objects that `data` completes."""
        self._buffer += data
        while self._advance():
            if self._depth == 0 and self._start >= 0:
                value = bytes(self._buffer[self._start : self._at])
                self._start = -1
                yield value.decode("utf-8", "replace")
        if self._start < 0:
            del self._buffer[: self._at]
            self._at = 0

    def _advance(self) -> bool:
        """Moves to the next token; False where the bytes run out."""
        if self._in_string:
            return self._skip_string()
        match = self._TOKEN.search(self._buffer, self._at)
        if not match:
            self._at = len(self._buffer)
            return False
        token, self._at = match.group(), match.end()
        if token == b'"':
            self._in_string = True
        elif token in (b"{", b"["):
            self._open_at(token, match.start())
        elif self._depth:
            self._depth -= 1
        else:
            self._array = False
        return True

    def _open_at(self, token: bytes, where: int) -> None:
        if self._depth == 0:
            if token == b"[" and not self._array:
                self._array = True
                return
            self._start = where
        self._depth += 1

    def _skip_string(self) -> bool:
        while match := self._STRING_END.search(self._buffer, self._at):
            if match.group() == b'"':
                self._at, self._in_string = match.end(), False
                return True
            if match.end() >= len(self._buffer):
                break  # the escaped character has not come yet
            self._at = match.end() + 1
        else:
            self._at = len(self._buffer)
        return False


async def _json_frames(body: AsyncIterator[bytes], reads: Reads) -> AsyncIterator[Frame]:
    values, line, head, seen = JsonValues(), bytearray(), b"", False
    async for chunk in body:
        scanned = len(line)
        line += chunk
        head = head if seen else (head + chunk)[:200]
        while (end := line.find(b"\n", scanned)) >= 0:
            complete = bytes(line[:end])
            del line[: end + 1]
            scanned = 0
            for value in _line_values(complete, values):
                reads.pending, seen = len(line), True
                yield Frame(value, "", reads.at, False, reads.index)
    for value in _line_values(bytes(line), values):
        seen = True
        yield Frame(value, "", reads.at, False, reads.index)
    if values.inside:
        yield Frame(values.rest().decode("utf-8", "replace"), "", reads.at, True, reads.index)
    elif not seen and head.strip(b"[], \t\r\n"):
        raise ProtocolError(
            f"JSON without an object came: {head.decode('utf-8', 'replace')!r}.",
            hint="Check that base_url and dialect belong together.",
        )


def _line_values(line: bytes, values: JsonValues) -> Iterator[str]:
    """A line that is an object by itself is a value (NDJSON); any other is a part of a larger text."""
    bare = line.strip()
    if not values.inside and bare[:1] == b"{" and bare[-1:] == b"}":
        yield bare.decode("utf-8", "replace")
    elif bare:
        yield from values.feed(line + b"\n")
