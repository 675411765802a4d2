"""Scripted conversations: the model's turns as `script=` in a model's name.

A script is a JSON list of steps. The step is chosen by the number of model turns in the history, so that it
does not depend on server state. A step has:

    text        the content; {results} is replaced by the results of the tools
    reasoning   number of reasoning tokens before it
    calls       [{"name": "price", "arguments": {...}}]: an object, or a string that is sent unchanged
    finish      another finish reason, such as pause_turn
    status      an HTTP error instead of an answer
    repeat      true: the step is used for all later turns too
    when        a string: the step is for requests whose prompt contains it, at any turn

After the last step the default answer is given; also if a step has only calls and the request forbids calls.
`simulator.script([{...}, ...])` makes the option's text. Pure.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from functools import lru_cache
from typing import Annotated, Any
from urllib.parse import quote

import msgspec

from .normalized_request import NormalizedRequest
from .options import BadOption, Options

_MAX_REASONING = 100_000  # reasoning tokens


class Call(msgspec.Struct, frozen=True):
    """A tool call. arguments: an object, or a string that is sent unchanged."""

    name: str
    arguments: Any = msgspec.field(default_factory=dict)

    @property
    def arguments_text(self) -> str:
        """The arguments as sent."""
        return self.arguments if isinstance(self.arguments, str) else json.dumps(self.arguments)


class Step(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One turn of the model."""

    text: str | None = None
    reasoning: Annotated[int, msgspec.Meta(ge=0, le=_MAX_REASONING)] | None = None
    calls: tuple[Call, ...] = ()
    finish: str = ""
    status: Annotated[int, msgspec.Meta(ge=400, lt=600)] | None = None
    repeat: bool = False
    when: str = ""


def script(steps: Iterable[Mapping[str, Any]]) -> str:
    """`script=...` for a model's name: f"sim/openai/m@{script([...])}". Raises BadOption."""
    try:
        text = json.dumps(list(steps), ensure_ascii=False)
        _parse(text)
        return f"script={quote(text, safe='')}"
    except UnicodeEncodeError:
        message = """script= has a lone surrogate: write the arguments as a string, '{"a": "\\\\ud83d"}'."""
        raise BadOption(message) from None
    except TypeError as error:
        raise BadOption(f"script= is not a valid list of steps: {error}") from None


def current_step(request: NormalizedRequest, options: Options) -> Step | None:
    """The step for this request, None for the default answer."""
    if options.script is None:
        return None
    steps = _parse(options.script)
    conditional = next((s for s in steps if s.when and s.when in request.prompt), None)
    in_order = [s for s in steps if not s.when]
    at = request.model_turns
    found = in_order[at] if at < len(in_order) else in_order[-1] if in_order and in_order[-1].repeat else None
    found = conditional or found
    if found is not None and found.calls and found.text is None and not calls_allowed(request):
        return None
    return found


def calls_allowed(request: NormalizedRequest) -> bool:
    """Whether the request allows tool calls."""
    return bool(request.tools) and request.tool_choice != "none"


@lru_cache(64)
def _parse(text: str) -> tuple[Step, ...]:
    try:
        return msgspec.json.decode(text, type=tuple[Step, ...])
    except (msgspec.DecodeError, RecursionError) as error:
        raise BadOption(f"script= is not a valid list of steps: {error}") from None
