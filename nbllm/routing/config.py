"""Reads the configuration in layers: nbllm's own rows, entry points, the user's file, the project's
pyproject.toml, NBLLM_CONFIG.

Each layer holds the tables `provider`, `alias`, `use` (defaults of cells) and, except the project's, `allow`
and the entry `ledger`; a later layer overrides an earlier one, entry by entry. An error in a layer becomes a
Problem with its file and line, and the rest stays in force.

Trust. A row that moves to another host loses the key variables, the address variables and the stored keys of
the row it replaces, whichever layer moves it: they were meant for the old host. A project's file comes with a
repository that somebody else may have written. It may do the following without consent; everything else waits
for the user's (`ProviderSpec.pending_consent`):

- describe a provider under a new name, with an address and what goes into its requests. What would use
  something of the user's needs consent: variables (as a key, in ${...} anywhere, for a command), OpenCode's
  keys, a login; so does a command. The row's own NAME_API_KEY may be sent to this machine;
- for a provider that the user knows, change the entries of _FREE and the path on the same host, and move it
  to this machine;
- define aliases of new names, and redefine known ones within the same provider. It may not redirect a name
  that works today to another provider (by prefixes, bare or an alias), since prompts are private too;
- choose the default model among the providers that the user knows, unless the key for it comes from the
  project's `.env`.

Installed packages bring rows and dialects: they run in this process, so nothing of theirs needs consent. But
their rows are called plugin/NAME only, and their aliases cannot replace a name that has a meaning.

`%llm key allow NAME` stores consent in the user's own file, for this address and these values: a row that
changes needs it again.
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
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import replace
from functools import partial
from importlib.machinery import PathFinder
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import msgspec

from ..core.calls import ProviderSpec, origin, same_host
from ..core.errors import ConfigError
from ..core.options import LEDGERS, OPTIONS
from .config_files import Places, mentions_nbllm, nearest_pyproject, user_file
from .dialects import Dialects
from .files import read_small_file
from .spec import BUILT_IN, field_of, is_loopback, provider_row, referenced_env
from .toml_edit import locate_toml_error, row_line

if TYPE_CHECKING:
    from importlib.metadata import EntryPoint

PLUGIN = "plugin/"  # the prefix of rows from installed packages
REMOTE = "remote/"  # the prefix of agents on other machines
_PREFIXES = ("cli/", PLUGIN, REMOTE)  # prefixes that are a part of a row's name
_PLUGIN_TABLES = ("provider", "alias")
_TABLES = ("provider", "alias", "allow", "use", "tool")
_NOT_FOR_PROJECTS = frozenset(o.name for o in OPTIONS if not o.project)
# The entries that a project may change in a provider that the user knows: names, prices and request format.
_FREE = frozenset({"label", "default_model", "model", "price", "quirks", "verified"})
_HTTP = frozenset(
    {"openai_chat", "openai_responses", "anthropic", "gemini", "ollama", "cohere", "a2a"}
)  # dialects that run nothing
# Dots in a line of TOML, outside of strings: tomllib needs time quadratic in the parts of a dotted name, a
# minute for 128 kB.
_MAX_DOTS = 100
_STRING = re.compile(r"\"[^\"\\\n]*\"|'[^'\n]*'")
_MAX_VALUE = 80  # characters of a value in a consent; a longer one is stored as its beginning and its hash


class Problem(msgspec.Struct, frozen=True):
    """An error in a configuration: its source, its line (None where that is not known), and what is wrong and
    expected."""

    source: str
    line: int | None
    message: str

    def __str__(self) -> str:
        return f"{self.source}{f', line {self.line}' if self.line else ''}: {self.message}"


class Layer(msgspec.Struct, frozen=True):
    """One parsed configuration. project: whether it came with a project, and so is not trusted."""

    source: str
    data: Mapping[str, Any]
    text: str = ""
    project: bool = False


class Settings(msgspec.Struct):
    """The merged configuration. problems: errors in it; dialects: nbllm's own and those of installed
    packages; defaults: of cells; tools: HTTP endpoints that models may use; ledger: where calls are
    recorded."""

    rows: dict[str, ProviderSpec] = msgspec.field(default_factory=dict)
    aliases: dict[str, str] = msgspec.field(default_factory=dict)
    problems: list[Problem] = msgspec.field(default_factory=list)
    dialects: Dialects = msgspec.field(default_factory=Dialects)
    defaults: dict[str, Any] = msgspec.field(default_factory=dict)
    tools: dict[str, Mapping[str, Any]] = msgspec.field(default_factory=dict)
    ledger: str = LEDGERS[0]
    keep_chats: bool = False  # whether named conversations are stored on disk
    otel: bool = False  # whether calls become OpenTelemetry spans


class Config(Settings):
    """Settings while the layers are merged. allowed: the names that the user allows a project's row to use,
    by the origin of its address; default_model_source: the project's file that chose the default model, ""
    where none did."""

    allowed: dict[str, set[str]] = msgspec.field(default_factory=dict)
    default_model_source: str = ""

    def report(self, layer: Layer, message: str, *names: str) -> None:
        """Adds a problem of a layer. names: the table or row, and the entry, at whose line it is."""
        line = row_line(layer.text, *names) if names else None
        self.problems.append(Problem(layer.source, line, message))


@functools.cache
def _built_in() -> Config:
    """nbllm's own rows and aliases, cached: reading them is most of the time that making a client takes."""
    config, path = Config(), Path(__file__).with_name("providers.toml")
    _apply(config, Layer(BUILT_IN, tomllib.loads(path.read_text("utf-8"))))
    return config


