"""Options are not filled: what looks like a place in one is refused, with the way to put a value there."""

from __future__ import annotations

import re
from collections.abc import Container, Iterator
from typing import Any

from ...core.template import first_placeholder
from .lexer import column_error
from .options import PLACEHOLDER, placeholder_hint
from .parser import CellLine


def reject_placeholders(line: CellLine, names: Container[str]) -> None:
    """Raises ConfigError, with the column, for a value that is `{name}` or `$name`, or holds what a prompt
    would have filled: it would be sent as it is. What goes to a provider as it is may hold a template of its
    own, in double braces."""
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
