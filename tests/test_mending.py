"""`%llm fix`, `%llm insert`, and {Err}, {In[...]}, {Out[...]}, in a real kernel."""

from urllib.parse import quote

import pytest

from .kernels import Kernel

pytestmark = pytest.mark.kernel
ANSWER = quote("The name was misspelt.\n\n```python\ntotal = 1\nprint(total)\n```\n", safe="")


@pytest.fixture(scope="module")
def kernel():
    with Kernel() as kernel:
        yield kernel


def payload(ran):
    return [p for p in ran.reply["content"].get("payload", []) if p["source"] == "set_next_input"]


def test_the_last_error_is_explained_and_mended_below(kernel):
    """The prompt holds cell and traceback; the answer, a diff, and the corrected cell that is not run."""
    kernel.run("total = 1\nprint(totl)")
    ran = kernel.run(f"%llm fix sim/openai@text={ANSWER}")
    assert ran.ok, ran.error
    assert "The name was misspelt." in ran.text
    assert "-print(totl)" in ran.text
    assert "+print(total)" in ran.text
    assert ["total = 1\nprint(total)"] == [p["text"] for p in payload(ran)]
    asked = kernel.value("_llm.request.messages[-1].text")
    assert "print(totl)" in asked
    assert "NameError" in asked


def test_without_a_failure_there_is_nothing_to_fix():
    """A fresh notebook."""
    with Kernel() as fresh:
        assert "No cell has failed" in "".join(fresh.run("%llm fix").error["traceback"])


def test_code_goes_into_the_next_cell_and_is_not_run(kernel):
    """The longest fence of the last answer; an answer without code says so."""
    kernel.run(f"%%llm sim/openai@text={ANSWER}\nx")
    ran = kernel.run("%llm insert")
    assert ["total = 1\nprint(total)"] == [p["text"] for p in payload(ran)]
    kernel.run("%%llm sim/openai@text=none\nx")
    assert "no code" in "".join(kernel.run("%llm insert").error["traceback"])


def test_cells_outputs_and_the_last_error_can_be_named(kernel):
    """{Out[n]}, {In[n]}, {Err}; a failed %%llm cell is no error of the notebook's."""
    kernel.run("6 * 7")
    n = kernel.value("max(Out)")
    kernel.run("1 / 0")
    kernel.run("%%llm sim/openai@status=401\nx")
    assert kernel.run("%%llm sim/openai@echo=1 out=b\n{{Err[-200:].upper()}}").ok
    assert kernel.run(f"%%llm sim/openai@echo=1 out=a\nOut: {{Out[{n}]}} In: {{In[{n}]}} Err: {{Err}}").ok
    text = kernel.value("a.text")
    assert "Out: 42 In: 6 * 7 Err: " in text
    assert "ZeroDivisionError" in text


def test_code_that_was_asked_for_goes_into_the_next_cell(kernel):
    """Unrun, beside being shown; once for one result; not where nobody watches; a failed answer puts nothing there."""
    cell = "%%llm sim/openai@text=Here%20it%20is%3A%0A%60%60%60python%0Aprint(1)%0A%60%60%60 format=code\nPrint one."
    ran = kernel.run(cell)
    assert ran.ok, ran.error
    assert "print(1)" in ran.text
    assert ["print(1)"] == [p["text"] for p in payload(ran)]
    assert [] == payload(kernel.run(cell)), "it stands there already"
    assert [] == payload(kernel.run("%%llm sim/openai@status=401 format=code retries=0\nPrint one."))
    with Kernel(front_end=False) as headless:
        assert [] == payload(headless.run(cell))
