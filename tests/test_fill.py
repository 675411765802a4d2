"""Braces in prompts: ours are filled, everybody else's come through untouched."""

import contextlib
import datetime
import re
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nbllm.core.errors import ConfigError
from nbllm.core.template import fill
from nbllm.core.values import format_value, token_estimate

from .growth import limit

NAMES = {
    "x": 1,
    "i": 2,
    "a": 3,
    "b": 4,
    "name": "N{x}",
    "n": 3,
    "k": 1,
    "v": 2,
    "d": {"q": 5},
    "rows": [7, 8],
    "first": "A",
    "last": "B",
    "size": 1,
    "color": "c",
    "string": "s",
    "user": 1,
    "align": 2,
    "HOME": "h",
    "top": 1,
    "größe": 1,
    "übung": 2,
    "shape": SimpleNamespace(shape=(9, 9)),
}


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


class Formatted:
    """Takes any format, as pandas' and arrow's do for dates."""

    def __format__(self, spec):
        return f"<{spec}>"


LETTERS = {
    **dict.fromkeys("abcdefghijklmnopqrstuvwxyz", 3),
    **dict.fromkeys("EFGTX", 3),
    **dict.fromkeys(("width", "height", "top", "left", "opacity", "margin", "flex", "z_index"), 7),
}
WORDS = {
    "name": "Ada",
    "color": "red",
    "background": "blue",
    "user": "u1",
    "key": "k",
    "value": 2.5,
    "items": [1],
    "title": "T",
    "transition": "all",
    "duration": 3.0,
    "type": "t",
    "id": 4,
    "total": 10,
    "rate": 0.5,
    "point": SimpleNamespace(x=1, y=2),
    "rows": [7, 8],
    "day": datetime.date(2026, 1, 2),
    "any": Formatted(),
    "_": 1,
    "π": 3.14159,
}

