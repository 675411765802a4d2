"""Strict tools and answers: schemas as each provider's strict mode takes them, and what comes back."""

import datetime
import enum
import json
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Annotated, Any, Literal

import jsonschema
import pandas as pd
import pydantic
import pytest
from hypothesis import given
from hypothesis import strategies as st

import nbllm
from nbllm.core.calls import ProviderSpec
from nbllm.core.errors import Mismatch
from nbllm.core.messages import Message, Request, Tool
from nbllm.core.schema import Shape
from nbllm.core.strict import ANTHROPIC, OPENAI, drop_added_nulls, strict_answer_schema, strict_parameters
from nbllm.dialects._openai import is_closed
from nbllm.errors import ConfigError
from nbllm.notebook.cell import _check_supported
from nbllm.notebook.syntax.parser import parse
from nbllm.routing.dialects import DIALECTS
from nbllm.simulator import script
from nbllm.tools import of
from nbllm.tools.usable import ToolArgumentsError


class Colour(enum.Enum):
    RED = "red"


class Item(pydantic.BaseModel):
    name: str
    colour: Colour = Colour.RED
    parts: list["Item"] = []


@dataclass
class Point:
    x: int
    y: int = 0


def plain(article: str, currency: Literal["EUR", "USD"] = "EUR", tax: float | None = None) -> str:
    """A price."""


def rich(
    when: datetime.date,
    item: Item,
    points: list[Point],
    size: Annotated[int, pydantic.Field(ge=1, le=9, description="in cm")] = 3,
    name: Annotated[str, pydantic.Field(min_length=2)] = "ab",
) -> str:
    """Many types."""


def nothing() -> str:
    """No argument."""


def loose(options: dict[str, int]) -> str:
    """An object of any keys."""


def unknown(value: Any) -> str:
    """Anything."""


def pair(both: tuple[int, str]) -> str:
    """A tuple."""


GOOD = (plain, rich, nothing)


@pytest.mark.parametrize("function", GOOD, ids=lambda f: f.__name__)
def test_openai_takes_only_closed_objects(function):
    """With every property required; what it has no word for is told."""
    made = strict_parameters(of(function, strict=True).tool, OPENAI)
    jsonschema.Draft202012Validator.check_schema(made)
    assert is_closed(made)
    assert '"default":' not in json.dumps(made)


def test_what_is_rewritten():
    """An optional argument may be null; its default and what has no word stand in the description."""
    made = strict_parameters(of(rich, strict=True).tool, OPENAI)["properties"]
    size, name = made["size"], made["name"]
    assert {"type": "null"} == size["anyOf"][1]
    assert (1, 9) == (size["anyOf"][0]["minimum"], size["anyOf"][0]["maximum"])
    assert "in cm (default: 3)" == size["description"]
    assert '(default: "ab", minLength: 2)' == name["description"]
    assert "minLength" not in name["anyOf"][0]
    assert {"type": "string", "format": "date"} == made["when"]


def test_a_schema_stays_as_it_is_without_strict():
    """Also the same object."""
    tool = of(rich).tool
    assert tool.parameters is strict_parameters(tool, OPENAI) is strict_parameters(tool, ANTHROPIC)


def test_anthropic_keeps_what_is_optional():
    """Objects are closed, and bounds told in words."""
    made = strict_parameters(of(plain, strict=True).tool, ANTHROPIC)
    assert ["article"] == made["required"]
    assert made["additionalProperties"] is False
    assert "EUR" == made["properties"]["currency"]["default"]
    sized = Tool("f", "", {"properties": {"n": {"type": "integer", "minimum": 2}}}, strict=True)
    assert {"type": "integer", "description": "(minimum: 2)"} == strict_parameters(sized, ANTHROPIC)[
        "properties"
    ]["n"]


@pytest.mark.parametrize(
    ("function", "mode", "words"),
    [
        (loose, OPENAI, "'options' of loose: it is an object with arbitrary keys"),
        (loose, ANTHROPIC, "'options' of loose: it is an object with arbitrary keys"),
        (unknown, OPENAI, "'value' of unknown: it may be of any type"),
        (pair, OPENAI, "'both' of pair: its schema uses prefixItems"),
        (rich, ANTHROPIC, "'item.parts[]' of rich: it contains itself"),
    ],
)
def test_what_cannot_be_strict_is_named(function, mode, words):
    """With its place."""
    with pytest.raises(ConfigError, match="strict mode cannot take") as caught:
        strict_parameters(of(function, strict=True).tool, mode)
    assert words in caught.value.message
    assert "leave strict out" in caught.value.hint


