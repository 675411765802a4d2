"""Lists of tools, resources and prompts as MCP servers send them, mended before the SDK sees them: it refuses
a whole list for one that is bad, and fails each call of a tool whose output schema is wrong. And what a model
and a user read of a tool, without characters that hide. Pure."""

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

LONGEST = 2_000  # characters of a description that a model reads
TEXT_LIMIT = 400_000  # characters of a text: far over any budget, and looked through in no time
_NAME = 256  # characters of a name; providers take 64, and longer ones get a hash
_LARGE = 2**16  # characters of a tool as JSON
_ARGUMENTS = 100  # of a prompt
MOST = 500  # tools of a server, and as many resources and prompts: no model is told of more
_MOST_PARTS = 50  # of a result
# Results that come in parts, and how a text says that there are more.
_PARTS: dict[str, Callable[[dict[str, Any]], dict[str, Any]]] = {
    "content": lambda text: text,
    "contents": lambda text: {"uri": "more:", **text},
    "messages": lambda text: {"role": "user", "content": text},
}
_ANSI = re.compile(r"\x1b(?:\[[0-?]*[ -/]*[@-~]|\][^\x07\x1b]*(?:\x07|\x1b\\)|[@-Z\\-_])")


def mend(result: dict[str, Any]) -> list[str]:
    """Mends the list in a result in place, and says what of it was left out, and why. A result of too many
    parts says so itself. Others stay as they are."""
    notes = list[str]()
    structured = result.pop("structuredContent", None)  # said again as text, where there is any
    if structured is not None and not result.get("content"):
        text = structured if isinstance(structured, str) else json.dumps(structured, ensure_ascii=False)
        result["content"] = [{"type": "text", "text": text}]
    for field, value in list(result.items()):
        if isinstance(value, list) and field in _LISTS:
            notes += _mend_list(result, field)
        elif isinstance(value, list) and field in _PARTS:
            _shorten(value[:_MOST_PARTS])
            more = {"type": "text", "text": f"(more parts: {len(value) - _MOST_PARTS})"}
            result[field] = [*value[:_MOST_PARTS], _PARTS[field](more)][: len(value)]
    return notes


def _shorten(parts: list[Any]) -> None:
    """Cuts their texts, and those of what they hold: so much in all."""
    left = TEXT_LIMIT
    for part in parts:
        for held in (part, part.get("content"), part.get("resource")) if isinstance(part, dict) else ():
            if isinstance(held, dict) and isinstance(held.get("text"), str):
                held["text"] = truncate(held["text"], left)
                left = max(0, left - len(held["text"]))


_ASKED_BY = frozenset({"name", "uri", "uriTemplate"})


def mask(result: dict[str, Any], masked: Callable[[str], str]) -> None:
    """Masks secrets in what a server's lists say, but for the names and addresses that things are asked for
    by."""
    for field in _LISTS.keys() & result.keys():
        for item in result[field] if isinstance(result[field], list) else ():
            said = {k: v for k, v in item.items() if k not in _ASKED_BY}
            item.update(json.loads(masked(json.dumps(said))))


def _mend_list(result: dict[str, Any], field: str) -> list[str]:
    noun, key, mended = _LISTS[field]
    known, notes = dict[str, dict[str, Any]](), list[str]()
    if (there := len(result[field])) > MOST:
        notes.append(f"It tells of {plural(there, noun)}, of which the first {MOST:,} are read.")
    for given in result[field][:MOST]:
        item, problem = mended(given)
        if not problem and item[key] in known:
            problem = f"there are two of that {'name' if key == 'name' else 'address'}"
        if problem:
            notes.append(f"{_in_words(noun, given)} is left out: {problem}.")
        else:
            known[item[key]] = item
    result[field] = list(known.values())
    if not isinstance(result.get("nextCursor"), str):
        result.pop("nextCursor", None)
    return notes


def _in_words(noun: str, given: Any) -> str:
    """A tool's name for a message."""
    name = given.get("name") if isinstance(given, dict) else given
    return f"The {noun} {clean(name, 60)!r}" if isinstance(name, str) else f"A {noun} without a name"


def _mended(given: Any) -> tuple[dict[str, Any], str]:
    """(the tool with what we use of it, "") or ({}, what is wrong)."""
    if not isinstance(given, dict) or not isinstance(given.get("name"), str):
        return {}, "it has no name"
    name, schema, text = given["name"], given.get("inputSchema"), given.get("description")
    if not name or len(name) > _NAME:
        return {}, f"its name has {len(name)} characters"
    if not isinstance(schema, dict):
        return {}, "it has no schema of its arguments"
    if schema.get("type", "object") != "object":
        return {}, "its arguments are no object"
    tool = {"name": name, "inputSchema": {"type": "object", **schema}}
    tool |= {"description": text} if isinstance(text, str) else {}
    if isinstance(hints := given.get("annotations"), dict) and isinstance(hints.get("readOnlyHint"), bool):
        tool["annotations"] = {"readOnlyHint": hints["readOnlyHint"]}
    size = _size(tool)
    return (tool, "") if size <= _LARGE else ({}, f"it is described in more than {_LARGE:,} characters")


