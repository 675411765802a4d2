"""Answers that have a shape: from what a person may mean by a schema, to a value that was checked against it.

A shape is a JSON schema (checked by jsonschema) or a type that pydantic understands: its models, dataclasses, TypedDicts,
list[...] of them. Where a provider has a mode for it, the schema goes there; elsewhere the prompt asks for JSON in words. Both are
checked here, and a mismatch comes back in words that a model can mend.
"""

from __future__ import annotations

import dataclasses
import itertools
import json
import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from .errors import ConfigError, NbllmError
from .events import Response

if TYPE_CHECKING:
    import pandas as pd

_FENCE = re.compile(r"```(?:json|JSON)?[ \t]*\n(.*?)\n?```", re.DOTALL)
_MOST = 8  # mismatches that a model is told at once
_DEEP = "the answer is nested too deeply"


class Mismatch(NbllmError):
    """An answer does not have the shape that was asked for. `problems` says where, one line each."""

    def __init__(self, problems: list[str]) -> None:
        self.problems = problems
        more = f" and {len(problems) - 3} more" if len(problems) > 3 else ""
        super().__init__(f"The answer does not fit the schema: {'; '.join(problems[:3])}{more}.",
                         hint="The answer as it came is in the error's .partial (and in _llm).")


class Truncated(NbllmError):
    """A structured answer was cut off, so it is no whole value."""

    def __init__(self) -> None:
        super().__init__("The structured answer was cut off at the limit of tokens, so it is not used.",
                         hint="Allow more with max_tokens, or ask for less. What came is in the error's .partial (and in _llm).")


@dataclasses.dataclass(frozen=True, slots=True)
class Shape:
    """What an answer must look like: `schema` for the provider, and a pydantic TypeAdapter where a type was given."""

    schema: Mapping[str, Any]
    adapter: Any = None

    @classmethod
    def of(cls, given: Any) -> Shape:
        """From a JSON schema, or a type. Raises ConfigError for anything else."""
        if isinstance(given, Shape):
            return given
        if isinstance(given, Mapping):
            return cls(given)
        if not (isinstance(given, type) or hasattr(given, "__origin__")):
            raise ConfigError(f"Not a schema: {type(given).__name__}.", hint="Pass a JSON schema as a dict, a pydantic model, a dataclass, or list[...] of one.")
        from pydantic import PydanticUserError, TypeAdapter

        try:
            adapter: Any = TypeAdapter(given)
            made = adapter.json_schema()
        except (PydanticUserError, TypeError, NameError) as exc:
            raise ConfigError(f"No schema can be made of {getattr(given, '__name__', given)!r}: {str(exc).splitlines()[0]}.",
                              hint="Annotate its fields with types that have a JSON form.") from None
        return cls(_rooted(made), adapter)

    @property
    def wrapped(self) -> bool:
        """Whether the value stands under `items`: providers want an object at the root."""
        return self.adapter is not None and bool(self.schema.get("x-nbllm-items"))

    def check(self, text: str) -> Any:
        """The value in an answer's text, validated. Raises Mismatch."""
        value = _decoded(text)
        if self.adapter is None:
            self._check_schema(value)
            return value
        from pydantic import ValidationError

        try:
            return self.adapter.validate_python(value.get("items", value) if self.wrapped and isinstance(value, dict) else value)
        except ValidationError as exc:
            raise Mismatch([f"{_place(e['loc'])}: {e['msg']}" for e in exc.errors(include_url=False, include_context=False)[:_MOST]]) from None
        except RecursionError:
            raise Mismatch([_DEEP]) from None

    def _check_schema(self, value: Any) -> None:
        import jsonschema

        try:
            checker = jsonschema.validators.validator_for(self.schema, default=jsonschema.Draft202012Validator)
            found = itertools.islice(checker(self.schema).iter_errors(value), _MOST)
            problems = [f"{_place(e.absolute_path)}: {e.message[:200]}" for e in found]
        except RecursionError:
            problems = [_DEEP]
        except jsonschema.SchemaError as exc:
            raise ConfigError(f"The schema itself is not valid: {exc.message}.", hint="See json-schema.org.") from None
        if problems:
            raise Mismatch(problems)

    def instructions(self) -> str:
        """What a prompt must say where the provider has no mode for schemas."""
        return ("Answer with one JSON value and nothing else: no explanation, no code fence. It must be valid against this JSON schema:\n"
                + json.dumps(self.provider_schema, ensure_ascii=False))

    @property
    def provider_schema(self) -> dict[str, Any]:
        """The schema as a provider is given it."""
        return {k: v for k, v in self.schema.items() if k != "x-nbllm-items"}


