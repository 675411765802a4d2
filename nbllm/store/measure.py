"""Measures a finished stream: one row per attempt, in the columns of `columns`.

Ordinary calls and benchmarks share this code. Nothing here reads a clock: all times are marks and arrivals
that the transport recorded. What did not happen is left out of the row, and so becomes NA.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Mapping
from dataclasses import replace
from hashlib import sha256
from typing import Any

import msgspec

from ..core import errors
from ..core.calls import ProviderSpec, Trace
from ..core.events import Finished, Response, Usage, UsageReport
from ..core.messages import Request
from ..core.options import option_keywords
from ..dialects.embeddings import EMBEDDERS
from ..routing import prices
from .chunks import (
    DISTURBANCE,
    TOKEN_KINDS,
    Chunk,
    RecordedStream,
    Row,
    Tokenizer,
    chunks_of,
    loop_was_busy,
    ns,
)
from .history import INTERRUPTED
from .timeline import TokenTimes, streamed_tokens, token_times

CERTIFIED_MS = 0.3  # the error of a certified stamp (p99 of benchmarks/accuracy.py)
_CHARS_PER_TOKEN = 4.0  # of English text; used only where neither usage nor a tokenizer counts

# The columns that marks of the transport fill.
_MARKS = {
    "ns_dns0": "dns_start",
    "ns_dns1": "dns",
    "ns_conn0": "connect_start",
    "ns_conn1": "connected",
    "ns_tls0": "tls_start",
    "ns_tls1": "secured",
    "ns_send0": "send_start",
    "ns_send1": "sent",
    "ns_hdr": "headers",
    "ns_byte1": "first_byte",
    "ns_done": "done",
    "ns_eof": "eof",
    "ns_spawn": "spawned",
    "ns_stdout1": "stdout",
    "ns_init": "init",
    "ns_exit": "exit",
}
_TOKEN_COLUMNS = ("ns_tok1", "ns_tokN", "ns_out1")  # in the order of TokenTimes
# Differences of two columns.
_DERIVED = {
    "sched_delay_ms": ("ns_sched", "ns_call"),
    "dns_ms": ("ns_dns0", "ns_dns1"),
    "connect_ms": ("ns_conn0", "ns_conn1"),
    "tls_ms": ("ns_tls0", "ns_tls1"),
    "send_ms": ("ns_send0", "ns_send1"),
    "import_ms": ("ns_spawn", "ns_import"),
    "ttfb_ms": ("ns_call", "ns_byte1"),
    "ttfe_ms": ("ns_call", "ns_event1"),
    "ttft_ms": ("ns_call", "ns_tok1"),
    "ttft_sched_ms": ("ns_sched", "ns_tok1"),
    "ttft_wire_ms": ("ns_send1", "ns_tok1"),
    "ttfo_ms": ("ns_call", "ns_out1"),
    "e2e_ms": ("ns_call", "ns_tokN"),
    "e2e_sched_ms": ("ns_sched", "ns_tokN"),
    "decode_ms": ("ns_tok1", "ns_tokN"),
}
_STATUS: tuple[tuple[type[errors.NbllmError], str], ...] = (
    (errors.AuthenticationError, "auth"),
    (errors.PermissionDenied, "auth"),
    (errors.RateLimited, "rate_limited"),
    (errors.QuotaExceeded, "rate_limited"),
    (errors.ContentFiltered, "content_filter"),
    (errors.StreamCut, "stream_cut"),
    (errors.ProtocolError, "protocol_error"),
    (errors.ConnectFailed, "client_error"),
    (errors.ConfigError, "client_error"),
)


class CallContext(msgspec.Struct, frozen=True):
    """What a row needs in addition to the stream: the request, the provider's row, the model's name as the
    user wrote it, whether the simulator answered, the epoch of the `ns_*` columns (perf_counter seconds), a
    tokenizer."""

    request: Request
    provider: ProviderSpec
    model: str
    simulated: bool = False
    epoch: float = 0.0
    tokenizer: Tokenizer | None = None
    label: str | None = None


def attempt_rows(
    stream: RecordedStream,
    call: CallContext,
    extra: Mapping[str, Any] | None = None,
    chunks: list[Chunk] | None = None,
) -> list[Row]:
    """One row per attempt of a stream that has ended, each with the columns of `extra`. Only the last has
    tokens. chunks: the result of `chunks_of`, where it is known."""
    chunks = chunks_of(stream, call.tokenizer) if chunks is None else chunks
    out = [_attempt_row(stream, call, chunks, i) for i in range(max(1, len(stream.traces)))]
    for row in out:
        row.update(extra or {})
        derive(row)
    return out


def failure_row(error: BaseException, provider: ProviderSpec, model: str, extra: Mapping[str, Any]) -> Row:
    """The row of a request that failed before it was sent, or whose answer could not be measured."""
    return {
        **_base_row(provider, model),
        **_error_columns(errors.as_nbllm_error(error), None),
        "quality": "bounded",
        **extra,
    }


def running_row(call: CallContext, extra: Mapping[str, Any]) -> Row:
    """The row of a call that is running: it remains where the kernel is killed."""
    return {
        **_base_row(call.provider, call.model),
        "request_model": call.request.model,
        "params": params_json(call.request),
        "label": call.label,
        "simulated": call.simulated,
        "ok": False,
        "status": INTERRUPTED,
        **extra,
    }


def _base_row(provider: ProviderSpec, model: str) -> Row:
    transport = "cli" if provider.command else "h1"
    return {"attempt": 1, "provider": provider.name, "model": model, "transport": transport}


# --- rows ---


def _attempt_row(stream: RecordedStream, call: CallContext, chunks: list[Chunk], i: int) -> Row:
    trace = stream.traces[i] if stream.traces else Trace()
    if i < len(stream.attempts):  # an attempt may have another model than the one before
        attempt = stream.attempts[i]
        route = attempt.route
        if attempt.request is not call.request or route.provider is not call.provider:
            call = msgspec.structs.replace(
                call,
                request=attempt.request,
                provider=route.provider,
                model=route.name,
                simulated=route.simulated,
            )
    last = i >= len(stream.traces) - 1
    called = stream.called_at if i == 0 else trace.marks.get("start", stream.called_at)
    opened = trace.connected_at if trace.reused else None
    row: Row = {
        "attempt": i + 1,
        "provider": call.provider.name,
        "route": call.provider.display_url,
        "model": call.model,
        "request_model": call.request.model,
        "transport": "cli" if call.provider.command else "h1",
        "params": params_json(call.request),
        "prompt_sha": messages_sha(call.request),
        "label": call.label,
        "start_kind": "warm",
        "load_kind": "single",
        "phase": "measure",
        "conn_reused": trace.reused,
        "tls_resumed": trace.resumed,
        "http_version": trace.http_version,
        "http_status": trace.status,
        "ns_call": ns(called, call.epoch),
        "ns_sched": ns(called, call.epoch),
        "simulated": call.simulated or trace.simulated,
        "bytes_in": trace.bytes_in,
        "bytes_out": trace.bytes_out,
        "texts": len(call.request.messages) if call.provider.dialect in EMBEDDERS else None,
        "conn_age_ms": None if opened is None else (called - opened) * 1e3,
        **{
            column: ns(trace.marks[mark], call.epoch)
            for column, mark in _MARKS.items()
            if mark in trace.marks
        },
    }
    row["queue_ms"], disturbed = _client_delay(trace, called)
    row.update(_client_lags(trace), stamp=trace.reads[-1].stamp if trace.reads else None)
    if last:
        row.update(_answer_columns(stream, call, chunks, disturbed))
    else:
        error = trace.error or errors.StreamCut("The attempt was abandoned.")
        row.update(
            _error_columns(error, trace.status), quality="contaminated" if disturbed else "bounded", chunks=0
        )
    return row


def _client_delay(trace: Trace, called: float) -> tuple[float | None, bool]:
    """(milliseconds from the call to the first network step; whether this client delayed the request before
    it was sent)."""
    marks = trace.marks
    steps = [marks[name] for name in ("dns_start", "connect_start", "send_start") if name in marks]
    if not steps:
        return None, False
    sent = marks.get("sent", steps[-1])
    setting_up = sum(
        marks[b] - marks[a]
        for a, b in (("dns_start", "dns"), ("connect_start", "connected"), ("tls_start", "secured"))
        if a in marks and b in marks
    )
    is_delayed = sent - called - setting_up > DISTURBANCE or loop_was_busy(trace, called, sent)
    return (steps[0] - called) * 1e3, is_delayed


def _client_lags(trace: Trace) -> Row:
    lags = sorted((r.user - r.at) * 1e3 for r in trace.reads if r.stamp == "kernel")
    if not lags:
        return {}
    return {
        "client_lag_p50_ms": lags[len(lags) // 2],
        "client_lag_p99_ms": lags[min(len(lags) - 1, int(0.99 * len(lags)))],
        "client_lag_max_ms": lags[-1],
    }


def _answer_columns(stream: RecordedStream, call: CallContext, chunks: list[Chunk], disturbed: bool) -> Row:
    response = stream.partial()
    token_chunks = [c for c in chunks if c.kind in TOKEN_KINDS]
    text_chunks = [] if call.provider.dialect in EMBEDDERS else token_chunks  # vectors are not tokens
    times = token_times(stream)
    row: Row = {
        "response_model": response.model,
        "provider_request_id": response.id or stream.trace.headers.get("x-request-id"),
        "finish_reason": response.finish_reason,
        "events": len(chunks),
        "chunks": len(token_chunks),
        "chars": sum(c.chars for c in text_chunks),
        "cost_usd": None if _is_usage_false(response.usage or Usage(), text_chunks) else response.cost,
        "cached": response.cached,
        "simulated": response.simulated,
        **_outcome_columns(stream, response),
        **_server_columns(response, stream.trace),
        **_token_columns(response.usage, text_chunks, times, _tokenizer_total(text_chunks, call.tokenizer)),
    }
    if response.cost is not None or (token_chunks and not response.simulated):
        row.update(_price_columns(response, call))
    if chunks:
        last_at = {type(item): at for at, item in stream.log.items() if not isinstance(item, str)}
        ends = {"ns_finish": last_at.get(Finished), "ns_usage": last_at.get(UsageReport)}
        row |= {n: ns(min(at, chunks[-1].at), call.epoch) for n, at in ends.items() if at is not None}
        row["ns_event1"] = ns(chunks[0].at, call.epoch)
    if token_chunks and times is not None:
        row.update(_time_columns(token_chunks, times, call.epoch))
    if stream.trace.non_streaming:  # such answers have no time to first token
        row = {
            k: v
            for k, v in row.items()
            if k not in ("ns_tok1", "ns_out1", "icl_p50_ms", "icl_p99_ms", "stall_max_ms", "err_bound_ms")
        }
    uncertain = [c for c in (token_chunks[0], token_chunks[-1]) if not c.exact] if token_chunks else []
    disturbed = disturbed or any(c.busy for c in uncertain)
    quality = "bounded" if uncertain or not token_chunks else "certified"
    row["quality"] = "contaminated" if disturbed else quality
    return row


def _price_columns(response: Response, call: CallContext) -> Row:
    """The prices behind a cost, in US dollars for a million tokens, and their source."""
    model = response.model or call.request.model
    known = prices.facts(model, call.provider)
    if response.cost is None and known.output is None:
        return {}
    is_charged = response.usage is not None and prices.charged_cost(response.usage.raw) is not None
    source = "own" if model in call.provider.facts else "provider" if is_charged else "genai-prices"
    return {
        "price_in": known.input,
        "price_out": known.output,
        "price_cached": known.cache_read,
        "price_src": source,
    }


def _time_columns(token_chunks: list[Chunk], times: TokenTimes, epoch: float) -> Row:
    first = token_chunks[0]
    gaps = sorted((b.at - a.at) * 1e3 for a, b in itertools.pairwise(token_chunks))
    row: Row = {
        **{n: ns(at, epoch) for n, at in zip(_TOKEN_COLUMNS, times[:3], strict=True) if at is not None},
        "err_bound_ms": CERTIFIED_MS if first.exact else max(CERTIFIED_MS, (first.at - first.lo) * 1e3),
        "coalesced_frac": sum(not c.exact for c in token_chunks) / len(token_chunks),
    }
    if gaps:
        median = (gaps[(len(gaps) - 1) // 2] + gaps[len(gaps) // 2]) / 2
        row |= {"icl_p50_ms": median, "stall_max_ms": gaps[-1]}
        if len(gaps) >= 100:
            row["icl_p99_ms"] = gaps[int(0.99 * (len(gaps) - 1))]
    return row


def _is_usage_false(usage: Usage, chunks: list[Chunk]) -> bool:
    """Whether the usage reports 0 output tokens for an answer with text, as proxies do that do not count."""
    return usage.output_tokens == 0 and any(c.chars for c in chunks)


def _tokenizer_total(chunks: list[Chunk], tokenizer: Tokenizer | None) -> int | None:
    """The tokenizer's count for the complete answer: chunks may end within a token."""
    return tokenizer("".join(c.text for c in chunks)) if tokenizer and chunks else None


