"""cheap(a|b) and fast(a|b): ordered by prices and by times measured on this machine, with the reason."""

from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

import nbllm
from nbllm import Client
from nbllm.client import model_choice
from nbllm.client.client import Ledger
from nbllm.core.errors import ConfigError
from nbllm.core.events import Notice
from nbllm.routing.registry import load

KEYS = dict.fromkeys(("OPENAI_API_KEY", "ANTHROPIC_API_KEY", "GEMINI_API_KEY"), "sk-canary-0123456789")
NOW = 1_800_000_000.0
NAMES = ["openai/gpt-5.4", "claude/claude-haiku-4-5", "gemini/gemini-2.5-flash"]


@pytest.fixture
def client(tmp_path, monkeypatch):
    monkeypatch.setenv("NBLLM_HOME", str(tmp_path))
    made = Client(load(env=KEYS), ledger=Ledger("memory"))
    yield made
    made.close()


def row(route, ttft=100.0, tpot=1.0, ago=60.0, **more):
    """A call as the ledger has it."""
    at = datetime.fromtimestamp(NOW - ago, UTC).isoformat()
    about = {"provider": route.provider.name, "model": route.name, "ok": True, "t_wall": at}
    return {**about, "ttft_ms": ttft, "tpot_ms": tpot, "in_tokens": 500, "out_tokens": 100, **more}


@pytest.mark.parametrize(
    ("model", "found"),
    [
        ("cheap(a|b)", ("cheap", "a|b")),
        ("fast(a)", ("fast", "a")),
        ("fast", None),
        ("cheap/a", None),
        ("a|cheap(b|c)", None),
        ("fast(a|cheap(b|c))", None),
        ("slow(a|b)", None),
    ],
)
def test_how_it_is_written(model, found):
    assert found == model_choice.parse_choice(model)


def test_the_cheapest_is_asked_first_and_the_others_follow(client):
    """By the prices of the price data, for a call of usual length; the reason names both."""
    route = client.resolve(f"cheap({'|'.join(NAMES)})")
    there = [route, *route.fallbacks]
    costs = [model_choice.prices.facts(r.model, r.provider) for r in there]
    totals = [1000 * c.input + 300 * c.output for c in costs]
    assert totals == sorted(totals)
    assert {r.name for r in there} == set(NAMES)
    assert "cheap" == route.chosen_by
    assert all(name in route.why for name in (r.name for r in route.fallbacks))
    assert route.why.count("$") == 3


def test_what_has_no_price_comes_last(client):
    """It is not free."""
    route = client.resolve("cheap(openai/nobody-knows-it|claude/claude-haiku-4-5)")
    assert "claude/claude-haiku-4-5" == route.name
    assert "openai/nobody-knows-it has no known price" in route.why


@given(st.lists(st.one_of(st.none(), st.integers(1, 9)), min_size=3, max_size=3))
def test_the_fastest_comes_first_after_those_that_are_not_known(times):
    """Nobody is left out for ever because it was never asked."""
    client = Client(load(env=KEYS), ledger=None)
    routes = [client.resolve(n) for n in NAMES]
    rows = [row(r, ttft=t * 100.0, tpot=0.0) for r, t in zip(routes, times, strict=True) if t]
    found, why = model_choice.sort_by_time(routes, rows, NOW)
    expected = sorted(zip(times, NAMES, strict=True), key=lambda pair: pair[0] or 0)
    assert [t or 0 for t, _ in expected] == [dict(zip(NAMES, times, strict=True))[r.name] or 0 for r in found]
    assert ("was not used within a day" in why) is (None in times)


def test_old_failed_and_cached_calls_say_nothing(client):
    """Nor do another model's; the last fifty count."""
    a, b = (client.resolve(n) for n in NAMES[:2])
    rows = [
        row(a, ttft=1.0, ago=90_000.0),
        row(a, ttft=1.0, ok=False),
        row(a, ttft=None),
        *[row(a, ttft=9_000.0) for _ in range(60)],
        *[row(a, ttft=200.0) for _ in range(50)],
        row(b, ttft=100.0, tpot=20.0),
    ]
    found, why = model_choice.sort_by_time([b, a], rows, NOW)
    assert [a, b] == found
    assert "0.3 s" in why
    assert "2.1 s" in why


@pytest.mark.slow
def test_the_answer_says_who_was_chosen_and_why(client):
    """As auto does; after one call each, the faster one answers."""
    slow, quick = "sim/openai/slow@ttft=1.5,gap=0,tokens=3", "sim/openai/quick@ttft=0.01,gap=0,tokens=3"
    for _ in range(3):
        stream = client.stream("hello", f"fast({slow}|{quick})")
        stream.response()
        client.ledger.flush()
    (told,) = [e.text for _, e in stream.log if isinstance(e, Notice) and e.kind == "auto"]
    assert told.startswith("fast chose sim/openai/quick")
    assert slow in told
    assert {slow, quick} == {r["model"] for r in client.ledger.rows()}


def test_where_it_fails_the_other_is_asked(client):
    got = client.complete("hello", "cheap(sim/openai/bad@status=500|sim/anthropic/good@tokens=3)", retries=0)
    assert "good" in got.model


@pytest.mark.parametrize(
    "model",
    ["cheap()", "fast(a|a)", "fast(|)", "cheap(sim|)", "fast(cheap(sim))", "cheap(sim,sim/anthropic)"],
)
def test_what_names_no_models_is_refused(client, model):
    with pytest.raises(ConfigError):
        client.complete("hello", model)


def test_a_benchmark_and_vectors_take_one_model(client):
    with pytest.raises(ConfigError, match="one model"):
        nbllm.bench.run("fast(sim/openai|sim/anthropic)", "hello", blocks=1, progress=False)
    with pytest.raises(ConfigError, match="one model"):
        nbllm.embed(["a"], "cheap(openai/small)")
