"""Fills values of the notebook into a prompt: `{name}` where the name exists, `{{expression}}` always.

Theory: a prompt is prose that may contain JSON, code, LaTeX and templates, whose braces are not placeholders.
The text is scanned once from left to right; placeholders are found first and evaluated afterwards, so that
inserted text is never scanned. `{...}` is a placeholder only if all of these hold:

* it has the exact form name, .attribute, [index], !r, :format, without spaces;
* the name exists in the notebook;
* its format can be nothing but a format (`_FORMAT`). In JavaScript, CSS, YAML, Go and others, a colon is
  followed by a number, a name, a unit or an expression, and their keys may be names of the notebook by
  chance: {a:10}, {k:s}, {x:.5}, {d:+n}, {w:100%}, {t:5s}, {c:#00f}, {n:10,}, {a:=1}, {x:1.0f} and everything
  with a space after the colon stay unchanged. Formats are: alignment with a width (>10, *^8), precision with
  a type (.2f, 8.3e, where the width can matter), zeros (03d), width and d or f, a comma, %, a sign, #x, dates
  (%d.%m.%Y); after a conversion, which no other language has, any format. And the value must support it:
  where its __format__ fails, the text stays unchanged and is reported as skipped;
* it does not follow a letter of a script that writes spaces between words, a digit, `_` (except where that
  starts an emphasis that ends in the same line, `_{a}_`, or separates two placeholders, `{a}_{b}`), `^`,
  `\\`, `$`, `%`, `{`, `]`, `)`, `::`, a LaTeX command, or a `}` that does not end a placeholder (LaTeX,
  shells, CSS, regular expressions, Rust), nor `#` in a string (Ruby); nor is it where JavaScript destructures
  an object (`const {a} =`, `import {a} from`, `({a}) =>`), builds one (`const o = {a}`, `() => {a}`) or gives
  an attribute (`<B c={d}>`, `<li key={k}>`; but `<document id={n}>` is a prompt's own tag, and is filled);
* it is outside code spans, fences and string literals of template languages (`code_spans`).

Then its attributes must exist: a missing one is an error, and so is a private one. `{{...}}` is a placeholder
if its content parses as a Python expression and it is not part of {{{...}}} or of an f-string. That holds in
code as well: double braces are how a value is put into a fence on purpose. But at a position where a single
brace would not be a placeholder (in code, after `$` or a letter), an expression with a name that the notebook
does not have belongs to another template language (Jinja, GitHub Actions, LaTeX): it stays unchanged and is
reported as skipped. Everywhere else such a name is an error.

Names follow Python's rules: any script, and equal if NFKC makes them equal (`{ｎ}` is n). Text that looks
like a placeholder, at a position where one could be, but is not filled is reported, with what to write
instead: a name that does not exist, an expression in single braces, a name in code; and an existing name of
several letters after a word (`data_{year}.csv`).
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

from . import code_spans
from .errors import ConfigError, similar_names
from .values import DEFAULT_BUDGET, find_formatter, format_value, is_drawable, token_estimate

# Candidates for names in any script; str.isidentifier() decides (\w lacks the marks of Indic vowels).
_NAME = r"[A-Za-z_\x80-\U0010ffff][A-Za-z0-9_\x80-\U0010ffff]*"


def _placeholder_pattern(root: str) -> re.Pattern[str]:
    return re.compile(
        rf"\{{(?P<expr>(?P<root>{root})(?P<path>(?:\.{_NAME}|\[(?:-?\d{{1,18}}|'[^'\]\n]*'|\"[^\"\]\n]*\")\])*))"
        r"(?:!(?P<conv>[rsa]))?(?::(?P<fmt>[^\s{}][^{}\n]{0,80}))?\}"
    )


_PLACEHOLDER = _placeholder_pattern(_NAME)
# Unambiguous formats after a name (False) and after a name with a path (True).
_NAME_FORMAT = (
    r"(?![-=]>)(?:[^\w\s'\"`$()\[\]]|0)?[<>^][+-]?#?0?[1-9]\d*[,_]?(?:\.\d+)?[a-zA-Z%]?|\+?0?(?P<width>[1-9]\d*)?[,_]?\.(?P<precision>\d{1,9})[eEfFgG%]"
    r"|0[1-9]\d*[dxXbo]|[1-9]\d*[df]|\+?(?:,[defg%]?|%)|\+|#0?\d*[xXo]|#b|%[A-Za-z].*"
)
_FORMAT = {False: re.compile(_NAME_FORMAT), True: re.compile(rf"{_NAME_FORMAT}|[+-][deEfgG]")}
_HUGE_WIDTH = re.compile(r"\d{5}")  # it would fill the memory
_STEP = re.compile(r"\.(?P<attr>[^.\[\]]+)|\[(?:(?P<index>-?\d+)|'(?P<one>[^']*)'|\"(?P<two>[^\"]*)\")\]")
_RUN = re.compile(r"\{+")

_NOT_AFTER = "_^\\$%}{])"  # characters that cannot precede a placeholder; letters and digits cannot either
_EMPHASIS = re.compile(r"(_{1,3})(?=\{)[^\n_]{1,400}(?<!\s)\1(?![\w{])")
_WORD = re.compile(r"(?<![\\\w$^%}])\w+\Z")  # but not a LaTeX command or a shell variable
_CONTEXT = 80  # characters before and after a brace that are searched for other languages
_FOREIGN = re.compile(
    r"::\0|\{[^\W\d][\w.]*(?:![rsa])?:[^{}\s]*\0|\\[A-Za-z]+\*?[ "
    r"]\0|<" + code_spans.TAG + r"\s[^<>{}\n]*=\0|\"[^\"\n]*#\0[^\"\n]*\"|\b(?:const|let|var)\s+\0\s*=(?!=)"
    r"|\b(?:import|export)\s+(?:type\s+)?\0\s*(?:from\s*['\"]|;)|\(\0\)\s*=>|\(\)\s*=>\s*\0"
    r"|\b(?:(?:const|var)\s+\w+|module\.exports)\s*=\s*\0"
    r"|\bfunction\b[^(){}\n]*\(\0\)"
)
# A JSX tag up to the value of one of its attributes; it may span lines and have other attributes before.
_VALUE = r"""(?:"[^"]*"|'[^']*'|\{(?:[^{}]|\{[^{}]*\})*\})"""
_TAG = re.compile(rf"<{code_spans.TAG}(?:\s+(?:[\w:.@-]+(?:={_VALUE})?|{_VALUE}))*\s+[\w:.@-]+=")
_MAX_TRIES, _MAX_LENGTH = 6, 4_000  # closing braces tried for one {{, and characters: bounds the cost
_LARGE = 50  # tokens of a value from which the footer shows its size
_BUILTINS = frozenset(dir(builtins))
_MAX_REPORTED = 20  # pieces of text that are reported as skipped
# Prefixes of the Unicode names of scripts without spaces between words.
_UNSPACED = (
    *("CJK", "IDEOGRAPHIC", "HIRAGANA", "KATAKANA", "HALFWIDTH KATAKANA", "BOPOMOFO", "YI ", "THAI", "LAO"),
    *("KHMER", "MYANMAR", "TIBETAN", "JAVANESE", "BALINESE", "TAI ", "NEW TAI", "HENTAIGANA"),
    "VERTICAL KANA",
)


