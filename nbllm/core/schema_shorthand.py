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
# `name: str` as in Python; any other text after a colon is a description
_PYTHON_FIELD = rf"^(\w+\??)\s*:\s*(?=(?:{'|'.join(_TYPES)})(?:\[\w+\])?\s*\??\s*(?::|$))"
_MAX_DEPTH = 8
_FIELD = (
    r"(?P<name>[^\W\d]\w*)(?P<optional>\?)?"
    r"(?:\s+(?P<type>[a-z]+)(?:\[(?P<item>[a-z]+)\])?\s*(?P<optional2>\?)?)?(?:\s*:\s*(?P<about>.+))?"
)


def schema(text: str, *, depth: int = 0) -> dict[str, Any]:
    """A closed JSON schema of an object with the fields in `text`, which are separated by commas or newlines.

    A field is a name, a type with or without a colon before it (str, int, float, bool, date, object, list,
    list[type]; str by default), `?` where it may be null, and `: a description`, which cannot contain a
    comma. Every field is required, as strict modes demand. Fields in brackets, `[name, age int]`, mean a list
    of such records, in the single field `items`, because providers need an object at the root. Raises
    ConfigError.
    """
    text = text.strip()
    if text.startswith("[") and text.endswith("]"):
        if depth == _MAX_DEPTH:
            raise ConfigError(
                "The schema is nested too deeply.",
                hint='Write a list of records as schema="[name, age int]".',
            )
        return _object({"items": {"type": "array", "items": schema(text[1:-1], depth=depth + 1)}})
    lines = [
        re.sub(_PYTHON_FIELD, r"\1 ", " ".join(p.split())) for p in re.split(r"[,\n]", text) if p.strip()
    ]
    if not lines:
        raise ConfigError("The schema is empty.", hint='Write fields such as schema="name, age int".')
    fields: dict[str, Any] = {}
    for name, field in map(_field, lines):
        if name in fields:
            raise ConfigError(
                f"The schema has two fields {name!r}.",
                hint="A description cannot contain a comma; field names must be unique.",
            )
        fields[name] = field
    return _object(fields)


def _object(fields: dict[str, Any]) -> dict[str, Any]:
    return {"type": "object", "properties": fields, "required": list(fields), "additionalProperties": False}


def _field(text: str) -> tuple[str, dict[str, Any]]:
    match = re.fullmatch(_FIELD, text)
    if not match:
        raise ConfigError(
            f"Not a field of a schema: {text!r}.",
            hint="A field is `name`, `name type` or `name type: description`.",
        )
    field = _type(match["type"] or "str", match["item"], text)
    if match["optional"] or match["optional2"]:
        field = {**field, "type": [field["type"], "null"]}
    return match["name"], {**field, "description": match["about"]} if match["about"] else field


def _type(word: str, item: str | None, text: str) -> dict[str, Any]:
    for name in (word, item):
        if name is not None and name not in _TYPES:
            raise ConfigError(
                f"Unknown type {name!r} in {text!r}.", hint=f"Types are {', '.join(_TYPES)}, list[type]."
            )
    if item and word != "list":
        raise ConfigError(f"Only a list has an item type: {text!r}.", hint=f"Write list[{item}].")
    return {"type": "array", "items": dict(_TYPES[item])} if item else dict(_TYPES[word])
