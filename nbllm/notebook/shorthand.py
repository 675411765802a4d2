"""The short form of a schema: `name, age int, tags list, note? : one sentence` becomes a JSON schema."""

from __future__ import annotations

import re
from typing import Any

from ..errors import ConfigError

_WORDS = {"string": ("str", "string", "text"), "integer": ("int", "integer"), "number": ("float", "number"), "boolean": ("bool", "boolean")}
_TYPES: dict[str, dict[str, Any]] = {
    **{word: {"type": name} for name, words in _WORDS.items() for word in words},
    "date": {"type": "string", "format": "date"},
    "list": {"type": "array", "items": {"type": "string"}},
}
_FIELD = re.compile(r"(?P<name>[A-Za-z_]\w*)(?P<optional>\?)?(?:\s+(?P<type>[a-z]+)(?:\[(?P<item>[a-z]+)\])?(?P<optional2>\?)?)?(?:\s*:\s*(?P<about>.+))?")


def schema(text: str) -> dict[str, Any]:
    """A closed JSON schema of an object with the fields in `text`, which are separated by commas or line ends.

    A field is `name`, then a type (str, int, float, bool, date, list, list[type]; str where there is none), `?` where
    it may be null, and `: a description`. Every field is required, as strict modes want it. Raises ConfigError.
    """
    pieces = [p.strip() for p in re.split(r"[,\n]", text) if p.strip()]
    if not pieces:
        raise ConfigError("The schema is empty.", hint='Write fields such as schema="name, age int".')
    fields = dict(_field(p) for p in pieces)
    return {"type": "object", "properties": fields, "required": list(fields), "additionalProperties": False}


def _field(piece: str) -> tuple[str, dict[str, Any]]:
    match = _FIELD.fullmatch(piece)
    if not match:
        raise ConfigError(f"Not a field of a schema: {piece!r}.", hint="A field is `name`, `name type` or `name type: description`.")
    made = _type(match["type"] or "str", match["item"], piece)
    if match["optional"] or match["optional2"]:
        made = {**made, "type": [made["type"], "null"]}
    return match["name"], {**made, "description": match["about"]} if match["about"] else made


def _type(word: str, item: str | None, piece: str) -> dict[str, Any]:
    for name in (word, item):
        if name is not None and name not in _TYPES:
            raise ConfigError(f"Unknown type {name!r} in {piece!r}.", hint=f"Types are {', '.join(_TYPES)}, list[type].")
    return {"type": "array", "items": dict(_TYPES[item])} if item else dict(_TYPES[word])
