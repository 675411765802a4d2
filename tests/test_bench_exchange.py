"""Results of other tools as frames, frames for other tools, and recorded traffic as load."""

import json
import warnings

import pandas as pd
import pytest

import nbllm
from nbllm.bench import traces
from nbllm.core import errors

FAST = "sim/openai@ttft=0.001,gap=0.001,tokens=3"
START = 1_760_000_000.0
NEAR = pytest.approx


@pytest.fixture(autouse=True)
def runs_here(tmp_path, monkeypatch):
    """Runs without a directory are kept in the test's own."""
    monkeypatch.setenv("NBLLM_RUNS", str(tmp_path / "runs"))


def timings(i, tokens=11):
    """A request called every second: 0.2 s to the first token, 0.01 s between two."""
    at = START + i
    return {
        "targeted_start": at - 0.05,
        "request_start": at,
        "first_token_iteration": at + 0.2,
        "last_token_iteration": at + 0.2 + 0.01 * (tokens - 1),
        "token_iterations": tokens,
        "request_end": at + 0.5,
    }


def guidellm(**odd):
    """As 0.8 writes it."""
    request = {
        "output_metrics": {"total_tokens": 11},
        "input_metrics": {"total_tokens": 7, "cached_tokens": 2},
    }
    good = [request | {"request_id": f"g{i}", "info": {"timings": timings(i)}} for i in range(3)]
    bad = request | {"request_id": "b", "info": {"timings": timings(3), "error": "no"}, "output_metrics": {}}
    config = {"strategy": {"type_": "concurrent", "streams": 4}, "backend": {"model": "qwen"}}
    return {
        "benchmarks": [
            {"config": config, "requests": {"successful": good, "errored": [bad], "incomplete": []}}
        ]
    } | odd


def older():
    """As 0.3 wrote it."""
    flat = {"start_time": START, "end_time": START + 0.5, "first_token_time": START + 0.2}
    flat |= {"last_token_time": START + 0.3, "prompt_tokens": 7, "output_tokens": 11, "request_id": "g0"}
    return {"args": {"model": "qwen"}, "benchmarks": [{"requests": {"successful": [flat]}}]}


def aiperf():
    """Records as 0.13 writes them, one failed."""
    at = int(START * 1e9)
    about = {"benchmark_phase": "profiling", "was_cancelled": False, "request_start_ns": at}
    metrics = {
        "time_to_first_token": {"value": 200.0, "unit": "ms"},
        "request_latency": {"value": 0.3, "unit": "sec"},
        "input_sequence_length": {"value": 7, "unit": "tokens"},
        "output_sequence_length": {"value": 11, "unit": "tokens"},
        "inter_chunk_latency": {"value": [10.0] * 10, "unit": "ms"},
    }
    error = {"code": 503, "type": "Busy", "message": "later"}
    return [
        {"metadata": about | {"x_request_id": "a"}, "metrics": metrics, "error": None},
        {
            "metadata": about | {"x_request_id": "b", "request_start_ns": at + 10**9},
            "metrics": {},
            "error": error,
        },
    ]


def test_guidellms_requests_are_a_frame(tmp_path):
    """Times from each request's own start, tokens, what failed; its level of load."""
    place = tmp_path / "benchmarks.json"
    place.write_text(json.dumps(guidellm()))
    df = nbllm.bench.load(place)
    good = df[df["ok"]]
    assert (4, 3, {"qwen"}, {4}) == (len(df), len(good), set(df["name"]), set(df["concurrency"]))
    assert [NEAR(200.0)] * 3 == list(good["ttft_ms"])
    assert [NEAR(300.0)] * 3 == list(good["e2e_ms"])
    assert [NEAR(10.0)] * 3 == list(good["itl_ms"])
    assert [NEAR(250.0)] * 3 == list(good["ttft_sched_ms"])
    assert (["no"], [7] * 4) == (list(df[~df["ok"]]["error_msg"]), list(df["in_tokens"]))
    assert 0.75 == nbllm.bench.summary(df, metrics="ok_share", stats="mean")["value"].iloc[0]
    assert "no blocks" in nbllm.bench.compare(df.assign(name=["a", "b", "a", "b"]))["note"].iloc[0]


