"""When the tokens of an answer came, worked out once: a row's times and `Response.timing` are views of it."""

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
from .chunks import Recorded, first_event


class Moments(NamedTuple):
    """Of the last attempt's tokens, in perf_counter seconds: the first, the last, the first that is shown.
    thought: reasoning was among them. What a restart made void does not count."""

    first: float
    last: float
    visible: float | None = None
    thought: bool = False


def moments(stream: Recorded) -> Moments | None:
    """Of a stream so far; None where no token came."""
    trace, thought = stream.trace, False
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
            first, last, visible, thought = None, None, None, False
        elif (isinstance(event, str) and event) or is_token(event):
            first, last = at if first is None else first, at
            told = not isinstance(event, (ReasoningDelta, ReasoningText))
            thought = thought or not told
            if visible is None and told and isinstance(event, (str, TextDelta, MediaDelta)):
                visible = at
    return None if first is None or last is None else Moments(first, last, visible, thought)


def streamed(usage: Usage | None, when: Moments | None) -> int | None:
    """Output tokens that came one after another: without reasoning of which nothing came."""
    if usage is None or usage.output_tokens is None:
        return None
    hidden = 0 if when is not None and when.thought else usage.reasoning_tokens or 0
    return max(0, usage.output_tokens - hidden)


def timing(stream: Recorded, turns: Sequence[Recorded] = (), usage: Usage | None = None) -> Timing:
    """What a Response tells of it, in seconds from the call; turns: of an answer that used tools."""
    calls = turns or (stream,)
    trace, start = calls[0].trace, stream.called_at
    marks = trace.marks
    # of whole messages, nobody saw when their tokens were made
    came = [(m, c) for c in calls if not c.trace.non_streaming and (m := moments(c)) is not None]
    counts = [streamed(c.partial().usage if turns else usage, m) for m, c in came]
    set_up, head = marks.get("secured", marks.get("connected")), marks.get("headers", marks.get("stdout"))
    visible = next((m.visible for m, _ in came if m.visible is not None), None)
    return Timing(
        connect=set_up - marks["connect_start"] if set_up is not None and "connect_start" in marks else None,
        ttfb=None if head is None else head - start,
        ttft=came[0][0].first - start if came else None,
        ttfo=None if visible is None else visible - start,
        total=stream.log[-1][0] - start if stream.done and stream.log else None,
        decode=sum(m.last - m.first for m, _ in came) if came else None,
        decoded=sum(n - 1 for n in counts if n) if None not in counts else None,
        reused=trace.reused,
        attempts=1 + sum(max(0, len(c.traces) - 1) for c in calls),
    )
