"""Names of tools that every provider accepts: [a-zA-Z0-9_-], a letter first, at most 64 characters. The same
tools get the same names in the same order, so that a provider's prompt cache stays valid. The name in a call
is looked up, never parsed."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Collection, Iterable
from dataclasses import replace

from ..core.errors import ConfigError
from ..core.messages import Tool
from .usable import Usable

LONGEST = 64


def valid_name(name: str) -> str:
    """`name` in a form that providers accept. A long name is cut and ends with a hash; one without Latin
    letters and digits becomes a hash."""
    valid = re.sub(r"[^a-zA-Z0-9_-]", "_", name).lstrip("_-")
    if not valid:
        return f"tool_{_hash(name)}"
    if not valid[0].isalpha():
        valid = f"t_{valid}"
    return valid if len(valid) <= LONGEST else shorten_with_hash(valid, name)


def resolve_choice(choice: str | None, names: Collection[str]) -> str | None:
    """The value of tool_choice= with the tool's name for the model. Raises ConfigError for an unknown
    tool."""
    if choice in (None, "auto", "none", "required"):
        return choice
    name = next((n for n in (choice, valid_name(choice)) if n in names), None)
    if name is None:
        listed = ", ".join(names)
        raise ConfigError(
            f"tool_choice={choice!r} is not a tool of the call.",
            hint=f"There are: {listed[:500] or 'none'}.",
        )
    return name


def shorten_with_hash(name: str, whole: str) -> str:
    """`name`, cut, followed by a hash of `whole`."""
    return f"{name[: LONGEST - 9]}_{_hash(whole)}"


def _hash(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:8]


def with_unique_names(tools: Iterable[Usable | Tool]) -> dict[str, Usable | Tool]:
    """The tools by unique names for the model, each renamed accordingly, in the given order and without
    duplicates. Of two tools with one name a function keeps it, else the first one."""
    known = list({id(t): t for t in tools}.values())
    taken: dict[str, Usable | Tool] = {}
    for tool in sorted(known, key=lambda t: not (isinstance(t, Usable) and t.where == "here")):
        taken[_free_name(tool, taken)] = tool
    names = {id(t): name for name, t in taken.items()}
    return {names[id(t)]: _rename(t, names[id(t)]) for t in known}


def _free_name(tool: Usable | Tool, taken: Collection[str]) -> str:
    plain, source = (tool.tool.name, tool.source) if isinstance(tool, Usable) else (tool.name, "")
    name, again = valid_name(plain), 0
    while name in taken:
        name, again = shorten_with_hash(valid_name(plain), f"{source}\0{plain}\0{again}"), again + 1
    return name


def _rename(tool: Usable | Tool, name: str) -> Usable | Tool:
    if isinstance(tool, Tool):
        return tool if tool.name == name else replace(tool, name=name)
    return tool if tool.tool.name == name else replace(tool, tool=replace(tool.tool, name=name))
