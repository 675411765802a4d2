"""The places that may hold keys: the environment, `.env` files, the keyring, Colab's secrets, OpenCode's
file."""

from __future__ import annotations

import importlib
import os
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import msgspec

from .files import read_small

_BLANKS = re.compile(
    r"[^\S\n]{100}"
)  # within a line: python-dotenv takes the square of their number, half a minute for 128 kB
_DOTENV = 2**18  # bytes of a `.env` file: python-dotenv reads a megabyte in four seconds
SERVICE = "nbllm"  # under which the keyring keeps our entries


class KeyStores(msgspec.Struct):
    """The places that may hold keys; None for one that is not looked at. folders: where a `.env` may lie.
    keyring: an object with the functions of the `keyring` package. colab: the value of a secret's name, ""
    for none. auth: OpenCode's auth.json."""

    env: Mapping[str, str]
    folders: Callable[[], tuple[Path, ...]] = tuple
    keyring: Callable[[], Any] = lambda: None
    colab: Callable[[str], str] | None = None
    auth: Path | None = None
    # what slow places said
    seen: dict[tuple[str, str], str] = msgspec.field(default_factory=dict)
    # `.env` files, as they were when they were read
    read: dict[Path, tuple[object, dict[str, str]]] = msgspec.field(default_factory=dict)

    def __repr__(self) -> str:
        return "KeyStores()"  # tracebacks show local variables, and it holds keys

    @classmethod
    def of(cls, env: Mapping[str, str]) -> KeyStores:
        """This machine's places where `env` is the process's own environment; else only what `env` names."""
        data = env.get("XDG_DATA_HOME") or (
            str(Path.home() / ".local" / "share") if env is os.environ else ""
        )
        auth = Path(data, "opencode", "auth.json") if data else None
        return cls(env, _folders, _keyring, _colab(), auth) if env is os.environ else cls(env, auth=auth)

    def dotenv(self, path: Path) -> dict[str, str]:
        """The variables in a `.env` file, read again where it has changed."""
        try:
            now = path.stat()
        except OSError:
            return {}
        mark = (now.st_mtime_ns, now.st_size, now.st_ino)
        if self.read.get(path, (None,))[0] != mark:
            self.read[path] = (mark, read_dotenv(path))
        return self.read[path][1]

    def cached_lookup(self, place: str, name: str, look: Callable[[], str | None]) -> str:
        """What `look` says, asked once: such places are other processes, and some ask the user."""
        if (place, name) not in self.seen:
            try:
                self.seen[place, name] = look() or ""
            # a locked, broken or absent store of any make is a store without the key
            except Exception:  # noqa: BLE001
                self.seen[place, name] = ""
        return self.seen[place, name]

    def forget(self, service: str, name: str) -> bool:
        """Takes a key out of the keyring; False where there was none."""
        ring = self.keyring()
        try:
            if ring is None or ring.get_password(service, name) is None:
                return False
            ring.delete_password(service, name)
        except Exception:  # noqa: BLE001 - each backend has errors of its own; a locked one still holds its key
            return False
        return True


def _folders() -> tuple[Path, ...]:
    """The working directory, and the notebook's where Jupyter says which it is."""
    notebook = os.environ.get("JPY_SESSION_NAME", "")
    try:
        here = Path.cwd()
    except FileNotFoundError:
        return ()
    beside = (here / notebook).parent if notebook else here
    return (beside, here) if beside != here and beside.is_dir() else (here,)


def _keyring() -> Any:
    try:
        return importlib.import_module("keyring")
    except ImportError:
        return None


def _colab() -> Callable[[str], str] | None:
    try:
        secrets = importlib.import_module("google.colab.userdata")
    except ImportError:
        return None
    return lambda name: str(secrets.get(name))


def read_dotenv(path: Path) -> dict[str, str]:
    """The variables in a `.env` file, {} where there is none, or none that a person wrote: as python-dotenv
    reads it."""
    try:
        text = read_small(path, _DOTENV, "replace")  # a comment in another encoding costs no key
    except OSError:
        return {}
    if _BLANKS.search(text):
        return {}
    from io import StringIO

    from dotenv import dotenv_values

    return {k: v for k, v in dotenv_values(stream=StringIO(text), interpolate=False).items() if v is not None}
