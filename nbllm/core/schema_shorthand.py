"""The short form of a schema: `name, age int, tags list, note? : one sentence` becomes a JSON schema."""

from __future__ import annotations

import re
from typing import Any

from .errors import ConfigError

_WORDS = {
    "string": ("str", "string", "text"),
    "integer": ("int", "integer"),
    "number": ("float", "number"),
    "boolean": ("bool", "boolean"),
    "object": ("object", "dict"),
}
_TYPES: dict[str, dict[str, Any]] = {
    **{word: {"type": name} for name, words in _WORDS.items() for word in words},
    "date": {"type": "string", "format": "date"},
    "list": {"type": "array", "items": {"type": "string"}},
}
# `name: str` as Python writes it; what else stands behind a colon describes
_PYTHONS = rf"^(\w+\??)\s*:\s*(?=(?:{'|'.join(_TYPES)})(?:\[\w+\])?\s*\??\s*(?::|$))"
_DEEPEST = 8
_FIELD = (
    r"(?P<name>[^\W\d]\w*)(?P<optional>\?)?"
    r"(?:\s+(?P<type>[a-z]+)(?:\[(?P<item>[a-z]+)\])?\s*(?P<optional2>\?)?)?(?:\s*:\s*(?P<about>.+))?"
)


def schema(text: str, *, depth: int = 0) -> dict[str, Any]:
    """A closed JSON schema of an object with the fields in `text`, which are separated by commas or line
    ends.

    A field is `name`, then a type, behind a colon or not (str, int, float, bool, date, object, list,
    list[type]; str where there is none), `?` where it may be null, and `: a description`, which cannot hold
    a comma. Every field is required, as strict modes want it. Fields in brackets, `[name, age int]`, mean a
    list of such records; it stands under the one field `items`, since providers want an object at the root.
    Raises ConfigError.
    """
    text = text.strip()
    if text.startswith("[") and text.endswith("]"):
        if depth == _DEEPEST:
            raise ConfigError(
                "The schema is nested too deep.", hint='Write a list of records as schema="[name, age int]".'
            )
        return _object({"items": {"type": "array", "items": schema(text[1:-1], depth=depth + 1)}})
    pieces = [re.sub(_PYTHONS, r"\1 ", " ".join(p.split())) for p in re.split(r"[,\n]", text) if p.strip()]
    if not pieces:
        raise ConfigError("The schema is empty.", hint='Write fields such as schema="name, age int".')
    fields: dict[str, Any] = {}
    for name, made in map(_field, pieces):
        if name in fields:
            raise ConfigError(
                f"The schema has two fields {name!r}.",
                hint="A description cannot hold a comma; each field has its own name.",
            )
        fields[name] = made
    return _object(fields)


def _object(fields: dict[str, Any]) -> dict[str, Any]:
    return {"type": "object", "properties": fields, "required": list(fields), "additionalProperties": False}


def _field(piece: str) -> tuple[str, dict[str, Any]]:
    match = re.fullmatch(_FIELD, piece)
    if not match:
        raise ConfigError(
            f"Not a field of a schema: {piece!r}.",
            hint="A field is `name`, `name type` or `name type: description`.",
        )
    made = _type(match["type"] or "str", match["item"], piece)
    if match["optional"] or match["optional2"]:
        made = {**made, "type": [made["type"], "null"]}
    return match["name"], {**made, "description": match["about"]} if match["about"] else made


def _type(word: str, item: str | None, piece: str) -> dict[str, Any]:
    for name in (word, item):
        if name is not None and name not in _TYPES:
            raise ConfigError(
                f"Unknown type {name!r} in {piece!r}.", hint=f"Types are {', '.join(_TYPES)}, list[type]."
            )
    if item and word != "list":
        raise ConfigError(f"Only a list holds a type: {piece!r}.", hint=f"Write list[{item}].")
    return {"type": "array", "items": dict(_TYPES[item])} if item else dict(_TYPES[word])
