"""The truth: what was sent, and when. Records of requests, kept in bounded memory.

All times are nanoseconds of time.monotonic_ns(). On Linux time.perf_counter() reads the same clock
(CLOCK_MONOTONIC), so a client on this machine may subtract the one from the other; elsewhere they may differ.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

Kind = Literal["role", "reasoning", "content", "tool", "usage", "finish", "done", "ping", "error", "block"]
TOKENS: frozenset[str] = frozenset({"reasoning", "content", "tool"})


class Chunk(NamedTuple):
    """One event of an answer. kind: what it is (`block` is structure, such as content_block_stop). n_tokens:
    tokens that first appear in it. due_ns: when the plan wanted it written; send_ns: read right before the
    socket write, which it may share with others of the same `write_id`; written_ns: read right after. size:
    bytes of the event."""

    kind: Kind
    text: str
    n_tokens: int
    due_ns: int
    send_ns: int
    written_ns: int
    write_id: int
    size: int


@dataclass(frozen=True, slots=True)
class Record:
    """One request and its answer. `id` is also the answer's id and its x-request-id header. Keys are never
    kept.

    received_ns: the request was read whole. connected_ns: its connection was accepted. headers_ns: the status
    line was about to be written. end_ns: all was written. aborted_ns: the client closed before that.
    connection: the client's port; first: whether it was the first request there. cold_s: simulated loading,
    seconds. prompt: the first 200 characters of the last user turn. None: it did not happen.
    """

    id: str
    protocol: str
    model: str
    path: str
    method: str
    stream: bool
    connection: int
    first: bool
    connected_ns: int
    received_ns: int
    headers_ns: int | None = None
    end_ns: int | None = None
    aborted_ns: int | None = None
    status: int | None = None
    input_tokens: int | None = None
    output_tokens: int | None = None
    reasoning_tokens: int | None = None
    cold_s: float = 0.0
    prompt: str = ""
    chunks: tuple[Chunk, ...] = ()

    @property
    def tokens(self) -> tuple[Chunk, ...]:
        """The chunks that bear tokens."""
        return tuple(c for c in self.chunks if c.kind in TOKENS and c.n_tokens)

    @property
    def ttft_ns(self) -> int | None:
        """Request read to first token written; None where no token was."""
        first = next((c for c in self.chunks if c.kind in TOKENS and c.n_tokens), None)
        return None if first is None else first.send_ns - self.received_ns

    def as_dict(self) -> dict[str, Any]:
        """The record as plain data."""
        names = [f for f in self.__slots__ if f != "chunks"]
        return {
            **{n: getattr(self, n) for n in names},
            "ttft_ns": self.ttft_ns,
            "chunks": [c._asdict() for c in self.chunks],
        }


@dataclass(slots=True)
class Entry:
    """A record in the making. `chunks` holds bare tuples: the garbage collector stops looking at those, which
    keeps its pauses out of the schedule."""

    fields: dict[str, Any]
    chunks: list[tuple[Any, ...]] = field(default_factory=list)

    def set(self, **values: Any) -> None:
        """Fills fields of the record."""
        self.fields.update(values)

    @property
    def open(self) -> bool:
        """Whether more is to come."""
        return self.fields.get("end_ns") is None and self.fields.get("aborted_ns") is None

    def frozen(self) -> Record:
        """What is known by now."""
        return Record(**self.fields, chunks=tuple(map(Chunk._make, self.chunks)))


class Log:
    """The last `maxlen` requests, fewer where they hold more than `max_chunks` chunks together. Lives on the
    server's loop."""

    def __init__(self, maxlen: int | None = 10_000, max_chunks: int = 1_000_000) -> None:
        self._entries: deque[Entry] = deque(maxlen=maxlen)
        self._max_chunks = max_chunks
        self._chunks = 0

    def add(self, fields: dict[str, Any]) -> Entry:
        """Begins a record."""
        entry = Entry(fields)
        self._entries.append(entry)
        return entry

    def finished(self, entry: Entry) -> None:
        """Counts what a request left behind and forgets the oldest where it is too much."""
        self._chunks += len(entry.chunks)
        if self._chunks <= self._max_chunks:
            return
        self._chunks = sum(len(e.chunks) for e in self._entries)  # `maxlen` may have dropped some meanwhile
        while self._chunks > self._max_chunks and len(self._entries) > 1 and not self._entries[0].open:
            self._chunks -= len(self._entries.popleft().chunks)

    def clear(self) -> None:
        """Forgets all."""
        self._entries.clear()
        self._chunks = 0

    def snapshot(self) -> list[Record]:
        """All records, in the order in which the requests came."""
        return [entry.frozen() for entry in self._entries]
