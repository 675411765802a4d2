"""What one model of a run may have for itself (headers, a tokenizer), what text files keep of a run, and what
is said of a load that was not made."""

import sys
import threading
import warnings
from http.server import BaseHTTPRequestHandler, HTTPServer

import pandas as pd
import pytest

import nbllm
from nbllm.bench.achieved_load import missed_load_warning
from nbllm.bench.counting import token_counter
from nbllm.core import errors
from nbllm.store import columns

UNTOLD = "sim/openai@ttft=0.001,gap=0.001,tokens=8,usage=0"
SECRET = "blue-5d7a91c3"


@pytest.fixture(autouse=True)
def runs_here(tmp_path, monkeypatch):
    """Runs without a directory are kept in the test's own."""
    monkeypatch.setenv("NBLLM_RUNS", str(tmp_path / "runs"))


@pytest.fixture
def servers():
    """Two servers that refuse everything, and say in the refusal what headers they were sent."""
    seen = []

    class Refuses(BaseHTTPRequestHandler):
        def do_POST(self):
            told = f'{{"error": {{"message": "no, not with {self.headers.get("x-team")}"}}}}'.encode()
            seen.append((self.server.server_port, self.headers.get("x-team")))
            self.rfile.read(int(self.headers.get("content-length", 0)))
            self.send_response(403)
            self.send_header("content-length", str(len(told)))
            self.end_headers()
            self.wfile.write(told)

        do_GET = do_POST

        def log_message(self, *_): ...

    made = [HTTPServer(("127.0.0.1", 0), Refuses) for _ in range(2)]
    for server in made:
        threading.Thread(target=server.serve_forever, daemon=True).start()
    yield [f"http://127.0.0.1:{s.server_port}/v1" for s in made], seen
    for server in made:
        server.shutdown()
        server.server_close()


@pytest.mark.slow
def test_headers_go_with_one_models_requests_and_into_no_file(servers, tmp_path):
    """Not to the other's server, no frame and no file of the run, and they are given again to go on."""
    (mine, other), seen = servers
    models = [
        {"model": "m", "name": "mine", "base_url": mine, "headers": {"x-team": SECRET}},
        {"model": "m", "name": "other", "base_url": other},
    ]
    df = nbllm.bench.run(models, "Go.", blocks=1, warmup=0, progress=False, directory=tmp_path / "run")
    assert {(mine, SECRET), (other, None)} == {(f"http://127.0.0.1:{port}/v1", team) for port, team in seen}
    assert SECRET not in df.to_csv()
    assert all(SECRET.encode() not in p.read_bytes() for p in (tmp_path / "run").rglob("*") if p.is_file())
    address = {"mine": mine, "other": other}
    with pytest.raises(errors.ConfigError, match="headers was"):
        nbllm.bench.resume(tmp_path / "run", base_url=address, progress=False)
    again = {"mine": {"x-team": SECRET}}
    assert 2 == len(nbllm.bench.resume(tmp_path / "run", base_url=address, headers=again, progress=False))


@pytest.mark.parametrize(
    ("models", "options", "words"),
    [
        ([{"model": UNTOLD, "headers": {"x y": "z"}}], {}, "is not a valid header"),
        ([{"model": UNTOLD, "headers": {"x": "a\nb"}}], {}, "is not a valid header"),
        ([{"model": UNTOLD, "headers": {"x": 5}}], {}, "is not a valid header"),
        ([{"model": UNTOLD, "headers": "x: y"}], {}, "is not a valid header"),
        ([UNTOLD], {"headers": {"x": "y"}}, "given for one model"),
        ([UNTOLD], {"tokenizer": 5}, "does not count"),
        ([UNTOLD], {"tokenizer": lambda text: 0}, "does not count"),
        ([UNTOLD], {"tokenizer": lambda text: text.nothing}, "does not count"),
        ([{"model": UNTOLD, "tokenizer": object()}], {}, "does not count"),
    ],
)
def test_what_cannot_be_a_header_or_count_is_told_before_anything_is_sent(models, options, words):
    """Without a header's value."""
    with pytest.raises(errors.ConfigError, match=words):
        nbllm.bench.run(models, "Go.", progress=False, **options)


@pytest.mark.parametrize("package", ["tiktoken", "tokenizers"])
def test_a_tokenizers_package_is_named_where_it_is_missing(tmp_path, package, monkeypatch):
    """What to install, before a run."""
    monkeypatch.setitem(sys.modules, package, None)
    given = "o200k_base" if package == "tiktoken" else tmp_path / "tokenizer.json"
    with pytest.raises(errors.ConfigError, match=package) as told:
        token_counter(given)
    assert "nbllm[tokens]" in told.value.hint


class Encodes:
    """As transformers' tokenizers: a call gives a dict, `encode` the tokens, with a first one unless told."""

    def __call__(self, text):
        return {"input_ids": [], "attention_mask": []}

    def encode(self, text, add_special_tokens=True):
        return [*["<s>"][:add_special_tokens], *text.split()]


