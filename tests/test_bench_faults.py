"""What goes wrong for one model, or on the disk, and costs no other its rows."""

import os
import stat
import subprocess
import sys
import textwrap
import threading
import time
import traceback
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pandas as pd
import pytest

import nbllm
from nbllm.bench import store
from nbllm.client.client import Client
from nbllm.core import errors
from nbllm.routing.registry import load

from .processes import held_port

pytestmark = pytest.mark.slow

GOOD = "sim/openai@ttft=0.005,gap=0.001,tokens=3"
KEY = "sk-canary-0123456789abcdef0123456789"


@pytest.fixture(autouse=True)
def runs_here(tmp_path, monkeypatch):
    monkeypatch.setenv("NBLLM_RUNS", str(tmp_path / "runs"))


def run(*models, prompts="Go.", **options):
    return nbllm.bench.run(
        list(models), prompts, **{"progress": False, "warmup": 0, "blocks": 2, "seed": 1, **options}
    )


@pytest.fixture
def closed_port():
    """Where nobody listens."""
    with held_port() as (port, _):
        yield port


@pytest.fixture
def serve():
    """serve(answer) -> the address of a server whose answers `answer(handler)` writes; None hangs up at once,
    "hold" never answers."""
    made = []

    def make(answer):
        held = threading.Event()

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self):
                if answer == "hold":
                    held.wait(60)
                body = (
                    answer(self.path, self.rfile.read(int(self.headers.get("content-length") or 0)))
                    if callable(answer)
                    else None
                )
                self.close_connection = body is None
                if body is not None:
                    status, text = body
                    self.send_response(status)
                    self.send_header("content-length", str(len(text)))
                    self.end_headers()
                    self.wfile.write(text)

            do_GET = do_POST

            def log_message(self, *args): ...

        server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        server.daemon_threads = True
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        made.append((server, held))
        return f"http://127.0.0.1:{server.server_port}"

    yield make
    for server, held in made:
        held.set()
        server.shutdown()
        server.server_close()


def by_name(df):
    return dict(list(df.groupby("name", observed=True)))


# --- one model of several ---


@pytest.mark.parametrize(
    "kinds",
    [
        ["cold_model", "warm"],
        ["cold_process", "warm"],
        ["cold_client"],
        ["cold_conn"],
        ["cold_cache"],
        ["warm"],
    ],
)
def test_a_model_that_nobody_serves_is_rows_of_failure(kinds, closed_port):
    """Whatever start is measured; the other model is whole, and the rows say who, what and when."""
    dead = {"model": "ollama/x", "base_url": f"http://127.0.0.1:{closed_port}", "name": "dead"}
    models = [dead] if "cold_model" in kinds else [dead, GOOD]
    df = run(*models, cold=kinds)
    rows = by_name(df)["dead"]
    assert 2 * len(kinds) == len(rows)
    assert ({"client_error"}, {"ConnectFailed"}) == (set(rows["status"]), set(rows["error_type"]))
    assert not rows["ok"].any()
    assert rows[["provider", "model", "ns_call", "block", "start_kind"]].notna().all(axis=None)
    assert models == [dead] or by_name(df)[GOOD]["ok"].all()
    assert len(models) == nbllm.bench.summary(df, by="name", metrics="ok_share")["name"].nunique()


REFUSALS = [
    (lambda path, body: (500, b"oh"), "http_error"),
    (lambda path, body: (404, b'{"error": "model not found"}'), "http_error"),
    (lambda path, body: (200, b"<html>"), "protocol_error"),
    (lambda path, body: (200, b"[" * 100_000), "protocol_error"),
    (lambda path, body: None, "stream_cut"),
]


def test_a_model_that_does_not_go_is_rows_of_failure(serve):
    """Unloading: refused, no JSON, hung up; every other one is asked."""
    df = run(
        *(
            {"model": "ollama/x", "base_url": serve(answer), "name": str(i)}
            for i, (answer, _) in enumerate(REFUSALS)
        ),
        cold=["cold_model"],
        blocks=1,
    )
    assert {str(i): status for i, (_, status) in enumerate(REFUSALS)} == dict(
        zip(df["name"], df["status"], strict=True)
    )


LISTED = [b"[]", b"7", b'{"models": 3}', b'{"models": [1, null, "x"]}', b'{"models": {"x": 1}}', b"null"]


def test_a_list_of_loaded_models_that_is_none_is_no_loaded_model(serve):
    """Wrong JSON types are no crash: the request goes on, and its own answer is what it is."""
    df = run(
        *(
            {
                "model": "ollama/x",
                "base_url": serve(lambda path, body, page=page: (200, page)),
                "name": str(i),
            }
            for i, page in enumerate(LISTED)
        ),
        cold=["cold_model"],
        blocks=1,
    )
    assert len(LISTED) == len(df)
    assert not df["error_msg"].astype(str).str.contains("nbllm failed internally").any()


