"""Sphinx configuration; build.py runs Sphinx."""

from __future__ import annotations

import re
from typing import Any

project = "nbllm"
root_doc = "contents"
html_theme = "furo"
html_title = "nbllm"
html_extra_path = ["extra"]  # images in HTML of the README
exclude_patterns = ["extra"]
extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx_copybutton"]
myst_heading_anchors = 3
default_role = "literal"  # `word` in a docstring
autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_class_signature = "separated"
highlight_language = "text"
suppress_warnings = ["ref.python", "misc.highlighting_failure"]  # names that two modules have; magics
_SAMPLE = re.compile(r"    \S|\t")
_SPAN = re.compile(r"`+[^`]*`+|[*|_\\\\]")
_ITEM = re.compile(r"[*-] ")


def escape_docstring(
    _app: Any, _what: str, _name: str, _object: Any, _options: Any, lines: list[str]
) -> None:
    """Docstrings are plain text: an indented block is an example, `a` is code, and * _ | are ordinary
    characters."""
    blocks, out = re.split(r"\n\s*\n", "\n".join(lines)), list[str]()
    for i, block in enumerate(blocks):
        if not _SAMPLE.match(block):
            out.append(escape_paragraph(block))
        elif i and _SAMPLE.match(blocks[i - 1]):
            out.append(block)
        else:
            out.append(f"::\n\n{block}")
    lines[:] = "\n\n".join(out).split("\n")


def escape_paragraph(block: str) -> str:
    """A paragraph or a list, escaped for reStructuredText."""
    out = _SPAN.sub(escape_span, block)
    return re.sub(r"^(?:\\\*|-) ", "* ", out, flags=re.MULTILINE) if _ITEM.match(block) else out


def escape_span(match: re.Match[str]) -> str:
    """Turns code into a literal, and escapes characters that would be markup."""
    text = match[0]
    inner = " ".join(text.strip("`").split())
    return f"``{inner}``\\ " if text[0] == "`" and inner else "\\" + text[0]


def setup(app: Any) -> None:
    """Called by Sphinx."""
    app.connect("autodoc-process-docstring", escape_docstring)