def load(places: Places) -> Config:
    """The configuration in force. Never raises for errors of a user or a package: see Config.problems."""
    config = Config(dict(_built_in().rows), dict(_built_in().aliases))
    plugins, files = list(_load_plugins(config, places)), list(_read_files(config, places))
    for layer in plugins:
        _add_plugin_rows(config, layer)
    for layer in files:
        _apply_consent(config, layer)
    for layer in files:
        _apply(config, layer)
    for layer in plugins:
        _add_plugin_aliases(config, layer)
    if (row := row_named("api", config.rows)) is not None:
        config.problems.append(
            Problem(
                row.source,
                None,
                f"api/NAME is a provider's explicit form, not a model of {row.name!r}, "
                f"wherever NAME is a provider; expected another name than api",
            )
        )
    return config


# --- files --------------------------------------------------------------------------------------------------


def _read_files(config: Config, places: Places) -> Iterator[Layer]:
    project = nearest_pyproject(places.start) if places.start else None
    for path in (places.user, project, places.extra):
        if path is None or (path is places.user and not path.exists()):
            continue
        try:
            text = read_small_file(path)
            if path == project and not mentions_nbllm(text):
                continue
            if any(line.count(".") > _MAX_DOTS for line in _STRING.sub("", text).split("\n")):
                raise OSError("a name has too many parts")
            data = tomllib.loads(text)
        except tomllib.TOMLDecodeError as error:
            config.problems.append(Problem(str(path), *locate_toml_error(error, text)))
            continue
        # tomllib raises the last two for huge numbers and deep nesting
        except (OSError, ValueError, RecursionError) as error:
            why = str(error) if type(error) is OSError and error.errno is None else type(error).__name__
            config.problems.append(Problem(str(path), None, f"cannot be read ({why}); expected a TOML file"))
            continue
        if path == project:
            tool = data.get("tool", {})
            data = tool.get("nbllm", {}) if isinstance(tool, dict) else {}
        yield Layer(str(path), data, text, project=path == project)


# --- installed packages -------------------------------------------------------------------------------------

_OUR_GROUPS = re.compile(rb"(?m)^[ \t]*\[\s*nbllm\.(?:dialects|providers)\s*\]")


def _may_have_plugins() -> bool:
    """Whether an installed package may have entry points for us. importlib.metadata knows, but reads all
    installed packages, which takes as long as a complete first call; so it is used only where a package's
    file names us, or where packages are not folders of files."""
    if any(hasattr(f, "find_distributions") for f in sys.meta_path if f is not PathFinder):
        return True
    for path in dict.fromkeys(sys.path):
        try:
            with os.scandir(path or ".") as entries:
                folders = [e.path for e in entries if e.name.lower().endswith((".dist-info", ".egg-info"))]
        except NotADirectoryError:
            return True  # an archive
        except OSError:
            continue
        folders += [os.path.join(path, "EGG-INFO")] if path.lower().endswith(".egg") else []
        for folder in folders:
            with contextlib.suppress(OSError), open(os.path.join(folder, "entry_points.txt"), "rb") as file:
                if _OUR_GROUPS.search(file.read()):
                    return True
    return False


