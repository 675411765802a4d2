"""What an answer must be: assertions by name, their columns in a run's frame, and the grid of passes.

An assertion gives a number between 0 and 1, and passes from 0.5 on. A request that failed passes none. What a
check cannot know (a cost without a price) is NA, and such a request is not called passed.
"""

from __future__ import annotations

import json
import math
import re
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from ..core.errors import ConfigError, did_you_mean
from .grades import PASSES, joined
from .prompts import Prompt, load
from .store import Store

if TYPE_CHECKING:
    import pandas as pd

# (the answer, what its prompt's row says, the request's row) -> how good, None where it cannot be known
Check = Callable[[str, Mapping[str, Any], Mapping[str, Any]], float | None]
_FENCE = re.compile(r"\A\s*```[a-zA-Z]*\s*\n(.*?)\n?\s*```\s*\Z", re.DOTALL)
_TIMES = {"ms": 1.0, "s": 1e3, "m": 6e4, "": 1e3}


def assertions(given: Any, prompts: Sequence[Prompt] = (), *, kept: bool = True) -> dict[str, Check]:
    """Checks by name, out of a list, or a mapping of names: "contains: Paris", "contains: {answer}" (a column
    of the prompts), "regex: ...", "json", {"json": schema}, "latency: 2s", "cost: 0.01" (US dollars), each
    with "not " before it for its opposite; a function of an answer and of the prompt's other columns; a
    scorer of autoevals. Raises ConfigError, before anything is paid for."""
    if given is None:
        return {}
    if not kept:
        raise ConfigError("Assertions need the answers.", hint="Leave keep_answers=False out.")
    if isinstance(given, Mapping) and not set(given) <= set(_KINDS):
        return {str(name): _check(one, prompts) for name, one in given.items()}
    listed = [given] if isinstance(given, (str, Mapping)) or callable(given) else list(given)
    found: dict[str, Check] = {}
    for one in listed:
        name = _name(one)
        several = sum(n.partition("#")[0] == name for n in found)
        found[f"{name}#{several + 1}" if several else name] = _check(one, prompts)
    return found


def _name(one: Any) -> str:
    if isinstance(one, Mapping):
        return str(next(iter(one), ""))
    told = one.partition(":")[0] if isinstance(one, str) else getattr(one, "__name__", type(one).__name__)
    return re.sub(r"\W+", "_", str(told)).strip("_") or "check"


def _check(one: Any, prompts: Sequence[Prompt]) -> Check:
    if callable(one):
        return scorer(one)
    if isinstance(one, Mapping) and len(one) == 1:
        (kind, told), negative = next(iter(one.items())), False
    elif isinstance(one, str):
        kind, _, told = one.partition(":")
        kind, negative, told = (
            kind.strip().removeprefix("not ").strip(),
            kind.startswith("not "),
            told.strip(),
        )
    else:
        raise ConfigError(f"Not an assertion: {one!r}.", hint='asserts=["contains: Paris", "latency: 2s"]')
    if kind not in _KINDS:
        raise ConfigError(f"No assertion is called {kind!r}.", hint=did_you_mean(kind, _KINDS))
    for prompt in prompts:
        _KINDS[kind](_filled(told, prompt.more, kind))  # raises for what is wrong with it
    check = _KINDS[kind]

    def found(answer: str, more: Mapping[str, Any], row: Mapping[str, Any]) -> float | None:
        value = check(_filled(told, more, kind))(answer, row)
        return None if value is None else float(value != negative)

    return found


def _filled(told: Any, more: Mapping[str, Any], kind: str) -> Any:
    """A text with the columns of a prompt's row in it."""
    if not isinstance(told, str):
        return told

    def value(found: re.Match[str]) -> str:
        text = str(more.get(found[1], found[0]))
        return re.escape(text) if kind == "regex" and found[1] in more else text

    return re.sub(r"\{(\w+)\}", value, told)


def _contains(text: Any) -> Callable[[str, Mapping[str, Any]], bool | None]:
    if not isinstance(text, str) or not text:
        raise ConfigError("contains needs a text.", hint='"contains: Paris"')
    return lambda answer, _: text in answer


def _regex(pattern: Any) -> Callable[[str, Mapping[str, Any]], bool | None]:
    try:
        found = re.compile(pattern)
    except (re.error, TypeError) as error:
        raise ConfigError(f"Not a pattern: {pattern!r} ({error}).", hint=r'"regex: ^\d+$"') from None
    return lambda answer, _: found.search(answer) is not None


def _json(schema: Any) -> Callable[[str, Mapping[str, Any]], bool | None]:
    import jsonschema

    schema = schema or {}
    if not isinstance(schema, Mapping):
        raise ConfigError("json takes a schema.", hint='"json", or {"json": {"type": "object"}}')
    validator = jsonschema.Draft202012Validator(schema)

    def check(answer: str, _row: Mapping[str, Any]) -> bool:
        fenced = _FENCE.match(answer)
        try:
            return bool(validator.is_valid(json.loads(fenced[1] if fenced else answer)))
        except (ValueError, RecursionError):
            return False

    return check


def _within(
    column: str, of: Callable[[Any], float]
) -> Callable[[Any], Callable[[str, Mapping[str, Any]], bool | None]]:
    def made(limit: Any) -> Callable[[str, Mapping[str, Any]], bool | None]:
        most = of(limit)

        def check(_answer: str, row: Mapping[str, Any]) -> bool | None:
            value = row.get(column)
            return None if value is None or value != value else bool(value <= most)  # noqa: PLR0124

        return check

    return made


