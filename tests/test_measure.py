"""The measurements of a row, scenario by scenario, compared with the simulator's own record."""

import asyncio
import socket

import pytest

from nbllm import Client, simulator
from nbllm.client.policy import Retries
from nbllm.core.errors import Timeout
from nbllm.core.events import Usage
from nbllm.store import columns as schema
from nbllm.store import measure
from nbllm.store.chunks import chunk_rows
from nbllm.store.timeline import TokenTimes, streamed_tokens

FORMATS = ["openai_chat", "openai_responses", "anthropic", "gemini", "ollama"]
NEAR = pytest.approx
TIGHT = 12.0  # ms: this test checks definitions on a busy machine; benchmarks/accuracy.py checks precision


@pytest.fixture(scope="module")
def sim():
    with simulator.serve() as server:
        yield server


@pytest.fixture(scope="module")
def client():
    client = Client()
    yield client
    client.close()


def rows_of(client, sim, stream, dialect="openai_chat"):
    """A row for each attempt of a stream that has ended."""
    row = client.resolve("m", sim.base_url(dialect), dialect).provider
    return measure.attempt_rows(stream, measure.CallContext(stream.partial().request, row, "m"))


def measured(client, sim, options, dialect="openai_chat", prompt="Why is the sky blue?", **call):
    """(row, chunks, what the simulator recorded) of one call."""
    stream = client.stream(
        prompt, f"m@{options}", base_url=sim.base_url(dialect), dialect=dialect, retries=0, **call
    )
    assert stream.wait_end(30)
    row = rows_of(client, sim, stream, dialect)[-1]
    sim.settled(30)
    record = sim.records[-1]
    return row, list(chunk_rows(stream, 0.0, {"request_id": "1", "attempt": 1})), record


def tries(client, sim, options, dialect="openai_chat", **call):
    """Up to six measured calls, for times to compare: a busy machine spoils some, a wrong definition all."""
    for _ in range(6):
        yield measured(client, sim, options, dialect, **call)


def truth(row, record):
    """(time to first token, to first visible text, to last token, decode) in ms: from the call to the
    server's writes."""
    tokens = record.tokens
    visible = [c for c in tokens if c.kind in ("text", "content")]
    since = [(c.send_ns - row["ns_call"]) / 1e6 for c in (tokens[0], visible[0], tokens[-1])]
    return *since, since[2] - since[0]


SCENARIOS = {
    "an early role delta is not a token": "ttft=0.1,gap=0.01,tokens=8,role=early",
    "a late role delta": "ttft=0.1,gap=0.01,tokens=8,role=late",
    "an empty first delta is not a token": "ttft=0.1,gap=0.01,tokens=8,empty=1",
    "reasoning counts as tokens, and not as visible text": "ttft=0.1,gap=0.01,tokens=10,reasoning=10",
    "five tokens a chunk": "ttft=0.1,gap=0.05,tokens=25,tokens_per_chunk=5",
    "twenty tokens a chunk": "ttft=0.1,gap=0.1,tokens=60,tokens_per_chunk=20",
    "a tail between the last token and the end": "ttft=0.05,gap=0.01,tokens=8,tail=0.1",
    "several events in one write": "ttft=0.1,gap=0.02,tokens=20,chunks_per_write=5",
    "comments before the first token": "ttft=0.15,gap=0.01,tokens=8,ping=3",
    "a body that the connection's end ends": "ttft=0.1,gap=0.01,tokens=8,close=1",
    "bursts": "ttft=0.1,gap=0.02,tokens=20,gaps=burst,burst=5",
    "slow headers": "ttft=0.1,gap=0.01,tokens=8,headers=0.05",
}