FOREIGN = [
    # JavaScript and TypeScript
    "const p = {a: 10}",
    "setState({name: s})",
    "{a:10}",
    "{a:-1}",
    "{a:+n}",
    "{n:+d}",
    "{a:.5}",
    "{a:-.5}",
    "{a:1.5}",
    "{a:1e5}",
    "{a:0}",
    "{a:007}",
    "{a:0x1f}",
    "{a:10n}",
    "{a:1_000}",
    "{a: b}",
    "{a:b}",
    "{k:s}",
    "{n:d}",
    "{x:f}",
    "{x:e}",
    "{x:g}",
    "{x:x}",
    "{T:E}",
    "{name: name}",
    "{name:name}",
    "{ name: user }",
    "{name:'x'}",
    '{name:"x"}',
    "{a:!b}",
    "{a:[1]}",
    "{a:{}}",
    "{a:()=>1}",
    "{a:b=>c}",
    "{a:b>5}",
    "{b:i<9}",
    "{a:=>10}",
    "{n:10,}",
    "{n:`x`}",
    "{a:b||c}",
    "{a:null}",
    "{a:b,c:d}",
    "{a,b}",
    "{...a}",
    "{a, ...b}",
    "{ a }",
    "{a?:number}",
    "{name:string}",
    "{ x : int }",
    "{x: number | string}",
    "{name:T}",
    "{readonly a:b}",
    "const {name} = props",
    "let {name}=props",
    "import {name} from 'x'",
    'import type {name} from "x"',
    "export {name};",
    "items.map(({name}) => 1)",
    "({name})=>1",
    "<Box color={color} />",
    "<Box a='b' color={color}>",
    "<svg width={w} height={color}>",
    "<Foo {...rest} key={color} />",
    "<input type='text' onChange={(e) => { set(e.value) }} style={{a: 1}} value={color}>",
    "<input\n  value={color}\n  disabled={color}\n/>",
    "export default function App({color}) {",
    "if (a){b}",
    "f(){x}",
    "()=>{a: 1}",
    "for(;;){n}",
    "label: {a: for(;;){}}",
    "class A {x: 1}",
    "{a:b?c:d}",
    # JSON, YAML, TOML, HCL
    '{"name": "x"}',
    '{"a":1}',
    "{'a': 1}",
    "{a: 1, b: 2}",
    "{name: yes}",
    "{a: {b: c}}",
    "{a: [x]}",
    "{x: !!int 3}",
    "{ a = 1 }",
    "{a = 1}",
    "{name=user}",
    "{duration:5s}",
    "{duration:10m}",
    "{duration: 5s}",
    "{total:100%}",
    "{a:~}",
    # CSS
    "a {color:red}",
    "{color:#fff}",
    "{color:#00f}",
    "{color:#000}",
    "{color:#112233}",
    "{color:#12345678}",
    "{color: #fff}",
    "{color:red}",
    "{margin:0}",
    "{margin:-1px}",
    "{opacity:.5}",
    "{width:100%}",
    "{width:10px}",
    "{flex:1}",
    "{top:5e3}",
    "{transition:5s}",
    "{transition:.5s}",
    "{width:2x}",
    "{width:calc(1px)}",
    "{color:red;top:0}",
    "{color:}",
    ":is(p){color:red}",
    "li:not(.a){color}",
    "{height:5g}",
    "{left:10b}",
    # Python
    "{a: 1}",
    "{a:1}",
    "{k: v for k, v in d}",
    "{k:v for k in d}",
    "{x for x in y}",
    "{x, y}",
    "{*a}",
    "{**a}",
    "{a := 1}",
    "{a:=1}",
    "{a:= 1}",
    "{a=}",
    "{x!r:{width}}",
    "{x:{width}}",
    "{x:>{width}}",
    "f'{x:.2f}'",
    'f"{x!r}"',
    'F"""{x:>10}"""',
    "t'{name}'",
    "'{name}'.format_map(d)",
    '"{x:>10}" .format(x=1)',
    "{x: int}",
    "{x:int}",
    "{rows[0]:1}",
    "{point.x:2}",
    "{point.x:d}",
    "{point.x: 1}",
    "{items[0]: 1}",
    "rf'{a}'",
    "{a: .2f}",
    "{a: >10}",
    "{a: ,}",
    "{n: 5.2}",
    "{n: 03d}",
    "{n:5.2}",
    "{n:.3}",
    "{n: %}",
    "{_:_}",
    # C, C++, C#, Go, Rust, Swift, Kotlin, Ruby, Elixir, shells
    "{x:1.0f}",
    "{x:2.5f}",
    "{x: 1.0f}",
    "Point{x}",
    "int n{x};",
    "v := Point{x: 1}",
    "map[string]int{a: 1}",
    "[]int{n}",
    "use std::{name};",
    "std::collections::{name}",
    'println!("{name:>10}")',
    'println!(\n    "{name}")',
    'info!("{x:.2f}")',
    'write!(f, "{n:03}")',
    'format!("{:?}", x)',
    '$"{name:X}"',
    '$@"{name}"',
    '$$"""{{name}}"""',
    "struct P p = {x, a};",
    "%{name: 1}",
    "%{name}",
    '"Hi #{name}!"',
    'puts "a #{n} b"',
    "${name}",
    "$${name}",
    "`${name}`",
    "{1..n}",
    "a{b,c}",
    "\\d{n}",
    "[a-z]{n}",
    "(ab){n}",
    "x{n,}",
    "when (x) {a -> b}",
    "{name -> 1}",
    "{|x| x}",
    "{:a 1}",
    "#{a => 1}",
    # LaTeX and others
    "\\frac{a}{b}",
    "x_{i} x^{n}",
    "_{n}C_{k} and x_{i}_",
    "\\frac {a}{b}",
    "\\sqrt {x}",
    "\\textbf {name}",
    "\\sqrt[3]{x}",
    "\\{x\\}",
    "{a \\over b}",
    "{\\bf x}",
    "\\begin{align}",
    "{{{name}}}",
    "{% name %}",
    "{# name #}",
    "{name|upper}",
    "{name, plural, one {#}}",
    "{x:d3}",
    "{x:N2}",
    "{total:C}",
    "{day:yyyy-MM-dd}",
    "{day:HH:mm}",
    "{0}",
    "{}",
    "{:>10}",
    "{:?}",
    "{x:?}",
    "{x:#?}",
    "{x:>}",
    "{x:<}",
    "{x:^}",
    "{a:b:c}",
    "{name:}",
    "{name!}",
    "{name!x}",
    "{name!r }",
    "{ name!r}",
    "{name.}",
    "{name[}",
    "{rows[0:1]}",
    "{rows[n]}",
]


