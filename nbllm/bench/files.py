"""Saving and loading frames: Parquet, CSV, JSON lines, and the directory of a run. Columns and dtypes survive
all of them."""

from __future__ import annotations

import json
import os
import re
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd

from ..core.errors import ConfigError
from ..core.extras import require_packages
from ..store import columns
from .exchange import read_foreign, translate_write_errors
from .frames import normalize_requests, plain_row
from .prompts import iter_json
from .store import FILE, Store, find_run

_METADATA_KEY = b"nbllm"
_METADATA_FIELD = "nbllm"
# an empty text gets an apostrophe too, so that it differs from a missing value
_FORMULA = re.compile(r"'*(?:[=+\-@\t\r\n＝＋－＠]|\Z)")
_SUFFIXES = (".parquet", ".csv", ".jsonl")


def save(df: pd.DataFrame, path: str | os.PathLike[str]) -> Path:
    """Writes a frame of requests to a .parquet, .csv or .jsonl file and returns the path. An existing file is
    replaced atomically.

    The metadata of the run in df.attrs (seed, machine, dates) is stored too: in CSV and JSON lines in the
    field nbllm of the first row, with the dtypes of additional columns. Raises ConfigError for another
    suffix, and for a path that cannot be written.
    """
    target = Path(path)
    writer = _WRITERS.get(target.suffix.lower())
    if writer is None:
        raise ConfigError(
            f"Frames cannot be saved as {target.suffix or 'a file without a suffix'}.",
            hint=f"Use {', '.join(_SUFFIXES)}.",
        )
    df = _replace_surrogates(normalize_requests(df))
    with translate_write_errors(target):
        handle, name = tempfile.mkstemp(dir=target.parent, prefix=f".{target.name}.")
        os.close(handle)
        try:
            writer(df, Path(name))
            Path(name).replace(target)
        except BaseException:
            Path(name).unlink(missing_ok=True)
            raise
    return target


def _replace_surrogates(df: pd.DataFrame) -> pd.DataFrame:
    """The frame with question marks instead of lone surrogates, which no file can hold."""
    valid = {
        name: pd.Series([_valid_utf8(value) for value in df[name]], df.index, dtype=object)
        for name in df.columns
        if df[name].dtype == object
    }
    return df.assign(**valid) if valid else df


def _valid_utf8(value: Any) -> Any:
    return value.encode("utf-8", "replace").decode() if isinstance(value, str) else value


def load(path: str | os.PathLike[str]) -> pd.DataFrame:
    """A frame of requests from a file that `save` wrote, from a run's directory or id, or from guidellm's
    benchmarks.json or aiperf's profile_export.jsonl (these have no blocks, so they are compared unpaired).

    Raises ConfigError for a missing file, a file that is not a frame of requests, or one of a newer nbllm.
    """
    if not isinstance(path, (str, os.PathLike)):
        raise ConfigError(f"{path!r} is not a path or a run.", hint='bench.load("run.parquet")')
    source = Path(path)
    if not source.suffix or source.is_dir():
        directory = source if (source / FILE).exists() else find_run(str(path))
        if directory is None:
            raise ConfigError(
                f"There is no benchmark run {os.fspath(path)!r}.",
                hint="bench.runs() lists the runs of this machine.",
            )
        with Store(directory) as store:
            return store.frame()
    reader = _READERS.get(source.suffix.lower())
    if reader is None:
        raise ConfigError(
            f"Frames cannot be loaded from {source.suffix} files.",
            hint=f"Use {', '.join(_SUFFIXES)}, or a run's directory.",
        )
    try:
        df, metadata = reader(source)
    except FileNotFoundError:
        raise ConfigError(f"There is no file {source}.", hint="Check the path.") from None
    except ConfigError:
        raise
    except Exception as exc:  # noqa: BLE001 - each library raises its own errors for a damaged file
        raise ConfigError(
            f"{source} cannot be read as {source.suffix[1:]}: "
            f"{str(exc).splitlines()[0][:200] if str(exc) else type(exc).__name__}.",
            hint="It may be truncated; save it again: bench.save(bench.load(run_id), path).",
        ) from None
    return _checked_frame(df, metadata, source)


