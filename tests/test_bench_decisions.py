"""What a run is made for: leaderboard, check against a baseline with its exit status, goodput, names."""

import subprocess
import sys

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as some

import nbllm
from nbllm.bench import check, goodput, leaderboard
from nbllm.bench.__main__ import main
from nbllm.bench.naming import short_names
from nbllm.core import errors
from nbllm.store import columns


def rows(name, middle, n=30, *, run_id="r", seed=0, concurrency=1, noise=0.05, fail=0.0, **more):
    rng = np.random.default_rng(seed)
    out = []
    for i in range(n):
        ok = bool(rng.random() >= fail)
        t = middle * float(np.exp(rng.normal(0, noise)))
        out.append(
            {
                "run_id": run_id,
                "request_id": f"{name}{concurrency}-{i}",
                "attempt": 1,
                "name": name,
                "block": i + 1000 * concurrency,
                "phase": "measure",
                "start_kind": "warm",
                "load_kind": "closed",
                "concurrency": concurrency,
                "ok": ok,
                "status": "ok" if ok else "rate_limited",
                "quality": "certified",
                "ns_call": i * 10**9,
                "ns_eof": i * 10**9 + int(t * 2e6),
                "ttft_ms": t if ok else None,
                "e2e_ms": 2 * t if ok else None,
                "cost_usd": 0.001 if ok else None,
                **more,
            }
        )
    return out


def frame(*parts, models=None):
    df = columns.frame([row for part in parts for row in part])
    if models:
        df.attrs["nbllm"] = {"run_id": "r", "models": models}
    return df


TWELVE = [f"openrouter/anthropic/claude-sonnet-4.{i}-2026-01-{i:02}-preview" for i in range(12)]


@pytest.mark.slow
def test_a_leaderboard_is_in_the_given_order_and_fits():
    """One row a model, whatever order the first block had; a matrix of one character each."""
    parts = [rows(n, 100 * 1.3**i, seed=i) for i, n in enumerate(TWELVE)]
    df = frame(*[parts[i] for i in np.random.default_rng(1).permutation(12)], models=TWELVE)
    board = leaderboard(df)
    assert TWELVE == list(board["name"])
    assert board["ttft_ms"].is_monotonic_increasing
    assert ["<"] * 11 == [board.loc[0, str(i)] for i in range(2, 13)]
    assert [">"] * 11 == [board.loc[11, str(i)] for i in range(1, 12)]
    assert {1} == {len(m) for m in board[[str(i) for i in range(1, 13)]].to_numpy().ravel() if m}
    assert 0.03 == pytest.approx(board["total_usd"].iloc[0])
    assert 12 == len(set(board.attrs["short"].values()))


@pytest.mark.slow
def test_a_leaderboard_of_one_and_of_levels():
    """No matrix; and a row for each setting, each with verdicts of its own."""
    assert 1 == len(leaderboard(frame(rows("a", 100))))
    df = frame(
        rows("a", 100),
        rows("b", 200, seed=1),
        rows("a", 300, concurrency=4),
        rows("b", 150, seed=1, concurrency=4),
    )
    board = leaderboard(df).set_index(["name", "concurrency"])
    assert ["<", ">"] == [board.loc[("a", 1), "2"], board.loc[("a", 4), "2"]]


@pytest.mark.slow
@pytest.mark.parametrize(("factor", "passed"), [(1.0, True), (0.5, True), (1.03, True), (1.5, False)])
def test_a_check_says_whether_a_run_became_worse(factor, passed, tmp_path):
    """By more than the margin; and its exit status says the same, from files."""
    then, now = frame(rows("a", 100)), frame(rows("a", 100 * factor, run_id="s", seed=1))
    table = check(now, then, metrics=["ttft_ms", "e2e_ms"])
    assert passed == table["passed"].all()
    assert table["note"].str.contains("different runs").all()
    paths = [str(nbllm.bench.save(df, tmp_path / f"{i}.parquet")) for i, df in enumerate((now, then))]
    assert (0 if passed else 1) == main(["check", *paths, "--metric", "ttft_ms"])


@pytest.mark.slow
def test_a_check_misses_a_model_and_takes_a_reference(capsys, tmp_path):
    """A model that is gone is not passed; a slow day is taken out by a model that both have."""
    slow = frame(rows("a", 150, run_id="s", seed=1), rows("ref", 75, run_id="s", seed=2))
    then = frame(rows("a", 100), rows("ref", 50, seed=3), rows("gone", 10))
    table = check(slow, then, metrics="ttft_ms", reference="ref").set_index("name")
    assert (True, "missing", False) == (
        bool(table.loc["a", "passed"]),
        table.loc["gone", "verdict"],
        bool(table.loc["gone", "passed"]),
    )
    assert 2 == main(["check", str(tmp_path / "no.parquet"), str(tmp_path / "no.parquet")])
    assert "no.parquet" in capsys.readouterr().err


@pytest.mark.slow
def test_the_command_is_there():
    """python -m nbllm.bench."""
    done = subprocess.run(
        [sys.executable, "-m", "nbllm.bench", "check", "--help"], capture_output=True, text=True, check=True
    )
    assert "--margin" in done.stdout