def test_an_older_guidellm_is_read_too(tmp_path):
    """Flat requests, the model among the arguments."""
    place = tmp_path / "benchmarks.json"
    place.write_text(json.dumps(older()))
    row = nbllm.bench.load(place).iloc[0]
    assert ("qwen", NEAR(200.0), NEAR(300.0), 11) == (
        row["name"],
        row["ttft_ms"],
        row["e2e_ms"],
        row["out_tokens"],
    )


def test_aiperfs_records_are_a_frame(tmp_path):
    """Units as they are told; the model and the load out of the summary beside them."""
    place = tmp_path / "profile_export.jsonl"
    place.write_text("\n".join(map(json.dumps, aiperf())))
    told = {"endpoint": {"model_names": ["qwen"]}, "loadgen": {"concurrency": 8}}
    (tmp_path / "profile_export_aiperf.json").write_text(json.dumps({"input_config": told}))
    df = nbllm.bench.load(place)
    assert [(True, "ok"), (False, "http_error")] == list(zip(df["ok"], df["status"], strict=True))
    first = df.iloc[0]
    assert (NEAR(200.0), NEAR(300.0), NEAR(10.0)) == (first["ttft_ms"], first["e2e_ms"], first["itl_ms"])
    assert ({"qwen"}, {8}, 503) == (set(df["name"]), set(df["concurrency"]), df["http_status"].iloc[1])


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*left out")
@pytest.mark.parametrize(
    "odd", [None, 5, "x", [], {}, [None], {"a": {"b": []}}, float("nan"), True, 1e300, -1, 10**30]
)
def test_odd_values_of_a_strangers_file_are_not_there(tmp_path, odd):
    """A request for every field that it has instead: never an error of Python's."""
    place = tmp_path / "benchmarks.json"
    found = guidellm()
    requests = found["benchmarks"][0]["requests"]["successful"]
    for name in (*timings(0), "info", "output_metrics", "input_metrics", "request_id"):
        (request, *_) = guidellm()["benchmarks"][0]["requests"]["successful"]
        (request if name in request else request["info"]["timings"])[name] = odd
        requests.append(request)
    place.write_text(json.dumps(found))
    assert 4 + 10 - 2 <= len(nbllm.bench.load(place)) <= 4 + 10, "two have no start to be told"
    records = []
    for part, name in (
        ("metadata", "request_start_ns"),
        ("metadata", "x_request_id"),
        ("metrics", "request_latency"),
        ("metrics", "inter_chunk_latency"),
    ):
        record, _ = aiperf()
        record[part][name] = odd
        records.append(record)
    lines = tmp_path / "profile_export.jsonl"
    lines.write_text("\n".join(map(json.dumps, [*records, *aiperf()])))
    assert 5 <= len(nbllm.bench.load(lines)) <= 6
    for config in ("config", "requests"):
        found = guidellm()
        found["benchmarks"][0][config] = odd
        place.write_text(json.dumps(found))
        nbllm.bench.load(place)


@pytest.mark.parametrize(
    "text", ["", "{", "[" * 100_000, "null", "5", '{"a": 1}', '{"metadata": {}, "metrics": {}}\n{"me']
)
@pytest.mark.parametrize("suffix", [".json", ".jsonl"])
def test_what_is_nobodys_file_says_so(tmp_path, text, suffix):
    """Cut short, deep, or of something else: an error of ours, with the file's name."""
    place = tmp_path / f"results{suffix}"
    place.write_text(text)
    if (text, suffix) == ("", ".jsonl"):
        assert 0 == len(nbllm.bench.load(place)), "a frame without rows"
        return
    with pytest.raises(errors.ConfigError, match="results"):
        nbllm.bench.load(place)


@pytest.fixture(scope="module")
def measured(tmp_path_factory):
    """Two models, two prompts twice, one that fails, scored; only read."""
    table = pd.DataFrame({"prompt": ["One.", "Two."], "want": ["x", "y"]})
    models = [FAST, {"model": "sim/openai@status=503", "name": "down"}]
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("NBLLM_RUNS", str(tmp_path_factory.mktemp("runs")))
        return nbllm.bench.run(
            models,
            table,
            blocks=4,
            warmup=0,
            progress=False,
            score=lambda said, _: len(said) > 0,
            directory=tmp_path_factory.mktemp("measured"),
        )


