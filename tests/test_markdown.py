"""Markdown to HTML: nothing runs, loads or reaches out, and ordinary Markdown shows as it should."""

import re
from html.parser import HTMLParser

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nbllm.notebook.view import inline_rules
from nbllm.notebook.view.hidden import clean
from nbllm.notebook.view.markdown import code_html, plain_html, reasoning_html, to_html
from nbllm.notebook.view.styles import STYLE

from .examples import examples
from .growth import growth
from .payloads import MATH, PAYLOADS

TAGS = {
    "p",
    "em",
    "strong",
    "s",
    "blockquote",
    "hr",
    "ul",
    "ol",
    "li",
    "table",
    "thead",
    "tbody",
    "tr",
    "th",
    "td",
    "h3",
    "h4",
    "h5",
    "h6",
    "pre",
    "code",
    "a",
    "span",
    "div",
    "br",
    "details",
    "summary",
    *("sub", "sup", "kbd", "mark", "abbr", "small", "b", "i", "u", "del", "ins"),
}
ATTRIBUTES = {
    "class": re.compile(
        r"[ksncfb]|nbllm-tex( mathjax_process tex2jax_process| nbllm-closed)"
        r"|nbllm-(text|think|note|warn|foot|badge|task)"
    ),
    "style": re.compile(r"text-align:(left|right|center)"),
    "start": re.compile(r"\d+"),
    "value": re.compile(r"\d+"),
    "dir": re.compile("rtl|ltr"),
    "data-lang": re.compile(r"[A-Za-z0-9#+-]{1,20}|tool call"),
    "href": re.compile(r"(https?://|mailto:)[^\s\"<>]+", re.IGNORECASE),
    "target": re.compile("_blank"),
    "rel": re.compile("noopener noreferrer"),
}


class Checker(HTMLParser):
    """Fails at a tag or attribute outside the closed list, and where tags do not nest."""

    def __init__(self):
        super().__init__()
        self.open, self.text, self.links = [], [], []

    def handle_starttag(self, tag, attrs):
        assert tag in TAGS
        for name, value in attrs:
            assert ATTRIBUTES[name].fullmatch(value), (tag, name, value)
            if name == "href":
                self.links.append(value)
        if tag not in ("br", "hr"):
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text.append(data)

    def unknown_decl(self, data):
        raise AssertionError(data)

    handle_comment = handle_decl = handle_pi = unknown_decl


def checked(html):
    checker = Checker()
    checker.feed(html)
    checker.close()
    assert checker.open == []
    html.encode()
    return checker


@pytest.mark.parametrize("source", PAYLOADS.values(), ids=PAYLOADS)
def test_what_a_hostile_model_writes_is_text(source):
    """Only tags and attributes of the closed list come out, in every form."""
    for html in (
        to_html(source),
        to_html(source, typeset=False, highlight_limit=0),
        plain_html(source),
        code_html(clean(source), source),
        reasoning_html(source),
    ):
        links = checked(html).links
        assert [] == [
            link for link in links if "nbllmFired" in link and not link.startswith("http://x.invalid/")
        ]


@given(
    st.text(alphabet=st.sampled_from("<>&\"'`~*_[]()!#-+=|:\\/$ \n\tab1.js\u202e\ud800\x00"), max_size=200)
)
@examples(400)
def test_any_text_gives_well_formed_safe_html(source):
    """Whatever is written."""
    checked(to_html(source))
    checked(plain_html(source))
    checked(code_html(clean(source), source))


@given(
    st.lists(st.sampled_from(list(PAYLOADS.values())), min_size=2, max_size=4),
    st.sampled_from(["", "\n", "\n\n", "> ", "- ", "1. "]),
)
@examples(150)
def test_payloads_together(sources, between):
    """And in any company."""
    checked(to_html(between + between.join(sources)))


