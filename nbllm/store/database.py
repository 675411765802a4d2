"""SQLite files that only the user can read and that survive a kill. Rules that hold on every machine:

- One connection writes a file. SQLite before 3.51.3 can damage a WAL file when a checkpoint of one
  connection meets a commit of another; and writers of one file wait for each other.
- `pragma journal_mode=wal` does not fail where there is no shared memory: its result is the mode in force.
- On a network file system neither shared memory nor locks work between machines.
- A transaction that reads first and writes later fails at once beside another writer, whatever the timeout
  is: all of ours are `begin immediate`.
"""

from __future__ import annotations

import os
import re
import stat
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from ..core.errors import ConfigError

if TYPE_CHECKING:
    import sqlite3

# File system types of network mounts. FUSE mounts may be remote too, and their locks seldom work.
_NETWORK = {
    *("nfs", "nfs4", "cifs", "smb", "smb3", "smbfs", "9p", "afs", "beegfs", "ceph", "coda", "glusterfs"),
    *("gpfs", "lustre", "ncpfs", "orangefs", "vboxsf"),
}
_BUSY_TIMEOUT = 5.0  # seconds to wait for another connection


def open_private(path: str | os.PathLike[str], flags: int) -> int:
    """Opens or creates a file that only the user can read, and that is not a link; an opener for `open`."""
    return os.open(
        path, flags | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_CLOEXEC", 0), 0o600
    )


def private_folder(path: Path) -> Path:
    """The folder, created if needed, which only the user can read. Raises OSError where it cannot be created,
    is a link, or belongs to another user."""
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    path.mkdir(mode=0o700, exist_ok=True)
    found = path.lstat()
    if not stat.S_ISDIR(found.st_mode) or (hasattr(os, "getuid") and found.st_uid != os.getuid()):
        raise PermissionError(f"{path} belongs to another user, or is a link")
    if sys.platform != "win32" and found.st_mode & 0o077:
        path.chmod(0o700)
    return path


def state_folder() -> Path:
    """The folder of nbllm's files: NBLLM_HOME; else the platform's state folder (~/.local/state/nbllm on
    Linux, XDG_STATE_HOME); else, where that is on a network, one in this machine's temporary folder."""
    if chosen := os.environ.get("NBLLM_HOME"):
        return Path(chosen).expanduser()
    from platformdirs import user_state_path

    path = user_state_path("nbllm", appauthor=False)
    if not on_network(path):
        return path
    import tempfile

    return private_folder(
        Path(tempfile.gettempdir()) / f"nbllm-{os.getuid() if hasattr(os, 'getuid') else 'me'}"
    )


def on_network(path: Path, mounts: str | None = None) -> bool:
    """Whether a file at `path` would be on a network file system or a FUSE one. `mounts`: the text of
    /proc/self/mountinfo, by default this machine's; False where there is none."""
    if mounts is None:
        try:
            mounts = Path("/proc/self/mountinfo").read_text("utf-8", "surrogateescape")
        except OSError:
            return False
    nearest, kind = Path("/"), ""
    path = Path(os.path.realpath(path))
    for line in mounts.splitlines():
        mount, _, file_system = line.partition(" - ")
        fields = mount.split(" ")
        point = Path(_unescape(fields[4])) if len(fields) > 4 else None
        if point is not None and path.is_relative_to(point) and len(point.parts) >= len(nearest.parts):
            nearest, kind = point, file_system.split(" ")[0]
    return kind in _NETWORK or kind.startswith("fuse.")


def _unescape(path: str) -> str:
    """A path from mountinfo, in which the kernel writes white space and backslashes as octal escapes."""
    return re.sub(r"\\([0-7]{3})", lambda octal: chr(int(octal[1], 8)), path)


def hold_lock(path: Path) -> int:
    """Locks a file that only this process should lock. Raises OSError where another process has it for longer
    than the moment in which it cleans up."""
    for _ in range(10):
        if (fd := try_lock(path)) is not None:
            return fd
    raise OSError("another process has this kernel's lock")


def try_lock(path: Path) -> int | None:
    """Locks a file and returns its descriptor; None where another process has the lock. The lock ends when
    the descriptor is closed with `os.close`, and with this process, however that ends. Raises OSError where
    the file system has no locks."""
    fd, is_locked = open_private(path, os.O_RDWR), False
    try:
        _lock(fd)
        is_locked = os.path.samestat(os.fstat(fd), os.stat(path))
    except (BlockingIOError, PermissionError, FileNotFoundError):
        pass  # another process has it, or deleted it
    finally:
        if not is_locked:
            os.close(fd)
    return fd if is_locked else None


def _lock(fd: int) -> None:
    if sys.platform == "win32":
        import msvcrt

        msvcrt.locking(fd, msvcrt.LK_NBLCK, 1)
    else:
        import fcntl

        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)


