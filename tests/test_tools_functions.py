"""Functions as tools: what a model is told, what the function is called with, what is refused."""

import asyncio
import dataclasses
import datetime as dt
import enum
import functools
import inspect
import math
import sys
import typing
import uuid
from decimal import Decimal
from pathlib import Path
from typing import Annotated, Any, Literal, Optional, Union

import jsonschema
import pandas as pd
import pydantic
import pytest
import typing_extensions
from typing_extensions import TypedDict

from nbllm.core.errors import ConfigError
from nbllm.tools.functions import of
from nbllm.tools.usable import ToolArgumentsError


class Colour(enum.Enum):
    RED = "red"
    BLUE = "blue"


class Item(pydantic.BaseModel):
    name: str
    children: list["Item"] = []


@dataclasses.dataclass
class Point:
    x: float
    y: float = 0.0


class Address(TypedDict):
    city: str


def google(article: str, currency: Literal["EUR", "USD"] = "EUR") -> float:
    """The list price of an article.

    As it stood yesterday.

    Args:
        article: its number,
            such as "A-17"
        currency: of the price

    Returns:
        the price with tax
    """
    return article, currency


def numpy_style(article: str, count: int = 1):
    """The list price of an article.

    Parameters
    ----------
    article : str
        its number
    count : int, optional
        how many
    """
    return article, count


def rest(article: str, count: int = 1):
    """The list price of an article.

    :param article: its number
    :param count: how many
    """
    return article, count


def words_only(article, count=1, exact=False):
    """The list price of an article.

    Parameters
    ----------
    article : str
        its number
    """
    return article, count, exact


def defaults(a: int, b: float = 0.5, c: str | None = None, d: int = None):  # noqa: RUF013
    return a, b, c, d


def enums(colour: Colour, other: Colour = Colour.RED):
    return colour, other


def mapping(prices: dict[str, float]):
    return prices


def nested(item: Item, more: list[Item] = []):  # noqa: B006
    return item, more


Count = Annotated[int, pydantic.Field(ge=1, description="a count")]


def annotated(n: Count, s: Annotated[str, "a note"] = "", o: Annotated[str, "another"] | None = None):
    """Two notes.

    Args:
        n: not this
    """
    return n, s, o


def positional(a: int, b: int = 2, c: int = 3, /, d: int = 4):
    return a, b, c, d


def typed(  # noqa: PLR0917
    day: dt.date, at: dt.datetime, path: Path, id: uuid.UUID, sum: Decimal, raw: bytes, for_: dt.timedelta
):
    return day, at, path, id, sum, raw, for_


def opaque(x: int, marker: Any = object()):  # noqa: B008
    return x, isinstance(marker, object)


def text_annotation(item: "Item", point: "Point | None" = None):
    return item, point


def odd_names(_x: int, schema: str, json: int = 1, model_config: int = 2, self_: int = 3):
    return _x, schema, json, model_config, self_


def shapes(t: tuple[int, str], s: set[int], u: Union[int, list[str]], o: Optional[bool] = None):  # noqa: UP007, UP045
    return t, s, u, o


def structures(point: Point, address: Address, points: list[Point]):
    return point, address, points


def nothing():
    """Says the time."""
    return "now"


def infinite(x: float = math.inf):
    return x


class Shop:
    """A shop."""

    def price(self, article: str):
        """The price.

        Args:
            article: its number
        """
        return self, article

    def __call__(self, article: str):
        return article

    @staticmethod
    def tax(net: float):
        return net

    @classmethod
    def named(cls, name: str):
        return name


@functools.lru_cache
def cached(n: int):
    """Cached."""
    return n


def logged(function):
    @functools.wraps(function)
    def wrapper(*args, **kwargs):
        return ("logged", function(*args, **kwargs))

    return wrapper


@logged
def decorated(n: int):
    """Decorated."""
    return n


def secret_and_more(n: int, key: str, scale: int = 2):
    return n, key, scale


async def waits(seconds: float):
    """Waits."""
    await asyncio.sleep(0)
    return seconds


