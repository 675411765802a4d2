"""The gate before a provider: simulations of providers with a clock of their own, properties of the state,
and calls over real sockets."""

import asyncio
import json
import math
import time

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nbllm import Client, simulator
from nbllm.client.engine import engine
from nbllm.client.gate import Gate, Gates, _QueuedCall
from nbllm.client.limiter import COOLDOWN, MAX_LIMIT, START_LIMIT, ConcurrencyLimit, Limiter, Need
from nbllm.client.policy import Retries
from nbllm.client.stream import Stream
from nbllm.core import errors
from nbllm.core.events import Notice, TextDelta
from nbllm.dialects._limits import parse_limits
from nbllm.routing import registry
from nbllm.simulator.limits import STYLES

from .examples import examples
from .gate_clock import NONE, Sitting, played
from .listeners import Listener

SEEDS = (1,)  # of the dice; benchmarks/gate.py throws ten
SILENT = ("groq", "gemini", "none")  # which tell nothing of a minute's requests before they refuse
TELLING = [style for style in STYLES if style not in (*SILENT, "together")]
SMALL = {"together": {"limit": 1, "per": 1.0}}  # whose limits are a second's


def x(name, many, left, reset=None):
    told = {f"x-ratelimit-limit-{name}": many, f"x-ratelimit-remaining-{name}": left}
    return told | ({} if reset is None else {f"x-ratelimit-reset-{name}": reset})


BESIDE = {"ttft": 0.008, "way": 0.006, "apart": 0.12, "long": 0.1}
FAR = {
    "here": {},
    "elsewhere": {"free": False, "date": True, "way": 0.02},
    "busy": {"way": 0.05, "ttft": 0.02},
}


@pytest.mark.parametrize("far", FAR)
@pytest.mark.parametrize("style", STYLES)
def test_a_table_of_300_rows_against_60_a_minute(style, far):
    """At most five refusals, 95 % of what was possible, and nobody waits long for what is there in a
    second. Where a bucket holds one request, ways of 50 ms leave 95 % at best."""
    tight = far == "busy" and style in SMALL
    for seed in SEEDS:
        result = played(Sitting(style, seed=seed, **FAR[far], **SMALL.get(style, {})))
        assert result.refused <= 5
        assert result.share >= (0.85 if tight else 0.95)
        assert result.pause <= 5.0


@pytest.mark.slow
@pytest.mark.parametrize("limit", [2, 3, 4, 5, 10])
def test_limits_of_a_second_whose_reset_is_a_whole_number(limit):
    """Rounded up, which makes no fixed window of a bucket."""
    for seed in range(4):
        result = played(Sitting("together", limit=limit, per=1.0, seed=seed))
        assert result.refused <= 5
        assert result.share >= 0.95


@pytest.mark.parametrize("style", STYLES)
def test_a_table_of_slow_answers(style):
    """Whose fate is known late: a second to the first token, three more to the end."""
    for seed in SEEDS:
        result = played(Sitting(style, ttft=1.0, long=3.0, seed=seed, **SMALL.get(style, {})))
        assert result.refused <= 5
        assert result.share >= 0.93


@pytest.mark.parametrize("style", [*TELLING, *SILENT])
def test_windows_that_come_back_at_once(style):
    """Nothing tells them from a bucket before the first is used up. Who names no wait is asked now and
    then."""
    for seed in SEEDS:
        result = played(Sitting(style, fixed=True, seed=seed))
        assert result.refused <= (40 if style == "none" else 8)
        assert result.share >= (0.8 if style == "none" else 0.94)


@pytest.mark.parametrize("style", STYLES)
def test_two_that_share_a_key(style):
    """Neither knows of the other, but what is left tells: neither takes more than an eighth of it at
    once, and both come to go at half the rate. Where nothing tells, each finds its own by its refusals."""
    for seed in SEEDS:
        result = played(Sitting(style, gates=2, seed=seed, **SMALL.get(style, {})))
        assert result.refused <= (30 if style in SMALL else 10 if style in SILENT else 3)
        assert result.share >= (0.7 if style in SILENT else 0.95)
        assert result.pause <= 5.0


