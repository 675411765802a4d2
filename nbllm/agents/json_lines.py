"""Lenient reading of JSON objects from lines: with escape codes, with text before or after them, several in
one line, interrupted by another object or by a line break. Pure.

Text that begins like an object and does not end stays open for a few lines, in which other writers may
interleave output. Each line is scanned a limited number of times, so the cost is linear in its size.
"""

from __future__ import annotations

import json
import re
from typing import Any

ANSI = re.compile(r"\x1b(?:\[[0-?]*[ -/]*[@-~]|\][^\x07\x1b]*(?:\x07|\x1b\\)|[()#][0-9A-Za-z]|[@-Z\\-_=>78])")
_STRIPPED = "\ufeff\r\0\x07\x08"  # not blanks, which may be part of an object over several lines
_MAX_TRIES = 64  # positions in a line at which an object is tried
_MAX_LINES = 8  # lines for which an open object waits
_MAX_PREFIXES = 4  # alternatives for the open text: with the lines in between, and without
_LONGEST = 2**22  # characters of an object over several lines
_decoder = json.JSONDecoder()


def parse_object(line: Any) -> dict[str, Any]:
    """The JSON object that a line consists of, else {}."""
    if isinstance(line, bytes):
        line = line.decode("utf-8", "replace")
    line = line.strip() if isinstance(line, str) else ""
    value, end = _object(line, 0)
    return value if end == len(line) else {}


def _object(text: str, at: int) -> tuple[dict[str, Any], int]:
    """The object that begins at index `at`, and the index of its end; {} for none."""
    try:
        value, end = _decoder.raw_decode(text, at)
    except (ValueError, RecursionError):
        return {}, at
    return (value, end) if isinstance(value, dict) else ({}, at)


class ObjectReader:
    """Reads JSON objects from one line after another."""

    def __init__(self) -> None:
        self._prefixes: list[str] = []  # alternatives for the text of the open object
        self._first_text = ""  # the open text as it came
        self._lines_waited = 0

    def read(self, line: str) -> tuple[list[dict[str, Any]], list[str]]:
        """The objects that a line completes, and the texts in it without an object."""
        line = (ANSI.sub("", line) if "\x1b" in line else line).strip(_STRIPPED)
        if line.lstrip().startswith("{") and (value := parse_object(line)):
            return [value], []
        if self._prefixes and (joined := self._try_join(line)) is not None:
            return joined
        found, texts, rest = self._scan(line)
        if rest and (more := self._try_join(rest)) is not None:
            found, texts = found + more[0], texts + more[1]
        elif rest and not self._prefixes and not rest.lstrip().startswith("{"):
            texts.append(rest.strip())
        elif rest:
            texts += self._store(rest)
        return found, texts

    def take_unfinished(self) -> list[str]:
        """The text of an object that never ended; drops it."""
        lost, self._prefixes, self._first_text, self._lines_waited = self._first_text, [], "", 0
        return [lost] if lost else []

    def _scan(self, line: str) -> tuple[list[dict[str, Any]], list[str], str]:
        """(objects, other texts, a rest that may be part of an object)."""
        found: list[dict[str, Any]] = []
        texts: list[str] = []
        begun = at = 0  # where the unassigned text begins; where to search
        for _ in range(_MAX_TRIES):
            if (at := line.find('{"', at)) < 0:
                break
            value, end = _object(line, at)
            head = line[begun:at]
            if not value:
                at += 2
            elif head.lstrip().startswith("{") and line[end:].strip():
                outer = parse_object(head + line[end:])
                if outer:  # one object in the middle of another
                    return [*found, value, outer], texts, ""
                at += 2
            elif head.lstrip().startswith("{"):  # after the beginning of an object that continues later
                self._set_open(line[begun:], head)
                return [*found, value], texts, ""
            else:
                texts += [head.strip()] if head.strip() else []
                found.append(value)
                begun = at = end
        return found, texts, line[begun:] if line[begun:].strip() else ""

    def _try_join(self, rest: str) -> tuple[list[dict[str, Any]], list[str]] | None:
        """What `read` returns for the open text together with `rest`; None if that is no object."""
        for head in self._prefixes:
            value, end = _object(head + rest, 0)
            if value:
                after = (head + rest)[end:].strip()
                self._prefixes, self._first_text, self._lines_waited = [], "", 0
                if not after:
                    return [value], []
                found, texts = self.read(after)
                return [value, *found], texts
        return None

    def _set_open(self, *heads: str) -> None:
        self._prefixes = [*heads, *self._prefixes][:_MAX_PREFIXES]
        self._first_text, self._lines_waited = self._first_text or heads[-1].strip(), 0

    def _store(self, rest: str) -> list[str]:
        """Stores a text as part of the open object; returns texts that were open for too long."""
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
