"""`bench.plot`: figures that answer one question each, readable on light and on dark pages."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from ..core.errors import ConfigError
from ..store.chunks import TOKEN_KINDS
from . import statistics as st
from .decision_plots import heatmap, over_time, pareto
from .figures import ModelStyle, Sheet, disable_mathtext, format_axis, metric_label, new_sheet
from .frames import contaminated_mask, leading_metric, measured_requests, normalize_requests, success_mask
from .presets import PARTS, ladder
from .runner import chunks as load_chunks
from .summaries import choose_metrics, split_values
from .token_times import chunk_token_counts

_PERCENTILES = (50, 75, 90, 95, 99, 99.5, 99.9)
_PART_LABELS = {
    "import_ms": "importing",
    "client_ms": "making the client",
    "dns_ms": "name look-up",
    "connect_ms": "TCP connect",
    "tls_ms": "TLS handshake",
    "srv_load_ms": "loading the model",
    "rest_ms": "the request itself",
}
_START_LABELS = {
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
    metric: str | None = None,
    chunks: pd.DataFrame | None = None,
    theme: str | None = None,
) -> Figure:
    """A matplotlib Figure of a frame of requests.

    kind: distribution (every request, median and its interval), percentiles, timeline (tokens over time;
    chunks as returned by `bench.chunks`, loaded if None), coldstart (the ladder as stacked bars), load
    (latency against throughput of a sweep), drift (the metric over the run), over_time (its percentiles in
    time windows), heatmap (its median by prompt length and load), pareto (the price of 1,000 answers against
    the metric; quality as size where the run has scores). None: coldstart for a frame with several start
    kinds, load for one with several loads, else distribution and percentiles side by side. metric: the column
    to show; None for the time to the first token, or to the last where there is no first one. theme: "light"
    or "dark", the page background that the figure brings; None follows matplotlib's style
    (`plt.style.use("dark_background")`), else light.

    A model has the same colour, marker and dash in every figure of a run, and in other runs of the same
    models. Raises ConfigError for an unknown kind or metric. Where there is nothing to draw, the figure says
    so.
    """
    df = normalize_requests(df)
    used = measured_requests(df)
    plot_kind = kind or _default_kind(used)
    if plot_kind not in KINDS:
        raise ConfigError(f"kind={kind!r} is not a plot.", hint=f"Use one of {', '.join(KINDS)}.")
    metric = metric or leading_metric(used)
    if metric not in df:
        raise ConfigError(
            f"The frame has no column {metric!r}.", hint="ttft_ms, e2e_ms, itl_ms, out_tok_s ..."
        )
    choose_metrics(df, [metric])
    models = [str(n) for n in df.attrs.get("nbllm", {}).get("models", [])]
    target = new_sheet(used, metric, chunks, theme, models)
    if len(used) and (plot_kind == "timeline" or used[metric].notna().any()):
        KINDS[plot_kind](target)
    else:
        target.show_message(
            "No request of this frame has a value of this metric."
            if len(used)
            else "The frame has no measured requests."
        )
    return disable_mathtext(target.figure)


def _default_kind(df: pd.DataFrame) -> str:
    if df["start_kind"].nunique() > 1:
        return "coldstart"
    return "load" if any(df[c].nunique() > 1 for c in ("concurrency", "target_rate")) else "overview"


# --- kinds ---


def _distribution(sheet: Sheet, *position: int) -> None:
    axes = sheet.axes(
        *position, title="every request; median with its 95 % interval", x=metric_label(sheet.metric)
    )
    rng = np.random.default_rng(0)
    names = []
    for row, (style, part) in enumerate(sheet.groups()):
        values, failed, n_contaminated = split_values(part, sheet.metric)
        contaminated = part.loc[contaminated_mask(part), sheet.metric].dropna().to_numpy(float)
        alpha = max(0.15, min(0.75, 12 / math.sqrt(len(values) + 1)))
        point_groups: tuple[tuple[Any, dict[str, Any]], ...] = (
            (values, {"color": style.colour, "alpha": alpha, "mew": 0}),
            (contaminated, {"mfc": "none", "mec": sheet.theme.line, "alpha": 0.7}),
        )
        for points, plot_options in point_groups:
            axes.plot(
                points,
                row + rng.uniform(-0.26, 0.26, len(points)),
                style.marker,
                markersize=3.5,
                **plot_options,
            )
        label_text = f"n = {len(values)}" + (f", {failed} failed" if failed else "")
        label_text += f", {n_contaminated} disturbed" if n_contaminated else ""
        if len(values):
            middle, interval = st.quantile(values, 0.5), st.order_interval(values, 0.5)
            edges = [row - 0.38, row + 0.38]
            if not math.isnan(interval.lo) and not math.isnan(interval.hi):
                axes.fill_betweenx(
                    edges, interval.lo, interval.hi, color=style.colour, alpha=0.25, linewidth=0
                )
            axes.plot([middle, middle], edges, color=style.colour, linewidth=2)
            label_text = f"{middle:,.4g}, {label_text}"
        names.append(f"{style.short}\n{label_text}")
    axes.set_yticks(range(len(names)), names)
    axes.set_ylim(len(names) - 0.4, -0.65)
    axes.grid(False, axis="y")
    format_axis(axes)
    sheet.figure.set_size_inches(8.6, max(2.2, 1.1 + 0.62 * len(names)))


def _percentiles(sheet: Sheet, *position: int) -> None:
    axes = sheet.axes(
        *position, title="percentiles; pale: too few requests", x="percentile", y=metric_label(sheet.metric)
    )
    x_max, styles = 0.0, []
    for style, part in sheet.groups():
        values, _, _ = split_values(part, sheet.metric)
        if not len(values):
            continue
        shares = np.linspace(0.0, 1.0 - 1.0 / (2 * len(values)), 200)
        curve = np.array([st.quantile(values, s) for s in shares])
        x = -np.log10(1 - shares)
        supported = np.array([len(values) >= st.min_n(max(s, 0.5)) for s in shares])
        mark = [int(np.searchsorted(shares, 0.5))]
        axes.plot(x, curve, **style.line(linewidth=1.3, alpha=0.4, markersize=5, markevery=mark))
        axes.plot(x[supported], curve[supported], **style.line(linewidth=2.0, marker=""))
        x_max = max(x_max, x[-1])
        styles.append(style)
    at = {p: -math.log10(1 - p / 100) for p in _PERCENTILES}
    seen = [p for p in _PERCENTILES if at[p] <= (x_max or 1.0) + 0.3]
    axes.set_xticks([at[p] for p in seen], [f"{p:g}" for p in seen])
    axes.set_xlim(0.0, (x_max or 1.0) * 1.02)
    format_axis(axes, "y")
    sheet.legend(axes, styles)


def _overview(sheet: Sheet) -> None:
    n = sheet.df["name"].nunique()
    _distribution(sheet, 1, 2, 1)
    _percentiles(sheet, 1, 2, 2)
    sheet.figure.set_size_inches(12.0, max(3.6, 1.4 + 0.55 * n))


def _timeline(sheet: Sheet) -> None:

    events = load_chunks(sheet.df) if sheet.chunks is None else sheet.chunks
    events = events[events["kind"].isin(TOKEN_KINDS)]
    if not len(events):
        return sheet.show_message("No chunk of these requests has a token.")
    axes = sheet.axes(
        title="each line is an answer; bands: bounds of uncertain arrival times",
        x="time since the call, ms",
        y="tokens",
    )
    key = ["run_id", "request_id"]  # a request id is unique within its run only
    names = sheet.df.set_index(key)["name"].astype(str).to_dict()
    totals = sheet.df.set_index(key)["streamed_tokens"].fillna(0).astype(int).to_dict()
    drawn: dict[str, int] = {}
    for request, part in events.groupby(key, sort=False, observed=True):
        name = names.get(request)
        if name is None or drawn.get(name, 0) >= 25:
            continue
        drawn[name] = drawn.get(name, 0) + 1
        style = sheet.styles[name]
        t, share = part["t_ms"].to_numpy(float), np.cumsum(chunk_token_counts(part, totals.get(request, 0)))
        axes.step(t, share, where="post", **style.line(linewidth=1.1, alpha=0.55, marker=""))
        width = (part["ns_hi"] - part["ns_lo"]).to_numpy(float) / 1e6
        is_wide = width > 1.0
        axes.hlines(
            share[is_wide],
            t[is_wide] - width[is_wide],
            t[is_wide],
            color=style.colour,
            alpha=0.18,
            linewidth=3,
        )
    sheet.legend(axes, [style for name, style in sheet.styles.items() if name in drawn])
    axes.set_xlim(left=0)
    axes.set_ylim(bottom=0)
    return None


def _coldstart(sheet: Sheet) -> None:

    table, theme = ladder(sheet.df), sheet.theme
    axes = sheet.axes(
        title="median time to first token of each start, and its parts", x="time to first token, ms"
    )
    colours = dict(zip(PARTS, (*theme.colours[1:], theme.line, theme.colours[0]), strict=True))
    names = list(dict.fromkeys(map(str, table["name"])))
    row, rows, labels = 0.0, [], []
    drawn_parts: set[str] = set()
    for name in names:
        axes.text(
            0.0,
            row - 0.55,
            sheet.styles[name].short,
            fontsize=9,
            fontweight="bold",
            color=theme.ink,
            va="bottom",
        )
        for line in table[table["name"] == name].to_dict("records"):
            sizes = {p: line[p] for p in PARTS if line[p] == line[p] and line[p] > 0}
            scale = line["ttft_ms"] / sum(sizes.values()) if sizes else 0.0
            left = 0.0
            for part, size in sizes.items():
                axes.barh(
                    row,
                    size * scale,
                    left=left,
                    height=0.62,
                    color=colours[part],
                    lw=0.8,
                    edgecolor=theme.page,
                )
                left += size * scale
            drawn_parts |= set(sizes)
            failed = f", {line['n_failed']} failed" if line["n_failed"] else ""
            label_text = f"{line['ttft_ms']:,.0f}  (n = {line['n']}{failed})"
            label_text = label_text if line["n"] else f"all {line['n_failed']} failed"
            axes.text(left, row, f"  {label_text}", va="center", fontsize=8, color=theme.ink)
            rows.append(row)
            labels.append(_START_LABELS.get(str(line["start_kind"]), str(line["start_kind"])))
            row += 1.0
        row += 0.9
    axes.set_yticks(rows, labels)
    axes.set_ylim(row - 0.9, -1.15)
    axes.grid(False, axis="y")
    axes.margins(x=0.16)
    axes.set_xlim(left=0)
    sheet.figure.legend(
        handles=[Patch(color=colours[p], label=_PART_LABELS[p]) for p in PARTS if p in drawn_parts],
        frameon=False,
        fontsize=8,
        loc="outside lower center",
        ncols=4,
        labelcolor=theme.ink,
    )
    sheet.figure.set_size_inches(8.6, 1.6 + 0.34 * len(rows) + 0.4 * len(names))


def _load(sheet: Sheet) -> None:
    df = sheet.df
    level = (
        "concurrency" if df["concurrency"].nunique() > 1 or df["target_rate"].isna().all() else "target_rate"
    )
    load_label = "requests at a time" if level == "concurrency" else "requested rate, 1/s"
    axes = sheet.axes(
        title=f"point: median at one load (number: {load_label}), bar: up to the 90th percentile",
        x="answers a second",
        y=metric_label(sheet.metric),
    )
    styles: list[ModelStyle] = []
    for style, part in sheet.groups():
        points = []
        for value, level_rows in part.groupby(level, observed=True):
            values, _, _ = split_values(level_rows, sheet.metric, contaminated=False)
            if len(values):
                middle, top = (st.quantile(values, p) for p in (0.5, 0.9))
                points.append((float(str(value)), _throughput(level_rows), middle, top))
        if not points:
            continue
        loads, x, y, tops = zip(*sorted(points), strict=True)
        axes.plot(x, y, **style.line(linewidth=1.6, markersize=5))
        axes.vlines(x, y, tops, color=style.colour, alpha=0.45, linewidth=2)
        for px, py, value in zip(x, y, loads, strict=True):
            axes.annotate(
                f"{value:g}",
                (px, py),
                textcoords="offset points",
                xytext=(5, -10),
                fontsize=8,
                color=sheet.theme.ink,
            )
        styles.append(style)
    format_axis(axes, "y")
    axes.set_xlim(left=0)
    axes.margins(y=0.15)
    sheet.legend(axes, styles)


def _throughput(part: pd.DataFrame) -> float:
    """Mean answers per second of a turn: the requests of a block over the time from its first call to its
    last end."""
    rates = []
    for _, turn in part.groupby(["run_id", "block"], observed=True):
        end = turn["ns_eof"].fillna(turn["ns_tokN"])
        span = float((end.max() - turn["ns_call"].min()) / 1e9) if end.notna().any() else math.nan
        if span > 0:
            rates.append(float(success_mask(turn).sum()) / span)
    return sum(rates) / len(rates) if rates else math.nan


def _drift(sheet: Sheet) -> None:
    axes = sheet.axes(
        title="median of each block, in the order of the run", x="block", y=metric_label(sheet.metric)
    )
    styles = []
    blocks = sheet.df.groupby("run_id", observed=True)["block"].max().astype(float).fillna(-1.0) + 1.0
    first_block = blocks.cumsum() - blocks  # runs are drawn side by side
    for style, part in sheet.groups():
        good = part[success_mask(part) & part[sheet.metric].notna() & part["block"].notna()]
        for run_id, run in good.groupby("run_id", observed=True):
            medians = run.groupby("block")[sheet.metric].median().astype(float)
            axes.plot(
                medians.index.to_numpy(int) + int(first_block[run_id]),
                medians.to_numpy(float),
                **style.line(linewidth=1.2, markersize=3.5, alpha=0.9),
            )
        if len(good):
            styles.append(style)
    format_axis(axes, "y")
    sheet.legend(axes, styles)


KINDS: dict[str, Callable[[Sheet], None]] = {
    "overview": _overview,
    "distribution": _distribution,
    "percentiles": _percentiles,
    "timeline": _timeline,
    "coldstart": _coldstart,
    "load": _load,
    "drift": _drift,
    "over_time": over_time,
    "heatmap": heatmap,
    "pareto": pareto,
}
