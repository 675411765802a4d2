"""Configuration in layers: nbllm's own rows, entry points, the user's file, the project's pyproject.toml,
NBLLM_CONFIG.

Each layer holds `provider`, `alias`, `use` (defaults of cells) and, the project's excepted, `allow` tables
and `ledger`; a later one beats an earlier one, entry by entry. What is wrong in a layer becomes a Problem
with its file and line, and everything else stays in force.

Trust. A row that moves to another host loses the key variables, the address variables and the stored keys of
the row it replaces, whoever moves it: they were meant for the old host. A project's file comes with a
repository that somebody else may have written. It may do this freely, and all else waits for the user's
consent (`ProviderSpec.pending_consent`):

- describe a provider under a new name, with an address and what goes into its requests. What it would spend
  of the user's waits: variables (as a key, in ${...} anywhere, for a command), OpenCode's keys, a login; so
  does a command. Its own NAME_API_KEY may go to this machine.
- of a provider that the user knows, change the entries of _FREE, the path after the same host, and move it to
  this machine;
- make aliases of new names, and of known ones that stay at their provider. Whatever takes a name that works
  today elsewhere (prefixes, bare, an alias) does not do so unasked: prompts are private too;
- choose the default model among the providers that the user knows, and not one that a key in the project's
  `.env` pays for.

Installed packages bring rows and dialects: they run in this process, so that nothing of them waits for
consent. But a row of theirs is called plugin/NAME and nothing else, and an alias of theirs takes no name that
has a meaning.

`%llm key allow NAME` gives consent, in the user's own file, for that address and those values: a row that
changes asks again.
"""

from __future__ import annotations

import contextlib
import fnmatch
import functools
import hashlib
import json
import os
import re
import sys
import tomllib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from importlib.machinery import PathFinder
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from ..core.calls import ProviderSpec, origin, same_host
from ..core.errors import ConfigError
from ..core.options import LEDGERS, OPTIONS
from .config_files import Places, may_say, nearest_pyproject, user_file
from .dialects import Dialects
from .files import read_small
from .spec import BUILT_IN, is_loopback, provider_row, spent
from .toml_edit import at_line, row_line

if TYPE_CHECKING:
    from importlib.metadata import EntryPoint

PLUGIN = "plugin/"  # before the names of rows that installed packages bring
REMOTE = "remote/"  # before those of agents on other machines
_SPACES = ("cli/", PLUGIN, REMOTE)  # what may stand before a row's name, and is a part of it
_BROUGHT = ("provider", "alias")
_TABLES = ("provider", "alias", "allow", "use", "tool")
_NOT_A_PROJECTS = frozenset(o.name for o in OPTIONS if not o.project)
# What a project may change of a provider that the user knows: how it is called, counted and written to.
_FREE = frozenset({"label", "default_model", "model", "price", "quirks", "verified"})
_HTTP = frozenset(
    {"openai_chat", "openai_responses", "anthropic", "gemini", "ollama", "cohere", "a2a"}
)  # dialects that run nothing
# in a line of TOML, outside of texts: tomllib takes the square of a dotted name's length, a minute for 128 kB
_DOTS = 100
_STRING = re.compile(r"\"[^\"\\\n]*\"|'[^'\n]*'")
_LIMIT = 80  # characters of a value in a consent; of a longer one stands its beginning and its hash


class Problem(msgspec.Struct, frozen=True):
    """What is wrong in a configuration: where, at which line (None where that is not known), and what was
    expected."""

    where: str
    line: int | None
    message: str

    def __str__(self) -> str:
        return f"{self.where}{f', line {self.line}' if self.line else ''}: {self.message}"


class Layer(msgspec.Struct, frozen=True):
    """One configuration as it was read. project: it came with a project, so it is not trusted."""

    where: str
    data: Mapping[str, Any]
    text: str = ""
    project: bool = False


