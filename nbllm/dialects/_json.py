"""What every dialect needs to read JSON that may be odd."""

from __future__ import annotations

import json
from collections.abc import Hashable, Iterator
from typing import Any

import msgspec

from ..core.errors import ProtocolError
from ..core.events import DEPTH_LIMIT, is_too_deep

_DIGITS = 400  # of an integer; Python refuses to read 4,300

_decode = msgspec.json.Decoder().decode


def load_json(text: str | bytes) -> Any:
    """The value in `text`. Lone surrogates, NaN and endless integers, which msgspec refuses, are read as
    Python does.

    Raises ProtocolError with an excerpt where it is no JSON at all, or nested too deeply.
    """
    try:
        value = _decode(text)
    except (msgspec.DecodeError, UnicodeError, RecursionError):
        value = _loads(text)
    if len(text) > 2 * DEPTH_LIMIT and is_too_deep(value):  # a level takes two characters at least
        raise ProtocolError("The provider sent a value that is nested too deeply.", hint="Ask again.")
    return value


def _loads(text: str | bytes) -> Any:
    try:
        return json.loads(text, parse_int=lambda n: int(n) if len(n) <= _DIGITS else float(n))
    except (ValueError, RecursionError):
        excerpt = text[:200] if isinstance(text, str) else text[:200].decode("utf-8", "replace")
        raise ProtocolError(
            f"Expected JSON from the provider, got {excerpt!r}.",
            hint="Check that base_url and dialect belong together: another server may be answering.",
        ) from None


def count(value: Any) -> int | None:
    """A token count, None where `value` is none (booleans, strings and negatives are none)."""
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value < 2**63:
        return None
    return int(value)


def obj(value: Any) -> dict[str, Any]:
    """`value` where it is an object, else an empty one: for walking through what may be null or missing."""
    return value if isinstance(value, dict) else {}


def items(value: Any) -> Iterator[dict[str, Any]]:
    """The objects in a list that may be null, missing or of mixed content."""
    return (v for v in value if isinstance(v, dict)) if isinstance(value, list) else iter(())


def string(value: Any) -> str:
    """`value` where it is a string, else ""."""
    return value if isinstance(value, str) else ""


def label(value: Any) -> str | None:
    """A name or id as a string: numbers count (0 too), empty strings and null do not."""
    if isinstance(value, bool) or value is None or value == "":
        return None
    return str(value) if isinstance(value, (str, int, float)) else None


class SurrogateJoiner:
    """Joins characters that a provider cut in two: a surrogate half waits for the next piece of the same
    `key`, and one that stays alone becomes U+FFFD, so that no text of ours is unfit for UTF-8."""

    __slots__ = ("pending",)

    def __init__(self) -> None:
        self.pending: dict[Hashable, str] = {}

    def join(self, key: Hashable, text: str) -> str:
        """What of `text` can be shown by now."""
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
