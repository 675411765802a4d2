"""Frames on disk, figures, the report, the cold-start ladder: on made-up frames with failures, holes and
hostile words."""

import csv
import html.parser
import io
import math
import os
import re
import stat
from html import escape as html_escape
from pathlib import Path

import matplotlib
import numpy as np
import pandas as pd
import pytest
from matplotlib.text import Text
from PIL import Image

import nbllm
from nbllm.bench import presets as questions
from nbllm.core import errors
from nbllm.store import columns

pytestmark = pytest.mark.slow

EVIL = "</td><script>alert(1)</script><img src=x onerror=alert(1)>"


def rows(name="openai/mini", middle=300.0, n=40, *, start="warm", concurrency=1, fail=0.0, seed=1, **more):
    rng = np.random.default_rng(seed)
    out = []
    for i in range(n):
        ok = bool(rng.random() >= fail)
        t = middle * float(np.exp(rng.normal(0, 0.2)))
        out.append(
            {
                "run_id": "r",
                "request_id": f"{name}{start}{concurrency}-{i}",
                "attempt": 1,
                "name": name,
                "provider": "openai",
                "model": name,
                "block": i,
                "phase": "measure",
                "start_kind": start,
                "load_kind": "closed",
                "concurrency": concurrency,
                "ok": ok,
                "status": "ok" if ok else "rate_limited",
                "error_msg": None if ok else EVIL,
                "quality": "contaminated" if i == 3 else "certified",
                "stamp": "kernel",
                "ns_call": i * 10**9,
                "ns_eof": i * 10**9 + int(t * 3e6),
                "err_bound_ms": 0.3,
                "ttft_ms": t if ok else None,
                "e2e_ms": 3 * t if ok else None,
                "itl_ms": 10.0 if ok else None,
                "out_tok_s": 100.0 if ok else None,
                "prompt_id": "p0",
                "t_wall": "2026-11-25T08:00:00Z",
                "simulated": False,
                "params": '{"temperature": 0}',
                "tok_source": "usage",
                "out_tokens": 20,
                **more,
            }
        )
    return out


def frame(*parts):
    df = columns.frame([row for part in parts for row in part])
    df.attrs["nbllm"] = {
        "run_id": "r",
        "models": list(dict.fromkeys(row["name"] for part in parts for row in part)),
        "seed": 7,
        "nbllm": "0.1.0",
        "python": "3.12",
        "system": "Linux",
        "cpus": 2,
        "ended": "complete",
    }
    return df


@pytest.fixture(scope="module")
def two():
    return frame(rows(), rows("claude/sonnet", 600, fail=0.2, seed=2))


@pytest.fixture(scope="module")
def cold():
    return frame(
        *(
            rows(middle=m, n=12, start=kind, **parts)
            for kind, m, parts in (
                ("cold_process", 560, {"import_ms": 150.0, "client_ms": 30.0}),
                ("cold_client", 390, {"client_ms": 30.0, "connect_ms": 20.0, "tls_ms": 30.0}),
                ("cold_conn", 350, {"connect_ms": 20.0, "tls_ms": 30.0}),
                ("cold_model", 2300, {"srv_load_ms": 2000.0}),
                ("warm", 300, {}),
            )
        )
    )


# --- files ---


@pytest.mark.parametrize("suffix", ["parquet", "csv", "jsonl"])
def test_a_frame_comes_back_as_it_was(two, tmp_path, suffix):
    """Columns, dtypes, categories, NA, and a column of the caller's own."""
    mine = two.assign(mine=range(len(two)))
    nbllm.bench.save(mine, tmp_path / f"x.{suffix}")
    back = nbllm.bench.load(tmp_path / f"x.{suffix}")
    pd.testing.assert_frame_equal(two, back[list(two.columns)])
    assert list(range(len(two))) == list(back["mine"])


