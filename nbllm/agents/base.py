"""What the machine-readable outputs of headless CLIs have in common: lines of JSON, an exit, errors told in
words. Pure.

A CLI is an agent, not a model: by default it gets no tools, an empty folder and no permissions. What it does
with tools is carried over as notices. What it sends again after a broken stream replaces what it had sent
(Restarted).
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
_SEARCH_LIMIT = 20_000  # characters of a message in which a status and the like are looked for
_MAX_RESTARTS = 100  # times that a CLI may begin its answer again; they give up after some ten
_STATUS_PATTERN = re.compile(
    r"(?:status|code|error|http|api)\W{0,12}(?:(?:code|error)\W{0,4})?(\d{3})\b", re.IGNORECASE
)
_LOGIN_PATTERN = re.compile(
    r"not logged in|/login|log ?in|authenticat|auth method|unauthori[sz]ed|api[ _]key|credential",
    re.IGNORECASE,
)


def check_options(request: Request, provider: Endpoint, can: tuple[str, ...]) -> dict[str, Any]:
    """The CLI's own options in `extra`. Raises ConfigError for what this one cannot do, for what no CLI can,
    and for a model or a value that a command could read as an option of its own."""
    name = provider.label or provider.name
    asked = [n for n in _UNSUPPORTED if getattr(request, n) not in (None, ())]
    if asked:
        raise ConfigError(
            f"{name} has no word for {asked[0]}.", hint="Leave it out, or ask the provider's API."
        )
    unknown = [n for n in request.extra if n not in can]
    if unknown:
        raise ConfigError(
            f"{name} has no option {unknown[0]!r}.",
            hint=f"It takes {', '.join('x.' + c for c in can) or 'none'}.",
        )
    own = dict(request.extra)
    if own.get("cwd"):
        own["cwd"] = os.path.expanduser(str(own["cwd"]))
        if str(own.get("trust") or "").lower() in _OFF_VALUES:
            _check_folder(name, provider.dialect, own["cwd"])
    named = {n: split_names(v) for n, v in own.items() if n not in ("cwd", "trust")}
    words = {"model": request.model.split("/"), **named}
    for what, word in ((n, w) for n, values in words.items() for w in values):
        if word.startswith("-") or not word.isprintable() or (what == "model" and " " in word):
            raise ConfigError(
                f"{name} takes no {what} {word[:60]!r}: a command could read it as an option.",
                hint="Give a name that does not begin with a dash, without blanks and control characters.",
            )
    return own


# What these commands read in the folder they work in, or above it: it may start programs (servers, hooks,
# plugins) or send a key elsewhere. claude and codex read nothing there. Tried in tests/real/test_clis.py.
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
    """Raises ConfigError where a folder, which may be somebody else's project, has such files. What stands in
    the user's home is theirs."""
    try:
        folder = Path(cwd).resolve(strict=True)
    except (OSError, ValueError):
        raise ConfigError(f"x.cwd={cwd[:80]!r} is no folder.", hint="Name one that is there.") from None
    for place in (folder, *folder.parents):
        if place == Path(os.path.expanduser("~")):
            return
        for found in (place / n for n in _PROJECT_FILES.get(dialect, ()) if (place / n).exists()):
            raise ConfigError(
                f"{name} would read {found}, which can start programs and send your key elsewhere.",
                hint="Look at it, then say x.trust=true; or leave x.cwd out.",
            )


def split_names(value: Any) -> list[str]:
    """The words of a list, which may be written as one text with commas."""
    if isinstance(value, str):
        return [v.strip() for v in value.split(",")]
    return [str(v) for v in value] if isinstance(value, (list, tuple)) else [str(value)]


def system_and_prompt(request: Request, provider: Endpoint) -> tuple[str, str]:
    """(system, prompt). A conversation becomes a transcript in the prompt, since these CLIs take one prompt.

    Raises ConfigError for parts that are no text.
    """
    system = "\n\n".join(m.text for m in request.messages if m.role == "system")
    said = [m for m in request.messages if m.role != "system"]
    if len(said) == 1:
        return system, message_text(said[0], provider)
    who = {"user": "User", "assistant": "Assistant", "tool": "Tool result"}
    told = "\n\n".join(f"{who[m.role]}: {message_text(m, provider)}" for m in said[:-1])
    return (
        system,
        f"The conversation so far:\n\n{told}\n\nAnswer the user's last "
        f"message:\n\n{message_text(said[-1], provider)}",
    )


def session_turn(request: Request, provider: Endpoint) -> SessionTurn:
    """The request's last message as a turn after all others. Raises ConfigError for parts that are no
    text."""
    system, retold = system_and_prompt(request, provider)
    *before, last = [(m.role, message_text(m, provider)) for m in request.messages if m.role != "system"]
    return SessionTurn((("model", request.model), ("system", system), *before), last, last[1], retold)