class Database:
    """A file that only this process writes. tables: the statements that create it; version: of its format;
    durable: whether a commit also survives a power cut, which takes milliseconds. Used by one thread at a
    time. Raises OSError, sqlite3.Error, and ConfigError for a file of a newer nbllm."""

    def __init__(self, path: Path, tables: Iterable[str], version: int = 1, *, durable: bool = False) -> None:
        import sqlite3

        self.path = path
        if (
            path.is_symlink() or not path.exists()
        ):  # else closing it would release the locks of readers in this process
            os.close(open_private(path, os.O_RDWR))  # SQLite gives the files beside it the same permissions
        self._db = sqlite3.connect(path, timeout=_BUSY_TIMEOUT, isolation_level=None, check_same_thread=False)
        try:
            self._db.execute("pragma trusted_schema=off")
            found = _check_version(self._db, path, version)
            wal = not on_network(path) and self._set_journal_mode("wal") == "wal"
            if not wal:
                self._db.execute("pragma locking_mode=exclusive")
                self._set_journal_mode("truncate")
            self._db.execute(f"pragma synchronous={'normal' if wal and not durable else 'full'}")
            if found < version:
                self.write(*((sql, None) for sql in (*tables, f"pragma user_version={version}")))
            for sql in tables if found == version else ():  # creates tables that are missing
                self._db.execute(sql)
        except BaseException:
            self._db.close()
            raise

    def _set_journal_mode(self, mode: str) -> str:
        """Requests a journal mode, and returns the one in force."""
        return str(self._db.execute(f"pragma journal_mode={mode}").fetchone()[0])

    def write(self, *statements: tuple[str, Iterable[tuple[Any, ...]] | None]) -> None:
        """Executes statements, each once for each of its rows (None: once), in one transaction."""
        self._db.execute("begin immediate")
        try:
            for sql, rows in statements:
                if rows is None:
                    self._db.execute(sql)
                else:
                    self._db.executemany(sql, rows)
            self._db.execute("commit")
        except BaseException:
            if self._db.in_transaction:  # SQLite has rolled back already where the disk is full
                self._db.execute("rollback")
            raise

    def read(self, sql: str, *values: Any) -> list[tuple[Any, ...]]:
        """The rows of a query."""
        return self._db.execute(sql, values).fetchall()

    def close(self) -> None:
        """Closes the file."""
        self._db.close()

    def abandon(self) -> None:
        """Leaves the connection open in a forked child: closing it would change the parent's file."""
        import ctypes

        ctypes.pythonapi.Py_IncRef(ctypes.py_object(self._db))


@contextmanager
def open_readonly(path: Path, version: int = 1) -> Iterator[sqlite3.Connection]:
    """A connection that only reads, beside the one that writes. Raises sqlite3.Error, and ConfigError for a
    file of a newer nbllm."""
    import sqlite3

    db = _connect_readonly(path, "ro")
    try:
        try:
            _check_version(db, path, version)
        except sqlite3.OperationalError as error:
            if error.sqlite_errorcode != sqlite3.SQLITE_READONLY_ROLLBACK:
                raise
            db.close()  # the writer was killed before the file had a WAL: only a writer can roll back
            db = _connect_readonly(path, "rw")
            _check_version(db, path, version)
        yield db
    finally:
        db.close()


def _connect_readonly(path: Path, mode: str) -> sqlite3.Connection:
    import sqlite3

    db = sqlite3.connect(f"file:{quote(str(path))}?mode={mode}", uri=True, timeout=_BUSY_TIMEOUT)
    db.execute("pragma trusted_schema=off")
    return db


@contextmanager
def open_shared(
    path: Path, tables: Iterable[str], version: int, *, synchronous: str = "off", wait: float = _BUSY_TIMEOUT
) -> Iterator[sqlite3.Connection]:
    """A connection to a file that several processes write, with a new connection for each operation: it has a
    rollback journal, and nothing stays open over a fork. The file is created if needed. synchronous: "off"
    loses nothing in a kill, "full" nothing in a power cut. Raises OSError, sqlite3.Error, and ConfigError for
    a file of a newer nbllm."""
    import sqlite3

    if not path.exists():
        private_folder(path.parent)
        os.close(open_private(path, os.O_RDWR))
    if path.is_symlink() or on_network(path):
        raise PermissionError("it is a link, or on a network file system, where locks do not work")
    db = sqlite3.connect(path, timeout=wait, isolation_level=None)
    try:
        db.execute("pragma trusted_schema=off")
        db.execute(f"pragma synchronous={synchronous}")
        found = _check_version(db, path, version)
        db.execute("pragma journal_mode=truncate")
        if found < version:
            db.execute("begin immediate")
            for sql in (*tables, f"pragma user_version={version}", "commit"):
                db.execute(sql)
        yield db
    finally:
        db.close()


@contextmanager
def translate_errors(what: str, hint: str) -> Iterator[None]:
    """Translates errors of the disk and of SQLite within its block. Raises ConfigError: `what` and the
    reason, with `hint`."""
    import sqlite3

    try:
        yield
    except (OSError, sqlite3.Error) as error:
        why = getattr(error, "strerror", None) or error
        raise ConfigError(f"{what}: {why}.", hint=hint) from None


def _check_version(db: sqlite3.Connection, path: Path, version: int) -> int:
    """The version of a file. Raises ConfigError for a newer one."""
    found: int
    (found,) = db.execute("pragma user_version").fetchone()
    if found > version:
        raise ConfigError(
            f"{path.name} was written by a newer nbllm (format {found}, this one reads {version}).",
            hint=f"Update nbllm, or move {path} away.",
        )
    return found
