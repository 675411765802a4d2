"""Verdicts as sentences: one for each pair that differs or, where there are many, one for each metric."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from .comparison import BETTER, WORSE
from .pages import setting_text
from .summaries import LABELS

SETTING_LABELS = {
    "start_kind": "start",
    "load_kind": "load",
    "concurrency": "at a time",
    "target_rate": "rate /s",
    "idle_s": "idle s",
}
_MAX_SENTENCES = 8  # about single pairs
_Row = Mapping[Any, Any]


def sentences(rows: Iterable[_Row], names: Mapping[str, str]) -> list[str]:
    """The decided comparisons as a few sentences. names: the display names of models."""
    all_rows = list(rows)
    decided = [r for r in all_rows if r["verdict"] in BETTER | WORSE]
    return (
        [sentence(r, names) for r in decided]
        if len(decided) <= _MAX_SENTENCES
        else list(_by_metric(all_rows, names))
    )


def sentence(row: _Row, names: Mapping[str, str]) -> str:
    """A row of `compare` as a sentence."""
    p_text = "p < 0.001" if row["p_holm"] < 0.001 else f"p = {row['p_holm']:.3f}"
    setting = f" ({text})" if (text := setting_text(row, SETTING_LABELS)) else ""
    return (
        f"{names[row['a']]} is {row['verdict']} than {names[row['b']]} by {_difference_text(row)} in "
        f"{LABELS.get(row['metric'], row['metric'])}{setting}, {p_text}{_failures_and_retries(row)}."
    )


def _by_metric(rows: list[_Row], names: Mapping[str, str]) -> Iterator[str]:
    """For each metric and setting: the unbeaten models, and how many pairs are undecided."""
    groups: dict[tuple[str, str], list[_Row]] = {}
    for row in rows:
        groups.setdefault((row["metric"], setting_text(row, SETTING_LABELS)), []).append(row)
    undecided_labels: dict[str, list[str]] = {"All are equivalent": [], "No difference is established": []}
    for (metric, setting), part in groups.items():
        won, lost = Counter[str](), Counter[str]()
        for row in part:
            a, b = row["a"], row["b"]
            if row["verdict"] in BETTER | WORSE:
                better, worse = (a, b) if row["verdict"] in BETTER else (b, a)
                won[better] += 1
                lost[worse] += 1
        models = list(dict.fromkeys(n for row in part for n in (row["a"], row["b"])))
        unbeaten = sorted((n for n in won if not lost[n]), key=lambda n: -won[n])
        label = LABELS.get(metric, metric) + (f" ({setting})" if setting else "")
        if not unbeaten:
            all_equivalent = all(row["verdict"] == "equivalent" for row in part)
            undecided_labels[
                "All are equivalent" if all_equivalent else "No difference is established"
            ].append(label)
            continue
        winners = [n for n in unbeaten if won[n] == won[unbeaten[0]]]
        verdict = next(r["verdict"] for r in part if r["verdict"] in BETTER | WORSE)
        verdict = {"slower": "faster", "worse": "better", "dearer": "cheaper"}.get(verdict, verdict)
        open_ = sum(r["verdict"] == "undecided" for r in part)
        yield (
            f"{label[:1].upper() + label[1:]}: {' and '.join(names[n] for n in winners[:3])} "
            f"{'is' if len(winners) == 1 else 'are each'} {verdict} than {won[winners[0]]} of the "
            f"{len(models) - 1} others, and worse than none"
            + (f"; {open_} of {len(part)} undecided." if open_ else ".")
        )
    yield from (
        f"{statement} in {', '.join(labels)}." for statement, labels in undecided_labels.items() if labels
    )


def _failures_and_retries(row: _Row) -> str:
    """Failures and retries, which must be mentioned with a verdict."""
    failed, retries = ([row.get(f"{what}_{side}") or 0.0 for side in "ab"] for what in ("failed", "retries"))
    parts = (
        f"; {failed[0]:.0%} and {failed[1]:.0%} of their requests failed" if max(failed) > 0 else "",
        f"; {retries[0]:.2g} and {retries[1]:.2g} retries per request" if max(retries) > 0 else "",
    )
    return "".join(parts)


def _difference_text(row: _Row) -> str:
    """For example "12 % (8 to 16 %)" or "a factor of 3.4 (3.1 to 3.6)"."""
    if math.isnan(row["ci_lo"]):
        low, high = sorted(abs(row[end]) * 100 for end in ("diff_lo", "diff_hi"))
        return f"{abs(row['diff']) * 100:.0f} points ({low:.0f} to {high:.0f})"
    if row["ratio"] <= 2.0:
        low, high = sorted(abs(row[end] - 1.0) for end in ("ci_lo", "ci_hi"))
        return f"{abs(row['ratio'] - 1.0) * 100:.0f} % ({low * 100:.0f} to {high * 100:.0f} %)"
    return f"a factor of {row['ratio']:.3g} ({row['ci_lo']:.3g} to {row['ci_hi']:.3g})"
