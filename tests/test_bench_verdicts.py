"""Verdicts: that they can be reached, and are not reached where nothing is known: few blocks, several runs,
failures, retries, unequal lengths, neighbours that resemble each other."""

import math

import numpy as np
import pandas as pd
import pytest

from nbllm.bench import compare, planning, power, run, summary
from nbllm.bench import statistics as st
from nbllm.bench.correlation import adjusted_p, effective_size, plausible_autocorrelation
from nbllm.bench.early_stop import EarlyStop
from nbllm.core import errors

NEAR = pytest.approx


def requests(values, name="a", run_id="r", metric="ttft_ms", **more):
    """One request a block; NaN is a failure."""
    values = np.asarray(values, float)
    return pd.DataFrame(
        {
            "run_id": run_id,
            "request_id": [f"{name}{i}" for i in range(len(values))],
            "attempt": 1,
            "name": name,
            "provider": "p",
            "model": "m",
            "block": range(len(values)),
            "phase": "measure",
            "start_kind": "warm",
            "load_kind": "closed",
            "concurrency": 1,
            "target_rate": None,
            "idle_s": None,
            "ok": ~np.isnan(values),
            "quality": "certified",
            "ns_call": range(len(values)),
            metric: values,
            **more,
        }
    )


def several(m, n, factor, noise, seed=0, **more):
    rng = np.random.default_rng(seed)
    return pd.concat(
        [requests(50 * factor**i * np.exp(rng.normal(0, noise, n)), f"m{i:02}", **more) for i in range(m)],
        ignore_index=True,
    )


