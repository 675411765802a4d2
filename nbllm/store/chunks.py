"""The events of an answer as they arrived: what each one held, when it arrived, and how certain that is.

The arrival of an event at the end of its read is exactly the read's stamp; so is that of all events of a read
that was one TCP segment. Any other event arrived between the read's bounds; where these are far apart because
this client read late, the event is marked as busy.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Iterator, Mapping
from itertools import groupby, islice, takewhile
from operator import attrgetter, itemgetter
from typing import Any, NamedTuple, Protocol

from ..core.calls import Read, Trace
from ..core.errors import NbllmError
from ..core.eventlog import EventLog
from ..core.events import (
    Finished,
    Item,
    MediaDelta,
    ReasoningDelta,
    ReasoningText,
    Response,
    Restarted,
    Started,
    TextDelta,
    ToolCallDelta,
    UsageReport,
    is_token,
)


class RecordedStream(Protocol):
    """The part of client.stream.Stream that measuring needs: the log of (arrival, event), the trace and the
    request (client.attempt.Attempt) of each attempt, start and end (perf_counter seconds), and the result."""

    log: EventLog
    traces: list[Trace]
    attempts: list[Any]
    called_at: float
    ended_at: float | None
    on_end: Any  # called with the stream at its end, or None
    add_to_row: Any  # adds columns to its row in the ledger, or None

    @property
    def done(self) -> bool:
        """Whether it has ended."""

    @property
    def trace(self) -> Trace:
        """What the transport saw of the last attempt."""

    @property
    def error(self) -> NbllmError | None:
        """The error that ended it, None for none."""

    def partial(self) -> Response:
        """The answer so far."""


Row = dict[str, Any]
Tokenizer = Callable[[str], int]
DISTURBANCE = 1.5e-3  # seconds of delay by this client from which on a request counts as contaminated


_new = tuple.__new__  # faster than Chunk(...); an answer may have a million
TOKEN_KINDS = ("content", "reasoning", "tool")  # kinds that hold tokens


class Chunk(NamedTuple):
    """An event of the body: what it held and when it arrived (times in perf_counter seconds, as in Read)."""

    kind: str
    at: float
    lo: float
    user: float
    chars: int
    size: int
    read: int
    in_read: int
    exact: bool
    stamp: str
    busy: bool  # uncertain because this client read late
    total_tokens: int | None  # output tokens so far, as the provider reports them
    tokens: int | None = None
    text: str = ""  # the part that holds tokens

    @property
    def has_tokens(self) -> bool:
        """Whether it holds tokens."""
        return self.kind in TOKEN_KINDS


def chunks_of(stream: RecordedStream, tokenizer: Tokenizer | None = None) -> list[Chunk]:
    """The events of the last attempt's body. Those that a restart discarded are of kind "other"."""
    trace = stream.trace
    reads = list(trace.reads)
    unknown = Read(trace.marks.get("end", 0.0), 0.0, 0.0, 0)
    out: list[Chunk] = []
    start = position = first_event(stream)
    events = [item for _, item in stream.log.items(start)]
    for number, group in groupby(list(trace.arrivals), attrgetter("read")):
        read = reads[number] if 0 <= number < len(reads) else unknown
        late, arrivals = _client_was_late(read, trace), list(group)
        at, user, stamp, last = read.at, read.user, read.stamp, len(arrivals) - 1
        for in_read, (upto, _, size) in enumerate(arrivals):
            items = events[position - start : upto - start]
            position = upto
            if len(items) == 1 and type(items[0]) is str:  # nearly always
                text, total_tokens = items[0], None
                kind = "content" if text else "role"
            else:
                kind, text, total_tokens = _merge_items(items)
                if Restarted in map(type, items):
                    out = [c._replace(kind="other", total_tokens=None) for c in out]
            exact = stamp == "kernel" and (read.segments == 1 or (read.clean and in_read == last))
            lo, busy = (at, False) if exact else (read.lo, late)
            values = (
                kind,
                at,
                lo,
                user,
                len(text),
                size,
                number,
                in_read,
                exact,
                stamp,
                busy,
                total_tokens,
                tokenizer(text) if tokenizer and text else None,
                text if kind in TOKEN_KINDS else "",
            )
            out.append(_new(Chunk, values))
    if out and out[-1].kind == "ping" and "done" in trace.marks:
        out[-1] = out[-1]._replace(kind="done")
    return _with_tokens(out)


