r"""Formulas in Markdown: which `$` begin a formula, and which formulas a front end may typeset.

Inline formulas are `$...$` by pandoc's rule (the opening dollar is followed and the closing one preceded by a
non-space, and no digit follows the closing one, except after a command: `$\sim$5`), `\(...\)`, and `$$...$$`
or `\[...\]` within a line. A block formula begins a line with `$$` or `\[` and ends a line with its match,
without a blank line between. An environment (`\begin{align}`) needs no dollars. Money is not math: an opening
dollar after a letter or digit, or before a number followed by words, is a dollar.

TeX can contain addresses, styles, ids and definitions that outlive their formula, draw outside its box (over
our figures) and hide words, and front ends differ in what they allow. So a formula is typeset only if all of
its commands and environments are known to be harmless (`_HARMLESS`), with sizes and distances that stay in
the box; any other formula is shown as source.

mdit-py-plugins has rules for dollars and brackets too, but hostile text makes them take quadratic time: 4,000
times `$$ a` and a heading take its dollarmath 3.5 s against 0.16 s here, `\(a ` 0.4 s its texmath against
0.06 s.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from html import escape
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from markdown_it import MarkdownIt
    from markdown_it.rules_block import StateBlock
    from markdown_it.rules_inline import StateInline
    from markdown_it.token import Token

# The classes of a formula that the front end typesets, and of one in a growing text.
TYPESET, CLOSED = " mathjax_process tex2jax_process", " nbllm-closed"
_MAX_LENGTH = 5_000  # characters of one formula
_MAX_LINES = 100
# Harmless commands: letters, signs, operators, arrows, brackets, functions, accents, fonts and layout.
# Nothing that moves up, down or back, hides, sizes freely, defines, links, names or styles.
_COMMANDS = """
    alpha beta gamma delta epsilon varepsilon zeta eta theta vartheta iota kappa varkappa lambda mu nu xi
    omicron pi varpi rho varrho sigma varsigma tau upsilon phi varphi chi psi omega digamma Gamma Delta
    Theta Lambda Xi Pi Sigma Upsilon Phi Psi Omega varGamma varDelta varTheta varLambda varXi varPi varSigma
    varUpsilon varPhi varPsi varOmega aleph beth gimel daleth hbar hslash ell wp Re Im partial nabla infty
    imath jmath eth mho Finv Game complement Bbbk emptyset varnothing prime backprime angle measuredangle
    sphericalangle triangle square blacksquare Box Diamond lozenge blacklozenge bigstar bigcirc star ast
    circ bullet cdot cdotp ldotp dots ldots cdots vdots ddots dotsb dotsc dotsi dotsm dotso top bot flat
    natural sharp clubsuit diamondsuit heartsuit spadesuit checkmark maltese dag ddag dagger ddagger S P
    copyright circledR circledS pounds yen euro degree backslash lbrace rbrace lbrack rbrack vert Vert lvert
    rvert lVert rVert langle rangle lceil rceil lfloor rfloor lgroup rgroup lmoustache rmoustache ulcorner
    urcorner llcorner lrcorner colon semicolon surd pm mp times div cup cap sqcup sqcap uplus vee wedge lor
    land lnot neg oplus ominus otimes oslash odot wr amalg setminus smallsetminus bigtriangleup
    bigtriangledown triangleleft triangleright trianglelefteq trianglerighteq ltimes rtimes bowtie Join
    dotplus boxplus boxminus boxtimes boxdot barwedge veebar doublebarwedge curlyvee curlywedge intercal
    divideontimes centerdot circledast circledcirc leq le geq ge neq ne lt gt ll gg lll ggg leqq geqq
    leqslant geqslant lesssim gtrsim lessgtr gtrless equiv sim simeq approx cong approxeq doteq asymp propto
    varpropto models vdash dashv Vdash vDash Vvdash prec succ preceq succeq precsim succsim subset supset
    subseteq supseteq subsetneq supsetneq nsubseteq nsupseteq sqsubset sqsupset sqsubseteq sqsupseteq Subset
    Supset in ni notin owns mid nmid parallel nparallel perp smile frown forall exists nexists therefore
    because triangleq coloneqq eqqcolon coloneq eqcolon bumpeq circeq eqcirc nleq ngeq nless ngtr nsim ncong
    nprec nsucc nvdash nvDash backsim between pitchfork thicksim thickapprox not to gets leftarrow
    rightarrow Leftarrow Rightarrow leftrightarrow Leftrightarrow longleftarrow longrightarrow Longleftarrow
    Longrightarrow longleftrightarrow Longleftrightarrow mapsto longmapsto hookleftarrow hookrightarrow
    leftharpoonup leftharpoondown rightharpoonup rightharpoondown rightleftharpoons leftrightharpoons
    uparrow downarrow Uparrow Downarrow updownarrow Updownarrow nearrow searrow swarrow nwarrow leadsto
    rightsquigarrow twoheadrightarrow twoheadleftarrow leftrightarrows rightleftarrows leftleftarrows
    rightrightarrows upharpoonright restriction curvearrowleft curvearrowright circlearrowleft
    circlearrowright iff implies impliedby nleftarrow nrightarrow nRightarrow nLeftarrow multimap Lsh Rsh
    dashrightarrow dashleftarrow xleftarrow xrightarrow xleftrightarrow xRightarrow xLeftarrow xmapsto sum
    prod coprod int iint iiint oint oiint intop bigcup bigcap bigsqcup bigvee bigwedge bigoplus bigotimes
    bigodot biguplus arccos arcsin arctan arg cos cosh cot coth csc deg det dim exp gcd hom inf inj lim
    liminf limsup lg ln log max min Pr proj sec sin sinh sup tan tanh ker injlim projlim varliminf varlimsup
    bmod mod pmod pod operatorname hat widehat check widecheck tilde widetilde acute grave dot ddot dddot
    ddddot breve bar vec mathring overline underline overbrace underbrace overbracket underbracket
    overrightarrow overleftarrow overleftrightarrow underrightarrow underleftarrow overset underset stackrel
    overparen mathrm mathbf mathit mathsf mathtt mathcal mathbb mathfrak mathscr mathnormal mathbfit
    boldsymbol bm pmb rm bf it sf tt cal bold text textrm textbf textit textsf texttt textnormal emph mbox
    hbox symbf symbb symrm Bbb frak scr frac dfrac tfrac cfrac sqrt root of over choose atop binom dbinom
    tbinom substack sideset boxed fbox left right middle big Big bigg Bigg bigl Bigl biggl Biggl bigr Bigr
    biggr Biggr bigm Bigm biggm Biggm limits nolimits displaylimits displaystyle textstyle scriptstyle
    mathop mathbin mathrel mathord mathopen mathclose mathpunct mathinner quad qquad enspace thinspace
    medspace thickspace space nobreakspace hline newline nonumber notag tag ce bra ket braket Bra Ket Braket
    set Set cancel bcancel xcancel strut mathstrut letter