ODD = [
    {"type": "object", "anyOf": [{"required": ["a"]}]},
    {"$ref": "#/$defs/A", "$defs": {"A": {"type": "object"}}},
    {"properties": {"a": {"$ref": "http://example.com/x"}}},
    {"properties": {"a": {"$ref": 5}}},
    {"properties": {"a": {"$ref": "#/properties/a"}}},
    {"properties": {"a": {"allOf": [{"type": "string"}, {"minLength": 1}]}}},
    {"properties": {"a": {"type": "array"}}},
    {"properties": {"a": True}},
    {"properties": {"a": None}},
    {"properties": {"a": {"type": "object"}}},
    {"properties": {"a": {"not": {}}}},
]


@pytest.mark.parametrize("schema", ODD, ids=json.dumps)
@pytest.mark.parametrize("mode", [OPENAI, ANTHROPIC], ids=lambda m: m.label)
def test_odd_schemas_of_servers_are_refused_in_words(schema, mode):
    """Never a traceback."""
    with pytest.raises(ConfigError, match="strict mode cannot take"):
        strict_parameters(Tool("f", "", schema, strict=True), mode)


def test_a_schema_that_grows_without_end_is_refused():
    """Each definition holds the next one twice, in words of its own."""
    definitions = {
        f"D{i}": {
            "type": "object",
            "properties": {n: {"$ref": f"#/$defs/D{i + 1}", "description": n} for n in "ab"},
        }
        for i in range(40)
    }
    schema = {
        "properties": {"a": {"$ref": "#/$defs/D0"}},
        "$defs": {**definitions, "D40": {"type": "string"}},
    }
    for mode in (OPENAI, ANTHROPIC):
        with pytest.raises(ConfigError, match="too large"):
            strict_parameters(Tool("f", "", schema, strict=True), mode)
    deep: Any = {"type": "string"}
    for _ in range(500):
        deep = {"type": "array", "items": deep}
    with pytest.raises(ConfigError, match="too large"):
        strict_parameters(Tool("f", "", {"properties": {"a": deep}}, strict=True), OPENAI)


_leaf = st.sampled_from([{"type": "string"}, {"type": "integer"}, {"type": "boolean"}, {"enum": ["a", 1]}])
_values = {"string": st.text(max_size=3), "integer": st.integers(), "boolean": st.booleans()}


def _objects(inner):
    names = st.dictionaries(st.sampled_from("abcd"), inner, min_size=1, max_size=3)

    def made(properties):
        needed = st.lists(st.sampled_from(sorted(properties)), unique=True)
        return needed.map(lambda r: {"type": "object", "properties": properties, "required": r})

    return names.flatmap(made)


SCHEMAS = st.recursive(
    _leaf, lambda s: st.one_of(s.map(lambda i: {"type": "array", "items": i}), _objects(s)), max_leaves=8
)


def _value(draw, schema):
    """A value of a schema, and the one that a strict mode writes for it: null for what is left out."""
    if schema.get("type") == "array":
        pairs = [_value(draw, schema["items"]) for _ in range(draw(st.integers(0, 2)))]
        return [a for a, _ in pairs], [b for _, b in pairs]
    if schema.get("type") == "object":
        plain, strict = {}, {}
        for name, inner in schema["properties"].items():
            a, strict[name] = _value(draw, inner)
            if name in schema["required"] or draw(st.booleans()):
                plain[name] = a
            else:
                strict[name] = None
        return plain, strict
    found = draw(_values[schema["type"]] if "type" in schema else st.sampled_from(schema["enum"]))
    return found, found


@given(st.data())
def test_what_is_left_out_comes_back_as_left_out(data):
    """Any schema of objects: the strict form takes null for it, and the tool sees nothing."""
    schema = data.draw(_objects(SCHEMAS))
    plain, strict = _value(data.draw, schema)
    made = strict_parameters(Tool("f", "", schema, strict=True), OPENAI)
    jsonschema.validate(strict, made)
    assert is_closed(made)
    assert plain == drop_added_nulls(strict, schema)


def test_nulls_that_mean_something_stay():
    """Where an argument takes null, or must be given."""
    tool = of(plain, strict=True)
    given = {"article": "A", "currency": None, "tax": None}
    assert {"article": "A", "tax": None} == tool.validate(given)
    with pytest.raises(ToolArgumentsError):
        tool.validate({"article": None, "currency": None, "tax": None})
    with pytest.raises(ToolArgumentsError):
        of(plain).validate(given)
    nested = of(rich, strict=True).validate(
        {
            "when": "2026-01-01",
            "item": {"name": "a", "colour": None, "parts": None},
            "points": [],
            "size": None,
        }
    )
    assert Item(name="a") == nested["item"]


