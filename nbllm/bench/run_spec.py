"""The specification of a run: contestants, prompts, plan and rules.

A run's file describes the providers, so that a resumed run can be compared with it. It never says how to
reach them: keys, addresses, commands and variables go to the worker through a pipe, and are looked up again
for every run, since the file may come from somebody else.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field, replace
from hashlib import sha256
from typing import Any

import msgspec

from ..client.policy import Retries, Timeouts
from ..core import codec
from ..core.calls import HiddenTexts, ProviderSpec, Secret
from ..core.errors import MASK, ConfigError
from ..routing.keys import origin
from ..routing.registry import Route
from . import plan, prompts
from .counting import TokenCounter


@dataclass(frozen=True, slots=True)
class Contestant:
    """A model that is compared, with its route. `about`: the description of its provider for the run's file,
    see `describe_provider`. counter: counts its tokens where the server does not. batch: texts per request,
    where embeddings are measured."""

    name: str
    route: Route
    about: Mapping[str, Any] = field(default_factory=dict)
    options: Mapping[str, Any] = field(default_factory=dict)
    key: Secret | None = None
    timeout: float | Mapping[str, float | None] | None = None
    retries: int = 0
    keep: bool = False
    counter: TokenCounter | None = None
    batch: int | None = None

    @property
    def secrets(self) -> tuple[str, ...]:
        """The texts that no message about it may contain."""
        return (*((self.key.reveal(),) if self.key else ()), *self.route.provider.secrets)

    @property
    def timeouts(self) -> Timeouts:
        """The time limits."""
        return Timeouts.of(self.timeout)

    @property
    def retry_policy(self) -> Retries:
        """How often a failed request is sent again: never unless requested, since a failure is a result."""
        return Retries(attempts=self.retries)


@dataclass(frozen=True, slots=True)
class Rules:
    """Rules of a run: warm-up ("auto" or a number of requests), prefix (see prompts.add_prefix), limits,
    early stop. max_errors: consecutive failures after which a model gets no more requests. think: the range
    of think time in seconds.

    width: the relative half width of a confidence interval at which a load level ends early; disturb: (ms, of
    every so many ms) in which the worker's event loop is blocked, for selftest only.
    """

    seed: int = 0
    warmup: int | str = "auto"
    prefix: str | None = None
    budget: Mapping[str, float] = field(default_factory=dict)
    width: float | None = None
    metric: str = "ttft_ms"
    disturb: tuple[float, float] | None = None
    max_errors: int | None = None
    answers: bool = True
    think: tuple[float, float] | None = None


@dataclass(frozen=True, slots=True)
class Job:
    """A complete run."""

    run_id: str
    contestants: tuple[Contestant, ...]
    prompts: tuple[prompts.Prompt, ...]
    turns: tuple[plan.Turn, ...]
    rules: Rules

    def public(self) -> dict[str, Any]:
        """As JSON for the run's file."""
        return {
            "version": codec.VERSION,
            "run_id": self.run_id,
            "arms": [public_part(a) for a in self.contestants],
            "prompts": prompts.dump(self.prompts),
            "turns": msgspec.to_builtins(self.turns),
            "rules": asdict(self.rules),
        }

    def secret(self) -> list[dict[str, Any]]:
        """What `public` leaves out, for each contestant; for a pipe, never for a file."""
        return [secret_part(a) for a in self.contestants]

    @classmethod
    def of(cls, public: Mapping[str, Any], contestants: Iterable[Contestant]) -> Job:
        """From the result of `public` and the contestants. Raises ConfigError for a newer version's, and
        ProtocolError, ValueError, KeyError and the like for invalid content."""
        codec.check_version(public.get("version", codec.VERSION))  # the oldest runs have no version
        job = cls(
            public["run_id"],
            tuple(contestants),
            prompts.load(public["prompts"]),
            msgspec.convert(public["turns"], tuple[plan.Turn, ...]),
            msgspec.convert(public["rules"], Rules),
        )
        for turn in job.turns:
            if turn.contestant not in range(len(job.contestants)) or not all(
                slot.prompt in range(len(job.prompts)) for slot in turn.slots
            ):
                raise ValueError("a turn without a contestant or prompt")
        return job


