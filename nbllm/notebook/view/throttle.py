"""The frame rate of a growing answer: a budget of frames and bytes that a front end can handle. Pure; the
caller passes the time.

A frame is due when it is wanted, paid for and not too early:

- wanted: there is enough new content (chunks or characters), or the last frame is some time ago. So a
  thousand small chunks make fewer than a hundred messages at usual speeds, and large chunks are drawn one by
  one. The first frames need not wait.
- paid for: bytes are paid before they are sent, from a balance that grows at a constant rate up to one frame
  or a small reserve. So there is no debt when the answer ends, and its final form is never late.
- not too early: 50 ms after the last frame, and four times the cost of making it.
"""

from __future__ import annotations

from dataclasses import dataclass

ENVELOPE = 620  # bytes of a message in addition to its content


@dataclass(frozen=True, slots=True)
class Budget:
    """Limits for drawing: seconds, bytes, counts."""

    interval: float = 0.05
    patience: float = 0.6
    chunks: int = 18
    characters: int = 160
    opening: int = 12  # first frames, which need not wait for many chunks
    rate: float = 128_000
    reserve: float = 24_000
    share: float = 0.2  # of the main thread's time


class Pace:
    """Decides when the next frame is due; the caller reports each frame."""

    def __init__(self, budget: Budget | None = None, now: float = 0.0) -> None:
        self._budget = budget or Budget()
        self._byte_balance = self._budget.reserve
        self._balance_time = now
        self._last_frame = float("-inf")
        self._not_before = float("-inf")
        self._frames = 0

    def is_due(self, now: float, *, chunks: int, characters: int, size: float) -> bool:
        """Whether to draw now: chunks and characters since the last frame, and the expected size of the frame
        in bytes."""
        if not chunks or now < self._not_before:
            return False
        return self._is_wanted(now, chunks, characters) and self._balance_at(now, size) >= size

    def is_idle(self, now: float, *, every: float, size: float) -> bool:
        """Whether to draw without new content: `every` so many seconds."""
        return (
            now - self._last_frame >= every
            and now >= self._not_before
            and self._balance_at(now, size) >= size
        )

    def record_frame(self, now: float, size: float, cost: float = 0.0) -> None:
        """Records a sent frame of `size` bytes that took `cost` seconds to make."""
        b = self._budget
        self._byte_balance = self._balance_at(now, size) - size
        self._last_frame, self._balance_time = now, now
        self._not_before = now + max(b.interval, cost * (1 / b.share - 1))
        self._frames += 1

    def _is_wanted(self, now: float, chunks: int, characters: int) -> bool:
        b = self._budget
        has_enough = chunks >= b.chunks or characters >= b.characters
        return has_enough or self._frames < b.opening or now - self._last_frame >= b.patience

    def _balance_at(self, now: float, size: float) -> float:
        b = self._budget
        return min(self._byte_balance + (now - self._balance_time) * b.rate, max(b.reserve, size))
