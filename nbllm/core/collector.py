"""Python's garbage collector, out of the way of what makes many objects at once."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager

_FROZEN = 1_000  # objects: some hundred of its own are frozen from the start of Python 3.12


@contextmanager
def gc_paused(*, kept: bool = False) -> Iterator[None]:
    """Makes many objects at once, without the garbage collector: it would look through all objects of the
    process, while no thread runs, for rings that a message or a module does not leave. kept: they stay, and
    are taken for old ones, so that it does not look for them soon after either."""
    if not gc.isenabled() or (kept and gc.get_freeze_count() > _FROZEN):  # somebody has plans of their own
        yield
        return
    gc.disable()
    try:
        yield
    finally:
        if kept:
            gc.freeze()
            gc.unfreeze()
        gc.enable()
