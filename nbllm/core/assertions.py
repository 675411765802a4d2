"""Assertions about answers: "contains: Paris", "latency: 2s", functions, scorers. Pure.

A check gives a number between 0 and 1, and passes from events.PASS_THRESHOLD on; or None where the result
cannot be known (a cost without a price), and then the answer does not count as passed.
"""

from __future__ import annotations

import inspect
import json
import math
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from .errors import ConfigError, did_you_mean
from .schema import checked_schema, schema_problems

# (the answer, the columns of its prompt, the row of measurements) -> score, None where it cannot be known
Check = Callable[[str, Mapping[str, Any], Mapping[str, Any]], float | None]
_Test = Callable[[str, Mapping[str, Any]], bool | None]
_FENCE = re.compile(r"\A\s*```[a-zA-Z]*\s*\n(.*?)\n?\s*```\s*\Z", re.DOTALL)
_COLUMN = re.compile(r"\{([^{}\n]+)\}")  # a column's name may contain spaces
_EXPECTED = ("expected", "answer", "target", "reference")  # columns of expected answers
_TIMES = {"ms": 1.0, "s": 1e3, "m": 6e4, "": 1e3}


def name_assertions(given: Any) -> dict[str, Any]:
    """Assertions by name, from one, a list, or a mapping of names; those in a list are named by their
    kind."""
    if isinstance(given, Mapping) and not set(given) <= set(_KINDS):
        return {str(name): assertion for name, assertion in given.items()}
    found: dict[str, Any] = {}
    several = isinstance(given, Iterable) and not isinstance(given, (str, Mapping)) and not callable(given)
    for assertion in () if given is None else given if several else [given]:
        name = _name(assertion)
        earlier = sum(n.partition("#")[0] == name for n in found)
        found[f"{name}#{earlier + 1}" if earlier else name] = assertion
    return found


def build_checks(assertions: Mapping[str, Any], rows: Iterable[Mapping[str, Any]] = ()) -> dict[str, Check]:
    """The checks of named assertions: "contains: Paris", "contains: {answer}" (a column of the prompts, of
    which `rows` are all), "regex: ...", "json", {"json": schema}, "latency: 2s", "cost: 0.01" (US dollars),
    each negated by a "not " before it; a function of an answer and of the prompt's other columns; a scorer of
    autoevals. Raises ConfigError for anything else."""
    rows = list(rows)
    return {name: _build_check(assertion, rows) for name, assertion in assertions.items()}


def _name(assertion: Any) -> str:
    if isinstance(assertion, Mapping):
        return str(next(iter(assertion), ""))
    name = (
        assertion.partition(":")[0]
        if isinstance(assertion, str)
        else getattr(assertion, "__name__", type(assertion).__name__)
    )
    return re.sub(r"\W+", "_", str(name)).strip("_") or "check"


def _build_check(assertion: Any, rows: Sequence[Mapping[str, Any]]) -> Check:
    if callable(assertion):
        return as_check(assertion)
    if isinstance(assertion, Mapping) and len(assertion) == 1:
        (kind, argument), negative = next(iter(assertion.items())), False
    elif isinstance(assertion, str):
        kind, _, argument = (part.strip() for part in assertion.partition(":"))
        negative, kind = kind.startswith("not "), kind.removeprefix("not ").strip()
    else:
        raise ConfigError(f"Not an assertion: {assertion!r}.", hint='"contains: Paris", "latency: 2s" ...')
    if kind not in _KINDS:
        raise ConfigError(f"Unknown assertion: {kind!r}.", hint=did_you_mean(kind, _KINDS))
    build = _KINDS[kind]
    fixed = None if isinstance(argument, str) and _COLUMN.search(argument) else build(argument)
    every = {name for row in rows for name in row}
    for row in rows if fixed is None else ():
        if missing := sorted(every.intersection(_COLUMN.findall(argument)) - set(row)):
            raise ConfigError(
                f"Not every prompt has a {missing[0]!r}, which {assertion!r} compares with.",
                hint=f"df.dropna(subset={missing[0]!r}), or fill in the missing values.",
            )
        build(_fill(argument, row, kind))  # raises ConfigError if it is invalid

    def check(answer: str, columns: Mapping[str, Any], row: Mapping[str, Any]) -> float | None:
        value = (fixed or build(_fill(argument, columns, kind)))(answer, row)
        return None if value is None else float(value != negative)

    return check


