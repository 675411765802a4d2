"""Files of SQLite that are the user's alone and survive a kill; the rules of them that hold on every machine.

- One connection writes a file. SQLite before 3.51.3 can damage a WAL file when a checkpoint of one
  connection meets a commit of another; and writers of one file wait for each other.
- `pragma journal_mode=wal` does not fail where there is no shared memory: its answer says what is in force.
- On a network's file system neither shared memory nor locks hold between machines.
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

# Types of mounts on which files are another machine's; those of FUSE may be, and their locks seldom hold.
_NETWORK = {
    *("nfs", "nfs4", "cifs", "smb", "smb3", "smbfs", "9p", "afs", "beegfs", "ceph", "coda", "glusterfs"),
    *("gpfs", "lustre", "ncpfs", "orangefs", "vboxsf"),
}
_BUSY = 5.0  # seconds to wait for another connection's moment with the file


def private(path: str | os.PathLike[str], flags: int) -> int:
    """Opens a file that is the user's alone from the moment it is there, and is no link to another; an opener
    for `open`."""
    return os.open(
        path, flags | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_CLOEXEC", 0), 0o600
    )


def own_folder(path: Path) -> Path:
    """The folder, made where it is not there, for its user's eyes only. Raises OSError where it cannot be
    made, is a link, or is another user's."""
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    path.mkdir(mode=0o700, exist_ok=True)
    found = path.lstat()
    if not stat.S_ISDIR(found.st_mode) or (hasattr(os, "getuid") and found.st_uid != os.getuid()):
        raise PermissionError(f"{path} is another user's, or a link")
    if sys.platform != "win32" and found.st_mode & 0o077:
        path.chmod(0o700)
    return path


def home() -> Path:
    """The folder of what nbllm keeps: NBLLM_HOME; else the state folder (~/.local/state/nbllm on Linux,
    XDG_STATE_HOME); else, where that lies on a network, one in this machine's folder for temporary files."""
    if chosen := os.environ.get("NBLLM_HOME"):
        return Path(chosen).expanduser()
    from platformdirs import user_state_path

    path = user_state_path("nbllm", appauthor=False)
    if not on_network(path):
        return path
    import tempfile

    return own_folder(Path(tempfile.gettempdir()) / f"nbllm-{os.getuid() if hasattr(os, 'getuid') else 'me'}")


def on_network(path: Path, mounts: str | None = None) -> bool:
    """Whether a file at `path` would lie on a network's file system, or on one of FUSE. `mounts`: the text of
    /proc/self/mountinfo, this machine's where it is None; without one, nothing does."""
    if mounts is None:
        try:
            mounts = Path("/proc/self/mountinfo").read_text("utf-8", "surrogateescape")
        except OSError:
            return False
    where, kind = Path("/"), ""
    place = Path(os.path.realpath(path))
    for line in mounts.splitlines():
        mount, _, about = line.partition(" - ")
        words = mount.split(" ")
        point = Path(_plain(words[4])) if len(words) > 4 else None
        if point is not None and place.is_relative_to(point) and len(point.parts) >= len(where.parts):
            where, kind = point, about.split(" ")[0]
    return kind in _NETWORK or kind.startswith("fuse.")


def _plain(point: str) -> str:
    """A path as it is, of which the kernel writes white space and backslashes in octal."""
    return re.sub(r"\\([0-7]{3})", lambda octal: chr(int(octal[1], 8)), point)


def hold_lock(path: Path) -> int:
    """Locks a file that only this process should lock. Raises OSError where another process has it for longer
    than the moment in which it cleans up."""
    for _ in range(10):
        if (fd := take(path)) is not None:
            return fd
    raise OSError("another process has this kernel's lock")


def take(path: Path) -> int | None:
    """Locks a file until what is given is closed with `os.close`, or until this process's end, however that
    comes; None where another has it. Raises OSError where the file system knows no locks."""
    fd, taken = private(path, os.O_RDWR), False
    try:
        _lock(fd)
        taken = os.path.samestat(os.fstat(fd), os.stat(path))
    except (BlockingIOError, PermissionError, FileNotFoundError):
        pass  # another has it, or it went away with its kernel's file
    finally:
        if not taken:
            os.close(fd)
    return fd if taken else None


def _lock(fd: int) -> None:
    if sys.platform == "win32":
        import msvcrt

        msvcrt.locking(fd, msvcrt.LK_NBLCK, 1)
    else:
        import fcntl

        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)


