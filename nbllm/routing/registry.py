"""Resolves a model's name to the provider that answers it: rows of providers.toml, aliases, and the syntax of
names.

A name is `provider/model` (explicitly `api/provider/model`), `provider:model`, a bare model name that a
row's patterns match, a provider's name alone (its default model), an alias, `sim/...` or `auto`.
"""

from __future__ import annotations

import os
import re
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any
from urllib.parse import quote, unquote, urlsplit

import msgspec

from ..agents.model_files import model_path, newest_model
from ..core.addresses import may_hold_secret, parse_ip
from ..core.calls import HiddenTexts, ProviderSpec, Quirks, Secret, display_url
from ..core.errors import AuthenticationError, ConfigError, is_secret_name, similar_names
from ..dialects._limits import parse_duration
from . import config, keys
from .base_urls import parse_base_url, strip_quotes
from .config import Problem
from .config_files import Places, user_file
from .spec import env_values, expand_env, is_loopback, provider_row, referenced_env
from .toml_edit import change_entry

__all__ = ["DEFAULT_MODEL", "SIMULATOR", "Registry", "Route", "load", "provider_row"]

DEFAULT_MODEL = "auto"
SIMULATOR = "sim"

# The simulator's names, and the wire format of each.
SIMULATED = {
    "openai": "openai_chat",
    "openai_chat": "openai_chat",
    "openai_responses": "openai_responses",
    "responses": "openai_responses",
    "anthropic": "anthropic",
    "claude": "anthropic",
    "gemini": "gemini",
    "ollama": "ollama",
}
# Its batch format by wire format, where it takes batches.
_BATCH_FORMATS = {
    "openai_chat": "openai",
    "openai_responses": "openai",
    "anthropic": "anthropic",
    "gemini": "gemini",
}


@dataclass(frozen=True, slots=True)
class Route:
    """Where the model name `name` leads: the provider (with the address in force) and its own name of the
    model. why, chosen_by: the reason for a choice, and what made it; problem: why the provider cannot be
    called, None where it can; fallbacks: the routes to try, in this order, where this one fails; file: the
    model file that was found in the provider's folders."""

    name: str
    provider: ProviderSpec
    model: str
    why: str = ""
    chosen_by: str = "auto"
    simulated: bool = False
    problem: ConfigError | None = field(default=None, compare=False)
    fallbacks: tuple[Route, ...] = ()
    file: Path | None = field(default=None, compare=False)

    @property
    def path(self) -> Path | None:
        """The path of the model file; None for a model on a server."""
        return None if self.simulated else self.file or model_path(self.provider, self.model)

    def check(self) -> None:
        """Raises the ConfigError that says why the provider cannot be called."""
        if self.problem is not None:
            raise ConfigError(self.problem.message, hint=self.problem.hint)


class TrackedEnv(Mapping[str, str]):
    """An environment that records which variables were read. values_read: their values; iterated: whether all
    of them were."""

    def __init__(self, env: Mapping[str, str]) -> None:
        self._env, self.values_read, self.iterated = env, dict[str, str | None](), False

    def __getitem__(self, name: str) -> str:
        self.values_read[name] = value = self._env.get(name)
        if value is None:
            raise KeyError(name)
        return value

    def __iter__(self) -> Iterator[str]:
        self.iterated = True
        return iter(self._env)

    def __len__(self) -> int:
        self.iterated = True
        return len(self._env)


