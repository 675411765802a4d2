"""Structured answers as values and frames: columns, order and dtypes come from the schema, whatever the rows
are."""

import dataclasses
import datetime as dt
import decimal
import enum
import json
import typing
from typing import Annotated, Literal, NewType, Optional, TypedDict

import pandas as pd
import pydantic
import pytest

from nbllm import Response, Text
from nbllm.core import schema_shorthand
from nbllm.core.errors import Mismatch
from nbllm.core.schema import Shape, parse_answer


class Colour(enum.Enum):
    RED = "red"
    BLUE = "blue"


class Inner(pydantic.BaseModel):
    x: int


class Order(pydantic.BaseModel):
    name: str
    number: int
    weight: float | None
    paid: bool
    day: dt.date
    at: dt.datetime
    price: decimal.Decimal
    colour: Colour
    size: Literal["s", "m"]
    tags: list[str]
    inner: Inner
    either: int | str
    maybe: Optional[int] = None  # noqa: UP045 - as many write it


ROW = {
    "name": "a",
    "number": 1,
    "weight": 1.5,
    "paid": True,
    "day": "2024-01-02",
    "at": "2024-01-02T10:00:00+02:00",
    "price": "12.50",
    "colour": "red",
    "size": "m",
    "tags": ["t"],
    "inner": {"x": 1},
    "either": "b",
    "maybe": None,
}
DTYPES = {
    "name": "string",
    "number": "Int64",
    "weight": "Float64",
    "paid": "boolean",
    "day": "datetime64[ns]",
    "at": "datetime64[ns, UTC]",
    "price": "object",
    "colour": "category",
    "size": "category",
    "tags": "object",
    "inner": "object",
    "either": "object",
    "maybe": "Int64",
}


def answer(value):
    text = value if isinstance(value, str) else json.dumps(value)
    return Response((Text(text),), finish_reason="stop")


def framed(given, value):
    return parse_answer(answer(value), Shape.of(given), "df")


@pytest.mark.parametrize("count", [0, 1, 1_000])
@pytest.mark.parametrize("given", [list[Order], list[Order] | None, Annotated[list[Order], "orders"]])
def test_columns_order_and_types_hold_for_any_number_of_rows(given, count):
    """As the class declares them."""
    df = framed(given, {"items": [ROW] * count})
    assert DTYPES == {name: str(df[name].dtype) for name in df.columns}
    assert list(DTYPES) == list(df.columns)
    assert count == len(df)
    assert "kept_as_text" not in df.attrs


def test_values_have_one_form():
    """Times in UTC, Decimal exact, missing ones NA."""
    row = framed(list[Order], [ROW]).iloc[0]
    assert pd.Timestamp("2024-01-02 08:00", tz="UTC") == row["at"]
    assert decimal.Decimal("12.50") == row["price"]
    assert ["t"] == row["tags"]
    assert {"x": 1} == row["inner"]
    assert pd.NA is row["maybe"]
    assert ["red", "blue"] == list(framed(list[Order], [])["colour"].cat.categories)


@pytest.mark.parametrize(
    ("schema", "rows", "dtypes"),
    [
        ("[name, population int]", [], ["string", "Int64"]),
        ("[name, population int]", [{"population": 5, "name": "a"}], ["string", "Int64"]),
        ("[name?, x float?]", [{"name": None, "x": None}] * 3, ["string", "Float64"]),
        ("[day date, ok bool, tags list]", [], ["datetime64[ns]", "boolean", "object"]),
        ("[day date]", [{"day": "2024-02-29"}], ["datetime64[ns]"]),
        ("[s str]", [{"s": "2024-02-29"}], ["string"]),
        ("[n int]", [{"n": 3.0}], ["Int64"]),
        ("[x float]", [{"x": 3}], ["Float64"]),
    ],
)
def test_the_short_form(schema, rows, dtypes):
    """The same; text that looks like a day stays text where the schema says text."""
    df = framed(schema_shorthand.schema(schema), {"items": rows})
    assert dtypes == [str(t) for t in df.dtypes]
    assert len(rows) == len(df)


