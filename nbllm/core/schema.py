"""Structured answers: from what the user passes as a schema to a validated value.

A shape is a JSON schema (validated by jsonschema) or a type that pydantic supports: its models, dataclasses,
TypedDicts, list[...] of them. If the provider has a mode for schemas, the schema is sent there; otherwise the
prompt asks for JSON. Both are validated here; the messages of a mismatch are written so that a model can
correct its answer.
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
_MAX_PROBLEMS = 8  # mismatches that a model is told at once
# Keywords that contain other schemas: as a value or in a list, or under names.
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
_NESTED_BY_NAME = frozenset(
    ("properties", "patternProperties", "$defs", "definitions", "dependentSchemas", "dependencies")
)
_PROBES: tuple[Any, ...] = (None, True, 0, "", [None], {"": None})  # test values of each JSON type


@dataclasses.dataclass(frozen=True, slots=True)
class Shape:
    """The required structure of an answer: `schema` for the provider, and a pydantic TypeAdapter if it was
    given as a type."""

    schema: Mapping[str, Any]
    adapter: Any = None

    @classmethod
    def of(cls, given: Any) -> Shape:
        """From a JSON schema, a type, or the short form "name, age int". Raises ConfigError for anything
        else, and for an invalid schema."""
        if isinstance(given, Shape):
            return given
        if isinstance(given, str):
            given = schema_shorthand.schema(given)
        if isinstance(given, Mapping):
            checked = checked_schema(given)
            return cls(_wrap_in_object(checked) if _needs_root(checked) else checked)
        if not _is_type(given):
            raise ConfigError(
                f"Not a schema: {type(given).__name__}.",
                hint="Pass 'name, age int', a JSON schema, a pydantic model, a dataclass or list[...] of it.",
            )
        from pydantic import TypeAdapter

        try:
            adapter: Any = TypeAdapter(_with_typing_extensions(given))
            schema = adapter.json_schema()
        except Exception as exc:  # noqa: BLE001 - pydantic's own, and whatever a type's hooks raise
            raise ConfigError(
                f"{getattr(given, '__name__', given)!r} cannot be made a JSON schema: {error_line(exc)}.",
                hint="Annotate its fields with types that have a JSON form.",
            ) from None
        return cls(_wrap_in_object(schema), adapter)

    @property
    def is_wrapped(self) -> bool:
        """Whether the value is under `items`, because providers need an object at the root."""
        return bool(self.schema.get("x-nbllm-items"))

    def check(self, text: str) -> Any:
        """The validated value in an answer's text. Raises Mismatch."""
        value = _decode_json(text)
        try:
            return self._validate(value)
        except Mismatch:  # strict modes write null for what is left out
            if (without := drop_added_nulls(value, self.schema)) == value:
                raise
            return self._validate(without)

    def _validate(self, value: Any) -> Any:
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
            # strict types accept a date as text in JSON, but not in Python
            return self.adapter.validate_json(json.dumps(value))
        except ValidationError as exc:
            raise Mismatch(
                [
                    f"{format_path(e['loc'])}: {e['msg']}"
                    for e in exc.errors(include_url=False, include_context=False)[:_MAX_PROBLEMS]
                ]
            ) from None

    def instructions(self) -> str:
        """The text for the prompt where the provider has no mode for schemas."""
        return (
            "Answer with one JSON value and nothing else: no explanation, no code fence. It must be valid "
            "against this JSON schema:\n" + json.dumps(self.provider_schema, ensure_ascii=False)
        )

    @property
    def provider_schema(self) -> dict[str, Any]:
        """The schema as it is sent to a provider."""
        return {k: v for k, v in self.schema.items() if k != "x-nbllm-items"}


def schema_problems(schema: Mapping[str, Any], value: Any, name: str = "the answer") -> list[str]:
    """The first mismatches of `value` with a checked schema, one line each; [] if it is valid. `name` is the
    name of the value in them."""
    try:
        found = itertools.islice(_checker(schema).iter_errors(value), _MAX_PROBLEMS)
        return [f"{format_path(e.absolute_path, name)}: {e.message[:200]}" for e in found]
    except BaseException as exc:
        # PanicException: a recursion error within Rust
        if isinstance(exc, RecursionError) or type(exc).__name__ == "PanicException":
            return [f"{name} is nested too deeply"]
        raise


