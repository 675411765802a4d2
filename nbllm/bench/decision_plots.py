"""Figures for decisions: price against speed and quality, percentiles over time, and the effect of load and
prompt length."""

from __future__ import annotations

import math
from typing import Any

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.colors import LogNorm, Normalize

from . import statistics as st
from .decisions import cost_columns
from .figures import ModelStyle, Sheet, format_axis, metric_label
from .frames import SCORE, ordered_values, success_mask
from .pages import format_dollars
from .summaries import HIGHER_IS_BETTER, split_values

_WINDOWS = 12  # that divide the time of a run
_MIN_VALUES = 5  # values of a window or a cell that support a median
_MAX_LENGTH_CLASSES = 5  # classes of prompt lengths
_CURVES = (("p50", 0.5, 2.0), ("p90", 0.9, 1.2), ("p99", 0.99, 0.8))


def pareto(sheet: Sheet) -> None:
    """Price against speed, with quality as the size of a point; models that another one dominates are
    hollow."""
    used, setting = _lowest_load(sheet.df)
    points, unknown = [], []
    for style, part in sheet.groups(used):
        values, _, _ = split_values(part, sheet.metric)
        price = 1000.0 * cost_columns(part)["cost_usd"]
        if len(values) and not math.isnan(price):
            points.append(
                (style, price, st.quantile(values, 0.5), st.order_interval(values, 0.5), _mean_score(part))
            )
        else:
            unknown.append(style.short)
    if not points:
        return sheet.show_message("No model that answered has a known price.")
    judged = all(not math.isnan(p[4]) for p in points)
    measures = "price, speed, quality (size)" if judged else "price and speed"
    axes = sheet.axes(
        title=f"filled: no model is better in {measures}{setting}"
        + (f"\nprice not known: {', '.join(unknown)}" if unknown else ""),
        x="cost of 1,000 answers, $",
        y=metric_label(sheet.metric),
    )
    up = 1.0 if sheet.metric in HIGHER_IS_BETTER else -1.0
    objectives = [(-price, up * middle, score if judged else 0.0) for _, price, middle, _, score in points]
    leading = [not any(_dominates(other, own) for other in objectives) for own in objectives]
    for (style, price, middle, interval, score), leads in zip(points, leading, strict=True):
        if not math.isnan(interval.lo) and not math.isnan(interval.hi):
            axes.vlines(price, interval.lo, interval.hi, color=style.colour, alpha=0.5, linewidth=1.5)
        axes.scatter(
            [price],
            [middle],
            s=40 + 260 * score if judged else 80,
            marker=style.marker,
            facecolor=style.colour if leads else sheet.theme.page,
            edgecolor=style.colour,
            linewidth=1.6,
            zorder=3,
        )
    front = _pareto_front([(-objectives[i][0], objectives[i][1]) for i in range(len(points))])
    axes.plot(
        [p for p, _ in front],
        [up * m for _, m in front],
        ":",
        color=sheet.theme.line,
        linewidth=1.4,
        zorder=1,
    )
    format_axis(axes)
    format_axis(axes, "y")
    axes.margins(0.12)
    labels = [
        f"{format_dollars(price)} · {middle:,.4g}" + (f" · {score:.2f}" if judged else "")
        for _, price, middle, _, score in points
    ]
    named = [
        style._replace(short=f"{style.short}  {w}", dash="none")
        for (style, *_), w in zip(points, labels, strict=True)
    ]
    sheet.legend(axes, named)
    sheet.figure.set_size_inches(9.6, max(3.8, 1.2 + 0.24 * len(points)))
    return None


def _mean_score(part: pd.DataFrame) -> float:
    return (
        float(part[SCORE].astype(float).mean()) if SCORE in part and part[SCORE].notna().any() else math.nan
    )


def _dominates(a: tuple[float, ...], b: tuple[float, ...]) -> bool:
    """Whether a is at least as good as b in everything, and better in something."""
    return a != b and all(x >= y for x, y in zip(a, b, strict=True))


def _pareto_front(points: list[tuple[float, float]]) -> list[tuple[float, float]]:
    """(price, worth) in order of price, each worth more than all cheaper ones."""
    front: list[tuple[float, float]] = []
    for price, worth in sorted(points, key=lambda p: (p[0], -p[1])):
        if not front or worth > front[-1][1]:
            front.append((price, worth))
    return front


