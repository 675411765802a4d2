"""Runs as evaluation tools store them: inspect's logs with their samples, and promptfoo's results."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import pandas as pd

from ..core.events import PASS_THRESHOLD
from .frames import CHECK_PREFIX, SCORE, measured_requests, ordered_values, plain_row
from .scoring import answers

Row = dict[str, Any]
_NO_TIME = "1970-01-01T00:00:00+00:00"
_STOP_REASONS = {
    "length": "max_tokens",
    "stop": "stop",
    "tool_calls": "tool_calls",
    "content_filter": "content_filter",
}


def _request_rows(df: pd.DataFrame) -> list[Row]:
    """The measured requests, each with its prompt and answer."""
    texts = {
        (row["run_id"], row["request_id"]): (row["prompt"], row["answer"])
        for row in answers(df).to_dict("records")
    }
    used = measured_requests(df).drop_duplicates(["run_id", "request_id"], keep="last")
    epochs = used.groupby(["name", "prompt_id"], observed=True, dropna=False).cumcount() + 1
    rows = []
    for row in used.assign(epoch=epochs).to_dict("records"):
        prompt, answer = texts.get((row["run_id"], row["request_id"]), ("", ""))
        values = {k: None if isinstance(v, float) and math.isinf(v) else v for k, v in plain_row(row).items()}
        rows.append(values | {"prompt_text": prompt, "answer_text": answer})
    return rows


def _scores_of(row: Mapping[str, Any]) -> dict[str, float]:
    """The checks and the score of a request, by name."""
    checks = {k: float(v) for k, v in row.items() if k.startswith(CHECK_PREFIX) and v is not None}
    return checks | ({SCORE: float(row[SCORE])} if row.get(SCORE) is not None else {})


def to_inspect(df: pd.DataFrame) -> list[Row]:
    """inspect's log (version 2) of each model, one sample per request."""
    rows = _request_rows(df)
    return [
        _log(str(name), [r for r in rows if r["name"] == str(name)]) for name in ordered_values(df, "name")
    ]


def _log(name: str, rows: list[Row]) -> Row:
    times = [r["t_wall"] for r in rows if r["t_wall"] is not None]
    first, last = (f(times).isoformat() if times else _NO_TIME for f in (min, max))
    ids = list(dict.fromkeys(str(r["prompt_id"]) for r in rows))
    run_id = str(rows[0]["run_id"]) if rows else ""
    usage = {k: sum(r[c] or 0 for r in rows) for k, c in _USAGE.items()}
    return {
        "version": 2,
        "status": "success",
        "eval": {
            "eval_id": f"{run_id}-{name}",
            "run_id": run_id,
            "created": first,
            "task": "nbllm",
            "task_id": f"{run_id}-{name}",
            "task_version": 0,
            "dataset": {"name": "prompts", "samples": len(ids), "sample_ids": ids},
            "model": name,
            "config": {"epochs": max((r["epoch"] for r in rows), default=1)},
        },
        "plan": {"name": "plan", "steps": [], "config": {}},
        "results": {
            "total_samples": len(rows),
            "completed_samples": sum(bool(r["ok"]) for r in rows),
            "scores": [_mean(check, rows) for check in dict.fromkeys(c for r in rows for c in _scores_of(r))],
        },
        "stats": {"started_at": first, "completed_at": last, "model_usage": {name: _with_total(usage)}},
        "samples": [_sample(r) for r in rows],
    }


def _mean(check: str, rows: list[Row]) -> Row:
    """One score of a log; the scorer has the same name."""
    values = [scores[check] for r in rows if check in (scores := _scores_of(r))]
    return {
        "name": check,
        "scorer": check,
        "scored_samples": len(values),
        "metrics": {"mean": {"name": "mean", "value": sum(values) / len(values)}},
    }


_USAGE = {"input_tokens": "in_tokens", "output_tokens": "out_tokens"}


def _with_total(usage: dict[str, int]) -> dict[str, int]:
    return {**usage, "total_tokens": sum(usage.values())}


def _sample(row: Row) -> Row:
    message = {"role": "assistant", "content": row["answer_text"], "source": "generate"}
    choice = {"message": message, "stop_reason": _STOP_REASONS.get(str(row["finish_reason"]), "unknown")}
    seconds = row["e2e_ms"] / 1e3 if row["e2e_ms"] is not None else None
    usage = _with_total({k: row[c] or 0 for k, c in _USAGE.items()})
    output = {
        "model": str(row["model"]),
        "choices": [choice] if row["ok"] else [],
        "usage": usage,
        "time": seconds,
        "error": row["error_msg"],
    }
    return {
        "id": str(row["prompt_id"]),
        "epoch": row["epoch"],
        "input": row["prompt_text"],
        "target": "",
        "messages": [{"role": "user", "content": row["prompt_text"]}, *([message] if row["ok"] else [])],
        "output": output,
        "scores": {
            name: {"value": value, "answer": row["answer_text"]} for name, value in _scores_of(row).items()
        },
        "metadata": {
            k: row[k] for k in ("request_id", "block", "ttft_ms", "e2e_ms", "out_tok_s", "cost_usd", "status")
        },
        "model_usage": {str(row["name"]): usage},
        "error": None
        if row["ok"]
        else {"message": str(row["error_msg"] or row["status"]), "traceback": "", "traceback_ansi": ""},
        "total_time": seconds,
    }


