"""The text of a cell reaches the model unchanged: scripts, braces that are not placeholders, images, tables,
lines that end in a question mark, and options that look like addresses."""

import base64
import io
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest

from nbllm.core.errors import ConfigError
from nbllm.core.messages import Document, Image, Text
from nbllm.core.template import RowTemplate, fill, parameters_in
from nbllm.core.values import format_value, is_drawable, token_estimate
from nbllm.notebook.magics import transform_questions
from nbllm.notebook.prompt.attachments import load_attachment, part_from_bytes, value_part
from nbllm.notebook.syntax.lexer import read_value
from nbllm.notebook.syntax.parser import parse
from nbllm.notebook.syntax.placeholders import reject_placeholders
from nbllm.notebook.syntax.statements import statement_lines

PNG = base64.b64decode(
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="
)
JPEG = b"\xff\xd8\xff\xe0" + b"\0" * 20
NAMES = {
    "n": 3,
    "नाम": "राम",
    "größe": 5,
    "변수": 7,
    "fi": "lig",
    "sales": [1, 2],
    "df": pd.DataFrame({"a": [1]}),
    "code": "x = 1",
    "name": "Ann",
    "x": 2.5,
    "ताप": 30,
    "ℵ": 1,
    "ঢাকা": "Dhaka",
    "tés": "combined",
    "Küche": "kitchen",
}


def filled(text, mode="on", **names):
    space = {**NAMES, **names}
    return fill(text, space, lambda source: eval(source, dict(space)), mode)


# --- scripts ---


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("请用{n}句话回答", "请用3句话回答"),
        ("{नाम}", "राम"),
        ("これは{name}です", "これはAnnです"),
        ("カタカナー{n}", "カタカナー3"),
        ("ｶﾅ{n}", "ｶﾅ3"),
        ("ตอบ{n}ข้อ", "ตอบ3ข้อ"),
        ("ใน้{n}", "ใน้3"),
        ("ຂໍ້{n}", "ຂໍ້3"),
        ("ខ្មែរ{n}", "ខ្មែរ3"),
        ("မြန်မာ{n}", "မြန်မာ3"),
        ("佐々{n}", "佐々3"),
        ("①{n}、②{name}", "①3、②Ann"),
        ("：{n}。", "：3。"),
        ("（{n}）", "（3）"),
        ("变量{ताप}度", "变量30度"),
        ("{größe} {변수}", "5 7"),
        ("{ｎ}", "3"),
        ("{ﬁ}", "lig"),
        ("{ঢাকা}", "Dhaka"),
        ("{te\u0301s}", "combined"),
        ("第{x:.1f}章", "第2.5章"),
        ("用{{n + 1}}句", "用4句"),
        ("→{n}", "→3"),
        ("👍🏽{n} ❤️{n}", "👍🏽3 ❤️3"),
        ("{Ｋｕ\u0308ｃｈｅ}", "kitchen"),
        # scripts with spaces between words: a letter before a brace belongs to it
        ("größe{n}", "größe{n}"),
        ("नाम{n}", "नाम{n}"),
        ("राजा{n}", "राजा{n}"),
        ("é{n} e\u0301{n}", "é{n} e\u0301{n}"),
        ("слово{n}", "слово{n}"),
        ("كلمة{n}", "كلمة{n}"),
        ("단어{n}", "단어{n}"),
        ("x5{n} ٣{n}", "x5{n} ٣{n}"),
        ("{请用n。句}", "{请用n。句}"),
    ],
)
def test_places_in_any_script(text, expected):
    """Names are Python's; a letter before a brace matters where its script writes spaces."""
    assert expected == filled(text).text


@pytest.mark.parametrize("word", ["True", "None", "class", "lambda", "await"])
def test_a_word_of_python_s_own_is_no_parameter(word):
    """A function cannot have one of that name: it stays as it is, as in a cell."""
    text = f"Say {{{word}}}, {{kind}}: {{{{ {{'a': None if x else True}} }}}}"
    assert (("kind", "x"), ()) == parameters_in(text, {})
    assert f"Say {{{word}}}, k" in fill(text, {"kind": "k", "x": 1}, lambda source: source).text


