"""Replacements for the block rules of Markdown that lose words: link definitions, tables, and deep nesting.

- A definition (`[1]: https://x.y`, but also `[Answer]: 42`) is shown as a paragraph. It defines a link if its
  address can be followed.
- GFM drops the cells of a table row beyond its head. Here a `|` in a code span does not divide cells if that
  would give too many, and extra cells are kept. Short rows are not filled up: 2 kB could become 650 kB.
- `<details>` with its `<summary>` collapses the content between its tags, which are ordinary blocks. An
  unclosed one is text.
- Inside `_MAX_DEPTH` quotes and lists the parser would stop reading. Here the rest is one paragraph, with its
  punctuation.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from ...core.code_spans import find_backtick_spans

if TYPE_CHECKING:
    from markdown_it import MarkdownIt
    from markdown_it.rules_block import StateBlock

_MAX_DEPTH = 16  # levels; below the parser's own limit of 20
_DETAILS = re.compile(r"<details(?:\s+open)?\s*>(?=\s*(?:<summary\s*>|$))", re.IGNORECASE)
_HEAD = re.compile(
    r"<details(?:\s+open)?\s*>\s*?(?:\n?\s*<summary\s*>(?P<summary>[\s\S]*?)</summary\s*>)?(?P<beside>[^\n]*)",
    re.IGNORECASE,
)
_END = re.compile(r"</details\s*>\s*$", re.IGNORECASE)
FENCE = re.compile(r" {0,3}(`{3,}+(?!.*`)|~{3,})")  # the beginning of a line that opens one, and its marks
_SUMMARY_LINES = 10
_DIVIDER = re.compile(r"(?!-[ \t])[-:|][-:|\s]+")
_DASHES = re.compile(r"(?P<left>:?)-+(?P<right>:?)")
_ALIGNS = {("", ""): "", (":", ""): "left", ("", ":"): "right", (":", ":"): "center"}
_KINDS = {"p": "paragraph"}  # token types that differ from the name of the tag
_PIPE = re.compile(r"(?<!\\)\|")


def add_to(md: MarkdownIt, may_follow: Callable[[str], object]) -> None:
    """Replaces the parser's rules; `may_follow` tells whether an address can be followed."""
    from markdown_it.rules_block import reference

    def definition(state: StateBlock, start: int, end: int, silent: bool) -> bool:
        known: dict[str, Any] = state.env.setdefault("references", {})
        found: dict[str, Any] = {}
        state.env["references"] = found
        is_one = reference(state, start, end, silent)
        state.env["references"] = known
        if is_one and not silent:
            known |= {
                label: made
                for label, made in found.items()
                if label not in known and may_follow(made["href"])
            }
            if not state.env.get("growing"):  # while the text grows the definition's title may still follow
                _push_element(
                    state,
                    "p",
                    state.getLines(start, state.line, state.blkIndent, False).strip(),
                    (start, state.line),
                )
        return is_one

    md.block.ruler.at("reference", definition)
    md.block.ruler.at("table", _table, {"alt": ["paragraph", "reference"]})
    md.block.ruler.before("table", "deep", _flatten)
    md.block.ruler.before(
        "table", "details", _details, {"alt": ["paragraph", "reference", "blockquote", "list"]}
    )


def _flatten(state: StateBlock, start: int, end: int, silent: bool) -> bool:
    if state.level < _MAX_DEPTH:
        return False
    _push_element(state, "p", state.getLines(start, end, state.blkIndent, False).strip(), (start, end))
    state.line = end
    return True


def _push_element(state: StateBlock, tag: str, content: str, lines: tuple[int, int], align: str = "") -> None:
    opened = state.push(f"{_KINDS.get(tag, tag)}_open", tag, 1)
    opened.map, opened.attrs = list(lines), {"style": f"text-align:{align}"} if align else {}
    inline = state.push("inline", "", 0)
    inline.content, inline.map, inline.children = content, list(lines), []
    state.push(f"{_KINDS.get(tag, tag)}_close", tag, -1)


# -- details --


def _details(state: StateBlock, start: int, end: int, silent: bool) -> bool:
    """`<details>` on a line of its own or with its `<summary>`, up to the line that ends with its closing
    tag; while a text still grows (`env["growing"]`), up to its end."""
    first = _line(state, start)
    if not _DETAILS.match(first) or state.is_code_block(start):
        return False
    last = _closing_lines(state).get(start, end if state.env.get("growing") else -1)
    if not start <= last <= end or (last == end and not state.env.get("growing")):
        return False
    if not silent:
        _push_details(state, start, last, min(last + 1, end))
    return True


def _closing_lines(state: StateBlock) -> dict[int, int]:
    """For each line that opens details, the line that closes them, outside fences; computed once per text."""
    key = ("details", state.src)
    if state.env.get("closes", ("", ""))[0] != key:
        found: dict[int, int] = {}
        opened: list[int] = []
        closing: re.Pattern[str] | None = None
        for number in range(state.lineMax):
            line = _line(state, number)
            if closing:
                closing = None if closing.fullmatch(line) else closing
            elif not (closing := closing_fence(line)):
                opened += [number] if _DETAILS.match(line) else []
                if opened and _END.search(line):
                    found[opened.pop()] = number
        state.env["closes"] = (key, found)
    closes: dict[int, int] = state.env["closes"][1]
    return closes


