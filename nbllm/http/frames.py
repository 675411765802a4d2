"""Turns the bytes of a response body into time-stamped frames: SSE, NDJSON, JSON, JSON arrays, and mixtures
of them.

The format is detected from the first character: `{` or `[` means JSON values one after another (NDJSON, a
single object, the elements of an array); `<` means an HTML page, which no provider sends as an answer;
anything else is SSE. Headers are ignored, because providers label bodies wrongly in every direction.

The bytes of a read become its frames in one call. SSE is split at blank lines; events with one line of data,
as nearly all are, are parsed here, and any other by httpx-sse through its public EventSource. What that does
not handle is repaired before (a byte-order mark, a last event without its blank line, a charset other than
UTF-8), the memory of one event is limited, and the time stamp of a frame is that of the read that completed
it.
"""

from __future__ import annotations

import asyncio
import contextlib
import re
import time
from collections.abc import AsyncIterator, Callable, Iterator

from ..core.calls import Frame, Read, Trace
from ..core.errors import ProtocolError, TransportError
from ..core.eventlog import ColumnStore
from ..dialects._errors import page_text
from .faults import Fault

EVENT_LIMIT = 64 * 2**20  # bytes of one SSE event or JSON value; providers send at most some MB (images)
_TAIL_LIMIT = 64 * 2**10
# seconds for the server to end the body after the protocol's end marker, so that the connection can be reused
_DRAIN_SECONDS = 0.5
_BOM = b"\xef\xbb\xbf"
_UNKNOWN_FIELD = rb"(?:\A|(?<=[\r\n]))(?!(?:data|event|id|retry):)([A-Za-z][\w-]{0,30}):[ \t]{0,8}(?=(\S))"
_ERROR_FIELD = re.compile(rb"(?i)err|exception|fail|fault|abort")
_SSE_FIELD = re.compile(rb"(?m)^(?:data|event|id|retry)?:")
_FIELDS = ("data:", "event:", "id:", "retry:")


async def drain_body(rest: AsyncIterator[object]) -> None:
    """Reads and discards the rest of a body, for at most _DRAIN_SECONDS."""
    with contextlib.suppress(TimeoutError, TransportError, ProtocolError, Fault):
        async with asyncio.timeout(_DRAIN_SECONDS):
            async for _ in rest:
                pass


class FrameReader:
    """Splits a body into frames as it arrives; its reads are recorded in `log`. Raises ProtocolError for an
    HTML page, for text that is neither SSE nor JSON, and for an event larger than EVENT_LIMIT."""

    def __init__(self, log: ColumnStore[Read] | None = None) -> None:
        self.log = Trace().reads if log is None else log
        self.at = time.perf_counter()  # the time of the latest read, or of the start
        self.bytes = 0
        self._head = b""  # the start of a body whose format is not known yet
        self._splitter: _Splitter | None = None
        self._pending = 0  # bytes of incomplete frames

    def feed(self, chunk: bytes, read: Read | None = None) -> list[Frame]:
        """The frames that these bytes complete. read: the transport's record of the read; without one, this
        moment is used as the time of arrival."""
        read = read or Read(now := time.perf_counter(), self.at, now, len(chunk))
        if read.clean and not _ends_event(chunk):
            read = read._replace(clean=False)
        self.log.append(read)
        self.at = read.at
        self.bytes += len(chunk)
        self._pending += len(chunk)
        if self._pending > EVENT_LIMIT:
            raise ProtocolError(
                f"One event of the answer is larger than {EVENT_LIMIT >> 20} MiB.",
                hint="Check that base_url points to a language model server.",
            )
        if (splitter := self._splitter) is None:
            self._head = chunk = (self._head + chunk).removeprefix(_BOM).lstrip()
            if _BOM.startswith(chunk):
                return []
            splitter = self._splitter = _SPLITTERS.get(chunk[:1], _SseEvents)()
        found = splitter.feed(chunk)
        self._pending = splitter.pending
        return self._stamped(found) if found else []

    def close(self) -> list[Frame]:
        """The remaining frames at the end of the body."""
        if (splitter := self._splitter) is None:
            splitter = _SseEvents()
            splitter.feed(self._head)
        return self._stamped(splitter.close())

    def _stamped(self, found: list[_Event]) -> list[Frame]:
        at, read = self.at, len(self.log) - 1
        return [Frame(data, name, at, tail, read) for data, name, tail in found]


