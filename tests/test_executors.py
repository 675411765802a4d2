"""Rows that other threads, processes and machines ask: nbllm.map(..., executor=...)."""

import os
import pickle
import re
import signal
import threading
from collections import Counter
from concurrent.futures import (
    BrokenExecutor,
    CancelledError,
    Executor,
    Future,
    ProcessPoolExecutor,
    ThreadPoolExecutor,
)
from multiprocessing import get_context

import pandas as pd
import pytest

import nbllm
from nbllm import simulator
from nbllm.core.errors import ConfigError
from nbllm.routing import registry
from nbllm.rows import executors

from .processes import LONG, comes_to

CANARY = "sk-canary-0123456789abcdefXYZ"


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    """Runs are kept in the test's own directory, the workers' too."""
    monkeypatch.setenv("NBLLM_HOME", str(tmp_path))
    return tmp_path


@pytest.fixture
def server():
    with simulator.serve(ttft=0.0, gap=0.0, echo=True) as server:
        yield server


@pytest.fixture
def threads():
    with ThreadPoolExecutor(4) as pool:
        yield pool


@pytest.fixture(scope="module")
def processes():
    with ProcessPoolExecutor(2, mp_context=get_context("spawn")) as pool:
        yield pool


def asked(server):
    return Counter(record.prompt for record in server.records)


def texts(n):
    return pd.DataFrame({"text": [f"row {i}" for i in range(n)]})


def mapped(server, df, executor, model="m", **options):
    url = server.base_url("openai_chat")
    return nbllm.map(df, "{text}", model=model, base_url=url, executor=executor, **options)


class Handed(Executor):
    """Keeps the pickles of what it is handed, and has threads do it. fails: how the first tasks end, None for
    well."""

    def __init__(self, *fails):
        self.fails, self.pickles, self.pool = list(fails), [], ThreadPoolExecutor(4)

    def submit(self, work, *args):
        self.pickles.append(pickle.dumps((work, args)))
        if (failure := self.fails.pop(0) if self.fails else None) is None:
            return self.pool.submit(lambda: pickle.loads(pickle.dumps(work(*args))))
        future = Future()
        future.set_exception(failure)
        return future


@pytest.mark.parametrize("kind", ["threads", pytest.param("processes", marks=pytest.mark.slow)])
def test_rows_are_asked_elsewhere(server, request, kind):
    """In order, with index and schema, each once; the workers send, and what comes is kept here."""
    pool = request.getfixturevalue(kind)
    out = mapped(server, texts(40), pool, run="r")
    assert [f"row {i}" for i in range(40)] == [a.strip() for a in out["answer"]]
    assert {1} == set(asked(server).values())
    mapped(server, texts(40), pool, run="r")
    assert 40 == len(server.records)


def test_columns_have_the_types_of_the_schema(threads):
    """A class of the notebook, too: it stays here."""
    schema = {"type": "object", "properties": {"stars": {"type": "integer"}}, "required": ["stars"]}
    with simulator.serve(ttft=0.0, gap=0.0) as server:
        out = mapped(server, texts(3), threads, schema=schema)
    assert "Int64" == str(out["stars"].dtype)
    assert {"ok"} == set(out["llm_status"])


@pytest.mark.slow
def test_errors_of_the_provider_come_back_as_they_are(server, threads):
    """With their kind; asked again as often as here."""
    out = mapped(server, texts(3), threads, model="m@status=400")
    assert out["llm_error"].str.startswith("BadRequest: ").all()
    out = mapped(server, texts(3), threads, model="m@status=500,fail_times=1")
    assert {"ok"} == set(out["llm_status"])
    assert {3} == set(asked(server).values())


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"executor": 7}, "takes a concurrent.futures.Executor"),
        ({"executor": Handed(), "api_key": CANARY}, "api_key= cannot be used with executor="),
        ({"executor": Handed(), "mode": "batch"}, "executor= cannot be used with mode=batch"),
        ({"executor": Handed(), "model": "cli/claude", "base_url": None}, "."),
        ({"executor": Handed(), "base_url": "http://me:secret@localhost:1/v1"}, "contains a password"),
    ],
)
def test_what_cannot_go_to_a_worker_is_refused(server, options, told):
    """Before anything is sent, and in words."""
    given = {"model": "m", "base_url": server.base_url("openai_chat"), **options}
    with pytest.raises(ConfigError, match=told) as caught:
        nbllm.map(texts(3), "{text}", **given)
    assert "secret" not in str(caught.value)
    assert [] == list(server.records)


@pytest.fixture
def at_openai(monkeypatch):
    """A server that wants the canary, at OpenAI's address; the workers' configuration is read anew."""
    with simulator.serve(ttft=0.0, gap=0.0, tokens=2, auth=CANARY) as server:
        monkeypatch.setenv("OPENAI_BASE_URL", server.base_url("openai_chat"))
        executors._client.cache_clear()
        yield server
        executors._client.cache_clear()


def test_a_key_is_looked_up_on_the_worker(at_openai, monkeypatch):
    """And is in nothing that an executor is handed."""
    monkeypatch.setenv("OPENAI_API_KEY", CANARY)
    executor = Handed()
    out = nbllm.map(texts(6), "{text}", model="openai/m", executor=executor, client=nbllm.Client())
    assert {"ok"} == set(out["llm_status"]), set(out["llm_error"])
    assert 6 == len(executor.pickles)
    assert not any(CANARY.encode() in task for task in executor.pickles)


