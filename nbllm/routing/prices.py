"""What a call costs and how much a model reads: the user's own facts, else the genai-prices data package;
None where neither knows.

genai-prices is kept by the Pydantic team from the providers' own price pages, has context sizes, tiers and
cached input, works offline and is typed. It is imported at the first priced answer: it takes some 0.2 s, and
pydantic with it.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping
from typing import Any, TypeGuard

from ..core.calls import ModelFacts, ProviderSpec
from ..core.events import Usage

_TICKS = (
    1e10  # xAI counts in ticks; its grok-2 answers of 13 + 16 tokens at $2 and $10 a million say 1,860,000
)

_BATCH = {
    "processing": "batch"
}  # in the price data; where it has no such variant, it would say the usual price


def cost(
    usage: Usage | None, model: str, provider: ProviderSpec | str, *, batch: bool = False
) -> float | None:
    """US dollars for `usage` of `model`: by the user's own prices, else what the provider says it charged,
    else by the price data. None where none of them knows, or where the answer ended before all of it was
    counted, or what they say is no amount. provider: a row, or its name in the price data. batch: the answer
    came in a batch; the user's own prices are those of calls, and a batch's is not guessed from them."""
    if usage is None or usage.output_tokens is None:
        return None
    row = provider if isinstance(provider, ProviderSpec) else ProviderSpec("", "", "", price=provider)
    try:
        found = _cost(usage, model, row, batch)
    except Exception:  # noqa: BLE001 - the answer is paid for: no odd count and no odd price may lose it
        return None
    return found if found is not None and math.isfinite(found) else None


def _cost(usage: Usage, model: str, row: ProviderSpec, batch: bool) -> float | None:
    own, said = row.facts.get(model), charged(usage.raw)
    if own is not None and (own.input is not None or own.output is not None):
        return said if batch else by_facts(usage, own)
    return said if said is not None else _by_data(usage, model, row.price, batch)


def charged(raw: Mapping[str, Any]) -> float | None:
    """What the provider itself says the answer cost, in US dollars: OpenRouter's cost (with what the key
    behind it paid), Perplexity's total_cost, xAI's ticks."""
    said = raw.get("cost")
    if isinstance(said, Mapping):
        said = said.get("total_cost")
    if _is_number(said):
        behind = raw.get("cost_details") if raw.get("is_byok") else None
        paid = behind.get("upstream_inference_cost") if isinstance(behind, Mapping) else None
        return float(said) + (float(paid) if _is_number(paid) else 0.0)
    ticks = raw.get("cost_in_usd_ticks")
    return (
        float(ticks) / _TICKS if _is_number(ticks) and ticks else None
    )  # resellers send 0 there, whatever they charge


def _is_number(value: Any) -> TypeGuard[float]:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def by_facts(usage: Usage, facts: ModelFacts) -> float | None:
    """Tokens times prices. Cached tokens are part of the input, and cost as such where they have no price of
    their own."""
    if (
        usage.input_tokens is None
        or usage.output_tokens is None
        or facts.input is None
        or (facts.output is None and usage.output_tokens)  # embeddings have no output, and no price for it
    ):
        return None
    read, written = usage.cache_read_tokens or 0, usage.cache_write_tokens or 0
    at_read = facts.input if facts.cache_read is None else facts.cache_read
    at_written = facts.input if facts.cache_write is None else facts.cache_write
    plain = max(0, usage.input_tokens - read - written)
    return (
        plain * facts.input
        + read * at_read
        + written * at_written
        + usage.output_tokens * (facts.output or 0)
    ) / 1e6


def _by_data(usage: Usage, model: str, price_provider: str, batch: bool) -> float | None:
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
        found = snapshot.calc(counted, model, price_provider, None, None, _BATCH if batch else None)
        variants = (v.when.get("processing") for v in found.model.price_variants or ())
        return float(found.total_price) if not batch or "batch" in variants else None
    except (LookupError, ValueError):
        return None  # the package raises these for a model it does not know and for counts it cannot price


@functools.lru_cache(1000)
def _is_known(_as_of: Any, model: str, price_provider: str) -> bool:
    """Whether the price data of this date have a model: that they do not takes them a look at each."""
    from genai_prices.data_snapshot import get_snapshot

    try:
        get_snapshot().find_provider_model(model, None, price_provider, None)
    except LookupError:
        return False
    return True


def facts(model: str, row: ProviderSpec) -> ModelFacts:
    """What is known of a model: the user's own facts, each missing one from the price data. Prices in US
    dollars for a million tokens, the lowest tier's where there are tiers."""
    own, data = row.facts.get(model, ModelFacts()), _data(model, row.price)
    return ModelFacts(
        *(
            mine if (mine := getattr(own, name)) is not None else getattr(data, name)
            for name in ModelFacts.__slots__
        )
    )


def _data(model: str, price_provider: str) -> ModelFacts:
    if not price_provider:
        return ModelFacts()
    from datetime import UTC, datetime

    from genai_prices.data_snapshot import get_snapshot

    if not _is_known((snapshot := get_snapshot()).timestamp, model, price_provider):
        return ModelFacts()
    found = snapshot.find_provider_model(model, None, price_provider, None)[1]
    prices = found.get_prices(datetime.now(UTC))
    names = ("input_mtok", "output_mtok", "cache_read_mtok", "cache_write_mtok")
    return ModelFacts(found.context_window, *(_base(getattr(prices, name, None)) for name in names))


def _base(price: Any) -> float | None:
    return None if price is None else float(getattr(price, "base", price))
