"""The line of a cell, read: what is meant, and what is refused with its column and the nearest name."""

import contextlib
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nbllm.core import schema_shorthand as shorthand
from nbllm.core.errors import ConfigError
from nbllm.notebook.syntax import parser as grammar
from nbllm.notebook.syntax.options import OPTIONS


@pytest.mark.parametrize(
    ("line", "models", "options", "extra", "out"),
    [
        ("", (), {}, {}, None),
        ("gemini/pro", ("gemini/pro",), {}, {}, None),
        ("model=gemini/pro", ("gemini/pro",), {}, {}, None),
        ("a,b", ("a", "b"), {}, {}, None),
        (
            "-m a -t 0 -s x -n -q",
            ("a",),
            {"temperature": 0.0, "system": "x", "dry_run": True, "quiet": True},
            {},
            None,
        ),
        ("answer << m temperature=0.5", ("m",), {"temperature": 0.5}, {}, "answer"),
        ("m >> answer", ("m",), {}, {}, "answer"),
        ("out=answer", (), {}, {}, "answer"),
        ("--max-tokens 20 --top-p=0.9 seed=-1", (), {"max_tokens": 20, "top_p": 0.9, "seed": -1}, {}, None),
        ("--dry-run --no-quiet", (), {"dry_run": True, "quiet": False}, {}, None),
        ("""system="it's 'fine'" """, (), {"system": "it's 'fine'"}, {}, None),
        ("""system='say ""' """, (), {"system": 'say ""'}, {}, None),
        ('system="a ""quoted"" word"', (), {"system": 'a "quoted" word'}, {}, None),
        ("system=don't", (), {"system": "don't"}, {}, None),
        (r"attach=C:\new\file.txt", (), {"attach": [r"C:\new\file.txt"]}, {}, None),
        ('system="C:\\dir\\" -q', (), {"system": "C:\\dir\\", "quiet": True}, {}, None),
        ("-a one.png -a two.png", (), {"attach": ["one.png", "two.png"]}, {}, None),
        ('stop=a stop=["b", "c d"]', (), {"stop": ["a", "b", "c d"]}, {}, None),
        (
            'x.a=1 x.b.c="1" x.d={"e": [1, 2], "f": "}"} x.g=word',
            (),
            {},
            {"a": 1, "b": {"c": "1"}, "d": {"e": [1, 2], "f": "}"}, "g": "word"},
            None,
        ),
        (
            "timeout=2m timeout.first=500ms timeout.idle=30",
            (),
            {"timeout": 120.0, "timeout.first": 0.5, "timeout.idle": 30.0},
            {},
            None,
        ),
        ("reasoning=low", (), {"reasoning": "low"}, {}, None),
        ("cache=1h", (), {"cache": "1h"}, {}, None),
        ("reasoning=2000", (), {"reasoning": 2000}, {}, None),
        ('schema={"type": "object"}', (), {"schema": '{"type": "object"}'}, {}, None),
        ('schema="name, age int"', (), {"schema": "name, age int"}, {}, None),
        (
            "key=MY_KEY base_url=http://h:1/v1?a=b",
            (),
            {"key": "MY_KEY", "base_url": "http://h:1/v1?a=b"},
            {},
            None,
        ),
        ("a << m\t-t  1", ("m",), {"temperature": 1.0}, {}, "a"),
        ('"my model" -q', ("my model",), {"quiet": True}, {}, None),
        ("system='' -n", (), {"system": "", "dry_run": True}, {}, None),
        ('-s key="v m', ("m",), {"system": 'key="v'}, {}, None),
        ('--schema {"a": {"b": "} \\" ]"}} m', ("m",), {"schema": '{"a": {"b": "} \\" ]"}}'}, {}, None),
        ("schema=[name, age int] m", ("m",), {"schema": "[name, age int]"}, {}, None),
        ("-t -0 -s -5", (), {"temperature": 0.0, "system": "-5"}, {}, None),
        ("quiet=NO --timeout.total 3s", (), {"quiet": False, "timeout": 3.0}, {}, None),
        (
            "x.a=NaN x.b=1e3 x.c=null x.d-e={bad} --x.f 1",
            (),
            {},
            {"a": "NaN", "b": 1000.0, "c": None, "d-e": "{bad}", "f": 1},
            None,
        ),
        ('attach="[draft].md"', (), {"attach": ["[draft].md"]}, {}, None),
        ("hf.co/a/b:Q4_K_M,@x/y@z", ("hf.co/a/b:Q4_K_M", "@x/y@z"), {}, {}, None),
    ],
)
def test_what_a_line_means(line, models, options, extra, out):
    """Models, options by every spelling, provider options and names."""
    read = grammar.parse(line)
    assert (models, options, extra, out) == (read.models, dict(read.options), dict(read.extra), read.out)


