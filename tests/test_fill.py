"""Braces in prompts: ours are filled, everybody else's come through untouched."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nbllm.errors import ConfigError
from nbllm.notebook.fill import fill, names_in, text_of

NAMES = {"x": 1, "i": 2, "a": 3, "b": 4, "name": "N{x}", "n": 3, "k": 1, "v": 2, "d": {"q": 5}, "rows": [7, 8], "first": "A", "last": "B",
         "size": 1, "color": "c", "string": "s", "user": 1, "align": 2, "HOME": "h"}


def filled(text, mode="on", **names):
    space = {**NAMES, **names}
    return fill(text, space, lambda source: eval(source, dict(space)), mode)


UNTOUCHED = {
    "JSON": '{"a": {"b": 1}, "x": [1, {"n": 2}]}',
    "dict comprehension": "{k: v for k, v in d.items()}",
    "set": "s = {x, a}",
    "generator": "{x for x in rows}",
    "TypeScript interface": "interface A { name: string; x?: number }",
    "TypeScript one-liner": "type A = {name:string}",
    "LaTeX": r"\frac{a}{b} + x_{i} = e^{x} \mathbb{x}",
    "LaTeX environment": r"\begin{align} a \end{align}",
    "f-string": 'print(f"{x!r} {name}")',
    "f-string in single quotes": "f'{x}'",
    "raw f-string": 'rf"{x}"',
    "C# string": '$"{name}"',
    "Jinja statement": "{% for x in a %}",
    "Rust": 'println!("{name} {a}")',
    "Rust format": 'format!("{}", x)',
    "shell": "echo ${HOME} $x",
    "JavaScript template": "`hello ${name}`",
    "regular expression": r"\d{2} x{n}",
    "escaped": r"\{x\} \{x}",
    "CSS": "a{color:red} .b{x}",
    "empty": "{} {{}}",
    "spaces": "{ name }",
    "GraphQL": "query { user { name } }",
    "code span": "`{x}` and ``{a} ` {b}``",
    "fence": "```\n{x}\n```",
    "fence in a quote": "> ```\n> {x}\n> ```",
    "fence in a list": "- ~~~js\n  {x}\n  ~~~",
    "open fence": "text\n````\n```\n{x}",
    "Mustache": "{{#each}}",
    "Go template": "{{.Name}}",
    "dunder": "{x.__class__}",
    "private": "{x._y}",
    "C initialiser": "struct P p = {x, a};",
    "unknown name": "{nope} {nope.x}",
    "accented": "é{x}",
    "emoji and RTL": "🙂 {שלום}",
}


@pytest.mark.parametrize("text", UNTOUCHED.values(), ids=UNTOUCHED.keys())
def test_other_peoples_braces_come_through(text):
    """The names in these prompts exist, and yet nothing is filled."""
    assert text == filled(text).text


@pytest.mark.parametrize(("text", "expected", "names"), [
    ("{n} sentences", "3 sentences", ("n",)),
    ("{first}{last}", "AB", ("first", "last")),
    ("{name}", "N{x}", ("name",)),
    ("{d['q']} {rows[0]} {rows[-1]}", "5 7 8", ("d['q']", "rows[0]", "rows[-1]")),
    ("{n:03d} {n!r} {n:.2f} {name!r:>8}", "003 3 3.00   'N{x}'", ("n", "name")),
    ("{{n + 1}} {{ {'a': 1}['a'] }}", "4 1", ("n + 1", "{'a': 1}['a']")),
    ("{{ {1: 2}}}", "{1: 2}", ("{1: 2}",)),
    ("```\n{{n}}\n```\n{n}", "```\n3\n```\n3", ("n",)),
    ('({n}) "{n}" *{n}*', '(3) "3" *3*', ("n",)),
    ("x{n} {n}x", "x{n} 3x", ("n",)),
    ("🙂{n}\u202e{n}", "🙂3\u202e3", ("n",)),
])
def test_what_is_filled(text, expected, names):
    """Names, attributes, indices, conversions, formats, expressions; each told once."""
    result = filled(text)
    assert (expected, names) == (result.text, result.names)


def test_modes():
    """double fills {{ }} only, off nothing."""
    assert "{n} 3" == filled("{n} {{n}}", "double").text
    assert "{n} {{n}}" == filled("{n} {{n}}", "off").text


def test_an_expression_is_evaluated_once():
    """Side effects happen once."""
    calls = []
    fill("{{f()}}", {}, lambda source: calls.append(source) or "{{again}}")
    assert ["f()"] == calls


def test_what_looks_like_an_expression_and_is_none_is_told():
    """It stays as it is, and the caller can say so."""
    assert ("{{#each}}",) == filled("a {{#each}} b").skipped


@pytest.mark.parametrize(("text", "words"), [
    ("a\nb {rows[9]}", "Line 2, column 3"), ("{d['nope']}", "KeyError"), ("{n.nope}", "AttributeError"), ("{{1/0}}", "ZeroDivisionError"),
    ("{{nope}}", "NameError"), ("{name:d}", "cannot be formatted"),
])
def test_a_place_that_fails_says_where_and_why(text, words):
    """Line and column of the prompt, and the exception's own words."""
    with pytest.raises(ConfigError, match=words):
        filled(text)


@given(st.text(alphabet="{}[]'\"`~\\$_^xnf:!. \n-", max_size=60))
def test_without_names_nothing_changes(text):
    """Single braces mean nothing where no name exists."""
    assert text == fill(text, {}, lambda s: pytest.fail(s), "on").text or "{{" in text


@given(st.text(max_size=30), st.text(max_size=30))
def test_what_was_inserted_is_never_scanned(before, value):
    """A value full of braces goes in as it is."""
    text = before.replace("{", "(").replace("`", "'").replace("~", "-") + " {value}"
    result = fill(text, {"value": value, "x": 1}, lambda s: s)
    assert "value" not in result.names or result.text == text.removesuffix("{value}") + value


def test_data_frames_become_a_schema_and_a_sample():
    """A model reads shape, types and the first rows."""
    import pandas as pd

    text = text_of(pd.DataFrame({"a": range(30), "b|c": ["x\ny"] * 30}))
    assert "30 rows and 2 columns: a (int64), b|c (" in text
    assert "| 9 | 9 | x y |" in text
    assert "| 10 |" not in text
    assert "| b\\|c |" in text or "| b|c |" in text


def test_names_in_a_prompt():
    """What fill would take, nothing evaluated."""
    assert ("n", "d") == names_in("{n} {d['q']} {nope} x_{i}", NAMES)
