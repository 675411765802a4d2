"""What one notebook knows: its client, its defaults, what was asked last. One per IPython shell."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from ..api import default_client
from ..client import Client, Timeouts
from ..errors import ConfigError
from ..events import Response
from ..messages import Message, Part
from ..registry import DEFAULT_MODEL
from ..streams import Stream

# Options of a cell that go to Client.stream as they are.
PASSED = ("max_tokens", "temperature", "top_p", "seed", "reasoning", "base_url", "dialect", "retries")


@dataclass(frozen=True, slots=True)
class Asked:
    """A prompt as it was sent: the parts after filling, and the options of its cell."""

    parts: tuple[Part, ...]
    model: str
    options: Mapping[str, Any]
    extra: Mapping[str, Any]
    filled: tuple[str, ...] = ()

    def elsewhere(self, model: str | None, options: Mapping[str, Any], extra: Mapping[str, Any]) -> Asked:
        """The same prompt with another model or other options."""
        return replace(self, model=model or self.model, options={**self.options, **options}, extra={**self.extra, **extra})


@dataclass(slots=True)
class Session:
    """The state behind the magics."""

    shell: Any
    client: Client = field(default_factory=default_client)
    defaults: dict[str, Any] = field(default_factory=dict)
    asked: Asked | None = None
    last: Response | None = None
    shown_in: tuple[int, int] | None = None  # (execution count, id of the response) that was drawn while it streamed

    @property
    def namespace(self) -> dict[str, Any]:
        """The notebook's variables."""
        names: dict[str, Any] = self.shell.user_ns
        return names

    def asked_from(self, line: Any, parts: tuple[Part, ...], filled: tuple[str, ...]) -> Asked:
        """What a cell asks, its own options before the notebook's defaults."""
        if len(line.models) > 1:
            raise ConfigError("Several models in one cell are not yet possible.", hint="Ask one here, and the others with `%llm again MODEL`.")
        options = {**self.defaults, **line.options}
        model = line.models[0] if line.models else options.get("model", DEFAULT_MODEL)
        return Asked(parts, model, {k: v for k, v in options.items() if k != "model"}, line.extra, filled)

    def stream(self, asked: Asked) -> Stream:
        """Sends what was asked."""
        return self.client.stream([Message("user", asked.parts)], asked.model, **self.arguments(asked))

    def arguments(self, asked: Asked) -> dict[str, Any]:
        """The keyword arguments of Client.stream that the options mean."""
        options = asked.options
        found = {name: options[name] for name in PASSED if name in options}
        found |= {"system": options.get("system"), "stop": options.get("stop", ()), "extra": asked.extra, "schema": options.get("schema"),
                  "timeout": self._timeouts(options), "api_key": self._key(options)}
        return {k: v for k, v in found.items() if v is not None}

    def _timeouts(self, options: Mapping[str, Any]) -> Timeouts | None:
        given = {name.rpartition(".")[2]: value for name, value in options.items() if name.startswith("timeout.")}
        if "timeout" in options:
            given["total"] = options["timeout"]
        return replace(self.client.timeouts, **given) if given else None

    def _key(self, options: Mapping[str, Any]) -> str | None:
        name = options.get("key")
        if name is None:
            return None
        value = self.client.registry.env.get(name) or self.namespace.get(name)
        if not isinstance(value, str) or not value:
            raise ConfigError(f"No key in {name}: no such environment variable or notebook variable holds text.",
                              hint="key= takes the name of a variable that holds the key, never the key itself.")
        return value

    def keep(self, asked: Asked, response: Response, out: str | None) -> None:
        """Puts the answer into the notebook's variables."""
        self.asked, self.last = asked, response
        self.namespace["_llm"] = response
        if out:
            self.namespace[out] = response