def checked_schema(given: Any) -> dict[str, Any]:
    """A valid JSON schema as plain JSON. Raises ConfigError, with the position, for an invalid one: unknown
    types, references to nothing or to another host, invalid patterns, endless recursion."""
    if not isinstance(given, Mapping):
        raise ConfigError(
            f"A JSON schema is an object, not {type(given).__name__}.",
            hint='For example {"type": "object", "properties": {...}}.',
        )
    path = "$"
    try:
        schema: dict[str, Any] = json.loads(json.dumps(dict(given), allow_nan=False))
        _checker(schema).check_schema(schema)
        checker, parts = _build_prober(schema)
        for path, part in parts:  # noqa: B007 - used in the message
            for value in _PROBES:
                list(checker.evolve(schema=part).iter_errors(value))
    except Exception as exc:  # noqa: BLE001 - jsonschema's own, RecursionError, and values that are not JSON
        raise ConfigError(
            f"The schema is not valid at {getattr(exc, 'json_path', path)}: {_explain(exc)}.",
            hint="Nothing was sent. Correct the schema; json-schema.org explains what is allowed.",
        ) from None
    return schema


def _build_prober(schema: dict[str, Any]) -> tuple[Any, list[tuple[str, dict[str, Any]]]]:
    """(a validator for trying test values, all parts of the schema). It follows each reference only once per
    value, because the number of references can double at each step. A reference that leads back to itself
    with the same value is endless."""
    from jsonschema.validators import extend

    kind, bare = type(_checker(schema)), json.loads(json.dumps(schema))
    parts = list(walk_schema(bare))
    for _, part in parts:
        part.pop("$schema", None)  # otherwise that part would be checked by another validator class
    seen, active = set[Any](), set[Any]()

    def follow_once(name: str) -> Any:
        follow = kind.VALIDATORS[name]

        def validate(checker: Any, ref: Any, probe: Any, parent: Any) -> Iterator[Any]:
            key = (name, str(ref), id(probe))
            if key in active:
                raise RecursionError
            if key in seen:
                return
            seen.add(key)
            active.add(key)
            try:
                yield from follow(checker, ref, probe, parent)
            finally:
                active.discard(key)

        return validate

    refs = [name for name in ("$ref", "$dynamicRef", "$recursiveRef") if name in kind.VALIDATORS]
    return _checker(bare, extend(kind, {name: follow_once(name) for name in refs})), parts


def _explain(exc: Any) -> str:
    if isinstance(exc, RecursionError):
        return "it is nested too deeply, or contains itself without end"
    if hasattr(exc, "ref"):
        return f"the reference {exc.ref!r} is not found (references must stay within the schema)"
    if getattr(exc, "json_path", "").endswith(".type"):
        return f"{exc.instance!r} is not a type; use object, array, string, number, integer, boolean or null"
    return str(getattr(exc, "message", None) or error_line(exc))[:300].rstrip(".")


def _checker(schema: Mapping[str, Any], kind: Any = None) -> Any:
    """A validator for `schema`. References are resolved within the schema only, never fetched."""
    import jsonschema
    from referencing import Registry

    kind = kind or jsonschema.validators.validator_for(schema, default=jsonschema.Draft202012Validator)
    return kind(schema, registry=Registry())


def provider_schema(given: Any) -> dict[str, Any] | None:
    """The JSON schema to send for a schema that the user passed in any form. Raises ConfigError as Shape.of
    does."""
    if hasattr(given, "model_json_schema") and not hasattr(given, "__pydantic_validator__"):
        given = given.model_json_schema()  # of a class that is not pydantic's but has the same method
    return None if given is None else Shape.of(given).provider_schema


def walk_schema(schema: Any, path: str = "$") -> Iterator[tuple[str, dict[str, Any]]]:
    """(path, schema) of a schema and of all schemas in it."""
    if isinstance(schema, list):
        for i, part in enumerate(schema):
            yield from walk_schema(part, f"{path}[{i}]")
    if not isinstance(schema, dict):
        return
    yield path, schema
    for key, value in schema.items():
        if key in _NESTED:
            yield from walk_schema(value, f"{path}.{key}")
        elif key in _NESTED_BY_NAME and isinstance(value, dict):
            for name, part in value.items():
                yield from walk_schema(part, f"{path}.{key}.{name}")


def _wrap_in_object(schema: dict[str, Any]) -> dict[str, Any]:
    """The schema with an object at the root, as providers need it."""
    while isinstance(found := resolve_ref(schema, schema.get("$ref")), Mapping):  # of a recursive type
        schema = {**{k: v for k, v in schema.items() if k != "$ref"}, **found}
    if schema.get("type") == "object" or "properties" in schema:
        return schema
    definitions = schema.pop("$defs", None)
    wrapped = {
        "type": "object",
        "properties": {"items": schema},
        "required": ["items"],
        "additionalProperties": False,
        "x-nbllm-items": True,
    }
    return wrapped | ({"$defs": definitions} if definitions else {})


