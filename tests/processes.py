"""Processes as the system lists them. A process has its words a moment after whoever started it goes on, and
is listed a moment after it was told to end: so nothing here looks once."""

import contextlib
import os
import socket
import subprocess
import sys
import time
from pathlib import Path

LONG = 120.0  # seconds; much more than a busy machine needs


def alive(marker):
    """Processes whose command line holds a word."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with contextlib.suppress(OSError):
                if marker.encode() in (entry / "cmdline").read_bytes() and int(entry.name) != os.getpid():
                    found.append(int(entry.name))
    return found


def comes_to(number, listed):
    """Whether the list that `listed` gives comes to have so many members."""
    until = time.monotonic() + LONG
    while len(listed()) != number:
        if time.monotonic() > until:
            return False
        time.sleep(0.02)
    return True


def gone(marker):
    """Whether all processes whose command line holds a word end."""
    return comes_to(0, lambda: alive(marker))


def written(path):
    """What a file holds, once something stands in it."""
    assert comes_to(True, lambda: [None] * (path.exists() and path.stat().st_size > 0)), path
    return path.read_text("utf-8")


def _bound(port=0):
    made = socket.socket()
    made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    made.bind(("127.0.0.1", port))
    return made


@contextlib.contextmanager
def held_port():
    """(port, serving): a port where nobody listens, and which no other process gets meanwhile. Within
    `serving(program, ...)` a Python program does: the number of its listening socket is its first argument,
    and who connects before it is up is served then."""
    with _bound() as holder:
        port = holder.getsockname()[1]

        @contextlib.contextmanager
        def serving(program, *words):
            with _bound(port) as listening:
                listening.listen()
                number = listening.fileno()
                command = [sys.executable, str(program), str(number), *map(str, words)]
                nowhere = subprocess.DEVNULL
                process = subprocess.Popen(command, pass_fds=[number], stdout=nowhere, stderr=nowhere)
            with process:
                try:
                    yield process
                finally:
                    process.kill()

        yield port, serving
