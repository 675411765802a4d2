"""The model's turns of a conversation, written down: `script=` in a model's name.

A list of steps, in JSON; the step is chosen by how many turns of the model the history has, so that it holds
whatever server answers. A step has:

    text        what is said; {results} stands for what tools answered
    reasoning   tokens of thinking before it
    calls       [{"name": "price", "arguments": {...}}]: an object, or a text that is sent as it is
    finish      a reason of the end of its own, such as pause_turn
    status      an HTTP error instead of an answer
    repeat      true: holds for all later turns too
    when        a text: the step is for requests that hold it, whatever their place

Beyond its end, and for a request that forbids calls where a step has nothing but calls, the usual answer is
given. Python makes the text: `simulator.script([{...}, ...])`. Pure.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from functools import lru_cache
from typing import Annotated, Any
from urllib.parse import quote

import msgspec

from .normalized_request import Ask
from .options import BadOption, Options

_MOST = 100_000  # tokens of thinking


class Call(msgspec.Struct, frozen=True):
    """A call: its arguments are an object, or a text that is sent as it is."""

    name: str
    arguments: Any = msgspec.field(default_factory=dict)

    @property
    def sent(self) -> str:
        """The arguments as they are sent."""
        return self.arguments if isinstance(self.arguments, str) else json.dumps(self.arguments)


class Step(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One turn of the model."""

    text: str | None = None
    reasoning: Annotated[int, msgspec.Meta(ge=0, le=_MOST)] | None = None
    calls: tuple[Call, ...] = ()
    finish: str = ""
    status: Annotated[int, msgspec.Meta(ge=400, lt=600)] | None = None
    repeat: bool = False
    when: str = ""


def script(steps: Iterable[Mapping[str, Any]]) -> str:
    """`script=...` for a model's name: f"sim/openai/m@{script([...])}". Raises BadOption."""
    try:
        text = json.dumps(list(steps), ensure_ascii=False)
        _read(text)
        return f"script={quote(text, safe='')}"
    except UnicodeEncodeError:
        words = """script= holds half of a character: write arguments as a text, '{"a": "\\\\ud83d"}'."""
        raise BadOption(words) from None
    except TypeError as error:
        raise BadOption(f"script= is no list of steps: {error}") from None


def step(ask: Ask, options: Options) -> Step | None:
    """The step that is due, None for the usual answer."""
    if options.script is None:
        return None
    steps = _read(options.script)
    special = next((s for s in steps if s.when and s.when in ask.prompt), None)
    order = [s for s in steps if not s.when]
    at = ask.steps
    found = order[at] if at < len(order) else order[-1] if order and order[-1].repeat else None
    found = special or found
    if found is not None and found.calls and found.text is None and not calls_allowed(ask):
        return None
    return found


def calls_allowed(ask: Ask) -> bool:
    """Whether the request lets tools be called."""
    return bool(ask.tools) and ask.choice != "none"


@lru_cache(64)
def _read(text: str) -> tuple[Step, ...]:
    try:
        return msgspec.json.decode(text, type=tuple[Step, ...])
    except (msgspec.DecodeError, RecursionError) as error:
        raise BadOption(f"script= is no list of steps: {error}") from None
