"""`bench.plot`: one figure that answers one question, readable on light and on dark pages."""

from __future__ import annotations

import io
import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from ..core.errors import ConfigError
from . import statistics as st
from .naming import short_names
from .presets import PARTS, ladder
from .summaries import UNITS, WORDS, _last, disturbed, grouped, measured, ordered, split, succeeded

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Colours that people with any colour vision tell apart (after Okabe and Ito), in shades that read on white
# and on black.
INK = ("#2f7ec7", "#d9730d", "#1a936f", "#b5488f", "#8a7d1f", "#7a6ad8", "#c0453b", "#3f8fa0")
GREY = "#808080"
_PERCENTILES = (50, 75, 90, 95, 99, 99.5, 99.9)
_PART_NAMES = {
    "import_ms": "importing",
    "client_ms": "making the client",
    "dns_ms": "name look-up",
    "connect_ms": "TCP connect",
    "tls_ms": "TLS handshake",
    "srv_load_ms": "loading the model",
    "rest_ms": "the request itself",
}
_PART_INK = dict(
    zip(PARTS, ("#8a7d1f", "#7a6ad8", "#b5488f", "#c0453b", "#d9730d", "#3f8fa0", "#2f7ec7"), strict=True)
)
_RUNGS = {
    "cold_process": "fresh process",
    "cold_client": "fresh client",
    "cold_conn": "fresh connection",
    "cold_model": "unloaded model",
    "cold_cache": "cold prompt cache",
    "warm": "warm",
}


def plot(
    df: pd.DataFrame,
    kind: str | None = None,
    *,
    metric: str = "ttft_ms",
    chunks: pd.DataFrame | None = None,
    theme: str | None = None,
) -> Figure:
    """A matplotlib Figure of a frame of requests.

    kind: distribution (every request, median and its interval), percentiles, timeline (tokens over time;
    chunks as from `bench.chunks`, looked up where None), coldstart (the ladder as stacked bars), load
    (latency against throughput of a sweep), drift (the metric over the run). None: coldstart for a frame with
    several starts, load for one with several loads, else distribution beside percentiles. metric: the column
    shown. theme: "light" or "dark" draws on a page of that colour, None on a transparent one that reads on
    both.

    Raises ConfigError for a kind or metric there is not. Where there is nothing to draw, the figure says so.
    """
    used = measured(df) if "phase" in df else df
    chosen = kind or _sensible(used)
    if chosen not in KINDS:
        raise ConfigError(f"No plot is called {kind!r}.", hint=f"There are {', '.join(KINDS)}.")
    if metric not in df:
        raise ConfigError(
            f"The frame has no column {metric!r}.", hint="ttft_ms, e2e_ms, itl_ms, out_tok_s ..."
        )
    figure = _figure(theme)
    if len(used) and (chosen == "timeline" or used[metric].notna().any()):
        KINDS[chosen](figure, used, metric, chunks)
    else:
        _nothing(
            figure,
            "Nothing was measured: no request of this frame has a time."
            if len(used)
            else "The frame has no measured requests.",
        )
    return _verbatim(figure)


def _verbatim(figure: Figure) -> Figure:
    """The figure with all its words drawn as they are: a model's name may hold what would be a formula."""
    from matplotlib.text import Text

    for text in figure.findobj(Text):
        assert isinstance(text, Text)
        text.set_parse_math(False)
        text.set_usetex(False)
    return figure


def _sensible(df: pd.DataFrame) -> str:
    if "start_kind" in df and df["start_kind"].nunique() > 1:
        return "coldstart"
    levels = [c for c in ("concurrency", "target_rate") if c in df and df[c].nunique() > 1]
    return "load" if levels else "overview"