class RouteCache(msgspec.Struct):
    """Resolved routes, valid as long as the rows, the aliases and the variables that were read are unchanged:
    a run over a table resolves one name thousands of times."""

    rows: dict[str, ProviderSpec] = msgspec.field(default_factory=dict)
    aliases: dict[str, str] = msgspec.field(default_factory=dict)
    entries: dict[Any, tuple[dict[str, str | None], Route]] = msgspec.field(default_factory=dict)

    def get(self, query: Any, registry: Registry) -> Route | None:
        """The cached route of (name, base_url, dialect); None where it must be resolved."""
        entry = self.entries.get((query, registry.simulate))
        if entry is None or self.rows != registry.rows or self.aliases != registry.aliases:
            return None
        values_read, route = entry
        env = registry.env
        return route if all(env.get(name) == value for name, value in values_read.items()) else None

    def put(self, query: Any, route: Route, env: TrackedEnv, registry: Registry) -> None:
        """Caches a route, unless it may differ next time, or an address in it may be secret."""
        if (
            route.simulated
            or route.problem
            or env.iterated
            or route.provider.folders
            or may_hold_secret(query[1] or "")
        ):
            return
        if self.rows != registry.rows or self.aliases != registry.aliases or len(self.entries) > _MAX_ENTRIES:
            self.rows, self.aliases, self.entries = dict(registry.rows), dict(registry.aliases), {}
        self.entries[query, registry.simulate] = env.values_read, route


_MIN_SECRET_LENGTH = 8  # characters of a value that is masked wherever it appears
_MAX_ENTRIES = 500  # routes in the cache


