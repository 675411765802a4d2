"""Result files of other tools: guidellm's and aiperf's read as frames, frames written as guidellm's requests,
inspect's log and promptfoo's results.

What another tool measured by another definition stays away or is derived anew from its times: `itl_ms` counts
from the first chunk here, whatever the tool divides by. Its files are strangers': what has a wrong type is
not there.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import warnings
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from ..core.errors import ConfigError, did_you_mean
from ..core.values import plural
from ..store import columns
from ..store.measure import derive
from . import evals
from .frames import last_attempts, normalize_requests, success_mask
from .prompts import iter_json

if TYPE_CHECKING:
    import pandas as pd

Row = dict[str, Any]
_MAX_NUMBER = 1e19  # beyond, a number is no time and no count
_UNITS = {"ms": 1.0, "sec": 1e3, "s": 1e3, "us": 1e-3, "ns": 1e-6}
_STRATEGIES = {"constant": "constant", "poisson": "poisson", "trace": "replay", "async": "constant"}


def read_foreign(text: str, place: Path) -> pd.DataFrame | None:
    """The frame of a file that guidellm (benchmarks.json) or aiperf (profile_export.jsonl) wrote; None for
    any other. Raises ValueError and RecursionError for what is no JSON."""
    head = next(iter_json(text), None)
    if isinstance(head, dict) and isinstance(head.get("benchmarks"), list):
        return _to_frame(_guidellm_rows(head), place)
    if isinstance(head, dict) and isinstance(head.get("metadata"), dict) and "metrics" in head:
        asked = _aiperf_settings(place)
        return _to_frame((_aiperf_row(record, *asked) for record in iter_json(text)), place)
    return None


def _to_frame(rows: Iterator[Row], place: Path) -> pd.DataFrame:
    """As a frame of one run that is named after its file. Times count from its first call."""
    every = list(rows)
    found = [row for row in every if row.get("ns_call") is not None or not row["ok"]]
    if lost := len(every) - len(found):
        warnings.warn(f"{plural(lost, 'answer')} of {place} left out: no start is told.", stacklevel=5)
    first = min((row["ns_call"] for row in found if row.get("ns_call") is not None), default=0)
    for number, row in enumerate(found):
        if row.get("ns_call") is not None:
            row["t_wall"] = _iso_time(row["ns_call"])
        called = row.get("ns_call") or 0  # a later time that lies before it is none
        row.update(
            {
                k: None if v < called and k != "ns_sched" else v - first
                for k, v in row.items()
                if k.startswith("ns_") and v is not None
            }
        )
        row.update(
            run_id=f"{place.parent.name}/{place.stem}",
            attempt=1,
            seq=number,
            phase=row.get("phase", "measure"),
        )
        row["name"] = row["model"] = row.get("model") or place.stem
        row |= {"start_kind": "warm", "quality": "bounded", "censored": False}
        derive(row)
    return columns.frame(found)


def _iso_time(ns: int) -> str | None:
    from datetime import UTC, datetime

    try:
        return datetime.fromtimestamp(ns / 1e9, UTC).isoformat()
    except (ValueError, OverflowError, OSError):  # no moment of any calendar
        return None


def _get(given: Any, *path: str) -> Any:
    """What stands at a place in nested mappings; None where nothing does."""
    for step in path:
        given = given.get(step) if isinstance(given, Mapping) else None
    return given


def _first_number(*given: Any) -> float | None:
    """The first of these that is a finite number and not below 0: a time, a count."""
    known = (v for v in given if isinstance(v, (int, float)) and not isinstance(v, bool))
    return next((float(v) for v in known if 0 <= v < _MAX_NUMBER), None)  # NaN is not below anything


def _first_text(*given: Any) -> str | None:
    return next((v for v in given if isinstance(v, str) and v), None)


def _nanoseconds(seconds: float | None) -> int | None:
    return None if seconds is None else round(seconds * 1e9)


def _add_token_counts(row: Row, out: float | None, chunks: float | None) -> None:
    """Tokens, and the share of the first chunk."""
    row["chunks"] = None if chunks is None else int(chunks)
    if out is None:
        return
    row["out_tokens"] = row["streamed_tokens"] = int(out)
    if chunks:
        row["first_chunk_tokens"] = max(1, round(out / chunks))
        row["itl_src"] = "single" if chunks >= out else "share"


# --- guidellm ---


def _guidellm_rows(report: Mapping[str, Any]) -> Iterator[Row]:
    for number, benchmark in enumerate(report["benchmarks"]):
        strategy = _get(benchmark, "config", "strategy") or _get(benchmark, "scheduler", "strategy") or {}
        kind = _first_text(_get(strategy, "type_")) or "synchronous"
        about: Row = {
            "model": _first_text(
                _get(benchmark, "config", "backend", "model"),
                _get(report, "args", "model"),
                _get(report, "args", "backend_kwargs", "model"),
            ),
            "load_kind": _STRATEGIES.get(kind, "closed"),
        }
        if about["load_kind"] == "closed":
            wide = _first_number(_get(strategy, "streams"), _get(strategy, "max_concurrency"))
            about["concurrency"] = int(wide) if wide else 1 if kind == "synchronous" else None
        else:
            about["target_rate"] = _first_number(_get(strategy, "rate"))
        for outcome in ("successful", "incomplete", "errored"):
            several = _get(benchmark, "requests", outcome)
            for place, request in enumerate(several if isinstance(several, list) else ()):
                yield (
                    about
                    | _guidellm_row(request, outcome)
                    | {
                        "request_id": _first_text(_get(request, "request_id"))
                        or f"{number}.{outcome}.{place}"
                    }
                )


def _guidellm_row(request: Any, outcome: str) -> Row:
    times = _get(request, "info", "timings") or {}

    def at(name: str, *older: str) -> int | None:
        return _nanoseconds(_first_number(_get(times, name), *(_get(request, o) for o in older)))

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
    out = _first_number(
        *(_get(request, "output_metrics", k) for k in ("total_tokens", "text_tokens")),
        _get(request, "output_tokens"),
    )
    _add_token_counts(row, out, _first_number(_get(times, "token_iterations")) or None)
    return row


# --- aiperf ---


def _aiperf_settings(place: Path) -> tuple[str | None, Row]:
    """(the model, its load), by the summary that aiperf writes beside its records."""
    try:
        told = json.loads((place.parent / "profile_export_aiperf.json").read_text("utf-8"))
    except (OSError, ValueError, RecursionError):
        told = {}
    names = _get(told, "input_config", "endpoint", "model_names")
    rate = _first_number(_get(told, "input_config", "loadgen", "request_rate"))
    wide = _first_number(_get(told, "input_config", "loadgen", "concurrency"))
    load: Row = {"load_kind": "poisson" if rate else "closed", "target_rate": rate}
    return _first_text(*names) if isinstance(names, list) else _first_text(names), load | (
        {"concurrency": int(wide)} if wide and not rate else {}
    )


def _aiperf_row(record: Any, model: str | None, load: Row) -> Row:
    about, metrics, error = (_get(record, k) for k in ("metadata", "metrics", "error"))

    def ms(name: str) -> float | None:
        value = _first_number(_get(metrics, name, "value"))
        return None if value is None else value * _UNITS.get(str(_get(metrics, name, "unit")), math.nan)

    called, ended = (_first_number(_get(about, k)) for k in ("request_start_ns", "request_end_ns"))
    first, latency, gaps = (
        ms("time_to_first_token"),
        ms("request_latency"),
        _get(metrics, "inter_chunk_latency", "value"),
    )
    row: Row = {
        "request_id": _first_text(_get(about, "x_request_id")) or f"{_get(about, 'session_num')}",
        "model": _first_text(_get(about, "model_name"), model),
        "phase": "measure" if _get(about, "benchmark_phase") in ("profiling", None) else "warmup",
        "ns_call": None if called is None else int(called),
        "ns_done": None if ended is None else int(ended),
        "in_tokens": _first_number(_get(metrics, "input_sequence_length", "value")),
        "reasoning_tokens": _first_number(_get(metrics, "reasoning_token_count", "value")),
        "ok": not error,
        "status": "cancelled" if _get(about, "was_cancelled") else "http_error" if error else "ok",
        "error_type": _first_text(_get(error, "type")),
        "error_msg": _first_text(_get(error, "message")),
        "http_status": _first_number(_get(error, "code")),
        **load,
    }
    for column, after in (
        ("ns_tok1", first),
        ("ns_tokN", latency),
        ("ns_out1", ms("time_to_first_output_token")),
    ):
        if called is not None and after is not None and math.isfinite(after):
            row[column] = round(called + after * 1e6)
    _add_token_counts(
        row,
        _first_number(
            _get(metrics, "output_sequence_length", "value"), _get(metrics, "output_token_count", "value")
        ),
        len(gaps) + 1 if isinstance(gaps, list) else None,
    )
    return row


# --- out ---


def export(df: pd.DataFrame, path: str | os.PathLike[str], to: str) -> Path:
    """Writes a run for another tool and gives the path. to: "guidellm" (its requests by level of load),
    "inspect" (one log a model: of several, `path` is a folder), "promptfoo" (results, with the checks of
    assertions and scores).

    The texts come from the run's directory: inspect and promptfoo need it on this machine. Raises ConfigError
    for another name.
    """
    writer = _WRITERS.get(to)
    if writer is None:
        raise ConfigError(f"No tool is called {to!r} here.", hint=did_you_mean(to, _WRITERS))
    if not isinstance(path, (str, os.PathLike)):
        raise ConfigError(f"No path is {path!r}.", hint='bench.export(df, "run.json", to="inspect")')
    made = writer(normalize_requests(df))
    if made == []:
        raise ConfigError("There are no requests to write.", hint="A run that measured something has them.")
    place = Path(path)
    if isinstance(made, list) and len(made) > 1:
        with translate_write_errors(place):
            place.mkdir(parents=True, exist_ok=True)
        for number, log in enumerate(made):
            _write_json(place / f"{number:02}.json", log)
        return place
    _write_json(place, made[0] if isinstance(made, list) else made)
    return place


def _write_json(place: Path, found: Any) -> None:
    with translate_write_errors(place):
        place.write_text(json.dumps(found, ensure_ascii=True, indent=1, default=str), "utf-8")


@contextlib.contextmanager
def translate_write_errors(place: Path) -> Iterator[None]:
    """Says in our words where a file cannot be written. Raises ConfigError."""
    try:
        yield
    except OSError as error:
        raise ConfigError(
            f"{place} cannot be written: {error.strerror}.", hint="Name another place."
        ) from None


def _to_guidellm(df: pd.DataFrame) -> Any:
    import pandas as pd

    keys = ["name", "load_kind", "concurrency", "target_rate"]
    benchmarks = []
    for key, part in last_attempts(df).groupby(keys, dropna=False, sort=False, observed=True):
        name, kind, wide, rate = (None if pd.isna(k) else k for k in cast(tuple[Any, ...], key))
        closed = kind in ("closed", "single")
        alone = closed and not (wide and wide > 1)
        strategy: Row = {"type_": "synchronous" if alone else "concurrent" if closed else str(kind)}
        strategy |= (
            {"streams": 1 if alone or wide is None else int(wide)}
            if closed
            else {"rate": _first_number(rate)}
        )
        good = success_mask(part)
        requests = {
            "successful": [_guidellm_request(r) for r in part[good].to_dict("records")],
            "incomplete": [],
            "errored": [_guidellm_request(r) for r in part[~good].to_dict("records")],
        }
        about = {"strategy": strategy, "backend": {"model": str(name)}}
        benchmarks.append({"type_": "generative_benchmark", "config": about, "requests": requests})
    return {"metadata": {"version": 1, "made_by": "nbllm"}, "args": {}, "benchmarks": benchmarks}


def _guidellm_request(row: Mapping[Any, Any]) -> Row:
    """A request by guidellm's names. Its times are seconds since 1970."""
    import pandas as pd

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
