"""Agents on other machines, over the Agent2Agent protocol (a2a): encodes a message as a turn, and decodes
what the agent streams. Pure: events are read in the protocol's JSON form, as the SDK provides it.

An agent answers with a message, or with a task: its artifacts are the answer, its status messages are
progress, and its final state becomes the finish reason. A file is a part of the answer, data becomes JSON in
it, and an artifact that is sent again replaces the earlier one.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

from msgspec import structs

from ..core import errors
from ..core.calls import AGENT, Dialect, Endpoint, RemoteCall, Secret
from ..core.errors import ConfigError
from ..core.events import Event, MediaDelta, Notice, Restarted, TextDelta
from ..core.messages import Document, Image, Message, Request, Text, caption, picture_type, unbase64
from ..dialects._json import items, obj
from .base import AgentDecoder, agent_error, as_text, check_options, session_turn

_MAX_RESTARTS = 100  # times that an agent may replace an artifact
_MAX_PROGRESS = 1_000  # characters of a message of progress


class RemoteDecoder(AgentDecoder):
    """Decodes the events of one turn: a message or a task."""

    def __init__(self, provider: Endpoint) -> None:
        super().__init__(provider)
        self._artifacts: dict[str, list[str]] = {}  # pieces of text by artifact id, in order of arrival
        self._last_artifact = ""  # id of the artifact with the last text
        self._media = 0
        self._name = provider.label or provider.name

    def _handle(self, value: dict[str, Any]) -> Iterator[Event]:
        if error := obj(value.get("error")):
            raise errors.ProviderError(
                f"{self._name}: {as_text(error.get('message'))[:600] or 'it refused'}",
                body=error,
                hint="Change the request; the agent's card describes what it can do.",
            )
        if origin := as_text(value.get("elsewhere")):  # not part of the protocol: added by the transport
            yield Notice("warning", f"{self._name}'s card leads to {origin}: the prompt went there, no key.")
        if message := obj(value.get("message")):
            yield from self._emit_started(as_text(message.get("contextId")) or None, AGENT)
            yield from self._artifact("message", message.get("parts"), append=True)
            self._set_done("stop")
        if task := obj(value.get("task")):
            yield from self._emit_started(as_text(task.get("id")) or None, AGENT)
            for artifact in items(task.get("artifacts")):
                yield from self._artifact(as_text(artifact.get("artifactId")), artifact.get("parts"))
            yield from self._status(obj(task.get("status")))
        if update := obj(value.get("artifactUpdate")):
            artifact = obj(update.get("artifact"))
            append = update.get("append") is True
            yield from self._artifact(
                as_text(artifact.get("artifactId")), artifact.get("parts"), append=append
            )
        if update := obj(value.get("statusUpdate")):
            yield from self._status(obj(update.get("status")))

    # --- the answer ---

    def _artifact(self, ident: str, parts: Any, *, append: bool = False) -> Iterator[Event]:
        texts, files = list[str](), list[Image | Document]()
        for parsed in map(parse_part, items(parts)):
            if isinstance(parsed, str):
                texts.append(parsed)
            else:
                files.append(parsed)
        new = "".join(texts)
        if append:
            yield from self._append(ident, new)
        elif new.startswith(known := "".join(self._artifacts.get(ident, ()))):
            yield from self._append(ident, new[len(known) :])
        else:
            yield from self._replace(ident, new)
        for n, file in enumerate(files):
            self._media += append
            yield MediaDelta(file, key=f"{ident}/{self._media}/{n}")

    def _append(self, ident: str, text: str) -> Iterator[Event]:
        if not text:
            return
        gap = "\n\n" if self._artifacts and ident != self._last_artifact else ""
        self._artifacts.setdefault(ident, []).append(text)
        self._last_artifact = ident
        yield from self._emit_text(gap + text)

    def _replace(self, ident: str, text: str) -> Iterator[Event]:
        self._restarts += 1
        if self._restarts > _MAX_RESTARTS:
            raise errors.ProtocolError(
                f"{self._name} replaced parts of its answer more than {_MAX_RESTARTS} times.",
                hint="The partial answer is kept.",
            )
        self._artifacts[ident] = [text]
        self._last_artifact = next(reversed(self._artifacts))
        yield Restarted("The agent replaced a part of its answer.")
        yield TextDelta("\n\n".join("".join(of) for of in self._artifacts.values()))

    # --- status ---

    def _status(self, status: dict[str, Any]) -> Iterator[Event]:
        state = as_text(status.get("state")).removeprefix("TASK_STATE_").lower()
        parts = obj(status.get("message")).get("parts")
        message = "".join(p for part in items(parts) if isinstance(p := parse_part(part), str))
        detail = ": " + message[:600] if message else ""
        if state in ("failed", "rejected"):
            raise errors.ProviderError(
                f"{self._name}: the task {'failed' if state == 'failed' else 'was rejected'}{detail}.",
                body=status,
                hint="The partial answer is kept. Change the request, or contact the agent's owner.",
            )
        if state == "auth_required":
            raise errors.AuthenticationError(
                f"{self._name} requires you to log in{detail}.",
                body=status,
                hint="Log in as the agent says, and try again.",
            )
        if state in ("completed", "input_required"):
            answer = "".join(text for texts in self._artifacts.values() for text in texts)
            if message and message not in answer:
                yield from self._artifact("status", parts)
            if state == "input_required":
                yield Notice(
                    "warning", "The agent waits for more input: continue the conversation (chat=NAME)."
                )
            self._set_done("stop", state)
        elif state == "canceled":
            self._set_done("cancelled", state)
        elif message:
            yield Notice("server_tool", message[:_MAX_PROGRESS])

    def _set_done(self, reason: Any, raw: str | None = None) -> None:
        self.done = True
        self._set_finished(reason, raw)

    def _cut_error(self) -> errors.NbllmError:
        return errors.StreamCut(
            f"{self._name} ended the connection before its task was over.",
            hint="The partial answer is kept. It is not known whether the agent still works.",
        )


def parse_part(part: Mapping[str, Any]) -> str | Image | Document:
    """A part of a message or artifact: text and links as text, data as JSON, files as Image or Document."""
    if isinstance(text := part.get("text"), str):
        return text
    if isinstance(raw := part.get("raw"), str):
        data = unbase64(raw) or b""
        kind, name = as_text(part.get("mediaType")), as_text(part.get("filename"))[:200]
        if picture_type(data):
            return Image(data)
        return Document(data, media_type=kind[:100] or "application/octet-stream", name=name or None)
    if isinstance(url := part.get("url"), str):
        return f"{as_text(part.get('filename'))[:200] or 'file'}: {url}"
    if "data" in part:
        return f"\n```json\n{json.dumps(part['data'], indent=1, ensure_ascii=False)}\n```\n"
    return ""


def _file_part(part: Image | Document) -> dict[str, Any]:
    """A picture or document as a part of a message."""
    name = getattr(part, "name", None)
    content = {"url": part.url} if part.data is None else {"raw": base64.b64encode(part.data).decode()}
    return {**content, "mediaType": part.media_type, **({"filename": name} if name else {})}


def _with_captions(message: Message) -> Message:
    """A message with captions instead of its files."""
    parts = (Text(caption(p)) if isinstance(p, (Image, Document)) else p for p in message.parts)
    return Message(message.role, tuple(parts))


def encode(request: Request, provider: Endpoint, key: Secret | None) -> RemoteCall:
    """A turn with remote/NAME, an agent that is found by its card. Raises ConfigError for options that agents
    do not have."""
    if request.model not in ("", AGENT):
        raise ConfigError(
            f"{provider.label or provider.name} is an agent, and has no models.",
            hint=f"Use {provider.name} without a model's name.",
        )
    check_options(request, provider, ())
    messages = tuple(_with_captions(m) for m in request.messages)
    turn = session_turn(replace(request, messages=messages), provider)
    last = request.messages[-1]
    files = tuple(_file_part(p) for p in last.parts if isinstance(p, (Image, Document)))
    prompt = "\n".join(p.text for p in last.parts if isinstance(p, Text))
    transcript = turn.full_prompt if len(turn.history) > 2 else prompt
    turn = structs.replace(
        turn, prompt=prompt, full_prompt="\n\n".join(filter(None, (turn.system, transcript)))
    )
    headers = dict(provider.headers)
    if key is not None:
        name = provider.key_header or "authorization"
        headers[name] = key.reveal() if provider.key_header else f"Bearer {key.reveal()}"
    return RemoteCall(provider.base_url, headers, turn, files)


def refusal_error(
    status: int, headers: Mapping[str, str], body: bytes, provider: Endpoint
) -> errors.ProviderError:
    """The error for an HTTP answer of an agent's server."""
    message = " ".join(body.decode("utf-8", "replace").split())[:600]
    error = agent_error(status, message or f"HTTP {status}", provider)
    if isinstance(error, errors.AuthenticationError):
        names = " or ".join(provider.key_env)
        error.hint = f"Set {names} to a key that the agent accepts." if names else RemoteCall.no_key_hint
    return error


DIALECT = Dialect("a2a", encode, RemoteDecoder, refusal_error)
