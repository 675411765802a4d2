"""What a stream, a chunk and a row cost as there are more of them, as a table and as a plot of three panels.

    python benchmarks/growth.py docs/images/growth       writes ...-light.png and ...-dark.png, some 5 min
    python benchmarks/growth.py here/growth --only nbllm,bare --panels rows

Processor time of the client's process, user and system, for one unit of work: of all measures the one that
other programs disturb least. Clients take turns at every point as in client.py, on the same server; the best
of three is taken where a point takes seconds, a long one is measured once. Where a client would need minutes,
its line ends before. Streams have 100 chunks each, 20 ms apart; the chunks of one answer come at once; rows
are asked 64 at a time, by nbllm.map or by coroutines that share them.
"""

from __future__ import annotations

import argparse
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.client import CLIENTS, Server, Worker, at_work

ROUNDS, LONG = 3, 4.0  # seconds after which a point is not measured again
COLOURS = {"nbllm": "#2f81f7", "httpx": "#e8833a", "openai": "#c65fd4", "bare": "#3fa34d"}
LOOKS = {"light": ("default", "white", "#d0d7de"), "dark": ("dark_background", "#0d1117", "#30363d")}


@dataclass(frozen=True)
class Panel:
    """One way in which work grows. job, model: what clients.py does for it; `{n}` is how much. most: where a
    client's line ends."""

    label: str
    unit: str
    job: str
    model: str
    sizes: tuple[int, ...]
    most: dict[str, int]

    def cost(self, worker: Worker, size: int) -> dict[str, Any]:
        """The worker's figures of one point, `us` among them: microseconds a unit; {"failed": why}."""
        together = self.job == "together"
        times = size if self.job != "alone" else max(1, 15_000 // size)
        found = worker.ask(self.job, self.model.format(n=size), times)
        if together and "failed" not in found:
            found["us"] = found["cpu_s"] * 1e6 / size / 100
        return found | ({"us": found["chunk_us"]} if "chunk_us" in found else {})


PANELS = {
    "streams": Panel(
        "concurrent streams",
        "chunk",
        "together",
        "c100-g20000-f200000",
        (1, 32, 256, 1000),
        {},
    ),
    "chunks": Panel(
        "chunks of an answer",
        "chunk",
        "alone",
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
Found = dict[tuple[str, str, int], float]  # microseconds a unit by panel, client and size


def measured(panels: list[str], workers: list[Worker], server: Server) -> Found:
    """Each point of each line; what failed is said, and is not in it."""
    best: Found = {}
    for name in panels:
        panel = PANELS[name]
        for size in panel.sizes:
            left = {w for w in workers if size <= panel.most.get(w.name, size)}
            for _ in range(ROUNDS):
                for worker in [w for w in workers if w in left]:
                    server.told()
                    began = time.perf_counter()
                    found = panel.cost(worker, size)
                    took, busy = time.perf_counter() - began, server.told()["busy"]
                    if "failed" in found or took > LONG:
                        left.discard(worker)
                    what = found.get("failed") or f"{found['us']:.1f} µs per {panel.unit}"
                    took_words = f"in {took:.1f} s, the server {busy:.0%} busy"
                    print(f"{name} {size:,} {worker.name}: {what} {took_words}", file=sys.stderr, flush=True)
                    if "us" in found:
                        key = (name, worker.name, size)
                        best[key] = min(found["us"], best.get(key, found["us"]))
    return best


def table(panels: list[str], names: list[str], found: Found) -> str:
    """The figures as Markdown."""
    lines = [
        "| CPU, µs | | " + " | ".join(CLIENTS[n][0] for n in names) + " |",
        "|---" * (len(names) + 2) + "|",
    ]
    for name in panels:
        panel = PANELS[name]
        for size in panel.sizes:
            costs = [found.get((name, client, size)) for client in names]
            cells = ["" if c is None else f"{c:,.1f}" if c < 100 else f"{c:,.0f}" for c in costs]
            lines.append(f"| per {panel.unit}, {panel.label} | {size:,} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def drawn(path: str, panels: list[str], names: list[str], found: Found) -> None:
    """Writes the plot for a light page and for a dark one."""
    import matplotlib.pyplot as plt
    from matplotlib.ticker import FuncFormatter

    for look, (style, ground, lines) in LOOKS.items():
        with plt.style.context(style):
            figure, axes = plt.subplots(
                1, len(panels), figsize=(12, 4.2), layout="constrained", squeeze=False, facecolor=ground
            )
            for axis, name in zip(axes[0], panels, strict=True):
                panel = PANELS[name]
                axis.set_facecolor(ground)
                for client in names:
                    points = [(n, found[name, client, n]) for n in panel.sizes if (name, client, n) in found]
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
                    side.set_major_formatter(FuncFormatter(lambda value, _: _short(value)))
                low, high = axis.get_ylim()
                marks = [m * 10**e for e in range(-1, 7) for m in (1, 2, 5)]
                axis.set_yticks([m for m in marks if low <= m <= high])
                axis.grid(color=lines, linewidth=0.7)
                axis.spines[["top", "right"]].set_visible(False)
            lines_of = axes[0][0].get_legend_handles_labels()
            figure.legend(*lines_of, loc="outside upper center", ncols=len(names), frameon=False)
            figure.savefig(f"{path}-{look}.png", dpi=110, facecolor=ground)
            plt.close(figure)


def _short(value: float) -> str:
    for most, sign in ((1e6, "M"), (1e3, "k")):
        if value >= most:
            return f"{value / most:g}{sign}"
    return f"{value:g}"


def main() -> None:
    """Measures, prints the table, draws."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("path", help="where the pictures go, without -light.png and -dark.png")
    parser.add_argument("--only", default=",".join(COLOURS), help="clients: " + ", ".join(COLOURS))
    parser.add_argument("--panels", default=",".join(PANELS), help="panels: " + ", ".join(PANELS))
    given = parser.parse_args()
    panels = given.panels.split(",")
    with at_work(given.only.split(",")) as (server, workers):
        found = measured(panels, workers, server)
        names = [w.name for w in workers]
        print(table(panels, names, found))
        drawn(given.path, panels, names, found)


if __name__ == "__main__":
    main()
