"""What a worker is given: the arms, the prompts, the plan, the rules. Kept in the run's directory, keys apart."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from ..client import Timeouts
from ..messages import Tool
from ..policy import Retries
from ..registry import Route
from ..wire import ModelFacts, Provider, Quirks, Secret
from . import plan, prompts

# Options of a call that an arm may set, besides model and name: those of Client.request, and what is its own.
REQUEST_OPTIONS = ("system", "max_tokens", "temperature", "top_p", "stop", "seed", "reasoning", "tools", "tool_choice", "schema", "extra")
ADDRESS_OPTIONS = ("base_url", "dialect", "api_key")
CALL_OPTIONS = ("timeout", "retries", "keep")


@dataclass(frozen=True, slots=True)
class Arm:
    """One of the models that are compared, resolved. `key` and the provider's headers travel apart from the rest."""

    name: str
    route: Route
    options: Mapping[str, Any] = field(default_factory=dict)
    key: Secret | None = None
    timeout: float | Mapping[str, float | None] | None = None
    retries: int = 0
    keep: bool = False

    @property
    def limits(self) -> Timeouts:
        """The time limits."""
        return Timeouts.of(self.timeout)

    @property
    def patience(self) -> Retries:
        """How often a request that failed is sent again. None, unless asked for: a failure is a result."""
        return Retries(attempts=self.retries)


@dataclass(frozen=True, slots=True)
class Rules:
    """How the run goes: warm-up ("auto" or a number of requests), prefix (see prompts.prefixed), limits, early stop.

    width: the relative half width of a confidence interval at which a level ends early; disturb: (milliseconds, of every
    so many) in which the worker's own loop is blocked, for selftest only.
    """

    seed: int = 0
    warmup: int | str = "auto"
    prefix: str | None = None
    budget: Mapping[str, float] = field(default_factory=dict)
    width: float | None = None
    metric: str = "ttft_ms"
    disturb: tuple[float, float] | None = None


@dataclass(frozen=True, slots=True)
class Job:
    """A whole run."""

    run_id: str
    arms: tuple[Arm, ...]
    prompts: tuple[prompts.Prompt, ...]
    turns: tuple[plan.Turn, ...]
    rules: Rules

    def public(self) -> dict[str, Any]:
        """As JSON, without keys and headers."""
        return {"run_id": self.run_id, "arms": [_arm(a) for a in self.arms], "prompts": prompts.dump(self.prompts),
                "turns": plan.dump(self.turns), "rules": asdict(self.rules)}

    def secret(self) -> list[dict[str, Any]]:
        """What `public` leaves out, arm by arm; for a pipe, never for a file."""
        return [secret_of(a) for a in self.arms]

    @classmethod
    def of(cls, public: Mapping[str, Any], secret: list[dict[str, Any]]) -> Job:
        """From its two halves."""
        rules = public["rules"]
        rules["disturb"] = tuple(rules["disturb"]) if rules["disturb"] else None
        return cls(public["run_id"], tuple(_to_arm(a, s) for a, s in zip(public["arms"], secret, strict=True)),
                   tuple(prompts.load(public["prompts"])), tuple(plan.load(public["turns"])), Rules(**rules))


def secret_of(arm: Arm) -> dict[str, Any]:
    """What may be secret of an arm: its key, and the headers and query of its row, which may hold others."""
    return {"key": arm.key.reveal() if arm.key else None, "headers": dict(arm.route.provider.headers), "query": dict(arm.route.provider.query)}


def _arm(arm: Arm) -> dict[str, Any]:
    provider = asdict(arm.route.provider) | {"headers": {}, "query": {}, "oauth": None}
    options = dict(arm.options)
    if options.get("tools"):
        options["tools"] = [asdict(t) if isinstance(t, Tool) else dict(t) for t in options["tools"]]
    return {"name": arm.name, "provider": provider, "model": arm.route.model, "asked": arm.route.asked, "simulated": arm.route.simulated,
            "options": options, "timeout": arm.timeout, "retries": arm.retries, "keep": arm.keep}


def _to_arm(given: Mapping[str, Any], secret: Mapping[str, Any]) -> Arm:
    row = {**given["provider"], "headers": secret["headers"], "query": secret["query"]}
    quirks: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in row["quirks"].items()}
    row["quirks"] = Quirks(**quirks)
    row["facts"] = {name: ModelFacts(**facts) for name, facts in row["facts"].items()}
    row |= {k: tuple(v) for k, v in row.items() if isinstance(v, list)}
    route = Route(given["asked"], Provider(**row), given["model"], simulated=given["simulated"])
    return Arm(given["name"], route, given["options"], Secret(secret["key"], "the run") if secret["key"] else None, given["timeout"], given["retries"], given["keep"])
