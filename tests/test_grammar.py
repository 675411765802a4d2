"""The line of a cell, read: what is meant, and what is refused with its column and the nearest name."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nbllm.errors import ConfigError
from nbllm.notebook import grammar, shorthand
from nbllm.notebook.options import OPTIONS


@pytest.mark.parametrize(("line", "models", "options", "extra", "out"), [
    ("", (), {}, {}, None),
    ("gemini/pro", ("gemini/pro",), {}, {}, None),
    ("model=gemini/pro", ("gemini/pro",), {}, {}, None),
    ("a,b", ("a", "b"), {}, {}, None),
    ("-m a -t 0 -s x -n -q", ("a",), {"temperature": 0.0, "system": "x", "dry_run": True, "quiet": True}, {}, None),
    ("answer << m temperature=0.5", ("m",), {"temperature": 0.5}, {}, "answer"),
    ("m >> answer", ("m",), {}, {}, "answer"),
    ("out=answer", (), {}, {}, "answer"),
    ("--max-tokens 20 --top-p=0.9 seed=-1", (), {"max_tokens": 20, "top_p": 0.9, "seed": -1}, {}, None),
    ("--dry-run --no-quiet", (), {"dry_run": True, "quiet": False}, {}, None),
    ("""system="it's 'fine'" """, (), {"system": "it's 'fine'"}, {}, None),
    ("""system='say ""' """, (), {"system": 'say ""'}, {}, None),
    ('system="a ""quoted"" word"', (), {"system": 'a "quoted" word'}, {}, None),
    ("system=don't", (), {"system": "don't"}, {}, None),
    (r'attach=C:\new\file.txt', (), {"attach": [r"C:\new\file.txt"]}, {}, None),
    ('system="C:\\dir\\" -q', (), {"system": "C:\\dir\\", "quiet": True}, {}, None),
    ("-a one.png -a two.png", (), {"attach": ["one.png", "two.png"]}, {}, None),
    ('stop=a stop=["b", "c d"]', (), {"stop": ["a", "b", "c d"]}, {}, None),
    ('x.a=1 x.b.c="1" x.d={"e": [1, 2], "f": "}"} x.g=word', (), {}, {"a": 1, "b": {"c": "1"}, "d": {"e": [1, 2], "f": "}"}, "g": "word"}, None),
    ("timeout=2m timeout.first=500ms timeout.idle=30", (), {"timeout": 120.0, "timeout.first": 0.5, "timeout.idle": 30.0}, {}, None),
    ("reasoning=low", (), {"reasoning": "low"}, {}, None),
    ("reasoning=2000", (), {"reasoning": 2000}, {}, None),
    ('schema={"type": "object"}', (), {"schema": '{"type": "object"}'}, {}, None),
    ('schema="name, age int"', (), {"schema": "name, age int"}, {}, None),
    ("key=MY_KEY base_url=http://h:1/v1?a=b", (), {"key": "MY_KEY", "base_url": "http://h:1/v1?a=b"}, {}, None),
])
def test_what_a_line_means(line, models, options, extra, out):
    """Models, options by every spelling, provider options and names."""
    read = grammar.parse(line)
    assert (models, options, extra, out) == (read.models, dict(read.options), dict(read.extra), read.out)


@pytest.mark.parametrize(("line", "column", "words"), [
    ("temprature=1", 1, "temperature"), ("m --temprature 1", 3, "temperature"), ("a b", 3, "given twice"), ("m seed=x", 3, "whole number"),
    ("t=1 -t nan", 1, "unknown option 't'"), ("m -t", 3, "needs a value"), ("-t -q", 1, "needs a value"), ("seed=1 seed=2", 8, "given twice"),
    ('m "open', 3, "not closed"), ('x.a={"b": 1', 5, "not closed"), ('system="a"b', 11, "closing quote"), ("-z", 1, "-m"), ("format=xml", 1, "md, text"),
    ("chat=x", 1, "not there yet"), ("x.a=1 x.a=2", 7, "twice"), ("x.a=1 x.a.b=2", 7, "no object"), ("a << b << c", 3, ""), ("quiet=maybe", 1, "true or false"),
    ("1x << m", 1, "variable's name"), ("timeout=-1", 1, "needs a time"), ("model=a,", 1, "model"), ('x.a=[1]b', 8, "closing bracket"),
])
def test_what_is_refused(line, column, words):
    """One line with the column; the nearest name, or what was expected."""
    with pytest.raises(ConfigError) as caught:
        grammar.parse(line)
    assert words in str(caught.value)
    if words:
        assert caught.value.message.startswith(f"Column {column}:")
        assert "\n" not in caught.value.message


def test_a_key_typed_by_mistake_is_not_echoed():
    """key= takes a name; a key there is refused without being shown."""
    with pytest.raises(ConfigError) as caught:
        grammar.parse("key=sk-canary0123456789abcdefghij")
    assert "canary" not in str(caught.value)


@given(st.text(max_size=60))
def test_any_line_is_read_or_refused(line):
    """Nothing but a Line or a ConfigError comes out."""
    for read in (grammar.parse, grammar.ask, grammar.complete):
        try:
            read(line)
        except ConfigError:
            pass


@given(st.text(st.characters(blacklist_categories=["Cs"]), max_size=40))
def test_a_quoted_value_comes_back_as_it_was(text):
    """Doubling the quote is all that quoting takes."""
    doubled = text.replace('"', '""')
    assert text == grammar.parse(f'system="{doubled}"').options["system"]


@pytest.mark.parametrize(("line", "models", "prompt"), [
    ("-m gemini/flash -t 0 why is {x} so a=b", ("gemini/flash",), "why is {x} so a=b"),
    ('model=m system="be brief" hello there', ("m",), "hello there"),
    ("--quiet hello", (), "hello"),
    ("hello -m x", (), "hello -m x"),
])
def test_ask_takes_options_first_and_the_rest_as_prompt(line, models, prompt):
    """The first word that is no option begins the prompt."""
    read, text = grammar.ask(line)
    assert (models, prompt) == (read.models, text)


@pytest.mark.parametrize(("line", "expected"), [("", ("help", "")), ("use gemini/pro  ", ("use", "gemini/pro")), ("ping", ("ping", ""))])
def test_subcommands(line, expected):
    """The first word, and the rest."""
    assert expected == grammar.subcommand(line)


def test_an_unknown_subcommand_answers_with_the_nearest():
    """%llm modles."""
    with pytest.raises(ConfigError, match="models"):
        grammar.subcommand("modles")


@pytest.mark.parametrize(("line", "kind", "prefix", "option"), [
    ("", "word", "", ""), ("gem", "word", "gem", ""), ("model=ge", "model", "ge", "model"), ("model=a,ge", "model", "ge", "model"), ("-m ge", "model", "ge", "model"),
    ("m --te", "option", "--te", ""), ("format=j", "value", "j", "format"), ("--reasoning l", "value", "l", "reasoning"), ("m ", "word", "", ""),
])
def test_what_stands_at_the_cursor(line, kind, prefix, option):
    """Models, options and values are told apart."""
    assert grammar.Completion(kind, prefix, option) == grammar.complete(line)


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


@pytest.mark.parametrize("text", ["", "1a", "name in", "age integr", "x list[foo]"])
def test_a_wrong_short_schema_says_what_is_wrong(text):
    """Unknown types and misshaped fields."""
    with pytest.raises(ConfigError):
        shorthand.schema(text)
