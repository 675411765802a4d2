"""Puts the notebook's values into a prompt: `{name}` where the name exists, `{{expression}}` always.

Theory: a prompt is prose that may hold JSON, code, LaTeX and templates, whose braces are not ours. `{...}` is ours only
if all of this holds: it has the exact form name, .attribute, [index], !r, :format without spaces; the name exists; it
stands outside code spans and fences and outside f-strings; and it does not follow a letter, a digit, `_`, `^`, `\\`, `$`
or a `}` that is not ours. `{{...}}` is ours if what is between parses as a Python expression, in code too: two braces
are how a value is put into a fence on purpose. The text is scanned once, so braces in what was inserted mean nothing.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from ..errors import ConfigError

_PLACE = re.compile(
    r"\{(?P<expr>(?P<root>[A-Za-z_]\w*)(?P<path>(?:\.[A-Za-z]\w*|\[(?:-?\d+|'[^'\]\n]*'|\"[^\"\]\n]*\")\])*))"
    r"(?:!(?P<conv>[rsa]))?"
    r"(?::(?P<fmt>(?:.?[<>=^])?[+\-]?#?0?\d*[,_]?(?:\.\d+)?[bcdeEfFgGnosxX%]?|%[^{}\n]*))?\}"
)
_STEP = re.compile(r"\.(?P<attr>[A-Za-z]\w*)|\[(?:(?P<index>-?\d+)|'(?P<one>[^']*)'|\"(?P<two>[^\"]*)\")\]")
_FENCE = re.compile(r"(?:[ \t]|>|[-*+][ \t]|\d{1,9}[.)][ \t])*(?P<mark>`{3,}|~{3,})(?P<info>[^\n]*)")
_SPAN = re.compile(r"(?<!`)(?P<ticks>`+)(?!`)(?:[^`]|(?!(?P=ticks)(?!`))`+)*?(?<!`)(?P=ticks)(?!`)")
_FSTRING = re.compile(r"""(?:\b[fF][rR]?|\b[rR][fF]|\$@?|\w!\()(?P<q>["'])(?:(?!(?P=q)).)*$""")
_TRIES = 60  # closing braces tried for one {{, so that a prompt full of braces costs little


@dataclass(frozen=True, slots=True)
class Inserted:
    """A value put into the prompt: what was written between the braces, the value, and its text form."""

    source: str
    value: Any
    text: str
    plain: bool  # neither conversion nor format was asked for, so the value may take another form than text


@dataclass(frozen=True, slots=True)
class Filled:
    """A prompt with values in it. `names`: what was filled, for the footer; `skipped`: {{ }} that are no Python and stay."""

    pieces: tuple[str | Inserted, ...]
    names: tuple[str, ...] = ()
    skipped: tuple[str, ...] = ()

    @property
    def text(self) -> str:
        """The whole prompt as text."""
        return "".join(p if isinstance(p, str) else p.text for p in self.pieces)


def fill(text: str, namespace: Mapping[str, Any], evaluate: Callable[[str], Any], mode: str = "on") -> Filled:
    """Fills `text`. mode: on, double (only {{ }}), off. `evaluate` runs an expression in the notebook.

    Raises ConfigError, naming line and column, where an attribute, index, format or expression fails.
    """
    if mode == "off" or "{" not in text:
        return Filled((text,))
    code = list(_code(text)) if mode == "on" else []
    pieces: list[str | Inserted] = []
    skipped: list[str] = []
    at = end_of_ours = 0
    search = 0
    while (brace := text.find("{", search)) >= 0:
        found = _double(text, brace, evaluate, skipped) if text.startswith("{{", brace) else None
        if found is None and mode == "on":
            found = _single(text, brace, namespace, code, end_of_ours if pieces else -1)
        if found is None:
            search = brace + (2 if text.startswith("{{", brace) else 1)
            continue
        inserted, end = found
        pieces += [text[at:brace], inserted]
        at = search = end_of_ours = end
    pieces.append(text[at:])
    names = tuple(dict.fromkeys(p.source for p in pieces if isinstance(p, Inserted)))
    return Filled(tuple(p for p in pieces if p != ""), names, tuple(skipped))


def _where(text: str, at: int) -> str:
    return f"Line {text.count(chr(10), 0, at) + 1}, column {at - text.rfind(chr(10), 0, at)} of the prompt"


def _double(text: str, at: int, evaluate: Callable[[str], Any], skipped: list[str]) -> tuple[Inserted, int] | None:
    end = at + 2
    for _ in range(_TRIES):
        end = text.find("}}", end)
        if end < 0:
            break
        while text.startswith("}", end + 2) and not _parses(text[at + 2:end]):
            end += 1
        source = text[at + 2:end].strip()
        if _parses(source):
            return _evaluated(text, at, source, evaluate), end + 2
        end += 1
    skipped.append(text[at:text.find("}}", at) + 2 if "}}" in text[at:] else at + 2])
    return None


def _parses(source: str) -> bool:
    try:
        ast.parse(source.strip(), mode="eval")
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return False
    return bool(source.strip())


def _evaluated(text: str, at: int, source: str, evaluate: Callable[[str], Any]) -> Inserted:
    try:
        value = evaluate(source)
    except Exception as error:  # noqa: BLE001 - the person's own expression may raise anything
        raise ConfigError(f"{_where(text, at)}: {{{{{source}}}}} failed with {type(error).__name__}: {error}.",
                          hint="Correct it, or keep the braces as they are with fill=off.") from None
    return Inserted(source, value, text_of(value), True)


def _single(text: str, at: int, namespace: Mapping[str, Any], code: list[tuple[int, int]], ours: int) -> tuple[Inserted, int] | None:
    match = _PLACE.match(text, at)
    if match is None or match["root"] not in namespace or not _free(text, at, ours):
        return None
    if any(start <= at < end for start, end in code) or _FSTRING.search(text, text.rfind("\n", 0, at) + 1, at):
        return None
    value = _walk(text, at, match, namespace)
    try:
        shown = _formatted(value, match["conv"], match["fmt"])
    except (ValueError, TypeError) as error:
        raise ConfigError(f"{_where(text, at)}: {match.group()} cannot be formatted: {error}.", hint="Correct the format after the colon.") from None
    return Inserted(match["expr"], value, shown, match["conv"] is None and not match["fmt"]), match.end()


def _free(text: str, at: int, ours: int) -> bool:
    """Whether what stands before a brace leaves it to us."""
    before = text[at - 1:at]
    return at == ours or not (before.isalnum() or (before and before in "_^\\$}{"))


def _walk(text: str, at: int, match: re.Match[str], namespace: Mapping[str, Any]) -> Any:
    value = namespace[match["root"]]
    for step in _STEP.finditer(match["path"]):
        try:
            if step["attr"]:
                value = getattr(value, step["attr"])
            else:
                value = value[int(step["index"]) if step["index"] else step["one"] if step["one"] is not None else step["two"]]
        except Exception as error:  # noqa: BLE001 - properties and subscripts of any object may raise anything
            raise ConfigError(f"{_where(text, at)}: {match.group()} failed at {step.group()} with {type(error).__name__}: {error}.",
                              hint="Correct it, or keep the braces with fill=double.") from None
    return value


def _formatted(value: Any, conv: str | None, fmt: str | None) -> str:
    if conv:
        value = _CONVERSIONS[conv](value)
    return format(value, fmt) if fmt else value if isinstance(value, str) else text_of(value)


_CONVERSIONS: dict[str, Callable[[Any], str]] = {"r": repr, "s": str, "a": ascii}


def _code(text: str) -> Iterator[tuple[int, int]]:
    """Where fenced blocks and code spans stand."""
    at, fence, start, prose = 0, "", 0, 0
    for line in text.splitlines(keepends=True):
        mark = _FENCE.match(line)
        if not fence and mark and not (mark["mark"][0] == "`" and "`" in mark["info"]):
            yield from _spans(text, prose, at)
            fence, start = mark["mark"], at
        elif fence and mark and mark["mark"].startswith(fence) and not mark["info"].strip():
            fence, prose = "", at + len(line)
            yield start, prose
        at += len(line)
    if fence:
        yield start, len(text)
    else:
        yield from _spans(text, prose, len(text))


def _spans(text: str, start: int, end: int) -> Iterator[tuple[int, int]]:
    return (m.span() for m in _SPAN.finditer(text, start, end))


def names_in(text: str, namespace: Mapping[str, Any]) -> tuple[str, ...]:
    """The names that fill would take from `namespace`, nothing evaluated."""
    found = [m["root"] for m in _PLACE.finditer(text) if m["root"] in namespace and _free(text, m.start(), -1)]
    return tuple(dict.fromkeys(found))


# --- values as text -----------------------------------------------------------------------------------------

_ROWS, _COLUMNS, _CHARS = 10, 12, 4_000


def text_of(value: Any) -> str:
    """A value as a model reads it: data frames, series and arrays with shape, types and a sample, all else as str()."""
    kind = type(value)
    form = _FORMS.get((kind.__module__.partition(".")[0], kind.__name__))
    return form(value) if form else str(value)


def _frame(df: Any) -> str:
    shown = df.iloc[:_ROWS, :_COLUMNS]
    types = ", ".join(f"{name} ({kind})" for name, kind in zip(shown.columns, shown.dtypes, strict=True))
    more = f", {df.shape[1] - _COLUMNS} more" if df.shape[1] > _COLUMNS else ""
    rows = [["", *map(str, shown.columns)], ["---"] * (shown.shape[1] + 1)]
    rows += [[str(i), *(_cell(v) for v in row)] for i, row in zip(shown.index, shown.itertuples(index=False), strict=True)]
    table = "\n".join("| " + " | ".join(r) + " |" for r in rows)
    cut = f"\n(the first {_ROWS} of {len(df)} rows)" if len(df) > _ROWS else ""
    return f"A table of {df.shape[0]} rows and {df.shape[1]} columns: {types}{more}.\n\n{table}{cut}\n"


def _cell(value: Any) -> str:
    text = str(value).replace("|", "\\|").replace("\n", " ")
    return text if len(text) <= 80 else text[:77] + "..."


def _series(series: Any) -> str:
    return _frame(series.to_frame())


def _array(array: Any) -> str:
    text = str(array)
    return f"An array of shape {array.shape} and type {array.dtype}:\n{text[:_CHARS]}{'...' if len(text) > _CHARS else ''}\n"


_FORMS: dict[tuple[str, str], Callable[[Any], str]] = {("pandas", "DataFrame"): _frame, ("pandas", "Series"): _series, ("numpy", "ndarray"): _array}