def _figure(theme: str | None) -> Figure:
    """A figure outside pyplot, so that nothing is kept or shown twice, which draws itself as a cell's
    value."""
    from matplotlib.figure import Figure as Plain

    if theme not in (None, "light", "dark"):
        raise ConfigError(
            f"No theme is called {theme!r}.",
            hint='theme="light", theme="dark", or None for a transparent page.',
        )

    class Drawn(Plain):
        def _repr_png_(self) -> bytes:
            out = io.BytesIO()
            self.savefig(out, format="png", dpi=144, bbox_inches="tight", facecolor=self.get_facecolor())
            return out.getvalue()

    figure: Figure = Drawn(figsize=(8.6, 3.6), layout="constrained")
    figure.set_facecolor({"light": "white", "dark": "#111111", None: "none"}[theme])
    return figure


def _nothing(figure: Figure, words: str) -> None:
    axes = figure.add_subplot()
    axes.set_axis_off()
    axes.text(0.5, 0.5, words, ha="center", va="center", color=GREY, fontsize=11)


def _axes(figure: Figure, *place: int, title: str = "", x: str = "", y: str = "") -> Axes:
    axes = figure.add_subplot(*place)
    axes.set_facecolor("none")
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    for side in ("left", "bottom"):
        axes.spines[side].set_color(GREY)
    axes.tick_params(colors=GREY, labelsize=9)
    axes.set_title(title, loc="left", fontsize=10, color=GREY, pad=8)
    axes.set_xlabel(x, color=GREY, fontsize=9)
    axes.set_ylabel(y, color=GREY, fontsize=9)
    axes.grid(True, color=GREY, alpha=0.18, linewidth=0.7)
    axes.set_axisbelow(True)
    return axes


def _label(metric: str) -> str:
    return f"{WORDS.get(metric, metric.removesuffix('_ms').replace('_', ' '))}{f', {UNITS[metric]}' if UNITS.get(metric) else ''}"  # noqa: E501


def _groups(df: pd.DataFrame) -> list[tuple[str, pd.DataFrame, str]]:
    """(name, its requests, its colour) in the order in which the run was given them; a model keeps its colour
    in every figure of a run, whoever else is drawn."""
    told = [str(n) for n in df.attrs.get("nbllm", {}).get("models", [])]
    names = list(dict.fromkeys([*told, *(str(n) for n in ordered(df, "name"))]))
    places = {name: i for i, name in enumerate(names)}
    return [
        (str(name), _last(part), INK[places[str(name)] % len(INK)]) for (name,), part in grouped(df, ["name"])
    ]


