"""From a model's name to the provider that answers it: rows of providers.toml, aliases, and the rules of names.

A name is `provider/model`, `provider:model`, a bare model name that a row's patterns know, a provider's name alone
(its default model), an alias, `sim/...` or `auto`.
"""

from __future__ import annotations

import difflib
import fnmatch
import os
import tomllib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from importlib import resources
from typing import Any

from . import keys
from .errors import ConfigError
from .wire import Provider, Quirks, Secret

DEFAULT_MODEL = "auto"
SIMULATOR = "sim"

# The names under which the simulator answers, and the wire format of each.
SIMULATED = {"openai": "openai_chat", "openai_chat": "openai_chat", "openai_responses": "openai_responses",
             "responses": "openai_responses", "anthropic": "anthropic", "claude": "anthropic", "gemini": "gemini", "ollama": "ollama"}


@dataclass(frozen=True, slots=True)
class Route:
    """Where a name leads: the provider (with the address in force), the model's own name, why it was chosen."""

    asked: str
    provider: Provider
    model: str
    why: str = ""
    simulated: bool = False


@dataclass(slots=True)
class Registry:
    """The rows and aliases in force. `env` is looked at on every call; `simulator` gives a dialect's loopback address."""

    rows: dict[str, Provider] = field(default_factory=dict)
    aliases: dict[str, str] = field(default_factory=dict)
    env: Mapping[str, str] = field(default_factory=lambda: os.environ, repr=False)  # it holds keys
    simulate: bool | None = None
    simulator: Callable[[str], str] | None = None

    @property
    def simulating(self) -> bool:
        """Whether every provider's name leads to the simulator (`%llm simulate on`, NBLLM_SIMULATE=1)."""
        if self.simulate is not None:
            return self.simulate
        return self.env.get("NBLLM_SIMULATE", "").lower() in ("1", "true", "on", "yes")

    def resolve(self, name: str, base_url: str | None = None, dialect: str | None = None) -> Route:
        """The route of `name`. Raises ConfigError with the nearest names for a name that leads nowhere.

        base_url and dialect replace the row's; with a base_url, an unknown name is a model of the server there.
        """
        asked = name.strip()
        full = self._meant(asked)
        if full.partition("/")[0] == SIMULATOR or full == SIMULATOR:
            return self._simulated(asked, full)
        provider, model = self._split(full)
        if provider is None and base_url is not None:
            provider, model = Provider("custom", dialect or "openai_chat", base_url, label=_host(base_url), local=True), full
        if provider is None:
            raise self._unknown(asked)
        return self._place(Route(asked, provider, model or provider.default_model), base_url, dialect)

    def _meant(self, name: str) -> str:
        """What an alias stands for in the end; an alias may lead to another."""
        seen: set[str] = set()
        while name in self.aliases and name not in seen:
            seen.add(name)
            name = self.aliases[name]
        return name

    def _split(self, name: str) -> tuple[Provider | None, str]:
        """(row, model) of a full name; (None, "") where no row knows it."""
        cuts = sorted(i for i in (name.find("/"), name.find(":")) if i > 0)
        for cut in cuts[:1]:
            row = self.row(name[:cut])
            if row is not None:
                return row, name[cut + 1:]
        if (row := self.row(name)) is not None:
            return row, row.default_model
        for row in self.rows.values():
            if any(fnmatch.fnmatchcase(name, pattern) for pattern in row.bare):
                return row, name
        return None, ""

    def row(self, word: str) -> Provider | None:
        """The row with this name or prefix, None where there is none."""
        word = word.lower()
        return self.rows.get(word) or next((r for r in self.rows.values() if word in r.prefixes), None)

    def _place(self, route: Route, base_url: str | None, dialect: str | None) -> Route:
        row = route.provider
        if base_url is None and self.simulating:
            spoken = dialect or row.dialect
            return replace(route, provider=replace(row, base_url=self._sim_url(spoken), dialect=spoken, local=True), simulated=True)
        own = self.address(row)
        # A server of the person's own may want no key; if it does, its 401 says so.
        elsewhere = base_url is not None and not keys.same_host(base_url, own)
        return replace(route, provider=replace(row, base_url=base_url or own, dialect=dialect or row.dialect, local=row.local or elsewhere))

    def address(self, row: Provider) -> str:
        """The address in force: the first of the row's variables that is set, else the row's own."""
        found = next((self.env[v].strip() for v in row.base_url_env if self.env.get(v, "").strip()), row.base_url)
        return _as_url(found, row) if row.local else found

    def _simulated(self, asked: str, full: str) -> Route:
        which, _, model = full.partition("/")[2].partition("/")
        bare, at, options = which.partition("@")  # sim/openai@ttft=0.4 is the format's plain model with options
        dialect = SIMULATED.get(bare or "openai")
        if dialect is None:
            raise ConfigError(f"The simulator does not speak {bare!r}.", hint=f"It answers as {', '.join(f'sim/{n}' for n in SIMULATED)}.")
        row = Provider(f"sim/{bare or 'openai'}", dialect, self._sim_url(dialect), local=True, label=f"Simulator ({dialect})")
        return Route(asked, row, model or f"sim-{bare or 'openai'}{at}{options}", simulated=True)

    def _sim_url(self, dialect: str) -> str:
        if self.simulator is not None:
            return self.simulator(dialect)
        from .simulator import shared

        return shared().base_url(dialect)

    def _unknown(self, name: str) -> ConfigError:
        if not name:
            return ConfigError("No model was named.", hint="Say for example model=gemini/flash, or model=auto.")
        near = self.nearest(name)
        hint = f"Did you mean {' or '.join(near)}?" if near else "`%llm models` lists what is known."
        return ConfigError(f"No provider answers to the model name {name!r}.",
                           hint=f"{hint} A server of your own: base_url=http://host:port/v1.")

    def nearest(self, name: str) -> list[str]:
        """Up to three known names that look like `name`; a bare name may belong to a local Ollama."""
        known = list(self.names())
        near = difflib.get_close_matches(name, known, 3, 0.6)
        if not near and "/" not in name:
            near = [n for n in known if name.lower() in n][:2] or [f"ollama/{name}"]
        return near

    def names(self) -> Iterable[str]:
        """Names to offer: aliases, each provider's default model, the simulator's formats."""
        yield from self.aliases
        yield from (f"{r.name}/{r.default_model}" for r in self.rows.values() if r.default_model)
        yield from (f"{SIMULATOR}/{n}" for n in ("openai", "openai_responses", "anthropic", "gemini", "ollama"))
        yield "auto"

    def unknown_provider(self, word: str) -> ConfigError:
        """The error for a word that should be a provider's name and is none."""
        known = [*self.rows, *(p for r in self.rows.values() for p in r.prefixes)]
        near = difflib.get_close_matches(word, known, 1)
        return ConfigError(f"No provider is called {word!r}.",
                           hint=f"Did you mean {near[0]}?" if near else f"There are {', '.join(self.rows)}.")

    def own_key(self, row: Provider) -> Secret | None:
        """The key that a row finds by itself."""
        return keys.find(row, self.env)

    def key_for(self, route: Route, explicit: str | Secret | None) -> Secret | None:
        """The key to send on `route`. A key found in the environment goes to its own row's address only: a base_url
        given by hand that leads elsewhere gets no key unless the person named one."""
        if route.simulated:
            return Secret("sim", "simulator")
        row = route.provider
        own = self.rows.get(row.name)
        if explicit is None and own is not None and not keys.same_host(row.base_url, self.address(own)):
            return None
        return keys.find(row, self.env, explicit)


