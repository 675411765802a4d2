"""Batches as their providers write them: lines in, states, results matched by id."""

import contextlib
import json
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nbllm.core.calls import HttpCall, ModelFacts, ProviderSpec
from nbllm.core.errors import (
    BadRequest,
    ConfigError,
    NbllmError,
    ProtocolError,
    ProviderError,
    RateLimited,
    ServerError,
)
from nbllm.core.events import TextDelta, Usage
from nbllm.core.messages import Message, Request, Text
from nbllm.dialects import batches
from nbllm.routing import prices, registry
from nbllm.routing.dialects import DIALECTS

ROW = ProviderSpec("p", "openai_chat", "https://host/v1", label="P")
CHAT = {
    "object": "chat.completion",
    "choices": [{"index": 0, "message": {"role": "assistant", "content": "ANSWER"}, "finish_reason": "stop"}],
    "usage": {"prompt_tokens": 3, "completion_tokens": 1},
}
CLAUDE = {
    "type": "message",
    "role": "assistant",
    "content": [{"type": "text", "text": "ANSWER"}],
    "stop_reason": "end_turn",
    "usage": {"input_tokens": 3, "output_tokens": 1, "service_tier": "batch"},
}
GOOGLE = {
    "candidates": [{"content": {"role": "model", "parts": [{"text": "ANSWER"}]}, "finishReason": "STOP"}],
    "usageMetadata": {"promptTokenCount": 3, "candidatesTokenCount": 1},
}


def written(batch, dialect, base="https://host/v1"):
    """A line as it is written for a provider."""
    request = Request("m", [Message("user", [Text("hi")])], max_tokens=9)
    call = DIALECTS[dialect].encode(request, ProviderSpec("p", dialect, base), None)
    return json.loads(batches.request_line(batches.FORMATS[batch], "run_0", call))


@pytest.mark.parametrize(
    ("batch", "dialect", "names"),
    [
        ("openai", "openai_chat", ["custom_id", "method", "url", "body"]),
        ("groq", "openai_chat", ["custom_id", "method", "url", "body"]),
        ("together", "openai_chat", ["custom_id", "body"]),
        ("openrouter", "openai_chat", ["custom_id", "body"]),
        ("mistral", "openai_chat", ["custom_id", "body"]),
        ("anthropic", "anthropic", ["custom_id", "params"]),
        ("gemini", "gemini", ["key", "request"]),
    ],
)
def test_a_line_holds_what_would_be_sent_without_its_stream(batch, dialect, names):
    """Under the provider's own names; the model stands where the provider wants it."""
    found = written(batch, dialect)
    body = found[names[-1]]
    assert list(found) == names
    assert found[names[0]] == "run_0"
    assert not {"stream", "stream_options"} & body.keys()
    assert ("model" in body) is (batch not in {"mistral", "gemini"})
    assert "hi" in json.dumps(body)


@pytest.mark.parametrize(
    ("dialect", "path"), [("openai_chat", "chat/completions"), ("openai_responses", "responses")]
)
def test_a_line_names_the_endpoint(dialect, path):
    """Without what stands before its version."""
    assert written("groq", dialect, "https://host/openai/v1")["url"] == f"/v1/{path}"


def test_what_has_no_endpoint_is_refused():
    """Clearly."""
    with pytest.raises(ConfigError, match="batch"):
        written("openai", "anthropic")


def test_a_line_is_one_line():
    """To those too who take U+2028 for a line's end."""
    call = HttpCall("https://host/v1/chat/completions", {}, {"messages": "a\u2028b\x85c\u2029d\ne"})
    text = batches.request_line(batches.FORMATS["openai"], "run_0", call)
    assert [text] == text.splitlines()
    assert json.loads(text)["body"] == call.body


@pytest.mark.parametrize("row", ["a b", "ä", "x" * 60, "", "a\nb"])
def test_an_id_that_providers_refuse_is_refused(row):
    """64 characters of the alphabet that all of them take."""
    if row == "":
        assert batches.custom_id("0123abcd", "") == "0123abcd_"
        return
    with pytest.raises(ConfigError):
        batches.custom_id("0123abcd", row)