S, INT, N = {"type": "string"}, {"type": "integer"}, {"type": "number"}
DAY = dt.date(2026, 1, 2)
ID = uuid.UUID(int=7)
ITEM = {"$ref": "#/$defs/Item"}

# function, its properties, what is required, arguments of a call, what the function got
CASES = {
    "google": (
        google,
        {
            "article": S | {"description": 'its number, such as "A-17"'},
            "currency": S | {"description": "of the price", "enum": ["EUR", "USD"], "default": "EUR"},
        },
        ["article"],
        {"article": "A-17"},
        ("A-17", "EUR"),
    ),
    "numpy": (
        numpy_style,
        {
            "article": S | {"description": "its number"},
            "count": INT | {"description": "how many", "default": 1},
        },
        ["article"],
        {"article": "a", "count": "2"},
        ("a", 2),
    ),
    "rest": (
        rest,
        {
            "article": S | {"description": "its number"},
            "count": INT | {"description": "how many", "default": 1},
        },
        ["article"],
        {"article": "a"},
        ("a", 1),
    ),
    "types in words": (
        words_only,
        {
            "article": S | {"description": "its number"},
            "count": {"anyOf": [INT, N], "default": 1},
            "exact": {"type": "boolean", "default": False},
        },
        ["article"],
        {"article": "a", "count": 1.5},
        ("a", 1.5, False),
    ),
    "defaults": (
        defaults,
        {
            "a": INT,
            "b": N | {"default": 0.5},
            "c": {"anyOf": [S, {"type": "null"}], "default": None},
            "d": {"anyOf": [INT, {"type": "null"}], "default": None},
        },
        ["a"],
        {"a": 1, "d": None},
        (1, 0.5, None, None),
    ),
    "Enum": (
        enums,
        {"colour": {"$ref": "#/$defs/Colour"}, "other": {"$ref": "#/$defs/Colour", "default": "red"}},
        ["colour"],
        {"colour": "blue"},
        (Colour.BLUE, Colour.RED),
    ),
    "dict": (
        mapping,
        {"prices": {"type": "object", "additionalProperties": N}},
        ["prices"],
        {"prices": {"a": 1}},
        {"a": 1.0},
    ),
    "nested and recursive": (
        nested,
        {"item": ITEM, "more": {"type": "array", "items": ITEM, "default": []}},
        ["item"],
        {"item": {"name": "a", "children": [{"name": "b"}]}},
        (Item(name="a", children=[Item(name="b")]), []),
    ),
    "Annotated": (
        annotated,
        {
            "n": INT | {"description": "a count", "minimum": 1},
            "s": S | {"description": "a note", "default": ""},
            "o": {"anyOf": [S, {"type": "null"}], "description": "another", "default": None},
        },
        ["n"],
        {"n": 3},
        (3, "", None),
    ),
    "positional only": (
        positional,
        {"a": INT, **{n: INT | {"default": d} for n, d in (("b", 2), ("c", 3), ("d", 4))}},
        ["a"],
        {"a": 1, "c": 9},
        (1, 2, 9, 4),
    ),
    "dates and others": (
        typed,
        {
            "day": S | {"format": "date"},
            "at": S | {"format": "date-time"},
            "path": S | {"format": "path"},
            "id": S | {"format": "uuid"},
            "sum": None,
            "raw": S | {"format": "binary"},
            "for_": S | {"format": "duration"},
        },
        ["day", "at", "path", "id", "sum", "raw", "for_"],
        {
            "day": "2026-01-02",
            "at": "2026-01-02T03:04:05",
            "path": "a/b",
            "id": str(ID),
            "sum": "1.10",
            "raw": "abc",
            "for_": "PT1M",
        },
        (
            DAY,
            dt.datetime(2026, 1, 2, 3, 4, 5),
            Path("a/b"),
            ID,
            Decimal("1.10"),
            b"abc",
            dt.timedelta(minutes=1),
        ),
    ),
    "a default that is no JSON": (opaque, {"x": INT, "marker": {}}, ["x"], {"x": 1}, (1, True)),
    "an infinite default": (infinite, {"x": N}, [], {}, math.inf),
    "annotation as text": (
        text_annotation,
        {"item": ITEM, "point": {"anyOf": [{"$ref": "#/$defs/Point"}, {"type": "null"}], "default": None}},
        ["item"],
        {"item": {"name": "a"}, "point": {"x": 1}},
        (Item(name="a"), Point(1.0)),
    ),
    "names that no field may have": (
        odd_names,
        {
            "_x": INT,
            "schema": S,
            "json": INT | {"default": 1},
            "model_config": INT | {"default": 2},
            "self_": INT | {"default": 3},
        },
        ["_x", "schema"],
        {"_x": 1, "schema": "s"},
        (1, "s", 1, 2, 3),
    ),
    "callable object": (Shop(), {"article": S}, ["article"], {"article": "a"}, "a"),
    "partial": (
        functools.partial(secret_and_more, key="canary"),
        {"n": INT, "scale": INT | {"default": 2}},
        ["n"],
        {"n": 1, "scale": 3},
        (1, "canary", 3),
    ),
    "partial by position": (functools.partial(google, "A"), None, [], {}, ("A", "EUR")),
    "lru_cache": (cached, {"n": INT}, ["n"], {"n": 1}, 1),
    "decorated": (decorated, {"n": INT}, ["n"], {"n": 1}, ("logged", 1)),
    "tuple, set, union": (
        shapes,
        {
            "t": None,
            "s": {"type": "array", "items": INT, "uniqueItems": True},
            "u": {"anyOf": [INT, {"type": "array", "items": S}]},
            "o": {"anyOf": [{"type": "boolean"}, {"type": "null"}], "default": None},
        },
        ["t", "s", "u"],
        {"t": [1, "a"], "s": [1], "u": ["b"]},
        ((1, "a"), {1}, ["b"], None),
    ),
    "dataclass and TypedDict": (
        structures,
        {
            "point": {"$ref": "#/$defs/Point"},
            "address": {"$ref": "#/$defs/Address"},
            "points": {"type": "array", "items": {"$ref": "#/$defs/Point"}},
        },
        ["point", "address", "points"],
        {"point": {"x": 1}, "address": {"city": "c"}, "points": [{"x": 1, "y": 2}]},
        (Point(1.0), {"city": "c"}, [Point(1.0, 2.0)]),
    ),
    "static method": (Shop.tax, {"net": N}, ["net"], {"net": 1}, 1.0),
    "class method": (Shop.named, {"name": S}, ["name"], {"name": "n"}, "n"),
    "no parameters": (nothing, {}, [], {}, "now"),
}