@pytest.mark.parametrize("text", FOREIGN)
def test_what_another_language_may_mean_goes_through_to_the_letter(text):
    """Every name in it exists here, and takes the format that could be meant."""
    for space in (
        {**LETTERS, **WORDS},
        {
            **LETTERS,
            **WORDS,
            **{n: Formatted() for n in ("a", "n", "x", "k", "name", "color", "width", "duration")},
        },
    ):
        result = fill(text, space, pytest.fail)
        assert (text, ()) == (result.text, result.names)


OURS = [
    ("{x:.2f}", "3.00"),
    ("{x:>10}", "         3"),
    ("{x!r}", "3"),
    ("{name}", "Ada"),
    ("{point.x}", "1"),
    ("{rows[0]}", "7"),
    ("{x:10.2f}", "      3.00"),
    ("{x:0.2f}", "3.00"),
    ("{x:+.1f}", "+3.0"),
    ("{x:,.2f}", "3.00"),
    ("{x:.3e}", "3.000e+00"),
    ("{rate:.1%}", "50.0%"),
    ("{rate:.0%}", "50%"),
    ("{rate:%}", "50.000000%"),
    ("{x:03d}", "003"),
    ("{x:08b}", "00000011"),
    ("{x:04x}", "0003"),
    ("{x:5d}", "    3"),
    ("{x:,}", "3"),
    ("{x:,d}", "3"),
    ("{x:+}", "+3"),
    ("{x:#x}", "0x3"),
    ("{x:#06x}", "0x0003"),
    ("{x:<5}|", "3    |"),
    ("{x:^5}|", "  3  |"),
    ("{name:>5}", "  Ada"),
    ("{name:*^9}", "***Ada***"),
    ("{name:-^9}", "---Ada---"),
    ("{name:.<6}", "Ada..."),
    ("{x:0>5}", "00003"),
    ("{x:>8.2f}", "    3.00"),
    ("{x:>8,}", "       3"),
    ("{name:<6s}|", "Ada   |"),
    ("{π:.3g}", "3.14"),
    ("{name!r:>8}", "   'Ada'"),
    ("{name!s:10}|", "Ada       |"),
    ("{x!r:5}|", "3    |"),
    ("{name!a}", "'Ada'"),
    ("{day:%d.%m.%Y}", "02.01.2026"),
    ("{day:%d %B}", "02 January"),
    ("{day:%H:%M}", "00:00"),
    ("{day}", "2026-01-02"),
    ("{rows[1]:+d}", "+8"),
    ("{point.y:.1f}", "2.0"),
    ("{any:.2f}", "<.2f>"),
    ("({x})", "(3)"),
    ("f({x})", "f(3)"),
    ("<b>{name}</b>", "<b>Ada</b>"),
    ('<b id="{id}">', '<b id="4">'),
    ("x = {x}; y = {y}", "x = 3; y = 3"),
    ('"{name}"', '"Ada"'),
    ("/users/{id}", "/users/4"),
    ("#{id}", "#4"),
    ('issue #{id} of "{name}"', 'issue #4 of "Ada"'),
    ("import {name} into the table", "import Ada into the table"),
    ("let {x} be", "let 3 be"),
    ("{name}: {x}", "Ada: 3"),
    ("- {x:.2f}%", "- 3.00%"),
    ("${{x}}", "$3"),
    ("a = {a}, b={b}", "a = 3, b=3"),
    ("{name}{x}", "Ada3"),
    ("_{name}_ and __{name}__", "_Ada_ and __Ada__"),
    ("(_{name} is here_)", "(_Ada is here_)"),
    ("{name}_{x}.png", "Ada_3.png"),
    ("(see {name})", "(see Ada)"),
    ("return {n} items", "return 3 items"),
]


