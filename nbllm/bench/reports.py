"""`bench.report`: a run as one page that stands alone: what was asked, how, what came out, and what to be
careful about."""

from __future__ import annotations

import base64
import math
import os
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..store import columns
from .comparison import BAD, GOOD, compare
from .decisions import leaderboard
from .plots import plot
from .presets import ladder
from .summaries import RATES, SHARE, UNITS, WORDS, measured, retried, succeeded, summary

if TYPE_CHECKING:
    import pandas as pd

_STYLE = """
:root{color-scheme:light dark;--ink:#1c1c1e;--dim:#6b6b70;--line:#e2e2e6;--page:#fff;--veil:#f6f6f8;
--good:#1a7f4b;--bad:#b3402e}
@media(prefers-color-scheme:dark){:root{--ink:#e8e8ea;--dim:#9a9aa2;--line:#333338;--page:#131315;--veil:#1d1d20;--good:#4cc38a;--bad:#ef8a76}}
*{box-sizing:border-box}body{margin:0;background:var(--page);color:var(--ink);
font:16px/1.6 system-ui,-apple-system,"Segoe UI",Roboto,sans-serif}
main{max-width:62rem;margin:0 auto;padding:3rem 1.5rem 5rem}h1{font-size:1.9rem;line-height:1.2;
margin:0 0 .4rem}h2{font-size:1.25rem;margin:2.8rem 0 .6rem}
p,li{max-width:46rem}.dim,caption,figcaption{color:var(--dim)}.lead{font-size:1.1rem}
table{border-collapse:collapse;margin:.8rem 0 1.2rem;font-variant-numeric:tabular-nums;font-size:.92rem;
display:block;overflow-x:auto;width:fit-content;max-width:100%}
th,td{padding:.35rem .8rem;border-bottom:1px solid var(--line);text-align:right;white-space:nowrap}
th{font-weight:600;border-bottom-width:2px}
th:first-child,td:first-child,td.t,th.t{text-align:left}td.weak{color:var(--dim)}td.faster{color:var(--good);font-weight:600}td.slower{color:var(--bad);font-weight:600}
figure{margin:1rem 0 1.6rem}img{max-width:100%;height:auto}code{background:var(--veil);padding:.1em .3em;
border-radius:3px}
.box{background:var(--veil);border-radius:8px;padding:.8rem 1.1rem;max-width:46rem}
"""
_SHOWN = ("ttft_ms", "ttft_sched_ms", "e2e_ms", "itl_ms", "out_tok_s")
_LONG = 12  # rows of a table that is folded beyond
_SETTING = {
    "start_kind": "start",
    "load_kind": "load",
    "concurrency": "at a time",
    "target_rate": "asked /s",
    "idle_s": "idle s",
}


def report(
    df: pd.DataFrame,
    path: str | os.PathLike[str] | None = None,
    *,
    title: str | None = None,
    selftest: pd.DataFrame | None = None,
    margin: float = 0.05,
) -> Path | str:
    """Writes a self-contained HTML page about a frame of requests to `path` and gives the path; without one,
    gives the page.

    selftest: the table of `bench.selftest()` on this machine. margin: see
    compare. The page loads nothing and runs no script; it follows the reader's light or dark theme.
    """
    names = ", ".join(map(str, df["name"].dropna().unique())) if len(df) else "nothing"
    heading = title or f"Benchmark of {names}"
    body = "".join(
        filter(
            None,
            (
                _opening(df, heading),
                _leaderboard(df, margin),
                _comparison(df, margin),
                _summary(df),
                _ladder(df),
                _plots(df),
                _failures(df),
                _caveats(df, selftest),
                _selftest(selftest),
                _method(df),
            ),
        )
    )
    page = (
        f'<!doctype html><html lang="en"><head><meta charset="utf-8"><meta name="viewport" '
        f'content="width=device-width,initial-scale=1">'
        f"<title>{escape(heading)}</title><style>{_STYLE}</style></head><body><main>{body}</main></body></html>"
    )
    if path is None:
        return page
    place = Path(path)
    place.write_text(page, "utf-8", "replace")
    return place


# --- parts ---