def test_columns_and_parameters_in_any_script():
    """Columns by their own form first; parameters as Python names them."""
    assert "राम 1" == RowTemplate.of("{नाम} {ﬁ}").fill({"नाम": "राम", "ﬁ": 1})
    assert (("n", "नाम"), ()) == parameters_in("{ｎ} {नाम}", {})


# --- what looks like ours and stays ---


@pytest.mark.parametrize(
    ("text", "left"),
    [
        ("Sum {slaes}", "{slaes}, did you mean sales?"),
        ("Sum {Sales} {SALES}", "{Sales}, did you mean sales?; {SALES}, did you mean sales?"),
        ("{slaes[0]}", "{slaes[0]}, did you mean sales?"),
        ("{slaes!r}", "{slaes!r}, did you mean sales?"),
        ("{slaes:.2f}", "{slaes:.2f}, did you mean sales?"),
        ("合计{slaes}", "{slaes}, did you mean sales?"),
        ("{nmae}", "{nmae}, did you mean name?"),
        ("{größse}", "{größse}, did you mean größe?"),
        ("{placeholder}", "{placeholder}"),
        ("{df.head()}", "{df.head()}, write {{df.head()}}"),
        ("{n+1}", "{n+1}, write {{n+1}}"),
        ("{len(sales)}", "{len(sales)}, write {{len(sales)}}"),
        ("{sales[0:2]}", "{sales[0:2]}, write {{sales[0:2]}}"),
        ("{name.upper()}", "{name.upper()}, write {{name.upper()}}"),
        ("{ n }", "{ n }, write {n}"),
        ("```\n{code}\n```", "{code}, write {{code}}"),
        ("`{code}`", "{code}, write {{code}}"),
        ("{q1} {q2} {q3} {q4} {q5}", "{q1}; {q2}; {q3} and 2 more"),
        ("data_{name}.csv", "{name}, write {{name}}"),
        ("report-v{sales[0]}", "{sales[0]}, write {{sales[0]}}"),
    ],
)
def test_what_looks_like_ours_and_stays_is_told(text, left):
    """It is sent as it is, with the nearest name or what to write."""
    found = filled(text)
    assert (text, left) == (found.text, found.skipped_summary)


@pytest.mark.parametrize(
    "text",
    [
        '{"n": 1} {n: 1} {k: v for k, v in n} {n, x} {}',
        r"\frac{n}{x} x_{n} e^{n+1} \begin{code} \textbf{slaes} {\bf x} {n \choose x}",
        "function f() {return} class A {pass} if (x) {break}",
        "${slaes} $${n} %{n}",
        'f"{slaes} {n}" and "{slaes}".format(n=1)',
        "```\n{slaes} {placeholder} f'{n}'\n```",
        "`{slaes}` {n:10} {n: 1} {code:block}",
        "const {slaes} = props; import {slaes} from 'x'; <A b={slaes}>",
        "{1} {1, 2} {'a'} {...} {} {n\n+1}",
        "f{slaes} a{n+1}",
        "{{{slaes}}}",
    ],
)
def test_what_is_another_language_s_is_not_told(text):
    """Neither filled nor told."""
    assert (text, "") == ((found := filled(text)).text, found.skipped_summary)


def test_without_filling_nothing_is_told():
    """fill=off, fill=double; and a prompt full of braces is looked at in bounded time."""
    assert "" == filled("{slaes}", "off").skipped_summary == filled("{slaes}", "double").skipped_summary
    assert 20 == len(filled("".join(f"{{q{i}}} " for i in range(5_000))).advice)


# --- pictures ---


class Png:
    def __init__(self, made):
        self.made = made

    def _repr_png_(self):
        if isinstance(self.made, Exception):
            raise self.made
        return self.made


class Jpeg:
    def _repr_jpeg_(self):
        return JPEG, {"width": 5}


class Bundle:
    def __init__(self, made):
        self.made = made

    def _repr_mimebundle_(self, include=None, exclude=None):
        return self.made


class Everything:
    def __getattr__(self, name):
        return lambda *args, **kwargs: PNG


