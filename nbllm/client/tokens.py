"""How many tokens a text is: counted by the provider, by a tokeniser on this machine, or estimated from its
length."""

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

_BYTES_PER_TOKEN = (
    4.0  # of UTF-8: English prose has 4 to 4.7, code 3 to 3.5, Chinese some 4, digits and hexadecimal 2 to 3
)
_ROUGH = 0.5  # so the estimate is off by half of the true count at most; it is never below what prose has
_OTHERS = 0.3  # one family's tokens counted by another's tokeniser


class TokenEstimate(NamedTuple):
    """Tokens in a text: how they were counted, and the largest relative error to be expected (0.0 for an
    exact count)."""

    tokens: int
    method: str
    bound: float


def estimate_tokens(client: Client, text: str, model: str = "auto") -> TokenEstimate:
    """How many tokens `text` is for `model`: by the provider's own counting where it has some and answers,
    else by tiktoken where that is installed with its data, else by the length of the text. Raises ConfigError
    for an unknown model."""
    route = client.resolve(model)
    counted = _by_provider(client, route, text)
    if counted is not None:
        return TokenEstimate(counted, f"counted by {route.provider.label or route.provider.name}", 0.0)
    encoding, ours = _encoding(route)
    if encoding is not None:
        return TokenEstimate(
            len(encoding.encode(text, disallowed_special=())),
            f"tiktoken {encoding.name}",
            0.0 if ours else _OTHERS,
        )
    size = len(text.encode("utf-8", "replace"))
    return TokenEstimate(max(1, round(size / _BYTES_PER_TOKEN)) if size else 0, "length in bytes / 4", _ROUGH)


def _by_provider(client: Client, route: Route, text: str) -> int | None:
    """The provider's count, None where it has none or does not answer. It counts a message with the text: a
    few tokens more."""
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
        said = client.run(get_json(client, row, make(call)))
    except errors.NbllmError:
        return None
    return count(said.get(field)) if isinstance(said, Mapping) else None


_DATA = "https://openaipublic.blob.core.windows.net/encodings/{}.tiktoken"


def _encoding(route: Route) -> tuple[Any, bool]:
    """(tiktoken's encoding for the model, whether it is the model's own); (None, False) where its data is not
    on this machine: nothing is downloaded for a count."""
    try:
        import tiktoken  # type: ignore[import-not-found,unused-ignore]

        own = route.provider.name.startswith(("openai", "azure")) or route.model.startswith("openai/")
        try:
            name = (
                tiktoken.encoding_name_for_model(route.model.removeprefix("openai/")) if own else "o200k_base"
            )
        except KeyError:
            name = "o200k_base"
        return (tiktoken.get_encoding(name), own) if _has_data(name) else (None, False)
    except Exception:  # noqa: BLE001 - an optional package that fails in any way is one that is not there
        return None, False


def _has_data(name: str) -> bool:
    """Whether tiktoken has the data of an encoding in its cache, which is named by the hash of its
    address."""
    import tempfile

    folder = (
        os.environ.get("TIKTOKEN_CACHE_DIR")
        or os.environ.get("DATA_GYM_CACHE_DIR")
        or str(Path(tempfile.gettempdir(), "data-gym-cache"))
    )
    return Path(
        folder, hashlib.sha1(_DATA.format(name).encode(), usedforsecurity=False).hexdigest()
    ).is_file()
