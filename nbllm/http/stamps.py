"""When bytes arrived: kernel time stamps, and bounds for arrivals without one.

On Linux the kernel stamps every TCP segment that arrives (SO_TIMESTAMPNS), whatever this process is doing. A
read returns the stamp of its last segment, so

- what ends with the last byte of a read arrived exactly at the read's stamp;
- a read of a single segment (TCP_INFO counts them) arrived completely at that stamp;
- what is earlier in a read of several segments arrived between `lo` and the stamp. `lo` is the last moment at
  which the socket is known to have been empty: just before the previous read, or the poll in which it was not
  yet ready.

The delay of this process is `user - at`. On other systems the stamp is the moment of the read, and `lo` is
still a lower bound.
"""

from __future__ import annotations

import asyncio
import os
import selectors
import socket
import struct
import sys
import time
from collections import deque
from collections.abc import Callable
from typing import Any

from ..core.calls import Read
from .lookups import Lookups

# asm-generic/socket.h; not in Python's socket module. Alpha, MIPS, PA-RISC and SPARC differ and are not
# supported.
_SO_TIMESTAMPNS = 35
_SUPPORTED = sys.platform.startswith("linux")
_TIMESPEC = struct.Struct("qq")
_ANCILLARY = 64
_TCP_INFO = getattr(socket, "TCP_INFO", 11)
_DATA_SEGS_IN = 152  # offset in struct tcp_info, linux/tcp.h, since Linux 4.6
_READ_SIZE = 2**16
_CLOCK_TOLERANCE = 2e-5  # seconds: the two clocks are read one after the other
# maximum seconds from a segment's arrival until the thread is ready to run, and of another thread's turn
_WAKE_LIMIT = 1e-3
STALL = 1.5e-3  # seconds of uninterrupted work in the loop that count as a stall


def _do_nothing() -> None:
    """The default of LoopClock.before."""


class LoopClock(selectors.DefaultSelector):
    """A selector that records when its loop polls: between two polls the loop is busy and sees nothing.

    polled, woke: when the current or most recent poll began and returned. quiet: a moment at which no watched
    socket was ready. stalls: (from, to) of the loop's most recent long periods of work. All in perf_counter
    seconds.

    `quiet` is the beginning of the previous poll, in which a socket that is ready now was not. If no other
    thread of this process runs Python (`alone`, in a benchmark's worker), a poll that slept gives a better
    bound: what woke it came at most _WAKE_LIMIT before it returned, plus the time for which this thread then
    waited for a processor (/proc/thread-self/schedstat).
    """

    def __init__(self) -> None:
        super().__init__()
        self.polled = self.quiet = self.woke = time.perf_counter()
        self.stalls: deque[tuple[float, float]] = deque(maxlen=10_000)
        self.alone = False
        self.before: Callable[[], None] = _do_nothing  # called before the next poll
        self._schedstat: int | None = None

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        """Like the selector's; reads the clock before and after."""
        before, self.before = self.before, _do_nothing
        before()
        delay = self._run_delay() if self.alone else 0.0
        self.quiet, self.polled = self.polled, time.perf_counter()
        if self.polled - self.woke > STALL:
            self.stalls.append((self.woke, self.polled))
        ready = super().select(timeout)
        self.woke = time.perf_counter()
        if self.alone and ready:
            latest = self.woke - (self._run_delay() - delay) - _WAKE_LIMIT
            self.quiet = max(self.quiet, latest if latest > self.polled else 0.0)
        return ready

    def _run_delay(self) -> float:
        """Seconds for which this thread was ready to run but waited for a processor; infinite where the
        system does not report it."""
        try:
            if self._schedstat is None:
                self._schedstat = os.open("/proc/thread-self/schedstat", os.O_RDONLY)
            return int(os.pread(self._schedstat, 64, 0).split()[1]) / 1e9
        except (OSError, ValueError, IndexError):
            self.alone = False
            return float("inf")

    def close(self) -> None:
        """Like the selector's."""
        super().close()
        if self._schedstat is not None:
            os.close(self._schedstat)
            self._schedstat = None


class _LookupLoop(asyncio.BaseEventLoop):
    """An event loop whose name look-ups block nothing else."""

    _lookups: Lookups | None = None

    async def getaddrinfo(
        self, host: Any, port: Any, *, family: int = 0, type: int = 0, proto: int = 0, flags: int = 0
    ) -> Any:
        """Like asyncio's, but not on its shared threads."""
        self._lookups = self._lookups or Lookups()
        return await self._lookups.getaddrinfo(host, port, family=family, type=type, proto=proto, flags=flags)


