"""Files as nbllm reads and writes them: only regular and small ones are read, and they are written whole, one
writer at a time."""

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

SMALL = 2**20  # bytes of a file that configures something; nobody writes more by hand
_UTF16 = (b"\xff\xfe", b"\xfe\xff")
_PATIENCE = 10.0  # seconds for another writer to finish; a stopped process must not hold us up for ever
_POLL = 0.005
_threads = threading.Lock()


def read_small(path: Path, limit: int = SMALL, errors: str = "strict") -> str:
    """The text of a regular file of at most `limit` bytes, without a byte-order mark: in UTF-8, or in UTF-16
    with its mark, which Windows' own shell writes.

    A file that comes with a project may be anything: a link to a device, a pipe that nobody writes to,
    gigabytes. Raises OSError with the reason, UnicodeDecodeError.
    """
    if not stat.S_ISREG(path.stat().st_mode):  # before it is opened: opening some devices does something
        raise OSError(f"{path.name} is no regular file")
    fd = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0))
    with os.fdopen(fd, "rb") as file:
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            raise OSError(f"{path.name} is no regular file")
        data = file.read(limit + 1)
    if len(data) > limit:
        raise OSError(f"{path.name} is larger than {limit} bytes")
    return data.decode("utf-16" if data.startswith(_UTF16) else "utf-8-sig", errors)


def write_whole(path: Path, text: str) -> None:
    """Writes the whole file or nothing, so that a crash leaves the old one. A new file is the user's alone;
    an old one keeps its permissions. Raises OSError."""
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
def locked(path: Path) -> Iterator[None]:
    """Holds `path` for one reader that writes it next, among all threads and processes; where the file system
    knows no locks, among this process's threads. Raises OSError where another one does not let go in time."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if not _threads.acquire(timeout=_PATIENCE):
        raise OSError("another thread is writing")
    try:
        with _held(path):
            yield
    finally:
        _threads.release()


def _wait(take: Callable[[], object]) -> None:
    """Takes a lock when it is free. Raises TimeoutError where it is not within _PATIENCE seconds."""
    until = time.monotonic() + _PATIENCE
    while True:
        try:
            take()
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
    def _held(path: Path) -> Iterator[None]:
        import tempfile

        name = hashlib.sha256(str(path).lower().encode()).hexdigest()[:16]
        with open(Path(tempfile.gettempdir(), f"nbllm-{name}.lock"), "a+b") as file:
            file.seek(0)
            _wait(lambda: msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1))
            try:
                yield
            finally:
                file.seek(0)
                msvcrt.locking(file.fileno(), msvcrt.LK_UNLCK, 1)
else:
    import fcntl

    @contextlib.contextmanager
    def _held(path: Path) -> Iterator[None]:
        fd = os.open(path.parent, os.O_RDONLY)  # the folder: a lock file would stay behind
        try:
            _wait(lambda: fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB))
            yield
        finally:
            os.close(fd)
