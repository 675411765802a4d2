"""Turns a cell into a Python function of its `{names}` (def=)."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import Any

from ..core.errors import ConfigError
from ..core.template import FilledPrompt, fill, parameters_in
from .question import value_budget
from .session import Session


def define_function(
    session: Session, name: str, body: str, options: Mapping[str, Any], call: Callable[[FilledPrompt], Any]
) -> Callable[..., Any]:
    """Defines a function that fills the prompt with its arguments, sends it as the cell would, and displays
    nothing.

    Its parameters are the names in single braces, and those in {{expressions}} that neither Python nor the
    notebook knows; names that the notebook knows can be passed by keyword. It returns the Response, the value
    of as=, or the Comparison of several models, and raises the call's error. Raises ConfigError for a prompt
    without such names.
    """
    mode, budget = str(options.get("fill", "on")), value_budget(options)
    names, known = parameters_in(body, session.namespace, mode)
    if not names:
        raise ConfigError(
            "def= needs a prompt with {names}.", hint="For example: Summarise in one sentence: {text}"
        )

    def function(*args: Any, **kwargs: Any) -> Any:
        overrides = {n: kwargs.pop(n) for n in known if n in kwargs}
        values = {**signature.bind(*args, **kwargs).arguments, **overrides}
        filled = fill(body, values, lambda source: session.evaluate(source, values), mode=mode, budget=budget)
        return call(filled)

    signature = inspect.Signature(
        [inspect.Parameter(n, inspect.Parameter.POSITIONAL_OR_KEYWORD) for n in names]
    )
    function.__name__ = function.__qualname__ = name
    more = f"\n\nTaken from the notebook unless passed by keyword: {', '.join(known)}." if known else ""
    function.__doc__ = f"Asks a model:\n\n{body.strip()}{more}"
    function.__signature__ = signature  # type: ignore[attr-defined]
    session.namespace[name] = function
    return function