def first_event(stream: RecordedStream) -> int:
    """The index in the log of the last attempt's first event."""
    return max((t.arrivals[-1].upto for t in stream.traces[:-1] if t.arrivals), default=0)


def _merge_items(items: list[Item]) -> tuple[str, str, int | None]:
    """(kind, text, total tokens) of the items of one event."""
    kind = next(filter(None, map(kind_of, sorted(items, key=is_token, reverse=True))), "ping")
    totals = [e.usage.output_tokens for e in items if isinstance(e, UsageReport)]
    return kind, "".join(map(_text, items)), totals[-1] if totals else None


def _client_was_late(read: Read, trace: Trace) -> bool:
    """Whether this client may have caused the delay of a read whose parts have no stamps of their own."""
    if read.at - read.lo <= DISTURBANCE:
        return False
    return read.user - read.at > DISTURBANCE or loop_was_busy(trace, read.lo, read.user)


def loop_was_busy(trace: Trace, start: float, end: float) -> bool:
    """Whether the network's loop was busy with something else for long between two times."""
    first = bisect_left(trace.stalls, start, key=itemgetter(1))  # they are in order
    overlapping = takewhile(lambda stall: stall[0] < end, islice(trace.stalls, first, None))
    return any(min(end, b) - max(start, a) > DISTURBANCE for a, b in overlapping)


_KINDS: dict[type, str] = {
    ToolCallDelta: "tool",
    MediaDelta: "content",
    Finished: "finish",
    UsageReport: "usage",
    Started: "role",
}


def kind_of(item: Item) -> str | None:
    """The kind of an event in the chunks frame; None for a notice."""
    if not isinstance(item, (str, TextDelta, ReasoningDelta)):
        return _KINDS.get(type(item))
    is_reasoning = isinstance(item, (ReasoningText, ReasoningDelta))
    return "role" if not _text(item) else "reasoning" if is_reasoning else "content"


def _text(item: Item) -> str:
    if isinstance(item, ToolCallDelta):
        return (item.name or "") + item.arguments
    return (
        item if isinstance(item, str) else item.text if isinstance(item, (TextDelta, ReasoningDelta)) else ""
    )


def _with_tokens(chunks: list[Chunk]) -> list[Chunk]:
    """The chunks with their tokens, from the totals that a provider streams; unchanged unless each chunk that
    holds tokens has a total."""
    totals = [c.total_tokens for c in chunks if c.has_tokens]
    known = [t for t in totals if t is not None]
    if len(known) < max(2, len(totals)) or known != sorted(known) or len(set(known)) < 2 or known[0] < 1:
        return chunks
    out, before = [], 0
    for c in chunks:
        tokens = None
        if c.has_tokens and c.total_tokens is not None:
            tokens, before = c.total_tokens - before, c.total_tokens
        out.append(c._replace(tokens=tokens))
    return out


def chunk_rows(
    stream: RecordedStream, epoch: float, key: Mapping[str, Any], chunks: list[Chunk] | None = None
) -> Iterator[Row]:
    """The chunks of the last attempt, as rows of the chunks frame; `key` is run_id, request_id and attempt.
    chunks: the result of `chunks_of`, where it is known."""
    before: float | None = None
    total = 0
    for i, c in enumerate(chunks_of(stream) if chunks is None else chunks):
        total += c.tokens or 0
        row = {
            **key,
            "i": i,
            "kind": c.kind,
            "ns_arrive": ns(c.at, epoch),
            "ns_lo": ns(c.lo, epoch),
            "ns_hi": ns(c.at, epoch),
            "ns_user": ns(c.user, epoch),
            "t_ms": (c.at - stream.called_at) * 1e3,
            "chars": c.chars,
            "bytes": c.size,
            "read_id": c.read,
            "in_read": c.in_read,
            "certified": c.exact,
            "stamp": c.stamp,
            "n_tokens": c.tokens,
            "gap_ms": None if before is None else (c.at - before) * 1e3,
            "cum_tokens": None if c.tokens is None else total,
        }
        before = c.at
        yield row


def ns(at: float, epoch: float) -> int:
    """A time (perf_counter seconds) as nanoseconds since the epoch (perf_counter seconds)."""
    return round((at - epoch) * 1e9)