def _opening(df: pd.DataFrame, heading: str) -> str:
    about = df.attrs.get("nbllm", {})
    used = measured(df)
    when = df["t_wall"].dropna()
    facts = [
        f"{len(used):,} measured requests"
        + (f" and {len(df) - len(used):,} to warm up" if len(df) > len(used) else ""),
        f"{used['block'].nunique()} blocks, in random order from seed {about['seed']}"
        if about.get("seed") is not None
        else "",
        f"{used['prompt_id'].nunique()} prompts" if used["prompt_id"].notna().any() else "",
        f"{when.min():%Y-%m-%d %H:%M} to {when.max():%H:%M} UTC" if len(when) else "",
        "ended early: " + str(about["ended"]) if about.get("ended") not in (None, "complete") else "",
    ]
    machine = [
        f"nbllm {about['nbllm']}" if about.get("nbllm") else "",
        f"Python {about['python']}" if about.get("python") else "",
        str(about.get("system", "")),
        f"{about['cpus']} processors" if about.get("cpus") else "",
        "arrivals stamped by " + _listed(df["stamp"].dropna().astype(str).unique())
        if df["stamp"].notna().any()
        else "",
    ]
    return (
        f"<h1>{escape(heading)}</h1><p class=lead>{escape(', '.join(filter(None, facts)))}.</p>"
        f"<p class=dim>{escape(', '.join(filter(None, machine)))}. Made {datetime.now(UTC):%Y-%m-%d %H:%M} "
        f"UTC.</p>"
    )


