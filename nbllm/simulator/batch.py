"""One batch: how it ends, what becomes of its lines, and the words of the six kinds of providers for both.

What it answers is worked out once, after its end, each line as a call in its format would be. When it ends,
and which lines fail, options say (batch_s, batch_end, batch_fail ...).
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, NamedTuple

from . import plan, routes, strict
from .options import Options, chosen
from .protocols import Refused, Request, encode

ODD = (ArithmeticError, AttributeError, LookupError, RecursionError, TypeError, ValueError)
_HEADERS = {"anthropic-version": "2023-06-01"}  # that a call of a line would have had


class Line(NamedTuple):
    """A request of a batch."""

    id: str
    body: Mapping[str, Any]


class Result(NamedTuple):
    """What became of one: how is ok, failed, zero, expired or cancelled."""

    id: str
    how: str
    status: int = 0
    body: Any = None


@dataclass(slots=True)
class Batch:
    """A batch. problem: why it failed at once, (code, message)."""

    kind: str
    id: str
    created: float
    path: str  # of each line's call
    options: Options
    lines: list[Line]
    about: Mapping[str, Any]  # what its creator said of it
    problem: tuple[str, str] | None = None
    stopped: bool = False
    done: list[Result] | None = None  # worked out once

    def end(self, now: float) -> str:
        """How it ended, "" while it runs."""
        if self.problem:
            return "failed"
        if self.stopped:
            return "cancelled"
        return self.options.batch_end if now - self.created >= self.options.batch_s else ""

    @property
    def weight(self) -> int:
        """Prompt tokens that it enqueues: a quarter of its characters."""
        return sum(len(encode(line.body)) for line in self.lines) // 4

    def results(self, now: float) -> list[Result]:
        """What became of each line, in the order that the options ask for; none while it runs."""
        end = self.end(now)
        if end in ("", "failed"):
            return []
        if self.done is None:
            self.done = list(self._results(end))
        return self.done

    def _results(self, end: str) -> Iterator[Result]:
        o, lines = self.options, list(enumerate(self.lines))
        if o.batch_shuffle:
            random.Random(o.seed).shuffle(lines)
        whole = len(lines) if end == "completed" else len(lines) // 2
        for at, line in lines:
            if at < o.batch_missing:
                continue
            if at < o.batch_missing + o.batch_zero:
                yield Result(line.id, "zero")
            elif at < o.batch_missing + o.batch_zero + o.batch_fail:
                yield Result(line.id, "failed", 400, Refused(400))
            elif at >= whole:
                yield Result(line.id, end)
            else:
                yield self._answered(line)

    def _answered(self, line: Line) -> Result:
        request = Request("POST", self.path, {}, _HEADERS, encode(line.body))
        format = routes.answering(request)
        try:
            if format is None:
                raise Refused(404)
            ask = format.ask(request)
            options = chosen(self.options, ask.model)
            strict.check(format.NAME, ask, options)
            reply = plan.reply(ask, options, f"{format.ID}{self.id}-{line.id}", self.created, 0.0)
            return Result(line.id, "ok", 200, format.whole(reply))
        except Refused as refused:
            return Result(line.id, "failed", refused.status, refused)
        except ODD as error:
            return Result(line.id, "failed", 400, Refused(400, f"{type(error).__name__}"))


def written(batch: Batch, now: float, which: str = "") -> str:
    """Its results as JSON lines; which: out or err for one of two files."""
    found = [r for r in batch.results(now) if not which or (r.how == "ok") is (which == "out")]
    return "".join(f"{encode(_LINES[batch.kind](r)).decode()}\n" for r in found)


def _openai_line(r: Result) -> dict[str, Any]:
    body = routes.FORMATS["openai_chat"].error(r.body, "") if r.how == "failed" else r.body or {}
    about = {"id": f"batch_req_{r.id}", "custom_id": r.id}
    if r.how in ("expired", "cancelled"):
        error = {"code": f"batch_{r.how}", "message": f"This request was not done: the batch is {r.how}."}
        return {**about, "response": None, "error": error}
    return {**about, "response": {"status_code": r.status, "request_id": "", "body": body}, "error": None}


def _anthropic_line(r: Result) -> dict[str, Any]:
    if r.how == "ok":
        return {"custom_id": r.id, "result": {"type": "succeeded", "message": r.body}}
    if r.how in ("failed", "zero"):
        error = routes.FORMATS["anthropic"].error(r.body or Refused(500), "")
        return {"custom_id": r.id, "result": {"type": "errored", "error": error}}
    return {"custom_id": r.id, "result": {"type": "expired" if r.how == "expired" else "canceled"}}


def _google_line(r: Result) -> dict[str, Any]:
    if r.how == "ok":
        return {"key": r.id, "response": r.body}
    if r.how == "zero":
        return {"key": r.id, "response": {}}
    if r.how == "failed":
        why = r.body.message or "Request contains an invalid argument."
        return {"key": r.id, "error": {"code": 3, "message": why}}
    return {"key": r.id, "error": {"code": 1, "message": r.how}}


_LINES: Mapping[str, Callable[[Result], dict[str, Any]]] = {
    "openai": _openai_line,
    "anthropic": _anthropic_line,
    "gemini": _google_line,
    "mistral": _openai_line,
    "together": _openai_line,
    "openrouter": _openai_line,
}


def lines(batch: Batch, now: float) -> list[dict[str, Any]]:
    """Its results, each as its provider writes it."""
    return [_LINES[batch.kind](r) for r in batch.results(now)]


def shown(batch: Batch, now: float) -> dict[str, Any]:
    """What its provider says of it."""
    return _SHOWN[batch.kind](batch, batch.end(now), batch.results(now), now)


def _files(batch: Batch, results: list[Result]) -> tuple[str | None, str | None]:
    ok = {r.how == "ok" for r in results}
    return f"out-{batch.id}" if True in ok else None, f"err-{batch.id}" if False in ok else None


def _openai_shown(batch: Batch, end: str, results: list[Result], now: float) -> dict[str, Any]:
    out, err = _files(batch, results)
    done = sum(r.how == "ok" for r in results)
    code, said = batch.problem or ("", "")
    problems = [{"code": code, "message": said, "param": None, "line": None}]
    return {
        **{k: batch.about.get(k) for k in ("endpoint", "input_file_id", "completion_window", "metadata")},
        "id": batch.id,
        "object": "batch",
        "status": end or "in_progress",
        "output_file_id": out,
        "error_file_id": err,
        "errors": {"object": "list", "data": problems} if batch.problem else None,
        "created_at": int(batch.created),
        **({f"{end}_at": int(now)} if end else {}),
        "request_counts": {"total": len(batch.lines), "completed": done, "failed": len(results) - done},
    }


def _anthropic_shown(batch: Batch, end: str, results: list[Result], now: float) -> dict[str, Any]:
    hows = [r.how for r in results]
    created = datetime.fromtimestamp(batch.created, UTC).isoformat()
    return {
        "id": batch.id,
        "type": "message_batch",
        "processing_status": "ended" if end else "in_progress",
        "request_counts": {
            "processing": 0 if end else len(batch.lines),
            "succeeded": hows.count("ok"),
            "errored": hows.count("failed") + hows.count("zero"),
            "canceled": hows.count("cancelled"),
            "expired": hows.count("expired"),
        },
        "created_at": created,
        "expires_at": created,
        "ended_at": datetime.fromtimestamp(now, UTC).isoformat() if end else None,
        "cancel_initiated_at": None,
        "archived_at": None,
        "results_url": f"{batch.about.get('url')}/{batch.id}/results" if end else None,
    }


def _google_shown(batch: Batch, end: str, results: list[Result], now: float) -> dict[str, Any]:
    word = {"": "RUNNING", "completed": "SUCCEEDED"}.get(end, end.upper())
    lines = map(_google_line, results)
    named = [{"metadata": {"key": line.pop("key")}, **line} for line in lines]
    output: dict[str, Any] = {"responsesFile": f"files/out-all-{batch.id}"}
    if batch.about.get("inline"):
        output = {"inlinedResponses": {"inlinedResponses": named}}
    metadata = {
        "state": f"BATCH_STATE_{word}",
        "displayName": batch.about.get("displayName"),
        "model": f"models/{batch.about.get('model')}",
        "createTime": datetime.fromtimestamp(batch.created, UTC).isoformat(),
        "batchStats": {"requestCount": str(len(batch.lines))},
        **({"output": output} if results else {}),
    }
    ended = {"done": True, **({"response": output} if results else {})} if end else {}
    failed = {"error": {"code": 13, "message": batch.problem[1]}} if batch.problem else {}
    return {"name": f"batches/{batch.id}", "metadata": metadata, **ended, **failed}


def _mistral_shown(batch: Batch, end: str, results: list[Result], now: float) -> dict[str, Any]:
    out, err = _files(batch, results)
    done = sum(r.how == "ok" for r in results)
    words = {"": "RUNNING", "completed": "SUCCESS", "expired": "TIMEOUT_EXCEEDED"}
    return {
        **{k: batch.about.get(k) for k in ("endpoint", "model", "metadata")},
        "input_files": batch.about.get("input_files") or [],
        "id": batch.id,
        "object": "batch",
        "status": words.get(end, end.upper()),
        "output_file": out,
        "error_file": err,
        "errors": [{"message": batch.problem[1], "count": 1}] if batch.problem else [],
        "created_at": int(batch.created),
        "completed_at": int(now) if end else None,
        "total_requests": len(batch.lines),
        "completed_requests": len(results),
        "succeeded_requests": done,
        "failed_requests": len(results) - done,
    }


def _together_shown(batch: Batch, end: str, results: list[Result], now: float) -> dict[str, Any]:
    out, err = _files(batch, results)
    return {
        **{k: batch.about.get(k) for k in ("endpoint", "input_file_id")},
        "id": batch.id,
        "user_id": "simulator",
        "status": (end or "in_progress").upper(),
        "created_at": datetime.fromtimestamp(batch.created, UTC).isoformat(),
        "progress": 100 if end else 0,
        "output_file_id": out,
        "error_file_id": err,
        "error": ": ".join(batch.problem) if batch.problem else None,
    }


def _openrouter_shown(batch: Batch, end: str, results: list[Result], now: float) -> dict[str, Any]:
    said = _openai_shown(batch, end, results, now)
    code, message = batch.problem or ("", "")
    return {
        **{k: said[k] for k in ("id", "object", "endpoint", "status", "created_at", "request_counts")},
        "completion_window": "24h",
        "model": batch.about.get("model"),
        "finalized_at": int(now) if end else None,
        "error": {"code": code, "message": message} if batch.problem else None,
    }


_SHOWN: Mapping[str, Callable[[Batch, str, list[Result], float], dict[str, Any]]] = {
    "openai": _openai_shown,
    "anthropic": _anthropic_shown,
    "gemini": _google_shown,
    "mistral": _mistral_shown,
    "together": _together_shown,
    "openrouter": _openrouter_shown,
}
