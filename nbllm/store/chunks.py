"""What came over the wire, piece by piece: which event held what, when it arrived, and how sure that is.

An event that ended its read has the read's stamp exactly; so have all events of a read that was one segment.
Any other arrived between the read's bounds; where these are wide because this client was late to look, the
event is called busy.
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


class Recorded(Protocol):
    """What is needed of a reply (see client.stream.Stream): its log of (arrival, event), a trace for each
    attempt and what was asked of whom (attempt.Attempt), when it was called and ended (perf_counter seconds),
    how it ended."""

    log: EventLog
    traces: list[Trace]
    attempts: list[Any]
    called_at: float
    ended_at: float | None
    on_end: Any  # called with it at its end, or None
    add_to_row: Any  # adds to what the ledger has of it, or None

    @property
    def done(self) -> bool:
        """Whether it has ended."""

    @property
    def trace(self) -> Trace:
        """What the transport saw of the last attempt."""

    @property
    def error(self) -> NbllmError | None:
        """What went wrong."""

    def partial(self) -> Response:
        """The answer, whole or not."""


Row = dict[str, Any]
Tokenizer = Callable[[str], int]
DISTURBED = (
    1.5e-3  # seconds by which this client must have been in the way for a request to be called contaminated
)


_new = tuple.__new__  # what Chunk(...) does by way of a Python function; an answer may have a million
BEARING = ("content", "reasoning", "tool")  # kinds that hold tokens


class Chunk(NamedTuple):
    """An event of the body with what it held and when it came (perf_counter seconds)."""

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
    busy: bool  # uncertain, and this client was late to look
    counted: int | None  # output tokens so far, as the provider reports them
    tokens: int | None = None
    pieces: str = ""

    @property
    def bears(self) -> bool:
        """Whether it holds tokens."""
        return self.kind in BEARING


def of(stream: Recorded, tokenizer: Tokenizer | None = None) -> list[Chunk]:
    """The events of the last attempt's body. What a restart made void is of kind "other"."""
    trace = stream.trace
    reads = list(trace.reads)
    unknown = Read(trace.marks.get("end", 0.0), 0.0, 0.0, 0)
    out: list[Chunk] = []
    place = before = first_event(stream)
    came = [item for _, item in stream.log.items(place)]
    for number, together in groupby(list(trace.arrivals), attrgetter("read")):
        read = reads[number] if 0 <= number < len(reads) else unknown
        late, arrivals = _late(read, trace), list(together)
        at, user, stamp, last = read.at, read.user, read.stamp, len(arrivals) - 1
        for in_read, (upto, _, size) in enumerate(arrivals):
            items = came[place - before : upto - before]
            place = upto
            if len(items) == 1 and type(items[0]) is str:  # nearly always
                text, counted = items[0], None
                kind = "content" if text else "role"
            else:
                kind, text, counted = _held(items)
                if Restarted in map(type, items):
                    out = [c._replace(kind="other", counted=None) for c in out]
            exact = stamp == "kernel" and (read.segments == 1 or (read.clean and in_read == last))
            lo, busy = (at, False) if exact else (read.lo, late)
            tokens = tokenizer(text) if tokenizer and text else None
            pieces = text if kind in BEARING else ""
            told = (
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
                counted,
                tokens,
                pieces,
            )
            out.append(_new(Chunk, (kind, *told)))
    if out and out[-1].kind == "ping" and "done" in trace.marks:
        out[-1] = out[-1]._replace(kind="done")
    return _counted(out)


def first_event(stream: Recorded) -> int:
    """Where the events of the last attempt begin in the log."""
    return max((t.arrivals[-1].upto for t in stream.traces[:-1] if t.arrivals), default=0)


def _held(items: list[Item]) -> tuple[str, str, int | None]:
    """The kind of what came together, its text, and the tokens that it counts."""
    kind = next(filter(None, map(kind_of, sorted(items, key=is_token, reverse=True))), "ping")
    counted = [e.usage.output_tokens for e in items if isinstance(e, UsageReport)]
    return kind, "".join(map(_text, items)), counted[-1] if counted else None


def _late(read: Read, trace: Trace) -> bool:
    """Whether this client may have been the one who was late for a read whose parts have no stamp of their
    own."""
    if read.at - read.lo <= DISTURBED:
        return False
    return read.user - read.at > DISTURBED or stalled(trace, read.lo, read.user)


def stalled(trace: Trace, start: float, end: float) -> bool:
    """Whether the network's loop was busy with something else for long between two moments."""
    late = bisect_left(trace.stalls, start, key=itemgetter(1))  # they follow each other
    near = takewhile(lambda stall: stall[0] < end, islice(trace.stalls, late, None))
    return any(min(end, b) - max(start, a) > DISTURBED for a, b in near)


_KINDS: dict[type, str] = {
    ToolCallDelta: "tool",
    MediaDelta: "content",
    Finished: "finish",
    UsageReport: "usage",
    Started: "role",
}


def kind_of(item: Item) -> str | None:
    """What an event is in the chunks frame's words; None for a notice."""
    if not isinstance(item, (str, TextDelta, ReasoningDelta)):
        return _KINDS.get(type(item))
    thought = isinstance(item, (ReasoningText, ReasoningDelta))
    return "role" if not _text(item) else "reasoning" if thought else "content"


def _text(item: Item) -> str:
    if isinstance(item, ToolCallDelta):
        return (item.name or "") + item.arguments
    return (
        item if isinstance(item, str) else item.text if isinstance(item, (TextDelta, ReasoningDelta)) else ""
    )


def _counted(found: list[Chunk]) -> list[Chunk]:
    """The chunks with the tokens that a provider counts as it streams: where each one that bears tokens has a
    total."""
    bearing = [c for c in found if c.kind in BEARING]
    totals = [c.counted for c in bearing]
    known = [t for t in totals if t is not None]
    if (
        len(bearing) < 2
        or len(known) < len(totals)
        or known != sorted(known)
        or len(set(known)) < 2
        or known[0] < 1
    ):
        return found
    out, before = [], 0
    for c in found:
        tokens = None
        if c.bears and c.counted is not None:
            tokens, before = c.counted - before, c.counted
        out.append(c._replace(tokens=tokens))
    return out


def rows(
    stream: Recorded, epoch: float, key: Mapping[str, Any], found: list[Chunk] | None = None
) -> Iterator[Row]:
    """The chunks of the last attempt, for the chunks frame; `key` is run_id, request_id and attempt. found:
    what `of` gave, where it is known."""
    before: float | None = None
    total = 0
    for i, c in enumerate(of(stream) if found is None else found):
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
    """A moment (perf_counter seconds) as nanoseconds since the epoch."""
    return round((at - epoch) * 1e9)
