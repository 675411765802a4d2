"""What all benchmark figures share: themes and colours, axes, the style of a model, legends.

A figure brings its own page background, since no single text colour has a contrast of 4.5:1 both on white and
on JupyterLab's dark page. The six colours can be told apart with any kind of colour vision (a CIE distance of
at least 15 on both pages, also under simulated protanopia, deuteranopia and tritanopia); from the seventh
model on, markers and dashes differ.
"""

from __future__ import annotations

import io
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import matplotlib as mpl
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.text import Text
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

from ..core.errors import ConfigError
from .frames import last_attempts, ordered_groups, ordered_values
from .naming import COLOURS, palette_positions, short_names
from .summaries import LABELS, UNITS


class Theme(NamedTuple):
    """A page's colours: background (page), text (ink), lines and models (colours)."""

    page: str
    ink: str
    line: str
    colours: tuple[str, ...]


THEMES = {
    "light": Theme(
        "#ffffff", "#4a4a50", "#8a8a90", ("#1713c3", "#af6302", "#168566", "#751443", "#324304", "#904aee")
    ),
    "dark": Theme(
        "#111111", "#c8c8ce", "#7c7c84", ("#b9aeff", "#a98d04", "#26f7dd", "#f12e97", "#dbdb0f", "#646eff")
    ),
}
_MARKERS = "osD^vPX"
_DASHES: tuple[Any, ...] = ("solid", (0, (5, 2)), (0, (1.5, 1.5)), (0, (6, 2, 1, 2)), (0, (3, 1, 1, 1, 1, 1)))


class ModelStyle(NamedTuple):
    """How a model is drawn, the same in every figure of a run."""

    short: str
    colour: str
    marker: str
    dash: Any

    def line(self, **more: Any) -> dict[str, Any]:
        """Keyword arguments of a line."""
        return {"color": self.colour, "linestyle": self.dash, "marker": self.marker, **more}


@dataclass(frozen=True, slots=True)
class Sheet:
    """A figure in the making: its requests, metric and styles."""

    figure: Figure
    theme: Theme
    df: pd.DataFrame
    metric: str
    chunks: pd.DataFrame | None
    styles: dict[str, ModelStyle]

    def groups(self, df: pd.DataFrame | None = None) -> Iterator[tuple[ModelStyle, pd.DataFrame]]:
        """The models' styles and requests (last attempts), in the order in which the run was given the
        models."""
        for (name,), part in ordered_groups(self.df if df is None else df, ["name"]):
            yield self.styles[str(name)], last_attempts(part)

    def axes(self, *position: int, title: str = "", x: str = "", y: str = "", **shared: Any) -> Axes:
        """Adds plain axes with a title at the left."""
        axes: Axes = self.figure.add_subplot(*position, **shared)
        axes.set_facecolor("none")
        for side, spine in axes.spines.items():
            spine.set_visible(side in ("left", "bottom"))
            spine.set_color(self.theme.line)
        axes.tick_params(colors=self.theme.ink, labelsize=9)
        axes.set_title(title, loc="left", fontsize=10, color=self.theme.ink, pad=8)
        axes.set_xlabel(x, color=self.theme.ink, fontsize=9)
        axes.set_ylabel(y, color=self.theme.ink, fontsize=9)
        axes.grid(True, color=self.theme.line, alpha=0.22, linewidth=0.7)
        axes.set_axisbelow(True)
        return axes

    def legend(self, axes: Axes, styles: list[ModelStyle], **line: Any) -> None:
        """Adds a legend beside the axes; if there is one model only, it goes into the title."""
        if len(styles) == 1:
            axes.set_title(f"{styles[0].short}: {axes.get_title(loc='left')}", loc="left", fontsize=10)
            return
        axes.legend(
            handles=[
                Line2D([], [], **style.line(markersize=5, **line), label=_legend_label(style.short))
                for style in styles
            ],
            loc="upper left",
            bbox_to_anchor=(1.01, 1.02),
            frameon=False,
            fontsize=9,
            labelcolor=self.theme.ink,
            handlelength=2.6,
        )

    def show_message(self, message: str) -> None:
        """Shows a message instead of a plot."""
        axes = self.figure.add_subplot()
        axes.set_axis_off()
        axes.text(0.5, 0.5, message, ha="center", va="center", color=self.theme.ink, fontsize=11)


def _legend_label(name: str) -> str:
    """A label that matplotlib keeps: it leaves out those that begin with an underscore."""
    return f"\u200b{name}" if name.startswith("_") else name


class _CellFigure(Figure):
    """A figure that draws itself in a cell, without pyplot."""

    def _repr_png_(self) -> bytes:
        out = io.BytesIO()
        self.savefig(out, format="png", dpi=144, bbox_inches="tight", facecolor=self.get_facecolor())
        return out.getvalue()


def new_sheet(
    df: pd.DataFrame, metric: str, chunks: pd.DataFrame | None, theme: str | None, models: list[str]
) -> Sheet:
    """An empty sheet. Its figure is outside pyplot, so that nothing is retained or shown twice."""
    if theme not in (None, *THEMES):
        raise ConfigError(
            f"theme={theme!r} is not a theme.",
            hint='Use theme="light", theme="dark", or None, which follows plt.style.',
        )

    is_dark = sum(to_rgb(mpl.rcParams["figure.facecolor"])) < 1.5
    chosen = THEMES[theme or ("dark" if is_dark else "light")]
    figure = _CellFigure(figsize=(8.6, 3.6), layout="constrained", facecolor=chosen.page)
    names = list(dict.fromkeys([*models, *(str(n) for n in ordered_values(df, "name"))]))
    short, positions = short_names(names), palette_positions(names)
    styles = {name: _model_style(short[name], positions[name], chosen) for name in names}
    return Sheet(figure, chosen, df, metric, chunks, styles)


def _model_style(short: str, position: int, theme: Theme) -> ModelStyle:
    repeat, colour = divmod(position, COLOURS)
    return ModelStyle(
        short, theme.colours[colour], _MARKERS[repeat % len(_MARKERS)], _DASHES[repeat % len(_DASHES)]
    )


def metric_label(metric: str) -> str:
    """A metric's name with its unit."""
    label = LABELS.get(metric, metric.removesuffix("_ms").replace("_", " "))
    return f"{label}, {UNITS[metric]}" if UNITS.get(metric) else label


def format_axis(axes: Axes, which: str = "x") -> None:
    """Plain numbers, and a logarithmic scale where the data (also of axes that share it) span more than a
    factor of 8."""
    axis = axes.xaxis if which == "x" else axes.yaxis
    shared = axes.get_shared_x_axes() if which == "x" else axes.get_shared_y_axes()
    limits = [getattr(each.dataLim, f"interval{which}") for each in shared.get_siblings(axes)]
    low, high = min(low for low, _ in limits), max(high for _, high in limits)
    if 0 < low < high and high / low > 8:  # where nothing is drawn, low is infinite
        (axes.set_xscale if which == "x" else axes.set_yscale)("log")
        axis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0) if high / low < 200 else (1.0,)))
        axis.set_minor_formatter(NullFormatter())
    axis.set_major_formatter(FuncFormatter(lambda v, _: f"{v:,.4g}" if abs(v) < 10_000 else f"{v:,.0f}"))


def disable_mathtext(figure: Figure) -> Figure:
    """The figure with all its texts drawn literally: a model's name may contain `$` signs."""
    for text in figure.findobj(Text):
        assert isinstance(text, Text)
        text.set_parse_math(False)
        text.set_usetex(False)
    return figure