@pytest.mark.parametrize("gates", [2, 3])
@pytest.mark.parametrize("far", [*FAR, "beside"])
def test_those_who_share_a_key_from_afar(far, gates):
    """However long the ways: what was begun before the first answers told of others is little."""
    for seed in range(3):
        result = played(Sitting("openai", gates=gates, seed=seed, **FAR.get(far, BESIDE)))
        assert result.refused <= 5
        assert result.share >= 0.95


@pytest.mark.parametrize("style", [*TELLING, *SILENT])
def test_one_that_comes_later_to_a_shared_key(style):
    """When nothing is left."""
    for seed in (1, 2, 3):
        result = played(Sitting(style, gates=2, apart=20.0, seed=seed))
        assert result.refused <= (40 if style in SILENT else 8)
        assert result.share >= (0.6 if style in SILENT else 0.94)


@pytest.mark.parametrize("style", TELLING)
def test_somebody_else_uses_the_key(style):
    """Somebody who keeps to nothing takes a third of the rate: what is left is used."""
    for seed in SEEDS:
        result = played(Sitting(style, others=0.35, seed=seed))
        assert result.refused <= 15
        assert result.share >= 0.9


@pytest.mark.parametrize("style", ["groq", "gemini", "none"])
def test_a_limit_of_a_second_is_found_where_nobody_tells_it(style):
    """What was let in first is taken for a minute's, and tried: 300 rows do not take ten minutes."""
    for seed in SEEDS:
        result = played(Sitting(style, limit=30, per=1.0, width=16, seed=seed))
        assert result.refused <= 12
        assert result.share >= 0.5


@pytest.mark.parametrize("window", [0.5, 5.0, 60.0])
@pytest.mark.parametrize("limit", [5, 60, pytest.param(1000, marks=pytest.mark.slow)])
def test_the_window_is_learnt_where_nobody_names_it(limit, window):
    """From how far off `reset` is."""
    each = window / limit
    result = played(
        Sitting("openai", 5 * limit, limit, window, ttft=0.02 * each, long=0.01 * each, way=0.01 * each)
    )
    assert result.refused <= 5
    assert result.share >= 0.9


# --- the state ----------------------------------------------------------------------------------------------


def test_nothing_is_held_back_before_anything_is_known():
    """Of what somebody waits for, on this machine; of a table's rows one goes first, then three at a time."""
    limiter = Limiter(is_local=True)
    for _ in range(500):
        assert 0.0 == limiter.wait_time(0.0, NONE)
        limiter.start(0.0, NONE)
    limiter, rows = Limiter(is_local=True), 0
    while limiter.wait_time(0.0, NONE, background=True) == 0.0:
        rows += 1
        ticket = limiter.start(0.0, NONE)
    assert 1 == rows
    assert 1.0 == limiter.wait_time(0.0, NONE, background=True)
    limiter.on_answer(0.5, ticket, ())
    while limiter.wait_time(0.5, NONE, background=True) == 0.0:
        rows += 1
        limiter.start(0.5, NONE)
    assert 4 == rows


def test_the_width_doubles_is_cut_once_and_grows_slowly():
    """AIMD: one cut in 15 s, none of its time counted as clean; never where it is not used."""
    width = ConcurrencyLimit()
    for _ in range(2):
        width.peak = int(width.value)
        for _ in range(int(width.value)):
            width.on_success(0.0, int(width.value))
    assert 4 * START_LIMIT == width.value
    width.peak = 32
    width.cut(1.0)
    width.cut(2.0)
    assert pytest.approx(0.8 * 32) == width.value
    for _ in range(100):
        width.on_success(COOLDOWN, 32)
    assert pytest.approx(0.8 * 32) == width.value
    for _ in range(26):
        width.on_success(1.0 + COOLDOWN, 32)
    assert pytest.approx(0.8 * 32 * 1.05) == width.value
    unused = ConcurrencyLimit()
    for _ in range(100):
        unused.peak = 1
        unused.on_success(0.0, 1)
    assert START_LIMIT == unused.value


OPERATIONS = st.lists(
    st.tuples(
        st.sampled_from(["start", "head", "end", "refused", "overload"]),
        st.floats(0, 30),
        st.integers(0, 60),
        st.one_of(st.none(), st.floats(0, 100)),
    ),
    max_size=60,
)


