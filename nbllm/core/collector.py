"""Pausing Python's garbage collector while many objects are made at once."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager

_FROZEN = 1_000  # objects; Python 3.12 starts with some hundred frozen ones of its own


@contextmanager
def gc_paused(*, long_lived: bool = False) -> Iterator[None]:
    """Context without garbage collection, for making many objects at once: the collector would stop all
    threads and search every object of the process for cycles, which messages and modules do not leave.
    long_lived: moves the new objects to the oldest generation, so that they are not searched soon afterwards
    either."""
    if not gc.isenabled() or (long_lived and gc.get_freeze_count() > _FROZEN):  # the user controls it
        yield
        return
    gc.disable()
    try:
        yield
    finally:
        if long_lived:
            gc.freeze()
            gc.unfreeze()
        gc.enable()