@pytest.mark.parametrize("name", ["openai", "responses", "claude", "gemini"])
def test_strict_is_an_option_of_a_call(name):
    """It holds for all tools of the call, whose code sees what was left out as left out."""
    seen = []

    def price(article: str, currency: Literal["EUR", "USD"] = "EUR") -> str:
        """A price."""
        seen.append((article, currency))
        return "4"

    call = {"name": "price", "arguments": {"article": "A", "currency": None}}
    steps = script([{"calls": [call]}, {"text": "It is {results}."}])
    found = nbllm.complete(
        "Hi", f"sim/{name}/m@ttft=0,gap=0,{steps}", tools=[price], strict=True, approve="auto"
    )
    assert [("A", "EUR")] == seen
    assert found.text.startswith("It is ")
    assert [True] == [t.strict for t in found.request.tools]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"strict": True}, "strict= is for tools"),
        ({"strict": True, "tools": [loose]}, "object with arbitrary keys"),
    ],
)
def test_strict_that_cannot_be_honoured_is_refused(options, words):
    """Before anything is sent."""
    with pytest.raises(ConfigError, match=words):
        nbllm.complete("Hi", "sim/openai", **options)


def test_ollama_has_no_strict_tools():
    """It says so."""
    with pytest.raises(ConfigError, match="no strict tools"):
        nbllm.complete("Hi", "sim/ollama", tools=[plain], strict=True)


# --- answers ------------------------------------------------------------------------------------------------

LOOSE = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "minLength": 1},
        "age": {"type": "integer", "minimum": 0},
        "note": {"type": ["string", "null"]},
    },
    "required": ["name"],
}


def sent(dialect, strict, schema=LOOSE, **more):
    """What a request holds of a schema: (its form, whether it says strict)."""
    row = ProviderSpec("acme", dialect, "https://acme.test/v1", label="Acme")
    request = Request("m", (Message("user", "Hi"),), schema=schema, strict=strict, **more)
    body = DIALECTS[dialect].encode(request, row, None).body
    forms = {
        "openai_chat": lambda: body["response_format"]["json_schema"],
        "openai_responses": lambda: body["text"]["format"],
        "anthropic": lambda: body["output_config"]["format"],
        "gemini": lambda: {"schema": body["generationConfig"]["responseJsonSchema"]},
        "ollama": lambda: {"schema": body["format"]},
        "cohere": lambda: {"schema": body["response_format"]["json_schema"]},
    }
    form = forms[dialect]()
    return form["schema"], form.get("strict")


@pytest.mark.parametrize("dialect", ["openai_chat", "openai_responses"])
def test_a_strict_answer_of_openais_is_closed(dialect):
    """Every field is there, null where it was optional; without strict= the schema is sent as it is."""
    schema, strict = sent(dialect, True)
    assert ([*LOOSE["properties"]], False, True) == (
        schema["required"],
        schema["additionalProperties"],
        strict,
    )
    assert {"anyOf": [{"type": "integer", "minimum": 0}, {"type": "null"}]} == schema["properties"]["age"]
    assert "minLength: 1" in schema["properties"]["name"]["description"]
    assert (LOOSE, False) == sent(dialect, None) == sent(dialect, False)
    assert (True, False) == (sent(dialect, None, schema)[1], sent(dialect, False, schema)[1])


def test_a_strict_answer_of_anthropics_tells_bounds():
    schema, _ = sent("anthropic", True)
    assert {"type": "integer", "description": "(minimum: 0)"} == schema["properties"]["age"]
    assert (["name"], False) == (schema["required"], schema["additionalProperties"])
    assert 0 == sent("anthropic", None)[0]["properties"]["age"]["minimum"]


@pytest.mark.parametrize("dialect", ["gemini", "ollama", "cohere"])
def test_who_holds_every_answer_to_its_schema_is_sent_it_as_it_is(dialect):
    assert sent(dialect, None) == sent(dialect, True) == (LOOSE, None)


