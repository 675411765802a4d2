"""The throttle's budget of frames and bytes, with the time as a parameter."""

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nbllm.notebook.view.throttle import Budget, Pace

B = Budget()


def spent(pace, now=0.0, frames=B.opening):
    """A pace whose free opening frames are used up."""
    for _ in range(frames):
        pace.record_frame(now, 0)
    return pace


def test_the_first_frame_is_due_at_once():
    """Whatever little is new."""
    assert Pace().is_due(0.0, chunks=1, characters=1, size=1_000)


@pytest.mark.parametrize(
    ("after", "chunks", "characters", "due"),
    [
        (0.049, 99, 999, False),
        (0.051, 99, 999, True),
        (0.051, 17, 100, False),
        (0.051, 18, 100, True),
        (0.051, 1, 160, True),
        (0.59, 1, 1, False),
        (0.61, 1, 1, True),
        (9.0, 0, 0, False),
    ],
)
def test_a_frame_is_due_when_enough_is_new_and_none_was_lately(after, chunks, characters, due):
    """Many chunks, or many characters, or a while since the last frame; never without anything new."""
    assert due is spent(Pace()).is_due(after, chunks=chunks, characters=characters, size=1_000)


@pytest.mark.parametrize(
    ("size", "after", "due"),
    [
        (24_000, 0.06, True),
        (128_000, 0.5, False),
        (128_000, 0.82, True),
        (256_000, 1.5, False),
        (256_000, 1.9, True),
    ],
)
def test_a_large_frame_waits_until_it_is_paid_for(size, after, due):
    """At 128 kB a second."""
    pace = Pace()
    pace.record_frame(0.0, 0)
    assert due is pace.is_due(after, chunks=99, characters=9_999, size=size)


def test_a_dear_frame_is_followed_by_a_rest():
    """Drawing takes at most a fifth of the main thread's time."""
    pace = Pace()
    pace.record_frame(0.0, 100, cost=0.1)
    assert not pace.is_due(0.39, chunks=99, characters=999, size=100)
    assert pace.is_due(0.41, chunks=99, characters=999, size=100)


def test_when_nothing_is_new_the_clock_still_moves():
    """Once in so many seconds."""
    pace = Pace()
    pace.record_frame(0.0, 100)
    assert not pace.is_idle(0.9, every=1.0, size=700)
    assert pace.is_idle(1.0, every=1.0, size=700)


@given(
    st.lists(
        st.tuples(st.floats(0.001, 0.3), st.integers(1, 50), st.integers(500, 400_000)),
        min_size=1,
        max_size=300,
    )
)
def test_never_more_than_the_budget(steps):
    """Bytes at most the rate times the time and the reserve; frames at most twenty a second."""
    pace, now, total, times, chunks = Pace(), 0.0, 0, [], 0
    for step, new, size in steps:
        now, chunks = now + step, chunks + new
        if pace.is_due(now, chunks=chunks, characters=chunks, size=size):
            pace.record_frame(now, size)
            total, chunks = total + size, 0
            times.append(now)
    assert total <= B.reserve + B.rate * now + 1
    assert all(b - a >= B.interval * 0.999 for a, b in pairwise(times))


@given(st.floats(28, 5_000))
def test_a_thousand_chunks_make_few_frames(per_second):
    """At any usual speed."""
    pace, now, frames, new = Pace(), 0.0, 0, 0
    for _ in range(1_000):
        now, new = now + 1 / per_second, new + 1
        if pace.is_due(now, chunks=new, characters=new * 5, size=2_000):
            pace.record_frame(now, 2_000)
            frames, new = frames + 1, 0
    assert frames <= 75
