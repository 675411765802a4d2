"""The simulator on real sockets: what it sends, when, and what it records. No test waits for a time to
pass."""

import contextlib
import http.client
import json
import os
import signal
import socket
import struct
import subprocess
import sys
import threading
import time

import httpx
import pytest

from nbllm import simulator
from nbllm.simulator.records import TOKENS

ASKED = "Why is the sky blue?"
CLEAR = {"trust_env": False, "verify": False}  # nothing is encrypted: reading all certificates takes 20 ms
MESSAGES = [{"role": "user", "content": ASKED}]
MS = 1_000_000

# How each protocol is asked: path and body of a stream.
ASK = {
    "openai_chat": lambda m: (
        "/v1/chat/completions",
        {"model": m, "messages": MESSAGES, "stream": True, "stream_options": {"include_usage": True}},
    ),
    "openai_responses": lambda m: ("/openai/v1/responses", {"model": m, "input": ASKED, "stream": True}),
    "anthropic": lambda m: (
        "/v1/messages",
        {"model": m, "messages": MESSAGES, "max_tokens": 5000, "stream": True},
    ),
    "gemini": lambda m: (
        f"/v1beta/models/{m}:streamGenerateContent?alt=sse",
        {"contents": [{"parts": [{"text": ASKED}]}]},
    ),
    "ollama": lambda m: ("/api/chat", {"model": m, "messages": MESSAGES}),
}
every_protocol = pytest.mark.parametrize("protocol", ASK)


@pytest.fixture(scope="module")
def server():
    with simulator.serve(ttft=0.02, gap=0.001) as running:
        yield running


@pytest.fixture
def client(server):
    with httpx.Client(
        base_url=server.url, headers={"anthropic-version": "2023-06-01"}, **CLEAR, timeout=60
    ) as c:
        yield c


def ask(client, protocol, model, **headers):
    path, body = ASK[protocol](model)
    return client.post(path, json=body, headers=headers)


def record_of(server, answer):
    return server.record(answer.headers["x-request-id"])


def events(answer):
    return [
        json.loads(line[5:])
        for line in answer.text.splitlines()
        if line.startswith("data:") and "[DONE]" not in line
    ]


# ---- truth ----


@every_protocol
def test_the_record_tells_what_was_sent(server, client, protocol):
    """Every chunk in order, each written after its moment; counts equal what was sent; the client has the
    same text."""
    answer = ask(client, protocol, "sim@tokens=12,reasoning=5,gap=0.002,ttft=0.03")
    record = record_of(server, answer)
    assert (200, "1", protocol) == (answer.status_code, answer.headers["x-nbllm-simulated"], record.protocol)
    assert (5, 12) == tuple(
        sum(c.n_tokens for c in record.chunks if c.kind == kind) for kind in ("reasoning", "content")
    )
    assert (17, 5) == (record.output_tokens, record.reasoning_tokens)
    sends = [c.send_ns for c in record.chunks]
    assert sorted(sends) == sends
    assert all(c.due_ns <= c.send_ns <= c.written_ns <= record.end_ns for c in record.chunks)
    assert len(record.chunks) - 1 >= record.chunks[-1].write_id
    assert record.ttft_ns >= 30 * MS
    assert record.tokens[-1].send_ns - record.received_ns >= (30 + 16 * 2) * MS
    assert record.received_ns <= record.headers_ns <= sends[0]
    assert all(json.dumps(c.text)[1:-1] in answer.text for c in record.chunks if c.kind == "content")


@every_protocol
def test_each_token_has_a_write_of_its_own(server, client, protocol):
    """Structure does not share the write of a token, so that a client can certify its arrival."""
    record = record_of(server, ask(client, protocol, "sim@tokens=6,reasoning=3"))
    writes = [c.write_id for c in record.tokens]
    assert len(set(writes)) == len(writes) == 9
    assert not {c.write_id for c in record.chunks if c.kind not in TOKENS} & set(writes)


