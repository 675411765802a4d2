"""The state of one notebook: its client, its defaults, its last question and answers. One for each IPython
shell."""

from __future__ import annotations

import os
import sys
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from ..core.errors import ConfigError
from .view.frontend import KernelPort, is_ours, parent_message
from .view.hidden import plain_text

if TYPE_CHECKING:
    from ..client.client import Client
    from ..client.policy import Timeouts
    from ..client.stream import Stream
    from ..core.calls import ProviderSpec, Secret
    from ..core.events import Response
    from ..core.messages import Message
    from ..core.options import CallSpec
    from ..routing.registry import Route
    from .chats import Chats, ChatStorage, Origin
    from .comparison import Comparison
    from .question import Contestant, Question
    from .syntax.parser import CellLine
    from .view.outcome import Outcome

_SESSION_ATTRIBUTE = "_nbllm_session"


@dataclass(frozen=True, slots=True)
class CellFailure:
    """A cell that failed: its source, and its traceback as text."""

    code: str
    error: str


class Stopped(KeyboardInterrupt):
    """The user pressed Stop. The cell fails in one line, so that Run All stops. The answer, complete or not,
    is in the variable `name`; "" if there is none."""

    def __init__(self, name: str, *, is_complete: bool = False) -> None:
        super().__init__(name)
        self.name, self.is_complete = name, is_complete

    def _render_traceback_(self) -> list[str]:
        return [
            f"Stopped. The {'' if self.is_complete else 'partial '}answer is in {self.name}."
            if self.name
            else "Stopped."
        ]


