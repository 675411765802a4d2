"""`%llm log` and `%llm cost`: the calls of this notebook; with a period such as `yesterday`, of all
notebooks."""

from __future__ import annotations

import math
import re
import time
from collections.abc import Callable
from datetime import date, datetime, timedelta
from datetime import time as clock
from typing import TYPE_CHECKING, Any

from ..core.errors import ConfigError
from ..core.extras import require_packages
from ..core.values import truncate
from ..store.columns import COLUMNS, TEXTS, frame
from ..store.search import search
from .overview import calls_overview
from .session import Session

if TYPE_CHECKING:
    import pandas as pd

Period = tuple[float, float]  # start and end: seconds since 1970

_DEFAULT_RESULTS = 20  # results of a search without n=
_MAX_TEXT = 1_000  # characters of a text in the results
_RELATIVE = re.compile(r"(\d{1,4})([hdw])")
_SECONDS = {"h": 3600, "d": 86_400, "w": 7 * 86_400}


def log(session: Session, rest: str) -> pd.DataFrame:
    """Calls as rows: of this notebook, or of all notebooks in a period; `n=20` the last ones, `all` every
    column. `-q words`: calls of all notebooks whose stored prompt or answer contains the words."""
    rest, is_search, words = _split_query(rest)
    period, others = _split_period(rest)
    limit, all_columns = None, False
    for word in others:
        if word == "all":
            all_columns = True
        elif word.startswith("n="):
            limit = _parse_count(word)
        else:
            raise _unknown_word("log", word, "n=20, all, -q words")
    if is_search:
        return _search_calls(session, period or (0.0, math.inf), words, limit or _DEFAULT_RESULTS)
    df = _calls_frame(session, period)
    df = df if limit is None else df.tail(limit)
    return df if all_columns else calls_overview(df.dropna(axis="columns", how="all"))


def _split_query(rest: str) -> tuple[str, str, list[str]]:
    """(the line before -q, the flag, the words to search for); ("", []) for the last two without -q."""
    parts = re.split(r"(?:^|(?<=\s))(-q|--query)(?:\s+|$)", rest, maxsplit=1)
    before, flag, words = parts if len(parts) == 3 else (rest, "", "")
    if flag and not words.strip():
        raise ConfigError("No search words were given.", hint="For example: %llm log -q capital of France")
    return before, flag, words.split()


def _search_calls(session: Session, period: Period, words: list[str], limit: int) -> pd.DataFrame:
    """The calls that contain all words, the best first; long texts are cut."""
    import pandas as pd

    ledger = session.client.ledger
    rows, problems = ledger.history(*period) if ledger is not None else ([], [])
    for problem in problems:
        session.print_text(problem)
    if not any(row.get("prompt") for row in rows):
        raise ConfigError(
            "No prompts and answers are stored for these calls.",
            hint='%config NbLLM.ledger = "texts" stores them from now on, ledger = "texts" above the tables '
            "of your providers.toml does so permanently.",
        )
    lines = [
        {
            "when": row["t_wall"],
            "model": row.get("model") or row.get("name"),
            "found": truncate(found, _MAX_TEXT),
            **{name: truncate(str(row.get(name) or ""), _MAX_TEXT) for name in ("prompt", "answer")},
            **{name: row.get(name) for name in ("run_id", "request_id")},
        }
        for row, found in search(rows, words, limit)
    ]
    frame = pd.DataFrame(
        lines, columns=["when", "model", "found", "prompt", "answer", "run_id", "request_id"]
    )
    return frame.astype({"when": "datetime64[ns, UTC]"})


def _parse_count(word: str) -> int:
    number = word.removeprefix("n=")
    if not re.fullmatch(r"[0-9]{1,9}", number):
        raise ConfigError(f"n={number[:40]} is not a number of calls.", hint="For example: %llm log n=20")
    return int(number)


def cost(session: Session, rest: str) -> Any:
    """Totals of calls by model, and of all; in a period by day and model; `by=day`, `by=provider,model` and
    so on choose the groups; `plot` draws the cost by the first group. Columns: calls, failed ones, tokens,
    US dollars (NA without a known price; sums cover known prices only), `unpriced`: calls without a price,
    `estimated`: calls whose tokens were not counted."""
    import pandas as pd

    period, others = _split_period(rest)
    keys = ["model"] if period is None else ["day", "model"]
    plot_words = [word for word in others if word in ("plot", "plot=true")]
    for word in (w for w in others if w not in plot_words):
        if not word.startswith("by="):
            raise _unknown_word("cost", word, "by=day,model")
        keys = _parse_group_keys(word)
    df = _calls_frame(session, period)
    requested, sent = (df[name].astype("string") for name in ("model", "request_model"))
    sent = (df["provider"].astype("string") + "/" + sent).str.rstrip("/").mask(df["simulated"].fillna(False))
    days = [str(at.astimezone().date()) for at in df["t_wall"].dt.to_pydatetime()] if len(df) else []
    df = df.assign(
        model=sent.fillna(requested).fillna(df["name"].astype("string")).fillna("?"),
        day=days,
        month=[day[:7] for day in days],
        kernel=df["run_id"].astype("string"),
    )
    for name, unknown in {"provider": "?", "label": "-", "notebook": "-"}.items():
        if name in keys:
            df[name] = df[name].astype("string").fillna(unknown)
    if plot_words:
        return _plot(df, keys[0])
    parts = [*df.groupby(keys, sort=period is not None, observed=True), (("all",) * len(keys), df)]
    lines = [{**_totals(part), **dict(zip(keys, names, strict=True))} for names, part in parts]
    return pd.DataFrame(lines).set_index(keys)