@pytest.mark.parametrize(
    "address",
    [
        f"http://{'a' * 64}.example/v1",
        "http://a..example/v1",
        "http://.example/v1",
        "http://127.0.0.1:99999/v1",
        "http://127.0.0.1:x/v1",
        "http://[::1/v1",
        "http:///v1",
        "127.0.0.1:99999/v1",
        "http://a b/v1",
        "ftp://127.0.0.1/v1",
        f"http://{'é' * 64}.example/v1",
        "http://127.0.0.1:-1/v1",
        "http://1.2.3.4.5.6/v1",
    ],
)
def test_an_address_that_can_be_nobodys_is_refused_before_the_start(address):
    """With the model's label; nothing was sent to the others, and no folder is left."""
    with pytest.raises(errors.ConfigError, match=r"odd|address"):
        run(GOOD, {"model": "m", "base_url": address, "name": "odd"})
    assert [] == list(store.runs_directory().glob("*"))


def test_a_host_that_nobody_knows_is_rows_of_failure():
    """A name look-up that fails."""
    df = run(GOOD, {"model": "m", "base_url": "http://nobody.invalid/v1", "name": "unknown"})
    assert by_name(df)[GOOD]["ok"].all()
    assert {"client_error"} == set(by_name(df)["unknown"]["status"])


@pytest.mark.parametrize(
    ("model", "prompt"),
    [
        (
            "sim/ollama@tokens=3",
            {
                "prompt": "Go.",
                "tools": [{"name": "f", "parameters": {"type": "object"}}],
                "tool_choice": "required",
            },
        ),
        (
            {
                "model": "sim/ollama@tokens=3",
                "tool_choice": "required",
                "tools": [{"name": "f", "parameters": {"type": "object"}}],
            },
            "Go.",
        ),
        ("cli/it/m", {"prompt": "Go.", "seed": 3}),
        ("cli/it/m", {"prompt": "Go.", "image": b"\x89PNG\r\n\x1a\n"}),
        ({"model": "cli/it/m", "temperature": 0.5}, "Go."),
        ({"model": "cli/it/m", "keep": True, "extra": {"no_such": 1}}, "Go."),
    ],
)
def test_what_a_format_cannot_say_is_refused_before_the_start(tmp_path, model, prompt):
    """The model and its trouble are named, and nothing was asked."""
    registry = load(env={})
    registry.register(
        "cli/it", {"command": ["sh", "-c", f"touch {tmp_path}/RAN; cat"], "dialect": "cli_text"}
    )
    client = Client(registry)
    with pytest.raises(errors.ConfigError, match="cannot be used"):
        run(GOOD, model, prompts=["Plain.", prompt] if isinstance(model, str) else [prompt], client=client)
    client.close()
    assert [] == list(store.runs_directory().glob("*"))
    assert not (tmp_path / "RAN").exists()


def test_what_shows_in_a_later_turn_only_is_a_row():
    """The second turn of a conversation has a picture that a command cannot be shown: that conversation has
    failed."""
    picture = [
        {
            "role": "user",
            "content": [{"type": "image_url", "image_url": {"url": "data:image/png;base64,iVBORw0KGgo="}}],
        }
    ]
    registry = load(env={})
    registry.register("cli/it", {"command": ["sh", "-c", "cat"], "dialect": "cli_text"})
    client = Client(registry)
    df = run(GOOD, "cli/it/m", prompts=[{"id": "talk", "turns": ["One.", picture]}], client=client)
    client.close()
    rows = by_name(df)["cli/it/m"]
    assert ["ok", "client_error"] * 2 == list(rows["status"])
    assert by_name(df)[GOOD]["ok"].all()


def test_no_secret_is_in_a_failed_row(tmp_path, closed_port):
    """Of a key that nobody takes: neither the rows nor the files show it."""
    df = run(
        GOOD,
        {"model": "m", "base_url": f"http://127.0.0.1:{closed_port}/v1", "api_key": KEY, "name": "odd"},
        directory=tmp_path / "run",
    )
    assert KEY not in str(df.to_dict("records"))
    assert KEY.encode() not in b"".join(p.read_bytes() for p in (tmp_path / "run").iterdir())
    assert by_name(df)[GOOD]["ok"].all()
    assert not by_name(df)["odd"]["ok"].any()


def test_what_cannot_be_a_key_is_refused_before_the_run(tmp_path):
    """Without its text."""
    odd = {"model": "m", "base_url": "http://127.0.0.1:9/v1", "api_key": KEY + "\n" + KEY}
    with pytest.raises(errors.ConfigError) as caught:
        run(GOOD, odd, directory=tmp_path / "run")
    assert KEY not in "".join(traceback.format_exception(caught.value))


