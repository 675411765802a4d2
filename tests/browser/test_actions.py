"""What can be done with an answer, below it: in the page alone, reached by keyboard, nothing of it saved."""

from __future__ import annotations

import json

import pytest

from .test_lab import LOAD

pytestmark = pytest.mark.browser

ASK = "%%llm sim/openai@echo=1 out=a\nSay `this`:\n\n```python\nprint('<b>hello</b>')\n```\n"
TOLD = "print('a is', a.text[:20])"
BAR = ".nbllm-acts > div"


def test_an_answer_is_copied_kept_asked_again_and_edited(notebook):
    n = notebook(LOAD, ASK, TOLD)
    n.run(0, 1)
    bar = n.output(1).locator(BAR)
    bar.wait_for()
    n.output(1).first.hover()
    n.shot("actions", height=520)
    n.page.context.grant_permissions(["clipboard-read", "clipboard-write"])
    bar.get_by_role("button", name="Copy the answer as Markdown").click()
    n.page.wait_for_function("() => navigator.clipboard.readText().then((t) => t.startsWith('Say `this`'))")
    n.output(1).locator("pre").hover()
    n.output(1).get_by_role("button", name="Copy the code").click()
    n.page.wait_for_function(
        "() => navigator.clipboard.readText().then((t) => t === \"print('<b>hello</b>')\")"
    )

    bar.get_by_role("button", name="Keep this answer").click()
    bar.get_by_role("button", name="Keep this answer", pressed=True).wait_for()

    bar.get_by_role("button", name="Edit the question").press("Enter")  # by keyboard
    area = n.output(1).locator("textarea")
    assert area.input_value().startswith("Say `this`")
    area.fill("Say that <form>instead</form>.")
    n.shot("actions-edit", height=620)
    area.press("Enter")
    n.output(1).locator(":text('Say that <form>instead</form>.')").first.wait_for()
    bar.locator(":text('2/2')").wait_for()
    n.run(2)
    assert "a is Say that" in n.text(2)
    bar.get_by_role("button", name="The answer before").click()
    n.output(1).locator(":text('hello')").first.wait_for()
    bar.locator(":text('1/2')").wait_for()
    assert bar.get_by_role("button", name="Keep this answer", pressed=True).count() == 1
    bar.get_by_role("button", name="Ask again", exact=True).click()
    bar.locator(":text('3/3')").wait_for()
    n.shot("actions-again", height=520)

    saved = json.dumps(n.save())
    assert "nbllm-acts" in saved
    for word in ("Retry", "Copied", "textarea", "widget-view"):
        assert word not in saved
    assert not n.dialogs
    assert not n.strangers


def test_the_line_of_figures_is_not_covered(notebook):
    """In a window of any width: it wraps before the buttons."""
    n = notebook(LOAD, "%%llm sim/openai@echo=1\nhi")
    n.run(0, 1)
    n.output(1).locator(BAR).wait_for()
    covered = """() => {
      const bar = nbllmTest.area(1).querySelector(".nbllm-acts > div").getBoundingClientRect();
      const range = document.createRange();
      range.selectNodeContents(nbllmTest.area(1).querySelector(".nbllm-foot"));
      return [...range.getClientRects()].some(
        (r) => r.right > bar.left && r.left < bar.right && r.bottom > bar.top + 2 && r.top < bar.bottom - 2
      );
    }"""
    widths = range(480, 900, 30)
    found = []
    for width in widths:
        n.page.set_viewport_size({"width": width, "height": 700})
        found += [width] if n.js(covered) else []
        if width == 600:
            n.shot("actions-narrow", height=420)
    assert [] == found
