"""The cost of a call and the context size of a model: from the user's own facts, else from the genai-prices
data package; None where neither has them.

genai-prices is maintained by the Pydantic team from the providers' price pages; it has context sizes, tiers
and cached input, and works offline. It is imported at the first priced answer, since it takes some 0.2 s and
imports pydantic.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping
from typing import Any, TypeGuard

from ..core.calls import ModelFacts, ProviderSpec
from ..core.events import Usage

# xAI reports ticks: its grok-2 answers of 13 + 16 tokens at $2 and $10 a million report 1,860,000.
_TICKS_PER_DOLLAR = 1e10

# The batch variant in the price data; without one, genai-prices returns the standard price.
_BATCH_VARIANT = {"processing": "batch"}


def cost(
    usage: Usage | None, model: str, provider: ProviderSpec | str, *, batch: bool = False
) -> float | None:
    """US dollars for `usage` of `model`: by the user's own prices, else the cost that the provider reports,
    else by the price data. None where the price is unknown or not a finite number, or where the answer ended
    before all of it was counted. provider: a row, or its name in the price data. batch: the answer came in a
    batch; the user's own prices are for calls, so they are not used for it."""
    if usage is None or usage.output_tokens is None:
        return None
    row = provider if isinstance(provider, ProviderSpec) else ProviderSpec("", "", "", price=provider)
    try:
        usd = _cost(usage, model, row, batch)
    except Exception:  # noqa: BLE001 - the answer is paid for: no invalid count or price may lose it
        return None
    return usd if usd is not None and math.isfinite(usd) else None


def _cost(usage: Usage, model: str, row: ProviderSpec, batch: bool) -> float | None:
    own, charged = row.facts.get(model), charged_cost(usage.raw)
    if own is not None and (own.input is not None or own.output is not None):
        return charged if batch else cost_by_facts(usage, own)
    return charged if charged is not None else _cost_by_data(usage, model, row.price, batch)


def charged_cost(raw: Mapping[str, Any]) -> float | None:
    """The cost that the provider reports, in US dollars: OpenRouter's cost (plus what the user's own key was
    charged), Perplexity's total_cost, xAI's ticks."""
    reported = raw.get("cost")
    if isinstance(reported, Mapping):
        reported = reported.get("total_cost")
    if _is_number(reported):
        details = raw.get("cost_details") if raw.get("is_byok") else None
        upstream = details.get("upstream_inference_cost") if isinstance(details, Mapping) else None
        return float(reported) + (float(upstream) if _is_number(upstream) else 0.0)
    ticks = raw.get("cost_in_usd_ticks")
    # resellers always send 0
    return float(ticks) / _TICKS_PER_DOLLAR if _is_number(ticks) and ticks else None


def _is_number(value: Any) -> TypeGuard[float]:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def cost_by_facts(usage: Usage, facts: ModelFacts) -> float | None:
    """Tokens times prices. Cached tokens are part of the input, and have the input's price where they have
    none of their own."""
    if (
        usage.input_tokens is None
        or usage.output_tokens is None
        or facts.input is None
        or (facts.output is None and usage.output_tokens)  # embeddings have neither output nor a price for it
    ):
        return None
    read, written = usage.cache_read_tokens or 0, usage.cache_write_tokens or 0
    read_price = facts.input if facts.cache_read is None else facts.cache_read
    write_price = facts.input if facts.cache_write is None else facts.cache_write
    uncached = max(0, usage.input_tokens - read - written)
    return (
        uncached * facts.input
        + read * read_price
        + written * write_price
        + usage.output_tokens * (facts.output or 0)
    ) / 1e6


def _cost_by_data(usage: Usage, model: str, price_provider: str, batch: bool) -> float | None:
    if usage.input_tokens is None or usage.output_tokens is None or not price_provider:
        return None
    from genai_prices import Usage as PricedUsage
    from genai_prices.data_snapshot import get_snapshot

    if not _is_known((snapshot := get_snapshot()).timestamp, model, price_provider):
        return None
    counted = PricedUsage(
        input_tokens=usage.input_tokens,
        output_tokens=usage.output_tokens,
        cache_read_tokens=usage.cache_read_tokens,
        cache_write_tokens=usage.cache_write_tokens,
    )
    try:
        priced = snapshot.calc(counted, model, price_provider, None, None, _BATCH_VARIANT if batch else None)
        variants = (v.when.get("processing") for v in priced.model.price_variants or ())
        return float(priced.total_price) if not batch or "batch" in variants else None
    except (LookupError, ValueError):
        return None  # the package raises these for unknown models and for counts it cannot price


@functools.lru_cache(1000)
def _is_known(_as_of: Any, model: str, price_provider: str) -> bool:
    """Whether the price data of this date have a model; cached, since they search all models for it."""
    from genai_prices.data_snapshot import get_snapshot

    try:
        get_snapshot().find_provider_model(model, None, price_provider, None)
    except LookupError:
        return False
    return True


def facts(model: str, row: ProviderSpec) -> ModelFacts:
    """The facts on a model: the user's own, each missing one from the price data. Prices in US dollars for a
    million tokens, the lowest tier's where there are tiers."""
    own, data = row.facts.get(model, ModelFacts()), _facts_by_data(model, row.price)
    return ModelFacts(
        *(
            value if (value := getattr(own, name)) is not None else getattr(data, name)
            for name in ModelFacts.__slots__
        )
    )


def _facts_by_data(model: str, price_provider: str) -> ModelFacts:
    if not price_provider:
        return ModelFacts()
    from datetime import UTC, datetime

    from genai_prices.data_snapshot import get_snapshot

    if not _is_known((snapshot := get_snapshot()).timestamp, model, price_provider):
        return ModelFacts()
    entry = snapshot.find_provider_model(model, None, price_provider, None)[1]
    prices = entry.get_prices(datetime.now(UTC))
    names = ("input_mtok", "output_mtok", "cache_read_mtok", "cache_write_mtok")
    return ModelFacts(entry.context_window, *(_lowest_price(getattr(prices, name, None)) for name in names))


def _lowest_price(price: Any) -> float | None:
    return None if price is None else float(getattr(price, "base", price))