@pytest.mark.parametrize("case", CASES)
def test_what_a_model_is_told_and_what_arrives(case):
    """The schema of the parameters, without titles, and a call with a model's arguments."""
    function, properties, required, arguments, got = CASES[case]
    tool = of(function)
    schema = dict(tool.tool.parameters)
    jsonschema.Draft202012Validator.check_schema(schema)
    jsonschema.validate(arguments, schema) if case != "numpy" else None
    assert '"title"' not in str(schema).replace("'", '"')
    assert (schema["type"], schema.get("additionalProperties"), schema.get("required", [])) == (
        "object",
        False,
        required,
    )
    for name, expected in (properties or {}).items():
        assert expected is None or expected == schema["properties"][name]
    assert properties is None or list(properties) == list(schema["properties"])
    assert "canary" not in str(tool)
    assert got == tool.call(tool.validate(arguments))


@pytest.mark.parametrize(
    ("function", "name", "description"),
    [
        (
            google,
            "google",
            "The list price of an article.\n\nAs it stood yesterday.\n\nReturns: the price with tax",
        ),
        (numpy_style, "numpy_style", "The list price of an article."),
        (rest, "rest", "The list price of an article."),
        (cached, "cached", "Cached."),
        (decorated, "decorated", "Decorated."),
        (waits, "waits", "Waits."),
        (Shop().price, "price", "The price."),
        (Shop(), "Shop", "A shop."),
        (functools.partial(numpy_style, count=2), "numpy_style", "The list price of an article."),
        (defaults, "defaults", ""),
    ],
)
def test_name_and_description(function, name, description):
    """Of the function that was written; where it comes from, for people."""
    tool = of(function)
    assert (name, description, f"function {name}") == (tool.tool.name, tool.tool.description, tool.source)