def _rooted(schema: dict[str, Any]) -> dict[str, Any]:
    """With an object at the root, as providers want it."""
    if schema.get("type") == "object" or "$ref" in schema or "properties" in schema:
        return schema
    definitions = schema.pop("$defs", None)
    made = {"type": "object", "properties": {"items": schema}, "required": ["items"], "additionalProperties": False, "x-nbllm-items": True}
    return made | ({"$defs": definitions} if definitions else {})


def _decoded(text: str) -> Any:
    """The JSON value in a text: all of it, or what stands in its one fence, or between its first and last bracket."""
    fenced = _FENCE.findall(text)
    starts, end = [at for at in map(text.find, "[{") if at >= 0], max(map(text.rfind, "]}")) + 1
    for candidate in (text, fenced[0] if len(fenced) == 1 else "", text[min(starts):end] if starts else ""):
        if candidate.strip():
            try:
                return json.loads(candidate)
            except (ValueError, RecursionError):
                continue
    raise Mismatch(["the answer is no JSON value"])


def _place(path: Any) -> str:
    return "".join(f"[{p}]" if isinstance(p, int) else f".{p}" for p in path).lstrip(".") or "the answer"


def value_of(response: Response, shape: Shape) -> Any:
    """The checked value in an answer. Raises Truncated or Mismatch, with the answer as `.partial`."""
    try:
        if response.finish_reason == "length":
            raise Truncated
        return shape.check(response.text)
    except (Truncated, Mismatch) as error:
        error.partial = response
        raise


def repair(problems: list[str]) -> str:
    """What a model is told about an answer that does not fit."""
    return ("Your answer does not fit the schema:\n" + "\n".join(f"- {p}" for p in problems)
            + "\nSend the whole JSON value again, corrected, and nothing else.")


def frame(value: Any) -> pd.DataFrame:
    """A value as a DataFrame: a list of records, an object that holds one list of them, or one record; columns in pandas' nullable
    dtypes, dates as such where a whole column reads as dates."""
    import pandas as pd

    plain = _plain(value)
    if isinstance(plain, dict):
        lists = [v for v in plain.values() if isinstance(v, list)]
        plain = lists[0] if len(plain) == 1 and lists else [plain]
    rows = plain if isinstance(plain, list) else [plain]
    made = pd.DataFrame([r if isinstance(r, dict) else {"value": r} for r in rows]).convert_dtypes()
    for name in made.columns:
        known = made[name].dropna()
        if len(known) and known.map(lambda v: isinstance(v, str) and bool(re.fullmatch(r"\d{4}-\d\d-\d\d(?:[T ][\d:.]+(?:Z|[+-]\d\d:?\d\d)?)?", v))).all():
            made[name] = pd.to_datetime(made[name], errors="coerce", format="ISO8601")
    return made


def _plain(value: Any) -> Any:
    if hasattr(value, "model_dump"):
        return value.model_dump(mode="json")
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return _plain(dataclasses.asdict(value))
    if isinstance(value, (list, tuple)):
        return [_plain(v) for v in value]
    return {k: _plain(v) for k, v in value.items()} if isinstance(value, Mapping) else value
