"""First views of `%llm models`, `providers`, `ping` and `log`: a few columns. The value is the complete
frame."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict
from datetime import date
from functools import cache
from typing import TYPE_CHECKING, Any

from ..client.catalog import ModelInfo, ProviderState, list_models, provider_states
from ..client.client import Client
from ..core.errors import NbllmError
from ..core.values import plural
from ..routing.config import provider_prefix
from ..routing.prices import facts
from .view.markdown import to_html
from .view.static import (
    Rendered,
    format_count,
    format_money,
    format_seconds,
    join_rendered,
    render_footer,
    to_bundle,
)
from .view.tables import render_table

if TYPE_CHECKING:
    import pandas as pd

_MAX_LISTED = 8  # models of a server's own list that are shown
_CALLS_SHOWN = 20  # the last calls that %llm log shows


@cache
def _overview_class() -> Callable[[pd.DataFrame], Any]:
    """A DataFrame subclass with a first view until it is changed; slices of it are plain frames."""
    import pandas as pd

    class Overview(pd.DataFrame):
        _metadata = ["view", "size_then"]  # noqa: RUF012 - pandas wants a list
        view: dict[str, str]
        size_then: tuple[int, int]

        @property
        def _constructor(self) -> Callable[..., pd.DataFrame]:
            return pd.DataFrame

        def _repr_html_(self) -> str:
            return self.view["text/html"] if self.shape == self.size_then else pd.DataFrame(self).to_html()

        def __repr__(self) -> str:
            return self.view["text/plain"] if self.shape == self.size_then else super().__repr__()

        def __reduce__(self) -> Any:
            return pd.DataFrame, (pd.DataFrame(self),)

    return Overview


def make_overview(frame: pd.DataFrame, *lines: Rendered | str) -> pd.DataFrame:
    """`frame` displayed as the given lines (tables and notes)."""
    result = _overview_class()(frame)
    rendered = [
        render_footer(Rendered(line, line)) if isinstance(line, str) else line for line in lines if line
    ]
    result.view, result.size_then = to_bundle(join_rendered(rendered)), result.shape
    return result  # type: ignore[no-any-return]


def note_if_empty(value: Any) -> Any:
    """The value of a command; an empty table without a view of its own gets a note."""
    has_own_view = not hasattr(value, "columns") or hasattr(value, "view")
    return value if has_own_view or len(value) else make_overview(value, "Nothing to show.")


# --- models and providers -----------------------------------------------------------------------------------


def models_overview(client: Client) -> pd.DataFrame:
    """Names of models: those of ready providers first, then those that need a key or a server."""
    named = _named_models(client)
    found = [
        (m, s)
        for s in sorted(provider_states(client), key=lambda s: not s.ready)
        for m in _provider_models(client, s, named.get(s.name, []))
    ]
    rows = [{**asdict(m), "ready": s.ready, "note": "" if s.ready else s.note} for m, s in found]
    simulator = {"name": "sim/openai", "provider": "sim", "id": "sim-openai", "ready": True, "note": ""}
    headings = ["model", "is now", "context", "$ in", "$ out", "ready"]
    lines = [_model_line(row) for row in (*rows, simulator)]
    for line, (_, s), previous in zip(lines[1:], found[1:], found, strict=False):
        line[-1] = (
            "" if s is previous[1] and not s.ready else line[-1]
        )  # the note only on a provider's first line
    return make_overview(
        models_to_frame([*rows, simulator], "ready", "note"),
        render_table(headings, lines, numeric=headings[2:5]),
        _SIMULATION_NOTE if client.registry.simulating else "",
        "Prices: US dollars per million tokens. %llm models openai/ lists all models of a provider, "
        "%llm models all those of every ready one. %llm key openai takes a key, typed hidden; "
        "%%llm sim needs none.",
    )


_SIMULATION_NOTE = "Simulation is on: every name leads to the simulator. %llm simulate off ends it."


def models_to_frame(rows: Sequence[Mapping[str, Any]], *more: str) -> pd.DataFrame:
    """Models as rows; unknown values are NA."""
    import pandas as pd

    frame = pd.DataFrame(rows, columns=[*ModelInfo.__slots__, *more])
    return frame.astype({"context": "Int64", "input_price": "Float64", "output_price": "Float64"})


def _model_line(row: Mapping[str, Any]) -> list[str]:
    size, name, model = row.get("context"), str(row["name"]), str(row["id"])
    return [
        name,
        "" if name.endswith(model) else model,
        "" if size is None else f"{size / 1e6:g}M" if size >= 1_000_000 else f"{round(size / 1e3):,}k",
        *("" if (v := row.get(n)) is None else f"{v:,.2f}" for n in ("input_price", "output_price")),
        "✓" if row["ready"] else _short_note(row["note"]),
    ]


def _short_note(note: str) -> str:
    """The note in a few words: one variable of several, no address."""
    return note.partition(" (")[0].partition(" or ")[0]


def _named_models(client: Client) -> dict[str, list[ModelInfo]]:
    """By provider: its short names and default models, each model once."""
    found: dict[str, dict[str, ModelInfo]] = {}
    for name in client.registry.names():
        full = client.registry.aliases.get(name, name)
        row, model = (
            client.registry.row(provider_prefix(full) or full),
            full[len(provider_prefix(full)) + 1 :],
        )
        if row is not None:
            known = facts(model, row)
            info = ModelInfo(name, row.name, model, known.context, known.input, known.output)
            found.setdefault(row.name, {}).setdefault(model, info)
    return {provider: list(models.values()) for provider, models in found.items()}


def _provider_models(client: Client, state: ProviderState, named: list[ModelInfo]) -> list[ModelInfo]:
    """The models of a provider; for a local server, or a provider without short names, the start of its own
    list."""
    if not state.ready or (named and state.mode == "api"):
        return named
    if state.mode in ("headless", "remote"):
        return named or [ModelInfo(state.name, state.name, state.name)]
    try:
        return list_models(client, f"{state.name}/")[:_MAX_LISTED] or named
    except NbllmError:
        return named


# A text in the note of a provider, and the title of the group of such providers.
_NEED_TITLES = {
    "set ": "Need a key, by `%llm key NAME` or in a variable",
    "nothing answers at ": "Need their server to run",
    " is not installed": "Need their command to be installed",
    "": "Cannot be used",
}


def providers_overview(
    client: Client, names: Sequence[str] = (), *, all_columns: bool = False
) -> pd.DataFrame:
    """All providers, the ready ones first, the others grouped by what they need. names: only these, with all
    columns; all_columns: all columns of every provider."""
    selected = sorted(provider_states(client), key=lambda s: not s.ready)
    selected = [s for s in selected if not names or s.name in names]
    df = to_frame([asdict(s) for s in selected])
    if names or all_columns:
        cells = [[k, *("" if (v := getattr(s, k)) is None else str(v) for s in selected)] for k in df.columns]
        table_rows = cells if names else list(zip(*cells, strict=True))
        return make_overview(df.set_index("name"), render_table(table_rows[0], table_rows[1:]))
    rows = [[s.name, s.note if s.mode == "headless" else s.key or "needs none"] for s in selected if s.ready]
    return make_overview(
        df.set_index("name"),
        render_table(["ready", "key"], [*rows, ["sim", "needs none: the built-in simulator"]]),
        *_need_paragraphs([s for s in selected if not s.ready]),
        _SIMULATION_NOTE if client.registry.simulating else "",
        "%llm providers NAME shows all columns of one provider, %llm providers all those of every one; "
        "%llm models lists the models.",
    )


def _need_paragraphs(states: Iterable[ProviderState]) -> Iterable[Rendered]:
    """One paragraph for each group of providers that are not ready."""
    groups: dict[str, list[str]] = {need: [] for need in _NEED_TITLES}
    for s in states:
        need = next(n for n in _NEED_TITLES if n in s.note)
        detail = _short_note(s.note.replace(need, "")) if need else ""
        groups[need].append(
            f"{s.name} `{detail}`" if detail and detail != s.name.partition("/")[2] else s.name
        )
    for need, found in groups.items():
        if found:
            paragraph = f"**{_NEED_TITLES[need]}:** {', '.join(found)}."
            yield Rendered(to_html(paragraph), paragraph)


# --- calls --------------------------------------------------------------------------------------------------


def pings_overview(rows: Sequence[Mapping[str, Any]]) -> pd.DataFrame:
    """The results of %llm ping."""
    headings = ["asked", "", "answered", "connect", "first token", "total"]
    lines = [
        [
            str(r["asked"]),
            "simulated" if r.get("simulated") else "✓" if r["ok"] else "✗",
            str(r.get("error") or f"{r['model']}: {r['text']}"),
            *("" if r.get(n) is None else format_seconds(r[n]) for n in ("connect", "ttft", "total")),
        ]
        for r in rows
    ]
    return make_overview(
        to_frame(rows).set_index("asked"), render_table(headings, lines, numeric=headings[3:])
    )


def calls_overview(frame: pd.DataFrame) -> pd.DataFrame:
    """The log with its last calls in the most useful columns."""
    headings = ["time", "model", "first token", "total", "tokens in", "out", "cost", "status"]
    if not len(frame):
        note = "No calls in this notebook yet. %llm log yesterday, 7d or ever shows those of all notebooks."
        return make_overview(frame, note)
    number = len(frame)
    shown = f"The last {_CALLS_SHOWN} of {number:,} calls. " if number > _CALLS_SHOWN else ""
    rows = [_call_line(row) for row in frame.tail(_CALLS_SHOWN).to_dict("records")]
    return make_overview(
        frame,
        render_table(headings, rows, numeric=headings[2:7]),
        f"{shown}The value has {plural(len(frame.columns), 'column')}: log = %llm log. "
        "%llm log all shows them.",
    )


def _call_line(row: Mapping[Any, Any]) -> list[str]:
    import pandas as pd

    at, known = row["t_wall"].to_pydatetime().astimezone(), {k: v for k, v in row.items() if not pd.isna(v)}
    ms = [known.get("ttft_ms"), known.get("e2e_ms")]
    return [
        f"{at:%H:%M:%S}" if at.date() == date.today() else f"{at:%Y-%m-%d %H:%M}",
        str(known.get("model") or known.get("name") or "?"),  # of this attempt, which may be another one's
        *("" if v is None else format_seconds(v / 1000) for v in ms),
        *(format_count(int(known[n])) if n in known else "" for n in ("in_tokens", "out_tokens")),
        format_money(known["cost_usd"]) if "cost_usd" in known else "",
        str(known.get("status") or "") + (", simulated" if known.get("simulated") else ""),
    ]


def to_frame(rows: Sequence[Any], columns: Sequence[str] = ()) -> pd.DataFrame:
    """Rows as a DataFrame; with `columns` only these, the first of which becomes the index."""
    import pandas as pd

    result = pd.DataFrame(rows, columns=list(columns) or None)
    return result.set_index(columns[0]) if columns else result