class Settings(msgspec.Struct):
    """What configuration says. problems: what is wrong in it; dialects: nbllm's own and those of installed
    packages; defaults: of cells; tools: HTTP endpoints that models may use; ledger: where calls are noted."""

    rows: dict[str, ProviderSpec] = msgspec.field(default_factory=dict)
    aliases: dict[str, str] = msgspec.field(default_factory=dict)
    problems: list[Problem] = msgspec.field(default_factory=list)
    dialects: Dialects = msgspec.field(default_factory=Dialects)
    defaults: dict[str, Any] = msgspec.field(default_factory=dict)
    tools: dict[str, Mapping[str, Any]] = msgspec.field(default_factory=dict)
    ledger: str = LEDGERS[0]
    keep_chats: bool = False  # whether named conversations are kept on disk
    otel: bool = False  # whether calls become OpenTelemetry's spans


class Config(Settings):
    """What all layers come to. allowed: names that the user lets a project's row use, by the origin of its
    address; chosen: the project's file that chose the default model, "" where none did."""

    allowed: dict[str, set[str]] = msgspec.field(default_factory=dict)
    chosen: str = ""


@functools.cache
def _own() -> Layer:
    """nbllm's own rows: to read them is most of what a client costs that is made."""
    return Layer(BUILT_IN, tomllib.loads(Path(__file__).with_name("providers.toml").read_text("utf-8")))


def load(places: Places) -> Config:
    """The configuration in force. Never raises for what a person or a package wrote: see Config.problems."""
    config = Config()
    _apply(config, _own())
    brought, layers = list(_plugins(config, places)), list(_files(config, places))
    for layer in brought:
        _bring(config, layer)
    for layer in layers:
        _allow(config, layer)
    for layer in layers:
        _apply(config, layer)
    for layer in brought:
        _bring_aliases(config, layer)
    if (row := named("api", config.rows)) is not None:
        config.problems.append(
            Problem(
                row.source,
                None,
                f"api/NAME is a provider's explicit form, not a model of {row.name!r}, "
                f"wherever NAME is a provider; expected another name than api",
            )
        )
    return config


# --- finding ------------------------------------------------------------------------------------------------


def _files(config: Config, places: Places) -> Iterator[Layer]:
    project = nearest_pyproject(places.start) if places.start else None
    for path in (places.user, project, places.extra):
        if path is None or (path is places.user and not path.exists()):
            continue
        try:
            text = read_small(path)
            if path == project and not may_say(text):
                continue
            if any(line.count(".") > _DOTS for line in _STRING.sub("", text).split("\n")):
                raise OSError("a name has too many parts")
            data = tomllib.loads(text)
        except tomllib.TOMLDecodeError as error:
            config.problems.append(Problem(str(path), *at_line(error, text)))
            continue
        except (
            OSError,
            ValueError,
            RecursionError,
        ) as error:  # tomllib has others for huge numbers and deep nesting
            why = str(error) if type(error) is OSError and error.errno is None else type(error).__name__
            config.problems.append(Problem(str(path), None, f"cannot be read ({why}); expected a TOML file"))
            continue
        tool = data.get("tool", {})
        yield Layer(
            str(path),
            tool.get("nbllm", {})
            if path == project and isinstance(tool, dict)
            else {}
            if path == project
            else data,
            text,
            project=path == project,
        )


_BRINGS = re.compile(rb"(?m)^[ \t]*\[\s*nbllm\.(?:dialects|providers)\s*\]")


def _may_bring() -> bool:
    """Whether an installed package may bring something. importlib.metadata, which knows, reads all that is
    installed, for as long as a whole first call takes; so it is asked only where a package names us, or is
    kept in another way than in a folder."""
    if any(hasattr(f, "find_distributions") for f in sys.meta_path if f is not PathFinder):
        return True
    for place in dict.fromkeys(sys.path):
        try:
            with os.scandir(place or ".") as entries:
                told = [e.path for e in entries if e.name.lower().endswith((".dist-info", ".egg-info"))]
        except NotADirectoryError:
            return True  # an archive
        except OSError:
            continue
        told += [os.path.join(place, "EGG-INFO")] if place.lower().endswith(".egg") else []
        for folder in told:
            with contextlib.suppress(OSError), open(os.path.join(folder, "entry_points.txt"), "rb") as file:
                if _BRINGS.search(file.read()):
                    return True
    return False