@examples(60)
@given(OPERATIONS)
def test_whatever_happens(operations):
    """Waits are never negative, no number or for ever; the width keeps its bounds; calls in flight are
    counted."""
    limiter, now, in_flight = Limiter(), 0.0, []
    for what, pause, left, told in operations:
        now += pause
        headers = x("requests", "60", str(left), None if told is None else f"{told:.3f}s")
        known = parse_limits(headers, 0.0)
        if what == "start":
            in_flight.append(limiter.start(now, Need(5.0, 5.0)))
        elif what == "overload":
            limiter.on_overload(now)
        elif in_flight:
            ticket = in_flight[0] if what == "head" else in_flight.pop()
            if what == "head":
                limiter.on_answer(now, ticket, known)
            elif what == "refused":
                assert 0 <= limiter.on_refusal(now, ticket, told, known, 0.5) < math.inf
            if what != "head":
                limiter.end(now, ticket, ok=what == "end")
        wait = limiter.wait_time(now, NONE)
        assert wait is None or 0 <= wait < math.inf
        assert 1 <= limiter.concurrency.value <= MAX_LIMIT
        assert len(in_flight) == limiter.in_flight


def test_tokens_are_charged_at_the_start_and_settled_at_the_end():
    """An estimate that was too high is given back."""
    limiter = Limiter()
    first = limiter.start(0.0, NONE)
    limiter.on_answer(0.0, first, parse_limits(x("tokens", "1000", "900"), 0.0))
    limiter.end(0.0, first, ok=True)
    big = Need(500.0, 350.0)
    ticket = limiter.start(0.0, big)
    assert limiter.wait_time(0.0, big) > 40
    limiter.end(0.0, ticket, ok=True, used=Need(20.0, 10.0))
    assert 0.0 == limiter.wait_time(0.0, Need(500.0, 300.0))


# --- calls --------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def sim():
    with simulator.serve(ttft=0.0, gap=0.0, tokens=3) as server:
        yield server


@pytest.fixture
def client(sim):
    env = {"OPENAI_BASE_URL": sim.base_url("openai_chat"), "OPENAI_API_KEY": "sk-canary-0123456789abcdef"}
    made = Client(registry.load(env), ledger=None, retries=Retries(1, base=0.0))
    yield made
    made.close()


def gates():
    return list(engine().singleton(Gates)._gates.values())


def ask(client, model, prompt="hello", **options):
    """A call that `send` starts, as a table's rows do."""
    route = client.resolve(model)
    request = client.request(prompt, route.model)
    return client.send(request, route, key=client.registry.key_for(route, None), **options)


@pytest.mark.slow
def test_a_refusal_costs_none_of_the_attempts(client, sim):
    """Four refusals with their time, one retry: the answer comes."""
    before = len(sim.records)
    answer = client.stream("four", "openai/a@status=429,fail_times=4,retry_after=0.01", retries=1).response()
    assert answer.text
    assert 5 == len(sim.records) - before


def test_no_retries_means_one_request(client, sim):
    """The gate asks no second time either."""
    before = len(sim.records)
    with pytest.raises(errors.RateLimited):
        client.complete("once", "openai/b@status=429,fail_times=4,retry_after=0.01", retries=0)
    assert 1 == len(sim.records) - before


@pytest.mark.parametrize(("start", "many"), [("x-ratelimit", 77), ("ratelimit", 78)])
def test_a_gateways_limit_reaches_the_gate(start, many):
    """With and without the "x-", with its window."""
    done = {"index": 0, "message": {"role": "assistant", "content": "hi"}, "finish_reason": "stop"}
    with Listener((200, json.dumps({"id": "1", "model": "m", "choices": [done]}).encode())) as server:
        server.more = {
            f"{start}-limit": f"{many}, {many};w=3",
            f"{start}-remaining": "76",
            f"{start}-reset": "3",
        }
        client = Client(registry.load({}), ledger=None)
        assert "hi" == client.complete("hello", "m", base_url=f"{server.url}/v1").text
        client.close()
    assert (many, 3.0) in [(b.limit, b.span) for g in gates() for b in g.limiter.buckets.values()]