def _token_columns(
    usage: Usage | None, chunks: list[Chunk], times: TokenTimes | None, total: int | None = None
) -> Row:
    """The token counts and their source; the first chunk's count and its source. total: the tokenizer's
    count for the complete answer."""
    usage = usage or Usage()
    counts: list[int] = [c.tokens for c in chunks if c.tokens is not None]
    by_chunk = bool(chunks) and len(counts) == len(chunks)
    by_usage = by_chunk and all(c.total_tokens is not None for c in chunks)
    out, source = usage.output_tokens, "usage_stream" if by_usage else "usage"
    is_false = _is_usage_false(usage, chunks)
    if is_false:
        out, by_chunk, by_usage = None, by_chunk and total is not None, False
    if out is None and chunks:
        out, source = (
            (total or sum(counts), "usage_stream" if by_usage else "tokenizer")
            if by_chunk
            else (max(len(chunks), round(sum(c.chars for c in chunks) / _CHARS_PER_TOKEN)), "estimate")
        )
    row: Row = {
        "in_tokens": usage.input_tokens or (None if is_false else usage.input_tokens),
        "in_cached": usage.cache_read_tokens,
        "in_cache_write": usage.cache_write_tokens,
        "out_tokens": out,
        "reasoning_tokens": usage.reasoning_tokens,
        "tok_source": source if out is not None else None,
    }
    if out is None:
        return row
    row["visible_tokens"] = out - (usage.reasoning_tokens or 0)
    row["streamed_tokens"] = streamed = streamed_tokens(replace(usage, output_tokens=out), times) or 0
    if chunks:
        row["first_chunk_tokens"], row["itl_src"] = _first_chunk_tokens(
            chunks, streamed, "usage_stream" if by_usage else "tokenizer" if by_chunk else ""
        )
    return row