def _load_plugins(config: Config, places: Places) -> Iterator[Layer]:
    """Loads what installed packages bring: dialects (objects, or classes to be called), and rows (tables as
    in TOML, or a function that returns them)."""
    if not (places.plugins and _may_have_plugins()):
        return
    for entry in _entry_points(config, places, "nbllm.dialects"):
        dialect = _load_entry_point(config, entry)
        if dialect is not None and not config.dialects.add(entry.name, dialect):
            config.report(
                _plugin_layer(entry), f"the dialect {entry.name!r} exists already; expected a new name"
            )
    for entry in _entry_points(config, places, "nbllm.providers"):
        data = _load_entry_point(config, entry)
        if isinstance(data, Mapping):
            yield _plugin_layer(entry, data)
        elif data is not None:
            config.report(
                _plugin_layer(entry),
                "expected a mapping with `provider` and `alias` tables, or a function that returns one",
            )


def _entry_points(config: Config, places: Places, group: str) -> Iterator[EntryPoint]:
    """The entry points of installed packages. A package in the working folder was not installed: it came with
    a project, so it is not loaded."""
    from importlib.metadata import entry_points

    for entry in entry_points(group=group):
        folder = Path(str(entry.dist.locate_file(""))).resolve() if entry.dist else None
        if folder is None or places.start is None or folder != places.start.resolve():
            yield entry
        else:
            message = "is in the working folder, so it is not loaded; expected an installed package"
            config.report(_plugin_layer(entry), message)


def _plugin_layer(entry: EntryPoint, data: Mapping[str, Any] = MappingProxyType({})) -> Layer:
    return Layer(f"entry point {entry.name} of {entry.dist.name if entry.dist else entry.value}", data)


def _add_plugin_rows(config: Config, layer: Layer) -> None:
    """Adds the rows of an installed package. Each is called plugin/NAME and has no other name, so that it
    replaces no name that means something else."""
    for table in layer.data:
        if table not in _PLUGIN_TABLES:
            config.report(layer, f"a package cannot set {table!r}; expected provider or alias")
    for name, table in _items(config, layer, "provider"):
        try:
            row = _plugin_row(config, layer, str(name), table)
            config.rows[row.name] = row
        except ConfigError as error:
            config.report(layer, f"{error.message} {error.hint}".strip())


def _plugin_row(config: Config, layer: Layer, name: str, table: Any) -> ProviderSpec:
    """A row of an installed package. Raises ConfigError."""
    full = f"{PLUGIN}{name}"
    if set("/:") & set(name):
        raise ConfigError(f"the row {name!r} has a / or : in its name; expected a plain name")
    if full in config.rows:
        raise ConfigError(f"{full!r} belongs to another package; expected an unused name")
    if ignored := [n for n in ("prefixes", "bare") if isinstance(table, Mapping) and n in table]:
        config.report(layer, f"{full!r} has no other names, so {' and '.join(ignored)} are ignored")
        table = {k: v for k, v in table.items() if k not in ignored}
    return provider_row(full, table, None, layer.source, config.dialects)


def _add_plugin_aliases(config: Config, layer: Layer) -> None:
    """Adds the aliases of an installed package, after all others, for names without a meaning only."""
    own = {str(name) for name, _ in _items(config, layer, "provider")}
    for name, model in _items(config, layer, "alias"):
        is_own = isinstance(model, str) and (provider_prefix(model) or model) in own
        target = f"{PLUGIN}{model}" if is_own else model
        problem = _alias_problem(config, layer, config, name, target)
        if not problem and set("/:") & set(name):
            problem = f"the alias {name!r} has a / or : in it; expected a plain name"
        if not problem and (
            name in config.aliases or leads_to(name, config.rows, config.aliases) is not None
        ):
            problem = f"the alias {name!r} has a meaning already; expected another name"
        if problem:
            config.report(layer, problem)
        else:
            config.aliases[name] = target


def _load_entry_point(config: Config, entry: EntryPoint) -> Any:
    """The object of an entry point; a class or function is called, and its result returned."""
    try:
        loaded = entry.load()
        return loaded() if callable(loaded) else loaded
    # another package may fail in any way, and must break nothing here
    except Exception as error:  # noqa: BLE001
        config.report(_plugin_layer(entry), f"cannot be loaded: {type(error).__name__}: {error}")
        return None