def _fill(template: str, columns: Mapping[str, Any], kind: str) -> str:
    """A template with the columns of a prompt filled in."""

    def value(found: re.Match[str]) -> str:
        text = str(columns.get(found[1], found[0]))
        return re.escape(text) if kind == "regex" and found[1] in columns else text

    return _COLUMN.sub(value, template)


def _contains(text: Any) -> _Test:
    if not isinstance(text, str) or not text:
        raise ConfigError("contains needs a text.", hint='"contains: Paris"')
    return lambda answer, _: text in answer


def _regex(pattern: Any) -> _Test:
    try:
        compiled = re.compile(pattern)
    except (re.error, TypeError) as error:
        raise ConfigError(f"Not a pattern: {pattern!r} ({error}).", hint=r'"regex: ^\d+$"') from None
    return lambda answer, _: compiled.search(answer) is not None


def _json(schema: Any) -> _Test:
    if schema and not isinstance(schema, Mapping):
        raise ConfigError("json takes a schema.", hint='"json", or {"json": {"type": "object"}}')
    checked = checked_schema(schema or {})

    def test(answer: str, _row: Mapping[str, Any]) -> bool:
        fenced = _FENCE.match(answer)
        try:
            return not schema_problems(checked, json.loads(fenced[1] if fenced else answer))
        except (ValueError, RecursionError):
            return False

    return test


def _at_most(column: str, parse: Callable[[Any], float]) -> Callable[[Any], _Test]:
    def build(limit: Any) -> _Test:
        maximum = parse(limit)

        def test(_answer: str, row: Mapping[str, Any]) -> bool | None:
            value = row.get(column)
            return None if value is None or value != value else bool(value <= maximum)  # noqa: PLR0124

        return test

    return build


def _milliseconds(limit: Any) -> float:
    found = re.fullmatch(r"([\d.]+)\s*(ms|s|m|)", str(limit).strip())
    number, unit = found.groups() if found else (None, "")
    return _positive(number, "latency: 2s") * _TIMES[unit]


def _dollars(limit: Any) -> float:
    return _positive(str(limit).strip().removeprefix("$"), "cost: 0.01")


def _positive(text: Any, example: str) -> float:
    try:
        value = float(text)
    except (TypeError, ValueError):
        value = math.nan
    if not 0 < value < math.inf:
        raise ConfigError(f"Not a valid limit for {example.partition(':')[0]}.", hint=f'"{example}"')
    return value


_KINDS: dict[str, Callable[[Any], _Test]] = {
    "contains": _contains,
    "regex": _regex,
    "json": _json,
    "latency": _at_most("e2e_ms", _milliseconds),
    "cost": _at_most("cost_usd", _dollars),
}


def as_check(function: Any) -> Check:
    """The check of a function of (answer, the prompt's other columns), or of a scorer of autoevals, which
    gets output, expected (the column expected, answer, target or reference) and input."""
    if isinstance(function, type):
        try:
            function = function()
        except Exception as error:  # noqa: BLE001 - the user's, or a package's
            raise ConfigError(
                f"{function.__name__}() failed: {error}.", hint="Pass an instance: Scorer(...)."
            ) from None
    if inspect.iscoroutinefunction(function):
        raise ConfigError(
            f"{function.__name__} is an async function, which is not awaited here.",
            hint="Use a plain function.",
        )
    if not hasattr(function, "eval_async"):
        return lambda answer, columns, _row: parse_score(function(answer, columns))

    def check(answer: str, columns: Mapping[str, Any], row: Mapping[str, Any]) -> float | None:
        expected = next((columns[name] for name in _EXPECTED if name in columns), None)
        return parse_score(function(output=answer, expected=expected, input=row.get("asked")))

    return check


def parse_score(result: Any) -> float | None:
    """The score in the result of a function: a number, or something with a `score`. Raises ValueError for
    infinity and NaN."""
    result = result["score"] if isinstance(result, Mapping) else getattr(result, "score", result)
    if result is None:
        return None
    value = float(result)
    if not math.isfinite(value):
        raise ValueError(f"{value} is not a score")
    return value