def test_parquet_keeps_what_is_known_of_the_run(two, tmp_path):
    """The attrs, seed and machine among them."""
    nbllm.bench.save(two, tmp_path / "x.parquet")
    assert two.attrs["nbllm"].items() <= nbllm.bench.load(tmp_path / "x.parquet").attrs["nbllm"].items()


def test_an_empty_frame_is_a_frame(tmp_path):
    """In all three forms."""
    for suffix in ("parquet", "csv", "jsonl"):
        nbllm.bench.save(columns.frame([]), tmp_path / f"x.{suffix}")
        assert 0 == len(nbllm.bench.load(tmp_path / f"x.{suffix}"))


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("x.parquet", b"PAR1 and no more", "truncated"),
        ("x.csv", b"a,b\n1,2\n", "not a frame of requests"),
        ("x.jsonl", b'{"a": 1', "jsonl"),
        ("x.xlsx", b"", "xlsx"),
        ("nothing.csv", None, "no file"),
        ("no-such-run", None, "no benchmark run"),
    ],
)
def test_what_is_no_frame_says_so(tmp_path, name, content, words):
    """With what to do next."""
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(errors.ConfigError, match=words):
        nbllm.bench.load(tmp_path / name)


def test_a_file_of_a_newer_nbllm_is_refused(two, tmp_path):
    """Its columns may mean something else."""
    newer = two.copy()
    newer.attrs = {"nbllm": {"schema": columns.VERSION + 1}}
    newer.attrs["nbllm"]["schema"] = columns.VERSION + 1
    nbllm.bench.save(newer, tmp_path / "x.parquet")
    with pytest.raises(errors.ConfigError, match="newer"):
        nbllm.bench.load(tmp_path / "x.parquet")


def test_a_failed_write_leaves_the_old_file(two, tmp_path):
    """A frame that cannot be written does not cost the one that was."""
    nbllm.bench.save(two, tmp_path / "x.parquet")
    before = (tmp_path / "x.parquet").read_bytes()
    with pytest.raises(Exception):  # noqa: B017, PT011 - pyarrow's own
        nbllm.bench.save(two.assign(bad=[object()] * len(two)), tmp_path / "x.parquet")
    assert (before, ["x.parquet"]) == (
        (tmp_path / "x.parquet").read_bytes(),
        [p.name for p in tmp_path.iterdir()],
    )


def test_the_schema_document_names_every_column():
    """From the code itself."""
    text = columns.document()
    assert [] == [
        c.name for c in (*columns.COLUMNS, *columns.CHUNKS, *columns.TEXTS) if f"`{c.name}`" not in text
    ]
    assert len(columns.COLUMNS) + len(columns.CHUNKS) + len(columns.TEXTS) == len(nbllm.bench.schema())


def test_the_schema_document_in_docs_is_that_of_the_code():
    """`python -m nbllm.store.columns > docs/columns.md` makes it."""
    path = Path(__file__).resolve().parent.parent / "docs" / "columns.md"
    if path.parent.exists():  # a wheel has no docs
        assert columns.document().strip() == path.read_text("utf-8").strip()


# --- plots ---


def picture(figure):
    return Image.open(io.BytesIO(figure._repr_png_()))


@pytest.mark.parametrize("kind", ["overview", "distribution", "percentiles", "drift", "load", "coldstart"])
def test_every_kind_draws_every_frame(two, cold, kind):
    """One model, several, failures, one row, none; never an exception."""
    for df in (two, cold, two[:1], two[:0], frame(rows(fail=1.0))):
        assert picture(nbllm.bench.plot(df, kind)).height > 100


def test_the_frame_says_which_figure_it_wants(two, cold):
    """Several starts: the ladder; several loads: latency against throughput; else the distribution."""
    sweep = frame(*(rows(middle=300 * c, n=10, concurrency=c) for c in (1, 2, 4)))
    titles = [
        "".join(ax.get_title(loc="left") for ax in nbllm.bench.plot(df).axes) for df in (two, cold, sweep)
    ]
    assert ["every request" in titles[0], "each start" in titles[1], "at one load" in titles[2]] == [True] * 3


