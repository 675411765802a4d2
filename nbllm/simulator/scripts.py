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
from dataclasses import dataclass
from functools import lru_cache
from typing import Any
from urllib.parse import quote

from .normalized_request import Ask
from .options import BadOption, Options

_MOST = 100_000  # tokens of thinking


@dataclass(frozen=True, slots=True)
class Step:
    """One turn of the model. calls: (name, arguments as they are sent)."""

    text: str | None = None
    reasoning: int | None = None
    calls: tuple[tuple[str, str], ...] = ()
    finish: str = ""
    status: int = 0
    repeat: bool = False
    when: str = ""


def script(steps: Iterable[Mapping[str, Any]]) -> str:
    """`script=...` for a model's name: f"sim/openai/m@{script([...])}". Raises BadOption."""
    text = json.dumps(list(steps), ensure_ascii=False)
    _read(text)
    return f"script={quote(text, safe='')}"


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
        steps = [
            _checked(Step(**{**s, "calls": tuple(map(_call, s.get("calls", ())))})) for s in json.loads(text)
        ]
    except (ValueError, TypeError, AttributeError, KeyError, RecursionError) as error:
        raise BadOption(f"script= is no list of steps: {error}") from None
    return tuple(steps)


def _checked(step: Step) -> Step:
    for name, kind in (("text", str), ("reasoning", int), ("finish", str), ("when", str), ("repeat", bool)):
        value = getattr(step, name)
        if value is not None and type(value) is not kind:
            raise TypeError(f"{name} is {kind.__name__}, not {value!r}")
    if not 0 <= (step.reasoning or 0) <= _MOST:
        raise ValueError(f"reasoning is at most {_MOST:,} tokens")
    if step.status not in (0, *range(400, 600)):
        raise ValueError(f"no status of an error: {step.status!r}")
    return step


def _call(given: Mapping[str, Any]) -> tuple[str, str]:
    arguments = given.get("arguments", {})
    return str(given["name"]), arguments if isinstance(arguments, str) else json.dumps(arguments)
