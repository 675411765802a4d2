"""What is asked of a table: the template, the model, the options. Checked before anything is sent."""

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
# Options of a call that make no sense where thousands are made by nobody's hand.
_REFUSED = {
    "budget", "schema", "tools", "tool_choice", "max_steps", "approve", "compact", "keep", "hedge", "mode",
}  # fmt: skip
OPTIONS = tuple(name for name in CALL_OPTIONS if name not in _REFUSED)
# How to make a table of what is none, by what it has.
_INTO_FRAMES = {
    "to_pandas": "Give nbllm.map its to_pandas().",
    "toPandas": "Give nbllm.map its toPandas().",
    "compute": "Give nbllm.map its compute().",
    "collect": "Give nbllm.map its collect().to_pandas().",
    "to_frame": 'Give nbllm.map its to_frame("text").',
    "__iter__": 'Make one of it: pandas.DataFrame({"text": ...}).',
}
_NOT_SENT = {"api_key", "timeout", "retries", "cache"}  # another one is no other question


@dataclass(frozen=True, slots=True)
class Job:
    """A template for the rows of a table and how it is sent. into: the column of the answer; with a schema of
    several fields, what their names begin with. dedupe: equal rows are asked once."""

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
        """Raises ConfigError for a schema that is none, and for an option that rows do not have."""
        for name in options:
            if name in _REFUSED:
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
        chosen = {n: v for n, v in options.items() if v is not None}
        if isinstance(key, str):
            chosen["api_key"] = Secret(key)
        shape = None if schema is None else Shape.of(schema)
        return cls(RowTemplate.of(template), model, shape, into, dedupe, chosen)

    def about(self) -> dict[str, Any]:
        """What is kept of it on disk. Never the key; options without a JSON form are named only."""
        kept = {n: v for n, v in self.options.items() if n != "api_key" and _is_json(v)}
        lost = sorted(set(self.options) - set(kept) - _NOT_SENT)
        return {
            "template": self.template.text,
            "model": self.model,
            "schema": None if self.shape is None else dict(self.shape.schema),
            "into": self.into,
            "dedupe": self.dedupe,
            "options": kept,
            "lost": lost,
        }

    @classmethod
    def kept(cls, about: Mapping[str, Any], given: Mapping[str, Any]) -> Job:
        """The job of a run on disk, with options that are given anew. Raises ConfigError where one is
        missing."""
        lost = [name for name in about.get("lost", ()) if name not in given]
        if lost:
            raise ConfigError(
                f"The run was started with {lost[0]}=, which cannot be kept on disk.",
                hint=f"Give it again: resume(..., {lost[0]}=...).",
            )
        options = {**about["options"], **given}
        return cls.of(
            about["template"], about["model"], about["schema"], about["into"], options, dedupe=about["dedupe"]
        )

    @property
    def columns(self) -> dict[str, Any]:
        """The columns of the answer: name of the field (None: all of the answer) by name of the column."""
        fields = (
            list(self.shape.schema.get("properties", ())) if self.shape and not self.shape.is_wrapped else []
        )
        if not fields:
            return {self.into or "answer": None}
        if len(fields) == 1 and self.into:
            return {self.into: fields[0]}
        return {f"{self.into}_{name}" if self.into else name: name for name in fields}

    def fitting(self, df: Any) -> Job:
        """The job for the columns of this table. Raises ConfigError where the template does not fit it."""
        import pandas as pd

        if not isinstance(df, pd.DataFrame):
            hint = next((h for n, h in _INTO_FRAMES.items() if hasattr(df, n)), "nbllm.map(df, ...)")
            kind = f"{type(df).__module__.partition('.')[0]}.{type(df).__qualname__}"
            words = f"Rows come from a DataFrame of pandas, not {kind.removeprefix('builtins.')}."
            raise ConfigError(words, hint=hint)
        names = [str(c) for c in df.columns]
        job = replace(self, template=RowTemplate.of(self.template.text, names))
        if not job.template.columns:
            shown = ", ".join(f"{{{n}}}" for n in names[:8]) or "none"
            raise ConfigError(
                "The template takes no column: every row would be asked the same.",
                hint=f"Write a column in braces, as in 'Classify this: {{text}}'. Columns: {shown}.",
            )
        for name in job.template.columns:
            if names.count(name) != 1:
                _refuse(name, names, job.template)
        if twice := [c for c in (*self.columns, *STATUS) if names.count(c) > 1]:
            raise ConfigError(
                f"The table has several columns called {twice[0]}, which the answer would replace.",
                hint="Rename all but one, or choose another name with into=.",
            )
        if taken := [c for c in self.columns if c in job.template.columns or c in STATUS]:
            raise ConfigError(
                f"The answer would replace the column {taken[0]}, which is needed.",
                hint="Choose another name with into=.",
            )
        return job

    def questions(self, df: pd.DataFrame) -> Iterator[tuple[str, str]]:
        """(id, prompt) of each row, in their order; "" as prompt where a value is missing."""
        names, there = self.template.columns, [str(c) for c in df.columns]
        used = df.iloc[:, [there.index(n) for n in names]]
        missing = used.isna().any(axis=1).tolist()
        about = self._hashed()
        for place, values in enumerate(zip(*(column.tolist() for _, column in used.items()), strict=True)):
            row = dict(zip(names, values, strict=True))
            prompt = "" if missing[place] else self._prompt(place, row)
            digest = hashlib.sha256(about + prompt.encode()).hexdigest()[:32]
            yield (digest if self.dedupe else f"{digest}-{place}"), prompt

    def _prompt(self, place: int, row: Mapping[str, Any]) -> str:
        try:
            return whole(self.template.fill(row))
        except ConfigError as error:
            words = f"Row {place + 1}: {error.message}"
            raise ConfigError(words, hint="Correct its value, or leave the row out.") from None

    def _hashed(self) -> bytes:
        sent = {n: v for n, v in self.options.items() if n not in _NOT_SENT}
        schema = None if self.shape is None else self.shape.schema
        return json.dumps([self.model, schema, sent], sort_keys=True, default=repr).encode() + b"\0"


def _refuse(name: str, names: list[str], template: RowTemplate) -> None:
    where = template.locate(name)
    if name in names:
        raise ConfigError(
            f"{where}: the table has several columns called {name}.", hint="Rename all but one."
        )
    near = similar_names(name, names, cutoff=0.5)
    hint = f"Did you mean {{{near[0]}}}? " if near else ""
    shown = ", ".join(names[:12]) or "none"
    raise ConfigError(f"{where}: the table has no column {name!r}.", hint=f"{hint}Columns: {shown}.")


def whole(text: str) -> str:
    """A text without halves of characters, which have no form in UTF-8: neither a file nor a call takes
    them."""
    return text.encode("utf-8", "replace").decode()


def _is_json(value: Any) -> bool:
    try:
        return bool(json.loads(json.dumps(value)) == value)
    except (TypeError, ValueError, RecursionError):
        return False
