"""Whatever is in an answer, a prompt or on a magic's line: time in proportion to its length, from the first chunk to the saved form."""

import pytest

from nbllm.events import TextDelta
from nbllm.notebook.blocks import Blocks
from nbllm.notebook.display import Live
from nbllm.notebook.hidden import clean
from nbllm.notebook.markdown import fences, to_html

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
    shown = Live(Nowhere(), clock=lambda: now[0])
    shown.start()
    for i in range(0, len(text), 7):
        shown.feed(TextDelta(text[i:i + 7]))
        now[0] += 0.0035
        shown.tick()


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
