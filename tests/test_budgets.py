"""Budgets: reserved before a call is sent, settled after; among calls of one process, and among processes."""

import asyncio
import contextlib
import os
import subprocess
import sys
import threading
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest

from nbllm import Client, simulator
from nbllm.client.embeddings import embed
from nbllm.client.policy import Retries
from nbllm.core.calls import ModelFacts
from nbllm.core.errors import BudgetExceeded, ConfigError, NbllmError
from nbllm.core.messages import Text
from nbllm.notebook.budget import budget_command as line
from nbllm.notebook.budget import install_daily_budget
from nbllm.notebook.question import Question
from nbllm.notebook.run import Run
from nbllm.notebook.session import Session
from nbllm.routing import registry
from nbllm.store.budgets import Amount, Budget, SharedBudget

MODEL = "openai/m@tokens=10"
USING = f"{MODEL},tools=1"  # it calls a tool once
ONE = 100 + 2 + 4  # tokens that the prompt below and its answer may take
PROMPT = "x" * 8


@pytest.fixture(scope="module")
def sim():
    with simulator.serve(ttft=0.001, gap=0.001) as server:
        yield server


@pytest.fixture
def make(sim):
    made = []

    def one(*wrap, priced=True):
        env = {"OPENAI_BASE_URL": sim.base_url("openai_chat"), "OPENAI_API_KEY": "sk-canary-0123456789abcdef"}
        known = registry.load(env)
        if priced:  # $1 and $2 for a thousand tokens
            row = known.rows["openai"]
            facts = dict.fromkeys((MODEL[7:], USING[7:]), ModelFacts(None, 1_000.0, 2_000.0))
            known.rows["openai"] = replace(row, facts=facts)
        made.append(Client(known, wrap=wrap, retries=Retries(0)))
        return made[-1]

    yield one
    for client in made:
        client.close()


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.setenv("NBLLM_HOME", str(tmp_path))
    return tmp_path


def spent(budget):
    state = budget.state()
    return state.spent.tokens, state.reserved.tokens


