"""Every provider of providers.toml: what it encodes, what it rejects, what its quirks do; and a new one in
four lines."""

import json
import re
from dataclasses import fields, replace
from pathlib import Path

import pytest

from nbllm import Client, Image, Message, Text, Tool, ToolCall, ToolResult, simulator
from nbllm.core import errors
from nbllm.core.calls import Quirks, Secret
from nbllm.core.events import Usage
from nbllm.core.messages import Request
from nbllm.routing import prices, registry
from nbllm.routing.config import Places
from nbllm.routing.dialects import DIALECTS

CANARY = "sk-canary-0123456789abcdef"
ENV = {
    "AZURE_OPENAI_ENDPOINT": "https://acme.openai.azure.com",
    "AZURE_AI_ENDPOINT": "https://acme.services.ai.azure.com",
}
ROWS = registry.load(ENV).rows
REFUSED = {"github", "bedrock", "vertex"}
ASKABLE = [
    name
    for name in ROWS
    if name not in REFUSED and not ROWS[name].command and name != "opencode" and not ROWS[name].folders
]  # agents: tests/test_agent_sessions.py; models in folders: tests/test_local_model.py
TURNS = (
    Message("system", "Be brief."),
    Message("user", [Text("What is this?"), Image(b"PIXELS")]),
    Message("assistant", [Text("I look."), ToolCall("c1", "look", {"at": "it"}, '{"at": "it"}')]),
    Message("tool", [ToolResult("c1", "a cat", name="look")]),
)
SCHEMA = {
    "type": "object",
    "properties": {"beast": {"type": "string"}},
    "required": ["beast"],
    "additionalProperties": False,
}
PARTS = {
    "tools": (
        {"tools": (Tool("look", "Looks.", {"type": "object", "properties": {"where": {"type": "string"}}}),)},
        ('"look"', '"where"', "Looks."),
    ),
    "schema": ({"schema": SCHEMA}, ('"beast"',)),
    "reasoning": ({"reasoning": "high"}, ("high", "thinking", "think")),
    "limits": ({"max_tokens": 4321, "temperature": 0.25, "top_p": 0.75}, ("4321", "0.25", "0.75")),
    "seed": ({"seed": 98765}, ("98765",)),
    "stop": ({"stop": ("HALT",)}, ('"HALT"',)),
}
NEEDS_ALL = {"tools", "schema", "limits", "seed", "stop"}


def encoded(name, **options):
    r = registry.load(ENV)
    route = r.resolve(f"{name}/m")
    call = DIALECTS[route.provider.dialect].encode(
        Request(route.model, TURNS, **options), route.provider, Secret(CANARY)
    )
    return call, json.dumps(dict(call.body), ensure_ascii=False)


def attempt(name, **options):
    """(what is sent, None), or ("", the error that says it cannot be)."""
    try:
        return encoded(name, **options)[1], None
    except errors.ConfigError as error:
        return "", error


@pytest.mark.parametrize("name", ASKABLE)
def test_a_full_request_is_encoded_without_loss_or_refused_in_words(name):
    """Tools, picture, schema, reasoning and the rest: each is in what is sent, or the error says that this
    provider cannot."""
    call, text = encoded(name)
    for word in ("Be brief.", "What is this?", "UElYRUxT", "look", "a cat"):  # UElYRUxT: the picture's bytes
        assert word in text
    assert call.url.startswith(("https://", "http://127.0.0.1"))
    assert "${" not in call.url
    assert "{model}" not in call.url
    assert CANARY not in call.url + text
    for part, (options, words) in PARTS.items():
        text, error = attempt(name, **options)
        if error is not None:
            assert any(said in str(error) for said in (part, *options)), (part, error)
            assert error.hint
        else:
            assert (all if part in NEEDS_ALL else any)(word in text for word in words), (part, text)


@pytest.mark.parametrize("name", ASKABLE)
def test_all_at_once_is_encoded_or_refused(name):
    """Tools and a schema together too, which Cohere does not take."""
    options = {k: v for part in ("tools", "schema", "reasoning") for k, v in PARTS[part][0].items()}
    text, error = attempt(name, **options)
    if error is not None:
        assert "schema" in str(error) or "tools" in str(error)
    else:
        assert '"beast"' in text
        assert '"where"' in text


@pytest.mark.parametrize("name", sorted(REFUSED))
def test_what_cannot_be_asked_says_why_and_what_to_do_instead(name):
    """GitHub's date of retirement; the gateway for Bedrock and Vertex. With an address of one's own it is
    another matter."""
    r = registry.load(ENV)
    words = {
        "github": "2026-07-30.*openrouter/",
        "bedrock": "not supported yet.*LiteLLM",
        "vertex": "not supported yet.*LiteLLM.*gemini/",
    }[name]
    with pytest.raises(errors.ConfigError, match=words):
        r.resolve(f"{name}/m")
    with pytest.raises(errors.ConfigError, match=words):
        Client(r).stream("hello", name)
    assert "http://127.0.0.1:9/v1" == r.resolve(f"{name}/m", "http://127.0.0.1:9/v1").provider.base_url


