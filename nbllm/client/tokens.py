"""The number of tokens in a text: counted by the provider, by a tokeniser on this machine, or estimated from
its length."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from ..core import errors
from ..core.messages import Message, Request
from ..dialects._json import count
from ..routing.registry import Route
from .client import Client
from .provider_api import get_json

# Of UTF-8. English prose has 4 to 4.7, code 3 to 3.5, Chinese about 4, digits and hexadecimal 2 to 3.
_BYTES_PER_TOKEN = 4.0
# The largest relative errors: of the estimate by length, and of a count by another model family's tokeniser.
_ESTIMATE_BOUND, _OTHER_TOKENISER_BOUND = 0.5, 0.3


class TokenEstimate(NamedTuple):
    """The tokens in a text, how they were counted, and the largest relative error to expect (0.0 for an exact
    count)."""

    tokens: int
    method: str
    bound: float


def estimate_tokens(client: Client, text: str, model: str = "auto") -> TokenEstimate:
    """Counts the tokens of `text` for `model`: by the provider's API where it has one and answers, else by
    tiktoken where that is installed with its data, else by the length of the text. Raises ConfigError for an
    unknown model."""
    route = client.resolve(model)
    counted = _count_by_provider(client, route, text)
    if counted is not None:
        return TokenEstimate(counted, f"counted by {route.provider.label or route.provider.name}", 0.0)
    encoding, is_exact = _encoding(route)
    if encoding is not None:
        return TokenEstimate(
            len(encoding.encode(text, disallowed_special=())),
            f"tiktoken {encoding.name}",
            0.0 if is_exact else _OTHER_TOKENISER_BOUND,
        )
    size = len(text.encode("utf-8", "replace"))
    return TokenEstimate(
        max(1, round(size / _BYTES_PER_TOKEN)) if size else 0, "length in bytes / 4", _ESTIMATE_BOUND
    )


def _count_by_provider(client: Client, route: Route, text: str) -> int | None:
    """The provider's count; None where it has no API for it or does not answer. It counts a message with the
    text, which is a few tokens more."""
    row, dialects = route.provider, client.registry.dialects
    counting = dialects[row.dialect].counting if row.dialect in dialects else None
    if counting is None or not text or route.problem:
        return None
    key = client.registry.key_for(route, None)
    if key is None and not row.local:
        return None
    make, field = counting
    call: Any = client.encode(Request(route.model, (Message("user", text),)), route, key)
    try:
        value = client.run(get_json(client, row, make(call)))
    except errors.NbllmError:
        return None
    return count(value.get(field)) if isinstance(value, Mapping) else None


_DATA = "https://openaipublic.blob.core.windows.net/encodings/{}.tiktoken"


def _encoding(route: Route) -> tuple[Any, bool]:
    """(tiktoken's encoding for the model, whether it is the model's own); (None, False) where its data is not
    on this machine, since nothing is downloaded for a count."""
    try:
        import tiktoken  # type: ignore[import-not-found,unused-ignore]

        is_openai = route.provider.name.startswith(("openai", "azure")) or route.model.startswith("openai/")
        try:
            name = (
                tiktoken.encoding_name_for_model(route.model.removeprefix("openai/"))
                if is_openai
                else "o200k_base"
            )
        except KeyError:
            name = "o200k_base"
        return (tiktoken.get_encoding(name), is_openai) if _has_data(name) else (None, False)
    except Exception:  # noqa: BLE001 - an optional package that fails counts as missing
        return None, False


def _has_data(name: str) -> bool:
    """Whether tiktoken's cache holds the data of an encoding, in a file named by the hash of its URL."""
    import tempfile

    folder = (
        os.environ.get("TIKTOKEN_CACHE_DIR")
        or os.environ.get("DATA_GYM_CACHE_DIR")
        or str(Path(tempfile.gettempdir(), "data-gym-cache"))
    )
    return Path(
        folder, hashlib.sha1(_DATA.format(name).encode(), usedforsecurity=False).hexdigest()
    ).is_file()
