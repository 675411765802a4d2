"""The plan of a run: randomised complete blocks of turns, fixed by a seed. Pure.

A turn is a group of requests of one model at one load. Turns run one after another, so models never disturb
each other. Within a block every model (with each start kind and pause) has one turn, in random order, with
the same prompts: external drift affects all of them alike, and differences within a block are fair.
"""

from __future__ import annotations

import math
import random
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, NamedTuple

import msgspec

from ..core.errors import ConfigError
from . import arrivals
from .frames import check_positive

MIN_OPEN_REQUESTS = 20  # in a turn of an open loop
MIN_OPEN_SECONDS = 10.0  # of a turn of an open loop
# Requests of a turn per concurrent request; the first and the last ones are ramp and drain
STEADY_FACTOR = 10


class Slot(NamedTuple):
    """One planned prompt: its number in the run, the index of its prompt, and (open loop) its start, in
    seconds from the start of the turn. phase: if it differs from that of the turn."""

    seq: int
    prompt: int
    at: float | None = None
    phase: str | None = None

    @property
    def id(self) -> str:
        """The request id within the run."""
        return f"{self.seq:06d}"


@dataclass(frozen=True, slots=True)
class LoadShape:
    """How the requests of a turn are started. kind: closed (`concurrency` in flight), constant, poisson, ramp
    (`rate` to `to_rate` per second), replay (`times`). per_turn: requests of a turn. steady: whether the
    length of the turn follows from the load, so that ramp and drain are marked; else the user set it.
    aligned: whether each time has its own prompt (a trace)."""

    kind: str
    concurrency: int = 1
    rate: float | None = None
    to_rate: float | None = None
    times: tuple[float, ...] = ()
    per_turn: int = 1
    steady: bool = False
    aligned: bool = False

    @classmethod
    def of(
        cls,
        *,
        concurrency: int | Sequence[int] | None = None,
        rate: Any = None,
        arrivals: Any = None,
        per_turn: int | None = None,
    ) -> tuple[LoadShape, ...]:
        """The levels of load that the options of `bench.run` describe, in order. Raises ConfigError for
        contradictions."""
        if per_turn is not None and (type(per_turn) is not int or per_turn < 1):
            raise ConfigError(f"per_turn must be a number of requests, not {per_turn!r}.", hint="per_turn=20")
        if rate is None and (arrivals is None or isinstance(arrivals, str)):
            if arrivals is not None:
                raise ConfigError(
                    f"arrivals={arrivals!r} needs a rate.",
                    hint='rate=2, arrivals="poisson": two requests a second.',
                )
            return tuple(
                cls(
                    "closed",
                    _check_concurrency(c),
                    per_turn=per_turn or (1 if c == 1 else STEADY_FACTOR * c),
                    steady=not per_turn and c > 1,
                )
                for c in _levels(1 if concurrency is None else concurrency)
            )
        if concurrency is not None:
            raise ConfigError(
                "A load has either a concurrency or a rate, not both.",
                hint="Leave one of them out.",
            )
        return tuple(
            _open_load(r, arrivals, per_turn)
            for r in ([None] if rate is None else [rate] if arrivals == "ramp" else _levels(rate))
        )

    def offsets(self, rng: random.Random, extra: int = 0) -> tuple[float | None, ...]:
        """When the requests of a turn, and `extra` more, are due; None in a closed loop."""
        if extra and self.kind != "replay":
            return replace(self, per_turn=self.per_turn + extra).offsets(rng)
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


def _levels(value: Any) -> list[Any]:
    levels = list(value) if isinstance(value, Iterable) and not isinstance(value, str) else [value]
    if not levels:
        raise ConfigError("A sweep needs at least one level.", hint="concurrency=[1, 4, 16]")
    return levels


def _check_concurrency(concurrency: Any) -> int:
    if isinstance(concurrency, bool) or not isinstance(concurrency, int) or concurrency < 1:
        raise ConfigError(
            f"concurrency must be a number of requests at a time, not {concurrency!r}.",
            hint="concurrency=8, or [1, 8, 64] for a sweep.",
        )
    return concurrency


def _check_rate(rate: Any) -> float:
    check_positive("rate", rate, "rate=2.5 is 2.5 requests a second.")
    return float(rate)


def _open_load(rate: Any, arrivals_kind: Any, per_turn: int | None) -> LoadShape:
    if arrivals_kind is not None and not isinstance(arrivals_kind, str):
        times = arrivals.replay(arrivals_kind)
        return LoadShape(
            "replay",
            times=times,
            per_turn=len(times),
            rate=(len(times) - 1) / times[-1] if times[-1] else None,
        )
    n = per_turn or MIN_OPEN_REQUESTS
    if arrivals_kind == "ramp":
        if not isinstance(rate, Sequence) or len(rate) != 2:
            raise ConfigError("A ramp needs two rates.", hint='rate=(1, 10), arrivals="ramp"')
        return LoadShape("ramp", rate=_check_rate(rate[0]), to_rate=_check_rate(rate[1]), per_turn=n)
    if arrivals_kind not in (None, "poisson", "constant"):
        raise ConfigError(
            f"arrivals={arrivals_kind!r} is not known.",
            hint='Use "poisson", "constant", "ramp", or recorded times.',
        )
    n = per_turn or max(MIN_OPEN_REQUESTS, math.ceil(_check_rate(rate) * MIN_OPEN_SECONDS))
    return LoadShape(arrivals_kind or "poisson", rate=_check_rate(rate), per_turn=n, steady=not per_turn)


