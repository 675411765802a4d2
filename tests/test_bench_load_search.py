"""The highest load within limits: the search by itself, and of a simulated server that slows down."""

import pytest

import nbllm
from nbllm.bench.load_search import _search_load, _whole_load
from nbllm.core import errors
from nbllm.store import columns

NEAR = pytest.approx


@pytest.fixture(autouse=True)
def runs_here(tmp_path, monkeypatch):
    """Runs without a directory are kept in the test's own."""
    monkeypatch.setenv("NBLLM_RUNS", str(tmp_path / "runs"))


@pytest.mark.parametrize("shaped", [float, _whole_load])
@pytest.mark.parametrize("truth", [0.5, 1.0, 3.3, 17.0, 63.9, 64.0, 1000.0])
def test_the_search_ends_at_the_highest_load_that_holds(truth, shaped):
    """Within 10 %, or by whole numbers to the next; in few steps, and never above the end."""
    asked = []

    def holds(load):
        asked.append(load)
        return load <= truth

    _search_load(holds, shaped, (1.0, 64.0), 0.1)
    assert len(asked) == len(set(asked)) <= 13
    assert max(asked) <= 64.0
    best = max((a for a in asked if a <= truth), default=None)
    if truth < 1:
        assert best is None
    elif truth >= 64:
        assert best == 64.0
    else:
        wrong = min(a for a in asked if a > truth)
        assert wrong <= best * 1.1 or (shaped is _whole_load and wrong - best <= 1.0)


def test_a_search_that_is_over_asks_no_more():
    """A budget, or the user."""
    asked = []
    _search_load(lambda load: (asked.append(load), None)[1], float, (1.0, 64.0), 0.1)
    assert [1.0] == asked


@pytest.mark.slow
def test_a_load_is_found_with_its_rows():
    """A limit on tokens, so that no clock decides: everything holds, or nothing."""
    model = "sim/openai@ttft=0.001,gap=0.001,tokens=3"
    how = {"by": "concurrency", "low": 1, "high": 2, "at_least": 0.8, "options": {"per_turn": 30}}
    found = nbllm.bench.find_load(model, "Go.", out_tokens=5, **how)
    assert ([1.0, 2.0], [True, True]) == (list(found["load"]), list(found["holds"]))
    assert [False, True] == list(found["highest"])
    assert found["sure"].all()
    assert 1 == found["knee"].sum()
    assert len(found.attrs["runs"]) == len(set(found.attrs["runs"])) >= 2
    none = nbllm.bench.find_load(model, "Go.", out_tokens=2, **how)
    assert ([1.0], [False]) == (list(none["load"]), list(none["highest"]))


@pytest.mark.slow
def test_a_budget_holds_for_the_whole_search():
    """What is over ends the search with what there is."""
    found = nbllm.bench.find_load(
        "sim/openai@ttft=0.001,gap=0.001,tokens=3",
        "Go.",
        by="concurrency",
        low=1,
        high=64,
        out_tokens=5,
        budget={"requests": 30},
        options={"per_turn": 20},
    )
    assert "budget" in found.attrs["ended"]
    assert found["n"].sum() <= 30


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({}, "goodput needs a limit"),
        ({"by": "users", "ttft_ms": 5}, "by .rate"),
        ({"low": 5, "high": 2, "ttft_ms": 5}, "up to high"),
        ({"ttft": 5}, "ttft"),
        ({"low": "1", "ttft_ms": 5}, "up to high"),
        ({"within": None, "ttft_ms": 5}, "up to high"),
        ({"level": 2, "ttft_ms": 5}, "level"),
        ({"options": [1], "ttft_ms": 5}, "mapping"),
        ({"options": 5, "ttft_ms": 5}, "mapping"),
        ({"options": {"blocks": 3}, "ttft_ms": 5}, "own"),
    ],
)
def test_what_cannot_be_searched_says_so(options, words):
    """No limit, an unknown kind of load, ends the wrong way round, no metric."""
    with pytest.raises(errors.ConfigError, match=words):
        nbllm.bench.find_load("sim/openai@ttft=0.001,tokens=1", "Go.", **options)


def test_the_caches_share_of_a_prompt_is_a_metric():
    """Unknown where the provider does not tell."""
    row = {"run_id": "r", "name": "a", "ok": True, "attempt": 1, "phase": "measure"}
    known = [(100, 50), (100, 70), (0, 0), (10, None)]
    rows = [row | {"request_id": str(i), "in_tokens": n, "in_cached": c} for i, (n, c) in enumerate(known)]
    told = nbllm.bench.summary(columns.frame(rows), metrics="cached_share", stats="mean").iloc[0]
    assert (2, NEAR(0.6)) == (told["n"], told["value"])
