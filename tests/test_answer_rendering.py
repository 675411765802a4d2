"""Answers of models are displayed as intended: harmless tags, plain addresses, lines, numbers, emphasis next
to Chinese, text direction, environments, money; the cost is proportional to the length."""

import re
from html import unescape

import pytest

from nbllm.notebook.view.blocks import BlockSplitter
from nbllm.notebook.view.inline_rules import direction
from nbllm.notebook.view.markdown import plain_html, to_html
from nbllm.notebook.view.static import markdown_bundle, render_data_frame

from .growth import growth
from .test_markdown import checked


def html(source):
    made = to_html(source)
    checked(made)
    return made.replace(' target="_blank" rel="noopener noreferrer"', "").strip()


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("H<sub>2</sub>O and x<sup>2</sup>", "<p>H<sub>2</sub>O and x<sup>2</sup></p>"),
        ("<kbd>Ctrl</kbd>+<KBD>C</KBD>", "<p><kbd>Ctrl</kbd>+<kbd>C</kbd></p>"),
        ("<mark>**b**</mark> <abbr>Dr</abbr>", "<p><mark><strong>b</strong></mark> <abbr>Dr</abbr></p>"),
        ("**H<sub>2</sub>O** *x<sup>*2*</sup>*", "<strong>H<sub>2</sub>O</strong>"),
        ("[CO<sub>2</sub>](https://x.y)", '<a href="https://x.y">CO<sub>2</sub></a>'),
        ("# H<sub>2</sub>O", "<h3>H<sub>2</sub>O</h3>"),
        ("- a<br>b", "<li>a<br>\nb</li>"),
        ("a<br/>b<br />c<BR>d", "<p>a<br>\nb<br>\nc<br>\nd</p>"),
        ("| a | b |\n|-|-|\n| x<br>y | H<sub>2</sub> |", "<td>x<br>\ny</td><td>H<sub>2</sub></td>"),
        ("`<sub>` and `<br>`", "<p><code>&lt;sub&gt;</code> and <code>&lt;br&gt;</code></p>"),
        ("```\n<br>\n```", "<pre><code>&lt;br&gt;"),
        ("\\<br> &lt;sub>x", "<p>&lt;br&gt; &lt;sub&gt;x</p>"),
        (
            "| a |\n|-|\n| <ul><li>x</li><li>**y**</li></ul> |",
            "<td><ul>\n<li>x</li><li><strong>y</strong></li></ul></td>",
        ),
        ("| a |\n|-|\n| <li>x |", "<td>&lt;li&gt;x</td>"),
        ("a <ul><li>b</li></ul>", "<p>a &lt;ul&gt;&lt;li&gt;b&lt;/li&gt;&lt;/ul&gt;</p>"),
        ("So it is[^1], *too[^12]*.", "<p>So it is<sup>1</sup>, <em>too<sup>12</sup></em>.</p>"),
        ("a[^1]\n\n[^1]: The note.", "<p>a<sup>1</sup></p>\n<p><sup>1</sup>: The note.</p>"),
        ("`[^1]` [^a-z] [^note]", "<p><code>[^1]</code> [^a-z] [^note]</p>"),
        # what does not close, or crosses, is text
        ("a<sub>b", "<p>a&lt;sub&gt;b</p>"),
        ("b</sub>", "<p>b&lt;/sub&gt;</p>"),
        ("**a<sub>b**c</sub>", "<p><strong>a&lt;sub&gt;b</strong>c&lt;/sub&gt;</p>"),
        ("<sub>a<sup>b</sub>c</sup>", "&lt;/sub&gt;"),
        ("<sub class=x>a</sub>", "&lt;sub class=x&gt;"),
        ("<b>a *b*</b> <i>c</i> <u>d</u> <s>e</s>", "<p><b>a <em>b</em></b> <i>c</i> <u>d</u> <s>e</s></p>"),
        ("<STRONG>a</STRONG> <em>b</em>", "<p><strong>a</strong> <em>b</em></p>"),
        ("<del>a</del> <ins>b</ins>", "<p><del>a</del> <ins>b</ins></p>"),
        ("| a |\n|-|\n| <code>x</code> <b>y</b> |", "<td><code>x</code> <b>y</b></td>"),
        (
            "<br clear=all> <p align=center>c</p>",
            "<p>&lt;br clear=all&gt; &lt;p align=center&gt;c&lt;/p&gt;</p>",
        ),
        ("<b onclick=x>a</b> <body>", "<p>&lt;b onclick=x&gt;a&lt;/b&gt; &lt;body&gt;</p>"),
        ("</br>", "&lt;/br&gt;"),
        ("<sub><sub>a</sub></sub>", "<p><sub><sub>a</sub></sub></p>"),
        ("<sub>" * 5 + "a" + "</sub>" * 5, "&lt;sub&gt;&lt;sub&gt;"),
    ],
)
def test_harmless_tags(source, expected):
    """A closed list, without attributes, well nested."""
    assert expected in html(source)


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        (
            "<details>\n<summary>More *x*</summary>\n\n**y**\n\n- a\n\n</details>\n\nafter",
            "<details>\n<summary>More <em>x</em></summary>\n<p><strong>y</strong></p>\n<ul>\n<li>a</li>\n</ul>\n"  # noqa: E501
            "</details>\n<p>after</p>",
        ),
        (
            "<details><summary>A</summary>\n\n```py\nx\n```\n</details>",
            '<details>\n<summary>A</summary>\n<pre data-lang="py">',
        ),
        ("<details><summary>A</summary>B</details>", "<details>\n<summary>A</summary>\n<p>B</p>\n</details>"),
        ("<details>\nB\n</details>", "<details>\n<p>B</p>\n</details>"),
        ("<details open>\n<summary>\nA\nB\n</summary>\nC\n</details>", "<summary>A B</summary>\n<p>C</p>"),
        ("text\n<details>\nB\n</details>\ntext", "<p>text</p>\n<details>\n<p>B</p>\n</details>\n<p>text</p>"),
        ("- a\n\n  <details>\n  B\n  </details>\n- b", "<details>\n<p>B</p>\n</details>"),
        (
            "<details>\nA\n<details>\nB\n</details>\nC\n</details>",
            "<p>A</p>\n<details>\n<p>B</p>\n</details>\n<p>C</p>\n</details>",
        ),
        ("<details>\n```\n</details>\n```\nB\n</details>\nC", "B</p>\n</details>\n<p>C</p>"),
        ("<details>\nnever", "<p>&lt;details&gt;<br>\nnever</p>"),
        ("</details>", "<p>&lt;/details&gt;</p>"),
        ("<details onclick=x>\nB\n</details>", "&lt;details onclick=x&gt;"),
        ("a <details> b </details>", "<p>a &lt;details&gt; b &lt;/details&gt;</p>"),
        ("```\n<details>\nB\n</details>\n```", "<pre><code>&lt;details&gt;"),
    ],
)
def test_details_fold_blocks(source, expected):
    """What is between the tags is Markdown; what never closes is text."""
    assert expected in html(source)


