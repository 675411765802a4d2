"""Braces in prompts: ours are filled, everybody else's come through untouched."""

import contextlib
import time
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nbllm.errors import ConfigError
from nbllm.notebook.fill import fill, names_at, names_in
from nbllm.notebook.samples import text_of, tokens_in

NAMES = {"x": 1, "i": 2, "a": 3, "b": 4, "name": "N{x}", "n": 3, "k": 1, "v": 2, "d": {"q": 5}, "rows": [7, 8], "first": "A", "last": "B",
         "size": 1, "color": "c", "string": "s", "user": 1, "align": 2, "HOME": "h", "top": 1, "größe": 1, "übung": 2,
         "shape": SimpleNamespace(shape=(9, 9))}


def filled(text, mode="on", **names):
    space = {**NAMES, **names}
    return fill(text, space, lambda source: eval(source, dict(space)), mode)


UNTOUCHED = {
    "JSON": '{"a": {"b": 1}, "x": [1, {"n": 2}]}',
    "nested JSON, minified": '{"a":{"x":{"n":[{}]}}}',
    "JavaScript object": "{a:1} {top:0} {a:b} {k:s}",
    "dict comprehension": "{k: v for k, v in d.items()}",
    "set": "s = {x, a}",
    "generator": "{x for x in rows}",
    "TypeScript interface": "interface A { name: string; x?: number }",
    "TypeScript one-liner": "type A = {name:string}",
    "LaTeX": r"\frac{a}{b} + x_{i} = e^{x} \mathbb{x}",
    "LaTeX environment": r"\begin{align} a \end{align}",
    "LaTeX with an optional argument": r"\sqrt[3]{x}",
    "LaTeX with double braces": r"\textbf{{\large x}} \frac{{nope}}{{nada}} y^{{nope}}",
    "f-string": 'print(f"{x!r} {name}")',
    "f-string in single quotes": "f'{x}'",
    "f-string over lines": 'f"""\n{x}\n"""',
    "f-string with escaped braces": 'f"{{x}} {{{x}}}"',
    "raw f-string": 'rf"{x}"',
    "str.format": '"{name}: {x}".format(name=1, x=2)',
    "C# string": '$"{name}"',
    "Jinja statement": "{% for x in a %}",
    "Jinja in a fence": "```jinja\n{{ item.name }} {% for i in a %}{x}{% endfor %}\n```",
    "GitHub Actions": "${{ github.ref }}",
    "Helm in a fence": "```yaml\nname: {{ .Values.name | quote }}\n```",
    "Rust": 'println!("{name} {a}")',
    "Rust format": 'format!("{}", x)',
    "Rust write": 'write!(f, "{name}")',
    "shell": "echo ${HOME} $x",
    "JavaScript template": "`hello ${name}`",
    "JSX": "style={{color: 'red'}}",
    "regular expression": r"\d{2} x{n}",
    "escaped": r"\{x\} \{x}",
    "CSS": "a{color:red} .b{x}",
    "empty": "{} {{}}",
    "spaces": "{ name }",
    "GraphQL": "query { user { name } }",
    "Mustache": "{{#each}}",
    "triple Mustache": "{{{name}}}",
    "Go template": "{{.Name}}",
    "C initialiser": "struct P p = {x, a};",
    "unknown name": "{nope} {nope.x} {nope.__class__}",
    "accented": "é{x}",
    "emoji and RTL": "🙂 {שלום}",
    "code span": "`{x}` and ``{a} ` {b}``",
    "code span over a line end": "`a\n{x} b`",
    "fence": "```\n{x} {x.__class__}\n```",
    "fence in a quote": "> ```\n> {x}\n> ```",
    "fence in a list": "- ~~~js\n  {x}\n  ~~~",
    "fence under a list item": "- a\n\n  ```\n  {x}\n  ```",
    "fence in a list in a quote": "> 1. a\n>\n>    ~~~\n>    {x}\n>    ~~~",
    "open fence": "text\n````\n```\n{x}",
    "fence that is not closed by a shorter one": "````\n```\n{x}\n````",
    "fence that is not closed by another": "~~~\n```\n{x}",
    "indented fence": "   ```\n   {x}\n   ```",
    "indented code in backticks": "    ```\n    {x}\n    ```",
    "Windows line ends": "```\r\n{x}\r\n```\r\n",
}


@pytest.mark.parametrize("text", UNTOUCHED.values(), ids=UNTOUCHED.keys())
def test_other_peoples_braces_come_through(text):
    """The names in these prompts exist, and yet nothing is filled."""
    result = filled(text)
    assert (text, ()) == (result.text, result.names)


