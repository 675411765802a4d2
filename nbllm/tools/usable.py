"""A tool with its code: what a model is told of it, how its arguments are checked, and what runs."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from ..core.errors import NbllmError
from ..core.messages import Tool
from ..core.schema import schema_problems
from ..core.values import BUDGET

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
    `call` takes them, or ToolArgumentsError; None checks them against the schema alone. timeout: seconds that
    a call may take, None for no limit. budget: tokens that a result may take.
    """

    tool: Tool
    call: Callable[[Arguments], Any] = field(repr=False)
    where: Literal["here", "engine"] = "here"
    source: str = ""
    reads: bool | None = None
    check: Callable[[Mapping[str, Any]], Arguments] | None = field(default=None, repr=False)
    timeout: float | None = None
    budget: int = BUDGET

    def validate(self, arguments: Mapping[str, Any]) -> Arguments:
        """The arguments as `call` takes them. Raises ToolArgumentsError, in one line for the model."""
        if self.check is not None:
            return self.check(arguments)
        problems = schema_problems(self.tool.parameters, arguments, "they")
        if problems:
            raise ToolArgumentsError(problems)
        return dict(arguments)
