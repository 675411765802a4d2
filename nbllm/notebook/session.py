"""What one notebook knows: its client, its defaults, what was asked last. One per IPython shell."""

from __future__ import annotations

import os
import sys
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from ..core.errors import ConfigError
from .view.frontend import KernelPort, is_ours, request
from .view.hidden import plain

if TYPE_CHECKING:
    from ..client.client import Client
    from ..client.policy import Timeouts
    from ..client.stream import Stream
    from ..core.calls import ProviderSpec, Secret
    from ..core.events import Response
    from ..core.messages import Message
    from ..core.options import CallSpec
    from ..routing.registry import Route
    from .chats import Chats, Place, Shelf
    from .comparison import Comparison
    from .question import Contestant, Question
    from .syntax.parser import CellLine
    from .view.outcome import Outcome

_STATE = "_nbllm_session"


@dataclass(frozen=True, slots=True)
class Failure:
    """A cell that failed: its source, and its traceback as text."""

    code: str
    error: str


class Stopped(KeyboardInterrupt):
    """The user pressed Stop: the cell fails in one line, so that Run All stops; the answer, `whole` or not,
    is kept in `name`, which is "" where there is none."""

    def __init__(self, name: str, *, whole: bool = False) -> None:
        super().__init__(name)
        self.name, self.whole = name, whole

    def _render_traceback_(self) -> list[str]:
        return [
            f"Stopped. The {'' if self.whole else 'partial '}answer is in {self.name}."
            if self.name
            else "Stopped."
        ]


