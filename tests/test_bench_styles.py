"""Styles of models in figures: names, order and colours are the same everywhere, for any colour vision and in
both themes."""

import io
import itertools
import re
import string

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as some
from matplotlib.colors import to_rgb
from matplotlib.text import Text
from PIL import Image

import nbllm
from nbllm.bench import figures, naming, plots
from nbllm.bench.pages import format_dollars

from .test_bench_pages import frame, rows

pytestmark = pytest.mark.slow

TWELVE = [
    f"openrouter/anthropic/claude-{family}-{version}-2025{month}01-preview-thinking-extended"
    for family in ("sonnet", "opus", "haiku")
    for version in ("4", "4.5")
    for month in ("01", "02")
]
# What is left of linear RGB (Machado et al. 2009, severity 1; Viénot et al. 1999).
VISION = {
    "normal": np.eye(3),
    "protanopia": [
        [0.152286, 1.052583, -0.204868],
        [0.114503, 0.786281, 0.099216],
        [-0.003882, -0.048116, 1.051998],
    ],
    "deuteranopia": [
        [0.367322, 0.860646, -0.227968],
        [0.280085, 0.672501, 0.047413],
        [-0.011820, 0.042940, 0.968881],
    ],
    "tritanopia": [
        [1.255528, -0.076749, -0.178779],
        [-0.078411, 0.930809, 0.147602],
        [0.004733, 0.691367, 0.303900],
    ],
    "protanopia 1999": [[0.11238, 0.88762, 0], [0.11238, 0.88762, 0], [0.00401, -0.00401, 1]],
    "deuteranopia 1999": [[0.29275, 0.70725, 0], [0.29275, 0.70725, 0], [-0.02234, 0.02234, 1]],
    "tritanopia 1999": [[1, 0.14461, -0.14461], [0, 0.85924, 0.14076], [0, 0.85924, 0.14076]],
}
XYZ = np.array(
    [[0.4124564, 0.3575761, 0.1804375], [0.2126729, 0.7151522, 0.0721750], [0.0193339, 0.1191920, 0.9503041]]
)


def linear(colour):
    c = np.array(to_rgb(colour))
    return np.where(c <= 0.04045, c / 12.92, ((c + 0.055) / 1.055) ** 2.4)


def lab(colour, vision):
    """CIE L*a*b* of a colour as it is seen."""
    seen = np.clip(np.array(VISION[vision]) @ linear(colour), 0, 1)
    v = XYZ @ seen / (0.95047, 1.0, 1.08883)
    x, y, z = np.where(v > 216 / 24389, np.cbrt(v), (24389 / 27 * v + 16) / 116)
    return np.array([116 * y - 16, 500 * (x - y), 200 * (y - z)])


def contrast(a, b):
    """WCAG's."""
    high, low = sorted((float(XYZ[1] @ linear(c)) for c in (a, b)), reverse=True)
    return (high + 0.05) / (low + 0.05)


# --- colours ---


@pytest.mark.parametrize("vision", VISION)
@pytest.mark.parametrize("theme", figures.THEMES)
def test_any_two_colours_are_told_apart(theme, vision):
    """A CIE distance of 15 at least: with so few colours, any two are neighbours in some figure."""
    colours = figures.THEMES[theme].colours
    assert naming.COLOURS == len(colours)
    close = {
        (a, b): round(float(np.linalg.norm(lab(a, vision) - lab(b, vision))), 1)
        for a, b in itertools.combinations(colours, 2)
    }
    assert 15 <= min(close.values()), close


@pytest.mark.parametrize("theme", figures.THEMES)
def test_text_has_a_contrast_of_four_and_a_half(theme):
    """And so have the colours of models; what is only drawn has 3."""
    page, ink, line, colours = figures.THEMES[theme]
    assert 4.5 <= min(contrast(c, page) for c in (ink, *colours))
    assert 3 <= contrast(line, page)


@pytest.fixture(scope="module")
def seven():
    """(requests of seven models, the chunks of their answers)"""
    df = frame(*(rows(n, fail=0.2, n=12, cost_usd=1e-4 * (i + 1)) for i, n in enumerate(TWELVE[:7])))
    told = {"kind": "content", "n_tokens": 1, "chars": 4, "certified": True, "ns_lo": 0, "ns_hi": 9}
    chunks = pd.DataFrame(
        [
            {"run_id": "r", "request_id": of, "attempt": 1, "i": i, "t_ms": 300.0 + i, **told}
            for of in df["request_id"]
            for i in range(5)
        ]
    )
    return df, chunks


