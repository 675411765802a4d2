"""One canonical JSON form of messages, requests, responses and events, for cache keys, recordings, files and
other processes. Pure.

A value of ours is an object with its class in `type` and the fields that differ from their defaults, so that
a field which a later version adds changes neither digests nor files. Bytes are base64. What belongs to others
(a schema, arguments, a provider's own objects) stands as it is, except that a key which begins with "$" gets
another "$", and that what JSON has no word for is {"$float": "nan"} or {"$bytes": "..."}. Keys are sorted,
text is ASCII. The same value gives the same text in every process and version; VERSION changes where that
cannot be kept.

What is read may be anybody's: it costs its size times a constant, and every field is checked.
"""

from __future__ import annotations

import json
import math
from base64 import b64encode
from collections.abc import Callable, Mapping
from dataclasses import MISSING, Field, fields, is_dataclass
from functools import cache
from hashlib import sha256
from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

import msgspec

from .errors import ConfigError, ProtocolError
from .events import DEPTH_LIMIT, Event, Response, Step, Timing, Usage
from .messages import Message, Part, Request, Tool, unbase64

VERSION = 1
Coded = Message | Part | Tool | Request | Event | Usage | Timing | Step | Response  # what has a form here


def to_json(value: Any) -> str:
    """The canonical text of a value of ours, or of a sequence of them. Raises ConfigError for what has no
    JSON form, such as an object of Python's in `extra`."""
    plain = {"nbllm": VERSION, "value": to_plain(value)}
    return json.dumps(plain, sort_keys=True, separators=(",", ":"), allow_nan=False)


def digest(value: Any) -> str:
    """A key for a value: equal values have the same one, in every process."""
    return sha256(to_json(value).encode("ascii")).hexdigest()


def check_version(version: Any) -> None:
    """Raises ConfigError for the version of a later nbllm, ProtocolError for what is none."""
    if isinstance(version, int) and version > VERSION:
        raise ConfigError(
            f"This was written by a later nbllm (form {version}; this one reads {VERSION}).",
            hint="Update nbllm: pip install -U nbllm.",
        )
    if version != VERSION:
        raise _refused("a text without a version")


def to_plain(value: Any) -> Any:
    """As `to_json`, as JSON values that may stand in a larger text."""
    try:
        return _write(value, _shape(Coded))
    except (TypeError, ValueError, OverflowError) as exc:
        raise ConfigError(
            f"A value has no JSON form: {exc}.",
            hint="Text, numbers, booleans, None, bytes, lists and mappings with text for keys have one.",
        ) from None


def from_plain(given: Any, kind: Any = Coded) -> Any:
    """The value in what `to_plain` gave. Where `kind` is one class, `type` may be missing. Raises
    ProtocolError."""
    return _read(given, _shape(kind), "the value")


def _refused(what: str) -> ProtocolError:
    return ProtocolError(
        f"Expected what nbllm wrote, got {what}.",
        hint="The file is damaged, somebody else's, or of another version of nbllm.",
    )


# --- values of ours: what may stand in a field, from its annotation -----------------------------------------


class _Shape(msgspec.Struct, frozen=True):
    """What may stand in a place: plain `types` (dict is what belongs to others), `words`, a sequence of
    `items`, or one of our `kinds` by name."""

    types: frozenset[type] = frozenset()
    words: tuple[Any, ...] = ()
    items: _Shape | None = None
    kinds: Mapping[str, type] = msgspec.field(default_factory=dict)


@cache
def _shape(hint: Any) -> _Shape:
    arms = get_args(hint) if get_origin(hint) in (Union, UnionType) else (hint,)
    origins = [(get_origin(arm) or arm, arm) for arm in arms]
    return _Shape(
        frozenset(dict if o is Mapping else o for o, _ in origins if o in _PLAIN),
        tuple(word for o, arm in origins if o is Literal for word in get_args(arm)),
        next((_shape(get_args(arm)[0]) for o, arm in origins if o is tuple), None),
        {o.__name__: o for o, _ in origins if is_dataclass(o) and isinstance(o, type)},
    )


_PLAIN = {str, int, float, bool, bytes, dict, Mapping, NoneType}


@cache
def _fields(kind: type) -> dict[str, tuple[_Shape, Any]]:
    hints = get_type_hints(kind)
    return {f.name: (_shape(hints[f.name]), _default(f)) for f in fields(kind)}


def _default(f: Field[Any]) -> Any:
    return f.default if f.default_factory is MISSING else f.default_factory()


