"""Whatever is in an answer, a prompt or on a magic's line: time in proportion to its length, from the first chunk to the saved form."""

import json

import pytest

from nbllm.events import TextDelta
from nbllm.messages import ToolCall
from nbllm.notebook.view.blocks import Blocks
from nbllm.notebook.view.hidden import clean
from nbllm.notebook.view.live import LivePainter
from nbllm.notebook.view.markdown import fences, to_html
from nbllm.notebook.view.state import AnswerState
from nbllm.notebook.view.static import FORMATS, call_line

from .growth import growth


class Nowhere:
    """A front end that looks at nothing."""

    def publish(self, data, **_):
        pass

    def clear(self, **_):
        pass


def live(text):
    """An answer in pieces of seven characters, drawn as often as the pace allows: two thousand characters a second."""
    now = [0.0]
    state = AnswerState("m", 0.0)
    shown = LivePainter(Nowhere(), state, clock=lambda: now[0])
    shown.start()
    for i in range(0, len(text), 7):
        state.feed(TextDelta(text[i:i + 7]), now[0])
        now[0] += 0.0035
        shown.tick(now[0])


def split(text):
    blocks = Blocks()
    for i in range(0, len(text), 7):
        blocks.feed(text[i:i + 7])


SIGNS = [
    "\\[\n", "\\[\nx\n", "\\[ x\n", "$$\n", "$$\nx\n", "$$ x\n", "\\]\n", "$", "$a ", "$\\$", "\\(", "\\(x ", "\\begin{", "\\begin{x}\n", "\\", "\\\\\n", "$\\text{", "\\\\[", "[", "![", "[a ", "](", "[](", "[a](", "[a](<", "![](x)", "[a][",
    "[a]: b\n", "[a]: b\n\n", "[^1]: a\n\n", "[a]:\n", "[a]: b 'c\n", "*", "**a*", "*a ", "_", "_a ", "*_", "~~", "~a", "`", "`a", "`a`` ", "```\n", "```a`\n", "~~~\n", "~~~ a\n\n", "|", "|a|b\n|-|-|\n", "|\n|-\n", "| `a|b` ", "|a\n|-\n|`|`|\n",
    "<", "<a", "<a:b>", "<!--", "<!-- -->\n\n", "<div>\n", "&", "&a;", "&#", "&amp;", ">", "> ", "> a\n", ">\n", "> > a\n\n", "- ", "-\n", "- a\n", "- a\n\n", "- [ ] a\n", "- a\n  - b\n", "* ", "+ a\n", "1. ", "1. a\n", "10) a\n\n", "- > ", "> - a\n",
    "-     x\n", "\t", "\tx\n", "    x\n\n", " \n", "\n", "\r", "a\r\n", "\x0b", "\x00", "# ", "# a\n", "a\n===\n", "=\n", "---\n", "***\n", "a\u0301", "\u0301", "\u200b", "\u200d", "\U000e0041", "👨\u200d", "\ufe0f", "م\u200c", "\u202e", "word ", "word\n", "word\n\n", "(", "\"", ":", "http://a.b ",
]


@pytest.mark.parametrize("sign", SIGNS, ids=repr)
@pytest.mark.parametrize("work", [to_html, split, live, clean, fences])
def test_an_answer_costs_its_length(work, sign):
    """Whatever is repeated in it."""
    growth(work, lambda n: (sign * n)[:n], 1_500 if work is live else 3_000)


@pytest.mark.parametrize("make", [
    lambda n: "".join("`" * i + " " for i in range(1, int((2 * n) ** 0.5))), lambda n: "".join("  " * i + "- a\n" for i in range(1, int(n ** 0.5))), lambda n: "".join("> " * i + "a\n" for i in range(1, int(n ** 0.5))),
    lambda n: "[a]: http://b.c/" + "d" * (n // 2) + "\n\n" + "[a] " * (n // 8), lambda n: "|a" * (n // 6) + "\n" + "|-" * (n // 6) + "\n" + "|\n" * (n // 6), lambda n: "[a]: b\n\n" * (n // 16) + "[a]\n\n" * (n // 12),
    lambda n: "- a\n\n  ```\n" + "  x\n" * (n // 4), lambda n: "$$\n" + "# x\n" * (n // 4), lambda n: "```\n" + "x" * n, lambda n: "|a|b|\n|-|-|\n" + "|1|2|\n" * (n // 6), lambda n: "- " + "a b " * (n // 4), lambda n: "> " + "a b\n" * (n // 4),
])
@pytest.mark.parametrize("work", [to_html, live])
def test_what_is_built_costs_its_length(work, make):
    """Runs of backticks of all lengths, steps of nesting, one long address for many links, wide heads over short rows, a long line."""
    growth(work, make, 6_000)


def call(text):
    return call_line(ToolCall("1", "f", json.loads(text), text))


@pytest.mark.parametrize("make", [
    lambda n: '{"a":' + "[" * 450 + ",".join(["1"] * n) + "]" * 450 + "}", lambda n: json.dumps({"a": [{}] * n}), lambda n: json.dumps({"a": ["x" * n]}),
    lambda n: json.dumps({f"k{i}": [[[[[[i]]]]]] for i in range(n)}), lambda n: '{"a":' + "[" * 300 + ",".join(["[[]]"] * n) + "]" * 300 + "}",
])
@pytest.mark.parametrize("work", [call, FORMATS["json"], lambda text: FORMATS["json"](f"```json\n{text}\n```")])
def test_json_over_lines_takes_space_in_proportion(work, make):
    """Calls of tools, format=json, however deep: what is saved and what it costs."""
    text = make(2_000)
    line = work(text)
    assert len(line.text) <= 5 * len(text) + 2_000
    assert len(line.html) <= 20 * len(text) + 10_000
    assert text.count("1") <= line.text.count("1")
    growth(work, make, 500)


@pytest.mark.parametrize("text", ["[" * 100_000, '{"a":' * 100_000, "[" * 3_000 + "]" * 3_000, '{"a":' * 900 + "1" + "}" * 900])
def test_json_that_is_nested_too_deep_is_shown_as_it_is(text):
    """No error of Python's comes out."""
    assert text in FORMATS["json"](text).text.replace(" ", "")
    assert text in call_line(ToolCall("1", "f", None, text)).text
    assert "nest" in call_line(ToolCall("1", "nest", nested(5_000), "{}")).text


def nested(depth):
    value = {}
    for _ in range(depth):
        value = {"a": value}
    return value