def _ticks(axes: Axes, low: float, high: float, which: str = "x") -> None:
    """A logarithmic scale where the values span more than a factor of 8, with plain numbers."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    axis = axes.xaxis if which == "x" else axes.yaxis
    if low > 0 and high / low > 8:
        (axes.set_xscale if which == "x" else axes.set_yscale)("log")
        axis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0) if high / low < 200 else (1.0,)))
        axis.set_minor_formatter(NullFormatter())
    axis.set_major_formatter(FuncFormatter(lambda v, _: f"{v:,.4g}" if abs(v) < 10_000 else f"{v:,.0f}"))


# --- kinds ---


def _distribution(
    figure: Figure, df: pd.DataFrame, metric: str, _chunks: Any, place: tuple[int, ...] = ()
) -> None:
    import numpy as np

    axes = _axes(figure, *place, title="every request; median with its 95 % interval", x=_label(metric))
    groups = _groups(df)
    rng = np.random.default_rng(0)
    low, high = math.inf, 0.0
    for row, (_, part, ink) in enumerate(groups):
        values, failed, spoilt = split(part, metric)
        ghosts = part.loc[disturbed(part), metric].dropna().to_numpy(float)
        shaky = rng.uniform(-0.26, 0.26, len(values))
        axes.plot(
            values,
            row + shaky,
            "o",
            color=ink,
            alpha=max(0.12, min(0.7, 12 / math.sqrt(len(values) + 1))),
            markersize=3.5,
            markeredgewidth=0,
        )
        axes.plot(
            ghosts,
            row + rng.uniform(-0.26, 0.26, len(ghosts)),
            "o",
            mfc="none",
            mec=GREY,
            alpha=0.6,
            markersize=3.5,
        )
        words = (
            f"n = {len(values)}"
            + (f", {failed} failed" if failed else "")
            + (f", {spoilt} disturbed" if spoilt else "")
        )
        if len(values):
            low, high = min(low, values.min()), max(high, values.max())
            middle, interval = st.quantile(values, 0.5), st.order_interval(values, 0.5)
            if not math.isnan(interval.lo) and not math.isnan(interval.hi):
                axes.fill_betweenx(
                    [row - 0.38, row + 0.38], interval.lo, interval.hi, color=ink, alpha=0.25, linewidth=0
                )
            axes.plot([middle, middle], [row - 0.38, row + 0.38], color=ink, linewidth=2)
            words = f"median {middle:,.4g}, {words}"
        axes.text(
            1.0,
            row - 0.44,
            words,
            transform=axes.get_yaxis_transform(),
            ha="right",
            va="bottom",
            fontsize=8,
            color=GREY,
        )
    short = short_names(name for name, _, _ in groups)
    axes.set_yticks(range(len(groups)), [short[name] for name, _, _ in groups])
    for tick, (_, _, ink) in zip(axes.get_yticklabels(), groups, strict=True):
        tick.set_color(ink)
    axes.set_ylim(len(groups) - 0.4, -0.65)
    axes.grid(False, axis="y")
    if high:
        _ticks(axes, low, high)
    figure.set_size_inches(8.6, max(2.2, 1.1 + 0.75 * len(groups)))


def _percentiles(
    figure: Figure, df: pd.DataFrame, metric: str, _chunks: Any, place: tuple[int, ...] = ()
) -> None:
    import numpy as np

    axes = _axes(
        figure, *place, title="percentiles; dashed: too few to tell", x="percentile", y=_label(metric)
    )
    low, high = math.inf, 0.0
    places = [-math.log10(1 - p / 100) for p in _PERCENTILES]
    ends = []
    for name, part, ink in _groups(df):
        values, _, _ = split(part, metric)
        if not len(values):
            continue
        shares = np.linspace(0.0, 1.0 - 1.0 / (2 * len(values)), 200)
        curve = np.array([st.quantile(values, s) for s in shares])
        x = -np.log10(1 - shares)
        known = np.array([len(values) >= st.least_n(s) if s > 0.5 else True for s in shares])
        axes.plot(x[known], curve[known], color=ink, linewidth=1.8)
        edge = max(0, int(known.sum()) - 1)
        axes.plot(x[edge:], curve[edge:], color=ink, linewidth=1.4, linestyle=(0, (2, 2)), alpha=0.8)
        ends.append((curve[-1], x[-1], name, ink))
        low, high = min(low, values.min()), max(high, values.max())
    reach = max((x for _, x, _, _ in ends), default=1.0)
    axes.set_xticks(
        [p for p in places if p <= reach + 0.3],
        [f"{p:g}" for p, at in zip(_PERCENTILES, places, strict=True) if at <= reach + 0.3],
    )
    axes.set_xlim(0.0, reach * 1.02)
    if high:
        _ticks(axes, low, high, "y")
    _name_ends(axes, ends)


def _name_ends(axes: Axes, ends: Sequence[tuple[float, float, str, str]]) -> None:
    """A legend beside the axes, in the lines' own colours, top to bottom as they end."""
    short = short_names(name for _, _, name, _ in ends)
    step = min(0.075, 1.0 / max(1, len(ends)))
    for i, (_, _, name, ink) in enumerate(sorted(ends, reverse=True)):
        axes.text(
            1.015, 1.0 - step * i, short[name], transform=axes.transAxes, color=ink, fontsize=9, va="top"
        )


