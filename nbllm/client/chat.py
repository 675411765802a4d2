"""A conversation in Python: `Chat` stores all messages, those of tools included, and sends them along."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Unpack
from uuid import uuid4

from ..core import prompt as prompts
from ..core.compaction import messages_to_send, set_pinned, starts_turn
from ..core.errors import ConfigError
from ..core.events import Response, total_cost
from ..core.messages import Message
from .api import default_client
from .client import CallOptions, Client, seal_key
from .stream import Stream

_END_WAIT = 1.0  # seconds for an answer to end after it was read or stopped


@dataclass(frozen=True, slots=True)
class Exchange:
    """A question and its answer."""

    asked: tuple[Message, ...]
    response: Response

    @property
    def messages(self) -> tuple[Message, ...]:
        """Both, as they are sent with the next question."""
        return (*self.asked, *self.response.messages)


class Chat:
    """A conversation with a model.

    chat = nbllm.Chat(model="claude/sonnet", system="Be brief.", tools=[price])
    chat("What does A-17 cost?").text

    Options as in nbllm.stream; those passed with a question apply to that one. A question whose answer was
    stopped or failed midway stays with the partial answer, so that the model knows what its tools did; one
    without any answer is dropped. Not for several threads at once.
    """

    def __init__(
        self,
        model: str = "auto",
        *,
        client: Client | None = None,
        messages: Sequence[Message] = (),
        **options: Unpack[CallOptions],
    ) -> None:
        self.model, self.client = model, client or default_client()
        self._options: CallOptions = {"compact": "auto", "cache": "auto", **seal_key(options)}
        self._turns: list[Exchange] = [Exchange(tuple(messages), Response())] if messages else []
        self._id = uuid4().hex  # of the conversation, in traces
        self._running: tuple[tuple[Message, ...], Stream] | None = None
        self.client.resolve(model, options.get("base_url"), options.get("dialect"))  # raises for a wrong name

    def __call__(self, prompt: prompts.Prompt, **options: Unpack[CallOptions]) -> Response:
        """Sends a question and waits for the answer. Raises its error; the conversation stays."""
        return self.stream(prompt, **options).response()

    ask = __call__

    def stream(self, prompt: prompts.Prompt, **options: Unpack[CallOptions]) -> Stream:
        """Sends a question and returns its Stream at once; it joins the conversation when it has ended.
        Raises ConfigError while another answer is running."""
        if self._running is not None:
            self._running[1].wait_end(_END_WAIT)
        if self._collect_answer():
            raise ConfigError("The last answer is still running.", hint="Read it to its end, or cancel() it.")
        asked = prompts.parse_messages(prompt)
        earlier = messages_to_send((t.response, t.messages) for t in self.turns)
        merged: Any = {"model": self.model, **self._options, **seal_key(options)}
        stream = self.client.trace_turn(
            lambda: self.client.stream([*earlier, *asked], **merged),
            self._id,
            len(self._turns) + 1,
        )
        self._running = (asked, stream)
        return stream

    def _collect_answer(self) -> bool:
        """Adds an answer that has ended to the conversation; True where one is still running. One that was
        stopped ends a moment later."""
        if self._running is not None and self._running[1].cancelling:
            self._running[1].wait_end(_END_WAIT)
        if self._running is not None and self._running[1].done:
            (asked, stream), self._running = self._running, None
            response = stream.partial()
            if not response.empty:
                self._turns.append(Exchange(asked, response))
        return self._running is not None

    @property
    def turns(self) -> tuple[Exchange, ...]:
        """The questions and answers so far."""
        self._collect_answer()
        return tuple(self._turns)

    @property
    def messages(self) -> tuple[Message, ...]:
        """All messages."""
        return tuple(m for turn in self.turns for m in turn.messages)

    @property
    def cost(self) -> float | None:
        """The US dollars of all answers with a price; None where none has one."""
        return total_cost(t.response for t in self.turns)

    def undo(self) -> Exchange:
        """Removes and returns the last question and its answer. Raises ConfigError where there is none."""
        self._collect_answer()
        if not self._turns:
            raise ConfigError("The conversation has no turns.", hint="Nothing was undone.")
        return self._turns.pop()

    def pin(self, turn: int = -1) -> None:
        """Excludes a turn (its index in `turns`) from summaries of the conversation. Raises ConfigError for
        an invalid index."""
        self._pin(turn, True)

    def unpin(self, turn: int = -1) -> None:
        """Allows a pinned turn to be summarised again. Raises ConfigError for an invalid index."""
        self._pin(turn, False)

    def _pin(self, turn: int, pinned: bool) -> None:
        self._collect_answer()
        if not -len(self._turns) <= turn < len(self._turns):
            raise ConfigError(
                f"The conversation has no turn {turn}.", hint=f"It has {len(self._turns)}, counted from 0."
            )
        old = self._turns[turn]
        asked = tuple(set_pinned(m, pinned) if starts_turn(m) else m for m in old.asked)
        self._turns[turn] = replace(old, asked=asked)

    def fork(self) -> Chat:
        """An independent copy."""
        copy = Chat(self.model, client=self.client, **self._options)
        copy._turns = list(self.turns)
        return copy

    def clear(self) -> None:
        """Removes all messages."""
        self._collect_answer()
        self._turns.clear()

    def __repr__(self) -> str:
        return f"Chat(model={self.model!r}, turns={len(self.turns)})"
