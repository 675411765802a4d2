"""The short way for the chunks that nearly all are: those that hold a piece of text, or of a thought, and
nothing else that means anything. They are decoded into typed structs; what does not fit goes the long way.

A struct names every field that the long way looks at; one that must not be there has no value but null.
Fields that it does not name, nobody looks at.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import msgspec

from ..core.calls import Frame
from ..core.events import DEPTH_LIMIT, Item

_LONGEST = 2 * DEPTH_LIMIT  # characters of a chunk that cannot be nested too deeply
_MAX_MISSES = (
    20  # chunks in a row that do not fit: a provider with other habits, who need not be tried further
)
# In any object they may mean an error (see _decoder.failure), and in one that has no other sign of an answer.
ERROR_FIELDS = ("error", "base_resp", "success")
ERROR_TEXT_FIELDS = ("detail", "errors", "msg", "error_msg", "error_message", "errorMessage")


def define_struct(name: str, *must_be_absent: Iterable[str], **fields: Any) -> Any:
    """A struct of these fields, each of which may be missing, and of those that must not be there."""
    return msgspec.defstruct(
        name,
        [
            *((field, kind | None, None) for field, kind in fields.items()),
            *((field, None, None) for names in must_be_absent for field in names),
        ],
        gc=False,
    )


class FastReader:
    """Reads usual chunks of one kind. item: what one holds; None where it is not usual after all."""

    __slots__ = ("_decode", "_item", "_misses", "_names")

    def __init__(self, kind: Any, item: Callable[[Any], Item | None], *names: str) -> None:
        self._decode, self._item, self._names = msgspec.json.Decoder(kind).decode, item, ("", *names)
        self._misses = 0

    def read(self, frames: list[Frame], place: int) -> list[Item]:
        """See core.calls.Usual."""
        found: list[Item] = []
        if self._misses > _MAX_MISSES:
            return found
        decode, read, names = self._decode, self._item, self._names
        try:
            for n in range(place, len(frames)):
                data, name, _, _, _ = frames[n]
                if name not in names or len(data) > _LONGEST or (item := read(decode(data))) is None:
                    break
                found.append(item)
        except (msgspec.DecodeError, UnicodeError, RecursionError):
            pass
        self._misses = 0 if found else self._misses + 1
        return found