def _write(value: Any, shape: _Shape) -> Any:
    if isinstance(value, Mapping):
        return _walk(value, _escaped, _marked)
    if isinstance(value, (tuple, list)):
        return [_write(v, shape.items or shape) for v in value]
    if is_dataclass(value):
        return _write_object(value)
    if isinstance(value, bytes):
        return b64encode(value).decode("ascii")
    if float in shape.types and int not in shape.types and isinstance(value, int):
        return float(value)  # 0 and 0.0 are one temperature, and one key
    return _marked(value)


def _write_object(value: Any) -> dict[str, Any]:
    kind: type = type(value)
    if kind.__name__ not in _shape(Coded).kinds:
        raise TypeError(f"{kind.__name__} is none of nbllm's messages and events")
    told = ((name, getattr(value, name), about) for name, about in _fields(kind).items())
    return {"type": kind.__name__} | {n: _write(v, shape) for n, v, (shape, rest) in told if v != rest}


def _read(given: Any, shape: _Shape, where: str) -> Any:
    kind = type(given)
    if kind is dict:
        return _read_object(given, shape, where)
    if kind is list and shape.items is not None:
        return tuple(_read(v, shape.items, where) for v in given)
    if kind in shape.types or (kind is str and given in shape.words):
        return given
    if kind is str and bytes in shape.types and (data := unbase64(given)) is not None:
        return data
    raise _refused(f"{where} of another type")


def _read_object(given: dict[str, Any], shape: _Shape, where: str) -> Any:
    if dict in shape.types:
        return _read_foreign(given, where)
    if float in shape.types and isinstance(value := _unmarked(given), float):
        return value
    name = given.get("type", next(iter(shape.kinds), None) if len(shape.kinds) == 1 else None)
    if not isinstance(name, str) or name not in shape.kinds:
        raise _refused(f"{where} of the type {str(name)[:40]!r}")
    known = _fields(shape.kinds[name])
    odd = [n for n in given if n not in known and n != "type"]
    missing = [n for n, (_, rest) in known.items() if rest is MISSING and n not in given]
    if odd or missing:
        raise _refused(f"{name} with {odd[0][:40]!r}" if odd else f"{name} without {missing[0]!r}")
    values = {n: _read(v, known[n][0], f"{name}.{n}") for n, v in given.items() if n != "type"}
    return shape.kinds[name](**values)


def _read_foreign(given: dict[str, Any], where: str) -> dict[str, Any]:
    try:
        found = _walk(given, _unescaped, _unmarked)
    except ValueError as exc:
        raise _refused(f"{where} with {exc}") from None
    if not isinstance(found, dict):
        raise _refused(f"{where} of another type")
    return found


# --- values of others: any JSON, level by level, since they may be deep -------------------------------------


def _walk(value: Any, key: Callable[[Any], str], change: Callable[[Any], Any]) -> Any:
    """A copy with every key and every other value changed. Raises ValueError where it is too deep."""
    top = [value]
    todo: list[tuple[Any, Any, int]] = [(top, 0, 0)]
    for holder, at, level in todo:
        old = holder[at]
        new = change(old)
        if isinstance(new, Mapping) and new is old:
            new = {key(k): v for k, v in new.items()}
            todo.extend((new, k, level + 1) for k in new)
        elif isinstance(new, (list, tuple)):
            new = list(new)
            todo.extend((new, i, level + 1) for i in range(len(new)))
        holder[at] = new
        if level > DEPTH_LIMIT:
            raise ValueError(f"more than {DEPTH_LIMIT} levels")
    return top[0]


def _escaped(key: Any) -> str:
    if not isinstance(key, str):
        raise TypeError(f"a mapping has a key of type {type(key).__name__}")
    return f"${key}" if key.startswith("$") else key


def _unescaped(key: str) -> str:
    if key.startswith("$") and not key.startswith("$$"):
        raise ValueError(f"the key {key[:40]!r}")
    return key.removeprefix("$")


def _marked(value: Any) -> Any:
    if isinstance(value, float):
        return value + 0.0 if math.isfinite(value) else {"$float": repr(float(value))}
    if isinstance(value, bytes):
        return {"$bytes": b64encode(value).decode("ascii")}
    if not isinstance(value, (str, int, Mapping, list, tuple, NoneType)):
        raise TypeError(f"it holds a {type(value).__name__}")
    return value


def _unmarked(value: Any) -> Any:
    if isinstance(value, dict) and len(value) == 1:
        ((mark, text),) = value.items()
        if mark == "$float" and text in ("nan", "inf", "-inf"):
            return float(text)
        if mark == "$bytes" and isinstance(text, str) and (data := unbase64(text)) is not None:
            return data
    return value
