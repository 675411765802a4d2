"""Processes as the system lists them. A process has its words a moment after whoever started it goes on, and
is listed a moment after it was told to end: so nothing here looks once."""

import contextlib
import os
import time
from pathlib import Path

LONG = 30.0  # seconds; much more than a busy machine needs


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
