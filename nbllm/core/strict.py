"""Rewrites schemas of tools and answers for a provider's strict mode, which forces the model to match them.

A strict mode supports closed objects and few keywords. Unsupported keywords (a default, the bounds of a
pattern) are moved into the description; others are replaced by equivalents (an optional argument becomes one
that may be null, for OpenAI); and what cannot be expressed is an error that names its position: an object
with arbitrary keys, a value of any type. Nothing is silently lost.
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
_MAX_PARTS = 5_000  # of a schema; OpenAI's limit of properties
_MAX_DEPTH = 64
_FORMATS = {"date-time", "time", "date", "duration", "email", "hostname", "ipv4", "ipv6", "uuid"}
_SUPPORTED = {"type", "description", "enum", "const", "$ref", "format"}
_IGNORED = {"title", "$schema", "$id", "$comment", "examples", "readOnly", "writeOnly", "deprecated"}
_DEFINITIONS = ("$defs", "definitions")
_HANDLED = {"properties", "required", "additionalProperties", "items", "anyOf", "oneOf", "nullable"}
_HANDLED |= {*_DEFINITIONS}
_UNSUPPORTED = {"not", "if", "then", "else", "dependentRequired", "dependentSchemas", "dependencies"}
_UNSUPPORTED |= {
    "patternProperties",
    "propertyNames",
    "unevaluatedProperties",
    "prefixItems",
    "additionalItems",
}


class StrictMode(msgspec.Struct, frozen=True):
    """A provider's strict mode. keywords: those that it supports in addition to the common ones.
    all_required: every argument must be given, null where it is optional. recursive: a schema may contain
    itself."""

    label: str
    keywords: frozenset[str]
    all_required: bool
    recursive: bool


_BOUNDS = {"multipleOf", "maximum", "minimum", "exclusiveMaximum", "exclusiveMinimum", "minItems", "maxItems"}
OPENAI = StrictMode("OpenAI's", frozenset({"pattern", *_BOUNDS}), all_required=True, recursive=True)
ANTHROPIC = StrictMode("Anthropic's", frozenset({"pattern", "default"}), all_required=False, recursive=False)


def strict_parameters(tool: Tool, mode: StrictMode) -> Schema:
    """The schema of a tool's arguments to send: rewritten for the mode if the tool is strict, else unchanged.
    Raises ConfigError, naming the tool and the position, for what the mode does not support."""
    return _Writer(tool.parameters, mode, "argument", tool.name).root() if tool.strict else tool.parameters


def strict_answer_schema(schema: Schema, mode: StrictMode) -> Schema:
    """The schema of a strict answer, rewritten for the mode. Raises ConfigError as `strict_parameters`
    does."""
    return _Writer(schema, mode, "field", "the answer").root()


def check_strict(strict: bool | None, schema: Any, provider: Endpoint) -> None:
    """Raises ConfigError where strict= is set without a schema, or for a provider that takes no schemas."""
    if strict is not None and (schema is None or "schema" in provider.quirks.cannot):
        subject = "an answer without a schema" if schema is None else provider.label or provider.name
        raise ConfigError(
            f"strict= cannot be used with {subject}.",
            hint="Leave it out, or use schema= with another provider.",
        )


class _Writer(msgspec.Struct):
    schema: Schema
    mode: StrictMode
    kind: str  # "argument" or "field", for messages
    owner: str  # the tool's name or "the answer"
    size: int = 0
    depth: int = 0
    open: list[str] = msgspec.field(default_factory=list)  # the references that are being resolved

    def root(self) -> dict[str, Any]:
        """The complete schema, with its definitions."""
        schema = self.schema
        if schema.get("type", "object") != "object" or {"anyOf", "oneOf", "allOf", "$ref"} & {*schema}:
            raise self.error("", "they are not a plain object")
        out = self.write({"type": "object", "properties": {}, **schema}, "")
        for key in _DEFINITIONS if self.mode.recursive else ():  # in other modes they are inlined
            if definitions := submapping(schema, key):
                out[key] = {n: self._write_definition(f"#/{key}/{n}", d, n) for n, d in definitions.items()}
        return out

    def _write_definition(self, ref: str, schema: Any, name: str) -> dict[str, Any]:
        self.open.append(ref)
        out = self.write(schema, name)
        self.open.pop()
        return out

    def error(self, path: str, reason: str) -> ConfigError:
        """The error for the part at `path`."""
        where = f"the {self.kind} {path[:80]!r}" if path else f"the {self.kind}s"
        return ConfigError(
            f"{self.mode.label} strict mode cannot take {where} of {self.owner}: {reason}.",
            hint=f"Annotate it more narrowly, or leave strict out for {self.owner}.",
        )

    def write(self, schema: Any, path: str) -> dict[str, Any]:
        """Rewrites the part of the schema at `path`."""
        self._count()
        self.depth, opened = self.depth + 1, len(self.open)
        out = self._write_part(self._flatten(schema, path), path)
        self.depth -= 1
        del self.open[opened:]
        return out

    def _count(self) -> None:
        self.size += 1
        if self.size > _MAX_PARTS or self.depth > _MAX_DEPTH:
            raise self.error("", "their schema is too large")

    def _write_part(self, schema: Schema, path: str) -> dict[str, Any]:
        supported = _SUPPORTED | self.mode.keywords
        out = {k: v for k, v in schema.items() if k in supported}
        described = {k: v for k, v in schema.items() if k not in supported | _IGNORED | _HANDLED}
        if schema.get("format", "time") not in _FORMATS:
            described["format"] = out.pop("format")
        self._write_children(schema, out, path)
        if not {"type", "$ref", "anyOf", "enum", "const"} & {*out}:
            raise self.error(path, "it may be of any type")
        if described:
            text = ", ".join(f"{k}: {json.dumps(v, ensure_ascii=False)}" for k, v in described.items())
            out["description"] = f"{schema.get('description', '')} ({text})".strip()
        return _nullable(out) if schema.get("nullable") is True else out

    def _flatten(self, schema: Any, path: str) -> Schema:
        """The schema without wrappers: an allOf of a single schema, and a reference with further keywords."""
        self._count()
        if not isinstance(schema, Mapping):
            raise self.error(path, "it may be of any type")
        if found := sorted(_UNSUPPORTED & {*schema}):
            raise self.error(path, f"its schema uses {found[0]}")
        all_of = _sequence(schema, "allOf")
        if len(all_of) > 1:
            raise self.error(path, "its schema uses allOf")
        if all_of:
            rest = {k: v for k, v in schema.items() if k != "allOf"}
            return self._flatten({**all_of[0], **rest} if isinstance(all_of[0], Mapping) else all_of[0], path)
        return self._resolve(schema, schema["$ref"], path) if "$ref" in schema else schema

    def _resolve(self, schema: Schema, ref: Any, path: str) -> Schema:
        found, is_open = resolve_ref(self.schema, ref), ref in self.open
        if found is None:
            raise self.error(path, f"it refers to {str(ref)[:80]!r}, which does not exist")
        is_definition = ref.startswith(tuple(f"#/{key}/" for key in _DEFINITIONS)) and ref.count("/") == 2
        if is_open and not (is_definition and self.mode.recursive):
            raise self.error(path, "it contains itself")
        if is_open or (is_definition and self.mode.recursive and not {*schema} - {"$ref"} - _IGNORED):
            return {"$ref": ref}
        self.open.append(ref)
        return self._flatten({**found, **{k: v for k, v in schema.items() if k != "$ref"}}, path)

    def _write_children(self, schema: Schema, out: dict[str, Any], path: str) -> None:
        """Adds the parts that contain other schemas to `out`."""
        kinds = schema.get("type")
        kinds = kinds if isinstance(kinds, (list, tuple)) else [kinds]
        if "object" in kinds or "properties" in schema:
            self._write_object(schema, out, path)
        if "array" in kinds:
            if "items" not in schema:
                raise self.error(path, "its items may be of any type")
            out["items"] = self.write(schema["items"], f"{path}[]")
        if one_of := [*_sequence(schema, "anyOf"), *_sequence(schema, "oneOf")]:
            out["anyOf"] = [self.write(s, path) for s in one_of]

    def _write_object(self, schema: Schema, out: dict[str, Any], path: str) -> None:
        properties, nested = submapping(schema, "properties"), bool(path)
        if schema.get("additionalProperties", nested and not properties) is not False:
            raise self.error(path, "it is an object with arbitrary keys")
        required = [n for n in _sequence(schema, "required") if n in properties]
        written = {n: self.write(s, f"{path}.{n}".lstrip(".")) for n, s in properties.items()}
        if self.mode.all_required:
            written = {n: s if n in required else _nullable(s) for n, s in written.items()}
            required = [*written]
        out |= {"properties": written, "required": required, "additionalProperties": False}
        out.setdefault("type", "object")


def submapping(schema: Schema, key: str) -> Schema:
    """The mapping of names to schemas under a key of a schema; empty where there is none."""
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
    """The schema that a reference within `root` refers to; None where there is none."""
    if not isinstance(ref, str) or not ref.startswith("#"):
        return None
    found: Any = root
    for word in ref[1:].strip("/").split("/") if ref.strip("#/") else ():
        name = word.replace("~1", "/").replace("~0", "~")
        found = found.get(name) if isinstance(found, Mapping) else None
    return found if isinstance(found, Mapping) else None


def _takes_null(schema: Any, root: Schema, depth: int = 0) -> bool:
    if not isinstance(schema, Mapping) or depth > _MAX_DEPTH:
        return True
    kinds = schema.get("type")
    if "null" in (kinds if isinstance(kinds, (list, tuple)) else [kinds]) or schema.get("nullable") is True:
        return True
    if (found := resolve_ref(root, schema.get("$ref"))) is not None:
        return _takes_null(found, root, depth + 1)
    return any(_takes_null(s, root, depth + 1) for k in ("anyOf", "oneOf") for s in _sequence(schema, k))


def drop_added_nulls(value: Any, root: Schema, schema: Any = None, depth: int = 0) -> Any:
    """Arguments without the nulls that a strict mode adds for optional arguments that do not allow null.
    root: the schema of all arguments."""
    schema = root if schema is None else schema
    if depth > _MAX_DEPTH or not isinstance(schema, Mapping):
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
    if not {*value} <= {*known}:  # it belongs to another variant of a union
        return value
    return {
        n: drop_added_nulls(v, root, known[n], depth + 1)
        for n, v in value.items()
        if v is not None or n in required or _takes_null(known[n], root)
    }