@dataclass(frozen=True, slots=True)
class Substitution:
    """A value filled into the prompt: the text between the braces, the value, and its text form."""

    source: str
    value: Any
    text: str
    plain: bool  # without conversion and format, so the value may become an image instead of text


@dataclass(frozen=True, slots=True)
class FilledPrompt:
    """A prompt with values filled in. `names`: the filled names; `skipped`: text that looked like a
    placeholder but stays unchanged."""

    pieces: tuple[str | Substitution, ...]
    names: tuple[str, ...] = ()
    skipped: tuple[str, ...] = ()
    budget: int = DEFAULT_BUDGET
    advice: tuple[str, ...] = ()  # the skipped texts, each with what to write instead

    @property
    def skipped_summary(self) -> str:
        """The first three skipped texts with advice, for the footer."""
        more = f" and {len(self.advice) - 3} more" if len(self.advice) > 3 else ""
        return "; ".join(self.advice[:3]) + more

    @property
    def labels(self) -> tuple[str, ...]:
        """The filled names for the footer; large values with their estimated tokens and the budget."""
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
        """The complete prompt as text."""
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
    scan = _Scan(text, namespace, mode, reports=True)
    pieces: list[str | Substitution] = []
    at = 0
    for found in scan.placeholders():
        value = _evaluate(text, found, namespace, evaluate, budget)
        if value is None:
            scan.skipped.append(text[found.start : found.end])
            continue
        pieces += [text[at : found.start], value]
        at = found.end
    pieces.append(text[at:])
    names = tuple(dict.fromkeys(p.source for p in pieces if isinstance(p, Substitution)))
    skipped = tuple(dict.fromkeys(scan.skipped))
    advice = tuple(_advice(source, namespace) for source in skipped)
    return FilledPrompt(tuple(p for p in pieces if p != ""), names, skipped, budget, advice)


