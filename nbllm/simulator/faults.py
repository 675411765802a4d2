"""What goes wrong on purpose: keep-alives, cuts, stalls, gibberish and errors woven into an answer's events.
Pure generators."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

from .options import Options
from .plan import Out, Reply
from .records import TOKENS

_END = ("finish", "usage", "done")
MESSAGE = "This failure was asked of nbllm's simulator."


def woven(
    outs: Iterable[Out], reply: Reply, ping: bytes, error: Callable[[Reply, float, int], Iterable[Out]]
) -> Iterator[Out]:
    """`outs` with the keep-alives and faults that the reply's options ask for."""
    o = reply.options
    if not o.ping and all(n is None for n in (o.cut, o.stall, o.malformed, o.error)):
        return iter(outs)
    return _broken(_pinged(outs, reply, ping), o, lambda at, sent: error(reply, at, sent))


def _pinged(outs: Iterable[Out], reply: Reply, ping: bytes) -> Iterator[Out]:
    """Keep-alives, evenly between the request and the first token."""
    n = reply.options.ping if ping else 0
    due = [Out("ping", ping, reply.start * (i + 1) / (n + 1)) for i in range(n)]
    for out in outs:
        while due and due[0].at <= out.at:
            yield due.pop(0)
        yield out


def _broken(outs: Iterable[Out], o: Options, error: Callable[[float, int], Iterable[Out]]) -> Iterator[Out]:
    """The faults that come after so many token-bearing chunks; only the malformed one and the stall are
    survived."""
    seen, sent, late = 0, 0, 0.0
    for planned in outs:
        out = planned._replace(at=planned.at + late) if late else planned
        bears = out.kind in TOKENS and out.n_tokens > 0
        if not bears and out.kind not in _END:
            sent += out.kind != "ping"
            yield out
            continue
        if seen == o.stall and not late:
            late = o.stall_for
            out = out._replace(at=out.at + late)
        if seen == o.cut:
            yield Out("error", b"", out.at, act=o.how)
            return
        if seen == o.error:
            yield from error(out.at, sent)
            return
        shown = out._replace(data=_gibberish(out.data)) if bears and seen == o.malformed else out
        seen, sent = seen + bears, sent + 1
        yield shown._replace(more=False) if shown.more and _ends(o, seen) else shown


def _ends(o: Options, seen: int) -> bool:
    """Whether a fault comes after this chunk, so that it may not wait for a shared write."""
    return seen in (o.cut, o.error, o.stall)


def _gibberish(data: bytes) -> bytes:
    """An event whose JSON breaks off: the end of the line is missing, the end of the event is there."""
    body = data.rstrip(b"\n")
    return body[: -max(2, len(body) // 3)] + data[len(body) :]