def _plot(df: pd.DataFrame, by: str) -> Any:
    """A bar chart of US dollars by day (or model, provider ...), stacked by model."""
    require_packages("The plot of costs", "bench", "matplotlib")
    from ..bench.figures import new_sheet

    df["name"] = df["model"]
    priced = df[df["cost_usd"].notna()]
    page = new_sheet(priced, "cost_usd", None, None, [])
    if priced.empty:
        page.show_message("No call with a known price." if len(df) else "No calls.")
        return page.figure
    places = sorted(set(priced[by])) if by in ("day", "month") else list(dict.fromkeys(priced[by]))
    unpriced = len(df) - len(priced)
    without = (
        f"; {unpriced} {'call has' if unpriced == 1 else 'calls have'} no known price" if unpriced else ""
    )
    axes = page.axes(title=f"cost by {by}{without}", y="US dollars")
    heights = dict.fromkeys(places, 0.0)
    for name, look in page.styles.items():
        sums = priced[priced["name"] == name].groupby(by, observed=True)["cost_usd"].sum()
        bars = [float(sums.get(place, 0.0)) for place in places]
        axes.bar(range(len(places)), bars, bottom=list(heights.values()), width=0.7, color=look.colour)
        heights = {place: heights[place] + bar for place, bar in zip(places, bars, strict=True)}
    axes.set_xticks(
        range(len(places)), [truncate(str(place), 30) for place in places], rotation=30, ha="right"
    )
    page.legend(axes, list(page.styles.values()), linestyle="none")
    return page.figure


_GROUP_KEYS = ("day", "month", "model", "provider", "notebook", "kernel", "label")


def _parse_group_keys(word: str) -> list[str]:
    """The columns to group by."""
    keys = word.removeprefix("by=").split(",")
    unknown = next((key for key in keys if key not in _GROUP_KEYS or keys.count(key) > 1), None)
    if unknown is not None:
        raise ConfigError(
            f"%llm cost has no lines by {unknown[:40]!r}.",
            hint=f"By {', '.join(_GROUP_KEYS)}: %llm cost 7d by=day,model",
        )
    return keys


def _totals(part: pd.DataFrame) -> dict[str, Any]:
    answered = part["ok"].fillna(False).groupby([part["run_id"], part["request_id"]], dropna=False).any()
    return {
        "provider": ", ".join(sorted(set(part["provider"].dropna()))),
        "calls": len(answered),
        "failed": int((~answered).sum()),
        "in_tokens": part["in_tokens"].sum(),
        "out_tokens": part["out_tokens"].sum(),
        "cost_usd": part["cost_usd"].sum(min_count=1),
        "unpriced": int(part["cost_usd"].isna().sum()),
        "estimated": int((part["tok_source"] == "estimate").sum()),
    }


def _calls_frame(session: Session, period: Period | None) -> pd.DataFrame:
    """The rows of a period; of this client if the period is None."""
    ledger, problems = session.client.ledger, list[str]()
    rows = ledger.rows() if ledger is not None else []
    if ledger is not None and period is not None:
        rows, problems = ledger.history(*period)
    for problem in problems:
        session.print_text(problem)
    return frame(rows, (*COLUMNS, *(TEXTS if any("prompt" in row for row in rows) else ())))


def _split_period(rest: str) -> tuple[Period | None, list[str]]:
    """(the period that a line names, or None; its other words)."""
    period, others = None, []
    for word in rest.split():
        word_period = _parse_period(word)
        if word_period is not None and period is not None:
            raise ConfigError(f"{word[:40]} is a second period.", hint="Give one period: %llm log 7d")
        period = word_period or period
        others += [] if word_period else [word]
    return period, others


def _parse_period(word: str) -> Period | None:
    word = word.removeprefix("since=") if (since := word.startswith("since=")) else word
    today = date.today()
    if word in _NAMED_PERIODS:
        start, end = _NAMED_PERIODS[word](today)
        return start, math.inf if since else end
    if match := _RELATIVE.fullmatch(word):
        return time.time() - int(match[1]) * _SECONDS[match[2]], math.inf
    if not since:
        return None
    try:
        return datetime.fromisoformat(word).timestamp(), math.inf
    except (ValueError, OverflowError, OSError):
        raise ConfigError(
            f"since={word[:40]} is not a time.",
            hint="For example: since=2026-11-20, since=7d, since=yesterday",
        ) from None


def _midnight(day: date) -> float:
    return datetime.combine(day, clock()).timestamp()


_NAMED_PERIODS: dict[str, Callable[[date], Period]] = {
    "today": lambda today: (_midnight(today), math.inf),
    "yesterday": lambda today: (_midnight(today - timedelta(days=1)), _midnight(today)),
    "ever": lambda _today: (0.0, math.inf),
}


def _unknown_word(command: str, word: str, other_words: str = "") -> ConfigError:
    words = ", ".join(filter(None, ("today, yesterday, 7d, 12h, ever, since=2026-11-20", other_words)))
    return ConfigError(f"%llm {command} has no {word[:40]!r}.", hint=f"There are {words}.")
