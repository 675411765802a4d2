"""A finished Recorded as numbers: one row per attempt, in the columns of `columns`.

Ordinary calls and benchmarks are measured by this one path. Nothing here looks at a clock: all times are
marks that the transport wrote and arrivals that it stamped. What did not happen is left out of the row, and
so becomes NA.
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
from ..core.options import keywords
from ..dialects.embeddings import EMBEDDERS
from ..routing import prices
from . import chunks as pieces
from .chunks import BEARING, DISTURBED, Chunk, Recorded, Row, Tokenizer, ns, stalled
from .history import INTERRUPTED
from .timeline import Moments, moments, streamed

CERTIFIED_MS = 0.3  # what a certified stamp is good for (p99 of benchmarks/accuracy.py)
_CHARS_A_TOKEN = 4.0  # English text; only where neither usage nor a tokenizer counts

# Marks of the transport, and the columns they fill.
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
_TOKENS = ("ns_tok1", "ns_tokN", "ns_out1")  # as Moments has them
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
    """What a row needs to know and a stream does not: the request, the provider's row, the model as asked
    for, whether the simulator answered, the epoch of its `ns_*` columns (perf_counter seconds), a
    tokenizer."""

    request: Request
    provider: ProviderSpec
    model: str
    simulated: bool = False
    epoch: float = 0.0
    tokenizer: Tokenizer | None = None
    label: str | None = None


def rows(
    stream: Recorded,
    call: CallContext,
    extra: Mapping[str, Any] | None = None,
    found: list[Chunk] | None = None,
) -> list[Row]:
    """One row per attempt of a stream that has ended; `extra` is added to each. Only the last has tokens.
    found: what `chunks.of` gave, where it is known."""
    found = pieces.of(stream, call.tokenizer) if found is None else found
    out = [_attempt(stream, call, found, i) for i in range(max(1, len(stream.traces)))]
    for row in out:
        row.update(extra or {})
        derive(row)
    return out


def failed(error: BaseException, provider: ProviderSpec, model: str, extra: Mapping[str, Any]) -> Row:
    """The row of a request that came to nothing before it was sent, or whose answer could not be measured."""
    return {
        **_asked(provider, model),
        **_failure(errors.as_nbllm_error(error), None),
        "quality": "bounded",
        **extra,
    }


def started(call: CallContext, extra: Mapping[str, Any]) -> Row:
    """The row of a call that is on its way: what is left of it where its kernel is killed."""
    return {
        **_asked(call.provider, call.model),
        "request_model": call.request.model,
        "params": params(call.request),
        "label": call.label,
        "simulated": call.simulated,
        "ok": False,
        "status": INTERRUPTED,
        **extra,
    }


def _asked(provider: ProviderSpec, model: str) -> Row:
    transport = "cli" if provider.command else "h1"
    return {"attempt": 1, "provider": provider.name, "model": model, "transport": transport}


# --- rows ---


def _attempt(stream: Recorded, call: CallContext, found: list[Chunk], i: int) -> Row:
    trace = stream.traces[i] if stream.traces else Trace()
    if i < len(stream.attempts):  # which may have asked another model than the one before
        asked = stream.attempts[i]
        route = asked.route
        if asked.request is not call.request or route.provider is not call.provider:
            call = msgspec.structs.replace(
                call,
                request=asked.request,
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
        "params": params(call.request),
        "prompt_sha": sha(call.request),
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
    row["queue_ms"], disturbed = _own_time(trace, called)
    row.update(_lags(trace), stamp=trace.reads[-1].stamp if trace.reads else None)
    if last:
        row.update(_answer(stream, call, found, disturbed))
    else:
        error = trace.error or errors.StreamCut("The attempt was given up.")
        row.update(
            _failure(error, trace.status), quality="contaminated" if disturbed else "bounded", chunks=0
        )
    return row


def _own_time(trace: Trace, called: float) -> tuple[float | None, bool]:
    """Milliseconds from the call to the network's first step, and whether this client held the request up
    before it was sent."""
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
    held = sent - called - setting_up > DISTURBED or stalled(trace, called, sent)
    return (steps[0] - called) * 1e3, held


def _lags(trace: Trace) -> Row:
    lags = sorted((r.user - r.at) * 1e3 for r in trace.reads if r.stamp == "kernel")
    if not lags:
        return {}
    return {
        "client_lag_p50_ms": lags[len(lags) // 2],
        "client_lag_p99_ms": lags[min(len(lags) - 1, int(0.99 * len(lags)))],
        "client_lag_max_ms": lags[-1],
    }


def _answer(stream: Recorded, call: CallContext, found: list[Chunk], disturbed: bool) -> Row:
    response = stream.partial()
    bearing = [c for c in found if c.kind in BEARING]
    written = [] if call.provider.dialect in EMBEDDERS else bearing  # vectors are no tokens
    row: Row = {
        "response_model": response.model,
        "provider_request_id": response.id or stream.trace.headers.get("x-request-id"),
        "finish_reason": response.finish_reason,
        "events": len(found),
        "chunks": len(bearing),
        "chars": sum(c.chars for c in written),
        "cost_usd": None if _disbelieved(response.usage or Usage(), written) else response.cost,
        "cached": response.cached,
        "simulated": response.simulated,
        **_outcome(stream, response),
        **_server(response, stream.trace),
        **_tokens(response.usage, written, when := moments(stream), _whole(written, call.tokenizer)),
    }
    if response.cost is not None or (bearing and not response.simulated):
        row.update(_prices(response, call))
    if found:
        told = {type(item): at for at, item in stream.log.items() if not isinstance(item, str)}
        ends = {"ns_finish": told.get(Finished), "ns_usage": told.get(UsageReport)}
        row |= {n: ns(min(at, found[-1].at), call.epoch) for n, at in ends.items() if at is not None}
        row["ns_event1"] = ns(found[0].at, call.epoch)
    if bearing and when is not None:
        row.update(_token_times(bearing, when, call.epoch))
    if stream.trace.non_streaming:  # when the first token was made, nobody saw
        row = {
            k: v
            for k, v in row.items()
            if k not in ("ns_tok1", "ns_out1", "icl_p50_ms", "icl_p99_ms", "stall_max_ms", "err_bound_ms")
        }
    uncertain = [c for c in (bearing[0], bearing[-1]) if not c.exact] if bearing else []
    disturbed = disturbed or any(c.busy for c in uncertain)
    row["quality"] = "contaminated" if disturbed else "bounded" if uncertain or not bearing else "certified"
    return row


def _prices(response: Response, call: CallContext) -> Row:
    """The prices behind a cost, in US dollars for a million tokens, and whose word they are."""
    model = response.model or call.request.model
    known = prices.facts(model, call.provider)
    if response.cost is None and known.output is None:
        return {}
    said = response.usage is not None and prices.charged(response.usage.raw) is not None
    source = "own" if model in call.provider.facts else "provider" if said else "genai-prices"
    return {
        "price_in": known.input,
        "price_out": known.output,
        "price_cached": known.cache_read,
        "price_src": source,
    }


def _token_times(bearing: list[Chunk], when: Moments, epoch: float) -> Row:
    first = bearing[0]
    gaps = sorted((b.at - a.at) * 1e3 for a, b in itertools.pairwise(bearing))
    row: Row = {
        **{n: ns(at, epoch) for n, at in zip(_TOKENS, when[:3], strict=True) if at is not None},
        "err_bound_ms": CERTIFIED_MS if first.exact else max(CERTIFIED_MS, (first.at - first.lo) * 1e3),
        "coalesced_frac": sum(not c.exact for c in bearing) / len(bearing),
    }
    if gaps:
        middle = (gaps[(len(gaps) - 1) // 2] + gaps[len(gaps) // 2]) / 2
        row |= {"icl_p50_ms": middle, "stall_max_ms": gaps[-1]}
        if len(gaps) >= 100:
            row["icl_p99_ms"] = gaps[int(0.99 * (len(gaps) - 1))]
    return row


def _disbelieved(usage: Usage, bearing: list[Chunk]) -> bool:
    """Whether a server counts no token beside text that came: proxies do so that count nothing."""
    return usage.output_tokens == 0 and any(c.chars for c in bearing)


def _whole(bearing: list[Chunk], tokenizer: Tokenizer | None) -> int | None:
    """What a tokenizer counts in the whole answer: its pieces may be cut within a token."""
    return tokenizer("".join(c.pieces for c in bearing)) if tokenizer and bearing else None


def _tokens(usage: Usage | None, bearing: list[Chunk], when: Moments | None, whole: int | None = None) -> Row:
    """Counts, and who made them; the first chunk's share, and how it is known."""
    usage = usage or Usage()
    counts: list[int] = [c.tokens for c in bearing if c.tokens is not None]
    by_chunk = bool(bearing) and len(counts) == len(bearing)
    streamed_usage = by_chunk and all(c.counted is not None for c in bearing)
    out, source = usage.output_tokens, "usage_stream" if streamed_usage else "usage"
    if _disbelieved(usage, bearing):
        out, by_chunk, streamed_usage = None, by_chunk and whole is not None, False
    if out is None and bearing:
        out, source = (
            (whole or sum(counts), "usage_stream" if streamed_usage else "tokenizer")
            if by_chunk
            else (max(len(bearing), round(sum(c.chars for c in bearing) / _CHARS_A_TOKEN)), "estimate")
        )
    row: Row = {
        "in_tokens": usage.input_tokens or (None if _disbelieved(usage, bearing) else usage.input_tokens),
        "in_cached": usage.cache_read_tokens,
        "in_cache_write": usage.cache_write_tokens,
        "out_tokens": out,
        "reasoning_tokens": usage.reasoning_tokens,
        "tok_source": source if out is not None else None,
    }
    if out is None:
        return row
    row["visible_tokens"] = out - (usage.reasoning_tokens or 0)
    row["streamed_tokens"] = flowed = streamed(replace(usage, output_tokens=out), when) or 0
    if bearing:
        row["first_chunk_tokens"], row["itl_src"] = _first_chunk(
            bearing, flowed, "usage_stream" if streamed_usage else "tokenizer" if by_chunk else ""
        )
    return row


