"""Tables before a provider's limit with a clock of their own: what benchmarks/gate.py does over sockets in
minutes, in a moment. The provider is the simulator's (nbllm/simulator/limits.py), the limiter is ours."""

from __future__ import annotations

import heapq
import itertools
import random
from collections.abc import Iterator
from dataclasses import dataclass, field
from email.utils import formatdate
from itertools import pairwise
from typing import Any

from nbllm.client.limiter import Limiter, Need, Ticket
from nbllm.core.calls import Quirks
from nbllm.dialects._limits import parse_limits, parse_refusal, parse_retry_after
from nbllm.simulator.limits import Limits
from nbllm.simulator.options import options_from

NONE = Need()
START = 1_790_000_000.25  # epoch seconds at which all begin


@dataclass(frozen=True, slots=True)
class Sitting:
    """What is played. style: whose headers; limit requests in `per` seconds, in fixed windows or as a bucket;
    gates: processes that share the key and know nothing of each other; ttft, long: seconds to the first token
    and of the rest, each call's own within a factor of two; width: calls that a table has in flight; free:
    the provider is on this machine; date: its answers have a Date; way: the longest that a message travels;
    others: requests a second that somebody else sends with this key; apart: the longest time by which the
    tables begin apart."""

    style: str
    rows: int = 300
    limit: int = 60
    per: float = 60.0
    fixed: bool = False
    gates: int = 1
    ttft: float = 0.1
    long: float = 0.01
    width: int = 64
    free: bool = True
    date: bool = False
    way: float = 0.008
    others: float = 0.0
    apart: float = 0.2
    seed: int = 1


@dataclass(slots=True)
class Played:
    """What came of it. asked: (moment, whether it was let in) of each request; seconds: to the last
    answer."""

    sitting: Sitting
    asked: list[tuple[float, bool]] = field(default_factory=list)
    seconds: float = 0.0

    @property
    def refused(self) -> int:
        return sum(not ok for _, ok in self.asked)

    @property
    def share(self) -> float:
        """Of the possible rate, after all that was there at first."""
        s = self.sitting
        rows = s.rows // s.gates * s.gates
        rounds = -(-(rows - s.limit) // s.limit) * s.per
        best = rounds if s.fixed else (rows - s.limit) * s.per / (s.limit - s.others * s.per)
        return best / self.seconds

    @property
    def pause(self) -> float:
        """The longest time without a request, seconds."""
        return max((b[0] - a[0] for a, b in pairwise(self.asked)), default=0.0)


class _Provider:
    """The simulator's, and what its headers and bodies are read as."""

    def __init__(self, sitting: Sitting) -> None:
        self.sitting, self.limits = sitting, Limits()
        more = {"limits": sitting.style, "rpm": sitting.limit, "per": sitting.per, "fixed": sitting.fixed}
        self.options = options_from(more)
        self.quirks = Quirks()

    def ask(self, now: float) -> tuple[bool, Any, float | None]:
        """(whether it is let in, the limits that it tells, the seconds that it names in a refusal)."""
        clock = START + now
        headers, spent = self.limits.take(self.options, ("key", "model"), now, clock)
        if self.sitting.date:
            headers = {**headers, "date": formatdate(clock, usegmt=True)}
        if spent is None:
            return True, parse_limits(headers, clock, self.quirks), None
        body: Any = {}
        if self.sitting.style == "gemini":
            info = {
                "@type": "type.googleapis.com/google.rpc.RetryInfo",
                "retryDelay": f"{spent.seconds_until_next:g}s",
            }
            body = {"error": {"details": [info]}}
        wait = parse_retry_after(headers, body, clock)
        return False, parse_refusal(headers, body, "", clock, quirks=self.quirks, wait=wait).limits, wait


class _Table:
    """The rows of one process before its limiter."""

    def __init__(self, sitting: Sitting) -> None:
        self.limiter, self.left = Limiter(is_local=sitting.free), sitting.rows // sitting.gates
        self.turn: float | None = None
        self.due = 0.0

    def ready(self, now: float, width: int) -> Iterator[Ticket]:
        """Those that start now; `turn` is when to look again."""
        self.turn = None
        while self.left and self.limiter.in_flight < width:
            wait = self.limiter.wait_time(now, NONE, background=True)
            if wait is None:
                return
            if wait > 0:
                self.turn = now + wait
                return
            self.left -= 1
            yield self.limiter.start(now, NONE)


def played(sitting: Sitting) -> Played:
    """Plays it to the end."""
    provider, dice = _Provider(sitting), random.Random(sitting.seed)
    tables = [_Table(sitting) for _ in range(sitting.gates)]
    events: list[tuple[float, int, str, int, tuple[Any, ...]]] = []
    numbers, result, done, now = itertools.count(), Played(sitting), 0, 0.0

    def at(when: float, what: str, gate: int, *about: Any) -> None:
        heapq.heappush(events, (when, next(numbers), what, gate, about))

    for gate in range(sitting.gates):
        at(dice.uniform(0.0, sitting.apart) if gate else 0.0, "turn", gate)
    if sitting.others:
        at(0.5, "others", 0)
    while done < sitting.rows // sitting.gates * sitting.gates:
        now, _, what, gate, about = heapq.heappop(events)
        table, away = tables[gate], dice.uniform(0.1, 1.0) * sitting.way
        if what == "asked":
            ok, told, wait = provider.ask(now)
            result.asked.append((now, ok))
            head = now + away + (dice.uniform(0.7, 1.4) * sitting.ttft if ok else 0.0)
            at(head, "head" if ok else "refused", gate, about[0], told, wait)
        elif what == "others":
            provider.ask(now)
            at(now + dice.expovariate(sitting.others), "others", 0)
        elif what == "head":
            table.limiter.on_answer(now, about[0], about[1])
            at(now + dice.uniform(0.7, 1.4) * sitting.long, "end", gate, about[0])
        elif what == "refused":
            table.limiter.on_refusal(now, about[0], about[2], about[1], dice.random())
            table.limiter.end(now, about[0], ok=False)
            table.left += 1
        elif what == "end":
            table.limiter.end(now, about[0], ok=True)
            done += 1
        for ticket in table.ready(now, sitting.width):
            at(now + dice.uniform(0.1, 1.0) * sitting.way, "asked", gate, ticket)
        if table.turn is not None and not now < table.due <= table.turn:
            table.due = table.turn + dice.uniform(0.0, 0.4) * sitting.way
            at(table.due, "turn", gate)
    result.seconds = now
    return result
