"""A conversation in Python: `Chat` keeps what was said, with all that tools did, and sends it along."""

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

_ENDS = 1.0  # seconds that an answer may take to end once it was read, or stopped


@dataclass(frozen=True, slots=True)
class Exchange:
    """What was asked, and what came."""

    asked: tuple[Message, ...]
    response: Response

    @property
    def messages(self) -> tuple[Message, ...]:
        """Both, as the next question sends them."""
        return (*self.asked, *self.response.messages)


class Chat:
    """A conversation with a model.

    chat = nbllm.Chat(model="claude/sonnet", system="Be brief.", tools=[price])
    chat("What does A-17 cost?").text

    Options as in nbllm.stream; those of a question count for that one. A question whose answer was stopped,
    or failed on its way, stays with what had come, so that a model knows what its tools have done; one
    without any answer is dropped. Not to be used by several threads at once.
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
        self._open: tuple[tuple[Message, ...], Stream] | None = None
        self.client.resolve(
            model, options.get("base_url"), options.get("dialect")
        )  # a wrong name is told here

    def __call__(self, prompt: prompts.Prompt, **options: Unpack[CallOptions]) -> Response:
        """Asks, and waits for the answer. Raises what went wrong; the conversation stays."""
        return self.stream(prompt, **options).response()

    ask = __call__

    def stream(self, prompt: prompts.Prompt, **options: Unpack[CallOptions]) -> Stream:
        """Asks, and returns the answer at once, as a Stream that grows; it belongs to the conversation when
        it has ended. Raises ConfigError while another one is on its way."""
        if self._open is not None:
            self._open[1].wait_end(_ENDS)
        if self._settle():
            raise ConfigError(
                "The last answer is still on its way.", hint="Read it to its end, or cancel() it."
            )
        asked = prompts.parse_messages(prompt)
        merged: Any = {"model": self.model, **self._options, **seal_key(options)}
        stream = self.client.trace_turn(
            lambda: self.client.stream([*self._sent(), *asked], **merged), self._id, len(self._turns) + 1
        )
        self._open = (asked, stream)
        return stream

    def _settle(self) -> bool:
        """Takes over an answer that has ended; whether one is still on its way. One that was stopped ends a
        moment later."""
        if self._open is not None and self._open[1].cancelling:
            self._open[1].wait_end(_ENDS)
        if self._open is not None and self._open[1].done:
            (asked, stream), self._open = self._open, None
            response = stream.partial()
            if not response.empty:
                self._turns.append(Exchange(asked, response))
        return self._open is not None

    @property
    def turns(self) -> tuple[Exchange, ...]:
        """The questions and answers so far."""
        self._settle()
        return tuple(self._turns)

    @property
    def messages(self) -> tuple[Message, ...]:
        """All that was said."""
        return tuple(m for turn in self.turns for m in turn.messages)

    def _sent(self) -> tuple[Message, ...]:
        """`messages` as they are sent: with the last summary in place of what it stands for."""
        return messages_to_send((t.response, t.messages) for t in self.turns)

    @property
    def cost(self) -> float | None:
        """US dollars of all answers that have a price; None where none has."""
        return total_cost(t.response for t in self.turns)

    def undo(self) -> Exchange:
        """Takes the last question and its answer back. Raises ConfigError where there is none."""
        self._settle()
        if not self._turns:
            raise ConfigError("The conversation has no turns.", hint="Nothing was undone.")
        return self._turns.pop()

    def pin(self, turn: int = -1) -> None:
        """Keeps a turn (its place in `turns`) whole when the conversation is shortened. Raises ConfigError
        where there is none."""
        self._pin(turn, True)

    def unpin(self, turn: int = -1) -> None:
        """Lets a pinned turn be summarised again. Raises ConfigError where there is none."""
        self._pin(turn, False)

    def _pin(self, turn: int, pinned: bool) -> None:
        self._settle()
        if not -len(self._turns) <= turn < len(self._turns):
            raise ConfigError(
                f"The conversation has no turn {turn}.", hint=f"It has {len(self._turns)}, from 0 on."
            )
        old = self._turns[turn]
        asked = tuple(set_pinned(m, pinned) if starts_turn(m) else m for m in old.asked)
        self._turns[turn] = replace(old, asked=asked)

    def fork(self) -> Chat:
        """A copy that goes its own way."""
        copy = Chat(self.model, client=self.client, **self._options)
        copy._turns = list(self.turns)
        return copy

    def clear(self) -> None:
        """Forgets what was said."""
        self._settle()
        self._turns.clear()

    def __repr__(self) -> str:
        return f"Chat(model={self.model!r}, turns={len(self.turns)})"