# --- merging ------------------------------------------------------------------------------------------------


def _apply_consent(config: Config, layer: Layer) -> None:
    """Consent counts in the user's own files only: a project cannot give itself consent."""
    for address, names in _items(config, layer, "allow") if not layer.project else ():
        config.allowed.setdefault(address, set()).update(
            map(str, names if isinstance(names, list) else [names])
        )


def _apply(config: Config, layer: Layer) -> None:
    for table in layer.data:
        if table not in (*_TABLES, *_SWITCHES):
            config.report(layer, f"unknown table {table!r}; expected {', '.join(_TABLES)}", table)
    lower = msgspec.structs.replace(
        config, rows=dict(config.rows), aliases=dict(config.aliases)
    )  # the layers below, with which a project's file is compared
    for name, table in _items(config, layer, "provider"):
        try:
            row = _file_row(config, layer, name, table)
            if layer.project:
                row = replace(row, pending_consent=_pending_consent(row, table, lower))
            config.rows[name] = row
        except ConfigError as error:
            entry = getattr(error, "entry", "")
            config.report(layer, f"{error.message} {error.hint}".strip(), name, entry)
    for name, model in _valid_items(config, layer, "alias", partial(_alias_problem, config, layer, lower)):
        config.aliases[name] = model
    config.tools |= _valid_items(config, layer, "tool", partial(_tool_problem, layer))
    defaults = dict(_valid_items(config, layer, "use", partial(_default_problem, config, layer)))
    config.defaults |= defaults
    if "model" in defaults:
        config.default_model_source = layer.source if layer.project else ""
    _apply_switches(config, layer)


def _valid_items(
    config: Config, layer: Layer, table: str, problem_of: Callable[[str, Any], str]
) -> Iterator[tuple[str, Any]]:
    """The valid entries of a layer's table; the others are reported. problem_of: why an entry is invalid, ""
    where it is valid."""
    for name, value in _items(config, layer, table):
        if problem := problem_of(name, value):
            config.report(layer, problem, table, name)
        else:
            yield name, value


def _file_row(config: Config, layer: Layer, name: str, table: Any) -> ProviderSpec:
    """The row that a file's table defines or changes. Raises ConfigError."""
    if name.startswith(PLUGIN) and name not in config.rows:
        raise ConfigError(f"no installed package brings {name!r}.", hint="Expected another name.")
    row = provider_row(name, table, config.rows.get(name), layer.source, config.dialects)
    if name.startswith(REMOTE) != (row.mode == "remote"):
        raise ConfigError("an agent's row is called remote/NAME, and its dialect is a2a.")
    return row


# Entries above the tables of the user's own files, which a project cannot set: their values, an example.
_SWITCHES: dict[str, tuple[tuple[Any, ...], str]] = {
    "ledger": (LEDGERS, '"memory"'),
    **dict.fromkeys(("keep_chats", "otel"), ((True, False), "true")),
}


def _apply_switches(config: Config, layer: Layer) -> None:
    for name, (values, example) in _SWITCHES.items():
        value = layer.data.get(name, getattr(config, name))
        if value in values and type(value) is type(values[0]) and not (layer.project and name in layer.data):
            setattr(config, name, value)
            continue
        options = "true or false" if True in values else f"one of {', '.join(values)}"
        problem = f"a project cannot set {name!r}" if layer.project else f"{name!r} is {options}"
        config.report(
            layer, f"{problem}; expected {name} = {example} above the tables of {user_file()}", name
        )


def _tool_problem(layer: Layer, name: str, table: Any) -> str:
    """Why the table of a tool is ignored, "" where it is not."""
    if layer.project:
        return f"a project cannot define tools; expected it in {user_file()}"
    return "" if isinstance(table, Mapping) else f"the tool {name!r} is not a table"


