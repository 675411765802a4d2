"""The notebooks as they lie there: stored as they were run, from top to bottom, on nobody's machine in
particular."""

import json
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
NOTEBOOKS = sorted(ROOT.glob("notebooks/*.ipynb"))


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda p: p.stem)
def test_a_notebook_was_run_in_order_and_says_nothing_of_the_machine(path):
    """`make notebooks` stores them so; nbval compares no more than what is stored."""
    cells = [c for c in json.loads(path.read_text("utf-8"))["cells"] if c["cell_type"] == "code"]
    assert list(range(1, len(cells) + 1)) == [c["execution_count"] for c in cells]
    outputs = json.dumps(
        [
            {k: v for k, v in o.items() if k != "data"}
            | {"data": {k: v for k, v in o.get("data", {}).items() if k.startswith("text/")}}
            for c in cells
            for o in c["outputs"]
        ]
    )
    assert [] == re.findall(r"/home/\w+|/root/|/Users/\w+|site-packages|/ipykernel_\d+", outputs)


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda p: p.stem)
def test_a_cell_that_fails_was_meant_to(path):
    """An error stands only where the page is about one."""
    cells = [c for c in json.loads(path.read_text("utf-8"))["cells"] if c["cell_type"] == "code"]
    failed = [c["id"] for c in cells if any(o["output_type"] == "error" for o in c["outputs"])]
    assert failed == [c["id"] for c in cells if "raises-exception" in c["metadata"].get("tags", [])]


def test_the_readme_names_every_notebook():
    """In notebooks/."""
    readme = (ROOT / "README.md").read_text("utf-8")
    assert [] == [p.name for p in NOTEBOOKS if f"notebooks/{p.name}" not in readme]
