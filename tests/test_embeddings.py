"""Texts as vectors: four formats against the simulator, odd answers of a server, what is left out, what is
kept."""

import base64
import json
import signal
import struct
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import pandas as pd
import pytest

import nbllm
from nbllm import Client, simulator
from nbllm.client.embeddings import _batches as batches
from nbllm.client.embeddings import embed, nearest
from nbllm.client.policy import Retries
from nbllm.core import errors
from nbllm.core.calls import ProviderSpec
from nbllm.dialects.embeddings import EMBEDDERS, EMBEDDINGS, pack_matrix, unpack_matrix
from nbllm.routing import registry
from nbllm.simulator.protocols.embeddings import vector
from nbllm.store.ledger import Ledger

CANARY = "sk-canary-0123456789abcdef"
TEXTS = ["The sky is blue", "Cats chase mice", "A stock fell", "Rain falls from the sky"]
FORMATS = {"openai_chat": "/v1", "gemini": "/v1beta", "ollama": "", "cohere": ""}


@pytest.fixture(scope="module")
def sim():
    with simulator.serve(ttft=0.0, gap=0.0) as server:
        yield server


@pytest.fixture(autouse=True)
def forget(sim):
    sim.reset()


def made(url, dialect="openai_chat", **more):
    r = registry.load({"ACME_API_KEY": CANARY})
    r.register("acme", {"base_url": url, "dialect": dialect, "key_env": "ACME_API_KEY", **more})
    return Client(r, retries=Retries(2, base=0.0), ledger=None)


@pytest.fixture(params=FORMATS)
def client(request, sim):
    found = made(sim.url + FORMATS[request.param], request.param)
    yield found
    found.close()


class Server(ThreadingHTTPServer):
    """Answers with what `says` makes of a request's body, and remembers what came."""

    def __init__(self, says, status=200):
        super().__init__(("127.0.0.1", 0), Handler)
        self.says, self.status, self.seen, self.keys = says, status, [], []
        threading.Thread(target=self.serve_forever, args=(0.01,), daemon=True).start()

    @property
    def url(self):
        return f"http://127.0.0.1:{self.server_port}"


class Handler(BaseHTTPRequestHandler):
    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.server.seen.append((self.path, body))
        self.server.keys.append(dict(self.headers))
        said = self.server.says(body)
        status, said = said if isinstance(said, tuple) else (self.server.status, said)
        said = said if isinstance(said, bytes) else json.dumps(said).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(said)))
        self.end_headers()
        self.wfile.write(said)

    def log_message(self, *args):
        pass


def asked_of(says, dialect="openai_chat", texts=TEXTS, **options):
    """What a server that answers so makes of the texts."""
    with Server(says) as server:
        client = made(server.url, dialect)
        try:
            return embed(client, texts, "acme/m", **options)
        finally:
            client.close()
            server.shutdown()


def data(vectors, indexes=None):
    places = range(len(vectors)) if indexes is None else indexes
    return {"data": [{"index": i, "embedding": v} for i, v in zip(places, vectors, strict=True)]}


# --- the four formats ---


def test_a_row_for_each_text_in_order(client):
    """With the index of the column, float32, and totals; each format gives the simulator's own vector."""
    column = pd.Series(TEXTS, index=list("wxyz"))
    found = embed(client, column, "acme/m", batch=3)
    assert list("wxyz") == list(found.index)
    assert ["ok"] * 4 == list(found["status"])
    for text, row in zip(TEXTS, found["embedding"], strict=True):
        assert np.dtype(np.float32) == row.dtype
        np.testing.assert_allclose(vector(text, 256), row, atol=1e-6)
    assert (256, 2, True) == tuple(found.attrs[n] for n in ("dimensions", "requests", "simulated"))
    assert found["input_tokens"].sum() == found.attrs["input_tokens"] > 0


def test_dimensions_are_asked_for(client):
    """Each format has its own word for them."""
    assert {64} == set(embed(client, TEXTS, "acme/m", dimensions=64)["embedding"].map(len))


