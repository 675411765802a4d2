"""The rows of a table in batches: each answer on its own row, nothing paid twice, whatever dies between."""

import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import httpx
import pandas as pd
import pytest
from hypothesis import HealthCheck, given
from hypothesis import strategies as st

import nbllm
from nbllm import Client, simulator
from nbllm.core.errors import AuthenticationError, ConfigError, NbllmError
from nbllm.routing.registry import load
from nbllm.rows.batch import BatchRun
from nbllm.store.runs import RunFile

from .examples import examples

KEY = "sk-canary-0123456789abcdef"
MODELS = {
    "openai": "openai/m",
    "anthropic": "anthropic/m",
    "groq": "groq/m",
    "responses": "openai_responses/m",
    "gemini": "gemini/m",
    "mistral": "mistral/m",
    "together": "together/m",
    "openrouter": "openrouter/m/m",
}
# One of each way to hand lines in, to find them again and to read what came.
CREATES = {
    "openai": "/v1/batches",
    "anthropic": "/v1/messages/batches",
    "gemini": "/v1beta/batches",
    "mistral": "/v1/batch/jobs",
    "together": "/together/v1/batches",
    "openrouter": "/api/v1/batches",
}


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    """Runs are kept in the test's own directory."""
    monkeypatch.setenv("NBLLM_HOME", str(tmp_path))
    return tmp_path


@pytest.fixture
def serve():
    """Starts simulators and gives a client of each."""
    open_ = []

    def begin(**options):
        server = simulator.serve(**{"ttft": 0.0, "gap": 0.0, "echo": True, **options})
        base = server.base_url("openai_chat")
        env = {
            "OPENAI_BASE_URL": base,
            "OPENAI_API_KEY": KEY,
            "GROQ_BASE_URL": base,
            "GROQ_API_KEY": KEY,
            "ANTHROPIC_BASE_URL": server.url,
            "ANTHROPIC_API_KEY": KEY,
            "GEMINI_BASE_URL": f"{server.url}/v1beta",
            "MISTRAL_BASE_URL": base,
            "TOGETHER_BASE_URL": f"{server.url}/together/v1",
            "OPENROUTER_BASE_URL": f"{server.url}/api/v1",
            "GEMINI_API_KEY": KEY,
            "TOGETHER_API_KEY": KEY,
            "OPENROUTER_API_KEY": KEY,
            "MISTRAL_API_KEY": KEY,
            "XAI_API_KEY": KEY,
        }
        client = Client(load(env=env), ledger=None)
        open_.append((server, client))
        return server, client

    yield begin
    for server, client in open_:
        client.close()
        server.close()


def texts(n):
    """A table of n rows."""
    return pd.DataFrame({"text": [f"row {i}" for i in range(n)]}, index=range(100, 100 + n))


def mapped(client, df, kind="openai", **options):
    """The rows, in a batch."""
    given = {"model": MODELS[kind], "client": client, "mode": "batch", "confirm": "yes", "max_tokens": 50}
    return nbllm.map(df, "Say: {text}", **{**given, **options})


def created(server):
    """How many batches the server has been asked to make."""
    found = 0
    with httpx.Client(base_url=server.url, verify=False) as web:
        for path in CREATES.values():
            page = web.get(path).raise_for_status().json()
            found += len(page if isinstance(page, list) else page.get("data", page.get("operations")))
    return found


def own(df):
    """Whether every answer stands on the row that asked."""
    return all(
        a is pd.NA or a is None or a.strip() == f"Say: {t}" for a, t in zip(df.answer, df.text, strict=True)
    )


@pytest.mark.parametrize("kind", MODELS)
def test_rows_are_answered_in_one_batch(serve, kind):
    """Index and order are kept; a missing value costs its row only; nothing is asked twice."""
    server, client = serve(batch_shuffle=1)
    df = texts(6)
    df.loc[103, "text"] = None
    out = mapped(client, df, kind, run="r")
    assert list(df.index) == list(out.index)
    assert ["ok"] * 3 + ["failed"] + ["ok"] * 2 == list(out.llm_status)
    assert own(out)
    assert "MissingValue" in out.llm_error[103]
    again = mapped(client, df, kind, run="r")
    assert list(out.llm_status) == list(again.llm_status)
    assert created(server) == 1
    assert not any(KEY.encode() in p.read_bytes() for p in _files())


def _files():
    from nbllm.store.runs import runs_folder

    return [p for p in runs_folder().iterdir() if p.is_file()]


