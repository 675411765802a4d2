"""Wrappers of somebody else's round a call: they compose with retry, time limits and the ledger, and a stream
reads the same."""

import asyncio
import random
from dataclasses import replace

import pytest

from nbllm import Client, simulator
from nbllm.client.attempt import ForwardingSink
from nbllm.client.policy import Retries
from nbllm.core import errors
from nbllm.core.events import Finished, Notice, Restarted, Started, StepEnded, TextDelta
from nbllm.routing import registry


@pytest.fixture(scope="module")
def sim():
    with simulator.serve(ttft=0.001, gap=0.001) as server:
        yield server


@pytest.fixture
def make(sim):
    made = []

    def one(*wrap, **options):
        env = {
            "OPENAI_BASE_URL": sim.base_url("openai_chat"),
            "ANTHROPIC_BASE_URL": sim.base_url("anthropic"),
            "OPENAI_API_KEY": "sk-canary-0123456789abcdef",
            "ANTHROPIC_API_KEY": "sk-canary-fedcba9876543210",
        }
        made.append(Client(registry.load(env), wrap=wrap, retries=Retries(1, base=0.0), **options))
        return made[-1]

    yield one
    for client in made:
        client.close()


def from_dictionary(answers):
    """Answers what is known already; nothing is sent."""

    def wrapper(handler):
        async def look_up(attempt, sink):
            known = answers.get(attempt.request.messages[-1].parts[0].text)
            if known is None:
                await handler(attempt, sink)
                return
            sink.publish(Started("known", attempt.request.model))
            sink.publish(TextDelta(known))
            sink.publish(Finished("stop"))

        return look_up

    return wrapper


def elsewhere(other):
    """Asks another route where the first has too much to do; `other` makes the attempt for it."""

    def wrapper(handler):
        async def fail_over(attempt, sink):
            try:
                await handler(attempt, sink)
            except errors.Overloaded as error:
                second = other(attempt)
                sink.publish(Notice("warning", f"{error.message} {second.provider_label} is asked."))
                await handler(second, sink)

        return fail_over

    return wrapper


class Sieve(ForwardingSink):
    """A sink that hands on what `change` makes of each event; nothing, where that is None."""

    def __init__(self, sink, change):
        super().__init__(sink)
        self.change = change

    def publish(self, event, at=None):
        if (changed := self.change(event)) is not None:
            self.sink.publish(changed, at)


def twice(handler):
    """Asks two times; both answers are one, of two steps."""

    async def two(attempt, sink):
        def step(event):
            return StepEnded(1) if isinstance(event, Finished) else event

        await handler(attempt, Sieve(sink, step))
        await handler(attempt, sink)

    return two


def test_an_answer_from_a_dictionary(make, sim):
    """Nothing is sent; the stream, the answer and the ledger are those of any call."""
    client, before = make(from_dictionary({"hello": "I know."})), len(sim.records)
    stream = client.stream("hello", "openai/m")
    assert ["I know."] == list(stream.text_stream)
    assert ("I know.", "openai", "m") == (
        stream.response().text,
        stream.response().provider,
        stream.response().model,
    )
    assert before == len(sim.records)
    assert (1, [], True) == (stream.timing.attempts, stream.traces, stream.timing.total is not None)
    assert [("ok", 1)] == [(r["status"], r["attempt"]) for r in client.ledger.rows()]
    assert client.complete("what is not known", "openai/m").text  # the others go on
    assert before + 1 == len(sim.records)


def test_another_route_where_the_first_is_overloaded(make, sim):
    """Each attempt keeps its error; the answer is the second provider's, priced and named as its own."""
    client = make()

    def other(attempt):
        route = client.resolve("claude/m")
        return client.attempt(
            replace(attempt.request, model=route.model), route, key=client.registry.key_for(route, None)
        )

    client.wrap = (elsewhere(other),)
    stream = client.stream("hello", "openai/m@status=503")
    answer = stream.response()
    assert "anthropic" == answer.provider
    assert answer.text
    overloaded, again, last = stream.traces  # the first is asked twice: that is its retry
    assert (errors.Overloaded, errors.Overloaded) == (type(overloaded.error), type(again.error))
    assert (None, 200) == (last.error, last.status)
    assert 3 == stream.timing.attempts
    assert 3 == len(client.ledger.rows())
    assert ["retry", "warning"] == [e.kind for _, e in stream.log if isinstance(e, Notice)]


@pytest.mark.parametrize("status", [503, 429])
def test_the_users_random_numbers_stay_theirs(make, status):
    """Who has seeded `random` gets the same numbers, however often we had to ask."""
    random.seed(7)
    before = random.getstate()
    answer = make().complete("hello", f"openai/random{status}@status={status},fail_times=1,retry_after=0.01")
    assert 2 == answer.timing.attempts
    assert before == random.getstate()


def test_two_attempts_in_one_answer(make):
    """Their events are one log in the order of time, with one end."""
    stream = make(twice).stream("hello", "openai/m")
    events = list(stream)
    assert 1 == sum(isinstance(e, Finished) for e in events)
    assert isinstance(events[-1], Finished)
    assert 2 == len(stream.traces) == len(stream.attempts)
    assert [at for at, _ in stream.log] == sorted(at for at, _ in stream.log)
    response = stream.response()
    assert 1 == len(response.before)
    assert "".join(e.text for e in events if isinstance(e, TextDelta)).endswith(response.text)


@pytest.mark.parametrize("wrap", [(), (twice,), (twice, from_dictionary({}))], ids=["none", "one", "two"])
def test_stop_keeps_what_came(make, wrap):
    """Whatever is wrapped round a call, it ends at once, with a part of the answer."""
    client = make(*wrap)
    stream = client.stream("hello", "openai/m@tokens=9999")
    for event in stream:
        if isinstance(event, TextDelta):
            stream.cancel()
            break
    assert stream.wait_end(30)
    assert stream.partial().text
    assert "cancelled" == stream.partial().finish_reason
    assert stream.error is None
    assert ["cancelled"] == [r["status"] for r in client.ledger.rows()]


def test_the_time_limit_holds_round_wrappers(make):
    """timeout.total ends what a wrapper waits for, with its own error; another TimeoutError is not taken for
    it."""

    def waiting(_handler):
        async def wait(_attempt, _sink):
            await asyncio.Event().wait()

        return wait

    def failing(_handler):
        async def fail(_attempt, _sink):
            raise TimeoutError("mine")

        return fail

    with pytest.raises(errors.Timeout) as caught:
        make(waiting).complete("hello", "openai/m", timeout=0.05)
    assert "total" == caught.value.which
    with pytest.raises(errors.NbllmError) as other:
        make(failing).complete("hello", "openai/m", timeout=60.0)
    assert not isinstance(other.value, errors.Timeout)


def test_what_a_wrapper_breaks_is_asked_no_second_time(make, sim):
    """Retry stands below: an error from a wrapper is the call's, and what was shown before it stays."""
    before = len(sim.records)

    def broken(handler):
        async def breaks(attempt, sink):
            await handler(attempt, Sieve(sink, lambda e: None if isinstance(e, Finished) else e))
            raise errors.Overloaded("too late", status=529)

        return breaks

    stream = make(broken).stream("hello", "openai/m")
    with pytest.raises(errors.Overloaded) as caught:
        stream.response()
    assert caught.value.partial.text
    assert before + 1 == len(sim.records)
    assert not any(isinstance(e, Restarted) for _, e in stream.log)