@every_protocol
def test_usage_is_a_count(server, client, protocol):
    """The provider's own words for the same numbers."""
    answer = ask(client, protocol, "sim@tokens=7,reasoning=2,cached=3")
    record, n_in = record_of(server, answer), record_of(server, answer).input_tokens
    last = {
        "openai_chat": lambda: next(e["usage"] for e in events(answer) if e.get("usage")),
        "openai_responses": lambda: events(answer)[-1]["response"]["usage"],
        "anthropic": lambda: events(answer)[-2]["usage"],
        "gemini": lambda: events(answer)[-1]["usageMetadata"],
        "ollama": lambda: json.loads(answer.text.splitlines()[-1]),
    }[protocol]()
    expected = {
        "openai_chat": {"prompt_tokens": n_in, "completion_tokens": 9, "total_tokens": n_in + 9},
        "openai_responses": {
            "input_tokens": n_in,
            "input_tokens_details": {"cached_tokens": 3},
            "output_tokens": 9,
            "output_tokens_details": {"reasoning_tokens": 2},
        },
        "anthropic": {"input_tokens": n_in - 3, "cache_read_input_tokens": 3, "output_tokens": 9},
        "gemini": {
            "promptTokenCount": n_in,
            "candidatesTokenCount": 7,
            "thoughtsTokenCount": 2,
            "cachedContentTokenCount": 3,
            "totalTokenCount": n_in + 9,
        },
        "ollama": {"prompt_eval_count": n_in, "eval_count": 9},
    }[protocol]
    assert expected == {k: last[k] for k in expected}
    assert record.output_tokens == 9


@pytest.mark.slow
@every_protocol
def test_the_same_question_has_the_same_answer(client, protocol):
    """But for ids and moments, twice the same bytes."""

    def words(answer):
        return [c.text for c in record_of_any(client, answer)]

    first, second = ask(client, protocol, "sim@gaps=jitter"), ask(client, protocol, "sim@gaps=jitter")
    assert words(first) == words(second)
    assert first.headers["x-request-id"] != second.headers["x-request-id"]


def record_of_any(client, answer):
    found = next(r for r in client.get("/__sim/records").json() if r["id"] == answer.headers["x-request-id"])
    return [simulator.Chunk(**c) for c in found["chunks"]]


def test_connections_are_kept_and_told_apart(server, client):
    """The first request of a connection, and those that reuse it."""
    one, two = (record_of(server, ask(client, "openai_chat", "sim@tokens=1")) for _ in range(2))
    assert (True, False) == (one.first, two.first)
    assert (one.connection, one.connected_ns) == (two.connection, two.connected_ns)
    assert one.connected_ns <= one.received_ns
    with httpx.Client(base_url=server.url, **CLEAR) as other:
        assert one.connection != record_of(server, ask(other, "openai_chat", "sim@tokens=1")).connection


# ---- shapes that benchmarks get wrong ----


def chunks(server, client, options, protocol="openai_chat"):
    return record_of(server, ask(client, protocol, f"sim@{options}")).chunks


def kinds(given):
    return [c.kind for c in given]


def test_early_role_late_role_and_empty_delta(server, client):
    early, late = (
        chunks(server, client, "tokens=2,ttft=0.03"),
        chunks(server, client, "tokens=2,ttft=0.03,role=late"),
    )
    assert ["role", "content", "content", "finish", "usage", "done"] == kinds(early) == kinds(late)
    assert early[1].due_ns - early[0].due_ns == 30 * MS
    assert late[1].due_ns == late[0].due_ns
    empty = chunks(server, client, "tokens=2,empty=1,ttft=0.03")
    assert [("role", 0), ("content", 0), ("content", 1)] == [(c.kind, c.n_tokens) for c in empty[:3]]
    assert empty[2].send_ns - empty[1].due_ns >= 30 * MS


def test_several_events_in_a_write_and_several_tokens_in_an_event(server, client):
    together = [c for c in chunks(server, client, "tokens=6,chunks_per_write=3") if c.kind == "content"]
    assert [together[0].write_id] * 3 + [together[3].write_id] * 3 == [c.write_id for c in together]
    assert [2, 2, 1] == [
        c.n_tokens for c in chunks(server, client, "tokens=5,tokens_per_chunk=2") if c.kind == "content"
    ]


def test_tail_and_no_usage(server, client):
    answer = ask(client, "openai_chat", "sim@tokens=2,tail=0.05,usage=off")
    given = record_of(server, answer).chunks
    assert "usage" not in kinds(given)
    assert not any(e.get("usage") for e in events(answer))
    assert given[-1].send_ns - given[-3].due_ns >= 50 * MS


