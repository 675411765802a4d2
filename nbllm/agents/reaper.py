"""What ends our commands where this process cannot: a kernel that is restarted is killed, and cleans nothing
up.

A Reaper tells a small Python of its own which commands run. That one (this file, run as a program) waits for
the end of its standard input, or for another parent, and then ends them with whatever they started: their
group, and on Linux every process that has their folder as TMPDIR, however it was detached. Their folders,
which may hold prompts, go too. No other module of ours is imported here.
"""

from __future__ import annotations

import contextlib
import os
import select
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

_GRACE = 1.0  # seconds between a request to end and a kill
_POLL = 1.0  # seconds between two looks at who our parent is: a forked child of it may hold our input open


class Reaper:
    """The commands that run here, told to a process that outlives this one."""

    def __init__(self) -> None:
        self._process: subprocess.Popen[bytes] | None = None
        self._running: dict[Path, int] = {}  # a command's folder, and its number: 0 while it is being started

    def watch(self, home: Path, pid: int = 0) -> None:
        """A command that runs in `home`, or is about to."""
        self._running[home] = pid
        if self._process is None or self._process.poll() is not None:
            self._start()
            for known, number in self._running.items():
                self._send(known, number)
        else:
            self._send(home, pid)

    def unwatch(self, home: Path) -> None:
        """A command that has ended."""
        if self._running.pop(home, None) is not None:
            self._send(home, -1)

    def close(self) -> None:
        """Ends the process that watches, where nothing runs that it could end."""
        if self._process is not None and not self._running:
            process, self._process = self._process, None
            threading.Thread(
                target=process.communicate, name="nbllm-reaper", daemon=True
            ).start()  # closes its input, and leaves no zombie

    def _start(self) -> None:
        with contextlib.suppress(OSError):
            self._process = subprocess.Popen(  # noqa: S603 - our own Python and our own file
                [sys.executable, "-I", "-S", __file__, str(os.getpid())],
                stdin=subprocess.PIPE,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                cwd=os.path.abspath(os.sep),
                start_new_session=True,
            )

    def _send(self, home: Path, pid: int) -> None:
        if self._process is not None and self._process.stdin is not None:
            with contextlib.suppress(OSError, ValueError):
                self._process.stdin.write(os.fsencode(f"{pid} {home}\n"))
                self._process.stdin.flush()


# --- the program ---


def main(parent: int) -> None:
    """Waits for the end of `parent`, then ends what runs."""
    running: dict[bytes, int] = {}
    for line in _read_lines(parent):
        pid, _, home = line.partition(b" ")
        if int(pid) < 0:
            running.pop(home, None)
        else:
            running[home] = int(pid)
    _kill_all(running)


def _read_lines(parent: int) -> Iterator[bytes]:
    """The lines of our input, up to its end; or, where our parent is another, up to the last one that is
    there. It may have been killed before we began to read."""
    rest, wait = b"", _POLL
    while True:
        if os.name == "posix" and not select.select([0], [], [], wait)[0]:
            if not wait:
                return
            wait = _POLL if os.getppid() == parent else 0.0
            continue
        if not (more := os.read(0, 2**16)):
            return
        *lines, rest = (rest + more).split(b"\n")
        yield from lines


def _kill_all(running: dict[bytes, int]) -> None:
    """A request to end, then a kill, then their folders."""
    for sign in (signal.SIGTERM, getattr(signal, "SIGKILL", signal.SIGTERM)):
        until, told = time.monotonic() + _GRACE, set[int]()
        while there := _running_pids(running):
            for pid in there - told:  # first, then the time: a look takes longer than that on a busy machine
                with contextlib.suppress(OSError):
                    os.kill(pid, sign)
            told |= there
            if time.monotonic() > until:
                break
            time.sleep(0.05)
    for home in running:
        shutil.rmtree(home, ignore_errors=True)


def _running_pids(running: dict[bytes, int]) -> set[int]:
    """The processes of the commands that are still there; a negative number is a whole group."""
    found, marks = set(), {b"TMPDIR=" + home for home in running}
    for pid in filter(None, running.values()):
        whole = -pid if hasattr(os, "killpg") else pid
        with contextlib.suppress(OSError):
            os.kill(whole, 0)
            found.add(whole)
    for entry in Path("/proc").glob("[0-9]*/environ"):
        with contextlib.suppress(OSError):
            if not marks.isdisjoint(entry.read_bytes().split(b"\0")):
                found.add(int(entry.parent.name))
    return found


if __name__ == "__main__":
    main(int(sys.argv[1]))