@given(
    st.lists(st.tuples(st.integers(1, 60), st.integers(0, 30)), max_size=60),
    st.integers(1, 9),
    st.one_of(st.none(), st.integers(30, 80)),
)
def test_parts_keep_to_every_limit_and_lose_nothing(rows, requests, enqueued):
    """In order, each line once."""
    format = batches.BatchFormat("file", requests, 100)
    sizes, tokens = [s for s, _ in rows], [t for _, t in rows]
    parts = list(batches.split_lines(format, sizes, tokens, enqueued))
    assert [i for part in parts for i in part] == list(range(len(rows)))
    for part in parts:
        assert 0 < len(part) <= requests
        assert sum(sizes[i] + 1 for i in part) <= 95
        assert enqueued is None or sum(tokens[i] for i in part) <= enqueued


def test_a_line_that_fits_into_no_batch_is_refused():
    """By its row, before anything is sent."""
    with pytest.raises(ConfigError, match="Row 1 is too large"):
        list(batches.split_lines(batches.BatchFormat("file", 9, 100), [5, 95]))


FILES = {"output_file_id": "file-1", "error_file_id": "file-2"}


@pytest.mark.parametrize(
    ("value", "running", "results"),
    [
        *(
            ({"id": "b", "status": s}, True, False)
            for s in ("validating", "in_progress", "finalizing", "cancelling")
        ),
        ({"id": "b", "status": "completed", **FILES}, False, True),
        ({"id": "b", "status": "completed", "output_file_id": None, "error_file_id": "file-2"}, False, True),
        ({"id": "b", "status": "expired", **FILES}, False, True),
        ({"id": "b", "status": "cancelled"}, False, False),
        ({"id": "b", "status": "failed", "errors": {"data": [{"code": "empty_file"}]}}, False, False),
        ({"id": "b", "status": "reticulating"}, True, False),
        ({"id": "b", "status": "reticulated", "completed_at": 1}, False, False),
        ({"id": "b", "status": "reticulated", **FILES}, False, True),
        ({"job": {"id": "b", "status": "IN_PROGRESS"}, "warning": None}, True, False),
        ({"id": "b", "status": "COMPLETED", **FILES}, False, True),
        ({"id": "b", "processing_status": "canceling", "results_url": None}, True, False),
        ({"id": "b", "processing_status": "ended", "results_url": "https://x/r"}, False, True),
        ({"name": "batches/b", "metadata": {"state": "BATCH_STATE_RUNNING"}}, True, False),
        ({"name": "batches/b", "metadata": {"state": "JOB_STATE_EXPIRED"}, "done": True}, False, False),
        (
            {
                "name": "batches/b",
                "metadata": {"state": "BATCH_STATE_PARTIALLY_SUCCEEDED"},
                "response": {"responsesFile": "files/out1"},
            },
            False,
            True,
        ),
        (
            {
                "name": "batches/b",
                "metadata": {
                    "state": "BATCH_STATE_SUCCEEDED",
                    "output": {"inlinedResponses": {"inlinedResponses": [{"response": GOOGLE}]}},
                },
            },
            False,
            True,
        ),
        ({"id": "b", "status": "QUEUED"}, True, False),
        ({"id": "b", "status": "CANCELLATION_REQUESTED"}, True, False),
        ({"id": "b", "status": "TIMEOUT_EXCEEDED", "output_file": "f-1"}, False, True),
        ({"id": "b", "status": "SUCCESS", "outputs": [{"custom_id": "r"}]}, False, True),
    ],
)
def test_the_state_of_a_batch(value, running, results):
    """Expired is an end; what came of an ended batch is read, whatever its state."""
    found = batches.parse_state(value)
    assert found.id in {"b", "batches/b"}
    assert (found.running, found.has_results) == (running, results)


def test_both_files_of_results_are_read():
    """A batch's failures are in the second one."""
    assert ("file-1", "file-2") == batches.parse_state({"id": "b", "status": "completed", **FILES}).files


@pytest.mark.parametrize(
    "name", ["../keys", "a/b", "files/..", "x?y", "http://evil/x", "..", 7, ["a"], "a" * 300]
)
def test_a_result_file_that_leads_elsewhere_is_refused(name):
    """Its name becomes part of a path that a key is sent to."""
    with pytest.raises(ProtocolError, match="invalid id"):
        batches.parse_state({"id": "b", "status": "completed", "output_file_id": name})