@dataclass(slots=True)
class Session:
    """The state behind the magics. Cheap to create: modules that a call needs are imported with the first
    call."""

    shell: Any
    current_client: Client | None = None  # created on first use, see `client`
    defaults: dict[str, Any] = field(default_factory=dict)
    last_question: Question | None = None
    outcomes: tuple[Outcome, ...] = ()  # the last answers: one, or all of the last comparison
    comparison: Comparison | None = None  # the last answers, if there were several
    drawn_values: tuple[int, list[object]] = (
        -1,
        [],
    )  # the execution count and the answers that its cell has displayed
    executions_with_output: deque[str] = field(
        default_factory=lambda: deque(maxlen=64)
    )  # message ids of executions that have output of their own
    clear_count: int = 0  # how often cell outputs were cleared
    active_answers: int = 0  # foreground answers in progress; more than one if a tool asks a model
    last_failure: CellFailure | None = None  # the last cell that failed
    failure_hook: Any = None  # the hook that records it
    offered_code: dict[str, str] = field(
        default_factory=dict
    )  # by cell id: the code that was put into the next cell
    fragments: dict[str, str] = field(default_factory=dict)  # prompts stored by save=
    asker: Any = None  # asks the user before a tool runs
    background_runs: list[Any] = field(default_factory=list)  # runs in the background
    settings: Any = None  # the NbLLM object of %config
    actions: Any = None  # the buttons below answers
    comm: Any = None  # a first comm; it enables widget messages while a cell runs
    matcher: Any = None  # the installed completion matcher
    _chats: Chats | None = None
    _chats_notebook: str = ""  # the notebook whose conversations are stored

    @property
    def client(self) -> Client:
        """The client of this notebook: the shared client of the module's functions, unless another one was
        set."""
        if self.current_client is None:
            from ..client.api import default_client

            self.current_client = default_client()
            self.current_client.asker = self.asker
            if self.current_client.ledger is not None and self.notebook_file:
                self.current_client.ledger.notebook = "/".join(
                    self.notebook_file.replace("\\", "/").split("/")[-2:]
                )
        return self.current_client

    @property
    def chats(self) -> Chats:
        """The conversations."""
        if self._chats is None:
            from .chats import Chats

            self._chats = Chats(self._chat_storage)
        return self._chats

    @property
    def namespace(self) -> dict[str, Any]:
        """The notebook's variables."""
        names: dict[str, Any] = self.shell.user_ns
        return names

    @property
    def vscode_path(self) -> str:
        """The notebook's path as VS Code reports it, "" elsewhere."""
        return str(self.namespace.get("__vsc_ipynb_file__") or "")

    @property
    def notebook_file(self) -> str:
        """The notebook's path as the front end or its server reports it; "" if neither does."""
        path = self.namespace.get("__vsc_ipynb_file__") or os.environ.get("JPY_SESSION_NAME")
        return path if isinstance(path, str) else ""

    def _chat_storage(self) -> ChatStorage | None:
        """Where conversations are stored, if the configuration says so. A notebook without a name is
        identified by its working folder."""
        registry = self.client.registry
        if not registry.keep_chats:
            return None
        from ..store.chats import ChatStore
        from .chats import ChatStorage

        if not self._chats_notebook:
            self._chats_notebook = self.notebook_file or os.getcwd()
        return ChatStorage(ChatStore(), self._chats_notebook, registry.secrets, self.print_text)

    @property
    def last_response(self) -> Response | None:
        """The last answer."""
        return self.outcomes[-1].response if self.outcomes else None

    # --- questions ---

    def parse(self, line: str) -> CellLine:
        """Parses the line of a cell or command. Raises ConfigError."""
        from .syntax.parser import parse

        return parse(line, self.client.registry.dialects)

    def send(self, question: Question, contestant: Contestant) -> Stream:
        """Sends a question to one contestant. Raises ConfigError for errors found before sending."""
        route, spec = self.prepare_call(question, contestant)
        return self.client.stream_to(route, self.build_messages(question, route), spec)

    def prepare_call(self, question: Question, contestant: Contestant) -> tuple[Route, CallSpec]:
        """(route of the model, options of the call) for one contestant."""
        from ..core.options import CALL_OPTIONS, CallSpec
        from .question import spending_limits

        options = contestant.options
        route = self.client.resolve(contestant.model, options.get("base_url"), options.get("dialect"))
        found = {name: options[name] for name in CALL_OPTIONS if name in options} | {
            "compact": options.get("compact", "auto" if "chat" in options else None),
            "cache": options.get("cache", "auto" if options.keys() & {"chat", "tools"} else None),
            "extra": question.extra,
            "schema": question.shape if _supports_schemas(route) else None,
            "timeout": self._call_timeouts(options),
            "api_key": self._api_key(options),
            **self.resolve_tools(options),
            "budget": question.budget or spending_limits(options),
        }
        return route, CallSpec(**found)

    def build_messages(self, question: Question, route: Route) -> list[Message]:
        """The messages to send. For providers without a schema mode the prompt asks for JSON in words."""
        from ..core.messages import Message, Text

        parts = question.parts
        if question.shape is not None and not _supports_schemas(route):
            parts = (*parts, Text(("\n\n" if parts else "") + question.shape.instructions()))
        return [*question.history, Message("user", parts)]

    def resolve_tools(self, options: Mapping[str, Any]) -> dict[str, Any]:
        """The values behind the names in tools= and approve=. Raises ConfigError for an unknown name."""
        if options.keys().isdisjoint(("tools", "approve")):
            return {}
        from .tool_names import check_cell_tools, resolve_approver, resolve_tools

        found: dict[str, Any] = {"approve": resolve_approver(options.get("approve"), self.namespace)}
        if "tools" in options:
            check_cell_tools(options["tools"], can_prompt_user=self.can_prompt_user)
            found["tools"] = resolve_tools(options["tools"], self.namespace, lambda: self.external_tools)
        return found

    @property
    def external_tools(self) -> list[str]:
        """The names of tools outside the notebook: MCP servers, HTTP endpoints, agents."""
        registry = self.client.registry
        return [
            *(f"mcp/{e.name}" for e in self.client.mcp.entries()[0]),
            *(f"http/{name}" for name in registry.tools),
            *(name for name in registry.rows if name.startswith(("remote/", "cli/"))),
        ]

    def _call_timeouts(self, options: Mapping[str, Any]) -> Timeouts | None:
        timeouts = {
            name.rpartition(".")[2]: value for name, value in options.items() if name.startswith("timeout.")
        }
        if "timeout" in options:
            timeouts["total"] = options["timeout"]
        return replace(self.client.timeouts, **timeouts) if timeouts else None

    def _api_key(self, options: Mapping[str, Any]) -> Secret | None:
        name = options.get("key")
        if name is None or self.client.tapes.get_source() is not None:  # replays need no key
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
    def origin(self) -> Origin:
        """The running cell and its execution."""
        from .chats import Origin

        message = parent_message(self.shell)
        return Origin(str(message.get("metadata", {}).get("cellId") or ""), _message_id(message))

    @property
    def is_alone(self) -> bool:
        """Whether the running cell is a single `%%llm` without other output, so that its outputs may be
        cleared."""
        message = parent_message(self.shell)
        code = str(message.get("content", {}).get("code", ""))
        if code.split(maxsplit=1)[:1] not in (["%%llm"], ["%%nbllm"]):
            return False
        with suppress(Exception):  # sends pending text to on_stream_message
            sys.stdout.flush()
            sys.stderr.flush()
        return _message_id(message) not in self.executions_with_output

    def mark_output(self) -> None:
        """Records that the running cell has output that must not be cleared."""
        self.executions_with_output.append(_message_id(parent_message(self.shell)))

    @contextmanager
    def foreground_answer(self) -> Iterator[None]:
        """Context of an answer in the foreground. A nested answer (asked by a tool) marks the cell's output,
        so that it is not cleared."""
        if self.active_answers:
            self.mark_output()
        self.active_answers += 1
        try:
            yield
        finally:
            self.active_answers -= 1

    def on_stream_message(self, message: dict[str, Any]) -> dict[str, Any]:
        """Hook for printed text: marks the output of its cell; returns the message unchanged."""
        execution = str(message.get("parent_header", {}).get("msg_id", ""))
        if execution not in self.executions_with_output:
            self.executions_with_output.append(execution)
        return message

    def on_display_message(self, message: dict[str, Any]) -> dict[str, Any]:
        """Hook for the display channel: marks the output of cells that display something of their own, and
        counts cleared outputs; returns the message unchanged."""
        if message["msg_type"] == "clear_output":
            self.clear_count += 1
        elif message["msg_type"] == "display_data" and not is_ours(message):
            self.on_stream_message(message)
        return message

    def expand_models(self, names: Sequence[str]) -> tuple[str, ...]:
        """Model names of a line. A name that is no model but a variable with a text or a list of texts stands
        for these."""
        return tuple(m for name in names for m in self._expand_model(name))

    def require_model(self, names: Sequence[str]) -> None:
        """Raises ConfigError if `auto` resolves to the simulator without simulation being on."""
        if "auto" in names and not self.client.registry.simulating and self.client.resolve("auto").simulated:
            raise ConfigError(
                "No model is ready.",
                hint="Set OPENAI_API_KEY or another key, enter one with `%llm key openai`, or name a model: "
                "`%llm models` lists them.",
            )

    def _expand_model(self, name: str) -> Sequence[str]:
        value = self.namespace.get(name)
        value = [value] if isinstance(value, str) else value
        if (
            not isinstance(value, list | tuple)
            or not value
            or not all(isinstance(m, str) and m for m in value)
        ):
            return [name]
        try:
            self.client.resolve(name)
        except ConfigError:
            return value
        return [name]

    # --- the notebook ---

    @property
    def in_kernel(self) -> bool:
        """Whether the shell runs in a Jupyter kernel, not in a terminal."""
        return hasattr(self.shell, "kernel")

    @property
    def can_prompt_user(self) -> bool:
        """Whether a user can answer prompts: not under nbclient, papermill and nbval."""
        return (
            bool(self.shell.kernel._allow_stdin)
            if self.in_kernel
            else sys.stdin is not None and sys.stdin.isatty()
        )

    @property
    def prompt_variables(self) -> dict[str, Any]:
        """The variables that a prompt can use: without IPython's own (In, exit, quit ...)."""
        hidden = self.shell.user_ns_hidden
        return (
            {
                k: v
                for k, v in self.namespace.items()
                if not k.startswith("_") and not (k in hidden and hidden[k] is v)
            }
            | {k: v for k, v in self.namespace.items() if k in ("_", "_llm", "In", "Out")}
            | {name: value for name, value in self._extra_variables.items() if name not in self.namespace}
        )

    @property
    def _extra_variables(self) -> dict[str, Any]:
        """Names for prompts that are no variables: the notebook's transcript and the last error."""
        from .transcript import NotebookTranscript

        failed = {"Err": self.last_failure.error} if self.last_failure is not None else {}
        return {"notebook": NotebookTranscript.of(self.shell), **failed}

    def evaluate(self, expression: str, overrides: Mapping[str, Any] | None = None) -> Any:
        """Evaluates an expression of the user's cell in the notebook's namespace, with `overrides` on top."""
        self.mark_output()  # it may print
        names = {**self.shell.user_global_ns, **self.namespace, **(overrides or {})}
        if self.last_failure is not None:
            names.setdefault("Err", self.last_failure.error)
        return eval(expression, names)  # noqa: S307 - the user wrote it in their own cell

    def mark_drawn(self, value: Response | Comparison) -> None:
        """Records that the running cell has displayed `value`, so that it is not displayed again as the
        cell's result."""
        execution = self.shell.execution_count
        self.drawn_values = (
            execution,
            [*(self.drawn_values[1] if self.drawn_values[0] == execution else ()), value],
        )
        self.mark_output()

    def was_drawn(self, value: Response | Comparison) -> bool:
        """Whether the running cell has displayed `value`."""
        return self.drawn_values[0] == self.shell.execution_count and any(
            known is value for known in self.drawn_values[1]
        )

    def print_text(self, text: str) -> None:
        """Prints a text for the user, hidden characters made visible."""
        self.mark_output()
        print(plain_text(text))  # noqa: T201 - output of a magic

    def show_bundle(self, data: Mapping[str, str]) -> None:
        """Displays a MIME bundle; its text in a terminal."""
        self.mark_output()
        KernelPort(self.shell).publish(data)

    def provider(self, name: str) -> ProviderSpec:
        """The provider `name`. Raises ConfigError with the nearest name."""
        row = self.client.registry.row(name.strip())
        if row is None:
            raise self.client.registry.unknown_provider(name.strip())
        return row

    def prompt_for_key(self, prompt: str, row: ProviderSpec) -> str:
        """A key entered without echo. Raises ConfigError if no user can answer or nothing was entered."""
        from getpass import getpass

        typed = getpass(prompt).strip() if self.can_prompt_user else ""
        if not typed:
            raise ConfigError(
                f"No key was entered for {row.label}.",
                hint=f"Set {row.key_env[0] if row.key_env else 'its variable'} in the environment.",
            )
        return typed