class Registry(config.Settings):
    """The settings in force. `env` is read at every call; `simulator` returns the loopback address for a
    dialect; `problems` are shown once, when a name is first resolved; `stores` hold keys."""

    env: Mapping[str, str] = msgspec.field(default_factory=lambda: os.environ)  # it holds keys
    simulate: bool | None = None
    simulator: Callable[[str], str] | None = None
    stores: keys.KeyStores = None  # type: ignore[assignment]
    has_warned: bool = False
    _routes: RouteCache = msgspec.field(default_factory=RouteCache)

    def __post_init__(self) -> None:
        self.stores = self.stores or keys.KeyStores.of(self.env)

    def __repr__(self) -> str:
        return "Registry()"  # tracebacks show local variables, and it holds keys

    @property
    def simulating(self) -> bool:
        """Whether every provider's name leads to the simulator (`%llm simulate on`, NBLLM_SIMULATE=1)."""
        if self.simulate is not None:
            return self.simulate
        return self.env.get("NBLLM_SIMULATE", "").lower() in ("1", "true", "on", "yes")

    def resolve(self, name: str, base_url: str | None = None, dialect: str | None = None) -> Route:
        """The route of `name`. Raises ConfigError with the nearest names for an unknown name.

        base_url and dialect replace the row's; with a base_url, an unknown name is a model of the server
        there.
        """
        self._warn_of_problems()
        query = name, base_url, dialect
        if (cached := self._routes.get(query, self)) is not None:
            return cached
        env = TrackedEnv(self.env)
        route = msgspec.structs.replace(self, env=env)._resolve(*query)
        self._routes.put(query, route, env, self)
        return route

    def _resolve(self, name: str, base_url: str | None, dialect: str | None) -> Route:
        name, base_url = name.strip(), strip_quotes(base_url) if base_url is not None else None
        prefix, _, rest = name.lower().partition("/")
        normal_name = f"{getattr(self.row(prefix), 'name', prefix)}/{rest}"  # of Claude/Sonnet, google/flash
        full = name if name in self.aliases or normal_name not in self.aliases else normal_name
        full = config.resolve_alias(full, self.aliases, self.rows)
        if full.partition("/")[0] == SIMULATOR:
            if base_url is not None:
                raise ConfigError(
                    f"{name} is the built-in simulator, which has an address of its own.",
                    hint="Leave base_url out, or name a provider.",
                )
            return self._simulator_route(name, full)
        provider, model = self._split_name(full)
        if provider is None and base_url is not None:
            provider, model = (
                ProviderSpec("custom", dialect or "openai_chat", base_url, label=_host(base_url), local=True),
                full,
            )
        if provider is None:
            raise self._unknown_model(name)
        model, file = model or provider.default_model, None
        if provider.folders and not (model or provider.pending_consent or base_url or self.simulating):
            model, file = newest_model(self.with_model_folders(provider))
        is_bare = provider is self.row(config.strip_api_prefix(full, self.rows)) and base_url is None
        return self._with_address(Route(name, provider, model, file=file), base_url, dialect, is_bare=is_bare)

    def _warn_of_problems(self) -> None:
        """Warns of what is wrong in configuration files, once."""
        has_warned, self.has_warned = self.has_warned, True
        for problem in self.problems if not has_warned else ():
            warnings.warn(f"nbllm ignores a part of its configuration: {problem}", stacklevel=4)

    def register(self, name: str, table: Mapping[str, Any]) -> ProviderSpec:
        """Adds a row, or changes entries of one, with priority over all files. Raises ConfigError for an
        invalid table."""
        row = provider_row(name, table, self.rows.get(name), "register_provider", self.dialects)
        if "base_url" in table:  # it gives consent to the address, and to the variables named with it
            pending = set(row.pending_consent) & referenced_env(row)
            row = replace(row, pending_consent=tuple(sorted(n for n in pending if n not in str(table))))
        self.rows[name] = row
        return row

    def _split_name(self, name: str) -> tuple[ProviderSpec | None, str]:
        """(row, model) of a full name; (None, "") where no row matches. Raises ConfigError for a command with
        the prefix api/."""
        name = config.strip_api_prefix(name, self.rows)
        row = config.match_row(name, self.rows)
        if row is None:
            first, _, rest = name.partition("/")
            row = config.match_row(rest, self.rows) if first.lower() == "api" else None
            if row is not None and row.command:
                raise ConfigError(
                    f"{row.label or row.name} is a command, and api/ is for providers with an address.",
                    hint=f"Name it {rest}.",
                )
            return None, ""
        cut = len(config.provider_prefix(name))
        if cut and self.row(name[:cut]) is row:
            return row, name[cut + 1 :] or row.default_model
        return row, row.default_model if self.row(name) is row else name

    def row(self, word: str) -> ProviderSpec | None:
        """The row with this name or prefix, None where there is none."""
        return config.row_named(word, self.rows)

    def _with_address(
        self, route: Route, base_url: str | None, dialect: str | None, *, is_bare: bool
    ) -> Route:
        """The route with the address in force. is_bare: only the provider was named; one that is not ready
        then becomes the route's `problem`, since a choice among all providers must not fail here."""
        row = route.provider
        if base_url is None and self.simulating:
            dialect = dialect or row.dialect
            dialect = dialect if dialect in SIMULATED.values() else "openai_chat"
            return replace(
                route,
                provider=replace(
                    row,
                    base_url=self._simulator_url(dialect),
                    dialect=dialect,
                    batch=_BATCH_FORMATS.get(dialect, ""),
                    local=True,
                    unavailable_reason="",
                    query={},
                    key_header="",
                    command=(),
                    quirks=replace(row.quirks, cache_key=row.takes_cache_key),
                ),
                model=route.model or "sim",
                simulated=True,
            )
        row = self._row_at(row, base_url, dialect)
        try:
            ready = self._fill_in(row, route.model)
            file = route.file or (model_path(ready, route.model) if ready.folders else None)
            return replace(route, provider=ready, file=file)
        except ConfigError as error:
            if not is_bare:
                raise
            return replace(route, provider=row, problem=error.with_traceback(None))

    def _row_at(self, row: ProviderSpec, base_url: str | None, dialect: str | None) -> ProviderSpec:
        """The row at the address in force. A server at a `base_url` may need no key; if it does, its status
        401 tells."""
        own_url, dialect = self.address(row), dialect or row.dialect
        is_elsewhere = base_url is not None and not keys.same_host(base_url, own_url)
        url, inherited = base_url or own_url, _for_other_host(row) if is_elsewhere else row
        url, query = parse_base_url(url, dialect) if "${" not in url else (url, {})
        return replace(
            inherited,
            base_url=url,
            query={**inherited.query, **query},
            dialect=dialect,
            local=row.local or is_elsewhere,
            unavailable_reason="" if base_url else row.unavailable_reason,
            secret_values=HiddenTexts((*self._secret_values(row), *query.values())),
        )

    def _fill_in(self, row: ProviderSpec, model: str) -> ProviderSpec:
        """The row with its variables and the model's name filled in. Raises ConfigError where it cannot be
        called."""
        name = row.label or row.name
        allow_hint = f"If that is intended: `%llm key allow {row.name}`."
        if row.needs_consent:
            raise ConfigError(
                f"{row.source} changes where or how {row.name!r} is called: {row.display_url}. Your prompts "
                f"would go there.",
                hint=allow_hint,
            )
        if row.unavailable_reason:
            raise ConfigError(row.unavailable_reason)
        if not model and not row.command:
            raise ConfigError(
                f"{name} has no default model.",
                hint=f"Name one: {row.name}/MODEL."
                + (f" `%llm models {row.name}/` lists them." if row.models or row.folders else ""),
            )
        missing = list(dict.fromkeys(n for text in _templates(row) for n in self._expand(text, row)[1]))
        if missing:
            is_pending = any(n in row.pending_consent for n in missing)
            raise ConfigError(
                f"{name} needs {' and '.join(missing)}, "
                + (f"which {row.source} may not use yet." if is_pending else "which is not set."),
                hint=allow_hint if is_pending else f"Set {missing[0]} in the environment.",
            )
        if "{model}" in row.base_url and model.strip(".") == "":
            raise ConfigError(f"{name} has no model called {model!r}.", hint=f"Name one: {row.name}/MODEL.")
        if row.folders:
            row = self.with_model_folders(row)
        headers, query = (
            {k: self._expand(v, row)[0] for k, v in pairs.items()} for pairs in (row.headers, row.query)
        )
        base_url = self._expand(row.base_url, row)[0].replace("{model}", quote(model, safe=""))
        return replace(row, base_url=base_url, headers=headers, query=query)

    def _expand(self, text: str, row: ProviderSpec) -> tuple[str, list[str]]:
        return expand_env(text, self.env, row.pending_consent)

    def with_model_folders(self, row: ProviderSpec) -> ProviderSpec:
        """The row with the folders of model files in force; none while they wait for consent."""
        override = self.env.get("NBLLM_MODELS", "").strip() if row.folders else ""
        folders = (
            override.split(os.pathsep) if override else (expand_env(f, self.env)[0] for f in row.folders)
        )
        if row.pending_consent:
            folders = []
        paths = (os.path.abspath(os.path.expanduser(f)) for f in folders if f and "${" not in f)
        return replace(row, folders=tuple(paths))

    @property
    def secrets(self) -> HiddenTexts:
        """The secrets in the environment: providers' keys, variables whose names say that they are secret,
        and passwords within addresses. Not included are short values, which may be words ("dummy"), and paths
        to secrets."""
        key_names = {name for row in self.rows.values() for name in row.key_env}
        found = {v for n, v in self.env.items() if n in key_names or is_secret_name(n)}
        for value in self.env.values():
            for _, password in re.findall(r"://([^/?#\s:@]*):(?!\1@)([^/?#\s@]+)@", value):
                found |= {password, unquote(password)}  # one that equals the user's name is a word
        return HiddenTexts(
            sorted(
                v for v in found if len(v) >= _MIN_SECRET_LENGTH and not os.path.exists(os.path.expanduser(v))
            )
        )

    def _secret_values(self, row: ProviderSpec) -> HiddenTexts:
        """The secrets in the row's texts: the values of its variables, and headers and query parameters
        without variables. Of an address in a variable, the part after the host."""
        constants = [v for v in (*row.headers.values(), *row.query.values()) if "${" not in v]
        values = [v for text in _templates(row) for v in env_values(text, self.env, row.pending_consent)]
        paths = [urlsplit(v).path.strip("/") if v.startswith(("https://", "http://")) else v for v in values]
        return HiddenTexts(filter(None, (*constants, *paths)))

    def address(self, row: ProviderSpec) -> str:
        """The address in force: the first of the row's variables that is set, else the row's own. Variables
        in it that are not set stay as they are written."""
        names = (v for v in row.base_url_env if v not in row.pending_consent)
        override = next((value for v in names if (value := strip_quotes(self.env.get(v, "")))), None)
        if override is None:
            return self._expand(row.base_url, row)[0]
        url = parse_base_url(_complete_url(override, row) if row.local else override, row.dialect).url
        has_known_path = row.local or is_loopback(url) or keys.same_host(url, row.base_url)
        lacks_path = has_known_path and "/" not in url.partition("//")[2]
        return url + urlsplit(row.base_url).path if lacks_path else url

    def timeout_from_env(self, row: ProviderSpec) -> float | None:
        """Seconds to wait for a token, from one of the row's variables; None where none is set. Raises
        ConfigError for a value that is not a number of seconds."""
        for name in row.timeout_env:
            if value := strip_quotes(self.env.get(name, "")):
                if (timeout := parse_duration(value)) is None or not timeout > 0:
                    raise ConfigError(
                        f"{name} is not a number of seconds: {value[:40]!r}.",
                        hint=f"Set it to seconds above 0, such as 300, or unset {name}.",
                    )
                return timeout
        return None

    def masked_address(self, row: ProviderSpec) -> str:
        """The address in force, without secrets."""
        return display_url(self.address(row), self._secret_values(row))

    def _simulator_route(self, name: str, full: str) -> Route:
        which, _, model = full.partition("/")[2].partition("/")
        # sim/openai@ttft=0.4 is the format's standard model with options
        wire_format, at, options = which.partition("@")
        wire_format = wire_format or "openai"
        dialect = SIMULATED.get(wire_format)
        if dialect is None:
            raise ConfigError(
                f"The simulator does not speak {wire_format!r}.",
                hint=f"It answers as {', '.join(f'sim/{n}' for n in SIMULATED)}.",
            )
        row = ProviderSpec(
            f"sim/{wire_format}",
            dialect,
            self._simulator_url(dialect),
            local=True,
            label=f"Simulator ({dialect})",
            batch=_BATCH_FORMATS.get(dialect, ""),
            quirks=Quirks(cache_key=True),
        )
        return Route(name, row, model or f"sim-{wire_format}{at}{options}", simulated=True)

    def _simulator_url(self, dialect: str) -> str:
        if self.simulator is not None:
            return self.simulator(dialect)
        from ..simulator import shared

        return shared().base_url(dialect)

    def _unknown_model(self, name: str) -> ConfigError:
        if not name:
            return ConfigError("No model was named.", hint="For example model=gemini/flash, or model=auto.")
        near = self.nearest(name)
        problem = next(
            (p for p in self.problems if f"'{name.partition('/')[0]}'" in p.message),
            next(iter(self.problems), None),
        )
        hint = f"Did you mean {' or '.join(near)}?" if near else "`%llm models` lists the known ones."
        return ConfigError(
            f"No provider is known for the model name {name!r}.",
            hint=f"{hint} A server of your own: base_url=http://host:port/v1."
            + (f" A part of the configuration is ignored: {problem}" if problem else ""),
        )

    def nearest(self, name: str) -> list[str]:
        """Up to three known names that are similar to `name`; a bare name may be a model of a local Ollama,
        name:tag certainly is."""
        if ":" in name and "/" not in name:
            return [f"ollama/{name}"]
        if "/" not in name and (suggestion := self._nearest_family(name)):
            return [suggestion]
        known = [n for n in self.names() if name.startswith(SIMULATOR) or not n.startswith(f"{SIMULATOR}/")]
        near = similar_names(name, known, 3)
        containing = [n for n in known if name.lower() in n][:2]
        models = {n.rpartition("/")[2]: n for n in known}
        containing = containing or [models[m] for m in similar_names(name.lower(), models, cutoff=0.75)]
        return near or ([] if "/" in name else containing or [f"ollama/{name}"])

    def _nearest_family(self, name: str) -> str:
        """The provider whose models' names begin almost like `name`: openai/gpt-4 for `gtp-4` and `gpt4`, its
        default model for `chat-gpt`; "" for none."""
        head, dash, rest = re.sub(r"^([a-z]+)_?(?=\d)", r"\1-", name.lower()).partition("-")
        heads = {p.partition("-")[0]: r.name for r in self.rows.values() for p in r.bare if p.endswith("-*")}
        if (row := self.rows.get(heads.get(name.lower().replace("-", ""), ""))) is not None:
            return f"{row.name}/{row.default_model}"
        near = similar_names(head, heads, cutoff=0.66)
        return f"{heads[near[0]]}/{near[0]}-{rest}" if dash and near else ""

    def explicit_names(self) -> Iterable[str]:
        """The default model of each provider that has an address, with the prefix api/."""
        rows = (r for r in self.rows.values() if r.default_model and not r.command)
        yield from (f"api/{r.name}/{r.default_model}" for r in rows)

    def names(self) -> Iterable[str]:
        """Names to offer: aliases, each provider's default model, the simulator's formats."""
        defaults = (f"{r.name}/{r.default_model}" for r in self.rows.values() if r.default_model)
        formats = ("openai", "openai_responses", "anthropic", "gemini", "ollama")
        yield from (*self.aliases, *defaults, *(f"{SIMULATOR}/{n}" for n in formats), "auto")

    def unknown_provider(self, word: str) -> ConfigError:
        """The error for an unknown provider's name."""
        known = [*self.rows, *(p for r in self.rows.values() for p in r.prefixes)]
        near = similar_names(word, known)
        return ConfigError(
            f"No provider is called {word!r}.",
            hint=f"Did you mean {near[0]}?" if near else f"The providers are {', '.join(self.rows)}.",
        )

    def own_key(self, row: ProviderSpec, *, quick: bool = False) -> Secret | None:
        """The key of a row, None where there is none or a login has ended; `quick` skips stores that may be
        slow or prompt the user."""
        try:
            return keys.find(row, self.stores, address=self.address(row), quick=quick)
        except (AuthenticationError, ConfigError):  # a call to that row reports it; a list of rows goes on
            return None

    def key_for(self, route: Route, explicit: str | Secret | None) -> Secret | None:
        """The key to send on `route`. A key that is found goes to its own row's address only: a base_url
        given by hand that leads elsewhere gets no key unless the user named one."""
        if route.simulated:
            return Secret("sim", "simulator")
        row = route.provider
        own = self.rows.get(row.name)
        if explicit is not None:
            return keys.find(row, self.stores, explicit, address=row.base_url)
        if own is None or route.problem or not keys.same_host(row.base_url, self.address(own)):
            return None
        return keys.find(own, self.stores, address=row.base_url)

    def allow(self, row: ProviderSpec, path: Path | None = None) -> tuple[str, ...]:
        """Gives consent to all that a project's row waits for, now and in the user's file, and returns it.
        Raises ConfigError where that file cannot be edited."""
        change_entry(
            path or user_file(),
            "allow",
            keys.origin(row.base_url),
            lambda before: sorted(
                {*([before] if isinstance(before, str) else before or ()), *row.pending_consent}
            ),
        )
        self.rows[row.name] = replace(row, pending_consent=())
        return row.pending_consent


