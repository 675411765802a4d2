"""One batch: its status, the results of its lines, and both in the JSON of six kinds of providers.

The results are computed once, when the batch has ended; each line is answered like a single call in its
format. Options decide when the batch ends and which lines fail (batch_s, batch_end, batch_fail ...).
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, NamedTuple

from . import plan, routes, strict
from .options import Options, options_for
from .protocols import PARSE_ERRORS, ApiError, HttpRequest, encode

_HEADERS = {"anthropic-version": "2023-06-01"}  # of a line's call


class BatchLine(NamedTuple):
    """One request of a batch."""

    id: str
    body: Mapping[str, Any]


class Result(NamedTuple):
    """The result of one request. outcome: ok, failed, zero (status 0), expired or cancelled."""

    id: str
    outcome: str
    status: int = 0
    body: Any = None


@dataclass(slots=True)
class Batch:
    """A batch. problem: (code, message) if its validation failed."""

    kind: str
    id: str
    created: float
    path: str  # of each line's call
    options: Options
    lines: list[BatchLine]
    fields: Mapping[str, Any]  # of the request that created it
    problem: tuple[str, str] | None = None
    is_cancelled: bool = False
    cached_results: list[Result] | None = None

    def final_status(self, now: float) -> str:
        """How it ended; "" while it runs."""
        if self.problem:
            return "failed"
        if self.is_cancelled:
            return "cancelled"
        return self.options.batch_end if now - self.created >= self.options.batch_s else ""

    @property
    def enqueued_tokens(self) -> int:
        """Estimated prompt tokens of all lines: a quarter of their bytes."""
        return sum(len(encode(line.body)) for line in self.lines) // 4

    def results(self, now: float) -> list[Result]:
        """The result of each line, in the order that the options set; empty while it runs."""
        status = self.final_status(now)
        if status in ("", "failed"):
            return []
        if self.cached_results is None:
            self.cached_results = list(self._results(status))
        return self.cached_results

    def _results(self, status: str) -> Iterator[Result]:
        o, lines = self.options, list(enumerate(self.lines))
        if o.batch_shuffle:
            random.Random(o.seed).shuffle(lines)
        answered = len(lines) if status == "completed" else len(lines) // 2
        for i, line in lines:
            if i < o.batch_missing:
                continue
            if i < o.batch_missing + o.batch_zero:
                yield Result(line.id, "zero")
            elif i < o.batch_missing + o.batch_zero + o.batch_fail:
                yield Result(line.id, "failed", 400, ApiError(400))
            elif i >= answered:
                yield Result(line.id, status)
            else:
                yield self._answer_line(line)

    def _answer_line(self, line: BatchLine) -> Result:
        http_request = HttpRequest("POST", self.path, {}, _HEADERS, encode(line.body))
        format = routes.find_format(http_request)
        try:
            if format is None:
                raise ApiError(404)
            request = format.parse_request(http_request)
            options = options_for(self.options, request.model)
            strict.check(format.NAME, request, options)
            reply = plan.plan_reply(request, options, f"{format.ID}{self.id}-{line.id}", self.created, 0.0)
            return Result(line.id, "ok", 200, format.full_body(reply))
        except ApiError as error:
            return Result(line.id, "failed", error.status, error)
        except PARSE_ERRORS as error:
            return Result(line.id, "failed", 400, ApiError(400, f"{type(error).__name__}"))


def results_jsonl(batch: Batch, now: float, file_kind: str = "") -> str:
    """The results as JSON lines. file_kind: out or err for one of the two files, "" for all results."""
    found = [r for r in batch.results(now) if not file_kind or (r.outcome == "ok") is (file_kind == "out")]
    return "".join(f"{encode(_LINE_FORMATS[batch.kind](r)).decode()}\n" for r in found)


def _openai_line(r: Result) -> dict[str, Any]:
    body = routes.FORMATS["openai_chat"].error_body(r.body, "") if r.outcome == "failed" else r.body or {}
    fields = {"id": f"batch_req_{r.id}", "custom_id": r.id}
    if r.outcome in ("expired", "cancelled"):
        error = {
            "code": f"batch_{r.outcome}",
            "message": f"This request was not executed: the batch is {r.outcome}.",
        }
        return {**fields, "response": None, "error": error}
    return {**fields, "response": {"status_code": r.status, "request_id": "", "body": body}, "error": None}


def _anthropic_line(r: Result) -> dict[str, Any]:
    if r.outcome == "ok":
        return {"custom_id": r.id, "result": {"type": "succeeded", "message": r.body}}
    if r.outcome in ("failed", "zero"):
        error = routes.FORMATS["anthropic"].error_body(r.body or ApiError(500), "")
        return {"custom_id": r.id, "result": {"type": "errored", "error": error}}
    return {"custom_id": r.id, "result": {"type": "expired" if r.outcome == "expired" else "canceled"}}


def _google_line(r: Result) -> dict[str, Any]:
    if r.outcome == "ok":
        return {"key": r.id, "response": r.body}
    if r.outcome == "zero":
        return {"key": r.id, "response": {}}
    if r.outcome == "failed":
        why = r.body.message or "Request contains an invalid argument."
        return {"key": r.id, "error": {"code": 3, "message": why}}
    return {"key": r.id, "error": {"code": 1, "message": r.outcome}}


_LINE_FORMATS: Mapping[str, Callable[[Result], dict[str, Any]]] = {
    "openai": _openai_line,
    "anthropic": _anthropic_line,
    "gemini": _google_line,
    "mistral": _openai_line,
    "together": _openai_line,
    "openrouter": _openai_line,
}


def result_lines(batch: Batch, now: float) -> list[dict[str, Any]]:
    """The results, each in its provider's format."""
    return [_LINE_FORMATS[batch.kind](r) for r in batch.results(now)]


