"""`bench.report`: a run as one self-contained page: verdicts, the figures behind them, the method, and
caveats."""

from __future__ import annotations

import base64
import math
import os
from collections.abc import Mapping
from datetime import UTC, datetime
from html import escape
from pathlib import Path
from typing import Any

import pandas as pd

from ..core.values import plural
from ..store import columns
from .comparison import BETTER, WORSE, compare
from .decisions import BOARD_METRICS, build_leaderboard, cost_columns
from .exchange import translate_write_errors
from .frames import (
    leading_metric,
    measured_requests,
    normalize_requests,
    ordered_groups,
    ordered_values,
    success_mask,
)
from .naming import short_names
from .pages import (
    FOLDED_ROWS,
    STYLE,
    Cell,
    fold_long_table,
    format_dollars,
    format_interval,
    format_number,
    format_percent,
    metric_heading,
    setting_value,
    table,
)
from .plots import plot
from .presets import PARTS, ladder
from .sentences import SETTING_LABELS, sentences
from .summaries import LABELS, OK_SHARE, has_no_waiting, summary

_TIME_METRICS = ("ttft_ms", "ttft_sched_ms", "e2e_ms", "itl_ms", "out_tok_s", "in_tok_s", "texts_s")
_COST = "cost_usd"
_STAMP_SOURCES = {"kernel": "the kernel", "recv": "this process"}


def report(
    df: pd.DataFrame,
    path: str | os.PathLike[str] | None = None,
    *,
    title: str | None = None,
    selftest: pd.DataFrame | None = None,
    margin: float = 0.05,
) -> Path | str:
    """Writes a self-contained HTML page about a frame of requests to `path` and returns the path; without a
    path, returns the page.

    selftest: the table of `bench.selftest()` on this machine. margin: see compare. The page starts with the
    verdicts. It loads nothing, runs no script, follows the reader's light or dark theme, and fits a phone.
    """
    df = normalize_requests(df)
    names = [str(n) for n in ordered_values(df, "name")] if len(df) else []
    short = short_names(names)
    names_text = ", ".join(short_names(names, 60).values()) or "nothing"
    page_title = title or f"Benchmark of {names_text if len(names) <= 3 else f'{len(names)} models'}"
    compared = _all_comparisons(df, margin)
    body = "".join(
        (
            _opening(df, page_title),
            _verdicts(compared, short, margin),
            _leaderboard(df, compared, short, margin),
            _summary(df, short),
            _comparison(compared, short),
            _ladder(df, short),
            _plots(df),
            _failures(df, short),
            _caveats(df, selftest),
            _selftest(selftest),
            _method(),
        )
    )
    page = (
        f'<!doctype html><html lang="en"><head><meta charset="utf-8"><meta name="viewport" '
        f'content="width=device-width,initial-scale=1">'
        f"<title>{escape(page_title)}</title><style>{STYLE}</style></head><body><main>{body}</main></body></html>"
    )
    if path is None:
        return page
    target = Path(path)
    with translate_write_errors(target):
        target.write_text(page, "utf-8", "replace")
    return target


# --- sections ---


def _all_comparisons(df: pd.DataFrame, margin: float) -> pd.DataFrame | None:
    """The comparison of every pair by every metric and by cost; None for a single model."""
    if df["name"].nunique() < 2:
        return None
    timed = compare(df, margin=margin)
    return (
        pd.concat([timed, compare(df, metrics=_COST, margin=margin)], ignore_index=True)
        if df[_COST].notna().any()
        else timed
    )


def _verdicts(rows: pd.DataFrame | None, short: Mapping[str, str], margin: float) -> str:
    if rows is None:
        return ""
    lines = [f"<li>{escape(sentence)}</li>" for sentence in sentences(rows.to_dict("records"), short)]
    folded = (
        fold_long_table("<ul>" + "".join(lines[FOLDED_ROWS:]) + "</ul>", len(lines), "All of them")
        if lines[FOLDED_ROWS:]
        else ""
    )
    list_html = (
        "<ul>" + "".join(lines[:FOLDED_ROWS]) + f"</ul>{folded}"
        if lines
        else "<p>No difference is established.</p>"
    )
    return (
        f"<h2>Verdicts</h2>{list_html}<p class=dim>Models are compared within blocks, so that drift cancels "
        f"out; p is corrected by Holm over the pairs of a metric; equivalent means within {margin:.0%}.</p>"
    )