@pytest.mark.slow
@pytest.mark.parametrize("dialect", FORMATS)
@pytest.mark.parametrize("options", SCENARIOS.values(), ids=SCENARIOS)
def test_the_times_of_a_scenario_are_those_of_its_sending(client, sim, options, dialect):
    """ttft, ttfo, e2e, decode and the time per token, in every wire format."""
    for row, chunks, record in tries(client, sim, options, dialect):
        ttft, ttfo, e2e, decode = truth(row, record)
        tokens = sum(c.n_tokens for c in record.tokens)
        assert ("ok", True, tokens) == (row["status"], row["ok"], row["out_tokens"])
        assert (
            len(record.tokens)
            == row["chunks"]
            == sum(c["kind"] in ("content", "reasoning", "tool") for c in chunks)
        )
        itl = NEAR(decode / (tokens - record.tokens[0].n_tokens), rel=0.12, abs=0.3)
        sent = NEAR(ttft, abs=TIGHT), NEAR(ttfo, abs=TIGHT), NEAR(e2e, abs=TIGHT), itl
        came = row["ttft_ms"], row["ttfo_ms"], row["e2e_ms"], row.get("itl_ms")
        if sent == came:
            break
    assert sent == came
    assert row["itl_lo_ms"] <= row["itl_ms"] <= row["itl_hi_ms"]


VIEWED = (
    "tokens=8,gap=0.01",
    "tokens=12,reasoning=6,gap=0.01",
    "tokens=40,tokens_per_chunk=20,gap=0.05",
    "cut=3",
    "cut=3,gap=0.03",
)


@pytest.mark.slow
@pytest.mark.parametrize("dialect", FORMATS)
@pytest.mark.parametrize("options", VIEWED)
def test_a_response_tells_the_times_of_its_row(client, sim, options, dialect):
    """Response.timing, which the footer shows, is the same measurement as what `%llm log` has."""
    stream = client.stream(
        "Hi", f"m@ttft=0.02,{options}", base_url=sim.base_url(dialect), dialect=dialect, retries=0
    )
    assert stream.wait_end(30)
    row, answer = rows_of(client, sim, stream, dialect)[-1], stream.partial()
    seen = answer.timing
    assert seen == stream.timing
    given = (seen.ttft, seen.ttfo, seen.decode)
    assert [NEAR(row[n] / 1e3) for n in ("ttft_ms", "ttfo_ms", "decode_ms")] == [*given]
    if answer.usage is not None and answer.usage.output_tokens is not None:
        assert row["streamed_tokens"] - 1 == seen.decoded
    if seen.decoded is None:  # cut off before the usage came: the row's number is an estimate
        assert seen.tokens_per_second is None
    elif "tpot_ms" in row and seen.decode >= 0.02:
        assert NEAR(1e3 / row["tpot_ms"]) == seen.tokens_per_second


@pytest.mark.parametrize(
    ("usage", "thought", "count"),
    [
        (None, False, None),
        (Usage(5, None), False, None),
        (Usage(5, 1_050, reasoning_tokens=1_000), False, 50),
        (Usage(5, 1_050, reasoning_tokens=1_000), True, 1_050),
        (Usage(5, 10, reasoning_tokens=1_000), False, 0),
        (Usage(5, 10), False, 10),
    ],
)
def test_reasoning_that_nobody_sees_is_not_streamed(usage, thought, count):
    """So that the footer of a model that thinks in secret does not count it into its tokens a second."""
    assert count == streamed_tokens(usage, TokenTimes(0.0, 1.0, 0.5, thought))


@pytest.mark.slow
def test_the_tail_is_apart_from_the_answer(client, sim):
    """e2e ends with the last token; what the server does after it is tail_ms."""
    for row, _, record in tries(client, sim, "ttft=0.05,gap=0.01,tokens=8,tail=0.2"):
        assert NEAR(row["e2e_ms"] + row["tail_ms"]) == row["e2e_done_ms"]
        tail = NEAR((record.chunks[-1].send_ns - record.tokens[-1].send_ns) / 1e6, abs=TIGHT)
        if tail == row["tail_ms"]:
            break
    assert tail == row["tail_ms"]


