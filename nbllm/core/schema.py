"""Answers that have a shape: from what a person may mean by a schema, to a value that was checked against it.

A shape is a JSON schema (checked by jsonschema) or a type that pydantic understands: its models, dataclasses,
TypedDicts, list[...] of them. Where a provider has a mode for it, the schema goes there; elsewhere the prompt
asks for JSON in words. Both are checked here, and a mismatch comes back in words that a model can mend.
"""

from __future__ import annotations

import dataclasses
import itertools
import json
import re
import sys
from collections.abc import Iterator, Mapping
from contextlib import suppress
from decimal import Decimal
from types import UnionType
from typing import TYPE_CHECKING, Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints

from . import schema_shorthand
from .columns import to_dataframe
from .errors import ConfigError, Mismatch, Truncated, error_line, processing_answer
from .events import Response
from .strict import drop_added_nulls, resolve_ref

if TYPE_CHECKING:
    import pandas as pd

_FENCE = r"(?s)```(?:json|JSON)?[ \t]*\n(.*?)\n?```"
_MOST = 8  # mismatches that a model is told at once
# Where a schema holds others: as its value or in a list, or under names.
_NESTED = frozenset(
    (
        "items",
        "additionalItems",
        "prefixItems",
        "additionalProperties",
        "propertyNames",
        "contains",
        "allOf",
        "anyOf",
        "oneOf",
        "not",
        "if",
        "then",
        "else",
        "unevaluatedItems",
        "unevaluatedProperties",
        "contentSchema",
    )
)
_NAMED = frozenset(
    ("properties", "patternProperties", "$defs", "definitions", "dependentSchemas", "dependencies")
)
_PROBES: tuple[Any, ...] = (None, True, 0, "", [None], {"": None})  # a value of each JSON type


@dataclasses.dataclass(frozen=True, slots=True)
class Shape:
    """What an answer must look like: `schema` for the provider, and a pydantic TypeAdapter where a type was
    given."""

    schema: Mapping[str, Any]
    adapter: Any = None

    @classmethod
    def of(cls, given: Any) -> Shape:
        """From a JSON schema, a type, or the short form "name, age int". Raises ConfigError for anything
        else, and for a schema that no answer can be checked by."""
        if isinstance(given, Shape):
            return given
        if isinstance(given, str):
            given = schema_shorthand.schema(given)
        if isinstance(given, Mapping):
            checked = checked_schema(given)
            return cls(_rooted(checked) if _needs_root(checked) else checked)
        if not _is_type(given):
            raise ConfigError(
                f"Not a schema: {type(given).__name__}.",
                hint="Pass 'name, age int', a JSON schema, a pydantic model, a dataclass or list[...] of it.",
            )
        from pydantic import TypeAdapter

        try:
            adapter: Any = TypeAdapter(_understood(given))
            made = adapter.json_schema()
        except Exception as exc:  # noqa: BLE001 - pydantic's own, and whatever a type's own hooks raise
            raise ConfigError(
                f"No schema can be made of {getattr(given, '__name__', given)!r}: {error_line(exc)}.",
                hint="Annotate its fields with types that have a JSON form.",
            ) from None
        return cls(_rooted(made), adapter)

    @property
    def is_wrapped(self) -> bool:
        """Whether the value stands under `items`: providers want an object at the root."""
        return bool(self.schema.get("x-nbllm-items"))

    def check(self, text: str) -> Any:
        """The value in an answer's text, validated. Raises Mismatch."""
        value = _decoded(text)
        try:
            return self._checked(value)
        except Mismatch:  # a strict mode writes null for what is left out
            if (without := drop_added_nulls(value, self.schema)) == value:
                raise
            return self._checked(without)

    def _checked(self, value: Any) -> Any:
        if self.is_wrapped and isinstance(value, dict):
            value = value.get("items", value)
        if self.adapter is None:
            if problems := schema_problems(self.schema, {"items": value} if self.is_wrapped else value):
                raise Mismatch(problems)
            return value
        from pydantic import ValidationError

        try:
            with suppress(ValidationError):
                return self.adapter.validate_python(value)
            # strict types take a date from JSON, which has no other form for it, and not from Python
            return self.adapter.validate_json(json.dumps(value))
        except ValidationError as exc:
            raise Mismatch(
                [
                    f"{format_path(e['loc'])}: {e['msg']}"
                    for e in exc.errors(include_url=False, include_context=False)[:_MOST]
                ]
            ) from None

    def instructions(self) -> str:
        """What a prompt must say where the provider has no mode for schemas."""
        return (
            "Answer with one JSON value and nothing else: no explanation, no code fence. It must be valid "
            "against this JSON schema:\n" + json.dumps(self.provider_schema, ensure_ascii=False)
        )

    @property
    def provider_schema(self) -> dict[str, Any]:
        """The schema as a provider is given it."""
        return {k: v for k, v in self.schema.items() if k != "x-nbllm-items"}


