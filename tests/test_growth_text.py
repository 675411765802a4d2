"""Whatever is in an answer, a prompt or on a magic's line: time in proportion to its length, from the first
chunk to the saved form."""

import json
import re
import time
from html import unescape

import pytest

from nbllm.core.errors import ConfigError
from nbllm.core.events import TextDelta
from nbllm.core.messages import ToolCall
from nbllm.core.schema_shorthand import schema
from nbllm.core.template import fill, parameters_in
from nbllm.notebook.magics import transform_questions
from nbllm.notebook.syntax import parser as grammar
from nbllm.notebook.view.blocks import BlockSplitter
from nbllm.notebook.view.hidden import clean, plain_text
from nbllm.notebook.view.highlight import _HIGHLIGHTED
from nbllm.notebook.view.live import LivePainter
from nbllm.notebook.view.markdown import code_html, fences, to_html
from nbllm.notebook.view.state import AnswerState
from nbllm.notebook.view.static import FORMATS, call_source, render_call
from nbllm.notebook.view.text import TextPainter

from .growth import growth

pytestmark = pytest.mark.slow


def drawn_call(call):
    return render_call(clean(call_source(call)))


class Nowhere:
    """A front end that looks at nothing."""

    def publish(self, data, **_):
        pass

    def clear(self, **_):
        pass


def live(text):
    """An answer in pieces of seven characters, drawn as often as the pace allows: four thousand characters a
    second."""
    now = [0.0]
    state = AnswerState("m", 0.0)
    shown = LivePainter(Nowhere(), state, clock=lambda: now[0])
    shown.start()
    for i in range(0, len(text), 7):
        state.feed(TextDelta(text[i : i + 7]), now[0])
        now[0] += 0.00175
        shown.tick(now[0])


def split(text):
    blocks = BlockSplitter()
    for i in range(0, len(text), 7):
        blocks.feed(text[i : i + 7])


SIGNS = [
    "\\[\n",
    "\\[\nx\n",
    "\\[ x\n",
    "$$\n",
    "$$\nx\n",
    "$$ x\n",
    "\\]\n",
    "$",
    "$a ",
    "$\\$",
    "\\(",
    "\\(x ",
    "\\begin{",
    "\\begin{x}\n",
    "\\",
    "\\\\\n",
    "$\\text{",
    "\\\\[",
    "[",
    "![",
    "[a ",
    "](",
    "[](",
    "[a](",
    "[a](<",
    "![](x)",
    "[a][",
    "[a]: b\n",
    "[a]: b\n\n",
    "[^1]: a\n\n",
    "[a]:\n",
    "[a]: b 'c\n",
    "*",
    "**a*",
    "*a ",
    "_",
    "_a ",
    "*_",
    "~~",
    "~a",
    "`",
    "`a",
    "`a`` ",
    "```\n",
    "```a`\n",
    "~~~\n",
    "~~~ a\n\n",
    "|",
    "|a|b\n|-|-|\n",
    "|\n|-\n",
    "| `a|b` ",
    "|a\n|-\n|`|`|\n",
    "<",
    "<a",
    "<a:b>",
    "<!--",
    "<!-- -->\n\n",
    "<div>\n",
    "&",
    "&a;",
    "&#",
    "&amp;",
    ">",
    "> ",
    "> a\n",
    ">\n",
    "> > a\n\n",
    "- ",
    "-\n",
    "- a\n",
    "- a\n\n",
    "- [ ] a\n",
    "- a\n  - b\n",
    "* ",
    "+ a\n",
    "1. ",
    "1. a\n",
    "10) a\n\n",
    "- > ",
    "> - a\n",
    "-     x\n",
    "\t",
    "\tx\n",
    "    x\n\n",
    " \n",
    "\n",
    "\r",
    "a\r\n",
    "\x0b",
    "\x00",
    "# ",
    "# a\n",
    "a\n===\n",
    "=\n",
    "---\n",
    "***\n",
    "a\u0301",
    "\u0301",
    "\u200b",
    "\u200d",
    "\U000e0041",
    "👨\u200d",
    "\ufe0f",
    "م\u200c",
    "\u202e",
    "word ",
    "word\n",
    "word\n\n",
    "(",
    '"',
    ":",
    "http://a.b ",
]