@pytest.mark.parametrize(
    ("protocol", "mark"),
    [("openai_chat", ": ping\n"), ("anthropic", "event: ping\n"), ("gemini", ": ping\n")],
)
def test_pings_come_before_the_first_token(server, client, protocol, mark):
    answer = ask(client, protocol, "sim@tokens=2,ping=3,ttft=0.04")
    given = record_of(server, answer).chunks
    assert answer.text.count(mark) == kinds(given).count("ping") >= 3
    first = next(i for i, c in enumerate(given) if c.n_tokens)
    assert "ping" not in kinds(given[first:])


@pytest.mark.slow
def test_a_body_may_end_with_the_connection(server, client):
    answer = ask(client, "openai_chat", "sim@tokens=2,close=1")
    assert ("close", None) == (answer.headers["connection"], answer.headers.get("transfer-encoding"))
    assert answer.text.endswith("data: [DONE]\n\n")
    assert record_of(server, ask(client, "openai_chat", "sim")).first


def test_http_1_0_gets_no_chunks(server):
    body = json.dumps({"model": "sim@tokens=1", "messages": MESSAGES, "stream": True}).encode()
    with socket.create_connection(("127.0.0.1", server.port)) as raw:
        raw.sendall(b"POST /v1/chat/completions HTTP/1.0\r\ncontent-length: %d\r\n\r\n%b" % (len(body), body))
        assert b"".join(iter(lambda: raw.recv(4096), b"")).endswith(b"}\n\ndata: [DONE]\n\n")


def test_gemini_without_sse_is_one_array(client):
    answer = client.post(
        "/v1beta/models/sim%40tokens=3:streamGenerateContent",
        json={"contents": [{"parts": [{"text": "hi"}]}]},
    )
    assert "application/json" in answer.headers["content-type"]
    assert 3 == answer.json()[-1]["usageMetadata"]["candidatesTokenCount"]


def test_the_header_chooses_too(server, client):
    assert 4 == record_of(server, ask(client, "ollama", "sim", **{"x-nbllm-sim": "tokens=4"})).output_tokens


@every_protocol
def test_whole_answers_come_when_the_stream_would_end(server, client, protocol):
    path, body = ASK[protocol]("sim@tokens=8,ttft=0.03,gap=0.002")
    path = path.replace("streamGenerateContent?alt=sse", "generateContent")
    answer = client.post(path, json={**body, "stream": False} if protocol != "gemini" else body)
    record = record_of(server, answer)
    assert isinstance(answer.json(), dict)
    assert record.headers_ns - record.received_ns >= (30 + 7 * 2) * MS
    assert (False, 8) == (record.stream, record.output_tokens)


# ---- cold starts ----


@pytest.mark.slow
def test_a_cold_model_waits_and_ollama_says_so(server, client):
    """The first request waits, the next does not, an unloaded model is cold again; ps tells which are
    loaded."""
    server.reset()
    model = "sim-cold@cold=0.06,tokens=1"
    loads = [
        json.loads(ask(client, "ollama", model).text.splitlines()[-1])["load_duration"] for _ in range(2)
    ]
    assert loads[0] >= 60 * MS > loads[1] > 0
    cold, warm = server.records
    assert (cold.cold_s, warm.cold_s) == (pytest.approx(0.06), 0.0)
    assert cold.ttft_ns >= 80 * MS
    assert ["sim-cold:latest"] == [m["name"] for m in client.get("/api/ps").json()["models"]]
    client.post("/api/generate", json={"model": "sim-cold", "keep_alive": 0})
    assert [] == client.get("/api/ps").json()["models"]
    assert record_of(server, ask(client, "ollama", model)).cold_s


def test_idle_makes_cold(server, client):
    server.reset()
    assert [True, True] == [
        record_of(server, ask(client, "openai_chat", "i@cold=0.01,idle=0,tokens=1")).cold_s > 0
        for _ in range(2)
    ]


# ---- faults ----

ERROR = {
    "openai_chat": lambda b: b["error"]["code"],
    "openai_responses": lambda b: b["error"]["code"],
    "anthropic": lambda b: b["error"]["type"],
    "gemini": lambda b: b["error"]["status"],
    "ollama": lambda b: b["error"],
}


