"""Benchmarks of real servers: llama.cpp directly and behind a gateway, aimock in several formats; and the
notebook on them."""

import json
import os

import pytest

import nbllm

from .conftest import KEY, ROOT


@pytest.fixture(autouse=True)
def runs_here(tmp_path, monkeypatch):
    """Runs are kept in the test's own folder."""
    monkeypatch.setenv("NBLLM_RUNS", str(tmp_path / "runs"))


def tiny(url, **more):
    return {
        "model": "openai/tiny",
        "base_url": url + "/v1",
        "api_key": KEY,
        "name": "tiny",
        "max_tokens": 40,
        "temperature": 0,
        **more,
    }


def test_a_real_server_is_measured_with_its_own_times_beside_ours(llama):
    """llama.cpp reports its prefill and decode times; usage counts the tokens; the kernel stamps arrivals."""
    df = nbllm.bench.run(tiny(llama), "hello", blocks=8, warmup=2, progress=False)
    df = df[df["phase"] == "measure"]
    assert df["ok"].all()
    assert {"usage"} <= set(df["tok_source"])
    # A server that a busy machine keeps from ending its body for half a second loses its connection.
    assert df["conn_reused"].mean() > 0.5
    assert {"llamacpp"} == set(df["srv_src"].dropna())
    assert (df["srv_decode_ms"] > 0).all()
    assert (df["srv_prefill_ms"] <= df["ttft_ms"]).all(), (
        "the server's part of the time to first token is not larger than the whole"
    )


def test_a_cold_start_of_a_real_server(llama):
    """The ladder's rungs are there, each with all its requests answered, and a fresh process costs the most.
    (How many of them this machine disturbed is its own affair: those are in the frame, and not in the table's
    n.)"""
    table = nbllm.bench.coldstart(tiny(llama), "hello", repeats=6, warmup=1, progress=False)
    rows = nbllm.bench.load(table.attrs["nbllm"]["run_id"])
    rows, table = rows[rows["phase"] == "measure"], table.set_index("start_kind")
    assert {"cold_process", "cold_client", "cold_conn", "warm"} <= set(table.index)
    assert table["ttft_ms"].idxmax() == "cold_process"
    assert rows["ok"].all()
    assert {6} == set(rows.groupby("start_kind", observed=True).size())


def test_what_a_gateway_adds(llama, litellm):
    """LiteLLM in front of the same server is slower to the first token, by a difference with an interval."""
    through = {
        "model": "openai/llama",
        "base_url": litellm + "/v1",
        "api_key": KEY,
        "name": "LiteLLM",
        "max_tokens": 40,
        "temperature": 0,
    }
    for _ in range(3):  # on a busy machine, blocks that this client disturbed are left out: too few may stay
        table = nbllm.bench.gateway(
            tiny(llama, name="direct"), through, "hello", blocks=40, warmup=3, progress=False
        ).set_index("metric")
        assert ("LiteLLM", "direct") == tuple(table.loc["ttft_ms", ["a", "b"]])
        assert table.loc["ttft_ms", "diff"] > 0
        assert table.loc["ttft_ms", "verdict"] in ("slower", "undecided")
        if table.loc["ttft_ms", "verdict"] == "slower":
            break
    assert "slower" == table.loc["ttft_ms", "verdict"]


def test_a_sweep_of_a_real_server(llama):
    """One and four at a time: what waits in the server's queue shows in the time to first token."""
    df = nbllm.bench.run(tiny(llama), "hello", blocks=2, concurrency=[1, 4], warmup=2, progress=False)
    assert df["ok"].all()
    assert nbllm.bench.plot(df)._repr_png_().startswith(b"\x89PNG")


def test_the_notebook_runs_on_real_servers(llama, litellm, tmp_path):
    """The article, cell by cell, with real models in the place of the simulated ones."""
    import nbformat
    from nbclient import NotebookClient

    models = [
        tiny(llama),
        {
            "model": "openai/llama",
            "base_url": litellm + "/v1",
            "api_key": KEY,
            "name": "gateway",
            "max_tokens": 40,
            "temperature": 0,
        },
    ]
    env = {
        **os.environ,
        "NBLLM_NOTEBOOK_MODELS": json.dumps(models),
        "NBLLM_RUNS": str(tmp_path / "runs"),
        "PYTHONPATH": str(ROOT),
    }
    notebook = nbformat.read(ROOT / "notebooks" / "benchmark.ipynb", as_version=4)
    NotebookClient(
        notebook, timeout=300, kernel_name="python3", resources={"metadata": {"path": str(tmp_path)}}
    ).execute(env=env)
    text = json.dumps(notebook.cells)
    assert "gateway" in text
    assert "tiny" in text