SHOWN = [
    ("# A\n\n## B", "<h3>A</h3>\n<h4>B</h4>\n"),
    ("a *b* **c** ~~d~~ `e<f`", "<p>a <em>b</em> <strong>c</strong> <s>d</s> <code>e&lt;f</code></p>\n"),
    ("a\\\nb", "<p>a<br>\nb</p>\n"),
    ("- [ ] a\n- [x] b", "<ul>\n<li class=nbllm-task>☐ a</li>\n<li class=nbllm-task>☑ b</li>\n</ul>\n"),
    ("3. a\n4. b", "<ol start=3>\n<li>a</li>\n<li>b</li>\n</ol>\n"),
    (
        "[a](https://b.c/?x=1&y=2)",
        '<p><a href="https://b.c/?x=1&amp;y=2" target="_blank" rel="noopener noreferrer">a</a></p>\n',
    ),
    ("[a](MAILTO:b@c.d)", '<p><a href="MAILTO:b@c.d" target="_blank" rel="noopener noreferrer">a</a></p>\n'),
    ("[a](./b.py)", "<p>a (./b.py)</p>\n"),
    (
        "[<http://b.c>](https://d.e) f",
        '<p><a href="https://d.e" target="_blank" rel="noopener noreferrer">http://b.c</a> f</p>\n',
    ),
    ("[<http://b.c>](x:y) f", "<p>http://b.c (x:y) f</p>\n"),
    (
        "[<xx:y>](https://d.e) f",
        '<p><a href="https://d.e" target="_blank" rel="noopener noreferrer">xx:y</a> f</p>\n',
    ),
    ("![a](https://b.c)", '<p><a href="https://b.c" target="_blank" rel="noopener noreferrer">🖼 a</a></p>\n'),
    ("![](data:image/png;base64,AAAA)", "<p>🖼 image</p>\n"),
    (
        "[![a](x)](https://b.c)",
        '<p><a href="https://b.c" target="_blank" rel="noopener noreferrer">🖼 a</a></p>\n',
    ),
    ("```\na<b\n```", "<pre><code>a&lt;b\n</code></pre>\n"),
    ("```py x\nif\n```", '<pre data-lang="py"><code><span class=k>if</span>\n</code></pre>\n'),
    ("```{python}\n1\n```", '<pre data-lang="python"><code><span class=n>1</span>\n</code></pre>\n'),
    ("```nonsense\n1\n```", '<pre data-lang="nonsense"><code>1\n</code></pre>\n'),
    ("<b>a</b>", "<p><b>a</b></p>\n"),
    ("<p>a</p>", "<p>&lt;p&gt;a&lt;/p&gt;</p>\n"),
]


@pytest.mark.parametrize(("source", "html"), SHOWN)
def test_ordinary_markdown(source, html):
    """What each construct becomes."""
    assert html == to_html(source)


FORMULAS = [
    ("$x^2$", ["$x^2$"]), ("it is $a+b$, so", ["$a+b$"]), ("($n$)", ["$n$"]), ("the $n$th", ["$n$"]), ("$2 \\times 3$", ["$2 \\times 3$"]),  # noqa: E501
    (r"\(x\) and \[y\]", ["$x$", "$$y$$"]), ("$$\nx\n- y\n= z\n$$", ["$$x\n- y\n= z$$"]), ("\\[\nx\n\\]", ["$$x$$"]), ("a $$x$$ b", ["$$x$$"]),  # noqa: E501
    ("text\n$$\n# x\n$$\ntext", ["$$# x$$"]), ("- a\n  $$\n  x\n  $$\n- b", ["$$x$$"]), ("$a \\$ b$", ["$a \\$ b$"]), ("$a < b$", ["$a < b$"]), ("$a_1 b_2$ *c*", ["$a_1 b_2$"]),  # noqa: E501
    ("$5 and $10", []), ("from $5-$10", []), ("$5 per person. Then 10$", []), ("US$5 or US$6", []), ("$ x $", []), ("$x $y", []), ("a $", []), ("$$", []), ("$$ $$", []),  # noqa: E501
    ("`$x$`", []), ("```\n$x$\n```", []), ("    $x$", []), ("\\$x\\$", []), ("$x\n\ny$", []), ("$$x\n\ny$$", []), ("\\begin{equation}x\\end{equation}", ["$$\\begin{equation}x\\end{equation}$$"]), ("echo $HOME $PATH", []),  # noqa: E501
    ("costs $3.50 each and $4.00 for two", []),
]  # fmt: skip