@pytest.mark.parametrize(
    ("protocol", "word"),
    [
        ("openai_chat", "rate_limit_exceeded"),
        ("openai_responses", "rate_limit_exceeded"),
        ("anthropic", "rate_limit_error"),
        ("gemini", "RESOURCE_EXHAUSTED"),
        ("ollama", "too many requests"),
    ],
)
def test_a_status_with_the_providers_own_body(server, client, protocol, word):
    """And the time to wait where the provider says it: Google in the body, the others in a header."""
    answer = ask(client, protocol, "sim@status=429,retry_after=1.5")
    assert (429, word) == (answer.status_code, ERROR[protocol](answer.json()))
    assert ("1.5s" in answer.text) if protocol == "gemini" else answer.headers["retry-after"] == "1.5"
    assert (429, ()) == (record_of(server, answer).status, record_of(server, answer).tokens)


def test_failing_so_many_times_per_prompt(server, client):
    server.reset()
    codes = [ask(client, "anthropic", "sim@fail_times=2,tokens=1").status_code for _ in range(3)]
    assert [529, 529, 200] == codes
    assert 529 == ask(client, "anthropic", "sim2@fail_times=2,tokens=1").status_code


def test_failing_at_a_rate(client):
    codes = [ask(client, "openai_chat", "sim@fail_rate=0.5,tokens=1,ttft=0").status_code for _ in range(60)]
    assert 12 < codes.count(503) < 48


@every_protocol
def test_quota_and_context_are_told_apart(client, protocol):
    quota, context = ask(client, protocol, "sim@why=quota"), ask(client, protocol, "sim@why=context")
    assert (400 if protocol == "anthropic" else 429, 400) == (quota.status_code, context.status_code)
    assert quota.text != context.text


@every_protocol
@pytest.mark.parametrize("how", ["rst", "close", "end"])
def test_a_cut_comes_after_so_many_chunks(server, client, protocol, how):
    """All that was written before arrives; then reset, end of file, or an end as if all were well."""
    path, body = ASK[protocol](f"sim@tokens=9,cut=3,how={how}")
    got = b""
    with (
        contextlib.suppress(httpx.RemoteProtocolError, httpx.ReadError) as _,
        client.stream("POST", path, json=body) as answer,
    ):
        id = answer.headers["x-request-id"]
        for data in answer.iter_raw():
            got += data
        assert "end" == how
    record = server.record(id)
    assert 3 == sum(c.n_tokens for c in record.tokens)
    assert all(json.dumps(c.text)[1:-1].encode() in got for c in record.tokens)
    assert not {"finish", "done"} & set(kinds(record.chunks))


def test_a_whole_answer_can_be_cut(client):
    with pytest.raises(httpx.TransportError):
        client.post("/v1/chat/completions", json={"model": "sim@cut=1", "messages": MESSAGES})


@every_protocol
def test_malformed_and_error_inside(server, client, protocol):
    bad = ask(client, protocol, "sim@tokens=4,malformed=2")
    lines = [
        line.removeprefix("data:").strip()
        for line in bad.text.splitlines()
        if line.startswith(("data:", "{")) and "[DONE]" not in line
    ]
    assert 1 == sum(not _is_json(line) for line in lines)
    broken = ask(client, protocol, "sim@tokens=4,error=2")
    assert 2 == len(record_of(server, broken).tokens)
    assert "requested from nbllm's simulator" in broken.text
    assert "error" in kinds(record_of(server, broken).chunks)


def _is_json(line):
    with contextlib.suppress(ValueError):
        json.loads(line)
        return True
    return False


def test_a_stall_ends_when_the_client_leaves(server):
    """The client gets what came before, hears nothing more, and its going is recorded."""
    with httpx.Client(base_url=server.url, **CLEAR) as client:
        path, body = ASK["openai_chat"]("sim@tokens=9,stall=2")
        with client.stream("POST", path, json=body) as answer:
            data, source = "", answer.iter_text()
            while data.count('"content":') < 3:  # the role's and two tokens
                data += next(source)
            left = time.monotonic_ns()
    record = next(r for r in server.settled() if r.id == answer.headers["x-request-id"])
    assert (2, None) == (len(record.tokens), record.end_ns)
    assert record.aborted_ns >= left


