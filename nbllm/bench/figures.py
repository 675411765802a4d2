"""What all figures of a benchmark share: pages and colours, axes, the look of a model, its legend.

A figure brings its page with it: no one colour of text has 4.5:1 on white and on JupyterLab's dark page.
Six colours are told apart with any kind of colour vision (a CIE distance of 15 at least, on both pages, also
as seen with protanopia, deuteranopia and tritanopia); from the seventh model on, markers and dashes do it.
"""

from __future__ import annotations

import io
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

from ..core.errors import ConfigError
from .frames import last_attempts, ordered_groups, ordered_values
from .naming import COLOURS, palette_positions, short_names
from .summaries import LABELS, UNITS

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


class Theme(NamedTuple):
    """A page: what is written (ink), drawn (line) and who is drawn (colours), on which colour."""

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
    """How a model is drawn: in every figure of a run the same."""

    short: str
    colour: str
    marker: str
    dash: Any

    def line(self, **more: Any) -> dict[str, Any]:
        """Arguments of a line."""
        return {"color": self.colour, "linestyle": self.dash, "marker": self.marker, **more}


@dataclass(frozen=True, slots=True)
class Sheet:
    """A figure that is being drawn, of which requests, and how."""

    figure: Figure
    theme: Theme
    df: pd.DataFrame
    metric: str
    chunks: pd.DataFrame | None
    looks: dict[str, ModelStyle]

    def groups(self, df: pd.DataFrame | None = None) -> Iterator[tuple[ModelStyle, pd.DataFrame]]:
        """The models with their requests, in the order in which the run was given them."""
        for (name,), part in ordered_groups(self.df if df is None else df, ["name"]):
            yield self.looks[str(name)], last_attempts(part)

    def axes(self, *place: int, title: str = "", x: str = "", y: str = "", **shared: Any) -> Axes:
        """Quiet axes with a title at their left."""
        axes: Axes = self.figure.add_subplot(*place, **shared)
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

    def legend(self, axes: Axes, looks: list[ModelStyle], **line: Any) -> None:
        """Beside the axes, each with its line as it is drawn; one alone stands in the title."""
        from matplotlib.lines import Line2D

        if len(looks) == 1:
            axes.set_title(f"{looks[0].short}: {axes.get_title(loc='left')}", loc="left", fontsize=10)
            return
        axes.legend(
            handles=[
                Line2D([], [], **k.line(markersize=5, **line), label=_legend_label(k.short)) for k in looks
            ],
            loc="upper left",
            bbox_to_anchor=(1.01, 1.02),
            frameon=False,
            fontsize=9,
            labelcolor=self.theme.ink,
            handlelength=2.6,
        )

    def nothing(self, words: str) -> None:
        """A page that says why it is empty."""
        axes = self.figure.add_subplot()
        axes.set_axis_off()
        axes.text(0.5, 0.5, words, ha="center", va="center", color=self.theme.ink, fontsize=11)

    def size(self, width: float, height: float) -> None:
        """In inches."""
        self.figure.set_size_inches(width, height)


def _legend_label(name: str) -> str:
    """Matplotlib leaves a label out that begins with an underscore."""
    return f"\u200b{name}" if name.startswith("_") else name


def new_sheet(
    df: pd.DataFrame, metric: str, chunks: pd.DataFrame | None, theme: str | None, models: list[str]
) -> Sheet:
    """An empty sheet outside pyplot, so that nothing is kept or shown twice, which draws itself in a cell."""
    import matplotlib as mpl
    from matplotlib.figure import Figure as Plain

    if theme not in (None, *THEMES):
        raise ConfigError(
            f"No theme is called {theme!r}.",
            hint='theme="light", theme="dark", or None, which follows plt.style.',
        )

    class Drawn(Plain):
        def _repr_png_(self) -> bytes:
            out = io.BytesIO()
            self.savefig(out, format="png", dpi=144, bbox_inches="tight", facecolor=self.get_facecolor())
            return out.getvalue()

    chosen = THEMES[theme or ("dark" if _is_dark(mpl.rcParams["figure.facecolor"]) else "light")]
    figure: Figure = Drawn(figsize=(8.6, 3.6), layout="constrained", facecolor=chosen.page)
    names = list(dict.fromkeys([*models, *(str(n) for n in ordered_values(df, "name"))]))
    short, at = short_names(names), palette_positions(names)
    looks = {name: _model_style(short[name], at[name], chosen) for name in names}
    return Sheet(figure, chosen, df, metric, chunks, looks)


def _model_style(short: str, place: int, theme: Theme) -> ModelStyle:
    turn, colour = divmod(place, COLOURS)
    return ModelStyle(
        short, theme.colours[colour], _MARKERS[turn % len(_MARKERS)], _DASHES[turn % len(_DASHES)]
    )


def _is_dark(colour: Any) -> bool:
    from matplotlib.colors import to_rgb

    return sum(to_rgb(colour)) < 1.5


def metric_label(metric: str) -> str:
    """A metric in words, with its unit."""
    words = LABELS.get(metric, metric.removesuffix("_ms").replace("_", " "))
    return f"{words}, {UNITS[metric]}" if UNITS.get(metric) else words


def format_axis(axes: Axes, which: str = "x") -> None:
    """A logarithmic scale where what is drawn spans more than a factor of 8, also in axes that share it, with
    plain numbers."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    axis = axes.xaxis if which == "x" else axes.yaxis
    shared = axes.get_shared_x_axes() if which == "x" else axes.get_shared_y_axes()
    spans = [getattr(each.dataLim, f"interval{which}") for each in shared.get_siblings(axes)]
    low, high = min(low for low, _ in spans), max(high for _, high in spans)
    if 0 < low < high and high / low > 8:  # where nothing is drawn, low is infinite
        (axes.set_xscale if which == "x" else axes.set_yscale)("log")
        axis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0) if high / low < 200 else (1.0,)))
        axis.set_minor_formatter(NullFormatter())
    axis.set_major_formatter(FuncFormatter(lambda v, _: f"{v:,.4g}" if abs(v) < 10_000 else f"{v:,.0f}"))


def disable_mathtext(figure: Figure) -> Figure:
    """The figure with all its words drawn as they are: a model's name may hold what would be a formula."""
    from matplotlib.text import Text

    for text in figure.findobj(Text):
        assert isinstance(text, Text)
        text.set_parse_math(False)
        text.set_usetex(False)
    return figure
