"""Price against speed against quality, percentiles over time, and medians by length of prompt and load."""

import io
import itertools

import pytest
from matplotlib.collections import PathCollection
from matplotlib.colors import to_rgba
from matplotlib.text import Text
from PIL import Image

import nbllm
from nbllm.bench import figures

from .test_bench_pages import frame, rows

pytestmark = pytest.mark.slow

KINDS = ["pareto", "over_time", "heatmap"]
PAGE = figures.THEMES["light"].page


def words(figure):
    return [t.get_text() for t in figure.findobj(Text) if t.get_text() and t.get_visible()]


def filled(figure):
    """The names whose points are filled, in the order of the legend."""
    (axes,) = figure.axes
    names = [t.get_text().split("  ")[0] for t in axes.get_legend().get_texts()]
    dots = [c for c in axes.collections if isinstance(c, PathCollection)]
    return [n for n, dot in zip(names, dots, strict=True) if tuple(dot.get_facecolor()[0]) != to_rgba(PAGE)]


@pytest.mark.parametrize("kind", KINDS)
def test_every_frame_is_drawn(kind):
    """None, one row, all failed, no price, several loads and starts, twelve models; in both themes by turns,
    which differ in nothing but colours."""
    loads = [rows("a", 100 * c, 8, concurrency=c, cost_usd=0.1, in_tokens=5 * c) for c in (1, 4)]
    cold = [rows("a", start=kind, n=6, cost_usd=0.0) for kind in ("warm", "cold_conn")]
    many = [rows(f"m/{i}", 100 + i, 9, cost_usd=0.01 * i, fail=0.3 * (i == 2)) for i in range(12)]
    several = (loads, cold, many, [rows(n=1)], [rows(fail=1.0)], [rows(), rows("b")])
    themes = itertools.cycle(["light", "dark"])
    for df in (*(frame(*parts) for parts in several), frame(*loads)[:0]):
        figure = nbllm.bench.plot(df, kind, theme=next(themes))
        assert Image.open(io.BytesIO(figure._repr_png_())).height > 100


@pytest.mark.parametrize(
    ("metric", "scores", "best"),
    [
        ("ttft_ms", None, ["cheap", "quick"]),
        ("ttft_ms", (0.5, 0.5, 0.5, 0.9), ["cheap", "quick", "good"]),
        ("out_tok_s", None, ["cheap", "good"]),
    ],
)
def test_who_is_beaten_in_everything_is_hollow(metric, scores, best):
    """By price and a time or a rate, and by quality where there are scores."""
    models = {
        "cheap": (0.001, 400, 10),
        "quick": (0.004, 100, 10),
        "beaten": (0.005, 400, 10),
        "good": (0.006, 300, 20),
    }
    df = frame(*(rows(n, t, 12, cost_usd=c, out_tok_s=float(r), seed=4) for n, (c, t, r) in models.items()))
    if scores:
        df["score"] = df["name"].map(dict(zip(models, scores, strict=True)))
    assert best == filled(nbllm.bench.plot(df, "pareto", metric=metric, theme="light"))


def test_a_model_without_a_price_is_named_and_not_drawn_at_nothing():
    """Nor does it beat anybody."""
    df = frame(
        rows("dear", 100, 8, cost_usd=0.5), rows("known", 200, 8, cost_usd=0.1), rows("who knows", 10, 8)
    )
    figure = nbllm.bench.plot(df, "pareto", theme="light")
    assert "price not known: who knows" in figure.axes[0].get_title(loc="left")
    assert ["dear", "known"] == filled(figure)


def test_a_sweep_is_decided_at_its_calmest_and_says_so():
    """Prices and times of different loads are not mixed."""
    df = frame(*(rows(n, 100 * c, 8, concurrency=c, cost_usd=0.1) for n in "ab" for c in (1, 16)))
    assert "(concurrency 1)" in nbllm.bench.plot(df, "pareto").axes[0].get_title(loc="left")


def test_a_percentile_over_time_has_enough_requests_in_its_window():
    """Of 300 requests the 90th is told of windows, the 99th is not; failures stand at the bottom."""
    figure = nbllm.bench.plot(frame(rows(n=300), rows("b", n=360, fail=0.1)), "over_time")
    told = [line.get_label() for axes in figure.axes for line in axes.lines]
    assert (2, 0) == (told.count("p50"), told.count("p99"))
    crosses = [
        len(line.get_xdata()) for axes in figure.axes for line in axes.lines if line.get_marker() == "x"
    ]
    assert crosses[0] == 0 < crosses[1]
    few = nbllm.bench.plot(frame(rows(n=20)), "over_time")
    assert "p90" not in [line.get_label() for line in few.axes[0].lines]


def test_a_prompt_is_as_long_for_every_model():
    """Whatever its own tokens are: one prompt is one row, with the median of its requests."""
    parts = [
        rows(n, t * c, 10, concurrency=c, prompt_id=p, in_tokens=tokens, seed=t)
        for n, longer in (("a", 1), ("b", 3))
        for p, tokens, t in (("p0", 10 * longer, 10), ("p1", 1000 * longer, 20))
        for c in (1, 4)
    ]
    df = frame(*parts)
    df["request_id"] = [str(i) for i in range(len(df))]
    figure = nbllm.bench.plot(df, "heatmap")
    assert ["20", "2,000"] == [t.get_text() for t in figure.axes[0].get_yticklabels()]
    good = df[(df["quality"] != "contaminated") & (df["name"] == "b")]
    medians = good.groupby(["prompt_id", "concurrency"])["ttft_ms"].median()
    assert {f"{m:.3g}" for m in medians} <= set(words(figure))


def test_a_cell_of_few_requests_is_in_brackets_and_an_empty_one_is_empty():
    """No colour for what was not measured."""
    df = frame(rows(n=8, in_tokens=5, prompt_id="s"), rows(n=3, in_tokens=50, prompt_id="l", concurrency=4))
    told = [t.get_text() for t in nbllm.bench.plot(df, "heatmap").axes[0].texts]
    assert [False, True] == [t.startswith("(") for t in told]