def _leaderboard(
    df: pd.DataFrame, compared: pd.DataFrame | None, short: Mapping[str, str], margin: float
) -> str:
    """All models in one table: metrics, cost, success, and who is better than whom."""
    if not len(measured_requests(df)):
        return ""
    metric = leading_metric(df)
    board = build_leaderboard(df, compared, metric=metric)
    setting = [k for k in SETTING_LABELS if k in board]
    figures = [m for m in BOARD_METRICS if m in board]
    others = [str(i + 1) for i in range(len(short)) if str(i + 1) in board]
    any_retries = bool((board["retries"] > 0).any())
    records = board.to_dict("records")
    head = ["model", "no.", *(SETTING_LABELS[k] for k in setting), *map(metric_heading, figures), "succeeded"]
    head += [*(["retries"] if any_retries else []), "1,000 answers", "total"]
    rows = [
        [
            _name_cell(r, short),
            str(r["no"]),
            *(setting_value(r[k]) for k in setting),
            *(Cell(format_number(r[m]), format_interval(r[f"{m}_lo"], r[f"{m}_hi"])) for m in figures),
            format_percent(r[OK_SHARE]),
            *([format_number(r["retries"])] if any_retries else []),
            format_dollars(1000 * r[_COST]),
            format_dollars(r["total_usd"]),
        ]
        for r in records
    ]
    intro = "Medians with their 95 % intervals; the cost of 1,000 answers, and of all answers of this run."
    out = f"<h2>Leaderboard</h2><p>{intro}</p>{table(head, rows)}"
    if any(intro != name for name, intro in short.items()):
        full_names = "".join(f"<li>{escape(name)}</li>" for name in short)
        out += f"<details><summary>Names in full</summary><ol>{full_names}</ol></details>"
    if not others:
        return out
    styles = {"<": "good", ">": "bad"}
    lines = [
        [
            Cell(short[r["name"]], style="name"),
            *([", ".join(setting_value(r[k]) for k in setting)] if setting else []),
            Cell(str(r["no"]), style="weak"),
            *(Cell(r[o] or "·", style=styles.get(r[o], "weak")) for o in others),
        ]
        for r in records
    ]
    matrix = table(["", *([""] if setting else []), "", *others], lines, style="matrix")
    return (
        f"{out}<p>By {LABELS[metric]}, each row against each model by its number: &lt; faster, &gt; "
        f"slower, = equivalent (within {margin:.0%}), ? undecided.</p>"
        + fold_long_table(matrix, len(lines), "Every pair")
    )


def _name_cell(row: Mapping[Any, Any], short: Mapping[str, str]) -> Cell:
    name = str(row["name"])
    return Cell(short[name], hint=name if short[name] != name else "")