def _resource(given: Any, key: str = "uri") -> tuple[dict[str, Any], str]:
    """The same for a resource; one without a name is called as its address."""
    if not isinstance(given, dict) or not isinstance(given.get(key), str) or not given[key]:
        return {}, "it has no address"
    if len(given[key]) > LONGEST:
        return {}, f"its address has {len(given[key]):,} characters"
    item = {"name": given[key], **_texts(given, "name", "description", "mimeType"), key: given[key]}
    size = given.get("size")
    return item | ({"size": size} if type(size) is int and size >= 0 else {}), ""


def _prompt(given: Any) -> tuple[dict[str, Any], str]:
    """The same for a prompt, with those of its arguments that have a name."""
    if not isinstance(given, dict) or not isinstance(given.get("name"), str) or not given["name"]:
        return {}, "it has no name"
    found = given.get("arguments")
    named = [a for a in found if isinstance(a, dict)] if isinstance(found, list) else []
    arguments = [
        {**_texts(a, "name", "description"), "required": a.get("required") is True}
        for a in named[:_ARGUMENTS]
        if isinstance(a.get("name"), str)
    ]
    return {**_texts(given, "name", "description"), "arguments": arguments}, ""


def _texts(given: Mapping[str, Any], *names: str) -> dict[str, str]:
    """Those of its fields that are text, each cut at what anybody reads of it."""
    return {n: given[n][: 4 * LONGEST] for n in names if isinstance(given.get(n), str)}


# The lists that servers send: (what one is called, what it is known by, what mends it).
_LISTS: dict[str, tuple[str, str, Callable[[Any], tuple[dict[str, Any], str]]]] = {
    "tools": ("tool", "name", _mended),
    "resources": ("resource", "uri", _resource),
    "resourceTemplates": ("resource", "uriTemplate", lambda given: _resource(given, "uriTemplate")),
    "prompts": ("prompt", "name", _prompt),
}


def _size(value: Any) -> int:
    try:
        return len(json.dumps(value))
    except (RecursionError, ValueError, TypeError):
        return _LARGE + 1


_TYPES = frozenset({"object", "array", "string", "number", "integer", "boolean", "null"})


def schema_problem(schema: Mapping[str, Any]) -> str:
    """Why no provider would take a schema, "" where they may. Read once, and tried on no value: a server's
    references and patterns may be made to take for ever."""
    for place, part in list(walk_schema(schema)):
        kinds = part.get("type", [])
        for kind in kinds if isinstance(kinds, list) else [kinds]:
            if not isinstance(kind, str) or kind not in _TYPES:
                return f"{line(place, 60)}: {line(str(kind), 40)!r} is no type"
        if "$ref" in part and not _leads(schema, part["$ref"]):
            return f"{line(place, 60)}: the reference {line(str(part['$ref']), 60)!r} leads nowhere"
        if not isinstance(part.get("properties", {}), dict) or not isinstance(part.get("required", []), list):
            return f"{line(place, 60)}: its properties cannot be read"
    return ""


def _leads(schema: Any, reference: Any) -> bool:
    """Whether a reference leads to a place within the schema."""
    if not isinstance(reference, str) or not reference.startswith("#"):
        return False
    at = schema
    for name in filter(None, reference[1:].split("/")):
        at = at.get(name.replace("~1", "/").replace("~0", "~")) if isinstance(at, dict) else None
    return isinstance(at, (dict, bool))


def fingerprint(name: str, description: str, schema: Mapping[str, Any]) -> str:
    """What consent to a tool is bound to: a hash of all that a model is told of it, as the server sent it."""
    whole = json.dumps([name, description, schema], sort_keys=True)
    return hashlib.sha256(whole.encode("utf-8", "surrogatepass")).hexdigest()


def clean(text: str, limit: int = LONGEST) -> str:
    """`text` without colours and characters that hide (controls, marks of direction, tags), cut at `limit`
    characters, which is said."""
    rough = _ANSI.sub("", text[: 4 * limit])
    shown = "".join(c for c in rough if c in "\n\t" or category(c)[0] != "C").strip()
    if len(shown) <= limit and len(text) <= 4 * limit:
        return shown
    return f"{shown[:limit]}… (cut: {len(text):,} characters)"


def line(text: str, limit: int = LONGEST) -> str:
    """`text` in one line, cleaned and cut."""
    return " ".join(clean(text, limit).split())


def nearest(words: str, known: Iterable[str], otherwise: str) -> str:
    """The hint for a name that a server does not have: the nearest that it has."""
    near = similar_names(words, [line(n, 100) for n in known], 3)
    return f"Did you mean {', '.join(near)}?" if near else otherwise


def told(schema: Mapping[str, Any]) -> dict[str, Any]:
    """The schema as a model reads it: its notes cleaned, and without what no provider needs."""
    made: dict[str, Any] = json.loads(json.dumps(schema))
    for _, part in list(walk_schema(made)):
        for key in ("description", "title"):
            if isinstance(part.get(key), str):
                part[key] = clean(part[key])
    for key in ("$schema", "$id", "title", "examples"):
        made.pop(key, None)
    return {"properties": {}, **made}
