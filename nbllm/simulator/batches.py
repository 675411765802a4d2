"""Batches of six kinds: OpenAI's files (Groq's and Azure's too), Anthropic's, Gemini's and Mistral's; below
/api/v1 OpenRouter's, below /together/v1 Together's, which have paths in common with OpenAI's.

Files are kept, batches are made of them or of what stands in the call, listed, read and cancelled.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from . import routes
from .batch import ODD, Batch, Line, lines, shown, written
from .options import Options, chosen
from .protocols import Refused, Request, encode

_KEPT = 256 << 20  # bytes of all files; the oldest go first
_BATCHES = 1_000  # that are remembered
_ID = re.compile(r"[A-Za-z0-9_-]{1,64}")
_LIST, _REFUSED, _NO_LINES = 100, "Invalid value", "The file has no lines."


@dataclass(slots=True)
class Batches:
    """The files and batches of one simulator."""

    files: dict[str, bytes] = field(default_factory=dict)
    names: dict[str, str] = field(default_factory=dict)  # of files
    made: dict[str, Batch] = field(default_factory=dict)
    count: int = 0

    def answer(self, request: Request, options: Options, now: float) -> tuple[Any, dict[str, str]] | None:
        """(body, headers) where the request is about files and batches, else None. A text is JSON lines.
        Raises Refused."""
        for method, pattern, function in _PATHS:
            found = pattern.match(request.path) if method == request.method else None
            if found:
                body = function(self, request, _Asked(found[1] if pattern.groups else "", options, now))
                return body if isinstance(body, tuple) else (body, {})
        return None

    def keep(self, data: bytes, name: str = "batch.jsonl") -> str:
        """The id of a new file."""
        self.count += 1
        self.files[f"file-{self.count}"] = data
        self.names[f"file-{self.count}"] = name[:200]
        while sum(map(len, self.files.values())) > _KEPT:
            del self.files[next(iter(self.files))]
        return f"file-{self.count}"

    def add(self, kind: str, path: str, lines: list[Line], about: Mapping[str, Any], asked: _Asked) -> Batch:
        """A new batch. Raises Refused where an id stands twice or is none."""
        ids = [line.id for line in lines]
        if not lines or len(set(ids)) < len(ids) or not all(map(_ID.fullmatch, ids)):
            raise Refused(
                400, "Each request needs an id of its own, 64 characters at most." if ids else _NO_LINES
            )
        return self.put(kind, path, lines, about, asked)

    def put(
        self,
        kind: str,
        path: str,
        lines: list[Line],
        about: Mapping[str, Any],
        asked: _Asked,
        *,
        problem: tuple[str, str] | None = None,
    ) -> Batch:
        """A new batch as it is, with how it is to end in the options of its first line's model."""
        model = str(lines[0].body.get("model") or about.get("model") or "") if lines else ""
        options = chosen(asked.options, model)
        self.count += 1
        batch = Batch(kind, f"{_PREFIX[kind]}{self.count}", asked.now, path, options, lines, about, problem)
        waiting = sum(b.weight for b in self.made.values() if not b.end(asked.now))
        if options.enqueued is not None and waiting + batch.weight > options.enqueued:
            batch.problem = ("token_limit_exceeded", "Enqueued token limit reached for this model.")
        self.made[batch.id] = batch
        if len(self.made) > _BATCHES:
            del self.made[next(iter(self.made))]
        return batch

    def of(self, id: str) -> Batch:
        """The batch with this id. Raises Refused."""
        if id not in self.made:
            raise Refused(404, f"No batch {id[:80]!r}.")
        return self.made[id]


class _Asked(NamedTuple):
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


