"""A saved comparison wherever it is read: in JupyterLab at any width, untrusted, as a page, on paper."""

from __future__ import annotations

import nbformat
import pytest

from .test_lab import LOAD, ask

pytestmark = pytest.mark.browser
TABLE = """| City | Population | Area km² | Density | Kind |
|---|---:|---:|---:|---|
| Oslo | 717,710 | 454.12 | 1,580.4 | Medium |
| Bergen | 291,940 | 464.71 | 628.2 | Medium |

```python
def density(people: int, area: float) -> float:
    return people / area
```
"""
FOUR = "openai/m@echo=1,claude/m@echo=1,gemini/m@tokens=60,ollama/m@tokens=90"
# How many columns and cells of tables lie outside of the page, and how many numbers stand on several lines.
PLACES = """root => {
  const area = root ? document.querySelector(root) : nbllmTest.area(1);
  const lines = cell => {
    const range = document.createRange();
    range.selectNodeContents(cell);
    return new Set([...range.getClientRects()].map(r => Math.round(r.top))).size;
  };
  const numbers = [...area.querySelectorAll('td')].filter(c => /^[\\d,.]+$/.test(c.textContent.trim()));
  const boxes = [...area.querySelectorAll(root ? 'td' : '.nbllm-col')].map(c => c.getBoundingClientRect());
  const wide = document.documentElement.clientWidth;
  return {
    numbers: numbers.length > 20,
    broken: numbers.filter(c => lines(c) > 1).length,
    outside: boxes.filter(b => b.right > wide + 1 || b.left < 0 || !b.width).length,
  };
}"""
RIGHT = {"numbers": True, "broken": 0, "outside": 0}


@pytest.fixture(scope="module")
def saved(lab, browser):
    """The saved notebook of a comparison of four."""
    from .conftest import Notebook

    (lab.root / "table.md").write_text(TABLE)
    path = lab.write(f"{LOAD}\ntable = open('table.md').read()", ask("{{table}}", FOUR, "out=cmp"))
    n = Notebook(browser, lab, path)
    n.run(0)
    n.run(1)
    n.save()
    n.close()
    lab.stop_kernels()
    return path


@pytest.mark.parametrize(("theme", "width"), [("Light", 1200), ("Dark", 1200), ("Light", 700)])
def test_in_jupyterlab(notebook, saved, theme, width):
    """All columns within the page at any width, numbers whole, the figures below."""
    n = notebook(saved, width=width, height=1300)
    n.theme(f"JupyterLab {theme}")
    n.shot(f"comparison-{theme.lower()}-{width}")
    assert RIGHT == n.js(PLACES)
    assert "to first token" in n.text(1)


def test_in_an_untrusted_notebook(notebook, lab, saved):
    """A colleague's file, whose styles JupyterLab takes away: still columns, still under their names."""
    content = nbformat.read(saved, 4)
    content.metadata["from"] = "a colleague"
    for cell in content.cells:
        cell.metadata.pop("trusted", None)
        cell.source += "  # theirs"
    path = lab.root / "theirs.ipynb"
    nbformat.write(content, path)
    n = notebook(path, height=1300)
    n.shot("comparison-untrusted")
    assert 0 == n.js("() => nbllmTest.area(1).querySelectorAll('style').length")
    lefts = n.js(
        "() => [...nbllmTest.area(1).querySelectorAll('table')[0].rows[0].cells]"
        ".map(c => c.getBoundingClientRect().left)"
    )
    assert 4 == len(set(lefts))
    assert lefts == sorted(lefts)
    assert {"start", "left"} >= set(
        n.js(
            "() => [...nbllmTest.area(1).querySelectorAll('.nbllm-col > *, .nbllm-col td:first-child')]"
            ".map(e => getComputedStyle(e).textAlign)"
        )
    )


def test_an_answer_begins_where_other_outputs_do(notebook):
    """And where the code above it does."""
    n = notebook(LOAD, "print('printed')", ask("said", "openai/m@echo=1"))
    n.run(0, 1, 2)
    left = """([cell, what]) => {
      const range = document.createRange();
      range.selectNodeContents(nbllmTest.area(cell).querySelector(what));
      return range.getClientRects()[0].left;
    }"""
    assert abs(n.js(left, [1, "pre"]) - n.js(left, [2, ".nbllm p"])) < 3


@pytest.mark.parametrize("style", ["as it is", "without styles"])
def test_as_a_page_and_on_paper(browser, saved, tmp_path, style):
    """nbconvert's page, printed: no column is lost."""
    import re

    from nbconvert import HTMLExporter

    from .conftest import SHOTS

    body, _ = HTMLExporter(embed_images=True).from_filename(str(saved))
    body = re.sub(r"(?s)<script.*?</script>", "", body)
    if style == "without styles":  # as GitHub does
        body = re.sub(r"(?s)<style.*?</style>", "", body)
        body = re.sub(r"""\s(class|style|id)=("[^"]*"|'[^']*'|[^\s>]+)""", "", body)
        assert 4 == len(re.findall(r"<td valign", body))
    page = browser.new_page(viewport={"width": 816, "height": 1056})
    (tmp_path / "page.html").write_text(body)
    page.goto(f"file://{tmp_path / 'page.html'}")
    page.emulate_media(media="print")
    SHOTS.mkdir(parents=True, exist_ok=True)
    page.screenshot(path=SHOTS / f"comparison-page-{style.replace(' ', '-')}.png", full_page=True)
    page.pdf(path=SHOTS / f"comparison-{style.replace(' ', '-')}.pdf", format="Letter")
    if style == "as it is":
        assert RIGHT == page.evaluate(PLACES, ".nbllm")
    page.close()
