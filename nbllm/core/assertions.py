"""What an answer must be: "contains: Paris", "latency: 2s", functions, scorers. Pure.

An assertion gives a number between 0 and 1, and passes from events.PASSES on. What a check cannot know (a
cost without a price) is None, and such an answer is not called passed.
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

# (the answer, what its prompt's row says, the request's figures) -> how good, None where it cannot be known
Check = Callable[[str, Mapping[str, Any], Mapping[str, Any]], float | None]
_Test = Callable[[str, Mapping[str, Any]], bool | None]
_FENCE = re.compile(r"\A\s*```[a-zA-Z]*\s*\n(.*?)\n?\s*```\s*\Z", re.DOTALL)
_COLUMN = re.compile(r"\{([^{}\n]+)\}")  # a column's name may have blanks
_TIMES = {"ms": 1.0, "s": 1e3, "m": 6e4, "": 1e3}


def name_assertions(given: Any) -> dict[str, Any]:
    """Assertions by name, out of one, a list, or a mapping of names: a list's are called by their kinds."""
    if isinstance(given, Mapping) and not set(given) <= set(_KINDS):
        return {str(name): one for name, one in given.items()}
    found: dict[str, Any] = {}
    several = isinstance(given, Iterable) and not isinstance(given, (str, Mapping)) and not callable(given)
    for one in () if given is None else given if several else [given]:
        name = _name(one)
        before = sum(n.partition("#")[0] == name for n in found)
        found[f"{name}#{before + 1}" if before else name] = one
    return found


def build_checks(given: Mapping[str, Any], rows: Iterable[Mapping[str, Any]] = ()) -> dict[str, Check]:
    """What checks named assertions: "contains: Paris", "contains: {answer}" (a column of the prompts, of
    which `rows` are all), "regex: ...", "json", {"json": schema}, "latency: 2s", "cost: 0.01" (US dollars),
    each with "not " before it for its opposite; a function of an answer and of the prompt's other columns; a
    scorer of autoevals. Raises ConfigError for what is none of them."""
    rows = list(rows)
    return {name: _check(one, rows) for name, one in given.items()}


def _name(one: Any) -> str:
    if isinstance(one, Mapping):
        return str(next(iter(one), ""))
    told = one.partition(":")[0] if isinstance(one, str) else getattr(one, "__name__", type(one).__name__)
    return re.sub(r"\W+", "_", str(told)).strip("_") or "check"


def _check(one: Any, rows: Sequence[Mapping[str, Any]]) -> Check:
    if callable(one):
        return as_check(one)
    if isinstance(one, Mapping) and len(one) == 1:
        (kind, told), negative = next(iter(one.items())), False
    elif isinstance(one, str):
        kind, _, told = (part.strip() for part in one.partition(":"))
        negative, kind = kind.startswith("not "), kind.removeprefix("not ").strip()
    else:
        raise ConfigError(f"Not an assertion: {one!r}.", hint='"contains: Paris", "latency: 2s" ...')
    if kind not in _KINDS:
        raise ConfigError(f"No assertion is called {kind!r}.", hint=did_you_mean(kind, _KINDS))
    made = _KINDS[kind]
    fixed = None if isinstance(told, str) and _COLUMN.search(told) else made(told)
    every = {name for row in rows for name in row}
    for row in rows if fixed is None else ():
        if lost := sorted(every.intersection(_COLUMN.findall(told)) - set(row)):
            raise ConfigError(
                f"Not every prompt has a {lost[0]!r}, which {one!r} compares with.",
                hint=f"df.dropna(subset={lost[0]!r}), or fill what is missing.",
            )
        made(_filled(told, row, kind))  # raises for what is wrong with it

    def found(answer: str, more: Mapping[str, Any], row: Mapping[str, Any]) -> float | None:
        value = (fixed or made(_filled(told, more, kind)))(answer, row)
        return None if value is None else float(value != negative)

    return found


def _filled(told: str, more: Mapping[str, Any], kind: str) -> str:
    """A text with the columns of a prompt's row in it."""

    def value(found: re.Match[str]) -> str:
        text = str(more.get(found[1], found[0]))
        return re.escape(text) if kind == "regex" and found[1] in more else text

    return _COLUMN.sub(value, told)


def _contains(text: Any) -> _Test:
    if not isinstance(text, str) or not text:
        raise ConfigError("contains needs a text.", hint='"contains: Paris"')
    return lambda answer, _: text in answer


def _regex(pattern: Any) -> _Test:
    try:
        found = re.compile(pattern)
    except (re.error, TypeError) as error:
        raise ConfigError(f"Not a pattern: {pattern!r} ({error}).", hint=r'"regex: ^\d+$"') from None
    return lambda answer, _: found.search(answer) is not None


def _json(schema: Any) -> _Test:
    if schema and not isinstance(schema, Mapping):
        raise ConfigError("json takes a schema.", hint='"json", or {"json": {"type": "object"}}')
    wanted = checked_schema(schema or {})

    def test(answer: str, _row: Mapping[str, Any]) -> bool:
        fenced = _FENCE.match(answer)
        try:
            return not schema_problems(wanted, json.loads(fenced[1] if fenced else answer))
        except (ValueError, RecursionError):
            return False

    return test


def _within(column: str, of: Callable[[Any], float]) -> Callable[[Any], _Test]:
    def made(limit: Any) -> _Test:
        most = of(limit)

        def test(_answer: str, row: Mapping[str, Any]) -> bool | None:
            value = row.get(column)
            return None if value is None or value != value else bool(value <= most)  # noqa: PLR0124

        return test

    return made


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
        raise ConfigError(f"Not a limit of {example.partition(':')[0]}.", hint=f'"{example}"')
    return value


_KINDS: dict[str, Callable[[Any], _Test]] = {
    "contains": _contains,
    "regex": _regex,
    "json": _json,
    "latency": _within("e2e_ms", _milliseconds),
    "cost": _within("cost_usd", _dollars),
}


def as_check(function: Any) -> Check:
    """A function of (answer, the prompt's other columns), or a scorer of autoevals, which is given output,
    expected (the column expected, answer, target or reference) and input."""
    if isinstance(function, type):
        try:
            function = function()
        except Exception as error:  # noqa: BLE001 - the user's, or a package's
            raise ConfigError(
                f"{function.__name__} cannot be made: {error}.", hint="Give what it made: Scorer(...)."
            ) from None
    if inspect.iscoroutinefunction(function):
        raise ConfigError(
            f"{function.__name__} is an async function: nobody awaits it here.", hint="Use a plain function."
        )
    if not hasattr(function, "eval_async"):
        return lambda answer, more, _row: parse_score(function(answer, more))

    def asked(answer: str, more: Mapping[str, Any], row: Mapping[str, Any]) -> float | None:
        expected = next((more[k] for k in ("expected", "answer", "target", "reference") if k in more), None)
        return parse_score(function(output=answer, expected=expected, input=row.get("asked")))

    return asked


def parse_score(found: Any) -> float | None:
    """What a function says an answer is worth: a number, or something with a score. Raises ValueError for
    none."""
    found = found["score"] if isinstance(found, Mapping) else getattr(found, "score", found)
    if found is None:
        return None
    value = float(found)
    if not math.isfinite(value):
        raise ValueError(f"{value} is no score")
    return value
