"""Searching stored prompts and answers (%llm log -q)."""

import json
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nbllm import Client
from nbllm.core.errors import ConfigError
from nbllm.notebook.calls import log
from nbllm.routing import registry
from nbllm.store.history import ledger_file
from nbllm.store.search import search


def row(prompt, answer=""):
    return {"prompt": json.dumps([{"role": "user", "text": prompt}]), "answer": answer}


ROWS = [
    row("What is the capital of France?", "Paris."),
    row("Translate: good night", "Gute Nacht"),
    row("東京の天気は？", "晴れです"),
    row('def f(x): return x["foo-bar"] * (1 + 2)', "A naïve café"),
    {"name": "numbers alone"},
    row("Very good\U0001f44dso far: cafe\u0301 au lait", "Größe der Bäume"),
]


@pytest.mark.parametrize(
    ("words", "found"),
    [
        ("capital france", [0]),
        ("PARIS", [0]),
        ("capi", [0]),
        ("capital nacht", []),
        ("天気", [2]),
        ("天 気は", [2]),
        ("気天", []),
        ("cafe naive", [3]),
        ("foo-bar", [3]),
        ('x["foo-bar"]', [3]),
        ("role", []),  # ours, not the user's
        ("numbers", []),
        ("\U0001f44d", [5]),
        ("good\U0001f44d so", [5]),
        ("café lait", [5]),
        ("GRÖßE baum", [5]),
        ("NOT france", []),
        ("words:capital", []),
        ("* capital", [0]),
        ("***", []),
        ('"', []),
        ("\0", []),
        ("\ud800", []),
    ],
)
def test_all_words_are_found(words, found):
    assert found == [ROWS.index(row) for row, _ in search(ROWS, words.split(" "), 20)]


def test_the_words_are_shown_in_their_place():
    [(_, text)] = search([row("a " * 1000 + "needle " + "b " * 1000)], ["needle"], 20)
    assert "[needle]" in text
    assert len(text) < 200
    [(_, text)] = search(ROWS, ["天気"], 20)
    assert "[天気]" in text


def test_no_more_than_asked_for():
    assert 3 == len(search(ROWS[:1] * 50, ["france"], 3))


@given(st.lists(st.text(max_size=20), max_size=8))
def test_a_query_is_words_whatever_it_is_made_of(words):
    """Never an error of FTS5's language."""
    search(ROWS, words, 5)


@given(st.text(min_size=1, max_size=200))
def test_any_text_can_be_searched(text):
    assert search([row(f"needle {text}", text)], ["needle"], 5)


@pytest.fixture
def client(tmp_path, monkeypatch):
    ledger_file().close()
    monkeypatch.setenv("NBLLM_HOME", str(tmp_path / "home"))
    made = Client(registry.load({}))
    yield made
    made.close()
    ledger_file().close()


@pytest.mark.slow
def test_the_line(client):
    """Of all kernels' files; where nothing is stored, it says how to change that."""
    session = SimpleNamespace(client=client)
    client.complete("before", "sim/openai@text=first")
    with pytest.raises(ConfigError) as caught:
        log(session, "-q before")
    assert 'ledger = "texts"' in caught.value.hint
    client.ledger.mode = "texts"
    client.complete("Which needle? " + "x" * 5000, "sim/openai@text=second")
    ledger_file().close()  # as another kernel's
    df = log(session, "-q NEEDLE sec")
    assert [("sim/openai@text=second", "second")] == list(
        df[["model", "answer"]].itertuples(index=False, name=None)
    )
    assert len(df["prompt"][0]) < 1_200
    assert 0 == len(log(session, "today n=5 -q nothing"))


@pytest.mark.parametrize("rest", ["-q", "--query  ", "today -q", "eda -q x"])
def test_what_is_no_search(client, rest):
    with pytest.raises(ConfigError):
        log(SimpleNamespace(client=client), rest)
