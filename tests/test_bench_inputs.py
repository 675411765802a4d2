"""Frames and prompts as people have them: what lacks columns works, what is no frame is told in our words."""

import csv
import json
import math

import numpy as np
import pandas as pd
import pyarrow
import pytest

import nbllm
from nbllm import bench
from nbllm.bench.plots import KINDS
from nbllm.errors import ConfigError

N = 12


def frame(**more):
    """Two models, each request with a time; the second takes twice as long."""
    return pd.DataFrame(
        {
            "name": ["a", "b"] * N,
            "status": "ok",
            "ttft_ms": [10.0 + i % 5 if i % 2 == 0 else 20.0 + i % 5 for i in range(2 * N)],
            **more,
        }
    )


USES = {
    "summary": bench.summary,
    "compare": bench.compare,
    "leaderboard": bench.leaderboard,
    "goodput": lambda df: bench.goodput(df, ttft_ms=15),
    "check": lambda df: bench.check(df, df),
    "report": bench.report,
    **{kind: lambda df, kind=kind: bench.plot(df, kind) for kind in KINDS if kind != "timeline"},
}


@pytest.mark.slow
@pytest.mark.parametrize("use", USES)
def test_a_frame_that_lacks_columns_is_used_as_far_as_it_goes(use):
    """Whoever makes a frame has the columns that they know."""
    USES[use](frame())
    USES[use](frame()[:0])


@pytest.mark.parametrize("use", USES)
@pytest.mark.parametrize(
    ("df", "words"),
    [
        ([1, 2], "a frame of requests, not list"),
        (pd.DataFrame({"x": [1]}), "needs a column name"),
        (frame(name=None), "24 rows without a name"),
        (pd.concat([frame(), frame()[["name"]]], axis=1), "Two columns are called 'name'"),
    ],
    ids=["list", "other columns", "no names", "twice"],
)
def test_what_is_no_frame_of_requests_is_told(use, df, words):
    """Never by an error of pandas."""
    with pytest.raises(ConfigError, match=words):
        USES[use](df)


@pytest.mark.slow
def test_the_shorter_frame_gives_the_figures_of_the_whole():
    """Without blocks the two are compared unpaired."""
    told = bench.compare(frame(), metrics="ttft_ms").iloc[0]
    assert ("faster", "unpaired") == (told["verdict"], told["method"])
    board = bench.leaderboard(frame())
    assert [N, N] == list(board["n"])
    assert ["<", ">"] == [board["2"][0], board["1"][1]]
    assert [N, 0] == list(bench.goodput(frame(), ttft_ms=15)["good"])


@pytest.mark.slow
@pytest.mark.parametrize("use", USES)
def test_frames_put_together_are_a_frame(use):
    """pd.concat keeps their labels, so that each stands there twice."""
    USES[use](pd.concat([frame(run_id="a"), frame(run_id="b")]))


def test_an_infinite_time_of_an_answer_is_none():
    """It counts as not measured, without a warning."""
    df = frame(block=[i // 2 for i in range(2 * N)])
    df.loc[0, "ttft_ms"] = math.inf
    told = bench.summary(df, metrics="ttft_ms", by="name", stats="p50")
    assert [N - 1, N] == list(told["n"])
    assert 1 == bench.compare(df, metrics="ttft_ms")["n_dropped"].iloc[0]


@pytest.mark.parametrize("level", [95, 0, 1, "0.95", None, math.nan, True])
@pytest.mark.parametrize("use", ["summary", "compare", "leaderboard", "goodput"])
def test_a_level_is_a_share(use, level):
    with pytest.raises(ConfigError, match="level must be between"):
        getattr(bench, use)(frame(), level=level, **({"ttft_ms": 5} if use == "goodput" else {}))


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"by": 5}, "by must be a string"),
        ({"metrics": 5}, "metrics must be a string"),
        ({"metrics": [5]}, "metrics must be a string"),
        ({"stats": 5}, "stats must be a string"),
        ({"phase": "all"}, "'all' is not a phase"),
        ({"phase": ["measure"]}, "is not a phase"),
    ],
)
def test_options_of_another_kind_are_told(options, words):
    with pytest.raises(ConfigError, match=words):
        bench.summary(frame(), **options)


