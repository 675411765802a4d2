"""Finds code in a prompt, which must stay unchanged: fenced blocks, code spans, JSX, and string literals of
other template languages.

Theory: fences and paragraphs are found by markdown-it, which knows that a fence in a quote or a list item
ends with it and that an unclosed one runs to the end. Code spans follow CommonMark too: a run of backticks is
closed by the next run of the same length in the same paragraph, and a backslash escapes the first backtick of
an opening run.

Tags alone are not code: prompts delimit values by `<document>{text}</document>`. JSX follows JavaScript
(`=> <p>`, `return (<p>`, `const a = <p>`) and extends to the last closing tag in the same paragraph; its tags
are those of HTML, of components (`<Foo>`, `<foo-bar>`) or empty. `question => <answer>{text}</answer>` is a
prompt's own notation.
"""

from __future__ import annotations

import re
from bisect import bisect_right
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from itertools import accumulate, chain
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from markdown_it import MarkdownIt

Span = tuple[int, int]

# Strings whose braces belong to a language: f"" and t"" (over several lines if triple-quoted), C#'s $"",
# Rust's macros, str.format.
_TRIPLE = r"""(?P<t>"{3}|'{3})[\s\S]*?(?:(?P=t)|\Z)"""
_SINGLE = r"""(?P<q>["'])(?:\\.|(?!(?P=q))[^\\\n]){0,1000}+(?P=q)"""  # bounded, so that no text makes it slow
_LITERAL = re.compile(
    rf"""(?<![\w"'])(?:[fFtT][rR]?|[rR][fFtT]|\$@?|@\$)(?:{_TRIPLE}|{_SINGLE})"""
    r"""|\w!\([^"]{0,80}"(?:\\.|[^"\\\n]){0,1000}+\""""
    r"""|(?P<p>["'])(?:\\.|(?!(?P=p))[^\\\n]){0,1000}+(?P=p)\s{0,40}\.format(?:_map)?\("""
)
# The tags of JSX, without those of HTML and SVG that prompts use as delimiters (`<text>`, `<title>`,
# `<data>`).
TAG = (
    r"(?:[A-Z][\w.:-]*|[a-z]\w*[.:-][\w.:-]*|h[1-6]|(?:a|abbr|address|area|aside|audio|b|blockquote|body|br|button"
    r"|canvas|caption|circle|code|col|colgroup|dd|defs|del|details|dialog|div|dl|dt|ellipse|em|embed|fieldset"
    r"|figcaption|figure|footer|form|g|head|header|hr|html|i|iframe|img|input|ins|kbd|label|legend|li|line|link|main"
    r"|mark|menu|meta|meter|nav|ol|optgroup|option|p|path|picture|polygon|polyline|pre|progress|rect|section|select"
    r"|small|span|strong|style|sub|sup|svg|table|tbody|td|textarea|tfoot|th|thead|time|tr|u|ul|use|video)"
    r"(?![\w.:-]))"
)
_JSX = re.compile(
    r"(?:=>\s*\(?|&&\s*\(?|\w\(|(?P<bare>\breturn)|\breturn\s*\(|\b(?:const|let|var)\s+\w{1,80}\s*=\s*\(?)\s*"
    rf"<(?P<tag>{TAG}?)(?=[\s/>])"
)
_LINE_END = re.compile(r"\r\n?|\n")
_TICKS = re.compile(r"`+")


@dataclass(frozen=True, slots=True)
class Spans:
    """Ranges of a text, ordered by start; each ends no earlier than the one before."""

    starts: tuple[int, ...]
    ends: tuple[int, ...]

    def __contains__(self, at: int) -> bool:
        index = bisect_right(self.starts, at) - 1
        return index >= 0 and at < self.ends[index]


NO_SPANS = Spans((), ())


def _build_spans(found: Iterator[Span]) -> Spans:
    ordered = sorted(found)
    return Spans(tuple(s for s, _ in ordered), tuple(accumulate((e for _, e in ordered), max)))


def find_literals(text: str) -> Spans:
    """The string literals of other template languages."""
    return _build_spans(m.span() for m in _LITERAL.finditer(text))


def find_code(text: str) -> Spans:
    """The fenced blocks, code spans and JSX."""
    return _build_spans(chain(_code(text) if "`" in text or "~~~" in text else (), _jsx(text)))


def _jsx(text: str) -> Iterator[Span]:
    for begin in _JSX.finditer(text):
        limit, closing = begin.end() + 4_000, f"</{begin['tag']}>"
        blank = text.find("\n\n", begin.end(), limit)
        end = text.rfind(closing, begin.end(), limit if blank < 0 else blank) + len(closing)
        if end > begin.end() and not (begin["bare"] and text[end : end + 80].lstrip()[:1] not in (";", "}")):
            yield begin.start(), end


@cache
def _parser() -> MarkdownIt:
    from markdown_it import MarkdownIt  # imported late: prompts without code do not need it

    parser = MarkdownIt("commonmark")
    parser.core.ruler.disable(["inline"])
    return parser


def _code(text: str) -> Iterator[Span]:
    starts = [0, *(m.end() for m in _LINE_END.finditer(text)), len(text)]
    free = 0  # the end of the last block
    for token in _parser().parse(text):
        if token.map is None or token.type not in ("fence", "inline"):
            continue
        first, last = starts[token.map[0]], starts[min(token.map[1], len(starts) - 1)]
        yield from find_backtick_spans(text, free, first)
        yield from [(first, last)] if token.type == "fence" else find_backtick_spans(text, first, last)
        free = max(free, last)
    yield from find_backtick_spans(text, free, len(text))


def find_backtick_spans(text: str, start: int, end: int) -> Iterator[Span]:
    """The code spans between `start` and `end`, including their backticks."""
    runs = [m.span() for m in _TICKS.finditer(text, start, end)]
    by_length: dict[int, list[int]] = {}
    for at, stop in runs:
        by_length.setdefault(stop - at, []).append(at)
    done = start
    for at, stop in runs:
        opens = at + _escaped(text, at)
        if at < done or opens == stop:
            continue
        same = by_length.get(stop - opens, [])
        index = bisect_right(same, at)
        if index < len(same):
            done = same[index] + stop - opens
            yield opens, done


def _escaped(text: str, at: int) -> bool:
    """Whether the character at `at` follows an odd number of backslashes."""
    return (at - len(text[max(0, at - 100) : at].rstrip("\\")) - max(0, at - 100)) % 2 == 1
