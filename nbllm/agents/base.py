"""What headless command-line agents have in common: checking options, building the command, reading lines of
JSON and the exit, classifying errors in plain text. Pure.

A CLI is an agent, not a model: by default it gets no tools, an empty folder and no permissions. Its use of
tools becomes notices. What it sends again after a broken stream replaces what it had sent (Restarted).
"""

from __future__ import annotations

import json
import os
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from ..core import errors
from ..core.calls import Endpoint, Frame, ProcessCall, Secret, SessionTurn
from ..core.errors import ConfigError
from ..core.events import (
    Event,
    Finished,
    FinishReason,
    Notice,
    Restarted,
    Started,
    TextDelta,
    Usage,
    UsageReport,
)
from ..core.messages import Document, Image, Message, Request, Text, ToolCall, ToolResult, caption
from ..dialects._error_kinds import STATUSES, classify, error_codes
from ..dialects._errors import error_hint
from ..dialects._json import SurrogateJoiner, label, obj
from ..dialects._limits import wait_in_text
from .json_lines import ANSI, ObjectReader, parse_object

_UNSUPPORTED = (
    "max_tokens",
    "temperature",
    "top_p",
    "stop",
    "seed",
    "reasoning",
    "tool_choice",
    "schema",
    "tools",
)
_SEARCH_LIMIT = 20_000  # characters of a message that are searched for a status and the like
_MAX_RESTARTS = 100  # of one answer; CLIs give up after about ten
_STATUS_PATTERN = re.compile(
    r"(?:status|code|error|http|api)\W{0,12}(?:(?:code|error)\W{0,4})?(\d{3})\b", re.IGNORECASE
)
_LOGIN_PATTERN = re.compile(
    r"not logged in|/login|log ?in|authenticat|auth method|unauthori[sz]ed|api[ _]key|credential",
    re.IGNORECASE,
)


def check_options(request: Request, provider: Endpoint, supported: tuple[str, ...]) -> dict[str, Any]:
    """The CLI's own options, from `extra`. Raises ConfigError for options that are not `supported`, for those
    of requests that no CLI has, and for a model or value that a command could read as an option."""
    name = provider.label or provider.name
    unsupported = [n for n in _UNSUPPORTED if getattr(request, n) not in (None, ())]
    if unsupported:
        raise ConfigError(
            f"{name} does not support {unsupported[0]}.", hint="Leave it out, or use the provider's API."
        )
    unknown = [n for n in request.extra if n not in supported]
    if unknown:
        raise ConfigError(
            f"{name} has no option {unknown[0]!r}.",
            hint=f"It takes {', '.join('x.' + option for option in supported) or 'none'}.",
        )
    own = dict(request.extra)
    if own.get("cwd"):
        own["cwd"] = os.path.expanduser(str(own["cwd"]))
        if str(own.get("trust") or "").lower() in _OFF_VALUES:
            _check_folder(name, provider.dialect, own["cwd"])
    listed = {n: split_names(v) for n, v in own.items() if n not in ("cwd", "trust")}
    arguments = {"model": request.model.split("/"), **listed}
    for option, value in ((n, v) for n, values in arguments.items() for v in values):
        if value.startswith("-") or not value.isprintable() or (option == "model" and " " in value):
            raise ConfigError(
                f"{name} takes no {option} {value[:60]!r}: a command could read it as an option.",
                hint="Use a name that does not begin with a dash, without blanks and control characters.",
            )
    return own


# Files that these commands read in their working folder or above it: they may start programs (servers, hooks,
# plugins) or send a key elsewhere. claude and codex read no such files. Verified in tests/real/test_clis.py.
_PROJECT_FILES = {
    "cli_gemini": (".gemini", ".env"),
    "cli_copilot": (
        ".github/hooks",
        ".github/copilot",
        ".github/mcp.json",
        ".copilot",
        ".claude",
        ".mcp.json",
    ),
    "cli_opencode": (".opencode", "opencode.json", "opencode.jsonc"),
}