@pytest.mark.parametrize("given", [lambda t: len(t.split()), str.split, Encodes()])
def test_what_counts_may_be_a_function_or_a_tokenizer(given):
    """A number, a list, or `encode` without tokens that begin a text."""
    assert [0, 3] == token_counter(given)(["", "one two three"])


@pytest.mark.slow
def test_tokens_are_counted_where_the_server_does_not(tmp_path):
    """By a function of the notebook; the other model's are an estimate, and said to be one."""
    slow = UNTOLD.replace("gap=0.001", "gap=0.1")  # pieces that come in one read have no times between them
    models = [{"model": slow, "name": "a", "tokenizer": len}, {"model": UNTOLD, "name": "b"}]
    df = nbllm.bench.run(models, "Go.", blocks=2, warmup=0, progress=False, directory=tmp_path / "run")
    texts = nbllm.bench.answers(df).set_index(["name", "request_id"])["answer"]
    mine = df[df["name"] == "a"]
    assert ["tokenizer"] * 2 == list(mine["tok_source"])
    assert [len(texts["a", i]) for i in mine["request_id"]] == list(mine["out_tokens"])
    assert mine["itl_ms"].notna().all()
    assert {"estimate"} == set(df[df["name"] == "b"]["tok_source"])
    with pytest.raises(errors.ConfigError, match="with a tokenizer"):
        nbllm.bench.resume(tmp_path / "run", progress=False)
    assert 4 == len(nbllm.bench.resume(tmp_path / "run", tokenizer={"a": len}, progress=False))


@pytest.mark.slow
def test_a_tokenizer_that_fails_loses_no_answer():
    """An estimate, said to be one, and why."""

    def fails(text):
        if "One, two" not in text:
            raise RuntimeError("cannot")
        return 3

    with pytest.warns(UserWarning, match="RuntimeError: cannot"):
        df = nbllm.bench.run([UNTOLD], "Go.", blocks=2, warmup=0, progress=False, tokenizer=fails)
    assert [(True, "estimate")] * 2 == list(zip(df["ok"], df["tok_source"], strict=True))


OWN = {
    "code": pd.Series(["007", None, "NA"], dtype="str"),
    "kind": pd.Series(["x", "y", None], dtype="category"),
    "when": pd.to_datetime(["2026-01-01 10:00", None, "2026-07-02 11:12:13.5"], utc=True, format="ISO8601"),
    "count": pd.Series([1, None, 3], dtype="Int64"),
    "share": pd.Series([0.1, None, 2.0], dtype="float64"),
    "yes": pd.Series([True, None, False], dtype="boolean"),
    "text": pd.Series(["", "=1", None], dtype="string"),
}


@pytest.fixture(scope="module")
def untold(tmp_path_factory):
    """The frame of a run, whose chunks and answers are on disk."""
    place = tmp_path_factory.mktemp("untold")
    return nbllm.bench.run([UNTOLD], "Go.", blocks=3, warmup=0, progress=False, directory=place / "run")


@pytest.mark.slow
@pytest.mark.parametrize("suffix", [".csv", ".jsonl", ".parquet"])
def test_files_keep_what_a_frame_says_of_its_run_and_the_dtypes_of_other_columns(untold, tmp_path, suffix):
    """As they went, so that chunks and answers are found from a file; also twice."""
    df = untold.assign(**OWN)
    place = tmp_path / f"frame{suffix}"
    for _ in range(2):
        nbllm.bench.save(df, place)
        back = nbllm.bench.load(place)
        assert df.attrs["nbllm"] == {k: v for k, v in back.attrs["nbllm"].items() if k in df.attrs["nbllm"]}
        pd.testing.assert_frame_equal(back, df, check_categorical=False)
        df = back
    assert len(nbllm.bench.chunks(back))
    assert 3 == len(nbllm.bench.answers(back))
    assert list(df.columns) == list(back.columns)


@pytest.mark.parametrize(("lasts", "said"), [(0.9, ""), (0.1, "m: ")])
def test_a_load_that_was_not_reached_is_said(lasts, said):
    """Two at a time of four; and nothing where it was."""
    n, wanted = 40, 4
    calls = [int(i * 1e9 / wanted) for i in range(n)]
    row = {"run_id": "r", "name": "m", "block": 0, "phase": "measure", "start_kind": "warm"}
    load = {"concurrency": wanted, "sched_delay_ms": 0.0}
    df = columns.frame({**row, **load, "ns_call": at, "ns_tokN": at + int(lasts * 1e9)} for at in calls)
    assert missed_load_warning(df).removeprefix("The load was not reached: ").startswith(said)
    assert bool(said) == bool(missed_load_warning(df))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        missed_load_warning(df[:0])
