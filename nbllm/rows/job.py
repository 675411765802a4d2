"""The settings of a run over a table: template, model and options, checked before anything is sent."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from ..core.calls import Secret
from ..core.errors import ConfigError, did_you_mean, similar_names
from ..core.options import CALL_OPTIONS
from ..core.schema import Shape
from ..core.template import RowTemplate

if TYPE_CHECKING:
    import pandas as pd

STATUS = ("llm_status", "llm_error", "llm_cost")
# Options of a single call that are not supported for the rows of a table.
_UNSUPPORTED = {
    "budget", "schema", "tools", "tool_choice", "max_steps", "approve", "compact", "keep", "hedge", "mode",
}  # fmt: skip
OPTIONS = tuple(name for name in CALL_OPTIONS if name not in _UNSUPPORTED)
# How to convert other objects to a table, by an attribute that they have.
_CONVERSIONS = {
    "to_pandas": "Give nbllm.map its to_pandas().",
    "toPandas": "Give nbllm.map its toPandas().",
    "compute": "Give nbllm.map its compute().",
    "collect": "Give nbllm.map its collect().to_pandas().",
    "to_frame": 'Give nbllm.map its to_frame("text").',
    "__iter__": 'Create one: pandas.DataFrame({"text": ...}).',
}
_NOT_HASHED = {"api_key", "timeout", "retries", "cache"}  # a change of these does not change the question


@dataclass(frozen=True, slots=True)
class Job:
    """The template for the rows of a table, and how it is sent. into: the column of the answer; with a schema
    of several fields, the prefix of their columns. dedupe: whether equal rows are sent once."""

    template: RowTemplate
    model: str
    shape: Shape | None = None
    into: str | None = None
    dedupe: bool = True
    options: Mapping[str, Any] = field(default_factory=dict, repr=False)

    @classmethod
    def of(
        cls,
        template: str,
        model: str,
        schema: Any,
        into: str | None,
        options: Mapping[str, Any],
        *,
        dedupe: bool = True,
    ) -> Job:
        """Raises ConfigError for an invalid schema, and for an option that rows do not have."""
        for name in options:
            if name in _UNSUPPORTED:
                raise ConfigError(f"{name}= cannot be used with the rows of a table.", hint="Leave it out.")
            if name not in OPTIONS:
                raise ConfigError(f"There is no option {name!r}.", hint=did_you_mean(name, OPTIONS))
        if not isinstance(template, str):
            raise ConfigError(
                f"A template is text, not {type(template).__name__}.", hint="As in 'Classify {text}'."
            )
        if into is not None and not (isinstance(into, str) and into):
            raise ConfigError(f"into= is the name of a column, not {into!r}.", hint='As in into="label".')
        key = options.get("api_key")
        used = {n: v for n, v in options.items() if v is not None}
        if isinstance(key, str):
            used["api_key"] = Secret(key)
        shape = None if schema is None else Shape.of(schema)
        return cls(RowTemplate.of(template), model, shape, into, dedupe, used)

    def to_record(self) -> dict[str, Any]:
        """The form that is stored on disk: without the key; of options without a JSON form, only names."""
        stored = {n: v for n, v in self.options.items() if n != "api_key" and _is_json(v)}
        lost = sorted(set(self.options) - set(stored) - _NOT_HASHED)
        return {
            "template": self.template.text,
            "model": self.model,
            "schema": None if self.shape is None else dict(self.shape.schema),
            "into": self.into,
            "dedupe": self.dedupe,
            "options": stored,
            "lost": lost,
        }

    @classmethod
    def from_record(cls, record: Mapping[str, Any], options: Mapping[str, Any]) -> Job:
        """The job of a run on disk, with `options` that override stored ones. Raises ConfigError where one is
        missing that could not be stored."""
        lost = [name for name in record.get("lost", ()) if name not in options]
        if lost:
            raise ConfigError(
                f"The run was started with {lost[0]}=, which cannot be stored on disk.",
                hint=f"Pass it again: resume(..., {lost[0]}=...).",
            )
        return cls.of(
            record["template"],
            record["model"],
            record["schema"],
            record["into"],
            {**record["options"], **options},
            dedupe=record["dedupe"],
        )

    @property
    def columns(self) -> dict[str, Any]:
        """The columns of the answer: field name (None: the complete answer) by column name."""
        fields = (
            list(self.shape.schema.get("properties", ())) if self.shape and not self.shape.is_wrapped else []
        )
        if not fields:
            return {self.into or "answer": None}
        if len(fields) == 1 and self.into:
            return {self.into: fields[0]}
        return {f"{self.into}_{name}" if self.into else name: name for name in fields}

    def for_table(self, df: Any) -> Job:
        """The job for the columns of a table. Raises ConfigError where the template does not fit it."""
        import pandas as pd

        if not isinstance(df, pd.DataFrame):
            hint = next((h for n, h in _CONVERSIONS.items() if hasattr(df, n)), "nbllm.map(df, ...)")
            kind = f"{type(df).__module__.partition('.')[0]}.{type(df).__qualname__}"
            message = f"Rows come from a pandas DataFrame, not {kind.removeprefix('builtins.')}."
            raise ConfigError(message, hint=hint)
        names = [str(c) for c in df.columns]
        job = replace(self, template=RowTemplate.of(self.template.text, names))
        if not job.template.columns:
            shown = ", ".join(f"{{{n}}}" for n in names[:8]) or "none"
            raise ConfigError(
                "The template uses no column: every row would have the same prompt.",
                hint=f"Write a column in braces, as in 'Classify this: {{text}}'. Columns: {shown}.",
            )
        for name in job.template.columns:
            if names.count(name) != 1:
                _raise_missing_column(name, names, job.template)
        if duplicates := [c for c in (*self.columns, *STATUS) if names.count(c) > 1]:
            raise ConfigError(
                f"The table has several columns called {duplicates[0]}, which the answer would replace.",
                hint="Rename all but one, or choose another name with into=.",
            )
        if needed := [c for c in self.columns if c in job.template.columns or c in STATUS]:
            raise ConfigError(
                f"The answer would replace the column {needed[0]}, which is needed.",
                hint="Choose another name with into=.",
            )
        return job

    def questions(self, df: pd.DataFrame) -> Iterator[tuple[str, str]]:
        """(id, prompt) of each row, in order; "" as the prompt where a value is missing."""
        names, all_names = self.template.columns, [str(c) for c in df.columns]
        used = df.iloc[:, [all_names.index(n) for n in names]]
        missing = used.isna().any(axis=1).tolist()
        prefix = self._hashed_options()
        for number, values in enumerate(zip(*(column.tolist() for _, column in used.items()), strict=True)):
            row = dict(zip(names, values, strict=True))
            prompt = "" if missing[number] else self._prompt(number, row)
            digest = hashlib.sha256(prefix + prompt.encode()).hexdigest()[:32]
            yield (digest if self.dedupe else f"{digest}-{number}"), prompt

    def _prompt(self, number: int, row: Mapping[str, Any]) -> str:
        try:
            return replace_surrogates(self.template.fill(row))
        except ConfigError as error:
            message = f"Row {number + 1}: {error.message}"
            raise ConfigError(message, hint="Correct its value, or leave the row out.") from None

    def _hashed_options(self) -> bytes:
        options = {n: v for n, v in self.options.items() if n not in _NOT_HASHED}
        schema = None if self.shape is None else self.shape.schema
        return json.dumps([self.model, schema, options], sort_keys=True, default=repr).encode() + b"\0"


def _raise_missing_column(name: str, names: list[str], template: RowTemplate) -> None:
    where = template.locate(name)
    if name in names:
        raise ConfigError(
            f"{where}: the table has several columns called {name}.", hint="Rename all but one."
        )
    near = similar_names(name, names, cutoff=0.5)
    hint = f"Did you mean {{{near[0]}}}? " if near else ""
    shown = ", ".join(names[:12]) or "none"
    raise ConfigError(f"{where}: the table has no column {name!r}.", hint=f"{hint}Columns: {shown}.")


def replace_surrogates(text: str) -> str:
    """A text without lone surrogates, which cannot be encoded in UTF-8 for a file or a request."""
    return text.encode("utf-8", "replace").decode()


def _is_json(value: Any) -> bool:
    try:
        return bool(json.loads(json.dumps(value)) == value)
    except (TypeError, ValueError, RecursionError):
        return False