class Raising:
    def __getattr__(self, name):
        raise RuntimeError(name)


class NoMethod:
    _repr_png_ = None


class Property:
    @property
    def _repr_png_(self):
        raise ValueError("lazy")


def display(name, *args, **kwargs):
    import IPython.display

    return getattr(IPython.display, name)(*args, **kwargs)


@pytest.mark.parametrize(
    "make",
    [
        lambda: Png(PNG),
        lambda: Png((PNG, {"width": 1})),
        lambda: Png(base64.b64encode(PNG).decode()),
        lambda: Png(bytearray(PNG)),
        Jpeg,
        lambda: Bundle({"image/png": PNG, "text/plain": "x"}),
        lambda: Bundle(({"image/jpeg": base64.b64encode(JPEG).decode()}, {})),
        lambda: display("Image", data=PNG),
        lambda: display("Image", data=PNG, format="jpg"),
        lambda: display("Image", data=b"GIF89a" + PNG, format="gif"),
        lambda: PNG,
        lambda: bytearray(PNG),
        lambda: memoryview(PNG),
        lambda: io.BytesIO(PNG),
    ],
)
def test_what_shows_as_a_picture_is_one(make):
    """At its place in a prompt, and attached; its type is what the bytes say."""
    for part in (value_part("v", make()), load_attachment("v", {"v": make()})):
        assert isinstance(part, Image)
        assert part.media_type in ("image/png", "image/jpeg", "image/gif")
    assert ("v (image)",) == fill("{v}", {"v": make()}, str).labels


@pytest.mark.parametrize(
    "make",
    [
        NoMethod,
        lambda: NoMethod,
        lambda: Png,
        lambda: Jpeg,
        Everything,
        Raising,
        Property,
        lambda: Png(None),
        lambda: Png(ValueError("no")),
        lambda: Png(b""),
        lambda: Png(b"<html>"),
        lambda: Png("no base64 &"),
        lambda: Png(17),
        lambda: Png(()),
        lambda: Bundle(None),
        lambda: Bundle({"image/svg+xml": "<svg/>"}),
        lambda: b"no picture",
        lambda: display("Image", data=b"<svg/>", format="png"),
    ],
)
def test_what_is_no_picture_is_text(make):
    """Probed as IPython probes: real methods, whose errors are nobody's."""
    value = make()
    assert not is_drawable(value)
    assert value_part("v", value) is None


@pytest.mark.parametrize(
    ("make", "text"),
    [
        (lambda: display("Markdown", "# Title *x*"), "# Title *x*"),
        (lambda: display("HTML", "<b>x</b>"), "<b>x</b>"),
        (lambda: display("SVG", "<svg xmlns='http://www.w3.org/2000/svg'><path/></svg>"), "<path/>"),
        (lambda: display("Latex", "$x^2$"), "$x^2$"),
        (lambda: display("Javascript", "alert(1)"), "alert(1)"),
        (lambda: display("JSON", {"a": 1}), "'a': 1"),
    ],
)
def test_what_ipython_shows_goes_in_as_what_it_is(make, text):
    """Its source, not <IPython.core.display.Markdown object>."""
    assert text in filled("{v}", v=make()).text
    assert "object>" not in filled("{v}", v=make()).text


def test_a_picture_at_an_address_stays_one():
    """IPython's Image that only names it."""
    assert Image(url="https://h/a.png") == value_part("v", display("Image", url="https://h/a.png"))


@pytest.mark.parametrize(
    ("name", "data", "kind", "expected"),
    [
        ("a.png", JPEG, "image/png", Image(JPEG, media_type="image/jpeg")),
        ("a.txt", PNG, "text/plain", Image(PNG)),
        ("noend", PNG, "", Image(PNG)),
        ("a.jpg", b"RIFF\0\0\0\0WEBPVP8 ", "image/jpeg", Image(b"RIFF\0\0\0\0WEBPVP8 ")),
        ("a.png", b"%PDF-1.7", "image/png", Document(b"%PDF-1.7", name="a.png")),
        ("a.svg", b"<svg/>", "image/svg+xml", Text("\n\na.svg:\n```\n<svg/>\n```\n")),
        ("a.png", b"<html>404</html>", "image/png", Text("\n\na.png:\n```\n<html>404</html>\n```\n")),
    ],
)
def test_files_are_what_their_bytes_say(name, data, kind, expected):
    """Whatever they are called."""
    assert expected == part_from_bytes(data, kind, name)