def _summary(df: pd.DataFrame, short: Mapping[str, str]) -> str:
    metrics = [
        m for m in _TIME_METRICS if df[m].notna().any() and not (m == "ttft_sched_ms" and has_no_waiting(df))
    ]
    summaries = summary(df, metrics=[*metrics, OK_SHARE], stats=("p50", "p90", "p99"))
    if not len(summaries):
        return "<h2>Results</h2><p>There are no measurements.</p>"
    setting = [k for k in SETTING_LABELS if summaries[k].nunique(dropna=False) > 1]
    any_retries, has_load = (
        (summaries["retries"] > 0).any(),
        bool({"concurrency", "target_rate"} & set(setting)),
    )
    head = [
        "model",
        *(SETTING_LABELS[k] for k in setting),
        "n",
        "failed",
        *(["retries"] if any_retries else []),
    ]
    head += [*(["in flight", "begun /s"] if has_load else []), *map(metric_heading, metrics), "1,000 answers"]
    costs = {
        tuple(map(repr, key)): cost_columns(part)
        for key, part in ordered_groups(measured_requests(df), ["name", *setting])
    }
    rows = []
    for key, part in ordered_groups(summaries, ["name", *setting]):
        stats = {(r["metric"], r["stat"]): r for r in part.to_dict("records")}
        ok_row = stats[OK_SHARE, "mean"]
        rows.append(
            [
                _name_cell({"name": key[0]}, short),
                *map(setting_value, key[1:]),
                f"{ok_row['n']:,}",
                f"{ok_row['n_failed']:,}" if ok_row["n_failed"] else "",
                *([format_number(ok_row["retries"])] if any_retries else []),
                *(
                    [format_number(ok_row["concurrency_achieved"]), format_number(ok_row["rate_achieved"])]
                    if has_load
                    else []
                ),
                *(_percentile_cell(stats, metric) for metric in metrics),
                format_dollars(1000 * costs[tuple(map(repr, key))][_COST]),
            ]
        )
    intro = (
        "Medians; below them percentiles 90 and 99, in brackets where there are too few requests for them."
    )
    return f"<h2>Results</h2><p>{intro}</p>{fold_long_table(table(head, rows), len(rows), 'Every setting')}"


def _percentile_cell(stats: Mapping[Any, Any], metric: str) -> Cell:
    """The median, and below it percentiles 90 and 99: 180 · (240)."""
    tails = [stats[metric, stat] for stat in ("p90", "p99")]
    tail_texts = [
        format_number(r["value"]) if r["supported"] else f"({format_number(r['value'])})" for r in tails
    ]
    is_known = not math.isnan(stats[metric, "p50"]["value"])
    return Cell(format_number(stats[metric, "p50"]["value"]), " · ".join(tail_texts) if is_known else "")


def _comparison(compared: pd.DataFrame | None, short: Mapping[str, str]) -> str:
    if compared is None or not len(compared):
        return ""
    setting = [k for k in SETTING_LABELS if k in compared]
    rows = [
        [
            short[r["a"]],
            short[r["b"]],
            *(setting_value(r[k]) for k in setting),
            LABELS.get(r["metric"], r["metric"]),
            Cell(
                r["verdict"],
                style="good" if r["verdict"] in BETTER else "bad" if r["verdict"] in WORSE else "",
            ),
            Cell(format_number(r["ratio"]), format_interval(r["ci_lo"], r["ci_hi"])),
            "–" if math.isnan(p := r["p_holm"]) else f"{p:.3f}" if p >= 0.001 else "< 0.001",
            format_percent(r["prob_a_faster"]),
            f"{r['n_blocks']}",
            Cell(r["note"], style="weak t"),
        ]
        for r in compared.to_dict("records")
    ]
    head = ["A", "B", *(SETTING_LABELS[k] for k in setting), "metric", "A is", "A / B (95 %)"]
    head += ["p", "A faster in", "blocks", "note"]
    return "<h2>Comparison</h2>" + fold_long_table(table(head, rows, text=2), len(rows), "Every comparison")


def _ladder(df: pd.DataFrame, short: Mapping[str, str]) -> str:
    if df["start_kind"].nunique() < 2:
        return ""
    rows = [
        [
            _name_cell(r, short),
            str(r["start_kind"]).replace("_", " "),
            f"{r['n']}",
            format_number(r["ttft_ms"]),
            Cell(format_number(r["added_ms"]), format_interval(r["added_lo"], r["added_hi"])),
            *(format_number(r[p]) for p in PARTS),
        ]
        for r in ladder(df).to_dict("records")
    ]
    head = [
        "model",
        "start",
        "n",
        "first token",
        "adds",
        "import",
        "client",
        "DNS",
        "TCP",
        "TLS",
        "load",
        "request",
    ]
    intro = (
        "Median time to first token of each start, coldest first; what it adds to the next warmer one; its "
        "parts, in ms."
    )
    return f"<h2>Cold start</h2><p>{intro}</p>" + fold_long_table(
        table(head, rows, text=2), len(rows), "Every start"
    )


