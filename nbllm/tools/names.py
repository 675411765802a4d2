"""Names of tools that every provider takes: [a-zA-Z0-9_-], a letter first, at most 64. The same tools get the
same names in the same order, so that a provider's prompt cache holds. A call's name is looked up, never
parsed."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Collection, Iterable
from dataclasses import replace

from ..core.errors import ConfigError
from ..core.messages import Tool
from .usable import Usable

LONGEST = 64


def fit(name: str) -> str:
    """`name` as providers take it. A long one ends with a hash of all of it; what is left of one without a
    Latin letter or digit is a hash."""
    made = re.sub(r"[^a-zA-Z0-9_-]", "_", name).lstrip("_-")
    if not made:
        return f"tool_{_hash(name)}"
    if not made[0].isalpha():
        made = f"t_{made}"
    return made if len(made) <= LONGEST else hashed(made, name)


def chosen(choice: str | None, names: Collection[str]) -> str | None:
    """tool_choice= in the name that the model is told. Raises ConfigError for a tool that there is not."""
    if choice in (None, "auto", "none", "required"):
        return choice
    found = next((n for n in (choice, fit(choice)) if n in names), None)
    if found is None:
        there = ", ".join(names)
        raise ConfigError(
            f"tool_choice={choice!r} names no tool of the call.", hint=f"There are: {there[:500] or 'none'}."
        )
    return found


def hashed(name: str, whole: str) -> str:
    """`name`, cut, with a hash of `whole` behind it."""
    return f"{name[: LONGEST - 9]}_{_hash(whole)}"


def _hash(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:8]


def unique(given: Iterable[Usable | Tool]) -> dict[str, Usable | Tool]:
    """The tools by the names that the model is told, each with that name, in the order given; the same one
    given twice counts once. Where two have one name, a function keeps it, then the first."""
    known = list({id(t): t for t in given}.values())
    taken: dict[str, Usable | Tool] = {}
    for tool in sorted(known, key=lambda t: not (isinstance(t, Usable) and t.where == "here")):
        taken[_free(tool, taken)] = tool
    names = {id(t): name for name, t in taken.items()}
    return {names[id(t)]: _renamed(t, names[id(t)]) for t in known}


def _free(tool: Usable | Tool, taken: Collection[str]) -> str:
    plain, source = (tool.tool.name, tool.source) if isinstance(tool, Usable) else (tool.name, "")
    name, again = fit(plain), 0
    while name in taken:
        name, again = hashed(fit(plain), f"{source}\0{plain}\0{again}"), again + 1
    return name


def _renamed(tool: Usable | Tool, name: str) -> Usable | Tool:
    if isinstance(tool, Tool):
        return tool if tool.name == name else replace(tool, name=name)
    return tool if tool.tool.name == name else replace(tool, tool=replace(tool.tool, name=name))