def closing_fence(line: str) -> re.Pattern[str] | None:
    """The pattern of the line that closes the fence which `line` opens; None where it opens none."""
    match = FENCE.match(line)
    return re.compile(rf" {{0,3}}{match[1][0]}{{{len(match[1])},}}") if match else None


def _push_details(state: StateBlock, start: int, last: int, after: int) -> None:
    """The tokens of details: the summary, text beside the tags, and the blocks between."""
    before, state.parentType = state.parentType, "blockquote"
    most, state.lineMax = state.lineMax, last
    state.push("details_open", "details", 1).map = [start, after]
    lines = [_line(state, n) for n in range(start, min(after, start + _SUMMARY_LINES))]
    head = _HEAD.match(
        "\n".join([_END.sub("", line) if start + i == last else line for i, line in enumerate(lines)])
    )
    assert head is not None  # every line that opens details matches
    if head["summary"]:
        _push_element(state, "summary", " ".join(head["summary"].split()), (start, start + 1))
    begin = start + head[0].count("\n") + 1
    beside = head["beside"].strip()
    if beside:
        _push_element(state, "p", beside, (start, start + 1))
    state.md.block.tokenize(state, min(begin, last), last)
    rest = _END.sub("", _line(state, last)).strip() if begin <= last < after else ""
    if rest:
        _push_element(state, "p", rest, (last, last + 1))
    state.push("details_close", "details", -1)
    state.lineMax, state.parentType, state.line = most, before, after


# -- tables --


def _table(state: StateBlock, start: int, end: int, silent: bool) -> bool:
    if (
        start + 2 > end
        or state.sCount[start + 1] < state.blkIndent
        or state.is_code_block(start)
        or state.is_code_block(start + 1)
    ):
        return False
    aligns = _aligns(_line(state, start + 1))
    head = _cells(_line(state, start), len(aligns)) if aligns and "|" in _line(state, start) else []
    if not head or len(head) != len(aligns):
        return False
    if not silent:
        _push_table(state, start, end, head, aligns)
    return True


def _line(state: StateBlock, number: int) -> str:
    return state.src[state.bMarks[number] + state.tShift[number] : state.eMarks[number]].strip()


def _aligns(line: str) -> list[str]:
    """The alignments of the columns in a row of dashes; [] for any other line."""
    cells = (
        [_DASHES.fullmatch(cell.strip()) for cell in _split(line, [])] if _DIVIDER.fullmatch(line) else [None]
    )
    return [_ALIGNS[m["left"], m["right"]] for m in cells if m] if all(cells) else []


def _cells(line: str, wanted: int) -> list[str]:
    """The cells of a row; code spans are not split if there would be more than `wanted` cells."""
    cells = _split(line, [])
    return (
        cells
        if len(cells) <= wanted or "`" not in line
        else _split(line, list(find_backtick_spans(line, 0, len(line))))
    )


def _split(line: str, spans_to_keep: list[tuple[int, int]]) -> list[str]:
    """`line` split at its pipes, but not inside `spans_to_keep`."""
    spans = iter([*spans_to_keep, (len(line), len(line))])
    span, cells, at = next(spans), [], 0
    for pipe in _PIPE.finditer(line):
        while span[1] <= pipe.start() and span[0] < len(line):
            span = next(spans)
        if pipe.start() < span[0]:
            cells.append(line[at : pipe.start()])
            at = pipe.end()
    cells.append(line[at:])
    inner = cells[1 if cells[0] == "" else 0 : len(cells) - 1 if len(cells) > 1 and cells[-1] == "" else None]
    return [cell.strip().replace("\\|", "|") for cell in inner]


def _push_table(state: StateBlock, start: int, end: int, head: list[str], aligns: list[str]) -> None:
    """The tokens of a table: its head, and rows up to a line that ends a quote."""
    before, state.parentType = state.parentType, "table"
    table = state.push("table_open", "table", 1)
    state.push("thead_open", "thead", 1)
    _push_row(state, "th", start, head, aligns)
    state.push("thead_close", "thead", -1)
    number = start + 2
    while number < end and _continues(state, number, end):
        if number == start + 2:
            state.push("tbody_open", "tbody", 1)
        _push_row(state, "td", number, _cells(_line(state, number), len(aligns)), aligns)
        number += 1
    if number > start + 2:
        state.push("tbody_close", "tbody", -1)
    state.push("table_close", "table", -1)
    table.map, state.parentType, state.line = [start, number], before, number


def _continues(state: StateBlock, number: int, end: int) -> bool:
    if state.sCount[number] < state.blkIndent or not _line(state, number) or state.is_code_block(number):
        return False
    return not any(rule(state, number, end, True) for rule in state.md.block.ruler.getRules("blockquote"))


def _push_row(state: StateBlock, kind: str, number: int, cells: list[str], aligns: list[str]) -> None:
    state.push("tr_open", "tr", 1)
    for i, cell in enumerate(cells):
        _push_element(state, kind, cell, (number, number + 1), aligns[i] if i < len(aligns) else "")
    state.push("tr_close", "tr", -1)