def test_details_stay_together_while_they_come():
    """Until they close, they are one open block; any cutting gives the same."""
    text = "before\n\n<details>\n<summary>A</summary>\n\none\n\ntwo\n\n</details>\n\nafter\n\nend"
    for size in (1, 7, 1_000):
        blocks = BlockSplitter()
        done = [b for at in range(0, len(text), size) for b in blocks.feed(text[at : at + size])]
        assert text == "".join(done) + blocks.tail()
        assert 1 == sum("<details>" in b and "</details>" in b for b in [*done, blocks.tail()])
        for piece in done:
            checked(to_html(piece))


LINK = '<a href="{0}">{0}</a>'


@pytest.mark.parametrize(
    ("source", "links"),
    [
        ("see https://x.y/a.", ["https://x.y/a"]),
        ("(https://x.y/a_(b)) https://x.y/q?a=1&b=2#c!", ["https://x.y/a_(b)", "https://x.y/q?a=1&b=2#c"]),
        ("https://x.y/a_b_c*d and **https://x.y/b**", ["https://x.y/a_b_c*d", "https://x.y/b"]),
        ("详见https://x.y/a。还有：http://b.c/d，好", ["https://x.y/a", "http://b.c/d"]),
        (
            "HTTPS://X.Y/a 'https://x.y/b' \"https://x.y/c\"",
            ["HTTPS://X.Y/a", "https://x.y/b", "https://x.y/c"],
        ),
        ("- https://x.y/a\n- b", ["https://x.y/a"]),
        ("| a |\n|-|\n| https://x.y/a |", ["https://x.y/a"]),
        ("[https://a.b/c](https://d.e/f) <https://g.h/i>", ["https://d.e/f", "https://g.h/i"]),
        ("https://x.y/~a/%20b;c=1,d", ["https://x.y/~a/%20b;c=1,d"]),
        ("https://münchen.de/straße", ["https://münchen.de/straße"]),
        ("`https://x.y` https:// http://a xhttps://x.y ftp://x.y javascript://x.y", []),
        ("```\nhttps://x.y\n```", []),
        ("https://x.y/a](b) [https://x.y/c]", ["https://x.y/a", "https://x.y/c"]),
    ],
)
def test_bare_addresses_are_links(source, links):
    """Without the punctuation behind them; not in code, not twice."""
    found = [unescape(a) for a in re.findall(r'<a href="([^"]*)"', html(source))]
    assert links == [a.replace("%C3%BC", "ü").replace("%C3%9F", "ß") for a in found]


