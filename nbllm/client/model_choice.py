"""The order of the models in cheap(a|b) and fast(a|b); the later ones are the failover of the first, as in
a|b.

Prices come from the price data or the user's configuration; times from the ledger's own measurements. Nothing
is guessed: a model without a price comes last; one without a call in the last day comes first, once, so that
its time is measured."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from datetime import datetime
from typing import Any

from ..routing import prices
from ..routing.registry import Route
from ..store.ledger import Ledger

_CHOICE = re.compile(r"(cheap|fast)\(([^()]*)\)")
_DAY = 86_400.0  # seconds for which a measured time counts
_LAST = 50  # calls of a model that count
_READ, _WRITTEN = 1_000.0, 300.0  # assumed tokens of a call where none is known

Rows = Sequence[Mapping[str, Any]]


def parse_choice(model: str) -> tuple[str, str] | None:
    """("cheap" or "fast", the names in its brackets); None for other model names."""
    match = _CHOICE.fullmatch(model.strip())
    return (match[1], match[2]) if match else None


def median_tokens(rows: Rows) -> tuple[float, float]:
    """The median tokens that the calls in these rows read and wrote."""
    from statistics import median  # with fractions and decimals

    read, written = ([n for r in rows if (n := r.get(name))] for name in ("in_tokens", "out_tokens"))
    return (median(read) if read else _READ), (median(written) if written else _WRITTEN)


def sort_by_price(routes: Sequence[Route], rows: Rows) -> tuple[list[Route], str]:
    """(the routes by price, the reason for the first), for a call of median length."""
    read, written = median_tokens(rows)

    def price(route: Route) -> float | None:
        if route.simulated:
            return 0.0
        known = prices.facts(route.model, route.provider)
        if known.input is None or known.output is None:
            return 0.0 if route.provider.local else None
        return (read * known.input + written * known.output) / 1e6

    return _sort_routes(routes, price, _format_price, last="has no known price")


def sort_by_time(routes: Sequence[Route], rows: Rows, now: float) -> tuple[list[Route], str]:
    """(the routes by measured time, the reason for the first), for an answer of median length. now: seconds
    since 1970."""
    from statistics import median

    recent = [r for r in rows if r.get("ok") and r.get("ttft_ms") is not None and now - _called_at(r) <= _DAY]
    written = median_tokens(recent)[1]

    def seconds(route: Route) -> float | None:
        times_here = [r for r in recent if (r["provider"], r["model"]) == (route.provider.name, route.name)]
        times = [r["ttft_ms"] + written * (r.get("tpot_ms") or 0.0) for r in times_here[-_LAST:]]
        return median(times) / 1e3 if times else None

    return _sort_routes(routes, seconds, lambda s: f"{s:.2g} s", first="was not used within a day")


def _sort_routes(
    routes: Sequence[Route],
    value: Callable[[Route], float | None],
    format_value: Callable[[float], str],
    *,
    first: str = "",
    last: str = "",
) -> tuple[list[Route], str]:
    """The routes by their values; those without one come first or last, for the reason given."""
    pairs = [(route, value(route)) for route in routes]
    unknown = [(r, v) for r, v in pairs if v is None]
    known = sorted(((r, v) for r, v in pairs if v is not None), key=lambda pair: pair[1])
    ordered = [*unknown, *known] if first else [*known, *unknown]

    def describe(v: float | None) -> str:
        return first or last if v is None else format_value(v)

    others = ", ".join(f"{r.name} {describe(v)}" for r, v in ordered[1:])
    why = describe(ordered[0][1]) + (f" ({others})" if others else "")
    return [r for r, _ in ordered], why


def _format_price(usd: float) -> str:
    return "free" if not usd else f"${usd:.2g} a call" if usd >= 1e-4 else f"${usd:.7f} a call"


def _called_at(row: Mapping[str, Any]) -> float:
    try:
        return datetime.fromisoformat(str(row.get("t_wall"))).timestamp()
    except ValueError:
        return 0.0


def choose_route(word: str, routes: Sequence[Route], ledger: Ledger | None) -> Route:
    """The first route, with the others as its failover. ledger: has the measured calls of the last day."""
    rows: Rows = [] if ledger is None else ledger.last_day()
    ordered, why = sort_by_price(routes, rows) if word == "cheap" else sort_by_time(routes, rows, time.time())
    first, *others = ordered
    return replace(first, fallbacks=tuple(others), chosen_by=word, why=why)
