"""Puts the notebook's values into a prompt: `{name}` where the name exists, `{{expression}}` always.

Theory: a prompt is prose that may hold JSON, code, LaTeX and templates, whose braces are not ours. The text is scanned
once from left to right; the places that are ours are found first and evaluated after, so that nothing inserted is
scanned again. `{...}` is ours only if all of this holds:

* it has the exact form name, .attribute, [index], !r, :format, without spaces; a format is more than one number or one
  letter, since {a:1} and {k:s} are what other languages write, and their names exist here by chance;
* the name exists in the notebook;
* it does not follow a letter, a digit, `_`, `^`, `\\`, `$`, `{`, `]` or a `}` that is not ours (LaTeX, shells, CSS);
* it stands outside code spans, fences and string literals of template languages (`verbatim`).

Then it must work: an attribute that is not there is an error, and so is a private one. `{{...}}` is ours if what is
between parses as a Python expression and it is not part of {{{...}}} or of an f-string. That holds in code as well: two
braces are how a value is put into a fence on purpose. But where a single brace would not be ours by its place (code,
after `$` or a letter), an expression with a name that the notebook does not have belongs to somebody else's template
(Jinja, GitHub Actions, LaTeX): it stays, and is told as skipped. Everywhere else such a name is an error.
"""

from __future__ import annotations

import ast
import builtins
import re
import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from ..errors import ConfigError
from . import verbatim
from .attach import draws
from .samples import BUDGET, form_of, text_of, tokens_in

_PLACE = re.compile(
    r"\{(?P<expr>(?P<root>[^\W\d]\w*)(?P<path>(?:\.[^\W\d]\w*|\[(?:-?\d{1,18}|'[^'\]\n]*'|\"[^\"\]\n]*\")\])*))"
    r"(?:!(?P<conv>[rsa]))?"
    r"(?::(?!(?:\d*|[bcnos])\})(?P<fmt>(?:.?[<>=^])?[+\- ]?#?0?\d*[,_]?(?:\.\d+)?[bcdeEfFgGnosxX%]?|%[^{}\n]*))?\}"
)
_STEP = re.compile(r"\.(?P<attr>\w+)|\[(?:(?P<index>-?\d+)|'(?P<one>[^']*)'|\"(?P<two>[^\"]*)\")\]")
_RUN = re.compile(r"\{+")
_OPEN = re.compile(r"(?P<braces>\{{1,2})[ ]?(?P<prefix>\w*)$")
_BEFORE = "_^\\$}{]"  # characters after which a brace is not ours; letters and digits too
_TRIES, _REACH = 6, 4_000  # closing braces tried for one {{, and how far: a prompt full of braces costs little
_LARGE = 50  # tokens from which the footer says how many
_BUILTINS = frozenset(dir(builtins))


@dataclass(frozen=True, slots=True)
class Inserted:
    """A value put into the prompt: what was written between the braces, the value, and its text form."""

    source: str
    value: Any
    text: str
    plain: bool  # neither conversion nor format was asked for, so the value may take another form than text


@dataclass(frozen=True, slots=True)
class Filled:
    """A prompt with values in it. `names`: what was filled, for the footer; `skipped`: what looked like ours and stays."""

    pieces: tuple[str | Inserted, ...]
    names: tuple[str, ...] = ()
    skipped: tuple[str, ...] = ()
    budget: int = BUDGET

    @property
    def told(self) -> tuple[str, ...]:
        """The names for the footer: what took much of the prompt with about how many tokens, and of how many it might take."""
        return tuple(dict.fromkeys(self._told(p) for p in self.pieces if isinstance(p, Inserted)))

    def _told(self, piece: Inserted) -> str:
        if piece.plain and draws(piece.value):
            return f"{piece.source} (image)"
        size = tokens_in(piece.text)
        if size <= _LARGE or not piece.plain:
            return piece.source
        return f"{piece.source} (≈ {size:,}{f' of {self.budget:,}' if form_of(piece.value) else ''} tokens)"

    @property
    def text(self) -> str:
        """The whole prompt as text."""
        return "".join(p if isinstance(p, str) else p.text for p in self.pieces)