@pytest.mark.parametrize(
    ("line", "column", "words"),
    [
        ("temprature=1", 1, "did you mean temperature?"),
        ("m --temprature 1", 3, "did you mean temperature?"),
        ("-temperature 0", 1, "did you mean temperature?"),
        ("t=1 -t nan", 1, "unknown option 't': did you mean temperature?"),
        ("api_key=x", 1, "did you mean key?"),
        ("--no-stream", 1, "did you mean render=final?"),
        ("max_completion_tokens=5", 1, "did you mean max_tokens?"),
        ("api_base=x", 1, "did you mean base_url?"),
        ("n=3", 1, "did you mean runs?"),
        ("response_format=json", 1, "did you mean schema?"),
        ("system_prompt=x", 1, "did you mean system?"),
        ("max_retries=3", 1, "did you mean retries?"),
        ("TEMPERATURE=0", 1, "did you mean temperature?"),
        ("maxTokens=5", 1, "did you mean max_tokens?"),
        ("m temperature:0", 3, "as temperature=0"),
        ("a | b", 3, "a|b without spaces"),
        ("block=2", 1, "did you mean blocks= of %llm bench?"),
        ("m blocks=2", 3, "did you mean blocks= of %llm bench?"),
        ("cheap(openai/mini,claude/haiku)", 1, "as cheap(a|b)"),
        ("cheap( a | b )", 1, "as cheap(a|b)"),
        ("budget=$0,05", 1, "above 0"),
        ("m > answer", 3, ">> NAME last"),
        ("what is this", 6, "The prompt stands below"),
        ("as=DF", 1, "did you mean df?"),
        ("-z", 1, "-m"),
        ("-mfoo", 1, "one letter"),
        ("xyzzy=1", 1, "%llm help"),
        ("a b", 3, "given twice"),
        ("m model=n", 3, "given twice"),
        ("seed=1 seed=2", 8, "given twice"),
        ("max-tokens=1 max_tokens=2", 14, "given twice"),
        ("timeout=1 timeout.total=2", 11, "given twice"),
        ("a << m >> b", 8, "given twice"),
        ("--quiet --no-quiet", 9, "given twice"),
        ("m seed=x", 3, "whole number"),
        ("m seed=1.5", 3, "whole number"),
        ("m -t", 3, "needs a value"),
        ("-t -q", 1, "needs a value"),
        ("-s >> a", 1, "needs a value"),
        ("-t nan", 1, "a number"),
        ("-t -1", 1, "at least 0"),
        ("retries=-1", 1, "at least 0"),
        ("max_tokens=0", 1, "at least 1"),
        ("top_p=", 1, "a number"),
        ("reasoning=²", 1, "low, medium"),
        ("reasoning=lots", 1, "number of tokens"),
        ("timeout=-1", 1, "needs a time"),
        ("timeout=0", 1, "needs a time"),
        ("format=xml", 1, "md, text"),
        ("cache=2h", 1, "auto, off, 1h"),
        ("format=jsn", 1, "did you mean json?"),
        ("quiet=maybe", 1, "true or false"),
        ("fill=double fill=on", 13, "given twice"),
        ('m "open', 3, "not closed"),
        ('x.a={"b": 1', 5, "not closed"),
        ('system="a"b', 11, "closing quote"),
        ("x.a=[1]b", 8, "closing bracket"),
        ('system="say \\" hi"', 16, "no model's name"),
        ("stop=[1]", 1, "JSON list"),
        (f"stop={'[' * 9999}{']' * 9999}", 1, "JSON list"),
        ("bg=x", 1, "true or false"),
        ("keep=x", 1, "true or false"),
        ("--tools", 1, "needs a value"),
        ("tools=a,,b", 1, "names joined by commas"),
        ("budget=$x", 1, "a number"),
        ("budget=usd:-1", 1, "is above 0"),
        ("budget=eur:1", 1, "usd and tokens"),
        ("budget=5", 1, "is at least 20"),
        ("show_reasoning=perhaps", 1, "true or false"),
        ("x.a=1 x.a=2", 7, "twice"),
        ("x.a=1 x.a.b=2", 7, "not an object"),
        ("x..a=1", 1, "no name"),
        ("x.=1", 1, "no name"),
        ("a << b << c", 8, "wrong place"),
        ("<< m", 1, "wrong place"),
        ("m >> a b", 3, "wrong place"),
        ("m >>", 3, "needs a name"),
        ("a<<m", 1, "spaces"),
        ("x=1 << m", 1, "unknown option"),
        ("1x << m", 1, "variable's name"),
        ("out=class", 1, "variable's name"),
        ("m >> a.b", 3, "variable's name"),
        ("temperature = 0", 1, "without spaces"),
        ("m = 0", 3, "stands alone"),
        ("quiet", 1, "--quiet"),
        ("-5", 1, "no option"),
        ("--", 1, "no option"),
        ("model=a,", 1, "without spaces"),
        ("a, b", 1, "without spaces"),
        ("model=", 1, "model"),
        ("{x}", 1, "is not filled"),
    ],
)
def test_what_is_refused(line, column, words):
    """One line with the column; the nearest name, or what was expected."""
    with pytest.raises(ConfigError) as caught:
        grammar.parse(line)
    assert words in str(caught.value)
    assert caught.value.message.startswith(f"Column {column}:")
    assert "\n" not in caught.value.message
    assert len(caught.value.message) < 200


