"""Puts the notebook's values into a prompt: `{name}` where the name exists, `{{expression}}` always.

Theory: a prompt is prose that may hold JSON, code, LaTeX and templates, whose braces are not ours. The text
is scanned once from left to right; the places that are ours are found first and evaluated after, so that
nothing inserted is scanned again. `{...}` is ours only if all of this holds:

* it has the exact form name, .attribute, [index], !r, :format, without blanks;
* the name exists in the notebook;
* a format can be nothing but a format (`_FORMAT`). What follows a colon is a number, a name, a unit or an
  expression in JavaScript, CSS, YAML, Go and others, and their keys exist here by chance: {a:10}, {k:s},
  {x:.5}, {d:+n}, {w:100%}, {t:5s}, {c:#00f}, {n:10,}, {a:=1}, {x:1.0f} and whatever has a blank after its
  colon stay. Ours are: alignment with a width (>10, *^8), precision with a type (.2f, 8.3e, where the width
  can matter), zeros (03d), width and d or f, a comma,
  %, a sign, #x, dates (%d.%m.%Y); behind a conversion, which no other language has, any format. And the value
  must take it: where its __format__ fails, the text stays, and is told as skipped;
* it does not follow a letter of a script that writes spaces between words, a digit, `_` (but where that
  begins an emphasis that ends in its line, `_{a}_`, or parts it from a place of ours, `{a}_{b}`), `^`, `\\`,
  `$`, `%`, `{`, `]`, `)`, `::`, a command of LaTeX, or
  a `}` that is not ours (LaTeX, shells, CSS, regular expressions, Rust), nor `#` in a string (Ruby), nor
  stands where JavaScript takes names out of an object (`const {a} =`, `import {a} from`, `({a}) =>`) or
  puts them into one (`const o = {a}`, `() => {a}`) or gives
  an attribute (`<B c={d}>`, `<li key={k}>`; `<document id={n}>` is a prompt's own tag, and filled);
* it stands outside code spans, fences and string literals of template languages (`verbatim`).

Then its attributes must be there: one that is not is an error, and so is a private one. `{{...}}` is ours if
what is between parses as a Python expression and it is not part of {{{...}}} or of an f-string. That holds in
code as well: two braces are how a value is put into a fence on purpose. But where a single brace would not be
ours by its place (code, after `$` or a letter), an expression with a name that the notebook does not have
belongs to somebody else's template (Jinja, GitHub Actions, LaTeX): it stays, and is told as skipped.
Everywhere else such a name is an error.

Names are Python's: of any script, and the same in every form that NFKC makes the same (`{ｎ}` is n). What
stands where ours could stand, looks like ours and stays is told, with what to write: a name that does not
exist, an expression in single braces, a name in code; and one of several letters that exists behind a word
(`data_{year}.csv`).
"""

from __future__ import annotations

import ast
import builtins
import keyword
import re
import reprlib
import warnings
from collections.abc import Callable, Container, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any
from unicodedata import category, name, normalize

from . import code_spans as verbatim
from .errors import ConfigError, similar_names
from .values import DEFAULT_BUDGET, find_formatter, format_value, is_drawable, token_estimate

# What may be a name in any script; whether it is one, Python says (\w lacks the marks that Indic vowels are).
_NAME = r"[A-Za-z_\x80-\U0010ffff][A-Za-z0-9_\x80-\U0010ffff]*"


def _form(root: str) -> re.Pattern[str]:
    return re.compile(
        rf"\{{(?P<expr>(?P<root>{root})(?P<path>(?:\.{_NAME}|\[(?:-?\d{{1,18}}|'[^'\]\n]*'|\"[^\"\]\n]*\")\])*))"
        r"(?:!(?P<conv>[rsa]))?(?::(?P<fmt>[^\s{}][^{}\n]{0,80}))?\}"
    )