def schema_problems(schema: Mapping[str, Any], value: Any, what: str = "the answer") -> list[str]:
    """Where `value` does not fit a schema that was checked, one line each, the first few; [] where it fits.
    `what` is its name in them."""
    try:
        found = itertools.islice(_checker(schema).iter_errors(value), _MOST)
        return [f"{format_path(e.absolute_path, what)}: {e.message[:200]}" for e in found]
    except BaseException as exc:
        if isinstance(exc, RecursionError) or type(exc).__name__ == "PanicException":  # a map in Rust met one
            return [f"{what} is nested too deeply"]
        raise


def checked_schema(given: Any) -> dict[str, Any]:
    """A JSON schema as plain JSON. Raises ConfigError, with the place, for what is none: unknown types,
    references that lead nowhere or to another host, patterns that cannot be compiled, schemas that contain
    themselves without end."""
    if not isinstance(given, Mapping):
        raise ConfigError(
            f"A JSON schema is an object, not {type(given).__name__}.",
            hint='For example {"type": "object", "properties": {...}}.',
        )
    place = "$"
    try:
        schema: dict[str, Any] = json.loads(json.dumps(dict(given), allow_nan=False))
        _checker(schema).check_schema(schema)
        checker, parts = _probing(schema)
        for place, part in parts:  # noqa: B007 - the place is for the message
            for value in _PROBES:
                list(checker.evolve(schema=part).iter_errors(value))
    except Exception as exc:  # noqa: BLE001 - jsonschema's own, RecursionError, and what no JSON is
        raise ConfigError(
            f"The schema is not valid at {getattr(exc, 'json_path', place)}: {_told(exc)}.",
            hint="Nothing was sent. Correct the schema; json-schema.org says what one may hold.",
        ) from None
    return schema


def _probing(schema: dict[str, Any]) -> tuple[Any, list[tuple[str, dict[str, Any]]]]:
    """(what tries probes on a schema, all the parts of it). Each reference is followed once for a probe:
    references to references may be made to double at each step. One that comes back to itself with the same
    probe has no end."""
    from jsonschema.validators import extend

    kind, bare = type(_checker(schema)), json.loads(json.dumps(schema))
    parts = list(walk_schema(bare))
    for _, part in parts:
        part.pop("$schema", None)  # else that part is checked by another class
    seen, under_way = set[Any](), set[Any]()

    def once(name: str) -> Any:
        follow = kind.VALIDATORS[name]

        def followed(checker: Any, ref: Any, probe: Any, within: Any) -> Iterator[Any]:
            key = (name, str(ref), id(probe))
            if key in under_way:
                raise RecursionError
            if key in seen:
                return
            seen.add(key)
            under_way.add(key)
            try:
                yield from follow(checker, ref, probe, within)
            finally:
                under_way.discard(key)

        return followed

    refs = [name for name in ("$ref", "$dynamicRef", "$recursiveRef") if name in kind.VALIDATORS]
    return _checker(bare, extend(kind, {name: once(name) for name in refs})), parts


def _told(exc: Any) -> str:
    if isinstance(exc, RecursionError):
        return "it is nested too deeply, or contains itself without end"
    if hasattr(exc, "ref"):
        return f"the reference {exc.ref!r} leads nowhere (they stay within the schema)"
    if getattr(exc, "json_path", "").endswith(".type"):
        return f"{exc.instance!r} is no type: object, array, string, number, integer, boolean or null"
    return str(getattr(exc, "message", None) or error_line(exc))[:300].rstrip(".")


def _checker(schema: Mapping[str, Any], kind: Any = None) -> Any:
    """What checks values against `schema`. References are looked up in the schema only, never fetched."""
    import jsonschema
    from referencing import Registry

    kind = kind or jsonschema.validators.validator_for(schema, default=jsonschema.Draft202012Validator)
    return kind(schema, registry=Registry())


def provider_schema(given: Any) -> dict[str, Any] | None:
    """The JSON schema to send for what a user may pass as one. Raises ConfigError as Shape.of does."""
    if hasattr(given, "model_json_schema") and not hasattr(given, "__pydantic_validator__"):
        given = given.model_json_schema()  # a class that is not pydantic's, and does as its models do
    return None if given is None else Shape.of(given).provider_schema


def walk_schema(schema: Any, place: str = "$") -> Iterator[tuple[str, dict[str, Any]]]:
    """(place, schema) of a schema and of all that it holds."""
    if isinstance(schema, list):
        for i, part in enumerate(schema):
            yield from walk_schema(part, f"{place}[{i}]")
    if not isinstance(schema, dict):
        return
    yield place, schema
    for key, value in schema.items():
        if key in _NESTED:
            yield from walk_schema(value, f"{place}.{key}")
        elif key in _NAMED and isinstance(value, dict):
            for name, part in value.items():
                yield from walk_schema(part, f"{place}.{key}.{name}")


