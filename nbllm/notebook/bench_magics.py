"""`%llm bench` and `%%llm_bench`: benchmarks from a line.

    %llm bench openai/mini,claude/sonnet blocks=20 cold=true out=df
    %%llm_bench df << openai/mini,claude/sonnet concurrency=1,4,16
    A prompt. Several prompts are separated by lines of three dashes.
    ---
    Another prompt, filled from the notebook's {variables}.

Options of the benchmark are removed from the line first; the rest are options of a call, sent with every
call. If both have an option of the same name, the plain name is the call's: `seed=7` is sent, and
`bench.seed=7` orders the run.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Callable, Mapping, Sized
from typing import TYPE_CHECKING, Any

from ..bench.words import OPTION_SYNONYMS
from ..core.errors import ConfigError, did_you_mean
from ..core.messages import Message, Text
from ..core.options import REQUEST_OPTIONS
from ..core.template import fill
from .assertions import resolve_assertion
from .cell import build_parts
from .session import Session
from .syntax.lexer import column_error, read_value
from .syntax.options import BENCH_OPTIONS
from .syntax.placeholders import reject_placeholders

if TYPE_CHECKING:
    import pandas as pd

_CALL_OPTIONS = {*REQUEST_OPTIONS, "retries", "keep", "timeout"} - {
    "schema",
    "tools",
}  # options of a call that a line passes on
_BOOLEANS = {"true": True, "1": True, "yes": True, "false": False, "0": False, "no": False}
_METRIC_LABELS = {
    "ttft_ms": "ttft ms",
    "e2e_ms": "total ms",
    "out_tok_s": "tokens/s",
    "in_tok_s": "tokens in/s",
    "texts_s": "texts/s",
}
_DIVIDER = re.compile(r"(?m)^-{3,}[ \t]*$")


def _list_reader(kind: Callable[[str], Any]) -> Callable[[str], Any]:
    def read(text: str) -> Any:
        found = [kind(word) for word in text.strip("[]() ").split(",") if word.strip()]
        return found if len(found) > 1 else found[0]

    return read


def _read_budget(text: str) -> Any:
    """0.5 (dollars), or usd:0.5,seconds:60."""
    if ":" not in text:
        return float(text.removeprefix("$"))
    return {
        name.strip(): float(amount)
        for name, _, amount in (pair.partition(":") for pair in text.strip("{} ").split(","))
    }


# Parsers of the benchmark's options, by kind.
_READERS: dict[str, Callable[[str], Any]] = {
    "int": int,
    "float": float,
    "str": str,
    "rungs": lambda text: _BOOLEANS.get(text.lower(), text.split(",")),
    "truth": lambda text: _BOOLEANS[text.lower()],
    "ints": _list_reader(int),
    "numbers": _list_reader(float),
    "pauses": lambda text: [float(word) for word in text.strip("[] ").split(",")],
    "warmup": lambda text: text if text == "auto" else int(text),
    "budget": _read_budget,
    "list": lambda text: [text],
}
_OPTION = re.compile(r"(?<!\S)(?P<dashes>--?)?(?P<name>[A-Za-z][\w.\-]*)(?:=|(?(dashes)[ \t]+|=))")


def split_options(line: str) -> tuple[dict[str, Any], str]:
    """(options of the benchmark, the rest of the line). Raises ConfigError with the column of an invalid
    value."""
    found: dict[str, Any] = {}
    rest, at = "", 0
    while match := _OPTION.search(line, at):
        word = match["name"].replace("-", "_")
        text, end, quoted = read_value(line, match.end())
        if (option := BENCH_OPTIONS.get(word)) is None:  # an option of a call: its quoted value is skipped
            if word in OPTION_SYNONYMS and match["dashes"] != "-":
                raise column_error(
                    match.start(),
                    f"{word} is not an option of a benchmark",
                    f"Did you mean {OPTION_SYNONYMS[word]}?",
                )
            rest_end = end if quoted or match[0].endswith("=") else match.end()
            rest, at = rest + line[at:rest_end], rest_end
            continue
        name = option.name.removeprefix("bench.")
        if name in found and not option.repeatable:
            raise column_error(match.start(), f"{name} is given twice")
        try:
            read = _READERS[option.kind](text)
            found[name] = found[name] + read if name in found else read
        except (ValueError, LookupError):
            raise column_error(
                match.start(), f"{name} cannot be {text!r}", f"See help(nbllm.bench.run) for {name}."
            ) from None
        rest, at = rest + line[at : match.start()] + " " * (end - match.start()), end  # keeps the columns
    return found, rest + line[at:]


def bench(session: Session, line: str, cell: str | None = None) -> pd.DataFrame | None:
    """Runs a benchmark; stores its frame in `out` (`_bench` by default) and returns a short summary."""
    from ..bench import load, progress, run, summary
    from .dashboard import Dashboard

    display = Dashboard.for_process(brief=True) or progress.Bar()
    options, rest = split_options(line)
    cell_line = session.parse(rest)
    reject_placeholders(cell_line, session.namespace)
    names = session.expand_models(cell_line.models)
    if not names:
        raise ConfigError(
            "No model was named.", hint="For example: %llm bench openai/mini,claude/sonnet blocks=20"
        )
    if "asserts" in options:  # may name functions of the notebook, as in a cell
        options["asserts"] = [resolve_assertion(text, session.namespace) for text in options["asserts"]]
    if "score" in options:
        options["score"] = resolve_assertion(options["score"], session.namespace)
    fill_mode = str(cell_line.options.get("fill", session.defaults.get("fill", "on")))
    options["prompts"] = _prompts(session, options.get("prompts"), cell, fill_mode)
    call_options = {name: chosen for name, chosen in cell_line.options.items() if name in _CALL_OPTIONS}
    if call_options.get("cache") in ("true", "refresh"):
        raise column_error(
            cell_line.spans["cache"][0],
            "a benchmark does not use cached answers",
            "Leave cache= out, or set cache=auto.",
        )
    unknown = sorted(set(cell_line.options) - set(call_options) - {"fill"})
    if unknown:
        known = ", ".join(n for n, o in BENCH_OPTIONS.items() if n != o.name or n == "bench.seed")
        raise column_error(
            cell_line.spans[unknown[0]][0],
            f"{unknown[0]} is not an option of a benchmark",
            f"The options are {known}, and those of a call.",
        )
    models = [{"model": name, **call_options} for name in names]  # seed= here is the call's, not the run's
    try:
        with warnings.catch_warnings():  # only the message: our source line helps nobody
            warnings.showwarning = lambda told, *_a, **_k: session.print_text(str(told))
            df = run(
                models,
                client=session.client,
                extra=dict(cell_line.extra) or None,
                progress=display,
                **options,
            )
    except KeyboardInterrupt:  # before the first request, or pressed twice: the rows are on disk
        if not display.run_id:
            raise
        df = load(display.run_id)
        display.end("stopped", len(df))
    session.namespace[cell_line.out or "_bench"] = df
    return (
        short_summary(df, summary) if (df["phase"] == "measure").any() else None
    )  # the display shows the reason


def _prompts(session: Session, name: str | None, cell: str | None, fill_mode: str) -> Any:
    if cell is not None and cell.strip():
        if name is not None:
            raise ConfigError(
                "The cell has prompts, and prompts= names others.", hint="Leave one of them out."
            )
        return [
            _fill_prompt(session, text.strip(), fill_mode) for text in _DIVIDER.split(cell) if text.strip()
        ]
    if name is not None and name.isidentifier() and name not in session.namespace:
        raise ConfigError(
            f"No variable is called {name!r}.",
            hint=did_you_mean(
                name,
                [k for k, v in session.namespace.items() if k[:1] != "_" and isinstance(v, Sized)],
            ),
        )
    return None if name is None else session.namespace.get(name, name)


def _fill_prompt(session: Session, text: str, mode: str) -> str | Message:
    """A prompt filled with the notebook's values, as in a cell; unfilled placeholders are reported."""
    filled = fill(text, session.prompt_variables, session.evaluate, mode)
    if filled.skipped_summary:
        session.print_text(f"not filled: {filled.skipped_summary}")
    parts, _ = build_parts(session, filled, {})
    return Message("user", parts) if any(not isinstance(p, Text) for p in parts) else filled.text