def _milliseconds(limit: Any) -> float:
    found = re.fullmatch(r"([\d.]+)\s*(ms|s|m|)", str(limit).strip())
    return _positive(found[1], "latency: 2s") * _TIMES[found[2]] if found else _positive(None, "latency: 2s")


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


_KINDS: dict[str, Callable[[Any], Callable[[str, Mapping[str, Any]], bool | None]]] = {
    "contains": _contains,
    "regex": _regex,
    "json": _json,
    "latency": _within("e2e_ms", _milliseconds),
    "cost": _within("cost_usd", _dollars),
}


def scorer(function: Any) -> Check:
    """A function of (answer, the prompt's other columns), or a scorer of autoevals, which is given output,
    expected (the column expected, answer, target or reference) and input."""
    if isinstance(function, type):
        function = function()
    if not hasattr(function, "eval_async"):
        return lambda answer, more, _row: worth(function(answer, more))

    def asked(answer: str, more: Mapping[str, Any], row: Mapping[str, Any]) -> float | None:
        expected = next((more[k] for k in ("expected", "answer", "target", "reference") if k in more), None)
        return worth(function(output=answer, expected=expected, input=row.get("asked")))

    return asked


def worth(found: Any) -> float | None:
    """What a function says an answer is worth: a number, or something with a score. Raises ValueError for
    none."""
    found = found.get("score") if isinstance(found, Mapping) else getattr(found, "score", found)
    if found is None:
        return None
    value = float(found)
    if not math.isfinite(value):
        raise ValueError(f"{value} is no score")
    return value


def checked(place: Path, df: pd.DataFrame, checks: Mapping[str, Check]) -> None:
    """Adds a column for each check, and `passed`, to a run's frame, and keeps them. Where a check fails by
    itself its value is missing, and a warning says why: the answers have been paid for."""
    if not checks:
        return
    wrong = ""
    with Store(place) as store:
        texts = {k: text for k, (text, _) in store.answers().items()}
        asked = {p.id: p for p in load((store.get("job") or {}).get("prompts", []))}
        found: dict[str, dict[str, float | None]] = {}
        for row in df.to_dict("records"):
            prompt = asked.get(str(row["prompt_id"]).partition("#")[0])
            more = prompt.more if prompt else {}
            about: dict[str, Any] = {
                **cast(dict[str, Any], row),
                "asked": prompt.turns[-1][-1].text if prompt else "",
            }
            values = found.setdefault(str(row["request_id"]), {})
            for name, check in checks.items():
                try:
                    ok = row["ok"] is True or bool(row["ok"] == True)  # noqa: E712 - it may be NA
                    values[name] = check(texts.get(row["request_id"], ""), more, about) if ok else 0.0
                except Exception as exc:  # noqa: BLE001 - a user's function
                    values[name], wrong = None, f"{type(exc).__name__}: {exc}"
        store.check(found)
    joined(df, found)
    if wrong:
        warnings.warn(f"Some assertions could not be checked: {wrong[:200]}.", stacklevel=3)


def grid(
    df: pd.DataFrame, rows: str | Sequence[str] = "prompt_id", columns: str | Sequence[str] = "name"
) -> pd.DataFrame:
    """Passes of requests, cases by models: "3/4" is three of four, "" none asked. rows, columns: by which
    columns of the frame; with `bench.cases`, rows="case", columns=["name", "template"].

    Raises ConfigError for a frame without assertions or scores."""
    import pandas as pd

    if "passed" not in df and "score" not in df:
        raise ConfigError("Nothing was asserted.", hint='bench.run(..., asserts=["contains: Paris"])')
    used = df[df["phase"].astype("string") == "measure"].drop_duplicates(
        ["run_id", "request_id"], keep="last"
    )
    good = used["passed"] if "passed" in used else (used["score"] >= PASSES).where(used["score"].notna())
    keys = [[k] if isinstance(k, str) else list(k) for k in (rows, columns)]
    missing = next((k for k in (*keys[0], *keys[1]) if k not in used), None)
    if missing is not None:
        raise ConfigError(f"The frame has no column {missing!r}.", hint=did_you_mean(missing, used.columns))
    marks = pd.DataFrame({k: used[k].astype(str) for k in (*keys[0], *keys[1])})
    marks["good"], marks["n"] = good.fillna(False).astype(int), 1
    sums = marks.groupby([*keys[0], *keys[1]], sort=False)[["good", "n"]].sum()
    told = sums["good"].astype(str) + "/" + sums["n"].astype(str)
    return told.unstack(keys[1], fill_value="")


def cases(templates: Mapping[str, str] | Sequence[str], table: pd.DataFrame) -> pd.DataFrame:
    """A table of prompts: every template filled with every row, for `bench.run`. templates: texts with
    {column} in them, or a mapping of names. Columns: prompt, template (its name or number), case (the row's
    index), and the table's own. Raises ConfigError for a column that the table has not."""
    import pandas as pd

    named = (
        dict(templates) if isinstance(templates, Mapping) else {str(i): t for i, t in enumerate(templates)}
    )
    rows = []
    for case, row in zip(table.index, table.to_dict("records"), strict=True):
        for name, text in named.items():
            odd = next((f for f in re.findall(r"\{(\w+)\}", text) if f not in row), None)
            if odd is not None:
                raise ConfigError(f"The table has no column {odd!r}.", hint=did_you_mean(odd, map(str, row)))
            told = re.sub(r"\{(\w+)\}", lambda found, row=row: str(row[found[1]]), text)  # type: ignore[misc]
            rows.append({**row, "prompt": told, "template": name, "case": str(case)})
    return pd.DataFrame(rows)
