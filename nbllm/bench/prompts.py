"""Prompt sets: read from text, lists, DataFrames and files; serialised for a worker; prefixes for prompt
caches."""

from __future__ import annotations

import csv
import json
import os
import random
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from ..core import codec
from ..core.errors import ConfigError
from ..core.extras import require_packages
from ..core.messages import Image, Message, Text, Tool
from ..core.options import REQUEST_OPTIONS
from ..core.prompt import parse_messages as read_messages
from ..core.prompt import parse_tools as read_tools
from ..core.schema import provider_schema
from .frames import check_unique_names
from .words import COMMON_WORDS

Turn = tuple[Message, ...]


@dataclass(frozen=True, slots=True)
class Prompt:
    """A prompt: one turn, or several, each sent with the answers to the earlier ones. `options` apply to its
    calls only; `more` holds the other columns of its table row."""

    id: str
    turns: tuple[Turn, ...]
    options: Mapping[str, Any] = field(default_factory=dict)
    more: Mapping[str, Any] = field(default_factory=dict)


_BUILT_IN = (
    "Explain in three sentences why the sky is blue.",
    "Write a haiku about a river in winter.",
    "List five uses of a paper clip, one a line.",
    "What is the difference between a process and a thread? Answer in one paragraph.",
    "Summarise the plot of Romeo and Juliet in fifty words.",
)
_OPTIONS = tuple(name for name in REQUEST_OPTIONS if name != "system")  # system is a message
_PROMPT_FIELDS = ("prompt", "text", "messages", "turns")  # fields that hold the prompt itself
_FIELDS = ("id", *_PROMPT_FIELDS, "system", "image", "images", *_OPTIONS)
_NAME_LIKE = re.compile(
    r"[!-~]*[/\\_][!-~]*|[!-~]*\w\.\w{2,8}", re.ASCII
)  # one word that looks like a path, a file or a column
_NON_SPACE = re.compile(r"\S")  # the start of a value
_ACCEPTED = "text, a list, a DataFrame with a column prompt, or a .txt, .csv, .json, .jsonl or .parquet file"


def prompt_set(value: Any = None, prompt: str | None = None) -> tuple[Prompt, ...]:
    """The prompts in `given`; None for a small built-in set.

    A string is a prompt, or the path of a file (a single word that looks like a name is rejected); a list
    holds strings, sequences of messages, Prompts and dicts with `prompt` (or `messages`, or `turns` for a
    conversation), and optionally id, system, image(s), tools, schema, max_tokens and so on; a DataFrame has
    these as columns, as have .csv, .jsonl and .parquet files. Other columns are kept, and become columns of a
    run's frame. prompt: the column with the prompts, if it is not named prompt. Raises ConfigError that names
    the entry.
    """
    prompts = tuple(_build_prompt(entry, number, prompt) for number, entry in enumerate(_read_entries(value)))
    if not prompts:
        raise ConfigError("There are no prompts.", hint=f"prompts= takes {_ACCEPTED}.")
    ids = [p.id for p in prompts]
    duplicate = next((i for i in ids if ids.count(i) > 1), None) if len(set(ids)) < len(ids) else None
    if duplicate is not None:
        raise ConfigError(
            f"Two prompts have the id {duplicate!r}.",
            hint="Make the ids unique, or leave them out.",
        )
    return prompts