def test_an_async_function():
    """Gives what is awaited."""
    tool = of(waits)
    assert tool.where == "here"
    assert asyncio.run(tool.call(tool.validate({"seconds": 1}))) == 1.0


def starred(a: int, *more: int):
    return a, more


def keywords(a: int, **more: int):
    return a, more


def bare(a: int, b):
    return a, b


def bare_object(a: int, b=object()):  # noqa: B008
    return a, b


def unknown(a: int, b: "Nowhere"):  # noqa: F821
    return a, b


def table(a: int, frame: pd.DataFrame):
    return a, frame


def fielded(n: int = pydantic.Field(3, ge=1)):
    return n


def yields(a: int):
    yield a


def unwrapped(function):
    def wrapper(*args, **kwargs):
        return function(*args, **kwargs)

    return wrapper


@pytest.mark.parametrize(
    ("function", "words"),
    [
        (starred, r"starred takes \*more"),
        (keywords, r"keywords takes \*\*more"),
        (unwrapped(bare), r"wrapper takes \*args.*\n.*functools.wraps"),
        (lambda a: a, "lambda"),
        (bare, "'b' of bare has no annotation"),
        (bare_object, "'b' of bare_object has no annotation"),
        (unknown, "'b' of unknown has a type that cannot be found: NameError.*Nowhere"),
        (table, r"'frame' of table has a type that no JSON can hold: pandas.*DataFrame\."),
        (fielded, r"default of the parameter 'n' of fielded is a pydantic Field.*\n.*Annotated"),
        (math.sqrt, "'x' of sqrt has no annotation"),
        (yields, "yields is a generator"),
        (Item, "'Item' is a class"),
        (dict, "'dict' is a class"),
        (3, "'int' is int"),
        (print, r"print takes \*args"),
    ],
    ids=lambda value: getattr(value, "__name__", str(value)),
)
def test_what_cannot_be_said_is_an_error_with_its_name(function, words):
    """Before anything is sent; it names function and parameter, and says what to do."""
    with pytest.raises(ConfigError, match=words) as caught:
        of(function)
    assert caught.value.hint.startswith("Nothing was sent.")


@pytest.mark.parametrize(
    ("function", "arguments", "words"),
    [
        (google, {}, "arguments: article: Field required"),
        (google, {"article": "a", "currency": "GBP"}, "arguments: currency: Input should be 'EUR' or 'USD'"),
        (google, {"article": "a", "f0": 1}, "arguments: f0: Extra inputs are not permitted"),
        (
            defaults,
            {"a": 1.5},
            "arguments: a: Input should be a valid integer, got a number with a fractional part",
        ),
        (annotated, {"n": 0}, "arguments: n: Input should be greater than or equal to 1"),
        (
            structures,
            {"point": {}},
            "arguments: point.x: Field required; address: Field required; points: Field",
        ),
        (typed, {}, "arguments: day: Field required; at: Field"),
        (
            shapes,
            {"t": [1, "a"], "s": [], "u": {}},
            "arguments: u.int: Input should be a valid integer; u.list",
        ),
    ],
)
def test_wrong_arguments_are_told_in_one_line(function, arguments, words):
    """Under the parameters' names, without the library's addresses."""
    with pytest.raises(ToolArgumentsError) as caught:
        of(function).validate(arguments)
    text = str(caught.value)
    assert text.startswith(words)
    assert "\n" not in text
    assert "pydantic" not in text


def test_a_check_of_a_type_that_raises_anything_is_an_error_of_arguments():
    """As pydantic lets it through."""

    class Picky(pydantic.BaseModel):
        n: int

        @pydantic.model_validator(mode="before")
        @classmethod
        def check(cls, value):
            raise RuntimeError("not today")

    def f(x: Picky):
        return x

    f.__annotations__["x"] = Picky
    with pytest.raises(ToolArgumentsError, match="RuntimeError: not today"):
        of(f).validate({"x": {"n": 1}})


