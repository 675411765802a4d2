"""What a cell asks: the filled prompt, the models, and the options of the answers. Plain values."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from ..core.errors import ConfigError
from ..core.messages import Message, Part, Text
from ..core.schema import Shape
from ..core.values import DEFAULT_BUDGET
from ..store.budgets import Budget
from .syntax.lexer import column_error
from .syntax.options import OPTIONS
from .syntax.parser import CellLine

_MAX_COLUMNS = 24  # columns; more need a benchmark


@dataclass(frozen=True, slots=True)
class Contestant:
    """One model to ask: its column's label, its name, and the options of its call."""

    label: str
    model: str
    options: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Question:
    """A prompt for one or several models. options: those of the cell over the notebook's defaults. filled,
    attached: what was put into the prompt, for the footer. history: earlier messages of the conversation.
    budget: the limit for all answers together, set when the question is sent. unfilled: text that looks
    like a placeholder and was left as it is, for the footer."""

    parts: tuple[Part, ...]
    models: tuple[str, ...]
    options: Mapping[str, Any]
    extra: Mapping[str, Any]
    filled: tuple[str, ...] = ()
    attached: tuple[str, ...] = ()
    history: tuple[Message, ...] = ()
    budget: Budget | None = None
    unfilled: str = ""

    @property
    def shape(self) -> Shape | None:
        """The schema of the answer, if one was given."""
        return self.options.get("schema")

    @property
    def format(self) -> str:
        """How answers are shown: md, text, json, code, html."""
        return str(self.options.get("format", "md" if self.shape is None else "json"))

    @property
    def show_reasoning(self) -> bool | None:
        """Whether reasoning is shown expanded (True), not at all (False), or collapsed (None)."""
        return self.options.get("show_reasoning")

    @property
    def message(self) -> Message:
        """The user's message, as a conversation stores it."""
        return Message("user", self.parts)

    @property
    def text(self) -> str:
        """The text of the prompt."""
        return "".join(p.text for p in self.parts if isinstance(p, Text))

    @property
    def contestants(self) -> tuple[Contestant, ...]:
        """One entry for each answer: models, times temperatures, times runs. Raises ConfigError for too
        many."""
        return contestants(self.models, self.options)

    def with_changes(
        self, models: Sequence[str], options: Mapping[str, Any], extra: Mapping[str, Any]
    ) -> Question:
        """The same prompt with other models, options or extra parameters."""
        return replace(
            self,
            models=tuple(models) or self.models[:1],
            options={**self.options, **options},
            extra={**self.extra, **extra},
        )


def asks_several(models: Sequence[str], options: Mapping[str, Any]) -> bool:
    """Whether more than one answer is requested."""
    return len(models) > 1 or int(options.get("runs", 1)) > 1 or isinstance(options.get("temperature"), list)


def contestants(models: Sequence[str], options: Mapping[str, Any]) -> tuple[Contestant, ...]:
    """See Question.contestants."""
    temperatures = options.get("temperature")
    sweep = list(temperatures) if isinstance(temperatures, (list, tuple)) else [temperatures]
    runs = int(options.get("runs", 1))
    numbered = len(set(models)) < len(models) or runs > 1
    combinations = list(itertools.product(models, sweep, range(runs)))
    if len(combinations) > _MAX_COLUMNS:
        raise ConfigError(
            f"{len(combinations)} answers side by side are too many to read ({_MAX_COLUMNS} at most).",
            hint="nbllm.bench.run measures many.",
        )
    common = {k: v for k, v in options.items() if k not in ("runs", "temperature")}
    found: list[Contestant] = []
    for model, temperature, run in combinations:
        own = common if temperature is None else {**common, "temperature": temperature}
        own = {**own, "sample": run} if run else own
        label = f"{model} t={temperature:g}" if len(sweep) > 1 else model
        number = sum(label == c.label.partition(" #")[0] for c in found) + 1
        found.append(Contestant(f"{label} #{number}" if numbered else label, model, own))
    return tuple(found)


def value_budget(options: Mapping[str, Any]) -> int:
    """How many tokens a value in the prompt may take: budget= if it is a number of tokens, otherwise the
    default."""
    found = options.get("budget")
    return int(found) if isinstance(found, (int, float)) else DEFAULT_BUDGET


def spending_limits(options: Mapping[str, Any]) -> Mapping[str, float] | None:
    """The limits on spending, if budget= sets them."""
    found = options.get("budget")
    return found if isinstance(found, Mapping) else None


# --- options that exclude each other ---