def test_no_figure_is_left_in_pyplot(two):
    """Nothing is shown twice, nothing is kept."""
    import matplotlib.pyplot as plt

    nbllm.bench.plot(two)
    assert [] == plt.get_fignums()


@pytest.mark.parametrize(
    ("call", "words"), [({"kind": "pie"}, "pie"), ({"metric": "speed"}, "speed"), ({"theme": "pink"}, "pink")]
)
def test_a_kind_there_is_not(two, call, words):
    """Names what there is."""
    with pytest.raises(errors.ConfigError, match=words):
        nbllm.bench.plot(two, **call)


# --- the ladder ---


def test_the_ladder_says_what_each_rung_adds_and_where_it_goes(cold):
    """Coldest first; the increment over the next warmer rung; the parts add up to the whole."""
    table = questions.ladder(cold).set_index("start_kind")
    assert ["cold_process", "cold_client", "cold_conn", "cold_model", "warm"] == list(table.index)
    assert pytest.approx(170, abs=40) == table.loc["cold_process", "added_ms"]
    assert pytest.approx(2000, abs=500) == table.loc["cold_model", "added_ms"]
    assert math.isnan(table.loc["warm", "added_ms"])
    assert (150.0, 2000.0) == (table.loc["cold_process", "import_ms"], table.loc["cold_model", "srv_load_ms"])
    assert pytest.approx(300, rel=0.2) == table.loc["cold_conn", "rest_ms"]


def two_runs(df):
    """A second run ten times as slow, whose blocks and requests have the numbers of the first."""
    later = df.assign(run_id="s", ttft_ms=df["ttft_ms"] * 10)
    return pd.concat([df, later], ignore_index=True)


def test_blocks_of_two_runs_are_two_series(two, cold):
    """Side by side in a figure; a rung adds what it added within each run."""
    axes = nbllm.bench.plot(two_runs(two), "drift").axes[0]
    spans = sorted((line.get_xdata()[0], line.get_xdata()[-1]) for line in axes.lines)
    assert [(0, 39), (0, 39), (40, 79), (40, 79)] == [(first, last) for first, last in spans]
    added = questions.ladder(two_runs(cold)).set_index("start_kind")
    rows = [questions.ladder(df).set_index("start_kind") for df in (cold, two_runs(cold)[len(cold) :])]
    ends = [df.loc["cold_model", "added_ms"] for df in rows]
    assert ends[0] < added.loc["cold_model", "added_ms"] < ends[1]
    assert added.loc["cold_model", "added_hi"] > 2 * ends[0], "it knows of both"


def test_answers_of_two_runs_are_two_lines(two):
    """Though their requests have one id."""
    both = two_runs(two[:2])
    both.loc[2:, "name"] = "claude/sonnet"
    events = [
        {"run_id": run, "request_id": row, "kind": "content", "i": i, "t_ms": 10.0 * i, "n_tokens": 1}
        for run, row in zip(both["run_id"], both["request_id"], strict=True)
        for i in range(3)
    ]
    chunks = columns.frame(events, columns.CHUNKS)
    figure = nbllm.bench.plot(both, "timeline", chunks=chunks)
    assert 4 == len([line for line in figure.axes[0].lines if len(line.get_xdata())])
    assert {"openai/mini", "claude/sonnet"} == {t.get_text() for t in figure.axes[0].get_legend().get_texts()}


# --- the report ---


