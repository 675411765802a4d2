"""Untrusted Markdown rendered as HTML that cannot run, load or contact anything.

A live front end executes the HTML of an output, and does not sanitise Markdown either. So a model's text is
rendered here: markdown-it parses it with raw HTML off (HTML is text, except for a few tags without
attributes: `inline_rules`, `block_rules`), and every tag is written by this file from a closed list. Of the
model's text only three things become attributes: a link's address that begins with http:, https: or mailto:;
the numbers of a list; a code block's language, reduced to letters. Pictures are never fetched; they are shown
as links. Characters that reorder or hide text are made visible (`hidden`).

Every word is shown, except for this closed list: the address of a followable link or of a picture in a link,
addresses of pictures that contain their own data, the language of a fence (shown in its corner) and a single
letter after it, numbers of list items after the first, `[x]` of tasks, names of entities and of TeX commands.
So link definitions are shown (`block_rules`), titles and the rest of a fence's info are shown beside, and
links without a label show their address.

Front ends typeset TeX in HTML outputs on their own ($5 and $10 would be a formula). The container around our
HTML (`styles.container`) turns that off by class; `math` finds the real formulas and turns it on for each of
them.
"""

from __future__ import annotations

import re
from collections.abc import MutableMapping, Sequence
from functools import lru_cache
from html import escape
from time import thread_time
from typing import TYPE_CHECKING, Any

from . import block_rules, highlight, inline_rules, math
from .hidden import clean

if TYPE_CHECKING:
    from markdown_it import MarkdownIt
    from markdown_it.token import Token

Env = MutableMapping[str, Any]

HIGHLIGHT_LIMIT = 60_000  # characters up to which a code block is highlighted
_DIRECTION_SAMPLE = 1_000  # characters of a text that decide its direction
_HIGHLIGHT_SECONDS = 1.0  # time limit for highlighting one text
_INLINE_LIMIT = 100_000  # characters up to which a paragraph is parsed for emphasis and links
_SAFE_LINK = re.compile(r"(?:https?://|mailto:)[^\s\x00-\x20]", re.IGNORECASE)
_WORD = re.compile(r"[^\W_]")
_TASK = {"[ ] ": "☐ ", "[x] ": "☑ ", "[X] ": "☑ "}
_ALIGN = {"text-align:left", "text-align:right", "text-align:center"}
_SUMMARY = "<details class=nbllm-think{}><summary>{}</summary>\n{}</details>\n"


def to_html(
    source: str,
    *,
    references: Env | None = None,
    typeset: bool = True,
    highlight_limit: int = HIGHLIGHT_LIMIT,
) -> str:
    """Safe HTML for Markdown. `references` carries link definitions from one piece of a text to the next;
    without `typeset` formulas stay source; code blocks above `highlight_limit` characters are not
    highlighted."""
    env: Env = {
        "references": {} if references is None else references,
        "typeset": typeset,
        "ink": highlight_limit,
        "seconds": _HIGHLIGHT_SECONDS,
    }
    try:
        html = clean(str(parser().render(clean(source), env)))  # an entity can stand for a hidden character
    except Exception:  # noqa: BLE001  # an answer must be shown, even if it breaks the parser
        return plain_html(source)
    return html if len(html) <= 5 * len(source) + 8_000 else plain_html(source)  # mostly tags: empty cells


def plain_html(source: str) -> str:
    """Safe HTML that shows `source` unchanged, with its lines."""
    rtl = " dir=rtl" if inline_rules.direction(source[:_DIRECTION_SAMPLE]) == "rtl" else ""
    return f"<div{rtl} class=nbllm-text>{escape(clean(source), quote=False)}</div>\n"


def code_html(
    source: str,
    language: str = "",
    *,
    highlight_limit: int = HIGHLIGHT_LIMIT,
    seconds: float = _HIGHLIGHT_SECONDS,
    ltr: bool = False,
) -> str:
    """Safe HTML for a code block; `language` is the model's label. Not highlighted above `highlight_limit`
    characters and after `seconds` of CPU time. ltr: the surrounding text runs from right to left."""
    label = highlight.label(language)
    escaped = escape(source, quote=False)
    highlighted = highlight.to_html(source, label, seconds) if len(source) <= highlight_limit else escaped
    if len(highlighted) > 4 * len(source) + 4_000:  # mostly tiny tokens
        highlighted = escaped
    lang = f' data-lang="{label}"' if label else ""
    return f"<pre{' dir=ltr' if ltr else ''}{lang}><code>{highlighted}</code></pre>\n"


def reasoning_html(source: str, summary: str = "Reasoning", *, open: bool = False) -> str:
    """Safe HTML for reasoning: a collapsed block, or an expanded one."""
    return fold(to_html(source), summary, open=open)


def fold(html: str, summary: str, *, open: bool = False) -> str:
    """Safe HTML collapsed below a summary line."""
    return _SUMMARY.format(" open" * open, escape(summary), html)


