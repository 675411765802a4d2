"""Batches on a provider's server: create, find again, poll, read and cancel them.

The key is sent to the provider's own address only: a URL of results that the provider names is never
followed, since its own paths lead to the same results. The differences between providers are in
dialects.batches.FORMATS; here are the ways to submit lines and to read their results.
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

_TIMEOUT = 60.0  # seconds for an answer
_FILE_TIMEOUT = 900.0  # seconds to transfer a file
_MAX_LINE = 32 * 2**20  # bytes of a line of results
_MAX_PAGES = 50  # of a provider's list of batches
_PAGE_SIZE = 100  # batches in a page that is not the last
_MAX_RESULTS = 200_000  # of one batch, where they come in pages
_CLOCK_TOLERANCE = 600.0  # seconds by which the provider's clock and ours may differ


@dataclass(frozen=True, slots=True)
class BatchServer:
    """A provider's API for batches, for use on any thread but the engine's."""

    client: Client
    route: Route
    key: Secret | None

    @classmethod
    def of(cls, client: Client, route: Route, key: Secret | None) -> BatchServer:
        """For a route. Raises ConfigError where its provider takes no batches."""
        row = route.provider
        if not row.batch or route.fallbacks:
            label = row.label or row.name
            raise errors.ConfigError(
                "Models with failover cannot run in batches."
                if route.fallbacks
                else f"{label} takes no batches.",
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
        """The format of the provider's batches."""
        return FORMATS[self.row.batch]

    @property
    def has_result_pages(self) -> bool:
        """Whether results come in pages; then the state does not say if there are any."""
        return self.format.page_param == "cursor"

    @property
    def dialect(self) -> Dialect:
        """The dialect of the answers."""
        return self.client.registry.dialects[self.row.dialect]

    def create(self, lines: Sequence[str], names: Mapping[str, str]) -> BatchState:
        """Creates a batch of lines. names: by which it is found again, where the provider stores them."""
        return _CREATE[self.format.creation](self, lines, names)

    def _single_call(self) -> Any:
        """An ordinary call, which shows the provider's path."""
        return self.dialect.encode(Request(self.route.model, (Message("user", "x"),)), self.row, None)

    def _endpoint(self) -> str:
        """The path of the calls in a batch."""
        return batch_endpoint(self._single_call())

    def _create_from_requests(self, lines: Sequence[str], names: Mapping[str, str]) -> BatchState:
        """Sends the lines in the request: for Anthropic, and for OpenRouter, which needs the common settings
        of all lines first."""
        head = b""
        if self.format.creation == "described":
            head = dumps({"endpoint": self._endpoint(), "model": self.route.model}).encode()[1:-1] + b","
        content = b"{" + head + b'"requests":[' + ",".join(lines).encode() + b"]}"
        return parse_state(self._request(self.format.path, content))

    def _create_from_file(self, lines: Sequence[str], names: Mapping[str, str]) -> BatchState:
        body = {"input_file_id": self._upload(lines, names), "endpoint": self._endpoint()}
        metadata = {"metadata": dict(names)} if self.format.known_by == "metadata" else {}
        return parse_state(self._request(self.format.path, {**body, "completion_window": "24h", **metadata}))

    def _create_job(self, lines: Sequence[str], names: Mapping[str, str]) -> BatchState:
        body = {"input_files": [self._upload(lines, names)], "model": self.route.model}
        options = {"endpoint": self._endpoint(), "metadata": dict(names), "timeout_hours": 24}
        return parse_state(self._request(self.format.path, {**body, **options}))

    def _create_resumable(self, lines: Sequence[str], names: Mapping[str, str]) -> BatchState:
        data, called = "\n".join(lines).encode(), {"file": {"display_name": _batch_name(names)}}
        head = {
            "x-goog-upload-protocol": "resumable",
            "x-goog-upload-command": "start",
            "x-goog-upload-header-content-length": str(len(data)),
            "x-goog-upload-header-content-type": "application/jsonl",
        }
        call = self._prefixed_call("upload", "/files")
        call = replace(call, method="POST", body=called, headers={**call.headers, **head})
        to, _ = self.client.run(get_reply(self.client, self.row, call, _TIMEOUT))
        url = to.get("x-goog-upload-url", "")
        if not same_host(url, call.url):
            raise errors.ProtocolError(
                "The provider names another host to upload the file to.", hint="Check base_url."
            )
        head = {"x-goog-upload-command": "upload, finalize", "x-goog-upload-offset": "0"}
        call = replace(call, url=url, body={}, content=data, headers={**call.headers, **head})
        sent = obj(obj(self._run(call)).get("file")).get("name")
        config = {"displayName": _batch_name(names), "inputConfig": {"fileName": check_id(sent)}}
        path = urlsplit(self._single_call().url).path.rpartition(":")[0] + ":batchGenerateContent"
        call = self._call("/")
        url = urlsplit(call.url)._replace(path=path).geturl()
        return parse_state(self._run(replace(call, url=url, method="POST", body={"batch": config})))

    def _prefixed_call(self, word: str, path: str) -> HttpCall:
        """A call whose path has a prefix before the version, as in Google's /upload/v1beta."""
        call = self._call(path)
        at = urlsplit(call.url)
        return replace(call, url=at._replace(path=f"/{word}{at.path}").geturl())

    def _upload(self, lines: Sequence[str], names: Mapping[str, str]) -> str:
        """Uploads the lines as a file and returns its id."""
        mark, name, form = f"nbllm-{uuid4().hex}", f"{_batch_name(names)}.jsonl", ""
        for field, value in {"purpose": self.format.purpose, "file_name": name, "file_type": "jsonl"}.items():
            if field == "purpose" or self.format.known_by == "file":
                form += f'--{mark}\r\nContent-Disposition: form-data; name="{field}"\r\n\r\n{value}\r\n'
        form += f'--{mark}\r\nContent-Disposition: form-data; name="file"; filename="{name}"\r\n'
        form += "Content-Type: application/jsonl\r\n\r\n"
        data = form.encode() + "\n".join(lines).encode() + f"\r\n--{mark}--\r\n".encode()
        file = self._request(self.format.upload_path, data, f"multipart/form-data; boundary={mark}")
        return check_id(obj(file).get("id"))

    def get_state(self, id: str) -> BatchState:
        """Requests the state of a batch."""
        return parse_state(self._request(self._path(id)))

    def cancel(self, id: str) -> BatchState:
        """Cancels a batch; finished results can still be read. Raises ConfigError where the provider cannot
        cancel batches."""
        if not self.format.cancel_suffix:
            raise errors.ConfigError(
                f"{self.row.label} cannot cancel a batch.", hint="Its rows arrive when it ends."
            )
        return parse_state(self._request(self._path(id) + self.format.cancel_suffix, {}))

    def find(self, run: str, part: int, total: int, created: float, first: str) -> tuple[str, bool]:
        """(the id of the batch that was created for a part of a run, "" where there is none; whether a
        candidate must end first, before that can be known). created: when its creation began. first: the
        beginning of its lines' ids."""
        must_wait, named = False, self._name_matcher({"nbllm_run": run, "part": str(part)})
        for batch in self._list_batches(created):
            if named is not None:
                if named(batch):
                    return check_id(batch.get("id") or batch.get("name")), False
                continue
            state = parse_state(batch)
            if state.total == total and abs((_created_at(batch) or created) - created) <= _CLOCK_TOLERANCE:
                if state.running:
                    must_wait = True
                elif self._starts_with(state, first):
                    return check_id(state.id), False
        return "", must_wait

    def _name_matcher(self, names: Mapping[str, str]) -> Callable[[Mapping[str, Any]], bool] | None:
        """A function that tells whether a batch in the provider's list has our names; None where the list
        does not show them."""
        name, by = _batch_name(names), self.format.known_by
        if by == "name":
            return lambda batch: obj(batch.get("metadata")).get("displayName") == name
        if by == "file":
            data = obj(self._request("/files")).get("data")
            files = {f.get("id") for f in items(data) if f.get("filename") == f"{name}.jsonl"}
            return lambda batch: string(batch.get("input_file_id")) in files
        if by == "result":
            return None
        return lambda batch: all(obj(batch.get("metadata")).get(n) == v for n, v in names.items())

    def _list_batches(self, since: float) -> Iterator[Mapping[str, Any]]:
        """The batches in the provider's list, newest first, back to `since`."""
        cursor = ""
        for number in range(_MAX_PAGES):
            page = self._request(f"{self.format.path}?{self.format.size_param}{cursor}")
            batches = list(items(page if isinstance(page, list) else _first_of(page, "data", "operations")))
            yield from batches
            old = bool(batches) and (_created_at(batches[-1]) or since) < since - _CLOCK_TOLERANCE
            if not batches or old or not (after := self._next_page(obj(page), batches, number)):
                return
            cursor = f"&{self.format.page_param}={quote(after, safe='')}"

    def _next_page(self, page: Mapping[str, Any], batches: Sequence[Mapping[str, Any]], number: int) -> str:
        """The parameter value for the page after this one; "" at the end."""
        if self.format.page_param in ("cursor", "pageToken"):
            return string(page.get("next_cursor") or page.get("nextPageToken"))
        if self.format.page_param == "page":
            return str(number + 1) if len(batches) >= _PAGE_SIZE else ""
        return check_id(batches[-1].get("id")) if page.get("has_more") is True else ""

    def _starts_with(self, state: BatchState, first: str) -> bool:
        matches: list[bool] = []

        def take(line: bytes) -> bool:
            if line.strip():
                matches.append(string(obj(load_json(line)).get("custom_id")).startswith(first))
            return not matches

        self._read_inline(state, take)
        return matches == [True]

    def results(self, state: BatchState, take: Callable[[bytes], Any]) -> None:
        """Passes each line of the results to `take`."""

        def take_all(line: bytes) -> bool:
            take(line)
            return True

        if self.format.shape == "inline":
            self._read_inline(state, take_all)
            return
        for line in state.inline:
            take(dumps(line).encode())
        for name in state.files:
            self.client.run(self._read(self._content_call(check_id(name)), take_all))

    def _content_call(self, name: str) -> HttpCall:
        """The call for a file of results."""
        if self.format.creation == "resumable":
            return self._prefixed_call("download", f"/{name}:download?alt=media")
        return self._call(f"/files/{name}/content")

    def _read_inline(self, state: BatchState, take: Callable[[bytes], bool]) -> None:
        """Passes the lines of results to `take` until that returns False; they come as a file (Anthropic) or
        in pages (OpenRouter)."""
        path = f"{self._path(state.id)}/results"
        if not self.has_result_pages:
            if state.url:
                self.client.run(self._read(self._call(path), take))
            return
        cursor, lines = "", _MAX_RESULTS
        while lines > 0:
            page = self._request(path + cursor)
            some = list(items(page if isinstance(page, list) else _first_of(page, "data", "results")))
            if not all(take(dumps(line).encode()) for line in some) or not some:
                return
            after = string(obj(page).get("next_cursor"))
            if not after:
                return
            cursor, lines = f"?cursor={quote(after, safe='')}", lines - len(some)

    def _path(self, id: str) -> str:
        """The path of a batch. Google's ids are paths themselves."""
        return f"/{check_id(id)}" if "/" in id else f"{self.format.path}/{check_id(id)}"

    def _call(self, path: str) -> HttpCall:
        return get_request(self.client, self.row, path, self.key)

    def _request(self, path: str, content: bytes | Mapping[str, Any] | None = None, kind: str = "") -> Any:
        call = self._call(path)
        if isinstance(content, bytes):
            call = replace(call, method="POST", content=content)
            if kind:
                call = replace(call, headers={**call.headers, "content-type": kind})
        elif content is not None:
            call = replace(call, method="POST", body=content)
        return self._run(call)

    def _run(self, call: HttpCall) -> Any:
        return self.client.run(
            get_json(self.client, self.row, call, _FILE_TIMEOUT if call.content else _TIMEOUT)
        )

    async def _read(self, call: HttpCall, take: Callable[[bytes], bool]) -> None:
        """Passes the lines of an answer to `take` until that returns False. On the engine's loop."""
        async with (
            open_response(
                self.client.http, self.dialect, self.row, call, _FILE_TIMEOUT, connect=_TIMEOUT
            ) as reply,
            contextlib.aclosing(reply.lines(_MAX_LINE)) as lines,
        ):
            async for line in lines:
                if not take(line):
                    return


_CREATE: Mapping[str, Callable[[BatchServer, Sequence[str], Mapping[str, str]], BatchState]] = {
    "file": BatchServer._create_from_file,
    "requests": BatchServer._create_from_requests,
    "described": BatchServer._create_from_requests,
    "resumable": BatchServer._create_resumable,
    "job": BatchServer._create_job,
}


def _batch_name(names: Mapping[str, str]) -> str:
    """The names of a batch as one word."""
    return "-".join(("nbllm", *names.values()))


def _first_of(page: Any, *names: str) -> Any:
    return next((found for name in names if (found := obj(page).get(name))), [])


def _created_at(batch: Mapping[str, Any]) -> float | None:
    """When a batch was created, in seconds since 1970."""
    created = batch.get("created_at") or obj(batch.get("metadata")).get("createTime")
    if (number := count(created)) is not None:
        return float(number)
    try:
        return datetime.fromisoformat(string(created)).timestamp()
    except (ValueError, OverflowError):
        return None
