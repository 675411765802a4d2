"""Repairs MCP servers' lists of tools, resources and prompts before the SDK reads them: it refuses a complete
list for one invalid item, and fails every call of a tool whose output schema is wrong. Also cleans texts for
the model and the user of invisible characters. Pure."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any
from unicodedata import category

from ..core.errors import similar_names
from ..core.schema import walk_schema
from ..core.values import plural, truncate

MAX_DESCRIPTION = 2_000  # characters of a description that a model reads
TEXT_LIMIT = 400_000  # characters of a text: far above any budget, and quickly searched
_NAME = 256  # characters of a name; for providers, which take 64, a longer one gets a hash
_LARGE = 2**16  # characters of a tool as JSON
_ARGUMENTS = 100  # of a prompt
MAX_ITEMS = 500  # tools of a server, and as many resources and prompts
_MOST_PARTS = 50  # of a result
# Fields of results that hold parts, and the part that says that there are more.
_PARTS: dict[str, Callable[[dict[str, Any]], dict[str, Any]]] = {
    "content": lambda text: text,
    "contents": lambda text: {"uri": "more:", **text},
    "messages": lambda text: {"role": "user", "content": text},
}
_ANSI = re.compile(r"\x1b(?:\[[0-?]*[ -/]*[@-~]|\][^\x07\x1b]*(?:\x07|\x1b\\)|[@-Z\\-_])")


def mend(result: dict[str, Any]) -> list[str]:
    """Repairs the lists in a result in place, and returns notes about what was left out. A result with too
    many parts is cut, with a note in itself."""
    notes = list[str]()
    structured = result.pop("structuredContent", None)  # repeated as text, where there is any content
    if structured is not None and not result.get("content"):
        text = structured if isinstance(structured, str) else json.dumps(structured, ensure_ascii=False)
        result["content"] = [{"type": "text", "text": text}]
    for field, value in list(result.items()):
        if isinstance(value, list) and field in _LISTS:
            notes += _mend_list(result, field)
        elif isinstance(value, list) and field in _PARTS:
            _truncate_texts(value[:_MOST_PARTS])
            more = {"type": "text", "text": f"(more parts: {len(value) - _MOST_PARTS})"}
            result[field] = [*value[:_MOST_PARTS], _PARTS[field](more)][: len(value)]
    return notes


def _truncate_texts(parts: list[Any]) -> None:
    """Cuts the texts of parts, nested ones included, to TEXT_LIMIT in total."""
    left = TEXT_LIMIT
    for part in parts:
        for holder in (part, part.get("content"), part.get("resource")) if isinstance(part, dict) else ():
            if isinstance(holder, dict) and isinstance(holder.get("text"), str):
                holder["text"] = truncate(holder["text"], left)
                left = max(0, left - len(holder["text"]))


_IDENTIFIERS = frozenset({"name", "uri", "uriTemplate"})


def mask(result: dict[str, Any], masked: Callable[[str], str]) -> None:
    """Masks secrets in a server's lists, except in the names and URIs by which items are requested."""
    for field in _LISTS.keys() & result.keys():
        for item in result[field] if isinstance(result[field], list) else ():
            texts = {k: v for k, v in item.items() if k not in _IDENTIFIERS}
            item.update(json.loads(masked(json.dumps(texts))))


def _mend_list(result: dict[str, Any], field: str) -> list[str]:
    noun, key, mended = _LISTS[field]
    known, notes = dict[str, dict[str, Any]](), list[str]()
    if (n_items := len(result[field])) > MAX_ITEMS:
        notes.append(f"It lists {plural(n_items, noun)}, of which the first {MAX_ITEMS:,} are read.")
    for raw in result[field][:MAX_ITEMS]:
        item, problem = mended(raw)
        if not problem and item[key] in known:
            problem = f"there are two with that {'name' if key == 'name' else 'address'}"
        if problem:
            notes.append(f"{_describe(noun, raw)} is left out: {problem}.")
        else:
            known[item[key]] = item
    result[field] = list(known.values())
    if not isinstance(result.get("nextCursor"), str):
        result.pop("nextCursor", None)
    return notes


def _describe(noun: str, raw: Any) -> str:
    """An item's name for a message."""
    name = raw.get("name") if isinstance(raw, dict) else raw
    return f"The {noun} {clean(name, 60)!r}" if isinstance(name, str) else f"A {noun} without a name"


def _mend_tool(raw: Any) -> tuple[dict[str, Any], str]:
    """(the tool with the fields that we use, "") or ({}, the problem)."""
    if not isinstance(raw, dict) or not isinstance(raw.get("name"), str):
        return {}, "it has no name"
    name, schema, text = raw["name"], raw.get("inputSchema"), raw.get("description")
    if not name or len(name) > _NAME:
        return {}, f"its name has {len(name)} characters"
    if not isinstance(schema, dict):
        return {}, "it has no schema of its arguments"
    if schema.get("type", "object") != "object":
        return {}, "its arguments are not an object"
    tool = {"name": name, "inputSchema": {"type": "object", **schema}}
    tool |= {"description": text} if isinstance(text, str) else {}
    if isinstance(hints := raw.get("annotations"), dict) and isinstance(hints.get("readOnlyHint"), bool):
        tool["annotations"] = {"readOnlyHint": hints["readOnlyHint"]}
    size = _size(tool)
    return (tool, "") if size <= _LARGE else ({}, f"its description has more than {_LARGE:,} characters")