_PLACE = _form(_NAME)
# Formats that can be nothing else, by what is before the colon: a name, a name with a path.
_NAME_FORMAT = (
    r"(?![-=]>)(?:[^\w\s'\"`$()\[\]]|0)?[<>^][+-]?#?0?[1-9]\d*[,_]?(?:\.\d+)?[a-zA-Z%]?|\+?0?(?P<width>[1-9]\d*)?[,_]?\.(?P<precision>\d{1,9})[eEfFgG%]"
    r"|0[1-9]\d*[dxXbo]|[1-9]\d*[df]|\+?(?:,[defg%]?|%)|\+|#0?\d*[xXo]|#b|%[A-Za-z].*"
)
_FORMAT = {False: re.compile(_NAME_FORMAT), True: re.compile(rf"{_NAME_FORMAT}|[+-][deEfgG]")}
_ENDLESS = re.compile(r"\d{5}")  # a width that would fill the memory
_STEP = re.compile(r"\.(?P<attr>[^.\[\]]+)|\[(?:(?P<index>-?\d+)|'(?P<one>[^']*)'|\"(?P<two>[^\"]*)\")\]")
_RUN = re.compile(r"\{+")

_BEFORE = "_^\\$%}{])"  # characters after which a brace is not ours; letters and digits too
_EMPHASIS = re.compile(r"(_{1,3})(?=\{)[^\n_]{1,400}(?<!\s)\1(?![\w{])")
_WORD = re.compile(r"(?<![\\\w$^%}])\w+\Z")  # and no command of LaTeX or place of a shell
_AROUND = 80  # characters before and after a brace that are looked at for what other languages write there
_FOREIGN = re.compile(
    r"::\0|\{[^\W\d][\w.]*(?:![rsa])?:[^{}\s]*\0|\\[A-Za-z]+\*?[ "
    r"]\0|<" + verbatim.TAG + r"\s[^<>{}\n]*=\0|\"[^\"\n]*#\0[^\"\n]*\"|\b(?:const|let|var)\s+\0\s*=(?!=)"
    r"|\b(?:import|export)\s+(?:type\s+)?\0\s*(?:from\s*['\"]|;)|\(\0\)\s*=>|\(\)\s*=>\s*\0"
    r"|\b(?:(?:const|var)\s+\w+|module\.exports)\s*=\s*\0"
    r"|\bfunction\b[^(){}\n]*\(\0\)"
)
# A tag (1,000 characters of it) up to the value of one of its attributes, as JSX has it: over lines, others
# with braces before it.
_VALUE = r"""(?:"[^"]*"|'[^']*'|\{(?:[^{}]|\{[^{}]*\})*\})"""
_TAG = re.compile(rf"<{verbatim.TAG}(?:\s+(?:[\w:.@-]+(?:={_VALUE})?|{_VALUE}))*\s+[\w:.@-]+=")
_TRIES, _REACH = (
    6,
    4_000,
)  # closing braces tried for one {{, and how far: a prompt full of braces costs little
_LARGE = 50  # tokens from which the footer says how many
_BUILTINS = frozenset(dir(builtins))
_MOST_TOLD = 20  # places that are told as not filled
# Scripts that write no spaces between words, as Unicode's names begin.
_UNSPACED = (
    *("CJK", "IDEOGRAPHIC", "HIRAGANA", "KATAKANA", "HALFWIDTH KATAKANA", "BOPOMOFO", "YI ", "THAI", "LAO"),
    *(
        "KHMER",
        "MYANMAR",
        "TIBETAN",
        "JAVANESE",
        "BALINESE",
        "TAI ",
        "NEW TAI",
        "HENTAIGANA",
        "VERTICAL KANA",
    ),
)


@dataclass(frozen=True, slots=True)
class Substitution:
    """A value put into the prompt: what was written between the braces, the value, and its text form."""

    source: str
    value: Any
    text: str
    plain: bool  # neither conversion nor format was asked for, so the value may take another form than text