def test_more_than_one_request_takes(client, sim):
    """Batches keep to the provider's limit, which the simulator refuses to pass."""
    texts = [f"text {i}" for i in range(300)]
    found = embed(client, texts, "acme/m")
    assert {"ok"} == set(found["status"])
    format = EMBEDDINGS[client.registry.rows["acme"].dialect]
    assert -(-300 // format.batch_size) == found.attrs["requests"] == len(sim.records)
    np.testing.assert_allclose(vector("text 299", 256), found["embedding"].iloc[-1], atol=1e-6)


def test_empty_and_missing_texts_are_not_asked(client, sim):
    """They are rows of NaN that say why; nothing is sent where there is nothing else."""
    texts = pd.Series(["a text", "", None, float("nan"), pd.NA, " \n", "a text"])
    found = embed(client, texts, "acme/m")
    assert ["ok", "empty", "missing", "missing", "missing", "empty", "ok"] == list(found["status"])
    assert np.isnan(np.stack(found["embedding"][1:6])).all()
    assert 1 == len(sim.records)
    np.testing.assert_array_equal(found["embedding"].iloc[0], found["embedding"].iloc[6])
    assert 0 == found["input_tokens"].iloc[6], "it was asked once"
    sim.reset()
    assert ["empty"] == list(embed(client, [""], "acme/m")["status"])
    assert 0 == len(embed(client, [], "acme/m"))
    assert [] == sim.records


def test_a_passing_failure_is_asked_again(client, sim):
    """As every call is."""
    found = embed(client, TEXTS, "acme/m@status=503,fail_times=1")
    assert {"ok"} == set(found["status"])
    assert [503, 200] == [r.status for r in sim.records]


def test_a_text_that_is_too_long_is_found(client):
    """The batch is halved until it is alone; the others are embedded."""
    texts = [*TEXTS, "word " * 50, "The last"]
    found = embed(client, texts, "acme/m@window=20")
    assert ["ok"] * 4 + ["too long", "ok"] == list(found["status"])
    np.testing.assert_allclose(vector("The last", 256), found["embedding"].iloc[-1], atol=1e-6)


def test_a_server_that_takes_fewer_texts_gets_fewer():
    """What it says of its limit halves the requests, and costs no text its vector."""

    def says(body):
        words = "Too many inputs in request, split into more batches."
        many = len(body["input"]) > 3
        return (400, {"message": words, "code": "3210"}) if many else data(numbers(body))

    found = asked_of(says, texts=[f"text {i}" for i in range(20)], retries=0)
    assert ["ok"] * 20 == list(found["status"])
    assert [float(len(f"text {i}")) for i in range(20)] == [v[0] for v in found["embedding"]]


def test_a_refusal_keeps_what_came(client):
    """An error carries the rows that were there, and the key is in none of its words."""
    with pytest.raises(
        errors.AuthenticationError if client.registry.rows["acme"].dialect != "gemini" else errors.NbllmError
    ) as caught:
        embed(client, TEXTS, "acme/m@auth=another", batch=1)
    assert ["not asked"] * 4 == list(caught.value.partial["status"])
    assert CANARY not in f"{caught.value} {caught.value!r} {vars(caught.value)}"


# --- what a server may send ---


def numbers(body):
    return [[float(len(text)), 1.0] for text in body["input"]]


def test_indexes_decide_the_order():
    """Not the place in the list."""
    found = asked_of(lambda b: data(numbers(b)[::-1], range(len(b["input"]))[::-1]))
    assert [len(t) for t in TEXTS] == [row[0] for row in found["embedding"]]


def test_base64_is_read_too():
    """Whoever sends it."""
    packs = [base64.b64encode(struct.pack("<2f", 1.5, i)).decode() for i in range(4)]
    found = asked_of(lambda _body: data(packs))
    assert [[1.5, i] for i in range(4)] == [list(row) for row in found["embedding"]]


def test_the_simulator_sends_base64_where_it_is_asked(sim):
    """As OpenAI does."""
    client = made(f"{sim.url}/v1")
    found = embed(client, TEXTS, "acme/m", extra={"encoding_format": "base64"})
    np.testing.assert_allclose(vector(TEXTS[1], 256), found["embedding"].iloc[1], atol=1e-6)
    client.close()


ODD = {
    "too few": lambda b: data(numbers(b)[1:]),
    "too many": lambda b: data([*numbers(b), [1.0, 1.0]]),
    "an index twice": lambda b: data(numbers(b), [0, 1, 1, 3]),
    "an index beyond": lambda b: data(numbers(b), [0, 1, 2, 4]),
    "an index missing": lambda b: data(numbers(b), [0, 1, 2, None]),
    "NaN": lambda b: data([[float("nan"), 1.0], *numbers(b)[1:]]),
    "too large": lambda b: data([[1e300, 1.0], *numbers(b)[1:]]),
    "text": lambda b: data([["1.0", "2.0"], *numbers(b)[1:]]),
    "true": lambda b: data([[True, 1.0], *numbers(b)[1:]]),
    "null": lambda b: data([None, *numbers(b)[1:]]),
    "one is shorter": lambda b: data([[1.0], *numbers(b)[1:]]),
    "no numbers": lambda b: data([[] for _ in b["input"]]),
    "no base64": lambda b: data(["???!", *numbers(b)[1:]]),
    "half a number": lambda b: data(["AAAA", *numbers(b)[1:]]),
    "NaN in base64": lambda b: data([base64.b64encode(struct.pack("<2f", float("nan"), 1)).decode()] * 4),
    "a chat": lambda _b: {"choices": [{"message": {"content": "hello"}}]},
    "a page": lambda _b: b"<html>hello</html>",
    "a list": lambda _b: [[1.0]] * 4,
    "a cut": lambda b: json.dumps(data(numbers(b))).encode()[:-20],
    "depth": lambda _b: b"[" * 100_000,
}


@pytest.mark.parametrize("says", ODD.values(), ids=ODD)
def test_what_cannot_be_believed_is_refused(says):
    """No row gets another's vector, or none that is a number; the error is one of ours."""
    with pytest.raises(errors.NbllmError) as caught:
        asked_of(says, retries=0)
    assert ["not asked"] * 4 == list(caught.value.partial["status"])


def test_an_error_in_an_answer_is_the_providers():
    """A 200 with an error in it, as gateways send it."""
    with pytest.raises(errors.ProviderError, match="no such model"):
        asked_of(lambda _b: {"error": {"message": "no such model"}}, retries=0)


TOO_LONG = [
    (400, "Invalid 'input[1]': maximum input length is 8192 tokens."),
    (400, "Requested 309209 tokens, max 300000 tokens per request"),
    (413, "Input validation error: `inputs` must have less than 512 tokens. Given: 534"),
    (400, "Too many input tokens. Max input tokens: 8192, request input token count: 9875"),
    (400, "Input length of input_ids is `4498` and exceed max_sequence_length: `4096`!"),
    (400, "Input length 513 exceeds maximum allowed token size 512"),
    (500, "input (1234 tokens) is too large to process. increase the physical batch size"),
    (400, "the input length exceeds the context length"),
    (400, "Too many tokens in batch. Max is 16384 got 17555"),
    (400, "Too many tokens overall, split into more batches."),
    (400, "Too many inputs in request, split into more batches."),
    (400, "Too many inputs. The max number of inputs is 16."),
    (400, "Value error, batch size is invalid, it should not be larger than 10.: input.contents"),
    (413, "batch size 100 > maximum allowed batch size 32"),
    (422, "input batch size 136 > maximum allowed batch size 64"),
    (400, "The max allowed tokens per submitted batch is 120000. Your batch has 121138 tokens."),
    (400, "BatchEmbedContentsRequest.requests: at most 100 requests can be in one batch"),
    (400, "invalid request: total number of texts must be at most 96 - received 100"),
    (400, "input数组最大不得超过64条"),
    (400, "prefill 744 tokens exceed n_ctx_per_seq, try increasing total context size"),
]


@pytest.mark.parametrize(("status", "words"), TOO_LONG)
def test_too_long_is_known_by_its_words(status, words):
    """As servers say it, in public reports; other refusals are what they were."""
    format, row = (
        EMBEDDERS["openai_embeddings"],
        ProviderSpec("acme", "openai_embeddings", "https://acme.example"),
    )
    body = json.dumps({"error": {"message": words}}).encode()
    assert errors.ContextLengthExceeded is type(format.error(status, {}, body, row))
    other = json.dumps({"error": {"message": "dimensions must be less than 1536"}}).encode()
    assert errors.BadRequest is type(format.error(400, {}, other, row))


def test_vectors_of_all_requests_have_one_length():
    """A router that changes the model between two requests is found out; the first answer is kept."""
    with pytest.raises(errors.ProtocolError, match="3 numbers instead of 2") as caught:
        asked_of(lambda b: data([[1.0] * (2 + (b["input"][0] == TEXTS[2]))] * 2), batch=2)
    assert ["ok", "ok", "not asked", "not asked"] == list(caught.value.partial["status"])


def test_a_model_that_ignores_dimensions_is_told():
    """What was asked for is what is given."""
    with pytest.raises(errors.ProtocolError, match="2 numbers instead of 64"):
        asked_of(lambda b: data(numbers(b)), dimensions=64)


# --- what is sent ---


@pytest.mark.parametrize(
    ("dialect", "path", "holds"),
    [
        ("openai_chat", "/embeddings", {"input": ["a"], "encoding_format": "float"}),
        ("ollama", "/api/embed", {"input": ["a"], "truncate": False}),
        ("cohere", "/v2/embed", {"texts": ["a"], "input_type": "search_query", "truncate": "NONE"}),
        ("gemini", "/v1beta/models/m:batchEmbedContents", {}),
    ],
)
def test_what_is_sent(dialect, path, holds):
    """The path, the words and the key of each format; nothing is cut in silence."""
    with Server(lambda _b: {}) as server:
        client = made(server.url, dialect)
        with pytest.raises(errors.NbllmError):
            embed(client, ["a"], "acme/m", purpose="query", retries=0)
        client.close()
        server.shutdown()
    (where, body), headers = server.seen[0], str(server.keys[0])
    assert path == where
    assert holds.items() <= body.items()
    assert CANARY in headers
    assert "purpose" not in body
    if dialect == "gemini":
        assert "RETRIEVAL_QUERY" == body["requests"][0]["taskType"]
        assert {"parts": [{"text": "a"}]} == body["requests"][0]["content"]


def test_a_key_stays_at_its_own_address(sim):
    """base_url of another server: the key is not sent there."""
    with Server(lambda b: data(numbers(b))) as server:
        client = made(f"{sim.url}/v1")
        embed(client, TEXTS, "acme/m", base_url=server.url)
        client.close()
        server.shutdown()
    assert CANARY not in str(server.keys)


@pytest.mark.parametrize(
    ("name", "model"),
    [
        ("openai/small", "text-embedding-3-small"),
        ("openai/large", "text-embedding-3-large"),
        ("openai", "text-embedding-3-small"),
        ("openai/text-embedding-ada-002", "text-embedding-ada-002"),
        ("text-embedding-3-large", "text-embedding-3-large"),
        ("gemini/embedding", "gemini-embedding-001"),
        ("mistral/embed", "mistral-embed"),
        ("ollama/nomic-embed-text", "nomic-embed-text"),
        ("ollama", "nomic-embed-text"),
    ],
)
def test_short_names(sim, name, model):
    """They are the rows' own data."""
    r = registry.load({})
    r.simulate, r.simulator = True, sim.base_url
    client = Client(r, ledger=None)
    embed(client, "a text", name)
    assert model == sim.records[-1].model
    client.close()


@pytest.mark.parametrize(
    ("texts", "options", "words"),
    [
        (["a", 7], {}, "Row 1 is a int"),
        (7, {}, "not a int"),
        (pd.DataFrame({"a": ["b"]}), {}, "not a DataFrame"),
        ({"a": "b"}, {}, "not a dict"),
        ({"a", "b"}, {}, "not a set"),
        (["a"], {"purpose": "fun"}, "Not a purpose: 'fun'"),
        (["a"], {"batch": 5000}, "batch=5000"),
        (["a"], {"dimensions": 0}, "dimensions=0"),
        (["a"], {"temperature": 1}, "no option temperature"),
    ],
)
def test_wrong_calls_are_told(sim, texts, options, words):
    """Before anything is sent."""
    client = made(f"{sim.url}/v1")
    with pytest.raises(errors.ConfigError, match=words):
        embed(client, texts, "acme/m", **options)
    assert [] == sim.records
    client.close()


def test_a_provider_without_embeddings_is_told(sim):
    """With some that have them."""
    client = made(sim.base_url("anthropic"), "anthropic")
    with pytest.raises(errors.ConfigError, match="has no embeddings"):
        embed(client, ["a"], "acme/m")
    client.close()


def test_one_model_is_asked(sim):
    """Vectors of two are of no use together."""
    client = made(f"{sim.url}/v1")
    with pytest.raises(errors.ConfigError, match="one model"):
        embed(client, ["a"], "acme/m|openai/small")
    assert [] == sim.records
    client.close()


def test_a_request_keeps_to_the_provider_s_tokens():
    """Counted as if a token had two bytes, which none of prose has; a text that is longer stands alone."""
    format = EMBEDDINGS["openai_chat"]
    texts = ["a" * 400_000, "b" * 200_000, "c", "d" * 900_000, "e"]
    found = [[text[0] for text in batch] for batch in batches(texts, format, 256)]
    assert [["a", "b"], ["c"], ["d"], ["e"]] == found


def test_an_interrupt_keeps_what_came():
    """Stop in the middle: the fifth request is sent once the first was taken, and then nothing more."""
    never = threading.Event()

    def says(body):
        if body["input"] == ["text 4"]:
            signal.pthread_kill(threading.main_thread().ident, signal.SIGINT)
        if body["input"] != ["text 0"]:
            never.wait(30)
        return data(numbers(body))

    with Server(says) as server:
        client = made(server.url)
        with pytest.raises(KeyboardInterrupt) as caught:
            embed(client, [f"text {i}" for i in range(9)], "acme/m", batch=1)
        never.set()
        client.close()
        server.shutdown()
    assert ["ok", *["not asked"] * 8] == list(caught.value.partial["status"])
    assert {b["input"][0] for _, b in server.seen} <= {f"text {i}" for i in range(5)}


def test_running_again_asks_for_what_is_missing():
    """cache=True: the requests that were answered are not sent again."""
    broken = threading.Event()

    def says(body):
        return (
            b"<html>no</html>" if TEXTS[2] in body["input"] and not broken.is_set() else data(numbers(body))
        )

    with Server(says) as server:
        client = made(server.url)
        with pytest.raises(errors.NbllmError):
            embed(client, TEXTS[:3], "acme/m", batch=1, cache=True, retries=0)
        broken.set()
        found = embed(client, TEXTS[:3], "acme/m", batch=1, cache=True)
        client.close()
        server.shutdown()
    assert [len(t) for t in TEXTS[:3]] == [row[0] for row in found["embedding"]]
    assert (3, 2) == (found.attrs["requests"], found.attrs["cached"])
    assert 4 == len(server.seen)


def test_vectors_are_no_text_for_the_ledger(sim):
    """Where prompts and answers are kept, the texts are, and no megabytes of base64."""
    client = made(f"{sim.url}/v1")
    client.ledger = Ledger("texts")
    embed(client, TEXTS, "acme/m")
    (row,) = client.ledger.rows()
    assert "" == row["answer"]
    assert TEXTS[0] in row["prompt"]
    client.close()


# --- what it costs, and what is nearest ---


def test_cost_and_tokens_are_shared_by_length():
    """A price of the user's own needs no output price; the rows add up to the request."""
    with Server(lambda b: {**data(numbers(b)), "usage": {"prompt_tokens": 17}}) as server:
        client = made(server.url, model={"m": {"input": 2.0}})
        found = embed(client, TEXTS, "acme/m")
        client.close()
        server.shutdown()
    assert 17 == found["input_tokens"].sum() == found.attrs["input_tokens"]
    assert pytest.approx(34e-6) == found["cost"].sum() == found.attrs["cost"]


def test_a_budget_is_for_all_requests_together(client, sim):
    """What does not fit any more is not sent, what came is kept; an input price is enough."""
    client.registry.register("acme", {"model": {"m": {"input": 2.0}}})
    texts = [f"text {'word ' * 20}{i}" for i in range(9)]
    with pytest.raises(errors.BudgetExceeded) as caught:
        embed(client, texts, "acme/m", batch=1, budget={"tokens": 150})
    told = [*caught.value.partial["status"]]
    assert 0 < told.count("ok") <= len(sim.settled()) < 9
    assert {"ok"} == set(embed(client, texts, "acme/m", batch=1, budget=1.0)["status"])


def test_every_request_is_a_row_of_the_ledger(sim):
    """What %llm log shows."""
    client = Client(registry.load({}))
    client.registry.simulator = sim.base_url
    embed(client, TEXTS, "sim/openai", batch=2)
    rows = client.ledger.rows()
    assert [True, True] == [row["ok"] for row in rows]
    assert 0 < sum(row["in_tokens"] for row in rows)
    client.close()


def test_the_nearest_rows(client):
    """Those that share words with the question, most alike first; rows without a vector are none of them."""
    embedded = embed(client, [*TEXTS, ""], "acme/m", dimensions=512)
    found = nearest(client, "Why is the sky so blue?", embedded, 2, None)
    assert [0, 3] == list(found.index)
    assert found["similarity"].is_monotonic_decreasing
    assert 4 == len(nearest(client, embedded["embedding"][1], embedded, 9, None))
    with pytest.raises(errors.ConfigError, match="3 numbers"):
        nearest(client, [1.0, 2.0, 3.0], embedded, 2, None)


def test_the_packed_text_is_the_matrix():
    """To the last bit; what is no such text is told."""
    whole = np.random.default_rng(0).normal(size=(3, 5)).astype(np.float32)
    np.testing.assert_array_equal(whole, unpack_matrix(pack_matrix(whole)))
    for text in ("", "1 2", "1 2 ???", "9 9 AAAA", "hello there you"):
        with pytest.raises(errors.ProtocolError):
            unpack_matrix(text)


def test_health_of_the_simulator(sim):
    """As other servers answer it."""
    import urllib.request

    with urllib.request.urlopen(f"{sim.url}/health") as reply:
        assert {"status": "ok"} == json.load(reply)


@pytest.mark.slow
def test_the_functions_of_the_module():
    """On the shared client, with the simulator's name."""
    embedded = nbllm.embed(TEXTS, model="sim/openai")
    assert 0 == nbllm.nearest("blue sky", embedded, k=1).index[0]