def _check_folder(name: str, dialect: str, cwd: str) -> None:
    """Raises ConfigError if a folder, which may be an untrusted project, has such files. Files in the user's
    home folder are trusted."""
    try:
        folder = Path(cwd).resolve(strict=True)
    except (OSError, ValueError):
        raise ConfigError(f"x.cwd={cwd[:80]!r} is not a folder.", hint="Use an existing folder.") from None
    for parent in (folder, *folder.parents):
        if parent == Path(os.path.expanduser("~")):
            return
        for found in (parent / n for n in _PROJECT_FILES.get(dialect, ()) if (parent / n).exists()):
            raise ConfigError(
                f"{name} would read {found}, which can start programs and send your key elsewhere.",
                hint="Check that file, then set x.trust=true; or leave x.cwd out.",
            )


def split_names(value: Any) -> list[str]:
    """The names in a list, or in one text with commas."""
    if isinstance(value, str):
        return [v.strip() for v in value.split(",")]
    return [str(v) for v in value] if isinstance(value, (list, tuple)) else [str(value)]


def system_and_prompt(request: Request, provider: Endpoint) -> tuple[str, str]:
    """(system, prompt). A conversation becomes a transcript in the prompt, since these CLIs take one prompt.

    Raises ConfigError for parts that are not text.
    """
    system = "\n\n".join(m.text for m in request.messages if m.role == "system")
    *earlier, last = [m for m in request.messages if m.role != "system"]
    if not earlier:
        return system, message_text(last, provider)
    labels = {"user": "User", "assistant": "Assistant", "tool": "Tool result"}
    transcript = "\n\n".join(f"{labels[m.role]}: {message_text(m, provider)}" for m in earlier)
    return (
        system,
        f"The conversation so far:\n\n{transcript}\n\nAnswer the user's last "
        f"message:\n\n{message_text(last, provider)}",
    )


def session_turn(request: Request, provider: Endpoint) -> SessionTurn:
    """The request as a turn: its last message, after the history of all others. Raises ConfigError for parts
    that are not text."""
    system, full_prompt = system_and_prompt(request, provider)
    *before, last = [(m.role, message_text(m, provider)) for m in request.messages if m.role != "system"]
    return SessionTurn((("model", request.model), ("system", system), *before), last, last[1], full_prompt)


def message_text(message: Message, provider: Endpoint) -> str:
    """A message as text, with tool calls and results as text, without thinking. Raises ConfigError for
    pictures and documents of the user."""
    out = []
    for part in message.parts:
        if isinstance(part, Text):
            out.append(part.text)
        elif isinstance(part, ToolCall):
            out.append(f"[called {part.name}({part.arguments_raw})]")
        elif isinstance(part, ToolResult):
            out.append(
                part.content
                if isinstance(part.content, str)
                else " ".join(getattr(p, "text", "[picture]") for p in part.content)
            )
        elif isinstance(part, (Image, Document)) and message.role == "assistant":
            out.append(caption(part))
        elif type(part).__name__ != "Reasoning":
            raise ConfigError(
                f"{provider.label or provider.name} takes text only, no {type(part).__name__.lower()}.",
                hint="Use the provider's API.",
            )
    return "\n".join(out)


def build_process_call(
    provider: Endpoint, args: list[str], prompt: str, key: Secret | None, **more: Any
) -> ProcessCall:
    """The command of the row with its arguments. The key goes into the first of the row's key variables,
    never into an argument. Variables without the user's consent are not passed on."""
    env = dict(more.pop("env", {}))
    if key is not None and provider.key_env:
        env[provider.key_env[0]] = key.reveal()
    more.setdefault("passthrough_env", allowed_passthrough(provider))
    return ProcessCall((*provider.command, *args), prompt, env, **more)


def allowed_passthrough(provider: Endpoint) -> tuple[str, ...]:
    """The environment variables that the row's command may see: those that do not wait for the user's
    consent."""
    mine = tuple(n for n in provider.passthrough_env if n not in provider.pending_consent)
    clouds = _CLOUDS if provider.dialect == "cli_claude" else ()  # even if a row does not list the switch
    switches = [s for names, own in clouds if any(map(names.fullmatch, mine)) for s in own]
    return tuple(dict.fromkeys((*mine, *switches)))