def _host(url: str) -> str:
    return url.partition("://")[2].partition("/")[0] or url


def _as_url(address: str, row: Provider) -> str:
    """OLLAMA_HOST may lack scheme or port, and 0.0.0.0 is a place to listen, not one to call."""
    scheme, _, rest = address.rpartition("://")
    host, _, path = rest.partition("/")
    default_port = row.base_url.rpartition(":")[2]
    name, colon, port = host.rpartition(":") if not host.endswith("]") else (host, "", "")
    if not colon:
        name, port = host, "443" if scheme == "https" else "80" if scheme else default_port
    name = {"0.0.0.0": "127.0.0.1", "[::]": "[::1]", "": "127.0.0.1"}.get(name, name)  # noqa: S104 - read, not bound
    return f"{scheme or 'http'}://{name}:{port or default_port}" + (f"/{path}" if path else "")


_LISTS = ("base_url_env", "key_env", "prefixes", "bare")
_WORDS = ("label", "dialect", "base_url", "default_model", "models", "key_url", "price")


def provider_row(name: str, table: Mapping[str, Any]) -> Provider:
    """The Provider that a TOML table describes. Raises ConfigError naming the entry that is wrong."""
    known = {*_LISTS, *_WORDS, "headers", "local", "quirks"}
    for entry in table:
        if entry not in known:
            near = difflib.get_close_matches(entry, known, 1)
            raise ConfigError(f"Provider {name!r} has an unknown entry {entry!r}.", hint=f"Did you mean {near[0]!r}?" if near else "")
    for entry in ("dialect", "base_url"):
        if not isinstance(table.get(entry), str):
            raise ConfigError(f"Provider {name!r} lacks {entry!r}.", hint=f"Add {entry} = \"...\" to its table.")
    entries: dict[str, Any] = {k: tuple(table.get(k, ())) for k in _LISTS} | {k: str(table[k]) for k in _WORDS if k in table}
    return Provider(name=name, headers=dict(table.get("headers", {})), local=bool(table.get("local", False)),
                    quirks=Quirks(**table.get("quirks", {})), **entries)


def load(env: Mapping[str, str] | None = None) -> Registry:
    """A registry with the rows that come with nbllm."""
    data = tomllib.loads(resources.files(__package__).joinpath("providers.toml").read_text("utf-8"))
    rows = {name: provider_row(name, table) for name, table in data["provider"].items()}
    return Registry(rows, dict(data["alias"]), env if env is not None else os.environ)