def test_azure_s_paths_versions_and_key_header():
    """The deployment in the path, the version in the query, the key in a header of Azure's own."""
    call, _ = encoded("azure", max_tokens=5)
    assert (
        "https://acme.openai.azure.com/openai/deployments/m/chat/completions?api-version=2024-10-21"
        == call.url
    )
    assert {"api-key": CANARY} == call.headers
    assert 5 == call.body["max_completion_tokens"]
    assert "https://acme.openai.azure.com/openai/v1/responses" == encoded("azure_responses")[0].url
    assert (
        "https://acme.services.ai.azure.com/models/chat/completions?api-version=2024-05-01-preview"
        == encoded("azure_foundry")[0].url
    )
    with pytest.raises(errors.ConfigError, match="AZURE_OPENAI_ENDPOINT"):
        registry.load({}).resolve("azure/m")


@pytest.mark.parametrize(
    ("word", "sent"),
    [
        ("none", {"thinking": {"type": "disabled"}}),
        ("high", {"thinking": {"type": "enabled"}, "reasoning_effort": "high"}),
        (None, {}),
    ],
)
def test_thinking_is_switched_by_an_object_of_its_own(word, sent):
    """DeepSeek, Moonshot, Z.ai."""
    for name in ("deepseek", "moonshot", "zhipu"):
        body = encoded(name, reasoning=word)[0].body
        assert sent == {k: v for k, v in body.items() if k in ("thinking", "reasoning_effort")}


def test_a_quirk_is_used_by_two_rows_at_least_or_by_none():
    """One that a single row uses is a dialect, or is dropped."""
    plain = Quirks()
    users = {
        f.name: [r.name for r in ROWS.values() if getattr(r.quirks, f.name) != getattr(plain, f.name)]
        for f in fields(Quirks)
    }
    assert {} == {name: rows for name, rows in users.items() if len(rows) == 1}
    for name in ("key_header", "query"):
        assert 2 <= sum(bool(getattr(r, name)) for r in ROWS.values())


def test_rows_are_complete_and_do_not_clash():
    """Names, prefixes and variables; a default that the price data knows; an address over TLS unless it is
    this machine's."""
    words = [w for r in ROWS.values() for w in (r.name, *r.prefixes)]
    assert len(words) == len(set(words))
    for row in ROWS.values():
        assert row.label
        assert row.base_url.startswith(
            "cli://" if row.command else ("https://", "${AZURE") if not row.local else "http://127.0.0.1"
        )
        assert row.unavailable_reason or row.local or (row.key_env and row.key_url)
        assert set(row.verified) <= {"stream", "server", "cli"}
        if row.price and row.default_model and row.name != "openrouter":  # whose default chooses among models
            assert prices.facts(row.default_model, row).input is not None, row.name


@pytest.mark.parametrize(
    ("name", "provider"),
    [
        ("grok-4", "xai"),
        ("deepseek-chat", "deepseek"),
        ("mistral-large-latest", "mistral"),
        ("sonar-pro", "perplexity"),
        ("kimi-k3", "moonshot"),
        ("glm-4.7", "zhipu"),
        ("command-r-08-2024", "cohere"),
        ("accounts/fireworks/models/x", "fireworks"),
        ("kimi/x", "moonshot"),
        ("z.ai/x", "zhipu"),
        ("hf/meta-llama/x", "huggingface"),
        ("azure-ai/x", "azure_foundry"),
    ],
)
def test_names_of_the_newer_rows(name, provider):
    """Bare names and prefixes."""
    assert provider == registry.load(ENV).resolve(name).provider.name


@pytest.mark.parametrize("name", ["gpt-oss:20b", "deepseek-r1:7b", "command-r:35b", "mistral-small-x:24b"])
def test_a_tag_means_a_local_server(name):
    """name:tag is Ollama's way, whatever the name looks like."""
    with pytest.raises(errors.ConfigError, match=f"ollama/{name}"):
        registry.load(ENV).resolve(name)


def test_the_readme_s_table_has_every_row():
    """One line a provider, with its key and how it was verified."""
    text = registry.markdown_table(registry.load({}))
    assert len(ROWS) + 2 == len(text.splitlines())
    assert "| Groq | `groq/` | `GROQ_API_KEY` | openai chat | recorded answers |" in text
    assert "| llama.cpp |" in text
    assert "2026-07-30" in text


def test_the_page_says_what_the_tests_really_do():
    """docs/providers.md has this very table; every test against something real is named there, and each that
    is named exists; rows that are said to be checked by it are asked in it."""
    root = Path(__file__).resolve().parents[1]
    page = (root / "docs" / "providers.md").read_text("utf-8")
    assert page.endswith(f"\n\n{registry.markdown_table(registry.load({}))}\n")
    named = set(re.findall(r"`(tests/\S+?\.py)`", page))
    assert {p.relative_to(root).as_posix() for p in (root / "tests/real").glob("test_*.py")} <= named
    assert all((root / name).is_file() for name in named)
    asked = "".join((root / n).read_text("utf-8") for n in named if n.startswith("tests/real/"))
    for row in ROWS.values():
        if {"server", "cli"} & {*row.verified}:
            word = row.name.partition("/")[2] or row.name
            assert word in asked, row.name