def to_promptfoo(df: pd.DataFrame) -> Row:
    """promptfoo's results (version 3), as its `import` command reads them. A prompt is one test (a row of the
    table) for each time it was sent; a model is a provider."""
    rows = _request_rows(df)
    tests = {t: i for i, t in enumerate(dict.fromkeys((r["prompt_id"], r["epoch"]) for r in rows))}
    names = [str(n) for n in ordered_values(df, "name")]
    results = [
        _result(row, tests[row["prompt_id"], row["epoch"]], names.index(str(row["name"]))) for row in rows
    ]
    times = [r["t_wall"] for r in rows if r["t_wall"] is not None]
    prompts = [
        {
            "id": "prompt",
            "raw": "{{prompt}}",
            "label": "{{prompt}}",
            "provider": name,
            "metrics": _metrics([r for r in results if r["promptIdx"] == position]),
        }
        for position, name in enumerate(names)
    ]
    totals = _metrics(results)
    return {
        "evalId": str(rows[0]["run_id"]) if rows else "",
        "results": {
            "version": 3,
            "timestamp": min(times).isoformat() if times else _NO_TIME,
            "prompts": prompts,
            "results": results,
            "stats": {
                **{name: totals[f"test{k}Count"] for name, k in _STATS.items()},
                "tokenUsage": totals["tokenUsage"],
            },
        },
        "config": {"description": "nbllm.bench", "providers": names},
        "shareableUrl": None,
    }


_STATS = {"successes": "Pass", "failures": "Fail", "errors": "Error"}


def _metrics(results: list[Row]) -> Row:
    """The metrics that promptfoo has for each prompt column and in total."""
    parts = [part for r in results for part in r["gradingResult"]["componentResults"]]
    names = dict.fromkeys(part["reason"] for part in parts)
    return {
        "score": sum(r["score"] for r in results),
        **{
            f"test{k}Count": sum(r["failureReason"] == i for r in results)
            for i, k in enumerate(_STATS.values())
        },
        "assertPassCount": sum(part["pass"] for part in parts),
        "assertFailCount": sum(not part["pass"] for part in parts),
        "totalLatencyMs": sum(r.get("latencyMs", 0) for r in results),
        "tokenUsage": {
            k: sum(r["response"]["tokenUsage"][k] for r in results) for k in ("prompt", "completion", "total")
        },
        "namedScores": {k: sum(part["score"] for part in parts if part["reason"] == k) for k in names},
        "namedScoresCount": {k: sum(part["reason"] == k for part in parts) for k in names},
        "cost": sum(r.get("cost", 0) for r in results),
    }


def _result(row: Row, test: int, position: int) -> Row:
    checks = _scores_of(row)
    passed = bool(row["ok"]) and all(value >= PASS_THRESHOLD for value in checks.values())
    score = sum(checks.values()) / len(checks) if checks else float(passed)
    parts = [
        {"pass": v >= PASS_THRESHOLD, "score": v, "reason": k, "assertion": {"type": k}}
        for k, v in checks.items()
    ]
    tokens = {"prompt": row["in_tokens"] or 0, "completion": row["out_tokens"] or 0}
    result = {
        "testIdx": test,
        "promptIdx": position,
        "promptId": "prompt",
        "provider": {"id": str(row["name"]), "label": str(row["name"])},
        "prompt": {"raw": row["prompt_text"], "label": str(row["prompt_id"])},
        "vars": {"prompt": row["prompt_text"]},
        "testCase": {"vars": {"prompt": row["prompt_text"]}, "description": str(row["prompt_id"])},
        "response": {"output": row["answer_text"], "tokenUsage": {**tokens, "total": sum(tokens.values())}},
        "success": passed,
        "score": score,
        "failureReason": 0 if passed else 1 if row["ok"] else 2,
        "namedScores": checks,
        "gradingResult": {"pass": passed, "score": score, "reason": "", "componentResults": parts},
        "latencyMs": row["e2e_ms"],
        "cost": row["cost_usd"],
        "error": None if row["ok"] else str(row["error_msg"] or row["status"]),
    }
    return {k: v for k, v in result.items() if v is not None}  # its schema has optional fields, no nulls