@pytest.mark.slow
def test_a_frame_goes_to_guidellm_and_back(measured, tmp_path):
    """The same times and tokens."""
    place = nbllm.bench.export(measured, tmp_path / "benchmarks.json", to="guidellm")
    back = nbllm.bench.load(place).set_index("request_id")
    there = measured.set_index("request_id")
    assert set(there.index) == set(back.index)
    good = there.index[there["ok"]]
    for column in ("ttft_ms", "e2e_ms"):
        assert list(there.loc[good, column]) == NEAR(list(back.loc[good, column]), abs=0.01)
    assert list(there.loc[good, "out_tokens"]) == list(back.loc[good, "out_tokens"])
    assert [False] * 4 == list(back.loc[there.index[~there["ok"]], "ok"])


@pytest.mark.slow
def test_a_frame_as_inspects_logs(measured, tmp_path):
    """One a model; a sample for each prompt and repetition, with its score."""
    place = nbllm.bench.export(measured, tmp_path / "logs", to="inspect")
    logs = [json.loads(p.read_text()) for p in sorted(place.glob("*.json"))]
    assert [FAST, "down"] == [log["eval"]["model"] for log in logs]
    samples = logs[0]["samples"]
    assert [(i, e) for e in (1, 2) for i in ("p0", "p1")] == sorted(
        ((s["id"], s["epoch"]) for s in samples), key=lambda k: k[::-1]
    )
    assert all(
        s["output"]["choices"][0]["message"]["content"] and s["scores"]["score"]["value"] == 1.0
        for s in samples
    )
    assert [[]] * 4 == [s["output"]["choices"] for s in logs[1]["samples"]]
    assert [4, 0] == [log["results"]["completed_samples"] for log in logs]
    assert [1.0] == [s["metrics"]["mean"]["value"] for s in logs[0]["results"]["scores"]]
    assert [{None}, {503}] == [
        {s["error"] and int("503" in s["error"]["message"]) * 503 for s in log["samples"]} for log in logs
    ]


@pytest.mark.slow
def test_a_frame_as_promptfoos_results(measured, tmp_path):
    """A test a prompt each time it was asked, a provider a model, passes and errors counted."""
    place = nbllm.bench.export(measured, tmp_path / "results.json", to="promptfoo")
    found = json.loads(place.read_text())["results"]
    assert (3, 8) == (found["version"], len(found["results"]))
    assert (4, 0, 4) == tuple(found["stats"][k] for k in ("successes", "failures", "errors"))
    good = [r for r in found["results"] if r["success"]]
    assert {FAST} == {r["provider"]["id"] for r in good}
    assert {"One.", "Two."} == {r["vars"]["prompt"] for r in good}
    assert 8 == len({(r["testIdx"], r["promptIdx"]) for r in found["results"]}), "a cell of its own each"
    assert [0, 1, 2, 3] == sorted(r["testIdx"] for r in good)
    assert 4 == len({(r["testIdx"], r["vars"]["prompt"]) for r in found["results"]})
    assert [(4, 0, 0), (0, 0, 4)] == [
        tuple(p["metrics"][f"test{k}Count"] for k in ("Pass", "Fail", "Error")) for p in found["prompts"]
    ]
    for r in found["results"]:  # its import refuses a null, and a result without the prompt's id
        assert {"prompt"} == {r["promptId"], *(p["id"] for p in found["prompts"])}
        assert None not in r.values()
    with pytest.raises(errors.ConfigError, match="not a known format"):
        nbllm.bench.export(measured, place, to="prompfoo")


# --- traces ---