@pytest.mark.parametrize("theme", figures.THEMES)
@pytest.mark.parametrize("kind", plots.KINDS)
def test_every_word_of_a_figure_reads_on_its_page(theme, kind, seven):
    """The page is part of the picture: it reads the same wherever it is shown; a word in a cell of a map on
    the cell."""
    df, chunks = seven
    figure = nbllm.bench.plot(df, kind, theme=theme, chunks=chunks)
    page = figures.THEMES[theme].page
    words = [t for t in figure.findobj(Text) if t.get_text().strip() and t.get_visible()]
    assert len(words) > 5
    cells = {
        t: image.cmap(image.norm(image.get_array()[round(t.get_position()[1]), round(t.get_position()[0])]))
        for axes in figure.axes
        for image in axes.images
        for t in axes.texts
    }
    assert bool(cells) == (kind == "heatmap")
    assert 4.5 <= min(contrast(t.get_color(), cells.get(t, page)) for t in words)
    corner = np.asarray(Image.open(io.BytesIO(figure._repr_png_())).convert("RGBA"))[2, 2]
    assert [*(round(255 * c) for c in to_rgb(page)), 255] == list(corner)


def test_every_word_of_a_report_reads_on_its_page():
    """In both themes: on the page, and on what is veiled."""
    page = nbllm.bench.report(frame(rows(n=6)))
    themes = re.findall(r":root\{([^}]*--page[^}]*)\}", str(getattr(page, "html", page)))
    assert 2 == len(themes)
    for theme in themes:
        colours = dict(re.findall(r"--(\w+):(#\w+)", theme))
        for word, under in itertools.product(("ink", "dim", "good", "bad"), ("page", "veil")):
            assert 4.5 <= contrast(colours[word], colours[under]), (word, under)


def test_a_figure_without_a_theme_follows_matplotlib_s_style():
    """Light, and dark where the user's other figures are."""
    import matplotlib.style

    df = frame(rows(n=6))
    with matplotlib.style.context("default"):
        light = nbllm.bench.plot(df).get_facecolor()
    with matplotlib.style.context("dark_background"):
        dark = nbllm.bench.plot(df).get_facecolor()
    assert (to_rgb("white"), to_rgb("#111111")) == (to_rgb(light), to_rgb(dark))


# --- who is who ---


def lines(figure):
    """What the legend of a figure shows: name to colour, marker and dash, in its order."""
    (legend,) = [axes.get_legend() for axes in figure.axes if axes.get_legend()]
    looks = [(k.get_color(), k.get_marker(), str(k.get_linestyle())) for k in legend.get_lines()]
    return dict(zip([t.get_text() for t in legend.get_texts()], looks, strict=True))


def test_a_model_looks_the_same_in_every_figure_of_a_run_and_in_every_order_of_rows():
    """Blocks run in random order, and a part of a run is drawn by itself."""
    df = frame(*(rows(n, n=8) for n in ("c/z", "a/x", "b/y")))
    shown = lines(nbllm.bench.plot(df, "drift"))
    assert ["c/z", "a/x", "b/y"] == list(shown)
    other = df.sample(frac=1, random_state=3)
    for kind in ("percentiles", "load", "overview"):
        assert list(shown.items()) == list(lines(nbllm.bench.plot(other, kind)).items())
    part = lines(nbllm.bench.plot(df[df["name"] != "a/x"], "drift"))
    assert {n: look for n, look in shown.items() if n != "a/x"} == part


def test_a_model_keeps_its_colour_in_another_run():
    """Whatever the order in which it is given, and from a file that knows no order."""
    one = naming.palette_positions(TWELVE)
    assert one == naming.palette_positions(reversed(TWELVE))
    found = [
        naming.palette_positions(["openai/mini", *others])["openai/mini"]
        for others in ([], ["a/b"], ["c/d", "e/f"])
    ]
    assert 1 == len(set(found))


@given(some.lists(some.text(max_size=9), max_size=40, unique=True))
def test_no_two_models_look_alike(names):
    """Six have six colours; beyond, a marker and a dash are another."""
    looks = {
        n: figures._model_style(n, at, figures.THEMES["light"])[1:]
        for n, at in naming.palette_positions(names).items()
    }
    assert len(names) == len(set(map(str, looks.values())))
    assert min(len(names), naming.COLOURS) == len({look[0] for look in looks.values()})
    for a, b in itertools.combinations(looks.values(), 2):
        assert a[0] != b[0] or (a[1] != b[1] and a[2] != b[2])