@pytest.mark.slow
def test_the_first_event_is_apart_from_the_first_token(client, sim):
    """ttfe is the role delta's arrival, ttfb the headers'."""
    for row, _, record in tries(client, sim, "ttft=0.2,gap=0.01,tokens=8,role=early"):
        assert row["ttfb_ms"] <= row["ttfe_ms"] < row["ttft_ms"]
        role = NEAR((record.chunks[0].send_ns - row["ns_call"]) / 1e6, abs=TIGHT)
        if role == row["ttfe_ms"]:
            break
    assert role == row["ttfe_ms"]


@pytest.mark.slow
def test_an_early_stop_counts_what_was_generated(client, sim):
    """30 of the 50 tokens that were allowed: 30, and the speed that belongs to them."""
    for row, _, record in tries(client, sim, "ttft=0.05,gap=0.01,tokens=30", max_tokens=50):
        assert (30, "usage") == (row["out_tokens"], row["tok_source"])
        itl = NEAR(truth(row, record)[3] / 29, rel=0.15)
        if itl == row.get("itl_ms"):
            break
    assert itl == row.get("itl_ms")


@pytest.mark.slow
def test_without_usage_the_count_is_an_estimate_and_says_so(client, sim):
    """Or a tokenizer's, where one is given; never the length that was asked for."""
    row, _, record = measured(client, sim, "ttft=0.02,gap=0.005,tokens=30,usage=0", max_tokens=50)
    assert "estimate" == row["tok_source"]
    assert len(record.tokens) <= row["out_tokens"] < 50


def test_a_tokenizer_counts_chunks_too(client, sim):
    """With one that counts words, every chunk has its tokens, and the first chunk's are known."""
    stream = client.stream(
        "Hi",
        "m@ttft=0.02,gap=0.01,tokens=20,tokens_per_chunk=5,usage=0",
        base_url=sim.base_url("openai_chat"),
        dialect="openai_chat",
        retries=0,
    )
    stream.wait_end(30)
    call = measure.CallContext(
        stream.partial().request,
        client.resolve("m", sim.base_url("openai_chat")).provider,
        "m",
        tokenizer=lambda text: len(text.split()),
    )
    row = measure.attempt_rows(stream, call)[-1]
    assert ("tokenizer", "tokenizer") == (row["tok_source"], row["itl_src"])
    assert row["out_tokens"] == len(stream.partial().text.split()), "a word may be cut between two chunks"


@pytest.mark.parametrize(
    ("options", "status", "kept"),
    [
        ("ttft=0.02,gap=0.005,tokens=40,cut=20", "stream_cut", True),
        ("ttft=0.02,gap=0.005,tokens=40,cut=20,how=close", "stream_cut", True),
        ("ttft=0.02,gap=0.005,tokens=40,error=10", "stream_error", True),
        ("ttft=0.02,gap=0.005,tokens=40,malformed=10", "protocol_error", True),
        ("status=429,retry_after=3", "rate_limited", False),
        ("status=500", "http_error", False),
        ("status=401", "auth", False),
        ("status=404", "http_error", False),
        ("tokens=0", "empty", False),
    ],
)
def test_a_failure_has_a_typed_status_and_keeps_what_was_measured_before_it(
    client, sim, options, status, kept
):
    """A cut stream knows its first token; a refused request knows no time at all, and nothing is 0."""
    row, _, _ = measured(client, sim, options)
    assert (status, False) == (row["status"], row["ok"])
    assert kept == (row.get("ttft_ms") is not None)
    frame = schema.frame([{**row, "request_id": "1", "seq": 0}])
    if not kept:
        assert frame[["ttft_ms", "e2e_ms", "itl_ms", "out_tok_s", "ns_tok1"]].isna().all(axis=None)
    if status == "rate_limited":
        assert (429, 3.0) == (row["http_status"], row["retry_after_s"])