def _ends_event(chunk: bytes) -> bool:
    """Whether the data ends where an event ends: at the blank line after it (SSE), or at the end of a line
    (JSON)."""
    body = chunk.rstrip(b"\r\n")
    last = body[max(body.rfind(b"\n\n"), body.rfind(b"\r\n\r\n"), body.rfind(b"\r\r"), 0) :].strip()
    if last[:1] == b":":
        return False  # a comment follows the last event
    if last[-1:] == b"}" and last[:1] in (b"{", b",", b"["):
        return len(body) < len(chunk)
    return len(chunk) - len(body) >= 2 and chunk.endswith((b"\n\n", b"\r\n\r\n", b"\r\r"))


# Each class below splits a body of one format: feed() gives the events that data completes, close() those
# that remain at the end of the body; pending is the number of bytes of incomplete events.
_Event = tuple[str, str, bool]  # a frame without its time stamp: data, name, tail


class _HtmlPage:
    """An HTML page: raises an error as soon as enough of it has arrived for the message."""

    def __init__(self) -> None:
        self._text, self.pending = b"", 0

    def feed(self, data: bytes) -> list[_Event]:
        self._text += data
        return self.close() if len(self._text) > _TAIL_LIMIT else []

    def close(self) -> list[_Event]:
        raise ProtocolError(
            "The server sent a web page instead of an answer: "
            f"{page_text(self._text.decode('utf-8', 'replace'))[:200]!r}.",
            hint="Check base_url: it should point to the API, not to a web site or a login page.",
        )


# --- SSE ----------------------------------------------------------------------------------------------------


class _SseEvents:
    """An event stream, split at its blank lines. An event with one line of data, with or without a name
    before it, is parsed here; runs of others are passed to httpx-sse."""

    def __init__(self) -> None:
        self._rest: list[bytes] = []  # of an incomplete event
        self.pending = 0
        self._tail = b""  # the body's last lines, since the last event that was parsed here
        self._seen = False

    def feed(self, data: bytes) -> list[_Event]:
        edge = self._rest[-1][-1:] if self._rest else b""
        end = _after_blank_line(edge + data) - len(edge)
        if end <= 0:
            self._rest.append(data)
            self.pending += len(data)
            return []
        complete = b"".join((*self._rest, data[:end]))
        self._rest, self.pending = [data[end:]] if end < len(data) else [], len(data) - end
        return self._parse_blocks(complete)

    def _parse_blocks(self, data: bytes) -> list[_Event]:
        """The events in a sequence of complete blocks."""
        text = data.decode("utf-8", "replace")
        if "\r" in text:
            text = text.replace("\r\n", "\n").replace("\r", "\n")
        found: list[_Event] = []
        others: list[str] = []
        for block in text.split("\n\n"):
            event = _parse_simple_block(block)
            if event is None:
                others.append(block)
                continue
            if others:
                found += self._parse_others(others)
                others = []
            if event[0]:
                self._tail = b""
                found.append(event)
        found += self._parse_others(others) if others else []
        self._seen = self._seen or bool(found)
        return found

    def _parse_others(self, blocks: list[str], tail: bool = False) -> list[_Event]:
        """The events in blocks that httpx-sse parses. A line with a field that is not in the SSE standard,
        such as llama.cpp's `error: {...}`, becomes an event of that name, so that the dialect gets
        everything."""
        import httpx
        from httpx_sse import EventSource

        content = re.sub(
            _UNKNOWN_FIELD, _name_error_event, "\n\n".join((*map(_repair_block, blocks), "")).encode()
        )
        self._tail += content
        if len(self._tail) > _TAIL_LIMIT:
            self._tail = self._tail[-_TAIL_LIMIT:].partition(b"\n")[2]
        response = httpx.Response(200, headers={"content-type": "text/event-stream"}, content=content)
        response.encoding = "utf-8"  # saves the detection from headers
        events = list(EventSource(response).iter_sse())
        self._seen = self._seen or any(event.data or event.event for event in events)
        return [(event.data, event.event, tail) for event in events if event.data]

    def close(self) -> list[_Event]:
        """A last event without its blank line, and JSON or plain text after the last event. Raises
        ProtocolError for a body that is not an event stream."""
        rest = b"".join(self._rest).decode("utf-8", "replace")
        found = self._parse_others([rest.replace("\r\n", "\n").replace("\r", "\n")], True) if rest else []
        tail = self._tail
        bare = [(value, "", False) for value in _trailing_json(tail)]
        if not (self._seen or bare) and tail.strip() and not _SSE_FIELD.search(tail):
            raise ProtocolError(
                f"The answer is neither an event stream nor JSON: {tail[:200].decode('utf-8', 'replace')!r}.",
                hint="Check that base_url and dialect belong together.",
            )
        if not bare and (text := _trailing_text(tail)):
            return [*found, (text, "", False)]
        return found + bare