@pytest.mark.parametrize("sign", SIGNS, ids=repr)
@pytest.mark.parametrize("work", [to_html, split, live, clean, fences])
def test_an_answer_costs_its_length(work, sign):
    """Whatever is repeated in it."""
    growth(work, lambda n: (sign * n)[:n], 1_500 if work is live else 3_000)


@pytest.mark.parametrize(
    "make",
    [
        lambda n: "".join("`" * i + " " for i in range(1, int((2 * n) ** 0.5))),
        lambda n: "".join("  " * i + "- a\n" for i in range(1, int(n**0.5))),
        lambda n: "".join("> " * i + "a\n" for i in range(1, int(n**0.5))),
        lambda n: "[a]: http://b.c/" + "d" * (n // 2) + "\n\n" + "[a] " * (n // 8),
        lambda n: "|a" * (n // 6) + "\n" + "|-" * (n // 6) + "\n" + "|\n" * (n // 6),
        lambda n: "[a]: b\n\n" * (n // 16) + "[a]\n\n" * (n // 12),
        lambda n: "- a\n\n  ```\n" + "  x\n" * (n // 4),
        lambda n: "$$\n" + "# x\n" * (n // 4),
        lambda n: "```\n" + "x" * n,
        lambda n: "|a|b|\n|-|-|\n" + "|1|2|\n" * (n // 6),
        lambda n: "- " + "a b " * (n // 4),
        lambda n: "> " + "a b\n" * (n // 4),
    ],
)
@pytest.mark.parametrize("work", [to_html, live])
def test_what_is_built_costs_its_length(work, make):
    """Runs of backticks of all lengths, steps of nesting, one long address for many links, wide heads over
    short rows, a long line."""
    growth(work, make, 2_000)


def call(text):
    return drawn_call(ToolCall("1", "f", json.loads(text), text))


@pytest.mark.parametrize(
    "make",
    [
        lambda n: '{"a":' + "[" * 450 + ",".join(["1"] * n) + "]" * 450 + "}",
        lambda n: json.dumps({"a": [{}] * n}),
        lambda n: json.dumps({"a": ["x" * n]}),
        lambda n: json.dumps({f"k{i}": [[[[[[i]]]]]] for i in range(n)}),
        lambda n: '{"a":' + "[" * 300 + ",".join(["[[]]"] * n) + "]" * 300 + "}",
    ],
)
@pytest.mark.parametrize(
    "work", [call, FORMATS["json"], lambda text: FORMATS["json"](f"```json\n{text}\n```")]
)
def test_json_over_lines_takes_space_in_proportion(work, make):
    """Calls of tools, format=json, however deep: what is saved and what it costs."""
    text = make(2_000)
    line = work(text)
    assert len(line.text) <= 5 * len(text) + 2_000
    assert len(line.html) <= 20 * len(text) + 10_000
    assert text.count("1") <= line.text.count("1")
    growth(work, make, 500)


@pytest.mark.parametrize(
    "text", ["[" * 100_000, '{"a":' * 100_000, "[" * 3_000 + "]" * 3_000, '{"a":' * 900 + "1" + "}" * 900]
)
def test_json_that_is_nested_too_deep_is_shown_as_it_is(text):
    """No error of Python's comes out."""
    assert text in FORMATS["json"](text).text.replace(" ", "")
    assert text in drawn_call(ToolCall("1", "f", None, text)).text
    assert "nest" in drawn_call(ToolCall("1", "nest", nested(5_000), "{}")).text


def nested(depth):
    value = {}
    for _ in range(depth):
        value = {"a": value}
    return value


@pytest.mark.parametrize(
    ("language", "sign"),
    [
        ("c", "\n"),
        ("c", "/"),
        ("c", "\n "),
        ("java", "\n"),
        ("java", "a\n"),
        ("csharp", "a\n"),
        ("csharp", "  a\n"),
        ("make", "_"),
        ("make", "a"),
        ("tsx", "a."),
        ("python", " \n"),
        ("python", '"""'),
        ("diff", "!"),
        ("nix", "é"),
        ("perl", "\\'"),
        ("text", "a "),
    ],
)
def test_colours_cost_their_length(language, sign):
    """For what makes lexers slow."""
    growth(lambda text: code_html(text, language), lambda n: (sign * n)[:n], 1_500)


@pytest.mark.parametrize("language", sorted(_HIGHLIGHTED))
def test_colours_take_seconds_at_most(language):
    """In every language, however long and however many the blocks are."""
    began = time.thread_time()
    to_html(
        "".join(
            f"```{language}\n{sign * (3_000 // len(sign))}\n```\n\n"
            for sign in ("a\n", "_", "\n", "\\'", "a.")
        )
    )
    assert time.thread_time() - began < 6


def test_colours_of_a_long_block_are_those_of_its_parts():
    """Nothing is lost where it is cut."""
    code = "def f(x):\n    '''Adds\n\n    one.'''\n    return x + 1\n\n\n" * 200 + "\n" * 50 + "x" * 5_000
    html = code_html(code, "python")
    assert code == unescape(re.sub("<[^>]*>", "", html)).removesuffix("\n")
    assert html.count("<span class=k>def</span>") == 200
    assert html.count("<span class=s>") == 200


def shown(pieces):
    """What a terminal shows of an answer that comes in these pieces."""
    written = []
    painter = TextPainter(write=written.append)
    for piece in pieces:
        painter.feed(0, TextDelta(piece))
    return "".join(written)


@pytest.mark.parametrize(
    "text", ["👨‍👩‍👧 ❤️ 1️⃣ 👍🏽", "می‌خواهم क्‍ष", "שלום\u200f!", "a\u200bb\u202ec\U000e0041", "x\r\ny"]
)
def test_a_terminal_shows_the_same_in_any_pieces(text):
    """Whatever is cut: joiners and forms come in pieces of their own."""
    assert plain_text(text) == shown(text) == shown([text])


WORDS = [
    " ",
    "\t",
    "a",
    "a ",
    "a=",
    "a=b ",
    "model=",
    "model=a ",
    "m,",
    "-",
    "--",
    "-m ",
    "--no-",
    "=",
    "x.a=1 ",
    "x.a.",
    "<< ",
    " >> ",
    '"',
    "'",
    '""',
    '"a ',
    "{",
    "[",
    "{}",
    '{"',
    '{"\\"',
    '["a",',
    "\\",
    '\\"',
    "%",
    "?",
    "? ",
    "ask ",
    "a int, ",
    "a: ",
    "[a",
    "a list[str], ",
    "\n",
    ",",
    "{x",
    "{x}",
    "{{",
    "}}",
    "{{x",
    "{{x}}",
    "{{ ",
    "{x.",
    "{x[0]",
    "{x['",
    "{x:",
    "{x:>",
    "{x!",
    "{x:.2f}",
    "`",
    "` ",
    "```\n",
    "~~~\n",
    'f"',
    "f'''",
    '$"',
    "a!(",
    'a!("',
    '".format(',
    "> ",
    "- ",
    "const {x} ",
    '"#{x}',
    "<a b={x}",
    "::{x}",
    "\\a {x}",
    "${{",
    "{{{",
    "{{(",
    "{{lambda:",
    "\\`",
]


@pytest.mark.parametrize("word", WORDS, ids=repr)
def test_what_is_typed_costs_its_length(word):
    """A magic's line, completion, a short schema, a prompt, and any other cell."""
    space = {"x": 1, "a": 2}
    for before, after, work in (
        ("", "", grammar.parse),
        ("model={", "", grammar.parse),
        ("x.a=", "", grammar.parse),
        ("a ", "", grammar.parse_ask),
        ("", "", grammar.completion_at),
        ("a={", "", grammar.completion_at),
        ("", "", grammar.split_subcommand),
        ("", "", schema),
        ("a int", "x", schema),
        ("", "", lambda text: fill(text, space, lambda source: "v")),
        ("", "", lambda text: parameters_in(text, space)),
        ("", "x", lambda text: transform_questions([text])),
        ("%llm ask ", "x", lambda text: transform_questions([text])),
    ):
        growth(work, lambda n, before=before, after=after: before + (word * n)[:n] + after, 4_000)


def test_brackets_without_end_are_an_error_of_ours():
    """Never Python's."""
    for text in ("[" * 5_000 + "a" + "]" * 5_000, "[" * 9 + "a" + "]" * 9):
        with pytest.raises(ConfigError, match="too deep"):
            schema(text)


def test_a_question_mark_in_what_a_cell_magic_takes_is_text():
    """`%%writefile` writes what stands there."""
    lines = ["%%writefile w.md\n", "%llm ask -m x why?\n"]
    assert lines == transform_questions(lines)
    assert transform_questions(lines[1:]) != lines[1:]
