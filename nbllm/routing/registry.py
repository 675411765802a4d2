"""From a model's name to the provider that answers it: rows of providers.toml, aliases, and the rules of
names.

A name is `provider/model` (explicitly `api/provider/model`), `provider:model`, a bare model name that a
row's patterns know, a provider's name alone (its default model), an alias, `sim/...` or `auto`.
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

from ..agents.model_files import newest, path_of
from ..core.addresses import may_hold_secret, parse_ip
from ..core.calls import HiddenTexts, ProviderSpec, Quirks, Secret, display_url
from ..core.errors import AuthenticationError, ConfigError, is_secret_name, similar_names
from ..dialects._limits import parse_duration
from . import config, keys
from .base_urls import bare, place
from .config import Problem
from .config_files import Places, user_file
from .spec import filled, is_loopback, provider_row, spent, variables
from .toml_edit import change_entry

__all__ = ["DEFAULT_MODEL", "SIMULATOR", "Registry", "Route", "load", "provider_row"]

DEFAULT_MODEL = "auto"
SIMULATOR = "sim"

# The names under which the simulator answers, and the wire format of each.
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
# How it writes batches in each, where it takes them.
_BATCHES = {
    "openai_chat": "openai",
    "openai_responses": "openai",
    "anthropic": "anthropic",
    "gemini": "gemini",
}


@dataclass(frozen=True, slots=True)
class Route:
    """Where a name leads: the provider (with the address in force), the model's own name, why it was
    chosen; `problem` is why it cannot be asked, None where it can; `others` are asked, in this order, where
    this one fails. file: the model file that was found in the provider's folders."""

    asked: str
    provider: ProviderSpec
    model: str
    why: str = ""
    by: str = "auto"  # who chose it, where there is a reason
    simulated: bool = False
    problem: ConfigError | None = field(default=None, compare=False)
    others: tuple[Route, ...] = ()
    file: Path | None = field(default=None, compare=False)

    @property
    def path(self) -> Path | None:
        """The model file that it means; None for a server's own name."""
        return None if self.simulated else self.file or path_of(self.provider, self.model)

    def check(self) -> None:
        """Raises the ConfigError that says why it cannot be asked."""
        if self.problem is not None:
            raise ConfigError(self.problem.message, hint=self.problem.hint)


class Watched(Mapping[str, str]):
    """An environment that knows what it was asked for; `whole` where that was all of it."""

    def __init__(self, env: Mapping[str, str]) -> None:
        self._env, self.asked, self.whole = env, dict[str, str | None](), False

    def __getitem__(self, name: str) -> str:
        self.asked[name] = value = self._env.get(name)
        if value is None:
            raise KeyError(name)
        return value

    def __iter__(self) -> Iterator[str]:
        self.whole = True
        return iter(self._env)

    def __len__(self) -> int:
        self.whole = True
        return len(self._env)


class Routes(msgspec.Struct):
    """What names led to, for as long as rows, aliases and the variables that were looked at stay as they
    were: a table asks one name thousands of times."""

    rows: dict[str, ProviderSpec] = msgspec.field(default_factory=dict)
    aliases: dict[str, str] = msgspec.field(default_factory=dict)
    known: dict[Any, tuple[dict[str, str | None], Route]] = msgspec.field(default_factory=dict)

    def get(self, asked: Any, registry: Registry) -> Route | None:
        """The route of a name; None where it must be looked for."""
        found = self.known.get((asked, registry.simulate))
        if found is None or self.rows != registry.rows or self.aliases != registry.aliases:
            return None
        seen, route = found
        env = registry.env
        return route if all(env.get(name) == value for name, value in seen.items()) else None

    def keep(self, asked: Any, route: Route, env: Watched, registry: Registry) -> None:
        """Remembers a route, unless it may lead elsewhere next time, or an address in it may be secret."""
        if (
            route.simulated
            or route.problem
            or env.whole
            or route.provider.folders
            or may_hold_secret(asked[1] or "")
        ):
            return
        if self.rows != registry.rows or self.aliases != registry.aliases or len(self.known) > _ROUTES:
            self.rows, self.aliases, self.known = dict(registry.rows), dict(registry.aliases), {}
        self.known[asked, registry.simulate] = env.asked, route