@pytest.mark.slow
def test_a_figure_that_cannot_be_drawn_says_so():
    """Its own text may be no formula."""
    import matplotlib.figure

    figure = matplotlib.figure.Figure()
    figure.text(0, 0, r"$\frac{$")
    with pytest.raises(ConfigError, match="cannot be drawn"):
        value_part("figure", figure)


# --- tables ---


def arrow(values, kind):
    import pyarrow as pa

    return pd.Series(values, dtype=pd.ArrowDtype(kind(pa)))


ITEMS = pd.Series(list("abcdefghij"), dtype="category")
TWO_LEVELS = pd.DataFrame(
    [[1, 2.5], [3, 4.5]],
    columns=pd.MultiIndex.from_tuples([("price", "low"), ("price", "high")]),
    index=pd.MultiIndex.from_tuples([("Oslo", 2024), ("Rome", 2025)], names=["city", "year"]),
)


def table(make):
    import pyarrow as pa

    return make(pa)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (
            lambda: pd.DataFrame({"v": arrow([[1, 2], [3], None], lambda pa: pa.list_(pa.int64()))}),
            ("| v | list<", "| 1 | 2 distinct, most often [1, 2] (1) |", "| 0 | [1, 2] |"),
        ),
        (
            lambda: pd.DataFrame(
                {"v": arrow([{"a": 1}, {"a": 1}], lambda pa: pa.struct([("a", pa.int64())]))}
            ),
            ("| v | struct<a: int64>", "1 distinct, most often {'a': 1} (2)"),
        ),
        (
            lambda: pd.DataFrame({"v": arrow(["x", "y", "x"], lambda pa: pa.string())}),
            ("2 distinct, most often x (2)",),
        ),
        (lambda: pd.DataFrame({"v": arrow([1, 2], lambda pa: pa.int64())}), ("1 to 2, mean 1.5",)),
        (
            lambda: pd.DataFrame({"v": ITEMS[ITEMS.isin(["a", "b"])]}),
            ("| v | category | 0 | 2 distinct, most often a (1) |",),
        ),
        (lambda: ITEMS[:0].to_frame("v"), ("| v | category | 0 | none |",)),
        (
            lambda: pd.DataFrame({"v": pd.Categorical(["lo"], ["lo", "hi"], ordered=True)}),
            ("| v | category, ordered | 0 | 1 distinct",),
        ),
        (
            lambda: TWO_LEVELS,
            (
                "| ('price', 'low') | int64 | 0 | 1 to 3, mean 2 |",
                "| city, year | ('price', 'low') |",
                "| ('Oslo', 2024) | 1 | 2.5 |",
            ),
        ),
        (
            lambda: pd.DataFrame({"v": [{"a": [1]}, {"a": [1]}, {}]}),
            ("2 distinct, most often {'a': [1]} (2)",),
        ),
        (lambda: pd.DataFrame({"v": [np.arange(2), np.arange(2)]}), ("1 distinct, most often [0, 1] (2)",)),
        (lambda: pd.DataFrame({"v": [pd.DataFrame(), 5]}), ("2 distinct",)),
        (lambda: pd.DataFrame({"v": [1, "a", None, (1, 2)]}), ("| 1 | 3 distinct",)),
        (
            lambda: table(lambda pa: pa.table({"id": [1, 2], "tags": [["a"], []]})),
            ("A table of 2 rows and 2 columns", "| id | int64[pyarrow] | 0 | 1 to 2", "['a']"),
        ),
        (
            lambda: table(lambda pa: pa.record_batch({"id": [1, 2]})),
            ("A table of 2 rows", "1 to 2, mean 1.5"),
        ),
        (lambda: pd.Series(pd.period_range("2024-01", periods=3, freq="M")), ("3 distinct",)),
        (lambda: pd.DataFrame({"v": pd.arrays.SparseArray([0, 0, 1])}), ("0 to 1, mean 0.3333",)),
        (lambda: pd.DataFrame({"v": [complex(1, 2)]}), ("(1+2j)",)),
        (lambda: pd.DataFrame({"v": [float("inf"), -float("inf")]}), ("-inf to inf",)),
        (
            lambda: pd.DataFrame(
                {"v": arrow([["a"]] * 150_000, lambda pa: pa.list_(pa.string()))}, copy=False
            ),
            ("150,000 rows", "1 distinct in the first 100,000, most often ['a'] (100,000)"),
        ),
    ],
)
def test_tables_of_any_columns(make, words):
    """Are described as they are."""
    text = format_value(make())
    assert [] == [w for w in words if w not in text], text


