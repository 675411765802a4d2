"""What a call costs, from the genai-prices data package; None where the price is not known.

The package is imported at the first priced answer: it takes some 0.2 s, and pydantic with it.
"""

from __future__ import annotations

from .events import Usage


def cost(usage: Usage | None, model: str, price_provider: str) -> float | None:
    """US dollars for `usage` of `model`, None where the provider or the model is not in the data."""
    if usage is None or usage.input_tokens is None or usage.output_tokens is None or not price_provider:
        return None
    from genai_prices import Usage as PricedUsage
    from genai_prices import calc_price

    counted = PricedUsage(
        input_tokens=usage.input_tokens,
        output_tokens=usage.output_tokens,
        cache_read_tokens=usage.cache_read_tokens,
        cache_write_tokens=usage.cache_write_tokens,
    )
    try:
        return float(calc_price(counted, model_ref=model, provider_id=price_provider).total_price)
    except (LookupError, ValueError):
        return None  # the package raises these for a model it does not know and for counts it cannot price