def _needs_root(schema: Mapping[str, Any]) -> bool:
    """Whether a JSON schema is not of an object, and can be wrapped in one: it only refers to definitions."""
    refs = [str(part.get("$ref", "#/$defs/")) for _, part in walk_schema(schema)]
    other = schema.get("type") != "object" and {"type", "$ref", "enum", "anyOf", "oneOf"} & schema.keys()
    return bool(other) and all(r.startswith("#/$defs/") for r in refs)


def _is_type(given: Any) -> bool:
    """Whether it is a class or another type annotation: list[X], X | None, NewType, a type alias."""
    return isinstance(given, (type, UnionType)) or any(
        hasattr(given, name) for name in ("__origin__", "__supertype__", "__value__")
    )


def _with_typing_extensions(given: Any) -> Any:
    """`given` with every typing.TypedDict replaced by that of typing_extensions, the only one that pydantic
    accepts before Python 3.12."""
    if isinstance(given, UnionType) or get_origin(given) is not None:
        args = tuple(map(_with_typing_extensions, get_args(given)))
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
        name: _with_typing_extensions(kind)
        if name in required
        else typing_extensions.NotRequired[_with_typing_extensions(kind)]
        for name, kind in get_type_hints(given).items()
    }
    return typing_extensions.TypedDict(given.__name__, fields)  # type: ignore[operator]


def _decode_json(text: str) -> Any:
    """The JSON value in a text: all of it, the content of its only code fence, or what is between its first
    and last bracket. Raises Mismatch."""
    fenced = re.findall(_FENCE, text)
    starts, end = [at for at in map(text.find, "[{") if at >= 0], max(map(text.rfind, "]}")) + 1
    for candidate in (text, fenced[0] if len(fenced) == 1 else "", text[min(starts) : end] if starts else ""):
        if candidate.strip():
            try:
                return json.loads(candidate)
            except (ValueError, RecursionError):
                continue
    raise Mismatch(["the answer is no JSON value"])


def format_path(path: Any, name: str = "the answer") -> str:
    """A path into a value, such as a[0].b; `name` for the value itself."""
    return "".join(f"[{p}]" if isinstance(p, int) else f".{p}" for p in path).lstrip(".") or name


def parse_answer(response: Response, shape: Shape, result_type: str | None = "object") -> Any:
    """The validated value in an answer, as a DataFrame if `result_type` is "df". Raises Truncated, Mismatch,
    or AnswerProcessingError for what a validator raises, each with the answer as `.partial`."""
    with processing_answer(response, "checking it against the schema"):
        if response.finish_reason == "length":
            raise Truncated
        value = shape.check(response.text)
    with processing_answer(response, "making a DataFrame of it"):
        return _value_to_dataframe(value, shape) if result_type == "df" else value


def _value_to_dataframe(value: Any, shape: Shape) -> pd.DataFrame:
    if (dump := shape.adapter and shape.adapter.dump_python) is not None:  # without computed fields
        value = _with_decimals(
            *(dump(value, mode=m, by_alias=True, round_trip=True) for m in ("json", "python"))
        )
    return to_dataframe({"items": value} if shape.is_wrapped else value, shape.schema)


def _with_decimals(plain: Any, typed: Any) -> Any:
    """A value in JSON form, except that Decimals stay Decimals."""
    if isinstance(typed, Decimal):
        return typed
    if isinstance(plain, dict) and isinstance(typed, dict):
        return {k: _with_decimals(v, t) for (k, v), t in zip(plain.items(), typed.values(), strict=True)}
    if isinstance(plain, list) and isinstance(typed, (list, tuple)):
        return [_with_decimals(v, t) for v, t in zip(plain, typed, strict=True)]
    return plain


def repair_prompt(problems: list[str]) -> str:
    """The message to a model whose answer does not match the schema."""
    return (
        "Your answer does not fit the schema:\n"
        + "\n".join(f"- {p}" for p in problems)
        + "\nSend the whole JSON value again, corrected, and nothing else."
    )


def to_builtin(value: Any) -> Any:
    """A validated value as dicts, lists and scalars."""
    if hasattr(value, "model_dump"):
        return value.model_dump(mode="json")
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return to_builtin(dataclasses.asdict(value))
    if isinstance(value, (list, tuple)):
        return [to_builtin(v) for v in value]
    return {k: to_builtin(v) for k, v in value.items()} if isinstance(value, Mapping) else value
