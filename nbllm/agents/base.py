"""What the machine-readable outputs of headless CLIs have in common: lines of JSON, an exit, errors told in
words. Pure.

A CLI is an agent, not a model: by default it gets no tools, an empty folder and no permissions. What it does
with tools is carried over as notices. What it sends again after a broken stream replaces what it had sent
(Restarted).
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from typing import Any

from ..core import errors
from ..core.calls import Endpoint, Frame, ProcessCall, Secret, Turn
from ..core.errors import ConfigError
from ..core.events import (
    Event,
    Finished,
    FinishReason,
    Notice,
    ReasoningDelta,
    Restarted,
    Started,
    TextDelta,
    Usage,
    UsageReport,
)
from ..core.messages import Document, Image, Message, Request, Text, ToolCall, ToolResult, caption
from ..dialects import _json as common
from ..dialects._json import Halves, label

OPTIONS = (
    "max_turns",
    "allowed_tools",
    "permission_mode",
    "cwd",
)  # what a cell may say with x.name=, where a CLI can do it
_CANNOT = (
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
_SEARCHED = 20_000  # characters of a message in which a status and the like are looked for
_RESTARTS = 100  # times that a CLI may begin its answer again; they give up after some ten
_STATUS = re.compile(r"(?:status|code|error)\W{0,12}(?:code\W{0,4})?(\d{3})\b|\b(4\d\d|5\d\d)\b")
_LOGIN = re.compile(
    r"not logged in|/login|log ?in|authenticat|unauthori[sz]ed|api key|credential", re.IGNORECASE
)
_MODEL = re.compile(
    r"model.{0,60}(?:not found|does not exist|not supported|unknown)|(?:unknown|invalid) model", re.IGNORECASE
)


def options(request: Request, provider: Endpoint, can: tuple[str, ...]) -> dict[str, Any]:
    """The CLI's own options in `extra`. Raises ConfigError for what this one cannot do, for what no CLI can,
    and for a model or a value that a command could read as an option of its own."""
    name = provider.label or provider.name
    asked = [n for n in _CANNOT if getattr(request, n) not in (None, ())]
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
    own = dict(request.extra) | ({"cwd": str(request.extra["cwd"])} if request.extra.get("cwd") else {})
    words = {"model": request.model.split("/"), **{n: names(v) for n, v in own.items() if n != "cwd"}}
    for what, word in ((n, w) for n, values in words.items() for w in values):
        if word.startswith("-") or not word.isprintable() or (what == "model" and " " in word):
            raise ConfigError(
                f"{name} takes no {what} {word[:60]!r}: a command could read it as an option.",
                hint="Give a name that does not begin with a dash, without blanks and control characters.",
            )
    return own


def names(value: Any) -> list[str]:
    """The words of a list, which may be written as one text with commas."""
    if isinstance(value, str):
        return [v.strip() for v in value.split(",")]
    return [str(v) for v in value] if isinstance(value, (list, tuple)) else [str(value)]


def texts(request: Request, provider: Endpoint) -> tuple[str, str]:
    """(system, prompt). A conversation becomes a transcript in the prompt, since these CLIs take one prompt.

    Raises ConfigError for parts that are no text.
    """
    system = "\n\n".join(m.text for m in request.messages if m.role == "system")
    said = [m for m in request.messages if m.role != "system"]
    if len(said) == 1:
        return system, spoken(said[0], provider)
    who = {"user": "User", "assistant": "Assistant", "tool": "Tool result"}
    told = "\n\n".join(f"{who[m.role]}: {spoken(m, provider)}" for m in said[:-1])
    return (
        system,
        f"The conversation so far:\n\n{told}\n\nAnswer the user's last "
        f"message:\n\n{spoken(said[-1], provider)}",
    )


def turn(request: Request, provider: Endpoint) -> Turn:
    """The request's last message as a turn after all others. Raises ConfigError for parts that are no
    text."""
    system, retold = texts(request, provider)
    *before, last = [(m.role, spoken(m, provider)) for m in request.messages if m.role != "system"]
    return Turn((("model", request.model), ("system", system), *before), last, last[1], retold)


def spoken(message: Message, provider: Endpoint) -> str:
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


def call(provider: Endpoint, words: list[str], prompt: str, key: Secret | None, **more: Any) -> ProcessCall:
    """The command of the row with its words; the key goes into the first of the row's variables, never into a
    word. What waits for the user's consent is not passed on."""
    env = dict(more.pop("env", {}))
    if key is not None and provider.key_env:
        env[provider.key_env[0]] = key.reveal()
    return ProcessCall((*provider.command, *words), prompt, env, passes=passed(provider), **more)


