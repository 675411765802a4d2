"""Embeddings measured like the rest: four formats, batch sizes, what they cannot have, runs that go on."""

import pytest

import nbllm
from nbllm.bench import store
from nbllm.bench.frames import leading_metric
from nbllm.client.client import Client
from nbllm.client.embeddings import embed
from nbllm.core import errors
from nbllm.store.ledger import Ledger

TEXTS = [f"Text {i} of a river and a town." for i in range(5)]


@pytest.fixture(autouse=True)
def runs_here(tmp_path, monkeypatch):
    monkeypatch.setenv("NBLLM_RUNS", str(tmp_path / "runs"))


def run(models, texts=TEXTS, **options):
    options = {
        "blocks": 2,
        "warmup": 0,
        "progress": False,
        "seed": 1,
        "client": Client(ledger=None),
    } | options
    return nbllm.bench.run(models, texts, **options)


@pytest.mark.slow
def test_every_format_is_measured_with_its_tokens_and_no_text():
    """The time to the last vector, tokens and texts a second; a vector is no answer, no token and no text."""
    models = [f"sim/{name}" for name in ("openai", "gemini", "ollama")]
    df = run(models, batch=3, dimensions=8)
    assert 6 == len(df)
    assert df["ok"].all()
    assert {3} == set(df["texts"])
    assert df[["in_tokens", "e2e_ms", "in_tok_s", "texts_s"]].gt(0).all(axis=None)
    assert {0} == set(df["out_tokens"]) == set(df["chars"])
    assert df[["ttft_ms", "itl_ms", "out_tok_s"]].isna().all(axis=None)
    assert (df["texts_s"] * df["e2e_ms"]).to_numpy() == pytest.approx(3000.0)
    assert not len(nbllm.bench.answers(df))
    assert "e2e_ms" == leading_metric(df)
    assert "texts_s" in nbllm.bench.leaderboard(df)
    assert "time to last token" in nbllm.bench.report(df)


@pytest.mark.slow
def test_batch_sizes_are_compared_within_their_blocks():
    """Each is a model of its own, whose name says it; a model may have one of its own."""
    df = run(["sim/openai", {"model": "sim/ollama", "batch": 2}], batch=[1, 4])
    assert {"sim/openai x1": 1, "sim/openai x4": 4, "sim/ollama": 2} == dict(
        zip(df["name"], df["texts"], strict=True)
    )
    told = nbllm.bench.compare(df)
    assert {"e2e_ms", "in_tok_s", "texts_s", "ok_share"} == set(told["metric"])
    assert {3} == set(told.groupby("metric").size())


@pytest.mark.slow
def test_vectors_and_answers_are_measured_in_one_run():
    """Each with its own figures."""
    df = run([{"model": "sim/openai", "batch": 2, "name": "vectors"}, "sim/openai@tokens=3"])
    assert [0, 3] == [
        df.loc[df["name"] == n, "out_tokens"].iloc[0] for n in ("vectors", "sim/openai@tokens=3")
    ]


@pytest.mark.slow
def test_a_run_of_embeddings_goes_on():
    """With as many texts in a request as before; a run is named by its id, its directory or its frame."""
    begun = run("sim/openai", batch=4, budget={"requests": 1})
    df = nbllm.bench.resume(begun["run_id"].iloc[0], budget={"requests": 9}, progress=False)
    assert [4, 4] == list(df["texts"]) == list(nbllm.bench.resume(begun, progress=False)["texts"])
    begun.attrs.clear()
    for nobody in (begun, 5, None):
        with pytest.raises(errors.ConfigError, match="There is no benchmark run"):
            nbllm.bench.resume(nobody)


@pytest.mark.parametrize(
    ("model", "options", "words"),
    [
        ("sim/anthropic", {}, "has no embeddings"),
        ("sim/openai", {"batch": 0}, "batch=0"),
        ("sim/gemini", {"batch": 101}, "1 to 100"),
        ("sim/openai", {"temperature": 0.5}, "'temperature'"),
        ("sim/openai", {"tokenizer": len}, "'tokenizer'"),
        ("sim/openai", {"purpose": "fun"}, "Not a purpose: 'fun'"),
        ("sim/openai", {"dimensions": 0}, "dimensions=0"),
        ("sim/openai", {"asserts": ["json"]}, "Embeddings cannot be"),
        ("sim/openai", {"score": len}, "Embeddings cannot be"),
        ("sim/openai", {"texts": [{"turns": ["a", "b"]}]}, "embeds texts"),
        ("sim/openai", {"texts": [{"prompt": "a", "system": "b"}]}, "embeds texts"),
        ("sim/openai", {"texts": [{"prompt": "a", "max_tokens": 3}]}, "embeds texts"),
    ],
)
def test_what_embeddings_cannot_have_is_said_before_anything_is_sent(model, options, words):
    """One line; no directory is left behind."""
    with pytest.raises(errors.ConfigError, match=words):
        run(model, **{"batch": 2, **options})
    assert [] == list(store.runs_directory().glob("*"))


def test_an_ordinary_call_has_the_same_columns():
    """%llm log shows no tokens and no characters that nobody wrote."""
    client = Client(ledger=Ledger("memory"))
    embed(client, TEXTS, "sim/openai")
    (row,) = client.ledger.rows()
    client.close()
    assert (5, 0, 0) == (row["texts"], row["out_tokens"], row["chars"])
    assert row["in_tok_s"] > 0
