"""The stores that may hold keys: the environment, `.env` files, the keyring, Colab's secrets, OpenCode's
file."""

from __future__ import annotations

import importlib
import os
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import msgspec

from .files import read_small_file

# Blanks within a line of a `.env` file: python-dotenv needs time quadratic in their number, half a minute for
# 128 kB.
_MANY_BLANKS = re.compile(r"[^\S\n]{100}")
_MAX_DOTENV = 2**18  # bytes of a `.env` file: python-dotenv reads a megabyte in four seconds
SERVICE = "nbllm"  # the service name of our entries in the keyring


class KeyStores(msgspec.Struct):
    """The stores that may hold keys; None for one that is not used. folders: where to search for a `.env`
    file. keyring: returns an object with the functions of the `keyring` package. colab: returns the value of
    a secret, "" for none. auth: the path of OpenCode's auth.json."""

    env: Mapping[str, str]
    folders: Callable[[], tuple[Path, ...]] = tuple
    keyring: Callable[[], Any] = lambda: None
    colab: Callable[[str], str] | None = None
    auth: Path | None = None
    # results of slow stores, by (service or store, name)
    cache: dict[tuple[str, str], str] = msgspec.field(default_factory=dict)
    # the variables of `.env` files, with the files' state when they were read
    dotenv_cache: dict[Path, tuple[object, dict[str, str]]] = msgspec.field(default_factory=dict)

    def __repr__(self) -> str:
        return "KeyStores()"  # tracebacks show local variables, and it holds keys

    @classmethod
    def of(cls, env: Mapping[str, str]) -> KeyStores:
        """This machine's stores where `env` is the process's own environment; else only what `env` names."""
        data = env.get("XDG_DATA_HOME") or (
            str(Path.home() / ".local" / "share") if env is os.environ else ""
        )
        auth = Path(data, "opencode", "auth.json") if data else None
        return cls(env, _folders, _keyring, _colab(), auth) if env is os.environ else cls(env, auth=auth)

    def dotenv(self, path: Path) -> dict[str, str]:
        """The variables in a `.env` file, read again when it has changed."""
        try:
            now = path.stat()
        except OSError:
            return {}
        state = (now.st_mtime_ns, now.st_size, now.st_ino)
        if self.dotenv_cache.get(path, (None,))[0] != state:
            self.dotenv_cache[path] = (state, read_dotenv(path))
        return self.dotenv_cache[path][1]

    def cached_lookup(self, store: str, name: str, look_up: Callable[[], str | None]) -> str:
        """The result of `look_up` in a slow store, "" for none. It is called once: such stores are other
        processes, and some prompt the user."""
        if (store, name) not in self.cache:
            try:
                self.cache[store, name] = look_up() or ""
            # stores raise errors of their own; one that is locked, broken or absent holds no key
            except Exception:  # noqa: BLE001
                self.cache[store, name] = ""
        return self.cache[store, name]

    def load(self, service: str, name: str) -> str:
        """The entry of the keyring, or of `cache` where there is no keyring; "" for none."""
        if (text := self.cache.get((service, name))) is not None or (ring := self.keyring()) is None:
            return text or ""
        return self.cached_lookup(service, name, lambda: ring.get_password(service, name))

    def save(self, service: str, name: str, text: str) -> bool:
        """Stores an entry for this session and, where possible, in the keyring; False where it is not."""
        self.cache[service, name] = text
        ring = self.keyring()
        try:
            if ring is not None:
                ring.set_password(service, name, text)
        except Exception:  # noqa: BLE001 - each backend has errors of its own
            return False
        return ring is not None

    def delete(self, service: str, name: str) -> bool:
        """Deletes an entry; False where the keyring had none or did not delete it."""
        self.cache.pop((service, name), None)
        ring = self.keyring()
        try:
            if ring is None or ring.get_password(service, name) is None:
                return False
            ring.delete_password(service, name)
        except Exception:  # noqa: BLE001 - each backend has errors of its own; a locked one still has the key
            return False
        return True


def _folders() -> tuple[Path, ...]:
    """The notebook's folder, where Jupyter names it, and the working directory."""
    notebook = os.environ.get("JPY_SESSION_NAME", "")
    try:
        here = Path.cwd()
    except FileNotFoundError:
        return ()
    notebook_folder = (here / notebook).parent if notebook else here
    is_other = notebook_folder != here and notebook_folder.is_dir()
    return (notebook_folder, here) if is_other else (here,)


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
    """The variables in a `.env` file, as python-dotenv reads it; {} for no file, and for one that is not
    written by hand."""
    try:
        text = read_small_file(path, _MAX_DOTENV, "replace")  # a comment may be in another encoding
    except OSError:
        return {}
    if _MANY_BLANKS.search(text):
        return {}
    from io import StringIO

    from dotenv import dotenv_values

    return {k: v for k, v in dotenv_values(stream=StringIO(text), interpolate=False).items() if v is not None}
