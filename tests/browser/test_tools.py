"""Tools in JupyterLab: the call is shown whole before it runs, three buttons, a row afterwards, Stop."""

from __future__ import annotations

import pytest

from .test_lab import LOAD

pytestmark = pytest.mark.browser

DEFINE = '''
def price(article: str) -> float:
    """The list price of an article."""
    return {"A-17": 4.5, "B-3": 9.0}[article]
def slow(article: str) -> str:
    """Waits."""
    import time
    print("busy now")
    while True: time.sleep(0.01)
'''
ASK = "%%llm openai/m@tools=2 tools=price\nWhat does A-17 cost?"
BUTTON = ".jupyter-button:has-text('{}')"


def press(n, word):
    n.page.locator(BUTTON.format(word)).first.click()


@pytest.mark.parametrize("theme", ["Light", "Dark"])
def test_the_person_is_asked_with_three_buttons(notebook, theme):
    """One call after another, each with its arguments in sight; what was answered goes, the row stays. The
    README has these pictures."""
    n = notebook(LOAD, DEFINE.strip(), ASK, name=f"tools-{theme.lower()}")
    n.theme(f"JupyterLab {theme}")
    n.run(0, 1)
    n.start(2)
    n.page.locator(BUTTON.format("Run once")).wait_for()
    assert 'price({"article": "A-17"})' in n.text(2)
    assert "Run price (function price)? 1 of 2" in n.text(2)
    press(n, "Run once")
    n.page.locator("text=2 of 2").wait_for()
    n.shot(f"tools-ask-{theme.lower()}", height=620)
    press(n, "No")
    n.wait_done(2)
    assert 'price(article="A-17") → 4.5' in n.text(2)
    assert "not run (refused)" in n.text(2)
    assert 0 == n.page.locator(BUTTON.format("Run once")).count()
    n.page.locator("summary").first.click()
    n.shot(f"tools-{theme.lower()}", height=620)
    assert not n.dialogs
    assert not n.strangers


def test_always_asks_once(notebook):
    n = notebook(LOAD, DEFINE, ASK)
    n.run(0, 1)
    n.start(2)
    n.page.locator(BUTTON.format("Always")).wait_for()
    press(n, "Always")
    n.wait_done(2)
    assert 2 == n.text(2).count('price(article="A-17") → 4.5')


def test_stop_ends_a_function_and_a_question(notebook):
    """The conversation goes on afterwards."""
    n = notebook(LOAD, DEFINE, ASK.replace("price", "slow approve=auto"), ASK)
    n.run(0, 1)
    n.start(2)
    n.wait("() => nbllmTest.area(2)?.innerText.includes('busy now')")
    n.command("notebook:interrupt-kernel")
    n.wait_done(2)
    assert "stopped" in n.text(2)
    n.start(3)
    n.page.locator(BUTTON.format("Run once")).wait_for()
    n.command("notebook:interrupt-kernel")
    n.wait_done(3)
    assert "Stopped" in n.text(3)
    assert 0 == n.page.locator(BUTTON.format("Run once")).count()


PANEL = "import nbllm\nnbllm.ChatWidget(model='openai/m', chat='shop', tools=[price])"


def test_the_panel_asks_too(notebook):
    """In its own place; the answer goes on, and the row is in the transcript."""
    n = notebook(LOAD, DEFINE, PANEL)
    n.run(0, 1, 2)
    n.page.wait_for_selector(".nbllm-chat textarea")
    n.page.click(".nbllm-chat textarea")
    n.page.keyboard.type("What does A-17 cost?")
    n.page.keyboard.press("Enter")
    n.page.locator(".nbllm-asks button:has-text('Run once')").wait_for()
    assert 'price({"article": "A-17"})' in n.text(2)
    n.shot("tools-panel-ask", height=900)
    n.page.keyboard.press("Enter")  # what is typed is no answer
    assert 0 == n.js("() => document.querySelectorAll('.nbllm-turn').length")
    n.page.locator(".nbllm-asks button:has-text('Run once')").click()
    n.wait("() => document.querySelectorAll('.nbllm-turn').length === 1")
    assert 'price(article="A-17") → 4.5' in n.text(2)
    n.shot("tools-panel", height=900)
    n.page.click(".nbllm-chat textarea")
    n.page.keyboard.type("And now?")
    n.page.keyboard.press("Enter")
    n.page.locator(".nbllm-asks button:has-text('No')").wait_for()
    n.page.locator(".nbllm-composer button:has-text('Stop')").click()
    n.wait("() => document.querySelector('.nbllm-live').hidden")
    assert not n.dialogs
