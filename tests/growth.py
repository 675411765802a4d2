"""Whether a parser's time grows as its input does: the one test of everything that reads untrusted text.

    growth(parse, lambda n: "<script" * n, 100)

Time is the processor's time of this process, so a busy machine changes nothing; what still varies is measured
again.
"""

import gc
import signal
import threading
import time
from contextlib import contextmanager, suppress

from nbllm.core.errors import NbllmError

MOST = 6.0  # times the time for four times the input; 4 is linear, 16 is quadratic
_ENOUGH = 0.01  # seconds: less than this is noise
_LARGEST = 2**16  # characters or items of the smaller input


def growth(parse, make, n, *, most=MOST, patience=60):
    """Asserts that parse(make(4n)) takes at most `most` times as long as parse(make(n)).

    n is where to begin: it is doubled until the time can be measured. An error of ours is an answer like any
    other; any other exception fails the test. patience: seconds for everything, so that what is exponential
    ends. Gives the ratio.
    """
    with limit(patience):
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


def _size(value):
    return len(value) if hasattr(value, "__len__") else _LARGEST


def _seconds(parse, value):
    gc.disable()
    start = time.process_time()
    try:
        with suppress(NbllmError):
            parse(value)
        return time.process_time() - start
    finally:
        gc.enable()


@contextmanager
def limit(seconds):
    """Fails after so many seconds, a regular expression's own loop included."""
    if threading.current_thread() is not threading.main_thread() or not hasattr(signal, "setitimer"):
        yield
        return

    def over(*_):
        raise AssertionError(f"not ended after {seconds} s")

    before = signal.signal(signal.SIGALRM, over)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
