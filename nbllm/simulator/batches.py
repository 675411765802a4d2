"""Batch APIs of six kinds of providers: OpenAI (also Groq and Azure), Anthropic, Gemini and Mistral.
OpenRouter is served under /api/v1 and Together under /together/v1, because their paths coincide with
OpenAI's.

Files are uploaded; batches are created from files or from the request's body, listed, read and cancelled.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from . import routes
from .batch import Batch, BatchLine, describe, result_lines, results_jsonl
from .options import Options, options_for
from .protocols import PARSE_ERRORS, ApiError, HttpRequest, encode

_MAX_FILE_BYTES = 256 << 20  # of all files; the oldest are deleted first
_MAX_BATCHES = 1_000  # the oldest are deleted first
_ID = re.compile(r"[A-Za-z0-9_-]{1,64}")
_MAX_LISTED, _INVALID, _NO_LINES = 100, "Invalid value", "The file has no lines."


@dataclass(slots=True)
class BatchStore:
    """The files and batches of one simulator."""

    files: dict[str, bytes] = field(default_factory=dict)
    file_names: dict[str, str] = field(default_factory=dict)
    batches: dict[str, Batch] = field(default_factory=dict)
    count: int = 0

    def answer(self, request: HttpRequest, options: Options, now: float) -> tuple[Any, dict[str, str]] | None:
        """The body and headers for a request about files or batches, None for any other. A body that is a
        string is JSON lines. Raises ApiError."""
        for method, pattern, function in _ROUTES:
            found = pattern.match(request.path) if method == request.method else None
            if found:
                body = function(self, request, _Context(found[1] if pattern.groups else "", options, now))
                return body if isinstance(body, tuple) else (body, {})
        return None

    def store_file(self, data: bytes, name: str = "batch.jsonl") -> str:
        """Stores a file and returns its id."""
        self.count += 1
        self.files[f"file-{self.count}"] = data
        self.file_names[f"file-{self.count}"] = name[:200]
        while sum(map(len, self.files.values())) > _MAX_FILE_BYTES:
            del self.files[next(iter(self.files))]
        return f"file-{self.count}"

    def create_valid(
        self, kind: str, path: str, lines: list[BatchLine], fields: Mapping[str, Any], context: _Context
    ) -> Batch:
        """Creates a batch. Raises ApiError if an id is invalid or not unique."""
        ids = [line.id for line in lines]
        if not lines or len(set(ids)) < len(ids) or not all(map(_ID.fullmatch, ids)):
            raise ApiError(
                400, "Each request needs a unique id of at most 64 characters." if ids else _NO_LINES
            )
        return self.create(kind, path, lines, fields, context)

    def create(
        self,
        kind: str,
        path: str,
        lines: list[BatchLine],
        fields: Mapping[str, Any],
        context: _Context,
        *,
        problem: tuple[str, str] | None = None,
    ) -> Batch:
        """Creates a batch without validation. The model's name of its first line has its options."""
        model = str(lines[0].body.get("model") or fields.get("model") or "") if lines else ""
        options = options_for(context.options, model)
        self.count += 1
        batch = Batch(
            kind, f"{_PREFIX[kind]}{self.count}", context.now, path, options, lines, fields, problem
        )
        waiting = sum(b.enqueued_tokens for b in self.batches.values() if not b.final_status(context.now))
        if options.enqueued is not None and waiting + batch.enqueued_tokens > options.enqueued:
            batch.problem = ("token_limit_exceeded", "Enqueued token limit reached for this model.")
        self.batches[batch.id] = batch
        if len(self.batches) > _MAX_BATCHES:
            del self.batches[next(iter(self.batches))]
        return batch

    def get(self, id: str) -> Batch:
        """The batch with this id. Raises ApiError."""
        if id not in self.batches:
            raise ApiError(404, f"No batch {id[:80]!r}.")
        return self.batches[id]


class _Context(NamedTuple):
    id: str
    options: Options
    now: float


_PREFIX = {
    "openai": "batch_",
    "anthropic": "msgbatch_",
    "gemini": "sim",
    "mistral": "job-",
    "together": "tg-",
    "openrouter": "or-",
}


# --- files --------------------------------------------------------------------------------------------------


