"""The cost of a stream, a chunk and a row as their number grows, as a table and as a plot of three panels.

    python benchmarks/growth.py docs/images/growth       writes ...-light.png and ...-dark.png, some 5 min
    python benchmarks/growth.py here/growth --only nbllm,bare --panels rows

CPU time of the client's process, user and system, per unit of work: of all measures, other programs disturb
it least. Clients take turns at every point as in client.py, on the same server; a point that takes seconds is
the best of three, a long one is measured once. Where a client would need minutes, its line ends. Streams have
100 chunks each, 20 ms apart; the chunks of one answer come at once; rows are sent 64 at a time, by nbllm.map
or by coroutines that share them.
"""

from __future__ import annotations

import argparse
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.client import CLIENTS, Server, Worker, running_clients

ROUNDS, LONG = 3, 4.0  # LONG: a point that takes more seconds is measured once
COLOURS = {"nbllm": "#2f81f7", "httpx": "#e8833a", "openai": "#c65fd4", "bare": "#3fa34d"}
STYLES = {"light": ("default", "white", "#d0d7de"), "dark": ("dark_background", "#0d1117", "#30363d")}


@dataclass(frozen=True)
class Panel:
    """One dimension of growth. job, model: what clients.py runs; `{n}` is the size. largest_size: where the
    line of a client ends."""

    label: str
    unit: str
    job: str
    model: str
    sizes: tuple[int, ...]
    largest_size: dict[str, int]

    def cost(self, worker: Worker, size: int) -> dict[str, Any]:
        """The worker's figures of one point, with `us`: microseconds per unit; or {"failed": reason}."""
        together = self.job == "concurrent"
        times = size if self.job != "sequential" else max(1, 15_000 // size)
        figures = worker.run_job(self.job, self.model.format(n=size), times)
        if together and "failed" not in figures:
            figures["us"] = figures["cpu_s"] * 1e6 / size / 100
        return figures | ({"us": figures["chunk_us"]} if "chunk_us" in figures else {})


PANELS = {
    "streams": Panel(
        "concurrent streams",
        "chunk",
        "concurrent",
        "c100-g20000-f200000",
        (1, 32, 256, 1000),
        {},
    ),
    "chunks": Panel(
        "chunks of an answer",
        "chunk",
        "sequential",
        "lean-c{n}-g0-f0",
        (1000, 10_000, 100_000, 1_000_000),
        {"openai": 100_000},
    ),
    "rows": Panel(
        "rows of a table",
        "row",
        "rows",
        "c3-g0-f0",
        (1, 10, 100, 1000, 10_000, 100_000),
        {"httpx": 10_000, "openai": 10_000},
    ),
}
Results = dict[tuple[str, str, int], float]  # microseconds per unit by panel, client and size


def measure(panels: list[str], workers: list[Worker], server: Server) -> Results:
    """The result of each point of each line; failures are printed and left out."""
    best: Results = {}
    for name in panels:
        panel = PANELS[name]
        for size in panel.sizes:
            remaining = {w for w in workers if size <= panel.largest_size.get(w.name, size)}
            for _ in range(ROUNDS):
                for worker in [w for w in workers if w in remaining]:
                    server.read_stats()
                    start = time.perf_counter()
                    figures = panel.cost(worker, size)
                    seconds, busy = time.perf_counter() - start, server.read_stats()["busy"]
                    if "failed" in figures or seconds > LONG:
                        remaining.discard(worker)
                    result = figures.get("failed") or f"{figures['us']:.1f} µs per {panel.unit}"
                    duration = f"in {seconds:.1f} s, the server {busy:.0%} busy"
                    print(f"{name} {size:,} {worker.name}: {result} {duration}", file=sys.stderr, flush=True)
                    if "us" in figures:
                        key = (name, worker.name, size)
                        best[key] = min(figures["us"], best.get(key, figures["us"]))
    return best


def table(panels: list[str], names: list[str], results: Results) -> str:
    """The results as a Markdown table."""
    lines = [
        "| CPU, µs | | " + " | ".join(CLIENTS[n][0] for n in names) + " |",
        "|---" * (len(names) + 2) + "|",
    ]
    for name in panels:
        panel = PANELS[name]
        for size in panel.sizes:
            costs = [results.get((name, client, size)) for client in names]
            cells = ["" if c is None else f"{c:,.1f}" if c < 100 else f"{c:,.0f}" for c in costs]
            lines.append(f"| per {panel.unit}, {panel.label} | {size:,} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def draw(path: str, panels: list[str], names: list[str], results: Results) -> None:
    """Writes the plot for a light and for a dark page."""
    import matplotlib.pyplot as plt
    from matplotlib.ticker import FuncFormatter

    for name_of_style, (style, ground, lines) in STYLES.items():
        with plt.style.context(style):
            figure, axes = plt.subplots(
                1, len(panels), figsize=(12, 4.2), layout="constrained", squeeze=False, facecolor=ground
            )
            for axis, name in zip(axes[0], panels, strict=True):
                panel = PANELS[name]
                axis.set_facecolor(ground)
                for client in names:
                    points = [
                        (n, results[name, client, n]) for n in panel.sizes if (name, client, n) in results
                    ]
                    if points:
                        axis.loglog(
                            *zip(*points, strict=True),
                            marker="o",
                            label=CLIENTS[client][0],
                            color=COLOURS.get(client),
                        )
                axis.set(xlabel=panel.label, title=f"CPU per {panel.unit}, µs", xticks=panel.sizes)
                axis.minorticks_off()
                for side in (axis.xaxis, axis.yaxis):
                    side.set_major_formatter(FuncFormatter(lambda value, _: _short_number(value)))
                low, high = axis.get_ylim()
                marks = [m * 10**e for e in range(-1, 7) for m in (1, 2, 5)]
                axis.set_yticks([m for m in marks if low <= m <= high])
                axis.grid(color=lines, linewidth=0.7)
                axis.spines[["top", "right"]].set_visible(False)
            lines_of = axes[0][0].get_legend_handles_labels()
            figure.legend(*lines_of, loc="outside upper center", ncols=len(names), frameon=False)
            figure.savefig(f"{path}-{name_of_style}.png", dpi=110, facecolor=ground)
            plt.close(figure)


def _short_number(value: float) -> str:
    for limit, suffix in ((1e6, "M"), (1e3, "k")):
        if value >= limit:
            return f"{value / limit:g}{suffix}"
    return f"{value:g}"


def main() -> None:
    """Measures, prints the table, and draws."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("path", help="where the pictures go, without -light.png and -dark.png")
    parser.add_argument("--only", default=",".join(COLOURS), help="clients: " + ", ".join(COLOURS))
    parser.add_argument("--panels", default=",".join(PANELS), help="panels: " + ", ".join(PANELS))
    arguments = parser.parse_args()
    panels = arguments.panels.split(",")
    with running_clients(arguments.only.split(",")) as (server, workers):
        results = measure(panels, workers, server)
        names = [w.name for w in workers]
        print(table(panels, names, results))
        draw(arguments.path, panels, names, results)


if __name__ == "__main__":
    main()
