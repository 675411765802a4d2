"""The statistics against scipy and against simulation; summary and compare on frames with holes."""

import itertools
import math

import numpy as np
import pandas as pd
import pytest

from nbllm.bench import compare, summary
from nbllm.bench import statistics as st
from nbllm.bench.early_stop import EarlyStop
from nbllm.core import errors
from nbllm.store import columns

NEAR = pytest.approx


def frame(values, *, name="a", metric="ttft_ms", start=0, **columns_):
    """Rows of one model, one a block; None is a failure, a string a quality."""
    rows = []
    for i, value in enumerate(values):
        ok = value is not None
        rows.append(
            {
                "run_id": "r",
                "request_id": f"{name}{start + i}",
                "attempt": 1,
                "name": name,
                "provider": "p",
                "model": "m",
                "block": start + i,
                "phase": "measure",
                "start_kind": "warm",
                "load_kind": "closed",
                "concurrency": 1,
                "ok": ok,
                "status": "ok" if ok else "http_error",
                "quality": "certified",
                "ns_call": 10 * (start + i),
                metric: value,
                "err_bound_ms": 0.3,
                **columns_,
            }
        )
    return rows


def table(*parts):
    return columns.frame([row for part in parts for row in part])


def test_the_signed_rank_interval_is_scipys_test_inverted():
    """Shifted to either end of the interval, the data are on the edge of significance."""
    from scipy import stats

    rng = np.random.default_rng(1)
    for n in (8, 20, 60):
        d = rng.normal(0.3, 1.0, n)
        _, (lo, hi, _) = st.hodges_lehmann(d)
        width = 1e-6
        inside = [
            stats.wilcoxon(d - edge, method="exact" if n <= 20 else "approx").pvalue
            for edge in (lo + width, hi - width)
        ]
        outside = [
            stats.wilcoxon(d - edge, method="exact" if n <= 20 else "approx").pvalue
            for edge in (lo - width, hi + width)
        ]
        assert all(p > 0.045 for p in inside)
        assert all(p < 0.06 for p in outside)


def test_the_order_interval_covers_as_it_says():
    """At least the level, and not much more, over many samples; NaN where the sample does not reach."""
    from scipy import stats

    rng = np.random.default_rng(2)
    for p, n in ((0.5, 40), (0.9, 100)):
        truth = stats.expon.ppf(p)
        hits = sum(
            lo <= truth <= hi
            for lo, hi, _ in (st.order_interval(rng.exponential(size=n), p) for _ in range(600))
        )
        assert 0.93 <= hits / 600 <= 0.99
    assert math.isnan(st.order_interval(np.arange(20.0), 0.99).hi)


def test_the_sign_flip_p_is_the_share_of_patterns_as_far_from_zero():
    """All of them for few pairs, with ties, a single pair and none; random ones for many."""
    rng = np.random.default_rng(3)
    for few in (rng.normal(0.5, 1, 10), rng.integers(-2, 4, 9).astype(float), np.zeros(5), np.ones(1)):
        signs = np.array(list(itertools.product((1.0, -1.0), repeat=len(few))))
        far = np.abs(signs @ few) >= abs(few.sum()) * (1.0 - 1e-12)
        assert NEAR(far.mean(), abs=1e-9) == st.sign_flip(few)
    many = rng.normal(0.15, 1, 80)
    signs = rng.choice([-1.0, 1.0], (20_000, 80))
    assert NEAR((np.abs(signs @ many) >= abs(many.sum())).mean(), abs=0.01) == st.sign_flip(many)
    assert math.isnan(st.sign_flip(np.array([])))


def test_holm_is_statsmodels():
    """scipy has no Holm; statsmodels' documented example, and NaN beside it."""
    assert [NEAR(0.03), NEAR(0.06), NEAR(0.06), NEAR(0.02)] == st.holm([0.01, 0.04, 0.03, 0.005])
    assert [NEAR(0.02), True] == [st.holm([0.02, math.nan])[0], math.isnan(st.holm([0.02, math.nan])[1])]


def test_superiority_counts_ties_by_half():
    """Over pairs and over all combinations, few or many, all alike or none."""
    a, b = np.array([1.0, 2.0, 3.0]), np.array([2.0, 2.0, 2.0])
    assert (0.5, NEAR(0.5)) == (st.superiority(a, b, paired=True), st.superiority(a, b, paired=False))
    rng = np.random.default_rng(4)
    for m, n in ((1, 1), (3, 8), (30, 50)):
        for a, b in ((rng.integers(0, 4, m) * 1.0, rng.integers(0, 4, n) * 1.0), (np.ones(m), np.ones(n))):
            less, same = a[:, None] < b, a[:, None] == b
            assert NEAR((less + 0.5 * same).mean()) == st.superiority(a, b, paired=False)


@pytest.mark.parametrize(("p", "n"), [(0.5, 5), (0.9, 29), (0.95, 59), (0.99, 299)])
def test_the_least_n_of_a_percentile(p, n):
    """ln .05 / ln p."""
    assert n == st.min_n(p)