@pytest.mark.parametrize(("text", "expected"), OURS)
def test_what_is_unmistakable_fills(text, expected):
    """Names, attributes, indices, conversions, and formats that can be nothing else."""
    space = {**LETTERS, **WORDS}
    assert expected == fill(text, space, lambda source: eval(source, dict(space))).text


@pytest.mark.parametrize("text", ["{x:>99999999999}", "{x!r:>99999999999}", "{x:.99999999f}", "{x:123456d}"])
def test_a_width_without_bounds_is_none(text):
    """It would fill the memory."""
    assert text == fill(text, LETTERS, str).text


@pytest.mark.parametrize(
    "text",
    [
        "{name:.2f}",
        "{name:,}",
        "{rows:>10}",
        "{x:%Y}",
        "{items:03d}",
        "{name!r:d}",
        "{sulky:>3}",
        "{key:%}",
        "{point:<9}",
    ],
)
def test_a_value_that_does_not_take_the_format_stays_and_is_told(text):
    """It never fails the cell."""
    result = fill(text, {**LETTERS, **WORDS, "sulky": SulkyFormat()}, str)
    assert (text, (), (text,)) == (result.text, result.names, result.skipped)


class SulkyFormat:
    def __format__(self, spec):
        raise KeyError("no")


@pytest.mark.parametrize(
    ("text", "expected", "names"),
    [
        ("{n} sentences", "3 sentences", ("n",)),
        ("{first}{last}", "AB", ("first", "last")),
        ("{name}", "N{x}", ("name",)),
        ("{d['q']} {rows[0]} {rows[-1]}", "5 7 8", ("d['q']", "rows[0]", "rows[-1]")),
        ("{shape.shape[0]}", "9", ("shape.shape[0]",)),
        ("{n:03d} {n!r} {n:.2f} {name!r:>8}", "003 3 3.00   'N{x}'", ("n", "name")),
        (
            "{d['q']!s:>3}|{rows[1]:+d}|{n:,}|{n:<4}|{n:%}",
            "  5|+8|3|3   |300.000000%",
            ("d['q']", "rows[1]", "n"),
        ),
        ("{{n + 1}} {{ {'a': 1}['a'] }}", "4 1", ("n + 1", "{'a': 1}['a']")),
        ("{{ {1: 2}}}", "{1: 2}", ("{1: 2}",)),
        ("{{ '}}' }} {{ [i for i in rows] }}", "}} [7, 8]", ("'}}'", "[i for i in rows]")),
        ("```\n{{n}}\n```\n{n}", "```\n3\n```\n3", ("n",)),
        (
            "```\n{{ [z for z in rows] }} {{len(rows)}}\n```",
            "```\n[7, 8] 2\n```",
            ("[z for z in rows]", "len(rows)"),
        ),
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
    ],
)
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


@pytest.mark.parametrize(
    ("text", "skipped"),
    [
        ("a {{#each}} b {{#each}}", ("{{#each}}",)),
        ("`{{nope}}` ${{ a.b }} ${{ no.a }}", ("{{nope}}", "{{ no.a }}")),
        ("{{ .Name }}", ("{{ .Name }}",)),
        ("```\n{{ .Name }}\n```", ()),
        ("{{}} {{ open", ()),
        ("<li id={n}> const {x} = y", ("{n}", "{x}")),
        ("{a: 1} f{n} `{n}` {k:s}", ("{n}",)),
        ("{{{x}}}", ()),
        ("{{n}}", ()),
    ],
)
def test_what_looks_like_an_expression_and_is_none_is_told(text, skipped):
    """It stays as it is, and the caller can say so; in code only where it could have been meant."""
    assert skipped == filled(text, a=SimpleNamespace(b=1)).skipped


