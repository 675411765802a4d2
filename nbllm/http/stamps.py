"""When bytes arrived: the system's own time stamps, and what bounds an arrival that has none.

On Linux every segment that TCP receives is stamped by the kernel (SO_TIMESTAMPNS), whatever this process is
doing. A read returns the stamp of the last segment in it, so

- what ended with the last byte of a read arrived exactly at the read's stamp;
- a read that held one segment (TCP_INFO counts them) arrived as a whole at that stamp;
- what came earlier in a read of several segments arrived between `lo` and the stamp. `lo` is the last moment
  at which the socket is known to have been empty: just before the read before, or the poll in which it was
  not yet ready.

A late process shows as `user - at`. Elsewhere the stamp is the moment of the read, and `lo` still bounds it
from below.
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
# asked.
_SO_TIMESTAMPNS = 35
_SUPPORTED = sys.platform.startswith("linux")
_TIMESPEC = struct.Struct("qq")
_ANCILLARY = 64
_TCP_INFO, _DATA_SEGS_IN = (
    getattr(socket, "TCP_INFO", 11),
    152,
)  # struct tcp_info in linux/tcp.h, since Linux 4.6
_READ_SIZE = 2**16
_CLOCKS_APART = 2e-5  # seconds: the two clocks are read one after the other
# seconds from a segment's arrival to the thread's being ready to run, at most, and of another thread's turn
_WAKE_LIMIT = 1e-3
STALL = 1.5e-3  # seconds of the loop's own work that count as a stall


def _do_nothing() -> None:
    """Nothing is to be done."""


class LoopClock(selectors.DefaultSelector):
    """A selector that notes when its loop polls: between two polls the loop was busy and saw nothing.

    polled, woke: when the poll under way, or the one that has just returned, began and returned. quiet: no
    socket that it watches had anything to read at that moment. stalls: (from, to) of the loop's last long
    stretches of work. All perf_counter seconds.

    `quiet` is the beginning of the poll before, in which a socket that is ready now was not. Where this
    thread is alone in wanting to run Python (`alone`, a benchmark's worker), a poll that slept tells more:
    what woke it came at most _WAKING, and the time this thread then waited for a processor
    (/proc/thread-self/schedstat), before it returned.
    """

    def __init__(self) -> None:
        super().__init__()
        self.polled = self.quiet = self.woke = time.perf_counter()
        self.stalls: deque[tuple[float, float]] = deque(maxlen=10_000)
        self.alone = False
        self.before: Callable[[], None] = _do_nothing  # is called before the next poll
        self._schedstat: int | None = None

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        """As the selector's, with the clock read before and after."""
        before, self.before = self.before, _do_nothing
        before()
        waited = self._waited() if self.alone else 0.0
        self.quiet, self.polled = self.polled, time.perf_counter()
        if self.polled - self.woke > STALL:
            self.stalls.append((self.woke, self.polled))
        ready = super().select(timeout)
        self.woke = time.perf_counter()
        if self.alone and ready:
            latest = self.woke - (self._waited() - waited) - _WAKE_LIMIT
            self.quiet = max(self.quiet, latest if latest > self.polled else 0.0)
        return ready

    def _waited(self) -> float:
        """Seconds for which this thread has been ready to run and did not; infinite where the system does not
        tell."""
        try:
            if self._schedstat is None:
                self._schedstat = os.open("/proc/thread-self/schedstat", os.O_RDONLY)
            return int(os.pread(self._schedstat, 64, 0).split()[1]) / 1e9
        except (OSError, ValueError, IndexError):
            self.alone = False
            return float("inf")

    def close(self) -> None:
        """As the selector's."""
        super().close()
        if self._schedstat is not None:
            os.close(self._schedstat)
            self._schedstat = None


class _LookupLoop(asyncio.BaseEventLoop):
    """A loop whose name look-ups hold nothing up."""

    _lookups: Lookups | None = None

    async def getaddrinfo(
        self, host: Any, port: Any, *, family: int = 0, type: int = 0, proto: int = 0, flags: int = 0
    ) -> Any:
        """As asyncio's, off its shared threads."""
        self._lookups = self._lookups or Lookups()
        return await self._lookups.find(host, port, family=family, type=type, proto=proto, flags=flags)


class ClockedLoop(_LookupLoop, asyncio.SelectorEventLoop):
    """asyncio's loop on a LoopClock."""

    def __init__(self) -> None:
        self.clock = LoopClock()
        super().__init__(self.clock)


def new_event_loop() -> asyncio.AbstractEventLoop:
    """The loop for the engine: a clocked one, except on Windows, where only its own kind runs processes."""
    if sys.platform == "win32":
        return type("FindingLoop", (_LookupLoop, asyncio.ProactorEventLoop), {})()
    return ClockedLoop()


def stalls_since(when: float) -> tuple[tuple[float, float], ...]:
    """The running loop's stalls that ended after `when`, the one under way included; none where the loop
    keeps no clock."""
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
    """A socket that wants stamps: while one does, the kernel stamps every packet from its first. None where
    it cannot."""
    keeper = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    if enable_stamps(keeper):
        return keeper
    keeper.close()
    return None


def enable_stamps(sock: socket.socket) -> bool:
    """Asks the kernel to stamp what `sock` receives; False where it does not."""
    if not _SUPPORTED:
        return False
    try:
        sock.setsockopt(socket.SOL_SOCKET, _SO_TIMESTAMPNS, 1)
    except OSError:
        return False
    return True


class StampedSocket:
    """Reads a non-blocking socket; each read knows when its bytes arrived."""

    def __init__(self, sock: socket.socket, clock: LoopClock | None) -> None:
        self._sock, self._clock = sock, clock
        self._kernel = enable_stamps(sock)
        self._empty_at = time.perf_counter()  # the last moment at which all was read
        self._counted = self._segments()  # segments that were surely read by then
        self._drained = True

    def _segments(self) -> int:
        """Data segments received so far; -1 where the system does not count them."""
        if not self._kernel:
            return -1
        try:
            info = self._sock.getsockopt(socket.IPPROTO_TCP, _TCP_INFO, _DATA_SEGS_IN + 4)
        except OSError:
            return -1
        return int.from_bytes(info[_DATA_SEGS_IN:], sys.byteorder) if len(info) >= _DATA_SEGS_IN + 4 else -1

    def read(self) -> tuple[bytes, Read]:
        """The bytes that are there, b"" at the end. Raises BlockingIOError and the other OSErrors of a
        socket."""
        counted, asked = self._segments(), time.perf_counter()
        if self._kernel:
            data, ancillary, _, _ = self._sock.recvmsg(_READ_SIZE, _ANCILLARY)
        else:
            data, ancillary = self._sock.recv(_READ_SIZE), []
        user, wall = time.perf_counter(), time.time_ns()
        at, stamp = _arrival(ancillary, user, wall)
        drained = len(data) < _READ_SIZE
        whole = self._drained and drained  # no byte of another read belongs to these segments
        segments = self._segments() - self._counted if whole and self._counted >= 0 else 0
        read = Read(at, min(at, self._lower()), user, len(data), stamp, max(0, segments), whole)
        if drained:
            self._empty_at, self._counted = asked, counted
        self._drained = drained
        return data, read

    def unwatched(self) -> None:
        """The socket was out of the loop's sight for a while: its polls say nothing of what came
        meanwhile."""
        self._drained = False

    def _lower(self) -> float:
        """The last moment at which the socket was surely empty: a poll that returned without it began later
        than that."""
        polled = self._clock.quiet if self._clock and self._drained else 0.0
        return max(self._empty_at, polled) - _CLOCKS_APART


def _arrival(ancillary: list[tuple[int, int, bytes]], user: float, wall: int) -> tuple[float, str]:
    """The kernel's stamp on our clock. The wall clock is used for the difference only, and not where it was
    set meanwhile."""
    for level, kind, value in ancillary:
        if level == socket.SOL_SOCKET and kind == _SO_TIMESTAMPNS and len(value) >= _TIMESPEC.size:
            seconds, nanoseconds = _TIMESPEC.unpack_from(value)
            lag = (wall - seconds * 1_000_000_000 - nanoseconds) / 1e9
            if -_CLOCKS_APART < lag < 60.0:
                return user - max(0.0, lag), "kernel"
    return user, "recv"