def fill(text: str, namespace: Mapping[str, Any], evaluate: Callable[[str], Any], mode: str = "on", budget: int = BUDGET) -> Filled:
    """Fills `text`. mode: on, double (only {{ }}), off. `evaluate` runs an expression in the notebook; a value takes at most
    `budget` tokens.

    Raises ConfigError, naming line and column, where an attribute, index, format or expression fails.
    """
    scan = _Scan(text, namespace, mode)
    pieces: list[str | Inserted] = []
    at = 0
    for place in scan.places():
        pieces += [text[at:place.start], _inserted(text, place, namespace, evaluate, budget)]
        at = place.end
    pieces.append(text[at:])
    names = tuple(dict.fromkeys(p.source for p in pieces if isinstance(p, Inserted)))
    return Filled(tuple(p for p in pieces if p != ""), names, tuple(dict.fromkeys(scan.skipped)), budget)


def names_in(text: str, namespace: Mapping[str, Any], mode: str = "on") -> tuple[str, ...]:
    """The names that fill would take from `namespace`, nothing evaluated."""
    found: list[str] = []
    for place in _Scan(text, namespace, mode).places():
        found += [place.match["root"]] if place.match else [n for n in _free_names(place.source) if n in namespace]
    return tuple(dict.fromkeys(found))


def names_at(text: str, cursor: int, namespace: Mapping[str, Any]) -> tuple[str, tuple[str, ...]]:
    """(what was typed, names it may become) where the cursor stands after an open brace of ours; ("", ()) elsewhere."""
    match = _OPEN.search(text, max(0, cursor - 200), cursor)
    if match is None or not (match["braces"] == "{{" or _Scan(text, namespace, "on").may_open(match.start(), -1)):
        return "", ()
    prefix = match["prefix"]
    return prefix, tuple(sorted(n for n in namespace if n.startswith(prefix) and not n.startswith("_") and n.isidentifier()))


# --- finding the places -------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Place:
    """A place that is ours: `match` is the form of a single brace, None for {{ }}."""

    start: int
    end: int
    source: str
    match: re.Match[str] | None = None


@dataclass(slots=True)
class _Scan:
    text: str
    namespace: Mapping[str, Any]
    mode: str
    skipped: list[str] = field(default_factory=list)
    code: verbatim.Spans = verbatim.NOTHING
    literals: verbatim.Spans = verbatim.NOTHING

    def __post_init__(self) -> None:
        if self.mode != "off" and "{" in self.text:
            self.code, self.literals = verbatim.code(self.text), verbatim.literals(self.text)

    def places(self) -> Iterator[_Place]:
        """The places that are ours, from left to right."""
        run, end = _RUN.search(self.text), -1
        while run and self.mode != "off":
            place = self._place(run, end)
            if place:
                yield place
                end = place.end
            run = _RUN.search(self.text, place.end if place else run.end())

    def _place(self, run: re.Match[str], end: int) -> _Place | None:
        at, braces = run.start(), len(run[0])
        if at in self.literals or braces > 2:
            return None
        if braces == 2:
            return self._double(at, end)
        match = _PLACE.match(self.text, at) if self.mode == "on" else None
        if match is None or match["root"] not in self.namespace or not self.may_open(at, end):
            return None
        return _Place(at, match.end(), match["expr"], match)

    def may_open(self, at: int, end: int) -> bool:
        """Whether a brace at `at` may be ours by its place; our last place ended at `end`."""
        before = self.text[at - 1:at]
        taken = before.isalnum() or (before != "" and before in _BEFORE)
        return (at == end or not taken) and at not in self.code and at not in self.literals

    def _double(self, at: int, end: int) -> _Place | None:
        limit, close = min(len(self.text), at + _REACH), at + 1
        for _ in range(_TRIES):
            close = self.text.find("}}", close + 1, limit)
            if close < 0:
                break
            source = self.text[at + 2:close].strip()
            if _parses(source):
                return self._expression(_Place(at, close + 2, source), foreign=not self.may_open(at, end))
        self._skip(at, self.text.find("}}", at, limit) + 2)
        return None

    def _expression(self, place: _Place, *, foreign: bool) -> _Place | None:
        if foreign and any(n not in self.namespace and n not in _BUILTINS for n in _free_names(place.source)):
            self.skipped.append(self.text[place.start:place.end])
            return None
        return place

    def _skip(self, at: int, end: int) -> None:
        """Notes what is no expression; in code, where that is no surprise, and where nothing closes, it is not told."""
        if end > at + 4 and at not in self.code:
            self.skipped.append(self.text[at:end])


