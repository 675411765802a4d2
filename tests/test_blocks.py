"""The splitter: any cutting gives the same blocks, nothing is lost, and blocks look as the whole does."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nbllm.notebook.view.blocks import BlockSplitter
from nbllm.notebook.view.blocks import LineSplitter as Lines
from nbllm.notebook.view.markdown import to_html

from .growth import growth
from .payloads import PAYLOADS

SPLIT = [
    ("a\n\nb", ["a\n\n"], "b"),
    ("a\n\n1", [], "a\n\n1"),  # could become a list
    ("a\n\n12 x\n", ["a\n\n"], "12 x\n"),
    ("a\n\n**B", ["a\n\n"], "**B"),
    ("# a\nb", ["# a\n"], "b"),
    ("a\nb\n===\nc", ["a\nb\n===\n"], "c"),
    ("a\n```py\nx\n\ny\n```\nb", ["a\n", "```py\nx\n\ny\n```\n"], "b"),
    ("```\na\n\nb\n", [], "```\na\n\nb\n"),
    ("````\n```\n\nb\n````\n\nc", ["````\n```\n\nb\n````\n\n"], "c"),
    ("- a\n\n  b\n- c\n\nd", ["- a\n\n  b\n- c\n\n"], "d"),
    ("- a\n  ```\n  x\n\n  y\n  ```\n\nb", ["- a\n  ```\n  x\n\n  y\n  ```\n\n"], "b"),
    ("> a\n> ```\n> x\n\nb", ["> a\n> ```\n> x\n\n"], "b"),
    ("|a|b|\n|-|-|\n|1|2|\n\nc", ["|a|b|\n|-|-|\n|1|2|\n\n"], "c"),
    ("    a\n\n    b\n\nc", ["    a\n\n    b\n\n"], "c"),
    ("$$\na\n- b\n$$\nc", ["$$\na\n- b\n$$\n"], "c"),
    ("a\n\n$$\na\n- b\n", ["a\n\n"], "$$\na\n- b\n"),
    ("a\n$$\nb\n\nc", ["a\n$$\nb\n\n"], "c"),  # the dollars were no formula
    ("a\n\n[r]: http://x\n\nb", ["a\n\n"], "[r]: http://x\n\nb"),
    ("\n\na\n\nb", ["\n\na\n\n"], "b"),
    ("a\n\n---\n\nb", ["a\n\n", "---\n\n"], "b"),
    ("- a\n\ntext\n\n- b", ["- a\n\n", "text\n\n"], "- b"),
    ("a\r\n\r\nb", ["a\r\n\r\n"], "b"),
    ("<div>\n\n<p>a\n\nb", ["<div>\n\n", "<p>a\n\n"], "b"),
]


@pytest.mark.parametrize(("text", "done", "tail"), SPLIT)
def test_where_blocks_end(text, done, tail):
    """As soon as the next one has certainly begun."""
    blocks = BlockSplitter()
    assert (done, tail) == (blocks.feed(text), blocks.tail())


PIECES = [
    "word", "Another line of text", "\n", "\n\n", "- a", "* b", "1. c", "2) d", "10. x", "  ", "    ", "   ", "\t", "```", "```py", "~~~", "````", "> ", "# H", "## ", "===", "---", "***",  # noqa: E501
    "|a|b|", "|-|-|", "$$", "$x$", "\\[", "\\]", "[r]: http://x", "[r]", "<div>", "**bold**", "`c`", "\n- ", "\n  - ", "\n   ", "\n\n   ", "\n```\n", "\n   ```\n", "\n$$\n", "\r\n", "\r", "é", "1", ".", "\x0b", "\u2028", "\n> ", "\x00", "\u202e",  # noqa: E501
]  # fmt: skip
TEXTS = st.lists(st.sampled_from(PIECES), max_size=40).map("".join) | st.lists(
    st.sampled_from(list(PAYLOADS.values())), max_size=4
).map("\n\n".join)


def joined_html(text):
    """The blocks of a text, rendered one by one."""
    blocks = BlockSplitter()
    done = blocks.feed(text)
    return "".join(map(to_html, [*done, blocks.tail()]))


def cut(text, places):
    ends = sorted({p % (len(text) + 1) for p in places})
    return [text[a:b] for a, b in zip([0, *ends], [*ends, len(text)], strict=True)]


@pytest.mark.slow
@given(TEXTS, st.lists(st.integers(0, 10_000), max_size=60))
@settings(max_examples=600, deadline=None)
def test_any_cutting_gives_the_same_blocks(text, places):
    """And finished and tail, joined, are the text."""
    whole, cutted, single = BlockSplitter(), BlockSplitter(), BlockSplitter()
    expected = whole.feed(text)
    assert expected == [b for piece in cut(text, places) for b in cutted.feed(piece)]
    assert expected == [b for c in text for b in single.feed(c)]
    assert whole.tail() == cutted.tail() == single.tail()
    assert text == "".join(expected) + whole.tail()


@pytest.mark.slow
@given(TEXTS)
@settings(max_examples=800, deadline=None)
def test_blocks_look_as_the_whole_does(text):
    """Rendered one by one and joined. Link definitions act on earlier blocks in the whole only."""
    text = text.replace("[r]:", "[r] ")
    assert to_html(text) == joined_html(text)


@pytest.mark.parametrize(
    "text",
    [
        "```\n```l\n```\n<details open><summary>\n</details>",  # a fence is closed by its marks alone
        "````\n```\n````\n<details>\nx\n</details>\n\nb",
        "~~~\n~~~ x\n<details>\n~~~\n</details>\n\nb",
        "```a`b\n<details>\nx\n</details>\n\nb",  # no fence: a backtick on its line
        " -   $\n    $$\n",  # a line that continues a list's paragraph opens no formula
        "- a\n $$\n$$\nb\n",
        "1.  a\n   $$\nb\n",
    ],
)
def test_what_opens_and_closes_nothing_splits_no_block(text):
    """A fence within a fence, and formula marks in a continued paragraph."""
    assert to_html(text) == joined_html(text)


@pytest.mark.parametrize("quote", ["> ", "> > ", "- > ", "> - ", "1. > > "])
@pytest.mark.parametrize("formula", ["$$\n$$\n", "$$\n$$\nx\n$$\n", "\\[\n\\]\n", "\\[\n$$\n"])
@pytest.mark.parametrize("rest", ["", "> ", "> x", "x\n", "$$\ny"])
def test_formula_marks_after_a_quote_split_no_block(quote, formula, rest):
    """The second of them may open a formula, which does not end the quote before the first."""
    text = f"\n{quote}word\n{formula}{rest}"
    assert to_html(text) == joined_html(text)


def test_a_definition_acts_on_later_blocks():
    """The references of finished blocks are kept."""
    references = {}
    to_html("[r]: https://x.y", references=references)
    assert 'href="https://x.y"' in to_html("[r]", references=references)


LONG = {
    "list": "- item number one with text\n",
    "loose list": "1. item\n\n   more\n\n",
    "code": "```python\ndef f(x):\n\n    # a\n    return x\n",
    "indented code": "    a\n\n    # b\n",
    "table": "|1|2|\n",
    "quote": "> a\n> - b\n",
    "one line": "a1 ",
    "one line of signs": "-",
    "false fences": "```a`\n",
    "open formulas": "$$\nx\n",
    "headings": "# a\n",
}


@pytest.mark.slow
@pytest.mark.parametrize("sign", LONG.values(), ids=LONG)
def test_a_long_block_costs_time_in_proportion(sign):
    """In pieces of five characters; nothing is lost."""

    def split(text):
        blocks = BlockSplitter()
        return (
            "".join([b for i in range(0, len(text), 5) for b in blocks.feed(text[i : i + 5])]) + blocks.tail()
        )

    head = "|a|b|\n|-|-|\n" if sign == LONG["table"] else ""
    growth(split, lambda n: head + sign * (n // len(sign)), 2_500)
    text = head + sign * (20_000 // len(sign))
    assert text == split(text)


def test_shedding_a_fence_gives_parts_that_stand_alone():
    """Both parts are fences of the same language."""
    blocks = BlockSplitter()
    assert [] == blocks.feed("```py\n" + "x = 1\n" * 100 + "y")
    assert "```py\n" + "x = 1\n" * 100 + "```\n" == blocks.split_tail(500)
    assert "```py\ny" == blocks.tail()
    assert ["```py\ny = 2\n```\n\n"] == blocks.feed(" = 2\n```\n\nText")


def test_shedding_a_list_cuts_between_items():
    """At the last item that has begun; short blocks are left alone."""
    blocks = BlockSplitter()
    blocks.feed("".join(f"{i}. item\n    - sub\n" for i in range(1, 60)))
    assert "" == blocks.split_tail(5_000)
    assert blocks.split_tail(500).endswith("58. item\n    - sub\n")
    assert "59. item\n    - sub\n" == blocks.tail()


def test_lines_are_finished_at_their_end():
    """What is shown as it is needs no parser."""
    lines = Lines()
    assert ["a\nb\n"] == lines.feed("a\nb\nc")
    assert "c" == lines.tail()
    assert [] == lines.feed("d")
    assert "" == lines.split_tail(0)
