"""Syntax highlighting of code blocks in few bytes: six classes of tokens, the rest plain.

Some lexers take quadratic time (ten thousand line ends in C: 3.5 s). So a lexer gets `_PIECE_LENGTH`
characters at a time, cut before an unindented line after a blank one if possible, and each block has a time
limit; the rest is not highlighted.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import lru_cache
from html import escape
from itertools import groupby
from time import thread_time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pygments.lexer import Lexer

# Languages that are highlighted: a closed list, because the label comes from the model and lexers differ in
# quality.
_LANGUAGES = """
    bash c c++ cpp csharp c# css cython diff docker dockerfile fish fortran go graphql haskell html http ini
    java javascript js json json5 jsonc jsx julia kotlin latex lua make makefile matlab nix objective-c
    ocaml perl php powershell proto protobuf py py3 python python3 pycon r rb rs ruby rust sass scala scss
    sh shell sql svelte swift tex toml ts tsx typescript vue xml yaml yml zig zsh console clojure elixir
    erlang dart
"""
_PIECE_LENGTH = 1_500  # characters
_BLANKS = re.compile(r"(\n(?:[ \t]*\n){3,})")
_MARGIN = re.compile(r"\n[ \t]*\n(?=\S)")
_HIGHLIGHTED = frozenset(_LANGUAGES.split())
# (prefix of a token's type, CSS class); the first match counts.
_CLASSES = (
    ("Token.Keyword", "k"),
    ("Token.Operator.Word", "k"),
    ("Token.Name.Tag", "k"),
    ("Token.Literal.String", "s"),
    ("Token.Literal.Number", "n"),
    ("Token.Comment", "c"),
    ("Token.Generic.Output", "c"),
    ("Token.Name.Function", "f"),
    ("Token.Name.Class", "f"),
    ("Token.Name.Decorator", "f"),
    ("Token.Name.Attribute", "f"),
    ("Token.Name.Builtin", "b"),
    ("Token.Name.Exception", "b"),
    ("Token.Generic.Deleted", "s"),
    ("Token.Generic.Inserted", "k"),
    ("Token.Generic.Heading", "f"),
)


def label(info: str) -> str:
    """A code block's language: at most 20 letters, digits, #, + and -; otherwise ""."""
    match = re.match(r"[{.]*([A-Za-z0-9#+-]{1,20})(?![A-Za-z0-9#+-])", info)
    return match[1] if match else ""


def to_html(code: str, language: str, seconds: float = 1.0) -> str:
    """`code` escaped, with a span around each highlighted token; `language` is a label. After `seconds` of
    this thread's CPU time the rest stays plain."""
    lexer, deadline = _lexer(language.lower()), thread_time() + seconds
    return "".join(
        _highlight(piece, lexer)
        if lexer is not None and thread_time() < deadline
        else escape(piece, quote=False)
        for piece in _pieces(code)
    )


def _pieces(code: str) -> Iterator[str]:
    """`code` in short pieces; a run of blank lines is a piece of its own."""
    for part in _BLANKS.split(code):
        at = 0
        while len(part) - at > _PIECE_LENGTH:
            cut = _cut(part, at, at + _PIECE_LENGTH)
            yield part[at:cut]
            at = cut
        yield part[at:]


def _cut(code: str, start: int, end: int) -> int:
    """The position to cut between `start` and `end`: before the last unindented line after a blank one, else
    after a line."""
    margins = [m.end() for m in _MARGIN.finditer(code, start + 1, end)]
    return margins[-1] if margins else code.rfind("\n", start, end) + 1 or end


def _highlight(code: str, lexer: Lexer) -> str:
    tokens = ((_class(str(kind)), text) for _, kind, text in lexer.get_tokens_unprocessed(code))
    return "".join(
        _span(name, "".join(t for _, t in run)) for name, run in groupby(tokens, key=lambda t: t[0])
    )


def _span(name: str, text: str) -> str:
    body = escape(text, quote=False)
    return f"<span class={name}>{body}</span>" if name and not text.isspace() else body


@lru_cache(maxsize=256)
def _class(kind: str) -> str:
    return next((name for prefix, name in _CLASSES if kind.startswith(prefix)), "")


@lru_cache(maxsize=64)
def _lexer(language: str) -> Lexer | None:
    if language not in _HIGHLIGHTED:
        return None
    from pygments.lexers import get_lexer_by_name
    from pygments.util import ClassNotFound

    try:
        return get_lexer_by_name(language)
    except ClassNotFound:
        return None