def passed(provider: Endpoint) -> tuple[str, ...]:
    """The variables that the row's command may see: none that waits for the user's consent."""
    return tuple(n for n in provider.passes if n not in provider.held)


def failure(status: int | None, message: str, provider: Endpoint, body: Any = None) -> errors.ProviderError:
    """The error behind a CLI's words, by the HTTP status in them where there is one."""
    name, message = provider.label or provider.name, message.strip()[:_SEARCHED]
    if status is None:
        found = _STATUS.search(message)
        status = int(found[1] or found[2]) if found else None
    kind, hint = errors.ProviderError, "Run the command by hand to see more."
    if status in (401, 403) or (status is None and _LOGIN.search(message)):
        kind, hint = (
            errors.AuthenticationError,
            f"Log in with the command itself ({provider.command[0] if provider.command else name}), or set "
            f"{' or '.join(provider.key_env) or 'its key'}.",
        )
    elif status == 404 or _MODEL.search(message):
        kind, hint = errors.NotFound, "Check the model's name."
    elif status == 429:
        kind, hint = errors.RateLimited, "Wait a little, or ask another model."
    elif status == 529 or (status is None and re.search(r"high demand|overloaded", message, re.IGNORECASE)):
        kind, hint = errors.Overloaded, "Try again in a moment."
    elif status is not None and status >= 500:
        kind, hint = errors.ServerError, "Try again in a moment."
    return kind(f"{name}: {message[:600] or 'it failed without a word'}", status=status, body=body, hint=hint)


