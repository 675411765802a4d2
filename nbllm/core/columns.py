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

from .errors import error_line
from .strict import resolve_ref, submapping

if TYPE_CHECKING:
    import pandas as pd

_DEEPEST = 20  # references that are followed


def to_dataframe(value: Any, schema: Mapping[str, Any]) -> pd.DataFrame:
    """`value`, as dicts, lists and scalars, by `schema`: a list of records, an object that holds one list of
    them, or one record."""
    import pandas as pd

    rows, record = _rows(value, _meant(schema, schema), schema)
    fields = _fields(_meant(record, schema), schema)
    rows = [row if isinstance(row, dict) else {next(iter(fields), "value"): row} for row in rows]
    names = list(dict.fromkeys([*fields, *(name for row in rows for name in row)]))
    kept: dict[str, str] = {}
    made: dict[str, Any] = {}
    for name in names:
        values = pd.Series([row.get(name) for row in rows], dtype=object)
        kind = _KINDS[_kind(_meant(fields.get(name, {}), schema))]
        try:
            made[name] = kind(values, _meant(fields.get(name, {}), schema))
        except Exception as exc:  # noqa: BLE001 - pandas raises many kinds; no value may be lost by it
            made[name], kept[str(name)] = values, error_line(exc, 120)
    frame = pd.DataFrame(made, columns=names, index=pd.RangeIndex(len(rows)))
    if kept:
        frame.attrs["kept_as_text"] = kept
    return frame


def _rows(
    value: Any, meant: Mapping[str, Any], schema: Mapping[str, Any]
) -> tuple[list[Any], Mapping[str, Any]]:
    """(the rows, the schema of one)."""
    fields = submapping(meant, "properties")
    only = _meant(next(iter(fields.values())), schema) if len(fields) == 1 else {}
    if only.get("type") == "array":
        meant, value = only, value.get(next(iter(fields))) if isinstance(value, dict) else value
    elif schema.get("x-nbllm-items"):  # a value, a union or nothing, put into an object for providers
        return ([] if value["items"] is None else [value["items"]]), only
    if meant.get("type") == "array":
        return (value if isinstance(value, list) else [] if value is None else [value]), meant.get(
            "items"
        ) or {}
    return [value], meant


def _fields(record: Mapping[str, Any], root: Mapping[str, Any]) -> Mapping[str, Any]:
    """The columns of a record, each with its schema; those of all records that it may be one of, where a name
    may mean what any of them means by it. A value that is no record is a column."""
    ways = [_meant(w, root) for w in record.get("anyOf") or record.get("oneOf") or [record]]
    if not all("properties" in way or way.get("type") == "object" for way in ways):
        return {"value": record}
    fields = [submapping(way, "properties") for way in ways]
    found = {name: [_meant(f[name], root) for f in fields if name in f] for each in fields for name in each}
    return {n: each[0] if each[1:] == each[:-1] else {"anyOf": each} for n, each in found.items()}


def _meant(given: Any, root: Mapping[str, Any]) -> Mapping[str, Any]:
    """What a schema says, its references followed and null left out."""
    schema: Any = given
    for _ in range(_DEEPEST):
        if not isinstance(schema, Mapping):
            return {}
        ways = [w for w in schema.get("anyOf") or schema.get("oneOf") or () if w != {"type": "null"}]
        parts: Any = schema.get("allOf") or []
        if "$ref" in schema:
            schema = resolve_ref(root, schema["$ref"])
        elif len(ways) == 1 or (len(parts) == 1 and "type" not in schema):
            schema = (ways or parts)[0]
        else:
            break
    kinds = schema.get("type")
    left = [k for k in kinds if k != "null"] if isinstance(kinds, list) else [kinds]
    return {**schema, "type": left[0] if len(left) == 1 else left} if kinds else dict(schema)


_SCALARS = {str: "enum", bool: "boolean", int: "integer", float: "number"}


def _kind(schema: Mapping[str, Any]) -> str:
    """The name of a form."""
    allowed, declared = schema.get("enum") or [schema.get("const")], schema.get("type")
    ways = schema.get("anyOf") or schema.get("oneOf") or ()
    types: set[Any] = {w.get("type") if isinstance(w, Mapping) else None for w in ways} - {"null"}
    types |= set(declared) if isinstance(declared, list) else {declared} - {None}
    types = {_SCALARS.get(type(v)) for v in allowed if v is not None} or types
    only = "number" if types == {"number", "integer"} else next(iter(types), None) if len(types) < 2 else None
    if only == "string" and schema.get("format") in ("date", "date-time"):
        return str(schema["format"])
    return str(only) if only in _KINDS else "any"


# --- the forms ---


def _as(dtype: Any) -> Callable[[pd.Series[Any], Mapping[str, Any]], Any]:
    return lambda values, _schema: values.astype(dtype)


def _whole(values: pd.Series[Any], _schema: Mapping[str, Any]) -> Any:
    """1.0 is a whole number to JSON schemas."""
    return values.map(lambda v: int(v) if isinstance(v, float) and v.is_integer() else v).astype("Int64")


def _moments(values: pd.Series[Any], schema: Mapping[str, Any]) -> Any:
    import pandas as pd

    day = schema["format"] == "date"
    made = pd.to_datetime(values, format="%Y-%m-%d" if day else "ISO8601", utc=not day)
    return made.astype("datetime64[ns]" if day else "datetime64[ns, UTC]")


def _category(values: pd.Series[Any], schema: Mapping[str, Any]) -> Any:
    import pandas as pd

    allowed = dict.fromkeys(v for v in schema.get("enum") or [schema["const"]] if v is not None)
    return values.astype(pd.CategoricalDtype(list(allowed)))


_KINDS: dict[str, Callable[[pd.Series[Any], Mapping[str, Any]], Any]] = {
    "string": _as("string"),
    "integer": _whole,
    "number": _as("Float64"),
    "boolean": _as("boolean"),
    "date": _moments,
    "date-time": _moments,
    "enum": _category,
    "any": lambda values, _schema: values,
}