def _read_entries(value: Any) -> list[Any]:
    if value is None:
        return list(_BUILT_IN)
    if isinstance(value, os.PathLike) or (
        isinstance(value, str) and value.lower().endswith(tuple(_FILE_READERS)) and "\n" not in value
    ):
        return _read_file(Path(value))
    if isinstance(value, str) and _NAME_LIKE.fullmatch(value):
        raise ConfigError(
            f"{value!r} looks like a file name, but there is no such file.",
            hint=f"prompts= takes {_ACCEPTED}; pass a prompt of one such word as a list: [{value!r}].",
        )
    if isinstance(value, (str, Prompt, Mapping, Message)):
        return [value]
    if hasattr(value, "to_pandas"):  # tables of polars, pyarrow and datasets
        return _read_entries(value.to_pandas())
    if hasattr(value, "to_dict") and hasattr(value, "columns"):
        check_unique_names(value.columns)
        rows = value.rename(columns=str).to_dict("records")
        return [_TableRow({k: v for k, v in row.items() if not _is_missing(v)}) for row in rows]
    if not isinstance(value, Iterable):
        raise ConfigError(
            f"Prompts cannot be read from {type(value).__name__}.", hint=f"prompts= takes {_ACCEPTED}."
        )
    return list(value)


class _TableRow(dict[str, Any]):
    """A row of a table, which may have additional columns."""


def _entry_of_row(row: Mapping[str, Any], column: str | None) -> dict[str, Any]:
    """A table row as an entry, with its additional columns in `more`. Raises ConfigError where it has no
    prompt."""
    entry = dict(row)
    if not {*_PROMPT_FIELDS, column} & set(entry) and isinstance(
        entry.get("conversations"), Iterable
    ):  # ShareGPT's
        messages = [m for m in entry.pop("conversations") if isinstance(m, Mapping)]
        entry["turns"] = [m.get("value", "") for m in messages if m.get("from") in ("human", "user")]
    column = column or ("prompt" if "prompt" in entry else None)  # preferred to columns text and messages
    if column is not None:
        if column not in entry:
            raise ConfigError(
                f"column {column!r} is empty", hint=f"The row has {', '.join(entry) or 'no columns'}."
            )
        entry = {"prompt": entry.pop(column)} | {
            f"prompt_{k}" if k in _PROMPT_FIELDS else k: v for k, v in entry.items()
        }
    elif not set(_PROMPT_FIELDS) & set(entry):
        raise ConfigError(
            "column 'prompt' is missing or empty",
            hint=f'Name another column: prompt="{next(iter(entry), "column")}".',
        )
    return {"more": {k: _json_value(entry.pop(k)) for k in list(entry) if k not in _FIELDS}, **entry}


def _json_value(value: Any) -> Any:
    """A value as JSON supports it."""
    scalar = value.item() if hasattr(value, "item") and getattr(value, "ndim", 1) == 0 else value
    return scalar if isinstance(scalar, (str, int, float, bool)) else str(scalar)


def _read_text(path: Path) -> str:
    """The text of a file without newline conversion: only a line feed ends a line."""
    return path.read_bytes().decode("utf-8-sig")


def iter_json(text: str) -> Iterator[Any]:
    """The values of JSON or JSON Lines. Raises ValueError with line and column in the whole text."""
    decoder, at = json.JSONDecoder(), 0
    while match := _NON_SPACE.search(text, at):
        value, at = decoder.raw_decode(text, match.start())
        yield value


def _is_missing(value: Any) -> bool:
    return (
        value is None
        or (isinstance(value, float) and value != value)  # noqa: PLR0124
        or type(value).__name__ in ("NAType", "NaTType")
    )


def _read_parquet(path: Path) -> list[Any]:
    require_packages("A Parquet file", "bench", "pyarrow")
    import pandas as pd

    return _read_entries(pd.read_parquet(path))


def _read_csv(path: Path) -> list[Any]:
    old_limit = csv.field_size_limit(2**31 - 1)  # a prompt may be longer than 131,072 characters
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            rows = csv.DictReader(file)
            check_unique_names(filter(None, rows.fieldnames or ()))
            return [{k: v for k, v in row.items() if k and v not in (None, "")} for row in rows]
    finally:
        csv.field_size_limit(old_limit)


_FILE_READERS: dict[str, Callable[[Path], list[Any]]] = {
    ".txt": lambda path: [line.removesuffix("\r") for line in _read_text(path).split("\n") if line.strip()],
    ".jsonl": lambda path: list(iter_json(_read_text(path))),
    ".json": lambda path: found[0] if len(found := list(iter_json(_read_text(path)))) == 1 else found,
    ".csv": _read_csv,
    ".parquet": _read_parquet,
}


