"""The canonical JSON form of messages, requests, responses and events: for cache keys, recordings, files and
other processes. Pure.

An object of nbllm is written with its class in `type` and the fields that differ from their defaults, so that
a field added by a later version changes neither digests nor files. Bytes are base64. Foreign values (a
schema, arguments, a provider's objects) are written unchanged, except that a key that begins with "$" gets
another "$", and that what JSON cannot express becomes {"$float": "nan"} or {"$bytes": "..."}. Keys are
sorted, text is ASCII. The same value gives the same text in every process and version; where that cannot be
guaranteed, VERSION changes.

Input is untrusted: reading takes linear time, and every field is checked.
"""

from __future__ import annotations

import json
import math
from base64 import b64encode
from collections.abc import Callable, Mapping
from dataclasses import MISSING, fields, is_dataclass
from functools import cache
from hashlib import sha256
from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

import msgspec

from .errors import ConfigError, ProtocolError
from .events import DEPTH_LIMIT, Event, Response, Step, Timing, Usage
from .messages import Message, Part, Request, Tool, unbase64

VERSION = 1
Encodable = Message | Part | Tool | Request | Event | Usage | Timing | Step | Response


def to_json(value: Any) -> str:
    """The canonical text of an Encodable, or of a sequence of them. Raises ConfigError for what has no JSON
    form, such as an arbitrary Python object in `extra`."""
    plain = {"nbllm": VERSION, "value": to_plain(value)}
    return json.dumps(plain, sort_keys=True, separators=(",", ":"), allow_nan=False)


def digest(value: Any) -> str:
    """A hash of a value: equal for equal values, in every process."""
    return sha256(to_json(value).encode("ascii")).hexdigest()


def check_version(version: Any) -> None:
    """Raises ConfigError for the version of a later nbllm, ProtocolError for anything that is not a
    version."""
    if isinstance(version, int) and version > VERSION:
        raise ConfigError(
            f"This was written by a later nbllm (format {version}; this one reads {VERSION}).",
            hint="Update nbllm: pip install -U nbllm.",
        )
    if version != VERSION:
        raise _format_error("a text without a version")


def to_plain(value: Any) -> Any:
    """Like `to_json`, but returns plain JSON values, to be part of a larger text."""
    try:
        return _write(value, _shape(Encodable))
    except (TypeError, ValueError, OverflowError) as exc:
        raise ConfigError(
            f"A value has no JSON form: {exc}.",
            hint="Text, numbers, booleans, None, bytes, lists and mappings with text keys have one.",
        ) from None


def from_plain(data: Any, kind: Any = Encodable) -> Any:
    """The value that `to_plain` wrote. Where `kind` is a single class, `type` may be missing. Raises
    ProtocolError."""
    return _read(data, _shape(kind), "the value")


def _format_error(found: str) -> ProtocolError:
    return ProtocolError(
        f"Expected data written by nbllm, got {found}.",
        hint="The file is damaged, was written by another program, or by another version of nbllm.",
    )


# --- objects of nbllm: what a field may hold, from its annotation -------------------------------------------


class _Shape(msgspec.Struct, frozen=True):
    """What a field may hold: plain `types` (dict means foreign values), `literals`, a sequence of `items`, or
    one of the `classes`, by name."""

    types: frozenset[type] = frozenset()
    literals: tuple[Any, ...] = ()
    items: _Shape | None = None
    classes: Mapping[str, type] = msgspec.field(default_factory=dict)


@cache
def _shape(hint: Any) -> _Shape:
    members = get_args(hint) if get_origin(hint) in (Union, UnionType) else (hint,)
    origins = [(get_origin(member) or member, member) for member in members]
    return _Shape(
        frozenset(dict if o is Mapping else o for o, _ in origins if o in _PLAIN),
        tuple(value for o, member in origins if o is Literal for value in get_args(member)),
        next((_shape(get_args(member)[0]) for o, member in origins if o is tuple), None),
        {o.__name__: o for o, _ in origins if is_dataclass(o) and isinstance(o, type)},
    )


_PLAIN = {str, int, float, bool, bytes, dict, Mapping, NoneType}


@cache
def _fields(kind: type) -> dict[str, tuple[_Shape, Any]]:
    hints = get_type_hints(kind)
    return {
        f.name: (
            _shape(hints[f.name]),
            f.default if f.default_factory is MISSING else f.default_factory(),
        )
        for f in fields(kind)
    }