def _upload(batches: Batches, request: Request, asked: _Asked) -> Any:
    boundary = re.search(r'boundary="?([^";]+)', request.headers.get("content-type", ""))
    if not boundary:
        raise Refused(400, "A file is uploaded as multipart/form-data.")
    parts = {}
    for part in request.body.split(b"--" + boundary[1].encode("latin-1"))[1:-1]:
        head, _, data = part.partition(b"\r\n\r\n")
        name = re.search(rb'[; ]name="([^"]*)"', head)
        parts[name[1] if name else b""] = data.removesuffix(b"\r\n")
    purpose = "batch-api" if request.path.startswith("/together") else "batch"
    if parts.get(b"purpose") != purpose.encode() or b"file" not in parts:
        raise Refused(400, f"purpose={purpose} and a file are required.")
    called = parts.get(b"file_name", b"batch.jsonl").decode("utf-8", "replace")
    return _file(batches, batches.keep(parts[b"file"], called))


def _file(batches: Batches, id: str) -> dict[str, Any]:
    if id not in batches.files:
        raise Refused(404, f"No such File object: {id[:80]}")
    about = {"created_at": routes.CREATED, "filename": batches.names[id], "purpose": "batch"}
    about |= {"sample_type": "batch_request", "source": "upload"}  # Mistral's words
    return {"id": id, "object": "file", "bytes": len(batches.files[id]), "status": "processed", **about}


def _delete(batches: Batches, request: Request, asked: _Asked) -> Any:
    about = _file(batches, asked.id)
    del batches.files[asked.id]
    return {"id": about["id"], "object": "file", "deleted": True}


def _content(batches: Batches, request: Request, asked: _Asked) -> str:
    """What is in a file: results have the name of their batch and of the kind."""
    kind, _, id = asked.id.partition("-")
    if kind in ("out", "err"):
        return written(batches.of(id), asked.now, kind)
    _file(batches, asked.id)
    return batches.files[asked.id].decode("utf-8", "replace")


def _google_upload(batches: Batches, request: Request, asked: _Asked) -> Any:
    command = request.headers.get("x-goog-upload-command", "")
    if "start" in command:
        return {}, {"x-goog-upload-url": f"{_url(request)}?upload_id=1", "x-goog-upload-status": "active"}
    if "finalize" not in command:
        raise Refused(400, "X-Goog-Upload-Command is start, or upload, finalize.")
    return {"file": {"name": f"files/{batches.keep(request.body)}"}}, {"x-goog-upload-status": "final"}


# --- creation -----------------------------------------------------------------------------------------------


def _openai(batches: Batches, request: Request, asked: _Asked) -> Any:
    about = request.json()
    data, path = batches.files.get(str(about.get("input_file_id"))), str(about.get("endpoint"))
    if data is None or not path.startswith("/v1/") or not about.get("completion_window"):
        raise Refused(400, f"{_REFUSED}: input_file_id, endpoint and completion_window are required.")
    found, problem = [], None
    kind = "together" if request.path.startswith("/together") else "openai"
    try:
        found = list(_lines(data, "custom_id", "body", path if kind == "openai" else ""))
        problem = _problem(found)
    except Refused as refused:
        problem = (refused.why, refused.message)
    said = shown(batches.put(kind, path, found, about, asked, problem=problem), asked.now)
    return {"job": said, "warning": None} if kind == "together" else said


def _problem(found: list[Line]) -> tuple[str, str] | None:
    if not found:
        return "empty_file", _NO_LINES
    if len({line.id for line in found}) < len(found):
        return "duplicate_custom_id", "The custom_id of a line stands twice."
    if len({str(line.body.get("model")) for line in found}) > 1:
        return "model_mismatch", "All lines of a batch are for one model."
    return None


def _lines(data: bytes, id: str, body: str, path: str = "") -> Iterator[Line]:
    """The lines of a file, path where they name theirs. Raises Refused with the code of what is wrong."""
    for number, text in enumerate(filter(None, map(bytes.strip, data.split(b"\n"))), 1):
        try:
            value = json.loads(text)
            line = Line(value[id], value[body])
        except ODD:
            raise Refused(400, f"Line {number} is no request.", why="invalid_json_line") from None
        if not isinstance(line.id, str) or not isinstance(line.body, dict) or line.body.get("stream"):
            raise Refused(400, f"Line {number} is no request.", why="invalid_json_line")
        if path and (value.get("url"), value.get("method")) != (path, "POST"):
            raise Refused(400, f"Line {number} is for another url.", why="url_mismatch")
        yield line


