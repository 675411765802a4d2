"""Which of the models that the user named is asked first: cheap(a|b), fast(a|b). The others follow where
it fails, as in a|b.

Prices are those of the price data or the user's own; times are what the ledger has seen here, not what
others say. What is not known is never guessed: a model without a price comes last, one that has not
been asked within a day comes first, once, so that it is known."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from datetime import datetime
from typing import Any

from ..routing import prices
from ..routing.registry import Route

_WRITTEN = re.compile(r"(cheap|fast)\(([^()]*)\)")
_DAY = 86_400.0  # seconds for which a time is worth something
_LAST = 50  # calls of a model that count
_READ, _MADE = 1_000.0, 300.0  # tokens of a call, where none is known

Rows = Sequence[Mapping[str, Any]]


def parse_choice(model: str) -> tuple[str, str] | None:
    """(cheap or fast, the names in its brackets), None for another model's name."""
    found = _WRITTEN.fullmatch(model.strip())
    return (found[1], found[2]) if found else None


def usual(rows: Rows) -> tuple[float, float]:
    """Tokens that a call reads and writes, in the median of these rows."""
    from statistics import median  # with fractions and decimals

    read, made = ([n for r in rows if (n := r.get(name))] for name in ("in_tokens", "out_tokens"))
    return (median(read) if read else _READ), (median(made) if made else _MADE)


def cheapest(routes: Sequence[Route], rows: Rows) -> tuple[list[Route], str]:
    """(in order of their price, why the first one is), for a call of usual length."""
    read, made = usual(rows)

    def price(route: Route) -> float | None:
        if route.simulated:
            return 0.0
        known = prices.facts(route.model, route.provider)
        if known.input is None or known.output is None:
            return 0.0 if route.provider.local else None
        return (read * known.input + made * known.output) / 1e6

    return _in_order(routes, price, _dollars, last="has no known price")


def fastest(routes: Sequence[Route], rows: Rows, now: float) -> tuple[list[Route], str]:
    """(in order of the time that they took, why the first one is), for an answer of usual length. now:
    seconds since 1970."""
    from statistics import median

    recent = [r for r in rows if r.get("ok") and r.get("ttft_ms") is not None and now - _at(r) <= _DAY]
    made = usual(recent)[1]

    def seconds(route: Route) -> float | None:
        own = [r for r in recent if (r["provider"], r["model"]) == (route.provider.name, route.name)]
        times = [r["ttft_ms"] + made * (r.get("tpot_ms") or 0.0) for r in own[-_LAST:]]
        return median(times) / 1e3 if times else None

    return _in_order(routes, seconds, lambda s: f"{s:.2g} s", first="was not asked within a day")


def _in_order(
    routes: Sequence[Route],
    value: Callable[[Route], float | None],
    shown: Callable[[float], str],
    *,
    first: str = "",
    last: str = "",
) -> tuple[list[Route], str]:
    """By their values; those without one come first, or last, for that reason."""
    found = [(route, value(route)) for route in routes]
    unknown = [(r, v) for r, v in found if v is None]
    known = sorted(((r, v) for r, v in found if v is not None), key=lambda pair: pair[1])
    there = [*unknown, *known] if first else [*known, *unknown]

    def said(v: float | None) -> str:
        return first or last if v is None else shown(v)

    others = ", ".join(f"{r.name} {said(v)}" for r, v in there[1:])
    why = said(there[0][1]) + (f" ({others})" if others else "")
    return [r for r, _ in there], why


def _dollars(usd: float) -> str:
    return "free" if not usd else f"${usd:.2g} a call" if usd >= 1e-4 else f"${usd:.7f} a call"


def _at(row: Mapping[str, Any]) -> float:
    try:
        return datetime.fromisoformat(str(row.get("t_wall"))).timestamp()
    except ValueError:
        return 0.0


def choose_route(
    word: str, routes: Sequence[Route], rows: Callable[[], Iterable[Mapping[str, Any]]]
) -> Route:
    """The route that comes first, with the others behind it. rows: what the ledger knows of the last day."""
    known = list(rows())
    chosen, why = cheapest(routes, known) if word == "cheap" else fastest(routes, known, time.time())
    first, *others = chosen
    return replace(first, fallbacks=tuple(others), chosen_by=word, why=why)