def _selftest(table: pd.DataFrame | None) -> str:
    if table is None:
        return (
            "<h2>How good are these numbers?</h2><p class=box>No self-test was made on this machine. "
            "<code>bench.report(df, path, "
            "selftest=bench.selftest())</code> measures the measuring first.</p>"
        )
    rows = [
        [
            r["metric"],
            f"{r['n']:,}",
            *(_ms(r[c], 3) for c in ("error_p50_ms", "error_p99_ms", "error_max_ms")),
            _percent(r["certified"]),
            _percent(r["contained"]),
            _percent(r["flagged"]),
        ]
        for r in table.to_dict("records")
        if r["n"]
    ]
    return (
        "<h2>How good are these numbers?</h2><p>The same measuring path, pointed at a server that keeps "
        "the moment of each of its writes, on this machine. "
        "Errors are measured minus true.</p>"
        + _table(
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


def _leaderboard(df: pd.DataFrame, margin: float) -> str:
    """Everybody on one screen: figures, cost, success, and who is better than whom."""
    if not len(measured(df)) or "ttft_ms" not in df:
        return ""
    board = leaderboard(df, margin=margin)
    setting = [k for k in _SETTING if k in board]
    figures = [m for m in ("ttft_ms", "e2e_ms", "out_tok_s", "score") if m in board]
    others = [str(i + 1) for i in range(len(board.attrs["short"])) if str(i + 1) in board]
    head = ["model", "", *(_SETTING[k] for k in setting), *(f"{WORDS.get(m, m)}{_unit(m)}" for m in figures)]
    head += ["succeeded", "retries", "$ an answer", "$ in all", *others]
    rows = [
        [
            (board.attrs["short"].get(r["name"], r["name"]), "t"),
            str(r["no"]),
            *(_plain(r[k]) for k in setting),
            *(f"{_number(r[m])}{_band(r[f'{m}_lo'], r[f'{m}_hi'])}" for m in figures),
            _percent(r["ok_share"]),
            _number(r["retries"]) if r["retries"] else "",
            _number(r["cost_usd"]),
            _number(r["total_usd"]),
            *((r[o], {"<": "faster", ">": "slower"}.get(r[o], "weak")) for o in others),
        ]
        for r in board.to_dict("records")
    ]
    words = "Medians with their 95 % intervals, what an answer and all of them cost" + (
        "; then, by time to first token against each model by its number: &lt; faster, &gt; slower, "
        "= equivalent, ? undecided."
        if others
        else "."
    )
    return f"<h2>Leaderboard</h2><p>{words}</p>" + _table(head, rows)


def _folded(table: str, rows: int, words: str) -> str:
    """A long table behind a line that opens it."""
    return (
        table
        if rows <= _LONG
        else f"<details><summary>{escape(words)} ({rows} rows)</summary>{table}</details>"
    )


def _summary(df: pd.DataFrame) -> str:
    told = summary(
        df,
        metrics=[
            m
            for m in _SHOWN
            if m in df and df[m].notna().any() and not (m.endswith("_sched_ms") and _closed(df))
        ]
        + [SHARE],
        stats=("p50", "p90", "p99"),
    )
    if not len(told):
        return "<h2>Results</h2><p>Nothing was measured.</p>"
    setting = [k for k in _SETTING if told[k].nunique(dropna=False) > 1]
    keys = ["name", *setting]
    head, rows = ["model", *(_SETTING[k] for k in setting), "n", "failed"], []
    metrics = [m for m in dict.fromkeys(told["metric"]) if m != SHARE]
    again, loaded = (told["retries"] > 0).any(), bool({"concurrency", "target_rate"} & set(setting))
    head += [*(["retries"] if again else []), *(["in flight", "begun /s"] if loaded else [])]
    for metric in metrics:
        head += [f"{WORDS.get(metric, metric)}{_unit(metric)}", "p90", "p99"]
    for key, part in told.groupby(keys, sort=False, observed=True, dropna=False):
        found = {(r["metric"], r["stat"]): r for r in part.to_dict("records")}
        share = found[SHARE, "mean"]
        row: list[Any] = [
            *map(_plain, key),
            f"{share['n']:,}",
            f"{share['n_failed']:,}" if share["n_failed"] else "",
            *([_number(share["retries"])] if again else []),
            *([_number(share["concurrency_achieved"]), _number(share["rate_achieved"])] if loaded else []),
        ]
        for metric in metrics:
            row += [
                _cell(found[metric, "p50"], interval=True),
                _cell(found[metric, "p90"]),
                _cell(found[metric, "p99"]),
            ]
        rows.append(row)
    return (
        "<h2>Results</h2><p>Medians with their 95 % intervals. A dim figure is a percentile that so few "
        "requests do not support.</p>" + _table(head, rows)
    )


def _closed(df: pd.DataFrame) -> bool:
    return set(df["load_kind"].dropna().astype(str)) <= {"closed", "single"} and not retried(df)


def _cell(row: Mapping[Any, Any], *, interval: bool = False) -> tuple[str, str]:
    value = row["value"]
    if math.isnan(value):
        return "–", "weak"
    text = _number(value)
    if interval and not math.isnan(row["ci_lo"]) and not math.isnan(row["ci_hi"]):
        text += f" ({_number(row['ci_lo'])} to {_number(row['ci_hi'])})"
    return text, "" if row["supported"] else "weak"


def _ladder(df: pd.DataFrame) -> str:
    if df["start_kind"].nunique() < 2:
        return ""
    rows = [
        [
            r["name"],
            str(r["start_kind"]).replace("_", " "),
            f"{r['n']}",
            _ms(r["ttft_ms"]),
            f"{_ms(r['added_ms'])}{_band(r['added_lo'], r['added_hi'])}",
            *(
                _ms(r[p])
                for p in (
                    "import_ms",
                    "client_ms",
                    "dns_ms",
                    "connect_ms",
                    "tls_ms",
                    "srv_load_ms",
                    "rest_ms",
                )
            ),
        ]
        for r in ladder(df).to_dict("records")
    ]
    return (
        "<h2>Cold start</h2><p>Median time to first token from each start, coldest first; what it adds to "
        "the next warmer one; and where it goes, in ms.</p>"
        + _table(
            [
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
            ],
            rows,
            text=2,
        )
    )


def _band(lo: float, hi: float) -> str:
    return "" if math.isnan(lo) or math.isnan(hi) else f" ({_ms(lo)} to {_ms(hi)})"


def _comparison(df: pd.DataFrame, margin: float) -> str:
    if df["name"].nunique() < 2:
        return ""
    table = compare(df, margin=margin)
    setting = [k for k in _SETTING if k in table]
    rows: list[list[Any]] = []
    sentences: list[str] = []
    for r in table.to_dict("records"):
        rows.append(
            [
                r["a"],
                r["b"],
                *(_plain(r[k]) for k in setting),
                WORDS.get(r["metric"], r["metric"]),
                (r["verdict"], "faster" if r["verdict"] in GOOD else "slower" if r["verdict"] in BAD else ""),
                _number(r["ratio"]) + _band(r["ci_lo"], r["ci_hi"]),
                "–"
                if math.isnan(r["p_holm"])
                else f"{r['p_holm']:.3f}"
                if r["p_holm"] >= 0.001
                else "< 0.001",
                _percent(r["prob_a_faster"]),
                f"{r['n_blocks']}",
                (r["note"], "t weak"),
            ]
        )
        if r["verdict"] in GOOD | BAD and len(sentences) < 12:
            sentences.append(sentence(r))
    told = (
        "<ul>" + "".join(f"<li>{escape(s)}</li>" for s in sentences) + "</ul>"
        if sentences
        else "<p>No difference is established.</p>"
    )
    return (
        f"<h2>Comparison</h2>{told}<p class=dim>Pairs within blocks, so that drift cancels out; p after "
        f"Holm over the pairs of a metric; equivalent means within "
        f"{margin:.0%}.</p>"
        + _folded(
            _table(
                [
                    "A",
                    "B",
                    *(_SETTING[k] for k in setting),
                    "metric",
                    "A is",
                    "A / B (95 %)",
                    "p",
                    "A faster in",
                    "blocks",
                    "",
                ],
                rows,
                text=2,
            ),
            len(rows),
            "Every comparison",
        )
    )


def sentence(row: Mapping[Any, Any]) -> str:
    """A row of `compare` in words."""
    chance = "p < 0.001" if row["p_holm"] < 0.001 else f"p = {row['p_holm']:.3f}"
    start = (
        f" from a {str(row['start_kind']).replace('_', ' ')} start"
        if str(row.get("start_kind", "warm")).startswith("cold")
        else ""
    )
    return (
        f"{row['a']} is {row['verdict']} than {row['b']} by {_by(row)} in "
        f"{WORDS.get(row['metric'], row['metric'])}{start}, {chance}{_also(row)}."
    )


def _also(row: Mapping[Any, Any]) -> str:
    """What a sentence must not leave out: failures and retries."""
    failed, again = ([row.get(f"{what}_{side}") or 0.0 for side in "ab"] for what in ("failed", "retries"))
    told = (
        f"; {failed[0]:.0%} and {failed[1]:.0%} of their requests failed" if max(failed) > 0 else "",
        f"; {again[0]:.2g} and {again[1]:.2g} retries a request" if max(again) > 0 else "",
    )
    return "".join(told)


def _by(row: Mapping[Any, Any]) -> str:
    """12 % (8 to 16 %), or a factor of 3.4 (3.1 to 3.6)."""
    if math.isnan(row["ci_lo"]):
        low, high = sorted(abs(row[end]) * 100 for end in ("diff_lo", "diff_hi"))
        return f"{abs(row['diff']) * 100:.0f} points ({low:.0f} to {high:.0f})"
    if row["ratio"] <= 2.0:
        low, high = sorted(abs(row[end] - 1.0) for end in ("ci_lo", "ci_hi"))
        return f"{abs(row['ratio'] - 1.0) * 100:.0f} % ({low * 100:.0f} to {high * 100:.0f} %)"
    return f"a factor of {row['ratio']:.3g} ({row['ci_lo']:.3g} to {row['ci_hi']:.3g})"


def _plots(df: pd.DataFrame) -> str:
    kinds = [("overview", "Every request, and the percentiles.")]
    if df["start_kind"].nunique() > 1:
        kinds.insert(0, ("coldstart", "What a cold start is made of."))
    if df["concurrency"].nunique() > 1 or df["target_rate"].nunique() > 1:
        kinds.append(("load", "Latency against throughput."))
    if df["block"].nunique() > 5:
        kinds.append(
            ("drift", "The run over time: what is common to all lines is the world's, not the models'.")
        )
    figures = []
    for kind, words in kinds:
        warm = (
            df[df["start_kind"].astype("string").fillna("warm") == "warm"]
            if kind in ("overview", "drift")
            else df
        )
        drawn: Any = plot(warm if len(warm) else df, kind)
        data = base64.b64encode(drawn._repr_png_()).decode("ascii")
        figures.append(
            f'<figure><img alt="{escape(words)}" '
            f'src="data:image/png;base64,{data}"><figcaption>{escape(words)}</figcaption></figure>'
        )
    return "<h2>Plots</h2>" + "".join(figures)


def _failures(df: pd.DataFrame) -> str:
    failed = measured(df[~succeeded(df)])
    if not len(failed):
        return "<h2>Failures</h2><p>None.</p>"
    rows: list[list[Any]] = []
    for (name, status), part in failed.groupby(["name", "status"], sort=False, observed=True):
        example = part["error_msg"].dropna()
        rows.append(
            [
                str(name),
                (str(status), "t"),
                f"{len(part)}",
                (str(example.iloc[0])[:160] if len(example) else "", "t weak"),
            ]
        )
    return "<h2>Failures</h2><p>They count in the shares above and are in no time.</p>" + _table(
        ["model", "status", "requests", "for example"], rows
    )


def _caveats(df: pd.DataFrame, selftest: pd.DataFrame | None) -> str:
    used = measured(df)
    n = max(1, len(used))
    quality = used["quality"].astype("string")
    per_name = used.groupby("name", observed=True).size()
    found = [
        f"{(quality == 'contaminated').sum() / n:.1%} of the requests were disturbed by this client; they "
        f"are left out of every figure."
        if (quality == "contaminated").any()
        else "",
        f"{(used['err_bound_ms'] > 1.0).mean():.1%} of the first tokens are known only within more than 1 "
        f"ms (err_bound_ms)."
        if (used["err_bound_ms"] > 1.0).any()
        else "",
        "Arrivals were stamped by this process, not by the operating system: times include its own delays."
        if (used["stamp"].astype("string") == "recv").any()
        else "",
        f"The smallest group has {per_name.min()} requests: percentiles above the median say little."
        if len(per_name) and per_name.min() < 59
        else "",
        "The simulator answered some or all requests: these figures say nothing of a provider."
        if used["simulated"].fillna(False).any()
        else "",
        "Token counts are estimates where the provider reported none (tok_source)."
        if (used["tok_source"].astype("string") == "estimate").any()
        else "",
        "All requests came from one machine in one place: another network has other times.",
        "" if selftest is not None else "No self-test was made.",
    ]
    return (
        "<h2>Be careful</h2><ul>" + "".join(f"<li>{escape(words)}</li>" for words in found if words) + "</ul>"
    )


_DEFINED = ("ttft_ms", "e2e_ms", "itl_ms", "out_tok_s", "ttft_sched_ms", "tail_ms", "err_bound_ms", "quality")


def _method(df: pd.DataFrame) -> str:
    docs = {c.name: c.doc for c in columns.COLUMNS}
    rows = [[name, (docs[name], "t")] for name in _DEFINED if name in df]
    return (
        "<h2>Method</h2><p>Requests were made by a process of its own. Within a block every model answers "
        "the same prompts in random order, one after the "
        "other. Arrival times are those of the operating system's kernel where it gives them. Intervals of "
        "percentiles are distribution-free (order "
        "statistics, widened where neighbours resemble each other); differences are Hodges and Lehmann's "
        "estimate over the pairs of a block, with "
        "Wilcoxon's interval and a sign-flip permutation test.</p>"
        + _table(["column", "meaning"], rows, text=2, wrap=True)
    )


# --- words ---


def _table(head: Sequence[str], rows: Iterable[Sequence[Any]], *, text: int = 1, wrap: bool = False) -> str:
    def cell(value: Any, place: int) -> str:
        words, style = value if isinstance(value, tuple) else (value, "")
        style = f"{style} t" if place < text else style
        more = ' style="white-space:normal"' if wrap else ""
        return (
            f'<td class="{style}"{more}>{escape(str(words))}</td>'
            if style
            else f"<td{more}>{escape(str(words))}</td>"
        )

    heads = "".join(f"<th{' class=t' if i < text else ''}>{escape(h)}</th>" for i, h in enumerate(head))
    lines = "".join("<tr>" + "".join(cell(v, i) for i, v in enumerate(row)) + "</tr>" for row in rows)
    return f"<table><thead><tr>{heads}</tr></thead><tbody>{lines}</tbody></table>"


def _unit(metric: str) -> str:
    unit = "" if metric in RATES else UNITS.get(metric, "")
    return f", {unit}" if unit else ""


def _number(value: float) -> str:
    return (
        "–"
        if math.isnan(value)
        else "∞"
        if math.isinf(value)
        else f"{value:,.0f}"
        if abs(value) >= 1000
        else f"{value:.3g}"
    )


def _ms(value: float | None, digits: int | None = None) -> str:
    if value is None or math.isnan(value):
        return "–"
    return f"{value:.{digits}f}" if digits is not None else _number(value)


def _percent(value: float | None) -> str:
    return (
        ""
        if value is None or math.isnan(value)
        else f"{value:.1%}"
        if value not in (0.0, 1.0)
        else f"{value:.0%}"
    )


def _plain(value: Any) -> str:
    return (
        ""
        if value is None or value != value  # noqa: PLR0124
        else f"{value:g}"
        if isinstance(value, float)
        else str(value).replace("_", " ")
        if str(value).startswith("cold")
        else str(value)
    )


def _listed(words: Iterable[str]) -> str:
    return " and ".join({"kernel": "the kernel", "recv": "this process"}.get(w, w) for w in words)
