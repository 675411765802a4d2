"""Resolves the names in tools= and approve=."""

from __future__ import annotations

from collections.abc import Callable, Iterable, MutableMapping, Sequence
from functools import reduce
from typing import Any

from ..core.errors import ConfigError, similar_names
from ..tools.builtin import files, python
from ..tools.sources import PREFIXES
from .syntax.options import OPTIONS

Namespace = MutableMapping[str, Any]
_HINT = (
    "tools= takes functions of this notebook, methods of its objects, mcp/NAME, http/NAME, remote/NAME, "
    "cli/NAME, {}."
)


def _file_tool(name: str) -> Callable[[Namespace], Any]:
    return lambda _: next(t for t in files(".") if t.tool.name == name)


# Built-in tools; a variable of the same name takes precedence.
BUILT_IN: dict[str, Callable[[Namespace], Any]] = {
    "python": python,
    "files": lambda _: files("."),
    **{name: _file_tool(name) for name in ("read_file", "list_files", "write_file")},
}


def resolve_tools(
    names: Sequence[str], namespace: Namespace, others: Callable[[], Iterable[str]]
) -> list[Any]:
    """The tools that a line names; `others`: names of servers, endpoints and agents. Raises ConfigError with
    the nearest name."""
    return [_resolve_tool(name, namespace, others) for name in names]


def check_cell_tools(names: Sequence[str], *, can_prompt_user: bool) -> None:
    """Raises ConfigError if a model could change cells and no user can approve it."""
    cell_tool = next((n for n in names if n.split("/")[:2] == ["mcp", "jupyter"]), None)
    if cell_tool is not None and not can_prompt_user:
        raise ConfigError(
            f"{cell_tool} changes cells of a notebook, and no user can approve that here.",
            hint="Run the cell in an interactive notebook, or leave the tool out.",
        )


def _resolve_tool(name: str, namespace: Namespace, others: Callable[[], Iterable[str]]) -> Any:
    if name.startswith(PREFIXES):
        return name
    if name not in namespace and name in BUILT_IN:
        return BUILT_IN[name](namespace)
    hint = _HINT.format(", ".join(BUILT_IN))
    value = _look_up("tool", name, namespace, lambda: (*others(), *BUILT_IN), hint)
    if value is None or isinstance(value, (str, int, float)) or (isinstance(value, list) and not value):
        raise ConfigError(f"Not a tool: {name} is {type(value).__name__}.", hint=hint)
    return value


def resolve_approver(name: Any, namespace: Namespace) -> Any:
    """The value of approve=: one of its words, or a function of the notebook. Raises ConfigError with the
    nearest name."""
    words = OPTIONS["approve"].values
    if name is None or name in words or callable(name):  # the panel passes its own function
        return name
    hint = f"approve= takes {', '.join(words)}, or a function of this notebook that takes the question."
    value = _look_up("function", name, namespace, lambda: words, hint)
    if not callable(value):
        raise ConfigError(f"Not a function: {name} is {type(value).__name__}.", hint=hint)
    return value


def _look_up(
    kind: str, name: str, namespace: Namespace, others: Callable[[], Iterable[str]], hint: str
) -> Any:
    """A variable of the notebook, or an attribute after dots. others: further names for the suggestion."""
    root, *rest = name.split(".")
    if root not in namespace:
        known = {n.rpartition("/")[2]: n for n in others()}
        known |= {n: n for n, v in namespace.items() if callable(v)}
        near = similar_names(name, known)
        raise ConfigError(
            f"No {kind} is called {name!r}" + (f": did you mean {known[near[0]]}?" if near else "."),
            hint=hint,
        )
    try:
        return reduce(getattr, rest, namespace[root])
    except AttributeError as error:
        raise ConfigError(f"No {kind} is called {name!r}: {error}.", hint=hint) from None
