"""Command-line agents as tools: asked for as any tool, told what the model writes to them and no more."""

import sys
from contextlib import closing
from pathlib import Path

import pytest

from nbllm import Client
from nbllm.core import errors
from nbllm.core.events import ToolStarted
from nbllm.notebook.tool_names import resolve_tools
from nbllm.routing import registry
from nbllm.simulator import script
from nbllm.store.budgets import Budget

from .processes import alive, comes_to, gone

SIM = "sim/openai/m@ttft=0,gap=0"
HANGS = "import time; print('working', flush=True); time.sleep(3600)"


@pytest.fixture
def client():
    made = registry.load({})
    for name, words in {
        "mine": ["cat"],
        "broken": ["false"],
        "hangs": [sys.executable, "-c", HANGS, "nbllm-hangs-as-a-tool"],
        "missing": ["/nowhere/agent"],
    }.items():
        made.register(f"cli/{name}", {"command": words, "label": name.capitalize()})
    with closing(Client(made, ledger=None, retries=0)) as client:
        yield client


def asking(tool, words="Which is longer?"):
    return f"{SIM},{script([{'calls': [{'name': tool, 'arguments': {'message': words}}]}])}"


def results(response):
    return [e for step in response.steps for e in step.results]


@pytest.mark.slow
def test_a_model_asks_an_agent(client):
    (told,) = client.tool_descriptions("cli/mine")
    assert ("cli__mine", "Asks the agent Mine on this machine.") == (told.name, told.description)
    asked = []

    def decide(question):
        asked.append((question.tool.source, question.call.arguments))
        return True

    answer = client.complete("Be quiet.", asking("cli__mine"), tools=["cli/mine"], approve=decide)
    assert [("cli/mine", {"message": "Which is longer?"})] == asked
    (ended,) = results(answer)
    assert "ran" == ended.outcome
    assert "Which is longer?" == ended.result.content.strip()  # nothing of the conversation


@pytest.mark.parametrize(
    ("name", "words"),
    [
        pytest.param("broken", "exit", marks=pytest.mark.slow),
        ("missing", "/nowhere/agent"),
        ("hangs", "not of type string"),
    ],
)
def test_what_goes_wrong_is_a_result(client, name, words):
    """The answer goes on; arguments are checked before anything starts."""
    model = asking(f"cli__{name}", "x" if name != "hangs" else ["x"])
    answer = client.complete("x", model, tools=f"cli/{name}", approve="auto")
    (ended,) = results(answer)
    assert ended.result.is_error
    assert words in str(ended.result.content)
    assert answer.text


@pytest.mark.parametrize("approve", ["never", lambda _question: False, lambda _question: None])
def test_without_leave_it_is_not_asked(client, approve):
    answer = client.complete("x", asking("cli__mine"), tools=["cli/mine"], approve=approve)
    assert ["refused"] == [e.outcome for e in results(answer)]


def test_an_agent_that_nobody_knows(client):
    """Is told before anything is sent, with the nearest; a cell takes the name as the API does."""
    with pytest.raises(errors.ConfigError, match="No provider"):
        client.complete("x", SIM, tools="cli/nobody")
    assert ["cli/mine"] == resolve_tools(["cli/mine"], {}, list)
    with pytest.raises(errors.ConfigError, match="did you mean cli/claude"):
        resolve_tools(["claude"], {}, lambda: ["cli/claude"])


@pytest.mark.slow
def test_stop_ends_the_command(client):
    stream = client.stream("x", asking("cli__hangs"), tools="cli/hangs", approve="auto")
    assert any(isinstance(event, ToolStarted) for event in stream)
    assert comes_to(1, lambda: alive("nbllm-hangs-as-a-tool"))
    stream.cancel()
    assert stream.wait_end(60)
    assert "cancelled" == stream.partial().finish_reason
    assert gone("nbllm-hangs-as-a-tool")


@pytest.mark.slow
@pytest.mark.parametrize("most", [5_000, 20])
def test_what_an_agent_takes_counts_in_the_budget(client, most):
    """Of the answer that has it asked: where nothing is left, the next turn is the last one."""
    said = Path(__file__).parent / "data" / "cli-transcripts" / "claude-latest-bare.jsonl"
    code = f"import sys; sys.stdin.read(); print(open({str(said)!r}).read())"
    client.registry.register("cli/claude", {"command": [sys.executable, "-c", code]})

    def tokens(response):
        return response.usage.input_tokens + response.usage.output_tokens

    own = tokens(client.complete("x", "cli/claude"))
    budget = Budget(tokens=most)
    answer = client.complete("x", asking("cli__claude"), tools="cli/claude", approve="auto", budget=budget)
    (ended,) = results(answer)
    assert "ran" == ended.outcome, ended.result.content
    assert "Hello from" in ended.result.content
    assert own > 0
    assert tokens(answer) + own == budget.state().spent.tokens
    assert answer.text