def message_text(message: Message, provider: Endpoint) -> str:
    """A message as text: tool calls and results told, thinking left out. Raises ConfigError for pictures and
    documents."""
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
                hint="Ask the provider's API.",
            )
    return "\n".join(out)


def build_process_call(
    provider: Endpoint, words: list[str], prompt: str, key: Secret | None, **more: Any
) -> ProcessCall:
    """The command of the row with its words; the key goes into the first of the row's variables, never into a
    word. What waits for the user's consent is not passed on."""
    env = dict(more.pop("env", {}))
    if key is not None and provider.key_env:
        env[provider.key_env[0]] = key.reveal()
    more.setdefault("passthrough_env", allowed_passthrough(provider))
    return ProcessCall((*provider.command, *words), prompt, env, **more)


def allowed_passthrough(provider: Endpoint) -> tuple[str, ...]:
    """The variables that the row's command may see: none that waits for the user's consent."""
    mine = tuple(n for n in provider.passthrough_env if n not in provider.pending_consent)
    clouds = _CLOUDS if provider.dialect == "cli_claude" else ()  # also where a row leaves the switch out
    switches = [s for names, own in clouds if any(map(names.fullmatch, mine)) for s in own]
    return tuple(dict.fromkeys((*mine, *switches)))


# What only a cloud's customers need goes along where the cloud is switched on.
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
    """The variables out of a row's that are of use: those of a cloud for which the row has a switch, where it
    is on."""
    off = [
        names
        for names, switches in _CLOUDS
        if any(s in passthrough_env for s in switches)
        and all(env.get(s, "").strip().lower() in _OFF_VALUES for s in switches)
    ]
    return [n for n in passthrough_env if not any(names.fullmatch(n) for names in off)]


# bytes that a word of a command, or a variable, may hold: 128 KiB on Linux, 32 KiB in all on Windows
_MAX_ARGUMENT = 24_000 if sys.platform == "win32" else 120_000


def fit_system_prompt(system: str, prompt: str) -> tuple[str, str]:
    """The system prompt and the prompt of a command that is told the former, as JSON, in one of its words or
    variables: a long one stands before the prompt, which comes through standard input."""
    return (system, prompt) if len(json.dumps(system)) <= _MAX_ARGUMENT else ("", f"{system}\n\n{prompt}")


def error_text(error: Any) -> str:
    """The words of an error as CLIs tell it: a text, or an object that has a message, perhaps with data, or a
    name."""
    outer, data = obj(error), obj(obj(error).get("data"))
    more = as_text(outer.get("data")) or as_text(data.get("message")) or as_text(data.get("details"))
    words = ": ".join(filter(None, (as_text(outer.get("message")), more)))
    return as_text(error) or words or as_text(outer.get("name"))


def agent_error(code: int | None, error: Any, provider: Endpoint, body: Any = None) -> errors.ProviderError:
    """The error that a CLI tells (see said), by its HTTP status, else by that in its words. What a provider
    answered may stand in them as JSON."""
    name, message = provider.label or provider.name, error_text(error).strip()[:_SEARCH_LIMIT]
    inner = obj(parse_object(message[message.find("{") : message.rfind("}") + 1]).get("error"))
    if words := as_text(inner.get("message")):
        message = f"error {told}: {words}" if (told := as_text(inner.get("code"))) else words
    code = code or as_status(obj(obj(error).get("data")).get("statusCode"))
    if code is None:
        found = _STATUS_PATTERN.search(message)
        code = int(found[1]) if found and int(found[1]) in STATUSES else None
    kind = classify(code, message, [w for told in (inner, error, body) for w in error_codes(told)])
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
        hint = "Ask again when the limit is reset, or choose another model."
    elif kind is not errors.ProviderError:
        hint = error_hint(kind, name, wait)
    told = f"{name}: {message[:600] or 'it failed without a word'}"
    return kind(told, status=code, body=body, hint=hint, retry_after=wait)


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
    """What a command says on standard error of why it does not answer: its last line that names a cause, and
    the error that this is (None for none that is known), else its end."""
    lines = [" ".join(line.split()) for line in stderr[-_SEARCH_LIMIT:].split("\n")]
    for line in reversed([line for line in lines if len(line) > _MIN_LINE and not line.startswith("at ")]):
        error = agent_error(None, line[:400], provider)
        if type(error) is not errors.ProviderError:
            return line[:400], error
    return " ".join(" ".join(lines).split())[-400:], None


_MIN_LINE = 15  # characters: `status: 429` stands under a line that says more


