r"""Splits a growing Markdown text into finished blocks and the tail that is still open.

Theory. A top-level block (paragraph, list, fence, ...) can change only while it is the last one: as soon as
the beginning of the next block is certain, everything before it is finished and need never be parsed or sent
again. The Markdown parser decides what a block is, not patterns: the tail is parsed (blocks only, nothing
inline) and cut at the start of its last block. Patterns only decide when parsing is worthwhile:

- `_DECIDED`: an incomplete line can be judged from its first letter on, `Hello` or `- x` or `**B`; a line
  that begins with punctuation could still become anything and waits for its end.
- a line is worth parsing if it follows a blank line or begins like a fence, heading, quote, list or ruler,
  or follows such a line.
- inside an open fence only the closing fence counts. Elsewhere, after a result "still the same block" the
  tail is parsed again when it has grown by a quarter, so that a long list costs time in proportion to its
  length; lines that should begin a block (unindented text after a list) are parsed at once, as long as this
  guess has been right.

All of this depends on positions in the text, not on the chunks in which it arrived: any chunking gives the
same blocks, and finished blocks and tail, joined, are the text. Blocks rendered one by one look like the
whole text, except for link definitions: they act on later blocks at once, and on earlier ones in the final
rendering.
"""

from __future__ import annotations

import re
from typing import Protocol

from .block_rules import FENCE, closing_fence
from .hidden import clean
from .markdown import outline

_ALWAYS_SIZE, _ALWAYS_LINES = 2_048, 24  # a tail up to this size and number of lines is always parsed
_SIGNS = r"(?:[-+*>#]{1,6}[ ]+|\d{1,9}[.)][ ]+|\*\*|__|[*_\"'(\[`“„«])?"
_DECIDED = re.compile(rf"[ ]*{_SIGNS}[^\W\d_]")
_OPENER = re.compile(
    r" *(?:```|~~~|\#{1,6}[ \t]|>|[-+*_](?:[ \t]|$)|\d{1,9}[.)](?:[ "
    r"\t]|$)|\$\$|\\\[|\*\*\*|---|___|=+\s*$|--\s*$)"
)
_ENDS_LIST = re.compile(r" ?(?:`{3,}[^`]*$|~~~|\#{1,6}[ \t])")
_AT_MARGIN = re.compile(r" ?(?![-+*\s]|\d{1,9}[.)](?:\s|$))\S")
_BLANK = " \t\r\n"
_PREFIX_LENGTH = 100  # characters of a line in which its first letter is looked for
_ITEM = re.compile(r" ?(?:[-+*]|\d{1,9}[.)])[ \t]")
_DIVIDER = re.compile(r" {0,3}(?!-[ \t])[-:|][-:| \t]+\r?\n")
_NEWLINE = re.compile(r"\r\n|\r|\n")


class Splitter(Protocol):
    """Splits a growing text into finished pieces."""

    def feed(self, text: str) -> list[str]:
        """Adds text; returns the pieces that are finished now."""

    def tail(self) -> str:
        """The unfinished text."""

    def split_tail(self, above: int) -> str:
        """If the tail is longer than `above`, removes and returns a part that can be shown by itself;
        otherwise ""."""


class LineSplitter:
    """Plain text: complete lines are finished."""

    def __init__(self) -> None:
        self._tail = ""

    def feed(self, text: str) -> list[str]:
        """Adds text; returns the lines that are finished now, as one piece."""
        done, newline, self._tail = (self._tail + text).rpartition("\n")
        return [done + newline] if newline else []

    def tail(self) -> str:
        """The last line."""
        return self._tail

    def split_tail(self, above: int) -> str:
        """Returns "": lines are never split."""
        return ""