def parameters_in(
    text: str, namespace: Mapping[str, Any], mode: str = "on"
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The parameters of a prompt as a function: (the names in single braces, and those in expressions that
    are neither builtins nor in `namespace`, in order; the other names in expressions, which are in
    `namespace`)."""
    parameters: list[str] = []
    known: list[str] = []
    for placeholder in _Scan(text, _AnyName(), mode).placeholders():
        for word in (
            [_normalize(placeholder.match["root"])] if placeholder.match else _free_names(placeholder.source)
        ):
            if keyword.iskeyword(word):  # {True} and {class} are not names
                continue
            if placeholder.match or not (word in namespace or word in _BUILTINS):
                parameters.append(word)
            elif word in namespace:
                known.append(word)
    return tuple(dict.fromkeys(parameters)), tuple(n for n in dict.fromkeys(known) if n not in parameters)


@dataclass(frozen=True, slots=True)
class RowTemplate:
    """A prompt for each row of a table: `{column}` in single braces, by the rules above. Double braces stay
    unchanged. The text is scanned once, not for every row."""

    text: str
    pieces: tuple[str | _Placeholder, ...]

    @classmethod
    def of(cls, text: str, columns: Iterable[str] = ()) -> RowTemplate:
        """All placeholders by form and position, whatever columns exist; and the names in `columns` even
        where they are not Python names: `{my text}`, `{0}`."""
        pieces: list[str | _Placeholder] = []
        at = 0
        other = sorted((n for n in columns if n and not n.isidentifier() and f"{{{n}" in text), key=len)
        pattern = _placeholder_pattern("|".join(map(re.escape, reversed(other)))) if other else _PLACEHOLDER
        for found in _Scan(text, _AnyName(), "single", pattern=pattern).placeholders():
            pieces += [text[at : found.start], found]
            at = found.end
        return cls(text, (*pieces, text[at:]))

    @property
    def columns(self) -> tuple[str, ...]:
        """The columns that it uses, in order."""
        matches = [p.match for p in self.pieces if isinstance(p, _Placeholder)]
        return tuple(dict.fromkeys(m["root"] for m in matches if m))

    def locate(self, column: str) -> str:
        """The position (line and column, as text) of the first placeholder for a column."""
        found = (
            p for p in self.pieces if isinstance(p, _Placeholder) and p.match and p.match["root"] == column
        )
        return _position(self.text, next(found).start)

    def fill(self, row: Mapping[str, Any]) -> str:
        """The prompt for a row. Raises ConfigError where an attribute, index or format fails."""
        return "".join(p if isinstance(p, str) else self._value(p, row) for p in self.pieces)

    def _value(self, placeholder: _Placeholder, row: Mapping[str, Any]) -> str:
        if (
            placeholder.match
            and placeholder.match[0] == f"{{{placeholder.source}}}"
            and type(row.get(placeholder.source)) is str
        ):
            return str(row[placeholder.source])  # by far the most frequent case
        value = _evaluate(self.text, placeholder, row, lambda _: None, DEFAULT_BUDGET)
        if value is None or (value.plain and (is_drawable(value.value) or callable(value.value))):
            given = row[placeholder.match["root"] if placeholder.match else ""]
            raise ConfigError(
                f"{_position(self.text, placeholder.start)}: "
                f"{self.text[placeholder.start : placeholder.end]} does not accept {reprlib.repr(given)}."
            )
        return value.text


def find_expressions(text: str, namespace: Container[str] | None, mode: str = "on") -> list[tuple[int, int]]:
    """The (start, end) of each `{{expression}}` that filling would run; without a namespace, of those that
    would run with some namespace."""
    names = _AnyName() if namespace is None else namespace
    return [(p.start, p.end) for p in _Scan(text, names, mode).placeholders() if p.match is None]


def first_placeholder(text: str, namespace: Container[str]) -> str:
    """The first placeholder in `text`, "" where there is none."""
    return next((text[p.start : p.end] for p in _Scan(text, namespace, "on").placeholders()), "")


class _AnyName:
    """A namespace that contains every name, to find all possible placeholders."""

    def __contains__(self, name: object) -> bool:
        return True


# --- finding placeholders -----------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Placeholder:
    """A placeholder: `match` is the match of a single brace, None for {{ }}."""

    start: int
    end: int
    source: str
    match: re.Match[str] | None = None


@dataclass(slots=True)
class _Scan:
    """The search for placeholders in a text."""

    text: str
    namespace: Container[str]
    mode: str
    reports: bool = False  # adds text that looks like a placeholder and stays unchanged to `skipped`
    skipped: list[str] = field(default_factory=list)
    code: code_spans.Spans = code_spans.NO_SPANS
    literals: code_spans.Spans = code_spans.NO_SPANS
    pattern: re.Pattern[str] = _PLACEHOLDER  # is tried first

    def __post_init__(self) -> None:
        if self.mode != "off" and "{" in self.text:
            self.code, self.literals = code_spans.find_code(self.text), code_spans.find_literals(self.text)

    def placeholders(self) -> Iterator[_Placeholder]:
        """The placeholders, from left to right."""
        run, end = _RUN.search(self.text), -1
        while run and self.mode != "off":
            found = self._match(run, end)
            if found:
                yield found
                end = found.end
            run = _RUN.search(self.text, found.end if found else run.end())

    def _match(self, run: re.Match[str], end: int) -> _Placeholder | None:
        at, braces = run.start(), len(run[0])
        if at in self.literals or braces > 2:
            return None
        if braces == 2:
            return None if self.mode == "single" else self._match_double(at, end)
        match = self.pattern.match(self.text, at) or _PLACEHOLDER.match(self.text, at)
        match = match if match and _is_name(match) and _is_format(match) else None
        known = match is not None and _lookup_form(match["root"], self.namespace) in self.namespace
        if match is None or not known or self.mode == "double" or not self.allows_placeholder(at, end):
            if self.reports and self.mode == "on" and self._looks_like_placeholder(at, end, match):
                self.skipped.append(self.text[at : self.text.find("}", at) + 1])
            return None
        if at != end and self._is_foreign(at, match.end()):
            self.skipped.append(match[0])
            return None
        return _Placeholder(at, match.end(), match["expr"], match)

    def _is_foreign(self, at: int, end: int) -> bool:
        """Whether another language uses braces between `at` and `end`."""
        context = f"{self.text[max(0, at - _CONTEXT) : at]}\0{self.text[end : end + _CONTEXT]}"
        tag = self.text.rfind("<", max(0, at - 1_000), at)
        return bool(_FOREIGN.search(context) or (tag >= 0 and _TAG.fullmatch(self.text, tag, at)))

    def allows_placeholder(self, at: int, end: int) -> bool:
        """Whether the position `at` allows a placeholder. end: the end of the last one."""
        return self._is_separate(at, end) and at not in self.code and at not in self.literals

    def _is_separate(self, at: int, end: int) -> bool:
        """Whether the text before a brace does not make it part of another language."""
        follows = end >= max(0, at - 3) and not self.text[end:at].strip("_")  # {a}_{b}
        if follows:
            at = end
        else:
            at = next((i for i in range(max(0, at - 3), at) if _EMPHASIS.match(self.text, i)), at)
        last = at - 1
        while last > max(0, at - 8) and category(self.text[last])[0] == "M":
            last -= 1  # skips accents and vowel signs
        before = self.text[last] if at else ""
        is_letter = before.isalpha() and not name(before, "").startswith(_UNSPACED)
        return at == end or not (is_letter or before.isdecimal() or (before != "" and before in _NOT_AFTER))

    def _looks_like_placeholder(self, at: int, end: int, match: re.Match[str] | None) -> bool:
        """Whether unfilled single braces should be reported: they look like a placeholder, at a position
        where one could be. match: of a name, None where it is not a name."""
        close = self.text.find("}", at, at + _CONTEXT)
        source = self.text[at + 1 : close].strip()
        separate = self._is_separate(at, end)
        if close < 0 or len(self.skipped) >= _MAX_REPORTED or not (separate or match) or at in self.literals:
            return False
        if self._is_foreign(at, close + 1) or "\n" in source or not (match or _parse_expression(source)):
            return False
        names = [_normalize(match["root"])] if match else _free_names(source)
        known = [n for n in names if n in self.namespace]
        is_word = separate or (len(names[0]) > 1 and _WORD.search(self.text, max(0, at - _CONTEXT), at))
        if at in self.code or not separate:
            return bool(match and known and is_word)
        if match:
            return not keyword.iskeyword(names[0])
        return bool(known) and all(n in known or n in _BUILTINS for n in names) and _is_one_value(source)

    def _match_double(self, at: int, end: int) -> _Placeholder | None:
        limit, close = min(len(self.text), at + _MAX_LENGTH), at + 1
        for _ in range(_MAX_TRIES):
            close = self.text.find("}}", close + 1, limit)
            if close < 0:
                break
            source = self.text[at + 2 : close].strip()
            if _parse_expression(source):
                names = [] if self.allows_placeholder(at, end) else _free_names(source)
                if any(n not in self.namespace and n not in _BUILTINS for n in names):
                    self.skipped.append(self.text[at : close + 2])
                    return None
                return _Placeholder(at, close + 2, source)
        close = self.text.find("}}", at, limit)
        if close > at + 2 and at not in self.code:  # in code that is to be expected
            self.skipped.append(self.text[at : close + 2])
        return None


def _normalize(word: str) -> str:
    """A name in the form that Python uses."""
    return word if word.isascii() else normalize("NFKC", word)


def _lookup_form(word: str, names: Container[str]) -> str:
    """The form of a name in `names`: unchanged (of a column), or normalized."""
    return word if word in names else _normalize(word)


def _is_name(match: re.Match[str]) -> bool:
    """Whether root and attributes are names; the root may also be a column of any name."""
    attributes = (step["attr"] for step in _STEP.finditer(match["path"]))
    return (match.re is not _PLACEHOLDER or match["root"].isidentifier()) and all(
        a is None or a.isidentifier() for a in attributes
    )


def _is_one_value(source: str) -> bool:
    """Whether an expression is a single value, not a list of names as in mathematical sets and JavaScript
    objects."""
    tree = _parse_expression(source)
    return tree is not None and not isinstance(tree.body, ast.Tuple | ast.Starred | ast.Constant)


def _advice(source: str, namespace: Mapping[str, Any]) -> str:
    """A skipped text, and what to write instead if that is known."""
    match, inside = _PLACEHOLDER.fullmatch(source), source.strip("{}").strip()
    if source.startswith("{{"):
        return source[:_CONTEXT]
    if match is None or _lookup_form(match["root"], namespace) in namespace:
        return f"{source}, write {{{inside if inside.isidentifier() and match is None else f'{{{inside}}}'}}}"
    near = _similar_name(_normalize(match["root"]), namespace)
    return f"{source}, did you mean {near}?" if near else source


def _similar_name(word: str, namespace: Mapping[str, Any]) -> str:
    """The most similar name of the namespace, "" where there is none."""
    names = {n.casefold(): n for n in namespace if not n.startswith("_")}
    near = similar_names(word.casefold(), names, cutoff=0.6 if len(word) > 3 else 0.75)
    return names[near[0]] if near else ""


def _is_format(match: re.Match[str]) -> bool:
    """Whether the text after the colon, if there is one, can be nothing but a format."""
    fmt = match["fmt"] or ""
    if _HUGE_WIDTH.search(fmt) or not fmt or match["conv"]:
        return not _HUGE_WIDTH.search(fmt)
    found = _FORMAT[match["path"] != ""].fullmatch(fmt)
    return found is not None and not (found["width"] and int(found["width"]) < int(found["precision"]) + 2)


def _parse_expression(source: str) -> ast.Expression | None:
    """A parsed Python expression, None for other text."""
    with warnings.catch_warnings(action="ignore"):  # about invalid escapes, which the evaluation repeats
        try:
            return ast.parse(source, mode="eval")
        except (SyntaxError, ValueError, RecursionError, MemoryError):
            return None


def _free_names(source: str) -> list[str]:
    """The free variables of an expression, as far as its syntax shows."""
    tree = _parse_expression(source)
    nodes = [*ast.walk(tree)] if tree else []
    bound = {n.id for n in nodes if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Store)} | {
        n.arg for n in nodes if isinstance(n, ast.arg)
    }
    names = [n for n in nodes if isinstance(n, ast.Name) and n.id not in bound]
    return [n.id for n in sorted(names, key=lambda n: (n.lineno, n.col_offset))]


# --- evaluating placeholders --------------------------------------------------------------------------------


def _evaluate(
    text: str,
    placeholder: _Placeholder,
    namespace: Mapping[str, Any],
    evaluate: Callable[[str], Any],
    budget: int,
) -> Substitution | None:
    """The value of a placeholder; None where the value does not support its format."""
    match = placeholder.match
    conv, fmt = (match["conv"], match["fmt"]) if match else (None, None)
    value = (
        _get_path(text, placeholder, match, namespace)
        if match
        else _run(text, placeholder, "", lambda: evaluate(placeholder.source))
    )
    text_form = _run(
        text,
        placeholder,
        " to become text",
        lambda: format_value(value, conv, budget) if conv or not fmt else value,
    )
    if fmt:
        try:
            text_form = format(text_form, fmt)
        except Exception:  # noqa: BLE001 - the user's own objects may raise anything
            return None
    return Substitution(placeholder.source, value, text_form, not conv and not fmt)


def _get_path(
    text: str, placeholder: _Placeholder, match: re.Match[str], namespace: Mapping[str, Any]
) -> Any:
    value = namespace[_lookup_form(match["root"], namespace)]
    for step in _STEP.finditer(match["path"]):
        if step["attr"] and step["attr"].startswith("_"):
            raise ConfigError(
                f"{_position(text, placeholder.start)}: {placeholder.source} uses a private attribute.",
                hint=f"Write {{{{{placeholder.source}}}}} to use it anyway, or keep the braces unchanged "
                f"with fill=double.",
            )
        value = _run(text, placeholder, f" at {step.group()}", partial(_get_item, value, step))
    return value


def _get_item(value: Any, step: re.Match[str]) -> Any:
    if step["attr"]:
        return getattr(value, _normalize(step["attr"]))
    key = step["one"] if step["one"] is not None else step["two"]
    return value[int(step["index"]) if step["index"] else key]


def _run(text: str, placeholder: _Placeholder, step: str, function: Callable[[], Any]) -> Any:
    try:
        return function()
    except Exception as error:  # noqa: BLE001 - the user's own objects and expressions may raise anything
        shown = _one_line(text[placeholder.start : placeholder.end], 80)
        raise ConfigError(
            f"{_position(text, placeholder.start)}: {shown} failed{step} with {type(error).__name__}: "
            f"{_one_line(str(error), 300)}",
            hint=f"Correct it, or keep the braces unchanged with "
            f"fill={'double' if placeholder.match else 'off'}.",
        ) from None


def _position(text: str, at: int) -> str:
    return f"Line {text.count(chr(10), 0, at) + 1}, column {at - text.rfind(chr(10), 0, at)} of the prompt"


def _one_line(text: str, limit: int) -> str:
    text = " ".join(text.split())
    return text if len(text) <= limit else text[: limit - 3] + "..."
