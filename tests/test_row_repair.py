"""Rows whose answers do not fit the schema are asked for once more; the short form of a schema in Python."""

import json

import pandas as pd
import pytest

import nbllm
from nbllm import Client, simulator
from nbllm.client.client import Ledger
from nbllm.core.errors import ConfigError
from nbllm.core.schema import Shape

GOOD = json.dumps({"mood": "good", "stars": 5})
BAD = json.dumps({"mood": "good"})


@pytest.fixture
def client(tmp_path, monkeypatch):
    monkeypatch.setenv("NBLLM_HOME", str(tmp_path))
    made = Client(ledger=Ledger("memory"))
    yield made
    made.close()


def mapped(client, *steps, n=2, **options):
    """Rows whose model says these texts in turn."""
    turns = [s if isinstance(s, dict) else {"text": s} for s in steps]
    model = f"sim/openai/m@ttft=0,gap=0,{simulator.script(turns)}"
    df = pd.DataFrame({"text": [f"row {i}" for i in range(n)]})
    given = {"model": model, "schema": "mood, stars int", "client": client, "confirm": "yes"}
    return nbllm.map(df, "Rate {text}", **{**given, **options})


def calls(client):
    client.ledger.flush()
    return len(client.ledger.rows())


def test_an_answer_that_does_not_fit_is_asked_for_once_more(client):
    """The second one counts; both are paid for."""
    out = mapped(client, BAD, GOOD)
    assert ["ok", "ok"] == list(out.llm_status)
    assert [5, 5] == list(out.stars)
    assert 4 == calls(client)
    once = mapped(client, GOOD)
    assert 6 == calls(client)
    assert list(once.mood) == list(out.mood)


@pytest.mark.parametrize("bad", [BAD, "no JSON", '{"mood": 1, "stars": "x"}'])
def test_one_that_never_fits_fails_its_row(client, bad):
    """After one repair."""
    out = mapped(client, bad, bad, bad)
    assert ["failed", "failed"] == list(out.llm_status)
    assert all(e.startswith("Mismatch") for e in out.llm_error)
    assert 4 == calls(client)


def test_a_repair_that_fails_leaves_the_first_reason(client):
    """The row says what was wrong with its answer."""
    out = mapped(client, BAD, {"text": "x", "status": 400}, n=1, retries=0)
    assert "Mismatch" in out.llm_error[0]
    assert 2 == calls(client)


def test_a_cut_answer_is_not_asked_for_again(client):
    """The same limit would cut it again."""
    out = mapped(client, GOOD, n=1, max_tokens=2)
    assert "Truncated" in out.llm_error[0]
    assert 1 == calls(client)


def test_a_repair_keeps_to_the_budget(client):
    """Where there is room for the row alone, it fails with its reason."""
    out = mapped(client, BAD, GOOD, n=1, budget={"tokens": 45}, max_tokens=30)
    assert "Mismatch" in out.llm_error[0]
    assert 1 == calls(client)


def test_a_resumed_run_has_the_repaired_rows(client):
    out = mapped(client, BAD, GOOD, run="r")
    again = mapped(client, BAD, GOOD, run="r")
    assert list(out.stars) == list(again.stars)
    assert 4 == calls(client)


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("sentiment str, topics list", ["sentiment", "topics"]),
        ("name, age int?", ["name", "age"]),
        ("x : a thing", ["x"]),
    ],
)
def test_a_short_schema_in_python(client, text, names):
    """As in a cell: in map, in complete, in a Shape."""
    assert names == list(Shape.of(text).schema["properties"])
    got = client.complete("hello", "sim/openai@ttft=0,gap=0", schema=text)
    assert set(names) == set(json.loads(got.text))
    out = nbllm.map(
        pd.DataFrame({"t": ["a"]}),
        "{t}",
        model="sim/openai@ttft=0,gap=0",
        schema=text,
        client=client,
        into="i" if len(names) == 1 else None,
    )
    assert ["ok"] == list(out.llm_status)


@pytest.mark.parametrize("text", ["", "a b c d", "a, a", "a unknowntype"])
def test_a_short_schema_that_is_none_is_refused(client, text):
    with pytest.raises(ConfigError):
        nbllm.map(pd.DataFrame({"t": ["a"]}), "{t}", model="sim", schema=text, client=client)
    with pytest.raises(ConfigError):
        client.complete("hello", "sim", schema=text)
