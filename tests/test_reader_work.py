"""Work of a call that runs on the reader's thread."""

import asyncio
import contextvars
import gc
import threading

import pytest

from nbllm.client.engine import engine
from nbllm.client.stream import Stream
from nbllm.core.events import Finished, Response, TextDelta


def stream(work, log=None):
    """A stream whose call hands out `work` and says what came of it."""
    log = [] if log is None else log

    async def call(s):
        log.append(await s.run_on_reader(work))
        s.publish(TextDelta("done"))
        s.publish(Finished("stop"))

    s = Stream(lambda fold, stream: fold.response())
    return s.start(engine(), call(s)), log


def where():
    return threading.current_thread()


def test_a_sync_reader_does_it_on_its_own_thread():
    for read in (lambda s: s.response(), list, lambda s: list(s.text_stream), lambda s: s.wait(0)):
        s, log = stream(where)
        read(s)
        assert [(threading.current_thread(), None)] == log


def test_nothing_runs_where_nobody_reads():
    ran = threading.Event()
    s, log = stream(ran.set)
    assert s.wait(0, 30, run_tasks=False)
    assert s.has_reader_tasks
    assert not ran.is_set()
    s.cancel()
    assert s.wait_end(30)
    assert (False, []) == (s.has_reader_tasks, log)


def test_an_async_reader_does_it_in_its_own_loop():
    async def where_async():
        return asyncio.get_running_loop()

    async def read():
        for work in (where_async, asyncio.get_running_loop):
            for form in ("await", "for"):
                s, log = stream(work)
                if form == "await":
                    await s
                else:
                    async for _ in s:
                        pass
                assert [(asyncio.get_running_loop(), None)] == log

    asyncio.run(read())


@pytest.mark.parametrize("inside", [False, True], ids=["plain", "inside a running loop"])
def test_a_coroutine_for_a_sync_reader(inside):
    """As in a notebook, whose loop runs already."""
    kept = contextvars.ContextVar("kept", default=1)

    async def slow():
        await asyncio.sleep(0)
        return kept.get() + 1

    def read():
        s, log = stream(slow)
        s.response()
        return log

    async def outer():
        return read()

    assert [(2, None)] == (asyncio.run(outer()) if inside else read())


@pytest.mark.parametrize(
    ("raised", "told"),
    [(KeyError("x"), KeyError), (SystemExit(3), RuntimeError), (GeneratorExit(), RuntimeError)],
    ids=["error", "exit", "odd"],
)
def test_what_it_raises_is_the_calls_business(raised, told):
    def work():
        raise raised

    s, log = stream(work)
    assert isinstance(s.response(), Response)
    assert told is type(log[0][1])


def test_an_interrupt_of_the_work_stops_the_call():
    """Whoever it was that read."""

    def work():
        raise KeyboardInterrupt

    for read in (lambda s: s.wait(0), lambda s: s.response(), list):
        s, log = stream(work)
        with pytest.raises(KeyboardInterrupt):
            read(s)
        assert s.wait_end(30)
        assert ("cancelled", []) == (s.partial().finish_reason, log)


def test_several_readers_share_the_work():
    """Each errand is done once."""
    done = []
    s, _ = stream(lambda: done.append(1))
    threads = [threading.Thread(target=s.response) for _ in range(4)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert [1] == done


def test_a_reader_that_is_cancelled_in_the_work():
    async def read():
        began = asyncio.Event()

        async def work():
            began.set()
            await asyncio.Event().wait()

        s, log = stream(work)
        task = asyncio.ensure_future(s._wait_for_result())
        await began.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await asyncio.to_thread(s.wait_end, 10)
        return s.partial().finish_reason, log

    assert ("cancelled", []) == asyncio.run(read())


@pytest.mark.slow
def test_a_call_that_is_stopped_before_it_began_has_ended(recwarn):
    """Its work never runs, and is not left lying about."""

    async def work():
        await asyncio.Event().wait()

    async def stopped():
        stream = Stream(lambda fold, s: Response())
        stream.start(engine(), work())
        stream._cancel()
        await stream.wait_end_async()
        return stream

    stream = engine().run(stopped(), 30)
    gc.collect()
    assert [Finished("cancelled")] == [event for _, event in stream.log]
    assert stream.error is None
    assert [] == [w for w in recwarn if "never awaited" in str(w.message)]