def _read_file(path: Path) -> list[Any]:
    reader = _FILE_READERS.get(path.suffix.lower())
    if reader is None:
        raise ConfigError(
            f"Prompts cannot be read from a file {path.suffix or 'without a suffix'}.",
            hint=f"prompts= takes {_ACCEPTED}.",
        )
    try:
        entries = reader(path)
    except OSError as exc:
        raise ConfigError(
            f"The prompts in {path} cannot be read: {exc.strerror}.", hint="Check the path."
        ) from None
    except (ValueError, RecursionError, csv.Error) as exc:
        raise ConfigError(
            f"{path} does not hold prompts: {exc}.",
            hint="A .jsonl file has one JSON value per line, in UTF-8.",
        ) from None
    return [
        _TableRow(entry) if isinstance(entry, dict) and "role" not in entry else entry
        for entry in (entries if isinstance(entries, list) else [entries])
    ]


def _build_prompt(entry: Any, number: int, column: str | None) -> Prompt:
    if isinstance(entry, Prompt):
        return entry
    try:
        fields = (
            _entry_of_row(entry if isinstance(entry, Mapping) else {}, column)
            if isinstance(entry, _TableRow) or column is not None
            else dict(entry)
            if isinstance(entry, Mapping) and "role" not in entry
            else {"messages": [entry] if isinstance(entry, (Mapping, Message)) else entry}
        )
        more = fields.pop("more", {})
        unknown = sorted(set(map(str, fields)) - set(_FIELDS))
        if unknown:
            raise ConfigError(
                f"{unknown[0]!r} is not a field",
                hint=f"Fields are {', '.join(_FIELDS)}; only a DataFrame may have others.",
            )
        return Prompt(
            str(fields.get("id", f"p{number}")),
            _turns(fields),
            _options(fields),
            more if isinstance(more, Mapping) else {},
        )
    except ConfigError as error:
        raise ConfigError(f"Prompt {number} (counted from 0): {error.message}", hint=error.hint) from None


def _turns(fields: Mapping[str, Any]) -> tuple[Turn, ...]:
    present = [name for name in _PROMPT_FIELDS if name in fields]
    if len(present) != 1:
        raise ConfigError(
            f"it has {' and '.join(present)}" if present else "it has no prompt",
            hint=f"Give one of {', '.join(_PROMPT_FIELDS)}.",
        )
    system = fields.get("system")
    turn_list = fields["turns"] if present == ["turns"] else [fields[present[0]]]
    turn_list = (
        []
        if isinstance(turn_list, (str, Mapping)) or not isinstance(turn_list, Iterable)
        else list(turn_list)
    )
    if not turn_list:
        raise ConfigError(
            "turns must be a list of messages that are sent one after another",
            hint='{"turns": ["first question", "second question"]}',
        )
    turns = [
        _add_images(
            read_messages(turn, str(system) if system is not None and i == 0 else None),
            fields if i == 0 else {},
        )
        for i, turn in enumerate(turn_list)
    ]
    return tuple(turns)


def _add_images(turn: Turn, fields: Mapping[str, Any]) -> Turn:
    images = fields.get("images", fields.get("image"))
    if images is None:
        return turn
    parts = tuple(_image(i) for i in (images if isinstance(images, (list, tuple)) else [images]))
    return (*turn[:-1], replace(turn[-1], parts=(*parts, *turn[-1].parts)))


def _image(value: Any) -> Image:
    if isinstance(value, Image):
        return value
    if isinstance(value, (bytes, bytearray)):
        return Image(bytes(value))
    if isinstance(value, str) and value.startswith(("http://", "https://", "data:")):
        return Image(url=value)
    try:
        return Image(Path(value).read_bytes())
    except (OSError, TypeError) as exc:
        raise ConfigError(
            f"the image {str(value)[:80]!r} cannot be read",
            hint="Give a path, bytes, a URL or an nbllm.Image.",
        ) from exc