KEYS = (
    "sk-canary0123456789abcdefghij",
    "sk_canary0123456789",
    "gsk_canaryABC0123456789",
    "hf_canaryQWERTYUIOP",
    "AIzaSycanary_0123456789",
    "canary0123456789abcdef0123456789",
    "xai-canaryABCDEFGHIJKL",
)


@pytest.mark.parametrize("key", KEYS)
@pytest.mark.parametrize(
    "place",
    [
        "key={}",
        "--key {}",
        "key={} -q",
        "key='{}'",
        "key {}",
        "api_key={}",
        "seed={}",
        "format={}",
        "-n={}",
        "timeout={}",
        "x.a={} -z",
        "{}= m",
    ],
)
def test_a_key_typed_by_mistake_is_not_echoed(key, place):
    """key= takes a name; a key there, or in another wrong place, is refused without being shown."""
    with pytest.raises(ConfigError) as caught:
        grammar.parse(place.format(key))
    assert "canary" not in str(caught.value)


@pytest.mark.parametrize(
    "name",
    [
        "OPENAI_API_KEY",
        "my_key",
        "KEY_FOR_MY_PROJECT_2",
        "HF_TOKEN",
        "sk_my_production_key",
        "openAiKeyForTheTeam",
    ],
)
def test_the_name_of_a_key_is_taken(name):
    """Names that a person gives are not mistaken for keys."""
    assert name == grammar.parse(f"key={name}").options["key"]


@pytest.mark.parametrize(
    "line", ["sk-canary0123456789abcdefghij", "-m gsk_canaryABC0123456789", "model=AIzaSycanary_0123456789"]
)
def test_a_key_in_place_of_a_model_is_not_echoed(line):
    """Nor looked up anywhere."""
    with pytest.raises(ConfigError, match="not a key") as caught:
        grammar.parse(line)
    assert "canary" not in str(caught.value)


def test_a_key_does_not_go_into_the_body():
    """x.* goes to the provider's body, where no key belongs."""
    with pytest.raises(ConfigError, match="looks like a key"):
        grammar.parse("x.api_key=sk-canary0123456789abcdefghij")
    assert {"user": "a" * 50} == grammar.parse(f"x.user={'a' * 50}").extra