def describe(batch: Batch, now: float) -> dict[str, Any]:
    """The batch object in its provider's format."""
    return _DESCRIBERS[batch.kind](batch, batch.final_status(now), batch.results(now), now)


def _result_file_ids(batch: Batch, results: list[Result]) -> tuple[str | None, str | None]:
    ok = {r.outcome == "ok" for r in results}
    return f"out-{batch.id}" if True in ok else None, f"err-{batch.id}" if False in ok else None


def _describe_openai(batch: Batch, status: str, results: list[Result], now: float) -> dict[str, Any]:
    out, err = _result_file_ids(batch, results)
    done = sum(r.outcome == "ok" for r in results)
    code, message = batch.problem or ("", "")
    problems = [{"code": code, "message": message, "param": None, "line": None}]
    return {
        **{k: batch.fields.get(k) for k in ("endpoint", "input_file_id", "completion_window", "metadata")},
        "id": batch.id,
        "object": "batch",
        "status": status or "in_progress",
        "output_file_id": out,
        "error_file_id": err,
        "errors": {"object": "list", "data": problems} if batch.problem else None,
        "created_at": int(batch.created),
        **({f"{status}_at": int(now)} if status else {}),
        "request_counts": {"total": len(batch.lines), "completed": done, "failed": len(results) - done},
    }


def _describe_anthropic(batch: Batch, status: str, results: list[Result], now: float) -> dict[str, Any]:
    outcomes = [r.outcome for r in results]
    created = datetime.fromtimestamp(batch.created, UTC).isoformat()
    return {
        "id": batch.id,
        "type": "message_batch",
        "processing_status": "ended" if status else "in_progress",
        "request_counts": {
            "processing": 0 if status else len(batch.lines),
            "succeeded": outcomes.count("ok"),
            "errored": outcomes.count("failed") + outcomes.count("zero"),
            "canceled": outcomes.count("cancelled"),
            "expired": outcomes.count("expired"),
        },
        "created_at": created,
        "expires_at": created,
        "ended_at": datetime.fromtimestamp(now, UTC).isoformat() if status else None,
        "cancel_initiated_at": None,
        "archived_at": None,
        "results_url": f"{batch.fields.get('url')}/{batch.id}/results" if status else None,
    }