def short_summary(df: pd.DataFrame, summary: Callable[..., pd.DataFrame]) -> pd.DataFrame:
    """One line per model (and start kind, and load): answers, failures, medians with confidence intervals,
    speed, cost. `summary` is bench.summary, imported before anything is sent."""
    import pandas as pd

    figures = summary(df, metrics=[m for m in _METRIC_LABELS if m in df], stats=("p50",))
    keys = [
        k
        for k in ("name", "start_kind", "load_kind", "concurrency", "target_rate")
        if k in figures and figures[k].nunique(dropna=False) > 1
    ] or ["name"]
    costs = df.dropna(subset="cost_usd").groupby(keys, observed=True, dropna=False)["cost_usd"].sum()
    lines = []
    for key, part in figures.groupby(keys, sort=False, observed=True, dropna=False):
        line: dict[str, Any] = dict(zip(keys, key if isinstance(key, tuple) else (key,), strict=True))
        by_metric: Mapping[str, Any] = {row["metric"]: row for row in part.to_dict("records")}
        first = part.iloc[0]
        line |= {
            "answers": first["n"],
            "failed": first["n_failed"],
            **({"contaminated": first["n_contaminated"]} if (figures["n_contaminated"] > 0).any() else {}),
        }
        for metric, label in _METRIC_LABELS.items():
            if metric not in ("in_tok_s", "texts_s") or (metric in df and df[metric].notna().any()):
                line[label] = _format_interval(by_metric.get(metric))
        cost = costs.get(key if len(keys) > 1 or not isinstance(key, tuple) else key[0])
        line["cost $"] = "–" if cost is None else f"{cost:.3g}"
        lines.append(line)
    return pd.DataFrame(lines).set_index(keys)


def _format_interval(row: Mapping[str, Any] | None) -> str:
    import pandas as pd

    if row is None or pd.isna(row["value"]):
        return "–"
    middle, low, high = (_format_figure(row[part]) for part in ("value", "ci_lo", "ci_hi"))
    return middle if pd.isna(row["ci_lo"]) or pd.isna(row["ci_hi"]) else f"{middle} ({low} to {high})"


def _format_figure(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}"
