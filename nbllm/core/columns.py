"""A value that fits a schema as a DataFrame whose columns, order and types come from the schema, whatever the
rows are: none, one or a thousand.

One form for each kind: text `string`, whole numbers `Int64`, numbers `Float64`, truth `boolean`; days
(`format: date`) datetime64 without a zone, times (`date-time`) datetime64 in UTC (one without a zone counts
as UTC); Decimal as decimal.Decimal; what may only have certain values (Enum, Literal) `category`; lists,
objects and unions as they are. Nothing stands as NA, NaT or None. A column that does not convert stays as it
came, and is named in `.attrs["kept_as_text"]` with the reason.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from .errors import in_a_line
from .strict import resolve

if TYPE_CHECKING:
    import pandas as pd

_DEEPEST = 20  # references that are followed


def frame_of(value: Any, schema: Mapping[str, Any]) -> pd.DataFrame:
    """`value`, as dicts, lists and scalars, by `schema`: a list of records, an object that holds one list of
    them, or one record."""
    import pandas as pd

    rows, record = _rows(value, _meant(schema, schema), schema)
    record = _meant(record, schema)
    is_record = "properties" in record or record.get("type") == "object"
    fields = _properties(record) if is_record else {"value": record}
    rows = [row if isinstance(row, dict) else {"value": row} for row in rows]
    names = list(dict.fromkeys([*fields, *(name for row in rows for name in row)]))
    kept: dict[str, str] = {}
    made: dict[str, Any] = {}
    for name in names:
        values = pd.Series([row.get(name) for row in rows], dtype=object)
        kind = _KINDS[_kind(_meant(fields.get(name, {}), schema))]
        try:
            made[name] = kind(values, _meant(fields.get(name, {}), schema))
        except Exception as exc:  # noqa: BLE001 - pandas raises many kinds; no value may be lost by it
            made[name], kept[str(name)] = values, in_a_line(exc, 120)
    frame = pd.DataFrame(made, columns=names, index=pd.RangeIndex(len(rows)))
    if kept:
        frame.attrs["kept_as_text"] = kept
    return frame


def _rows(
    value: Any, meant: Mapping[str, Any], schema: Mapping[str, Any]
) -> tuple[list[Any], Mapping[str, Any]]:
    """(the rows, the schema of one)."""
    fields = _properties(meant)
    only = _meant(next(iter(fields.values())), schema) if len(fields) == 1 else {}
    if only.get("type") == "array":
        name = next(iter(fields))
        meant, value = only, value.get(name) if isinstance(value, dict) else value
    if meant.get("type") == "array":
        return (value if isinstance(value, list) else [] if value is None else [value]), meant.get(
            "items"
        ) or {}
    return [value], meant


def _properties(schema: Mapping[str, Any]) -> Mapping[str, Any]:
    found = schema.get("properties")
    return found if isinstance(found, Mapping) else {}


def _meant(given: Any, root: Mapping[str, Any]) -> Mapping[str, Any]:
    """What a schema says, its references followed and null left out."""
    schema: Any = given
    for _ in range(_DEEPEST):
        if not isinstance(schema, Mapping):
            return {}
        ways = [w for w in schema.get("anyOf") or schema.get("oneOf") or () if w != {"type": "null"}]
        parts: Any = schema.get("allOf") or []
        if "$ref" in schema:
            schema = resolve(root, schema["$ref"])
        elif len(ways) == 1 or (len(parts) == 1 and "type" not in schema):
            schema = (ways or parts)[0]
        else:
            break
    kinds = schema.get("type")
    left = [k for k in kinds if k != "null"] if isinstance(kinds, list) else [kinds]
    return {**schema, "type": left[0] if len(left) == 1 else left} if kinds else dict(schema)


def _kind(schema: Mapping[str, Any]) -> str:
    """The name of a form."""
    allowed = schema.get("enum") or ([schema["const"]] if "const" in schema else [])
    if allowed:
        return "enum" if all(isinstance(v, str) or v is None for v in allowed) else _of_values(allowed)
    ways = schema.get("anyOf") or schema.get("oneOf") or ()
    types: set[Any] = {w.get("type") if isinstance(w, Mapping) else None for w in ways} - {"null"}
    declared = schema.get("type")
    types |= set(declared) if isinstance(declared, list) else {declared} - {None}
    if types == {"number", "integer"}:
        return "number"
    only = str(next(iter(types))) if len(types) == 1 else "any"
    if only == "string" and schema.get("format") in ("date", "date-time"):
        return str(schema["format"])
    return only if only in _KINDS else "any"


def _of_values(allowed: list[Any]) -> str:
    kinds = {type(v) for v in allowed if v is not None}
    return {frozenset({int}): "integer", frozenset({bool}): "boolean"}.get(
        frozenset(kinds), "number" if kinds <= {int, float} else "any"
    )


# --- the forms ---


def _as(dtype: Any) -> Callable[[pd.Series[Any], Mapping[str, Any]], Any]:
    return lambda values, _schema: values.astype(dtype)


def _whole(values: pd.Series[Any], _schema: Mapping[str, Any]) -> Any:
    """1.0 is a whole number to JSON schemas."""
    whole = values.map(lambda v: int(v) if isinstance(v, float) and v.is_integer() else v)
    return whole.astype("Int64")


def _days(values: pd.Series[Any], _schema: Mapping[str, Any]) -> Any:
    import pandas as pd

    return pd.to_datetime(values, format="%Y-%m-%d").astype("datetime64[ns]")


def _times(values: pd.Series[Any], _schema: Mapping[str, Any]) -> Any:
    import pandas as pd

    return pd.to_datetime(values, format="ISO8601", utc=True).astype("datetime64[ns, UTC]")


def _category(values: pd.Series[Any], schema: Mapping[str, Any]) -> Any:
    import pandas as pd

    allowed = schema.get("enum") or [schema["const"]]
    return values.astype(pd.CategoricalDtype(list(dict.fromkeys(v for v in allowed if v is not None))))


_KINDS: dict[str, Callable[[pd.Series[Any], Mapping[str, Any]], Any]] = {
    "string": _as("string"),
    "integer": _whole,
    "number": _as("Float64"),
    "boolean": _as("boolean"),
    "date": _days,
    "date-time": _times,
    "enum": _category,
    "any": lambda values, _schema: values,
}