@pytest.mark.parametrize(("source", "formulas"), FORMULAS)
def test_formulas_are_found_and_money_is_not(source, formulas):
    """Pandoc's rule, and never in code."""
    found = re.findall(
        r'<(?:span|div) class="nbllm-tex mathjax_process tex2jax_process">(.*?)</(?:span|div)>',
        to_html(source),
        re.DOTALL,
    )
    assert formulas == [f.replace("&lt;", "<") for f in found]


@pytest.mark.parametrize(
    "source", [s for n, s in MATH.items() if n != "tags"], ids=[n for n in MATH if n != "tags"]
)
def test_formulas_that_could_do_more_than_show_are_source(source):
    """Links, styles, definitions and the like are never typeset."""
    html = to_html(f"a ${source}$ b\n\n$${source}$$")
    assert "mathjax_process" not in html
    assert html.count("<code>") == 2


@pytest.mark.parametrize(
    "source",
    [
        r"\newline x",
        r"\left( \frac{a}{b} \right)",
        r"\setminus \letter \longrightarrow \displaystyle",
        r"\cancel{x}",
        r"\operatorname{tr}",
        r"\color{red} x",
        r"\tag{1} x",
        r"\hspace{1em} x",
    ],
)
def test_harmless_commands_are_typeset(source):
    """Names that only begin like a refused one."""
    assert "mathjax_process" in to_html(f"${source}$")


EVERYDAY = [
    r"E = mc^2",
    r"a^2 + b^2 = c^2",
    r"\frac{-b \pm \sqrt{b^2 - 4ac}}{2a}",
    r"\int_0^\infty e^{-x^2}\,dx = \frac{\sqrt{\pi}}{2}",
    r"\sum_{i=1}^{n} i = \frac{n(n+1)}{2}",
    r"\lim_{x \to 0} \frac{\sin x}{x} = 1",
    r"\prod_{k=1}^n k = n!",
    r"\nabla \cdot \mathbf{E} = \frac{\rho}{\varepsilon_0}",
    r"\nabla \times \vec{B} = \mu_0 \vec{J}",
    r"\frac{\partial u}{\partial t} = \alpha \nabla^2 u",
    r"\hat{\beta} = (X^\top X)^{-1} X^\top y",
    r"\bar{x} = \frac{1}{n} \sum_i x_i",
    r"\tilde{O}(n \log n)",
    r"\begin{pmatrix} a & b \\ c & d \end{pmatrix}",
    r"\begin{bmatrix} 1 & 0 \\[0.5em] 0 & 1 \end{bmatrix}",
    r"f(x) = \begin{cases} x & x \ge 0 \\ -x & \text{otherwise} \end{cases}",
    r"\begin{aligned} a &= b \\ &= c \end{aligned}",
    r"\begin{align*} x &= 1 \\ y &= 2 \end{align*}",
    r"\begin{array}{l|cr} a & b & c \\ \hline d & e & f \end{array}",
    r"\left( \frac{a}{b} \right)^{2}",
    r"\left[ 0, 1 \right)",
    r"\left\{ x \mid x > 0 \right\}",
    r"\lvert x \rvert \le \lVert y \rVert",
    r"\Pr(A \mid B) = \frac{P(B \mid A)\,P(A)}{P(B)}",
    r"\mathbb{E}[X] = \mu",
    r"\operatorname{Var}(X) = \sigma^2",
    r"\operatorname*{arg\,max}_\theta \mathcal{L}(\theta)",
    r"\mathcal{N}(\mu, \sigma^2)",
    r"\forall x \in \mathbb{R}\; \exists y : y > x",
    r"A \cup B \cap C \setminus D",
    r"A \subseteq B \implies B^c \subseteq A^c",
    r"p \land q \lor \neg r \iff s",
    r"x \equiv y \pmod{n}",
    r"a \bmod b",
    r"\binom{n}{k} = \frac{n!}{k!(n-k)!}",
    r"\lfloor x \rfloor + \lceil y \rceil",
    r"e^{i\pi} + 1 = 0",
    r"\cos\theta + i\sin\theta",
    r"\oint_C \mathbf{F} \cdot d\mathbf{r}",
    r"\iint_D f\,dA",
    r"\dot{x} = Ax + Bu",
    r"\ddot{q} + \omega^2 q = 0",
    r"\underbrace{a + \cdots + a}_{n}",
    r"\overline{AB} \parallel \overline{CD}",
    r"\angle ABC = 90^\circ",
    r"\triangle ABC \cong \triangle DEF",
    r"\sqrt[3]{x}",
    r"x_1, x_2, \ldots, x_n",
    r"\langle \psi | \phi \rangle",
    r"\ket{0} + \bra{1}",
    r"\hbar \omega",
    r"\ce{2H2 + O2 -> 2H2O}",
    r"\xrightarrow{\text{heat}}",
    r"\overset{!}{=} \underset{x}{\min}",
    r"\stackrel{\text{def}}{=}",
    r"\textbf{if } x > 0 \quad \text{then}",
    r"50\% \text{ of } \$10",
    r"\boxed{42}",
    r"\mathrm{d}x",
    r"\Gamma(n) = (n-1)!",
    r"\displaystyle \sum_{n=0}^\infty \frac{x^n}{n!}",
    r"\not\in \neq \leq \geq \approx \sim",
    r"\big( \Big[ \bigg\{ \bigr)",
    r"a \, b \; c \: d \! e \quad f \qquad g \ h",
    r"\color{blue} x + \textcolor{red}{y}",
    r"\cfrac{1}{1 + \cfrac{1}{x}}",
    r"\substack{i < n \\ j < m}",
    r"\boldsymbol{\theta}^{(t+1)}",
    r"f \colon A \to B,\ x \mapsto x^2",
    r"\hspace{2em} x \hskip 1em y",
    r"\tag{1} x",
    r"\sigma(x) = \frac{1}{1+e^{-x}}",
    r"\text{softmax}(x_i) = \frac{e^{x_i}}{\sum_j e^{x_j}}",
    r"\mathrm{KL}(p\,\|\,q)",
    r"\theta \leftarrow \theta - \eta \nabla_\theta J",
    r"R^2 = 1 - \frac{SS_{\text{res}}}{SS_{\text{tot}}}",
    r"\text{Attention}(Q,K,V) = \text{softmax}\left(\frac{QK^\top}{\sqrt{d_k}}\right) V",
    r"x^{*} = x'",
    r"\widehat{\text{MSE}}",
]


