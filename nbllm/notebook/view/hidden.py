"""Makes hidden characters visible: characters that are invisible, reorder text or smuggle data. One table for
all displayed text and for code that goes into a cell.

Hidden are what Unicode calls controls, format characters, private use or unassigned, and a few empty letters
and marks (`_EMPTY`). Line ends and tabs are not. Some have a legitimate use, and stay only in that context:

- variation selectors and joiners in emoji, keycaps, the flags of England, Scotland and Wales;
- joiners between letters of scripts that join (Arabic, the Indic ones ...), selectors after Chinese and
  Mongolian letters;
- direction marks (never overrides or isolates) next to a right-to-left letter, with at most a blank or
  punctuation between.

All others are shown as ⟨U+200B⟩, C0 controls as their control pictures.
"""

from __future__ import annotations

import re
from functools import lru_cache
from unicodedata import category

_EMPTY = frozenset(
    "\u034f\u115f\u1160\u17b4\u17b5\u180b\u180c\u180d\u180f\u3164\uffa0"
    + "".join(map(chr, [*range(0xFE00, 0xFE10), *range(0xE0100, 0xE01F0)]))
)
_HARMLESS = frozenset(
    "\t\n\r\u0600\u0601\u0602\u0603\u0604\u0605\u06dd\u070f\u0890\u0891\u08e2\U000110bd\U000110cd"
)  # or they have a visible form
# Blocks to which every Unicode version adds characters: emoji and Chinese. Unassigned in Python's tables,
# they may be visible in the front end.
_OPEN_BLOCKS = ((0x1F000, 0x1FAFF), (0x20000, 0x3FFFD))

_EMOJI = "[\u00a9\u00ae\u203c\u2049\u2122\u2139\u2190-\u21ff\u2300-\u27bf\u2900-\u297f\u2b00-\u2bff\u3030\u303d\u3297\u3299\U0001f000-\U0001faff]"  # noqa: E501
_TONE = "[\U0001f3fb-\U0001f3ff]?"
_FLAGS = "|".join(
    "".join(chr(0xE0000 + ord(letter)) for letter in name) for name in ("gbeng", "gbsct", "gbwls")
)
_JOINING = "\u0620-\u08ff\u0900-\u0dff\u0f00-\u109f\u1780-\u18af\u1900-\u1cff\ua840-\ua87f\ua8e0-\ua8ff\ua980-\ua9df\ufb50-\ufdff\ufe70-\ufefc\U00010a00-\U00011fff"  # noqa: E501
_RIGHT_TO_LEFT = "\u0590-\u08ff\ufb1d-\ufdff\ufe70-\ufefc\U00010800-\U00010fff\U0001e800-\U0001eeff"
_HAN = "\u3400-\u9fff\uf900-\ufaff\U00020000-\U0003fffd"
# Contexts in which hidden characters stay; {hidden} stands for all hidden characters.
_LEGITIMATE = (
    "[0-9#*]\ufe0f(?:\u20e3|\\Z)",
    f"\U0001f3f4(?:{_FLAGS})\U000e007f",
    # at the end of the text more may follow
    f"{_EMOJI}[\ufe0e\ufe0f]?{_TONE}(?:\u200d{_EMOJI}\ufe0f?{_TONE}){{0,9}}+(?:\u200d\\Z)?",
    f"(?<=[{_JOINING}])(?<![{{hidden}}])[\u200c\u200d](?![{{hidden}}])",
    f"(?<=[{_RIGHT_TO_LEFT}])(?<![{{hidden}}])[\u061c\u200e\u200f]|(?<=[{_RIGHT_TO_LEFT}][ "
    f"-/:-@])(?<![{{hidden}}].)[\u061c\u200e\u200f]"
    f"|[\u061c\u200e\u200f](?=[{_RIGHT_TO_LEFT}])(?![{{hidden}}])",
    f"(?<=[{_HAN}])[\ufe00-\ufe02\U000e0100-\U000e01ef]",
    "(?<=[\u1820-\u18aa])[\u180b-\u180f]",
)

# Characters of most texts, none of them hidden. Other texts are checked character by character.
_COMMON = re.compile(
    "[\t\n\r -~\u00a0-\u00ac\u00ae-\u024f\u0400-\u0481\u2010-\u2027\u2030-\u205e"
    "\u3041-\u3096\u30a1-\u30fa\u4e00-\u9fa5\uac00-\ud7a3]*+"
)


def clean(text: str) -> str:
    """`text` with hidden characters made visible and lone surrogates replaced."""
    return clean_and_count(text)[0]


def plain_text(text: str) -> str:
    """As `clean`, with every line end as a newline: in a terminal a bare carriage return would overwrite its
    line."""
    return clean(text).replace("\r\n", "\n").replace("\r", "\n")


def clean_and_count(text: str) -> tuple[str, int]:
    """(cleaned text, number of characters made visible)."""
    hidden = _hidden_in(text)
    if any("\ud800" <= c <= "\udfff" for c in hidden):
        text = text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
        hidden = _hidden_in(text)
    if not hidden:
        return text, 0
    count = 0

    def mark(match: re.Match[str]) -> str:
        nonlocal count
        count += match.lastgroup is not None
        return _visible_form(match[0]) if match.lastgroup else match[0]

    return _pattern(hidden).sub(mark, text), count


def _hidden_in(text: str) -> str:
    """The hidden characters of `text`, sorted."""
    if _COMMON.fullmatch(text):
        return ""
    return "".join(sorted(c for c in set(text) if _is_hidden(c)))


@lru_cache(maxsize=2_048)
def _is_hidden(c: str) -> bool:
    if c in _EMPTY:
        return True
    return (
        category(c)[0] == "C"
        and c not in _HARMLESS
        and not any(first <= ord(c) <= last for first, last in _OPEN_BLOCKS)
    )


@lru_cache(maxsize=64)
def _pattern(hidden: str) -> re.Pattern[str]:
    letters = re.escape(hidden)
    return re.compile(
        "|".join(form.replace("{hidden}", letters) for form in _LEGITIMATE) + f"|(?P<hidden>[{letters}])",
        re.DOTALL,
    )


def _visible_form(c: str) -> str:
    code = ord(c)
    return chr(0x2400 + code) if code < 0x20 else "␡" if code == 0x7F else f"⟨U+{code:04X}⟩"