@pytest.mark.parametrize(
    ("schema", "value", "kept"),
    [
        ("[t date]", "2024-01-01T10:00:00+01:00", "t"),
        ("[t date]", "last week", "t"),
        ("[t date]", "9999999-01-01", "t"),
        ("[n int]", 10**30, "n"),
    ],
)
def test_what_does_not_convert_stays_as_it_came_and_is_told(schema, value, kept):
    """Never NaT in silence."""
    name = schema.strip("[]").split()[0]
    df = framed(schema_shorthand.schema(schema), {"items": [{name: value}, {name: value}]})
    assert [value, value] == list(df[name])
    assert [kept] == list(df.attrs["kept_as_text"])


def test_times_in_several_zones_and_in_none():
    """One column in UTC."""
    schema = {
        "type": "object",
        "properties": {
            "rows": {
                "type": "array",
                "items": {
                    "type": "object",
                    "properties": {"t": {"type": "string", "format": "date-time"}},
                },
            }
        },
    }
    times = ["2024-01-01T10:00:00+01:00", "2024-07-01T10:00:00+02:00", "2024-07-01T10:00:00Z"]
    df = framed(schema, {"rows": [{"t": t} for t in times]})
    assert [9, 8, 10] == list(df["t"].dt.hour)
    assert "datetime64[ns, UTC]" == str(framed(schema, {"rows": []})["t"].dtype)


@pytest.mark.parametrize(
    ("given", "value", "columns"),
    [
        (Inner, {"x": 1}, {"x": "Int64"}),
        (list[int], {"items": []}, {"value": "Int64"}),
        (list[int], [1, 2], {"value": "Int64"}),
        (list[Colour], ["red"], {"value": "category"}),
        (list[Inner] | None, {"items": None}, {"x": "Int64"}),
        ({"type": "array", "items": {"type": "number"}}, [1], {"value": "Float64"}),
        ({"type": "object", "properties": {"a": {"type": ["integer", "null"]}}}, {}, {"a": "Int64"}),
        (
            {"type": "object", "properties": {"a": {"type": "string"}}},
            {"b": 1, "a": "x"},
            {"a": "string", "b": "object"},
        ),
    ],
)
def test_one_record_and_plain_values(given, value, columns):
    """Are a row; what the schema does not name stands last."""
    df = framed(given, value)
    assert columns == {name: str(df[name].dtype) for name in df.columns}


class Cat(pydantic.BaseModel):
    kind: Literal["cat"]
    lives: int
    seen: dt.date | None = None


class Dog(pydantic.BaseModel):
    kind: Literal["dog"]
    good: bool
    seen: dt.date | None = None


class Sized(pydantic.BaseModel):
    side: int

    @pydantic.computed_field
    @property
    def area(self) -> int:
        return self.side**2


class Tree(pydantic.BaseModel):
    name: str
    children: list["Tree"] = []


CAT, DOG = {"kind": "cat", "lives": 9}, {"kind": "dog", "good": True, "seen": "2024-01-02"}
PET = {"kind": "string", "lives": "Int64", "seen": "datetime64[ns]", "good": "boolean"}
CHOSEN = Annotated[Cat | Dog, pydantic.Field(discriminator="kind")]


@pytest.mark.parametrize(
    ("given", "rows", "dtypes"),
    [
        (list[Cat | Dog], [CAT, DOG], PET),
        (list[CHOSEN], [DOG, CAT], PET),
        (list[Inner | None], [{"x": 1}, None], {"x": "Int64"}),
        (list[Sized], [{"side": 2}], {"side": "Int64"}),
        (tuple[Inner, ...], [{"x": 1}], {"x": "Int64"}),
        (list[decimal.Decimal], ["1.50"], {"value": "object"}),
        (pydantic.RootModel[list[Inner]], [{"x": 1}], {"x": "Int64"}),
        (list[Tree], [{"name": "a", "children": []}], {"name": "string", "children": "object"}),
    ],
)
@pytest.mark.parametrize("times", [0, 1, 500])
def test_columns_of_unions_and_of_what_is_computed_hold(given, rows, dtypes, times):
    """A union of records has the columns of all of them; what a model computes is no column at any size."""
    df = framed(given, {"items": rows * times})
    assert dtypes == {name: str(df[name].dtype) for name in df.columns}
    assert len(rows) * times == len(df)


