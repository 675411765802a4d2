"""The columns of the frames: name, dtype, unit, definition and source of each, in one table.

This table is the only definition: frames are created and cast with it, files are read with it, and the schema
document (`python -m nbllm.store.columns`) is printed from it. Times named `ns_*` are nanoseconds on the
monotonic clock since the run's epoch; names that end in `_ms` are derived from them, in milliseconds. Values
that were not measured are NA, never 0.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    import pandas as pd

VERSION = 1  # of the columns' meaning; stored with every run

STATUSES = (
    "ok",
    "http_error",
    "auth",
    "rate_limited",
    "timeout_connect",
    "timeout_ttft",
    "timeout_total",
    "stream_cut",
    "stream_error",
    "protocol_error",
    "empty",
    "refusal",
    "content_filter",
    "cancelled",
    "client_error",
    "cli_exit",
    "interrupted",
)
START_KINDS = (
    "cold_process",
    "cold_client",
    "cold_conn",
    "cold_model",
    "cold_cache",
    "warm",
)  # coldest first
LOAD_KINDS = ("single", "closed", "constant", "poisson", "ramp", "replay")
PHASES = ("warmup", "ramp", "measure", "drain", "cooldown", "probe")
STAMPS = ("kernel", "recv", "parse", "pipe")
QUALITIES = ("certified", "bounded", "contaminated")
CHUNK_KINDS = ("role", "reasoning", "content", "tool", "finish", "usage", "ping", "done", "other")


class Column(NamedTuple):
    """One column. `dtype` is the pandas name; `categories` are those of a category."""

    name: str
    dtype: str
    unit: str
    group: str
    doc: str
    source: str = "nbllm"
    categories: tuple[str, ...] = ()


def _group(group: str, dtype: str, unit: str, docs: Mapping[str, str], source: str = "nbllm") -> list[Column]:
    return [Column(name, dtype, unit, group, doc, source) for name, doc in docs.items()]


_NS, _MS = "Int64", "float64"

COLUMNS: tuple[Column, ...] = (
    # --- identity
    *_group(
        "identity",
        "string",
        "",
        {
            "run_id": "The run of this row; for an ordinary call its kernel, HOST-PID-START.",
            "request_id": "The request within its run. With `attempt` it is the row's key.",
            "name": "The label of the model in this run; summary and compare group by it.",
            "provider_request_id": "The provider's own id of the request or answer.",
            "prompt_id": "The prompt within its set.",
            "prompt_sha": "SHA-256 (first 16 hex digits) of the messages as sent, including prefixes.",
            "label": "The call's label=; with use=, the prompt's name and version.",
            "notebook": "The folder and name of the notebook that made the call, if the front end "
            "reports them.",
        },
    ),
    Column(
        "attempt",
        "Int8",
        "",
        "identity",
        "1 for the first attempt, 2 for the first retry. Only the last attempt has tokens.",
    ),
    Column(
        "seq",
        "Int64",
        "",
        "identity",
        "The request's position in the planned order, from 0.",
    ),
    Column(
        "block",
        "Int32",
        "",
        "identity",
        "The randomised complete block, in which every model answers once; compare pairs by it.",
    ),
    Column(
        "order_in_block",
        "Int16",
        "",
        "identity",
        "The model's position in the random order of its block, from 0.",
    ),
    Column(
        "t_wall",
        "datetime64[ns, UTC]",
        "",
        "identity",
        "The wall-clock time of the call; for information only, never used for differences.",
    ),
    Column("provider", "category", "", "identity", "The provider, such as openai."),
    Column("route", "category", "", "identity", "The address the request was sent to."),
    Column("model", "category", "", "identity", "The model's name as the user wrote it."),
    Column("request_model", "category", "", "identity", "The provider's own name of the model, as sent."),
    Column("response_model", "category", "", "identity", "The model's name in the response."),
    Column(
        "transport",
        "category",
        "",
        "identity",
        "The transport.",
        categories=("h1", "h2", "cli", "unix", "inproc"),
    ),
    Column("params", "string", "JSON", "identity", "The parameters sent, as canonical JSON."),
    # --- regime
    Column(
        "phase",
        "category",
        "",
        "regime",
        "summary and compare use only `measure`; a load is built up in `ramp` and ends in `drain`.",
        categories=PHASES,
    ),
    Column(
        "start_kind",
        "category",
        "",
        "regime",
        "What was cold: the step of the cold-start measurement.",
        categories=START_KINDS,
    ),
    Column(
        "load_kind",
        "category",
        "",
        "regime",
        "How requests were started; `single` is an ordinary call.",
        categories=LOAD_KINDS,
    ),
    Column("target_rate", "float64", "1/s", "regime", "Open loop: the target rate."),
    Column("concurrency", "Int32", "", "regime", "Closed loop: the number of concurrent requests per model."),
    Column(
        "inflight",
        "Int32",
        "",
        "regime",
        "Number of requests of this run in flight when this one was called, including itself.",
    ),
    Column(
        "idle_s",
        "float64",
        "s",
        "regime",
        "The pause before this request, if one was requested.",
    ),
    Column(
        "think_s",
        "float64",
        "s",
        "regime",
        "The simulated thinking time before it (think=).",
    ),
    Column(
        "conn_reused",
        "boolean",
        "",
        "regime",
        "Whether the connection had been used before.",
    ),
    Column("tls_resumed", "boolean", "", "regime", "Whether the TLS session was resumed; NA without TLS."),
    Column("conn_age_ms", "float64", "ms", "regime", "The connection's age when it was reused."),
    Column("http_version", "category", "", "regime", "The HTTP version of the response."),
    # --- marks
    *_group(
        "marks",
        _NS,
        "ns",
        {
            "ns_sched": "When it was scheduled (open loop); otherwise the time of the call.",
            "ns_call": "When the client was called.",
            "ns_dns0": "Name look-up begins.",
            "ns_dns1": "Name look-up ends.",
            "ns_conn0": "TCP connect begins.",
            "ns_conn1": "TCP connect ends.",
            "ns_tls0": "TLS handshake begins.",
            "ns_tls1": "TLS handshake ends.",
            "ns_send0": "The first byte of the request is passed to the operating system.",
            "ns_send1": "The last byte of the request is passed to the operating system (start of that "
            "system call).",
            "ns_hdr": "The answer's status line and headers are complete.",
            "ns_byte1": "The first byte of the answer arrives.",
            "ns_event1": "The first event of the body arrives, whatever its content.",
            "ns_tok1": "The first token arrives: non-empty text, reasoning or tool call.",
            "ns_out1": "The first visible text arrives.",
            "ns_tokN": "The last token arrives.",
            "ns_finish": "The finish reason arrives.",
            "ns_usage": "The (last) usage report arrives.",
            "ns_done": "The protocol's end marker arrives.",
            "ns_eof": "The body ends.",
            "ns_spawn": "CLI: the process is started.",
            "ns_stdout1": "CLI: its first byte.",
            "ns_init": "CLI: its first event.",
            "ns_exit": "CLI: its end.",
            "ns_import": "Fresh process: its imports are finished.",
            "ns_client": "Fresh process, fresh client: the client has been created.",
        },
    ),
    # --- derived
    *_group(
        "derived",
        _MS,
        "ms",
        {
            "sched_delay_ms": "ns_call - ns_sched: how late the request was called.",
            "queue_ms": "From the call to the first step on the network: this client's own time.",
            "dns_ms": "ns_dns1 - ns_dns0.",
            "connect_ms": "ns_conn1 - ns_conn0.",
            "tls_ms": "ns_tls1 - ns_tls0.",
            "send_ms": "ns_send1 - ns_send0.",
            "ttfb_ms": "ns_byte1 - ns_call: time to first byte.",
            "ttfe_ms": "ns_event1 - ns_call: time to first event; OpenTelemetry's time_to_first_chunk.",
            "ttft_ms": "ns_tok1 - ns_call: time to first token, connection set-up included. For "
            "cold_process from ns_spawn.",
            "ttft_sched_ms": "ns_tok1 - ns_sched: the time for a user who arrives at the scheduled time (no "
            "coordinated omission).",
            "ttft_wire_ms": "ns_tok1 - ns_send1: without connection set-up and the client's own time.",
            "ttfo_ms": "ns_out1 - ns_call: time to first visible output.",
            "e2e_ms": "ns_tokN - ns_call: to the last token. For cold_process from ns_spawn.",
            "e2e_done_ms": "ns_done (else ns_eof) - ns_call: to the end of the answer.",
            "e2e_sched_ms": "ns_tokN - ns_sched.",
            "tail_ms": "ns_done (else ns_eof) - ns_tokN: what the server does after the last token.",
            "decode_ms": "ns_tokN - ns_tok1.",
            "icl_p50_ms": "Median gap between chunks with tokens (inter-chunk latency).",
            "icl_p99_ms": "Their 99th percentile; NA below 100 gaps.",
            "stall_max_ms": "The longest gap between chunks with tokens.",
            "norm_per_token_ms": "e2e_ms / out_tokens.",
            "import_ms": "Fresh process: spawn to imports done.",
            "client_ms": "Time to create a fresh client.",
        },
    ),
    # --- tokens
    *_group(
        "tokens",
        "Int64",
        "tokens",
        {
            "in_tokens": "All input, including cached input.",
            "in_cached": "Input read from the provider's cache.",
            "in_cache_write": "Input written to the provider's cache.",
            "out_tokens": "All output, including reasoning; as counted, never the requested length.",
            "reasoning_tokens": "Reasoning tokens of the output.",
            "visible_tokens": "out_tokens - reasoning_tokens.",
            "streamed_tokens": "Streamed output: out_tokens without reasoning that was counted but not sent.",
            "first_chunk_tokens": "Tokens in the first chunk; NA if unknown. `itl_src` is the source.",
        },
        "OpenTelemetry GenAI",
    ),
    *_group(
        "tokens",
        "Int64",
        "",
        {
            "chunks": "Number of events with tokens.",
            "events": "Number of events of the body.",
            "chars": "Characters of text, reasoning and tool arguments.",
            "bytes_in": "Bytes of the body.",
            "bytes_out": "Bytes of the request's body.",
        },
    ),
    Column(
        "tok_source",
        "category",
        "",
        "tokens",
        "The source of out_tokens.",
        categories=("usage", "usage_stream", "tokenizer", "estimate"),
    ),
    # --- rates
    Column(
        "itl_ms",
        _MS,
        "ms",
        "rates",
        "Inter-token latency: decode_ms / (streamed_tokens - first_chunk_tokens).",
    ),
    Column(
        "itl_lo_ms",
        _MS,
        "ms",
        "rates",
        "Its lower bound, decode_ms / (streamed_tokens - 1); equal to itl_ms if the first chunk's count "
        "is known.",
    ),
    Column(
        "itl_hi_ms",
        _MS,
        "ms",
        "rates",
        "Its upper bound, decode_ms / (chunks - 1): every later chunk has at least one token.",
    ),
    Column(
        "itl_src",
        "category",
        "",
        "rates",
        "How first_chunk_tokens is known: counted by the provider or a tokenizer, or its share of the "
        "characters.",
        categories=("usage_stream", "tokenizer", "single", "share"),
    ),
    Column(
        "tpot_ms",
        _MS,
        "ms",
        "rates",
        "Time per output token as most tools define it: decode_ms / (streamed_tokens - 1).",
        "vLLM, MLPerf",
    ),
    Column("out_tok_s", "float64", "tokens/s", "rates", "1000 / itl_ms: the speed of decoding."),
    Column("texts", "Int64", "", "tokens", "Embeddings: texts in the request."),
    Column(
        "checks",
        "string",
        "JSON",
        "outcome",
        "A cell's asserts=, 0 to 1 each; null: not known.",
    ),
    Column("in_tok_s", "float64", "tokens/s", "rates", "Embeddings: in_tokens / e2e."),
    Column("texts_s", "float64", "1/s", "rates", "Embeddings: texts / e2e."),
    Column("out_tok_s_e2e", "float64", "tokens/s", "rates", "out_tokens / e2e: the speed a caller sees."),
    # --- what the provider says
    *_group(
        "provider said",
        _MS,
        "ms",
        {
            "srv_total_ms": "The server's own total time.",
            "srv_load_ms": "Time to load the model, reported by the server.",
            "srv_queue_ms": "Time in the server's queue.",
            "srv_prefill_ms": "Time to process the prompt (prefill).",
            "srv_decode_ms": "Time to generate the output.",
        },
        "provider",
    ),
    Column(
        "srv_src",
        "category",
        "",
        "provider said",
        "The source of the server's times.",
        categories=("ollama", "openai", "groq", "llamacpp", "server_timing"),
    ),
    # --- cost
    Column(
        "cost_usd", "float64", "USD", "cost", "Cost from tokens and list prices; NA if the price is unknown."
    ),
    Column("price_in", "float64", "USD/1e6 tokens", "cost", "List price of input."),
    Column("price_out", "float64", "USD/1e6 tokens", "cost", "List price of output."),
    Column("price_cached", "float64", "USD/1e6 tokens", "cost", "List price of cached input."),
    Column("price_src", "category", "", "cost", "The source of the price."),
    # --- quality
    Column(
        "stamp",
        "category",
        "",
        "quality",
        "The source of arrival timestamps: the operating system's kernel, the read, the parser, a pipe.",
        categories=STAMPS,
    ),
    Column(
        "err_bound_ms",
        _MS,
        "ms",
        "quality",
        "ttft_ms is too late by at most this. 0.3 for a certified first token (measured, see selftest).",
    ),
    Column("coalesced_frac", "float64", "", "quality", "Share of token events that are not certified."),
    *_group(
        "quality",
        _MS,
        "ms",
        {
            "client_lag_p50_ms": "Median of read time minus arrival time: the lag of this client.",
            "client_lag_p99_ms": "Its 99th percentile.",
            "client_lag_max_ms": "Its maximum.",
            "gc_ms": "Time of garbage collection between call and end.",
        },
    ),
    Column(
        "cpu_psi",
        "float64",
        "",
        "quality",
        "Share of the time between call and end during which some task waited for a processor.",
        "Linux PSI",
    ),
    Column(
        "quality",
        "category",
        "",
        "quality",
        "certified: the times of the first and last token are exact; bounded: within err_bound_ms; "
        "contaminated: this client disturbed the request.",
        categories=QUALITIES,
    ),
    # --- outcome
    Column("ok", "boolean", "", "outcome", "Whether the answer is complete."),
    Column("status", "category", "", "outcome", "The outcome.", categories=STATUSES),
    Column("http_status", "Int16", "", "outcome", "HTTP status."),
    Column("error_type", "string", "", "outcome", "The class of the error."),
    Column("error_msg", "string", "", "outcome", "The message of the error."),
    Column("retry_after_s", "float64", "s", "outcome", "The pause that the provider requested."),
    Column("finish_reason", "string", "", "outcome", "Why the answer ended."),
    Column(
        "censored",
        "boolean",
        "",
        "outcome",
        "Whether it was stopped before its end (time limit, Stop): its times are lower bounds.",
    ),
    Column("censor_ms", _MS, "ms", "outcome", "The elapsed time when it was stopped."),
    Column("simulated", "boolean", "", "outcome", "Whether the answer comes from the simulator."),
    Column(
        "cached",
        "boolean",
        "",
        "outcome",
        "Whether the answer came from the cache or was shared with an equal concurrent call.",
    ),
)

CHUNKS: tuple[Column, ...] = (
    *_group(
        "key",
        "string",
        "",
        {"run_id": "As in the requests frame.", "request_id": "As in the requests frame."},
    ),
    Column("attempt", "Int8", "", "key", "As in the requests frame."),
    Column("i", "Int32", "", "key", "The event's position in its answer, from 0."),
    Column(
        "kind",
        "category",
        "",
        "chunk",
        "The kind of its content; if it has several kinds, the first with tokens.",
        categories=CHUNK_KINDS,
    ),
    Column("ns_arrive", "Int64", "ns", "time", "When it arrived."),
    Column("ns_lo", "Int64", "ns", "time", "Lower bound of its arrival."),
    Column("ns_hi", "Int64", "ns", "time", "Upper bound of its arrival."),
    Column("ns_user", "Int64", "ns", "time", "When this client read it."),
    Column("t_ms", _MS, "ms", "time", "Time since the call."),
    Column("gap_ms", _MS, "ms", "time", "Time since the previous event."),
    Column(
        "n_tokens",
        "Int16",
        "tokens",
        "size",
        "Tokens in it, if known (usage in the stream, a tokenizer).",
    ),
    Column("cum_tokens", "Int32", "tokens", "size", "Tokens so far."),
    Column("chars", "Int32", "", "size", "Characters in it."),
    Column("bytes", "Int32", "", "size", "Bytes of its data."),
    Column("read_id", "Int32", "", "read", "The read that completed it."),
    Column("in_read", "Int16", "", "read", "Its position among the events of that read."),
    Column(
        "certified",
        "boolean",
        "",
        "read",
        "Whether ns_arrive is exact: the last event of a read that the kernel timestamped.",
    ),
    Column("stamp", "category", "", "read", "The source of its timestamp.", categories=STAMPS),
)

# Additional columns of the log, where the configuration has `ledger = "texts"`.
TEXTS: tuple[Column, ...] = (
    Column(
        "prompt",
        "string",
        "JSON",
        "texts",
        'Only with ledger = "texts", like the next column: the messages sent, with role and text of each.',
    ),
    Column("answer", "string", "", "texts", "The text of the answer, as far as it was received."),
)

NAMES = tuple(c.name for c in COLUMNS)
_DOC_GROUPS = {"requests": COLUMNS, "chunks": CHUNKS, "log": TEXTS}


def frame(rows: Iterable[Mapping[str, Any]], columns: tuple[Column, ...] = COLUMNS) -> pd.DataFrame:
    """A DataFrame of `rows` with exactly the columns and dtypes of the table; missing values are NA."""
    import pandas as pd

    rows = list(rows)
    return pd.DataFrame({c.name: _column_series([row.get(c.name) for row in rows], c) for c in columns})


def cast(df: pd.DataFrame, columns: tuple[Column, ...] = COLUMNS) -> pd.DataFrame:
    """`df`, read from a file, with the columns of the table in their dtypes; other columns stay, at the
    end."""
    import pandas as pd

    known = {
        c.name: _column_series(df[c.name].tolist() if c.name in df else [None] * len(df), c, df.index)
        for c in columns
    }
    return pd.DataFrame(
        {**known, **{name: df[name] for name in df.columns if name not in known}}, index=df.index
    )


def _column_series(values: list[Any], c: Column, index: Any = None) -> pd.Series:
    import pandas as pd

    # NaN differs from itself
    values = [None if v is None or v is pd.NA or v is pd.NaT or v != v else v for v in values]  # noqa: PLR0124
    try:
        return _to_series(values, c, index)
    except (TypeError, ValueError, OverflowError):
        return _to_series([_convertible(v, c) for v in values], c, index)


def _convertible(value: Any, c: Column) -> Any:
    """A value as the column can hold it, None where it cannot: one server's invalid value must not prevent
    the frame. Lone surrogates, which UTF-8 cannot encode, become question marks."""
    if value is not None and c.dtype in ("string", "category"):
        return str(value).encode("utf-8", "replace").decode()
    try:
        _to_series([value], c, None)
    except (TypeError, ValueError, OverflowError):
        return None
    return value


def _to_series(values: list[Any], c: Column, index: Any) -> pd.Series:
    import pandas as pd

    if c.dtype == "category":
        known = list(c.categories) if c.categories else sorted({str(v) for v in values if v is not None})
        return pd.Series(
            pd.Categorical(
                [v if v in known else None for v in values] if c.categories else values, categories=known
            ),
            index=index,
        )
    if c.dtype.startswith("datetime64"):
        return pd.Series(
            pd.to_datetime(pd.Series(values, index=index, dtype="object"), format="ISO8601", utc=True),
            dtype=c.dtype,
        )
    return pd.Series(values, index=index, dtype=c.dtype)


def document() -> str:
    """The schema as Markdown, one table per frame."""
    out = [
        f"# Columns of the frames (version {VERSION})",
        "",
        (__doc__ or "").split("\n\n", 1)[1].strip(),
        "",
    ]
    for title, columns in _DOC_GROUPS.items():
        lines = (
            f"| `{c.name}` | {c.dtype} | {c.unit} | {c.group} | "
            f"{c.doc}{' One of ' + ', '.join(c.categories) + '.' if c.categories else ''} | {c.source} |"
            for c in columns
        )
        head = "| column | dtype | unit | group | meaning | source |\n|---|---|---|---|---|---|"
        out += [f"## {title}", "", head, *lines, ""]
    return "\n".join(out)


def schema() -> pd.DataFrame:
    """The columns as a DataFrame: frame, column, dtype, unit, group, meaning, source."""
    import pandas as pd

    return pd.DataFrame(
        [
            {
                "frame": title,
                "column": c.name,
                "dtype": c.dtype,
                "unit": c.unit,
                "group": c.group,
                "meaning": c.doc,
                "source": c.source,
            }
            for title, columns in _DOC_GROUPS.items()
            for c in columns
        ]
    )


if __name__ == "__main__":
    print(document())  # noqa: T201
