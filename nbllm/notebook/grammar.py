"""The line of a cell magic, read into models, options and names.

    %%llm [NAME <<] [MODEL[,MODEL...]] { key=value | --key value | --key=value | --flag | --no-flag | -X value } [>> NAME]

Theory: the line is cut into words at white space. A word's value is its part after the first `=`, or all of it. Three
characters are special, and only where a value starts: a quote opens text up to the same quote (which doubled means
itself), `{` and `[` open JSON up to their match. Everything else is literal, the backslash always. So Windows paths,
apostrophes and JSON need no escapes. Every error names a column, counted from 1 at the line's first character.
"""

from __future__ import annotations

import difflib
import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from ..errors import ConfigError
from .options import OPTIONS, SHORT, SUBCOMMANDS, Option, Unreadable, read

_KEY = re.compile(r"(?P<name>[A-Za-z_][\w.\-]*)=")


@dataclass(frozen=True, slots=True)
class Line:
    """A line as read. `extra` goes to the provider as it is (x.name=value); `spans` says where each option stood."""

    models: tuple[str, ...] = ()
    options: Mapping[str, Any] = field(default_factory=dict)
    extra: Mapping[str, Any] = field(default_factory=dict)
    out: str | None = None
    spans: Mapping[str, tuple[int, int]] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Word:
    """A word: where it stands, the option name before its `=` ("" where there is none), its value, whether it was quoted."""

    start: int
    end: int
    name: str
    value: str
    quoted: bool


def _fail(column: int, what: str, hint: str = "") -> ConfigError:
    return ConfigError(f"Column {column + 1}: {what}.", hint=hint)


def words(line: str) -> Iterator[Word]:
    """The words of a line. Raises ConfigError for a quote or bracket that is not closed."""
    at = 0
    while at < len(line):
        if line[at].isspace():
            at += 1
            continue
        dashes = re.compile(r"-{0,2}").match(line, at)
        start = at
        key = _KEY.match(line, dashes.end() if dashes else at)
        value_at = key.end() if key else at
        value, at, quoted = _value(line, value_at)
        yield Word(start, at, line[start:key.end() - 1] if key else "", value, quoted)


def _value(line: str, at: int) -> tuple[str, int, bool]:
    """(value, where it ends, whether it was quoted) of the value that starts at `at`."""
    first = line[at:at + 1]
    if first and first in "\"'":
        return _quoted(line, at, first)
    if first and first in "{[":
        end = _balanced(line, at)
        if line[end:end + 1].strip():
            raise _fail(end, "text right after a closing bracket", "Put a space there, or quote the value.")
        return line[at:end], end, False
    match = re.compile(r"\S*").match(line, at)
    end = match.end() if match else at
    return line[at:end], end, False


def _quoted(line: str, at: int, quote: str) -> tuple[str, int, bool]:
    match = re.compile(f"{quote}((?:[^{quote}]|{quote}{quote})*){quote}").match(line, at)
    if not match:
        raise _fail(at, f"the quote {quote} is not closed", "Close it, or start the value with the other quote.")
    if line[match.end():match.end() + 1].strip():
        raise _fail(match.end(), "text right after a closing quote", "Put a space there; a quote inside quotes is doubled.")
    return match[1].replace(quote * 2, quote), match.end(), True


def _balanced(line: str, at: int) -> int:
    """Where the bracket at `at` closes; brackets inside JSON strings do not count."""
    depth = 0
    for match in re.compile(r'"(?:[^"\\]|\\.)*"|[{}\[\]]').finditer(line, at):
        found = match.group()
        depth += (found in "{[") - (found in "}]") if len(found) == 1 else 0
        if depth == 0:
            return match.end()
    raise _fail(at, f"the bracket {line[at]} is not closed", "Close it, or quote the value.")


def parse(line: str) -> Line:
    """Reads a line. Raises ConfigError, one line with the column and the nearest name, for what is not in the grammar."""
    reader = _Reader(list(words(line)))
    reader.names()
    while reader.rest:
        reader.step()
    models = reader.options.pop("model", ())
    return Line(tuple(models), reader.options, reader.extra, reader.options.pop("out", None), reader.spans)