@pytest.mark.parametrize("source", EVERYDAY)
def test_everyday_formulas_are_typeset(source):
    """School, physics, statistics, machine learning, chemistry."""
    assert to_html(f"$${source}$$").count("mathjax_process") == 1


OUTSIDE = [
    r"\smash{x}",
    r"\smash[b]{x}",
    r"\vphantom{x}",
    r"\hphantom{x}",
    r"\phantom{words}",
    r"\hspace{-2em}",
    r"\hspace*{-1pt}",
    r"\hspace{1000em}",
    r"\hskip -1em",
    r"\kern -1em x",
    r"\kern5em",
    r"\mkern-18mu",
    r"\mskip -3mu",
    r"\mspace{-3mu}",
    r"\vspace{-1em}",
    r"\raise 1em{x}",
    r"\lower 2em{x}",
    r"\raisebox{3em}{x}",
    r"\rlap{x}",
    r"\llap{x}",
    r"\clap{x}",
    r"\mathrlap{x}",
    r"\mathllap{x}",
    r"\mathclap{x}",
    r"\rule{1em}{40em}",
    r"\rule[-9em]{1em}{1em}",
    r"\Rule{1em}{1em}{1em}",
    r"\begin{array}{l} a \\[-0.2em] b \end{array}",
    r"a \\ [-9em] b",
    r"a \\*[-1em] b",
    r"a \\[\dimen0] b",
    r"\begin{array}{@{\hspace{-3em}}l} x \end{array}",
    r"\begin{array}{p{-3em}} x \end{array}",
    r"\cssId{a}{x}",
    r"\style{color:red}{x}",
    r"\class{a}{x}",
    r"\href{https://a.b}{x}",
    r"\require{html}",
    r"\def\x{y}",
    r"\newcommand\x{y}",
    r"\unicode{65}",
    r"\bbox[red]{x}",
    r"\color{white} x",
    r"\color{#fff} x",
    r"\color[rgb]{1,1,1} x",
    r"\textcolor{white}{x}",
    r"\colorbox{black}{x}",
    r"\fcolorbox{red}{white}{x}",
    r"\mmlToken{mi}{x}",
    r"\Tiny x",
    r"\tiny x",
    r"\Huge x",
    r"\scriptsize x",
    r"\moveleft 3em{x}",
    r"\negthinspace x",
    "\\!" * 30 + "x",
    r"x % hidden",
    r"\begin{document} x \end{document}",
    r"\mathchoice{a}{b}{c}{d}",
    r"\genfrac{}{}{-9em}{}{a}{b}",
    r"a \above 9em b",
    r"\vcenter{x}",
    r"\shoveleft{x}",
    r"\hfil x",
    r"\text{\smash{x}}",
    r"\smash{\begin{array}{l}\\[-0.2em]\\[1.1em]\text{APPROVED}\end{array}}",
    r"\unknowncommand x",
    r"\cancel[style]{x}",
    r"\abovewithdelims () 1em",
    r"\setlength{x}{y}",
    r"\verb|x|",
]


