"""Builds the DataFrame with the answers of a run."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from ..store.runs import Row, RunFile
from .job import Job

if TYPE_CHECKING:
    import pandas as pd

_DTYPES = {"string": "string", "integer": "Int64", "number": "Float64", "boolean": "boolean"}


def result_frame(df: pd.DataFrame | None, job: Job, rows: Sequence[Row], file: RunFile) -> pd.DataFrame:
    """A new frame with df's index, order and columns, and the columns of the answers, which replace columns
    of the same name. Without a table it has the prompts instead. `.attrs["nbllm_run"]` names the run."""
    if df is None:
        import pandas as pd

        prompts = [prompt for _, prompt in file.questions([row.id for row in rows])]
        df = pd.DataFrame({"prompt": pd.array(prompts, dtype="string")})
    answers = [json.loads(r.data) if r.data is not None and r.state == "ok" else None for r in rows]
    columns = {
        c: to_column([_field(a, name) for a in answers], dtype_of(job, name))
        for c, name in job.columns.items()
    }
    columns |= {
        "llm_status": to_column(["pending" if r.state == "sent" else r.state for r in rows], "string"),
        "llm_error": to_column([r.error for r in rows], "string"),
        "llm_cost": to_column([r.usd for r in rows], "Float64"),
    }
    out, below = df.copy(), ("",) * (df.columns.nlevels - 1)
    for column, values in columns.items():
        out[(column, *below) if below else column] = values
    out.attrs["nbllm_run"] = file.name
    return out


def _field(answer: Any, name: str | None) -> Any:
    return answer if name is None else answer.get(name) if isinstance(answer, dict) else None


def dtype_of(job: Job, name: str | None) -> str:
    """The dtype of a column by the schema; "object" for nested values."""
    if job.shape is None:
        return "string"
    if name is None:
        return "object"
    return _dtype(job.shape.schema["properties"][name])


def _dtype(schema: Any) -> str:
    if not isinstance(schema, Mapping):
        return "object"
    kinds = schema.get("type")
    kinds = [k for k in (kinds if isinstance(kinds, list) else [kinds]) if k not in ("null", None)]
    options = [o for o in schema.get("anyOf", ()) if not (isinstance(o, Mapping) and o.get("type") == "null")]
    if not kinds and len(options) == 1:
        return _dtype(options[0])
    if not kinds and isinstance(schema.get("enum"), list):
        return "string" if all(isinstance(v, str) for v in schema["enum"]) else "object"
    if kinds == ["string"] and schema.get("format") in ("date", "date-time"):
        return "datetime"
    return _DTYPES.get(kinds[0], "object") if len(kinds) == 1 else "object"


def to_column(values: list[Any], dtype: str) -> Any:
    """Values as an array of a dtype; as objects where they do not fit it, so that no answer is lost."""
    import pandas as pd

    try:
        if dtype == "datetime":
            return pd.to_datetime(pd.Series(values, dtype=object), format="ISO8601").array
        return pd.Series(values, dtype=dtype).array
    except Exception:  # noqa: BLE001 - pandas and its parsers raise many kinds
        return pd.Series(values, dtype=object).array
