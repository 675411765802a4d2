"""Files, URLs and variables that a cell attaches to its prompt, as parts of a message."""

from __future__ import annotations

import mimetypes
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from ...core.errors import ConfigError
from ...core.extras import require_packages
from ...core.messages import Document, Image, Part, Text, picture_type
from ...core.values import (
    DEFAULT_BUDGET,
    FILE_SIZE_LIMIT,
    find_formatter,
    format_value,
    is_drawable,
    plural,
    render_image,
    to_bytes,
    token_estimate,
)

_PDF = b"%PDF"
_COMPLETE_TABLE_BYTES = 4_000  # a table file up to this size is attached completely, a larger one as a sample
_TEXT_TYPES = (
    "text/",
    "application/json",
    "application/xml",
    "application/yaml",
    "application/toml",
    "application/javascript",
)
_TEXT_SUFFIXES = {
    ".py",
    ".md",
    ".rst",
    ".toml",
    ".yaml",
    ".yml",
    ".csv",
    ".tsv",
    ".sql",
    ".ipynb",
    ".tex",
    ".r",
    ".jl",
    ".sh",
    ".cfg",
    ".ini",
    ".log",
}


def describe_part(name: str, part: Part, budget: int) -> str:
    """A part as the footer shows it: its name and its estimated tokens, or that it is an image or
    document."""
    if isinstance(part, Text):
        size = token_estimate(part.text)
        share = f"≈ {size:,} of {budget:,} tokens" if size > 50 else plural(size, "token", estimated=True)
        return f"{name} ({share})"
    return f"{name} ({'image' if isinstance(part, Image) else 'document'})"


def load_attachment(reference: str, namespace: Mapping[str, Any], budget: int = DEFAULT_BUDGET) -> Part:
    """The part for a file path, an http(s) URL of a picture or document, or a variable's name. Raises
    ConfigError if it does not exist, is too large, or has a type that models do not read."""
    if reference.startswith(("http://", "https://")):
        return _url_part(reference)
    path = Path(reference).expanduser()
    if path.is_file():
        return _file_part(path)
    if reference.isidentifier() and reference in namespace:
        return _variable_part(reference, namespace[reference], budget)
    raise ConfigError(
        f"Nothing to attach: {reference!r} is not a file, URL or variable.",
        hint=f"Paths are looked up from {Path.cwd().name}/, the notebook's working directory.",
    )


def _url_part(url: str) -> Part:
    kind = mimetypes.guess_type(url.partition("?")[0])[0] or "image/png"
    return (
        Image(url=url, media_type=kind) if kind.startswith("image/") else Document(url=url, media_type=kind)
    )


def _file_part(path: Path) -> Part:
    if path.suffix.lower() in (".parquet", ".csv", ".tsv") and (
        path.suffix == ".parquet" or path.stat().st_size > _COMPLETE_TABLE_BYTES
    ):
        return _table_part(path)
    _check_size(path.stat().st_size, path.name)
    return part_from_bytes(path.read_bytes(), mimetypes.guess_type(path.name)[0] or "", path.name)


def part_from_bytes(data: bytes, kind: str, name: str) -> Part:
    """A part from a file's bytes: pictures and PDFs are recognised by content, not by name; text (also SVG)
    is sent as text under its name. Raises ConfigError if it is too large or has a type that models do not
    read."""
    _check_size(len(data), name)
    if media_type := picture_type(data):
        return Image(data, media_type=media_type)
    if data.startswith(_PDF):
        return Document(data, media_type="application/pdf", name=name)
    if kind.startswith(_TEXT_TYPES) or Path(name).suffix.lower() in _TEXT_SUFFIXES or _is_text(data):
        return Text(f"\n\n{name}:\n```\n{data.decode('utf-8', 'replace')}\n```\n")
    raise ConfigError(
        f"{name} is of a type that models do not read ({kind or 'unknown'}).",
        hint="Attach pictures, PDFs or text files.",
    )


def _check_size(size: int, name: str) -> None:
    if size > FILE_SIZE_LIMIT:
        raise ConfigError(
            f"{name} has {size / 2**20:.0f} MiB; at most {FILE_SIZE_LIMIT >> 20} can be attached.",
            hint="Attach a smaller file or a part of it.",
        )


def _is_text(data: bytes) -> bool:
    try:
        return b"\0" not in data and bool(data.decode("utf-8") or True)
    except UnicodeDecodeError:
        return False


def value_part(name: str, value: Any) -> Part | None:
    """The part for a variable in a prompt: an image for drawable objects, a file's content for a path; None
    if it is sent as text. Raises ConfigError for a file that is too large or has a type that models do not
    read."""
    if isinstance(value, (Text, Image, Document)):
        return value
    if isinstance(value, Path):
        return _file_part(value) if value.is_file() else None
    data = to_bytes(value)
    if data is not None and data.startswith(_PDF):
        return part_from_bytes(data, "", name)
    return render_image(name, value) if is_drawable(value) else None


def _table_part(path: Path) -> Text:
    """A table file as its columns and first rows."""
    if path.suffix == ".parquet":
        require_packages("A Parquet file", "bench", "pyarrow")
    import pandas as pd

    read = (
        pd.read_parquet if path.suffix == ".parquet" else lambda p: pd.read_csv(p, sep=None, engine="python")
    )
    try:
        frame = read(path)
    except Exception as error:  # noqa: BLE001 - a broken file can raise anything
        raise ConfigError(
            f"{path.name} cannot be read as a table ({type(error).__name__}).",
            hint="Read it with pandas, and put the DataFrame into the prompt.",
        ) from None
    return Text(f"\n\n{path.name}:\n{format_value(frame)}")


# (test, conversion) of a variable into a part; the first test that holds decides.
_FORMS: tuple[tuple[Callable[[Any], bool], Callable[[str, Any], Part]], ...] = (
    (lambda v: isinstance(v, (Text, Image, Document)), lambda _n, v: v),
    (lambda v: isinstance(v, Path), lambda _n, v: _file_part(v)),
    (is_drawable, render_image),
    (lambda v: to_bytes(v) is not None, lambda n, v: part_from_bytes(to_bytes(v) or b"", "", n)),
    (lambda v: isinstance(v, str), lambda n, v: Text(f"\n\n{n}:\n```\n{v}\n```\n")),
)


def _variable_part(name: str, value: Any, budget: int) -> Part:
    if find_formatter(value) is not None and to_bytes(value) is None:
        return Text(f"\n\n{name}: {format_value(value, budget=budget)}")
    for fits, make in _FORMS:
        if fits(value):
            return make(name, value)
    raise ConfigError(
        f"The variable {name!r} ({type(value).__name__}) cannot be attached.",
        hint="Attach pictures, bytes, text or paths; put other values into the prompt with {" + name + "}.",
    )