class Sulky:
    def __str__(self):
        raise RuntimeError("no\ntext")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("a\nb {rows[9]}", "Line 2, column 3 of the prompt: {rows[9]} failed at [9] with IndexError"),
        ("{d['nope']}", "KeyError: 'nope'"),
        ("{n.nope}", "AttributeError"),
        ("{{1/0}}", "{{1/0}} failed with ZeroDivisionError: division by zero"),
        ("{{nope}}", "NameError: name 'nope'"),
        ("{{ await x }}", "SyntaxError"),
        ("{x.__class__}", "private attribute"),
        ("{x.real._y}", "Write {{x.real._y}}"),
        ("{sulky}", "{sulky} failed to become text with RuntimeError: no text"),
        ("{{sulky}}", "RuntimeError"),
        ("{rows[999999999999999999]}", "IndexError"),
        ("{d.q}", "AttributeError"),
    ],
)
def test_a_place_that_fails_says_where_and_why(text, words):
    """Line and column of the prompt, and the exception's own words, on one line."""
    with pytest.raises(ConfigError) as caught:
        filled(text, sulky=Sulky())
    assert words in str(caught.value)
    assert "\n" not in caught.value.message


PIECES = [
    "{",
    "}",
    "{x}",
    "{{",
    "}}",
    "{x",
    "`",
    "```",
    "~~~",
    "\n",
    "\r\n",
    "> ",
    "- ",
    "    ",
    "\\",
    "$",
    'f"',
    "'",
    '"',
    "f'''",
    "!(",
    ".format(",
    "a",
    " ",
    "{x:.2f}",
    "{x!r}",
    "{{x}}",
    "_",
    "\u2028",
]
PROMPTS = st.lists(st.sampled_from(PIECES), max_size=25).map("".join)


@given(PROMPTS | st.text(max_size=60))
def test_without_names_nothing_changes(text):
    """Single braces mean nothing where no name exists, whatever stands around them; with fill=off nothing
    means anything."""
    result = fill(text, {}, str, "off" if "{{" in text else "on")
    assert (text, ()) == (result.text, result.names)


@given(PROMPTS)
def test_all_that_is_not_filled_stays(text):
    """The text pieces, with the values' sources between them, are the prompt."""
    rest = text
    for piece in fill(text, {"x": 7}, lambda source: "VALUE").pieces:
        if isinstance(piece, str):
            assert rest.startswith(piece)
            rest = rest[len(piece) :]
        else:
            braces = 1 + rest.startswith("{{")
            close = rest.index("}" * braces, rest.index(piece.source) + len(piece.source))
            rest = rest[close + braces :]
    assert "" == rest


@given(PROMPTS, st.text(alphabet="{}xn`$\\ '\"", max_size=30))
def test_what_was_inserted_is_never_scanned(before, value):
    """A value full of braces goes in as it is, even right after another."""
    text = "".join(c if c not in "{`~\"'\\" else "(" for c in before) + " {value}{value}"
    result = fill(text, {"value": value, "x": 1, "n": 1}, str)
    assert text.removesuffix("{value}{value}") + value * 2 == result.text


