"""A prompt over a table in JupyterLab: the estimate and its buttons, progress, Stop with the finished rows
in the frame, and going on."""

from __future__ import annotations

import pytest

from .test_lab import LOAD

pytestmark = pytest.mark.browser

TABLE = """
import pandas as pd
reviews = pd.DataFrame({"text": [f"The lamp {i} is <b>bright</b>." for i in range(160)]})
"""
EACH = """%%llm sim/openai@ttft=0.3 each=reviews schema="sentiment str, stars int" run=lamps width=4
Classify: {text}"""
COUNT = 'print("counted", reviews["llm_status"].value_counts().to_dict())'
BUTTON = ".jupyter-button:has-text('{}')"


def test_a_table_is_asked_about_stopped_and_gone_on_with(notebook):
    """Nothing is sent before the person says so; what was answered when ■ is pressed stays."""
    n = notebook(LOAD, TABLE, EACH, COUNT)
    n.run(0, 1)
    n.start(2)
    n.page.locator(BUTTON.format("Start")).wait_for()
    assert "160 rows" in n.text(2)
    n.shot("rows-ask", height=620)
    n.page.locator(BUTTON.format("Start")).click()
    n.page.locator("text=/[1-9][0-9]* of 160 rows/").first.wait_for()
    n.shot("rows-going", height=620)
    n.command("notebook:interrupt-kernel")
    n.wait_done(2)
    n.run(3)
    assert "counted {" in n.text(3)
    assert "'ok'" in n.text(3)
    n.shot("rows-stopped", height=620)
    n.start(2)
    n.page.locator(BUTTON.format("Start")).wait_for()  # asked again: over a minute's rows are left
    n.shot("rows-again", height=620)
    n.page.locator(BUTTON.format("Start")).click()
    n.wait_done(2)
    assert "answered before" in n.text(2)
    n.run(3)
    assert "counted {'ok': 160}" in n.text(3)
    n.shot("rows-done", height=900)
    assert not n.dialogs
    assert not n.strangers
