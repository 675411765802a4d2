"""hedge=SECONDS: a second request where the first is slow; one answer, two rows."""

import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pandas as pd
import pytest

import nbllm
from nbllm import Client, bench
from nbllm.client.client import Ledger
from nbllm.core.errors import BudgetExceeded, ConfigError, NbllmError
from nbllm.core.events import Notice
from nbllm.store import columns

from .listeners import Listener

FAST = "ttft=0.01,gap=0,tokens=5"


@pytest.fixture
def client():
    made = Client(ledger=Ledger("memory"))
    yield made
    made.close()


class Uneven(ThreadingHTTPServer):
    """A server whose first answer does not come before its end, and whose others do at once."""

    daemon_threads = True

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Answering)
        self.first, self.over = None, threading.Event()
        threading.Thread(target=self.serve_forever, args=(0.01,), daemon=True).start()

    def process_request(self, request, client_address):
        """In the order in which they came; their threads may overtake each other."""
        self.first = self.first or request
        super().process_request(request, client_address)

    def end(self):
        """Ends all."""
        self.over.set()
        self.shutdown()
        self.server_close()


class Answering(BaseHTTPRequestHandler):
    def do_POST(self):
        self.rfile.read(int(self.headers["Content-Length"]))
        if self.connection is self.server.first:
            self.server.over.wait(60)
            return
        delta = {"choices": [{"index": 0, "delta": {"content": '{"a": "b"}'}, "finish_reason": None}]}
        end = {
            "choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}],
            "usage": {"prompt_tokens": 3, "completion_tokens": 5},
        }
        body = "".join(f"data: {json.dumps(e)}\n\n" for e in (delta, end)) + "data: [DONE]\n\n"
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body.encode())

    def log_message(self, *args):
        pass


@pytest.fixture
def uneven():
    """What reaches a server whose first answer does not come."""
    server = Uneven()
    yield {"model": "openai/m", "base_url": f"http://127.0.0.1:{server.server_port}/v1", "api_key": "sk-x"}
    server.end()


def told(stream):
    return [event.text for _, event in stream.log if isinstance(event, Notice) and event.kind == "hedge"]


def rows(client):
    client.ledger.flush()
    return columns.frame(client.ledger.rows())


def test_the_second_answers_where_the_first_is_slow(client, uneven):
    """One answer; both have a row, the first as cancelled."""
    stream = client.stream("hello", hedge=0.05, **uneven)
    got = stream.response()
    assert ('{"a": "b"}', "stop") == (got.text, got.finish_reason)
    assert 5 == got.usage.output_tokens
    first, second = told(stream)
    assert "0.05 s" in first
    assert "The second was faster." == second
    assert 1 == len(stream.traces)
    df = rows(client)
    assert len(df) == 2
    assert ["cancelled", "ok"] == sorted(df["status"])


def test_a_fast_answer_is_asked_once(client):
    stream = client.stream("hello", f"sim/openai/m@{FAST}", hedge=1000)
    plain = client.complete("hello", f"sim/openai/m@{FAST}")
    assert plain.text == stream.response().text
    assert [] == told(stream)
    assert len(rows(client)) == 2  # this one, and the plain one


@pytest.mark.slow
def test_a_slow_first_that_still_begins_first_wins(client):
    """The second, which waits longer, is stopped."""
    stream = client.stream("hello", "sim/openai/m3@ttft=0.6,gap=0.1,tokens=3", hedge=0.05)
    assert stream.response().text
    assert "The first was faster." == told(stream)[-1]


@pytest.mark.parametrize("hedge", [0.001, 1000])
def test_an_error_is_the_calls_own(client, hedge):
    """One that comes before the second is asked is not asked again; where both fail, the error stands."""
    expected = 2 if hedge < 1 else 1
    all_there = threading.Barrier(expected)

    def page(_handler):
        all_there.wait(30)
        return b'{"error": {"message": "no"}}'

    with Listener((400, page)) as server:
        given = {"base_url": f"{server.url}/v1", "api_key": "sk-x", "hedge": hedge, "retries": 0}
        stream = client.stream("hello", "openai/m", **given)
        with pytest.raises(NbllmError) as caught:
            stream.response()
    assert "BadRequest" == type(caught.value).__name__
    assert not any("faster" in words for words in told(stream))
    assert len(rows(client)) == expected


def test_stop_ends_both(client):
    stream = client.stream("hello", "sim/openai/m5@ttft=1800,tokens=3", hedge=0.01)
    while len(told(stream)) < 1:
        stream.wait(len(stream.log), 30)
    stream.cancel()
    assert "cancelled" == stream.partial().finish_reason or stream.wait(len(stream.log), 30)
    while not stream.done:
        stream.wait(len(stream.log), 30)
    assert "cancelled" == stream.partial().finish_reason


@pytest.mark.slow
def test_the_budget_counts_both(client):
    """A budget for one call has no room for the second: the first goes on."""
    budget = nbllm.client.client.Budget.of({"tokens": 60})
    got = client.stream(
        "hello", "sim/openai/m6@ttft=0.3,gap=0,tokens=5", hedge=0.05, budget=budget, max_tokens=40
    )
    assert got.response().text
    with pytest.raises(BudgetExceeded):
        client.complete("hello", "sim/openai/m6", budget=budget, max_tokens=60)


def weather(city: str) -> str:
    """The weather."""
    return city


@pytest.mark.parametrize(
    ("options", "word"),
    [
        ({"tools": [weather]}, "tools="),
        ({"keep": True}, "keep"),
        ({"cache": True}, "cache="),
        ({"cache": "refresh"}, "cache="),
        ({"model": "cli/claude"}, "command"),
        ({"model": "sim|cli/claude"}, "command"),
        *(({"hedge": bad}, "hedge") for bad in (0, -1, True, "soon", float("nan"), float("inf"))),
    ],
)
def test_what_must_not_be_done_twice_is_refused(client, options, word):
    """Before anything is sent."""
    with pytest.raises(ConfigError, match=word):
        client.complete("hello", **{"model": "sim", "hedge": 1.0, **options})


def test_rows_batches_and_benchmarks_do_not_hedge(client):
    """Which would double the load when a provider is slow, or measure two calls as one."""
    df = pd.DataFrame({"t": ["a"]})
    for mode in ("now", "batch"):
        with pytest.raises(ConfigError, match="hedge="):
            nbllm.map(df, "{t}", model="sim", hedge=1, mode=mode, client=client)
    with pytest.raises(ConfigError, match="hedge"):
        bench.run("sim", "hello", hedge=1, blocks=1, progress=False)


def test_it_goes_with_conversations_and_schemas(client, uneven):
    """Of which each turn may be asked twice."""
    schema = {"type": "object", "properties": {"a": {"type": "string"}}, "required": ["a"]}
    got = client.complete("hello", hedge=0.05, compact="auto", schema=schema, **uneven)
    assert {"a": "b"} == json.loads(got.text)
    assert len(rows(client)) == 2


def test_it_goes_with_models_in_turn(client):
    got = client.complete(
        "hello", f"sim/openai/bad@status=500|sim/anthropic/good@{FAST}", hedge=1000, retries=0
    )
    assert "good" in got.model
