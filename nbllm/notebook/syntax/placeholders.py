"""Rejects placeholders in options: only prompts are filled; the error says how to pass the value instead."""

from __future__ import annotations

import re
from collections.abc import Container, Iterator
from typing import Any

from ...core.template import first_placeholder
from .lexer import column_error
from .options import PLACEHOLDER, placeholder_hint
from .parser import CellLine


def reject_placeholders(line: CellLine, names: Container[str]) -> None:
    """Raises ConfigError, with the column, for an option value that is or contains a placeholder that would
    be filled in a prompt. Values for the provider (x.NAME=) may contain templates of their own in double
    braces."""
    for option, text in _option_texts(line):
        placeholder = text if PLACEHOLDER.fullmatch(text) else first_placeholder(text, names)
        if placeholder and not (option.startswith("x.") and "{{" in text):
            raise column_error(
                line.spans[option][0] if option in line.spans else 0,
                f"{option} is not filled, so {placeholder} would be sent as it is",
                placeholder_hint(option, re.split(r"[.\[!:(]", placeholder.strip("${} "))[0]),
            )


def _option_texts(line: CellLine) -> Iterator[tuple[str, str]]:
    for option, value in [("model", line.models), *line.options.items()]:
        for text in value if isinstance(value, list | tuple) else [value]:
            if isinstance(text, str):
                yield option, text
    yield from _nested_texts("x", line.extra)


def _nested_texts(name: str, value: Any) -> Iterator[tuple[str, str]]:
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from _nested_texts(f"{name}.{key}", inner)
    elif isinstance(value, str):
        yield name, value