@dataclass(frozen=True, slots=True)
class FilledPrompt:
    """A prompt with values in it. `names`: what was filled, for the footer; `skipped`: what looked like ours
    and stays."""

    pieces: tuple[str | Substitution, ...]
    names: tuple[str, ...] = ()
    skipped: tuple[str, ...] = ()
    budget: int = DEFAULT_BUDGET
    advice: tuple[str, ...] = ()  # the skipped, each with what to write

    @property
    def skipped_summary(self) -> str:
        """What looked like ours and stays, for the footer: the first three, each with what to write."""
        more = f" and {len(self.advice) - 3} more" if len(self.advice) > 3 else ""
        return "; ".join(self.advice[:3]) + more

    @property
    def labels(self) -> tuple[str, ...]:
        """The names for the footer: what took much of the prompt with about how many tokens, and of how many
        it might take."""
        return tuple(dict.fromkeys(self._label(p) for p in self.pieces if isinstance(p, Substitution)))

    def _label(self, piece: Substitution) -> str:
        if piece.plain and is_drawable(piece.value):
            return f"{piece.source} (image)"
        size = token_estimate(piece.text)
        if size <= _LARGE or not piece.plain:
            return piece.source
        return (
            f"{piece.source} (≈ {size:,}"
            f"{f' of {self.budget:,}' if find_formatter(piece.value) else ''} tokens)"
        )

    @property
    def text(self) -> str:
        """The whole prompt as text."""
        return "".join(p if isinstance(p, str) else p.text for p in self.pieces)


def fill(
    text: str,
    namespace: Mapping[str, Any],
    evaluate: Callable[[str], Any],
    mode: str = "on",
    budget: int = DEFAULT_BUDGET,
) -> FilledPrompt:
    """Fills `text`. mode: on, double (only {{ }}), off. `evaluate` runs an expression in the notebook; a
    value takes at most `budget` tokens.

    Raises ConfigError, naming line and column, where an attribute, index, format or expression fails.
    """
    scan = _Scan(text, namespace, mode, telling=True)
    pieces: list[str | Substitution] = []
    at = 0
    for place in scan.places():
        value = _inserted(text, place, namespace, evaluate, budget)
        if value is None:
            scan.skipped.append(text[place.start : place.end])
            continue
        pieces += [text[at : place.start], value]
        at = place.end
    pieces.append(text[at:])
    names = tuple(dict.fromkeys(p.source for p in pieces if isinstance(p, Substitution)))
    skipped = tuple(dict.fromkeys(scan.skipped))
    advice = tuple(_advice(left, namespace) for left in skipped)
    return FilledPrompt(tuple(p for p in pieces if p != ""), names, skipped, budget, advice)