@pytest.mark.slow
@pytest.mark.parametrize(
    "text",
    [
        "` " + "`" * 26 + " x {n}",
        "{{" * 3000 + "{n}}} " * 3000,
        "{{ " * 3000 + "}} " * 3000,
        "`" * 20_000 + "{n}",
        "{{n" * 5000,
        "'" * 20_000 + "{n}",
        'f"' * 20_000 + "{n}",
        "a!(" * 10_000 + "{n}",
        "\\" * 20_000 + '`{n}"',
        '"\\' * 10_000 + "{n}",
        "> " * 5000 + "{n}",
        "- " * 5000 + "{n}",
        "{n} `a` " * 5000,
        "` `` ``` " * 3000 + "{n}",
        "{rows" + "[0]" * 3000,
        "{{" + "(" * 3000 + "n" + ")" * 3000 + "}}",
        "{{" + "-" * 3900 + "n}}",
        "f'''" * 5000 + "{n}",
        "\\`" * 9000,
    ],
    ids=lambda text: repr(text[:12]),
)
def test_no_prompt_takes_long(text):
    """Whatever the braces, quotes and backticks."""
    with limit(5), contextlib.suppress(ConfigError):
        fill(text, NAMES, lambda source: "v")


def test_data_frames_become_a_schema_and_a_sample():
    """A model reads shape, types and the first rows."""
    import pandas as pd

    text = format_value(pd.DataFrame({"a": range(30), "b|c": ["x\ny"] * 29 + [None]}))
    assert "30 rows and 2 columns." in text
    assert "| a | int64 | 0 | 0 to 29, mean 14.5 |" in text
    assert "| 1 | 1 distinct, most often x y (29) |" in text
    assert "The first 10 of 30 rows:" in text
    assert "| 9 | 9 | x y |" in text
    assert "| 10 |" not in text
    assert "|  | a | b\\|c |" in text


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (
            lambda pd, np: pd.Series(range(30), name="age"),
            ("A series 'age' (int64), as a table of 30 rows", "The first 10 of 30 rows:"),
        ),
        (
            lambda pd, np: pd.DataFrame({f"c{i}": [i] for i in range(60)}),
            (
                "1 row and 60 columns",
                "| c39 | int64 | 0 | 39 to 39, mean 39 |",
                "(and 20 more columns: c40, c41",
            ),
        ),
        (lambda pd, np: pd.DataFrame({"a": []}), ("0 rows and 1 column.", "| a |")),
        (lambda pd, np: pd.DataFrame(), ("0 rows and 0 columns",)),
        (
            lambda pd, np: pd.DataFrame([[1, 2], [3, 4]], columns=["a", "a"]),
            ("| a | int64 | 0 | 2 to 4, mean 3 |", "| 0 | 1 | 2 |"),
        ),
        (
            lambda pd, np: pd.DataFrame({"a": [1]}, index=pd.MultiIndex.from_tuples([("x", 1)])),
            ("| ('x', 1) | 1 |",),
        ),
        (lambda pd, np: type("Mine", (pd.DataFrame,), {})({"a": [1]}), ("A table of 1 row and",)),
        (lambda pd, np: pd.DataFrame({"a": ["x" * 500]}), ("xxx... |",)),
        (lambda pd, np: np.arange(6).reshape(2, 3), ("shape (2, 3) and type int64", "[3 4 5]")),
        (lambda pd, np: np.full((30, 30), "x" * 20), ("(the first 3,000 of ",)),
        (lambda pd, np: np.float64(1.5), ("1.5",)),
    ],
)
def test_tables_and_arrays(make, words):
    """Shape, types, a sample, and what was cut."""
    import numpy as np
    import pandas as pd

    text = format_value(make(pd, np))
    assert [] == [w for w in words if w not in text]
    assert len(text) < 4_500
    assert text == fill("{value}", {"value": make(pd, np)}, str).text


@pytest.mark.parametrize("budget", [40, 100, 300, 1000, 5000])
def test_a_table_fits_its_budget_and_says_what_it_leaves_out(budget):
    """Fewer rows, then fewer columns, then shorter cells; never more than the budget and a line about the
    cut."""
    import pandas as pd

    df = pd.DataFrame({f"column {i}": [f"{i} some words {n}" for n in range(2_000)] for i in range(30)})
    text = format_value(df, budget=budget)
    assert token_estimate(text) <= budget + 15
    assert "2,000 rows and 30 columns" in text
    assert "more columns" in text or "of 2,000 rows:" in text or "characters)" in text