@pytest.mark.parametrize("kind", CREATES)
@pytest.mark.parametrize(
    ("options", "answered", "told"),
    [
        ({"batch_shuffle": 1, "seed": 3, "batch_fail": 2}, 4, "BadRequest"),
        ({"batch_zero": 1}, 5, "ServerError"),
        ({"batch_missing": 2, "batch_shuffle": 1}, 4, "no line in the results"),
        ({"batch_end": "expired"}, 3, "expired"),
        ({"batch_end": "cancelled", "batch_shuffle": 1}, 3, "cancel"),
        ({"batch_fail": 6}, 0, "BadRequest"),
    ],
)
def test_each_fault_costs_its_own_rows_only(serve, kind, options, answered, told):
    """They fail and say why; no answer stands on another's row."""
    _, client = serve(**options)
    out = mapped(client, texts(6), kind)
    assert own(out)
    assert answered == (out.llm_status == "ok").sum()
    assert 6 - answered == (out.llm_status == "failed").sum()
    assert all(told in e for e in out[out.llm_status == "failed"].llm_error)


def test_what_failed_is_asked_again(serve):
    """In another batch, of these rows alone."""
    server, client = serve(batch_missing=2)
    out = mapped(client, texts(6), run="r")
    out = nbllm.rows.retry(out, client=client, confirm="yes")
    assert created(server) == 2
    assert (out.llm_status == "failed").sum() == 2
    assert list(nbllm.rows.batches().rows) == [6, 2]
    assert set(nbllm.rows.batches().state) == {"done"}


@pytest.mark.parametrize("kind", CREATES)
def test_a_job_is_watched_and_cancelled(serve, kind):
    """It holds nothing open; a call of rows does not run beside it; after its end all rows have one."""
    server, client = serve(batch_s=1000)
    job = mapped(client, texts(4), kind, run="r", wait=False)
    assert {"ok": 0, "failed": 0, "waiting": 4} == job.poll()
    assert set(job.collect().llm_status) == {"pending"}
    assert list(nbllm.rows.collect("r", texts(4), client=client).llm_status) == ["pending"] * 4
    with pytest.raises(ConfigError, match="in a batch"):
        mapped(client, texts(4), kind, run="r", mode="now")
    if kind == "openrouter":
        with pytest.raises(ConfigError, match="cannot cancel a batch"):
            job.cancel()
        return
    assert job.cancel()["waiting"] == 0
    out = nbllm.rows.collect("r", texts(4), client=client)
    assert own(out)
    assert set(out.llm_status) == {"ok", "failed"}
    assert created(server) == 1


@pytest.mark.slow
@pytest.mark.parametrize("kind", CREATES)
@pytest.mark.parametrize("dedupe", [True, False])
def test_answers_find_their_rows_in_a_table_that_was_changed(serve, kind, dedupe):
    """Sorted, filtered, longer, or another value in one row, by whoever had the table or read it anew: no
    answer stands on another's row, and a row that is not in the run says so."""
    _, client = serve(batch_shuffle=1)
    df = texts(6)
    job = mapped(client, df, kind, run="r", wait=False, dedupe=dedupe)
    df["text"] = list(df["text"])[::-1]
    df.loc[103, "text"] = "new"
    made = job.collect()
    assert own(made)
    assert "pending" == made.llm_status[103]
    assert "NotInRun" in made.llm_error[103]
    for other in (texts(6).iloc[::-1], texts(6).iloc[2:5], texts(9)):
        made = nbllm.rows.collect("r", other, client=client)
        assert list(other.text) == list(made.text)
        assert own(made)
        if dedupe:
            assert list(made.text < "row 6") == list(made.llm_status == "ok")


@pytest.mark.parametrize(
    ("what", "more"),
    [
        ("model", {"model": "anthropic/m"}),
        ("schema", {"schema": "mood"}),
        ("options", {"temperature": 0.5}),
    ],
)
def test_another_question_waits_for_the_batches_of_the_first(serve, what, more):
    """Whose answers only that one can read; nothing is handed in, and the first goes on."""
    server, client = serve(batch_s=1000)
    job = mapped(client, texts(2), run="r", wait=False)
    with pytest.raises(ConfigError, match=f"another {what}"):
        mapped(client, texts(2), run="r", **more)
    assert created(server) == 1
    assert {"ok": 0, "failed": 0, "waiting": 2} == job.poll()
    assert job.cancel()["waiting"] == 0
    assert list(mapped(client, texts(2), run="r", wait=False, **more).collect().llm_status) == ["pending"] * 2


@pytest.mark.slow
def test_waiting_grows_and_an_interrupt_ends_it_alone(serve):
    """The batch goes on."""
    _, client = serve(batch_s=1000)
    job = mapped(client, texts(2), run="r", wait=False)
    waited = []

    def pause(seconds):
        waited.append(seconds)
        if len(waited) == 9:
            raise KeyboardInterrupt

    assert set(job.wait(pause).llm_status) == {"pending"}
    assert waited[:3] == [5.0, 7.5, 11.25]
    assert waited[-1] == 60.0
    assert list(nbllm.rows.batches().state) == ["running"]


