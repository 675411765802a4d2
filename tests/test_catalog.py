"""The overview of providers, their health checks, their model lists (cached for a day), and token counts,
counted or estimated."""

import os
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from nbllm import Client, simulator
from nbllm.client import catalog, tokens
from nbllm.client.catalog import health, list_models, provider_states
from nbllm.client.tokens import estimate_tokens
from nbllm.core import errors
from nbllm.routing import prices, registry

CANARY = "sk-canary-0123456789abcdef"
LIST = (
    b'{"data": [{"id": "big", "context_length": 5}, {"id": "gpt-5.4-mini"}, {"id": "own"}, {"id": 7}, '
    b'{}, "x"]}'
)


@pytest.fixture(scope="module")
def sim():
    with simulator.serve(ttft=0.0, gap=0.0) as server:
        yield server


class Server(ThreadingHTTPServer):
    """A list of models: `public` without a key too; it remembers the keys that came."""

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.public, self.status, self.seen = False, 200, []
        threading.Thread(target=self.serve_forever, args=(0.01,), daemon=True).start()

    @property
    def url(self):
        return f"http://127.0.0.1:{self.server_port}/v1"


class Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        key = self.headers.get("Authorization", "")
        self.server.seen.append((self.path, key))
        status = self.server.status if key == f"Bearer {CANARY}" or self.server.public else 401
        body = LIST if status == 200 else b'{"error": {"message": "no: %s"}}' % key.encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *args):
        pass


@pytest.fixture
def server():
    with Server() as running:
        yield running
        running.shutdown()


def made(url, **more):
    r = registry.load({"ACME_API_KEY": CANARY, "OLLAMA_HOST": "127.0.0.1:9"})
    r.register(
        "acme",
        {
            "base_url": url,
            "key_env": "ACME_API_KEY",
            "price": "openai",
            "model": {"own": {"context": 9, "input": 1.5}},
            **more,
        },
    )
    return Client(r)


def test_providers_at_a_glance(sim):
    """Ready or why not, how it is reached, and where its key was found; nothing is asked of those without a
    key."""
    client = made(sim.base_url("openai_chat"))
    rows = {s.name: s for s in provider_states(client)}
    acme = rows["acme"]
    assert ("api", "ACME_API_KEY", True, True, "ready", "register_provider") == (
        acme.mode,
        acme.key,
        acme.answers,
        acme.ready,
        acme.note,
        acme.source,
    )
    assert ("local", None, False, False) == (
        rows["ollama"].mode,
        rows["ollama"].key,
        rows["ollama"].answers,
        rows["ollama"].ready,
    )
    assert "127.0.0.1:9" in rows["ollama"].note
    assert (None, None, False) == (rows["groq"].key, rows["groq"].answers, rows["groq"].ready)
    assert "GROQ_API_KEY (https://" in rows["groq"].note
    assert "AZURE_OPENAI_ENDPOINT" in rows["azure"].note
    assert "2026-07-30" in rows["github"].note
    assert CANARY not in repr(rows)
    client.close()


def test_health_tells_reachable_authorised_and_fast(server):
    """A key that opens the list; one that does not; a public list tells nothing of the key; nobody there."""
    client = made(server.url)
    found = health(client, "acme")
    assert ("acme", "api", True, True) == (found.name, found.mode, found.reachable, found.authorised)
    assert found.seconds > 0
    assert [("/v1/models", f"Bearer {CANARY}"), ("/v1/models", "")] == server.seen
    server.public = True
    assert health(client, "acme").authorised is None
    server.status = 503
    assert (True, None) == (health(client, "acme").reachable, health(client, "acme").authorised)
    server.status, server.public = 401, False
    found = health(client, "acme")
    assert (True, False) == (found.reachable, found.authorised)
    assert CANARY not in repr(found)
    client.registry.register("acme", {"base_url": "http://127.0.0.1:9/v1", "key_env": "ACME_API_KEY"})
    found = health(client, "acme")
    assert (False, None, None) == (found.reachable, found.authorised, found.seconds)
    with pytest.raises(errors.ConfigError, match="Did you mean"):
        health(client, "acmee")
    with pytest.raises(errors.ConfigError, match="2026-07-30"):
        health(client, "github")
    client.close()


def test_models_with_what_is_known_of_them(server, tmp_path):
    """The list's context, the person's own facts, the price data's; what nobody knows is None."""
    client = made(server.url)
    models = {m.id: m for m in list_models(client, "acme/")}
    assert ["7", "big", "gpt-5.4-mini", "own"] == sorted(models)
    assert (5, None) == (models["big"].context, models["big"].input_price)
    data = prices.facts("gpt-5.4-mini", client.registry.rows["openai"])
    assert (data.context, data.input, data.output) == (
        models["gpt-5.4-mini"].context,
        models["gpt-5.4-mini"].input_price,
        models["gpt-5.4-mini"].output_price,
    )
    assert (9, 1.5, None) == (models["own"].context, models["own"].input_price, models["own"].output_price)
    assert ["acme/big"] == [m.name for m in list_models(client, "acme/b")]
    client.close()


def test_a_list_is_kept_for_a_day_and_holds_no_key(server, tmp_path):
    """One question a day; `fresh`, age and damage ask again; this machine's servers are always asked."""
    client, cache = made(server.url), tmp_path / "new" / "cache"
    first = list_models(client, "acme/", cache=cache)
    assert first == list_models(client, "acme/", cache=cache)
    assert 1 == len(server.seen)
    (path,) = cache.iterdir()
    assert CANARY not in path.read_text("utf-8") + path.name
    list_models(client, "acme/", cache=cache, fresh=True)
    assert 2 == len(server.seen)
    old = time.time() - catalog.LIST_AGE - 1
    os.utime(path, (old, old))
    list_models(client, "acme/", cache=cache)
    assert 3 == len(server.seen)
    path.write_text("[{]", "utf-8")
    assert first == list_models(client, "acme/", cache=cache)
    assert 4 == len(server.seen)
    list_models(client, "acme/")
    list_models(client, "acme/")
    assert 6 == len(server.seen)
    client.close()


