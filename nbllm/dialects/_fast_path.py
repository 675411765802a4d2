"""The fast path for almost all chunks: those with a piece of text or of thinking and nothing else of meaning.
They are decoded into typed structs; any other chunk takes the slow path, `BaseDecoder.feed`.

A struct lists every field that the slow path reads. A field that must be absent allows no value but null;
fields that no struct lists are not read on either path.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import msgspec

from ..core.calls import Frame
from ..core.events import DEPTH_LIMIT, Item

_LONGEST = 2 * DEPTH_LIMIT  # characters of a chunk that cannot be nested too deeply
_MAX_MISSES = 20  # chunks in a row that do not fit, after which the fast path is no longer tried
# Fields that may mean an error (see _decoder.find_error): in any object, and in one without an answer.
ERROR_FIELDS = ("error", "base_resp", "success")
ERROR_TEXT_FIELDS = ("detail", "errors", "msg", "error_msg", "error_message", "errorMessage")


def define_struct(name: str, *must_be_absent: Iterable[str], **fields: Any) -> Any:
    """A struct type with these fields, each of which may be missing, and with those that must be absent."""
    return msgspec.defstruct(
        name,
        [
            *((field, kind | None, None) for field, kind in fields.items()),
            *((field, None, None) for names in must_be_absent for field in names),
        ],
        gc=False,
    )


class FastReader:
    """Reads consecutive simple chunks of one type. item: returns the text or thinking in a decoded chunk, or
    None if it must take the slow path. names: of the events with such chunks, beside unnamed ones."""

    __slots__ = ("_decode", "_item", "_misses", "_names")

    def __init__(self, kind: Any, item: Callable[[Any], Item | None], *names: str) -> None:
        self._decode, self._item, self._names = msgspec.json.Decoder(kind).decode, item, ("", *names)
        self._misses = 0

    def read(self, frames: list[Frame], start: int) -> list[Item]:
        """See core.calls.FastRead."""
        found: list[Item] = []
        if self._misses > _MAX_MISSES:
            return found
        decode, read, names = self._decode, self._item, self._names
        try:
            for n in range(start, len(frames)):
                data, name, _, _, _ = frames[n]
                if name not in names or len(data) > _LONGEST or (item := read(decode(data))) is None:
                    break
                found.append(item)
        except (msgspec.DecodeError, UnicodeError, RecursionError):
            pass
        self._misses = 0 if found else self._misses + 1
        return found