# For each cloud: its variables, which are passed on only if one of its switches is on.
_CLOUDS = (
    (re.compile(r"AWS_\w+|ANTHROPIC_BEDROCK_\w+"), ("CLAUDE_CODE_USE_BEDROCK", "CLAUDE_CODE_USE_MANTLE")),
    (
        re.compile(
            r"GOOGLE_(?:APPLICATION|CLOUD)_\w+|GCLOUD_\w+|CLOUDSDK_\w+|CLOUD_ML_\w+|ANTHROPIC_VERTEX_\w+"
        ),
        ("CLAUDE_CODE_USE_VERTEX",),
    ),
    (re.compile(r"AZURE_\w+|ANTHROPIC_FOUNDRY_\w+"), ("CLAUDE_CODE_USE_FOUNDRY",)),
)
_OFF_VALUES = frozenset({"", "0", "false", "no", "off"})


def enabled_passthrough(passthrough_env: Sequence[str], env: Mapping[str, str]) -> list[str]:
    """A row's variables, without those of clouds for which the row has a switch that is off."""
    off = [
        names
        for names, switches in _CLOUDS
        if any(s in passthrough_env for s in switches)
        and all(env.get(s, "").strip().lower() in _OFF_VALUES for s in switches)
    ]
    return [n for n in passthrough_env if not any(names.fullmatch(n) for names in off)]


# bytes of one argument or variable: at most 128 KiB on Linux, 32 KiB for all on Windows
_MAX_ARGUMENT = 24_000 if sys.platform == "win32" else 120_000


def fit_system_prompt(system: str, prompt: str) -> tuple[str, str]:
    """(system, prompt) for a command that takes the system prompt as JSON in an argument or a variable: one
    that is too long is put before the prompt, which goes through standard input."""
    return (system, prompt) if len(json.dumps(system)) <= _MAX_ARGUMENT else ("", f"{system}\n\n{prompt}")


def error_text(error: Any) -> str:
    """The message of a CLI's error: a text, or an object with a message (perhaps with data) or a name."""
    outer, data = obj(error), obj(obj(error).get("data"))
    more = as_text(outer.get("data")) or as_text(data.get("message")) or as_text(data.get("details"))
    message = ": ".join(filter(None, (as_text(outer.get("message")), more)))
    return as_text(error) or message or as_text(outer.get("name"))


def agent_error(code: int | None, error: Any, provider: Endpoint, body: Any = None) -> errors.ProviderError:
    """The error for a CLI's error (see error_text), classified by its HTTP status, else by the status in its
    message. The message may contain a provider's answer as JSON."""
    name, message = provider.label or provider.name, error_text(error).strip()[:_SEARCH_LIMIT]
    inner = obj(parse_object(message[message.find("{") : message.rfind("}") + 1]).get("error"))
    if inner_message := as_text(inner.get("message")):
        inner_code = as_text(inner.get("code"))
        message = f"error {inner_code}: {inner_message}" if inner_code else inner_message
    code = code or as_status(obj(obj(error).get("data")).get("statusCode"))
    if code is None:
        found = _STATUS_PATTERN.search(message)
        code = int(found[1]) if found and int(found[1]) in STATUSES else None
    kind = classify(code, message, [w for source in (inner, error, body) for w in error_codes(source)])
    wait, hint = wait_in_text(message, datetime.now(UTC).timestamp()), "Run the command by hand to see more."
    if (
        kind is errors.AuthenticationError
        or code == 403
        or (kind is errors.ProviderError and _LOGIN_PATTERN.search(message))
    ):
        kind, hint = (
            errors.AuthenticationError,
            f"Log in with the command itself ({provider.command[0] if provider.command else name}), or set "
            f"{' or '.join(provider.key_env) or 'its key'}.",
        )
    elif kind is errors.NotFound:
        hint = "Check the model's name."
    elif wait is None and kind is errors.RateLimited and "reset" in message.lower():
        hint = "Try again when the limit is reset, or choose another model."
    elif kind is not errors.ProviderError:
        hint = error_hint(kind, name, wait)
    shown = message[:600] or "it failed without a message"
    return kind(f"{name}: {shown}", status=code, body=body, hint=hint, retry_after=wait)