class ClockedLoop(_LookupLoop, asyncio.SelectorEventLoop):
    """asyncio's selector event loop with a LoopClock."""

    def __init__(self) -> None:
        self.clock = LoopClock()
        super().__init__(self.clock)


def new_event_loop() -> asyncio.AbstractEventLoop:
    """The engine's event loop: a ClockedLoop, except on Windows, where only the ProactorEventLoop runs
    processes."""
    if sys.platform == "win32":
        return type("LookupProactorLoop", (_LookupLoop, asyncio.ProactorEventLoop), {})()
    return ClockedLoop()


def stalls_since(when: float) -> tuple[tuple[float, float], ...]:
    """The running loop's stalls that ended after `when`, including the current one; none if the loop has no
    clock."""
    clock: LoopClock | None = getattr(asyncio.get_running_loop(), "clock", None)
    if clock is None:
        return ()
    now = time.perf_counter()
    found = [(clock.woke, now)] if now - clock.woke > STALL else []
    for start, end in reversed(clock.stalls):
        if end < when:
            break
        found.append((start, end))
    return tuple(reversed(found))


def open_stamp_keeper() -> socket.socket | None:
    """A socket with stamps enabled: while there is one, the kernel stamps packets of all connections from the
    first. None where that is not supported."""
    keeper = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    if enable_stamps(keeper):
        return keeper
    keeper.close()
    return None


def enable_stamps(sock: socket.socket) -> bool:
    """Makes the kernel stamp what `sock` receives; False where that is not supported."""
    if not _SUPPORTED:
        return False
    try:
        sock.setsockopt(socket.SOL_SOCKET, _SO_TIMESTAMPNS, 1)
    except OSError:
        return False
    return True


class StampedSocket:
    """Reads a non-blocking socket, with the arrival time of each read."""

    def __init__(self, sock: socket.socket, clock: LoopClock | None) -> None:
        self._sock, self._clock = sock, clock
        self._kernel = enable_stamps(sock)
        self._empty_at = time.perf_counter()  # the last moment at which everything had been read
        self._read_segments = self._segments()  # the number of segments read by then
        self._drained = True

    def _segments(self) -> int:
        """The number of data segments received; -1 where the system does not count them."""
        if not self._kernel:
            return -1
        try:
            info = self._sock.getsockopt(socket.IPPROTO_TCP, _TCP_INFO, _DATA_SEGS_IN + 4)
        except OSError:
            return -1
        return int.from_bytes(info[_DATA_SEGS_IN:], sys.byteorder) if len(info) >= _DATA_SEGS_IN + 4 else -1

    def read(self) -> tuple[bytes, Read]:
        """The available bytes, b"" at the end. Raises BlockingIOError and other OSErrors of sockets."""
        before, started = self._segments(), time.perf_counter()
        if self._kernel:
            data, ancillary, _, _ = self._sock.recvmsg(_READ_SIZE, _ANCILLARY)
        else:
            data, ancillary = self._sock.recv(_READ_SIZE), []
        user, wall = time.perf_counter(), time.time_ns()
        at, stamp = _arrival(ancillary, user, wall)
        drained = len(data) < _READ_SIZE
        exact = self._drained and drained  # the segments contain no bytes of other reads
        segments = self._segments() - self._read_segments if exact and self._read_segments >= 0 else 0
        read = Read(at, min(at, self._lower_bound()), user, len(data), stamp, max(0, segments), exact)
        if drained:
            self._empty_at, self._read_segments = started, before
        self._drained = drained
        return data, read

    def ignore_polls(self) -> None:
        """The socket was not watched for a while, so the loop's polls give no bound for what came
        meanwhile."""
        self._drained = False

    def _lower_bound(self) -> float:
        """The last moment at which the socket was certainly empty: a poll in which it was not ready began
        later."""
        polled = self._clock.quiet if self._clock and self._drained else 0.0
        return max(self._empty_at, polled) - _CLOCK_TOLERANCE


def _arrival(ancillary: list[tuple[int, int, bytes]], user: float, wall: int) -> tuple[float, str]:
    """(time, source) of an arrival: the kernel's stamp as perf_counter seconds. The wall clock is used for
    the difference only, and not if it was set meanwhile."""
    for level, kind, value in ancillary:
        if level == socket.SOL_SOCKET and kind == _SO_TIMESTAMPNS and len(value) >= _TIMESPEC.size:
            seconds, nanoseconds = _TIMESPEC.unpack_from(value)
            lag = (wall - seconds * 1_000_000_000 - nanoseconds) / 1e9
            if -_CLOCK_TOLERANCE < lag < 60.0:
                return user - max(0.0, lag), "kernel"
    return user, "recv"