def _parses(source: str) -> bool:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # odd escapes are told when the expression is evaluated
        try:
            ast.parse(source, mode="eval")
        except (SyntaxError, ValueError, RecursionError, MemoryError):
            return False
    return source != ""


def _free_names(source: str) -> list[str]:
    """The names that an expression takes from outside, as far as can be seen without running it."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        nodes = list(ast.walk(ast.parse(source, mode="eval")))
    own = {n.id for n in nodes if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Store)} | {n.arg for n in nodes if isinstance(n, ast.arg)}
    names = [n for n in nodes if isinstance(n, ast.Name) and n.id not in own]
    return [n.id for n in sorted(names, key=lambda n: (n.lineno, n.col_offset))]


# --- their values -------------------------------------------------------------------------------------------


def _inserted(text: str, place: _Place, namespace: Mapping[str, Any], evaluate: Callable[[str], Any], budget: int) -> Inserted:
    match = place.match
    conv, fmt = (match["conv"], match["fmt"]) if match else (None, None)
    value = _walked(text, place, match, namespace) if match else _tried(text, place, "", lambda: evaluate(place.source))
    return Inserted(place.source, value, _tried(text, place, " to become text", lambda: text_of(value, fmt, conv, budget)), not conv and not fmt)


def _walked(text: str, place: _Place, match: re.Match[str], namespace: Mapping[str, Any]) -> Any:
    value = namespace[match["root"]]
    for step in _STEP.finditer(match["path"]):
        if step["attr"] and step["attr"].startswith("_"):
            raise ConfigError(f"{_where(text, place.start)}: {place.source} goes through a private attribute.",
                              hint=f"Write {{{{{place.source}}}}} to have it all the same, or keep the braces with fill=double.")
        value = _tried(text, place, f" at {step.group()}", partial(_stepped, value, step))
    return value


def _stepped(value: Any, step: re.Match[str]) -> Any:
    if step["attr"]:
        return getattr(value, step["attr"])
    return value[int(step["index"]) if step["index"] else step["one"] if step["one"] is not None else step["two"]]


def _tried(text: str, place: _Place, doing: str, work: Callable[[], Any]) -> Any:
    try:
        return work()
    except Exception as error:  # noqa: BLE001 - the person's own objects and expressions may raise anything
        shown = _line(text[place.start:place.end], 80)
        raise ConfigError(f"{_where(text, place.start)}: {shown} failed{doing} with {type(error).__name__}: {_line(str(error), 300)}",
                          hint=f"Correct it, or keep the braces as they are with fill={'double' if place.match else 'off'}.") from None


def _where(text: str, at: int) -> str:
    return f"Line {text.count(chr(10), 0, at) + 1}, column {at - text.rfind(chr(10), 0, at)} of the prompt"


def _line(text: str, limit: int) -> str:
    text = " ".join(text.split())
    return text if len(text) <= limit else text[:limit - 3] + "..."