@pytest.mark.parametrize(
    "make",
    [
        lambda: pd.DataFrame({f"c{i}": [["x" * 1_000] * 20] * 9 for i in range(60)}),
        lambda: pd.DataFrame({"c" * 9_000 + str(i): [1] for i in range(60)}),
        lambda: pd.concat([TWO_LEVELS] * 500, axis=1),
        lambda: table(lambda pa: pa.table({f"c{i}": [[i] * 1_000] for i in range(50)})),
        lambda: [["x" * 100] * 100] * 100,
        lambda: b"x" * 100_000,
        lambda: display("HTML", "<b>" * 50_000),
    ],
)
@pytest.mark.parametrize("budget", [40, 300, 1_000])
def test_whatever_its_size_a_value_keeps_to_its_budget(make, budget):
    """And a line about what was cut."""
    assert token_estimate(format_value(make(), budget=budget)) <= budget + 20


class DataFrame:
    """As polars' own, whose Arrow form pandas reads."""

    __module__ = "polars.dataframe.frame"
    ndim, shape = 2, (2, 1)

    def to_arrow(self):
        return table(lambda pa: pa.table({"id": pa.array([1, 2], pa.uint8())}))


class LazyFrame:
    __module__ = "polars.lazyframe.frame"

    def collect_schema(self):
        return {"id": "Int64"}


def test_tables_of_polars():
    """Described as all others; one that is not computed is not computed."""
    assert "| id | uint8[pyarrow] | 0 | 1 to 2, mean 1.5 |" in format_value(DataFrame())
    assert "not computed yet, with the columns {'id': 'Int64'}" in format_value(LazyFrame())
    broken = DataFrame()
    broken.to_arrow = lambda: 1 / 0
    assert format_value(broken).startswith("A table of shape (2, 1):\n<polars.")


# --- lines that end in a question mark ---

ASKED = "get_ipython().run_line_magic('llm', "


@pytest.mark.parametrize(
    ("cell", "asked"),
    [
        ("%llm ask -m x why?\n", [0]),
        ("x = %llm ask what's up (again?\ny = 1\n%llm ask it's \"so?\n", [0, 2]),
        ("a.b, c[0] = 1, 2\nif x:\n    %llm ask why?\n", [2]),
        ("%%writefile w.md\n%llm ask -m x why?\n", []),
        ("%%time\n%llm ask -m x why?\n", []),
        ('s = """\n%llm ask -m x why?\n"""\n%llm ask why?\n', [3]),
        ("s = '''a 'b' \\'''\n%llm ask why?\n'''\n%llm ask why?\n", [3]),
        ("f(\n%llm ask why?\n)\n", []),
        ("x = [1, # ]\n%llm ask why?\n]\n%llm ask why?\n", [3]),
        ("x = 5 \\\n%llm ask why?\n", []),
        ('f"""{x}\n%llm ask why?\n"""\n', []),
        ('# it\'s """ nothing\n%llm ask why?\n', [1]),
        ("x = 'it\\'s' + \"(\"\n%llm ask why?\n", [1]),
        ("!echo 'don't (\n%llm ask why?\n", [1]),
        ("files = !ls (\n%llm ask why?\n", [1]),
        ("x = 'never closed\n%llm ask why?\n", [1]),
        ("%llm ask why\n%llm help?\n?%llm\n", []),
        ("%llm Why?\na = %llm Why?\n%llm ask?\n%llm?\n%llm??\n", [0, 1]),
        ("%llm last word?\n%llm chat show eda?\n%llm stop words are what?\n", [0, 1, 2]),
        ("d['a = %'] = %llm ask why me?\nrows[i + 1] = %llm ask why me?\n", [0, 1]),
        ("x: str = %llm ask why me?\n(a) = %llm ask why me?\n[a, b] = %llm ask why me?\n", [0, 1, 2]),
        ("*a, b = %llm ask why me?\nself.x[0].y = %llm ask why me?\n", [0, 1]),
        ("x == y % llm(why)\nlen?\n%time %llm ask why?\n# %llm ask why?\n", []),
    ],
)
def test_only_commands_are_questions(cell, asked):
    """Not what stands in strings, brackets and cell magics."""
    lines = cell.splitlines(keepends=True)
    made = transform_questions(lines)
    assert asked == [i for i, line in enumerate(made) if ASKED in line]
    assert [line for i, line in enumerate(lines) if i not in asked] == [
        line for i, line in enumerate(made) if i not in asked
    ]