def _overview(figure: Figure, df: pd.DataFrame, metric: str, chunks: Any) -> None:
    _distribution(figure, df, metric, chunks, (1, 2, 1))
    _percentiles(figure, df, metric, chunks, (1, 2, 2))
    figure.set_size_inches(11.0, max(3.4, 1.4 + 0.6 * df["name"].nunique()))


def _timeline(figure: Figure, df: pd.DataFrame, _metric: str, chunks: pd.DataFrame | None) -> None:
    import numpy as np

    from .runner import chunks as look_up
    from .token_times import counts

    events = look_up(df) if chunks is None else chunks
    events = events[events["kind"].isin(("content", "reasoning", "tool"))]
    if not len(events):
        return _nothing(figure, "No chunk of these requests held a token.")
    axes = _axes(
        figure,
        title="each line is an answer; bands: arrivals known only within bounds",
        x="since the call, ms",
        y="tokens",
    )
    names = df.set_index("request_id")["name"].astype(str).to_dict()
    totals = df.set_index("request_id")["streamed_tokens"].fillna(0).astype(int).to_dict()
    inks = {name: ink for name, _, ink in _groups(df)}
    seen: dict[str, int] = {}
    for request_id, part in events.groupby("request_id", sort=False):
        name = names.get(request_id)
        if name is None or seen.get(name, 0) >= 25:
            continue
        seen[name] = seen.get(name, 0) + 1
        t, share = part["t_ms"].to_numpy(float), np.cumsum(counts(part, totals.get(request_id, 0)))
        axes.step(t, share, where="post", color=inks[name], linewidth=1.1, alpha=0.55)
        width = (part["ns_hi"] - part["ns_lo"]).to_numpy(float) / 1e6
        wide = width > 1.0
        axes.hlines(share[wide], t[wide] - width[wide], t[wide], color=inks[name], alpha=0.18, linewidth=3)
    _name_ends(axes, [(float(i), 0.0, name, inks[name]) for i, name in enumerate(reversed(list(seen)))])
    axes.set_xlim(left=0)
    axes.set_ylim(bottom=0)
    return None


def _coldstart(figure: Figure, df: pd.DataFrame, metric: str, _chunks: Any) -> None:
    table = ladder(df)
    axes = _axes(
        figure,
        title="median time to first token from each start, and where it goes",
        x="time to first token, ms",
    )
    names = list(dict.fromkeys(table["name"]))
    row, ticks, labels = 0.0, [], []
    used: set[str] = set()
    for name in names:
        axes.text(
            0.0,
            row - 0.55,
            short_names([str(name)], 60)[str(name)],
            fontsize=9,
            fontweight="bold",
            color=GREY,
            va="bottom",
        )
        for line in table[table["name"] == name].to_dict("records"):
            left = 0.0
            scale = (
                line["ttft_ms"] / total
                if (total := sum(line[p] for p in PARTS if line[p] == line[p]))
                else 0.0
            )
            for part in PARTS:
                size = (line[part] if line[part] == line[part] else 0.0) * scale
                if size > 0:
                    axes.barh(row, size, left=left, height=0.62, color=_PART_INK[part], linewidth=0)
                    left += size
                    used.add(part)
            failed = f", {line['n_failed']} failed" if line["n_failed"] else ""
            axes.text(
                left,
                row,
                f"  {line['ttft_ms']:,.0f}  (n = {line['n']}{failed})"
                if line["n"]
                else f"  none of {line['n_failed']} answered",
                va="center",
                fontsize=8,
                color=GREY,
            )
            ticks.append(row)
            labels.append(_RUNGS.get(str(line["start_kind"]), str(line["start_kind"])))
            row += 1.0
        row += 0.9
    axes.set_yticks(ticks, labels)
    axes.set_ylim(row - 0.9, -1.15)
    axes.grid(False, axis="y")
    axes.margins(x=0.16)
    axes.set_xlim(left=0)
    from matplotlib.patches import Patch

    legend = figure.legend(
        handles=[Patch(color=_PART_INK[p], label=_PART_NAMES[p]) for p in PARTS if p in used],
        frameon=False,
        fontsize=8,
        loc="outside lower center",
        ncols=4,
    )
    for text in legend.get_texts():
        text.set_color(GREY)
    figure.set_size_inches(8.6, 1.6 + 0.34 * len(ticks) + 0.4 * len(names))