# The options of a question that is sent; timeouts can be combined with everything.
_CALL_OPTIONS = tuple(n for n in OPTIONS if n not in ("save", "use") and not n.startswith("timeout"))
# (option or "several", the options that it excludes, why, what to do). An option=value excludes that value
# only.
_EXCLUSIONS: tuple[tuple[str, tuple[str, ...], str, str], ...] = (
    (
        "save",
        _CALL_OPTIONS,
        "save= stores the cell's text and sends nothing",
        "Give it where the fragment is used: %%llm use=NAME.",
    ),
    (
        "def",
        ("out", "bg", "dry_run", "quiet", "render", "format", "show_reasoning", "asserts"),
        "def= makes a function, which shows nothing and returns its answer",
        "Leave it out, and assign the result of the function to a variable.",
    ),
    (
        "bg",
        ("format=code",),
        "a cell in the background has ended before there is code to put below it",
        "Leave one of them out; %llm insert puts the code below later.",
    ),
    (
        "several",
        ("format=code",),
        "several answers cannot go into one cell below",
        "Ask one model, or leave format=code out.",
    ),
    (
        "each",
        (
            *(
                "chat",
                "bg",
                "tools",
                "def",
                "as",
                "dry_run",
                "attach",
                "max_steps",
                "approve",
                "compact",
            ),
            *("keep", "format", "render", "fill", "hedge", "mode=execute", "mode=query", "show_reasoning"),
            "asserts",
        ),
        "each= sends the prompt for every row of a table and returns columns",
        "Leave it out.",
    ),
    (
        "several",
        ("each",),
        "each= asks one model once for each row",
        "Ask one model; for another one run the cell again with out=NAME.",
    ),
    (
        "executor",
        ("mode=batch", "key"),
        "an executor sends row by row, with the keys of its workers",
        "Leave one of them out; set the key in the workers' environment.",
    ),
    ("hedge", ("tools", "keep"), "its actions would run twice", "Leave one of them out."),
    (
        "quiet",
        ("render", "show_reasoning"),
        "quiet= shows nothing",
        "Leave one of them out.",
    ),
)


def resolve_options(line: CellLine, options: Mapping[str, Any]) -> dict[str, Any]:
    """The options of a cell over the notebook's defaults, without the defaults that the cell's own options
    exclude.

    Raises ConfigError with the column if two of the cell's own options exclude each other, or one lacks an
    option that it needs.
    """
    own = {
        **line.options,
        **({"model": line.models} if line.models else {}),
        **({"out": line.out} if line.out else {}),
    }
    merged = {**options, **line.options}
    is_several = asks_several(line.models, merged)
    for name, others, why, hint in _EXCLUSIONS:
        for other in others:
            if not (is_several if name == "several" else _is_set(name, merged)) or not _is_set(
                other, {**merged, **own}
            ):
                continue
            key = other.partition("=")[0]
            if key in own and (name in own or name == "several"):
                raise column_error(
                    line.spans[key][0],
                    f"{other} cannot stand beside "
                    f"{_several_cause(line) if name == 'several' else f'{name}='}: {why}",
                    hint,
                )
            merged.pop(
                name if key in own and name in options else key, None
            )  # the cell's own option replaces the default
    for name, needed, why, hint in _REQUIREMENTS:
        alternatives = (needed,) if isinstance(needed, str) else needed
        key = name.partition("=")[0]
        if _is_set(name, merged) and not any(way in merged for way in alternatives):
            if key in own or name == "as":
                raise column_error(line.spans[key][0] if key in line.spans else 0, why, hint)
            del merged[key]
    tool_option = "tools" if "tools" in merged else "mode" if _is_set("mode=execute", merged) else ""
    if _is_set("bg", merged) and tool_option and merged.get("approve", "ask") == "ask":
        raise column_error(line.spans[tool_option][0] if tool_option in line.spans else 0, *_CANNOT_APPROVE)
    return merged


_ROW_OPTIONS = ("into", "run", "width", "executor", "mode=batch", "mode=now")
_TOOL_EXAMPLE = "For example tools=price, where price is a function of this notebook."
# (option, the option that it needs, what is wrong, what to do)
_REQUIREMENTS: tuple[tuple[str, str | tuple[str, ...], str, str], ...] = (
    ("as", "schema", "as= needs a schema", 'For example schema="[name, population int]" as=df'),
    ("strict", ("tools", "schema"), "strict= needs tools or a schema", _TOOL_EXAMPLE),
    ("max_steps", "tools", "max_steps= needs tools", _TOOL_EXAMPLE),
    ("tool_choice", "tools", "tool_choice= needs tools", _TOOL_EXAMPLE),
    ("compact", ("chat", "tools"), "compact= is for conversations", "Give chat=NAME, or leave it out."),
    *(
        (n, "each", f"{n.partition('=')[0]}= is for the rows of a table", "For example each=df, a DataFrame.")
        for n in _ROW_OPTIONS
    ),
    ("wait", "mode", "wait= is for rows in batches", "For example each=df mode=batch wait=false"),
    ("approve", ("tools", "mode"), "approve= needs tools", _TOOL_EXAMPLE),
)
_CANNOT_APPROVE = (
    "a cell in the background cannot ask before a tool runs",
    "Set approve=auto, or approve=never for tools that only read; or leave bg out.",
)


def _is_set(name: str, options: Mapping[str, Any]) -> bool:
    key, equals, value = name.partition("=")
    found = options.get(key)
    if equals:
        return found == value
    return found is not None and (found is not False or name == "wait")  # wait=false is a real choice


def _several_cause(line: CellLine) -> str:
    return (
        "several models"
        if len(line.models) > 1
        else "runs="
        if line.options.get("runs", 1) > 1
        else "temperature="
    )