@pytest.mark.parametrize(("text", "expected", "names"), [
    ("{n} sentences", "3 sentences", ("n",)),
    ("{first}{last}", "AB", ("first", "last")),
    ("{name}", "N{x}", ("name",)),
    ("{d['q']} {rows[0]} {rows[-1]}", "5 7 8", ("d['q']", "rows[0]", "rows[-1]")),
    ("{shape.shape[0]}", "9", ("shape.shape[0]",)),
    ("{n:03d} {n!r} {n:.2f} {name!r:>8}", "003 3 3.00   'N{x}'", ("n", "name")),
    ("{d['q']!s:>3}|{rows[1]:+d}|{n:,}|{n:<4}|{n:%}", "  5|+8|3|3   |300.000000%", ("d['q']", "rows[1]", "n")),
    ("{{n + 1}} {{ {'a': 1}['a'] }}", "4 1", ("n + 1", "{'a': 1}['a']")),
    ("{{ {1: 2}}}", "{1: 2}", ("{1: 2}",)),
    ("{{ '}}' }} {{ [i for i in rows] }}", "}} [7, 8]", ("'}}'", "[i for i in rows]")),
    ("```\n{{n}}\n```\n{n}", "```\n3\n```\n3", ("n",)),
    ("```\n{{ [z for z in rows] }} {{len(rows)}}\n```", "```\n[7, 8] 2\n```", ("[z for z in rows]", "len(rows)")),
    ("costs ${{n}}, foo{{n}}bar, \\frac{{a}}{{b}}", "costs $3, foo3bar, \\frac34", ("n", "a", "b")),
    ("{{n}}{{n}}{n}", "333", ("n",)),
    ('({n}) "{n}" *{n}*', '(3) "3" *3*', ("n",)),
    ("n={n}; issue #{n}, @{n}, {n}%", "n=3; issue #3, @3, 3%", ("n",)),
    ("x{n} {n}x", "x{n} 3x", ("n",)),
    ("🙂{n}\u202e{n}", "🙂3\u202e3", ("n",)),
    ("{größe} {übung}", "1 2", ("größe", "übung")),
    ("f'(x) = {n}", "f'(x) = 3", ("n",)),
    ("it's {n}, isn't '{n}'?", "it's 3, isn't '3'?", ("n",)),
    ("{n}\r\n```\r\n{x}\r\n```\r\n{n}", "3\r\n```\r\n{x}\r\n```\r\n3", ("n",)),
    ("> ```\n> {x}\n\n{n}", "> ```\n> {x}\n\n3", ("n",)),
    ("- ```\n  {x}\n\n{n}", "- ```\n  {x}\n\n3", ("n",)),
    ("- a `\n- {n} `", "- a `\n- 3 `", ("n",)),
    ("5` {n}\n\nand 6` {n}", "5` 3\n\nand 6` 3", ("n",)),
    ("\\` {n} `", "\\` 3 `", ("n",)),
    ("`` ` {x} `` {n} `", "`` ` {x} `` 3 `", ("n",)),
])
def test_what_is_filled(text, expected, names):
    """Names, attributes, indices, conversions, formats, expressions; each told once."""
    result = filled(text)
    assert (expected, names) == (result.text, result.names)


def test_modes():
    """double fills {{ }} only, off nothing; what is foreign stays so."""
    assert "{n} 3" == filled("{n} {{n}}", "double").text
    assert "{{{n}}} `{{nope}}` 3 {n:d}" == filled("{{{n}}} `{{nope}}` {{n}} {n:d}", "double").text
    assert "{n} {{n}}" == filled("{n} {{n}}", "off").text


def test_an_expression_is_evaluated_once():
    """Side effects happen once, from left to right, and what came of them is not scanned."""
    calls = []
    result = fill("{{f()}}{{g()}}", {}, lambda source: calls.append(source) or "{{again}}{n}")
    assert ["f()", "g()"] == calls
    assert "{{again}}{n}" * 2 == result.text


@pytest.mark.parametrize(("text", "skipped"), [
    ("a {{#each}} b {{#each}}", ("{{#each}}",)), ("`{{nope}}` ${{ a.b }} ${{ no.a }}", ("{{nope}}", "{{ no.a }}")), ("{{ .Name }}", ("{{ .Name }}",)),
    ("```\n{{ .Name }}\n```", ()), ("{{}} {{ open", ()), ("{{{x}}}", ()), ("{{n}}", ()),
])
def test_what_looks_like_an_expression_and_is_none_is_told(text, skipped):
    """It stays as it is, and the caller can say so; in code only where it could have been meant."""
    assert skipped == filled(text, a=SimpleNamespace(b=1)).skipped


class Sulky:
    def __str__(self):
        raise RuntimeError("no\ntext")


