"""Whether a parser's time grows as its input does: the one test of everything that reads untrusted text.

    growth(parse, lambda n: "<script" * n, 100)

A first look at sizes of some milliseconds lets pass what is linear. What seems not to be is measured in the
processor's time of this process, so that a busy machine changes nothing; what still varies is measured again.
"""

import gc
import signal
import threading
import time
from contextlib import contextmanager, suppress

from nbllm.core.errors import NbllmError

MOST = 6.0  # times the time for four times the input; 4 is linear, 16 is quadratic
_GLANCE = 0.01  # seconds of the larger input on the wall
_ENOUGH = 0.04  # seconds of the processor for the smaller one: its clock may tick every 4 ms
_LARGEST = 2**16  # characters or items of the smaller input


def growth(parse, make, n, *, most=MOST, patience=60):
    """Asserts that parse(make(4n)) takes at most `most` times as long as parse(make(n)).

    n is where to begin: it is doubled until the time can be measured. An error of ours is an answer like any
    other; any other exception fails the test. patience: seconds of the processor for everything, so
    that what is exponential ends. Gives the ratio.
    """
    with limit(patience):
        if (ratio := _glance(parse, make, max(n // 4, 1))) <= most:
            return ratio
        while _seconds(parse, small := make(n)) < _ENOUGH and _size(small) < _LARGEST:
            n *= 2
        large, ratios = make(4 * n), []
        while len(ratios) < 5 and min(ratios, default=most + 1) > most:
            first = min(_seconds(parse, small) for _ in range(3))
            ratios.append(_seconds(parse, large) / max(first, _ENOUGH))
    assert min(ratios) <= most, (
        f"4 times the input took {min(ratios):.1f} times as long (n = {n}, {first * 1000:.0f} ms)"
    )
    return min(ratios)


def _glance(parse, make, n):
    """The ratio as a clock on the wall tells it, exact where the processor's ticks every few milliseconds.

    It is measured at sixteen times the input and brought to four. Another process in between only asks for
    the second look.
    """
    large = make(16 * n)
    while (last := _seconds(parse, large, time.perf_counter)) < _GLANCE and _size(large) < 4 * _LARGEST:
        n *= 2 if last > _GLANCE / 4 else 4
        large = make(16 * n)
    small = make(n)
    first = min(_seconds(parse, small, time.perf_counter) for _ in range(3))
    return last / max(first, _GLANCE / 100) / 4


def _size(value):
    return len(value) if hasattr(value, "__len__") else _LARGEST


def _seconds(parse, value, clock=time.process_time):
    gc.disable()
    start = clock()
    try:
        with suppress(NbllmError):
            parse(value)
        return clock() - start
    finally:
        gc.enable()


@contextmanager
def limit(seconds):
    """Fails after so many seconds of the processor, a regular expression's own loop included."""
    if threading.current_thread() is not threading.main_thread() or not hasattr(signal, "setitimer"):
        yield
        return

    def over(*_):
        raise AssertionError(f"not ended after {seconds} s")

    before = signal.signal(signal.SIGPROF, over)
    signal.setitimer(signal.ITIMER_PROF, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.signal(signal.SIGPROF, before)