def _plugins(config: Config, places: Places) -> Iterator[Layer]:
    """What installed packages bring: dialects (objects, or classes to be called), and rows (tables as in
    TOML, or a function that gives them)."""
    if not (places.plugins and _may_bring()):
        return
    for entry in _offered(config, places, "nbllm.dialects"):
        dialect = _loaded(config, entry)
        if dialect is not None and not config.dialects.bring(entry.name, dialect):
            config.problems.append(
                Problem(_from(entry), None, f"the dialect {entry.name!r} exists already; expected a new name")
            )
    for entry in _offered(config, places, "nbllm.providers"):
        data = _loaded(config, entry)
        if isinstance(data, Mapping):
            yield Layer(_from(entry), data)
        elif data is not None:
            config.problems.append(
                Problem(
                    _from(entry),
                    None,
                    "expected a mapping with `provider` and `alias` tables, or a function that gives one",
                )
            )


def _offered(config: Config, places: Places, group: str) -> Iterator[EntryPoint]:
    """What installed packages offer. What lies in the working folder was not installed: it came with a
    project, and would run here unasked."""
    from importlib.metadata import entry_points

    for entry in entry_points(group=group):
        at = Path(str(entry.dist.locate_file(""))).resolve() if entry.dist else None
        if at is None or places.start is None or at != places.start.resolve():
            yield entry
        else:
            told = "lies in the working folder, so it is not loaded; expected an installed package"
            config.problems.append(Problem(_from(entry), None, told))


def _bring(config: Config, layer: Layer) -> None:
    """The rows of an installed package: each is called plugin/NAME and answers to that alone, so that it
    takes no name that means something else."""
    for table in layer.data:
        if table not in _BROUGHT:
            told = f"a package brings no {table!r}; expected provider and alias"
            config.problems.append(Problem(layer.where, None, told))
    for name, table in _items(config, layer, "provider"):
        try:
            row = _brought(config, layer, str(name), table)
            config.rows[row.name] = row
        except ConfigError as error:
            config.problems.append(Problem(layer.where, None, f"{error.message} {error.hint}".strip()))


def _brought(config: Config, layer: Layer, name: str, table: Any) -> ProviderSpec:
    """A row of an installed package. Raises ConfigError."""
    full = f"{PLUGIN}{name}"
    if set("/:") & set(name):
        raise ConfigError(f"the row {name!r} has a / or : in its name; expected a plain name")
    if full in config.rows:
        raise ConfigError(f"{full!r} is another package's; expected a name of its own")
    if wide := [n for n in ("prefixes", "bare") if isinstance(table, Mapping) and n in table]:
        told = f"{full!r} answers to that name alone; {' and '.join(wide)} count for nothing"
        config.problems.append(Problem(layer.where, None, told))
        return _brought(config, layer, name, {k: v for k, v in table.items() if k not in wide})
    return provider_row(full, table, None, layer.where, config.dialects)


def _bring_aliases(config: Config, layer: Layer) -> None:
    """The aliases of an installed package, after all others: of names that mean nothing yet."""
    own = {str(name) for name, _ in _items(config, layer, "provider")}
    for name, model in _items(config, layer, "alias"):
        target = f"{PLUGIN}{model}" if isinstance(model, str) and (head(model) or model) in own else model
        wrong = _wrong_alias(name, target, config, layer, config)
        if not wrong and set("/:") & set(name):
            wrong = f"the alias {name!r} has a / or : in it; expected a plain name"
        if not wrong and (name in config.aliases or leads_to(name, config.rows, config.aliases) is not None):
            wrong = f"the alias {name!r} means something already; expected another name"
        if wrong:
            config.problems.append(Problem(layer.where, None, wrong))
        else:
            config.aliases[name] = target


def _loaded(config: Config, entry: EntryPoint) -> Any:
    """What an entry point leads to; a class or a function is called for it."""
    try:
        found = entry.load()
        return found() if callable(found) else found
    # somebody else's package may fail in any way, and must break nothing here
    except Exception as error:  # noqa: BLE001
        config.problems.append(
            Problem(_from(entry), None, f"cannot be loaded: {type(error).__name__}: {error}")
        )
        return None


def _from(entry: EntryPoint) -> str:
    return f"entry point {entry.name} of {entry.dist.name if entry.dist else entry.value}"