def test_a_mean_of_a_drifting_series_has_a_wider_interval():
    """Neighbours that resemble each other are worth less."""
    rng = np.random.default_rng(4)
    white = rng.normal(100, 10, 300)
    walk = 100 + np.convolve(rng.normal(0, 10, 400), np.ones(20) / math.sqrt(20), "valid")[:300]
    widths = [hi - lo for lo, hi, _ in map(st.mean_interval, (white, walk))]
    assert widths[1] > 2 * widths[0]
    assert st.effective_n(walk) < 0.3 * 300 < st.effective_n(white)


def test_block_bootstrap_covers_an_autocorrelated_mean_better_than_t():
    """AR(1), r = 0.6: the t interval covers some 65 %, ours most of the rest."""
    rng = np.random.default_rng(5)
    hits = [0, 0]
    for _ in range(150):
        noise, x = rng.normal(0, 1, 220), [0.0]
        for e in noise:
            x.append(0.6 * x[-1] + e)
        values = np.array(x[21:])
        half = 1.96 * values.std(ddof=1) / math.sqrt(len(values))
        lo, hi, _ = st.mean_interval(values)
        hits[0] += abs(values.mean()) <= half
        hits[1] += lo <= 0 <= hi
    assert hits[0] / 150 < 0.8
    assert hits[1] / 150 > 0.85


# --- summary ---


def test_a_summary_counts_what_it_leaves_out():
    """Failures are in no value and infinite in failures_as_inf; contaminated requests are left out unless
    asked for."""
    df = table(frame([10.0] * 20 + [None] * 5), frame([99.0] * 3, start=25, quality="contaminated"))
    row = summary(df, metrics="ttft_ms", stats=["p50", "mean"]).set_index("stat")
    assert (20, 5, 3, 10.0) == tuple(row.loc["p50", ["n", "n_failed", "n_contaminated", "value"]])
    assert (10.0, math.inf) == (row.loc["p50", "failures_as_inf"], row.loc["mean", "failures_as_inf"])
    assert 23 == summary(df, metrics="ttft_ms", stats=["p50"], contaminated=True)["n"].iloc[0]


def test_a_percentile_says_whether_the_sample_supports_it():
    """20 requests say nothing of p99."""
    row = summary(table(frame(np.arange(20.0))), metrics="ttft_ms").set_index("stat")
    assert [True, False, False] == [bool(row.loc[s, "supported"]) for s in ("p50", "p95", "p99")]
    assert math.isnan(row.loc["p99", "ci_hi"])


def test_all_failed_is_na_and_not_zero():
    """Every value NaN, the failures counted."""
    out = summary(table(frame([None] * 7)), metrics=["ttft_ms", "ok_share"], stats=["p50"])
    assert (0, 7, True) == (out["n"].iloc[0], out["n_failed"].iloc[0], math.isnan(out["value"].iloc[0]))
    assert 0.0 == out["value"].iloc[1]


def test_a_summary_of_nothing_and_of_one():
    """No exception: an empty table, and one without intervals."""
    assert 0 == len(summary(columns.frame([])))
    one = summary(table(frame([5.0])), metrics="ttft_ms", stats=["p50"])
    assert (5.0, True) == (one["value"].iloc[0], math.isnan(one["ci_lo"].iloc[0]))


def test_a_retried_request_counts_once():
    """Its last attempt is what the caller got."""
    rows = frame([7.0])
    df = columns.frame(
        [{**rows[0], "ok": False, "ttft_ms": None, "status": "http_error"}, {**rows[0], "attempt": 2}]
    )
    row = summary(df, metrics="ttft_ms", stats=["p50"]).iloc[0]
    assert (1, 0) == (row["n"], row["n_failed"])


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda df: summary(df, metrics="speed"), "speed"),
        (lambda df: summary(df, stats=["p0"]), "p0"),
        (lambda df: summary(df, by="colour"), "colour"),
        (lambda df: compare(df, by="colour"), "colour"),
        (lambda df: compare(df, baseline="z"), "z"),
    ],
)
def test_what_there_is_not_is_named(call, words):
    """A metric, statistic, column or model."""
    with pytest.raises(errors.ConfigError, match=words):
        call(table(frame([1.0] * 8)))


# --- compare ---


def plain(*parts):
    """Only the columns that are given, in the usual dtypes: quicker where hundreds are compared."""
    return pd.DataFrame([row for part in parts for row in part])


def drifting(n, ratio, rng, table=table):
    """Two models, one a block, under a common slow drift that is larger than their difference."""
    drift = np.exp(np.cumsum(rng.normal(0, 0.03, n)))
    a, b = (200 * drift * np.exp(rng.normal(0, 0.25, n)) for _ in range(2))
    return table(frame(a * ratio, name="a"), frame(b, name="b"))