"""
_HARMLESS = frozenset(_COMMANDS.split())
_ENVIRONMENTS = (
    "matrix|pmatrix|bmatrix|Bmatrix|vmatrix|Vmatrix|smallmatrix|cases|dcases|rcases|aligned|align|alignedat|alignat|gathered|gather|split"
    "|multline|equation|eqnarray|array|subarray"
)
_COLOURS = "red|blue|green|orange|purple|violet|magenta|teal|brown|gray|grey"
_LENGTH = r"\s*\d{0,2}(?:\.\d{1,4})?\s*(?:em|ex|pt|mu|mm|cm|in|pc)\s*"
# Commands with their arguments, where these matter. A command of any other form is not harmless.
_COMMAND = re.compile(
    rf"\\(?:begin|end)\s*\{{(?:{_ENVIRONMENTS})\*?\}}|\\h(?:space|skip)\*?\s*(?:\{{{_LENGTH}\}}|{_LENGTH}(?![A-Za-z]))|\\(?:text)?color\s*\{{(?:{_COLOURS})\}}"
    rf"|\\\\\*?(?:\s*\[{_LENGTH}\]|(?!\s*\*?\s*\[))|\\(?P<name>[A-Za-z]+)\*?|\\[^A-Za-z\\]"
)
_ANY = re.compile(r"\\(?:[A-Za-z]+|[\s\S]|\Z)")
# Forbidden in a formula: column specifications other than letters and lines, options, comments (they hide
# words), HTML.
_FORBIDDEN = tuple(
    map(
        re.compile,
        (
            r"\\begin\s*\{(?:array|subarray)\}(?!\s*(?:\[[tcb]\]\s*)?\{[lcr|:\s]*\})",
            r"\\[bx]?cancel(?!\s*\{)",
            r"(?<!\\)(?:\\\\)*%",
            r"<\s*/?\s*tex-html",
        ),
    )
)
_MAX_NEGATIVE_SPACES = 8  # thin negative spaces
_MONEY = re.compile(r"\d[\d.,]*\s*(?:[-–]\s*|(?:k|m|bn|%)?\s+)[^\W\d_]{2,}")
# Signs that the text between two dollars is not a formula: a number first, and a word after a blank or a
# slash (`$3/kg or 4$`), or words where formulas have none.
_PRICED = re.compile(r"[+-]?[\d.,]+.*?(?:[\s/(,;]|\W\s)[^\W\d_]{2,}", re.DOTALL)
_PROSE = re.compile(r"(?<![^\W\d_])[^\W\d_]{3,}\s+[^\W\d_]{2,}(?![^\W\d_])")
_NO_WORDS = re.compile(
    r"\\(?:text|mbox|mathrm|operatorname|hbox)[a-z]*\*?\s*\{[^{}]*\}|\\[A-Za-z]+|\{[^{}]*\}"
)
_VARIABLE = re.compile(r"[A-Z_][A-Z0-9_]+\W?|[A-Z_][A-Z0-9_]+\W.*\W|[A-Za-z_]\w+[/:.=-]")  # $HOME/x:$PATH
_ENVIRONMENT = re.compile(rf"\\begin\{{(?P<name>(?:{_ENVIRONMENTS})\*?)\}}")
_CLOSING = {"$$": "$$", "\\[": "\\]", "\\(": "\\)", "$": "$"}
_BLOCK = ("$$", "\\[")


def add_to(md: MarkdownIt) -> None:
    """Adds the rules for formulas to the parser."""
    md.inline.ruler.before("escape", "math_inline", _inline)
    md.block.ruler.before(
        "fence",
        "environment",
        _block_environment,
        {"alt": ["paragraph", "reference", "blockquote", "list"]},
    )
    md.block.ruler.before(
        "fence", "math_block", _block, {"alt": ["paragraph", "reference", "blockquote", "list"]}
    )


def _inline(state: StateInline, silent: bool) -> bool:
    if environment := _ENVIRONMENT.match(state.src, state.pos, state.posMax):
        return _inline_environment(state, environment, silent)
    opening = next((o for o in _CLOSING if state.src.startswith(o, state.pos)), None)
    if opening is None:
        return False
    end = _closing_position(state.src[: state.posMax], state.pos, opening)
    if end < 0:
        return _skip_dollars(state, opening, silent)
    if not silent:
        token = state.push("math_inline", "span", 0)
        token.content = state.src[state.pos + len(opening) : end]
        token.markup = opening
    state.pos = end + len(_CLOSING[opening])
    return True


def _inline_environment(state: StateInline, begin: re.Match[str], silent: bool) -> bool:
    """An environment without dollars within a line."""
    closing = f"\\end{{{begin['name']}}}"
    end = state.src.find(closing, begin.end(), min(state.posMax, begin.end() + _MAX_LENGTH))
    if end < 0:
        return False
    if not silent:
        token = state.push("math_inline", "span", 0)
        token.content, token.markup = state.src[begin.start() : end + len(closing)], "$$"
    state.pos = end + len(closing)
    return True


def _block_environment(state: StateBlock, start: int, end: int, silent: bool) -> bool:
    """An environment without dollars on lines of its own, as in LaTeX."""
    begin = _ENVIRONMENT.match(_line(state, start))
    if begin is None or state.is_code_block(start):
        return False
    closing = f"\\end{{{begin['name']}}}"
    for number in range(start, min(end, start + _MAX_LINES)):
        line = _line(state, number)
        if (number > start and not _continues(state, number)) or (
            closing in line and not line.endswith(closing)
        ):
            return False
        if closing in line:
            break
    else:
        return False
    if not silent:
        token = state.push("math_block", "div", 0)
        token.content = state.getLines(start, number + 1, state.blkIndent, False).strip()
        token.markup, token.map, token.meta = "$$", [start, number + 1], {"open": False}
        state.line = number + 1
    return True


def _skip_dollars(state: StateInline, opening: str, silent: bool) -> bool:
    """Dollars that begin no formula are text, both of them at once."""
    if opening != "$$":
        return False
    if not silent:
        state.pending += opening
    state.pos += 2
    return True


def _closing_position(text: str, start: int, opening: str) -> int:
    """The position of the closing delimiter of the formula that begins at `start`; -1 if there is none."""
    closing, begin = _CLOSING[opening], start + len(opening)
    end = _find(text, closing, begin)
    content = text[begin:end]
    if end < 0 or not content.strip() or "\n\n" in content:
        return -1
    if opening == "$" and not _is_inline(text, start, end, content):
        return -1
    return end


def _is_inline(text: str, start: int, end: int, content: str) -> bool:
    before, after = text[start - 1 : start], text[end + 1 : end + 2]
    return not (
        content[0].isspace()
        or content[-1].isspace()
        or (after.isdigit() and content[0] != "\\")
        or before.isalnum()
        or _MONEY.match(content)
        or _is_money(content)
        or (after.isalpha() and _VARIABLE.fullmatch(content))
    )


def _is_money(content: str) -> bool:
    """Whether the text between two dollars is prose and not a formula."""
    words = _NO_WORDS.sub(" ", content)
    odd = content[0].isdigit() and content.count("(") != content.count(")")
    return bool(odd or _PRICED.match(words) or ("<" not in words and _PROSE.search(words)))


def _find(text: str, closing: str, begin: int) -> int:
    """The first `closing` at or after `begin` that is not escaped by a backslash."""
    at, limit = begin, min(len(text), begin + _MAX_LENGTH)
    while (at := text.find(closing, at, limit)) >= 0:
        slashes = len(text[begin:at]) - len(text[begin:at].rstrip("\\"))
        if slashes % 2 == 0:
            return at
        at += 1
    return -1


def _block(state: StateBlock, start: int, end: int, silent: bool) -> bool:
    """A formula on lines of its own. While a text still grows (`env["growing"]`), an unclosed one counts."""
    opening = _line(state, start)[:2]
    if opening not in _BLOCK or state.is_code_block(start):
        return False
    last = _last_line(state, start, end, _CLOSING[opening])
    growing = last is None and state.env.get("growing") and _may_close(state, start, end)
    if last is None and not growing:
        return False
    last = end - 1 if last is None else last
    body = state.getLines(start, last + 1, state.blkIndent, False).strip()
    content = body[2:].removesuffix(_CLOSING[opening]).strip()
    if not content and not growing:
        return False
    if silent:
        return True
    token = state.push("math_block", "div", 0)
    token.content = content
    token.markup, token.map, token.meta = opening, [start, last + 1], {"open": growing}
    state.line = last + 1
    return True


def _line(state: StateBlock, number: int) -> str:
    return state.src[state.bMarks[number] + state.tShift[number] : state.eMarks[number]].rstrip()


def _last_line(state: StateBlock, start: int, end: int, closing: str) -> int | None:
    """The line that closes the formula at its end; None if it closes elsewhere (then the inline rule applies)
    or not at all."""
    for number in range(start, min(end, start + _MAX_LINES)):
        line = _line(state, number)[2 if number == start else 0 :]
        if number != start and (not _continues(state, number) or line.startswith("\\[")):
            return None  # no nested opening: so every line is examined for one opening line only
        if closing in line:
            ends = (
                line.endswith(closing) and line.count(closing) == 1 and (line != closing or number != start)
            )
            return number if ends else None
    return None


def _continues(state: StateBlock, number: int) -> bool:
    return bool(_line(state, number)) and state.sCount[number] >= state.blkIndent


def _may_close(state: StateBlock, start: int, end: int) -> bool:
    """Whether an open formula at the end of the text can still be closed: not in a line that only continues a
    paragraph of a quote or list before it."""
    closing = _CLOSING[_line(state, start)[:2]]
    if end != state.lineMax or end - start > _MAX_LINES or state.sCount[start] < state.blkIndent:
        return False
    return all(
        _continues(state, n) and closing not in (line := _line(state, n)) and not line.startswith("\\[")
        for n in range(start + 1, end)
    )


def inline_html(tokens: Sequence[Token], index: int, options: Any, env: Any) -> str:
    """The HTML of a formula within a line."""
    token = tokens[index]
    left, right = ("$$", "$$") if token.markup in _BLOCK else ("$", "$")
    if token.markup != "$" and "$" in token.content:
        left, right = token.markup, _CLOSING[token.markup]
    return _html("span", token.content, (left, right), env)


def block_html(tokens: Sequence[Token], index: int, options: Any, env: Any) -> str:
    """The HTML of a formula on lines of its own."""
    content = tokens[index].content
    marks = ("\\[", "\\]") if "$" in content else ("$$", "$$")
    return _html("div", content, marks, env) + "\n"


def _is_harmless(content: str) -> bool:
    """Whether a formula contains only harmless commands."""
    if any(pattern.search(content) for pattern in _FORBIDDEN) or content.count("\\!") > _MAX_NEGATIVE_SPACES:
        return False
    commands = (_COMMAND.match(content, m.start()) for m in _ANY.finditer(content))
    return all(c and (c["name"] is None or c["name"] in _HARMLESS) for c in commands)


def _html(tag: str, content: str, marks: tuple[str, str], env: Any) -> str:
    source = escape(content.join(marks), quote=False)
    if len(content) > _MAX_LENGTH or not _is_harmless(content):
        return f"<code>{source}</code>" if tag == "span" else f"<pre><code>{source}</code></pre>"
    return f'<{tag} class="nbllm-tex{TYPESET if env.get("typeset", True) else CLOSED}">{source}</{tag}>'