def describe_provider(route: Route, row: ProviderSpec, base_url: str | None) -> dict[str, Any]:
    """The description of a provider in a run's file, for comparison. row: its configuration as written, with
    the names of variables and not their values; base_url: the address that was passed explicitly. What may be
    a secret is stored as a short digest."""
    if route.simulated:
        return {"name": route.provider.name, "dialect": route.provider.dialect}
    address = re.sub(r"(?<=//)[^/?#]*@", f"{MASK}@", (base_url or row.base_url).partition("?")[0])
    return {
        "name": row.name,
        "dialect": route.provider.dialect,
        "base_url": address,
        "origin": origin(route.provider.base_url),
        "passes": _comparable(row.passthrough_env),
        **{entry: _comparable(getattr(row, entry)) for entry in _COMPARED_FIELDS},
    }


def check_headers(headers: Any, for_all: bool) -> dict[str, str]:
    """The headers of one model. Raises ConfigError for invalid ones, without showing a value."""
    if for_all:
        raise ConfigError(
            "Headers must be given for one model: other servers must not see them.",
            hint='bench.run([{"model": "openai/mini", "headers": {"x-team": "blue"}}, ...])',
        )
    named = dict(headers) if isinstance(headers, Mapping) else {"": ""}
    for name, value in named.items():
        is_valid = isinstance(name, str) and _HEADER.fullmatch(name) and isinstance(value, str)
        if not is_valid or not value.isprintable() or not value.isascii():
            raise ConfigError(
                f"{name!r} is not a valid header.",
                hint='headers={"x-team": "blue"}: names and single-line texts.',
            )
    return named


def add_headers(row: ProviderSpec, headers: Mapping[str, str]) -> ProviderSpec:
    """The row with additional headers, whose values are secret."""
    if headers and row.command:
        raise ConfigError(f"{row.name!r} is a command: it has no headers.", hint="Leave headers out.")
    return replace(
        row, headers={**row.headers, **headers}, secret_values=HiddenTexts((*row.secrets, *headers.values()))
    )


_HEADER = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_COMPARED_FIELDS = (
    "base_url_env",
    "key_env",
    "key_header",
    "opencode",
    "command",
    "headers",
    "query",
)


def _comparable(entry: Any) -> Any:
    if isinstance(entry, Mapping):
        return {name: sha256(f"{name}: {value}".encode()).hexdigest()[:8] for name, value in entry.items()}
    return list(entry) if isinstance(entry, tuple) else entry


def differences(stored: Mapping[str, Any], contestant: Contestant) -> list[str]:
    """The entries in which a contestant differs from its description in a run's file."""
    before = {**stored["provider"], "model": stored["model"], "simulated": stored["simulated"]}
    now = {**contestant.about, "model": contestant.route.model, "simulated": contestant.route.simulated}
    return [
        f"{entry} was {_shorten(before[entry])}, here {_shorten(value)}"
        for entry, value in now.items()
        if before.get(entry, value) != value
    ]


def _shorten(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 160 else f"{text[:159]}…"


def secret_part(contestant: Contestant) -> dict[str, Any]:
    """What no file may hold of a contestant: its key, and how its provider is reached."""
    return {
        "key": contestant.key.reveal() if contestant.key else None,
        "origin": contestant.key.origin if contestant.key else "",
        "provider": asdict(contestant.route.provider) | {"oauth": None},
    }


def public_part(contestant: Contestant) -> dict[str, Any]:
    """What a run's file stores of a contestant."""
    return {
        "name": contestant.name,
        "provider": dict(contestant.about),
        "model": contestant.route.model,
        "asked": contestant.route.name,
        "simulated": contestant.route.simulated,
        "options": prompts.dump_options(contestant.options),
        "timeout": contestant.timeout,
        "retries": contestant.retries,
        "keep": contestant.keep,
        "counted": contestant.counter is not None,
        "batch": contestant.batch,
    }


def to_contestant(
    public: Mapping[str, Any], secret: Mapping[str, Any], counter: TokenCounter | None = None
) -> Contestant:
    """A contestant from its two parts; `counter` is used if its tokens are to be counted."""
    row = msgspec.convert(secret["provider"], ProviderSpec, dec_hook=lambda kind, public: kind(public))
    route = Route(public["asked"], row, public["model"], simulated=public["simulated"])
    key = Secret(secret["key"], "the run", secret["origin"]) if secret["key"] else None
    return Contestant(
        public["name"],
        route,
        public["provider"],
        prompts.load_options(public["options"]),
        key,
        public["timeout"],
        public["retries"],
        public["keep"],
        counter if public.get("counted") else None,
        public.get("batch"),
    )
