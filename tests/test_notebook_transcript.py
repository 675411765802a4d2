"""{notebook}: the notebook so far as part of a prompt."""

import pytest

from nbllm.core.values import format_value
from nbllm.notebook.transcript import NotebookTranscript

from .kernels import Kernel

KEY = "sk-proj-abcdefghijklmnopqrstuvwxyz0123456789"


def cells(*sources, **values):
    return NotebookTranscript(("", *sources), {int(k[1:]): v for k, v in values.items()})


def test_cells_stand_in_order_with_what_they_gave():
    assert format_value(cells("a = 1", "a + 1", "b", _2=2)) == (
        "In [1]:\na = 1\n\nIn [2]:\na + 1\nOut[2]:\n2\n\nIn [3]:\nb"
    )


@pytest.mark.parametrize("budget", [20, 100, 1000, 5000])
def test_the_last_cells_are_kept_within_the_budget(budget):
    """And how many are left out is said; the last one is there whatever it takes."""
    told = format_value(cells(*(f"step_{i} = {'x' * 300}" for i in range(1000))), budget=budget)
    assert "step_999" in told
    assert "earlier cells)" in told.split("\n")[0]
    assert len(told) <= max(3 * budget, 400) + 60
    if budget >= 1000:
        assert told.index("step_998") < told.index("step_999")


def test_a_cell_and_a_value_take_no_more_than_their_share():
    """Whatever their size, and a value is not made text whole where its form is known."""
    told = format_value(cells("x" * 10**6, "y", _2=list(range(10**6))), budget=100_000)
    assert len(told) < 10_000


def test_keys_are_masked():
    told = format_value(cells(f"key = '{KEY}'", "key", _2=KEY))
    assert KEY not in told
    assert "key = '•••'" in told


@pytest.mark.kernel
def test_in_a_kernel():
    """Only what ran before; a variable of that name comes first."""
    with Kernel() as kernel:
        kernel.run("price = 40 + 2\nprice")
        kernel.run("%%llm sim/openai@echo=1 out=a\nExplain:\n{notebook}\nEnd")
        told = kernel.value("a.text")
        assert "price = 40 + 2\nprice\nOut[" in told
        assert ":\n42\nEnd" in told.replace("\n\n", "\n")
        assert "Explain" not in told.removeprefix("Explain")
        kernel.run("notebook = 'mine'")
        kernel.run("%%llm sim/openai@echo=1 out=a\n{notebook}")
        assert "mine" == kernel.value("a.text")