@pytest.mark.parametrize("kind", [Budget, lambda **limits: SharedBudget("n", **limits)])
@pytest.mark.parametrize(
    ("limits", "fits"),
    [({"usd": 1.0}, 10), ({"tokens": 70}, 7), ({"usd": 1.0, "tokens": 70}, 7), ({"usd": 0.5}, 5)],
)
def test_as_many_as_fit_are_reserved(kind, limits, fits):
    """Whatever asks at once; what is settled with less makes room."""
    budget, numbers, barrier = kind(**limits), [], threading.Barrier(16)

    def ask():
        barrier.wait(30)
        with contextlib.suppress(BudgetExceeded):
            numbers.append(budget.reserve(Amount(0.1, 10)))

    threads = [threading.Thread(target=ask) for _ in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert fits == len(numbers)
    budget.settle(numbers[0], Amount(0.0, 0))
    budget.settle(numbers[0], Amount(9.0, 900))  # a second time counts nothing
    again = budget.reserve(Amount(0.1, 10))
    with pytest.raises(BudgetExceeded):
        budget.reserve(Amount(0.1, 10))
    budget.settle(again, Amount(0.2, 20))
    assert (20, 10 * (fits - 1)) == spent(budget)


@pytest.mark.parametrize(
    "given", [0, -1, float("nan"), float("inf"), True, "5", {}, {"euros": 1}, {"usd": 0}]
)
def test_what_is_no_budget(given):
    with pytest.raises(ConfigError):
        Budget.of(given)


def test_a_price_that_is_not_known(make):
    """Under a limit in dollars it is refused with what to do; under one in tokens it is sent."""
    client = make(priced=False)
    with pytest.raises(ConfigError, match="price") as caught:
        client.complete(PROMPT, MODEL, budget=1.0)
    assert "tokens:" in caught.value.hint
    assert client.complete(PROMPT, MODEL, budget={"tokens": 5_000}).text


@pytest.mark.slow
def test_the_simulator_is_free(make):
    budget = Budget(usd=0.01, tokens=100_000)
    client = make()
    client.registry.simulate = True
    assert client.complete(PROMPT, "openai/gpt-x@tokens=10", budget=budget).text
    assert 0.0 == budget.state().spent.usd
    assert 0 < budget.state().spent.tokens


def test_what_does_not_fit_is_not_sent(make, sim):
    """The error says limit, spent, reserved, what this call may take, and what to do."""
    client, before = make(), len(sim.records)
    budget = Budget(tokens=120)
    with pytest.raises(BudgetExceeded) as caught:
        client.complete(PROMPT, MODEL, budget=budget)
    assert before == len(sim.records)
    for words in ("120 tokens", "0 of it spent", "0 reserved", "1,006", "max_tokens="):
        assert words in str(caught.value)
    answer = client.complete(PROMPT, MODEL, budget=budget, max_tokens=100)
    assert before + 1 == len(sim.records)
    assert (answer.usage.input_tokens + answer.usage.output_tokens, 0) == spent(budget)
    with pytest.raises(BudgetExceeded):
        client.complete(PROMPT, MODEL, budget=0.1, max_tokens=100)
    assert client.complete(PROMPT, MODEL, budget=0.5, max_tokens=100).text


@pytest.mark.slow
@pytest.mark.parametrize("kind", [Budget, lambda **limits: SharedBudget("n", **limits)])
@pytest.mark.parametrize("limits", [{"tokens": 10 * ONE}, {"usd": 10 * (0.006 + 0.2)}])
def test_64_calls_on_a_budget_for_ten(make, limits, kind):
    """Ten are sent, all others refused while those are under way; the client's own budget."""
    all_there, refused = threading.Event(), []

    def held(handler):
        async def wait(attempt, sink):
            try:
                await handler(attempt, sink)
            except BudgetExceeded as error:
                refused.append(error)
                if len(refused) == 54:
                    all_there.set()
                raise

        return wait

    client = make(held)
    client.budget = kind(**limits)
    client.registry.rows["openai"] = replace(
        client.registry.rows["openai"], facts={"m@tokens=10,ttft=60": ModelFacts(None, 1_000.0, 2_000.0)}
    )
    streams = [client.stream(PROMPT, f"{MODEL},ttft=60", max_tokens=100) for _ in range(64)]
    assert all_there.wait(30)
    assert 54 == len(refused)
    for stream in streams:
        stream.cancel()
    for stream in streams:
        assert stream.wait_end(30)
    assert (0, 0) == spent(client.budget)  # nothing had come


def looked_up(article: str) -> str:
    """The price of an article."""
    return "4 EUR"


@pytest.mark.parametrize("kind", [Budget, lambda **limits: SharedBudget("n", **limits)])
def test_loops_of_tools_share_a_budget(make, sim, kind):
    """Each turn counts in it; who finds it spent has one last answer, or is not sent at all."""
    client, budget = make(), kind(usd=10.0, tokens=100_000)
    ask = {"tools": [looked_up], "approve": "auto", "budget": budget}
    first = client.complete(PROMPT, USING, **ask)
    assert (2, 1) == (len(first.steps), len(first.before))
    assert (first.usage.input_tokens + first.usage.output_tokens, 0) == spent(budget)
    taken = budget.state().spent.usd
    assert 0 < taken < 1
    budget.settle(budget.reserve(Amount()), Amount(10.0 - taken - 1e-6, 0))
    last = client.complete(PROMPT, USING, **ask)
    assert 2 == len(last.steps)  # the first turn spent it, the second is the last answer
    before = len(sim.records)
    with pytest.raises(BudgetExceeded, match="not sent"):
        client.complete(PROMPT, USING, **ask)
    assert before == len(sim.records)


def test_a_budget_that_others_spend_ends_a_loop(make):
    """At its next turn, with an answer."""
    client, budget = make(), Budget(tokens=100_000)

    def spends(article: str) -> str:
        """The price of an article."""
        budget.settle(budget.reserve(Amount(0.0, 1), unconditional=True), Amount(0.0, 100_000))
        return "4 EUR"

    answer = client.complete(
        PROMPT,
        USING.replace("tools=1", "tools=5"),
        tools=[spends],
        approve="auto",
        budget=budget,
        max_steps=9,
    )
    assert (2, "stop") == (len(answer.steps), answer.finish_reason)


def test_tools_with_an_unknown_price_are_refused_under_dollars(make, sim):
    client, before = make(priced=False), len(sim.records)
    with pytest.raises(ConfigError, match="price"):
        client.complete(PROMPT, MODEL, tools=[looked_up], approve="auto", budget=1.0)
    assert before == len(sim.records)


def test_vectors_are_no_tokens(make):
    """What a text takes is reserved, and no answer; the client's own budget holds for them too."""
    client = make()
    client.budget = Budget(tokens=100)
    assert ["ok"] == list(embed(client, ["x" * 40], "openai/m")["status"])
    tokens, held = spent(client.budget)
    assert (True, 0) == (0 < tokens < 80, held)
    with pytest.raises(BudgetExceeded):
        embed(client, ["x" * 400], "openai/m")


def test_an_answer_that_is_known_takes_nothing(make):
    """cache=true: the second time nothing is sent, and nothing reserved."""
    client, budget = make(), Budget(tokens=ONE)
    answer = client.complete(PROMPT, MODEL, max_tokens=100, budget=budget, cache="true")
    before = spent(budget)
    assert answer.text == client.complete(PROMPT, MODEL, max_tokens=100, budget=budget, cache="true").text
    assert before == spent(budget)
    with pytest.raises(BudgetExceeded):
        client.complete(PROMPT, MODEL, max_tokens=100, budget=budget, cache="refresh")


def test_another_model_meets_the_budget_too(make):
    """model=a|b: what a refused gave back is there for b; where it does not fit, nobody else is asked."""
    client, budget = make(), Budget(tokens=ONE)
    answer = client.complete(PROMPT, f"openai/a@status=503|{MODEL}", max_tokens=100, budget=budget)
    assert (answer.usage.input_tokens + answer.usage.output_tokens, 0) == spent(budget)
    with pytest.raises(BudgetExceeded):
        client.complete(PROMPT, f"openai/a|{MODEL}", max_tokens=200, budget=Budget(tokens=150))


def test_a_stopped_answer_counts_what_came(make):
    client, budget = make(), Budget(tokens=100_000)
    stream = client.stream(PROMPT, "openai/m@tokens=1000,gap=0.05", budget=budget)
    for _ in stream.text_stream:
        stream.cancel()
    assert stream.wait_end(30)
    tokens, held = spent(budget)
    assert held == 0
    assert 0 < tokens < 500


@pytest.mark.slow
def test_a_refused_call_counts_nothing(make):
    client, budget = make(), Budget(tokens=100_000)
    with pytest.raises(NbllmError):
        client.complete(PROMPT, "openai/m@status=500", budget=budget)
    assert (0, 0) == spent(budget)


CHILD = """
import sys
from nbllm.store.budgets import Amount, SharedBudget
budget = SharedBudget("n", tokens=100)
budget.reserve(Amount(0.0, 60))
print("reserved", flush=True)
sys.stdin.readline()
"""


@pytest.mark.slow
def test_two_processes_share_a_limit_and_a_killed_one_gives_back(folder):
    """kill -9 with a reservation open: its lock goes with it, and so does the reservation."""
    child = subprocess.Popen(
        [sys.executable, "-c", CHILD], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    try:
        assert "reserved\n" == child.stdout.readline()
        budget = SharedBudget("n", tokens=100)
        assert (0, 60) == spent(budget)
        with pytest.raises(BudgetExceeded, match="60 reserved"):
            budget.reserve(Amount(0.0, 41))
        other = SharedBudget("another", tokens=100)
        other.settle(other.reserve(Amount(0.0, 100)), Amount(0.0, 100))
        child.kill()
        child.wait(30)
        locks = len(list((folder / "budgets").glob("*.lock")))
        number = budget.reserve(Amount(0.0, 41))
        assert (0, 41) == spent(budget)
        assert locks - 1 == len(list((folder / "budgets").glob("*.lock")))
        budget.settle(number, Amount(0.0, 40))
        assert (40, 0) == spent(SharedBudget("n", tokens=200))  # what was spent stays, the limit is new
        assert 200 == budget.state().tokens
    finally:
        child.kill()
        child.communicate()


@pytest.mark.skipif(sys.platform == "win32", reason="modes of files")
def test_the_file_is_the_users_alone(tmp_path):
    SharedBudget("n", tokens=1).state()
    found = list(Path(tmp_path, "budgets").iterdir())
    assert {0o600} == {os.stat(path).st_mode & 0o777 for path in found}


def test_a_file_that_cannot_be_used(tmp_path):
    """Refused with what to do: a limit that cannot be kept is none."""
    (tmp_path / "budgets").mkdir(mode=0o700)
    (tmp_path / "budgets" / "budgets.sqlite").write_bytes(b"no database" * 100)
    with pytest.raises(ConfigError, match="shared budgets"):
        SharedBudget("n", tokens=1)


def test_asyncio_reads_it_too(make):
    async def many(client):
        asked = (client.stream(PROMPT, MODEL, max_tokens=100).wait_end_async() for _ in range(3))
        return await asyncio.gather(*asked, return_exceptions=True)

    client = make()
    client.budget = Budget(tokens=3 * ONE)
    asyncio.run(many(client))
    assert 0 == client.budget.state().reserved.tokens


# --- in a notebook ---


@pytest.fixture
def session(make):
    return Session(SimpleNamespace(user_ns={}), make())


def test_a_cell_is_the_sum_of_its_columns(session):
    """Two of three fit together; a second run of the cell has the whole again."""
    options = {"budget": {"tokens": 2 * ONE}, "max_tokens": 100}
    asked = Question(
        (Text(PROMPT),), ("openai/a@ttft=60", "openai/b@ttft=60", "openai/c@ttft=60"), options, {}
    )
    for _ in range(2):
        run = Run.of(asked, session.send).begin()
        ended = threading.Event()
        threading.Thread(target=lambda run=run, ended=ended: first(run, ended), daemon=True).start()
        assert ended.wait(30)
        run.cancel(30.0)
        errors = [stream.error for stream in run.streams]
        assert 1 == sum(isinstance(error, BudgetExceeded) for error in errors)


def first(run, ended):
    while not any(stream.done for stream in run.streams):
        run.streams[0].wait_end(0.01)
    ended.set()


def test_the_line_of_a_notebook(session, monkeypatch):
    """Sets, shows, shares by the notebook's name, and takes away."""
    monkeypatch.setenv("JPY_SESSION_NAME", "/work/analysis.ipynb")
    assert "No budget" in line(session, "")
    assert "$5: $0 spent, $0 reserved, $5 left" in line(session, "$5 tokens:2000")
    answer = session.client.complete(PROMPT, MODEL, max_tokens=100)
    took = answer.usage.input_tokens + answer.usage.output_tokens
    assert f"2,000 tokens: {took:,} spent, 0 reserved, {2_000 - took:,} left" in line(session, "")
    other = Session(SimpleNamespace(user_ns={}), Client(session.client.registry))
    assert f"{took:,} spent" in line(other, "tokens:50")
    with pytest.raises(BudgetExceeded, match=r"analysis\.ipynb"):
        session.client.complete(PROMPT, MODEL, max_tokens=100)
    assert "budget was removed" in line(session, "off")
    assert session.client.complete(PROMPT, MODEL, max_tokens=100).text
    assert "2,000 tokens: 0 spent" in line(session, "tokens:2000")


def test_a_notebook_without_a_name_has_a_budget_of_its_own(session, monkeypatch):
    monkeypatch.delenv("JPY_SESSION_NAME", raising=False)
    assert "The budget is $1" in line(session, "$1")
    assert "The budget of thesis is $2" in line(session, "$2 name=thesis")


def test_a_day_of_all_notebooks(session, monkeypatch):
    """NBLLM_BUDGET, where a notebook has no budget of its own; a new day is a new one."""
    monkeypatch.setenv("NBLLM_BUDGET", "$9,tokens:5000")
    install_daily_budget(session)
    number = session.client.budget.reserve(Amount(1.0, 10))
    session.client.budget.name = "today, 1999-12-31"  # as if that had been at its time
    assert "$9: $0 spent, $1 reserved" in line(session, "")
    session.client.budget.settle(number, Amount(0.5, 5))
    other = Session(SimpleNamespace(user_ns={}), Client(session.client.registry))
    install_daily_budget(other)
    assert "$0.5 spent" in line(other, "")
    assert "stays" in line(other, "off")
    assert "$0.5 spent" in line(session, "")
    line(session, "$1")
    install_daily_budget(session)
    assert "$1" in line(session, "")


def test_a_day_that_cannot_be_read_is_told(session, monkeypatch, capsys):
    monkeypatch.setenv("NBLLM_BUDGET", "twenty")
    session.shell.execution_count = 1
    install_daily_budget(session)
    assert session.client.budget is None
    assert "NBLLM_BUDGET" in capsys.readouterr().out


@pytest.mark.parametrize("rest", ["5", "much", "$0", "eur:5", "name=thesis", "$5 $6 x", "tokens:nan"])
def test_what_is_no_line(session, rest):
    with pytest.raises(ConfigError):
        line(session, rest)
    assert session.client.budget is None
