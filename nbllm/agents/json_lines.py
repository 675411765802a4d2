"""JSON objects in lines that need not be clean: with escape codes, with words before or after them, several
in one line, torn by another one or by a line end. Pure.

What begins like an object and does not end stays open for a few lines: what other writers put between does
not matter. Each line is looked at a limited number of times, so the cost grows with its size alone.
"""

from __future__ import annotations

import json
import re
from typing import Any

ANSI = re.compile(r"\x1b(?:\[[0-?]*[ -/]*[@-~]|\][^\x07\x1b]*(?:\x07|\x1b\\)|[()#][0-9A-Za-z]|[@-Z\\-_=>78])")
_STRIPPED = "\ufeff\r\0\x07\x08"  # no blanks: those of an object that goes on elsewhere count
_MAX_TRIES = 64  # places in a line at which an object is looked for
_MAX_LINES = 8  # lines for which one that is open waits
_MAX_PREFIXES = 4  # readings of what is open: with what stood between, and without
_LONGEST = 2**22  # characters of an object that may come in several lines
_decoder = json.JSONDecoder()


def parse_object(line: Any) -> dict[str, Any]:
    """The JSON object in a line, {} where there is none."""
    if isinstance(line, bytes):
        line = line.decode("utf-8", "replace")
    line = line.strip() if isinstance(line, str) else ""
    value, end = _object(line, 0)
    return value if end == len(line) else {}


def _object(text: str, at: int) -> tuple[dict[str, Any], int]:
    """The object that begins at a place, and where it ends; {} for none."""
    try:
        value, end = _decoder.raw_decode(text, at)
    except (ValueError, RecursionError):
        return {}, at
    return (value, end) if isinstance(value, dict) else ({}, at)


class ObjectReader:
    """Reads one line after another."""

    def __init__(self) -> None:
        self._prefixes: list[str] = []  # how what is open may begin
        self._first_text = ""  # as it came
        self._lines_waited = 0

    def read(self, line: str) -> tuple[list[dict[str, Any]], list[str]]:
        """The objects that a line completes, and the words in which none is."""
        line = (ANSI.sub("", line) if "\x1b" in line else line).strip(_STRIPPED)
        if line.lstrip().startswith("{") and (value := parse_object(line)):
            return [value], []
        if self._prefixes and (joined := self._try_join(line)) is not None:
            return joined
        found, words, rest = self._scan(line)
        if rest and (more := self._try_join(rest)) is not None:
            found, words = found + more[0], words + more[1]
        elif rest and not self._prefixes and not rest.lstrip().startswith("{"):
            words.append(rest.strip())
        elif rest:
            words += self._store(rest)
        return found, words

    def take_unfinished(self) -> list[str]:
        """What was open to the end, or for too long."""
        lost, self._prefixes, self._first_text, self._lines_waited = self._first_text, [], "", 0
        return [lost] if lost else []

    def _scan(self, line: str) -> tuple[list[dict[str, Any]], list[str], str]:
        """(objects, words, what may be a part of one)."""
        found: list[dict[str, Any]] = []
        words: list[str] = []
        begun = at = 0  # of what is not accounted for; where to look
        for _ in range(_MAX_TRIES):
            if (at := line.find('{"', at)) < 0:
                break
            value, end = _object(line, at)
            head = line[begun:at]
            if not value:
                at += 2
            elif head.lstrip().startswith("{") and line[end:].strip():
                whole = parse_object(head + line[end:])
                if whole:  # one object in the middle of another
                    return [*found, value, whole], words, ""
                at += 2
            elif head.lstrip().startswith("{"):  # at the end of what goes on in another line
                self._set_open(line[begun:], head)
                return [*found, value], words, ""
            else:
                words += [head.strip()] if head.strip() else []
                found.append(value)
                begun = at = end
        return found, words, line[begun:] if line[begun:].strip() else ""

    def _try_join(self, rest: str) -> tuple[list[dict[str, Any]], list[str]] | None:
        """What an open object and these words make; None for nothing."""
        for head in self._prefixes:
            value, end = _object(head + rest, 0)
            if value:
                after = (head + rest)[end:].strip()
                self._prefixes, self._first_text, self._lines_waited = [], "", 0
                if not after:
                    return [value], []
                found, words = self.read(after)
                return [value, *found], words
        return None

    def _set_open(self, *heads: str) -> None:
        self._prefixes = [*heads, *self._prefixes][:_MAX_PREFIXES]
        self._first_text, self._lines_waited = self._first_text or heads[-1].strip(), 0

    def _store(self, rest: str) -> list[str]:
        """Keeps words as part of what is open; those that were open for too long."""
        self._lines_waited += 1
        longer = [h + rest for h in self._prefixes if len(h) + len(rest) <= _LONGEST]
        lost = self.take_unfinished() if self._lines_waited > _MAX_LINES else []
        if rest.lstrip().startswith("{"):
            self._set_open(rest)
        if not lost and longer:
            self._prefixes = list(dict.fromkeys([*self._prefixes, *longer]))[-_MAX_PREFIXES:]
        elif len(rest) > _LONGEST:
            lost += self.take_unfinished()
        return lost
