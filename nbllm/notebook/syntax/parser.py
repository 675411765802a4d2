"""The line of a cell magic, read into models, options and names.

    %%llm [NAME <<] [MODEL[,MODEL...]] { key=value | --key value | --key=value | --flag | --no-flag | -X value
    } [>> NAME]

Theory: one cursor goes over the line, and what stands at it says what is read: `key=` or a dash begins an
option, all else is a model. Three characters are special, and only where a value starts: a quote opens text
up to the same quote (which doubled means itself), `{` and `[` open JSON up to their match. Everything else is
literal, the backslash always. So Windows paths, apostrophes and JSON need no escapes: "C:\\dir\\" ends where
it seems to end. Whoever writes \\" all the same is told so, never half understood. Every error is one line
that names a column, counted from 1.
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
from .lexer import end, fail, value
from .options import (
    BENCH,
    LINES,
    OPTIONS,
    SHORT,
    SUBCOMMANDS,
    WHOLE,
    Unreadable,
    instead,
    read,
)

_EACH = re.compile(r"(?<!\S)(?:--)?each[=\s]")  # with it, the number in budget= is dollars
_ASSIGNED = re.compile(r"(?P<dash>-{0,2})(?P<name>[A-Za-z_][\w.\-]*)=")
_DASHED = re.compile(r"(?P<dash>--?)(?P<name>[A-Za-z][\w.\-]*)(?!\S)")
_NO_VALUE = re.compile(r"--?[A-Za-z]|(?:<<|>>)(?!\S)")
_ARROW = re.compile(r"\s+<<(?!\S)")
_SPACE = re.compile(r"\s*")


@dataclass(frozen=True, slots=True)
class CellLine:
    """A line as read. `extra` goes to the provider as it is (x.name=value).

    `spans`: where each option stood, (first column, column after it) from 0; the last one of an option given
    several times.
    """

    models: tuple[str, ...] = ()
    options: Mapping[str, Any] = field(default_factory=dict)
    extra: Mapping[str, Any] = field(default_factory=dict)
    out: str | None = None
    spans: Mapping[str, tuple[int, int]] = field(default_factory=dict)

    @contextmanager
    def at(self, option: str) -> Iterator[None]:
        """Says where an option stands that cannot be honoured."""
        try:
            yield
        except ConfigError as error:
            raise fail(self.spans[option][0], error.message.rstrip("."), error.hint) from None


def parse(line: str, dialects: Iterable[str] = ()) -> CellLine:
    """Reads a line; dialects: as `read` takes them. Raises ConfigError, one line with the column and the
    nearest name, for what is not in the grammar."""
    reader = _Reader(line, dialects)
    while reader.more():
        if not reader.option():
            reader.bare()
    return reader.line_read()


def ask(line: str, dialects: Iterable[str] = ()) -> tuple[CellLine, str]:
    """(options, prompt) of `%llm ask`: options come first, the prompt is all from the first word that is
    none."""
    reader = _Reader(line, dialects)
    while reader.more() and reader.option(prose=True):
        pass
    return reader.line_read(), line[reader.at :].strip()


# What a bare word that is no model may be: (its form, what is wrong, what to do).
_NO_MODEL = (
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
        "model is not filled, so {} would be sent as it is",
        "Write the variable's name without braces: model=NAME, where NAME holds the name of a model.",
    ),
    (
        r".*[\"'{}\[\]].*",
        "{} is no model's name",
        "Quotes and brackets mean something only where a value starts; a quote inside quotes is doubled.",
    ),
)


class _Reader:
    def __init__(self, line: str, dialects: Iterable[str]) -> None:
        self.line, self.at, self.dialects = line, 0, dialects
        self.options: dict[str, Any] = {}
        self.extra: dict[str, Any] = {}
        self.spans: dict[str, tuple[int, int]] = {}

    def line_read(self) -> CellLine:
        """What was read."""
        models = tuple(self.options.pop("model", ()))
        return CellLine(models, self.options, self.extra, self.options.pop("out", None), self.spans)

    def more(self) -> bool:
        """Goes to the next word; whether there is one."""
        self.at = end(_SPACE, self.line, self.at)
        return self.at < len(self.line)

    def option(self, *, prose: bool = False) -> bool:
        """Reads one option, if one stands here. In prose, an unknown `name=` is a word like others."""
        if match := _ASSIGNED.match(self.line, self.at):
            if (
                prose
                and not match["dash"]
                and not match["name"].startswith("x.")
                and _canonical(match["name"]) not in OPTIONS
            ):
                return False
            self._read(_find(match["dash"], match["name"], self.at), self.at, match.end())
        elif match := _DASHED.match(self.line, self.at):
            self._dashed(match["dash"], match["name"], match.end())
        else:
            return False
        return True

    def bare(self) -> None:
        """Reads a model, `NAME <<` or `>> NAME`."""
        start, first = self.at, not self.spans
        text, self.at, quoted = value(self.line, start)
        if not quoted and text == ">>":
            self._last(start)
        elif not quoted and first and self._arrow():
            self._set(OPTIONS["out"], text, start)
        elif not quoted and _canonical(text) in OPTIONS:
            raise fail(
                start,
                f"{text} needs a value",
                f"Write --{text}, or {text}=true."
                if OPTIONS[_canonical(text)].kind == "bool"
                else f"Write {text}=value without spaces.",
            )
        else:
            for wrong, hint in (
                row[1:] for row in _NO_MODEL if not quoted and re.fullmatch(row[0], text, re.DOTALL)
            ):
                raise fail(start, wrong.format(_brief(text)), hint)
            self._set(OPTIONS["model"], text, start)

    def _arrow(self) -> bool:
        """Goes past a `<<`, if one comes next."""
        match = _ARROW.match(self.line, self.at)
        self.at = match.end() if match else self.at
        return match is not None

    def _last(self, start: int) -> None:
        if not self.more():
            raise fail(start, ">> needs a name")
        name, self.at, _ = value(self.line, self.at)
        self._set(OPTIONS["out"], name, start)
        if self.more():
            raise fail(start, ">> in the wrong place", "Write >> NAME last.")

    def _dashed(self, dash: str, name: str, after: int) -> None:
        start, positive = self.at, OPTIONS.get(_canonical(name.removeprefix("no-")))
        if dash == "--" and name.startswith("no-") and positive is not None and positive.kind == "bool":
            self.at = after
            self._set(positive, "false", start)
            return
        option = _find(dash, name, start)
        if option.kind == "bool":
            self.at = after
            self._set(option, "true", start)
            return
        at = end(_SPACE, self.line, after)
        if at == len(self.line) or _NO_VALUE.match(self.line, at):
            raise fail(start, f"{dash}{name} needs a value")
        self._read(option, start, at)

    def _read(self, option: Option, start: int, at: int) -> None:
        text, self.at, quoted = value(self.line, at)
        if option.kind == "extra":
            self._extra(option.name[2:].split("."), text if quoted else _json(text), start)
        else:
            self._set(option, text, start)

    def _set(self, option: Option, text: str, start: int) -> None:
        if option.name in self.options and not option.many:
            hint = (
                "Quote a value that has spaces; several models are joined by commas. The prompt stands below "
                "this line."
                if option.name == "model"
                else "Give it once."
            )
            raise fail(start, f"{option.name} is given twice", hint)
        try:
            each = option.kind == "budget" and _EACH.search(self.line)
            meant = read(replace(option, kind="dollars") if each else option, text, self.dialects)
        except Unreadable as error:
            hint = instead(option.name, text.strip("${} ")) if WHOLE.fullmatch(text) else ""
            raise fail(start, f"{option.name} {error}", hint) from None
        self.options[option.name] = [*self.options.get(option.name, ()), *meant] if option.many else meant
        self.spans[option.name] = (start, self.at)

    def _extra(self, path: list[str], given: Any, start: int) -> None:
        name = "x." + ".".join(path)
        if not all(path):
            raise fail(start, f"{name} is no name")
        if isinstance(given, str) and looks_like_key(given, surely=True):
            raise fail(
                start,
                f"{name} looks like a key",
                "Keys never go into a request's body: key= takes the NAME of the variable that holds it.",
            )
        place = self.extra
        for step in path[:-1]:
            place = place.setdefault(step, {})
            if not isinstance(place, dict):
                raise fail(start, f"{name} goes through a value that is no object")
        if path[-1] in place:
            raise fail(start, f"{name} is given twice")
        place[path[-1]] = given
        self.spans[name] = (start, self.at)


def _json(text: str) -> Any:
    """`text` as JSON where it is JSON, else as it is. NaN and Infinity are none."""
    try:
        return json.loads(text, parse_constant=_no_constant)
    except (ValueError, RecursionError):
        return text


def _no_constant(name: str) -> Any:
    raise ValueError(name)


def _canonical(name: str) -> str:
    name = name.replace("-", "_")
    return "timeout" if name == "timeout.total" else name


def _brief(text: str) -> str:
    return "this" if looks_like_key(text) else repr(text if len(text) <= 40 else text[:37] + "...")


def _find(dash: str, name: str, start: int) -> Option:
    """The option that is meant. Raises ConfigError with the nearest name for an unknown one, or one that is
    not there yet."""
    if name.startswith("x."):
        return Option(name, "extra")
    found = SHORT.get(name) if dash == "-" else OPTIONS.get(_canonical(name))
    if found is None:
        near = _near(_canonical(name))
        shown = f"unknown option {_brief('-' + name if dash == '-' else name)}"
        raise fail(
            start,
            f"{shown}: did you mean {near}?" if near else shown,
            ""
            if near
            else f"Short options are one letter: {' '.join(f'-{s}' for s in SHORT)}."
            if dash == "-"
            else "`%llm help` lists the options; x.name=value goes to the provider as it is.",
        )
    return found


def _near(name: str) -> str:
    if name in SHORT and name not in ALIASES:
        return SHORT[name].name
    near = similar_names(name.lower().removeprefix("no_"), [*OPTIONS, *ALIASES, *BENCH])
    return ALIASES.get(near[0], near[0] + "= of %llm bench" * (near[0] in BENCH)) if near else ""


def subcommand(line: str) -> tuple[str, str]:
    """(subcommand, rest) of a `%llm` line; "help" for an empty one. Raises ConfigError with the nearest
    name."""
    word, *rest = line.split(maxsplit=1) or [""]
    if word in ("", "?", "-h", "--help"):
        return "help", "".join(rest).strip()
    if word in SUBCOMMANDS:
        return word, "".join(rest).strip()
    spoken = len(line.split()) > 2  # of which the first word is rarely a command's
    near = (
        []
        if re.search(r"^-|[=/]", word)
        else similar_names(word.lower(), [*SUBCOMMANDS, *LINES], least=0.8 if spoken else 0.6)
    )
    raise ConfigError(
        f"No subcommand {_brief(word)}"
        + (f": did you mean %llm {LINES.get(near[0], near[0])}?" if near else "."),
        hint=("" if near or spoken else f"There are {', '.join(SUBCOMMANDS)}. ")
        + f"To ask: %llm ask {line.strip()[:60] if spoken else '...'}, or a %%llm cell.",
    )


# --- completion ---------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Completion:
    """What stands at the cursor; `prefix`, between `start` and `end`, is what was typed of it.

    kind: model, option (--name), value (of `option`), subcommand, or word: a model or an option's name, still
    open which.
    """

    start: int
    end: int
    kind: str
    prefix: str
    option: str = ""


def complete(line: str, cursor: int | None = None, *, subcommands: bool = False) -> Completion:
    """What could be typed at `cursor` (the end of the line where it is None)."""
    line = line[:cursor]
    start, before = _last_word(line)
    kind, prefix, option = _standing(line[start:], before, first=subcommands and not line[:start].strip())
    return Completion(len(line) - len(prefix), len(line), kind, prefix, option)


def _standing(typed: str, before: str, *, first: bool) -> tuple[str, str, str]:
    """(kind, prefix, option) of the word that is being typed; `before` is the word before it."""
    if first:
        return "subcommand", typed, ""
    if match := _ASSIGNED.match(typed):
        option = SHORT.get(match["name"]) if match["dash"] == "-" else None
        return _of(option.name if option else _canonical(match["name"]), typed[match.end() :])
    if before == ">>":
        return _of("out", typed)
    if match := _DASHED.fullmatch(before):
        option = SHORT.get(match["name"]) if match["dash"] == "-" else OPTIONS.get(_canonical(match["name"]))
        if option is not None and option.kind != "bool":
            return _of(option.name, typed)
    return ("option", typed, "") if typed.startswith("-") else ("word", typed.rpartition(",")[2], "")


def _of(option: str, typed: str) -> tuple[str, str, str]:
    if option == "model":
        return "model", typed.lstrip("\"'").rpartition(",")[2], option
    many = option in OPTIONS and OPTIONS[option].kind == "names"
    return "value", typed.lstrip("\"'").rpartition("," if many else "\0")[2], option


def _last_word(line: str) -> tuple[int, str]:
    """(where the word at the end of `line` starts, the word before it); an open quote or bracket belongs to
    its word."""
    at, before = end(_SPACE, line, 0), ""
    while at < len(line):
        head = end(_ASSIGNED, line, at)
        try:
            close = value(line, head)[1]
        except ConfigError:
            break
        if close == len(line):
            break
        at, before = end(_SPACE, line, close), line[at:close]
    return at, before