def _default_problem(config: Config, layer: Layer, name: str, value: Any) -> str:
    """Why a default of cells is ignored, "" where it is not; the notebook checks the options themselves."""
    if layer.project and name in _NOT_FOR_PROJECTS:
        return f"a project cannot set {name!r}; expected it in a cell, or in {user_file()}"
    if layer.project and name == "model":
        row = leads_to(str(value), config.rows, config.aliases)
        if row is not None and row.source == layer.source and not is_loopback(row.base_url):
            return (
                f"the default model {value!r} would send your prompts to a provider of this project; "
                f"expected one that you know, or its name in a cell"
            )
        if resolve_alias(str(value), config.aliases, config.rows).lower().endswith(".gguf"):
            return (
                f"the default model {value!r} may be a model file of this project; "
                "expected its name in a cell"
            )
    is_plain = isinstance(value, (str, int, float, bool))
    return "" if is_plain else f"the default {name!r} is neither text nor a number"


def _items(config: Config, layer: Layer, table: str) -> Iterable[tuple[str, Any]]:
    items = layer.data.get(table, {})
    if isinstance(items, Mapping):
        return list(items.items())
    config.report(layer, f"{table!r} is not a table; expected [{table}] or [{table}.NAME]", table)
    return ()


def _alias_problem(config: Config, layer: Layer, lower: Config, name: str, model: Any) -> str:
    """Why an alias is invalid, "" where it is valid. A project's alias may not lead a name that works today
    to another provider."""
    if not isinstance(model, str) or not model or not (model + name).isprintable():
        return f"the alias {name!r} is not a text; expected a model's name in quotes"
    if is_provider_name(name, config.rows):
        return f"the alias {name!r} is a provider's name already; expected another name"
    today = leads_to(name, lower.rows, lower.aliases)
    if layer.project and (today is not None or name in lower.aliases or provider_prefix(name) == "sim"):
        target = leads_to(model, config.rows, config.aliases)
        if (
            today is None
            or target is None
            or target.name not in lower.rows
            or not same_host(target.base_url, today.base_url)
        ):
            return (
                f"the alias {name!r} would lead a known name to another provider; expected a new name, "
                f"or, if that is intended, in a cell: %llm alias {name} {model} --save"
            )
    return ""


# --- names --------------------------------------------------------------------------------------------------


def leads_to(name: str, rows: Mapping[str, ProviderSpec], aliases: Mapping[str, str]) -> ProviderSpec | None:
    """The row that a name leads to, through aliases; None for none."""
    return match_full_name(resolve_alias(name, aliases, rows), rows)


def resolve_alias(name: str, aliases: Mapping[str, str], rows: Mapping[str, ProviderSpec]) -> str:
    """The name that an alias stands for, through further aliases. A name with the prefix api/ is no alias."""
    seen: set[str] = set()
    while name in aliases and name not in seen and strip_api_prefix(name, rows) == name:
        seen.add(name)
        name = aliases[name]
    return name


def strip_api_prefix(name: str, rows: Mapping[str, ProviderSpec]) -> str:
    """A full name without the prefix `api/`, which says that a provider with an address is meant; unchanged
    where no such provider follows."""
    first, _, rest = name.partition("/")
    row = row_named(provider_prefix(rest) or rest, rows) if first.lower() == "api" else None
    return name if row is None or row.command else rest


def match_full_name(name: str, rows: Mapping[str, ProviderSpec]) -> ProviderSpec | None:
    """The row of a model's full name, with or without api/; None for none."""
    return match_row(strip_api_prefix(name, rows), rows)


def match_row(name: str, rows: Mapping[str, ProviderSpec]) -> ProviderSpec | None:
    """The row of a name without api/: by its part before the first / or :, by itself, or by a row's patterns.
    name:tag is a local server's model, which no pattern matches."""
    cut = len(provider_prefix(name))
    if (row := row_named(name[:cut], rows) or row_named(name, rows)) is not None or ":" in name:
        return row
    return next((r for r in rows.values() if any(fnmatch.fnmatchcase(name, p) for p in r.bare)), None)


def provider_prefix(name: str) -> str:
    """The part before the first / or : of a full name, "" without one; for cli/claude/opus it is cli/claude,
    for plugin/acme/big plugin/acme."""
    if name.lower().startswith(_PREFIXES):
        return "/".join(name.split("/")[:2])
    return name[: min((i for i in (name.find("/"), name.find(":")) if i > 0), default=0)]


def is_provider_name(name: str, rows: Mapping[str, ProviderSpec]) -> bool:
    """Whether a name means a provider, so that no alias can have it."""
    is_row = row_named(name, rows) is not None or name in ("auto", "sim")
    return is_row or strip_api_prefix(name, rows) != name


