"""How Sphinx makes the site: see build.py."""

from __future__ import annotations

import re
from typing import Any

project = "nbllm"
root_doc = "contents"
html_theme = "furo"
html_title = "nbllm"
html_extra_path = ["extra"]  # pictures that the README shows by HTML
exclude_patterns = ["extra"]
extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx_copybutton"]
myst_heading_anchors = 3
default_role = "literal"  # `word` in a docstring
autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_class_signature = "separated"
highlight_language = "text"
suppress_warnings = ["ref.python", "misc.highlighting_failure"]  # a name that two modules have; magics
_SAMPLE = re.compile(r"    \S|\t")
_SPAN = re.compile(r"`+[^`]*`+|[*|_\\\\]")
_ITEM = re.compile(r"[*-] ")


def plain_words(_app: Any, _what: str, _name: str, _object: Any, _options: Any, lines: list[str]) -> None:
    """Docstrings are plain text: an indented block is a sample, `a` is code, and * _ | are what they are."""
    blocks, told = re.split(r"\n\s*\n", "\n".join(lines)), list[str]()
    for i, block in enumerate(blocks):
        if not _SAMPLE.match(block):
            told.append(words(block))
        elif i and _SAMPLE.match(blocks[i - 1]):
            told.append(block)
        else:
            told.append(f"::\n\n{block}")
    lines[:] = "\n\n".join(told).split("\n")


def words(block: str) -> str:
    """A paragraph or a list, as reStructuredText."""
    told = _SPAN.sub(escaped, block)
    return re.sub(r"^(?:\\\*|-) ", "* ", told, flags=re.MULTILINE) if _ITEM.match(block) else told


def escaped(match: re.Match[str]) -> str:
    """Code as a literal, and a sign that would be markup as itself."""
    text = match[0]
    inner = " ".join(text.strip("`").split())
    return f"``{inner}``\\ " if text[0] == "`" and inner else "\\" + text[0]


def setup(app: Any) -> None:
    """Called by Sphinx."""
    app.connect("autodoc-process-docstring", plain_words)
