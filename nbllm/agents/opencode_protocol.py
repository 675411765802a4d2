"""OpenCode's server: sessions over HTTP, what happens in them as server-sent events. Pure.

Paths, bodies and events as opencode 1.18.33 documents them at /doc and as they were seen. Its own retries are
told as notices, what it sends again replaces what it had sent, and `session.idle` is the end.
"""

from __future__ import annotations

import base64
from collections.abc import Iterator
from typing import Any

from ..core import errors
from ..core.calls import Dialect, Endpoint, ProcessCall, Secret, SessionCall
from ..core.errors import ConfigError
from ..core.events import Event, Notice, ReasoningDelta
from ..core.messages import Request
from ..dialects._json import obj
from .base import failure, names, options, passed, said, text, turn
from .one_shot import OpenCodeLines, gateway_error, opencode_settings, opencode_tool

# Where it listens by itself, and where people often put it: asked without the password, which was given for
# the first alone.
OWN_PORT, OTHER_PORT = "http://127.0.0.1:4096", "http://127.0.0.1:8787"


class SessionEvents(OpenCodeLines):
    """The events of one turn in one session."""

    non_streaming = False

    def __init__(self, provider: Endpoint) -> None:
        super().__init__(provider)
        self._kinds: dict[str, str] = {}  # a part's id, and its type
        self._answers: set[str] = set()  # ids of the assistant's messages
        self._said: set[str] = set()  # parts that came as deltas

    def _line(self, value: dict[str, Any]) -> Iterator[Event]:
        kind, of = text(value.get("type")), obj(value.get("properties"))
        if kind == "message.part.delta":
            yield from self._delta(of)
        elif kind == "message.part.updated":
            yield from self._part(obj(of.get("part")))
        elif kind == "message.updated":
            yield from self._message(obj(of.get("info")))
        elif kind == "session.status" and obj(of.get("status")).get("type") == "retry":
            yield from self._again("OpenCode asked again after a broken stream.")
            yield Notice("retry", f"OpenCode asks again: {text(obj(of['status']).get('message'))}", of)
        elif kind == "session.error":
            self._trouble(obj(of.get("error")))
        elif kind == "session.idle":
            self.done = True
            if self._finished is None:
                self._end("length" if self._reason == "length" else "stop", self._reason or None)

    def _message(self, info: dict[str, Any]) -> Iterator[Event]:
        ident = text(info.get("id"))
        if info.get("role") == "assistant" and ident not in self._answers:
            self._answers.add(ident)
            yield from self._started(
                info.get("sessionID"), f"{text(info.get('providerID'))}/{text(info.get('modelID'))}"
            )

    def _delta(self, of: dict[str, Any]) -> Iterator[Event]:
        words, part = text(of.get("delta")), text(of.get("partID"))
        if of.get("field") != "text":
            return
        if self._kinds.get(part) == "reasoning":
            yield ReasoningDelta(words)
            return
        first = part not in self._said
        self._said.add(part)
        yield from self._paragraph(words) if first else self._say(words)

    def _part(self, part: dict[str, Any]) -> Iterator[Event]:
        kind, ident = text(part.get("type")), text(part.get("id"))
        self._kinds[ident] = kind
        if (
            kind == "text"
            and text(part.get("messageID")) in self._answers
            and obj(part.get("time")).get("end")
        ):
            if ident not in self._said:
                yield from self._paragraph(text(part.get("text")))
            self._complete()
        elif kind == "tool":
            yield from opencode_tool(self, part)
        elif kind == "step-finish":
            self._reason = text(part.get("reason"))
            yield self._count(part)

    def _trouble(self, error: dict[str, Any]) -> None:
        if error.get("name") == "MessageAbortedError":
            self._end("cancelled")
            return
        if error.get("name") == "ContextOverflowError":
            raise errors.ContextLengthExceeded(
                f"{self.provider.label}: {said(error)}",
                body=error,
                hint="Shorten the prompt, or begin a new conversation.",
            )
        raise failure(None, error, self.provider, error)


def encode(request: Request, provider: Endpoint, key: Secret | None) -> SessionCall:
    """A turn in a session of `opencode serve` (opencode/PROVIDER/MODEL) that may do nothing but what is
    allowed. Raises ConfigError for what it cannot do."""
    own = options(request, provider, ("allowed_tools", "cwd", "start"))
    before = turn(request, provider)
    maker, _, model = request.model.partition("/")
    if request.model and not model:
        raise ConfigError(
            f"{provider.label} takes models by their provider.",
            hint="Write opencode/PROVIDER/MODEL, as `opencode models` lists them.",
        )
    tools, system = names(own.get("allowed_tools") or []), dict(before.history[:2])["system"]
    rules = [
        {"permission": "*", "pattern": "*", "action": "deny"},
        *({"permission": t, "pattern": "*", "action": "allow"} for t in tools),
    ]
    message = {
        "tools": {"*": False} | dict.fromkeys(tools, True),
        **({"model": {"providerID": maker, "modelID": model}} if model else {}),
        **({"system": system} if system else {}),
    }
    base = provider.base_url.rstrip("/")
    headers = dict(provider.headers)
    if key is not None:
        headers["authorization"] = (
            "Basic "
            + base64.b64encode(f"{provider.query.get('user', 'opencode')}:{key.reveal()}".encode()).decode()
        )
    start = (
        ProcessCall(
            ("opencode", "serve", "--pure", "--hostname", "127.0.0.1", "--port", "0"),
            env=opencode_settings("", {}),
            passthrough_env=passed(provider),
        )
        if own.get("start")
        else None
    )
    return SessionCall(
        (base, OTHER_PORT) if base == OWN_PORT else (base,),
        headers,
        {"title": "nbllm", "permission": rules},
        message,
        before,
        start,
        str(own.get("cwd") or ""),
    )


DIALECT = Dialect("opencode_server", encode, SessionEvents, gateway_error, vouched=True)