def _repair_block(block: str) -> str:
    """A block without the blanks that some servers write before a field, and with `data:` before each line of
    a JSON value, where only the first has it."""
    lines: list[str] = []
    for line in block.split("\n"):
        inside = lines and lines[-1].startswith("data:") and line.startswith((" ", "\t", '"', "}", "]"))
        bare = line.lstrip("\ufeff \t")
        lines.append(bare if bare.startswith(_FIELDS) else f"data: {line}" if inside else line)
    return "\n".join(lines)


def _after_blank_line(data: bytes) -> int:
    """Where the last blank line ends, 0 if there is none. After a final CR, the LF may still arrive: then it
    counts as one more blank line, which has no effect."""
    if b"\r" not in data:
        return data.rfind(b"\n\n") + 2 if b"\n\n" in data else 0
    last = max(map(data.rfind, (b"\n\n", b"\n\r", b"\r\r")))
    return 0 if last < 0 else last + 2 + (data[last + 1 : last + 3] == b"\r\n")


def _parse_simple_block(block: str) -> _Event | None:
    """The event of a block with one line of data, with or without a name before it; one without data for an
    empty block or a comment; None for any other block."""
    name, line = "message", block
    if block.startswith("event:"):
        name, _, line = block[6:].removeprefix(" ").partition("\n")
    if "\n" in line:
        return None
    if line.startswith("data:"):
        return line[6:] if line[5:6] == " " else line[5:], name or "message", False
    return _NO_EVENT if not block or (block is line and line[0] == ":") else None


_NO_EVENT: _Event = ("", "", False)


def _name_error_event(field: re.Match[bytes]) -> bytes:
    if _ERROR_FIELD.search(field[1]):
        return b"event: error\ndata: "
    return b"event: " + field[1] + b"\ndata: " if field[2] in b"{[" else field[0]


def _trailing_json(tail: bytes) -> Iterator[str]:
    """JSON values after the last SSE field: Gemini and some gateways end a failed stream that way."""
    rest = _after_last_field(tail)
    match = re.search(rb"(?m)^[{\[]", rest)
    if match:
        values = JsonValues()
        yield from values.feed(rest[match.start() :])


def _trailing_text(tail: bytes) -> str:
    """Plain text after the last SSE field: the error page of a gateway that lost its server. Lines with
    unknown fields only, or with an incomplete field name, do not count."""
    lines = _after_last_field(tail).decode("utf-8", "replace").split("\n")
    text = [line for line in lines if not any(field.startswith(line) for field in _FIELDS)]
    return "" if all(re.match(_UNKNOWN_FIELD, line.encode()) for line in text) else "\n".join(text).strip()