_SHORTEST = 8  # characters of what is masked wherever it stands
_ROUTES = 500  # names that are remembered


class Registry(config.Settings):
    """The settings in force. `env` is looked at on every call; `simulator` gives a dialect's loopback
    address; `problems` are told once, when a name is first resolved; `stores` hold keys."""

    env: Mapping[str, str] = msgspec.field(default_factory=lambda: os.environ)  # it holds keys
    simulate: bool | None = None
    simulator: Callable[[str], str] | None = None
    stores: keys.KeyStores = None  # type: ignore[assignment]
    told: bool = False
    _routes: Routes = msgspec.field(default_factory=Routes)

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
        """The route of `name`. Raises ConfigError with the nearest names for a name that leads nowhere.

        base_url and dialect replace the row's; with a base_url, an unknown name is a model of the server
        there.
        """
        self._tell()
        asked = name, base_url, dialect
        if (known := self._routes.get(asked, self)) is not None:
            return known
        env = Watched(self.env)
        route = msgspec.structs.replace(self, env=env)._resolved(*asked)
        self._routes.keep(asked, route, env, self)
        return route

    def _resolved(self, name: str, base_url: str | None, dialect: str | None) -> Route:
        asked, base_url = name.strip(), bare(base_url) if base_url is not None else None
        head, _, rest = asked.lower().partition("/")
        own = f"{getattr(self.row(head), 'name', head)}/{rest}"  # of Claude/Sonnet, google/flash
        full = config.meant(
            own if asked not in self.aliases and own in self.aliases else asked, self.aliases, self.rows
        )
        if full.partition("/")[0] == SIMULATOR or full == SIMULATOR:
            if base_url is not None:
                raise ConfigError(
                    f"{asked} is the built-in simulator, which has an address of its own.",
                    hint="Leave base_url out, or name a provider.",
                )
            return self._simulated(asked, full)
        provider, model = self._split(full)
        if provider is None and base_url is not None:
            provider, model = (
                ProviderSpec("custom", dialect or "openai_chat", base_url, label=_host(base_url), local=True),
                full,
            )
        if provider is None:
            raise self._unknown(asked)
        model, file = model or provider.default_model, None
        if provider.folders and not (model or provider.pending_consent or base_url or self.simulating):
            model, file = newest(self.placed(provider))
        route = Route(asked, provider, model, file=file)
        return self._place(
            route,
            base_url,
            dialect,
            lone=provider is self.row(config.plain(full, self.rows)) and base_url is None,
        )

    def _tell(self) -> None:
        """Warns of what is wrong in configuration files, once."""
        told, self.told = self.told, True
        for problem in self.problems if not told else ():
            warnings.warn(f"nbllm ignores a part of its configuration: {problem}", stacklevel=4)

    def register(self, name: str, table: Mapping[str, Any]) -> ProviderSpec:
        """Adds a row, or changes the entries of one, above all files. Raises ConfigError for what is wrong in
        the table."""
        row = provider_row(name, table, self.rows.get(name), "register_provider", self.dialects)
        if "base_url" in table:  # consent is for an address, and for the variables that are named with it
            row = replace(
                row,
                pending_consent=tuple(
                    h for h in row.pending_consent if h in spent(row) and h not in str(table)
                ),
            )
        self.rows[name] = row
        return row

    def _split(self, name: str) -> tuple[ProviderSpec | None, str]:
        """(row, model) of a full name; (None, "") where no row knows it. Raises ConfigError for a command in
        an address's explicit form."""
        name = config.plain(name, self.rows)
        row = config.found(name, self.rows)
        if row is None:
            self._no_command(name)
            return None, ""
        cut = len(config.head(name))
        if cut and self.row(name[:cut]) is row:
            return row, name[cut + 1 :] or row.default_model
        return row, row.default_model if self.row(name) is row else name

    def _no_command(self, name: str) -> None:
        first, _, rest = name.partition("/")
        row = config.found(rest, self.rows) if first.lower() == "api" else None
        if row is not None and row.command:
            raise ConfigError(
                f"{row.label or row.name} is a command, and api/ names what answers at an address.",
                hint=f"Name it {rest}.",
            )

    def row(self, word: str) -> ProviderSpec | None:
        """The row with this name or prefix, None where there is none."""
        return config.named(word, self.rows)

    def _place(self, route: Route, base_url: str | None, dialect: str | None, *, lone: bool) -> Route:
        """The route with the address in force. A provider named alone that is not ready says so when it is
        asked: choosing among all of them must go on."""
        row = route.provider
        if base_url is None and self.simulating:
            spoken = dialect or row.dialect
            spoken = spoken if spoken in SIMULATED.values() else "openai_chat"
            return replace(
                route,
                provider=replace(
                    row,
                    base_url=self._sim_url(spoken),
                    dialect=spoken,
                    batch=_BATCHES.get(spoken, ""),
                    local=True,
                    refused="",
                    query={},
                    key_header="",
                    command=(),
                    quirks=replace(row.quirks, cache_key=row.takes_cache_key),
                ),
                model=route.model or "sim",
                simulated=True,
            )
        placed = self._placed(row, base_url, dialect)
        try:
            ready = self._ready(placed, route.model)
            file = route.file or (path_of(ready, route.model) if ready.folders else None)
            return replace(route, provider=ready, file=file)
        except ConfigError as error:
            if not lone:
                raise
            return replace(route, provider=placed, problem=error.with_traceback(None))

    def _placed(self, row: ProviderSpec, base_url: str | None, dialect: str | None) -> ProviderSpec:
        """The row at the address in force. A server of the user's own may want no key; if it does, its 401
        says so."""
        own = self.address(row)
        elsewhere = base_url is not None and not keys.same_host(base_url, own)
        spoken, placed = dialect or row.dialect, _without_its_own(row) if elsewhere else row
        url, query = place(base_url or own, spoken) if "${" not in (base_url or own) else (own, {})
        return replace(
            placed,
            base_url=url,
            query={**placed.query, **query},
            dialect=spoken,
            local=row.local or elsewhere,
            refused="" if base_url else row.refused,
            secret_values=HiddenTexts((*self._values(row), *query.values())),
        )

    def _ready(self, row: ProviderSpec, model: str) -> ProviderSpec:
        """The row with its variables and the model's name filled in. Raises ConfigError where it cannot be
        asked."""
        name = row.label or row.name
        if row.needs_consent:
            raise ConfigError(
                f"{row.source} changes where or how {row.name!r} is asked: {row.display_url}, and what you "
                f"ask would go there.",
                hint=f"If that is meant: `%llm key allow {row.name}`.",
            )
        if row.refused:
            raise ConfigError(row.refused)
        if not model and not row.command:
            raise ConfigError(
                f"{name} has no default model.",
                hint=f"Name one: {row.name}/MODEL."
                + (f" `%llm models {row.name}/` lists them." if row.models or row.folders else ""),
            )
        missing = list(
            dict.fromkeys(n for text in _texts(row) for n in filled(text, self.env, row.pending_consent)[1])
        )
        if missing:
            held = [n for n in missing if n in row.pending_consent]
            raise ConfigError(
                f"{name} needs {' and '.join(missing)}, "
                + (f"which {row.source} may not use yet." if held else "which is not set."),
                hint=f"If that is meant: `%llm key allow {row.name}`."
                if held
                else f"Set {missing[0]} in the environment.",
            )
        if "{model}" in row.base_url and model.strip(".") == "":
            raise ConfigError(f"{name} has no model called {model!r}.", hint=f"Name one: {row.name}/MODEL.")
        if row.folders:
            row = self.placed(row)
        headers, query = (
            {k: filled(v, self.env, row.pending_consent)[0] for k, v in pairs.items()}
            for pairs in (row.headers, row.query)
        )
        return replace(
            row,
            base_url=filled(row.base_url, self.env, row.pending_consent)[0].replace(
                "{model}", quote(model, safe="")
            ),
            headers=headers,
            query=query,
        )

    def placed(self, row: ProviderSpec) -> ProviderSpec:
        """The row with the folders of model files that are in force, none where they wait for consent."""
        other = self.env.get("NBLLM_MODELS", "").strip() if row.folders else ""
        found = other.split(os.pathsep) if other else (filled(f, self.env)[0] for f in row.folders)
        if row.pending_consent:
            found = []
        paths = (os.path.abspath(os.path.expanduser(f)) for f in found if f and "${" not in f)
        return replace(row, folders=tuple(paths))

    @property
    def secrets(self) -> HiddenTexts:
        """What the environment holds that is nobody's business: keys of providers, and variables that are
        called as secrets are, and passwords within addresses. Short values, which may be words ("dummy"), and
        paths to secrets are none."""
        keys = {name for row in self.rows.values() for name in row.key_env}
        found = {v for n, v in self.env.items() if n in keys or is_secret_name(n)}
        for value in self.env.values():
            for _, password in re.findall(r"://([^/?#\s:@]*):(?!\1@)([^/?#\s@]+)@", value):
                found |= {password, unquote(password)}  # one that is the user's name too is a word
        return HiddenTexts(
            sorted(v for v in found if len(v) >= _SHORTEST and not os.path.exists(os.path.expanduser(v)))
        )

    def _values(self, row: ProviderSpec) -> HiddenTexts:
        """What the row's texts hold that is nobody's business: the values of variables, and what stands in
        headers and query as it is. Of an address that is a variable, what follows the host."""
        own = [v for v in (*row.headers.values(), *row.query.values()) if "${" not in v]
        found = [value for text in _texts(row) for value in variables(text, self.env, row.pending_consent)]
        return HiddenTexts(
            filter(
                None,
                (
                    *own,
                    *(
                        urlsplit(v).path.strip("/") if v.startswith(("https://", "http://")) else v
                        for v in found
                    ),
                ),
            )
        )

    def address(self, row: ProviderSpec) -> str:
        """The address in force: the first of the row's variables that is set, else the row's own. Variables
        in it that are not set stay as they are written."""
        names = (v for v in row.base_url_env if v not in row.pending_consent)
        found = next((value for v in names if (value := bare(self.env.get(v, "")))), None)
        if found is None:
            return filled(row.base_url, self.env, row.pending_consent)[0]
        url = place(_as_url(found, row) if row.local else found, row.dialect).url
        known = row.local or is_loopback(url) or keys.same_host(url, row.base_url)
        lacks = known and "/" not in url.partition("//")[2]  # such a server is known to answer below a path
        return url + urlsplit(row.base_url).path if lacks else url

    def patience(self, row: ProviderSpec) -> float | None:
        """Seconds to wait for a token, as a variable of the row says; None where none does. Raises
        ConfigError for one that is no number of seconds."""
        for name in row.timeout_env:
            if value := bare(self.env.get(name, "")):
                if (found := parse_duration(value)) is None or not found > 0:
                    raise ConfigError(
                        f"{name} is no number of seconds: {value[:40]!r}.",
                        hint=f"Set it to seconds above 0, such as 300, or unset {name}.",
                    )
                return found
        return None

    def shown(self, row: ProviderSpec) -> str:
        """The address in force as people may see it."""
        return display_url(self.address(row), self._values(row))

    def _simulated(self, asked: str, full: str) -> Route:
        which, _, model = full.partition("/")[2].partition("/")
        bare, at, options = which.partition(
            "@"
        )  # sim/openai@ttft=0.4 is the format's plain model with options
        dialect = SIMULATED.get(bare or "openai")
        if dialect is None:
            raise ConfigError(
                f"The simulator does not speak {bare!r}.",
                hint=f"It answers as {', '.join(f'sim/{n}' for n in SIMULATED)}.",
            )
        row = ProviderSpec(
            f"sim/{bare or 'openai'}",
            dialect,
            self._sim_url(dialect),
            local=True,
            label=f"Simulator ({dialect})",
            batch=_BATCHES.get(dialect, ""),
            quirks=Quirks(cache_key=True),
        )
        return Route(asked, row, model or f"sim-{bare or 'openai'}{at}{options}", simulated=True)

    def _sim_url(self, dialect: str) -> str:
        if self.simulator is not None:
            return self.simulator(dialect)
        from ..simulator import shared

        return shared().base_url(dialect)

    def _unknown(self, name: str) -> ConfigError:
        if not name:
            return ConfigError(
                "No model was named.", hint="Say for example model=gemini/flash, or model=auto."
            )
        near = self.nearest(name)
        wrong = next(
            (p for p in self.problems if f"'{name.partition('/')[0]}'" in p.message),
            next(iter(self.problems), None),
        )
        hint = f"Did you mean {' or '.join(near)}?" if near else "`%llm models` lists what is known."
        return ConfigError(
            f"No provider answers to the model name {name!r}.",
            hint=f"{hint} A server of your own: base_url=http://host:port/v1."
            + (f" A part of the configuration is ignored: {wrong}" if wrong else ""),
        )

    def nearest(self, name: str) -> list[str]:
        """Up to three known names that look like `name`; a bare name may belong to a local Ollama, name:tag
        surely does."""
        if ":" in name and "/" not in name:
            return [f"ollama/{name}"]
        if "/" not in name and (family := self._family(name)):
            return [family]
        known = [n for n in self.names() if name.startswith(SIMULATOR) or not n.startswith(f"{SIMULATOR}/")]
        near = similar_names(name, known, 3)
        within = [n for n in known if name.lower() in n][:2]
        models = {n.rpartition("/")[2]: n for n in known}
        within = within or [models[m] for m in similar_names(name.lower(), models, least=0.75)]
        return near or ([] if "/" in name else within or [f"ollama/{name}"])

    def _family(self, name: str) -> str:
        """`gtp-4` and `gpt4` as openai/gpt-4, `chat-gpt` as its default model: the provider whose models
        begin nearly like that; "" where none does."""
        head, dash, rest = re.sub(r"^([a-z]+)_?(?=\d)", r"\1-", name.lower()).partition("-")
        heads = {p.partition("-")[0]: r.name for r in self.rows.values() for p in r.bare if p.endswith("-*")}
        if (row := self.rows.get(heads.get(name.lower().replace("-", ""), ""))) is not None:
            return f"{row.name}/{row.default_model}"
        near = similar_names(head, heads, least=0.66)
        return f"{heads[near[0]]}/{near[0]}-{rest}" if dash and near else ""

    def explicit_names(self) -> Iterable[str]:
        """The default model of each provider that has an address, in its explicit form."""
        rows = (r for r in self.rows.values() if r.default_model and not r.command)
        yield from (f"api/{r.name}/{r.default_model}" for r in rows)

    def names(self) -> Iterable[str]:
        """Names to offer: aliases, each provider's default model, the simulator's formats."""
        defaults = (f"{r.name}/{r.default_model}" for r in self.rows.values() if r.default_model)
        formats = ("openai", "openai_responses", "anthropic", "gemini", "ollama")
        yield from (*self.aliases, *defaults, *(f"{SIMULATOR}/{n}" for n in formats), "auto")

    def unknown_provider(self, word: str) -> ConfigError:
        """The error for a word that should be a provider's name and is none."""
        known = [*self.rows, *(p for r in self.rows.values() for p in r.prefixes)]
        near = similar_names(word, known)
        return ConfigError(
            f"No provider is called {word!r}.",
            hint=f"Did you mean {near[0]}?" if near else f"There are {', '.join(self.rows)}.",
        )

    def own_key(self, row: ProviderSpec, *, quick: bool = False) -> Secret | None:
        """The key that a row finds by itself, none where a login has ended; `quick` asks no place that may be
        slow, or ask the user."""
        try:
            return keys.find(row, self.stores, address=self.address(row), quick=quick)
        except (AuthenticationError, ConfigError):  # a call to that row says so; a list of all goes on
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
        """Lets a project's row use what it waits for, now and in the user's file. Raises ConfigError where
        that cannot be edited."""
        path, place = path or user_file(), keys.origin(row.base_url)
        change_entry(
            path,
            "allow",
            place,
            lambda before: sorted(
                {*([before] if isinstance(before, str) else before or ()), *row.pending_consent}
            ),
        )
        self.rows[row.name] = replace(row, pending_consent=())
        return row.pending_consent

    def where(self, row: ProviderSpec) -> list[tuple[str, str | None]]:
        """Each place that may hold the row's key, with the masked key it holds, None for none."""
        return keys.where(row, self.stores, self.address(row))