@pytest.mark.parametrize(
    ("models", "blocks", "factor"), [(2, 6, 2.0), (4, 8, 2.0), (5, 10, 2.0), (8, 8, 2.0), (12, 30, 1.3)]
)
def test_every_size_that_people_use_can_be_decided(models, blocks, factor):
    """Whatever the number of comparisons: the smallest p is no wall."""
    df = several(models, blocks, factor, 0.02)
    rows = compare(df, metrics="ttft_ms")
    assert {"faster"} == set(rows["verdict"])
    assert {models * (models - 1) // 2} == set(rows["n_family"])


@pytest.mark.slow
def test_levels_and_other_metrics_do_not_weigh_on_a_verdict():
    """A family is one metric in one setting, unless the user wants all; reciprocals count once in it."""
    df = pd.concat(
        [several(4, 10, 1.5, 0.02, seed, concurrency=c) for seed, c in enumerate((1, 4, 16))],
        ignore_index=True,
    )
    df["itl_ms"] = df["ttft_ms"] / 10
    df["out_tok_s"] = 1000 / df["itl_ms"]
    one, every = compare(df), compare(df, family="all")
    assert {6} == set(one["n_family"])
    assert {3 * 6 * 3} == set(every["n_family"]), "ttft_ms, itl_ms and ok_share"
    assert (every["p_holm"] >= one["p_holm"] - 1e-12).all()


@pytest.mark.parametrize("blocks", [1, 2, 5])
def test_too_few_blocks_say_how_many_are_needed(blocks):
    """And are undecided."""
    row = compare(several(3, blocks, 4.0, 0.01), metrics="ttft_ms").iloc[0]
    assert "undecided" == row["verdict"]
    assert "at least 6 blocks are needed to decide among 3 comparisons" in row["note"]


@pytest.mark.slow
def test_ranks_have_no_tail_and_say_so():
    """With failures, which have ranks and no size, a family of many needs more blocks."""
    df = several(8, 6, 3.0, 0.01)
    df.loc[df["block"] == 0, ["ok", "ttft_ms"]] = [False, np.nan]
    rows = compare(df, metrics="ttft_ms")
    assert {"undecided"} == set(rows["verdict"])
    assert rows["note"].str.contains("blocks are needed to decide among 28 comparisons").all()


def test_a_baseline_has_fewer_comparisons():
    """Seven of eight models, not 28 pairs."""
    assert {7} == set(compare(several(8, 10, 1.2, 0.1), metrics="ttft_ms", baseline="m00")["n_family"])


def test_a_power_is_told_before_the_run():
    """Nothing for a run that can decide; the power and what would do for one that cannot."""
    assert "" == planning.power_warning(5, 10, None)
    assert "At least 6 blocks" in planning.power_warning(2, 5, None)
    assert "" == planning.power_warning(1, 2, None)
    few = planning.power_warning(5, 10, 0.1)
    assert "10 comparisons" in few
    needed = planning.blocks_for(5, 0.1)
    assert f"blocks={needed}" in few
    assert "" == planning.power_warning(5, needed, 0.1)
    assert power(5, needed, 0.1) >= 0.8 > power(5, needed - 1, 0.1)
    with pytest.raises(errors.ConfigError, match="detect"):
        planning.power_warning(2, 10, 0)


@pytest.mark.slow
def test_a_run_that_cannot_find_it_says_so():
    """Before anything is sent."""
    with pytest.warns(UserWarning, match="With 2 blocks, a difference of 10% among"):
        run(
            ["sim/openai", "sim/anthropic"], "x", blocks=2, detect=0.1, warmup=0, progress=False, max_tokens=2
        )


# --- runs ---


def test_two_runs_have_no_blocks_in_common():
    """by="run_id", and models of different runs: unpaired, with the caution."""
    rng = np.random.default_rng(2)
    days = [requests(100 * np.exp(rng.normal(0, 0.1, 40)), run_id=day) for day in ("monday", "tuesday")]
    row = compare(pd.concat(days), metrics="ttft_ms", by="run_id").iloc[0]
    assert ("unpaired", 0) == (row["method"], row["n_blocks"])
    assert "different runs" in row["note"]
    days[1]["name"] = "b"
    row = compare(pd.concat(days), metrics="ttft_ms").iloc[0]
    assert ("unpaired", True) == (row["method"], "different runs" in row["note"])


def test_blocks_of_several_runs_are_pairs_of_their_own_run():
    """Block 0 of one run is not block 0 of the other."""
    one, two = several(2, 8, 1.5, 0.02, 1), several(2, 8, 1.5, 0.02, 2, run_id="s")
    two["ttft_ms"] *= 5
    row = compare(pd.concat([one, two]), metrics="ttft_ms").iloc[0]
    assert (16, "faster") == (row["n_blocks"], row["verdict"])
    assert 1.4 < 1 / row["ratio"] < 1.6


def test_a_reference_takes_out_what_slows_a_whole_day():
    """A day slower by half, a model slower by a fifth: a fifth is found."""
    rng = np.random.default_rng(3)
    parts = []
    for day, slow, mine in (("monday", 1.5, 1.2), ("tuesday", 1.0, 1.0)):
        world = slow * np.exp(0.2 * np.sin(np.arange(40) / 5))
        for name, factor in (("mine", mine), ("common", 0.7)):
            values = 100 * factor * world * np.exp(rng.normal(0, 0.03, 40))
            parts.append(requests(values, name, day))
    df = pd.concat(parts)
    rows = compare(df, metrics="ttft_ms", by="run_id", reference="common")
    assert 1 == len(rows)
    assert ("slower", True) == (rows["verdict"].iloc[0], 1.15 < rows["ratio"].iloc[0] < 1.25)
    for wrong in ({"reference": "nobody", "by": "run_id"}, {"reference": "common"}):
        with pytest.raises(errors.ConfigError, match=r"nobody|comparing runs"):
            compare(df, **wrong)


def test_a_reference_that_one_run_has_not_is_missed_in_words():
    """The others are compared by it, and those without it say so."""
    rng = np.random.default_rng(3)

    def day(name, run_id, **more):
        return requests(100 * np.exp(rng.normal(0, 0.03, 12)), name, run_id, **more)

    parts = [day(name, run) for name in ("mine", "common") for run in ("monday", "tuesday")]
    without = [day("mine", "sunday"), day("mine", "log", block=None)]
    rows = compare(pd.concat([*parts, *without]), metrics="ttft_ms", by="run_id", reference="common")
    told = {frozenset((a, b)): "by the reference" in note for a, b, note in rows[["a", "b", "note"]].values}
    assert [frozenset(("monday", "tuesday"))] == [pair for pair, lacks in told.items() if not lacks]
    assert 6 == len(told)


def test_requests_in_blocks_and_in_none_are_compared_with_their_failures():
    """One's own run and another tool's file."""
    lost = np.where(np.arange(30) % 3, np.nan, 100.0)
    for parts in ([lost, np.full(30, 50.0)], [np.full(30, 50.0), lost]):
        df = pd.concat([requests(parts[0], "a"), requests(parts[1], "b", "file", block=None)])
        row = compare(df, metrics="ttft_ms").iloc[0]
        assert ("unpaired", True) == (row["method"], "no blocks" in row["note"])
        assert "failures differ" in row["note"]


# --- failures and waiting ---


def test_who_fails_more_is_not_called_faster():
    """Half its requests fail, and it is quicker where it answers."""
    rng = np.random.default_rng(4)
    quick = np.where(np.arange(60) % 2, np.nan, 70 * np.exp(rng.normal(0, 0.05, 60)))
    df = pd.concat([requests(quick, "mini"), requests(100 * np.exp(rng.normal(0, 0.05, 60)), "sonnet")])
    rows = compare(df).set_index("metric")
    assert "undecided" == rows.loc["ttft_ms", "verdict"]
    assert "failures differ (50% and 0%)" in rows.loc["ttft_ms", "note"]
    assert ("worse", 0.5, 1.0) == tuple(rows.loc["ok_share", ["verdict", "value_a", "value_b"]])
    assert rows.loc["ttft_ms", "prob_a_faster"] == NEAR(0.5)


@pytest.mark.slow
def test_shares_of_success_are_compared_like_a_metric():
    """Alone too; equivalent only where so many requests say so, and unpaired by Fisher's test."""
    few, many = (pd.concat([requests(np.ones(n), "a"), requests(np.ones(n), "b")]) for n in (10, 200))
    assert ["undecided", "equivalent"] == [
        compare(df, metrics="ok_share")["verdict"].iloc[0] for df in (few, many)
    ]
    lost = np.where(np.arange(60) % 2, np.nan, 1.0)
    log = pd.concat([requests(lost, "a", block=None), requests(np.ones(60), "b", block=None)])
    assert ("worse", "unpaired") == tuple(compare(log, metrics="ok_share").iloc[0][["verdict", "method"]])


@pytest.mark.slow
def test_retries_and_their_waiting_are_shown():
    """In summary, compare and the note, in a closed loop too."""
    df = pd.concat([requests(np.full(12, 50.0), "a"), requests(np.full(12, 50.0), "b")], ignore_index=True)
    df["ttft_sched_ms"] = df["ttft_ms"]
    again = df[(df["name"] == "a") & (df["block"] % 3 == 0)].assign(attempt=2, ttft_sched_ms=1255.0)
    first = df.loc[again.index].assign(ok=False, ttft_ms=np.nan, ttft_sched_ms=np.nan)
    df = pd.concat([df.drop(again.index), first, again], ignore_index=True)
    told = summary(df, stats="p50")
    assert "ttft_sched_ms" in set(told["metric"])
    assert [0.0, NEAR(4 / 12)] == sorted(set(told["retries"]))
    row = compare(df).set_index("metric").loc["ttft_sched_ms"]
    assert (NEAR(4 / 12), 0.0) == (row["retries_a"], row["retries_b"])
    assert "retries (0.33 and 0 per request)" in row["note"]


def test_answers_of_unequal_length_are_said_and_can_be_normalised():
    """ttft + N tokens: the longer answer is no slower model."""
    parts = []
    rng = np.random.default_rng(5)
    for name, tokens in (("a", 50), ("b", 20)):
        ttft, itl = 100 + rng.normal(0, 2, 30), 10 + rng.normal(0, 0.1, 30)
        parts.append(requests(ttft, name, itl_ms=itl, e2e_ms=ttft + itl * tokens, out_tokens=tokens))
    rows = compare(pd.concat(parts), metrics=["e2e_ms", "ttft + 30 tokens"]).set_index("metric")
    assert "slower" == rows.loc["e2e_ms", "verdict"]
    assert "differ in length (50 and 20 tokens)" in rows.loc["e2e_ms", "note"]
    assert "equivalent" == rows.loc["ttft + 30 tokens", "verdict"]
    assert 400 == NEAR(
        summary(pd.concat(parts), metrics="ttft + 30 tokens", stats="p50")["value"].iloc[0], rel=0.01
    )


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"level": 95}, "level"),
        ({"margin": -1}, "margin"),
        ({"by": ["name"]}, "one column"),
        ({"family": "each"}, "family"),
        ({"metrics": "speed"}, "speed"),
    ],
)
def test_what_cannot_be_compared_says_so(options, words):
    """One line, no traceback of a library."""
    with pytest.raises(errors.ConfigError, match=words):
        compare(several(2, 8, 1.0, 0.1), **options)