@pytest.mark.parametrize("margin", ["x", None, -1, math.nan, True])
def test_a_margin_is_a_number(margin):
    with pytest.raises(ConfigError, match="margin must be at least"):
        bench.compare(frame(), margin=margin)


@pytest.mark.parametrize("suffix", ["csv", "jsonl", "parquet"])
def test_half_a_character_in_a_users_column_costs_no_file(tmp_path, suffix):
    """No file can hold it: a question mark stands in its place."""
    given = frame(request_id="r", mine=pd.Series(["a\ud800", "🙂"] * N, dtype=object))
    kept = bench.load(bench.save(given, tmp_path / f"run.{suffix}"))
    assert ["a?", "🙂"] * N == list(kept["mine"])


@pytest.mark.parametrize("write", [bench.save, pytest.param(bench.report, marks=pytest.mark.slow)])
def test_a_place_that_cannot_be_written_is_told(tmp_path, write):
    """A folder that is not there, and one in the place of the file; nothing is left behind."""
    (tmp_path / "run.csv").mkdir()
    for place in (tmp_path / "none" / "run.csv", tmp_path / "run.csv"):
        with pytest.raises(ConfigError, match="cannot be written"):
            write(frame(request_id="r")[:0], place)
    assert ["run.csv"] == [at.name for at in tmp_path.iterdir()]


def test_a_summary_is_no_frame_to_keep(tmp_path):
    """What load refuses, save refuses."""
    with pytest.raises(ConfigError, match="needs a column name"):
        bench.save(bench.summary(frame()), tmp_path / "x.csv")
    with pytest.raises(ConfigError, match="is not a path or a run"):
        bench.load(5)


# --- prompts ---


def texts(given, **options):
    return [(p.turns[0][-1].text, dict(p.more)) for p in bench.prompt_set(given, **options)]


@pytest.mark.parametrize(
    ("given", "words"),
    [
        (pd.DataFrame({"prompt": ["a"], "max_tokens": ["many"]}), "Prompt 0 .*max_tokens cannot be 'many'"),
        ([{"prompt": "a", "temperature": [1]}], "Prompt 0 .*temperature cannot be"),
        ([{"prompt": "a", "schema": "{"}], "Prompt 0 .*schema cannot be"),
        ([{"prompt": "a", "schema": {"type": "strng"}}], r"Prompt 0 .*not valid at \$\.type"),
        ([{"prompt": "a", "schema": 7}], "Prompt 0 .*Not a schema: int"),
        ([{"prompt": "a", "schema": "name nothing"}], "Prompt 0 .*Unknown type"),
        ([{"prompt": "a", "tools": "{"}], "Prompt 0 .*tools cannot be"),
        (pd.DataFrame({"prompt": ["a", None]}), "Prompt 1 .*column 'prompt' is missing"),
        (pd.DataFrame([["a", "b"]], columns=["prompt", "prompt"]), "Two columns are called 'prompt'"),
    ],
)
def test_a_prompt_that_cannot_be_read_is_named(given, words):
    with pytest.raises(ConfigError, match=words):
        bench.prompt_set(given)


@pytest.mark.slow
@pytest.mark.parametrize("text", ["name, age int", " [name, age int]", '{"type": "object"}'])
def test_a_schema_is_said_as_in_a_cell(text):
    """In its short form too, also in a table and in a model's own options."""
    (prompt,) = bench.prompt_set(pd.DataFrame({"prompt": ["a"], "schema": [text]}))
    assert "object" == prompt.options["schema"]["type"]
    how = {"blocks": 1, "warmup": 0, "progress": False}
    df = bench.run({"model": "sim/openai@ttft=0,gap=0", "schema": "name, age int"}, "Who?", **how)
    assert list(df["ok"]) == [True]


def test_a_column_that_is_asked_may_be_empty_in_one_row():
    with pytest.raises(ConfigError, match=r"Prompt 1 .*column 'q' is empty"):
        bench.prompt_set(pd.DataFrame({"q": ["a", np.nan], "x": 1}), prompt="q")