def _first_chunk(bearing: list[Chunk], streamed: int, counter: str) -> tuple[int, str]:
    if counter:
        return bearing[0].tokens or 0, counter
    if len(bearing) >= streamed:
        return 1, "single"
    characters = sum(c.chars for c in bearing)
    return max(
        1,
        min(
            round(streamed * bearing[0].chars / characters) if characters else 1, streamed - len(bearing) + 1
        ),
    ), "share"


def _failure(error: errors.NbllmError, answered: int | None) -> Row:
    """What an error says of the attempt that it ended; `answered`: the HTTP status that came before it."""
    limit = error.seconds * 1e3 if isinstance(error, errors.Timeout) else None
    return {
        "ok": False,
        "error_type": type(error).__name__,
        "error_msg": error.message,
        "status": _status(error, answered),
        "http_status": getattr(error, "status", None) or answered,
        "retry_after_s": getattr(error, "retry_after", None),
        "censored": limit is not None,
        "censor_ms": limit,
    }


def _outcome(stream: Recorded, response: Response) -> Row:
    error = stream.error
    cancelled = error is None and response.finish_reason == "cancelled"
    row: Row = {"censored": cancelled} if error is None else _failure(error, stream.trace.status)
    if row["censored"] and stream.ended_at is not None:
        row["censor_ms"] = (stream.ended_at - stream.called_at) * 1e3
    if error is None:
        odd = {
            "cancelled": cancelled,
            "content_filter": response.finish_reason == "content_filter",
            "refusal": response.refusal and not response.text,
            "empty": not response.parts,
        }
        row["status"] = next((status for status, found in odd.items() if found), "ok")
        row["ok"] = row["status"] == "ok"
    return row