def test_options():
    """What the user says of a function stays with it."""
    tool = of(google, reads=True, budget=50)
    assert (True, None, 50) == (tool.reads, tool.timeout, tool.budget)


class Till:
    """Where a method's words are inherited, as its signature is."""

    def total(self, net: float) -> float:
        """With tax.

        Args:
            net: without it
        """
        raise NotImplementedError


class OwnTill(Till):
    def total(self, net: float) -> float:
        return net


def test_words_are_inherited_as_help_shows_them():
    tool = of(OwnTill().total).tool
    assert "With tax." == tool.description
    assert N | {"description": "without it"} == tool.parameters["properties"]["net"]


def test_a_docstring_that_is_no_text():
    """Is none."""

    def f(a: int):
        return a

    f.__doc__ = 3
    assert not of(f).tool.description


def only_for_checkers(a: "int") -> "Unheard":  # noqa: F821
    return a


def test_what_is_returned_may_name_what_only_a_type_checker_knows():
    """A model is not told it."""
    assert {"a": INT} == of(only_for_checkers).tool.parameters["properties"]


def two_texts(item: "Thing | None", other: "Th"):  # noqa: F821
    return item, other


def no_expression(n: int, unit: "in metres"):  # noqa: F722
    return n, unit


Thing = int


@pytest.mark.parametrize(
    ("function", "words"),
    [
        (two_texts, "'other' of two_texts has a type.*'Th'"),
        (no_expression, "'unit' of no_expression has a type"),
    ],
)
def test_the_parameter_is_named_whose_type_leads_nowhere(function, words):
    """And not one whose type is spelt alike; also where the text is no name at all."""
    with pytest.raises(ConfigError, match=words):
        of(function)


def test_a_signature_that_was_set_is_the_one():
    """As libraries that make functions set it."""

    def made(*args, **kwargs):
        return args, kwargs

    made.__signature__ = inspect.Signature(
        [inspect.Parameter("n", inspect.Parameter.KEYWORD_ONLY, annotation=int)]
    )
    tool = of(made)
    assert {"n": INT} == tool.tool.parameters["properties"]
    assert ((), {"n": 1}) == tool.call(tool.validate({"n": "1"}))


class Callable_:
    def __call__(self, q: str):
        return q


async def fetched(n: int = 0):
    return n


@pytest.mark.parametrize(
    ("function", "seconds"),
    [(google, 3.0), (fetched, 0), (fetched, -1.0), (functools.partial(google, "x"), 1), (Callable_(), 2.0)],
)
def test_a_timeout_that_could_not_be_kept_is_refused(function, seconds):
    """A plain function runs on the thread that reads the answer: nothing could end it there."""
    assert 2.0 == of(fetched, timeout=2.0).timeout
    with pytest.raises(ConfigError, match=r"cannot have timeout="):
        of(function, timeout=seconds)


def test_a_method_of_a_class_is_told_as_such():
    with pytest.raises(ConfigError, match="the method of an object"):
        of(Callable_.__call__)


def final(a: typing.Final[int] = 1):
    return a


def class_variable(a: typing.ClassVar[int] = 1):
    return a


def itself(a: typing_extensions.Self):
    return a


@pytest.mark.parametrize("function", [final, class_variable, itself])
def test_no_parameter_goes_missing(function):
    """What a model of pydantic's would not take as a field is an error, and not left out."""
    with pytest.raises(ConfigError, match=r"The parameter 'a' of"):
        of(function)


@pytest.mark.skipif(sys.version_info >= (3, 12), reason="pydantic takes it there")
def test_a_typed_dict_of_an_old_python():
    """Is an error that says where to take it from."""

    class Old(typing.TypedDict):
        city: str

    def f(x: Old):
        return x

    f.__annotations__["x"] = Old
    with pytest.raises(ConfigError, match="typing_extensions"):
        of(f)
