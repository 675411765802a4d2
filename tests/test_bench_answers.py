"""What goes into a run and what comes out of it: tables of prompts, lines of files, answers that are kept and
scored, frames that come back from files as they went."""

import json

import pandas as pd
import pytest

import nbllm
from nbllm.bench import prompt_set
from nbllm.core import errors
from nbllm.store import columns

ODD = "first\u2028second\x0cthird\x85fourth\x1efifth"
FAST = "sim/openai@ttft=0.001,gap=0.001,tokens=3"


@pytest.fixture(autouse=True)
def runs_here(tmp_path, monkeypatch):
    """Runs without a directory are kept in the test's own."""
    monkeypatch.setenv("NBLLM_RUNS", str(tmp_path / "runs"))


@pytest.mark.parametrize(
    ("table", "column", "more"),
    [
        ({"prompt": ["a", "b"], "answer": ["x", None]}, None, [{"answer": "x"}, {}]),
        ({"question": ["a", "b"], "category": [1, 2]}, "question", [{"category": 1}, {"category": 2}]),
        ({"instruction": ["a", "b"], "text": ["t", "u"]}, "instruction", [{"prompt_text": t} for t in "tu"]),
        ({"prompt": ["a", "b"], "max_tokens": [3, 4], 7: [1.5, 2.5]}, None, [{"7": 1.5}, {"7": 2.5}]),
        (
            {"prompt": ["a", "b"], "when": pd.to_datetime(["2026-01-01"] * 2)},
            None,
            [{"when": "2026-01-01 00:00:00"}] * 2,
        ),
    ],
)
def test_any_table_of_prompts_is_one(table, column, more):
    """Its other columns ride along; options of a call stay options."""
    found = prompt_set(pd.DataFrame(table), column)
    assert ["a", "b"] == [p.turns[0][-1].text for p in found]
    assert more == [dict(p.more) for p in found]


@pytest.mark.parametrize("column", [None, "nobody"])
def test_a_table_without_the_column_says_what_to_do(column):
    """The name of the parameter, or of the columns there are."""
    with pytest.raises(errors.ConfigError) as told:
        prompt_set(pd.DataFrame({"question": ["a"]}), column)
    assert "question" in told.value.hint


@pytest.mark.parametrize("end", ["\n", "\r\n"])
@pytest.mark.parametrize("suffix", [".jsonl", ".txt"])
def test_a_line_ends_where_the_format_says(tmp_path, suffix, end):
    """U+2028, form feeds and their like are text."""
    place = tmp_path / f"prompts{suffix}"
    lines = [json.dumps({"prompt": ODD, "kind": "k"}, ensure_ascii=False) if suffix == ".jsonl" else ODD] * 2
    place.write_bytes(end.join([*lines, ""]).encode())
    found = prompt_set(place)
    assert [ODD] * 2 == [p.turns[0][-1].text for p in found]


@pytest.mark.parametrize("suffix", [".parquet", ".csv", ".jsonl"])
@pytest.mark.parametrize(
    "text",
    [ODD, "a\rb", "\r", "", "'", "''", "'=1", "=1", "a\r\nb\nc", '"', '","', "NA", "nan", "007", " x "],
)
def test_texts_come_back_as_they_went(tmp_path, suffix, text):
    """Whatever they hold, with as many rows."""
    rows = [
        {"run_id": "r", "request_id": f"{i}", "attempt": 1, "name": "a", "status": "ok", "error_msg": text}
        for i in range(3)
    ]
    rows[1]["error_msg"] = None
    place = nbllm.bench.save(columns.frame(rows), tmp_path / f"x{suffix}")
    assert [text, None, text] == [None if pd.isna(v) else v for v in nbllm.bench.load(place)["error_msg"]]


@pytest.mark.slow
def test_answers_are_kept_and_scored_and_columns_ride_along():
    """by= takes a column of the prompts; a score is a metric like others; joined frames find both."""
    table = pd.DataFrame({"prompt": ["One.", "Two."], "category": ["x", "y"], "status": ["1", "2"]})
    made = [
        nbllm.bench.run(
            [FAST],
            table,
            blocks=4,
            warmup=0,
            progress=False,
            score=lambda answer, more: more["category"] == "x",
        )
        for _ in range(2)
    ]
    df = pd.concat(made, ignore_index=True)
    assert {("x", "1", 1.0), ("y", "2", 0.0)} == set(
        df[["category", "prompt_status", "score"]].itertuples(index=False, name=None)
    )
    told = nbllm.bench.summary(df, by="category", metrics=["score", "ttft_ms"], stats="mean").set_index(
        "category"
    )
    assert [1.0, 0.0] == list(told[told["metric"] == "score"]["value"])
    texts = nbllm.bench.answers(df)
    assert (8, True) == (len(texts), texts["answer"].str.len().gt(0).all())
    assert {"One.", "Two."} == set(texts["prompt"])


@pytest.mark.slow
def test_answers_can_be_left_out_and_runs_in_a_folder_are_found(tmp_path):
    """keep_answers=False keeps none; a run that named its directory is listed and found."""
    made = [
        nbllm.bench.run(
            [FAST],
            "Go.",
            blocks=1,
            warmup=0,
            progress=False,
            keep_answers=False,
            directory=tmp_path / f"d{i}",
        )
        for i in range(2)
    ]
    df = pd.concat(made, ignore_index=True)
    assert 0 == len(nbllm.bench.answers(df))
    assert 2 == nbllm.bench.chunks(df)["run_id"].nunique()
    assert set(df["run_id"]) == set(nbllm.bench.runs()["run_id"])


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"score": "answer"}, "expected answer 'answer'"),
        ({"score": 5}, "is not a score"),
        ({"score": len, "keep_answers": False}, "needs the answers"),
    ],
)
def test_what_cannot_be_scored_is_told_before_it_is_paid_for(options, words):
    """A column there is not, and no answers."""
    with pytest.raises(errors.ConfigError, match=words):
        nbllm.bench.run([FAST], "Go.", progress=False, **options)


def test_no_tokens_beside_text_are_not_believed():
    """A proxy that counts nothing: an estimate, and no price of nothing."""
    from nbllm.core.events import Usage
    from nbllm.store.measure import _is_usage_false

    class Piece:
        chars = 5

    assert _is_usage_false(Usage(input_tokens=0, output_tokens=0), [Piece()])
    assert not _is_usage_false(Usage(input_tokens=3, output_tokens=0), [])
    assert not _is_usage_false(Usage(input_tokens=3, output_tokens=1), [Piece()])