def test_a_true_difference_is_found_with_its_size():
    """20 % at 150 blocks: slower, the interval holds 1.2, prob_a_faster says so too."""
    row = compare(drifting(150, 1.2, np.random.default_rng(6)), metrics="ttft_ms").iloc[0]
    assert "slower" == row["verdict"]
    assert row["ci_lo"] < 1.2 < row["ci_hi"]
    assert row["prob_a_faster"] < 0.5 < row["ratio"]
    assert (150, 0) == (row["n_blocks"], row["n_dropped"])


@pytest.mark.slow
def test_identical_models_under_drift_are_seldom_called_different():
    """At most 6 % at the 5 % level: 300 runs, so that 6 % holds within their own noise (binomial, 99.9 %)."""
    from scipy import stats

    rng = np.random.default_rng(7)
    runs = [drifting(60, 1.0, rng, plain).assign(concurrency=i + 1) for i in range(300)]
    rows = compare(pd.concat(runs), metrics="ttft_ms", margin=0.0)  # each a setting with a family of its own
    assert (300, {1}) == (len(rows), set(rows["n_family"]))
    assert rows["verdict"].isin(["faster", "slower"]).sum() <= stats.binom.ppf(0.999, 300, 0.06)


@pytest.mark.slow
def test_close_models_are_equivalent_and_few_blocks_undecided():
    """The interval within the margin; no interval at all."""
    rng = np.random.default_rng(8)
    base = rng.normal(100, 1, 80)
    near = table(frame(base * 1.001, name="a"), frame(base + rng.normal(0, 0.5, 80), name="b"))
    assert "equivalent" == compare(near, metrics="ttft_ms").iloc[0]["verdict"]
    assert "undecided" == compare(near[near["block"] < 4], metrics="ttft_ms").iloc[0]["verdict"]


@pytest.mark.slow
def test_more_tokens_a_second_is_faster():
    """For a rate, the larger is the better one."""
    rng = np.random.default_rng(9)
    df = table(
        frame(rng.normal(200, 5, 40), name="a", metric="out_tok_s"),
        frame(rng.normal(100, 5, 40), name="b", metric="out_tok_s"),
    )
    row = compare(df, metrics="out_tok_s").iloc[0]
    assert ("faster", True) == (row["verdict"], row["prob_a_faster"] > 0.99)


def test_blocks_with_one_side_only_are_dropped_and_failures_are_told():
    """They are counted, and the note says that failures are in no time."""
    df = table(frame([100.0] * 20 + [None] * 10, name="a"), frame([100.0] * 30, name="b"))
    row = compare(df, metrics="ttft_ms").iloc[0]
    assert (20, 10) == (row["n_blocks"], row["n_dropped"])
    assert "failures differ" in row["note"]


def test_ordinary_calls_are_compared_unpaired_and_say_so():
    """A frame of the log has no blocks."""
    rng = np.random.default_rng(10)
    df = table(
        frame(rng.normal(100, 5, 30), name="a", block=None),
        frame(rng.normal(150, 5, 30), name="b", block=None),
    )
    row = compare(df, metrics="ttft_ms").iloc[0]
    assert ("unpaired", "faster") == (row["method"], row["verdict"])
    assert "drift" in row["note"]


def test_starts_can_be_compared_too():
    """by="start_kind": cold against warm, of each model by itself."""
    rng = np.random.default_rng(11)
    df = table(frame(rng.normal(300, 5, 20), start_kind="cold_conn"), frame(rng.normal(100, 5, 20)))
    row = compare(df, metrics="ttft_ms", by="start_kind").iloc[0]
    assert {("cold_conn", "warm")} == {(row["a"], row["b"])}
    assert "slower" == row["verdict"]


def test_holm_is_over_all_rows():
    """Three pairs: p_holm is up to three times p."""
    rng = np.random.default_rng(12)
    df = table(*(frame(rng.normal(100 + 2 * i, 5, 30), name=n) for i, n in enumerate("abc")))
    out = compare(df, metrics="ttft_ms")
    assert 3 == len(out)
    assert (out["p_holm"] >= out["p"]).all()


# --- stopping ---


@pytest.mark.slow
def test_looking_after_every_block_does_not_spoil_the_coverage():
    """The interval holds the mean at all 150 looks in at least 95 % of runs, less their own noise."""
    from scipy import stats

    rng = np.random.default_rng(13)
    held = 0
    for _ in range(200):
        stopper, good = EarlyStop(0.01, min_blocks=10), True
        for i, value in enumerate(rng.normal(2.0, 0.3, 150)):
            stopper.add("a", float(value))
            if i >= 20:
                lo, hi = stopper.intervals()["a"]
                good &= lo <= 2.0 <= hi
        held += good
    assert held >= stats.binom.ppf(0.001, 200, 0.95)


def test_it_stops_when_every_name_is_narrow():
    """Not before min_blocks, and not for one of two."""
    stopper = EarlyStop(0.05, min_blocks=5)
    for value in (0.0, 0.001, -0.001, 0.0):
        stopper.add("a", value)
    assert not stopper.done
    stopper.add("a", 0.0)
    assert stopper.done
    stopper.add("b", 1.0)
    assert not stopper.done