_REFUSAL_PATTERN = re.compile(
    r"(?:unknown|unexpected|unrecogni[sz]ed|invalid|no such|too many|bad) (?:long |short )?"
    r"(?:option|argument|flag|command|switch|value|choice|parameter)|"
    r"is not an? (?:known|valid) (?:option|argument)|"
    r"(?:option|argument|flag)\S* (?:\S+ )?(?:is (?:invalid|unknown|not)|missing|requires|cannot)|"
    r"did you mean -|--help\b|^\s*usage:|show help",
    re.IGNORECASE | re.MULTILINE,
)
_ERROR_WORD = re.compile(r"error|unknown|unexpected|unrecogni|invalid|no such", re.IGNORECASE)


def find_cause(stderr: str, provider: Endpoint) -> tuple[str, errors.ProviderError | None]:
    """(text, error) for the cause of a failure in standard error: the last line of a known error and that
    error, else the end of standard error and None."""
    lines = [" ".join(line.split()) for line in stderr[-_SEARCH_LIMIT:].split("\n")]
    for line in reversed([line for line in lines if len(line) > _MIN_LINE and not line.startswith("at ")]):
        error = agent_error(None, line[:400], provider)
        if type(error) is not errors.ProviderError:
            return line[:400], error
    return " ".join(" ".join(lines).split())[-400:], None


_MIN_LINE = 15  # characters of a cause: a line such as `status: 429` follows one with the message


def timeout_error(timeout: errors.Timeout, stderr: str, provider: Endpoint) -> errors.NbllmError:
    """The error for a time limit that was exceeded while the command wrote errors to standard error: the
    error there if it is known. It is not retryable, because the command itself has retried."""
    cause, error = find_cause(ANSI.sub("", stderr), provider)
    if not cause:
        return timeout
    message = f"{timeout.message.rstrip('.')}; on standard error it says: {cause}"
    if error is None:
        timeout.message, timeout.args = message, (message,)
        return timeout
    error.message, error.args, error.retryable = message, (message,), False
    error.__cause__ = timeout
    return error


def _argument_refusal(rc: Any, stderr: str) -> str:
    """A command's message about invalid arguments; "" if it did not fail for that reason."""
    if rc in (0, None) or not _REFUSAL_PATTERN.search(stderr):
        return ""
    lines = [" ".join(line.split()) for line in stderr.split("\n") if line.strip()]
    return next((line for line in lines if _ERROR_WORD.search(line)), lines[0])[:400]


