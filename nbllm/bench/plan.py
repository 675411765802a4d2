"""What is sent when: randomised complete blocks of turns, fixed by a seed. Pure.

A turn is some requests of one model, at one load. Turns run one after another, so that models never disturb
each other. Within a block every model (and start, and pause) has one turn, in random order, with the same
prompts: whatever drifts in the world outside hits all alike, and differences within a block are fair.
"""

from __future__ import annotations

import random
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any, NamedTuple

from ..core.errors import ConfigError
from . import arrivals

OPEN_TURN = 20  # requests in a turn of an open loop


class Slot(NamedTuple):
    """One prompt to be sent: its number in the run, which prompt, and (open loop) when, in seconds from its
    turn's start."""

    seq: int
    prompt: int
    at: float | None = None

    @property
    def id(self) -> str:
        """The request's id within the run."""
        return f"{self.seq:06d}"


@dataclass(frozen=True, slots=True)
class Load:
    """How a turn's requests are started. kind: closed (`concurrency` at a time), constant, poisson, ramp
    (`rate` to `to_rate` a second), replay (`times`). per_turn: requests in a turn."""

    kind: str
    concurrency: int = 1
    rate: float | None = None
    to_rate: float | None = None
    times: tuple[float, ...] = ()
    per_turn: int = 1

    @classmethod
    def of(
        cls,
        *,
        concurrency: int | Sequence[int] | None = None,
        rate: Any = None,
        arrivals: Any = None,
        per_turn: int | None = None,
    ) -> tuple[Load, ...]:
        """The levels of load that `bench.run` was asked for, one after another. Raises ConfigError for what
        contradicts itself."""
        if per_turn is not None and per_turn < 1:
            raise ConfigError(f"per_turn is a number of requests, not {per_turn!r}.", hint="per_turn=20")
        if rate is None and (arrivals is None or isinstance(arrivals, str)):
            if arrivals is not None:
                raise ConfigError(
                    f"arrivals={arrivals!r} needs a rate.",
                    hint='rate=2, arrivals="poisson": two requests a second.',
                )
            return tuple(
                cls("closed", _whole(c), per_turn=per_turn or (1 if c == 1 else 2 * c))
                for c in _several(1 if concurrency is None else concurrency)
            )
        if concurrency is not None:
            raise ConfigError(
                "A load is either so many requests at a time (concurrency) or so many a second (rate).",
                hint="Leave one of them out.",
            )
        return tuple(
            _open(r, arrivals, per_turn)
            for r in ([None] if rate is None else [rate] if arrivals == "ramp" else _several(rate))
        )

    def offsets(self, rng: random.Random) -> tuple[float | None, ...]:
        """When the requests of a turn are due; None in a closed loop."""
        if self.kind == "closed":
            return (None,) * self.per_turn
        if self.kind == "replay":
            return self.times
        assert self.rate is not None
        if self.kind == "ramp":
            return arrivals.ramp(self.rate, self.to_rate or self.rate, self.per_turn)
        return (
            arrivals.constant(self.rate, self.per_turn)
            if self.kind == "constant"
            else arrivals.poisson(self.rate, self.per_turn, rng)
        )


def _several(given: Any) -> list[Any]:
    found = list(given) if isinstance(given, Iterable) and not isinstance(given, str) else [given]
    if not found:
        raise ConfigError("A sweep needs a level at least.", hint="concurrency=[1, 4, 16]")
    return found


def _whole(concurrency: Any) -> int:
    if isinstance(concurrency, bool) or not isinstance(concurrency, int) or concurrency < 1:
        raise ConfigError(
            f"concurrency is a number of requests at a time, not {concurrency!r}.",
            hint="concurrency=8, or [1, 8, 64] for a sweep.",
        )
    return concurrency


def _rate(rate: Any) -> float:
    if isinstance(rate, bool) or not isinstance(rate, (int, float)) or not rate > 0:
        raise ConfigError(f"A rate is a number of requests a second above 0, not {rate!r}.", hint="rate=2.5")
    return float(rate)


def _open(rate: Any, how: Any, per_turn: int | None) -> Load:
    n = per_turn or OPEN_TURN
    if how is not None and not isinstance(how, str):
        times = arrivals.replay(how)
        return Load(
            "replay",
            times=times,
            per_turn=len(times),
            rate=(len(times) - 1) / times[-1] if times[-1] else None,
        )
    if how == "ramp":
        if not isinstance(rate, Sequence) or len(rate) != 2:
            raise ConfigError("A ramp needs two rates.", hint='rate=(1, 10), arrivals="ramp"')
        return Load("ramp", rate=_rate(rate[0]), to_rate=_rate(rate[1]), per_turn=n)
    if how not in (None, "poisson", "constant"):
        raise ConfigError(
            f"No arrivals are called {how!r}.", hint='"poisson", "constant", "ramp", or recorded times.'
        )
    return Load(how or "poisson", rate=_rate(rate), per_turn=n)


