"""Inline rules for what models write and Markdown does not know: harmless tags, bare addresses, line breaks,
emphasis next to Chinese and Japanese, and the direction of a block.

- Tags of a closed list, without attributes, if they close where they were opened (`_match_tags`); `<br>`; in
  table cells, which cannot contain other lists, list tags. All other tags are text, and so are tags nested
  deeper than `_MAX_DEPTH`: small print in small print hides words.
- A footnote's number, `[^1]`, is raised, both where it is referenced and at the note.
- An address that begins with http:// or https:// is a link, without trailing punctuation.
- Line breaks are kept, except in a paragraph that was wrapped at a width: there the first word of every line
  would not have fitted on the line before.
- `*` between factors is no emphasis (`2*x + 3*y`, `x**2 + y**2`), unless the word before it began after one
  (`**5**kg`); nor is `__init__`.
- `*` next to letters of scripts without word spaces opens and closes as next to blanks (`**重要：**内容`).
- A block whose first letter is right-to-left gets that direction; blocks inside it inherit it.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from itertools import pairwise
from typing import TYPE_CHECKING, Any
from unicodedata import bidirectional, category, east_asian_width

if TYPE_CHECKING:
    from markdown_it import MarkdownIt
    from markdown_it.rules_inline import StateInline
    from markdown_it.token import Token

_LISTS = frozenset(("ul", "ol", "li"))
TAGS = _LISTS | frozenset(
    ("sub", "sup", "kbd", "mark", "abbr", "b", "strong", "i", "em", "u", "s", "del", "ins", "code")
)
_TAG = re.compile(
    rf"<(?P<close>/?)(?P<name>br|{'|'.join(sorted(TAGS))})\s*/?>|\[\^(?P<note>\d{{1,3}})\](?!\()",
    re.IGNORECASE,
)
_FACTOR = r"(?:\w++\*\*?(?=\d)|(?:[A-Za-z]|\w*\d)\*(?=\w))"
_NO_EMPHASIS = re.compile(
    rf"(?:(?<![*\w]){_FACTOR}|(?<=[)\]])\*\*?(?=\d|[A-Za-z]\b)){_FACTOR}*|\b__(?:init|main|name|file|dict|doc|class"
    r"|call|repr|str|len|eq|lt|hash|iter|next|new|getitem|setitem|getattr|setattr|enter|exit|post_init|future"
    r"|init_subclass|annotations|version|slots|pycache|module|contains|bool)__(?!\w)",
    re.ASCII,
)
_MAX_DEPTH = 3
_ADDRESS = re.compile(
    r"(?<![A-Za-z0-9_/@:])https?://[^\s<>\[\]\"`，。、；：！？（）「」『』【】《》“”‘’\u3000]+", re.IGNORECASE
)
_TRAILING = ".,:;!?*_~'|"  # punctuation after an address that is not part of it
_LEAST_WIDTH = 40  # the least width at which a paragraph may have been wrapped
_MAYBE_RTL = re.compile(
    "[\u0590-\u08ff\ufb1d-\ufefc\U00010800-\U0010ffff]"
)  # right-to-left letters, and some others
_BLOCKS = {
    "paragraph",
    "heading",
    "blockquote",
    "bullet_list",
    "ordered_list",
    "list_item",
    "table",
    "th",
    "td",
}


def add_to(md: MarkdownIt) -> None:
    """Adds these rules to the parser."""
    md.inline.ruler.before("autolink", "harmless", _parse_tag)
    md.core.ruler.after("inline", "pairs", _match_tags)
    md.core.ruler.after("pairs", "addresses", _link_addresses)
    md.core.ruler.after("inline", "verse", _keep_line_breaks)
    md.core.ruler.after("inline", "directions", _set_directions)
    md.inline.parse = emphasis_parser(md)  # type: ignore[method-assign]


# --- tags ---


def _parse_tag(state: StateInline, silent: bool) -> bool:
    match = _TAG.match(state.src, state.pos, state.posMax)
    name = (match["name"] or "sup").lower() if match else ""
    if match is None or (match["close"] and name == "br"):
        return False
    if not silent:
        kind = "hardbreak" if name == "br" else f"tag_{'close' if match['close'] else 'open'}"
        note = (("tag_open", "[^"), ("text", match["note"]), ("tag_close", "]"))
        for type_, content in note if match["note"] else ((kind, match[0]),):
            state.push(type_, name, 0).content = content  # `_pairs` says what closes what
    state.pos = match.end()
    return True


def _match_tags(state: Any) -> None:
    """Turns tags into text if they do not close within the element in which they were opened."""
    for around, inline in pairwise(state.tokens):
        opened: list[Token] = []
        for token in inline.children or ():
            if token.tag in _LISTS and around.type not in ("td_open", "th_open"):
                _as_text(token)
            elif token.nesting == 1 or token.type == "tag_open":
                opened.append(token)
            elif token.type == "tag_close":
                _close_tag(opened, token)
            elif token.nesting == -1:
                _close_markdown_tag(opened)
        while opened:
            _close_markdown_tag(opened)


def _close_tag(opened: list[Token], token: Token) -> None:
    near = [t.tag in _LISTS for t in opened[-2 * _MAX_DEPTH :] if t.type == "tag_open"]
    deep = near.count(False) > _MAX_DEPTH or len(near) == 2 * _MAX_DEPTH
    if opened and (opened[-1].type, opened[-1].tag) == ("tag_open", token.tag) and not deep:
        opened.pop().nesting, token.nesting = 1, -1
    else:
        _as_text(token)


def _close_markdown_tag(opened: list[Token]) -> None:
    """Ends the last open element of Markdown's own; tags opened inside it were never closed."""
    while opened and opened[-1].type == "tag_open":
        _as_text(opened.pop())
    if opened:
        opened.pop()


