"""The arrival times of an answer's tokens; a row's times and `Response.timing` derive from them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from ..core.events import (
    MediaDelta,
    ReasoningDelta,
    ReasoningText,
    Restarted,
    TextDelta,
    Timing,
    Usage,
    is_token,
)
from .chunks import RecordedStream, first_event


class TokenTimes(NamedTuple):
    """Arrival times of the last attempt's tokens, in perf_counter seconds: the first, the last, the first
    visible one. has_reasoning: reasoning was among them. What a restart discarded does not count."""

    first: float
    last: float
    visible: float | None = None
    has_reasoning: bool = False


def token_times(stream: RecordedStream) -> TokenTimes | None:
    """The times of a stream so far; None where no token came."""
    trace, has_reasoning = stream.trace, False
    first: float | None = None
    last: float | None = None
    visible: float | None = None
    upto = trace.arrivals[-1].upto if trace.arrivals else None
    for at, event in stream.log.items(first_event(stream), upto):
        if type(event) is str and event:  # nearly always
            if visible is None:
                first, visible = at if first is None else first, at
            last = at
        elif isinstance(event, Restarted):
            first, last, visible, has_reasoning = None, None, None, False
        elif (isinstance(event, str) and event) or is_token(event):
            first, last = at if first is None else first, at
            is_reasoning = isinstance(event, (ReasoningDelta, ReasoningText))
            has_reasoning = has_reasoning or is_reasoning
            if visible is None and not is_reasoning and isinstance(event, (str, TextDelta, MediaDelta)):
                visible = at
    return None if first is None or last is None else TokenTimes(first, last, visible, has_reasoning)


def streamed_tokens(usage: Usage | None, times: TokenTimes | None) -> int | None:
    """The output tokens that were streamed: all but reasoning that was counted and not sent."""
    if usage is None or usage.output_tokens is None:
        return None
    hidden = 0 if times is not None and times.has_reasoning else usage.reasoning_tokens or 0
    return max(0, usage.output_tokens - hidden)


def timing(
    stream: RecordedStream, turns: Sequence[RecordedStream] = (), usage: Usage | None = None
) -> Timing:
    """The `Response.timing` of a stream, in seconds from the call; turns: those of an answer with tools."""
    calls = turns or (stream,)
    trace, start = calls[0].trace, stream.called_at
    marks = trace.marks
    # non-streaming answers have no token times
    timed = [(t, c) for c in calls if not c.trace.non_streaming and (t := token_times(c)) is not None]
    counts = [streamed_tokens(c.partial().usage if turns else usage, t) for t, c in timed]
    set_up, head = marks.get("secured", marks.get("connected")), marks.get("headers", marks.get("stdout"))
    visible = next((t.visible for t, _ in timed if t.visible is not None), None)
    return Timing(
        connect=set_up - marks["connect_start"] if set_up is not None and "connect_start" in marks else None,
        ttfb=None if head is None else head - start,
        ttft=timed[0][0].first - start if timed else None,
        ttfo=None if visible is None else visible - start,
        total=stream.log[-1][0] - start if stream.done and stream.log else None,
        decode=sum(t.last - t.first for t, _ in timed) if timed else None,
        decoded=sum(n - 1 for n in counts if n) if None not in counts else None,
        reused=trace.reused,
        attempts=1 + sum(max(0, len(c.traces) - 1) for c in calls),
    )