def _templates(row: ProviderSpec) -> tuple[str, ...]:
    """The texts of a row that may hold variables."""
    return (row.base_url, *row.headers.values(), *row.query.values())


def _for_other_host(row: ProviderSpec) -> ProviderSpec:
    """The row for an address on another host: without its own headers, folders and query, except the defaults
    of variables in the query."""
    defaults = {k: expand_env(v, {}) for k, v in row.query.items() if "${" in v}
    return replace(
        row, headers={}, folders=(), query={k: text for k, (text, missing) in defaults.items() if not missing}
    )


def _host(url: str) -> str:
    return url.partition("://")[2].partition("/")[0].rpartition("@")[2] or display_url(url)


def _complete_url(address: str, row: ProviderSpec) -> str:
    """An address with scheme, host and port, which OLLAMA_HOST may lack; 0.0.0.0, on which a server listens,
    becomes this machine."""
    scheme, _, rest = address.rpartition("://")
    host, _, path = rest.partition("/")
    default_port = row.base_url.rpartition(":")[2]
    host = f"[{host}]" if parse_ip(host) is not None and ":" in host else host  # ::1, as it is often written
    name, colon, port = host.rpartition(":") if not host.endswith("]") else (host, "", "")
    if not colon:
        name, port = host, "443" if scheme == "https" else "80" if scheme else default_port
    # an address to call, none to bind
    name = {"0.0.0.0": "127.0.0.1", "[::]": "[::1]", "": "127.0.0.1"}.get(name, name)  # noqa: S104
    return f"{scheme or 'http'}://{name}:{port or default_port}" + (f"/{path}" if path else "")