MOONCAKE = [
    {"timestamp": t, "input_length": 10 + t // 10, "output_length": 3, "hash_ids": [1, t]}
    for t in (30, 0, 10)
]


def span(at, **attributes):
    told = [{"key": k.replace("__", "."), "value": {"intValue": str(v)}} for k, v in attributes.items()]
    return {"startTimeUnixNano": str(int((START + at) * 1e9)), "attributes": told}


def test_mooncakes_lines_are_times_and_prompts(tmp_path):
    """In the order of their times; as long as they were; alike where they share blocks."""
    place = tmp_path / "trace.jsonl"
    place.write_text("\n".join(map(json.dumps, MOONCAKE)))
    found = nbllm.bench.trace(place, speed=2, block=8)
    assert (0.0, 0.005, 0.015) == NEAR(found.times)
    texts = [p.turns[0][0].text.split() for p in found.prompts]
    assert [10, 11, 13] == [len(t) for t in texts]
    assert texts[0][:8] == texts[1][:8] == texts[2][:8]
    assert texts[0][8:] != texts[1][8:10]
    assert [{"max_tokens": 3}] * 3 == [p.options for p in found.prompts]
    assert 2 == len(nbllm.bench.trace(place, limit=2).times)


@pytest.mark.parametrize(
    "odd",
    [
        {"timestamp": "soon", "input_length": 5, "output_length": 1},
        {"timestamp": 5, "input_length": -1, "output_length": 1},
        {"timestamp": 5, "input_length": 5},
        {"input_length": 5, "output_length": 1},
        {},
        None,
        "text",
        span(1, gen_ai__usage__output_tokens=4),
    ],
)
def test_records_that_cannot_be_used_are_told(tmp_path, odd):
    """How many, and which is the first: a load with fewer requests is another load."""
    place = tmp_path / "trace.jsonl"
    place.write_text("\n".join(map(json.dumps, [MOONCAKE[0], odd, MOONCAKE[1], odd])))
    with pytest.warns(UserWarning, match="2 records of .*trace.jsonl left out.* number 2:") as told:
        assert 2 == len(nbllm.bench.trace(place).times)
    assert __file__ == told[0].filename


def test_spans_of_other_things_are_left_out_without_a_word(tmp_path):
    """A trace of an application has them in plenty."""
    place = tmp_path / "spans.jsonl"
    call = span(1, gen_ai__usage__input_tokens=9, gen_ai__usage__output_tokens=4)
    place.write_text("\n".join(map(json.dumps, [span(0, http__status=200), call, span(2)])))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert 1 == len(nbllm.bench.trace(place).times)


def test_spans_are_requests(tmp_path):
    """OTLP's nested lists and a span a line; what is no model's call is left out."""
    place = tmp_path / "spans.json"
    spans = [
        span(1, gen_ai__usage__input_tokens=9, gen_ai__usage__output_tokens=4),
        span(0, http__status=200),
    ]
    place.write_text(json.dumps({"resourceSpans": [{"scopeSpans": [{"spans": spans}, {}]}]}, indent=1))
    assert (0.0,) == nbllm.bench.trace(place).times
    said = json.dumps([{"role": "user", "parts": [{"type": "text", "content": "Why?"}]}])
    lines = [
        {
            "start_time": f"2026-01-01T00:00:0{i}Z",
            "attributes": {
                "gen_ai.usage.input_tokens": 2,
                "gen_ai.usage.output_tokens": 1,
                "gen_ai.input.messages": said,
            },
        }
        for i in range(2)
    ]
    place.write_text("\n".join(map(json.dumps, lines)))
    found = nbllm.bench.trace(place)
    assert ((0.0, 1.0), ["Why?"] * 2) == (found.times, [p.turns[0][0].text for p in found.prompts])


@pytest.mark.parametrize(
    ("name", "line", "read"),
    [
        ("trace.jsonl", MOONCAKE[0], nbllm.bench.trace),
        ("prompts.jsonl", {"prompt": "Go."}, nbllm.bench.prompt_set),
        ("rows.jsonl", {"request_id": "a", "name": "b", "status": "ok"}, nbllm.bench.load),
        ("profile_export.jsonl", aiperf()[0], nbllm.bench.load),
    ],
)
def test_a_torn_line_is_named_with_its_place_in_the_file(tmp_path, name, line, read):
    """Blank lines count."""
    place = tmp_path / name
    whole = json.dumps(line)
    place.write_text(f"{whole}\n\n{whole}\n{whole[:-3]}\n{whole}")
    with pytest.raises(errors.ConfigError, match=rf"{name}.* line [45] column"):
        read(place)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "no requests"),
        ("[1, null]", "no requests"),
        ("{", "is not valid JSON"),
        ('{"timestamp": "x", "input_length": 1, "output_length": 1}', "no requests"),
        ('{"timestamp": 1, "input_length": 1e300, "output_length": 1}', "no requests"),
    ],
)
def test_what_is_no_trace_says_so(tmp_path, text, words):
    """And a file that is not there."""
    place = tmp_path / "trace.jsonl"
    place.write_text(text)
    with pytest.raises(errors.ConfigError, match=words):
        nbllm.bench.trace(place)
    with pytest.raises(errors.ConfigError, match="cannot be read"):
        nbllm.bench.trace(tmp_path / "nothing.jsonl")
    with pytest.raises(errors.ConfigError, match="above 0"):
        nbllm.bench.trace(place, speed=0)


