"""What a command-line agent asks to be allowed, as the user is asked before a tool runs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from ..core.calls import Permission
from ..core.events import Notice
from ..core.messages import Tool, ToolCall
from ..core.options import CallSpec
from ..tools.usable import Usable
from .agent import Question, at_terminal
from .policy import Approve, Asker, checked_approve
from .stream import Stream


@dataclass(slots=True)
class Permits:
    """Answers the questions of one call. approve: as for tools; ask: who asks the user; allowed: the names
    that the user has allowed for all of this answer."""

    approve: Approve = "ask"
    ask: Asker | None = None
    stream: Stream | None = None
    allowed: set[str] = field(default_factory=set)

    @classmethod
    def of(cls, spec: CallSpec, ask: Asker | None) -> Permits:
        """Those of a call with mode="execute". Raises ConfigError for an approve that is none."""
        return cls(checked_approve(spec.approve), ask)

    async def __call__(self, asked: Permission) -> bool:
        """Whether the user allows it, this once. Where nobody can answer it is no, and the answer says so."""
        if self.approve == "auto" or asked.name in self.allowed:
            return True
        if self.approve == "never" or self.stream is None:
            return self._nobody(asked, "approve=never")
        call = ToolCall(asked.id, asked.name, _shown(asked.arguments), "")
        question = Question(call, Usable(Tool(asked.name), _none, source=asked.source))
        asker: Callable[[Any], Any] = self.approve if callable(self.approve) else self.ask or at_terminal
        answer, error = await self.stream.run_on_reader(lambda: asker(question), prompts_user=True)
        if error is not None or answer is None:
            return self._nobody(asked, "nobody could answer" if error is None else f"asking failed ({error})")
        if answer == "always":
            self.allowed.add(asked.name)
        return answer is True or answer in ("once", "always")

    def _nobody(self, asked: Permission, why: str) -> bool:
        if self.stream is not None:
            words = f"{asked.name} was not run: {why} (approve=auto runs without asking)."
            self.stream.publish(Notice("tools", words))
        return False


def _shown(arguments: Any) -> dict[str, Any]:
    return arguments if isinstance(arguments, dict) else {"arguments": arguments}


def _none(_arguments: Any) -> None:
    """The agent runs its tools itself."""