def _rooted(schema: dict[str, Any]) -> dict[str, Any]:
    """With an object at the root, as providers want it."""
    while isinstance(found := resolve_ref(schema, schema.get("$ref")), Mapping):  # of what holds itself
        schema = {**{k: v for k, v in schema.items() if k != "$ref"}, **found}
    if schema.get("type") == "object" or "properties" in schema:
        return schema
    definitions = schema.pop("$defs", None)
    made = {
        "type": "object",
        "properties": {"items": schema},
        "required": ["items"],
        "additionalProperties": False,
        "x-nbllm-items": True,
    }
    return made | ({"$defs": definitions} if definitions else {})


def _needs_root(schema: Mapping[str, Any]) -> bool:
    """Whether a JSON schema is of no object, and can be put into one: its references lead to definitions."""
    refs = [str(part.get("$ref", "#/$defs/")) for _, part in walk_schema(schema)]
    other = schema.get("type") != "object" and {"type", "$ref", "enum", "anyOf", "oneOf"} & schema.keys()
    return bool(other) and all(r.startswith("#/$defs/") for r in refs)


def _is_type(given: Any) -> bool:
    """A class, or what annotations are made of: list[X], X | None, NewType, a type alias."""
    return isinstance(given, (type, UnionType)) or any(
        hasattr(given, name) for name in ("__origin__", "__supertype__", "__value__")
    )


def _understood(given: Any) -> Any:
    """`given` with every typing.TypedDict as pydantic wants it: before Python 3.12 it takes that of
    typing_extensions only."""
    if isinstance(given, UnionType) or get_origin(given) is not None:
        args = tuple(map(_understood, get_args(given)))
        if args == get_args(given) or get_origin(given) in (Literal, Annotated):
            return given
        return Union[args] if get_origin(given) in (UnionType, Union) else get_origin(given)[args]  # noqa: UP007
    if (
        sys.version_info >= (3, 12)
        or type(given).__name__ != "_TypedDictMeta"
        or type(given).__module__ != "typing"
    ):
        return given
    import typing_extensions

    required = given.__required_keys__
    fields = {
        name: _understood(kind) if name in required else typing_extensions.NotRequired[_understood(kind)]
        for name, kind in get_type_hints(given).items()
    }
    return typing_extensions.TypedDict(given.__name__, fields)  # type: ignore[operator]


def _decoded(text: str) -> Any:
    """The JSON value in a text: all of it, or what stands in its one fence, or between its first and last
    bracket."""
    fenced = re.findall(_FENCE, text)
    starts, end = [at for at in map(text.find, "[{") if at >= 0], max(map(text.rfind, "]}")) + 1
    for candidate in (text, fenced[0] if len(fenced) == 1 else "", text[min(starts) : end] if starts else ""):
        if candidate.strip():
            try:
                return json.loads(candidate)
            except (ValueError, RecursionError):
                continue
    raise Mismatch(["the answer is no JSON value"])


def format_path(path: Any, what: str = "the answer") -> str:
    """A path into a value, as a[0].b; `what` for the value itself."""
    return "".join(f"[{p}]" if isinstance(p, int) else f".{p}" for p in path).lstrip(".") or what


def parse_answer(response: Response, shape: Shape, wanted: str | None = "object") -> Any:
    """The checked value in an answer: as it is, or as a DataFrame where `wanted` is "df". Raises Truncated,
    Mismatch, or AnswerProcessingError for what a validator raises, each with the answer as `.partial`."""
    with processing_answer(response, "checking it against the schema"):
        if response.finish_reason == "length":
            raise Truncated
        value = shape.check(response.text)
    with processing_answer(response, "making a DataFrame of it"):
        return _framed(value, shape) if wanted == "df" else value


def _framed(value: Any, shape: Shape) -> pd.DataFrame:
    if (dump := shape.adapter and shape.adapter.dump_python) is not None:  # without what a model computes
        value = _exact(*(dump(value, mode=m, by_alias=True, round_trip=True) for m in ("json", "python")))
    return to_dataframe({"items": value} if shape.is_wrapped else value, shape.schema)


def _exact(flat: Any, rich: Any) -> Any:
    """A value in JSON's terms, but for Decimals, which are text there."""
    if isinstance(rich, Decimal):
        return rich
    if isinstance(flat, dict) and isinstance(rich, dict):
        return {k: _exact(v, r) for (k, v), r in zip(flat.items(), rich.values(), strict=True)}
    if isinstance(flat, list) and isinstance(rich, (list, tuple)):
        return [_exact(v, r) for v, r in zip(flat, rich, strict=True)]
    return flat


def repair_prompt(problems: list[str]) -> str:
    """What a model is told about an answer that does not fit."""
    return (
        "Your answer does not fit the schema:\n"
        + "\n".join(f"- {p}" for p in problems)
        + "\nSend the whole JSON value again, corrected, and nothing else."
    )


def to_builtin(value: Any) -> Any:
    """A checked value as dicts, lists and scalars."""
    if hasattr(value, "model_dump"):
        return value.model_dump(mode="json")
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return to_builtin(dataclasses.asdict(value))
    if isinstance(value, (list, tuple)):
        return [to_builtin(v) for v in value]
    return {k: to_builtin(v) for k, v in value.items()} if isinstance(value, Mapping) else value
