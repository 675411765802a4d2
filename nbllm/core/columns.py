"""Converts a value that matches a schema into a DataFrame, whose columns, order and types come from the
schema whatever the number of rows.

One dtype for each kind: text `string`, integers `Int64`, numbers `Float64`, booleans `boolean`; dates
(`format: date`) datetime64 without a zone, times (`date-time`) datetime64 in UTC (one without a zone counts
as UTC); Decimal as decimal.Decimal; enumerations (Enum, Literal) `category`; lists, objects and unions as
they are. Null becomes NA, NaT or None. A column that cannot be converted stays unchanged, and is named in
`.attrs["kept_as_text"]` with the reason.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from .errors import error_line
from .strict import resolve_ref, submapping

if TYPE_CHECKING:
    import pandas as pd

_MAX_REFERENCES = 20  # that are followed


def to_dataframe(value: Any, schema: Mapping[str, Any]) -> pd.DataFrame:
    """The DataFrame of `value` (dicts, lists and scalars): a list of records, an object that holds one such
    list, or a single record."""
    import pandas as pd

    rows, record = _rows(value, _resolved(schema, schema), schema)
    fields = _fields(_resolved(record, schema), schema)
    rows = [row if isinstance(row, dict) else {next(iter(fields), "value"): row} for row in rows]
    names = list(dict.fromkeys([*fields, *(name for row in rows for name in row)]))
    unconverted: dict[str, str] = {}
    columns: dict[str, Any] = {}
    for name in names:
        values = pd.Series([row.get(name) for row in rows], dtype=object)
        field = _resolved(fields.get(name, {}), schema)
        try:
            columns[name] = _CONVERTERS[_kind(field)](values, field)
        except Exception as exc:  # noqa: BLE001 - pandas raises many kinds; no value may be lost by it
            columns[name], unconverted[str(name)] = values, error_line(exc, 120)
    frame = pd.DataFrame(columns, columns=names, index=pd.RangeIndex(len(rows)))
    if unconverted:
        frame.attrs["kept_as_text"] = unconverted
    return frame


def _rows(
    value: Any, resolved: Mapping[str, Any], schema: Mapping[str, Any]
) -> tuple[list[Any], Mapping[str, Any]]:
    """(the rows, the schema of a row)."""
    fields = submapping(resolved, "properties")
    only = _resolved(next(iter(fields.values())), schema) if len(fields) == 1 else {}
    if only.get("type") == "array":
        resolved, value = only, value.get(next(iter(fields))) if isinstance(value, dict) else value
    elif schema.get("x-nbllm-items"):  # providers want an object around it
        return ([] if value["items"] is None else [value["items"]]), only
    if resolved.get("type") == "array":
        rows = value if isinstance(value, list) else [] if value is None else [value]
        return rows, resolved.get("items") or {}
    return [value], resolved


def _fields(record: Mapping[str, Any], root: Mapping[str, Any]) -> Mapping[str, Any]:
    """The columns of a record, each with its schema. Of a union of records, the columns of all, each with the
    union of its schemas. A value that is not a record is one column."""
    variants = [_resolved(w, root) for w in record.get("anyOf") or record.get("oneOf") or [record]]
    if not all("properties" in v or v.get("type") == "object" for v in variants):
        return {"value": record}
    fields = [submapping(v, "properties") for v in variants]
    found = {
        name: [_resolved(f[name], root) for f in fields if name in f] for each in fields for name in each
    }
    return {n: each[0] if each[1:] == each[:-1] else {"anyOf": each} for n, each in found.items()}


def _resolved(schema: Any, root: Mapping[str, Any]) -> Mapping[str, Any]:
    """A schema with its references followed and null left out."""
    for _ in range(_MAX_REFERENCES):
        if not isinstance(schema, Mapping):
            return {}
        variants = [v for v in schema.get("anyOf") or schema.get("oneOf") or () if v != {"type": "null"}]
        parts: Any = schema.get("allOf") or []
        if "$ref" in schema:
            schema = resolve_ref(root, schema["$ref"])
        elif len(variants) == 1 or (len(parts) == 1 and "type" not in schema):
            schema = (variants or parts)[0]
        else:
            break
    kinds = schema.get("type")
    left = [k for k in kinds if k != "null"] if isinstance(kinds, list) else [kinds]
    return {**schema, "type": left[0] if len(left) == 1 else left} if kinds else dict(schema)


_SCALARS = {str: "enum", bool: "boolean", int: "integer", float: "number"}


def _kind(schema: Mapping[str, Any]) -> str:
    """The key of the converter for a schema."""
    allowed, declared = schema.get("enum") or [schema.get("const")], schema.get("type")
    variants = schema.get("anyOf") or schema.get("oneOf") or ()
    types: set[Any] = {v.get("type") if isinstance(v, Mapping) else None for v in variants} - {"null"}
    types |= set(declared) if isinstance(declared, list) else {declared} - {None}
    types = {_SCALARS.get(type(v)) for v in allowed if v is not None} or types
    only = "number" if types == {"number", "integer"} else next(iter(types), None) if len(types) < 2 else None
    if only == "string" and schema.get("format") in ("date", "date-time"):
        return str(schema["format"])
    return str(only) if only in _CONVERTERS else "any"


# --- converters ---


def _as(dtype: Any) -> Callable[[pd.Series[Any], Mapping[str, Any]], Any]:
    return lambda values, _schema: values.astype(dtype)


def _integers(values: pd.Series[Any], _schema: Mapping[str, Any]) -> Any:
    """1.0 counts as an integer in JSON schemas."""
    return values.map(lambda v: int(v) if isinstance(v, float) and v.is_integer() else v).astype("Int64")


def _datetimes(values: pd.Series[Any], schema: Mapping[str, Any]) -> Any:
    import pandas as pd

    day = schema["format"] == "date"
    times = pd.to_datetime(values, format="%Y-%m-%d" if day else "ISO8601", utc=not day)
    return times.astype("datetime64[ns]" if day else "datetime64[ns, UTC]")


def _category(values: pd.Series[Any], schema: Mapping[str, Any]) -> Any:
    import pandas as pd

    allowed = dict.fromkeys(v for v in schema.get("enum") or [schema["const"]] if v is not None)
    return values.astype(pd.CategoricalDtype(list(allowed)))


_CONVERTERS: dict[str, Callable[[pd.Series[Any], Mapping[str, Any]], Any]] = {
    "string": _as("string"),
    "integer": _integers,
    "number": _as("Float64"),
    "boolean": _as("boolean"),
    "date": _datetimes,
    "date-time": _datetimes,
    "enum": _category,
    "any": lambda values, _schema: values,
}
