"""Colours for code blocks in few bytes: six classes of token, everything else plain."""

from __future__ import annotations

import re
from functools import lru_cache
from html import escape
from itertools import groupby
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pygments.lexer import Lexer

# Languages that are highlighted: a closed list, because the label is the model's word and lexers are many and uneven.
_LANGUAGES = """
    bash c c++ cpp csharp c# css cython diff docker dockerfile fish fortran go graphql haskell html http ini java
    javascript js json json5 jsonc jsx julia kotlin latex lua make makefile matlab nix objective-c ocaml perl php
    powershell proto protobuf py py3 python python3 pycon r rb rs ruby rust sass scala scss sh shell sql svelte swift
    tex toml ts tsx typescript vue xml yaml yml zig zsh console clojure elixir erlang dart
"""
_HIGHLIGHTED = frozenset(_LANGUAGES.split())
# The first that is a prefix of a token's type names its class.
_CLASSES = (
    ("Token.Keyword", "k"), ("Token.Operator.Word", "k"), ("Token.Name.Tag", "k"),
    ("Token.Literal.String", "s"), ("Token.Literal.Number", "n"), ("Token.Comment", "c"), ("Token.Generic.Output", "c"),
    ("Token.Name.Function", "f"), ("Token.Name.Class", "f"), ("Token.Name.Decorator", "f"), ("Token.Name.Attribute", "f"),
    ("Token.Name.Builtin", "b"), ("Token.Name.Exception", "b"),
    ("Token.Generic.Deleted", "s"), ("Token.Generic.Inserted", "k"), ("Token.Generic.Heading", "f"),
)  # fmt: skip


def label(info: str) -> str:
    """A fence's language: at most 20 letters, digits, #, + and -; "" where it is anything else."""
    match = re.match(r"[{.]*([A-Za-z0-9#+-]{1,20})(?![A-Za-z0-9#+-])", info)
    return match[1] if match else ""


def to_html(code: str, language: str) -> str:
    """`code` escaped, with a span around each token that has a colour; `language` is a label."""
    lexer = _lexer(language.lower())
    if lexer is None:
        return escape(code, quote=False)
    tokens = ((_class(str(kind)), text) for _, kind, text in lexer.get_tokens_unprocessed(code))
    return "".join(_span(name, "".join(t for _, t in run)) for name, run in groupby(tokens, key=lambda t: t[0]))


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
