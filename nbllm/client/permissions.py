"""Permission requests of command-line agents: the user is asked as before a tool runs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from ..core.calls import Permission
from ..core.events import Notice
from ..core.messages import Tool, ToolCall
from ..tools.usable import Usable
from .agent import Question, ask_at_terminal
from .policy import Approve, Asker
from .stream import Stream


@dataclass(slots=True)
class PermissionHandler:
    """Answers the permission requests of one call. approve: as for tools. asker: asks the user. allowed: the
    names that the user has allowed for the rest of this answer."""

    approve: Approve = "ask"
    asker: Asker | None = None
    stream: Stream | None = None
    allowed: set[str] = field(default_factory=set)

    async def __call__(self, permission: Permission) -> bool:
        """Whether the user allows it, this once. No where nobody can answer; a notice says so."""
        if self.approve == "auto" or permission.name in self.allowed:
            return True
        if self.approve == "never" or self.stream is None:
            return self._refuse(permission, "approve=never")
        arguments = permission.arguments
        arguments = arguments if isinstance(arguments, dict) else {"arguments": arguments}
        # The agent runs its tools itself.
        call = ToolCall(permission.id, permission.name, arguments, "")
        question = Question(call, Usable(Tool(permission.name), lambda _: None, source=permission.source))
        asker: Callable[[Any], Any] = (
            self.approve if callable(self.approve) else self.asker or ask_at_terminal
        )
        answer, error = await self.stream.run_on_reader(lambda: asker(question), prompts_user=True)
        if error is not None or answer is None:
            return self._refuse(
                permission, "nobody could answer" if error is None else f"asking failed ({error})"
            )
        if answer == "always":
            self.allowed.add(permission.name)
        return answer is True or answer in ("once", "always")

    def _refuse(self, permission: Permission, why: str) -> bool:
        if self.stream is not None:
            text = f"{permission.name} was not run: {why} (approve=auto runs without asking)."
            self.stream.publish(Notice("tools", text))
        return False
