"""The tools of jupyter-mcp-server that change a notebook's cells: what a call would change, and its reverse.

Its tools are asked for what a cell holds before a change, so that the user sees the difference, and again
before it is taken back: what somebody else has changed meanwhile stays.
"""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from ..core.errors import NbllmError
from .changes import Change
from .mcp_entry import Entry

Ask = Callable[[str, dict[str, Any]], Awaitable[Any]]  # a tool of the server, by its name
_HEAD = re.compile(r"=+Cell (\d+) \| type: (\w+) \|[^\n]*=\n?")
_PLACE = re.compile(r"at index (\d+)")


class _Cell(NamedTuple):
    number: int
    kind: str
    source: str


def is_notebook(entry: Entry) -> bool:
    """Whether a server is jupyter-mcp-server, by the command that the user allowed."""
    return any(Path(word).name.split("@")[0].startswith("jupyter-mcp-server") for word in entry.argv)


def watched(tool: str, ask: Ask) -> Callable[[Mapping[str, Any]], Awaitable[Change | None]] | None:
    """What tells, for the arguments of a call of `tool`, which change it would make; None for a tool that
    changes no cell, or nothing that can be taken back."""
    found = _CHANGES.get(tool)
    return None if found is None else partial(found, ask)


async def _read(ask: Ask, where: Mapping[str, Any]) -> _Cell:
    """A cell as it is. Raises NbllmError where there is none."""
    text = str(await ask("read_cell", {**where, "include_outputs": False}))
    head = _HEAD.match(text)
    if head is None:
        raise NbllmError(" ".join(text.split())[:200])
    return _Cell(int(head[1]), head[2], text[head.end() :])


def _book(arguments: Mapping[str, Any]) -> dict[str, Any]:
    """Which notebook is meant."""
    return {k: arguments[k] for k in ("notebook_name",) if arguments.get(k) is not None}


def _where(arguments: Mapping[str, Any]) -> dict[str, Any]:
    """Which cell is meant: by its id where that is given."""
    key = "cell_id" if arguments.get("cell_id") is not None else "cell_index"
    return {key: arguments.get(key), **_book(arguments)}


def _same(a: str, b: str) -> bool:
    return a.rstrip("\n") == b.rstrip("\n")


async def _is(ask: Ask, where: Mapping[str, Any], source: str) -> bool:
    try:
        return _same((await _read(ask, where)).source, source)
    except NbllmError:
        return False


async def _rewritten(ask: Ask, arguments: Mapping[str, Any]) -> Change | None:
    where = _where(arguments)
    cell = await _read(ask, where)
    if "cell_source" in arguments:
        after = str(arguments["cell_source"])
    else:
        old, new = str(arguments["old_string"]), str(arguments["new_string"])
        after = cell.source.replace(old, new, -1 if arguments.get("replace_all") else 1)

    before = {**where, "cell_source": cell.source}
    return Change(
        f"cell {cell.number}",
        cell.source,
        after,
        lambda _: _is(ask, where, after),
        lambda _: ask("overwrite_cell_source", before),
    )


async def _inserted(ask: Ask, arguments: Mapping[str, Any]) -> Change | None:
    source, book = str(arguments["cell_source"]), _book(arguments)

    def place(result: Any) -> dict[str, Any]:
        told = _PLACE.search(str(result))
        return {"cell_index": int(told[1]) if told else arguments["cell_index"], **book}

    at = arguments["cell_index"]
    return Change(
        f"new cell {'at the end' if at == -1 else at}",
        None,
        source,
        lambda result: _is(ask, place(result), source),
        lambda result: ask("delete_cell", {"cell_indices": [place(result)["cell_index"]], **book}),
    )


async def _deleted(ask: Ask, arguments: Mapping[str, Any]) -> Change | None:
    ids, book = arguments.get("cell_ids_to_delete"), _book(arguments)
    places = [{"cell_id": i} for i in ids] if ids else [{"cell_index": i} for i in arguments["cell_indices"]]
    cells = sorted([await _read(ask, {**p, **book}) for p in places])

    async def undo(_result: Any) -> None:
        for cell in cells:
            about = {"cell_index": cell.number, "cell_type": cell.kind, "cell_source": cell.source}
            await ask("insert_cell", {**about, **book})

    names = ", ".join(str(c.number) for c in cells)
    what = f"cell{'s' * (len(cells) != 1)} {names}"
    text = "\n\n".join(c.source for c in cells)
    return Change(what, text, None, lambda result: "deleted successfully" in str(result), undo)


async def _moved(ask: Ask, arguments: Mapping[str, Any]) -> Change | None:
    names = {"source": "source_cell_id", "target": "target_cell_id"}
    book = _book(arguments)

    async def cell(end: str) -> _Cell:
        by_id = arguments.get(names[end])
        where = {"cell_id": by_id} if by_id else {"cell_index": arguments[f"{end}_index"]}
        return await _read(ask, {**where, **book})

    start, goal = await cell("source"), await cell("target")

    back = {"source_index": goal.number, "target_index": start.number, **book}
    return Change(
        f"cell {start.number}, moved to {goal.number}",
        start.source,
        start.source,
        lambda _: _is(ask, {"cell_index": goal.number, **book}, start.source),
        lambda _: ask("move_cell", back),
    )


_CHANGES = {
    "overwrite_cell_source": _rewritten,
    "edit_cell_source": _rewritten,
    "insert_cell": _inserted,
    "insert_execute_code_cell": _inserted,
    "delete_cell": _deleted,
    "move_cell": _moved,
}
