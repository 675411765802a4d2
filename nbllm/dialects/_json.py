"""Lenient JSON reading for all dialects: values of a wrong type count as missing."""

from __future__ import annotations

import json
from collections.abc import Hashable, Iterator
from typing import Any

import msgspec

from ..core.errors import ProtocolError
from ..core.events import DEPTH_LIMIT, is_too_deep

_MAX_DIGITS = 400  # of an integer, longer ones become floats; Python refuses to read 4,300

_decode = msgspec.json.Decoder().decode


def load_json(text: str | bytes) -> Any:
    """The value in `text`. Lone surrogates, NaN and very long integers, which msgspec refuses, are read by
    Python's own parser.

    Raises ProtocolError for text that is not JSON (with an excerpt), or nested too deeply.
    """
    try:
        value = _decode(text)
    except (msgspec.DecodeError, UnicodeError, RecursionError):
        value = _loads(text)
    if len(text) > 2 * DEPTH_LIMIT and is_too_deep(value):  # a level takes at least two characters
        raise ProtocolError("The provider sent a value that is nested too deeply.", hint="Ask again.")
    return value


def _loads(text: str | bytes) -> Any:
    try:
        return json.loads(text, parse_int=lambda n: int(n) if len(n) <= _MAX_DIGITS else float(n))
    except (ValueError, RecursionError):
        excerpt = text[:200] if isinstance(text, str) else text[:200].decode("utf-8", "replace")
        raise ProtocolError(
            f"Expected JSON from the provider, got {excerpt!r}.",
            hint="Check that base_url and dialect belong together: another server may be answering.",
        ) from None


def count(value: Any) -> int | None:
    """`value` as a token count; None for booleans, strings, negative numbers and all else."""
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value < 2**63:
        return None
    return int(value)


def obj(value: Any) -> dict[str, Any]:
    """`value` if it is an object, else an empty one: to walk through fields that may be null or missing."""
    return value if isinstance(value, dict) else {}


def items(value: Any) -> Iterator[dict[str, Any]]:
    """The objects in a list that may be null, missing or of mixed content."""
    return (v for v in value if isinstance(v, dict)) if isinstance(value, list) else iter(())


def string(value: Any) -> str:
    """`value` if it is a string, else ""."""
    return value if isinstance(value, str) else ""


def label(value: Any) -> str | None:
    """A name or id as a string. Numbers (0 too) are converted; empty strings, null and all else give None."""
    if isinstance(value, bool) or value is None or value == "":
        return None
    return str(value) if isinstance(value, (str, int, float)) else None


class SurrogateJoiner:
    """Joins characters that a provider split between two pieces of text: a surrogate half waits in `pending`
    for the next piece of the same `key`; one that stays alone becomes U+FFFD, so that every text can be
    encoded as UTF-8."""

    __slots__ = ("pending",)

    def __init__(self) -> None:
        self.pending: dict[Hashable, str] = {}

    def join(self, key: Hashable, text: str) -> str:
        """The part of `text` that is complete, with the pending half before it."""
        if text.isascii() and not self.pending:
            return text
        text = self.pending.pop(key, "") + text
        try:
            text.encode()
        except UnicodeEncodeError:
            if "\ud800" <= text[-1] <= "\udbff":
                self.pending[key], text = text[-1], text[:-1]
            return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
        return text