def test_dates_booleans_and_cells_that_cannot_be_sorted():
    """Ranges of dates, commonest values, of lists too."""
    import pandas as pd

    text = format_value(
        pd.DataFrame(
            {
                "day": pd.to_datetime(["2026-01-02", "2026-03-04"]),
                "ok": [True, True],
                "tags": [["a"], ["b"]],
                "none": [None, None],
            }
        )
    )
    assert "2026-01-02 00:00:00 to 2026-03-04 00:00:00" in text
    assert "| ok | bool | 0 | 1 distinct, most often True (2) |" in text
    assert "most often ['a'] (1)" in text
    assert "| 2 | none |" in text


def test_long_lists_and_mappings_are_cut_and_text_never():
    """What a person wrote as text is theirs."""
    assert "characters)" in format_value(list(range(5_000)))
    assert "characters)" in format_value({i: i for i in range(5_000)})
    assert "[1, 2]" == format_value([1, 2])
    assert 50_000 == len(format_value("x" * 50_000))


def test_the_footer_says_what_took_much():
    """Small ones by name alone."""
    filled = fill("{n} {rows} {n}", {"n": 3, "rows": list(range(200))}, str)
    assert ("n", "rows (≈ 297 of 1,000 tokens)") == filled.labels


def test_a_format_or_conversion_takes_the_place_of_the_form():
    """And the caller sees that only text was asked for."""
    pieces = fill("{value!s} {value}", {"value": [1]}, str).pieces
    assert [False, True] == [p.plain for p in pieces if not isinstance(p, str)]