def _load(figure: Figure, df: pd.DataFrame, metric: str, _chunks: Any) -> None:
    axes = _axes(
        figure,
        title="point: median at one load, bar: up to the 90th percentile",
        x="answers a second",
        y=_label(metric),
    )
    level = (
        "concurrency" if df["concurrency"].nunique() > 1 or df["target_rate"].isna().all() else "target_rate"
    )
    ends, low, high = [], math.inf, 0.0
    for name, part, ink in _groups(df):
        points = []
        for value, at in part.groupby(level, observed=True):
            values, _, _ = split(at, metric, contaminated=False)
            if len(values):
                points.append(
                    (_throughput(at), st.quantile(values, 0.5), st.quantile(values, 0.9), float(str(value)))
                )
        if not points:
            continue
        points.sort(key=lambda p: p[3])
        x, y, top, _ = zip(*points, strict=True)
        axes.plot(x, y, "o-", color=ink, linewidth=1.6, markersize=5)
        axes.vlines(x, y, top, color=ink, alpha=0.45, linewidth=2)
        for px, py, _, value in points:
            axes.annotate(
                f"{value:g}", (px, py), textcoords="offset points", xytext=(5, -10), fontsize=8, color=ink
            )
        low, high = min(low, *y), max(high, *top)
        ends.append((y[-1], x[-1], name, ink))
    if not ends:
        return
    axes.text(
        1.0,
        1.02,
        f"numbers: {'requests at a time' if level == 'concurrency' else 'requests a second asked for'}",
        transform=axes.transAxes,
        ha="right",
        fontsize=8,
        color=GREY,
    )
    _ticks(axes, low, high, "y")
    axes.set_xlim(left=0)
    axes.margins(y=0.15)
    _name_ends(axes, ends)


def _throughput(part: pd.DataFrame) -> float:
    """Answers a second within turns: requests of a block over the time from its first call to its last
    end."""
    shares = []
    for _, turn in part.groupby(["run_id", "block"], observed=True):
        end = turn["ns_eof"].fillna(turn["ns_tokN"])
        span = float((end.max() - turn["ns_call"].min()) / 1e9) if end.notna().any() else math.nan
        if span > 0:
            shares.append(float(succeeded(turn).sum()) / span)
    return sum(shares) / len(shares) if shares else math.nan


def _drift(figure: Figure, df: pd.DataFrame, metric: str, _chunks: Any) -> None:
    axes = _axes(figure, title="median of each block, in the order of the run", x="block", y=_label(metric))
    ends, low, high = [], math.inf, 0.0
    for name, part, ink in _groups(df):
        good = part[succeeded(part) & part[metric].notna() & part["block"].notna()]
        medians = good.groupby("block")[metric].median().astype(float)
        if not len(medians):
            continue
        axes.plot(
            medians.index.to_numpy(int),
            medians.to_numpy(float),
            "o-",
            color=ink,
            linewidth=1.0,
            markersize=3,
            alpha=0.8,
        )
        ends.append((float(medians.iloc[-1]), 0.0, name, ink))
        low, high = min(low, medians.min()), max(high, medians.max())
    if ends:
        _ticks(axes, low, high, "y")
        _name_ends(axes, ends)


KINDS: dict[str, Callable[..., None]] = {
    "overview": _overview,
    "distribution": _distribution,
    "percentiles": _percentiles,
    "timeline": _timeline,
    "coldstart": _coldstart,
    "load": _load,
    "drift": _drift,
}
