"""Makes a value that fits a JSON schema, with names and numbers from the prompt if they fit. Pure and
deterministic."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from ..core.strict import resolve_ref

_MAX_VALUES, _MAX_DEPTH = 5_000, 60  # in one answer: a schema with references can describe enormous values
_MAX_PROMPT = 20_000  # characters of the prompt that are searched
_MAX_CHOICES = 1_000  # names, numbers and enum values that are tried
_MAX_MINIMUM = 10_000  # the largest minLength or minItems that is followed
_OPTIONAL_DEPTH = 6  # deeper optional properties and items are left out, so that a recursive schema ends
_VALUES_BY_FORMAT = {
    "date": "2026-01-31",
    "date-time": "2026-01-31T12:00:00Z",
    "time": "12:00:00Z",
    "email": "ada@example.org",
    "uri": "https://example.org/",
    "url": "https://example.org/",
    "uuid": "00000000-0000-4000-8000-000000000000",
    "ipv4": "127.0.0.1",
    "ipv6": "::1",
    "hostname": "example.org",
    "duration": "PT1H",
    "byte": "c2lt",
}
_VALUES_BY_NAME = {
    "city": "Paris",
    "location": "Paris",
    "country": "France",
    "name": "Ada",
    "title": "Simulated",
    "query": "simulated query",
    "unit": "celsius",
    "language": "English",
    "email": "ada@example.org",
    "url": "https://example.org/",
    "date": "2026-01-31",
}


@dataclass(slots=True)
class Hints:
    """Proper names and numbers of the prompt, starting at the `turn`-th; each is used once. budget: how many
    more values may be made."""

    prompt: str = ""
    turn: int = 0
    names: list[str] = field(default_factory=list)
    numbers: list[float] = field(default_factory=list)
    budget: int = _MAX_VALUES

    def __post_init__(self) -> None:
        self.prompt = self.prompt[:_MAX_PROMPT]
        names = re.findall(r"(?<=[\w,:] )[A-Z][\w-]+(?: [A-Z][\w-]+)*", self.prompt)
        self.names, self.numbers = (
            _rotate(names[:_MAX_CHOICES], self.turn),
            [float(n) for n in re.findall(r"(?<![\w.])-?\d{1,12}(?:\.\d+)?", self.prompt)[:_MAX_CHOICES]],
        )

    def number(self, low: float, high: float) -> float | None:
        """Removes and returns the next number within the bounds, None if there is none."""
        found = next((n for n in self.numbers if low <= n <= high), None)
        if found is not None:
            self.numbers.remove(found)
        return found


def _rotate(items: list[str], by: int) -> list[str]:
    by = by % len(items) if items else 0
    return items[by:] + items[:by]


def example(schema: Mapping[str, Any], prompt: str = "", turn: int = 0) -> Any:
    """A value that fits `schema`. turn: different turns give different values for one prompt."""
    return _value(schema, schema, Hints(prompt, turn), "", 0)


def json_text(schema: Mapping[str, Any], prompt: str = "", turn: int = 0) -> str:
    """`example(...)` as JSON text."""
    return json.dumps(example(schema, prompt, turn), ensure_ascii=False)


def _value(s: Any, root: Mapping[str, Any], hints: Hints, name: str, depth: int) -> Any:
    s = _resolve(s, root, hints)
    if hints.budget < 0 or depth > _MAX_DEPTH:
        return None
    if "const" in s:
        return s["const"]
    if s.get("enum"):
        return _enum(s["enum"], hints)
    kind = _kind(s)
    make = _MAKERS.get(kind)
    return make(s, root, hints, name, depth) if make else kind == "boolean" or None


def _resolve(s: Any, root: Mapping[str, Any], hints: Hints) -> Mapping[str, Any]:
    """`s` with its references followed, its first alternative chosen and allOf merged. Each step takes from
    the budget."""
    for _ in range(32):
        if not isinstance(s, Mapping):
            return {}
        hints.budget -= 1 + len(s) // 16
        if hints.budget < 0:
            return {}
        if "$ref" in s:
            s = {
                **(resolve_ref(root, str(s["$ref"])[:1_000]) or {}),
                **{k: v for k, v in s.items() if k != "$ref"},
            }
        elif s.get("anyOf") or s.get("oneOf"):
            branches = s.get("anyOf") or s["oneOf"]
            rest = {k: v for k, v in s.items() if k not in ("anyOf", "oneOf")}
            s = {**rest, **next((b for b in branches if isinstance(b, Mapping) and _kind(b) != "null"), {})}
        elif s.get("allOf"):
            s = _merge(
                [
                    {k: v for k, v in s.items() if k != "allOf"},
                    *(_resolve(b, root, hints) for b in s["allOf"][:64]),
                ]
            )
        else:
            return s
    return {}


def _merge(parts: list[Mapping[str, Any]]) -> Mapping[str, Any]:
    out: dict[str, Any] = {}
    for part in parts:
        properties = {**out.get("properties", {}), **part.get("properties", {})}
        required = [*out.get("required", []), *part.get("required", [])]
        out |= {
            **part,
            **({"properties": properties} if properties else {}),
            **({"required": required} if required else {}),
        }
    return out


def _kind(s: Mapping[str, Any]) -> str:
    kind = s.get("type")
    if isinstance(kind, list):
        kind = next((k for k in kind if k != "null"), "null")
    if not kind:
        kind = "object" if "properties" in s else "array" if "items" in s else "string"
    return str(kind).lower()  # Gemini writes STRING


def _enum(values: list[Any], hints: Hints) -> Any:
    named = next(
        (v for v in values[:_MAX_CHOICES] if re.search(rf"\b{re.escape(str(v))}\b", hints.prompt, re.I)), None
    )
    return values[0] if named is None else named


def _object(s: Mapping[str, Any], root: Mapping[str, Any], hints: Hints, name: str, depth: int) -> Any:
    required = set(s.get("required", ()))
    properties = {
        k: v for k, v in s.get("properties", {}).items() if k in required or depth < _OPTIONAL_DEPTH
    }
    return {
        k: _value(v, root, hints, k, depth + 1)
        for k, v in properties.items()
        if k in required or depth < 2 or not _has_reference(v, hints)
    }


def _has_reference(s: Any, hints: Hints) -> bool:
    encoded = json.dumps(s, default=str) if isinstance(s, Mapping) and hints.budget > 0 else ""
    hints.budget -= len(encoded) // 1_000
    return "$ref" in encoded


def _array(s: Mapping[str, Any], root: Mapping[str, Any], hints: Hints, name: str, depth: int) -> Any:
    least = min(int(s.get("minItems", 0)), max(hints.budget, 0))
    most = int(s.get("maxItems", max(least, 2)))
    fixed = [_value(v, root, hints, name, depth + 1) for v in s.get("prefixItems", ())]
    more = (0 if depth >= _OPTIONAL_DEPTH else min(2, most)) if isinstance(s.get("items"), Mapping) else 0
    return fixed + [
        _value(s.get("items", {}), root, hints, name, depth + 1)
        for _ in range(max(least - len(fixed), more if not fixed else 0))
    ]


def _string(s: Mapping[str, Any], root: Mapping[str, Any], hints: Hints, name: str, depth: int) -> Any:
    value = _VALUES_BY_FORMAT.get(str(s.get("format", ""))) or (
        hints.names.pop(0) if hints.names else _VALUES_BY_NAME.get(name.lower(), "simulated")
    )
    least, most = min(int(s.get("minLength", 0)), _MAX_MINIMUM), int(s.get("maxLength", 1 << 20))
    return value.ljust(least, ".")[:most]


def _bounds(s: Mapping[str, Any], step: float) -> tuple[float, float]:
    low, high = s.get("minimum", -math.inf), s.get("maximum", math.inf)
    above, below = s.get("exclusiveMinimum"), s.get("exclusiveMaximum")
    low = above + step if isinstance(above, (int, float)) and not isinstance(above, bool) else low
    high = below - step if isinstance(below, (int, float)) and not isinstance(below, bool) else high
    return low, high


def _number(s: Mapping[str, Any], root: Mapping[str, Any], hints: Hints, name: str, depth: int) -> Any:
    is_integer = _kind(s) == "integer"
    low, high = _bounds(s, 1 if is_integer else 1e-6)
    value = hints.number(low, high)
    if value is None or (is_integer and value != int(value)):
        value = min(max(1 if is_integer else 1.5, low), high)
    step = int(s.get("multipleOf", 1)) if is_integer else s.get("multipleOf")
    return math.ceil(value / step) * step if step else value


_MAKERS = {"object": _object, "array": _array, "string": _string, "number": _number, "integer": _number}