@pytest.mark.slow
def test_goodput_counts_what_keeps_to_all_limits():
    """Failures are not good; the highest load is that with all below it."""
    df = frame(
        *(rows("a", t, concurrency=c, noise=0.01) for c, t in ((1, 100), (4, 200), (16, 700), (64, 300))),
        rows("b", 100, fail=0.5),
    )
    table = goodput(df, ttft_ms=500, e2e_ms=1000).set_index(["name", "concurrency"])
    assert [True, True, False, True] == list(table.loc["a", "holds"])
    assert [False, True, False, False] == list(table.loc["a", "highest"])
    assert 0.3 < table.loc[("b", 1), "share"] < 0.7
    assert table.loc[("b", 1), "ci_lo"] < table.loc[("b", 1), "share"] < table.loc[("b", 1), "ci_hi"]
    assert 0 == goodput(df, ttft_ms=0.001)["good"].sum()
    one, half = table.loc[("a", 1)], table.loc[("b", 1)]
    assert pytest.approx(5.0, rel=0.05) == one["good_s"], "one after another, each of 0.2 s"
    assert half["good_s_lo"] < half["good_s"] < half["good_s_hi"]


@pytest.mark.parametrize("limits", [{}, {"ttft_ms": 0}, {"ttft_ms": "fast"}, {"speed": 3}])
def test_a_limit_that_is_none_says_so(limits):
    """One line with what to do."""
    with pytest.raises(errors.ConfigError):
        goodput(frame(rows("a", 1)), **limits)


@given(
    some.lists(some.text(min_size=1, max_size=60), min_size=1, max_size=20, unique=True),
    some.integers(12, 40),
)
def test_short_names_fit_and_are_unique(names, width):
    """Whatever models are called."""
    found = short_names(names, width)
    assert set(found) == set(names)
    assert len(names) == len(set(found.values()))
    assert all(len(v) <= width for v in found.values())


def test_what_names_share_is_left_out_and_their_ends_stay():
    """The end says more than the beginning."""
    found = short_names(TWELVE)
    assert all(v.endswith(n[-10:]) and not v.startswith("openrouter") for n, v in found.items())
    assert {"a/b": "a/b"} == short_names(["a/b"])
    assert isinstance(pd.Series(found).iloc[0], str)


@pytest.mark.slow
def test_a_check_passes_a_new_model_and_compares_the_others(tmp_path, capsys):
    """One more than the baseline has; where no model is in both, nothing is compared."""
    then, now = frame(rows("a", 100)), frame(rows("a", 100, run_id="s", seed=1), rows("b", 5, run_id="s"))
    table = check(now, then, metrics="ttft_ms").set_index("name")
    assert ("new", True) == (table.loc["b", "verdict"], bool(table.loc["b", "passed"]))
    assert 100 == pytest.approx(table.loc["a", "baseline"], rel=0.1)
    old, new = (
        str(nbllm.bench.save(df, tmp_path / name)) for df, name in ((then, "then.csv"), (now, "now.csv"))
    )
    nothing = str(nbllm.bench.save(then.iloc[:0], tmp_path / "nothing.parquet"))
    assert [0, 1, 2] == [main(["check", *two]) for two in ((new, old), (old, new), (old, nothing))]
    assert "no model in common" in capsys.readouterr().err


def test_a_check_against_nothing_does_not_pass_what_costs():
    """A ratio to 0 is none, however dear it became."""
    then, now = frame(rows("a", 100, cost_usd=0.0)), frame(rows("a", 100, run_id="s", seed=1))
    table = check(now, then, metrics="cost_usd")
    assert [("dearer", False)] == list(zip(table["verdict"], table["passed"], strict=True))
    assert check(then, now, metrics="cost_usd")["passed"].all()


def test_failures_on_both_sides_are_compared_without_a_warning():
    """Two of them have no difference."""
    then, now = frame(rows("a", 100, fail=0.4)), frame(rows("a", 100, run_id="s", seed=1, fail=0.4))
    assert len(check(now, then, metrics="ttft_ms"))


def test_a_limit_may_be_numpys_and_success_is_none():
    """Of the share of successes there is no figure for each request."""
    df = frame(rows("a", 100))
    assert 30 == goodput(df, ttft_ms=np.int64(500))["good"].sum()
    for options in ({"ok_share": 0.5}, {"ttft_ms": 5, "ok_share": 0.5}):
        with pytest.raises(errors.ConfigError):
            goodput(df, **options)
    with pytest.raises(errors.ConfigError, match="one name"):
        leaderboard(df, metric=["ttft_ms"])
    with pytest.raises(errors.ConfigError, match="margin"):
        check(df, df, margin=float("inf"))


@pytest.mark.slow
def test_an_index_that_is_called_as_a_column_is_no_matter():
    """set_index("name", drop=False) leaves both."""
    df = frame(rows("a", 100), rows("b", 200))
    odd = df.set_index("name", drop=False)
    for told in (nbllm.bench.compare, nbllm.bench.summary, nbllm.bench.leaderboard):
        pd.testing.assert_frame_equal(told(df), told(odd))