def fences(source: str) -> list[tuple[str, str]]:
    """(info, code) of each code block."""
    return [(t.info, t.content) for t in outline(source, {}) if t.type == "fence"]


def outline(source: str, env: Env) -> list[Token]:
    """The block tokens of `source`, without inline tokens; [] if the parser fails."""
    tokens: list[Token] = []
    try:
        parser().block.parse(source.replace("\r\n", "\n").replace("\r", "\n"), parser(), env, tokens)
    except Exception:  # noqa: BLE001
        return []
    return tokens


@lru_cache(maxsize=1)
def parser() -> MarkdownIt:
    """The Markdown parser: CommonMark without HTML, with tables, strikethrough, task lists and formulas."""
    from markdown_it import MarkdownIt
    from markdown_it.renderer import RendererHTML

    md = MarkdownIt("commonmark", {"html": False, "linkify": False, "typographer": False})
    md.enable(["table", "strikethrough"])
    md.disable(["html_block", "html_inline"])
    block_rules.add_to(md, _SAFE_LINK.match)
    # the renderer checks links, so that no text is lost
    md.validateLink = lambda url: True  # type: ignore[method-assign]
    math.add_to(md)
    md.core.ruler.after("inline", "tasks", _mark_tasks)
    md.core.ruler.after("inline", "numbers", _keep_numbers)
    md.core.ruler.after("inline", "links", _check_links)
    md.core.ruler.before("inline", "long", _cap_inline)
    inline_rules.add_to(md)  # these run before the rules that handle links
    renderer = md.renderer
    assert isinstance(renderer, RendererHTML)
    renderer.rules = dict(_RULES)
    renderer.renderToken = _render_tag  # type: ignore[method-assign, assignment]
    return md


def _mark_tasks(state: Any) -> None:
    """Turns [ ] and [x] at the start of a list item into boxes. (The rule of mdit-py-plugins writes HTML, and
    walks back to the head of the list for each item: 4,000 items take 1.6 s, here 0.13 s.)"""
    for i in range(2, len(state.tokens)):
        item, inline = state.tokens[i - 2], state.tokens[i]
        if item.type == "list_item_open" and inline.type == "inline" and inline.children:
            first = inline.children[0]
            box = _TASK.get(first.content[:4])
            if box:
                first.content, item.meta["task"] = box + first.content[4:], True


def _keep_numbers(state: Any) -> None:
    """Keeps the numbers that a model wrote for list items. Items that repeat the previous number (`1.`
    throughout) are counted."""
    last: list[int | None] = []  # for each open list, the number of its last item
    for token in state.tokens:
        if token.type == "ordered_list_open":
            last.append(None)
        elif token.type == "ordered_list_close":
            last.pop()
        elif token.type == "list_item_open" and last and token.info.isdecimal():
            number = int(token.info)
            if last[-1] is None or number != last[-1]:
                if last[-1] is not None and number != last[-1] + 1:
                    token.meta["value"] = number
                last[-1] = number


def _cap_inline(state: Any) -> None:
    """Makes a paragraph of absurd length plain text: parsing it could take minutes."""
    from markdown_it.token import Token

    for token in state.tokens:
        if token.type == "inline" and len(token.content) > _INLINE_LIMIT:
            token.type, token.children = "capped", [Token("text", "", 0, content=token.content)]


# The tags that may be written. Headings start at h3: an answer's title is not the notebook's.
_TAGS = {
    "paragraph": "p", "em": "em", "strong": "strong", "s": "s", "blockquote": "blockquote", "hr": "hr",
    "bullet_list": "ul", "ordered_list": "ol", "list_item": "li",
    "table": "table", "thead": "thead", "tbody": "tbody", "tr": "tr", "th": "th", "td": "td",
    "details": "details", "summary": "summary",
}  # fmt: skip
_TIGHT = {"em", "strong", "s", "th", "td", "tag"}
_OPEN_LINE = {"ul", "ol", "table", "thead", "tbody", "blockquote", "hr", "details"}


def _render_tag(tokens: Sequence[Token], index: int, options: Any, env: Env) -> str:
    """A tag of the closed list, or its text."""
    token = tokens[index]
    kind = token.type.removesuffix("_open").removesuffix("_close")
    name = f"h{min(int(token.tag[1]) + 2, 6)}" if kind == "heading" else _TAGS.get(kind)
    if kind == "tag" and token.tag in inline_rules.TAGS:
        name = token.tag
    if token.hidden:  # a paragraph of a tight list
        return (
            "\n"
            if token.nesting == -1
            and index + 1 < len(tokens)
            and not tokens[index + 1].type.endswith("_close")
            else ""
        )
    if name is None:
        return escape(token.content, quote=False)
    if token.nesting == -1:
        return f"</{name}>" + ("" if kind in _TIGHT else "\n")
    return f"<{name}{_attributes(token)}>" + ("\n" if name in _OPEN_LINE else "")