@dataclass(slots=True)
class Session:
    """The state behind the magics. Light: what a call needs loads with the first one."""

    shell: Any
    made: Client | None = None  # see client
    defaults: dict[str, Any] = field(default_factory=dict)
    asked: Question | None = None
    outcomes: tuple[Outcome, ...] = ()  # the last answers: one, or those of the last comparison
    comparison: Comparison | None = None  # the last answers, where there were several
    drawn: tuple[int, list[object]] = (-1, [])  # the execution count, and the answers that its cell has drawn
    touched: deque[str] = field(
        default_factory=lambda: deque(maxlen=64)
    )  # executions that have shown more than the answer under way
    cleared: int = 0  # how often a cell's outputs were cleared
    asking: int = 0  # answers of the foreground that are under way: a tool may ask a model in its turn
    failure: Failure | None = None  # the cell that failed last
    noting: Any = None  # the hook that notes it
    offered: dict[str, str] = field(default_factory=dict)  # code that cells have put below themselves
    fragments: dict[str, str] = field(default_factory=dict)  # prompts kept by save=
    asker: Any = None  # asks the user before a tool runs
    running: list[Any] = field(default_factory=list)  # runs that are answered in the background
    settings: Any = None  # what %config NbLLM shows
    actions: Any = None  # what can be done with answers below them
    comm: Any = None  # the small widget that was made so that later ones are heard while a cell runs
    matcher: Any = None  # the completion that was installed
    _chats: Chats | None = None
    _chats_of: str = ""  # whose conversations are kept

    @property
    def client(self) -> Client:
        """What asks: the one that the module's functions share, unless another was given."""
        if self.made is None:
            from ..client.api import default_client

            self.made = default_client()
            self.made.asker = self.asker
            if self.made.ledger is not None and self.file:
                self.made.ledger.notebook = "/".join(self.file.replace("\\", "/").split("/")[-2:])
        return self.made

    @property
    def chats(self) -> Chats:
        """The conversations."""
        if self._chats is None:
            from .chats import Chats

            self._chats = Chats(self._shelf)
        return self._chats

    @property
    def namespace(self) -> dict[str, Any]:
        """The notebook's variables."""
        names: dict[str, Any] = self.shell.user_ns
        return names

    @property
    def notebook(self) -> str:
        """The notebook's path, "" where the front end does not say."""
        return str(self.namespace.get("__vsc_ipynb_file__") or "")

    @property
    def file(self) -> str:
        """The notebook's file, where the front end or its server tells of it; "" where neither does."""
        told = self.namespace.get("__vsc_ipynb_file__") or os.environ.get("JPY_SESSION_NAME")
        return told if isinstance(told, str) else ""

    def _shelf(self) -> Shelf | None:
        """Where conversations are kept, where the user's configuration says so; of a notebook without a name
        by its folder."""
        registry = self.client.registry
        if not registry.keep_chats:
            return None
        from ..store.chats import KeptChats
        from .chats import Shelf

        if not self._chats_of:
            self._chats_of = self.file or os.getcwd()
        return Shelf(KeptChats(), self._chats_of, registry.secrets, self.say)

    @property
    def last(self) -> Response | None:
        """The last answer."""
        return self.outcomes[-1].response if self.outcomes else None

    # --- asking ---

    def parse(self, line: str) -> CellLine:
        """Reads the line of a cell or of a command, with the dialects that there are. Raises ConfigError."""
        from .syntax.parser import parse

        return parse(line, self.client.registry.dialects)

    def send(self, question: Question, contestant: Contestant) -> Stream:
        """Sends a question to one who is asked; its name is resolved once. Raises ConfigError for what is
        wrong on this side."""
        route, spec = self.prepared(question, contestant)
        return self.client.ask(self.messages(question, route), route, spec)

    def prepared(self, question: Question, contestant: Contestant) -> tuple[Route, CallSpec]:
        """Where a name leads, and what the options mean for the call."""
        from ..core.options import CALL, CallSpec
        from .question import spending_limits

        options = contestant.options
        route = self.client.resolve(contestant.model, options.get("base_url"), options.get("dialect"))
        found = {name: options[name] for name in CALL if name in options} | {
            "compact": options.get("compact", "auto" if "chat" in options else None),
            "cache": options.get("cache", "auto" if options.keys() & {"chat", "tools"} else None),
            "extra": question.extra,
            "schema": question.shape if _has_schemas(route) else None,
            "timeout": self._timeouts(options),
            "api_key": self._key(options),
            **self.usable(options),
            "budget": question.budget or spending_limits(options),
        }
        return route, CallSpec(**found)

    def messages(self, question: Question, route: Route) -> list[Message]:
        """The conversation to send. Where the provider has no mode for schemas, the prompt asks for JSON in
        words."""
        from ..core.messages import Message, Text

        parts = question.parts
        if question.shape is not None and not _has_schemas(route):
            parts = (*parts, Text(("\n\n" if parts else "") + question.shape.instructions()))
        return [*question.history, Message("user", parts)]

    def usable(self, options: Mapping[str, Any]) -> dict[str, Any]:
        """What the names in tools= and approve= mean. Raises ConfigError for one that means nothing."""
        if options.keys().isdisjoint(("tools", "approve")):
            return {}
        from .tool_names import approver, check, named

        found: dict[str, Any] = {"approve": approver(options.get("approve"), self.namespace)}
        if "tools" in options:
            check(options["tools"], can_ask=self.can_ask)
            found["tools"] = named(options["tools"], self.namespace, lambda: self.servers)
        return found

    @property
    def servers(self) -> list[str]:
        """The names of tools that are elsewhere: MCP servers, HTTP endpoints, agents."""
        registry = self.client.registry
        return [
            *(f"mcp/{e.name}" for e in self.client.mcp.entries()[0]),
            *(f"http/{name}" for name in registry.tools),
            *(name for name in registry.rows if name.startswith(("remote/", "cli/"))),
        ]

    def _timeouts(self, options: Mapping[str, Any]) -> Timeouts | None:
        given = {
            name.rpartition(".")[2]: value for name, value in options.items() if name.startswith("timeout.")
        }
        if "timeout" in options:
            given["total"] = options["timeout"]
        return replace(self.client.timeouts, **given) if given else None

    def _key(self, options: Mapping[str, Any]) -> Secret | None:
        name = options.get("key")
        if name is None or self.client.tapes.look() is not None:  # a replay needs no key
            return None
        from ..core.calls import Secret

        value = self.client.registry.env.get(name) or self.namespace.get(name)
        if not isinstance(value, str) or not value:
            raise ConfigError(
                f"No key in {name}: no such environment variable or notebook variable holds text.",
                hint="key= takes the name of a variable that holds the key, never the key itself.",
            )
        return Secret(value)

    @property
    def place(self) -> Place:
        """Which cell runs, and which run of it."""
        from .chats import Place

        asked = request(self.shell)
        return Place(str(asked.get("metadata", {}).get("cellId") or ""), _id(asked))

    @property
    def alone(self) -> bool:
        """Whether the cell that runs is one `%%llm` and has shown nothing else, so that its outputs may be
        cleared."""
        asked = request(self.shell)
        code = str(asked.get("content", {}).get("code", ""))
        if code.split(maxsplit=1)[:1] not in (["%%llm"], ["%%nbllm"]):
            return False
        with suppress(Exception):  # what was printed is heard when it is sent
            sys.stdout.flush()
            sys.stderr.flush()
        return _id(asked) not in self.touched

    def touch(self) -> None:
        """Notes that the cell that runs has an output that must stay."""
        self.touched.append(_id(request(self.shell)))

    @contextmanager
    def answering(self) -> Iterator[None]:
        """While an answer is on its way in the foreground. One that a tool of another asks for is not alone
        in its cell."""
        if self.asking:
            self.touch()
        self.asking += 1
        try:
            yield
        finally:
            self.asking -= 1

    def hear(self, message: dict[str, Any]) -> dict[str, Any]:
        """The same of a message of printed text, which is sent on."""
        printed_in = str(message.get("parent_header", {}).get("msg_id", ""))
        if printed_in not in self.touched:
            self.touched.append(printed_in)
        return message

    def see(self, message: dict[str, Any]) -> dict[str, Any]:
        """The same of a message of the display channel: what a tool of the notebook's shows must stay, and
        what it clears is gone, also of ours."""
        if message["msg_type"] == "clear_output":
            self.cleared += 1
        elif message["msg_type"] == "display_data" and not is_ours(message):
            self.hear(message)
        return message

    def models(self, names: Sequence[str]) -> tuple[str, ...]:
        """Models as named on a line; a name that is no model's, but a variable's that holds text or a list of
        texts, stands for these."""
        return tuple(m for name in names for m in self._meant(name))

    def needs_a_model(self, names: Sequence[str]) -> None:
        """Raises ConfigError where `auto` found nobody but the simulator, whom the user did not ask for."""
        if "auto" in names and not self.client.registry.simulating and self.client.resolve("auto").simulated:
            raise ConfigError(
                "No model is ready.",
                hint="Set OPENAI_API_KEY or another key, type one with `%llm key openai`, or name a model: "
                "`%llm models` shows which there are.",
            )

    def _meant(self, name: str) -> Sequence[str]:
        held = self.namespace.get(name)
        held = [held] if isinstance(held, str) else held
        if not isinstance(held, list | tuple) or not held or not all(isinstance(m, str) and m for m in held):
            return [name]
        try:
            self.client.resolve(name)
        except ConfigError:
            return held
        return [name]

    # --- the notebook ---

    @property
    def in_kernel(self) -> bool:
        """Whether the shell lives in a Jupyter kernel and not in a terminal."""
        return hasattr(self.shell, "kernel")

    @property
    def can_ask(self) -> bool:
        """Whether somebody can answer a question: not under nbclient, papermill and nbval."""
        return (
            bool(self.shell.kernel._allow_stdin)
            if self.in_kernel
            else sys.stdin is not None and sys.stdin.isatty()
        )

    @property
    def fillable(self) -> dict[str, Any]:
        """The variables that a prompt may name: not IPython's own (In, exit, quit ...)."""
        hidden = self.shell.user_ns_hidden
        return (
            {
                k: v
                for k, v in self.namespace.items()
                if not k.startswith("_") and not (k in hidden and hidden[k] is v)
            }
            | {k: v for k, v in self.namespace.items() if k in ("_", "_llm", "In", "Out")}
            | {name: value for name, value in self._ours.items() if name not in self.namespace}
        )

    @property
    def _ours(self) -> dict[str, Any]:
        """What a prompt may name that is no variable: the notebook so far, and the last error."""
        from .transcript import NotebookSoFar

        failed = {"Err": self.failure.error} if self.failure is not None else {}
        return {"notebook": NotebookSoFar.of(self.shell), **failed}

    def evaluate(self, expression: str, given: Mapping[str, Any] | None = None) -> Any:
        """The value of the user's own expression, in one scope: the notebook's names, and over them those
        that are `given`."""
        self.touch()  # it may print
        names = {**self.shell.user_global_ns, **self.namespace, **(given or {})}
        if self.failure is not None:
            names.setdefault("Err", self.failure.error)
        return eval(expression, names)  # noqa: S307 - the user wrote it in their own cell

    def shown(self, value: Response | Comparison) -> None:
        """Notes that `value` is on screen in this cell, so that it is not drawn there again as its value."""
        here = self.shell.execution_count
        self.drawn = (here, [*(self.drawn[1] if self.drawn[0] == here else ()), value])
        self.touch()

    def was_shown(self, value: Response | Comparison) -> bool:
        """Whether this cell has drawn `value` already."""
        return self.drawn[0] == self.shell.execution_count and any(known is value for known in self.drawn[1])

    def say(self, text: str) -> None:
        """A line for the user."""
        self.touch()
        print(plain(text))  # noqa: T201 - a magic's answer goes to the cell's output

    def show(self, data: Mapping[str, str]) -> None:
        """A MIME bundle for the user; its text in a terminal."""
        self.touch()
        KernelPort(self.shell).publish(data)

    def provider(self, name: str) -> ProviderSpec:
        """The row called `name`. Raises ConfigError with the nearest one."""
        row = self.client.registry.row(name.strip())
        if row is None:
            raise self.client.registry.unknown_provider(name.strip())
        return row

    def hidden(self, question: str, row: ProviderSpec) -> str:
        """A key typed without being shown. Raises ConfigError where nobody can answer, or nothing was
        typed."""
        from getpass import getpass

        typed = getpass(question).strip() if self.can_ask else ""
        if not typed:
            raise ConfigError(
                f"No key was given for {row.label}.",
                hint=f"Set {row.key_env[0] if row.key_env else 'its variable'} in the environment.",
            )
        return typed


def current_session() -> Session:
    """The session of the shell that runs, made where there is none. Raises ConfigError outside IPython."""
    from IPython import get_ipython

    shell = get_ipython()
    if shell is None:
        raise ConfigError("This needs IPython or a notebook.", hint="In a script use nbllm.complete.")
    return session_of(shell)


def loaded(shell: Any) -> Session | None:
    """The session of `shell`, where there is one."""
    session: Session | None = getattr(shell, _STATE, None)
    return session


def session_of(shell: Any) -> Session:
    """The one session of `shell`."""
    session = loaded(shell)
    if session is None:
        session = Session(shell)
        setattr(shell, _STATE, session)
    return session


def forget(shell: Any) -> None:
    """Drops the session of `shell`, except for what is the user's: conversations, kept prompts, answers that
    are still on their way."""
    old = session_of(shell)
    own = Session(shell, fragments=old.fragments, running=old.running)
    own._chats, own._chats_of = old._chats, old._chats_of
    setattr(shell, _STATE, own)


def _has_schemas(route: Route) -> bool:
    return all("schema" not in r.provider.quirks.cannot for r in (route, *route.others))


def _id(request: Mapping[str, Any]) -> str:
    return str(request.get("header", {}).get("msg_id", ""))