def _checked_frame(df: pd.DataFrame, metadata: dict[str, Any], source: Path) -> pd.DataFrame:
    if metadata.get("schema", columns.VERSION) > columns.VERSION:
        raise ConfigError(
            f"{source} was written by a newer nbllm (schema {metadata['schema']}, here {columns.VERSION}).",
            hint="Update nbllm.",
        )
    if not {"request_id", "name", "status"} <= set(df.columns):
        raise ConfigError(
            f"{source} is not a frame of requests: it lacks a column request_id, name or status.",
            hint="bench.schema() lists the columns.",
        )
    out = columns.cast(df)
    out.attrs["nbllm"] = metadata
    return out


def _write_parquet(df: pd.DataFrame, path: Path) -> None:
    require_packages("A Parquet file", "bench", "pyarrow")
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        table = pa.Table.from_pandas(df.reset_index(drop=True), preserve_index=False)
    except pa.ArrowException as error:
        raise ConfigError(
            f"A column of the frame cannot be stored in Parquet: {error}.",
            hint="Give its values a common type, or use .jsonl.",
        ) from None
    metadata = {"schema": columns.VERSION, **df.attrs.get("nbllm", {})}
    pq.write_table(
        table.replace_schema_metadata(
            {**(table.schema.metadata or {}), _METADATA_KEY: json.dumps(metadata).encode()}
        ),
        path,
    )


def _read_parquet(path: Path) -> tuple[pd.DataFrame, dict[str, Any]]:
    require_packages("A Parquet file", "bench", "pyarrow")
    import pyarrow.parquet as pq

    table = pq.read_table(path)
    metadata = json.loads((table.schema.metadata or {}).get(_METADATA_KEY, b"{}"))
    return table.to_pandas(), metadata


def _metadata(df: pd.DataFrame) -> str:
    """The metadata that text files hold: of the run, and the dtypes of additional columns."""
    dtypes = {str(name): _dtype_name(df[name]) for name in df.columns if name not in columns.NAMES}
    return json.dumps({"schema": columns.VERSION, **df.attrs.get("nbllm", {}), "dtypes": dtypes}, default=str)


def _dtype_name(series: pd.Series) -> str:
    """The dtype with which a column is read; "" where its values determine it."""
    all_texts = series.dropna().map(lambda value: isinstance(value, str)).all()
    dtype = str(series.dtype)
    return ("text" if all_texts else "") if dtype == "object" else dtype


def _restore_dtypes(df: pd.DataFrame) -> tuple[pd.DataFrame, dict[str, Any]]:
    """(the frame without its field nbllm, the metadata in that field)."""
    if _METADATA_FIELD not in df or not len(df) or not isinstance(df[_METADATA_FIELD].iloc[0], str):
        return df, {}
    try:
        metadata = json.loads(df[_METADATA_FIELD].iloc[0])
        dtypes = metadata.pop("dtypes")
    except (ValueError, AttributeError, KeyError, TypeError):  # a user's column with the same name
        return df, {}
    df = df.drop(columns=_METADATA_FIELD)
    df = df.reindex(columns=[*df, *(n for n in dtypes if n not in df)])  # JSON lines hold no missing values
    for name in df.columns:
        if dtypes.get(name):
            df[name] = _cast_column(df[name], dtypes[name])
    return df, metadata


def _cast_column(series: pd.Series, dtype: Any) -> pd.Series:
    """A column of texts or JSON values, converted to the dtype that it had."""
    if dtype == "text":
        return series.astype(object).where(series.notna(), None)
    if dtype.startswith("datetime"):
        return pd.to_datetime(series, format="ISO8601", utc="," in dtype).astype(dtype)
    if dtype.startswith("bool"):
        series = series.map({"True": True, "False": False, True: True, False: False})
    elif pd.api.types.is_numeric_dtype(dtype) and not isinstance(series.dtype, pd.CategoricalDtype):
        series = pd.to_numeric(series)
    return series.astype(dtype)


