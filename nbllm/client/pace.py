"""How fast something goes on that has a total, and seconds as a clock shows them."""

from __future__ import annotations

import time


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


def clock(seconds: float) -> str:
    """Seconds as 1:02:03 or 2:03."""
    hours, rest = divmod(round(seconds), 3600)
    return f"{hours}:{rest // 60:02d}:{rest % 60:02d}" if hours else f"{rest // 60}:{rest % 60:02d}"