def _mend_resource(raw: Any, key: str = "uri") -> tuple[dict[str, Any], str]:
    """`_mend_tool` for a resource; one without a name is named by its URI."""
    if not isinstance(raw, dict) or not isinstance(raw.get(key), str) or not raw[key]:
        return {}, "it has no address"
    if len(raw[key]) > MAX_DESCRIPTION:
        return {}, f"its address has {len(raw[key]):,} characters"
    item = {"name": raw[key], **_text_fields(raw, "name", "description", "mimeType"), key: raw[key]}
    size = raw.get("size")
    return item | ({"size": size} if type(size) is int and size >= 0 else {}), ""


def _mend_prompt(raw: Any) -> tuple[dict[str, Any], str]:
    """`_mend_tool` for a prompt, with the arguments that have a name."""
    if not isinstance(raw, dict) or not isinstance(raw.get("name"), str) or not raw["name"]:
        return {}, "it has no name"
    raw_arguments = raw.get("arguments")
    named = [a for a in raw_arguments if isinstance(a, dict)] if isinstance(raw_arguments, list) else []
    arguments = [
        {**_text_fields(a, "name", "description"), "required": a.get("required") is True}
        for a in named[:_ARGUMENTS]
        if isinstance(a.get("name"), str)
    ]
    return {**_text_fields(raw, "name", "description"), "arguments": arguments}, ""


def _text_fields(raw: Mapping[str, Any], *names: str) -> dict[str, str]:
    """The fields of these names that are text, cut to what is used of them."""
    return {n: raw[n][: 4 * MAX_DESCRIPTION] for n in names if isinstance(raw.get(n), str)}


# The lists that servers send: (the noun for an item, its key, the function that repairs it).
_LISTS: dict[str, tuple[str, str, Callable[[Any], tuple[dict[str, Any], str]]]] = {
    "tools": ("tool", "name", _mend_tool),
    "resources": ("resource", "uri", _mend_resource),
    "resourceTemplates": ("resource", "uriTemplate", lambda given: _mend_resource(given, "uriTemplate")),
    "prompts": ("prompt", "name", _mend_prompt),
}


def _size(value: Any) -> int:
    try:
        return len(json.dumps(value))
    except (RecursionError, ValueError, TypeError):
        return _LARGE + 1


_TYPES = frozenset({"object", "array", "string", "number", "integer", "boolean", "null"})


def schema_problem(schema: Mapping[str, Any]) -> str:
    """Why providers would refuse a schema; "" where they may accept it. It is read once and not applied to
    any value, since a server's references and patterns may take forever."""
    for path, part in list(walk_schema(schema)):
        kinds = part.get("type", [])
        for kind in kinds if isinstance(kinds, list) else [kinds]:
            if not isinstance(kind, str) or kind not in _TYPES:
                return f"{line(path, 60)}: {line(str(kind), 40)!r} is not a type"
        if "$ref" in part and not _resolves(schema, part["$ref"]):
            return f"{line(path, 60)}: the reference {line(str(part['$ref']), 60)!r} leads nowhere"
        if not isinstance(part.get("properties", {}), dict) or not isinstance(part.get("required", []), list):
            return f"{line(path, 60)}: its properties cannot be read"
    return ""


def _resolves(schema: Any, reference: Any) -> bool:
    """Whether a reference leads to a part of the schema."""
    if not isinstance(reference, str) or not reference.startswith("#"):
        return False
    at = schema
    for name in filter(None, reference[1:].split("/")):
        at = at.get(name.replace("~1", "/").replace("~0", "~")) if isinstance(at, dict) else None
    return isinstance(at, (dict, bool))


def fingerprint(name: str, description: str, schema: Mapping[str, Any]) -> str:
    """The hash that consent to a tool is bound to: of all that a model reads of it, as the server sent it."""
    content = json.dumps([name, description, schema], sort_keys=True)
    return hashlib.sha256(content.encode("utf-8", "surrogatepass")).hexdigest()


def clean(text: str, limit: int = MAX_DESCRIPTION) -> str:
    """`text` without colours and invisible characters (controls, direction marks, tags), cut at `limit`
    characters, with a note."""
    rough = _ANSI.sub("", text[: 4 * limit])
    shown = "".join(c for c in rough if c in "\n\t" or category(c)[0] != "C").strip()
    if len(shown) <= limit and len(text) <= 4 * limit:
        return shown
    return f"{shown[:limit]}… (cut: {len(text):,} characters)"


def line(text: str, limit: int = MAX_DESCRIPTION) -> str:
    """`text` on one line, cleaned and cut."""
    return " ".join(clean(text, limit).split())


def nearest_hint(name: str, known: Iterable[str], otherwise: str) -> str:
    """The hint for an unknown name: the most similar known ones."""
    near = similar_names(name, [line(n, 100) for n in known], 3)
    return f"Did you mean {', '.join(near)}?" if near else otherwise


def schema_for_model(schema: Mapping[str, Any]) -> dict[str, Any]:
    """The schema for the model: its descriptions cleaned, and without keys that no provider needs."""
    cleaned: dict[str, Any] = json.loads(json.dumps(schema))
    for _, part in list(walk_schema(cleaned)):
        for key in ("description", "title"):
            if isinstance(part.get(key), str):
                part[key] = clean(part[key])
    for key in ("$schema", "$id", "title", "examples"):
        cleaned.pop(key, None)
    return {"properties": {}, **cleaned}
