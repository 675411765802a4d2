"""Options are not filled: what looks like a place in one is refused, with the way to put a value there."""

from __future__ import annotations

import re
from collections.abc import Container, Iterator
from typing import Any

from .lexer import fail
from .options import OPTIONS
from .parser import Line

_WHOLE = re.compile(r"\{+\s*(?P<name>[^\W\d][^{}\s]*)\s*\}+|\$\{?(?P<shell>[^\W\d]\w*)\}?")
_WITHIN = re.compile(r"(?<![{$\\\w])\{(?P<name>[^\W\d]\w*)(?:[.\[!:][^{}\s]*)?\}(?!\})")
# Options that take a variable by its name.
_BY_NAME = frozenset(("model", "schema", "key", "attach", "tools", "each", "out"))


def refuse_places(line: Line, names: Container[str]) -> None:
    """Raises ConfigError, with the column, for a value that is `{name}` or `$name`, or holds `{name}` of a
    variable in `names`: it would be sent as it is."""
    for option, text in _texts(line):
        found = _WHOLE.fullmatch(text)
        within = (m for m in _WITHIN.finditer(text) if m["name"] in names)
        match = found or next(within, None)
        if match is not None:
            name = match["name"] or match["shell"]
            raise fail(
                line.spans[option][0] if option in line.spans else 0,
                f"{option} is not filled, so {match[0]} would be sent as it is",
                _way(option, re.split(r"[.\[!:]", name)[0]),
            )


def _way(option: str, name: str) -> str:
    if option in _BY_NAME:
        return f"Write {option}={name}: the variable's name without braces."
    if option in OPTIONS and OPTIONS[option].default:
        return f"In a line before the cell: %config NbLLM.{option} = {name}. Prompts are filled."
    return f"Call nbllm.complete(prompt, {option}={name}), or name it in the prompt, which is filled."


def _texts(line: Line) -> Iterator[tuple[str, str]]:
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