def _upload_file(store: BatchStore, request: HttpRequest, context: _Context) -> Any:
    boundary = re.search(r'boundary="?([^";]+)', request.headers.get("content-type", ""))
    if not boundary:
        raise ApiError(400, "A file must be uploaded as multipart/form-data.")
    parts = {}
    for part in request.body.split(b"--" + boundary[1].encode("latin-1"))[1:-1]:
        head, _, data = part.partition(b"\r\n\r\n")
        name = re.search(rb'[; ]name="([^"]*)"', head)
        parts[name[1] if name else b""] = data.removesuffix(b"\r\n")
    purpose = "batch-api" if request.path.startswith("/together") else "batch"
    if parts.get(b"purpose") != purpose.encode() or b"file" not in parts:
        raise ApiError(400, f"purpose={purpose} and a file are required.")
    called = parts.get(b"file_name", b"batch.jsonl").decode("utf-8", "replace")
    return _describe_file(store, store.store_file(parts[b"file"], called))


def _describe_file(store: BatchStore, id: str) -> dict[str, Any]:
    if id not in store.files:
        raise ApiError(404, f"No such File object: {id[:80]}")
    fields = {"created_at": routes.CREATED, "filename": store.file_names[id], "purpose": "batch"}
    fields |= {"sample_type": "batch_request", "source": "upload"}  # Mistral has these
    return {"id": id, "object": "file", "bytes": len(store.files[id]), "status": "processed", **fields}


def _delete_file(store: BatchStore, request: HttpRequest, context: _Context) -> Any:
    fields = _describe_file(store, context.id)
    del store.files[context.id]
    return {"id": fields["id"], "object": "file", "deleted": True}


def _file_content(store: BatchStore, request: HttpRequest, context: _Context) -> str:
    """The content of a file. The file of a batch's results is named after its kind and the batch."""
    kind, _, id = context.id.partition("-")
    if kind in ("out", "err"):
        return results_jsonl(store.get(id), context.now, kind)
    _describe_file(store, context.id)
    return store.files[context.id].decode("utf-8", "replace")


def _upload_google_file(store: BatchStore, request: HttpRequest, context: _Context) -> Any:
    command = request.headers.get("x-goog-upload-command", "")
    if "start" in command:
        return {}, {"x-goog-upload-url": f"{_url(request)}?upload_id=1", "x-goog-upload-status": "active"}
    if "finalize" not in command:
        raise ApiError(400, "X-Goog-Upload-Command must be start, or upload, finalize.")
    return {"file": {"name": f"files/{store.store_file(request.body)}"}}, {"x-goog-upload-status": "final"}


# --- creation -----------------------------------------------------------------------------------------------


def _create_openai(store: BatchStore, request: HttpRequest, context: _Context) -> Any:
    fields = request.json()
    data, path = store.files.get(str(fields.get("input_file_id"))), str(fields.get("endpoint"))
    if data is None or not path.startswith("/v1/") or not fields.get("completion_window"):
        raise ApiError(400, f"{_INVALID}: input_file_id, endpoint and completion_window are required.")
    found, problem = [], None
    kind = "together" if request.path.startswith("/together") else "openai"
    try:
        found = list(_parse_lines(data, "custom_id", "body", path if kind == "openai" else ""))
        problem = _validate_lines(found)
    except ApiError as error:
        problem = (error.reason, error.message)
    descriptions = describe(store.create(kind, path, found, fields, context, problem=problem), context.now)
    return {"job": descriptions, "warning": None} if kind == "together" else descriptions


def _validate_lines(found: list[BatchLine]) -> tuple[str, str] | None:
    if not found:
        return "empty_file", _NO_LINES
    if len({line.id for line in found}) < len(found):
        return "duplicate_custom_id", "The custom_id of a line is not unique."
    if len({str(line.body.get("model")) for line in found}) > 1:
        return "model_mismatch", "All lines of a batch must have the same model."
    return None


def _parse_lines(data: bytes, id: str, body: str, path: str = "") -> Iterator[BatchLine]:
    """The lines of a file. id, body: names of their fields; path: the url that each line must have, "" for
    any. Raises ApiError with a reason code."""
    for number, text in enumerate(filter(None, map(bytes.strip, data.split(b"\n"))), 1):
        try:
            value = json.loads(text)
            line = BatchLine(value[id], value[body])
        except PARSE_ERRORS:
            raise ApiError(400, f"Line {number} is not a request.", reason="invalid_json_line") from None
        if not isinstance(line.id, str) or not isinstance(line.body, dict) or line.body.get("stream"):
            raise ApiError(400, f"Line {number} is not a request.", reason="invalid_json_line")
        if path and (value.get("url"), value.get("method")) != (path, "POST"):
            raise ApiError(400, f"Line {number} is for another url.", reason="url_mismatch")
        yield line


