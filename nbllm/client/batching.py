"""Batches at a provider's server: uploaded, created, found again, watched, read and cancelled.

The key goes to the row's own address alone: an address of results that the provider names is never followed,
since its own paths give the same. Two shapes: a file of OpenAI's kind, and Anthropic's requests in the call.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any
from uuid import uuid4

from ..core import errors
from ..core.calls import Dialect, HttpCall, Provider, Secret, Trace
from ..dialects._json import count, items, load_json, obj, string
from ..dialects.batches import FORMATS, BatchFormat, BatchState, path_id, state
from ..routing.registry import Route
from .attempt import refusal
from .client import Client
from .prepare import no_key
from .provider_api import get_json, question

_ANSWER = 60.0  # seconds for an answer
_FILE = 900.0  # seconds for a file on its way
_LINE = 32 * 2**20  # bytes of a line of results
_PAGES = 50  # of a provider's list that are looked through
_AROUND = 600.0  # seconds by which its clock and ours may differ
_KNOWN = {"openai": "/batches", "groq": "/batches", "anthropic": "/v1/messages/batches"}


@dataclass(frozen=True, slots=True)
class BatchServer:
    """A provider that takes batches, asked from any thread but the engine's."""

    client: Client
    route: Route
    key: Secret | None

    @classmethod
    def of(cls, client: Client, route: Route, key: Secret | None) -> BatchServer:
        """Raises ConfigError where the route's provider takes no batches, or not from here yet."""
        row = route.provider
        if row.batch not in _KNOWN or route.others:
            who = "Models that take each other's place" if route.others else row.label or row.name
            why = "cannot be asked in batches yet" if row.batch or route.others else "takes no batches"
            raise errors.ConfigError(
                f"{who} {why}.",
                hint='Leave mode="batch" out, or choose a model of OpenAI, Azure, Groq or Anthropic.',
            )
        if key is None and not row.local:
            raise no_key(row)
        return cls(client, route, key)

    @property
    def row(self) -> Provider:
        """The provider."""
        return self.route.provider

    @property
    def format(self) -> BatchFormat:
        """How it writes batches."""
        return FORMATS[self.row.batch]

    @property
    def dialect(self) -> Dialect:
        """What reads an answer."""
        return self.client.registry.dialects[self.row.dialect]

    def create(self, lines: Sequence[str], names: Mapping[str, str]) -> BatchState:
        """A new batch of lines; names: what it is found by again, where the provider keeps that."""
        if self.format.shape == "inline":
            content = b'{"requests":[' + ",".join(lines).encode() + b"]}"
            return state(self._ask(self._path(), content))
        file = path_id(obj(self._upload("\n".join(lines).encode())).get("id"))
        body = {
            "input_file_id": file,
            "endpoint": obj(load_json(lines[0])).get("url"),
            "completion_window": "24h",
            "metadata": dict(names),
        }
        return state(self._ask(self._path(), body))

    def _upload(self, data: bytes) -> Any:
        mark = f"nbllm-{uuid4().hex}"
        head = (
            f'--{mark}\r\nContent-Disposition: form-data; name="purpose"\r\n\r\nbatch\r\n--{mark}\r\n'
            'Content-Disposition: form-data; name="file"; filename="batch.jsonl"\r\n'
            "Content-Type: application/jsonl\r\n\r\n"
        )
        kind = f"multipart/form-data; boundary={mark}"
        return self._ask("/files", head.encode() + data + f"\r\n--{mark}--\r\n".encode(), kind)

    def look(self, id: str) -> BatchState:
        """How far a batch is."""
        return state(self._ask(self._path(id)))

    def cancel(self, id: str) -> BatchState:
        """Asks that no more of a batch is done. What is done already can be read."""
        return state(self._ask(f"{self._path(id)}/cancel", {}))

    def find(self, run: str, part: int, total: int, created: float, first: str) -> tuple[str, bool]:
        """The id of a batch that was created for a part of a run, "" where there is none; and whether one
        that may be it has to end before that is known. created: when that was begun; first: how the ids of
        its lines begin."""
        waits = False
        for about in self._listed(created):
            if self.format.shape == "file":
                names = obj(about.get("metadata"))
                if (names.get("nbllm_run"), names.get("part")) == (run, str(part)):
                    return path_id(about.get("id")), False
                continue
            found = state(about)
            if found.total == total and abs((_moment(about) or created) - created) <= _AROUND:
                if found.running:
                    waits = True
                elif self._begins(found, first):
                    return path_id(found.id), False
        return "", waits

    def _listed(self, since: float) -> Iterator[Mapping[str, Any]]:
        after = "after_id" if self.format.shape == "inline" else "after"
        path = f"{self._path()}?limit=100"
        for _ in range(_PAGES):
            page = obj(self._ask(path))
            found = list(items(page.get("data")))
            yield from found
            old = bool(found) and (_moment(found[-1]) or since) < since - _AROUND
            if not found or old or page.get("has_more") is not True:
                return
            path = f"{self._path()}?limit=100&{after}={path_id(found[-1].get('id'))}"

    def _begins(self, found: BatchState, first: str) -> bool:
        seen: list[bool] = []

        def take(line: bytes) -> bool:
            if line.strip():
                seen.append(string(obj(load_json(line)).get("custom_id")).startswith(first))
            return not seen

        self._read(f"{self._path(found.id)}/results", take)
        return seen == [True]

    def results(self, found: BatchState, take: Callable[[bytes], Any]) -> None:
        """Gives each line of all files of results to `take`, on the engine's loop."""

        def all_of(line: bytes) -> bool:
            take(line)
            return True

        if self.format.shape == "inline":
            if found.url:
                self._read(f"{self._path(found.id)}/results", all_of)
            return
        for name in found.files:
            self._read(f"/files/{path_id(name)}/content", all_of)

    def _path(self, id: str = "") -> str:
        return _KNOWN[self.row.batch] + (f"/{path_id(id)}" if id else "")

    def _call(self, path: str) -> HttpCall:
        return question(self.client, self.row, path, self.key)

    def _ask(self, path: str, content: bytes | Mapping[str, Any] | None = None, kind: str = "") -> Any:
        call = self._call(path)
        if isinstance(content, bytes):
            call = replace(call, method="POST", content=content)
            if kind:
                call = replace(call, headers={**call.headers, "content-type": kind})
        elif content is not None:
            call = replace(call, method="POST", body=content)
        limit = _FILE if isinstance(content, bytes) else _ANSWER
        return self.client.run(get_json(self.client, self.row, call, limit))

    def _read(self, path: str, take: Callable[[bytes], bool]) -> None:
        """Gives the lines at a path to `take`, until that wants no more."""
        call = self._call(path)
        try:
            self.client.run(self._lines(call, take))
        except errors.NbllmError as error:
            raise error.scrubbed(call.guard.texts).with_traceback(None) from None

    async def _lines(self, call: HttpCall, take: Callable[[bytes], bool]) -> None:
        try:
            async with asyncio.timeout(_FILE), self.client.http.open(call, Trace(), _ANSWER) as reply:
                if not 200 <= reply.status < 300:
                    raise refusal(self.dialect, reply, await reply.body(), self.row)
                async with contextlib.aclosing(reply.lines(_LINE)) as lines:
                    async for line in lines:
                        if not take(line):
                            return
        except errors.Timeout:
            raise
        except TimeoutError:
            raise errors.Timeout(
                f"The results did not end within {_FILE:g} s.",
                which="total",
                seconds=_FILE,
                hint="Try again.",
            ) from None


def _moment(about: Mapping[str, Any]) -> float | None:
    """When a batch was created, in seconds since 1970."""
    said = about.get("created_at")
    if (number := count(said)) is not None:
        return float(number)
    try:
        return datetime.fromisoformat(string(said)).timestamp()
    except (ValueError, OverflowError):
        return None