@pytest.mark.parametrize("kind", CREATES)
@pytest.mark.parametrize("running", [False, True])
def test_a_crash_between_creation_and_id_makes_no_second_batch(serve, kind, running):
    """The part is `creating` on disk while the provider has its batch: it is found in the provider's list.
    Others of the same number of rows are not taken for it."""
    server, client = serve(batch_s=1000 if running else 0)
    mapped(client, texts(3), kind, run="other", wait=False)
    mapped(client, texts(3), kind, run="r", wait=False)
    mapped(client, texts(3), kind, run="third", wait=False)
    with RunFile("r", create=False) as file:
        (part,) = file.parts()
        file.save_part(part._replace(state="creating", batch="", created=part.created - 300))
    job = mapped(client, texts(3), kind, run="r", wait=False)
    counts = job.poll()
    assert created(server) == 3
    if running:
        assert counts["waiting"] == 3
        return
    assert counts["ok"] == 3
    assert own(job.collect())


@pytest.mark.parametrize("kind", CREATES)
def test_a_crash_before_creation_loses_no_row(serve, kind):
    """A part that nobody has is created, but not before the provider's list can be trusted."""
    server, client = serve()
    first = mapped(client, texts(3), kind, run="r", wait=False)
    first.collect()
    with RunFile("r", create=False) as file:
        there = BatchRun(file, first)
        file.plan(first.job.questions(texts(5)))
        fresh = file.add_part(there.unfinished_ids(), time.time())
        assert len(fresh.ids) == 2
        assert there.poll()["waiting"] == 2
        assert created(server) == 1
        file.save_part(fresh._replace(created=fresh.created - 300))
        there.poll()
        assert created(server) == 2
        assert there.poll()["waiting"] == 0
    assert own(nbllm.rows.collect("r", texts(5), client=client))


def test_a_refused_creation_leaves_the_rows_to_be_asked(serve):
    """And no part behind; the key is not told."""
    _, client = serve()
    refusing = Refusing(401)
    with pytest.raises(AuthenticationError) as caught:
        mapped(refusing.client, texts(2), run="r")
    refusing.end()
    assert KEY not in f"{caught.value} {caught.value.hint}"
    assert KEY in refusing.seen[0]
    out = mapped(client, texts(2), run="r")
    assert (out.llm_status == "ok").all()


def test_where_nobody_knows_what_came_of_a_creation_no_other_is_made(serve):
    """Its rows wait until the provider's list can be trusted."""
    server, client = serve()
    refusing = Refusing(500)
    with pytest.raises(NbllmError):
        mapped(refusing.client, texts(2), run="r")
    refusing.end()
    job = mapped(client, texts(2), run="r", wait=False)
    assert job.poll()["waiting"] == 2
    assert created(server) == 0


class Refusing(ThreadingHTTPServer):
    """A server that refuses all, and tells the key that it was given."""

    def __init__(self, status):
        super().__init__(("127.0.0.1", 0), Refusal)
        self.status, self.seen = status, []
        threading.Thread(target=self.serve_forever, args=(0.01,), daemon=True).start()
        env = {"OPENAI_BASE_URL": f"http://127.0.0.1:{self.server_port}/v1", "OPENAI_API_KEY": KEY}
        self.client = Client(load(env=env), ledger=None)

    def end(self):
        """Closes all."""
        self.client.close()
        self.shutdown()
        self.server_close()


class Refusal(BaseHTTPRequestHandler):
    def do_POST(self):
        key = self.headers.get("Authorization", "")
        self.server.seen.append(key)
        self.rfile.read(int(self.headers["Content-Length"]))
        body = b'{"error": {"message": "no: %s"}}' % key.encode()
        self.send_response(self.server.status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *args):
        pass


def test_too_many_waiting_tokens_cost_no_row(serve):
    """They stay to be handed in later."""
    _, client = serve(enqueued=1)
    out = mapped(client, texts(3), run="r", wait=False).wait(lambda seconds: None)
    assert set(out.llm_status) == {"pending"}
    assert not len(nbllm.rows.batches().query("state != 'done'"))


@pytest.mark.parametrize("kind", ["openai", "together"])
def test_what_does_not_fit_at_once_goes_in_halves(serve, kind):
    """One after the other, until there is room; each answer on its own row."""
    server, client = serve(enqueued=70, batch_shuffle=1)
    job = mapped(client, texts(11), kind, run="r", wait=False)
    out = job.wait(lambda seconds: None)
    assert ["ok"] * 11 == list(out.llm_status)
    assert own(out)
    sizes = list(nbllm.rows.batches().rows)
    assert sizes[0] == 11
    assert sizes[1] == 5
    assert sizes[-1] <= 2
    assert len(sizes) == created(server)