@pytest.mark.parametrize(
    ("timeout", "status"), [({"first": 0.05}, "timeout_ttft"), ({"total": 0.08}, "timeout_total")]
)
def test_a_time_limit_is_a_censored_row(client, sim, timeout, status):
    """How long it had run stands in censor_ms."""
    row, _, _ = measured(client, sim, "ttft=0.6,tokens=5", timeout=timeout)
    assert (status, True) == (row["status"], row["censored"])
    assert row["censor_ms"] >= min(timeout.values()) * 1e3


def test_a_cancelled_call_keeps_its_tokens_and_is_not_ok(client, sim):
    """Stop in the middle: cancelled, censored, with a time to first token."""
    stream = client.stream(
        "Hi", "m@ttft=0.02,gap=0.02,tokens=500", base_url=sim.base_url("openai_chat"), dialect="openai_chat"
    )
    while not stream.timing.ttft:
        stream.wait(len(stream.log), 1)
    stream.cancel()
    stream.wait_end(30)
    row = rows_of(client, sim, stream)[-1]
    assert ("cancelled", False, True) == (row["status"], row["ok"], row["censored"])
    assert row["ttft_ms"] > 0


@pytest.mark.slow
def test_every_attempt_has_a_row(client, sim):
    """Two refusals and an answer: three rows, the tokens in the last."""
    stream = client.stream(
        "Once more",
        "m@tokens=5,status=503,fail_times=2,retry_after=0.01",
        base_url=sim.base_url("openai_chat"),
        dialect="openai_chat",
        retries=3,
    )
    stream.wait_end(30)
    rows = rows_of(client, sim, stream)
    assert [(1, "http_error", 503), (2, "http_error", 503), (3, "ok", 200)] == [
        (r["attempt"], r["status"], r["http_status"]) for r in rows
    ]
    assert [None, None, 5] == [r.get("out_tokens") for r in rows]


RETRIED = [
    ("tokens=5,cut=0,how=rst", "stream_cut", "StreamCut", 200),
    ("tokens=5,cut=0,how=close", "stream_cut", "StreamCut", 200),
    ("tokens=5,status=429,retry_after=0.01", "rate_limited", "RateLimited", 429),
    ("tokens=5,status=500", "http_error", "ServerError", 500),
    ("tokens=5,status=529", "http_error", "Overloaded", 529),
    ("tokens=5,status=408", "http_error", None, 408),
]


@pytest.mark.parametrize("case", RETRIED, ids=[r[0] for r in RETRIED])
def test_each_attempt_keeps_the_error_that_ended_it(sim, case):
    """The rows of those that were followed by another say the same as the last one's, in the ledger too."""
    options, status, kind, http = case
    client = Client(paced=False)  # the gate before a provider would wait seconds, and ask more than thrice
    stream = client.stream(
        "Again",
        f"m@{options}",
        base_url=sim.base_url("openai_chat"),
        dialect="openai_chat",
        retries=Retries(2, base=0.001),
    )
    stream.wait_end(30)
    rows = client.ledger.rows()
    client.close()
    assert [1, 2, 3] == [row["attempt"] for row in rows]
    assert [(status, http, False)] * 3 == [(r["status"], r["http_status"], r["ok"]) for r in rows]
    assert {kind or type(stream.error).__name__} == {row["error_type"] for row in rows}
    assert {stream.error.message} == {row["error_msg"] for row in rows}
    assert all(trace.error.__traceback__ is None for trace in stream.traces[:-1])