def _write(value: Any, shape: _Shape) -> Any:
    if isinstance(value, Mapping):
        return _map_json(value, _escape_key, _encode_scalar)
    if isinstance(value, (tuple, list)):
        return [_write(v, shape.items or shape) for v in value]
    if is_dataclass(value):
        return _write_object(value)
    if isinstance(value, bytes):
        return b64encode(value).decode("ascii")
    if float in shape.types and int not in shape.types and isinstance(value, int):
        return float(value)  # 0 and 0.0 are the same temperature, and need the same key
    return _encode_scalar(value)


def _write_object(value: Any) -> dict[str, Any]:
    kind: type = type(value)
    if kind.__name__ not in _shape(Encodable).classes:
        raise TypeError(f"{kind.__name__} is none of nbllm's messages and events")
    values = ((name, getattr(value, name), field) for name, field in _fields(kind).items())
    return {"type": kind.__name__} | {
        n: _write(v, shape) for n, v, (shape, default) in values if v != default
    }


def _read(data: Any, shape: _Shape, where: str) -> Any:
    kind = type(data)
    if kind is dict:
        return _read_object(data, shape, where)
    if kind is list and shape.items is not None:
        return tuple(_read(v, shape.items, where) for v in data)
    if kind in shape.types or (kind is str and data in shape.literals):
        return data
    if kind is str and bytes in shape.types and (decoded := unbase64(data)) is not None:
        return decoded
    raise _format_error(f"{where} of another type")


def _read_object(data: dict[str, Any], shape: _Shape, where: str) -> Any:
    if dict in shape.types:
        return _read_foreign(data, where)
    if float in shape.types and isinstance(value := _decode_scalar(data), float):
        return value
    name = data.get("type", next(iter(shape.classes), None) if len(shape.classes) == 1 else None)
    if not isinstance(name, str) or name not in shape.classes:
        raise _format_error(f"{where} of the type {str(name)[:40]!r}")
    known = _fields(shape.classes[name])
    unknown = [n for n in data if n not in known and n != "type"]
    missing = [n for n, (_, default) in known.items() if default is MISSING and n not in data]
    if unknown or missing:
        raise _format_error(
            f"{name} with {unknown[0][:40]!r}" if unknown else f"{name} without {missing[0]!r}"
        )
    values = {n: _read(v, known[n][0], f"{name}.{n}") for n, v in data.items() if n != "type"}
    return shape.classes[name](**values)


def _read_foreign(data: dict[str, Any], where: str) -> dict[str, Any]:
    try:
        value = _map_json(data, _unescape_key, _decode_scalar)
    except ValueError as exc:
        raise _format_error(f"{where} with {exc}") from None
    if not isinstance(value, dict):
        raise _format_error(f"{where} of another type")
    return value


# --- foreign values: any JSON, level by level instead of recursively, since they may be deep ----------------


def _map_json(value: Any, map_key: Callable[[Any], str], map_value: Callable[[Any], Any]) -> Any:
    """A copy with all keys and values mapped. Raises ValueError where it is too deep."""
    top = [value]
    todo: list[tuple[Any, Any, int]] = [(top, 0, 0)]
    for container, index, level in todo:
        old = container[index]
        new = map_value(old)
        if isinstance(new, Mapping) and new is old:
            new = {map_key(k): v for k, v in new.items()}
            todo.extend((new, k, level + 1) for k in new)
        elif isinstance(new, (list, tuple)):
            new = list(new)
            todo.extend((new, i, level + 1) for i in range(len(new)))
        container[index] = new
        if level > DEPTH_LIMIT:
            raise ValueError(f"more than {DEPTH_LIMIT} levels")
    return top[0]


def _escape_key(key: Any) -> str:
    if not isinstance(key, str):
        raise TypeError(f"a mapping has a key of type {type(key).__name__}")
    return f"${key}" if key.startswith("$") else key


def _unescape_key(key: str) -> str:
    if key.startswith("$") and not key.startswith("$$"):
        raise ValueError(f"the key {key[:40]!r}")
    return key.removeprefix("$")


def _encode_scalar(value: Any) -> Any:
    if isinstance(value, float):
        return value + 0.0 if math.isfinite(value) else {"$float": repr(float(value))}
    if isinstance(value, bytes):
        return {"$bytes": b64encode(value).decode("ascii")}
    if not isinstance(value, (str, int, Mapping, list, tuple, NoneType)):
        raise TypeError(f"it holds a {type(value).__name__}")
    return value


def _decode_scalar(value: Any) -> Any:
    if isinstance(value, dict) and len(value) == 1:
        ((tag, text),) = value.items()
        if tag == "$float" and text in ("nan", "inf", "-inf"):
            return float(text)
        if tag == "$bytes" and isinstance(text, str) and (data := unbase64(text)) is not None:
            return data
    return value