def test_a_cell_of_python_is_read_as_python_reads_it():
    """Every line that begins a statement, in this file."""
    import ast
    from pathlib import Path

    text = Path(__file__).read_text("utf-8")
    nodes = [n for n in ast.walk(ast.parse(text)) if isinstance(n, ast.stmt)]
    within = {i for n in nodes for i in range(n.lineno, (n.end_lineno or 0) + 1)}
    found = {i + 1 for i in statement_lines(text.splitlines(keepends=True))}
    assert set() == {n.lineno for n in nodes} - found
    strings = [n for n in ast.walk(ast.parse(text)) if isinstance(n, ast.Constant | ast.JoinedStr)]
    inside = {i for n in strings for i in range(n.lineno + 1, (n.end_lineno or 0) + 1)} & within
    assert set() == inside & found


@pytest.mark.parametrize(
    ("lines", "made"),
    [
        (["%%llm sim\n"], ["%%llm sim\n", "\n"]),
        (["%%nbllm\n"], ["%%nbllm\n", "\n"]),
        (["%%llm_bench sim\n"], ["%%llm_bench sim\n", "\n"]),
        (["%%llm sim\n", "hi\n"], ["%%llm sim\n", "hi\n"]),
        (["%%time\n"], ["%%time\n"]),
        (["%%llmx\n"], ["%%llmx\n"]),
    ],
)
def test_a_cell_without_a_body_reaches_us(lines, made):
    """So that the error is ours."""
    assert made == transform_questions(lines)


# --- options ---


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("model={m}", "Write model=m: the variable's name without braces"),
        ("{m}", "without braces: model=NAME"),
        ("sim/openai system={m}", "NbLLM.system = m"),
        ('sim/openai -s "Be {role} and brief"', "NbLLM.system = role"),
        ("sim/openai -s {role.upper()}", "NbLLM.system = role"),
        ("sim/openai base_url=$url", "NbLLM.base_url = url"),
        ("sim/openai base_url=${url}", "NbLLM.base_url = url"),
        ("sim/openai schema={City}", "Write schema=City"),
        ("sim/openai attach={path}", "Write attach=path"),
        ("sim/openai,{m}", "without braces: model=NAME"),
        ("sim/openai x.user={name}", "x.user=name"),
        ("sim/openai -s {größe}", "NbLLM.system = größe"),
        ('sim -s "You are {{role}}."', "NbLLM.system = role"),
        ('sim -s "You are {{role.upper()}}."', "NbLLM.system = role"),
        ('sim -s "in {role!r} and {role:>9}"', "NbLLM.system = role"),
    ],
)
def test_options_that_hold_places_are_refused(line, words):
    """With the column, and the way to do it."""
    with pytest.raises(ConfigError, match="is not filled") as caught:
        reject_placeholders(parse(line), {"role": 1})
    assert "Column " in caught.value.message
    assert words in caught.value.hint


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("temperature={t}", "NbLLM.temperature = t"),
        ("-t $t", "NbLLM.temperature = t"),
        ("max_tokens=${n}", "NbLLM.max_tokens = n"),
        ("reasoning={{n}}", "NbLLM.reasoning = n"),
        ("out={name}", "Write out=name"),
        ("each={df}", "Write each=df"),
        ("chat={name}", "Options are not filled"),
        ("def={name}", "Options are not filled"),
        ("temperature=warm", ""),
    ],
)
def test_an_option_that_takes_no_text_says_how_a_variable_goes_in(line, words):
    """Where its value is a place and nothing else."""
    with pytest.raises(ConfigError, match="needs") as caught:
        parse(f"sim {line}")
    assert words in (caught.value.hint or "")
    assert bool(words) == bool(caught.value.hint)


