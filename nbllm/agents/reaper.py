"""Ends our commands when this process is killed: a kernel that is restarted cannot clean up.

A Reaper tells a small Python process which commands run. That process (this file, run as a program) waits for
the end of its standard input, or for a change of its parent, and then ends the commands and whatever they
started: their process group, and on Linux every process with their folder as TMPDIR, even a detached one. It
also deletes their folders, which may contain prompts. It imports no other module of this package.
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
_POLL = 1.0  # seconds between checks of our parent: a forked child of it may hold our input open


class Reaper:
    """The commands that run, reported to a process that outlives this one."""

    def __init__(self) -> None:
        self._process: subprocess.Popen[bytes] | None = None
        self._running: dict[Path, int] = {}  # process id by folder: 0 while a command is being started

    def watch(self, home: Path, pid: int = 0) -> None:
        """Registers a command that runs in folder `home`, or is about to be started there (pid 0)."""
        self._running[home] = pid
        if self._process is None or self._process.poll() is not None:
            self._start()
            for known, number in self._running.items():
                self._send(known, number)
        else:
            self._send(home, pid)

    def unwatch(self, home: Path) -> None:
        """Removes the command in folder `home`, which has ended."""
        if self._running.pop(home, None) is not None:
            self._send(home, -1)

    def close(self) -> None:
        """Ends the watching process, unless a command still runs."""
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
    """Waits for the end of the process `parent`, then ends all registered commands."""
    running: dict[bytes, int] = {}
    for line in _read_lines(parent):
        pid, _, home = line.partition(b" ")
        if int(pid) < 0:
            running.pop(home, None)
        else:
            running[home] = int(pid)
    _kill_all(running)


def _read_lines(parent: int) -> Iterator[bytes]:
    """The lines of our input, up to its end; if our parent has changed, up to the last line that is there,
    because the parent may have been killed before we began to read."""
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
    """Sends SIGTERM, then SIGKILL, then deletes the folders."""
    for signal_number in (signal.SIGTERM, getattr(signal, "SIGKILL", signal.SIGTERM)):
        until, signalled = time.monotonic() + _GRACE, set[int]()
        while pids := _running_pids(running):
            for pid in pids - signalled:  # before the time check: listing may take long on a busy machine
                with contextlib.suppress(OSError):
                    os.kill(pid, signal_number)
            signalled |= pids
            if time.monotonic() > until:
                break
            time.sleep(0.05)
    for home in running:
        shutil.rmtree(home, ignore_errors=True)


def _running_pids(running: dict[bytes, int]) -> set[int]:
    """The processes of the commands that still run; a negative number is a process group."""
    found, variables = set(), {b"TMPDIR=" + home for home in running}
    for pid in filter(None, running.values()):
        group = -pid if hasattr(os, "killpg") else pid
        with contextlib.suppress(OSError):
            os.kill(group, 0)
            found.add(group)
    for entry in Path("/proc").glob("[0-9]*/environ"):
        with contextlib.suppress(OSError):
            if not variables.isdisjoint(entry.read_bytes().split(b"\0")):
                found.add(int(entry.parent.name))
    return found


if __name__ == "__main__":
    main(int(sys.argv[1]))