def test_an_attempt_that_nobody_answered_says_so(client):
    """A refused connection, asked twice; neither has an HTTP status."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # and does not listen
        url = f"http://127.0.0.1:{taken.getsockname()[1]}"
        before = len(client.ledger.rows())
        stream = client.stream("Hi", "m", base_url=url, dialect="openai_chat", retries=Retries(1, base=0.001))
        assert stream.wait_end(30)
    rows = client.ledger.rows()[before:]
    assert [("client_error", "ConnectFailed", None)] * 2 == [
        (r["status"], r["error_type"], r["http_status"]) for r in rows
    ]


def test_a_time_limit_of_a_retried_attempt_is_censored_too(client, sim):
    """A connection that did not come about in time was asked for again: its row says which limit it was."""
    stream = client.stream(
        "Hi",
        "m@tokens=5,status=503,fail_times=1",
        base_url=sim.base_url("openai_chat"),
        dialect="openai_chat",
        retries=Retries(1, base=0.001),
    )
    assert stream.wait_end(30)
    stream.traces[0].error = Timeout("No connection.", which="connect", seconds=2.0)
    provider = client.resolve("m", sim.base_url("openai_chat")).provider
    first, last = measure.attempt_rows(stream, measure.CallContext(stream.partial().request, provider, "m"))
    assert ("timeout_connect", "Timeout", True) == (first["status"], first["error_type"], first["censored"])
    assert ("ok", False, None) == (last["status"], last["censored"], last.get("censor_ms"))


@pytest.mark.slow
def test_tool_calls_are_tokens(client, sim):
    """The first token may be a tool call's."""
    tool = {"name": "weather", "parameters": {"type": "object", "properties": {"city": {"type": "string"}}}}
    for row, chunks, record in tries(client, sim, "ttft=0.1,gap=0.01,tokens=8,tools=1", tools=[tool]):
        assert "tool_calls" == row["finish_reason"]
        assert "tool" in {c["kind"] for c in chunks}
        first = NEAR(truth_first(row, record), abs=TIGHT)
        if first == row["ttft_ms"]:
            break
    assert first == row["ttft_ms"]


def truth_first(row, record):
    return (record.tokens[0].send_ns - row["ns_call"]) / 1e6


def test_rows_and_chunks_have_exactly_columns_of_the_schema(client, sim):
    """Nothing is measured that has no column."""
    row, chunks, _ = measured(client, sim, "tokens=5")
    assert set() == set(row) - set(schema.NAMES)
    assert set() == set(chunks[0]) - {c.name for c in schema.CHUNKS}


@pytest.mark.slow
def test_bounds_hold_and_what_is_certified_is_exact(client, sim):
    """Each event between its bounds; lo == hi == arrival where it is certified."""
    _, chunks, _ = measured(client, sim, "ttft=0.02,gap=0.005,tokens=30")
    assert all(c["ns_lo"] <= c["ns_arrive"] <= c["ns_hi"] <= c["ns_user"] for c in chunks)
    assert all(c["ns_lo"] == c["ns_arrive"] for c in chunks if c["certified"])


def test_hidden_reasoning_does_not_make_the_stream_look_fast():
    """Tokens that were counted and not shown are no part of the time between the shown ones."""
    row = {
        "decode_ms": 90.0,
        "streamed_tokens": 10,
        "first_chunk_tokens": 1,
        "chunks": 10,
        "itl_src": "single",
        "ns_call": 0,
    }
    measure.derive(row)
    assert (10.0, 100.0) == (row["itl_ms"], row["out_tok_s"])


def test_a_loop_that_sleeps_on_the_job_is_found_out(sim):
    """A request whose client was busy for longer than 2 ms before sending it is contaminated."""
    client = Client()

    async def work():
        import time

        stream = client.stream(
            "Hi", "m@tokens=3", base_url=sim.base_url("openai_chat"), dialect="openai_chat"
        )
        time.sleep(0.01)  # noqa: ASYNC251 - the engine's loop itself is to be blocked
        await stream.wait_end_async()
        return stream

    client.run(client.http.prepare(sim.url))
    stream = client.run(asyncio.wait_for(work(), 30))
    row = rows_of(client, sim, stream)[-1]
    client.close()
    assert "contaminated" == row["quality"]
