"""Agents on other machines, over the Agent2Agent protocol (a2a): a message becomes a turn, what the agent
streams becomes events. Pure: events are read in the protocol's JSON form, as the SDK gives it.

An agent answers with a message, or with a task: artifacts are its answer, messages of its status are its
progress, and its state says how it ends. A file is a part of the answer, data is JSON in it, and what is said
of an artifact again takes the place of what was said before.
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

_MAX_RESTARTS = 100  # times that an agent may say an artifact again
_MAX_PROGRESS = 1_000  # characters of a message of progress


class RemoteDecoder(AgentDecoder):
    """Reads the events of one task."""

    def __init__(self, provider: Endpoint) -> None:
        super().__init__(provider)
        self._artifacts: dict[str, list[str]] = {}  # by artifact, in the order of their coming
        self._last_artifact = ""  # the artifact that was spoken last
        self._media = 0
        self._name = provider.label or provider.name

    def _handle(self, value: dict[str, Any]) -> Iterator[Event]:
        if error := obj(value.get("error")):
            raise errors.ProviderError(
                f"{self._name}: {as_text(error.get('message'))[:600] or 'it refused'}",
                body=error,
                hint="Ask otherwise; the agent's card says what it does.",
            )
        if there := as_text(value.get("elsewhere")):  # not the protocol's: the transport says it
            yield Notice("warning", f"{self._name}'s card leads to {there}: the question went there, no key.")
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

    # --- what is said ---

    def _artifact(self, ident: str, parts: Any, *, append: bool = False) -> Iterator[Event]:
        words, files = [], list[Image | Document]()
        for part in items(parts):
            made = parse_part(part)
            words += [made] if isinstance(made, str) else []
            files += [] if isinstance(made, str) else [made]
        new = "".join(words)
        if append:
            yield from self._append(ident, new)
        elif new.startswith(told := "".join(self._artifacts.get(ident, ()))):
            yield from self._append(ident, new[len(told) :])
        else:
            yield from self._replace(ident, new)
        for n, file in enumerate(files):
            self._media += append
            yield MediaDelta(file, key=f"{ident}/{self._media}/{n}")

    def _append(self, ident: str, words: str) -> Iterator[Event]:
        if not words:
            return
        gap = "\n\n" if self._artifacts and ident != self._last_artifact else ""
        self._artifacts.setdefault(ident, []).append(words)
        self._last_artifact = ident
        yield from self._emit_text(gap + words)

    def _replace(self, ident: str, words: str) -> Iterator[Event]:
        self._restarts += 1
        if self._restarts > _MAX_RESTARTS:
            raise errors.ProtocolError(
                f"{self._name} changed its answer {_MAX_RESTARTS} times.", hint="What came is kept."
            )
        self._artifacts[ident] = [words]
        self._last_artifact = next(reversed(self._artifacts))
        yield Restarted("The agent said a part of its answer again.")
        yield TextDelta("\n\n".join("".join(of) for of in self._artifacts.values()))

    # --- how it stands ---

    def _status(self, status: dict[str, Any]) -> Iterator[Event]:
        state = as_text(status.get("state")).removeprefix("TASK_STATE_").lower()
        parts = obj(status.get("message")).get("parts")
        said = "".join(p for part in items(parts) if isinstance(p := parse_part(part), str))
        if state in ("failed", "rejected"):
            raise errors.ProviderError(
                f"{self._name}: the task {'failed' if state == 'failed' else 'was rejected'}"
                f"{': ' + said[:600] if said else ''}.",
                body=status,
                hint="What came is kept. Ask otherwise, or ask the agent's owner.",
            )
        if state == "auth_required":
            raise errors.AuthenticationError(
                f"{self._name} wants you to log in{': ' + said[:600] if said else ''}.",
                body=status,
                hint="Log in where the agent says, and ask again.",
            )
        if state in ("completed", "input_required"):
            told = "".join(words for of in self._artifacts.values() for words in of)
            if said and said not in told:
                yield from self._artifact("status", parts)
            if state == "input_required":
                yield Notice(
                    "warning", "The agent waits for more: ask on in the same conversation (chat=NAME)."
                )
            self._set_done("stop", state)
        elif state == "canceled":
            self._set_done("cancelled", state)
        elif said:
            yield Notice("server_tool", said[:_MAX_PROGRESS])

    def _set_done(self, reason: Any, raw: str | None = None) -> None:
        self.done = True
        self._set_finished(reason, raw)

    def _cut_error(self) -> errors.NbllmError:
        return errors.StreamCut(
            f"{self._name} ended the connection before its task was over.",
            hint="The partial answer is kept; whether the agent goes on is not known.",
        )


def parse_part(part: Mapping[str, Any]) -> str | Image | Document:
    """A part of the protocol: text and links as text, data as JSON, files by what their bytes say."""
    if isinstance(words := part.get("text"), str):
        return words
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
    """A picture or document as a part of the protocol."""
    name = getattr(part, "name", None)
    what = {"url": part.url} if part.data is None else {"raw": base64.b64encode(part.data).decode()}
    return {**what, "mediaType": part.media_type, **({"filename": name} if name else {})}


def _with_captions(message: Message) -> Message:
    """A message whose files are told in words."""
    parts = (Text(caption(p)) if isinstance(p, (Image, Document)) else p for p in message.parts)
    return Message(message.role, tuple(parts))


def encode(request: Request, provider: Endpoint, key: Secret | None) -> RemoteCall:
    """A turn with remote/NAME, an agent that is found by its card. Raises ConfigError for what agents have no
    word for."""
    if request.model not in ("", AGENT):
        raise ConfigError(
            f"{provider.label or provider.name} is an agent, and has no models.",
            hint=f"Ask it as {provider.name}.",
        )
    check_options(request, provider, ())
    messages = [_with_captions(m) for m in request.messages]
    before = session_turn(replace(request, messages=tuple(messages)), provider)
    last = request.messages[-1]
    files = tuple(_file_part(p) for p in last.parts if isinstance(p, (Image, Document)))
    system = dict(before.history[:2])["system"]
    prompt = "\n".join(p.text for p in last.parts if isinstance(p, Text))
    retold = before.full_prompt if len(before.history) > 2 else prompt
    headers = dict(provider.headers)
    if key is not None:
        name = provider.key_header or "authorization"
        headers[name] = key.reveal() if provider.key_header else f"Bearer {key.reveal()}"
    told = structs.replace(before, prompt=prompt, full_prompt="\n\n".join(filter(None, (system, retold))))
    return RemoteCall(provider.base_url, headers, told, files)


def refusal_error(
    status: int, headers: Mapping[str, str], body: bytes, provider: Endpoint
) -> errors.ProviderError:
    """The error behind a refusal's page."""
    said = body.decode("utf-8", "replace")
    found = agent_error(status, " ".join(said.split())[:600] or f"HTTP {status}", provider)
    if isinstance(found, errors.AuthenticationError):
        names = " or ".join(provider.key_env)
        found.hint = f"Set {names} to a key that the agent takes." if names else RemoteCall.no_key_hint
    return found


DIALECT = Dialect("a2a", encode, RemoteDecoder, refusal_error)