def _first_chunk_tokens(chunks: list[Chunk], streamed: int, counter: str) -> tuple[int, str]:
    """(tokens of the first chunk, how they are known). counter: what counted each chunk, "" for nothing."""
    if counter:
        return chunks[0].tokens or 0, counter
    if len(chunks) >= streamed:
        return 1, "single"
    characters = sum(c.chars for c in chunks)
    share = round(streamed * chunks[0].chars / characters) if characters else 1
    return max(1, min(share, streamed - len(chunks) + 1)), "share"


def _error_columns(error: errors.NbllmError, http_status: int | None) -> Row:
    """The columns of an error that ended an attempt; `http_status`: the status received before it."""
    limit = error.seconds * 1e3 if isinstance(error, errors.Timeout) else None
    return {
        "ok": False,
        "error_type": type(error).__name__,
        "error_msg": error.message,
        "status": _status(error, http_status),
        "http_status": getattr(error, "status", None) or http_status,
        "retry_after_s": getattr(error, "retry_after", None),
        "censored": limit is not None,
        "censor_ms": limit,
    }


def _outcome_columns(stream: RecordedStream, response: Response) -> Row:
    error = stream.error
    cancelled = error is None and response.finish_reason == "cancelled"
    row: Row = {"censored": cancelled} if error is None else _error_columns(error, stream.trace.status)
    if row["censored"] and stream.ended_at is not None:
        row["censor_ms"] = (stream.ended_at - stream.called_at) * 1e3
    if error is None:
        statuses = {
            "cancelled": cancelled,
            "content_filter": response.finish_reason == "content_filter",
            "refusal": response.refusal and not response.text,
            "empty": not response.parts,
        }
        row["status"] = next((status for status, applies in statuses.items() if applies), "ok")
        row["ok"] = row["status"] == "ok"
    return row