@pytest.mark.parametrize(
    ("source", "breaks"),
    [
        ("Roses are red\nViolets are blue\nSugar is sweet", 2),
        ("Name: Ann\nAge: 5", 1),
        ("> Tyger Tyger, burning bright,\n> In the forests of the night;", 1),
        ("- a haiku:\n  an old silent pond\n  a frog jumps", 2),
        ("古池や\n蛙飛びこむ\n水の音", 2),
        ("👍 yes\n👎 no", 1),
        ("a  \nb\\\nc", 2),
        (
            "The quick brown fox jumps over the lazy dog and\nthen goes on to the river, where it drinks some\nwater.",  # noqa: E501
            0,
        ),
        (
            "A paragraph that was filled to about seventy columns by a model that\nlearned from plain text files, "  # noqa: E501
            "where every line is nearly as long as\nthe others are, except for the last.",
            0,
        ),
        ("one line", 0),
    ],
)
def test_lines_of_verse_stay(source, breaks):
    """And a paragraph that was filled to a width is one paragraph."""
    assert breaks == html(source).count("<br>")


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("12. a\n15. b", "<ol start=12>\n<li>a</li>\n<li value=15>b</li>"),
        ("1. a\n2. b\n3. c", "<ol>\n<li>a</li>\n<li>b</li>\n<li>c</li>"),
        ("1. a\n1. b\n1. c", "<ol>\n<li>a</li>\n<li>b</li>\n<li>c</li>"),
        ("3. a\n2. b\n1. c", "<ol start=3>\n<li>a</li>\n<li value=2>b</li>\n<li value=1>c</li>"),
        ("1) a\n3) b\n4) c", "<ol>\n<li>a</li>\n<li value=3>b</li>\n<li>c</li>"),
        ("2. a\n   1. x\n   5. y\n3. b", "<li value=5>y</li>"),
        ("0. a\n1. b", "<ol start=0>\n<li>a</li>\n<li>b</li>"),
    ],
)
def test_lists_keep_their_numbers(source, expected):
    """As written; `1.` all along is counted."""
    assert expected in html(source)


@pytest.mark.parametrize(
    ("source", "strong"),
    [
        ("**重要：**内容", ["重要："]),
        ("这是**「重点」**内容", ["「重点」"]),
        ("は**「重要」**です", ["「重要」"]),
        ("**주의(중요)**는", ["주의(중요)"]),
        ("**注意！**请看**（这里）**吧", ["注意！", "（这里）"]),
        ("**ﾃｽﾄ｡**の", ["ﾃｽﾄ｡"]),
        ("使用**`code`**即可", ["<code>code</code>"]),
        ("**a**b and **c**", ["a", "c"]),
        ("**(x)**y", []),
        ("2 ** 3 ** 4", []),
        ("中文 ** 不是 ** 强调", []),
    ],
)
def test_emphasis_beside_scripts_without_spaces(source, strong):
    """As beside blanks."""
    assert strong == re.findall("<strong>(.*?)</strong>", html(source))


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("مرحبا بالعالم", "<p dir=rtl>"),
        ("# שלום", "<h3 dir=rtl>"),
        ("- שלום\n- עולם", "<ul dir=rtl>\n<li>שלום</li>"),
        ("1. שלום\n3. עולם", "<ol dir=rtl>\n<li>שלום</li>\n<li value=3>"),
        ("> مرحبا", "<blockquote dir=rtl>\n<p>مرحبا</p>"),
        ("| א | b |\n|-|-|\n| ג | 1 |", "<table dir=rtl>"),
        ("| א | b |\n|-|-|\n| ג | 1 |", "<th dir=ltr>b</th>"),
        ("1. שלום\n   ```\n   x\n   ```", "<pre dir=ltr>"),
        ("- שלום\n- hello", "<li dir=ltr>hello</li>"),
        ("3. **שלום**: 5", "<ol dir=rtl start=3>"),
        ("سلام\n\nhello", "<p dir=rtl>سلام</p>\n<p>hello</p>"),
        ("hello שלום", "<p>hello"),
        ("123 - שלום", "<p dir=rtl>"),
        ("plain", "<p>plain</p>"),
    ],
)
def test_right_to_left_text_has_its_direction(source, expected):
    """By its first letter; code keeps its own; a text from left to right says nothing."""
    assert expected in html(source)