@pytest.mark.parametrize(
    "line",
    [
        'sim schema={"type":"object","properties":{"role":{}}}',
        'sim -s "Answer as {other} JSON"',
        'sim -s "{""role"": 1}" stop=["{"]',
        'sim x.a={"role": {"b": 1}} x.b=[1,2]',
        'sim -s "costs $5 for \\textbf{role} and ${role}"',
        'sim schema="name, role"',
        'sim -s "x^{role} and {role, 1} and {role: 1} and {role:string}"',
        'sim -s "a => <p>{role}</p>"',
        'sim x.template="{{ role }}" x.other="a {{role}} b {{{role}}}"',
    ],
)
def test_other_braces_in_options_are_theirs(line):
    """JSON, LaTeX, names that no variable has."""
    reject_placeholders(parse(line), {"role": 1})


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("“be brief”", "be brief"),
        ("„kurz bitte“", "kurz bitte"),
        ("„krótko”", "krótko"),
        ("«être bref»", "être bref"),
        ("‘it’s so’", "it’s so"),
        ("”på svenska”", "på svenska"),
    ],
)
def test_typographic_quotes_quote(text, expected):
    """As word processors write them."""
    assert (expected, len(text), True) == read_value(text + " x", 0)
    assert expected == parse(f"sim -s {text}").options["system"]


def test_names_of_variables():
    """In any script, as Python reads them; not what IPython keeps for itself."""
    assert "नाम" == parse("sim out=नाम").out
    assert "fi" == parse("ﬁ << sim").out
    for name in ("In", "Out", "exit", "_", "get_ipython"):
        with pytest.raises(ConfigError, match="IPython uses"):
            parse(f"sim out={name}")


def test_a_namespace_of_one_s_own():
    """Attributes in any script."""
    assert "5" == filled("{o.größe}", o=SimpleNamespace(größe=5)).text


@pytest.mark.slow
def test_in_a_kernel():
    """The footer tells what was not filled; a model from a variable; errors of ours for a cell without a
    body; a benchmark's cell reaches us as it is."""
    from .kernels import Kernel

    with Kernel() as kernel:
        ran = kernel.run("sales = 3\nm = ['sim/openai', 'sim/gemini']\ncr = 1")
        ran = kernel.run("%%llm sim/openai@echo=1\nSum {slaes} {sales}")
        assert "not filled: {slaes}, did you mean sales?" in ran.text
        assert "Sum {slaes} 3" in ran.text
        assert "Not filled" in kernel.run("%%llm sim dry_run=true\n{slaes}").text
        assert kernel.run("%%llm model=m\nhi").ok
        assert ["sim/openai", "sim/gemini"] == kernel.value("_llm.labels")
        assert kernel.run("%%llm sim/openai@echo=1\r\nhi\r\n").ok
        assert "hi" == kernel.value("_llm.text")
        for cell, words in (
            ("%%llm sim", "The prompt is empty"),
            ("%%llm model={m}\nhi", "Write model=m"),
            ("%%llm sim system={m}\nhi", "%config NbLLM.system = m"),
            ("%%llm_bench model=$m blocks=1\nhi", "Write model=m"),
        ):
            assert words in "".join(kernel.run(cell).error["traceback"]), cell
