"""How fast something goes on that has a total, who shows it, and seconds as a clock shows them."""

from __future__ import annotations

import time
from typing import Any


class Pace:
    """What follows from a total, how many are done, and the moment of the start (time.monotonic)."""

    __slots__ = ()
    total: int
    began: float

    @property
    def done(self) -> int:
        """How many have ended."""
        raise NotImplementedError

    @property
    def elapsed(self) -> float:
        """Seconds since the start."""
        return time.monotonic() - self.began

    @property
    def rate(self) -> float | None:
        """How many a second so far."""
        return self.done / self.elapsed if self.done and self.elapsed > 0 else None

    @property
    def left(self) -> float | None:
        """Seconds to go at this rate."""
        return (self.total - self.done) / self.rate if self.rate else None


class FrontEnd:
    """What a front end shows runs of one kind with: a class of that kind is its parent, and is asked for it
    once it has been imported."""

    @classmethod
    def here(cls) -> Any:
        """A display for this process; None where it has none."""
        return None

    @classmethod
    def chosen(cls) -> Any:
        """The first display that fits, None where none does."""
        return next(filter(None, (kind.here() for kind in cls.__subclasses__())), None)


def clock(seconds: float) -> str:
    """Seconds as 1:02:03 or 2:03."""
    hours, rest = divmod(round(seconds), 3600)
    return f"{hours}:{rest // 60:02d}:{rest % 60:02d}" if hours else f"{rest // 60}:{rest % 60:02d}"