def _inline(values: Any, id: str, body: str) -> list[Line]:
    if not isinstance(values, list):
        raise Refused(400, f"{_REFUSED}: requests is a list.")
    return list(_lines(b"\n".join(map(encode, values)), id, body))


def _anthropic(batches: Batches, request: Request, asked: _Asked) -> Any:
    if "anthropic-version" not in request.headers:
        raise Refused(400, "anthropic-version: header is required")
    found = _inline(request.json().get("requests"), "custom_id", "params")
    return shown(batches.add("anthropic", "/v1/messages", found, {"url": _url(request)}, asked), asked.now)


def _openrouter(batches: Batches, request: Request, asked: _Asked) -> Any:
    about = request.json()
    names, path, model = list(about), str(about.get("endpoint")), str(about.get("model"))
    if not path.startswith("/v1/") or "model" not in about or names.index("requests") < 2:
        raise Refused(400, f"{_REFUSED}: endpoint and model are required, and stand before requests.")
    found = _inline(about["requests"], "custom_id", "body")
    if any(line.body.get("model", model) != model for line in found):
        raise Refused(400, "All requests are for the model of the batch.")
    found = [Line(line.id, {**line.body, "model": model}) for line in found]
    kept = {"endpoint": path, "model": model}
    return shown(batches.add("openrouter", path, found, kept, asked), asked.now)


def _google(batches: Batches, request: Request, asked: _Asked) -> Any:
    about = request.json()["batch"]
    config = about["inputConfig"]
    if "fileName" in config:
        data = batches.files.get(str(config["fileName"]).removeprefix("files/"), b"")
        found = list(_lines(data, "key", "request"))
    else:
        inner = [{**r, "key": r["metadata"]["key"]} for r in config["requests"]["requests"]]
        found = _inline(inner, "key", "request")
    path, model = f"/v1beta/models/{asked.id}:generateContent", asked.id
    about = {**about, "model": model, "inline": "fileName" not in config}
    return shown(batches.add("gemini", path, found, about, asked), asked.now)


def _mistral(batches: Batches, request: Request, asked: _Asked) -> Any:
    about = request.json()
    model, path = str(about["model"]), str(about["endpoint"])
    inner = about.get("requests")
    data = b"\n".join(batches.files.get(str(id), b"") for id in about.get("input_files") or ())
    found = _inline(inner, "custom_id", "body") if inner else list(_lines(data, "custom_id", "body"))
    found = [Line(line.id, {**line.body, "model": model}) for line in found]
    return shown(batches.add("mistral", path, found, about, asked), asked.now)


# --- what is said of them -----------------------------------------------------------------------------------


def _url(request: Request) -> str:
    return f"http://{request.headers.get('host', '')}{request.path}"


def _get(batches: Batches, request: Request, asked: _Asked) -> Any:
    return shown(batches.of(asked.id), asked.now)


def _list(batches: Batches, request: Request, asked: _Asked) -> Any:
    kind = next((k for end, k in _KINDS if request.path.endswith(end)), "openai")
    kind = "gemini" if routes.speaks(request).NAME == "gemini" else kind
    kind = next((k for start, k in _BELOW if request.path.startswith(start)), kind)
    found = [b for b in reversed(batches.made.values()) if b.kind == kind][:_LIST]
    said = [shown(b, asked.now) for b in found]
    if kind == "gemini":
        return {"operations": said}
    if kind == "together":
        return said
    return {"object": "list", "data": said, "has_more": False, "total": len(said)}


_BELOW = (("/api/", "openrouter"), ("/together/", "together"))
_KINDS = (("/messages/batches", "anthropic"), ("/batch/jobs", "mistral"))