def _describe_google(batch: Batch, status: str, results: list[Result], now: float) -> dict[str, Any]:
    word = {"": "RUNNING", "completed": "SUCCEEDED"}.get(status, status.upper())
    lines = map(_google_line, results)
    named = [{"metadata": {"key": line.pop("key")}, **line} for line in lines]
    output: dict[str, Any] = {"responsesFile": f"files/out-all-{batch.id}"}
    if batch.fields.get("inline"):
        output = {"inlinedResponses": {"inlinedResponses": named}}
    metadata = {
        "state": f"BATCH_STATE_{word}",
        "displayName": batch.fields.get("displayName"),
        "model": f"models/{batch.fields.get('model')}",
        "createTime": datetime.fromtimestamp(batch.created, UTC).isoformat(),
        "batchStats": {"requestCount": str(len(batch.lines))},
        **({"output": output} if results else {}),
    }
    ended = {"done": True, **({"response": output} if results else {})} if status else {}
    failed = {"error": {"code": 13, "message": batch.problem[1]}} if batch.problem else {}
    return {"name": f"batches/{batch.id}", "metadata": metadata, **ended, **failed}


def _describe_mistral(batch: Batch, status: str, results: list[Result], now: float) -> dict[str, Any]:
    out, err = _result_file_ids(batch, results)
    done = sum(r.outcome == "ok" for r in results)
    status_names = {"": "RUNNING", "completed": "SUCCESS", "expired": "TIMEOUT_EXCEEDED"}
    return {
        **{k: batch.fields.get(k) for k in ("endpoint", "model", "metadata")},
        "input_files": batch.fields.get("input_files") or [],
        "id": batch.id,
        "object": "batch",
        "status": status_names.get(status, status.upper()),
        "output_file": out,
        "error_file": err,
        "errors": [{"message": batch.problem[1], "count": 1}] if batch.problem else [],
        "created_at": int(batch.created),
        "completed_at": int(now) if status else None,
        "total_requests": len(batch.lines),
        "completed_requests": len(results),
        "succeeded_requests": done,
        "failed_requests": len(results) - done,
    }


def _describe_together(batch: Batch, status: str, results: list[Result], now: float) -> dict[str, Any]:
    out, err = _result_file_ids(batch, results)
    return {
        **{k: batch.fields.get(k) for k in ("endpoint", "input_file_id")},
        "id": batch.id,
        "user_id": "simulator",
        "status": (status or "in_progress").upper(),
        "created_at": datetime.fromtimestamp(batch.created, UTC).isoformat(),
        "progress": 100 if status else 0,
        "output_file_id": out,
        "error_file_id": err,
        "error": ": ".join(batch.problem) if batch.problem else None,
    }


def _describe_openrouter(batch: Batch, status: str, results: list[Result], now: float) -> dict[str, Any]:
    described = _describe_openai(batch, status, results, now)
    code, message = batch.problem or ("", "")
    return {
        **{k: described[k] for k in ("id", "object", "endpoint", "status", "created_at", "request_counts")},
        "completion_window": "24h",
        "model": batch.fields.get("model"),
        "finalized_at": int(now) if status else None,
        "error": {"code": code, "message": message} if batch.problem else None,
    }


_DESCRIBERS: Mapping[str, Callable[[Batch, str, list[Result], float], dict[str, Any]]] = {
    "openai": _describe_openai,
    "anthropic": _describe_anthropic,
    "gemini": _describe_google,
    "mistral": _describe_mistral,
    "together": _describe_together,
    "openrouter": _describe_openrouter,
}
