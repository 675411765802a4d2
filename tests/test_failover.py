"""model="a|b": which failures move on, what is shown, what is counted, and the breaker that leaves out what
keeps failing."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

import nbllm
from nbllm import Client, errors
from nbllm.client.engine import engine
from nbllm.client.failover import Breaker, Breakers, may_fail_over, request_for
from nbllm.core.events import Finished, Notice, Restarted, TextDelta
from nbllm.core.messages import Message, Raw, Reasoning, Request, Text, ToolCall
from nbllm.routing.registry import Route, load
from nbllm.store import columns

FAST = "ttft=0.001,gap=0,tokens=4"
GOOD = f"sim/anthropic/good@{FAST}"


@pytest.fixture
def client():
    """A client of its own, whose breakers are closed."""
    engine().singleton(Breakers)._known.clear()
    made = Client(load(), ledger=nbllm.client.client.Ledger("memory"))
    yield made
    made.close()


def told(stream):
    return [event.text for _, event in stream.log if isinstance(event, Notice) and event.kind == "failover"]


@pytest.mark.parametrize(
    "fault", ["status=500", "status=503", "status=401", "status=404", "status=429", "status=529"]
)
def test_what_may_go_well_elsewhere_moves_on(client, fault):
    """The answer is the other's, with its name, and the footer's words say why."""
    stream = client.stream("Hi", f"sim/openai/bad@{fault},{FAST}|{GOOD}", retries=0)
    answer = stream.response()
    assert ("anthropic", "stop") == (answer.provider.removeprefix("sim/").split("/")[0], answer.finish_reason)
    (words,) = told(stream)
    assert "did not answer" in words
    assert "good" in words


def test_each_hop_has_a_row_of_its_own(client):
    """With its own provider, model, status."""
    client.complete("Hi", f"sim/openai/bad@status=500,{FAST}|{GOOD}", retries=0)
    df = columns.frame(client.ledger.rows())
    assert ["server_error", "ok"] == [s if s == "ok" else "server_error" for s in df["status"]]
    assert df["provider"].nunique() == 2
    assert ["bad", "good"] == [m.split("@")[0].rpartition("/")[2] for m in df["model"]]
    assert [1, 2] == list(df["attempt"])


def test_a_wrong_request_is_wrong_everywhere(client):
    """It is not asked of anybody else."""
    with pytest.raises(errors.BadRequest):
        client.complete("Hi", f"sim/openai/bad@status=400,{FAST}|{GOOD}", retries=0)
    assert 1 == len(columns.frame(client.ledger.rows()))


def test_after_a_token_the_error_stands(client):
    """Words of two models are never joined; what came is in the error."""
    with pytest.raises(errors.StreamCut) as caught:
        client.complete("Hi", f"sim/openai/bad@{FAST},cut=2|{GOOD}", retries=0)
    assert caught.value.partial.text


def test_it_begins_anew_where_the_user_says_so(client):
    """What came is void, and told so."""
    stream = client.stream("Hi", f"sim/openai/bad@{FAST},cut=2|{GOOD}", retries=0, failover="restart")
    answer = stream.response()
    whole = client.complete("Hi", GOOD)
    assert (whole.text, "stop") == (answer.text, answer.finish_reason)
    assert any(isinstance(event, Restarted) for _, event in stream.log)


def test_all_fail(client):
    """The last one's error, and the others' in the notices."""
    with pytest.raises(errors.ServerError):
        client.complete("Hi", f"sim/openai/a@status=401,{FAST}|sim/openai/b@status=500,{FAST}", retries=0)


def test_tools_go_on_elsewhere(client):
    """Every turn of a loop is asked in turn."""

    def price(article: str) -> float:
        """The price of an article."""
        return 2.0

    script = nbllm.simulator.script(
        [{"calls": [{"name": "price", "arguments": {"article": "A"}}]}, {"text": "It costs 2."}]
    )
    answer = client.complete(
        "What is it?",
        f"sim/openai/bad@status=500,{FAST}|sim/anthropic/good@{FAST},{script}",
        tools=[price],
        approve="auto",
        retries=0,
    )
    assert "It costs 2." == answer.text
    assert 2 == len(answer.steps)


@pytest.mark.parametrize(
    ("model", "options"),
    [
        ("sim/openai|", {}),
        ("|sim/openai", {}),
        ("sim/openai|sim/openai", {}),
        ("sim/openai|sim/anthropic", {"base_url": "http://127.0.0.1:9/v1"}),
        ("sim/openai|sim/anthropic", {"dialect": "openai_chat"}),
        ("sim/openai|sim/anthropic", {"failover": "always"}),
        ("sim/openai", {"failover": "restart"}),
        ("openai/a|anthropic/b", {"api_key": "sk-x"}),
        ("sim/openai|no-such-provider/x", {}),
    ],
)
def test_what_makes_no_sense_is_refused_before_anything_is_sent(client, model, options):
    """In words that say what to write."""
    with pytest.raises(errors.ConfigError) as caught:
        client.stream("Hi", model, **options)
    assert caught.value.hint


def test_a_benchmark_refuses_it():
    """It measures one model at a time."""
    with pytest.raises(errors.ConfigError, match="one model at a time"):
        nbllm.bench.run("sim/openai|sim/anthropic", "Hi", blocks=1, progress=False)


def test_what_keeps_failing_is_left_out_for_a_while(client):
    """A wrong key at once: the second question goes straight to the other."""
    model = f"sim/openai/bad@status=401,{FAST}|{GOOD}"
    client.complete("Hi", model, retries=0)
    stream = client.stream("Hi", model, retries=0)
    assert stream.response().text
    assert 1 == len(stream.attempts)
    assert "skipped" in told(stream)[0]


# --- the breaker, by itself ---

SERVER, AUTH = errors.ServerError("x", status=500), errors.AuthenticationError("x", status=401)


def test_five_failures_in_half_a_minute_open_it():
    """Then one call is let through after 5, 10, 20 ... at most 300 s."""
    breaker, now = Breaker(), 0.0
    for _ in range(4):
        breaker.record(SERVER, now)
        assert 0.0 == breaker.wait_time(now)
    breaker.record(SERVER, now)
    waits = []
    for _ in range(9):
        waits.append(breaker.wait_time(now))
        now += waits[-1]
        assert 0.0 == breaker.wait_time(now)
        assert breaker.wait_time(now) > 0, "one call only"
        breaker.record(SERVER, now)
    assert [5, 10, 20, 40, 80, 160, 300, 300, 300] == waits
    breaker.record(None, now)
    assert 0.0 == breaker.wait_time(now)


def test_slow_failures_do_not_open_it():
    """Five in a minute."""
    breaker = Breaker()
    for at in range(0, 75, 15):
        breaker.record(SERVER, float(at))
    assert 0.0 == breaker.wait_time(75.0)


@pytest.mark.parametrize("error", [errors.RateLimited("x", status=429), errors.BadRequest("x", status=400)])
def test_limits_and_wrong_requests_are_not_its_business(error):
    """The gate has the limits."""
    breaker = Breaker()
    for _ in range(20):
        breaker.record(error, 0.0)
    assert 0.0 == breaker.wait_time(0.0)


@given(st.lists(st.tuples(st.sampled_from([SERVER, AUTH, None]), st.floats(0, 100))))
def test_it_never_stays_out_longer_than_its_longest_wait(happened):
    """Whatever comes."""
    breaker, now = Breaker(), 0.0
    for what, pause in happened:
        now += pause
        breaker.record(what, now)
        assert 0.0 <= breaker.wait_time(now) <= 300.001
    assert 0.0 == breaker.wait_time(now + 300.001)


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (errors.Timeout("x", which="first", seconds=1), True),
        (errors.Timeout("x", which="total", seconds=1), False),
        (errors.Timeout("x", which="idle", seconds=1), False),
        (errors.ContentFiltered("x", status=400), False),
        (errors.BadRequest("x", status=400), False),
        (errors.ContextLengthExceeded("x", status=400), False),
        (errors.ConfigError("x"), False),
        (errors.ProtocolError("x"), False),
        (errors.QuotaExceeded("x", status=402), True),
        (errors.ProviderError("x", status=409), True),
    ],
)
def test_which_errors_move_on(error, expected):
    """As a table."""
    assert expected is may_fail_over(error)


@pytest.mark.parametrize(
    ("kind", "models", "how", "asked"),
    [
        (errors.ContextLengthExceeded, "openai/gpt-4|openai/gpt-4.1", None, 2),
        (errors.ContextLengthExceeded, "openai/gpt-4.1|openai/gpt-4", None, 1),
        (errors.ContextLengthExceeded, "openai/gpt-4|openai/nobody-knows", None, 1),
        (errors.ContextLengthExceeded, "openai/nobody-knows|openai/gpt-4.1", None, 1),
        (errors.ContentFiltered, "openai/gpt-4|openai/gpt-4.1", None, 1),
        (errors.ContentFiltered, "openai/gpt-4|openai/gpt-4.1", "content", 2),
        (errors.BadRequest, "openai/gpt-4|openai/gpt-4.1", "content", 1),
    ],
)
def test_what_is_too_long_goes_where_it_fits_and_what_is_filtered_where_that_is_asked_for(
    kind, models, how, asked
):
    """A model that is known to read more is asked, no other; a filter's word stands unless the user says."""
    client = Client(load({"OPENAI_API_KEY": "sk-canary-0123456789"}), ledger=None)
    seen = []

    async def send(attempt, sink):
        sink.begin(attempt)
        seen.append(attempt.route.model)
        if len(seen) == 1:
            raise kind("Refused.", status=400)
        sink.publish(TextDelta("yes"))
        sink.publish(Finished("stop"))

    client.sender = send
    stream = client.stream("Hi", models, failover=how)
    if asked == 2:
        assert "yes" == stream.response().text
    else:
        with pytest.raises(kind):
            stream.response()
    assert asked == len(seen)
    client.close()


def test_another_provider_gets_no_signatures_of_the_first():
    """Thoughts and blocks of its own stay out; the same provider's stay."""
    rows = load()
    first, other, same = (
        Route(m, rows.rows[m.partition("/")[0]], m.partition("/")[2])
        for m in ("anthropic/a", "gemini/b", "anthropic/c")
    )
    parts = (
        Reasoning("hm", "SIG"),
        Raw("anthropic", {"type": "x"}),
        Text("yes", "SIG"),
        ToolCall("i", "n", {}, "{}", "SIG"),
    )
    request = Request(model="a", messages=(Message("assistant", parts),))
    assert parts == request_for(request, first, same).messages[0].parts
    assert (Text("yes"), ToolCall("i", "n", {}, "{}")) == request_for(request, first, other).messages[0].parts