def test_the_direction_of_plain_text():
    """By its first letter too."""
    assert "<div dir=rtl class=nbllm-text>" in plain_html("שלום")
    assert "<div class=nbllm-text>" in plain_html("hello שלום")
    assert ["rtl", "ltr", "", "rtl", "rtl"] == [direction(t) for t in ("א", "a א", "12!", "5 ا", "𐤀")]


def formulas(source):
    return re.findall(r'tex2jax_process">(.*?)</(?:span|div)>', to_html(source), re.DOTALL)


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("\\begin{align}\na &= b\\\\\nc &= d\n\\end{align}", 1),
        ("text\n\\begin{equation*}\nx\n\\end{equation*}\ntext", 1),
        ("so \\begin{cases} a \\\\ b \\end{cases} holds", 1),
        ("- a\n  \\begin{pmatrix} 1 \\end{pmatrix}", 1),
        ("$$\\begin{align} a \\end{align}$$", 1),
        ("\\begin{align}\na\n\nb\n\\end{align}", 0),
        ("\\begin{align} never", 0),
        ("\\begin{tikzpicture}x\\end{tikzpicture}", 0),
        ("\\begin{align}\\href{x}{y}\\end{align}", 0),
        ("`\\begin{align}x\\end{align}`", 0),
        ("```latex\n\\begin{align}x\\end{align}\n```", 0),
        ("costs $3/kg or 4$", 0),
        ("$3/MTok in, $15/MTok out or 5$", 0),
        ("$5, or 6$ a day", 0),
        ("about $5 (5$)", 0),
        ("$HOME/$USER and $PATH:$HOME", 0),
        ("$1.50 plus tax is 2$", 0),
        ("$20 for adults/10 for kids$", 0),
        ("$speed of light$", 0),
        ("US$5/kg, 6$", 0),
        ("$2\\pi r$ and $3x + 4y = 5$", 2),
        ("$5 \\text{ kg of apples}$", 1),
        ("$10^{-3}$ $3xy$ $n$th $x$-axis", 4),
        ("$\\sin x + \\cos y$ $a/b$", 2),
        ("$1/2$ $50\\%$ $(0, 1)$", 3),
    ],
)
def test_environments_are_typeset_and_money_is_not(source, expected):
    """Known environments without dollars; dollars before numbers with words are dollars."""
    assert expected == len(formulas(source))


LOOPS = {
    "dollars": "$$\n",
    "dollars and text": "$$ a\n\n",
    "a formula again and again": "$$\nx\n",
    "inline": "$a $$b ",
    "environments": "\\begin{align}\n",
    "environments in a line": "\\begin{cases} ",
    "details": "<details>\n",
    "details that close": "<details>\n</details>\n",
    "summaries": "<details>\n<summary>\n",
    "tags": "<sub>",
    "tags that close": "<sub>a</sub>",
    "lists in cells": "<ul><li>",
    "closing tags": "</sub>",
    "tags in emphasis": "*<sub>",
    "addresses": "https://x.y/ ",
    "addresses without end": "https://",
    "brackets": "https://x.y/((((",
    "lines": "a\n",
    "numbers": "1. a\n3. b\n",
    "right to left": "א\n\n",
    "right to left lists": "- א\n",
    "emphasis": "**重**",
    "stars": "*字",
    "products": "2*3",
    "powers": "x**2",
    "brackets of powers": ")*2*3",
    "dunders": "__init__",
    "brackets of math": "\\[ \\( ",
}


