"""Rows over a cluster of dask.distributed: real worker processes, one of which is killed."""

import logging
import os
import pickle
import signal
import threading
from collections import Counter

import pandas as pd
import pytest

import nbllm
from nbllm import simulator
from nbllm.core.errors import ConfigError

from .processes import LONG, comes_to

pytestmark = pytest.mark.slow

CANARY = "sk-canary-0123456789abcdefXYZ"
WORKERS, THREADS, ROWS = 2, 4, 400


@pytest.fixture(scope="module")
def server():
    with simulator.serve(ttft=0.01, gap=0.0, tokens=2, auth=CANARY) as server:
        yield server


@pytest.fixture(scope="module")
def cluster(server, tmp_path_factory):
    """The key is in the workers' environment alone."""
    from distributed import Client, LocalCluster

    env = {"OPENAI_API_KEY": CANARY, "NBLLM_HOME": str(tmp_path_factory.mktemp("worker"))}
    env["OPENAI_BASE_URL"] = server.base_url("openai_chat")
    options = {"processes": True, "dashboard_address": ":0", "silence_logs": logging.CRITICAL}
    with (
        LocalCluster(n_workers=WORKERS, threads_per_worker=THREADS, env=env, **options) as cluster,
        Client(cluster) as client,
    ):
        yield client


def seen_by_the_scheduler(scheduler):
    """All that it holds of its tasks, as bytes."""
    return b"".join(
        part if isinstance(part, bytes) else repr(part).encode()
        for task in list(scheduler.tasks.values())
        for part in (task.key, task.annotations, task.exception, pickle.dumps(task.run_spec))
    )


def test_a_killed_worker_loses_nothing(server, cluster, tmp_path, monkeypatch):
    """Its rows are asked again, at most as many as it had; no key is in what the scheduler holds; the
    notebook has none."""
    monkeypatch.setenv("NBLLM_HOME", str(tmp_path))
    monkeypatch.setenv("OPENAI_BASE_URL", server.base_url("openai_chat"))
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    pids, held = list(cluster.run(os.getpid).values()), []

    def kill():
        assert comes_to(True, lambda: [None] * (len(server.records) >= ROWS * 0.4))
        held.append(seen_by_the_scheduler(cluster.cluster.scheduler))
        os.kill(pids[0], signal.SIGKILL)

    killer = threading.Thread(target=kill)
    killer.start()
    df = pd.DataFrame({"text": [f"row {i}" for i in range(ROWS)]})
    out = nbllm.map(df, "{text}", model="openai/m", executor=cluster, client=nbllm.Client(), confirm="yes")
    killer.join(LONG)
    assert {"ok"} == set(out["llm_status"]), set(out["llm_error"])
    counts = Counter(record.prompt for record in server.records)
    assert {f"row {i}" for i in range(ROWS)} == set(counts)
    assert sum(counts.values()) - ROWS <= WORKERS * THREADS + 32
    assert b"row " in held[0]
    assert CANARY.encode() not in held[0]


def test_a_cluster_without_workers_is_refused(tmp_path, monkeypatch):
    """Its rows would wait for ever, as after Stop, which ends the workers that a notebook has started; one
    that makes workers when there is work is none."""
    from distributed import Client, LocalCluster

    monkeypatch.setenv("NBLLM_HOME", str(tmp_path))
    options = {"n_workers": 0, "processes": False, "dashboard_address": ":0"}
    with LocalCluster(**options, silence_logs=logging.CRITICAL) as cluster, Client(cluster) as client:
        df = pd.DataFrame({"text": ["a"]})
        with pytest.raises(ConfigError, match="no workers"):
            nbllm.map(df, "{text}", model="sim/openai", executor=client)
        cluster.adapt(minimum=0, maximum=1)
        assert ["ok"] == list(nbllm.map(df, "{text}", model="sim/openai", executor=client)["llm_status"])