# --- over the wire ------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def sim():
    with simulator.serve(ttft=0.0, gap=0.0) as server:
        yield server


def test_four_lines_of_toml_make_a_provider_that_answers(sim, tmp_path):
    """No Python: a file, and the new name is asked over HTTP; its key is in the header that was sent and
    nowhere else."""
    path = tmp_path / "providers.toml"
    path.write_text(
        f'[provider.acme]\ndialect = "openai_chat"\nbase_url = "{sim.base_url("openai_chat")}"\nkey_env = '
        f'["ACME_API_KEY"]\n',
        "utf-8",
    )
    client = Client(registry.load({"ACME_API_KEY": CANARY, "NBLLM_CONFIG": str(path)}))
    response = client.complete("Say hello.", "acme/m@auth=1")
    assert response.text
    assert "acme" == response.provider
    wrong = client.stream("hello", "acme/m@status=401")
    with pytest.raises(errors.AuthenticationError) as caught:
        wrong.response()
    seen = repr(
        (
            client,
            response,
            response.raw,
            response.request,
            wrong,
            caught.value,
            str(caught.value),
            client.registry,
            sim.records,
        )
    )
    assert CANARY not in seen
    with pytest.raises(errors.ConfigError, match="ACME_API_KEY is not set"):  # blanks are no key
        Client(registry.load({"NBLLM_CONFIG": str(path)})).complete("hello", "acme/m@auth=1", api_key=" ")
    client.close()


@pytest.mark.parametrize("dialect", ["openai_chat", "openai_responses", "anthropic", "gemini", "ollama"])
def test_a_new_row_in_each_dialect_and_register_provider(sim, dialect):
    """The same four entries, given in Python."""
    r = registry.load({"ACME_API_KEY": CANARY})
    r.register("acme", {"base_url": sim.base_url(dialect), "key_env": "ACME_API_KEY", "dialect": dialect})
    assert Client(r).complete("hello", "acme/m").text
    with pytest.raises(errors.ConfigError, match="base_url"):
        r.register("other", {"key_env": "X"})


def test_every_row_can_be_simulated(sim):
    """Names lead to the simulator, whatever the row wants elsewhere."""
    r = registry.load({"NBLLM_SIMULATE": "1"})
    r.simulator = sim.base_url
    client = Client(r)
    for name in ROWS:
        assert client.complete("hello", f"{name}/m").simulated


# --- prices -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("raw", "dollars"),
    [
        ({"cost": 0.0005}, 0.0005),
        ({"cost": 0}, 0.0),
        ({"cost": 0, "is_byok": True, "cost_details": {"upstream_inference_cost": 0.25}}, 0.25),
        ({"cost": {"total_cost": 0.005}}, 0.005),
        ({"cost_in_usd_ticks": 1_860_000}, 0.000186),
        ({"cost_in_usd_ticks": 0}, None),
        ({"cost": True}, None),
        ({}, None),
    ],
)
def test_what_the_provider_says_it_charged(raw, dollars):
    """OpenRouter, Perplexity, xAI; a reseller's empty ticks are no price."""
    assert (
        pytest.approx(dollars) == prices.cost(Usage(1, 1, raw=raw), "nobody-s-model", "")
        if dollars is not None
        else prices.cost(Usage(1, 1, raw=raw), "nobody-s-model", "") is None
    )


def test_the_person_s_own_prices_come_first():
    """In dollars a million tokens, cached input apart; unknown stays None."""
    r = registry.load({})
    row = r.register(
        "acme",
        {
            "base_url": "https://h",
            "model": {
                "big": {"context": 1000, "input": 2.0, "output": 10, "cache_read": 0.5},
                "odd": {"context": 5},
            },
        },
    )
    assert pytest.approx((60 * 2 + 40 * 0.5 + 10 * 10) / 1e6) == prices.cost(
        Usage(100, 10, cache_read_tokens=40), "big", row
    )
    assert prices.cost(Usage(100, 10), "odd", row) is None
    assert prices.cost(Usage(None, 10), "big", row) is None
    assert (1000, 2.0, None) == (
        prices.facts("big", row).context,
        prices.facts("big", row).input,
        prices.facts("big", row).cache_write,
    )
    openai = replace(r.rows["openai"], facts=row.facts)
    assert (
        prices.cost(Usage(1_000_000, 0), "gpt-5.4-mini", openai)
        == prices.cost(Usage(1_000_000, 0), "gpt-5.4-mini", "openai")
        == prices.facts("gpt-5.4-mini", openai).input
    )


def test_places_of_an_env_of_its_own_are_none_of_this_machine():
    """So that a registry for a test reads nothing that lies about."""
    assert Places() == Places.of({})
