r"""Formulas in Markdown: which `$` begin one, and which formulas a front end may typeset.

Inline is `$...$` by pandoc's rule (the opening dollar stands before and the closing one after something that is no
space, and no digit follows the closing one), `\(...\)`, and `$$...$$` or `\[...\]` within a line. A block begins a line
with `$$` or `\[` and ends a line with its match, without a blank line between. Money is not math: an opening dollar
after a letter or digit, or before a number with a word behind it, is a dollar.

TeX can carry addresses, styles, ids and definitions that outlive their formula, and front ends differ in what they let
through. A formula that uses such a command is shown as its source.
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

_LONGEST = 5_000  # characters of one formula
_MOST_LINES = 100
# Commands that link, style, name, load or define, and those that make commands of other letters. "new", "Declare" and the
# like are beginnings of names.
_COMMANDS = """
    href url hyperref style class cssId bbox enclose cancel bcancel xcancel toggle texttip mathtip tooltip label ref
    eqref data require unicode char include includegraphics input write special mmlToken mathtoolsset usetagform
    setoptions def edef gdef xdef let futurelet csname expandafter definecolor begingroup endgroup global catcode raise
    lower raisebox moveleft moveright Rule rule rlap llap mathllap mathrlap
"""
_REFUSED = re.compile(
    r"\\(?:(?:re|provide)?(?:new|declare|Declare|html|provide)\w|(?:" + "|".join(_COMMANDS.split()) + r")(?![A-Za-z]))"
    r"|://|javascript:|url\s*\(|<\s*/?\s*tex-html",
)
_LEFT_ALONE = re.compile(r"\\(?:newline|[bx]?cancel\s*\{)")  # harmless; a space instead keeps their neighbours apart
_MONEY = re.compile(r"\d[\d.,]*\s*(?:[-–]\s*|(?:k|m|bn|%)?\s+)[^\W\d_]{2,}")
_CLOSING = {"$$": "$$", "\\[": "\\]", "\\(": "\\)", "$": "$"}
_BLOCK = ("$$", "\\[")


def add_to(md: MarkdownIt) -> None:
    """Teaches the parser formulas."""
    md.inline.ruler.before("escape", "math_inline", _inline)
    md.block.ruler.before("fence", "math_block", _block, {"alt": ["paragraph", "reference", "blockquote", "list"]})


def _inline(state: StateInline, silent: bool) -> bool:
    opening = next((o for o in _CLOSING if state.src.startswith(o, state.pos)), None)
    if opening is None:
        return False
    end = _end(state.src[: state.posMax], state.pos, opening)
    if end < 0:
        return _step_over(state, opening, silent)
    if not silent:
        token = state.push("math_inline", "span", 0)
        token.content = state.src[state.pos + len(opening) : end]
        token.markup = opening
    state.pos = end + len(_CLOSING[opening])
    return True


def _step_over(state: StateInline, opening: str, silent: bool) -> bool:
    """Dollars that begin no formula are text, both of them at once."""
    if opening != "$$":
        return False
    if not silent:
        state.pending += opening
    state.pos += 2
    return True


def _end(text: str, start: int, opening: str) -> int:
    """Where the formula that begins at `start` has its closing delimiter; -1 where there is none."""
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
    return not (content[0].isspace() or content[-1].isspace() or after.isdigit() or before.isalnum() or _MONEY.match(content))


def _find(text: str, closing: str, begin: int) -> int:
    """The first `closing` at or after `begin` that no backslash escapes."""
    at, limit = begin, min(len(text), begin + _LONGEST)
    while (at := text.find(closing, at, limit)) >= 0:
        slashes = len(text[begin:at]) - len(text[begin:at].rstrip("\\"))
        if slashes % 2 == 0:
            return at
        at += 1
    return -1


def _block(state: StateBlock, start: int, end: int, silent: bool) -> bool:
    """A formula on lines of its own. While a text still grows (`env["growing"]`), one that is not yet closed counts."""
    first = _line(state, start)
    opening = first[:2]
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
    """The line that closes the formula at its end; None where it closes elsewhere (the inline rule's) or not at all."""
    for number in range(start, min(end, start + _MOST_LINES)):
        line = _line(state, number)[2 if number == start else 0 :]
        if number != start and (not _continues(state, number) or line.startswith("\\[")):
            return None  # one that begins inside is none: so every line is looked at by one opening line only
        if closing in line:
            ends = line.endswith(closing) and line.count(closing) == 1 and (line != closing or number != start)
            return number if ends else None
    return None


def _continues(state: StateBlock, number: int) -> bool:
    return bool(_line(state, number)) and state.sCount[number] >= state.blkIndent


def _may_close(state: StateBlock, start: int, end: int) -> bool:
    """Whether a formula that is open at the end of the text could still be closed."""
    closing = _CLOSING[_line(state, start)[:2]]
    if end != state.lineMax or end - start > _MOST_LINES:
        return False
    return all(_continues(state, n) and closing not in (line := _line(state, n)) and not line.startswith("\\[") for n in range(start + 1, end))


def inline_html(tokens: Sequence[Token], index: int, options: Any, env: Any) -> str:
    """A formula within a line."""
    token = tokens[index]
    left, right = ("$$", "$$") if token.markup in _BLOCK else ("$", "$")
    if token.markup != "$" and "$" in token.content:
        left, right = token.markup, _CLOSING[token.markup]
    return _html("span", token.content, left, right, env)


def block_html(tokens: Sequence[Token], index: int, options: Any, env: Any) -> str:
    """A formula on lines of its own."""
    content = tokens[index].content
    left, right = ("\\[", "\\]") if "$" in content else ("$$", "$$")
    return _html("div", content, left, right, env) + "\n"


def _html(tag: str, content: str, left: str, right: str, env: Any) -> str:
    source = escape(f"{left}{content}{right}", quote=False)
    if _REFUSED.search(_LEFT_ALONE.sub(" ", content)) or len(content) > _LONGEST:
        return f"<code>{source}</code>" if tag == "span" else f"<pre><code>{source}</code></pre>"
    name = "nbllm-tex mathjax_process tex2jax_process" if env.get("typeset", True) else "nbllm-tex"
    return f'<{tag} class="{name}">{source}</{tag}>'
