"""OpenCode's server: sessions over HTTP, their events as server-sent events. Pure.

Paths, bodies and events as opencode 1.18.33 documents them at /doc and as observed. Its own retries become
notices, what it sends again replaces what it had sent, and `session.idle` is the end of a turn.
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
from .base import (
    agent_error,
    allowed_passthrough,
    as_text,
    check_options,
    error_text,
    session_turn,
    split_names,
)
from .one_shot import OpenCodeDecoder, emit_opencode_tool, gateway_error, opencode_settings

# Its default address, and another common one, which is tried without the password: that belongs to the first.
DEFAULT_ADDRESS, OTHER_ADDRESS = "http://127.0.0.1:4096", "http://127.0.0.1:8787"


class SessionDecoder(OpenCodeDecoder):
    """Decodes the events of one turn in a session."""

    non_streaming = False

    def __init__(self, provider: Endpoint) -> None:
        super().__init__(provider)
        self._kinds: dict[str, str] = {}  # types of parts by id
        self._answer_ids: set[str] = set()  # ids of the assistant's messages
        self._streamed_parts: set[str] = set()  # ids of parts that came as deltas

    def _handle(self, value: dict[str, Any]) -> Iterator[Event]:
        kind, of = as_text(value.get("type")), obj(value.get("properties"))
        if kind == "message.part.delta":
            yield from self._delta(of)
        elif kind == "message.part.updated":
            yield from self._part(obj(of.get("part")))
        elif kind == "message.updated":
            yield from self._message(obj(of.get("info")))
        elif kind == "session.status" and obj(of.get("status")).get("type") == "retry":
            yield from self._restart()
            yield Notice("retry", f"OpenCode is retrying: {as_text(obj(of['status']).get('message'))}", of)
        elif kind == "session.error":
            self._raise_error(obj(of.get("error")))
        elif kind == "session.idle":
            self.done = True
            if self._finished is None:
                self._set_finished("length" if self._reason == "length" else "stop", self._reason or None)

    def _message(self, info: dict[str, Any]) -> Iterator[Event]:
        ident = as_text(info.get("id"))
        if info.get("role") == "assistant" and ident not in self._answer_ids:
            self._answer_ids.add(ident)
            yield from self._emit_started(
                info.get("sessionID"), f"{as_text(info.get('providerID'))}/{as_text(info.get('modelID'))}"
            )

    def _delta(self, of: dict[str, Any]) -> Iterator[Event]:
        text, part = as_text(of.get("delta")), as_text(of.get("partID"))
        if of.get("field") != "text":
            return
        if self._kinds.get(part) == "reasoning":
            yield ReasoningDelta(text)
            return
        first = part not in self._streamed_parts
        self._streamed_parts.add(part)
        yield from self._emit_paragraph(text) if first else self._emit_text(text)

    def _part(self, part: dict[str, Any]) -> Iterator[Event]:
        kind, ident = as_text(part.get("type")), as_text(part.get("id"))
        self._kinds[ident] = kind
        if (
            kind == "text"
            and as_text(part.get("messageID")) in self._answer_ids
            and obj(part.get("time")).get("end")
        ):
            if ident not in self._streamed_parts:
                yield from self._emit_paragraph(as_text(part.get("text")))
            self._end_message()
        elif kind == "tool":
            yield from emit_opencode_tool(self, part)
        elif kind == "step-finish":
            self._reason = as_text(part.get("reason"))
            yield self._usage_so_far(part)

    def _raise_error(self, error: dict[str, Any]) -> None:
        if error.get("name") == "MessageAbortedError":
            self._set_finished("cancelled")
            return
        if error.get("name") == "ContextOverflowError":
            raise errors.ContextLengthExceeded(
                f"{self.provider.label}: {error_text(error)}",
                body=error,
                hint="Shorten the prompt, or begin a new conversation.",
            )
        raise agent_error(None, error, self.provider, error)


def encode(request: Request, provider: Endpoint, key: Secret | None) -> SessionCall:
    """A turn in a session of `opencode serve` (opencode/PROVIDER/MODEL), with only the tools that are
    allowed. Raises ConfigError for unsupported options."""
    extra = check_options(request, provider, ("allowed_tools", "cwd", "start"))
    turn = session_turn(request, provider)
    maker, _, model = request.model.partition("/")
    if request.model and not model:
        raise ConfigError(
            f"{provider.label} needs the provider of the model.",
            hint="Write opencode/PROVIDER/MODEL, as `opencode models` lists them.",
        )
    tools, system = split_names(extra.get("allowed_tools") or []), turn.system
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
            passthrough_env=allowed_passthrough(provider),
        )
        if extra.get("start")
        else None
    )
    return SessionCall(
        (base, OTHER_ADDRESS) if base == DEFAULT_ADDRESS else (base,),
        headers,
        {"title": "nbllm", "permission": rules},
        message,
        turn,
        start,
        str(extra.get("cwd") or ""),
    )


DIALECT = Dialect("opencode_server", encode, SessionDecoder, gateway_error, vouched=True)
