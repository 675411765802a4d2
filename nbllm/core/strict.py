"""Schemas of tools and of answers as a provider's strict mode takes them, which holds a model to them.

A strict mode takes closed objects and few keywords. What it has no word for is told to the model in the
description (a default, a pattern's bounds), what says the same in other words is rewritten (an optional
argument of OpenAI's is one that may be null), and what cannot be said at all is an error that names its
place: an object of any keys, a value of any type. Nothing is lost in silence.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from .calls import Endpoint
from .errors import ConfigError
from .messages import Tool

Schema = Mapping[str, Any]
_MOST = 5_000  # parts of a schema, as many as OpenAI takes properties
_DEEPEST = 64
_FORMATS = {"date-time", "time", "date", "duration", "email", "hostname", "ipv4", "ipv6", "uuid"}
_KEPT = {"type", "description", "enum", "const", "$ref", "format"}
_DROPPED = {"title", "$schema", "$id", "$comment", "examples", "readOnly", "writeOnly", "deprecated"}
_DEFINITIONS = ("$defs", "definitions")
_HANDLED = {"properties", "required", "additionalProperties", "items", "anyOf", "oneOf", "nullable"}
_HANDLED |= {*_DEFINITIONS}
_NEVER = {"not", "if", "then", "else", "dependentRequired", "dependentSchemas", "dependencies"}
_NEVER |= {"patternProperties", "propertyNames", "unevaluatedProperties", "prefixItems", "additionalItems"}


class StrictMode(msgspec.Struct, frozen=True):
    """A provider's strict mode. kept: keywords that it takes beside those that all take. all_required: every
    argument must be given, null where it is optional. recursive: a schema may hold itself."""

    label: str
    kept: frozenset[str]
    all_required: bool
    recursive: bool


_BOUNDS = {"multipleOf", "maximum", "minimum", "exclusiveMaximum", "exclusiveMinimum", "minItems", "maxItems"}
OPENAI = StrictMode("OpenAI's", frozenset({"pattern", *_BOUNDS}), all_required=True, recursive=True)
ANTHROPIC = StrictMode("Anthropic's", frozenset({"pattern", "default"}), all_required=False, recursive=False)


def strict_parameters(tool: Tool, mode: StrictMode) -> Schema:
    """The schema of a tool's arguments as it is sent: as it is, or, where the tool is strict, as the mode
    takes it. Raises ConfigError, naming the tool and the place, for what no strict mode takes."""
    return _Writer(tool.parameters, mode, "argument", tool.name).root() if tool.strict else tool.parameters


def strict_answer_schema(schema: Schema, mode: StrictMode) -> Schema:
    """The schema of a strict answer as the mode takes it. Raises ConfigError as `parameters` does."""
    return _Writer(schema, mode, "field", "the answer").root()


def check_strict(strict: bool | None, schema: Any, provider: Endpoint) -> None:
    """Raises ConfigError where an answer is to be held to a schema that there is not, or that the provider is
    not sent."""
    if strict is not None and (schema is None or "schema" in provider.quirks.cannot):
        who = "an answer without a schema" if schema is None else provider.label or provider.name
        raise ConfigError(
            f"strict= cannot be used with {who}.",
            hint="Leave it out, or give schema= and ask another provider.",
        )


class _Writer(msgspec.Struct):
    schema: Schema
    mode: StrictMode
    kind: str  # what its places are called, and whose they are
    owner: str
    size: int = 0
    depth: int = 0
    open: list[str] = msgspec.field(default_factory=list)  # the references that the place stands in

    def root(self) -> dict[str, Any]:
        """The whole schema, with the definitions that it refers to."""
        schema = self.schema
        if schema.get("type", "object") != "object" or {"anyOf", "oneOf", "allOf", "$ref"} & {*schema}:
            raise self.no("", "they are no plain object")
        made = self.write({"type": "object", "properties": {}, **schema}, "")
        for key in _DEFINITIONS if self.mode.recursive else ():  # the others stand where they are used
            if definitions := submapping(schema, key):
                made[key] = {n: self._defined(f"#/{key}/{n}", d, n) for n, d in definitions.items()}
        return made

    def _defined(self, ref: str, schema: Any, name: str) -> dict[str, Any]:
        self.open.append(ref)
        made = self.write(schema, name)
        self.open.pop()
        return made

    def no(self, place: str, why: str) -> ConfigError:
        """The error for a place."""
        where = f"the {self.kind} {place[:80]!r}" if place else f"the {self.kind}s"
        return ConfigError(
            f"{self.mode.label} strict mode cannot take {where} of {self.owner}: {why}.",
            hint=f"Annotate it more narrowly, or leave strict out for {self.owner}.",
        )

    def write(self, schema: Any, place: str) -> dict[str, Any]:
        """A part of the schema."""
        self._count()
        self.depth, opened = self.depth + 1, len(self.open)
        made = self._part(self._flat(schema, place), place)
        self.depth -= 1
        del self.open[opened:]
        return made

    def _count(self) -> None:
        self.size += 1
        if self.size > _MOST or self.depth > _DEEPEST:
            raise self.no("", "their schema is too large")

    def _part(self, schema: Schema, place: str) -> dict[str, Any]:
        keep = _KEPT | self.mode.kept
        out = {k: v for k, v in schema.items() if k in keep}
        told = {k: v for k, v in schema.items() if k not in keep | _DROPPED | _HANDLED}
        if schema.get("format", "time") not in _FORMATS:
            told["format"] = out.pop("format")
        self._inner(schema, out, place)
        if not {"type", "$ref", "anyOf", "enum", "const"} & {*out}:
            raise self.no(place, "it may be of any type")
        if told:
            words = ", ".join(f"{k}: {json.dumps(v, ensure_ascii=False)}" for k, v in told.items())
            out["description"] = f"{schema.get('description', '')} ({words})".strip()
        return _nullable(out) if schema.get("nullable") is True else out

    def _flat(self, schema: Any, place: str) -> Schema:
        """Without what only wraps: one that holds all of a single other, and words beside a reference."""
        self._count()
        if not isinstance(schema, Mapping):
            raise self.no(place, "it may be of any type")
        if odd := sorted(_NEVER & {*schema}):
            raise self.no(place, f"its schema says {odd[0]}")
        whole = _sequence(schema, "allOf")
        if len(whole) > 1:
            raise self.no(place, "its schema says allOf")
        if whole:
            rest = {k: v for k, v in schema.items() if k != "allOf"}
            return self._flat({**whole[0], **rest} if isinstance(whole[0], Mapping) else whole[0], place)
        return self._followed(schema, schema["$ref"], place) if "$ref" in schema else schema

    def _followed(self, schema: Schema, ref: Any, place: str) -> Schema:
        found, here = resolve_ref(self.schema, ref), ref in self.open
        if found is None:
            raise self.no(place, f"it refers to {str(ref)[:80]!r}, which is not there")
        named = ref.startswith(tuple(f"#/{key}/" for key in _DEFINITIONS)) and ref.count("/") == 2
        if here and not (named and self.mode.recursive):
            raise self.no(place, "it holds itself")
        if here or (named and self.mode.recursive and not {*schema} - {"$ref"} - _DROPPED):
            return {"$ref": ref}
        self.open.append(ref)
        return self._flat({**found, **{k: v for k, v in schema.items() if k != "$ref"}}, place)

    def _inner(self, schema: Schema, out: dict[str, Any], place: str) -> None:
        """What of it holds others."""
        kinds = schema.get("type")
        kinds = kinds if isinstance(kinds, (list, tuple)) else [kinds]
        if "object" in kinds or "properties" in schema:
            self._object(schema, out, place)
        if "array" in kinds:
            if "items" not in schema:
                raise self.no(place, "its items may be of any type")
            out["items"] = self.write(schema["items"], f"{place}[]")
        if one_of := [*_sequence(schema, "anyOf"), *_sequence(schema, "oneOf")]:
            out["anyOf"] = [self.write(s, place) for s in one_of]

    def _object(self, schema: Schema, out: dict[str, Any], place: str) -> None:
        properties, nested = submapping(schema, "properties"), bool(place)
        if schema.get("additionalProperties", nested and not properties) is not False:
            raise self.no(place, "it is an object of any keys")
        required = [n for n in _sequence(schema, "required") if n in properties]
        made = {n: self.write(s, f"{place}.{n}".lstrip(".")) for n, s in properties.items()}
        if self.mode.all_required:
            made = {n: s if n in required else _nullable(s) for n, s in made.items()}
            required = [*made]
        out |= {"properties": made, "required": required, "additionalProperties": False}
        out.setdefault("type", "object")


def submapping(schema: Schema, key: str) -> Schema:
    """What a schema says under a key of others by their names; none where it says something else."""
    found = schema.get(key)
    return found if isinstance(found, Mapping) else {}


def _sequence(schema: Schema, key: str) -> Sequence[Any]:
    found = schema.get(key)
    return found if isinstance(found, (list, tuple)) else ()


def _nullable(schema: dict[str, Any]) -> dict[str, Any]:
    if _takes_null(schema, {}):
        return schema
    about = {"description": schema.pop("description")} if "description" in schema else {}
    return {"anyOf": [schema, {"type": "null"}], **about}


def resolve_ref(root: Schema, ref: Any) -> Schema | None:
    """What a reference within a schema leads to."""
    if not isinstance(ref, str) or not ref.startswith("#"):
        return None
    found: Any = root
    for word in ref[1:].strip("/").split("/") if ref.strip("#/") else ():
        name = word.replace("~1", "/").replace("~0", "~")
        found = found.get(name) if isinstance(found, Mapping) else None
    return found if isinstance(found, Mapping) else None


def _takes_null(schema: Any, root: Schema, depth: int = 0) -> bool:
    if not isinstance(schema, Mapping) or depth > _DEEPEST:
        return True
    kinds = schema.get("type")
    if "null" in (kinds if isinstance(kinds, (list, tuple)) else [kinds]) or schema.get("nullable") is True:
        return True
    if (found := resolve_ref(root, schema.get("$ref"))) is not None:
        return _takes_null(found, root, depth + 1)
    return any(_takes_null(s, root, depth + 1) for k in ("anyOf", "oneOf") for s in _sequence(schema, k))


def drop_added_nulls(value: Any, root: Schema, schema: Any = None, depth: int = 0) -> Any:
    """Arguments without the nulls that a strict mode writes for what was left out: those of optional
    arguments that take none. root: the schema of all arguments."""
    schema = root if schema is None else schema
    if depth > _DEEPEST or not isinstance(schema, Mapping):
        return value
    if (found := resolve_ref(root, schema.get("$ref"))) is not None:
        return drop_added_nulls(value, root, found, depth + 1)
    if isinstance(value, list):
        return [drop_added_nulls(v, root, schema.get("items", {}), depth + 1) for v in value]
    if not isinstance(value, Mapping):
        return value
    for one in (s for k in ("allOf", "anyOf", "oneOf") for s in _sequence(schema, k)):
        value = drop_added_nulls(value, root, one, depth + 1)
    known, required = submapping(schema, "properties"), _sequence(schema, "required")
    if not {*value} <= {*known}:  # of several kinds of object it is another one
        return value
    return {
        n: drop_added_nulls(v, root, known[n], depth + 1)
        for n, v in value.items()
        if v is not None or n in required or _takes_null(known[n], root)
    }