def row_named(word: str, rows: Mapping[str, ProviderSpec]) -> ProviderSpec | None:
    """The row with this name or prefix, None where there is none."""
    word = word.lower()
    return rows.get(word) or next((r for r in rows.values() if word in r.prefixes), None)


# --- trust --------------------------------------------------------------------------------------------------


def _pending_consent(row: ProviderSpec, table: Mapping[str, Any], lower: Config) -> tuple[str, ...]:
    """What needs the user's consent in a project's row: variables by name, `NAME` for a known name that moves
    to another host, `NAME: entry = value` for other entries that may change where or how it is called."""
    same = lower.rows.get(row.name)
    old = same or next((r for p in row.prefixes if (r := row_named(p, lower.rows))), None)
    is_old_host = old is not None and same_host(row.base_url, old.base_url)
    is_here = is_loopback(row.base_url)
    free: set[str] = set()
    if old is not None and is_old_host:
        free = referenced_env(old)
    elif is_here:
        free = {_own_key_name(row)} - {n for r in lower.rows.values() for n in referenced_env(r)}
    pending = referenced_env(row) - free
    moves_away = same is not None and not is_old_host and not is_here
    if moves_away or (same is None and _has_meaning(row.name, row, lower)):
        pending.add(row.name)
    pending |= {
        f"{row.name}: {e} = {_abbreviate(row.folders if e == 'folders' else table[e])}"
        for e in table
        if _needs_consent(e, row, same, lower)
    }
    if "opencode" in table and not row.builtin_origin:
        pending.add(f"opencode = {_abbreviate(row.opencode)}")
    return tuple(sorted(pending - lower.allowed.get(origin(row.base_url), set())))


def _own_key_name(row: ProviderSpec) -> str:
    return re.sub(r"\W", "_", row.name).upper() + "_API_KEY"


def _abbreviate(value: Any) -> str:
    text = json.dumps(value, default=str)
    if len(text) <= _MAX_VALUE:
        return text
    return f"{text[:_MAX_VALUE]}... ({hashlib.sha256(text.encode()).hexdigest()[:16]})"


def _needs_consent(entry: str, row: ProviderSpec, same: ProviderSpec | None, lower: Config) -> bool:
    """Whether an entry of a project's row may lead prompts or secrets elsewhere, or run something. Entries
    that name variables are not included: those need consent by name."""
    if same is None:
        return (
            entry in ("command", "oauth", "folders")
            or (entry == "dialect" and row.dialect not in _HTTP)
            or _captures_names(entry, row, (), lower)
        )
    if entry != "model" and getattr(row, field_of(entry)) == getattr(same, field_of(entry)):
        return False
    if same.command or not {row.dialect, same.dialect} <= _HTTP:
        return True
    if entry in ("prefixes", "bare"):
        return _captures_names(entry, row, getattr(same, entry), lower)
    if entry == "base_url":  # a move to another host needs consent by the row's name
        return same.source != BUILT_IN and same_host(row.base_url, same.base_url)
    return entry not in _FREE | {"key_env", "base_url_env", "passes", "opencode"}


def _captures_names(entry: str, row: ProviderSpec, before: tuple[str, ...], lower: Config) -> bool:
    """Whether the row's prefixes or patterns, which were `before`, lead names elsewhere that work today."""
    if entry == "prefixes":
        return not set(before) <= set(row.prefixes) or any(_has_meaning(w, row, lower) for w in row.prefixes)
    others = [_fixed_prefix(p) for r in lower.rows.values() if r.name != row.name for p in r.bare]
    new = [_fixed_prefix(p) for p in row.bare if p not in before]
    return entry == "bare" and (
        not set(before) <= set(row.bare)
        or "" in new
        or any(a.startswith(b) or b.startswith(a) for a in new for b in others)
    )


def _has_meaning(word: str, row: ProviderSpec, lower: Config) -> bool:
    """Whether names that begin with a word lead to another row today."""
    today = [match_full_name(name, lower.rows) for name in (word, f"{word}/x", f"api/{word}/x")]
    by_pattern = (r for r in lower.rows.values() if any(provider_prefix(p) == word for p in r.bare))
    return any(r is not None and r.name != row.name for r in (*today, *by_pattern))


def _fixed_prefix(pattern: str) -> str:
    """The text with which every name that matches a pattern begins."""
    return re.split(r"[*?\[]", pattern, maxsplit=1)[0]
