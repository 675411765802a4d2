"""asserts= in a cell: the results are shown below the answer, and stored in the response and in the log."""

import json

import pytest

from nbllm.core.errors import ConfigError
from nbllm.core.events import Response, Timing, all_checks_pass
from nbllm.core.messages import Text
from nbllm.notebook.assertions import check_response, resolve_asserts
from nbllm.notebook.view.static import answer_footer
from nbllm.simulator.scripts import script

from .kernels import Kernel

PARIS = Response((Text("It is Paris."),), timing=Timing(total=0.5, attempts=1), cost=0.002, model="m")


def short(answer, more):
    return len(answer) < 40


def broken(answer, more):
    raise KeyError("x")


@pytest.mark.parametrize(
    ("given", "found"),
    [
        (["contains: Paris", "not contains: Rome"], {"contains": 1.0, "not_contains": 1.0}),
        (["contains: Rome", "latency: 0.1s"], {"contains": 0.0, "latency": 0.0}),
        (["latency: 2s", "cost: 0.01", "cost: $0.001"], {"latency": 1.0, "cost": 1.0, "cost#2": 0.0}),
        (["json", '{"json": {"type": "object"}}'], {"json": 0.0, "json#2": 0.0}),
        (["short", "broken"], {"short": 1.0, "broken": None}),
        (["regex: ^It.*s\\.$"], {"regex": 1.0}),
    ],
)
def test_what_an_answer_must_be(given, found):
    """Words, and functions of the notebook; one that fails by itself says nothing of the answer, and why."""
    options = resolve_asserts({"short": short, "broken": broken, "json": 5}, {"asserts": given, "seed": 1})
    response = check_response(PARIS, options["asserts"], "Capital?")
    assert found == response.checks
    assert all_checks_pass(found.values()) is response.passed
    told = answer_footer(response).text
    assert all(f"{'?' if v is None else '✓' if v else '✗'} {name}" in told for name, v in found.items())
    assert ("broken could not be checked: " in told) == ("broken" in found)
    assert 1 == options["seed"]


@pytest.mark.parametrize("missing", [{"cost": None}, {"timing": Timing()}])
def test_what_is_not_known_is_not_passed(missing):
    """A cost without a price, the time of an answer that was known."""
    wanted = resolve_asserts({}, {"asserts": ["latency: 2s", "cost: 1", "contains: P"]})["asserts"]
    response = check_response(Response(PARIS.parts, **missing), wanted, "")
    assert response.passed is None


@pytest.mark.parametrize("text", ["shrt", "contains:", "regex: (", "{odd", '{"a": 1}', "latency: soon"])
def test_what_is_no_assertion_is_said(text):
    """Before anything is sent."""
    with pytest.raises(ConfigError):
        resolve_asserts({}, {"asserts": [text]})


@pytest.fixture(scope="module")
def kernel(tmp_path_factory):
    with Kernel(NBLLM_HOME=str(tmp_path_factory.mktemp("home"))) as kernel:
        yield kernel


def says(text):
    return f"sim/openai/m@{script([{'text': text, 'repeat': True}])},ttft=0.001"


@pytest.mark.kernel
def test_a_cell_tells_it_below_the_answer(kernel):
    """And keeps it in the response, in a comparison's, and in the call's row of the log, also on disk."""
    assert kernel.run("def short(answer, more):\n    return len(answer) < 9").ok
    line = 'asserts="contains: Paris" asserts=short asserts="latency: 1m"'
    ran = kernel.run(f"%%llm {says('It is Paris.')} {line}\nCapital of France?")
    assert ran.ok, ran.error
    assert "✓ contains · ✗ short · ✓ latency" in ran.text
    assert [{"contains": 1.0, "short": 0.0, "latency": 1.0}, False] == kernel.value(
        "[_llm.checks, _llm.passed]"
    )
    assert kernel.run("log = %llm log").ok
    assert {"contains": 1.0, "short": 0.0, "latency": 1.0} == json.loads(kernel.value("log.checks.iloc[-1]"))
    both = kernel.run(f"%%llm {says('It is Paris.')},{says('Rome!')} {line}\nCapital of France?")
    assert both.ok, both.error
    assert [[1.0, 0.0, 1.0], [0.0, 1.0, 1.0]] == kernel.value(
        "[list(r.checks.values()) for r in _llm.responses]"
    )
    assert "✗ contains" in both.text


@pytest.mark.kernel
def test_a_wrong_assertion_sends_nothing(kernel):
    """The cell fails and says what there is."""
    kernel.run("_llm = None")
    ran = kernel.run(f'%%llm {says("x")} asserts="contians: Paris"\nCapital of France?')
    assert "Unknown assertion: 'contians'" in ran.error["evalue"]
    assert kernel.value("_llm is None")