@pytest.mark.slow
def test_one_refusal_holds_all_back(client, sim):
    """Forty calls on a table, the first of which are refused: one pause, then one by one, then all."""
    model = "openai/c@status=429,fail_times=1,retry_after=0.2"
    before = len(sim.records)
    streams = [ask(client, model, "the same", background=True) for _ in range(40)]
    assert all(s.response(30).text for s in streams)
    assert 41 == len(sim.records) - before


def test_a_wait_that_is_too_long_is_not_waited_for(client, sim):
    """Two minutes, with somebody waiting: the error comes at once and says how long."""
    before = len(sim.records)
    with pytest.raises(errors.RateLimited) as caught:
        client.complete("hello", "openai/d@status=429,retry_after=120")
    assert 120.0 == caught.value.retry_after
    with pytest.raises(errors.RateLimited):
        client.complete("another", "openai/d@status=429,retry_after=120")
    assert 1 == len(sim.records) - before


def test_a_wait_is_told_once_and_stop_ends_it(client, sim):
    """The notice names the provider; the queue is clean afterwards, and others are let in."""
    model = "openai/e@status=429,fail_times=1,retry_after=30"
    stream = client.stream("hello", model)
    for event in stream:
        if isinstance(event, Notice):
            assert ("wait", True) == (event.kind, "OpenAI's rate limit" in event.text)
            break
    waiting = client.stream("me too", model)
    assert waiting.wait(0, 30)
    assert "wait" == waiting.log[0][1].kind
    for one in (stream, waiting):
        one.cancel()
        assert one.wait_end(30)
    gate = next(
        g
        for g in gates()
        if g.limiter.paused_until and not g.limiter.answered and g.limiter.refusal_streak == 1
    )
    assert gate.is_idle


@pytest.mark.slow
def test_who_waits_goes_before_a_table(client):
    """With a table's rows in the queue, a call of a cell is the next; stopped ones leave no trace."""
    route, order = client.resolve("openai/f"), []
    request = client.request("hello", route.model)
    cell = client.attempt(request, route, key=client.registry.key_for(route, None))
    row = msgspec.structs.replace(cell, background=True)

    async def enter(gate, name, attempt):
        await gate.enter(_QueuedCall(attempt, Stream(lambda fold, stream: None)))
        order.append(name)

    async def all_of_them():
        gate = Gate("p", Limiter())
        gate.limiter.paused_until = time.monotonic() + 1.0
        work = [asyncio.ensure_future(enter(gate, f"row {i}", row)) for i in range(3)]
        work.append(asyncio.ensure_future(enter(gate, "cell", cell)))
        await asyncio.sleep(0)
        work[1].cancel()
        await asyncio.gather(*work, return_exceptions=True)
        assert 3 == gate.limiter.in_flight
        assert not any(gate.queues)

    asyncio.run(all_of_them())
    assert ["cell", "row 0", "row 2"] == order


def test_a_measured_call_meets_no_gate(sim):
    """paced=False, as benchmarks' clients are: nobody is held back and a refusal is its own."""
    env = {"OPENAI_BASE_URL": sim.base_url("openai_chat"), "OPENAI_API_KEY": "sk-canary-0123456789abcdef"}
    client, before = Client(registry.load(env), ledger=None, paced=False), len(gates())
    with pytest.raises(errors.RateLimited):
        client.complete("hello", "openai/g@status=429,retry_after=120", retries=0)
    assert client.complete("hello", "openai/g").text
    assert before == len(gates())
    client.close()


def test_no_key_in_a_gates_repr(client):
    """Nor in its name, whatever the address holds."""
    client.complete("hello", "openai/h")
    with pytest.raises(errors.ConnectFailed):
        client.complete("hello", "openai/h", base_url="http://u:canary@127.0.0.1:9/v1", retries=0)
    assert "canary" not in repr(gates()) + repr(engine().singleton(Gates)._gates)


def test_what_was_shown_is_never_asked_again(client, sim):
    """A refusal inside the stream, after tokens."""
    before = len(sim.records)
    stream = client.stream("hello", "openai/i@tokens=9,error=3,status=429,fail_times=0")
    with pytest.raises(errors.NbllmError):
        list(stream)
    assert any(isinstance(event, TextDelta) for _, event in stream.log)
    assert 1 == len(sim.records) - before