@pytest.mark.slow
@pytest.mark.parametrize("text", LOOPS.values(), ids=LOOPS)
def test_an_answer_that_loops_costs_its_length(text):
    """While it comes and at its end."""

    def feed(source):
        blocks = BlockSplitter()
        for at in range(0, len(source), 50):
            blocks.feed(source[at : at + 50])
            blocks.split_tail(2_000)

    growth(to_html, lambda n: text * (n // len(text)), 2_000)
    growth(feed, lambda n: text * (n // len(text)), 2_000)
    checked(to_html(text * 500))


@pytest.mark.parametrize(
    "text",
    [
        "2*3*4",
        "2*3*4*5 = 120",
        "x**2 + y**2",
        "a*x + b*y",
        "2*x + 3*y",
        "df.a*2 + df.b*3",
        "my_var*10 and other*20",
        "10**6 or 10**-6",
        "f(x)*2 + g(x)*3",
        "(a*b*c)",
        "n*(n+1)*2, a_1*b_1 + a_2*b_2",
        "(x + 1)*y*2 and (x + 1)**2*3 and z[0]*2*z[1]*4",
        "__init__.py, __name__ == '__main__'",
    ],
)
def test_products_and_powers_keep_their_stars(text):
    """As models write them outside code."""
    assert f"<p>{text}</p>\n" == to_html(text)


@pytest.mark.parametrize(
    ("text", "html"),
    [
        ("**5**kg", "<strong>5</strong>kg"),
        ("**R**etrieval **A**ugmented", "<strong>R</strong>etrieval <strong>A</strong>ugmented"),
        ("*K*now", "<em>K</em>now"),
        ("**API key**s", "<strong>API key</strong>s"),
        ("**May 5**th", "<strong>May 5</strong>th"),
        ("**Step**1", "<strong>Step</strong>1"),
        ("**2** x *3*", "<strong>2</strong> x <em>3</em>"),
        ("第**2**章", "第<strong>2</strong>章"),
        ("__bold__ (see)*note*", "<strong>bold</strong> (see)<em>note</em>"),
        ("un*frigging*real", "un<em>frigging</em>real"),
    ],
)
def test_emphasis_within_words_is_no_product(text, html):
    """Where it begins with a word, or is longer than a letter."""
    assert f"<p>{html}</p>\n" == to_html(text)


@pytest.mark.parametrize(
    "text",
    ["Add $HOME/bin:$PATH to it", "$HOME/$USER", "$dir/$file", "from $src.path to $dst", "echo $A_B-$C_D"],
)
def test_variables_of_shells_are_no_formulas(text):
    """Whatever stands between two of them."""
    assert "nbllm-tex" not in to_html(text)


@pytest.mark.parametrize(
    "text", ["$\\sim$5", "$n$th", "$k$-means", "$X$s", "$AB$ and $CD$", "$x/y$", "$x_i/$"]
)
def test_a_formula_may_have_letters_behind(text):
    """As in the n-th."""
    assert "nbllm-tex" in to_html(text)


@pytest.mark.parametrize(
    ("text", "cells", "right"),
    [
        ("| a | n |\n|---|--:|\n| b | 1 |", 2, 2),
        ("| שלום | n |\n|---|--:|\n| ב | 1 |", 0, 2),  # from right to left, as JupyterLab has them
        ("| a |\n|---|\n" + "| b |\n" * 600, 0, 0),
        ("`<td>` <td>", 0, 0),
    ],
    ids=["a table", "right to left", "a large one", "no table"],
)
def test_cells_stay_on_their_side_without_our_styles(text, cells, right):
    """JupyterLab puts those of an untrusted notebook to the right."""
    html = markdown_bundle(text)["text/html"].partition("</style>")[2]
    assert (cells, right) == (html.count("text-align:left"), html.count("text-align:right"))


@pytest.mark.parametrize(
    ("columns", "right"),
    [
        ({"city": ["Oslo"], "n": [1], "share": [0.5], "coast": [True]}, ["n", "share", "1", "0.5"]),
        ({"n": []}, ["n"]),
        ({"day": ["2026-01-01"], "<td>": [7]}, ["&lt;td&gt;", "7"]),
        ({f"c{i}": [i] for i in range(40)}, []),
    ],
    ids=["a row", "no row", "odd names", "wider than shown"],
)
def test_numbers_of_a_frame_stand_to_the_right(columns, right):
    """Under their names, as pandas has them."""
    import pandas as pd

    html = render_data_frame(pd.DataFrame(columns)).html
    assert right == re.findall(r"align=right>([^<]*)<", html)