def test_a_stall_may_pass(server, client):
    given = [c for c in chunks(server, client, "tokens=4,stall=2,stall_for=0.05") if c.kind == "content"]
    assert given[2].send_ns - given[1].due_ns >= 50 * MS
    assert 4 == len(given)


def test_slow_headers(server, client):
    record = record_of(server, ask(client, "openai_chat", "sim@headers=0.05,tokens=1"))
    assert record.headers_ns - record.received_ns >= 50 * MS
    assert record.chunks[0].send_ns >= record.headers_ns


@every_protocol
def test_keys(protocol):
    """A key is wanted, wrongness is told in the provider's way, and no record or answer holds it."""
    with (
        simulator.serve(auth="sk-right-key", ttft=0, gap=0) as locked,
        httpx.Client(base_url=locked.url, headers={"anthropic-version": "1"}, **CLEAR) as client,
    ):
        right = {
            "anthropic": {"x-api-key": "sk-right-key"},
            "gemini": {"x-goog-api-key": "sk-right-key"},
        }.get(protocol, {"authorization": "Bearer sk-right-key"})
        wrong = {k: v.replace("right", "wrong") for k, v in right.items()}
        refused = ask(client, protocol, "sim", **wrong)
        assert {"gemini": 400}.get(protocol, 401) == refused.status_code
        assert {"gemini": 403}.get(protocol, 401) == ask(client, protocol, "sim").status_code
        assert 200 == ask(client, protocol, "sim", **right).status_code
        assert "sk-" not in refused.text
        assert (
            "sk-"
            not in repr(locked.records) + client.get("/__sim/records").text + client.get("/__sim/health").text
        )
    assert "sk-named" not in repr(simulator.Record.__slots__)


@every_protocol
def test_any_key_will_do(client, protocol):
    assert {"gemini": 403}.get(protocol, 401) == ask(client, protocol, "sim@auth=1,tokens=1").status_code
    assert 200 == ask(client, protocol, "sim@auth=1,tokens=1", authorization="Bearer sk-any").status_code


@every_protocol
def test_an_unknown_option_is_named(client, protocol):
    answer = ask(client, protocol, "sim@ttff=1")
    assert (400, True) == (answer.status_code, "ttff" in answer.text and "ttft" in answer.text)


@every_protocol
@pytest.mark.parametrize(
    "said",
    ["<script>alert(1)</script> `$x$` \u202e\u2028 \r\n\t\\ \x00 🙂é", " \n data: [DONE]\n\nevent: x\n"],
)
def test_an_echo_is_exact(server, client, protocol, said):
    """Hostile text comes back as it went, in pieces of some characters."""
    path, body = ASK[protocol]("sim@echo=1")
    answer = client.post(path, content=json.dumps(body).replace(json.dumps(ASKED), json.dumps(said)))
    given = [c.text for c in record_of(server, answer).chunks if c.kind == "content"]
    assert said == "".join(given)
    assert all(
        json.loads(line)
        for line in answer.text.replace("data: [DONE]", "").replace("data:", "").split("\n")
        if line.startswith((" {", "{"))
    )
    assert max(map(len, given)) <= 20


def test_a_key_in_the_models_name_is_not_kept(server, client):
    answer = ask(client, "openai_chat", "sim@auth=sk-named,tokens=1", authorization="Bearer sk-named")
    assert 200 == answer.status_code
    assert "sk-named" not in answer.text + repr(server.records)


BAD = [
    ("/v1/chat/completions", b"{", 400),
    ("/v1/chat/completions", b"{}", 400),
    ("/v1/chat/completions", b"[]", 400),
    ("/v1/chat/completions", b'{"messages": [1], "model": "m"}', 200),
    ("/v1/responses", b'{"model": "m", "input": [1]}', 400),
    ("/v1/messages", b'{"model": "m", "messages": [{}]}', 400),
    ("/v1/messages", b'{"model": "m", "messages": "x", "max_tokens": 1}', 400),
    ("/v1beta/models/m:generateContent", b"{}", 400),
    ("/api/chat", b"{}", 400),
    ("/nowhere", b"{}", 404),
    ("/v1/chat/completions", b'{"messages": [{}], "model": "m@tttf=1"}', 400),
]


