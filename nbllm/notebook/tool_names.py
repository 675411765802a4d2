"""What the names in tools= mean."""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Mapping, Sequence
from functools import reduce
from typing import Any

from ..core.errors import ConfigError
from ..tools.given import Given, tools


def named(names: Sequence[str], namespace: Mapping[str, Any]) -> list[Given]:
    """The tools that a line names: variables of the notebook that hold a function, a tool or a list of them,
    and methods of variables. Raises ConfigError with the nearest name."""
    return [tool for name in names for tool in _named(name, namespace)]


def _named(name: str, namespace: Mapping[str, Any]) -> Iterator[Given]:
    root, *rest = name.split(".")
    if root not in namespace:
        near = difflib.get_close_matches(name, [n for n, v in namespace.items() if callable(v)], 1)
        raise ConfigError(
            f"No tool is called {name!r}" + (f": did you mean {near[0]}?" if near else "."),
            hint="tools= takes the names of functions of this notebook, joined by commas.",
        )
    try:
        value = reduce(getattr, rest, namespace[root])
    except AttributeError as error:
        raise ConfigError(
            f"No tool is called {name!r}: {error}.", hint="Look at the object's methods."
        ) from None
    found = () if value is None or isinstance(value, (str, int, float)) else tools(value)
    if not found:
        raise ConfigError(
            f"Not a tool: {name} is {type(value).__name__}.", hint="tools= takes names of functions."
        )
    yield from found
