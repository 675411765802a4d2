"""`asserts=`: resolves the assertions about a cell's answer and checks them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from ..core.assertions import build_checks, name_assertions
from ..core.errors import ConfigError, error_line
from ..core.events import Notice, Response


def resolve_asserts(namespace: Mapping[str, Any], options: Mapping[str, Any]) -> dict[str, Any]:
    """The options with asserts= resolved: by name, text or a function of the notebook. Raises ConfigError
    before anything is sent."""
    if "asserts" not in options:
        return dict(options)
    asserts = name_assertions([resolve_assertion(text, namespace) for text in options["asserts"]])
    build_checks(asserts)  # raises for an invalid one
    return {**options, "asserts": asserts}


def resolve_assertion(text: str, namespace: Mapping[str, Any]) -> Any:
    """One assertion of a line: text, JSON, or the notebook's function of that name."""
    if text.startswith("{"):
        try:
            return json.loads(text)
        except (ValueError, RecursionError) as error:
            raise ConfigError(
                f"asserts= is not valid JSON: {error}.", hint='asserts={"json": {"type": "object"}}'
            ) from None
    function = namespace.get(text) if text.isidentifier() else None
    return function if callable(function) else text


def check_response(response: Response, asserts: Mapping[str, Any], prompt: str) -> Response:
    """The response with the results of its assertions. If a function raises, its result is None and a notice
    says why."""
    total = response.timing.total
    about = {
        "asked": prompt,
        "cost_usd": response.cost,
        "e2e_ms": None if total is None or response.cached else total * 1e3,
    }
    results: dict[str, float | None] = {}
    notices = list(response.notices)
    for name, check in build_checks(asserts).items():
        try:
            results[name] = check(response.text, {}, about)
        except Exception as error:  # noqa: BLE001 - a user's function
            results[name] = None
            notices.append(Notice("asserts", f"{name} could not be checked: {error_line(error)}"))
    return replace(response, checks=results, notices=tuple(notices))