# JSX and its kin as they are pasted without a fence, and tags as prompts have them.
JSX = [
    "const A = () => <p>{name}</p>",
    "const A = ({ user }) => <p>{name}</p>;",
    "items.map(item => <li>{item}</li>)",
    "items.map((item) => <li key={id}>{item}</li>)",
    "{items.map(item => <li>{item}</li>)}",
    "return (\n  <div>\n    <h1>{title}</h1>\n  </div>\n)",
    "return (<h1>{title}</h1>);",
    "function App() {\n  return (\n    <p>{name}</p>\n  );\n}",
    "export default () => (\n  <>\n    {children}\n  </>\n)",
    "<Box>{...props}</Box>",
    "<p style={{color: color}}>x</p>",
    "<p style={style}>x</p>",
    "<img src={src} alt={alt} />",
    "<button onClick={onClick}>Go</button>",
    "<Foo render={() => <p>{name}</p>} />",
    "<Foo render={() => (\n <p>{name}</p>\n)} />",
    "{loading ? <p>Wait</p> : null}",
    "{loading && <Spinner />}",
    "{error && <p>{error}</p>}",
    "{count > 0 && <b>{count}</b>}",
    "{`${name}`}",
    "<p>{`Hello ${name}`}</p>",
    "<p>{'text'}</p>",
    "<p>{/* comment */}</p>",
    "<li key={key}>x</li>",
    "<input value={value} onChange={e => set(e.target.value)} />",
    "<a href={url}>link</a>",
    "<Foo {...props} />",
    "<Foo {...props}>x</Foo>",
    "<T,>{x: T}",
    "useEffect(() => { setCount(count) }, [])",
    "const { name } = user",
    "<div className={className}>x</div>",
    "<div className={`a ${className}`}>x</div>",
    "<Foo.Bar value={value}/>",
    "<foo-bar :value={value}/>",
    "<p\n  className='a'\n  id={id}\n>x</p>",
    "setTodos([...todos, { text }])",
    "map(x => (<td>{x}</td>))",
    "return <li>{name}</li>;",
    "function A(name) { return <p>{name}</p> }",
    "const box = {value};",
    "module.exports = {name}",
    "useEffect(() => {count}, [])",
    "return <p>\n  {name}\n</p>\n}",
    "city => <b>{city}</b>",
    "<Foo a={a}>",
    "<motion.div animate={animate} />",
    "<circle r={r} cx={cx}/>",
    "<my-button\n  label={label}\n>",
    "const el = <p>{name}</p>;",
    "let el = <p>Hi, {name}!</p>",
    "root.render(<p>{name}</p>)",
    "render(<App>{children}</App>)",
    "<p>{user.name.toUpperCase()}</p>",
    "<p>{items?.length}</p>",
    "<p>{name ?? 'x'}</p>",
    "{#if name}x{/if}",
    "{#each items as item}x{/each}",
    "{@html text}",
    "<p>{@render children()}</p>",
    "<Show when={user}>x</Show>",
    "<For each={items}>{(item) => <li>{item}</li>}</For>",
]
TAGS = [
    ("<document>{doc}</document>", "doc"),
    ("<document>\n{doc}\n</document>", "doc"),
    ("<doc id='1'>{doc}</doc>", "doc"),
    ('<doc id="1">\n{doc}\n</doc>', "doc"),
    ("<context>{context}</context>\n<question>{question}</question>", "question"),
    ("<example><input>{example}</input></example>", "example"),
    ("Return <answer>{answer}</answer> only.", "answer"),
    ("Please return (in <b>{name}</b>) it", "name"),
    ("<p>{name}</p>", "name"),
    ("<h1>{title}</h1>\n<p>{text}</p>", "text"),
    ("<td>{i}</td><td>{price}</td>", "price"),
    ("<p>{price:.2f}</p>", "price"),
    ("<p>Hello {name}, you are {i}</p>", "name"),
    ("Translate <text>{text}</text> into German", "text"),
    ("<{name}>", "name"),
    ("<!-- {name} -->", "name"),
    ("a < b and {name} > c", "name"),
    ("x<y, {name}", "name"),
    ("Dear <{email}>,", "email"),
    ("If a => b, then {name}", "name"),
    ("It costs => {price}", "price"),
    ("We return {name}.", "name"),
    ("return ({name})", "name"),
    ("<ul>\n<li>{name}</li>\n<li>{title}</li>\n</ul>", "title"),
    ("<system>You are {name}.</system>", "name"),
    ("<xml>{data}</xml>", "data"),
    ("<answer>\n  <name>{name}</name>\n</answer>", "name"),
    ("From <file path='a.py'> take {name}", "name"),
    ("<document id={i}>", "i"),
    ("<document\n  kind='a'\n  id={i}\n>{doc}</document>", "i"),
    ("<example n={i} of={count}>x</example>", "count"),
    ("<title lang={lang}>{title}</title>", "lang"),
    ("a => <x>{name}</x>", "name"),
    ("question => <answer>{answer}</answer>", "answer"),
    ("Grade f(<essay>{text}</essay>)", "text"),
    ("return <answer>{answer}</answer>;", "answer"),
    ("return <b>{name}</b> and no more", "name"),
]
AROUND = dict.fromkeys(re.findall(r"[A-Za-z]+", " ".join([*JSX, *(text for text, _ in TAGS)])), 1.5)


@pytest.mark.parametrize("text", JSX)
def test_jsx_goes_through_to_the_letter(text):
    """JavaScript stands before it, or it is an attribute's value."""
    assert text == fill(text, AROUND, pytest.fail).text


@pytest.mark.parametrize(("text", "name"), TAGS)
def test_a_value_between_tags_is_filled(text, name):
    """As prompts set what they are about apart."""
    assert name in fill(text, AROUND, pytest.fail).names


def test_jsx_is_told_and_filled_by_two_braces():
    """As code in a fence."""
    found = fill("xs.map(x => <li>{name} {{name}}</li>)", {"name": "Ada"}, lambda source: "Ada")
    assert "xs.map(x => <li>{name} Ada</li>)" == found.text
    assert ("{name}, write {{name}}",) == found.advice
