"""A tool with its code: what a model is told of it, how its arguments are checked, and what runs."""

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
_MOST = 8  # problems that a model is told at once


class ToolArgumentsError(NbllmError, ValueError):
    """A model called a tool with arguments that do not fit. The message is one line, for the model."""

    def __init__(self, problems: list[str]) -> None:
        more = f"; and {len(problems) - _MOST} more" if len(problems) > _MOST else ""
        super().__init__(" ".join(f"arguments: {'; '.join(problems[:_MOST])}{more}".split())[:2_000])


@dataclass(frozen=True, slots=True)
class Usable:
    """A tool with its code.

    call: takes the arguments that `validate` gave, and returns a value, or something to be awaited for one.
    where: "here" is the thread that reads the answer (functions of the notebook), "engine" the engine's event
    loop (MCP and HTTP; `call` is then a coroutine function). source: what it is, for people ("function
    price", "mcp/files"). reads: whether the user said that it only reads (True) or that it changes something
    (False); None where nobody said, and a server's own claim is no word of the user. check: the arguments as
    `call` takes them, or ToolArgumentsError; None checks names and types by the schema. timeout: seconds that
    a call may take, None for no limit. budget: tokens that a result may take. change: what a call would
    change that can be taken back, by its arguments; a function that may wait, or a coroutine function. Calls
    of such a tool run one after another.
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
        """The arguments as `call` takes them. Raises ToolArgumentsError, in one line for the model."""
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
    """Which arguments are missing, unknown or of another type, by the outermost level of a schema. Its owner
    checks the rest: it may be a server's, and its patterns and references may be made to take for ever."""
    given = schema.get("properties")
    known: Mapping[str, Any] = given if isinstance(given, Mapping) else {}
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
        if isinstance(kinds, list) and not any(_is(value, kind) for kind in kinds):
            yield f"{name}: not of type {' or '.join(map(str, kinds))}"


def _is(value: Any, kind: Any) -> bool:
    """Whether a value is of a type of JSON schema; of one that is unknown, any is."""
    types = _TYPES.get(kind) if isinstance(kind, str) else None
    if types is None:
        return True
    if isinstance(value, bool):
        return bool in types
    if isinstance(value, float) and kind == "integer":
        return value.is_integer()
    return isinstance(value, types)