def parameters_in(
    text: str, namespace: Mapping[str, Any], mode: str = "on"
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """What a prompt takes as a function: (the names in single braces and those in expressions that neither
    Python nor `namespace` knows, in their order; the other names in expressions, which `namespace` knows)."""
    wanted: list[str] = []
    known: list[str] = []
    for place in _Scan(text, _AnyName(), mode).places():
        for word in [_plain(place.match["root"])] if place.match else _free_names(place.source):
            if keyword.iskeyword(word):  # {True} and {class} are no names, and stay
                continue
            if place.match or not (word in namespace or word in _BUILTINS):
                wanted.append(word)
            elif word in namespace:
                known.append(word)
    return tuple(dict.fromkeys(wanted)), tuple(n for n in dict.fromkeys(known) if n not in wanted)


@dataclass(frozen=True, slots=True)
class RowTemplate:
    """A prompt for each row of a table: `{column}` in single braces, by the rules above. Two braces are never
    evaluated, and stay. The text is looked through once, not for every row."""

    text: str
    pieces: tuple[str | _Place, ...]

    @classmethod
    def of(cls, text: str, columns: Iterable[str] = ()) -> RowTemplate:
        """Every single brace that is ours by its form and place counts, whatever columns there are; and the
        names of `columns` as they are, also where they are no names of Python: `{my text}`, `{0}`."""
        pieces: list[str | _Place] = []
        at = 0
        odd = sorted((n for n in columns if n and not n.isidentifier() and f"{{{n}" in text), key=len)
        form = _form("|".join(map(re.escape, reversed(odd)))) if odd else _PLACE
        for place in _Scan(text, _AnyName(), "single", form=form).places():
            pieces += [text[at : place.start], place]
            at = place.end
        return cls(text, (*pieces, text[at:]))

    @property
    def columns(self) -> tuple[str, ...]:
        """The columns that it takes, in their order."""
        places = [p.match for p in self.pieces if isinstance(p, _Place)]
        return tuple(dict.fromkeys(m["root"] for m in places if m))

    def locate(self, column: str) -> str:
        """The line and column of the first place that takes a column, in words."""
        places = [p for p in self.pieces if isinstance(p, _Place) and p.match and p.match["root"] == column]
        return _where(self.text, places[0].start)

    def fill(self, row: Mapping[str, Any]) -> str:
        """The prompt for a row. Raises ConfigError where an attribute, index or format fails."""
        return "".join(p if isinstance(p, str) else self._value(p, row) for p in self.pieces)

    def _value(self, place: _Place, row: Mapping[str, Any]) -> str:
        if place.match and place.match[0] == f"{{{place.source}}}" and type(row.get(place.source)) is str:
            return str(row[place.source])  # by far the commonest
        value = _inserted(self.text, place, row, lambda _: None, DEFAULT_BUDGET)
        if value is None or (value.plain and (is_drawable(value.value) or callable(value.value))):
            braces, given = (
                self.text[place.start : place.end],
                row[place.match["root"] if place.match else ""],
            )
            raise ConfigError(
                f"{_where(self.text, place.start)}: {braces} does not take {reprlib.repr(given)}."
            )
        return value.text


def find_expressions(text: str, namespace: Container[str] | None, mode: str = "on") -> list[tuple[int, int]]:
    """Where the `{{expressions}}` stand that filling would run, as (start, end); without a namespace, those
    that some namespace would have run."""
    names = _AnyName() if namespace is None else namespace
    return [(place.start, place.end) for place in _Scan(text, names, mode).places() if place.match is None]


def first_placeholder(text: str, namespace: Container[str]) -> str:
    """The first place in `text` that is ours, "" where there is none."""
    return next((text[place.start : place.end] for place in _Scan(text, namespace, "on").places()), "")


class _AnyName:
    """Names of which every one exists: to find what a prompt would take."""

    def __contains__(self, name: object) -> bool:
        return True


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
    namespace: Container[str]
    mode: str
    telling: bool = False  # what looks like ours and stays
    skipped: list[str] = field(default_factory=list)
    code: verbatim.Spans = verbatim.NO_SPANS
    literals: verbatim.Spans = verbatim.NO_SPANS
    form: re.Pattern[str] = _PLACE  # that comes first

    def __post_init__(self) -> None:
        if self.mode != "off" and "{" in self.text:
            self.code, self.literals = verbatim.find_code(self.text), verbatim.find_literals(self.text)

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
            return None if self.mode == "single" else self._double(at, end)
        match = self.form.match(self.text, at) or _PLACE.match(self.text, at)
        match = match if match and _is_name(match) and _is_format(match) else None
        known = match is not None and _known(match["root"], self.namespace) in self.namespace
        if match is None or not known or self.mode == "double" or not self.may_open(at, end):
            if self.telling and self.mode == "on" and self._like_ours(at, end, match):
                self.skipped.append(self.text[at : self.text.find("}", at) + 1])
            return None
        if at != end and self._foreign(at, match.end()):
            self.skipped.append(match[0])
            return None
        return _Place(at, match.end(), match["expr"], match)

    def _foreign(self, at: int, end: int) -> bool:
        """Whether another language has a place of its own between `at` and `end`."""
        around = f"{self.text[max(0, at - _AROUND) : at]}\0{self.text[end : end + _AROUND]}"
        tag = self.text.rfind("<", max(0, at - 1_000), at)
        return bool(_FOREIGN.search(around) or (tag >= 0 and _TAG.fullmatch(self.text, tag, at)))

    def may_open(self, at: int, end: int) -> bool:
        """Whether a brace at `at` may be ours by its place; our last place ended at `end`."""
        return self._apart(at, end) and at not in self.code and at not in self.literals

    def _apart(self, at: int, end: int) -> bool:
        """Whether nothing stands before a brace that takes it for another language."""
        joins = end >= max(0, at - 3) and not self.text[end:at].strip("_")  # {a}_{b}
        if joins:
            at = end
        else:
            at = next((i for i in range(max(0, at - 3), at) if _EMPHASIS.match(self.text, i)), at)
        last = at - 1
        while last > max(0, at - 8) and category(self.text[last])[0] == "M":
            last -= 1  # the letter below an accent or a vowel sign
        before = self.text[last] if at else ""
        letter = before.isalpha() and not name(before, "").startswith(_UNSPACED)
        return at == end or not (letter or before.isdecimal() or (before != "" and before in _BEFORE))

    def _like_ours(self, at: int, end: int, match: re.Match[str] | None) -> bool:
        """Whether what stays in single braces is told: it looks like ours, and stands where ours could.
        match: its form, None where it is no name."""
        close = self.text.find("}", at, at + _AROUND)
        source = self.text[at + 1 : close].strip()
        apart = self._apart(at, end)
        if close < 0 or len(self.skipped) >= _MOST_TOLD or not (apart or match) or at in self.literals:
            return False
        if self._foreign(at, close + 1) or "\n" in source or not (match or _tree(source)):
            return False
        names = [_plain(match["root"])] if match else _free_names(source)
        there = [n for n in names if n in self.namespace]
        word = apart or (len(names[0]) > 1 and _WORD.search(self.text, max(0, at - _AROUND), at))
        if at in self.code or not apart:
            return bool(match and there and word)
        if match:
            return not keyword.iskeyword(names[0])
        return bool(there) and all(n in there or n in _BUILTINS for n in names) and _is_one_value(source)

    def _double(self, at: int, end: int) -> _Place | None:
        limit, close = min(len(self.text), at + _REACH), at + 1
        for _ in range(_TRIES):
            close = self.text.find("}}", close + 1, limit)
            if close < 0:
                break
            source = self.text[at + 2 : close].strip()
            if _tree(source):
                return self._expression(_Place(at, close + 2, source), foreign=not self.may_open(at, end))
        close = self.text.find("}}", at, limit)
        if close > at + 2 and at not in self.code:  # in code that is no surprise
            self.skipped.append(self.text[at : close + 2])
        return None

    def _expression(self, place: _Place, *, foreign: bool) -> _Place | None:
        if foreign and any(n not in self.namespace and n not in _BUILTINS for n in _free_names(place.source)):
            self.skipped.append(self.text[place.start : place.end])
            return None
        return place


def _plain(word: str) -> str:
    """A name as Python reads it."""
    return word if word.isascii() else normalize("NFKC", word)


def _known(word: str, names: Container[str]) -> str:
    """The form of a name in which it stands among `names`: as it is (a column's), or as Python reads it."""
    return word if word in names else _plain(word)


def _is_name(match: re.Match[str]) -> bool:
    """Whether root and attributes are names; or the root is a column's, whatever it is called."""
    attributes = (step["attr"] for step in _STEP.finditer(match["path"]))
    return (match.re is not _PLACE or match["root"].isidentifier()) and all(
        a is None or a.isidentifier() for a in attributes
    )


def _is_one_value(source: str) -> bool:
    """Whether an expression is a value and no list of names, as sets of mathematics and objects of JavaScript
    are."""
    tree = _tree(source)
    return tree is not None and not isinstance(tree.body, ast.Tuple | ast.Starred | ast.Constant)


def _advice(left: str, namespace: Mapping[str, Any]) -> str:
    """What stays, and what to write instead where that can be said."""
    match, inside = _PLACE.fullmatch(left), left.strip("{}").strip()
    if left.startswith("{{"):
        return left[:_AROUND]
    if match is None or _known(match["root"], namespace) in namespace:
        return f"{left}, write {{{inside if inside.isidentifier() and match is None else f'{{{inside}}}'}}}"
    near = _nearest(_plain(match["root"]), namespace)
    return f"{left}, did you mean {near}?" if near else left


def _nearest(word: str, namespace: Mapping[str, Any]) -> str:
    """The name that somebody may have meant, "" where none is near."""
    names = {n.casefold(): n for n in namespace if not n.startswith("_")}
    near = similar_names(word.casefold(), names, cutoff=0.6 if len(word) > 3 else 0.75)
    return names[near[0]] if near else ""


def _is_format(match: re.Match[str]) -> bool:
    """Whether what stands behind the colon, if anything does, can be nothing but a format."""
    fmt = match["fmt"] or ""
    if _ENDLESS.search(fmt) or not fmt or match["conv"]:
        return not _ENDLESS.search(fmt)
    form = _FORMAT[match["path"] != ""].fullmatch(fmt)
    return form is not None and not (form["width"] and int(form["width"]) < int(form["precision"]) + 2)


def _tree(source: str) -> ast.Expression | None:
    """An expression of Python, None for what is none."""
    with warnings.catch_warnings(action="ignore"):  # odd escapes are told when the expression is evaluated
        try:
            return ast.parse(source, mode="eval")
        except (SyntaxError, ValueError, RecursionError, MemoryError):
            return None


def _free_names(source: str) -> list[str]:
    """The names that an expression takes from outside, as far as can be seen without running it."""
    tree = _tree(source)
    nodes = [*ast.walk(tree)] if tree else []
    own = {n.id for n in nodes if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Store)} | {
        n.arg for n in nodes if isinstance(n, ast.arg)
    }
    names = [n for n in nodes if isinstance(n, ast.Name) and n.id not in own]
    return [n.id for n in sorted(names, key=lambda n: (n.lineno, n.col_offset))]


