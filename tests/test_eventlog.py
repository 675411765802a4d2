"""The log of a reply is a sequence of (moment, event) for whoever reads it, however it is kept."""

import threading

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nbllm.core.calls import Arrival, Read, Trace
from nbllm.core.eventlog import EventLog
from nbllm.core.events import (
    Finished,
    Fold,
    Notice,
    ReasoningDelta,
    ReasoningText,
    Restarted,
    Started,
    StepEnded,
    TextDelta,
    ToolCallDelta,
    Usage,
    UsageReport,
    to_event,
    to_item,
)

from .examples import examples

TEXTS = st.sampled_from(["", "a", " word", "\u00fc", "\u4e16\u754c", "\U0001f30d", "x" * 300])
EVENTS = st.one_of(
    *(st.builds(TextDelta, TEXTS) for _ in range(4)),
    st.builds(TextDelta, TEXTS, st.sampled_from([None, "signed"])),
    st.builds(ReasoningDelta, TEXTS),
    st.builds(
        ReasoningDelta, TEXTS, st.sampled_from([None, "s"]), st.none(), st.sampled_from([None, "r1", "r2"])
    ),
    st.builds(ToolCallDelta, st.integers(0, 2), arguments=TEXTS),
    st.sampled_from(
        [
            *(Started("i", "m"), Notice("warning", "w"), Restarted("again"), StepEnded(1), Finished("stop")),
            UsageReport(Usage(1, 2), final=False),
        ]
    ),
)
STRETCHES = st.lists(
    st.tuples(st.sampled_from([1.0, 1.0, 2.5, 0.5]), st.lists(EVENTS, max_size=90)), max_size=9
)


def kept(stretches):
    """(a log, the same as a list)."""
    log, plain = EventLog(), []
    for at, events in stretches:
        log.extend([to_item(e) for e in events], at)
        plain += [(at, e) for e in events]
    return log, plain


@examples(40)
@given(STRETCHES, st.data())
def test_it_reads_as_a_list_does(stretches, data):
    """By place from both ends, by slice, forwards, backwards, in part; and it adds up to the same answer."""
    log, plain = kept(stretches)
    assert len(plain) == len(log)
    assert plain == list(log) == log[:]
    assert plain[::-1] == list(reversed(log)) == log[::-1]
    place = st.integers(-len(plain) - 2, len(plain) + 2)
    a, b = data.draw(st.none() | place), data.draw(st.none() | place)
    assert plain[a:b] == log[a:b]
    if plain:
        i = data.draw(st.integers(-len(plain), len(plain) - 1))
        assert plain[i] == log[i]
        assert type(plain[i][1]) is type(log[i][1])
    start = data.draw(st.integers(0, len(plain)))
    assert plain[start:] == [(at, to_event(item)) for at, item in log.items(start)]
    fold = Fold()
    for _, event in plain:
        fold.add(event)
    assert fold.response() == log.fold().response()
    with pytest.raises(IndexError):
        log[len(plain)]


@given(EVENTS)
def test_the_short_form_of_an_event_stands_for_it(event):
    """And its texts are plain strings again."""
    again = to_event(to_item(event))
    assert event == again
    assert type(getattr(again, "text", "")) is str
    assert isinstance(to_item(event), str) == (
        event in (TextDelta(getattr(event, "text", "")), ReasoningDelta(getattr(event, "text", "")))
    )


@pytest.mark.slow
def test_it_may_be_read_while_it_grows():
    """What is there stays as it was, whatever is put together meanwhile."""
    log, total, wrong, over = EventLog(), 20_000, [], threading.Event()

    def read():
        place = 0
        while not (over.is_set() and place == len(log)):
            for at, event in log[place:]:
                if at != float(place // 7) or event != (
                    ReasoningDelta(str(place)) if place % 3 == 0 else TextDelta(str(place))
                ):
                    wrong.append(place)
                place += 1
            if place and log[place - 1][1].text != str(place - 1):
                wrong.append(place)

    readers = [threading.Thread(target=read) for _ in range(3)]
    for reader in readers:
        reader.start()
    for first in range(0, total, 7):
        places = range(first, min(first + 7, total))
        log.extend([ReasoningText(i) if i % 3 == 0 else str(i) for i in places], float(first // 7))
    over.set()
    for reader in readers:
        reader.join(30)
    assert ([], total) == (wrong, len(log))


def test_reads_and_arrivals_are_sequences_of_their_tuples():
    """One by one or by the column."""
    trace = Trace()
    reads = [Read(1.0 + i, 0.5, 2.0, i, "kernel", i, i % 2 == 0) for i in range(5)]
    for read in reads:
        trace.reads.append(read)
    trace.arrivals.append(Arrival(1, -1, 7))
    trace.arrivals.extend([2, 3], [0, 0], [5, 6])
    assert reads == list(trace.reads) == trace.reads[:]
    assert (reads[-1], reads[1:3], True) == (trace.reads[-1], trace.reads[1:3], trace.reads[2].clean is True)
    assert [Arrival(1, -1, 7), Arrival(2, 0, 5), Arrival(3, 0, 6)] == list(trace.arrivals)
    assert (3, Arrival(3, 0, 6)) == (len(trace.arrivals), trace.arrivals[-1])
    assert not Trace().reads
