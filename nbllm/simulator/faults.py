"""Inserts keep-alives and faults into an answer's events: cuts, stalls, malformed JSON and errors. Pure
generators."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

from .options import Options
from .plan import Reply, WireEvent
from .records import TOKENS

_END = ("finish", "usage", "done")
MESSAGE = "This failure was requested from nbllm's simulator."


def with_faults(
    events: Iterable[WireEvent],
    reply: Reply,
    ping: bytes,
    error: Callable[[Reply, float, int], Iterable[WireEvent]],
) -> Iterator[WireEvent]:
    """`events` with the keep-alives and faults that the reply's options request. error: makes the events of
    an error inside the stream."""
    o = reply.options
    if not o.ping and all(n is None for n in (o.cut, o.stall, o.malformed, o.error)):
        return iter(events)
    return _with_failures(_with_pings(events, reply, ping), o, lambda at, sent: error(reply, at, sent))


def _with_pings(events: Iterable[WireEvent], reply: Reply, ping: bytes) -> Iterator[WireEvent]:
    """Adds keep-alives at equal intervals between the request and the first token."""
    n = reply.options.ping if ping else 0
    due = [WireEvent("ping", ping, reply.start_at * (i + 1) / (n + 1)) for i in range(n)]
    for event in events:
        while due and due[0].at <= event.at:
            yield due.pop(0)
        yield event


def _with_failures(
    events: Iterable[WireEvent], o: Options, error: Callable[[float, int], Iterable[WireEvent]]
) -> Iterator[WireEvent]:
    """Applies the faults that are due after a number of token-bearing chunks. The stream continues only after
    a malformed chunk and a stall."""
    seen, sent, delay = 0, 0, 0.0
    for planned in events:
        event = planned._replace(at=planned.at + delay) if delay else planned
        has_tokens = event.kind in TOKENS and event.n_tokens > 0
        if not has_tokens and event.kind not in _END:
            sent += event.kind != "ping"
            yield event
            continue
        if seen == o.stall and not delay:
            delay = o.stall_for
            event = event._replace(at=event.at + delay)
        if seen == o.cut:
            yield WireEvent("error", b"", event.at, fault=o.how)
            return
        if seen == o.error:
            yield from error(event.at, sent)
            return
        event = (
            event._replace(data=_truncate_json(event.data)) if has_tokens and seen == o.malformed else event
        )
        seen, sent = seen + has_tokens, sent + 1
        # A fault that is due next must not wait in a shared write.
        yield event._replace(more=False) if event.more and seen in (o.cut, o.error, o.stall) else event


def _truncate_json(data: bytes) -> bytes:
    """The event with truncated JSON; its terminating blank line stays."""
    body = data.rstrip(b"\n")
    return body[: -max(2, len(body) // 3)] + data[len(body) :]