def _parse_inline(values: Any, id: str, body: str) -> list[BatchLine]:
    if not isinstance(values, list):
        raise ApiError(400, f"{_INVALID}: requests must be a list.")
    return list(_parse_lines(b"\n".join(map(encode, values)), id, body))


def _create_anthropic(store: BatchStore, request: HttpRequest, context: _Context) -> Any:
    if "anthropic-version" not in request.headers:
        raise ApiError(400, "anthropic-version: header is required")
    found = _parse_inline(request.json().get("requests"), "custom_id", "params")
    return describe(
        store.create_valid("anthropic", "/v1/messages", found, {"url": _url(request)}, context), context.now
    )


def _create_openrouter(store: BatchStore, request: HttpRequest, context: _Context) -> Any:
    fields = request.json()
    names, path, model = list(fields), str(fields.get("endpoint")), str(fields.get("model"))
    if not path.startswith("/v1/") or "model" not in fields or names.index("requests") < 2:
        raise ApiError(400, f"{_INVALID}: endpoint and model are required, before requests.")
    found = _parse_inline(fields["requests"], "custom_id", "body")
    if any(line.body.get("model", model) != model for line in found):
        raise ApiError(400, "All requests must have the batch's model.")
    found = [BatchLine(line.id, {**line.body, "model": model}) for line in found]
    stored = {"endpoint": path, "model": model}
    return describe(store.create_valid("openrouter", path, found, stored, context), context.now)


def _create_google(store: BatchStore, request: HttpRequest, context: _Context) -> Any:
    fields = request.json()["batch"]
    config = fields["inputConfig"]
    if "fileName" in config:
        data = store.files.get(str(config["fileName"]).removeprefix("files/"), b"")
        found = list(_parse_lines(data, "key", "request"))
    else:
        inner = [{**r, "key": r["metadata"]["key"]} for r in config["requests"]["requests"]]
        found = _parse_inline(inner, "key", "request")
    path, model = f"/v1beta/models/{context.id}:generateContent", context.id
    fields = {**fields, "model": model, "inline": "fileName" not in config}
    return describe(store.create_valid("gemini", path, found, fields, context), context.now)


def _create_mistral(store: BatchStore, request: HttpRequest, context: _Context) -> Any:
    fields = request.json()
    model, path = str(fields["model"]), str(fields["endpoint"])
    inner = fields.get("requests")
    data = b"\n".join(store.files.get(str(id), b"") for id in fields.get("input_files") or ())
    found = (
        _parse_inline(inner, "custom_id", "body") if inner else list(_parse_lines(data, "custom_id", "body"))
    )
    found = [BatchLine(line.id, {**line.body, "model": model}) for line in found]
    return describe(store.create_valid("mistral", path, found, fields, context), context.now)


# --- description, results, cancellation ---------------------------------------------------------------------


def _url(request: HttpRequest) -> str:
    return f"http://{request.headers.get('host', '')}{request.path}"


def _describe_batch(store: BatchStore, request: HttpRequest, context: _Context) -> Any:
    return describe(store.get(context.id), context.now)


def _list_batches(store: BatchStore, request: HttpRequest, context: _Context) -> Any:
    kind = next((k for end, k in _KIND_BY_SUFFIX if request.path.endswith(end)), "openai")
    kind = "gemini" if routes.guess_format(request).NAME == "gemini" else kind
    kind = next((k for start, k in _KIND_BY_PREFIX if request.path.startswith(start)), kind)
    found = [b for b in reversed(store.batches.values()) if b.kind == kind][:_MAX_LISTED]
    descriptions = [describe(b, context.now) for b in found]
    if kind == "gemini":
        return {"operations": descriptions}
    if kind == "together":
        return descriptions
    return {"object": "list", "data": descriptions, "has_more": False, "total": len(descriptions)}


_KIND_BY_PREFIX = (("/api/", "openrouter"), ("/together/", "together"))
_KIND_BY_SUFFIX = (("/messages/batches", "anthropic"), ("/batch/jobs", "mistral"))