def test_a_price_is_cheaper_and_not_faster():
    """Each metric has words of its own, and zeros are values."""
    df = pd.concat([requests(np.full(10, v), n, metric="cost_usd") for n, v in (("a", 0.0), ("b", 0.01))])
    df.loc[:, "cost_usd"] += np.where(df["name"] == "b", np.random.default_rng(0).normal(0, 1e-4, 20), 0.0)
    assert "cheaper" == compare(df, metrics="cost_usd")["verdict"].iloc[0]


# --- intervals and stopping ---


def autoregressive(n, r, rng):
    x = [rng.normal()]
    for e in rng.normal(size=n - 1) * math.sqrt(1 - r * r):
        x.append(r * x[-1] + e)
    return np.array(x)


@pytest.mark.slow
def test_what_neighbours_share_weakens_a_verdict():
    """Equal models whose own noise lasts for many blocks: seldom called different; the inflation is exact."""
    rng, runs = np.random.default_rng(6), []
    for i in range(60):  # each a setting with a family of its own
        for name in "ab":
            values = 100 * np.exp(0.2 * autoregressive(30, 0.8, rng))
            runs.append(requests(values, name, concurrency=i + 1))
    verdicts = compare(pd.concat(runs), metrics="ttft_ms", margin=0.0)["verdict"]
    assert len(verdicts) == 60
    assert (verdicts != "undecided").sum() <= 8, "6 % of 60, within their own noise (binomial, 99 %)"
    n, r = 12, 0.6
    lags = np.abs(np.subtract.outer(np.arange(n), np.arange(n)))
    mean = (r**lags).sum() / n**2
    inside = (n - (r**lags).sum() / n) / (n - 1)
    assert NEAR(mean / (inside / n)) == effective_size(r, n).inflation
    assert 0.0 == plausible_autocorrelation([np.ones(20)]) == plausible_autocorrelation([np.arange(3.0)])