# --- applying -----------------------------------------------------------------------------------------------


def _allow(config: Config, layer: Layer) -> None:
    """Consent counts wherever the user's own files give it; a project cannot allow itself anything."""
    for where, names in _items(config, layer, "allow") if not layer.project else ():
        config.allowed.setdefault(where, set()).update(
            map(str, names if isinstance(names, list) else [names])
        )


def _apply(config: Config, layer: Layer) -> None:
    for table in layer.data:
        if table not in (*_TABLES, *_WORDS):
            config.problems.append(
                _problem(layer, f"unknown table {table!r}; expected {', '.join(_TABLES)}", table)
            )
    below = msgspec.structs.replace(
        config, rows=dict(config.rows), aliases=dict(config.aliases)
    )  # what a project's file is compared with
    for name, table in _items(config, layer, "provider"):
        try:
            row = _written(config, layer, name, table)
            config.rows[name] = (
                replace(row, pending_consent=_held(row, table, below)) if layer.project else row
            )
        except ConfigError as error:
            config.problems.append(
                Problem(
                    layer.where,
                    row_line(layer.text, name, getattr(error, "entry", "")),
                    f"{error.message} {error.hint}".strip(),
                )
            )
    for name, model in _items(config, layer, "alias"):
        wrong = _wrong_alias(name, model, config, layer, below)
        if wrong:
            config.problems.append(_problem(layer, wrong, "alias", name))
        else:
            config.aliases[name] = model
    for name, table in _items(config, layer, "tool"):
        if layer.project:
            words = f"a project describes no tool; expected it in {user_file()}"
            config.problems.append(_problem(layer, words, "tool", name))
        elif not isinstance(table, Mapping):
            config.problems.append(_problem(layer, f"the tool {name!r} is no table", "tool", name))
        else:
            config.tools[name] = table
    _use(config, layer)
    _words(config, layer)


def _written(config: Config, layer: Layer, name: str, table: Any) -> ProviderSpec:
    """A row of a file, or what it changes of one. Raises ConfigError."""
    if name.startswith(PLUGIN) and name not in config.rows:
        raise ConfigError(f"no installed package brings {name!r}.", hint="Expected another name.")
    row = provider_row(name, table, config.rows.get(name), layer.where, config.dialects)
    if name.startswith(REMOTE) != (row.mode == "remote"):
        raise ConfigError("an agent's row is called remote/NAME, and has no dialect but a2a.")
    return row


# What the user's own files say in a word above their tables, and a project does not: its values, an example.
_WORDS: dict[str, tuple[tuple[Any, ...], str]] = {
    "ledger": (LEDGERS, '"memory"'),
    **dict.fromkeys(("keep_chats", "otel"), ((True, False), "true")),
}


def _words(config: Config, layer: Layer) -> None:
    for name, (values, example) in _WORDS.items():
        said = layer.data.get(name, getattr(config, name))
        if said in values and type(said) is type(values[0]) and not (layer.project and name in layer.data):
            setattr(config, name, said)
            continue
        known = "true or false" if True in values else f"one of {', '.join(values)}"
        wrong = f"a project does not choose {name!r}" if layer.project else f"{name!r} is {known}"
        expected = f"expected {name} = {example} above the tables of {user_file()}"
        config.problems.append(_problem(layer, f"{wrong}; {expected}", name))


def _use(config: Config, layer: Layer) -> None:
    """Defaults of cells, as they are written; the notebook knows the options."""
    for name, value in _items(config, layer, "use"):
        if layer.project and name in _NOT_A_PROJECTS:
            config.problems.append(
                _problem(
                    layer,
                    f"a project does not choose {name!r}; expected it in a cell, or in {user_file()}",
                    "use",
                    name,
                )
            )
        elif layer.project and name == "model" and _leads_home(str(value), config, layer):
            config.problems.append(
                _problem(
                    layer,
                    f"the default model {value!r} would send what you ask to a provider of this project; "
                    f"expected one that you know, or its name in a cell",
                    "use",
                    name,
                )
            )
        elif layer.project and name == "model" and _is_file(str(value), config):
            config.problems.append(
                _problem(
                    layer,
                    f"the default model {value!r} may be a model file of this project; "
                    "expected its name in a cell",
                    "use",
                    name,
                )
            )
        elif not isinstance(value, (str, int, float, bool)):
            config.problems.append(_problem(layer, f"the default {name!r} is no text or number", "use", name))
        else:
            config.defaults[name] = value
            if name == "model":
                config.chosen = layer.where if layer.project else ""