class _Reader:
    def __init__(self, found: list[Word]) -> None:
        self.rest = found
        self.options: dict[str, Any] = {}
        self.extra: dict[str, Any] = {}
        self.spans: dict[str, tuple[int, int]] = {}

    def names(self) -> None:
        """Takes `NAME <<` from the front and `>> NAME` from the end."""
        self._arrow(0, 1, "<<")
        self._arrow(-1, -2, ">>")

    def _arrow(self, name: int, arrow: int, sign: str) -> None:
        if len(self.rest) > 1 and self.rest[arrow].value == sign and not self.rest[arrow].quoted:
            word = self.rest[name]
            self._set(OPTIONS["out"], word.name or word.value, word)
            self.rest = self.rest[2:] if name == 0 else self.rest[:-2]

    def step(self) -> None:
        """Takes one option, flag or model."""
        word = self.rest.pop(0)
        text = word.name or word.value
        if text in ("<<", ">>") and not word.quoted:
            raise _fail(word.start, f"{text} in the wrong place", "Write NAME << first, or >> NAME last.")
        if text.startswith("--") and len(text) > 2 and not word.quoted:
            self._long(word, text[2:])
        elif re.fullmatch(r"-[A-Za-z]", text) and not word.quoted:
            self._short(word, text[1])
        elif word.name:
            self._named(word, word.name, word.value)
        else:
            self._set(OPTIONS["model"], word.value, word)

    def _long(self, word: Word, name: str) -> None:
        if word.name:
            self._named(word, name, word.value)
        elif (flag := OPTIONS.get(_canonical(name))) and flag.kind == "bool":
            self._set(flag, "true", word)
        elif name.startswith("no-") and (flag := OPTIONS.get(_canonical(name[3:]))) and flag.kind == "bool":
            self._set(flag, "false", word)
        else:
            self._known(name, word)
            self._named(word, name, self._next(word, f"--{name}"))

    def _short(self, word: Word, letter: str) -> None:
        option = SHORT.get(letter)
        if option is None:
            raise _fail(word.start, f"no option -{letter}", f"There are {' '.join('-' + s for s in SHORT)}.")
        if option.kind == "bool":
            self._set(option, "true" if not word.name else word.value, word)
        else:
            self._set(option, word.value if word.name else self._next(word, f"-{letter}"), word)

    def _next(self, word: Word, shown: str) -> str:
        if not self.rest or (re.match(r"--?[A-Za-z]", self.rest[0].name or self.rest[0].value) and not self.rest[0].quoted):
            raise _fail(word.start, f"{shown} needs a value")
        after = self.rest.pop(0)
        return f"{after.name}={after.value}" if after.name else after.value

    def _known(self, name: str, word: Word) -> None:
        if name.startswith("x.") or _canonical(name) in OPTIONS:
            return
        near = difflib.get_close_matches(_canonical(name), OPTIONS, 1)
        raise _fail(word.start, f"unknown option {name!r}",
                    f"Did you mean {near[0]}?" if near else "`%llm help` lists the options; x.name=value goes to the provider as it is.")

    def _named(self, word: Word, name: str, value: str) -> None:
        self._known(name, word)
        if name.startswith("x."):
            self._extra(name[2:].split("."), value, word)
        else:
            self._set(OPTIONS[_canonical(name)], value, word)

    def _set(self, option: Option, text: str, word: Word) -> None:
        if option.name in self.options and not option.many:
            hint = "Quote a value that has spaces; several models are joined by commas." if option.name == "model" else "Give it once."
            raise _fail(word.start, f"{option.name} is given twice", hint)
        if option.later:
            raise _fail(word.start, f"{option.name} is not there yet", "It comes in a later version.")
        try:
            value = read(option, text)
        except Unreadable as error:
            raise _fail(word.start, f"{option.name} {error}") from None
        self.options[option.name] = self.options.get(option.name, []) + value if option.many else value
        self.spans[option.name] = (word.start, word.end)

    def _extra(self, path: list[str], text: str, word: Word) -> None:
        place = self.extra
        for name in path[:-1]:
            place = place.setdefault(name, {})
            if not isinstance(place, dict):
                raise _fail(word.start, f"x.{'.'.join(path)} goes through a value that is no object")
        if not path[-1] or path[-1] in place:
            raise _fail(word.start, f"x.{'.'.join(path)} is {'given twice' if path[-1] else 'no name'}")
        place[path[-1]] = text if word.quoted else _json(text)


def _json(text: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return text


def _canonical(name: str) -> str:
    return name.replace("-", "_")


def subcommand(line: str) -> tuple[str, str]:
    """(subcommand, rest) of a `%llm` line; "help" for an empty one. Raises ConfigError with the nearest name."""
    word, _, rest = line.strip().partition(" ")
    if not word:
        return "help", ""
    if word in SUBCOMMANDS:
        return word, rest.strip()
    near = difflib.get_close_matches(word, SUBCOMMANDS, 1)
    raise ConfigError(f"No subcommand {word!r}.",
                      hint=f"Did you mean %llm {near[0]}?" if near else f"There are {', '.join(SUBCOMMANDS)}. To ask: %llm ask ..., or a %%llm cell.")


def ask(line: str) -> tuple[Line, str]:
    """(options, prompt) of `%llm ask`: options come first, the prompt is all from the first word that is none."""
    at = 0
    while match := re.compile(r"\s*(\S+)").match(line, at):
        word = match[1]
        name = _KEY.match(word.lstrip("-"))
        flag = OPTIONS.get(_canonical(word.lstrip("-").removeprefix("no-")))
        if word.startswith("-") and not name:
            takes = SHORT.get(word[1:]) if re.fullmatch(r"-[A-Za-z]", word) else flag
            at = match.end()
            if takes is not None and takes.kind != "bool":
                value = re.compile(r"\s*").match(line, at)
                at = _value(line, value.end() if value else at)[1]
        elif name and (name["name"].startswith("x.") or _canonical(name["name"]) in OPTIONS):
            at = _value(line, match.start(1) + len(word) - len(word.lstrip("-")) + name.end())[1]
        else:
            break
    return parse(line[:at]), line[at:].strip()


@dataclass(frozen=True, slots=True)
class Completion:
    """What stands at the cursor: kind is model, option, value or subcommand; `prefix` is what was typed of it."""

    kind: str
    prefix: str
    option: str = ""


def complete(line: str, *, subcommands: bool = False) -> Completion:
    """What could be typed at the end of `line` (the part before the cursor)."""
    typed = re.split(r"\s", line)[-1]
    before = line[:len(line) - len(typed)].split()
    if subcommands and not before:
        return Completion("subcommand", typed)
    name, equals, value = typed.lstrip("-").partition("=")
    if equals:
        option = _canonical(name)
        return Completion("model" if option == "model" else "value", value.rpartition(",")[2] if option == "model" else value, option)
    last = before[-1] if before else ""
    taken = SHORT.get(last[1:]) if re.fullmatch(r"-[A-Za-z]", last) else OPTIONS.get(_canonical(last[2:])) if last.startswith("--") else None
    if taken is not None and taken.kind != "bool":
        return Completion("model" if taken.name == "model" else "value", typed, taken.name)
    if typed.startswith("-"):
        return Completion("option", typed)
    return Completion("word", typed.rpartition(",")[2])
