"""Progress of work with a known total: rate, remaining time, and the front end that shows it."""

from __future__ import annotations

import time
from typing import Any


class ProgressStats:
    """Progress computed from the total, the number done and the start (time.monotonic)."""

    __slots__ = ()
    total: int
    began: float

    @property
    def done(self) -> int:
        """How many are done."""
        raise NotImplementedError

    @property
    def elapsed(self) -> float:
        """Seconds since the start."""
        return time.monotonic() - self.began

    @property
    def rate(self) -> float | None:
        """Items per second so far; None while it is unknown."""
        return self.done / self.elapsed if self.done and self.elapsed > 0 else None

    @property
    def left(self) -> float | None:
        """Remaining seconds at this rate; None while it is unknown."""
        return (self.total - self.done) / self.rate if self.rate else None


class FrontEnd:
    """Base of displays for runs of one kind: each kind has a base class, whose imported subclasses are the
    candidates."""

    @classmethod
    def for_process(cls) -> Any:
        """A display for this process; None where this front end cannot show one."""
        return None

    @classmethod
    def choose(cls) -> Any:
        """The first subclass's display for this process; None where there is none."""
        return next(filter(None, (kind.for_process() for kind in cls.__subclasses__())), None)


def clock(seconds: float) -> str:
    """Formats seconds as 1:02:03 or 2:03."""
    hours, rest = divmod(round(seconds), 3600)
    return f"{hours}:{rest // 60:02d}:{rest % 60:02d}" if hours else f"{rest // 60}:{rest % 60:02d}"
