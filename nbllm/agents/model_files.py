"""Models in files on this machine: listing the files in folders, finding one by name, checking that it can be
used."""

from __future__ import annotations

import mmap
import os
import re
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path

import msgspec

from ..core import errors
from ..core.calls import ProviderSpec

_MAX_DEPTH = 5  # folders below a folder of models; LM Studio has two, the cache of Hugging Face three
_MAX_ENTRIES = 20_000  # directory entries that are read below one folder
_PART = re.compile(r"-(\d{5})-of-\d{5}$")  # of a model in several files, of which the first is used
_MAX_TRIED = 20  # newest files among which a chat model is searched
_HEAD_SIZE = 32 * 2**20  # bytes at a file's beginning that contain its metadata
_MAX_SHOWN = 3  # names in a message


class ModelFile(msgspec.Struct, frozen=True):
    """A file, its names (the file name, then with more and more folders), and its modification time."""

    path: Path
    names: tuple[str, ...]
    modified: float


def list_model_files(row: ProviderSpec) -> dict[str, ModelFile]:
    """The models in a row's folders, by full name: the shortest name that no other file has."""
    found: dict[Path, ModelFile] = {}
    for folder in row.folders:
        for path in _files(folder):
            parts = (*path.relative_to(folder).parts[:-1], _PART.sub("", path.stem))
            names = tuple("/".join(parts[i:]) for i in reversed(range(len(parts))))
            with suppress(OSError):
                file = ModelFile(path, names, path.stat().st_mtime)
                same = found.setdefault(path.resolve(), file)  # a link adds another name
                found[path.resolve()] = msgspec.structs.replace(
                    same, names=tuple(dict.fromkeys(same.names + names))
                )
    shared = Counter(name for file in found.values() for name in {n.lower() for n in file.names})
    return dict(sorted((_full_name(row, file, shared), file) for file in found.values()))


def _full_name(row: ProviderSpec, file: ModelFile, shared: Counter[str]) -> str:
    own = next((n for n in file.names if shared[n.lower()] == 1), None)
    return f"llamacpp/{file.path}" if own is None else f"{row.name}/{own}"


def _files(folder: str) -> Iterator[Path]:
    seen = 0
    for directory, subfolders, names in os.walk(folder):
        seen += len(names) + len(subfolders)
        depth = len(Path(directory).relative_to(folder).parts)
        subfolders[:] = sorted(subfolders) if depth < _MAX_DEPTH and seen < _MAX_ENTRIES else []
        for name in sorted(names):
            stem, kind = os.path.splitext(name)
            part = _PART.search(stem)
            if kind.lower() == ".gguf" and not stem.startswith("mmproj") and (not part or int(part[1]) == 1):
                yield Path(directory, name)


def model_path(row: ProviderSpec, name: str) -> Path | None:
    """The file for a model's name: in a row with folders, a file in these (see find_model); in llama.cpp's
    row, a path that ends in .gguf, or a file of that name in the working folder. None for the name of a model
    that a server runs."""
    if row.folders:
        return find_model(row, name)
    if row.name != "llamacpp" or not name.lower().endswith(".gguf"):
        return None
    path = Path(name).expanduser()
    return path.absolute() if path.is_file() or "/" in name or os.sep in name else None


def find_model(row: ProviderSpec, name: str) -> Path:
    """The file in a row's folders that has a name. Raises ConfigError for several files, and for none, with
    the most similar names."""
    models, wanted = list_model_files(row), re.sub(r"\.gguf$", "", name, flags=re.IGNORECASE).lower()
    matches = [full for full, file in models.items() if wanted in map(str.lower, file.names)]
    if len(matches) == 1:
        return models[matches[0]].path
    if matches:
        raise errors.ConfigError(
            f"{row.name}/{name} means {len(matches)} files.",
            hint=f"Name one: {' or '.join(matches[:_MAX_SHOWN])}.",
        )
    near = [full for full in models if wanted in full.lower()][:_MAX_SHOWN]
    short = {file.names[0].lower(): full for full, file in models.items()}
    near = near or [short[n] for n in errors.similar_names(wanted.rpartition("/")[2], short, _MAX_SHOWN)]
    raise errors.ConfigError(
        f"No model file is called {name!r}.",
        hint=f"Did you mean {' or '.join(near)}?"
        if near
        else f"`%llm models {row.name}` lists the files in {_folder_names(row)}.",
    )


def _folder_names(row: ProviderSpec) -> str:
    """A row's folders as text: only the existing ones, or all if none exists."""
    return ", ".join([f for f in row.folders if os.path.isdir(f)] or row.folders)


def local_model_problem(row: ProviderSpec) -> str:
    """Why no model in a row's folders can be used, "" if one can."""
    if find_spec("xllamacpp") is None:
        return "xllamacpp is not installed (pip install 'nbllm[local]')"
    return "" if list_model_files(row) else f"no .gguf file in {_folder_names(row)}"


def newest_model(row: ProviderSpec) -> tuple[str, Path | None]:
    """(name, path) of the newest chat model in a row's folders: a file with a chat template that is not an
    embedding model and fits into memory. ("", None) for none."""
    if find_spec("xllamacpp") is None:
        return "", None
    files = sorted(list_model_files(row).items(), key=lambda item: -item[1].modified)[:_MAX_TRIED]
    own = ((name, f.path) for name, f in files if name.startswith(f"{row.name}/") and _is_chat_model(f.path))
    full, path = next(own, ("", None))
    return full.removeprefix(f"{row.name}/"), path


def _is_chat_model(path: Path) -> bool:
    try:
        check_model_file(path)
        with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as head:
            return (
                head.find(b"tokenizer.chat_template", 0, _HEAD_SIZE) > 0
                and head.find(b".pooling_type", 0, _HEAD_SIZE) < 0
            )
    except (errors.ConfigError, OSError, ValueError):
        return False


def check_model_file(path: Path) -> None:
    """Raises ConfigError for a file that cannot be loaded as a model on this machine."""
    try:
        with path.open("rb") as file:
            head, size = file.read(4), os.fstat(file.fileno()).st_size
    except OSError as error:
        raise errors.ConfigError(
            f"The model {path} cannot be read ({error.strerror}).",
            hint="Give the path of a .gguf file: llamacpp/models/name.gguf",
        ) from None
    if head != b"GGUF":
        raise errors.ConfigError(
            f"{path.name} is not a GGUF file, in spite of its name.",
            hint="Download it again: an HTML page or a Git LFS pointer may have been saved instead.",
        )
    if (has := memory_size()) and size > has:
        raise errors.ConfigError(
            f"{path.name} has {size / 2**30:.1f} GiB, and this machine {has / 2**30:.1f} GiB of memory.",
            hint="Use a smaller model, or one with a lower precision (Q4).",
        )


def memory_size() -> int | None:
    """Bytes of this machine's memory, None if unknown."""
    with suppress(AttributeError, ValueError, OSError):
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return None
