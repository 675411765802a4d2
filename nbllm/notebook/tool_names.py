"""What the names in tools= mean."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterable, MutableMapping, Sequence
from functools import reduce
from typing import Any

from ..core.errors import ConfigError
from ..tools.builtin import files, python
from ..tools.given import NAMED

Namespace = MutableMapping[str, Any]
_HINT = (
    "tools= takes functions of this notebook, methods of its objects, mcp/NAME, http/NAME, remote/NAME, {}."
)


def _file_tool(name: str) -> Callable[[Namespace], Any]:
    return lambda _: next(t for t in files(".") if t.tool.name == name)


# What nbllm brings; a variable of the same name comes first.
BUILT_IN: dict[str, Callable[[Namespace], Any]] = {
    "python": python,
    "files": lambda _: files("."),
    **{name: _file_tool(name) for name in ("read_file", "list_files", "write_file")},
}


def named(names: Sequence[str], namespace: Namespace, others: Callable[[], Iterable[str]]) -> list[Any]:
    """What a line gives as tools; `others` are the names of servers, endpoints and agents. Raises ConfigError
    with the nearest name."""
    return [_named(name, namespace, others) for name in names]


def check(names: Sequence[str], *, can_ask: bool) -> None:
    """Raises ConfigError where a model would change cells, and nobody is there to be asked."""
    own = next((n for n in names if n.split("/")[:2] == ["mcp", "jupyter"]), None)
    if own is not None and not can_ask:
        raise ConfigError(
            f"{own} changes cells of a notebook, and nobody is here to be asked.",
            hint="Run the cell in a notebook that somebody watches, or leave the tool out.",
        )


def _named(name: str, namespace: Namespace, others: Callable[[], Iterable[str]]) -> Any:
    if name.startswith(NAMED):
        return name
    root, *rest = name.split(".")
    if name not in namespace and name in BUILT_IN:
        return BUILT_IN[name](namespace)
    hint = _HINT.format(", ".join(BUILT_IN))
    if root not in namespace:
        known = {n.rpartition("/")[2]: n for n in (*others(), *BUILT_IN)}
        known |= {n: n for n, v in namespace.items() if callable(v)}
        near = difflib.get_close_matches(name, known, 1)
        raise ConfigError(
            f"No tool is called {name!r}" + (f": did you mean {known[near[0]]}?" if near else "."), hint=hint
        )
    try:
        value = reduce(getattr, rest, namespace[root])
    except AttributeError as error:
        raise ConfigError(f"No tool is called {name!r}: {error}.", hint=hint) from None
    if value is None or isinstance(value, (str, int, float)) or (isinstance(value, list) and not value):
        raise ConfigError(f"Not a tool: {name} is {type(value).__name__}.", hint=hint)
    return value