def _opening(df: pd.DataFrame, heading: str) -> str:
    metadata = df.attrs.get("nbllm", {})
    used = measured_requests(df)
    times, stamps = df["t_wall"].dropna(), df["stamp"].dropna().astype(str).unique()
    facts = [
        plural(len(used), "measured request")
        + (f" and {len(df) - len(used):,} for warm-up" if len(df) > len(used) else ""),
        f"{plural(used['block'].nunique(), 'block')}, in random order from seed {metadata['seed']}"
        if metadata.get("seed") is not None
        else "",
        plural(used["prompt_id"].nunique(), "prompt") if used["prompt_id"].notna().any() else "",
        f"{times.min():%Y-%m-%d %H:%M} to {times.max():%H:%M} UTC" if len(times) else "",
        f"{format_dollars(spent)} in total" if not math.isnan(spent := cost_columns(df)["total_usd"]) else "",
        "ended early: " + str(metadata["ended"]) if metadata.get("ended") not in (None, "complete") else "",
    ]
    machine = [
        f"nbllm {metadata['nbllm']}" if metadata.get("nbllm") else "",
        f"Python {metadata['python']}" if metadata.get("python") else "",
        str(metadata.get("system", "")),
        f"{metadata['cpus']} processors" if metadata.get("cpus") else "",
        "arrivals timestamped by " + " and ".join(_STAMP_SOURCES.get(s, s) for s in stamps)
        if len(stamps)
        else "",
        f"made {datetime.now(UTC):%Y-%m-%d %H:%M} UTC",
    ]
    return (
        f"<h1>{escape(heading)}</h1><p class=lead>{escape(', '.join(filter(None, facts)))}.</p>"
        f"<p class=dim>{escape(', '.join(filter(None, machine)))}.</p>"
    )


def _selftest(errors: pd.DataFrame | None) -> str:
    if errors is None:
        return (
            "<h2>How good are these numbers?</h2><p class=box>No self-test was run on this machine. "
            "<code>bench.report(df, path, "
            "selftest=bench.selftest())</code> adds the errors of the measurement.</p>"
        )
    rows = [
        [
            r["metric"],
            f"{r['n']:,}",
            *(f"{r[c]:.3f}" for c in ("error_p50_ms", "error_p99_ms", "error_max_ms")),
            format_percent(r["certified"]),
            format_percent(r["contained"]),
            format_percent(r["flagged"]),
        ]
        for r in errors.to_dict("records")
        if r["n"]
    ]
    return (
        "<h2>How good are these numbers?</h2><p>The same measurement of a server on this machine that stores "
        "the time of each of its writes. Errors are measured minus true times.</p>"
        + table(
            [
                "",
                "n",
                "median error, ms",
                "99th percentile",
                "largest",
                "certified",
                "bounds hold",
                "flagged",
            ],
            rows,
        )
    )


def _plots(df: pd.DataFrame) -> str:
    kinds = [("overview", "Every request, and the percentiles.")]
    if df["start_kind"].nunique() > 1:
        kinds.insert(0, ("coldstart", "The parts of a cold start."))
    if df["concurrency"].nunique() > 1 or df["target_rate"].nunique() > 1:
        kinds.append(("load", "Latency against throughput."))
        if df["in_tokens"].nunique() > 1:
            kinds.append(("heatmap", "How load and long prompts slow each model down."))
    if df.loc[df[_COST].notna(), "name"].nunique() > 1:
        kinds.insert(0, ("pareto", "The cost of an answer against the time until it starts."))
    if df["block"].nunique() > 5:
        kinds.append(
            ("drift", "The run over time: changes common to all lines are external, not the models'.")
        )
    figures = []
    for kind, caption in kinds:
        warm = (
            df[df["start_kind"].astype("string").fillna("warm") == "warm"]
            if kind in ("overview", "drift")
            else df
        )
        used = warm if len(warm) else df
        figures.append(
            f'<figure><picture><source srcset="{_image_data(used, kind, "dark")}" '
            f'media="(prefers-color-scheme:dark)"><img alt="{escape(caption)}" '
            f'src="{_image_data(used, kind, "light")}"></picture>'
            f"<figcaption>{escape(caption)}</figcaption></figure>"
        )
    return "<h2>Plots</h2>" + "".join(figures)


