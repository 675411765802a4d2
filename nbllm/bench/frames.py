"""Which rows of a frame count, and in which order they are shown."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from ..core.errors import ConfigError
from ..core.values import plural
from ..store import columns

if TYPE_CHECKING:
    import pandas as pd

_FRAME_HINT = (
    "bench.run, bench.load and %llm log give frames of requests; bench.schema() lists their columns."
)
SCORE = "score"  # what an answer is worth, by the user's own measure


# What a column is taken for that a frame of another origin does not have; else its values are missing.
_DEFAULTS: dict[str, Any] = {"phase": "measure", "attempt": 1, "run_id": ""}


def normalize_requests(df: pd.DataFrame) -> pd.DataFrame:
    """A frame of requests with every column that the functions here look at: some were left out by those who
    made it. Raises ConfigError for what is no such frame."""
    import pandas as pd

    if not isinstance(df, pd.DataFrame):
        raise ConfigError(
            f"That is no frame of requests but {type(df).__name__}.",
            hint="bench.run and bench.load give one.",
        )
    check_unique_names(df.columns)
    # set_index("name", drop=False): which of them is meant? Frames put together have each label twice.
    if not (df.index.is_unique and set(df.index.names).isdisjoint(df.columns)):
        df = df.reset_index(drop=True)
    absent = [c for c in columns.COLUMNS if c.name not in df]
    lost = {c.name for c in absent}
    if "name" in lost or {"ok", "status"} <= lost:
        raise ConfigError("The frame says of no request whose it is and what became of it.", hint=_FRAME_HINT)
    if unnamed := int(df["name"].isna().sum()):
        raise ConfigError(
            f"{plural(unnamed, 'row')} of the frame name no model.", hint='df.dropna(subset="name")'
        )
    if not lost:
        return df
    found = columns.frame([{}] * len(df), tuple(absent)).set_index(df.index)
    given = {
        **{k: v for k, v in _DEFAULTS.items() if k in lost},
        **({"request_id": [str(i) for i in range(len(df))]} if "request_id" in lost else {}),
        **({"ok": df["status"].astype("string") == "ok"} if "ok" in lost else {}),
    }
    out = pd.concat([df, found.assign(**given)], axis=1)
    out.attrs.update(df.attrs)
    return out


def check_unique_names(names: Iterable[Any]) -> None:
    """Raises ConfigError where two columns have one name: one of them would be lost."""
    double = next((name for name, n in Counter(map(str, names)).items() if n > 1), None)
    if double is not None:
        raise ConfigError(f"Two columns are called {double!r}.", hint="Rename one of them.")


def string_list(name: str, given: Any) -> list[str] | None:
    """An option that is a text, or several; None where it is not given. Raises ConfigError for others."""
    found = [given] if isinstance(given, str) else given
    if found is not None and (not isinstance(found, Iterable) or not all(isinstance(x, str) for x in found)):
        raise ConfigError(f"{name} is a text, or a list of texts, not {given!r}.", hint="See its docstring.")
    return None if found is None else list(found)


def check_share(name: str, value: Any) -> None:
    """Raises ConfigError where an option is no share between 0 and 1."""
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 < value < 1:
        raise ConfigError(f"{name} is a share between 0 and 1, not {value!r}.", hint=f"{name}=0.95")


def has_retries(df: pd.DataFrame) -> bool:
    """Whether a request was sent more than once."""
    return bool((df["attempt"] > 1).any())


def leading_metric(df: pd.DataFrame) -> str:
    """The metric by which models are first told apart: the time to the first token, or to the last where no
    first one was seen (embeddings, answers that come as a whole)."""
    return "ttft_ms" if df["ttft_ms"].notna().any() or df["e2e_ms"].isna().all() else "e2e_ms"


def ordered_values(df: pd.DataFrame, column: str) -> list[Any]:
    """The values of a column in the order in which they are shown: models as the run was given them (its rows
    stand in random order), starts coldest first, else sorted; unknown last."""
    values = list(df[column].drop_duplicates())
    told = df.attrs.get("nbllm", {}).get("models", []) if column == "name" else ()
    places = {name: i for i, name in enumerate((*told, *columns.START_KINDS))}
    known = [v for v in values if isinstance(v, (str, int, float)) and v == v]  # noqa: PLR0124
    known.sort(key=lambda v: (places.get(v, len(places)), (0.0, v) if isinstance(v, str) else (float(v), "")))
    return [*known, *(v for v in values if not any(v is k for k in known))]


def ordered_groups(df: pd.DataFrame, keys: Sequence[str]) -> list[tuple[tuple[Any, ...], pd.DataFrame]]:
    """The groups of a frame, in the order of `ordered`."""
    if not keys:
        return [((), df)]
    found = list(df.groupby(list(keys), sort=False, observed=True, dropna=False))
    ranks = [{repr(v): i for i, v in enumerate(ordered_values(df, key))} for key in keys]

    def place(group: Any) -> list[int]:
        return [rank.get(repr(v), len(rank)) for rank, v in zip(ranks, group[0], strict=True)]

    return sorted(found, key=place)


def last_attempts(part: pd.DataFrame) -> pd.DataFrame:
    """The last attempt of each request, in the order of their calls: a retry's first attempt is not a failure
    of its own."""
    kept = part.sort_values("attempt").drop_duplicates(["run_id", "request_id"], keep="last")
    return kept.sort_values("ns_call") if kept["ns_call"].notna().all() else kept.sort_index()


def measured_requests(df: pd.DataFrame, phase: str | None = "measure") -> pd.DataFrame:
    """The requests of a phase; all for None. Raises ConfigError for a phase that there is none of."""
    if phase is not None and phase not in columns.PHASES:
        raise ConfigError(
            f"No phase is called {phase!r}.", hint=f"{', '.join(columns.PHASES)}; None for all."
        )
    return df if phase is None else df[df["phase"].astype("string") == phase]


def success_mask(part: pd.DataFrame) -> pd.Series:
    """Which requests got an answer."""
    return part["ok"].astype("boolean").fillna(False).astype(bool)


def plain_row(row: Mapping[Any, Any]) -> dict[str, Any]:
    """A row as JSON has it; None for what is missing."""
    import pandas as pd

    plain: dict[str, Any] = {
        str(k): v if isinstance(v, (list, dict)) or not pd.isna(v) else None for k, v in row.items()
    }
    return {k: v.item() if hasattr(v, "item") else v for k, v in plain.items()}


def contaminated_mask(part: pd.DataFrame) -> pd.Series:
    """Which requests this client itself held up."""
    return (part["quality"].astype("string") == "contaminated").fillna(False).astype(bool)