def _leads_home(model: str, config: Config, layer: Layer) -> bool:
    """Whether a name ends at a provider that this layer itself describes, elsewhere than on this machine."""
    row = leads_to(model, config.rows, config.aliases)
    return row is not None and row.source == layer.where and not is_loopback(row.base_url)


def _is_file(model: str, config: Config) -> bool:
    return meant(model, config.aliases, config.rows).lower().endswith(".gguf")


def _problem(layer: Layer, message: str, *names: str) -> Problem:
    return Problem(layer.where, row_line(layer.text, *names), message)


def _items(config: Config, layer: Layer, table: str) -> Iterable[tuple[str, Any]]:
    found = layer.data.get(table, {})
    if isinstance(found, Mapping):
        return list(found.items())
    config.problems.append(
        _problem(layer, f"{table!r} is no table; expected [{table}] or [{table}.NAME]", table)
    )
    return ()


def _wrong_alias(name: str, model: Any, config: Config, layer: Layer, below: Config) -> str:
    """What is wrong with an alias, "" for nothing. A project's may not lead a name that works today to
    another provider."""
    if not isinstance(model, str) or not model or not (model + name).isprintable():
        return f"the alias {name!r} leads to no text; expected a model's name in quotes"
    if named(name, config.rows) or name in ("auto", "sim") or plain(name, config.rows) != name:
        return f"the alias {name!r} is a provider's name already; expected another name"
    today = leads_to(name, below.rows, below.aliases)
    if layer.project and (today is not None or name in below.aliases or head(name) == "sim"):
        target = leads_to(model, config.rows, config.aliases)
        if (
            today is None
            or target is None
            or target.name not in below.rows
            or not same_host(target.base_url, today.base_url)
        ):
            return (
                f"the alias {name!r} would lead a known name to another provider; expected a new name, "
                f"or, if that is meant, in a cell: %llm alias {name} {model} --save"
            )
    return ""


def leads_to(name: str, rows: Mapping[str, ProviderSpec], aliases: Mapping[str, str]) -> ProviderSpec | None:
    """The row that a name leads to in the end, through aliases; None for none."""
    return known(meant(name, aliases, rows), rows)


def meant(name: str, aliases: Mapping[str, str], rows: Mapping[str, ProviderSpec]) -> str:
    """What an alias stands for in the end; an alias may lead to another. An explicit name is none."""
    seen: set[str] = set()
    while name in aliases and name not in seen and plain(name, rows) == name:
        seen.add(name)
        name = aliases[name]
    return name


def plain(name: str, rows: Mapping[str, ProviderSpec]) -> str:
    """A full name without the `api/` that says explicitly that a provider's address answers; as it is where
    no provider of that kind follows."""
    first, _, rest = name.partition("/")
    row = named(head(rest) or rest, rows) if first.lower() == "api" else None
    return name if row is None or row.command else rest


def known(name: str, rows: Mapping[str, ProviderSpec]) -> ProviderSpec | None:
    """The row that a model's full name leads to, in its explicit form too."""
    return found(plain(name, rows), rows)


def found(name: str, rows: Mapping[str, ProviderSpec]) -> ProviderSpec | None:
    """The row of a plain name: by what stands before the first / or :, by itself, or by a row's patterns.
    name:tag is a local server's model, which no pattern means."""
    cut = len(head(name))
    if (row := named(name[:cut], rows) or named(name, rows)) is not None or ":" in name:
        return row
    return next((r for r in rows.values() if any(fnmatch.fnmatchcase(name, p) for p in r.bare)), None)


def head(name: str) -> str:
    """What stands before the first / or : of a full name, "" without one; of cli/claude/opus it is
    cli/claude, of plugin/acme/big plugin/acme."""
    if name.lower().startswith(_SPACES):
        return "/".join(name.split("/")[:2])
    return name[: min((i for i in (name.find("/"), name.find(":")) if i > 0), default=0)]


