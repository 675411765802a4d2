"""Whether a parser's time grows as its input does: the one test of everything that reads untrusted text.

    growth(parse, lambda n: "<script" * n, 100)

Two sizes of a millisecond and of four tell linear from quadratic. What seems not to be linear is looked at
again at twice the size, until it is, or is too slow to be in doubt. Time is the processor's, of this thread:
a busy machine changes little, and the process's own clock counts in steps of 4 ms while `limit` watches it.
"""

import gc
import signal
import threading
import time
from contextlib import contextmanager, suppress

from nbllm.core.errors import NbllmError

MOST = 8.0  # times the time for four times the input; 4 is linear, 16 is quadratic, and caches are shared
_LARGEST = 2**16  # characters or items of the smaller input
_TRIES = 4  # at the size that decides
_ENOUGH = 0.001  # seconds of the smaller input from which two times are compared
_DECIDES = 0.2  # seconds from which the ratio is the last word


def growth(parse, make, n, *, most=MOST, patience=60):
    """Asserts that parse(make(4n)) takes at most `most` times as long as parse(make(n)).

    n is where to begin: it grows until the time can be measured. An error of ours is an answer like any
    other; any other exception fails the test. patience: seconds of the processor for everything, so that what
    is exponential ends. Gives the ratio.
    """
    with limit(patience):
        _seconds(parse, make(max(n // 8, 1)))  # what is done once in a process
        n, first = _large_enough(parse, make, n)
        ratio = _ratio(parse, make, n, first)
        while ratio > most and first < _DECIDES and _size(make(n)) < _LARGEST:
            n *= 2
            first = _seconds(parse, make(n))
            ratio = _ratio(parse, make, n, first)
        for _ in range(_TRIES - 1):
            if ratio > most:
                ratio = min(ratio, _ratio(parse, make, n, first))
    assert ratio <= most, f"4 times the input took {ratio:.1f} times as long (n = {n}, {first * 1000:.0f} ms)"
    return ratio


def _large_enough(parse, make, n):
    """The first of n, 2n, 4n ... that can be measured, or that is as large as may be; and its seconds."""
    while (last := _seconds(parse, small := make(n))) < _ENOUGH and _size(small) <= _LARGEST / 2:
        n *= 4 if last < _ENOUGH / 4 and _size(small) <= _LARGEST / 4 else 2
    return n, last


def _ratio(parse, make, n, first):
    """Times the time for four times the input; `first` are the seconds of the smaller one. What is short is
    measured again."""
    if first < 10 * _ENOUGH:
        first = min(first, _seconds(parse, make(n)))
    return _seconds(parse, make(4 * n)) / max(first, _ENOUGH)


def _size(value):
    return len(value) if hasattr(value, "__len__") else _LARGEST


def _seconds(parse, value):
    gc.disable()
    start = time.thread_time()
    try:
        with suppress(NbllmError):
            parse(value)
        return time.thread_time() - start
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