def _options(fields: Mapping[str, Any]) -> dict[str, Any]:
    return {name: _parse_option(name, fields[name]) for name in _OPTIONS if name in fields}


def _parse_option(name: str, value: Any) -> Any:
    """An option as calls take it: tables and files hold JSON and numbers as text, and schemas in short
    form."""
    try:
        if isinstance(value, str) and (name == "tools" or (name == "schema" and value.lstrip()[:1] == "{")):
            value = json.loads(value)
        return _OPTION_PARSERS[name](value) if name in _OPTION_PARSERS else value
    except ConfigError:
        raise
    except (ValueError, TypeError, OverflowError, RecursionError):
        raise ConfigError(
            f"{name} cannot be {str(value)[:80]!r}", hint="Correct it, or leave it out."
        ) from None


_OPTION_PARSERS: dict[str, Callable[[Any], Any]] = {
    "tools": read_tools,
    "schema": provider_schema,
    "max_tokens": int,
    "seed": int,
    "temperature": float,
    "top_p": float,
}


# --- prefixes ---


def add_prefix(messages: Sequence[Message], kind: str | None, seed: int, seq: int) -> Turn:
    """The messages with a prefix at the very beginning: "unique" adds a line that no other request of the run
    has, so that no prompt cache can help; "shared" adds the same long text to all, so that every cache can.
    None changes nothing.

    Raises ConfigError for another kind.
    """
    if kind is None:
        return tuple(messages)
    if kind == "unique":
        text = f"[{random.Random(f'prefix {seed} {seq}').getrandbits(64):016x}]\n"
    elif kind == "shared":
        rng = random.Random(f"prefix {seed}")
        text = (
            "Some words of no meaning: " + " ".join(rng.choice(COMMON_WORDS) for _ in range(2000)) + ".\n\n"
        )
    else:
        raise ConfigError(
            f"prefix={kind!r} is not known.",
            hint='prefix="unique" defeats prompt caches, prefix="shared" measures them.',
        )
    first = messages[0]
    return (replace(first, parts=(Text(text), *first.parts)), *messages[1:])


# --- serialisation ---

_OPTION_ENCODERS: dict[str, Callable[[Any], Any]] = {"tools": read_tools, "schema": provider_schema}
_OPTION_TYPES = {"tools": tuple[Tool, ...] | None, "schema": dict | None, "extra": dict | None}


def dump(prompts: Iterable[Prompt]) -> list[dict[str, Any]]:
    """The prompts as JSON, see core.codec."""
    return [
        {"id": p.id, "turns": [codec.to_plain(t) for t in p.turns], "options": dump_options(p.options)}
        | ({"more": dict(p.more)} if p.more else {})
        for p in prompts
    ]


def load(stored: Iterable[Mapping[str, Any]]) -> tuple[Prompt, ...]:
    """The prompts from the result of `dump`."""
    return tuple(
        Prompt(
            p["id"],
            tuple(codec.from_plain(turn, tuple[Message, ...]) for turn in p["turns"]),
            load_options(p["options"]),
            p.get("more", {}),
        )
        for p in stored
    )


def dump_options(options: Mapping[str, Any]) -> dict[str, Any]:
    """Options of a call as JSON."""
    return {
        k: codec.to_plain(_OPTION_ENCODERS[k](v) if v and k in _OPTION_ENCODERS else v)
        for k, v in options.items()
    }


def load_options(options: Mapping[str, Any]) -> dict[str, Any]:
    """Options from the result of `dump_options`."""
    if not set(options) <= set(REQUEST_OPTIONS):
        raise ValueError(sorted(options))
    return {
        name: codec.from_plain(value, _OPTION_TYPES[name]) if name in _OPTION_TYPES else value
        for name, value in options.items()
    }