class Page(html.parser.HTMLParser):
    """What a page would load or run."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.words, self.loads = [], [], []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.loads += [
            v for k, v in attrs if k in ("src", "href", "srcset") and not (v or "").startswith("data:")
        ]
        self.loads += [k for k, _ in attrs if k.startswith("on")]

    def handle_data(self, data):
        self.words.append(data)


@pytest.fixture(scope="module")
def page(two):
    return Page(nbllm.bench.report(two, title=f"Mine {EVIL}"))


def test_a_report_stands_alone_and_nothing_in_it_runs(page):
    """No script, no link, no remote picture, whatever a provider wrote in its errors."""
    assert ([], False) == (page.loads, "script" in page.tags)
    assert "<script>alert(1)</script>" in "".join(page.words), "it is shown as it was written"


def test_a_report_says_what_it_should(page):
    """Method, verdict in words, failures, caveats; and that no self-test was run."""
    text = " ".join(page.words)
    for words in (
        "No self-test",
        "is faster than claude/sonnet",
        "rate_limited",
        "Caveats",
        "seed 7",
        "disturbed",
        "Method",
    ):
        assert words in text
    assert 2 <= page.tags.count("img")


def test_a_report_of_little_is_still_a_report(cold, tmp_path):
    """One model, cold starts, nothing at all."""
    for df in (cold, frame(rows(n=1)), columns.frame([])):
        path = nbllm.bench.report(df, tmp_path / "r.html")
        assert path.read_text("utf-8").startswith("<!doctype html>")


# --- what other people's words do to files and figures ---

FORMULAS = [
    "=cmd|' /C calc'!A0",
    "+1+1",
    "-2+3",
    "@SUM(A1)",
    "\t=1",
    "\r=1",
    "\n=1",
    '=HYPERLINK("http://x")',
    "'=1",
    "''+1",
    "＝1+1",
    "－1",
    "-",
]


def test_no_text_becomes_a_formula_in_a_spreadsheet(two, tmp_path):
    """Model names, errors, and columns of one's own; numbers stay numbers, and all comes back to the
    letter."""
    texts = [FORMULAS[i % len(FORMULAS)] for i in range(len(two))]
    df = two.assign(
        name=texts,
        error_msg=texts,
        mine=texts,
        mixed=[t if i % 2 else -i for i, t in enumerate(texts)],
        ttft_ms=-1.5,
        http_status=-3,
    )
    nbllm.bench.save(columns.cast(df), tmp_path / "x.csv")
    with (tmp_path / "x.csv").open(encoding="utf-8", newline="") as file:
        cells = [(name, cell) for row in csv.DictReader(file) for name, cell in row.items()]
    risky = [(name, cell) for name, cell in cells if cell[:1] in tuple("=+-@\t\r\n＝＋－＠")]
    assert {"ttft_ms", "http_status", "mixed"} >= {name for name, _ in risky}
    assert [] == [cell for _, cell in risky if not re.fullmatch(r"-\d+(\.\d+)?", cell)]
    back = nbllm.bench.load(tmp_path / "x.csv")
    assert (texts, texts, texts) == (list(back["name"]), list(back["error_msg"]), list(back["mine"]))
    assert (-1.5, -3) == (back["ttft_ms"].iloc[0], back["http_status"].iloc[0])


@pytest.mark.parametrize("suffix", ["parquet", "csv", "jsonl"])
def test_a_saved_frame_is_readable_for_its_user_alone(two, tmp_path, suffix):
    """Whatever the umask; also where the file was there before."""
    old = os.umask(0)
    try:
        for _ in range(2):
            path = nbllm.bench.save(two, tmp_path / f"x.{suffix}")
            assert 0o600 == stat.S_IMODE(path.stat().st_mode)
            path.chmod(0o644)
    finally:
        os.umask(old)


NAMES = [
    r"$\frac{$",
    "$x_$",
    "$$",
    "$",
    r"a$\b$c",
    "$^$_$",
    r"\$5$",
    "{",
    r"$\undefined{x}$",
    "%&#_{}~^",
    "a\nb\tc\0d",
    "\ud800 half",
    "\u202eback",
    "<b>$x^$</b>",
    " ",
    "$" * 400,
]


def some(names, n=4):
    """The names, a few at a time: as many as one figure shows."""
    return [names[i : i + n] for i in range(0, len(names), n)]


@pytest.fixture(scope="module")
def named():
    """Frames of all the names."""
    return [
        frame(
            *(rows(name, n=8) for name in names),
            *(rows("b$" + name, n=8, start="cold_conn", concurrency=4, fail=0.3) for name in names[:1]),
        )
        for names in some(NAMES)
    ]


@pytest.mark.parametrize("kind", ["overview", "distribution", "percentiles", "drift", "load", "coldstart"])
@pytest.mark.filterwarnings("ignore:Glyph")
def test_names_are_drawn_as_they_are(kind, named):
    """No name is a formula, and none fails the figure."""
    for df in named:
        figure = nbllm.bench.plot(df, kind)
        assert picture(figure).height > 100
        texts = [t.get_text() for t in figure.findobj(Text) if t.get_parse_math() or t.get_usetex()]
        assert [] == texts


@pytest.mark.filterwarnings("ignore:Glyph")
def test_a_plot_for_those_who_set_their_text_in_tex():
    """A setting of the user's figures is not for names that somebody else chose."""
    with matplotlib.rc_context({"text.usetex": True}):
        shown = picture(nbllm.bench.plot(frame(rows("$x_$", n=8))))
        assert shown.convert("RGBA").getchannel("A").getbbox()