def test_what_waits_for_room_waits_for_the_batches_that_are_there(serve):
    """A part that was refused beside others is handed in when they have ended, as large as it is."""
    server, client = serve(enqueued=130, batch_s=1000)
    job = mapped(client, texts(3), run="r", wait=False)
    with RunFile("r", create=False) as file:
        there = BatchRun(file, job)
        file.plan(job.job.questions(texts(6)))
        there.submit(there.unfinished_ids())
        assert there.poll()["waiting"] == 6
        assert [3] == [len(p.ids) for p in file.parts()]
        there.poll()
        assert created(server) == 2
        there.cancel()
        there.poll()
        assert [3] == [len(p.ids) for p in file.parts()]
        assert created(server) == 3


@examples(12, suppress_health_check=list(HealthCheck))
@given(
    kind=st.sampled_from(list(MODELS)),
    n=st.integers(1, 9),
    faults=st.fixed_dictionaries(
        {
            **{name: st.integers(0, 2) for name in ("batch_missing", "batch_zero", "batch_fail", "seed")},
            "batch_end": st.sampled_from(["completed", "completed", "expired", "cancelled"]),
        }
    ),
)
def test_nobodys_row_is_on_anothers_line(serve, kind, n, faults):
    """Whatever a provider does to a batch: each row has its own answer, or the reason why it has none."""
    _, client = serve(batch_shuffle=1, **faults)
    out = mapped(client, texts(n), kind)
    assert own(out)
    assert set(out.llm_status) <= {"ok", "failed"}
    assert list(out.llm_error.isna()) == list(out.llm_status == "ok")
    lost = min(n, sum(faults[f] for f in ("batch_missing", "batch_zero", "batch_fail")))
    assert (out.llm_status == "failed").sum() >= lost
    assert (out.llm_status == "ok").sum() == (
        n - lost if faults["batch_end"] == "completed" else max(0, n // 2 - lost)
    )


@pytest.mark.parametrize(
    "to", ["http://elsewhere.example/upload", "https://127.0.0.1/x", "", "/relative", "file:///x"]
)
def test_a_file_goes_nowhere_else(to):
    """Google names an address for an upload: another server's gets neither rows nor key."""

    class Naming(BaseHTTPRequestHandler):
        def do_POST(self):
            self.server.seen.append(self.path)
            self.rfile.read(int(self.headers["Content-Length"]))
            self.send_response(200)
            self.send_header("x-goog-upload-url", to)
            self.send_header("Content-Length", "2")
            self.end_headers()
            self.wfile.write(b"{}")

        def log_message(self, *args):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Naming)
    server.seen = []
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    env = {"GEMINI_BASE_URL": f"http://127.0.0.1:{server.server_port}/v1beta", "GEMINI_API_KEY": KEY}
    client = Client(load(env=env), ledger=None)
    with pytest.raises(NbllmError, match="another host"):
        mapped(client, texts(2), "gemini")
    client.close()
    server.shutdown()
    server.server_close()
    assert server.seen == ["/upload/v1beta/files"]


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"model": "xai/m"}, "takes no batches"),
        ({"model": "openai/m|anthropic/m"}, "cannot run in batches"),
        ({"budget": 1}, "budget="),
        ({"width": 3}, "width="),
        ({"errors": "raise"}, "errors="),
        ({"timeout": 3}, "timeout="),
        ({"retries": 3}, "retries="),
        ({"keep": True}, "keep="),
        ({"failover": "restart"}, "failover="),
        ({"tools": ["x"]}, "tools="),
        ({"mode": "later"}, "mode cannot be"),
        ({"mode": "now", "wait": False}, "wait=False"),
    ],
)
def test_what_a_batch_cannot_keep_to_is_refused_by_name(serve, options, told):
    """Before anything is sent."""
    server, client = serve()
    with pytest.raises(ConfigError, match=told):
        mapped(client, texts(2), **options)
    assert not server.records


def test_in_a_replay_nothing_is_handed_in(serve, tmp_path):
    """A notebook that runs from its recording opens no connection."""
    server, client = serve()
    with client.tapes.record(tmp_path / "it.llm.jsonl"):
        client.complete("hi", "openai/m")
    asked = len(server.records)
    with client.tapes.replay(tmp_path / "it.llm.jsonl"), pytest.raises(ConfigError, match="replayed"):
        mapped(client, texts(2))
    assert asked == len(server.records)


def test_a_schema_gives_columns(serve):
    """As without a batch."""
    _, client = serve(echo=False)
    schema = {"type": "object", "properties": {"stars": {"type": "integer"}}, "required": ["stars"]}
    out = mapped(client, texts(2), schema=schema, into="stars")
    assert list(out.llm_status) == ["ok", "ok"]
    assert str(out.stars.dtype) == "Int64"