def _add_common_labels(sheet: Sheet, title: str, x_label: str, y_label: str) -> None:
    """Adds the title and axis labels that the panels of a figure share."""
    figure, ink = sheet.figure, sheet.theme.ink
    figure.suptitle(title, fontsize=10, color=ink, x=0.01, ha="left")
    figure.supxlabel(x_label, fontsize=9, color=ink)
    figure.supylabel(y_label, fontsize=9, color=ink)


def _lowest_load(df: pd.DataFrame) -> tuple[pd.DataFrame, str]:
    """The requests of one setting (warm, lowest load), and a text that names it."""
    settings = []
    for column in ("start_kind", "concurrency", "target_rate"):
        values = ordered_values(df.dropna(subset=column), column)
        if len(values) > 1:
            chosen = "warm" if "warm" in values else values[0]
            df = df[df[column] == chosen]
            settings.append(f"{column.replace('_', ' ')} {chosen}")
    return df, f" ({', '.join(settings)})" if settings else ""


def over_time(sheet: Sheet) -> None:
    """Percentiles in time windows of the run, one panel per model, on a common scale; failures at the
    bottom."""
    used, setting = _lowest_load(sheet.df)
    used = used[used["ns_call"].notna()]
    groups = [(style, part) for style, part in sheet.groups(used) if len(part)]
    if not groups:
        return sheet.show_message("No request of this frame has a start time.")
    start = _call_seconds(used, used).min()
    span = max(1e-9, float(_call_seconds(used, used).max() - start))
    scale, unit = (60.0, "min") if span > 180 else (1.0, "s")
    n = max(1, min(_WINDOWS, min(len(part) for _, part in groups) // _MIN_VALUES))
    edges = np.linspace(0.0, span, n + 1)
    columns = min(3, len(groups))
    lines = -(-len(groups) // columns)
    first: Any = None
    for i, (style, part) in enumerate(groups):
        axes = sheet.axes(
            lines,
            columns,
            i + 1,
            title=style.short,
            **({} if first is None else {"sharex": first, "sharey": first}),
        )
        first = first or axes
        at = _call_seconds(part, used) - start
        values = part[sheet.metric].astype("Float64").to_numpy(float, na_value=math.nan)
        ok = success_mask(part).to_numpy()
        window = np.clip(np.searchsorted(edges, at, side="right") - 1, 0, n - 1)
        centres = (edges[:-1] + edges[1:]) / 2 / scale
        for name, p, width in _CURVES:
            window_values = [values[(window == k) & ok & ~np.isnan(values)] for k in range(n)]
            enough = [len(v) >= (_MIN_VALUES if p == 0.5 else st.min_n(p)) for v in window_values]
            if not any(enough):
                continue
            y = [
                st.quantile(v, p) if is_enough else math.nan
                for v, is_enough in zip(window_values, enough, strict=True)
            ]
            axes.plot(
                centres, y, color=style.colour, linewidth=width, marker=style.marker, markersize=3, label=name
            )
            axes.annotate(
                name,
                (centres[enough.index(True)], y[enough.index(True)]),
                textcoords="offset points",
                xytext=(-3, 4),
                ha="right",
                fontsize=7,
                color=sheet.theme.ink,
            )
        axes.plot(at[ok] / scale, values[ok], ".", color=style.colour, alpha=0.45, markersize=5, mew=0)
        axes.plot(
            at[~ok] / scale,
            np.full((~ok).sum(), 0.02),
            "x",
            color=sheet.theme.ink,
            markersize=4,
            transform=axes.get_xaxis_transform(),
        )
        axes.tick_params(labelleft=i % columns == 0, labelbottom=i + columns >= len(groups))
    format_axis(first, "y")
    _add_common_labels(
        sheet,
        f"percentiles over time{setting}; dots: requests, x: failures",
        f"time since the start of the run, {unit}",
        metric_label(sheet.metric),
    )
    sheet.figure.set_size_inches(3.4 * columns + (5.2 if columns == 1 else 1.0), 1.2 + 2.1 * lines)
    return None


def _call_seconds(part: pd.DataFrame, all_requests: pd.DataFrame) -> np.ndarray[Any, Any]:
    """When each request was called, in seconds since the first call of its run."""
    run_start = part["run_id"].map(all_requests.groupby("run_id", observed=True)["ns_call"].min())
    seconds: np.ndarray[Any, Any] = (
        (part["ns_call"].astype("Int64") - run_start.astype("Int64")).to_numpy(float)
    ) / 1e9
    return seconds


def heatmap(sheet: Sheet) -> None:
    """Medians by prompt length and load, one panel per model, on a common colour scale."""

    df = sheet.df
    level = (
        "target_rate"
        if df["target_rate"].nunique() > 1 and df["concurrency"].nunique() < 2
        else "concurrency"
    )
    loads = ordered_values(df.dropna(subset=level), level) or [math.nan]
    lengths, classes = _length_classes(df)
    panels: list[tuple[ModelStyle, np.ndarray[Any, Any], np.ndarray[Any, Any]]] = []
    for style, part in sheet.groups():
        grid, n = np.full((len(classes), len(loads)), math.nan), np.zeros((len(classes), len(loads)), int)
        for y in range(len(classes)):
            for x, load in enumerate(loads):
                cell = part[(lengths.loc[part.index] == y) & ((part[level] == load) | (load != load))]  # noqa: PLR0124
                values, _, _ = split_values(cell, sheet.metric)
                n[y, x] = len(values)
                grid[y, x] = st.quantile(values, 0.5) if len(values) else math.nan
        if n.any():
            panels.append((style, grid, n))
    medians = np.concatenate([grid[~np.isnan(grid)] for _, grid, _ in panels]) if panels else np.empty(0)
    if not len(medians):
        return sheet.show_message("No cell has an answer.")
    low, high = medians.min(), medians.max()
    norm = LogNorm(low, high) if low > 0 and low * 2 < high else Normalize(low, high)
    colours = mpl.colormaps["cividis_r"]
    columns = min(3, len(panels))
    lines = -(-len(panels) // columns)
    for i, (style, grid, n) in enumerate(panels):
        axes = sheet.axes(lines, columns, i + 1, title=style.short)
        axes.grid(False)
        axes.imshow(grid, norm=norm, cmap=colours, aspect="auto", origin="lower")
        for (y, x), value in np.ndenumerate(grid):
            if not math.isnan(value):
                text = f"{value:,.3g}" if value < 1000 else f"{value:,.0f}"
                r, g, b, _ = colours(norm(value))
                text_colour = "black" if _luminance(r, g, b) > 0.18 else "white"
                axes.text(
                    x,
                    y,
                    text if n[y, x] >= _MIN_VALUES else f"({text})",
                    ha="center",
                    va="center",
                    fontsize=8,
                    color=text_colour,
                )
        axes.set_xticks(range(len(loads)), [f"{v:g}" if v == v else "–" for v in map(float, loads)])  # noqa: PLR0124
        axes.set_yticks(range(len(classes)), classes)
        axes.tick_params(length=0, labelleft=i % columns == 0, labelbottom=i + columns >= len(panels))
    load_label = "requests at a time" if level == "concurrency" else "requested rate, 1/s"
    _add_common_labels(
        sheet,
        f"median {metric_label(sheet.metric)}; in brackets: of fewer than {_MIN_VALUES} answers",
        load_label,
        "prompt tokens",
    )
    sheet.figure.set_size_inches(
        (1.2 + 0.62 * len(loads)) * columns + 1.2 + (2.0 if columns == 1 else 0.0),
        1.3 + (0.6 + 0.36 * len(classes)) * lines,
    )
    return None


def _luminance(*rgb: float) -> float:
    """Relative luminance."""
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in rgb]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def _length_classes(df: pd.DataFrame) -> tuple[pd.Series, list[str]]:
    """The length class of each request's prompt, and the labels of the classes. A prompt has the same class
    for every model, although their tokenizers differ."""
    tokens = df["in_tokens"].astype("Float64")
    by = [df[key].astype("string").fillna("") for key in ("run_id", "prompt_id")]
    lengths = tokens.groupby(by).transform("median").fillna(tokens).astype("Float64")
    values = np.sort(lengths.dropna().unique().astype(float))
    if not len(values):
        return pd.Series(0, index=df.index), ["not known"]
    length_groups = np.array_split(values, min(_MAX_LENGTH_CLASSES, len(values)))
    names = [f"{g[0]:,.0f}" if len(g) == 1 else f"{g[0]:,.0f} to {g[-1]:,.0f}" for g in length_groups]
    upper_bounds = np.array([g[-1] for g in length_groups])
    position = np.searchsorted(upper_bounds, lengths.fillna(-1.0).astype(float).to_numpy())
    return pd.Series(np.where(lengths.isna(), -1, position), index=df.index), names
