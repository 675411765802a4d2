"""Values and exceptions as results for a model."""

import dataclasses
import datetime as dt
import enum
import io
import itertools
import json
from decimal import Decimal
from pathlib import Path
from types import MappingProxyType

import numpy as np
import pandas as pd
import pydantic
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nbllm.core.errors import ConfigError
from nbllm.core.messages import Document, Image, Text, Tool, ToolCall
from nbllm.tools.results import NO_VALUE, describe_error, error_result, to_content
from nbllm.tools.usable import ToolArgumentsError, Usable

from .examples import examples

PNG = b"\x89PNG\r\n\x1a\n" + b"\0" * 30
CALL = ToolCall("c1", "price", {})


class Colour(enum.Enum):
    RED = "red"


class Size(enum.IntEnum):
    BIG = 3


@dataclasses.dataclass
class Point:
    x: float
    when: dt.date


class Item(pydantic.BaseModel):
    name: str
    on: dt.date


class Drawn:
    def _repr_png_(self):
        return PNG


DAY = dt.date(2026, 1, 2)


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, NO_VALUE),
        ("", ""),
        ("text", "text"),
        (Text("text"), "text"),
        ("half \ud83d", "half �"),
        (3, "3"),
        (2.5, "2.5"),
        (True, "true"),
        (np.int64(3), "3"),
        (np.float32(0.5), "0.5"),
        (Colour.RED, "red"),
        (Size.BIG, "3"),
        (DAY, "2026-01-02"),
        (Decimal("1.10"), "1.10"),
        (Path("a/b"), "a/b"),
        ([1, "ü", None], '[1, "ü", null]'),
        ((1, DAY), '[1, "2026-01-02"]'),
        ({"b", "a"}, '["a", "b"]'),
        (iter([1, 2]), "[1, 2]"),
        (iter([(1, "a")]), '[[1, "a"]]'),
        ({"a": {"b": Colour.RED}, "n": np.int64(1)}, '{"a": {"b": "red"}, "n": 1}'),
        (MappingProxyType({"a": 1}), '{"a": 1}'),
        ({(1, 2): 3}, "{(1, 2): 3}"),
        (Point(1.5, DAY), '{"x": 1.5, "when": "2026-01-02"}'),
        ([Point(1.5, DAY)], '[{"x": 1.5, "when": "2026-01-02"}]'),
        (Item(name="a", on=DAY), '{"name": "a", "on": "2026-01-02"}'),
        ({"items": [Item(name="a", on=DAY)]}, '{"items": [{"name": "a", "on": "2026-01-02"}]}'),
        (b"text", "text"),
        (b"\xff\x00" * 10, "(20 bytes, no text)"),
        (memoryview(b"text"), "text"),
        (io.BytesIO(b"text"), "text"),
        (ValueError("no"), "ValueError: no"),
        (KeyError("k"), "KeyError: 'k'"),
        (np.datetime64("2026-01-02", "ns"), "2026-01-02T00:00:00.000000000"),
        ([np.timedelta64(3, "ns"), np.float64(0.5)], '["3 nanoseconds", 0.5]'),
        ([np.ma.masked], '["--"]'),
    ],
)
def test_values_as_text(value, text):
    """What a model reads of a value."""
    assert text == to_content(value)


def test_a_value_that_holds_itself():
    """Nothing recurses without end."""
    own: list = [1]
    own.append(own)
    assert to_content(own) == "[1, [...]]"


@pytest.mark.parametrize(
    ("value", "parts"),
    [
        (PNG, (Image(PNG),)),
        (io.BytesIO(PNG), (Image(PNG),)),
        (Image(PNG), (Image(PNG),)),
        (Drawn(), (Image(PNG),)),
        (b"%PDF-1.7", (Document(b"%PDF-1.7"),)),
        (["The plot:", Drawn()], (Text("The plot:"), Image(PNG))),
        ((Image(PNG), {"a": 1}), (Image(PNG), Text('{"a": 1}'))),
    ],
)
def test_values_as_parts(value, parts):
    """Pictures and documents stay what they are, also among others."""
    assert parts == to_content(value)


