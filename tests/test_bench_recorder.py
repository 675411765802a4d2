"""The worker's second thread: what waits together is written down and told together, and nothing is lost."""

import asyncio
import threading

from nbllm.bench.plan import Budget
from nbllm.bench.recorder import CpuPressure, MeasuredRequest, Recorder
from nbllm.bench.store import Store

MANY = 200


def row(number):
    """A request that another process has measured."""
    return {"request_id": f"r{number:03}", "attempt": 1, "seq": number, "name": "m", "ok": number % 2 == 0}


def test_what_waits_together_is_recorded_together(tmp_path):
    """Requests that ended while the disk was busy take a few transactions, in their order, each of them
    kept, told and counted."""
    told, begun, free = [], threading.Event(), threading.Event()

    def said(rows):
        told.append([r["request_id"] for r in rows])
        begun.set()
        assert free.wait(30)

    async def work():
        recorder = Recorder(store, Budget(), said)
        recorder.add(MeasuredRequest({}, 0, "s0", rows=(row(0),)))
        await asyncio.to_thread(begun.wait, 30)
        for number in range(1, MANY):
            recorder.add(MeasuredRequest({}, 0, f"s{number}", rows=(row(number),)))
        free.set()
        await recorder.flush()
        assert [row(n) for n in range(MANY)] == recorder.recent[0] == store.rows()
        recorder.close()
        return recorder

    with Store(tmp_path, create=True) as store:
        recorder = asyncio.run(work())
        assert {f"s{n}" for n in range(MANY)} == store.finished_slots()
    assert [f"r{n:03}" for n in range(MANY)] == [name for batch in told for name in batch]
    assert len(told) <= 1 + 4
    assert recorder.totals["requests"] == MANY
    assert recorder.consecutive_failures == {"m": 1}  # the last one failed
    assert not recorder.failure


def test_what_cannot_be_measured_takes_nothing_else_along(tmp_path):
    """A row that cannot be written as JSON fails its own batch and is told; the thread goes on."""

    async def work():
        recorder = Recorder(store, Budget(), lambda rows: None)
        recorder.add(MeasuredRequest({}, 0, "bad", rows=({**row(0), "text": object()},)))
        await recorder.flush()
        failure = recorder.failure
        recorder.add(MeasuredRequest({}, 0, "good", rows=(row(1),)))
        await recorder.flush()
        recorder.close()
        return failure

    with Store(tmp_path, create=True) as store:
        assert asyncio.run(work())
        assert {"good"} == store.finished_slots()


def test_what_no_json_writer_of_ours_takes_is_kept(tmp_path):
    """Half a character in a server's words, and a count beyond all counts."""
    odd = {**row(0), "response_model": "m\ud800", "in_tokens": 10**30, "ttft_ms": 0.1}

    async def work():
        recorder = Recorder(store, Budget(), lambda rows: None)
        recorder.add(MeasuredRequest({}, 0, "s0", rows=(odd,)))
        await recorder.flush()
        recorder.close()
        return recorder.failure

    with Store(tmp_path, create=True) as store:
        assert not asyncio.run(work())
        assert [odd] == store.rows()


def test_pressure_is_read_once_a_turn():
    """Whatever begins and ends in one turn of the loop sees one value; the next turn sees its own."""
    waited = CpuPressure()
    first = waited.since_wakeup(1.0)
    assert first == waited.since_wakeup(1.0)
    assert first is None or waited.since_wakeup(2.0) >= first


def test_pressure_only_grows():
    """Where the system tells it, time that tasks have waited."""
    waited = CpuPressure()
    first, then = waited.now(), waited.now()
    assert first is None or then >= first