def timeout_error(which: errors.Timeout, stderr: str, provider: Endpoint) -> errors.NbllmError:
    """A time limit that ran out while the command told its troubles on standard error: the error that they
    are, where they are known. The command itself has asked again meanwhile, so nobody else does."""
    said, error = find_cause(ANSI.sub("", stderr), provider)
    if not said:
        return which
    words = f"{which.message.rstrip('.')}; on standard error it says: {said}"
    if error is None:
        which.message, which.args = words, (words,)
        return which
    error.message, error.args, error.retryable = words, (words,), False
    error.__cause__ = which
    return error


def _argument_refusal(rc: Any, stderr: str) -> str:
    """What a command says of arguments that it does not take; "" where it was no refusal."""
    if rc in (0, None) or not _REFUSAL_PATTERN.search(stderr):
        return ""
    lines = [" ".join(line.split()) for line in stderr.split("\n") if line.strip()]
    return next((line for line in lines if _ERROR_WORD.search(line)), lines[0])[:400]


class AgentDecoder:
    """Reads the lines of one run. A subclass has `_line`; `_at_exit` is asked at the exit, where no terminal
    event came before."""

    non_streaming = False  # whether text comes in complete messages, so there is no time to first token

    def __init__(self, provider: Endpoint) -> None:
        self.provider = provider
        self.done = False
        self._finished: Finished | None = None
        self._exit: dict[str, Any] = {}
        self._messages: list[str] = []  # text of messages that are complete
        self._pieces: list[str] = []  # text of the one that comes
        self._part_start = (
            0  # where in it the part begins that was not compared with what the CLI says it holds
        )
        self._joiner, self._restarts = SurrogateJoiner(), 0
        self._objects = ObjectReader()
        self._unreadable: list[str] = []  # lines that are no JSON
        self._tools: dict[str, tuple[str, Any]] = {}  # tools at work: name and arguments by their id
        self._ended_tools: set[str] = set()  # and those of which the end was told

    def feed(self, frame: Frame) -> Iterator[Event]:
        """The events of a line; of the exit, what is left to say."""
        if frame.name == "exit":
            self._exit = parse_object(frame.data)
            yield from self._emit_unreadable(self._objects.take_unfinished())
            yield from self._at_exit()
            self.done = True
            return
        values, words = self._objects.read(frame.data)
        for value in values:
            yield from self._handle(value)
        yield from self._emit_unreadable(words)

    def _handle(self, value: dict[str, Any]) -> Iterator[Event]:
        raise NotImplementedError

    def _emit_unreadable(self, lines: list[str]) -> Iterator[Event]:
        """Lines that cannot be read: banners, warnings, what was torn and never came together."""
        for line in lines:
            if len(self._unreadable) < _MAX_UNREADABLE:
                self._unreadable.append(line[:_EXCERPT])
                yield Notice("unknown", line[:_EXCERPT], {"characters": len(line)})

    def _at_exit(self) -> Iterator[Event]:
        yield from ()

    @property
    def ended(self) -> bool:
        """Whether a terminal event came: a command that does not exit after it is not waited for."""
        return self._finished is not None

    def close(self) -> Iterator[Event]:
        """The end. Raises StreamCut with the last words of standard error where no terminal event came."""
        if self._finished is None:
            raise self._cut_error()
        yield self._finished

    def _cut_error(self) -> errors.NbllmError:
        name, rc = self.provider.label or self.provider.name, self._exit.get("rc")
        stderr, empty = as_text(self._exit.get("stderr")), not (self._messages or self._pieces)
        told = stderr if stderr.strip() else "\n".join(self._unreadable)
        if empty and (no := _argument_refusal(rc, told)):
            return errors.BadRequest(
                f"{name} refuses how it was called: {no}",
                hint="Update the command (it may be older or newer than what nbllm knows), or leave its own "
                "options out.",
            )
        said, error = find_cause(told, self.provider)
        if error is not None and empty:
            return error
        ended = f"ended (exit code {rc})" if rc is not None else "ended"
        return errors.StreamCut(
            f"{name} {ended} before its answer was complete{': ' + said if said else ''}.",
            hint="Run the command by hand to see more; the partial answer is kept.",
        )

    # --- what subclasses say ---

    def _emit_text(self, words: str) -> Iterator[Event]:
        words = self._joiner.join("", words) if words else ""
        if words:
            self._pieces.append(words)
            yield TextDelta(words)

    def _emit_paragraph(self, words: str) -> Iterator[Event]:
        """A whole message; one that follows another begins a paragraph."""
        yield from self._emit_text(("\n\n" if self._messages else "") + words)

    def _end_message(self) -> None:
        if self._pieces:
            self._messages.append("".join(self._pieces))
            self._last_pieces, self._pieces, self._part_start = (
                self._pieces[self._part_start :] or self._pieces,
                [],
                0,
            )

    _last_pieces: Sequence[str] = ()  # the pieces of the last message, or of its last part

    def _complete_part(self, told: str) -> Iterator[Event]:
        """The part under way is what the CLI says it is: what is missing of it is shown."""
        pieces, before = self._pieces[self._part_start :], self._pieces[: self._part_start]
        told, shown = SurrogateJoiner().join("", told) if told else "", "".join(pieces)
        if told.strip() and told.strip() not in shown:
            if told.startswith(shown):
                yield from self._emit_text(told[len(shown) :])
            elif _in_order(pieces, told):
                yield Restarted("Some of the CLI's lines were lost; its own record has the whole.")
                yield from (TextDelta(t) for t in ("".join((*self._messages, *before)),) if t)
                self._pieces = before
                yield from self._emit_text(told)
            else:
                yield from self._emit_text("\n\n" + told)
            if shown:
                yield Notice(
                    "warning", f"{self.provider.label} told its answer incompletely; it was completed."
                )
        self._part_start = len(self._pieces)

    def _check_result_text(self, told: str) -> Iterator[Event]:
        """What the terminal event holds as the answer, compared with the last message."""
        if not told.strip() or (self._messages and not self._pieces and told.strip() in self._messages[-1]):
            return
        if not self._pieces and self._messages and _in_order(self._last_pieces, told):
            before = self._messages.pop().removesuffix("".join(self._last_pieces))
            self._pieces = [*([before] if before else ()), *self._last_pieces]
            self._part_start = 1 if before else 0
        elif not self._pieces and self._messages:
            told = "\n\n" + told
        yield from self._complete_part(told)
        self._end_message()

    def _restart(self, why: str) -> Iterator[Event]:
        """What came of the message under way is void; what was complete stands. Raises ProtocolError for one
        that never ends to begin."""
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
        """A tool that the agent uses, told once: its name and its arguments."""
        if ident and (ident in self._tools or ident in self._ended_tools):
            return
        self._tools[ident] = (name := as_text(name) or "tool", arguments)
        yield Notice("server_tool", name, {"id": ident, "name": name, "arguments": arguments, **more})

    def _emit_tool_end(
        self, ident: str, result: Any, outcome: str, name: Any = None, arguments: Any = None
    ) -> Iterator[Event]:
        """What a tool came to: "ran", "failed" or "refused", with its result or the reason. `name` and
        `arguments` are those of one whose beginning was not told."""
        if ident and ident in self._ended_tools:
            return
        self._ended_tools.add(ident)
        known, given = self._tools.pop(ident, (as_text(name) or "tool", arguments))
        data = {"id": ident, "name": known, "arguments": given, "result": result, "outcome": outcome}
        yield Notice("server_tool", known, data)
        if outcome == "refused":
            label = self.provider.label or self.provider.name
            why = " ".join(as_text(result).split())[:_EXCERPT]
            yield Notice(
                "warning", f"{label} was not allowed to use {known}{': ' + why if why else ''}", data
            )

    def _set_finished(self, reason: FinishReason, raw: str | None = None) -> None:
        self._finished = Finished(reason, raw)