def _status(error: errors.NbllmError, http_status: int | None) -> str:
    if isinstance(error, errors.Timeout):
        return {"connect": "timeout_connect", "first": "timeout_ttft"}.get(error.which, "timeout_total")
    for kind, name in _STATUS:
        if isinstance(error, kind):
            return name
    if isinstance(error, errors.ProviderError) and http_status == 200:
        return "stream_error"
    status = getattr(error, "status", None)
    by_status = {401: "auth", 403: "auth", 429: "rate_limited"}
    return by_status.get(status, "http_error") if status else "client_error"


# Times that servers report: the source, the field, its unit in ms, and the column it fills.
_SERVER_TIMES: tuple[tuple[str, str, float, str], ...] = (
    ("ollama", "total_duration", 1e-6, "srv_total_ms"),
    ("ollama", "load_duration", 1e-6, "srv_load_ms"),
    ("ollama", "prompt_eval_duration", 1e-6, "srv_prefill_ms"),
    ("ollama", "eval_duration", 1e-6, "srv_decode_ms"),
    ("llamacpp", "prompt_ms", 1.0, "srv_prefill_ms"),
    ("llamacpp", "predicted_ms", 1.0, "srv_decode_ms"),
    ("groq", "queue_time", 1e3, "srv_queue_ms"),
    ("groq", "prompt_time", 1e3, "srv_prefill_ms"),
    ("groq", "completion_time", 1e3, "srv_decode_ms"),
    ("groq", "total_time", 1e3, "srv_total_ms"),
)