def _cancel(batches: Batches, request: Request, asked: _Asked) -> Any:
    batch = batches.of(asked.id)
    batch.stopped = batch.stopped or not batch.end(asked.now)
    return shown(batch, asked.now)


def _results(batches: Batches, request: Request, asked: _Asked) -> str:
    batch = batches.of(asked.id)
    if not batch.end(asked.now):
        raise Refused(404, "The batch has not ended.")
    return written(batch, asked.now)


def _pages(batches: Batches, request: Request, asked: _Asked) -> Any:
    """OpenRouter's results, a few at a time."""
    batch = batches.of(asked.id)
    if not batch.end(asked.now):
        raise Refused(409, "The batch has not ended.")
    found, cursor = lines(batch, asked.now), str(request.query.get("cursor") or "0")
    start = int(cursor) if cursor.isdigit() and len(cursor) < 9 else 0
    more = start + _PAGE < len(found)
    return {"data": found[start : start + _PAGE], "next_cursor": str(start + _PAGE) if more else None}


def _gone(batches: Batches, request: Request, asked: _Asked) -> Any:
    if not batches.of(asked.id).end(asked.now):
        raise Refused(409, "The batch has not ended.")
    del batches.made[asked.id]
    return {"id": asked.id, "deleted": True}


_PAGE = 4  # results in a page
_PATHS: tuple[tuple[str, re.Pattern[str], Callable[[Batches, Request, _Asked], Any]], ...] = tuple(
    (method, re.compile(pattern), function)
    for method, pattern, function in (
        ("POST", r"/upload/v1(?:beta)?/files\Z", _google_upload),
        ("POST", r"/v1(?:beta)?/models/([^/:]+):batchGenerateContent\Z", _google),
        ("GET", r"(?:/download)?/v1(?:beta)?/files/out-all-([^/:]+):download\Z", _results),
        ("POST", r"(?:/openai|/together)?/v1(?:beta)?/batches/([^/:]+)(?:/|:)cancel\Z", _cancel),
        ("GET", r"(?:/openai|/together)?/v1(?:beta)?/batches/([^/:]+)\Z", _get),
        ("GET", r"(?:/openai|/together)?/v1(?:beta)?/batches\Z", _list),
        ("POST", r"(?:/openai|/together)?/v1/batches\Z", _openai),
        ("POST", r"(?:/openai|/together)?/v1/files\Z", _upload),
        ("GET", r"(?:/openai|/together)?/v1/files/([^/]+)/content\Z", _content),
        ("GET", r"(?:/openai|/together)?/v1/files/([^/]+)\Z", lambda b, _, a: _file(b, a.id)),
        ("DELETE", r"(?:/openai|/together)?/v1/files/([^/]+)\Z", _delete),
        ("POST", r"/together/v1/files/upload\Z", _upload),
        (
            "GET",
            r"/together/v1/files\Z",
            lambda b, *_: {"object": "list", "data": [_file(b, id) for id in reversed(b.files)]},
        ),
        ("POST", r"/api/v1/batches\Z", _openrouter),
        ("GET", r"/api/v1/batches\Z", _list),
        ("GET", r"/api/v1/batches/([^/]+)\Z", _get),
        ("DELETE", r"/api/v1/batches/([^/]+)\Z", _gone),
        ("GET", r"/api/v1/batches/([^/]+)/results\Z", _pages),
        ("POST", r"/v1/messages/batches\Z", _anthropic),
        ("GET", r"/v1/messages/batches\Z", _list),
        ("GET", r"/v1/messages/batches/([^/]+)/results\Z", _results),
        ("GET", r"/v1/messages/batches/([^/]+)\Z", _get),
        ("POST", r"/v1/messages/batches/([^/]+)/cancel\Z", _cancel),
        ("POST", r"/v1/batch/jobs\Z", _mistral),
        ("GET", r"/v1/batch/jobs\Z", _list),
        ("GET", r"/v1/batch/jobs/([^/]+)\Z", _get),
        ("POST", r"/v1/batch/jobs/([^/]+)/cancel\Z", _cancel),
    )
)
