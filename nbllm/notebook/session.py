"""What one notebook knows: its client, its defaults, what was asked last. One per IPython shell."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Protocol

from ..api import default_client
from ..client import Client, Timeouts
from ..errors import ConfigError
from ..events import Event, Response
from ..messages import Message, Part, Text
from ..registry import DEFAULT_MODEL, Route
from ..streams import Stream
from ..wire import Provider, Secret
from .chats import Chats

if TYPE_CHECKING:
    from ..structured import Shape
    from .bundle import Line as Figures
    from .comparing import Comparison
    from .fill import Filled
    from .grammar import Line
    from .mending import Failure

# Options of a cell that go to Client.stream as they are.
PASSED = ("max_tokens", "temperature", "top_p", "seed", "reasoning", "base_url", "dialect", "retries", "keep")


@dataclass(frozen=True, slots=True)
class Asked:
    """A prompt as it was sent: the parts after filling, and the options of its cell."""

    parts: tuple[Part, ...]
    model: str
    options: Mapping[str, Any]
    extra: Mapping[str, Any]
    filled: tuple[str, ...] = ()
    attached: tuple[str, ...] = ()
    history: tuple[Message, ...] = ()  # what was said before, where it goes on with a conversation

    @property
    def shape(self) -> Shape | None:
        """What the answer must look like, where that was said."""
        return self.options.get("schema")

    def elsewhere(self, model: str | None, options: Mapping[str, Any], extra: Mapping[str, Any]) -> Asked:
        """The same prompt with another model or other options."""
        return replace(self, model=model or self.model, options={**self.options, **options}, extra={**self.extra, **extra})


class Screen(Protocol):
    """What shows one answer: while it comes, and for good."""

    def start(self) -> None:
        """Shows that something was asked."""

    def feed(self, event: Event) -> None:
        """Takes an event into account."""

    def tick(self, now: float | None = None) -> None:
        """Draws, where something is due."""

    def finish(self, response: Response, footer: Figures | None = None, error: BaseException | None = None,
               instead: Mapping[str, str] | None = None) -> None:
        """Leaves the final form, or what is to stand in its place."""


class Hidden:
    """Shows nothing: quiet=true."""

    def start(self) -> None:
        """Nothing."""

    def feed(self, event: Event) -> None:
        """Nothing."""

    def tick(self, now: float | None = None) -> None:
        """Nothing."""

    def finish(self, response: Response, footer: Figures | None = None, error: BaseException | None = None,
               instead: Mapping[str, str] | None = None) -> None:
        """Nothing."""


@dataclass(slots=True)
class Session:
    """The state behind the magics."""

    shell: Any
    client: Client = field(default_factory=default_client)
    defaults: dict[str, Any] = field(default_factory=dict)
    asked: Asked | None = None
    last: Response | None = None
    comparison: Comparison | None = None  # the last answers, where there were several
    drawn: tuple[int, list[object]] = (-1, [])  # the execution count, and the answers that its cell has drawn
    touched: str = ""  # the execution that has shown something else than the answer under way
    failure: Failure | None = None  # the cell that failed last
    noting: Any = None  # the hook that notes it
    offered: dict[str, str] = field(default_factory=dict)  # code that cells have put below themselves
    fragments: dict[str, str] = field(default_factory=dict)  # prompts kept by save=
    chats: Chats = field(default_factory=Chats)
    running: list[Stream] = field(default_factory=list)  # what is answered in the background
    settings: Any = None  # what %config NbLLM shows
    comm: Any = None  # the small widget that was made so that later ones are heard while a cell runs
    matcher: Any = None  # the completion that was installed

    @property
    def namespace(self) -> dict[str, Any]:
        """The notebook's variables."""
        names: dict[str, Any] = self.shell.user_ns
        return names

    def asked_from(self, line: Line, parts: tuple[Part, ...], filled: tuple[str, ...], attached: tuple[str, ...] = ()) -> Asked:
        """What a cell asks, its own options before the notebook's defaults."""
        options = {**self.defaults, **line.options}
        model = line.models[0] if line.models else options.get("model", DEFAULT_MODEL)
        return Asked(parts, model, {k: v for k, v in options.items() if k != "model"}, line.extra, filled, attached)

    def stream(self, asked: Asked) -> Stream:
        """Sends what was asked."""
        return self.client.stream(self.messages(asked), asked.model, **self.arguments(asked))

    def messages(self, asked: Asked) -> list[Message]:
        """The conversation to send. Where the provider has no mode for schemas, the prompt asks for JSON in words."""
        parts = asked.parts
        if asked.shape is not None and not self._has_schemas(asked):
            parts = (*parts, Text(("\n\n" if parts else "") + asked.shape.instructions()))
        return [*asked.history, Message("user", parts)]

    def _has_schemas(self, asked: Asked) -> bool:
        route = self.client.resolve(asked.model, asked.options.get("base_url"), asked.options.get("dialect"))
        return "schema" not in route.provider.quirks.cannot

    def arguments(self, asked: Asked) -> dict[str, Any]:
        """The keyword arguments of Client.stream that the options mean."""
        options = asked.options
        found = {name: options[name] for name in PASSED if name in options}
        found |= {"system": options.get("system"), "stop": options.get("stop", ()), "extra": asked.extra,
                  "schema": asked.shape.provider_schema if asked.shape is not None and self._has_schemas(asked) else None,
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

    def keep_comparison(self, asked: Asked, comparison: Comparison, out: str | None) -> None:
        """Puts several answers into the notebook's variables: the last one is the last answer."""
        self.asked, self.comparison = asked, comparison
        self.last = comparison.responses[-1]
        self.namespace["_llm"] = comparison
        if out:
            self.namespace[out] = comparison

    def keep(self, asked: Asked, response: Response, out: str | None, value: Any = None) -> None:
        """Puts the answer into the notebook's variables; `out` takes the `value` made of it, where there is one."""
        self.asked, self.last, self.comparison = asked, response, None
        self.namespace["_llm"] = response
        if out:
            self.namespace[out] = response if value is None else value

    @property
    def cell(self) -> str:
        """The front end's id of the cell that runs, "" where it does not tell."""
        from .port import request

        return str(request(self.shell).get("metadata", {}).get("cellId") or "")

    @property
    def alone(self) -> bool:
        """Whether the cell that runs is one `%%llm` and has shown nothing yet, so that its outputs may be cleared."""
        from .port import request

        asked = request(self.shell)
        return str(asked.get("content", {}).get("code", "")).split(maxsplit=1)[:1] in (["%%llm"], ["%%nbllm"]) and self.touched != _id(asked)

    def touch(self) -> None:
        """Notes that the cell that runs has an output that must stay."""
        from .port import request

        self.touched = _id(request(self.shell))

    # --- the notebook ---

    @property
    def in_kernel(self) -> bool:
        """Whether the shell lives in a Jupyter kernel and not in a terminal."""
        return hasattr(self.shell, "kernel")

    @property
    def can_ask(self) -> bool:
        """Whether somebody can answer a question: not under nbclient, papermill and nbval."""
        return bool(self.shell.kernel._allow_stdin) if self.in_kernel else sys.stdin is not None and sys.stdin.isatty()

    @property
    def fillable(self) -> dict[str, Any]:
        """The variables that a prompt may name: not IPython's own (In, exit, quit ...)."""
        hidden = self.shell.user_ns_hidden
        return {k: v for k, v in self.namespace.items() if not k.startswith("_") and not (k in hidden and hidden[k] is v)} | {
            k: v for k, v in self.namespace.items() if k in ("_", "_llm", "In", "Out")} | (
            {"Err": self.failure.error} if self.failure is not None and "Err" not in self.namespace else {})

    def evaluate(self, expression: str) -> Any:
        """The value of a person's own expression in the notebook."""
        self.touch()  # it may print
        names = self.namespace if self.failure is None or "Err" in self.namespace else {**self.namespace, "Err": self.failure.error}
        return eval(expression, self.shell.user_global_ns, names)  # noqa: S307 - the person wrote it in their own cell

    def view(self, asked: Asked) -> Screen:
        """What shows the answer to `asked` while it comes, as this front end can."""
        from .port import view

        options = asked.options
        if options.get("quiet"):
            return Hidden()
        return view(self.shell, render=str(options.get("render", "auto")), model=asked.model, format=str(options.get("format", "md")), alone=self.alone)

    def shown(self, response: Response | Comparison) -> None:
        """Notes that `response` is on screen in this cell, so that it is not drawn there again as its value."""
        here = self.shell.execution_count
        self.drawn = (here, [*(self.drawn[1] if self.drawn[0] == here else ()), response])
        self.touch()

    def was_shown(self, response: Response | Comparison) -> bool:
        """Whether this cell has drawn `response` already."""
        return self.drawn[0] == self.shell.execution_count and any(known is response for known in self.drawn[1])

    def warn_skipped(self, filled: Filled | None) -> None:
        """Tells which `{{expression}}` were left as they are: they are no Python, or their names do not exist."""
        if filled and filled.skipped:
            more = f" and {len(filled.skipped) - 3} more" if len(filled.skipped) > 3 else ""
            self.say(f"Left as written: {', '.join(t[:60] for t in filled.skipped[:3])}{more}")

    def say(self, text: str) -> None:
        """A line for the person."""
        self.touch()
        print(text)  # noqa: T201 - a magic's answer goes to the cell's output

    def show(self, data: Mapping[str, str]) -> None:
        """A MIME bundle for the person; its text in a terminal."""
        from .port import KernelPort

        self.touch()
        KernelPort(self.shell).publish(data)

    def provider(self, name: str) -> Provider:
        """The row called `name`. Raises ConfigError with the nearest one."""
        row = self.client.registry.row(name.strip())
        if row is None:
            raise self.client.registry.unknown_provider(name.strip())
        return row

    def stand_in(self, route: Route) -> Secret | None:
        """A stand-in for a key that is missing, so that a dry run can show the rest."""
        return None if route.provider.local else Secret("MISSING", "nowhere")

    def hidden(self, question: str, row: Provider) -> str:
        """A key typed without being shown. Raises ConfigError where nobody can answer, or nothing was typed."""
        from getpass import getpass

        typed = getpass(question).strip() if self.can_ask else ""
        if not typed:
            raise ConfigError(f"No key was given for {row.label}.", hint=f"Set {row.key_env[0] if row.key_env else 'its variable'} in the environment.")
        return typed


def _id(request: Mapping[str, Any]) -> str:
    return str(request.get("header", {}).get("msg_id", ""))