class Database:
    """A file that this process alone writes. tables: the statements that make it; version: of their meaning;
    durable: whether a commit survives a power cut too, which takes milliseconds. Used by one thread at a
    time. Raises OSError, sqlite3.Error, and ConfigError for a file that a newer nbllm has made."""

    def __init__(self, path: Path, tables: Iterable[str], version: int = 1, *, durable: bool = False) -> None:
        import sqlite3

        self.path = path
        if path.is_symlink() or not path.exists():  # closed again, it would undo a reader's locks here
            os.close(private(path, os.O_RDWR))  # what SQLite puts beside it is as private as it is
        self._db = sqlite3.connect(path, timeout=_BUSY, isolation_level=None, check_same_thread=False)
        try:
            self._db.execute("pragma trusted_schema=off")
            found = _checked(self._db, path, version)
            wal = not on_network(path) and self._mode("wal") == "wal"
            if not wal:
                self._db.execute("pragma locking_mode=exclusive")
                self._mode("truncate")
            self._db.execute(f"pragma synchronous={'normal' if wal and not durable else 'full'}")
            if found < version:
                self.write(*((words, None) for words in (*tables, f"pragma user_version={version}")))
            for words in tables if found == version else ():  # which writes where one is missing
                self._db.execute(words)
        except BaseException:
            self._db.close()
            raise

    def _mode(self, wanted: str) -> str:
        return str(self._db.execute(f"pragma journal_mode={wanted}").fetchone()[0])

    def write(self, *work: tuple[str, Iterable[tuple[Any, ...]] | None]) -> None:
        """Statements, each with the rows that it is done for, in one transaction."""
        self._db.execute("begin immediate")
        try:
            for words, rows in work:
                if rows is None:
                    self._db.execute(words)
                else:
                    self._db.executemany(words, rows)
            self._db.execute("commit")
        except BaseException:
            if self._db.in_transaction:  # SQLite rolls back by itself where the disk is full
                self._db.execute("rollback")
            raise

    def read(self, words: str, *values: Any) -> list[tuple[Any, ...]]:
        """What a question gives."""
        return self._db.execute(words, values).fetchall()

    def close(self) -> None:
        """Closes the file."""
        self._db.close()

    def leave(self) -> None:
        """Lets it be, in a child that was forked: it is the parent's, and closing would touch the file."""
        import ctypes

        ctypes.pythonapi.Py_IncRef(ctypes.py_object(self._db))


@contextmanager
def reading(path: Path, version: int = 1) -> Iterator[sqlite3.Connection]:
    """A connection that only reads, beside the one that writes. Raises sqlite3.Error, and ConfigError for a
    file that a newer nbllm has made."""
    import sqlite3

    db = _reader(path, "ro")
    try:
        try:
            _checked(db, path, version)
        except sqlite3.OperationalError as error:
            if error.sqlite_errorcode != sqlite3.SQLITE_READONLY_ROLLBACK:
                raise
            db.close()  # its writer was killed before the file had a WAL: only who may write can undo that
            db = _reader(path, "rw")
            _checked(db, path, version)
        yield db
    finally:
        db.close()


def _reader(path: Path, mode: str) -> sqlite3.Connection:
    import sqlite3

    db = sqlite3.connect(f"file:{quote(str(path))}?mode={mode}", uri=True, timeout=_BUSY)
    db.execute("pragma trusted_schema=off")
    return db


@contextmanager
def shared(
    path: Path, tables: Iterable[str], version: int, *, synchronous: str = "off", wait: float = _BUSY
) -> Iterator[sqlite3.Connection]:
    """A connection to a file that several processes write, each piece of work on one of its own: it keeps a
    rollback journal, and nothing is held over a fork. Made where it is not there. synchronous: "off" loses
    nothing by a kill, "full" nothing by a power cut. Raises OSError and sqlite3.Error, for a file that a
    newer nbllm has made too."""
    import sqlite3

    if not path.exists():
        own_folder(path.parent)
        os.close(private(path, os.O_RDWR))
    if path.is_symlink() or on_network(path):
        raise PermissionError("it is a link, or lies on a network, where locks do not hold")
    db = sqlite3.connect(path, timeout=wait, isolation_level=None)
    try:
        db.execute("pragma trusted_schema=off")
        db.execute(f"pragma synchronous={synchronous}")
        found = _checked(db, path, version)
        db.execute("pragma journal_mode=truncate")
        if found < version:
            db.execute("begin immediate")
            for words in (*tables, f"pragma user_version={version}", "commit"):
                db.execute(words)
        yield db
    finally:
        db.close()


@contextmanager
def refused(what: str, hint: str) -> Iterator[None]:
    """Says what the disk, or a file on it, did not let be done within, and what to do. Raises ConfigError."""
    import sqlite3

    try:
        yield
    except (OSError, sqlite3.Error) as error:
        why = getattr(error, "strerror", None) or error
        raise ConfigError(f"{what}: {why}.", hint=hint) from None


def _checked(db: sqlite3.Connection, path: Path, version: int) -> int:
    """The version of a file. Raises ConfigError for a newer one."""
    found: int
    (found,) = db.execute("pragma user_version").fetchone()
    if found > version:
        raise ConfigError(
            f"{path.name} was made by a newer nbllm (its format is {found}, this one knows {version}).",
            hint=f"Update nbllm, or move {path} away.",
        )
    return found