def _texts(row: ProviderSpec) -> tuple[str, ...]:
    """What of a row may hold variables."""
    return (row.base_url, *row.headers.values(), *row.query.values())


def _without_its_own(row: ProviderSpec) -> ProviderSpec:
    """The row for an address that is given by hand: its headers and query belong to its own, all but what
    stands in it for variables that are not set."""
    defaults = {k: filled(v, {}) for k, v in row.query.items() if "${" in v}
    return replace(
        row, headers={}, folders=(), query={k: text for k, (text, missing) in defaults.items() if not missing}
    )


def _host(url: str) -> str:
    return url.partition("://")[2].partition("/")[0].rpartition("@")[2] or display_url(url)


def _as_url(address: str, row: ProviderSpec) -> str:
    """OLLAMA_HOST may lack scheme or port, and 0.0.0.0 is a place to listen, not one to call."""
    scheme, _, rest = address.rpartition("://")
    host, _, path = rest.partition("/")
    default_port = row.base_url.rpartition(":")[2]
    host = f"[{host}]" if parse_ip(host) is not None and ":" in host else host  # ::1, as it is often written
    name, colon, port = host.rpartition(":") if not host.endswith("]") else (host, "", "")
    if not colon:
        name, port = host, "443" if scheme == "https" else "80" if scheme else default_port
    # read, not bound
    name = {"0.0.0.0": "127.0.0.1", "[::]": "[::1]", "": "127.0.0.1"}.get(name, name)  # noqa: S104
    return f"{scheme or 'http'}://{name}:{port or default_port}" + (f"/{path}" if path else "")