# --- their values -------------------------------------------------------------------------------------------


def _inserted(
    text: str, place: _Place, namespace: Mapping[str, Any], evaluate: Callable[[str], Any], budget: int
) -> Substitution | None:
    """The value of a place; None where it does not take the format that stands there."""
    match = place.match
    conv, fmt = (match["conv"], match["fmt"]) if match else (None, None)
    value = (
        _walked(text, place, match, namespace)
        if match
        else _tried(text, place, "", lambda: evaluate(place.source))
    )
    shown = _tried(
        text,
        place,
        " to become text",
        lambda: format_value(value, conv, budget) if conv or not fmt else value,
    )
    if fmt:
        try:
            shown = format(shown, fmt)
        except Exception:  # noqa: BLE001 - the user's own objects may raise anything
            return None
    return Substitution(place.source, value, shown, not conv and not fmt)


def _walked(text: str, place: _Place, match: re.Match[str], namespace: Mapping[str, Any]) -> Any:
    value = namespace[_known(match["root"], namespace)]
    for step in _STEP.finditer(match["path"]):
        if step["attr"] and step["attr"].startswith("_"):
            raise ConfigError(
                f"{_where(text, place.start)}: {place.source} goes through a private attribute.",
                hint=f"Write {{{{{place.source}}}}} to have it all the same, or keep the braces with "
                f"fill=double.",
            )
        value = _tried(text, place, f" at {step.group()}", partial(_stepped, value, step))
    return value


def _stepped(value: Any, step: re.Match[str]) -> Any:
    if step["attr"]:
        return getattr(value, _plain(step["attr"]))
    return value[
        int(step["index"]) if step["index"] else step["one"] if step["one"] is not None else step["two"]
    ]


def _tried(text: str, place: _Place, doing: str, work: Callable[[], Any]) -> Any:
    try:
        return work()
    except Exception as error:  # noqa: BLE001 - the user's own objects and expressions may raise anything
        shown = _line(text[place.start : place.end], 80)
        raise ConfigError(
            f"{_where(text, place.start)}: {shown} failed{doing} with {type(error).__name__}: "
            f"{_line(str(error), 300)}",
            hint=f"Correct it, or keep the braces as they are with "
            f"fill={'double' if place.match else 'off'}.",
        ) from None


def _where(text: str, at: int) -> str:
    return f"Line {text.count(chr(10), 0, at) + 1}, column {at - text.rfind(chr(10), 0, at)} of the prompt"


def _line(text: str, limit: int) -> str:
    text = " ".join(text.split())
    return text if len(text) <= limit else text[: limit - 3] + "..."