def _write_csv(df: pd.DataFrame, path: Path) -> None:
    """Writes CSV. An apostrophe is put before texts that a spreadsheet would run as a formula, as
    spreadsheets do themselves, since they come from models and servers; `_read_csv` removes it."""
    with path.open("w", encoding="utf-8", errors="replace", newline="") as file:
        _map_strings(_with_metadata(df), lambda text: f"'{text}" if _FORMULA.match(text) else text).to_csv(
            file, index=False, lineterminator="\r\n"
        )


def _with_metadata(df: pd.DataFrame) -> pd.DataFrame:
    if _METADATA_FIELD in df:
        return df
    df = df.reset_index(drop=True)
    df[_METADATA_FIELD] = [_metadata(df), *[None] * (len(df) - 1)] if len(df) else []
    return df


def _read_csv(path: Path) -> tuple[pd.DataFrame, dict[str, Any]]:
    dtypes: dict[str, Any] = _csv_dtypes()
    names = pd.read_csv(path, nrows=0).columns
    if _METADATA_FIELD in names:
        dtypes |= dict.fromkeys(set(names) - set(dtypes), "string")
    df = pd.read_csv(path, dtype=dtypes, keep_default_na=False, na_values=[""])
    return _restore_dtypes(
        _map_strings(df, lambda text: text[1:] if text.startswith("'") and _FORMULA.match(text) else text)
    )


def _map_strings(df: pd.DataFrame, change: Callable[[str], str]) -> pd.DataFrame:
    """The frame with `change` applied to its texts; other values stay."""
    changed = {}
    for name in df.columns:
        dtype = df[name].dtype
        if not (pd.api.types.is_numeric_dtype(dtype) or pd.api.types.is_datetime64_any_dtype(dtype)):
            changed[name] = (
                df[name].astype(object).map(lambda value: change(value) if isinstance(value, str) else value)
            )
    return df.assign(**changed)


def _csv_dtypes() -> dict[str, Any]:
    """How columns are read from text before they are cast: identifiers must not become numbers."""
    return {
        c.name: "boolean"
        if c.dtype == "boolean"
        else "string"
        if c.dtype in ("string", "category") or c.dtype.startswith("datetime")
        else "Int64"
        if c.dtype.startswith("Int")
        else "float64"
        for c in columns.COLUMNS
    }


def _write_jsonl(df: pd.DataFrame, path: Path) -> None:
    with path.open("w", encoding="utf-8", errors="replace") as file:
        for row in _with_metadata(df).to_dict("records"):
            values = {
                k: v.isoformat() if isinstance(v, pd.Timestamp) else v
                for k, v in plain_row(row).items()
                if v is not None
            }
            file.write(json.dumps(values, ensure_ascii=False, default=str) + "\n")


def _read_jsonl(path: Path) -> tuple[pd.DataFrame, dict[str, Any]]:
    text = path.read_text("utf-8-sig")
    if (foreign := read_foreign(text, path)) is not None:
        return foreign, {}
    rows = list(iter_json(text))
    return _restore_dtypes(pd.DataFrame(rows, columns=None if rows else list(columns.NAMES)))


def _read_json(path: Path) -> tuple[pd.DataFrame, dict[str, Any]]:
    if (foreign := read_foreign(path.read_text("utf-8-sig"), path)) is None:
        raise ConfigError(f"{path} is not a result file of guidellm.", hint=f"Use {', '.join(_SUFFIXES)}.")
    return foreign, {}


_WRITERS: dict[str, Callable[[pd.DataFrame, Path], None]] = {
    ".parquet": _write_parquet,
    ".csv": _write_csv,
    ".jsonl": _write_jsonl,
}
_READERS: dict[str, Callable[[Path], tuple[pd.DataFrame, dict[str, Any]]]] = {
    ".parquet": _read_parquet,
    ".csv": _read_csv,
    ".jsonl": _read_jsonl,
    ".json": _read_json,
}