@pytest.mark.parametrize(("text", "words"), [
    ("a\nb {rows[9]}", "Line 2, column 3 of the prompt: {rows[9]} failed at [9] with IndexError"), ("{d['nope']}", "KeyError: 'nope'"), ("{n.nope}", "AttributeError"),
    ("{{1/0}}", "{{1/0}} failed with ZeroDivisionError: division by zero"), ("{{nope}}", "NameError: name 'nope'"), ("{name:d}", "ValueError"), ("{{ await x }}", "SyntaxError"),
    ("{x.__class__}", "private attribute"), ("{x.real._y}", "Write {{x.real._y}}"), ("{sulky}", "{sulky} failed to become text with RuntimeError: no text"),
    ("{{sulky}}", "RuntimeError"), ("{rows[999999999999999999]}", "IndexError"), ("{d.q}", "AttributeError"),
])
def test_a_place_that_fails_says_where_and_why(text, words):
    """Line and column of the prompt, and the exception's own words, on one line."""
    with pytest.raises(ConfigError) as caught:
        filled(text, sulky=Sulky())
    assert words in str(caught.value)
    assert "\n" not in caught.value.message


PIECES = ["{", "}", "{x}", "{{", "}}", "{x", "`", "```", "~~~", "\n", "\r\n", "> ", "- ", "    ", "\\", "$", 'f"', "'", '"', "f'''", "!(",
          ".format(", "a", " ", "{x:.2f}", "{x!r}", "{{x}}", "_", "\u2028"]
PROMPTS = st.lists(st.sampled_from(PIECES), max_size=25).map("".join)


@given(PROMPTS | st.text(max_size=60))
def test_without_names_nothing_changes(text):
    """Single braces mean nothing where no name exists, whatever stands around them; with fill=off nothing means anything."""
    result = fill(text, {}, str, "off" if "{{" in text else "on")
    assert (text, ()) == (result.text, result.names)


@given(PROMPTS)
def test_all_that_is_not_filled_stays(text):
    """The text pieces, with the values' sources between them, are the prompt."""
    rest = text
    for piece in fill(text, {"x": 7}, lambda source: "VALUE").pieces:
        if isinstance(piece, str):
            assert rest.startswith(piece)
            rest = rest[len(piece):]
        else:
            braces = 1 + rest.startswith("{{")
            close = rest.index("}" * braces, rest.index(piece.source) + len(piece.source))
            rest = rest[close + braces:]
    assert "" == rest


@given(PROMPTS, st.text(alphabet="{}xn`$\\ '\"", max_size=30))
def test_what_was_inserted_is_never_scanned(before, value):
    """A value full of braces goes in as it is, even right after another."""
    text = "".join(c if c not in "{`~\"'" else "(" for c in before) + " {value}{value}"
    result = fill(text, {"value": value, "x": 1, "n": 1}, str)
    assert text.removesuffix("{value}{value}") + value * 2 == result.text


@pytest.mark.parametrize("text", [
    "` " + "`" * 26 + " x {n}", "{{" * 3000 + "{n}}} " * 3000, "{{ " * 3000 + "}} " * 3000, "`" * 20_000 + "{n}", "{{n" * 5000, "'" * 20_000 + "{n}",
    'f"' * 20_000 + "{n}", "a!(" * 10_000 + "{n}", "\\" * 20_000 + '`{n}"', '"\\' * 10_000 + "{n}", "> " * 5000 + "{n}", "- " * 5000 + "{n}", "{n} `a` " * 5000,
    "` `` ``` " * 3000 + "{n}", "{rows" + "[0]" * 3000, "{{" + "(" * 3000 + "n" + ")" * 3000 + "}}", "{{" + "-" * 3900 + "n}}", "f'''" * 5000 + "{n}", "\\`" * 9000,
], ids=lambda text: repr(text[:12]))
def test_no_prompt_takes_long(text):
    """Whatever the braces, quotes and backticks."""
    began = time.perf_counter()
    with contextlib.suppress(ConfigError):
        fill(text, NAMES, lambda source: "v")
    assert time.perf_counter() - began < 5


def test_data_frames_become_a_schema_and_a_sample():
    """A model reads shape, types and the first rows."""
    import pandas as pd

    text = text_of(pd.DataFrame({"a": range(30), "b|c": ["x\ny"] * 29 + [None]}))
    assert "30 rows and 2 columns." in text
    assert "| a | int64 | 0 | 0 to 29, mean 14.5 |" in text
    assert "| 1 | 1 distinct, most often x y (29) |" in text
    assert "The first 10 of 30 rows:" in text
    assert "| 9 | 9 | x y |" in text
    assert "| 10 |" not in text
    assert "|  | a | b\\|c |" in text


