"""What stays of an answer that nobody holds any more: its row of numbers."""

import gc
import subprocess
import sys
import time
import weakref

import pytest

from nbllm import Client
from nbllm.routing import registry
from nbllm.store.history import ledger_file

from .test_transport import chunk, head, server

pytestmark = pytest.mark.slow

DELTA = (
    b'data: {"id":"c","object":"chat.completion.chunk","model":"m","system_fingerprint":"%s","choices":[{"index":0,"delta":{"content":" word"},"finish_reason":null}]}\n\n'  # noqa: E501
    % (b"f" * 200)
)
END = b'data: {"choices":[{"index":0,"delta":{},"finish_reason":"stop"}]}\n\ndata: [DONE]\n\n'
LONG = [None, head(b"transfer-encoding: chunked"), *[chunk(DELTA * 1000)] * 40, chunk(END) + b"0\r\n\r\n"]


def gone(ref, seconds=60):
    """Whether an object is let go in time."""
    until = time.monotonic() + seconds
    while ref() is not None and time.monotonic() < until:
        gc.collect()
        ledger_file().flush()
    return ref() is None


def holders(ref):
    """What holds an object that should be gone, and what holds that."""
    first = gc.get_referrers(ref())
    return [(type(x), repr(x)[:300], [type(y) for y in gc.get_referrers(x)][:5]) for x in first]


def test_a_long_answer_is_measured_at_its_end_and_let_go():
    """Nobody asked for the rows; they are there all the same, with every chunk counted."""
    with server([*LONG, *LONG]) as (url, _):
        client = Client(registry.load({}))
        try:
            for _ in range(2):
                stream = client.stream("hi", "m", base_url=url, retries=0, timeout=200)
                assert 200_000 == len(stream.response().text)
                ref = weakref.ref(stream)
                del stream
                assert gone(ref), holders(ref)
            assert [40_000, 40_000] == [row["chunks"] for row in client.ledger.rows()]
        finally:
            client.close()


def test_short_answers_are_measured_when_they_are_many_or_asked_for():
    """None is lost, and none twice."""
    short = [None, head(b"transfer-encoding: chunked") + chunk(DELTA + END) + b"0\r\n\r\n"]
    with server(short * 100) as (url, _):
        client = Client(registry.load({}))
        try:
            for _ in range(100):
                client.stream("hi", "m", base_url=url, retries=0, timeout=200).response()
            assert list(range(1, 101)) == [row["seq"] for row in client.ledger.rows()]
        finally:
            client.close()


GROWTH = """
import gc, os, weakref
from tests.test_memory import LONG, gone, server
import nbllm
def size():
    gc.collect()
    return int(open("/proc/self/statm").read().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20
sizes = []
with server(LONG * 6) as (url, _):
    for i in range(6):
        stream = nbllm.stream("hi", "m", base_url=url, retries=0)
        stream.response()
        ref = weakref.ref(stream)
        del stream
        assert gone(ref)
        sizes.append(size())
print(sizes[-1] - sizes[0])
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
def test_answers_that_were_dropped_do_not_make_the_process_grow():
    """Five more of 40,000 chunks, some 65 MiB of events."""
    ran = subprocess.run(
        [sys.executable, "-c", GROWTH], capture_output=True, text=True, timeout=300, check=False
    )
    assert float(ran.stdout or "nan") < 35, ran.stdout + ran.stderr