def load(env: Mapping[str, str] | None = None, places: Places | None = None) -> Registry:
    """A registry with nbllm's own rows and those of the configuration in `places`. With an `env` that is not
    the process's own, and no places, only NBLLM_CONFIG is looked at, where that env names it."""
    env = os.environ if env is None else env
    found = config.load(places or Places.of(env))
    made = Registry(**{name: getattr(found, name) for name in config.Settings.__struct_fields__}, env=env)
    if found.chosen:
        _paid_for(made, found.chosen)
    return made


def _paid_for(registry: Registry, source: str) -> None:
    """Leaves out a project's default model where a key in the project's `.env` would be used: whoever has
    that account could read what is asked in cells that name no model."""
    model = str(registry.defaults["model"])
    row = config.leads_to(model, registry.rows, registry.aliases)
    key = registry.own_key(row, quick=True) if row is not None else None
    if key is not None and key.from_project:
        del registry.defaults["model"]
        registry.problems.append(
            Problem(
                source,
                None,
                f"the default model {model!r} would be asked with {key.source}, which may be somebody "
                f"else's; "
                f"expected its name in a cell, or once: %llm use {model}",
            )
        )


_VERIFIED = {"stream": "recorded answers", "server": "real server", "cli": "real CLI"}


def table(registry: Registry | None = None) -> str:
    """The providers as a Markdown table: name, prefix, key variable, dialect, and what was verified how.
    Without a registry those that nbllm brings, whatever is set here."""
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
            if not row.refused
            else f"| {row.label or row.name} | {names} | | | {row.refused} |"
        )
    return "\n".join(lines)


if __name__ == "__main__":
    print(table())  # noqa: T201 - a table for docs/providers.md