def test_a_long_prompt_of_a_csv_file_is_whole(tmp_path):
    """Longer than the csv module reads by itself, whose limit stays what it was."""
    before, place = csv.field_size_limit(), tmp_path / "long.csv"
    place.write_text(f"prompt,answer\n{'x' * 200_000},y\n")
    assert [("x" * 200_000, {"answer": "y"})] == texts(place)
    assert before == csv.field_size_limit()


@pytest.mark.parametrize(
    ("name", "text", "words"),
    [
        ("deep.json", "[" * 100_000, "does not hold prompts"),
        ("twice.csv", "prompt,x,x\na,1,2\n", "Two columns are called 'x'"),
    ],
)
def test_a_file_that_is_none_of_prompts_is_told(tmp_path, name, text, words):
    (tmp_path / name).write_text(text)
    with pytest.raises(ConfigError, match=words):
        bench.prompt_set(tmp_path / name)


@pytest.mark.slow
def test_columns_of_prompts_that_have_our_names_keep_their_values(tmp_path, monkeypatch):
    """They ride along as prompt_NAME: what was measured stands under the name."""
    monkeypatch.setenv("NBLLM_RUNS", str(tmp_path))
    own = {"status": "x", "score": 7, "passed": "y", "check_it": "z", "mine": 3}
    df = bench.run(
        "sim/openai@ttft=0.001,gap=0.0001,tokens=2",
        pd.DataFrame([{"prompt": "a", **own}]),
        asserts={"it": "latency: 60s"},
        blocks=1,
        warmup=0,
        progress=False,
        client=nbllm.Client(ledger=None),
    )
    told = df.iloc[0]
    assert own == {name: told[name if name == "mine" else f"prompt_{name}"] for name in own}
    assert ["ok", 1.0, True] == [told["status"], told["check_it"], told["passed"]]


# --- options of a run ---

ONE = "sim/openai@ttft=0.001,gap=0.0001,tokens=2"


@pytest.mark.parametrize(
    ("option", "value"),
    [
        *(("models", v) for v in (None, 5, [None], [5])),
        *(("per_turn", v) for v in (0, "x", 2.5, True)),
        *(("cooldown", v) for v in (-1, "x", 1.5, None)),
        *(("idle", v) for v in (5, [], [-1], ["x"], [math.nan])),
        *(("cold", v) for v in (5, [], None, ["nope"])),
        *(("seed", v) for v in ("x", 1.5, True)),
        *(("stop_when", v) for v in (0, -1, "x", math.inf)),
        *(("keep_answers", v) for v in ("no", None)),
        *(("disturb", v) for v in ("x", (2, 1))),
        *(("directory", v) for v in (5,)),
        *(("retries", v) for v in (-1, "x", 1.5)),
        *(("think", v) for v in (-1, "x", (2, 1), (1, 2, 3))),
        *(("rate", v) for v in (math.inf, math.nan, 0)),
        *(("asserts", v) for v in (5, [5])),
        *(("judge", v) for v in ("nope/x", 5)),
    ],
)
def test_an_option_of_a_run_of_another_kind_is_told_before_anything_is_sent(
    tmp_path, monkeypatch, option, value
):
    """And no run is begun."""
    monkeypatch.setenv("NBLLM_RUNS", str(tmp_path))
    options = {"models": [ONE, {"model": ONE, "name": "b"}], "progress": False, option: value}
    options |= {"score": "judge: which is better?"} if option == "judge" else {}
    with pytest.raises(ConfigError):
        bench.run(prompts="Hi.", **options)
    assert not list(tmp_path.iterdir())


def test_a_judge_of_one_model_is_told_before_anything_is_sent(tmp_path, monkeypatch):
    monkeypatch.setenv("NBLLM_RUNS", str(tmp_path))
    with pytest.raises(ConfigError, match="answers of two models"):
        bench.run(ONE, "Hi.", score="judge: which is better?", judge=ONE, progress=False)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("rows", "options", "words"),
    [
        ([("a", "a", "a")], {}, "compares a model with itself"),
        ([("a", "b", "a")], {"level": 95}, "level must be between"),
        ([("a", "b", "c")], {}, "is neither a nor b"),
    ],
)
def test_comparisons_that_are_none_are_told(rows, options, words):
    with pytest.raises(ConfigError, match=words):
        bench.win_rates(pd.DataFrame(rows, columns=["a", "b", "winner"]), **options)