def _after_last_field(tail: bytes) -> bytes:
    fields = list(_SSE_FIELD.finditer(tail))
    return tail[fields[-1].start() :].partition(b"\n")[2] if fields else tail


# --- JSON ---------------------------------------------------------------------------------------------------


class JsonValues:
    """Splits bytes into JSON objects: values one after another, or the elements of one array."""

    _TOKEN = re.compile(rb'["{}\[\]]')
    _STRING_END = re.compile(rb'["\\]')

    def __init__(self) -> None:
        self._buffer = bytearray()
        self._at = 0  # the end of the scanned bytes
        self._start = -1  # the start of the current value
        self._depth = 0
        self._in_string = False
        self._in_array = False  # in an outer array, whose elements are the values

    @property
    def size(self) -> int:
        """The number of buffered bytes."""
        return len(self._buffer)

    @property
    def is_inside(self) -> bool:
        """Whether the last value is incomplete."""
        return self._start >= 0

    def rest(self) -> bytes:
        """The incomplete value."""
        return bytes(self._buffer[self._start :]) if self.is_inside else b""

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
        """Moves to the next token; False at the end of the bytes."""
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
            self._open(token, match.start())
        elif self._depth:
            self._depth -= 1
        else:
            self._in_array = False
        return True

    def _open(self, token: bytes, position: int) -> None:
        if self._depth == 0:
            if token == b"[" and not self._in_array:
                self._in_array = True
                return
            self._start = position
        self._depth += 1

    def _skip_string(self) -> bool:
        while match := self._STRING_END.search(self._buffer, self._at):
            if match.group() == b'"':
                self._at, self._in_string = match.end(), False
                return True
            if match.end() >= len(self._buffer):
                break  # the escaped character has not arrived yet
            self._at = match.end() + 1
        else:
            self._at = len(self._buffer)
        return False


class _JsonBody:
    """JSON values, one after another or in an array. A value on a line of its own ends with the line."""

    def __init__(self) -> None:
        self._values, self._line = JsonValues(), bytearray()
        self._head, self._seen = b"", False

    @property
    def pending(self) -> int:
        return len(self._line) + self._values.size

    def feed(self, data: bytes) -> list[_Event]:
        scanned = len(self._line)
        line = self._line
        line += data
        self._head = self._head if self._seen else (self._head + data)[:200]
        found: list[_Event] = []
        while (end := line.find(b"\n", scanned)) >= 0:
            complete = bytes(line[:end])
            del line[: end + 1]
            scanned = 0
            found += [(value, "", False) for value in _line_values(complete, self._values)]
        self._seen = self._seen or bool(found)
        return found

    def close(self) -> list[_Event]:
        found = [(value, "", False) for value in _line_values(bytes(self._line), self._values)]
        if self._values.is_inside:
            found.append((self._values.rest().decode("utf-8", "replace"), "", True))
        elif not (self._seen or found) and self._head.strip(b"[], \t\r\n"):
            raise ProtocolError(
                f"The answer is JSON without an object: {self._head.decode('utf-8', 'replace')!r}.",
                hint="Check that base_url and dialect belong together.",
            )
        return found


def _line_values(line: bytes, values: JsonValues) -> Iterator[str]:
    """A line that is a complete object is a value (NDJSON); any other is part of a larger text."""
    bare = line.strip()
    if not values.is_inside and bare[:1] == b"{" and bare[-1:] == b"}":
        yield bare.decode("utf-8", "replace")
    elif bare:
        yield from values.feed(line + b"\n")


_Splitter = _HtmlPage | _SseEvents | _JsonBody
_SPLITTERS: dict[bytes, Callable[[], _Splitter]] = {b"{": _JsonBody, b"[": _JsonBody, b"<": _HtmlPage}
