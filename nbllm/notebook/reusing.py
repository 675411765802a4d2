"""Prompts that are used again: a cell as a Python function of its `{names}` (def=), and fragments that are kept and put together."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from typing import Any

from ..errors import ConfigError, NbllmError
from ..events import Response
from ..streams import Stream
from .fill import fill, names_in
from .grammar import Line
from .run import settle
from .samples import BUDGET
from .session import Asked, Session


class _AnyName(Mapping[str, Any]):
    """A namespace in which every name exists: to find what a prompt would take."""

    def __getitem__(self, name: str) -> Any:
        return None

    def __contains__(self, name: object) -> bool:
        return True

    def __iter__(self) -> Iterator[str]:
        return iter(())

    def __len__(self) -> int:
        return 0


def define(session: Session, name: str, line: Line, body: str, parts: Callable[..., Any]) -> Callable[..., Any]:
    """A function of the names in a prompt that asks what the cell would, each time with other values, and shows nothing.

    It returns the Response, or what as= makes of it, and raises the call's error. `parts` makes a prompt's parts of its filled
    text. Raises ConfigError for a prompt that takes no value.
    """
    names = names_in(body, _AnyName(), str(line.options.get("fill", "on")))
    if not names:
        raise ConfigError("def= needs a prompt with {names} in it.", hint="For example: Summarise in one sentence: {text}")
    options = {k: v for k, v in line.options.items() if k != "def"}

    def function(*args: Any, **kwargs: Any) -> Any:
        given = signature.bind(*args, **kwargs).arguments
        filled = fill(body, given, lambda source: eval(source, session.shell.user_global_ns, {**session.namespace, **given}), mode=str(options.get("fill", "on")), budget=int(options.get("budget", BUDGET)))  # noqa: S307 - the person's own cell
        made, attached = parts(session, filled, options)
        asked = session.asked_from(Line(line.models, options, line.extra), made, filled.told, attached)
        return _answer(session, asked)

    signature = inspect.Signature([inspect.Parameter(n, inspect.Parameter.POSITIONAL_OR_KEYWORD) for n in names])
    function.__name__ = function.__qualname__ = name
    function.__doc__ = f"Asks {', '.join(line.models) or 'the default model'}:\n\n{body.strip()}"
    function.__signature__ = signature  # type: ignore[attr-defined]
    session.namespace[name] = function
    return function


def _answer(session: Session, asked: Asked) -> Any:
    """The answer without a screen; a structured one that does not fit is asked for once more. One that cannot be used is the
    notebook's last answer, `_llm`."""
    came: list[Response] = []
    try:
        done = settle(session, asked, session.stream(asked), _wait, lambda response, _value: came.append(response))
        if done.failure is not None:
            raise done.failure
    except BaseException:  # an interrupt too
        if came and came[-1].parts:
            session.keep(asked, came[-1], None)
        raise
    return done.response if done.value is None else done.value


def _wait(stream: Stream, _why: str) -> bool:
    with suppress(NbllmError):  # it is in the stream
        stream.response()
    return True


def composed(session: Session, used: Any, body: str) -> str:
    """The fragments named in use=, then the cell's own text. Raises ConfigError for a name that keeps none."""
    wanted = [n.strip() for n in str(used).split(",") if n.strip()]
    missing = next((n for n in wanted if n not in session.fragments), None)
    if missing is not None:
        there = ", ".join(session.fragments) or "none yet"
        raise ConfigError(f"No fragment is called {missing!r}.", hint=f"There are: {there}. A cell with save=NAME keeps one.")
    return "\n\n".join([*(session.fragments[n].strip() for n in wanted), body])
