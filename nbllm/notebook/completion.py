"""Tab completion of models, options, their values, subcommands, and variables in braces."""

from __future__ import annotations

import re
from collections.abc import Iterable
from types import FunctionType

from ..agents.model_files import list_model_files
from ..core.options import Option
from ..routing.config import provider_prefix
from .session import Session
from .syntax import parser as grammar
from .syntax.options import OPTIONS, SUBCOMMAND_WORDS, SUBCOMMANDS

_LINE = re.compile(r"^(?P<magic>%{1,2})(?:llm|nbllm)(?P<rest>[ \t].*|)$")
_BRACE = re.compile(r"\{(\w*)$")


def candidates(session: Session, text: str, column: int, row: int) -> tuple[str, list[tuple[str, str]]]:
    """(the typed prefix, [(completion, its kind)]) for the cursor at `column` of line `row` of `text`."""
    lines = text.split("\n")
    before = lines[row][:column]
    match = _LINE.match(before)
    if match and match["rest"][:1].isspace():
        return _line_candidates(session, match["rest"].lstrip(), subcommands=match["magic"] == "%")
    if row and lines[0].startswith(("%%llm", "%%nbllm")) and (brace := _BRACE.search(before)):
        return brace[1], [(n, "variable") for n in sorted(session.prompt_variables) if n.startswith(brace[1])]
    return "", []


def _line_candidates(session: Session, typed: str, *, subcommands: bool) -> tuple[str, list[tuple[str, str]]]:
    if subcommands and (known := re.match(r"mcp\s+(?:(\w+)\s+)?(?:mcp/)?(\S*)$", typed)):
        return known[2], [o for o in _mcp_candidates(session, known[1]) if o[0].startswith(known[2])]
    first, _, rest = typed.partition(" ")
    completion = grammar.completion_at(typed, subcommands=subcommands)
    if subcommands and (first in SUBCOMMAND_WORDS or first == "ping") and " " in typed and "=" not in rest:
        last = rest.rpartition(" ")[2]
        words = (
            [(word, "word") for word in SUBCOMMAND_WORDS.get(first, ())]
            if rest == last or first in _REPEATABLE
            else []
        )
        named = [*words, *_name_candidates(session, first, last)]
        return last, [pair for pair in named if pair[0].startswith(last)]
    options = [(f"{name}=", "option") for name in OPTIONS]
    offers: dict[str, Iterable[tuple[str, str]]] = {
        "subcommand": [(name, "subcommand") for name in SUBCOMMANDS],
        "model": model_candidates(session, completion.prefix),
        "option": [(f"--{name.replace('_', '-')}", "option") for name in OPTIONS],
        "value": _value_candidates(session, completion.option),
        "word": [*model_candidates(session, completion.prefix), *options],
    }
    return completion.prefix, [
        (w, kind) for w, kind in offers[completion.kind] if w.startswith(completion.prefix)
    ]


_REPEATABLE = ("log", "cost", "budget")  # commands that take several words


def _name_candidates(session: Session, command: str, typed: str) -> list[tuple[str, str]]:
    """The names that a subcommand takes, with their kind."""
    match command:
        case "key" | "providers":
            return [(name, "provider") for name in session.client.registry.rows]
        case "models":
            rows = session.client.registry.rows.items()
            return [(f"{name}/", "provider") for name, row in rows if row.models or row.folders]
        case "chat":
            return [(chat.name, "conversation") for chat in session.chats]
        case "prompt":
            return [(name, "prompt") for name in session.fragments]
        case "help":
            return [(name, "topic") for name in (*SUBCOMMANDS, *OPTIONS)]
        case "ping" | "unload":
            return model_candidates(session, typed)
    return []


def _mcp_candidates(session: Session, word: str | None) -> list[tuple[str, str]]:
    """Completions after `%llm mcp`, or after one of its words: names of servers."""
    if word is None:
        return [(w, "subcommand") for w in SUBCOMMAND_WORDS["mcp"]]
    entries, _ = session.client.mcp.entries() if word not in ("add", "list") else ([], [])
    return [(name, "MCP server") for name in dict.fromkeys(e.name for e in entries)]


def _value_candidates(session: Session, option: str) -> list[tuple[str, str]]:
    known = OPTIONS.get(option)
    if known is None:
        return []
    if known.kind == "bool":
        return [("true", "value"), ("false", "value")]
    if known.name == "tools":
        return [(name, "tool") for name in tool_names(session)]
    if known.name == "approve":
        return [(name, "value") for name in (*known.values, *user_functions(session))]
    if known.kind == "variable":
        return [(n, "key variable") for row in session.client.registry.rows.values() for n in row.key_env]
    return [(v, "value") for v in allowed_values(session, known)]


def tool_names(session: Session) -> list[str]:
    """Values for tools=: the user's functions, built-in tools, servers and endpoints."""
    from .tool_names import BUILT_IN

    return [*user_functions(session), *BUILT_IN, *session.external_tools]


def user_functions(session: Session) -> list[str]:
    """The names of functions that the user has defined."""
    return sorted(
        n
        for n, v in session.prompt_variables.items()
        if isinstance(v, FunctionType) and v.__module__ == "__main__"
    )


def allowed_values(session: Session, option: Option) -> Iterable[str]:
    """The values that an option allows, () if it allows any."""
    return session.client.registry.dialects if option.name == "dialect" else option.values


def model_candidates(session: Session, typed: str = "") -> list[tuple[str, str]]:
    """Model names with a hint whether a key was found; api/ names if api/ is typed, model files if their
    provider is."""
    registry = session.client.registry
    row = registry.row(provider_prefix(typed)) if "/" in typed else None
    if row is not None and row.folders:
        return [(name, "model file") for name in list_model_files(registry.with_model_folders(row))]
    names = registry.explicit_names() if typed.startswith("api/") else registry.names()
    return [(name, _key_hint(session, name)) for name in dict.fromkeys(names)]


def _key_hint(session: Session, name: str) -> str:
    registry = session.client.registry
    full = registry.aliases.get(name, name).removeprefix("api/")
    row = registry.row(provider_prefix(full) or full)
    if row is None or row.local:
        return "model"
    return (
        "model,\u00a0key\u00a0found" if registry.own_key(row, quick=True) else "model,\u00a0no\u00a0key"
    )  # front ends cut at a space
