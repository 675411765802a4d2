"""Records of the requests: what was sent, and when. The log has bounded memory.

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
    """One event of an answer. kind: its kind (`block` is structure, such as content_block_stop). n_tokens:
    number of new tokens in it. due_ns: when it was scheduled; send_ns: just before the socket write, which
    events of the same `write_id` share; written_ns: just after the write. size: bytes of the event."""

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
    """One request and its answer. `id` is also the answer's id and its x-request-id header. API keys are
    never recorded.

    received_ns: the request was read completely. connected_ns: its connection was accepted. headers_ns: just
    before the status line was written. end_ns: everything was written. aborted_ns: the client closed the
    connection before that. connection: the client's port; first: whether it was the first request on that
    connection. cold_s: seconds of simulated loading. prompt: the first 200 characters of the last user turn.
    None: it did not happen.
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
        """The chunks that contain tokens."""
        return tuple(c for c in self.chunks if c.kind in TOKENS and c.n_tokens)

    @property
    def ttft_ns(self) -> int | None:
        """From the request read to the first token written; None if no token was written."""
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
class RecordBuilder:
    """A record that is still being filled. `chunks` has plain tuples: the garbage collector does not track
    them, so that its pauses do not disturb the schedule."""

    fields: dict[str, Any]
    chunks: list[tuple[Any, ...]] = field(default_factory=list)

    def update(self, **values: Any) -> None:
        """Sets fields of the record."""
        self.fields.update(values)

    @property
    def is_open(self) -> bool:
        """Whether the answer has not ended."""
        return self.fields.get("end_ns") is None and self.fields.get("aborted_ns") is None

    def build(self) -> Record:
        """The record as known so far."""
        return Record(**self.fields, chunks=tuple(map(Chunk._make, self.chunks)))


class RequestLog:
    """The last `maxlen` requests, or fewer if they have more than `max_chunks` chunks in total. Used only on
    the server's loop."""

    def __init__(self, maxlen: int | None = 10_000, max_chunks: int = 1_000_000) -> None:
        self._entries: deque[RecordBuilder] = deque(maxlen=maxlen)
        self._max_chunks = max_chunks
        self._chunks = 0

    def add(self, fields: dict[str, Any]) -> RecordBuilder:
        """Starts a record."""
        entry = RecordBuilder(fields)
        self._entries.append(entry)
        return entry

    def finished(self, entry: RecordBuilder) -> None:
        """Counts the chunks of a finished request, and drops the oldest records if there are too many."""
        self._chunks += len(entry.chunks)
        if self._chunks <= self._max_chunks:
            return
        self._chunks = sum(
            len(e.chunks) for e in self._entries
        )  # `maxlen` may have dropped records meanwhile
        while self._chunks > self._max_chunks and len(self._entries) > 1 and not self._entries[0].is_open:
            self._chunks -= len(self._entries.popleft().chunks)

    def clear(self) -> None:
        """Deletes all records."""
        self._entries.clear()
        self._chunks = 0

    def snapshot(self) -> list[Record]:
        """All records, in the order in which the requests came."""
        return [entry.build() for entry in self._entries]
