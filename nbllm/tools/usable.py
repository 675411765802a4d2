"""A tool with its code: its description for the model, the check of its arguments, and the function to
run."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from ..core.errors import NbllmError
from ..core.messages import Tool
from ..core.strict import drop_added_nulls
from ..core.values import DEFAULT_BUDGET
from .changes import Change

Arguments = dict[str, Any]
_MAX_PROBLEMS = 8  # problems in one message to the model


class ToolArgumentsError(NbllmError, ValueError):
    """A model called a tool with invalid arguments. The message is one line, for the model."""

    def __init__(self, problems: list[str]) -> None:
        more = f"; and {len(problems) - _MAX_PROBLEMS} more" if len(problems) > _MAX_PROBLEMS else ""
        super().__init__(" ".join(f"arguments: {'; '.join(problems[:_MAX_PROBLEMS])}{more}".split())[:2_000])


@dataclass(frozen=True, slots=True)
class Usable:
    """A tool with its code.

    call: takes the arguments from `validate`, and returns a value or an awaitable. where: "here" for the
    reader's thread (notebook functions), "engine" for the engine's event loop (MCP and HTTP; `call` is then a
    coroutine function). source: what it is, for the user ("function price", "mcp/files"). reads: the user
    declared that it only reads (True) or changes something (False); None where neither was declared; a
    server's own claim does not count. check: returns the arguments for `call`, or raises ToolArgumentsError;
    None checks names and types by the schema. timeout: seconds for a call, None for no limit. budget: tokens
    of a result. change: returns the change that a call would make, by its arguments, so that it can be
    undone; a function that may block, or a coroutine function. Calls of such a tool run one after another.
    """

    tool: Tool
    call: Callable[[Arguments], Any] = field(repr=False)
    where: Literal["here", "engine"] = "here"
    source: str = ""
    reads: bool | None = None
    check: Callable[[Mapping[str, Any]], Arguments] | None = field(default=None, repr=False)
    timeout: float | None = None
    budget: int = DEFAULT_BUDGET
    change: Callable[[Arguments], Change | Awaitable[Change | None] | None] | None = field(
        default=None, repr=False
    )

    def validate(self, arguments: Mapping[str, Any]) -> Arguments:
        """The arguments for `call`. Raises ToolArgumentsError, in one line for the model."""
        if self.tool.strict:
            arguments = drop_added_nulls(arguments, self.tool.parameters)
        if self.check is not None:
            return self.check(arguments)
        problems = [*_problems(self.tool.parameters, arguments)]
        if problems:
            raise ToolArgumentsError(problems)
        return dict(arguments)


_TYPES: dict[str, tuple[type, ...]] = {
    "object": (dict,),
    "array": (list,),
    "string": (str,),
    "boolean": (bool,),
    "null": (type(None),),
    "number": (int, float),
    "integer": (int, float),
}


def _problems(schema: Mapping[str, Any], arguments: Mapping[str, Any]) -> Iterator[str]:
    """The missing, unknown and wrongly typed arguments, by the outermost level of a schema. The rest is left
    to the tool: a server's schema may hold patterns and references that take forever."""
    properties = schema.get("properties")
    known: Mapping[str, Any] = properties if isinstance(properties, Mapping) else {}
    required = schema.get("required")
    for name in required if isinstance(required, list) else ():
        if isinstance(name, str) and name not in arguments:
            yield f"{name}: Field required"
    closed = schema.get("additionalProperties") is False and not schema.get("patternProperties")
    for name, value in arguments.items():
        if name not in known and closed:
            yield f"{name}: there is no such argument"
        kinds = known[name].get("type") if isinstance(known.get(name), Mapping) else None
        kinds = [kinds] if isinstance(kinds, str) else kinds
        if isinstance(kinds, list) and not any(_has_type(value, kind) for kind in kinds):
            yield f"{name}: not of type {' or '.join(map(str, kinds))}"


def _has_type(value: Any, kind: Any) -> bool:
    """Whether a value has a JSON schema type; True for an unknown type."""
    types = _TYPES.get(kind) if isinstance(kind, str) else None
    if types is None:
        return True
    if isinstance(value, bool):
        return bool in types
    if isinstance(value, float) and kind == "integer":
        return value.is_integer()
    return isinstance(value, types)