def _cancel_batch(store: BatchStore, request: HttpRequest, context: _Context) -> Any:
    batch = store.get(context.id)
    batch.is_cancelled = batch.is_cancelled or not batch.final_status(context.now)
    return describe(batch, context.now)


def _batch_results(store: BatchStore, request: HttpRequest, context: _Context) -> str:
    batch = store.get(context.id)
    if not batch.final_status(context.now):
        raise ApiError(404, "The batch has not ended.")
    return results_jsonl(batch, context.now)


def _results_page(store: BatchStore, request: HttpRequest, context: _Context) -> Any:
    """One page of OpenRouter's results."""
    batch = store.get(context.id)
    if not batch.final_status(context.now):
        raise ApiError(409, "The batch has not ended.")
    found, cursor = result_lines(batch, context.now), str(request.query.get("cursor") or "0")
    start = int(cursor) if cursor.isdigit() and len(cursor) < 9 else 0
    more = start + _PAGE_SIZE < len(found)
    return {
        "data": found[start : start + _PAGE_SIZE],
        "next_cursor": str(start + _PAGE_SIZE) if more else None,
    }


def _delete_batch(store: BatchStore, request: HttpRequest, context: _Context) -> Any:
    if not store.get(context.id).final_status(context.now):
        raise ApiError(409, "The batch has not ended.")
    del store.batches[context.id]
    return {"id": context.id, "deleted": True}


_PAGE_SIZE = 4
_ROUTES: tuple[tuple[str, re.Pattern[str], Callable[[BatchStore, HttpRequest, _Context], Any]], ...] = tuple(
    (method, re.compile(pattern), function)
    for method, pattern, function in (
        ("POST", r"/upload/v1(?:beta)?/files\Z", _upload_google_file),
        ("POST", r"/v1(?:beta)?/models/([^/:]+):batchGenerateContent\Z", _create_google),
        ("GET", r"(?:/download)?/v1(?:beta)?/files/out-all-([^/:]+):download\Z", _batch_results),
        ("POST", r"(?:/openai|/together)?/v1(?:beta)?/batches/([^/:]+)(?:/|:)cancel\Z", _cancel_batch),
        ("GET", r"(?:/openai|/together)?/v1(?:beta)?/batches/([^/:]+)\Z", _describe_batch),
        ("GET", r"(?:/openai|/together)?/v1(?:beta)?/batches\Z", _list_batches),
        ("POST", r"(?:/openai|/together)?/v1/batches\Z", _create_openai),
        ("POST", r"(?:/openai|/together)?/v1/files\Z", _upload_file),
        ("GET", r"(?:/openai|/together)?/v1/files/([^/]+)/content\Z", _file_content),
        (
            "GET",
            r"(?:/openai|/together)?/v1/files/([^/]+)\Z",
            lambda store, _, context: _describe_file(store, context.id),
        ),
        ("DELETE", r"(?:/openai|/together)?/v1/files/([^/]+)\Z", _delete_file),
        ("POST", r"/together/v1/files/upload\Z", _upload_file),
        (
            "GET",
            r"/together/v1/files\Z",
            lambda store, *_: {
                "object": "list",
                "data": [_describe_file(store, id) for id in reversed(store.files)],
            },
        ),
        ("POST", r"/api/v1/batches\Z", _create_openrouter),
        ("GET", r"/api/v1/batches\Z", _list_batches),
        ("GET", r"/api/v1/batches/([^/]+)\Z", _describe_batch),
        ("DELETE", r"/api/v1/batches/([^/]+)\Z", _delete_batch),
        ("GET", r"/api/v1/batches/([^/]+)/results\Z", _results_page),
        ("POST", r"/v1/messages/batches\Z", _create_anthropic),
        ("GET", r"/v1/messages/batches\Z", _list_batches),
        ("GET", r"/v1/messages/batches/([^/]+)/results\Z", _batch_results),
        ("GET", r"/v1/messages/batches/([^/]+)\Z", _describe_batch),
        ("POST", r"/v1/messages/batches/([^/]+)/cancel\Z", _cancel_batch),
        ("POST", r"/v1/batch/jobs\Z", _create_mistral),
        ("GET", r"/v1/batch/jobs\Z", _list_batches),
        ("GET", r"/v1/batch/jobs/([^/]+)\Z", _describe_batch),
        ("POST", r"/v1/batch/jobs/([^/]+)/cancel\Z", _cancel_batch),
    )
)
