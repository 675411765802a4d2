"""The tools of jupyter-mcp-server that change a notebook's cells: what a call would change, and how to undo
it.

Its tools read a cell before a change, so that the user sees the difference, and again before it is undone:
what has been changed meanwhile stays.
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

CallTool = Callable[[str, dict[str, Any]], Awaitable[Any]]  # calls a tool of the server by its name
_HEAD = re.compile(r"=+Cell (\d+) \| type: (\w+) \|[^\n]*=\n?")
_INDEX = re.compile(r"at index (\d+)")


class _Cell(NamedTuple):
    number: int
    kind: str
    source: str


def is_notebook(entry: Entry) -> bool:
    """Whether a server is jupyter-mcp-server, by the command that the user allowed."""
    return any(Path(word).name.split("@")[0].startswith("jupyter-mcp-server") for word in entry.argv)


def change_finder(
    tool: str, call_tool: CallTool
) -> Callable[[Mapping[str, Any]], Awaitable[Change | None]] | None:
    """The function that finds, by a call's arguments, the change that `tool` would make; None for a tool that
    changes no cell, or nothing that can be undone."""
    finder = _CHANGES.get(tool)
    return None if finder is None else partial(finder, call_tool)


async def _read(call_tool: CallTool, cell_ref: Mapping[str, Any]) -> _Cell:
    """Reads a cell. Raises NbllmError where there is none."""
    text = str(await call_tool("read_cell", {**cell_ref, "include_outputs": False}))
    head = _HEAD.match(text)
    if head is None:
        raise NbllmError(" ".join(text.split())[:200])
    return _Cell(int(head[1]), head[2], text[head.end() :])


def _notebook_ref(arguments: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments that identify the notebook."""
    return {k: arguments[k] for k in ("notebook_name",) if arguments.get(k) is not None}


def _cell_ref(arguments: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments that identify the cell: its id where it is given, else its index."""
    key = "cell_id" if arguments.get("cell_id") is not None else "cell_index"
    return {key: arguments.get(key), **_notebook_ref(arguments)}


async def _has_source(call_tool: CallTool, cell_ref: Mapping[str, Any], source: str) -> bool:
    try:
        return (await _read(call_tool, cell_ref)).source.rstrip("\n") == source.rstrip("\n")
    except NbllmError:
        return False


async def _rewrite_change(call_tool: CallTool, arguments: Mapping[str, Any]) -> Change | None:
    cell_ref = _cell_ref(arguments)
    cell = await _read(call_tool, cell_ref)
    if "cell_source" in arguments:
        after = str(arguments["cell_source"])
    else:
        old, new = str(arguments["old_string"]), str(arguments["new_string"])
        after = cell.source.replace(old, new, -1 if arguments.get("replace_all") else 1)

    before = {**cell_ref, "cell_source": cell.source}
    return Change(
        f"cell {cell.number}",
        cell.source,
        after,
        lambda _: _has_source(call_tool, cell_ref, after),
        lambda _: call_tool("overwrite_cell_source", before),
    )


async def _insert_change(call_tool: CallTool, arguments: Mapping[str, Any]) -> Change | None:
    source, notebook = str(arguments["cell_source"]), _notebook_ref(arguments)

    def position(result: Any) -> dict[str, Any]:
        match = _INDEX.search(str(result))
        return {"cell_index": int(match[1]) if match else arguments["cell_index"], **notebook}

    index = arguments["cell_index"]
    return Change(
        f"new cell {'at the end' if index == -1 else index}",
        None,
        source,
        lambda result: _has_source(call_tool, position(result), source),
        lambda result: call_tool(
            "delete_cell", {"cell_indices": [position(result)["cell_index"]], **notebook}
        ),
    )


async def _delete_change(call_tool: CallTool, arguments: Mapping[str, Any]) -> Change | None:
    ids, notebook = arguments.get("cell_ids_to_delete"), _notebook_ref(arguments)
    cell_refs = (
        [{"cell_id": i} for i in ids] if ids else [{"cell_index": i} for i in arguments["cell_indices"]]
    )
    cells = sorted([await _read(call_tool, {**p, **notebook}) for p in cell_refs])

    async def undo(_result: Any) -> None:
        for cell in cells:
            cell_data = {"cell_index": cell.number, "cell_type": cell.kind, "cell_source": cell.source}
            await call_tool("insert_cell", {**cell_data, **notebook})

    names = ", ".join(str(c.number) for c in cells)
    what = f"cell{'s' * (len(cells) != 1)} {names}"
    text = "\n\n".join(c.source for c in cells)
    return Change(what, text, None, lambda result: "deleted successfully" in str(result), undo)


async def _move_change(call_tool: CallTool, arguments: Mapping[str, Any]) -> Change | None:
    names = {"source": "source_cell_id", "target": "target_cell_id"}
    notebook = _notebook_ref(arguments)

    async def cell(end: str) -> _Cell:
        by_id = arguments.get(names[end])
        cell_ref = {"cell_id": by_id} if by_id else {"cell_index": arguments[f"{end}_index"]}
        return await _read(call_tool, {**cell_ref, **notebook})

    source_cell, target_cell = await cell("source"), await cell("target")

    back = {"source_index": target_cell.number, "target_index": source_cell.number, **notebook}
    return Change(
        f"cell {source_cell.number}, moved to {target_cell.number}",
        source_cell.source,
        source_cell.source,
        lambda _: _has_source(call_tool, {"cell_index": target_cell.number, **notebook}, source_cell.source),
        lambda _: call_tool("move_cell", back),
    )


_CHANGES = {
    "overwrite_cell_source": _rewrite_change,
    "edit_cell_source": _rewrite_change,
    "insert_cell": _insert_change,
    "insert_execute_code_cell": _insert_change,
    "delete_cell": _delete_change,
    "move_cell": _move_change,
}
