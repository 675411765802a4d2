"""Finds the configuration files. Fast to import: loading the notebook's extension checks here first, and
reads further only where a file may configure nbllm."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from .files import read_small_file

_TOOL = re.compile(r"""tool["']?\s*\.\s*["']?nbllm|(?:^|[{,])\s*["']?nbllm["']?\s*[.=]""", re.MULTILINE)


class Places(NamedTuple):
    """The paths of configuration, None for none. start: the folder from which a pyproject.toml is searched
    upward; plugins: whether installed packages are searched too."""

    user: Path | None = None
    start: Path | None = None
    extra: Path | None = None
    plugins: bool = False

    @classmethod
    def of(cls, env: Mapping[str, str]) -> Places:
        """This machine's where `env` is the process's own environment; else only the file that NBLLM_CONFIG
        names in `env`."""
        extra = Path(env["NBLLM_CONFIG"]).expanduser() if env.get("NBLLM_CONFIG") else None
        return (
            cls(user_file(), _working_folder(), extra, plugins=True)
            if env is os.environ
            else cls(extra=extra)
        )


def user_file() -> Path:
    """The path of the user's own file, by the platform's conventions: ~/.config/nbllm/providers.toml on
    Linux."""
    base = os.environ.get("XDG_CONFIG_HOME") or os.path.expanduser("~/.config")
    if sys.platform == "linux" and os.path.isabs(base):
        return Path(base, "nbllm", "providers.toml")  # as platformdirs, which takes 4 ms to import
    import platformdirs

    return platformdirs.user_config_path("nbllm", appauthor=False) / "providers.toml"


def _working_folder() -> Path | None:
    try:
        return Path.cwd()
    except FileNotFoundError:  # the folder was deleted
        return None


def nearest_pyproject(start: Path) -> Path | None:
    """The first pyproject.toml from `start` upward, not above a repository's root or the user's home."""
    for folder in (start, *start.parents):
        if (folder / "pyproject.toml").is_file():
            return folder / "pyproject.toml"
        if folder == Path.home() or any((folder / mark).exists() for mark in (".git", ".hg", ".jj", ".svn")):
            return None
    return None


def mentions_nbllm(text: str) -> bool:
    """Whether a pyproject.toml may hold a table for nbllm, and not only its name."""
    return _TOOL.search(text) is not None


def may_be_configured(places: Places) -> bool:
    """Whether a file of the user's or of the project may configure nbllm, or cannot be read."""
    if places.extra is not None or (places.user is not None and places.user.exists()):
        return True
    project = nearest_pyproject(places.start) if places.start else None
    try:
        return project is not None and mentions_nbllm(read_small_file(project))
    except (OSError, ValueError):
        return True