class Lines:
    """Reads the lines of one run. A subclass has `_line`; `_end` is asked at the exit, where no terminal
    event came before."""

    whole = False  # whether text comes in whole messages, so that no time to first token can be told

    def __init__(self, provider: Endpoint) -> None:
        self.provider = provider
        self.done = False
        self._finished: Finished | None = None
        self._exit: dict[str, Any] = {}
        self._kept: list[str] = []  # text of messages that are complete
        self._open: list[str] = []  # text of the one that comes
        self._halves, self._restarts = Halves(), 0

    def feed(self, frame: Frame) -> Iterator[Event]:
        """The events of a line; of the exit, what is left to say."""
        if frame.name == "exit":
            self._exit = parsed(frame.data)
            yield from self._at_exit()
            self.done = True
            return
        line = frame.data.lstrip("\ufeff \t")
        if not line.startswith("{"):
            yield from self._words(frame.data)
        elif value := parsed(line):  # else cut at the end, or no JSON at all: the exit says what became of it
            yield from self._line(value)

    def _line(self, value: dict[str, Any]) -> Iterator[Event]:
        raise NotImplementedError

    def _words(self, line: str) -> Iterator[Event]:
        """A line that is no JSON: banners and warnings of no meaning."""
        yield from ()

    def _at_exit(self) -> Iterator[Event]:
        yield from ()

    @property
    def ended(self) -> bool:
        """Whether a terminal event came: a command that does not exit after it is not waited for."""
        return self._finished is not None

    def close(self) -> Iterator[Event]:
        """The end. Raises StreamCut with the last words of standard error where no terminal event came."""
        if self._finished is None:
            raise self._cut()
        yield self._finished

    def _cut(self) -> errors.NbllmError:
        name, rc = self.provider.label or self.provider.name, self._exit.get("rc")
        said = " ".join(text(self._exit.get("stderr")).split())[-400:]
        if said and not (self._kept or self._open) and (_LOGIN.search(said) or _MODEL.search(said)):
            return failure(None, said, self.provider)
        ended = f"ended (exit code {rc})" if rc is not None else "ended"
        return errors.StreamCut(
            f"{name} {ended} before its answer was complete{': ' + said if said else ''}.",
            hint="Run the command by hand to see more; the partial answer is kept.",
        )

    # --- what subclasses say ---

    def _say(self, words: str) -> Iterator[Event]:
        words = self._halves.mend("", words) if words else ""
        if words:
            self._open.append(words)
            yield TextDelta(words)

    def _paragraph(self, words: str) -> Iterator[Event]:
        """A whole message; one that follows another begins a paragraph."""
        yield from self._say(("\n\n" if self._kept else "") + words)

    def _complete(self) -> None:
        if self._open:
            self._kept.append("".join(self._open))
            self._open = []

    def _again(self, why: str) -> Iterator[Event]:
        """What came of the message under way is void; what was complete stands. Raises ProtocolError for one
        that never ends to begin."""
        if self._open:
            self._open, self._restarts = [], self._restarts + 1
            if self._restarts > _RESTARTS:
                raise errors.ProtocolError(
                    f"{self.provider.label or self.provider.name} began its answer again {_RESTARTS} times.",
                    hint="Run the command by hand to see more; the partial answer is kept.",
                )
            yield Restarted(why)
            if self._kept:
                self._kept = ["".join(self._kept)]
                yield TextDelta(self._kept[0])

    def _started(self, session: Any, model: Any) -> Iterator[Event]:
        yield Started(
            session if isinstance(session, str) else None, model if isinstance(model, str) else None
        )
        if isinstance(session, str):
            yield Notice("session", data={"session_id": session})

    def _tool(self, name: Any, data: Mapping[str, Any]) -> Iterator[Event]:
        yield Notice("server_tool", text(name) or "tool", data)

    def _end(self, reason: FinishReason, raw: str | None = None) -> None:
        self._finished = Finished(reason, raw)


# --- reading what may be odd: a wrong type is as good as nothing ---


def parsed(line: Any) -> dict[str, Any]:
    """The JSON object in a line, {} where there is none."""
    try:
        return common.obj(json.loads(line))
    except (ValueError, TypeError, RecursionError):
        return {}


def text(value: Any) -> str:
    """A text or a number as text, "" for all else."""
    return label(value) or ""


count = common.count  # None, not 0, for what was not told


def total(first: int | None, *more: int | None) -> int | None:
    """A count with its parts that are told apart from it; None where the count itself is not known."""
    return None if first is None else first + sum(n or 0 for n in more)


def number(value: Any) -> float | None:
    """A number that can be reckoned with, None for all else."""
    return (
        float(value)
        if isinstance(value, (int, float)) and not isinstance(value, bool) and -1e15 < value < 1e15
        else None
    )


def status(value: Any) -> int | None:
    """An HTTP status, None for all else."""
    return value if isinstance(value, int) and not isinstance(value, bool) and 100 <= value < 600 else None


def report(
    input_tokens: int | None,
    output_tokens: int | None,
    raw: Mapping[str, Any],
    *,
    final: bool = True,
    **more: int | None,
) -> UsageReport:
    """Usage in our meaning; None, never 0, for what the CLI did not tell."""
    return UsageReport(Usage(input_tokens, output_tokens, raw=raw, **more), final)


__all__ = [
    "Lines",
    "ReasoningDelta",
    "call",
    "count",
    "failure",
    "names",
    "number",
    "options",
    "parsed",
    "passed",
    "report",
    "spoken",
    "status",
    "text",
    "texts",
    "total",
    "turn",
]