@pytest.mark.parametrize(
    "value", [None, [], "x", {}, {"id": "b"}, {"status": "completed"}, {"error": {"code": 1}}]
)
def test_what_is_no_batch_is_said_to_be_none(value):
    """A page of something else is not a batch that runs for ever."""
    with pytest.raises(ProtocolError, match="not a batch"):
        batches.parse_state(value)


@pytest.mark.parametrize(
    ("about", "total"),
    [
        ({"status": "completed", "request_counts": {"total": 3, "completed": 2, "failed": 1}}, 3),
        ({"processing_status": "in_progress", "request_counts": {"processing": 2, "errored": 1}}, 3),
        ({"status": "QUEUED", "total_requests": 3}, 3),
        ({"status": "x", "metadata": {}}, None),
    ],
)
def test_how_many_requests_a_batch_has(about, total):
    """As each provider counts them."""
    assert total == batches.parse_state({"id": "b", **about}).total


def test_metadata_of_ours_says_nothing_of_a_state():
    """Only Google's operations keep theirs there."""
    about = {"id": "b", "name": "x", "status": "in_progress", "metadata": {"status": "failed", "done": "1"}}
    assert batches.parse_state(about).running


def test_googles_counts_are_texts():
    """Whose digits are bounded."""
    about = {
        "name": "batches/b",
        "metadata": {"state": "BATCH_STATE_RUNNING", "batchStats": {"requestCount": "2"}},
    }
    assert batches.parse_state(about).total == 2


def test_a_batch_that_must_wait_for_another_says_so():
    """token_limit_exceeded: tokens that are enqueued already."""
    errors = {"data": [{"code": "token_limit_exceeded", "message": "Enqueued token limit reached"}]}
    assert batches.parse_state({"id": "b", "status": "failed", "errors": errors}).exceeds_token_limit


@pytest.mark.parametrize(
    ("value", "dialect"),
    [
        ({"custom_id": "r", "response": {"status_code": 200, "body": CHAT}, "error": None}, "openai_chat"),
        ({"custom_id": "r", "result": {"type": "succeeded", "message": CLAUDE}}, "anthropic"),
        ({"key": "r", "response": GOOGLE}, "gemini"),
        ({"response": GOOGLE, "metadata": {"key": "r"}}, "gemini"),
    ],
)
def test_an_answer_is_read_by_the_dialect(value, dialect):
    """As one frame: there is no second decoder."""
    found = batches.parse_outcome(value, ROW)
    events = found.events(DIALECTS[dialect], ROW)
    assert found.id == "r"
    assert "ANSWER" == "".join(e.text for e in events if isinstance(e, TextDelta))


BAD = {"error": {"message": "no", "type": "invalid_request_error", "code": None}}


@pytest.mark.parametrize(
    ("value", "kind", "words"),
    [
        ({"response": {"status_code": 400, "body": BAD}, "error": None}, BadRequest, "no"),
        ({"response": {"status_code": 429, "body": {}}}, RateLimited, "429"),
        (
            {"response": None, "error": {"code": "batch_expired", "message": "too late"}},
            ProviderError,
            "too late",
        ),
        ({"response": {"status_code": 0, "request_id": "", "body": {}}}, ServerError, "without a reason"),
        ({"response": {"status_code": 200, "body": {}}}, ServerError, "without a reason"),
        ({"response": None, "error": None}, ServerError, "without a reason"),
        ({"result": {"type": "errored", "error": {"type": "error", **BAD}}}, BadRequest, "no"),
        ({"result": {"type": "expired"}}, ProviderError, "expired"),
        ({"result": {"type": "canceled"}}, ProviderError, "canceled"),
        ({"result": {"type": "succeeded"}}, ServerError, "without a reason"),
        ({"result": None}, ServerError, "without a reason"),
        ({"error": {"code": 3, "message": "bad field"}}, BadRequest, "bad field"),
        ({"error": {"code": 8, "message": "slow"}}, RateLimited, "slow"),
    ],
)
def test_a_failed_line_is_the_error_that_a_call_would_have(value, kind, words):
    """Of every provider."""
    found = batches.parse_outcome({"custom_id": "r", **value}, ROW)
    assert type(found.error) is kind
    assert words in str(found.error)
    with pytest.raises(NbllmError):
        found.events(DIALECTS["openai_chat"], ROW)