USAGES = [
    b'{"prompt_tokens": 1, "completion_tokens": 1e400}',
    b'{"prompt_tokens": 99999999999999999999999, "completion_tokens": 7}',
    b'{"prompt_tokens": "x", "completion_tokens": [1]}',
    b'{"prompt_tokens": -5, "completion_tokens": {}}',
    b"[]",
    b'"x"',
]


def test_answers_of_odd_figures_cost_nobody_a_row(serve):
    """Their own rows are there in some way, and the frame of all."""
    page = (
        b'{"id":"\\ud800","object":"chat.completion","model":"\\udfff","choices":[{"index":0,"finish_reason":"stop",'
        b'"message":{"role":"assistant","content":"ok"}}],"usage":%s}'
    )
    odd = [
        {"model": "m", "base_url": serve(lambda path, body, u=u: (200, page % u)), "name": f"odd {i}"}
        for i, u in enumerate(USAGES)
    ]
    df = run(GOOD, *odd)
    assert (
        dict.fromkeys([GOOD, *(model["name"] for model in odd)], 2)
        == df.groupby("name", observed=True).size().to_dict()
    )
    assert by_name(df)[GOOD]["ok"].all()


@pytest.mark.parametrize(
    "options", [{"prefix": "nobody"}, {"warmup": "long"}, {"warmup": -1}, {"warmup": 1.5}, {"warmup": True}]
)
def test_rules_that_are_none_are_refused_before_the_start(options):
    """They used to end the worker."""
    with pytest.raises(errors.ConfigError):
        run(GOOD, **options)
    assert [] == list(store.runs_directory().glob("*"))


# --- warming ---


@pytest.mark.parametrize("limits", [{"first": 0.3}, {"total": 0.3}, {"connect": 0.3, "first": 0.3}])
def test_the_warming_request_keeps_to_the_limits_of_its_model(serve, limits):
    """A server that never answers: it took ten seconds a turn, whatever the limits."""
    began = time.monotonic()
    df = run({"model": "m", "base_url": serve("hold"), "name": "slow", "timeout": limits}, blocks=4)
    assert {"timeout_ttft" if "first" in limits else "timeout_total"} == set(df["status"])
    assert time.monotonic() - began < 35


# --- the disk ---


def test_a_runs_files_are_for_its_user_alone(tmp_path):
    """From the moment they are there, whatever the umask; SQLite's own beside them too."""
    seen, place = set(), tmp_path / "run"

    def looks(text):
        """Its worker waits for the answer meanwhile, with its files open."""
        if place.exists():  # it is tried before the run begins
            seen.update((p.name, oct(stat.S_IMODE(p.stat().st_mode))) for p in place.iterdir())
        return len(text)

    old = os.umask(0)
    try:
        run({"model": f"{GOOD},usage=0", "tokenizer": looks}, directory=place, prompts="A secret plan.")
    finally:
        os.umask(old)
    assert {"run.sqlite", "run.sqlite-wal", "run.sqlite-shm", "run.lock", "worker.log"} == {
        name for name, _ in seen
    }
    assert {"0o600"} == {mode for _, mode in seen}


@pytest.mark.parametrize("name", ["run.sqlite", "worker.log"])
def test_a_link_in_a_strangers_folder_leads_nowhere(tmp_path, name):
    """Neither what a run writes nor its log goes through a link to a file of the user's."""
    mine = tmp_path / "mine"
    mine.write_text("important")
    place = tmp_path / "run"
    run(GOOD, directory=place, blocks=4, budget={"requests": 1})
    if name == "run.sqlite":
        (place / name).rename(tmp_path / "elsewhere.sqlite")
        mine = tmp_path / "elsewhere.sqlite"
    else:
        (place / name).unlink()
    before = mine.read_bytes()
    (place / name).symlink_to(mine)
    with pytest.raises(errors.ConfigError):
        nbllm.bench.resume(place, progress=False)
    assert before == mine.read_bytes()


def test_a_folder_that_cannot_be_written_is_an_error_that_says_so(tmp_path):
    """A file in its way, a folder of the system's: one line, and what to do."""
    (tmp_path / "file").write_text("x")
    for place in (
        tmp_path / "file",
        tmp_path / "file" / "run",
        Path("/proc/nbllm"),
        Path("/proc/self/nbllm"),
    ):
        with pytest.raises(errors.ConfigError) as caught:
            run(GOOD, directory=place)
        assert str(place) in str(caught.value)
        assert caught.value.hint