def test_every_option_says_where_it_stood():
    """First column and the one after the last."""
    line = 'a << m -t 0 system="x y" x.b.c=1 --quiet'
    spans = grammar.parse(line).spans
    assert {
        "out": "a <<",
        "model": "m",
        "temperature": "-t 0",
        "system": 'system="x y"',
        "x.b.c": "x.b.c=1",
        "quiet": "--quiet",
    } == {name: line[start:end] for name, (start, end) in spans.items()}
    assert (2, 11) == grammar.parse("m >> answer").spans["out"]


READERS = (
    grammar.parse,
    grammar.parse_ask,
    grammar.completion_at,
    grammar.split_subcommand,
    shorthand.schema,
)


@given(st.text(max_size=60))
def test_any_line_is_read_or_refused(line):
    """Nothing but a Line or a ConfigError comes out."""
    for read in READERS:
        with contextlib.suppress(ConfigError):
            read(line)


@given(
    st.lists(
        st.sampled_from(
            [
                "--",
                "-t",
                "=",
                "x.",
                "a",
                " ",
                "<<",
                ">>",
                '"',
                "'",
                "{",
                "}",
                "[",
                "]",
                "\\",
                ",",
                "model",
                "stop=",
                "reasoning=",
                "9",
                "²",
                "timeout",
                "1e999",
            ]
        ),
        max_size=14,
    )
)
def test_any_line_of_our_own_words_is_read_or_refused(words):
    """The same with what the grammar is made of."""
    test_any_line_is_read_or_refused.hypothesis.inner_test("".join(words))


@given(st.text(st.characters(blacklist_categories=["Cs"]), max_size=40))
def test_a_quoted_value_comes_back_as_it_was(text):
    """Doubling the quote is all that quoting takes, whatever stands around."""
    for quote in "\"'":
        doubled = quote + text.replace(quote, quote * 2) + quote
        for line in (f"system={doubled}", f"m -s {doubled} -q", f"--system={doubled}\t-q"):
            assert text == grammar.parse(line).options["system"]


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers(-9, 9) | st.text(max_size=5),
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    )
)
def test_json_needs_no_quotes(value):
    """Any object or list stands on the line as json.dumps writes it, spaces and brackets in strings and
    all."""
    assert [value] == grammar.parse(f"x.a={json.dumps([value])} -q").extra["a"]


@pytest.mark.parametrize(
    ("line", "models", "prompt"),
    [
        ("-m gemini/flash -t 0 why is {x} so a=b", ("gemini/flash",), "why is {x} so a=b"),
        ('model=m system="be brief" hello there', ("m",), "hello there"),
        ("--quiet hello", (), "hello"),
        ("hello -m x", (), "hello -m x"),
        ("x=3 solve it", (), "x=3 solve it"),
        ("-q 'quoted' it's", (), "'quoted' it's"),
        ("-q -5 + 3 >> a", (), "-5 + 3 >> a"),
        ('x.a={"b": 1} {x}', (), "{x}"),
        ("", (), ""),
    ],
)
def test_ask_takes_options_first_and_the_rest_as_prompt(line, models, prompt):
    """The first word that is no option begins the prompt."""
    read, text = grammar.parse_ask(line)
    assert (models, prompt) == (read.models, text)


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("", ("help", "")),
        (" ", ("help", "")),
        ("--help", ("help", "")),
        ("-h budget", ("help", "budget")),
        ("?", ("help", "")),
        ("use gemini/pro  ", ("use", "gemini/pro")),
        ("use\ta  b", ("use", "a  b")),
        ("ping", ("ping", "")),
        ("replay x.llm.jsonl pace=recorded", ("replay", "x.llm.jsonl pace=recorded")),
        ("record off", ("record", "off")),
        ("cache clear", ("cache", "clear")),
    ],
)
def test_subcommands(line, expected):
    """The first word, and the rest."""
    assert expected == grammar.split_subcommand(line)


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("modles", "did you mean %llm models?"),
        ("list", "did you mean %llm models?"),
        ("reset", "did you mean %llm use reset?"),
        ("History", "did you mean %llm log?"),
        ("what's this", "%llm ask"),
        ("gemini/pro why", "%llm ask"),
        ("-m x y", "%llm ask"),
    ],
)
def test_an_unknown_subcommand_answers_with_the_nearest(line, words):
    """Or with how to ask."""
    with pytest.raises(ConfigError) as caught:
        grammar.split_subcommand(line)
    assert words in str(caught.value)


