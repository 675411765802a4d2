"""Parser of a cell magic's line: models, options and names.

    %%llm [NAME <<] [MODEL[,MODEL...]] { key=value | --key value | --key=value | --flag | --no-flag | -X value
    } [>> NAME]

Theory: one cursor moves over the line, and the text at the cursor decides what is read: `key=` or a dash
begins an option, everything else is a model. Three characters are special, and only at the start of a value:
a quote opens text up to the same quote (a doubled quote stands for itself), `{` and `[` open JSON up to the
matching bracket. Everything else is literal, also the backslash, so Windows paths, apostrophes and JSON need
no escapes: "C:\\dir\\" ends where it seems to end. A user who writes \\" gets an error, never a value that is
half right. Every error is one line that names a column, counted from 1.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

from ...core.errors import ConfigError, looks_like_key, similar_names
from ...core.options import ALIASES, Option
from .lexer import column_error, match_end, read_value
from .options import (
    BENCH_OPTIONS,
    OPTIONS,
    PLACEHOLDER,
    SHORT_OPTIONS,
    SUBCOMMAND_SYNONYMS,
    SUBCOMMANDS,
    InvalidValue,
    parse_value,
    placeholder_hint,
    safe_repr,
)

_EACH = re.compile(r"(?<!\S)(?:--)?each[=\s]")  # with it, the number in budget= is dollars
_ASSIGNMENT = re.compile(r"(?P<dash>-{0,2})(?P<name>[A-Za-z_][\w.\-]*)=")
_FLAG = re.compile(r"(?P<dash>--?)(?P<name>[A-Za-z][\w.\-]*)(?!\S)")
_NO_VALUE = re.compile(r"--?[A-Za-z]|(?:<<|>>)(?!\S)")
_ARROW = re.compile(r"\s+<<(?!\S)")
_SPACE = re.compile(r"\s*")


@dataclass(frozen=True, slots=True)
class CellLine:
    """The parsed line. `extra` is sent to the provider unchanged (x.name=value).

    `spans`: for each option (start, end) as columns from 0; for a repeated option those of the last one.
    """

    models: tuple[str, ...] = ()
    options: Mapping[str, Any] = field(default_factory=dict)
    extra: Mapping[str, Any] = field(default_factory=dict)
    out: str | None = None
    spans: Mapping[str, tuple[int, int]] = field(default_factory=dict)

    @contextmanager
    def locate_errors(self, option: str) -> Iterator[None]:
        """Adds the column of `option` to a ConfigError that is raised inside the block."""
        try:
            yield
        except ConfigError as error:
            raise column_error(self.spans[option][0], error.message.rstrip("."), error.hint) from None


def parse(line: str, dialects: Iterable[str] = ()) -> CellLine:
    """Parses a line; dialects as in `parse_value`. Raises ConfigError: one line with the column and, for an
    unknown name, the nearest known one."""
    reader = _LineReader(line, dialects)
    while reader.skip_spaces():
        if not reader.read_option():
            reader.read_word()
    return reader.result()


def parse_ask(line: str, dialects: Iterable[str] = ()) -> tuple[CellLine, str]:
    """(options, prompt) of `%llm ask`: options come first, the prompt begins at the first word that is
    none."""
    reader = _LineReader(line, dialects)
    while reader.skip_spaces() and reader.read_option(prose=True):
        pass
    return reader.result(), line[reader.position :].strip()


# Words that are neither option nor model: (pattern, what is wrong, what to do).
_NOT_A_MODEL = (
    (r"<<?|>>?|[-=]>", "{} in the wrong place", "Write NAME << first, or >> NAME last."),
    (r"\|+", "{} stands alone", "Write a|b without spaces around the |."),
    (r"=.*", "{} stands alone", "Write key=value without spaces around the =."),
    (r"-.*", "{} is no option and no model", "Write -t 0, --temperature 0 or temperature=0."),
    (
        rf"(?:{'|'.join(OPTIONS)}):.*",
        "{} is no model's name",
        "Options are written with = and without spaces, as temperature=0.",
    ),
    (r".*(?:<<|>>).*", "{} needs spaces", "Write NAME << first, or >> NAME last."),
    (
        r"[^\"']*\{[^{}\"'\s]+\}[^\"']*",
        "model= is not filled, so {} would be sent unchanged",
        "Write the variable's name without braces: model=NAME, where NAME holds the name of a model.",
    ),
    (
        r".*[\"'{}\[\]].*",
        "{} is no model's name",
        "Quotes and brackets are special only at the start of a value; double a quote inside quotes.",
    ),
)


class _LineReader:
    def __init__(self, line: str, dialects: Iterable[str]) -> None:
        self.line, self.position, self.dialects = line, 0, dialects
        self.options: dict[str, Any] = {}
        self.extra: dict[str, Any] = {}
        self.spans: dict[str, tuple[int, int]] = {}

    def result(self) -> CellLine:
        """The line as parsed."""
        models = tuple(self.options.pop("model", ()))
        return CellLine(models, self.options, self.extra, self.options.pop("out", None), self.spans)

    def skip_spaces(self) -> bool:
        """Moves to the next word; returns whether there is one."""
        self.position = match_end(_SPACE, self.line, self.position)
        return self.position < len(self.line)

    def read_option(self, *, prose: bool = False) -> bool:
        """Reads an option if there is one at the cursor. In prose, an unknown `name=` is an ordinary word."""
        if match := _ASSIGNMENT.match(self.line, self.position):
            if (
                prose
                and not match["dash"]
                and not match["name"].startswith("x.")
                and _canonical_name(match["name"]) not in OPTIONS
            ):
                return False
            self._read_value(
                _find_option(match["dash"], match["name"], self.position),
                self.position,
                match.end(),
            )
        elif match := _FLAG.match(self.line, self.position):
            self._read_flag(match["dash"], match["name"], match.end())
        else:
            return False
        return True

    def read_word(self) -> None:
        """Reads a model, `NAME <<` or `>> NAME`."""
        start, first = self.position, not self.spans
        text, self.position, quoted = read_value(self.line, start)
        if not quoted and text == ">>":
            self._read_target(start)
        elif not quoted and first and self._skip_arrow():
            self._set_option(OPTIONS["out"], text, start)
        elif not quoted and _canonical_name(text) in OPTIONS:
            raise column_error(
                start,
                f"{text} needs a value",
                f"Write --{text}, or {text}=true."
                if OPTIONS[_canonical_name(text)].kind == "bool"
                else f"Write {text}=value without spaces.",
            )
        else:
            for wrong, hint in (
                row[1:] for row in _NOT_A_MODEL if not quoted and re.fullmatch(row[0], text, re.DOTALL)
            ):
                raise column_error(start, wrong.format(safe_repr(text)), hint)
            self._set_option(OPTIONS["model"], text, start)

    def _skip_arrow(self) -> bool:
        """Skips a `<<` if it comes next; returns whether it did."""
        match = _ARROW.match(self.line, self.position)
        self.position = match.end() if match else self.position
        return match is not None

    def _read_target(self, start: int) -> None:
        if not self.skip_spaces():
            raise column_error(start, ">> needs a name")
        name, self.position, _ = read_value(self.line, self.position)
        self._set_option(OPTIONS["out"], name, start)
        if self.skip_spaces():
            raise column_error(start, ">> in the wrong place", "Write >> NAME last.")

    def _read_flag(self, dash: str, name: str, after: int) -> None:
        start, positive = self.position, OPTIONS.get(_canonical_name(name.removeprefix("no-")))
        if dash == "--" and name.startswith("no-") and positive is not None and positive.kind == "bool":
            self.position = after
            self._set_option(positive, "false", start)
            return
        option = _find_option(dash, name, start)
        if option.kind == "bool":
            self.position = after
            self._set_option(option, "true", start)
            return
        at = match_end(_SPACE, self.line, after)
        if at == len(self.line) or _NO_VALUE.match(self.line, at):
            raise column_error(start, f"{dash}{name} needs a value")
        self._read_value(option, start, at)

    def _read_value(self, option: Option, start: int, at: int) -> None:
        text, self.position, quoted = read_value(self.line, at)
        if option.kind == "extra":
            self._set_extra(option.name[2:].split("."), text if quoted else _json(text), start)
        else:
            self._set_option(option, text, start)

    def _set_option(self, option: Option, text: str, start: int) -> None:
        if option.name in self.options and not option.repeatable:
            hint = (
                "Quote a value that has spaces; several models are joined by commas. The prompt stands below "
                "this line."
                if option.name == "model"
                else "Give it once."
            )
            raise column_error(start, f"{option.name} is given twice", hint)
        try:
            in_dollars = option.kind == "budget" and _EACH.search(self.line)
            parsed = parse_value(
                replace(option, kind="dollars") if in_dollars else option, text, self.dialects
            )
        except InvalidValue as error:
            hint = placeholder_hint(option.name, text.strip("${} ")) if PLACEHOLDER.fullmatch(text) else ""
            raise column_error(start, f"{option.name} {error}", hint) from None
        self.options[option.name] = (
            [*self.options.get(option.name, ()), *parsed] if option.repeatable else parsed
        )
        self.spans[option.name] = (start, self.position)

    def _set_extra(self, path: list[str], value: Any, start: int) -> None:
        name = "x." + ".".join(path)
        if not all(path):
            raise column_error(start, f"{name} is no name")
        if isinstance(value, str) and looks_like_key(value, known_prefix=True):
            raise column_error(
                start,
                f"{name} looks like a key",
                "Keys never go into a request's body: key= takes the NAME of the variable that holds it.",
            )
        target = self.extra
        for step in path[:-1]:
            target = target.setdefault(step, {})
            if not isinstance(target, dict):
                raise column_error(start, f"{name} continues below a value that is not an object")
        if path[-1] in target:
            raise column_error(start, f"{name} is given twice")
        target[path[-1]] = value
        self.spans[name] = (start, self.position)


def _json(text: str) -> Any:
    """`text` parsed as JSON if it is JSON, otherwise unchanged. NaN and Infinity are not JSON."""
    try:
        return json.loads(text, parse_constant=_no_constant)
    except (ValueError, RecursionError):
        return text


def _no_constant(name: str) -> Any:
    raise ValueError(name)


def _canonical_name(name: str) -> str:
    name = name.replace("-", "_")
    return "timeout" if name == "timeout.total" else name


def _find_option(dash: str, name: str, start: int) -> Option:
    """The option of that name. Raises ConfigError, with the nearest name, for an unknown one."""
    if name.startswith("x."):
        return Option(name, "extra")
    found = SHORT_OPTIONS.get(name) if dash == "-" else OPTIONS.get(_canonical_name(name))
    if found is None:
        near = _nearest_option(_canonical_name(name))
        shown = f"unknown option {safe_repr('-' + name if dash == '-' else name)}"
        raise column_error(
            start,
            f"{shown}: did you mean {near}?" if near else shown,
            ""
            if near
            else f"Short options are one letter: {' '.join(f'-{s}' for s in SHORT_OPTIONS)}."
            if dash == "-"
            else "`%llm help` lists the options; x.name=value goes to the provider as it is.",
        )
    return found


def _nearest_option(name: str) -> str:
    if name in SHORT_OPTIONS and name not in ALIASES:
        return SHORT_OPTIONS[name].name
    near = similar_names(name.lower().removeprefix("no_"), [*OPTIONS, *ALIASES, *BENCH_OPTIONS])
    return ALIASES.get(near[0], near[0] + "= of %llm bench" * (near[0] in BENCH_OPTIONS)) if near else ""


def split_subcommand(line: str) -> tuple[str, str]:
    """(subcommand, rest) of a `%llm` line; "help" for an empty line. Raises ConfigError with the nearest
    name."""
    word, *rest = line.split(maxsplit=1) or [""]
    if word in ("", "?", "-h", "--help"):
        return "help", "".join(rest).strip()
    if word in SUBCOMMANDS:
        return word, "".join(rest).strip()
    is_sentence = len(line.split()) > 2  # the first word of a sentence is rarely a subcommand
    near = (
        []
        if re.search(r"^-|[=/]", word)
        else similar_names(
            word.lower(), [*SUBCOMMANDS, *SUBCOMMAND_SYNONYMS], cutoff=0.8 if is_sentence else 0.6
        )
    )
    raise ConfigError(
        f"No subcommand {safe_repr(word)}"
        + (f": did you mean %llm {SUBCOMMAND_SYNONYMS.get(near[0], near[0])}?" if near else "."),
        hint=("" if near or is_sentence else f"There are {', '.join(SUBCOMMANDS)}. ")
        + f"To ask: %llm ask {line.strip()[:60] if is_sentence else '...'}, or a %%llm cell.",
    )


# --- completion ---------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Completion:
    """The word at the cursor: `prefix` is its typed part, between `start` and `end`.

    kind: model, option (--name), value (of `option`), subcommand, or word (a model or an option).
    """

    start: int
    end: int
    kind: str
    prefix: str
    option: str = ""


def completion_at(line: str, cursor: int | None = None, *, subcommands: bool = False) -> Completion:
    """What is being typed at `cursor` (default: the end of the line)."""
    line = line[:cursor]
    start, before = _last_word(line)
    kind, prefix, option = _word_kind(line[start:], before, first=subcommands and not line[:start].strip())
    return Completion(len(line) - len(prefix), len(line), kind, prefix, option)


def _word_kind(typed: str, before: str, *, first: bool) -> tuple[str, str, str]:
    """(kind, prefix, option) of the word that is being typed; `before` is the word before it."""
    if first:
        return "subcommand", typed, ""
    if match := _ASSIGNMENT.match(typed):
        option = SHORT_OPTIONS.get(match["name"]) if match["dash"] == "-" else None
        return _value_kind(option.name if option else _canonical_name(match["name"]), typed[match.end() :])
    if before == ">>":
        return _value_kind("out", typed)
    if match := _FLAG.fullmatch(before):
        option = (
            SHORT_OPTIONS.get(match["name"])
            if match["dash"] == "-"
            else OPTIONS.get(_canonical_name(match["name"]))
        )
        if option is not None and option.kind != "bool":
            return _value_kind(option.name, typed)
    return ("option", typed, "") if typed.startswith("-") else ("word", typed.rpartition(",")[2], "")


def _value_kind(option: str, typed: str) -> tuple[str, str, str]:
    if option == "model":
        return "model", typed.lstrip("\"'").rpartition(",")[2], option
    many = option in OPTIONS and OPTIONS[option].kind == "names"
    return "value", typed.lstrip("\"'").rpartition("," if many else "\0")[2], option


def _last_word(line: str) -> tuple[int, str]:
    """(start of the last word of `line`, the word before it); an open quote or bracket belongs to its
    word."""
    at, before = match_end(_SPACE, line, 0), ""
    while at < len(line):
        head = match_end(_ASSIGNMENT, line, at)
        try:
            close = read_value(line, head)[1]
        except ConfigError:
            break
        if close == len(line):
            break
        at, before = match_end(_SPACE, line, close), line[at:close]
    return at, before