def load(env: Mapping[str, str] | None = None, places: Places | None = None) -> Registry:
    """A registry with nbllm's own rows and those of the configuration in `places`. With an `env` that is not
    the process's own, and no places, only the file that its NBLLM_CONFIG names is read."""
    env = os.environ if env is None else env
    found = config.load(places or Places.of(env))
    registry = Registry(**{name: getattr(found, name) for name in config.Settings.__struct_fields__}, env=env)
    if found.default_model_source:
        _drop_unsafe_default(registry, found.default_model_source)
    return registry


def _drop_unsafe_default(registry: Registry, source: str) -> None:
    """Removes a project's default model where it would use a key from the project's `.env`: the owner of that
    account could read the prompts of cells that name no model."""
    model = str(registry.defaults["model"])
    row = config.leads_to(model, registry.rows, registry.aliases)
    key = registry.own_key(row, quick=True) if row is not None else None
    if key is not None and key.from_project:
        del registry.defaults["model"]
        registry.problems.append(
            Problem(
                source,
                None,
                f"the default model {model!r} would be called with {key.source}, which may be somebody "
                f"else's key; expected the model's name in a cell, or once: %llm use {model}",
            )
        )


_VERIFIED = {"stream": "recorded answers", "server": "real server", "cli": "real CLI"}


def markdown_table(registry: Registry | None = None) -> str:
    """The providers as a Markdown table: name, prefix, key variable, dialect, and how each was verified.
    Without a registry only nbllm's own, whatever is configured here."""
    registry = registry or load({})
    lines = ["| Provider | Prefix | Key | Dialect | Verified by |", "|---|---|---|---|---|"]
    for row in registry.rows.values():
        names = ", ".join(f"`{n}/`" for n in (row.name, *row.prefixes))
        key = " or ".join(f"`{n}`" for n in row.key_env)
        key = (
            f"its own login{', or ' * bool(key)}{key}"
            if row.command
            else key + " (if the server wants one)" * bool(row.local and key)
        )
        how = ", ".join(_VERIFIED.get(v, v) for v in row.verified) or "its documentation"
        lines.append(
            f"| {row.label or row.name} | {names} | {key or 'none'} | {row.dialect.replace('_', ' ')} "
            f"| {how} |"
            if not row.unavailable_reason
            else f"| {row.label or row.name} | {names} | | | {row.unavailable_reason} |"
        )
    return "\n".join(lines)


if __name__ == "__main__":
    print(markdown_table())  # noqa: T201 - a table for docs/providers.md