def _image_data(df: pd.DataFrame, kind: str, theme: str) -> str:
    figure: Any = plot(df, kind, theme=theme)
    return "data:image/png;base64," + base64.b64encode(figure._repr_png_()).decode("ascii")


def _failures(df: pd.DataFrame, short: Mapping[str, str]) -> str:
    failed = measured_requests(df[~success_mask(df)])
    if not len(failed):
        return "<h2>Failures</h2><p>None.</p>"
    rows = []
    for (name, status), part in ordered_groups(failed, ["name", "status"]):
        example = part["error_msg"].dropna()
        example_cell = Cell(str(example.iloc[0])[:160] if len(example) else "", style="weak t")
        rows.append([_name_cell({"name": name}, short), str(status), f"{len(part)}", example_cell])
    intro = "They count in the shares above, but not in the times."
    table_html = fold_long_table(
        table(["model", "status", "requests", "for example"], rows, text=2), len(rows), "Every kind"
    )
    return f"<h2>Failures</h2><p>{intro}</p>{table_html}"


def _caveats(df: pd.DataFrame, selftest: pd.DataFrame | None) -> str:
    used = measured_requests(df)
    n = max(1, len(used))
    quality = used["quality"].astype("string")
    per_name = used.groupby("name", observed=True).size()
    caveats = [
        f"{(quality == 'contaminated').sum() / n:.1%} of the requests were disturbed by this client; they "
        f"are left out of all times."
        if (quality == "contaminated").any()
        else "",
        f"{(used['err_bound_ms'] > 1.0).mean():.1%} of the first tokens have an error bound of more than 1 "
        f"ms (err_bound_ms)."
        if (used["err_bound_ms"] > 1.0).any()
        else "",
        "Arrivals were timestamped by this process, not the operating system: times include its own delays."
        if (used["stamp"].astype("string") == "recv").any()
        else "",
        f"The smallest group has {plural(int(per_name.min()), 'request')}: too few for reliable percentiles "
        f"above the median."
        if len(per_name) and per_name.min() < 59
        else "",
        "The simulator answered some or all requests: these figures do not describe a provider."
        if used["simulated"].fillna(False).any()
        else "",
        "Token counts are estimates where the provider reported none (tok_source)."
        if (used["tok_source"].astype("string") == "estimate").any()
        else "",
        "All requests came from one machine in one location: another network has other times.",
        "" if selftest is not None else "No self-test was run.",
    ]
    return "<h2>Caveats</h2><ul>" + "".join(f"<li>{escape(text)}</li>" for text in caveats if text) + "</ul>"


_DEFINED_COLUMNS = (*_TIME_METRICS, "tail_ms", "err_bound_ms", "quality")


def _method() -> str:
    docs = {c.name: c.doc for c in columns.COLUMNS}
    rows = [[name, docs[name]] for name in _DEFINED_COLUMNS]
    return (
        "<h2>Method</h2><p>Requests were sent by a separate process. Within a block every model answers "
        "the same prompts in random order, one after the "
        "other. Arrival times are those of the operating system's kernel where available. Intervals of "
        "percentiles are distribution-free (order "
        "statistics, widened for autocorrelation); differences are Hodges and Lehmann's "
        "estimate over the pairs of a block, with "
        "Wilcoxon's interval and a sign-flip permutation test.</p>"
        + table(["column", "meaning"], rows, text=2)
    )