def ok(id, text="a"):
    """A line of results."""
    return json.dumps(
        {"custom_id": id, "response": {"status_code": 200, "body": {"said": text}}, "error": None}
    )


def failed(id):
    """A line of the file of errors."""
    return json.dumps({"custom_id": id, "response": {"status_code": 400, "body": BAD}, "error": None})


@given(
    st.lists(st.sampled_from(["ok", "failed", "both", "missing"]), max_size=30),
    st.randoms(use_true_random=False),
)
def test_nobodys_answer_is_on_anothers_row(kinds, random):
    """Shuffled, in two files, some in both, some missing, strangers among them: counted to the end."""
    ids = [f"run_{i}" for i in range(len(kinds))]
    lines = [ok(i, i) for i, k in zip(ids, kinds, strict=True) if k in {"ok", "both"}]
    lines += [failed(i) for i, k in zip(ids, kinds, strict=True) if k in {"failed", "both"}]
    lines += [ok("run_99"), "{torn", "", "7"]
    random.shuffle(lines)
    collector = batches.Collector(ids, ROW)
    rows = {o.id: o for o in map(collector.parse_line, lines) if o}
    rows |= {o.id: o for o in collector.missing("expired")}
    assert ids == sorted(rows, key=ids.index)
    for id, kind in zip(ids, kinds, strict=True):
        assert (rows[id].body == {"said": id}) is (kind in {"ok", "both"})
        assert ("no line in the results" in str(rows[id].error)) is (kind == "missing")
    assert collector.unmatched >= 3


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.text(max_size=5),
        lambda x: (
            st.lists(x, max_size=3)
            | st.dictionaries(
                st.sampled_from(
                    [
                        "custom_id",
                        "key",
                        "metadata",
                        "response",
                        "result",
                        "error",
                        "status_code",
                        "body",
                        "type",
                        "message",
                        "code",
                        "id",
                        "name",
                        "state",
                        "status",
                        "errors",
                        "data",
                    ]
                ),
                x,
                max_size=6,
            )
        ),
        max_leaves=20,
    )
)
def test_odd_values_are_outcomes_or_our_errors(value):
    """What a provider writes costs nobody else's rows."""
    batches.parse_outcome(value, ROW)
    batches.Collector(["a"], ROW).match_value(value)
    with contextlib.suppress(ProtocolError):
        batches.parse_state(value)


def test_rows_name_their_batches():
    """Of the providers that have them, and of no other."""
    rows = {r.name: r.batch for r in registry.load().rows.values()}
    assert rows["openai"] == rows["azure_responses"] == "openai"
    assert rows["ollama"] == ""
    assert set(batches.FORMATS) == set(rows.values()) - {""}


@pytest.mark.parametrize(
    ("row", "model", "share"),
    [
        ("openai", "gpt-5.4-mini", 0.5),
        ("anthropic", "claude-sonnet-4-5", 0.5),
        ("gemini", "gemini-2.5-flash", 0.5),
        ("mistral", "mistral-small-latest", 0.5),
        ("groq", "llama-3.3-70b-versatile", None),
        ("together", "openai/gpt-oss-120b", None),
    ],
)
def test_a_batch_costs_what_the_price_data_say(row, model, share):
    """No factor of ours: where they know no price of batches, it is unknown."""
    usage, row = Usage(1000, 1000), registry.load().rows[row]
    whole, half = prices.cost(usage, model, row), prices.cost(usage, model, row, batch=True)
    assert half == (None if share is None else pytest.approx(whole * share))


def test_own_prices_are_those_of_calls():
    """A batch's is not guessed from them; what the provider says it charged counts."""
    row = replace(ROW, price="openai", facts={"gpt-5.4-mini": ModelFacts(input=1.0, output=1.0)})
    assert prices.cost(Usage(1000, 1000), "gpt-5.4-mini", row, batch=True) is None
    assert prices.cost(Usage(1000, 1000, raw={"cost": 0.25}), "gpt-5.4-mini", row, batch=True) == 0.25