@pytest.mark.parametrize("source", OUTSIDE)
def test_a_formula_stays_in_its_box(source):
    """What could draw over our figures, hide words or do more than show is shown as its source."""
    html = to_html(f"a ${source}$ b\n\n$${source}$$")
    assert "mathjax_process" not in html
    assert html.count("<code>") == 2
    assert "mathjax_process" not in to_html(f"\\(\\text{{a ${source}$ b}}\\)")


def test_without_typesetting_a_formula_is_its_source():
    """As the live tail shows it."""
    expected = '<p><span class="nbllm-tex nbllm-closed">$x$</span></p>\n'
    assert expected == to_html("$x$", typeset=False)


CLEANED = [
    ("a\tb\nc\r\n", "a\tb\nc\r\n"), ("\x00\x1b[1m", "␀␛[1m"), ("\x7f\x85", "␡⟨U+0085⟩"), ("\u202eabc", "⟨U+202E⟩abc"), ("\u2066", "⟨U+2066⟩"),  # noqa: E501
    ("\ud83d\ude00", "😀"), ("\ud800x", "\ufffdx"), ("\udc00", "\ufffd"), ("שלום \u200f", "שלום \u200f"), ("é😀", "é😀"),  # noqa: E501
]  # fmt: skip


@pytest.mark.parametrize(("text", "shown"), CLEANED)
def test_hidden_characters_become_visible(text, shown):
    """Controls, overrides of direction, halves of pairs."""
    assert shown == clean(text)


@given(st.text(max_size=100))
def test_cleaned_text_can_always_be_sent(text):
    """And cleaning again changes nothing."""
    clean(text).encode()
    assert clean(text) == clean(clean(text))


