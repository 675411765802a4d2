"""A prompt over a table in JupyterLab: the estimate and its buttons, progress, Stop with the finished rows
in the frame, and going on."""

from __future__ import annotations

import pytest

from .test_lab import LOAD

pytestmark = pytest.mark.browser

TABLE = """
import pandas as pd
from dataclasses import dataclass
from typing import Literal

@dataclass
class Review:
    mood: Literal["good", "bad"]
    stars: int

reviews = pd.DataFrame({"text": [f"The lamp {i} is <b>bright</b>." for i in range(160)]})
"""
EACH = """%%llm sim/openai@ttft=0.3 each=reviews schema=Review run=lamps-{theme} width=4
Classify: {text}"""
COUNT = 'print("counted", reviews["llm_status"].value_counts().to_dict())'
BUTTON = ".jupyter-button:has-text('{}')"


@pytest.mark.parametrize("theme", ["Light", "Dark"])
def test_a_table_is_asked_about_stopped_and_gone_on_with(notebook, theme):
    """Nothing is sent before the person says so; what was answered when ■ is pressed stays. The README has
    these pictures."""
    n = notebook(
        LOAD, TABLE.strip(), EACH.replace("{theme}", theme.lower()), COUNT, name=f"rows-{theme.lower()}"
    )
    n.theme(f"JupyterLab {theme}")
    n.run(0, 1)
    n.start(2)
    n.page.locator(BUTTON.format("Start")).wait_for()
    assert "160 rows" in n.text(2)
    n.page.locator(BUTTON.format("Start")).click()
    n.page.locator("text=/[1-9][0-9]* of 160 rows/").first.wait_for()
    n.shot(f"rows-going-{theme.lower()}", height=620)
    n.command("notebook:interrupt-kernel")
    n.wait_done(2)
    n.run(3)
    assert "counted {" in n.text(3)
    assert "'ok'" in n.text(3)
    n.start(2)
    n.page.locator(BUTTON.format("Start")).wait_for()  # asked again: over a minute's rows are left
    n.page.locator(BUTTON.format("Start")).click()
    n.wait_done(2)
    assert "answered before" in n.text(2)
    n.run(3)
    assert "counted {'ok': 160}" in n.text(3)
    n.shot(f"rows-{theme.lower()}", height=740)
    assert not n.dialogs
    assert not n.strangers
