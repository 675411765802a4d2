"""Models in files on this machine: which files folders hold, which of them a name means, and which can be
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
_MAX_ENTRIES = 20_000  # entries that are looked at in one folder
_PART = re.compile(r"-(\d{5})-of-\d{5}$")  # of a model in several files, which the first stands for
_MAX_TRIED = 20  # newest files, among which one is looked for that can be talked to
_HEAD_SIZE = 32 * 2**20  # bytes at a file's beginning in which its facts stand
_MAX_SHOWN = 3  # names in a message


class ModelFile(msgspec.Struct, frozen=True):
    """A file, the names that mean it (its own, then with its folders), and when it was changed."""

    path: Path
    names: tuple[str, ...]
    modified: float

    @classmethod
    def of(cls, path: Path, folder: str) -> ModelFile:
        """A file somewhere in a folder."""
        parts = (*path.relative_to(folder).parts[:-1], _PART.sub("", path.stem))
        names = tuple("/".join(parts[i:]) for i in reversed(range(len(parts))))
        return cls(path, names, path.stat().st_mtime)


def list_model_files(row: ProviderSpec) -> dict[str, ModelFile]:
    """The models in a row's folders, by the full name of each: its shortest that means no other."""
    found: dict[Path, ModelFile] = {}
    for folder in row.folders:
        for path in _files(folder):
            with suppress(OSError):
                file = ModelFile.of(path, folder)
                same = found.setdefault(path.resolve(), file)  # a link is another name of it
                found[path.resolve()] = msgspec.structs.replace(
                    same, names=tuple(dict.fromkeys(same.names + file.names))
                )
    shared = Counter(name for file in found.values() for name in {n.lower() for n in file.names})
    return dict(sorted((_full_name(row, file, shared), file) for file in found.values()))


def _full_name(row: ProviderSpec, file: ModelFile, shared: Counter[str]) -> str:
    own = next((n for n in file.names if shared[n.lower()] == 1), None)
    return f"llamacpp/{file.path}" if own is None else f"{row.name}/{own}"


def _files(folder: str) -> Iterator[Path]:
    seen = 0
    for place, inner, names in os.walk(folder):
        seen += len(names) + len(inner)
        deep = len(Path(place).relative_to(folder).parts)
        inner[:] = sorted(inner) if deep < _MAX_DEPTH and seen < _MAX_ENTRIES else []
        for name in sorted(names):
            stem, kind = os.path.splitext(name)
            part = _PART.search(stem)
            if kind.lower() == ".gguf" and not stem.startswith("mmproj") and (not part or int(part[1]) == 1):
                yield Path(place, name)


def model_path(row: ProviderSpec, name: str) -> Path | None:
    """The file that a model's name means: of a row with folders, one in these (see find); of llama.cpp's, a
    path that ends in .gguf, or a file of that name here. None for a server's own name."""
    if row.folders:
        return find_model(row, name)
    if row.name != "llamacpp" or not name.lower().endswith(".gguf"):
        return None
    path = Path(name).expanduser()
    return path.absolute() if path.is_file() or "/" in name or os.sep in name else None


def find_model(row: ProviderSpec, name: str) -> Path:
    """The file in a row's folders that a name means. Raises ConfigError for none, with the nearest names, and
    for several."""
    models, asked = list_model_files(row), re.sub(r"\.gguf$", "", name, flags=re.IGNORECASE).lower()
    meant = [full for full, file in models.items() if asked in map(str.lower, file.names)]
    if len(meant) == 1:
        return models[meant[0]].path
    if meant:
        raise errors.ConfigError(
            f"{row.name}/{name} means {len(meant)} files.",
            hint=f"Name one: {' or '.join(meant[:_MAX_SHOWN])}.",
        )
    near = [full for full in models if asked in full.lower()][:_MAX_SHOWN]
    short = {file.names[0].lower(): full for full, file in models.items()}
    near = near or [short[n] for n in errors.similar_names(asked.rpartition("/")[2], short, _MAX_SHOWN)]
    raise errors.ConfigError(
        f"No model file is called {name!r}.",
        hint=f"Did you mean {' or '.join(near)}?"
        if near
        else f"`%llm models {row.name}` lists those in {_folder_names(row)}.",
    )


def _folder_names(row: ProviderSpec) -> str:
    """A row's folders, those that are there alone where some are."""
    return ", ".join([f for f in row.folders if os.path.isdir(f)] or row.folders)


def local_model_problem(row: ProviderSpec) -> str:
    """Why no model in a row's folders can be asked, "" where one can."""
    if find_spec("xllamacpp") is None:
        return "xllamacpp is not installed (pip install 'nbllm[local]')"
    return "" if list_model_files(row) else f"no .gguf file in {_folder_names(row)}"


def newest_model(row: ProviderSpec) -> tuple[str, Path | None]:
    """The newest file in a row's folders that can be talked to here, by name: it has a template for
    conversations, is no model of embeddings, and fits into memory. ("", None) for none."""
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
    """Raises ConfigError for a file that cannot be a model here."""
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
            f"{path.name} is no GGUF file, whatever its name says.",
            hint="Download it again: a page or a pointer of Git LFS may have been kept in its place.",
        )
    if (has := memory_size()) and size > has:
        raise errors.ConfigError(
            f"{path.name} has {size / 2**30:.1f} GiB, and this machine {has / 2**30:.1f} GiB of memory.",
            hint="Take a smaller model, or one with smaller numbers (Q4).",
        )


def memory_size() -> int | None:
    """Bytes of this machine's memory, None where it does not tell."""
    with suppress(AttributeError, ValueError, OSError):
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return None