@pytest.mark.slow
@pytest.mark.parametrize("sign", ["[", "![](x)", "<a:b>", "*a_ ", "`a``", "![a](", ">", "$a $$", "- "])
def test_absurd_input_takes_no_minutes(sign):
    """What makes Markdown parsers slow, in proportion to its length; and it is safe."""
    growth(to_html, lambda n: sign * (n // len(sign)), 2_000)
    checked(to_html(sign * (20_000 // len(sign))))


def test_the_style_sheet_loads_nothing():
    """No address, no import, and only our own container."""
    assert not re.search(r"url\(|@import|http", STYLE)
    assert all(
        rule.removeprefix("@media print{").startswith("div.nbllm")
        for rule in STYLE.removeprefix("<style>").removesuffix("</style>").split("}")
        if rule
    )


WORDS = ["alpha", "beta42", "GAMMA", "7", "3.14", "über", "データ", "слово", "x_y", "PASS", "don't"]
TOKENS = [
    *(f"{w} " for w in WORDS), *WORDS, "[Answer]: 42", "[PASS]: test_login\n", "[^1]: note7\n", "[a1]: https://b2.c3 " "\"title4 five\"\n", "[a1]", "[a1][]", "[x2](y3)", "[](https://e1.f2)", "[](rel4)",  # noqa: E501
    "![alt5](pic6.png)", "![](https://g7.h8 'tt9')", "<!-- hidden1 -->", "<details>", "<summary>sum2</summary>", "<div class=c3>", "<https://j4.k5>", "```python file6.py\n", "```\n", "~~~ js title=\"t7\"\n", "`", "``", "|",  # noqa: E501
    "|a|b|\n|-|-|\n", "| `p|q` | r | s |\n", "|-|\n", "||", "\\", "\\|", "&", "&amp", "*", "**", "_", "~~", "# ", "## ", "===\n", "---\n", "> ", "- ", "* ", "\n", "\n\n", "\t", "    ", "\r\n", "title: front8\n", "[ ] ", "(", ")", "[", "]", "!", "$", "\\(", "<", ">", ":", "\"", "'",  # noqa: E501
]  # fmt: skip


OURS = re.compile(
    rf"</?(?:details(?:\s+open)?|summary|br|{'|'.join(inline_rules.TAGS)})\s*/?>", re.IGNORECASE
)


def words(text):
    return re.findall(r"[^\W_]+", OURS.sub(" ", text))


def on_screen(source, html):
    """The words of `source` that a reader of `html` does not find in the text, a link's address or a fence's
    language."""
    page = Checker()
    page.feed(html)
    seen = "".join(page.text) + " ".join(page.links) + " ".join(re.findall(r'data-lang="([^"]*)"', html))
    return [w for w in words(source) if w not in seen]


@pytest.mark.parametrize(
    "source",
    [
        "[Answer]: 42",
        "Verdict\n\n[PASS]: test_login",
        "[^1]: footnote",
        "a\n\n[x]: y\n[x]: z\n[w]: v 'some title'",
        "- [in]: list\n\n> [in]: quote\n> more",
        "[a]: https://b.c\n\n[a]: https://second.d",
        "[a]: <b c> (title words)",
        "<!-- hidden words -->",
        "<div>\nin html\n</div>",
        "<details><summary>More</summary>\n\nbody\n</details>",
        "---\ntitle: front\n---\ntext",
        "Setext\n===\n\nUnder\n---",
        "```python title\nx\n```",
        '```py title="a_b.py" {1,3-5}\nx\n```',
        "~~~ {.python .numberLines start=100}\nx\n~~~",
        "```averyveryverylonglanguagename\nx\n```",
        "|a|\n|-|\n|1|2|3|",
        "|a|b|\n|-|-|\n| `x|y` | two | three |",
        "| `a|b` | c |\n|--|--|\n| d | e |",
        "|a|b|\n|-|-|\n|`one|two`|\n|three|four|five|six|",
        "[](x)",
        "[](https://x.y)",
        "[ ](empty/address)",
        "![](pic.png)",
        "![alt words](pic.png)",
        "![alt *of* `code`](https://x.y 'a title')",
        '[a](https://b.c "title words")',
        "[a](b 'title words')",
        "[a][b]\n\n[b]: not-followed",
        "[![badge](https://z.w)](https://z.w)",
        "a\\\\b \\x \\[c\\]",
        "tab\tseparated\twords",
        "word " * 25_000,
        "x" * 3_000,
        "[" * 60 + "deep" + "]" * 60,
        "> " * 40 + "deep",
        "  - " * 40 + "deep",
        "".join("  " * i + f"- level{i}\n" for i in range(40)),
        "> - " * 20 + "a\n" + "> " * 30 + "b\n\nc",
        "$50 and 60$ money",
        "a | b\n-|-\nc | d | lost?",
        "[a]: b\n===\nnext",
        "&notanentity; &#99999999;",
        "1986\\. A great year",
        "[link]( <spaced address> )",
        '[foo]: /url "title" ok',
        "![a ![b](inner) c](outer)",
    ],
)
def test_every_word_is_on_screen(source):
    """Whatever Markdown would do with it."""
    assert [] == on_screen(source, to_html(source))


@pytest.mark.slow
@given(st.lists(st.sampled_from(TOKENS), max_size=30).map("".join))
@examples(600)
def test_every_word_of_any_markdown_is_on_screen(source):
    """In any company; the numbers of list items are not words here."""
    assert [] == on_screen(source, to_html(source))
    checked(to_html(source))