@pytest.mark.parametrize("n", [8, 10, 14])
def test_a_short_series_is_trusted_less_than_its_own_autocorrelation_says(n):
    """Equal models alike to 0.95 in a few blocks, the same 400 series each time: at most 6 %."""
    rng, false = np.random.default_rng(9), 0
    for _ in range(400):
        series = autoregressive(n, 0.95, rng)
        false += (
            adjusted_p(st.paired_p(series), n - 1, effective_size(plausible_autocorrelation([series]), n))
            < 0.05
        )
    assert false <= 0.06 * 400
    far = math.log(2) + np.random.default_rng(3).normal(0, 0.07, n)
    assert adjusted_p(st.paired_p(far), n - 1, effective_size(plausible_autocorrelation([far]), n)) < 0.05, (
        "a factor of two is still found"
    )


@pytest.mark.slow
def test_models_of_one_noise_lend_each_other_their_degrees_of_freedom():
    """Five models, ten blocks, each twice as slow as the last and noise of 20 %: all are decided. Equal ones
    whose own noise lasts for many blocks, one of them the noisiest, are seldom called different."""
    for seed in (10, 32, 49, 57):
        rows = compare(several(5, 10, 2.0, 0.2, seed), metrics="ttft_ms")
        assert {"faster"} == set(rows["verdict"])
    rng, runs = np.random.default_rng(5), []
    for setting in range(40):  # with a family of its own
        for i, s in enumerate((3, 1, 1, 1, 1)):
            values = 100 * np.exp(s * 0.2 * autoregressive(10, 0.95, rng))
            runs.append(requests(values, f"m{i}", concurrency=setting + 1))
    rows = compare(pd.concat(runs), metrics="ttft_ms")
    decided = rows["verdict"].isin(["faster", "slower"]).groupby(rows["concurrency"]).any()
    assert len(decided) == 40
    assert decided.sum() <= 6, "6 % of 40, within their own noise (binomial, 98 %)"


def test_the_default_ten_blocks_have_an_interval():
    """Always, and it covers; where the sample's range is all there is, it says so."""
    rng = np.random.default_rng(7)
    found = [(v, st.order_interval(v, 0.5, 0.95, st.effective_n(v))) for v in rng.lognormal(0, 1, (400, 10))]
    assert all(not math.isnan(i.lo + i.hi) for _, i in found)
    assert 0.95 <= np.mean([i.lo <= 1.0 <= i.hi for _, i in found])
    trend = st.order_interval(np.arange(10.0), 0.5, 0.95, st.effective_n(np.arange(10.0)))
    assert "may cover less" in trend.method
    assert "heavy tail" in st.mean_interval(np.array([1.0] * 9 + [100.0])).method


def test_stopping_waits_longer_where_neighbours_resemble_each_other():
    """Not sooner, as a variance of independent values would have it."""
    blocks = []
    for r in (0.0, 0.8):
        rng, stopper, n = np.random.default_rng(8), EarlyStop(0.05), 0
        for value in 0.1 * autoregressive(2000, r, rng):
            stopper.add("a", float(value))
            n += 1
            if n % 10 == 0 and stopper.done:
                break
        blocks.append(n)
    assert blocks[1] > 3 * blocks[0]