@pytest.mark.parametrize(("make", "words"), [
    (lambda pd, np: pd.Series(range(30), name="age"), ("A series 'age' (int64), as a table of 30 rows", "The first 10 of 30 rows:")),
    (lambda pd, np: pd.DataFrame({f"c{i}": [i] for i in range(60)}), ("1 rows and 60 columns", "| c39 | int64 | 0 | 39 to 39, mean 39 |", "(and 20 more columns: c40, c41")),
    (lambda pd, np: pd.DataFrame({"a": []}), ("0 rows and 1 columns", "| a |")),
    (lambda pd, np: pd.DataFrame(), ("0 rows and 0 columns",)),
    (lambda pd, np: pd.DataFrame([[1, 2], [3, 4]], columns=["a", "a"]), ("| a | int64 | 0 | 2 to 4, mean 3 |", "| 0 | 1 | 2 |")),
    (lambda pd, np: pd.DataFrame({"a": [1]}, index=pd.MultiIndex.from_tuples([("x", 1)])), ("| ('x', 1) | 1 |",)),
    (lambda pd, np: type("Mine", (pd.DataFrame,), {})({"a": [1]}), ("A table of 1 rows",)),
    (lambda pd, np: pd.DataFrame({"a": ["x" * 500]}), ("xxx... |",)),
    (lambda pd, np: np.arange(6).reshape(2, 3), ("shape (2, 3) and type int64", "[3 4 5]")),
    (lambda pd, np: np.full((30, 30), "x" * 20), ("(the first 3,000 of ",)),
    (lambda pd, np: np.float64(1.5), ("1.5",)),
])
def test_tables_and_arrays(make, words):
    """Shape, types, a sample, and what was cut."""
    import numpy as np
    import pandas as pd

    text = text_of(make(pd, np))
    assert [] == [w for w in words if w not in text]
    assert len(text) < 4_500
    assert text == fill("{value}", {"value": make(pd, np)}, str).text


@pytest.mark.parametrize("budget", [40, 100, 300, 1000, 5000])
def test_a_table_fits_its_budget_and_says_what_it_leaves_out(budget):
    """Fewer rows, then fewer columns, then shorter cells; never more than the budget and a line about the cut."""
    import pandas as pd

    df = pd.DataFrame({f"column {i}": [f"{i} some words {n}" for n in range(2_000)] for i in range(30)})
    text = text_of(df, budget=budget)
    assert tokens_in(text) <= budget + 15
    assert "2,000 rows and 30 columns" in text
    assert "more columns" in text or "of 2,000 rows:" in text or "characters)" in text


def test_dates_booleans_and_cells_that_cannot_be_sorted():
    """Ranges of dates, commonest values, of lists too."""
    import pandas as pd

    text = text_of(pd.DataFrame({"day": pd.to_datetime(["2026-01-02", "2026-03-04"]), "ok": [True, True], "tags": [["a"], ["b"]], "none": [None, None]}))
    assert "2026-01-02 00:00:00 to 2026-03-04 00:00:00" in text
    assert "| ok | bool | 0 | 1 distinct, most often True (2) |" in text
    assert "most often ['a'] (1)" in text
    assert "| 2 | none |" in text


def test_long_lists_and_mappings_are_cut_and_text_never():
    """What a person wrote as text is theirs."""
    assert "characters)" in text_of(list(range(5_000)))
    assert "characters)" in text_of({i: i for i in range(5_000)})
    assert "[1, 2]" == text_of([1, 2])
    assert 50_000 == len(text_of("x" * 50_000))


def test_the_footer_says_what_took_much():
    """Small ones by name alone."""
    filled = fill("{n} {rows} {n}", {"n": 3, "rows": list(range(200))}, str)
    assert ("n", "rows (≈ 297 of 1,000 tokens)") == filled.told


def test_a_format_or_conversion_takes_the_place_of_the_form():
    """And the caller sees that only text was asked for."""
    pieces = fill("{value!s} {value}", {"value": [1]}, str).pieces
    assert [False, True] == [p.plain for p in pieces if not isinstance(p, str)]


def test_names_in_a_prompt():
    """What fill would take, nothing evaluated."""
    assert ("n", "d") == names_in("{n} {d['q']} {nope} x_{i} `{x}` f'{a}'", NAMES)
    assert ("n", "rows") == names_in("{{ [z + n for z in rows] }} {{nope}}", NAMES)
    assert () == names_in("{n}", NAMES, "double")


@pytest.mark.parametrize(("before", "expected"), [
    ("{na", ("na", ("name",))), ("{{ na", ("na", ("name",))), ("{", ("", tuple(sorted(NAMES)))), ("x{na", ("", ())), ("`a {na", ("na", ("name",))),
    ("```\n{na", ("", ())), ("```\n{{na", ("na", ("name",))), ("{name} ", ("", ())), ("na", ("", ())), ("{name.", ("", ())),
])
def test_names_where_the_cursor_stands(before, expected):
    """Names are offered after a brace of ours only."""
    assert expected == names_at(before + "\n\nand more", len(before), {**NAMES, "_private": 1, "not a name": 2})
