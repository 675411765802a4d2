"""Variables in prompts, in a real kernel: tables within a budget, pictures at their place, files, and what
the footer says of them."""

import pytest

from .kernels import Kernel

pytestmark = pytest.mark.kernel
PREPARE = """\
%load_ext nbllm
import pathlib
import matplotlib.figure
import pandas as pd
df = pd.DataFrame({"x": range(500), "y": "long enough to matter"})
fig = matplotlib.figure.Figure(figsize=(2, 1))
fig.subplots().plot([1, 2])"""


@pytest.fixture(scope="module")
def kernel(tmp_path_factory):
    with Kernel(prepare=PREPARE) as kernel:
        kernel.run(
            f"path = pathlib.Path({str(tmp_path_factory.mktemp('files') / 'notes.txt')!r})\npath.write_text('Remember the milk.')"  # noqa: E501
        )
        yield kernel


PARTS = "[p.text if hasattr(p, 'text') else p.media_type for p in _llm.request.messages[-1].parts]"


def test_a_table_keeps_to_the_budget_and_the_footer_says_so(kernel):
    """1,000 tokens where nothing else is said; budget= in the cell, and as the notebook's default."""
    ran = kernel.run("%%llm sim/openai\nWhat is in {df}?")
    assert ran.ok, ran.error
    assert "filled df (≈ " in ran.text
    assert " of 1,000 tokens)" in ran.text
    assert "The first 10 of 500 rows:" in kernel.value(PARTS)[0]
    assert " of 120 tokens)" in kernel.run("%%llm sim/openai budget=120\nWhat is in {df}?").text
    assert "The first 10 of 500 rows:" not in kernel.value(PARTS)[0]
    kernel.run("%llm use budget=130")
    assert " of 130 tokens)" in kernel.run("%%llm sim/openai\nWhat is in {df}?").text
    kernel.run("%llm use reset")


def test_a_budget_that_says_nothing_is_refused(kernel):
    """With the smallest one."""
    assert "at least 20" in "".join(kernel.run("%%llm sim/openai budget=5\n{df}").error["traceback"])


def test_a_figure_stands_at_its_place(kernel):
    """Between the words around it; a prompt may be nothing else."""
    ran = kernel.run("%%llm sim/openai\nLook: {fig}\nWhat is it?")
    assert ran.ok, ran.error
    assert "filled fig (image)" in ran.text
    assert ["Look: ", "image/png", "\nWhat is it?"] == kernel.value(PARTS)
    assert kernel.run("%%llm sim/openai\n{fig}").ok
    assert ["image/png"] == kernel.value(
        "[p.media_type for p in _llm.request.messages[-1].parts if hasattr(p, 'media_type')]"
    )


def test_a_path_is_what_the_file_holds(kernel):
    """Its text under its name."""
    assert kernel.run("%%llm sim/openai\nRead {path}").ok
    assert ["Read \n\nnotes.txt:\n```\nRemember the milk.\n```"] == kernel.value(PARTS)


def test_variables_are_attached_in_the_same_forms(kernel):
    """After the prompt, and the footer says so."""
    ran = kernel.run("%%llm sim/openai attach=df -a fig budget=150\nCompare.")
    assert ran.ok, ran.error
    words, table, picture = kernel.value(PARTS)
    assert ("Compare.", "image/png") == (words, picture)
    assert table.startswith("\n\ndf: A table of 500 rows and 2 columns.")
    assert " of 150 tokens), fig (image)" in ran.text.partition("attached df (≈ ")[2]


def test_side_by_side_every_column_says_what_was_filled(kernel):
    """Each answer's own line of figures."""
    assert 2 == kernel.run("%%llm sim/openai,sim/gemini\nLook: {fig}").text.count("filled fig (image)")


def test_a_function_of_a_prompt_takes_tables_and_figures(kernel):
    """In the same forms, with the cell's budget."""
    assert kernel.run("%%llm sim/openai def=look budget=120\n{what}: what is it?").ok
    assert kernel.run("a = look(fig); b = look(df)").ok
    assert [True, True] == kernel.value(
        "[hasattr(a.request.messages[-1].parts[0], 'media_type'), len(b.request.messages[-1].text) < 560]"
    )


def test_the_budget_is_in_help_and_completion(kernel):
    """As every option is."""
    assert "budget" in kernel.run("%llm help budget").text
    matches = kernel.run(
        "from IPython import get_ipython\nget_ipython().complete('bud', '%%llm openai/mini bud', 21)[1]"
    ).text
    assert "budget=" in matches