def _attributes(token: Token) -> str:
    start, style = token.attrs.get("start"), str(token.attrs.get("style", ""))
    direction = f" dir={token.meta['dir']}" if "dir" in token.meta else ""
    if token.meta.get("task"):
        return f"{direction} class=nbllm-task"
    if isinstance(start, int):
        return f"{direction} start={start}"
    if "value" in token.meta:
        return f"{direction} value={token.meta['value']}"
    return f'{direction} style="{style}"' if style in _ALIGN else direction


def _check_links(state: Any) -> None:
    """Decides for each link and picture whether it can be followed: its address is safe, and it is not inside
    another link (an address in angle brackets may be in a link's label; link tags cannot nest). A long
    address that is repeated many times is eventually left out."""
    budget = 4 * len(state.src) + 2_000
    for inline in state.tokens:
        tokens: Sequence[Token] = inline.children or () if inline.type == "inline" else ()
        opened: list[int] = []
        for i, token in enumerate(tokens):
            if token.type == "link_close":
                at = opened.pop()
                tokens[at].meta["label"] = "".join(t.content for t in tokens[at:i]).strip()
                token.meta.update(tokens[at].meta)
            elif token.type in ("link_open", "image"):
                url, title = (
                    str(token.attrs["href" if token.type == "link_open" else "src"]),
                    str(token.attrs.get("title", "")),
                )
                budget -= len(url) + len(title)
                token.meta.update(
                    url=url if budget > 0 else "",
                    title=title if budget > 0 else "",
                    inside=bool(opened),
                    follow=not opened and budget > 0 and bool(_SAFE_LINK.match(url)),
                )
                if token.type == "link_open":
                    opened.append(i)


def _link_open(tokens: Sequence[Token], index: int, options: Any, env: Env) -> str:
    meta = tokens[index].meta
    label = (
        "" if meta["label"] else escape(meta["url"], quote=False)
    )  # otherwise there is nothing to click on
    return _anchor(meta["url"]) + label if meta["follow"] else ""


def _anchor(url: str) -> str:
    return f'<a href="{escape(url)}" target="_blank" rel="noopener noreferrer">'


def _link_close(tokens: Sequence[Token], index: int, options: Any, env: Env) -> str:
    meta = tokens[index].meta
    shown = meta["follow"] or meta["label"] == meta["url"]
    return ("</a>" if meta["follow"] else "") + _parenthesis("" if shown else meta["url"], meta["title"])


def _parenthesis(url: str, title: str) -> str:
    """The text after a link's label: an address that cannot be followed, and a title."""
    words = " ".join(filter(None, (url, title)))
    return f" ({escape(words, quote=False)})" if words else ""


def _render_image(tokens: Sequence[Token], index: int, options: Any, env: Env) -> str:
    """A picture is never fetched: it is shown as a link, or as a label if its address cannot be followed."""
    meta = tokens[index].meta
    label = f"🖼 {escape(tokens[index].content or 'image', quote=False)}"
    if meta["follow"]:
        return f"{_anchor(meta['url'])}{label}</a>{_parenthesis('', meta['title'])}"
    return label + _parenthesis(
        "" if meta["inside"] or meta["url"].startswith("data:") else meta["url"], meta["title"]
    )


def _render_text(tokens: Sequence[Token], index: int, options: Any, env: Env) -> str:
    return escape(tokens[index].content, quote=False)


def _render_code(tokens: Sequence[Token], index: int, options: Any, env: Env) -> str:
    return f"<code>{escape(tokens[index].content, quote=False)}</code>"


def _render_fence(tokens: Sequence[Token], index: int, options: Any, env: Env) -> str:
    info = tokens[index].info.strip()
    language = info.split(maxsplit=1)[0] if info else ""
    rest = info.replace(highlight.label(language), "", 1).strip()
    above = f"<p>{escape(rest, quote=False)}</p>\n" if len(rest) > 1 and _WORD.search(rest) else ""
    began = thread_time()
    ltr = bool(tokens[index].meta.get("ltr"))
    html = code_html(
        tokens[index].content, language, highlight_limit=env["ink"], seconds=env["seconds"], ltr=ltr
    )
    env["seconds"] -= thread_time() - began
    return above + html


_RULES: dict[str, Any] = {
    "text": _render_text, "code_inline": _render_code, "fence": _render_fence, "code_block": _render_fence,
    "capped": lambda tokens, index, *given: _render_text(tokens[index].children or (), 0, *given),
    "softbreak": lambda *_: "\n", "hardbreak": lambda *_: "<br>\n",
    "link_open": _link_open, "link_close": _link_close, "image": _render_image,
    "math_inline": math.inline_html, "math_block": math.block_html,
}  # fmt: skip