@pytest.mark.slow
def test_a_figure_is_a_picture():
    """Of matplotlib."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(1, 1))
    figure.subplots().plot([1, 2])
    (part,) = to_content(figure)
    assert part.media_type == "image/png"


@pytest.mark.parametrize(
    ("value", "words"),
    [
        (pd.DataFrame({"a": range(5000)}), "A table of 5,000 rows and 1 column."),
        (pd.Series(range(5000), name="s"), "of 5,000 rows"),
        (np.zeros((5000, 3)), "An array of shape (5000, 3)"),
        ("x" * 10_000, "(the first 600 of 10,000 characters)"),
        (list(range(5000)), "(the first 600 of 28,890 characters)"),
        (b"x" * 10_000, "(the first 600 of 10,000 characters)"),
    ],
    ids=lambda v: type(v).__name__,
)
def test_a_budget_holds_and_what_is_left_out_is_said(value, words):
    """In tokens of some three characters."""
    text = to_content(value, budget=200)
    assert words in text
    assert len(text) < 800


@pytest.mark.slow
@examples(50)
@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.text() | st.dates() | st.binary(),
        lambda v: st.lists(v) | st.dictionaries(st.text() | st.integers(), v),
    )
)
def test_every_value_has_a_form_that_can_be_sent(value):
    """Within the budget, and writable."""
    made = to_content(value, budget=50)
    text = made if isinstance(made, str) else ""
    text.encode()
    assert len(text) < 250


class Enormous:
    def _repr_png_(self):
        return b"\x89PNG\r\n\x1a\n" + b"x" * (21 * 2**20)


class Mute:
    def __repr__(self):
        raise RuntimeError("no words")


class Broken:
    def __getattr__(self, name):
        raise RuntimeError(name)


class Endless:
    def __repr__(self):
        return repr(self)


class Noted:
    def __repr__(self):
        error = RuntimeError("no words")
        error.add_note("when serializing dict item 'a'")  # as json does from Python 3.14 on
        raise error


@pytest.mark.parametrize(
    ("value", "why"),
    [
        (Enormous(), "The picture that was returned has 21 MiB; at most 20 can be sent"),
        (Mute(), "RuntimeError: no words"),
        ({"a": [Mute()]}, "RuntimeError: no words"),
        (pd.DataFrame({"a": [Mute()]}), "RuntimeError: no words"),
        (Broken(), "RuntimeError: "),
        (Endless(), "RecursionError: "),
        (Noted(), "RuntimeError: no words"),
        (10**5_000, "ValueError: "),
    ],
    ids=lambda value: type(value).__name__,
)
def test_what_cannot_be_shown_was_done_all_the_same(value, why):
    """A model that were told of a failure would do it again."""
    assert to_content(value).startswith(f"done, but what it returned cannot be shown: {why}")


def test_what_is_nested_too_deep_costs_no_call():
    """How deep that is depends on the Python."""
    value: list = []
    for _ in range(5_000):
        value = [value]
    assert to_content(value, budget=50).startswith(
        ("[[[", "done, but what it returned cannot be shown: Recurs")
    )


def test_an_iterator_that_fails_is_a_failure():
    """Its code is the function's own."""

    def rows():
        yield 1
        raise ValueError("gone")

    with pytest.raises(ValueError, match="gone"):
        to_content(rows())


def price(article):
    table = {}
    return table[article]


def test_an_exception_says_where_in_the_users_code():
    """Its line is counted from the function's start."""
    for code in (lambda: price("x"), lambda: json.loads(price.__doc__ or "{")):
        with pytest.raises((KeyError, ValueError)) as caught:
            code()
        assert describe_error(caught.value) in (
            "failed: KeyError: 'x' (line 3 of price)",
            "failed: json.decoder.JSONDecodeError: Expecting property name enclosed in double quotes: line 1 "
            "column 2 (char 1) (line 1 of <lambda>)",
        )


def test_of_a_group_the_first_is_told():
    """What a TaskGroup raises says nothing by itself."""
    inner = ExceptionGroup("in it", [KeyError("A-17"), ValueError("later")])
    assert "failed: KeyError: 'A-17'" == describe_error(ExceptionGroup("unhandled errors", [inner]))


def test_failures_are_one_line():
    """Of bounded length, marked as errors."""
    made = error_result(CALL, ValueError("a\nb\x00" + "c" * 100_000))
    assert made.is_error
    assert made.name == "price"
    assert made.content.startswith("failed: ValueError: a b")
    assert len(made.content) < 2_100
    assert error_result(CALL, "refused").content == "refused"
    assert describe_error(ConfigError("No file.", hint="Look.")) == "failed: No file."


SCHEMA = {
    "type": "object",
    "properties": {
        "n": {"type": "integer"},
        "m": {"type": ["number", "null"]},
        "s": {"type": "string", "pattern": "^(a+)+$"},
        "b": {"type": "boolean"},
        "any": {},
        "true": True,
        "odd": {"type": "strng"},
    },
    "required": ["n"],
    "additionalProperties": False,
}


@pytest.mark.parametrize(
    "arguments",
    [
        {"n": 1},
        {"n": 3.0, "m": None, "s": "a" * 50 + "!", "b": True, "any": [], "true": {}, "odd": 1},
        {"n": -1, "m": 0.5},
    ],
)
def test_arguments_that_fit(arguments):
    """A tool without a check of its own looks at names and types only: a pattern of a server's may take for
    ever."""
    assert arguments == Usable(Tool("f", "", SCHEMA), dict).validate(arguments)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({}, "arguments: n: Field required"),
        ({"n": "1"}, "arguments: n: not of type integer"),
        ({"n": 1.5}, "arguments: n: not of type integer"),
        ({"n": float("inf")}, "arguments: n: not of type integer"),
        ({"n": True, "m": "x"}, "arguments: n: not of type integer; m: not of type number or null"),
        ({"n": 1, "x": 1}, "arguments: x: there is no such argument"),
        ({"n": 1, "b": 0, "s": None}, "arguments: b: not of type boolean; s: not of type string"),
        ({f"x{i}": 1 for i in range(50)}, "arguments: n: Field required; x0: there"),
    ],
)
def test_arguments_that_do_not_fit(arguments, words):
    """Are told in one line."""
    with pytest.raises(ToolArgumentsError) as caught:
        Usable(Tool("f", "", SCHEMA), dict).validate(arguments)
    assert describe_error(caught.value).startswith(words)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 500


@pytest.mark.parametrize(
    "schema",
    [
        {},
        {"properties": []},
        {"properties": {"a": 3}, "required": "a"},
        {"required": [[]], "properties": {"a": {"type": [[]]}}},
    ],
)
def test_schemas_that_are_none(schema):
    """Are for nobody to fail at."""
    assert Usable(Tool("f", "", schema), dict).validate({"a": 1}) == {"a": 1}


def test_an_iterator_without_end():
    """Gives its beginning, and that is said."""
    assert to_content(itertools.count(), budget=10_000).endswith('998, 999, "(more than 1,000 items)"]')