# --- names ---


def test_what_all_share_is_left_out_and_what_tells_them_apart_is_not():
    """No number stands where a word can tell."""
    found = naming.short_names(TWELVE)
    assert "sonnet-4.5-20250201…" == found[TWELVE[3]]
    assert ["mini", "flash"] == list(naming.short_names(["openai/mini", "openai/flash"]).values())


@given(some.integers(1, 60), some.integers(1, 60), some.integers(14, 40))
def test_long_names_that_differ_in_the_middle_are_told_apart_there(before, after, width):
    """A letter between what all begin and end with."""
    names = [f"{'x' * before}{letter}{'y' * after}" for letter in string.ascii_uppercase[:12]]
    short = naming.short_names(names, width)
    assert all(n[before] in words and len(words) <= width for n, words in short.items())


@given(
    some.lists(some.text("ab/-… (2)", max_size=30), max_size=12, unique=True),
    some.integers(12, 20),
)
def test_short_names_are_unique_also_where_names_look_like_short_ones(names, width):
    """Ellipses, numbers in brackets, empty parts."""
    short = naming.short_names(names, width)
    assert list(dict.fromkeys(names)) == list(short)
    assert len(names) == len(set(short.values()))
    assert all(len(words) <= width for words in short.values())


# --- the report ---


def sections(page):
    """The headings of a report with what stands below each."""
    return dict(re.findall(r"<h2>(.*?)</h2>(.*?)(?=<h2>|</main>)", page, re.S))


@pytest.fixture(scope="module")
def of_twelve():
    df = frame(
        *(rows(n, 200 * (1 + i), n=16, seed=i, cost_usd=0.001 * (12 - i)) for i, n in enumerate(TWELVE))
    )
    return df, nbllm.bench.report(df.sample(frac=1, random_state=1))


def test_a_report_begins_with_verdicts_and_ends_with_the_method(of_twelve):
    """What it rests on stands below what it says."""
    headings = list(sections(of_twelve[1]))
    assert ["Verdicts", "Leaderboard", "Results"] == headings[:3]
    assert ["How good are these numbers?", "Method"] == headings[-2:]


def test_twelve_models_are_told_apart_in_the_order_in_which_they_were_given(of_twelve):
    """By names that fit, in every table; their full names are there, too."""
    short = list(naming.short_names(TWELVE).values())
    found = sections(of_twelve[1])
    assert short == re.findall(r"<tr><td[^>]*><span>(.*?)</span>", found["Results"])
    assert short == re.findall(r'<tr><td[^>]*><span>(.*?)</span></td><td data-h="no."', found["Leaderboard"])
    assert TWELVE == re.findall(r"<li>(openrouter.*?)</li>", found["Leaderboard"])


def test_many_verdicts_are_a_line_a_metric(of_twelve):
    """Who is ahead of how many, in time and in cost; every pair stands folded below."""
    found = sections(of_twelve[1])
    assert "Time to first token: sonnet-4-20250101… is faster than" in found["Verdicts"]
    assert "Cost of an answer: haiku-4.5-20250201… is cheaper than 11 of the 11 others" in found["Verdicts"]
    assert found["Verdicts"].count("<li>") <= 12
    assert found["Comparison"].startswith("<details><summary>Every comparison (")


def test_what_it_costs_stands_in_every_part_of_a_report(of_twelve):
    """In all, for each model, and for each answer."""
    page = of_twelve[1]
    assert "$1.25 in total" in page[: page.index("<h2>")]
    assert "$12.00" in sections(page)["Leaderboard"]
    assert "$12.00" in sections(page)["Results"]
    assert "cost of an answer" in sections(page)["Comparison"]


@pytest.mark.parametrize(
    ("amount", "told"),
    [(0, "$0"), (1234.5, "$1,234.50"), (0.012, "$0.012"), (6.681e-05, "$0.0000668"), (float("nan"), "–")],
)
def test_a_price_is_written_out(amount, told):
    """Never as a power of ten."""
    assert told == format_dollars(amount)


def test_a_price_that_never_varies_is_compared():
    """What is left of equal values is rounding, and no likeness of neighbours."""
    df = frame(*(rows(n, n=10, cost_usd=cost) for n, cost in (("a", 0.001), ("b", 0.003), ("c", 0.007))))
    assert ["cheaper"] * 3 == list(nbllm.bench.compare(df, metrics="cost_usd")["verdict"])