class AgentDecoder:
    """Base class of decoders for agents: reads the lines of one run or turn. A subclass implements `_handle`
    for each object, and `_at_exit` for the exit of the process."""

    non_streaming = False  # whether text comes in complete messages, so there is no time to first token

    def __init__(self, provider: Endpoint) -> None:
        self.provider = provider
        self.done = False
        self._finished: Finished | None = None
        self._exit: dict[str, Any] = {}
        self._messages: list[str] = []  # texts of complete messages
        self._pieces: list[str] = []  # of the current message
        self._part_start = 0  # index of the first piece that was not compared with the complete text
        self._joiner, self._restarts = SurrogateJoiner(), 0
        self._objects = ObjectReader()
        self._unreadable: list[str] = []  # lines that are not JSON
        self._tools: dict[str, tuple[str, Any]] = {}  # running tools: name and arguments by id
        self._ended_tools: set[str] = set()  # ids of tools whose end was emitted

    def feed(self, frame: Frame) -> Iterator[Event]:
        """The events of a line, or of the exit."""
        if frame.name == "exit":
            self._exit = parse_object(frame.data)
            yield from self._emit_unreadable(self._objects.take_unfinished())
            yield from self._at_exit()
            self.done = True
            return
        values, texts = self._objects.read(frame.data)
        for value in values:
            yield from self._handle(value)
        yield from self._emit_unreadable(texts)

    def _handle(self, value: dict[str, Any]) -> Iterator[Event]:
        raise NotImplementedError

    def _emit_unreadable(self, lines: list[str]) -> Iterator[Event]:
        """Notices for lines that are not JSON: banners, warnings, incomplete objects."""
        for line in lines:
            if len(self._unreadable) < _MAX_UNREADABLE:
                self._unreadable.append(line[:_EXCERPT])
                yield Notice("unknown", line[:_EXCERPT], {"characters": len(line)})

    def _at_exit(self) -> Iterator[Event]:
        yield from ()

    @property
    def ended(self) -> bool:
        """Whether the terminal event has come: nobody waits for a command that does not exit after it."""
        return self._finished is not None

    def close(self) -> Iterator[Event]:
        """The Finished event. Raises StreamCut with the end of standard error if no terminal event came."""
        if self._finished is None:
            raise self._cut_error()
        yield self._finished

    def _cut_error(self) -> errors.NbllmError:
        name, rc = self.provider.label or self.provider.name, self._exit.get("rc")
        stderr, empty = as_text(self._exit.get("stderr")), not (self._messages or self._pieces)
        output = stderr if stderr.strip() else "\n".join(self._unreadable)
        if empty and (refusal := _argument_refusal(rc, output)):
            return errors.BadRequest(
                f"{name} does not accept its arguments: {refusal}",
                hint="Update the command (it may be older or newer than what nbllm knows), or leave its own "
                "options out.",
            )
        cause, error = find_cause(output, self.provider)
        if error is not None and empty:
            return error
        ended = f"ended (exit code {rc})" if rc is not None else "ended"
        return errors.StreamCut(
            f"{name} {ended} before its answer was complete{': ' + cause if cause else ''}.",
            hint="Run the command by hand to see more; the partial answer is kept.",
        )

    # --- for subclasses ---

    def _emit_text(self, text: str) -> Iterator[Event]:
        text = self._joiner.join("", text) if text else ""
        if text:
            self._pieces.append(text)
            yield TextDelta(text)

    def _emit_paragraph(self, text: str) -> Iterator[Event]:
        """The event for the beginning of a message, which is a new paragraph if it follows another."""
        yield from self._emit_text(("\n\n" if self._messages else "") + text)

    def _end_message(self) -> None:
        if self._pieces:
            self._messages.append("".join(self._pieces))
            self._last_pieces, self._pieces, self._part_start = (
                self._pieces[self._part_start :] or self._pieces,
                [],
                0,
            )

    _last_pieces: Sequence[str] = ()  # the pieces of the last message, or of its last part

    def _complete_part(self, full: str) -> Iterator[Event]:
        """Emits what is missing of the current part, whose complete text the CLI has sent."""
        pieces, before = self._pieces[self._part_start :], self._pieces[: self._part_start]
        full, shown = SurrogateJoiner().join("", full) if full else "", "".join(pieces)
        if full.strip() and full.strip() not in shown:
            if full.startswith(shown):
                yield from self._emit_text(full[len(shown) :])
            elif _in_order(pieces, full):
                yield Restarted("Some of the CLI's lines were lost; its final record is complete.")
                yield from (TextDelta(t) for t in ("".join((*self._messages, *before)),) if t)
                self._pieces = before
                yield from self._emit_text(full)
            else:
                yield from self._emit_text("\n\n" + full)
            if shown:
                yield Notice(
                    "warning", f"{self.provider.label} sent its answer incompletely; it was completed."
                )
        self._part_start = len(self._pieces)

    def _check_result_text(self, full: str) -> Iterator[Event]:
        """Compares the last message with the answer in the terminal event; emits what is missing."""
        if not full.strip() or (self._messages and not self._pieces and full.strip() in self._messages[-1]):
            return
        if not self._pieces and self._messages and _in_order(self._last_pieces, full):
            before = self._messages.pop().removesuffix("".join(self._last_pieces))
            self._pieces = [*([before] if before else ()), *self._last_pieces]
            self._part_start = 1 if before else 0
        elif not self._pieces and self._messages:
            full = "\n\n" + full
        yield from self._complete_part(full)
        self._end_message()

    def _restart(self, why: str = "The CLI retried after a broken stream.") -> Iterator[Event]:
        """Discards the pieces of the current message; complete messages stay. Raises ProtocolError for too
        many restarts."""
        if self._pieces:
            self._pieces, self._part_start, self._restarts = [], 0, self._restarts + 1
            if self._restarts > _MAX_RESTARTS:
                raise errors.ProtocolError(
                    f"{self.provider.label or self.provider.name} restarted its answer more than "
                    f"{_MAX_RESTARTS} times.",
                    hint="Run the command by hand to see more; the partial answer is kept.",
                )
            yield Restarted(why)
            if self._messages:
                yield TextDelta("".join(self._messages))

    def _emit_started(self, session: Any, model: Any) -> Iterator[Event]:
        yield Started(
            session if isinstance(session, str) else None, model if isinstance(model, str) else None
        )
        if isinstance(session, str):
            yield Notice("session", data={"session_id": session})

    def _emit_tool(self, ident: str, name: Any, arguments: Any, **more: Any) -> Iterator[Event]:
        """The notice that the agent uses a tool, once for each id."""
        if ident and (ident in self._tools or ident in self._ended_tools):
            return
        self._tools[ident] = (name := as_text(name) or "tool", arguments)
        yield Notice("server_tool", name, {"id": ident, "name": name, "arguments": arguments, **more})

    def _emit_tool_end(
        self, ident: str, result: Any, outcome: str, name: Any = None, arguments: Any = None
    ) -> Iterator[Event]:
        """The notice for the end of a tool: outcome "ran", "failed" or "refused", with its result or the
        reason. `name` and `arguments` are for a tool whose beginning was not emitted."""
        if ident and ident in self._ended_tools:
            return
        self._ended_tools.add(ident)
        name, arguments = self._tools.pop(ident, (as_text(name) or "tool", arguments))
        data = {"id": ident, "name": name, "arguments": arguments, "result": result, "outcome": outcome}
        yield Notice("server_tool", name, data)
        if outcome == "refused":
            label = self.provider.label or self.provider.name
            why = " ".join(as_text(result).split())[:_EXCERPT]
            yield Notice("warning", f"{label} was not allowed to use {name}{': ' + why if why else ''}", data)

    def _set_finished(self, reason: FinishReason, raw: str | None = None) -> None:
        self._finished = Finished(reason, raw)