@pytest.mark.parametrize("dialect", ["openai_chat", "openai_responses", "anthropic"])
@pytest.mark.parametrize(
    ("schema", "words"),
    [
        ({"type": "object"}, None),
        (
            {"type": "object", "additionalProperties": True},
            "the fields of the answer: it is an object with arbitrary",
        ),
        ({"properties": {"a": {}}}, "the field 'a' of the answer: it may be of any type"),
        ({"properties": {"a": {"type": "object"}}}, "'a' of the answer: it is an object with arbitrary keys"),
        ({"properties": {"a": {"not": {"type": "string"}}}}, "its schema uses not"),
        ({"anyOf": [{"type": "object"}]}, "they are not a plain object"),
    ],
)
def test_an_answer_that_cannot_be_strict_is_named(dialect, schema, words):
    """Before anything is sent; without strict= it goes as it is."""
    sent(dialect, None, schema)
    if words is None:
        assert sent(dialect, True, schema)
        return
    with pytest.raises(ConfigError, match=words) as caught:
        sent(dialect, True, schema)
    assert "leave strict out for the answer" in caught.value.hint


@pytest.mark.parametrize("name", ["openai", "responses", "claude", "gemini", "ollama"])
def test_a_strict_answer_has_its_shape(name):
    """In every format, beside tools too where they may be."""
    found = nbllm.complete("Hi", f"sim/{name}/m@ttft=0,gap=0", schema=LOOSE, strict=True)
    assert found.request.strict
    assert {"name"} <= {*Shape.of(LOOSE).check(found.text)}
    both = {} if name == "ollama" else {"tools": [plain], "approve": "never"}
    assert nbllm.complete("Hi", f"sim/{name}/m@ttft=0,gap=0", schema=LOOSE, strict=True, **both).text


def test_nulls_of_what_was_left_out_are_left_out():
    """Where the schema takes none, and only there; what else is wrong stays wrong."""
    shape = Shape.of(LOOSE)
    assert {"name": "A", "note": None} == shape.check('{"name": "A", "age": null, "note": null}')
    for wrong in ('{"name": null}', '{"name": "A", "age": "x"}', '{"name": null, "age": null}'):
        with pytest.raises(Mismatch):
            shape.check(wrong)
    rows = Shape.of({"type": "array", "items": LOOSE})
    assert [{"name": "A"}] == rows.check('{"items": [{"name": "A", "age": null}]}')
    typed = Shape.of(Item)
    assert Item(name="a") == typed.check('{"name": "a", "colour": null, "parts": null}')


@pytest.mark.slow
@given(st.data())
def test_what_a_strict_answer_leaves_out_fits(data):
    """Any schema of objects: the strict form takes null for it, and the answer is as without."""
    schema = data.draw(_objects(SCHEMAS))
    plain, strict = _value(data.draw, schema)
    made = strict_answer_schema(schema, OPENAI)
    jsonschema.validate(strict, made)
    assert plain == Shape.of(schema).check(json.dumps(strict))


def test_strict_without_what_it_holds():
    """Tables and batches say so too, and providers that are sent no schema."""
    df = pd.DataFrame({"a": [1]})
    for more in ({}, {"mode": "batch", "wait": False}):
        with pytest.raises(ConfigError, match="strict= cannot be used with an answer without a schema"):
            nbllm.map(df, "{a}", model="sim/openai/m", strict=True, **more)
    with pytest.raises(ConfigError, match="strict= cannot be used with DeepSeek"):
        nbllm.map(df, "{a}", model="deepseek/deepseek-chat", schema=LOOSE, strict=True, api_key="k")
    with pytest.raises(ConfigError, match="has no schema"):
        nbllm.complete("Hi", "deepseek/deepseek-chat", schema=LOOSE, strict=True, api_key="k")
    made = nbllm.map(df, "{a}", model="sim/openai/m@ttft=0,gap=0", schema="name, age int", strict=True)
    assert ["ok"] == [*made["llm_status"]]


@pytest.mark.parametrize(
    ("line", "column"),
    [
        ("deepseek/deepseek-chat schema=name strict=true", 36),
        ("openai/mini|deepseek/deepseek-chat schema=name strict=true", 48),
        ("openai/mini,deepseek/deepseek-chat schema=name strict=true", 48),
    ],
)
def test_a_cell_says_where(line, column):
    """In the words of its column."""
    client = nbllm.Client(ledger=None)
    session = SimpleNamespace(client=client)
    cell = parse(line, client.registry.dialects)
    with pytest.raises(ConfigError, match="DeepSeek") as caught:
        _check_supported(session, cell, dict(cell.options))
    assert str(caught.value).startswith(f"Column {column}: strict=")