@pytest.mark.parametrize(("path", "body", "status"), BAD)
def test_what_cannot_be_answered_is_refused(client, path, body, status):
    assert status == client.post(path, content=body).status_code


# ---- the server ----


def test_two_requests_in_one_write_are_both_answered(server):
    """Pipelined, in order, on one connection."""
    body = json.dumps({"model": "sim@tokens=1", "messages": MESSAGES}).encode()
    one = b"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\ncontent-length: %d\r\n\r\n%b" % (len(body), body)
    with socket.create_connection(("127.0.0.1", server.port)) as raw:
        raw.sendall(one + one)
        for _ in range(2):
            answer = http.client.HTTPResponse(raw)
            answer.begin()
            assert 200 == answer.status
            answer.read()


@pytest.mark.parametrize(
    "junk",
    [b"\x16\x03\x01\x02\x00", b"GET\r\n\r\n", b"POST / HTTP/1.1\r\nhost: x\r\ncontent-length: -1\r\n\r\n"],
)
def test_junk_is_refused_and_the_server_lives(server, client, junk):
    with socket.create_connection(("127.0.0.1", server.port)) as raw:
        raw.sendall(junk)
        raw.shutdown(socket.SHUT_WR)
        while raw.recv(4096):
            pass
    assert client.get("/__sim/health").json()["ok"]


@pytest.mark.slow
def test_a_slow_reader_holds_nothing_up_and_loses_nothing(server):
    """The server stops writing while the client does not read, then goes on to the end."""
    body = json.dumps(
        {"model": "sim@tokens=60000,gap=0,tokens_per_chunk=3", "messages": MESSAGES, "stream": True}
    ).encode()
    with socket.socket() as raw:
        raw.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        raw.connect(("127.0.0.1", server.port))
        raw.sendall(
            b"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\ncontent-length: %d\r\n\r\n%b"
            % (len(body), body)
        )
        with httpx.Client(base_url=server.url, **CLEAR) as other:
            assert 200 == ask(other, "openai_chat", "sim@tokens=2").status_code
        answer = http.client.HTTPResponse(raw)
        answer.begin()
        assert answer.read().endswith(b"data: [DONE]\n\n")
    record = next(r for r in reversed(server.settled()) if r.output_tokens == 60000)
    assert 60000 == sum(c.n_tokens for c in record.tokens)


