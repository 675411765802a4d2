"""Frames of requests: checking them, selecting rows, and the order in which groups are shown."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from numbers import Real
from typing import TYPE_CHECKING, Any

from ..core.errors import ConfigError
from ..core.events import all_checks_pass
from ..core.values import plural
from ..store import columns

if TYPE_CHECKING:
    import pandas as pd

_FRAME_HINT = (
    "bench.run, bench.load and %llm log give frames of requests; bench.schema() lists their columns."
)
SCORE = "score"  # the quality of an answer, by the user's own measure
CHECK_PREFIX = "check_"  # of the columns of assertions


# Values of columns that a frame of another origin may lack; other columns are filled with missing values.
_DEFAULTS: dict[str, Any] = {"phase": "measure", "attempt": 1, "run_id": ""}


def normalize_requests(df: pd.DataFrame) -> pd.DataFrame:
    """The frame with every column that the functions of this package use: a frame from elsewhere may lack
    some. Raises ConfigError for anything but a frame of requests."""
    import pandas as pd

    if not isinstance(df, pd.DataFrame):
        raise ConfigError(
            f"df must be a frame of requests, not {type(df).__name__}.",
            hint="bench.run and bench.load return one.",
        )
    check_unique_names(df.columns)
    # After set_index("name", drop=False) a name is ambiguous; concatenated frames have duplicate labels.
    if not (df.index.is_unique and set(df.index.names).isdisjoint(df.columns)):
        df = df.reset_index(drop=True)
    absent = [c for c in columns.COLUMNS if c.name not in df]
    missing_names = {c.name for c in absent}
    if "name" in missing_names or {"ok", "status"} <= missing_names:
        raise ConfigError("The frame needs a column name, and ok or status.", hint=_FRAME_HINT)
    if n_unnamed := int(df["name"].isna().sum()):
        raise ConfigError(
            f"The frame has {plural(n_unnamed, 'row')} without a name.", hint='df.dropna(subset="name")'
        )
    if not missing_names:
        return df
    added = columns.frame([{}] * len(df), tuple(absent)).set_index(df.index)
    defaults = {
        **{k: v for k, v in _DEFAULTS.items() if k in missing_names},
        **({"request_id": [str(i) for i in range(len(df))]} if "request_id" in missing_names else {}),
        **({"ok": df["status"].astype("string") == "ok"} if "ok" in missing_names else {}),
    }
    out = pd.concat([df, added.assign(**defaults)], axis=1)
    out.attrs.update(df.attrs)
    return out


def check_unique_names(names: Iterable[Any]) -> None:
    """Raises ConfigError where two columns have the same name: one of them would be lost."""
    duplicate = next((name for name, n in Counter(map(str, names)).items() if n > 1), None)
    if duplicate is not None:
        raise ConfigError(f"Two columns are called {duplicate!r}.", hint="Rename one of them.")


def string_list(name: str, value: Any) -> list[str] | None:
    """The strings of an option that takes one or several; None for None. Raises ConfigError for other
    types."""
    values = [value] if isinstance(value, str) else value
    if values is not None and (
        not isinstance(values, Iterable) or not all(isinstance(x, str) for x in values)
    ):
        raise ConfigError(
            f"{name} must be a string or a list of strings, not {value!r}.", hint=f'{name}="name"'
        )
    return None if values is None else list(values)


def check_share(name: str, value: Any) -> None:
    """Raises ConfigError where an option is not a share between 0 and 1."""
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 < value < 1:
        raise ConfigError(f"{name} must be between 0 and 1, not {value!r}.", hint=f"{name}=0.95")


def check_positive(name: str, value: Any, hint: str) -> None:
    """Raises ConfigError where an option is not a finite number above 0."""
    if isinstance(value, bool) or not isinstance(value, Real) or not 0 < float(value) < math.inf:
        raise ConfigError(f"{name} must be a number above 0, not {value!r}.", hint=hint)


def has_retries(df: pd.DataFrame) -> bool:
    """Whether any request was sent more than once."""
    return bool((df["attempt"] > 1).any())


def leading_metric(df: pd.DataFrame) -> str:
    """The default metric: the time to the first token, or to the last where no first one was seen
    (embeddings, non-streaming answers)."""
    return "ttft_ms" if df["ttft_ms"].notna().any() or df["e2e_ms"].isna().all() else "e2e_ms"


def ordered_values(df: pd.DataFrame, column: str) -> list[Any]:
    """The values of a column in display order: models as the run was given them (its rows are in random
    order), starts coldest first, other values sorted; missing values last."""
    values = list(df[column].drop_duplicates())
    models = df.attrs.get("nbllm", {}).get("models", []) if column == "name" else ()
    positions = {name: i for i, name in enumerate((*models, *columns.START_KINDS))}
    known = [v for v in values if isinstance(v, (str, int, float)) and v == v]  # noqa: PLR0124
    known.sort(
        key=lambda v: (positions.get(v, len(positions)), (0.0, v) if isinstance(v, str) else (float(v), ""))
    )
    return [*known, *(v for v in values if not any(v is k for k in known))]


def ordered_groups(df: pd.DataFrame, keys: Sequence[str]) -> list[tuple[tuple[Any, ...], pd.DataFrame]]:
    """The groups of a frame, in the order of `ordered_values`."""
    if not keys:
        return [((), df)]
    groups = list(df.groupby(list(keys), sort=False, observed=True, dropna=False))
    ranks = [{repr(v): i for i, v in enumerate(ordered_values(df, key))} for key in keys]

    def group_position(group: Any) -> list[int]:
        return [rank.get(repr(v), len(rank)) for rank, v in zip(ranks, group[0], strict=True)]

    return sorted(groups, key=group_position)


def last_attempts(part: pd.DataFrame) -> pd.DataFrame:
    """The last attempt of each request, in order of their calls: the failed first attempt of a retried
    request is not a failure of its own."""
    # Only two columns are compared: drop_duplicates would go through all columns and copy `attrs` for each.
    last = part.sort_values("attempt").loc[
        lambda attempts: ~attempts[["run_id", "request_id"]].duplicated(keep="last")
    ]
    return last.sort_values("ns_call") if last["ns_call"].notna().all() else last.sort_index()


def measured_requests(df: pd.DataFrame, phase: str | None = "measure") -> pd.DataFrame:
    """The requests of a phase; all for None. Raises ConfigError for an unknown phase."""
    if phase is not None and phase not in columns.PHASES:
        raise ConfigError(
            f"{phase!r} is not a phase.", hint=f"Use {', '.join(columns.PHASES)}, or None for all."
        )
    return df if phase is None else df[df["phase"].astype("string") == phase]


def success_mask(part: pd.DataFrame) -> pd.Series:
    """Which requests succeeded."""
    return part["ok"].astype("boolean").fillna(False).astype(bool)


def plain_row(row: Mapping[Any, Any]) -> dict[str, Any]:
    """A row with JSON values; None for what is missing."""
    import pandas as pd

    values: dict[str, Any] = {
        str(k): v if isinstance(v, (list, dict)) or not pd.isna(v) else None for k, v in row.items()
    }
    return {k: v.item() if hasattr(v, "item") else v for k, v in values.items()}


def contaminated_mask(part: pd.DataFrame) -> pd.Series:
    """Which requests were disturbed by this client itself."""
    return (part["quality"].astype("string") == "contaminated").fillna(False).astype(bool)


def add_check_columns(df: pd.DataFrame, checks: Mapping[str, Mapping[str, float | None]]) -> None:
    """Adds a column for each check (values by request id), and `passed`: whether all of them passed."""
    import pandas as pd

    names = list(dict.fromkeys(name for values in checks.values() for name in values))
    rows = [checks.get(str(i), {}) for i in df["request_id"]]
    for name in names:
        df[f"{CHECK_PREFIX}{name}"] = pd.Series([r.get(name) for r in rows], df.index, dtype="float64")
    if names:
        passed = [all_checks_pass(r.get(name) for name in names) for r in rows]
        df["passed"] = pd.Series(passed, df.index, dtype="boolean")