def _as_text(token: Token) -> None:
    token.type, token.nesting, token.tag = "text", 0, ""


# --- addresses ---


def _link_addresses(state: Any) -> None:
    for inline in _inlines(state):
        if "://" not in inline.content:
            continue
        links = 0
        made: list[Token] = []
        for token in inline.children or ():
            links += token.nesting if token.type.startswith("link_") else 0
            made += _split_addresses(token) if token.type == "text" and not links else [token]
        inline.children = made


def _split_addresses(token: Token) -> Iterator[Token]:
    from markdown_it.token import Token

    at = 0
    for match in _ADDRESS.finditer(token.content):
        url = _strip_trailing(match[0])
        if len(url) < len("https://x.y"):
            continue
        yield Token("text", "", 0, content=token.content[at : match.start()])
        yield Token("link_open", "a", 1, attrs={"href": url})
        yield Token("text", "", 0, content=url)
        yield Token("link_close", "a", -1)
        at = match.start() + len(url)
    yield Token("text", "", 0, content=token.content[at:])


def _strip_trailing(url: str) -> str:
    """An address without trailing punctuation; a closing bracket belongs to it if it was opened inside."""
    while url and (
        url[-1] in _TRAILING or any(url[-1] == b and url.count(a) < url.count(b) for a, b in _BRACKETS)
    ):
        url = url[:-1]
    return url


_BRACKETS = (("(", ")"), ("[", "]"), ("{", "}"))


# --- lines ---


def _keep_line_breaks(state: Any) -> None:
    for inline in _inlines(state):
        if "\n" in inline.content and not _is_filled(inline.content.split("\n")):
            for token in inline.children or ():
                if token.type == "softbreak":
                    token.type = "hardbreak"


def _is_filled(lines: list[str]) -> bool:
    """Whether lines are a paragraph that was wrapped at a width."""
    width = max(map(len, lines))
    pairs = pairwise(lines)
    return width >= _LEAST_WIDTH and all(
        len(line) + 1 + len(behind.split(maxsplit=1)[0] if behind.strip() else "") > width
        for line, behind in pairs
    )


# --- directions ---


def direction(text: str) -> str:
    """rtl or ltr, from the first letter with a direction; "" if there is none."""
    found = next((b for b in map(bidirectional, text) if b in ("L", "R", "AL")), "")
    return {"": "", "L": "ltr"}.get(found, "rtl")


def _set_directions(state: Any) -> None:
    if not _MAYBE_RTL.search(state.src):
        return
    open_blocks: list[Token] = []
    for token in state.tokens:
        if token.type == "inline":
            _set_direction(open_blocks, direction(token.content))
        elif token.nesting == 1:
            open_blocks.append(token)
        elif token.nesting == -1 and open_blocks:
            open_blocks.pop()
        elif token.type in ("fence", "code_block"):
            token.meta["ltr"] = _inherited(open_blocks) == "rtl"


def _set_direction(blocks: list[Token], found: str) -> None:
    """Gives the blocks around a text the direction of that text, unless they already have one."""
    inherited = "ltr"
    for block in blocks:
        if found and "is" not in block.meta and block.type.removesuffix("_open") in _BLOCKS:
            block.meta["is"] = found
            if found != inherited:
                block.meta["dir"] = found
        inherited = block.meta.get("is", inherited)


def _inherited(blocks: list[Token]) -> str:
    return next((b.meta["is"] for b in reversed(blocks) if "is" in b.meta), "ltr")


# --- emphasis ---


def emphasis_parser(md: MarkdownIt) -> Any:
    """ParserInline.parse with a state in which `*` next to a letter of a script without word spaces counts as
    next to a blank, and `*` between factors is no emphasis."""
    from markdown_it.rules_inline import StateInline
    from markdown_it.rules_inline.state_inline import Scanned

    class State(StateInline):
        signs: set[int]

        def scanDelims(self, start: int, canSplitWord: bool) -> Scanned:  # noqa: N802, N803 - the parser's names
            found = super().scanDelims(start, canSplitWord)
            end = start + found.length
            before = self.src[start - 1] if start else " "
            after = self.src[end] if end < self.posMax else " "
            wide = _is_wide(before) or _is_wide(after)
            if not (canSplitWord and wide) and start not in self.signs:
                return found
            return Scanned(wide and _can_open(after, before), wide and _can_open(before, after), found.length)

    def parse(src: str, parser: MarkdownIt, env: Any, tokens: list[Token]) -> list[Token]:
        state = State(src, parser, env, tokens)
        state.signs = {i for m in _NO_EMPHASIS.finditer(src) for i in range(*m.span())}
        md.inline.tokenize(state)
        for rule in md.inline.ruler2.getRules(""):
            rule(state)
        return state.tokens

    return parse


def _can_open(inner: str, outer: str) -> bool:
    """Whether emphasis can open (or, with swapped arguments, close) between two characters."""
    return not inner.isspace() and (
        not _is_punctuation(inner) or outer.isspace() or _is_punctuation(outer) or _is_wide(outer)
    )


def _is_punctuation(char: str) -> bool:
    return category(char)[0] in "PS"


def _is_wide(char: str) -> bool:
    return east_asian_width(char) in "WFH" and category(char) != "So"


def _inlines(state: Any) -> Iterator[Token]:
    return (token for token in state.tokens if token.type == "inline")