def current_session() -> Session:
    """The session of the running shell, created if there is none. Raises ConfigError outside IPython."""
    from IPython import get_ipython

    shell = get_ipython()
    if shell is None:
        raise ConfigError("This needs IPython or a notebook.", hint="In a script use nbllm.complete.")
    return session_of(shell)


def existing_session(shell: Any) -> Session | None:
    """The session of `shell`, None if there is none."""
    session: Session | None = getattr(shell, _SESSION_ATTRIBUTE, None)
    return session


def session_of(shell: Any) -> Session:
    """The session of `shell`, created if there is none."""
    session = existing_session(shell)
    if session is None:
        session = Session(shell)
        setattr(shell, _SESSION_ATTRIBUTE, session)
    return session


def reset_session(shell: Any) -> None:
    """Replaces the session of `shell` by a new one that keeps the user's data: conversations, saved prompts,
    background runs."""
    old = session_of(shell)
    own = Session(shell, fragments=old.fragments, background_runs=old.background_runs)
    own._chats, own._chats_notebook = old._chats, old._chats_notebook
    setattr(shell, _SESSION_ATTRIBUTE, own)


def _supports_schemas(route: Route) -> bool:
    return all("schema" not in r.provider.quirks.cannot for r in (route, *route.fallbacks))


def _message_id(request: Mapping[str, Any]) -> str:
    return str(request.get("header", {}).get("msg_id", ""))
