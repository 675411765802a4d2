"""The arguments of a tool call that Gemini streams as values at JSON paths (partialArgs)."""

from __future__ import annotations

import re
from itertools import pairwise
from typing import Any

from ._json import items, obj, string

_MAX_GAP = 64  # missing elements before a list index: a short path must not create 100,000 elements
# One step of a path: .name, [0], ['name'] or ["name"]; an index of at most five digits.
_STEP = re.compile(r"""\.([^.\[\]]+)|\[(\d{1,5})\]|\['((?:[^'\\]|\\.)*)'\]|\["((?:[^"\\]|\\.)*)"\]""")


class PartialArguments:
    """The arguments of one call, assembled from values at JSON paths such as `$.items[0].name`. A string may
    come in several pieces at one path."""

    def __init__(self) -> None:
        self._value: dict[str, Any] = {}
        self._open_strings: dict[str, list[str]] = {}  # by path, the pieces of an unfinished string

    @property
    def value(self) -> dict[str, Any]:
        """The arguments so far."""
        for path in list(self._open_strings):
            self._close_string(path)
        return self._value

    def add(self, call: dict[str, Any]) -> None:
        """Adds the values in one message about the call."""
        self._value.update(obj(call.get("args")))
        for piece in items(call.get("partialArgs")):
            path = string(piece.get("jsonPath"))
            value = next((v for k, v in piece.items() if k.endswith("Value") and k != "nullValue"), None)
            if isinstance(value, str) and path in self._open_strings:
                self._open_strings[path].append(value)
            else:
                self._set_at_path(_parse_path(path), value)
                self._open_strings[path] = [value] if isinstance(value, str) else []
            if piece.get("willContinue") is not True:
                self._close_string(path)

    def _close_string(self, path: str) -> None:
        """Joins the pieces of a string that is finished."""
        pieces = self._open_strings.pop(path)
        if len(pieces) > 1:
            self._set_at_path(_parse_path(path), "".join(pieces))

    def _set_at_path(self, steps: list[str | int], value: Any) -> None:
        if not steps:
            return
        holder: Any = self._value
        for step, following in pairwise(steps):
            child = _get_child(holder, step)
            if not isinstance(child, (dict, list)):
                child = [] if isinstance(following, int) else {}
                _set_child(holder, step, child)
            holder = child
        _set_child(holder, steps[-1], value)


def _parse_path(path: str) -> list[str | int]:
    """The steps of a path from the root `$`; [] for a path that cannot be parsed."""
    found = list(_STEP.finditer(path))
    if not path.startswith("$") or sum(m.end() - m.start() for m in found) != len(path) - 1:
        return []
    return [
        int(n) if n else a or re.sub(r"\\(.)", r"\1", b or c or "")
        for a, n, b, c in (m.groups() for m in found)
    ]


def _get_child(holder: Any, step: str | int) -> Any:
    if isinstance(holder, dict):
        return holder.get(str(step))
    return holder[step] if isinstance(step, int) and step < len(holder) else None


def _set_child(holder: Any, step: str | int, value: Any) -> None:
    if isinstance(holder, dict):
        holder[str(step)] = value
    elif isinstance(step, int) and step <= len(holder) + _MAX_GAP:
        holder.extend([None] * (step + 1 - len(holder)))
        holder[step] = value