_MAX_UNREADABLE, _EXCERPT = 20, 400  # lines that are no JSON: how many are told, and how much of each


def _in_order(pieces: Sequence[str], whole: str) -> bool:
    """Whether a text holds all of these pieces, one after the other."""
    at = 0
    for piece in pieces:
        found = whole.find(piece, at)
        if found < 0:
            return False
        at = found + len(piece)
    return True


def tool_outcome(*, failed: bool, denied: bool) -> str:
    """The word for what a tool came to."""
    return "refused" if denied else "failed" if failed else "ran"


def result_content(value: Any) -> Any:
    """The text of a result that is a text or a list of blocks; what is neither, as it is."""
    if isinstance(value, list) and value and all(isinstance(b, dict) for b in value):
        texts = [as_text(b.get("text")) or as_text(obj(b.get("content")).get("text")) for b in value]
        return "\n".join(texts) if all(texts) else value
    return value


# --- reading what may be odd: a wrong type is as good as nothing ---


def as_text(value: Any) -> str:
    """A text or a number as text, "" for all else."""
    return label(value) or ""


def add_counts(first: int | None, *more: int | None) -> int | None:
    """A count with its parts that are told apart from it; None where the count itself is not known."""
    return None if first is None else first + sum(n or 0 for n in more)


def as_number(value: Any) -> float | None:
    """A number that can be reckoned with, None for all else."""
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
    """Usage in our meaning; None, never 0, for what the CLI did not tell."""
    if not input_tokens:  # every request has some: a 0 is written where nothing was counted
        input_tokens, output_tokens = None, output_tokens or None
        more = {k: v or None for k, v in more.items()}
    return UsageReport(Usage(input_tokens, output_tokens, raw=raw, **more), final)