@pytest.mark.slow
def test_a_trace_is_sent_at_its_times_with_its_own_prompts():
    """In each block alike; a load of its own beside it is refused."""
    found = traces.Trace((0.0, 0.02, 0.03), tuple(nbllm.bench.prompt_set(["a", "b", "c"])))
    df = nbllm.bench.run([FAST], found, blocks=2, warmup=0, progress=False)
    assert ["p0", "p1", "p2"] * 2 == list(df["prompt_id"])
    assert {"replay"} == set(df["load_kind"])
    starts = df.groupby("block")["ns_sched"].apply(lambda s: [round((v - s.iloc[0]) / 1e6) for v in s])
    assert [[0, 20, 30]] * 2 == list(starts)
    with pytest.raises(errors.ConfigError, match="its own times"):
        nbllm.bench.run([FAST], found, rate=2, progress=False)


@pytest.mark.parametrize(
    "odd",
    [
        {"speed": "2"},
        {"speed": float("inf")},
        {"speed": float("nan")},
        {"limit": 1.5},
        {"limit": 0},
        {"block": 2.5},
        {"block": "x"},
    ],
)
def test_an_option_of_a_trace_of_another_kind_is_told(tmp_path, odd):
    """And a path that is none."""
    place = tmp_path / "trace.jsonl"
    place.write_text('{"timestamp": 0, "input_length": 600, "output_length": 1, "hash_ids": [1]}')
    with pytest.raises(errors.ConfigError, match="above 0"):
        nbllm.bench.trace(place, **odd)
    with pytest.raises(errors.ConfigError, match="is not a path"):
        nbllm.bench.trace(None)


def test_a_time_before_its_call_is_none(tmp_path):
    """Nor is a count below 0; an answer without a start is left out, and that is said."""
    place = tmp_path / "benchmarks.json"
    found = guidellm()
    first, second, third = found["benchmarks"][0]["requests"]["successful"]
    first["info"]["timings"]["first_token_iteration"] = START - 5
    second["output_metrics"] = {"total_tokens": -5}
    third["info"]["timings"] = {}
    found["benchmarks"][0]["requests"]["incomplete"] = 5
    place.write_text(json.dumps(found))
    with pytest.warns(UserWarning, match="1 answer of .* left out"):
        df = nbllm.bench.load(place).set_index("request_id")
    assert ["g0", "g1", "b"] == list(df.index)
    assert pd.isna(df.loc["g0", "ttft_ms"])
    assert pd.isna(df.loc["g1", "out_tokens"])
    assert not (df[["ttft_ms", "e2e_ms"]] < 0).any(axis=None)


def test_a_damaged_summary_beside_aiperfs_records_costs_none(tmp_path):
    """Cut short, or deep."""
    place = tmp_path / "profile_export.jsonl"
    place.write_text("\n".join(map(json.dumps, aiperf())))
    for text in ('{"inp', "[" * 100_000, "[1]"):
        (tmp_path / "profile_export_aiperf.json").write_text(text)
        assert 2 == len(nbllm.bench.load(place))


@pytest.mark.slow
@pytest.mark.parametrize("to", ["guidellm", "inspect", "promptfoo"])
def test_what_is_exported_is_json(measured, tmp_path, to):
    """An infinite figure is none; nothing to write, or nowhere, is told."""
    place = nbllm.bench.export(
        measured.assign(ttft_ms=float("inf"), cost_usd=float("inf")), tmp_path / "x", to
    )
    for file in sorted(place.iterdir()) if place.is_dir() else [place]:
        json.loads(file.read_text(), parse_constant=lambda word: pytest.fail(f"{word} is no JSON"))
    with pytest.raises(errors.ConfigError, match="is not a path"):
        nbllm.bench.export(measured, None, to)
    if to == "inspect":
        with pytest.raises(errors.ConfigError, match="no requests"):
            nbllm.bench.export(measured.iloc[:0], tmp_path / "y", to)


@pytest.mark.slow
def test_columns_of_the_users_own_come_back_or_are_told(measured, tmp_path):
    """One without any value, one of mixed kinds."""
    df = measured[:2]
    empty = df.assign(note=pd.Series([float("nan")] * len(df), df.index))
    back = nbllm.bench.load(nbllm.bench.save(empty, tmp_path / "x.jsonl"))
    assert back["note"].dtype == "float64"
    assert back["note"].isna().all()
    with pytest.raises(errors.ConfigError, match="Parquet"):
        nbllm.bench.save(df.assign(note=pd.Series([1, "a"], df.index, dtype=object)), tmp_path / "x.parquet")