@dataclass(frozen=True, slots=True)
class Turn:
    """Requests of one model. level: which load of a sweep. order: its place in the block. idle_s: the pause
    before it."""

    index: int
    level: int
    block: int
    order: int
    arm: int
    phase: str
    start_kind: str
    load: Load
    idle_s: float
    slots: tuple[Slot, ...]


def plan(
    arms: int,
    prompts: int,
    *,
    blocks: int,
    loads: Sequence[Load],
    start_kinds: Sequence[str] = ("warm",),
    idle: Sequence[float] = (0.0,),
    seed: int,
    cooldown: int = 0,
) -> tuple[Turn, ...]:
    """The turns of a run, in order; the same for the same seed.

    Block b begins at prompt b of the set (modulo its size), the same for every model. A start that is cold on
    purpose is a turn of one request. cooldown: so many requests more at the end of each turn, so that those
    that are measured all see a full load; they have the phase "cooldown" and a turn's index of their own.
    Raises ConfigError for fewer than one block.
    """
    if isinstance(blocks, bool) or not isinstance(blocks, int) or blocks < 1:
        raise ConfigError(f"blocks is how often every model answers, not {blocks!r}.", hint="blocks=30")
    turns: list[Turn] = []
    seq = 0
    for level, load in enumerate(loads):
        for b in range(blocks):
            block = level * blocks + b
            cells = [(arm, kind, pause) for arm in range(arms) for kind in start_kinds for pause in idle]
            random.Random(f"order {seed} {level} {b}").shuffle(cells)
            for order, (arm, kind, pause) in enumerate(cells):
                shape = load if kind == "warm" else Load("closed")
                offsets = shape.offsets(random.Random(f"arrivals {seed} {level} {b} {arm} {kind} {pause}"))
                slots = tuple(Slot(seq + i, (b + i) % prompts, at) for i, at in enumerate(offsets))
                seq += len(slots)
                turns.append(
                    Turn(len(turns), level, block, order, arm, "measure", kind, shape, float(pause), slots)
                )
                if cooldown and shape.kind == "closed" and kind == "warm":
                    more = tuple(Slot(seq + i, (b + i) % prompts) for i in range(cooldown))
                    seq += cooldown
                    turns.append(
                        Turn(len(turns), level, block, order, arm, "cooldown", kind, shape, 0.0, more)
                    )
    return tuple(turns)


def stable(values: Sequence[float], *, k: int = 5, within: float = 0.1, most: int = 30) -> bool:
    """Whether warm-up is over: the median of the last `k` times differs from that of the `k` before by at
    most `within`, and so do the quartiles of the last ones from their median on average; or there are `most`
    of them already."""
    if len(values) >= most:
        return True
    if len(values) < 2 * k:
        return False
    before, last = values[-2 * k : -k], values[-k:]
    middle = statistics.median(last)
    spread = statistics.median(abs(v - middle) for v in last)
    return (
        middle > 0
        and abs(middle - statistics.median(before)) <= within * middle
        and spread <= 2 * within * middle
    )


@dataclass(frozen=True, slots=True)
class Budget:
    """Limits of a run, None for none: US dollars, tokens in and out, seconds, requests."""

    usd: float | None = None
    tokens: float | None = None
    seconds: float | None = None
    requests: float | None = None

    @classmethod
    def of(cls, given: float | Mapping[str, float] | Budget | None) -> Budget:
        """From dollars, or a mapping of the names above. Raises ConfigError for other names and for what is
        not above 0."""
        if isinstance(given, Budget):
            return given
        values = dict(given) if isinstance(given, Mapping) else {} if given is None else {"usd": given}
        names = [f.name for f in fields(cls)]
        for name, value in values.items():
            if (
                name not in names
                or isinstance(value, bool)
                or not isinstance(value, (int, float))
                or not value > 0
            ):
                raise ConfigError(
                    f"Not a budget: {name}={value!r}.",
                    hint=f"budget=0.5 (dollars), or a mapping of {', '.join(names)}, above 0.",
                )
        return cls(**values)

    def exceeded(self, usd: float, tokens: float, seconds: float, requests: float) -> str | None:
        """Which limit is used up, in words; None while none is."""
        used = {"usd": usd, "tokens": tokens, "seconds": seconds, "requests": requests}
        for name, spent in used.items():
            limit = getattr(self, name)
            if limit is not None and spent >= limit:
                return (
                    f"the budget of "
                    f"{'$' if name == 'usd' else ''}{limit:g}{'' if name == 'usd' else ' ' + name} is used up"
                )
        return None
