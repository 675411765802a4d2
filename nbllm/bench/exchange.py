"""Result files of other tools: reads guidellm's and aiperf's as frames, and writes frames as guidellm's
requests, inspect's logs or promptfoo's results.

A metric that another tool defines differently is left out or derived again from its times: here `itl_ms`
counts from the first chunk, whatever the tool divides by. The files are untrusted input: a value of the wrong
type counts as missing.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import warnings
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, cast

import pandas as pd

from ..core.errors import ConfigError, did_you_mean
from ..core.values import plural
from ..store import columns
from ..store.measure import derive
from . import evals
from .frames import last_attempts, normalize_requests, success_mask
from .prompts import iter_json

Row = dict[str, Any]
_MAX_NUMBER = 1e19  # larger numbers are neither times nor counts
_UNITS = {"ms": 1.0, "sec": 1e3, "s": 1e3, "us": 1e-3, "ns": 1e-6}
_STRATEGIES = {"constant": "constant", "poisson": "poisson", "trace": "replay", "async": "constant"}


def read_foreign(text: str, path: Path) -> pd.DataFrame | None:
    """The frame of a file that guidellm (benchmarks.json) or aiperf (profile_export.jsonl) wrote; None for
    any other file. Raises ValueError or RecursionError where it is not JSON."""
    head = next(iter_json(text), None)
    if isinstance(head, dict) and isinstance(head.get("benchmarks"), list):
        return _to_frame(_guidellm_rows(head), path)
    if isinstance(head, dict) and isinstance(head.get("metadata"), dict) and "metrics" in head:
        settings = _aiperf_settings(path)
        return _to_frame((_aiperf_row(record, *settings) for record in iter_json(text)), path)
    return None


def _to_frame(rows: Iterator[Row], path: Path) -> pd.DataFrame:
    """The rows as the frame of one run, named after the file. Times count from the first call."""
    all_rows = list(rows)
    usable = [row for row in all_rows if row.get("ns_call") is not None or not row["ok"]]
    if n_lost := len(all_rows) - len(usable):
        warnings.warn(f"{plural(n_lost, 'answer')} of {path} left out: no start time.", stacklevel=5)
    first_ns = min((row["ns_call"] for row in usable if row.get("ns_call") is not None), default=0)
    for number, row in enumerate(usable):
        if row.get("ns_call") is not None:
            row["t_wall"] = _iso_time(row["ns_call"])
        call_ns = row.get("ns_call") or 0  # times before the call are invalid
        row.update(
            {
                k: None if v < call_ns and k != "ns_sched" else v - first_ns
                for k, v in row.items()
                if k.startswith("ns_") and v is not None
            }
        )
        row.update(
            run_id=f"{path.parent.name}/{path.stem}",
            attempt=1,
            seq=number,
            phase=row.get("phase", "measure"),
        )
        row["name"] = row["model"] = row.get("model") or path.stem
        row |= {"start_kind": "warm", "quality": "bounded", "censored": False}
        derive(row)
    return columns.frame(usable)


def _iso_time(ns: int) -> str | None:
    from datetime import UTC, datetime

    try:
        return datetime.fromtimestamp(ns / 1e9, UTC).isoformat()
    except (ValueError, OverflowError, OSError):  # outside the range of dates
        return None


def _get(value: Any, *path: str) -> Any:
    """The value at a path in nested mappings, or None."""
    for step in path:
        value = value.get(step) if isinstance(value, Mapping) else None
    return value


def _first_number(*values: Any) -> float | None:
    """The first of the values that is a finite number of at least 0, such as a time or a count."""
    numbers = (v for v in values if isinstance(v, (int, float)) and not isinstance(v, bool))
    return next((float(v) for v in numbers if 0 <= v < _MAX_NUMBER), None)  # false for NaN


def _first_text(*values: Any) -> str | None:
    return next((v for v in values if isinstance(v, str) and v), None)


def _add_token_counts(row: Row, out_tokens: float | None, chunks: float | None) -> None:
    """Sets the numbers of tokens and chunks, and the estimated tokens of the first chunk."""
    row["chunks"] = None if chunks is None else int(chunks)
    if out_tokens is None:
        return
    row["out_tokens"] = row["streamed_tokens"] = int(out_tokens)
    if chunks:
        row["first_chunk_tokens"] = max(1, round(out_tokens / chunks))
        row["itl_src"] = "single" if chunks >= out_tokens else "share"


# --- guidellm ---


def _guidellm_rows(report: Mapping[str, Any]) -> Iterator[Row]:
    for number, benchmark in enumerate(report["benchmarks"]):
        strategy = _get(benchmark, "config", "strategy") or _get(benchmark, "scheduler", "strategy") or {}
        kind = _first_text(_get(strategy, "type_")) or "synchronous"
        common: Row = {
            "model": _first_text(
                _get(benchmark, "config", "backend", "model"),
                _get(report, "args", "model"),
                _get(report, "args", "backend_kwargs", "model"),
            ),
            "load_kind": _STRATEGIES.get(kind, "closed"),
        }
        if common["load_kind"] == "closed":
            streams = _first_number(_get(strategy, "streams"), _get(strategy, "max_concurrency"))
            common["concurrency"] = int(streams) if streams else 1 if kind == "synchronous" else None
        else:
            common["target_rate"] = _first_number(_get(strategy, "rate"))
        for outcome in ("successful", "incomplete", "errored"):
            outcome_requests = _get(benchmark, "requests", outcome)
            for index, request in enumerate(outcome_requests if isinstance(outcome_requests, list) else ()):
                yield (
                    common
                    | _guidellm_row(request, outcome)
                    | {
                        "request_id": _first_text(_get(request, "request_id"))
                        or f"{number}.{outcome}.{index}"
                    }
                )


def _guidellm_row(request: Any, outcome: str) -> Row:
    times = _get(request, "info", "timings") or {}

    def at(name: str, *older: str) -> int | None:
        seconds = _first_number(_get(times, name), *(_get(request, o) for o in older))
        return None if seconds is None else round(seconds * 1e9)

    row: Row = {
        "ns_sched": at("targeted_start"),
        "ns_call": at("request_start", "request_start_time", "start_time"),
        "ns_tok1": at("first_token_iteration", "first_token_time"),
        "ns_out1": at("first_output_token_iteration"),
        "ns_tokN": at("last_token_iteration", "last_token_time"),
        "ns_done": at("request_end", "request_end_time", "end_time"),
        "in_tokens": _first_number(
            *(_get(request, "input_metrics", k) for k in ("total_tokens", "text_tokens")),
            _get(request, "prompt_tokens"),
        ),
        "in_cached": _first_number(_get(request, "input_metrics", "cached_tokens")),
        "ok": outcome == "successful",
        "status": {"successful": "ok", "incomplete": "cancelled"}.get(outcome, "http_error"),
        "error_msg": _first_text(_get(request, "info", "error"), _get(request, "error")),
        "finish_reason": None,
    }
    out_tokens = _first_number(
        *(_get(request, "output_metrics", k) for k in ("total_tokens", "text_tokens")),
        _get(request, "output_tokens"),
    )
    _add_token_counts(row, out_tokens, _first_number(_get(times, "token_iterations")) or None)
    return row


# --- aiperf ---


def _aiperf_settings(path: Path) -> tuple[str | None, Row]:
    """(model, load), from the summary file that aiperf writes beside its records."""
    try:
        summary = json.loads((path.parent / "profile_export_aiperf.json").read_text("utf-8"))
    except (OSError, ValueError, RecursionError):
        summary = {}
    names = _get(summary, "input_config", "endpoint", "model_names")
    rate = _first_number(_get(summary, "input_config", "loadgen", "request_rate"))
    concurrency = _first_number(_get(summary, "input_config", "loadgen", "concurrency"))
    load: Row = {"load_kind": "poisson" if rate else "closed", "target_rate": rate}
    return _first_text(*names) if isinstance(names, list) else _first_text(names), load | (
        {"concurrency": int(concurrency)} if concurrency and not rate else {}
    )


def _aiperf_row(record: Any, model: str | None, load: Row) -> Row:
    metadata, metrics, error = (_get(record, k) for k in ("metadata", "metrics", "error"))

    def ms(name: str) -> float | None:
        value = _first_number(_get(metrics, name, "value"))
        return None if value is None else value * _UNITS.get(str(_get(metrics, name, "unit")), math.nan)

    call_ns, end_ns = (_first_number(_get(metadata, k)) for k in ("request_start_ns", "request_end_ns"))
    ttft, e2e, gaps = (
        ms("time_to_first_token"),
        ms("request_latency"),
        _get(metrics, "inter_chunk_latency", "value"),
    )
    row: Row = {
        "request_id": _first_text(_get(metadata, "x_request_id")) or f"{_get(metadata, 'session_num')}",
        "model": _first_text(_get(metadata, "model_name"), model),
        "phase": "measure" if _get(metadata, "benchmark_phase") in ("profiling", None) else "warmup",
        "ns_call": None if call_ns is None else int(call_ns),
        "ns_done": None if end_ns is None else int(end_ns),
        "in_tokens": _first_number(_get(metrics, "input_sequence_length", "value")),
        "reasoning_tokens": _first_number(_get(metrics, "reasoning_token_count", "value")),
        "ok": not error,
        "status": "cancelled" if _get(metadata, "was_cancelled") else "http_error" if error else "ok",
        "error_type": _first_text(_get(error, "type")),
        "error_msg": _first_text(_get(error, "message")),
        "http_status": _first_number(_get(error, "code")),
        **load,
    }
    for column, after in (
        ("ns_tok1", ttft),
        ("ns_tokN", e2e),
        ("ns_out1", ms("time_to_first_output_token")),
    ):
        if call_ns is not None and after is not None and math.isfinite(after):
            row[column] = round(call_ns + after * 1e6)
    _add_token_counts(
        row,
        _first_number(
            _get(metrics, "output_sequence_length", "value"), _get(metrics, "output_token_count", "value")
        ),
        len(gaps) + 1 if isinstance(gaps, list) else None,
    )
    return row


# --- export ---


def export(df: pd.DataFrame, path: str | os.PathLike[str], to: str) -> Path:
    """Writes a run in another tool's format and returns the path. to: "guidellm" (its requests by level of
    load), "inspect" (one log per model; if there are several, `path` is a folder), "promptfoo" (results, with
    the checks of assertions and scores).

    The texts come from the run's directory, so inspect and promptfoo need it on this machine. Raises
    ConfigError for another name.
    """
    writer = _WRITERS.get(to)
    if writer is None:
        raise ConfigError(f"to={to!r} is not a known format.", hint=did_you_mean(to, _WRITERS))
    if not isinstance(path, (str, os.PathLike)):
        raise ConfigError(f"{path!r} is not a path.", hint='bench.export(df, "run.json", to="inspect")')
    content = writer(normalize_requests(df))
    if content == []:
        raise ConfigError("The frame has no requests to write.", hint="Export the frame of a finished run.")
    target = Path(path)
    if isinstance(content, list) and len(content) > 1:
        with translate_write_errors(target):
            target.mkdir(parents=True, exist_ok=True)
        for number, log in enumerate(content):
            _write_json(target / f"{number:02}.json", log)
        return target
    _write_json(target, content[0] if isinstance(content, list) else content)
    return target


def _write_json(path: Path, content: Any) -> None:
    with translate_write_errors(path):
        path.write_text(json.dumps(content, ensure_ascii=True, indent=1, default=str), "utf-8")


@contextlib.contextmanager
def translate_write_errors(path: Path) -> Iterator[None]:
    """Raises ConfigError instead of an OSError while a file is written."""
    try:
        yield
    except OSError as error:
        raise ConfigError(
            f"{path} cannot be written: {error.strerror}.", hint="Choose another path."
        ) from None


def _to_guidellm(df: pd.DataFrame) -> Any:
    keys = ["name", "load_kind", "concurrency", "target_rate"]
    benchmarks = []
    for key, part in last_attempts(df).groupby(keys, dropna=False, sort=False, observed=True):
        name, kind, concurrency, rate = (None if pd.isna(k) else k for k in cast(tuple[Any, ...], key))
        is_closed = kind in ("closed", "single")
        is_single = is_closed and not (concurrency and concurrency > 1)
        strategy: Row = {"type_": "synchronous" if is_single else "concurrent" if is_closed else str(kind)}
        strategy |= (
            {"streams": 1 if is_single or concurrency is None else int(concurrency)}
            if is_closed
            else {"rate": _first_number(rate)}
        )
        good = success_mask(part)
        requests = {
            "successful": [_guidellm_request(r) for r in part[good].to_dict("records")],
            "incomplete": [],
            "errored": [_guidellm_request(r) for r in part[~good].to_dict("records")],
        }
        config = {"strategy": strategy, "backend": {"model": str(name)}}
        benchmarks.append({"type_": "generative_benchmark", "config": config, "requests": requests})
    return {"metadata": {"version": 1, "made_by": "nbllm"}, "args": {}, "benchmarks": benchmarks}


def _guidellm_request(row: Mapping[Any, Any]) -> Row:
    """A request in guidellm's fields. Times are seconds since 1970."""
    start = row["t_wall"].timestamp() if pd.notna(row.get("t_wall")) else 0.0

    def at(column: str) -> float | None:
        value = row.get(column)
        return None if pd.isna(value) or pd.isna(row["ns_call"]) else start + (value - row["ns_call"]) / 1e9

    def count(column: str) -> int | None:
        return None if pd.isna(row.get(column)) else int(row[column])

    times = {
        "targeted_start": at("ns_sched"),
        "request_start": at("ns_call"),
        "resolve_start": at("ns_call"),
        "first_token_iteration": at("ns_tok1"),
        "first_output_token_iteration": at("ns_out1"),
        "last_token_iteration": at("ns_tokN"),
        "token_iterations": count("chunks") or 0,
        "request_end": at("ns_done"),
        "resolve_end": at("ns_done"),
    }
    error = None if pd.isna(row.get("error_msg")) else str(row["error_msg"])
    return {
        "type_": "generative_request_stats",
        "request_id": str(row["request_id"]),
        "info": {"status": "errored" if error else "completed", "timings": times, "error": error},
        "input_metrics": {"text_tokens": count("in_tokens"), "cached_tokens": count("in_cached")},
        "output_metrics": {"text_tokens": count("out_tokens")},
    }


_WRITERS: dict[str, Callable[[Any], Any]] = {
    "guidellm": _to_guidellm,
    "inspect": evals.to_inspect,
    "promptfoo": evals.to_promptfoo,
}
