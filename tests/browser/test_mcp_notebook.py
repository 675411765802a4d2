"""A model changes cells of the notebook that it is asked from, as somebody sees it: the difference before it
is made, the cell as it changes on the page, and undo. Where Jupyter's collaboration is installed, which
jupyter-mcp-server brings."""

from __future__ import annotations

import pytest

from nbllm.simulator import script

from .test_lab import LOAD

pytestmark = pytest.mark.browser

STEPS = script(
    [
        {
            "calls": [
                {
                    "name": "jupyter__overwrite_cell_source",
                    "arguments": {"cell_index": 3, "cell_source": "x = 2\nprint(x)"},
                },
                {
                    "name": "jupyter__insert_cell",
                    "arguments": {"cell_index": 4, "cell_type": "markdown", "cell_source": "# New"},
                },
            ]
        },
        {"text": "Done."},
    ]
)
ASK = f"%%llm sim/openai/m@ttft=0,gap=0,{STEPS} tools=mcp/jupyter\nChange it."
AFTER = ["x = 2\nprint(x)", "# New"]
SOURCES = "() => jupyterapp.shell.currentWidget.content.widgets.map(w => w.model.sharedModel.getSource())"
HAS = f"wanted => JSON.stringify(({SOURCES})().slice(3)) === JSON.stringify(wanted)"


def answer(n, word):
    """Types it: with the collaboration installed a widget's buttons do not appear, and it is asked so."""
    field = n.page.locator(".jp-Stdin-input").last
    field.wait_for(timeout=60_000)
    field.fill(word)
    field.press("Enter")


def test_cells_change_before_ones_eyes_and_go_back(notebook):
    """Asked one after the other, each with its difference; `%llm undo` brings back what there was."""
    n = notebook(f"{LOAD}\n%llm mcp add jupyter", ASK, "%llm undo", "x = 1", name="mcp")
    n.run(0, timeout=120)
    n.start(1)
    n.page.locator("text=1 of 2").wait_for(timeout=120_000)
    assert "-x = 1\n+x = 2\n+print(x)" in n.text(1)
    n.shot("mcp-ask")
    answer(n, "once")
    n.page.locator("text=2 of 2").wait_for(timeout=60_000)
    assert "+# New" in n.text(1)
    assert ["x = 1"] == n.js(SOURCES)[3:]
    answer(n, "once")
    n.page.locator("text=Changed: cell 3, new cell 4").wait_for(timeout=120_000)
    n.shot("mcp-done")
    n.wait(HAS, AFTER)
    n.start(2)
    n.page.locator("text=Taken back: new cell 4, cell 3").wait_for(timeout=60_000)
    n.wait(HAS, ["x = 1"])
    assert not n.dialogs
