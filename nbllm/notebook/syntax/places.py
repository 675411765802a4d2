"""Options are not filled: what looks like a place in one is refused, with the way to put a value there."""

from __future__ import annotations

import re
from collections.abc import Container, Iterator
from typing import Any

from ...core.template import first_placeholder
from .lexer import fail
from .options import WHOLE, instead
from .parser import CellLine


def refuse_places(line: CellLine, names: Container[str]) -> None:
    """Raises ConfigError, with the column, for a value that is `{name}` or `$name`, or holds what a prompt
    would have filled: it would be sent as it is. What goes to a provider as it is may hold a template of its
    own, in double braces."""
    for option, text in _texts(line):
        place = text if WHOLE.fullmatch(text) else first_placeholder(text, names)
        if place and not (option.startswith("x.") and "{{" in text):
            raise fail(
                line.spans[option][0] if option in line.spans else 0,
                f"{option} is not filled, so {place} would be sent as it is",
                instead(option, re.split(r"[.\[!:(]", place.strip("${} "))[0]),
            )


def _texts(line: CellLine) -> Iterator[tuple[str, str]]:
    for option, value in [("model", line.models), *line.options.items()]:
        for text in value if isinstance(value, list | tuple) else [value]:
            if isinstance(text, str):
                yield option, text
    yield from _leaves("x", line.extra)


def _leaves(name: str, value: Any) -> Iterator[tuple[str, str]]:
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from _leaves(f"{name}.{key}", inner)
    elif isinstance(value, str):
        yield name, value