@pytest.mark.parametrize(
    ("given", "value", "dtypes"),
    [
        (CHOSEN, CAT, PET),
        (Inner | None, {"x": 1}, {"x": "Int64"}),
        (Inner | None, None, {"x": "Int64"}),
        (dt.date, "2024-01-02", {"value": "datetime64[ns]"}),
        (Colour, "red", {"value": "category"}),
        (int | str, "a", {"value": "object"}),
        ({"anyOf": [{"type": "integer"}, {"type": "null"}]}, 5, {"value": "Int64"}),
    ],
)
def test_a_single_value_is_a_row(given, value, dtypes):
    """With the columns of the record that it is; nothing is no row."""
    df = framed(given, {"items": value})
    assert dtypes == {name: str(df[name].dtype) for name in df.columns}
    assert (value is not None) == len(df)


@pytest.mark.parametrize(
    "given",
    [Tree, {"$ref": "#/$defs/T", "$defs": Tree.model_json_schema()["$defs"] | {"T": {"type": "object"}}}],
)
def test_what_holds_itself_is_an_object_at_the_root(given):
    """As providers want it; not a reference to one."""
    schema = Shape.of(given).provider_schema
    assert "object" == schema["type"]
    assert "$ref" not in schema


class Strict(pydantic.BaseModel, strict=True):
    day: dt.date
    at: dt.datetime
    price: decimal.Decimal
    colour: Colour
    inner: Inner
    pair: tuple[int, str]
    names: frozenset[str]


class Town(TypedDict):
    name: str
    since: typing.NotRequired[int]


class Land(TypedDict, total=False):
    towns: list[Town]
    capital: Town | None


@dataclasses.dataclass
class Point:
    x: int
    day: dt.date


Number = NewType("Number", int)
STRICT = {
    "day": "2024-01-02",
    "at": "2024-01-02T10:00:00Z",
    "price": "1.5",
    "colour": "red",
    "inner": {"x": 1},
    "pair": [1, "a"],
    "names": ["n"],
}


@pytest.mark.parametrize(
    ("given", "text", "expected"),
    [
        (Strict, json.dumps(STRICT), Strict.model_validate_json(json.dumps(STRICT))),
        (list[Strict], json.dumps([STRICT]), [Strict.model_validate_json(json.dumps(STRICT))]),
        (list[Inner] | None, '{"items": null}', None),
        (list[Inner] | None, '{"items": [{"x": 1}]}', [Inner(x=1)]),
        (Optional[Inner], '{"items": {"x": 1}}', Inner(x=1)),  # noqa: UP045 - as many write it
        (Inner | Town, '{"items": {"x": 1}}', Inner(x=1)),
        (Number, '{"items": 5}', 5),
        (list[Number], "[5]", [5]),
        (Town, '{"name": "a"}', {"name": "a"}),
        (list[Town], '{"items": [{"name": "a", "since": 5}]}', [{"name": "a", "since": 5}]),
        (Land, '{"towns": [{"name": "a"}], "capital": null}', {"towns": [{"name": "a"}], "capital": None}),
        (dict[str, int], '{"a": 1}', {"a": 1}),
        (tuple[int, str], '[1, "a"]', (1, "a")),
        (Literal["a", "b"], '{"items": "a"}', "a"),
        (Point, '{"x": 1, "day": "2024-01-02"}', Point(1, dt.date(2024, 1, 2))),
        ({"type": "array", "items": {"type": "integer"}}, "[1, 2]", [1, 2]),
        ({"type": "array", "items": {"type": "integer"}}, '{"items": [1, 2]}', [1, 2]),
        ({"type": "string"}, '{"items": "a"}', "a"),
    ],
)
def test_types_of_every_kind_fit(given, text, expected):
    """Providers get an object at the root; strict types take what JSON has."""
    shape = Shape.of(given)
    root = shape.provider_schema
    assert root.get("type") == "object" or "$ref" in root
    assert expected == shape.check(text)


@pytest.mark.parametrize(
    ("given", "text"),
    [
        (Strict, json.dumps({**STRICT, "inner": {"x": "1", "y": 1}, "day": 5})),
        (list[Inner] | None, '{"items": 5}'),
        (Town, '{"since": 5}'),
        ({"type": "array", "items": {"type": "integer"}}, '["a"]'),
        ({"type": "array", "items": {"type": "integer"}}, '{"a": 1}'),
    ],
)
def test_what_does_not_fit_is_a_mismatch(given, text):
    """As before."""
    with pytest.raises(Mismatch):
        Shape.of(given).check(text)