@pytest.mark.slow
def test_many_streams_at_once(server):
    """64 streams; each is complete and none of their chunks was early."""

    def one():
        with httpx.Client(base_url=server.url, **CLEAR, timeout=60) as c:
            done.append(ask(c, "openai_chat", "sim-many@tokens=20,gap=0.01").text.endswith("[DONE]\n\n"))

    done = []
    threads = [threading.Thread(target=one) for _ in range(64)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert [True] * 64 == done
    many = [r for r in server.settled() if r.model.startswith("sim-many")]
    assert all(c.send_ns >= c.due_ns for r in many for c in r.chunks)


def test_records_are_bounded(client):
    with (
        simulator.serve(records=2, ttft=0, gap=0) as small,
        httpx.Client(base_url=small.url, **CLEAR) as c,
    ):
        ids = [ask(c, "ollama", "sim").headers["x-request-id"] for _ in range(3)]
        assert ids[1:] == [r.id for r in small.records]
        c.post("/__sim/reset")
        assert [] == small.records


def test_closing_and_what_remains():
    server = simulator.serve(ttft=0, gap=0)
    with httpx.Client(base_url=server.url, **CLEAR) as client:
        ask(client, "ollama", "sim")
        server.close()
        server.close()
        assert not server.serving
        assert 1 == len(server.records)
        with pytest.raises(httpx.TransportError):
            ask(client, "ollama", "sim")


def test_addresses():
    with simulator.serve() as server:
        assert (
            f"http://127.0.0.1:{server.port}/v1"
            == server.base_url("openai_chat")
            == server.base_url("openai_responses")
        )
        assert (server.url, server.url + "/v1beta", server.url) == tuple(
            map(server.base_url, ("anthropic", "gemini", "ollama"))
        )
        with pytest.raises(ValueError, match="does not speak"):
            server.base_url("cohere")
        with pytest.raises(ValueError, match="no option"):
            simulator.serve(speed=3)


def run(code, **env):
    return subprocess.run(
        [sys.executable, "-W", "error", "-c", code],
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
        env={**os.environ, **env},
    )


@pytest.mark.slow
def test_importing_it_is_light():
    out = run(
        "import sys, nbllm.simulator; print({'asyncio', 'h11', 'msgspec', 'json', 'nbllm.client.client'} & "
        "set(sys.modules))"
    )
    assert ("set()\n", "") == (out.stdout, out.stderr)


@pytest.mark.slow
def test_the_shared_one_ends_with_the_process():
    out = run(
        "import nbllm.simulator as s; a = s.shared(); assert a is s.shared(); a.close(); assert a is not "
        "s.shared(); print('ok')"
    )
    assert (0, "ok\n", "") == (out.returncode, out.stdout, out.stderr)


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
def test_a_forked_child_has_its_own():
    """And it does not hold the parent's connections open: the far end sees the parent close them."""
    out = run("""
import os, socket, urllib.request as u, nbllm.simulator as s
a = s.shared()
get = lambda server: u.urlopen(server.url + '/__sim/health', timeout=60).status
raw = socket.create_connection(('127.0.0.1', a.port), timeout=60)
raw.sendall(b'GET / HTTP/1.1\\r\\nhost: x\\r\\n\\r\\n')
raw.recv(4096)
go, gone = os.pipe()
pid = os.fork()
if not pid:
    os.close(gone)
    b = s.shared()
    fine = b.port != a.port and get(b) == 200
    os.read(go, 1)
    os._exit(not fine)
raw.sendall(b'GET / HTTP/1.1\\r\\nhost: x\\r\\nconnection: close\\r\\n\\r\\n')
while raw.recv(4096): pass
raw.close()
os.close(gone)
print(os.waitpid(pid, 0)[1], get(a), s.shared() is a)
""")
    assert ("0 200 True\n", "") == (out.stdout, out.stderr)


@pytest.mark.slow
def test_the_command_serves_until_it_is_interrupted():
    command = [sys.executable, "-m", "nbllm.simulator", "--defaults", "tokens=3,ttft=0"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        url = process.stdout.readline().strip()
        with httpx.Client(base_url=url, **CLEAR) as client:
            assert 3 == json.loads(ask(client, "ollama", "sim").text.splitlines()[-1])["eval_count"]
        process.send_signal(signal.SIGINT)
        assert (0, "") == (process.wait(30), process.stderr.read())
    bad = subprocess.run([*command[:-1], "tttf=1"], capture_output=True, text=True, timeout=300, check=False)
    assert (2, True) == (bad.returncode, "ttft" in bad.stderr)


def test_reset_by_a_client_is_recorded(server):
    """RST in mid-stream: the record says when, and the server goes on."""
    body = json.dumps({"model": "sim-rst@stall=1", "messages": MESSAGES, "stream": True}).encode()
    raw = socket.create_connection(("127.0.0.1", server.port))
    raw.sendall(
        b"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\ncontent-length: %d\r\n\r\n%b" % (len(body), body)
    )
    raw.recv(10)
    raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    raw.close()
    assert next(r for r in server.settled() if r.model.startswith("sim-rst")).aborted_ns


def test_a_client_that_is_gone_is_written_no_more(server, caplog):
    """Of many chunks that are due at once the rest is left: asyncio warns of each write, in a notebook into
    some cell."""
    body = json.dumps({"model": "m@ttft=0,gap=0,tokens=400", "stream": True, "messages": MESSAGES}).encode()
    head = f"POST /v1/chat/completions HTTP/1.1\r\nhost: a\r\ncontent-length: {len(body)}\r\n\r\n".encode()
    for _ in range(5):
        with socket.create_connection(("127.0.0.1", server.port)) as raw:
            raw.sendall(head + body)
    with contextlib.suppress(ConnectionError), socket.create_connection(("127.0.0.1", server.port)) as raw:
        raw.sendall(b"GET /nothing HTTP/1.1\r\nhost: a\r\n\r\n")
        assert raw.recv(10)  # all that came before has been answered
    assert "socket.send()" not in caplog.text
