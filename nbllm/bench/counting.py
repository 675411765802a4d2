"""Who counts tokens where a server does not: one of tiktoken's encodings, a tokenizer's file, or a function.

A function of the user's lives in the notebook and the answers in the worker, so the worker asks: it hands
over the texts of an answer and gets their counts.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence, Sized
from pathlib import Path
from typing import Any

from ..core.errors import ConfigError
from ..core.extras import require_packages

# The number of tokens of each text; None where nobody could count.
TokenCounter = Callable[[Sequence[str]], Sequence[int] | None]
_ACCEPTED = (
    'A name of tiktoken\'s ("o200k_base"), the path of a Hugging Face tokenizer.json, a tokenizer, or a '
    "function of a text."
)


def token_counter(given: Any) -> TokenCounter | None:
    """What counts as `given` says: a name of tiktoken's, a tokenizer.json or its folder, a tokenizer with
    `encode`, or a function of a text that gives a number or a list of tokens. None for None.

    Raises ConfigError, before anything is paid for, where it cannot count.
    """
    if given is None:
        return None
    try:
        count = _count_function(_load_tokenizer(given) if isinstance(given, (str, os.PathLike)) else given)
        counted = count("One, two, three.")
        if isinstance(counted, bool) or counted < 1:
            raise TypeError(f"{counted!r} tokens for a text of three words")
    except ConfigError:
        raise
    except Exception as exc:  # noqa: BLE001 - a user's function, or a package of others
        raise ConfigError(f"The tokenizer does not count: {exc}.", hint=_ACCEPTED) from None
    return lambda texts: [count(text) for text in texts]


def _load_tokenizer(name: str | os.PathLike[str]) -> Any:
    place = Path(name)
    place = place / "tokenizer.json" if place.is_dir() else place
    if place.suffix == ".json":
        require_packages("A tokenizer's file", "tokens", "tokenizers")
        from tokenizers import Tokenizer

        return Tokenizer.from_file(str(place))
    require_packages(f"tokenizer={os.fspath(name)!r}", "tokens", "tiktoken")
    import tiktoken

    known = os.fspath(name) in tiktoken.list_encoding_names()
    return (tiktoken.get_encoding if known else tiktoken.encoding_for_model)(os.fspath(name))


def _count_function(found: Any) -> Callable[[str], int]:
    """Its own tokens alone: none that begin or end a text."""
    if hasattr(found, "encode_ordinary"):  # tiktoken
        return lambda text: len(found.encode_ordinary(text))
    if hasattr(
        found, "encode"
    ):  # calling one of transformers gives a dict of arrays, whose length is another
        return lambda text: len(found.encode(text, add_special_tokens=False))
    if not callable(found):
        raise TypeError(f"{type(found).__name__} is none")
    return lambda text: _to_count(found(text))


def _to_count(counted: int | Sized) -> int:
    return len(counted) if isinstance(counted, Sized) else int(counted)
