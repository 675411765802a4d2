"""Batches at a provider's server: uploaded, created, found again, watched, read and cancelled.

The key goes to the row's own address alone: an address of results that the provider names is never followed,
since its own paths give the same. What differs between providers stands in dialects.batches.FORMATS; here are
the ways to hand lines in and to read what came of them.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any
from urllib.parse import quote, urlsplit
from uuid import uuid4

from ..core import errors
from ..core.calls import Dialect, HttpCall, ProviderSpec, Secret, same_host
from ..core.messages import Message, Request
from ..dialects._json import count, items, load_json, obj, string
from ..dialects._request import dumps
from ..dialects.batches import FORMATS, BatchFormat, BatchState, batch_endpoint, check_id, parse_state
from ..routing.registry import Route
from .attempt import open_response
from .client import Client
from .prepare import missing_key_error
from .provider_api import get_json, get_reply, get_request

_ANSWER = 60.0  # seconds for an answer
_FILE = 900.0  # seconds for a file on its way
_LINE = 32 * 2**20  # bytes of a line of results
_PAGES = 50  # of a provider's list that are looked through
_FULL = 100  # batches in a page that has another after it
_LINES = 200_000  # results of one batch, in pages
_AROUND = 600.0  # seconds by which its clock and ours may differ


@dataclass(frozen=True, slots=True)
class BatchServer:
    """A provider that takes batches, asked from any thread but the engine's."""

    client: Client
    route: Route
    key: Secret | None

    @classmethod
    def of(cls, client: Client, route: Route, key: Secret | None) -> BatchServer:
        """Raises ConfigError where the route's provider takes no batches."""
        row = route.provider
        if not row.batch or route.fallbacks:
            who = "Models that take each other's place" if route.fallbacks else row.label or row.name
            raise errors.ConfigError(
                f"{who} {'cannot be asked in batches' if route.fallbacks else 'takes no batches'}.",
                hint='Leave mode="batch" out, or choose one model of OpenAI, Azure, Anthropic, Gemini, '
                "Mistral, Groq, Together or OpenRouter.",
            )
        if key is None and not row.local:
            raise missing_key_error(row)
        return cls(client, route, key)

    @property
    def row(self) -> ProviderSpec:
        """The provider."""
        return self.route.provider

    @property
    def format(self) -> BatchFormat:
        """How it writes batches."""
        return FORMATS[self.row.batch]

    @property
    def paged(self) -> bool:
        """Whether results come in pages, so that the state does not say if there are any."""
        return self.format.page_param == "cursor"

    @property
    def dialect(self) -> Dialect:
        """What reads an answer."""
        return self.client.registry.dialects[self.row.dialect]

    def create(self, lines: Sequence[str], names: Mapping[str, str]) -> BatchState:
        """A new batch of lines; names: what it is found by again, where the provider keeps that."""
        return _CREATE[self.format.creation](self, lines, names)

    def _single(self) -> Any:
        """A call that is no batch."""
        return self.dialect.encode(Request(self.route.model, (Message("user", "x"),)), self.row, None)

    def _endpoint(self) -> str:
        """The path that a batch of our calls names."""
        return batch_endpoint(self._single())

    def _requests(self, lines: Sequence[str], names: Mapping[str, str]) -> BatchState:
        """Of lines that stand in the call: Anthropic's, and OpenRouter's, which wants to read first what all
        of them have in common."""
        head = b""
        if self.format.creation == "described":
            head = dumps({"endpoint": self._endpoint(), "model": self.route.model}).encode()[1:-1] + b","
        content = b"{" + head + b'"requests":[' + ",".join(lines).encode() + b"]}"
        return parse_state(self._ask(self.format.path, content))

    def _file(self, lines: Sequence[str], names: Mapping[str, str]) -> BatchState:
        body = {"input_file_id": self._upload(lines, names), "endpoint": self._endpoint()}
        kept = {"metadata": dict(names)} if self.format.known_by == "metadata" else {}
        return parse_state(self._ask(self.format.path, {**body, "completion_window": "24h", **kept}))

    def _job(self, lines: Sequence[str], names: Mapping[str, str]) -> BatchState:
        body = {"input_files": [self._upload(lines, names)], "model": self.route.model}
        more = {"endpoint": self._endpoint(), "metadata": dict(names), "timeout_hours": 24}
        return parse_state(self._ask(self.format.path, {**body, **more}))

    def _resumable(self, lines: Sequence[str], names: Mapping[str, str]) -> BatchState:
        data, called = "\n".join(lines).encode(), {"file": {"display_name": _called(names)}}
        head = {
            "x-goog-upload-protocol": "resumable",
            "x-goog-upload-command": "start",
            "x-goog-upload-header-content-length": str(len(data)),
            "x-goog-upload-header-content-type": "application/jsonl",
        }
        call = self._beside("upload", "/files")
        call = replace(call, method="POST", body=called, headers={**call.headers, **head})
        to, _ = self.client.run(get_reply(self.client, self.row, call, _ANSWER))
        url = to.get("x-goog-upload-url", "")
        if not same_host(url, call.url):
            raise errors.ProtocolError("The provider wants a file elsewhere.", hint="Check base_url.")
        head = {"x-goog-upload-command": "upload, finalize", "x-goog-upload-offset": "0"}
        call = replace(call, url=url, body={}, content=data, headers={**call.headers, **head})
        sent = obj(obj(self._run(call)).get("file")).get("name")
        config = {"displayName": _called(names), "inputConfig": {"fileName": check_id(sent)}}
        path = urlsplit(self._single().url).path.rpartition(":")[0] + ":batchGenerateContent"
        call = self._call("/")
        url = urlsplit(call.url)._replace(path=path).geturl()
        return parse_state(self._run(replace(call, url=url, method="POST", body={"batch": config})))

    def _beside(self, word: str, path: str) -> HttpCall:
        """A call of a path of Google's that stands beside its others: /upload/v1beta."""
        call = self._call(path)
        at = urlsplit(call.url)
        return replace(call, url=at._replace(path=f"/{word}{at.path}").geturl())

    def _upload(self, lines: Sequence[str], names: Mapping[str, str]) -> str:
        """The id of a new file of lines."""
        mark, name, form = f"nbllm-{uuid4().hex}", f"{_called(names)}.jsonl", ""
        for field, value in {"purpose": self.format.purpose, "file_name": name, "file_type": "jsonl"}.items():
            if field == "purpose" or self.format.known_by == "file":
                form += f'--{mark}\r\nContent-Disposition: form-data; name="{field}"\r\n\r\n{value}\r\n'
        form += f'--{mark}\r\nContent-Disposition: form-data; name="file"; filename="{name}"\r\n'
        form += "Content-Type: application/jsonl\r\n\r\n"
        data = form.encode() + "\n".join(lines).encode() + f"\r\n--{mark}--\r\n".encode()
        made = self._ask(self.format.upload_path, data, f"multipart/form-data; boundary={mark}")
        return check_id(obj(made).get("id"))

    def look(self, id: str) -> BatchState:
        """How far a batch is."""
        return parse_state(self._ask(self._path(id)))

    def cancel(self, id: str) -> BatchState:
        """Asks that no more of a batch is done. What is done already can be read. Raises ConfigError where
        the provider has no way to ask."""
        if not self.format.cancel_suffix:
            raise errors.ConfigError(
                f"A batch at {self.row.label} cannot be cancelled.", hint="Its rows come when it ends."
            )
        return parse_state(self._ask(self._path(id) + self.format.cancel_suffix, {}))

    def find(self, run: str, part: int, total: int, created: float, first: str) -> tuple[str, bool]:
        """The id of a batch that was created for a part of a run, "" where there is none; and whether one
        that may be it has to end before that is known. created: when that was begun; first: how the ids of
        its lines begin."""
        waits, named = False, self._named({"nbllm_run": run, "part": str(part)})
        for about in self._listed(created):
            if named is not None:
                if named(about):
                    return check_id(about.get("id") or about.get("name")), False
                continue
            found = parse_state(about)
            if found.total == total and abs((_moment(about) or created) - created) <= _AROUND:
                if found.running:
                    waits = True
                elif self._begins(found, first):
                    return check_id(found.id), False
        return "", waits

    def _named(self, names: Mapping[str, str]) -> Callable[[Mapping[str, Any]], bool] | None:
        """What tells from a provider's list whether a batch has our names; None where nothing there does."""
        name, by = _called(names), self.format.known_by
        if by == "name":
            return lambda about: obj(about.get("metadata")).get("displayName") == name
        if by == "file":
            data = obj(self._ask("/files")).get("data")
            files = {f.get("id") for f in items(data) if f.get("filename") == f"{name}.jsonl"}
            return lambda about: string(about.get("input_file_id")) in files
        if by == "result":
            return None
        return lambda about: all(obj(about.get("metadata")).get(n) == v for n, v in names.items())

    def _listed(self, since: float) -> Iterator[Mapping[str, Any]]:
        """The batches in the provider's list, newest first, as far back as `since`."""
        more = ""
        for number in range(_PAGES):
            page = self._ask(f"{self.format.path}?{self.format.size_param}{more}")
            found = list(items(page if isinstance(page, list) else _any(page, "data", "operations")))
            yield from found
            old = bool(found) and (_moment(found[-1]) or since) < since - _AROUND
            if not found or old or not (after := self._after(obj(page), found, number)):
                return
            more = f"&{self.format.page_param}={quote(after, safe='')}"

    def _after(self, page: Mapping[str, Any], found: Sequence[Mapping[str, Any]], number: int) -> str:
        """What asks for the page after this one, "" at the end."""
        if self.format.page_param in ("cursor", "pageToken"):
            return string(page.get("next_cursor") or page.get("nextPageToken"))
        if self.format.page_param == "page":
            return str(number + 1) if len(found) >= _FULL else ""
        return check_id(found[-1].get("id")) if page.get("has_more") is True else ""

    def _begins(self, found: BatchState, first: str) -> bool:
        seen: list[bool] = []

        def take(line: bytes) -> bool:
            if line.strip():
                seen.append(string(obj(load_json(line)).get("custom_id")).startswith(first))
            return not seen

        self._inline(found, take)
        return seen == [True]

    def results(self, found: BatchState, take: Callable[[bytes], Any]) -> None:
        """Gives each line of all results to `take`."""

        def all_of(line: bytes) -> bool:
            take(line)
            return True

        if self.format.shape == "inline":
            self._inline(found, all_of)
            return
        for line in found.inline:
            take(dumps(line).encode())
        for name in found.files:
            self.client.run(self._read(self._content(check_id(name)), all_of))

    def _content(self, name: str) -> HttpCall:
        """What reads a file of results."""
        if self.format.creation == "resumable":
            return self._beside("download", f"/{name}:download?alt=media")
        return self._call(f"/files/{name}/content")

    def _inline(self, found: BatchState, take: Callable[[bytes], bool]) -> None:
        """Gives the lines of results that stand in a file (Anthropic) or in pages (OpenRouter)."""
        path = f"{self._path(found.id)}/results"
        if not self.paged:
            if found.url:
                self.client.run(self._read(self._call(path), take))
            return
        more, lines = "", _LINES
        while lines > 0:
            page = self._ask(path + more)
            some = list(items(page if isinstance(page, list) else _any(page, "data", "results")))
            if not all(take(dumps(line).encode()) for line in some) or not some:
                return
            after = string(obj(page).get("next_cursor"))
            if not after:
                return
            more, lines = f"?cursor={quote(after, safe='')}", lines - len(some)

    def _path(self, id: str) -> str:
        """Where a batch is. Google's ids name their place themselves."""
        return f"/{check_id(id)}" if "/" in id else f"{self.format.path}/{check_id(id)}"

    def _call(self, path: str) -> HttpCall:
        return get_request(self.client, self.row, path, self.key)

    def _ask(self, path: str, content: bytes | Mapping[str, Any] | None = None, kind: str = "") -> Any:
        call = self._call(path)
        if isinstance(content, bytes):
            call = replace(call, method="POST", content=content)
            if kind:
                call = replace(call, headers={**call.headers, "content-type": kind})
        elif content is not None:
            call = replace(call, method="POST", body=content)
        return self._run(call)

    def _run(self, call: HttpCall) -> Any:
        return self.client.run(get_json(self.client, self.row, call, _FILE if call.content else _ANSWER))

    async def _read(self, call: HttpCall, take: Callable[[bytes], bool]) -> None:
        """Passes the lines of an answer to `take` until that returns False. On the engine's loop."""
        async with (
            open_response(self.client.http, self.dialect, self.row, call, _FILE, connect=_ANSWER) as reply,
            contextlib.aclosing(reply.lines(_LINE)) as lines,
        ):
            async for line in lines:
                if not take(line):
                    return


_CREATE: Mapping[str, Callable[[BatchServer, Sequence[str], Mapping[str, str]], BatchState]] = {
    "file": BatchServer._file,
    "requests": BatchServer._requests,
    "described": BatchServer._requests,
    "resumable": BatchServer._resumable,
    "job": BatchServer._job,
}


def _called(names: Mapping[str, str]) -> str:
    """The names of a batch in one word."""
    return "-".join(("nbllm", *names.values()))


def _any(page: Any, *names: str) -> Any:
    return next((found for name in names if (found := obj(page).get(name))), [])


def _moment(about: Mapping[str, Any]) -> float | None:
    """When a batch was created, in seconds since 1970."""
    said = about.get("created_at") or obj(about.get("metadata")).get("createTime")
    if (number := count(said)) is not None:
        return float(number)
    try:
        return datetime.fromisoformat(string(said)).timestamp()
    except (ValueError, OverflowError):
        return None