class BlockSplitter:
    """Markdown: a block is finished when the next one has begun."""

    def __init__(self) -> None:
        self._lines: list[str] = []  # complete lines of the tail
        self._size = 0  # characters in them
        self._open: list[str] = []  # pieces of the incomplete line
        self._width = 0  # characters of that line that were examined
        self._line_judged = False  # whether that line was judged already
        self._parse_at_size = 0  # size of the tail from which it is parsed again
        self._last_guess_right = True  # whether the last line that should begin a block did
        self._in_list = False  # whether the tail is a list
        self._fence: re.Pattern[str] | None = None  # the end of the fence that the tail is in

    def feed(self, text: str) -> list[str]:
        """Adds text; returns the sources of the blocks that are finished now."""
        done: list[str] = []
        *complete, rest = text.split("\n")
        for piece in complete:
            self._extend_line(piece, done)
            self._end_line(done)
        if rest:
            self._extend_line(rest, done)
        return done

    def tail(self) -> str:
        """The source of the open block."""
        return "".join(self._lines) + "".join(self._open)

    def split_tail(self, above: int) -> str:
        """Splits a long open block for display, so that the part that is drawn repeatedly stays short: a
        fence between two lines (both parts get its opening line, so that the pieces no longer join to the
        text), a list between two items, any other block of twice that length at its end (with the head of
        a table repeated). Optional."""
        line = "".join(self._open)
        cut = (line.rfind(" ") + 1 or len(line)) if len(line) > above else 0
        if self._fence:
            return self._split_fence(line[:cut], line[cut:]) if cut or self._size > above else ""
        at = (
            next((i for i in range(len(self._lines) - 1, 0, -1) if _ITEM.match(self._lines[i])), 0)
            if self._in_list and self._size > above
            else 0
        )
        if not at and self._size + len(line) <= 2 * above:
            return ""
        piece = "".join(self._lines[:at] if at else [*self._lines, line[:cut]])
        head = (
            self._lines[:2]
            if len(self._lines) > 2
            and _DIVIDER.fullmatch(self._lines[1])
            and sum(map(len, self._lines[:2])) < above
            else []
        )
        self._open = [line] if at else [line[cut:]]
        self._set_tail("".join(self._lines[at:] if at else head))
        return piece

    def _split_fence(self, done: str, rest: str) -> str:
        opening = next(line for line in self._lines if line.strip(_BLANK))
        match = FENCE.match(opening)
        assert match
        piece = "".join(self._lines) + (f"{done}\n" if done else "") + match[1] + "\n"
        self._open = [rest]
        self._set_tail(opening)
        return piece

    def _extend_line(self, piece: str, done: list[str]) -> None:
        self._open.append(piece)
        if self._line_judged or self._fence or self._width > _PREFIX_LENGTH:
            return
        line = "".join(self._open)
        self._width = len(line)
        match = _DECIDED.match(line[:_PREFIX_LENGTH])
        if match:
            self._line_judged = True
            self._parse_if_needed(line[: match.end()], done)

    def _end_line(self, done: list[str]) -> None:
        line = "".join(self._open) + "\n"
        if self._fence:
            if self._fence.fullmatch(line.rstrip()):
                self._fence = None
        elif not self._line_judged or _OPENER.match(line):
            self._parse_if_needed(line, done)
        self._lines.append(line)
        self._size += len(line)
        self._open, self._line_judged, self._width = [], False, 0

    def _parse_if_needed(self, line: str, done: list[str]) -> None:
        """Parses the tail if `line` (complete, or up to its first letter) may begin a block."""
        before = self._lines[-1] if self._lines else ""
        if not self._lines:
            self._watch_fence(line)
        elif line.strip(_BLANK) and self._is_worth_parsing(before, line):
            self._split(before, line, done)

    def _is_worth_parsing(self, before: str, line: str) -> bool:
        after_blank = not before.strip(_BLANK)
        if not (after_blank or _OPENER.match(line) or _OPENER.match(before)):
            return False
        expects_block = bool((after_blank and _AT_MARGIN.match(line)) or _ENDS_LIST.match(line))
        small = self._size < _ALWAYS_SIZE and len(self._lines) < _ALWAYS_LINES
        if not (small or self._size >= self._parse_at_size or (expects_block and self._last_guess_right)):
            return False
        self._last_guess_right = not expects_block  # until the result is known
        return True

    def _split(self, before: str, line: str, done: list[str]) -> None:
        text = "".join(self._lines) + line
        tokens = [t for t in outline(clean(text), {"growing": True}) if t.level == 0 and t.nesting >= 0]
        starts = [t.map[0] for t in tokens if t.map]
        if (
            starts and before.strip(_BLANK) and tokens[-1].meta.get("open")
        ):  # a `$$` that may still become text
            starts.pop()
        ends = [0, *(m.end() for m in _NEWLINE.finditer(text))]
        cuts = [ends[s] for s in starts[1:] if ends[s] <= len(text) - len(line)]
        self._parse_at_size = 0 if cuts else self._size + self._size // 4
        self._last_guess_right |= bool(cuts)
        for a, b in zip([0, *cuts], cuts, strict=False):
            done.append(text[a:b])
        if cuts:
            self._set_tail(text[cuts[-1] : len(text) - len(line)])
        self._in_list = bool(tokens) and tokens[-1].tag in ("ul", "ol")
        if tokens and tokens[-1].type == "fence" and ends[starts[-1]] == len(text) - len(line):
            self._watch_fence(line)

    def _set_tail(self, rest: str) -> None:
        self._lines = [piece + "\n" for piece in rest.split("\n")[:-1]]
        self._size = len(rest)

    def _watch_fence(self, line: str) -> None:
        """If `line` opens a top-level fence, only its closing line matters from now on."""
        if line.endswith("\n"):
            self._fence = closing_fence(line)