@pytest.mark.filterwarnings("ignore:Glyph")
def test_a_report_stands_whatever_its_models_are_called(tmp_path):
    """It is written, has every name as text, and no markup but its own."""
    for names in some([EVIL, *NAMES], 6):
        told = dict(zip(("ended", "system", "python", "nbllm", "seed", "cpus"), names * 6, strict=False))
        df = frame(
            *(rows(name, n=8, error_msg=name, prompt_id=name, model=name) for name in names),
            rows("other " + names[0], n=8, fail=0.4, seed=3),
        )
        df.attrs["nbllm"] |= told
        page = nbllm.bench.report(df, tmp_path / "x.html", title=names[-1]).read_text("utf-8")
        assert "<script" not in page
        assert "onerror=alert" not in page.replace("&lt;img src=x onerror=alert(1)&gt;", "")
        assert [] == [name for name in names if name.isprintable() and html_escape(name) not in page]


def test_a_call_at_a_whole_second_does_not_cost_the_frame():
    """Such a moment is written without a fraction; in one frame stand moments of both kinds, and some of no
    kind."""
    at = [
        "2026-11-27T08:57:06.999999+00:00",
        "2026-11-27T08:57:07+00:00",
        "2026-11-27 08:57:08",
        "soon",
        None,
    ]
    for given in (at, at[::-1]):
        read = columns.frame([{"t_wall": text} for text in given])["t_wall"]
        seconds = [None if pd.isna(t) else round(t.timestamp() % 60, 6) for t in read]
        assert [6.999999, 7, 8, None, None] == (seconds if given is at else seconds[::-1])


@pytest.mark.parametrize(
    "wrong",
    [
        {"error_msg": "a\ud800b"},
        {"response_model": "\udfff"},
        {"out_tokens": 10**30},
        {"out_tokens": 2**40},
        {"http_status": 10**9},
        {"retry_after_s": 10**400},
        {"retry_after_s": "soon"},
        {"out_tokens": "many"},
        {"in_tokens": 1.5},
        {"ok": "yes"},
        {"status": "?\ud800"},
        {"response_model": ["x"]},
        {"t_wall": "yesterday \ud800"},
    ],
)
def test_what_one_server_says_does_not_cost_the_frame(tmp_path, wrong):
    """A half of a character, a number that fits no column, another kind of value: one cell of one row; all
    others are whole."""
    df = frame(rows(n=3), rows("evil", n=2, **wrong))
    assert 5 == len(df)
    assert df["error_msg"][:3].isna().all()
    assert list(df["out_tokens"][:3]) == [20] * 3
    for suffix in ("parquet", "csv", "jsonl"):
        nbllm.bench.save(df, tmp_path / f"x.{suffix}")
        assert 5 == len(nbllm.bench.load(tmp_path / f"x.{suffix}"))
