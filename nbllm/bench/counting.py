"""Token counting where a server reports none: a tiktoken encoding, a tokenizer file, or a function.

A user's function lives in the notebook process and the answers in the worker, so the worker sends the texts
of an answer and receives their counts.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence, Sized
from pathlib import Path
from typing import Any

from ..core.errors import ConfigError
from ..core.extras import require_packages

# Texts to their numbers of tokens; None where they could not be counted.
TokenCounter = Callable[[Sequence[str]], Sequence[int] | None]
_ACCEPTED = (
    'A name of tiktoken\'s ("o200k_base"), the path of a Hugging Face tokenizer.json, a tokenizer, or a '
    "function of a text."
)


def token_counter(value: Any) -> TokenCounter | None:
    """A function that counts tokens: by a tiktoken encoding's name, a tokenizer.json or its folder, a
    tokenizer with `encode`, or a function from a text to a number or a list of tokens. None for None.

    Raises ConfigError, before anything costs money, where it does not work.
    """
    if value is None:
        return None
    try:
        count = _count_function(_load_tokenizer(value) if isinstance(value, (str, os.PathLike)) else value)
        counted = count("One, two, three.")
        if isinstance(counted, bool) or counted < 1:
            raise TypeError(f"{counted!r} tokens for a text of three words")
    except ConfigError:
        raise
    except Exception as exc:  # noqa: BLE001 - a user's function or a third-party package
        raise ConfigError(f"The tokenizer does not count: {exc}.", hint=_ACCEPTED) from None
    return lambda texts: [count(text) for text in texts]


def _load_tokenizer(name: str | os.PathLike[str]) -> Any:
    path = Path(name)
    path = path / "tokenizer.json" if path.is_dir() else path
    if path.suffix == ".json":
        require_packages("A tokenizer's file", "tokens", "tokenizers")
        from tokenizers import Tokenizer

        return Tokenizer.from_file(str(path))
    require_packages(f"tokenizer={os.fspath(name)!r}", "tokens", "tiktoken")
    import tiktoken

    is_encoding = os.fspath(name) in tiktoken.list_encoding_names()
    return (tiktoken.get_encoding if is_encoding else tiktoken.encoding_for_model)(os.fspath(name))


def _count_function(tokenizer: Any) -> Callable[[str], int]:
    """Counts a text's own tokens, without special tokens at its start or end."""
    if hasattr(tokenizer, "encode_ordinary"):  # tiktoken
        return lambda text: len(tokenizer.encode_ordinary(text))
    if hasattr(tokenizer, "encode"):  # transformers: calling it gives a dict, whose length is another
        return lambda text: len(tokenizer.encode(text, add_special_tokens=False))
    if not callable(tokenizer):
        raise TypeError(f"{type(tokenizer).__name__} is not a tokenizer")
    return lambda text: to_count(tokenizer(text))


def to_count(tokens: int | Sized) -> int:
    """The result of a tokenizer function, a count or a list of tokens, as a count."""
    return len(tokens) if isinstance(tokens, Sized) else int(tokens)