class Turn(msgspec.Struct, frozen=True):
    """Requests of one contestant (its index). level: index of the load in a sweep. order: position in the
    block. idle_s: seconds of pause before the turn."""

    index: int
    level: int
    block: int
    order: int
    contestant: int = msgspec.field(name="arm")  # its name in the files of runs
    phase: str
    start_kind: str
    load: LoadShape
    idle_s: float
    slots: tuple[Slot, ...]


def plan(
    contestants: int,
    prompts: int,
    *,
    blocks: int,
    loads: Sequence[LoadShape],
    start_kinds: Sequence[str] = ("warm",),
    idle: Sequence[float] = (0.0,),
    seed: int,
    cooldown: int = 0,
) -> tuple[Turn, ...]:
    """The turns of a run, in order; equal for equal seeds.

    Block b starts at prompt b of the set (modulo its size), the same for every model. A turn with a cold
    start has one request. cooldown: number of extra requests at the end of each turn, at the same load, so
    that all measured requests see the full load; for recorded arrivals it is the last ones. Their phase is
    "cooldown". In a steady closed turn, the first requests (one per concurrent request) have the phase
    "ramp", and as many at its end "drain".

    Raises ConfigError for less than one block.
    """
    if isinstance(blocks, bool) or not isinstance(blocks, int) or blocks < 1:
        raise ConfigError(f"blocks must be a number of at least 1, not {blocks!r}.", hint="blocks=30")
    turns: list[Turn] = []
    seq = 0
    for level, load in enumerate(loads):
        for b in range(blocks):
            block = level * blocks + b
            cells = [
                (contestant, kind, pause)
                for contestant in range(contestants)
                for kind in start_kinds
                for pause in idle
            ]
            random.Random(f"order {seed} {level} {b}").shuffle(cells)
            for order, (contestant, kind, pause) in enumerate(cells):
                shape = load if kind == "warm" else LoadShape("closed")
                extra = cooldown if kind == "warm" else 0
                rng = random.Random(f"arrivals {seed} {level} {b} {contestant} {kind} {pause}")
                offsets = shape.offsets(rng, extra)
                slots = tuple(
                    Slot(
                        seq + i,
                        (i if shape.aligned else b + i) % prompts,
                        at,
                        _phase(shape, i, len(offsets), extra),
                    )
                    for i, at in enumerate(offsets)
                )
                seq += len(slots)
                turns.append(
                    Turn(
                        len(turns),
                        level,
                        block,
                        order,
                        contestant,
                        "measure",
                        kind,
                        shape,
                        float(pause),
                        slots,
                    )
                )
    return tuple(turns)


def _phase(load: LoadShape, position: int, n: int, cooldown: int) -> str | None:
    edge = load.concurrency if load.steady and load.kind == "closed" else 0
    if position >= n - cooldown:
        return "cooldown"
    return "ramp" if position < edge else "drain" if position >= n - cooldown - edge else None


def unsteady_warning(loads: Sequence[LoadShape]) -> str:
    """A warning about loads that their turns are too short to reach; "" if there are none."""
    too_short = [
        x for x in loads if x.kind == "closed" and x.concurrency > 1 and x.per_turn < 4 * x.concurrency
    ]
    return "".join(
        f"per_turn={x.per_turn} is too small for a concurrency of {x.concurrency}: leave per_turn out for "
        f"{STEADY_FACTOR * x.concurrency}. "
        for x in too_short
    ).strip()


def is_stable(values: Sequence[float], *, k: int = 5, within: float = 0.1, limit: int = 30) -> bool:
    """Whether warm-up is over: the median of the last `k` times differs from that of the `k` before by at
    most `within`, and their median absolute deviation is at most twice that; or `limit` times are there."""
    if len(values) >= limit:
        return True
    if len(values) < 2 * k:
        return False
    previous, last = values[-2 * k : -k], values[-k:]
    middle = statistics.median(last)
    spread = statistics.median(abs(v - middle) for v in last)
    return (
        middle > 0
        and abs(middle - statistics.median(previous)) <= within * middle
        and spread <= 2 * within * middle
    )


@dataclass(frozen=True, slots=True)
class Budget:
    """Limits of a run, None for no limit: US dollars, tokens in and out, seconds, requests."""

    usd: float | None = None
    tokens: float | None = None
    seconds: float | None = None
    requests: float | None = None

    @classmethod
    def of(cls, limits: float | Mapping[str, float] | Budget | None) -> Budget:
        """From dollars, or a mapping of the fields' names. Raises ConfigError for other names and for values
        that are not above 0."""
        if isinstance(limits, Budget):
            return limits
        values = dict(limits) if isinstance(limits, Mapping) else {} if limits is None else {"usd": limits}
        names = [f.name for f in fields(cls)]
        for name, value in values.items():
            if (
                name not in names
                or isinstance(value, bool)
                or not isinstance(value, (int, float))
                or not value > 0
            ):
                raise ConfigError(
                    f"{name}={value!r} is not a valid budget.",
                    hint=f"Use budget=0.5 (dollars), or a mapping of {', '.join(names)}, each above 0.",
                )
        return cls(**values)

    def exhausted_limit(self, usd: float, tokens: float, seconds: float, requests: float) -> str | None:
        """A text that names the limit that these totals reach; None if there is none."""
        used = {"usd": usd, "tokens": tokens, "seconds": seconds, "requests": requests}
        for name, spent in used.items():
            limit = getattr(self, name)
            if limit is not None and spent >= limit:
                return (
                    f"the budget of "
                    f"{'$' if name == 'usd' else ''}{limit:g}{'' if name == 'usd' else ' ' + name} is used up"
                )
        return None