@pytest.mark.parametrize(
    ("line", "kind", "prefix", "option"),
    [
        ("", "word", "", ""),
        ("gem", "word", "gem", ""),
        ("model=ge", "model", "ge", "model"),
        ("model=a,ge", "model", "ge", "model"),
        ("-m ge", "model", "ge", "model"),
        ("m --te", "option", "--te", ""),
        ("format=j", "value", "j", "format"),
        ("--reasoning l", "value", "l", "reasoning"),
        ("m ", "word", "", ""),
        ("a,ge", "word", "ge", ""),
        ("-f=j", "value", "j", "format"),
        ("-f j", "value", "j", "format"),
        ("--quiet ge", "word", "ge", ""),
        ("m >> na", "value", "na", "out"),
        ('system="be br', "value", "be br", "system"),
        ('-s "be br', "value", "be br", "system"),
        ('system="a b" te', "word", "te", ""),
        ('stop=["a", ', "value", '["a", ', "stop"),
        ("--max-tokens=1", "value", "1", "max_tokens"),
        ("x.a=1", "value", "1", "x.a"),
        ("a << ge", "word", "ge", ""),
    ],
)
def test_what_stands_at_the_cursor(line, kind, prefix, option):
    """Models, options and values are told apart, with where they stand."""
    place = grammar.completion_at(line + " and what follows", len(line))
    assert (kind, prefix, option) == (place.kind, place.prefix, place.option)
    assert prefix == line[place.start : place.end]
    assert place.end == len(line)


def test_the_first_word_of_a_line_magic_is_a_subcommand():
    """And the second is not."""
    assert ("subcommand", "mo") == (
        grammar.completion_at("mo", subcommands=True).kind,
        grammar.completion_at(" mo", subcommands=True).prefix,
    )
    assert "word" == grammar.completion_at("use mo", subcommands=True).kind


def test_every_option_has_help_and_its_own_letter():
    """The table is complete and its short letters are unique."""
    letters = [o.short for o in OPTIONS.values() if o.short]
    assert len(letters) == len(set(letters))
    assert all(o.help for o in OPTIONS.values())


def test_the_short_form_of_a_schema():
    """Names, types, lists, optional fields and descriptions."""
    made = shorthand.schema("name, age int, tags list, scores list[float], note? str: a remark")
    assert {"type": "array", "items": {"type": "number"}} == made["properties"]["scores"]
    assert {"type": ["string", "null"], "description": "a remark"} == made["properties"]["note"]
    assert ["name", "age", "tags", "scores", "note"] == made["required"]
    assert made["additionalProperties"] is False


@pytest.mark.parametrize("text", ["age: int", "age : int", "age:int: in years"])
def test_a_type_may_stand_behind_a_colon(text):
    """As Python writes it; any other text there describes the field."""
    assert "integer" == shorthand.schema(text)["properties"]["age"]["type"]
    made = shorthand.schema("tags: list[int], note?: str, why: internal, of: str or number")["properties"]
    assert {"type": "array", "items": {"type": "integer"}} == made["tags"]
    assert ["string", "null"] == made["note"]["type"]
    assert ["internal", "str or number"] == [made[n]["description"] for n in ("why", "of")]


def test_a_list_of_records():
    """Brackets around the fields."""
    made = shorthand.schema("[name, born date?]")
    assert ["items"] == made["required"]
    assert ["name", "born"] == made["properties"]["items"]["items"]["required"]
    assert ["string", "null"] == made["properties"]["items"]["items"]["properties"]["born"]["type"]


@pytest.mark.parametrize(
    "text",
    ["", "[]", "1a", "name in", "age integr", "x list[foo]", "x int[str]", "a, a", "a: one, two b: three"],
)
def test_a_wrong_short_schema_says_what_is_wrong(text):
    """Unknown types and misshaped fields."""
    with pytest.raises(ConfigError):
        shorthand.schema(text)