@pytest.mark.parametrize("limit", [0, -1, "x", True])
def test_a_judges_limit_is_a_number_of_comparisons(limit):
    with pytest.raises(ConfigError, match="limit must be a number"):
        bench.judge(frame(), "Which?", ONE, limit=limit)


@pytest.mark.parametrize(
    "named", ["promts.jsnl", "data/questions", "my_prompts", "questions.xlsx", "C:\\data\\q", "./prompts"]
)
def test_a_word_that_looks_like_a_file_or_a_column_is_no_prompt(named):
    """It would be asked of every model, and paid for; in a list it is what was meant."""
    with pytest.raises(ConfigError, match="there is no such file") as told:
        bench.prompt_set(named)
    assert f"[{named!r}]" in told.value.hint
    assert [named] == [p.turns[0][0].text for p in bench.prompt_set([named])]


@pytest.mark.parametrize(
    "said", ["Go.", "hello", "Why?", "What is a/b?", "Explain main.py", "请解释TCP/IP协议。", "a_b\nc"]
)
def test_what_is_said_is_a_prompt(said):
    """However short."""
    assert [said] == [p.turns[0][0].text for p in bench.prompt_set(said)]


@pytest.mark.parametrize("given", [["One.", "Two."], "One.", None, [{"role": "user", "content": "One."}]])
def test_a_column_of_what_has_none_is_told(given):
    """prompt= names one, and texts have no columns."""
    with pytest.raises(ConfigError, match="column 'question' is empty"):
        bench.prompt_set(given, "question")


def test_tables_of_other_packages_are_tables():
    """Of pyarrow's; those of polars and datasets become pandas' in the same way."""
    table = pyarrow.table({"prompt": ["a", "b"], "answer": [1, None]})
    assert [("a", {"answer": 1.0}), ("b", {})] == [
        (p.turns[0][0].text, dict(p.more)) for p in bench.prompt_set(table)
    ]


def test_datasets_that_people_have_are_prompts(tmp_path):
    """Turns of a Parquet file (arrays), a prompt beside other texts, ShareGPT's conversations,
    JSON of records and of lines."""
    turns = pd.DataFrame({"turns": [np.array(["a", "b"], object)], "category": ["writing"]})
    turns.to_parquet(tmp_path / "x.parquet")
    said = [{"from": "human", "value": "a"}, {"from": "gpt", "value": "no"}, {"from": "human", "value": "b"}]
    shared = [{"id": "s1", "conversations": said, "category": "writing"}]
    (tmp_path / "x.json").write_text(json.dumps(shared, indent=1))
    (tmp_path / "lines.json").write_text("".join(json.dumps(row) + "\n" for row in shared))
    for given in (turns, tmp_path / "x.parquet", pd.DataFrame(shared), *(tmp_path.glob("*.json"))):
        (found,) = bench.prompt_set(given)
        assert (["a", "b"], {"category": "writing"}) == ([t[-1].text for t in found.turns], dict(found.more))
    table = pd.DataFrame({"prompt": ["a"], "messages": [[{"role": "user", "content": "b"}]], "text": ["c"]})
    for column in (None, "prompt", "text"):
        (found,) = bench.prompt_set(table, column)
        assert ("c" if column == "text" else "a") == found.turns[0][0].text
        assert 2 == len(found.more)
    for odd in (5, "x", [], [{"from": "human"}, 7], [{"value": "x"}], None):
        with pytest.raises(ConfigError, match="Prompt 0"):
            bench.prompt_set(pd.DataFrame({"conversations": [odd]}))


def test_dicts_have_columns_as_tables_have():
    """One is named, the others ride along."""
    assert [("a", {"x": 1})] == [
        (p.turns[0][0].text, dict(p.more)) for p in bench.prompt_set([{"question": "a", "x": 1}], "question")
    ]