def named(word: str, rows: Mapping[str, ProviderSpec]) -> ProviderSpec | None:
    """The row with this name or prefix, None where there is none."""
    word = word.lower()
    return rows.get(word) or next((r for r in rows.values() if word in r.prefixes), None)


# --- trust --------------------------------------------------------------------------------------------------


def _held(row: ProviderSpec, table: Mapping[str, Any], below: Config) -> tuple[str, ...]:
    """What of a project's row waits for the user's consent: variables by name, `NAME` for a known name that
    moves to another host, `NAME: entry = value` for what else may change where or how it is asked."""
    same = below.rows.get(row.name)
    old = same or next((r for p in row.prefixes if (r := named(p, below.rows))), None)
    kept, here = old is not None and same_host(row.base_url, old.base_url), is_loopback(row.base_url)
    free = (
        spent(old)
        if old is not None and kept
        else {_own_key(row)} - {n for r in below.rows.values() for n in spent(r)}
        if here
        else set()
    )
    waits = spent(row) - free
    if (same is not None and not kept and not here) or (same is None and _known_word(row.name, row, below)):
        waits.add(row.name)
    waits |= {
        f"{row.name}: {e} = {_value(row.folders if e == 'folders' else table[e])}"
        for e in table
        if _asks(e, row, same, below)
    }
    if "opencode" in table and not row.builtin_origin:
        waits.add(f"opencode = {_value(row.opencode)}")
    return tuple(sorted(waits - below.allowed.get(origin(row.base_url), set())))


def _own_key(row: ProviderSpec) -> str:
    return re.sub(r"\W", "_", row.name).upper() + "_API_KEY"


def _value(value: Any) -> str:
    text = json.dumps(value, default=str)
    return (
        text
        if len(text) <= _LIMIT
        else f"{text[:_LIMIT]}... ({hashlib.sha256(text.encode()).hexdigest()[:16]})"
    )


def _asks(entry: str, row: ProviderSpec, same: ProviderSpec | None, below: Config) -> bool:
    """Whether an entry of a project's row may lead prompts or secrets elsewhere, or runs something. What
    names variables waits by their names, not here."""
    if same is None:
        return (
            entry in ("command", "oauth", "folders")
            or (entry == "dialect" and row.dialect not in _HTTP)
            or _takes(entry, row, (), below)
        )
    if entry != "model" and getattr(row, entry) == getattr(same, entry):
        return False
    if same.command or not {row.dialect, same.dialect} <= _HTTP:
        return True
    if entry in ("prefixes", "bare"):
        return _takes(entry, row, getattr(same, entry), below)
    if entry == "base_url":
        return same.source != BUILT_IN and same_host(
            row.base_url, same.base_url
        )  # another host has a word of its own
    return entry not in _FREE | {"key_env", "base_url_env", "passes", "opencode"}


def _takes(entry: str, row: ProviderSpec, before: tuple[str, ...], below: Config) -> bool:
    """Whether names that work today lead elsewhere with the row's prefixes or patterns, which were
    `before`."""
    if entry == "prefixes":
        return not set(before) <= set(row.prefixes) or any(_known_word(w, row, below) for w in row.prefixes)
    others = [_fixed(p) for r in below.rows.values() if r.name != row.name for p in r.bare]
    new = [_fixed(p) for p in row.bare if p not in before]
    return entry == "bare" and (
        not set(before) <= set(row.bare)
        or "" in new
        or any(a.startswith(b) or b.startswith(a) for a in new for b in others)
    )


def _known_word(word: str, row: ProviderSpec, below: Config) -> bool:
    """Whether names that begin with a word lead to another row today."""
    today = [known(name, below.rows) for name in (word, f"{word}/x", f"api/{word}/x")]
    return any(
        r is not None and r.name != row.name
        for r in (*today, *(r for r in below.rows.values() if any(head(p) == word for p in r.bare)))
    )


def _fixed(pattern: str) -> str:
    """What every name begins with that a pattern means."""
    return re.split(r"[*?\[]", pattern, maxsplit=1)[0]