@pytest.mark.parametrize(
    "content", [b"no database at all", b"SQLite format 3\0" + b"\xff" * 4096, b"\0" * 8192]
)
def test_a_file_that_is_no_run_is_an_error_that_says_so(tmp_path, content):
    """Broken, or something else."""
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "run.sqlite").write_bytes(content)
    for ask in (nbllm.bench.load, nbllm.bench.resume):
        with pytest.raises(errors.ConfigError):
            ask(tmp_path / "run")


def limited(tmp_path, size, code):
    """Runs code whose files, and those of its processes, may have so many bytes."""
    head = f"""
        import resource, warnings
        resource.setrlimit(resource.RLIMIT_FSIZE, ({size}, resource.RLIM_INFINITY))
        import nbllm
        place = {str(tmp_path / "run")!r}
    """
    words = textwrap.dedent(head) + textwrap.dedent(code)
    return subprocess.run(
        [sys.executable, "-c", words],
        check=False,
        capture_output=True,
        text=True,
        timeout=120,
        env={**os.environ, "NBLLM_RUNS": str(tmp_path / "runs")},
    )


@pytest.mark.skipif(sys.platform == "win32", reason="needs resource limits")
def test_a_disk_that_is_full_costs_no_row(tmp_path):
    """The run ends early, says why, and gives every row, those too that the disk did not take; resume goes on
    when there is room."""
    found = limited(
        tmp_path,
        300_000,
        f"""
        df = nbllm.bench.run({GOOD!r}, "Go.", blocks=200, warmup=0, seed=1, directory=place, progress=False)
        print(len(df), int(df["ok"].sum()), df["request_id"].nunique(), df.attrs["nbllm"]["ended"], sep="|")
    """,
    )
    assert 0 == found.returncode, found.stderr
    assert "Traceback" not in found.stderr
    assert "nbllm.bench.save" in found.stderr
    rows, good, ids, ended = found.stdout.strip().split("|")
    assert (rows, rows) == (good, ids)
    assert 5 < int(rows) < 200
    assert "cannot be written" in ended
    kept = len(nbllm.bench.load(tmp_path / "run"))
    assert 0 < kept < int(rows)
    assert 200 == nbllm.bench.resume(tmp_path / "run", progress=False)["request_id"].nunique()


@pytest.mark.skipif(sys.platform == "win32", reason="needs resource limits")
@pytest.mark.parametrize("size", [0, 100, 5_000, 20_000, 30_000])
def test_a_disk_that_is_full_from_the_start_is_an_error_that_says_so(tmp_path, size):
    """Not a raw one of SQLite's."""
    found = limited(
        tmp_path,
        size,
        f"""
        try:
            df = nbllm.bench.run({GOOD!r}, "Go." * 3000, blocks=50, warmup=0, seed=1, directory=place, progress=False)
        except nbllm.errors.ConfigError as error:
            print("told", error)
    """,  # noqa: E501
    )
    assert (0, "told") == (found.returncode, found.stdout[:4]), found.stderr
    assert "directory" in found.stdout


@pytest.mark.filterwarnings("ignore:Glyph")
def test_answers_that_nobody_counted_have_no_cost_and_break_no_table(tmp_path):
    """Cut answers, all of them and some: tokens are an estimate that says so, figures and pages are made all
    the same."""
    for models in (["sim/anthropic@cut=3,tokens=9"], [GOOD, "sim/anthropic@cut=3,tokens=9"]):
        df = run(*models, blocks=6)
        cut = by_name(df)["sim/anthropic@cut=3,tokens=9"]
        assert {"stream_cut"} == set(cut["status"])
        assert {"estimate"} >= set(cut["tok_source"].dropna())
        assert cut["cost_usd"].isna().all()
        assert len(nbllm.bench.summary(df))
        assert len(models) < 2 or len(nbllm.bench.compare(df))
        assert "stream_cut" in nbllm.bench.report(df)
        for suffix in ("parquet", "csv", "jsonl"):
            nbllm.bench.save(df, tmp_path / f"x.{suffix}")
            assert (
                cut["out_tokens"]
                .isna()
                .equals(
                    by_name(nbllm.bench.load(tmp_path / f"x.{suffix}"))["sim/anthropic@cut=3,tokens=9"][
                        "out_tokens"
                    ].isna()
                )
            )


def test_rows_of_failure_count_in_the_figures(tmp_path, closed_port):
    """Summary, compare and report take a run of which one model never answered."""
    df = run(
        GOOD, {"model": "ollama/x", "base_url": f"http://127.0.0.1:{closed_port}", "name": "dead"}, blocks=6
    )
    told = nbllm.bench.summary(df, by="name").set_index(["name", "metric", "stat"])
    assert (0.0, 6) == tuple(told.loc[("dead", "ok_share", "mean"), ["value", "n_failed"]])
    assert isinstance(nbllm.bench.report(df), str)
    assert pd.isna(told.loc[("dead", "ttft_ms", "p50"), "value"])