def _status(error: errors.NbllmError, answered: int | None) -> str:
    if isinstance(error, errors.Timeout):
        return {"connect": "timeout_connect", "first": "timeout_ttft"}.get(error.which, "timeout_total")
    for kind, name in _STATUS:
        if isinstance(error, kind):
            return name
    if isinstance(error, errors.ProviderError) and answered == 200:
        return "stream_error"
    status = getattr(error, "status", None)
    words = {401: "auth", 403: "auth", 429: "rate_limited"}
    return words.get(status, "http_error") if status else "client_error"


# What providers measure themselves: where it stands, the unit in ms, and the column it fills.
_SERVER: tuple[tuple[str, str, float, str], ...] = (
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


def _server(response: Response, trace: Trace) -> Row:
    said: dict[str, Any] = dict(response.usage.raw) if response.usage else {}
    for notice in response.notices:
        if notice.kind == "timing":
            said |= {
                k: v
                for value in (notice.data, *notice.data.values())
                if isinstance(value, Mapping)
                for k, v in value.items()
            }
    row: Row = {}
    for source, name, unit, column in _SERVER:
        value = said.get(name)
        if isinstance(value, (int, float)) and not isinstance(value, bool):
            row.setdefault(column, value * unit)
            row.setdefault("srv_src", source)
    processing = trace.headers.get("openai-processing-ms", "")
    if not row and processing.replace(".", "", 1).isdigit():
        row = {"srv_total_ms": float(processing), "srv_src": "openai"}
    return row


def derive(row: Row) -> None:
    """Fills what follows from the marks and counts of a row, in place. A fresh process's times count from its
    spawning."""
    spawned = row.get("start_kind") == "cold_process" and row.get("ns_spawn") is not None
    for column, (begin, end) in _DERIVED.items():
        start = "ns_spawn" if spawned and begin == "ns_call" else begin
        if row.get(start) is not None and row.get(end) is not None:
            row[column] = (row[end] - row[start]) / 1e6
    ended = row.get("ns_done") if row.get("ns_done") is not None else row.get("ns_eof")
    if ended is not None:
        row["e2e_done_ms"] = (ended - row["ns_spawn" if spawned else "ns_call"]) / 1e6
        if row.get("ns_tokN") is not None:
            row["tail_ms"] = (ended - row["ns_tokN"]) / 1e6
    _rates(row)


def _rates(row: Row) -> None:
    decode, streamed, first, seen = (
        row.get(k) for k in ("decode_ms", "streamed_tokens", "first_chunk_tokens", "chunks")
    )
    if row.get("e2e_ms") and row.get("out_tokens"):
        row["norm_per_token_ms"] = row["e2e_ms"] / row["out_tokens"]
        row["out_tok_s_e2e"] = row["out_tokens"] * 1e3 / row["e2e_ms"]
    if row.get("e2e_ms") and row.get("texts"):
        row["texts_s"] = row["texts"] * 1e3 / row["e2e_ms"]
        row["in_tok_s"] = row["in_tokens"] * 1e3 / row["e2e_ms"] if row.get("in_tokens") else None
    if not decode or not streamed or not first or not seen or seen < 2 or streamed <= first:
        return
    row["itl_ms"] = decode / (streamed - first)
    row["tpot_ms"] = decode / (streamed - 1)
    known = row.get("itl_src") != "share"
    row["itl_lo_ms"] = row["itl_ms"] if known else min(row["itl_ms"], decode / (streamed - 1))
    row["itl_hi_ms"] = row["itl_ms"] if known else max(row["itl_ms"], decode / (seen - 1))
    row["out_tok_s"] = 1e3 / row["itl_ms"]


def params(request: Request) -> str:
    """The parameters of a request as canonical JSON, without messages, model and what was not set."""
    chosen = {
        n: getattr(request, n) for n in keywords("parameter") if getattr(request, n, None) not in (None, ())
    }
    more = {"tools": [t.name for t in request.tools], "schema": bool(request.schema)}
    chosen |= {n: v for n, v in more.items() if v} | {f"x.{k}": v for k, v in request.extra.items()}
    return json.dumps(chosen, sort_keys=True, default=str)


def sha(request: Request) -> str:
    """The first 16 hex digits of the SHA-256 of the messages."""
    return sha256(repr(request.messages).encode("utf-8", "replace")).hexdigest()[:16]