def _server_columns(response: Response, trace: Trace) -> Row:
    reported: dict[str, Any] = dict(response.usage.raw) if response.usage else {}
    for notice in response.notices:
        if notice.kind == "timing":
            reported |= {
                k: v
                for value in (notice.data, *notice.data.values())
                if isinstance(value, Mapping)
                for k, v in value.items()
            }
    row: Row = {}
    for source, name, unit, column in _SERVER_TIMES:
        value = reported.get(name)
        if isinstance(value, (int, float)) and not isinstance(value, bool):
            row.setdefault(column, value * unit)
            row.setdefault("srv_src", source)
    processing = trace.headers.get("openai-processing-ms", "")
    if not row and processing.replace(".", "", 1).isdigit():
        row = {"srv_total_ms": float(processing), "srv_src": "openai"}
    return row


def derive(row: Row) -> None:
    """Adds the columns that derive from a row's marks and counts, in place. The times of a fresh process
    start at its spawn."""
    is_spawned = row.get("start_kind") == "cold_process" and row.get("ns_spawn") is not None
    for column, (begin, end) in _DERIVED.items():
        start = "ns_spawn" if is_spawned and begin == "ns_call" else begin
        if row.get(start) is not None and row.get(end) is not None:
            row[column] = (row[end] - row[start]) / 1e6
    ended = row.get("ns_done") if row.get("ns_done") is not None else row.get("ns_eof")
    if ended is not None:
        row["e2e_done_ms"] = (ended - row["ns_spawn" if is_spawned else "ns_call"]) / 1e6
        if row.get("ns_tokN") is not None:
            row["tail_ms"] = (ended - row["ns_tokN"]) / 1e6
    _rates(row)


def _rates(row: Row) -> None:
    decode, streamed, first, n_chunks = (
        row.get(k) for k in ("decode_ms", "streamed_tokens", "first_chunk_tokens", "chunks")
    )
    if row.get("e2e_ms") and row.get("out_tokens"):
        row["norm_per_token_ms"] = row["e2e_ms"] / row["out_tokens"]
        row["out_tok_s_e2e"] = row["out_tokens"] * 1e3 / row["e2e_ms"]
    if row.get("e2e_ms") and row.get("texts"):
        row["texts_s"] = row["texts"] * 1e3 / row["e2e_ms"]
        row["in_tok_s"] = row["in_tokens"] * 1e3 / row["e2e_ms"] if row.get("in_tokens") else None
    if not decode or not streamed or not first or not n_chunks or n_chunks < 2 or streamed <= first:
        return
    row["itl_ms"] = decode / (streamed - first)
    row["tpot_ms"] = decode / (streamed - 1)
    is_known = row.get("itl_src") != "share"
    row["itl_lo_ms"] = row["itl_ms"] if is_known else min(row["itl_ms"], decode / (streamed - 1))
    row["itl_hi_ms"] = row["itl_ms"] if is_known else max(row["itl_ms"], decode / (n_chunks - 1))
    row["out_tok_s"] = 1e3 / row["itl_ms"]


def params_json(request: Request) -> str:
    """The parameters of a request that are set, as canonical JSON, without messages and model."""
    parameters = {
        n: getattr(request, n)
        for n in option_keywords("parameter")
        if getattr(request, n, None) not in (None, ())
    }
    more = {"tools": [t.name for t in request.tools], "schema": bool(request.schema)}
    parameters |= {n: v for n, v in more.items() if v} | {f"x.{k}": v for k, v in request.extra.items()}
    return json.dumps(parameters, sort_keys=True, default=str)


def messages_sha(request: Request) -> str:
    """The first 16 hex digits of the SHA-256 of the messages."""
    return sha256(repr(request.messages).encode("utf-8", "replace")).hexdigest()[:16]