_MAX_UNREADABLE, _EXCERPT = 20, 400  # of lines that are not JSON: how many are shown, and characters of each


def _in_order(pieces: Sequence[str], text: str) -> bool:
    """Whether a text contains all of these pieces, one after the other."""
    at = 0
    for piece in pieces:
        found = text.find(piece, at)
        if found < 0:
            return False
        at = found + len(piece)
    return True


def tool_outcome(*, failed: bool, denied: bool) -> str:
    """The outcome of a tool as a word."""
    return "refused" if denied else "failed" if failed else "ran"


def result_content(value: Any) -> Any:
    """The text of a tool's result that is a text or a list of blocks; any other result as it is."""
    if isinstance(value, list) and value and all(isinstance(b, dict) for b in value):
        texts = [as_text(b.get("text")) or as_text(obj(b.get("content")).get("text")) for b in value]
        return "\n".join(texts) if all(texts) else value
    return value


# --- lenient reading: a value of a wrong type counts as missing ---


def as_text(value: Any) -> str:
    """A string or number as text, "" for all else."""
    return label(value) or ""


def add_counts(first: int | None, *more: int | None) -> int | None:
    """A count plus those that it does not include; None if the count itself is unknown."""
    return None if first is None else first + sum(n or 0 for n in more)


def as_number(value: Any) -> float | None:
    """A finite number as float, None for all else."""
    return (
        float(value)
        if isinstance(value, (int, float)) and not isinstance(value, bool) and -1e15 < value < 1e15
        else None
    )


def as_status(value: Any) -> int | None:
    """An HTTP status, None for all else."""
    return value if isinstance(value, int) and not isinstance(value, bool) and 100 <= value < 600 else None


def usage_report(
    input_tokens: int | None,
    output_tokens: int | None,
    raw: Mapping[str, Any],
    *,
    final: bool = True,
    **more: int | None,
) -> UsageReport:
    """A usage report, with None, never 0, for what the CLI did not report."""
    if not input_tokens:  # every request has input: CLIs write 0 if they counted nothing
        input_tokens, output_tokens = None, output_tokens or None
        more = {k: v or None for k, v in more.items()}
    return UsageReport(Usage(input_tokens, output_tokens, raw=raw, **more), final)