def test_a_failed_list_is_an_error_for_one_and_nothing_for_all(server):
    """Asked by name it says what happened; among all it is left out. A provider without a list says so."""
    client = made(server.url)
    server.status = 500
    with pytest.raises(errors.ServerError):
        list_models(client, "acme/")
    assert [] == [m for m in list_models(client) if m.provider == "acme"]
    with pytest.raises(errors.ConfigError, match="no list of models"):
        list_models(client, "perplexity/")
    with pytest.raises(errors.ConfigError, match="Did you mean"):
        list_models(client, "acmee/")
    client.close()


@pytest.mark.parametrize("model", ["claude/m", "gemini/m"])
def test_tokens_are_counted_by_the_provider_where_it_counts(sim, model):
    """Anthropic's and Gemini's own endpoints, exact."""
    env = {
        "ANTHROPIC_BASE_URL": sim.base_url("anthropic"),
        "GEMINI_BASE_URL": sim.base_url("gemini"),
        "ANTHROPIC_API_KEY": CANARY,
        "GEMINI_API_KEY": CANARY,
    }
    client = Client(registry.load(env))
    few, many = (
        estimate_tokens(client, "one two", model),
        estimate_tokens(client, "one two three " * 50, model),
    )
    assert 0 < few.tokens < many.tokens
    assert 0.0 == few.bound
    assert few.method.startswith("counted by ")
    assert tokens.TokenEstimate(0, "length in bytes / 4", 0.5) == estimate_tokens(client, "", model)
    client.close()


@pytest.mark.parametrize(
    ("text", "low", "high"),
    [
        ("The quick brown fox jumps over the lazy dog. " * 20, 180, 240),
        ("for i in range(10):\n    print(i ** 2)\n" * 10, 70, 200),
        ("界" * 100, 50, 150),
        ("x", 1, 1),
    ],
)
def test_without_any_counter_the_length_is_an_estimate_with_its_bound(text, low, high):
    """Bytes in UTF-8 over four; no provider is asked without a key."""
    client = Client(registry.load({}))
    for model in ("claude/m", "groq/m"):
        found = estimate_tokens(client, text, model)
        assert low <= found.tokens <= high
        assert ("length in bytes / 4", 0.5) == found[1:]


def test_a_provider_that_does_not_answer_leaves_the_estimate(sim):
    """A count must not fail for the network's sake."""
    client = Client(registry.load({"ANTHROPIC_BASE_URL": "http://127.0.0.1:9", "ANTHROPIC_API_KEY": CANARY}))
    assert 0.5 == estimate_tokens(client, "hello", "claude/m").bound
    client.close()


def test_tiktoken_is_used_where_its_data_is_here(tmp_path, monkeypatch):
    """The package and its cached file; exact for OpenAI's models, within a bound for others; without the file
    it is not asked."""
    (tmp_path / "tiktoken.py").write_text(
        "class E:\n    name = 'o200k_base'\n    def encode(self, text, disallowed_special):\n        "
        "return text.split()\n"
        "def get_encoding(name):\n    return E()\ndef encoding_name_for_model(model):\n    return "
        "'o200k_base'\n",
        "utf-8",
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setenv("TIKTOKEN_CACHE_DIR", str(tmp_path))
    client = Client(registry.load({}))
    assert 0.5 == estimate_tokens(client, "a b c", "openai/m").bound
    (tmp_path / "fb374d419588a4632f3f557e76b4b70aebbca790").write_text(
        "", "utf-8"
    )  # what tiktoken calls o200k_base's data
    assert (3, "tiktoken o200k_base", 0.0) == estimate_tokens(client, "a b c", "openai/m")
    assert (3, "tiktoken o200k_base", 0.3) == estimate_tokens(client, "a b c", "groq/llama")
    assert 0.0 == estimate_tokens(client, "a b c", "groq/openai/gpt-oss-20b").bound


@pytest.mark.slow
def test_a_command_s_health_is_whether_it_runs(tmp_path, monkeypatch):
    """It tells its version; one that is not installed says how to get it. Its models are its own business."""
    there = tmp_path / "claude"
    there.write_text("#!/bin/sh\necho 9.9.9 of something\n")
    there.chmod(0o755)
    client = Client(registry.load({}), ledger=None)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    found = health(client, "cli/claude")
    assert ("headless", True, None, "9.9.9 of something") == (
        found.mode,
        found.reachable,
        found.authorised,
        found.note,
    )
    state = next(s for s in provider_states(client, connect=False) if s.name == "cli/claude")
    assert state.ready
    assert state.note.startswith(str(there))
    monkeypatch.setenv("PATH", "/nowhere")
    assert (False, True) == ((found := health(client, "cli/claude")).reachable, "not installed" in found.note)
    with pytest.raises(errors.ConfigError, match="no list of models"):
        list_models(client, "cli/claude/")
    client.close()


@pytest.mark.slow
def test_an_agent_of_the_command_line_answers_a_ping():
    """It has no word for max_tokens."""
    rows = registry.load({})
    rows.register("cli/it", {"command": ["sh", "-c", "cat >/dev/null; echo pong"], "dialect": "cli_text"})
    client = Client(rows, ledger=None)
    found = catalog.ping(client, "cli/it/m")
    client.close()
    assert (True, "pong") == (found["ok"], found.get("text")), found
