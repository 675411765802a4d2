"""Reads small regular files, and replaces files atomically, one writer at a time."""

from __future__ import annotations

import contextlib
import hashlib
import os
import stat
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

MAX_SMALL = 2**20  # bytes of a configuration file; nobody writes more by hand
_UTF16 = (b"\xff\xfe", b"\xfe\xff")
_LOCK_TIMEOUT = 10.0  # seconds to wait for another writer, which may be a stopped process
_POLL = 0.005  # seconds
_thread_lock = threading.Lock()


def read_small_file(path: Path, limit: int = MAX_SMALL, errors: str = "strict") -> str:
    """The text of a regular file of at most `limit` bytes, without a byte-order mark: in UTF-8, or in UTF-16
    with its mark, which the Windows shell writes.

    A file that comes with a project may be anything: a link to a device, a pipe without a writer, gigabytes.
    Raises OSError with the reason, UnicodeDecodeError.
    """
    if not stat.S_ISREG(path.stat().st_mode):  # checked first: opening some devices has effects
        raise OSError(f"{path.name} is not a regular file")
    fd = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0))
    with os.fdopen(fd, "rb") as file:
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            raise OSError(f"{path.name} is not a regular file")
        data = file.read(limit + 1)
    if len(data) > limit:
        raise OSError(f"{path.name} is larger than {limit} bytes")
    return data.decode("utf-16" if data.startswith(_UTF16) else "utf-8-sig", errors)


def write_atomic(path: Path, text: str) -> None:
    """Replaces a file atomically, so that a crash leaves the old one. Only the user can read a new file; an
    existing one keeps its permissions. Raises OSError."""
    path.parent.mkdir(parents=True, exist_ok=True)
    import tempfile

    fd, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    try:
        with os.fdopen(fd, "w", encoding="utf-8") as file:
            file.write(text)
        with contextlib.suppress(FileNotFoundError):
            os.chmod(name, stat.S_IMODE(path.stat().st_mode))
        os.replace(name, path)
    except BaseException:
        os.unlink(name)
        raise


@contextlib.contextmanager
def file_lock(path: Path) -> Iterator[None]:
    """Holds the lock of `path`, for one that reads and then writes it, among all threads and processes; among
    this process's threads only where the file system has no locks. Raises OSError where another does not
    release it within _LOCK_TIMEOUT seconds."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if not _thread_lock.acquire(timeout=_LOCK_TIMEOUT):
        raise OSError("another thread is writing")
    try:
        with _process_lock(path):
            yield
    finally:
        _thread_lock.release()


def _acquire(try_lock: Callable[[], object]) -> None:
    """Acquires a lock when it is free. Raises TimeoutError after _LOCK_TIMEOUT seconds."""
    until = time.monotonic() + _LOCK_TIMEOUT
    while True:
        try:
            try_lock()
        except (BlockingIOError, PermissionError):
            if time.monotonic() > until:
                raise TimeoutError("another program is writing") from None
            time.sleep(_POLL)
        except OSError:
            return  # a file system without locks
        else:
            return


if sys.platform == "win32":
    import msvcrt

    @contextlib.contextmanager
    def _process_lock(path: Path) -> Iterator[None]:
        import tempfile

        name = hashlib.sha256(str(path).lower().encode()).hexdigest()[:16]
        with open(Path(tempfile.gettempdir(), f"nbllm-{name}.lock"), "a+b") as file:
            file.seek(0)
            _acquire(lambda: msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1))
            try:
                yield
            finally:
                file.seek(0)
                msvcrt.locking(file.fileno(), msvcrt.LK_UNLCK, 1)
else:
    import fcntl

    @contextlib.contextmanager
    def _process_lock(path: Path) -> Iterator[None]:
        fd = os.open(path.parent, os.O_RDONLY)  # the folder, since a lock file would remain
        try:
            _acquire(lambda: fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB))
            yield
        finally:
            os.close(fd)