def test_a_worker_without_a_key_says_so(at_openai, monkeypatch):
    """Once: the run ends, since it would say so of every row; they stay to be asked."""
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    out = nbllm.map(texts(30), "{text}", model="openai/m", executor=Handed(), client=nbllm.Client())
    assert set(out["llm_status"]) <= {"pending", "stopped"}
    assert re.search(r"No key for OpenAI: .* \(on the worker .*, process \d+\)", out.attrs["nbllm_ended"])
    assert [] == list(at_openai.records)


def test_a_worker_with_another_address_says_so(at_openai, monkeypatch):
    """Rows never go silently where the notebook would not send them."""
    monkeypatch.setenv("OPENAI_API_KEY", CANARY)
    client = nbllm.Client(registry.load({"OPENAI_BASE_URL": "http://localhost:1/v1", "OPENAI_API_KEY": "k"}))
    out = nbllm.map(texts(3), "{text}", model="openai/m", executor=Handed(), client=client)
    assert "on this worker" in out.attrs["nbllm_ended"]
    assert [] == list(at_openai.records)


class KilledWorker(Exception):
    """As dask.distributed's: a task whose workers died too often."""


@pytest.mark.parametrize(
    ("failed", "fails", "ended"),
    [
        (0, [OSError("gone")], ""),
        (1, [OSError("gone")] * 2, ""),
        (2, [KilledWorker("k")] * 2, ""),
        (0, [CancelledError()], ""),
        (0, [BrokenExecutor("all died")], "WorkerLost: A worker was lost: .*all died"),
        (0, [ModuleNotFoundError("No module named 'nbllm'")], "No module named 'nbllm'"),
    ],
)
def test_a_lost_row_is_handed_in_once_more(server, failed, fails, ended):
    """Not for ever; where no worker is left the run ends, and its rows stay."""
    out = mapped(server, texts(6), Handed(*fails), width=1)
    errors = out["llm_error"][out["llm_status"] == "failed"]
    assert failed == len(errors)
    assert errors.str.startswith("WorkerLost: A worker was lost: ").all()
    assert re.search(ended, out.attrs["nbllm_ended"])
    assert bool(ended) == ("pending" in set(out["llm_status"])) == bool(out.attrs["nbllm_ended"])


@pytest.mark.slow
def test_limits_are_kept_here(threads):
    """Another worker's refusal holds all rows back, and costs none of them an attempt."""
    with simulator.serve(ttft=0.0, gap=0.0, tokens=2) as server:
        model = "m@status=429,fail_times=2,retry_after=0.05"
        out = mapped(server, texts(4), threads, model=model, retries=1)
    assert {"ok"} == set(out["llm_status"]), set(out["llm_error"])


def test_a_budget_holds(threads):
    """It is reserved here."""
    with simulator.serve(ttft=0.0, gap=0.0, tokens=98) as server:
        limits = {"max_tokens": 100, "budget": {"tokens": 1_050}, "confirm": "yes"}
        out = mapped(server, texts(64), threads, width=64, **limits)
        assert 8 <= len(server.records) <= 10
    assert {"ok", "pending"} == set(out["llm_status"])


@pytest.mark.slow
def test_a_process_that_dies_ends_the_run():
    """A pool of processes is broken then; what was answered is kept, and the run goes on with another."""
    with simulator.serve(ttft=0.01, gap=0.0, tokens=2) as server:
        with ProcessPoolExecutor(2, mp_context=get_context("spawn")) as pool:

            def kill():
                assert comes_to(True, lambda: [None] * (len(server.records) >= 20))
                os.kill(next(iter(pool._processes)), signal.SIGKILL)

            killer = threading.Thread(target=kill)
            killer.start()
            out = mapped(server, texts(200), pool, run="r")
            killer.join(LONG)
        assert "WorkerLost" in out.attrs["nbllm_ended"]
        done = (out["llm_status"] == "ok").sum()
        assert 10 <= done < 200
        with ThreadPoolExecutor(4) as pool:
            out = nbllm.rows.resume("r", texts(200), executor=pool)
        counts = asked(server)
    assert {"ok"} == set(out["llm_status"])
    assert len(counts) == 200
    assert sum(counts.values()) <= 200 + 4  # what was on its way
    assert max(counts.values()) <= 2


@pytest.mark.slow
def test_stop_comes_through():
    """Rows that wait at the executor are taken back."""
    with simulator.serve(ttft=0.3, gap=0.0, tokens=2) as server, ThreadPoolExecutor(2) as pool:
        main = threading.main_thread().ident

        def stop():
            assert comes_to(True, lambda: [None] * (len(server.records) >= 2))
            signal.pthread_kill(main, signal.SIGINT)

        stopper = threading.Thread(target=stop)
        stopper.start()
        out = mapped(server, texts(400), pool, run="r")  # a minute's work
        stopper.join(LONG)
        assert nbllm.rows.STOPPED == out.attrs["nbllm_ended"]
        assert len(server.records) <= 200
